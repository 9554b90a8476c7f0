/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>

#include "syncgate/base.h"
#include "syncgate/schema.h"

static struct schema_set *openapi;

static int load_openapi(void **state)
{
    (void)state;
    char path[4096];
    struct err err;
    const char *root = getenv("SYNCGATE_SOURCE_ROOT");
    snprintf(path, sizeof(path), "%s/openapi/openapi.json", root ? root : ".");
    openapi = schema_set_load(path, &err);
    if (!openapi)
        print_error("%s\n", err.text);
    return openapi ? 0 : -1;
}

static int free_openapi(void **state)
{
    (void)state;
    schema_set_freep(&openapi);
    schema_set_freep(&openapi);
    return 0;
}

static const struct schema *compile(struct schema_set *set, const char *pointer)
{
    struct err err;
    const struct schema *schema = schema_compile(set, pointer, &err);
    if (!schema)
        fail_msg("%s", err.text);
    return schema;
}

/* Checks valid and explain of one JSON text (NULL: absent) against the expected issues. */
static void expect_issues(const struct schema *schema, const char *json, const char *issues)
{
    struct json_doc doc = JSON_DOC_INIT;
    struct buf out = BUF_INIT;
    if (json)
        assert_int_equal(json_parse(&doc, span_of(json), 100000), ERR_OK);
    schema_explain(schema, &doc, json_root(&doc), &out);
    assert_true(buf_ok(&out));
    if (!span_eq(buf_span(&out), span_of(issues)))
        fail_msg("%s\n got    %.*s\n wanted %s", json ? json : "(absent)", (int)out.len, out.ptr, issues);
    assert_int_equal(schema_valid(schema, &doc, json_root(&doc)), strcmp(issues, "[]") == 0);
    buf_fini(&out);
    json_fini(&doc);
}

/* ---- the OpenAPI document ---- */

static void test_openapi_compiles(void **state)
{
    (void)state;
    char path[4096];
    struct buf text = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    snprintf(path, sizeof(path), "%s/openapi/openapi.json", getenv("SYNCGATE_SOURCE_ROOT"));
    assert_int_equal(base_read_file(path, 1 << 20, &text), 0);
    assert_int_equal(json_parse(&doc, buf_span(&text), 100000), ERR_OK);
    const struct json_node *schemas =
        json_get(&doc, json_get(&doc, json_root(&doc), SPAN_LIT("components")), SPAN_LIT("schemas"));
    unsigned compiled = 0;
    for (const struct json_node *name = json_first(&doc, schemas); name;
         name = json_next(&doc, name), compiled++) {
        char pointer[200];
        struct span key = json_text(&doc, name);
        snprintf(pointer, sizeof(pointer), "/components/schemas/%.*s", (int)key.len - 2, key.ptr + 1);
        const struct schema *schema = compile(openapi, pointer);
        assert_ptr_equal(schema, compile(openapi, pointer));
    }
    assert_true(compiled >= 30);

    /* Every request body and every parameter, where an operation names it. */
    unsigned operations = 0, bodies = 0, parameters = 0;
    const struct json_node *paths = json_get(&doc, json_root(&doc), SPAN_LIT("paths"));
    for (const struct json_node *path_name = json_first(&doc, paths); path_name;
         path_name = json_next(&doc, path_name)) {
        const struct json_node *item = json_member_value(path_name);
        for (const struct json_node *method = json_first(&doc, item); method;
             method = json_next(&doc, method)) {
            char pointer[400], escaped[200];
            size_t n = 0;
            struct span raw = json_text(&doc, path_name), verb = json_text(&doc, method);
            for (size_t i = 1; i + 1 < raw.len; i++) {
                if (raw.ptr[i] == '/')
                    escaped[n++] = '~';
                escaped[n++] = raw.ptr[i] == '/' ? '1' : raw.ptr[i];
            }
            operations++;
            const struct json_node *operation = json_member_value(method);
            if (json_get(&doc, operation, SPAN_LIT("requestBody"))) {
                snprintf(pointer, sizeof(pointer),
                         "/paths/%.*s/%.*s/requestBody/content/application~1json/schema", (int)n, escaped,
                         (int)verb.len - 2, verb.ptr + 1);
                compile(openapi, pointer);
                bodies++;
            }
            const struct json_node *list = json_get(&doc, operation, SPAN_LIT("parameters"));
            for (uint32_t i = 0; list && i < list->count; i++, parameters++) {
                snprintf(pointer, sizeof(pointer), "/paths/%.*s/%.*s/parameters/%u/schema", (int)n, escaped,
                         (int)verb.len - 2, verb.ptr + 1, i);
                compile(openapi, pointer);
            }
        }
    }
    assert_true(operations >= 23);
    assert_true(bodies >= 15);
    assert_true(parameters >= 28);
    json_fini(&doc);
    buf_fini(&text);
}

#define STRING_TYPE(key, got)                                                                    \
    "{\"code\":\"invalid_type\",\"expected\":\"string\",\"received\":\"" got "\",\"path\":[" key \
    "],\"message\":\"Expected string, received " got "\"}"
