/* SPDX-License-Identifier: Apache-2.0 */
/* The order of keys inside an issue, and of issues, is the one clients of the legacy backend see. */
#include "check.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices.h"

enum kind { KIND_STRING /* the default */, KIND_NUMBER, KIND_QUERY_NUMBER, KIND_ENUM, KIND_UUID, KIND_QR };
/* A dirty value has the right type, but not the right content. Unions treat the two failures differently. */
enum verdict { VALID, DIRTY, INVALID };

struct field {
    const char *name;
    enum kind kind;
    bool optional;
    int min, max; /* of a number, or of a string's length; 0: none */
    const char *prefix;
    const char *options[6];
};

struct check_shape {
    bool strict; /* unknown keys are refused, not ignored */
    struct field fields[6];
};

const struct check_shape check_generate_qr_body = {
    true,
    {{.name = "deviceId"},
     {.name = "model"},
     {.name = "firmwareVersion"},
     {.name = "publicKeyPem"},
     {.name = "qrType", .kind = KIND_ENUM, .optional = true, .options = {"minimal", "token", "hash"}}}};
const struct check_shape check_bind_body = {true, {{.name = "qrData", .kind = KIND_QR}}};
const struct check_shape check_unbind_body = {false,
                                              {{.name = "deviceId"}, {.name = "reason", .optional = true}}};
const struct check_shape check_my_query = {
    false,
    {{.name = "page", .kind = KIND_QUERY_NUMBER, .optional = true, .min = 1},
     {.name = "limit", .kind = KIND_QUERY_NUMBER, .optional = true, .min = 1, .max = 100},
     {.name = "status", .kind = KIND_ENUM, .optional = true, .options = {"bound", "suspended"}}}};
const struct check_shape check_admin_query = {
    false,
    {{.name = "page", .kind = KIND_QUERY_NUMBER, .optional = true, .min = 1},
     {.name = "limit", .kind = KIND_QUERY_NUMBER, .optional = true, .min = 1, .max = 100},
     {.name = "status",
      .kind = KIND_ENUM,
      .optional = true,
      .options = {"manufactured", "unbound", "bound", "suspended", "revoked"}},
     {.name = "model", .optional = true},
     {.name = "ownerId", .kind = KIND_UUID, .optional = true}}};
static const struct check_shape qr_shapes[] = {
    {true,
     {{.name = "deviceId"}, {.name = "fingerprint"}, {.name = "v", .kind = KIND_NUMBER, .optional = true}}},
    {true,
     {{.name = "deviceId"},
      {.name = "bindingToken", .min = 16, .max = 64},
      {.name = "v", .kind = KIND_NUMBER, .optional = true}}},
    {true,
     {{.name = "deviceId"},
      {.name = "fingerprint"},
      {.name = "keyHash", .prefix = "sha256-"},
      {.name = "v", .kind = KIND_NUMBER, .optional = true}}},
};
#define QR_SHAPES (sizeof(qr_shapes) / sizeof(qr_shapes[0]))

