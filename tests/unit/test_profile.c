/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

#include "../../src/exchange/bad_json.h"
#include "../../src/exchange/profile.h"

#define ID "0b9df8f4-3f6e-4b55-8a07-2f7f1d3c9e10"

/* ---- JSON.parse()'s words: recorded from Node.js 20.20; tests/fidelity has many more, this table what those cannot hold ---- */

static const struct {
    const char *text, *message; /* NULL: well-formed */
} texts[] = {
    {"{", "\"Expected property name or '}' in JSON at position 1\""},
    {"{\"a\"", "\"Expected ':' after property name in JSON at position 4\""},
    {"{\"a\":1,\"b\"", "\"Unexpected end of JSON input\""},
    {"{\"a\":tr\"}", "\"Unexpected string in JSON at position 7\""},
    {"{\"a\":01}", "\"Unexpected number in JSON at position 6\""},
    {"[object Object]", "\"\\\"[object Object]\\\" is not valid JSON\""},
    {"{}x", "\"Unexpected non-whitespace character after JSON at position 2\""},
    {"\"text\"", "\"Unexpected token '\\\"', \\\"\\\"text\\\"\\\" is not valid JSON\""},
    {"   ", "\"Unexpected end of JSON input\""},
    {"{\"a\":\"\\\xd0\xb6\"}",
     "\"Unexpected token '\xd0\xb6', \\\"{\\\"a\\\":\\\"\\\\\xd0\xb6\\\"}\\\" is not valid JSON\""},
    {"{\"aaaaaaaaaaaaaaaaaaaa\":x}",
     "\"Unexpected token 'x', ...\\\"aaaaaaaa\\\":x}\\\" is not valid JSON\""},
    {"[x,1,2,3,4,5,6,7,8,9,10]", "\"Unexpected token 'x', \\\"[x,1,2,3,4,\\\"... is not valid JSON\""},
    /* Halves of pairs: the token is one unit, and the context may cut one. */
    {"\xf0\x9f\x8c\xb1", "\"Unexpected token '\\ud83c', \\\"\xf0\x9f\x8c\xb1\\\" is not valid JSON\""},
    {"[x\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0"
     "\x9f\x8c\xb1"
     "\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1",
     "\"Unexpected token 'x', "
     "\\\"[x\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\xf0\x9f\x8c\xb1\\ud83c\\\"... is not valid "
     "JSON\""},
    {"\xff", "\"Unexpected token '\xef\xbf\xbd', \\\"\xef\xbf\xbd\\\" is not valid JSON\""},
    {"{\"\xe2\x82\x28\":}", "\"Unexpected token '}', \\\"{\\\"\xef\xbf\xbd(\\\":}\\\" is not valid JSON\""},
    {"\xef\xbb\xbf{", "\"Expected property name or '}' in JSON at position 1\""},
    /* What our own reader refuses, and JSON.parse() does not. */
    {"{\"a\":\"\xff\"}", NULL},
    {" {\"a\":[1,-0.5e+7,{}],\"\\ud800\":null}\n", NULL},
};

static void test_words_of_json_parse(void **state)
{
    (void)state;
    struct buf message = BUF_INIT;
    for (size_t i = 0; i < SG_ARRAY_LEN(texts); i++) {
        buf_clear(&message);
        enum bad_json what = bad_json_explain(span_of(texts[i].text), &message);
        buf_append_char(&message, '\0');
        assert_string_equal(message.ptr, texts[i].message ? texts[i].message : "");
        assert_int_equal(what, texts[i].message ? BAD_JSON_MALFORMED : BAD_JSON_WELL_FORMED);
    }
    buf_fini(&message);
}

/* Every start of a text is malformed, and no byte of it makes the reader look behind its end. */
static void test_truncated_everywhere(void **state)
{
    (void)state;
    static const char whole[] =
        "{\"qr\":{\"a\":\"\\u00e9\xf0\x9f\x8c\xb1\\n\",\"v\":-1.5e+3},\"x\":[true,null,false]}";
    struct buf message = BUF_INIT;
    for (size_t len = 1; len < sizeof(whole) - 1; len++) {
        char *start = malloc(len); /* its end is the sanitizer's */
        assert_non_null(start);
        memcpy(start, whole, len);
        buf_clear(&message);
        assert_int_equal(bad_json_explain((struct span){start, len}, &message), BAD_JSON_MALFORMED);
        assert_true(message.len > 2 && message.ptr[0] == '"' && message.ptr[message.len - 1] == '"');
        free(start);
    }
    assert_int_equal(bad_json_explain(SPAN_LIT(whole), &message), BAD_JSON_WELL_FORMED);
    buf_fini(&message);
}

static void test_no_limit_of_depth(void **state)
{
    (void)state;
    enum { DEPTH = 50000 };
    static char text[2 * DEPTH];
    struct buf message = BUF_INIT;
    memset(text, '[', DEPTH);
    memset(text + DEPTH, ']', DEPTH);
    assert_int_equal(bad_json_explain((struct span){text, sizeof(text)}, &message), BAD_JSON_WELL_FORMED);
    assert_int_equal(bad_json_explain((struct span){text, sizeof(text) - 1}, &message), BAD_JSON_MALFORMED);
    buf_fini(&message);
}

/* ---- profiles ---- */

