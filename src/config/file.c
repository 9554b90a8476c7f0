/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file: JSON (RFC 8259), keys nested as the option table's dots say. null means not set. */
#include "loader.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#define FILE_MAX     ((size_t)1024 * 1024)
#define PATH_MAX_LEN 160

struct file_loader {
    struct loader *loader;
    const char *file;
};

static void make_place(const struct file_loader *self, const char *path, char out[PLACE_MAX])
{
    snprintf(out, PLACE_MAX, "%.90s: $%s%.150s", self->file, *path ? "." : "", path);
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a whole number";
    case JSON_REAL:
        return "a number with a fraction or exponent";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

/* A string, whole number or boolean as the text it would be in the environment. */
static bool append_scalar(const json_t *value, bool numbers, bool booleans, struct buf *out)
{
    if (json_is_string(value))
        buf_append(out, json_string_value(value), json_string_length(value));
    else if (json_is_integer(value) && numbers)
        buf_append_i64(out, json_integer_value(value));
    else if (json_is_boolean(value) && booleans)
        buf_append_span(out, json_is_true(value) ? SPAN_LIT("true") : SPAN_LIT("false"));
    else
        return false;
    return true;
}

static bool append_value(const struct option *option, const json_t *value, struct buf *out)
{
    bool numbers =
        option->type == OPTION_UINT || option->type == OPTION_DURATION || option->type == OPTION_SIZE;
    bool flag =
        option->type == OPTION_BOOL || option->offset == offsetof(struct config, feature_kafka_events);
    bool list =
        option->type == OPTION_CIDRS || option->type == OPTION_BROKERS || option->type == OPTION_ALGORITHMS;
    if (!list || !json_is_array(value))
        return append_scalar(value, numbers, flag, out);
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        if (i > 0)
            buf_append_char(out, ',');
        if (!append_scalar(item, false, false, out))
            return false;
    }
    return json_array_size(value) > 0;
}

static enum err_code take_option(struct file_loader *self, const struct option *option, const char *path,
                                 const json_t *value)
{
    char place[PLACE_MAX], expected[EXPECTED_MAX];
    struct buf text = BUF_INIT;
    enum err_code code;
    make_place(self, path, place);
    if (!append_value(option, value, &text)) {
        option_expected(option, expected, sizeof(expected));
        code = err_set(self->loader->err, ERR_CONFIG, "%s: expected %s, found %s", place, expected,
                       type_name(value));
    } else {
        buf_append_char(&text, '\0');
        code = buf_ok(&text) ? loader_set(self->loader, option, place, text.ptr)
                             : loader_no_memory(self->loader);
    }
    secret_fini(&text);
    return code;
}

/* "hs256SecretFile": the path of a file that holds the secret. */
static enum err_code take_secret_file(struct file_loader *self, const struct option *option, const char *path,
                                      const json_t *value)
{
    char place[PLACE_MAX];
    make_place(self, path, place);
    if (!json_is_string(value))
        return err_set(self->loader->err, ERR_CONFIG, "%s: expected the path of a file, found %s", place,
                       type_name(value));
    if (self->loader->values[option - options].text)
        return err_set(self->loader->err, ERR_CONFIG,
                       "%s: expected either the secret or its file, found both", place);
    struct buf text = BUF_INIT;
    enum err_code code = loader_read_secret(self->loader, place, json_string_value(value), &text);
    if (code == ERR_OK)
        code = loader_set(self->loader, option, place, text.ptr);
    secret_fini(&text);
    return code;
}