#define STRING_MISSING(key)                                                                        \
    "{\"code\":\"invalid_type\",\"expected\":\"string\",\"received\":\"undefined\",\"path\":[" key \
    "],\"message\":\"Required\"}"
#define OBJECT_MISSING(key)                                                                        \
    "{\"code\":\"invalid_type\",\"expected\":\"object\",\"received\":\"undefined\",\"path\":[" key \
    "],\"message\":\"Required\"}"
#define EXTRA(path, key)                                                     \
    "{\"code\":\"unrecognized_keys\",\"keys\":[\"" key "\"],\"path\":[" path \
    "],\"message\":\"Unrecognized key(s) in object: '" key "'\"}"
#define UNION(path, a, b, c)                                                              \
    "{\"code\":\"invalid_union\",\"unionErrors\":[{\"issues\":[" a                        \
    "],\"name\":\"ZodError\"},{\"issues\":[" b "],\"name\":\"ZodError\"},{\"issues\":[" c \
    "],\"name\":\"ZodError\"}],\"path\":[" path "],\"message\":\"Invalid input\"}"
#define SIZE(code, bound, limit, type, message, path)                 \
    "{\"code\":\"" code "\",\"" bound "\":" limit ",\"type\":\"" type \
    "\",\"inclusive\":true,\"exact\":false,\"message\":\"" message "\",\"path\":[" path "]}"
#define TOKEN_SHORT                                                                              \
    SIZE("too_small", "minimum", "16", "string", "String must contain at least 16 character(s)", \
         "\"qrData\",\"bindingToken\"")
#define TOKEN_LONG                                                                            \
    SIZE("too_big", "maximum", "64", "string", "String must contain at most 64 character(s)", \
         "\"qrData\",\"bindingToken\"")
#define X16   "0123456789abcdef"
#define EMOJI "\xf0\x9f\x98\x80"

#define EMOJI4         EMOJI EMOJI EMOJI EMOJI
#define ID_NUMBER      STRING_TYPE("\"qrData\",\"deviceId\"", "number")
#define NO_FINGERPRINT STRING_MISSING("\"qrData\",\"fingerprint\"")
#define NO_KEY_HASH    STRING_MISSING("\"qrData\",\"keyHash\"")
#define V_BOOLEAN                                                                                       \
    "{\"code\":\"invalid_type\",\"expected\":\"number\",\"received\":\"boolean\",\"path\":[\"qrData\"," \
    "\"v\"],"                                                                                           \
    "\"message\":\"Expected number, received boolean\"}"

static void test_bind(void **state)
{
    (void)state;
    /* clang-format off */
    static const struct {
        const char *json, *issues;
    } cases[] = {
        {"{\"qrData\":{\"deviceId\":\"GH-0042\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\",\"v\":1}}", "[]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"fingerprint\":\"\"}}", "[]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"fingerprint\":\"\",\"v\":-1.5e300}}", "[]"},
        {"{\"qrData\":{\"deviceId\":\"a\",\"fingerprint\":\"b\",\"keyHash\":\"sha256-\"}}", "[]"},
        /* S5 and S6 of the legacy contract */
        {"{\"qrData\":{\"deviceId\":\"GH-0042\",\"bindingToken\":\"abc\"}}", "[" TOKEN_SHORT "]"},
        {"{\"qrData\":{\"deviceId\":\"GH-0042\",\"fingerprint\":\"5A:0C:91\"},"
         "\"userId\":\"5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5\"}",
         "[" EXTRA("", "userId") "]"},
        /* lengths in UTF-16 code units */
        {"{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"" EMOJI4 EMOJI4 "\"}}", "[]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"" EMOJI4 EMOJI EMOJI EMOJI "x\"}}", "[" TOKEN_SHORT "]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"" X16 X16 X16 X16 "\"}}", "[]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"" X16 X16 X16 "0123456789abcde\\ud83d\\ude00\"}}",
         "[" TOKEN_LONG "]"},
        /* duplicates: the last one counts */
        {"{\"qrData\":1,\"qrData\":{\"deviceId\":1,\"deviceId\":\"\",\"fingerprint\":\"\"}}", "[]"},
        {NULL, "[" OBJECT_MISSING("") "]"},
        {"[]", "[{\"code\":\"invalid_type\",\"expected\":\"object\",\"received\":\"array\",\"path\":[],"
               "\"message\":\"Expected object, received array\"}]"},
        {"{}",
         "[" UNION("\"qrData\"",
                   OBJECT_MISSING("\"qrData\""),
                   OBJECT_MISSING("\"qrData\""),
                   OBJECT_MISSING("\"qrData\"")) "]"},
        {"{\"qrData\":{\"deviceId\":7,\"bindingToken\":null},\"a\":1,\"10\":2,\"9\":3,\"a\":4}",
         "[" UNION("\"qrData\"",
                   ID_NUMBER "," NO_FINGERPRINT "," EXTRA("\"qrData\"", "bindingToken"),
                   ID_NUMBER "," STRING_TYPE("\"qrData\",\"bindingToken\"", "null"),
                   ID_NUMBER "," NO_FINGERPRINT "," NO_KEY_HASH "," EXTRA("\"qrData\"", "bindingToken"))
         ",{\"code\":\"unrecognized_keys\",\"keys\":[\"9\",\"10\",\"a\"],\"path\":[],"
         "\"message\":\"Unrecognized key(s) in object: '9', '10', 'a'\"}]"},
        /* The first dirty alternative is the minimal one. */
        {"{\"qrData\":{\"deviceId\":\"\",\"fingerprint\":\"\",\"keyHash\":\"md5-\"}}",
         "[" EXTRA("\"qrData\"", "keyHash") "]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"" X16 "\",\"z\\\"\\u000a\\ud800\\u044f\":0}}",
         "[" EXTRA("\"qrData\"", "z\\\"\\n\\ud800\xd1\x8f") "]"},
        {"{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"" X16 "\",\"v\":true}}",
         "[" UNION("\"qrData\"",
                   NO_FINGERPRINT "," V_BOOLEAN "," EXTRA("\"qrData\"", "bindingToken"),
                   V_BOOLEAN,
                   NO_FINGERPRINT "," NO_KEY_HASH "," V_BOOLEAN "," EXTRA("\"qrData\"", "bindingToken")) "]"},
    };
    /* clang-format on */
    const struct schema *schema = compile(openapi, "/components/schemas/BindDeviceQrRequest");
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        expect_issues(schema, cases[i].json, cases[i].issues);
}

