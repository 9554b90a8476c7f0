/* SPDX-License-Identifier: Apache-2.0 */
/* Breakers at work: which ends of a call count for which breaker, when they open, what an open one answers, and that every
 * permit comes back. The real clock runs, so an open breaker waits a tenth of a second: the tests turn the loop meanwhile. */
#define RIG_SETTINGS                                                                                        \
    "SYNCGATE_BREAKER_WINDOW=41s", "SYNCGATE_BREAKER_MIN_CALLS=42", "SYNCGATE_BREAKER_PRODUCE_FAILURES=43", \
        "SYNCGATE_BREAKER_TIMEOUTS=44", "SYNCGATE_BREAKER_CLUSTER_FAILURES=45",                             \
        "SYNCGATE_BREAKER_OPEN=146ms", "SYNCGATE_BREAKER_OPEN_MAX=147ms", "SYNCGATE_BREAKER_PROBES=48"
#include <inttypes.h>

#include "exchange_rig.h"

/* ---- the breakers of the rig ---- */

enum who { ROUTE, CLUSTER, WHO_COUNT }; /* ROUTE: of /primary, if nothing else is said */

static struct exchange_route *state_of(const char *operation)
{
    for (size_t i = 0; i < rig.plan->routes->count; i++)
        if (strcmp(rig.plan->states[i].operation->name, operation) == 0)
            return &rig.plan->states[i];
    fail_msg("no operation %s", operation);
    return NULL;
}

static struct exchange_breaker *breaker_of(enum who who)
{
    return who == CLUSTER ? &rig.shared.cluster : &state_of("primary")->operation->breaker;
}

static struct path_breaker_settings *settings_of(enum who who)
{
    return who == CLUSTER ? &rig.plan->cluster_breaker : &rig.plan->route_breaker;
}

static void reset(struct exchange_breaker *breaker)
{
    path_breaker_init(&breaker->breaker, 7);
    atomic_store(&breaker->open, false);
}

/* Closed and empty again. The tests are alone on the loop, so they may change the plan's settings between calls. */
static void fresh(void)
{
    const struct path_breaker_settings settings = {.enabled = true,
                                                   .window_ms = 60000,
                                                   .min_calls = 1000,
                                                   .produce_failure_percent = 50,
                                                   .timeout_percent = 50,
                                                   .open_ms = 100,
                                                   .open_max_ms = 60000,
                                                   .probes = 1};
    rig_settle();
    rig.plan->route_breaker = rig.plan->cluster_breaker = settings;
    rig.plan->cluster_breaker.timeout_percent = 0;
    reset(&rig.shared.cluster);
    for (size_t i = 0; i < rig.plan->routes->count; i++)
        reset(&rig.plan->states[i].operation->breaker);
}

static struct path_breaker_view look_at(struct exchange_breaker *breaker,
                                        const struct path_breaker_settings *settings)
{
    struct path_breaker_view view;
    exchange_breaker_look(breaker, settings, &view);
    return view;
}

static struct path_breaker_view look(enum who who)
{
    return look_at(breaker_of(who), settings_of(who));
}

static void expect_state(enum who who, enum path_breaker_state state, enum path_breaker_reason reason)
{
    struct path_breaker_view view = look(who);
    if (view.state != state || view.reason != reason)
        fail_msg("%s: %s, %s", who == CLUSTER ? "cluster" : "route", path_breaker_state_name(view.state),
                 path_breaker_reason_name(view.reason));
}

static void expect_counts(enum who who, uint32_t calls, uint32_t produce_failures, uint32_t timeouts)
{
    struct path_breaker_view view = look(who);
    if (view.calls != calls || view.produce_failures != produce_failures || view.timeouts != timeouts)
        fail_msg("%s: %u calls, %u produce failures, %u timeouts", who == CLUSTER ? "cluster" : "route",
                 view.calls, view.produce_failures, view.timeouts);
}

/* Until the next probe may go, also by the loop's clock. */
static void wait_for_probe(enum who who)
{
    do
        loop_turn(rig.loop, 2);
    while (look(who).wait_ns > 0);
    loop_turn(rig.loop, 0);
}

/* ---- ways a call ends ---- */

