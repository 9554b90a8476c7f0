/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "syncgate/path.h"

#define MS   SG_NSEC_PER_MSEC
#define HOUR (3600 * SG_NSEC_PER_SEC)
#define T0   (1000 * SG_NSEC_PER_SEC)

static const struct path_breaker_settings defaults = {
    .enabled = true,
    .window_ms = 10000,
    .min_calls = 10,
    .produce_failure_percent = 50,
    .timeout_percent = 80,
    .open_ms = 1000,
    .open_max_ms = 8000,
    .probes = 2,
};

/* ---- helpers ---- */

static struct path_breaker_view look(const struct path_breaker *breaker,
                                     const struct path_breaker_settings *settings, uint64_t now_ns)
{
    struct path_breaker_view view;
    path_breaker_look(breaker, settings, now_ns, &view);
    return view;
}

static enum path_breaker_state state_of(const struct path_breaker *breaker)
{
    return look(breaker, &defaults, T0).state;
}

static enum path_outcome outcome_of(char letter)
{
    return letter == 's'   ? PATH_OUTCOME_SUCCESS
           : letter == 'p' ? PATH_OUTCOME_PRODUCE_FAILURE
           : letter == 't' ? PATH_OUTCOME_TIMEOUT
                           : PATH_OUTCOME_NONE;
}

/* One call that ends at once. False: it was not let through. */
static bool call(struct path_breaker *breaker, const struct path_breaker_settings *settings, char outcome,
                 uint64_t now_ns)
{
    struct path_permit permit;
    if (!path_breaker_ask(breaker, settings, now_ns, &permit)) {
        assert_false(permit.given);
        return false;
    }
    assert_true(permit.given);
    path_breaker_report(breaker, settings, &permit, outcome_of(outcome), now_ns);
    assert_false(permit.given);
    return true;
}

static void calls(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                  const char *outcomes, uint64_t now_ns)
{
    for (; *outcomes; outcomes++)
        assert_true(call(breaker, settings, *outcomes, now_ns));
}

/* A breaker that has just become half-open; *ret_now_ns is then. */
static void half_open(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                      uint64_t *ret_now_ns, struct path_permit *ret_probe)
{
    path_breaker_init(breaker, 7);
    path_breaker_trip(breaker, settings, PATH_BREAKER_UNREACHABLE, T0);
    *ret_now_ns = T0 + look(breaker, settings, T0).wait_ns;
    assert_false(path_breaker_ask(breaker, settings, *ret_now_ns - 1, ret_probe));
    assert_int_equal(state_of(breaker), PATH_BREAKER_OPEN);
    assert_true(path_breaker_ask(breaker, settings, *ret_now_ns, ret_probe));
    assert_int_equal(state_of(breaker), PATH_BREAKER_HALF_OPEN);
    assert_true(ret_probe->given && ret_probe->probe);
}

/* ---- tables ---- */

static void test_names(void **state)
{
    (void)state;
    static const char *const states[] = {"closed", "open", "half_open"};
    static const char *const reasons[] = {"none", "produce_failures", "reply_timeouts", "unreachable",
                                          "probe_failed"};
    assert_int_equal(SG_ARRAY_LEN(states), PATH_BREAKER_STATE_COUNT);
    for (int i = 0; i < PATH_BREAKER_STATE_COUNT; i++)
        assert_string_equal(path_breaker_state_name((enum path_breaker_state)i), states[i]);
    assert_int_equal(SG_ARRAY_LEN(reasons), PATH_BREAKER_REASON_COUNT);
    for (int i = 0; i < PATH_BREAKER_REASON_COUNT; i++)
        assert_string_equal(path_breaker_reason_name((enum path_breaker_reason)i), reasons[i]);
}

