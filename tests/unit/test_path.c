/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "syncgate/path.h"

static void test_flag_values(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum path_mode mode;
        const char *name;
    } cases[] = {
        {"false", PATH_MODE_LEGACY, "off"},     {"off", PATH_MODE_LEGACY, "off"},
        {"true", PATH_MODE_PRIMARY, "primary"}, {"primary", PATH_MODE_PRIMARY, "primary"},
        {"only", PATH_MODE_ONLY, "only"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {ERR_OK, "untouched"};
        enum path_mode mode = (enum path_mode)99;
        assert_int_equal(path_mode_parse(span_of(cases[i].text), "FLAG", &mode, &err), ERR_OK);
        assert_int_equal(mode, cases[i].mode);
        assert_string_equal(path_mode_name(mode), cases[i].name);
        assert_string_equal(err.text, "untouched");
        /* What a mode is called can be set again. */
        assert_int_equal(path_mode_parse(span_of(path_mode_name(mode)), "FLAG", &mode, NULL), ERR_OK);
        assert_int_equal(mode, cases[i].mode);
    }
}

static void test_other_values_are_refused(void **state)
{
    (void)state;
    static const struct span cases[] = {
        SPAN_INIT(""),         SPAN_INIT(" "),        SPAN_INIT("True"),    SPAN_INIT("TRUE"),
        SPAN_INIT("yes"),      SPAN_INIT("1"),        SPAN_INIT("0"),       SPAN_INIT("on"),
        SPAN_INIT("tru"),      SPAN_INIT("true "),    SPAN_INIT(" true"),   SPAN_INIT("only\n"),
        SPAN_INIT("split"),    SPAN_INIT("primary "), SPAN_INIT("only\0x"), SPAN_INIT("truee"),
        SPAN_INIT("primarys"),
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {ERR_OK, ""};
        enum path_mode mode = PATH_MODE_ONLY;
        assert_int_equal(path_mode_parse(cases[i], "FEATURE_KAFKA_EVENTS_BIND", &mode, &err), ERR_CONFIG);
        assert_int_equal(mode, PATH_MODE_ONLY); /* never a default */
        assert_int_equal(err.code, ERR_CONFIG);
        assert_ptr_equal(strstr(err.text, "FEATURE_KAFKA_EVENTS_BIND: "), err.text);
        assert_non_null(strstr(err.text, "expected false, off, true, primary or only"));
        assert_int_equal(path_mode_parse(cases[i], "FLAG", &mode, NULL), ERR_CONFIG);
    }
}

static void test_message_shows_the_value(void **state)
{
    (void)state;
    struct err err = {ERR_OK, ""};
    enum path_mode mode;
    char huge[2000];
    assert_int_equal(path_mode_parse(SPAN_LIT("maybe"), "FLAG", &mode, &err), ERR_CONFIG);
    assert_string_equal(err.text, "FLAG: 'maybe': expected false, off, true, primary or only");
    /* Not NUL-terminated, and longer than a message may be. */
    assert_int_equal(path_mode_parse((struct span){"onlyonly", 5}, "FLAG", &mode, &err), ERR_CONFIG);
    assert_string_equal(err.text, "FLAG: 'onlyo': expected false, off, true, primary or only");
    memset(huge, 'x', sizeof(huge));
    assert_int_equal(path_mode_parse((struct span){huge, sizeof(huge)}, "FLAG", &mode, &err), ERR_CONFIG);
    assert_true(strlen(err.text) < sizeof(err.text));
}

static void test_names(void **state)
{
    (void)state;
    static const char *const fallbacks[] = {"no_command", "content_type", "unreachable",   "no_position",
                                            "queue_full", "too_large",    "not_persisted", "overloaded"};
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
        cmocka_unit_test(test_other_values_are_refused),
        cmocka_unit_test(test_message_shows_the_value),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