static void test_requests(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *json, *issues;
    } cases[] = {
        {"QrHash", "{\"deviceId\":\"\",\"fingerprint\":\"\",\"keyHash\":\"md5\"}",
         "[{\"code\":\"invalid_string\",\"validation\":{\"startsWith\":\"sha256-\"},"
         "\"message\":\"Invalid input: must start with \\\"sha256-\\\"\",\"path\":[\"keyHash\"]}]"},
        /* S8 and S9 */
        {"UnbindDeviceRequest", "{\"deviceId\":\"GH-0042\",\"reason\":\"moved\",\"more\":[1]}", "[]"},
        {"UnbindDeviceRequest", "{\"deviceId\":\"GH-0042\",\"reason\":null}",
         "[" STRING_TYPE("\"reason\"", "null") "]"},
        /* S10 */
        {"MyDevicesQuery", "{\"page\":\"1\",\"limit\":\"2\"}", "[]"},
        {"MyDevicesQuery", "{\"page\":\"abc\"}",
         "[{\"code\":\"invalid_type\",\"expected\":\"number\",\"received\":\"nan\",\"path\":[\"page\"],"
         "\"message\":\"Expected number, received nan\"}]"},
        {"MyDevicesQuery", "{\"page\":[\"1\",\"2\"]}",
         "[{\"code\":\"invalid_type\",\"expected\":\"number\",\"received\":\"nan\",\"path\":[\"page\"],"
         "\"message\":\"Expected number, received nan\"}]"},
        {"MyDevicesQuery", "{\"page\":\" 0x10 \",\"limit\":\"1e1\"}", "[]"},
        {"MyDevicesQuery", "{\"page\":\"Infinity\",\"limit\":\"1.5\"}", "[]"},
        {"MyDevicesQuery", "{\"page\":\"\",\"limit\":\"100.1\"}",
         "[" SIZE("too_small", "minimum", "1", "number", "Number must be greater than or equal to 1",
                  "\"page\"") "," SIZE("too_big", "maximum", "100", "number",
                                       "Number must be less than or equal to 100", "\"limit\"") "]"},
        {"GenerateDeviceQrRequest",
         "{\"deviceId\":\"\",\"model\":\"\",\"firmwareVersion\":\"\",\"publicKeyPem\":\"\"}", "[]"},
        {"GenerateDeviceQrRequest",
         "{\"deviceId\":\"\",\"model\":\"\",\"firmwareVersion\":\"\",\"publicKeyPem\":\"\",\"qrType\":"
         "\"foo\"}",
         "[{\"received\":\"foo\",\"code\":\"invalid_enum_value\",\"options\":[\"minimal\",\"token\",\"hash\"]"
         ","
         "\"path\":[\"qrType\"],\"message\":\"Invalid enum value. Expected 'minimal' | 'token' | 'hash', "
         "received 'foo'\"}]"},
        {"GenerateDeviceQrRequest",
         "{\"deviceId\":\"\",\"model\":\"\",\"firmwareVersion\":\"\",\"publicKeyPem\":\"\",\"qrType\":null}",
         "[{\"expected\":\"'minimal' | 'token' | 'hash'\",\"received\":\"null\",\"code\":\"invalid_type\","
         "\"path\":[\"qrType\"],\"message\":\"Expected 'minimal' | 'token' | 'hash', received null\"}]"},
        {"BindDeviceToGroupRequest",
         "{\"deviceId\":\"\",\"groupId\":\"00000000-0000-0000-0000-000000000000\"}", "[]"},
        {"BindDeviceToGroupRequest",
         "{\"deviceId\":\"\",\"groupId\":\"00000000-0000-0000-0000-00000000000\"}",
         "[{\"validation\":\"uuid\",\"code\":\"invalid_string\",\"message\":\"Invalid "
         "uuid\",\"path\":[\"groupId\"]}]"},
        {"BoundDevice",
         "{\"deviceId\":\"\",\"userId\":\"00000000-0000-0000-0000-000000000000\","
         "\"boundAt\":\"2025-08-16\",\"status\":\"x\"}",
         "[{\"code\":\"invalid_string\",\"validation\":\"datetime\",\"message\":\"Invalid datetime\","
         "\"path\":[\"boundAt\"]},{\"received\":\"x\",\"code\":\"invalid_literal\",\"expected\":\"bound\","
         "\"path\":[\"status\"],\"message\":\"Invalid literal value, expected \\\"bound\\\"\"}]"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char pointer[100];
        snprintf(pointer, sizeof(pointer), "/components/schemas/%s", cases[i].schema);
        expect_issues(compile(openapi, pointer), cases[i].json, cases[i].issues);
    }
}

