/* SPDX-License-Identifier: Apache-2.0 */
/* Replies to our calls that cannot be used, for people to look at: they go to a topic of their own as they came, with the
 * reason and where they were. Best effort: it must never cost a command its place in the producer's queue. So a loop hands on
 * DEAD_LETTERS_PER_SECOND at most, and the room kafka bounds the bytes under way.
 * Only what carries the id of a call that waits here: each instance reads every record of every reply topic, and all of them
 * would write down what is nobody's. */
#include "internal.h"

#define DEAD_LETTERS_PER_SECOND 100
#define INSTANCE_LEN            8 /* an id begins with its instance */

static struct span number(char text[24], int64_t value)
{
    struct buf out = {text, 0, 24, false};
    buf_append_i64(&out, value);
    return buf_span(&out);
}

static enum err_code forward(const struct exchange *ex, const struct kafka_record *record, const char *reason)
{
    char partition[24], offset[24], timestamp[24];
    const struct kafka_header headers[] = {
        {"dead-letter-reason", span_of(reason)},
        {"dead-letter-topic", span_of(kafka_record_topic(record))},
        {"dead-letter-partition", number(partition, record->partition)},
        {"dead-letter-offset", number(offset, record->offset)},
        {"dead-letter-timestamp", number(timestamp, record->timestamp_ms)},
        {"dead-letter-instance", {ex->id_text, INSTANCE_LEN}},
    };
    return kafka_forward(ex->worker->shared->kafka, ex->view->plan->dead_letter_topic, record, headers,
                         SG_ARRAY_LEN(headers));
}

static void tell_failure(struct exchange *ex, enum err_code code)
{
    struct exchange_worker *worker = ex->worker;
    uint64_t suppressed;
    if (!log_limit_ok(&worker->dead_letter_log, loop_now_ns(worker->loop), 1, &suppressed))
        return;
    struct log_line line;
    log_begin(&line, LOG_WARN, "dead letter not written");
    log_str(&line, "topic", ex->view->plan->config->dead_letter_topic);
    log_str(&line, "reason", err_info(code)->label);
    log_str(&line, "correlationId", ex->id_text);
    log_u64(&line, "suppressed", suppressed);
    log_end(&line);
}

void exchange_dead_letter(struct exchange *ex, const struct kafka_record *record, const char *reason)
{
    struct exchange_worker *worker = ex->worker;
    const char *topic = ex->view->plan->config->dead_letter_topic;
    uint64_t unused;
    /* Found by its fields: its id is not ours. And a topic that is read only because an earlier configuration had replies
     * there must not feed itself. */
    if (!topic || record->by_fields || strcmp(topic, kafka_record_topic(record)) == 0)
        return;
    if (!log_limit_ok(&worker->dead_letters, loop_now_ns(worker->loop), DEAD_LETTERS_PER_SECOND, &unused)) {
        ops_count_dead_letter(worker->counters, OPS_DEAD_LETTER_SUPPRESSED);
        return;
    }
    enum err_code code = forward(ex, record, reason);
    if (code == ERR_OK)
        return; /* counted when it is reported */
    ops_count_dead_letter(worker->counters, OPS_DEAD_LETTER_FAILED);
    tell_failure(ex, code);
}
