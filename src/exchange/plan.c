/* SPDX-License-Identifier: Apache-2.0 */
/* The shared part, and plans: one configuration with its routes. A reload makes a new plan; calls that began with the old one
 * keep it, so it goes with the last of them.
 * Invariants:
 * - Only main makes and binds plans, and only main touches the operations' list.
 * - The list of plans is for the reader thread, which looks for a call by its fields: it holds every plan that a call
 *   may still have. A plan comes into it when it is bound, complete, and leaves it before it is freed, under the
 *   list's lock. */
#include "internal.h"

/* ---- operations ---- */

static enum err_code breaker_init(struct exchange_breaker *breaker)
{
    uint32_t seed;
    if (await_instance_new(&seed) != ERR_OK)
        return ERR_INTERNAL;
    pthread_mutex_init(&breaker->mtx, NULL);
    path_breaker_init(&breaker->breaker, seed);
    return ERR_OK;
}

static struct exchange_operation *operation_new(struct span name)
{
    struct exchange_operation *operation = calloc(1, sizeof(*operation));
    if (!operation)
        return NULL;
    operation->name = span_dup(name);
    if (operation->name && breaker_init(&operation->breaker) == ERR_OK)
        return operation;
    free(operation->name);
    free(operation);
    return NULL;
}

/* The operation of this name, made if it is new. NULL without memory. */
static struct exchange_operation *operation_of(struct exchange_shared *shared, struct span name)
{
    for (size_t i = 0; i < shared->operation_count; i++)
        if (span_eq(span_of(shared->operations[i]->name), name))
            return shared->operations[i];
    struct exchange_operation **more =
        realloc(shared->operations, (shared->operation_count + 1) * sizeof(struct exchange_operation *));
    if (!more)
        return NULL;
    shared->operations = more;
    struct exchange_operation *operation = operation_new(name);
    if (!operation)
        return NULL;
    operation->slot = (uint32_t)shared->operation_count;
    more[shared->operation_count++] = operation;
    return operation;
}

/* ---- shared ---- */

enum err_code exchange_shared_init(struct exchange_shared *shared)
{
    pthread_mutex_init(&shared->plans_mtx, NULL);
    shared->fields = await_fields_new();
    return shared->fields ? breaker_init(&shared->cluster) : ERR_NO_MEMORY;
}

void exchange_shared_fini(struct exchange_shared *shared)
{
    SG_ASSERT(!shared->plans);
    for (size_t i = 0; i < shared->operation_count; i++) {
        pthread_mutex_destroy(&shared->operations[i]->breaker.mtx);
        free(shared->operations[i]->name);
        free(shared->operations[i]);
    }
    free(shared->operations);
    exchange_id_headers_fini(shared);
    await_fields_freep(&shared->fields);
    pthread_mutex_destroy(&shared->cluster.mtx);
    pthread_mutex_destroy(&shared->plans_mtx);
    *shared = (struct exchange_shared){0};
}

/* ---- flags ---- */

struct path_flag exchange_route_flag(const struct exchange_route *route)
{
    uint32_t packed = atomic_load_explicit(&route->flag, memory_order_relaxed);
    return (struct path_flag){(enum path_mode)(packed >> 16), (uint16_t)(packed & 0xffff)};
}

void exchange_route_set_flag(struct exchange_route *route, const struct path_flag *flag)
{
    atomic_store_explicit(&route->flag, (uint32_t)flag->mode << 16 | flag->share, memory_order_relaxed);
}

/* ---- plans ---- */

static void note_body(void *arg, const struct mapping_ref *ref)
{
    *(bool *)arg |= ref->root == MAPPING_BODY;
}

static void note_body_of(const struct route_answer *answer, bool *needs)
{
    if (answer->body)
        mapping_template_each_ref(answer->body, note_body, needs);
    for (size_t h = 0; h < answer->header_count; h++)
        mapping_template_each_ref(answer->headers[h].value, note_body, needs);
}

static bool reply_needs_body(const struct route *route)
{
    bool needs = false;
    note_body_of(&route->accepted, &needs);
    for (size_t i = 0; i < route->rule_count; i++) {
        const struct route_reply_rule *rule = &route->rules[i];
        if (rule->when)
            mapping_condition_each_ref(rule->when, note_body, &needs);
        note_body_of(&rule->answer, &needs);
    }
    return needs;
}

/* Its place in plan->command_topics, where it is put if it is new. */
static uint32_t command_topic_index(struct exchange_plan *plan, struct span name)
{
    for (uint32_t i = 0; i < plan->command_topic_count; i++)
        if (span_eq(plan->command_topics[i], name))
            return i;
    plan->command_topics[plan->command_topic_count] = name;
    return (uint32_t)plan->command_topic_count++;
}

