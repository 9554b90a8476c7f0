/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator may look at and change at run time: flags, with a token, and a line in the log for each change; and the
 * breakers, to look at. docs/operations.md describes the answers. */
#include <arpa/inet.h>
#include <stdio.h>

#include "app.h"

#define BODY_NODES 64

static const struct span json_type = SPAN_INIT("application/json");

/* ---- who asks ---- */

/* Every byte is looked at, so that the time tells nothing about how much was right. */
static bool same_secret(struct span a, struct span b)
{
    unsigned char differs = a.len != b.len;
    for (size_t i = 0; i < a.len; i++)
        differs |= (unsigned char)(a.ptr[i] ^ b.ptr[b.len ? i % b.len : 0]);
    return !differs;
}

/* The name that belongs to the token of the request; ptr NULL: nobody's. */
static struct span who_asks(const struct admin_call *call)
{
    struct span value = http_request_header(call->http, "Authorization"), name, token, found = {NULL, 0};
    const struct span scheme = SPAN_LIT("Bearer ");
    const char *rest = app_config(call->app)->admin_tokens;
    if (value.len <= scheme.len || !span_eq_nocase((struct span){value.ptr, scheme.len}, scheme))
        return found;
    value = span_trim((struct span){value.ptr + scheme.len, value.len - scheme.len});
    while (config_next_admin_token(&rest, &name, &token))
        if (same_secret(value, token))
            found = name;
    return found;
}

static void peer_text(const struct admin_call *call, char out[INET6_ADDRSTRLEN])
{
    const struct sockaddr *peer = http_request_peer(call->http);
    snprintf(out, INET6_ADDRSTRLEN, "unknown");
    if (peer && peer->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, out,
                  INET6_ADDRSTRLEN);
    else if (peer && peer->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, out,
                  INET6_ADDRSTRLEN);
}

/* ---- rendering ---- */

static void append_flag(struct buf *out, const struct app_flag *flag)
{
    char text[PATH_FLAG_TEXT_LEN + 1];
    path_flag_format(&flag->flag, text);
    buf_printf(out, "\"value\":\"%s\",\"source\":\"%s\"", text, app_flag_source_name(flag->source));
}

static void append_operation(struct buf *out, const char *name, const struct app_flag *flag)
{
    buf_append_lit(out, "{\"operationId\":");
    buf_append_json_string(out, span_of(name));
    buf_append_char(out, ',');
    append_flag(out, flag);
    buf_printf(out, ",\"own\":%s}", flag->own ? "true" : "false");
}

/* operation NULL: all of them and the common value. */
static void answer_flags(struct admin_call *call, const char *operation)
{
    const struct exchange_plan *plan = call->app->plan;
    struct app_flag *flags = calloc(plan->routes->count + 1, sizeof(*flags)), common;
    struct buf out = BUF_INIT;
    struct err err;
    bool ok =
        flags && app_flags_resolve(call->app, plan->config, plan->routes, flags, &common, &err) == ERR_OK;
    if (ok && !operation) {
        buf_append_lit(&out, "{\"common\":{");
        append_flag(&out, &common);
        buf_append_lit(&out, "},\"operations\":[");
    }
    for (size_t i = 0, shown = 0; ok && i < plan->routes->count; i++) {
        const char *name = plan->states[i].operation->name;
        if (operation && strcmp(name, operation) != 0)
            continue;
        if (shown++)
            buf_append_char(&out, ',');
        append_operation(&out, name, &flags[i]);
    }
    if (ok && !operation)
        buf_append_lit(&out, "]}");
    if (ok && buf_ok(&out))
        app_admin_answer(call, 200, json_type, buf_span(&out));
    else
        app_admin_refuse(call, 503, "Out of memory");
    buf_fini(&out);
    free(flags);
}

/* ---- changing ---- */

/* The value in force: of an operation, or the common one. */
static bool value_now(const struct app *app, const char *operation, char out[PATH_FLAG_TEXT_LEN + 1])
{
    const struct exchange_plan *plan = app->plan;
    struct app_flag *flags = calloc(plan->routes->count + 1, sizeof(*flags)), common, *chosen = NULL;
    struct err err;
    if (flags && app_flags_resolve(app, plan->config, plan->routes, flags, &common, &err) == ERR_OK) {
        if (!operation)
            chosen = &common;
        for (size_t i = 0; operation && i < plan->routes->count; i++)
            if (strcmp(plan->states[i].operation->name, operation) == 0)
                chosen = &flags[i];
    }
    if (chosen)
        path_flag_format(&chosen->flag, out);
    free(flags);
    return chosen != NULL;
}

static bool parse_body(struct admin_call *call, struct path_flag *ret_flag, struct err *err)
{
    struct json_doc doc = JSON_DOC_INIT;
    struct buf scratch = BUF_INIT;
    bool ok = false;
    const struct json_node *value = NULL;
    if (json_parse(&doc, http_request_body(call->http), BODY_NODES) == ERR_OK &&
        json_root(&doc)->type == JSON_OBJECT)
        value = json_get(&doc, json_root(&doc), SPAN_LIT("value"));
    if (!value || value->type != JSON_STRING)
        err_set(err, ERR_BAD_REQUEST, "expected a body such as {\"value\":\"split:10\"}");
    else {
        struct span text = json_string(&doc, value, &scratch);
        ok = text.ptr && path_flag_parse(text, "value", ret_flag, err) == ERR_OK;
    }
    json_fini(&doc);
    buf_fini(&scratch);
    return ok;
}

