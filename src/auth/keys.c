/* SPDX-License-Identifier: Apache-2.0 */
#include "keys.h"

#include <stdio.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#define KEY_FILE_MAX   (1U << 20)
#define SECRET_LEN_MAX 4096

/* ---- AUTH_ALGORITHMS ---- */

/* Bits of the allow-list, out of those that the source of keys can serve at all; 0 with *err. */
static uint32_t algorithms_read(const char *list, uint32_t servable, const char *source, struct err *err)
{
    if (!list)
        return servable == KEY_ALGS_HS ? KEY_BIT(KEY_HS256) : servable;
    uint32_t allowed = 0;
    for (const char *at = list;;) {
        size_t len = strcspn(at, ",");
        struct span name = span_trim((struct span){at, len});
        enum key_alg alg = key_alg_find(name);
        if (span_eq_nocase(name, SPAN_LIT("none"))) {
            err_set(err, ERR_CONFIG,
                    "AUTH_ALGORITHMS: \"none\" cannot be allowed: it accepts unsigned tokens");
            return 0;
        }
        if (alg == KEY_ALG_COUNT) {
            err_set(err, ERR_CONFIG,
                    "AUTH_ALGORITHMS: expected a comma list of HS/RS/PS/ES with 256, 384 or 512, and EdDSA, "
                    "found \"%.*s\"",
                    (int)(name.len < 40 ? name.len : 40), name.ptr);
            return 0;
        }
        if (!(servable & KEY_BIT(alg))) {
            err_set(err, ERR_CONFIG, "AUTH_ALGORITHMS: %s needs a %s and is never accepted with %s",
                    key_alg_name(alg), KEY_BIT(alg) & KEY_ALGS_HS ? "shared secret" : "public key", source);
            return 0;
        }
        allowed |= KEY_BIT(alg);
        if (!at[len])
            return allowed;
        at += len + 1;
    }
}

/* ---- the three sources ---- */

static bool no_memory(struct err *err)
{
    err_set(err, ERR_NO_MEMORY, "out of memory for the keys of tokens");
    return false;
}

static bool read_file(const char *setting, const char *path, struct buf *text, struct err *err)
{
    int rc = base_read_file(path, KEY_FILE_MAX, text);
    if (rc == 0)
        return true;
    err_set(err, rc == ENOMEM ? ERR_NO_MEMORY : ERR_CONFIG,
            "%s: %s: expected a readable file of at most 1 MiB: %s", setting, path, strerror(rc));
    return false;
}

static bool load_jwks(struct auth_keys *keys, const struct auth_settings *settings, struct err *err)
{
    uint32_t allowed = algorithms_read(settings->algorithms, KEY_ALGS_PUBLIC, "AUTH_JWKS", err);
    if (!allowed)
        return false;
    char place[300];
    snprintf(place, sizeof(place), "AUTH_JWKS: %.280s", settings->jwks_path);
    struct buf file = BUF_INIT;
    struct span text = settings->jwks_text;
    keys->keys = calloc(KEY_SET_MAX, sizeof(*keys->keys));
    if (!keys->keys)
        no_memory(err);
    else if (text.ptr || read_file("AUTH_JWKS", settings->jwks_path, &file, err))
        keys->count = jwk_set_read(text.ptr ? text : buf_span(&file), place, allowed, keys->keys, err);
    buf_fini(&file);
    keys->by_kid = true;
    return keys->count > 0;
}

static bool load_secret(struct auth_keys *keys, const struct auth_settings *settings, struct err *err)
{
    uint32_t allowed = algorithms_read(settings->algorithms, KEY_ALGS_HS, "AUTH_HS256_SECRET", err);
    if (!allowed)
        return false;
    size_t len = strlen(settings->hs256_secret);
    for (enum key_alg alg = KEY_HS256; alg <= KEY_HS512; alg++) {
        if ((allowed & KEY_BIT(alg)) && len < key_alg_secret_min(alg)) {
            err_set(err, ERR_CONFIG, "AUTH_HS256_SECRET: expected at least %zu bytes for %s, found %zu",
                    key_alg_secret_min(alg), key_alg_name(alg), len);
            return false;
        }
    }
    if (len > SECRET_LEN_MAX) {
        err_set(err, ERR_CONFIG, "AUTH_HS256_SECRET: expected at most %d bytes, found %zu", SECRET_LEN_MAX,
                len);
        return false;
    }
    keys->keys = calloc(1, sizeof(*keys->keys));
    if (!keys->keys)
        return no_memory(err);
    keys->count = 1;
    keys->keys[0] =
        (struct key){.secret = strdup(settings->hs256_secret), .secret_len = len, .algs = allowed};
    return keys->keys[0].secret ? true : no_memory(err);
}

/* OpenSSL would otherwise ask for the passphrase of an encrypted PEM on the terminal. */
static int no_passphrase(char *out, int size, int writing, void *arg)
{
    (void)out, (void)size, (void)writing, (void)arg;
    return -1;
}

