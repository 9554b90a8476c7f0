/* SPDX-License-Identifier: Apache-2.0 */
/* The room kafka against a mock cluster of the test's own (its topics and faults are the test's to choose), with two loops
 * that the test's thread turns. Everything here but `skipped` and `wanted` belongs to that thread. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "../../src/kafka/internal.h"

#define LOOPS       2
#define HANDLES_MAX 8192
#define REPLIES_MAX 512
#define COMMANDS    "test.commands"
#define REPLIES     "test.replies"
#define WAIT_MS     15000

struct report {
    unsigned count, loop_number;
    enum kafka_delivery delivery;
    enum err_code code;
};

struct reply {
    char value[64], header[64];
    uint32_t topic;
    int32_t partition;
    int64_t timestamp_ms;
    unsigned loop_number;
};

struct fixture {
    rd_kafka_t *mock;
    rd_kafka_mock_cluster_t *cluster;
    struct loop *loops[LOOPS];
    struct loop_arg {
        struct fixture *fx;
        unsigned number;
    } args[LOOPS];
    struct kafka *kafka;
    struct report reports[HANDLES_MAX]; /* [n]: of the handle with number n */
    unsigned report_count;
    struct reply replies[REPLIES_MAX];
    unsigned reply_count;
    atomic_uint skipped, wanted;
    unsigned skip_us; /* how long the reader looks at a record that is nobody's */
    void (*see)(const struct kafka_record *record); /* each reply, if set */
};

static inline uint64_t handle_of(unsigned loop_number, unsigned n)
{
    return (uint64_t)loop_number << 56 | n;
}

/* A record is for the loop and number in its header "to" ("1:42"); others are skipped. */
static bool on_record(void *arg, struct kafka_record *record)
{
    struct fixture *fx = arg;
    struct span to = kafka_record_header(record, "to");
    if (to.len < 3) {
        uint64_t start_ns = fx->skip_us ? clock_mono_ns() : 0;
        while (fx->skip_us && clock_mono_ns() - start_ns < fx->skip_us * UINT64_C(1000))
            ;
        atomic_fetch_add(&fx->skipped, 1);
        return false;
    }
    record->handle = handle_of((unsigned)(to.ptr[0] - '0'), (unsigned)strtoul(to.ptr + 2, NULL, 10));
    atomic_fetch_add(&fx->wanted, 1);
    return true;
}

static void copy_span(char out[64], struct span s)
{
    snprintf(out, 64, "%.*s", (int)s.len, s.ptr ? s.ptr : "");
}

static void on_reply(void *loop_arg, const struct kafka_record *record)
{
    struct loop_arg *arg = loop_arg;
    struct fixture *fx = arg->fx;
    assert_true(fx->reply_count < REPLIES_MAX);
    struct reply *reply = &fx->replies[fx->reply_count++];
    *reply = (struct reply){.topic = record->topic,
                            .partition = record->partition,
                            .timestamp_ms = record->timestamp_ms,
                            .loop_number = arg->number};
    copy_span(reply->value, record->value);
    copy_span(reply->header, kafka_record_header(record, "event-type"));
    if (fx->see)
        fx->see(record);
}

static void on_delivery(void *loop_arg, uint64_t handle, enum kafka_delivery delivery, enum err_code code)
{
    struct loop_arg *arg = loop_arg;
    unsigned n = (unsigned)(handle & 0xffffffff);
    assert_true(n < HANDLES_MAX);
    struct report *report = &arg->fx->reports[n];
    report->count++;
    report->loop_number = arg->number;
    report->delivery = delivery;
    report->code = code;
    arg->fx->report_count++;
    assert_int_equal(handle >> 56, arg->number);
}

