/* SPDX-License-Identifier: Apache-2.0 */
/* key: one verification key, the JWS algorithms it may serve, and the check of a signature with it. Private
 * to auth. Includes neither json.h nor jansson.h: their names collide, and the file that reads key sets needs
 * the one while the file that reads tokens needs the other. */
#pragma once

#include <openssl/evp.h>

#include "syncgate/base.h"
#include "syncgate/err.h"

#define KEY_RSA_BITS_MIN 2048
#define KEY_SET_MAX      64 /* keys in one set; a token's key is found by walking them */

/* RFC 7518 section 3.1 and RFC 8037; the order is that of the table in key.c. */
enum key_alg {
    KEY_HS256,
    KEY_HS384,
    KEY_HS512,
    KEY_RS256,
    KEY_RS384,
    KEY_RS512,
    KEY_PS256,
    KEY_PS384,
    KEY_PS512,
    KEY_ES256,
    KEY_ES384,
    KEY_ES512,
    KEY_EDDSA,
    KEY_ALG_COUNT
};
#define KEY_BIT(alg)    (UINT32_C(1) << (alg))
#define KEY_ALGS_HS     (KEY_BIT(KEY_HS256) | KEY_BIT(KEY_HS384) | KEY_BIT(KEY_HS512))
#define KEY_ALGS_ALL    (KEY_BIT(KEY_ALG_COUNT) - 1)
#define KEY_ALGS_PUBLIC (KEY_ALGS_ALL & ~KEY_ALGS_HS)

struct key {
    EVP_PKEY *pkey; /* owned; NULL: a shared secret */
    char *secret;   /* owned */
    size_t secret_len;
    char *kid;     /* owned; NULL: none */
    uint32_t algs; /* bits of what it may verify: its type, its `alg` member and AUTH_ALGORITHMS agree */
    int rsa_bits;  /* 0: not RSA */
};
void key_fini(struct key *key);

/* The algorithm called `name` (case-sensitive, never `none`), or KEY_ALG_COUNT. */
enum key_alg key_alg_find(struct span name);
const char *key_alg_name(enum key_alg alg);
/* Bytes that a shared secret needs at least: as many as the hash has (RFC 7518 section 3.2). */
size_t key_alg_secret_min(enum key_alg alg);

/* Fills key->pkey (takes pkey), algs and rsa_bits by the kind of key. Returns NULL, or what is wrong with it
 * (static text; pkey is freed). */
const char *key_set_pkey(struct key *key, EVP_PKEY *pkey);

/* Does `signature` (decoded) sign the first signed_len bytes of `token`, whose header says `alg`? token is
 * NUL-terminated. ERR_OK, ERR_UNAUTHORIZED or ERR_NO_MEMORY. Thread: any. */
enum err_code key_verify(const struct key *key, enum key_alg alg, const char *token, size_t signed_len,
                         struct span signature) SG_NODISCARD;

/* Reads a JWK Set (RFC 7517) into `keys` (room for KEY_SET_MAX), leaving out what cannot verify under the
 * `allowed` algorithms. `place` opens the error texts. Returns the number of keys, or 0 with *err. */
size_t jwk_set_read(struct span text, const char *place, uint32_t allowed, struct key *keys, struct err *err);

/* RFC 4648 section 5 without padding, strict: no foreign bytes, unused bits are zero. `out` holds at least
 * text.len / 4 * 3 + 2 bytes. */
bool base64url_decode(struct span text, unsigned char *out, size_t *ret_len);
/* True if text is not empty and of the base64url alphabet; it may still be of no valid length. */
bool base64url_is(struct span text);
