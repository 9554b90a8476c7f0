/* SPDX-License-Identifier: Apache-2.0 */
/* Reply, deadline, produce failure, client gone and shutdown race for each request: exactly one wins and answers, the
 * losers are counted and change nothing. */
#include "exchange_rig.h"

/* ---- every pair, in both orders ---- */

enum event { REPLY, DEADLINE, NOT_PERSISTED, CLIENT_GONE, SHUTDOWN, DELIVERED, UNCERTAIN, EVENT_COUNT };
static const char *const event_names[] = {"reply",    "deadline",  "not persisted", "client gone",
                                          "shutdown", "delivered", "uncertain"};
/* AWAIT_PENDING: it ends nothing. */
static const enum await_winner winner_of[EVENT_COUNT] = {AWAIT_WON_REPLY, AWAIT_WON_DEADLINE,
                                                         AWAIT_WON_PRODUCE_FAILURE, AWAIT_WON_CLIENT_GONE,
                                                         AWAIT_WON_SHUTDOWN};

/* tight: nothing runs between the two events. armed: the same, and a deadline that comes second is due already before
 * the first. settled: all that follows from the first is over, but a legacy call, whose backend holds its answer. */
enum gap { GAP_TIGHT, GAP_ARMED, GAP_SETTLED, GAP_COUNT };

struct pair {
    enum event first, second;
    enum gap gap;
    bool only; /* the route without a legacy path */
};

static void arm_deadline(const struct call *call)
{
    struct await_entry *entry = await_find(rig.worker->table, &call->id);
    assert_int_equal(loop_timer_set(rig.loop, &entry->timer, 1), ERR_OK);
}

static void fire(enum event event, struct call *call)
{
    bool parked = call_is_parked(call);
    switch (event) {
    case REPLY:
        reply_well(call);
        return;
    case DEADLINE:
        if (parked)
            arm_deadline(call);
        loop_turn(rig.loop, 0);
        assert_false(call_is_parked(call));
        return;
    case CLIENT_GONE:
        client_close(&call->client, call->number % 2);
        while (parked && call_is_parked(call))
            loop_turn(rig.loop, -1);
        return;
    case SHUTDOWN:
        exchange_worker_abandon(rig.worker);
        return;
    default:
        deliver(call, event == DELIVERED       ? KAFKA_DELIVERED
                      : event == NOT_PERSISTED ? KAFKA_NOT_PERSISTED
                                               : KAFKA_UNCERTAIN);
    }
}

static bool holds_legacy(const struct pair *pair)
{
    return pair->gap == GAP_SETTLED && pair->first == NOT_PERSISTED && !pair->only;
}

static void settle(const struct pair *pair, struct call *call)
{
    if (winner_of[pair->first] == AWAIT_PENDING)
        loop_turn(rig.loop, 0);
    else if (holds_legacy(pair))
        while (call_executions(call) == 0)
            loop_turn(rig.loop, 2);
    else
        while (rig.worker->active || (call->client.fd >= 0 && !call->client.eof))
            loop_turn(rig.loop, -1);
}

static void check_answer(const struct pair *pair, enum await_winner winner, struct call *call)
{
    static const struct {
        int status;
        const char *text;
    } answers[AWAIT_WINNER_COUNT] = {
        [AWAIT_WON_REPLY] = {200, "\"from\":\"kafka\""},
        [AWAIT_WON_DEADLINE] = {504, "\"code\":\"REPLY_TIMEOUT\""},
        [AWAIT_WON_PRODUCE_FAILURE] = {201, "\"from\":\"legacy\""},
        [AWAIT_WON_SHUTDOWN] = {504, "\"code\":\"SHUTTING_DOWN\""},
    };
    bool refused = winner == AWAIT_WON_PRODUCE_FAILURE && pair->only;
    int status = call_answer(call);
    assert_int_equal(status, refused ? 503 : answers[winner].status);
    call_expect_text(call, refused ? "\"code\":\"KAFKA_UNAVAILABLE\"" : answers[winner].text);
    call_expect_text(call, call->id_text);
    assert_int_equal(strstr(call->client.in.ptr, "\r\nRetry-After:") != NULL, refused);
    if (winner == AWAIT_WON_REPLY && pair->only) /* the body was kept for the answer's template */
        call_expect_text(call, "\"name\":\"lamp\"");
}

