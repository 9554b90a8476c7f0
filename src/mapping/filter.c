/* SPDX-License-Identifier: Apache-2.0 */
/* Filters: what stands behind the bars of an expression.
 * Invariants:
 * - A value that a filter has made may lie in scratch. Whatever a later filter appends there can move it, so room is
 *   taken before, and the value follows: make_room().
 * - In a filter VALUE_JSON is never a string: a string is VALUE_TEXT, decoded. */
#include "expr.h"

/* What clock_format_iso() can write in four digits of a year. */
#define ISO_MIN_MS INT64_C(-62167219200000)
#define ISO_MAX_MS INT64_C(253402300799999)

/* Room in scratch; value->text follows if it lies there. False: no memory. */
static bool make_room(struct value *value, struct buf *scratch, size_t more)
{
    uintptr_t at = (uintptr_t)value->text.ptr, start = (uintptr_t)scratch->ptr;
    bool inside = scratch->ptr && at >= start && at - start <= scratch->len;
    if (!buf_reserve(scratch, more))
        return false;
    if (inside)
        value->text.ptr = scratch->ptr + (at - start);
    return true;
}

/* A string's contents; ptr NULL: it is no string, or there is no memory (then scratch has failed). */
static struct span string_of(const struct value *value, struct buf *scratch)
{
    if (value->type == VALUE_TEXT)
        return value->text;
    if (value->type == VALUE_NODE && value->node->type == JSON_STRING)
        return json_string(value->doc, value->node, scratch);
    return (struct span){NULL, 0};
}

/* Any value but a string or missing as compact JSON in scratch; ptr NULL: no memory. */
static struct span compact(struct value *value, struct buf *scratch)
{
    if (value->type == VALUE_NODE)
        value->text = json_text(value->doc, value->node);
    else if (value->type == VALUE_INT)
        value->text = (struct span){NULL, 0};
    size_t start = scratch->len;
    if (!make_room(value, scratch, value->text.len + 24))
        return (struct span){NULL, 0};
    if (value->type == VALUE_INT)
        buf_append_i64(scratch, value->number);
    else
        value_append_compact(value->text, false, scratch);
    return (struct span){scratch->ptr + start, scratch->len - start};
}

static void filter_iso_time(struct value *value, struct buf *scratch)
{
    int64_t unix_ms = 0;
    struct json_doc own = JSON_DOC_INIT;
    const struct json_doc *doc = value->type == VALUE_NODE ? value->doc : NULL;
    const struct json_node *node = doc ? value->node : NULL;
    struct span text = string_of(value, scratch);
    bool ok = text.ptr && clock_parse_iso(text, &unix_ms);
    if (value->type == VALUE_INT) {
        unix_ms = value->number;
        ok = true;
    }
    if (value->type == VALUE_JSON && json_parse(&own, value->text, 1) == ERR_OK) {
        doc = &own;
        node = json_root(&own);
    }
    if (node && node->type == JSON_NUMBER) {
        double number = json_number(doc, node);
        ok =
            number >= (double)ISO_MIN_MS && number <= (double)ISO_MAX_MS && json_number_is_integer(doc, node);
        unix_ms = ok ? (int64_t)number : 0;
    }
    json_fini(&own);
    if (ok && unix_ms >= ISO_MIN_MS && unix_ms <= ISO_MAX_MS)
        value_set_iso(value, unix_ms);
    else
        value->type = VALUE_MISSING;
}

static void filter_string(struct value *value, struct buf *scratch)
{
    bool is_string =
        value->type == VALUE_TEXT || (value->type == VALUE_NODE && value->node->type == JSON_STRING);
    if (!is_string && !value_is_nullish(value))
        value_set_text(value, compact(value, scratch));
}

static void filter_array(struct value *value)
{
    bool is_array = (value->type == VALUE_NODE && value->node->type == JSON_ARRAY) ||
                    (value->type == VALUE_JSON && value->text.ptr[0] == '[');
    if (!is_array)
        value->type = VALUE_MISSING;
}

