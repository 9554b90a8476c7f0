/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile Authorization values against a shared secret and an RSA key. The input is the value itself; or,
 * after an `S`, a header and a payload separated by a newline, which are signed here to reach the code behind
 * the signature. Accepted must only be what is really signed: of the RSA key nobody has the private part, it
 * signed one token; an HS256 signature is computed again. */
#include <openssl/hmac.h>

#include "syncgate/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_S  INT64_C(1700000000)
#define SECRET "0123456789abcdef0123456789abcdef"

static const char rsa_pem[] = "-----BEGIN PUBLIC KEY-----\n"
                              "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAuITNbNmPzuuEKqnvU5U2\n"
                              "0oi2yJgbUFWDsr03Cav8HgzQvL3DI6+BWN6lAUxOeLxShkimUEuIzyqNlDzPHuQ7\n"
                              "0ymkVHosdF9EbO6wAc+yxKhHl1A5cVbd9TfOP3bqM2ZY2toypiiUsuW0OH4W/Xov\n"
                              "PMIsYqyUeCf3TigyXbdDvGwGy+EAh1cOXBtkBNbX+aUsck+xsBOU6tE7KGeh0teq\n"
                              "T2mA6KsYy8/mAk1xfBLWV3jRTilCoJw12PKOfKfIc/CJxTPtnIPqWHP9sEXAVLND\n"
                              "iXjh+eUEZaj+EgVJ0IgT2I49wa3E+2JdQkbGYoKRxi7ayLQ/a85/DeoasX/mpAys\n"
                              "HwIDAQAB\n"
                              "-----END PUBLIC KEY-----\n";
/* The token that this key signed, without its signature. */
static const char rsa_signed[] =
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1c2VyLTEiLCJleHAiOjE3MDAwMDAwNjAsImF1ZCI"
    "6WyJodWIiXSwicm9sZSI6WyJhZG1pbiJdfQ";

static struct auth *verifier(const struct auth_settings *settings)
{
    struct auth_keys *keys = auth_keys_load(settings, NULL);
    SG_ASSERT(keys);
    struct auth *auth = auth_new(keys, 8);
    SG_ASSERT(auth);
    auth_keys_unrefp(&keys);
    return auth;
}

static void append_base64url(struct buf *out, const unsigned char *p, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    unsigned held = 0;
    for (size_t i = 0; i < len; i++) {
        bits = bits << 8 | p[i];
        for (held += 8; held >= 6; held -= 6)
            buf_append_char(out, digits[bits >> (held - 6) & 63]);
    }
    if (held)
        buf_append_char(out, digits[bits << (6 - held) & 63]);
}

static void append_signature(struct buf *out, struct span text)
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len;
    SG_ASSERT(
        HMAC(EVP_sha256(), SECRET, sizeof(SECRET) - 1, (const unsigned char *)text.ptr, text.len, mac, &len));
    append_base64url(out, mac, len);
}

/* Was this value, which a verifier accepted, signed by its key? */
static bool is_signed(struct span value, bool rsa)
{
    SG_ASSERT(value.len > 7 && memcmp(value.ptr, "Bearer ", 7) == 0);
    struct span token = {value.ptr + 7, value.len - 7};
    const char *blank = memchr(token.ptr, ' ', token.len);
    if (blank)
        token.len = (size_t)(blank - token.ptr);
    const char *dot = memrchr(token.ptr, '.', token.len);
    SG_ASSERT(dot);
    struct span text = {token.ptr, (size_t)(dot - token.ptr)};
    if (rsa)
        return span_eq(text, SPAN_LIT(rsa_signed));
    struct buf mac = BUF_INIT;
    append_signature(&mac, text);
    bool same = span_eq(buf_span(&mac), (struct span){dot + 1, token.len - text.len - 1});
    buf_fini(&mac);
    return same;
}

static void check_principal(const struct auth_principal *principal)
{
    SG_ASSERT(principal->subject.len > 0 && principal->exp_s > NOW_S);
    SG_ASSERT(json_root(&principal->claims)->type == JSON_OBJECT);
    SG_ASSERT(auth_principal_has_role(principal, SPAN_LIT("admin")) == principal->admin);
}

/* Twice: the second time it comes from the cache, or is refused for the same reason. */
static void verify(struct auth *auth, struct span value, bool rsa)
{
    enum err_code code[2];
    const char *reason[2];
    for (int i = 0; i < 2; i++) {
        struct auth_principal *principal;
        code[i] = auth_verify(auth, value, NOW_S, &principal, &reason[i]);
        SG_ASSERT(!principal == (code[i] != ERR_OK) && !reason[i] == (code[i] != ERR_UNAUTHORIZED));
        if (!principal)
            continue;
        SG_ASSERT(is_signed(value, rsa));
        check_principal(principal);
        auth_principal_unrefp(&principal);
    }
    SG_ASSERT(code[0] == code[1] && reason[0] == reason[1]);
}

static void sign_and_verify(struct auth *auth, const uint8_t *data, size_t size)
{
    const uint8_t *newline = size ? memchr(data, '\n', size) : NULL;
    size_t header_len = newline ? (size_t)(newline - data) : size;
    struct buf value = BUF_INIT, signature = BUF_INIT;
    buf_append_lit(&value, "Bearer ");
    append_base64url(&value, data, header_len);
    buf_append_char(&value, '.');
    if (newline)
        append_base64url(&value, newline + 1, size - header_len - 1);
    append_signature(&signature, (struct span){value.ptr + 7, value.len - 7});
    buf_append_char(&value, '.');
    buf_append_span(&value, buf_span(&signature));
    verify(auth, buf_span(&value), false);
    buf_fini(&value);
    buf_fini(&signature);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct auth *hs256, *rs256;
    if (!hs256) {
        hs256 = verifier(&(struct auth_settings){.hs256_secret = SECRET, .require_exp = true});
        rs256 = verifier(&(struct auth_settings){.public_key_path = rsa_pem, .require_exp = true});
    }
    if (size && data[0] == 'S') {
        sign_and_verify(hs256, data + 1, size - 1);
        return 0;
    }
    struct span value = {(const char *)data, size};
    verify(hs256, value, false);
    verify(rs256, value, true);
    return 0;
}
