/* SPDX-License-Identifier: Apache-2.0 */
#include <sched.h>

#include "kafka_fixture.h"

static struct fixture fx;

static int set_up(void **state)
{
    (void)state;
    fixture_init(&fx);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_fini(&fx);
    return 0;
}

/* ---- commands ---- */

static rd_kafka_t *command_reader(int32_t partitions)
{
    rd_kafka_t *rk = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_CONSUMER);
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int32_t i = 0; i < partitions; i++)
        rd_kafka_topic_partition_list_add(list, COMMANDS, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
    assert_int_equal(rd_kafka_assign(rk, list), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_destroy(list);
    return rk;
}

static rd_kafka_message_t *next_command(rd_kafka_t *rk)
{
    uint64_t until_ns = clock_mono_ns() + WAIT_MS * SG_NSEC_PER_MSEC;
    while (clock_mono_ns() < until_ns) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, 100);
        if (message && !message->err)
            return message;
        if (message)
            rd_kafka_message_destroy(message);
    }
    fail_msg("no command in %d ms", WAIT_MS);
    return NULL;
}

static void command_reader_free(rd_kafka_t *rk)
{
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
}

static void assert_span(const void *ptr, size_t len, const char *expected)
{
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(ptr, expected, len);
}

static void test_command_arrives_whole(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 1, 1);
    fixture_start(&fx, &(struct options){0});
    const struct kafka_header headers[] = {
        {"correlation-id", SPAN_LIT("abc")}, {"empty", SPAN_LIT("")}, {"binary", {"\0\xff", 2}}};
    assert_int_equal(kafka_produce(fx.kafka, &(struct kafka_command){.key = SPAN_LIT("device-1"),
                                                                     .value = SPAN_LIT("{\"a\":1}"),
                                                                     .headers = headers,
                                                                     .header_count = SG_ARRAY_LEN(headers),
                                                                     .handle = handle_of(1, 7)}),
                     ERR_OK);
    assert_int_equal(send_command(&fx, 8, NULL), ERR_OK);
    expect_report(&fx, 7, KAFKA_DELIVERED, ERR_OK);
    expect_report(&fx, 8, KAFKA_DELIVERED, ERR_OK);
    assert_int_equal(kafka_stats(fx.kafka).delivered, 2);
    assert_int_equal(kafka_stats(fx.kafka).queue_len, 0);

    rd_kafka_t *reader = command_reader(1);
    rd_kafka_message_t *message = next_command(reader);
    rd_kafka_headers_t *received;
    assert_span(message->key, message->key_len, "device-1");
    assert_span(message->payload, message->len, "{\"a\":1}");
    assert_int_equal(rd_kafka_message_headers(message, &received), RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_int_equal(rd_kafka_header_cnt(received), SG_ARRAY_LEN(headers));
    for (size_t i = 0; i < SG_ARRAY_LEN(headers); i++) {
        const char *name;
        const void *value;
        size_t len;
        assert_int_equal(rd_kafka_header_get_all(received, i, &name, &value, &len),
                         RD_KAFKA_RESP_ERR_NO_ERROR);
        assert_string_equal(name, headers[i].name);
        assert_int_equal(len, headers[i].value.len);
        assert_memory_equal(value, headers[i].value.ptr, len);
    }
    rd_kafka_message_destroy(message);
    message = next_command(reader);
    assert_null(message->key);
    rd_kafka_message_destroy(message);
    command_reader_free(reader);
}

static int compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* One report comes, and the reader shuts its ears to the others for 20 ms. False: it opened them again unseen. */
static bool mute(unsigned n)
{
    WAIT_FOR(&fx, !atomic_load(&fx.kafka->reports_muted));
    assert_int_equal(send_command(&fx, n, NULL), ERR_OK);
    while (!fx.reports[n].count) {
        if (atomic_load(&fx.kafka->reports_muted))
            return true;
        loop_turn(fx.loops[n % LOOPS], 0);
    }
    return false;
}

