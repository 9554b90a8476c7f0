/* SPDX-License-Identifier: Apache-2.0 */
#include "auth_fixture.h"

#include <jwt.h>
#include <openssl/err.h>

#define GOOD "{\"sub\":\"user-1\",\"exp\":1700000060}"

static EVP_PKEY *rsa, *rsa_other, *p256, *p384, *p521, *ed25519, *ed448;
static struct auth_settings hs256 = {.hs256_secret = FX_SECRET, .require_exp = true};

static int make_keys(void **state)
{
    (void)state;
    rsa = EVP_RSA_gen(2048);
    rsa_other = EVP_RSA_gen(2048);
    p256 = EVP_EC_gen("P-256");
    p384 = EVP_EC_gen("P-384");
    p521 = EVP_EC_gen("P-521");
    ed25519 = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    ed448 = EVP_PKEY_Q_keygen(NULL, NULL, "ED448");
    return !rsa || !rsa_other || !p256 || !p384 || !p521 || !ed25519 || !ed448;
}

static int free_keys(void **state)
{
    (void)state;
    EVP_PKEY *all[] = {rsa, rsa_other, p256, p384, p521, ed25519, ed448};
    for (size_t i = 0; i < SG_ARRAY_LEN(all); i++)
        EVP_PKEY_free(all[i]);
    return 0;
}

/* Every key under its own kid. */
static struct auth *auth_of_all(void)
{
    struct buf set = BUF_INIT;
    buf_append_lit(&set, "{\"keys\":[");
    fx_jwk(&set, rsa,
           ",\"kid\":\"rsa\",\"use\":\"sig\",\"key_ops\":[\"verify\"]},{\"kty\":\"oct\",\"k\":\"AAAA\"");
    buf_append_lit(&set, ",");
    fx_jwk(&set, rsa_other, ",\"kid\":\"ps\",\"alg\":\"PS256\"");
    buf_append_lit(&set, ",");
    fx_jwk(&set, p256, ",\"kid\":\"p256\",\"alg\":\"ES256\"");
    buf_append_lit(&set, ",");
    fx_jwk(&set, p384, ",\"kid\":\"p384\"");
    buf_append_lit(&set, ",");
    fx_jwk(&set, p521, ",\"kid\":\"p521\"");
    buf_append_lit(&set, ",");
    fx_jwk(&set, ed25519, ",\"kid\":\"ed\"");
    buf_append_lit(&set, ",");
    fx_jwk(&set, ed448, ",\"kid\":\"ed448\"");
    buf_append_lit(&set, "]}");
    struct auth *auth = fx_auth_jwks(buf_span(&set), 16);
    buf_fini(&set);
    return auth;
}

/* ---- signatures ---- */

