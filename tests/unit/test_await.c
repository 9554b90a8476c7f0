/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "../../src/await/id.h"
#include "syncgate/await.h"

#define INSTANCE 0xdeadbeefu
#define FAR_NS   (3600 * SG_NSEC_PER_SEC)

/* ---- ids ---- */

static void test_id_fields_survive(void **state)
{
    (void)state;
    static const struct {
        uint32_t instance;
        unsigned loop;
        uint32_t slot, generation;
    } cases[] = {
        {0, 0, 1, 0},
        {0, 0, 1, UINT32_MAX},
        {UINT32_MAX, 255, AWAIT_SLOTS_MAX - 1, UINT32_MAX},
        {INSTANCE, 7, 0x010203, 0x04050607},
        {0x80000000u, 128, 0x800000, 0x80000000u},
    };
    static const uint8_t randoms[][AWAIT_ID_RANDOM] = {{0, 0, 0, 0}, {255, 255, 255, 255}, {1, 2, 3, 4}};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        for (size_t r = 0; r < SG_ARRAY_LEN(randoms); r++) {
            struct await_id id, again;
            char text[AWAIT_ID_TEXT_LEN + 1];
            await_id_make(&id, randoms[r], cases[i].instance, cases[i].loop, cases[i].slot,
                          cases[i].generation);
            assert_int_equal(id.bytes[6] >> 4, 4); /* version */
            assert_int_equal(id.bytes[8] >> 6, 2); /* variant */
            assert_true(await_id_is_ours(&id, cases[i].instance));
            assert_false(await_id_is_ours(&id, cases[i].instance ^ 1));
            assert_int_equal(await_id_loop(&id), cases[i].loop);
            assert_int_equal(await_id_slot(&id), cases[i].slot);
            assert_int_equal(await_id_generation(&id), cases[i].generation);
            uint64_t handle = await_id_handle(&id);
            assert_true(handle != 0);
            assert_int_equal(await_handle_loop(handle), cases[i].loop);
            assert_int_equal((uint32_t)handle, cases[i].generation);
            await_id_format(&id, text);
            assert_int_equal(strlen(text), AWAIT_ID_TEXT_LEN);
            assert_int_equal(text[14], '4');
            assert_non_null(strchr("89ab", text[19]));
            assert_true(await_id_parse(span_of(text), &again));
            assert_true(await_id_eq(&id, &again));
        }
    }
}

static void test_id_text(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {
        {"00112233-4455-4677-8899-aabbccddeeff", true},
        {"00112233-4455-4677-8899-AABBCCDDEEFF", true},
        {"", false},
        {"00112233-4455-4677-8899-aabbccddeef", false},
        {"00112233-4455-4677-8899-aabbccddeefff", false},
        {"00112233445546778899aabbccddeeff", false},
        {"00112233445546778899aabbccddeeff----", false},
        {"{0112233-4455-4677-8899-aabbccddeef}", false},
        {"00112233-4455-4677-8899-aabbccddeefg", false},
        {"0011223--4455-4677-8899-aabbccddeeff", false},
        {"00112233_4455-4677-8899-aabbccddeeff", false},
        {"00112233-4455-4677-8899_aabbccddeeff", false},
        {" 0112233-4455-4677-8899-aabbccddeeff", false},
        {"0x112233-4455-4677-8899-aabbccddeeff", false},
        {"+0112233-4455-4677-8899-aabbccddeeff", false},
        {"\xc3\xa9\x31\x31\x32\x32\x33\x33-4455-4677-8899-aabbccddeeff", false},
    };
    struct await_id lower, id;
    assert_true(await_id_parse(span_of(cases[0].text), &lower));
    assert_int_equal(lower.bytes[0], 0x00);
    assert_int_equal(lower.bytes[15], 0xff);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        if (await_id_parse(span_of(cases[i].text), &id) != cases[i].ok)
            fail_msg("'%s'", cases[i].text);
        if (cases[i].ok)
            assert_true(await_id_eq(&id, &lower));
    }
    assert_false(await_id_parse((struct span){NULL, 0}, &id));
    /* Every single foreign byte at every place. */
    for (size_t at = 0; at < AWAIT_ID_TEXT_LEN; at++) {
        for (int c = 0; c < 256; c++) {
            char text[AWAIT_ID_TEXT_LEN + 1];
            memcpy(text, cases[0].text, sizeof(text));
            text[at] = (char)c;
            bool dash = at == 8 || at == 13 || at == 18 || at == 23;
            bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
            assert_int_equal(await_id_parse((struct span){text, AWAIT_ID_TEXT_LEN}, &id),
                             dash ? c == '-' : hex);
        }
    }
}

