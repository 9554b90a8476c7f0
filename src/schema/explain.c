/* SPDX-License-Identifier: Apache-2.0 */
/* Why a value is not valid, in the words and the order of the legacy backend (legacy contract 0.3).
 *  - An issue is appended for every failing keyword; explain_value() adds at least one exactly when
 * schema_valid() is false.
 *  - A value is "dirty" when all its issues are about range, format or extra keys, "aborted" otherwise; a
 * union answers with the issues of its first dirty alternative, or with all alternatives if each is aborted.
 *  - A list of issues begins with '[' and an issue ends with '}', so the last byte tells whether a comma is
 * due. */
#include "program.h"

enum outcome { VALID, DIRTY, ABORTED };

/* Where a value is; a chain on the stack from the value up to the root. */
struct place {
    const struct place *up;
    const struct json_doc *doc;   /* of the name */
    const struct json_node *name; /* NULL: an array element */
    size_t index;
};

struct explain {
    const struct json_doc *doc;
    struct buf *out;
};

static enum outcome explain_value(struct explain *ex, const struct schema *schema,
                                  const struct json_node *node, const struct place *place);

static enum outcome worse(enum outcome a, enum outcome b)
{
    return a > b ? a : b;
}

/* ---- pieces of an issue ---- */

static void append_place(struct buf *out, const struct place *place)
{
    if (!place)
        return;
    append_place(out, place->up);
    if (place->up)
        buf_append_char(out, ',');
    if (!place->name) {
        buf_append_u64(out, place->index);
        return;
    }
    buf_append_char(out, '"');
    json_string_append_js(place->doc, place->name, out);
    buf_append_char(out, '"');
}

static void append_path(struct buf *out, const struct place *place)
{
    buf_append_lit(out, "\"path\":[");
    append_place(out, place);
    buf_append_char(out, ']');
}

static void issue_begin(struct explain *ex)
{
    if (ex->out->len && ex->out->ptr[ex->out->len - 1] == '}')
        buf_append_char(ex->out, ',');
    buf_append_char(ex->out, '{');
}

static void append_number(struct buf *out, double number)
{
    char text[JS_NUMBER_LEN];
    js_number_format(number, text);
    buf_append(out, text, strlen(text));
}

/* A value as JSON.stringify(JSON.parse(text)) writes it; inside of a string if `nested`. */
static void append_value(struct buf *out, const struct json_doc *doc, const struct json_node *node,
                         bool nested)
{
    struct buf own = BUF_INIT, *to = nested ? &own : out;
    const struct json_node *item = json_first(doc, node);
    struct members members = {NULL, 0};
    switch ((enum json_type)node->type) {
    case JSON_STRING:
        buf_append_char(to, '"');
        json_string_append_js(doc, node, to);
        buf_append_char(to, '"');
        break;
    case JSON_NUMBER:
        append_number(to, json_number(doc, node));
        break;
    case JSON_ARRAY:
        buf_append_char(to, '[');
        for (; item; item = json_next(doc, item)) {
            append_value(to, doc, item, false);
            if (item->next)
                buf_append_char(to, ',');
        }
        buf_append_char(to, ']');
        break;
    case JSON_OBJECT:
        buf_append_char(to, '{');
        to->failed |= !members_of(doc, node, &members);
        for (size_t i = 0; i < members.count; i++) {
            if (i)
                buf_append_char(to, ',');
            buf_append_char(to, '"');
            json_string_append_js(doc, members.list[i].name, to);
            buf_append_lit(to, "\":");
            append_value(to, doc, members.list[i].value, false);
        }
        free(members.list);
        buf_append_char(to, '}');
        break;
    default:
        buf_append_span(to, json_text(doc, node));
    }
    if (!nested)
        return;
    for (size_t i = 0; i < own.len; i++) {
        if (own.ptr[i] == '"' || own.ptr[i] == '\\')
            buf_append_char(out, '\\');
        buf_append_char(out, own.ptr[i]);
    }
    out->failed |= own.failed;
    buf_fini(&own);
}

