/* SPDX-License-Identifier: Apache-2.0 */
/* One-way calls: the broker's acknowledgement answers them, nothing before it does, and exactly one of those who may end a call
 * ends it. The reports are made by hand. */
#define RIG_SETTINGS "SYNCGATE_BREAKER_MIN_CALLS=1000", "SYNCGATE_BREAKER_CLUSTER_FAILURES=90"
#define EVENT_ROUTE(operation, limits, accepted)                                                           \
    "{\"operationId\":\"" operation "\",\"method\":\"POST\",\"path\":\"/" operation "\",\"pathMode\":"     \
    "\"exact\",\"auth\":{\"required\":false}," limits "\"command\":{\"topic\":\"races.commands\",\"key\":" \
    "\"${body.name}\",\"eventType\":\"thing.seen\",\"payload\":{\"correlationId\":\"${correlationId}\","   \
    "\"name\":\"${body.name}\"}},\"accepted\":" accepted "}"
#define EVENT_PATH(operation) \
    "\"/" operation "\":{\"post\":{\"operationId\":\"" operation "\",\"responses\":{}}},"
#define RIG_DIR          "/tmp"
#define RIG_MORE_OPENAPI EVENT_PATH("event") EVENT_PATH("strict") EVENT_PATH("brief")
#define RIG_MORE_ROUTES                                                                                \
    , {EVENT_ROUTE("event", "\"timeoutMs\":600000,", "{}"), PATH_MODE_PRIMARY},                        \
        {EVENT_ROUTE(                                                                                  \
             "strict", "\"timeoutMs\":600000,\"maxInFlight\":2,",                                      \
             "{\"status\":201,\"headers\":{\"X-Name\":\"${body.name}\",\"X-None\":\"${query.none}\"}," \
             "\"body\":{\"seen\":\"${body.name}\",\"id\":\"${correlationId}\"}}"),                     \
         PATH_MODE_ONLY},                                                                              \
    {                                                                                                  \
        EVENT_ROUTE("brief", "\"timeoutMs\":100,", "{\"status\":204}"), PATH_MODE_PRIMARY              \
    }
#include "../../src/kafka/internal.h"
#include "exchange_rig.h"

enum event { DELIVERED, DEADLINE, NOT_PERSISTED, UNCERTAIN, GONE, SHUTDOWN, EVENT_COUNT };

static const struct {
    const char *name;
    enum await_winner winner;
    uint32_t produce_failures; /* for the breakers; counted: whether the call counts at all */
    bool counted;
} events[EVENT_COUNT] = {
    [DELIVERED] = {"delivered", AWAIT_WON_DELIVERED, 0, true},
    [DEADLINE] = {"deadline", AWAIT_WON_DEADLINE, 1, true},
    [NOT_PERSISTED] = {"not persisted", AWAIT_WON_PRODUCE_FAILURE, 1, true},
    [UNCERTAIN] = {"uncertain", AWAIT_WON_PRODUCE_FAILURE, 1, true},
    [GONE] = {"client gone", AWAIT_WON_CLIENT_GONE, 0, false},
    [SHUTDOWN] = {"shutdown", AWAIT_WON_SHUTDOWN, 0, false},
};

static void fire(enum event event, struct call *call)
{
    switch (event) {
    case DELIVERED:
        deliver(call, KAFKA_DELIVERED);
        break;
    case NOT_PERSISTED:
        deliver(call, KAFKA_NOT_PERSISTED);
        break;
    case UNCERTAIN:
        deliver(call, KAFKA_UNCERTAIN);
        break;
    case DEADLINE:
        if (!call_is_parked(call))
            break;
        assert_int_equal(loop_timer_set(rig.loop, &call->ex->entry.timer, 1), ERR_OK);
        while (call_is_parked(call))
            loop_turn(rig.loop, -1);
        break;
    case GONE:
        client_close(&call->client, true);
        while (call_is_parked(call))
            loop_turn(rig.loop, -1);
        break;
    default:
        exchange_worker_abandon(rig.worker);
    }
}

static unsigned report_waiters(void)
{
    return atomic_load(&rig.kafka->report_waiters);
}

