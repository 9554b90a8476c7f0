/* SPDX-License-Identifier: Apache-2.0 */
/* auth: bearer token -> principal. A key set is immutable and shared between loops; a verifier belongs to one
 * loop and holds its bounded cache of verified tokens. Sole includer of jwt.h. Refuses `none`, HS* with a
 * public key, and every algorithm that is not on the allow-list. design.md section 3, legacy contract
 * section 2.
 *
 * Public keys (RS, PS and ES with 256, 384, 512; EdDSA) are checked by OpenSSL, shared secrets (HS*) by
 * libjwt: why is told in src/auth/key.c. As in the legacy backend: `kid` chooses in a JWK Set, several
 * fitting keys are refused, there is no leeway for clocks. Differences from it: `email` and `organization`
 * are not looked at here (a route's `auth.claims` schema does that); a token needs `exp` unless require_exp is off; RSA keys
 * below 2048 bits and a `crit` header are refused; base64url must be canonical; a plain string in `role`
 * gives no role; ES256K is not known. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/json.h"

struct auth_keys;
struct auth;

/* Exactly one of jwks_path, hs256_secret, public_key_path is set. All borrowed for the call only. */
struct auth_settings {
    const char *jwks_path;       /* file with a JWK Set (RFC 7517) */
    struct span jwks_text;       /* ptr not NULL: the set itself; jwks_path only names it in errors */
    const char *hs256_secret;    /* shared secret */
    const char *public_key_path; /* file with a PEM public key (RSA or EC), or the PEM text itself
                                    ("-----BEGIN ...") */
    const char *issuer;          /* NULL: not checked */
    const char *audience;        /* NULL: not checked; `aud` must equal or contain it */
    const char *algorithms;      /* NULL: by key type; else comma list, e.g. "RS256,ES256" */
    bool require_exp;
};

/* Returns owned (one reference), or NULL with *err naming the setting (AUTH_JWKS, ...) and what was expected.
 */
struct auth_keys *auth_keys_load(const struct auth_settings *settings, struct err *err);
struct auth_keys *auth_keys_ref(struct auth_keys *keys); /* Thread: any */
void auth_keys_unrefp(struct auth_keys **keys);          /* Thread: any */

/* A verified token. Owned by reference; immutable but for its count, which only its loop touches. */
struct auth_principal {
    uint32_t refs;          /* private */
    struct span subject;    /* `sub`, not empty */
    bool admin;             /* an element equal to "admin" in realm_access.roles or role (arrays) */
    struct json_doc claims; /* the whole payload */
    int64_t exp_s;          /* unix s; INT64_MAX when the token has none */
};
struct auth_principal *auth_principal_ref(struct auth_principal *principal);
void auth_principal_unrefp(struct auth_principal **principal);
/* Roles as the legacy backend sees them: {"admin"} or {"personal-user"}. */
bool auth_principal_has_role(const struct auth_principal *principal, struct span role);

/* A verifier for one loop with a cache of at most cache_max tokens (least recently used go first). takes no
 * reference: borrows keys and holds its own reference. Returns owned or NULL (out of memory). */
struct auth *auth_new(struct auth_keys *keys, size_t cache_max);
void auth_freep(struct auth **auth);
/* Another key set from now on; the cache is emptied. Thread: loop. */
void auth_set_keys(struct auth *auth, struct auth_keys *keys);

/* Verifies the value of an Authorization header the way the legacy backend reads it: split on single spaces,
 * part 0 exactly "Bearer", part 1 the token. ERR_OK with *ret_principal owned by the caller; ERR_UNAUTHORIZED
 * for every bad token (*ret_reason, static text for logs only: "expired", "bad signature", ...);
 * ERR_NO_MEMORY. A cached token costs one SHA-256; it stays cached until exp, at most 300 s. now_s: unix
 * seconds. Thread: loop. */
enum err_code auth_verify(struct auth *auth, struct span authorization, int64_t now_s,
                          struct auth_principal **ret_principal, const char **ret_reason) SG_NODISCARD;
/* The subject that a token claims, without any check of its signature or time: to keep a user on one path, never for a right.
 * Appends `sub` to ret_subject; false if there is none (then ret_subject may hold anything). doc and scratch are
 * working memory. Thread: loop. */
bool auth_peek_subject(struct span authorization, struct json_doc *doc, struct buf *scratch,
                       struct buf *ret_subject);
struct auth_stats {
    uint64_t cache_hits, verified, refused;
};
struct auth_stats auth_stats(const struct auth *auth);
