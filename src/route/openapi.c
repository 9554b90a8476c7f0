/* SPDX-License-Identifier: Apache-2.0 */
/* What loading asks of the OpenAPI document: where an operation stands, and whether a reference into a body
 * can ever resolve. The second question is answered "yes" wherever it is hard. */
#include "table.h"

#define RESOLVE_DEPTH_MAX 32

bool openapi_find(const struct json_doc *doc, struct span operation_id, const struct json_node **ret_path,
                  const struct json_node **ret_method)
{
    const struct json_node *paths = json_get(doc, json_root(doc), SPAN_LIT("paths"));
    if (!paths || paths->type != JSON_OBJECT)
        return false;
    for (const struct json_node *path = json_first(doc, paths); path; path = json_next(doc, path)) {
        const struct json_node *item = json_member_value(path);
        if (item->type != JSON_OBJECT)
            continue;
        for (const struct json_node *method = json_first(doc, item); method;
             method = json_next(doc, method)) {
            const struct json_node *id = json_get(doc, json_member_value(method), SPAN_LIT("operationId"));
            if (id && id->type == JSON_STRING && json_string_eq(doc, id, operation_id)) {
                *ret_path = path;
                *ret_method = method;
                return true;
            }
        }
    }
    return false;
}

/* The node at "#/a/b" ("~1" and "~0" stand for "/" and "~"); NULL when it leads nowhere or is another form.
 */
static const struct json_node *resolve(const struct json_doc *doc, struct span reference)
{
    const struct json_node *node = json_root(doc);
    if (reference.len < 1 || reference.ptr[0] != '#')
        return NULL;
    const char *pos = reference.ptr + 1, *end = reference.ptr + reference.len;
    while (node && pos < end) {
        char name[128];
        size_t len = 0;
        if (*pos++ != '/')
            return NULL;
        for (; pos < end && *pos != '/'; pos++) {
            if (len == sizeof(name))
                return NULL;
            bool escape = *pos == '~' && pos + 1 < end;
            if (escape)
                pos++;
            name[len++] = (char)(!escape ? *pos : *pos == '1' ? '/' : '~');
        }
        node = json_get(doc, node, (struct span){name, len});
    }
    return node;
}

/* Does "type" (a name or a list of names) allow `wanted`? */
static bool allows_type(const struct json_doc *doc, const struct json_node *schema, struct span wanted)
{
    const struct json_node *type = json_get(doc, schema, SPAN_LIT("type"));
    if (!type || (type->type != JSON_STRING && type->type != JSON_ARRAY))
        return true;
    if (type->type == JSON_STRING)
        return json_string_eq(doc, type, wanted);
    for (const struct json_node *name = json_first(doc, type); name; name = json_next(doc, name))
        if (name->type == JSON_STRING && json_string_eq(doc, name, wanted))
            return true;
    return false;
}

static bool may_hold(const struct json_doc *doc, const struct json_node *schema,
                     const struct mapping_step *steps, size_t count, unsigned depth);

static bool object_may_hold(const struct json_doc *doc, const struct json_node *schema,
                            const struct mapping_step *steps, size_t count, unsigned depth)
{
    if (!allows_type(doc, schema, SPAN_LIT("object")))
        return false;
    const struct json_node *properties = json_get(doc, schema, SPAN_LIT("properties"));
    const struct json_node *property = json_get(doc, properties, steps[0].name);
    if (property)
        return may_hold(doc, property, steps + 1, count - 1, depth + 1);
    const struct json_node *others = json_get(doc, schema, SPAN_LIT("additionalProperties"));
    return !others || may_hold(doc, others, steps + 1, count - 1, depth + 1);
}

static bool array_may_hold(const struct json_doc *doc, const struct json_node *schema,
                           const struct mapping_step *steps, size_t count, unsigned depth)
{
    if (steps[0].index == MAPPING_NO_INDEX || !allows_type(doc, schema, SPAN_LIT("array")))
        return false;
    const struct json_node *items = json_get(doc, schema, SPAN_LIT("items"));
    return !items || may_hold(doc, items, steps + 1, count - 1, depth + 1);
}

static bool combination_may_hold(const struct json_doc *doc, const struct json_node *schema,
                                 const struct mapping_step *steps, size_t count, unsigned depth)
{
    static const struct {
        const char *keyword;
        bool all;
    } keywords[] = {{"allOf", true}, {"anyOf", false}, {"oneOf", false}};
    for (size_t i = 0; i < SG_ARRAY_LEN(keywords); i++) {
        const struct json_node *list = json_get(doc, schema, span_of(keywords[i].keyword));
        if (!list || list->type != JSON_ARRAY || list->count == 0)
            continue;
        size_t possible = 0;
        for (const struct json_node *item = json_first(doc, list); item; item = json_next(doc, item))
            possible += may_hold(doc, item, steps, count, depth + 1);
        if (keywords[i].all ? possible < list->count : possible == 0)
            return false;
    }
    return true;
}

static bool may_hold(const struct json_doc *doc, const struct json_node *schema,
                     const struct mapping_step *steps, size_t count, unsigned depth)
{
    if (schema->type == JSON_FALSE)
        return false;
    if (schema->type != JSON_OBJECT || count == 0 || depth > RESOLVE_DEPTH_MAX)
        return true;
    const struct json_node *reference = json_get(doc, schema, SPAN_LIT("$ref"));
    if (reference && reference->type == JSON_STRING && !reference->escaped) {
        struct span text = json_text(doc, reference);
        const struct json_node *target = resolve(doc, (struct span){text.ptr + 1, text.len - 2});
        if (target && !may_hold(doc, target, steps, count, depth + 1))
            return false;
    }
    return (object_may_hold(doc, schema, steps, count, depth) ||
            array_may_hold(doc, schema, steps, count, depth)) &&
           combination_may_hold(doc, schema, steps, count, depth);
}

bool openapi_may_hold(const struct json_doc *doc, struct span reference, const struct mapping_step *steps,
                      size_t count)
{
    const struct json_node *schema = resolve(doc, reference);
    return !schema || may_hold(doc, schema, steps, count, 0);
}
