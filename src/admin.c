/* SPDX-License-Identifier: Apache-2.0 */
/* The admin port: health and metrics, answered on main's loop. Numbers that the workers count without atomics are gathered
 * by a message that visits each of their loops; the scrape is parked meanwhile like any other request. */
#include <stdio.h>

#include "app.h"

/* ---- gathering ---- */

static void gather_hop(struct app_gather *gather);

/* Thread: a worker's loop, then main's. */
static void on_gather(struct loop_msg *msg)
{
    struct app_gather *gather = SG_CONTAINER_OF(msg, struct app_gather, msg);
    struct app *app = gather->app;
    if (gather->next > app->worker_count) {
        gather->on_complete(gather);
        return;
    }
    struct app_worker *worker = &app->workers[gather->next - 1];
    exchange_worker_collect(worker->exchange, gather->counters, &gather->gauges);
    if (gather->abandon)
        exchange_worker_abandon(worker->exchange);
    gather_hop(gather);
}

static void gather_hop(struct app_gather *gather)
{
    size_t to = gather->next++;
    loop_post(to < gather->app->worker_count ? gather->app->workers[to].loop : gather->app->loop,
              &gather->msg);
}

struct app_gather *app_gather_start(struct app *app, bool abandon, void (*on_complete)(struct app_gather *),
                                    void *arg)
{
    struct app_gather *gather = calloc(1, sizeof(*gather));
    if (!gather)
        return NULL;
    gather->msg.on_msg = on_gather;
    gather->app = app;
    gather->abandon = abandon;
    gather->on_complete = on_complete;
    gather->arg = arg;
    gather->counters = ops_counters_new(app->shared.operation_count);
    if (!gather->counters) {
        free(gather);
        return NULL;
    }
    gather_hop(gather);
    return gather;
}

void app_gather_freep(struct app_gather **gather)
{
    if (!*gather)
        return;
    ops_counters_freep(&(*gather)->counters);
    free(*gather);
    *gather = NULL;
}

/* ---- health ---- */

bool app_closed_route(const struct app *app, enum app_scope scope, struct exchange_closed *ret_closed)
{
    const struct exchange_plan *plan = app->plan;
    for (size_t i = 0; i < plan->routes->count; i++) {
        struct path_flag flag = exchange_route_flag(&plan->states[i]);
        struct exchange_closed closed;
        if (!path_flag_needs_kafka(&flag) || (scope == APP_ONLY_KAFKA && path_flag_has_legacy(&flag)) ||
            !exchange_route_closed(&app->shared, plan, &plan->routes->routes[i], &closed) ||
            (scope != APP_ALL_ROUTES && closed.lacks_topic))
            continue;
        *ret_closed = closed;
        return true;
    }
    return false;
}

bool app_uses_kafka(const struct app *app)
{
    for (size_t i = 0; i < app->plan->routes->count; i++) {
        struct path_flag flag = exchange_route_flag(&app->plan->states[i]);
        if (path_flag_needs_kafka(&flag))
            return true;
    }
    return false;
}

static size_t health_checks(const struct app *app, struct ops_check checks[3])
{
    struct exchange_closed closed;
    bool is_closed = app_closed_route(app, APP_ONLY_KAFKA, &closed), leaving = app->phase >= APP_LEAVING;
    checks[0] = (struct ops_check){.name = "running", .ok = !leaving};
    snprintf(checks[0].detail, sizeof(checks[0].detail), "%s",
             leaving ? "shutting down" : "accepting requests");
    checks[1] = (struct ops_check){.name = "kafka", .ok = !is_closed};
    if (is_closed || app_closed_route(app, APP_ALL_ROUTES, &closed)) /* the latter: it serves all the same */
        snprintf(checks[1].detail, sizeof(checks[1].detail), "%s%s%.*s", closed.why,
                 closed.topic.ptr ? ": " : "", (int)closed.topic.len, closed.topic.ptr);
    else
        snprintf(checks[1].detail, sizeof(checks[1].detail), "%s",
                 app_uses_kafka(app) ? "reading all reply topics" : "not used");
    /* A start does not send its first requests to legacy only because positions take a moment to look up. */
    checks[2] = (struct ops_check){.name = "start", .ok = app->phase != APP_STARTING};
    snprintf(checks[2].detail, sizeof(checks[2].detail), "%s",
             app->phase == APP_STARTING ? "waiting for Kafka" : "done");
    return 3;
}

