/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "syncgate/route.h"

static char test_dir[512], test_openapi[560];

/* The route that the tables below change one piece of. */
static const char base_route[] =
    "{\"operationId\":\"createThing\",\"description\":\"d\",\"method\":\"POST\",\"path\":\"/api/things\","
    "\"pathMode\":\"express\",\"auth\":{\"required\":true,\"roles\":[\"admin\"]},"
    "\"request\":{\"schema\":\"#/components/schemas/"
    "Strict\",\"required\":true},\"timeoutMs\":5000,\"maxInFlight\":7,"
    "\"command\":{\"topic\":\"t.in\",\"key\":\"${body.name}\",\"eventType\":\"create\",\"envelope\":"
    "\"envelopes/plain.json\","
    "\"payload\":{\"n\":\"${body.name}\"},\"schema\":\"schemas/commands.json#/$defs/create\","
    "\"when\":[{\"value\":\"${body.name}\",\"exists\":true}]},"
    "\"replies\":[{\"topic\":\"t.out\",\"eventType\":\"created\",\"when\":[{\"value\":\"${reply.ok}\",\"is\":"
    "true}],"
    "\"status\":201,\"headers\":{\"Location\":\"/api/things/"
    "${reply.id}\"},\"body\":{\"id\":\"${reply.id}\"}},"
    "{\"topic\":\"t.ev\",\"status\":204}],"
    "\"finishByFields\":[{\"topic\":\"t.ev\",\"eventType\":\"x\",\"fields\":[[\"${body.name}\",\"${reply."
    "name}\"]]}]}";

