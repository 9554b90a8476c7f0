/* SPDX-License-Identifier: Apache-2.0 */
/* One route file -> one struct route. docs/routes.md describes the format; every check here has a message
 * there or in the tests. Strings go to the table's arena, templates and conditions are freed by route_fini().
 */
#include "reader.h"

#include <stdio.h>

#define TIMEOUT_MIN_MS     100
#define TIMEOUT_MAX_MS     600000
#define TIMEOUT_DEFAULT_MS 30000

struct parser {
    struct reader r;
    struct route_loader *loader;
    struct route *route;
    struct span request_ref;        /* "#/components/schemas/X"; ptr NULL: the body is unchecked */
    struct route_versions versions; /* of the route */
    bool refs_ok;
};

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

static struct mapping_template *parse_template(struct parser *p, const struct json_node *node, unsigned roots)
{
    struct mapping_template *tmpl = mapping_compile(p->r.doc, node, roots, p->r.where.ptr, p->r.err);
    if (tmpl)
        mapping_template_each_ref(tmpl, check_ref, p);
    if (!p->refs_ok)
        mapping_template_freep(&tmpl);
    return tmpl;
}

static struct mapping_template *parse_text_template(struct parser *p, const struct json_node *node,
                                                    unsigned roots)
{
    if (node->type != JSON_STRING) {
        reader_fail(&p->r, "expected a string");
        return NULL;
    }
    return parse_template(p, node, roots);
}

static bool parse_when(struct parser *p, const struct json_node *object, unsigned roots,
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

static bool parse_member_template(struct parser *p, const struct json_node *object, const char *key,
                                  bool text, unsigned roots, struct mapping_template **ret_tmpl)
{
    const struct json_node *node = reader_get(&p->r, object, key);
    if (!node)
        return true;
    size_t mark = reader_enter(&p->r, key);
    *ret_tmpl = text ? parse_text_template(p, node, roots) : parse_template(p, node, roots);
    reader_leave(&p->r, mark);
    return *ret_tmpl != NULL;
}

/* ---- path ---- */

static bool is_token(struct span text)
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
    if (!segment_is_param(segment) || segment.ptr[segment.len - 1] != '}' || !is_token(name))
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
static bool prefix_err(struct parser *p)
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
            return prefix_err(p);
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
        ok = p->route->body_schema || prefix_err(p);
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

static bool parse_topic(struct parser *p, const struct json_node *object, struct span *ret_topic)
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
        return prefix_err(p);
    mapping_template_each_ref(p->route->command.envelope, check_ref, p);
    if (!p->refs_ok)
        return prefix_err(p);
    reader_leave(&p->r, mark);
    if (!schema.ptr)
        return true;
    mark = reader_enter(&p->r, "schema");
    p->route->command.schema = loader_schema(p->loader, schema);
    if (!p->route->command.schema)
        return prefix_err(p);
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
        return prefix_err(p);
    for (size_t i = 0; i < headers->command_count; i++)
        mapping_template_each_ref(headers->command[i].value, check_ref, p);
    if (!p->refs_ok)
        return prefix_err(p);
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
    bool ok = reader_keys(&p->r, node, keys) && parse_topic(p, node, &command->topic) &&
              reader_string(&p->r, node, "eventType", true, &command->event_type) &&
              (reader_get(&p->r, node, "payload") || reader_fail(&p->r, "the key \"payload\" is missing")) &&
              parse_member_template(p, node, "key", true, MAPPING_REQUEST_ROOTS, &command->key) &&
              parse_member_template(p, node, "payload", false, MAPPING_REQUEST_ROOTS, &command->payload) &&
              parse_when(p, node, MAPPING_REQUEST_ROOTS, &command->when) && parse_command_files(p, node) &&
              parse_command_headers(p, node, reader_get(&p->r, root, "accepted") != NULL);
    if (ok)
        reader_leave(&p->r, mark);
    return ok;
}