enum way {
    WAY_REPLY,
    WAY_TIMEOUT,             /* delivered, no reply */
    WAY_SILENCE,             /* neither a report nor a reply */
    WAY_UNCERTAIN,           /* the report doubts it, no reply */
    WAY_UNCERTAIN_AND_REPLY, /* the reply comes all the same */
    WAY_NOT_PERSISTED,
    WAY_TOPIC_REFUSED,
    WAY_GONE,
    WAY_GONE_DELIVERED, /* the client goes when the command is in Kafka */
    WAY_SHUTDOWN,
    WAY_COUNT
};

struct counted {
    uint32_t calls, produce_failures, timeouts;
};
static const struct {
    const char *name;
    struct counted by[WHO_COUNT];
    int status; /* of the answer on /primary; 0: the client is gone */
} ways[WAY_COUNT] = {
    [WAY_REPLY] = {"reply", {{1, 0, 0}, {1, 0, 0}}, 200},
    [WAY_TIMEOUT] = {"timeout", {{1, 0, 1}, {1, 0, 0}}, 504},
    [WAY_SILENCE] = {"silence", {{1, 1, 0}, {1, 1, 0}}, 504},
    [WAY_UNCERTAIN] = {"uncertain", {{1, 1, 0}, {1, 1, 0}}, 504},
    [WAY_UNCERTAIN_AND_REPLY] = {"uncertain, then a reply", {{1, 1, 0}, {1, 1, 0}}, 200},
    [WAY_NOT_PERSISTED] = {"not persisted", {{1, 1, 0}, {1, 1, 0}}, 201},
    [WAY_TOPIC_REFUSED] = {"topic refused", {{1, 1, 0}, {1, 0, 0}}, 201},
    [WAY_GONE] = {"client gone", {{0, 0, 0}, {0, 0, 0}}, 0},
    [WAY_GONE_DELIVERED] = {"client gone, delivered", {{0, 0, 0}, {1, 0, 0}}, 0},
    [WAY_SHUTDOWN] = {"shutdown", {{0, 0, 0}, {0, 0, 0}}, 504},
};

static void deadline_now(const struct call *call)
{
    struct await_entry *entry = await_find(rig.worker->table, &call->id);
    assert_int_equal(loop_timer_set(rig.loop, &entry->timer, 1), ERR_OK);
    loop_turn(rig.loop, 0);
    assert_false(call_is_parked(call));
}

static void refuse(const struct call *call, enum err_code code)
{
    exchange_kafka_handler.on_delivery(rig.worker, call->handle, KAFKA_NOT_PERSISTED, code);
}

static void end_call(struct call *call, enum way way)
{
    switch (way) {
    case WAY_TIMEOUT:
        deliver(call, KAFKA_DELIVERED);
        deadline_now(call);
        break;
    case WAY_UNCERTAIN:
        deliver(call, KAFKA_UNCERTAIN);
        deadline_now(call);
        break;
    case WAY_SILENCE:
        deadline_now(call);
        break;
    case WAY_UNCERTAIN_AND_REPLY:
        deliver(call, KAFKA_UNCERTAIN);
        reply_well(call);
        break;
    case WAY_REPLY:
        deliver(call, KAFKA_DELIVERED);
        reply_well(call);
        break;
    case WAY_NOT_PERSISTED:
        refuse(call, ERR_KAFKA_NOT_PERSISTED);
        break;
    case WAY_TOPIC_REFUSED:
        refuse(call, ERR_KAFKA_TOPIC);
        break;
    case WAY_GONE_DELIVERED:
    case WAY_GONE:
        if (way == WAY_GONE_DELIVERED)
            deliver(call, KAFKA_DELIVERED);
        client_fini(&call->client);
        while (call_is_parked(call))
            loop_turn(rig.loop, -1);
        break;
    default:
        exchange_worker_abandon(rig.worker);
    }
    if (ways[way].status)
        call_expect(call, ways[way].status, "\r\n");
}

/* A whole call that ends so. */
static void one_call(const char *path, enum way way)
{
    static struct call call;
    uint32_t active = rig.worker->active;
    call_park(&call, path, "lamp", false);
    end_call(&call, way);
    while (rig.worker->active > active)
        loop_turn(rig.loop, -1);
}

