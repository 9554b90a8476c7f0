/* SPDX-License-Identifier: Apache-2.0 */
/* Replies by their version and by the schema of their rule, and what becomes of those that cannot be used. */
#include <stdlib.h>

static const char *versions_dir(void)
{
    static char dir[512];
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    __builtin_snprintf(dir, sizeof(dir), "%s/tests/routes", root ? root : ".");
    return dir;
}
#define RIG_DIR          versions_dir()
#define RIG_SETTINGS     "SYNCGATE_BREAKER=false", "SYNCGATE_DEAD_LETTER_TOPIC=races.dead"
#define RIG_MORE_OPENAPI "\"/versions\":{\"post\":{\"operationId\":\"versions\",\"responses\":{}}},"
#define RIG_MORE_ROUTES                                                                                      \
    ,                                                                                                        \
    {                                                                                                        \
        "{\"operationId\":\"versions\",\"method\":\"POST\",\"path\":\"/versions\",\"pathMode\":\"exact\","   \
        "\"auth\":{\"required\":false},\"timeoutMs\":600000,\"versions\":[\"v1\"],"                          \
        "\"command\":{\"topic\":\"races.commands\",\"eventType\":\"thing.do\",\"payload\":{}},\"replies\":[" \
        "{\"topic\":\"races.replies\",\"eventType\":\"thing.done\",\"when\":[{\"value\":\"${reply.ok}\","    \
        "\"is\":true}],"                                                                                     \
        "\"status\":200,\"body\":{\"from\":\"old\",\"id\":\"${correlationId}\"}},"                           \
        "{\"topic\":\"races.replies\",\"eventType\":\"thing.done\",\"versions\":[\"2\"],\"status\":201,"     \
        "\"schema\":\"schemas/commands.json#/$defs/create\",\"body\":{\"from\":\"new\"}},"                   \
        "{\"topic\":\"races.replies\",\"eventType\":\"thing.done\",\"versions\":[\"2\",\"3\"],\"status\":"   \
        "203,"                                                                                               \
        "\"body\":{\"from\":\"newer\"}},"                                                                    \
        "{\"topic\":\"races.events\",\"eventType\":\"thing.happened\",\"versions\":[\"*\"],\"status\":202,"  \
        "\"body\":{\"from\":\"event\"}}],"                                                                   \
        "\"finishByFields\":[{\"topic\":\"races.replies\",\"eventType\":\"thing.done\",\"fields\":"          \
        "[[\"${body.name}\",\"${reply.payload.name}\"]]}]}",                                                 \
            PATH_MODE_PRIMARY                                                                                \
    }

#include "exchange_rig.h"

#define STRANGER "00000000-0000-4000-8000-000000000000"

static void publish(int topic, const char *id, const char *value)
{
    const struct kafka_header headers[] = {{"correlation-id", span_of(id ? id : "")}};
    const struct kafka_command command = {
        .topic = (uint32_t)topic, .value = span_of(value), .headers = headers, .header_count = id != NULL};
    assert_int_equal(kafka_produce(rig.kafka, &command), ERR_OK);
}

static void await_records(int count)
{
    while (rig.replied + rig.skipped < count)
        loop_turn(rig.loop, -1);
    assert_int_equal(rig.replied + rig.skipped, count);
}

struct letters {
    uint64_t sent, failed, suppressed;
};

static struct letters letters(void)
{
    const uint64_t *counted = rig.worker->counters->dead_letters;
    struct kafka_stats stats = kafka_stats(rig.kafka);
    assert_int_equal(counted[OPS_DEAD_LETTER_SENT], 0); /* the room kafka counts these */
    return (struct letters){stats.forwarded, stats.forward_failures + counted[OPS_DEAD_LETTER_FAILED],
                            counted[OPS_DEAD_LETTER_SUPPRESSED]};
}

static int start(void **state)
{
    int rc = rig_start(state);
    while (!kafka_command_topic_is_ready(rig.kafka, rig.plan->dead_letter_topic))
        loop_turn(rig.loop, 5);
    return rc;
}

