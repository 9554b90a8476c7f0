/* SPDX-License-Identifier: Apache-2.0 */
/* The option table: one row per setting, from which loading, --help, the sample and the documentation are
 * made. */
#pragma once

#include "syncgate/config.h"

enum option_type {
    OPTION_STRING,     /* char * */
    OPTION_URL,        /* char *, http:// or https:// */
    OPTION_BROKERS,    /* char * */
    OPTION_TOPIC,      /* char *, the name of a Kafka topic */
    OPTION_ALGORITHMS, /* char * */
    OPTION_BOOL,       /* bool */
    OPTION_UINT,       /* uint32_t */
    OPTION_DURATION,   /* uint32_t, ms */
    OPTION_SIZE,       /* uint32_t, bytes */
    OPTION_CHOICE,     /* int-sized enum, index into choices */
    OPTION_ADDRESS,    /* struct config_address */
    OPTION_CIDRS,      /* trusted_proxies and its count */
};

struct option {
    const char *group;   /* heading, on the first option of a group; else NULL */
    const char *env;     /* "KAFKA_MESSAGE_TIMEOUT" */
    const char *key;     /* "kafka.messageTimeout" */
    size_t offset;       /* of the field in struct config */
    const char *def;     /* text as it would be written; NULL: not set */
    const char *choices; /* "a|b|c" */
    const char *text;    /* one sentence or two, for people */
    enum option_type type;
    uint32_t min, max; /* of numbers, and of a text's length */
    bool reloadable;   /* may change at run time */
    bool secret;       /* never shown; has a _FILE variant and a File key */
};
extern const struct option options[];
extern const size_t option_count;

/* Room for any environment name or key of the table, with a suffix. */
#define OPTION_NAME_MAX 64

/* What a good value looks like: "a duration from 100ms to 1m". Writes at most `size` bytes and a NUL. */
void option_expected(const struct option *option, char *out, size_t size);
/* A number of ms or bytes as it would be written in a setting: "2s", "100KiB". */
void option_format(enum option_type type, uint32_t value, char *out, size_t size);

/* Parses `text` into the option's field (owned there; an earlier value is freed). ERR_OK, ERR_NO_MEMORY, or
 * ERR_CONFIG with *ret_hint: static text with more about what is wrong, or "". */
enum err_code option_parse(const struct option *option, const char *text, struct config *config,
                           const char **ret_hint);

/* Blocks of addresses from a comma list. */
enum err_code cidr_parse_list(const char *text, struct config *config, const char **ret_hint);

/* A rule of this gateway about a librdkafka property: NULL if it may be set, else why not (static). */
const char *property_refused(const char *name);
bool property_is_secret(const char *name);
/* Checks what several properties mean together. ERR_OK or ERR_CONFIG. */
enum err_code property_check_all(const struct config *config, struct err *err);

/* Levenshtein distance, for "did you mean". */
size_t text_distance(const char *a, const char *b);