/* S5 and S6 with the body around them, as the gateway answers. */
static void test_validation_body(void **state)
{
    (void)state;
    static const char *const requests[] = {"{\"qrData\":{\"deviceId\":\"GH-0042\",\"bindingToken\":\"abc\"}}",
                                           "{\"qrData\":{\"deviceId\":\"GH-0042\",\"fingerprint\":\"5A:0C:"
                                           "91\"},\"userId\":\"5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5\"}"};
    static const char *const bodies[] = {
        "{\"paramsResult\":null,\"headersResult\":null,\"queryResult\":null,\"bodyResult\":{\"issues\":[{"
        "\"code\":\"too_small\",\"minimum\":16,\"type\":\"string\",\"inclusive\":true,\"exact\":false,"
        "\"message\":\"String must contain at least 16 "
        "character(s)\",\"path\":[\"qrData\",\"bindingToken\"]}],\"name\":\"ZodError\"}}",
        "{\"paramsResult\":null,\"headersResult\":null,\"queryResult\":null,\"bodyResult\":{\"issues\":[{"
        "\"code\":\"unrecognized_keys\",\"keys\":[\"userId\"],\"path\":[],\"message\":\"Unrecognized key(s) "
        "in object: 'userId'\"}],\"name\":\"ZodError\"}}"};
    const struct schema *schema = compile(openapi, "/components/schemas/BindDeviceQrRequest");
    const struct schema *error = compile(openapi, "/components/schemas/ErrorValidation");
    for (size_t i = 0; i < SG_ARRAY_LEN(requests); i++) {
        struct json_doc doc = JSON_DOC_INIT;
        struct buf out = BUF_INIT;
        assert_int_equal(json_parse(&doc, span_of(requests[i]), 100), ERR_OK);
        buf_append_lit(
            &out,
            "{\"paramsResult\":null,\"headersResult\":null,\"queryResult\":null,\"bodyResult\":{\"issues\":");
        schema_explain(schema, &doc, json_root(&doc), &out);
        buf_append_lit(&out, ",\"name\":\"ZodError\"}}");
        assert_true(span_eq(buf_span(&out), span_of(bodies[i])));
        assert_int_equal(json_parse(&doc, buf_span(&out), 100), ERR_OK);
        assert_true(schema_valid(error, &doc, json_root(&doc)));
        buf_fini(&out);
        json_fini(&doc);
    }
}

/* ---- loading ---- */

