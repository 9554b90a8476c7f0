/* SPDX-License-Identifier: Apache-2.0 */
#include <sched.h>

#include "kafka_fixture.h"

#define API_PRODUCE 0
#define API_FETCH   1

static struct fixture fx;

static const struct kafka_property idempotence = {"enable.idempotence", "true"};

static int set_up(void **state)
{
    (void)state;
    fixture_init(&fx);
    rd_kafka_mock_topic_create(fx.cluster, COMMANDS, 1, 1);
    rd_kafka_mock_topic_create(fx.cluster, REPLIES, 2, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_fini(&fx);
    return 0;
}

static void start_with(const struct kafka_property *properties, size_t count, uint32_t message_timeout_ms)
{
    fixture_start(&fx, &(struct options){.properties = properties,
                                         .property_count = count,
                                         .message_timeout_ms = message_timeout_ms});
}

/* Its metadata is known and a connection is open: what follows meets a producer at work. */
static void deliver_one(unsigned n)
{
    assert_int_equal(send_command(&fx, n, "key"), ERR_OK);
    expect_report(&fx, n, KAFKA_DELIVERED, ERR_OK);
}

/* ---- delivery reports ---- */

struct answer {
    rd_kafka_resp_err_t answer;
    enum kafka_delivery delivery;
    enum err_code code;
};

static const struct answer plain_answers[] = {
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED},
    {RD_KAFKA_RESP_ERR_INVALID_MSG, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED},
    {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, KAFKA_NOT_PERSISTED, ERR_KAFKA_TOO_LARGE},
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN},
    {RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN},
    {RD_KAFKA_RESP_ERR_UNKNOWN, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN},
    {RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN},
    {RD_KAFKA_RESP_ERR__TRANSPORT, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN}, /* the connection ends */
    /* librdkafka takes it for not written, and sends again even with retries=0. */
    {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, KAFKA_DELIVERED, ERR_OK},
    /* The last one: the topic is refused from then on. */
    {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, KAFKA_NOT_PERSISTED, ERR_KAFKA_TOPIC},
};

/* Sent again until its time is over: each is said once, then the broker takes it. */
static const struct answer idempotent_answers[] = {
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, KAFKA_DELIVERED, ERR_OK},
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, KAFKA_DELIVERED, ERR_OK},
    {RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, KAFKA_DELIVERED, ERR_OK},
    {RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, KAFKA_DELIVERED, ERR_OK},
    {RD_KAFKA_RESP_ERR__TRANSPORT, KAFKA_DELIVERED, ERR_OK},
    {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, KAFKA_DELIVERED, ERR_OK},
    {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, KAFKA_NOT_PERSISTED, ERR_KAFKA_TOO_LARGE},
    {RD_KAFKA_RESP_ERR_UNKNOWN, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN},
    {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, KAFKA_NOT_PERSISTED, ERR_KAFKA_TOPIC},
};

/* How often each kind of report is expected, the calls between the faults included. */
static void expect_answers(const struct answer *answers, size_t count)
{
    uint64_t expected[3] = {[KAFKA_DELIVERED] = count};
    unsigned n = 1;
    for (size_t i = 0; i < count; i++) {
        deliver_one(n++);
        rd_kafka_mock_push_request_errors(fx.cluster, API_PRODUCE, 1, answers[i].answer);
        assert_int_equal(send_command(&fx, n, "key"), ERR_OK);
        WAIT_FOR(&fx, fx.reports[n].count);
        if (fx.reports[n].delivery != answers[i].delivery || fx.reports[n].code != answers[i].code)
            fail_msg("%s: delivery %d, code %s", rd_kafka_err2name(answers[i].answer), fx.reports[n].delivery,
                     err_info(fx.reports[n].code)->name);
        expected[answers[i].delivery]++;
        n++;
    }
    struct kafka_stats stats = kafka_stats(fx.kafka);
    assert_int_equal(stats.delivered, expected[KAFKA_DELIVERED]);
    assert_int_equal(stats.not_persisted, expected[KAFKA_NOT_PERSISTED]);
    assert_int_equal(stats.uncertain, expected[KAFKA_UNCERTAIN]);
}

