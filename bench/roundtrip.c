/* SPDX-License-Identifier: Apache-2.0 */
/* sg-roundtrip: what Kafka alone costs: produce a command, take its reply, with the gateway's librdkafka
 * settings and nothing around them. The responder is the device service, or `sg-roundtrip --echo`. Each slot
 * has one command in flight; its reply is recognised by the correlation id in header or body, as the gateway
 * does; a second reply to the same command (response and event) finds the slot's id changed and is ignored.
 */
#include <errno.h>
#include <getopt.h>
#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

#define IN_FLIGHT_MAX   4096
#define LEVELS_MAX      8
#define BATCH           512
#define ID_LEN          36
#define LOST_AFTER_NS   UINT64_C(5000000000)
#define STARTUP_SECONDS 20
#define COMMAND_TOPIC   "device.commands.v1"
#define RESPONSE_TOPIC  "device.commands.responses.v1"
#define EVENT_TOPIC     "device.events.v1"
#define USER            "5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5"

struct options {
    const char *brokers;
    bool echo, json, without_headers;
    uint64_t strangers;
    unsigned levels[LEVELS_MAX], level_count, first_device;
    uint64_t fetch_wait_ms;
    double seconds, warmup_seconds;
};

struct slot {
    char id[ID_LEN + 1];
    bool bind; /* what is sent next */
    uint64_t sent_ns;
};

struct roundtrip {
    const struct options *options;
    rd_kafka_t *producer, *consumer;
    rd_kafka_queue_t *queue;
    struct slot slots[IN_FLIGHT_MAX];
    unsigned in_flight, instance, generation;
    bool stopping; /* no new commands */
    struct histogram latency;
    uint64_t replies, refused, lost, failed_deliveries;
};

static volatile sig_atomic_t stop_requested;

static void on_signal(int number)
{
    (void)number;
    stop_requested = 1;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "sg-roundtrip: %s: %s\n", what, why);
    exit(1);
}

/* ---- clients ---- */

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)) != RD_KAFKA_CONF_OK)
        die(name, why);
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct roundtrip *roundtrip = opaque;
    if (message->err)
        roundtrip->failed_deliveries++;
}

static rd_kafka_t *producer_new(const char *brokers, void *opaque)
{
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", brokers);
    set(conf, "acks", "all");
    set(conf, "linger.ms", "0");
    set(conf, "max.in.flight.requests.per.connection", "2");
    set(conf, "retries", "0");
    set(conf, "enable.idempotence", "false");
    set(conf, "message.timeout.ms", "2000");
    set(conf, "socket.nagle.disable", "true");
    rd_kafka_conf_set_opaque(conf, opaque);
    if (opaque)
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    if (!producer)
        die("producer", why);
    return producer;
}

static rd_kafka_t *consumer_new(const struct options *options)
{
    char why[256], wait_ms[24];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    snprintf(wait_ms, sizeof(wait_ms), "%lu", options->fetch_wait_ms);
    set(conf, "bootstrap.servers", options->brokers);
    set(conf, "group.id", "sg-roundtrip");
    set(conf, "enable.auto.commit", "false");
    set(conf, "allow.auto.create.topics", "true");
    set(conf, "fetch.wait.max.ms", wait_ms);
    set(conf, "fetch.error.backoff.ms", "10");
    set(conf, "socket.nagle.disable", "true");
    rd_kafka_t *consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
    if (!consumer)
        die("consumer", why);
    rd_kafka_poll_set_consumer(consumer);
    return consumer;
}

/* Adds the partitions of a topic, each with the offset of its end; waits for a topic that is being created.
 */
static void add_partitions(rd_kafka_t *consumer, const char *name, rd_kafka_topic_partition_list_t *list)
{
    const struct rd_kafka_metadata *metadata = NULL;
    const uint64_t until_ns = stats_now_ns() + STARTUP_SECONDS * UINT64_C(1000000000);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(consumer, name, NULL);
    while (!stop_requested && stats_now_ns() < until_ns) {
        if (metadata)
            rd_kafka_metadata_destroy(metadata);
        metadata = NULL;
        if (rd_kafka_metadata(consumer, 0, topic, &metadata, 2000) == RD_KAFKA_RESP_ERR_NO_ERROR &&
            metadata->topics[0].partition_cnt > 0 && !metadata->topics[0].err)
            break;
        rd_kafka_consumer_poll(consumer, 100);
    }
    rd_kafka_topic_destroy(topic);
    if (!metadata || metadata->topics[0].partition_cnt == 0)
        die(name, "no such topic");
    for (int i = 0; i < metadata->topics[0].partition_cnt; i++) {
        int64_t low, high;
        const int32_t partition = metadata->topics[0].partitions[i].id;
        rd_kafka_resp_err_t err =
            rd_kafka_query_watermark_offsets(consumer, name, partition, &low, &high, 5000);
        if (err)
            die(name, rd_kafka_err2str(err));
        rd_kafka_topic_partition_list_add(list, name, partition)->offset = high;
    }
    rd_kafka_metadata_destroy(metadata);
}

