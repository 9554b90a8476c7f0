/* SPDX-License-Identifier: Apache-2.0 */
/* A reload beside parked calls: each keeps the plan it began with, and the plan goes with the last of them. */
#include "exchange_rig.h"

/* What the list of plans holds is what is in memory. */
static size_t plans_in_use(void)
{
    size_t count = 0;
    pthread_mutex_lock(&rig.shared.plans_mtx);
    for (const struct exchange_plan *plan = rig.shared.plans; plan; plan = plan->next)
        count++;
    pthread_mutex_unlock(&rig.shared.plans_mtx);
    return count;
}

static struct exchange_route *state_of(const char *operation)
{
    for (size_t i = 0; i < rig.plan->routes->count; i++)
        if (strcmp(rig.plan->states[i].operation->name, operation) == 0)
            return &rig.plan->states[i];
    fail_msg("no operation %s", operation);
    return NULL;
}

/* The same routes and settings, read again. The old plan is only its calls' from then on; the pointer is to compare. */
static const struct exchange_plan *reload(void)
{
    struct exchange_plan *old = rig.plan;
    const struct exchange_plan *was = old;
    rig_load_plan();
    assert_int_equal(exchange_plan_bind(&rig.shared, rig.plan), ERR_OK);
    assert_int_equal(exchange_worker_set_plan(rig.worker, rig.plan), ERR_OK);
    exchange_plan_unrefp(&rig.shared, &old);
    assert_null(old);
    return was;
}

/* Who is looked for by an event of this name; as the reader thread does it. */
static uint64_t find_by_fields(const char *name)
{
    struct json_doc doc = JSON_DOC_INIT;
    char value[128];
    snprintf(value, sizeof(value), "{\"eventType\":\"thing.happened\",\"payload\":{\"name\":\"%s\"}}", name);
    struct kafka_record record = {.topic = rig.plan->reply_topic_ids[rig_reply_topic(RIG_TOPIC_EVENTS)],
                                  .value = span_of(value),
                                  .timestamp_ms = clock_real_ms() + 1000};
    assert_int_equal(json_parse(&doc, record.value, 100), ERR_OK);
    uint64_t handle = exchange_fields_find(&rig.shared, &record, &doc);
    json_fini(&doc);
    return handle;
}

static void test_a_plan_lives_as_long_as_its_calls(void **state)
{
    (void)state;
    static struct call early[2], late;
    assert_int_equal(plans_in_use(), 1);
    call_park(&early[0], "/primary", "a", false);
    call_park(&early[1], "/primary", "b", false);
    const struct exchange_plan *old = reload();
    assert_int_equal(plans_in_use(), 2);
    assert_ptr_equal(early[0].ex->view->plan, old);
    call_park(&late, "/primary", "c", false);
    assert_ptr_equal(late.ex->view->plan, rig.plan);
    reply_well(&early[0]);
    call_expect(&early[0], 200, "\"from\":\"kafka\"");
    reply_well(&late);
    call_expect(&late, 200, "\"from\":\"kafka\"");
    assert_int_equal(plans_in_use(), 2);
    client_fini(&early[1].client); /* whichever way it ends */
    rig_settle();
    assert_int_equal(plans_in_use(), 1);
    reload(); /* nobody holds the one before: gone at once */
    assert_int_equal(plans_in_use(), 1);
}

/* Three configurations at a time, given up in another order than they came. */
static void test_several_plans(void **state)
{
    (void)state;
    static struct call calls[3];
    call_park(&calls[0], "/only", "a", false);
    reload();
    call_park(&calls[1], "/only", "b", false);
    /* The bulkhead counts the calls of all plans: its two places are taken. */
    call_send(&calls[2], "/only", "c", false);
    call_expect(&calls[2], 503, "\"code\":\"OVERLOADED\"");
    reload();
    call_park(&calls[2], "/fields", "c", false);
    reload();
    assert_int_equal(plans_in_use(), 4); /* three with a call each, and the current one */
    static const int order[] = {1, 2, 0};
    for (size_t i = 0; i < SG_ARRAY_LEN(order); i++) {
        reply_well(&calls[order[i]]);
        call_expect(&calls[order[i]], 200, "\"from\":\"kafka\"");
        while (plans_in_use() > 3 - i)
            loop_turn(rig.loop, -1);
        assert_int_equal(plans_in_use(), 3 - i);
    }
    rig_settle();
}

