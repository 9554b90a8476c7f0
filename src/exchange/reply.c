/* SPDX-License-Identifier: Apache-2.0 */
/* Replies. First, on the reader thread: whose is it? A correlation header answers that without a look at the body; a
 * stranger's reply costs a header look-up and a comparison. Then, on the request's loop: topic, eventType and the body's
 * own id must agree with what the route expects: the header is the fast path, the body the authority (design.md section 4). */
#include "internal.h"

/* ---- on the reader thread ---- */

enum whose { NOBODYS, OURS, STRANGERS };

static enum whose look_at_id(const struct exchange_shared *shared, struct span text,
                             struct kafka_record *record)
{
    if (!await_id_parse(text, &record->id))
        return NOBODYS;
    if (!await_id_is_ours(&record->id, shared->instance))
        return STRANGERS;
    record->handle = await_id_handle(&record->id);
    return OURS;
}

static bool skip(struct exchange_shared *shared)
{
    atomic_fetch_add_explicit(&shared->unmatched, 1, memory_order_relaxed);
    return false;
}

/* The body's correlationId, or the fields, of a record without a usable header. */
static bool look_into_body(struct exchange_shared *shared, struct kafka_record *record)
{
    struct json_doc doc = JSON_DOC_INIT;
    struct buf scratch = BUF_INIT;
    bool wanted = false;
    if (!record->value.ptr || json_parse(&doc, record->value, EXCHANGE_JSON_NODES) != ERR_OK) {
        atomic_fetch_add_explicit(&shared->invalid, 1, memory_order_relaxed);
        json_fini(&doc);
        return false;
    }
    const struct json_node *id = json_get(&doc, json_root(&doc), SPAN_LIT("correlationId"));
    enum whose whose = NOBODYS;
    if (id && id->type == JSON_STRING) {
        struct span text = json_string(&doc, id, &scratch);
        whose = text.ptr ? look_at_id(shared, text, record) : NOBODYS;
    }
    if (whose == OURS)
        wanted = true;
    else if (whose == NOBODYS && atomic_load_explicit(&shared->field_matching, memory_order_relaxed)) {
        record->handle = exchange_fields_find(shared, record, &doc);
        record->by_fields = wanted = record->handle != 0;
    }
    json_fini(&doc);
    buf_fini(&scratch);
    return wanted || skip(shared);
}

bool exchange_on_record(void *arg, struct kafka_record *record)
{
    struct exchange_shared *shared = arg;
    unsigned count = atomic_load_explicit(&shared->id_header_count, memory_order_acquire);
    for (unsigned i = 0; i < count; i++) {
        struct span text = kafka_record_header(record, shared->id_headers[i]);
        if (!text.ptr)
            continue;
        switch (look_at_id(shared, text, record)) {
        case OURS:
            return true;
        case STRANGERS:
            return skip(shared);
        case NOBODYS: /* not an id of ours in form: the body decides */
            break;
        }
    }
    return look_into_body(shared, record);
}

/* ---- on the loop ---- */

/* A reply whose request is gone: who was faster? */
static enum ops_reply classify_loss(const struct exchange_worker *worker, const struct kafka_record *record)
{
    if (record->by_fields)
        return OPS_REPLY_LATE;
    switch (await_past_winner(worker->table, &record->id)) {
    case AWAIT_WON_REPLY:
        return OPS_REPLY_DUPLICATE;
    case AWAIT_PENDING:
        return OPS_REPLY_UNMATCHED;
    default:
        return OPS_REPLY_LATE;
    }
}

/* The body's id, if it has one, must be this request's. An event found by fields has none that is usable. */
static bool body_agrees(struct exchange *ex, const struct kafka_record *record)
{
    const struct json_doc *doc = &ex->worker->reply_doc;
    const struct json_node *node = json_get(doc, json_root(doc), SPAN_LIT("correlationId"));
    struct await_id id;
    if (record->by_fields || !node || node->type == JSON_NULL)
        return true;
    buf_clear(&ex->worker->scratch);
    struct span text =
        node->type == JSON_STRING ? json_string(doc, node, &ex->worker->scratch) : (struct span){NULL, 0};
    return text.ptr && await_id_parse(text, &id) && await_id_eq(&id, &ex->id);
}

static struct span event_type(struct exchange *ex)
{
    const struct json_doc *doc = &ex->worker->reply_doc;
    const struct json_node *node = json_get(doc, json_root(doc), SPAN_LIT("eventType"));
    if (!node || node->type != JSON_STRING)
        return (struct span){NULL, 0};
    buf_clear(&ex->worker->key);
    return json_string(doc, node, &ex->worker->key);
}

