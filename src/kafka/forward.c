/* SPDX-License-Identifier: Apache-2.0 */
/* Records of reply topics, handed on to another topic.
 * Invariants:
 * - Nobody waits for such a message: its opaque is no handle of a request, but says what it is, and its size.
 * - What is under way of them is bounded in bytes. They share the producer's queue with the commands, and whatever comes in
 *   from the reply topics must leave room there. */
#include "internal.h"

/* Where a handle has its loop: no loop has this number. */
#define FORWARDED ((uint64_t)0xff << 56)
#define OVERHEAD  256u /* of a message in librdkafka's queue */

bool kafka_is_forwarded(uint64_t opaque)
{
    return opaque >= FORWARDED;
}

static uint64_t headers_size(const rd_kafka_headers_t *headers)
{
    const char *name;
    const void *value;
    size_t len;
    uint64_t size = 0;
    for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR;
         i++)
        size += strlen(name) + len;
    return size;
}

/* The record's own headers, in their order, then the others. Owned. */
static rd_kafka_headers_t *join_headers(const rd_kafka_message_t *message, const struct kafka_header *more,
                                        size_t count)
{
    rd_kafka_headers_t *own, *headers;
    if (rd_kafka_message_headers(message, &own) == RD_KAFKA_RESP_ERR_NO_ERROR)
        headers = rd_kafka_headers_copy(own);
    else
        headers = rd_kafka_headers_new(count);
    for (size_t i = 0; i < count; i++)
        rd_kafka_header_add(headers, more[i].name, -1, more[i].value.ptr, (ssize_t)more[i].value.len);
    return headers;
}

/* Counts the bytes as under way, or refuses them. */
static bool take_room(struct kafka *kafka, uint64_t size)
{
    uint64_t before = atomic_fetch_add_explicit(&kafka->forward_bytes, size, memory_order_relaxed);
    if (before + size <= KAFKA_FORWARD_BYTES_MAX)
        return true;
    atomic_fetch_sub_explicit(&kafka->forward_bytes, size, memory_order_relaxed);
    return false;
}

enum err_code kafka_forward(struct kafka *kafka, uint32_t command_topic, const struct kafka_record *record,
                            const struct kafka_header *headers, size_t header_count)
{
    const rd_kafka_message_t *message = record->message;
    if (!kafka_command_topic_is_ready(kafka, command_topic))
        return ERR_KAFKA_TOPIC;
    rd_kafka_headers_t *joined = join_headers(message, headers, header_count);
    uint64_t size = OVERHEAD + message->len + message->key_len + headers_size(joined);
    if (!take_room(kafka, size)) {
        rd_kafka_headers_destroy(joined);
        return ERR_KAFKA_QUEUE_FULL;
    }
    rd_kafka_vu_t vus[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT}, /* filled by kafka_producer_send() */
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {message->payload, message->len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {message->key, message->key_len}},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = (void *)(uintptr_t)(FORWARDED | size)},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = joined},
    };
    rd_kafka_error_t *error = kafka_producer_send(kafka, command_topic, vus, SG_ARRAY_LEN(vus));
    if (!error)
        return ERR_OK; /* the headers are librdkafka's now */
    atomic_fetch_sub_explicit(&kafka->forward_bytes, size, memory_order_relaxed);
    enum err_code code = kafka_translate_produce(rd_kafka_error_code(error));
    rd_kafka_error_destroy(error);
    rd_kafka_headers_destroy(joined);
    return code;
}

void kafka_forward_done(struct kafka *kafka, const rd_kafka_message_t *message)
{
    uint64_t size = (uint64_t)(uintptr_t)message->_private & ~FORWARDED, suppressed;
    atomic_fetch_sub_explicit(&kafka->forward_bytes, size, memory_order_relaxed);
    if (!message->err) {
        atomic_fetch_add_explicit(&kafka->forwarded, 1, memory_order_relaxed);
        return;
    }
    atomic_fetch_add_explicit(&kafka->forward_failures, 1, memory_order_relaxed);
    if (!log_limit_ok(&kafka->forward_limit, clock_mono_ns(), 1, &suppressed))
        return;
    struct log_line line;
    log_begin(&line, LOG_WARN, "dead letter not written");
    log_str(&line, "topic", rd_kafka_topic_name(message->rkt));
    log_str(&line, "reason", rd_kafka_err2name(message->err));
    log_u64(&line, "suppressed", suppressed);
    log_end(&line);
}