static void test_every_algorithm(void **state)
{
    (void)state;
    const struct {
        const char *alg, *kid;
        EVP_PKEY *pkey;
        const char *outcome;
    } cases[] = {
        {"RS256", "rsa", rsa, "ok"},
        {"RS384", "rsa", rsa, "ok"},
        {"RS512", "rsa", rsa, "ok"},
        {"PS256", "rsa", rsa, "ok"},
        {"PS512", "rsa", rsa, "ok"},
        {"PS256", "ps", rsa_other, "ok"},
        {"ES256", "p256", p256, "ok"},
        {"ES384", "p384", p384, "ok"},
        {"ES512", "p521", p521, "ok"},
        {"EdDSA", "ed", ed25519, "ok"},
        {"EdDSA", "ed448", ed448, "ok"},
        {"RS256", "ps", rsa_other, "no key with its kid"}, /* the JWK's alg says PS256 */
        {"ES256", "p384", p384, "no key with its kid"},    /* a curve has one algorithm */
        {"ES384", "p256", p256, "no key with its kid"},
        {"RS256", "p256", rsa, "no key with its kid"},
        {"RS256", "rsa", rsa_other, "bad signature"},
        {"RS256", "gone", rsa, "no key with its kid"},
        {"RS256", "", rsa, "no key with its kid"},
        {"RS256", "r\\u0073a", rsa, "ok"}, /* the same kid, escaped */
        {"HS256", "rsa", NULL, "alg is not allowed"},
        {"RS256\\u0000", "rsa", rsa, "alg is not allowed"},
        {"rs256", "rsa", rsa, "alg is not allowed"},
        {"none", "rsa", rsa, "alg is not allowed"},
    };
    struct auth *auth = auth_of_all();
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char header[128];
        snprintf(header, sizeof(header), "{\"alg\":\"%s\",\"typ\":\"at+jwt\",\"kid\":\"%s\"}", cases[i].alg,
                 cases[i].kid);
        const char *reason = fx_verify_token(
            auth,
            &(struct fx_token){.alg = cases[i].alg, .header = header, .payload = GOOD, .pkey = cases[i].pkey},
            FX_NOW);
        if (strcmp(reason, cases[i].outcome) != 0)
            fail_msg("%s: %s instead of %s", header, reason, cases[i].outcome);
    }
    assert_int_equal(ERR_peek_error(), 0); /* refusals leave nothing for TLS to stumble over */
    auth_freep(&auth);
}

/* A second opinion on what a token looks like: libjwt signs, we verify. */
static void test_tokens_of_libjwt(void **state)
{
    (void)state;
    struct auth *public = auth_of_all(), *secret = fx_auth(&hs256, 4);
    const struct {
        jwt_alg_t alg;
        EVP_PKEY *pkey;
        const char *kid;
    } cases[] = {{JWT_ALG_HS256, NULL, "any"}, {JWT_ALG_RS256, rsa, "rsa"}, {JWT_ALG_ES256, p256, "p256"}};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        jwt_t *jwt;
        assert_int_equal(jwt_new(&jwt), 0);
        jwt_add_header(jwt, "kid", cases[i].kid);
        jwt_add_grant(jwt, "sub", "user-1");
        jwt_add_grant_int(jwt, "exp", FX_NOW + 60);
        char *key = cases[i].pkey ? fx_pem(cases[i].pkey, true) : strdup(FX_SECRET);
        assert_int_equal(jwt_set_alg(jwt, cases[i].alg, (unsigned char *)key, (int)strlen(key)), 0);
        char *token = jwt_encode_str(jwt), bearer[2048];
        assert_non_null(token);
        snprintf(bearer, sizeof(bearer), "Bearer %s", token);
        assert_string_equal(fx_verify(cases[i].pkey ? public : secret, bearer, FX_NOW), "ok");
        free(token);
        free(key);
        jwt_free(jwt);
    }
    auth_freep(&public);
    auth_freep(&secret);
}

/* The public key's text as an HMAC secret: the classic confusion of algorithms. */
static void test_algorithm_confusion(void **state)
{
    (void)state;
    char *pem = fx_pem(rsa, false);
    struct auth *auth = fx_auth(&(struct auth_settings){.public_key_path = pem}, 4);
    const struct fx_token forged = {.alg = "HS256", .payload = GOOD, .secret = pem};
    assert_string_equal(fx_verify_token(auth, &forged, FX_NOW), "alg is not allowed");
    assert_string_equal(
        fx_verify_token(auth, &(struct fx_token){.alg = "RS256", .payload = GOOD, .pkey = rsa}, FX_NOW),
        "ok");
    /* A single key has no name: any kid goes with it. */
    const struct fx_token named = {
        .alg = "RS256", .header = "{\"alg\":\"RS256\",\"kid\":\"x\"}", .payload = GOOD, .pkey = rsa};
    assert_string_equal(fx_verify_token(auth, &named, FX_NOW), "ok");
    auth_freep(&auth);
    auth = fx_auth(&hs256, 4);
    assert_string_equal(
        fx_verify_token(auth, &(struct fx_token){.alg = "RS256", .payload = GOOD, .pkey = rsa}, FX_NOW),
        "alg is not allowed");
    assert_string_equal(fx_verify_token(auth, &(struct fx_token){.alg = "HS512", .payload = GOOD}, FX_NOW),
                        "alg is not allowed");
    auth_freep(&auth);
    free(pem);
}

