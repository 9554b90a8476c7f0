/* SPDX-License-Identifier: Apache-2.0 */
/* Private to kafka: the object, shared by its files. */
#pragma once

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>
#include <stdatomic.h>

#include "syncgate/kafka.h"
#include "syncgate/log.h"

#define KAFKA_BATCH 64

/* Names of topics, by their index. See topics.c. */
struct kafka_names {
    char *names[KAFKA_TOPICS_MAX]; /* NUL-terminated, owned */
    atomic_uint count;             /* names[0..count-1] never change */
};

struct kafka_topic_state { /* of a reply topic */
    atomic_bool has_position;
    /* Watcher only. */
    const char *name;         /* NULL: never looked at. Borrowed */
    rd_kafka_topic_t *handle; /* the consumer's; NULL: not opened yet */
    bool seen_missing;        /* it was missing once: its partitions are read from their beginning */
    rd_kafka_resp_err_t told; /* why it could not be read, as the log says already */
    bool resolved;            /* its first partitions have been assigned */
    bool is_own;              /* only own_partition of it is read */
    bool lacks_own;           /* there is no such partition; it was told */
    int32_t own_partition;
    int32_t partitions; /* assigned so far: 0..partitions-1 */
};

struct kafka_command_state {
    atomic_bool ready; /* never cleared: every producer from then on has opened the topic */
    atomic_bool missing;
};

struct kafka_outbox;

/* What one loop gets in one go. */
struct kafka_batch {
    struct loop_msg msg;
    struct kafka *kafka;
    struct kafka_outbox *outbox;
    void *loop_arg;
    size_t record_count, delivery_count;
    struct kafka_record records[KAFKA_BATCH];
    struct {
        uint64_t handle;
        enum kafka_delivery delivery;
        enum err_code code;
    } deliveries[KAFKA_BATCH];
};

struct kafka_outbox {          /* reader's: per loop */
    struct kafka_batch *batch; /* NULL: nothing collected */
    /* One batch that the loop has emptied, to be filled again: 9 KiB a batch from malloc() and back cost more than
     * the hand-over. The loop puts it here, the reader takes it. */
    _Atomic(struct kafka_batch *) spare;
    bool urgent; /* holds something that somebody waits for */
};

struct kafka {
    struct kafka_handler handler;
    struct loop **loops;
    void **loop_args;
    size_t loop_count;

    rd_kafka_t *consumer, *embedded;
    rd_kafka_mock_cluster_t *cluster;
    char *bootstrap; /* of the embedded broker */
    rd_kafka_conf_t *producer_conf;
    pthread_mutex_t producer_mtx; /* leaf: only for the two pointers and their uses */
    struct kafka_producer *producer, *retired;
    struct kafka_names reply_topics, command_topics;
    struct kafka_topic_state topics[KAFKA_TOPICS_MAX];     /* as reply_topics */
    struct kafka_command_state commands[KAFKA_TOPICS_MAX]; /* as command_topics */
    uint32_t last_topic;                                   /* reader's: of the record before */
    char *own_topic;                                       /* only own_partition of it is read; NULL: none */
    int32_t own_partition;

    rd_kafka_queue_t *reply_queue;
    int reply_fd, delivery_fd, stop_fd, epoll_fd;
    struct kafka_outbox *outboxes;
    pthread_t reader, watcher;
    bool reader_started, watcher_started;

    atomic_uint report_waiters; /* who waits for a delivery report */
    atomic_bool reports_muted;  /* the reader's: reports do not wake it. See reader.c */

    atomic_bool stopping;
    atomic_uint_fast64_t reach;  /* clients.c */
    pthread_mutex_t watcher_mtx; /* leaf: only for the watcher's sleep */
    pthread_cond_t watcher_cond;
    bool watcher_woken; /* under watcher_mtx */
    /* When a broker last refused commands that it may have appended, CLOCK_MONOTONIC; 0: never. */
    atomic_uint_fast64_t refused_ns;
    atomic_uint_fast64_t records, delivered, not_persisted, uncertain, offset_resets, partitions,
        fatal_errors;
    atomic_uint_fast64_t forward_bytes; /* under way */
    atomic_uint_fast64_t forwarded, forward_failures;
    struct log_limit forward_limit; /* reader's */
};

