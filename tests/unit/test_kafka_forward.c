/* SPDX-License-Identifier: Apache-2.0 */
/* Records that are handed on to another topic: as they are, counted, and never more under way than they may be. */
#include "kafka_fixture.h"

#define DEAD "test.dead"

static struct fixture fx;
static uint32_t dead; /* index of the topic */

static int set_up(void **state)
{
    (void)state;
    fixture_init(&fx);
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 1, 1);
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 1, 1);
    rd_kafka_mock_topic_create(fx.cluster, DEAD, 1, 1);
    return 0;
}

static void start(uint32_t message_timeout_ms, void (*see)(const struct kafka_record *))
{
    const struct span name = SPAN_LIT(DEAD);
    fixture_start(&fx, &(struct options){.message_timeout_ms = message_timeout_ms});
    assert_int_equal(kafka_add_command_topics(fx.kafka, &name, 1, &dead), ERR_OK);
    WAIT_FOR(&fx, kafka_command_topic_is_ready(fx.kafka, dead));
    wait_position(&fx);
    fx.see = see;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_fini(&fx);
    return 0;
}

/* ---- whole ---- */

static const struct kafka_header more[] = {{"why", SPAN_INIT("because")}, {"twice", SPAN_INIT("3")}};

static void forward_it(const struct kafka_record *record)
{
    assert_string_equal(kafka_record_topic(record), REPLIES);
    assert_int_equal(kafka_forward(fx.kafka, dead, record, more, SG_ARRAY_LEN(more)), ERR_OK);
}

static const struct {
    struct span key, value;
    bool more_headers;
} records[] = {
    {SPAN_INIT("device-1"), SPAN_INIT("{\"a\":1}"), true},
    {SPAN_INIT("\0\xff"), SPAN_INIT("\0not JSON\xff"), false},
    {{NULL, 0}, SPAN_INIT("x"), false},
    {SPAN_INIT(""), SPAN_INIT(""), false},
    {SPAN_INIT("gone"), {NULL, 0}, true},
};

static void write_records(rd_kafka_t *rk)
{
    for (size_t i = 0; i < SG_ARRAY_LEN(records); i++) {
        rd_kafka_headers_t *headers = rd_kafka_headers_new(2);
        rd_kafka_header_add(headers, "to", -1, "1:5", -1);
        if (records[i].more_headers) {
            rd_kafka_header_add(headers, "twice", -1, "1", -1);
            rd_kafka_header_add(headers, "twice", -1, "\0\2", 2);
            rd_kafka_header_add(headers, "null", -1, NULL, 0);
        }
        const rd_kafka_vu_t vus[] = {
            {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = REPLIES},
            {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = 0},
            {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
            {.vtype = RD_KAFKA_VTYPE_KEY,
             .u.mem = {(void *)(uintptr_t)records[i].key.ptr, records[i].key.len}},
            {.vtype = RD_KAFKA_VTYPE_VALUE,
             .u.mem = {(void *)(uintptr_t)records[i].value.ptr, records[i].value.len}},
            {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
        };
        assert_null(rd_kafka_produceva(rk, vus, SG_ARRAY_LEN(vus)));
    }
    assert_int_equal(rd_kafka_flush(rk, WAIT_MS), RD_KAFKA_RESP_ERR_NO_ERROR);
}

static void check_bytes(const void *ptr, size_t len, struct span expected)
{
    assert_int_equal(ptr == NULL, expected.ptr == NULL);
    assert_int_equal(len, expected.len);
    if (len)
        assert_memory_equal(ptr, expected.ptr, len);
}

static void check_headers(const rd_kafka_message_t *message, bool more_headers)
{
    static const struct {
        const char *name;
        struct span value;
        bool always;
    } expected[] = {
        {"to", SPAN_INIT("1:5"), true},      {"twice", SPAN_INIT("1"), false},
        {"twice", SPAN_INIT("\0\2"), false}, {"null", {NULL, 0}, false},
        {"why", SPAN_INIT("because"), true}, {"twice", SPAN_INIT("3"), true},
    };
    rd_kafka_headers_t *headers;
    const char *name;
    const void *value;
    size_t len, at = 0;
    assert_int_equal(rd_kafka_message_headers(message, &headers), RD_KAFKA_RESP_ERR_NO_ERROR);
    for (size_t i = 0; i < SG_ARRAY_LEN(expected); i++) {
        if (!expected[i].always && !more_headers)
            continue;
        assert_int_equal(rd_kafka_header_get_all(headers, at++, &name, &value, &len),
                         RD_KAFKA_RESP_ERR_NO_ERROR);
        assert_string_equal(name, expected[i].name);
        check_bytes(value, len, expected[i].value);
    }
    assert_int_equal(rd_kafka_header_cnt(headers), at);
}

static rd_kafka_message_t *next_message(rd_kafka_t *rk)
{
    uint64_t until_ns = clock_mono_ns() + WAIT_MS * SG_NSEC_PER_MSEC;
    while (clock_mono_ns() < until_ns) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, 100);
        if (message && !message->err)
            return message;
        if (message)
            rd_kafka_message_destroy(message);
    }
    fail_msg("no message in %d ms", WAIT_MS);
    return NULL;
}

