/* SPDX-License-Identifier: Apache-2.0 */
/* Evaluating expressions and writing values, on the hot path: lookups yield spans of the source texts, and a
 * string that goes into another string is copied as its raw, already escaped contents. Invariant: scratch
 * holds at most the one value in flight; every operand starts it anew (its failure flag stays). */
#include "expr.h"

void value_set_text(struct value *value, struct span text)
{
    value->type = text.ptr ? VALUE_TEXT : VALUE_MISSING;
    value->text = text;
}

static void set_int(struct value *value, int64_t number)
{
    value->type = VALUE_INT;
    value->number = number;
}

void value_set_iso(struct value *value, int64_t unix_ms)
{
    clock_format_iso(unix_ms, value->local);
    value_set_text(value, (struct span){value->local, CLOCK_ISO_LEN});
}

/* ---- lookups ---- */

static const struct json_node *element_at(const struct json_doc *doc, const struct json_node *array,
                                          uint32_t index)
{
    if (index >= array->count)
        return NULL;
    const struct json_node *node = json_first(doc, array);
    while (node && index-- > 0)
        node = json_next(doc, node);
    return node;
}

const struct json_node *value_walk(const struct json_doc *doc, const struct json_node *node,
                                   const struct mapping_step *steps, size_t step_count)
{
    for (size_t i = 0; node && i < step_count; i++) {
        const struct mapping_step *step = &steps[i];
        if (node->type == JSON_OBJECT)
            node = json_get(doc, node, step->name);
        else if (node->type == JSON_ARRAY && step->index != MAPPING_NO_INDEX)
            node = element_at(doc, node, step->index);
        else
            node = NULL;
    }
    return node;
}

