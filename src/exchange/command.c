/* SPDX-License-Identifier: Apache-2.0 */
/* From a checked request to a parked one: the command is formed, checked against the Kafka contract, and produced. And what
 * its delivery report means: for most calls the wait for the reply goes on, one-way calls end with it. */
#include "internal.h"

/* ---- trace context (W3C) ---- */

static bool is_hex(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!((s.ptr[i] >= '0' && s.ptr[i] <= '9') || (s.ptr[i] >= 'a' && s.ptr[i] <= 'f')))
            return false;
    return true;
}

static bool all_zero(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] != '0')
            return false;
    return true;
}

/* version "-" trace-id "-" parent-id "-" flags, version 00. */
static bool traceparent_ok(struct span s)
{
    if (s.len != 55 || s.ptr[2] != '-' || s.ptr[35] != '-' || s.ptr[52] != '-')
        return false;
    struct span version = {s.ptr, 2}, trace = {s.ptr + 3, 32}, parent = {s.ptr + 36, 16},
                flags = {s.ptr + 53, 2};
    return span_eq(version, SPAN_LIT("00")) && is_hex(trace) && is_hex(parent) && is_hex(flags) &&
           !all_zero(trace) && !all_zero(parent);
}

/* The client's, or a new one whose trace id is the correlation id without its dashes. */
static struct span traceparent(const struct exchange *ex, char made[56])
{
    struct span given = http_request_header(ex->http, "traceparent");
    if (given.ptr && traceparent_ok(given))
        return given;
    struct buf out = {made, 0, 56, false};
    buf_append_lit(&out, "00-");
    for (const char *q = ex->id_text; *q; q++)
        if (*q != '-')
            buf_append_char(&out, *q);
    buf_append_char(&out, '-');
    buf_append(&out, made + 3 + 16, 16);
    buf_append_lit(&out, "-00");
    return (struct span){made, 55};
}

/* ---- forming ---- */

/* Renders key and value into the worker's buffers. ERR_NO_COMMAND: this request forms no valid command. */
static enum err_code form(struct exchange *ex, struct mapping_scope *scope, bool *ret_has_key)
{
    struct exchange_worker *worker = ex->worker;
    const struct route_command *command = &ex->route->command;
    bool missing = true;
    buf_clear(&worker->payload);
    buf_clear(&worker->value);
    buf_clear(&worker->key);
    if (command->when && !mapping_condition_holds(command->when, scope, &worker->scratch))
        return ERR_NO_COMMAND;
    enum err_code code = mapping_render(command->payload, scope, &worker->scratch, &worker->payload);
    if (code != ERR_OK)
        return code;
    scope->payload = buf_span(&worker->payload);
    scope->event_type = command->event_type;
    code = mapping_render(command->envelope, scope, &worker->scratch, &worker->value);
    if (code == ERR_OK && command->key)
        code = mapping_render_text(command->key, scope, &worker->scratch, &worker->key, &missing);
    if (code != ERR_OK)
        return code;
    *ret_has_key = !missing;
    if (!command->schema)
        return ERR_OK;
    code = json_parse(&worker->command_doc, buf_span(&worker->value), EXCHANGE_JSON_NODES);
    if (code == ERR_NO_MEMORY)
        return code;
    bool valid = code == ERR_OK &&
                 schema_valid(command->schema, &worker->command_doc, json_root(&worker->command_doc));
    return valid ? ERR_OK : ERR_NO_COMMAND;
}

/* The text of a number becomes its four bytes, in network order. False: it is none from 0 to INT32_MAX. */
static bool as_int32(struct buf *out, size_t start)
{
    uint64_t number;
    if (!base_parse_u64((struct span){out->ptr + start, out->len - start}, &number) || number > INT32_MAX)
        return false;
    const char bytes[] = {(char)(number >> 24), (char)(number >> 16), (char)(number >> 8), (char)number};
    out->len = start;
    buf_append(out, bytes, sizeof(bytes));
    return true;
}