/* Opens it by one failure, the other breaker untouched. */
static void open_one(enum who who)
{
    uint32_t other = settings_of(!who)->produce_failure_percent, min_calls = settings_of(who)->min_calls;
    settings_of(!who)->produce_failure_percent = 0;
    settings_of(who)->min_calls = 1;
    one_call("/primary", WAY_NOT_PERSISTED);
    settings_of(!who)->produce_failure_percent = other;
    settings_of(who)->min_calls = min_calls;
    expect_state(who, PATH_BREAKER_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
    expect_state(!who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
}

static enum path_fallback reason_of_open(enum who who)
{
    return who == CLUSTER ? PATH_FALLBACK_CLUSTER_BREAKER : PATH_FALLBACK_BREAKER;
}

/* ---- settings ---- */

static void test_settings(void **state)
{
    (void)state;
    const struct path_breaker_settings *route = &rig.plan->route_breaker,
                                       *cluster = &rig.plan->cluster_breaker;
    const struct path_breaker_settings *const both[] = {route, cluster};
    for (size_t i = 0; i < SG_ARRAY_LEN(both); i++) {
        assert_true(both[i]->enabled);
        assert_int_equal(both[i]->window_ms, 41000);
        assert_int_equal(both[i]->min_calls, 42);
        assert_int_equal(both[i]->open_ms, 146);
        assert_int_equal(both[i]->open_max_ms, 147);
        assert_int_equal(both[i]->probes, 48);
    }
    assert_int_equal(route->produce_failure_percent, 43);
    assert_int_equal(route->timeout_percent, 44);
    assert_int_equal(cluster->produce_failure_percent, 45);
    assert_int_equal(cluster->timeout_percent, 0); /* a silent service says nothing about the cluster */
}

/* ---- counting ---- */

static void test_how_a_call_ended(void **state)
{
    (void)state;
    for (int way = 0; way < WAY_COUNT; way++) {
        rig_doing = ways[way].name;
        fresh();
        one_call("/primary", (enum way)way);
        for (int who = 0; who < WHO_COUNT; who++) {
            const struct counted *by = &ways[way].by[who];
            expect_counts((enum who)who, by->calls, by->produce_failures, by->timeouts);
        }
    }
    rig_doing = NULL;
}

/* A progress reply is no outcome for the route, the end of the wait is. But it proves that the command is in Kafka, whatever its
 * report says, and the cluster is asked no more. */
static void test_progress(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum kafka_delivery report; /* behind the progress; KAFKA_DELIVERED: none came */
        enum { ENDS_BY_REPLY, ENDS_BY_DEADLINE, ENDS_BY_CLIENT } end;
        struct counted by[WHO_COUNT];
    } cases[] = {
        {"reply", KAFKA_DELIVERED, ENDS_BY_REPLY, {{1, 0, 0}, {1, 0, 0}}},
        {"deadline", KAFKA_DELIVERED, ENDS_BY_DEADLINE, {{1, 0, 1}, {1, 0, 0}}},
        {"client", KAFKA_DELIVERED, ENDS_BY_CLIENT, {{0, 0, 0}, {1, 0, 0}}},
        {"not persisted, reply", KAFKA_NOT_PERSISTED, ENDS_BY_REPLY, {{1, 0, 0}, {1, 0, 0}}},
        {"not persisted, deadline", KAFKA_NOT_PERSISTED, ENDS_BY_DEADLINE, {{1, 0, 1}, {1, 0, 0}}},
        {"uncertain, deadline", KAFKA_UNCERTAIN, ENDS_BY_DEADLINE, {{1, 0, 1}, {1, 0, 0}}},
    };
    struct exchange_breaker *const breakers[WHO_COUNT] = {&state_of("progress")->operation->breaker,
                                                          breaker_of(CLUSTER)};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static struct call call;
        rig_doing = cases[i].name;
        fresh();
        call_park(&call, "/progress", "lamp", false);
        reply_by_hand(&call, RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.progress\",\"at\":1}");
        if (cases[i].report != KAFKA_DELIVERED)
            deliver(&call, cases[i].report);
        for (int who = 0; who < WHO_COUNT; who++)
            assert_int_equal(look_at(breakers[who], settings_of((enum who)who)).calls, who == CLUSTER);
        assert_true(call_is_parked(&call));
        if (cases[i].end == ENDS_BY_REPLY)
            reply_well(&call);
        else if (cases[i].end == ENDS_BY_DEADLINE)
            deadline_now(&call);
        client_fini(&call.client);
        rig_settle();
        for (int who = 0; who < WHO_COUNT; who++) {
            struct path_breaker_view view = look_at(breakers[who], settings_of((enum who)who));
            assert_int_equal(view.calls, cases[i].by[who].calls);
            assert_int_equal(view.produce_failures, cases[i].by[who].produce_failures);
            assert_int_equal(view.timeouts, cases[i].by[who].timeouts);
        }
    }
    rig_doing = NULL;
}