static void assign_from_end(rd_kafka_t *consumer, const char *const *topics, size_t count)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    for (size_t i = 0; i < count; i++)
        add_partitions(consumer, topics[i], list);
    rd_kafka_resp_err_t err = rd_kafka_assign(consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (err)
        die("assign", rd_kafka_err2str(err));
}

/* Waits for one message, then takes what else is there: a batch call alone would wait for a full batch. */
static size_t take_batch(rd_kafka_t *consumer, rd_kafka_queue_t *queue, int wait_ms,
                         rd_kafka_message_t **batch)
{
    rd_kafka_message_t *first = rd_kafka_consumer_poll(consumer, wait_ms);
    if (!first)
        return 0;
    batch[0] = first;
    ssize_t n = rd_kafka_consume_batch_queue(queue, 0, batch + 1, BATCH - 1);
    return 1 + (n > 0 ? (size_t)n : 0);
}

/* ---- messages ---- */

static const char *find_id(const rd_kafka_message_t *message)
{
    static const char *const names[] = {"correlation-id", "kafka_correlationId"};
    static const char key[] = "\"correlationId\":\"";
    rd_kafka_headers_t *headers;
    if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            const void *value;
            size_t size;
            if (!rd_kafka_header_get_last(headers, names[i], &value, &size) && size == ID_LEN)
                return value;
        }
    }
    const char *end = (const char *)message->payload + message->len;
    const char *at = memmem(message->payload, message->len, key, sizeof(key) - 1);
    return at && end - at >= (ssize_t)(sizeof(key) - 1 + ID_LEN) ? at + sizeof(key) - 1 : NULL;
}

/* The arguments of one produce call. */
struct vu_list {
    rd_kafka_vu_t vus[12];
    size_t count;
};

static void vu_message(struct vu_list *list, const char *topic, void *key, size_t key_len, void *value,
                       size_t len)
{
    list->vus[list->count++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic};
    list->vus[list->count++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY};
    list->vus[list->count++] =
        (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {.ptr = key, .size = key_len}};
    list->vus[list->count++] =
        (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = value, .size = len}};
}

static void vu_header(struct vu_list *list, const char *name, const char *value, ssize_t size)
{
    list->vus[list->count++] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_HEADER,
                                               .u.header = {.name = name, .val = value, .size = size}};
}

static void vu_produce(rd_kafka_t *producer, const struct vu_list *list)
{
    rd_kafka_error_t *error = rd_kafka_produceva(producer, list->vus, list->count);
    if (error)
        die("produce", rd_kafka_error_string(error));
}

