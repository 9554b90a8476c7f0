/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "syncgate/mapping.h"

#define ALL_ROOTS (MAPPING_REPLY_ROOTS | MAPPING_ENVELOPE)

static const char body_text[] = "{\"qrData\":{\"deviceId\":\"GH-0042\",\"v\":1.50,\"list\":[10,{\"x\": [1, "
                                "2]},\"z\"]},\"nul\":null,\"empty\":\"\","
                                "\"zero\":0.0,\"no\":false,\"yes\":true,\"esc\":\"a\\\"b\\\\\\u00e9\\n\","
                                "\"obj\":{ \"k\" : \"v \\\" w\", \"n\":[ ] },"
                                "\"dup\":1,\"dup\":2,\"odd.key\":\"odd\",\"7\":\"seven\",\"a\\u0062c\":"
                                "\"unescaped\",\"lone\":\"\\ud800\"}";
static const char claims_text[] = "{\"sub\":\"u-1\",\"roles\":[\"admin\"],\"https://x/y\":\"ns\"}";
static const char reply_text[] = "{\"success\":true,\"timestamp\":1756714530455,\"big\":"
                                 "12345678901234567890123,\"at\":\"2025-09-01T08:15Z\","
                                 "\"offset\":\"2025-09-02T13:00:00+07:00\",\"esc\":\"2025-09-01T08:15:30."
                                 "\\u0031Z\",\"huge\":1e99,\"float\":1.5,\"neg\":-1,"
                                 "\"exp\":1e3,\"before\":\"0000-01-01T00:00:00+01:00\"}";

struct fixture {
    struct json_doc body, claims, reply;
    struct mapping_param path[2];
    struct mapping_scope scope;
};

static struct span find_header(const void *arg, struct span name)
{
    (void)arg;
    if (span_eq(name, SPAN_LIT("x-tenant")))
        return SPAN_LIT("t\xff\"1");
    return (struct span){0};
}

static struct span find_reply_header(const void *arg, struct span name)
{
    (void)arg;
    if (span_eq(name, SPAN_LIT("kafka_nest-err")))
        return SPAN_LIT("{\"a\":\"b\"}");
    if (span_eq(name, SPAN_LIT("Binary")))
        return SPAN_LIT("\0\xff");
    return span_eq(name, SPAN_LIT("empty")) ? SPAN_LIT("") : (struct span){0};
}

static void fixture_init(struct fixture *fix)
{
    *fix = (struct fixture){0};
    assert_int_equal(json_parse(&fix->body, span_of(body_text), 1000), ERR_OK);
    assert_int_equal(json_parse(&fix->claims, span_of(claims_text), 1000), ERR_OK);
    assert_int_equal(json_parse(&fix->reply, span_of(reply_text), 1000), ERR_OK);
    fix->path[0] = (struct mapping_param){SPAN_LIT("deviceId"), SPAN_LIT("dev 7")};
    fix->path[1] = (struct mapping_param){SPAN_LIT("none"), SPAN_LIT("")};
    fix->scope = (struct mapping_scope){
        .body = &fix->body,
        .claims = &fix->claims,
        .reply = &fix->reply,
        .path = fix->path,
        .path_count = 2,
        .query = SPAN_LIT("page=2&q=a+b%21%zz%4&page=3&flag&%65nc=%D1%8F&=noname&e=&nul=%00&&last=%"),
        .header = find_header,
        .reply_header = find_reply_header,
        .correlation_id = SPAN_LIT("2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52"),
        .operation_id = SPAN_LIT("bindDeviceQR"),
        .now_ms = 1756714530120,
        .deadline_ms = 1756714560120,
        .timeout_ms = 30000,
        .payload = SPAN_LIT("{ \"deviceId\":\"GH\\\"1\" }"),
        .event_type = SPAN_LIT("device.command.bind"),
    };
}

static void fixture_fini(struct fixture *fix)
{
    json_fini(&fix->body);
    json_fini(&fix->claims);
    json_fini(&fix->reply);
}

static struct mapping_template *compile(const char *text, unsigned roots, struct err *err)
{
    struct json_doc doc = JSON_DOC_INIT;
    assert_int_equal(json_parse(&doc, span_of(text), 100000), ERR_OK);
    struct mapping_template *tmpl = mapping_compile(&doc, json_root(&doc), roots, "r.json: $", err);
    json_fini(&doc);
    return tmpl;
}

static void check_render(const struct fixture *fix, const char *text, const char *expected)
{
    struct err err = {0};
    struct buf scratch = BUF_INIT, out = BUF_INIT;
    struct mapping_template *tmpl = compile(text, ALL_ROOTS, &err);
    if (!tmpl)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(mapping_render(tmpl, &fix->scope, &scratch, &out), ERR_OK);
    if (!span_eq(buf_span(&out), span_of(expected)))
        fail_msg("%s\n gives    %.*s\n expected %s", text, (int)out.len, out.len ? out.ptr : "", expected);
    mapping_template_freep(&tmpl);
    assert_null(tmpl);
    mapping_template_freep(&tmpl);
    buf_fini(&scratch);
    buf_fini(&out);
}

struct render_case {
    const char *text, *expected;
};

static void check_cases(const struct render_case *cases, size_t count)
{
    struct fixture fix;
    fixture_init(&fix);
    for (size_t i = 0; i < count; i++)
        check_render(&fix, cases[i].text, cases[i].expected);
    fixture_fini(&fix);
}

