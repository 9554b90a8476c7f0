/* SPDX-License-Identifier: Apache-2.0 */
/* A gateway without its process: the real rooms (front, exchange, Kafka clients with the embedded broker, legacy path)
 * on one real loop, which the test turns itself. So a test decides what happens before what, and never sleeps: it turns
 * the loop until something is true. Kafka's reader and watcher are threads; what they bring comes through the loop's
 * inbox. Delivery reports of the broker are swallowed, because the tests make their own. */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../src/exchange/internal.h"
#include "../../src/ops/counters.h"
#include "raw_backend.h"

#define RIG_CASES 2048

/* Environment of the gateway, as a list of strings. */
#ifndef RIG_SETTINGS
#define RIG_SETTINGS "SYNCGATE_BREAKER=false"
#endif

/* Further routes (operation and path of one name): their part of the OpenAPI document, rows of rig_routes (", {...}"), and the
 * folder of the files that they name. */
#ifndef RIG_MORE_ROUTES
#define RIG_MORE_ROUTES
#define RIG_MORE_OPENAPI ""
#define RIG_DIR          "/tmp"
#endif

enum { RIG_TOPIC_COMMANDS, RIG_TOPIC_REPLIES, RIG_TOPIC_EVENTS, RIG_TOPIC_COUNT };
static const struct span rig_topics[RIG_TOPIC_COUNT] = {
    SPAN_INIT("races.commands"), SPAN_INIT("races.replies"), SPAN_INIT("races.events")};

struct rig {
    struct loop *loop;
    struct http_listener *listener;
    struct http_front *front;
    struct exchange_plan *plan;
    struct exchange_shared shared;
    struct exchange_worker *worker;
    struct kafka *kafka;
    struct backend backend;
    atomic_int executions[RIG_CASES]; /* of the legacy backend, by the X-Case of the request */
    struct exchange *begun;           /* the last one that began */
    int replied, skipped;             /* records that came through the broker */
    char legacy_url[64];
};
static struct rig rig;

static const char *rig_doing; /* which case of a table is under way */

/* ---- the scripted legacy backend ---- */

static void rig_serve(struct backend_conn *conn)
{
    struct backend_request *request = malloc(sizeof(*request));
    SG_ASSERT(request);
    while (backend_read(conn, request)) {
        const char *number = strcasestr(request->head, "\r\nX-Case:");
        if (number)
            atomic_fetch_add(&rig.executions[strtoul(number + 9, NULL, 10) % RIG_CASES], 1);
        if (strcasestr(request->head, "\r\nX-Hold:"))
            backend_wait_go(conn);
        if (!backend_say(conn, "HTTP/1.1 201 Created\r\nContent-Length: 17\r\n\r\n{\"from\":\"legacy\"}"))
            break;
    }
    free(request);
}

/* ---- between Kafka and the exchange ---- */

struct rig_wake {
    struct loop_msg msg;
};

static void rig_on_wake(struct loop_msg *msg)
{
    rig.skipped++;
    free(SG_CONTAINER_OF(msg, struct rig_wake, msg));
}

/* Thread: replies. */
static bool rig_on_record(void *arg, struct kafka_record *record)
{
    bool wanted = exchange_kafka_handler.on_record(arg, record);
    if (!wanted) {
        struct rig_wake *wake = malloc(sizeof(*wake));
        SG_ASSERT(wake);
        wake->msg.on_msg = rig_on_wake;
        loop_post(rig.loop, &wake->msg);
    }
    return wanted;
}

static void rig_on_reply(void *loop_arg, const struct kafka_record *record)
{
    exchange_kafka_handler.on_reply(loop_arg, record);
    rig.replied++;
}

static void rig_on_delivery(void *loop_arg, uint64_t handle, enum kafka_delivery delivery, enum err_code code)
{
    (void)loop_arg;
    (void)handle;
    (void)delivery;
    (void)code;
}

static void *rig_on_begin(void *arg, struct http_request *http)
{
    return rig.begun = exchange_http_handler.on_begin(arg, http);
}

/* ---- routes ---- */

