/* SPDX-License-Identifier: Apache-2.0 */
/* The producer, and its replacement after a fatal error (an idempotent producer that lost track of its sequence can never
 * send again).
 * Invariants:
 * - Only the watcher writes kafka->producer and kafka->retired while threads run, under producer_mtx. Whoever wants to call
 *   librdkafka takes a use under that lock and calls after leaving it.
 * - Only the watcher fills producer->topics, also while loops produce: a loop reads an entry after it saw the topic's `ready`,
 *   which is set after the entry, and every producer that comes later is made with the entries of all topics that are ready.
 * - There is at most one retired producer; the next replacement waits for it. It goes when nobody uses it and its last
 *   delivery report has been served, so every accepted message gets its report.
 * - All producers signal one descriptor: it outlives them, so the reader never reads a number that was closed. */
#include <errno.h>
#include <unistd.h>

#include "internal.h"

/* ---- life of one ---- */

struct kafka_producer {
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    rd_kafka_topic_t *topics[KAFKA_TOPICS_MAX]; /* as kafka->command_topics; NULL: not opened */
    unsigned uses;                              /* under producer_mtx */
};

static void producer_freep(struct kafka_producer **producer_ptr)
{
    struct kafka_producer *producer = *producer_ptr;
    if (!producer)
        return;
    *producer_ptr = NULL;
    if (producer->queue)
        rd_kafka_queue_destroy(producer->queue);
    for (size_t i = 0; i < KAFKA_TOPICS_MAX; i++)
        if (producer->topics[i])
            rd_kafka_topic_destroy(producer->topics[i]);
    if (producer->rk)
        rd_kafka_destroy(producer->rk);
    free(producer);
}

static void wake_reader(struct kafka *kafka)
{
    const uint64_t one = 1;
    if (write(kafka->delivery_fd, &one, sizeof(one)) < 0)
        SG_ASSERT(errno == EAGAIN);
}

static rd_kafka_resp_err_t open_topic(struct kafka *kafka, struct kafka_producer *producer, uint32_t i)
{
    if (!producer->topics[i])
        producer->topics[i] = rd_kafka_topic_new(producer->rk, kafka->command_topics.names[i], NULL);
    return producer->topics[i] ? RD_KAFKA_RESP_ERR_NO_ERROR : rd_kafka_last_error();
}

static enum err_code producer_open(struct kafka *kafka, struct kafka_producer *producer, struct err *err)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_dup(kafka->producer_conf);
    producer->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
    if (!producer->rk) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_CONFIG, "cannot create the kafka producer: %s", text);
    }
    uint32_t count = kafka_names_count(&kafka->command_topics);
    for (uint32_t i = 0; i < count; i++) {
        if (!kafka_command_topic_is_ready(kafka, i))
            continue; /* kafka_producer_learn() comes to it */
        rd_kafka_resp_err_t code = open_topic(kafka, producer, i);
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
            return err_set(err, ERR_CONFIG, "kafka topic %s: %s", kafka->command_topics.names[i],
                           rd_kafka_err2str(code));
    }
    producer->queue = rd_kafka_queue_get_main(producer->rk);
    kafka_signal_queue(producer->queue, kafka->delivery_fd);
    wake_reader(kafka); /* what it queued before was not signalled */
    return ERR_OK;
}

static struct kafka_producer *producer_new(struct kafka *kafka, struct err *err)
{
    struct kafka_producer *producer = calloc(1, sizeof(*producer));
    if (!producer)
        err_set(err, ERR_NO_MEMORY, "out of memory for the kafka producer");
    else if (producer_open(kafka, producer, err) == ERR_OK)
        return producer;
    producer_freep(&producer);
    return NULL;
}

enum err_code kafka_producer_start(struct kafka *kafka, struct err *err)
{
    kafka->producer = producer_new(kafka, err);
    return kafka->producer ? ERR_OK : err ? err->code : ERR_CONFIG;
}

void kafka_producer_free_all(struct kafka *kafka)
{
    SG_ASSERT(!kafka->producer || kafka->producer->uses == 0);
    SG_ASSERT(!kafka->retired || kafka->retired->uses == 0);
    producer_freep(&kafka->retired);
    producer_freep(&kafka->producer);
}

/* ---- uses ---- */

