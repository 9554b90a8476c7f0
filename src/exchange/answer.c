/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: gateway-made errors, mapped replies, and the legacy backend's, each with its correlation id. */
#include "internal.h"
#include "profile.h"

#define HEADERS_MAX 512 /* above what legacy hands on */

static const struct http_header content_type = {SPAN_INIT("Content-Type"),
                                                SPAN_INIT("application/json; charset=utf-8")};
static const struct http_header problem_type = {SPAN_INIT("Content-Type"),
                                                SPAN_INIT("application/problem+json; charset=utf-8")};
static const struct http_header allow_origin = {SPAN_INIT("Access-Control-Allow-Origin"), SPAN_INIT("*")};
static const struct http_header expose = {SPAN_INIT("Access-Control-Expose-Headers"),
                                          SPAN_INIT("X-Correlation-Id, Retry-After")};

static struct http_header correlation_header(const struct exchange *ex)
{
    return (struct http_header){SPAN_LIT("X-Correlation-Id"), {ex->id_text, AWAIT_ID_TEXT_LEN}};
}

static bool is_problem(const struct exchange *ex)
{
    return ex->view->plan->config->error_profile == CONFIG_ERRORS_PROBLEM;
}

void exchange_answer_json(struct exchange *ex, int status, struct span body)
{
    const struct http_header headers[] = {is_problem(ex) ? problem_type : content_type, allow_origin, expose,
                                          correlation_header(ex)};
    const struct http_answer answer = {status, headers, SG_ARRAY_LEN(headers), body};
    exchange_set_state(ex, EXCHANGE_ANSWERED);
    http_request_answer(ex->http, &answer);
}

void exchange_answer_error(struct exchange *ex, enum err_code code, const char *message)
{
    const struct err_info *info = err_info(code);
    struct buf *body = &ex->worker->payload;
    buf_clear(body);
    if (is_problem(ex)) {
        buf_clear(&ex->worker->scratch);
        buf_append_json_string(&ex->worker->scratch, span_of(message));
        profile_problem(code, buf_span(&ex->worker->scratch), correlation_header(ex).value, body);
    } else {
        buf_append_lit(body, "{\"message\":");
        buf_append_json_string(body, span_of(message));
        buf_printf(body, ",\"error\":\"%s\",\"statusCode\":%d,\"code\":\"%s\",\"correlationId\":\"%s\"}",
                   profile_reason(info->status), info->status, info->wire, ex->id_text);
    }
    ex->code = code;
    if (ex->state == EXCHANGE_STREAMING) { /* too late for a status */
        exchange_stream_end_error(ex, buf_ok(body) ? buf_span(body) : SPAN_LIT("{}"));
        return;
    }
    char seconds[24];
    struct buf retry_after = {seconds, 0, sizeof(seconds), false};
    /* Rounded up: who comes back then is not too early. */
    buf_append_i64(&retry_after, (int64_t)(ex->retry_after_ns / SG_NSEC_PER_SEC) + 1);
    const struct http_header headers[] = {is_problem(ex) ? problem_type : content_type,
                                          allow_origin,
                                          expose,
                                          correlation_header(ex),
                                          {SPAN_LIT("Retry-After"), buf_span(&retry_after)}};
    const struct http_answer answer = {info->status, headers, info->retriable ? 5 : 4,
                                       buf_ok(body) ? buf_span(body) : SPAN_LIT("{}")};
    exchange_set_state(ex, EXCHANGE_ANSWERED);
    http_request_answer(ex->http, &answer);
}

void exchange_answer_stream(struct exchange *ex)
{
    const struct http_header headers[] = {
        {SPAN_LIT("Content-Type"), SPAN_LIT("text/event-stream")},
        {SPAN_LIT("Cache-Control"), SPAN_LIT("no-cache")},
        {SPAN_LIT("X-Accel-Buffering"), SPAN_LIT("no")}, /* nginx would hold events back */
        allow_origin,
        expose,
        correlation_header(ex),
    };
    const struct http_answer answer = {
        .status = 200, .headers = headers, .header_count = SG_ARRAY_LEN(headers)};
    exchange_set_state(ex, EXCHANGE_STREAMING);
    http_request_answer_stream(ex->http, &answer, -1);
}

