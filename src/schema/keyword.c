/* SPDX-License-Identifier: Apache-2.0 */
/* One function per keyword, and the table of them. A keyword that is not in the table is a load error. */
#include "program.h"

#include <math.h>

struct keyword {
    const char *name;
    bool (*compile)(struct compiler *c, struct schema *schema, const struct json_node *value, int arg);
    int arg;
};

static struct span text_of(const struct compiler *c, const struct json_node *node)
{
    return json_text(&c->set->doc, node);
}

/* A string's contents, living as long as the set. False (and failed) if it is none. */
static bool own_string(struct compiler *c, const struct json_node *node, struct span *ret_text)
{
    *ret_text = SPAN_LIT("");
    if (node->type != JSON_STRING) {
        compile_fail(c, "expected a string");
        return false;
    }
    struct buf scratch = BUF_INIT;
    struct span text = json_string(&c->set->doc, node, &scratch);
    if (text.ptr && node->escaped) {
        char *copy = set_alloc(c->set, text.len + 1);
        if (copy && text.len)
            memcpy(copy, text.ptr, text.len);
        text.ptr = copy;
    }
    buf_fini(&scratch);
    if (!text.ptr) {
        compile_no_memory(c);
        return false;
    }
    *ret_text = text;
    return true;
}

/* Which of the NULL-terminated words the node is; -1 after compile_fail(). */
static int word_of(struct compiler *c, const struct json_node *node, const char *const *words)
{
    struct buf known = BUF_INIT;
    for (int i = 0; words[i]; i++) {
        if (json_string_eq(&c->set->doc, node, span_of(words[i]))) {
            buf_fini(&known);
            return i;
        }
        buf_printf(&known, "%s%s", i ? ", " : "", words[i]);
    }
    compile_fail(c, "expected one of %.*s, not %.*s", (int)known.len, known.ptr, (int)text_of(c, node).len,
                 text_of(c, node).ptr);
    buf_fini(&known);
    return -1;
}

static struct check *check_add(struct compiler *c, struct schema *schema, enum check_kind kind)
{
    if (schema->check_count == schema->check_cap) {
        size_t cap = schema->check_cap ? schema->check_cap * 2 : 4;
        struct check *checks = set_alloc(c->set, cap * sizeof(*checks));
        if (!checks) {
            compile_no_memory(c);
            return NULL;
        }
        if (schema->check_count)
            memcpy(checks, schema->checks, schema->check_count * sizeof(*checks));
        schema->checks = checks;
        schema->check_cap = cap;
    }
    struct check *check = &schema->checks[schema->check_count++];
    check->kind = kind;
    return check;
}

/* ---- types and constants ---- */

static bool add_type(struct compiler *c, struct schema *schema, const struct json_node *value)
{
    static const char *const words[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object",  NULL};
    static const unsigned bits[] = {TYPE_BIT(JSON_NULL),   TYPE_BOOLEAN,          TYPE_INTEGER,
                                    TYPE_BIT(JSON_NUMBER), TYPE_BIT(JSON_STRING), TYPE_BIT(JSON_ARRAY),
                                    TYPE_BIT(JSON_OBJECT)};
    int word = word_of(c, value, words);
    if (word >= 0)
        schema->types = (uint8_t)(schema->types | bits[word]);
    return word >= 0;
}

static bool compile_type(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)arg;
    if (value->type != JSON_ARRAY)
        return add_type(c, schema, value);
    if (value->count == 0)
        return compile_fail(c, "expected at least one type");
    for (const struct json_node *item = json_first(&c->set->doc, value); item;
         item = json_next(&c->set->doc, item)) {
        if (!add_type(c, schema, item))
            return false;
    }
    return true;
}

static bool compile_const(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)c, (void)arg;
    schema->constant = value;
    return true;
}

static bool compile_enum(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)arg;
    if (value->type != JSON_ARRAY)
        return compile_fail(c, "expected an array");
    schema->enumeration = value;
    bool any_string = false;
    schema->enum_of_strings = true;
    for (const struct json_node *item = json_first(&c->set->doc, value); item;
         item = json_next(&c->set->doc, item)) {
        any_string |= item->type == JSON_STRING;
        schema->enum_of_strings &= item->type == JSON_STRING || item->type == JSON_NULL;
    }
    schema->enum_of_strings &= any_string;
    return true;
}

/* ---- checks ---- */