static char *replace(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    if (!at)
        fail_msg("the base route has no %s", from);
    char *result = NULL;
    assert_true(asprintf(&result, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
    return result;
}

static struct route_table *parse_one(const char *text, struct err *err)
{
    const struct route_source source = {"r.json", span_of(text)};
    return route_table_parse(&source, 1, test_dir, test_openapi, err);
}

static void test_base_route(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table = parse_one(base_route, &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route *route = &table->routes[0];
    assert_int_equal(table->count, 1);
    assert_string_equal(route->operation_id.ptr, "createThing");
    assert_true(route->auth_required && route->body_required && !route->case_sensitive);
    assert_int_equal(route->role_count, 1);
    assert_string_equal(route->roles[0].ptr, "admin");
    assert_int_equal(route->timeout_ms, 5000);
    assert_int_equal(route->max_in_flight, 7);
    assert_non_null(route->body_schema);
    assert_non_null(route->command.schema);
    assert_non_null(route->command.key);
    assert_non_null(route->command.when);
    assert_int_equal(table->reply_topic_count, 2);
    assert_int_equal(route->reply_topic_count, 2);
    assert_string_equal(table->reply_topics[route->rules[1].topic].ptr, "t.ev");
    assert_null(route->rules[1].event_type.ptr);
    assert_null(route->rules[1].when);
    assert_null(route->rules[1].answer.body);
    assert_int_equal(route->rules[0].answer.header_count, 1);
    assert_int_equal(route->field_match_count, 1);
    assert_int_equal(route->field_matches[0].field_count, 1);
    route_table_freep(&table);
    assert_null(table);
    route_table_freep(&table);
}

static void test_defaults(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table = parse_one(
        "{\"operationId\":\"getThing\",\"method\":\"GET\",\"path\":\"/api/things/{thingId}\","
        "\"command\":{\"topic\":\"t\",\"eventType\":\"e\",\"payload\":{\"id\":\"${path.thingId}\"}},"
        "\"replies\":[{\"topic\":\"o\",\"status\":200}]}",
        &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route *route = &table->routes[0];
    assert_true(route->auth_required);
    assert_false(route->body_required);
    assert_null(route->body_schema);
    assert_null(route->command.key);
    assert_null(route->command.schema);
    assert_null(route->command.when);
    assert_int_equal(route->timeout_ms, 30000);
    assert_int_equal(route->field_match_count, 0);
    /* Without an envelope the message is the payload. */
    struct buf scratch = BUF_INIT, out = BUF_INIT;
    const struct mapping_scope scope = {.payload = SPAN_LIT("{\"id\":\"1\"}")};
    assert_int_equal(mapping_render(route->command.envelope, &scope, &scratch, &out), ERR_OK);
    assert_true(span_eq(buf_span(&out), scope.payload));
    buf_fini(&scratch);
    buf_fini(&out);
    route_table_freep(&table);
}

static void test_load_errors(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"{\"operationId\"", "{\"operationId", "r.json:1:16: malformed JSON"},
        {base_route, "[]", "r.json: $: expected an object"},
        {"\"description\":\"d\"", "\"descripton\":\"d\"",
         "r.json: $: unknown key \"descripton\"; expected one of operationId"},
        {"\"description\":\"d\"", "\"method\":\"POST\"", "r.json: $: the key \"method\" stands twice"},
        {"\"description\":\"d\"", "\"description\":\"\"",
         "r.json: $.description: expected a non-empty string"},
        {"\"operationId\":\"createThing\",", "", "r.json: $: the key \"operationId\" is missing"},
        {"\"operationId\":\"createThing\"", "\"operationId\":7",
         "r.json: $.operationId: expected a non-empty string"},
        {"createThing", "create\\u0000", "r.json: $.operationId: expected no \\u0000"},
        {"createThing", "makeThing", "r.json: $.operationId: "},
        {"createThing", "makeThing", "openapi.json has no operation \"makeThing\""},
        {"\"POST\"", "\"PUT\"", "r.json: $.method: expected \"POST\", as "},
        {"\"POST\"", "\"post\"", "r.json: $.method: expected \"POST\", as "},
        {"/api/things\"", "/api/thing\"", "r.json: $.path: expected \"/api/things\", as "},
        {"createThing\"", "badRelative\"", "r.json: $.method"},
        {"\"express\"", "\"Express\"", "r.json: $.pathMode: expected \"express\" or \"exact\""},
        {"\"/api/things\"", "\"relative\"", "r.json: $.path: expected a path that begins with '/'"},
        {"\"/api/things\"", "\"/a//b\"", "r.json: $.path: a segment is empty"},
        {"\"/api/things\"", "\"/a/\"",
         "r.json: $.path: no slash at the end: express mode allows for one by itself"},
        {"\"/api/things\"", "\"/a/x{b}\"",
         "r.json: $.path: expected a parameter {name} to fill its whole segment, not \"x{b}\""},
        {"\"/api/things\"", "\"/a/{b}x\"", "expected a parameter {name} to fill its whole segment"},
        {"\"/api/things\"", "\"/a/{b c}\"", "expected a parameter {name} to fill its whole segment"},
        {"\"/api/things\"", "\"/a/{}\"", "expected a parameter {name} to fill its whole segment"},
        {"\"/api/things\"", "\"/a/{b}/{b}\"", "r.json: $.path: the parameter {b} stands twice"},
        {"\"/api/things\"", "\"/a?b\"", "r.json: $.path: expected a path without query or fragment"},
        {"\"/api/things\"", "\"/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}\"",
         "r.json: $.path: at most 8 parameters"},
        {"\"/api/things\"", "\"/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3\"",
         "r.json: $.path: at most 32 segments"},
        {"\"required\":true,\"roles\"", "\"required\":1,\"roles\"",
         "r.json: $.auth.required: expected true or false"},
        {"\"required\":true,\"roles\"", "\"required\":false,\"roles\"",
         "r.json: $.auth.roles: roles need \"required\": true"},
        {"[\"admin\"]", "\"admin\"", "r.json: $.auth.roles: expected a list of role names"},
        {"[\"admin\"]", "[\"a\",1]", "r.json: $.auth.roles[1]: expected a non-empty string"},
        {"\"roles\"", "\"role\"",
         "r.json: $.auth: unknown key \"role\"; expected one of required, roles, claims"},
        {"#/components/schemas/Strict", "Strict",
         "r.json: $.request.schema: expected a reference into the OpenAPI document"},
        {"#/components/schemas/Strict", "#/components/schemas/None", "r.json: $.request.schema: "},
        {"#/components/schemas/Strict", "#/components/schemas/Broken", "r.json: $.request.schema: "},
        {"\"schema\":\"#/components/schemas/Strict\",", "",
         "r.json: $.request: the key \"schema\" is missing"},
        {"\"timeoutMs\":5000", "\"timeoutMs\":99",
         "r.json: $.timeoutMs: expected a whole number from 100 to 600000"},
        {"\"timeoutMs\":5000", "\"timeoutMs\":600001", "r.json: $.timeoutMs: expected a whole number"},
        {"\"timeoutMs\":5000", "\"timeoutMs\":5e3", "r.json: $.timeoutMs: expected a whole number"},
        {"\"timeoutMs\":5000", "\"timeoutMs\":\"5s\"", "r.json: $.timeoutMs: expected a whole number"},
        {"\"maxInFlight\":7", "\"maxInFlight\":-1", "r.json: $.maxInFlight: expected a whole number from 0"},
        {"\"command\"", "\"comand\"", "r.json: $: unknown key \"comand\""},
        {"\"topic\":\"t.in\"", "\"topic\":\"t in\"", "r.json: $.command.topic: expected a Kafka topic name"},
        {"\"topic\":\"t.in\"", "\"topic\":\"..\"", "r.json: $.command.topic: expected a Kafka topic name"},
        {"\"topic\":\"t.in\",", "", "r.json: $.command: the key \"topic\" is missing"},
        {"\"eventType\":\"create\",", "", "r.json: $.command: the key \"eventType\" is missing"},
        {"\"payload\":{\"n\":\"${body.name}\"},", "", "r.json: $.command: the key \"payload\" is missing"},
        {"\"key\":\"${body.name}\"", "\"key\":{}", "r.json: $.command.key: expected a string"},
        {"\"key\":\"${body.name}\"", "\"key\":\"${reply.id}\"",
         "r.json: $.command.key: in \"${reply.id}\": there is no root here"},
        {"{\"n\":\"${body.name}\"}", "{\"n\":\"${payload}\"}",
         "r.json: $.command.payload.n: in \"${payload}\": there is no root"},
        {"{\"n\":\"${body.name}\"}", "{\"n\":\"${path.id}\"}",
         "r.json: $.command.payload.n: in \"${path.id}\": the path /api/things has no parameter {id}"},
        {"{\"n\":\"${body.name}\"}", "{\"n\":\"${body.nam}\"}",
         "r.json: $.command.payload.n: in \"${body.nam}\": no request that satisfies "
         "#/components/schemas/Strict has this member"},
        {"{\"n\":\"${body.name}\"}", "{\"n\":[\"${body.name.x}\"]}",
         "r.json: $.command.payload.n[0]: in \"${body.name.x}\": no request"},
        {"\"value\":\"${body.name}\"", "\"value\":\"${body.nam}\"",
         "r.json: $.command.when[0].value: in \"${body.nam}\": no request"},
        {"\"value\":\"${body.name}\"", "\"value\":\"name\"",
         "r.json: $.command.when[0].value: expected exactly one expression"},
        {"envelopes/plain.json", "envelopes/none.json", "r.json: $.command.envelope: "},
        {"envelopes/plain.json", "envelopes/none.json", "envelopes/none.json: No such file or directory"},
        {"envelopes/plain.json", "envelopes/broken.json",
         "envelopes/broken.json: $.type: in \"${evenType}\": unknown root"},
        {"envelopes/plain.json", "envelopes/malformed.json", "envelopes/malformed.json:2:"},
        {"envelopes/plain.json", "envelopes/path.json", "r.json: $.command.envelope: "},
        {"envelopes/plain.json", "envelopes/path.json", "the path /api/things has no parameter {thingId}"},
        {"commands.json#/$defs/create", "commands.json#/$defs/none", "r.json: $.command.schema: "},
        {"schemas/commands.json#", "schemas/none.json#", "r.json: $.command.schema: "},
        {"\"replies\":[{", "\"replies\":{}, \"x\":[{", "r.json: $: unknown key \"x\""},
        {"{\"topic\":\"t.ev\",\"status\":204}", "7", "r.json: $.replies[1]: expected an object"},
        {"\"replies\":[", "\"accepted\":{},\"replies\":[",
         "r.json: $.accepted: a route has either \"replies\" or \"accepted\""},
        {"\"status\":204", "\"status\":199",
         "r.json: $.replies[1].status: expected a whole number from 200 to 599"},
        {",\"status\":204", "", "r.json: $.replies[1]: the key \"status\" is missing"},
        {"\"status\":204", "\"status\":204,\"body\":{}",
         "r.json: $.replies[1]: an answer with status 204 has no body"},
        {"\"status\":204", "\"status\":200,\"bdy\":{}", "r.json: $.replies[1]: unknown key \"bdy\""},
        {"\"status\":204", "\"status\":204,\"terminal\":0",
         "r.json: $.replies[1].terminal: expected true or false"},
        {"\"status\":204", "\"status\":200,\"terminal\":false,\"body\":{}",
         "r.json: $.replies[1]: a reply that is not terminal has no \"status\""},
        {"\"status\":204", "\"headers\":{},\"terminal\":false,\"body\":{}",
         "r.json: $.replies[1]: a reply that is not terminal has no \"headers\""},
        {"\"status\":204", "\"terminal\":false", "r.json: $.replies[1]: the key \"body\" is missing"},
        {"\"status\":204", "\"terminal\":false,\"body\":\"${replay}\"",
         "r.json: $.replies[1].body: in \"${replay}\""},
        {"{\"topic\":\"t.ev\",\"status\":204}",
         "{\"topic\":\"t.ev\",\"status\":204},{\"topic\":\"t.ev\",\"eventType\":\"y\",\"status\":200}",
         "r.json: $.replies[2]: never used: rule 1 always answers this topic and eventType"},
        {"{\"topic\":\"t.ev\",\"status\":204}", "{\"topic\":\"t.ev\",\"eventType\":null,\"status\":204}",
         "r.json: $.finishByFields[0]: no reply rule answers this topic and eventType"},
        {"{\"topic\":\"t.ev\",\"status\":204}",
         "{\"topic\":\"t.ev\",\"eventType\":null,\"status\":204},"
         "{\"topic\":\"t.ev\",\"eventType\":null,\"status\":200}",
         "r.json: $.replies[2]: never used: rule 1 always answers this topic and eventType"},
        {"\"maxInFlight\":7", "\"versions\":\"v1\"", "r.json: $.versions: expected a list of versions"},
        {"\"maxInFlight\":7", "\"versions\":[]", "r.json: $.versions: expected a list of versions"},
        {"\"maxInFlight\":7", "\"versions\":null", "r.json: $.versions: expected a list of versions"},
        {"\"maxInFlight\":7", "\"versions\":[\"v1\",2]",
         "r.json: $.versions[1]: expected a non-empty string"},
        {"\"maxInFlight\":7", "\"versions\":[\"\"]", "r.json: $.versions[0]: expected a"},
        {"\"maxInFlight\":7", "\"versions\":[\"v1\",\"*\"]", "r.json: $.versions: \"*\" is any version"},
        {"\"status\":204", "\"status\":204,\"versions\":{}",
         "r.json: $.replies[1].versions: expected a list"},
        {"\"status\":204", "\"status\":204,\"schema\":1", "r.json: $.replies[1].schema: expected a"},
        {"\"status\":204", "\"status\":204,\"schema\":\"schemas/none.json#\"",
         "r.json: $.replies[1].schema: "},
        {"\"status\":204", "\"status\":204,\"schema\":\"schemas/commands.json#/$defs/none\"",
         "r.json: $.replies[1].schema: "},
        {"{\"topic\":\"t.ev\",\"status\":204}",
         "{\"topic\":\"t.ev\",\"status\":204},{\"topic\":\"t.ev\",\"versions\":[\"v2\"],\"status\":200}",
         "r.json: $.replies[2]: never used"},
        {"{\"topic\":\"t.ev\",\"status\":204}",
         "{\"topic\":\"t.ev\",\"versions\":[\"v1\",\"v2\"],\"status\":204},{\"topic\":\"t.ev\",\"versions\":["
         "\"v2\"],"
         "\"status\":200}",
         "r.json: $.replies[2]: never used"},
        {"\"body\":{\"id\":\"${reply.id}\"}", "\"body\":{\"id\":\"${replay.id}\"}",
         "r.json: $.replies[0].body.id: in \"${replay.id}\""},
        {"\"body\":{\"id\":\"${reply.id}\"}", "\"body\":{\"id\":\"${body.id}\"}",
         "r.json: $.replies[0].body.id: in \"${body.id}\": no request"},
        {"\"Location\"", "\"Loc ation\"", "r.json: $.replies[0].headers: \"Loc ation\" is not a header name"},
        {"\"Location\"", "\"content-Length\"",
         "r.json: $.replies[0].headers: the gateway sets \"content-Length\" itself"},
        {"\"Location\":\"/api", "\"location\":\"x\",\"Location\":\"/api",
         "r.json: $.replies[0].headers: the header \"Location\" stands twice"},
        {"\"/api/things/${reply.id}\"", "5", "r.json: $.replies[0].headers.Location: expected a string"},
        {"\"finishByFields\":[", "\"finishByFields\":1,\"x\":[", "r.json: $: unknown key \"x\""},
        {"[{\"topic\":\"t.ev\",\"eventType\":\"x\",\"fields\":[[\"${body.name}\",\"${reply.name}\"]]}]", "{}",
         "r.json: $.finishByFields: expected null or a list"},
        {"\"topic\":\"t.ev\",\"eventType\":\"x\"", "\"topic\":\"t.new\",\"eventType\":\"x\"",
         "r.json: $.finishByFields[0]: no reply rule answers this topic and eventType"},
        {"[[\"${body.name}\",\"${reply.name}\"]]", "[]",
         "r.json: $.finishByFields[0].fields: expected a list of pairs"},
        {"[[\"${body.name}\",\"${reply.name}\"]]", "[[\"${body.name}\"]]",
         "r.json: $.finishByFields[0].fields[0]: expected a pair"},
        {"[[\"${body.name}\",\"${reply.name}\"]]", "[[\"${reply.name}\",\"${reply.name}\"]]",
         "r.json: $.finishByFields[0].fields[0][0]: in \"${reply.name}\": there is no root here"},
        {"[[\"${body.name}\",\"${reply.name}\"]]", "[[\"${body.name}\",\"${body.name}\"]]",
         "r.json: $.finishByFields[0].fields[0][1]: in \"${body.name}\": there is no root here"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        char *text =
            cases[i][0] == base_route ? strdup(cases[i][1]) : replace(base_route, cases[i][0], cases[i][1]);
        struct route_table *table = parse_one(text, &err);
        if (table || !strstr(err.text, cases[i][2]) || strncmp(err.text, "r.json:", 7) != 0)
            fail_msg("%s -> %s:\n got      %s\n expected %s", cases[i][0], cases[i][1],
                     table ? "a table" : err.text, cases[i][2]);
        assert_int_equal(err.code, ERR_CONFIG);
        assert_null(parse_one(text, NULL)); /* the message may be unwanted */
        free(text);
    }
}

static void test_progress(void **state)
{
    (void)state;
    struct err err = {0};
    char *text = replace(base_route, "{\"topic\":\"t.ev\",\"status\":204}",
                         "{\"topic\":\"t.ev\",\"terminal\":false,\"body\":{\"at\":\"${reply.at}\"}},"
                         "{\"topic\":\"t.x\",\"terminal\":true,\"status\":204}");
    struct route_table *table = parse_one(text, &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route *route = &table->routes[0];
    assert_true(route->has_progress);
    assert_int_equal(route->rule_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(route->rules[i].progress, i == 1);
    assert_non_null(route->rules[1].answer.body);
    route_table_freep(&table);
    free(text);
    table = parse_one(base_route, &err);
    assert_non_null(table);
    assert_false(table->routes[0].has_progress);
    route_table_freep(&table);
    /* A call that nothing can end. */
    table = parse_one("{\"operationId\":\"getThing\",\"method\":\"GET\",\"path\":\"/api/things/{thingId}\","
                      "\"command\":{\"topic\":\"t\",\"eventType\":\"e\",\"payload\":{}},"
                      "\"replies\":[{\"topic\":\"o\",\"terminal\":false,\"body\":{}}]}",
                      &err);
    assert_null(table);
    assert_ptr_equal(strstr(err.text, "r.json: $.replies: no rule is terminal"), err.text);
}

/* A route whose answer is `outcome`. */
static struct route_table *parse_outcome(const char *outcome, struct err *err)
{
    char *text = NULL;
    assert_true(asprintf(&text,
                         "{\"operationId\":\"createThing\",\"method\":\"POST\",\"path\":\"/api/things\","
                         "\"request\":{\"schema\":\"#/components/schemas/Strict\"},\"command\":{\"topic\":"
                         "\"t\",\"eventType\":\"created\",\"payload\":{\"n\":\"${body.name}\"}}%s}",
                         outcome) > 0);
    struct route_table *table = parse_one(text, err);
    free(text);
    return table;
}

static void test_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *outcome;
        int status;
        const char *body; /* NULL: none */
        size_t headers;
    } cases[] = {
        {",\"accepted\":{}", 202, "{\"correlationId\":\"id-1\"}", 0},
        {",\"accepted\":{},\"finishByFields\":null", 202, "{\"correlationId\":\"id-1\"}", 0},
        {",\"accepted\":{\"status\":200,\"body\":{\"is\":\"${body.name}\",\"at\":\"${now}\"}}", 200,
         "{\"at\":\"1970-01-01T00:00:00.000Z\"}", 0},
        {",\"accepted\":{\"body\":\"ok\",\"headers\":{\"X-Id\":\"${correlationId}\"}}", 202, "\"ok\"", 1},
        {",\"accepted\":{\"status\":204}", 204, NULL, 0},
        {",\"accepted\":{\"status\":205,\"headers\":{\"X-A\":\"1\",\"X-B\":\"2\"}}", 205, NULL, 2},
        {",\"accepted\":{\"status\":299}", 299, "{\"correlationId\":\"id-1\"}", 0},
    };
    const struct mapping_scope scope = {.correlation_id = SPAN_LIT("id-1")};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct buf scratch = BUF_INIT, out = BUF_INIT;
        struct route_table *table = parse_outcome(cases[i].outcome, &err);
        if (!table)
            fail_msg("%s: %s", cases[i].outcome, err.text);
        const struct route *route = &table->routes[0];
        assert_true(route->one_way);
        assert_int_equal(route->rule_count + route->reply_topic_count + table->reply_topic_count, 0);
        assert_int_equal(route->accepted.status, cases[i].status);
        assert_int_equal(route->accepted.header_count, cases[i].headers);
        assert_int_equal(!route->accepted.body, !cases[i].body);
        if (cases[i].body) {
            assert_int_equal(mapping_render(route->accepted.body, &scope, &scratch, &out), ERR_OK);
            assert_true(span_eq(buf_span(&out), span_of(cases[i].body)));
        }
        buf_fini(&scratch);
        buf_fini(&out);
        route_table_freep(&table);
    }
}

static void test_accepted_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "r.json: $: one of the keys \"replies\" and \"accepted\" is missing"},
        {",\"replies\":[],\"accepted\":{}",
         "r.json: $.accepted: a route has either \"replies\" or \"accepted\""},
        {",\"accepted\":[]", "r.json: $.accepted: expected an object"},
        {",\"accepted\":null", "r.json: $.accepted: expected an object"},
        {",\"accepted\":true", "r.json: $.accepted: expected an object"},
        {",\"accepted\":{\"topic\":\"t\"}",
         "r.json: $.accepted: unknown key \"topic\"; expected one of status, headers, body"},
        {",\"accepted\":{\"status\":199}",
         "r.json: $.accepted.status: expected a whole number from 200 to 299"},
        {",\"accepted\":{\"status\":300}",
         "r.json: $.accepted.status: expected a whole number from 200 to 299"},
        {",\"accepted\":{\"status\":204,\"body\":{}}",
         "r.json: $.accepted: an answer with status 204 has no body"},
        {",\"accepted\":{\"body\":{\"a\":\"${reply.id}\"}}",
         "r.json: $.accepted.body.a: in \"${reply.id}\": there is no root here called 'reply'"},
        {",\"accepted\":{\"body\":\"${payload}\"}",
         "r.json: $.accepted.body: in \"${payload}\": there is no root here called 'payload'"},
        {",\"accepted\":{\"body\":\"${body.none}\"}",
         "r.json: $.accepted.body: in \"${body.none}\": no request"},
        {",\"accepted\":{\"headers\":{\"X-A\":\"${reply.id}\"}}", "there is no root here called 'reply'"},
        {",\"accepted\":{\"headers\":{\"Upgrade\":\"x\"}}",
         "r.json: $.accepted.headers: the gateway sets \"Upgrade\" itself"},
        {",\"accepted\":{},\"versions\":[\"v1\"]",
         "r.json: $.versions: no reply comes to a route with \"accepted\""},
        {",\"accepted\":{},\"finishByFields\":[]",
         "r.json: $.finishByFields: no reply comes to a route with \"accepted\""},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct route_table *table = parse_outcome(cases[i][0], &err);
        if (table || !strstr(err.text, cases[i][1]))
            fail_msg("%s:\n got      %s\n expected %s", cases[i][0], table ? "a table" : err.text,
                     cases[i][1]);
    }
}