/* The flag of the old plan decides for a call that falls back, the new one's for those that begin. */
static void test_a_call_keeps_its_flag(void **state)
{
    (void)state;
    static struct call early[2], late;
    call_park(&early[0], "/primary", "a", false);
    call_park(&early[1], "/only", "b", false);
    reload();
    exchange_route_set_flag(state_of("primary"), &(struct path_flag){.mode = PATH_MODE_ONLY});
    exchange_route_set_flag(state_of("only"), &(struct path_flag){.mode = PATH_MODE_LEGACY});
    call_send(&late, "/only", "c", false);
    call_expect(&late, 201, "\"from\":\"legacy\"");
    deliver(&early[0], KAFKA_NOT_PERSISTED);
    call_expect(&early[0], 201, "\"from\":\"legacy\"");
    deliver(&early[1], KAFKA_NOT_PERSISTED);
    call_expect(&early[1], 503, "\"code\":\"KAFKA_UNAVAILABLE\"");
    assert_int_equal(call_executions(&early[0]), 1);
    assert_int_equal(call_executions(&early[1]), 0);
    call_park(&late, "/primary", "d", false);
    deliver(&late, KAFKA_NOT_PERSISTED);
    call_expect(&late, 503, "\"code\":\"KAFKA_UNAVAILABLE\"");
    rig_settle();
    reload(); /* the flags as they were */
}

static void test_fields_find_calls_of_every_plan(void **state)
{
    (void)state;
    static struct call early, late, twin;
    call_park(&early, "/fields", "early", false);
    reload();
    call_park(&late, "/fields", "late", false);
    assert_true(find_by_fields("early") == early.handle);
    assert_true(find_by_fields("late") == late.handle);
    assert_true(find_by_fields("nobody") == 0);
    /* It names two requests, so it ends neither: that they are of two plans makes no difference. */
    call_park(&twin, "/fields", "early", false);
    assert_true(find_by_fields("early") == 0);
    reply_well(&twin);
    call_expect(&twin, 200, "\"from\":\"kafka\"");
    uint64_t handle = find_by_fields("early");
    assert_true(handle == early.handle);
    struct kafka_record record = {.topic = rig_reply_topic(RIG_TOPIC_EVENTS),
                                  .value = SPAN_LIT("{\"eventType\":\"thing.happened\"}"),
                                  .handle = handle,
                                  .by_fields = true};
    exchange_kafka_handler.on_reply(rig.worker, &record);
    call_expect(&early, 202, "\"from\":\"event\"");
    assert_true(find_by_fields("early") == 0);
    reply_well(&late);
    call_expect(&late, 200, "\"from\":\"kafka\"");
    rig_settle();
    assert_int_equal(plans_in_use(), 1);
}

/* Breakers outlive plans. One that is judged by new settings must not be closed by a call that knows the old ones. */
static void test_breakers_go_by_the_newest_settings(void **state)
{
    (void)state;
    static struct call early, late;
    rig.plan->route_breaker.enabled = false;
    call_park(&early, "/primary", "a", false);
    reload();
    rig.plan->route_breaker = (struct path_breaker_settings){.enabled = true,
                                                             .window_ms = 60000,
                                                             .min_calls = 1,
                                                             .produce_failure_percent = 1,
                                                             .open_ms = 60000,
                                                             .probes = 1};
    call_park(&late, "/primary", "b", false);
    deliver(&late, KAFKA_NOT_PERSISTED);
    call_expect(&late, 201, "\"from\":\"legacy\"");
    struct path_breaker_view view;
    struct exchange_breaker *breaker = &state_of("primary")->operation->breaker;
    exchange_breaker_look(breaker, &rig.plan->route_breaker, &view);
    assert_int_equal(view.state, PATH_BREAKER_OPEN);
    reply_well(&early);
    call_expect(&early, 200, "\"from\":\"kafka\"");
    exchange_breaker_look(breaker, &rig.plan->route_breaker, &view);
    assert_int_equal(view.state, PATH_BREAKER_OPEN);
    rig_settle();
    reload(); /* breakers off: it closes */
    call_park(&late, "/primary", "c", false);
    reply_well(&late);
    call_expect(&late, 200, "\"from\":\"kafka\"");
    rig_settle();
}

/* Made, and given up before anybody used it: a broken reload. */
static void test_a_plan_that_was_never_bound(void **state)
{
    (void)state;
    static struct call call;
    struct exchange_plan *current = rig.plan;
    rig_load_plan();
    struct exchange_plan *unused = rig.plan;
    rig.plan = current;
    assert_int_equal(plans_in_use(), 1);
    call_park(&call, "/fields", "a", false);
    exchange_plan_unrefp(&rig.shared, &unused);
    assert_int_equal(plans_in_use(), 1);
    assert_true(find_by_fields("a") == call.handle);
    reply_well(&call);
    call_expect(&call, 200, "\"from\":\"kafka\"");
    rig_settle();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_plan_lives_as_long_as_its_calls, rig_after),
        cmocka_unit_test_teardown(test_several_plans, rig_after),
        cmocka_unit_test_teardown(test_a_call_keeps_its_flag, rig_after),
        cmocka_unit_test_teardown(test_fields_find_calls_of_every_plan, rig_after),
        cmocka_unit_test_teardown(test_breakers_go_by_the_newest_settings, rig_after),
        cmocka_unit_test_teardown(test_a_plan_that_was_never_bound, rig_after),
    };
    return cmocka_run_group_tests(tests, rig_start, rig_stop);
}
