/* SPDX-License-Identifier: Apache-2.0 */
/* path: the feature flag and the choice between the Kafka and the legacy path. Pure: no I/O, no clock.
 * design.md section 5. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"

enum path_mode {
    PATH_MODE_LEGACY,  /* false, off: legacy only; no Kafka needed */
    PATH_MODE_PRIMARY, /* true, primary: Kafka first, legacy when the command is certainly not in Kafka */
    PATH_MODE_ONLY,    /* only: Kafka only */
};
const char *path_mode_name(enum path_mode mode);

/* Parses a value of FEATURE_KAFKA_EVENTS. `where` (the setting's name) begins the message. */
enum err_code path_mode_parse(struct span text, const char *where, enum path_mode *ret_mode,
                              struct err *err) SG_NODISCARD;

/* Where a request went, for logs and metrics. */
enum path_taken { PATH_TAKEN_NONE, PATH_TAKEN_KAFKA, PATH_TAKEN_LEGACY, PATH_TAKEN_COUNT };
const char *path_taken_name(enum path_taken taken);

/* Why a request of a Kafka route went to legacy, or could not be produced. */
#define PATH_FALLBACKS(X)                                                                              \
    X(PATH_FALLBACK_NO_COMMAND, "no_command")       /* it forms no valid command */                    \
    X(PATH_FALLBACK_CONTENT_TYPE, "content_type")   /* a body that only the legacy backend reads */    \
    X(PATH_FALLBACK_UNREACHABLE, "unreachable")     /* no broker can be reached */                     \
    X(PATH_FALLBACK_NO_POSITION, "no_position")     /* a reply topic of the route is not being read */ \
    X(PATH_FALLBACK_QUEUE_FULL, "queue_full")       /* librdkafka's queue refused it */                \
    X(PATH_FALLBACK_TOO_LARGE, "too_large")         /* larger than message.max.bytes */                \
    X(PATH_FALLBACK_NOT_PERSISTED, "not_persisted") /* the delivery report says so */                  \
    X(PATH_FALLBACK_OVERLOADED, "overloaded")       /* awaiter table or route full */
enum path_fallback {
#define X(code, name) code,
    PATH_FALLBACKS(X)
#undef X
        PATH_FALLBACK_COUNT
};
const char *path_fallback_name(enum path_fallback reason);
