/* SPDX-License-Identifier: Apache-2.0 */
/* The route files under routes/: each command and each answer, byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "syncgate/route.h"

#define SUB       "5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5"
#define RESPONSES "device.commands.responses.v1"
#define EVENTS    "device.events.v1"
#define BIND      "device.response.bind"
#define UNBIND    "device.response.unbind"

static struct route_table *table;
static struct buf scratch;

static int load_routes(void **state)
{
    (void)state;
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    char dir[512], openapi[512];
    struct err err = {0};
    snprintf(dir, sizeof(dir), "%s/routes", root ? root : ".");
    snprintf(openapi, sizeof(openapi), "%s/openapi/openapi.json", root ? root : ".");
    table = route_table_load(dir, openapi, &err);
    if (!table)
        fprintf(stderr, "%s\n", err.text);
    return table ? 0 : -1;
}

static int free_routes(void **state)
{
    (void)state;
    buf_fini(&scratch);
    route_table_freep(&table);
    return 0;
}

static const struct route *match_route(const char *path)
{
    struct route_match match;
    assert_int_equal(route_table_match(table, SPAN_LIT("POST"), span_of(path), &match), ERR_OK);
    route_match_fini(&match);
    assert_non_null(match.route);
    return match.route;
}

static void parse(struct json_doc *doc, const char *text)
{
    assert_int_equal(json_parse(doc, span_of(text), 10000), ERR_OK);
}

/* ---- commands ---- */

struct command_case {
    const char *path, *body, *claims, *correlation_id;
    int64_t now_ms;
    const char *key, *message; /* message NULL: the call has no command */
};

/* The message of a call, or false if there is none by the route's conditions or by the Kafka contract. */
static bool render_command(const struct route *route, struct mapping_scope *scope, struct buf *key,
                           struct buf *message)
{
    struct buf payload = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    bool missing = true;
    if (route->command.when && !mapping_condition_holds(route->command.when, scope, &scratch))
        return false;
    assert_int_equal(mapping_render_text(route->command.key, scope, &scratch, key, &missing), ERR_OK);
    assert_int_equal(mapping_render(route->command.payload, scope, &scratch, &payload), ERR_OK);
    scope->payload = buf_span(&payload);
    scope->event_type = route->command.event_type;
    assert_int_equal(mapping_render(route->command.envelope, scope, &scratch, message), ERR_OK);
    assert_int_equal(json_parse(&doc, buf_span(message), 10000), ERR_OK);
    bool valid = schema_valid(route->command.schema, &doc, json_root(&doc));
    json_fini(&doc);
    buf_fini(&payload);
    return valid && !missing;
}

static void check_command(const struct command_case *c)
{
    const struct route *route = match_route(c->path);
    struct json_doc body = JSON_DOC_INIT, claims = JSON_DOC_INIT;
    struct buf key = BUF_INIT, message = BUF_INIT;
    parse(&body, c->body);
    parse(&claims, c->claims);
    struct mapping_scope scope = {.body = &body,
                                  .claims = &claims,
                                  .correlation_id = span_of(c->correlation_id),
                                  .operation_id = route->operation_id,
                                  .now_ms = c->now_ms,
                                  .timeout_ms = route->timeout_ms};
    bool is_command = render_command(route, &scope, &key, &message);
    if (is_command != (c->message != NULL))
        fail_msg("%s %s: expected %s", c->path, c->body, c->message ? "a command" : "none");
    if (c->message && !span_eq(buf_span(&message), span_of(c->message)))
        fail_msg("%s:\n got      %.*s\n expected %s", c->path, (int)message.len, message.ptr, c->message);
    if (c->message)
        assert_true(span_eq(buf_span(&key), span_of(c->key)));
    json_fini(&body);
    json_fini(&claims);
    buf_fini(&key);
    buf_fini(&message);
}

#define CLAIMS "{\"sub\":\"" SUB "\",\"exp\":1}"
#define COMMAND(type, id, time, payload)                                                                 \
    "{\"eventType\":\"" type "\",\"correlationId\":\"" id "\",\"timestamp\":\"" time                     \
    "\",\"source\":{\"type\":\"backend\",\"id\":\"rest-api-gateway\"},\"__version\":\"v1\",\"timeout\":" \
    "30000,"                                                                                             \
    "\"responseRequired\":true,\"payload\":" payload "}"

