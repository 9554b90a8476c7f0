/* SPDX-License-Identifier: Apache-2.0 */
/* The yes or no of a schema. Allocates nothing but for strings with escapes beyond SCRATCH_LEN bytes that a
 * format or a pattern must see decoded, and for objects with many members under an additionalProperties
 * schema; without memory such a value counts as not valid. */
#include "program.h"

#include <math.h>

#define SCRATCH_LEN 1024

struct value value_of(const struct schema *schema, const struct json_doc *doc, const struct json_node *node)
{
    struct value value = {.doc = doc, .node = node, .type = (enum json_type)node->type};
    if (schema->coerce == COERCE_JS_BOOLEAN) {
        value.coerced = true;
        value.type = JSON_TRUE;
    } else if (schema->coerce == COERCE_JS_NUMBER && node->type != JSON_NUMBER) {
        value.coerced = true;
        value.type = JSON_NUMBER;
        value.number = node->type == JSON_TRUE ? 1 : 0;
        if (node->type == JSON_ARRAY || node->type == JSON_OBJECT)
            value.number = NAN;
        if (node->type == JSON_STRING) {
            char store[SCRATCH_LEN];
            struct buf scratch = {store, 0, sizeof(store), false};
            /* A query text; one that needs more room is no number. */
            value.number = node->end - node->start <= sizeof(store)
                               ? js_number_parse(json_string(doc, node, &scratch))
                               : NAN;
        }
    }
    return value;
}

bool value_has_type(const struct value *value, unsigned types)
{
    if (types & TYPE_BIT(value->type))
        return !value->coerced || !isnan(value->number);
    if (!(types & TYPE_INTEGER) || value->type != JSON_NUMBER)
        return false;
    if (!value->coerced)
        return json_number_is_integer(value->doc, value->node);
    /* Doubles from 2^53 on are whole; a NaN or an infinity is no integer. */
    double number = value->number;
    return isfinite(number) && (number <= -0x1p53 || number >= 0x1p53 || number == (double)(int64_t)number);
}

/* ---- patterns ---- */

/* Memory for the two small objects PCRE2 wants for each match, on the caller's stack. What the interpreter needs on top does
 * not fit, and comes from the heap. */
struct match_arena {
    size_t used;
    max_align_t bytes[64];
};

static void *match_arena_alloc(size_t size, void *arg)
{
    struct match_arena *arena = arg;
    size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t);
    if (size > SG_ARRAY_LEN(arena->bytes) - arena->used)
        return malloc(size * sizeof(max_align_t));
    void *ptr = &arena->bytes[arena->used];
    arena->used += size;
    return ptr;
}

static void match_arena_free(void *ptr, void *arg)
{
    const struct match_arena *arena = arg;
    const char *begin = (const char *)arena->bytes, *at = ptr;
    if (at < begin || at >= begin + sizeof(arena->bytes))
        free(ptr);
}

static bool pattern_matches(const struct pattern *pattern, struct span text)
{
    struct match_arena arena;
    arena.used = 0;
    pcre2_general_context *general =
        pcre2_general_context_create(match_arena_alloc, match_arena_free, &arena);
    pcre2_match_data *data = general ? pcre2_match_data_create(1, general) : NULL;
    if (!data)
        return false;
    /* The text is UTF-8: json_parse() saw to that. An error is a limit that was hit: no match. */
    int rc = pcre2_match(pattern->code, (PCRE2_SPTR)text.ptr, text.len, 0, PCRE2_NO_UTF_CHECK, data,
                         pattern->limits);
    /* Compiled code has 32 KiB of stack, some thousand repeats of a group: too few for the step limit. The interpreter has no
     * such bound. It tries one start only, so its steps stay within the limit. */
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && pattern->anchored)
        rc = pcre2_match(pattern->code, (PCRE2_SPTR)text.ptr, text.len, 0, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         data, pattern->limits);
    pcre2_match_data_free(data);
    return rc >= 0;
}

/* ---- checks ---- */

