/* SPDX-License-Identifier: Apache-2.0 */
/* keys: what struct auth_keys holds. Private to auth; immutable after auth_keys_load() but for the count. */
#pragma once

#include <stdatomic.h>

#include "key.h"
#include "syncgate/auth.h"

struct auth_keys {
    atomic_uint refs;
    size_t count;
    struct key *keys; /* owned, `count` of them */
    uint32_t algs;    /* union of what they may verify */
    bool by_kid;      /* a JWK Set: a token's `kid` chooses; otherwise there is one key without a name */
    char *issuer;     /* owned; NULL: not checked */
    char *audience;   /* owned; NULL: not checked */
    bool require_exp;
};

/* The one key for a token whose header says alg and kid (kid.ptr NULL: none), or NULL with *ret_reason. */
const struct key *keys_choose(const struct auth_keys *keys, enum key_alg alg, struct span kid,
                              const char **ret_reason);