static enum err_code fill_states(struct exchange_shared *shared, struct exchange_plan *plan,
                                 const struct path_flag *flags)
{
    const struct route_table *routes = plan->routes;
    for (size_t i = 0; i < routes->count; i++) {
        const struct route *route = &routes->routes[i];
        struct exchange_route *state = &plan->states[i];
        state->operation = operation_of(shared, route->operation_id);
        if (!state->operation)
            return ERR_NO_MEMORY;
        exchange_route_set_flag(state, &flags[i]);
        state->command_topic = command_topic_index(plan, route->command.topic);
        if (route->rule_count)
            state->reply_topic = plan->config->reply_topic
                                     ? span_of(plan->config->reply_topic)
                                     : plan->routes->reply_topics[route->rules[0].topic];
        state->reply_needs_body = reply_needs_body(route);
        state->max_in_flight =
            route->max_in_flight ? route->max_in_flight : plan->config->max_parked_per_route;
        plan->field_matching |= route->field_match_count > 0;
    }
    if (plan->config->dead_letter_topic)
        plan->dead_letter_topic = command_topic_index(plan, span_of(plan->config->dead_letter_topic));
    plan->slot_count = shared->operation_count;
    return ERR_OK;
}

static void set_breakers(struct exchange_plan *plan)
{
    const struct config *config = plan->config;
    plan->route_breaker = (struct path_breaker_settings){
        .enabled = config->breaker,
        .window_ms = config->breaker_window_ms,
        .min_calls = config->breaker_min_calls,
        .produce_failure_percent = config->breaker_produce_failures,
        .timeout_percent = config->breaker_timeouts,
        .open_ms = config->breaker_open_ms,
        .open_max_ms = config->breaker_open_max_ms,
        .probes = config->breaker_probes,
    };
    plan->cluster_breaker = plan->route_breaker;
    plan->cluster_breaker.produce_failure_percent = config->breaker_cluster_failures;
    plan->cluster_breaker.timeout_percent = 0; /* a service that is silent says nothing about the cluster */
}

static void plan_free(struct exchange_plan *plan)
{
    for (size_t i = 0; plan->reply_topic_names && plan->reply_topic_names[i]; i++)
        free(plan->reply_topic_names[i]);
    free(plan->reply_topic_names);
    free(plan->reply_topic_ids);
    free(plan->command_topics);
    free(plan->command_topic_ids);
    free(plan->states);
    route_table_freep(&plan->routes);
    config_freep(&plan->config);
    free(plan);
}

static enum err_code plan_fill(struct exchange_shared *shared, struct exchange_plan *plan,
                               const struct path_flag *flags)
{
    const struct route_table *routes = plan->routes;
    size_t count = routes->count + 1; /* never 0, and room for the dead-letter topic */
    plan->states = calloc(count, sizeof(*plan->states));
    plan->command_topics = calloc(count, sizeof(*plan->command_topics));
    plan->command_topic_ids = calloc(count, sizeof(*plan->command_topic_ids));
    plan->reply_topic_names = calloc(routes->reply_topic_count + 1, sizeof(char *));
    plan->reply_topic_ids = calloc(routes->reply_topic_count + 1, sizeof(*plan->reply_topic_ids));
    if (!plan->states || !plan->command_topics || !plan->command_topic_ids || !plan->reply_topic_names ||
        !plan->reply_topic_ids)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < routes->reply_topic_count; i++)
        if (!(plan->reply_topic_names[i] = span_dup(routes->reply_topics[i])))
            return ERR_NO_MEMORY;
    set_breakers(plan);
    return fill_states(shared, plan, flags);
}

/* Locks: needs plans_mtx. */
static bool fields_wanted(const struct exchange_shared *shared)
{
    for (const struct exchange_plan *plan = shared->plans; plan; plan = plan->next)
        if (plan->field_matching)
            return true;
    return false;
}

struct exchange_plan *exchange_plan_new(struct exchange_shared *shared, struct config *config,
                                        struct route_table *routes, const struct path_flag *flags,
                                        struct err *err)
{
    struct exchange_plan *plan = calloc(1, sizeof(*plan));
    if (!plan) {
        err_set(err, ERR_NO_MEMORY, "out of memory");
        route_table_freep(&routes);
        config_freep(&config);
        return NULL;
    }
    atomic_init(&plan->refs, 1);
    plan->config = config;
    plan->routes = routes;
    if (plan_fill(shared, plan, flags) == ERR_OK)
        return plan;
    err_set(err, ERR_NO_MEMORY, "out of memory");
    plan_free(plan);
    return NULL;
}