static inline void fixture_init(struct fixture *fx)
{
    *fx = (struct fixture){0};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "socket.nagle.disable", "true", NULL, 0);
    fx->mock = rd_kafka_new(RD_KAFKA_PRODUCER, conf, NULL, 0);
    assert_non_null(fx->mock);
    fx->cluster = rd_kafka_mock_cluster_new(fx->mock, 1);
    assert_non_null(fx->cluster);
    for (unsigned i = 0; i < LOOPS; i++) {
        fx->loops[i] = loop_new(NULL);
        fx->args[i] = (struct loop_arg){fx, i};
    }
}

static inline void turn(struct fixture *fx)
{
    for (unsigned i = 0; i < LOOPS; i++)
        loop_turn(fx->loops[i], 2);
}

/* Stops the clients, with their last reports delivered. */
static inline void fixture_stop(struct fixture *fx, uint32_t flush_ms)
{
    kafka_stop(fx->kafka, flush_ms);
    turn(fx);
    kafka_freep(&fx->kafka);
    assert_null(fx->kafka);
}

static inline void fixture_fini(struct fixture *fx)
{
    if (fx->kafka)
        fixture_stop(fx, 1000);
    for (unsigned i = 0; i < LOOPS; i++)
        loop_freep(&fx->loops[i]);
    rd_kafka_mock_cluster_destroy(fx->cluster);
    rd_kafka_destroy(fx->mock);
}

struct options {
    const char *brokers; /* NULL: the mock cluster's */
    bool embedded;
    bool early; /* fixture_start() does not wait for the command topic */
    const struct kafka_property *properties;
    size_t property_count;
    uint32_t message_timeout_ms; /* 0: 5 s */
    const char *reply_topics[3]; /* none: REPLIES */
    const char *command_topic;   /* NULL: COMMANDS */
    const char *own_topic;       /* NULL: none */
    int32_t own_partition;
};

static inline struct kafka *fixture_new(struct fixture *fx, const struct options *options, struct err *err)
{
    struct kafka_property properties[16] = {{"fetch.wait.max.ms", "2"}};
    assert_true(options->property_count < SG_ARRAY_LEN(properties));
    for (size_t i = 0; i < options->property_count; i++)
        properties[i + 1] = options->properties[i];
    char names[4][64] = {REPLIES}; /* overwritten below: the names are borrowed for kafka_new() only */
    size_t count = 0;
    for (; count < 3 && options->reply_topics[count]; count++)
        snprintf(names[count], sizeof(names[count]), "%s", options->reply_topics[count]);
    snprintf(names[3], sizeof(names[3]), "%s", options->command_topic ? options->command_topic : COMMANDS);
    const struct span topics[3] = {span_of(names[0]), span_of(names[1]), span_of(names[2])};
    const struct span command = span_of(names[3]);
    void *args[LOOPS] = {&fx->args[0], &fx->args[1]};
    struct kafka *kafka = kafka_new(
        &(struct kafka_settings){
            .brokers = options->brokers ? options->brokers : rd_kafka_mock_cluster_bootstraps(fx->cluster),
            .embedded = options->embedded,
            .properties = properties,
            .property_count = options->property_count + 1,
            .message_timeout_ms = options->message_timeout_ms ? options->message_timeout_ms : 5000,
            .reply_topics = topics,
            .reply_topic_count = count ? count : 1,
            .command_topics = &command,
            .command_topic_count = 1,
            .own_topic = options->own_topic ? span_of(options->own_topic) : (struct span){NULL, 0},
            .own_partition = options->own_partition,
            .loops = fx->loops,
            .loop_args = args,
            .loop_count = LOOPS,
            .handler = {on_record, fx, on_reply, on_delivery},
        },
        err);
    memset(names, 'x', sizeof(names));
    return kafka;
}

