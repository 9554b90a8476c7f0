/* SPDX-License-Identifier: Apache-2.0 */
/* path: the feature flag and the choice between the Kafka and the legacy path. Pure: no I/O, no clock,
 * no thread, no lock, no allocation; time is passed in. What is shared by threads is locked by its owner. design.md
 * section 5. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"

/* ---- the flag ---- */
enum path_mode {
    PATH_MODE_LEGACY,  /* false, off: legacy only; no Kafka needed */
    PATH_MODE_SPLIT,   /* split:N: N % of the users as with primary, the others as with off */
    PATH_MODE_PRIMARY, /* true, primary: Kafka first, legacy when the command is certainly not in Kafka */
    PATH_MODE_ONLY,    /* only: Kafka only */
};
struct path_flag {
    enum path_mode mode;
    uint16_t share; /* SPLIT: users that take Kafka, in 1/10000: 0..10000. 0 in the other modes */
};
#define PATH_FLAG_TEXT_LEN 16

/* Parses a value of FEATURE_KAFKA_EVENTS: false, off, split:N (N: 0..100, at most two decimals, no superfluous zeros in
 * front: "split:12.5"), true, primary, only. `where` (the setting's name) begins the message of ERR_CONFIG; *ret_flag is
 * then left alone. */
enum err_code path_flag_parse(struct span text, const char *where, struct path_flag *ret_flag,
                              struct err *err) SG_NODISCARD;
/* "off", "split:12.5", "primary", "only" and a NUL: parses back to the same flag. */
void path_flag_format(const struct path_flag *flag, char out[PATH_FLAG_TEXT_LEN + 1]);
bool path_flag_eq(const struct path_flag *a, const struct path_flag *b);
/* The fixed place 0..9999 of a user, who is known by the token's `sub` or the client address: the same on every instance,
 * version and machine. FNV-1a of 64 bits over the bytes, then MurmurHash3's 64-bit finaliser, modulo 10000. */
unsigned path_place(struct span key);
/* SPLIT: a place below the share takes Kafka, so raising N only adds users. The place matters to no other mode. */
bool path_flag_takes_kafka(const struct path_flag *flag, unsigned place);
/* split:0 needs Kafka as well: it is the step before split:1. */
static inline bool path_flag_needs_kafka(const struct path_flag *flag)
{
    return flag->mode != PATH_MODE_LEGACY;
}
static inline bool path_flag_has_legacy(const struct path_flag *flag)
{
    return flag->mode != PATH_MODE_ONLY;
}

/* ---- the path taken ---- */
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