/* Each code that a command may be refused with, before it is out or by its report. */
static void test_codes(void **state)
{
    (void)state;
    static const struct {
        enum err_code code;
        struct counted by[WHO_COUNT];
    } cases[] = {
        {ERR_KAFKA_UNAVAILABLE, {{1, 1, 0}, {1, 1, 0}}},   {ERR_KAFKA_QUEUE_FULL, {{1, 1, 0}, {1, 1, 0}}},
        {ERR_KAFKA_NOT_PERSISTED, {{1, 1, 0}, {1, 1, 0}}}, {ERR_KAFKA_UNCERTAIN, {{1, 1, 0}, {1, 1, 0}}},
        {ERR_KAFKA_TOPIC, {{1, 1, 0}, {1, 0, 0}}},         {ERR_KAFKA_TOO_LARGE, {{0, 0, 0}, {0, 0, 0}}},
        {ERR_NO_COMMAND, {{0, 0, 0}, {0, 0, 0}}},          {ERR_OVERLOADED, {{0, 0, 0}, {0, 0, 0}}},
        {ERR_NO_MEMORY, {{0, 0, 0}, {0, 0, 0}}},
    };
    static struct call call;
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        rig_doing = err_info(cases[i].code)->name;
        fresh();
        call_park(&call, "/primary", "lamp", false);
        assert_true(call.ex->route_permit.given && call.ex->cluster_permit.given);
        exchange_breaker_report_failure(call.ex, cases[i].code);
        assert_false(call.ex->route_permit.given || call.ex->cluster_permit.given);
        end_call(&call, WAY_REPLY); /* has no vote any more */
        for (int who = 0; who < WHO_COUNT; who++)
            expect_counts((enum who)who, cases[i].by[who].calls, cases[i].by[who].produce_failures, 0);
    }
    rig_doing = NULL;
}

/* No place on the route: nothing is counted, and a probe's place comes back. */
static void test_overloaded_counts_for_nothing(void **state)
{
    (void)state;
    static struct call call;
    struct exchange_route *primary = state_of("primary");
    uint32_t limit = primary->max_in_flight;
    for (int half_open = 0; half_open < 2; half_open++) {
        for (int who = 0; who < WHO_COUNT; who++) {
            fresh();
            if (half_open) {
                open_one((enum who)who);
                wait_for_probe((enum who)who);
            }
            struct path_breaker_view before[WHO_COUNT] = {look(ROUTE), look(CLUSTER)};
            primary->max_in_flight = 0;
            call_send(&call, "/primary", "lamp", false);
            call_expect(&call, 201, "\"from\":\"legacy\"");
            primary->max_in_flight = limit;
            rig_settle();
            for (int i = 0; i < WHO_COUNT; i++)
                expect_counts((enum who)i, before[i].calls, before[i].produce_failures, 0);
            one_call("/primary", WAY_REPLY); /* would find no place if the permit had leaked */
            expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        }
    }
}

/* ---- opening ---- */

