/* SPDX-License-Identifier: Apache-2.0 */
/* JWK Set (RFC 7517) -> keys. Read at start and when a set is replaced, never for a token. */
#include "key.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>

#include <jansson.h>

#define EC_COORD_MAX   66
#define RSA_MEMBER_MAX 4096 /* characters of `n`: 24 Kibit */

static struct span member_string(const json_t *jwk, const char *name)
{
    const json_t *value = json_object_get(jwk, name);
    return (struct span){json_string_value(value), json_string_length(value)};
}

static EVP_PKEY *pkey_from_params(const char *type, OSSL_PARAM_BLD *bld)
{
    EVP_PKEY *pkey = NULL;
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(bld);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    if (params && ctx && EVP_PKEY_fromdata_init(ctx) == 1)
        EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params);
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    return pkey;
}

static BIGNUM *member_bignum(const json_t *jwk, const char *name)
{
    unsigned char bytes[RSA_MEMBER_MAX];
    struct span text = member_string(jwk, name);
    size_t len;
    if (text.len == 0 || text.len > RSA_MEMBER_MAX || !base64url_decode(text, bytes, &len))
        return NULL;
    return BN_bin2bn(bytes, (int)len, NULL);
}

static EVP_PKEY *rsa_pkey(const json_t *jwk)
{
    EVP_PKEY *pkey = NULL;
    BIGNUM *n = member_bignum(jwk, "n"), *e = member_bignum(jwk, "e");
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    if (n && e && bld && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, n) &&
        OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_E, e))
        pkey = pkey_from_params("RSA", bld);
    OSSL_PARAM_BLD_free(bld);
    BN_free(n);
    BN_free(e);
    return pkey;
}

/* RFC 7518 section 6.2.1: both coordinates have the full length of the curve's field. */
static bool member_coord(const json_t *jwk, const char *name, unsigned char *out, size_t coord_len)
{
    unsigned char bytes[EC_COORD_MAX + 4];
    struct span text = member_string(jwk, name);
    size_t len;
    if (text.len > (EC_COORD_MAX * 4 + 2) / 3 || !base64url_decode(text, bytes, &len) || len != coord_len)
        return false;
    memcpy(out, bytes, len);
    return true;
}

static EVP_PKEY *ec_pkey(const json_t *jwk, const char *curve, size_t coord_len)
{
    unsigned char point[1 + 2 * EC_COORD_MAX] = {4}; /* uncompressed, SEC 1 section 2.3.3 */
    EVP_PKEY *pkey = NULL;
    if (!member_coord(jwk, "x", point + 1, coord_len) ||
        !member_coord(jwk, "y", point + 1 + coord_len, coord_len))
        return NULL;
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    if (bld && OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME, curve, 0) &&
        OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * coord_len))
        pkey = pkey_from_params("EC", bld);
    OSSL_PARAM_BLD_free(bld);
    return pkey;
}

static EVP_PKEY *okp_pkey(const json_t *jwk, int type, size_t len)
{
    unsigned char bytes[EC_COORD_MAX];
    return member_coord(jwk, "x", bytes, len) ? EVP_PKEY_new_raw_public_key(type, NULL, bytes, len) : NULL;
}

/* Returns owned, or NULL with *ret_why. */
static EVP_PKEY *jwk_pkey(const json_t *jwk, const char **ret_why)
{
    static const struct {
        const char *kty, *crv;
        size_t coord_len;
        int okp_type;
    } curves[] = {
        {"EC", "P-256", 32, 0},
        {"EC", "P-384", 48, 0},
        {"EC", "P-521", 66, 0},
        {"OKP", "Ed25519", 32, EVP_PKEY_ED25519},
        {"OKP", "Ed448", 57, EVP_PKEY_ED448},
    };
    struct span kty = member_string(jwk, "kty"), crv = member_string(jwk, "crv");
    *ret_why = "its members do not form a public key";
    if (span_eq(kty, SPAN_LIT("RSA")))
        return rsa_pkey(jwk);
    for (size_t i = 0; i < SG_ARRAY_LEN(curves); i++) {
        if (!span_eq(kty, span_of(curves[i].kty)) || !span_eq(crv, span_of(curves[i].crv)))
            continue;
        if (curves[i].okp_type)
            return okp_pkey(jwk, curves[i].okp_type, curves[i].coord_len);
        return ec_pkey(jwk, curves[i].crv, curves[i].coord_len);
    }
    *ret_why = "\"kty\" and \"crv\" name no supported kind of public key";
    return NULL;
}