static void test_whole(void **state)
{
    (void)state;
    start(0, forward_it);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    write_records(service);
    WAIT_FOR(&fx, kafka_stats(fx.kafka).forwarded == SG_ARRAY_LEN(records));
    rd_kafka_destroy(service);

    rd_kafka_t *reader = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_CONSUMER);
    rd_kafka_poll_set_consumer(reader);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, DEAD, 0)->offset = RD_KAFKA_OFFSET_BEGINNING;
    assert_int_equal(rd_kafka_assign(reader, list), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_destroy(list);
    for (size_t i = 0; i < SG_ARRAY_LEN(records); i++) {
        rd_kafka_message_t *message = next_message(reader);
        check_bytes(message->key, message->key_len, records[i].key);
        check_bytes(message->payload, message->len, records[i].value);
        check_headers(message, records[i].more_headers);
        rd_kafka_message_destroy(message);
    }
    rd_kafka_destroy_flags(reader, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    /* Nobody is told, and they are no commands. */
    turn(&fx);
    assert_int_equal(fx.report_count, 0);
    assert_int_equal(kafka_stats(fx.kafka).delivered, 0);
    assert_int_equal(kafka_stats(fx.kafka).forward_failures, 0);
    assert_int_equal(atomic_load(&fx.kafka->forward_bytes), 0);
}

/* ---- bounded ---- */

#define BIG      900000
#define ATTEMPTS 20
static unsigned accepted;

static void forward_often(const struct kafka_record *record)
{
    rd_kafka_mock_broker_set_down(fx.cluster, 1);
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        enum err_code code = kafka_forward(fx.kafka, dead, record, NULL, 0);
        assert_int_equal(code, i < KAFKA_FORWARD_BYTES_MAX / BIG ? ERR_OK : ERR_KAFKA_QUEUE_FULL);
        accepted += code == ERR_OK;
    }
    /* A command still finds room. */
    assert_int_equal(send_command(&fx, 3, NULL), ERR_OK);
}

static void test_bounded(void **state)
{
    (void)state;
    start(500, forward_often);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    char *big = calloc(1, BIG + 1);
    assert_non_null(big);
    memset(big, 'x', BIG);
    service_reply(service, REPLIES, 0, 4, 1, big);
    free(big);
    rd_kafka_destroy(service);
    WAIT_FOR(&fx, accepted && fx.reports[3].count);
    assert_int_equal(accepted, KAFKA_FORWARD_BYTES_MAX / BIG);
    WAIT_FOR(&fx, kafka_stats(fx.kafka).forward_failures == accepted);
    assert_int_equal(atomic_load(&fx.kafka->forward_bytes), 0);
    assert_int_equal(fx.report_count, 1);
    assert_int_equal(kafka_stats(fx.kafka).forwarded, 0);
    assert_int_equal(kafka_stats(fx.kafka).not_persisted + kafka_stats(fx.kafka).uncertain, 1);
    rd_kafka_mock_broker_set_up(fx.cluster, 1);
}

/* A topic that the producer does not know yet. */
static void forward_too_early(const struct kafka_record *record)
{
    uint32_t topic;
    const struct span name = SPAN_LIT("nowhere");
    assert_int_equal(kafka_add_command_topics(fx.kafka, &name, 1, &topic), ERR_OK);
    if (!kafka_command_topic_is_ready(fx.kafka, topic))
        assert_int_equal(kafka_forward(fx.kafka, topic, record, NULL, 0), ERR_KAFKA_TOPIC);
    accepted = ATTEMPTS;
}

static void test_topic_not_ready(void **state)
{
    (void)state;
    accepted = 0;
    start(0, forward_too_early);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    service_reply(service, REPLIES, 0, 4, 1, "x");
    rd_kafka_destroy(service);
    WAIT_FOR(&fx, accepted);
    assert_int_equal(atomic_load(&fx.kafka->forward_bytes), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_topic_not_ready, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
