/* SPDX-License-Identifier: Apache-2.0 */
/* The order of the checks: length, cache, header, allow-list, key, signature - and only then the payload. We
 * look into no payload before its signature holds (libjwt, which has the HS* tokens, does: it gets the
 * base64url alphabet only), and no algorithm reaches a verifier that is not the chosen key's own. */
#include "cache.h"
#include "keys.h"
#include "principal.h"

#include <openssl/sha.h>

#define TOKEN_LEN_MAX    16384
#define HEADER_NODES_MAX 256
#define PEEK_NODES_MAX   4096

struct auth {
    struct auth_keys *keys; /* a reference */
    struct cache cache;
    struct auth_stats stats;
    /* Reused from token to token. */
    struct json_doc header;
    struct buf header_text, text, signature, scratch;
};

/* The three parts of a JWS in compact form (RFC 7515 section 7.1), still in base64url. */
struct token {
    struct span text;
    struct span header, payload, signature;
};

struct auth *auth_new(struct auth_keys *keys, size_t cache_max)
{
    struct auth *auth = calloc(1, sizeof(*auth));
    if (!auth)
        return NULL;
    auth->keys = auth_keys_ref(keys);
    if (cache_init(&auth->cache, cache_max) != ERR_OK)
        auth_freep(&auth);
    return auth;
}

void auth_freep(struct auth **auth_ptr)
{
    struct auth *auth = *auth_ptr;
    *auth_ptr = NULL;
    if (!auth)
        return;
    cache_fini(&auth->cache);
    auth_keys_unrefp(&auth->keys);
    json_fini(&auth->header);
    buf_fini(&auth->header_text);
    buf_fini(&auth->text);
    buf_fini(&auth->signature);
    buf_fini(&auth->scratch);
    free(auth);
}

void auth_set_keys(struct auth *auth, struct auth_keys *keys)
{
    struct auth_keys *old = auth->keys;
    auth->keys = auth_keys_ref(keys);
    auth_keys_unrefp(&old);
    cache_clear(&auth->cache);
}

struct auth_stats auth_stats(const struct auth *auth)
{
    return auth->stats;
}

static enum err_code refuse(const char **ret_reason, const char *reason)
{
    *ret_reason = reason;
    return ERR_UNAUTHORIZED;
}

/* "Bearer x y".split(" "): part 0 must be "Bearer", part 1 is the token, the rest is ignored. */
static bool bearer_token(struct span authorization, struct span *ret_token)
{
    const struct span scheme = SPAN_LIT("Bearer ");
    if (authorization.len < scheme.len || memcmp(authorization.ptr, scheme.ptr, scheme.len) != 0)
        return false;
    struct span rest = {authorization.ptr + scheme.len, authorization.len - scheme.len};
    const char *blank = rest.len ? memchr(rest.ptr, ' ', rest.len) : NULL;
    *ret_token = (struct span){rest.ptr, blank ? (size_t)(blank - rest.ptr) : rest.len};
    return ret_token->len > 0;
}

static bool token_split(struct span text, struct token *ret_token)
{
    struct span parts[3];
    const char *at = text.ptr, *end = text.ptr + text.len;
    for (int i = 0; i < 3; i++) {
        const char *dot = i < 2 ? memchr(at, '.', (size_t)(end - at)) : end;
        if (!dot || !base64url_is((struct span){at, (size_t)(dot - at)}))
            return false;
        parts[i] = (struct span){at, (size_t)(dot - at)};
        at = dot + 1;
    }
    *ret_token = (struct token){text, parts[0], parts[1], parts[2]};
    return true;
}

static enum err_code decode_part(struct span part, struct buf *out, const char **ret_reason,
                                 const char *reason)
{
    buf_clear(out);
    if (!buf_reserve(out, part.len + 2))
        return ERR_NO_MEMORY;
    return base64url_decode(part, (unsigned char *)out->ptr, &out->len) ? ERR_OK : refuse(ret_reason, reason);
}

