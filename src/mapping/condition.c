/* SPDX-License-Identifier: Apache-2.0 */
/* Conditions: a conjunction of tests, each of one expression against literals that were parsed at load. */
#include "expr.h"

enum test_op { TEST_IS, TEST_IN, TEST_NOT, TEST_EXISTS, TEST_EMPTY };

static const char *const op_names[] = {"is", "in", "not", "exists", "empty"};

struct test {
    enum test_op op;
    bool expected; /* TEST_EXISTS, TEST_EMPTY */
    struct expr *expr;
    char *text; /* owned: the operand as JSON text, which `operand` indexes */
    struct json_doc operand;
};

struct mapping_condition {
    struct test *tests;
    size_t count;
};

static bool fail(struct err *err, const char *where, size_t index, const char *what)
{
    err_set(err, ERR_CONFIG, "%s[%zu]%s", where, index, what);
    return false;
}

static bool no_memory(struct err *err)
{
    err_set(err, ERR_NO_MEMORY, "out of memory for a condition");
    return false;
}

static bool compile_value(struct test *test, struct span text, unsigned roots, const char *place,
                          struct err *err)
{
    size_t used = 0;
    bool ok = text.len > 2 && memcmp(text.ptr, "${", 2) == 0;
    if (ok) { /* a rendered payload is text, not values: it has nothing to compare */
        test->expr = expr_compile((struct span){text.ptr + 2, text.len - 2},
                                  roots & ~(unsigned)MAPPING_ENVELOPE, place, &used, err);
        if (!test->expr)
            return false;
        ok = used + 2 == text.len;
    }
    if (!ok)
        err_set(err, ERR_CONFIG, "%s: expected exactly one expression \"${...}\"", place);
    return ok;
}

static bool compile_value_node(struct test *test, const struct json_doc *doc, const struct json_node *node,
                               unsigned roots, const char *where, size_t index, struct err *err)
{
    struct buf place = BUF_INIT, decoded = BUF_INIT;
    buf_printf(&place, "%s[%zu].value", where, index);
    struct span text = {0};
    if (node && node->type == JSON_STRING)
        text = json_string(doc, node, &decoded);
    bool ok = buf_ok(&place) && buf_ok(&decoded) ? compile_value(test, text, roots, place.ptr, err)
                                                 : no_memory(err);
    buf_fini(&place);
    buf_fini(&decoded);
    return ok;
}

static bool compile_operand(struct test *test, const struct json_doc *doc, const struct json_node *node,
                            const char *where, size_t index, struct err *err)
{
    if (test->op == TEST_EXISTS || test->op == TEST_EMPTY) {
        test->expected = node->type == JSON_TRUE;
        return test->expected || node->type == JSON_FALSE ||
               fail(err, where, index, ": expected true or false for \"exists\" and \"empty\"");
    }
    if (test->op == TEST_IN && (node->type != JSON_ARRAY || node->count == 0))
        return fail(err, where, index, ".in: expected a list of values");
    struct span text = json_text(doc, node);
    test->text = span_dup(text);
    if (!test->text || json_parse(&test->operand, (struct span){test->text, text.len}, UINT32_MAX) != ERR_OK)
        return no_memory(err); /* it is a part of a text that was parsed before */
    return true;
}

static bool find_op(struct test *test, const struct json_doc *doc, const struct json_node *node,
                    const char *where, size_t index, const struct json_node **ret_operand, struct err *err)
{
    for (const struct json_node *key = json_first(doc, node); key; key = json_next(doc, key)) {
        if (json_string_eq(doc, key, SPAN_LIT("value")))
            continue;
        size_t op = 0;
        while (op < SG_ARRAY_LEN(op_names) && !json_string_eq(doc, key, span_of(op_names[op])))
            op++;
        if (op == SG_ARRAY_LEN(op_names)) {
            err_set(err, ERR_CONFIG,
                    "%s[%zu]: unknown key %.*s; expected value and one of is, in, not, exists, empty", where,
                    index, (int)(key->end - key->start), doc->text + key->start);
            return false;
        }
        if (*ret_operand)
            return fail(err, where, index, ": expected only one of is, in, not, exists, empty");
        test->op = (enum test_op)op;
        *ret_operand = json_member_value(key);
    }
    return *ret_operand || fail(err, where, index, ": expected one of is, in, not, exists, empty");
}