bool app_is_ready(const struct app *app, const char **ret_why)
{
    struct ops_check checks[3];
    size_t count = health_checks(app, checks);
    for (size_t i = 0; i < count; i++) {
        if (!checks[i].ok) {
            *ret_why = checks[i].name;
            return false;
        }
    }
    return true;
}

/* ---- calls ---- */

void app_admin_answer(struct admin_call *call, int status, struct span type, struct span body)
{
    const struct http_header headers[] = {{SPAN_LIT("Content-Type"), type},
                                          {SPAN_LIT("Cache-Control"), SPAN_LIT("no-store")}};
    const struct http_answer reply = {status, headers, SG_ARRAY_LEN(headers), body};
    http_request_answer(call->http, &reply);
}

void app_admin_refuse(struct admin_call *call, int status, const char *message)
{
    struct buf out = BUF_INIT;
    buf_append_lit(&out, "{\"message\":");
    buf_append_json_string(&out, span_of(message));
    buf_printf(&out, ",\"statusCode\":%d}", status);
    app_admin_answer(call, status, SPAN_LIT("application/json"),
                     buf_ok(&out) ? buf_span(&out) : SPAN_LIT("{}"));
    buf_fini(&out);
}

static void call_release(struct admin_call *call)
{
    if (!call->http && !call->gathering)
        free(call);
}

static void fill_kafka(const struct app *app, struct ops_process *process)
{
    struct kafka_stats stats = kafka_stats(app->kafka);
    process->kafka = true;
    process->kafka_reachable = kafka_is_reachable(app->kafka);
    process->kafka_records = stats.records;
    process->dead_letters_sent = stats.forwarded;
    process->dead_letters_failed = stats.forward_failures;
    process->kafka_delivered = stats.delivered;
    process->kafka_not_persisted = stats.not_persisted;
    process->kafka_uncertain = stats.uncertain;
    process->kafka_offset_resets = stats.offset_resets;
    process->kafka_partitions = stats.partitions;
    process->kafka_queue_len = stats.queue_len;
    process->kafka_fatal_errors = stats.fatal_errors;
}

/* One row for each operation that ever had a route; what its route says now, if it still has one. */
static void fill_operations(struct app *app, struct ops_operation *operations)
{
    const struct exchange_plan *plan = app->plan;
    for (size_t i = 0; i < app->shared.operation_count; i++) {
        struct exchange_operation *operation = app->shared.operations[i];
        operations[i].name = span_of(operation->name);
        exchange_breaker_look(&operation->breaker, &plan->route_breaker, &operations[i].breaker);
    }
    for (size_t i = 0; i < plan->routes->count; i++) {
        struct exchange_operation *operation = plan->states[i].operation;
        struct ops_operation *row = &operations[operation->slot];
        struct path_flag flag = exchange_route_flag(&plan->states[i]);
        row->active = true;
        row->parked = atomic_load_explicit(&operation->in_flight, memory_order_relaxed);
        row->kafka_ratio = flag.mode == PATH_MODE_LEGACY  ? 0
                           : flag.mode == PATH_MODE_SPLIT ? flag.share / 10000.0
                                                          : 1;
    }
}