static void test_values_keep_their_type(void **state)
{
    (void)state;
    static const struct render_case cases[] = {
        {"{\"a\": 1, \"b\": [true, null, \"x\\n\\u00e9\", 1.0e2, -0, 123456789012345678901234567890]}",
         "{\"a\":1,\"b\":[true,null,\"x\\n\xc3\xa9\",1.0e2,-0,123456789012345678901234567890]}"},
        {"\"${body.qrData.deviceId}\"", "\"GH-0042\""},
        {"\"${body.qrData.v}\"", "1.50"},
        {"\"${body.qrData.list.0}\"", "10"},
        {"\"${body.qrData.list.1}\"", "{\"x\": [1, 2]}"},
        {"\"${body.qrData.list.1.x.1}\"", "2"},
        {"\"${body.7}\"", "\"seven\""},
        {"\"${body.abc}\"", "\"unescaped\""},
        {"\"${body[\\\"odd.key\\\"]}\"", "\"odd\""},
        {"\"${claims[ \\\"https://x/y\\\" ]}\"", "\"ns\""},
        {"\"${body.esc}\"", "\"a\\\"b\\\\\\u00e9\\n\""},
        {"\"${body.obj}\"", "{ \"k\" : \"v \\\" w\", \"n\":[ ] }"},
        {"\"${body.dup}\"", "2"},
        {"\"${body.nul}\"", "null"},
        {"\"${reply.big}\"", "12345678901234567890123"},
        {"\"${claims.roles}\"", "[\"admin\"]"},
        {"\"${path.deviceId}\"", "\"dev 7\""},
        {"\"${path.none}\"", "\"\""},
        {"\"${query.page}\"", "\"2\""},
        {"\"${query.q}\"", "\"a b!%zz%4\""},
        {"\"${query.flag}\"", "\"\""},
        {"\"${query.e}\"", "\"\""},
        {"\"${query.enc}\"", "\"\xd1\x8f\""},
        {"\"${query[\\\"\\\"]}\"", "\"noname\""},
        {"\"${query.nul}\"", "\"\\u0000\""},
        {"\"${query.last}\"", "\"%\""},
        {"\"${query.pag}\"", ""},
        {"\"${query.pages}\"", ""},
        {"\"${headers.X-Tenant}\"", "\"t\xef\xbf\xbd\\\"1\""},
        {"\"${headers.other}\"", ""},
        {"\"${replyHeaders.kafka_nest-err}\"", "\"{\\\"a\\\":\\\"b\\\"}\""},
        {"\"${replyHeaders[\\\"kafka_nest-err\\\"]}\"", "\"{\\\"a\\\":\\\"b\\\"}\""},
        {"\"${replyHeaders.Kafka_Nest-Err}\"", ""},
        {"\"${replyHeaders.Binary}\"", "\"\\u0000\xef\xbf\xbd\""},
        {"\"${replyHeaders.empty}\"", "\"\""},
        {"\"${replyHeaders.none ?? 1}\"", "1"},
        {"\"${correlationId}\"", "\"2c9d0f7a-51be-4b0e-8f43-0d7a6c1e9b52\""},
        {"\"${operationId}\"", "\"bindDeviceQR\""},
        {"\"${now}\"", "\"2025-09-01T08:15:30.120Z\""},
        {"\"${nowMs}\"", "1756714530120"},
        {"\"${deadlineMs}\"", "1756714560120"},
        {"\"${timeoutMs}\"", "30000"},
        {"\"${payload}\"", "{ \"deviceId\":\"GH\\\"1\" }"},
        {"\"${eventType}\"", "\"device.command.bind\""},
        {"\"${\\\"lit } | ?? \\\\\\\" eral\\\"}\"", "\"lit } | ?? \\\" eral\""},
        {"\"${-1.5e3}\"", "-1.5e3"},
        {"\"${true}\"", "true"},
        {"\"${null}\"", "null"},
        {"\"${body.missing}\"", ""},
        {"\"${body.qrData.deviceId.x}\"", ""},
        {"\"${body.qrData.list.3}\"", ""},
        {"\"${body.qrData.list.x}\"", ""},
        {"\"${body.qrData.list.99999999999999999999}\"", ""},
    };
    check_cases(cases, SG_ARRAY_LEN(cases));
}

static void test_text_in_strings(void **state)
{
    (void)state;
    static const struct render_case cases[] = {
        {"\"\"", "\"\""},
        {"\"<${body.qrData.deviceId}>\"", "\"<GH-0042>\""},
        {"\"${body.qrData.deviceId}${body.yes}\"", "\"GH-0042true\""},
        {"\"v=${body.qrData.v} n=${nowMs}\"", "\"v=1.50 n=1756714530120\""},
        {"\"${body.esc}!\"", "\"a\\\"b\\\\\\u00e9\\n!\""},
        {"\"o: ${body.obj}\"", "\"o: {\\\"k\\\":\\\"v \\\\\\\" w\\\",\\\"n\\\":[]}\""},
        {"\"l: ${body.qrData.list}\"", "\"l: [10,{\\\"x\\\":[1,2]},\\\"z\\\"]\""},
        {"\"p: ${payload}\"", "\"p: {\\\"deviceId\\\":\\\"GH\\\\\\\"1\\\"}\""},
        {"\"[${body.nul}${body.missing}${body.empty}]\"", "\"[]\""},
        {"\"h ${headers.x-tenant}\"", "\"h t\xef\xbf\xbd\\\"1\""},
        {"\"$${body.x} $ $$ {} $}\"", "\"${body.x} $ $$ {} $}\""},
        {"\"$$${body.yes}\"", "\"$${body.yes}\""},
        {"\"\\\"\\\\\\u0001${body.yes}\\\"\"", "\"\\\"\\\\\\u0001true\\\"\""},
    };
    check_cases(cases, SG_ARRAY_LEN(cases));
}

