/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON index against its own promises and against jansson. Known differences: jansson refuses NUL
 * escapes, lone surrogates, numbers beyond a double or an int64, a byte order mark and NUL bytes in names; it
 * accepts deeper nesting. */
#include "syncgate/base.h"
#include "syncgate/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of jansson.h, which cannot be included beside json.h. */
struct json_t;
struct json_t *json_loadb(const char *text, size_t len, size_t flags, void *error);
void json_delete(struct json_t *json);
#define JANSSON_DECODE_ANY 4

/* Checks the node at `index` and all below it; returns the index behind them. */
static uint32_t check_node(const struct json_doc *doc, uint32_t index, uint32_t from, uint32_t to,
                           unsigned depth)
{
    SG_ASSERT(index < doc->count && depth <= JSON_DEPTH_MAX);
    const struct json_node *node = &doc->nodes[index++];
    SG_ASSERT(node->start >= from && node->start < node->end && node->end <= to);
    if (node->type != JSON_ARRAY && node->type != JSON_OBJECT)
        return index;
    uint32_t count = 0, at = node->start + 1;
    const struct json_node *previous = NULL;
    for (const struct json_node *item = json_first(doc, node); item; item = json_next(doc, item), count++) {
        SG_ASSERT(item == &doc->nodes[index]);
        SG_ASSERT(!previous || previous->end <= item->start);
        previous = item;
        index = check_node(doc, index, at, node->end - 1, depth + 1);
        if (node->type == JSON_OBJECT) {
            SG_ASSERT(item->type == JSON_STRING && json_member_value(item) == &doc->nodes[index]);
            index = check_node(doc, index, item->end, node->end - 1, depth + 1);
            SG_ASSERT(doc->nodes[item - doc->nodes + 1].next == 0);
        }
        at = doc->nodes[index - 1].end;
    }
    SG_ASSERT(count == node->count);
    return index;
}

static void check_values(const struct json_doc *doc)
{
    struct buf scratch = BUF_INIT, again = BUF_INIT;
    for (uint32_t i = 0; i < doc->count; i++) {
        const struct json_node *node = &doc->nodes[i];
        buf_clear(&scratch);
        buf_clear(&again);
        if (node->type == JSON_NUMBER) {
            double number = json_number(doc, node);
            SG_ASSERT(number == number);
            (void)json_number_is_integer(doc, node);
        } else if (node->type == JSON_STRING) {
            struct span text = json_string(doc, node, &scratch);
            SG_ASSERT(text.ptr && text.len <= node->end - node->start - 2);
            SG_ASSERT(json_string_codepoints(doc, node) <= json_string_utf16_len(doc, node));
            /* What is written for JavaScript reads back as the same string. */
            struct json_doc copy = JSON_DOC_INIT;
            buf_append_char(&again, '"');
            json_string_append_js(doc, node, &again);
            buf_append_char(&again, '"');
            SG_ASSERT(json_parse(&copy, buf_span(&again), 1) == ERR_OK);
            SG_ASSERT(json_equal(doc, node, &copy, json_root(&copy)));
            json_fini(&copy);
        }
    }
    buf_fini(&scratch);
    buf_fini(&again);
}

/* Things jansson refuses and RFC 8259 allows. */
static bool may_differ(const struct json_doc *doc)
{
    if (doc->nodes[0].start >= 3 && memcmp(doc->text, "\xef\xbb\xbf", 3) == 0)
        return true;
    for (uint32_t i = 0; i < doc->count; i++) {
        struct span text = json_text(doc, &doc->nodes[i]);
        if (doc->nodes[i].type == JSON_NUMBER &&
            (text.len > 18 || memchr(text.ptr, 'e', text.len) || memchr(text.ptr, 'E', text.len)))
            return true;
        if (doc->nodes[i].escaped &&
            (memmem(text.ptr, text.len, "\\u0000", 6) || memmem(text.ptr, text.len, "\\ud", 3) ||
             memmem(text.ptr, text.len, "\\uD", 3)))
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct json_doc doc;
    struct span text = {(const char *)data, size};
    enum err_code code = json_parse(&doc, text, 100000);
    struct json_t *other = json_loadb(text.ptr, text.len, JANSSON_DECODE_ANY, NULL);
    if (code == ERR_OK) {
        SG_ASSERT(check_node(&doc, 0, 0, (uint32_t)size, 0) == doc.count);
        check_values(&doc);
        SG_ASSERT(json_equal(&doc, json_root(&doc), &doc, json_root(&doc)));
        SG_ASSERT(other || may_differ(&doc));
    } else {
        SG_ASSERT(doc.err_pos <= size && doc.err_what && doc.count == 0);
        SG_ASSERT(!other || strcmp(doc.err_what, "too deep") == 0 ||
                  strcmp(doc.err_what, "too many nodes") == 0);
    }
    json_delete(other);
    return 0;
}
