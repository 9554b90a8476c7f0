/* SPDX-License-Identifier: Apache-2.0 */
/* The first byte picks a schema of openapi/openapi.json (or one of ours with every keyword), the rest is a
 * body. schema_valid() and schema_explain() must agree, and the issues must be JSON. */
#include <stdio.h>

#include "syncgate/base.h"
#include "syncgate/schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char all_keywords[] =
    "{\"properties\":{\"self\":{\"$ref\":\"#\"},\"s\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":9,"
    "\"x-syncgate-length-unit\":\"utf-16\",\"pattern\":\"^(a|b)*c?$\"},"
    "\"n\":{\"type\":[\"integer\",\"null\"],\"minimum\":-3,\"exclusiveMaximum\":100,\"multipleOf\":0.3},"
    "\"c\":{\"const\":{\"a\":[1,\"x\"]}},\"e\":{\"enum\":[1,\"a\",null,[],{}]},\"u\":{\"type\":[\"string\","
    "\"array\"]},"
    "\"l\":{\"items\":{\"oneOf\":[{\"type\":\"number\"},{\"minimum\":3},false]},\"minItems\":1,\"maxItems\":"
    "4},"
    "\"a\":{\"allOf\":[{\"not\":{\"type\":\"boolean\"}},{\"anyOf\":[{\"maximum\":5},{\"type\":\"string\"}]}]}"
    ","
    "\"d\":{\"format\":\"date-time\"},\"d2\":{\"x-syncgate-format\":\"js-date-time\"},\"m\":{\"format\":"
    "\"email\"},"
    "\"m2\":{\"x-syncgate-format\":\"js-email\"},\"r\":{\"format\":\"uri\"},\"r2\":{\"x-syncgate-format\":"
    "\"js-url\"},"
    "\"i\":{\"format\":\"uuid\"},\"q\":{\"type\":\"number\",\"maximum\":9,\"x-syncgate-coerce\":\"js-"
    "number\"},"
    "\"rec\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}}},\"required\":[\"zz\","
    "\"s\"],"
    "\"additionalProperties\":false}";
static const char *const pointers[] = {
    "/components/schemas/BindDeviceQrRequest",          "/components/schemas/UnbindDeviceRequest",
    "/components/schemas/GenerateDeviceQrRequest",      "/components/schemas/MyDevicesQuery",
    "/components/schemas/AdminDevicesResponse",         "/components/schemas/ErrorValidation",
    "/components/schemas/TransferDeviceToGroupRequest",
};
static const struct schema *schemas[SG_ARRAY_LEN(pointers) + 1];

static void compile_all(void)
{
    struct err err = {ERR_OK, ""};
    static struct schema_set *openapi, *own; /* kept to the end of the process */
    openapi = schema_set_load(SYNCGATE_SOURCE_ROOT "/openapi/openapi.json", &err);
    own = schema_set_parse(span_of(all_keywords), "all keywords", &err);
    for (size_t i = 0; i < SG_ARRAY_LEN(pointers); i++)
        schemas[i] = openapi ? schema_compile(openapi, pointers[i], &err) : NULL;
    schemas[SG_ARRAY_LEN(pointers)] = own ? schema_compile(own, "", &err) : NULL;
    for (size_t i = 0; i < SG_ARRAY_LEN(schemas); i++) {
        if (!schemas[i]) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct json_doc doc, issues;
    if (!schemas[0])
        compile_all();
    if (size == 0 || json_parse(&doc, (struct span){(const char *)data + 1, size - 1}, 100000) != ERR_OK)
        return 0;
    const struct schema *schema = schemas[data[0] % SG_ARRAY_LEN(schemas)];
    struct buf out = BUF_INIT;
    schema_explain(schema, &doc, json_root(&doc), &out);
    SG_ASSERT(buf_ok(&out));
    SG_ASSERT(schema_valid(schema, &doc, json_root(&doc)) == span_eq(buf_span(&out), SPAN_LIT("[]")));
    /* The issues quote at most what is in the body, whose depth is bounded. */
    enum err_code code = json_parse(&issues, buf_span(&out), UINT32_MAX);
    SG_ASSERT(code == ERR_OK || strcmp(issues.err_what, "too deep") == 0);
    buf_clear(&out);
    schema_explain_line(schema, &doc, json_root(&doc), &out);
    SG_ASSERT(buf_ok(&out) && out.len > 0 && !memchr(out.ptr, '\n', out.len));
    buf_fini(&out);
    return 0;
}
