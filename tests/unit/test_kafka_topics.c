/* SPDX-License-Identifier: Apache-2.0 */
/* Topics that are added while the clients run. */
#include <sched.h>

#include "kafka_fixture.h"

#define ADDED "test.added"
/* With nothing to do the watcher sleeps for 5 s: what is ready before was prepared because it was woken. */
#define WOKEN_MS 2500

static struct fixture fx;

/* For the test that asks for more memory than there is. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

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

typedef enum err_code add_fn(struct kafka *kafka, const struct span *names, size_t count,
                             uint32_t *ret_index);

static uint32_t add(add_fn *fn, const char *name)
{
    uint32_t index = UINT32_MAX;
    char copy[64];
    snprintf(copy, sizeof(copy), "%s", name);
    assert_int_equal(fn(fx.kafka, &(struct span){copy, strlen(copy)}, 1, &index), ERR_OK);
    memset(copy, 'x', sizeof(copy)); /* it was borrowed for the call */
    return index;
}

static uint32_t add_reply(const char *name)
{
    return add(kafka_add_reply_topics, name);
}

static uint32_t add_command(const char *name)
{
    return add(kafka_add_command_topics, name);
}

static rd_kafka_t *new_service(void)
{
    return service_new(rd_kafka_mock_cluster_bootstraps(fx.cluster), RD_KAFKA_PRODUCER);
}

/* The first record to a topic that its producer does not know waits for a second. */
static void introduce(rd_kafka_t *service, const char *topic)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *handle = rd_kafka_topic_new(service, topic, NULL);
    assert_non_null(handle);
    assert_int_equal(rd_kafka_metadata(service, 0, handle, &metadata, WAIT_MS), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_metadata_destroy(metadata);
    rd_kafka_topic_destroy(handle);
}

/* The mock makes any topic that is asked for; this hides it. */
static void hide(const char *topic)
{
    rd_kafka_mock_topic_create(fx.cluster, topic, 2, 1);
    rd_kafka_mock_topic_set_error(fx.cluster, topic, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
}

static void show(const char *topic)
{
    rd_kafka_mock_topic_set_error(fx.cluster, topic, RD_KAFKA_RESP_ERR_NO_ERROR);
}

/* ---- names and indexes ---- */

static const struct kind {
    add_fn *add;
    const char *first; /* given to kafka_new() */
} kinds[] = {{kafka_add_reply_topics, REPLIES}, {kafka_add_command_topics, COMMANDS}};

static void make_without_start(void)
{
    struct err err;
    fx.kafka = fixture_new(&fx, &(struct options){0}, &err);
    assert_non_null(fx.kafka);
}

static void test_known_names_keep_their_index(void **state)
{
    const struct kind *kind = *state;
    const struct span some[] = {SPAN_LIT("a"), span_of(kind->first), SPAN_LIT("b"), SPAN_LIT("a")};
    const struct span others[] = {{"bc", 1}, SPAN_LIT("bc"), SPAN_LIT("a"), SPAN_LIT("A")};
    const uint32_t expected[2][4] = {{1, 0, 2, 1}, {2, 3, 1, 4}};
    uint32_t index[4];
    make_without_start();
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(kind->add(fx.kafka, some, 4, index), ERR_OK);
        assert_memory_equal(index, expected[0], sizeof(index));
        assert_int_equal(kind->add(fx.kafka, others, 4, index), ERR_OK);
        assert_memory_equal(index, expected[1], sizeof(index));
        assert_int_equal(kind->add(fx.kafka, NULL, 0, NULL), ERR_OK);
    }
    assert_int_equal(add(kind->add, kind->first), 0);
}

