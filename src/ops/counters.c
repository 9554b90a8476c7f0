/* SPDX-License-Identifier: Apache-2.0 */
#include "counters.h"

const uint64_t ops_bucket_ns[OPS_BUCKETS] = {500000,     1000000,    2500000,    5000000,     10000000,
                                             25000000,   50000000,   100000000,  250000000,   500000000,
                                             1000000000, 2500000000, 5000000000, 10000000000, 30000000000};

const char *ops_reply_name(enum ops_reply reply)
{
    static const char *const names[] = {
#define X(code, name) name,
        OPS_REPLIES(X)
#undef X
    };
    SG_ASSERT((unsigned)reply < OPS_REPLY_COUNT);
    return names[reply];
}

const char *ops_dead_letter_name(enum ops_dead_letter result)
{
    static const char *const names[] = {
#define X(code, name) name,
        OPS_DEAD_LETTERS(X)
#undef X
    };
    SG_ASSERT((unsigned)result < OPS_DEAD_LETTER_COUNT);
    return names[result];
}

struct ops_counters *ops_counters_new(size_t route_count)
{
    struct ops_counters *counters = calloc(1, sizeof(*counters));
    if (!counters)
        return NULL;
    counters->route_count = route_count;
    counters->cells = calloc((route_count + 1) * PATH_TAKEN_COUNT, sizeof(struct ops_cell *));
    if (!counters->cells)
        ops_counters_freep(&counters);
    return counters;
}

void ops_counters_freep(struct ops_counters **counters_ptr)
{
    struct ops_counters *counters = *counters_ptr;
    if (!counters)
        return;
    *counters_ptr = NULL;
    for (size_t i = 0; counters->cells && i < (counters->route_count + 1) * PATH_TAKEN_COUNT; i++)
        free(counters->cells[i]);
    free(counters->cells);
    free(counters);
}

enum err_code ops_counters_grow(struct ops_counters *counters, size_t route_count)
{
    if (route_count <= counters->route_count)
        return ERR_OK;
    size_t had = (counters->route_count + 1) * PATH_TAKEN_COUNT, want = (route_count + 1) * PATH_TAKEN_COUNT;
    struct ops_cell **cells = realloc(counters->cells, want * sizeof(struct ops_cell *));
    if (!cells)
        return ERR_NO_MEMORY;
    memset(cells + had, 0, (want - had) * sizeof(struct ops_cell *));
    counters->cells = cells;
    counters->route_count = route_count;
    return ERR_OK;
}

/* Row 0 is OPS_NO_ROUTE. NULL without memory: the request is then not counted. */
static struct ops_cell *cell_of(struct ops_counters *counters, size_t index)
{
    if (!counters->cells[index])
        counters->cells[index] = calloc(1, sizeof(struct ops_cell));
    return counters->cells[index];
}

void ops_count_request(struct ops_counters *counters, uint32_t route, enum path_taken path, int status,
                       uint64_t duration_ns)
{
    size_t row = route < counters->route_count ? route + 1 : 0;
    SG_ASSERT((unsigned)path < PATH_TAKEN_COUNT);
    struct ops_cell *cell = cell_of(counters, row * PATH_TAKEN_COUNT + path);
    if (!cell)
        return;
    if (status < OPS_STATUS_MIN || status > OPS_STATUS_MAX)
        status = OPS_STATUS_MAX; /* 599: what a backend sent beside the range */
    cell->by_status[status - OPS_STATUS_MIN]++;
    size_t bucket = 0;
    while (bucket < OPS_BUCKETS && duration_ns > ops_bucket_ns[bucket])
        bucket++;
    cell->buckets[bucket]++;
    cell->sum_ns += duration_ns;
}

void ops_count_fallback(struct ops_counters *counters, enum path_fallback reason)
{
    counters->fallbacks[reason]++;
}

void ops_count_reply(struct ops_counters *counters, enum ops_reply reply)
{
    counters->replies[reply]++;
}

void ops_count_dead_letter(struct ops_counters *counters, enum ops_dead_letter result)
{
    counters->dead_letters[result]++;
}

void ops_count_event(struct ops_counters *counters, bool sent)
{
    if (sent)
        counters->events_sent++;
    else
        counters->events_dropped++;
}

static void add_array(uint64_t *dst, const uint64_t *src, size_t count)
{
    for (size_t i = 0; i < count; i++)
        dst[i] += src[i];
}

enum err_code ops_counters_add(struct ops_counters *dst, const struct ops_counters *src)
{
    if (ops_counters_grow(dst, src->route_count) != ERR_OK)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < (src->route_count + 1) * PATH_TAKEN_COUNT; i++) {
        if (!src->cells[i])
            continue;
        struct ops_cell *cell = cell_of(dst, i);
        if (!cell)
            return ERR_NO_MEMORY;
        add_array(cell->by_status, src->cells[i]->by_status, OPS_STATUS_COUNT);
        add_array(cell->buckets, src->cells[i]->buckets, OPS_BUCKETS + 1);
        cell->sum_ns += src->cells[i]->sum_ns;
    }
    add_array(dst->fallbacks, src->fallbacks, PATH_FALLBACK_COUNT);
    add_array(dst->replies, src->replies, OPS_REPLY_COUNT);
    add_array(dst->dead_letters, src->dead_letters, OPS_DEAD_LETTER_COUNT);
    dst->events_sent += src->events_sent;
    dst->events_dropped += src->events_dropped;
    return ERR_OK;
}

void ops_gauges_add(struct ops_gauges *dst, const struct ops_gauges *src)
{
    dst->parked += src->parked;
    dst->streams += src->streams;
    dst->active_requests += src->active_requests;
    dst->legacy_active += src->legacy_active;
    dst->legacy_retries += src->legacy_retries;
    add_array(dst->wins, src->wins, AWAIT_WINNER_COUNT);
    dst->auth_hits += src->auth_hits;
    dst->auth_verified += src->auth_verified;
    dst->auth_refused += src->auth_refused;
}