static void check_counts(const struct pair *pair, enum await_winner winner, const struct tally *tally)
{
    bool finished_later = winner_of[pair->first] == AWAIT_PENDING && winner_of[pair->second] == AWAIT_PENDING;
    uint64_t sent = (pair->first == REPLY) + (pair->second == REPLY) + finished_later;
    uint64_t matched = winner == AWAIT_WON_REPLY;
    for (int i = 0; i < AWAIT_WINNER_COUNT; i++)
        assert_int_equal(tally->wins[i], i == (int)winner);
    assert_int_equal(tally->replies[OPS_REPLY_MATCHED], matched);
    assert_int_equal(tally->replies[OPS_REPLY_DUPLICATE], matched ? sent - 1 : 0);
    assert_int_equal(tally->replies[OPS_REPLY_LATE], matched ? 0 : sent);
    assert_int_equal(tally->replies[OPS_REPLY_UNMATCHED] + tally->replies[OPS_REPLY_MISMATCHED] +
                         tally->replies[OPS_REPLY_INVALID],
                     0);
    for (int i = 0; i < PATH_FALLBACK_COUNT; i++)
        assert_int_equal(tally->fallbacks[i],
                         i == PATH_FALLBACK_NOT_PERSISTED && winner == AWAIT_WON_PRODUCE_FAILURE);
    assert_int_equal(tally->ended, 1); /* one line and one count an exchange */
}

static void race(const struct pair *pair)
{
    static struct call call;
    struct tally before, tally;
    tally_take(&before);
    call_park(&call, pair->only ? "/only" : "/primary", "lamp", holds_legacy(pair));
    if (pair->gap == GAP_ARMED)
        arm_deadline(&call);
    fire(pair->first, &call);
    if (pair->gap == GAP_SETTLED)
        settle(pair, &call);
    fire(pair->second, &call);
    enum await_winner winner =
        winner_of[pair->first] != AWAIT_PENDING ? winner_of[pair->first] : winner_of[pair->second];
    assert_int_equal(call_is_parked(&call), winner == AWAIT_PENDING);
    if (winner == AWAIT_PENDING) { /* neither ends it, so its reply does */
        reply_well(&call);
        winner = AWAIT_WON_REPLY;
    }
    assert_int_equal(await_past_winner(rig.worker->table, &call.id), winner);
    if (holds_legacy(pair))
        sem_post(&rig.backend.go);
    rig_settle();
    if (call.client.fd >= 0)
        check_answer(pair, winner, &call);
    tally_since(&tally, &before);
    check_counts(pair, winner, &tally);
    int executions = call_executions(&call);
    if (winner != AWAIT_WON_PRODUCE_FAILURE || pair->only)
        assert_int_equal(executions, 0);
    else if (pair->second == CLIENT_GONE)
        assert_true(executions <= 1);
    else
        assert_int_equal(executions, 1);
    client_fini(&call.client);
}

static bool is_report(enum event event)
{
    return event == NOT_PERSISTED || event == DELIVERED || event == UNCERTAIN;
}

static bool possible(const struct pair *pair)
{
    if (pair->first == CLIENT_GONE && pair->second == CLIENT_GONE)
        return false;
    /* A message has one delivery report; a second one after a fall-back must be harmless all the same. */
    if ((pair->first == DELIVERED || pair->first == UNCERTAIN) && is_report(pair->second))
        return false;
    /* That the client left is learnt in a turn of the loop, in which the deadline would fire, too. */
    return pair->gap != GAP_ARMED ||
           (pair->second == DEADLINE && pair->first != DEADLINE && pair->first != CLIENT_GONE);
}

static void test_every_pair(void **state)
{
    (void)state;
    unsigned done = 0;
    for (unsigned i = 0; i < EVENT_COUNT * EVENT_COUNT * GAP_COUNT * 2; i++) {
        const struct pair pair = {(enum event)(i % EVENT_COUNT), (enum event)(i / EVENT_COUNT % EVENT_COUNT),
                                  (enum gap)(i / EVENT_COUNT / EVENT_COUNT % GAP_COUNT),
                                  i / EVENT_COUNT / EVENT_COUNT / GAP_COUNT};
        if (!possible(&pair))
            continue;
        static char text[96];
        snprintf(text, sizeof(text), "%s, then %s, gap %d, %s", event_names[pair.first],
                 event_names[pair.second], (int)pair.gap, pair.only ? "only" : "primary");
        rig_doing = text;
        race(&pair);
        done++;
    }
    rig_doing = NULL;
    assert_int_equal(done, 178); /* none was left out by mistake */
}