static void test_commands(void **state)
{
    (void)state;
    static const char id1[] = "2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52",
                      id2[] = "7f3e2a90-6c4b-4d18-b5a7-91e0c2d3f4a6";
    static const struct command_case cases[] = {
        {"/api/devices/bind-qr",
         "{\"qrData\":{\"deviceId\":\"GH-0042\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\",\"v\":1}}", CLAIMS, id1,
         1756714530120, "GH-0042",
         COMMAND("device.command.bind", "2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52", "2025-09-01T08:15:30.120Z",
                 "{\"deviceId\":\"GH-0042\",\"userId\":\"" SUB "\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}")},
        {"/API/Devices/Bind-QR/",
         "{\"qrData\":{\"deviceId\":\"G\\\"\\u0048\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}", CLAIMS, id1, 0,
         "G\"H",
         COMMAND("device.command.bind", "2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52", "1970-01-01T00:00:00.000Z",
                 "{\"deviceId\":\"G\\\"\\u0048\",\"userId\":\"" SUB
                 "\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}")},
        {"/api/devices/unbind", "{\"deviceId\":\"GH-0042\",\"reason\":\"moved to another greenhouse\"}",
         CLAIMS, id2, 1756792800000, "GH-0042",
         COMMAND("device.command.unbind", "7f3e2a90-6c4b-4d18-b5a7-91e0c2d3f4a6", "2025-09-02T06:00:00.000Z",
                 "{\"deviceId\":\"GH-0042\",\"requestedBy\":\"" SUB
                 "\",\"reason\":\"moved to another greenhouse\"}")},
        {"/api/devices/unbind", "{\"deviceId\":\"GH-0042\",\"other\":1}", CLAIMS, id2, 1756792800000,
         "GH-0042",
         COMMAND("device.command.unbind", "7f3e2a90-6c4b-4d18-b5a7-91e0c2d3f4a6", "2025-09-02T06:00:00.000Z",
                 "{\"deviceId\":\"GH-0042\",\"requestedBy\":\"" SUB "\"}")},
        /* no command: other QR variants, an empty device id, a subject that is no uuid or is missing */
        {"/api/devices/bind-qr", "{\"qrData\":{\"deviceId\":\"GH-0042\",\"fingerprint\":\"5A:0C:91\"}}",
         CLAIMS, id1, 1, NULL, NULL},
        {"/api/devices/bind-qr", "{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}",
         CLAIMS, id1, 1, NULL, NULL},
        {"/api/devices/bind-qr", "{\"qrData\":{\"deviceId\":\"a\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}",
         "{\"sub\":\"bob\"}", id1, 1, NULL, NULL},
        {"/api/devices/unbind", "{\"deviceId\":\"a\"}", "{}", id1, 1, NULL, NULL},
        {"/api/devices/unbind", "{\"deviceId\":\"a\"}", CLAIMS, "no-uuid", 1, NULL, NULL},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        check_command(&cases[i]);
}

/* ---- events of one-way routes ---- */

#define EVENT_ID "2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52"
#define MQTT     "/api/webhooks/mqtt/messages"
#define DEVICE   "/api/webhooks/mqtt/telemetry"
#define TOPIC    "users/" SUB "/devices/GH-0042/"
#define MQTT_EVENT(type, time, payload)                                                         \
    "{\"eventType\":\"" type "\",\"correlationId\":\"" EVENT_ID "\",\"timestamp\":\"" time      \
    "\",\"source\":{\"type\":\"device\",\"id\":\"GH-0042\"},\"__version\":\"v1\",\"payload\":{" \
    "\"deviceId\":\"GH-0042\"," payload "}}"
#define TELEMETRY(time, data)                                                             \
    MQTT_EVENT("device.telemetry.received", time,                                         \
               "\"receivedAt\":\"" time "\",\"telemetryType\":\"sensors\",\"data\":" data \
               ",\"metadata\":{\"protocol\":\"mqtt\",\"topic\":\"" TOPIC                  \
               "telemetry\",\"qos\":1,\"retain\":false}")
#define SENT(payload) "{\"topic\":\"" TOPIC "telemetry\",\"payload\":" payload ",\"timestamp\":1756714530455}"
#define AT            "2025-09-01T08:15:30.455Z"
#define NOW           "2025-09-01T08:15:30.120Z"

static void test_mqtt_events(void **state)
{
    (void)state;
    static const struct command_case cases[] = {
        {MQTT,
         "{\"event\":\"message.publish\",\"topic\":\"" TOPIC
         "status\",\"payload\":\"on\\u00e9\\n\",\"qos\":2,"
         "\"clientid\":\"c-1\",\"username\":\"u\",\"peerhost\":\"192.0.2.7\",\"peername\":\"192.0.2.7:4711\","
         "\"flags\":{\"retain\":true,\"dup\":false},\"retain\":false,\"publish_received_at\":1756714530455,"
         "\"timestamp\":1,\"id\":\"0005\",\"node\":\"emqx@127.0.0.1\",\"pub_props\":{}}",
         CLAIMS, EVENT_ID, 1756714530120, "GH-0042",
         MQTT_EVENT("mqtt.message.received", AT,
                    "\"topic\":\"" TOPIC "status\",\"payload\":\"on\\u00e9\\n\",\"qos\":2,\"retain\":true,"
                    "\"receivedAt\":\"" AT "\",\"clientId\":\"c-1\",\"username\":\"u\","
                    "\"ipAddress\":\"192.0.2.7\",\"messageSize\":5")},
        /* decoded by the broker's rule; what is null or absent is left out; its own time missing */
        {MQTT,
         "{\"topic\":\"" TOPIC
         "a/b\",\"payload\":{ \"on\" : true },\"qos\":0,\"clientid\":\"\",\"username\":null,"
         "\"peerhost\":null,\"peername\":\"192.0.2.7:4711\",\"retain\":true}",
         CLAIMS, EVENT_ID, 1756714530120, "GH-0042",
         MQTT_EVENT("mqtt.message.received", NOW,
                    "\"topic\":\"" TOPIC "a/b\",\"payload\":{ \"on\" : true },\"qos\":0,\"retain\":true,"
                    "\"receivedAt\":\"" NOW
                    "\",\"clientId\":\"\",\"ipAddress\":\"192.0.2.7:4711\",\"messageSize\":11")},
        {MQTT, "{\"topic\":\"" TOPIC "x\",\"payload\":\"\",\"qos\":1,\"clientid\":\"c\"}", CLAIMS, EVENT_ID,
         1756714530120, "GH-0042",
         MQTT_EVENT("mqtt.message.received", NOW,
                    "\"topic\":\"" TOPIC
                    "x\",\"payload\":\"\",\"qos\":1,\"retain\":false,\"receivedAt\":\"" NOW
                    "\",\"clientId\":\"c\",\"messageSize\":0")},
        /* no event: no device in the topic, a quality of service that there is not */
        {MQTT, "{\"topic\":\"users/u/devices\",\"payload\":\"\",\"qos\":1,\"clientid\":\"c\"}", CLAIMS,
         EVENT_ID, 1, NULL, NULL},
        {MQTT, "{\"topic\":\"users/u/devices//x\",\"payload\":\"\",\"qos\":1,\"clientid\":\"c\"}", CLAIMS,
         EVENT_ID, 1, NULL, NULL},
        {MQTT, "{\"topic\":\"" TOPIC "x\",\"payload\":[],\"qos\":1,\"clientid\":\"c\"}", CLAIMS, EVENT_ID, 1,
         NULL, NULL},
        {MQTT, "{\"topic\":\"" TOPIC "x\",\"payload\":\"\",\"qos\":3,\"clientid\":\"c\"}", CLAIMS, EVENT_ID,
         1, NULL, NULL},
        /* telemetry: what the adapter copies, and nothing else */
        {DEVICE,
         SENT("\"{\\\"temperature\\\":21.50,\\\"humidity\\\":40,\\\"pressure\\\":1013.2,\\\"batteryLevel\\\":"
              "0,"
              "\\\"analogInputs\\\":[{\\\"id\\\":\\\"a\\\",\\\"value\\\":1,\\\"unit\\\":\\\"V\\\"}],"
              "\\\"discreteInputs\\\":[],"
              "\\\"custom\\\":{\\\"note\\\":\\\"d\\\\u00e9j\\\\\\\"a\\\"},\\\"signalStrength\\\":-70,"
              "\\\"uptime\\\":5,"
              "\\\"latitude\\\":1}\""),
         CLAIMS, EVENT_ID, 1, "GH-0042",
         TELEMETRY(
             AT, "{\"temperature\":21.50,\"humidity\":40,\"pressure\":1013.2,\"analogInputs\":[{\"id\":\"a\","
                 "\"value\":1,\"unit\":\"V\"}],\"discreteInputs\":[],\"batteryLevel\":0,\"custom\":{"
                 "\"note\":\"d\\u00e9j\\\"a\"}}")},
        {DEVICE,
         SENT("{\"temperature\":-3,\"analogInputs\":{\"id\":\"a\"},\"discreteInputs\":\"x\",\"status\":"
              "\"ok\"}"),
         CLAIMS, EVENT_ID, 1, "GH-0042", TELEMETRY(AT, "{\"temperature\":-3}")},
        {DEVICE, SENT("\"{}\""), CLAIMS, EVENT_ID, 1, "GH-0042", TELEMETRY(AT, "{}")},
        /* no event: not JSON, or a value that the contract does not have */
        {DEVICE, SENT("\"21.5 C\""), CLAIMS, EVENT_ID, 1, NULL, NULL},
        {DEVICE, SENT("\"\""), CLAIMS, EVENT_ID, 1, NULL, NULL},
        {DEVICE, SENT("\"{\\\"temperature\\\":\\\"21.5\\\"}\""), CLAIMS, EVENT_ID, 1, NULL, NULL},
        {DEVICE, SENT("{\"humidity\":null}"), CLAIMS, EVENT_ID, 1, NULL, NULL},
        {DEVICE, SENT("{\"batteryLevel\":101}"), CLAIMS, EVENT_ID, 1, NULL, NULL},
        {DEVICE, SENT("{\"analogInputs\":[{\"id\":\"a\"}]}"), CLAIMS, EVENT_ID, 1, NULL, NULL},
        {DEVICE, SENT("{\"custom\":[]}"), CLAIMS, EVENT_ID, 1, NULL, NULL},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        check_command(&cases[i]);
}

#define USERS "/api/webhooks/users/"
#define USER_EVENT(type, payload)                                                                         \
    "{\"eventId\":\"" EVENT_ID "\",\"eventType\":\"" type "\",\"timestamp\":\"" NOW                       \
    "\",\"version\":\"1.0\",\"source\":\"rest-api-gateway\",\"payload\":{\"userId\":\"" SUB "\"," payload \
    "}}"

static void test_user_events(void **state)
{
    (void)state;
    static const struct command_case cases[] = {
        {USERS "authenticated", "{\"userId\":\"" SUB "\"}", "{}", EVENT_ID, 1756714530120, SUB,
         USER_EVENT("user.authenticated", "\"authenticatedAt\":\"" NOW "\"")},
        {USERS "authenticated",
         "{\"userId\":\"" SUB
         "\",\"sessionId\":\"s\",\"email\":\"ann@example.org\",\"authenticatedAt\":1756714530455,"
         "\"ipAddress\":\"192.0.2.7\",\"userAgent\":\"a\",\"method\":\"sso\",\"provider\":\"g\",\"password\":"
         "\"p\"}",
         "{}", EVENT_ID, 1756714530120, SUB,
         USER_EVENT(
             "user.authenticated",
             "\"sessionId\":\"s\",\"email\":\"ann@example.org\",\"authenticatedAt\":\"" AT
             "\",\"ipAddress\":\"192.0.2.7\",\"userAgent\":\"a\",\"method\":\"sso\",\"provider\":\"g\"")},
        {USERS "registered",
         "{\"userId\":\"" SUB
         "\",\"email\":\"ann@example.org\",\"username\":\"ann\",\"firstName\":\"A\",\"lastName\":\"B\","
         "\"organizationId\":\"" SUB "\",\"registeredAt\":\"2025-09-01T10:15:30.455+02:00\"}",
         "{}", EVENT_ID, 1756714530120, SUB,
         USER_EVENT(
             "user.registered",
             "\"email\":\"ann@example.org\",\"username\":\"ann\",\"firstName\":\"A\",\"lastName\":\"B\","
             "\"organizationId\":\"" SUB "\",\"registeredAt\":\"" AT "\"")},
        {USERS "logged-out", "{\"userId\":\"" SUB "\",\"sessionId\":\"s\",\"reason\":\"timeout\"}", "{}",
         EVENT_ID, 1756714530120, SUB,
         USER_EVENT("user.logged_out",
                    "\"sessionId\":\"s\",\"loggedOutAt\":\"" NOW "\",\"reason\":\"timeout\"")},
        {USERS "profile-updated",
         "{\"userId\":\"" SUB "\",\"updatedBy\":\"" SUB
         "\",\"changes\":[{\"field\":\"email\",\"oldValue\":null}]}",
         "{}", EVENT_ID, 1756714530120, SUB,
         USER_EVENT("user.profile_updated", "\"updatedBy\":\"" SUB "\",\"updatedAt\":\"" NOW
                                            "\",\"changes\":[{\"field\":\"email\",\"oldValue\":null}]")},
        /* no event */
        {USERS "authenticated", "{\"userId\":\"ann\"}", "{}", EVENT_ID, 1, NULL, NULL},
        {USERS "authenticated", "{\"userId\":\"" SUB "\",\"method\":\"guess\"}", "{}", EVENT_ID, 1, NULL,
         NULL},
        {USERS "registered", "{\"userId\":\"" SUB "\"}", "{}", EVENT_ID, 1, NULL, NULL},
        {USERS "registered", "{\"userId\":\"" SUB "\",\"email\":\"ann\"}", "{}", EVENT_ID, 1, NULL, NULL},
        {USERS "logged-out", "{}", "{}", EVENT_ID, 1, NULL, NULL},
        {USERS "profile-updated", "{\"userId\":\"" SUB "\"}", "{}", EVENT_ID, 1, NULL, NULL},
        {USERS "profile-updated", "{\"userId\":\"" SUB "\",\"changes\":[{}]}", "{}", EVENT_ID, 1, NULL, NULL},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        check_command(&cases[i]);
}

/* Webhooks are never open to the world. */
static void test_one_way_routes_need_the_admin(void **state)
{
    (void)state;
    size_t count = 0;
    for (size_t i = 0; i < table->count; i++) {
        const struct route *route = &table->routes[i];
        if (!route->one_way)
            continue;
        count++;
        assert_true(route->auth_required && route->role_count == 1 && route->body_schema);
        assert_true(span_eq(route->roles[0], SPAN_LIT("admin")));
        assert_int_equal(route->accepted.status, 202);
    }
    assert_int_equal(count, 6);
}

/* ---- answers ---- */

struct answer_case {
    const char *topic;
    const char *event_type; /* NULL: none */
    const char *reply;      /* NULL: no body, and NestJS's error header */
    int status;             /* 0: expected, but no rule answers */
    const char *body;
};

static uint32_t topic_index(const char *name)
{
    for (uint32_t i = 0; i < table->reply_topic_count; i++)
        if (span_eq(table->reply_topics[i], span_of(name)))
            return i;
    fail_msg("no topic %s", name);
    return 0;
}

static struct span nest_error(const void *arg, struct span name)
{
    (void)arg;
    return span_eq(name, SPAN_LIT("kafka_nest-err"))
               ? SPAN_LIT("{\"status\":\"error\",\"message\":\"Internal server error\"}")
               : (struct span){NULL, 0};
}

static void check_answers(const char *path, const char *body_text, const struct answer_case *cases,
                          size_t count)
{
    const struct route *route = match_route(path);
    struct json_doc body = JSON_DOC_INIT, claims = JSON_DOC_INIT, reply = JSON_DOC_INIT;
    bool used[32] = {false};
    parse(&body, body_text);
    parse(&claims, CLAIMS);
    for (size_t i = 0; i < count; i++) {
        const struct answer_case *c = &cases[i];
        struct mapping_scope scope = {
            .body = &body, .claims = &claims, .reply = &reply, .now_ms = 1756714599000};
        struct buf out = BUF_INIT;
        bool expected;
        if (c->reply)
            parse(&reply, c->reply);
        else
            scope.reply = NULL;
        scope.reply_header = c->reply ? NULL : nest_error;
        const struct route_reply_rule *rule = route_find_rule(
            route, topic_index(c->topic), c->event_type ? span_of(c->event_type) : (struct span){NULL, 0},
            &scope, &scratch, &expected);
        assert_true(expected);
        if ((rule ? rule->answer.status : 0) != c->status)
            fail_msg("%s: status %d, expected %d", c->reply, rule ? rule->answer.status : 0, c->status);
        if (!rule)
            continue;
        used[rule - route->rules] = true;
        assert_int_equal(mapping_render(rule->answer.body, &scope, &scratch, &out), ERR_OK);
        if (!span_eq(buf_span(&out), span_of(c->body)))
            fail_msg("%s:\n got      %.*s\n expected %s", c->reply, (int)out.len, out.ptr, c->body);
        buf_fini(&out);
    }
    for (size_t i = 0; i < route->rule_count; i++)
        if (!used[i])
            fail_msg("%s: no case uses rule %zu", path, i);
    json_fini(&body);
    json_fini(&claims);
    json_fini(&reply);
}

#define BOUND(device, user, time)                                                      \
    "{\"message\":\"Устройство успешно привязано\",\"device\":{\"deviceId\":\"" device \
    "\",\"userId\":\"" user "\",\"boundAt\":\"" time "\",\"status\":\"bound\"}}"
#define UNBOUND(device)    "{\"message\":\"Устройство успешно отвязано\",\"deviceId\":\"" device "\"}"
#define FAILED(code, text) "{\"success\":false,\"error\":{\"code\":\"" code "\",\"message\":\"" text "\"}}"

static void test_bind_answers(void **state)
{
    (void)state;
    static const struct answer_case cases[] = {
        {RESPONSES, BIND,
         "{\"eventType\":\"device.response.bind\",\"correlationId\":\"2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52\","
         "\"timestamp\":"
         "\"2025-09-01T08:15:30.480Z\",\"source\":{\"type\":\"backend\",\"id\":\"device-service\"},\"__"
         "version\":\"v1\",\"success\":true,"
         "\"payload\":{\"deviceId\":\"GH-0042\",\"userId\":\"" SUB
         "\",\"boundAt\":\"2025-09-01T08:15:30.455Z\"}}",
         200, BOUND("GH-0042", SUB, "2025-09-01T08:15:30.455Z")},
        {EVENTS, "device.bound",
         "{\"eventType\":\"device.bound\",\"correlationId\":\"bind_1756714530455_k3v9d0x2a\",\"timestamp\":"
         "\"2025-09-01T08:15:30.456Z\","
         "\"source\":{\"type\":\"backend\",\"id\":\"devices-service\",\"version\":\"1.0.0\"},\"__version\":"
         "\"v1\",\"payload\":{\"deviceId\":"
         "\"GH-0042\",\"userId\":\"" SUB "\",\"boundAt\":\"2025-09-01T08:15:30.455Z\",\"boundBy\":\"user\"}}",
         200, BOUND("GH-0042", SUB, "2025-09-01T08:15:30.455Z")},
        {RESPONSES, BIND,
         "{\"eventType\":\"device.response.bind\",\"correlationId\":\"b1f4e6d8-0a2c-4e5f-9137-6c8d2e4f0a1b\","
         "\"timestamp\":1756714531000,"
         "\"source\":{\"type\":\"backend\",\"id\":\"device-service\"},\"__version\":\"v1\",\"success\":false,"
         "\"error\":{\"code\":"
         "\"ALREADY_BOUND\",\"message\":\"device has an owner\"},\"payload\":{\"deviceId\":\"GH-0042\"}}",
         409, "{\"message\":\"Устройство уже привязано\",\"code\":\"ALREADY_BOUND\"}"},
        /* success without the optional parts */
        {RESPONSES, BIND, "{\"success\":true,\"timestamp\":1756714531000}", 200,
         BOUND("GH-0042", SUB, "2025-09-01T08:15:31.000Z")},
        {RESPONSES, BIND, "{\"success\":true,\"payload\":null}", 200,
         BOUND("GH-0042", SUB, "2025-09-01T08:16:39.000Z")},
        {RESPONSES, BIND,
         "{\"success\":true,\"timestamp\":\"2025-09-01T08:15Z\",\"payload\":{\"deviceId\":\"GH-1\","
         "\"boundAt\":\"soon\"}}",
         200, BOUND("GH-1", SUB, "2025-09-01T08:15:00.000Z")},
        {RESPONSES, BIND, "{\"success\":true,\"error\":{\"code\":\"NOT_FOUND\"},\"timestamp\":0}", 200,
         BOUND("GH-0042", SUB, "1970-01-01T00:00:00.000Z")},
        {EVENTS, "device.bound", "{}", 200, BOUND("GH-0042", SUB, "2025-09-01T08:16:39.000Z")},
        /* the table of error codes */
        {RESPONSES, BIND, FAILED("DEVICE_NOT_FOUND", "no such device"), 404,
         "{\"message\":\"Устройство не найдено\"}"},
        {RESPONSES, BIND, FAILED("NOT_FOUND", ""), 404, "{\"message\":\"Устройство не найдено\"}"},
        {RESPONSES, BIND, FAILED("INVALID_QR", "bad qr"), 400,
         "{\"message\":\"bad qr\",\"code\":\"INVALID_QR\"}"},
        {RESPONSES, BIND, FAILED("INVALID_TOKEN", "bad \\\"token\\\""), 400,
         "{\"message\":\"bad \\\"token\\\"\",\"code\":\"INVALID_QR\"}"},
        {RESPONSES, BIND, FAILED("INVALID_TOKEN", ""), 400,
         "{\"message\":\"Ошибка привязки устройства\",\"code\":\"INVALID_QR\"}"},
        {RESPONSES, BIND, FAILED("FORBIDDEN", "no"), 403, "{\"message\":\"no\",\"code\":\"FORBIDDEN\"}"},
        {RESPONSES, BIND, FAILED("NOT_OWNER", ""), 403,
         "{\"message\":\"Ошибка привязки устройства\",\"code\":\"FORBIDDEN\"}"},
        {RESPONSES, BIND, FAILED("VALIDATION_FAILED", "v"), 422,
         "{\"message\":\"v\",\"code\":\"VALIDATION_FAILED\"}"},
        {RESPONSES, BIND, FAILED("UNAUTHORIZED", "u"), 401, "{\"message\":\"u\",\"code\":\"UNAUTHORIZED\"}"},
        {RESPONSES, BIND, FAILED("UNAUTHORIZED", ""), 401,
         "{\"message\":\"Ошибка аутентификации\",\"code\":\"UNAUTHORIZED\"}"},
        {RESPONSES, NULL, NULL, 500, "{\"statusCode\":500,\"message\":\"Internal server error\"}"},
        {RESPONSES, BIND, FAILED("EXECUTION_FAILED", "broke"), 400, "{\"message\":\"broke\"}"},
        {RESPONSES, BIND, FAILED("ELSE", ""), 400, "{\"message\":\"Ошибка привязки устройства\"}"},
        {RESPONSES, BIND, "{\"success\":false}", 400, "{\"message\":\"Ошибка привязки устройства\"}"},
        {RESPONSES, BIND, "{\"success\":false,\"error\":\"text\"}", 400,
         "{\"message\":\"Ошибка привязки устройства\"}"},
        {RESPONSES, BIND, "{\"success\":false,\"error\":{\"message\":null}}", 400,
         "{\"message\":\"Ошибка привязки устройства\"}"},
        {RESPONSES, BIND, "{\"success\":false,\"error\":{\"message\":{\"a\": 1}}}", 400,
         "{\"message\":\"{\\\"a\\\":1}\"}"},
        /* no success: an error says that it failed; without one nothing is known */
        {RESPONSES, BIND, "{\"error\":{\"code\":\"ALREADY_BOUND\"}}", 409,
         "{\"message\":\"Устройство уже привязано\",\"code\":\"ALREADY_BOUND\"}"},
        {RESPONSES, BIND, "{\"error\":{\"message\":\"m\"}}", 400, "{\"message\":\"m\"}"},
        {RESPONSES, BIND, "{\"payload\":{\"deviceId\":\"GH-0042\"}}", 0, NULL},
        {RESPONSES, BIND, "{\"success\":\"true\",\"error\":null}", 0, NULL},
        {RESPONSES, BIND, "[]", 0, NULL},
    };
    check_answers("/api/devices/bind-qr",
                  "{\"qrData\":{\"deviceId\":\"GH-0042\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\"}}", cases,
                  SG_ARRAY_LEN(cases));
}

static void test_unbind_answers(void **state)
{
    (void)state;
    static const struct answer_case cases[] = {
        {EVENTS, "device.unbound",
         "{\"eventType\":\"device.unbound\",\"correlationId\":\"unbind_1756792800310_0p4zq8m1c\","
         "\"timestamp\":\"2025-09-02T06:00:00.311Z\","
         "\"source\":{\"type\":\"backend\",\"id\":\"devices-service\",\"version\":\"1.0.0\"},\"__version\":"
         "\"v1\",\"payload\":{\"deviceId\":"
         "\"GH-0042\",\"previousUserId\":\"" SUB
         "\",\"unboundAt\":\"2025-09-02T06:00:00.310Z\",\"reason\":\"Manual unbind\",\"unboundBy\":"
         "\"user\"}}",
         200, UNBOUND("GH-0042")},
        {EVENTS, "device.unbound", "{}", 200, UNBOUND("GH-0042")},
        {RESPONSES, UNBIND, "{\"success\":true,\"payload\":{\"deviceId\":\"GH-7\"}}", 200, UNBOUND("GH-7")},
        {RESPONSES, UNBIND, "{\"success\":true}", 200, UNBOUND("GH-0042")},
        {RESPONSES, UNBIND, FAILED("NOT_OWNER", ""), 400,
         "{\"message\":\"User " SUB " is not the owner of device GH-0042\"}"},
        {RESPONSES, UNBIND, "{\"success\":false,\"error\":{\"code\":\"FORBIDDEN\"}}", 400,
         "{\"message\":\"User " SUB " is not the owner of device GH-0042\"}"},
        {RESPONSES, UNBIND, FAILED("NOT_OWNER", "not yours"), 400, "{\"message\":\"not yours\"}"},
        {RESPONSES, NULL, NULL, 500, "{\"statusCode\":500,\"message\":\"Internal server error\"}"},
        {RESPONSES, UNBIND, FAILED("ALREADY_UNBOUND", ""), 400,
         "{\"message\":\"Device with ID GH-0042 is already unbound\"}"},
        {RESPONSES, UNBIND, FAILED("ALREADY_UNBOUND", "was free"), 400, "{\"message\":\"was free\"}"},
        {RESPONSES, UNBIND, FAILED("DEVICE_NOT_FOUND", "x"), 404, "{\"message\":\"Устройство не найдено\"}"},
        {RESPONSES, UNBIND, FAILED("NOT_FOUND", "x"), 404, "{\"message\":\"Устройство не найдено\"}"},
        {RESPONSES, UNBIND, FAILED("UNAUTHORIZED", "u"), 401,
         "{\"message\":\"u\",\"code\":\"UNAUTHORIZED\"}"},
        {RESPONSES, UNBIND, FAILED("VALIDATION_FAILED", "v"), 400, "{\"message\":\"v\"}"},
        {RESPONSES, UNBIND, FAILED("INVALID_TOKEN", ""), 400, "{\"message\":\"Ошибка отвязки устройства\"}"},
        {RESPONSES, UNBIND, "{\"success\":false}", 400, "{\"message\":\"Ошибка отвязки устройства\"}"},
        {RESPONSES, UNBIND, "{\"error\":{}}", 400, "{\"message\":\"Ошибка отвязки устройства\"}"},
        {RESPONSES, UNBIND, "{\"payload\":{}}", 0, NULL},
    };
    check_answers("/api/devices/unbind", "{\"deviceId\":\"GH-0042\"}", cases, SG_ARRAY_LEN(cases));
}

static void test_texts_of_the_caller_are_escaped(void **state)
{
    (void)state;
    const struct route *route = match_route("/api/devices/unbind");
    struct json_doc body = JSON_DOC_INIT, claims = JSON_DOC_INIT, reply = JSON_DOC_INIT;
    parse(&body, "{\"deviceId\":\"a\\\"b\\\\\\u0000\\ud800 {\"}");
    parse(&claims, CLAIMS);
    parse(&reply, FAILED("NOT_OWNER", ""));
    struct mapping_scope scope = {.body = &body, .claims = &claims, .reply = &reply};
    struct buf out = BUF_INIT;
    bool expected;
    const struct route_reply_rule *rule =
        route_find_rule(route, topic_index(RESPONSES), SPAN_LIT(UNBIND), &scope, &scratch, &expected);
    assert_non_null(rule);
    assert_int_equal(mapping_render(rule->answer.body, &scope, &scratch, &out), ERR_OK);
    assert_true(span_eq(
        buf_span(&out),
        SPAN_LIT("{\"message\":\"User " SUB " is not the owner of device a\\\"b\\\\\\u0000\\ud800 {\"}")));
    buf_fini(&out);
    json_fini(&body);
    json_fini(&claims);
    json_fini(&reply);
}

/* ---- schemas of replies, for routes that ask for them ---- */

#define BASE                   \
    "\"correlationId\":\"" SUB \
    "\",\"timestamp\":\"2025-08-16T10:00:00.000Z\",\"source\":{\"type\":\"backend\",\"id\":\"\"}"

static void test_schemas_of_replies(void **state)
{
    (void)state;
    static const struct {
        const char *pointer, *reply, *place; /* place NULL: valid */
    } cases[] = {
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE
         ",\"__version\":\"v1\",\"success\":true,\"payload\":{\"deviceId\":\"d\","
         "\"userId\":\"" SUB "\",\"boundAt\":\"2025-08-16T10:00:00.000Z\",\"more\":1}}",
         NULL},
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE ",\"success\":false,\"payload\":{\"deviceId\":\"d\"}}", NULL},
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE
         ",\"success\":false,\"error\":{\"code\":\"X\",\"message\":\"\",\"details\":{}},"
         "\"payload\":{\"deviceId\":\"d\"}}",
         NULL},
        {"bindResponse", "{\"eventType\":\"" BIND "\"," BASE ",\"success\":true}", "body.payload"},
        {"bindResponse", "{\"eventType\":\"" BIND "\"," BASE ",\"payload\":{\"deviceId\":\"d\"}}",
         "body.success"},
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE ",\"success\":\"true\",\"payload\":{\"deviceId\":\"d\"}}",
         "body.success"},
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE ",\"success\":true,\"payload\":{\"deviceId\":\"\"}}",
         "body.payload.deviceId"},
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE
         ",\"success\":false,\"error\":{\"code\":\"X\"},\"payload\":{\"deviceId\":\"d\"}}",
         "body.error.message"},
        {"bindResponse",
         "{\"eventType\":\"" BIND "\"," BASE
         ",\"success\":true,\"payload\":{\"deviceId\":\"d\",\"boundAt\":\"yesterday\"}}",
         "body.payload.boundAt"},
        {"bindResponse",
         "{\"eventType\":\"" UNBIND "\"," BASE ",\"success\":true,\"payload\":{\"deviceId\":\"d\"}}",
         "body.eventType"},
        {"unbindResponse",
         "{\"eventType\":\"" UNBIND "\"," BASE ",\"success\":true,\"payload\":{\"deviceId\":\"d\"}}", NULL},
        {"unbindResponse", "{\"eventType\":\"" UNBIND "\"," BASE ",\"success\":true,\"payload\":{}}",
         "body.payload.deviceId"},
        {"bound",
         "{\"eventType\":\"device.bound\"," BASE ",\"payload\":{\"deviceId\":\"d\",\"userId\":\"" SUB
         "\",\"boundAt\":\"2025-08-16T10:00:00.000Z\",\"boundBy\":\"user\"}}",
         NULL},
        {"bound",
         "{\"eventType\":\"device.bound\"," BASE ",\"payload\":{\"deviceId\":\"d\",\"userId\":\"" SUB
         "\",\"boundAt\":\"2025-08-16T10:00:00.000Z\",\"boundBy\":\"nobody\"}}",
         "body.payload.boundBy"},
        {"unbound",
         "{\"eventType\":\"device.unbound\"," BASE
         ",\"payload\":{\"deviceId\":\"d\",\"previousUserId\":\"" SUB
         "\",\"unboundAt\":\"2025-08-16T10:00:00.000Z\",\"unboundBy\":\"system\",\"reason\":\"r\"}}",
         NULL},
        {"unbound",
         "{\"eventType\":\"device.unbound\"," BASE
         ",\"payload\":{\"deviceId\":\"d\",\"previousUserId\":\"unknown"
         "\",\"unboundAt\":\"2025-08-16T10:00:00.000Z\",\"unboundBy\":\"system\"}}",
         "body.payload.previousUserId"},
        {"unbound", "[]", "body"},
    };
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    char path[512];
    struct err err = {0};
    snprintf(path, sizeof(path), "%s/routes/schemas/device-replies.json", root ? root : ".");
    struct schema_set *set = schema_set_load(path, &err);
    if (!set)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char pointer[64];
        struct json_doc reply = JSON_DOC_INIT;
        struct buf place = BUF_INIT;
        snprintf(pointer, sizeof(pointer), "/$defs/%s", cases[i].pointer);
        const struct schema *schema = schema_compile(set, pointer, &err);
        if (!schema)
            fail_msg("%s", err.text);
        parse(&reply, cases[i].reply);
        if (schema_valid(schema, &reply, json_root(&reply)) != !cases[i].place)
            fail_msg("%s %s", cases[i].pointer, cases[i].reply);
        schema_explain_place(schema, &reply, json_root(&reply), &place);
        if (!span_eq(buf_span(&place), span_of(cases[i].place ? cases[i].place : "body")))
            fail_msg("%s: %.*s", cases[i].reply, (int)place.len, place.ptr);
        buf_fini(&place);
        json_fini(&reply);
    }
    schema_set_freep(&set);
}