static void test_thresholds(void **state)
{
    (void)state;
    static const struct {
        const char *outcomes; /* the last one decides */
        uint32_t min_calls, produce_percent, timeout_percent;
        enum path_breaker_reason reason; /* NONE: stays closed */
    } cases[] = {
        {"ssssssssss", 10, 50, 80, PATH_BREAKER_NONE},
        {"ppppppppp", 10, 50, 80, PATH_BREAKER_NONE}, /* too few to judge */
        {"pppppppppp", 10, 50, 80, PATH_BREAKER_PRODUCE_FAILURES},
        {"pppppsssss", 10, 50, 80, PATH_BREAKER_PRODUCE_FAILURES}, /* a success completes the number */
        {"pppptsssss", 10, 50, 80, PATH_BREAKER_NONE},             /* 40 %: the kinds are not added up */
        {"sssssspppppp", 12, 50, 80, PATH_BREAKER_PRODUCE_FAILURES},
        {"ttttttttss", 10, 50, 80, PATH_BREAKER_REPLY_TIMEOUTS},
        {"tttttttsss", 10, 50, 80, PATH_BREAKER_NONE},
        {"tttttppppp", 10, 50, 50, PATH_BREAKER_PRODUCE_FAILURES}, /* both: the nearer cause */
        {"nnnnnnnnnnpppppppppnnnnn", 10, 50, 80, PATH_BREAKER_NONE},
        {"pppppppppp", 10, 0, 80, PATH_BREAKER_NONE},
        {"tttttttttt", 10, 50, 0, PATH_BREAKER_NONE},
        {"pppppppppp", 10, 100, 80, PATH_BREAKER_PRODUCE_FAILURES},
        {"pppppppppss", 10, 100, 80, PATH_BREAKER_NONE},
        {"p", 1, 50, 80, PATH_BREAKER_PRODUCE_FAILURES},
        {"p", 0, 50, 80, PATH_BREAKER_PRODUCE_FAILURES},
        {"s", 0, 1, 1, PATH_BREAKER_NONE},
        {"sst", 3, 33, 34, PATH_BREAKER_NONE}, /* 33.3 % */
        {"sst", 3, 34, 33, PATH_BREAKER_REPLY_TIMEOUTS},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct path_breaker_settings settings = defaults;
        settings.min_calls = cases[i].min_calls;
        settings.produce_failure_percent = cases[i].produce_percent;
        settings.timeout_percent = cases[i].timeout_percent;
        struct path_breaker breaker;
        path_breaker_init(&breaker, i);
        calls(&breaker, &settings, cases[i].outcomes, T0);
        struct path_breaker_view view = look(&breaker, &settings, T0);
        bool opens = cases[i].reason != PATH_BREAKER_NONE;
        assert_int_equal(view.state, opens ? PATH_BREAKER_OPEN : PATH_BREAKER_CLOSED);
        assert_int_equal(view.reason, cases[i].reason);
        assert_int_equal(view.opened, opens);
        assert_int_equal(view.changes, opens);
        assert_int_equal(view.wait_ns > 0, opens);
        assert_int_equal(call(&breaker, &settings, 's', T0), !opens);
    }
}

static void test_window_slides(void **state)
{
    (void)state;
    /* Nine failures at T0, and a tenth later; the window is 10 s, its buckets are 1 s. */
    static const struct {
        uint64_t later_ns;
        uint32_t calls; /* in the window at the tenth */
    } cases[] = {
        {0, 10},         {999 * MS, 10},  {5000 * MS, 10}, {9999 * MS, 10},  {10000 * MS, 1},
        {10001 * MS, 1}, {19999 * MS, 1}, {HOUR, 1},       {1000 * HOUR, 1}, {UINT64_MAX - T0, 1},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct path_breaker breaker;
        path_breaker_init(&breaker, 1);
        calls(&breaker, &defaults, "ppppppppp", T0);
        assert_int_equal(look(&breaker, &defaults, T0 + cases[i].later_ns).calls, cases[i].calls - 1);
        calls(&breaker, &defaults, "p", T0 + cases[i].later_ns);
        struct path_breaker_view view = look(&breaker, &defaults, T0 + cases[i].later_ns);
        assert_int_equal(view.calls, cases[i].calls);
        assert_int_equal(view.produce_failures, cases[i].calls);
        assert_int_equal(view.state, cases[i].calls < 10 ? PATH_BREAKER_CLOSED : PATH_BREAKER_OPEN);
    }
}

static void test_buckets_drop_out_one_by_one(void **state)
{
    (void)state;
    struct path_breaker breaker;
    path_breaker_init(&breaker, 1);
    for (unsigned second = 0; second < 40; second++) { /* one call a second, a timeout in every fourth */
        calls(&breaker, &defaults, second % 4 == 0 ? "t" : "s", T0 + second * SG_NSEC_PER_SEC);
        struct path_breaker_view view = look(&breaker, &defaults, T0 + second * SG_NSEC_PER_SEC);
        assert_int_equal(view.calls, second < 10 ? second + 1 : 10);
        assert_int_equal(view.produce_failures, 0);
        assert_in_range(view.timeouts, second < 10 ? second / 4 + 1 : 2, second < 10 ? second / 4 + 1 : 3);
    }
    uint64_t last_ns = T0 + 39 * SG_NSEC_PER_SEC;
    for (unsigned second = 0; second < 12; second++)
        assert_int_equal(look(&breaker, &defaults, last_ns + second * SG_NSEC_PER_SEC).calls,
                         second < 10 ? 10 - second : 0);
}

