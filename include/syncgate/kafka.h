/* SPDX-License-Identifier: Apache-2.0 */
/* kafka: commands out, replies in. Sole includer of rdkafka.h. It owns one producer, one consumer that is assigned every
 * partition of the reply topics, of one of them a single partition on request (never a consumer group), a reader thread that hands replies and delivery reports to the
 * loops, a watcher thread that finds partitions and their positions, and on request the embedded broker (librdkafka's mock
 * cluster). It holds correlation ids and handles, never a request. design.md sections 4, 5 and 6. */
#pragma once

#include "syncgate/await.h"
#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/loop.h"

struct kafka;

/* ---- replies ---- */

/* One record of a reply topic. Everything it points to is borrowed for the callback. */
struct kafka_record {
    uint32_t topic; /* index of the reply topic, see kafka_add_reply_topics() */
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms; /* unix ms of the record; 0: none */
    struct span value;    /* ptr NULL: a tombstone */
    /* Filled by on_record: who it is for. */
    uint64_t handle;    /* await_id_handle() form */
    struct await_id id; /* valid unless by_fields */
    bool by_fields;     /* found by fields, not by id */
    void *message;      /* private; NULL: a record without headers */
};
/* The value of the last header called `name`, ptr NULL if there is none. */
struct span kafka_record_header(const struct kafka_record *record, const char *name);
/* The topic that it was read from; borrowed for the callback. */
const char *kafka_record_topic(const struct kafka_record *record);

enum kafka_delivery {
    KAFKA_DELIVERED,     /* in the log */
    KAFKA_NOT_PERSISTED, /* certainly not in the log: may fall back */
    KAFKA_UNCERTAIN,     /* may be in the log: must not be repeated anywhere */
};

struct kafka_handler {
    /* A record came. Decide whose it is: fill record->handle (and id, by_fields) and return true to have on_reply called on
     * that handle's loop, or return false to skip it. Thread: replies. Locks: none. */
    bool (*on_record)(void *arg, struct kafka_record *record);
    void *arg;
    /* Thread: the loop of the handle. loop_arg is the loop's entry of kafka_settings.loop_args. */
    void (*on_reply)(void *loop_arg, const struct kafka_record *record);
    void (*on_delivery)(void *loop_arg, uint64_t handle, enum kafka_delivery delivery, enum err_code code);
};

/* ---- life ---- */

#define KAFKA_TOPICS_MAX 1024 /* of each kind */

struct kafka_property {
    const char *name;
    const char *value;
};

struct kafka_settings {
    const char *brokers; /* bootstrap list; ignored when embedded */
    bool embedded;
    const struct kafka_property *properties; /* the operator's own, applied last; borrowed for kafka_new() */
    size_t property_count;
    uint32_t message_timeout_ms;
    /* Names, none twice: indexes 0, 1, ... in this order. At most KAFKA_TOPICS_MAX each; borrowed for kafka_new(). */
    const struct span *reply_topics;
    size_t reply_topic_count;
    const struct span *command_topics;
    size_t command_topic_count;
    /* A reply topic, whenever it is added, of which only one partition is read: ours. ptr NULL: none. Borrowed for kafka_new(). */
    struct span own_topic;
    int32_t own_partition;
    struct loop *const *loops; /* borrowed for the life of the object */
    void *const *loop_args;
    size_t loop_count;
    struct kafka_handler handler;
};

/* Checks the properties and creates the clients; starts the embedded broker. No thread of ours runs yet; the broker need not
 * be there. Returns owned, or NULL with *err naming the property. */
struct kafka *kafka_new(const struct kafka_settings *settings, struct err *err);
/* Starts the reader and the watcher. ERR_OK or ERR_INTERNAL. */
enum err_code kafka_start(struct kafka *kafka) SG_NODISCARD;
/* Ends the producer's work (undelivered messages have at most flush_ms left) and both threads; what they still had is posted
 * to the loops, which must still exist. kafka_produce() must not be called any more. Thread: main. Blocks. */
void kafka_stop(struct kafka *kafka, uint32_t flush_ms);
/* After kafka_stop() and after the loops' inboxes were emptied (they hold records of the clients). NULL-safe. Blocks. */
void kafka_freep(struct kafka **kafka);