static void test_broker_answers(void **state)
{
    (void)state;
    start_with(NULL, 0, 0);
    expect_answers(plain_answers, SG_ARRAY_LEN(plain_answers));
}

static void test_broker_answers_with_idempotence(void **state)
{
    (void)state;
    start_with(&idempotence, 1, 0);
    expect_answers(idempotent_answers, SG_ARRAY_LEN(idempotent_answers));
}

static void test_never_sent_is_certain(void **state)
{
    (void)state;
    start_with(NULL, 0, 1000);
    deliver_one(1);
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    expect_report(&fx, 2, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
}

/* The leader may have appended it. What comes after the refusal is judged by itself again. */
static void refused_until_it_timed_out(const struct kafka_property *properties, size_t count)
{
    start_with(properties, count, 1000);
    deliver_one(1);
    for (unsigned i = 0; i < 100; i++)
        rd_kafka_mock_push_request_errors(fx.cluster, API_PRODUCE, 1,
                                          RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION);
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    expect_report(&fx, 2, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN);
    rd_kafka_mock_clear_request_errors(fx.cluster, API_PRODUCE);
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    assert_int_equal(send_command(&fx, 3, "key"), ERR_OK);
    expect_report(&fx, 3, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
}

static void test_refused_is_uncertain(void **state)
{
    (void)state;
    refused_until_it_timed_out(NULL, 0);
}

/* What the operator wants to see of librdkafka does not hide the refusal from us. */
static void test_refused_is_uncertain_with_debug(void **state)
{
    (void)state;
    refused_until_it_timed_out(&(struct kafka_property){.name = "debug", .value = "msg"}, 1);
}

static void test_refused_is_uncertain_with_idempotence(void **state)
{
    (void)state;
    refused_until_it_timed_out(&idempotence, 1);
}

/* Who asked before all brokers were down, and hears the answer after that, has learned nothing. */
static void test_a_late_answer_hides_no_outage(void **state)
{
    (void)state;
    start_with(NULL, 0, 1000);
    deliver_one(1);
    uint64_t asked = atomic_load(&fx.kafka->reach);
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    kafka_answered(fx.kafka, asked);
    assert_false(kafka_is_reachable(fx.kafka));
    rd_kafka_mock_broker_set_up(fx.cluster, -1);
    WAIT_FOR(&fx, kafka_is_reachable(fx.kafka));
}

static void test_unanswered_is_uncertain(void **state)
{
    (void)state;
    start_with(NULL, 0, 1000);
    deliver_one(1);
    rd_kafka_mock_broker_push_request_error_rtts(fx.cluster, 1, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_NO_ERROR,
                                                 20000);
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    expect_report(&fx, 2, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN);
}

static void test_broker_dies_before_it_answers(void **state)
{
    (void)state;
    start_with(NULL, 0, 0);
    deliver_one(1);
    rd_kafka_mock_broker_push_request_error_rtts(fx.cluster, 1, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_NO_ERROR,
                                                 20000);
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    size_t left = 1; /* taken from the stack when the request has been received */
    WAIT_FOR(&fx, rd_kafka_mock_broker_error_stack_cnt(fx.cluster, 1, API_PRODUCE, &left) == 0 && left == 0);
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    expect_report(&fx, 2, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN);
}

static void test_refused_at_once(void **state)
{
    (void)state;
    const struct kafka_property properties[] = {{"message.max.bytes", "1000"},
                                                {"queue.buffering.max.messages", "2"}};
    start_with(properties, SG_ARRAY_LEN(properties), 1000);
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    char *large = calloc(1, 2000);
    assert_non_null(large);
    assert_int_equal(
        kafka_produce(fx.kafka, &(struct kafka_command){.value = {large, 2000}, .handle = handle_of(0, 1)}),
        ERR_KAFKA_TOO_LARGE);
    free(large);
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    assert_int_equal(send_command(&fx, 3, "key"), ERR_OK);
    assert_int_equal(send_command(&fx, 4, "key"), ERR_KAFKA_QUEUE_FULL);
    assert_true(kafka_stats(fx.kafka).queue_len >= 2); /* librdkafka counts what it wants to tell us, too */
    expect_report(&fx, 2, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
    expect_report(&fx, 3, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
    rd_kafka_mock_broker_set_up(fx.cluster, -1);
    WAIT_FOR(&fx, send_command(&fx, 5, "key") == ERR_OK); /* there is room again */
    fixture_stop(&fx, 5000);
    assert_int_equal(fx.reports[1].count + fx.reports[4].count, 0); /* nothing follows a refusal */
}

/* ---- brokers that go and come ---- */

static void test_brokers_go_and_come(void **state)
{
    (void)state;
    start_with(NULL, 0, 0);
    wait_position(&fx);
    deliver_one(1);
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    for (unsigned round = 0; round < 2; round++) {
        rd_kafka_mock_broker_set_down(fx.cluster, -1);
        WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
        assert_true(kafka_topic_has_position(fx.kafka, 0));
        rd_kafka_mock_broker_set_up(fx.cluster, -1);
        WAIT_FOR(&fx, kafka_is_reachable(fx.kafka));
        deliver_one(10 + round);
        service_reply(service, REPLIES, (int32_t)round, 20 + round, 1, "after");
        WAIT_FOR(&fx, fx.reply_count == round + 1);
    }
    assert_int_equal(kafka_stats(fx.kafka).offset_resets, 0);
    rd_kafka_destroy(service);
}

/* The first position is found although no broker was there at first, and is kept when the broker goes just then. */
static void test_position_outlives_the_broker(void **state)
{
    (void)state;
    rd_kafka_t *service = service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
    service_reply(service, REPLIES, 0, 1, 1, "before");
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    fixture_start(&fx, &(struct options){.early = true});
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    assert_false(kafka_topic_has_position(fx.kafka, 0));
    rd_kafka_mock_broker_set_up(fx.cluster, -1);
    while (!kafka_topic_has_position(fx.kafka, 0))
        sched_yield();
    rd_kafka_mock_broker_set_down(fx.cluster, -1); /* the first Fetch may not even have been sent */
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    rd_kafka_mock_broker_set_up(fx.cluster, -1);
    service_reply(service, REPLIES, 0, 2, 1, "after");
    WAIT_FOR(&fx, fx.reply_count == 1);
    assert_string_equal(fx.replies[0].value, "after");
    rd_kafka_destroy(service);
}

static void test_stop_without_a_broker(void **state)
{
    (void)state;
    start_with(NULL, 0, 0);
    rd_kafka_mock_broker_set_down(fx.cluster, -1);
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    assert_int_equal(send_command(&fx, 1, "key"), ERR_OK);
    uint64_t start_ns = clock_mono_ns();
    fixture_stop(&fx, 500);
    assert_true(clock_mono_ns() - start_ns < 5 * SG_NSEC_PER_SEC);
    expect_report(&fx, 1, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
}

static void test_stop_reports_all(void **state)
{
    (void)state;
    start_with(NULL, 0, 0);
    deliver_one(1);
    rd_kafka_mock_broker_push_request_error_rtts(fx.cluster, 1, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_NO_ERROR,
                                                 20000);
    for (unsigned n = 2; n <= 1000; n++)
        assert_int_equal(send_command(&fx, n, "key"), ERR_OK);
    fixture_stop(&fx, 50);
    for (unsigned n = 2; n <= 1000; n++)
        assert_int_equal(fx.reports[n].count, 1);
    assert_int_equal(fx.report_count, 1000);
    assert_int_equal(fx.reports[2].delivery, KAFKA_UNCERTAIN); /* the one on its way, at least */
}

static void test_never_started(void **state)
{
    (void)state;
    struct err err;
    fx.kafka = fixture_new(&fx, &(struct options){0}, &err);
    assert_non_null(fx.kafka);
    kafka_freep(&fx.kafka);
    kafka_freep(&fx.kafka);
}

/* ---- properties ---- */

static void test_bad_property_is_named(void **state)
{
    (void)state;
    static const struct kafka_property bad[] = {
        {"no.such.property", "1"}, {"message.max.bytes", "many"}, {"security.protocol", "carrier-pigeon"}};
    for (size_t i = 0; i < SG_ARRAY_LEN(bad); i++) {
        struct err err;
        assert_null(fixture_new(&fx, &(struct options){.properties = &bad[i], .property_count = 1}, &err));
        assert_int_equal(err.code, ERR_CONFIG);
        assert_non_null(strstr(err.text, bad[i].name));
    }
}

/* What librdkafka refuses only when the client is made. */
static void test_bad_combination_is_told(void **state)
{
    (void)state;
    static const struct kafka_property bad[] = {{"enable.idempotence", "true"}, {"max.in.flight", "6"}};
    struct err err;
    assert_null(fixture_new(&fx, &(struct options){.properties = bad, .property_count = 2}, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.text, "max.in.flight"));
}

static void expect_conf(rd_kafka_t *rk, const char *name, const char *value)
{
    char text[64];
    size_t size = sizeof(text);
    assert_int_equal(rd_kafka_conf_get(rd_kafka_conf(rk), name, text, &size), RD_KAFKA_CONF_OK);
    assert_string_equal(text, value);
}

static void test_defaults_are_safe(void **state)
{
    (void)state;
    start_with(NULL, 0, 0);
    expect_conf(kafka_producer_handle(fx.kafka), "enable.idempotence", "false");
    expect_conf(kafka_producer_handle(fx.kafka), "retries", "0");
    expect_conf(fx.kafka->consumer, "socket.timeout.ms", "10000");
    fixture_stop(&fx, 0);
    start_with(&idempotence, 1, 0);
    expect_conf(kafka_producer_handle(fx.kafka), "enable.idempotence", "true");
    expect_conf(kafka_producer_handle(fx.kafka), "retries", "2147483647");
    expect_conf(kafka_producer_handle(fx.kafka), "max.in.flight", "2");
    deliver_one(1);
}

/* ---- a producer that failed for good ---- */

static void fail_producer(void)
{
    assert_int_equal(rd_kafka_test_fatal_error(kafka_producer_handle(fx.kafka),
                                               RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "a gap"),
                     RD_KAFKA_RESP_ERR_NO_ERROR);
}

static void test_fatal_error_replaces_the_producer(void **state)
{
    (void)state;
    start_with(&idempotence, 1, 0);
    unsigned n = 1;
    for (unsigned round = 1; round <= 3; round++) {
        deliver_one(n++);
        fail_producer();
        assert_int_equal(send_command(&fx, n, "key"), ERR_KAFKA_UNAVAILABLE);
        unsigned refused = n++;
        WAIT_FOR(&fx, send_command(&fx, n, "key") == ERR_OK);
        expect_report(&fx, n++, KAFKA_DELIVERED, ERR_OK);
        assert_int_equal(fx.reports[refused].count, 0);
        assert_int_equal(kafka_stats(fx.kafka).fatal_errors, round);
    }
    assert_true(kafka_is_reachable(fx.kafka));
}

/* One command on its way, others behind it: the first is uncertain, the others are certainly not in Kafka. */
static void test_fatal_error_reports_what_is_left(void **state)
{
    (void)state;
    const struct kafka_property properties[] = {{"enable.idempotence", "true"}, {"max.in.flight", "1"}};
    start_with(properties, SG_ARRAY_LEN(properties), 60000);
    deliver_one(1);
    rd_kafka_mock_broker_push_request_error_rtts(fx.cluster, 1, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_NO_ERROR,
                                                 60000);
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    size_t left = 1;
    WAIT_FOR(&fx, rd_kafka_mock_broker_error_stack_cnt(fx.cluster, 1, API_PRODUCE, &left) == 0 && left == 0);
    assert_int_equal(send_command(&fx, 3, "key"), ERR_OK);
    assert_int_equal(send_command(&fx, 4, "key"), ERR_OK);
    fail_producer();
    expect_report(&fx, 2, KAFKA_UNCERTAIN, ERR_KAFKA_UNCERTAIN);
    expect_report(&fx, 3, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
    expect_report(&fx, 4, KAFKA_NOT_PERSISTED, ERR_KAFKA_NOT_PERSISTED);
    WAIT_FOR(&fx, send_command(&fx, 5, "key") == ERR_OK);
    expect_report(&fx, 5, KAFKA_DELIVERED, ERR_OK);
}

#define SENDERS 3
static atomic_uint accepted[HANDLES_MAX];
static atomic_bool senders_stop;

static void *sender_main(void *arg)
{
    unsigned first = (unsigned)(uintptr_t)arg;
    for (unsigned n = first; n < first + 2000 && !atomic_load(&senders_stop); n++) {
        if (send_command(&fx, n, "key") == ERR_OK)
            atomic_store(&accepted[n], 1);
        else
            sched_yield();
    }
    return NULL;
}

static unsigned accepted_count(void)
{
    unsigned count = 0;
    for (unsigned n = 0; n < HANDLES_MAX; n++)
        count += atomic_load(&accepted[n]);
    return count;
}

static void test_fatal_errors_among_many_senders(void **state)
{
    (void)state;
    pthread_t threads[SENDERS];
    const struct kafka_property properties[] = {{"enable.idempotence", "true"}, {"linger.ms", "1"}};
    start_with(properties, SG_ARRAY_LEN(properties), 0);
    deliver_one(1);
    atomic_store(&accepted[1], 1);
    for (unsigned i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sender_main, (void *)(uintptr_t)(2 + i * 2000)),
                         0);
    for (unsigned round = 1; round <= 3; round++) {
        fail_producer();
        WAIT_FOR(&fx, kafka_stats(fx.kafka).fatal_errors == round &&
                          rd_kafka_fatal_error(kafka_producer_handle(fx.kafka), NULL, 0) == 0);
    }
    atomic_store(&senders_stop, true);
    for (unsigned i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    deliver_one(HANDLES_MAX - 1);
    atomic_store(&accepted[HANDLES_MAX - 1], 1);
    fixture_stop(&fx, 5000); /* maybe with one retired producer */
    for (unsigned n = 0; n < HANDLES_MAX; n++)
        assert_int_equal(fx.reports[n].count, atomic_load(&accepted[n]));
    assert_int_equal(fx.report_count, accepted_count());
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_broker_answers),
        TEST(test_broker_answers_with_idempotence),
        TEST(test_never_sent_is_certain),
        TEST(test_a_late_answer_hides_no_outage),
        TEST(test_refused_is_uncertain),
        TEST(test_refused_is_uncertain_with_debug),
        TEST(test_refused_is_uncertain_with_idempotence),
        TEST(test_unanswered_is_uncertain),
        TEST(test_broker_dies_before_it_answers),
        TEST(test_refused_at_once),
        TEST(test_brokers_go_and_come),
        TEST(test_position_outlives_the_broker),
        TEST(test_stop_without_a_broker),
        TEST(test_stop_reports_all),
        TEST(test_never_started),
        TEST(test_bad_property_is_named),
        TEST(test_bad_combination_is_told),
        TEST(test_defaults_are_safe),
        TEST(test_fatal_error_replaces_the_producer),
        TEST(test_fatal_error_reports_what_is_left),
        TEST(test_fatal_errors_among_many_senders),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