/* topics.c */
static inline uint32_t kafka_names_count(const struct kafka_names *names)
{
    return atomic_load_explicit(&names->count, memory_order_acquire);
}
/* As kafka_add_reply_topics(). Thread: main. */
enum err_code kafka_names_add(struct kafka_names *names, const struct span *add, size_t count,
                              uint32_t *ret_index) SG_NODISCARD;
void kafka_names_fini(struct kafka_names *names);
/* clients.c */
/* The producer has an answer to a question that was asked when kafka->reach was that. Thread: watcher. */
void kafka_answered(struct kafka *kafka, uint64_t reach_when_asked);
void kafka_on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text);
/* librdkafka writes 8 bytes to the descriptor when the queue becomes non-empty. */
void kafka_signal_queue(rd_kafka_queue_t *queue, int fd);
/* producer.c */
/* Makes the first producer. ERR_OK, ERR_CONFIG or ERR_NO_MEMORY. */
enum err_code kafka_producer_start(struct kafka *kafka, struct err *err) SG_NODISCARD;
/* Hands a message to the producer of the day; vus[0] is filled with the topic. Returns owned, NULL on success. Thread: any. */
rd_kafka_error_t *kafka_producer_send(struct kafka *kafka, size_t topic, rd_kafka_vu_t *vus, size_t count);
/* Calls the callbacks that wait. Thread: replies. */
void kafka_producer_serve(struct kafka *kafka);
/* Messages without a report. Thread: any. */
uint64_t kafka_producer_queue_len(struct kafka *kafka);
/* rk reported a fatal error. Thread: the one that serves it. */
void kafka_producer_failed(struct kafka *kafka, rd_kafka_t *rk);
/* Fetches the metadata of the command topics that are ready: the cluster is reachable when an answer comes. False when some
 * are not known yet. Thread: watcher. Blocks. */
bool kafka_producer_warm_up(struct kafka *kafka, int timeout_ms);
/* Makes the producer know the topics that were added. True when all are ready. Thread: watcher. Blocks. */
bool kafka_producer_learn(struct kafka *kafka, int timeout_ms);
/* Replaces a producer that failed; true when it did. Thread: watcher. Blocks. */
bool kafka_producer_replace(struct kafka *kafka);
/* Ends what is left of a retired one. True when nothing is left to do here. Thread: watcher. Blocks. */
bool kafka_producer_tidy(struct kafka *kafka);
/* Ends all work after the threads ended: undelivered messages have at most flush_ms left. Thread: main. Blocks. */
void kafka_producer_stop(struct kafka *kafka, uint32_t flush_ms);
void kafka_producer_free_all(struct kafka *kafka);
/* The producer of the day, valid until it is replaced. For tests. Thread: any. */
rd_kafka_t *kafka_producer_handle(struct kafka *kafka);
/* forward.c */
/* Of a message's opaque: it was forwarded. */
bool kafka_is_forwarded(uint64_t opaque);
/* Its delivery report. Thread: the one that serves reports. */
void kafka_forward_done(struct kafka *kafka, const rd_kafka_message_t *message);
/* clients.c */
enum err_code kafka_translate_produce(rd_kafka_resp_err_t code);
/* embedded.c */
enum err_code kafka_embedded_start(struct kafka *kafka, struct err *err);
void kafka_embedded_stop(struct kafka *kafka);
/* reader.c */
/* Refused because of the topic: the cluster is well. */
bool kafka_is_of_topic(rd_kafka_resp_err_t code);
void *kafka_reader_main(void *arg);
void kafka_on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque);
/* Posts what the outboxes hold. Thread: replies, or main after the reader ended. */
void kafka_reader_post_all(struct kafka *kafka);
/* watcher.c */
void *kafka_watcher_main(void *arg);
void kafka_watcher_wake(struct kafka *kafka);