/* ---- every route, disabled ones too ---- */

static const struct route *nth(size_t n)
{
    return n < table->count ? &table->routes[n] : &table->disabled[n - table->count];
}

static bool ends_with(struct span text, const char *end)
{
    size_t len = strlen(end);
    return text.len >= len && memcmp(text.ptr + text.len - len, end, len) == 0;
}

static const struct route *route_of(const char *event_type)
{
    for (size_t i = 0; i < table->count + table->disabled_count; i++)
        if (span_eq(nth(i)->command.event_type, span_of(event_type)))
            return nth(i);
    fail_msg("no route has the command %s", event_type);
    return NULL;
}

static void test_every_command_is_checked_and_answered(void **state)
{
    (void)state;
    static const char *const commands[] = {
        "device.command.bind",          "device.command.unbind",       "device.command.rpc",
        "device.command.config.update", "device.command.ota",          "user.command.create",
        "user.command.update",          "user.command.delete",         "organization.command.create",
        "organization.command.update",  "organization.command.delete", "certificate.command.create",
        "certificate.command.revoke",   "certificate.command.renew",
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(commands); i++) {
        const struct route *route = route_of(commands[i]);
        const struct span *topics =
            route->disabled_because.ptr ? table->disabled_topics : table->reply_topics;
        assert_non_null(route->command.schema);
        assert_non_null(route->command.key);
        assert_true(ends_with(route->command.topic, ".commands.v1"));
        assert_true(route->auth_required && route->claims_schema);
        /* What the envelope schema allows as the command's timeout. */
        assert_in_range(route->timeout_ms, 1000, 60000);
        assert_true(ends_with(topics[route->rules[0].topic], ".commands.responses.v1"));
        /* Its response may also say that it failed, without a code or with one that nobody knows. */
        static const char *const failures[] = {"{\"success\":false}",
                                               "{\"error\":{\"code\":\"X\",\"message\":\"m\"}}"};
        for (size_t f = 0; f < SG_ARRAY_LEN(failures); f++) {
            struct json_doc reply = JSON_DOC_INIT;
            const struct mapping_scope scope = {.reply = &reply};
            bool expected;
            parse(&reply, failures[f]);
            const struct route_reply_rule *rule = route_find_rule(
                route, route->rules[0].topic, route->rules[0].event_type, &scope, &scratch, &expected);
            assert_non_null(rule);
            assert_in_range(rule->answer.status, 400, 500);
            json_fini(&reply);
        }
    }
}

