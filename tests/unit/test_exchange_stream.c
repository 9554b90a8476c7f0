/* SPDX-License-Identifier: Apache-2.0 */
/* Progress replies, for clients with and without an event stream: whatever follows what, the call is ended once, and nothing is
 * sent to legacy after a reply. */
#include "exchange_rig.h"

#define ASKS        "Accept: text/event-stream\r\n"
#define STREAM_HEAD "HTTP/1.1 200 OK\r\n"

/* ---- pieces ---- */

static void progress(const struct call *call, const char *at)
{
    char value[160];
    snprintf(value, sizeof(value), "{\"eventType\":\"thing.progress\",\"at\":%s,\"correlationId\":\"%s\"}",
             at, call->id_text);
    reply_by_hand(call, RIG_TOPIC_REPLIES, value);
}

static void refuse(const struct call *call)
{
    reply_by_hand(call, RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":false}");
}

static void unmapped(const struct call *call)
{
    reply_by_hand(call, RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\"}");
}

static void no_content(const struct call *call)
{
    reply_by_hand(call, RIG_TOPIC_EVENTS, "{}");
}

static void park(struct call *call, bool asks)
{
    rig_headers = asks ? ASKS : "";
    call_park(call, "/progress", "lamp", false);
    rig_headers = "";
}

static void due(struct loop_timer *timer)
{
    assert_int_equal(loop_timer_set(rig.loop, timer, 1), ERR_OK);
    loop_turn(rig.loop, 0);
}

static void deadline(struct call *call)
{
    if (call_is_parked(call))
        due(&call->ex->entry.timer);
    assert_false(call_is_parked(call));
}

/* Turns the loop until the client has received this. */
static void await_text(struct call *call, const char *text)
{
    struct buf *in = &call->client.in;
    while (!in->len || !memmem(in->ptr, in->len, text, strlen(text))) {
        assert_false(call->client.eof);
        loop_turn(rig.loop, -1);
    }
}

/* The body of a chunked answer that is there as a whole, its framing taken off in place. */
static char *body_of(struct call *call)
{
    assert_non_null(strstr(call->client.in.ptr, "\r\nTransfer-Encoding: chunked\r\n"));
    char *from = strstr(call->client.in.ptr, "\r\n\r\n") + 4, *body = from, *to = from;
    for (;;) {
        char *end;
        size_t len = strtoul(from, &end, 16);
        assert_ptr_equal(strstr(end, "\r\n"), end);
        if (!len)
            break;
        memmove(to, end + 2, len);
        to += len;
        from = end + 2 + len;
        assert_memory_equal(from, "\r\n", 2);
        from += 2;
    }
    *to = '\0';
    return body;
}

/* The whole answer is a stream with exactly these events, in which %s stands for the call's id. */
static void expect_events(struct call *call, const char *events)
{
    assert_int_equal(call_answer(call), 200);
    char *body = body_of(call);
    for (char *at = body; (at = strstr(at, call->id_text));) {
        memcpy(at, "%s", 2);
        memmove(at + 2, at + AWAIT_ID_TEXT_LEN, strlen(at + AWAIT_ID_TEXT_LEN) + 1);
    }
    assert_string_equal(body, events);
    client_fini(&call->client);
}

#define PROGRESS(id, at) "event: progress\nid: " id "\ndata: " at "\n\n"
#define RESULT(id)       "event: result\nid: " id "\ndata: {\"from\":\"kafka\",\"id\":\"%s\"}\n\n"
#define REFUSAL(id)      "event: error\nid: " id "\ndata: {\"from\":\"refusal\",\"id\":\"%s\"}\n\n"
#define FAILURE(id, message, error, status, code)                                     \
    "event: error\nid: " id "\ndata: {\"message\":\"" message "\",\"error\":\"" error \
    "\",\"statusCode\":" status ",\"code\":\"" code "\",\"correlationId\":\"%s\"}\n\n"
#define TIMEOUT(id)                                                                                          \
    FAILURE(id, "No reply arrived in time; the outcome of the command is unknown", "Gateway Timeout", "504", \
            "REPLY_TIMEOUT")
#define STOPPING(id)                                                                                        \
    FAILURE(id, "The gateway is stopping; the outcome of the command is unknown", "Gateway Timeout", "504", \
            "SHUTTING_DOWN")
#define UNMAPPED(id) FAILURE(id, "The reply has no rule in the route", "Bad Gateway", "502", "REPLY_UNMAPPED")