static bool compile_count(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    double number = value->type == JSON_NUMBER ? json_number(&c->set->doc, value) : -1;
    if (!(number >= 0 && number <= 4294967295.0) || !json_number_is_integer(&c->set->doc, value))
        return compile_fail(c, "expected an integer from 0 to 4294967295");
    struct check *check = check_add(c, schema, (enum check_kind)arg);
    if (check)
        check->count = (uint64_t)number;
    return check != NULL;
}

static bool compile_bound(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    if (value->type != JSON_NUMBER)
        return compile_fail(c, "expected a number");
    struct check *check = check_add(c, schema, (enum check_kind)arg);
    if (!check)
        return false;
    check->number = json_number(&c->set->doc, value);
    if (arg == CHECK_MULTIPLE_OF &&
        (!(check->number > 0) || !decimal_unit_parse(text_of(c, value), &check->unit)))
        return compile_fail(c, "expected a number above 0 with at most 18 digits");
    return true;
}

static bool compile_format(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    static const char *const standard[] = {"uuid", "date-time", "email", "uri", NULL};
    static const char *const legacy[] = {"js-uuid", "js-date-time", "js-email", "js-url", NULL};
    int word = word_of(c, value, arg ? legacy : standard);
    struct check *check = word >= 0 ? check_add(c, schema, CHECK_FORMAT) : NULL;
    if (check)
        check->format = (enum schema_format)(arg ? FORMAT_JS_UUID + word : word);
    return check != NULL;
}

/* Steps of the matcher from one start position, after which the value counts as not matching. */
#define PATTERN_MATCH_LIMIT 20000

static bool compile_pattern(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)arg;
    struct span text;
    if (!own_string(c, value, &text))
        return false;
    struct pattern *pattern = set_alloc(c->set, sizeof(*pattern));
    struct check *check = pattern ? check_add(c, schema, CHECK_PATTERN) : NULL;
    if (!check)
        return compile_no_memory(c);
    int code;
    PCRE2_SIZE offset;
    /* As close to ECMA-262 with the u flag as PCRE2 gets. */
    pattern->code =
        pcre2_compile((PCRE2_SPTR)text.ptr, text.len,
                      PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX | PCRE2_ALLOW_EMPTY_CLASS |
                          PCRE2_MATCH_UNSET_BACKREF | PCRE2_NEVER_BACKSLASH_C,
                      &code, &offset, NULL);
    if (!pattern->code) {
        unsigned char message[200];
        pcre2_get_error_message(code, message, sizeof(message));
        return compile_fail(c, "at offset %zu: %s", (size_t)offset, (const char *)message);
    }
    pattern->next = c->set->patterns;
    c->set->patterns = pattern;
    check->pattern = pattern;
    pattern->limits = pcre2_match_context_create(NULL);
    if (!pattern->limits)
        return compile_no_memory(c);
    pcre2_set_match_limit(pattern->limits, PATTERN_MATCH_LIMIT);
    uint32_t options = 0;
    pattern->anchored =
        pcre2_pattern_info(pattern->code, PCRE2_INFO_ALLOPTIONS, &options) == 0 && (options & PCRE2_ANCHORED);
    /* Without the compiler for this machine the interpreter runs, under the same limit. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    return true;
}

/* ---- objects, arrays, combinations ---- */

static struct property *property_add(struct compiler *c, struct schema *schema, const struct json_node *name)
{
    if (schema->prop_count == schema->prop_cap) {
        size_t cap = schema->prop_cap ? schema->prop_cap * 2 : 8;
        struct property *props = set_alloc(c->set, cap * sizeof(*props));
        if (!props) {
            compile_no_memory(c);
            return NULL;
        }
        if (schema->prop_count)
            memcpy(props, schema->props, schema->prop_count * sizeof(*props));
        schema->props = props;
        schema->prop_cap = cap;
    }
    struct property *prop = &schema->props[schema->prop_count];
    prop->name = name;
    if (!own_string(c, name, &prop->key))
        return NULL;
    schema->prop_count++;
    return prop;
}

static bool compile_properties(struct compiler *c, struct schema *schema, const struct json_node *value,
                               int arg)
{
    (void)arg;
    if (value->type != JSON_OBJECT)
        return compile_fail(c, "expected an object");
    for (const struct json_node *name = json_first(&c->set->doc, value); name;
         name = json_next(&c->set->doc, name)) {
        struct property *prop = property_add(c, schema, name);
        if (!prop)
            return false;
        prop->schema = compile_below(c, name, 0, json_member_value(name));
        if (!prop->schema)
            return false;
    }
    return true;
}