/* value->text is JSON: the node behind the steps, which the value holds by itself when `doc` has gone. */
static void take_node(struct value *value, const struct json_doc *doc, const struct expr_filter *filter,
                      struct buf *scratch)
{
    const struct json_node *node = value_walk(doc, json_root(doc), filter->steps, filter->step_count);
    if (!node || node->type != JSON_STRING) {
        value->type = node ? VALUE_JSON : VALUE_MISSING;
        value->text = node ? json_text(doc, node) : (struct span){NULL, 0};
        return;
    }
    struct buf decoded = BUF_INIT;
    struct span text = json_string(doc, node, &decoded);
    scratch->failed |= decoded.failed;
    if (text.ptr && node->escaped) { /* not decoded into scratch itself: the document may lie there */
        size_t start = scratch->len;
        text = buf_reserve(scratch, text.len + 1) ? text : (struct span){NULL, 0};
        buf_append_span(scratch, text);
        text.ptr = text.ptr ? scratch->ptr + start : NULL;
    }
    value_set_text(value, text);
    buf_fini(&decoded);
}

static void filter_json(struct value *value, const struct expr_filter *filter, struct buf *scratch)
{
    struct span text = string_of(value, scratch);
    if (!text.ptr && value->type == VALUE_NODE && value->node->type != JSON_STRING) {
        value->node = value_walk(value->doc, value->node, filter->steps, filter->step_count);
        value->type = value->node ? VALUE_NODE : VALUE_MISSING;
        return;
    }
    if (value->type == VALUE_INT) {
        value->type = filter->step_count ? VALUE_MISSING : VALUE_INT;
        return;
    }
    if (value->type == VALUE_JSON)
        text = value->text;
    struct json_doc doc = JSON_DOC_INIT;
    enum err_code code = text.ptr ? json_parse(&doc, text, VALUE_JSON_NODES) : ERR_BAD_JSON;
    scratch->failed |= code == ERR_NO_MEMORY;
    value->type = VALUE_MISSING;
    if (code == ERR_OK)
        take_node(value, &doc, filter, scratch);
    json_fini(&doc);
}

static void filter_segment(struct value *value, uint32_t number, struct buf *scratch)
{
    struct span rest = string_of(value, scratch);
    for (; rest.ptr; number--) {
        const char *slash = rest.len ? memchr(rest.ptr, '/', rest.len) : NULL;
        size_t len = slash ? (size_t)(slash - rest.ptr) : rest.len;
        if (number == 0) {
            value_set_text(value, (struct span){rest.ptr, len});
            return;
        }
        rest = slash ? (struct span){slash + 1, rest.len - len - 1} : (struct span){NULL, 0};
    }
    value->type = VALUE_MISSING;
}

static void filter_length(struct value *value, struct buf *scratch)
{
    struct span text = string_of(value, scratch);
    if (!text.ptr && !value_is_nullish(value))
        text = compact(value, scratch);
    value->type = text.ptr ? VALUE_INT : VALUE_MISSING;
    value->number = (int64_t)text.len;
}

/* The payload is JSON text as it was rendered, and may be a string. */
static void decode_string(struct value *value, struct buf *scratch)
{
    static const struct expr_filter no_steps = {0};
    struct json_doc doc = JSON_DOC_INIT;
    if (json_parse(&doc, value->text, 1) == ERR_OK)
        take_node(value, &doc, &no_steps, scratch);
    else
        scratch->failed = true;
    json_fini(&doc);
}

void value_filter(struct value *value, const struct expr_filter *filter, struct buf *scratch)
{
    if (value->type == VALUE_JSON && value->text.ptr[0] == '"')
        decode_string(value, scratch);
    switch (filter->type) {
    case EXPR_FILTER_ISO_TIME:
        filter_iso_time(value, scratch);
        break;
    case EXPR_FILTER_STRING:
        filter_string(value, scratch);
        break;
    case EXPR_FILTER_ARRAY:
        filter_array(value);
        break;
    case EXPR_FILTER_JSON:
        filter_json(value, filter, scratch);
        break;
    case EXPR_FILTER_SEGMENT:
        filter_segment(value, filter->number, scratch);
        break;
    case EXPR_FILTER_LENGTH:
        filter_length(value, scratch);
        break;
    }
}