static void test_time_that_misbehaves(void **state)
{
    (void)state;
    struct path_breaker breaker;
    path_breaker_init(&breaker, 1);
    /* Loops cache their time, so a call may be a little older than the one before; hours back are survived as well. */
    calls(&breaker, &defaults, "ppp", T0);
    calls(&breaker, &defaults, "ppp", T0 - 5 * MS);
    calls(&breaker, &defaults, "ppp", 0);
    assert_int_equal(look(&breaker, &defaults, T0 - HOUR / 4).calls, 9);
    assert_int_equal(look(&breaker, &defaults, T0).calls, 9);
    calls(&breaker, &defaults, "p", 1);
    assert_int_equal(look(&breaker, &defaults, T0).state, PATH_BREAKER_OPEN);

    /* The end of time: no probe time wraps round to the past. */
    path_breaker_init(&breaker, 1);
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, UINT64_MAX - 1);
    assert_int_equal(look(&breaker, &defaults, UINT64_MAX - 1).wait_ns, 1);
    assert_false(call(&breaker, &defaults, 's', UINT64_MAX - 1));
    path_breaker_hurry(&breaker, UINT64_MAX - 1);
    assert_true(call(&breaker, &defaults, 's', UINT64_MAX));

    /* Time stands still, and the window is as small and as large as it can be. */
    static const uint32_t windows[] = {0, 1, 9, UINT32_MAX};
    for (size_t i = 0; i < SG_ARRAY_LEN(windows); i++) {
        struct path_breaker_settings settings = defaults;
        settings.window_ms = windows[i];
        path_breaker_init(&breaker, 1);
        calls(&breaker, &settings, "ssssssssss", 0);
        assert_int_equal(look(&breaker, &settings, 0).calls, 10);
        assert_int_equal(look(&breaker, &settings, 10 * MS).calls, windows[i] == UINT32_MAX ? 10 : 0);
        calls(&breaker, &settings, "ssssssssss", UINT64_MAX);
        assert_int_equal(look(&breaker, &settings, UINT64_MAX).calls, 10);
    }
}

static void test_counts_do_not_overflow(void **state)
{
    (void)state;
    struct path_breaker breaker;
    path_breaker_init(&breaker, 1);
    calls(&breaker, &defaults, "s", T0);
    for (size_t i = 0; i < PATH_BREAKER_BUCKETS; i++) /* as after 4 thousand million calls */
        breaker.buckets[i] = (struct path_breaker_bucket){UINT32_MAX / 10, 0, UINT32_MAX / 20};
    calls(&breaker, &defaults, "tttttpppppsssss", T0);
    struct path_breaker_view view = look(&breaker, &defaults, T0);
    assert_int_equal(view.state, PATH_BREAKER_CLOSED);
    assert_int_equal(view.calls, UINT32_MAX / 10 * 10);
    assert_int_equal(view.timeouts, UINT32_MAX / 20 * 10);
    struct path_breaker_settings settings = defaults;
    settings.timeout_percent = 49; /* a full bucket is judged still */
    calls(&breaker, &settings, "s", T0);
    assert_int_equal(look(&breaker, &settings, T0).reason, PATH_BREAKER_REPLY_TIMEOUTS);
}