/* Runs after properties, whatever their order in the document. */
static bool compile_required(struct compiler *c, struct schema *schema, const struct json_node *value,
                             int arg)
{
    (void)arg;
    if (value->type != JSON_ARRAY)
        return compile_fail(c, "expected an array of strings");
    for (const struct json_node *item = json_first(&c->set->doc, value); item;
         item = json_next(&c->set->doc, item)) {
        if (item->type != JSON_STRING)
            return compile_fail(c, "expected an array of strings");
        struct property *prop = NULL;
        for (size_t i = 0; i < schema->prop_count && !prop; i++) {
            if (json_string_eq(&c->set->doc, item, schema->props[i].key))
                prop = &schema->props[i];
        }
        if (!prop)
            prop = property_add(c, schema, item);
        if (!prop)
            return false;
        prop->required = true;
    }
    return true;
}

enum sub { SUB_ADDITIONAL, SUB_ITEMS, SUB_NOT };

static bool compile_sub(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    const struct schema *sub = compile_node(c, value);
    if (arg == SUB_ADDITIONAL)
        schema->additional = sub;
    else if (arg == SUB_ITEMS)
        schema->items = sub;
    else
        schema->negated = sub;
    return sub != NULL;
}

enum combination { COMBINE_ALL, COMBINE_ANY, COMBINE_ONE };

static bool compile_list(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    if (value->type != JSON_ARRAY || value->count == 0)
        return compile_fail(c, "expected an array of at least one schema");
    struct schema_list *list = arg == COMBINE_ALL   ? &schema->all_of
                               : arg == COMBINE_ANY ? &schema->any_of
                                                    : &schema->one_of;
    list->items = set_alloc(c->set, value->count * sizeof(void *));
    if (!list->items)
        return compile_no_memory(c);
    for (const struct json_node *item = json_first(&c->set->doc, value); item;
         item = json_next(&c->set->doc, item)) {
        list->items[list->count] = compile_below(c, NULL, list->count, item);
        if (!list->items[list->count])
            return false;
        list->count++;
    }
    return true;
}

static bool compile_reference(struct compiler *c, struct schema *schema, const struct json_node *value,
                              int arg)
{
    (void)arg;
    struct span text;
    if (!own_string(c, value, &text))
        return false;
    schema->ref = compile_ref(c, text);
    return schema->ref != NULL;
}

/* Definitions are compiled even if nothing refers to them, so that a slip in one is found. */
static bool compile_defs(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)schema, (void)arg;
    if (value->type != JSON_OBJECT)
        return compile_fail(c, "expected an object");
    for (const struct json_node *name = json_first(&c->set->doc, value); name;
         name = json_next(&c->set->doc, name)) {
        if (!compile_below(c, name, 0, json_member_value(name)))
            return false;
    }
    return true;
}

/* ---- extensions and annotations ---- */

static bool compile_length_unit(struct compiler *c, struct schema *schema, const struct json_node *value,
                                int arg)
{
    (void)arg;
    static const char *const words[] = {"utf-16", NULL};
    schema->length_utf16 = true;
    return word_of(c, value, words) >= 0;
}

static bool compile_coerce(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)arg;
    static const char *const words[] = {"js-number", "js-boolean", NULL};
    int word = word_of(c, value, words);
    schema->coerce = word ? COERCE_JS_BOOLEAN : COERCE_JS_NUMBER;
    return word >= 0;
}

static bool compile_zod_check(struct compiler *c, struct schema *schema, const struct json_node *value,
                              int arg)
{
    (void)arg;
    const struct json_node *prefix = json_get(&c->set->doc, value, SPAN_LIT("startsWith"));
    if (!prefix || prefix->type != JSON_STRING || value->count != 1)
        return compile_fail(c, "expected {\"startsWith\": \"...\"}");
    schema->starts_with = prefix;
    return true;
}

static bool compile_id(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)arg;
    struct span text;
    if (schema->node != 0)
        return compile_fail(c, "supported at the root of the document only");
    return own_string(c, value, &text);
}

static bool ignore(struct compiler *c, struct schema *schema, const struct json_node *value, int arg)
{
    (void)c, (void)schema, (void)value, (void)arg;
    return true;
}