static void test_missing_members_and_commas(void **state)
{
    (void)state;
    static const struct render_case cases[] = {
        {"{}", "{}"},
        {"[]", "[]"},
        {"{\"a\":\"${body.x}\"}", "{}"},
        {"[\"${body.x}\"]", "[]"},
        {"{\"a\":\"${body.x}\",\"b\":1}", "{\"b\":1}"},
        {"{\"a\":\"${body.x}\",\"b\":\"${body.y}\",\"c\":{\"d\":\"${body.z}\"}}", "{\"c\":{}}"},
        {"{\"a\":\"${body.yes}\",\"b\":\"${body.y}\",\"c\":{\"d\":\"${body.no}\"},\"e\":0}",
         "{\"a\":true,\"c\":{\"d\":false},\"e\":0}"},
        {"{\"a\":1,\"b\":\"${body.y}\",\"c\":\"${body.yes}\",\"d\":2}", "{\"a\":1,\"c\":true,\"d\":2}"},
        {"[\"${body.x}\",\"${body.yes}\",\"${body.x}\",\"${body.no}\",[\"${body.x}\"],{\"a\":\"${body.x}\"}]",
         "[true,false,[],{}]"},
        {"{\"a\":\"${body.x}\",\"b\":{\"c\":\"${body.x}\",\"d\":\"${body.yes}\"},\"e\":\"${body.x}\"}",
         "{\"b\":{\"d\":true}}"},
        {"{\"a\":\"${body.x}\",\"b\":\"s${body.x}\",\"c\":\"${body.y}\"}", "{\"b\":\"s\"}"},
        {"{\"a\":\"${body.x}\",\"b\":\"{\",\"c\":\"${body.y}\",\"d\":\"[\"}", "{\"b\":\"{\",\"d\":\"[\"}"},
        {"{\"a\":\"${body.obj.n}\",\"b\":1}", "{\"a\":[ ],\"b\":1}"},
        {"{\"k\\u0065\\\"y\":\"${body.yes}\",\"\":1}", "{\"k\\u0065\\\"y\":true,\"\":1}"},
        {"{\"a\":\"${payload}\",\"b\":\"${eventType}\"}",
         "{\"a\":{ \"deviceId\":\"GH\\\"1\" },\"b\":\"device.command.bind\"}"},
    };
    check_cases(cases, SG_ARRAY_LEN(cases));
}

static void test_defaults_and_filters(void **state)
{
    (void)state;
    static const struct render_case cases[] = {
        {"\"${body.x ?? \\\"d\\\"}\"", "\"d\""},
        {"\"${body.nul ?? 7}\"", "7"},
        {"\"${body.empty ?? 7}\"", "\"\""},
        {"\"${body.empty || 7}\"", "7"},
        {"\"${body.zero || body.no || body.nul || body.x || body.yes}\"", "true"},
        {"\"${body.zero ?? 1}\"", "0.0"},
        {"\"${body.obj.n || 1}\"", "[ ]"},
        {"\"${body.nul ?? body.x}\"", ""},
        {"\"${body.x ?? body.nul}\"", "null"},
        {"\"${body.x??body.empty||query.page}\"", "\"2\""},
        {"\"${body.yes ?? body.empty || query.page}\"", "true"},
        {"\"<${body.x ?? \\\"d\\\"}>\"", "\"<d>\""},
        {"\"${path.none || \\\"d\\\"}\"", "\"d\""},
        {"\"${reply.timestamp | isoTime}\"", "\"2025-09-01T08:15:30.455Z\""},
        {"\"${reply.at|isoTime}\"", "\"2025-09-01T08:15:00.000Z\""},
        {"\"${reply.offset | isoTime}\"", "\"2025-09-02T06:00:00.000Z\""},
        {"\"${reply.esc | isoTime}\"", "\"2025-09-01T08:15:30.100Z\""},
        {"\"${reply.exp | isoTime}\"", "\"1970-01-01T00:00:01.000Z\""},
        {"\"${reply.neg | isoTime}\"", "\"1969-12-31T23:59:59.999Z\""},
        {"\"${nowMs | isoTime}\"", "\"2025-09-01T08:15:30.120Z\""},
        {"\"${now | isoTime}\"", "\"2025-09-01T08:15:30.120Z\""},
        {"\"${reply.huge | isoTime}\"", ""},
        {"\"${reply.big | isoTime}\"", ""},
        {"\"${reply.float | isoTime}\"", ""},
        {"\"${reply.before | isoTime}\"", ""},
        {"\"${body.yes | isoTime}\"", ""},
        {"\"${body.nul | isoTime}\"", ""},
        {"\"${body.qrData | isoTime}\"", ""},
        {"\"${body.qrData.deviceId ?? reply.timestamp | isoTime}\"", "\"2025-09-01T08:15:30.455Z\""},
        {"\"${body.x ?? body.nul ?? reply.float ?? reply.at | isoTime}\"", "\"2025-09-01T08:15:00.000Z\""},
        {"\"${reply.at ?? reply.timestamp | isoTime}\"", "\"2025-09-01T08:15:00.000Z\""},
        {"\"at ${reply.timestamp | isoTime}.\"", "\"at 2025-09-01T08:15:30.455Z.\""},
        {"\"${body.qrData.v | string}\"", "\"1.50\""},
        {"\"${body.yes | string}\"", "\"true\""},
        {"\"${body.esc | string}\"", "\"a\\\"b\\\\\\u00e9\\n\""},
        {"\"${body.obj | string}\"", "\"{\\\"k\\\":\\\"v \\\\\\\" w\\\",\\\"n\\\":[]}\""},
        {"\"${payload | string}\"", "\"{\\\"deviceId\\\":\\\"GH\\\\\\\"1\\\"}\""},
        {"\"${timeoutMs | string}\"", "\"30000\""},
        {"\"${body.nul | string}\"", "null"},
        {"\"${body.nul ?? 5 | string}\"", "\"5\""},
        {"\"${body.zero || 5 | string}\"", "\"5\""},
        {"\"${body.x | string}\"", ""},
    };
    check_cases(cases, SG_ARRAY_LEN(cases));
}

