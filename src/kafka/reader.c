/* SPDX-License-Identifier: Apache-2.0 */
/* The reader thread: replies and delivery reports, sorted into one batch per loop.
 * Invariants:
 * - librdkafka signals a descriptor only when its queue becomes non-empty, so the reader never sleeps before a queue is drained to
 *   the end.
 * - Only this thread touches the outboxes (kafka_stop() does after it ended). A posted batch belongs to its loop.
 * - Good news that nobody waits for (a delivered message only lets the kept body go) is not worth waking a loop: it
 *   rides with the next reply, or goes after LAZY_MS.
 * - While report_waiters is not 0, reports wake the reader. It mutes them first and looks at the waiters then; who waits counts
 *   itself first and looks at the mute then: one of the two sees the other. */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

#define LAZY_MS       20
#define LOOK_MS       1000 /* a missed signal costs a second, not a reply */
#define DRAIN_BATCHES 8    /* of records, then reports are looked at */

/* Thread: loop. */
static void on_batch(struct loop_msg *msg)
{
    struct kafka_batch *batch = SG_CONTAINER_OF(msg, struct kafka_batch, msg);
    const struct kafka_handler *handler = &batch->kafka->handler;
    for (size_t i = 0; i < batch->delivery_count; i++)
        handler->on_delivery(batch->loop_arg, batch->deliveries[i].handle, batch->deliveries[i].delivery,
                             batch->deliveries[i].code);
    for (size_t i = 0; i < batch->record_count; i++) {
        handler->on_reply(batch->loop_arg, &batch->records[i]);
        rd_kafka_message_destroy(batch->records[i].message);
    }
    free(atomic_exchange_explicit(&batch->outbox->spare, batch, memory_order_acq_rel));
}

static void post(struct kafka *kafka, size_t loop_number)
{
    struct kafka_outbox *outbox = &kafka->outboxes[loop_number];
    struct kafka_batch *batch = outbox->batch;
    if (!batch)
        return;
    outbox->batch = NULL;
    outbox->urgent = false;
    loop_post(kafka->loops[loop_number], &batch->msg);
}

static struct kafka_batch *batch_for(struct kafka *kafka, size_t loop_number)
{
    struct kafka_outbox *outbox = &kafka->outboxes[loop_number];
    if (outbox->batch &&
        (outbox->batch->record_count == KAFKA_BATCH || outbox->batch->delivery_count == KAFKA_BATCH))
        post(kafka, loop_number);
    if (!outbox->batch) {
        struct kafka_batch *batch = atomic_exchange_explicit(&outbox->spare, NULL, memory_order_acq_rel);
        if (!batch && !(batch = malloc(sizeof(*batch))))
            return NULL;
        batch->msg.on_msg = on_batch;
        batch->kafka = kafka;
        batch->outbox = outbox;
        batch->loop_arg = kafka->loop_args[loop_number];
        batch->record_count = batch->delivery_count = 0;
        outbox->batch = batch;
    }
    return outbox->batch;
}

/* True while something waits to be posted lazily. */
static bool post_urgent(struct kafka *kafka)
{
    bool lazy = false;
    for (size_t i = 0; i < kafka->loop_count; i++) {
        if (kafka->outboxes[i].urgent)
            post(kafka, i);
        lazy |= kafka->outboxes[i].batch != NULL;
    }
    return lazy;
}

void kafka_reader_post_all(struct kafka *kafka)
{
    for (size_t i = 0; i < kafka->loop_count; i++)
        post(kafka, i);
}

/* ---- delivery reports ---- */

/* Whether the message is certainly not in the log. librdkafka says NOT_PERSISTED for every broker error that it has no rule
 * for, and for a storage error. But a leader may have appended the batch before it failed in an unexpected way, and
 * before its disk went away while it waited for the other replicas: they may have it. The same holds when a leader was refused
 * ("not leader") and the message could not be sent again in time: is_refusal() in clients.c. Whose message was refused is
 * told nowhere, so any refusal since the hand-over makes it uncertain. */
static bool is_certain(const struct kafka *kafka, const rd_kafka_message_t *message)
{
    uint64_t refused_ns = atomic_load_explicit(&kafka->refused_ns, memory_order_acquire);
    int64_t latency_us = rd_kafka_message_latency(message);
    uint64_t age_ns = latency_us > 0 ? ((uint64_t)latency_us + 1) * 1000 : UINT32_MAX;
    if (refused_ns && refused_ns + age_ns >= clock_mono_ns())
        return false;
    return rd_kafka_message_status(message) == RD_KAFKA_MSG_STATUS_NOT_PERSISTED &&
           message->err != RD_KAFKA_RESP_ERR_UNKNOWN && message->err != RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR;
}

bool kafka_is_of_topic(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
        return true;
    default:
        return false;
    }
}

