/* SPDX-License-Identifier: Apache-2.0 */
/* One route file -> one struct route. docs/routes.md describes the format; every check here has a message
 * there or in the tests. Strings go to the table's arena, templates and conditions are freed by route_fini().
 */
#include "parse.h"

#include <stdio.h>

#define TIMEOUT_MIN_MS     100
#define TIMEOUT_MAX_MS     600000
#define TIMEOUT_DEFAULT_MS 30000

/* ---- references ---- */

static bool is_path_param(const struct route *route, struct span name)
{
    struct span segments[ROUTE_SEGMENTS_MAX];
    size_t count =
        path_split((struct span){route->path.ptr + 1, route->path.len - 1}, segments, ROUTE_SEGMENTS_MAX);
    for (size_t i = 0; i < count; i++)
        if (segment_is_param(segments[i]) && span_eq(segment_param(segments[i]), name))
            return true;
    return false;
}

/* Refuses what can never resolve: a parameter that the path does not have, a member that the request schema
 * excludes. */
static void check_ref(void *arg, const struct mapping_ref *ref)
{
    struct parser *p = arg;
    int len = (int)(ref->text.len < 80 ? ref->text.len : 80);
    if (!p->refs_ok)
        return;
    if (ref->root == MAPPING_PATH && !is_path_param(p->route, ref->steps[0].name)) {
        err_set(p->r.err, ERR_CONFIG, "%s: in \"${%.*s}\": the path %.*s has no parameter {%.*s}", ref->place,
                len, ref->text.ptr, (int)p->route->path.len, p->route->path.ptr, (int)ref->steps[0].name.len,
                ref->steps[0].name.ptr);
        p->refs_ok = false;
    } else if (ref->root == MAPPING_BODY && p->request_ref.ptr &&
               !openapi_may_hold(&p->loader->openapi_doc, p->request_ref, ref->steps, ref->step_count)) {
        err_set(p->r.err, ERR_CONFIG, "%s: in \"${%.*s}\": no request that satisfies %.*s has this member",
                ref->place, len, ref->text.ptr, (int)p->request_ref.len, p->request_ref.ptr);
        p->refs_ok = false;
    }
}

/* ---- templates and conditions; NULL with the error filled ---- */

struct mapping_template *parser_template(struct parser *p, const struct json_node *node, unsigned roots)
{
    struct mapping_template *tmpl = mapping_compile(p->r.doc, node, roots, p->r.where.ptr, p->r.err);
    if (tmpl)
        mapping_template_each_ref(tmpl, check_ref, p);
    if (!p->refs_ok)
        mapping_template_freep(&tmpl);
    return tmpl;
}

struct mapping_template *parser_text_template(struct parser *p, const struct json_node *node, unsigned roots)
{
    if (node->type != JSON_STRING) {
        reader_fail(&p->r, "expected a string");
        return NULL;
    }
    return parser_template(p, node, roots);
}

bool parser_when(struct parser *p, const struct json_node *object, unsigned roots,
                 struct mapping_condition **ret_cond)
{
    const struct json_node *node = reader_get(&p->r, object, "when");
    if (!node || (node->type == JSON_ARRAY && node->count == 0))
        return true;
    size_t mark = reader_enter(&p->r, "when");
    *ret_cond = mapping_condition_compile(p->r.doc, node, roots, p->r.where.ptr, p->r.err);
    reader_leave(&p->r, mark);
    if (*ret_cond)
        mapping_condition_each_ref(*ret_cond, check_ref, p);
    return *ret_cond && p->refs_ok;
}

bool parser_member_template(struct parser *p, const struct json_node *object, const char *key, bool text,
                            unsigned roots, struct mapping_template **ret_tmpl)
{
    const struct json_node *node = reader_get(&p->r, object, key);
    if (!node)
        return true;
    size_t mark = reader_enter(&p->r, key);
    *ret_tmpl = text ? parser_text_template(p, node, roots) : parser_template(p, node, roots);
    reader_leave(&p->r, mark);
    return *ret_tmpl != NULL;
}

/* ---- path ---- */