static const char *type_name(enum json_type type)
{
    static const char *const names[] = {"null", "boolean", "boolean", "number", "string", "array", "object"};
    return names[type];
}

static const char *received_name(const struct value *value)
{
    if (!value)
        return "undefined";
    return value->coerced && value->number != value->number ? "nan" : type_name(value->type);
}

/* {"code":"invalid_type",...}; `value` NULL = absent. */
static enum outcome issue_type(struct explain *ex, const char *expected, const struct value *value,
                               const struct place *place)
{
    const char *received = received_name(value);
    issue_begin(ex);
    buf_printf(ex->out, "\"code\":\"invalid_type\",\"expected\":\"%s\",\"received\":\"%s\",", expected,
               received);
    append_path(ex->out, place);
    if (value)
        buf_printf(ex->out, ",\"message\":\"Expected %s, received %s\"}", expected, received);
    else
        buf_append_lit(ex->out, ",\"message\":\"Required\"}");
    return ABORTED;
}

/* What the legacy contract has no word for. */
static enum outcome issue_custom(struct explain *ex, const struct place *place)
{
    issue_begin(ex);
    buf_append_lit(ex->out, "\"code\":\"custom\",\"message\":\"Invalid input\",");
    append_path(ex->out, place);
    buf_append_char(ex->out, '}');
    return DIRTY;
}

static enum outcome issue_literal(struct explain *ex, const struct schema *schema,
                                  const struct json_node *expected, const struct json_node *node,
                                  const struct place *place)
{
    const struct json_doc *doc = &schema->set->doc;
    issue_begin(ex);
    if (node) {
        buf_append_lit(ex->out, "\"received\":");
        append_value(ex->out, ex->doc, node, false);
        buf_append_char(ex->out, ',');
    }
    buf_append_lit(ex->out, "\"code\":\"invalid_literal\",\"expected\":");
    append_value(ex->out, doc, expected, false);
    buf_append_char(ex->out, ',');
    append_path(ex->out, place);
    buf_append_lit(ex->out, ",\"message\":\"Invalid literal value, expected ");
    append_value(ex->out, doc, expected, true);
    buf_append_lit(ex->out, "\"}");
    return ABORTED;
}

/* The strings of an enum: 'a' | 'b', or "a","b" as JSON. */
static void append_options(struct buf *out, const struct schema *schema, bool json)
{
    const struct json_doc *doc = &schema->set->doc;
    bool first = true;
    for (const struct json_node *item = json_first(doc, schema->enumeration); item;
         item = json_next(doc, item)) {
        if (item->type != JSON_STRING)
            continue;
        if (!first)
            buf_append(out, json ? "," : " | ", json ? 1 : 3);
        first = false;
        buf_append_char(out, json ? '"' : '\'');
        json_string_append_js(doc, item, out);
        buf_append_char(out, json ? '"' : '\'');
    }
}

static enum outcome issue_enum(struct explain *ex, const struct schema *schema, const struct value *value,
                               const struct place *place)
{
    struct buf *out = ex->out;
    issue_begin(ex);
    if (value && value->node->type == JSON_STRING) {
        buf_append_lit(out, "\"received\":\"");
        json_string_append_js(ex->doc, value->node, out);
        buf_append_lit(out, "\",\"code\":\"invalid_enum_value\",\"options\":[");
        append_options(out, schema, true);
        buf_append_lit(out, "],");
        append_path(out, place);
        buf_append_lit(out, ",\"message\":\"Invalid enum value. Expected ");
        append_options(out, schema, false);
        buf_append_lit(out, ", received '");
        json_string_append_js(ex->doc, value->node, out);
        buf_append_lit(out, "'\"}");
        return ABORTED;
    }
    buf_append_lit(out, "\"expected\":\"");
    append_options(out, schema, false);
    buf_printf(out, "\",\"received\":\"%s\",\"code\":\"invalid_type\",", received_name(value));
    append_path(out, place);
    if (value) {
        buf_append_lit(out, ",\"message\":\"Expected ");
        append_options(out, schema, false);
        buf_printf(out, ", received %s\"}", received_name(value));
    } else {
        buf_append_lit(out, ",\"message\":\"Required\"}");
    }
    return ABORTED;
}