/* The real deadline of a route, and what comes after it. */
static void test_real_deadline(void **state)
{
    (void)state;
    static struct call call;
    struct tally before, tally;
    tally_take(&before);
    uint64_t started = clock_mono_ns();
    call_park(&call, "/short", "lamp", false);
    deliver(&call, KAFKA_UNCERTAIN);
    call_expect(&call, 504, "REPLY_TIMEOUT");
    assert_true(clock_mono_ns() - started >= 100 * SG_NSEC_PER_MSEC);
    reply_well(&call);
    deliver(&call, KAFKA_NOT_PERSISTED);
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.wins[AWAIT_WON_DEADLINE], 1);
    assert_int_equal(tally.replies[OPS_REPLY_LATE], 1);
    assert_int_equal(tally.fallbacks[PATH_FALLBACK_NOT_PERSISTED], 0);
    assert_int_equal(call_executions(&call), 0);
}

/* The client leaves, its slot gets another request: whatever comes for the first must not touch the second. */
static void test_slot_of_another(void **state)
{
    (void)state;
    static struct call old, call;
    struct tally before, tally;
    call_park(&old, "/primary", "old", false);
    client_fini(&old.client);
    rig_settle();
    tally_take(&before);
    call_park(&call, "/primary", "new", false);
    assert_memory_equal(old.id.bytes + 9, call.id.bytes + 9, 3); /* the slot */
    assert_memory_not_equal(old.id.bytes, call.id.bytes, 16);
    reply_well(&old);
    deliver(&old, KAFKA_NOT_PERSISTED);
    deliver(&old, KAFKA_DELIVERED);
    deliver(&old, KAFKA_UNCERTAIN);
    struct kafka_record by_fields = {.topic = rig_reply_topic(RIG_TOPIC_EVENTS),
                                     .value = SPAN_LIT("{\"eventType\":\"thing.happened\"}"),
                                     .handle = old.handle,
                                     .by_fields = true};
    exchange_kafka_handler.on_reply(rig.worker, &by_fields);
    assert_true(call_is_parked(&call));
    assert_false(call.ex->delivered || call.ex->uncertain);
    reply_well(&call);
    call_expect(&call, 200, call.id_text);
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_LATE], 2);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 1);
    assert_int_equal(tally.wins[AWAIT_WON_PRODUCE_FAILURE], 0);
    assert_int_equal(call_executions(&old) + call_executions(&call), 0);
}

/* An id of this process that never was in the table. */
static void test_reply_to_nobody(void **state)
{
    (void)state;
    struct call nobody = {.handle = 1};
    struct tally before, tally;
    tally_take(&before);
    await_id_without_slot(rig.worker->table, &nobody.id);
    await_id_format(&nobody.id, nobody.id_text);
    reply_well(&nobody);
    nobody.id.bytes[9] = nobody.id.bytes[10] = nobody.id.bytes[11] = 0xff;
    reply_well(&nobody);
    for (int delivery = KAFKA_DELIVERED; delivery <= KAFKA_UNCERTAIN; delivery++)
        deliver(&nobody, (enum kafka_delivery)delivery);
    exchange_worker_abandon(rig.worker);
    tally_since(&tally, &before);
    assert_int_equal(tally.replies[OPS_REPLY_UNMATCHED], 2);
}

/* ---- replies that are not what the request waits for ---- */