static void send_command(struct roundtrip *roundtrip, struct slot *slot)
{
    const unsigned number = (unsigned)(slot - roundtrip->slots);
    const char *type = slot->bind ? "device.command.bind" : "device.command.unbind";
    char device[24], text[768], deadline[24];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const long long now_ms = (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    snprintf(slot->id, sizeof(slot->id), "%08x-%04x-4000-8000-%08x0000", roundtrip->instance, number,
             ++roundtrip->generation);
    snprintf(deadline, sizeof(deadline), "%lld", now_ms + 30000);
    int device_len = snprintf(device, sizeof(device), "GH-%u", roundtrip->options->first_device + number);
    int len =
        snprintf(text, sizeof(text),
                 "{\"eventType\":\"%s\",\"correlationId\":\"%s\",\"timestamp\":%lld,\"source\":{\"type\":"
                 "\"backend\",\"id\":\"rest-api-gateway\"},\"__version\":\"v1\",\"timeout\":30000,"
                 "\"responseRequired\":true,\"payload\":{\"deviceId\":\"%s\",%s}}",
                 type, slot->id, now_ms, device,
                 slot->bind ? "\"userId\":\"" USER "\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\""
                            : "\"requestedBy\":\"" USER "\"");
    slot->bind = !slot->bind;
    slot->sent_ns = stats_now_ns();
    struct vu_list list = {.count = 0};
    vu_message(&list, COMMAND_TOPIC, device, (size_t)device_len, text, (size_t)len);
    vu_header(&list, "content-type", "application/json", -1);
    vu_header(&list, "correlation-id", slot->id, ID_LEN);
    vu_header(&list, "event-type", type, -1);
    vu_header(&list, "kafka_correlationId", slot->id, ID_LEN);
    vu_header(&list, "kafka_replyTopic", RESPONSE_TOPIC, -1);
    vu_header(&list, "deadline", deadline, -1);
    vu_produce(roundtrip->producer, &list);
    roundtrip->in_flight++;
}

static void take_reply(struct roundtrip *roundtrip, const rd_kafka_message_t *message)
{
    const char *id = message->err ? NULL : find_id(message);
    char *end;
    if (!id || memcmp(id + 8, "-", 1) != 0)
        return;
    unsigned long number = strtoul(id + 9, &end, 16);
    if (number >= IN_FLIGHT_MAX)
        return;
    struct slot *slot = &roundtrip->slots[number];
    if (memcmp(slot->id, id, ID_LEN) != 0)
        return;
    slot->id[0] = '\0';
    roundtrip->in_flight--;
    roundtrip->replies++;
    histogram_add(&roundtrip->latency, stats_now_ns() - slot->sent_ns);
    if (memmem(message->payload, message->len, "\"success\":false", 15))
        roundtrip->refused++;
    if (!roundtrip->stopping)
        send_command(roundtrip, slot);
}

/* ---- the run ---- */

static void turn(struct roundtrip *roundtrip)
{
    rd_kafka_message_t *batch[BATCH];
    size_t n = take_batch(roundtrip->consumer, roundtrip->queue, 100, batch);
    for (size_t i = 0; i < n; i++) {
        take_reply(roundtrip, batch[i]);
        rd_kafka_message_destroy(batch[i]);
    }
    rd_kafka_poll(roundtrip->producer, 0);
}

static void run_for(struct roundtrip *roundtrip, double seconds)
{
    const uint64_t until_ns = stats_now_ns() + (uint64_t)(seconds * NSEC_PER_SEC);
    while (!stop_requested && stats_now_ns() < until_ns)
        turn(roundtrip);
}

static void drain(struct roundtrip *roundtrip)
{
    const uint64_t until_ns = stats_now_ns() + LOST_AFTER_NS;
    roundtrip->stopping = true;
    while (roundtrip->in_flight && stats_now_ns() < until_ns)
        turn(roundtrip);
    roundtrip->lost += roundtrip->in_flight;
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
        roundtrip->slots[i].id[0] = '\0';
    roundtrip->in_flight = 0;
    roundtrip->stopping = false;
}

/* The responder may still be starting: asks until it answers. Unbinds, so every slot's first command is a
 * bind. */
static void wait_for_responder(struct roundtrip *roundtrip)
{
    const uint64_t until_ns = stats_now_ns() + STARTUP_SECONDS * UINT64_C(1000000000);
    roundtrip->stopping = true;
    while (!roundtrip->replies && !stop_requested) {
        if (stats_now_ns() > until_ns)
            die("responder", "nobody answers");
        roundtrip->slots[0].bind = false;
        send_command(roundtrip, &roundtrip->slots[0]);
        run_for(roundtrip, 0.5);
        roundtrip->in_flight = 0;
    }
    roundtrip->stopping = false;
}

static void settle(struct roundtrip *roundtrip, unsigned level)
{
    roundtrip->stopping = true;
    for (unsigned i = 0; i < level; i++) {
        roundtrip->slots[i].bind = false;
        send_command(roundtrip, &roundtrip->slots[i]);
    }
    drain(roundtrip);
}

static void run_level(struct roundtrip *roundtrip, unsigned level)
{
    settle(roundtrip, level);
    for (unsigned i = 0; i < level; i++)
        send_command(roundtrip, &roundtrip->slots[i]);
    run_for(roundtrip, roundtrip->options->warmup_seconds);
    histogram_clear(&roundtrip->latency);
    roundtrip->replies = roundtrip->refused = roundtrip->lost = 0;
    const uint64_t start_ns = stats_now_ns();
    const double start_us = stats_own_cpu_us();
    run_for(roundtrip, roundtrip->options->seconds);
    const double used_us = stats_own_cpu_us() - start_us;
    const double seconds = (double)(stats_now_ns() - start_ns) / NSEC_PER_SEC;
    const uint64_t replies = roundtrip->replies;
    const double p50 = histogram_percentile_ms(&roundtrip->latency, 0.5),
                 p99 = histogram_percentile_ms(&roundtrip->latency, 0.99);
    drain(roundtrip);
    printf(roundtrip->options->json ? "{\"in_flight\":%u,\"rps\":%.1f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"cpu_"
                                      "us\":%.3f,\"replies\":%lu,"
                                      "\"refused\":%lu,\"lost\":%lu}\n"
                                    : "%u in flight: %.0f/s, p50 %.3f ms, p99 %.3f ms, %.2f us CPU a round "
                                      "trip; %lu replies, %lu of them "
                                      "refusals, %lu lost\n",
           level, (double)replies / seconds, p50, p99, replies ? used_us / (double)replies : 0, replies,
           roundtrip->refused, roundtrip->lost);
    fflush(stdout);
}

static int run(const struct options *options)
{
    static const char *const topics[] = {RESPONSE_TOPIC, EVENT_TOPIC};
    static struct roundtrip roundtrip;
    roundtrip.options = options;
    roundtrip.instance = (unsigned)getpid() ^ (unsigned)stats_now_ns();
    roundtrip.producer = producer_new(options->brokers, &roundtrip);
    roundtrip.consumer = consumer_new(options);
    roundtrip.queue = rd_kafka_queue_get_consumer(roundtrip.consumer);
    assign_from_end(roundtrip.consumer, topics, sizeof(topics) / sizeof(topics[0]));
    wait_for_responder(&roundtrip);
    for (unsigned i = 0; i < options->level_count && !stop_requested; i++)
        run_level(&roundtrip, options->levels[i]);
    bool failed = roundtrip.lost || roundtrip.failed_deliveries;
    rd_kafka_queue_destroy(roundtrip.queue);
    rd_kafka_consumer_close(roundtrip.consumer);
    rd_kafka_destroy(roundtrip.consumer);
    rd_kafka_destroy(roundtrip.producer);
    return failed ? 1 : 0;
}

/* ---- the echo responder ---- */

static void answer_command(rd_kafka_t *producer, const rd_kafka_message_t *message)
{
    char text[256];
    const char *id = message->err ? NULL : find_id(message);
    if (!id)
        return;
    int len = snprintf(
        text, sizeof(text),
        "{\"eventType\":\"device.response.bind\",\"correlationId\":\"%.36s\",\"timestamp\":1,\"source\":"
        "{\"type\":\"backend\",\"id\":\"echo\"},\"__version\":\"v1\",\"success\":true,\"payload\":{}}",
        id);
    struct vu_list list = {.count = 0};
    vu_message(&list, RESPONSE_TOPIC, message->key, message->key_len, text, (size_t)len);
    vu_header(&list, "correlation-id", id, ID_LEN);
    vu_produce(producer, &list);
}

static int run_echo(const struct options *options)
{
    static const char *const topics[] = {COMMAND_TOPIC};
    rd_kafka_message_t *batch[BATCH];
    rd_kafka_t *producer = producer_new(options->brokers, NULL), *consumer = consumer_new(options);
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(consumer);
    assign_from_end(consumer, topics, 1);
    while (!stop_requested) {
        size_t n = take_batch(consumer, queue, 100, batch);
        for (size_t i = 0; i < n; i++) {
            answer_command(producer, batch[i]);
            rd_kafka_message_destroy(batch[i]);
        }
        rd_kafka_poll(producer, 0);
    }
    rd_kafka_flush(producer, 1000);
    rd_kafka_queue_destroy(queue);
    rd_kafka_consumer_close(consumer);
    rd_kafka_destroy(consumer);
    rd_kafka_destroy(producer);
    return 0;
}

/* ---- replies that nobody waits for ---- */

/* Writes replies with ids of nobody, as fast as they are taken, in the batches that many busy services would make. */
static int run_strangers(const struct options *options)
{
    struct roundtrip roundtrip = {.options = options};
    rd_kafka_t *producer = producer_new(options->brokers, &roundtrip);
    char text[384], id[ID_LEN + 1 + 8];
    for (uint64_t i = 0; i < options->strangers && !stop_requested; i++) {
        snprintf(id, sizeof(id), "%08x-0000-4000-8000-%012lx", (unsigned)getpid(), i);
        int len =
            snprintf(text, sizeof(text),
                     "{\"eventType\":\"device.response.bind\",\"correlationId\":\"%s\",\"timestamp\":"
                     "\"2026-01-01T00:00:00.000Z\",\"source\":{\"type\":\"backend\",\"id\":\"device-"
                     "service\"},\"__version\":\"v1\",\"success\":true,\"payload\":{\"deviceId\":\"GH-%lu\","
                     "\"userId\":\"" USER "\",\"boundAt\":\"2026-01-01T00:00:00.000Z\"}}",
                     id, i);
        struct vu_list list = {.count = 0};
        vu_message(&list, RESPONSE_TOPIC, id, ID_LEN, text, (size_t)len);
        if (!options->without_headers) {
            vu_header(&list, "kafka_correlationId", id, ID_LEN);
            vu_header(&list, "correlation-id", id, ID_LEN);
            vu_header(&list, "event-type", "device.response.bind", -1);
            vu_header(&list, "content-type", "application/json", -1);
        }
        vu_produce(producer, &list);
        while (rd_kafka_outq_len(producer) > 10000)
            rd_kafka_poll(producer, 10);
    }
    rd_kafka_flush(producer, 30000);
    int left = rd_kafka_outq_len(producer);
    rd_kafka_destroy(producer);
    return left || roundtrip.failed_deliveries ? 1 : 0;
}

/* ---- command line ---- */

static void usage(FILE *out)
{
    fputs("usage: sg-roundtrip --brokers LIST [--echo] [OPTION]...\n"
          "Produces bind and unbind commands and takes their replies; the responder is the device service, "
          "or another\n"
          "process with --echo (until SIGTERM).\n"
          "  --in-flight N       commands at once; may be repeated (1 and 64)\n"
          "  --seconds S         measured time of each (5)     --warmup S     before it (1)\n"
          "  --base N            first device number (1)       --json         a line of JSON for each\n"
          "  --strangers N       write N replies to nobody, and end\n"
          "  --no-headers        without headers: their ids are in the bodies only\n"
          "  --fetch-wait-ms N   fetch.wait.max.ms (500; 5 for the embedded broker, whose fetch is no long "
          "poll)\n",
          out);
}

static bool parse_option(int opt, const char *arg, struct options *options)
{
    uint64_t value;
    switch (opt) {
    case 'b':
        options->brokers = arg;
        return true;
    case 'e':
        options->echo = true;
        return true;
    case 'j':
        options->json = true;
        return true;
    case 'S':
        return stats_parse_u64(arg, 1, UINT32_MAX, &options->strangers);
    case 'H':
        options->without_headers = true;
        return true;
    case 'n':
        if (options->level_count == LEVELS_MAX || !stats_parse_u64(arg, 1, IN_FLIGHT_MAX, &value))
            return false;
        options->levels[options->level_count++] = (unsigned)value;
        return true;
    case 's':
        return stats_parse_double(arg, 0.01, 3600, &options->seconds);
    case 'w':
        return stats_parse_double(arg, 0, 600, &options->warmup_seconds);
    case 'd':
        if (!stats_parse_u64(arg, 0, 100000000, &value))
            return false;
        options->first_device = (unsigned)value;
        return true;
    case 'f':
        return stats_parse_u64(arg, 0, 60000, &options->fetch_wait_ms);
    default:
        return false;
    }
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"brokers", required_argument, NULL, 'b'}, {"echo", no_argument, NULL, 'e'},
        {"json", no_argument, NULL, 'j'},          {"in-flight", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 's'}, {"warmup", required_argument, NULL, 'w'},
        {"base", required_argument, NULL, 'd'},    {"fetch-wait-ms", required_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},          {"strangers", required_argument, NULL, 'S'},
        {"no-headers", no_argument, NULL, 'H'},    {NULL, 0, NULL, 0},
    };
    struct options options = {.first_device = 1, .fetch_wait_ms = 500, .seconds = 5, .warmup_seconds = 1};
    int opt;
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (opt == 'h') {
            usage(stdout);
            return 0;
        }
        if (opt == '?' || !parse_option(opt, optarg, &options)) {
            if (opt != '?')
                fprintf(stderr, "sg-roundtrip: bad value: %s\n", optarg);
            return 2;
        }
    }
    if (!options.brokers || optind != argc) {
        usage(stderr);
        return 2;
    }
    if (!options.level_count) {
        options.levels[options.level_count++] = 1;
        options.levels[options.level_count++] = 64;
    }
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    return options.strangers ? run_strangers(&options) : options.echo ? run_echo(&options) : run(&options);
}