bool parser_is_token(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i], lower = c | 0x20;
        if (!((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') ||
              (c && strchr("!#$%&'*+-.^_`|~", c))))
            return false;
    }
    return text.len > 0;
}

static bool check_segment(struct parser *p, const struct span *segments, size_t index, bool is_last,
                          size_t *params)
{
    struct span segment = segments[index];
    bool has_brace =
        segment.len && (memchr(segment.ptr, '{', segment.len) || memchr(segment.ptr, '}', segment.len));
    if (segment.len == 0) {
        if (is_last && p->route->case_sensitive)
            return true;
        return reader_fail(&p->r, is_last ? "no slash at the end: express mode allows for one by itself"
                                          : "a segment is empty");
    }
    if (!has_brace)
        return (!memchr(segment.ptr, '?', segment.len) && !memchr(segment.ptr, '#', segment.len)) ||
               reader_fail(&p->r, "expected a path without query or fragment");
    struct span name = {segment.ptr + 1, segment.len - 2};
    if (!segment_is_param(segment) || segment.ptr[segment.len - 1] != '}' || !parser_is_token(name))
        return reader_fail(&p->r, "expected a parameter {name} to fill its whole segment, not \"%.*s\"",
                           (int)(segment.len < 60 ? segment.len : 60), segment.ptr);
    for (size_t i = 0; i < index; i++)
        if (span_eq(segments[i], segment))
            return reader_fail(&p->r, "the parameter %.*s stands twice", (int)segment.len, segment.ptr);
    return ++*params <= ROUTE_PARAMS_MAX || reader_fail(&p->r, "at most %d parameters", ROUTE_PARAMS_MAX);
}

static bool check_path(struct parser *p)
{
    struct span path = p->route->path, segments[ROUTE_SEGMENTS_MAX];
    if (path.ptr[0] != '/')
        return reader_fail(&p->r, "expected a path that begins with '/'");
    if (path.len == 1)
        return true;
    size_t params = 0,
           count = path_split((struct span){path.ptr + 1, path.len - 1}, segments, ROUTE_SEGMENTS_MAX);
    if (count == 0)
        return reader_fail(&p->r, "at most %d segments", ROUTE_SEGMENTS_MAX);
    for (size_t i = 0; i < count; i++)
        if (!check_segment(p, segments, i, i + 1 == count, &params))
            return false;
    return true;
}

static bool parse_path(struct parser *p, const struct json_node *root)
{
    struct span mode = SPAN_LIT("express");
    if (!reader_string(&p->r, root, "path", true, &p->route->path) ||
        !reader_string(&p->r, root, "pathMode", false, &mode))
        return false;
    p->route->case_sensitive = span_eq(mode, SPAN_LIT("exact"));
    bool known = p->route->case_sensitive || span_eq(mode, SPAN_LIT("express"));
    size_t mark = reader_enter(&p->r, known ? "path" : "pathMode");
    bool ok = known ? check_path(p) : reader_fail(&p->r, "expected \"express\" or \"exact\"");
    reader_leave(&p->r, mark);
    return ok;
}

/* ---- the operation ---- */

static bool fail_operation(struct parser *p, const char *key, struct span expected, bool upper)
{
    char text[200] = "";
    for (size_t i = 0; i < expected.len && i < sizeof(text) - 1; i++)
        text[i] = (char)(upper && expected.ptr[i] >= 'a' && expected.ptr[i] <= 'z' ? expected.ptr[i] & ~0x20
                                                                                   : expected.ptr[i]);
    reader_enter(&p->r, key);
    return reader_fail(&p->r, "expected \"%s\", as %s has it for \"%s\"", text, p->loader->openapi_path,
                       p->route->operation_id.ptr);
}

static struct span inside_quotes(const struct json_doc *doc, const struct json_node *string)
{
    return (struct span){doc->text + string->start + 1, string->end - string->start - 2};
}