static void test_load_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *pointer, *message;
    } cases[] = {
        {"{\n  \"a\": tru}", "", "x.json:2:11: not JSON: unexpected token"},
        {"{\"a\":1,\n \"\\u0061\":2}", "", "x.json:1:2: member \"a\" appears twice"},
        {"{}", "/a", "x.json#/a: there is nothing at this place"},
        {"{}", "a", "x.json#a: there is nothing at this place"},
        {"{\"a~\":{}}", "/a~", "x.json#/a~: there is nothing at this place"},
        {"[]", "", "x.json#: expected a schema: an object, true or false"},
        {"{\"a\":[{},1]}", "/a/1", "x.json#/a/1: expected a schema: an object, true or false"},
        {"{\"a\":[{},1]}", "/a/01", "x.json#/a/01: there is nothing at this place"},
        {"{\"uniqueItems\":true}", "", "x.json#/uniqueItems: this keyword is not supported"},
        {"{\"x-other\":1}", "", "x.json#/x-other: this keyword is not supported"},
        {"{\"properties\":{\"a/b~\":{\"if\":{}}}}", "",
         "x.json#/properties/a~1b~0/if: this keyword is not supported"},
        {"{\"$defs\":{\"unused\":{\"nullable\":true}}}", "",
         "x.json#/$defs/unused/nullable: this keyword is not supported"},
        {"{\"type\":\"int\"}", "",
         "x.json#/type: expected one of null, boolean, integer, number, string, array, object, not \"int\""},
        {"{\"type\":[]}", "", "x.json#/type: expected at least one type"},
        {"{\"minLength\":-1}", "", "x.json#/minLength: expected an integer from 0 to 4294967295"},
        {"{\"minLength\":1.5}", "", "x.json#/minLength: expected an integer from 0 to 4294967295"},
        {"{\"minimum\":\"1\"}", "", "x.json#/minimum: expected a number"},
        {"{\"multipleOf\":0}", "", "x.json#/multipleOf: expected a number above 0 with at most 18 digits"},
        {"{\"pattern\":\"a(\"}", "", "x.json#/pattern: at offset 2: missing closing parenthesis"},
        {"{\"format\":\"ipv4\"}", "",
         "x.json#/format: expected one of uuid, date-time, email, uri, not \"ipv4\""},
        {"{\"required\":[1]}", "", "x.json#/required: expected an array of strings"},
        {"{\"anyOf\":[]}", "", "x.json#/anyOf: expected an array of at least one schema"},
        {"{\"anyOf\":[{},{\"not\":3}]}", "",
         "x.json#/anyOf/1/not: expected a schema: an object, true or false"},
        {"{\"$ref\":\"#/x\"}", "", "x.json#/$ref: #/x leads nowhere"},
        {"{\"$ref\":\"#/%zz\"}", "", "x.json#/$ref: #/%zz leads nowhere"},
        {"{\"$ref\":\"other.json\"}", "",
         "x.json#/$ref: expected a reference into this document, \"#\" or \"#/...\""},
        {"{\"$ref\":\"#name\"}", "",
         "x.json#/$ref: expected a reference into this document, \"#\" or \"#/...\""},
        {"{\"$ref\":\"#\"}", "", "x.json#: a reference leads back to itself without a step into the value"},
        {"{\"anyOf\":[{\"$ref\":\"#/$defs/a\"}],\"$defs\":{\"a\":{\"not\":{\"$ref\":\"#\"}}}}", "",
         "x.json#: a reference leads back to itself without a step into the value"},
        {"{\"a\":{\"$ref\":\"#/b\"},\"b\":{\"items\":{\"$id\":\"x\"}}}", "/a",
         "x.json#/b/items/$id: supported at the root of the document only"},
        {"{\"x-syncgate-length-unit\":\"bytes\"}", "",
         "x.json#/x-syncgate-length-unit: expected one of utf-16, not \"bytes\""},
        {"{\"x-syncgate-zod-check\":{\"startsWith\":\"a\"}}", "",
         "x.json#/x-syncgate-zod-check: expected a pattern beside it"},
        {"{\"pattern\":\"^a.\",\"x-syncgate-zod-check\":{\"startsWith\":\"a.\"}}", "",
         "x.json#/x-syncgate-zod-check: expected the pattern \"^\" followed by this prefix beside it"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {ERR_OK, ""};
        struct schema_set *set = schema_set_parse(span_of(cases[i].text), "x.json", &err);
        if (set && schema_compile(set, cases[i].pointer, &err))
            fail_msg("%s accepted", cases[i].text);
        assert_string_equal(err.text, cases[i].message);
        assert_int_equal(err.code, ERR_CONFIG);
        /* The second try must not find a half-compiled schema. */
        if (set)
            assert_null(schema_compile(set, cases[i].pointer, &err));
        schema_set_freep(&set);
    }
    struct err err;
    assert_null(schema_set_load("/nonexistent/x.json", &err));
    assert_string_equal(err.text, "/nonexistent/x.json: cannot be read: No such file or directory");
}

/* ---- evaluation ---- */