static void find_in_doc(const struct expr_operand *operand, const struct json_doc *doc, struct value *value)
{
    const struct json_node *node =
        value_walk(doc, doc ? json_root(doc) : NULL, operand->steps, operand->step_count);
    value->type = node ? VALUE_NODE : VALUE_MISSING;
    value->doc = doc;
    value->node = node;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The next decoded byte of a form-encoded text; a malformed escape is taken literally. */
static char next_form_char(struct span text, size_t *pos)
{
    char c = text.ptr[(*pos)++];
    if (c == '+')
        return ' ';
    if (c != '%' || text.len - *pos < 2)
        return c;
    int high = hex_value(text.ptr[*pos]), low = hex_value(text.ptr[*pos + 1]);
    if (high < 0 || low < 0)
        return c;
    *pos += 2;
    return (char)(high << 4 | low);
}

static bool form_eq(struct span encoded, struct span name)
{
    size_t pos = 0;
    for (size_t i = 0; i < name.len; i++)
        if (pos >= encoded.len || next_form_char(encoded, &pos) != name.ptr[i])
            return false;
    return pos == encoded.len;
}

static struct span form_decode(struct span encoded, struct buf *scratch)
{
    if (!memchr(encoded.ptr, '%', encoded.len) && !memchr(encoded.ptr, '+', encoded.len))
        return encoded;
    if (!buf_reserve(scratch, encoded.len))
        return (struct span){0};
    for (size_t pos = 0; pos < encoded.len;)
        scratch->ptr[scratch->len++] = next_form_char(encoded, &pos);
    return buf_span(scratch);
}

static struct span find_query(struct span query, struct span name, struct buf *scratch)
{
    if (query.len == 0)
        return (struct span){0};
    for (const char *pos = query.ptr, *end = pos + query.len; pos < end;) {
        const char *amp = memchr(pos, '&', (size_t)(end - pos));
        const char *stop = amp ? amp : end;
        const char *equals = memchr(pos, '=', (size_t)(stop - pos));
        struct span key = {pos, (size_t)((equals ? equals : stop) - pos)};
        if ((equals || key.len > 0) && form_eq(key, name)) {
            const char *start = equals ? equals + 1 : stop;
            return form_decode((struct span){start, (size_t)(stop - start)}, scratch);
        }
        pos = stop + 1;
    }
    return (struct span){0};
}

static struct span find_path(const struct mapping_scope *scope, struct span name)
{
    for (size_t i = 0; i < scope->path_count; i++)
        if (span_eq(scope->path[i].name, name))
            return scope->path[i].value;
    return (struct span){0};
}

static void eval_operand(const struct expr_operand *operand, const struct mapping_scope *scope,
                         struct buf *scratch, struct value *value)
{
    switch (operand->root) {
    case EXPR_BODY:
        find_in_doc(operand, scope->body, value);
        break;
    case EXPR_CLAIMS:
        find_in_doc(operand, scope->claims, value);
        break;
    case EXPR_REPLY:
        find_in_doc(operand, scope->reply, value);
        break;
    case EXPR_LITERAL:
        find_in_doc(operand, &operand->literal, value);
        break;
    case EXPR_PATH:
        value_set_text(value, find_path(scope, operand->steps[0].name));
        break;
    case EXPR_QUERY:
        value_set_text(value, find_query(scope->query, operand->steps[0].name, scratch));
        break;
    case EXPR_HEADERS:
        value_set_text(value, scope->header ? scope->header(scope->header_arg, operand->steps[0].name)
                                            : (struct span){0});
        break;
    case EXPR_REPLY_HEADERS:
        value_set_text(value, scope->reply_header
                                  ? scope->reply_header(scope->reply_header_arg, operand->steps[0].name)
                                  : (struct span){0});
        break;
    case EXPR_CORRELATION_ID:
        value_set_text(value, scope->correlation_id);
        break;
    case EXPR_OPERATION_ID:
        value_set_text(value, scope->operation_id);
        break;
    case EXPR_NOW:
        value_set_iso(value, scope->now_ms);
        break;
    case EXPR_NOW_MS:
        set_int(value, scope->now_ms);
        break;
    case EXPR_DEADLINE_MS:
        set_int(value, scope->deadline_ms);
        break;
    case EXPR_TIMEOUT_MS:
        set_int(value, scope->timeout_ms);
        break;
    case EXPR_PAYLOAD:
        value->type = scope->payload.len ? VALUE_JSON : VALUE_MISSING;
        value->text = scope->payload;
        break;
    case EXPR_EVENT_TYPE:
        value_set_text(value, scope->event_type);
        break;
    case EXPR_REPLY_TOPIC:
        value_set_text(value, scope->reply_topic);
        break;
    case EXPR_REPLY_PARTITION:
        value_set_text(value, scope->reply_partition);
        break;
    case EXPR_TRACEPARENT:
        value_set_text(value, scope->traceparent);
        break;
    }
}

/* ---- JSON as compact text ---- */

void value_append_compact(struct span json, bool escape, struct buf *out)
{
    bool in_string = false;
    size_t run = 0;
    for (size_t i = 0; i < json.len; i++) {
        char c = json.ptr[i];
        bool blank = !in_string && (c == ' ' || c == '\t' || c == '\n' || c == '\r');
        bool special = escape && (c == '"' || c == '\\');
        if (blank || special) {
            buf_append(out, json.ptr + run, i - run);
            if (special)
                buf_append_char(out, '\\');
            run = blank ? i + 1 : i;
        }
        if (c == '"')
            in_string = !in_string;
        else if (c == '\\' && in_string && i + 1 < json.len) {
            i++; /* the escaped byte cannot end the string, but needs an escape of its own */
            if (escape && (json.ptr[i] == '"' || json.ptr[i] == '\\')) {
                buf_append(out, json.ptr + run, i - run);
                buf_append_char(out, '\\');
                run = i;
            }
        }
    }
    buf_append(out, json.ptr + run, json.len - run);
}

/* ---- expressions ---- */

void expr_eval(const struct expr *expr, const struct mapping_scope *scope, struct buf *scratch,
               struct value *ret_value)
{
    bool nullish = true, falsy = true;
    ret_value->type = VALUE_MISSING;
    for (size_t i = 0; i < expr->operand_count; i++) {
        const struct expr_operand *operand = &expr->operands[i];
        if (i > 0 && !(operand->or_else ? falsy : nullish))
            continue;
        scratch->len = 0;
        eval_operand(operand, scope, scratch, ret_value);
        nullish = value_is_nullish(ret_value);
        falsy = value_is_falsy(ret_value);
        for (size_t f = 0; f < expr->filter_count && ret_value->type != VALUE_MISSING; f++)
            value_filter(ret_value, &expr->filters[f], scratch);
        if (ret_value->type == VALUE_MISSING)
            nullish = falsy = true;
    }
}

/* ---- questions ---- */

static bool json_is(struct span json, const char *word)
{
    return span_eq(json, span_of(word));
}

bool value_is_nullish(const struct value *value)
{
    if (value->type == VALUE_NODE)
        return value->node->type == JSON_NULL;
    return value->type == VALUE_MISSING || (value->type == VALUE_JSON && json_is(value->text, "null"));
}

static bool node_is_falsy(const struct json_doc *doc, const struct json_node *node)
{
    switch ((enum json_type)node->type) {
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_NUMBER:
        return json_number(doc, node) == 0;
    case JSON_STRING:
        return node->end - node->start == 2;
    default:
        return false;
    }
}

bool value_is_falsy(const struct value *value)
{
    switch (value->type) {
    case VALUE_NODE:
        return node_is_falsy(value->doc, value->node);
    case VALUE_TEXT:
        return value->text.len == 0;
    case VALUE_INT:
        return value->number == 0;
    case VALUE_JSON:
        return json_is(value->text, "null") || json_is(value->text, "false") || json_is(value->text, "0") ||
               json_is(value->text, "\"\"");
    default:
        return true;
    }
}

bool value_is_empty(const struct value *value)
{
    if (value->type == VALUE_TEXT)
        return value->text.len == 0;
    if (value->type == VALUE_NODE && value->node->type == JSON_STRING)
        return value->node->end - value->node->start == 2;
    return value_is_nullish(value);
}

static bool json_text_equals(struct span text, const struct json_doc *doc, const struct json_node *node)
{
    struct json_doc own = JSON_DOC_INIT;
    bool equal =
        json_parse(&own, text, VALUE_JSON_NODES) == ERR_OK && json_equal(&own, json_root(&own), doc, node);
    json_fini(&own);
    return equal;
}

bool value_equals(const struct value *value, const struct json_doc *doc, const struct json_node *node)
{
    switch (value->type) {
    case VALUE_NODE:
        return json_equal(value->doc, value->node, doc, node);
    case VALUE_TEXT:
        return node->type == JSON_STRING && json_string_eq(doc, node, value->text);
    case VALUE_INT:
        return node->type == JSON_NUMBER && json_number(doc, node) == (double)value->number;
    case VALUE_JSON:
        return json_text_equals(value->text, doc, node);
    default:
        return false;
    }
}

/* ---- output ---- */

void value_append_json(const struct value *value, struct buf *out)
{
    if (value->type == VALUE_NODE)
        buf_append_span(out, json_text(value->doc, value->node));
    else if (value->type == VALUE_TEXT)
        buf_append_json_string(out, value->text);
    else if (value->type == VALUE_INT)
        buf_append_i64(out, value->number);
    else if (value->type == VALUE_JSON)
        buf_append_span(out, value->text);
}

/* JSON text inside a JSON string: a string's own contents, else the compact text; null is nothing. */
static void append_json_piece(struct span json, struct buf *out)
{
    if (json.ptr[0] == '"')
        buf_append(out, json.ptr + 1, json.len - 2);
    else if (json.ptr[0] != 'n')
        value_append_compact(json, true, out);
}

void value_append_piece(const struct value *value, struct buf *out)
{
    if (value->type == VALUE_NODE) {
        append_json_piece(json_text(value->doc, value->node), out);
    } else if (value->type == VALUE_JSON) {
        append_json_piece(value->text, out);
    } else if (value->type == VALUE_INT) {
        buf_append_i64(out, value->number);
    } else if (value->type == VALUE_TEXT) {
        size_t start = out->len;
        buf_append_json_string(out, value->text);
        if (!buf_ok(out))
            return;
        out->len -= 2; /* without the quotes */
        memmove(out->ptr + start, out->ptr + start + 1, out->len - start);
    }
}

/* JSON text as plain text: a string unescaped, else the compact text; null is nothing. */
static void append_json_text(const struct json_doc *doc, const struct json_node *node, struct buf *scratch,
                             struct buf *out)
{
    if (node->type == JSON_STRING) {
        struct span text = json_string(doc, node, scratch);
        if (text.ptr)
            buf_append_span(out, text);
        else
            scratch->failed = true;
    } else if (node->type != JSON_NULL) {
        value_append_compact(json_text(doc, node), false, out);
    }
}

void value_append_text(const struct value *value, struct buf *scratch, struct buf *out)
{
    if (value->type == VALUE_NODE) {
        append_json_text(value->doc, value->node, scratch, out);
    } else if (value->type == VALUE_TEXT) {
        buf_append_span(out, value->text);
    } else if (value->type == VALUE_INT) {
        buf_append_i64(out, value->number);
    } else if (value->type == VALUE_JSON && value->text.ptr[0] == '"') {
        struct json_doc doc = JSON_DOC_INIT;
        if (json_parse(&doc, value->text, 1) == ERR_OK)
            append_json_text(&doc, json_root(&doc), scratch, out);
        else
            scratch->failed = true;
        json_fini(&doc);
    } else if (value->type == VALUE_JSON && value->text.ptr[0] != 'n') {
        value_append_compact(value->text, false, out);
    }
}
