/* SPDX-License-Identifier: Apache-2.0 */
/* Which versions of a reply a rule takes. */
#include "reader.h"

#define ANY     SPAN_LIT("*")
#define DEFAULT SPAN_LIT("v1") /* of a message without __version, by the Kafka contract */

bool versions_parse(struct reader *r, const struct json_node *object, struct route_versions *versions)
{
    const struct json_node *node = reader_get(r, object, "versions");
    struct route_versions parsed = {NULL, 0};
    bool any = false;
    if (!node)
        return true;
    size_t mark = reader_enter(r, "versions");
    if (node->type != JSON_ARRAY || node->count == 0)
        return reader_fail(r, "expected a list of versions, such as [\"v1\"], or [\"*\"] for any");
    parsed.names = arena_alloc(r->arena, node->count * sizeof(struct span));
    if (!parsed.names)
        return reader_no_memory(r);
    for (const struct json_node *item = json_first(r->doc, node); item; item = json_next(r->doc, item)) {
        size_t inner = reader_enter_index(r, parsed.count);
        struct span *name = &parsed.names[parsed.count++];
        if (!reader_text(r, item, name))
            return false;
        any |= span_eq(*name, ANY);
        reader_leave(r, inner);
    }
    if (any && parsed.count > 1)
        return reader_fail(r, "\"*\" is any version: expected nothing beside it");
    reader_leave(r, mark);
    *versions = any ? (struct route_versions){NULL, 0} : parsed;
    return true;
}

static bool has(const struct route_versions *versions, struct span name)
{
    for (size_t i = 0; i < versions->count; i++)
        if (span_eq(versions->names[i], name))
            return true;
    return false;
}

bool versions_cover(const struct route_versions *a, const struct route_versions *b)
{
    if (a->count == 0 || b->count == 0)
        return a->count == 0;
    for (size_t i = 0; i < b->count; i++)
        if (!has(a, b->names[i]))
            return false;
    return true;
}

bool versions_accept(const struct route_versions *versions, const struct json_doc *reply)
{
    if (versions->count == 0)
        return true;
    const struct json_node *node = json_get(reply, json_root(reply), SPAN_LIT("__version"));
    if (!node)
        return has(versions, DEFAULT);
    for (size_t i = 0; i < versions->count; i++)
        if (json_string_eq(reply, node, versions->names[i]))
            return true;
    return false;
}