static void test_keywords(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *json;
        bool valid;
    } cases[] = {
        {"{\"minLength\":2}", "\"" EMOJI "\"", false},
        {"{\"minLength\":2,\"x-syncgate-length-unit\":\"utf-16\"}", "\"" EMOJI "\"", true},
        {"{\"x-syncgate-length-unit\":\"utf-16\",\"maxLength\":1}", "\"\\ud83d\\ude00\"", false},
        {"{\"maxLength\":1}", "\"\\ud83d\\ude00\"", true},
        {"{\"type\":\"integer\"}", "1e2", true},
        {"{\"type\":\"integer\"}", "1.5", false},
        {"{\"type\":[\"integer\",\"null\"]}", "null", true},
        {"{\"maximum\":10}", "1e999", false},
        {"{\"minimum\":-10}", "-1e999", false},
        {"{\"multipleOf\":0.0001}", "0.00751", false},
        {"{\"multipleOf\":0.0001}", "0.0075", true},
        {"{\"multipleOf\":0.01}", "1e308", true},
        {"{\"multipleOf\":0.123456789}", "1e308", false},
        {"{\"multipleOf\":3}", "300000000000000000000000000000000000000000000000", true},
        {"{\"multipleOf\":3}", "300000000000000000000000000000000000000000000001", false},
        {"{\"const\":9007199254740993}", "9007199254740992", false},
        {"{\"const\":{\"a\":[1]}}", "{\"a\":[1.0]}", true},
        {"{\"enum\":[]}", "1", false},
        {"{\"additionalProperties\":{\"type\":\"string\"}}", "{\"a\":1,\"a\":\"x\"}", true},
        {"{\"additionalProperties\":{\"type\":\"string\"}}", "{\"a\":\"x\",\"a\":1}", false},
        {"{\"additionalProperties\":false,\"properties\":{\"a\\u00e9\":true}}", "{\"a\xc3\xa9\":1}", true},
        {"{\"required\":[\"a\"],\"additionalProperties\":false}", "{\"a\":1}", false},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"additionalProperties\":false}",
         "{\"a\":{\"a\":{\"b\":1}}}", false},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"additionalProperties\":false}", "{\"a\":{\"a\":{}}}",
         true},
        {"{\"oneOf\":[{\"minimum\":1},{\"maximum\":5}]}", "3", false},
        {"{\"oneOf\":[{\"minimum\":1},{\"maximum\":5}]}", "0", true},
        {"{\"not\":{\"type\":\"string\"}}", "\"\"", false},
        {"{\"items\":{\"type\":\"string\"},\"maxItems\":2}", "[\"a\",1]", false},
        {"{\"pattern\":\"^\\\\d$\"}", "\"\xd9\xa3\"", false},
        {"{\"pattern\":\"^a$\"}", "\"a\\n\"", false},
        {"{\"pattern\":\"^.$\"}", "\"" EMOJI "\"", true},
        {"{\"pattern\":\"\\\\u0061\"}", "\"xax\"", true},
        {"{\"pattern\":\"a\\u0000b\"}", "\"a\\u0000b\"", true},
        {"true", "1", true},
        {"false", "1", false},
        {"{\"x-syncgate-coerce\":\"js-number\",\"type\":\"integer\"}", "\"12\"", true},
        {"{\"x-syncgate-coerce\":\"js-number\",\"type\":\"integer\"}", "\"Infinity\"", false},
        {"{\"x-syncgate-coerce\":\"js-number\",\"type\":\"number\",\"multipleOf\":2}", "\"0x11\"", false},
        {"{\"x-syncgate-coerce\":\"js-boolean\",\"type\":\"boolean\"}", "\"no\"", true},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err;
        struct schema_set *set = schema_set_parse(span_of(cases[i].schema), "x", &err);
        const struct schema *schema = set ? schema_compile(set, "", &err) : NULL;
        if (!schema)
            fail_msg("%s: %s", cases[i].schema, err.text);
        struct json_doc doc = JSON_DOC_INIT;
        struct buf out = BUF_INIT;
        assert_int_equal(json_parse(&doc, span_of(cases[i].json), 100), ERR_OK);
        schema_explain(schema, &doc, json_root(&doc), &out);
        if (schema_valid(schema, &doc, json_root(&doc)) != cases[i].valid || (out.len == 2) != cases[i].valid)
            fail_msg("%s with %s: %.*s", cases[i].schema, cases[i].json, (int)out.len, out.ptr);
        buf_fini(&out);
        json_fini(&doc);
        schema_set_freep(&set);
    }
}

static bool format_accepts(const char *keyword, const char *format, struct span text)
{
    struct err err;
    char source[100];
    struct buf json = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    snprintf(source, sizeof(source), "{\"%s\":\"%s\"}", keyword, format);
    struct schema_set *set = schema_set_parse(span_of(source), "x", &err);
    const struct schema *schema = schema_compile(set, "", &err);
    assert_non_null(schema);
    buf_append_json_string(&json, text);
    assert_int_equal(json_parse(&doc, buf_span(&json), 1), ERR_OK);
    bool valid = schema_valid(schema, &doc, json_root(&doc));
    json_fini(&doc);
    buf_fini(&json);
    schema_set_freep(&set);
    return valid;
}

#define T(s)               \
    {                      \
        (s), sizeof(s) - 1 \
    }

