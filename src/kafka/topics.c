/* SPDX-License-Identifier: Apache-2.0 */
/* The names of the topics, which grow while everything runs.
 * Invariants:
 * - Only main adds. A name is written before the count that covers it is published, and neither changes nor goes until
 *   kafka_freep(): whoever has read a count may read the names below it without a lock, for as long as the object lives.
 * - Adding tells the watcher, and nobody else. It prepares the topics at its own time; until then a reply topic has no
 *   position and a command topic is not ready. */
#include "internal.h"

static uint32_t find(const struct kafka_names *names, uint32_t count, struct span name)
{
    uint32_t i = 0;
    while (i < count && !span_eq(span_of(names->names[i]), name))
        i++;
    return i;
}

enum err_code kafka_names_add(struct kafka_names *names, const struct span *add, size_t count,
                              uint32_t *ret_index)
{
    const uint32_t old_end = atomic_load_explicit(&names->count, memory_order_relaxed); /* our own */
    uint32_t end = old_end;
    enum err_code code = ERR_OK;
    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        uint32_t index = find(names, end, add[i]);
        ret_index[i] = index;
        if (index < end)
            continue;
        if (end == KAFKA_TOPICS_MAX)
            code = ERR_OVERLOADED;
        else if (!(names->names[end] = span_dup(add[i])))
            code = ERR_NO_MEMORY;
        else
            end++;
    }
    if (code == ERR_OK) {
        atomic_store_explicit(&names->count, end, memory_order_release);
        return ERR_OK;
    }
    while (end > old_end) { /* nobody has seen them */
        free(names->names[--end]);
        names->names[end] = NULL;
    }
    return code;
}

void kafka_names_fini(struct kafka_names *names)
{
    for (uint32_t i = 0; i < kafka_names_count(names); i++)
        free(names->names[i]);
}

static enum err_code add_and_tell(struct kafka *kafka, struct kafka_names *names, const struct span *add,
                                  size_t count, uint32_t *ret_index)
{
    uint32_t before = kafka_names_count(names);
    enum err_code code = kafka_names_add(names, add, count, ret_index);
    if (kafka_names_count(names) != before)
        kafka_watcher_wake(kafka);
    return code;
}

enum err_code kafka_add_reply_topics(struct kafka *kafka, const struct span *names, size_t count,
                                     uint32_t *ret_index)
{
    return add_and_tell(kafka, &kafka->reply_topics, names, count, ret_index);
}

enum err_code kafka_add_command_topics(struct kafka *kafka, const struct span *names, size_t count,
                                       uint32_t *ret_index)
{
    return add_and_tell(kafka, &kafka->command_topics, names, count, ret_index);
}
