/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of a Kafka-path request, in the legacy backend's order (legacy contract 0.2): body parsing, token, path
 * parameters, role, schema. Every answer is the one that backend gives. */
#include <ctype.h>
#include <stdio.h>

#include "internal.h"

/* ---- content type ---- */

enum body_kind {
    BODY_NONE, /* no body, or of a type that the legacy backend does not read: "undefined" */
    BODY_JSON,
    BODY_OTHER, /* the legacy backend reads it, we do not: urlencoded, compressed */
};

/* Splits `rest` at the first `separator`. */
static struct span cut(struct span *rest, char separator)
{
    const char *at = memchr(rest->ptr, separator, rest->len);
    struct span first = {rest->ptr, at ? (size_t)(at - rest->ptr) : rest->len};
    rest->ptr += at ? first.len + 1 : first.len;
    rest->len -= at ? first.len + 1 : first.len;
    return span_trim(first);
}

/* The charset parameter, without quotes; ptr NULL if there is none. */
static struct span charset_of(struct span parameters)
{
    while (parameters.len) {
        struct span parameter = cut(&parameters, ';');
        struct span name = cut(&parameter, '=');
        if (!span_eq_nocase(name, SPAN_LIT("charset")))
            continue;
        parameter = span_trim(parameter);
        if (parameter.len >= 2 && parameter.ptr[0] == '"' && parameter.ptr[parameter.len - 1] == '"')
            parameter = (struct span){parameter.ptr + 1, parameter.len - 2};
        return parameter;
    }
    return (struct span){NULL, 0};
}

static enum body_kind body_kind(const struct exchange *ex, struct span *ret_charset)
{
    bool has_body;
    (void)http_request_content_length(ex->http, &has_body);
    struct span type = http_request_header(ex->http, "Content-Type");
    *ret_charset = (struct span){NULL, 0};
    if (!has_body || !type.ptr)
        return BODY_NONE;
    struct span media = cut(&type, ';');
    *ret_charset = charset_of(type);
    if (span_eq_nocase(media, SPAN_LIT("application/x-www-form-urlencoded")))
        return BODY_OTHER;
    if (!span_eq_nocase(media, SPAN_LIT("application/json")))
        return BODY_NONE;
    struct span encoding = http_request_header(ex->http, "Content-Encoding");
    return encoding.ptr && !span_eq_nocase(encoding, SPAN_LIT("identity")) ? BODY_OTHER : BODY_JSON;
}

/* ---- answers ---- */

static void answer_raw(struct exchange *ex, enum err_code code, int status, const char *json)
{
    ex->code = code;
    exchange_answer_json(ex, status, span_of(json));
}

/* {"statusCode":415,"message":"unsupported charset \"LATIN1\""}: upper case, as body-parser prints it. */
static void answer_charset(struct exchange *ex, struct span charset)
{
    struct buf *text = &ex->worker->text, *scratch = &ex->worker->scratch;
    buf_clear(scratch);
    buf_append_lit(scratch, "unsupported charset \"");
    for (size_t i = 0; i < charset.len; i++)
        buf_append_char(scratch, (char)toupper((unsigned char)charset.ptr[i]));
    buf_append_char(scratch, '"');
    buf_clear(text);
    buf_append_lit(text, "{\"statusCode\":415,\"message\":");
    buf_append_json_string(text, buf_span(scratch));
    buf_append_char(text, '}');
    ex->code = ERR_UNSUPPORTED_CHARSET;
    exchange_answer_json(ex, 415, buf_span(text));
}

/* E-nest: {"message","error","statusCode"}, as thrown exceptions of the legacy framework look. */
static void answer_nest(struct exchange *ex, enum err_code code, const char *error, struct span message)
{
    struct buf *text = &ex->worker->text;
    buf_clear(text);
    buf_append_lit(text, "{\"message\":");
    buf_append_json_string(text, message);
    buf_printf(text, ",\"error\":\"%s\",\"statusCode\":%d}", error, err_info(code)->status);
    ex->code = code;
    exchange_answer_json(ex, err_info(code)->status, buf_span(text));
}

/* ---- the body ---- */

/* The message of JSON.parse in the legacy backend's Node.js for what can be told simply. */
static void answer_bad_json(struct exchange *ex, struct span body)
{
    const struct json_doc *doc = &ex->worker->body_doc;
    struct buf *scratch = &ex->worker->scratch;
    buf_clear(scratch);
    if (doc->err_pos >= body.len)
        buf_append_lit(scratch, "Unexpected end of JSON input");
    else {
        unsigned char c = (unsigned char)body.ptr[doc->err_pos];
        if (c >= 0x20 && c < 0x7f)
            buf_printf(scratch, "Unexpected token %c in JSON at position %u", c, doc->err_pos);
        else
            buf_printf(scratch, "Unexpected token in JSON at position %u", doc->err_pos);
    }
    answer_nest(ex, ERR_BAD_JSON, "Bad Request", buf_span(scratch));
}