static void test_formats(void **state)
{
    (void)state;
    static const struct {
        const char *keyword, *format;
        struct span good[24], bad[36];
    } cases[] = {
        {"x-syncgate-format",
         "js-date-time",
         {T("2025-08-16T10:00Z"), T("2025-08-16T23:59:59.123456789Z"), T("2024-02-29T00:00:00Z"),
          T("0000-02-29T00:00Z")},
         {T("2025-08-16T10:00:00+07:00"), T("2025-08-16"), T("2025-08-16 10:00:00Z"),
          T("2025-08-16T10:00:00z"), T("2025-08-16t10:00:00Z"), T("2025-08-16T24:00:00Z"),
          T("2025-08-16T10:00:60Z"), T("2025-02-29T10:00Z"), T("1900-02-29T10:00Z"),
          T("2025-08-16T10:00:00.Z"), T("2025-08-16T10:00.5Z"), T("2025-08-16T10:00"),
          T("2025-08-16T10:00:00Z\n"), T("2025-08-16T10:00:00"), T("2025-08-16T10:00:0Z"),
          T("2025-08-16T10:00:")}},
        {"format",
         "date-time",
         {T("2025-08-16T10:00:00+07:00"), T("2025-08-16t10:00:00z"), T("1998-12-31T15:59:60.1-08:00"),
          T("2017-01-01T05:29:60+05:30")},
         {T("2025-08-16T10:00Z"), T("2025-08-16T10:00:00"), T("1998-12-31T23:58:60Z"),
          T("2025-08-16T10:00:00+7:00"), T("2025-08-16T10:00:00."), T("2025-08-16T10:00:00Z\0"),
          T("2025-08-16T10:00:00+07:0")}},
        {"x-syncgate-format",
         "js-email",
         {T("a@b.co"), T("A_+-'B1@x-1.y.Co"), T("a.b@c-.de")},
         {T("a@b"), T(".a@b.co"), T("a.@b.co"), T("a'@b.co"), T("a..b@c.de"), T("a@b.c"), T("a@b.c1"),
          T("a@-b.co"), T("a@b..co"), T("@b.co"), T("a@b.co "), T("a@b@c.de"), T("\xc3\xa4@b.co"),
          T("a@b.co\0"), T("a"), T("")}},
        {"format",
         "email",
         {T("\"a b@c\"@d.e"), T("a@localhost"), T("a@[127.0.0.1]"), T("a@[IPv6:::1]"),
          T("!#$%&'*+-/=?^_`{|}~@x")},
         {T("a@[1.2.3]"), T("a@"), T("\"a@b"), T("a b@c"), T("a@b-"), T("a@b_c"), T("\"\\\"@b"),
          T("a@b.c\0")}},
        {"x-syncgate-format",
         "js-url",
         {T("a:b"), T("http:x"), T("http://[::1]:80/"), T("http://u:p@h"), T("foo://"), T("file:"),
          T(" http://x\n"), T("ht\ttp://x"), T("http://0x7f.1"), T("javascript:alert(1)"),
          T("http://ex%41mple"), T("file://c|/x"), T("http://\xc3\xa9.com")},
         {T("//a"),
          T("www.a.b"),
          T("http://"),
          T("http:///"),
          T("http://x:99999"),
          T("http://x:a"),
          T("http://[::1"),
          T("http://a b"),
          T("http://a%00b"),
          T("http://1.2.3.999"),
          T("http://1.2.3.4.5"),
          T("http://08.1"),
          T("http://u@"),
          T("foo://:80"),
          T("foo://a^b"),
          T("file://h:1/"),
          T("1a:b"),
          T(":"),
          T(""),
          T("http://@"),
          T("http://["),
          T("http://256.256.256.256"),
          T("http://4294967296")}},
        {"format",
         "uri",
         {T("a:"), T("urn:a:b"), T("http://[v1.x:y]/"), T("http://[::1]:/?q#f"), T("a://b@c:1/%20")},
         {T("a"), T("//b"), T(":x"), T("1a:b"), T("a:b c"), T("a:%2"), T("a:%zz"), T("a://[::1"),
          T("a://[v1.]"), T("a://b:c"), T("a:#b#c"), T("a:b\0"), T("a:[")}},
        {"x-syncgate-format",
         "js-uuid",
         {T("00000000-0000-0000-0000-000000000000"), T("FFFFFFFF-ffff-0000-9999-abcdefABCDEF")},
         {T("{0000000-0000-0000-0000-00000000000}"), T("00000000000000000000000000000000"),
          T("00000000-0000-0000-0000-0000000000000"), T("0000000g-0000-0000-0000-000000000000")}},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        for (const struct span *text = cases[i].good; text->ptr; text++) {
            if (!format_accepts(cases[i].keyword, cases[i].format, *text))
                fail_msg("%s refuses %s", cases[i].format, text->ptr);
        }
        for (const struct span *text = cases[i].bad; text->ptr; text++) {
            if (format_accepts(cases[i].keyword, cases[i].format, *text))
                fail_msg("%s accepts %s", cases[i].format, text->ptr);
        }
    }
}

static void test_line(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *json, *line;
    } cases[] = {
        {"BindDeviceQrRequest", "{\"qrData\":{\"deviceId\":\"\",\"bindingToken\":\"x\"}}",
         "body.qrData.bindingToken: string must contain at least 16 character(s)"},
        {"BindDeviceQrRequest", "{\"qrData\":4}", "body.qrData: matches none of the alternatives"},
        {"UnbindDeviceRequest", "{}", "body.deviceId: expected string, but it is missing"},
        {"UnbindDeviceRequest", "{\"deviceId\":[]}", "body.deviceId: expected string, received array"},
        {"UnbindDeviceRequest", "7", "body: expected object, received number"},
        {"UnbindDeviceRequest", "{\"deviceId\":\"\"}", "body: valid"},
        {"QrMinimal", "{\"deviceId\":\"\",\"fingerprint\":\"\",\"a\\nb\":1}",
         "body: unrecognized key(s) in object: 'a\\nb'"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char pointer[100];
        struct json_doc doc = JSON_DOC_INIT;
        struct buf out = BUF_INIT;
        snprintf(pointer, sizeof(pointer), "/components/schemas/%s", cases[i].schema);
        assert_int_equal(json_parse(&doc, span_of(cases[i].json), 100), ERR_OK);
        schema_explain_line(compile(openapi, pointer), &doc, json_root(&doc), &out);
        buf_append_char(&out, '\0');
        assert_string_equal(out.ptr, cases[i].line);
        buf_fini(&out);
        json_fini(&doc);
    }
}