#define RIG_ROUTE(operation, path, limits, extra, match)                                                   \
    "{\"operationId\":\"" operation "\",\"method\":\"POST\",\"path\":\"" path "\",\"pathMode\":\"exact\"," \
    "\"auth\":{\"required\":false}," limits "\"command\":{\"topic\":\"races.commands\",\"key\":"           \
    "\"${body.name}\",\"eventType\":\"thing.do\",\"payload\":{\"correlationId\":\"${correlationId}\","     \
    "\"name\":\"${body.name}\"}},\"replies\":[{\"topic\":\"races.replies\",\"eventType\":\"thing.done\","  \
    "\"when\":[{\"value\":\"${reply.ok}\",\"is\":true}],\"status\":200,\"body\":{\"from\":\"kafka\"" extra \
    ",\"id\":\"${correlationId}\"}},{\"topic\":\"races.events\",\"eventType\":\"thing.happened\","         \
    "\"status\":"                                                                                          \
    "202,\"body\":{\"from\":\"event\"}},{\"topic\":\"races.replies\",\"eventType\":null,\"when\":["        \
    "{\"value\":\"${replyHeaders.x-error}\",\"exists\":true}],\"status\":500,\"body\":{\"error\":"         \
    "\"${replyHeaders.x-error}\",\"of\":\"${reply.x ?? \\\"nobody\\\"}\"}}],\"finishByFields\":" match "}"
#define RIG_MATCH                                                               \
    "[{\"topic\":\"races.events\",\"eventType\":\"thing.happened\",\"fields\":" \
    "[[\"${body.name}\",\"${reply.payload.name}\"]]}]"

/* Routes of one test: a list of {text, mode}, and their paths in the OpenAPI document. */
static const char rig_openapi[] =
    "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"t\",\"version\":\"1\"},\"paths\":{"
    "\"/primary\":{\"post\":{\"operationId\":\"primary\",\"responses\":{}}},"
    "\"/only\":{\"post\":{\"operationId\":\"only\",\"responses\":{}}},"
    "\"/short\":{\"post\":{\"operationId\":\"short\",\"responses\":{}}}," RIG_MORE_OPENAPI
    "\"/fields\":{\"post\":{\"operationId\":\"fields\",\"responses\":{}}},"
    "\"/progress\":{\"post\":{\"operationId\":\"progress\",\"responses\":{}}}}}";
static const struct {
    const char *text;
    enum path_mode mode;
} rig_routes[] = {
    {RIG_ROUTE("primary", "/primary", "\"timeoutMs\":600000,", "", "null"), PATH_MODE_PRIMARY},
    /* Its answer needs the request's body, and it has a limit of its own. */
    {RIG_ROUTE("only", "/only", "\"timeoutMs\":600000,\"maxInFlight\":2,", ",\"name\":\"${body.name}\"",
               "null"),
     PATH_MODE_ONLY},
    {RIG_ROUTE("short", "/short", "\"timeoutMs\":100,", "", "null"), PATH_MODE_PRIMARY},
    {RIG_ROUTE("fields", "/fields", "\"timeoutMs\":600000,", "", RIG_MATCH), PATH_MODE_PRIMARY},
    {"{\"operationId\":\"progress\",\"method\":\"POST\",\"path\":\"/progress\",\"pathMode\":\"exact\","
     "\"auth\":{\"required\":false},\"timeoutMs\":600000,\"command\":{\"topic\":\"races.commands\","
     "\"eventType\":\"thing.do\",\"payload\":{\"correlationId\":\"${correlationId}\"}},\"replies\":["
     "{\"topic\":\"races.replies\",\"eventType\":\"thing.progress\",\"terminal\":false,\"body\":"
     "\"${reply.at}\"},"
     "{\"topic\":\"races.replies\",\"eventType\":\"thing.done\",\"when\":[{\"value\":\"${reply.ok}\","
     "\"is\":true}],\"status\":201,\"headers\":{\"X-Rule\":\"r\"},\"body\":{\"from\":\"kafka\","
     "\"id\":\"${correlationId}\"}},"
     "{\"topic\":\"races.replies\",\"eventType\":\"thing.done\",\"when\":[{\"value\":\"${reply.ok}\","
     "\"is\":false}],\"status\":409,\"body\":{\"from\":\"refusal\",\"id\":\"${correlationId}\"}},"
     "{\"topic\":\"races.events\",\"status\":204}]}",
     PATH_MODE_PRIMARY} RIG_MORE_ROUTES,
};

static uint32_t rig_reply_topic(int topic)
{
    for (uint32_t i = 0; i < rig.plan->routes->reply_topic_count; i++)
        if (span_eq(rig.plan->routes->reply_topics[i], rig_topics[topic]))
            return i;
    fail_msg("no such reply topic");
    return 0;
}