static void test_opens_by_its_own_threshold(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum way ways[4];
        unsigned count;
        enum path_breaker_state by[WHO_COUNT];
        enum path_breaker_reason reason[WHO_COUNT];
    } cases[] = {
#define CLOSED_BOTH {PATH_BREAKER_CLOSED, PATH_BREAKER_CLOSED}, {PATH_BREAKER_NONE, PATH_BREAKER_NONE}
        {"too few calls", {WAY_NOT_PERSISTED, WAY_NOT_PERSISTED, WAY_NOT_PERSISTED}, 3, CLOSED_BOTH},
        {"a quarter each", {WAY_REPLY, WAY_REPLY, WAY_TIMEOUT, WAY_NOT_PERSISTED}, 4, CLOSED_BOTH},
        {"clients that leave", {WAY_GONE, WAY_GONE, WAY_GONE, WAY_SHUTDOWN}, 4, CLOSED_BOTH},
        {"half not written",
         {WAY_REPLY, WAY_NOT_PERSISTED, WAY_REPLY, WAY_UNCERTAIN},
         4,
         {PATH_BREAKER_OPEN, PATH_BREAKER_CLOSED},
         {PATH_BREAKER_PRODUCE_FAILURES, PATH_BREAKER_NONE}},
        {"half without a reply",
         {WAY_REPLY, WAY_TIMEOUT, WAY_REPLY, WAY_TIMEOUT},
         4,
         {PATH_BREAKER_OPEN, PATH_BREAKER_CLOSED},
         {PATH_BREAKER_REPLY_TIMEOUTS, PATH_BREAKER_NONE}},
        {"no reply to anything",
         {WAY_TIMEOUT, WAY_TIMEOUT, WAY_TIMEOUT, WAY_TIMEOUT},
         4,
         {PATH_BREAKER_OPEN, PATH_BREAKER_CLOSED},
         {PATH_BREAKER_REPLY_TIMEOUTS, PATH_BREAKER_NONE}},
        {"the topic is refused",
         {WAY_TOPIC_REFUSED, WAY_TOPIC_REFUSED, WAY_TOPIC_REFUSED, WAY_TOPIC_REFUSED},
         4,
         {PATH_BREAKER_OPEN, PATH_BREAKER_CLOSED},
         {PATH_BREAKER_PRODUCE_FAILURES, PATH_BREAKER_NONE}},
        {"nothing can be written",
         {WAY_NOT_PERSISTED, WAY_UNCERTAIN, WAY_SILENCE, WAY_NOT_PERSISTED},
         4,
         {PATH_BREAKER_OPEN, PATH_BREAKER_OPEN},
         {PATH_BREAKER_PRODUCE_FAILURES, PATH_BREAKER_PRODUCE_FAILURES}},
#undef CLOSED_BOTH
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        rig_doing = cases[i].name;
        fresh();
        rig.plan->route_breaker.min_calls = rig.plan->cluster_breaker.min_calls = 4;
        rig.plan->cluster_breaker.produce_failure_percent = 80;
        for (unsigned n = 0; n < cases[i].count; n++) {
            expect_state(ROUTE, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
            one_call("/primary", cases[i].ways[n]);
        }
        for (int who = 0; who < WHO_COUNT; who++)
            expect_state((enum who)who, cases[i].by[who], cases[i].reason[who]);
    }
    rig_doing = NULL;
}

/* One route's trouble is not another's; the cluster's is everybody's. */
static void test_other_routes(void **state)
{
    (void)state;
    static struct call call;
    fresh();
    settings_of(ROUTE)->open_ms = 60000;
    open_one(ROUTE);
    one_call("/fields", WAY_REPLY);
    one_call("/only", WAY_REPLY);
    fresh();
    settings_of(CLUSTER)->open_ms = 60000;
    open_one(CLUSTER);
    call_send(&call, "/fields", "lamp", false);
    call_expect(&call, 201, "\"from\":\"legacy\"");
    call_send(&call, "/only", "lamp", false);
    call_expect(&call, 503, "\"code\":\"KAFKA_UNAVAILABLE\"");
}

/* ---- open ---- */

/* Where legacy may serve it does so at once: the head is enough to begin, the body is streamed. */
static void test_open_takes_legacy_at_once(void **state)
{
    (void)state;
    static const char head[] =
        "POST /primary HTTP/1.1\r\nHost: breakers\r\nConnection: close\r\nX-Case: %u\r\n"
        "Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"name\"";
    for (int who = 0; who < WHO_COUNT; who++) {
        char text[256];
        static struct call call;
        struct tally before, tally;
        fresh();
        settings_of((enum who)who)->open_ms = 60000;
        open_one((enum who)who);
        tally_take(&before);
        call = (struct call){.number = rig_case++};
        call.client.fd = client_connect();
        call.client.io.fd = call.client.fd;
        call.client.io.on_ready = client_on_ready;
        assert_int_equal(loop_io_add(rig.loop, &call.client.io, EPOLLIN | EPOLLRDHUP), ERR_OK);
        int len = snprintf(text, sizeof(text), head, call.number);
        assert_int_equal(send(call.client.fd, text, (size_t)len, MSG_NOSIGNAL), len);
        while (!rig.worker->active)
            loop_turn(rig.loop, -1);
        assert_int_equal(rig.begun->state, EXCHANGE_PROXYING);
        assert_true(rig.begun->legacy_streaming);
        assert_int_equal(rig.begun->fallback, reason_of_open((enum who)who));
        assert_int_equal(atomic_load(&rig.shared.body_bytes), 0);
        assert_int_equal(rig.begun->retry_after_ns,
                         0); /* if legacy refuses, it is not Kafka's time that matters */
        assert_int_equal(send(call.client.fd, ":\"lamp\"}", 8, MSG_NOSIGNAL), 8);
        call_expect(&call, 201, "\"from\":\"legacy\"");
        rig_settle();
        tally_since(&tally, &before);
        assert_int_equal(tally.fallbacks[reason_of_open((enum who)who)], 1);
        assert_int_equal(call_executions(&call), 1);
    }
}