/* Indexes the body. *ret_root is NULL for an absent body. False: answered. */
static bool parse_body(struct exchange *ex, const struct json_node **ret_root)
{
    struct span body = http_request_body(ex->http), charset;
    *ret_root = NULL;
    ex->worker->body_doc.count = 0;
    if (http_request_body_too_large(ex->http)) {
        answer_raw(ex, ERR_BODY_TOO_LARGE, 413,
                   "{\"statusCode\":413,\"message\":\"request entity too large\"}");
        return false;
    }
    enum body_kind kind = body_kind(ex, &charset);
    if (kind == BODY_OTHER) {
        if (ex->worker->legacy && path_flag_has_legacy(&ex->flag)) {
            exchange_fall_back(ex, PATH_FALLBACK_CONTENT_TYPE, ERR_NO_COMMAND);
            return false;
        }
        kind = BODY_NONE;
    }
    if (kind == BODY_NONE)
        return true;
    if (charset.ptr &&
        !(charset.len >= 4 && span_eq_nocase((struct span){charset.ptr, 4}, SPAN_LIT("utf-")))) {
        answer_charset(ex, charset);
        return false;
    }
    if (body.len == 0)
        body = SPAN_LIT("{}"); /* an empty JSON body stands for an empty object */
    enum err_code code = json_parse(&ex->worker->body_doc, body, EXCHANGE_JSON_NODES);
    const struct json_node *root = code == ERR_OK ? json_root(&ex->worker->body_doc) : NULL;
    if (code == ERR_NO_MEMORY) {
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
        return false;
    }
    if (root && root->type != JSON_OBJECT && root->type != JSON_ARRAY) { /* strict mode of body-parser */
        ex->worker->body_doc.err_pos = root->start;
        root = NULL;
    }
    if (!root) {
        answer_bad_json(ex, body);
        ex->worker->body_doc.count = 0;
        return false;
    }
    *ret_root = root;
    return true;
}

/* ---- token, parameters, role, schema ---- */

static bool check_token(struct exchange *ex)
{
    if (!ex->route->auth_required)
        return true;
    struct span value = http_request_header(ex->http, "Authorization");
    enum err_code code = ERR_UNAUTHORIZED;
    ex->auth_reason = "no Authorization header";
    if (value.ptr && ex->worker->auth)
        code = auth_verify(ex->worker->auth, value, clock_real_ms() / 1000, &ex->principal, &ex->auth_reason);
    const struct schema *claims = ex->route->claims_schema;
    if (code == ERR_OK && claims &&
        !schema_valid(claims, &ex->principal->claims, json_root(&ex->principal->claims))) {
        code = ERR_UNAUTHORIZED;
        ex->auth_reason = "claims do not satisfy the route's schema";
    }
    if (code == ERR_OK) {
        ex->auth_reason = NULL;
        return true;
    }
    if (code == ERR_NO_MEMORY)
        exchange_answer_error(ex, code, "Out of memory");
    else
        answer_nest(ex, ERR_UNAUTHORIZED, "Unauthorized", SPAN_LIT("Ошибка аутентификации"));
    return false;
}

static bool check_parameters(struct exchange *ex)
{
    if (!ex->match.bad_param.ptr)
        return true;
    struct buf *scratch = &ex->worker->scratch;
    buf_clear(scratch);
    buf_printf(scratch, "Failed to decode param '%.*s'", (int)ex->match.bad_param.len,
               ex->match.bad_param.ptr);
    answer_nest(ex, ERR_BAD_REQUEST, "Bad Request", buf_span(scratch));
    return false;
}

static bool check_role(struct exchange *ex)
{
    const struct route *route = ex->route;
    if (route->role_count == 0)
        return true;
    for (size_t i = 0; i < route->role_count; i++)
        if (ex->principal && auth_principal_has_role(ex->principal, route->roles[i]))
            return true;
    struct buf *scratch = &ex->worker->scratch;
    buf_clear(scratch);
    buf_append_lit(scratch, "Требуется роль: ");
    for (size_t i = 0; i < route->role_count; i++) {
        if (i)
            buf_append_lit(scratch, " или ");
        buf_append_span(scratch, route->roles[i]);
    }
    answer_nest(ex, ERR_FORBIDDEN, "Forbidden", buf_span(scratch));
    return false;
}

static bool check_schema(struct exchange *ex, const struct json_node *root)
{
    const struct route *route = ex->route;
    if (!route->body_schema || (!root && !route->body_required))
        return true;
    if (schema_valid(route->body_schema, &ex->worker->body_doc, root))
        return true;
    struct buf *text = &ex->worker->text;
    buf_clear(text);
    buf_append_lit(
        text,
        "{\"paramsResult\":null,\"headersResult\":null,\"queryResult\":null,\"bodyResult\":{\"issues\":");
    schema_explain(route->body_schema, &ex->worker->body_doc, root, text);
    buf_append_lit(text, ",\"name\":\"ZodError\"}}");
    ex->code = ERR_INVALID;
    if (buf_ok(text))
        exchange_answer_json(ex, 400, buf_span(text));
    else
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
    return false;
}

bool exchange_check(struct exchange *ex)
{
    const struct json_node *root;
    return parse_body(ex, &root) && check_token(ex) && check_parameters(ex) && check_role(ex) &&
           check_schema(ex, root);
}
