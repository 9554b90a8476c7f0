/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "syncgate/path.h"

#define EXPECTED "expected false, off, split:N (N: 0 to 100, at most two decimals), true, primary or only"

static void test_flag_values(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct path_flag flag;
        const char *name;
        bool needs_kafka, has_legacy;
    } cases[] = {
        {"false", {PATH_MODE_LEGACY, 0}, "off", false, true},
        {"off", {PATH_MODE_LEGACY, 0}, "off", false, true},
        {"true", {PATH_MODE_PRIMARY, 0}, "primary", true, true},
        {"primary", {PATH_MODE_PRIMARY, 0}, "primary", true, true},
        {"only", {PATH_MODE_ONLY, 0}, "only", true, false},
        {"split:0", {PATH_MODE_SPLIT, 0}, "split:0", true, true},
        {"split:0.00", {PATH_MODE_SPLIT, 0}, "split:0", true, true},
        {"split:0.01", {PATH_MODE_SPLIT, 1}, "split:0.01", true, true},
        {"split:0.1", {PATH_MODE_SPLIT, 10}, "split:0.1", true, true},
        {"split:1", {PATH_MODE_SPLIT, 100}, "split:1", true, true},
        {"split:12.5", {PATH_MODE_SPLIT, 1250}, "split:12.5", true, true},
        {"split:12.50", {PATH_MODE_SPLIT, 1250}, "split:12.5", true, true},
        {"split:12.05", {PATH_MODE_SPLIT, 1205}, "split:12.05", true, true},
        {"split:99.99", {PATH_MODE_SPLIT, 9999}, "split:99.99", true, true},
        {"split:100", {PATH_MODE_SPLIT, 10000}, "split:100", true, true},
        {"split:100.00", {PATH_MODE_SPLIT, 10000}, "split:100", true, true},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {ERR_OK, "untouched"};
        struct path_flag flag = {(enum path_mode)99, 77};
        char text[PATH_FLAG_TEXT_LEN + 1];
        assert_int_equal(path_flag_parse(span_of(cases[i].text), "FLAG", &flag, &err), ERR_OK);
        assert_int_equal(flag.mode, cases[i].flag.mode);
        assert_int_equal(flag.share, cases[i].flag.share);
        path_flag_format(&flag, text);
        assert_string_equal(text, cases[i].name);
        assert_string_equal(err.text, "untouched");
        assert_int_equal(path_flag_needs_kafka(&flag), cases[i].needs_kafka);
        assert_int_equal(path_flag_has_legacy(&flag), cases[i].has_legacy);
        /* What a flag is called can be set again. */
        assert_int_equal(path_flag_parse(span_of(text), "FLAG", &flag, NULL), ERR_OK);
        assert_true(path_flag_eq(&flag, &cases[i].flag));
    }
}

static void test_every_share_can_be_written(void **state)
{
    (void)state;
    for (unsigned share = 0; share <= 10000; share++) {
        struct path_flag flag = {PATH_MODE_SPLIT, (uint16_t)share}, again = {PATH_MODE_ONLY, 0};
        char text[PATH_FLAG_TEXT_LEN + 1];
        path_flag_format(&flag, text);
        assert_int_equal(path_flag_parse(span_of(text), "FLAG", &again, NULL), ERR_OK);
        assert_true(path_flag_eq(&flag, &again));
        assert_int_equal(again.share, share);
    }
}

static void test_flags_compare(void **state)
{
    (void)state;
    static const struct path_flag flags[] = {
        {PATH_MODE_LEGACY, 0}, {PATH_MODE_PRIMARY, 0}, {PATH_MODE_ONLY, 0},
        {PATH_MODE_SPLIT, 0},  {PATH_MODE_SPLIT, 1},   {PATH_MODE_SPLIT, 10000},
    };
    for (size_t a = 0; a < SG_ARRAY_LEN(flags); a++)
        for (size_t b = 0; b < SG_ARRAY_LEN(flags); b++)
            assert_int_equal(path_flag_eq(&flags[a], &flags[b]), a == b);
    assert_true(path_flag_eq(&flags[1], &(struct path_flag){PATH_MODE_PRIMARY, 5})); /* a share only splits */
}