static void test_open_times(void **state)
{
    (void)state;
    static const struct {
        uint32_t open_ms, open_max_ms;
        uint32_t expected_ms[6]; /* without the jitter */
    } cases[] = {
        {1000, 8000, {1000, 2000, 4000, 8000, 8000, 8000}},
        {1000, 5000, {1000, 2000, 4000, 5000, 5000, 5000}},
        {1000, 1000, {1000, 1000, 1000, 1000, 1000, 1000}},
        {1000, 0, {1000, 1000, 1000, 1000, 1000, 1000}}, /* a limit below the first is none */
        {0, 8000, {0, 0, 0, 0, 0, 0}},
        {UINT32_MAX, UINT32_MAX, {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct path_breaker_settings settings = defaults;
        settings.open_ms = cases[i].open_ms;
        settings.open_max_ms = cases[i].open_max_ms;
        uint64_t least[6], most[6] = {0};
        memset(least, 0xff, sizeof(least));
        for (uint64_t seed = 0; seed < 200; seed++) {
            struct path_breaker breaker;
            uint64_t now_ns = T0;
            path_breaker_init(&breaker, seed);
            path_breaker_trip(&breaker, &settings, PATH_BREAKER_UNREACHABLE, now_ns);
            for (size_t n = 0; n < 6; n++) {
                uint64_t wait_ns = look(&breaker, &settings, now_ns).wait_ns;
                least[n] = wait_ns < least[n] ? wait_ns : least[n];
                most[n] = wait_ns > most[n] ? wait_ns : most[n];
                now_ns += wait_ns;
                assert_true(call(&breaker, &settings, 'p', now_ns));
                assert_int_equal(look(&breaker, &settings, now_ns).reason, PATH_BREAKER_PROBE_FAILED);
            }
        }
        for (size_t n = 0; n < 6; n++) {
            uint64_t percent_ns = cases[i].expected_ms[n] * MS / 100;
            assert_in_range(least[n], 80 * percent_ns, 84 * percent_ns);
            assert_in_range(most[n], 116 * percent_ns, 120 * percent_ns);
        }
    }
}

static void test_many_failed_probes(void **state)
{
    (void)state;
    struct path_breaker breaker;
    uint64_t now_ns = T0;
    path_breaker_init(&breaker, 3);
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, now_ns);
    for (unsigned i = 0; i < 200; i++) {
        now_ns += look(&breaker, &defaults, now_ns).wait_ns;
        calls(&breaker, &defaults, "t", now_ns);
        assert_in_range(look(&breaker, &defaults, now_ns).wait_ns, 1, 9600 * MS);
    }
    struct path_breaker_view view = look(&breaker, &defaults, now_ns);
    assert_int_equal(view.opened, 201);
    assert_int_equal(view.changes, 401);
    assert_in_range(view.wait_ns, 6400 * MS, 9600 * MS);
    /* Closed once, it starts again with the first open time. */
    now_ns += view.wait_ns;
    calls(&breaker, &defaults, "ss", now_ns);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_CLOSED);
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, now_ns);
    assert_in_range(look(&breaker, &defaults, now_ns).wait_ns, 800 * MS, 1200 * MS);
}

/* ---- half-open ---- */

static void test_half_open_lets_few_pass(void **state)
{
    (void)state;
    for (uint32_t probes = 0; probes < 6; probes++) {
        struct path_breaker_settings settings = defaults;
        settings.probes = probes;
        uint32_t limit = probes ? probes : 1;
        struct path_breaker breaker;
        struct path_permit permits[6], refused;
        uint64_t now_ns;
        half_open(&breaker, &settings, &now_ns, &permits[0]);
        for (uint32_t i = 1; i < limit; i++)
            assert_true(path_breaker_ask(&breaker, &settings, now_ns, &permits[i]));
        refused.given = true;
        assert_false(path_breaker_ask(&breaker, &settings, now_ns + HOUR, &refused));
        assert_false(refused.given);
        /* One that says nothing gives its place back; one that succeeded keeps it. */
        path_breaker_report(&breaker, &settings, &permits[0], PATH_OUTCOME_NONE, now_ns);
        assert_true(path_breaker_ask(&breaker, &settings, now_ns, &permits[0]));
        for (uint32_t i = 0; i < limit; i++) {
            assert_int_equal(state_of(&breaker), PATH_BREAKER_HALF_OPEN);
            assert_false(path_breaker_ask(&breaker, &settings, now_ns, &refused));
            path_breaker_report(&breaker, &settings, &permits[i], PATH_OUTCOME_SUCCESS, now_ns);
        }
        struct path_breaker_view view = look(&breaker, &settings, now_ns);
        assert_int_equal(view.state, PATH_BREAKER_CLOSED);
        assert_int_equal(view.reason, PATH_BREAKER_NONE);
        assert_int_equal(view.changes, 3);
        assert_int_equal(view.calls, 0);
    }
}

