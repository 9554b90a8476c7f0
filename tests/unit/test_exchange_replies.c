/* SPDX-License-Identifier: Apache-2.0 */
/* Whose reply is it? Records go through the embedded broker, so headers, the reader thread's look at them and the loop's
 * last word are the real ones. */
/* A second route whose calls the same event may end. */
#define RIG_DIR          "/tmp"
#define RIG_MORE_OPENAPI "\"/other\":{\"post\":{\"operationId\":\"other\",\"responses\":{}}},"
#define RIG_MORE_ROUTES                                                                         \
    ,                                                                                           \
    {                                                                                           \
        RIG_ROUTE("other", "/other", "\"timeoutMs\":600000,", "", RIG_MATCH), PATH_MODE_PRIMARY \
    }
#include "exchange_rig.h"

#define STRANGER "00000000-0000-4000-8000-000000000000"

/* Writes a record to a topic and waits until it was handed to a loop or dismissed. header NULL: no header. */
static void publish(int topic, const char *header, const char *id, const char *value)
{
    const struct kafka_header headers[] = {{header, span_of(id)}};
    const struct kafka_command command = {.topic = (uint32_t)topic,
                                          .value = span_of(value),
                                          .headers = headers,
                                          .header_count = header != NULL};
    assert_int_equal(kafka_produce(rig.kafka, &command), ERR_OK);
}

static void await_records(int count)
{
    while (rig.replied + rig.skipped < count)
        loop_turn(rig.loop, -1);
    assert_int_equal(rig.replied + rig.skipped, count);
}

/* Every %s becomes the request's id. */
static const char *with_id(const struct call *call, const char *text, char *out, size_t room)
{
    size_t len = 0;
    for (const char *mark; (mark = strstr(text, "%s")); text = mark + 2)
        len += (size_t)snprintf(out + len, room - len, "%.*s%s", (int)(mark - text), text, call->id_text);
    snprintf(out + len, room - len, "%s", text);
    return out;
}

/* ---- ids ---- */

static void test_ids(void **state)
{
    (void)state;
#define BODY          "{\"eventType\":\"thing.done\",\"ok\":true}"
#define BODY_WITH(id) "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":" id "}"
    enum { ENDS, UNMATCHED_BY_READER, INVALID_BY_READER, MISMATCHED, INVALID };
    static const struct {
        const char *header, *id, *body;
        int result;
    } cases[] = {
        {"correlation-id", "%s", BODY, ENDS},
        {"kafka_correlationId", "%s", BODY, ENDS},
        {"correlationId", "%s", BODY, ENDS},
        {"correlation-id", "%s", BODY_WITH("\"%s\""), ENDS},
        {NULL, "", BODY_WITH("\"%s\""), ENDS},
        {"x-other", "%s", BODY_WITH("\"%s\""), ENDS},
        {"correlation-id", "", BODY_WITH("\"%s\""), ENDS},
        {"correlation-id", "not-a-uuid", BODY_WITH("\"%s\""), ENDS},
        {"correlation-id", "%s ", BODY_WITH("\"%s\""), ENDS},
        {"correlation-id", STRANGER, BODY_WITH("\"%s\""), UNMATCHED_BY_READER},
        {"correlation-id", STRANGER, BODY, UNMATCHED_BY_READER},
        {"correlation-id", "%s", BODY_WITH("\"" STRANGER "\""), MISMATCHED},
        {"correlation-id", "%s", BODY_WITH("17"), MISMATCHED},
        {NULL, "", BODY_WITH("\"" STRANGER "\""), UNMATCHED_BY_READER},
        {NULL, "", BODY_WITH("\"\""), UNMATCHED_BY_READER},
        {NULL, "", BODY_WITH("[\"%s\"]"), UNMATCHED_BY_READER},
        {NULL, "", BODY, UNMATCHED_BY_READER},
        {NULL, "", "[\"%s\"]", UNMATCHED_BY_READER},
        {NULL, "", "%s", INVALID_BY_READER},
        {NULL, "", "", INVALID_BY_READER},
        {NULL, "", NULL, INVALID_BY_READER},
        {"x-other", "%s", "{", INVALID_BY_READER},
        {"correlation-id", "%s", "{", INVALID},
        {"correlation-id", "%s", NULL, INVALID},
        {"correlation-id", "%s", "\xff\xfe", INVALID},
    };
#undef BODY
#undef BODY_WITH
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static struct call call;
        struct tally before, tally;
        char id[64], body[256];
        int records = rig.replied + rig.skipped;
        tally_take(&before);
        call_park(&call, "/primary", "lamp", false);
        rig_doing = cases[i].body;
        publish(RIG_TOPIC_REPLIES, cases[i].header, with_id(&call, cases[i].id, id, sizeof(id)),
                cases[i].body ? with_id(&call, cases[i].body, body, sizeof(body)) : NULL);
        await_records(records + 1);
        assert_int_equal(call_is_parked(&call), cases[i].result != ENDS);
        if (cases[i].result != ENDS)
            reply_well(&call);
        call_expect(&call, 200, call.id_text);
        rig_settle();
        tally_since(&tally, &before);
        assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 1);
        assert_int_equal(tally.replies[OPS_REPLY_MISMATCHED], cases[i].result == MISMATCHED);
        assert_int_equal(tally.replies[OPS_REPLY_INVALID], cases[i].result == INVALID);
        assert_int_equal(tally.unmatched, cases[i].result == UNMATCHED_BY_READER);
        assert_int_equal(tally.invalid, cases[i].result == INVALID_BY_READER);
    }
    rig_doing = NULL;
}