/* ---- checks ---- */

static void issue_size(struct explain *ex, const char *code, const char *bound, double limit,
                       const char *type, bool inclusive, const char *message, const char *unit)
{
    struct buf *out = ex->out;
    buf_printf(out, "\"code\":\"%s\",\"%s\":", code, bound);
    append_number(out, limit);
    buf_printf(out, ",\"type\":\"%s\",\"inclusive\":%s,\"exact\":false,\"message\":\"%s ", type,
               inclusive ? "true" : "false", message);
    append_number(out, limit);
    buf_printf(out, "%s\",", unit);
}

static void issue_pattern(struct explain *ex, const struct schema *schema)
{
    struct buf *out = ex->out;
    if (!schema->starts_with) {
        buf_append_lit(out, "\"validation\":\"regex\",\"code\":\"invalid_string\",\"message\":\"Invalid\",");
        return;
    }
    buf_append_lit(out, "\"code\":\"invalid_string\",\"validation\":{\"startsWith\":");
    append_value(out, &schema->set->doc, schema->starts_with, false);
    buf_append_lit(out, "},\"message\":\"Invalid input: must start with ");
    append_value(out, &schema->set->doc, schema->starts_with, true);
    buf_append_lit(out, "\",");
}

static void issue_format(struct explain *ex, enum schema_format format)
{
    static const char *const texts[] = {
        "\"validation\":\"uuid\",\"code\":\"invalid_string\",\"message\":\"Invalid uuid\",",
        "\"code\":\"invalid_string\",\"validation\":\"datetime\",\"message\":\"Invalid datetime\",",
        "\"validation\":\"email\",\"code\":\"invalid_string\",\"message\":\"Invalid email\",",
        "\"validation\":\"url\",\"code\":\"invalid_string\",\"message\":\"Invalid url\",",
    };
    const char *text = texts[format % SG_ARRAY_LEN(texts)]; /* the legacy formats follow in the same order */
    buf_append(ex->out, text, strlen(text));
}

static enum outcome issue_check(struct explain *ex, const struct schema *schema, const struct check *check,
                                const struct place *place)
{
    double count = (double)check->count, number = check->number;
    issue_begin(ex);
    switch (check->kind) {
    case CHECK_MIN_LENGTH:
        issue_size(ex, "too_small", "minimum", count, "string", true, "String must contain at least",
                   " character(s)");
        break;
    case CHECK_MAX_LENGTH:
        issue_size(ex, "too_big", "maximum", count, "string", true, "String must contain at most",
                   " character(s)");
        break;
    case CHECK_MINIMUM:
        issue_size(ex, "too_small", "minimum", number, "number", true,
                   "Number must be greater than or equal to", "");
        break;
    case CHECK_MAXIMUM:
        issue_size(ex, "too_big", "maximum", number, "number", true, "Number must be less than or equal to",
                   "");
        break;
    case CHECK_EXCLUSIVE_MINIMUM:
        issue_size(ex, "too_small", "minimum", number, "number", false, "Number must be greater than", "");
        break;
    case CHECK_EXCLUSIVE_MAXIMUM:
        issue_size(ex, "too_big", "maximum", number, "number", false, "Number must be less than", "");
        break;
    case CHECK_MIN_ITEMS:
        issue_size(ex, "too_small", "minimum", count, "array", true, "Array must contain at least",
                   " element(s)");
        break;
    case CHECK_MAX_ITEMS:
        issue_size(ex, "too_big", "maximum", count, "array", true, "Array must contain at most",
                   " element(s)");
        break;
    case CHECK_MULTIPLE_OF:
        buf_append_lit(ex->out, "\"code\":\"not_multiple_of\",\"multipleOf\":");
        append_number(ex->out, number);
        buf_append_lit(ex->out, ",\"message\":\"Number must be a multiple of ");
        append_number(ex->out, number);
        buf_append_lit(ex->out, "\",");
        break;
    case CHECK_PATTERN:
        issue_pattern(ex, schema);
        break;
    case CHECK_FORMAT:
        issue_format(ex, check->format);
        break;
    }
    append_path(ex->out, place);
    buf_append_char(ex->out, '}');
    return DIRTY;
}