static void test_one_failed_probe_opens(void **state)
{
    (void)state;
    static const struct {
        char first, second;
        uint32_t produce_percent, timeout_percent;
        enum path_breaker_state then;
    } cases[] = {
        {'s', 'p', 50, 80, PATH_BREAKER_OPEN},      {'s', 't', 50, 80, PATH_BREAKER_OPEN},
        {'s', 's', 50, 80, PATH_BREAKER_CLOSED},    {'s', 'n', 50, 80, PATH_BREAKER_HALF_OPEN},
        {'n', 's', 50, 80, PATH_BREAKER_HALF_OPEN}, {'s', 't', 50, 0, PATH_BREAKER_HALF_OPEN},
        {'s', 'p', 0, 80, PATH_BREAKER_HALF_OPEN},  {'s', 'p', 50, 0, PATH_BREAKER_OPEN},
        {'t', 's', 50, 80, PATH_BREAKER_OPEN}, /* the second is too late to vote */
        {'p', 'p', 50, 80, PATH_BREAKER_OPEN},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct path_breaker_settings settings = defaults;
        settings.produce_failure_percent = cases[i].produce_percent;
        settings.timeout_percent = cases[i].timeout_percent;
        struct path_breaker breaker;
        struct path_permit first, second;
        uint64_t now_ns;
        half_open(&breaker, &settings, &now_ns, &first);
        assert_true(path_breaker_ask(&breaker, &settings, now_ns, &second));
        path_breaker_report(&breaker, &settings, &first, outcome_of(cases[i].first), now_ns);
        path_breaker_report(&breaker, &settings, &second, outcome_of(cases[i].second), now_ns);
        struct path_breaker_view view = look(&breaker, &settings, now_ns);
        assert_int_equal(view.state, cases[i].then);
        if (cases[i].then == PATH_BREAKER_OPEN) {
            assert_int_equal(view.reason, PATH_BREAKER_PROBE_FAILED);
            assert_int_equal(view.opened, 2);
            assert_in_range(view.wait_ns, 1600 * MS, 2400 * MS);
        } else if (cases[i].then == PATH_BREAKER_HALF_OPEN) { /* a place is free, and not for ever lost */
            assert_int_equal(view.reason, PATH_BREAKER_UNREACHABLE);
            assert_int_equal(view.wait_ns, 0);
            calls(&breaker, &settings, "s", now_ns);
            assert_int_equal(look(&breaker, &settings, now_ns).state, PATH_BREAKER_CLOSED);
        }
    }
}

static void test_earlier_epochs_do_not_vote(void **state)
{
    (void)state;
    struct path_breaker breaker;
    struct path_permit early[20], probe, again;
    uint64_t now_ns;
    path_breaker_init(&breaker, 7);
    for (size_t i = 0; i < SG_ARRAY_LEN(early); i++)
        assert_true(path_breaker_ask(&breaker, &defaults, T0, &early[i]));
    calls(&breaker, &defaults, "pppppppppp", T0);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_OPEN);
    path_breaker_report(&breaker, &defaults, &early[0], PATH_OUTCOME_SUCCESS, T0);
    now_ns = T0 + look(&breaker, &defaults, T0).wait_ns;
    assert_true(path_breaker_ask(&breaker, &defaults, now_ns, &probe));
    /* Neither their failures nor their successes are those of probes. */
    for (size_t i = 1; i < 10; i++)
        path_breaker_report(&breaker, &defaults, &early[i], outcome_of("pst"[i % 3]), now_ns);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_HALF_OPEN);
    path_breaker_report(&breaker, &defaults, &probe, PATH_OUTCOME_SUCCESS, now_ns);
    /* A permit is used up by its report. */
    path_breaker_report(&breaker, &defaults, &probe, PATH_OUTCOME_SUCCESS, now_ns);
    path_breaker_report(&breaker, &defaults, &probe, PATH_OUTCOME_PRODUCE_FAILURE, now_ns);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_HALF_OPEN);
    assert_true(path_breaker_ask(&breaker, &defaults, now_ns, &again));
    path_breaker_report(&breaker, &defaults, &again, PATH_OUTCOME_SUCCESS, now_ns);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_CLOSED);
    /* Nor do they count in the new window. */
    for (size_t i = 10; i < SG_ARRAY_LEN(early); i++)
        path_breaker_report(&breaker, &defaults, &early[i], PATH_OUTCOME_PRODUCE_FAILURE, now_ns);
    assert_int_equal(look(&breaker, &defaults, now_ns).calls, 0);
    struct path_permit none = {0};
    path_breaker_report(&breaker, &defaults, &none, PATH_OUTCOME_PRODUCE_FAILURE, now_ns);
    assert_int_equal(look(&breaker, &defaults, now_ns).calls, 0);
}