/* ---- sequences ---- */

/* One letter each: P progress, D delivered, U uncertain, N not persisted, T deadline, S shutdown, G client gone; replies: R success,
 * F failure, X unmapped, E without a body. A blank: the loop turns until the stream's next event has arrived. */
static void step(struct call *call, char what, unsigned *count)
{
    char at[24];
    switch (what) {
    case 'P':
        snprintf(at, sizeof(at), "%u", ++*count);
        progress(call, at);
        return;
    case ' ':
        snprintf(at, sizeof(at), "data: %u\n\n", *count);
        await_text(call, at);
        return;
    case 'D':
    case 'U':
    case 'N':
        deliver(call, what == 'D' ? KAFKA_DELIVERED : what == 'U' ? KAFKA_UNCERTAIN : KAFKA_NOT_PERSISTED);
        return;
    case 'T':
        deadline(call);
        return;
    case 'S':
        exchange_worker_abandon(rig.worker);
        return;
    case 'G':
        client_close(&call->client, call->number % 2);
        while (call_is_parked(call))
            loop_turn(rig.loop, -1);
        return;
    case 'R':
        reply_well(call);
        return;
    case 'F':
        refuse(call);
        return;
    case 'X':
        unmapped(call);
        return;
    default:
        no_content(call);
    }
}

static const struct {
    const char *steps;
    const char *events; /* of a client that asks; NULL: an ordinary answer, or the client is gone */
    int status;         /* of a client that does not ask, or of an ordinary answer; 0: gone */
    enum await_winner winner;
    unsigned late, duplicate;
} sequences[] = {
    /* The first reply decides. */
    {"R", RESULT("1"), 201, AWAIT_WON_REPLY, 0, 0},
    {"E", "event: result\nid: 1\ndata: null\n\n", 204, AWAIT_WON_REPLY, 0, 0},
    {"F", NULL, 409, AWAIT_WON_REPLY, 0, 0},
    {"X", NULL, 502, AWAIT_WON_REPLY, 0, 0},
    {"T", NULL, 504, AWAIT_WON_DEADLINE, 0, 0},
    {"S", NULL, 504, AWAIT_WON_SHUTDOWN, 0, 0},
    {"G", NULL, 0, AWAIT_WON_CLIENT_GONE, 0, 0},
    {"TP", NULL, 504, AWAIT_WON_DEADLINE, 1, 0},
    {"NPR", NULL, -201, AWAIT_WON_PRODUCE_FAILURE, 2, 0}, /* from legacy */
    {"FP", NULL, 409, AWAIT_WON_REPLY, 0, 1},
    /* Progress, then its end. */
    {"PR", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"P R", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"PF", PROGRESS("1", "1") REFUSAL("2"), 409, AWAIT_WON_REPLY, 0, 0},
    {"P F", PROGRESS("1", "1") REFUSAL("2"), 409, AWAIT_WON_REPLY, 0, 0},
    {"P X", PROGRESS("1", "1") UNMAPPED("2"), 502, AWAIT_WON_REPLY, 0, 0},
    {"P E", PROGRESS("1", "1") "event: result\nid: 2\ndata: null\n\n", 204, AWAIT_WON_REPLY, 0, 0},
    {"PT", PROGRESS("1", "1") TIMEOUT("2"), 504, AWAIT_WON_DEADLINE, 0, 0},
    {"P T", PROGRESS("1", "1") TIMEOUT("2"), 504, AWAIT_WON_DEADLINE, 0, 0},
    {"PS", PROGRESS("1", "1") STOPPING("2"), 504, AWAIT_WON_SHUTDOWN, 0, 0},
    {"P S", PROGRESS("1", "1") STOPPING("2"), 504, AWAIT_WON_SHUTDOWN, 0, 0},
    {"PG", NULL, 0, AWAIT_WON_CLIENT_GONE, 0, 0},
    {"P G", NULL, 0, AWAIT_WON_CLIENT_GONE, 0, 0},
    {"P GP", NULL, 0, AWAIT_WON_CLIENT_GONE, 1, 0},
    {"P GR", NULL, 0, AWAIT_WON_CLIENT_GONE, 1, 0},
    {"PP P PR", PROGRESS("1", "1") PROGRESS("2", "2") PROGRESS("3", "3") PROGRESS("4", "4") RESULT("5"), 201,
     AWAIT_WON_REPLY, 0, 0},
    /* What comes behind the end. */
    {"PRP", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 1},
    {"PRRPF", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 3},
    {"P TPR", PROGRESS("1", "1") TIMEOUT("2"), 504, AWAIT_WON_DEADLINE, 2, 0},
    {"PSPT", PROGRESS("1", "1") STOPPING("2"), 504, AWAIT_WON_SHUTDOWN, 1, 0},
    {"RPPN", RESULT("1"), 201, AWAIT_WON_REPLY, 0, 2},
    /* Reports around progress. A bad one behind it cannot be right. */
    {"DPR", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"UPR", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"PDR", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"P UR", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"PNR", PROGRESS("1", "1") RESULT("2"), 201, AWAIT_WON_REPLY, 0, 0},
    {"P NPR", PROGRESS("1", "1") PROGRESS("2", "2") RESULT("3"), 201, AWAIT_WON_REPLY, 0, 0},
    {"PNT", PROGRESS("1", "1") TIMEOUT("2"), 504, AWAIT_WON_DEADLINE, 0, 0},
    {"PNG", NULL, 0, AWAIT_WON_CLIENT_GONE, 0, 0},
};