/* ---- replies ---- */

/* Interns a reply topic in the table and in the route. */
static bool intern_topic(struct parser *p, struct span name, uint32_t *ret_topic)
{
    struct route_table *table = &p->loader->table->pub;
    struct route *route = p->route;
    bool disabled = route->disabled_because.ptr != NULL;
    struct span **list = disabled ? &table->disabled_topics : &table->reply_topics;
    size_t *count = disabled ? &table->disabled_topic_count : &table->reply_topic_count;
    uint32_t topic = 0;
    while (topic < *count && !span_eq((*list)[topic], name))
        topic++;
    if (topic == *count) {
        struct span *topics = realloc(*list, (topic + 1) * sizeof(*topics));
        if (!topics)
            return reader_no_memory(&p->r);
        *list = topics;
        topics[(*count)++] = name;
    }
    *ret_topic = topic;
    for (size_t i = 0; i < route->reply_topic_count; i++)
        if (route->reply_topics[i] == topic)
            return true;
    if (route->reply_topic_count == ROUTE_REPLY_TOPICS_MAX)
        return reader_fail(&p->r, "at most %d reply topics in a route", ROUTE_REPLY_TOPICS_MAX);
    route->reply_topics[route->reply_topic_count++] = topic;
    return true;
}

/* Headers that say how the message is framed, or that the gateway sets itself. */
static bool is_own_header(struct span name)
{
    static const char *const names[] = {"connection", "content-length",    "date",    "keep-alive",      "te",
                                        "trailer",    "transfer-encoding", "upgrade", "x-correlation-id"};
    for (size_t i = 0; i < SG_ARRAY_LEN(names); i++)
        if (span_eq_nocase(name, span_of(names[i])))
            return true;
    return false;
}

static bool parse_header(struct parser *p, const struct json_node *key, unsigned roots,
                         struct route_header *header)
{
    struct span raw = json_text(p->r.doc, key);
    header->name = arena_copy(p->r.arena, (struct span){raw.ptr + 1, raw.len - 2});
    if (!header->name.ptr)
        return reader_no_memory(&p->r);
    if (!is_token(header->name))
        return reader_fail(&p->r, "%.*s is not a header name", (int)(raw.len < 60 ? raw.len : 60), raw.ptr);
    if (is_own_header(header->name))
        return reader_fail(&p->r, "the gateway sets \"%s\" itself", header->name.ptr);
    size_t mark = reader_enter(&p->r, header->name.ptr);
    header->value = parse_text_template(p, json_member_value(key), roots);
    reader_leave(&p->r, mark);
    return header->value != NULL;
}

static bool parse_headers(struct parser *p, const struct json_node *rule, unsigned roots,
                          struct route_answer *answer)
{
    const struct json_node *node = reader_get(&p->r, rule, "headers");
    if (!node)
        return true;
    size_t mark = reader_enter(&p->r, "headers");
    if (node->type != JSON_OBJECT)
        return reader_fail(&p->r, "expected an object of header names and values");
    answer->headers = arena_alloc(p->r.arena, (node->count + 1) * sizeof(*answer->headers));
    if (!answer->headers)
        return reader_no_memory(&p->r);
    for (const struct json_node *key = json_first(p->r.doc, node); key; key = json_next(p->r.doc, key)) {
        struct route_header *header = &answer->headers[answer->header_count++];
        if (!parse_header(p, key, roots, header))
            return false;
        for (size_t i = 0; i + 1 < answer->header_count; i++)
            if (span_eq_nocase(answer->headers[i].name, header->name))
                return reader_fail(&p->r, "the header \"%s\" stands twice", header->name.ptr);
    }
    reader_leave(&p->r, mark);
    return true;
}

