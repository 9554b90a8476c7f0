/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of a Kafka-path request, in the legacy backend's order (legacy contract 0.2): body parsing (body.c), token,
 * path parameters, role, schema. Every answer is the one that backend gives, or the error profile's form of it. */
#include "internal.h"

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
        exchange_refuse(ex, ERR_UNAUTHORIZED, SPAN_LIT("\"Ошибка аутентификации\""));
    return false;
}

static bool check_parameters(struct exchange *ex)
{
    if (!ex->match.bad_param.ptr)
        return true;
    struct buf *plain = &ex->worker->value, *message = &ex->worker->scratch;
    buf_clear(plain);
    buf_clear(message);
    buf_printf(plain, "Failed to decode param '%.*s'", (int)ex->match.bad_param.len, ex->match.bad_param.ptr);
    buf_append_json_string(message, buf_span(plain));
    exchange_refuse(ex, ERR_BAD_REQUEST, buf_span(message));
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
    struct buf *plain = &ex->worker->value, *message = &ex->worker->scratch;
    buf_clear(plain);
    buf_clear(message);
    buf_append_lit(plain, "Требуется роль: ");
    for (size_t i = 0; i < route->role_count; i++) {
        if (i)
            buf_append_lit(plain, " или ");
        buf_append_span(plain, route->roles[i]);
    }
    buf_append_json_string(message, buf_span(plain));
    exchange_refuse(ex, ERR_FORBIDDEN, buf_span(message));
    return false;
}

static bool check_schema(struct exchange *ex, const struct json_node *root)
{
    const struct route *route = ex->route;
    /* What the caller says must not be passed over: what we cannot read is refused where nothing is needed, too. */
    if (!route->body_schema || (!root && !route->body_required && !ex->unread_body))
        return true;
    if (schema_valid(route->body_schema, &ex->worker->body_doc, root))
        return true;
    struct buf *issues = &ex->worker->scratch;
    buf_clear(issues);
    schema_explain(route->body_schema, &ex->worker->body_doc, root, issues);
    exchange_refuse_invalid(ex, issues);
    return false;
}

bool exchange_check(struct exchange *ex)
{
    const struct json_node *root;
    return exchange_parse_body(ex, &root) && check_token(ex) && check_parameters(ex) && check_role(ex) &&
           check_schema(ex, root);
}