/* ---- which reply ends the call ---- */

#define DONE(rest)  "{\"eventType\":\"thing.done\"" rest "}"
#define EVENT(rest) "{\"eventType\":\"thing.happened\"" rest "}"

static void test_replies(void **state)
{
    (void)state;
    static const struct {
        size_t topic;
        const char *id; /* NULL: the call's own */
        const char *value;
        int status; /* 0: it goes on waiting */
        enum ops_reply result;
        bool dead_letter;
    } cases[] = {
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":true"), 200, OPS_REPLY_MATCHED, false},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":true,\"__version\":\"v1\""), 200, OPS_REPLY_MATCHED, false},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"__version\":\"2\",\"type\":1,\"id\":1,\"data\":1"), 201,
         OPS_REPLY_MATCHED, false},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"__version\":\"3\""), 203, OPS_REPLY_MATCHED, false},
        {RIG_TOPIC_EVENTS, NULL, EVENT(",\"__version\":\"9\""), 202, OPS_REPLY_MATCHED, false},
        {RIG_TOPIC_EVENTS, NULL, EVENT(",\"__version\":[]"), 202, OPS_REPLY_MATCHED, false},
        {RIG_TOPIC_EVENTS, NULL, EVENT(""), 202, OPS_REPLY_MATCHED, false},
        /* A version that no rule takes. */
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":true,\"__version\":\"v2\""), 0, OPS_REPLY_UNKNOWN_VERSION,
         true},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":true,\"__version\":null"), 0, OPS_REPLY_UNKNOWN_VERSION,
         true},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":true,\"__version\":2"), 0, OPS_REPLY_UNKNOWN_VERSION, true},
        /* The rule's schema decides, and no other rule is asked: the third one would have taken it. */
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"__version\":\"2\",\"type\":1,\"id\":1"), 0,
         OPS_REPLY_INVALID_SCHEMA, true},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"__version\":\"2\""), 0, OPS_REPLY_INVALID_SCHEMA, true},
        /* No rule of its version holds. */
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":false"), 502, OPS_REPLY_MATCHED, true},
        /* Broken. */
        {RIG_TOPIC_REPLIES, NULL, "{", 0, OPS_REPLY_INVALID, true},
        {RIG_TOPIC_REPLIES, NULL, "", 0, OPS_REPLY_INVALID, true},
        {RIG_TOPIC_REPLIES, NULL, DONE(",\"ok\":true,\"correlationId\":\"" STRANGER "\""), 0,
         OPS_REPLY_MISMATCHED, true},
        /* Of another type or on another topic: nothing says that it was meant to answer. */
        {RIG_TOPIC_REPLIES, NULL, "{\"eventType\":\"thing.begun\",\"__version\":\"7\"}", 0,
         OPS_REPLY_MISMATCHED, false},
        {RIG_TOPIC_EVENTS, NULL, DONE(",\"ok\":true"), 0, OPS_REPLY_MISMATCHED, false},
        {RIG_TOPIC_REPLIES, NULL, "[]", 0, OPS_REPLY_MISMATCHED, false},
        /* Not ours by its id, or without one: nobody's letter, also when its fields are the call's. */
        {RIG_TOPIC_REPLIES, STRANGER, "{", 0, OPS_REPLY_UNMATCHED, false},
        {RIG_TOPIC_REPLIES, STRANGER, DONE(",\"__version\":\"7\""), 0, OPS_REPLY_UNMATCHED, false},
        {RIG_TOPIC_REPLIES, "none", "{", 0, OPS_REPLY_INVALID, false},
        {RIG_TOPIC_REPLIES, "none", DONE(",\"__version\":\"7\""), 0, OPS_REPLY_UNMATCHED, false},
        {RIG_TOPIC_REPLIES, "none", DONE(",\"__version\":\"7\",\"payload\":{\"name\":\"lamp\"}"), 0,
         OPS_REPLY_UNKNOWN_VERSION, false},
        {RIG_TOPIC_REPLIES, "none", DONE(",\"__version\":\"2\",\"payload\":{\"name\":\"lamp\"}"), 0,
         OPS_REPLY_INVALID_SCHEMA, false},
        {RIG_TOPIC_REPLIES, "none", DONE(",\"ok\":true,\"payload\":{\"name\":\"lamp\"}"), 200,
         OPS_REPLY_MATCHED, false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static struct call call;
        struct tally before, tally;
        struct letters had = letters();
        int records = rig.replied + rig.skipped;
        tally_take(&before);
        call_park(&call, "/versions", "lamp", false);
        rig_doing = cases[i].value;
        publish((int)cases[i].topic, cases[i].id ? cases[i].id : call.id_text, cases[i].value);
        await_records(records + 1);
        assert_int_equal(call_is_parked(&call), cases[i].status == 0);
        if (cases[i].status == 0)
            reply_well(&call);
        call_expect(&call, cases[i].status ? cases[i].status : 200, "HTTP/1.1");
        rig_settle();
        tally_since(&tally, &before);
        uint64_t reader = cases[i].result == OPS_REPLY_UNMATCHED ? tally.unmatched
                          : cases[i].result == OPS_REPLY_INVALID ? tally.invalid
                                                                 : 0;
        assert_int_equal(tally.replies[cases[i].result] + reader,
                         1 + (cases[i].status == 0 && cases[i].result == OPS_REPLY_MATCHED));
        while (letters().sent < had.sent + cases[i].dead_letter)
            loop_turn(rig.loop, 5);
        assert_int_equal(letters().sent, had.sent + cases[i].dead_letter);
        assert_int_equal(letters().failed + letters().suppressed, 0);
    }
    rig_doing = NULL;
}