/* Texts that devices send: JSON in a string, and topics. */
static const char device_text[] =
    "{\"json\":\"{\\\"t\\\":21.50,\\\"n\\\":null,\\\"s\\\":\\\"a\\\\\\\"b\\\\u00e9\\\",\\\"p\\\":"
    "\\\"plain\\\","
    "\\\"l\\\":[ {\\\"id\\\" : 1}, 2 ],\\\"o\\\":{ \\\"k\\\" : \\\"v w\\\" },\\\"ms\\\":1756714530455,"
    "\\\"j\\\":\\\"{\\\\\\\"x\\\\\\\":[7]}\\\",\\\"d\\\":1,\\\"d\\\":2}\","
    "\"plain\":\"[1,{\\u0022a\\u0022:true}]\",\"number\":\"17\",\"word\":\"on\",\"open\":\"{\\\"t\\\":\","
    "\"two\":\"1 "
    "2\",\"bad\":\"\\\"\\ud800\",\"nul\":\"{\\\"a\\\":\\u0000}\",\"blank\":\"\",\"bom\":\"\xef\xbb\xbf{}\","
    "\"null\":null,\"array\":[ 1, \"[2]\" ],\"object\":{\"length\" : 3},\"text\":\"\\u00e9\\\"!\",\"zero\":0,"
    "\"topic\":\"users/u-1/devices/GH\\u002d7/telemetry\",\"slashes\":\"//a/\",\"float\":2.50}";

static void test_filters_of_texts(void **state)
{
    (void)state;
    static const struct render_case cases[] = {
        /* json */
        {"\"${body.json | json.t}\"", "21.50"},
        {"\"${body.json | json.n}\"", "null"},
        {"\"${body.json | json.s}\"", "\"a\\\"b\xc3\xa9\""},
        {"\"${body.json | json.p}\"", "\"plain\""},
        {"\"${body.json | json.l.0.id}\"", "1"},
        {"\"${body.json | json.l.2}\"", ""},
        {"\"${body.json | json.o}\"", "{ \"k\" : \"v w\" }"},
        {"\"${body.json | json[\\\"o\\\"][\\\"k\\\"]}\"", "\"v w\""},
        {"\"${body.json | json.d}\"", "2"},
        {"\"${body.json | json.t.x}\"", ""},
        {"\"${body.json | json.absent}\"", ""},
        {"\"<${body.json | json.s}|${body.json | json.o}|${body.json | json.n}>\"",
         "\"<a\\\"b\xc3\xa9|{\\\"k\\\":\\\"v w\\\"}|>\""},
        {"{\"a\":\"${body.json | json.absent}\",\"b\":\"${body.json | json.t}\"}", "{\"b\":21.50}"},
        {"\"${body.plain | json}\"", "[1,{\"a\":true}]"},
        {"\"${body.number | json}\"", "17"},
        {"\"${body.word | json}\"", ""},
        {"\"${body.open | json}\"", ""},
        {"\"${body.two | json}\"", ""},
        {"\"${body.bad | json}\"", ""},
        {"\"${body.nul | json}\"", ""},
        {"\"${body.blank | json}\"", ""},
        {"\"${body.bom | json}\"", "{}"},
        {"\"${body.absent | json}\"", ""},
        {"\"${body.null | json}\"", "null"},
        {"\"${body.null | json.x}\"", ""},
        {"\"${body.object | json.length}\"", "3"},
        {"\"${body.array | json.1 | json.0}\"", "2"},
        {"\"${payload | json.deviceId}\"", "\"GH\\\"1\""},
        {"\"${nowMs | json}\"", "1756714530120"},
        {"\"${nowMs | json.x}\"", ""},
        {"\"${body.word ?? body.number | json}\"", "17"},
        {"\"${body.json | json.j | json.x.0}\"", "7"},
        {"\"${body.json | json.ms | isoTime}\"", "\"2025-09-01T08:15:30.455Z\""},
        {"\"${body.json | json.t | isoTime}\"", ""},
        {"\"${body.json | json.o | isoTime}\"", ""},
        {"\"${body.json | json.t | string}\"", "\"21.50\""},
        {"\"${body.json | json.n | string}\"", "null"},
        {"\"${body.json | json.o | string}\"", "\"{\\\"k\\\":\\\"v w\\\"}\""},
        {"\"${body.json | json.o | string | string | json.k}\"", "\"v w\""},
        {"\"${body.json | json.l | string | json | string | json.0 | string}\"", "\"{\\\"id\\\":1}\""},
        {"\"${body.json | json | string | length}\"", "131"}, /* scratch grows under the value */
        {"\"${body.json | json | string | json.s}\"", "\"a\\\"b\xc3\xa9\""},
        /* array */
        {"\"${body.array | array}\"", "[ 1, \"[2]\" ]"},
        {"\"${body.json | json.l | array}\"", "[ {\"id\" : 1}, 2 ]"},
        {"\"${body.plain | array}\"", ""},
        {"\"${body.json | json.o | array}\"", ""},
        {"\"${body.json | json.s | array}\"", ""},
        {"\"${body.object | array}\"", ""},
        {"\"${body.null | array}\"", ""},
        {"\"${payload | array}\"", ""},
        {"\"${nowMs | array}\"", ""},
        {"\"${body.object ?? body.array | array}\"", "[ 1, \"[2]\" ]"},
        /* segment */
        {"\"${body.topic | segment:0}\"", "\"users\""},
        {"\"${body.topic | segment:3}\"", "\"GH-7\""},
        {"\"${body.topic | segment : 4}\"", "\"telemetry\""},
        {"\"${body.topic | segment:5}\"", ""},
        {"\"${body.topic | segment:999}\"", ""},
        {"\"${body.slashes | segment:0}\"", "\"\""},
        {"\"${body.slashes | segment:2}\"", "\"a\""},
        {"\"${body.slashes | segment:3}\"", "\"\""},
        {"\"${body.slashes | segment:4}\"", ""},
        {"\"${body.blank | segment:0}\"", "\"\""},
        {"\"${body.blank | segment:1}\"", ""},
        {"\"${body.zero | segment:0}\"", ""},
        {"\"${body.array | segment:0}\"", ""},
        {"\"${body.null | segment:0}\"", ""},
        {"\"${eventType | segment:0}\"", "\"device.command.bind\""},
        {"\"${body.zero ?? body.slashes | segment:2}\"", "\"a\""},
        {"\"${body.json | json.s | segment:0}\"", "\"a\\\"b\xc3\xa9\""},
        /* length */
        {"\"${body.text | length}\"", "4"},
        {"\"${body.blank | length}\"", "0"},
        {"\"${body.array | length}\"", "9"},
        {"\"${body.object | length}\"", "12"},
        {"\"${body.float | length}\"", "4"},
        {"\"${body.null | length}\"", ""},
        {"\"${body.absent | length}\"", ""},
        {"\"${nowMs | length}\"", "13"},
        {"\"${payload | length}\"", "20"},
        {"\"${body.json | json.s | length}\"", "5"},
        {"\"${body.json | json.o | length}\"", "11"},
        {"\"${body.json | length | length}\"", "3"},
        {"\"${body.json | length | string}\"", "\"140\""},
    };
    struct fixture fix;
    fixture_init(&fix);
    json_fini(&fix.body);
    assert_int_equal(json_parse(&fix.body, span_of(device_text), 1000), ERR_OK);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        check_render(&fix, cases[i].text, cases[i].expected);
    /* A payload that is a string is one for filters, too. */
    fix.scope.payload = SPAN_LIT("\"{\\\"a\\\":[7]}\"");
    check_render(&fix, "\"${payload | length}\"", "9");
    check_render(&fix, "\"${payload | string}\"", "\"{\\\"a\\\":[7]}\"");
    check_render(&fix, "\"${payload | json.a | array}\"", "[7]");
    fix.scope.payload = SPAN_LIT("\"users/7\"");
    check_render(&fix, "\"${payload | segment:1}\"", "\"7\"");
    fixture_fini(&fix);
}