/* host:port list of the embedded broker, or NULL. */
const char *kafka_embedded_bootstrap(const struct kafka *kafka);

/* ---- topics ---- */

/* Makes the topics known: those already known keep their index, the others are added. Returns at once; the watcher prepares
 * them (metadata of a command topic, positions of a reply topic). A reply topic that exists at its first look is read from
 * its end, one that appears later from its beginning.
 * ret_index[i]: the index of names[i], on ERR_OK; indexes are stable for the life of the object and never reused. ERR_OK,
 * ERR_OVERLOADED (more than KAFKA_TOPICS_MAX in all), ERR_NO_MEMORY (nothing changed then). Borrows names for the call.
 * Thread: main. Locks: takes watcher_mtx. */
enum err_code kafka_add_reply_topics(struct kafka *kafka, const struct span *names, size_t count,
                                     uint32_t *ret_index) SG_NODISCARD;
enum err_code kafka_add_command_topics(struct kafka *kafka, const struct span *names, size_t count,
                                       uint32_t *ret_index) SG_NODISCARD;
/* Whether commands may be produced to it: the topic has been seen in the cluster once. It stays ready. Thread: any. */
bool kafka_command_topic_is_ready(const struct kafka *kafka, uint32_t command_topic);
/* The cluster was asked, and does not have it or keeps it from us. Thread: any. */
bool kafka_command_topic_is_missing(const struct kafka *kafka, uint32_t command_topic);

/* ---- commands ---- */

struct kafka_header {
    const char *name; /* NUL-terminated */
    struct span value;
};

struct kafka_command {
    uint32_t topic;  /* index of the command topic, see kafka_add_command_topics() */
    struct span key; /* ptr NULL: no key */
    struct span value;
    const struct kafka_header *headers;
    size_t header_count;
    uint64_t handle; /* comes back in on_delivery */
};
/* Hands a command to librdkafka, which copies it. ERR_OK: exactly one on_delivery follows on the handle's loop. Otherwise it
 * certainly is not in Kafka and nothing follows: ERR_KAFKA_QUEUE_FULL, ERR_KAFKA_TOO_LARGE, ERR_KAFKA_TOPIC (missing; also one
 * that is not ready), ERR_KAFKA_UNAVAILABLE. Never blocks. Thread: any. */
enum err_code kafka_produce(struct kafka *kafka, const struct kafka_command *command) SG_NODISCARD;

#define KAFKA_FORWARD_BYTES_MAX ((uint64_t)8 << 20) /* forwarded and not yet reported */
/* Hands a record of a reply topic on to another topic as it is: key, value and headers, and `headers` behind them. Best effort:
 * nobody is told what became of it, it is only counted (struct kafka_stats). ERR_OK, or as kafka_produce(); ERR_KAFKA_QUEUE_FULL also
 * when KAFKA_FORWARD_BYTES_MAX would be passed, so that commands find room. Never blocks. Thread: any. */
enum err_code kafka_forward(struct kafka *kafka, uint32_t command_topic, const struct kafka_record *record,
                            const struct kafka_header *headers, size_t header_count) SG_NODISCARD;
/* Somebody waits for the delivery report of a command that is to be produced (begin), or does not any more. While nobody
 * does, reports of delivered commands may come up to 20 ms late. Calls with true and with false come in pairs. Thread: any.
 * Locks: none. */
void kafka_await_reports(struct kafka *kafka, bool begin);

/* ---- state. Thread: any ---- */

/* Whether the reader has a position in every partition of this reply topic that it is to read: nothing is produced on a
 * route before. */
bool kafka_topic_has_position(const struct kafka *kafka, uint32_t reply_topic);
/* False once librdkafka said that no broker can be reached, until one was reached again. */
bool kafka_is_reachable(const struct kafka *kafka);

struct kafka_stats {
    uint64_t records; /* records read from reply topics */
    uint64_t delivered, not_persisted, uncertain;
    uint64_t forwarded, forward_failures; /* reported; those that kafka_forward() refused are not here */
    uint64_t offset_resets;               /* a position was lost and fell back to the earliest record */
    uint64_t partitions;                  /* partitions being read */
    uint64_t fatal_errors;                /* the producer failed for good and was replaced */
    uint64_t queue_len;                   /* messages in the producer's queue */
};
struct kafka_stats kafka_stats(const struct kafka *kafka);