static void test_too_many(void **state)
{
    const struct kind *kind = *state;
    static char text[KAFKA_TOPICS_MAX][16];
    static struct span names[KAFKA_TOPICS_MAX];
    static uint32_t index[KAFKA_TOPICS_MAX];
    for (unsigned i = 0; i < KAFKA_TOPICS_MAX; i++) {
        snprintf(text[i], sizeof(text[i]), "topic.%u", i);
        names[i] = span_of(text[i]);
    }
    make_without_start(); /* with one topic of each kind */
    assert_int_equal(kind->add(fx.kafka, names, KAFKA_TOPICS_MAX, index), ERR_OVERLOADED);
    assert_int_equal(add(kind->add, "after a refusal"), 1); /* nothing had changed */
    assert_int_equal(kind->add(fx.kafka, names, KAFKA_TOPICS_MAX - 2, index), ERR_OK);
    for (unsigned i = 0; i < KAFKA_TOPICS_MAX - 2; i++)
        assert_int_equal(index[i], 2 + i);
    assert_int_equal(kind->add(fx.kafka, &names[KAFKA_TOPICS_MAX - 1], 1, index), ERR_OVERLOADED);
    assert_int_equal(kind->add(fx.kafka, names, KAFKA_TOPICS_MAX - 2, index), ERR_OK); /* all known */
    assert_int_equal(index[KAFKA_TOPICS_MAX - 3], KAFKA_TOPICS_MAX - 1);
}

static void test_no_memory_changes_nothing(void **state)
{
    const struct kind *kind = *state;
    const struct span names[] = {SPAN_LIT("small"), {"huge", SIZE_MAX / 4}};
    uint32_t index[2];
    make_without_start();
    assert_int_equal(kind->add(fx.kafka, names, 2, index), ERR_NO_MEMORY);
    assert_int_equal(add(kind->add, "other"), 1);
    assert_int_equal(add(kind->add, "small"), 2);
}

static void test_too_many_at_the_start(void **state)
{
    (void)state;
    struct err err;
    const struct span *names = calloc(KAFKA_TOPICS_MAX + 1, sizeof(*names));
    void *args[LOOPS] = {0};
    assert_non_null(names);
    assert_null(kafka_new(&(struct kafka_settings){.brokers = "127.0.0.1:1",
                                                   .message_timeout_ms = 1000,
                                                   .reply_topics = names,
                                                   .reply_topic_count = KAFKA_TOPICS_MAX + 1,
                                                   .loops = fx.loops,
                                                   .loop_args = args,
                                                   .loop_count = LOOPS},
                          &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.text, "1024"));
    free((void *)(uintptr_t)names);
}

/* ---- reply topics ---- */

/* Its history is not delivered, the next reply is, and to its loop. */
static void test_added_topic_is_read_from_its_end(void **state)
{
    (void)state;
    rd_kafka_t *service = new_service();
    rd_kafka_mock_topic_create(fx.cluster, ADDED, 3, 1);
    for (int32_t partition = 0; partition < 3; partition++)
        service_reply(service, ADDED, partition, 1, 1, "history");
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    uint64_t start_ns = clock_mono_ns();
    uint32_t topic = add_reply(ADDED);
    assert_int_equal(topic, 1);
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, topic));
    assert_true(clock_mono_ns() - start_ns < WOKEN_MS * SG_NSEC_PER_MSEC);
    for (unsigned n = 0; n < 6; n++) {
        service_reply(service, ADDED, (int32_t)n % 3, 10 + n, 1, "new");
        service_reply(service, REPLIES, (int32_t)n % 2, 20 + n, 1, "old topic");
    }
    WAIT_FOR(&fx, fx.reply_count == 12);
    unsigned of_added = 0;
    for (unsigned i = 0; i < 12; i++) {
        of_added += fx.replies[i].topic == topic;
        assert_string_equal(fx.replies[i].value, fx.replies[i].topic == topic ? "new" : "old topic");
    }
    assert_int_equal(of_added, 6);
    assert_int_equal(atomic_load(&fx.wanted), 12);
    assert_int_equal(kafka_stats(fx.kafka).partitions, 2 + 3);
    rd_kafka_destroy(service);
}