/* Headers alone may answer, by a rule with "eventType": null; without such a rule they are ignored. */
static void test_answers_in_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header, *value;
        bool ends;
        enum ops_reply result;
    } cases[] = {
        {"x-error", NULL, true, OPS_REPLY_MATCHED},
        {"x-error", "", true, OPS_REPLY_MATCHED},
        {"x-error", "{\"x\":\"nobody\"}", true, OPS_REPLY_MATCHED},
        {"x-error", "{\"correlationId\":\"" STRANGER "\"}", false, OPS_REPLY_MISMATCHED},
        {"x-error", "{\"eventType\":\"thing.lost\"}", false, OPS_REPLY_MISMATCHED},
        {"x-error", "{", false, OPS_REPLY_INVALID},
        {"X-Error", NULL, false, OPS_REPLY_INVALID},
        {"X-Error", "", false, OPS_REPLY_INVALID},
        {"X-Error", "{}", false, OPS_REPLY_MISMATCHED},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static struct call call;
        struct tally before, tally;
        int records = rig.replied + rig.skipped;
        tally_take(&before);
        call_park(&call, "/primary", "lamp", false);
        const struct kafka_header headers[] = {{"correlation-id", span_of(call.id_text)},
                                               {cases[i].header, SPAN_LIT("not the last")},
                                               {cases[i].header, SPAN_LIT("it \"broke\"")}};
        const struct kafka_command record = {.topic = RIG_TOPIC_REPLIES,
                                             .value = cases[i].value ? span_of(cases[i].value)
                                                                     : (struct span){NULL, 0},
                                             .headers = headers,
                                             .header_count = SG_ARRAY_LEN(headers)};
        assert_int_equal(kafka_produce(rig.kafka, &record), ERR_OK);
        await_records(records + 1);
        assert_int_equal(call_is_parked(&call), !cases[i].ends);
        if (!cases[i].ends)
            reply_well(&call);
        call_expect(&call, cases[i].ends ? 500 : 200,
                    cases[i].ends ? "{\"error\":\"it \\\"broke\\\"\",\"of\":\"nobody\"}"
                                  : "\"from\":\"kafka\"");
        rig_settle();
        tally_since(&tally, &before);
        assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 1);
        if (!cases[i].ends)
            assert_int_equal(tally.replies[cases[i].result], 1);
    }
}

/* Two replies at once, mostly in one batch of the reader. */
static void test_two_replies_in_one_batch(void **state)
{
    (void)state;
    enum { ROUNDS = 20 };
    struct tally before, tally;
    tally_take(&before);
    for (int round = 0; round < ROUNDS; round++) {
        static struct call call;
        int records = rig.replied + rig.skipped;
        call_park(&call, "/primary", "lamp", false);
        for (int i = 0; i < 2; i++)
            publish(RIG_TOPIC_REPLIES, "correlation-id", call.id_text,
                    "{\"eventType\":\"thing.done\",\"ok\":true}");
        await_records(records + 2);
        call_expect(&call, 200, call.id_text);
    }
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED], ROUNDS);
    assert_int_equal(tally.replies[OPS_REPLY_DUPLICATE], ROUNDS);
    assert_int_equal(tally.wins[AWAIT_WON_REPLY], ROUNDS);
}