/* A string of `depth` arrays in each other, as a member of a body. */
static void check_depth(unsigned depth, bool is_json)
{
    struct fixture fix = {0};
    struct buf body = BUF_INIT, expected = BUF_INIT;
    buf_append_lit(&body, "{\"deep\":\"");
    for (unsigned i = 0; i < 2 * depth; i++) {
        buf_append_char(&body, i < depth ? '[' : ']');
        buf_append_char(&expected, i < depth ? '[' : ']');
    }
    buf_append_lit(&body, "\"}");
    buf_append_char(&expected, '\0');
    assert_int_equal(json_parse(&fix.body, buf_span(&body), 10), ERR_OK);
    fix.scope.body = &fix.body;
    check_render(&fix, "\"${body.deep | json}\"", is_json ? expected.ptr : "");
    json_fini(&fix.body);
    buf_fini(&body);
    buf_fini(&expected);
}

static void test_depth_of_a_text(void **state)
{
    (void)state;
    check_depth(JSON_DEPTH_MAX, true);
    check_depth(JSON_DEPTH_MAX + 1, false);
    check_depth(20000, false);
}

static void test_empty_scope(void **state)
{
    (void)state;
    struct fixture fix = {0};
    check_render(
        &fix,
        "{\"a\":\"${body}\",\"b\":\"${claims.sub}\",\"c\":\"${reply.x}\",\"d\":\"${path.p}\",\"e\":\"${query."
        "q}\","
        "\"f\":\"${headers.h}\",\"l\":\"${replyHeaders.h}\",\"g\":\"${correlationId}\",\"h\":\"${payload}\","
        "\"i\":\"${eventType}\","
        "\"j\":\"${now}\",\"k\":\"x${payload}${body}\"}",
        "{\"j\":\"1970-01-01T00:00:00.000Z\",\"k\":\"x\"}");
}

static void test_plain_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
        bool missing;
    } cases[] = {
        {"\"${body.qrData.deviceId}\"", "GH-0042", false},
        {"\"${body.esc}\"", "a\"b\\\xc3\xa9\n", false},
        {"\"<${body.esc}|${body.obj}|${payload}>\"",
         "<a\"b\\\xc3\xa9\n|{\"k\":\"v \\\" w\",\"n\":[]}|{\"deviceId\":\"GH\\\"1\"}>", false},
        {"\"${body.lone}\"", "\xef\xbf\xbd", false},
        {"\"${path.deviceId}\"", "dev 7", false},
        {"\"${query.q}\"", "a b!%zz%4", false},
        {"\"${nowMs}\"", "1756714530120", false},
        {"\"a\\\"b\"", "a\"b", false},
        {"\"\"", "", false},
        {"\"${body.empty}\"", "", false},
        {"\"${body.x}\"", "", true},
        {"\"${body.nul}\"", "", true},
        {"\"a${body.x}\"", "a", false},
        {"\"a${body.nul}\"", "a", false},
        {"\"${body.qrData.list.1}\"", "{\"x\":[1,2]}", false},
    };
    struct fixture fix;
    fixture_init(&fix);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct buf scratch = BUF_INIT, out = BUF_INIT;
        bool missing;
        struct mapping_template *tmpl = compile(cases[i].text, ALL_ROOTS, NULL);
        assert_non_null(tmpl);
        assert_true(mapping_template_is_text(tmpl));
        assert_int_equal(mapping_render_text(tmpl, &fix.scope, &scratch, &out, &missing), ERR_OK);
        if (!span_eq(buf_span(&out), span_of(cases[i].expected)) || missing != cases[i].missing)
            fail_msg("%s gives %.*s (missing: %d)", cases[i].text, (int)out.len, out.len ? out.ptr : "",
                     missing);
        mapping_template_freep(&tmpl);
        buf_fini(&scratch);
        buf_fini(&out);
    }
    fix.scope.payload = SPAN_LIT("\"a\\n\"");
    struct buf scratch = BUF_INIT, out = BUF_INIT;
    bool missing;
    struct mapping_template *tmpl = compile("\"${payload}\"", ALL_ROOTS, NULL);
    assert_int_equal(mapping_render_text(tmpl, &fix.scope, &scratch, &out, &missing), ERR_OK);
    assert_true(span_eq(buf_span(&out), SPAN_LIT("a\n")));
    mapping_template_freep(&tmpl);
    tmpl = compile("[1]", ALL_ROOTS, NULL);
    assert_false(mapping_template_is_text(tmpl));
    mapping_template_freep(&tmpl);
    buf_fini(&scratch);
    buf_fini(&out);
    fixture_fini(&fix);
}