static void test_fewer_probes_while_half_open(void **state)
{
    (void)state;
    struct path_breaker_settings settings = defaults;
    struct path_breaker breaker;
    struct path_permit permits[3], permit;
    uint64_t now_ns;
    settings.probes = 5;
    half_open(&breaker, &settings, &now_ns, &permits[0]);
    assert_true(path_breaker_ask(&breaker, &settings, now_ns, &permits[1]));
    assert_true(path_breaker_ask(&breaker, &settings, now_ns, &permits[2]));
    path_breaker_report(&breaker, &settings, &permits[0], PATH_OUTCOME_SUCCESS, now_ns);
    settings.probes = 2; /* one succeeded, two are under way */
    assert_false(path_breaker_ask(&breaker, &settings, now_ns, &permit));
    settings.probes = 5;
    path_breaker_report(&breaker, &settings, &permits[1], PATH_OUTCOME_SUCCESS, now_ns);
    path_breaker_report(&breaker, &settings, &permits[2], PATH_OUTCOME_NONE, now_ns);
    settings.probes = 2; /* enough succeeded, and nobody is left to report */
    assert_true(path_breaker_ask(&breaker, &settings, now_ns, &permit));
    assert_false(permit.probe);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_CLOSED);
}

/* ---- trip, hurry, off ---- */

static void test_trip(void **state)
{
    (void)state;
    struct path_breaker breaker;
    struct path_permit probe;
    uint64_t now_ns;
    path_breaker_init(&breaker, 5);
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, T0);
    struct path_breaker_view first = look(&breaker, &defaults, T0), second;
    assert_int_equal(first.state, PATH_BREAKER_OPEN);
    assert_int_equal(first.reason, PATH_BREAKER_UNREACHABLE);
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_PRODUCE_FAILURES, T0 + 1);
    second = look(&breaker, &defaults, T0);
    assert_int_equal(second.changes, first.changes); /* neither later nor for another reason */
    assert_int_equal(second.reason, first.reason);
    assert_int_equal(second.wait_ns, first.wait_ns);

    half_open(&breaker, &defaults, &now_ns, &probe);
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, now_ns);
    second = look(&breaker, &defaults, now_ns);
    assert_int_equal(second.state, PATH_BREAKER_OPEN);
    assert_int_equal(second.reason, PATH_BREAKER_UNREACHABLE);
    assert_in_range(second.wait_ns, 1600 * MS, 2400 * MS);
    path_breaker_report(&breaker, &defaults, &probe, PATH_OUTCOME_SUCCESS, now_ns);
    assert_int_equal(state_of(&breaker), PATH_BREAKER_OPEN);
}

static void test_hurry(void **state)
{
    (void)state;
    uint64_t least = UINT64_MAX, most = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct path_breaker breaker;
        uint64_t now_ns = T0;
        path_breaker_init(&breaker, seed);
        path_breaker_hurry(&breaker, now_ns); /* closed: nothing */
        assert_int_equal(look(&breaker, &defaults, now_ns).changes, 0);
        path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, now_ns);
        for (int i = 0; i < 4; i++) { /* the longest open time */
            now_ns += look(&breaker, &defaults, now_ns).wait_ns;
            calls(&breaker, &defaults, "p", now_ns);
        }
        assert_true(look(&breaker, &defaults, now_ns).wait_ns > 6000 * MS);
        path_breaker_hurry(&breaker, now_ns);
        uint64_t wait_ns = look(&breaker, &defaults, now_ns).wait_ns;
        least = wait_ns < least ? wait_ns : least;
        most = wait_ns > most ? wait_ns : most;
        for (int i = 0; i < 5; i++) { /* only ever nearer */
            path_breaker_hurry(&breaker, now_ns + i * MS);
            assert_true(look(&breaker, &defaults, now_ns).wait_ns <= wait_ns);
        }
        assert_int_equal(state_of(&breaker), PATH_BREAKER_OPEN);
        assert_true(call(&breaker, &defaults, 's', now_ns + 100 * MS));
        path_breaker_hurry(&breaker, now_ns); /* half-open: nothing */
        assert_int_equal(state_of(&breaker), PATH_BREAKER_HALF_OPEN);
    }
    assert_in_range(least, 0, 10 * MS);
    assert_in_range(most, 90 * MS, 100 * MS);
}