/* Good or bad, what comes when the call is over is counted as today, and is no dead letter. */
static void test_late_and_duplicate(void **state)
{
    (void)state;
    static const char *const values[] = {DONE(",\"ok\":true"), DONE(",\"__version\":\"7\""), "{"};
    struct letters had = letters();
    for (size_t i = 0; i < SG_ARRAY_LEN(values) * 2; i++) {
        static struct call call;
        struct tally before, tally;
        bool late = i % 2;
        int records = rig.replied + rig.skipped;
        tally_take(&before);
        call_park(&call, "/versions", "lamp", false);
        if (late)
            exchange_worker_abandon(rig.worker);
        else
            reply_well(&call);
        call_expect(&call, late ? 504 : 200, "HTTP/1.1");
        rig_settle();
        publish(RIG_TOPIC_REPLIES, call.id_text, values[i / 2]);
        await_records(records + 1);
        tally_since(&tally, &before);
        assert_int_equal(tally.replies[late ? OPS_REPLY_LATE : OPS_REPLY_DUPLICATE], 1);
    }
    assert_int_equal(letters().sent, had.sent);
    assert_int_equal(letters().failed + letters().suppressed, 0);
}

/* More than a loop hands on in a second are only counted, and the call's own reply still ends it. */
static void test_flood(void **state)
{
    (void)state;
    enum { FLOOD = 400 };
    static struct call call;
    struct letters had = letters();
    int records = rig.replied + rig.skipped;
    call_park(&call, "/versions", "lamp", false);
    for (int i = 0; i < FLOOD; i++)
        publish(RIG_TOPIC_REPLIES, call.id_text, "{");
    await_records(records + FLOOD);
    assert_true(call_is_parked(&call));
    reply_well(&call);
    call_expect(&call, 200, "old");
    rig_settle();
    while (letters().sent + letters().suppressed < had.sent + had.suppressed + FLOOD)
        loop_turn(rig.loop, 5);
    assert_int_equal(letters().sent + letters().suppressed, had.sent + had.suppressed + FLOOD);
    assert_true(letters().suppressed > had.suppressed);
    assert_true(letters().sent > had.sent);
    assert_int_equal(letters().failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_replies, rig_after),
        cmocka_unit_test_teardown(test_late_and_duplicate, rig_after),
        cmocka_unit_test_teardown(test_flood, rig_after),
    };
    return cmocka_run_group_tests(tests, start, rig_stop);
}