static void test_unexpected_replies(void **state)
{
    (void)state;
#define OTHER "00000000-0000-4000-8000-000000000000"
    static const struct {
        int topic;
        const char *value; /* %s: the request's id; NULL: a tombstone */
        enum ops_reply result;
        int status; /* 0: it keeps waiting */
    } cases[] = {
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":\"" OTHER "\"}",
         OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":\"\"}",
         OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":7}",
         OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":{}}",
         OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_EVENTS, "{\"eventType\":\"thing.done\",\"ok\":true}", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.happened\",\"ok\":true}", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"Thing.Done\",\"ok\":true}", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":null,\"ok\":true}", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "{\"ok\":true}", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "[]", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "null", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "\"thing.done\"", OPS_REPLY_MISMATCHED, 0},
        {RIG_TOPIC_REPLIES, "thing.done", OPS_REPLY_INVALID, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true", OPS_REPLY_INVALID, 0},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true}}", OPS_REPLY_INVALID, 0},
        {RIG_TOPIC_REPLIES, "", OPS_REPLY_INVALID, 0},
        {RIG_TOPIC_REPLIES, NULL, OPS_REPLY_INVALID, 0},
        /* These end it. */
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true}", OPS_REPLY_MATCHED, 200},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":null}",
         OPS_REPLY_MATCHED, 200},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing\\u002edone\",\"ok\":true}", OPS_REPLY_MATCHED, 200},
        {RIG_TOPIC_EVENTS, "{\"eventType\":\"thing.happened\",\"correlationId\":\"%s\"}", OPS_REPLY_MATCHED,
         202},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":false,\"correlationId\":\"%s\"}",
         OPS_REPLY_MATCHED, 502},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\",\"ok\":1}", OPS_REPLY_MATCHED, 502},
        {RIG_TOPIC_REPLIES, "{\"eventType\":\"thing.done\"}", OPS_REPLY_MATCHED, 502},
    };
#undef OTHER
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        static struct call call;
        struct tally before, tally;
        char value[256] = "";
        tally_take(&before);
        call_park(&call, i % 2 ? "/only" : "/primary", "lamp", false);
        const char *mark = cases[i].value ? strstr(cases[i].value, "%s") : NULL;
        if (mark)
            snprintf(value, sizeof(value), "%.*s%s%s", (int)(mark - cases[i].value), cases[i].value,
                     call.id_text, mark + 2);
        rig_doing = cases[i].value;
        reply_by_hand(&call, cases[i].topic, mark ? value : cases[i].value);
        assert_int_equal(call_is_parked(&call), cases[i].status == 0);
        if (!cases[i].status)
            reply_well(&call);
        call_expect(&call, cases[i].status ? cases[i].status : 200,
                    cases[i].status == 502 ? "\"code\":\"REPLY_UNMAPPED\"" : "\"from\":");
        rig_settle();
        tally_since(&tally, &before);
        assert_int_equal(tally.replies[cases[i].result], 1);
        assert_int_equal(tally.replies[OPS_REPLY_MATCHED], 1);
        assert_int_equal(tally.wins[AWAIT_WON_REPLY], 1);
    }
    rig_doing = NULL;
}

/* The bulkhead of a route: the third request finds no place and gives none back. */
static void test_route_full(void **state)
{
    (void)state;
    static struct call calls[3];
    struct tally before, tally;
    tally_take(&before);
    call_park(&calls[0], "/only", "a", false);
    call_park(&calls[1], "/only", "b", false);
    call_send(&calls[2], "/only", "c", false);
    call_expect(&calls[2], 503, "\"code\":\"OVERLOADED\"");
    reply_well(&calls[0]);
    call_expect(&calls[0], 200, "\"name\":\"a\"");
    call_park(&calls[2], "/only", "d", false);
    reply_well(&calls[2]);
    reply_well(&calls[1]);
    call_expect(&calls[2], 200, "\"name\":\"d\"");
    call_expect(&calls[1], 200, "\"name\":\"b\"");
    rig_settle();
    tally_since(&tally, &before);
    assert_int_equal(tally.fallbacks[PATH_FALLBACK_OVERLOADED], 1);
    assert_int_equal(tally.wins[AWAIT_WON_REPLY], 3);
}

/* ---- with threads: all at once, for each of many ---- */

enum { STORM_CALLS = 16, STORM_BATCHES = 10, STORM_RACERS = 4 };

struct storm {
    struct call calls[STORM_CALLS];
    int fds[STORM_CALLS];
    pthread_barrier_t barrier;
    unsigned batch;
    bool stop; /* loop's */
};

struct storm_msg {
    struct loop_msg msg;
    enum event event;
    struct call *call;
};

static void on_storm_msg(struct loop_msg *msg)
{
    struct storm_msg *storm_msg = SG_CONTAINER_OF(msg, struct storm_msg, msg);
    if (storm_msg->event == DEADLINE && call_is_parked(storm_msg->call))
        arm_deadline(storm_msg->call); /* due in this turn, behind the messages */
    else if (storm_msg->event != DEADLINE)
        fire(storm_msg->event, storm_msg->call);
    free(storm_msg);
}