static void rig_load_plan(void)
{
    char openapi[] = "/tmp/syncgate-races-XXXXXX";
    struct route_source sources[SG_ARRAY_LEN(rig_routes)];
    struct err err = {ERR_OK, ""};
    int fd = mkstemp(openapi);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, rig_openapi, sizeof(rig_openapi) - 1), sizeof(rig_openapi) - 1);
    close(fd);
    for (size_t i = 0; i < SG_ARRAY_LEN(rig_routes); i++)
        sources[i] = (struct route_source){"route", span_of(rig_routes[i].text)};
    struct route_table *routes = route_table_parse(sources, SG_ARRAY_LEN(rig_routes), RIG_DIR, openapi, &err);
    unlink(openapi);
    if (!routes)
        fail_msg("%s", err.text);
    struct path_flag flags[SG_ARRAY_LEN(rig_routes)];
    for (size_t i = 0; i < routes->count; i++)
        for (size_t r = 0; r < SG_ARRAY_LEN(rig_routes); r++)
            if (strstr(rig_routes[r].text, routes->routes[i].path.ptr))
                flags[i] = (struct path_flag){.mode = rig_routes[r].mode};
    static char *const settings[] = {"SYNCGATE_MAX_PARKED=1000", RIG_SETTINGS, NULL};
    struct config *config = config_load(NULL, settings, &err);
    if (!config)
        fail_msg("%s", err.text);
    rig.plan = exchange_plan_new(&rig.shared, config, routes, flags, &err);
    assert_non_null(rig.plan);
}

/* ---- life ---- */

static void rig_start_kafka(void)
{
    static struct loop *loops[1];
    static void *args[1];
    struct err err = {ERR_OK, ""};
    loops[0] = rig.loop;
    args[0] = rig.worker;
    const struct kafka_settings settings = {
        .embedded = true,
        .message_timeout_ms = 60000,
        .reply_topics = rig.plan->routes->reply_topics,
        .reply_topic_count = rig.plan->routes->reply_topic_count,
        .command_topics = rig_topics, /* the reply topics, too: the test writes to them */
        .command_topic_count = RIG_TOPIC_COUNT,
        .loops = loops,
        .loop_args = args,
        .loop_count = 1,
        .handler = {rig_on_record, &rig.shared, rig_on_reply, rig_on_delivery},
    };
    rig.kafka = kafka_new(&settings, &err);
    if (!rig.kafka)
        fail_msg("%s", err.text);
    rig.shared.kafka = rig.kafka;
    assert_int_equal(exchange_plan_bind(&rig.shared, rig.plan), ERR_OK);
    assert_int_equal(kafka_start(rig.kafka), ERR_OK);
    struct exchange_closed closed;
    for (size_t i = 0; i < rig.plan->routes->count; i++)
        while (exchange_route_closed(&rig.shared, rig.plan, &rig.plan->routes->routes[i], &closed))
            loop_turn(rig.loop, 5);
}

static int rig_start(void **state)
{
    (void)state;
    struct err err = {ERR_OK, ""};
    assert_int_equal(legacy_global_init(), ERR_OK);
    assert_int_equal(exchange_shared_init(&rig.shared), ERR_OK);
    rig_load_plan();
    backend_start(&rig.backend, rig_serve);
    snprintf(rig.legacy_url, sizeof(rig.legacy_url), "http://127.0.0.1:%d", rig.backend.port);
    assert_int_equal(await_instance_new(&rig.shared.instance), ERR_OK);
    rig.shared.has_legacy = true;
    rig.shared.legacy = (struct legacy_settings){
        .url = rig.legacy_url, .connect_timeout_ms = 60000, .timeout_ms = 60000, .max_connections = 64};
    rig.shared.loop_count = 1;
    rig.loop = loop_new(&err);
    rig.worker = exchange_worker_new(&rig.shared, rig.plan, rig.loop, 0, &err);
    rig.listener = http_listener_new("127.0.0.1:0", 1000, &err);
    if (!rig.worker || !rig.listener)
        fail_msg("%s", err.text);
    struct http_settings settings = {16384, 65536, 60000, 60000, exchange_http_handler};
    settings.handler.on_begin = rig_on_begin;
    settings.handler.arg = rig.worker;
    rig.front = http_front_new(rig.loop, rig.listener, &settings, &err);
    assert_non_null(rig.front);
    assert_int_equal(http_front_join(rig.front), ERR_OK);
    rig_start_kafka();
    return 0;
}