/* ---- unions ---- */

/* Issues of alternatives, collected behind each other in place of what a union adds. */
struct union_issues {
    size_t start;       /* of everything the union adds */
    size_t dirty_start; /* issues of the first dirty alternative */
    size_t dirty_end;   /* 0: none yet */
};

static void union_begin(struct explain *ex, struct union_issues *issues)
{
    issue_begin(ex);
    *issues = (struct union_issues){ex->out->len - 1, 0, 0};
    buf_append_lit(ex->out, "\"code\":\"invalid_union\",\"unionErrors\":[");
}

static void alternative_begin(struct explain *ex)
{
    if (ex->out->len && ex->out->ptr[ex->out->len - 1] == '}')
        buf_append_char(ex->out, ',');
    buf_append_lit(ex->out, "{\"issues\":[");
}

static void alternative_end(struct explain *ex, struct union_issues *issues, size_t start,
                            enum outcome outcome)
{
    if (outcome == DIRTY && issues->dirty_end == 0) {
        issues->dirty_start = start;
        issues->dirty_end = ex->out->len;
    }
    buf_append_lit(ex->out, "],\"name\":\"ZodError\"}");
}

static enum outcome union_end(struct explain *ex, const struct union_issues *issues,
                              const struct place *place)
{
    struct buf *out = ex->out;
    if (!buf_ok(out))
        return ABORTED;
    if (issues->dirty_end) {
        size_t len = issues->dirty_end - issues->dirty_start;
        memmove(out->ptr + issues->start, out->ptr + issues->dirty_start, len);
        out->len = issues->start + len;
        return DIRTY;
    }
    buf_append_lit(out, "],");
    append_path(out, place);
    buf_append_lit(out, ",\"message\":\"Invalid input\"}");
    return ABORTED;
}

/* At least one must hold. */
static enum outcome explain_union(struct explain *ex, const struct schema_list *list,
                                  const struct json_node *node, const struct place *place)
{
    for (size_t i = 0; node && i < list->count; i++) {
        if (schema_valid(list->items[i], ex->doc, node))
            return VALID;
    }
    struct union_issues issues;
    union_begin(ex, &issues);
    for (size_t i = 0; i < list->count; i++) {
        alternative_begin(ex);
        size_t start = ex->out->len;
        alternative_end(ex, &issues, start, explain_value(ex, list->items[i], node, place));
    }
    return union_end(ex, &issues, place);
}

/* An enum that is not one of strings: a union of literals. */
static enum outcome explain_literals(struct explain *ex, const struct schema *schema,
                                     const struct value *value, const struct place *place)
{
    const struct json_doc *doc = &schema->set->doc;
    const struct json_node *item = json_first(doc, schema->enumeration), *node = value ? value->node : NULL;
    if (item && !item->next)
        return issue_literal(ex, schema, item, node, place);
    if (!item)
        return issue_type(ex, "never", value, place);
    struct union_issues issues;
    union_begin(ex, &issues);
    for (; item; item = json_next(doc, item)) {
        alternative_begin(ex);
        size_t start = ex->out->len;
        alternative_end(ex, &issues, start, issue_literal(ex, schema, item, node, place));
    }
    return union_end(ex, &issues, place);
}

/* ---- types ---- */

static const struct type_word {
    unsigned bit;
    const char *name;
} type_words[] = {
    {TYPE_BIT(JSON_STRING), "string"}, {TYPE_BIT(JSON_NUMBER) | TYPE_INTEGER, "number"},
    {TYPE_BOOLEAN, "boolean"},         {TYPE_BIT(JSON_ARRAY), "array"},
    {TYPE_BIT(JSON_OBJECT), "object"},
};