static void change(struct admin_call *call, struct span who, const char *operation,
                   const struct path_flag *flag)
{
    char before[PATH_FLAG_TEXT_LEN + 1] = "", after[PATH_FLAG_TEXT_LEN + 1] = "", peer[INET6_ADDRSTRLEN];
    struct err err = {ERR_OK, "out of memory"};
    bool known = value_now(call->app, operation, before);
    enum err_code code = known ? app_flags_override(call->app, operation, flag, &err) : ERR_NOT_FOUND;
    if (code == ERR_NOT_FOUND) {
        app_admin_refuse(call, 404, "No route has this operationId");
        return;
    }
    if (code != ERR_OK) {
        app_admin_refuse(call, code == ERR_NO_MEMORY ? 503 : 409, err.text);
        return;
    }
    char *name = span_dup(who);
    value_now(call->app, operation, after);
    peer_text(call, peer);
    app_log_flag(name ? name : "?", peer, operation, before, after);
    free(name);
    answer_flags(call, operation);
}

/* ---- calls ---- */

static void on_flags(struct admin_call *call, struct span method, const char *operation)
{
    struct path_flag flag;
    struct err err = {ERR_OK, ""};
    char scratch[PATH_FLAG_TEXT_LEN + 1];
    if (!app_config(call->app)->admin_tokens) {
        app_admin_refuse(call, 403, "Nobody may: SYNCGATE_ADMIN_TOKENS is not set");
        return;
    }
    struct span who = who_asks(call);
    bool look = span_eq(method, SPAN_LIT("GET")) || span_eq(method, SPAN_LIT("HEAD"));
    if (!who.ptr)
        app_admin_refuse(call, 401, "Expected Authorization: Bearer with one of SYNCGATE_ADMIN_TOKENS");
    else if (look && operation && !value_now(call->app, operation, scratch))
        app_admin_refuse(call, 404, "No route has this operationId");
    else if (look)
        answer_flags(call, operation);
    else if (span_eq(method, SPAN_LIT("DELETE")))
        change(call, who, operation, NULL);
    else if (!span_eq(method, SPAN_LIT("PUT")))
        app_admin_refuse(call, 405, "Expected GET, PUT or DELETE");
    else if (!parse_body(call, &flag, &err))
        app_admin_refuse(call, 400, err.text);
    else
        change(call, who, operation, &flag);
}

static void append_breaker(struct buf *out, const char *name, const struct path_breaker_view *view)
{
    buf_printf(out, "{\"scope\":\"%s\",", name ? "route" : "cluster");
    if (name) {
        buf_append_lit(out, "\"operationId\":");
        buf_append_json_string(out, span_of(name));
        buf_append_char(out, ',');
    }
    buf_printf(out,
               "\"state\":\"%s\",\"reason\":\"%s\",\"nextProbeMs\":%llu,\"calls\":%u,"
               "\"produceFailures\":%u,\"timeouts\":%u,\"opened\":%llu}",
               path_breaker_state_name(view->state), path_breaker_reason_name(view->reason),
               (unsigned long long)((view->wait_ns + SG_NSEC_PER_MSEC - 1) / SG_NSEC_PER_MSEC), view->calls,
               view->produce_failures, view->timeouts, (unsigned long long)view->opened);
}

static void answer_breakers(struct admin_call *call)
{
    struct app *app = call->app;
    struct path_breaker_view view;
    struct buf out = BUF_INIT;
    exchange_cluster_observe(&app->shared, app->plan);
    exchange_breaker_look(&app->shared.cluster, &app->plan->cluster_breaker, &view);
    buf_append_lit(&out, "{\"breakers\":[");
    append_breaker(&out, NULL, &view);
    for (size_t i = 0; i < app->plan->routes->count; i++) {
        struct exchange_operation *operation = app->plan->states[i].operation;
        exchange_breaker_look(&operation->breaker, &app->plan->route_breaker, &view);
        buf_append_char(&out, ',');
        append_breaker(&out, operation->name, &view);
    }
    buf_append_lit(&out, "]}");
    if (buf_ok(&out))
        app_admin_answer(call, 200, json_type, buf_span(&out));
    else
        app_admin_refuse(call, 503, "Out of memory");
    buf_fini(&out);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The operationId behind /admin/flags/, percent-decoded: it is free text. Empty: none, as with a wrong escape or a NUL, which no
 * operation has in its name. NULL without memory. */
static char *decode_operation(struct span text)
{
    char *name = malloc(text.len + 1);
    size_t len = 0;
    for (size_t i = 0; name && i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '%') {
            int high = i + 2 < text.len ? hex_digit(text.ptr[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text.ptr[i + 2]) : -1;
            c = low >= 0 ? (char)(high * 16 + low) : '\0';
            i += 2;
        }
        if (c == '\0') {
            len = 0;
            break;
        }
        name[len++] = c;
    }
    if (name)
        name[len] = '\0';
    return name;
}

bool app_admin_flags(struct admin_call *call, struct span method, struct span target)
{
    const struct span flags = SPAN_LIT("/admin/flags");
    if (span_eq(target, SPAN_LIT("/admin/breakers")) &&
        (span_eq(method, SPAN_LIT("GET")) || span_eq(method, SPAN_LIT("HEAD")))) {
        answer_breakers(call);
        return true;
    }
    if (target.len < flags.len || !span_eq((struct span){target.ptr, flags.len}, flags) ||
        (target.len > flags.len && target.ptr[flags.len] != '/'))
        return false;
    struct span rest = {target.ptr + flags.len, target.len - flags.len};
    char *operation = rest.len ? decode_operation((struct span){rest.ptr + 1, rest.len - 1}) : NULL;
    if (rest.len && !operation)
        app_admin_refuse(call, 503, "Out of memory");
    else /* with an empty name it is nobody's flag, not everybody's: the variable in somebody's script was not set */
        on_flags(call, method, operation);
    free(operation);
    return true;
}