static int rig_stop(void **state)
{
    (void)state;
    kafka_stop(rig.kafka, 1000);
    loop_turn(rig.loop, 0);
    http_front_freep(&rig.front);
    loop_turn(rig.loop, 0);
    exchange_worker_freep(&rig.worker); /* asserts that the table is empty */
    kafka_freep(&rig.kafka);
    loop_freep(&rig.loop);
    http_listener_freep(&rig.listener);
    backend_stop(&rig.backend);
    exchange_plan_unrefp(&rig.shared, &rig.plan);
    exchange_shared_fini(&rig.shared);
    return 0;
}

/* After each test: a failed one says where it was, and leaves nobody waiting. */
static int rig_after(void **state)
{
    (void)state;
    if (rig_doing)
        fprintf(stderr, "in: %s\n", rig_doing);
    rig_doing = NULL;
    exchange_worker_abandon(rig.worker);
    if (rig.worker->active)
        sem_post(&rig.backend.go);
    return 0;
}

/* ---- clients ---- */

struct client {
    int fd; /* -1: closed by us */
    struct loop_io io;
    struct buf in; /* NUL-terminated from client_answer() on */
    bool eof;
};

static void client_on_ready(struct loop_io *io, uint32_t events)
{
    (void)events;
    struct client *client = SG_CONTAINER_OF(io, struct client, io);
    char data[4096];
    ssize_t n;
    while ((n = recv(client->fd, data, sizeof(data), MSG_DONTWAIT)) > 0)
        buf_append(&client->in, data, (size_t)n);
    if (n == 0 || errno != EAGAIN) {
        client->eof = true;
        loop_io_del(rig.loop, io);
    }
}