static struct path_breaker_view look(const char *operation)
{
    struct path_breaker_view view;
    for (size_t i = 0; i < rig.plan->routes->count; i++)
        if (!operation || strcmp(rig.plan->states[i].operation->name, operation) == 0)
            exchange_breaker_look(operation ? &rig.plan->states[i].operation->breaker : &rig.shared.cluster,
                                  operation ? &rig.plan->route_breaker : &rig.plan->cluster_breaker, &view);
    return view;
}

/* What the caller sees of the event that came first. */
static void check_answer(enum event event, const char *operation, struct call *call)
{
    bool only = strcmp(operation, "strict") == 0;
    char seen[128], id[96];
    snprintf(id, sizeof(id), "{\"correlationId\":\"%s\"}", call->id_text);
    snprintf(seen, sizeof(seen), "{\"seen\":\"lamp\",\"id\":\"%s\"}", call->id_text);
    switch (event) {
    case DELIVERED:
        assert_int_equal(call_answer(call), only ? 201 : 202);
        call_expect_text(call, only ? seen : id);
        if (only)
            call_expect_text(call, "\r\nX-Name: lamp\r\n");
        assert_null(strstr(call->client.in.ptr, "X-None"));
        break;
    case NOT_PERSISTED:
        assert_int_equal(call_answer(call), only ? 503 : 201);
        call_expect_text(call, only ? "\"code\":\"KAFKA_UNAVAILABLE\"" : "{\"from\":\"legacy\"}");
        break;
    default:
        assert_int_equal(call_answer(call), 504);
        call_expect_text(call,
                         event == SHUTDOWN ? "\"code\":\"SHUTTING_DOWN\"" : "\"code\":\"REPLY_TIMEOUT\"");
        call_expect_text(call, "unknown");
    }
    assert_int_equal(strstr(call->client.in.ptr, "\r\nRetry-After:") != NULL, event == NOT_PERSISTED && only);
    call_expect_text(call, call->id_text);
    if (event != NOT_PERSISTED || only)
        call_expect_text(call, "\r\nContent-Type: application/json");
}

/* Two events on one call: the first ends it, the second finds nobody. */
static void race(const char *operation, enum event first, enum event second)
{
    static struct call call;
    static char doing[128];
    struct tally before, tally;
    char path[32];
    bool only = strcmp(operation, "strict") == 0;
    snprintf(doing, sizeof(doing), "%s: %s, then %s", operation, events[first].name, events[second].name);
    rig_doing = doing;
    snprintf(path, sizeof(path), "/%s", operation);
    struct path_breaker_view route_before = look(operation), cluster_before = look(NULL);
    tally_take(&before);
    call_park(&call, path, "lamp", false);
    assert_int_equal(report_waiters(), 1);
    assert_int_equal(call.client.in.len, 0);
    fire(first, &call);
    assert_false(call_is_parked(&call));
    assert_int_equal(report_waiters(), 0);
    assert_int_equal(await_past_winner(rig.worker->table, &call.id), events[first].winner);
    fire(second, &call);
    rig_settle();
    int executions = call_executions(&call);
    if (first != NOT_PERSISTED || only)
        assert_int_equal(executions, 0);
    else
        assert_true(second == GONE ? executions <= 1 : executions == 1);
    if (call.client.fd >= 0)
        check_answer(first, operation, &call);
    tally_since(&tally, &before);
    for (int i = 0; i < AWAIT_WINNER_COUNT; i++)
        assert_int_equal(tally.wins[i], i == (int)events[first].winner);
    for (int i = 0; i < PATH_FALLBACK_COUNT; i++)
        assert_int_equal(tally.fallbacks[i], i == PATH_FALLBACK_NOT_PERSISTED && first == NOT_PERSISTED);
    assert_int_equal(tally.ended, 1);
    struct path_breaker_view route = look(operation), cluster = look(NULL);
    assert_int_equal(route.calls - route_before.calls, events[first].counted);
    assert_int_equal(cluster.calls - cluster_before.calls, events[first].counted);
    assert_int_equal(route.produce_failures - route_before.produce_failures, events[first].produce_failures);
    assert_int_equal(cluster.produce_failures - cluster_before.produce_failures,
                     events[first].produce_failures);
    assert_int_equal(route.timeouts + cluster.timeouts, 0);
    client_fini(&call.client);
    rig_doing = NULL;
}

