/* SPDX-License-Identifier: Apache-2.0 */
/* A reply event against every reply rule of the shipped routes: each answer must be well-formed JSON. */
#include <stdio.h>

#include "syncgate/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct route_table *table;
static struct json_doc body, claims;

static void load_routes(void)
{
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    char dir[512], openapi[512];
    struct err err = {0};
    snprintf(dir, sizeof(dir), "%s/routes", root ? root : ".");
    snprintf(openapi, sizeof(openapi), "%s/openapi/openapi.json", root ? root : ".");
    table = route_table_load(dir, openapi, &err);
    if (!table)
        fprintf(stderr, "%s\n", err.text);
    SG_ASSERT(table);
    SG_ASSERT(json_parse(&body, SPAN_LIT("{\"deviceId\":\"GH\\\"1\",\"qrData\":{\"deviceId\":\"GH-2\"}}"),
                         100) == ERR_OK);
    SG_ASSERT(json_parse(&claims, SPAN_LIT("{\"sub\":\"u\\\\1\"}"), 100) == ERR_OK);
}

static void check_rule(const struct route_reply_rule *rule, const struct mapping_scope *scope,
                       struct buf *scratch)
{
    struct buf out = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    if (!rule->answer.body)
        return;
    SG_ASSERT(mapping_render(rule->answer.body, scope, scratch, &out) == ERR_OK);
    if (out.len > 0) { /* a body that is a value of the reply may be missing */
        enum err_code code = json_parse(&doc, buf_span(&out), UINT32_MAX);
        SG_ASSERT(code == ERR_OK || strcmp(doc.err_what, "too deep") == 0);
        if (code == ERR_OK && rule->answer.status >= 400) /* every failure of these routes has a message */
            SG_ASSERT(json_get(&doc, json_root(&doc), SPAN_LIT("message")));
    }
    json_fini(&doc);
    buf_fini(&out);
}

static void check_route(const struct route *route, const struct mapping_scope *scope, struct buf *scratch)
{
    for (size_t i = 0; i < route->rule_count; i++) {
        const struct route_reply_rule *rule = &route->rules[i];
        bool expected;
        check_rule(rule, scope, scratch);
        (void)route_find_rule(route, rule->topic, rule->event_type, scope, scratch, &expected);
        SG_ASSERT(expected || rule->untyped);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_doc reply = JSON_DOC_INIT;
    struct buf scratch = BUF_INIT;
    if (!table)
        load_routes();
    if (json_parse(&reply, (struct span){(const char *)data, size}, 100000) == ERR_OK) {
        struct mapping_scope scope = {
            .body = &body, .claims = &claims, .reply = &reply, .now_ms = 1756714599000};
        for (size_t i = 0; i < table->count; i++)
            check_route(&table->routes[i], &scope, &scratch);
        for (size_t i = 0; i < table->disabled_count; i++)
            check_route(&table->disabled[i], &scope, &scratch);
    }
    buf_fini(&scratch);
    json_fini(&reply);
    return 0;
}
