/* SPDX-License-Identifier: Apache-2.0 */
/* Finishing by fields, for routes that ask for it: an event without a usable id ends the only request whose fields it
 * names (design.md section 4). The key is text: route, match and field values, so that equal keys mean equal fields. */
#include "internal.h"

#define TIME_MAX_MS 8.64e15 /* what a JavaScript Date can hold; 1e300 is no time */

#define PLANS_MAX 16 /* plans that are looked through: more are not in use at a time */

/* Appends the key of one match, or returns false when a field is missing: such a request or event matches nothing. */
static bool append_key(const struct exchange_plan *plan, const struct route *route, size_t match_index,
                       struct mapping_template *const *fields, const struct mapping_scope *scope,
                       struct buf *scratch, struct buf *value, struct buf *key)
{
    const struct route_field_match *match = &route->field_matches[match_index];
    buf_clear(key);
    /* The plan is part of it: another configuration may mean something else by the same number. */
    buf_printf(key, "%p/%u/%zu", (const void *)plan, route->index, match_index);
    for (size_t i = 0; i < match->field_count; i++) {
        bool missing;
        buf_clear(value);
        if (mapping_render_text(fields[i], scope, scratch, value, &missing) != ERR_OK || missing)
            return false;
        buf_printf(key, "/%zu:", value->len); /* lengths keep neighbours apart */
        buf_append_span(key, buf_span(value));
    }
    return buf_ok(key);
}

void exchange_fields_add(struct exchange *ex, const struct mapping_scope *scope)
{
    struct exchange_worker *worker = ex->worker;
    const struct route *route = ex->route;
    if (route->field_match_count == 0)
        return;
    ex->field_nodes = calloc(route->field_match_count, sizeof(struct await_fields_node *));
    if (!ex->field_nodes)
        return; /* its reply by id still ends it */
    for (size_t i = 0; i < route->field_match_count; i++)
        if (append_key(ex->view->plan, route, i, route->field_matches[i].request_fields, scope,
                       &worker->scratch, &worker->payload, &worker->text))
            ex->field_nodes[i] = await_fields_add(worker->shared->fields, buf_span(&worker->text),
                                                  await_id_handle(&ex->id), ex->now_ms);
}

void exchange_fields_remove(struct exchange *ex)
{
    if (!ex->field_nodes)
        return;
    for (size_t i = 0; i < ex->route->field_match_count; i++)
        await_fields_remove(ex->worker->shared->fields, ex->field_nodes[i]);
    free(ex->field_nodes);
    ex->field_nodes = NULL;
}

/* When the event happened, by its own word, else by its record. 0: unknown, and then it matches nothing. */
static int64_t event_time_ms(const struct kafka_record *record, const struct json_doc *doc)
{
    const struct json_node *node = json_get(doc, json_root(doc), SPAN_LIT("timestamp"));
    int64_t time_ms;
    if (node && node->type == JSON_STRING && !node->escaped &&
        clock_parse_iso((struct span){doc->text + node->start + 1, node->end - node->start - 2}, &time_ms))
        return time_ms;
    if (node && node->type == JSON_NUMBER && json_number_is_integer(doc, node)) {
        double number = json_number(doc, node);
        if (number >= -TIME_MAX_MS && number <= TIME_MAX_MS)
            return (int64_t)number;
    }
    return record->timestamp_ms;
}

struct event {
    const struct kafka_record *record;
    const struct json_doc *doc;
    const struct json_node *type;
    int64_t time_ms;
    struct buf scratch, value, key;
    uint64_t handle; /* of the call that it names; 0: none so far */
    int64_t since_ms;
    bool several; /* it names more than one, whatever their routes and plans */
};

static void look_up(struct exchange_shared *shared, struct event *event)
{
    uint64_t handle;
    int64_t since_ms;
    unsigned count = await_fields_find(shared->fields, buf_span(&event->key), &handle, &since_ms);
    if (count == 0)
        return;
    /* One call may be found by two of its route's matches. */
    event->several |= count > 1 || (event->handle && event->handle != handle);
    event->handle = handle;
    event->since_ms = since_ms;
}

static void find_in_route(struct exchange_shared *shared, const struct exchange_plan *plan,
                          const struct route *route, struct event *event)
{
    const struct mapping_scope scope = {.reply = event->doc};
    for (size_t i = 0; i < route->field_match_count; i++) {
        const struct route_field_match *match = &route->field_matches[i];
        if (!exchange_came_on(plan, route, match->topic, event->record->topic) ||
            (match->event_type.ptr &&
             !(event->type && json_string_eq(event->doc, event->type, match->event_type))))
            continue;
        if (append_key(plan, route, i, match->reply_fields, &scope, &event->scratch, &event->value,
                       &event->key))
            look_up(shared, event);
    }
}

/* References to the plans that calls may have, newest first. */
static size_t plans_ref(struct exchange_shared *shared, struct exchange_plan *plans[PLANS_MAX])
{
    size_t count = 0;
    pthread_mutex_lock(&shared->plans_mtx);
    for (struct exchange_plan *plan = shared->plans; plan && count < PLANS_MAX; plan = plan->next)
        if (plan->field_matching)
            plans[count++] = exchange_plan_ref(plan);
    pthread_mutex_unlock(&shared->plans_mtx);
    return count;
}

/* Thread: replies. Locks: takes plans_mtx, then the index's, one after the other. */
uint64_t exchange_fields_find(struct exchange_shared *shared, const struct kafka_record *record,
                              const struct json_doc *doc)
{
    struct exchange_plan *plans[PLANS_MAX];
    struct event event = {.record = record,
                          .doc = doc,
                          .type = json_get(doc, json_root(doc), SPAN_LIT("eventType")),
                          .time_ms = event_time_ms(record, doc)};
    size_t count = plans_ref(shared, plans);
    for (size_t p = 0; p < count; p++) {
        const struct route_table *routes = plans[p]->routes;
        for (size_t r = 0; r < routes->count; r++)
            find_in_route(shared, plans[p], &routes->routes[r], &event);
        exchange_plan_unrefp(shared, &plans[p]);
    }
    buf_fini(&event.scratch);
    buf_fini(&event.value);
    buf_fini(&event.key);
    return !event.several && event.since_ms <= event.time_ms ? event.handle : 0;
}