/* RFC 7517 sections 4.2 and 4.3: is the key meant for checking signatures? */
static bool jwk_is_for_verifying(const json_t *jwk)
{
    const json_t *use = json_object_get(jwk, "use"), *ops = json_object_get(jwk, "key_ops"), *op;
    size_t i;
    if (use && !span_eq(member_string(jwk, "use"), SPAN_LIT("sig")))
        return false;
    if (!ops)
        return true;
    json_array_foreach(ops, i, op) if (json_is_string(op) &&
                                       strcmp(json_string_value(op), "verify") == 0) return true;
    return false;
}

/* Fills *ret_key and returns NULL, or returns why the key is left out. */
static const char *jwk_read(const json_t *jwk, uint32_t allowed, struct key *ret_key)
{
    *ret_key = (struct key){0};
    if (!json_is_object(jwk))
        return "it is not an object";
    if (!jwk_is_for_verifying(jwk))
        return "\"use\" or \"key_ops\" is not for verifying signatures";
    if (json_object_get(jwk, "alg")) {
        enum key_alg alg = key_alg_find(member_string(jwk, "alg"));
        if (alg == KEY_ALG_COUNT)
            return "its \"alg\" is not a known signature algorithm";
        allowed &= KEY_BIT(alg);
    }
    const json_t *kid = json_object_get(jwk, "kid");
    if (kid && !json_is_string(kid))
        return "its \"kid\" is not a string";
    const char *why;
    EVP_PKEY *pkey = jwk_pkey(jwk, &why);
    if (!pkey)
        return why;
    why = key_set_pkey(ret_key, pkey);
    if (!why && !(ret_key->algs &= allowed))
        why = "its type, its \"alg\" and AUTH_ALGORITHMS leave no algorithm";
    if (!why && kid && !(ret_key->kid = strdup(json_string_value(kid))))
        why = "out of memory";
    if (why)
        key_fini(ret_key);
    return why;
}

static size_t jwk_array_read(const json_t *array, const char *place, uint32_t allowed, struct key *keys,
                             struct err *err)
{
    const json_t *jwk;
    const char *last_why = NULL;
    size_t i, count = 0, last = 0;
    json_array_foreach(array, i, jwk)
    {
        struct key key;
        const char *why = jwk_read(jwk, allowed, &key);
        if (why) {
            last_why = why;
            last = i;
            continue;
        }
        if (count == KEY_SET_MAX || (key.rsa_bits && key.rsa_bits < KEY_RSA_BITS_MIN)) {
            if (count == KEY_SET_MAX)
                err_set(err, ERR_CONFIG, "%s: expected at most %d usable keys", place, KEY_SET_MAX);
            else
                err_set(err, ERR_CONFIG, "%s: keys[%zu]: expected an RSA key of at least %d bits, found %d",
                        place, i, KEY_RSA_BITS_MIN, key.rsa_bits);
            key_fini(&key);
            while (count)
                key_fini(&keys[--count]);
            return 0;
        }
        keys[count++] = key;
    }
    if (!count && last_why)
        err_set(err, ERR_CONFIG, "%s: none of its keys can verify a token; keys[%zu]: %s", place, last,
                last_why);
    else if (!count)
        err_set(err, ERR_CONFIG, "%s: expected at least one key, found an empty \"keys\"", place);
    return count;
}

size_t jwk_set_read(struct span text, const char *place, uint32_t allowed, struct key *keys, struct err *err)
{
    json_error_t error;
    size_t count = 0;
    json_t *root = json_loadb(text.ptr ? text.ptr : "", text.len, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        err_set(err, ERR_CONFIG, "%s: line %d: expected a JWK Set in JSON: %s", place, error.line,
                error.text);
        return 0;
    }
    const json_t *array = json_object_get(root, "keys");
    if (!json_is_array(array))
        err_set(err, ERR_CONFIG, "%s: expected an object with an array \"keys\" (RFC 7517)", place);
    else
        count = jwk_array_read(array, place, allowed, keys, err);
    json_decref(root);
    ERR_clear_error();
    return count;
}