/* Turns the loops until `condition` holds; the test fails when it does not in WAIT_MS. */
#define WAIT_FOR(fx, condition)                                                               \
    do {                                                                                      \
        uint64_t wait_until_ns = clock_mono_ns() + WAIT_MS * SG_NSEC_PER_MSEC;                \
        while (!(condition)) {                                                                \
            if (clock_mono_ns() > wait_until_ns)                                              \
                fail_msg("%s:%d: not in %d ms: %s", __FILE__, __LINE__, WAIT_MS, #condition); \
            turn(fx);                                                                         \
        }                                                                                     \
    } while (0)

/* Returns when commands may be produced. */
static inline void fixture_start(struct fixture *fx, const struct options *options)
{
    struct err err;
    fx->kafka = fixture_new(fx, options, &err);
    if (!fx->kafka)
        fail_msg("%s", err.text);
    assert_int_equal(kafka_start(fx->kafka), ERR_OK);
    if (!options->early)
        WAIT_FOR(fx, kafka_command_topic_is_ready(fx->kafka, 0));
}

static inline void wait_position(struct fixture *fx)
{
    WAIT_FOR(fx, kafka_topic_has_position(fx->kafka, 0));
}

/* A command of handle number n (n % LOOPS is its loop) that has no headers. */
static inline enum err_code send_command_to(struct fixture *fx, uint32_t topic, unsigned n, const char *key)
{
    return kafka_produce(fx->kafka, &(struct kafka_command){.topic = topic,
                                                            .key = span_of(key),
                                                            .value = SPAN_LIT("{}"),
                                                            .handle = handle_of(n % LOOPS, n)});
}

static inline enum err_code send_command(struct fixture *fx, unsigned n, const char *key)
{
    return send_command_to(fx, 0, n, key);
}

static inline void expect_report(struct fixture *fx, unsigned n, enum kafka_delivery delivery,
                                 enum err_code code)
{
    WAIT_FOR(fx, fx->reports[n].count);
    assert_int_equal(fx->reports[n].count, 1);
    assert_int_equal(fx->reports[n].delivery, delivery);
    assert_int_equal(fx->reports[n].code, code);
}

/* ---- the other side: a service ---- */

static inline rd_kafka_t *service_new(const char *bootstrap, rd_kafka_type_t type)
{
    const char *const properties[][2] = {
        {"bootstrap.servers", bootstrap}, {"socket.nagle.disable", "true"}, {"linger.ms", "0"},
        {"group.id", "service"},          {"enable.auto.commit", "false"},  {"fetch.wait.max.ms", "2"},
    };
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (size_t i = 0; i < SG_ARRAY_LEN(properties); i++)
        rd_kafka_conf_set(conf, properties[i][0], properties[i][1], NULL, 0);
    rd_kafka_conf_set_log_cb(conf, NULL);
    rd_kafka_t *rk = rd_kafka_new(type, conf, NULL, 0);
    assert_non_null(rk);
    return rk;
}

/* Writes a record with the header "to" (NULL: no headers); it is in the log when this returns. value NULL: a tombstone. */
static inline void service_write(rd_kafka_t *rk, const char *topic, int32_t partition, const char *to,
                                 int64_t timestamp_ms, const char *value)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(2);
    if (to) {
        rd_kafka_header_add(headers, "to", -1, to, -1);
        rd_kafka_header_add(headers, "event-type", -1, "device.bound", -1);
    }
    const rd_kafka_vu_t vus[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = partition},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)value, value ? strlen(value) : 0}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = timestamp_ms},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    assert_null(rd_kafka_produceva(rk, vus, SG_ARRAY_LEN(vus)));
    assert_int_equal(rd_kafka_flush(rk, WAIT_MS), RD_KAFKA_RESP_ERR_NO_ERROR);
}

/* A reply to handle number n of its loop. */
static inline void service_reply(rd_kafka_t *rk, const char *topic, int32_t partition, unsigned n,
                                 int64_t timestamp_ms, const char *value)
{
    char to[32];
    snprintf(to, sizeof(to), "%u:%u", n % LOOPS, n);
    service_write(rk, topic, partition, to, timestamp_ms, value);
}
