/* SPDX-License-Identifier: Apache-2.0 */
/* The watcher thread: asks the cluster which partitions the reply topics have, and gives the consumer a position in each;
 * replaces a producer that failed. It is a thread of its own because these calls block and a reply must not wait for them.
 * Partitions of a topic's first look are read from their end, which is resolved to an offset before anything may be
 * produced; partitions that appear later are read from their beginning: nothing between is missed (design.md section 4). */
#include <time.h>

#include "internal.h"

#define LOOK_TIMEOUT_MS 2000
#define SETTLED_WAIT_MS 5000 /* a new partition is noticed within 10 s */
#define SEEKING_WAIT_MS 250  /* while a position is missing or the cluster is unreachable */

static void log_topic(const struct kafka_topic_state *topic, enum log_level level, const char *msg,
                      const char *reason)
{
    struct log_line line;
    log_begin(&line, level, msg);
    log_str(&line, "topic", topic->name);
    if (reason)
        log_str(&line, "reason", reason);
    else
        log_i64(&line, "partitions", topic->partitions);
    if (topic->is_own)
        log_i64(&line, "partition", topic->own_partition);
    log_end(&line);
}

/* Assigns `count` partitions from `first` on. The producer asks for their ends: its answers wait behind no Fetch. */
static bool assign_new(struct kafka *kafka, struct kafka_topic_state *topic, int32_t first, int32_t count)
{
    bool from_end = !topic->resolved && !topic->seen_missing, ok = true;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(count);
    for (int32_t partition = first; ok && partition - first < count; partition++) {
        int64_t low, high = RD_KAFKA_OFFSET_BEGINNING;
        if (from_end)
            ok = rd_kafka_query_watermark_offsets(kafka_producer_handle(kafka), topic->name, partition, &low,
                                                  &high, LOOK_TIMEOUT_MS) == RD_KAFKA_RESP_ERR_NO_ERROR;
        rd_kafka_topic_partition_list_add(list, topic->name, partition)->offset = high;
    }
    rd_kafka_error_t *error = ok ? rd_kafka_incremental_assign(kafka->consumer, list) : NULL;
    rd_kafka_topic_partition_list_destroy(list);
    if (error) {
        log_topic(topic, LOG_ERROR, "cannot assign reply partitions", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        ok = false;
    }
    if (!ok)
        return false;
    atomic_fetch_add_explicit(&kafka->partitions, (uint64_t)count, memory_order_relaxed);
    topic->partitions += count;
    topic->resolved = true;
    log_topic(topic, LOG_INFO, from_end ? "reading replies" : "reading new reply partitions", NULL);
    atomic_store_explicit(&topic->has_position, true, memory_order_release);
    return true;
}

static void topic_missing(struct kafka_topic_state *topic, rd_kafka_resp_err_t code)
{
    if (!topic->seen_missing)
        log_topic(topic, LOG_WARN, "reply topic is not there yet", rd_kafka_err2name(code));
    topic->seen_missing = true;
}

/* The one partition that is ours. One that is not there yet is looked for until it is. */
static bool look_at_own(struct kafka *kafka, struct kafka_topic_state *topic, int32_t count)
{
    struct log_line line;
    if (topic->resolved)
        return true;
    if (topic->own_partition < count)
        return assign_new(kafka, topic, topic->own_partition, 1);
    if (!topic->lacks_own) {
        log_begin(&line, LOG_ERROR, "the reply partition of this instance does not exist");
        log_str(&line, "topic", topic->name);
        log_i64(&line, "partitions", count);
        log_i64(&line, "partition", topic->own_partition);
        log_end(&line);
    }
    topic->lacks_own = topic->seen_missing = true;
    return false;
}

/* True when the topic has a position in every partition that the cluster named and we read. */
static bool look_at(struct kafka *kafka, struct kafka_topic_state *topic,
                    const rd_kafka_metadata_topic_t *metadata)
{
    if (metadata->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
        metadata->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC) {
        if (!topic->resolved)
            topic_missing(topic, metadata->err);
        return topic->resolved;
    }
    if (metadata->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (!topic->resolved && topic->told != metadata->err)
            log_topic(topic, LOG_WARN, "reply topic cannot be read", rd_kafka_err2name(metadata->err));
        topic->told = metadata->err;
        return topic->resolved;
    }
    if (topic->is_own)
        return look_at_own(kafka, topic, metadata->partition_cnt);
    int32_t more = metadata->partition_cnt - topic->partitions;
    return more <= 0 || assign_new(kafka, topic, topic->partitions, more);
}

/* A handle makes the topic one of those that the consumer asks about. */
static bool open_topic(struct kafka *kafka, uint32_t index)
{
    struct kafka_topic_state *topic = &kafka->topics[index];
    if (!topic->name) {
        topic->name = kafka->reply_topics.names[index];
        topic->is_own = kafka->own_topic && strcmp(topic->name, kafka->own_topic) == 0;
        topic->own_partition = kafka->own_partition;
    }
    if (!topic->handle)
        topic->handle = rd_kafka_topic_new(kafka->consumer, topic->name, NULL);
    return topic->handle != NULL;
}

static const rd_kafka_metadata_topic_t *find_topic(const struct rd_kafka_metadata *metadata, const char *name)
{
    for (int i = 0; i < metadata->topic_cnt; i++)
        if (strcmp(metadata->topics[i].topic, name) == 0)
            return &metadata->topics[i];
    return NULL;
}

/* Asks about all topics at once, then assigns. As soon as one is being read, each answer waits behind a Fetch, up to
 * fetch.wait.max.ms: a broker serves the requests of a connection one after the other. */
static bool look_for_all(struct kafka *kafka)
{
    const struct rd_kafka_metadata *metadata;
    uint32_t count = kafka_names_count(&kafka->reply_topics);
    bool settled = true;
    for (uint32_t i = 0; i < count; i++)
        settled &= open_topic(kafka, i);
    if (count == 0)
        return true;
    /* Neither all topics nor one: those that have a handle. */
    if (rd_kafka_metadata(kafka->consumer, 0, NULL, &metadata, LOOK_TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return false;
    for (uint32_t i = 0; i < count && !atomic_load(&kafka->stopping); i++) {
        const rd_kafka_metadata_topic_t *said = find_topic(metadata, kafka->topics[i].name);
        settled &= said && look_at(kafka, &kafka->topics[i], said);
    }
    rd_kafka_metadata_destroy(metadata);
    return settled;
}

void kafka_watcher_wake(struct kafka *kafka)
{
    pthread_mutex_lock(&kafka->watcher_mtx);
    kafka->watcher_woken = true; /* it may be at work, not asleep */
    pthread_cond_signal(&kafka->watcher_cond);
    pthread_mutex_unlock(&kafka->watcher_mtx);
}

static void rest(struct kafka *kafka, int64_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += wait_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&kafka->watcher_mtx);
    while (!kafka->watcher_woken &&
           pthread_cond_timedwait(&kafka->watcher_cond, &kafka->watcher_mtx, &until) == 0)
        ;
    kafka->watcher_woken = false;
    pthread_mutex_unlock(&kafka->watcher_mtx);
}

void *kafka_watcher_main(void *arg)
{
    struct kafka *kafka = arg;
    bool warm = true; /* what the producer has yet to learn is not asked for twice */
    while (!atomic_load(&kafka->stopping)) {
        bool replaced = kafka_producer_replace(kafka);
        if (replaced)
            kafka_producer_tidy(kafka); /* its commands should not wait for what follows */
        if (replaced || !kafka_is_reachable(kafka))
            warm = kafka_producer_warm_up(kafka, LOOK_TIMEOUT_MS);
        bool learned = kafka_producer_learn(kafka, LOOK_TIMEOUT_MS);
        bool settled = look_for_all(kafka);
        /* The first command to a topic that the producer does not know yet would wait for its metadata. */
        if (!warm && settled && !atomic_load(&kafka->stopping))
            warm = kafka_producer_warm_up(kafka, LOOK_TIMEOUT_MS);
        settled &= kafka_producer_tidy(kafka) && learned;
        rest(kafka, settled && kafka_is_reachable(kafka) ? SETTLED_WAIT_MS : SEEKING_WAIT_MS);
    }
    return NULL;
}