void kafka_on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct kafka *kafka = opaque;
    uint64_t handle = (uint64_t)(uintptr_t)message->_private;
    if (kafka_is_forwarded(handle)) {
        kafka_forward_done(kafka, message);
        return;
    }
    enum kafka_delivery delivery = KAFKA_DELIVERED;
    enum err_code code = ERR_OK;
    if (message->err) {
        bool certain = is_certain(kafka, message);
        delivery = certain ? KAFKA_NOT_PERSISTED : KAFKA_UNCERTAIN;
        code = !certain                                               ? ERR_KAFKA_UNCERTAIN
               : message->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ? ERR_KAFKA_TOO_LARGE
               : kafka_is_of_topic(message->err)                      ? ERR_KAFKA_TOPIC
                                                                      : ERR_KAFKA_NOT_PERSISTED;
    }
    atomic_fetch_add_explicit(delivery == KAFKA_DELIVERED       ? &kafka->delivered
                              : delivery == KAFKA_NOT_PERSISTED ? &kafka->not_persisted
                                                                : &kafka->uncertain,
                              1, memory_order_relaxed);
    size_t loop_number = await_handle_loop(handle);
    SG_ASSERT(loop_number < kafka->loop_count); /* our own handle comes back */
    struct kafka_batch *batch = batch_for(kafka, loop_number);
    if (!batch)
        return; /* out of memory: the request's deadline ends it, and it is not repeated */
    batch->deliveries[batch->delivery_count].handle = handle;
    batch->deliveries[batch->delivery_count].delivery = delivery;
    batch->deliveries[batch->delivery_count++].code = code;
    kafka->outboxes[loop_number].urgent |=
        delivery != KAFKA_DELIVERED || atomic_load_explicit(&kafka->report_waiters, memory_order_relaxed) > 0;
}

/* ---- replies ---- */

struct span kafka_record_header(const struct kafka_record *record, const char *name)
{
    rd_kafka_headers_t *headers;
    const void *value;
    size_t len;
    if (!record->message ||
        rd_kafka_message_headers(record->message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
        rd_kafka_header_get_last(headers, name, &value, &len) != RD_KAFKA_RESP_ERR_NO_ERROR || !value)
        return (struct span){NULL, 0};
    return (struct span){value, len};
}

const char *kafka_record_topic(const struct kafka_record *record)
{
    return rd_kafka_topic_name(((const rd_kafka_message_t *)record->message)->rkt);
}

/* Records come in runs of one topic; a look through 32 names takes 0.2 us when they do not. */
static bool topic_index(struct kafka *kafka, const rd_kafka_message_t *message, uint32_t *ret_index)
{
    const char *name = rd_kafka_topic_name(message->rkt);
    char *const *names = kafka->reply_topics.names;
    uint32_t count = kafka_names_count(&kafka->reply_topics), i = kafka->last_topic;
    if (i >= count || strcmp(names[i], name) != 0)
        for (i = 0; i < count && strcmp(names[i], name) != 0; i++)
            ;
    if (i == count)
        return false;
    *ret_index = kafka->last_topic = i;
    return true;
}

/* A position that the broker no longer has (retention, a topic made anew): read from the earliest record. */
static void reset_offset(struct kafka *kafka, const rd_kafka_message_t *message)
{
    const char *topic = message->rkt ? rd_kafka_topic_name(message->rkt) : NULL;
    if (!topic)
        return;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, message->partition)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_error_t *error = rd_kafka_incremental_unassign(kafka->consumer, list);
    if (!error)
        error = rd_kafka_incremental_assign(kafka->consumer, list);
    atomic_fetch_add_explicit(&kafka->offset_resets, 1, memory_order_relaxed);
    struct log_line line;
    log_begin(&line, LOG_WARN, "reply position lost, reading from the earliest record");
    log_str(&line, "topic", topic);
    log_i64(&line, "partition", message->partition);
    log_str(&line, "error", error ? rd_kafka_error_string(error) : NULL);
    log_end(&line);
    if (error)
        rd_kafka_error_destroy(error);
    rd_kafka_topic_partition_list_destroy(list);
}

static void consumer_error(struct kafka *kafka, const rd_kafka_message_t *message)
{
    if (message->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        reset_offset(kafka, message);
        return;
    }
    struct log_line line;
    log_begin(&line, LOG_WARN, "reply consumer error");
    log_str(&line, "topic", message->rkt ? rd_kafka_topic_name(message->rkt) : NULL);
    log_i64(&line, "partition", message->partition);
    log_str(&line, "code", rd_kafka_err2name(message->err));
    log_end(&line);
}