/* From now on the reader thread looks for calls of it. */
static void list_plan(struct exchange_shared *shared, struct exchange_plan *plan)
{
    pthread_mutex_lock(&shared->plans_mtx);
    plan->next = shared->plans;
    shared->plans = plan;
    atomic_store_explicit(&shared->field_matching, fields_wanted(shared), memory_order_relaxed);
    pthread_mutex_unlock(&shared->plans_mtx);
}

enum err_code exchange_plan_bind(struct exchange_shared *shared, struct exchange_plan *plan)
{
    enum err_code code = ERR_OK;
    if (shared->kafka)
        code = kafka_add_reply_topics(shared->kafka, plan->routes->reply_topics,
                                      plan->routes->reply_topic_count, plan->reply_topic_ids);
    if (shared->kafka && code == ERR_OK)
        code = kafka_add_command_topics(shared->kafka, plan->command_topics, plan->command_topic_count,
                                        plan->command_topic_ids);
    if (code == ERR_OK)
        code = exchange_address_bind(shared, plan);
    if (code == ERR_OK)
        code = exchange_id_headers_bind(shared, plan);
    for (size_t i = 0; code == ERR_OK && i < plan->routes->count; i++)
        plan->states[i].command_topic = plan->command_topic_ids[plan->states[i].command_topic];
    if (code == ERR_OK && plan->config->dead_letter_topic)
        plan->dead_letter_topic = plan->command_topic_ids[plan->dead_letter_topic];
    if (code == ERR_OK)
        list_plan(shared, plan);
    return code;
}

struct exchange_plan *exchange_plan_ref(struct exchange_plan *plan)
{
    atomic_fetch_add_explicit(&plan->refs, 1, memory_order_relaxed);
    return plan;
}

void exchange_plan_unrefp(struct exchange_shared *shared, struct exchange_plan **plan_ptr)
{
    struct exchange_plan *plan = *plan_ptr;
    *plan_ptr = NULL;
    if (!plan)
        return;
    /* Under the lock, so that the reader cannot take a reference to a plan that has none. */
    pthread_mutex_lock(&shared->plans_mtx);
    bool last = atomic_fetch_sub_explicit(&plan->refs, 1, memory_order_acq_rel) == 1;
    struct exchange_plan **at = &shared->plans;
    while (last && *at && *at != plan)
        at = &(*at)->next;
    if (last && *at) /* one that was never bound is not in it */
        *at = plan->next;
    atomic_store_explicit(&shared->field_matching, fields_wanted(shared), memory_order_relaxed);
    pthread_mutex_unlock(&shared->plans_mtx);
    if (last)
        plan_free(plan);
}

static bool closed(struct exchange_closed *ret, enum path_fallback reason, const char *why, struct span topic)
{
    *ret = (struct exchange_closed){.why = why, .topic = topic, .reason = reason};
    return true;
}

bool exchange_route_closed(const struct exchange_shared *shared, const struct exchange_plan *plan,
                           const struct route *route, struct exchange_closed *ret_closed)
{
    const struct kafka *kafka = shared->kafka;
    const struct span none = {NULL, 0};
    if (!kafka)
        return closed(ret_closed, PATH_FALLBACK_UNREACHABLE, "Kafka is not configured", none);
    if (!kafka_is_reachable(kafka))
        return closed(ret_closed, PATH_FALLBACK_UNREACHABLE, "no Kafka broker can be reached", none);
    for (size_t i = 0; i < route->reply_topic_count; i++) {
        uint32_t topic = route->reply_topics[i];
        if (!kafka_topic_has_position(kafka, plan->reply_topic_ids[topic]))
            return closed(ret_closed, PATH_FALLBACK_NO_POSITION, "a reply topic is not being read yet",
                          span_of(plan->reply_topic_names[topic]));
    }
    if (plan->address_id != EXCHANGE_NO_ADDRESS && route->rule_count &&
        !kafka_topic_has_position(kafka, plan->address_id))
        return closed(ret_closed, PATH_FALLBACK_NO_POSITION,
                      "the reply address of this instance is not being read yet",
                      span_of(plan->config->reply_topic));
    uint32_t topic = plan->states[route->index].command_topic;
    if (kafka_command_topic_is_ready(kafka, topic))
        return false;
    (void)closed(ret_closed, PATH_FALLBACK_NO_TOPIC, "a command topic is not there yet",
                 route->command.topic);
    ret_closed->lacks_topic = kafka_command_topic_is_missing(kafka, topic);
    return true;
}