static void test_body_references(void **state)
{
    (void)state;
    static const struct {
        const char *reference;
        bool possible;
    } cases[] = {
        {"body", true},
        {"body.name", true},
        {"body.none", false},
        {"body.size.w", true},
        {"body.size.h", false},
        {"body.tags.0", true},
        {"body.tags.0.label", true},
        {"body.tags.0.x", false},
        {"body.tags.label", false},
        {"body.name.0", false},
        {"body.choice.label", true},
        {"body.choice.x", true},
        {"body.choice.zzz", true},
        {"body.one.label", true},
        {"body.one.x", false},
        {"body.both.label", true},
        {"body.both.x", false},
        {"body.any.thing.0", true},
        {"body.tags.0.parent.parent.parent.label", true},
        {"body.tags.0.parent.parent.parent.x", false},
        {"body[\\\"none\\\"]", false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char payload[128];
        struct err err = {0};
        snprintf(payload, sizeof(payload), "{\"n\":\"${%s}\"}", cases[i].reference);
        char *text = replace(base_route, "{\"n\":\"${body.name}\"}", payload);
        struct route_table *table = parse_one(text, &err);
        if (!table == cases[i].possible)
            fail_msg("%s: expected %d, %s", cases[i].reference, cases[i].possible, err.text);
        route_table_freep(&table);
        free(text);
    }
}

/* ---- matching ---- */

static const struct {
    const char *operation, *method, *path, *mode;
} match_routes[] = {
    {"listThings", "GET", "/api/things", "express"},
    {"createThing", "POST", "/api/things", "express"},
    {"getMyThings", "GET", "/api/things/my", "express"},
    {"getThing", "GET", "/api/things/{thingId}", "express"},
    {"deleteThing", "DELETE", "/api/things/{thingId}", "express"},
    {"getPart", "GET", "/api/things/{thingId}/parts/{partId}", "express"},
    {"getAllParts", "GET", "/api/things/my/parts/all", "express"},
    {"exactOne", "GET", "/Exact/{id}", "exact"},
    {"exactTwo", "GET", "/exact/{id}", "exact"},
    {"exactSlash", "GET", "/exact/slash/", "exact"},
    {"root", "GET", "/", "express"},
    {"eightParams", "GET", "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}", "express"},
};

static struct route_table *parse_match_routes(void)
{
    struct route_source sources[SG_ARRAY_LEN(match_routes)];
    struct err err = {0};
    for (size_t i = 0; i < SG_ARRAY_LEN(match_routes); i++) {
        char *text = NULL;
        assert_true(
            asprintf(
                &text,
                "{\"operationId\":\"%s\",\"method\":\"%s\",\"path\":\"%s\",\"pathMode\":\"%s\",\"command\":{"
                "\"topic\":\"t\",\"eventType\":\"e\",\"payload\":{}},\"replies\":[{\"topic\":\"o\","
                "\"status\":200}]}",
                match_routes[i].operation, match_routes[i].method, match_routes[i].path,
                match_routes[i].mode) > 0);
        sources[i] = (struct route_source){match_routes[i].operation, span_of(text)};
    }
    struct route_table *table =
        route_table_parse(sources, SG_ARRAY_LEN(match_routes), test_dir, test_openapi, &err);
    for (size_t i = 0; i < SG_ARRAY_LEN(match_routes); i++)
        free((char *)sources[i].text.ptr);
    if (!table)
        fail_msg("%s", err.text);
    return table;
}

/* "operation name=value name=value", "operation !raw" for a bad parameter, "-" for no route. */
static void describe(const struct route_match *match, char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "%s", match->route ? match->route->operation_id.ptr : "-");
    if (match->bad_param.ptr)
        len += (size_t)snprintf(out + len, size - len, " !%.*s", (int)match->bad_param.len,
                                match->bad_param.ptr);
    for (size_t i = 0; match->route && !match->bad_param.ptr && i < match->param_count; i++)
        len += (size_t)snprintf(out + len, size - len, " %.*s=%.*s", (int)match->params[i].name.len,
                                match->params[i].name.ptr, (int)match->params[i].value.len,
                                match->params[i].value.ptr);
}