/* Then somebody waits for a report: it does not come with the lazy ones. The median, because machines are noisy. */
static void test_awaited_reports_come_at_once(void **state)
{
    (void)state;
    enum { ROUNDS = 21 };
    uint64_t took_ns[ROUNDS];
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 1, 1);
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    for (unsigned n = 0, round = 0; round < ROUNDS; n += 2) {
        assert_true(n < HANDLES_MAX);
        if (!mute(n))
            continue;
        uint64_t start_ns = clock_mono_ns();
        kafka_await_reports(fx.kafka, true);
        assert_int_equal(send_command(&fx, n + 1, NULL), ERR_OK);
        while (!fx.reports[n + 1].count)
            loop_turn(fx.loops[1], 20);
        took_ns[round++] = clock_mono_ns() - start_ns;
        kafka_await_reports(fx.kafka, false);
        expect_report(&fx, n, KAFKA_DELIVERED, ERR_OK);
        expect_report(&fx, n + 1, KAFKA_DELIVERED, ERR_OK);
    }
    qsort(took_ns, ROUNDS, sizeof(took_ns[0]), compare_ns);
    assert_in_range(took_ns[ROUNDS / 2], 0, 10 * SG_NSEC_PER_MSEC);
    assert_int_equal(atomic_load(&fx.kafka->report_waiters), 0);
}

/* Hashes from the unit test of Kafka's own Utils.murmur2(); kafkajs chooses the same partition. */
static const struct {
    const char *key;
    int32_t hash;
} java_hashes[] = {
    {"21", -973932308},
    {"foobar", -790332482},
    {"a-little-bit-long-string", -985981536},
    {"a-little-bit-longer-string", -1486304829},
    {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
    {"abc", 479470107},
    /* By Utils.murmur2() of kafka-clients 3.9.1. Its BuiltInPartitioner.partitionForKey() and the default partitioner of
     * kafkajs 2.2.4 (not its LegacyPartitioner) agreed on all of them for 1, 2, 3, 4, 7, 12, 100 and 1000 partitions. */
    {"GH-0042", -1970575260},
    {"GH-1795259354279983350", 389749643},
    {"5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5", -2114092278},
    {"теплица", -1218971841},
    {"", 275646681},
    {"a", -1563381124},
};

static void test_partition_is_javas(void **state)
{
    const int32_t partitions = *(const int32_t *)*state;
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, partitions, 1);
    fixture_start(&fx, &(struct options){0});
    for (unsigned i = 0; i < SG_ARRAY_LEN(java_hashes); i++)
        assert_int_equal(send_command(&fx, i + 1, java_hashes[i].key), ERR_OK);
    rd_kafka_t *reader = command_reader(partitions);
    for (unsigned i = 0; i < SG_ARRAY_LEN(java_hashes); i++) {
        rd_kafka_message_t *message = next_command(reader);
        unsigned k = 0;
        while (k < SG_ARRAY_LEN(java_hashes) &&
               (strlen(java_hashes[k].key) != message->key_len ||
                memcmp(java_hashes[k].key, message->key, message->key_len) != 0))
            k++;
        assert_true(k < SG_ARRAY_LEN(java_hashes));
        assert_int_equal(message->partition, (java_hashes[k].hash & 0x7fffffff) % partitions);
        rd_kafka_message_destroy(message);
    }
    command_reader_free(reader);
}

/* ---- replies ---- */

/* Nobody waits for a good report, but it must come: its call's breaker and its body hang on it. Records that are nobody's here
 * keep the reader awake meanwhile, so that it never has a quiet moment. */
static void test_lazy_reports_come_while_strangers_talk(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 1, 1);
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 1, 1);
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    uint64_t start_ns = clock_mono_ns();
    assert_int_equal(send_command(&fx, 1, NULL), ERR_OK);
    while (!fx.reports[1].count && clock_mono_ns() - start_ns < 2 * SG_NSEC_PER_SEC) {
        service_write(service, REPLIES, 0, NULL, 1, "{}");
        turn(&fx);
    }
    assert_int_equal(fx.reports[1].count, 1);
    rd_kafka_destroy(service);
}