static void storm_post(struct call *call, enum event event)
{
    struct storm_msg *storm_msg = malloc(sizeof(*storm_msg));
    SG_ASSERT(storm_msg);
    *storm_msg = (struct storm_msg){{.on_msg = on_storm_msg}, event, call};
    loop_post(rig.loop, &storm_msg->msg);
}

struct racer {
    struct storm *storm;
    int number;
};

static bool storm_leaves(const struct storm *storm, unsigned i)
{
    return (i + storm->batch) % 3 == 0;
}

static void *racer_main(void *arg)
{
    struct racer *racer = arg;
    struct storm *storm = racer->storm;
    for (unsigned i = 0; i < STORM_CALLS; i++) {
        struct call *call = &storm->calls[i];
        pthread_barrier_wait(&storm->barrier);
        switch (racer->number) {
        case 0:
            storm_post(call, REPLY);
            break;
        case 1:
            storm_post(call, i % 4 ? NOT_PERSISTED : UNCERTAIN);
            break;
        case 2:
            storm_post(call, DEADLINE);
            break;
        default:
            if (storm_leaves(storm, i))
                close(storm->fds[i]);
            else
                storm_post(call, REPLY);
            if (i == STORM_CALLS - 2)
                storm_post(call, SHUTDOWN);
        }
    }
    return NULL;
}

static void *storm_loop_main(void *arg)
{
    struct storm *storm = arg;
    while (!storm->stop)
        loop_turn(rig.loop, -1);
    return NULL;
}

struct storm_end {
    struct loop_msg msg;
    struct storm *storm;
};

static void on_storm_end(struct loop_msg *msg)
{
    SG_CONTAINER_OF(msg, struct storm_end, msg)->storm->stop = true;
}