/* A body that the command was made without is not there for the answer either. */
static void test_body_of_another_type(void **state)
{
    (void)state;
    static struct call call;
    call_park(&call, "/only", "lamp", false);
    reply_well(&call);
    call_expect(&call, 200, "\"name\":\"lamp\"");
    rig_headers = "Content-Type: text/plain\r\n";
    call_park(&call, "/only", "lamp", false);
    rig_headers = "";
    reply_well(&call);
    assert_int_equal(call_answer(&call), 200);
    assert_null(strstr(call.client.in.ptr, "lamp"));
    client_fini(&call.client);
    rig_settle();
}

/* ---- finishing by fields ---- */

#define EVENT(rest) "{\"eventType\":\"thing.happened\"" rest ",\"payload\":{\"name\":\"lamp\"}}"

static void test_fields(void **state)
{
    (void)state;
    static const struct {
        int topic;
        const char *header, *id, *value;
        bool ends;
    } cases[] = {
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(""), true}, /* the record's own time */
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":\"2999-01-01T00:00:00.000Z\""), true},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":32472144000000"), true},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":null"), true},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":\"soon\""), true},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":1.5"), true},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"correlationId\":\"none\""), true},
        {RIG_TOPIC_EVENTS, "correlation-id", "none", EVENT(""), true},
        /* No time at all that a clock can show: the record's counts. */
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":1e300"), true},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":-1e300"), true},
        /* Older than the command. */
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":\"2020-01-01T00:00:00.000Z\""), false},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":1577836800000"), false},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":0"), false},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"timestamp\":-1"), false},
        /* Somebody else's, or not what the route names. */
        {RIG_TOPIC_EVENTS, "correlation-id", STRANGER, EVENT(""), false},
        {RIG_TOPIC_EVENTS, NULL, "", EVENT(",\"correlationId\":\"" STRANGER "\""), false},
        {RIG_TOPIC_REPLIES, NULL, "", EVENT(""), false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"eventType\":\"thing.done\",\"payload\":{\"name\":\"lamp\"}}", false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"payload\":{\"name\":\"lamp\"}}", false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"eventType\":\"thing.happened\",\"payload\":{\"name\":\"lamps\"}}",
         false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"eventType\":\"thing.happened\",\"payload\":{\"name\":\"\"}}", false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"eventType\":\"thing.happened\",\"payload\":{\"name\":null}}", false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"eventType\":\"thing.happened\",\"payload\":{}}", false},
        {RIG_TOPIC_EVENTS, NULL, "", "{\"eventType\":\"thing.happened\"}", false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static struct call call;
        struct tally before, tally;
        int records = rig.replied + rig.skipped;
        tally_take(&before);
        call_park(&call, "/fields", "lamp", false);
        rig_doing = cases[i].value;
        publish(cases[i].topic, cases[i].header, cases[i].id, cases[i].value);
        await_records(records + 1);
        assert_int_equal(call_is_parked(&call), !cases[i].ends);
        if (!cases[i].ends)
            reply_well(&call);
        call_expect(&call, cases[i].ends ? 202 : 200,
                    cases[i].ends ? "\"from\":\"event\"" : "\"from\":\"kafka\"");
        rig_settle();
        tally_since(&tally, &before);
        assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 1);
        assert_int_equal(tally.unmatched, !cases[i].ends);
    }
    rig_doing = NULL;
}

/* The route without finishByFields has the same body and is not found. */
static void test_fields_are_off_elsewhere(void **state)
{
    (void)state;
    static struct call call;
    int records = rig.replied + rig.skipped;
    call_park(&call, "/primary", "lamp", false);
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 1);
    assert_true(call_is_parked(&call));
    reply_well(&call);
    call_expect(&call, 200, "\"from\":\"kafka\"");
    rig_settle();
}

static void test_two_candidates(void **state)
{
    (void)state;
    static struct call calls[2];
    struct tally before, tally;
    int records = rig.replied + rig.skipped;
    tally_take(&before);
    call_park(&calls[0], "/fields", "lamp", false);
    call_park(&calls[1], "/fields", "lamp", false);
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 1);
    assert_true(call_is_parked(&calls[0]) && call_is_parked(&calls[1]));
    /* By its id each of them can be meant. */
    publish(RIG_TOPIC_EVENTS, "correlation-id", calls[1].id_text, EVENT(""));
    await_records(records + 2);
    assert_true(call_is_parked(&calls[0]) && !call_is_parked(&calls[1]));
    call_expect(&calls[1], 202, "\"from\":\"event\"");
    /* Now it is the only one. */
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 3);
    call_expect(&calls[0], 202, "\"from\":\"event\"");
    /* And now it is nobody. */
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 4);
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 2);
    assert_int_equal(tally.unmatched, 2);
}

