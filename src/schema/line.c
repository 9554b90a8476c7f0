/* SPDX-License-Identifier: Apache-2.0 */
/* The first issue of schema_explain() as one line of English. */
#include "program.h"

#define LINE_PART_MAX 120

/* At most LINE_PART_MAX bytes of a string's contents, cut before a UTF-8 continuation. Escapes stay, so that
 * the result is one line. */
static void append_part(struct buf *out, const struct json_doc *doc, const struct json_node *node)
{
    struct span text = json_text(doc, node);
    size_t len = text.len - 2, max = len;
    if (len > LINE_PART_MAX) {
        max = LINE_PART_MAX;
        while (max > 0 && ((unsigned char)text.ptr[1 + max] & 0xc0) == 0x80)
            max--;
    }
    buf_append(out, text.ptr + 1, max);
    if (max < len)
        buf_append_lit(out, "...");
}

static void append_place(struct buf *out, const struct json_doc *doc)
{
    const struct json_node *issue = json_first(doc, json_root(doc));
    buf_append_lit(out, "body");
    for (const struct json_node *step = json_first(doc, json_get(doc, issue, SPAN_LIT("path"))); step;
         step = json_next(doc, step)) {
        buf_append_char(out, '.');
        if (step->type == JSON_STRING)
            append_part(out, doc, step);
        else
            buf_append_span(out, json_text(doc, step));
    }
}

static void append_first_issue(struct buf *out, const struct json_doc *doc)
{
    const struct json_node *issue = json_first(doc, json_root(doc));
    const struct json_node *code = json_get(doc, issue, SPAN_LIT("code"));
    append_place(out, doc);
    buf_append_lit(out, ": ");
    if (json_string_eq(doc, code, SPAN_LIT("invalid_union"))) {
        buf_append_lit(out, "matches none of the alternatives");
        return;
    }
    const struct json_node *message = json_get(doc, issue, SPAN_LIT("message"));
    if (json_string_eq(doc, message, SPAN_LIT("Required"))) {
        buf_append_lit(out, "expected ");
        append_part(out, doc, json_get(doc, issue, SPAN_LIT("expected")));
        buf_append_lit(out, ", but it is missing");
        return;
    }
    size_t at = out->len;
    append_part(out, doc, message);
    if (buf_ok(out) && out->len > at)
        out->ptr[at] = (char)(out->ptr[at] | 0x20);
}

void schema_explain_line(const struct schema *schema, const struct json_doc *doc,
                         const struct json_node *node, struct buf *out)
{
    struct buf issues = BUF_INIT;
    struct json_doc parsed = JSON_DOC_INIT;
    schema_explain(schema, doc, node, &issues);
    if (!buf_ok(&issues) || json_parse(&parsed, buf_span(&issues), UINT32_MAX) != ERR_OK)
        buf_append_lit(out, "body: not valid");
    else if (json_root(&parsed)->count == 0)
        buf_append_lit(out, "body: valid");
    else
        append_first_issue(out, &parsed);
    json_fini(&parsed);
    buf_fini(&issues);
}

void schema_explain_place(const struct schema *schema, const struct json_doc *doc,
                          const struct json_node *node, struct buf *out)
{
    struct buf issues = BUF_INIT;
    struct json_doc parsed = JSON_DOC_INIT;
    schema_explain(schema, doc, node, &issues);
    if (!buf_ok(&issues) || json_parse(&parsed, buf_span(&issues), UINT32_MAX) != ERR_OK ||
        json_root(&parsed)->count == 0)
        buf_append_lit(out, "body");
    else
        append_place(out, &parsed);
    json_fini(&parsed);
    buf_fini(&issues);
}
