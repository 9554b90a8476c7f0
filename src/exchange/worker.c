/* SPDX-License-Identifier: Apache-2.0 */
/* The workers, and their views of the plan. */
#include "internal.h"

/* ---- views ---- */

static struct exchange_view *view_new(struct exchange_plan *plan)
{
    struct exchange_view *view = calloc(1, sizeof(*view));
    if (view)
        view->plan = exchange_plan_ref(plan);
    return view;
}

static void view_drop_unused(struct exchange_worker *worker, struct exchange_view *view)
{
    if (!view || view->uses > 0 || view == worker->view)
        return;
    exchange_plan_unrefp(worker->shared, &view->plan);
    free(view);
}

struct exchange_view *exchange_view_take(struct exchange_worker *worker)
{
    worker->view->uses++;
    return worker->view;
}

void exchange_view_release(struct exchange_worker *worker, struct exchange_view *view)
{
    view->uses--;
    view_drop_unused(worker, view);
}

enum err_code exchange_worker_set_plan(struct exchange_worker *worker, struct exchange_plan *plan)
{
    struct exchange_view *view = view_new(plan), *old = worker->view;
    if (view && ops_counters_grow(worker->counters, plan->slot_count) == ERR_OK) {
        worker->view = view;
        view_drop_unused(worker, old);
        return ERR_OK;
    }
    view_drop_unused(worker, view);
    return ERR_NO_MEMORY;
}

/* ---- workers ---- */

static enum err_code worker_fill(struct exchange_worker *worker, struct exchange_plan *plan,
                                 unsigned loop_number, struct err *err)
{
    struct exchange_shared *shared = worker->shared;
    worker->view = view_new(plan);
    worker->counters = ops_counters_new(plan->slot_count);
    if (shared->auth_keys)
        worker->auth = auth_new(shared->auth_keys, plan->config->auth_cache_size);
    if (!worker->view || !worker->counters || (shared->auth_keys && !worker->auth))
        return err_set(err, ERR_NO_MEMORY, "out of memory for a loop");
    worker->table = await_table_new(worker->loop, loop_number, shared->instance, AWAIT_SLOTS_MAX - 1, err);
    if (worker->table && shared->has_legacy)
        worker->legacy = legacy_new(worker->loop, &shared->legacy, err);
    return worker->table && (!shared->has_legacy || worker->legacy) ? ERR_OK : ERR_INTERNAL;
}

struct exchange_worker *exchange_worker_new(struct exchange_shared *shared, struct exchange_plan *plan,
                                            struct loop *loop, unsigned loop_number, struct err *err)
{
    struct exchange_worker *worker = calloc(1, sizeof(*worker));
    if (!worker) {
        err_set(err, ERR_NO_MEMORY, "out of memory for a loop");
        return NULL;
    }
    worker->shared = shared;
    worker->loop = loop;
    if (worker_fill(worker, plan, loop_number, err) != ERR_OK)
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
    struct exchange_view *view = worker->view;
    worker->view = NULL;
    view_drop_unused(worker, view);
    json_fini(&worker->body_doc);
    json_fini(&worker->reply_doc);
    json_fini(&worker->command_doc);
    struct buf *const bufs[] = {&worker->scratch, &worker->payload, &worker->value,
                                &worker->key,     &worker->text,    &worker->headers};
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
        .streams = worker->streams,
        .active_requests = worker->active,
        .legacy_active = worker->legacy ? legacy_active(worker->legacy) : 0,
        .legacy_retries = worker->legacy ? legacy_retries(worker->legacy) : 0,
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
    else /* the first keys; without memory every token is refused until the next ones */
        worker->auth = auth_new(keys, worker->view->plan->config->auth_cache_size);
}

uint32_t exchange_worker_active(const struct exchange_worker *worker)
{
    return worker->active;
}
