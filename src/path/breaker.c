/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - set_state() is the only writer of the state. It counts the change, and the count is the epoch of the permits given from
 *   then on. So a call that began before a change cannot vote after it, and needs not be known to the breaker.
 * - The probe counters are 0 unless half-open, and there each permit of this epoch is in them exactly once: under way, then
 *   succeeded or given back. Half-open thus always ends or lets a call pass: it never waits for a report that will not come.
 * - A bucket stops counting before the sum of all can overflow; within one, failures never exceed calls.
 * - Settings are read anew at each call, so everything computed from earlier ones may be out of their range. */
#include "syncgate/path.h"

#include "mix.h"

#define BUCKET_CALLS_MAX (UINT32_MAX / PATH_BREAKER_BUCKETS)

static const char *const state_names[] = {
#define X(code, name) name,
    PATH_BREAKER_STATES(X)
#undef X
};

/* The legal moves, row by row: from -> bit set of to. docs/states.md draws it. */
static const unsigned transitions[PATH_BREAKER_STATE_COUNT] = {
    [PATH_BREAKER_CLOSED] = 1u << PATH_BREAKER_OPEN,
    [PATH_BREAKER_OPEN] = 1u << PATH_BREAKER_HALF_OPEN | 1u << PATH_BREAKER_CLOSED,
    [PATH_BREAKER_HALF_OPEN] = 1u << PATH_BREAKER_OPEN | 1u << PATH_BREAKER_CLOSED,
};

const char *path_breaker_state_name(enum path_breaker_state state)
{
    SG_ASSERT((unsigned)state < PATH_BREAKER_STATE_COUNT);
    return state_names[state];
}

const char *path_breaker_reason_name(enum path_breaker_reason reason)
{
    static const char *const names[] = {
#define X(code, name) name,
        PATH_BREAKER_REASONS(X)
#undef X
    };
    SG_ASSERT((unsigned)reason < PATH_BREAKER_REASON_COUNT);
    return names[reason];
}

static void set_state(struct path_breaker *breaker, enum path_breaker_state state)
{
    if (!(transitions[breaker->state] & 1u << state))
        base_bug(state_names[breaker->state], state_names[state], (int)breaker->epoch);
    breaker->state = state;
    breaker->epoch++;
    breaker->probes_under_way = breaker->probes_succeeded = 0;
}

/* ---- the window ---- */

/* Moves on to the bucket of now_ns and empties what has dropped out. An instant before the newest bucket counts into it. */
static void roll(struct path_breaker *breaker, const struct path_breaker_settings *settings, uint64_t now_ns)
{
    uint64_t bucket_ns = settings->window_ms * SG_NSEC_PER_MSEC / PATH_BREAKER_BUCKETS;
    if (bucket_ns == 0)
        bucket_ns = 1;
    if (now_ns < breaker->bucket_start_ns)
        return;
    uint64_t steps = (now_ns - breaker->bucket_start_ns) / bucket_ns;
    if (steps >= PATH_BREAKER_BUCKETS) {
        memset(breaker->buckets, 0, sizeof(breaker->buckets));
        breaker->bucket_start_ns = now_ns;
        return;
    }
    breaker->bucket_start_ns += steps * bucket_ns;
    while (steps-- > 0) {
        breaker->bucket = (breaker->bucket + 1) % PATH_BREAKER_BUCKETS;
        breaker->buckets[breaker->bucket] = (struct path_breaker_bucket){0};
    }
}

static void count(struct path_breaker *breaker, enum path_outcome outcome)
{
    struct path_breaker_bucket *bucket = &breaker->buckets[breaker->bucket];
    if (bucket->calls == BUCKET_CALLS_MAX)
        return;
    bucket->calls++;
    bucket->produce_failures += outcome == PATH_OUTCOME_PRODUCE_FAILURE;
    bucket->timeouts += outcome == PATH_OUTCOME_TIMEOUT;
}

