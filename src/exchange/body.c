/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a body as the legacy backend's body parser does (legacy contract 0.2): which bodies count at all, what is
 * refused, in which order. What that parser reads and we do not (forms, compressed bodies, UTF-16, bytes that are not
 * UTF-8, more than our limits) takes the legacy path while there is one. */
#include <ctype.h>

#include "bad_json.h"
#include "internal.h"

enum body_kind {
    BODY_NONE, /* no body, or of a type that the legacy backend does not read: "undefined" */
    BODY_JSON,
    BODY_FORM,
};

/* ---- content type ---- */

struct content_type {
    struct span media;
    char charset[40]; /* lower case; "" if there is none */
};

static bool is_token_char(unsigned char c)
{
    return isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static struct span token_of(struct span text)
{
    size_t len = 0;
    while (len < text.len && is_token_char((unsigned char)text.ptr[len]))
        len++;
    return (struct span){text.ptr, len};
}

static void skip(struct span *rest, size_t len)
{
    rest->ptr += len;
    rest->len -= len;
}

static void skip_blanks(struct span *rest)
{
    while (rest->len && *rest->ptr == ' ')
        skip(rest, 1);
}

/* A quoted-string or a token, unescaped as far as it fits into `out`. False: neither. */
static bool parameter_value(struct span *rest, char *out, size_t size)
{
    size_t n = 0;
    if (!rest->len || *rest->ptr != '"') {
        struct span value = token_of(*rest);
        for (size_t i = 0; i < value.len && n + 1 < size; i++)
            out[n++] = value.ptr[i];
        out[n] = '\0';
        skip(rest, value.len);
        return value.len > 0;
    }
    for (skip(rest, 1); rest->len && *rest->ptr != '"'; skip(rest, 1)) {
        if (*rest->ptr == '\\' && rest->len > 1)
            skip(rest, 1);
        if (n + 1 < size)
            out[n++] = *rest->ptr;
    }
    out[n] = '\0';
    if (!rest->len)
        return false;
    skip(rest, 1);
    return true;
}

/* Strict, as the legacy backend's: one parameter out of form ("application/json;") and the type is unknown. */
static bool parse_content_type(struct span text, struct content_type *ret_type)
{
    const char *semicolon = memchr(text.ptr, ';', text.len);
    struct span rest = {text.ptr, semicolon ? (size_t)(semicolon - text.ptr) : text.len};
    ret_type->media = span_trim(rest);
    ret_type->charset[0] = '\0';
    rest = (struct span){text.ptr + rest.len, text.len - rest.len};
    while (rest.len) {
        char value[sizeof(ret_type->charset)] = "";
        if (*rest.ptr != ';')
            return false;
        skip(&rest, 1);
        skip_blanks(&rest);
        struct span name = token_of(rest);
        skip(&rest, name.len);
        skip_blanks(&rest);
        if (!name.len || !rest.len || *rest.ptr != '=')
            return false;
        skip(&rest, 1);
        skip_blanks(&rest);
        if (!parameter_value(&rest, value, sizeof(value)))
            return false;
        skip_blanks(&rest);
        if (!span_eq_nocase(name, SPAN_LIT("charset")))
            continue;
        size_t len = strlen(value);
        for (size_t i = 0; i <= len; i++)
            ret_type->charset[i] = (char)tolower((unsigned char)value[i]);
    }
    return true;
}

static enum body_kind body_kind(const struct exchange *ex, struct content_type *ret_type)
{
    bool has_body;
    (void)http_request_content_length(ex->http, &has_body);
    struct span text = http_request_header(ex->http, "Content-Type");
    if (!has_body || !text.ptr || !parse_content_type(text, ret_type))
        return BODY_NONE;
    if (span_eq_nocase(ret_type->media, SPAN_LIT("application/json")))
        return BODY_JSON;
    return span_eq_nocase(ret_type->media, SPAN_LIT("application/x-www-form-urlencoded")) ? BODY_FORM
                                                                                          : BODY_NONE;
}

/* ---- charset and coding ---- */

/* The letters and digits of a charset's name: what the legacy backend's decoder looks at. */
static struct span charset_key(const char *charset, char out[40])
{
    size_t n = 0;
    for (; *charset; charset++)
        if (isalnum((unsigned char)*charset))
            out[n++] = *charset;
    return (struct span){out, n};
}

static bool charset_is_known(const char *charset)
{
    static const char *const known[] = {"utf8", "utf16",   "utf16le", "utf16be",  "utf32",
                                        "utf7", "utf32le", "utf32be", "utf7imap", "iso88591"};
    char key[40];
    struct span name = charset_key(charset, key);
    for (size_t i = 0; i < SG_ARRAY_LEN(known); i++)
        if (span_eq(name, span_of(known[i])))
            return true;
    return false;
}

static bool charset_is_utf8(const char *charset)
{
    char key[40];
    return !*charset || span_eq(charset_key(charset, key), SPAN_LIT("utf8"));
}

/* Whether the parser of this kind of body takes the charset at all. */
static bool charset_is_allowed(enum body_kind kind, const char *charset)
{
    if (!*charset)
        return true;
    if (kind == BODY_FORM)
        return strcmp(charset, "utf-8") == 0 || strcmp(charset, "iso-8859-1") == 0;
    return strncmp(charset, "utf-", 4) == 0;
}

static bool refuse_415(struct exchange *ex, const char *what, struct span name, int (*letter)(int))
{
    struct buf *plain = &ex->worker->value, *message = &ex->worker->scratch;
    buf_clear(plain);
    buf_clear(message);
    buf_printf(plain, "unsupported %s \"", what);
    for (size_t i = 0; i < name.len; i++)
        buf_append_char(plain, (char)letter((unsigned char)name.ptr[i]));
    buf_append_char(plain, '"');
    buf_append_json_string(message, buf_span(plain));
    exchange_refuse(ex, ERR_UNSUPPORTED_CHARSET, buf_span(message));
    return false;
}

/* In the order of the legacy backend: charset, content coding, size, what the decoder lacks. False: answered.
 * *ret_foreign: legacy reads the body, we do not. */
static bool check_coding(struct exchange *ex, enum body_kind kind, const struct content_type *type,
                         bool *ret_foreign)
{
    struct span charset = span_of(type->charset), coding = http_request_header(ex->http, "Content-Encoding");
    bool plain = coding.len == 0 || span_eq_nocase(coding, SPAN_LIT("identity"));
    if (!charset_is_allowed(kind, type->charset))
        return refuse_415(ex, "charset", charset, toupper);
    if (!plain && !span_eq_nocase(coding, SPAN_LIT("gzip")) && !span_eq_nocase(coding, SPAN_LIT("deflate")) &&
        !span_eq_nocase(coding, SPAN_LIT("br")))
        return refuse_415(ex, "content encoding", coding, tolower);
    if (http_request_body_too_large(ex->http)) {
        exchange_refuse(ex, ERR_BODY_TOO_LARGE, SPAN_LIT("\"request entity too large\""));
        return false;
    }
    if (charset.len && !charset_is_known(type->charset))
        return refuse_415(ex, "charset", charset, toupper);
    *ret_foreign = !plain || kind == BODY_FORM || !charset_is_utf8(type->charset);
    return true;
}

/* ---- the text ---- */

/* True: sent to legacy, which can read it. */
static bool leave_to_legacy(struct exchange *ex)
{
    if (!ex->worker->legacy || !path_flag_has_legacy(&ex->flag))
        return false;
    exchange_fall_back(ex, PATH_FALLBACK_CONTENT_TYPE, ERR_NO_COMMAND);
    return true;
}

static void not_json(struct exchange *ex, struct span body)
{
    struct buf *message = &ex->worker->scratch;
    buf_clear(message);
    enum bad_json what = bad_json_explain(body, message);
    if (what == BAD_JSON_WELL_FORMED && leave_to_legacy(ex))
        return;
    if (what == BAD_JSON_WELL_FORMED)
        buf_append_lit(message, "\"The JSON text is not UTF-8, nested too deeply or has too many values\"");
    if (what == BAD_JSON_NO_MEMORY)
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
    else
        exchange_refuse(ex, ERR_BAD_JSON, buf_span(message));
}

static bool parse_json(struct exchange *ex, const struct json_node **ret_root)
{
    struct json_doc *doc = &ex->worker->body_doc;
    struct span body = http_request_body(ex->http);
    if (body.len == 0 || span_eq(body, SPAN_LIT("\xef\xbb\xbf")))
        body = SPAN_LIT("{}"); /* an empty JSON body stands for an empty object */
    enum err_code code = json_parse(doc, body, EXCHANGE_JSON_NODES);
    const struct json_node *root = code == ERR_OK ? json_root(doc) : NULL;
    if (code == ERR_NO_MEMORY) {
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
        return false;
    }
    if (!root || (root->type != JSON_OBJECT && root->type != JSON_ARRAY)) {
        doc->count = 0;
        not_json(ex, body);
        return false;
    }
    *ret_root = root;
    ex->has_json = true;
    return true;
}

bool exchange_parse_body(struct exchange *ex, const struct json_node **ret_root)
{
    struct content_type type;
    bool foreign = false;
    *ret_root = NULL;
    ex->worker->body_doc.count = 0;
    enum body_kind kind = body_kind(ex, &type);
    if (kind != BODY_NONE) {
        if (!check_coding(ex, kind, &type, &foreign))
            return false;
        if (!foreign)
            return parse_json(ex, ret_root);
        ex->unread_body = http_request_body(ex->http).len > 0;
        return !leave_to_legacy(ex);
    }
    /* Nobody reads it, and its absence is answered 400; but where no body is needed it could not follow to legacy. */
    if (http_request_body_too_large(ex->http) && !(ex->route->body_schema && ex->route->body_required)) {
        exchange_refuse(ex, ERR_BODY_TOO_LARGE, SPAN_LIT("\"request entity too large\""));
        return false;
    }
    return true;
}
