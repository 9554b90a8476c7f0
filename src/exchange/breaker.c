/* SPDX-License-Identifier: Apache-2.0 */
/* Breakers at work: each call asks the cluster's and its route's before it is produced, and tells both how it ended. The rules
 * are in the room path; here are the locks, one log line a change, and what counts for which breaker:
 *
 *   how the call ended                     route             cluster
 *   a reply came                           success           success
 *   one-way: the command is in Kafka       success           success
 *   no reply, the command is in Kafka      timeout           success           (a progress reply proves that it is there)
 *   no reply, the command may be there     produce failure   produce failure
 *   no reply yet, the report doubts it     produce failure   produce failure   (a later reply changes nothing)
 *   refused, or certainly not written      produce failure   produce failure
 *   refused because of its topic           produce failure   success
 *   client gone, shutdown, not produced    nothing           nothing
 *
 * The cluster's success is told as soon as the command is in Kafka: a slow service must not keep a half-open cluster waiting. */
#include "internal.h"

/* ---- one breaker ---- */

static void log_change(const char *name, const struct path_breaker_view *view)
{
    static const char *const messages[] = {"breaker closed", "breaker open", "breaker half-open"};
    struct log_line line;
    log_begin(&line, view->state == PATH_BREAKER_OPEN ? LOG_WARN : LOG_INFO, messages[view->state]);
    log_str(&line, "scope", name ? "route" : "cluster");
    log_str(&line, "route", name);
    log_str(&line, "reason", path_breaker_reason_name(view->reason));
    if (view->state == PATH_BREAKER_OPEN) {
        log_ms(&line, "nextProbeMs", view->wait_ns);
        log_u64(&line, "calls", view->calls);
        log_u64(&line, "produceFailures", view->produce_failures);
        log_u64(&line, "timeouts", view->timeouts);
    }
    log_end(&line);
}

static uint32_t enter(struct exchange_breaker *breaker)
{
    pthread_mutex_lock(&breaker->mtx);
    return path_breaker_changes(&breaker->breaker);
}

/* Unlocks, then says what has changed since enter(). */
static void leave(struct exchange_breaker *breaker, const char *name,
                  const struct path_breaker_settings *settings, uint64_t now_ns, uint32_t changes)
{
    struct path_breaker_view view;
    bool changed = path_breaker_changes(&breaker->breaker) != changes;
    if (changed) {
        path_breaker_look(&breaker->breaker, settings, now_ns, &view);
        atomic_store_explicit(&breaker->open, view.state == PATH_BREAKER_OPEN, memory_order_relaxed);
    }
    pthread_mutex_unlock(&breaker->mtx);
    if (changed)
        log_change(name, &view);
}

void exchange_breaker_look(struct exchange_breaker *breaker, const struct path_breaker_settings *settings,
                           struct path_breaker_view *ret_view)
{
    uint64_t now_ns = clock_mono_ns();
    pthread_mutex_lock(&breaker->mtx);
    path_breaker_look(&breaker->breaker, settings, now_ns, ret_view);
    pthread_mutex_unlock(&breaker->mtx);
}

/* Whether it refuses every call for a while yet. No lock while it is not open. */
static bool refuses(struct exchange_breaker *breaker, const struct path_breaker_settings *settings,
                    uint64_t *ret_wait_ns)
{
    struct path_breaker_view view;
    if (!atomic_load_explicit(&breaker->open, memory_order_relaxed))
        return false;
    exchange_breaker_look(breaker, settings, &view);
    *ret_wait_ns = view.wait_ns;
    return view.state == PATH_BREAKER_OPEN && view.wait_ns > 0;
}

static bool ask(struct exchange_breaker *breaker, const char *name,
                const struct path_breaker_settings *settings, uint64_t now_ns, struct path_permit *permit,
                uint64_t *ret_wait_ns)
{
    struct path_breaker_view view;
    uint32_t changes = enter(breaker);
    bool allowed = path_breaker_ask(&breaker->breaker, settings, now_ns, permit);
    if (!allowed) {
        path_breaker_look(&breaker->breaker, settings, now_ns, &view);
        *ret_wait_ns = view.wait_ns;
    }
    leave(breaker, name, settings, now_ns, changes);
    return allowed;
}

static void report(struct exchange_breaker *breaker, const char *name,
                   const struct path_breaker_settings *settings, uint64_t now_ns, struct path_permit *permit,
                   enum path_outcome outcome)
{
    if (!permit->given)
        return;
    uint32_t changes = enter(breaker);
    path_breaker_report(&breaker->breaker, settings, permit, outcome, now_ns);
    leave(breaker, name, settings, now_ns, changes);
}

/* ---- the cluster ---- */

#define CLUSTER NULL /* has no name */