static bool compile_test(struct test *test, const struct json_doc *doc, const struct json_node *node,
                         unsigned roots, const char *where, size_t index, struct err *err)
{
    const struct json_node *operand = NULL;
    if (node->type != JSON_OBJECT)
        return fail(err, where, index, ": expected an object {\"value\": \"${...}\", \"is\": ...}");
    return find_op(test, doc, node, where, index, &operand, err) &&
           compile_value_node(test, doc, json_get(doc, node, SPAN_LIT("value")), roots, where, index, err) &&
           compile_operand(test, doc, operand, where, index, err);
}

struct mapping_condition *mapping_condition_compile(const struct json_doc *doc, const struct json_node *node,
                                                    unsigned roots, const char *where, struct err *err)
{
    if (node->type != JSON_ARRAY) {
        err_set(err, ERR_CONFIG, "%s: expected a list of conditions", where);
        return NULL;
    }
    struct mapping_condition *cond = calloc(1, sizeof(*cond));
    if (cond)
        cond->tests = calloc(node->count + 1, sizeof(*cond->tests));
    if (!cond || !cond->tests) {
        free(cond);
        no_memory(err);
        return NULL;
    }
    for (const struct json_node *item = json_first(doc, node); item; item = json_next(doc, item)) {
        size_t index = cond->count++; /* a half-made one is freed too */
        if (!compile_test(&cond->tests[index], doc, item, roots, where, index, err)) {
            mapping_condition_freep(&cond);
            return NULL;
        }
    }
    return cond;
}

void mapping_condition_freep(struct mapping_condition **cond_ptr)
{
    struct mapping_condition *cond = *cond_ptr;
    if (!cond)
        return;
    *cond_ptr = NULL;
    for (size_t i = 0; i < cond->count; i++) {
        expr_freep(&cond->tests[i].expr);
        json_fini(&cond->tests[i].operand);
        free(cond->tests[i].text);
    }
    free(cond->tests);
    free(cond);
}

void mapping_condition_each_ref(const struct mapping_condition *cond, mapping_ref_fn visit, void *arg)
{
    for (size_t i = 0; i < cond->count; i++)
        expr_each_ref(cond->tests[i].expr, visit, arg);
}

static bool is_any_of(const struct value *value, const struct json_doc *doc)
{
    for (const struct json_node *node = json_first(doc, json_root(doc)); node; node = json_next(doc, node))
        if (value_equals(value, doc, node))
            return true;
    return false;
}

static bool test_holds(const struct test *test, const struct value *value)
{
    switch (test->op) {
    case TEST_IS:
        return value_equals(value, &test->operand, json_root(&test->operand));
    case TEST_IN:
        return is_any_of(value, &test->operand);
    case TEST_NOT:
        return !value_equals(value, &test->operand, json_root(&test->operand));
    case TEST_EXISTS:
        return (value->type != VALUE_MISSING) == test->expected;
    case TEST_EMPTY:
        return value_is_empty(value) == test->expected;
    }
    return false;
}

bool mapping_condition_holds(const struct mapping_condition *cond, const struct mapping_scope *scope,
                             struct buf *scratch)
{
    struct value value;
    buf_clear(scratch);
    for (size_t i = 0; i < cond->count; i++) {
        expr_eval(cond->tests[i].expr, scope, scratch, &value);
        if (!buf_ok(scratch) || !test_holds(&cond->tests[i], &value))
            return false;
    }
    return true;
}
