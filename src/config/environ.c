/* SPDX-License-Identifier: Apache-2.0 */
/* The environment. Variables with our prefixes must be known, so that a typing error does not go unnoticed;
 * what Kubernetes sets by itself for each service ("docker links": KAFKA_PORT=tcp://...,
 * SYNCGATE_SERVICE_HOST) is passed over. */
#include "loader.h"

#include <ctype.h>
#include <stdio.h>

#define FEATURE_PREFIX "FEATURE_KAFKA_EVENTS_"
#define NAME_MAX_LEN   200
#define FILE_SUFFIX    "_FILE"

size_t text_distance(const char *a, const char *b)
{
    size_t row[OPTION_NAME_MAX + 1], width = strlen(b), height = strlen(a);
    if (width > OPTION_NAME_MAX || height > OPTION_NAME_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= width; j++)
        row[j] = j;
    for (size_t i = 1; i <= height; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= width; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]),
                   best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = change < best ? change : best;
        }
    }
    return row[width];
}

static bool has_prefix(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), suffix_len = strlen(suffix);
    return len >= suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

/* _SERVICE_HOST, _SERVICE_PORT, _SERVICE_PORT_<NAME>, _PORT, _PORT_<NUMBER>_<PROTOCOL>[_PROTO|_PORT|_ADDR] */
static bool is_service_link(const char *name, const char *value)
{
    if (has_suffix(name, "_SERVICE_HOST") || has_suffix(name, "_SERVICE_PORT") ||
        strstr(name, "_SERVICE_PORT_"))
        return true;
    if (has_suffix(name, "_PORT") &&
        (has_prefix(value, "tcp://") || has_prefix(value, "udp://") || has_prefix(value, "sctp://")))
        return true;
    for (const char *at = name; (at = strstr(at, "_PORT_")); at++) {
        const char *number = at + strlen("_PORT_"), *protocol = number + strspn(number, "0123456789");
        if (protocol > number &&
            (has_prefix(protocol, "_TCP") || has_prefix(protocol, "_UDP") || has_prefix(protocol, "_SCTP")))
            return true;
    }
    return false;
}

static bool is_upper_snake(const char *name)
{
    return *name && strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == strlen(name);
}

/* Is there a variable called like the first `len` bytes of `name`? */
static bool is_set(char *const *environ, const char *name, size_t len)
{
    for (; *environ; environ++) {
        if (strncmp(*environ, name, len) == 0 && (*environ)[len] == '=')
            return true;
    }
    return false;
}

static enum err_code unknown_name(struct loader *loader, const char *name)
{
    char candidate[OPTION_NAME_MAX], best[OPTION_NAME_MAX] = "", shown[SHOWN_MAX];
    size_t best_distance = strlen(name) / 3 + 2;
    for (size_t i = 0; i < option_count * 2; i++) {
        const struct option *option = &options[i / 2];
        if (i % 2 == 1 && !option->secret)
            continue;
        snprintf(candidate, sizeof(candidate), "%s%s", option->env, i % 2 == 1 ? FILE_SUFFIX : "");
        size_t distance = text_distance(name, candidate);
        if (distance >= best_distance)
            continue;
        best_distance = distance;
        memcpy(best, candidate, sizeof(best));
    }
    show_text(name, shown);
    return err_set(loader->err, ERR_CONFIG, "%.150s: unknown environment variable%s%s%s", shown,
                   *best ? "; did you mean " : "", best, *best ? "?" : "");
}

/* X_FILE: the value is in a file. X and X_FILE together are a mistake. */
static enum err_code read_file_of(struct loader *loader, char *const *environ, const char *name,
                                  const char *path, struct buf *ret_text)
{
    int base_len = (int)(strlen(name) - strlen(FILE_SUFFIX));
    if (is_set(environ, name, (size_t)base_len))
        return err_set(loader->err, ERR_CONFIG, "%s: expected either %.*s or its file, found both", name,
                       base_len, name);
    return loader_read_secret(loader, name, path, ret_text);
}

static enum err_code take_property(struct loader *loader, char *const *environ, const char *name,
                                   const char *value)
{
    char property[NAME_MAX_LEN + 1];
    if (!is_upper_snake(name))
        return unknown_name(loader, name);
    if (text_distance(name, "KAFKA_BROKERS") <= 2 || text_distance(name, "KAFKA_MESSAGE_TIMEOUT") <= 2)
        return unknown_name(loader, name);
    size_t len = 0;
    for (const char *at = name + strlen("KAFKA_"); *at; at++)
        property[len++] = *at == '_' ? '.' : (char)tolower((unsigned char)*at);
    property[len] = '\0';
    if (!has_suffix(name, FILE_SUFFIX) || len < strlen(FILE_SUFFIX))
        return loader_set_property(loader, name, property, value);
    /* Only for secrets: librdkafka has properties that end in .file themselves. */
    property[len - strlen(FILE_SUFFIX)] = '\0';
    if (!property_is_secret(property)) {
        property[len - strlen(FILE_SUFFIX)] = '.';
        return loader_set_property(loader, name, property, value);
    }
    struct buf text = BUF_INIT;
    enum err_code code = read_file_of(loader, environ, name, value, &text);
    if (code == ERR_OK)
        code = loader_set_property(loader, name, property, text.ptr);
    secret_fini(&text);
    return code;
}

static enum err_code take_secret(struct loader *loader, char *const *environ, const struct option *option,
                                 const char *name, const char *path)
{
    struct buf text = BUF_INIT;
    enum err_code code = read_file_of(loader, environ, name, path, &text);
    if (code == ERR_OK)
        code = loader_set(loader, option, name, text.ptr);
    secret_fini(&text);
    return code;
}

static enum err_code take_variable(struct loader *loader, char *const *environ, const char *name,
                                   const char *value)
{
    static const char *const prefixes[] = {"SYNCGATE_", "AUTH_",         "LEGACY_",
                                           "SHUTDOWN_", "FEATURE_KAFKA", "TRUSTED_PROX"};
    for (size_t i = 0; i < option_count; i++) {
        char file_name[OPTION_NAME_MAX];
        snprintf(file_name, sizeof(file_name), "%s" FILE_SUFFIX, options[i].env);
        if (strcmp(name, options[i].env) == 0)
            return loader_set(loader, &options[i], name, value);
        if (options[i].secret && strcmp(name, file_name) == 0)
            return take_secret(loader, environ, &options[i], name, value);
    }
    if (has_prefix(name, FEATURE_PREFIX) && is_upper_snake(name) && name[strlen(FEATURE_PREFIX)])
        return loader_set_feature(loader, name, name + strlen(FEATURE_PREFIX), value);
    if (is_service_link(name, value))
        return ERR_OK;
    if (has_prefix(name, "KAFKA_") && name[strlen("KAFKA_")])
        return take_property(loader, environ, name, value);
    for (size_t i = 0; i < SG_ARRAY_LEN(prefixes); i++) {
        if (has_prefix(name, prefixes[i]))
            return unknown_name(loader, name);
    }
    return ERR_OK;
}

enum err_code loader_take_environ(struct loader *loader, char *const *environ)
{
    for (char *const *at = environ; *at; at++) {
        char name[NAME_MAX_LEN + 1];
        const char *equals = strchr(*at, '=');
        if (!equals || (size_t)(equals - *at) > NAME_MAX_LEN)
            continue; /* none of ours is that long */
        memcpy(name, *at, (size_t)(equals - *at));
        name[equals - *at] = '\0';
        enum err_code code = take_variable(loader, environ, name, equals + 1);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}