/* Reads the protected header as far as it chooses the key. */
static enum err_code header_read(struct auth *auth, struct span part, enum key_alg *ret_alg,
                                 struct span *ret_kid, const char **ret_reason)
{
    struct json_doc *doc = &auth->header;
    enum err_code code = decode_part(part, &auth->header_text, ret_reason, "header is not base64url");
    if (code == ERR_OK)
        code = json_parse(doc, buf_span(&auth->header_text), HEADER_NODES_MAX);
    if (code == ERR_NO_MEMORY || code == ERR_UNAUTHORIZED)
        return code;
    if (code != ERR_OK || json_root(doc)->type != JSON_OBJECT)
        return refuse(ret_reason, "header is not a JSON object");
    const struct json_node *root = json_root(doc), *alg = json_get(doc, root, SPAN_LIT("alg"));
    const struct json_node *kid = json_get(doc, root, SPAN_LIT("kid"));
    if (json_get(doc, root, SPAN_LIT("crit")))
        return refuse(ret_reason, "crit is not supported");
    if (!alg || alg->type != JSON_STRING || (kid && kid->type != JSON_STRING))
        return refuse(ret_reason, "alg or kid is not a string");
    buf_clear(&auth->scratch);
    struct span name = json_string(doc, alg, &auth->scratch);
    if (!name.ptr)
        return ERR_NO_MEMORY;
    *ret_alg = key_alg_find(name);
    if (*ret_alg == KEY_ALG_COUNT || !(auth->keys->algs & KEY_BIT(*ret_alg)))
        return refuse(ret_reason, "alg is not allowed");
    *ret_kid = (struct span){NULL, 0};
    if (kid) {
        buf_clear(&auth->scratch);
        *ret_kid = json_string(doc, kid, &auth->scratch);
        if (!ret_kid->ptr)
            return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

static enum err_code signature_check(struct auth *auth, const struct token *token, const char **ret_reason)
{
    enum key_alg alg;
    struct span kid;
    enum err_code code = header_read(auth, token->header, &alg, &kid, ret_reason);
    if (code != ERR_OK)
        return code;
    const struct key *key = keys_choose(auth->keys, alg, kid, ret_reason);
    if (!key)
        return ERR_UNAUTHORIZED;
    code = decode_part(token->signature, &auth->signature, ret_reason, "signature is not base64url");
    if (code != ERR_OK)
        return code;
    buf_clear(&auth->text);
    buf_append_span(&auth->text, token->text);
    buf_append_char(&auth->text, '\0');
    if (!buf_ok(&auth->text))
        return ERR_NO_MEMORY;
    size_t signed_len = token->header.len + 1 + token->payload.len;
    *ret_reason = "bad signature";
    return key_verify(key, alg, auth->text.ptr, signed_len, buf_span(&auth->signature));
}

static enum err_code verify(struct auth *auth, struct span authorization, int64_t now_s,
                            struct auth_principal **ret_principal, const char **ret_reason)
{
    struct span text;
    struct token token;
    unsigned char digest[CACHE_DIGEST_LEN];
    if (!bearer_token(authorization, &text))
        return refuse(ret_reason, "no bearer token");
    if (text.len > TOKEN_LEN_MAX)
        return refuse(ret_reason, "token is too long");
    SHA256((const unsigned char *)text.ptr, text.len, digest);
    struct auth_principal *cached = cache_get(&auth->cache, digest, now_s);
    if (cached) {
        auth->stats.cache_hits++;
        *ret_principal = auth_principal_ref(cached);
        return ERR_OK;
    }
    if (!token_split(text, &token))
        return refuse(ret_reason, "not three parts of base64url");
    enum err_code code = signature_check(auth, &token, ret_reason);
    if (code != ERR_OK)
        return code;
    const struct claim_rules rules = {auth->keys->issuer, auth->keys->audience, auth->keys->require_exp};
    code = principal_new(token.payload, &rules, now_s, ret_principal, ret_reason);
    if (code != ERR_OK)
        return code;
    auth->stats.verified++;
    cache_put(&auth->cache, digest, *ret_principal, now_s);
    return ERR_OK;
}

enum err_code auth_verify(struct auth *auth, struct span authorization, int64_t now_s,
                          struct auth_principal **ret_principal, const char **ret_reason)
{
    const char *reason = NULL;
    *ret_principal = NULL;
    enum err_code code = verify(auth, authorization, now_s, ret_principal, &reason);
    if (code == ERR_UNAUTHORIZED)
        auth->stats.refused++;
    if (ret_reason)
        *ret_reason = code == ERR_UNAUTHORIZED ? reason : NULL;
    return code;
}

bool auth_peek_subject(struct span authorization, struct json_doc *doc, struct buf *scratch,
                       struct buf *ret_subject)
{
    struct span text;
    struct token token;
    if (!authorization.ptr || !bearer_token(authorization, &text) || text.len > TOKEN_LEN_MAX ||
        !token_split(text, &token))
        return false;
    buf_clear(scratch);
    if (!buf_reserve(scratch, token.payload.len + 2) ||
        !base64url_decode(token.payload, (unsigned char *)scratch->ptr, &scratch->len) ||
        json_parse(doc, buf_span(scratch), PEEK_NODES_MAX) != ERR_OK)
        return false;
    const struct json_node *root = json_root(doc);
    const struct json_node *sub = root->type == JSON_OBJECT ? json_get(doc, root, SPAN_LIT("sub")) : NULL;
    if (!sub || sub->type != JSON_STRING)
        return false;
    struct span subject = json_string(doc, sub, ret_subject);
    if (!sub->escaped) /* else it has been decoded there already */
        buf_append_span(ret_subject, subject);
    return subject.ptr && subject.len > 0 && buf_ok(ret_subject);
}