/* Blocks until the connection ends. Returns the status; 0: there was no answer. */
static int storm_answer(int fd, char *text, size_t room)
{
    size_t len = 0;
    ssize_t n;
    while (len < room - 1 && (n = recv(fd, text + len, room - 1 - len, 0)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    if (strncmp(text, "HTTP/1.1 ", 9) != 0 || strstr(text + 1, "HTTP/1.1 "))
        return 0;
    return atoi(text + 9);
}

static void storm_check_call(struct storm *storm, unsigned i, int status, const char *text)
{
    struct call *call = &storm->calls[i];
    enum await_winner winner = await_past_winner(rig.worker->table, &call->id);
    bool leaves = storm_leaves(storm, i);
    int executions = call_executions(call);
    /* The memory of past winners may forget one (two ids on one place): then the answer has to be one of them. */
    assert_true(executions <= (winner == AWAIT_WON_PRODUCE_FAILURE || winner == AWAIT_PENDING));
    if (leaves)
        return;
    assert_non_null(strstr(text, call->id_text));
    switch (winner) {
    case AWAIT_PENDING:
        assert_true(status == 200 || status == 201 || status == 504);
        assert_int_equal(executions, status == 201);
        break;
    case AWAIT_WON_REPLY:
        assert_int_equal(status, 200);
        break;
    case AWAIT_WON_PRODUCE_FAILURE:
        assert_int_equal(status, 201);
        assert_int_equal(executions, 1);
        break;
    case AWAIT_WON_DEADLINE:
        assert_int_equal(status, 504);
        assert_non_null(strstr(text, "REPLY_TIMEOUT"));
        break;
    case AWAIT_WON_SHUTDOWN:
        assert_int_equal(status, 504);
        assert_non_null(strstr(text, "SHUTTING_DOWN"));
        break;
    default:
        fail_msg("%s won, but the client is there", await_winner_name(winner));
    }
}

static void storm_park(struct storm *storm)
{
    for (unsigned i = 0; i < STORM_CALLS; i++) {
        struct call *call = &storm->calls[i];
        char header[32];
        *call = (struct call){.number = rig_case++, .client.fd = -1};
        snprintf(header, sizeof(header), "X-Case: %u\r\n", call->number);
        storm->fds[i] = client_connect();
        client_write(storm->fds[i], "/primary", header, "lamp");
        while (await_count(rig.worker->table) == i)
            loop_turn(rig.loop, -1);
        call->id = rig.begun->id;
        call->handle = await_id_handle(&call->id);
        await_id_format(&call->id, call->id_text);
    }
}

static void storm_batch(struct storm *storm)
{
    pthread_t loop_thread, threads[STORM_RACERS];
    struct racer racers[STORM_RACERS];
    struct tally before, tally;
    struct storm_end end = {{.on_msg = on_storm_end}, storm};
    int statuses[STORM_CALLS] = {0};
    char texts[STORM_CALLS][2048];
    tally_take(&before);
    storm_park(storm);
    storm->stop = false;
    SG_ASSERT(pthread_create(&loop_thread, NULL, storm_loop_main, storm) == 0);
    for (int i = 0; i < STORM_RACERS; i++) {
        racers[i] = (struct racer){storm, i};
        SG_ASSERT(pthread_create(&threads[i], NULL, racer_main, &racers[i]) == 0);
    }
    for (int i = 0; i < STORM_RACERS; i++)
        pthread_join(threads[i], NULL);
    uint64_t sent = 0;
    for (unsigned i = 0; i < STORM_CALLS; i++) {
        bool leaves = storm_leaves(storm, i);
        sent += leaves ? 1 : 2;
        if (leaves)
            continue;
        statuses[i] = storm_answer(storm->fds[i], texts[i], sizeof(texts[i]));
        close(storm->fds[i]);
    }
    loop_post(rig.loop, &end.msg);
    pthread_join(loop_thread, NULL);
    rig_settle();
    for (unsigned i = 0; i < STORM_CALLS; i++)
        storm_check_call(storm, i, statuses[i], texts[i]);
    tally_since(&tally, &before);
    uint64_t wins = 0;
    for (int i = 0; i < AWAIT_WINNER_COUNT; i++)
        wins += tally.wins[i];
    assert_int_equal(wins, STORM_CALLS);
    assert_int_equal(tally.ended, STORM_CALLS);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED], tally.wins[AWAIT_WON_REPLY]);
    assert_int_equal(tally.replies[OPS_REPLY_MATCHED] + tally.replies[OPS_REPLY_LATE] +
                         tally.replies[OPS_REPLY_DUPLICATE] + tally.replies[OPS_REPLY_UNMATCHED],
                     sent); /* unmatched: those whose winner was forgotten */
    assert_int_equal(tally.fallbacks[PATH_FALLBACK_NOT_PERSISTED], tally.wins[AWAIT_WON_PRODUCE_FAILURE]);
}

static void test_storm(void **state)
{
    (void)state;
    struct storm *storm = calloc(1, sizeof(*storm));
    assert_non_null(storm);
    assert_int_equal(pthread_barrier_init(&storm->barrier, NULL, STORM_RACERS), 0);
    for (storm->batch = 0; storm->batch < STORM_BATCHES; storm->batch++)
        storm_batch(storm);
    pthread_barrier_destroy(&storm->barrier);
    free(storm);
}

/* The last thing before the process ends: what was begun goes on, what comes now is not begun, and says so. */
static void test_a_front_that_refuses(void **state)
{
    (void)state;
    static struct call begun, refused;
    call_park(&begun, "/primary", "lamp", false);
    http_front_refuse(rig.front);
    call_send(&refused, "/primary", "late", false);
    call_expect(&refused, 503, "the request was not executed");
    assert_int_equal(call_executions(&refused), 0);
    assert_int_equal(await_count(rig.worker->table), 1);
    reply_well(&begun);
    call_expect(&begun, 200, "\"from\":\"kafka\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_every_pair, rig_after),
        cmocka_unit_test_teardown(test_real_deadline, rig_after),
        cmocka_unit_test_teardown(test_slot_of_another, rig_after),
        cmocka_unit_test_teardown(test_reply_to_nobody, rig_after),
        cmocka_unit_test_teardown(test_unexpected_replies, rig_after),
        cmocka_unit_test_teardown(test_route_full, rig_after),
        cmocka_unit_test_teardown(test_storm, rig_after),
        cmocka_unit_test_teardown(test_a_front_that_refuses, rig_after), /* nothing can come behind it */
    };
    return cmocka_run_group_tests(tests, rig_start, rig_stop);
}