static bool check_operation(struct parser *p)
{
    const struct json_doc *doc = &p->loader->openapi_doc;
    const struct json_node *path, *method;
    struct route *route = p->route;
    if (!openapi_find(doc, route->operation_id, &path, &method)) {
        reader_enter(&p->r, "operationId");
        return reader_fail(&p->r, "%s has no operation \"%s\"", p->loader->openapi_path,
                           route->operation_id.ptr);
    }
    bool is_upper = true;
    for (size_t i = 0; i < route->method.len; i++)
        is_upper &= route->method.ptr[i] >= 'A' && route->method.ptr[i] <= 'Z';
    if (!is_upper || !span_eq_nocase(inside_quotes(doc, method), route->method))
        return fail_operation(p, "method", inside_quotes(doc, method), true);
    return json_string_eq(doc, path, route->path) ||
           fail_operation(p, "path", inside_quotes(doc, path), false);
}

/* ---- auth and request ---- */

/* Fills in the place before a message that only names what it is about. */
bool parser_prefix_err(struct parser *p)
{
    struct err inner = *p->r.err;
    err_set(p->r.err, inner.code, "%s: %.*s", p->r.where.ptr, 300, inner.text);
    return false;
}

static bool parse_roles(struct parser *p, const struct json_node *node)
{
    size_t count = 0;
    if (node->type != JSON_ARRAY)
        return reader_fail(&p->r, "expected a list of role names");
    p->route->roles = arena_alloc(p->r.arena, (node->count + 1) * sizeof(struct span));
    if (!p->route->roles)
        return reader_no_memory(&p->r);
    for (const struct json_node *item = json_first(p->r.doc, node); item;
         item = json_next(p->r.doc, item), count++) {
        size_t mark = reader_enter_index(&p->r, count);
        bool ok = reader_text(&p->r, item, &p->route->roles[count]);
        reader_leave(&p->r, mark);
        if (!ok)
            return false;
    }
    p->route->role_count = count;
    return count == 0 || p->route->auth_required || reader_fail(&p->r, "roles need \"required\": true");
}

static bool parse_auth(struct parser *p, const struct json_node *root)
{
    static const char *const keys[] = {"required", "roles", "claims", NULL};
    const struct json_node *node = reader_get(&p->r, root, "auth"), *roles;
    struct span claims = {NULL, 0};
    p->route->auth_required = true;
    if (!node)
        return true;
    size_t mark = reader_enter(&p->r, "auth");
    bool ok =
        reader_keys(&p->r, node, keys) && reader_bool(&p->r, node, "required", &p->route->auth_required);
    if (ok && (roles = reader_get(&p->r, node, "roles"))) {
        size_t inner = reader_enter(&p->r, "roles");
        ok = parse_roles(p, roles);
        reader_leave(&p->r, inner);
    }
    ok = ok && reader_string(&p->r, node, "claims", false, &claims);
    if (ok && claims.ptr) {
        size_t inner = reader_enter(&p->r, "claims");
        p->route->claims_schema = loader_schema(p->loader, claims);
        if (!p->route->claims_schema)
            return parser_prefix_err(p);
        reader_leave(&p->r, inner);
    }
    reader_leave(&p->r, mark);
    return ok;
}

static bool parse_request_schema(struct parser *p, const struct json_node *node)
{
    if (!reader_string(&p->r, node, "schema", true, &p->request_ref))
        return false;
    size_t mark = reader_enter(&p->r, "schema");
    bool ok = p->request_ref.len > 2 && memcmp(p->request_ref.ptr, "#/", 2) == 0;
    if (!ok) {
        reader_fail(&p->r, "expected a reference into the OpenAPI document, \"#/components/schemas/...\"");
    } else {
        p->route->body_schema = schema_compile(p->loader->table->openapi, p->request_ref.ptr + 1, p->r.err);
        ok = p->route->body_schema || parser_prefix_err(p);
    }
    reader_leave(&p->r, mark);
    return ok;
}

static bool parse_request(struct parser *p, const struct json_node *root)
{
    static const char *const keys[] = {"schema", "required", NULL};
    const struct json_node *node = reader_get(&p->r, root, "request");
    if (!node)
        return true;
    p->route->body_required = true;
    size_t mark = reader_enter(&p->r, "request");
    bool ok = reader_keys(&p->r, node, keys) &&
              reader_bool(&p->r, node, "required", &p->route->body_required) && parse_request_schema(p, node);
    reader_leave(&p->r, mark);
    return ok;
}

