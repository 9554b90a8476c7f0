/* SPDX-License-Identifier: Apache-2.0 */
/* The flags file (FEATURE_KAFKA_EVENTS_FILE): one value alone, or lines NAME=VALUE with the names that the environment would
 * have. Blank lines and lines that begin with # count for nothing. */
#include <stdio.h>

#include "loader.h"

#define FLAGS_FILE_MAX ((size_t)256 * 1024)
#define NAME           "FEATURE_KAFKA_EVENTS"
#define NAME_LEN       (sizeof(NAME) - 1)

static struct span next_line(struct span *rest)
{
    const char *end = memchr(rest->ptr, '\n', rest->len);
    struct span line = {rest->ptr, end ? (size_t)(end - rest->ptr) : rest->len};
    rest->ptr += end ? line.len + 1 : line.len;
    rest->len -= end ? line.len + 1 : line.len;
    if (line.len && line.ptr[line.len - 1] == '\r')
        line.len--;
    return span_trim(line);
}

/* The operation in upper snake case. */
static bool is_operation(struct span name)
{
    for (size_t i = 0; i < name.len; i++)
        if (!((name.ptr[i] >= 'A' && name.ptr[i] <= 'Z') || (name.ptr[i] >= '0' && name.ptr[i] <= '9') ||
              name.ptr[i] == '_'))
            return false;
    return name.len > 0;
}

static enum err_code take_common(struct loader *loader, const char *place, const char *value)
{
    struct config *config = loader->config;
    if (config->file_kafka_events)
        return err_set(loader->err, ERR_CONFIG, "%s: expected the common value once, found it again", place);
    config->file_kafka_events = strdup(value);
    return config->file_kafka_events ? ERR_OK : loader_no_memory(loader);
}

static enum err_code take_operation(struct loader *loader, const char *place, const char *operation,
                                    const char *value)
{
    struct config *config = loader->config;
    for (size_t i = 0; i < config->file_feature_count; i++)
        if (strcmp(config->file_features[i].operation, operation) == 0)
            return err_set(loader->err, ERR_CONFIG, "%s: expected each operation once, found %s again", place,
                           operation);
    return feature_set(loader, &config->file_features, &config->file_feature_count, place, operation, value);
}

static enum err_code take_line(struct loader *loader, const char *place, struct span line, bool alone)
{
    const char *equals = memchr(line.ptr, '=', line.len);
    struct span name = {line.ptr, equals ? (size_t)(equals - line.ptr) : 0};
    struct span value = equals ? (struct span){equals + 1, line.len - name.len - 1} : line;
    name = span_trim(name);
    value = span_trim(value);
    char shown[SHOWN_MAX];
    char *name_text = span_dup(name), *value_text = span_dup(value);
    enum err_code code;
    if (!name_text || !value_text)
        code = loader_no_memory(loader);
    else if (!equals && alone)
        code = take_common(loader, place, value_text);
    else if (strcmp(name_text, NAME) == 0 && value.len)
        code = take_common(loader, place, value_text);
    else if (strncmp(name_text, NAME "_", NAME_LEN + 1) == 0 && value.len &&
             is_operation((struct span){name.ptr + NAME_LEN + 1, name.len - NAME_LEN - 1}))
        code = take_operation(loader, place, name_text + NAME_LEN + 1, value_text);
    else {
        show_text(equals ? name_text : value_text, shown);
        code = err_set(loader->err, ERR_CONFIG,
                       "%s: expected " NAME "=VALUE, " NAME "_<OPERATION>=VALUE or one value alone, found %s",
                       place, shown);
    }
    free(name_text);
    free(value_text);
    return code;
}

/* The value stands alone when no other line holds anything. */
static size_t count_lines(struct span text)
{
    size_t count = 0;
    while (text.len) {
        struct span line = next_line(&text);
        count += line.len > 0 && line.ptr[0] != '#';
    }
    return count;
}

enum err_code loader_take_flags(struct loader *loader)
{
    const char *path = loader->config->feature_file;
    struct buf text = BUF_INIT;
    char shown[SHOWN_MAX], place[PLACE_MAX];
    enum err_code code = ERR_OK;
    if (!path)
        return ERR_OK;
    show_text(path, shown);
    int rc = base_read_file(path, FLAGS_FILE_MAX, &text);
    if (rc != 0)
        code = err_set(loader->err, ERR_CONFIG, "FEATURE_KAFKA_EVENTS_FILE: cannot read %s: %s", shown,
                       strerror(rc));
    else if (text.len && memchr(text.ptr, '\0', text.len))
        code = err_set(loader->err, ERR_CONFIG, "%.200s: expected text, found a NUL byte", path);
    struct span rest = buf_span(&text);
    bool alone = code == ERR_OK && count_lines(rest) == 1;
    for (unsigned number = 1; code == ERR_OK && rest.len; number++) {
        struct span line = next_line(&rest);
        snprintf(place, sizeof(place), "%.200s:%u", path, number);
        if (line.len > 0 && line.ptr[0] != '#')
            code = take_line(loader, place, line, alone);
    }
    buf_fini(&text);
    return code;
}