void exchange_answer_preflight(struct exchange *ex)
{
    const struct http_header headers[] = {
        allow_origin,
        {SPAN_LIT("Access-Control-Allow-Methods"), SPAN_LIT("GET,HEAD,PUT,PATCH,POST,DELETE")},
        {SPAN_LIT("Access-Control-Allow-Headers"), SPAN_LIT("Content-Type, Authorization")},
        correlation_header(ex),
    };
    const struct http_answer answer = {
        .status = 204, .headers = headers, .header_count = SG_ARRAY_LEN(headers)};
    exchange_set_state(ex, EXCHANGE_ANSWERED);
    http_request_answer(ex->http, &answer);
}

/* Header values of a rule are rendered one behind the other into `text`; offsets, because it may move. */
static enum err_code rule_headers(struct exchange *ex, const struct route_answer *rule,
                                  const struct mapping_scope *scope, struct http_header *headers,
                                  size_t *count)
{
    struct buf *text = &ex->worker->text;
    size_t starts[HEADERS_MAX], at = *count;
    buf_clear(text);
    for (size_t i = 0; i < rule->header_count && *count < HEADERS_MAX; i++) {
        bool missing;
        size_t start = text->len;
        enum err_code code =
            mapping_render_text(rule->headers[i].value, scope, &ex->worker->scratch, text, &missing);
        if (code != ERR_OK)
            return code;
        if (missing)
            continue;
        starts[*count] = start;
        headers[(*count)++] = (struct http_header){rule->headers[i].name, {NULL, text->len - start}};
    }
    for (; at < *count; at++)
        headers[at].value.ptr = text->ptr + starts[at];
    return ERR_OK;
}

void exchange_answer_rule(struct exchange *ex, const struct route_answer *rule,
                          const struct mapping_scope *scope)
{
    struct exchange_worker *worker = ex->worker;
    struct http_header headers[HEADERS_MAX];
    size_t count = 0;
    enum err_code code = ERR_OK;
    if (rule->body)
        headers[count++] = content_type;
    headers[count++] = allow_origin;
    headers[count++] = expose;
    headers[count++] = correlation_header(ex);
    buf_clear(&worker->value);
    if (rule->body)
        code = mapping_render(rule->body, scope, &worker->scratch, &worker->value);
    if (code == ERR_OK)
        code = rule_headers(ex, rule, scope, headers, &count);
    if (code != ERR_OK || !buf_ok(&worker->value)) { /* not retriable: the command was executed */
        exchange_answer_error(ex, ERR_INTERNAL,
                              ex->route->one_way
                                  ? "The event was written, but there is no memory to answer with it"
                                  : "The reply came, but there is no memory to answer with it");
        return;
    }
    const struct http_answer answer = {rule->status, headers, count, buf_span(&worker->value)};
    if (!http_request_has_room(ex->http, &answer)) {
        exchange_answer_error(ex, ERR_INTERNAL,
                              ex->route->one_way
                                  ? "The event was written, but the headers of the answer need more "
                                    "SYNCGATE_CONNECTION_MEMORY"
                                  : "The reply came, but the headers of the answer need more "
                                    "SYNCGATE_CONNECTION_MEMORY");
        return;
    }
    exchange_set_state(ex, EXCHANGE_ANSWERED);
    http_request_answer(ex->http, &answer);
}

void exchange_answer_legacy(struct exchange *ex, const struct legacy_response *response,
                            int64_t stream_length, struct span body, bool streamed)
{
    struct http_header headers[HEADERS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < response->header_count && count < HEADERS_MAX - 2; i++)
        if (!span_eq_nocase(response->headers[i].name, SPAN_LIT("X-Correlation-Id")))
            headers[count++] = (struct http_header){response->headers[i].name, response->headers[i].value};
    headers[count++] = expose;
    headers[count++] = correlation_header(ex);
    const struct http_answer answer = {response->status, headers, count, body};
    if (!http_request_has_room(ex->http, &answer)) {
        exchange_proxy_stop(ex);
        exchange_answer_error(
            ex, ERR_LEGACY_BROKEN,
            "The headers of the legacy backend's answer need more SYNCGATE_CONNECTION_MEMORY");
        return;
    }
    exchange_set_state(ex, EXCHANGE_ANSWERED);
    if (streamed)
        http_request_answer_stream(ex->http, &answer, stream_length);
    else
        http_request_answer(ex->http, &answer);
}
