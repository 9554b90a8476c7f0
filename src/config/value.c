/* SPDX-License-Identifier: Apache-2.0 */
/* One value: text -> typed field, and back for the documentation. */
#include "options.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <strings.h>

struct unit {
    const char *name;
    uint32_t factor;
};
/* The largest that divides is used for printing; the last one is the unit of a bare number. */
static const struct unit duration_units[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
static const struct unit size_units[] = {{"GiB", 1u << 30}, {"MiB", 1u << 20}, {"KiB", 1u << 10}, {"B", 1}};

static const struct unit *units_of(enum option_type type)
{
    return type == OPTION_DURATION ? duration_units : size_units;
}

void option_format(enum option_type type, uint32_t value, char *out, size_t size)
{
    if (type == OPTION_UINT) {
        snprintf(out, size, "%u", value);
        return;
    }
    const struct unit *units = units_of(type);
    size_t i = 0;
    while (i < 3 && (value == 0 || value % units[i].factor != 0))
        i++;
    if (value == 0)
        snprintf(out, size, "0");
    else
        snprintf(out, size, "%u%s", value / units[i].factor, units[i].name);
}

void option_expected(const struct option *option, char *out, size_t size)
{
    char min[24], max[24];
    switch (option->type) {
    case OPTION_UINT:
    case OPTION_DURATION:
    case OPTION_SIZE:
        option_format(option->type, option->min, min, sizeof(min));
        option_format(option->type, option->max, max, sizeof(max));
        snprintf(out, size, "%s from %s to %s",
                 option->type == OPTION_UINT       ? "a whole number"
                 : option->type == OPTION_DURATION ? "a duration (ms, s, m, h)"
                                                   : "a size (B, KiB, MiB)",
                 min, max);
        break;
    case OPTION_CHOICE: {
        size_t n = (size_t)snprintf(out, size, "one of ");
        for (const char *at = option->choices; *at && n + 3 < size; at++) {
            if (*at == '|') {
                out[n++] = ',';
                out[n++] = ' ';
            } else {
                out[n++] = *at;
            }
        }
        out[n] = '\0';
        break;
    }
    case OPTION_BOOL:
        snprintf(out, size, "true or false");
        break;
    case OPTION_ADDRESS:
        snprintf(out, size, "address:port, such as 0.0.0.0:8080, [::1]:9090 or localhost:0");
        break;
    case OPTION_CIDRS:
        snprintf(out, size, "a comma list of addresses or blocks, such as 10.0.0.0/8,::1");
        break;
    case OPTION_BROKERS:
        snprintf(out, size, "host:port,host:port... or embedded");
        break;
    case OPTION_URL:
        snprintf(out, size, "a URL that begins with http:// or https://");
        break;
    case OPTION_TOPIC:
        snprintf(out, size, "a Kafka topic: letters, digits, '.', '_' and '-', at most %u", option->max);
        break;
    case OPTION_ALGORITHMS:
        snprintf(out, size, "a comma list of algorithms, such as RS256,ES256");
        break;
    case OPTION_STRING:
        snprintf(out, size, "a text of 1 to %u bytes", option->max);
        break;
    }
}

static enum err_code bad(const char **ret_hint, const char *hint)
{
    *ret_hint = hint;
    return ERR_CONFIG;
}

static enum err_code parse_number(const struct option *option, const char *text, uint32_t *ret_value,
                                  const char **ret_hint)
{
    size_t digits = strspn(text, "0123456789");
    uint64_t value;
    if (!base_parse_u64((struct span){text, digits}, &value))
        return bad(ret_hint, "");
    const char *suffix = text + digits;
    uint32_t factor = 1;
    if (*suffix) {
        const struct unit *units = units_of(option->type);
        size_t i = 0;
        while (i < 4 && (option->type == OPTION_UINT || strcmp(suffix, units[i].name) != 0))
            i++;
        if (i == 4)
            return bad(ret_hint, "");
        factor = units[i].factor;
    }
    if (value > UINT32_MAX || value * factor < option->min || value * factor > option->max)
        return bad(ret_hint, "");
    *ret_value = (uint32_t)(value * factor);
    return ERR_OK;
}

static enum err_code parse_choice(const struct option *option, const char *text, int *ret_index)
{
    int index = 0;
    for (const char *at = option->choices;; index++) {
        size_t len = strcspn(at, "|");
        if (strlen(text) == len && memcmp(at, text, len) == 0) {
            *ret_index = index;
            return ERR_OK;
        }
        if (!at[len])
            return ERR_CONFIG;
        at += len + 1;
    }
}

/* Splits "host:port" or "[v6]:port". The host's brackets are taken off. */
static bool split_port(const char *text, char *host, size_t host_size, bool port_required, uint16_t *ret_port)
{
    const char *colon = strrchr(text, ':'), *end = colon;
    if (text[0] == '[') {
        end = strchr(text, ']');
        if (!end || (end[1] != ':' && end[1] != '\0'))
            return false;
        colon = end[1] ? end + 1 : NULL;
        text++;
    } else if (colon && memchr(text, ':', (size_t)(colon - text))) {
        return false; /* an IPv6 address without brackets */
    } else if (!colon) {
        end = text + strlen(text);
    }
    if (!colon && port_required)
        return false;
    size_t len = (size_t)(end - text);
    if (len == 0 || len >= host_size)
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    uint64_t port = 9092;
    if (colon && (!base_parse_u64(span_of(colon + 1), &port) || port > UINT16_MAX))
        return false;
    *ret_port = (uint16_t)port;
    return true;
}

static enum err_code parse_address(const char *text, struct config_address *ret_address)
{
    struct config_address address = {0};
    char host[sizeof(address.text)];
    if (strlen(text) >= sizeof(address.text) || !split_port(text, host, sizeof(host), true, &address.port))
        return ERR_CONFIG;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address.addr;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address.addr;
    if (text[0] == '[' && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(address.port);
        address.addr_len = sizeof(*v6);
    } else if (text[0] != '[' &&
               inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(address.port);
        address.addr_len = sizeof(*v4);
    } else {
        return ERR_CONFIG;
    }
    memcpy(address.text, text, strlen(text) + 1);
    *ret_address = address;
    return ERR_OK;
}

static bool has_control(const char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    }
    return false;
}