static bool parse_answer(struct parser *p, const struct json_node *node, struct route_answer *answer)
{
    uint32_t status = 0;
    if (!reader_get(&p->r, node, "status"))
        return reader_fail(&p->r, "the key \"status\" is missing");
    if (!reader_uint(&p->r, node, "status", 200, 599, &status) ||
        !parse_headers(p, node, MAPPING_REPLY_ROOTS, answer) ||
        !parse_member_template(p, node, "body", false, MAPPING_REPLY_ROOTS, &answer->body))
        return false;
    answer->status = (int)status;
    return !answer->body || (status != 204 && status != 205 && status != 304) ||
           reader_fail(&p->r, "an answer with status %u has no body", status);
}

/* Passed on as an event of a stream: there is no status or header of its own to send. */
static bool parse_progress(struct parser *p, const struct json_node *node, struct route_reply_rule *rule)
{
    static const char *const others[] = {"status", "headers"};
    for (size_t i = 0; i < SG_ARRAY_LEN(others); i++)
        if (reader_get(&p->r, node, others[i]))
            return reader_fail(&p->r, "a reply that is not terminal has no \"%s\"", others[i]);
    if (!reader_get(&p->r, node, "body"))
        return reader_fail(&p->r, "the key \"body\" is missing");
    rule->progress = p->route->has_progress = true;
    return parse_member_template(p, node, "body", false, MAPPING_REPLY_ROOTS, &rule->answer.body);
}

static bool has_terminal(const struct route *route)
{
    for (size_t i = 0; i < route->rule_count; i++)
        if (!route->rules[i].progress)
            return true;
    return false;
}

static bool same_event(struct span a, struct span b)
{
    return !a.ptr == !b.ptr && span_eq(a, b);
}

/* Whether every reply of b's types is also one of a's. */
static bool covers(const struct route_reply_rule *a, const struct route_reply_rule *b)
{
    if (a->untyped || b->untyped) /* a record without a body is asked about nothing but rules of this kind */
        return a->untyped && b->untyped;
    return !a->event_type.ptr || same_event(a->event_type, b->event_type);
}

static bool check_reachable(struct parser *p, size_t index)
{
    const struct route_reply_rule *rules = p->route->rules;
    for (size_t i = 0; i < index; i++)
        if (!rules[i].when && rules[i].topic == rules[index].topic &&
            versions_cover(&rules[i].versions, &rules[index].versions) && covers(&rules[i], &rules[index]))
            return reader_fail(&p->r, "never used: rule %zu always answers this topic and eventType", i);
    return true;
}

static bool parse_rule_type(struct parser *p, const struct json_node *node, struct route_reply_rule *rule)
{
    const struct json_node *type = reader_get(&p->r, node, "eventType");
    rule->untyped = type && type->type == JSON_NULL;
    return rule->untyped || reader_string(&p->r, node, "eventType", false, &rule->event_type);
}

static bool parse_rule_schema(struct parser *p, const struct json_node *node, struct route_reply_rule *rule)
{
    struct span schema = {NULL, 0};
    if (!reader_string(&p->r, node, "schema", false, &schema))
        return false;
    if (!schema.ptr)
        return true;
    size_t mark = reader_enter(&p->r, "schema");
    rule->schema = loader_schema(p->loader, schema);
    if (!rule->schema)
        return prefix_err(p);
    reader_leave(&p->r, mark);
    return true;
}

static bool parse_rule(struct parser *p, const struct json_node *node, size_t index)
{
    static const char *const keys[] = {"topic",    "eventType", "versions", "when", "schema",
                                       "terminal", "status",    "headers",  "body", NULL};
    struct route_reply_rule *rule = &p->route->rules[index];
    struct span topic;
    bool terminal = true;
    rule->versions = p->versions;
    return reader_keys(&p->r, node, keys) && parse_topic(p, node, &topic) &&
           intern_topic(p, topic, &rule->topic) && parse_rule_type(p, node, rule) &&
           versions_parse(&p->r, node, &rule->versions) && parse_rule_schema(p, node, rule) &&
           parse_when(p, node, MAPPING_REPLY_ROOTS, &rule->when) &&
           reader_bool(&p->r, node, "terminal", &terminal) &&
           (terminal ? parse_answer(p, node, &rule->answer) : parse_progress(p, node, rule)) &&
           check_reachable(p, index);
}

