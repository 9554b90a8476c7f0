/* SPDX-License-Identifier: Apache-2.0 */
/* Input: template \0 body \0 reply \0 query \0 text, where text stands for a path value, a header and the
 * ids. Whatever compiles must render to nothing or to well-formed JSON, and the same every time. */
#include "syncgate/mapping.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ALL_ROOTS (MAPPING_REPLY_ROOTS | MAPPING_ENVELOPE)

static struct span text;

static struct span find_header(const void *arg, struct span name)
{
    (void)arg;
    return name.len % 2 ? text : (struct span){0};
}

static void check_json(const struct buf *out)
{
    struct json_doc doc = JSON_DOC_INIT;
    enum err_code code = json_parse(&doc, buf_span(out), UINT32_MAX);
    /* A deep value in a deep template may be deeper than the parser goes. */
    SG_ASSERT(code == ERR_OK || strcmp(doc.err_what, "too deep") == 0);
    json_fini(&doc);
}

static void check_template(const struct mapping_template *tmpl, const struct mapping_scope *scope)
{
    struct buf scratch = BUF_INIT, out = BUF_INIT, again = BUF_INIT;
    bool missing;
    SG_ASSERT(mapping_render(tmpl, scope, &scratch, &out) == ERR_OK);
    SG_ASSERT(mapping_render(tmpl, scope, &scratch, &again) == ERR_OK);
    SG_ASSERT(span_eq(buf_span(&out), buf_span(&again)));
    if (out.len > 0)
        check_json(&out);
    buf_clear(&out);
    if (mapping_template_is_text(tmpl)) {
        SG_ASSERT(mapping_render_text(tmpl, scope, &scratch, &out, &missing) == ERR_OK);
        SG_ASSERT(!missing || out.len == 0);
    }
    buf_fini(&scratch);
    buf_fini(&out);
    buf_fini(&again);
}

static void check_condition(const struct mapping_condition *cond, const struct mapping_scope *scope)
{
    struct buf scratch = BUF_INIT;
    bool holds = mapping_condition_holds(cond, scope, &scratch);
    SG_ASSERT(holds == mapping_condition_holds(cond, scope, &scratch));
    buf_fini(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span parts[5] = {{0}};
    const char *pos = (const char *)data, *end = pos + size;
    for (size_t i = 0; i < SG_ARRAY_LEN(parts) && pos < end; i++) {
        const char *stop = i + 1 < SG_ARRAY_LEN(parts) ? memchr(pos, '\0', (size_t)(end - pos)) : NULL;
        parts[i] = (struct span){pos, (size_t)((stop ? stop : end) - pos)};
        pos = stop ? stop + 1 : end;
    }
    text = parts[4];
    struct json_doc tmpl_doc = JSON_DOC_INIT, body = JSON_DOC_INIT, reply = JSON_DOC_INIT;
    struct mapping_param param = {SPAN_LIT("p"), text};
    bool has_body = json_parse(&body, parts[1], 10000) == ERR_OK,
         has_reply = json_parse(&reply, parts[2], 10000) == ERR_OK;
    struct mapping_scope scope = {.body = has_body ? &body : NULL,
                                  .claims = has_reply ? &reply : NULL,
                                  .reply = has_reply ? &reply : NULL,
                                  .path = &param,
                                  .path_count = 1,
                                  .query = parts[3],
                                  .header = find_header,
                                  .correlation_id = text,
                                  .now_ms = (int64_t)size * 1000000,
                                  .deadline_ms = INT64_MIN,
                                  .timeout_ms = INT64_MAX,
                                  .payload = has_body ? json_text(&body, json_root(&body)) : (struct span){0},
                                  .event_type = text};
    if (json_parse(&tmpl_doc, parts[0], 10000) == ERR_OK) {
        struct err err = {0};
        struct mapping_template *tmpl =
            mapping_compile(&tmpl_doc, json_root(&tmpl_doc), ALL_ROOTS, "t", &err);
        SG_ASSERT(tmpl || strncmp(err.text, "t", 1) == 0);
        if (tmpl)
            check_template(tmpl, &scope);
        struct mapping_condition *cond =
            mapping_condition_compile(&tmpl_doc, json_root(&tmpl_doc), ALL_ROOTS, "t", &err);
        if (cond)
            check_condition(cond, &scope);
        mapping_template_freep(&tmpl);
        mapping_condition_freep(&cond);
    }
    json_fini(&tmpl_doc);
    json_fini(&body);
    json_fini(&reply);
    return 0;
}