/* Takes the message or destroys it. */
static void on_message(struct kafka *kafka, rd_kafka_message_t *message)
{
    struct kafka_record record = {
        .partition = message->partition, .offset = message->offset, .message = message};
    bool wanted = false;
    if (message->err)
        consumer_error(kafka, message);
    else if (topic_index(kafka, message, &record.topic)) {
        rd_kafka_timestamp_type_t type;
        int64_t timestamp = rd_kafka_message_timestamp(message, &type);
        record.timestamp_ms = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || timestamp < 0 ? 0 : timestamp;
        record.value = (struct span){message->payload, message->payload ? message->len : 0};
        atomic_fetch_add_explicit(&kafka->records, 1, memory_order_relaxed);
        wanted = kafka->handler.on_record(kafka->handler.arg, &record);
    }
    size_t loop_number = wanted ? await_handle_loop(record.handle) : 0;
    struct kafka_batch *batch =
        wanted && loop_number < kafka->loop_count ? batch_for(kafka, loop_number) : NULL;
    if (!batch) {
        rd_kafka_message_destroy(message);
        return;
    }
    batch->records[batch->record_count++] = record;
    kafka->outboxes[loop_number].urgent = true;
}

/* True when there may be more: through a backlog of records, reports must get their turn. */
static bool drain_replies(struct kafka *kafka)
{
    rd_kafka_message_t *messages[KAFKA_BATCH];
    ssize_t count;
    int batches = 0;
    do {
        count = rd_kafka_consume_batch_queue(kafka->reply_queue, 0, messages, KAFKA_BATCH);
        for (ssize_t i = 0; i < count; i++)
            on_message(kafka, messages[i]);
        post_urgent(kafka);
    } while (count > 0 && ++batches < DRAIN_BATCHES);
    return count > 0;
}

static void clear_event(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

/* Whether delivery reports wake the reader. */
static void mute_reports(struct kafka *kafka, bool mute)
{
    struct epoll_event event = {.events = mute ? 0 : EPOLLIN, .data.fd = kafka->delivery_fd};
    if (atomic_exchange(&kafka->reports_muted, mute) != mute)
        epoll_ctl(kafka->epoll_fd, EPOLL_CTL_MOD, kafka->delivery_fd, &event);
}

static bool reports_are_awaited(const struct kafka *kafka)
{
    return atomic_load(&kafka->report_waiters) > 0;
}

void kafka_await_reports(struct kafka *kafka, bool begin)
{
    const uint64_t one = 1;
    if (!begin) {
        unsigned before = atomic_fetch_sub(&kafka->report_waiters, 1);
        SG_ASSERT(before > 0);
        return;
    }
    atomic_fetch_add(&kafka->report_waiters, 1);
    /* The reader sleeps with its ears shut: as a reply would wake it. */
    if (atomic_load(&kafka->reports_muted) && write(kafka->reply_fd, &one, sizeof(one)) < 0)
        SG_ASSERT(errno == EAGAIN);
}

void *kafka_reader_main(void *arg)
{
    struct kafka *kafka = arg;
    uint64_t lazy_since_ns = 0; /* 0: nothing waits to be posted */
    while (!atomic_load(&kafka->stopping)) {
        /* Both, whichever was signalled: a reply and its command's report come at the same time, and one look at a queue
         * costs less than a turn of this loop. Before the first wait, too: what came before the descriptors were watched
         * (a broker that is not there) signals nobody. */
        kafka_producer_serve(kafka);
        bool more = drain_replies(kafka), lazy = post_urgent(kafka);
        uint64_t now_ns = lazy ? clock_mono_ns() : 0;
        if (lazy && lazy_since_ns && now_ns - lazy_since_ns >= LAZY_MS * SG_NSEC_PER_MSEC) {
            kafka_reader_post_all(kafka); /* strangers' records may leave no quiet moment for it below */
            lazy = false;
        }
        lazy_since_ns = !lazy ? 0 : lazy_since_ns ? lazy_since_ns : now_ns;
        if (reports_are_awaited(kafka))
            mute_reports(kafka, false);
        lazy |= atomic_load(&kafka->reports_muted);
        struct epoll_event events[4];
        int count = epoll_wait(kafka->epoll_fd, events, SG_ARRAY_LEN(events),
                               more   ? 0
                               : lazy ? LAZY_MS
                                      : LOOK_MS);
        if (count == 0 && !more) {
            kafka_reader_post_all(kafka);
            mute_reports(kafka, false);
        }
        for (int i = 0; i < count; i++) {
            clear_event(events[i].data.fd);
            /* Where there is one report there are more, and replies that wake us anyway: while traffic flows reports ride
             * with them, and a failure is at most LAZY_MS late. Unless somebody waits for one. */
            if (events[i].data.fd == kafka->delivery_fd && !reports_are_awaited(kafka))
                mute_reports(kafka, true);
        }
    }
    return NULL;
}