/* While the reader works through a backlog of records that are nobody's, reports come, and it can be stopped. */
static void test_reports_pass_a_backlog(void **state)
{
    (void)state;
    enum { BACKLOG = 20000 };
    fx.skip_us = 100;
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 1, 1);
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 1, 1);
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    const rd_kafka_vu_t vus[] = {{.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = REPLIES},
                                 {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = 0},
                                 {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
                                 {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t) "{}", 2}}};
    for (int i = 0; i < BACKLOG; i++)
        assert_null(rd_kafka_produceva(service, vus, SG_ARRAY_LEN(vus)));
    assert_int_equal(rd_kafka_flush(service, WAIT_MS), RD_KAFKA_RESP_ERR_NO_ERROR);
    WAIT_FOR(&fx, atomic_load(&fx.skipped) > 100);
    kafka_await_reports(fx.kafka, true);
    assert_int_equal(send_command(&fx, 1, NULL), ERR_OK);
    expect_report(&fx, 1, KAFKA_DELIVERED, ERR_OK);
    kafka_await_reports(fx.kafka, false);
    assert_in_range(atomic_load(&fx.skipped), 100, BACKLOG - 1);
    fixture_stop(&fx, 100);
    assert_in_range(atomic_load(&fx.skipped), 100, BACKLOG - 1);
    rd_kafka_destroy(service);
}

static void test_replies_reach_their_loop(void **state)
{
    (void)state;
    struct err err;
    fx.kafka = fixture_new(&fx, &(struct options){.embedded = true}, &err);
    assert_non_null(fx.kafka);
    assert_false(kafka_topic_has_position(fx.kafka, 0)); /* nobody may have produced yet */
    assert_int_equal(kafka_start(fx.kafka), ERR_OK);
    assert_non_null(kafka_embedded_bootstrap(fx.kafka));
    rd_kafka_t *service = service_new(kafka_embedded_bootstrap(fx.kafka), RD_KAFKA_PRODUCER);
    wait_position(&fx);
    assert_int_equal(kafka_stats(fx.kafka).partitions, 4);
    for (unsigned n = 1; n <= 8; n++) {
        char value[16];
        snprintf(value, sizeof(value), "value %u", n);
        service_reply(service, REPLIES, (int32_t)(n % 4), n, 1700000000000 + n, value);
    }
    WAIT_FOR(&fx, fx.reply_count == 8);
    for (unsigned i = 0; i < 8; i++) {
        const struct reply *reply = &fx.replies[i];
        unsigned n = (unsigned)strtoul(reply->value + 6, NULL, 10);
        assert_int_equal(reply->loop_number, n % LOOPS);
        assert_int_equal(reply->partition, n % 4);
        assert_int_equal(reply->topic, 0);
        assert_int_equal(reply->timestamp_ms, 1700000000000 + n);
        assert_string_equal(reply->header, "device.bound");
    }
    assert_int_equal(kafka_stats(fx.kafka).records, 8);
    rd_kafka_destroy(service);
}

static void test_strangers_are_skipped(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 2, 1);
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    /* No header, no value; then a loop that does not exist. */
    service_write(service, REPLIES, 0, NULL, 1, NULL);
    service_write(service, REPLIES, 0, "9:5", 1, "x");
    service_reply(service, REPLIES, 0, 3, 1, "mine");
    WAIT_FOR(&fx, fx.reply_count == 1);
    assert_string_equal(fx.replies[0].value, "mine");
    assert_int_equal(atomic_load(&fx.skipped), 1);
    assert_int_equal(atomic_load(&fx.wanted), 2);
    rd_kafka_destroy(service);
}