static void test_matching(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"GET", "/api/things", "listThings"},
        {"POST", "/api/things", "createThing"},
        {"HEAD", "/api/things", "-"},
        {"get", "/api/things", "-"},
        {"GET", "/API/Things", "listThings"},
        {"GET", "/api/things/", "listThings"},
        {"GET", "/api/things//", "-"},
        {"GET", "//api/things", "-"},
        {"GET", "/api//things", "-"},
        {"GET", "/api/things?x=/api/things/1", "listThings"},
        {"GET", "/api/things/?x", "listThings"},
        {"GET", "/api/thing", "-"},
        {"GET", "/api/thingss", "-"},
        {"GET", "/api", "-"},
        {"GET", "/", "root"},
        {"GET", "/?q", "root"},
        {"GET", "//", "-"},
        {"GET", "", "-"},
        {"GET", "*", "-"},
        {"GET", "api/things", "-"},
        {"GET", "http://h/api/things", "listThings"},
        {"GET", "https://user@h:1/API/things/x%20y?z", "getThing thingId=x y"},
        {"GET", "http://h", "root"},
        {"GET", "http://h?x=/api/things", "root"},
        {"GET", "http:/h/api/things", "-"},
        {"GET", "?http://h/api/things", "-"},
        {"GET", "x?://h/api/things", "-"},
        {"GET", "/api/things/my", "getMyThings"},
        {"GET", "/api/things/MY", "getMyThings"},
        {"GET", "/api/things/m%79", "getThing thingId=my"},
        {"DELETE", "/api/things/my", "deleteThing thingId=my"},
        {"GET", "/api/things/Mine", "getThing thingId=Mine"},
        {"GET", "/api/things/my/parts/1", "getPart thingId=my partId=1"},
        {"GET", "/api/things/my/parts/all", "getAllParts"},
        {"GET", "/api/things/7/parts/all", "getPart thingId=7 partId=all"},
        {"GET", "/api/things//parts/1", "-"},
        {"GET", "/api/things/1/parts/", "-"},
        {"GET", "/api/things/a%2Fb/parts/%D1%8F+%25", "getPart thingId=a/b partId=\xd1\x8f+%"},
        {"GET", "/api/things/%ZZ", "getThing !%ZZ"},
        {"GET", "/api/things/a%", "getThing !a%"},
        {"GET", "/api/things/a%4", "getThing !a%4"},
        {"GET", "/api/things/%ff", "getThing !%ff"},
        {"GET", "/api/things/%c0%80", "getThing !%c0%80"},
        {"GET", "/api/things/%d1x%8f", "getThing !%d1x%8f"},
        {"GET", "/api/things/%d1\x8f", "getThing !%d1\x8f"},
        {"GET", "/api/things/%ed%a0%80", "getThing !%ed%a0%80"},
        {"GET", "/api/things/%e0%9f%80", "getThing !%e0%9f%80"},
        {"GET", "/api/things/%f4%90%80%80", "getThing !%f4%90%80%80"},
        {"GET", "/api/things/%f0%9f%98%80", "getThing thingId=\xf0\x9f\x98\x80"},
        {"GET", "/api/things/%C3%A9%c3%a9", "getThing thingId=\xc3\xa9\xc3\xa9"},
        {"GET", "/api/things/\xff", "getThing thingId=\xff"},
        {"GET", "/api/things/ok/parts/%", "getPart !%"},
        {"GET", "/Exact/1", "exactOne id=1"},
        {"GET", "/exact/1", "exactTwo id=1"},
        {"GET", "/EXACT/1", "-"},
        {"GET", "/exact/1/", "-"},
        {"GET", "/exact/slash/", "exactSlash"},
        {"GET", "/exact/slash", "exactTwo id=slash"},
        {"GET", "/exact/", "-"},
        {"GET", "/1/2/3/4/5/6/7/8/", "eightParams a=1 b=2 c=3 d=4 e=5 f=6 g=7 h=8"},
        {"GET", "/api/things/3/4/5/6/7/8", "eightParams a=api b=things c=3 d=4 e=5 f=6 g=7 h=8"},
        {"GET", "/1/2/3/4/5/6/7/8/9", "-"},
        {"GET", "/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0", "-"},
    };
    struct route_table *table = parse_match_routes();
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct route_match match;
        char got[256];
        assert_int_equal(route_table_match(table, span_of(cases[i][0]), span_of(cases[i][1]), &match),
                         ERR_OK);
        describe(&match, got, sizeof(got));
        if (strcmp(got, cases[i][2]) != 0)
            fail_msg("%s %s: got %s, expected %s", cases[i][0], cases[i][1], got, cases[i][2]);
        route_match_fini(&match);
    }
    route_table_freep(&table);
}