/* ---- command ---- */

static bool is_topic_name(struct span name)
{
    bool ok = name.len > 0 && name.len <= ROUTE_TOPIC_MAX && !span_eq(name, SPAN_LIT(".")) &&
              !span_eq(name, SPAN_LIT(".."));
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i], lower = (char)(c | 0x20);
        ok &= (lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    }
    return ok;
}

/* What the topic is called here; false without memory. */
static bool rename_topic(struct parser *p, struct span *topic)
{
    const struct route_loader *loader = p->loader;
    for (size_t i = 0; i < loader->topic_name_count; i++) {
        if (!span_eq(loader->topic_names[i].from, *topic))
            continue;
        loader->topic_name_used[i] = true;
        *topic = arena_copy(p->r.arena, loader->topic_names[i].to);
        return topic->ptr != NULL || reader_no_memory(&p->r);
    }
    return true;
}

bool parser_topic(struct parser *p, const struct json_node *object, struct span *ret_topic)
{
    if (!reader_string(&p->r, object, "topic", true, ret_topic))
        return false;
    if (is_topic_name(*ret_topic))
        return rename_topic(p, ret_topic);
    size_t mark = reader_enter(&p->r, "topic");
    reader_fail(&p->r, "expected a Kafka topic name: letters, digits, '.', '_', '-', at most %d",
                ROUTE_TOPIC_MAX);
    reader_leave(&p->r, mark);
    return false;
}

static bool parse_command_files(struct parser *p, const struct json_node *node)
{
    struct span envelope = {0}, schema = {0};
    if (!reader_string(&p->r, node, "envelope", false, &envelope) ||
        !reader_string(&p->r, node, "schema", false, &schema))
        return false;
    size_t mark = reader_enter(&p->r, "envelope");
    p->route->command.envelope = loader_envelope(p->loader, envelope);
    if (!p->route->command.envelope)
        return parser_prefix_err(p);
    mapping_template_each_ref(p->route->command.envelope, check_ref, p);
    if (!p->refs_ok)
        return parser_prefix_err(p);
    reader_leave(&p->r, mark);
    if (!schema.ptr)
        return true;
    mark = reader_enter(&p->r, "schema");
    p->route->command.schema = loader_schema(p->loader, schema);
    if (!p->route->command.schema)
        return parser_prefix_err(p);
    reader_leave(&p->r, mark);
    return true;
}

static bool parse_command_headers(struct parser *p, const struct json_node *node, bool one_way)
{
    struct span name = {0};
    if (!reader_string(&p->r, node, "headers", false, &name))
        return false;
    size_t mark = reader_enter(&p->r, "headers");
    const struct route_headers *headers = p->route->command.headers =
        loader_headers(p->loader, name, one_way);
    if (!headers)
        return parser_prefix_err(p);
    for (size_t i = 0; i < headers->command_count; i++)
        mapping_template_each_ref(headers->command[i].value, check_ref, p);
    if (!p->refs_ok)
        return parser_prefix_err(p);
    reader_leave(&p->r, mark);
    return true;
}

static bool parse_command(struct parser *p, const struct json_node *root)
{
    static const char *const keys[] = {"topic",   "key",    "eventType", "envelope", "headers",
                                       "payload", "schema", "when",      NULL};
    struct route_command *command = &p->route->command;
    const struct json_node *node = reader_get(&p->r, root, "command");
    if (!node)
        return reader_fail(&p->r, "the key \"command\" is missing");
    size_t mark = reader_enter(&p->r, "command");
    bool ok = reader_keys(&p->r, node, keys) && parser_topic(p, node, &command->topic) &&
              reader_string(&p->r, node, "eventType", true, &command->event_type) &&
              (reader_get(&p->r, node, "payload") || reader_fail(&p->r, "the key \"payload\" is missing")) &&
              parser_member_template(p, node, "key", true, MAPPING_REQUEST_ROOTS, &command->key) &&
              parser_member_template(p, node, "payload", false, MAPPING_REQUEST_ROOTS, &command->payload) &&
              parser_when(p, node, MAPPING_REQUEST_ROOTS, &command->when) && parse_command_files(p, node) &&
              parse_command_headers(p, node, reader_get(&p->r, root, "accepted") != NULL);
    if (ok)
        reader_leave(&p->r, mark);
    return ok;
}