bool check_is_uuid(const char *text)
{
    for (int i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false;
    return text[36] == '\0';
}

size_t check_utf16_len(const char *text)
{
    size_t len = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        len += (*c & 0xC0) != 0x80 ? 1 + (*c >= 0xF0) : 0;
    return len;
}

double check_number(const json_t *value)
{
    const char *text = json_string_value(value), *digits;
    if (!text)
        return NAN;
    text += strspn(text, " \t\r\n\v\f");
    size_t len = strlen(text);
    while (len && strchr(" \t\r\n\v\f", text[len - 1]))
        len--;
    if (len == 0)
        return 0;
    char *end;
    double number;
    int base = text[0] != '0'          ? 10
               : (text[1] | 32) == 'x' ? 16
               : (text[1] | 32) == 'o' ? 8
               : (text[1] | 32) == 'b' ? 2
                                       : 10;
    if (base != 10) {
        if (!isxdigit((unsigned char)text[2]))
            return NAN;
        number = (double)strtoull(text + 2, &end, base);
        return end == text + len ? number : NAN;
    }
    digits = text + (*text == '+' || *text == '-');
    if (strncmp(digits, "Infinity", 8) == 0)
        return digits + 8 == text + len ? (*text == '-' ? -INFINITY : INFINITY) : NAN;
    /* strtod() also knows "inf", "nan" and a sign before hexadecimal digits. */
    if ((!isdigit((unsigned char)*digits) && *digits != '.') || strpbrk(digits, "xX"))
        return NAN;
    number = strtod(text, &end);
    return end == text + len ? number : NAN;
}

static const char *type_name(const json_t *value)
{
    if (!value)
        return "undefined";
    static const char *const names[] = {
        [JSON_OBJECT] = "object",  [JSON_ARRAY] = "array", [JSON_STRING] = "string",
        [JSON_INTEGER] = "number", [JSON_REAL] = "number", [JSON_TRUE] = "boolean",
        [JSON_FALSE] = "boolean",  [JSON_NULL] = "null",
    };
    return names[json_typeof(value)];
}

/* "'a'SEPARATOR'b'", owned. */
static char *quoted_list(const char *const *names, size_t count, const char *separator)
{
    size_t size = 1;
    for (size_t i = 0; i < count; i++)
        size += strlen(names[i]) + strlen(separator) + 2;
    char *list = or_die(calloc(1, size)), *end = list;
    for (size_t i = 0; i < count; i++)
        end += sprintf(end, "%s'%s'", i ? separator : "", names[i]);
    return list;
}

static enum verdict wrong_type(json_t *issues, json_t *path, const char *expected, const char *received)
{
    json_t *message = strcmp(received, "undefined") == 0
                          ? json_string("Required")
                          : json_sprintf("Expected %s, received %s", expected, received);
    json_array_append_new(issues, json_pack("{ss ss ss sO so}", "code", "invalid_type", "expected", expected,
                                            "received", received, "path", path, "message", message));
    return INVALID;
}

/* is_max: too_big, else too_small. unit: "string" or "number". */
static enum verdict out_of_range(json_t *issues, json_t *path, const char *unit, int bound, bool is_max)
{
    json_t *message =
        strcmp(unit, "string") == 0
            ? json_sprintf("String must contain at %s %d character(s)", is_max ? "most" : "least", bound)
            : json_sprintf("Number must be %s than or equal to %d", is_max ? "less" : "greater", bound);
    json_array_append_new(issues,
                          json_pack("{ss si ss sb sb so sO}", "code", is_max ? "too_big" : "too_small",
                                    is_max ? "maximum" : "minimum", bound, "type", unit, "inclusive", 1,
                                    "exact", 0, "message", message, "path", path));
    return DIRTY;
}

static enum verdict check_range(json_t *issues, json_t *path, const struct field *field, double size,
                                const char *unit)
{
    enum verdict verdict = VALID;
    if (field->min && size < field->min)
        verdict = out_of_range(issues, path, unit, field->min, false);
    if (field->max && size > field->max)
        verdict = out_of_range(issues, path, unit, field->max, true);
    return verdict;
}

static enum verdict check_enum(const json_t *value, const struct field *field, json_t *path, json_t *issues)
{
    size_t count = 0;
    const char *text = json_string_value(value);
    json_t *options = json_array();
    for (; count < 6 && field->options[count]; count++) {
        json_array_append_new(options, json_string(field->options[count]));
        if (text && strcmp(text, field->options[count]) == 0) {
            json_decref(options);
            return VALID;
        }
    }
    char *expected = quoted_list(field->options, count, " | ");
    json_t *issue;
    if (text)
        issue = json_pack("{sO ss sO sO so}", "received", value, "code", "invalid_enum_value", "options",
                          options, "path", path, "message",
                          json_sprintf("Invalid enum value. Expected %s, received '%s'", expected, text));
    else
        issue = json_pack("{ss ss ss sO so}", "expected", expected, "received", type_name(value), "code",
                          "invalid_type", "path", path, "message",
                          value ? json_sprintf("Expected %s, received %s", expected, type_name(value))
                                : json_string("Required"));
    json_array_append_new(issues, issue);
    json_decref(options);
    free(expected);
    return INVALID;
}

static enum verdict check_string(const json_t *value, const struct field *field, json_t *path, json_t *issues)
{
    if (!json_is_string(value))
        return wrong_type(issues, path, "string", type_name(value));
    const char *text = json_string_value(value);
    enum verdict verdict = check_range(issues, path, field, (double)check_utf16_len(text), "string");
    if (field->prefix && strncmp(text, field->prefix, strlen(field->prefix)) != 0) {
        json_t *message = json_sprintf("Invalid input: must start with \"%s\"", field->prefix);
        json_array_append_new(issues,
                              json_pack("{ss s{ss} so sO}", "code", "invalid_string", "validation",
                                        "startsWith", field->prefix, "message", message, "path", path));
        verdict = DIRTY;
    }
    if (field->kind == KIND_UUID && !check_is_uuid(text)) {
        json_array_append_new(issues, json_pack("{ss ss ss sO}", "validation", "uuid", "code",
                                                "invalid_string", "message", "Invalid uuid", "path", path));
        verdict = DIRTY;
    }
    return verdict;
}

static enum verdict check_object(const json_t *value, const struct check_shape *shape, json_t *path,
                                 json_t *issues);

/* One of three shapes. The first that fails by content only speaks for the union; else all three do. */
static enum verdict check_qr(const json_t *value, json_t *path, json_t *issues)
{
    json_t *errors = json_array(), *dirty = NULL;
    enum verdict verdict = INVALID;
    for (size_t i = 0; i < QR_SHAPES && verdict != VALID; i++) {
        json_t *own = json_array();
        verdict = check_object(value, &qr_shapes[i], path, own);
        if (verdict == DIRTY && !dirty)
            dirty = json_incref(own);
        json_array_append_new(errors, json_pack("{so ss}", "issues", own, "name", "ZodError"));
    }
    if (verdict != VALID && dirty) {
        json_array_extend(issues, dirty);
        verdict = DIRTY;
    } else if (verdict != VALID) {
        json_array_append_new(issues, json_pack("{ss sO sO ss}", "code", "invalid_union", "unionErrors",
                                                errors, "path", path, "message", "Invalid input"));
        verdict = INVALID;
    }
    json_decref(dirty);
    json_decref(errors);
    return verdict;
}

static enum verdict check_field(const json_t *value, const struct field *field, json_t *path, json_t *issues)
{
    double number;
    if (!value && field->optional)
        return VALID;
    switch (field->kind) {
    case KIND_NUMBER:
        return json_is_number(value) ? VALID : wrong_type(issues, path, "number", type_name(value));
    case KIND_QUERY_NUMBER:
        number = check_number(value);
        return isnan(number) ? wrong_type(issues, path, "number", "nan")
                             : check_range(issues, path, field, number, "number");
    case KIND_ENUM:
        return check_enum(value, field, path, issues);
    case KIND_QR:
        return check_qr(value, path, issues);
    default:
        return check_string(value, field, path, issues);
    }
}

/* An array index, which JavaScript keeps in front of an object's other keys, in ascending order; else -1. */
static long long key_index(const char *key)
{
    size_t len = strlen(key);
    if (len == 0 || len > 10 || strspn(key, "0123456789") != len || (key[0] == '0' && len > 1))
        return -1;
    long long index = strtoll(key, NULL, 10);
    return index < 4294967295 ? index : -1;
}

static int compare_indexes(const void *a, const void *b)
{
    long long x = key_index(*(const char *const *)a), y = key_index(*(const char *const *)b);
    return x < y ? -1 : x > y;
}

/* Moves the indexes to the front; the others stay in their order. */
static void order_keys(const char **names, size_t count)
{
    const char **others = or_die(calloc(count + 1, sizeof(*others)));
    size_t index_count = 0, other_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (key_index(names[i]) < 0)
            others[other_count++] = names[i];
        else
            names[index_count++] = names[i];
    }
    memcpy(names + index_count, others, other_count * sizeof(*others));
    qsort(names, index_count, sizeof(*names), compare_indexes);
    free(others);
}

