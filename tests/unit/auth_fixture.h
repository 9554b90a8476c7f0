/* SPDX-License-Identifier: Apache-2.0 */
/* Keys, key sets and tokens for the tests of auth, made with OpenSSL at run time. Independent of src/auth. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <cmocka.h>

#include "syncgate/auth.h"

#define FX_SECRET "0123456789abcdef0123456789abcdef"
#define FX_NOW    INT64_C(1700000000)

/* ---- base64url ---- */

static inline void fx_b64(struct buf *out, const void *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)p[i] << 16;
        if (i + 1 < len)
            bits |= (uint32_t)p[i + 1] << 8;
        if (i + 2 < len)
            bits |= p[i + 2];
        for (size_t k = 0; k < 4 && k < len - i + 1; k++)
            buf_append_char(out, digits[bits >> (18 - 6 * k) & 63]);
    }
}

/* ---- keys ---- */

static inline void fx_jwk_bn(struct buf *out, EVP_PKEY *pkey, const char *param, const char *member, int len)
{
    BIGNUM *bn = NULL;
    unsigned char bytes[1024];
    assert_int_equal(EVP_PKEY_get_bn_param(pkey, param, &bn), 1);
    int n = BN_bn2binpad(bn, bytes, len ? len : BN_num_bytes(bn));
    assert_true(n > 0);
    buf_printf(out, ",\"%s\":\"", member);
    fx_b64(out, bytes, (size_t)n);
    buf_append_lit(out, "\"");
    BN_free(bn);
}

/* Appends {"kty":...}; `more` is further members, starting with a comma. */
static inline void fx_jwk(struct buf *out, EVP_PKEY *pkey, const char *more)
{
    int bits = EVP_PKEY_get_bits(pkey), len = (bits + 7) / 8;
    unsigned char raw[64];
    size_t raw_len = sizeof(raw);
    switch (EVP_PKEY_get_base_id(pkey)) {
    case EVP_PKEY_RSA:
        buf_append_lit(out, "{\"kty\":\"RSA\"");
        fx_jwk_bn(out, pkey, OSSL_PKEY_PARAM_RSA_N, "n", 0);
        fx_jwk_bn(out, pkey, OSSL_PKEY_PARAM_RSA_E, "e", 0);
        break;
    case EVP_PKEY_EC:
        buf_printf(out, "{\"kty\":\"EC\",\"crv\":\"P-%d\"", bits);
        fx_jwk_bn(out, pkey, OSSL_PKEY_PARAM_EC_PUB_X, "x", len);
        fx_jwk_bn(out, pkey, OSSL_PKEY_PARAM_EC_PUB_Y, "y", len);
        break;
    default:
        assert_int_equal(EVP_PKEY_get_raw_public_key(pkey, raw, &raw_len), 1);
        buf_printf(out, "{\"kty\":\"OKP\",\"crv\":\"%s\",\"x\":\"", raw_len == 32 ? "Ed25519" : "Ed448");
        fx_b64(out, raw, raw_len);
        buf_append_lit(out, "\"");
    }
    buf_printf(out, "%s}", more);
}

/* Both NUL-terminated, owned by the caller. */
static inline char *fx_pem(EVP_PKEY *pkey, bool private)
{
    BIO *bio = BIO_new(BIO_s_mem());
    if (private)
        PEM_write_bio_PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL);
    else
        PEM_write_bio_PUBKEY(bio, pkey);
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    char *pem = span_dup((struct span){data, (size_t)len});
    BIO_free(bio);
    return pem;
}

/* ---- tokens ---- */

static inline void fx_ecdsa_raw(struct buf *out, EVP_PKEY *pkey, const unsigned char *der, size_t der_len)
{
    unsigned char raw[2 * 66];
    int len = (EVP_PKEY_get_bits(pkey) + 7) / 8;
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)der_len);
    assert_non_null(sig);
    BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, len);
    BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + len, len);
    fx_b64(out, raw, (size_t)len * 2);
    ECDSA_SIG_free(sig);
}

/* Appends the signature of text in base64url. alg names the hash and the scheme; the key may be of another
 * kind than alg says. pkey NULL: HMAC with `secret`. */