/* From the moment a topic has a position no reply may be missed, and what was there before is not read. */
static void test_no_reply_is_missed_at_the_start(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 4, 1);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    for (unsigned round = 1; round <= 20; round++) {
        fixture_start(&fx, &(struct options){.early = true});
        assert_false(kafka_topic_has_position(fx.kafka, 0));
        fx.reply_count = 0;
        atomic_store(&fx.wanted, 0);
        while (!kafka_topic_has_position(fx.kafka, 0))
            sched_yield();
        service_reply(service, REPLIES, (int32_t)(round % 4), round, 1, "first");
        WAIT_FOR(&fx, fx.reply_count == 1);
        assert_string_equal(fx.replies[0].value, "first");
        assert_int_equal(fx.replies[0].loop_number, round % LOOPS);
        assert_int_equal(atomic_load(&fx.wanted), 1);
        fixture_stop(&fx, 100);
    }
    rd_kafka_destroy(service);
}

/* Also: a later assignment adds to the first one, and takes nothing from it. */
static void test_late_topic_is_read_from_its_beginning(void **state)
{
    (void)state;
    static const char *const late[] = {"test.late", "test.later"};
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 2, 1);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    for (unsigned topic = 0; topic < 2; topic++) {
        rd_kafka_mock_topic_create(fx.cluster, late[topic], 3, 1);
        for (unsigned n = 1; n <= 3; n++)
            service_reply(service, late[topic], (int32_t)n - 1, n, 1, late[topic]);
        /* The mock makes any topic that is asked for; this hides it. */
        rd_kafka_mock_topic_set_error(fx.cluster, late[topic], RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    }
    /* The topics are looked at in this order: with a position in the last one, the others were found missing. */
    fixture_start(&fx, &(struct options){.reply_topics = {late[0], late[1], REPLIES}});
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, 2));
    for (unsigned topic = 0; topic < 2; topic++) {
        fx.reply_count = 0;
        assert_false(kafka_topic_has_position(fx.kafka, topic));
        rd_kafka_mock_topic_set_error(fx.cluster, late[topic], RD_KAFKA_RESP_ERR_NO_ERROR);
        WAIT_FOR(&fx, fx.reply_count == 3 && kafka_topic_has_position(fx.kafka, topic));
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(fx.replies[i].topic, topic);
            assert_string_equal(fx.replies[i].value, late[topic]);
        }
        service_reply(service, REPLIES, 1, 4, 1, "old topic");
        WAIT_FOR(&fx, fx.reply_count == 4);
        assert_int_equal(fx.replies[3].topic, 2);
    }
    assert_int_equal(kafka_stats(fx.kafka).partitions, 3 + 3 + 2);
    rd_kafka_destroy(service);
}

/* ---- one partition of a topic is ours ---- */

static void start_with_own(int32_t partition)
{
    fixture_start(&fx, &(struct options){.reply_topics = {REPLIES, "test.broadcast"},
                                         .own_topic = REPLIES,
                                         .own_partition = partition});
}

/* Of the others not even a record is read; of other topics all partitions are. */
static void test_only_the_own_partition_is_read(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 4, 1);
    rd_kafka_mock_topic_create(fx.cluster, "test.broadcast", 2, 1);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    service_reply(service, REPLIES, 2, 9, 1, "before the start");
    start_with_own(2);
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, 0) && kafka_topic_has_position(fx.kafka, 1));
    assert_int_equal(kafka_stats(fx.kafka).partitions, 1 + 2);
    for (int32_t partition = 0; partition < 4; partition++)
        service_reply(service, REPLIES, partition, (unsigned)partition + 1, 1, "reply");
    service_reply(service, "test.broadcast", 0, 5, 1, "event");
    service_reply(service, "test.broadcast", 1, 6, 1, "event");
    WAIT_FOR(&fx, fx.reply_count == 3);
    unsigned own = 0;
    for (unsigned i = 0; i < 3; i++) {
        own += fx.replies[i].topic == 0;
        assert_int_equal(fx.replies[i].topic == 0, strcmp(fx.replies[i].value, "reply") == 0);
        assert_true(fx.replies[i].topic == 1 || fx.replies[i].partition == 2);
    }
    assert_int_equal(own, 1);
    assert_int_equal(kafka_stats(fx.kafka).records, 3);
    rd_kafka_destroy(service);
}

