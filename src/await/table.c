/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - Everything here belongs to one loop's thread.
 * - slots[i].entry is NULL exactly when slot i is on the free list; a slot's generation changes when it is given
 *   out, so an id or a handle of an earlier tenant finds nobody.
 * - An entry is in the table exactly while its timer is set: the deadline is one of the racers and wins by
 *   removing the entry like every other. */
#include "syncgate/await.h"

#include <sys/random.h>

#include "id.h"

#define PAST_BITS 13 /* 8192 finished requests are remembered, to tell late from duplicate from unknown */

struct await_slot {
    struct await_entry *entry;
    uint32_t generation;
    uint32_t next_free;
};

struct await_past {
    struct await_id id;
    uint8_t winner;
};

struct await_table {
    struct loop *loop;
    unsigned loop_number;
    uint32_t instance;
    uint32_t capacity;
    struct await_slot *slots; /* [0] unused */
    uint32_t slots_used, slots_cap, free_slot;
    uint32_t count;
    uint8_t random[4096];
    size_t random_left;
    uint64_t wins[AWAIT_WINNER_COUNT];
    struct await_past past[1u << PAST_BITS]; /* direct-mapped by slot and generation */
};

const char *await_winner_name(enum await_winner winner)
{
    static const char *const names[] = {
#define X(code, name) name,
        AWAIT_WINNERS(X)
#undef X
    };
    SG_ASSERT((unsigned)winner < AWAIT_WINNER_COUNT);
    return names[winner];
}

struct await_table *await_table_new(struct loop *loop, unsigned loop_number, uint32_t instance,
                                    uint32_t capacity, struct err *err)
{
    SG_ASSERT(loop_number < AWAIT_LOOPS_MAX && capacity > 0 && capacity < AWAIT_SLOTS_MAX);
    struct await_table *table = calloc(1, sizeof(*table));
    if (!table) {
        err_set(err, ERR_NO_MEMORY, "out of memory for the awaiter table");
        return NULL;
    }
    table->loop = loop;
    table->loop_number = loop_number;
    table->instance = instance;
    table->capacity = capacity;
    return table;
}

void await_table_freep(struct await_table **table_ptr)
{
    struct await_table *table = *table_ptr;
    if (!table)
        return;
    SG_ASSERT(table->count == 0);
    *table_ptr = NULL;
    free(table->slots);
    free(table);
}

static const uint8_t *random_take(struct await_table *table, size_t len)
{
    if (table->random_left < len) {
        /* A block at a time: a system call per request costs 2 us. Only the kernel's own failure can leave old bytes
         * here, and uniqueness does not hang on them (slot and generation are unique in this process). */
        (void)!getrandom(table->random, sizeof(table->random), 0);
        table->random_left = sizeof(table->random);
    }
    table->random_left -= len;
    return table->random + table->random_left;
}

static uint32_t slot_take(struct await_table *table)
{
    uint32_t slot = table->free_slot;
    if (slot) {
        table->free_slot = table->slots[slot].next_free;
        return slot;
    }
    if (table->slots_used + 1 >= table->slots_cap) {
        uint32_t cap = table->slots_cap ? table->slots_cap * 2 : 64;
        struct await_slot *slots = realloc(table->slots, cap * sizeof(*slots));
        if (!slots)
            return 0;
        table->slots = slots;
        table->slots_cap = cap;
    }
    slot = ++table->slots_used;
    uint32_t generation;
    memcpy(&generation, random_take(table, sizeof(generation)), sizeof(generation));
    table->slots[slot] = (struct await_slot){.generation = generation};
    return slot;
}

static void on_timer(struct loop_timer *timer)
{
    struct await_entry *entry = SG_CONTAINER_OF(timer, struct await_entry, timer);
    await_remove(entry, AWAIT_WON_DEADLINE);
    entry->on_deadline(entry);
}