static inline void fx_sign(struct buf *out, const char *alg, struct span text, EVP_PKEY *pkey,
                           const char *secret)
{
    const EVP_MD *md = strstr(alg, "384") ? EVP_sha384() : strstr(alg, "512") ? EVP_sha512() : EVP_sha256();
    unsigned char sig[1024];
    size_t len = sizeof(sig);
    const unsigned char *data = (const unsigned char *)text.ptr;
    if (!pkey) {
        unsigned mac_len;
        HMAC(md, secret, (int)strlen(secret), data, text.len, sig, &mac_len);
        fx_b64(out, sig, mac_len);
        return;
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pctx;
    bool pure = alg[0] == 'E' && alg[1] == 'd';
    assert_int_equal(EVP_DigestSignInit(ctx, &pctx, pure ? NULL : md, NULL, pkey), 1);
    if (alg[0] == 'P') {
        assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING), 1);
        assert_int_equal(EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST), 1);
    }
    assert_int_equal(EVP_DigestSign(ctx, sig, &len, data, text.len), 1);
    EVP_MD_CTX_free(ctx);
    if (EVP_PKEY_get_base_id(pkey) == EVP_PKEY_EC)
        fx_ecdsa_raw(out, pkey, sig, len);
    else
        fx_b64(out, sig, len);
}

struct fx_token {
    const char *alg;    /* for signing */
    const char *header; /* NULL: {"alg":alg} */
    const char *payload;
    EVP_PKEY *pkey;     /* NULL: HMAC */
    const char *secret; /* NULL: FX_SECRET */
};

/* "Bearer <token>", NUL-terminated; owned by the caller. */
static inline char *fx_bearer(const struct fx_token *token)
{
    struct buf out = BUF_INIT, header = BUF_INIT;
    buf_printf(&header, "{\"alg\":\"%s\"}", token->alg);
    buf_append_lit(&out, "Bearer ");
    fx_b64(&out, token->header ? token->header : header.ptr,
           token->header ? strlen(token->header) : header.len);
    buf_append_char(&out, '.');
    fx_b64(&out, token->payload, strlen(token->payload));
    struct buf text = BUF_INIT;
    buf_append(&text, out.ptr + 7, out.len - 7);
    buf_append_char(&out, '.');
    fx_sign(&out, token->alg, buf_span(&text), token->pkey, token->secret ? token->secret : FX_SECRET);
    buf_append_char(&out, '\0');
    assert_true(buf_ok(&out));
    buf_fini(&text);
    buf_fini(&header);
    return out.ptr;
}

/* ---- verifiers ---- */

static inline struct auth *fx_auth(const struct auth_settings *settings, size_t cache_max)
{
    struct err err = {0};
    struct auth_keys *keys = auth_keys_load(settings, &err);
    if (!keys)
        fail_msg("%s", err.text);
    struct auth *auth = auth_new(keys, cache_max);
    assert_non_null(auth);
    auth_keys_unrefp(&keys);
    return auth;
}

/* A verifier for {"keys":[...]}. */
static inline struct auth *fx_auth_jwks(struct span jwks, size_t cache_max)
{
    return fx_auth(&(struct auth_settings){.jwks_path = "set.json", .jwks_text = jwks, .require_exp = true},
                   cache_max);
}

/* Verifies and drops the principal. Returns the reason, or "ok". */
static inline const char *fx_verify_span(struct auth *auth, struct span authorization, int64_t now_s)
{
    struct auth_principal *principal;
    const char *reason;
    enum err_code code = auth_verify(auth, authorization, now_s, &principal, &reason);
    if (code == ERR_OK) {
        assert_non_null(principal);
        assert_null(reason);
        auth_principal_unrefp(&principal);
        return "ok";
    }
    assert_int_equal(code, ERR_UNAUTHORIZED);
    assert_null(principal);
    assert_non_null(reason);
    return reason;
}

static inline const char *fx_verify(struct auth *auth, const char *authorization, int64_t now_s)
{
    return fx_verify_span(auth, span_of(authorization), now_s);
}

static inline const char *fx_verify_token(struct auth *auth, const struct fx_token *token, int64_t now_s)
{
    char *bearer = fx_bearer(token);
    const char *reason = fx_verify(auth, bearer, now_s);
    free(bearer);
    return reason;
}
