/* SPDX-License-Identifier: Apache-2.0 */
/* One log line and one count an exchange. Never a token, never a body, and no query string (it may carry either). */
#include "internal.h"

static struct span path_of(struct span target)
{
    const char *mark = memchr(target.ptr, '?', target.len);
    return mark ? (struct span){target.ptr, (size_t)(mark - target.ptr)} : target;
}

void exchange_report(struct exchange *ex, const struct http_summary *summary)
{
    struct exchange_worker *worker = ex->worker;
    uint64_t duration_ns = clock_mono_ns() - summary->started_ns;
    int status = summary->status ? summary->status : 499; /* the client left before an answer was queued */
    ops_count_request(worker->counters, ex->route ? exchange_route_state(ex)->operation->slot : OPS_NO_ROUTE,
                      ex->path, status, duration_ns);
    struct log_line line;
    if (!log_begin(&line, status >= 500 ? LOG_WARN : LOG_INFO, "exchange")) {
        log_end(&line);
        return;
    }
    log_str(&line, "correlationId", ex->id_text);
    log_span(&line, "method", http_request_method(ex->http));
    log_span(&line, "target", path_of(http_request_target(ex->http)));
    if (ex->route)
        log_span(&line, "route", ex->route->operation_id);
    log_str(&line, "path", path_taken_name(ex->path));
    log_i64(&line, "status", status);
    log_ms(&line, "durationMs", duration_ns);
    if (ex->parked_ns)
        log_ms(&line, "waitMs", ex->waited_ns);
    if (ex->stream)
        log_u64(&line, "events", ex->stream->events);
    if (ex->fallback >= 0)
        log_str(&line, "fallback", path_fallback_name((enum path_fallback)ex->fallback));
    if (ex->code != ERR_OK)
        log_str(&line, "code", err_info(ex->code)->label);
    if (ex->auth_reason)
        log_str(&line, "auth", ex->auth_reason);
    if (ex->uncertain)
        log_bool(&line, "uncertain", true);
    if (summary->client_gone && !summary->completed)
        log_bool(&line, "clientGone", true);
    struct span trace = http_request_header(ex->http, "traceparent");
    if (trace.ptr)
        log_span(&line, "traceparent", trace);
    log_end(&line);
}