static bool text_check_holds(const struct check *check, const struct value *value)
{
    char store[SCRATCH_LEN];
    size_t raw_len = value->node->end - value->node->start;
    bool fits = raw_len <= sizeof(store);
    struct buf scratch = fits ? (struct buf){store, 0, sizeof(store), false} : BUF_INIT;
    struct span text = json_string(value->doc, value->node, &scratch);
    bool holds = text.ptr && (check->kind == CHECK_PATTERN ? pattern_matches(check->pattern, text)
                                                           : format_holds(check->format, text));
    if (!fits)
        buf_fini(&scratch);
    return holds;
}

static bool multiple_holds(const struct check *check, const struct value *value)
{
    if (!value->coerced)
        return decimal_is_multiple(json_text(value->doc, value->node), check->unit);
    char text[JS_NUMBER_LEN];
    js_number_format(value->number, text);
    return isfinite(value->number) && decimal_is_multiple(span_of(text), check->unit);
}

bool check_applies(const struct check *check, const struct value *value)
{
    if (check->kind <= CHECK_PATTERN)
        return value->type == JSON_STRING;
    return value->type == (check->kind <= CHECK_MULTIPLE_OF ? JSON_NUMBER : JSON_ARRAY);
}

bool check_holds(const struct schema *schema, const struct check *check, const struct value *value)
{
    if (!check_applies(check, value))
        return true;
    uint64_t count = 0;
    double number = 0;
    if (check->kind <= CHECK_MAX_LENGTH)
        count = schema->length_utf16 ? json_string_utf16_len(value->doc, value->node)
                                     : json_string_codepoints(value->doc, value->node);
    else if (check->kind >= CHECK_MINIMUM && check->kind <= CHECK_EXCLUSIVE_MAXIMUM)
        number = value->coerced ? value->number : json_number(value->doc, value->node);
    switch (check->kind) {
    case CHECK_MIN_LENGTH:
        return count >= check->count;
    case CHECK_MAX_LENGTH:
        return count <= check->count;
    case CHECK_FORMAT:
    case CHECK_PATTERN:
        return text_check_holds(check, value);
    case CHECK_MINIMUM:
        return number >= check->number;
    case CHECK_MAXIMUM:
        return number <= check->number;
    case CHECK_EXCLUSIVE_MINIMUM:
        return number > check->number;
    case CHECK_EXCLUSIVE_MAXIMUM:
        return number < check->number;
    case CHECK_MULTIPLE_OF:
        return multiple_holds(check, value);
    case CHECK_MIN_ITEMS:
        return value->node->count >= check->count;
    default:
        return value->node->count <= check->count;
    }
}

bool enum_holds(const struct schema *schema, const struct value *value)
{
    const struct json_doc *doc = &schema->set->doc;
    for (const struct json_node *item = json_first(doc, schema->enumeration); item;
         item = json_next(doc, item)) {
        if (json_equal(doc, item, value->doc, value->node))
            return true;
    }
    return false;
}

/* ---- objects ---- */

bool schema_declares(const struct schema *schema, const struct json_doc *doc, const struct json_node *name)
{
    for (size_t i = 0; i < schema->prop_count; i++) {
        if (schema->props[i].schema && json_string_eq(doc, name, schema->props[i].key))
            return true;
    }
    return false;
}

static int member_compare_name(const void *a, const void *b, void *arg)
{
    const struct member *x = a, *y = b;
    int diff = json_string_compare(arg, x->name, y->name);
    return diff ? diff : x->order < y->order ? -1 : 1;
}

/* An array index as JavaScript orders keys by it: 0 to 2^32 - 2 without leading zeros. */
static bool member_index(const struct json_doc *doc, const struct json_node *name, uint64_t *ret_index)
{
    char store[64];
    struct buf scratch = {store, 0, sizeof(store), false};
    if (name->end - name->start > sizeof(store))
        return false;
    struct span text = json_string(doc, name, &scratch);
    return text.len <= 10 && !(text.len > 1 && text.ptr[0] == '0') && base_parse_u64(text, ret_index) &&
           *ret_index < UINT32_MAX;
}