/* No position without it: nothing is produced that could not be answered. Once it is there it is read from its beginning. */
static void test_own_partition_that_is_not_there(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 2, 1);
    rd_kafka_mock_topic_create(fx.cluster, "test.broadcast", 2, 1);
    start_with_own(2);
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, 1)); /* looked at after it */
    assert_false(kafka_topic_has_position(fx.kafka, 0));
    assert_int_equal(kafka_stats(fx.kafka).partitions, 2);
    fixture_stop(&fx, 100);
    /* The mock cannot add partitions; an instance whose topic does not exist yet may find fewer, too. */
    rd_kafka_mock_topic_create(fx.cluster, "test.later", 3, 1);
    rd_kafka_mock_topic_set_error(fx.cluster, "test.later", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    fixture_start(&fx, &(struct options){.reply_topics = {"test.later", "test.broadcast"},
                                         .own_topic = "test.later",
                                         .own_partition = 2});
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, 1));
    assert_false(kafka_topic_has_position(fx.kafka, 0));
    rd_kafka_mock_topic_set_error(fx.cluster, "test.later", RD_KAFKA_RESP_ERR_NO_ERROR);
    service_reply(service, "test.later", 1, 1, 1, "another's");
    service_reply(service, "test.later", 2, 2, 1, "ours");
    WAIT_FOR(&fx, fx.reply_count == 1 && kafka_topic_has_position(fx.kafka, 0));
    assert_string_equal(fx.replies[0].value, "ours");
    rd_kafka_destroy(service);
}

static void test_lost_offset_is_reset(void **state)
{
    (void)state;
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 1, 1);
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    service_reply(service, REPLIES, 0, 1, 1, "one");
    WAIT_FOR(&fx, fx.reply_count == 1);
    rd_kafka_mock_push_request_errors(fx.cluster, 1 /* Fetch */, 1, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE);
    WAIT_FOR(&fx, fx.reply_count == 2); /* from the earliest record: "one" again */
    assert_string_equal(fx.replies[1].value, "one");
    service_reply(service, REPLIES, 0, 2, 1, "two");
    WAIT_FOR(&fx, fx.reply_count == 3);
    assert_string_equal(fx.replies[2].value, "two");
    assert_int_equal(kafka_stats(fx.kafka).offset_resets, 1);
    rd_kafka_destroy(service);
}

/* ---- threads ---- */

#define SENDERS       4
#define COMMANDS_EACH 500

static void *sender_main(void *arg)
{
    unsigned first = (unsigned)(uintptr_t)arg;
    for (unsigned n = first; n < first + COMMANDS_EACH; n++)
        while (send_command(&fx, n, "key") == ERR_KAFKA_QUEUE_FULL)
            sched_yield();
    return NULL;
}

static void test_many_threads_one_report_each(void **state)
{
    (void)state;
    pthread_t threads[SENDERS];
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 4, 1);
    const struct kafka_property linger = {"linger.ms", "1"};
    fixture_start(&fx, &(struct options){.properties = &linger, .property_count = 1});
    for (unsigned i = 0; i < SENDERS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, sender_main, (void *)(uintptr_t)(1 + i * COMMANDS_EACH)), 0);
    for (unsigned i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    WAIT_FOR(&fx, fx.report_count >= SENDERS * COMMANDS_EACH);
    for (unsigned n = 1; n <= SENDERS * COMMANDS_EACH; n++)
        expect_report(&fx, n, KAFKA_DELIVERED, ERR_OK);
}

int main(void)
{
    static int32_t three = 3, four = 4;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_command_arrives_whole, set_up, tear_down),
        {"test_partition_is_javas of 3", test_partition_is_javas, set_up, tear_down, &three},
        {"test_partition_is_javas of 4", test_partition_is_javas, set_up, tear_down, &four},
        cmocka_unit_test_setup_teardown(test_awaited_reports_come_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lazy_reports_come_while_strangers_talk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reports_pass_a_backlog, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_replies_reach_their_loop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_strangers_are_skipped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_reply_is_missed_at_the_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_late_topic_is_read_from_its_beginning, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_only_the_own_partition_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_own_partition_that_is_not_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost_offset_is_reset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_threads_one_report_each, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
