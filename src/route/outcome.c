/* SPDX-License-Identifier: Apache-2.0 */
/* How a call of the route ends: the rules for replies, the answer of a one-way route, and finishing by fields. */
#include "parse.h"

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
    if (!parser_is_token(header->name))
        return reader_fail(&p->r, "%.*s is not a header name", (int)(raw.len < 60 ? raw.len : 60), raw.ptr);
    if (is_own_header(header->name))
        return reader_fail(&p->r, "the gateway sets \"%s\" itself", header->name.ptr);
    size_t mark = reader_enter(&p->r, header->name.ptr);
    header->value = parser_text_template(p, json_member_value(key), roots);
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
        !parser_member_template(p, node, "body", false, MAPPING_REPLY_ROOTS, &answer->body))
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
    return parser_member_template(p, node, "body", false, MAPPING_REPLY_ROOTS, &rule->answer.body);
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
        return parser_prefix_err(p);
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
    return reader_keys(&p->r, node, keys) && parser_topic(p, node, &topic) &&
           intern_topic(p, topic, &rule->topic) && parse_rule_type(p, node, rule) &&
           versions_parse(&p->r, node, &rule->versions) && parse_rule_schema(p, node, rule) &&
           parser_when(p, node, MAPPING_REPLY_ROOTS, &rule->when) &&
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
        !parser_member_template(p, node, "body", false, MAPPING_REQUEST_ROOTS, &answer->body))
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
bool parser_outcome(struct parser *p, const struct json_node *root)
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
    match->request_fields[index] = parser_text_template(p, first, MAPPING_REQUEST_ROOTS);
    if (!match->request_fields[index])
        return false;
    reader_leave(&p->r, mark);
    mark = reader_enter_index(&p->r, 1);
    match->reply_fields[index] = parser_text_template(p, json_next(p->r.doc, first), MAPPING_REPLY);
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
    if (!reader_keys(&p->r, node, keys) || !parser_topic(p, node, &topic) ||
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

bool parser_field_matches(struct parser *p, const struct json_node *root)
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
