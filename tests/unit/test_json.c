/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "syncgate/base.h"
#include "syncgate/json.h"

#define MAX_NODES 4096

/* Parses an exact-size copy, so that AddressSanitizer sees a read past the end. */
static enum err_code parse_copy(struct json_doc *doc, struct span text, char **ret_copy)
{
    *ret_copy = malloc(text.len ? text.len : 1);
    assert_non_null(*ret_copy);
    if (text.len)
        memcpy(*ret_copy, text.ptr, text.len);
    return json_parse(doc, (struct span){*ret_copy, text.len}, MAX_NODES);
}

static const struct json_node *root_of(struct json_doc *doc, const char *text)
{
    enum err_code code = json_parse(doc, span_of(text), MAX_NODES);
    if (code != ERR_OK)
        fail_msg("%s: %s at %u", text, doc->err_what, doc->err_pos);
    return json_root(doc);
}

#define T(s)               \
    {                      \
        (s), sizeof(s) - 1 \
    }

static void test_accepts(void **state)
{
    (void)state;
    static const struct span cases[] = {
        T("{}"),
        T("[]"),
        T(" \t\r\n[ ] "),
        T("0"),
        T("-0"),
        T("-0.0e-0"),
        T("1E+400"),
        T("123456789012345678901234567890123456789012345678901234567890.5"),
        T("\"\""),
        T("true"),
        T("false"),
        T("null"),
        T("\xef\xbb\xbf{\"a\":1}"),
        T("\"\\u0000\\ud800\\udc00\\ud800\\uDFFF\""),
        T("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
        T("\"\x7f \xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf \xf0\x90\x80\x80 "
          "\xf4\x8f\xbf\xbf\""),
        T("{\"a\":{\"b\":[1,2,{\"c\":null}]},\"a\":[],\"\":\"\"}"),
        T("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
          "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct json_doc doc = JSON_DOC_INIT;
        char *copy;
        if (parse_copy(&doc, cases[i], &copy) != ERR_OK)
            fail_msg("case %zu (%s): %s at %u", i, cases[i].ptr, doc.err_what, doc.err_pos);
        assert_int_equal(json_text(&doc, json_root(&doc)).len, json_root(&doc)->end - json_root(&doc)->start);
        json_fini(&doc);
        free(copy);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        struct span text;
        uint32_t pos;
        const char *what;
    } cases[] = {
        {T(""), 0, "unexpected end"},
        {T("  "), 2, "unexpected end"},
        {T("\xef\xbb\xbf"), 3, "unexpected end"},
        {T("\xef\xbb"), 0, "unexpected token"},
        {T("\xef\xbb\xbf\xef\xbb\xbf{}"), 3, "unexpected token"},
        {T("{\"a\":}"), 5, "unexpected token"},
        {T("{\"a\" 1}"), 5, "expected a colon"},
        {T("{\"a\":1,}"), 7, "expected a member name"},
        {T("{a:1}"), 1, "expected a member name"},
        {T("{'a':1}"), 1, "expected a member name"},
        {T("{\"a\":1 \"b\":2}"), 7, "expected , or }"},
        {T("{\"a\":1]"), 6, "expected , or }"},
        {T("[1,]"), 3, "unexpected token"},
        {T("[,1]"), 1, "unexpected token"},
        {T("[1 2]"), 3, "expected , or ]"},
        {T("[1}"), 2, "expected , or ]"},
        {T("]"), 0, "unexpected token"},
        {T("{} {}"), 3, "text behind the value"},
        {T("1\0"), 1, "text behind the value"},
        {T("\0"), 0, "unexpected token"},
        {T("01"), 1, "text behind the value"},
        {T("+1"), 0, "unexpected token"},
        {T(".5"), 0, "unexpected token"},
        {T("1."), 2, "unexpected end"},
        {T("1.e5"), 2, "bad number"},
        {T("1e"), 2, "unexpected end"},
        {T("1e+"), 3, "unexpected end"},
        {T("-"), 1, "unexpected end"},
        {T("--1"), 1, "bad number"},
        {T("-Infinity"), 1, "bad number"},
        {T("0x10"), 1, "text behind the value"},
        {T("1e5.5"), 3, "text behind the value"},
        {T("NaN"), 0, "unexpected token"},
        {T("nul"), 3, "unexpected end"},
        {T("nulL"), 3, "unexpected token"},
        {T("True"), 0, "unexpected token"},
        {T("truefalse"), 4, "text behind the value"},
        {T("\"a"), 2, "unexpected end"},
        {T("\"a\nb\""), 2, "control character in a string"},
        {T("\"a\0b\""), 2, "control character in a string"},
        {T("\"12345678\x1f\""), 9, "control character in a string"},
        {T("\"\\x41\""), 2, "bad escape"},
        {T("\"\\\0\""), 2, "bad escape"},
        {T("\"\\u12g4\""), 5, "bad escape"},
        {T("\"\\u123"), 6, "unexpected end"},
        {T("\"\\"), 2, "unexpected end"},
        {T("\"\x80\""), 1, "not UTF-8"},
        {T("\"\xc0\x80\""), 1, "not UTF-8"},
        {T("\"\xc1\xbf\""), 1, "not UTF-8"},
        {T("\"\xc3\""), 1, "not UTF-8"},
        {T("\"\xe0\x9f\xbf\""), 1, "not UTF-8"},
        {T("\"\xed\xa0\x80\""), 1, "not UTF-8"},
        {T("\"\xe2\x82"), 1, "not UTF-8"},
        {T("\"\xf0\x8f\xbf\xbf\""), 1, "not UTF-8"},
        {T("\"\xf4\x90\x80\x80\""), 1, "not UTF-8"},
        {T("\"\xf5\x80\x80\x80\""), 1, "not UTF-8"},
        {T("\"12345678\xff\""), 9, "not UTF-8"},
        {T("{\"a\":1}\xc2\xa0"), 7, "text behind the value"},
        {T("/**/1"), 0, "unexpected token"},
        {T("[1\x0b]"), 2, "expected , or ]"},
        {T("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]"), 64, "too deep"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct json_doc doc = JSON_DOC_INIT;
        char *copy;
        if (parse_copy(&doc, cases[i].text, &copy) != ERR_BAD_JSON)
            fail_msg("case %zu (%s) accepted", i, cases[i].text.ptr);
        if (doc.err_pos != cases[i].pos || strcmp(doc.err_what, cases[i].what) != 0)
            fail_msg("case %zu (%s): %s at %u", i, cases[i].text.ptr, doc.err_what, doc.err_pos);
        assert_null(json_root(&doc));
        json_fini(&doc);
        free(copy);
    }
}

static void test_truncated(void **state)
{
    (void)state;
    static const char text[] =
        "{\"qrData\":{\"deviceId\":\"d\\u0430\xd1\x8f\",\"v\":-1.5e+10,\"x\":[true,false,null,{}]},\"b\":[]}";
    struct json_doc doc = JSON_DOC_INIT;
    for (size_t len = 0; len < sizeof(text) - 1; len++) {
        char *copy;
        if (parse_copy(&doc, (struct span){text, len}, &copy) != ERR_BAD_JSON)
            fail_msg("%.*s accepted", (int)len, text);
        assert_true(doc.err_pos <= len);
        free(copy);
    }
    root_of(&doc, text);
    json_fini(&doc);
}

static void test_node_limit(void **state)
{
    (void)state;
    struct json_doc doc = JSON_DOC_INIT;
    assert_int_equal(json_parse(&doc, SPAN_LIT("[1,2,3]"), 4), ERR_OK);
    assert_int_equal(json_parse(&doc, SPAN_LIT("[1,2,3,4]"), 4), ERR_BAD_JSON);
    assert_string_equal(doc.err_what, "too many nodes");
    /* A roomier array of an earlier text does not lift the limit. */
    assert_int_equal(json_parse(&doc, SPAN_LIT("[1,2,3,4,5,6,7]"), 100), ERR_OK);
    assert_int_equal(json_parse(&doc, SPAN_LIT("[1,2,3,4]"), 4), ERR_BAD_JSON);
    assert_int_equal(json_parse(&doc, SPAN_LIT("1"), 0), ERR_BAD_JSON);
    json_fini(&doc);
    json_fini(&doc);
    json_fini(NULL);

    /* Storage grows past its first size and is kept. */
    struct buf text = BUF_INIT;
    buf_append_char(&text, '[');
    for (int i = 0; i < 1000; i++)
        buf_append_lit(&text, "{\"k\":1},");
    buf_append_lit(&text, "0]");
    assert_int_equal(json_parse(&doc, buf_span(&text), MAX_NODES), ERR_OK);
    assert_int_equal(doc.count, 3002);
    assert_int_equal(json_root(&doc)->count, 1001);
    const struct json_node *nodes = doc.nodes;
    assert_int_equal(json_parse(&doc, buf_span(&text), MAX_NODES), ERR_OK);
    assert_ptr_equal(nodes, doc.nodes);
    json_fini(&doc);
    buf_fini(&text);
}

static void test_walk(void **state)
{
    (void)state;
    struct json_doc doc = JSON_DOC_INIT;
    const struct json_node *root =
        root_of(&doc, " {\"a\":[10,[],\"x\"],\"b\\u0063\":{\"d\":1},\"a\":true,\"e\":null} ");
    assert_int_equal(root->type, JSON_OBJECT);
    assert_int_equal(root->count, 4);
    assert_int_equal(root->start, 1);
    const struct json_node *name = json_first(&doc, root);
    const struct json_node *array = json_member_value(name);
    assert_false(json_member_is_last(&doc, root, name));
    assert_int_equal(array->count, 3);
    const struct json_node *item = json_first(&doc, array);
    assert_true(span_eq(json_text(&doc, item), SPAN_LIT("10")));
    item = json_next(&doc, item);
    assert_null(json_first(&doc, item));
    item = json_next(&doc, item);
    assert_true(span_eq(json_text(&doc, item), SPAN_LIT("\"x\"")));
    assert_null(json_first(&doc, item));
    assert_null(json_next(&doc, item));
    name = json_next(&doc, name);
    assert_true(json_member_is_last(&doc, root, name));
    assert_int_equal(json_get(&doc, root, SPAN_LIT("a"))->type, JSON_TRUE);
    assert_int_equal(json_get(&doc, json_get(&doc, root, SPAN_LIT("bc")), SPAN_LIT("d"))->type, JSON_NUMBER);
    assert_int_equal(json_get(&doc, root, SPAN_LIT("e"))->type, JSON_NULL);
    assert_null(json_get(&doc, root, SPAN_LIT("d")));
    assert_null(json_get(&doc, root, SPAN_LIT("")));
    assert_null(json_get(&doc, array, SPAN_LIT("a")));
    assert_null(json_get(&doc, NULL, SPAN_LIT("a")));
    json_fini(&doc);
}

static void test_strings(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        struct span value;
        size_t utf16, points;
        bool eq; /* false: holds a lone surrogate, equal to nothing */
    } cases[] = {
        {"\"\"", T(""), 0, 0, true},
        {"\"abc\"", T("abc"), 3, 3, true},
        {"\"\\u0041\\n\\/\\\"\\\\\\b\\f\\r\\t\"", T("A\n/\"\\\b\f\r\t"), 9, 9, true},
        {"\"a\\u0000b\"", T("a\0b"), 3, 3, true},
        {"\"\xd1\x8f\xe2\x82\xac\xf0\x9f\x98\x80\"", T("\xd1\x8f\xe2\x82\xac\xf0\x9f\x98\x80"), 4, 3, true},
        {"\"\\u044f\\u20AC\\ud83d\\ude00\"", T("\xd1\x8f\xe2\x82\xac\xf0\x9f\x98\x80"), 4, 3, true},
        {"\"\\ud83d\"", T("\xef\xbf\xbd"), 1, 1, false},
        {"\"\\ude00\\ud83d\"", T("\xef\xbf\xbd\xef\xbf\xbd"), 2, 2, false},
        {"\"\\ud83dx\\ude00\"", T("\xef\xbf\xbdx\xef\xbf\xbd"), 3, 3, false},
        {"\"\\ud83d\\ud83d\\ude00\"", T("\xef\xbf\xbd\xf0\x9f\x98\x80"), 3, 2, false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct json_doc doc = JSON_DOC_INIT;
        struct buf scratch = BUF_INIT;
        const struct json_node *node = root_of(&doc, cases[i].json);
        buf_append_lit(&scratch, "before");
        struct span value = json_string(&doc, node, &scratch);
        if (!span_eq(value, cases[i].value) || json_string_utf16_len(&doc, node) != cases[i].utf16 ||
            json_string_codepoints(&doc, node) != cases[i].points ||
            json_string_eq(&doc, node, cases[i].value) != cases[i].eq)
            fail_msg("case %zu (%s): %.*s %zu %zu", i, cases[i].json, (int)value.len, value.ptr,
                     json_string_utf16_len(&doc, node), json_string_codepoints(&doc, node));
        assert_memory_equal(scratch.ptr, "before", 6);
        assert_false(json_string_eq(&doc, node, SPAN_LIT("other")));
        buf_fini(&scratch);
        json_fini(&doc);
    }
    struct json_doc doc = JSON_DOC_INIT;
    assert_false(json_string_eq(&doc, root_of(&doc, "1"), SPAN_LIT("1")));
    assert_false(json_string_eq(&doc, root_of(&doc, "\"\\u0041\""), SPAN_LIT("AB")));
    assert_false(json_string_eq(&doc, root_of(&doc, "\"\\u0041B\""), SPAN_LIT("A")));
    json_fini(&doc);
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        double value;
        bool integer;
    } cases[] = {
        {"0", 0, true},
        {"-7", -7, true},
        {"1.0", 1, true},
        {"1e2", 100, true},
        {"1.5e1", 15, true},
        {"1.5", 1.5, false},
        {"15e-1", 1.5, false},
        {"150e-1", 15, true},
        {"0e-99999999999999999999", 0, true},
        {"0.0", 0, true},
        {"999999999999999", 999999999999999.0, true},
        {"9007199254740993", 9007199254740992.0, true},
        {"9007199254740993.0000000000000000000000000001", 9007199254740994.0, false},
        {"1e400", INFINITY, true},
        {"-1e99999999999999999999", -INFINITY, true},
        {"1e-99999999999999999999", 0, false},
        {"0.1", 0.1, false},
        {"123456.789e-3", 123.456789, false},
        {"4.9e-324", 4.9e-324, false},
        {"1.7976931348623157e308", 1.7976931348623157e308, true},
        {"0.00000000000000000000000000000000000000000000001e47", 1, true},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct json_doc doc = JSON_DOC_INIT;
        const struct json_node *node = root_of(&doc, cases[i].json);
        double value = json_number(&doc, node);
        if (memcmp(&value, &cases[i].value, sizeof(value)) != 0 ||
            json_number_is_integer(&doc, node) != cases[i].integer)
            fail_msg("%s: %.17g", cases[i].json, value);
        json_fini(&doc);
    }
    /* A thousand digits: the last one still decides the rounding. */
    struct buf text = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    buf_append_lit(&text, "9007199254740993.");
    for (int i = 0; i < 1000; i++)
        buf_append_char(&text, '0');
    buf_append_char(&text, '1');
    assert_int_equal(json_parse(&doc, buf_span(&text), 1), ERR_OK);
    assert_true(json_number(&doc, json_root(&doc)) == 9007199254740994.0);
    json_fini(&doc);
    buf_fini(&text);
}

static void test_equal(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool equal;
    } cases[] = {
        {"1", "1.0", true},
        {"100", "1e2", true},
        {"-0", "0.0", true},
        {"1", "-1", false},
        {"12.5", "1.25e1", true},
        {"0.001", "1e-3", true},
        {"1", "10", false},
        {"9007199254740993", "9007199254740992", false},
        {"1", "true", false},
        {"0", "false", false},
        {"null", "null", true},
        {"\"a\\u0062\"", "\"ab\"", true},
        {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"", true},
        {"\"\\ud83d\"", "\"\\ufffd\"", false},
        {"\"a\"", "\"ab\"", false},
        {"[1,2]", "[1.0,2]", true},
        {"[1,2]", "[2,1]", false},
        {"[1]", "[1,1]", false},
        {"{\"a\":1,\"b\":[2]}", "{\"b\":[2],\"\\u0061\":1e0}", true},
        {"{\"a\":1}", "{\"a\":1,\"b\":1}", false},
        {"{\"a\":1,\"b\":1}", "{\"a\":1}", false},
        {"{\"a\":1}", "{\"b\":1}", false},
        {"{\"a\":1,\"a\":2}", "{\"a\":2}", true},
        {"{\"a\":2}", "{\"a\":2,\"a\":1}", false},
        {"{}", "[]", false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct json_doc doc_a = JSON_DOC_INIT, doc_b = JSON_DOC_INIT;
        const struct json_node *a = root_of(&doc_a, cases[i].a), *b = root_of(&doc_b, cases[i].b);
        if (json_equal(&doc_a, a, &doc_b, b) != cases[i].equal ||
            json_equal(&doc_b, b, &doc_a, a) != cases[i].equal)
            fail_msg("%s and %s", cases[i].a, cases[i].b);
        assert_true(json_equal(&doc_a, a, &doc_a, a));
        json_fini(&doc_a);
        json_fini(&doc_b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts), cmocka_unit_test(test_refuses),    cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_walk),    cmocka_unit_test(test_node_limit), cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