/* Renders the headers of the route's profile into the worker's buffer. */
static enum err_code render_headers(struct exchange *ex, const struct mapping_scope *scope,
                                    struct kafka_header *headers, size_t *ret_count)
{
    const struct route_headers *profile = ex->route->command.headers;
    struct buf *out = &ex->worker->headers;
    size_t ends[ROUTE_COMMAND_HEADERS_MAX], count = 0, start = 0;
    buf_clear(out);
    for (size_t i = 0; i < profile->command_count; i++, start = out->len) {
        const struct route_command_header *header = &profile->command[i];
        bool missing = false;
        enum err_code code = mapping_render_text(header->value, scope, &ex->worker->scratch, out, &missing);
        if (code != ERR_OK)
            return code;
        if (!missing && header->is_int32)
            missing = !as_int32(out, start);
        if (missing) {
            out->len = start;
            continue;
        }
        headers[count].name = header->name.ptr;
        ends[count++] = out->len;
    }
    if (!buf_ok(out))
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) { /* now that it does not move any more */
        size_t from = i ? ends[i - 1] : 0;
        headers[i].value = (struct span){out->ptr ? out->ptr + from : "", ends[i] - from};
    }
    *ret_count = count;
    return ERR_OK;
}

static enum err_code produce(struct exchange *ex, const struct mapping_scope *of_request, bool has_key)
{
    struct exchange_worker *worker = ex->worker;
    const struct exchange_route *state = exchange_route_state(ex);
    const char *partition = ex->view->plan->reply_partition;
    struct kafka_header headers[ROUTE_COMMAND_HEADERS_MAX];
    char made[56];
    struct mapping_scope scope = *of_request;
    scope.traceparent = traceparent(ex, made);
    scope.reply_topic = state->reply_topic;
    if (state->reply_topic.ptr && *partition)
        scope.reply_partition = span_of(partition);
    struct kafka_command command = {
        .topic = state->command_topic,
        .key = has_key ? buf_span(&worker->key) : (struct span){NULL, 0},
        .value = buf_span(&worker->value),
        .headers = headers,
        .handle = await_id_handle(&ex->id),
    };
    enum err_code code = render_headers(ex, &scope, headers, &command.header_count);
    return code == ERR_OK ? kafka_produce(worker->shared->kafka, &command) : code;
}

/* ---- sending ---- */

/* This loop's part of SYNCGATE_MAX_PARKED. */
static uint32_t parked_limit(const struct exchange *ex)
{
    uint32_t total = ex->view->plan->config->max_parked;
    uint32_t loops = (uint32_t)ex->worker->shared->loop_count;
    return (total + loops - 1) / loops;
}

static bool take_place(struct exchange *ex)
{
    struct exchange_route *state = exchange_route_state(ex);
    unsigned before = atomic_fetch_add_explicit(&state->operation->in_flight, 1, memory_order_relaxed);
    ex->in_flight = true;
    return before < state->max_in_flight && await_count(ex->worker->table) < parked_limit(ex);
}

void exchange_await_report(struct exchange *ex, bool awaits)
{
    if (ex->awaits_report != awaits)
        kafka_await_reports(ex->worker->shared->kafka, awaits);
    ex->awaits_report = awaits;
}

static void give_back(struct exchange *ex)
{
    exchange_await_report(ex, false);
    if (ex->in_flight)
        atomic_fetch_sub_explicit(&exchange_route_state(ex)->operation->in_flight, 1, memory_order_relaxed);
    ex->in_flight = false;
    if (await_is_pending(&ex->entry))
        await_withdraw(&ex->entry);
}

static enum path_fallback reason_of(enum err_code code)
{
    switch (code) {
    case ERR_NO_COMMAND:
        return PATH_FALLBACK_NO_COMMAND;
    case ERR_KAFKA_QUEUE_FULL:
        return PATH_FALLBACK_QUEUE_FULL;
    case ERR_KAFKA_TOO_LARGE:
        return PATH_FALLBACK_TOO_LARGE;
    case ERR_KAFKA_NOT_PERSISTED:
    case ERR_KAFKA_TOPIC:
        return PATH_FALLBACK_NOT_PERSISTED;
    case ERR_OVERLOADED:
    case ERR_NO_MEMORY:
        return PATH_FALLBACK_OVERLOADED;
    default:
        return PATH_FALLBACK_UNREACHABLE;
    }
}

