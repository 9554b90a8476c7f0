/* SPDX-License-Identifier: Apache-2.0 */
/* A route file: it loads into a table that can be used, or fails with a message that names the file. */
#include <stdio.h>

#include "syncgate/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_table(const struct route_table *table)
{
    bool disabled = table->disabled_count == 1;
    const struct route *route = disabled ? &table->disabled[0] : &table->routes[0];
    struct route_match match;
    struct buf scratch = BUF_INIT, out = BUF_INIT;
    struct mapping_scope scope = {.payload = SPAN_LIT("{}"), .event_type = route->command.event_type};
    bool missing;
    SG_ASSERT(table->count + table->disabled_count == 1 && (route->rule_count > 0) != route->one_way &&
              route->command.envelope);
    SG_ASSERT(route_table_match(table, route->method, route->path, &match) == ERR_OK);
    SG_ASSERT(match.route == (disabled ? NULL : route)); /* "{id}" is a value like any other */
    scope.path = match.params;
    scope.path_count = match.param_count;
    SG_ASSERT(mapping_render(route->command.payload, &scope, &scratch, &out) == ERR_OK);
    SG_ASSERT(mapping_render(route->command.envelope, &scope, &scratch, &out) == ERR_OK);
    if (route->command.key)
        SG_ASSERT(mapping_render_text(route->command.key, &scope, &scratch, &out, &missing) == ERR_OK);
    route_match_fini(&match);
    buf_fini(&scratch);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    char dir[512], openapi[600];
    struct err err = {0};
    snprintf(dir, sizeof(dir), "%s/tests/routes", root ? root : ".");
    snprintf(openapi, sizeof(openapi), "%s/openapi.json", dir);
    const struct route_source source = {"r.json", {(const char *)data, size}};
    struct route_table *table = route_table_parse(&source, 1, dir, openapi, &err);
    if (table)
        use_table(table);
    else
        SG_ASSERT(strncmp(err.text, "r.json:", 7) == 0);
    route_table_freep(&table);
    return 0;
}