static struct kafka_producer *use(struct kafka *kafka, struct kafka_producer *const *slot)
{
    pthread_mutex_lock(&kafka->producer_mtx);
    struct kafka_producer *producer = *slot;
    if (producer)
        producer->uses++;
    pthread_mutex_unlock(&kafka->producer_mtx);
    return producer;
}

static void unuse(struct kafka *kafka, struct kafka_producer *producer)
{
    pthread_mutex_lock(&kafka->producer_mtx);
    producer->uses--;
    pthread_mutex_unlock(&kafka->producer_mtx);
}

rd_kafka_t *kafka_producer_handle(struct kafka *kafka)
{
    pthread_mutex_lock(&kafka->producer_mtx);
    rd_kafka_t *rk = kafka->producer->rk;
    pthread_mutex_unlock(&kafka->producer_mtx);
    return rk;
}

rd_kafka_error_t *kafka_producer_send(struct kafka *kafka, size_t topic, rd_kafka_vu_t *vus, size_t count)
{
    struct kafka_producer *producer = use(kafka, &kafka->producer);
    vus[0] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = producer->topics[topic]};
    rd_kafka_error_t *error = rd_kafka_produceva(producer->rk, vus, count);
    unuse(kafka, producer);
    return error;
}

void kafka_producer_serve(struct kafka *kafka)
{
    struct kafka_producer *const *const slots[] = {&kafka->producer, &kafka->retired};
    for (size_t i = 0; i < SG_ARRAY_LEN(slots); i++) {
        struct kafka_producer *producer = use(kafka, slots[i]);
        if (!producer)
            continue;
        while (rd_kafka_poll(producer->rk, 0) > 0)
            ;
        unuse(kafka, producer);
    }
}

uint64_t kafka_producer_queue_len(struct kafka *kafka)
{
    uint64_t len = 0;
    struct kafka_producer *const *const slots[] = {&kafka->producer, &kafka->retired};
    for (size_t i = 0; i < SG_ARRAY_LEN(slots); i++) {
        struct kafka_producer *producer = use(kafka, slots[i]);
        if (!producer)
            continue;
        len += (uint64_t)rd_kafka_outq_len(producer->rk);
        unuse(kafka, producer);
    }
    return len;
}

/* ---- topics. Thread: watcher ---- */

/* Asks the cluster for one topic. False: no answer. *ret_code: what the cluster says of the topic. */
static bool ask(struct kafka *kafka, uint32_t i, int timeout_ms, rd_kafka_resp_err_t *ret_code)
{
    const struct rd_kafka_metadata *metadata;
    struct kafka_producer *producer = kafka->producer; /* only this thread replaces it */
    uint64_t reach = atomic_load_explicit(&kafka->reach, memory_order_acquire);
    if (rd_kafka_metadata(producer->rk, 0, producer->topics[i], &metadata, timeout_ms) !=
        RD_KAFKA_RESP_ERR_NO_ERROR)
        return false;
    /* Not said of the consumer's connection: librdkafka tells "all brokers down" once, until this client's was up. */
    kafka_answered(kafka, reach);
    *ret_code = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    rd_kafka_metadata_destroy(metadata);
    return true;
}

bool kafka_producer_warm_up(struct kafka *kafka, int timeout_ms)
{
    bool ok = true;
    uint32_t count = kafka_names_count(&kafka->command_topics);
    for (uint32_t i = 0; i < count && !atomic_load(&kafka->stopping); i++) {
        rd_kafka_resp_err_t code;
        if (!kafka_command_topic_is_ready(kafka, i))
            continue;
        if (!ask(kafka, i, timeout_ms, &code))
            return false;
        ok &= code == RD_KAFKA_RESP_ERR_NO_ERROR;
    }
    return ok;
}

static void topic_seen(struct kafka *kafka, uint32_t i, rd_kafka_resp_err_t code)
{
    struct kafka_command_state *state = &kafka->commands[i];
    bool ready = code == RD_KAFKA_RESP_ERR_NO_ERROR;
    if (!ready && atomic_exchange_explicit(&state->missing, true, memory_order_relaxed))
        return;
    struct log_line line;
    log_begin(&line, ready ? LOG_INFO : LOG_WARN,
              ready ? "command topic is known" : "command topic is not there yet");
    log_str(&line, "topic", kafka->command_topics.names[i]);
    if (!ready)
        log_str(&line, "reason", rd_kafka_err2name(code));
    log_end(&line);
    if (ready)
        atomic_store_explicit(&state->ready, true, memory_order_release);
}