static enum err_code take_properties(struct file_loader *self, json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        char path[PATH_MAX_LEN], place[PLACE_MAX], shown[SHOWN_MAX];
        struct buf text = BUF_INIT;
        show_text(name, shown);
        snprintf(path, sizeof(path), "kafka.properties[%.120s]", shown);
        make_place(self, path, place);
        enum err_code code;
        if (!*name || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._") != strlen(name)) {
            code = err_set(self->loader->err, ERR_CONFIG, "%s: expected the name of a librdkafka property",
                           place);
        } else if (json_is_null(value)) {
            code = ERR_OK;
        } else if (!append_scalar(value, true, true, &text)) {
            code = err_set(self->loader->err, ERR_CONFIG,
                           "%s: expected a string, a whole number or a boolean, found %s", place,
                           type_name(value));
        } else {
            buf_append_char(&text, '\0');
            code = buf_ok(&text) ? loader_set_property(self->loader, place, name, text.ptr)
                                 : loader_no_memory(self->loader);
        }
        secret_fini(&text);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

static bool has_feature(const struct config *config, const char *operation)
{
    for (size_t i = 0; i < config->feature_count; i++) {
        if (strcmp(config->features[i].operation, operation) == 0)
            return true;
    }
    return false;
}

static enum err_code take_operation(struct file_loader *self, const char *name, const json_t *value)
{
    char path[PATH_MAX_LEN], place[PLACE_MAX], shown[SHOWN_MAX];
    struct buf operation = BUF_INIT, text = BUF_INIT;
    enum err_code code = ERR_OK;
    show_text(name, shown);
    snprintf(path, sizeof(path), "feature.operations[%.120s]", shown);
    make_place(self, path, place);
    config_operation_name(span_of(name), &operation);
    buf_append_char(&operation, '\0');
    bool good = append_scalar(value, false, true, &text);
    buf_append_char(&text, '\0');
    if (!buf_ok(&operation) || !buf_ok(&text))
        code = loader_no_memory(self->loader);
    else if (!*name)
        code = err_set(self->loader->err, ERR_CONFIG, "%s: expected an operationId", place);
    else if (!good)
        code =
            err_set(self->loader->err, ERR_CONFIG,
                    "%s: expected a flag's value as a string or boolean, found %s", place, type_name(value));
    else if (has_feature(self->loader->config, operation.ptr))
        code = err_set(self->loader->err, ERR_CONFIG, "%s: expected each operation once, found %s again",
                       place, operation.ptr);
    else
        code = loader_set_feature(self->loader, place, operation.ptr, text.ptr);
    buf_fini(&operation);
    buf_fini(&text);
    return code;
}

static enum err_code take_operations(struct file_loader *self, json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        enum err_code code = json_is_null(value) ? ERR_OK : take_operation(self, name, value);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

/* If `path` begins with the group `prefix` ("" or "kafka"), the name after it; else NULL. */
static const char *name_in(const char *path, const char *prefix)
{
    size_t len = strlen(prefix);
    if (len == 0)
        return path;
    return strncmp(path, prefix, len) == 0 && path[len] == '.' ? path + len + 1 : NULL;
}

static enum err_code unknown_key(struct file_loader *self, const char *prefix, const char *key)
{
    char place[PLACE_MAX], shown[SHOWN_MAX], candidate[OPTION_NAME_MAX], best[OPTION_NAME_MAX] = "";
    size_t best_distance = strlen(key) / 3 + 2;
    static const char *const more[] = {"kafka.properties", "feature.operations"};
    for (size_t i = 0; i < option_count + SG_ARRAY_LEN(more); i++) {
        const char *name = name_in(i < option_count ? options[i].key : more[i - option_count], prefix);
        if (!name)
            continue;
        snprintf(candidate, sizeof(candidate), "%.*s", (int)strcspn(name, "."), name);
        size_t distance = text_distance(key, candidate);
        if (distance >= best_distance)
            continue;
        best_distance = distance;
        memcpy(best, candidate, sizeof(best));
    }
    make_place(self, prefix, place);
    show_text(key, shown);
    return err_set(self->loader->err, ERR_CONFIG, "%s: unknown key %.150s%s%s%s", place, shown,
                   *best ? "; did you mean \"" : "", best, *best ? "\"?" : "");
}

static bool is_group(const char *path)
{
    for (size_t i = 0; i < option_count; i++) {
        if (name_in(options[i].key, path))
            return true;
    }
    return false;
}

static enum err_code take_group(struct file_loader *self, json_t *object, const char *prefix);

static enum err_code take_member(struct file_loader *self, const char *prefix, const char *key, json_t *value)
{
    char path[PATH_MAX_LEN], place[PLACE_MAX];
    snprintf(path, sizeof(path), "%s%s%.100s", prefix, *prefix ? "." : "", key);
    if (!*key || strchr(key, '.'))
        return unknown_key(self, prefix, key);
    for (size_t i = 0; i < option_count; i++) {
        char file_key[OPTION_NAME_MAX];
        snprintf(file_key, sizeof(file_key), "%sFile", options[i].key);
        if (strcmp(path, options[i].key) == 0)
            return json_is_null(value) ? ERR_OK : take_option(self, &options[i], path, value);
        if (options[i].secret && strcmp(path, file_key) == 0)
            return json_is_null(value) ? ERR_OK : take_secret_file(self, &options[i], path, value);
    }
    bool properties = strcmp(path, "kafka.properties") == 0,
         operations = strcmp(path, "feature.operations") == 0;
    if (!properties && !operations && !is_group(path))
        return unknown_key(self, prefix, key);
    if (json_is_null(value))
        return ERR_OK;
    make_place(self, path, place);
    if (!json_is_object(value))
        return err_set(self->loader->err, ERR_CONFIG, "%s: expected an object, found %s", place,
                       type_name(value));
    return properties   ? take_properties(self, value)
           : operations ? take_operations(self, value)
                        : take_group(self, value, path);
}

/* Recursion ends at the table's depth: deeper objects are no group. */
static enum err_code take_group(struct file_loader *self, json_t *object, const char *prefix)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        enum err_code code = take_member(self, prefix, key, value);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

enum err_code loader_take_file(struct loader *loader, const char *file)
{
    struct file_loader self = {loader, file};
    struct buf text = BUF_INIT;
    json_error_t error;
    enum err_code code;
    json_t *root = NULL;
    int rc = base_read_file(file, FILE_MAX, &text);
    if (rc != 0) {
        code = err_set(loader->err, ERR_CONFIG, "%.200s: cannot read the configuration file: %s", file,
                       strerror(rc));
        goto out;
    }
    root = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        /* jansson quotes what stands near the error, which may be a secret. */
        char *near = strstr(error.text, " near ");
        if (near)
            *near = '\0';
        code = err_set(loader->err, ERR_CONFIG, "%.200s:%d:%d: expected JSON: %s", file, error.line,
                       error.column, error.text);
        goto out;
    }
    if (!json_is_object(root)) {
        code = err_set(loader->err, ERR_CONFIG, "%.200s: $: expected an object, found %s", file,
                       type_name(root));
        goto out;
    }
    code = take_group(&self, root, "");
out:
    json_decref(root);
    secret_fini(&text);
    return code;
}