static const struct keyword keywords[] = {
    {"type", compile_type, 0},
    {"const", compile_const, 0},
    {"enum", compile_enum, 0},
    {"minLength", compile_count, CHECK_MIN_LENGTH},
    {"maxLength", compile_count, CHECK_MAX_LENGTH},
    {"minItems", compile_count, CHECK_MIN_ITEMS},
    {"maxItems", compile_count, CHECK_MAX_ITEMS},
    {"minimum", compile_bound, CHECK_MINIMUM},
    {"maximum", compile_bound, CHECK_MAXIMUM},
    {"exclusiveMinimum", compile_bound, CHECK_EXCLUSIVE_MINIMUM},
    {"exclusiveMaximum", compile_bound, CHECK_EXCLUSIVE_MAXIMUM},
    {"multipleOf", compile_bound, CHECK_MULTIPLE_OF},
    {"pattern", compile_pattern, 0},
    {"format", compile_format, 0},
    {"x-syncgate-format", compile_format, 1},
    {"properties", compile_properties, 0},
    {"additionalProperties", compile_sub, SUB_ADDITIONAL},
    {"items", compile_sub, SUB_ITEMS},
    {"not", compile_sub, SUB_NOT},
    {"allOf", compile_list, COMBINE_ALL},
    {"anyOf", compile_list, COMBINE_ANY},
    {"oneOf", compile_list, COMBINE_ONE},
    {"$ref", compile_reference, 0},
    {"$defs", compile_defs, 0},
    {"$id", compile_id, 0},
    {"x-syncgate-length-unit", compile_length_unit, 0},
    {"x-syncgate-coerce", compile_coerce, 0},
    {"x-syncgate-zod-check", compile_zod_check, 0},
    {"required", ignore, 0}, /* compiled behind the others */
    {"title", ignore, 0},
    {"description", ignore, 0},
    {"default", ignore, 0},
    {"example", ignore, 0},
    {"examples", ignore, 0},
    {"deprecated", ignore, 0},
    {"readOnly", ignore, 0},
    {"writeOnly", ignore, 0},
    {"$comment", ignore, 0},
    {"$schema", ignore, 0},
    {"discriminator", ignore, 0},
};

static bool run_keyword(struct compiler *c, const struct keyword *keyword, struct schema *schema,
                        const struct json_node *value)
{
    size_t mark = c->at.len;
    buf_printf(&c->at, "/%s", keyword->name);
    if (!keyword->compile(c, schema, value, keyword->arg))
        return false;
    c->at.len = mark;
    return true;
}

/* A pattern that is reported as a prefix must say the same: "^" and the prefix, escaped where it must be. */
static bool check_starts_with(struct compiler *c, struct schema *schema, const struct json_node *pattern)
{
    struct span text, prefix;
    buf_append_lit(&c->at, "/x-syncgate-zod-check");
    if (!pattern) {
        compile_fail(c, "expected a pattern beside it");
        return false;
    }
    if (!own_string(c, pattern, &text) || !own_string(c, schema->starts_with, &prefix))
        return false;
    size_t at = 0;
    bool same = text.len > 0 && text.ptr[0] == '^';
    for (size_t i = 1; same && i < text.len; i++, at++) {
        if (text.ptr[i] == '\\')
            same = ++i < text.len;
        else if (strchr("^$.*+?()[]{}|", text.ptr[i]))
            same = false;
        same = same && at < prefix.len && text.ptr[i] == prefix.ptr[at];
    }
    if (!same || at != prefix.len)
        return compile_fail(c, "expected the pattern \"^\" followed by this prefix beside it");
    c->at.len -= strlen("/x-syncgate-zod-check");
    return true;
}

bool keywords_compile(struct compiler *c, struct schema *schema, const struct json_node *node)
{
    static const struct keyword required = {"required", compile_required, 0};
    const struct json_doc *doc = &c->set->doc;
    for (const struct json_node *name = json_first(doc, node); name; name = json_next(doc, name)) {
        const struct keyword *keyword = NULL;
        for (size_t i = 0; i < SG_ARRAY_LEN(keywords) && !keyword; i++) {
            if (json_string_eq(doc, name, span_of(keywords[i].name)))
                keyword = &keywords[i];
        }
        if (!keyword) {
            struct span text = json_text(doc, name);
            buf_printf(&c->at, "/%.*s", (int)text.len - 2, text.ptr + 1);
            return compile_fail(c, "this keyword is not supported");
        }
        if (!run_keyword(c, keyword, schema, json_member_value(name)))
            return false;
    }
    const struct json_node *names = json_get(doc, node, SPAN_LIT("required"));
    if (names && !run_keyword(c, &required, schema, names))
        return false;
    return !schema->starts_with || check_starts_with(c, schema, json_get(doc, node, SPAN_LIT("pattern")));
}