static bool parse_replies(struct parser *p, const struct json_node *root)
{
    const struct json_node *node = reader_get(&p->r, root, "replies");
    size_t mark = reader_enter(&p->r, "replies");
    if (node->type != JSON_ARRAY || node->count == 0)
        return reader_fail(&p->r, "expected a list of reply rules");
    p->route->rules = arena_alloc(p->r.arena, node->count * sizeof(*p->route->rules));
    if (!p->route->rules)
        return reader_no_memory(&p->r);
    for (const struct json_node *item = json_first(p->r.doc, node); item; item = json_next(p->r.doc, item)) {
        size_t index = p->route->rule_count++, inner = reader_enter_index(&p->r, index);
        if (!parse_rule(p, item, index))
            return false;
        reader_leave(&p->r, inner);
    }
    if (!has_terminal(p->route))
        return reader_fail(&p->r, "no rule is terminal: nothing but the deadline would end a call");
    reader_leave(&p->r, mark);
    return true;
}

/* ---- one-way routes ---- */

/* The body of an answer that does not say otherwise. */
static bool default_accepted_body(struct parser *p, struct route_answer *answer)
{
    static const char text[] = "{\"correlationId\":\"${correlationId}\"}";
    struct json_doc doc = JSON_DOC_INIT;
    if (json_parse(&doc, SPAN_LIT(text), 8) == ERR_OK)
        answer->body =
            mapping_compile(&doc, json_root(&doc), MAPPING_REQUEST_ROOTS, p->r.where.ptr, p->r.err);
    json_fini(&doc);
    return answer->body || reader_no_memory(&p->r);
}

static bool parse_accepted(struct parser *p, const struct json_node *root, const struct json_node *node)
{
    static const char *const keys[] = {"status", "headers", "body", NULL};
    struct route_answer *answer = &p->route->accepted;
    uint32_t status = 202;
    if (reader_get(&p->r, root, "versions")) {
        reader_enter(&p->r, "versions");
        return reader_fail(&p->r, "no reply comes to a route with \"accepted\"");
    }
    size_t mark = reader_enter(&p->r, "accepted");
    if (reader_get(&p->r, root, "replies"))
        return reader_fail(&p->r, "a route has either \"replies\" or \"accepted\"");
    if (!reader_keys(&p->r, node, keys) || !reader_uint(&p->r, node, "status", 200, 299, &status) ||
        !parse_headers(p, node, MAPPING_REQUEST_ROOTS, answer) ||
        !parse_member_template(p, node, "body", false, MAPPING_REQUEST_ROOTS, &answer->body))
        return false;
    bool bodiless = status == 204 || status == 205;
    if (answer->body && bodiless)
        return reader_fail(&p->r, "an answer with status %u has no body", status);
    p->route->one_way = true;
    answer->status = (int)status;
    if (!answer->body && !bodiless && !default_accepted_body(p, answer))
        return false;
    reader_leave(&p->r, mark);
    return true;
}

/* What answers a call: replies, or the broker's acknowledgement. */
static bool parse_outcome(struct parser *p, const struct json_node *root)
{
    const struct json_node *accepted = reader_get(&p->r, root, "accepted");
    if (!accepted)
        return reader_get(&p->r, root, "replies")
                   ? parse_replies(p, root)
                   : reader_fail(&p->r, "one of the keys \"replies\" and \"accepted\" is missing");
    return parse_accepted(p, root, accepted);
}

/* ---- finishing by fields ---- */