static void test_off(void **state)
{
    (void)state;
    struct path_breaker_settings off = defaults;
    off.enabled = false;
    struct path_breaker breaker;
    struct path_permit probe, permit;
    uint64_t now_ns;
    path_breaker_init(&breaker, 1);
    calls(&breaker, &off, "pppppppppptttttttttttt", T0);
    path_breaker_trip(&breaker, &off, PATH_BREAKER_UNREACHABLE, T0);
    struct path_breaker_view view = look(&breaker, &off, T0);
    assert_int_equal(view.state, PATH_BREAKER_CLOSED);
    assert_int_equal(view.calls, 0);
    assert_int_equal(view.changes, 0);

    /* Switched off while open: it looks closed at once, and is. */
    path_breaker_trip(&breaker, &defaults, PATH_BREAKER_UNREACHABLE, T0);
    assert_int_equal(look(&breaker, &off, T0).state, PATH_BREAKER_CLOSED);
    assert_int_equal(look(&breaker, &off, T0).wait_ns, 0);
    assert_int_equal(look(&breaker, &defaults, T0).state, PATH_BREAKER_OPEN); /* looking changes nothing */
    calls(&breaker, &off, "p", T0);
    assert_int_equal(look(&breaker, &defaults, T0).state, PATH_BREAKER_CLOSED);
    assert_int_equal(look(&breaker, &defaults, T0).changes, 2);

    /* Off and on again while a probe is under way: its place is not lost. */
    struct path_breaker_settings one = defaults;
    one.probes = 1;
    half_open(&breaker, &one, &now_ns, &probe);
    path_breaker_report(&breaker, &off, &probe, PATH_OUTCOME_SUCCESS, now_ns);
    assert_true(path_breaker_ask(&breaker, &one, now_ns, &permit));
    assert_false(permit.probe);
}

/* ---- properties ---- */

static uint64_t random_state;
static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % limit);
}

static bool move_is_legal(enum path_breaker_state from, enum path_breaker_state to, bool enabled)
{
    if (to == PATH_BREAKER_CLOSED)
        return from == PATH_BREAKER_HALF_OPEN || (from == PATH_BREAKER_OPEN && !enabled);
    return to == PATH_BREAKER_OPEN ? from != PATH_BREAKER_OPEN : from == PATH_BREAKER_OPEN;
}

#define UNDER_WAY 40
struct model {
    struct path_breaker breaker;
    struct path_breaker_settings settings;
    struct path_permit permits[UNDER_WAY];
    uint64_t now_ns;
    enum path_breaker_state state;
    uint32_t changes;
};

/* Probes of the present half-open that have not reported. */
static uint32_t probes_under_way(const struct model *model)
{
    uint32_t count = 0;
    for (size_t i = 0; i < UNDER_WAY; i++)
        count += model->permits[i].given && model->permits[i].probe &&
                 model->permits[i].epoch == model->changes && model->state == PATH_BREAKER_HALF_OPEN;
    return count;
}

static void check_model(struct model *model)
{
    struct path_breaker_view view = look(&model->breaker, &model->settings, model->now_ns);
    if (view.changes == model->changes) {
        assert_int_equal(view.state, model->state);
    } else {
        assert_int_equal(view.changes, model->changes + 1);
        assert_true(move_is_legal(model->state, view.state, model->settings.enabled));
    }
    model->state = view.state;
    model->changes = view.changes;
    assert_true(probes_under_way(model) <= model->settings.probes);
    assert_true((uint64_t)view.produce_failures + view.timeouts <= view.calls);
    assert_true(view.calls < 1000000); /* not below 0 */
    assert_int_equal(view.reason == PATH_BREAKER_NONE, view.state == PATH_BREAKER_CLOSED);
    assert_true(view.wait_ns == 0 || view.state == PATH_BREAKER_OPEN);
    assert_true(view.wait_ns <= UINT64_C(12) * model->settings.open_max_ms * MS / 10);
}

static void one_step(struct model *model)
{
    static const uint64_t jumps[] = {0, 0, 0, MS, 50 * MS, 400 * MS, 3000 * MS, 2 * HOUR};
    model->now_ns += jumps[random_below(random_below(20) ? 6 : 8)] * (1 + random_below(3));
    struct path_permit *permit = &model->permits[random_below(UNDER_WAY)];
    uint32_t what = random_below(100);
    if (what < 90 && permit->given) {
        static const enum path_outcome outcomes[] = {PATH_OUTCOME_SUCCESS, PATH_OUTCOME_SUCCESS,
                                                     PATH_OUTCOME_SUCCESS, PATH_OUTCOME_NONE,
                                                     PATH_OUTCOME_TIMEOUT, PATH_OUTCOME_PRODUCE_FAILURE};
        path_breaker_report(&model->breaker, &model->settings, permit,
                            outcomes[random_below(SG_ARRAY_LEN(outcomes))], model->now_ns);
    } else if (what < 90) {
        bool yes = path_breaker_ask(&model->breaker, &model->settings, model->now_ns, permit);
        assert_int_equal(yes, permit->given);
        struct path_breaker_view view = look(&model->breaker, &model->settings, model->now_ns);
        assert_int_equal(yes, view.state == PATH_BREAKER_CLOSED ||
                                  (view.state == PATH_BREAKER_HALF_OPEN && permit->probe));
    } else if (what < 93) {
        path_breaker_hurry(&model->breaker, model->now_ns);
    } else if (what < 95) {
        path_breaker_trip(&model->breaker, &model->settings, PATH_BREAKER_UNREACHABLE, model->now_ns);
    } else if (what == 95) {
        model->settings.enabled = random_below(4) > 0;
        check_model(model); /* the look itself may show a closed one now, and an open one again later */
        if (!model->settings.enabled)
            assert_true(
                path_breaker_ask(&model->breaker, &model->settings, model->now_ns, &(struct path_permit){0}));
    }
}