static void test_render_appends(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix);
    struct buf scratch = BUF_INIT, out = BUF_INIT;
    struct mapping_template *tmpl = compile("\"${body.yes}\"", ALL_ROOTS, NULL);
    buf_append_lit(&out, "[");
    assert_int_equal(mapping_render(tmpl, &fix.scope, &scratch, &out), ERR_OK);
    buf_append_lit(&out, ",");
    assert_int_equal(mapping_render(tmpl, &fix.scope, &scratch, &out), ERR_OK);
    assert_true(span_eq(buf_span(&out), SPAN_LIT("[true,true")));
    out.failed = true;
    assert_int_equal(mapping_render(tmpl, &fix.scope, &scratch, &out), ERR_NO_MEMORY);
    mapping_template_freep(&tmpl);
    buf_fini(&scratch);
    buf_fini(&out);
    fixture_fini(&fix);
}

static void test_template_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned roots;
        const char *expected;
    } cases[] = {
        {"{\"a\":[0,\"${bdy.x}\"]}", MAPPING_BODY,
         "r.json: $.a[1]: in \"${bdy.x}\": unknown root 'bdy'; expected one of body"},
        {"\"${reply.x}\"", MAPPING_BODY | MAPPING_CLAIMS,
         "r.json: $: in \"${reply.x}\": there is no root here called 'reply'; expected one of body, claims"},
        {"\"${payload}\"", MAPPING_BODY, "there is no root here called 'payload'"},
        {"\"${body.x\"", ALL_ROOTS, "in \"${body.x}\": the expression has no end"},
        {"\"${\"", ALL_ROOTS, "the expression has no end"},
        {"\"${}\"", ALL_ROOTS, "expected a reference or a JSON literal"},
        {"\"${body.}\"", ALL_ROOTS, "expected a name or an index after '.'"},
        {"\"${body..x}\"", ALL_ROOTS, "expected a name or an index after '.'"},
        {"\"${body x}\"", ALL_ROOTS, "unexpected 'x'; expected ??, ||, | or }"},
        {"\"${body ? 1}\"", ALL_ROOTS, "unexpected '?'"},
        {"\"${body ??}\"", ALL_ROOTS, "expected a reference or a JSON literal"},
        {"\"${body ?? \\\"x}\"", ALL_ROOTS, "expected a JSON string, number, true, false or null"},
        {"\"${body ?? 01}\"", ALL_ROOTS, "expected a JSON string, number, true, false or null"},
        {"\"${body ?? -}\"", ALL_ROOTS, "expected a JSON string, number, true, false or null"},
        {"\"${body | upper}\"", ALL_ROOTS, "unknown filter 'upper'; expected isoTime, string, array, json, "},
        {"\"${body | segment:}\"", ALL_ROOTS, "expected segment:<number>, 0 to 999"},
        {"\"${body | segment}\"", ALL_ROOTS, "expected segment:<number>, 0 to 999"},
        {"\"${body | segment:-1}\"", ALL_ROOTS, "expected segment:<number>, 0 to 999"},
        {"\"${body | segment:1000}\"", ALL_ROOTS, "expected segment:<number>, 0 to 999"},
        {"\"${body | segment:99999999999999999999}\"", ALL_ROOTS, "expected segment:<number>, 0 to 999"},
        {"\"${body | segment:1x}\"", ALL_ROOTS, "expected segment:<number>, 0 to 999"},
        {"\"${body | segment:1.5}\"", ALL_ROOTS, "unexpected '.'"},
        {"\"${body | length:1}\"", ALL_ROOTS, "unexpected ':'"},
        {"\"${body | array.x}\"", ALL_ROOTS, "unexpected '.'"},
        {"\"${body | json.}\"", ALL_ROOTS, "expected a name or an index after '.'"},
        {"\"${body | json[x]}\"", ALL_ROOTS, "expected [\"name\"]"},
        {"\"${body | json ?? 1}\"", ALL_ROOTS, "unexpected '?'"},
        {"\"${body | json || 1}\"", ALL_ROOTS, "unknown filter ''"},
        {"\"${body | json |}\"", ALL_ROOTS, "unknown filter ''"},
        {"\"${body | json\"", ALL_ROOTS, "the expression has no end"},
        {"\"${body|json|json|json|json|json|json|json|json|json}\"", ALL_ROOTS, "at most 8 filters"},
        {"\"${body |}\"", ALL_ROOTS, "unknown filter ''"},
        {"\"${now.x}\"", ALL_ROOTS, "'now' has no members"},
        {"\"${payload.x}\"", ALL_ROOTS, "'payload' has no members"},
        {"\"${path}\"", ALL_ROOTS, "expected path.<name>"},
        {"\"${query.a.b}\"", ALL_ROOTS, "expected query.<name>"},
        {"\"${headers}\"", ALL_ROOTS, "expected headers.<name>"},
        {"\"${replyHeaders}\"", ALL_ROOTS, "expected replyHeaders.<name>"},
        {"\"${replyHeaders.a.b}\"", ALL_ROOTS, "expected replyHeaders.<name>"},
        {"\"${replyHeaders.a}\"", MAPPING_REQUEST_ROOTS, "there is no root here called 'replyHeaders'"},
        {"\"${replyHeaders.a}\"", MAPPING_REPLY, "there is no root here called 'replyHeaders'"},
        {"\"${replyHeaders[\\\"a\\\\u0000\\\"]}\"", ALL_ROOTS, "a header's name has at most 255 bytes"},
        {"\"${body[x]}\"", ALL_ROOTS, "expected [\"name\"]"},
        {"\"${body[\\\"x\\\"}\"", ALL_ROOTS, "expected [\"name\"]"},
        {"\"${body[\\\"\\\\q\\\"]}\"", ALL_ROOTS, "expected [\"name\"]"},
        {"\"${1??1??1??1??1??1??1??1??1??1??1??1??1??1??1??1??1}\"", ALL_ROOTS, "at most 16 operands"},
        {"\"${body.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6.7.8.9.0.1.2.3}\"", ALL_ROOTS,
         "at most 32 names in a reference"},
        {"{\"x${body}\":1}", ALL_ROOTS, "r.json: $.x${body}: a key cannot hold an expression"},
        {"{\"a\":{\"b\":1,\"b\":2}}", ALL_ROOTS, "r.json: $.a: a key stands twice in one object"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", ALL_ROOTS,
         "nested too deeply"},
        {"{\"a\":\"${body}\",\"b\":\"x ${body} ${nope}\"}", ALL_ROOTS,
         "r.json: $.b: in \"${nope}\": unknown root 'nope'"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct mapping_template *tmpl = compile(cases[i].text, cases[i].roots, &err);
        if (tmpl || !strstr(err.text, cases[i].expected) || strncmp(err.text, "r.json: $", 9) != 0)
            fail_msg("%s: %s", cases[i].text, tmpl ? "compiled" : err.text);
        assert_int_equal(err.code, ERR_CONFIG);
    }
}