static bool pem_to_key(struct key *key, struct span pem, const char *place, uint32_t allowed, struct err *err)
{
    BIO *bio = BIO_new_mem_buf(pem.ptr, (int)pem.len);
    if (!bio)
        return no_memory(err);
    EVP_PKEY *pkey = PEM_read_bio_PUBKEY(bio, NULL, no_passphrase, NULL);
    BIO_free(bio);
    ERR_clear_error();
    const char *why = pkey ? key_set_pkey(key, pkey) : "it has no \"-----BEGIN PUBLIC KEY-----\" block";
    if (why)
        err_set(err, ERR_CONFIG, "%s: expected the PEM of a public key: %s", place, why);
    else if (key->rsa_bits && key->rsa_bits < KEY_RSA_BITS_MIN)
        err_set(err, ERR_CONFIG, "%s: expected an RSA key of at least %d bits, found %d", place,
                KEY_RSA_BITS_MIN, key->rsa_bits);
    else if (!(key->algs &= allowed))
        err_set(err, ERR_CONFIG,
                "AUTH_ALGORITHMS: none of those listed fits the kind of key in AUTH_PUBLIC_KEY");
    else
        return true;
    key_fini(key);
    ERR_clear_error();
    return false;
}

static bool load_pem(struct auth_keys *keys, const struct auth_settings *settings, struct err *err)
{
    const char *path = settings->public_key_path;
    uint32_t allowed = algorithms_read(settings->algorithms, KEY_ALGS_PUBLIC, "AUTH_PUBLIC_KEY", err);
    if (!allowed)
        return false;
    bool inlined = strncmp(path, "-----BEGIN ", 11) == 0;
    char place[300];
    snprintf(place, sizeof(place), "AUTH_PUBLIC_KEY%s%.270s", inlined ? "" : ": ", inlined ? "" : path);
    struct buf file = BUF_INIT;
    keys->keys = calloc(1, sizeof(*keys->keys));
    if (!keys->keys)
        no_memory(err);
    else if (inlined || read_file("AUTH_PUBLIC_KEY", path, &file, err))
        keys->count = pem_to_key(keys->keys, inlined ? span_of(path) : buf_span(&file), place, allowed, err);
    buf_fini(&file);
    return keys->count > 0;
}

/* ---- life ---- */

static bool load(struct auth_keys *keys, const struct auth_settings *settings, struct err *err)
{
    int sources = !!settings->jwks_path + !!settings->hs256_secret + !!settings->public_key_path;
    if (sources != 1) {
        err_set(
            err, ERR_CONFIG,
            "expected exactly one of AUTH_JWKS, AUTH_HS256_SECRET and AUTH_PUBLIC_KEY to be set, found %d",
            sources);
        return false;
    }
    keys->require_exp = settings->require_exp;
    if ((settings->issuer && !(keys->issuer = strdup(settings->issuer))) ||
        (settings->audience && !(keys->audience = strdup(settings->audience))))
        return no_memory(err);
    if (!(settings->jwks_path      ? load_jwks
          : settings->hs256_secret ? load_secret
                                   : load_pem)(keys, settings, err))
        return false;
    for (size_t i = 0; i < keys->count; i++)
        keys->algs |= keys->keys[i].algs;
    return true;
}

struct auth_keys *auth_keys_load(const struct auth_settings *settings, struct err *err)
{
    struct auth_keys *keys = calloc(1, sizeof(*keys));
    if (!keys) {
        no_memory(err);
        return NULL;
    }
    atomic_init(&keys->refs, 1);
    if (!load(keys, settings, err))
        auth_keys_unrefp(&keys);
    return keys;
}

struct auth_keys *auth_keys_ref(struct auth_keys *keys)
{
    atomic_fetch_add_explicit(&keys->refs, 1, memory_order_relaxed);
    return keys;
}

void auth_keys_unrefp(struct auth_keys **keys_ptr)
{
    struct auth_keys *keys = *keys_ptr;
    *keys_ptr = NULL;
    /* Released by every holder, acquired by the last: nobody's reads may move behind the free. */
    if (!keys || atomic_fetch_sub_explicit(&keys->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < keys->count; i++)
        key_fini(&keys->keys[i]);
    free(keys->keys);
    free(keys->issuer);
    free(keys->audience);
    free(keys);
}

/* Several keys that fit are refused, as the legacy backend does: a set that needs `kid` gets tokens with
 * `kid`. */
const struct key *keys_choose(const struct auth_keys *keys, enum key_alg alg, struct span kid,
                              const char **ret_reason)
{
    const struct key *found = NULL;
    for (size_t i = 0; i < keys->count; i++) {
        const struct key *key = &keys->keys[i];
        if (!(key->algs & KEY_BIT(alg)))
            continue;
        if (keys->by_kid && kid.ptr && (!key->kid || !span_eq(kid, span_of(key->kid))))
            continue;
        if (found) {
            *ret_reason = "several keys fit";
            return NULL;
        }
        found = key;
    }
    if (!found)
        *ret_reason = kid.ptr ? "no key with its kid" : "no key fits";
    return found;
}
