/* SPDX-License-Identifier: Apache-2.0 */
/* What auth_keys_load() accepts and what it says otherwise; the cache; sharing a key set between threads. */
#include "auth_fixture.h"

#include <pthread.h>

#define GOOD "{\"sub\":\"user-1\",\"exp\":1700000060}"

static EVP_PKEY *rsa, *rsa_weak, *p256, *k256;
static struct auth_settings hs256 = {.hs256_secret = FX_SECRET, .require_exp = true};

static int make_keys(void **state)
{
    (void)state;
    rsa = EVP_RSA_gen(2048);
    rsa_weak = EVP_RSA_gen(1024);
    p256 = EVP_EC_gen("P-256");
    k256 = EVP_EC_gen("secp256k1");
    return !rsa || !rsa_weak || !p256 || !k256;
}

static int free_keys(void **state)
{
    (void)state;
    EVP_PKEY *all[] = {rsa, rsa_weak, p256, k256};
    for (size_t i = 0; i < SG_ARRAY_LEN(all); i++)
        EVP_PKEY_free(all[i]);
    return 0;
}

/* ---- loading ---- */

/* expected NULL: loads. Otherwise the error text must contain it. */
static void check_load(const struct auth_settings *settings, const char *expected)
{
    struct err err = {0};
    struct auth_keys *keys = auth_keys_load(settings, &err);
    if (!!keys == !!expected || (expected && !strstr(err.text, expected)))
        fail_msg("expected \"%s\", got \"%s\"", expected ? expected : "keys", keys ? "keys" : err.text);
    if (!keys)
        assert_int_equal(err.code, ERR_CONFIG);
    auth_keys_unrefp(&keys);
}