static void test_added_topic_that_appears_later(void **state)
{
    (void)state;
    rd_kafka_t *service = new_service();
    rd_kafka_mock_topic_create(fx.cluster, ADDED, 2, 1);
    service_reply(service, ADDED, 0, 1, 1, "first");
    hide(ADDED);
    fixture_start(&fx, &(struct options){0});
    wait_position(&fx);
    uint32_t topic = add_reply(ADDED), other = add_reply("test.other");
    /* The topics are looked at in the order of their indexes. */
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, other));
    assert_false(kafka_topic_has_position(fx.kafka, topic));
    show(ADDED);
    WAIT_FOR(&fx, fx.reply_count == 1 && kafka_topic_has_position(fx.kafka, topic));
    assert_string_equal(fx.replies[0].value, "first");
    assert_int_equal(fx.replies[0].topic, topic);
    rd_kafka_destroy(service);
}

static void test_added_to_the_embedded_broker(void **state)
{
    (void)state;
    fixture_start(&fx, &(struct options){.embedded = true});
    rd_kafka_t *service = service_new(kafka_embedded_bootstrap(fx.kafka), RD_KAFKA_PRODUCER);
    uint32_t reply = add_reply(ADDED), command = add_command(ADDED);
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, reply) &&
                      kafka_command_topic_is_ready(fx.kafka, command) &&
                      kafka_topic_has_position(fx.kafka, 0));
    assert_int_equal(kafka_stats(fx.kafka).partitions, 4 + 4);
    assert_int_equal(send_command_to(&fx, command, 1, "key"), ERR_OK);
    expect_report(&fx, 1, KAFKA_DELIVERED, ERR_OK);
    service_reply(service, ADDED, 3, 2, 1, "reply");
    WAIT_FOR(&fx, fx.reply_count == 1);
    assert_int_equal(fx.replies[0].topic, reply);
    WAIT_FOR(&fx, atomic_load(&fx.skipped) == 1); /* the command */
    rd_kafka_destroy(service);
}

/* ---- command topics ---- */

static void expect_missing(uint32_t topic, unsigned n)
{
    assert_false(kafka_command_topic_is_ready(fx.kafka, topic));
    assert_int_equal(send_command_to(&fx, topic, n, "key"), ERR_KAFKA_TOPIC);
}

static void test_added_command_topic(void **state)
{
    (void)state;
    hide("test.late");
    fixture_start(&fx, &(struct options){0});
    assert_true(kafka_command_topic_is_ready(fx.kafka, 0));
    wait_position(&fx);
    uint64_t start_ns = clock_mono_ns();
    uint32_t late = add_command("test.late"), topic = add_command(ADDED);
    expect_missing(late, 1);
    WAIT_FOR(&fx, kafka_command_topic_is_ready(fx.kafka, topic));
    assert_true(clock_mono_ns() - start_ns < WOKEN_MS * SG_NSEC_PER_MSEC);
    expect_missing(late, 2); /* it was looked at before the other one */
    /* What is produced to it lies in it: it is read as a reply topic. */
    WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, add_reply(ADDED)));
    assert_int_equal(send_command_to(&fx, topic, 3, "key"), ERR_OK);
    expect_report(&fx, 3, KAFKA_DELIVERED, ERR_OK);
    WAIT_FOR(&fx, atomic_load(&fx.skipped) == 1);
    show("test.late");
    WAIT_FOR(&fx, kafka_command_topic_is_ready(fx.kafka, late));
    assert_int_equal(send_command_to(&fx, late, 4, "key"), ERR_OK);
    expect_report(&fx, 4, KAFKA_DELIVERED, ERR_OK);
    fixture_stop(&fx, 1000);
    assert_int_equal(fx.report_count, 2); /* nothing follows a refusal */
}

/* Nothing is handed to a producer that would only keep it until its time is over. */
static void test_no_topic_is_ready_without_a_broker(void **state)
{
    (void)state;
    fixture_start(&fx,
                  &(struct options){.brokers = "127.0.0.1:1", .message_timeout_ms = 1000, .early = true});
    WAIT_FOR(&fx, !kafka_is_reachable(fx.kafka));
    expect_missing(0, 1);
    expect_missing(add_command(ADDED), 2);
}