static void test_one_winner(void **state)
{
    (void)state;
    for (int first = 0; first < EVENT_COUNT; first++)
        for (int second = 0; second < EVENT_COUNT; second++) {
            race("event", (enum event)first, (enum event)second);
            race("strict", (enum event)first, (enum event)second);
        }
}

/* A status without a body; and the route's own deadline. */
static void test_no_body_and_deadline(void **state)
{
    (void)state;
    static struct call call;
    call_park(&call, "/brief", "lamp", false);
    deliver(&call, KAFKA_DELIVERED);
    assert_int_equal(call_answer(&call), 204);
    assert_null(strstr(call.client.in.ptr, "Content-Type"));
    call_expect_text(&call, call.id_text);
    client_fini(&call.client);
    call_park(&call, "/brief", "lamp", false);
    call_expect(&call, 504, "No acknowledgement arrived in time");
    deliver(&call, KAFKA_DELIVERED);
    rig_settle();
    assert_int_equal(report_waiters(), 0);
}

/* No reply is waited for, so none ends the call: neither one with its id, nor one that a rule of another route knows. */
static void test_replies_mean_nothing(void **state)
{
    (void)state;
    static struct call call;
    struct tally before, tally;
    tally_take(&before);
    call_park(&call, "/event", "lamp", false);
    reply_well(&call);
    assert_true(call_is_parked(&call));
    reply_by_hand(&call, RIG_TOPIC_EVENTS,
                  "{\"eventType\":\"thing.happened\",\"payload\":{\"name\":\"lamp\"}}");
    assert_true(call_is_parked(&call));
    reply_by_hand(&call, RIG_TOPIC_REPLIES, "");
    assert_true(call_is_parked(&call));
    deliver(&call, KAFKA_DELIVERED);
    reply_well(&call);
    call_expect(&call, 202, call.id_text);
    rig_settle();
    tally_since(&tally, &before);
    for (int i = 0; i < OPS_REPLY_COUNT; i++)
        assert_int_equal(tally.replies[i], i == OPS_REPLY_UNMATCHED ? 4 : 0);
}

/* A place in the bulkhead is taken until the acknowledgement, and a call that gets none is not counted as waiting. */
static void test_bulkhead(void **state)
{
    (void)state;
    static struct call calls[3];
    for (int i = 0; i < 2; i++)
        call_park(&calls[i], "/strict", "lamp", false);
    call_send(&calls[2], "/strict", "lamp", false);
    call_expect(&calls[2], 503, "\"code\":\"OVERLOADED\"");
    assert_int_equal(report_waiters(), 2);
    deliver(&calls[0], KAFKA_DELIVERED);
    assert_int_equal(report_waiters(), 1);
    call_expect(&calls[0], 201, calls[0].id_text);
    call_park(&calls[2], "/strict", "lamp", false);
    for (int i = 1; i < 3; i++) {
        deliver(&calls[i], KAFKA_DELIVERED);
        call_expect(&calls[i], 201, calls[i].id_text);
    }
    rig_settle();
    assert_int_equal(report_waiters(), 0);
}

/* Nobody waits for the report of a call that waits for a reply. */
static void test_other_calls_wait_for_no_report(void **state)
{
    (void)state;
    static struct call call;
    call_park(&call, "/primary", "lamp", false);
    assert_int_equal(report_waiters(), 0);
    deliver(&call, KAFKA_DELIVERED);
    assert_true(call_is_parked(&call));
    reply_well(&call);
    call_expect(&call, 200, call.id_text);
    rig_settle();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_one_winner, rig_after),
        cmocka_unit_test_teardown(test_no_body_and_deadline, rig_after),
        cmocka_unit_test_teardown(test_replies_mean_nothing, rig_after),
        cmocka_unit_test_teardown(test_bulkhead, rig_after),
        cmocka_unit_test_teardown(test_other_calls_wait_for_no_report, rig_after),
    };
    return cmocka_run_group_tests(tests, rig_start, rig_stop);
}
