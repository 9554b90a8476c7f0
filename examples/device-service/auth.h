/* SPDX-License-Identifier: Apache-2.0 */
/* auth: the bearer token of a REST call -> who calls. With a shared secret only HS*, with a public key only
 * RS* and ES*: a token never chooses how it is checked. Thread: any. */
#pragma once

#include <stdbool.h>

struct auth_key {
    char *text; /* the secret, or the PEM; NULL: every token is refused */
    bool is_public;
};

struct auth_user {
    char *sub; /* owned */
    bool is_admin;
};

/* Takes apart and verifies an Authorization header (NULL: none). On true, ret_user->sub is the caller's to
 * free. */
bool auth_user_from(const struct auth_key *key, const char *authorization, struct auth_user *ret_user);
