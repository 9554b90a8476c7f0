/* SPDX-License-Identifier: Apache-2.0 */
/* Every algorithm has exactly one verifier. HS* is libjwt's. Public keys are OpenSSL's directly, for
 * libjwt 1.x
 * - parses the key's PEM anew for each token: 20 times the time, on a thread that must not stall;
 * - knows neither PS* nor EdDSA;
 * - refuses in 1.10 (Debian 12) tokens whose `typ` is not JWT, such as the at+jwt of RFC 9068, and reads the
 * token with a JSON parser that refuses what ours accepts, before it looks at the signature. All of these
 * tokens are accepted by the legacy backend, which takes public keys only.
 *
 * Nobody reaches a verifier with an algorithm that is not among the key's own: key_verify() asserts it. */
#include "key.h"

#include <errno.h>
#include <limits.h>

#include <jwt.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/objects.h>
#include <openssl/rsa.h>

static const struct alg_info {
    const char *name;
    const EVP_MD *(*md)(void); /* NULL: the signature scheme has its own */
    bool pss;
    int ec_nid;    /* 0: not ECDSA */
    size_t ec_len; /* bytes of r, and of s */
    jwt_alg_t jwt_alg;
    size_t secret_min;
} alg_table[KEY_ALG_COUNT] = {
    [KEY_HS256] = {"HS256", EVP_sha256, .jwt_alg = JWT_ALG_HS256, .secret_min = 32},
    [KEY_HS384] = {"HS384", EVP_sha384, .jwt_alg = JWT_ALG_HS384, .secret_min = 48},
    [KEY_HS512] = {"HS512", EVP_sha512, .jwt_alg = JWT_ALG_HS512, .secret_min = 64},
    [KEY_RS256] = {"RS256", EVP_sha256},
    [KEY_RS384] = {"RS384", EVP_sha384},
    [KEY_RS512] = {"RS512", EVP_sha512},
    [KEY_PS256] = {"PS256", EVP_sha256, .pss = true},
    [KEY_PS384] = {"PS384", EVP_sha384, .pss = true},
    [KEY_PS512] = {"PS512", EVP_sha512, .pss = true},
    [KEY_ES256] = {"ES256", EVP_sha256, .ec_nid = NID_X9_62_prime256v1, .ec_len = 32},
    [KEY_ES384] = {"ES384", EVP_sha384, .ec_nid = NID_secp384r1, .ec_len = 48},
    [KEY_ES512] = {"ES512", EVP_sha512, .ec_nid = NID_secp521r1, .ec_len = 66},
    [KEY_EDDSA] = {"EdDSA", NULL},
};
#define EC_LEN_MAX 66

enum key_alg key_alg_find(struct span name)
{
    for (int alg = 0; alg < KEY_ALG_COUNT; alg++)
        if (span_eq(name, span_of(alg_table[alg].name)))
            return (enum key_alg)alg;
    return KEY_ALG_COUNT;
}

const char *key_alg_name(enum key_alg alg)
{
    return alg_table[alg].name;
}

size_t key_alg_secret_min(enum key_alg alg)
{
    return alg_table[alg].secret_min;
}

void key_fini(struct key *key)
{
    EVP_PKEY_free(key->pkey);
    if (key->secret)
        OPENSSL_cleanse(key->secret, key->secret_len);
    free(key->secret);
    free(key->kid);
    *key = (struct key){0};
}

/* ---- what a key may verify ---- */

static uint32_t ec_algs(EVP_PKEY *pkey)
{
    char group[64];
    size_t len;
    if (!EVP_PKEY_get_group_name(pkey, group, sizeof(group), &len))
        return 0;
    int nid = OBJ_sn2nid(group);
    if (nid == NID_undef)
        nid = EC_curve_nist2nid(group);
    for (int alg = KEY_ES256; nid != NID_undef && alg <= KEY_ES512; alg++)
        if (alg_table[alg].ec_nid == nid)
            return KEY_BIT(alg);
    return 0;
}

/* Is the public part what it claims to be: a point of the curve, an odd exponent above 1 (1 verifies
 * anything)? */
static bool pkey_is_sound(EVP_PKEY *pkey)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(pkey, NULL);
    bool sound = ctx && EVP_PKEY_public_check(ctx) == 1;
    EVP_PKEY_CTX_free(ctx);
    return sound;
}