void exchange_cluster_observe(struct exchange_shared *shared, const struct exchange_plan *plan)
{
    struct exchange_breaker *breaker = &shared->cluster;
    if (!shared->kafka)
        return;
    bool reachable = kafka_is_reachable(shared->kafka);
    if (reachable == !atomic_load_explicit(&shared->unreachable, memory_order_relaxed))
        return;
    uint64_t now_ns = clock_mono_ns();
    uint32_t changes = enter(breaker);
    if (reachable)
        path_breaker_hurry(&breaker->breaker, now_ns);
    else
        path_breaker_trip(&breaker->breaker, &plan->cluster_breaker, PATH_BREAKER_UNREACHABLE, now_ns);
    atomic_store_explicit(&shared->unreachable, !reachable, memory_order_relaxed);
    leave(breaker, CLUSTER, &plan->cluster_breaker, now_ns, changes);
}

/* ---- of a call ---- */

/* Breakers outlive plans: a call that began before a reload must not judge by the settings of then. */
static const struct exchange_plan *plan_now(const struct exchange *ex)
{
    return ex->worker->view->plan;
}

bool exchange_breaker_refuses(struct exchange *ex, enum path_fallback *ret_reason)
{
    struct exchange_shared *shared = ex->worker->shared;
    const struct exchange_plan *plan = plan_now(ex);
    if (refuses(&shared->cluster, &plan->cluster_breaker, &ex->retry_after_ns)) {
        *ret_reason = PATH_FALLBACK_CLUSTER_BREAKER;
        return true;
    }
    *ret_reason = PATH_FALLBACK_BREAKER;
    return refuses(&exchange_route_state(ex)->operation->breaker, &plan->route_breaker, &ex->retry_after_ns);
}

bool exchange_breaker_ask(struct exchange *ex, enum path_fallback *ret_reason)
{
    struct exchange_shared *shared = ex->worker->shared;
    const struct exchange_plan *plan = plan_now(ex);
    struct exchange_operation *operation = exchange_route_state(ex)->operation;
    uint64_t now_ns = loop_now_ns(ex->worker->loop);
    *ret_reason = PATH_FALLBACK_CLUSTER_BREAKER;
    if (!ask(&shared->cluster, CLUSTER, &plan->cluster_breaker, now_ns, &ex->cluster_permit,
             &ex->retry_after_ns))
        return false;
    *ret_reason = PATH_FALLBACK_BREAKER;
    if (ask(&operation->breaker, operation->name, &plan->route_breaker, now_ns, &ex->route_permit,
            &ex->retry_after_ns))
        return true;
    exchange_breaker_report(ex, PATH_OUTCOME_NONE, PATH_OUTCOME_NONE);
    return false;
}

static void report_cluster(struct exchange *ex, enum path_outcome outcome)
{
    report(&ex->worker->shared->cluster, CLUSTER, &plan_now(ex)->cluster_breaker,
           loop_now_ns(ex->worker->loop), &ex->cluster_permit, outcome);
}

void exchange_breaker_report(struct exchange *ex, enum path_outcome route, enum path_outcome cluster)
{
    struct exchange_operation *operation = exchange_route_state(ex)->operation;
    report(&operation->breaker, operation->name, &plan_now(ex)->route_breaker, loop_now_ns(ex->worker->loop),
           &ex->route_permit, route);
    report_cluster(ex, cluster);
}

void exchange_breaker_report_written(struct exchange *ex)
{
    report_cluster(ex, PATH_OUTCOME_SUCCESS);
}

void exchange_breaker_report_failure(struct exchange *ex, enum err_code code)
{
    if (!err_info(code)->counts)
        exchange_breaker_report(ex, PATH_OUTCOME_NONE, PATH_OUTCOME_NONE);
    else
        exchange_breaker_report(ex, PATH_OUTCOME_PRODUCE_FAILURE,
                                code == ERR_KAFKA_TOPIC ? PATH_OUTCOME_SUCCESS
                                                        : PATH_OUTCOME_PRODUCE_FAILURE);
}

void exchange_breaker_report_end(struct exchange *ex, enum await_winner winner)
{
    switch (winner) {
    case AWAIT_WON_REPLY:
    case AWAIT_WON_DELIVERED:
        exchange_breaker_report(ex, PATH_OUTCOME_SUCCESS, PATH_OUTCOME_SUCCESS);
        break;
    case AWAIT_WON_DEADLINE:
        if (ex->delivered)
            exchange_breaker_report(ex, PATH_OUTCOME_TIMEOUT, PATH_OUTCOME_SUCCESS);
        else
            exchange_breaker_report_failure(ex, ERR_KAFKA_UNCERTAIN);
        break;
    default:
        exchange_breaker_report(ex, PATH_OUTCOME_NONE, PATH_OUTCOME_NONE);
    }
}