static void test_random_sequences(void **state)
{
    (void)state;
    uint64_t seen[PATH_BREAKER_STATE_COUNT] = {0};
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct model model = {.settings = defaults, .now_ns = T0};
        random_state = seed;
        model.settings.probes = 1 + random_below(5);
        model.settings.min_calls = random_below(12);
        model.settings.produce_failure_percent = random_below(60);
        model.settings.timeout_percent = random_below(60);
        path_breaker_init(&model.breaker, seed);
        for (int step = 0; step < 2000; step++) {
            one_step(&model);
            check_model(&model);
            seen[model.state]++;
        }
        /* Nothing is ever stuck: when all have reported and time passes, successes close it. */
        for (size_t i = 0; i < UNDER_WAY; i++)
            path_breaker_report(&model.breaker, &model.settings, &model.permits[i], PATH_OUTCOME_NONE,
                                model.now_ns);
        model.settings.enabled = true;
        for (int i = 0; i < 10; i++)
            calls(&model.breaker, &model.settings, "s", model.now_ns + HOUR);
        assert_int_equal(look(&model.breaker, &model.settings, model.now_ns + HOUR).state,
                         PATH_BREAKER_CLOSED);
    }
    for (int i = 0; i < PATH_BREAKER_STATE_COUNT; i++)
        assert_true(seen[i] > 10000); /* the sequences do reach what they are to try */
}

/* The window against the list of all calls: what it holds ended within the window, and nothing is missing of nine tenths. */
static void test_window_against_a_list(void **state)
{
    (void)state;
    static struct {
        uint64_t at_ns;
        char outcome;
    } list[3000];
    struct path_breaker_settings settings = defaults;
    settings.produce_failure_percent = settings.timeout_percent = 0; /* stays closed */
    struct path_breaker breaker;
    uint64_t now_ns = T0;
    random_state = 99;
    path_breaker_init(&breaker, 1);
    for (size_t n = 0; n < SG_ARRAY_LEN(list); n++) {
        now_ns += random_below(200) ? random_below(300) * MS : random_below(30000) * MS;
        list[n].at_ns = now_ns;
        list[n].outcome = "sspt"[random_below(4)];
        assert_true(call(&breaker, &settings, list[n].outcome, now_ns));
        struct path_breaker_view view = look(&breaker, &settings, now_ns);
        uint32_t least[3] = {0}, most[3] = {0}; /* calls, produce failures, timeouts */
        for (size_t i = n + 1; i-- > 0 && now_ns - list[i].at_ns <= 10000 * MS;) {
            bool surely = now_ns - list[i].at_ns < 9000 * MS;
            most[0]++, least[0] += surely;
            most[1] += list[i].outcome == 'p', least[1] += surely && list[i].outcome == 'p';
            most[2] += list[i].outcome == 't', least[2] += surely && list[i].outcome == 't';
        }
        assert_in_range(view.calls, least[0], most[0]);
        assert_in_range(view.produce_failures, least[1], most[1]);
        assert_in_range(view.timeouts, least[2], most[2]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_thresholds),
        cmocka_unit_test(test_window_slides),
        cmocka_unit_test(test_buckets_drop_out_one_by_one),
        cmocka_unit_test(test_time_that_misbehaves),
        cmocka_unit_test(test_counts_do_not_overflow),
        cmocka_unit_test(test_open_times),
        cmocka_unit_test(test_many_failed_probes),
        cmocka_unit_test(test_half_open_lets_few_pass),
        cmocka_unit_test(test_one_failed_probe_opens),
        cmocka_unit_test(test_earlier_epochs_do_not_vote),
        cmocka_unit_test(test_fewer_probes_while_half_open),
        cmocka_unit_test(test_trip),
        cmocka_unit_test(test_hurry),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_random_sequences),
        cmocka_unit_test(test_window_against_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