static void test_other_values_are_refused(void **state)
{
    (void)state;
    static const struct span cases[] = {
        SPAN_INIT(""),
        SPAN_INIT(" "),
        SPAN_INIT("True"),
        SPAN_INIT("TRUE"),
        SPAN_INIT("yes"),
        SPAN_INIT("1"),
        SPAN_INIT("0"),
        SPAN_INIT("on"),
        SPAN_INIT("tru"),
        SPAN_INIT("true "),
        SPAN_INIT(" true"),
        SPAN_INIT("only\n"),
        SPAN_INIT("split"),
        SPAN_INIT("primary "),
        SPAN_INIT("only\0x"),
        SPAN_INIT("truee"),
        SPAN_INIT("primarys"),
        SPAN_INIT("split:"),
        SPAN_INIT("split: 5"),
        SPAN_INIT("split:5 "),
        SPAN_INIT("split:5%"),
        SPAN_INIT("split:-1"),
        SPAN_INIT("split:+1"),
        SPAN_INIT("split:101"),
        SPAN_INIT("split:1e1"),
        SPAN_INIT("split:0x10"),
        SPAN_INIT("split:100.01"),
        SPAN_INIT("split:1.234"),
        SPAN_INIT("split:."),
        SPAN_INIT("split:.5"),
        SPAN_INIT("split:5."),
        SPAN_INIT("split:1.2.3"),
        SPAN_INIT("split:05"),
        SPAN_INIT("split:00"),
        SPAN_INIT("split:1,5"),
        SPAN_INIT("split:1000"),
        SPAN_INIT("Split:5"),
        SPAN_INIT("split=5"),
        SPAN_INIT("split:5\0"),
        SPAN_INIT("split:0."),
        SPAN_INIT("split:nan"),
        SPAN_INIT("split:-0"),
        SPAN_INIT("split:1.-5"),
        SPAN_INIT("split:1.5 "),
        SPAN_INIT("split:4294967297"),
        SPAN_INIT("split:18446744073709551617"),
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {ERR_OK, ""};
        struct path_flag flag = {PATH_MODE_SPLIT, 77};
        assert_int_equal(path_flag_parse(cases[i], "FEATURE_KAFKA_EVENTS_BIND", &flag, &err), ERR_CONFIG);
        assert_int_equal(flag.mode, PATH_MODE_SPLIT); /* never a default */
        assert_int_equal(flag.share, 77);
        assert_int_equal(err.code, ERR_CONFIG);
        assert_ptr_equal(strstr(err.text, "FEATURE_KAFKA_EVENTS_BIND: "), err.text);
        assert_non_null(strstr(err.text, cases[i].len == strlen(cases[i].ptr) ? EXPECTED : "expected"));
        assert_int_equal(path_flag_parse(cases[i], "FLAG", &flag, NULL), ERR_CONFIG);
    }
}

static void test_message_shows_the_value(void **state)
{
    (void)state;
    struct err err = {ERR_OK, ""};
    struct path_flag flag;
    char huge[2000];
    assert_int_equal(path_flag_parse(SPAN_LIT("maybe"), "FLAG", &flag, &err), ERR_CONFIG);
    assert_string_equal(err.text, "FLAG: 'maybe': " EXPECTED);
    /* Not NUL-terminated, and longer than a message may be. */
    assert_int_equal(path_flag_parse((struct span){"onlyonly", 5}, "FLAG", &flag, &err), ERR_CONFIG);
    assert_string_equal(err.text, "FLAG: 'onlyo': " EXPECTED);
    assert_int_equal(path_flag_parse((struct span){"split:123", 8}, "FLAG", &flag, &err), ERR_OK);
    assert_int_equal(flag.share, 1200);
    memset(huge, 'x', sizeof(huge));
    assert_int_equal(path_flag_parse((struct span){huge, sizeof(huge)}, "FLAG", &flag, &err), ERR_CONFIG);
    assert_true(strlen(err.text) < sizeof(err.text));
    memcpy(huge, "split:", 6);
    memset(huge + 6, '0', sizeof(huge) - 6);
    assert_int_equal(path_flag_parse((struct span){huge, sizeof(huge)}, "FLAG", &flag, &err), ERR_CONFIG);
}

/* ---- splitting ---- */

static uint64_t random_state = 20261121;
static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void random_uuid(char out[37])
{
    uint64_t a = random_u64(), b = random_u64();
    snprintf(out, 37, "%08x-%04x-4%03x-a%03x-%012llx", (unsigned)(a >> 32), (unsigned)(a >> 16) & 0xffff,
             (unsigned)a & 0xfff, (unsigned)(b >> 52), (unsigned long long)(b & 0xffffffffffff));
}