static void test_instances_differ(void **state)
{
    (void)state;
    uint32_t a = 0, b = 0, c = 0;
    assert_int_equal(await_instance_new(&a), ERR_OK);
    assert_int_equal(await_instance_new(&b), ERR_OK);
    assert_int_equal(await_instance_new(&c), ERR_OK);
    assert_false(a == b && b == c);
}

/* ---- the table ---- */

struct desk {
    struct loop *loop;
    struct await_table *table;
};

static void desk_init(struct desk *desk, unsigned loop_number, uint32_t capacity)
{
    desk->loop = loop_new(NULL);
    desk->table = await_table_new(desk->loop, loop_number, INSTANCE, capacity, NULL);
    assert_non_null(desk->table);
}

static void desk_fini(struct desk *desk)
{
    await_table_freep(&desk->table);
    assert_null(desk->table);
    loop_freep(&desk->loop);
}

static void on_no_deadline(struct await_entry *entry)
{
    (void)entry;
    fail_msg("a deadline fired that was an hour away");
}

static enum err_code add_far(struct desk *desk, struct await_entry *entry)
{
    entry->on_deadline = on_no_deadline;
    return await_add(desk->table, entry, loop_now_ns(desk->loop) + FAR_NS);
}

static void test_capacity(void **state)
{
    (void)state;
    struct desk desk;
    struct await_entry entries[4] = {0};
    desk_init(&desk, 3, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(add_far(&desk, &entries[i]), ERR_OK);
    assert_int_equal(add_far(&desk, &entries[3]), ERR_OVERLOADED);
    assert_false(await_is_pending(&entries[3]));
    assert_false(loop_timer_is_set(&entries[3].timer));
    assert_int_equal(await_count(desk.table), 3);
    await_remove(&entries[1], AWAIT_WON_REPLY);
    assert_int_equal(add_far(&desk, &entries[3]), ERR_OK);
    assert_int_equal(add_far(&desk, &entries[1]), ERR_OVERLOADED);
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(await_find(desk.table, &entries[i == 1 ? 3 : i].id), &entries[i == 1 ? 3 : i]);
    uint32_t place = 0;
    for (struct await_entry *entry; (entry = await_next(desk.table, &place));)
        await_remove(entry, AWAIT_WON_SHUTDOWN);
    assert_int_equal(await_wins(desk.table)[AWAIT_WON_SHUTDOWN], 3);
    desk_fini(&desk);
}

static void test_slot_reuse_finds_nobody_else(void **state)
{
    (void)state;
    struct desk desk;
    struct await_entry entry = {0};
    struct await_id seen[64];
    desk_init(&desk, 0, 1);
    for (int round = 0; round < 64; round++) {
        assert_int_equal(add_far(&desk, &entry), ERR_OK);
        seen[round] = entry.id;
        assert_int_equal(await_id_slot(&entry.id), await_id_slot(&seen[0])); /* it is the same slot */
        assert_ptr_equal(await_find(desk.table, &seen[round]), &entry);
        assert_ptr_equal(await_find_handle(desk.table, await_id_handle(&seen[round])), &entry);
        for (int old = 0; old < round; old++) {
            assert_false(await_id_eq(&seen[old], &entry.id));
            assert_null(await_find(desk.table, &seen[old]));
            assert_null(await_find_handle(desk.table, await_id_handle(&seen[old])));
        }
        /* The slot and the generation are right, one of the other bits is not: somebody else's id. */
        for (int byte = 0; byte < 16; byte++) {
            struct await_id other = entry.id;
            other.bytes[byte] ^= 0x01;
            assert_null(await_find(desk.table, &other));
        }
        await_remove(&entry, AWAIT_WON_REPLY);
        assert_false(await_is_pending(&entry));
        assert_false(loop_timer_is_set(&entry.timer));
        assert_null(await_find(desk.table, &seen[round]));
        assert_null(await_find_handle(desk.table, await_id_handle(&seen[round])));
    }
    desk_fini(&desk);
}

static void test_handles_out_of_range(void **state)
{
    (void)state;
    struct desk desk;
    struct await_entry entry = {0};
    desk_init(&desk, 5, 10);
    static const uint64_t empty[] = {0, UINT64_MAX, UINT64_C(5) << 56, UINT64_C(5) << 56 | UINT64_C(1) << 32};
    for (size_t i = 0; i < SG_ARRAY_LEN(empty); i++)
        assert_null(await_find_handle(desk.table, empty[i]));
    assert_int_equal(add_far(&desk, &entry), ERR_OK);
    uint64_t handle = await_id_handle(&entry.id);
    assert_int_equal(await_handle_loop(handle), 5);
    assert_int_equal(await_id_loop(&entry.id), 5);
    assert_ptr_equal(await_find_handle(desk.table, handle), &entry);
    for (int bit = 0; bit < 64; bit++)
        assert_null(await_find_handle(desk.table, handle ^ UINT64_C(1) << bit));
    static const uint32_t slots[] = {0, 2, 63, 64, 65, AWAIT_SLOTS_MAX - 1};
    for (size_t i = 0; i < SG_ARRAY_LEN(slots); i++) {
        struct await_id id;
        await_id_make(&id, (const uint8_t[AWAIT_ID_RANDOM]){0}, INSTANCE, 5, slots[i],
                      await_id_generation(&entry.id));
        assert_null(await_find(desk.table, &id));
        assert_null(await_find_handle(desk.table, await_id_handle(&id)));
    }
    await_remove(&entry, AWAIT_WON_REPLY);
    desk_fini(&desk);
}

static void test_past_winners(void **state)
{
    (void)state;
    struct desk desk;
    struct await_entry entry = {0};
    struct await_id ids[AWAIT_WINNER_COUNT], withdrawn, slotless;
    desk_init(&desk, 0, 4);
    for (int winner = AWAIT_PENDING + 1; winner < AWAIT_WINNER_COUNT; winner++) {
        assert_int_equal(add_far(&desk, &entry), ERR_OK);
        ids[winner] = entry.id;
        assert_int_equal(await_past_winner(desk.table, &entry.id), AWAIT_PENDING);
        await_remove(&entry, (enum await_winner)winner);
    }
    for (int winner = AWAIT_PENDING + 1; winner < AWAIT_WINNER_COUNT; winner++) {
        assert_int_equal(await_past_winner(desk.table, &ids[winner]), winner);
        assert_int_equal(await_wins(desk.table)[winner], 1);
    }
    assert_int_equal(add_far(&desk, &entry), ERR_OK);
    withdrawn = entry.id;
    await_withdraw(&entry);
    assert_int_equal(await_count(desk.table), 0);
    assert_null(await_find(desk.table, &withdrawn));
    assert_int_equal(await_past_winner(desk.table, &withdrawn), AWAIT_PENDING);
    uint64_t sum = 0;
    for (int winner = 0; winner < AWAIT_WINNER_COUNT; winner++)
        sum += await_wins(desk.table)[winner];
    assert_int_equal(sum, AWAIT_WINNER_COUNT - 1); /* the one withdrawn counts nobody */
    await_id_without_slot(desk.table, &slotless);
    assert_true(await_id_is_ours(&slotless, INSTANCE));
    assert_int_equal(await_id_slot(&slotless), 0);
    assert_null(await_find(desk.table, &slotless));
    assert_null(await_find_handle(desk.table, await_id_handle(&slotless)));
    assert_int_equal(await_past_winner(desk.table, &slotless), AWAIT_PENDING);
    desk_fini(&desk);
}

/* What "the last 8192 or so" is worth: requests that ended one after the other, in their own slots and in one slot. */
static void test_past_memory(void **state)
{
    (void)state;
    enum { ENDED = 4096 };
    for (int width = 1; width <= ENDED; width *= ENDED) {
        struct desk desk;
        struct await_entry *entries = calloc((size_t)width, sizeof(*entries));
        struct await_id *ids = calloc(ENDED, sizeof(*ids));
        int remembered = 0;
        assert_true(entries && ids);
        desk_init(&desk, 0, ENDED);
        for (int i = 0; i < ENDED; i++) {
            assert_int_equal(add_far(&desk, &entries[i % width]), ERR_OK);
            ids[i] = entries[i % width].id;
            if (width == 1)
                await_remove(&entries[0], AWAIT_WON_DEADLINE);
        }
        for (int i = 0; width > 1 && i < ENDED; i++)
            await_remove(&entries[i], AWAIT_WON_DEADLINE);
        for (int i = 0; i < ENDED; i++)
            remembered += await_past_winner(desk.table, &ids[i]) == AWAIT_WON_DEADLINE;
        assert_int_equal(await_past_winner(desk.table, &ids[ENDED - 1]), AWAIT_WON_DEADLINE);
        if (remembered < ENDED * 3 / 4) /* 79 % is what chance gives */
            fail_msg("only %d of %d remembered with %d slots", remembered, ENDED, width);
        desk_fini(&desk);
        free(entries);
        free(ids);
    }
}

static void test_growth(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    struct desk desk;
    struct await_entry *entries = calloc(COUNT + 1, sizeof(*entries));
    assert_non_null(entries);
    desk_init(&desk, 1, COUNT);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(add_far(&desk, &entries[i]), ERR_OK);
    assert_int_equal(add_far(&desk, &entries[COUNT]), ERR_OVERLOADED);
    assert_int_equal(await_count(desk.table), COUNT);
    for (int i = 0; i < COUNT; i++) {
        assert_ptr_equal(await_find(desk.table, &entries[i].id), &entries[i]);
        assert_ptr_equal(await_find_handle(desk.table, await_id_handle(&entries[i].id)), &entries[i]);
    }
    for (int i = 0; i < COUNT; i += 2)
        await_remove(&entries[i], AWAIT_WON_REPLY);
    for (int i = 0; i < COUNT; i++)
        assert_ptr_equal(await_find(desk.table, &entries[i].id), i % 2 ? &entries[i] : NULL);
    int left = 0;
    uint32_t place = 0;
    for (struct await_entry *entry; (entry = await_next(desk.table, &place)); left++) {
        await_remove(entry, AWAIT_WON_SHUTDOWN);
        if (left >= COUNT)
            break;
    }
    assert_int_equal(left, COUNT / 2);
    desk_fini(&desk);
    free(entries);
}

/* ---- deadlines ---- */

struct timed_entry {
    struct await_entry entry;
    uint64_t deadline_ns;
    int number;
};
static struct loop *timed_loop;
static struct timed_entry *timed_victim;
static uint64_t timed_last_ns;
static int timed_fired;

static void on_timed(struct await_entry *entry)
{
    struct timed_entry *timed = SG_CONTAINER_OF(entry, struct timed_entry, entry);
    assert_true(clock_mono_ns() >= timed->deadline_ns);
    assert_true(loop_now_ns(timed_loop) >= timed->deadline_ns);
    assert_true(timed->deadline_ns >= timed_last_ns);
    assert_false(await_is_pending(entry)); /* out of the table before it is told */
    assert_null(await_find(entry->table, &entry->id));
    assert_int_equal(await_past_winner(entry->table, &entry->id), AWAIT_WON_DEADLINE);
    timed_last_ns = timed->deadline_ns;
    timed_fired++;
    if (timed_victim && timed_victim != timed) {
        await_remove(&timed_victim->entry, AWAIT_WON_REPLY);
        timed_victim = NULL;
    }
}

static void test_deadlines_in_order_and_never_early(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    struct desk desk;
    struct timed_entry *timed = calloc(COUNT, sizeof(*timed));
    assert_non_null(timed);
    desk_init(&desk, 0, COUNT);
    timed_loop = desk.loop;
    timed_victim = NULL;
    timed_last_ns = 0;
    timed_fired = 0;
    uint64_t now = loop_now_refresh_ns(desk.loop);
    uint32_t random = 1;
    int removed = 0;
    for (int i = 0; i < COUNT; i++) {
        random = random * 1664525 + 1013904223;
        timed[i].number = i;
        timed[i].deadline_ns = now + random % (40 * SG_NSEC_PER_MSEC);
        timed[i].entry.on_deadline = on_timed;
        assert_int_equal(await_add(desk.table, &timed[i].entry, timed[i].deadline_ns), ERR_OK);
    }
    for (int i = 0; i < COUNT; i += 5, removed++)
        await_remove(&timed[i].entry, AWAIT_WON_CLIENT_GONE);
    while (await_count(desk.table))
        loop_turn(desk.loop, -1);
    assert_int_equal(timed_fired, COUNT - removed);
    assert_int_equal(await_wins(desk.table)[AWAIT_WON_DEADLINE], COUNT - removed);
    assert_int_equal(await_wins(desk.table)[AWAIT_WON_CLIENT_GONE], removed);
    desk_fini(&desk);
    free(timed);
}

/* Two deadlines are due in one turn; the first one's callback ends the other request: its deadline must not fire. */
static void test_due_deadline_of_an_ended_request(void **state)
{
    (void)state;
    struct desk desk;
    struct timed_entry timed[2] = {0};
    desk_init(&desk, 0, 2);
    timed_loop = desk.loop;
    timed_last_ns = 0;
    timed_fired = 0;
    for (int i = 0; i < 2; i++) {
        timed[i].entry.on_deadline = on_timed;
        timed[i].deadline_ns = 1 + (uint64_t)i;
        assert_int_equal(await_add(desk.table, &timed[i].entry, timed[i].deadline_ns), ERR_OK);
    }
    timed_victim = &timed[1];
    loop_turn(desk.loop, 0);
    loop_turn(desk.loop, 0);
    assert_int_equal(timed_fired, 1);
    assert_int_equal(await_wins(desk.table)[AWAIT_WON_DEADLINE], 1);
    assert_int_equal(await_wins(desk.table)[AWAIT_WON_REPLY], 1);
    assert_int_equal(await_count(desk.table), 0);
    desk_fini(&desk);
}

/* ---- against a model ---- */

#define MODEL_CAPACITY 700
#define MODEL_STALE    512

struct model {
    struct desk desk;
    struct await_entry entries[MODEL_CAPACITY + 1];
    struct await_entry *live[MODEL_CAPACITY + 1], *idle[MODEL_CAPACITY + 1];
    uint32_t live_count, idle_count;
    struct {
        struct await_id id;
        enum await_winner winner; /* AWAIT_PENDING: withdrawn */
    } stale[MODEL_STALE];         /* a ring of those that are out */
    uint32_t stale_count;
    uint64_t wins[AWAIT_WINNER_COUNT];
    uint64_t random;
};

static uint32_t model_random(struct model *model, uint32_t below)
{
    model->random = model->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((model->random >> 33) % below);
}

static void model_add(struct model *model)
{
    struct await_entry *entry = model->idle[model->idle_count - 1];
    enum err_code expected = model->live_count < MODEL_CAPACITY ? ERR_OK : ERR_OVERLOADED;
    assert_int_equal(add_far(&model->desk, entry), expected);
    if (expected != ERR_OK)
        return;
    model->idle_count--;
    model->live[model->live_count++] = entry;
}

static void model_remove(struct model *model)
{
    if (!model->live_count)
        return;
    uint32_t at = model_random(model, model->live_count), last = model->stale_count++ % MODEL_STALE;
    struct await_entry *entry = model->live[at];
    enum await_winner winner = (enum await_winner)model_random(model, AWAIT_WINNER_COUNT);
    model->live[at] = model->live[--model->live_count];
    model->idle[model->idle_count++] = entry;
    model->stale[last].id = entry->id;
    model->stale[last].winner = winner;
    if (winner == AWAIT_PENDING) {
        await_withdraw(entry);
        return;
    }
    await_remove(entry, winner);
    model->wins[winner]++;
    assert_int_equal(await_past_winner(model->desk.table, &model->stale[last].id), winner);
}

static void model_find(struct model *model)
{
    struct await_table *table = model->desk.table;
    if (model->live_count) {
        struct await_entry *entry = model->live[model_random(model, model->live_count)];
        assert_ptr_equal(await_find(table, &entry->id), entry);
        assert_ptr_equal(await_find_handle(table, await_id_handle(&entry->id)), entry);
        assert_int_equal(await_past_winner(table, &entry->id), AWAIT_PENDING);
    }
    uint32_t stale_count = model->stale_count < MODEL_STALE ? model->stale_count : MODEL_STALE;
    if (stale_count) {
        uint32_t at = model_random(model, stale_count);
        const struct await_id *id = &model->stale[at].id;
        enum await_winner past = await_past_winner(table, id);
        assert_null(await_find(table, id));
        assert_null(await_find_handle(table, await_id_handle(id)));
        assert_true(past == AWAIT_PENDING || past == model->stale[at].winner);
    }
}

static void test_against_a_model(void **state)
{
    (void)state;
    struct model *model = calloc(1, sizeof(*model));
    assert_non_null(model);
    desk_init(&model->desk, 2, MODEL_CAPACITY);
    model->random = 42;
    for (uint32_t i = 0; i <= MODEL_CAPACITY; i++)
        model->idle[model->idle_count++] = &model->entries[i];
    for (int step = 0; step < 100000; step++) {
        /* It fills up, is full for a while, and empties again. */
        uint32_t adding = step % 4000 < 2000 ? 60 : 25;
        uint32_t choice = model_random(model, 100);
        if (choice < adding)
            model_add(model);
        else if (choice < 85)
            model_remove(model);
        else
            model_find(model);
        assert_int_equal(await_count(model->desk.table), model->live_count);
    }
    for (int winner = 0; winner < AWAIT_WINNER_COUNT; winner++)
        assert_int_equal(await_wins(model->desk.table)[winner], model->wins[winner]);
    while (model->live_count)
        model_remove(model);
    assert_null(await_next(model->desk.table, &(uint32_t){0}));
    desk_fini(&model->desk);
    free(model);
}

/* ---- the index by fields ---- */

/* The handle of the only request under `key`, if it is not newer than event_ms; else 0. */
static uint64_t find_only(struct await_fields *fields, struct span key, int64_t event_ms)
{
    uint64_t handle;
    int64_t since_ms;
    return await_fields_find(fields, key, &handle, &since_ms) == 1 && since_ms <= event_ms ? handle : 0;
}

static void test_fields(void **state)
{
    (void)state;
    struct await_fields *fields = await_fields_new();
    const struct span key = SPAN_LIT("1/0/3:abc"), longer = SPAN_LIT("1/0/3:abcd"),
                      other = SPAN_LIT("1/0/3:abd");
    assert_non_null(fields);
    assert_int_equal(find_only(fields, key, INT64_MAX), 0);
    struct await_fields_node *one = await_fields_add(fields, key, 11, 1000);
    assert_int_equal(find_only(fields, key, 1000), 11); /* of the same millisecond: not older */
    assert_int_equal(find_only(fields, key, 5000), 11);
    assert_int_equal(find_only(fields, key, 999), 0);
    assert_int_equal(find_only(fields, key, 0), 0);
    assert_int_equal(find_only(fields, longer, 5000), 0);
    assert_int_equal(find_only(fields, other, 5000), 0);
    assert_int_equal(find_only(fields, (struct span){key.ptr, key.len - 1}, 5000), 0);
    assert_int_equal(find_only(fields, (struct span){"", 0}, 5000), 0);
    /* Two: nobody, also when only one of them is old enough. */
    struct await_fields_node *two = await_fields_add(fields, key, 22, 2000);
    assert_int_equal(find_only(fields, key, 5000), 0);
    assert_int_equal(find_only(fields, key, 1500), 0);
    await_fields_remove(fields, one);
    assert_int_equal(find_only(fields, key, 5000), 22);
    assert_int_equal(find_only(fields, key, 1500), 0);
    /* Three, removed from the middle, the head and the end. */
    struct await_fields_node *three = await_fields_add(fields, key, 33, 1),
                             *four = await_fields_add(fields, key, 44, 1);
    await_fields_remove(fields, three);
    await_fields_remove(fields, four);
    assert_int_equal(find_only(fields, key, 5000), 22);
    struct await_fields_node *empty = await_fields_add(fields, (struct span){"", 0}, 55, 1);
    assert_int_equal(find_only(fields, (struct span){"", 0}, 1), 55);
    await_fields_remove(fields, empty);
    await_fields_remove(fields, two);
    await_fields_remove(fields, NULL);
    assert_int_equal(find_only(fields, key, 5000), 0);
    await_fields_freep(&fields);
    assert_null(fields);
    await_fields_freep(&fields);
}

/* More keys than the index has buckets, so that strangers share a chain. */
static void test_fields_with_long_chains(void **state)
{
    (void)state;
    enum { COUNT = 9000 };
    struct await_fields *fields = await_fields_new();
    struct await_fields_node **nodes = calloc(COUNT, sizeof(struct await_fields_node *));
    char key[32];
    assert_true(fields && nodes);
    for (int i = 0; i < COUNT; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        nodes[i] = await_fields_add(fields, span_of(key), (uint64_t)i + 1, i);
    }
    for (int i = 0; i < COUNT; i += 3)
        await_fields_remove(fields, nodes[i]);
    for (int i = 0; i < COUNT; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        assert_int_equal(find_only(fields, span_of(key), COUNT), i % 3 ? i + 1 : 0);
    }
    for (int i = 0; i < COUNT; i++)
        if (i % 3)
            await_fields_remove(fields, nodes[i]);
    await_fields_freep(&fields);
    free(nodes);
}

struct fields_user {
    struct await_fields *fields;
    pthread_barrier_t *barrier;
    int number, wrong;
};

/* Each thread owns one key and shares another: its own is always exact, the shared one is nobody's or a live one's. */
static void *fields_user_main(void *arg)
{
    struct fields_user *user = arg;
    const struct span shared = SPAN_LIT("shared");
    char own[16];
    int len = snprintf(own, sizeof(own), "own-%d", user->number);
    struct span key = {own, (size_t)len};
    pthread_barrier_wait(user->barrier);
    for (int i = 1; i <= 4000; i++) {
        uint64_t handle = (uint64_t)user->number << 32 | (uint64_t)i;
        struct await_fields_node *mine = await_fields_add(user->fields, key, handle, i);
        struct await_fields_node *common = await_fields_add(user->fields, shared, handle, i);
        uint64_t found = find_only(user->fields, shared, INT64_MAX);
        user->wrong += found != 0 && found != handle; /* mine is in: another one alone is impossible */
        user->wrong += find_only(user->fields, key, i) != handle;
        user->wrong += find_only(user->fields, key, i - 1) != 0;
        await_fields_remove(user->fields, common);
        await_fields_remove(user->fields, mine);
        user->wrong += find_only(user->fields, key, INT64_MAX) != 0;
    }
    return NULL;
}

static void test_fields_from_several_threads(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    struct fields_user users[THREADS];
    pthread_barrier_t barrier;
    struct await_fields *fields = await_fields_new();
    assert_int_equal(pthread_barrier_init(&barrier, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++) {
        users[i] = (struct fields_user){fields, &barrier, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, fields_user_main, &users[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(users[i].wrong, 0);
    }
    assert_int_equal(find_only(fields, SPAN_LIT("shared"), INT64_MAX), 0);
    pthread_barrier_destroy(&barrier);
    await_fields_freep(&fields);
}

static void test_winner_names(void **state)
{
    (void)state;
    static const char *const names[] = {"pending",     "reply",    "deadline", "produce_failure",
                                        "client_gone", "shutdown", "delivered"};
    assert_int_equal(SG_ARRAY_LEN(names), AWAIT_WINNER_COUNT);
    for (int i = 0; i < AWAIT_WINNER_COUNT; i++)
        assert_string_equal(await_winner_name((enum await_winner)i), names[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_id_fields_survive),
        cmocka_unit_test(test_id_text),
        cmocka_unit_test(test_instances_differ),
        cmocka_unit_test(test_capacity),
        cmocka_unit_test(test_slot_reuse_finds_nobody_else),
        cmocka_unit_test(test_handles_out_of_range),
        cmocka_unit_test(test_past_winners),
        cmocka_unit_test(test_past_memory),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_deadlines_in_order_and_never_early),
        cmocka_unit_test(test_due_deadline_of_an_ended_request),
        cmocka_unit_test(test_against_a_model),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_fields_with_long_chains),
        cmocka_unit_test(test_fields_from_several_threads),
        cmocka_unit_test(test_winner_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