#define ISSUE(path, message) "{\"code\":\"x\",\"path\":" path ",\"message\":" message "}"
#define UNION_OF(a, b)                                             \
    "{\"code\":\"invalid_union\",\"unionErrors\":[{\"issues\":[" a \
    "],\"name\":\"ZodError\"},{\"issues\":[" b                     \
    "],\"name\":\"ZodError\"}],\"path\":[\"q\"],\"message\":\"Invalid input\"}"

static const struct {
    const char *issues, *nest, *errors;
} lists[] = {
    {"[" ISSUE("[\"q\",\"a\"]", "\"Required\"") "]", "\"q.a: Required\"",
     "{\"pointer\":\"/q/a\",\"detail\":\"Required\"}"},
    {"[" ISSUE("[]", "\"Bad 'k'\"") "]", "\"Bad 'k'\"", "{\"pointer\":\"\",\"detail\":\"Bad 'k'\"}"},
    {"[" ISSUE("[\"l\",0,\"~/\\\"\\u0001\"]", "\"\\\"m\\\"\"") "]", "\"l.0.~/\\\"\\u0001: \\\"m\\\"\"",
     "{\"pointer\":\"/l/0/~0~1\\\"\\u0001\",\"detail\":\"\\\"m\\\"\"}"},
    /* A union tells what its alternatives lack, each once, and keeps what only looks alike. */
    {"[" UNION_OF(ISSUE("[\"q\"]", "\"a\"") "," ISSUE("[\"q\"]", "\"b\""),
                  ISSUE("[\"q\"]", "\"b\"") "," ISSUE("[\"q\"]", "\"q: b\"")) "," ISSUE("[]", "\"b\"") "]",
     "\"q: a\",\"q: b\",\"q: q: b\",\"b\"",
     "{\"pointer\":\"/q\",\"detail\":\"a\"},{\"pointer\":\"/q\",\"detail\":\"b\"},{\"pointer\":\"/"
     "q\",\"detail\":\"q: b\"},"
     "{\"pointer\":\"\",\"detail\":\"b\"}"},
};

static void assert_invalid(enum config_error_profile profile, const char *issues, const char *before,
                           const char *list, const char *after)
{
    struct buf got = BUF_INIT, wanted = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    assert_true(profile_invalid(profile, span_of(issues), SPAN_LIT(ID), &doc, &got));
    buf_printf(&wanted, "%s%s%s", before, list, after);
    buf_append_char(&got, '\0');
    buf_append_char(&wanted, '\0');
    assert_string_equal(got.ptr, wanted.ptr);
    json_fini(&doc);
    buf_fini(&got);
    buf_fini(&wanted);
}

static void test_validation_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < SG_ARRAY_LEN(lists); i++) {
        assert_invalid(
            CONFIG_ERRORS_TS_REST, lists[i].issues,
            "{\"paramsResult\":null,\"headersResult\":null,\"queryResult\":null,\"bodyResult\":{\"issues\":",
            lists[i].issues, ",\"name\":\"ZodError\"}}");
        assert_invalid(CONFIG_ERRORS_NEST, lists[i].issues, "{\"message\":[", lists[i].nest,
                       "],\"error\":\"Bad Request\",\"statusCode\":400}");
        assert_invalid(CONFIG_ERRORS_PROBLEM, lists[i].issues,
                       "{\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"detail\":\"The "
                       "request is not "
                       "valid\",\"code\":\"VALIDATION\",\"errors\":[",
                       lists[i].errors, "],\"correlationId\":\"" ID "\"}");
    }
}

/* A body may have as many issues as it has values: the loop must not be busy with one answer for seconds. */
static void test_many_issues(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    struct buf issues = BUF_INIT, got = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    for (unsigned i = 0; i < COUNT; i++) /* each of them twice */
        buf_printf(&issues, "%s" ISSUE("[\"list\",%u]", "\"Expected string\""), i ? "," : "[", i / 2);
    buf_append_char(&issues, ']');
    clock_t start = clock();
    assert_true(profile_invalid(CONFIG_ERRORS_NEST, buf_span(&issues), SPAN_LIT(ID), &doc, &got));
    assert_in_range(clock() - start, 0, 2 * CLOCKS_PER_SEC);
    size_t count = 0;
    for (size_t i = 0; i < got.len; i++)
        count += got.ptr[i] == ':';
    assert_int_equal(count, COUNT / 2 + 3); /* one for each, and those of the three members */
    json_fini(&doc);
    buf_fini(&issues);
    buf_fini(&got);
}

static void test_problem(void **state)
{
    (void)state;
    struct buf out = BUF_INIT;
    profile_problem(ERR_REPLY_TIMEOUT, SPAN_LIT("\"too \\\"late\\\"\""), SPAN_LIT(ID), &out);
    buf_append_char(&out, '\0');
    assert_string_equal(
        out.ptr, "{\"type\":\"about:blank\",\"title\":\"Gateway Timeout\",\"status\":504,\"detail\":\"too "
                 "\\\"late\\\"\",\"code\":\"REPLY_TIMEOUT\",\"correlationId\":\"" ID "\"}");
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_of_json_parse), cmocka_unit_test(test_truncated_everywhere),
        cmocka_unit_test(test_no_limit_of_depth),   cmocka_unit_test(test_validation_errors),
        cmocka_unit_test(test_many_issues),         cmocka_unit_test(test_problem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
