/* SPDX-License-Identifier: Apache-2.0 */
/* err: the one table of errors. A code is a value: no allocation, compared by ==.
 * Columns: code, wire code (the `code` member of gateway-made answers), HTTP status, retriable (Retry-After is
 * sent), counts (for the circuit breaker), metric label. Foreign codes (librdkafka, libmicrohttpd, libcurl,
 * libjwt) are translated only in the room that includes that library. design.md section 5. */
#pragma once

#include <stdbool.h>

#include "syncgate/base.h"

#define ERR_TABLE(X)                                                                                     \
    X(ERR_OK, "OK", 200, false, false, "ok")                                                             \
    /* our own limits and life */                                                                        \
    X(ERR_NO_MEMORY, "OVERLOADED", 503, true, false, "no_memory")                                        \
    X(ERR_OVERLOADED, "OVERLOADED", 503, true, false, "overloaded")                                      \
    X(ERR_INTERNAL, "INTERNAL", 500, false, false, "internal")                                           \
    /* set-up */                                                                                         \
    X(ERR_CONFIG, "CONFIG", 500, false, false, "config")                                                 \
    /* a bad request */                                                                                  \
    X(ERR_BAD_REQUEST, "BAD_REQUEST", 400, false, false, "bad_request")                                  \
    X(ERR_BAD_JSON, "BAD_JSON", 400, false, false, "bad_json")                                           \
    X(ERR_INVALID, "VALIDATION", 400, false, false, "invalid")                                           \
    X(ERR_BODY_TOO_LARGE, "PAYLOAD_TOO_LARGE", 413, false, false, "body_too_large")                      \
    X(ERR_UNSUPPORTED_CHARSET, "UNSUPPORTED_MEDIA_TYPE", 415, false, false, "unsupported_charset")       \
    X(ERR_UNAUTHORIZED, "UNAUTHORIZED", 401, false, false, "unauthorized")                               \
    X(ERR_FORBIDDEN, "FORBIDDEN", 403, false, false, "forbidden")                                        \
    X(ERR_NOT_FOUND, "NOT_FOUND", 404, false, false, "not_found")                                        \
    X(ERR_NO_COMMAND, "NO_KAFKA_COMMAND", 501, false, false, "no_command")                               \
    X(ERR_UPGRADE, "UPGRADE_NOT_SUPPORTED", 501, false, false, "upgrade")                                \
    /* the Kafka path */                                                                                 \
    X(ERR_KAFKA_UNAVAILABLE, "KAFKA_UNAVAILABLE", 503, true, true, "kafka_unavailable")                  \
    X(ERR_KAFKA_QUEUE_FULL, "KAFKA_UNAVAILABLE", 503, true, true, "queue_full")                          \
    X(ERR_KAFKA_NOT_PERSISTED, "KAFKA_UNAVAILABLE", 503, true, true, "not_persisted")                    \
    /* the broker refuses this topic: missing, not authorized */                                         \
    X(ERR_KAFKA_TOPIC, "KAFKA_UNAVAILABLE", 503, true, true, "topic_refused")                            \
    X(ERR_KAFKA_UNCERTAIN, "REPLY_TIMEOUT", 504, false, true, "uncertain")                               \
    X(ERR_KAFKA_TOO_LARGE, "KAFKA_UNAVAILABLE", 503, false, false, "message_too_large")                  \
    X(ERR_REPLY_TIMEOUT, "REPLY_TIMEOUT", 504, false, true, "reply_timeout")                             \
    /* the gateway stops while the command may be in Kafka: the outcome is unknown, so no Retry-After */ \
    X(ERR_ABANDONED, "SHUTTING_DOWN", 504, false, false, "abandoned")                                    \
    X(ERR_REPLY_UNMAPPED, "REPLY_UNMAPPED", 502, false, false, "reply_unmapped")                         \
    /* the legacy path */                                                                                \
    X(ERR_LEGACY_UNREACHABLE, "LEGACY_UNREACHABLE", 502, false, false, "legacy_unreachable")             \
    X(ERR_LEGACY_BROKEN, "LEGACY_BROKEN", 502, false, false, "legacy_broken")                            \
    X(ERR_LEGACY_TIMEOUT, "LEGACY_TIMEOUT", 504, false, false, "legacy_timeout")                         \
    X(ERR_CLIENT_GONE, "CLIENT_GONE", 499, false, false, "client_gone")

enum err_code {
#define X(code, wire, status, retriable, counts, label) code,
    ERR_TABLE(X)
#undef X
        ERR_COUNT
};

struct err_info {
    const char *name;  /* "ERR_REPLY_TIMEOUT" */
    const char *wire;  /* "REPLY_TIMEOUT" */
    int status;        /* HTTP status of a gateway-made answer */
    bool retriable;    /* the answer carries Retry-After */
    bool counts;       /* a failure in the breaker's window */
    const char *label; /* metrics label value */
};
const struct err_info *err_info(enum err_code code);

/* A load-time error: a code and a text that names the place ("routes/bind.json: $.path: expected ..."). */
struct err {
    enum err_code code;
    char text[480];
};
/* Fills *err (NULL is allowed) and returns `code`, so that `return err_set(err, ERR_CONFIG, "...")` reads well. */
enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...) SG_PRINTF(3, 4);