static struct mapping_condition *compile_cond(const char *text, unsigned roots, struct err *err)
{
    struct json_doc doc = JSON_DOC_INIT;
    assert_int_equal(json_parse(&doc, span_of(text), 10000), ERR_OK);
    struct mapping_condition *cond =
        mapping_condition_compile(&doc, json_root(&doc), roots, "r.json: $.when", err);
    json_fini(&doc);
    return cond;
}

static void test_conditions(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool holds;
    } cases[] = {
        {"[]", true},
        {"[{\"value\":\"${reply.success}\",\"is\":true}]", true},
        {"[{\"value\":\"${reply.success}\",\"is\":\"true\"}]", false},
        {"[{\"is\":1.5,\"value\":\"${body.qrData.v}\"}]", true},
        {"[{\"value\":\"${body.missing}\",\"is\":null}]", false},
        {"[{\"value\":\"${body.nul}\",\"is\":null}]", true},
        {"[{\"value\":\"${body.obj}\",\"is\":{\"n\":[],\"k\":\"v \\\" w\"}}]", true},
        {"[{\"value\":\"${body.missing}\",\"in\":[1,null]}]", false},
        {"[{\"value\":\"${body.qrData.deviceId}\",\"in\":[1,\"GH-0042\"]}]", true},
        {"[{\"value\":\"${body.qrData.deviceId}\",\"in\":[1,\"GH\"]}]", false},
        {"[{\"value\":\"${body.qrData.deviceId}\",\"not\":\"GH-0042\"}]", false},
        {"[{\"value\":\"${body.qrData.deviceId}\",\"not\":\"x\"}]", true},
        {"[{\"value\":\"${body.missing}\",\"not\":\"x\"}]", true},
        {"[{\"value\":\"${body.missing}\",\"exists\":true}]", false},
        {"[{\"value\":\"${body.missing}\",\"exists\":false}]", true},
        {"[{\"value\":\"${body.nul}\",\"exists\":true}]", true},
        {"[{\"value\":\"${body.nul}\",\"empty\":true}]", true},
        {"[{\"value\":\"${body.empty}\",\"empty\":true}]", true},
        {"[{\"value\":\"${body.missing}\",\"empty\":true}]", true},
        {"[{\"value\":\"${body.zero}\",\"empty\":true}]", false},
        {"[{\"value\":\"${body.zero}\",\"empty\":false}]", true},
        {"[{\"value\":\"${path.none}\",\"empty\":true}]", true},
        {"[{\"value\":\"${path.deviceId}\",\"is\":\"dev 7\"}]", true},
        {"[{\"value\":\"${path.deviceId}\",\"is\":7}]", false},
        {"[{\"value\":\"${query.q}\",\"is\":\"a b!%zz%4\"}]", true},
        {"[{\"value\":\"${headers.x-tenant}\",\"exists\":true}]", true},
        {"[{\"value\":\"${replyHeaders.empty}\",\"exists\":true}]", true},
        {"[{\"value\":\"${replyHeaders.none}\",\"exists\":true}]", false},
        {"[{\"value\":\"${replyHeaders.kafka_nest-err}\",\"is\":\"{\\\"a\\\":\\\"b\\\"}\"}]", true},
        {"[{\"value\":\"${timeoutMs}\",\"is\":3e4}]", true},
        {"[{\"value\":\"${timeoutMs}\",\"is\":\"30000\"}]", false},
        {"[{\"value\":\"${body.missing ?? \\\"d\\\"}\",\"is\":\"d\"}]", true},
        {"[{\"value\":\"${reply.at | isoTime}\",\"is\":\"2025-09-01T08:15:00.000Z\"}]", true},
        {"[{\"value\":\"${body.qrData | string | json.v}\",\"in\":[1,1.5]}]", true},
        {"[{\"value\":\"${body.qrData | string | json.v}\",\"not\":1.5}]", false},
        {"[{\"value\":\"${body.qrData | string | json.w}\",\"exists\":false}]", true},
        {"[{\"value\":\"${body | string | json.nul}\",\"empty\":true}]", true},
        {"[{\"value\":\"${body | string | json.empty}\",\"empty\":true}]", true},
        {"[{\"value\":\"${body | string | json.zero}\",\"empty\":true}]", false},
        {"[{\"value\":\"${body.qrData.list | array}\",\"exists\":true}]", true},
        {"[{\"value\":\"${body.qrData.deviceId | length}\",\"is\":7}]", true},
        {"[{\"value\":\"${reply.success}\",\"is\":true},{\"value\":\"${body.no}\",\"is\":true}]", false},
        {"[{\"value\":\"${reply.success}\",\"is\":true},{\"value\":\"${body.no}\",\"is\":false}]", true},
    };
    struct fixture fix;
    fixture_init(&fix);
    struct buf scratch = BUF_INIT;
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct mapping_condition *cond = compile_cond(cases[i].text, ALL_ROOTS, &err);
        if (!cond)
            fail_msg("%s: %s", cases[i].text, err.text);
        if (mapping_condition_holds(cond, &fix.scope, &scratch) != cases[i].holds)
            fail_msg("%s: expected %d", cases[i].text, cases[i].holds);
        mapping_condition_freep(&cond);
        assert_null(cond);
    }
    buf_fini(&scratch);
    fixture_fini(&fix);
}