bool kafka_producer_learn(struct kafka *kafka, int timeout_ms)
{
    bool all = true;
    uint32_t count = kafka_names_count(&kafka->command_topics);
    for (uint32_t i = 0; i < count && !atomic_load(&kafka->stopping); i++) {
        if (kafka_command_topic_is_ready(kafka, i))
            continue;
        rd_kafka_resp_err_t code = open_topic(kafka, kafka->producer, i);
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR && !ask(kafka, i, timeout_ms, &code))
            return false; /* nobody answers: the others would only wait as long */
        topic_seen(kafka, i, code);
        all &= code == RD_KAFKA_RESP_ERR_NO_ERROR;
    }
    return all;
}

/* ---- replacement ---- */

void kafka_producer_failed(struct kafka *kafka, rd_kafka_t *rk)
{
    char text[256];
    rd_kafka_resp_err_t code = rd_kafka_fatal_error(rk, text, sizeof(text));
    atomic_fetch_add_explicit(&kafka->fatal_errors, 1, memory_order_relaxed);
    struct log_line line;
    log_begin(&line, LOG_ERROR, "kafka producer failed for good, making a new one");
    log_str(&line, "code", rd_kafka_err2name(code));
    log_str(&line, "text", text);
    log_end(&line);
    kafka_watcher_wake(kafka);
}

/* What is left of the retired producer: messages that were accepted while it failed, and requests on their way. Each gets
 * its report now: what was not sent is certainly not in Kafka, the rest is uncertain. The reader serves them. */
static void bury(struct kafka *kafka)
{
    struct kafka_producer *retired = kafka->retired;
    pthread_mutex_lock(&kafka->producer_mtx);
    bool used = retired->uses > 0;
    pthread_mutex_unlock(&kafka->producer_mtx);
    /* The order matters: someone who still uses it may be handing over a message. */
    if (!used && rd_kafka_outq_len(retired->rk) == 0) {
        pthread_mutex_lock(&kafka->producer_mtx);
        used = retired->uses > 0; /* the reader came by */
        if (!used)
            kafka->retired = NULL;
        pthread_mutex_unlock(&kafka->producer_mtx);
        if (!used)
            producer_freep(&retired);
        return;
    }
    rd_kafka_purge(retired->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
}

bool kafka_producer_replace(struct kafka *kafka)
{
    if (kafka->retired || rd_kafka_fatal_error(kafka->producer->rk, NULL, 0) == RD_KAFKA_RESP_ERR_NO_ERROR)
        return false;
    struct err err;
    struct kafka_producer *producer = producer_new(kafka, &err);
    struct log_line line;
    log_begin(&line, producer ? LOG_INFO : LOG_ERROR,
              producer ? "new kafka producer" : "cannot make a new kafka producer");
    if (!producer)
        log_str(&line, "reason", err.text);
    log_end(&line);
    if (!producer)
        return false; /* the old one goes on refusing commands */
    pthread_mutex_lock(&kafka->producer_mtx);
    kafka->retired = kafka->producer;
    kafka->producer = producer;
    pthread_mutex_unlock(&kafka->producer_mtx);
    return true;
}

bool kafka_producer_tidy(struct kafka *kafka)
{
    if (kafka->retired)
        bury(kafka);
    return !kafka->retired &&
           rd_kafka_fatal_error(kafka->producer->rk, NULL, 0) == RD_KAFKA_RESP_ERR_NO_ERROR;
}

void kafka_producer_stop(struct kafka *kafka, uint32_t flush_ms)
{
    struct kafka_producer *const producers[] = {kafka->retired, kafka->producer};
    for (size_t i = 0; i < SG_ARRAY_LEN(producers); i++) {
        if (!producers[i])
            continue;
        /* The reader is gone: rd_kafka_flush() calls the delivery callback in this thread. */
        if (producers[i] == kafka->producer)
            rd_kafka_flush(producers[i]->rk, (int)flush_ms);
        rd_kafka_purge(producers[i]->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
        rd_kafka_flush(producers[i]->rk, 1000);
    }
}