static void test_sources(void **state)
{
    (void)state;
    char *pem = fx_pem(p256, false), *private = fx_pem(p256, true), *weak = fx_pem(rsa_weak, false);
    char *koblitz = fx_pem(k256, false), *rsa_pem = fx_pem(rsa, false);
    char long_secret[5000];
    memset(long_secret, 'x', sizeof(long_secret) - 1);
    long_secret[sizeof(long_secret) - 1] = '\0';
    const struct {
        struct auth_settings settings;
        const char *expected;
    } cases[] = {
        {{0}, "expected exactly one of AUTH_JWKS, AUTH_HS256_SECRET and AUTH_PUBLIC_KEY to be set, found 0"},
        {{.hs256_secret = FX_SECRET, .public_key_path = pem}, "found 2"},
        {{.hs256_secret = FX_SECRET}, NULL},
        {{.hs256_secret = "0123456789abcdef0123456789abcde"},
         "AUTH_HS256_SECRET: expected at least 32 bytes for HS256, found 31"},
        {{.hs256_secret = ""}, "found 0"},
        {{.hs256_secret = long_secret}, "expected at most 4096 bytes"},
        {{.hs256_secret = FX_SECRET, .algorithms = "HS512"},
         "expected at least 64 bytes for HS512, found 32"},
        {{.hs256_secret = FX_SECRET FX_SECRET, .algorithms = "HS256, HS384 ,HS512"}, NULL},
        {{.hs256_secret = FX_SECRET, .algorithms = "RS256"},
         "AUTH_ALGORITHMS: RS256 needs a public key and is never accepted with AUTH_HS256_SECRET"},
        {{.hs256_secret = FX_SECRET, .algorithms = "HS256,none"},
         "AUTH_ALGORITHMS: \"none\" cannot be allowed"},
        {{.hs256_secret = FX_SECRET, .algorithms = "HS256,NONE"},
         "AUTH_ALGORITHMS: \"none\" cannot be allowed"},
        {{.hs256_secret = FX_SECRET, .algorithms = ""}, "AUTH_ALGORITHMS: expected a comma list"},
        {{.hs256_secret = FX_SECRET, .algorithms = "HS256,"}, "found \"\""},
        {{.hs256_secret = FX_SECRET, .algorithms = "hs256"}, "found \"hs256\""},
        {{.public_key_path = pem}, NULL},
        {{.public_key_path = rsa_pem, .algorithms = "RS256,PS256"}, NULL},
        {{.public_key_path = pem, .algorithms = "ES256,HS256"},
         "AUTH_ALGORITHMS: HS256 needs a shared secret and is never accepted with AUTH_PUBLIC_KEY"},
        {{.public_key_path = pem, .algorithms = "RS256"}, "AUTH_ALGORITHMS: none of those listed fits"},
        {{.public_key_path = private}, "AUTH_PUBLIC_KEY: expected the PEM of a public key"},
        {{.public_key_path = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"},
         "AUTH_PUBLIC_KEY: expected the PEM of a public key"},
        {{.public_key_path = weak}, "AUTH_PUBLIC_KEY: expected an RSA key of at least 2048 bits, found 1024"},
        {{.public_key_path = koblitz}, "its curve is none of P-256, P-384 and P-521"},
        {{.public_key_path = "/nonexistent/key.pem"},
         "AUTH_PUBLIC_KEY: /nonexistent/key.pem: expected a readable file"},
        {{.jwks_path = "/nonexistent/set.json"},
         "AUTH_JWKS: /nonexistent/set.json: expected a readable file"},
        {{.jwks_path = "/nonexistent/set.json", .algorithms = "RS256,HS256"},
         "AUTH_ALGORITHMS: HS256 needs a shared secret and is never accepted with AUTH_JWKS"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        check_load(&cases[i].settings, cases[i].expected);
    char *all[] = {pem, private, weak, koblitz, rsa_pem};
    for (size_t i = 0; i < SG_ARRAY_LEN(all); i++)
        free(all[i]);
}

static void test_key_set_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", "AUTH_JWKS: set.json: line 1: expected a JWK Set in JSON"},
        {"{\"keys\":[", "expected a JWK Set in JSON"},
        {"{\"keys\":[],\"keys\":[]}", "duplicate"},
        {"[]", "AUTH_JWKS: set.json: expected an object with an array \"keys\""},
        {"{\"keys\":{}}", "expected an object with an array \"keys\""},
        {"{\"keys\":[]}", "AUTH_JWKS: set.json: expected at least one key"},
        {"{\"keys\":[1]}", "keys[0]: it is not an object"},
        {"{\"keys\":[{}]}", "AUTH_JWKS: set.json: none of its keys can verify a token; keys[0]: \"kty\""},
        {"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", "keys[0]: \"kty\" and \"crv\" name no supported"},
        {"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"secp256k1\"}]}", "name no supported"},
        {"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"Ed25519\",\"x\":\"\"}]}", "name no supported"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"use\":\"enc\"}]}", "\"use\" or \"key_ops\""},
        {"{\"keys\":[{\"kty\":\"RSA\",\"use\":1}]}", "\"use\" or \"key_ops\""},
        {"{\"keys\":[{\"kty\":\"RSA\",\"key_ops\":[\"encrypt\"]}]}", "\"use\" or \"key_ops\""},
        {"{\"keys\":[{\"kty\":\"RSA\",\"alg\":\"RSA-OAEP\"}]}",
         "its \"alg\" is not a known signature algorithm"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"alg\":\"none\"}]}", "its \"alg\" is not a known signature algorithm"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"kid\":7}]}", "its \"kid\" is not a string"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"\",\"e\":\"AQAB\"}]}", "its members do not form a public key"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"!!\",\"e\":\"AQAB\"}]}",
         "its members do not form a public key"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"ALk\"}]}", "its members do not form a public key"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"ALk\",\"e\":\"AQAB\"}]}",
         "expected an RSA key of at least 2048 bits"},
        {"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}]}",
         "do not form a public key"},
        {"{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\"}]}", "do not form a public key"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        check_load(&(struct auth_settings){.jwks_path = "set.json", .jwks_text = span_of(cases[i].text)},
                   cases[i].expected);
}

/* One usable key next to what must be left out; a weak one is an error even there. */
static void check_set(EVP_PKEY *pkey, const char *more, const char *beside, const char *algorithms,
                      const char *expected)
{
    struct buf set = BUF_INIT;
    buf_printf(&set, "{\"keys\":[%s", beside);
    fx_jwk(&set, pkey, more);
    buf_append_lit(&set, "]}");
    check_load(&(struct auth_settings){.jwks_path = "set.json",
                                       .jwks_text = buf_span(&set),
                                       .algorithms = algorithms},
               expected);
    buf_fini(&set);
}

static void test_key_sets(void **state)
{
    (void)state;
    check_set(rsa, "", "{\"kty\":\"oct\"},null,{\"kty\":\"RSA\",\"use\":\"enc\"},", NULL, NULL);
    check_set(rsa, ",\"alg\":\"RS512\"", "", "RS256,RS512", NULL);
    check_set(rsa, ",\"alg\":\"RS512\"", "", "RS256", "AUTH_ALGORITHMS leave no algorithm");
    check_set(rsa, ",\"alg\":\"ES256\"", "", NULL, "leave no algorithm");
    check_set(rsa, ",\"alg\":\"HS256\"", "", NULL, "leave no algorithm");
    check_set(p256, "", "", "RS256", "leave no algorithm");
    check_set(rsa, ",\"use\":\"enc\"", "", NULL, "none of its keys can verify a token");
    check_set(rsa_weak, "", "", NULL,
              "AUTH_JWKS: set.json: keys[0]: expected an RSA key of at least 2048 bits, found 1024");
    check_set(rsa_weak, ",\"use\":\"enc\"", "", NULL, "none of its keys can verify a token");
    /* The exponent 1 makes every text its own signature. */
    struct buf set = BUF_INIT;
    buf_append_lit(&set, "{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQ\"");
    fx_jwk_bn(&set, rsa, OSSL_PKEY_PARAM_RSA_N, "n", 0);
    buf_append_lit(&set, "}]}");
    check_load(&(struct auth_settings){.jwks_path = "set.json", .jwks_text = buf_span(&set)},
               "not a valid public key");
    /* A point that is not on the curve. */
    buf_clear(&set);
    buf_append_lit(&set, "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\"");
    fx_jwk_bn(&set, p256, OSSL_PKEY_PARAM_EC_PUB_X, "x", 32);
    fx_jwk_bn(&set, p256, OSSL_PKEY_PARAM_EC_PUB_X, "y", 32);
    buf_append_lit(&set, "}]}");
    check_load(&(struct auth_settings){.jwks_path = "set.json", .jwks_text = buf_span(&set)},
               "form a public key");
    /* Bounded: 65 usable keys. */
    buf_clear(&set);
    buf_append_lit(&set, "{\"keys\":[");
    for (int i = 0; i < 65; i++) {
        fx_jwk(&set, p256, "");
        buf_append_lit(&set, ",");
    }
    set.ptr[set.len - 1] = ']';
    buf_append_lit(&set, "}");
    check_load(&(struct auth_settings){.jwks_path = "set.json", .jwks_text = buf_span(&set)},
               "at most 64 usable keys");
    buf_fini(&set);
}

/* The same through files. */
static void test_files(void **state)
{
    (void)state;
    struct buf set = BUF_INIT;
    buf_append_lit(&set, "{\"keys\":[");
    fx_jwk(&set, rsa, "");
    buf_append_lit(&set, "]}");
    char *pem = fx_pem(rsa, false);
    struct span contents[] = {buf_span(&set), span_of(pem)};
    for (int i = 0; i < 2; i++) {
        char path[] = "/tmp/syncgate-auth-XXXXXX";
        int fd = mkstemp(path);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, contents[i].ptr, contents[i].len), contents[i].len);
        close(fd);
        struct auth_settings settings = {.jwks_path = i ? NULL : path, .public_key_path = i ? path : NULL};
        struct auth *auth = fx_auth(&settings, 4);
        unlink(path);
        assert_string_equal(
            fx_verify_token(auth, &(struct fx_token){.alg = "RS256", .payload = GOOD, .pkey = rsa}, FX_NOW),
            "ok");
        auth_freep(&auth);
    }
    free(pem);
    buf_fini(&set);
}

/* ---- the cache ---- */

static char *numbered_token(int number, int64_t exp_s)
{
    char payload[96];
    snprintf(payload, sizeof(payload), "{\"sub\":\"u%d\",\"exp\":%lld}", number, (long long)exp_s);
    return fx_bearer(&(struct fx_token){.alg = "HS256", .payload = payload});
}

static void check_stats(const struct auth *auth, uint64_t hits, uint64_t verified, uint64_t refused)
{
    struct auth_stats stats = auth_stats(auth);
    assert_int_equal(stats.cache_hits, hits);
    assert_int_equal(stats.verified, verified);
    assert_int_equal(stats.refused, refused);
}

static void test_cache_lives_until_exp_or_300_s(void **state)
{
    (void)state;
    struct auth *auth = fx_auth(&hs256, 4);
    char *brief = numbered_token(1, FX_NOW + 60), *lasting = numbered_token(2, FX_NOW + 3600);
    assert_string_equal(fx_verify(auth, brief, FX_NOW), "ok");
    assert_string_equal(fx_verify(auth, brief, FX_NOW + 59), "ok");
    check_stats(auth, 1, 1, 0);
    assert_string_equal(fx_verify(auth, brief, FX_NOW + 60), "expired");
    assert_string_equal(fx_verify(auth, brief, FX_NOW + 60), "expired");
    check_stats(auth, 1, 1, 2);
    assert_string_equal(fx_verify(auth, lasting, FX_NOW), "ok");
    assert_string_equal(fx_verify(auth, lasting, FX_NOW + 299), "ok");
    check_stats(auth, 2, 2, 2);
    assert_string_equal(fx_verify(auth, lasting, FX_NOW + 300), "ok"); /* verified anew */
    check_stats(auth, 2, 3, 2);
    assert_string_equal(fx_verify(auth, lasting, FX_NOW + 599), "ok");
    check_stats(auth, 3, 3, 2);
    assert_string_equal(fx_verify(auth, lasting, FX_NOW), "ok"); /* the clock went back */
    check_stats(auth, 3, 4, 2);
    free(brief);
    free(lasting);
    auth_freep(&auth);
}

static void test_cache_drops_the_least_recently_used(void **state)
{
    (void)state;
    struct auth *auth = fx_auth(&hs256, 3);
    char *tokens[4];
    for (int i = 0; i < 4; i++)
        tokens[i] = numbered_token(i, FX_NOW + 60);
    static const struct {
        int token;
        bool hit;
    } steps[] = {{0, false}, {1, false}, {2, false}, {0, true},  {3, false}, /* 1 goes */
                 {0, true},  {2, true},  {3, true},  {1, false},             /* 0 goes */
                 {2, true},  {3, true},  {1, true},  {0, false}, {2, false}};
    uint64_t hits = 0, verified = 0;
    for (size_t i = 0; i < SG_ARRAY_LEN(steps); i++) {
        assert_string_equal(fx_verify(auth, tokens[steps[i].token], FX_NOW), "ok");
        *(steps[i].hit ? &hits : &verified) += 1;
        check_stats(auth, hits, verified, 0);
    }
    for (int i = 0; i < 4; i++)
        free(tokens[i]);
    auth_freep(&auth);
}

/* Many more tokens than room, with expiry in between: every principal that comes back is the token's own. */
static void test_cache_under_churn(void **state)
{
    (void)state;
    enum { TOKENS = 60 };
    char *tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        tokens[i] = numbered_token(i, FX_NOW + 10 + INT64_C(20) * i);
    struct auth *auth = fx_auth(&hs256, 17);
    uint32_t random = 1;
    for (int turn = 0; turn < 20000; turn++) {
        random = random * 1664525 + 1013904223;
        int number = (int)(random >> 16) % TOKENS;
        int64_t now_s = FX_NOW + turn / 20;
        struct auth_principal *principal;
        enum err_code code = auth_verify(auth, span_of(tokens[number]), now_s, &principal, NULL);
        assert_int_equal(code, FX_NOW + 10 + INT64_C(20) * number > now_s ? ERR_OK : ERR_UNAUTHORIZED);
        if (code != ERR_OK)
            continue;
        char subject[16];
        snprintf(subject, sizeof(subject), "u%d", number);
        assert_true(span_eq(principal->subject, span_of(subject)));
        auth_principal_unrefp(&principal);
    }
    struct auth_stats stats = auth_stats(auth);
    assert_int_equal(stats.cache_hits + stats.verified + stats.refused, 20000);
    assert_true(stats.cache_hits > 1000 && stats.verified > 1000 && stats.refused > 1000);
    auth_freep(&auth);
    for (int i = 0; i < TOKENS; i++)
        free(tokens[i]);
}

static void test_cache_of_size_0_and_1(void **state)
{
    (void)state;
    char *token = numbered_token(1, FX_NOW + 60), *other = numbered_token(2, FX_NOW + 60);
    for (size_t size = 0; size < 2; size++) {
        struct auth *auth = fx_auth(&hs256, size);
        for (int i = 0; i < 2; i++) {
            assert_string_equal(fx_verify(auth, token, FX_NOW), "ok");
            assert_string_equal(fx_verify(auth, other, FX_NOW), "ok");
            assert_string_equal(fx_verify(auth, other, FX_NOW), "ok");
        }
        check_stats(auth, size * 2, 6 - size * 2, 0);
        auth_freep(&auth);
    }
    free(token);
    free(other);
}

/* The same claims with another signature are another token; refused tokens are never remembered. */
static void test_cache_is_keyed_by_the_whole_token(void **state)
{
    (void)state;
    struct auth *auth = fx_auth(&hs256, 4);
    char *token = numbered_token(1, FX_NOW + 60);
    size_t len = strlen(token);
    assert_string_equal(fx_verify(auth, token, FX_NOW), "ok");
    token[len - 10] = token[len - 10] == 'A' ? 'B' : 'A';
    for (int i = 0; i < 3; i++)
        assert_string_equal(fx_verify(auth, token, FX_NOW), "bad signature");
    check_stats(auth, 0, 1, 3);
    free(token);
    auth_freep(&auth);
}

static void test_new_keys_empty_the_cache(void **state)
{
    (void)state;
    struct auth *auth = fx_auth(&hs256, 4);
    char *token = numbered_token(1, FX_NOW + 60);
    assert_string_equal(fx_verify(auth, token, FX_NOW), "ok");
    struct auth_principal *kept;
    assert_int_equal(auth_verify(auth, span_of(token), FX_NOW, &kept, NULL), ERR_OK);
    struct auth_keys *keys =
        auth_keys_load(&(struct auth_settings){.hs256_secret = "another secret of 32 bytes at least"}, NULL);
    assert_non_null(keys);
    auth_set_keys(auth, keys);
    assert_string_equal(fx_verify(auth, token, FX_NOW), "bad signature");
    auth_set_keys(auth, keys); /* the same again */
    auth_keys_unrefp(&keys);
    const struct fx_token of_new = {
        .alg = "HS256", .payload = GOOD, .secret = "another secret of 32 bytes at least"};
    assert_string_equal(fx_verify_token(auth, &of_new, FX_NOW), "ok");
    assert_true(span_eq(kept->subject, SPAN_LIT("u1")));
    auth_principal_unrefp(&kept);
    free(token);
    auth_freep(&auth);
}

/* ---- threads ---- */

struct worker {
    pthread_t thread;
    struct auth_keys *keys;
    const char *bearer;
    int ok;
};

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    for (int i = 0; i < 20; i++) {
        struct auth *auth = auth_new(worker->keys, 2);
        SG_ASSERT(auth);
        for (int k = 0; k < 5; k++) {
            struct auth_principal *principal;
            if (k == 3)
                auth_set_keys(auth, worker->keys);
            if (auth_verify(auth, span_of(worker->bearer), FX_NOW, &principal, NULL) != ERR_OK)
                continue;
            worker->ok++;
            auth_principal_unrefp(&principal);
        }
        auth_freep(&auth);
    }
    auth_keys_unrefp(&worker->keys);
    return NULL;
}

/* Verifiers of several threads share one key set; whoever is last frees it. */
static void test_keys_are_shared(void **state)
{
    (void)state;
    char *pem = fx_pem(rsa, false);
    char *bearer = fx_bearer(&(struct fx_token){.alg = "RS256", .payload = GOOD, .pkey = rsa});
    struct auth_keys *keys = auth_keys_load(&(struct auth_settings){.public_key_path = pem}, NULL);
    assert_non_null(keys);
    struct worker workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (struct worker){.keys = auth_keys_ref(keys), .bearer = bearer};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]), 0);
    }
    auth_keys_unrefp(&keys);
    assert_null(keys);
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].ok, 100);
    }
    free(pem);
    free(bearer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_key_set_texts),
        cmocka_unit_test(test_key_sets),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_cache_lives_until_exp_or_300_s),
        cmocka_unit_test(test_cache_drops_the_least_recently_used),
        cmocka_unit_test(test_cache_under_churn),
        cmocka_unit_test(test_cache_of_size_0_and_1),
        cmocka_unit_test(test_cache_is_keyed_by_the_whole_token),
        cmocka_unit_test(test_new_keys_empty_the_cache),
        cmocka_unit_test(test_keys_are_shared),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