static void check_counts(size_t i, unsigned taken, const struct tally *tally)
{
    for (int winner = 0; winner < AWAIT_WINNER_COUNT; winner++)
        assert_int_equal(tally->wins[winner], winner == (int)sequences[i].winner);
    assert_int_equal(tally->replies[OPS_REPLY_PROGRESS], taken);
    assert_int_equal(tally->replies[OPS_REPLY_LATE], sequences[i].late);
    assert_int_equal(tally->replies[OPS_REPLY_DUPLICATE], sequences[i].duplicate);
    assert_int_equal(tally->replies[OPS_REPLY_MATCHED], sequences[i].winner == AWAIT_WON_REPLY);
    assert_int_equal(tally->fallbacks[PATH_FALLBACK_NOT_PERSISTED],
                     sequences[i].winner == AWAIT_WON_PRODUCE_FAILURE);
    assert_int_equal(tally->ended, 1); /* one line and one count an exchange */
}

static void run_sequence(size_t i, bool asks)
{
    static struct call call;
    struct tally before, tally;
    unsigned count = 0, taken = 0;
    tally_take(&before);
    uint64_t events = rig.worker->counters->events_sent;
    park(&call, asks);
    for (const char *p = sequences[i].steps; *p; p++) {
        taken += *p == 'P' && call_is_parked(&call);
        if (asks || *p != ' ')
            step(&call, *p, &count);
    }
    assert_false(call_is_parked(&call));
    if (sequences[i].status == 0)
        client_fini(&call.client);
    else if (sequences[i].status < 0)
        call_expect(&call, -sequences[i].status, "\"from\":\"legacy\"");
    else if (asks && sequences[i].events)
        expect_events(&call, sequences[i].events);
    else
        call_expect(&call, sequences[i].status, call.id_text);
    rig_settle();
    assert_int_equal(rig.worker->streams, 0);
    tally_since(&tally, &before);
    check_counts(i, taken, &tally);
    unsigned wanted = 0;
    for (const char *p = asks ? sequences[i].events : NULL; p && (p = strstr(p, "event: ")); p++)
        wanted++;
    if (sequences[i].status != 0)
        assert_int_equal(rig.worker->counters->events_sent - events, wanted);
    assert_int_equal(call_executions(&call), sequences[i].winner == AWAIT_WON_PRODUCE_FAILURE);
}

static void test_sequences(void **state)
{
    (void)state;
    for (size_t i = 0; i < SG_ARRAY_LEN(sequences); i++)
        for (int asks = 0; asks < 2; asks++) {
            static char text[64];
            snprintf(text, sizeof(text), "%s, %s", sequences[i].steps, asks ? "stream" : "plain");
            rig_doing = text;
            run_sequence(i, asks);
        }
    rig_doing = NULL;
}

/* ---- the head ---- */