static void test_choice_without_kid(void **state)
{
    (void)state;
    struct buf one = BUF_INIT, two = BUF_INIT;
    buf_append_lit(&one, "{\"keys\":[");
    fx_jwk(&one, rsa, "");
    buf_append_lit(&one, ",");
    fx_jwk(&one, p256, ",\"kid\":\"b\"");
    buf_append_lit(&one, "]}");
    buf_append_lit(&two, "{\"keys\":[");
    fx_jwk(&two, rsa, ",\"kid\":\"a\"");
    buf_append_lit(&two, ",");
    fx_jwk(&two, rsa_other, ",\"kid\":\"a\"");
    buf_append_lit(&two, "]}");
    struct auth *auth_one = fx_auth_jwks(buf_span(&one), 4), *auth_two = fx_auth_jwks(buf_span(&two), 4);
    const struct fx_token plain = {.alg = "RS256", .payload = GOOD, .pkey = rsa};
    const struct fx_token named = {
        .alg = "RS256", .header = "{\"alg\":\"RS256\",\"kid\":\"a\"}", .payload = GOOD, .pkey = rsa};
    assert_string_equal(fx_verify_token(auth_one, &plain, FX_NOW), "ok");
    assert_string_equal(fx_verify_token(auth_one, &named, FX_NOW), "no key with its kid");
    assert_string_equal(fx_verify_token(auth_two, &plain, FX_NOW), "several keys fit");
    assert_string_equal(fx_verify_token(auth_two, &named, FX_NOW), "several keys fit");
    auth_freep(&auth_one);
    auth_freep(&auth_two);
    buf_fini(&one);
    buf_fini(&two);
}

/* Every single character of a token, changed: none of the results is accepted. */
static void test_tampering(void **state)
{
    (void)state;
    struct auth *verifiers[] = {fx_auth(&hs256, 0), auth_of_all(), auth_of_all()};
    const struct fx_token tokens[] = {
        {.alg = "HS256", .payload = GOOD},
        {.alg = "ES256", .header = "{\"alg\":\"ES256\",\"kid\":\"p256\"}", .payload = GOOD, .pkey = p256},
        {.alg = "RS256", .header = "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", .payload = GOOD, .pkey = rsa},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(tokens); i++) {
        char *bearer = fx_bearer(&tokens[i]);
        size_t len = strlen(bearer);
        assert_string_equal(fx_verify(verifiers[i], bearer, FX_NOW), "ok");
        for (size_t at = 7; at < len; at++) {
            char was = bearer[at];
            static const char changes[] = {'A', '-', '.', '=', '\0', '\xff'};
            for (size_t k = 0; k < sizeof(changes); k++) {
                if (changes[k] == was)
                    continue;
                bearer[at] = changes[k];
                assert_string_not_equal(fx_verify_span(verifiers[i], (struct span){bearer, len}, FX_NOW),
                                        "ok");
            }
            bearer[at] = was;
            assert_string_not_equal(fx_verify_span(verifiers[i], (struct span){bearer, at}, FX_NOW), "ok");
        }
        free(bearer);
        auth_freep(&verifiers[i]);
    }
}