static void answer_metrics(struct admin_call *call, const struct app_gather *gather)
{
    struct app *app = gather->app;
    struct ops_operation *operations = calloc(app->shared.operation_count + 1, sizeof(*operations));
    struct ops_process process = {
        .connections = http_listener_connections(app->listener),
        .log_dropped = log_dropped_total(),
        .draining = app->phase >= APP_LEAVING,
        .unmatched_skipped = atomic_load_explicit(&app->shared.unmatched, memory_order_relaxed),
        .invalid_skipped = atomic_load_explicit(&app->shared.invalid, memory_order_relaxed),
        .body_bytes = atomic_load_explicit(&app->shared.body_bytes, memory_order_relaxed),
        .reloads_ok = app->reloads_ok,
        .reloads_failed = app->reloads_failed,
        .operations = operations,
        .operation_count = operations ? app->shared.operation_count : 0,
        .version = APP_VERSION,
    };
    if (operations)
        fill_operations(app, operations);
    if (app->kafka) {
        fill_kafka(app, &process);
        exchange_cluster_observe(&app->shared, app->plan);
        exchange_breaker_look(&app->shared.cluster, &app->plan->cluster_breaker, &process.cluster_breaker);
    }
    struct buf out = BUF_INIT;
    ops_render_metrics(gather->counters, &gather->gauges, &process, &out);
    if (buf_ok(&out) && operations)
        app_admin_answer(call, 200, SPAN_LIT("text/plain; version=0.0.4; charset=utf-8"), buf_span(&out));
    else
        app_admin_answer(call, 503, SPAN_LIT("text/plain"), SPAN_LIT("out of memory\n"));
    buf_fini(&out);
    free(operations);
}

static void on_metrics(struct app_gather *gather)
{
    struct admin_call *call = gather->arg;
    call->gathering = false;
    /* A scraper that left while the count was on its tour has been given up, though its request is not over yet. */
    if (call->http && !http_request_is_answered(call->http))
        answer_metrics(call, gather);
    app_gather_freep(&gather);
    call_release(call);
}

static void answer_ready(struct admin_call *call)
{
    struct ops_check checks[3];
    size_t count = health_checks(call->app, checks);
    struct buf out = BUF_INIT;
    bool ready =
        ops_render_health(checks, count, APP_VERSION, config_is_embedded(app_config(call->app)), &out);
    app_admin_answer(call, ready ? 200 : 503, SPAN_LIT("application/json"),
                     buf_ok(&out) ? buf_span(&out) : SPAN_LIT("{}"));
    buf_fini(&out);
}

static void *on_begin(void *arg, struct http_request *http)
{
    struct admin_call *call = calloc(1, sizeof(*call));
    if (!call) {
        const struct http_answer refused = {.status = 503};
        if (!http_request_is_answered(http))
            http_request_answer(http, &refused);
        return NULL;
    }
    call->app = arg;
    call->http = http;
    return call;
}

static void on_end(void *user)
{
    struct admin_call *call = user;
    struct span method = http_request_method(call->http), target = http_request_target(call->http);
    if (app_admin_flags(call, method, target))
        return;
    if (!span_eq(method, SPAN_LIT("GET")) && !span_eq(method, SPAN_LIT("HEAD")))
        app_admin_answer(call, 405, SPAN_LIT("application/json"),
                         SPAN_LIT("{\"message\":\"Method not allowed\",\"statusCode\":405}"));
    else if (span_eq(target, SPAN_LIT("/health/live")))
        app_admin_answer(call, 200, SPAN_LIT("application/json"), SPAN_LIT("{\"status\":\"ok\"}"));
    else if (span_eq(target, SPAN_LIT("/health/ready")) || span_eq(target, SPAN_LIT("/health")))
        answer_ready(call);
    else if (span_eq(target, SPAN_LIT("/metrics"))) {
        call->gathering = app_gather_start(call->app, false, on_metrics, call) != NULL;
        if (!call->gathering)
            app_admin_answer(call, 503, SPAN_LIT("text/plain"), SPAN_LIT("out of memory\n"));
    } else
        app_admin_answer(call, 404, SPAN_LIT("application/json"),
                         SPAN_LIT("{\"message\":\"Not found; see /health/live, /health/ready, /metrics, "
                                  "/admin/flags, /admin/breakers\",\"statusCode\":404}"));
}

static size_t on_body(void *user, const char *data, size_t len)
{
    (void)user;
    (void)data;
    return len;
}

static void on_gone(void *user)
{
    struct admin_call *call = user;
    if (call)
        http_request_abort(call->http);
}

static void on_drain(void *user)
{
    (void)user;
}

static void on_done(void *user, const struct http_summary *summary)
{
    (void)summary;
    struct admin_call *call = user;
    if (!call)
        return;
    call->http = NULL;
    call_release(call);
}

const struct http_handler app_admin_handler = {
    .on_begin = on_begin,
    .on_body = on_body,
    .on_end = on_end,
    .on_gone = on_gone,
    .on_drain = on_drain,
    .on_done = on_done,
};