static void test_duplicates(void **state)
{
    (void)state;
    static const char *const cases[][7] = {
        {"createThing", "POST", "/api/things", "createThing", "POST", "/api/things",
         "b.json: $.operationId: \"createThing\" is already the route of a.json"},
        {"createThing", "POST", "/api/things", "createThingLoud", "POST", "/API/Things",
         "b.json: $.path: POST /API/Things is already the route of a.json (/api/things)"},
        {"getThing", "GET", "/api/things/{thingId}", "getThingById", "GET", "/api/things/{id}",
         "b.json: $.path: GET /api/things/{id} is already the route of a.json (/api/things/{thingId})"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct route_source sources[2];
        struct err err = {0};
        for (size_t j = 0; j < 2; j++) {
            char *text = NULL;
            assert_true(
                asprintf(
                    &text,
                    "{\"operationId\":\"%s\",\"method\":\"%s\",\"path\":\"%s\",\"command\":{\"topic\":\"t\","
                    "\"eventType\":\"e\",\"payload\":{}},\"replies\":[{\"topic\":\"o\",\"status\":200}]}",
                    cases[i][j * 3], cases[i][j * 3 + 1], cases[i][j * 3 + 2]) > 0);
            sources[j] = (struct route_source){j ? "b.json" : "a.json", span_of(text)};
        }
        assert_null(route_table_parse(sources, 2, test_dir, test_openapi, &err));
        assert_string_equal(err.text, cases[i][6]);
        free((char *)sources[0].text.ptr);
        free((char *)sources[1].text.ptr);
    }
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[700];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_directory(void **state)
{
    (void)state;
    char dir[] = "/tmp/syncgate-routes-XXXXXX", path[64], command[128];
    struct err err = {0};
    assert_non_null(mkdtemp(dir));
    struct route_table *table = route_table_load(dir, test_openapi, &err);
    assert_non_null(table); /* no routes: everything stays on the legacy path */
    assert_int_equal(table->count, 0);
    struct route_match match;
    assert_int_equal(route_table_match(table, SPAN_LIT("GET"), SPAN_LIT("/api/things"), &match), ERR_OK);
    assert_null(match.route);
    route_match_fini(&match);
    route_table_freep(&table);

    snprintf(path, sizeof(path), "%s/sub.json", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file(dir, ".hidden.json", "{");
    write_file(dir, "notes.txt", "{");
    write_file(dir, "b.json",
               "{\"operationId\":\"listThings\",\"method\":\"GET\",\"path\":\"/api/"
               "things\",\"command\":{\"topic\":\"t\","
               "\"eventType\":\"e\",\"payload\":{}},\"replies\":[{\"topic\":\"o\",\"status\":200}]}");
    write_file(dir, "B.json",
               "{\"operationId\":\"root\",\"method\":\"GET\",\"path\":\"/\",\"command\":{\"topic\":\"t\","
               "\"eventType\":\"e\",\"payload\":{}},\"replies\":[{\"topic\":\"p\",\"status\":200}]}");
    snprintf(path, sizeof(path), "%s//", dir);
    table = route_table_load(path, test_openapi, &err);
    if (!table)
        fail_msg("%s", err.text);
    assert_int_equal(table->count, 2);
    assert_string_equal(table->routes[0].operation_id.ptr, "root");
    assert_int_equal(table->routes[1].index, 1);
    assert_int_equal(table->reply_topic_count, 2);
    snprintf(path, sizeof(path), "%s/b.json", dir);
    assert_string_equal(table->routes[1].file, path);
    route_table_freep(&table);

    write_file(dir, "c.json", "{\n \"operationId\": }");
    assert_null(route_table_load(dir, test_openapi, &err));
    snprintf(command, sizeof(command), "%s/c.json:2:17: malformed JSON", dir);
    assert_non_null(strstr(err.text, command));
    const char *const names[] = {".hidden.json", "notes.txt", "b.json", "B.json", "c.json"};
    for (size_t i = 0; i < SG_ARRAY_LEN(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    snprintf(path, sizeof(path), "%s/sub.json", dir);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_null(route_table_load(dir, test_openapi, &err));
    assert_non_null(strstr(err.text, "No such file or directory"));
    assert_null(route_table_load(test_dir, "/nonexistent/openapi.json", &err));
    assert_string_equal(err.text, "/nonexistent/openapi.json: No such file or directory");
}

static struct span any_header(const void *arg, struct span name)
{
    (void)arg;
    return name;
}

/* ---- routes that are disabled ---- */

#define SIMPLE(operation, method, path, more, in, out)                                         \
    "{\"operationId\":\"" operation "\",\"method\":\"" method "\",\"path\":\"" path "\"," more \
    "\"command\":{\"topic\":\"" in "\",\"eventType\":\"e\",\"payload\":{}},"                   \
    "\"replies\":[{\"topic\":\"" out "\",\"status\":200}]}"
#define OFF "\"enabled\":false,\"disabledBecause\":\"its name gets lost\","

static void test_disabled_routes(void **state)
{
    (void)state;
    const struct route_source sources[] = {
        {"a.json", SPAN_LIT(SIMPLE("createThing", "POST", "/api/things", OFF, "t.a", "o.a"))},
        {"b.json", SPAN_LIT(SIMPLE("listThings", "GET", "/api/things", "", "t.b", "o.b"))},
        {"c.json", SPAN_LIT(SIMPLE("getThing", "GET", "/api/things/{thingId}", OFF, "t.c", "o.b"))},
    };
    struct err err = {0};
    struct route_table *table = route_table_parse(sources, 3, test_dir, test_openapi, &err);
    if (!table)
        fail_msg("%s", err.text);
    assert_int_equal(table->count, 1);
    assert_string_equal(table->routes[0].operation_id.ptr, "listThings");
    assert_int_equal(table->routes[0].index, 0);
    assert_null(table->routes[0].disabled_because.ptr);
    assert_int_equal(table->reply_topic_count, 1);
    assert_string_equal(table->reply_topics[0].ptr, "o.b");
    assert_int_equal(table->disabled_count, 2);
    assert_string_equal(table->disabled[0].operation_id.ptr, "createThing");
    assert_string_equal(table->disabled[0].disabled_because.ptr, "its name gets lost");
    assert_int_equal(table->disabled[1].index, 1);
    assert_int_equal(table->disabled_topic_count, 2);
    assert_string_equal(table->disabled_topics[table->disabled[1].rules[0].topic].ptr, "o.b");
    static const struct {
        const char *method, *target;
        bool found;
    } cases[] = {
        {"POST", "/api/things", false}, {"GET", "/api/things", true}, {"GET", "/api/things/1", false}};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct route_match match;
        assert_int_equal(route_table_match(table, span_of(cases[i].method), span_of(cases[i].target), &match),
                         ERR_OK);
        assert_int_equal(match.route != NULL, cases[i].found);
        route_match_fini(&match);
    }
    route_table_freep(&table);
}

static void test_enabled_with_a_reason(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table = parse_one(
        SIMPLE("createThing", "POST", "/api/things", "\"enabled\":true,\"disabledBecause\":\"x\",", "t", "o"),
        &err);
    assert_non_null(table);
    assert_int_equal(table->count, 1);
    assert_null(table->routes[0].disabled_because.ptr);
    assert_int_equal(table->disabled_count, 0);
    route_table_freep(&table);
}

/* What is wrong in a disabled route is as wrong as in any other. */
static void test_disabled_routes_are_checked(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"\"description\":\"d\"", "\"enabled\":false",
         "r.json: $: \"enabled\": false needs the key \"disabledBecause\""},
        {"\"description\":\"d\"", "\"disabledBecause\":\"x\"",
         "r.json: $: \"disabledBecause\" needs the key \"enabled\""},
        {"\"description\":\"d\"", "\"enabled\":\"no\",\"disabledBecause\":\"x\"",
         "r.json: $.enabled: expected true or false"},
        {"\"description\":\"d\"", "\"enabled\":false,\"disabledBecause\":\"\"",
         "r.json: $.disabledBecause: expected a non-empty string"},
        {"{\"operationId\":\"createThing\"", "{" OFF "\"operationId\":\"makeThing\"",
         "openapi.json has no operation \"makeThing\""},
        {"{\"operationId\":\"createThing\"", "{" OFF "\"operationId\":\"createThing\",\"x\":1",
         "r.json: $: unknown key \"x\""},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        char *text = replace(base_route, cases[i][0], cases[i][1]);
        assert_null(parse_one(text, &err));
        if (!strstr(err.text, cases[i][2]))
            fail_msg("got %s\nexpected %s", err.text, cases[i][2]);
        free(text);
    }
    const struct route_source sources[] = {
        {"a.json", SPAN_LIT(SIMPLE("createThing", "POST", "/api/things", OFF, "t", "o"))},
        {"b.json", SPAN_LIT(SIMPLE("createThingLoud", "POST", "/API/Things", "", "t", "o"))},
    };
    struct err err = {0};
    assert_null(route_table_parse(sources, 2, test_dir, test_openapi, &err));
    assert_non_null(strstr(err.text, "is already the route of"));
}

/* ---- topics with other names ---- */

static void test_topic_names(void **state)
{
    (void)state;
    char dir[] = "/tmp/syncgate-routes-XXXXXX", path[64];
    struct err err = {0};
    assert_non_null(mkdtemp(dir));
    write_file(dir, "a.json",
               "{\"operationId\":\"listThings\",\"method\":\"GET\",\"path\":\"/api/things\",\"command\":{"
               "\"topic\":\"in\",\"eventType\":\"e\",\"payload\":{}},\"replies\":[{\"topic\":\"out\","
               "\"status\":200}],\"finishByFields\":[{\"topic\":\"out\",\"fields\":[[\"${query.a}\","
               "\"${reply.a}\"]]}]}");
    write_file(dir, "b.json", SIMPLE("createThing", "POST", "/api/things", OFF, "off.in", "off.out"));
    /* Each once: what a name becomes is not renamed again. */
    const struct route_topic_name names[] = {
        {SPAN_LIT("in"), SPAN_LIT("out")},
        {SPAN_LIT("out"), SPAN_LIT("in")},
        {SPAN_LIT("off.out"), SPAN_LIT("other")},
    };
    struct route_table *table = route_table_load_renamed(dir, test_openapi, names, 3, &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route *route = &table->routes[0];
    assert_string_equal(route->command.topic.ptr, "out");
    assert_int_equal(table->reply_topic_count, 1);
    assert_string_equal(table->reply_topics[route->rules[0].topic].ptr, "in");
    assert_string_equal(table->reply_topics[route->field_matches[0].topic].ptr, "in");
    assert_string_equal(table->disabled[0].command.topic.ptr, "off.in");
    assert_string_equal(table->disabled_topics[0].ptr, "other");
    route_table_freep(&table);
    const struct route_topic_name unknown[] = {{SPAN_LIT("in"), SPAN_LIT("x")},
                                               {SPAN_LIT("In"), SPAN_LIT("x")}};
    assert_null(route_table_load_renamed(dir, test_openapi, unknown, 2, &err));
    assert_non_null(strstr(err.text, "SYNCGATE_TOPIC_NAMES: no route file of "));
    assert_non_null(strstr(err.text, "uses the topic \"In\""));
    const char *const files[] = {"a.json", "b.json"};
    for (size_t i = 0; i < SG_ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* Rules of one topic and eventType: the first that holds; any eventType when a rule names none. */
static void test_find_rule(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table = parse_one(base_route, &err);
    assert_non_null(table);
    const struct route *route = &table->routes[0];
    struct json_doc reply = JSON_DOC_INIT;
    struct buf scratch = BUF_INIT;
    struct mapping_scope scope = {.reply = &reply};
    bool expected;
    assert_int_equal(json_parse(&reply, SPAN_LIT("{\"ok\":true}"), 10), ERR_OK);
    assert_ptr_equal(route_find_rule(route, 0, SPAN_LIT("created"), &scope, &scratch, &expected),
                     &route->rules[0]);
    assert_true(expected);
    assert_null(route_find_rule(route, 0, SPAN_LIT("Created"), &scope, &scratch, &expected));
    assert_false(expected);
    assert_null(route_find_rule(route, 0, (struct span){0}, &scope, &scratch, &expected));
    assert_false(expected);
    assert_ptr_equal(route_find_rule(route, 1, SPAN_LIT("created"), &scope, &scratch, &expected),
                     &route->rules[1]);
    assert_ptr_equal(route_find_rule(route, 1, (struct span){0}, &scope, &scratch, &expected),
                     &route->rules[1]);
    assert_null(route_find_rule(route, 2, SPAN_LIT("created"), &scope, &scratch, &expected));
    assert_int_equal(json_parse(&reply, SPAN_LIT("{\"ok\":false}"), 10), ERR_OK);
    assert_null(route_find_rule(route, 0, SPAN_LIT("created"), &scope, &scratch, &expected));
    assert_true(expected);
    json_fini(&reply);
    buf_fini(&scratch);
    route_table_freep(&table);
}

/* "eventType": null is for replies without one, and alone for those without a body; what it does not know by its
 * conditions stays unexpected. Beside it stand rules of any type and of one. */
static void test_find_untyped_rule(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table = parse_one(
        "{\"operationId\":\"createThing\",\"method\":\"POST\",\"path\":\"/api/"
        "things\",\"command\":{\"topic\":\"c\","
        "\"eventType\":\"make\",\"payload\":{}},\"replies\":["
        "{\"topic\":\"t\",\"eventType\":\"made\",\"status\":200},"
        "{\"topic\":\"t\",\"eventType\":null,\"when\":[{\"value\":\"${replyHeaders.err}\",\"exists\":true}],"
        "\"status\":500},"
        "{\"topic\":\"any\",\"status\":200},{\"topic\":\"any\",\"eventType\":null,\"status\":202}]}",
        &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route *route = &table->routes[0];
    const struct route_reply_rule *rules = route->rules;
    struct json_doc reply = JSON_DOC_INIT;
    struct buf scratch = BUF_INIT;
    const struct span none = {0};
    assert_int_equal(json_parse(&reply, SPAN_LIT("{}"), 10), ERR_OK);
    const struct {
        uint32_t topic;
        struct span type;
        bool has_body, has_err;
        const struct route_reply_rule *rule; /* NULL: none, and the reply is not expected */
    } cases[] = {
        {0, SPAN_LIT("made"), true, true, &rules[0]},
        {0, none, true, true, &rules[1]},
        {0, none, false, true, &rules[1]},
        {0, none, true, false, NULL},
        {0, none, false, false, NULL},
        {0, SPAN_LIT("other"), true, true, NULL},
        {1, SPAN_LIT("other"), true, false, &rules[2]},
        {1, none, true, false, &rules[2]},
        {1, none, false, false, &rules[3]},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct mapping_scope scope = {.reply = cases[i].has_body ? &reply : NULL,
                                      .reply_header = cases[i].has_err ? any_header : NULL};
        bool expected;
        assert_ptr_equal(route_find_rule(route, cases[i].topic, cases[i].type, &scope, &scratch, &expected),
                         cases[i].rule);
        assert_int_equal(expected, cases[i].rule != NULL);
    }
    json_fini(&reply);
    buf_fini(&scratch);
    route_table_freep(&table);
}

/* Old and new side by side, by the version of the reply. */
static void test_versions(void **state)
{
    (void)state;
    static const char text[] =
        "{\"operationId\":\"createThing\",\"method\":\"POST\",\"path\":\"/api/"
        "things\",\"versions\":[\"v1\",\"1.0\"],"
        "\"command\":{\"topic\":\"t.in\",\"eventType\":\"create\",\"payload\":{}},\"replies\":["
        "{\"topic\":\"t.ev\",\"eventType\":\"a\",\"status\":200,\"when\":[{\"value\":\"${reply.ok}\",\"is\":"
        "true}]},"
        "{\"topic\":\"t.ev\",\"eventType\":\"a\",\"versions\":[\"2.0\",\"w\\u0031\"],\"status\":201},"
        "{\"topic\":\"t.ev\",\"eventType\":\"b\",\"status\":202,\"schema\":\"schemas/commands.json#/$defs/"
        "create\"},"
        "{\"topic\":\"t.ev\",\"eventType\":\"b\",\"versions\":[\"*\"],\"status\":203}]}";
    enum { UNKNOWN = -1, NO_RULE = -2, NOT_MEANT = -3 };
    static const struct {
        const char *type, *reply;
        int rule;
    } cases[] = {
        {"a", "{\"ok\":true}", 0},
        {"a", "{\"ok\":true,\"__version\":\"v1\"}", 0},
        {"a", "{\"ok\":true,\"__version\":\"\\u00761\"}", 0},
        {"a", "{\"ok\":true,\"__version\":\"1.0\"}", 0},
        {"a", "{\"ok\":false,\"__version\":\"1.0\"}", NO_RULE},
        {"a", "{\"ok\":false}", NO_RULE},
        {"a", "{\"ok\":true,\"__version\":\"2.0\"}", 1},
        {"a", "{\"__version\":\"2.0\"}", 1},
        {"a", "{\"__version\":\"w1\"}", 1},
        {"a", "{\"__version\":\"v1\",\"__version\":\"2.0\"}", 1}, /* of repeated members the last */
        {"a", "{\"ok\":true,\"__version\":\"3.0\"}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":\"V1\"}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":\"v1 \"}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":\"*\"}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":\"\"}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":null}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":1.0}", UNKNOWN},
        {"a", "{\"ok\":true,\"__version\":[\"v1\"]}", UNKNOWN},
        {"b", "{}", 2},
        {"b", "{\"__version\":\"1.0\"}", 2},
        {"b", "{\"__version\":\"9\"}", 3},
        {"b", "{\"__version\":null}", 3},
        {"c", "{\"__version\":\"v1\"}", NOT_MEANT},
        {"c", "{\"__version\":\"9\"}", NOT_MEANT},
        {"b", "[]", 2},
    };
    struct err err = {0};
    struct route_table *table = parse_one(text, &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route *route = &table->routes[0];
    struct json_doc reply = JSON_DOC_INIT;
    struct buf scratch = BUF_INIT;
    struct mapping_scope scope = {.reply = &reply};
    assert_non_null(route->rules[2].schema);
    assert_null(route->rules[3].schema);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        bool expected;
        assert_int_equal(json_parse(&reply, span_of(cases[i].reply), 100), ERR_OK);
        const struct route_reply_rule *rule =
            route_find_rule(route, 0, span_of(cases[i].type), &scope, &scratch, &expected);
        bool known = route_knows_reply(route, 0, span_of(cases[i].type));
        int got = rule ? (int)(rule - route->rules) : expected ? NO_RULE : known ? UNKNOWN : NOT_MEANT;
        if (got != cases[i].rule || expected != (got >= 0 || got == NO_RULE))
            fail_msg("%s %s: %d, expected %d", cases[i].type, cases[i].reply, got, cases[i].rule);
    }
    json_fini(&reply);
    buf_fini(&scratch);
    route_table_freep(&table);
}

/* ---- header profiles ---- */

/* A route whose profile is this text, in a folder of its own. */
static struct route_table *parse_with_headers(const char *profile, struct err *err)
{
    char dir[] = "/tmp/syncgate-headers-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/h.json", dir);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(profile, 1, strlen(profile), file), strlen(profile));
    assert_int_equal(fclose(file), 0);
    char *text = replace(base_route,
                         "\"envelope\":\"envelopes/plain.json\",\"payload\":{\"n\":\"${body.name}\"},"
                         "\"schema\":\"schemas/commands.json#/$defs/create\"",
                         "\"headers\":\"h.json\",\"payload\":{}");
    const struct route_source source = {"r.json", span_of(text)};
    struct route_table *table = route_table_parse(&source, 1, dir, test_openapi, err);
    free(text);
    unlink(path);
    rmdir(dir);
    return table;
}

static void expect_header(const struct route_headers *headers, size_t i, const struct mapping_scope *scope,
                          const char *name, const char *value)
{
    struct buf scratch = BUF_INIT, out = BUF_INIT;
    bool missing;
    assert_true(i < headers->command_count);
    assert_string_equal(headers->command[i].name.ptr, name);
    assert_int_equal(mapping_render_text(headers->command[i].value, scope, &scratch, &out, &missing), ERR_OK);
    assert_int_equal(missing, value == NULL);
    assert_true(!value || span_eq(buf_span(&out), span_of(value)));
    buf_fini(&scratch);
    buf_fini(&out);
}

static void test_headers(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table =
        parse_with_headers("{\"description\":\"d\",\"command\":{\"zilla:reply-to\":\"${replyTopic}\","
                           "\"\\u0061\":\"t=${eventType};${body.name}\","
                           "\"p\":{\"int32\":\"${replyPartition}\"},\"trace\":\"${traceparent}\"},\"reply\":["
                           "\"x\",\"y:\\u007a\"]}",
                           &err);
    if (!table)
        fail_msg("%s", err.text);
    const struct route_headers *headers = table->routes[0].command.headers;
    const struct mapping_scope scope = {
        .event_type = SPAN_LIT("create"), .reply_topic = SPAN_LIT("r"), .reply_partition = SPAN_LIT("3")};
    assert_int_equal(headers->command_count, 4);
    expect_header(headers, 0, &scope, "zilla:reply-to", "r");
    expect_header(headers, 1, &scope, "a", "t=create;");
    expect_header(headers, 2, &scope, "p", "3");
    expect_header(headers, 3, &scope, "trace", NULL);
    assert_true(headers->command[2].is_int32 && !headers->command[1].is_int32);
    assert_int_equal(headers->reply_count, 2);
    assert_string_equal(headers->reply[1].ptr, "y:z");
    route_table_freep(&table);
}

/* Routes without a profile share the built-in one, and the file is for those who want to change it. */
static void test_default_headers(void **state)
{
    (void)state;
    struct err err = {0};
    struct route_table *table = parse_one(base_route, &err);
    assert_non_null(table);
    const struct route_headers *headers = table->routes[0].command.headers;
    const struct mapping_scope scope = {.correlation_id = SPAN_LIT("id"), .deadline_ms = 5};
    assert_int_equal(headers->command_count, 9);
    expect_header(headers, 0, &scope, "content-type", "application/json");
    expect_header(headers, 1, &scope, "correlation-id", "id");
    expect_header(headers, 4, &scope, "deadline", "5");
    expect_header(headers, 5, &scope, "kafka_correlationId", "id");
    expect_header(headers, 6, &scope, "kafka_replyTopic", NULL);
    expect_header(headers, 7, &scope, "kafka_replyPartition", NULL);
    expect_header(headers, 8, &scope, "idempotency-key", NULL);
    route_table_freep(&table);
    char path[600];
    struct buf text = BUF_INIT;
    snprintf(path, sizeof(path), "%s/../../routes/headers/default.json", test_dir);
    assert_int_equal(base_read_file(path, 1 << 20, &text), 0);
    assert_true(span_eq(buf_span(&text), span_of(route_default_headers)));
    buf_fini(&text);
}

static void test_header_errors(void **state)
{
    (void)state;
#define PROFILE(command) "{\"command\":" command ",\"reply\":[\"a\"]}"
#define H4(n)            "\"" n "1\":\"\",\"" n "2\":\"\",\"" n "3\":\"\",\"" n "4\":\"\""
#define C64              "0123456789012345678901234567890123456789012345678901234567890123"
    static const char *const cases[][2] = {
        {"{", "h.json:1:2: malformed JSON"},
        {"[]", "h.json: $: expected an object"},
        {"{\"reply\":[\"a\"]}", "h.json: $: the key \"command\" is missing"},
        {"{\"command\":{}}", "h.json: $: the key \"reply\" is missing"},
        {"{\"command\":{},\"reply\":[\"a\"],\"x\":1}", "h.json: $: unknown key \"x\""},
        {"{\"command\":{},\"reply\":[]}", "h.json: $.reply: expected a list of header names"},
        {"{\"command\":{},\"reply\":\"a\"}", "h.json: $.reply: expected a list of header names"},
        {"{\"command\":{},\"reply\":[\"\"]}", "h.json: $.reply[0]: expected a non-empty string"},
        {"{\"command\":{},\"reply\":[\"a\",1]}", "h.json: $.reply[1]: expected a non-empty string"},
        {"{\"command\":{},\"reply\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]}",
         "h.json: $.reply: at most 8 headers"},
        {PROFILE("[]"), "h.json: $.command: expected an object"},
        {PROFILE("{\"a\":1}"), "h.json: $.command.a: expected a string or {\"int32\": string}"},
        {PROFILE("{\"a\":{}}"), "h.json: $.command.a: the key \"int32\" is missing"},
        {PROFILE("{\"a\":{\"int32\":7}}"), "h.json: $.command.a.int32: expected a string"},
        {PROFILE("{\"a\":{\"int64\":\"7\"}}"), "h.json: $.command.a: unknown key \"int64\""},
        {PROFILE("{\"a\":\"b\",\"a\":\"c\"}"), "h.json: $.command: the header \"a\" stands twice"},
        {PROFILE("{\"\":\"b\"}"), "h.json: $.command: expected a non-empty string"},
        {PROFILE("{\"a\\u0000\":\"b\"}"), "h.json: $.command: expected no \\u0000"},
        {PROFILE("{\"" C64 C64 C64 C64 "\":\"b\"}"), "h.json: $.command: at most 255 bytes"},
        {PROFILE("{" H4("a") "," H4("b") "," H4("c") "," H4("d") ",\"e\":\"\"}"),
         "h.json: $.command: at most 16 headers"},
        {PROFILE("{\"a\":\"${payload}\"}"), "h.json: $.command.a: in \"${payload}\": there is no root here"},
        {PROFILE("{\"a\":\"${reply.x}\"}"), "h.json: $.command.a: in \"${reply.x}\": there is no root here"},
        {PROFILE("{\"a\":\"${replyTopic.x}\"}"), "'replyTopic' has no members"},
        /* What depends on the route is told with the route. */
        {PROFILE("{\"a\":\"${path.id}\"}"), "r.json: $.command.headers: "},
        {PROFILE("{\"a\":\"${body.nam}\"}"), "no request that satisfies #/components/schemas/Strict"},
    };
#undef C64
#undef H4
#undef PROFILE
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct route_table *table = parse_with_headers(cases[i][0], &err);
        if (table)
            fail_msg("accepted: %s", cases[i][0]);
        if (!strstr(err.text, cases[i][1]) || !strstr(err.text, "r.json: $.command.headers: "))
            fail_msg("%s: expected \"%s\" in \"%s\"", cases[i][0], cases[i][1], err.text);
    }
    /* These roots are of no use elsewhere. */
    struct err err = {0};
    char *text = replace(base_route, "\"n\":\"${body.name}\"", "\"n\":\"${replyTopic}\"");
    assert_null(parse_one(text, &err));
    assert_non_null(strstr(err.text, "there is no root here called 'replyTopic'"));
    free(text);
}

int main(void)
{
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    snprintf(test_dir, sizeof(test_dir), "%s/tests/routes", root ? root : ".");
    snprintf(test_openapi, sizeof(test_openapi), "%s/openapi.json", test_dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_route),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_load_errors),
        cmocka_unit_test(test_body_references),
        cmocka_unit_test(test_matching),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_find_rule),
        cmocka_unit_test(test_disabled_routes),
        cmocka_unit_test(test_enabled_with_a_reason),
        cmocka_unit_test(test_disabled_routes_are_checked),
        cmocka_unit_test(test_topic_names),
        cmocka_unit_test(test_find_untyped_rule),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_accepted_errors),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_default_headers),
        cmocka_unit_test(test_header_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