/* r = s = 0 (CVE-2022-21449 elsewhere), wrong lengths, and no signature at all. */
static void test_degenerate_signatures(void **state)
{
    (void)state;
    struct auth *auth = auth_of_all();
    static const struct {
        const char *header;
        size_t len;
        const char *outcome;
    } cases[] = {
        {"{\"alg\":\"ES256\",\"kid\":\"p256\"}", 64, "bad signature"},
        {"{\"alg\":\"ES256\",\"kid\":\"p256\"}", 63, "bad signature"},
        {"{\"alg\":\"ES256\",\"kid\":\"p256\"}", 1, "bad signature"},
        {"{\"alg\":\"ES256\",\"kid\":\"p256\"}", 0, "not three parts of base64url"},
        {"{\"alg\":\"RS256\",\"kid\":\"rsa\"}", 256, "bad signature"},
        {"{\"alg\":\"RS256\",\"kid\":\"rsa\"}", 4096, "bad signature"},
        {"{\"alg\":\"EdDSA\",\"kid\":\"ed\"}", 64, "bad signature"},
        {"{\"alg\":\"none\"}", 0, "not three parts of base64url"},
        {"{\"alg\":\"none\"}", 1, "alg is not allowed"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static const unsigned char zeros[4096];
        struct buf bearer = BUF_INIT;
        buf_append_lit(&bearer, "Bearer ");
        fx_b64(&bearer, cases[i].header, strlen(cases[i].header));
        buf_append_lit(&bearer, ".");
        fx_b64(&bearer, GOOD, strlen(GOOD));
        buf_append_lit(&bearer, ".");
        fx_b64(&bearer, zeros, cases[i].len);
        assert_string_equal(fx_verify_span(auth, buf_span(&bearer), FX_NOW), cases[i].outcome);
        buf_fini(&bearer);
    }
    auth_freep(&auth);
}

/* A signature has one spelling: nothing behind it, and the unused bits of its last character are zero. */
static void test_one_spelling(void **state)
{
    (void)state;
    struct auth *auth = auth_of_all();
    const struct fx_token token = {
        .alg = "ES256", .header = "{\"alg\":\"ES256\",\"kid\":\"p256\"}", .payload = GOOD, .pkey = p256};
    char *bearer = fx_bearer(&token), longer[1024];
    snprintf(longer, sizeof(longer), "%sAA", bearer);
    assert_string_equal(fx_verify(auth, longer, FX_NOW), "bad signature");
    char *last = bearer + strlen(bearer) - 1; /* 2 of its 6 bits count: A, Q, g or w */
    (*last)++;
    assert_string_equal(fx_verify(auth, bearer, FX_NOW), "signature is not base64url");
    (*last)--;
    assert_string_equal(fx_verify(auth, bearer, FX_NOW), "ok");
    free(bearer);
    auth_freep(&auth);
}

/* ---- the header field and the protected header ---- */

static void test_authorization_field(void **state)
{
    (void)state;
    struct auth *auth = fx_auth(&hs256, 4);
    char *bearer = fx_bearer(&(struct fx_token){.alg = "HS256", .payload = GOOD});
    const char *token = bearer + 7;
    static const struct {
        const char *before, *after, *outcome;
    } cases[] = {
        {"Bearer ", "", "ok"},
        {"Bearer ", " ", "ok"},
        {"Bearer ", " y z", "ok"},
        {"bearer ", "", "no bearer token"},
        {"BEARER ", "", "no bearer token"},
        {"Bearer  ", "", "no bearer token"},
        {" Bearer ", "", "no bearer token"},
        {"Bearer\t", "", "no bearer token"},
        {"Bearer", "", "no bearer token"},
        {"", "", "no bearer token"},
        {"Basic ", "", "no bearer token"},
        {"Bearer \t", "", "not three parts of base64url"},
        {"Bearer ", "\t", "not three parts of base64url"},
        {"Bearer ", ".", "not three parts of base64url"},
        {"Bearer ", "=", "not three parts of base64url"},
        {"Bearer a.", "", "not three parts of base64url"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char value[512];
        snprintf(value, sizeof(value), "%s%s%s", cases[i].before, token, cases[i].after);
        assert_string_equal(fx_verify(auth, value, FX_NOW), cases[i].outcome);
    }
    assert_string_equal(fx_verify_span(auth, (struct span){NULL, 0}, FX_NOW), "no bearer token");
    assert_string_equal(fx_verify(auth, "Bearer", FX_NOW), "no bearer token");
    assert_string_equal(fx_verify(auth, "Bearer ", FX_NOW), "no bearer token");
    assert_string_equal(fx_verify(auth, "Bearer ..", FX_NOW), "not three parts of base64url");
    assert_string_equal(fx_verify_span(auth, (struct span){"Bearer \0", 8}, FX_NOW),
                        "not three parts of base64url");
    free(bearer);
    auth_freep(&auth);
}

static void test_protected_header(void **state)
{
    (void)state;
    static const struct {
        const char *header, *outcome;
    } cases[] = {
        {"{\"alg\":\"HS256\",\"typ\":\"JWT\"}", "ok"},
        {" {\"a\\u006cg\" : \"HS\\u003256\"} ", "ok"},
        {"{\"alg\":\"none\",\"alg\":\"HS256\"}", "ok"}, /* the last one counts, for libjwt too */
        {"{\"alg\":\"HS256\",\"alg\":\"none\"}", "alg is not allowed"},
        {"{\"alg\":\"\"}", "alg is not allowed"},
        {"{\"alg\":1}", "alg or kid is not a string"},
        {"{\"typ\":\"JWT\"}", "alg or kid is not a string"},
        {"{\"alg\":\"HS256\",\"kid\":1}", "alg or kid is not a string"},
        {"{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}", "crit is not supported"},
        {"[\"HS256\"]", "header is not a JSON object"},
        {"\"HS256\"", "header is not a JSON object"},
        {"{\"alg\":\"HS256\"", "header is not a JSON object"},
        {"{\"alg\":\"HS256\"}}", "header is not a JSON object"},
        {"\xff", "header is not a JSON object"},
    };
    struct auth *auth = fx_auth(&hs256, 4);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        const struct fx_token token = {.alg = "HS256", .header = cases[i].header, .payload = GOOD};
        const char *reason = fx_verify_token(auth, &token, FX_NOW);
        if (strcmp(reason, cases[i].outcome) != 0)
            fail_msg("%s: %s instead of %s", cases[i].header, reason, cases[i].outcome);
    }
    auth_freep(&auth);
}

static void test_token_length(void **state)
{
    (void)state;
    struct auth *auth = fx_auth(&hs256, 4);
    /* 12239 bytes of payload make a token of exactly 16 KiB: 20 + 1 + 16319 + 1 + 43 characters. */
    static const struct {
        int pad;
        const char *outcome;
    } cases[] = {{12202, "ok"}, {12203, "token is too long"}};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char payload[13000];
        snprintf(payload, sizeof(payload), "{\"sub\":\"u\",\"exp\":1700000060,\"pad\":\"%0*d\"}",
                 cases[i].pad, 0);
        char *bearer = fx_bearer(&(struct fx_token){.alg = "HS256", .payload = payload});
        assert_string_equal(fx_verify(auth, bearer, FX_NOW), cases[i].outcome);
        free(bearer);
    }
    struct buf exact = BUF_INIT;
    buf_append_lit(&exact, "Bearer ");
    for (size_t i = 0; i < 16384; i++)
        buf_append_char(&exact, 'a');
    assert_string_equal(fx_verify_span(auth, buf_span(&exact), FX_NOW), "not three parts of base64url");
    buf_append_char(&exact, 'a');
    assert_string_equal(fx_verify_span(auth, buf_span(&exact), FX_NOW), "token is too long");
    buf_fini(&exact);
    auth_freep(&auth);
}