static enum verdict check_unknown_keys(const json_t *value, const struct check_shape *shape, json_t *path,
                                       json_t *issues)
{
    const char *key;
    json_t *member, *keys = json_array();
    const char **names = or_die(calloc(json_object_size(value) + 1, sizeof(*names)));
    size_t count = 0;
    json_object_foreach((json_t *)value, key, member)
    {
        const struct field *field = shape->fields;
        while (field->name && strcmp(field->name, key) != 0)
            field++;
        if (!field->name)
            names[count++] = key;
    }
    order_keys(names, count);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(keys, json_string(names[i]));
    if (count) {
        char *list = quoted_list(names, count, ", ");
        json_array_append_new(issues, json_pack("{ss sO sO so}", "code", "unrecognized_keys", "keys", keys,
                                                "path", path, "message",
                                                json_sprintf("Unrecognized key(s) in object: %s", list)));
        free(list);
    }
    free(names);
    json_decref(keys);
    return count ? DIRTY : VALID;
}

static enum verdict check_object(const json_t *value, const struct check_shape *shape, json_t *path,
                                 json_t *issues)
{
    if (!json_is_object(value))
        return wrong_type(issues, path, "object", type_name(value));
    enum verdict worst = VALID;
    for (const struct field *field = shape->fields; field->name; field++) {
        json_t *field_path = json_copy(path);
        json_array_append_new(field_path, json_string(field->name));
        enum verdict verdict = check_field(json_object_get(value, field->name), field, field_path, issues);
        json_decref(field_path);
        worst = verdict > worst ? verdict : worst;
    }
    if (shape->strict && check_unknown_keys(value, shape, path, issues) > worst)
        worst = DIRTY;
    return worst;
}

json_t *check(const json_t *value, const struct check_shape *shape)
{
    json_t *path = json_array(), *issues = json_array(), *problems = NULL;
    if (check_object(value, shape, path, issues) != VALID)
        problems = json_pack("{sO ss}", "issues", issues, "name", "ZodError");
    json_decref(path);
    json_decref(issues);
    return problems;
}
