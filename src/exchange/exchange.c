/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - A call belongs to one loop; everything here runs on it, but exchange_on_record() (reply.c), which touches only the shared
 *   part that is immutable or has its own lock.
 * - In PARKED and STREAMING, and only there, the call is in the awaiter table. Whoever removes it answers it.
 * - A call in PROXYING was never handed to Kafka, or Kafka said NOT_PERSISTED (exchange_fall_back is the only door). */
#include "internal.h"

static const char *const state_names[] = {
#define X(code, name) name,
    EXCHANGE_STATES(X)
#undef X
};

/* The legal moves, row by row: from -> bit set of to. docs/states.md draws it. */
static const unsigned transitions[EXCHANGE_STATE_COUNT] = {
    [EXCHANGE_NEW] = 1u << EXCHANGE_COLLECTING | 1u << EXCHANGE_PROXYING | 1u << EXCHANGE_ANSWERED,
    [EXCHANGE_COLLECTING] = 1u << EXCHANGE_PARKED | 1u << EXCHANGE_PROXYING | 1u << EXCHANGE_ANSWERED,
    [EXCHANGE_PARKED] = 1u << EXCHANGE_STREAMING | 1u << EXCHANGE_PROXYING | 1u << EXCHANGE_ANSWERED,
    [EXCHANGE_STREAMING] = 1u << EXCHANGE_ANSWERED,
    [EXCHANGE_PROXYING] = 1u << EXCHANGE_ANSWERED,
    [EXCHANGE_ANSWERED] = 0,
};

void exchange_set_state(struct exchange *ex, enum exchange_state state)
{
    if (!(transitions[ex->state] & 1u << state))
        base_bug(state_names[ex->state], state_names[state], (int)ex->path);
    ex->state = state;
}

struct exchange_route *exchange_route_state(const struct exchange *ex)
{
    return &ex->view->plan->states[ex->route->index];
}

static struct span header_of(const void *arg, struct span lower_name)
{
    const struct exchange *ex = arg;
    char name[128];
    if (lower_name.len >= sizeof(name))
        return (struct span){NULL, 0};
    memcpy(name, lower_name.ptr, lower_name.len);
    name[lower_name.len] = '\0';
    return http_request_header(ex->http, name);
}

void exchange_scope(const struct exchange *ex, struct mapping_scope *scope)
{
    struct span target = http_request_target(ex->http);
    const char *mark = memchr(target.ptr, '?', target.len);
    *scope = (struct mapping_scope){
        .body = json_root(&ex->worker->body_doc) ? &ex->worker->body_doc : NULL,
        .claims = ex->principal ? &ex->principal->claims : NULL,
        .path = ex->match.params,
        .path_count = ex->match.param_count,
        .query = mark ? (struct span){mark + 1, (size_t)(target.ptr + target.len - mark - 1)}
                      : (struct span){"", 0},
        .header = header_of,
        .header_arg = ex,
        .correlation_id = {ex->id_text, AWAIT_ID_TEXT_LEN},
        .operation_id = ex->route->operation_id,
        .now_ms = ex->now_ms,
        .deadline_ms = ex->deadline_ms,
        .timeout_ms = ex->route->timeout_ms,
    };
}

void exchange_body_release(struct exchange *ex, bool drop)
{
    if (drop)
        http_request_body_drop(ex->http);
    if (ex->body_reserved)
        atomic_fetch_sub_explicit(&ex->worker->shared->body_bytes, ex->body_reserved, memory_order_relaxed);
    ex->body_reserved = 0;
}

/* ---- leaving the table ---- */

void exchange_unpark(struct exchange *ex, enum await_winner winner)
{
    SG_ASSERT(exchange_waits(ex));
    if (await_is_pending(&ex->entry)) /* the deadline has removed it already */
        await_remove(&ex->entry, winner);
    exchange_fields_remove(ex);
    exchange_await_report(ex, false);
    if (ex->in_flight)
        atomic_fetch_sub_explicit(&exchange_route_state(ex)->operation->in_flight, 1, memory_order_relaxed);
    ex->in_flight = false;
    if (ex->stream)
        exchange_stream_quit(ex);
    else
        ex->waited_ns = loop_now_ns(ex->worker->loop) - ex->parked_ns;
    exchange_breaker_report_end(ex, winner);
}