static enum outcome explain_type(struct explain *ex, const struct schema *schema, const struct value *value,
                                 const struct place *place)
{
    if (value && value->type == JSON_NUMBER && (schema->types & TYPE_INTEGER) &&
        value->number == value->number) {
        issue_begin(ex);
        buf_append_lit(ex->out, "\"code\":\"invalid_type\",\"expected\":\"integer\",\"received\":\"float\","
                                "\"message\":\"Expected integer, received float\",");
        append_path(ex->out, place);
        buf_append_char(ex->out, '}');
        return DIRTY;
    }
    size_t count = 0;
    const char *only = "null"; /* allowed beside another type it is not mentioned */
    for (size_t i = 0; i < SG_ARRAY_LEN(type_words); i++) {
        if (schema->types & type_words[i].bit) {
            only = type_words[i].name;
            count++;
        }
    }
    if (count <= 1)
        return issue_type(ex, only, value, place);
    struct union_issues issues;
    union_begin(ex, &issues);
    for (size_t i = 0; i < SG_ARRAY_LEN(type_words); i++) {
        if (!(schema->types & type_words[i].bit))
            continue;
        alternative_begin(ex);
        size_t start = ex->out->len;
        alternative_end(ex, &issues, start, issue_type(ex, type_words[i].name, value, place));
    }
    return union_end(ex, &issues, place);
}

/* ---- objects and arrays ---- */

static void issue_unrecognized(struct explain *ex, const struct schema *schema, const struct members *members,
                               const struct place *place)
{
    struct buf *out = ex->out;
    issue_begin(ex);
    buf_append_lit(out, "\"code\":\"unrecognized_keys\",\"keys\":[");
    for (int round = 0; round < 2; round++) {
        bool first = true;
        for (size_t i = 0; i < members->count; i++) {
            if (schema_declares(schema, ex->doc, members->list[i].name))
                continue;
            if (!first)
                buf_append(out, ", ", round ? 2 : 1);
            buf_append_char(out, round ? '\'' : '"');
            json_string_append_js(ex->doc, members->list[i].name, out);
            buf_append_char(out, round ? '\'' : '"');
            first = false;
        }
        if (round == 0) {
            buf_append_lit(out, "],");
            append_path(out, place);
            buf_append_lit(out, ",\"message\":\"Unrecognized key(s) in object: ");
        }
    }
    buf_append_lit(out, "\"}");
}

static enum outcome explain_additional(struct explain *ex, const struct schema *schema,
                                       const struct json_node *object, const struct place *place)
{
    struct members members;
    enum outcome outcome = VALID;
    if (!members_of(ex->doc, object, &members)) {
        ex->out->failed = true;
        return ABORTED;
    }
    for (size_t i = 0; i < members.count; i++) {
        const struct member *member = &members.list[i];
        if (schema_declares(schema, ex->doc, member->name))
            continue;
        if (schema->additional->never) {
            issue_unrecognized(ex, schema, &members, place);
            outcome = DIRTY;
            break;
        }
        struct place below = {place, ex->doc, member->name, 0};
        outcome = worse(outcome, explain_value(ex, schema->additional, member->value, &below));
    }
    free(members.list);
    return outcome;
}

static enum outcome explain_object(struct explain *ex, const struct schema *schema,
                                   const struct json_node *object, const struct place *place)
{
    enum outcome outcome = VALID;
    for (size_t i = 0; i < schema->prop_count; i++) {
        const struct property *prop = &schema->props[i];
        const struct json_node *member = json_get(ex->doc, object, prop->key);
        struct place below = {place, &schema->set->doc, prop->name, 0};
        if (!member && !prop->required)
            continue;
        if (prop->schema)
            outcome = worse(outcome, explain_value(ex, prop->schema, member, &below));
        else if (!member)
            outcome = worse(outcome, issue_type(ex, "unknown", NULL, &below));
    }
    return schema->additional ? worse(outcome, explain_additional(ex, schema, object, place)) : outcome;
}