static void test_head(void **state)
{
    (void)state;
    static struct call call;
    char id[64];
    park(&call, true);
    snprintf(id, sizeof(id), "\r\nX-Correlation-Id: %s\r\n", call.id_text);
    loop_turn(rig.loop, 0);
    assert_int_equal(call.client.in.len, 0); /* nothing before the first reply */
    deliver(&call, KAFKA_DELIVERED);
    loop_turn(rig.loop, 0);
    assert_int_equal(call.client.in.len, 0);
    progress(&call, "{\"percent\": 40,\n \"note\":\"a\\nb\"}");
    /* A value is copied as the service wrote it, line breaks between its members included. */
    await_text(&call, "data: {\"percent\": 40,\ndata:  \"note\":\"a\\nb\"}\n\n");
    assert_true(call_is_parked(&call));
    assert_int_equal(call.ex->state, EXCHANGE_STREAMING);
    assert_int_equal(rig.worker->streams, 1);
    reply_well(&call);
    assert_int_equal(call_answer(&call), 200);
    const char *const headers[] = {"\r\nContent-Type: text/event-stream\r\n",
                                   "\r\nCache-Control: no-cache\r\n",
                                   "\r\nX-Accel-Buffering: no\r\n",
                                   "\r\nAccess-Control-Allow-Origin: *\r\n",
                                   "\r\nAccess-Control-Expose-Headers: X-Correlation-Id, Retry-After\r\n",
                                   id};
    for (size_t i = 0; i < SG_ARRAY_LEN(headers); i++)
        call_expect_text(&call, headers[i]);
    assert_null(strstr(call.client.in.ptr, "X-Rule"));
    client_fini(&call.client);
    rig_settle();
}

/* A rule whose body is missing still is an event with data. */
static void test_missing_body(void **state)
{
    (void)state;
    static struct call call;
    park(&call, true);
    reply_by_hand(&call, RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.progress\"}");
    reply_well(&call);
    expect_events(&call, PROGRESS("1", "null") RESULT("2"));
    rig_settle();
}

/* Routes without a progress rule answer as ever. */
static void test_other_routes(void **state)
{
    (void)state;
    static struct call call;
    rig_headers = ASKS;
    call_park(&call, "/primary", "lamp", false);
    rig_headers = "";
    reply_well(&call);
    call_expect(&call, 200, "Content-Type: application/json; charset=utf-8");
    rig_settle();
}