static void test_first_topic_is_missing(void **state)
{
    (void)state;
    hide(COMMANDS);
    fixture_start(&fx, &(struct options){.early = true});
    wait_position(&fx);
    expect_missing(0, 1);
    assert_true(kafka_is_reachable(fx.kafka));
    show(COMMANDS);
    WAIT_FOR(&fx, kafka_command_topic_is_ready(fx.kafka, 0));
    assert_int_equal(send_command(&fx, 2, "key"), ERR_OK);
    expect_report(&fx, 2, KAFKA_DELIVERED, ERR_OK);
}

static void fail_producer(void)
{
    assert_int_equal(rd_kafka_test_fatal_error(kafka_producer_handle(fx.kafka),
                                               RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "a gap"),
                     RD_KAFKA_RESP_ERR_NO_ERROR);
}

static void deliver_to(uint32_t topic, unsigned n)
{
    WAIT_FOR(&fx, send_command_to(&fx, topic, n, "key") == ERR_OK);
    expect_report(&fx, n, KAFKA_DELIVERED, ERR_OK);
}

/* Topics added before a producer failed, while it had failed, and after it was replaced. */
static void test_added_topics_outlive_the_producer(void **state)
{
    (void)state;
    const struct kafka_property idempotence = {"enable.idempotence", "true"};
    hide("test.late");
    fixture_start(&fx, &(struct options){.properties = &idempotence, .property_count = 1});
    uint32_t late = add_command("test.late"), topics[7] = {add_command(ADDED)};
    size_t topic_count = 1;
    unsigned n = 1;
    WAIT_FOR(&fx, kafka_command_topic_is_ready(fx.kafka, topics[0]));
    deliver_to(topics[0], n++);
    for (unsigned round = 1; round <= 3; round++) {
        char name[32];
        fail_producer();
        snprintf(name, sizeof(name), "test.failed.%u", round);
        topics[topic_count++] = add_command(name);
        assert_true(kafka_command_topic_is_ready(fx.kafka, topics[0])); /* it is refused all the same */
        WAIT_FOR(&fx, send_command(&fx, n, "key") == ERR_OK);
        expect_report(&fx, n++, KAFKA_DELIVERED, ERR_OK);
        snprintf(name, sizeof(name), "test.replaced.%u", round);
        topics[topic_count++] = add_command(name);
        for (size_t i = 0; i < topic_count; i++)
            deliver_to(topics[i], n++);
        expect_missing(late, n++);
        assert_int_equal(kafka_stats(fx.kafka).fatal_errors, round);
    }
    show("test.late");
    deliver_to(late, n++);
}

/* ---- everything at once ---- */

#define SENDERS     2    /* threads */
#define EACH        4000 /* commands of each, at most */
#define ROUNDS      30
#define REPLIES_MIN 300

static struct {
    atomic_uint commands[ROUNDS + 1]; /* indexes of the command topics */
    atomic_uint command_count;
    atomic_uint accepted[HANDLES_MAX], accepted_count, wrong;
    atomic_uint written; /* records of nobody */
    atomic_bool stop;
} traffic;

static void *sender_main(void *arg)
{
    unsigned first = (unsigned)(uintptr_t)arg;
    for (unsigned n = first; n < first + EACH && !atomic_load(&traffic.stop); n++) {
        uint32_t topic = atomic_load(&traffic.commands[n % atomic_load(&traffic.command_count)]);
        bool ready = kafka_command_topic_is_ready(fx.kafka, topic);
        enum err_code code = send_command_to(&fx, topic, n, "key");
        if (code == ERR_OK) {
            atomic_store(&traffic.accepted[n], 1);
            atomic_fetch_add(&traffic.accepted_count, 1);
        } else if (ready || code != ERR_KAFKA_TOPIC)
            atomic_fetch_add(&traffic.wrong, 1);
        sched_yield();
    }
    return NULL;
}