/* What a pattern says of a text does not depend on whether PCRE2 may compile it for the machine (it may not where memory cannot
 * be made executable), nor on the stack of what it compiled. */
static void test_interpreted_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *schema;
        size_t repeats; /* of "ab," before an x */
        bool valid;
    } cases[] = {
        {"{\"pattern\":\"(*NO_JIT)^(?:[a-z]+,)*x$\"}", 2, true},
        {"{\"pattern\":\"(*NO_JIT)^(?:[a-z]+,)*y$\"}", 2, false},
        {"{\"pattern\":\"(*NO_JIT)b,x\"}", 2, true},
        {"{\"pattern\":\"^([a-z]+,)*x$\"}", 800, true},
        {"{\"pattern\":\"^([a-z]+,)*x$\"}", 3000, true},
        {"{\"pattern\":\"^([a-z]+,)*y$\"}", 3000, false},
        {"{\"pattern\":\"^([a-z]+,)*x$\"}", 30000, false}, /* too many steps */
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err;
        struct buf text = BUF_INIT;
        struct json_doc doc = JSON_DOC_INIT;
        buf_append_char(&text, '"');
        for (size_t n = 0; n < cases[i].repeats; n++)
            buf_append_lit(&text, "ab,");
        buf_append_lit(&text, "x\"");
        assert_int_equal(json_parse(&doc, buf_span(&text), 10), ERR_OK);
        struct schema_set *set = schema_set_parse(span_of(cases[i].schema), "x", &err);
        if (schema_valid(compile(set, ""), &doc, json_root(&doc)) != cases[i].valid)
            fail_msg("%s, %zu times", cases[i].schema, cases[i].repeats);
        schema_set_freep(&set);
        json_fini(&doc);
        buf_fini(&text);
    }
}

/* ---- hostile input ---- */

/* Patterns and objects that would take minutes if a step were missing its bound. */
static void test_hostile(void **state)
{
    (void)state;
    struct err err;
    static const char *const patterns[] = {"{\"pattern\":\"^(a+)+$\"}", "{\"pattern\":\"(a|aa)+b\"}",
                                           "{\"pattern\":\"(.*)(.*)(.*)(.*)x\"}"};
    struct buf text = BUF_INIT;
    struct json_doc doc = JSON_DOC_INIT;
    buf_append_char(&text, '"');
    for (int i = 0; i < 100000; i++)
        buf_append_char(&text, 'a');
    buf_append_lit(&text, "!\"");
    assert_int_equal(json_parse(&doc, buf_span(&text), 10), ERR_OK);
    uint64_t start = clock_mono_ns();
    for (size_t i = 0; i < SG_ARRAY_LEN(patterns); i++) {
        struct schema_set *set = schema_set_parse(span_of(patterns[i]), "x", &err);
        assert_false(schema_valid(compile(set, ""), &doc, json_root(&doc)));
        schema_set_freep(&set);
    }
    /* Twice the same 9000 names, first with values that would be invalid. */
    buf_clear(&text);
    buf_append_char(&text, '{');
    for (int i = 0; i < 18000; i++)
        buf_printf(&text, "%s\"%04d\":%s", i ? "," : "", i % 9000, i < 9000 ? "1" : "\"\"");
    buf_append_char(&text, '}');
    assert_int_equal(json_parse(&doc, buf_span(&text), 100000), ERR_OK);
    struct schema_set *set =
        schema_set_parse(SPAN_LIT("{\"additionalProperties\":{\"type\":\"string\"}}"), "x", &err);
    assert_true(schema_valid(compile(set, ""), &doc, json_root(&doc)));
    schema_set_freep(&set);
    assert_true(clock_mono_ns() - start < 20 * SG_NSEC_PER_SEC);
    json_fini(&doc);
    buf_fini(&text);
}

static void *validate_often(void *arg)
{
    struct json_doc doc = JSON_DOC_INIT;
    uintptr_t wrong = 0;
    struct span text = SPAN_LIT(
        "{\"qrData\":{\"deviceId\":\"\\u0061\",\"fingerprint\":\"\",\"keyHash\":\"sha25\\u0036-x\"}}");
    for (int i = 0; i < 2000; i++) {
        if (json_parse(&doc, text, 100) != ERR_OK || !schema_valid(arg, &doc, json_root(&doc)))
            wrong++;
    }
    json_fini(&doc);
    return (void *)wrong;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[4];
    const struct schema *schema = compile(openapi, "/components/schemas/BindDeviceQrRequest");
    for (size_t i = 0; i < SG_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, validate_often, (void *)(uintptr_t)schema), 0);
    for (size_t i = 0; i < SG_ARRAY_LEN(threads); i++) {
        void *wrong;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openapi_compiles),
        cmocka_unit_test(test_bind),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_validation_body),
        cmocka_unit_test(test_load_errors),
        cmocka_unit_test(test_keywords),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_interpreted_patterns),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, load_openapi, free_openapi);
}