static uint64_t retry_after(const struct call *call)
{
    const char *field = strstr(call->client.in.ptr, "\r\nRetry-After: ");
    assert_non_null(field);
    return strtoull(field + 15, NULL, 10);
}

/* Who comes back when told so is not too early, and not much too late. */
static void test_retry_after_is_honest(void **state)
{
    (void)state;
    static const uint32_t open_ms[] = {100, 1000, 7777, 60000};
    for (size_t i = 0; i < SG_ARRAY_LEN(open_ms) * WHO_COUNT; i++) {
        enum who who = (enum who)(i % WHO_COUNT);
        static struct call call;
        fresh();
        settings_of(who)->open_ms = open_ms[i / WHO_COUNT];
        if (who == CLUSTER)
            open_one(CLUSTER);
        else {
            settings_of(ROUTE)->min_calls = 1;
            call_park(&call, "/only", "lamp", false);
            refuse(&call, ERR_KAFKA_TOPIC);
            assert_int_equal(call_answer(&call), 503);
            assert_int_equal(retry_after(&call), 1); /* when this one was refused nothing was open */
            client_fini(&call.client);
        }
        struct exchange_breaker *breaker =
            who == CLUSTER ? breaker_of(CLUSTER) : &state_of("only")->operation->breaker;
        uint64_t before_ns = look_at(breaker, settings_of(who)).wait_ns;
        call_send(&call, "/only", "lamp", false);
        assert_int_equal(call_answer(&call), 503);
        uint64_t after_ns = look_at(breaker, settings_of(who)).wait_ns, seconds = retry_after(&call);
        call_expect_text(&call, "\"code\":\"KAFKA_UNAVAILABLE\"");
        client_fini(&call.client);
        assert_true(before_ns > 0 && seconds >= 1);
        if (seconds * SG_NSEC_PER_SEC < after_ns || seconds * SG_NSEC_PER_SEC > before_ns + SG_NSEC_PER_SEC)
            fail_msg("%" PRIu64 " s, while the next probe goes in %" PRIu64 " to %" PRIu64 " ns", seconds,
                     after_ns, before_ns);
    }
}

/* ---- half-open ---- */