static int member_compare_js(const void *a, const void *b, void *arg)
{
    const struct member *x = a, *y = b;
    uint64_t i, j;
    bool x_index = member_index(arg, x->name, &i), y_index = member_index(arg, y->name, &j);
    if (x_index != y_index)
        return x_index ? -1 : 1;
    if (x_index && i != j)
        return i < j ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

bool members_of(const struct json_doc *doc, const struct json_node *object, struct members *ret_members)
{
    struct members members = {calloc(object->count ? object->count : 1, sizeof(*members.list)), 0};
    *ret_members = members;
    if (!members.list)
        return false;
    uint32_t order = 0;
    for (const struct json_node *name = json_first(doc, object); name; name = json_next(doc, name), order++)
        members.list[members.count++] = (struct member){name, json_member_value(name), order};
    void *arg = (void *)doc;
    qsort_r(members.list, members.count, sizeof(*members.list), member_compare_name, arg);
    size_t kept = 0;
    for (size_t i = 0; i < members.count; i++) {
        if (kept && json_string_compare(doc, members.list[kept - 1].name, members.list[i].name) == 0)
            members.list[kept - 1].value = members.list[i].value;
        else
            members.list[kept++] = members.list[i];
    }
    members.count = kept;
    qsort_r(members.list, members.count, sizeof(*members.list), member_compare_js, arg);
    *ret_members = members;
    return true;
}

/* additionalProperties with a schema. Values that a later duplicate overrides do not count, but only an
 * object with an invalid value needs to know which those are. */
static bool additional_valid(const struct schema *schema, const struct json_doc *doc,
                             const struct json_node *object)
{
    const struct json_node *name = json_first(doc, object);
    for (; name; name = json_next(doc, name)) {
        if (!schema_declares(schema, doc, name) &&
            !schema_valid(schema->additional, doc, json_member_value(name)))
            break;
    }
    if (!name || schema->additional->never)
        return !name;
    struct members members;
    bool valid = members_of(doc, object, &members);
    for (size_t i = 0; valid && i < members.count; i++)
        valid = schema_declares(schema, doc, members.list[i].name) ||
                schema_valid(schema->additional, doc, members.list[i].value);
    free(members.list);
    return valid;
}

static bool object_valid(const struct schema *schema, const struct json_doc *doc,
                         const struct json_node *object)
{
    for (size_t i = 0; i < schema->prop_count; i++) {
        const struct property *prop = &schema->props[i];
        const struct json_node *member = json_get(doc, object, prop->key);
        if (!member ? prop->required : prop->schema && !schema_valid(prop->schema, doc, member))
            return false;
    }
    return !schema->additional || additional_valid(schema, doc, object);
}

/* ---- all of it ---- */

static bool combinations_valid(const struct schema *schema, const struct json_doc *doc,
                               const struct json_node *node)
{
    for (size_t i = 0; i < schema->all_of.count; i++) {
        if (!schema_valid(schema->all_of.items[i], doc, node))
            return false;
    }
    bool any = schema->any_of.count == 0;
    for (size_t i = 0; i < schema->any_of.count && !any; i++)
        any = schema_valid(schema->any_of.items[i], doc, node);
    size_t one = schema->one_of.count == 0;
    for (size_t i = 0; i < schema->one_of.count && one < 2; i++)
        one += schema_valid(schema->one_of.items[i], doc, node);
    return any && one == 1 && !(schema->negated && schema_valid(schema->negated, doc, node));
}

bool schema_valid(const struct schema *schema, const struct json_doc *doc, const struct json_node *node)
{
    if (!node || schema->never || (schema->ref && !schema_valid(schema->ref, doc, node)))
        return false;
    struct value value = value_of(schema, doc, node);
    if (schema->types && !value_has_type(&value, schema->types))
        return false;
    if (schema->constant && !json_equal(&schema->set->doc, schema->constant, doc, node))
        return false;
    if (schema->enumeration && !enum_holds(schema, &value))
        return false;
    for (size_t i = 0; i < schema->check_count; i++) {
        if (!check_holds(schema, &schema->checks[i], &value))
            return false;
    }
    if (value.type == JSON_OBJECT && (schema->prop_count || schema->additional) &&
        !object_valid(schema, doc, node))
        return false;
    if (value.type == JSON_ARRAY && schema->items) {
        for (const struct json_node *item = json_first(doc, node); item; item = json_next(doc, item)) {
            if (!schema_valid(schema->items, doc, item))
                return false;
        }
    }
    return combinations_valid(schema, doc, node);
}