static void test_accept_lines(void **state)
{
    (void)state;
    static struct call call;
    static const struct {
        const char *headers;
        bool asks;
    } cases[] = {
        {"Accept: application/json;q=0.5\r\naccept: text/event-stream\r\n", true},
        {"Accept: text/event-stream;q=0.5\r\nAccept: application/json\r\n", false},
        {"X-Accept: text/event-stream\r\n", false},
        {"Accept: */*\r\n", false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        rig_headers = cases[i].headers;
        call_park(&call, "/progress", "lamp", false);
        rig_headers = "";
        progress(&call, "1");
        reply_well(&call);
        call_expect(&call, cases[i].asks ? 200 : 201, cases[i].asks ? "event: result" : "X-Rule: r");
        rig_settle();
    }
}

/* ---- silence ---- */

static void test_comments(void **state)
{
    (void)state;
    static struct call call;
    park(&call, true);
    progress(&call, "1");
    await_text(&call, "data: 1\n\n");
    for (int i = 0; i < 2; i++) {
        size_t had = call.client.in.len;
        struct loop_timer *quiet = &call.ex->stream->quiet;
        assert_true(loop_timer_is_set(quiet));
        due(quiet);
        while (call.client.in.len == had)
            loop_turn(rig.loop, -1);
        assert_true(quiet->deadline_ns > clock_mono_ns() + 14 * SG_NSEC_PER_SEC);
        assert_true(quiet->deadline_ns <= clock_mono_ns() + 15 * SG_NSEC_PER_SEC);
    }
    reply_well(&call);
    expect_events(&call, PROGRESS("1", "1") ":\n:\n" RESULT("2"));
    rig_settle();
}

/* ---- a client that does not read ---- */

#define LARGE (20u << 10)

static void sized_progress(const struct call *call, unsigned size)
{
    static char value[LARGE + 64];
    int len = snprintf(value, sizeof(value), "{\"eventType\":\"thing.progress\",\"at\":\"");
    memset(value + len, 'x', size);
    snprintf(value + len + size, sizeof(value) - (size_t)len - size, "\"}");
    reply_by_hand(call, RIG_TOPIC_REPLIES, value);
}

/* Progress, large and then small, until some is dropped: the kernel's buffers and the front's are full. Returns how many
 * replies that took. */
static unsigned fill(struct call *call)
{
    unsigned sent = 0;
    for (unsigned size = LARGE; size; size = size == LARGE ? 1 : 0)
        for (uint64_t dropped = rig.worker->counters->events_dropped;
             rig.worker->counters->events_dropped == dropped; sent++) {
            assert_true(sent < 5000);
            sized_progress(call, size);
            for (int i = 0; i < 3; i++)
                loop_turn(rig.loop, 0);
        }
    return sent;
}

static void test_slow_reader(void **state)
{
    (void)state;
    for (int end = 0; end < 3; end++) {
        static struct call call;
        struct tally before, tally;
        tally_take(&before);
        uint64_t dropped = rig.worker->counters->events_dropped, events = rig.worker->counters->events_sent;
        park(&call, true);
        progress(&call, "1");
        await_text(&call, "data: 1\n\n");
        loop_io_del(rig.loop, &call.client.io);
        unsigned sent = fill(&call);
        for (int i = 0; i < 3; i++)
            sized_progress(&call, LARGE);
        due(&call.ex->stream->quiet); /* no room for a comment either */
        assert_true(call_is_parked(&call));
        if (end == 0)
            reply_well(&call);
        else if (end == 1)
            deadline(&call);
        else
            exchange_worker_abandon(rig.worker);
        assert_false(call_is_parked(&call));
        assert_true(call.ex->stream->last.len > 0); /* it waits */
        assert_int_equal(loop_io_add(rig.loop, &call.client.io, EPOLLIN | EPOLLRDHUP), ERR_OK);
        assert_int_equal(call_answer(&call), 200);
        char *body = body_of(&call), last[32];
        unsigned dropped_here = (unsigned)(rig.worker->counters->events_dropped - dropped);
        assert_true(dropped_here >= 5);
        unsigned number = 1 + sent + 3 - dropped_here + 1;
        snprintf(last, sizeof(last), "event: %s\nid: %u\n", end == 0 ? "result" : "error", number);
        char *at = strstr(body, last);
        assert_non_null(at);
        assert_ptr_equal(strstr(at, "\n\n") + 2, body + strlen(body));
        rig_settle();
        assert_int_equal(rig.worker->counters->events_sent - events, number);
        tally_since(&tally, &before);
        assert_int_equal(tally.replies[OPS_REPLY_PROGRESS], 1 + sent + 3);
        client_fini(&call.client);
    }
}

/* It leaves while its terminal event waits. */
static void test_slow_reader_leaves(void **state)
{
    (void)state;
    for (int reset = 0; reset < 2; reset++) {
        static struct call call;
        park(&call, true);
        progress(&call, "1");
        await_text(&call, "data: 1\n\n");
        loop_io_del(rig.loop, &call.client.io);
        (void)fill(&call);
        reply_well(&call);
        call.client.eof = true; /* it is not in the loop */
        client_close(&call.client, reset);
        rig_settle();
        client_fini(&call.client);
    }
}

/* An event that only its fields brought here proves nothing of our command: it is no progress, and a fallback still comes. */
static void test_fields_are_no_progress(void **state)
{
    (void)state;
    static struct call call;
    struct tally before, tally;
    rig_headers = "Accept: text/event-stream\r\n";
    tally_take(&before);
    call_park(&call, "/progress", "lamp", false);
    rig_headers = "";
    const struct kafka_record found = {
        .topic = rig_reply_topic(RIG_TOPIC_REPLIES),
        .value = SPAN_LIT("{\"eventType\":\"thing.progress\",\"at\":1}"),
        .handle = call.handle,
        .by_fields = true,
    };
    exchange_kafka_handler.on_reply(rig.worker, &found);
    assert_int_equal(call.ex->state, EXCHANGE_PARKED);
    deliver(&call, KAFKA_NOT_PERSISTED);
    assert_false(call_is_parked(&call));
    call_expect(&call, 201, "{\"from\":\"legacy\"}");
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_MISMATCHED], 1);
    assert_int_equal(tally.replies[OPS_REPLY_PROGRESS], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_sequences, rig_after),
        cmocka_unit_test_teardown(test_head, rig_after),
        cmocka_unit_test_teardown(test_missing_body, rig_after),
        cmocka_unit_test_teardown(test_other_routes, rig_after),
        cmocka_unit_test_teardown(test_accept_lines, rig_after),
        cmocka_unit_test_teardown(test_comments, rig_after),
        cmocka_unit_test_teardown(test_slow_reader, rig_after),
        cmocka_unit_test_teardown(test_slow_reader_leaves, rig_after),
        cmocka_unit_test_teardown(test_fields_are_no_progress, rig_after),
    };
    return cmocka_run_group_tests(tests, rig_start, rig_stop);
}