/* Computed by another implementation. Should one of these change, users would move between the paths: never adapt them. */
static void test_known_places(void **state)
{
    (void)state;
    static const struct {
        struct span key;
        unsigned place;
    } cases[] = {
        {SPAN_INIT("6f1c1f0e-3a52-4c0e-9d53-0c3f6f3f7b11"), 9143},
        {SPAN_INIT("192.0.2.17"), 3414},
        {SPAN_INIT("2001:db8::1"), 4615},
        {SPAN_INIT(""), 4342},
        {SPAN_INIT("a\0b"), 6011},
        {SPAN_INIT("\xff\x80"), 7080}, /* whether char is signed must not matter */
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        assert_int_equal(path_place(cases[i].key), cases[i].place);
    assert_int_equal(path_place((struct span){NULL, 0}), 4342);
}

static void test_raising_a_split_only_adds_users(void **state)
{
    (void)state;
    for (int key = 0; key < 10000; key++) {
        char text[37];
        random_uuid(text);
        unsigned place = path_place(span_of(text));
        assert_true(place < 10000);
        bool took = false;
        for (unsigned percent = 0; percent <= 100; percent++) { /* so for every pair N < M */
            struct path_flag flag = {PATH_MODE_SPLIT, (uint16_t)(percent * 100)};
            bool takes = path_flag_takes_kafka(&flag, place);
            assert_true(takes || !took);
            took = takes;
        }
        assert_true(took); /* at 100 everyone does */
        assert_false(path_flag_takes_kafka(&(struct path_flag){PATH_MODE_SPLIT, 0}, place));
        assert_false(path_flag_takes_kafka(&(struct path_flag){PATH_MODE_LEGACY, 10000}, place));
        assert_true(path_flag_takes_kafka(&(struct path_flag){PATH_MODE_PRIMARY, 0}, place));
        assert_true(path_flag_takes_kafka(&(struct path_flag){PATH_MODE_ONLY, 0}, place));
    }
}

static void test_share_of_users(void **state)
{
    (void)state;
    static const struct path_flag flags[] = {
        {PATH_MODE_SPLIT, 100},  {PATH_MODE_SPLIT, 500},  {PATH_MODE_SPLIT, 1250},
        {PATH_MODE_SPLIT, 5000}, {PATH_MODE_SPLIT, 9000}, {PATH_MODE_SPLIT, 9999},
    };
    enum { KEYS = 100000 };
    static uint16_t places[3][KEYS]; /* uuids, consecutive addresses, consecutive numbers */
    for (int i = 0; i < KEYS; i++) {
        char text[40];
        random_uuid(text);
        places[0][i] = (uint16_t)path_place(span_of(text));
        snprintf(text, sizeof(text), "10.%d.%d.%d", i >> 16, i >> 8 & 255, i & 255);
        places[1][i] = (uint16_t)path_place(span_of(text));
        snprintf(text, sizeof(text), "%d", i);
        places[2][i] = (uint16_t)path_place(span_of(text));
    }
    for (size_t kind = 0; kind < SG_ARRAY_LEN(places); kind++) {
        for (size_t f = 0; f < SG_ARRAY_LEN(flags); f++) {
            int taken = 0;
            for (int i = 0; i < KEYS; i++)
                taken += path_flag_takes_kafka(&flags[f], places[kind][i]);
            assert_in_range(taken + KEYS / 100, flags[f].share * 10, flags[f].share * 10 + KEYS / 50);
        }
    }
}

static void test_names(void **state)
{
    (void)state;
    static const char *const fallbacks[] = {
        "no_command", "content_type", "unreachable",         "no_position",
        "no_topic",   "queue_full",   "too_large",           "not_persisted",
        "overloaded", "breaker_open", "cluster_breaker_open"};
    assert_string_equal(path_taken_name(PATH_TAKEN_NONE), "none");
    assert_string_equal(path_taken_name(PATH_TAKEN_KAFKA), "kafka");
    assert_string_equal(path_taken_name(PATH_TAKEN_LEGACY), "legacy");
    assert_int_equal(SG_ARRAY_LEN(fallbacks), PATH_FALLBACK_COUNT);
    for (int i = 0; i < PATH_FALLBACK_COUNT; i++)
        assert_string_equal(path_fallback_name((enum path_fallback)i), fallbacks[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flag_values),
        cmocka_unit_test(test_every_share_can_be_written),
        cmocka_unit_test(test_flags_compare),
        cmocka_unit_test(test_other_values_are_refused),
        cmocka_unit_test(test_message_shows_the_value),
        cmocka_unit_test(test_known_places),
        cmocka_unit_test(test_raising_a_split_only_adds_users),
        cmocka_unit_test(test_share_of_users),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