/* Calls of two routes are two candidates as well, wherever each of them stands alone. */
static void test_candidates_of_two_routes(void **state)
{
    (void)state;
    static struct call calls[3];
    int records = rig.replied + rig.skipped;
    call_park(&calls[0], "/fields", "lamp", false);
    call_park(&calls[1], "/other", "lamp", false);
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 1);
    assert_true(call_is_parked(&calls[0]) && call_is_parked(&calls[1]));
    /* Two of one route, one of the other. */
    call_park(&calls[2], "/fields", "lamp", false);
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 2);
    for (size_t i = 0; i < SG_ARRAY_LEN(calls); i++)
        assert_true(call_is_parked(&calls[i]));
    /* The last one that is left is meant. */
    for (size_t i = 0; i < 2; i++) {
        reply_well(&calls[i]);
        call_expect(&calls[i], 200, "\"from\":\"kafka\"");
    }
    publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
    await_records(records + 3);
    call_expect(&calls[2], 202, "\"from\":\"event\"");
    rig_settle();
}

/* Whatever ends a request, its fields are forgotten: an event that comes then finds nobody. */
static void test_fields_of_an_ended_request(void **state)
{
    (void)state;
    for (int way = 0; way < 5; way++) {
        static struct call call;
        struct tally before, tally;
        int records = rig.replied + rig.skipped;
        tally_take(&before);
        call_park(&call, "/fields", "lamp", false);
        if (way == 0)
            reply_well(&call);
        else if (way == 1)
            deliver(&call, KAFKA_NOT_PERSISTED);
        else if (way == 2)
            exchange_worker_abandon(rig.worker);
        else if (way == 3)
            client_fini(&call.client);
        else
            assert_int_equal(loop_timer_set(rig.loop, &call.ex->entry.timer, 1), ERR_OK);
        while (call_is_parked(&call))
            loop_turn(rig.loop, -1);
        publish(RIG_TOPIC_EVENTS, NULL, "", EVENT(""));
        await_records(records + 1);
        rig_settle();
        tally_since(&tally, &before);
        assert_int_equal(tally.unmatched, 1);
        assert_int_equal(tally.replies[OPS_REPLY_MATCHED], way == 0);
        client_fini(&call.client);
    }
}

/* The reader found the request by fields, then its reply by id was faster on the loop. */
static void test_reply_by_id_first(void **state)
{
    (void)state;
    static struct call call;
    struct tally before, tally;
    const struct span event = SPAN_LIT(EVENT(""));
    tally_take(&before);
    call_park(&call, "/fields", "lamp", false);
    struct kafka_record found = {
        .topic = rig_reply_topic(RIG_TOPIC_EVENTS), .value = event, .handle = call.handle, .by_fields = true};
    reply_well(&call);
    exchange_kafka_handler.on_reply(rig.worker, &found);
    call_expect(&call, 200, "\"from\":\"kafka\"");
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 1);
    assert_int_equal(tally.replies[OPS_REPLY_LATE], 1);
    /* And the other way round. */
    call_park(&call, "/fields", "lamp", false);
    found.handle = call.handle;
    exchange_kafka_handler.on_reply(rig.worker, &found);
    reply_well(&call);
    call_expect(&call, 202, "\"from\":\"event\"");
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 2);
    assert_int_equal(tally.replies[OPS_REPLY_DUPLICATE], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_ids, rig_after),
        cmocka_unit_test_teardown(test_answers_in_headers, rig_after),
        cmocka_unit_test_teardown(test_two_replies_in_one_batch, rig_after),
        cmocka_unit_test_teardown(test_body_of_another_type, rig_after),
        cmocka_unit_test_teardown(test_fields, rig_after),
        cmocka_unit_test_teardown(test_fields_are_off_elsewhere, rig_after),
        cmocka_unit_test_teardown(test_two_candidates, rig_after),
        cmocka_unit_test_teardown(test_candidates_of_two_routes, rig_after),
        cmocka_unit_test_teardown(test_fields_of_an_ended_request, rig_after),
        cmocka_unit_test_teardown(test_reply_by_id_first, rig_after),
    };
    return cmocka_run_group_tests(tests, rig_start, rig_stop);
}