static void test_condition_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{}", "r.json: $.when: expected a list of conditions"},
        {"[1]", "r.json: $.when[0]: expected an object"},
        {"[{}]", "r.json: $.when[0]: expected one of is, in, not, exists, empty"},
        {"[{\"value\":\"${body}\"}]", "r.json: $.when[0]: expected one of is"},
        {"[{\"is\":1}]", "r.json: $.when[0].value: expected exactly one expression"},
        {"[{\"value\":\"x${body}\",\"is\":1}]", "r.json: $.when[0].value: expected exactly one expression"},
        {"[{\"value\":\"${body}x\",\"is\":1}]", "r.json: $.when[0].value: expected exactly one expression"},
        {"[{\"value\":1,\"is\":1}]", "r.json: $.when[0].value: expected exactly one expression"},
        {"[{\"value\":\"${bdy}\",\"is\":1}]", "r.json: $.when[0].value: in \"${bdy}\": unknown root 'bdy'"},
        {"[{\"value\":\"${payload}\",\"is\":1}]", "there is no root here called 'payload'"},
        {"[{\"value\":\"${body}\",\"is\":1,\"not\":1}]", "r.json: $.when[0]: expected only one of"},
        {"[{\"value\":\"${body}\",\"equals\":1}]", "r.json: $.when[0]: unknown key \"equals\""},
        {"[{\"value\":\"${body}\",\"in\":1}]", "r.json: $.when[0].in: expected a list of values"},
        {"[{\"value\":\"${body}\",\"in\":[]}]", "r.json: $.when[0].in: expected a list of values"},
        {"[{\"value\":\"${body}\",\"is\":1},{\"value\":\"${body}\",\"exists\":1}]",
         "r.json: $.when[1]: expected true or false"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {0};
        struct mapping_condition *cond = compile_cond(cases[i][0], ALL_ROOTS, &err);
        if (cond || !strstr(err.text, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], cond ? "compiled" : err.text);
    }
}

struct visited {
    char text[512];
};

static void on_ref(void *arg, const struct mapping_ref *ref)
{
    struct visited *visited = arg;
    size_t len = strlen(visited->text);
    snprintf(visited->text + len, sizeof(visited->text) - len, "%u/%zu/%.*s@%s;", (unsigned)ref->root,
             ref->step_count, (int)(ref->step_count ? ref->steps[0].name.len : 0),
             ref->step_count ? ref->steps[0].name.ptr : "", ref->place);
}

static void test_references(void **state)
{
    (void)state;
    struct visited visited = {""};
    struct mapping_template *tmpl =
        compile("{\"a\":[\"${body.x.0 ?? claims.sub ?? 1}\"],\"b\":\"${now}\"}", ALL_ROOTS, NULL);
    mapping_template_each_ref(tmpl, on_ref, &visited);
    mapping_template_freep(&tmpl);
    struct mapping_condition *cond =
        compile_cond("[{\"value\":\"${path.p}\",\"exists\":true}]", ALL_ROOTS, NULL);
    mapping_condition_each_ref(cond, on_ref, &visited);
    mapping_condition_freep(&cond);
    assert_string_equal(visited.text, "1/2/x@r.json: $.a[0];16/1/sub@r.json: $.a[0];64/0/@r.json: $.b;"
                                      "2/1/p@r.json: $.when[0].value;");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_keep_their_type),
        cmocka_unit_test(test_text_in_strings),
        cmocka_unit_test(test_missing_members_and_commas),
        cmocka_unit_test(test_defaults_and_filters),
        cmocka_unit_test(test_filters_of_texts),
        cmocka_unit_test(test_depth_of_a_text),
        cmocka_unit_test(test_empty_scope),
        cmocka_unit_test(test_plain_text),
        cmocka_unit_test(test_render_appends),
        cmocka_unit_test(test_template_errors),
        cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_condition_errors),
        cmocka_unit_test(test_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