static void on_deadline(struct await_entry *entry)
{
    struct exchange *ex = SG_CONTAINER_OF(entry, struct exchange, entry);
    exchange_unpark(ex, AWAIT_WON_DEADLINE);
    if (ex->route->one_way)
        exchange_answer_error(ex, ERR_KAFKA_UNCERTAIN,
                              "No acknowledgement arrived in time; whether the event was written is unknown");
    else
        exchange_answer_error(ex, ERR_REPLY_TIMEOUT,
                              "No reply arrived in time; the outcome of the command is unknown");
}

void exchange_worker_abandon(struct exchange_worker *worker)
{
    uint32_t place = 0;
    for (struct await_entry *entry; (entry = await_next(worker->table, &place));) {
        struct exchange *ex = SG_CONTAINER_OF(entry, struct exchange, entry);
        exchange_unpark(ex, AWAIT_WON_SHUTDOWN);
        exchange_answer_error(ex, ERR_ABANDONED,
                              "The gateway is stopping; the outcome of the command is unknown");
    }
}

/* ---- the front's callbacks ---- */

/* Whether the client asks for a protocol that it cannot do without. An offer of h2c is passed over (RFC 9110 section 7.8): some
 * clients make it with every request, and go on with HTTP/1.1. */
static bool wants_upgrade(const struct exchange *ex)
{
    struct span rest = http_request_header(ex->http, "Upgrade");
    if (!rest.ptr || !http_request_header(ex->http, "Connection").ptr)
        return false;
    while (rest.len) {
        const char *comma = memchr(rest.ptr, ',', rest.len);
        size_t len = comma ? (size_t)(comma - rest.ptr) : rest.len;
        struct span protocol = span_trim((struct span){rest.ptr, len});
        if (protocol.len && !span_eq_nocase(protocol, SPAN_LIT("h2c")))
            return true;
        len += comma != NULL;
        rest = (struct span){rest.ptr + len, rest.len - len};
    }
    return false;
}

/* A browser asks before it calls a route of `only`: that must not need the legacy backend either. */
static bool asks_for_only(const struct exchange *ex)
{
    const struct exchange_plan *plan = ex->view->plan;
    struct route_match match;
    if (!span_eq(http_request_method(ex->http), SPAN_LIT("OPTIONS")))
        return false;
    struct span method = http_request_header(ex->http, "Access-Control-Request-Method");
    if (!method.ptr)
        return false;
    bool only = route_table_match(plan->routes, method, http_request_target(ex->http), &match) == ERR_OK &&
                match.route && exchange_route_flag(&plan->states[match.route->index]).mode == PATH_MODE_ONLY;
    route_match_fini(&match);
    return only;
}

static void begin_without_kafka(struct exchange *ex)
{
    if (wants_upgrade(ex)) {
        exchange_answer_error(ex, ERR_UPGRADE, "Protocol upgrades are not supported");
        return;
    }
    if (ex->worker->legacy && !asks_for_only(ex)) {
        exchange_proxy_start(ex, true);
        return;
    }
    /* As the legacy backend answers it for every path, asked by a browser or not. */
    if (span_eq(http_request_method(ex->http), SPAN_LIT("OPTIONS"))) {
        exchange_answer_preflight(ex);
        return;
    }
    struct span method = http_request_method(ex->http), target = http_request_target(ex->http);
    buf_clear(&ex->worker->text);
    buf_printf(&ex->worker->text, "Cannot %.*s %.*s", (int)method.len, method.ptr, (int)target.len,
               target.ptr);
    buf_append_char(&ex->worker->text, '\0');
    exchange_answer_error(ex, ERR_NOT_FOUND, buf_ok(&ex->worker->text) ? ex->worker->text.ptr : "Not found");
}