/* The request's body again, when a template refers to it: it was kept, its index was not. */
static void restore_body(struct exchange *ex)
{
    struct json_doc *doc = &ex->worker->body_doc;
    struct span body = http_request_body(ex->http);
    doc->count = 0;
    if (exchange_route_state(ex)->reply_needs_body && body.len &&
        json_parse(doc, body, EXCHANGE_JSON_NODES) != ERR_OK)
        doc->count = 0; /* it parsed before: only memory can fail, and then its values count as missing */
}

/* The plan's number of a reply topic; UINT32_MAX: none of its routes names it. */
static uint32_t plan_topic(const struct exchange_plan *plan, uint32_t kafka_topic)
{
    for (uint32_t i = 0; i < plan->routes->reply_topic_count; i++)
        if (plan->reply_topic_ids[i] == kafka_topic)
            return i;
    return UINT32_MAX;
}

/* A reply on the instance's own address counts as one on the topic of the first rule, whatever else the topic is. */
static const struct route_reply_rule *find_rule(struct exchange *ex, uint32_t kafka_topic, struct span type,
                                                const struct mapping_scope *scope, bool *ret_expected)
{
    const struct exchange_plan *plan = ex->view->plan;
    const struct route *route = ex->route;
    const struct route_reply_rule *rule = NULL;
    *ret_expected = false;
    if (kafka_topic == plan->address_id && route->rule_count)
        rule = route_find_rule(route, route->rules[0].topic, type, scope, &ex->worker->scratch, ret_expected);
    if (rule || *ret_expected)
        return rule;
    return route_find_rule(route, plan_topic(plan, kafka_topic), type, scope, &ex->worker->scratch,
                           ret_expected);
}

static enum ops_reply finish(struct exchange *ex, const struct kafka_record *record)
{
    struct exchange_worker *worker = ex->worker;
    struct mapping_scope scope;
    bool expected = false;
    if (!record->value.ptr || json_parse(&worker->reply_doc, record->value, EXCHANGE_JSON_NODES) != ERR_OK)
        return OPS_REPLY_INVALID;
    if (!body_agrees(ex, record))
        return OPS_REPLY_MISMATCHED;
    restore_body(ex);
    exchange_scope(ex, &scope);
    scope.reply = &worker->reply_doc;
    const struct route_reply_rule *rule = find_rule(ex, record->topic, event_type(ex), &scope, &expected);
    if (!rule && !expected)
        return OPS_REPLY_MISMATCHED;
    exchange_unpark(ex, AWAIT_WON_REPLY);
    if (rule)
        exchange_answer_rule(ex, &rule->answer, &scope);
    else
        exchange_answer_error(ex, ERR_REPLY_UNMAPPED, "The reply has no rule in the route");
    return OPS_REPLY_MATCHED;
}

void exchange_on_reply(void *loop_arg, const struct kafka_record *record)
{
    struct exchange_worker *worker = loop_arg;
    struct await_entry *entry = record->by_fields ? await_find_handle(worker->table, record->handle)
                                                  : await_find(worker->table, &record->id);
    enum ops_reply result = entry ? finish(SG_CONTAINER_OF(entry, struct exchange, entry), record)
                                  : classify_loss(worker, record);
    ops_count_reply(worker->counters, result);
    uint64_t suppressed;
    if ((result == OPS_REPLY_MISMATCHED || result == OPS_REPLY_INVALID) &&
        log_limit_ok(&worker->log_limit, loop_now_ns(worker->loop), 10, &suppressed)) {
        const struct exchange *ex = SG_CONTAINER_OF(entry, struct exchange, entry);
        uint32_t topic = plan_topic(ex->view->plan, record->topic);
        struct log_line line;
        log_begin(&line, LOG_WARN, "reply ignored");
        log_str(&line, "reason", ops_reply_name(result));
        log_str(&line, "correlationId", ex->id_text);
        log_str(&line, "topic",
                topic != UINT32_MAX                           ? ex->view->plan->reply_topic_names[topic]
                : record->topic == ex->view->plan->address_id ? ex->view->plan->config->reply_topic
                                                              : NULL);
        log_i64(&line, "partition", record->partition);
        log_i64(&line, "offset", record->offset);
        log_u64(&line, "suppressed", suppressed);
        log_end(&line);
    }
}