static void *writer_main(void *arg)
{
    rd_kafka_t *service = arg;
    while (!atomic_load(&traffic.stop) || atomic_load(&traffic.written) < REPLIES_MIN) {
        service_write(service, REPLIES, (int32_t)(atomic_load(&traffic.written) % 2), NULL, 1, "x");
        atomic_fetch_add(&traffic.written, 1);
    }
    return NULL;
}

static void test_adding_while_traffic_flows(void **state)
{
    (void)state;
    pthread_t threads[SENDERS + 1];
    const struct kafka_property linger = {"linger.ms", "1"};
    rd_kafka_t *service = new_service(), *stranger = new_service();
    fixture_start(&fx, &(struct options){.properties = &linger, .property_count = 1});
    wait_position(&fx);
    atomic_store(&traffic.command_count, 1);
    for (unsigned i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sender_main, (void *)(uintptr_t)(1 + i * EACH)),
                         0);
    assert_int_equal(pthread_create(&threads[SENDERS], NULL, writer_main, stranger), 0);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        char name[32], command[32];
        snprintf(name, sizeof(name), "test.replies.%u", round);
        uint32_t topic = add_reply(name);
        snprintf(command, sizeof(command), "test.commands.%u", round);
        atomic_store(&traffic.commands[round], add_command(command));
        atomic_store(&traffic.command_count, round + 1);
        WAIT_FOR(&fx, kafka_topic_has_position(fx.kafka, topic));
        introduce(service, name);
        service_reply(service, name, 0, round, 1, "added");
        WAIT_FOR(&fx, fx.reply_count == round);
        assert_int_equal(fx.replies[round - 1].topic, round);
        assert_int_equal(fx.replies[round - 1].loop_number, round % LOOPS);
    }
    atomic_store(&traffic.stop, true);
    for (unsigned i = 0; i < SENDERS + 1; i++)
        pthread_join(threads[i], NULL);
    for (unsigned round = 1; round <= ROUNDS; round++)
        deliver_to(atomic_load(&traffic.commands[round]), HANDLES_MAX - round);
    WAIT_FOR(&fx, atomic_load(&fx.skipped) == atomic_load(&traffic.written)); /* no record was missed */
    assert_int_equal(fx.reply_count, ROUNDS);
    fixture_stop(&fx, 5000);
    assert_int_equal(atomic_load(&traffic.wrong), 0);
    for (unsigned n = 0; n < HANDLES_MAX - ROUNDS; n++)
        assert_int_equal(fx.reports[n].count, atomic_load(&traffic.accepted[n]));
    assert_int_equal(fx.report_count, atomic_load(&traffic.accepted_count) + ROUNDS);
    rd_kafka_destroy(service);
    rd_kafka_destroy(stranger);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_KINDS(name)                                                           \
    {#name " (replies)", name, set_up, tear_down, (void *)(uintptr_t)&kinds[0]},   \
    {                                                                              \
#name " (commands)", name, set_up, tear_down, (void *)(uintptr_t)&kinds[1] \
    }
    const struct CMUnitTest tests[] = {
        TEST_KINDS(test_known_names_keep_their_index), TEST_KINDS(test_too_many),
        TEST_KINDS(test_no_memory_changes_nothing),    TEST(test_too_many_at_the_start),
        TEST(test_added_topic_is_read_from_its_end),   TEST(test_added_topic_that_appears_later),
        TEST(test_added_to_the_embedded_broker),       TEST(test_added_command_topic),
        TEST(test_no_topic_is_ready_without_a_broker), TEST(test_first_topic_is_missing),
        TEST(test_added_topics_outlive_the_producer),  TEST(test_adding_while_traffic_flows),
    };
#undef TEST
#undef TEST_KINDS
    return cmocka_run_group_tests(tests, NULL, NULL);
}