static struct path_breaker_bucket sum(const struct path_breaker *breaker)
{
    struct path_breaker_bucket all = {0};
    for (size_t i = 0; i < PATH_BREAKER_BUCKETS; i++) {
        all.calls += breaker->buckets[i].calls;
        all.produce_failures += breaker->buckets[i].produce_failures;
        all.timeouts += breaker->buckets[i].timeouts;
    }
    return all;
}

/* ---- the moves ---- */

static uint64_t random_up_to(struct path_breaker *breaker, uint64_t max)
{
    breaker->rng +=
        UINT64_C(0x9e3779b97f4a7c15); /* splitmix: 2^64 / golden ratio, so every state comes once */
    uint64_t value = path_mix64(breaker->rng);
    return max < UINT64_MAX ? value % (max + 1) : value;
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static void open_it(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                    enum path_breaker_reason reason, uint64_t now_ns)
{
    set_state(breaker, PATH_BREAKER_OPEN);
    breaker->reason = reason;
    breaker->opened++;
    unsigned doublings = breaker->opens_in_a_row < 31 ? breaker->opens_in_a_row : 31;
    if (breaker->opens_in_a_row < UINT32_MAX)
        breaker->opens_in_a_row++;
    uint64_t ms = (uint64_t)settings->open_ms << doublings;
    uint64_t max_ms = settings->open_max_ms > settings->open_ms ? settings->open_max_ms : settings->open_ms;
    uint64_t fifth_ns = (ms < max_ms ? ms : max_ms) * SG_NSEC_PER_MSEC / 5;
    /* 80 to 120 %: instances that opened together do not probe together. */
    uint64_t wait_ns = 4 * fifth_ns + random_up_to(breaker, 2 * fifth_ns);
    breaker->open_ns = settings->open_ms * SG_NSEC_PER_MSEC;
    breaker->next_probe_ns = add_sat(now_ns, wait_ns);
}

static void close_it(struct path_breaker *breaker)
{
    set_state(breaker, PATH_BREAKER_CLOSED);
    breaker->reason = PATH_BREAKER_NONE;
    breaker->opens_in_a_row = 0;
    breaker->next_probe_ns = 0;
    memset(breaker->buckets, 0, sizeof(breaker->buckets));
}

/* Switched off, it forgets that it was open: nobody would report the probes it waits for. */
static bool switched_off(struct path_breaker *breaker, const struct path_breaker_settings *settings)
{
    if (!settings->enabled && breaker->state != PATH_BREAKER_CLOSED)
        close_it(breaker);
    return !settings->enabled;
}

static bool reached(uint32_t failures, uint32_t calls, uint32_t percent)
{
    return percent > 0 && failures > 0 && failures * UINT64_C(100) >= (uint64_t)percent * calls;
}

static void judge(struct path_breaker *breaker, const struct path_breaker_settings *settings, uint64_t now_ns)
{
    struct path_breaker_bucket all = sum(breaker);
    if (all.calls < settings->min_calls)
        return;
    if (reached(all.produce_failures, all.calls, settings->produce_failure_percent))
        open_it(breaker, settings, PATH_BREAKER_PRODUCE_FAILURES, now_ns);
    else if (reached(all.timeouts, all.calls, settings->timeout_percent))
        open_it(breaker, settings, PATH_BREAKER_REPLY_TIMEOUTS, now_ns);
}

static uint32_t probes_of(const struct path_breaker_settings *settings)
{
    return settings->probes > 0 ? settings->probes : 1;
}

static void report_probe(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                         enum path_outcome outcome, uint64_t now_ns)
{
    SG_ASSERT(breaker->probes_under_way > 0);
    breaker->probes_under_way--;
    switch (outcome) {
    case PATH_OUTCOME_NONE:
        return;
    case PATH_OUTCOME_SUCCESS:
        if (++breaker->probes_succeeded >= probes_of(settings))
            close_it(breaker);
        return;
    case PATH_OUTCOME_PRODUCE_FAILURE:
        if (settings->produce_failure_percent == 0)
            return;
        break;
    case PATH_OUTCOME_TIMEOUT:
        /* Such a failure never opens this breaker, so it must not hold it open either. */
        if (settings->timeout_percent == 0)
            return;
        break;
    }
    open_it(breaker, settings, PATH_BREAKER_PROBE_FAILED, now_ns);
}

/* ---- the interface ---- */

void path_breaker_init(struct path_breaker *breaker, uint64_t seed)
{
    *breaker = (struct path_breaker){.state = PATH_BREAKER_CLOSED, .rng = seed};
}

bool path_breaker_ask(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                      uint64_t now_ns, struct path_permit *ret_permit)
{
    *ret_permit = (struct path_permit){0};
    if (!switched_off(breaker, settings)) {
        if (breaker->state == PATH_BREAKER_OPEN && now_ns >= breaker->next_probe_ns)
            set_state(breaker, PATH_BREAKER_HALF_OPEN);
        /* `probes` may have been lowered to what has succeeded already: no report would come to close it. */
        if (breaker->state == PATH_BREAKER_HALF_OPEN && breaker->probes_succeeded >= probes_of(settings))
            close_it(breaker);
    }
    if (breaker->state == PATH_BREAKER_OPEN)
        return false;
    if (breaker->state == PATH_BREAKER_HALF_OPEN) {
        if (breaker->probes_under_way >= probes_of(settings) - breaker->probes_succeeded)
            return false;
        breaker->probes_under_way++;
        ret_permit->probe = true;
    }
    ret_permit->epoch = breaker->epoch;
    ret_permit->given = true;
    return true;
}

void path_breaker_report(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                         struct path_permit *permit, enum path_outcome outcome, uint64_t now_ns)
{
    struct path_permit had = *permit;
    *permit = (struct path_permit){0};
    if (switched_off(breaker, settings) || !had.given || had.epoch != breaker->epoch)
        return;
    if (breaker->state == PATH_BREAKER_HALF_OPEN) {
        report_probe(breaker, settings, outcome, now_ns);
    } else if (breaker->state == PATH_BREAKER_CLOSED && outcome != PATH_OUTCOME_NONE) {
        roll(breaker, settings, now_ns);
        count(breaker, outcome);
        judge(breaker, settings, now_ns);
    }
}

void path_breaker_trip(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                       enum path_breaker_reason reason, uint64_t now_ns)
{
    SG_ASSERT(reason > PATH_BREAKER_NONE && reason < PATH_BREAKER_REASON_COUNT);
    if (!switched_off(breaker, settings) && breaker->state != PATH_BREAKER_OPEN)
        open_it(breaker, settings, reason, now_ns);
}

void path_breaker_hurry(struct path_breaker *breaker, uint64_t now_ns)
{
    if (breaker->state != PATH_BREAKER_OPEN)
        return;
    uint64_t probe_ns = add_sat(now_ns, random_up_to(breaker, breaker->open_ns / 10));
    if (probe_ns < breaker->next_probe_ns)
        breaker->next_probe_ns = probe_ns;
}

void path_breaker_look(const struct path_breaker *breaker, const struct path_breaker_settings *settings,
                       uint64_t now_ns, struct path_breaker_view *ret_view)
{
    struct path_breaker then = *breaker; /* as the next call would find it */
    switched_off(&then, settings);
    roll(&then, settings, now_ns);
    struct path_breaker_bucket all = sum(&then);
    bool waits = then.state == PATH_BREAKER_OPEN && then.next_probe_ns > now_ns;
    *ret_view = (struct path_breaker_view){
        .state = then.state,
        .reason = then.reason,
        .wait_ns = waits ? then.next_probe_ns - now_ns : 0,
        .calls = all.calls,
        .produce_failures = all.produce_failures,
        .timeouts = all.timeouts,
        .opened = then.opened,
        .changes = then.epoch,
    };
}