static void test_probes_are_limited(void **state)
{
    (void)state;
    static struct call calls[2], call;
    for (int who = 0; who < WHO_COUNT; who++) {
        fresh();
        settings_of((enum who)who)->probes = 2;
        open_one((enum who)who);
        wait_for_probe((enum who)who);
        struct tally before, tally;
        tally_take(&before);
        call_park(&calls[0], "/primary", "a", false);
        expect_state((enum who)who, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
        call_park(&calls[1], "/primary", "b", false);
        call_send(&call, "/primary", "c", false);
        call_expect(&call, 201, "\"from\":\"legacy\"");
        if (who == CLUSTER) {
            call_send(&call, "/only", "d", false);
            call_expect(&call, 503, "\r\nRetry-After: 1\r\n");
        }
        reply_well(&calls[0]);
        call_expect(&calls[0], 200, "\"from\":\"kafka\"");
        expect_state((enum who)who, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
        /* One has succeeded, one is under way: together they are the two that it takes. */
        call_send(&call, "/primary", "e", false);
        call_expect(&call, 201, "\"from\":\"legacy\"");
        reply_well(&calls[1]);
        call_expect(&calls[1], 200, "\"from\":\"kafka\"");
        expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        tally_since(&tally, &before);
        assert_int_equal(tally.fallbacks[reason_of_open((enum who)who)], who == CLUSTER ? 3 : 2);
        one_call("/primary", WAY_REPLY);
    }
}

/* Whatever becomes of a probe, it decides or it gives its place back. */
static void test_how_a_probe_ended(void **state)
{
    (void)state;
    for (int i = 0; i < WAY_COUNT * WHO_COUNT; i++) {
        enum way way = (enum way)(i / WHO_COUNT);
        enum who who = (enum who)(i % WHO_COUNT);
        const struct counted *by = &ways[way].by[who];
        rig_doing = ways[way].name;
        fresh();
        open_one(who);
        wait_for_probe(who);
        one_call("/primary", way);
        bool failed = by->produce_failures || (by->timeouts && who == ROUTE);
        if (failed) {
            expect_state(who, PATH_BREAKER_OPEN, PATH_BREAKER_PROBE_FAILED);
            assert_int_equal(look(who).opened, 2);
            continue;
        }
        if (by->calls == 0) {
            expect_state(who, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
            one_call("/primary", WAY_REPLY);
        }
        expect_state(who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
    }
    rig_doing = NULL;
}

/* The cluster's probe has shown what it can when its command is in Kafka: the cluster closes while the service still works, and
 * the probe waits for its report as nobody else who waits for a reply does. The route's probe goes on. */
static void test_a_slow_service_does_not_keep_the_cluster_waiting(void **state)
{
    (void)state;
    static struct call probe;
    for (int progress = 0; progress < 2; progress++) {
        fresh();
        open_one(CLUSTER);
        wait_for_probe(CLUSTER);
        call_park(&probe, progress ? "/progress" : "/primary", "slow", false);
        expect_state(CLUSTER, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
        assert_true(probe.ex->awaits_report);
        if (progress)
            reply_by_hand(&probe, RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.progress\",\"at\":1}");
        else
            deliver(&probe, KAFKA_DELIVERED);
        expect_state(CLUSTER, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        assert_true(call_is_parked(&probe));
        assert_false(probe.ex->awaits_report);
        one_call("/primary", WAY_REPLY);
        deadline_now(&probe);
        expect_state(CLUSTER, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        client_fini(&probe.client);
        rig_settle();
    }
    fresh();
    open_one(ROUTE);
    wait_for_probe(ROUTE);
    call_park(&probe, "/primary", "slow", false);
    assert_false(probe.ex->awaits_report);
    deliver(&probe, KAFKA_DELIVERED);
    expect_state(ROUTE, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
    end_call(&probe, WAY_REPLY);
    expect_state(ROUTE, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
}

/* 80 to 120 % of 100 ms, of 200 ms, of 250 ms, and then no more. */
static void test_each_failed_probe_doubles_the_time(void **state)
{
    (void)state;
    static const uint64_t expected_ms[] = {100, 200, 250, 250};
    fresh();
    settings_of(ROUTE)->open_max_ms = 250;
    uint64_t since_ns = clock_mono_ns();
    open_one(ROUTE);
    for (size_t i = 0; i < SG_ARRAY_LEN(expected_ms); i++) {
        uint64_t wait_ns = look(ROUTE).wait_ns, passed_ns = clock_mono_ns() - since_ns;
        if (wait_ns > expected_ms[i] * 1200000 || wait_ns + passed_ns < expected_ms[i] * 800000)
            fail_msg("%zu: %" PRIu64 " ns, %" PRIu64 " ns passed", i, wait_ns, passed_ns);
        wait_for_probe(ROUTE);
        since_ns = clock_mono_ns();
        one_call("/primary", WAY_NOT_PERSISTED);
        expect_state(ROUTE, PATH_BREAKER_OPEN, PATH_BREAKER_PROBE_FAILED);
    }
    wait_for_probe(ROUTE);
    one_call("/primary", WAY_REPLY);
    expect_state(ROUTE, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
    since_ns = clock_mono_ns();
    open_one(ROUTE); /* closed in between: from the beginning */
    assert_true(look(ROUTE).wait_ns <= 120 * SG_NSEC_PER_MSEC);
}

/* The cluster would let it probe, its route does not: the cluster gets its place back. /only asks both. */
static void test_both_must_allow(void **state)
{
    (void)state;
    static struct call call;
    fresh();
    settings_of(ROUTE)->open_ms = 60000;
    settings_of(ROUTE)->min_calls = 1;
    call_park(&call, "/only", "lamp", false);
    refuse(&call, ERR_KAFKA_TOPIC);
    call_expect(&call, 503, "\"code\":\"KAFKA_UNAVAILABLE\"");
    settings_of(ROUTE)->min_calls = 1000;
    open_one(CLUSTER);
    wait_for_probe(CLUSTER);
    for (int i = 0; i < 3; i++) {
        call_send(&call, "/only", "lamp", false);
        assert_int_equal(call_answer(&call), 503);
        assert_true(retry_after(&call) > 40);
        client_fini(&call.client);
    }
    expect_state(CLUSTER, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
    one_call("/primary", WAY_REPLY);
    expect_state(CLUSTER, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
}

/* ---- calls that began before ---- */

static void test_earlier_calls_have_no_vote(void **state)
{
    (void)state;
    static struct call calls[6], probe;
    for (int who = 0; who < WHO_COUNT; who++) {
        fresh();
        for (int i = 0; i < 6; i++)
            call_park(&calls[i], "/primary", "early", false);
        open_one((enum who)who);
        rig.plan->route_breaker.min_calls = rig.plan->cluster_breaker.min_calls = 1;
        settings_of((enum who) !who)->produce_failure_percent = 0; /* the other one stays out of it */
        struct path_breaker_view opened = look((enum who)who);
        end_call(&calls[0], WAY_REPLY);
        end_call(&calls[1], WAY_NOT_PERSISTED);
        struct path_breaker_view later = look((enum who)who);
        assert_int_equal(later.state, PATH_BREAKER_OPEN);
        assert_int_equal(later.changes, opened.changes);
        assert_true(later.wait_ns <= opened.wait_ns);
        wait_for_probe((enum who)who);
        call_park(&probe, "/primary", "probe", false);
        end_call(&calls[2], WAY_REPLY);
        end_call(&calls[3], WAY_NOT_PERSISTED);
        expect_state((enum who)who, PATH_BREAKER_HALF_OPEN, PATH_BREAKER_PRODUCE_FAILURES);
        end_call(&probe, WAY_REPLY);
        expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        end_call(&calls[4], WAY_REPLY);
        end_call(&calls[5], WAY_NOT_PERSISTED);
        expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        expect_counts((enum who)who, 0, 0, 0);
    }
}

/* ---- off ---- */

static void test_off_counts_nothing(void **state)
{
    (void)state;
    fresh();
    rig.plan->route_breaker.min_calls = rig.plan->cluster_breaker.min_calls = 1;
    rig.plan->route_breaker.enabled = rig.plan->cluster_breaker.enabled = false;
    for (int way = 0; way < WAY_COUNT; way++)
        one_call("/primary", (enum way)way);
    rig.plan->route_breaker.enabled = rig.plan->cluster_breaker.enabled = true;
    for (int who = 0; who < WHO_COUNT; who++) {
        expect_counts((enum who)who, 0, 0, 0);
        expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
    }
}

/* Switched off while open, it lets the next call pass; switched on again, it begins closed. */
static void test_off_closes(void **state)
{
    (void)state;
    for (int who = 0; who < WHO_COUNT; who++) {
        fresh();
        settings_of((enum who)who)->open_ms = 60000;
        open_one((enum who)who);
        settings_of((enum who)who)->enabled = false;
        expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        one_call("/primary", WAY_REPLY);
        settings_of((enum who)who)->enabled = true;
        expect_state((enum who)who, PATH_BREAKER_CLOSED, PATH_BREAKER_NONE);
        one_call("/primary", WAY_REPLY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_settings, rig_after),
        cmocka_unit_test_teardown(test_how_a_call_ended, rig_after),
        cmocka_unit_test_teardown(test_progress, rig_after),
        cmocka_unit_test_teardown(test_codes, rig_after),
        cmocka_unit_test_teardown(test_overloaded_counts_for_nothing, rig_after),
        cmocka_unit_test_teardown(test_opens_by_its_own_threshold, rig_after),
        cmocka_unit_test_teardown(test_other_routes, rig_after),
        cmocka_unit_test_teardown(test_open_takes_legacy_at_once, rig_after),
        cmocka_unit_test_teardown(test_retry_after_is_honest, rig_after),
        cmocka_unit_test_teardown(test_probes_are_limited, rig_after),
        cmocka_unit_test_teardown(test_how_a_probe_ended, rig_after),
        cmocka_unit_test_teardown(test_a_slow_service_does_not_keep_the_cluster_waiting, rig_after),
        cmocka_unit_test_teardown(test_each_failed_probe_doubles_the_time, rig_after),
        cmocka_unit_test_teardown(test_both_must_allow, rig_after),
        cmocka_unit_test_teardown(test_earlier_calls_have_no_vote, rig_after),
        cmocka_unit_test_teardown(test_off_counts_nothing, rig_after),
        cmocka_unit_test_teardown(test_off_closes, rig_after),
    };
    return cmocka_run_group_tests(tests, rig_start, rig_stop);
}