/* ---- the payload ---- */

static void test_claims(void **state)
{
    (void)state;
#define IA "\"iss\":\"https://id\",\"aud\":\"hub\","
#define SE "\"sub\":\"u\",\"exp\":1700000060"
    static const struct {
        const char *payload, *outcome;
    } cases[] = {
        {"{" IA SE "}", "ok"},
        {"{\"iss\":\"https://id\",\"aud\":[1,\"other\",\"hub\"]," SE "}", "ok"},
        {"{\"iss\":\"https://id\",\"aud\":[\"other\",[\"hub\"],{\"hub\":\"hub\"}]," SE "}", "wrong audience"},
        {"{\"iss\":\"https://id\",\"aud\":[]," SE "}", "wrong audience"},
        {"{\"iss\":\"https://id\",\"aud\":\"hub2\"," SE "}", "wrong audience"},
        {"{\"iss\":\"https://id\"," SE "}", "wrong audience"},
        {"{\"iss\":\"https://id/\",\"aud\":\"hub\"," SE "}", "wrong issuer"},
        {"{\"iss\":[\"https://id\"],\"aud\":\"hub\"," SE "}", "wrong issuer"},
        {"{\"aud\":\"hub\"," SE "}", "wrong issuer"},
        {"{" IA "\"exp\":1700000060}", "no sub"},
        {"{" IA "\"sub\":1,\"exp\":1700000060}", "no sub"},
        {"{" IA "\"sub\":null,\"exp\":1700000060}", "no sub"},
        {"{" IA "\"sub\":\"\",\"exp\":1700000060}", "empty sub"},
        {"{" IA "\"sub\":\"u\"}", "no exp"},
        {"{" IA "\"sub\":\"u\",\"exp\":null}", "exp is not a number"},
        {"{" IA "\"sub\":\"u\",\"exp\":\"1700000060\"}", "exp is not a number"},
        {"{" IA "\"sub\":\"u\",\"exp\":1699999999}", "expired"},
        {"{" IA "\"sub\":\"u\",\"exp\":1700000000}", "expired"}, /* exactly now */
        {"{" IA "\"sub\":\"u\",\"exp\":1700000000.5}", "ok"},
        {"{" IA "\"sub\":\"u\",\"exp\":1700000001}", "ok"},
        {"{" IA "\"sub\":\"u\",\"exp\":0}", "expired"},
        {"{" IA "\"sub\":\"u\",\"exp\":-1e300}", "expired"},
        {"{" IA "\"sub\":\"u\",\"exp\":1e300}", "ok"},
        {"{" IA "\"sub\":\"u\",\"exp\":9223372036854775807}", "ok"},
        {"{" IA SE ",\"nbf\":1700000000}", "ok"},
        {"{" IA SE ",\"nbf\":1700000000.5}", "not valid yet"},
        {"{" IA SE ",\"nbf\":1700000001}", "not valid yet"},
        {"{" IA SE ",\"nbf\":1e300}", "not valid yet"},
        {"{" IA SE ",\"nbf\":-1e300}", "ok"},
        {"{" IA SE ",\"nbf\":true}", "nbf is not a number"},
        {"{" IA SE ",\"iat\":\"now\"}", "iat is not a number"},
        {"{" IA SE ",\"exp\":1}", "expired"}, /* the last one counts */
        {"[]", "payload is not a JSON object"},
        {"1", "payload is not a JSON object"},
        {"{" IA SE, "payload is not a JSON object"},
        {"{" IA SE ",\"x\":\"\xff\"}", "payload is not a JSON object"},
        {"{" IA SE ",\"x\":\"\\u0000\",\"y\":1e999}", "ok"}, /* libjwt 1.10 refuses these two */
    };
    struct auth_settings settings = {.issuer = "https://id", .audience = "hub", .require_exp = true};
    char *pem = fx_pem(p256, false);
    settings.public_key_path = pem;
    struct auth *auth = fx_auth(&settings, 4);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        const struct fx_token token = {.alg = "ES256", .payload = cases[i].payload, .pkey = p256};
        const char *reason = fx_verify_token(auth, &token, FX_NOW);
        if (strcmp(reason, cases[i].outcome) != 0)
            fail_msg("%s: %s instead of %s", cases[i].payload, reason, cases[i].outcome);
    }
    auth_freep(&auth);
    settings.require_exp = false;
    auth = fx_auth(&settings, 4);
    const struct fx_token eternal = {.alg = "ES256", .payload = "{" IA "\"sub\":\"u\"}", .pkey = p256};
    assert_string_equal(fx_verify_token(auth, &eternal, FX_NOW), "ok");
    const struct fx_token expired = {
        .alg = "ES256", .payload = "{" IA "\"sub\":\"u\",\"exp\":1}", .pkey = p256};
    assert_string_equal(fx_verify_token(auth, &expired, FX_NOW), "expired");
    auth_freep(&auth);
    free(pem);
}

