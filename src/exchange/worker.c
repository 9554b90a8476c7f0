/* SPDX-License-Identifier: Apache-2.0 */
/* The shared part and the workers: made at start, gone at the end. */
#include "internal.h"

/* ---- shared ---- */

static void note_body(void *arg, const struct mapping_ref *ref)
{
    *(bool *)arg |= ref->root == MAPPING_BODY;
}

static bool reply_needs_body(const struct route *route)
{
    bool needs = false;
    for (size_t i = 0; i < route->rule_count; i++) {
        const struct route_reply_rule *rule = &route->rules[i];
        if (rule->when)
            mapping_condition_each_ref(rule->when, note_body, &needs);
        if (rule->answer.body)
            mapping_template_each_ref(rule->answer.body, note_body, &needs);
        for (size_t h = 0; h < rule->answer.header_count; h++)
            mapping_template_each_ref(rule->answer.headers[h].value, note_body, &needs);
    }
    return needs;
}

static uint32_t command_topic_index(struct exchange_shared *shared, struct span name)
{
    for (uint32_t i = 0; i < shared->command_topic_count; i++)
        if (span_eq(shared->command_topics[i], name))
            return i;
    shared->command_topics[shared->command_topic_count] = name;
    return (uint32_t)shared->command_topic_count++;
}

enum err_code exchange_shared_init(struct exchange_shared *shared, const struct route_table *routes,
                                   const enum path_mode *modes)
{
    size_t count = routes->count ? routes->count : 1;
    shared->routes = routes;
    shared->command_topics = calloc(count, sizeof(*shared->command_topics));
    shared->route_states = calloc(count, sizeof(*shared->route_states));
    shared->reply_topic_names = calloc(routes->reply_topic_count + 1, sizeof(char *));
    if (!shared->command_topics || !shared->route_states || !shared->reply_topic_names)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < routes->reply_topic_count; i++) {
        shared->reply_topic_names[i] = span_dup(routes->reply_topics[i]);
        if (!shared->reply_topic_names[i])
            return ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < routes->count; i++) {
        const struct route *route = &routes->routes[i];
        struct exchange_route *state = &shared->route_states[i];
        state->mode = modes[i];
        state->command_topic = command_topic_index(shared, route->command.topic);
        state->reply_topic = route->rule_count ? shared->reply_topic_names[route->rules[0].topic] : NULL;
        state->reply_needs_body = reply_needs_body(route);
        shared->field_matching |= route->field_match_count > 0;
    }
    if (shared->field_matching && !(shared->fields = await_fields_new()))
        return ERR_NO_MEMORY;
    return ERR_OK;
}

void exchange_shared_fini(struct exchange_shared *shared)
{
    for (size_t i = 0; shared->reply_topic_names && shared->reply_topic_names[i]; i++)
        free(shared->reply_topic_names[i]);
    free(shared->reply_topic_names);
    free(shared->command_topics);
    free(shared->route_states);
    await_fields_freep(&shared->fields);
    *shared = (struct exchange_shared){0};
}

const char *exchange_route_closed(const struct exchange_shared *shared, const struct route *route)
{
    if (!shared->kafka)
        return "Kafka is not configured";
    if (!kafka_is_reachable(shared->kafka))
        return "no Kafka broker can be reached";
    for (size_t i = 0; i < route->reply_topic_count; i++)
        if (!kafka_topic_has_position(shared->kafka, route->reply_topics[i]))
            return "a reply topic is not being read yet";
    return NULL;
}

/* ---- workers ---- */

struct exchange_worker *exchange_worker_new(struct exchange_shared *shared, struct loop *loop,
                                            unsigned loop_number, struct err *err)
{
    struct exchange_worker *worker = calloc(1, sizeof(*worker));
    if (!worker) {
        err_set(err, ERR_NO_MEMORY, "out of memory for a loop");
        return NULL;
    }
    worker->shared = shared;
    worker->loop = loop;
    worker->counters = ops_counters_new(shared->routes->count);
    worker->table = await_table_new(loop, loop_number, shared->instance, shared->max_parked_per_loop, err);
    if (shared->auth_keys)
        worker->auth = auth_new(shared->auth_keys, shared->auth_cache_max);
    if (shared->has_legacy)
        worker->legacy = legacy_new(loop, &shared->legacy, err);
    if (!worker->counters || (shared->auth_keys && !worker->auth))
        err_set(err, ERR_NO_MEMORY, "out of memory for a loop");
    if (!worker->counters || !worker->table || (shared->auth_keys && !worker->auth) ||
        (shared->has_legacy && !worker->legacy))
        exchange_worker_freep(&worker);
    return worker;
}

void exchange_worker_freep(struct exchange_worker **worker_ptr)
{
    struct exchange_worker *worker = *worker_ptr;
    if (!worker)
        return;
    SG_ASSERT(worker->active == 0);
    *worker_ptr = NULL;
    legacy_freep(&worker->legacy);
    auth_freep(&worker->auth);
    await_table_freep(&worker->table);
    ops_counters_freep(&worker->counters);
    json_fini(&worker->body_doc);
    json_fini(&worker->reply_doc);
    json_fini(&worker->command_doc);
    struct buf *const bufs[] = {&worker->scratch, &worker->payload, &worker->value, &worker->key,
                                &worker->text};
    for (size_t i = 0; i < SG_ARRAY_LEN(bufs); i++)
        buf_fini(bufs[i]);
    free(worker);
}

void exchange_worker_collect(struct exchange_worker *worker, struct ops_counters *counters,
                             struct ops_gauges *gauges)
{
    (void)!ops_counters_add(counters, worker->counters);
    struct ops_gauges mine = {
        .parked = await_count(worker->table),
        .active_requests = worker->active,
        .legacy_active = worker->legacy ? legacy_active(worker->legacy) : 0,
    };
    memcpy(mine.wins, await_wins(worker->table), sizeof(mine.wins));
    if (worker->auth) {
        struct auth_stats stats = auth_stats(worker->auth);
        mine.auth_hits = stats.cache_hits;
        mine.auth_verified = stats.verified;
        mine.auth_refused = stats.refused;
    }
    ops_gauges_add(gauges, &mine);
}

void exchange_worker_set_keys(struct exchange_worker *worker, struct auth_keys *keys)
{
    if (worker->auth)
        auth_set_keys(worker->auth, keys);
}

uint32_t exchange_worker_active(const struct exchange_worker *worker)
{
    return worker->active;
}