static int client_connect(void)
{
    const char *port = strrchr(http_listener_address(rig.listener), ':') + 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void client_write(int fd, const char *path, const char *headers, const char *name)
{
    char text[1024];
    int len = snprintf(text, sizeof(text),
                       "POST %s HTTP/1.1\r\nHost: races\r\nConnection: close\r\n%s"
                       "%sContent-Length: %zu\r\n\r\n{\"name\":\"%s\"}",
                       path, strstr(headers, "Content-Type:") ? "" : "Content-Type: application/json\r\n",
                       headers, strlen(name) + 11, name);
    assert_int_equal(send(fd, text, (size_t)len, MSG_NOSIGNAL), len);
}

/* reset: the client's kernel says RST, not FIN. */
static void client_close(struct client *client, bool reset)
{
    const struct linger linger = {1, 0};
    if (client->fd < 0)
        return;
    if (!client->eof)
        loop_io_del(rig.loop, &client->io);
    if (reset)
        setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(client->fd);
    client->fd = -1;
}

static void client_fini(struct client *client)
{
    client_close(client, false);
    buf_fini(&client->in);
}

/* ---- calls ---- */

/* Static in the tests: the loop still knows the client of a test that failed. */
struct call {
    struct client client;
    struct exchange *ex; /* dangles once the exchange is over */
    struct await_id id;
    uint64_t handle;
    char id_text[AWAIT_ID_TEXT_LEN + 1];
    unsigned number; /* of the case */
};
static unsigned rig_case;
static const char *rig_headers = ""; /* of the next calls, each with its line end */

static void call_send(struct call *call, const char *path, const char *name, bool hold)
{
    char headers[256];
    *call = (struct call){.number = rig_case++};
    assert_true(rig_case < RIG_CASES);
    snprintf(headers, sizeof(headers), "X-Case: %u\r\n%s%s", call->number, hold ? "X-Hold: 1\r\n" : "",
             rig_headers);
    call->client.fd = client_connect();
    call->client.io.fd = call->client.fd;
    call->client.io.on_ready = client_on_ready;
    assert_int_equal(loop_io_add(rig.loop, &call->client.io, EPOLLIN | EPOLLRDHUP), ERR_OK);
    client_write(call->client.fd, path, headers, name);
}

/* Until the command is out and the request parked. */
static void call_park(struct call *call, const char *path, const char *name, bool hold)
{
    uint32_t parked = await_count(rig.worker->table);
    call_send(call, path, name, hold);
    while (await_count(rig.worker->table) == parked)
        loop_turn(rig.loop, -1);
    call->ex = rig.begun;
    assert_int_equal(call->ex->state, EXCHANGE_PARKED);
    call->id = call->ex->id;
    call->handle = await_id_handle(&call->id);
    await_id_format(&call->id, call->id_text);
    assert_ptr_equal(await_find(rig.worker->table, &call->id), &call->ex->entry);
}

static inline bool call_is_parked(const struct call *call)
{
    return await_find(rig.worker->table, &call->id) != NULL;
}

static inline int call_executions(const struct call *call)
{
    return atomic_load(&rig.executions[call->number]);
}

/* The whole answer: exactly one, then the end of the connection. Returns its status. */
static int call_answer(struct call *call)
{
    while (!call->client.eof)
        loop_turn(rig.loop, -1);
    struct buf *in = &call->client.in;
    buf_append_char(in, '\0');
    assert_true(buf_ok(in));
    assert_int_equal(strlen(in->ptr) + 1, in->len);
    assert_ptr_equal(strstr(in->ptr, "HTTP/1.1 "), in->ptr);
    assert_null(strstr(in->ptr + 1, "HTTP/1.1 "));
    return atoi(in->ptr + 9);
}

static void call_expect_text(const struct call *call, const char *text)
{
    if (!strstr(call->client.in.ptr, text))
        fail_msg("no %s in %s", text, call->client.in.ptr);
}

/* The answer with this status; then the connection is closed. */
static void call_expect(struct call *call, int status, const char *text)
{
    if (call_answer(call) != status)
        fail_msg("not %d: %s", status, call->client.in.ptr);
    call_expect_text(call, text);
    client_fini(&call->client);
}

static void rig_settle(void)
{
    while (rig.worker->active)
        loop_turn(rig.loop, -1);
    assert_int_equal(await_count(rig.worker->table), 0);
    for (size_t i = 0; i < rig.plan->routes->count; i++)
        assert_int_equal(atomic_load(&rig.plan->states[i].operation->in_flight), 0);
}

/* ---- what came of it ---- */

struct tally {
    uint64_t wins[AWAIT_WINNER_COUNT], replies[OPS_REPLY_COUNT], fallbacks[PATH_FALLBACK_COUNT];
    uint64_t unmatched, invalid; /* by the reader */
    uint64_t ended;
};

static void tally_take(struct tally *tally)
{
    const struct ops_counters *counters = rig.worker->counters;
    memset(tally, 0, sizeof(*tally));
    memcpy(tally->wins, await_wins(rig.worker->table), sizeof(tally->wins));
    memcpy(tally->replies, counters->replies, sizeof(tally->replies));
    memcpy(tally->fallbacks, counters->fallbacks, sizeof(tally->fallbacks));
    tally->unmatched = atomic_load(&rig.shared.unmatched);
    tally->invalid = atomic_load(&rig.shared.invalid);
    for (size_t i = 0; i < (counters->route_count + 1) * PATH_TAKEN_COUNT; i++)
        for (size_t s = 0; counters->cells[i] && s < OPS_STATUS_COUNT; s++)
            tally->ended += counters->cells[i]->by_status[s];
}

/* What was counted since `before`. */
static inline void tally_since(struct tally *tally, const struct tally *before)
{
    uint64_t *now = (uint64_t *)(void *)tally;
    const uint64_t *then = (const uint64_t *)(const void *)before;
    tally_take(tally);
    for (size_t i = 0; i < sizeof(*tally) / sizeof(*now); i++)
        now[i] -= then[i];
}

/* ---- records made by hand ---- */

static void reply_by_hand(const struct call *call, int topic, const char *value)
{
    struct kafka_record record = {
        .topic = rig_reply_topic(topic), .value = span_of(value), .id = call->id, .handle = call->handle};
    exchange_kafka_handler.on_reply(rig.worker, &record);
}

static void reply_well(const struct call *call)
{
    char value[160];
    snprintf(value, sizeof(value), "{\"eventType\":\"thing.done\",\"ok\":true,\"correlationId\":\"%s\"}",
             call->id_text);
    reply_by_hand(call, RIG_TOPIC_REPLIES, value);
}

static inline void deliver(const struct call *call, enum kafka_delivery delivery)
{
    exchange_kafka_handler.on_delivery(rig.worker, call->handle, delivery,
                                       delivery == KAFKA_DELIVERED       ? ERR_OK
                                       : delivery == KAFKA_NOT_PERSISTED ? ERR_KAFKA_NOT_PERSISTED
                                                                         : ERR_KAFKA_UNCERTAIN);
}