const char *key_set_pkey(struct key *key, EVP_PKEY *pkey)
{
    const char *why = NULL;
    switch (EVP_PKEY_get_base_id(pkey)) {
    case EVP_PKEY_RSA:
        key->algs = KEY_ALGS_PUBLIC & (KEY_BIT(KEY_ES256) - 1);
        key->rsa_bits = EVP_PKEY_get_bits(pkey);
        break;
    case EVP_PKEY_EC:
        key->algs = ec_algs(pkey);
        if (!key->algs)
            why = "its curve is none of P-256, P-384 and P-521";
        break;
    case EVP_PKEY_ED25519:
    case EVP_PKEY_ED448:
        key->algs = KEY_BIT(KEY_EDDSA);
        break;
    default:
        why = "it is neither RSA, EC, Ed25519 nor Ed448";
    }
    /* A short modulus is reported as such by the caller, whether it is sound or not. */
    if (!why && (!key->rsa_bits || key->rsa_bits >= KEY_RSA_BITS_MIN) && !pkey_is_sound(pkey))
        why = "it is not a valid public key";
    if (why) {
        EVP_PKEY_free(pkey);
        key->algs = 0;
        key->rsa_bits = 0;
        return why;
    }
    key->pkey = pkey;
    return NULL;
}

/* ---- signatures ---- */

static enum err_code verify_secret(const struct key *key, enum key_alg alg, const char *token)
{
    jwt_t *jwt = NULL;
    SG_ASSERT(key->secret_len <= INT_MAX);
    int rc = jwt_decode(&jwt, token, (const unsigned char *)key->secret, (int)key->secret_len);
    if (rc == 0 && jwt_get_alg(jwt) != alg_table[alg].jwt_alg)
        rc = EINVAL;
    jwt_free(jwt);
    if (rc == ENOMEM)
        return ERR_NO_MEMORY;
    return rc == 0 ? ERR_OK : ERR_UNAUTHORIZED;
}

/* RFC 7518 section 3.4: a JWS carries r and s side by side, OpenSSL wants them in DER. Returns the length of
 * the DER in `der`, 0 when the signature has the wrong length, -1 without memory. */
#define EC_DER_MAX (2 * (EC_LEN_MAX + 3) + 3)
static int ec_signature_to_der(struct span raw, size_t ec_len, unsigned char der[EC_DER_MAX])
{
    if (raw.len != 2 * ec_len)
        return 0;
    const unsigned char *bytes = (const unsigned char *)raw.ptr;
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(bytes, (int)ec_len, NULL), *s = BN_bin2bn(bytes + ec_len, (int)ec_len, NULL);
    if (!sig || !r || !s || !ECDSA_SIG_set0(sig, r, s)) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(sig);
        return -1;
    }
    int len = i2d_ECDSA_SIG(sig, &(unsigned char *){der});
    ECDSA_SIG_free(sig);
    return len;
}

static bool verify_init(EVP_MD_CTX *ctx, const struct alg_info *info, EVP_PKEY *pkey)
{
    EVP_PKEY_CTX *pkey_ctx; /* owned by ctx */
    if (EVP_DigestVerifyInit(ctx, &pkey_ctx, info->md ? info->md() : NULL, NULL, pkey) != 1)
        return false;
    return !info->pss || (EVP_PKEY_CTX_set_rsa_padding(pkey_ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
                          EVP_PKEY_CTX_set_rsa_pss_saltlen(pkey_ctx, RSA_PSS_SALTLEN_DIGEST) == 1);
}

static enum err_code verify_public(const struct key *key, enum key_alg alg, struct span text,
                                   struct span signature)
{
    const struct alg_info *info = &alg_table[alg];
    unsigned char der[EC_DER_MAX];
    if (info->ec_nid) {
        int len = ec_signature_to_der(signature, info->ec_len, der);
        if (len <= 0)
            return len < 0 ? ERR_NO_MEMORY : ERR_UNAUTHORIZED;
        signature = (struct span){(const char *)der, (size_t)len};
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx)
        return ERR_NO_MEMORY;
    /* A refusal must not stay in this thread's error queue: TLS on the same thread would take it for its own.
     */
    ERR_set_mark();
    enum err_code code = ERR_UNAUTHORIZED;
    if (verify_init(ctx, info, key->pkey) &&
        EVP_DigestVerify(ctx, (const unsigned char *)signature.ptr, signature.len,
                         (const unsigned char *)text.ptr, text.len) == 1)
        code = ERR_OK;
    else if (ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE)
        code = ERR_NO_MEMORY;
    ERR_pop_to_mark();
    EVP_MD_CTX_free(ctx);
    return code;
}

enum err_code key_verify(const struct key *key, enum key_alg alg, const char *token, size_t signed_len,
                         struct span signature)
{
    SG_ASSERT(key->algs & KEY_BIT(alg));
    SG_ASSERT(!key->pkey == !!(KEY_BIT(alg) & KEY_ALGS_HS));
    if (!key->pkey)
        return verify_secret(key, alg, token);
    return verify_public(key, alg, (struct span){token, signed_len}, signature);
}
