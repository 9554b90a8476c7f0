/* SPDX-License-Identifier: Apache-2.0 */
/* Replies. First, on the reader thread: whose is it? A correlation header answers that without a look at the body; a
 * stranger's reply costs a header look-up and a comparison. Then, on the request's loop: topic, eventType and the body's
 * own id must agree with what the route expects: the header is the fast path, the body the authority (design.md section 4). */
#include "internal.h"

#define VERSION_SHOWN 64 /* bytes of an unknown version, in the log */

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
    case AWAIT_WON_DELIVERED: /* one-way: nobody has waited for a reply */
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

void exchange_restore_body(struct exchange *ex)
{
    struct json_doc *doc = &ex->worker->body_doc;
    struct span body = http_request_body(ex->http);
    doc->count = 0;
    if (ex->has_json && exchange_route_state(ex)->reply_needs_body && body.len &&
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

/* Whether it is meant for the route but for its version. */
static bool knows_reply(const struct exchange *ex, uint32_t kafka_topic, struct span type)
{
    const struct exchange_plan *plan = ex->view->plan;
    const struct route *route = ex->route;
    return (kafka_topic == plan->address_id && route->rule_count &&
            route_knows_reply(route, route->rules[0].topic, type)) ||
           route_knows_reply(route, plan_topic(plan, kafka_topic), type);
}

static struct span reply_header(const void *record, struct span name)
{
    char text[MAPPING_HEADER_MAX + 1];
    memcpy(text, name.ptr, name.len);
    text[name.len] = '\0';
    return kafka_record_header(record, text);
}

/* It stays without effect: the call goes on waiting. */
static enum ops_reply unusable(struct exchange *ex, const struct kafka_record *record, enum ops_reply result)
{
    exchange_dead_letter(ex, record, ops_reply_name(result));
    return result;
}

/* A record without a body may still be an answer: some frameworks tell of an error in the headers alone.
 * *ret_schema: what an invalid one should have satisfied. */
static enum ops_reply finish(struct exchange *ex, const struct kafka_record *record,
                             const struct schema **ret_schema)
{
    struct exchange_worker *worker = ex->worker;
    const struct json_doc *doc = &worker->reply_doc;
    struct mapping_scope scope;
    bool expected = false, has_body = record->value.len != 0;
    if (has_body && json_parse(&worker->reply_doc, record->value, EXCHANGE_JSON_NODES) != ERR_OK)
        return unusable(ex, record, OPS_REPLY_INVALID);
    if (has_body && !body_agrees(ex, record))
        return unusable(ex, record, OPS_REPLY_MISMATCHED);
    exchange_restore_body(ex);
    exchange_scope(ex, &scope);
    scope.now_ms = clock_real_ms();
    scope.reply = has_body ? doc : NULL;
    scope.reply_header = reply_header;
    scope.reply_header_arg = record;
    struct span type = has_body ? event_type(ex) : (struct span){NULL, 0};
    const struct route_reply_rule *rule = find_rule(ex, record->topic, type, &scope, &expected);
    if (!rule && !expected && !has_body)
        return unusable(ex, record, OPS_REPLY_INVALID);
    if (!rule &&
        !expected) /* of another type: that may be an event of the same story, nothing is wrong with it */
        return knows_reply(ex, record->topic, type) ? unusable(ex, record, OPS_REPLY_UNKNOWN_VERSION)
                                                    : OPS_REPLY_MISMATCHED;
    if (rule && rule->schema && !schema_valid(rule->schema, doc, has_body ? json_root(doc) : NULL)) {
        *ret_schema = rule->schema;
        return unusable(ex, record, OPS_REPLY_INVALID_SCHEMA);
    }
    if (!rule)
        exchange_dead_letter(ex, record, "unmapped");
    if (rule && rule->progress && record->by_fields)
        return OPS_REPLY_MISMATCHED; /* it would have to prove that our command is in Kafka, and fields do not */
    if (rule && rule->progress) {
        exchange_stream_progress(ex, &rule->answer, &scope);
        return OPS_REPLY_PROGRESS;
    }
    if (rule)
        exchange_stream_offer(ex, &rule->answer);
    exchange_unpark(ex, AWAIT_WON_REPLY);
    if (rule && ex->state == EXCHANGE_STREAMING)
        exchange_stream_end(ex, &rule->answer, &scope);
    else if (rule)
        exchange_answer_rule(ex, &rule->answer, &scope);
    else
        exchange_answer_error(ex, ERR_REPLY_UNMAPPED, "The reply has no rule in the route");
    return OPS_REPLY_MATCHED;
}

/* As it is written, without its quotes: it may be no string. */
static struct span version_text(const struct json_doc *doc)
{
    const struct json_node *node = json_get(doc, json_root(doc), SPAN_LIT("__version"));
    if (!node)
        return SPAN_LIT("v1");
    struct span text = json_text(doc, node);
    if (node->type == JSON_STRING)
        text = (struct span){text.ptr + 1, text.len - 2};
    text.len = text.len < VERSION_SHOWN ? text.len : VERSION_SHOWN;
    return text;
}

static void log_ignored(struct exchange *ex, const struct kafka_record *record, enum ops_reply result,
                        const struct schema *schema)
{
    struct exchange_worker *worker = ex->worker;
    const struct json_doc *doc = &worker->reply_doc;
    uint64_t suppressed;
    if (!log_limit_ok(&worker->log_limit, loop_now_ns(worker->loop), 10, &suppressed))
        return;
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
    if (result == OPS_REPLY_UNKNOWN_VERSION)
        log_span(&line, "version", version_text(doc));
    if (schema) {
        buf_clear(&worker->text);
        schema_explain_place(schema, doc, record->value.len ? json_root(doc) : NULL, &worker->text);
        log_span(&line, "place", buf_ok(&worker->text) ? buf_span(&worker->text) : (struct span){NULL, 0});
    }
    log_u64(&line, "suppressed", suppressed);
    log_end(&line);
}

void exchange_on_reply(void *loop_arg, const struct kafka_record *record)
{
    struct exchange_worker *worker = loop_arg;
    const struct schema *schema = NULL;
    struct await_entry *entry = record->by_fields ? await_find_handle(worker->table, record->handle)
                                                  : await_find(worker->table, &record->id);
    struct exchange *ex = entry ? SG_CONTAINER_OF(entry, struct exchange, entry) : NULL;
    if (ex &&
        ex->route->one_way) /* it waits for its acknowledgement only; its own event may be read here, too */
        ex = NULL;
    enum ops_reply result = ex ? finish(ex, record, &schema) : classify_loss(worker, record);
    ops_count_reply(worker->counters, result);
    if (ex && result != OPS_REPLY_MATCHED && result != OPS_REPLY_PROGRESS)
        log_ignored(ex, record, result, schema);
}