/* Calls check for each item of a comma list; an empty item is never good. */
static enum err_code check_list(const char *text, bool (*check)(const char *item))
{
    char item[512];
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ",");
        if (len == 0 || len >= sizeof(item))
            return ERR_CONFIG;
        memcpy(item, at, len);
        item[len] = '\0';
        if (!check(item))
            return ERR_CONFIG;
        at += len;
        if (!*at)
            return ERR_OK;
    }
}

static bool is_broker(const char *item)
{
    char host[300];
    uint16_t port;
    /* librdkafka allows PLAINTEXT://host:port; the protocol must then agree with security.protocol, which it
     * checks. */
    const char *scheme = strstr(item, "://");
    return !strchr(item, ' ') && split_port(scheme ? scheme + 3 : item, host, sizeof(host), false, &port) &&
           port != 0 && strcmp(host, "embedded") != 0 && !strchr(host, '/');
}

static bool is_algorithm(const char *item)
{
    return strspn(item, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == strlen(item) &&
           strcasecmp(item, "none") != 0;
}

static bool is_topic(const char *text)
{
    return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
               strlen(text) &&
           strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

static bool is_url(const char *text)
{
    const char *host = strncmp(text, "http://", 7) == 0    ? text + 7
                       : strncmp(text, "https://", 8) == 0 ? text + 8
                                                           : NULL;
    return host && *host && *host != '/' && !strchr(text, ' ');
}

static enum err_code parse_text(const struct option *option, const char *text, char **field,
                                const char **ret_hint)
{
    size_t len = strlen(text);
    if (len < option->min || len > option->max)
        return bad(ret_hint, "");
    /* A PEM text has line ends; a secret may be any bytes. */
    if (!option->secret && has_control(text) && strncmp(text, "-----BEGIN ", 11) != 0)
        return bad(ret_hint, "it has control characters");
    if (option->type == OPTION_URL && !is_url(text))
        return bad(ret_hint, "");
    if (option->type == OPTION_TOPIC && !is_topic(text))
        return bad(ret_hint, "");
    if (option->type == OPTION_BROKERS && strcmp(text, "embedded") != 0 &&
        check_list(text, is_broker) != ERR_OK)
        return bad(ret_hint, "");
    if (option->type == OPTION_ALGORITHMS && check_list(text, is_algorithm) != ERR_OK)
        return bad(ret_hint, "none cannot be allowed");
    char *copy = strdup(text);
    if (!copy)
        return ERR_NO_MEMORY;
    free(*field);
    *field = copy;
    return ERR_OK;
}

enum err_code option_parse(const struct option *option, const char *text, struct config *config,
                           const char **ret_hint)
{
    void *field = (char *)config + option->offset;
    *ret_hint = "";
    switch (option->type) {
    case OPTION_UINT:
    case OPTION_DURATION:
    case OPTION_SIZE:
        return parse_number(option, text, field, ret_hint);
    case OPTION_CHOICE:
        return parse_choice(option, text, field);
    case OPTION_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return ERR_CONFIG;
        *(bool *)field = text[0] == 't';
        return ERR_OK;
    case OPTION_ADDRESS:
        return parse_address(text, field);
    case OPTION_CIDRS:
        return cidr_parse_list(text, config, ret_hint);
    default:
        return parse_text(option, text, field, ret_hint);
    }
}