static void *on_begin(void *arg, struct http_request *http)
{
    struct exchange_worker *worker = arg;
    struct exchange *ex = calloc(1, sizeof(*ex));
    if (!ex) {
        const struct http_answer answer = {
            .status = 503, .body = SPAN_LIT("{\"message\":\"Out of memory\",\"statusCode\":503}")};
        if (!http_request_is_answered(http))
            http_request_answer(http, &answer);
        return NULL;
    }
    ex->worker = worker;
    ex->view = exchange_view_take(worker);
    ex->http = http;
    ex->fallback = -1;
    ex->entry.on_deadline = on_deadline;
    worker->active++;
    await_id_without_slot(worker->table, &ex->id);
    await_id_format(&ex->id, ex->id_text);
    if (http_request_is_answered(http)) { /* by the front: its head, or the gateway stops */
        ex->code = ERR_BAD_REQUEST;
        exchange_set_state(ex, EXCHANGE_ANSWERED);
        return ex;
    }
    if (route_table_match(ex->view->plan->routes, http_request_method(http), http_request_target(http),
                          &ex->match) != ERR_OK) {
        exchange_answer_error(ex, ERR_NO_MEMORY, "Out of memory");
        return ex;
    }
    ex->route = ex->match.route;
    if (ex->route)
        ex->flag = exchange_route_flag(exchange_route_state(ex));
    int reason = -1;
    if (ex->route && exchange_takes_kafka(ex, &reason)) {
        ex->path = PATH_TAKEN_KAFKA;
        exchange_set_state(ex, EXCHANGE_COLLECTING);
        return ex;
    }
    if (reason >= 0)
        exchange_note_fallback(ex, (enum path_fallback)reason);
    if (reason >= 0 && !(worker->legacy && path_flag_has_legacy(&ex->flag)))
        exchange_answer_error(ex, ERR_OVERLOADED,
                              "Too many request bodies are being received; this request was not executed");
    else
        begin_without_kafka(ex);
    return ex;
}

static size_t on_body(void *user, const char *data, size_t len)
{
    return exchange_proxy_write(user, data, len);
}

static void on_end(void *user)
{
    struct exchange *ex = user;
    if (ex->path == PATH_TAKEN_LEGACY) { /* its answer may have begun already */
        if (ex->call && ex->legacy_streaming)
            legacy_call_write_end(ex->call);
        return;
    }
    if (exchange_check(ex))
        exchange_send_command(ex);
}

static void on_gone(void *user)
{
    struct exchange *ex = user;
    if (!ex)
        return;
    if (exchange_waits(ex))
        exchange_unpark(ex, AWAIT_WON_CLIENT_GONE);
    exchange_proxy_stop(ex);
    if (ex->state != EXCHANGE_ANSWERED)
        exchange_set_state(ex, EXCHANGE_ANSWERED);
    ex->code = ERR_CLIENT_GONE;
    http_request_abort(ex->http);
}

static void on_drain(void *user)
{
    struct exchange *ex = user;
    if (ex->call)
        legacy_call_resume(ex->call);
    if (ex->stream)
        exchange_stream_drain(ex);
}

static void on_done(void *user, const struct http_summary *summary)
{
    struct exchange *ex = user;
    if (!ex)
        return;
    if (exchange_waits(ex))
        exchange_unpark(ex, AWAIT_WON_CLIENT_GONE);
    exchange_proxy_stop(ex);
    exchange_report(ex, summary);
    exchange_stream_free(ex);
    ex->worker->active--;
    exchange_body_release(ex, false);
    exchange_view_release(ex->worker, ex->view);
    auth_principal_unrefp(&ex->principal);
    route_match_fini(&ex->match);
    buf_fini(&ex->legacy_body);
    free(ex->legacy_head);
    free(ex);
}

const struct http_handler exchange_http_handler = {
    .on_begin = on_begin,
    .on_body = on_body,
    .on_end = on_end,
    .on_gone = on_gone,
    .on_drain = on_drain,
    .on_done = on_done,
};

const struct kafka_handler exchange_kafka_handler = {
    .on_record = exchange_on_record,
    .on_reply = exchange_on_reply,
    .on_delivery = exchange_on_delivery,
};