static enum outcome explain_items(struct explain *ex, const struct schema *schema,
                                  const struct json_node *array, const struct place *place)
{
    enum outcome outcome = VALID;
    size_t index = 0;
    for (const struct json_node *item = json_first(ex->doc, array); item;
         item = json_next(ex->doc, item), index++) {
        struct place below = {place, NULL, NULL, index};
        outcome = worse(outcome, explain_value(ex, schema->items, item, &below));
    }
    return outcome;
}

/* ---- all of it ---- */

/* What the schema itself, apart from references and combinations, asks of the kind of value. */
static enum outcome explain_kind(struct explain *ex, const struct schema *schema, const struct value *value,
                                 const struct json_node *node, const struct place *place)
{
    if (schema->never)
        return issue_type(ex, "never", value, place);
    if (schema->constant && (!node || !json_equal(&schema->set->doc, schema->constant, ex->doc, node)))
        return issue_literal(ex, schema, schema->constant, node, place);
    if (schema->enumeration && (!node || !enum_holds(schema, value)))
        return schema->enum_of_strings ? issue_enum(ex, schema, value, place)
                                       : explain_literals(ex, schema, value, place);
    if (schema->types && (!value || !value_has_type(value, schema->types)))
        return explain_type(ex, schema, value, place);
    return VALID;
}

static enum outcome explain_combinations(struct explain *ex, const struct schema *schema,
                                         const struct json_node *node, const struct place *place)
{
    enum outcome outcome = VALID;
    if (schema->ref)
        outcome = worse(outcome, explain_value(ex, schema->ref, node, place));
    for (size_t i = 0; i < schema->all_of.count; i++)
        outcome = worse(outcome, explain_value(ex, schema->all_of.items[i], node, place));
    if (schema->any_of.count)
        outcome = worse(outcome, explain_union(ex, &schema->any_of, node, place));
    if (schema->one_of.count) {
        size_t valid = 0;
        for (size_t i = 0; node && i < schema->one_of.count; i++)
            valid += schema_valid(schema->one_of.items[i], ex->doc, node);
        if (valid != 1)
            outcome = worse(outcome, valid ? issue_custom(ex, place)
                                           : explain_union(ex, &schema->one_of, node, place));
    }
    if (schema->negated && node && schema_valid(schema->negated, ex->doc, node))
        outcome = worse(outcome, issue_custom(ex, place));
    return outcome;
}

static enum outcome explain_value(struct explain *ex, const struct schema *schema,
                                  const struct json_node *node, const struct place *place)
{
    if (!node) {
        struct value nan = {.type = JSON_NUMBER, .coerced = true, .number = __builtin_nan("")};
        bool number = schema->coerce == COERCE_JS_NUMBER && !schema->constant && !schema->enumeration;
        enum outcome outcome = explain_kind(ex, schema, number ? &nan : NULL, NULL, place);
        outcome = worse(outcome, explain_combinations(ex, schema, NULL, place));
        return outcome == VALID ? issue_type(ex, "unknown", NULL, place) : outcome;
    }
    struct value value = value_of(schema, ex->doc, node);
    enum outcome outcome = explain_kind(ex, schema, &value, node, place);
    /* A value of another type meets no check of this one. */
    if (outcome != ABORTED) {
        for (size_t i = 0; i < schema->check_count; i++) {
            if (!check_holds(schema, &schema->checks[i], &value))
                outcome = worse(outcome, issue_check(ex, schema, &schema->checks[i], place));
        }
        if (value.type == JSON_OBJECT)
            outcome = worse(outcome, explain_object(ex, schema, node, place));
        if (value.type == JSON_ARRAY && schema->items)
            outcome = worse(outcome, explain_items(ex, schema, node, place));
    }
    return worse(outcome, explain_combinations(ex, schema, node, place));
}

void schema_explain(const struct schema *schema, const struct json_doc *doc, const struct json_node *node,
                    struct buf *out)
{
    struct explain ex = {doc, out};
    buf_append_char(out, '[');
    explain_value(&ex, schema, node, NULL);
    buf_append_char(out, ']');
}
