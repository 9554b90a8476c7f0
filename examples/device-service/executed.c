/* SPDX-License-Identifier: Apache-2.0 */
#include "executed.h"

#include <stdlib.h>
#include <string.h>

#define EXECUTED_MAX 100000u
#define BUCKETS      (1u << 17)

struct entry {
    char id[EXECUTED_ID_SIZE];
    struct outcome outcome;
    uint32_t redelivered;
    uint32_t next; /* in its bucket; 0: last */
};

struct executed {
    uint32_t newest, count;
    uint32_t buckets[BUCKETS];              /* index of an entry; 0: empty */
    struct entry entries[EXECUTED_MAX + 1]; /* a ring; [0] is unused */
};

struct executed *executed_new(void)
{
    return or_die(calloc(1, sizeof(struct executed)));
}

void executed_freep(struct executed **executed)
{
    free(*executed);
    *executed = NULL;
}

static uint32_t *bucket_of(struct executed *executed, const char *id)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * 16777619u;
    return &executed->buckets[hash % BUCKETS];
}

bool executed_recall(struct executed *executed, const char *id, struct outcome *ret_outcome)
{
    for (uint32_t i = *bucket_of(executed, id); i; i = executed->entries[i].next) {
        struct entry *entry = &executed->entries[i];
        if (strcmp(entry->id, id) == 0) {
            entry->redelivered++;
            *ret_outcome = entry->outcome;
            return true;
        }
    }
    return false;
}

void executed_add(struct executed *executed, const char *id, struct outcome outcome)
{
    executed->newest = executed->newest % EXECUTED_MAX + 1;
    struct entry *entry = &executed->entries[executed->newest];
    if (executed->count < EXECUTED_MAX) {
        executed->count++;
    } else { /* full: this place is the oldest's */
        uint32_t *at = bucket_of(executed, entry->id);
        while (*at != executed->newest)
            at = &executed->entries[*at].next;
        *at = entry->next;
    }
    uint32_t *bucket = bucket_of(executed, id);
    *entry = (struct entry){.outcome = outcome, .next = *bucket};
    memcpy(entry->id, id, strlen(id) + 1);
    *bucket = executed->newest;
}

json_t *executed_counts(const struct executed *executed, bool redelivered)
{
    json_t *counts = json_object();
    for (uint32_t i = 1; i <= executed->count; i++) {
        const struct entry *entry = &executed->entries[i];
        if (!redelivered || entry->redelivered)
            json_object_set_new(counts, entry->id, json_integer(redelivered ? entry->redelivered : 1));
    }
    return counts;
}