enum err_code await_add(struct await_table *table, struct await_entry *entry, uint64_t deadline_ns)
{
    SG_ASSERT(entry->slot == 0);
    if (table->count >= table->capacity)
        return ERR_OVERLOADED;
    uint32_t slot = slot_take(table);
    if (!slot)
        return ERR_NO_MEMORY;
    struct await_slot *slots = table->slots;
    entry->timer.on_timer = on_timer;
    enum err_code code = loop_timer_set(table->loop, &entry->timer, deadline_ns);
    if (code != ERR_OK) {
        slots[slot].next_free = table->free_slot;
        table->free_slot = slot;
        return code;
    }
    slots[slot].entry = entry;
    slots[slot].generation++;
    entry->slot = slot;
    entry->table = table;
    await_id_make(&entry->id, random_take(table, AWAIT_ID_RANDOM), table->instance, table->loop_number, slot,
                  slots[slot].generation);
    table->count++;
    return ERR_OK;
}

struct await_entry *await_find(struct await_table *table, const struct await_id *id)
{
    uint32_t slot = await_id_slot(id);
    if (slot == 0 || slot > table->slots_used)
        return NULL;
    struct await_entry *entry = table->slots[slot].entry;
    return entry && await_id_eq(&entry->id, id) ? entry : NULL;
}

struct await_entry *await_find_handle(struct await_table *table, uint64_t handle)
{
    uint32_t slot = (uint32_t)(handle >> 32) & (AWAIT_SLOTS_MAX - 1);
    if (await_handle_loop(handle) != table->loop_number || slot == 0 || slot > table->slots_used)
        return NULL;
    struct await_slot *at = &table->slots[slot];
    return at->entry && at->generation == (uint32_t)handle ? at->entry : NULL;
}

static uint32_t past_index(const struct await_id *id)
{
    /* Neighbouring slots and successive generations of one slot must not fall on one place. */
    uint32_t mixed = await_id_slot(id) * 2654435761u + await_id_generation(id);
    return (mixed * 2246822519u) >> (32 - PAST_BITS);
}

void await_withdraw(struct await_entry *entry)
{
    struct await_table *table = entry->table;
    SG_ASSERT(entry->slot != 0);
    struct await_slot *slot = &table->slots[entry->slot];
    SG_ASSERT(slot->entry == entry);
    loop_timer_cancel(table->loop, &entry->timer);
    slot->entry = NULL;
    slot->next_free = table->free_slot;
    table->free_slot = entry->slot;
    entry->slot = 0;
    table->count--;
}

void await_remove(struct await_entry *entry, enum await_winner winner)
{
    struct await_table *table = entry->table;
    SG_ASSERT(winner > AWAIT_PENDING && winner < AWAIT_WINNER_COUNT);
    await_withdraw(entry);
    table->wins[winner]++;
    table->past[past_index(&entry->id)] = (struct await_past){entry->id, (uint8_t)winner};
}

void await_id_without_slot(struct await_table *table, struct await_id *ret_id)
{
    uint32_t generation;
    memcpy(&generation, random_take(table, sizeof(generation)), sizeof(generation));
    await_id_make(ret_id, random_take(table, AWAIT_ID_RANDOM), table->instance, table->loop_number, 0,
                  generation);
}

enum await_winner await_past_winner(const struct await_table *table, const struct await_id *id)
{
    const struct await_past *past = &table->past[past_index(id)];
    return await_id_eq(&past->id, id) ? (enum await_winner)past->winner : AWAIT_PENDING;
}

struct await_entry *await_next(struct await_table *table, uint32_t *place)
{
    while (*place < table->slots_used) {
        struct await_entry *entry = table->slots[++*place].entry;
        if (entry)
            return entry;
    }
    return NULL;
}

uint32_t await_count(const struct await_table *table)
{
    return table->count;
}

const uint64_t *await_wins(const struct await_table *table)
{
    return table->wins;
}
