/* SPDX-License-Identifier: Apache-2.0 */
/* config: the option table, and the immutable settings made from defaults, a file and the environment. A
 * value is taken as it was meant or it stops the start with a message that names its place: no value is
 * guessed or clamped. It knows what a setting looks like, never what it does. Starts no thread, takes no
 * lock. design.md section 3. */
#pragma once

#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/log.h"

/* The form of answers that refuse a request: as the legacy backend; as NestJS's ValidationPipe; RFC 9457 for every error that
 * the gateway makes. */
enum config_error_profile { CONFIG_ERRORS_TS_REST, CONFIG_ERRORS_NEST, CONFIG_ERRORS_PROBLEM };
enum config_env { CONFIG_DEVELOPMENT, CONFIG_PRODUCTION, CONFIG_TEST };

#define CONFIG_ANY_PARTITION UINT32_MAX

/* Where to listen: a literal address (or localhost) and a port, ready for bind(). */
struct config_address {
    char text[64]; /* as written, for messages: "0.0.0.0:8080", "[::1]:9090" */
    struct sockaddr_storage addr;
    socklen_t addr_len;
    uint16_t port; /* 0: chosen by the kernel */
};

/* A librdkafka property, to be set as it is on every client. */
struct config_property {
    char *name;
    char *value;
    bool secret; /* never to be shown */
};

/* FEATURE_KAFKA_EVENTS_<OPERATION>; the value is parsed by the room `path`. */
struct config_feature {
    char *operation; /* upper snake case: "BIND_DEVICE_QR" */
    char *value;
};

/* A block of addresses; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2) with 96 added to the prefix. */
struct config_cidr {
    uint8_t addr[16];
    uint8_t prefix;
};

/* Optional texts are NULL when not set. All owned by the struct. */
struct config {
    struct config_address listen, admin_listen;
    char *admin_tokens; /* secret; optional: name:token, ... */
    char *routes;
    char *openapi;
    char *topic_names; /* optional: from=to, ... */
    enum config_env env;
    uint32_t loops; /* 0: as many as there are cores */
    enum log_level log_level;
    uint32_t max_connections;
    uint32_t max_parked;
    uint32_t max_parked_per_route;
    uint32_t body_memory;       /* bytes */
    uint32_t body_limit;        /* bytes */
    uint32_t connection_memory; /* bytes */
    uint32_t idle_timeout_ms;
    uint32_t body_timeout_ms;
    enum config_error_profile error_profile;

    char *kafka_brokers; /* optional; "embedded" or a bootstrap list */
    uint32_t kafka_message_timeout_ms;
    char *dead_letter_topic;                  /* optional */
    char *reply_topic;                        /* optional: the reply address of this instance */
    uint32_t reply_partition;                 /* of reply_topic; CONFIG_ANY_PARTITION: none is ours alone */
    struct config_property *kafka_properties; /* sorted by name, each name once */
    size_t kafka_property_count;

    bool breaker;
    uint32_t breaker_window_ms;
    uint32_t breaker_min_calls;
    uint32_t breaker_produce_failures, breaker_timeouts, breaker_cluster_failures; /* percent; 0: off */
    uint32_t breaker_open_ms, breaker_open_max_ms;
    uint32_t breaker_probes;

    char *legacy_url; /* optional; http:// or https:// */
    uint32_t legacy_timeout_ms;
    uint32_t legacy_connect_timeout_ms;
    uint32_t legacy_max_connections;
    uint32_t legacy_max_requests;
    uint32_t legacy_retries;
    uint32_t legacy_retry_backoff_ms;

    char *feature_kafka_events;
    struct config_feature *features; /* sorted by operation, each once */
    size_t feature_count;
    char *feature_file;      /* optional; read into: */
    char *file_kafka_events; /* NULL: the file has no common value */
    struct config_feature *file_features;
    size_t file_feature_count;

    /* At most one of these three is set. */
    char *auth_jwks;         /* path or http(s) URL */
    char *auth_hs256_secret; /* secret */
    char *auth_public_key;   /* path or PEM text */
    char *auth_issuer;       /* optional */
    char *auth_audience;     /* optional */
    char *auth_algorithms;   /* optional; comma list without blanks */
    bool auth_require_exp;
    uint32_t auth_cache_size;

    struct config_cidr *trusted_proxies;
    size_t trusted_proxy_count;

    uint32_t shutdown_delay_ms;
    uint32_t shutdown_timeout_ms;
};

/* Defaults, then the JSON file (NULL: none), then `environ` ("NAME=value" entries, NULL-terminated; NULL:
 * none). Returns owned, or NULL with *err naming the variable or the file with line or JSON path, what was
 * found (never a secret's value) and what was expected. Unknown keys and unknown variables of our prefixes
 * are errors. Thread: any. */
struct config *config_load(const char *file, char *const *environ, struct err *err);
/* The same for a running process. Settings that need a restart keep the value in `running`; the names of those that would have
 * changed are appended to ret_kept, separated by ", ". Thread: any. */
struct config *config_reload(const char *file, char *const *environ, const struct config *running,
                             struct buf *ret_kept, struct err *err);
/* NULL-safe. Secrets are wiped before their memory is given back. */
void config_freep(struct config **config);

static inline bool config_is_embedded(const struct config *config)
{
    return config->kafka_brokers && strcmp(config->kafka_brokers, "embedded") == 0;
}
/* True if `peer` (AF_INET or AF_INET6; IPv4-mapped counts as IPv4) lies in one of the TRUSTED_PROXIES.
 * Thread: any. */
bool config_trusts(const struct config *config, const struct sockaddr *peer);

/* Walks over SYNCGATE_ADMIN_TOKENS: *rest begins at config->admin_tokens (NULL is fine). False at the end. An entry may be wrong
 * (an empty name or token) only before config_load() has checked them. */
bool config_next_admin_token(const char **rest, struct span *ret_name, struct span *ret_token);

/* Walks over SYNCGATE_TOPIC_NAMES: *rest begins at config->topic_names (NULL is fine). False at the end. After config_load() no
 * name is empty, and no topic is renamed twice. */
bool config_next_topic_name(const char **rest, struct span *ret_from, struct span *ret_to);

/* The operationId as FEATURE_KAFKA_EVENTS_<OPERATION> and feature.operations spell it: bindDeviceQr ->
 * BIND_DEVICE_QR, getURLList -> GET_URL_LIST; what is neither letter nor digit becomes '_'. Appends to `out`.
 */
void config_operation_name(struct span operation_id, struct buf *out);

/* Generated from the option table. Errors of the stream are the caller's to check (ferror). */
void config_print_help(FILE *stream);     /* the settings part of --help */
void config_print_sample(FILE *stream);   /* config/syncgate.json */
void config_print_markdown(FILE *stream); /* docs/configuration.md */