static bool parse_field_pair(struct parser *p, const struct json_node *node, struct route_field_match *match)
{
    const struct json_node *first =
        node->type == JSON_ARRAY && node->count == 2 ? json_first(p->r.doc, node) : NULL;
    if (!first)
        return reader_fail(&p->r, "expected a pair [request field, reply field]");
    size_t index = match->field_count++, mark = reader_enter_index(&p->r, 0);
    match->request_fields[index] = parse_text_template(p, first, MAPPING_REQUEST_ROOTS);
    if (!match->request_fields[index])
        return false;
    reader_leave(&p->r, mark);
    mark = reader_enter_index(&p->r, 1);
    match->reply_fields[index] = parse_text_template(p, json_next(p->r.doc, first), MAPPING_REPLY);
    if (!match->reply_fields[index])
        return false;
    reader_leave(&p->r, mark);
    return true;
}

static bool parse_fields(struct parser *p, const struct json_node *node, struct route_field_match *match)
{
    const struct json_node *fields = reader_get(&p->r, node, "fields");
    size_t mark = reader_enter(&p->r, "fields");
    if (!fields || fields->type != JSON_ARRAY || fields->count == 0)
        return reader_fail(&p->r, "expected a list of pairs [request field, reply field]");
    match->request_fields = arena_alloc(p->r.arena, fields->count * sizeof(struct mapping_template *));
    match->reply_fields = arena_alloc(p->r.arena, fields->count * sizeof(struct mapping_template *));
    if (!match->request_fields || !match->reply_fields)
        return reader_no_memory(&p->r);
    for (const struct json_node *item = json_first(p->r.doc, fields); item;
         item = json_next(p->r.doc, item)) {
        size_t inner = reader_enter_index(&p->r, match->field_count);
        if (!parse_field_pair(p, item, match))
            return false;
        reader_leave(&p->r, inner);
    }
    reader_leave(&p->r, mark);
    return true;
}

static bool parse_field_match(struct parser *p, const struct json_node *node, struct route_field_match *match)
{
    static const char *const keys[] = {"topic", "eventType", "fields", NULL};
    struct span topic;
    if (!reader_keys(&p->r, node, keys) || !parse_topic(p, node, &topic) ||
        !intern_topic(p, topic, &match->topic) ||
        !reader_string(&p->r, node, "eventType", false, &match->event_type) || !parse_fields(p, node, match))
        return false;
    for (size_t i = 0; i < p->route->rule_count; i++) {
        const struct route_reply_rule *rule = &p->route->rules[i];
        if (rule->topic == match->topic && !rule->untyped &&
            (!rule->event_type.ptr || same_event(rule->event_type, match->event_type)))
            return true;
    }
    return reader_fail(&p->r, "no reply rule answers this topic and eventType");
}

static bool parse_field_matches(struct parser *p, const struct json_node *root)
{
    const struct json_node *node = reader_get(&p->r, root, "finishByFields");
    if (!node || node->type == JSON_NULL)
        return true;
    size_t mark = reader_enter(&p->r, "finishByFields");
    if (p->route->one_way)
        return reader_fail(&p->r, "no reply comes to a route with \"accepted\"");
    if (node->type != JSON_ARRAY)
        return reader_fail(&p->r, "expected null or a list");
    p->route->field_matches = arena_alloc(p->r.arena, (node->count + 1) * sizeof(*p->route->field_matches));
    if (!p->route->field_matches)
        return reader_no_memory(&p->r);
    for (const struct json_node *item = json_first(p->r.doc, node); item; item = json_next(p->r.doc, item)) {
        size_t index = p->route->field_match_count++, inner = reader_enter_index(&p->r, index);
        if (!parse_field_match(p, item, &p->route->field_matches[index]))
            return false;
        reader_leave(&p->r, inner);
    }
    reader_leave(&p->r, mark);
    return true;
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
           parse_command(p, root) && versions_parse(&p->r, root, &p->versions) && parse_outcome(p, root) &&
           parse_field_matches(p, root);
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