static enum err_code send_command(struct exchange *ex)
{
    struct exchange_worker *worker = ex->worker;
    struct mapping_scope scope;
    bool has_key = false;
    if (!take_place(ex))
        return ERR_OVERLOADED;
    uint64_t now_ns = loop_now_ns(worker->loop);
    enum err_code code =
        await_add(worker->table, &ex->entry, now_ns + (uint64_t)ex->route->timeout_ms * SG_NSEC_PER_MSEC);
    if (code != ERR_OK)
        return code;
    ex->id = ex->entry.id;
    await_id_format(&ex->id, ex->id_text);
    ex->now_ms = clock_real_ms();
    ex->deadline_ms = ex->now_ms + ex->route->timeout_ms;
    exchange_scope(ex, &scope);
    code = form(ex, &scope, &has_key);
    if (code != ERR_OK)
        return code;
    /* Before the command is out, so that its event cannot come first. */
    exchange_fields_add(ex, &scope);
    exchange_await_report(ex, ex->route->one_way || ex->cluster_permit.probe);
    code = produce(ex, &scope, has_key);
    if (code != ERR_OK) {
        exchange_fields_remove(ex);
        return code;
    }
    ex->parked_ns = now_ns;
    exchange_set_state(ex, EXCHANGE_PARKED);
    return ERR_OK;
}

void exchange_send_command(struct exchange *ex)
{
    struct exchange_shared *shared = ex->worker->shared;
    enum path_fallback reason;
    exchange_cluster_observe(shared, ex->worker->view->plan); /* a breaker goes by the newest settings */
    struct exchange_closed closed;
    if (exchange_route_closed(shared, ex->view->plan, ex->route, &closed)) {
        (void)exchange_breaker_refuses(ex, &reason); /* open for the same cause, it knows when to come back */
        exchange_fall_back(ex, closed.reason, ERR_KAFKA_UNAVAILABLE);
        return;
    }
    if (!exchange_breaker_ask(ex, &reason)) {
        exchange_fall_back(ex, reason, ERR_KAFKA_UNAVAILABLE);
        return;
    }
    enum err_code code = send_command(ex);
    if (code == ERR_OK)
        return;
    give_back(ex);
    exchange_breaker_report_failure(ex, code);
    exchange_fall_back(ex, reason_of(code), code);
}

/* ---- delivery reports ---- */

/* One-way: the record is in Kafka, and that is all that the caller waits for. */
static void end_delivered(struct exchange *ex)
{
    struct mapping_scope scope;
    exchange_restore_body(ex);
    exchange_scope(ex, &scope);
    scope.now_ms = clock_real_ms();
    exchange_unpark(ex, AWAIT_WON_DELIVERED);
    exchange_answer_rule(ex, &ex->route->accepted, &scope);
}

void exchange_written(struct exchange *ex)
{
    ex->delivered = true;
    exchange_breaker_report_written(ex);
    if (ex->route->one_way)
        return; /* the answer may need its body */
    exchange_await_report(ex, false);
    if (!exchange_route_state(ex)->reply_needs_body) /* kept for a fallback, which cannot come any more */
        exchange_body_release(ex, true);
}

void exchange_on_delivery(void *loop_arg, uint64_t handle, enum kafka_delivery delivery, enum err_code code)
{
    struct exchange_worker *worker = loop_arg;
    struct await_entry *entry = await_find_handle(worker->table, handle);
    if (!entry)
        return;
    struct exchange *ex = SG_CONTAINER_OF(entry, struct exchange, entry);
    if (ex->progressed && delivery != KAFKA_DELIVERED)
        return; /* its reply knows better: the service has the command */
    switch (delivery) {
    case KAFKA_DELIVERED:
        exchange_written(ex);
        if (ex->route->one_way)
            end_delivered(ex);
        return;
    case KAFKA_UNCERTAIN: /* it may be in the log: never legacy. Only a reply could tell, and then the wait goes on */
        ex->uncertain = true;
        exchange_breaker_report_failure(ex, code);
        if (!ex->route->one_way)
            return;
        exchange_unpark(ex, AWAIT_WON_PRODUCE_FAILURE);
        exchange_answer_error(ex, ERR_KAFKA_UNCERTAIN,
                              "The broker did not acknowledge the event; whether it was written is unknown");
        return;
    case KAFKA_NOT_PERSISTED:
        exchange_breaker_report_failure(ex, code);
        exchange_unpark(ex, AWAIT_WON_PRODUCE_FAILURE);
        exchange_fall_back(ex, reason_of(code), code);
        return;
    }
}