/* ---- the file ---- */

/* A reason is needed to disable a route, and may stay in the file when the route is enabled. */
static bool parse_enabled(struct parser *p, const struct json_node *root)
{
    bool enabled = true;
    struct span because = {NULL, 0};
    if (!reader_bool(&p->r, root, "enabled", &enabled) ||
        !reader_string(&p->r, root, "disabledBecause", false, &because))
        return false;
    if (because.ptr && !reader_get(&p->r, root, "enabled"))
        return reader_fail(&p->r, "\"disabledBecause\" needs the key \"enabled\"");
    if (!enabled && !because.ptr)
        return reader_fail(&p->r, "\"enabled\": false needs the key \"disabledBecause\"");
    if (!enabled)
        p->route->disabled_because = because;
    return true;
}

static bool parse_root(struct parser *p, const struct json_node *root)
{
    static const char *const keys[] = {
        "operationId", "description", "enabled",        "disabledBecause", "method",      "path",
        "pathMode",    "auth",        "request",        "timeoutMs",       "maxInFlight", "command",
        "replies",     "accepted",    "finishByFields", "versions",        NULL};
    struct route *route = p->route;
    struct span description;
    route->timeout_ms = TIMEOUT_DEFAULT_MS;
    return reader_keys(&p->r, root, keys) &&
           reader_string(&p->r, root, "operationId", true, &route->operation_id) &&
           reader_string(&p->r, root, "description", false, &description) && parse_enabled(p, root) &&
           reader_string(&p->r, root, "method", true, &route->method) && parse_path(p, root) &&
           check_operation(p) && parse_auth(p, root) && parse_request(p, root) &&
           reader_uint(&p->r, root, "timeoutMs", TIMEOUT_MIN_MS, TIMEOUT_MAX_MS, &route->timeout_ms) &&
           reader_uint(&p->r, root, "maxInFlight", 0, UINT32_MAX, &route->max_in_flight) &&
           parse_command(p, root) && versions_parse(&p->r, root, &p->versions) && parser_outcome(p, root) &&
           parser_field_matches(p, root);
}

bool route_parse(struct route_loader *loader, const struct route_source *source, struct route *route)
{
    struct json_doc doc = JSON_DOC_INIT;
    struct parser p = {.loader = loader, .route = route, .refs_ok = true};
    route->file = arena_copy(&loader->table->arena, span_of(source->name)).ptr;
    bool ok = reader_init(&p.r, source->name, &doc, &loader->table->arena, loader->err);
    if (ok && !route->file)
        ok = reader_no_memory(&p.r);
    ok = ok && reader_parse(source->name, source->text, &doc, loader->err) && parse_root(&p, json_root(&doc));
    reader_fini(&p.r);
    json_fini(&doc);
    return ok;
}

static void answer_fini(struct route_answer *answer)
{
    mapping_template_freep(&answer->body);
    for (size_t i = 0; i < answer->header_count; i++)
        mapping_template_freep(&answer->headers[i].value);
}

void route_fini(struct route *route)
{
    mapping_template_freep(&route->command.key);
    mapping_template_freep(&route->command.payload);
    mapping_condition_freep(&route->command.when);
    answer_fini(&route->accepted);
    for (size_t i = 0; i < route->rule_count; i++) {
        mapping_condition_freep(&route->rules[i].when);
        answer_fini(&route->rules[i].answer);
    }
    for (size_t i = 0; i < route->field_match_count; i++)
        for (size_t j = 0; j < route->field_matches[i].field_count; j++) {
            mapping_template_freep(&route->field_matches[i].request_fields[j]);
            mapping_template_freep(&route->field_matches[i].reply_fields[j]);
        }
}