static void test_principal(void **state)
{
    (void)state;
    static const struct {
        const char *payload, *subject;
        bool admin;
        int64_t exp_s;
    } cases[] = {
        {"{\"sub\":\"a\"}", "a", false, INT64_MAX},
        {"{\"sub\":\"\\u0430\\\"\",\"exp\":1700000000.25}", "\xd0\xb0\"", false, 1700000001},
        {"{\"sub\":\"a\",\"exp\":1e19,\"role\":[\"user\",\"admin\"]}", "a", true, INT64_MAX},
        {"{\"sub\":\"a\",\"realm_access\":{\"roles\":[\"adm\\u0069n\"]}}", "a", true, INT64_MAX},
        {"{\"sub\":\"a\",\"realm_access\":{\"roles\":[\"superadmin\"]},\"role\":[]}", "a", false, INT64_MAX},
        {"{\"sub\":\"a\",\"resource_access\":{\"roles\":[\"admin\"]},\"role\":\"admin\"}", "a", false,
         INT64_MAX},
        {"{\"sub\":\"a\",\"realm_access\":[\"admin\"],\"role\":{\"0\":\"admin\"}}", "a", false, INT64_MAX},
    };
    char *pem = fx_pem(p256, false);
    struct auth *auth = fx_auth(&(struct auth_settings){.public_key_path = pem}, 8);
    struct auth_principal *kept[SG_ARRAY_LEN(cases)];
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        const struct fx_token token = {.alg = "ES256", .payload = cases[i].payload, .pkey = p256};
        char *bearer = fx_bearer(&token);
        assert_int_equal(auth_verify(auth, span_of(bearer), FX_NOW, &kept[i], NULL), ERR_OK);
        free(bearer);
    }
    auth_freep(&auth); /* principals outlive their verifier and the header they came from */
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct auth_principal *principal = auth_principal_ref(kept[i]);
        auth_principal_unrefp(&principal);
        assert_true(span_eq(kept[i]->subject, span_of(cases[i].subject)));
        assert_int_equal(kept[i]->admin, cases[i].admin);
        assert_int_equal(kept[i]->exp_s, cases[i].exp_s);
        assert_int_equal(auth_principal_has_role(kept[i], SPAN_LIT("admin")), cases[i].admin);
        assert_int_equal(auth_principal_has_role(kept[i], SPAN_LIT("personal-user")), !cases[i].admin);
        assert_false(auth_principal_has_role(kept[i], SPAN_LIT("")));
        assert_true(
            span_eq(json_text(&kept[i]->claims, json_root(&kept[i]->claims)), span_of(cases[i].payload)));
        auth_principal_unrefp(&kept[i]);
        assert_null(kept[i]);
    }
    free(pem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_algorithm),
        cmocka_unit_test(test_tokens_of_libjwt),
        cmocka_unit_test(test_algorithm_confusion),
        cmocka_unit_test(test_choice_without_kid),
        cmocka_unit_test(test_tampering),
        cmocka_unit_test(test_degenerate_signatures),
        cmocka_unit_test(test_one_spelling),
        cmocka_unit_test(test_authorization_field),
        cmocka_unit_test(test_protected_header),
        cmocka_unit_test(test_token_length),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_principal),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