#define U   "\"" SUB "\""
#define DEV "\"deviceId\":\"d\""

/* The payloads of the contract's commands: what each field may be, which ones must be there. */
static void test_command_schemas(void **state)
{
    (void)state;
    static const struct {
        const char *event_type, *payload;
        bool valid;
    } cases[] = {
        {"device.command.rpc", "{" DEV ",\"method\":\"setOutput\",\"requestedBy\":" U "}", true},
        {"device.command.rpc", "{" DEV ",\"method\":\"setOutput\",\"params\":{},\"requestedBy\":" U "}",
         true},
        {"device.command.rpc", "{" DEV ",\"method\":\"setOutput\",\"params\":[],\"requestedBy\":" U "}",
         false},
        {"device.command.rpc", "{" DEV ",\"method\":\"format\",\"requestedBy\":" U "}", false},
        {"device.command.rpc", "{\"deviceId\":\"\",\"method\":\"reboot\",\"requestedBy\":" U "}", false},
        {"device.command.rpc", "{" DEV ",\"method\":\"reboot\",\"requestedBy\":\"user-456\"}", false},
        {"device.command.config.update", "{" DEV ",\"configuration\":{},\"requestedBy\":" U "}", true},
        {"device.command.config.update", "{" DEV ",\"requestedBy\":" U "}", false},
        {"device.command.config.update",
         "{" DEV ",\"configuration\":{\"samplingInterval\":999},\"requestedBy\":" U "}", false},
        {"device.command.config.update",
         "{" DEV ",\"configuration\":{\"reportingInterval\":5000},\"requestedBy\":" U "}", true},
        {"device.command.config.update",
         "{" DEV ",\"configuration\":{\"sensors\":[{\"id\":\"a\"}]},\"requestedBy\":" U "}", false},
        {"device.command.ota",
         "{" DEV ",\"firmwareVersion\":\"\",\"downloadUrl\":\"a:b\",\"checksum\":\"\",\"requestedBy\":" U "}",
         true},
        {"device.command.ota",
         "{" DEV ",\"firmwareVersion\":\"\",\"downloadUrl\":\"a\",\"checksum\":\"\",\"requestedBy\":" U "}",
         false},
        {"device.command.ota",
         "{" DEV ",\"firmwareVersion\":\"\",\"downloadUrl\":\"a:b\",\"requestedBy\":" U "}", false},
        {"user.command.create", "{\"email\":\"a@b.co\",\"firstName\":\"A\",\"lastName\":\"B\"}", true},
        {"user.command.create",
         "{\"email\":\"a@b.co\",\"firstName\":\"A\",\"lastName\":\"B\",\"role\":\"owner\","
         "\"organizationId\":" U ",\"invitedBy\":" U "}",
         true},
        {"user.command.create", "{\"email\":\"a@b\",\"firstName\":\"A\",\"lastName\":\"B\"}", false},
        {"user.command.create", "{\"email\":\"a@b.co\",\"firstName\":\"A\",\"lastName\":\"\"}", false},
        {"user.command.create",
         "{\"email\":\"a@b.co\",\"firstName\":\"A\",\"lastName\":\"B\",\"role\":\"personal-user\"}", false},
        {"user.command.create",
         "{\"email\":\"a@b.co\",\"firstName\":\"A\",\"lastName\":\"B\",\"organizationId\":null}", false},
        {"user.command.update", "{\"userId\":" U ",\"updates\":{},\"updatedBy\":" U "}", true},
        {"user.command.update", "{\"userId\":" U ",\"updates\":{\"firstName\":\"\"},\"updatedBy\":" U "}",
         false},
        {"user.command.update", "{\"userId\":" U ",\"updates\":{\"isActive\":1},\"updatedBy\":" U "}", false},
        {"user.command.update", "{\"userId\":" U ",\"updatedBy\":" U "}", false},
        {"user.command.delete", "{\"userId\":" U ",\"deletedBy\":" U "}", true},
        {"user.command.delete", "{\"userId\":\"42\",\"deletedBy\":" U "}", false},
        {"user.command.delete", "{\"userId\":" U "}", false},
        {"organization.command.create", "{\"name\":\"n\",\"ownerId\":" U ",\"settings\":{}}", true},
        {"organization.command.create", "{\"name\":\"\",\"ownerId\":" U "}", false},
        {"organization.command.create", "{\"name\":\"n\",\"ownerId\":\"\"}", false},
        {"organization.command.create", "{\"name\":\"n\",\"ownerId\":" U ",\"displayName\":\"\"}", false},
        {"organization.command.update",
         "{\"organizationId\":" U ",\"updates\":{\"isEnabled\":false},\"updatedBy\":" U "}", true},
        {"organization.command.update",
         "{\"organizationId\":" U ",\"updates\":{\"settings\":\"{}\"},\"updatedBy\":" U "}", false},
        {"organization.command.delete", "{\"organizationId\":" U ",\"deletedBy\":" U ",\"reason\":\"\"}",
         true},
        {"organization.command.delete", "{\"organizationId\":" U ",\"deletedBy\":\"system\"}", false},
        {"certificate.command.create",
         "{" DEV ",\"certificateType\":\"client\",\"requestedBy\":" U ",\"metadata\":{\"commonName\":\"\"}}",
         true},
        {"certificate.command.create",
         "{" DEV ",\"certificateType\":\"ca\",\"keySize\":\"4096\",\"validityDays\":3650,\"requestedBy\":" U
         ",\"metadata\":{\"commonName\":\"c\",\"country\":\"RU\",\"emailAddress\":\"a@b.co\"}}",
         true},
        {"certificate.command.create",
         "{" DEV ",\"certificateType\":\"ca\",\"keySize\":2048,\"requestedBy\":" U
         ",\"metadata\":{\"commonName\":\"c\"}}",
         false},
        {"certificate.command.create",
         "{" DEV ",\"certificateType\":\"ca\",\"validityDays\":0,\"requestedBy\":" U
         ",\"metadata\":{\"commonName\":\"c\"}}",
         false},
        {"certificate.command.create",
         "{" DEV ",\"certificateType\":\"ca\",\"requestedBy\":" U
         ",\"metadata\":{\"commonName\":\"c\",\"country\":\"RUS\"}}",
         false},
        {"certificate.command.create",
         "{" DEV ",\"certificateType\":\"ca\",\"requestedBy\":" U ",\"metadata\":{}}", false},
        {"certificate.command.revoke",
         "{\"certificateId\":\"\",\"reason\":\"certificateHold\",\"revokedBy\":" U ",\"notifyDevice\":false}",
         true},
        {"certificate.command.revoke", "{\"certificateId\":\"c\",\"reason\":\"lost\",\"revokedBy\":" U "}",
         false},
        {"certificate.command.revoke", "{\"certificateId\":\"c\",\"revokedBy\":" U "}", false},
        {"certificate.command.renew", "{\"certificateId\":\"c\",\"requestedBy\":" U "}", true},
        {"certificate.command.renew", "{\"certificateId\":\"c\",\"validityDays\":3651,\"requestedBy\":" U "}",
         false},
        {"certificate.command.renew", "{\"certificateId\":\"c\",\"validityDays\":1.5,\"requestedBy\":" U "}",
         false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct json_doc doc = JSON_DOC_INIT;
        struct buf message = BUF_INIT;
        buf_printf(&message,
                   "{\"eventType\":\"%s\",\"correlationId\":" U ",\"timestamp\":1,\"source\":{\"type\":"
                   "\"backend\",\"id\":\"\"},\"payload\":%s}",
                   cases[i].event_type, cases[i].payload);
        assert_int_equal(json_parse(&doc, buf_span(&message), 10000), ERR_OK);
        if (schema_valid(route_of(cases[i].event_type)->command.schema, &doc, json_root(&doc)) !=
            cases[i].valid)
            fail_msg("%s %s: expected %s", cases[i].event_type, cases[i].payload,
                     cases[i].valid ? "a command" : "none");
        json_fini(&doc);
        buf_fini(&message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_mqtt_events),
        cmocka_unit_test(test_user_events),
        cmocka_unit_test(test_one_way_routes_need_the_admin),
        cmocka_unit_test(test_bind_answers),
        cmocka_unit_test(test_unbind_answers),
        cmocka_unit_test(test_texts_of_the_caller_are_escaped),
        cmocka_unit_test(test_every_command_is_checked_and_answered),
        cmocka_unit_test(test_command_schemas),
        cmocka_unit_test(test_schemas_of_replies),
    };
    return cmocka_run_group_tests(tests, load_routes, free_routes);
}
