/* SPDX-License-Identifier: Apache-2.0 */
/* await: correlation ids and the response-awaiter table. One table per loop, touched by that loop's thread only, so it has
 * no lock; Kafka holds ids and handles, never a pointer into it. Whoever removes an entry has won the request and
 * finishes it; everyone else finds nothing and is counted. It refuses to know what an entry means.
 * design.md sections 4 and 6; the bits of an id are described in docs/architecture.md. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/loop.h"

#define AWAIT_LOOPS_MAX 256u
#define AWAIT_SLOTS_MAX (1u << 24)

/* ---- correlation ids ---- */
struct await_id {
    uint8_t bytes[16]; /* a UUID version 4, RFC 9562 */
};
#define AWAIT_ID_TEXT_LEN 36
void await_id_format(const struct await_id *id, char out[AWAIT_ID_TEXT_LEN + 1]);
/* 8-4-4-4-12 hexadecimal digits in either case. Thread: any. */
bool await_id_parse(struct span text, struct await_id *ret_id);
static inline bool await_id_eq(const struct await_id *a, const struct await_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
/* True when this process made the id (its instance tag). The loop number still has to be range-checked. */
bool await_id_is_ours(const struct await_id *id, uint32_t instance);
unsigned await_id_loop(const struct await_id *id);
/* A random instance tag for this process. ERR_INTERNAL when the kernel gives no randomness. */
enum err_code await_instance_new(uint32_t *ret_instance) SG_NODISCARD;

/* Loop, slot and generation in 64 bits: what librdkafka's message opaque carries. Never 0. */
uint64_t await_id_handle(const struct await_id *id);
unsigned await_handle_loop(uint64_t handle);

/* ---- the table ---- */
#define AWAIT_WINNERS(X)                            \
    X(AWAIT_PENDING, "pending")                     \
    X(AWAIT_WON_REPLY, "reply")                     \
    X(AWAIT_WON_DEADLINE, "deadline")               \
    X(AWAIT_WON_PRODUCE_FAILURE, "produce_failure") \
    X(AWAIT_WON_CLIENT_GONE, "client_gone")         \
    X(AWAIT_WON_SHUTDOWN, "shutdown")               \
    X(AWAIT_WON_DELIVERED, "delivered")
enum await_winner {
#define X(code, name) code,
    AWAIT_WINNERS(X)
#undef X
        AWAIT_WINNER_COUNT
};
const char *await_winner_name(enum await_winner winner);

/* Embedded in its owner. All fields but on_deadline are private to the table. */
struct await_entry {
    struct await_id id;
    uint32_t slot; /* 1-based; 0: not in a table */
    struct loop_timer timer;
    struct await_table *table;
    /* The deadline won: the entry is out of the table already. Thread: loop. */
    void (*on_deadline)(struct await_entry *entry);
};

struct await_table;

/* Borrows loop. capacity: 1..AWAIT_SLOTS_MAX - 1 entries; memory grows as they are used. Returns owned, or NULL with *err. */
struct await_table *await_table_new(struct loop *loop, unsigned loop_number, uint32_t instance,
                                    uint32_t capacity, struct err *err);
/* Asserts that the table is empty. NULL-safe. */
void await_table_freep(struct await_table **table);

/* Gives the entry a new id and a slot, and sets its deadline (CLOCK_MONOTONIC). ERR_OVERLOADED: the table is full.
 * ERR_NO_MEMORY. The entry is borrowed until it is removed. Thread: loop. */
enum err_code await_add(struct await_table *table, struct await_entry *entry,
                        uint64_t deadline_ns) SG_NODISCARD;
/* Takes an entry out whose command was certainly not handed to Kafka: nobody won, nothing is remembered. Thread: loop. */
void await_withdraw(struct await_entry *entry);
/* An id without a slot, for calls that do not wait for Kafka: no reply can ever find it. Thread: loop. */
void await_id_without_slot(struct await_table *table, struct await_id *ret_id);
/* The entry with exactly this id, else NULL. Thread: loop. */
struct await_entry *await_find(struct await_table *table, const struct await_id *id);
/* The entry a delivery report speaks of, else NULL. Thread: loop. */
struct await_entry *await_find_handle(struct await_table *table, uint64_t handle);
/* Takes the entry out for `winner`; asserts that it is in. Thread: loop. */
void await_remove(struct await_entry *entry, enum await_winner winner);
static inline bool await_is_pending(const struct await_entry *entry)
{
    return entry->slot != 0;
}
/* Who won the request that had this id, as long as it is remembered (the last 8192 or so); AWAIT_PENDING: not known. */
enum await_winner await_past_winner(const struct await_table *table, const struct await_id *id);
/* The next entry behind *place, which begins at 0 and moves on; NULL: no more. Entries may be removed on the way. */
struct await_entry *await_next(struct await_table *table, uint32_t *place);
uint32_t await_count(const struct await_table *table);
/* How often each winner won. */
const uint64_t *await_wins(const struct await_table *table);

/* ---- the index by fields ----
 * For routes that let an event without a usable id finish a request (off by default). Shared by all loops because
 * "exactly one local request" is a question over all of them; one mutex (rank: leaf), taken only by such routes. */
struct await_fields;
struct await_fields_node;
struct await_fields *await_fields_new(void);
void await_fields_freep(struct await_fields **fields);
/* Registers a request under `key` (route, event and field values as text). Returns borrowed until removed; NULL without
 * memory. since_ms: unix ms of the command. Thread: loop. Locks: takes the index's. */
struct await_fields_node *await_fields_add(struct await_fields *fields, struct span key, uint64_t handle,
                                           int64_t since_ms);
void await_fields_remove(struct await_fields *fields, struct await_fields_node *node);
/* How many requests are under `key`; of the last one that was found the handle and its since_ms. Thread: any. Locks: takes the
 * index's. */
unsigned await_fields_find(struct await_fields *fields, struct span key, uint64_t *ret_handle,
                           int64_t *ret_since_ms);
