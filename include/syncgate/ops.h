/* SPDX-License-Identifier: Apache-2.0 */
/* ops: what an operator sees: counters, the Prometheus text, health answers. Each loop counts in its own struct ops_counters
 * without atomics; a scrape sends one message around the loops that adds them up (docs/threads.md). No I/O.
 * design.md section 7. */
#pragma once

#include "syncgate/await.h"
#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/path.h"

#define OPS_REPLIES(X)                                                                                 \
    X(OPS_REPLY_MATCHED, "matched")       /* it finished its request */                                \
    X(OPS_REPLY_PROGRESS, "progress")     /* its request goes on waiting for a terminal one */         \
    X(OPS_REPLY_LATE, "late")             /* its request had ended without a reply */                  \
    X(OPS_REPLY_DUPLICATE, "duplicate")   /* its request was already finished by a reply */            \
    X(OPS_REPLY_UNMATCHED, "unmatched")   /* nobody here asked: another instance's, or none of ours */ \
    X(OPS_REPLY_MISMATCHED, "mismatched") /* our id, but not what the route expects */                 \
    X(OPS_REPLY_INVALID, "invalid")       /* not JSON */                                               \
    X(OPS_REPLY_UNKNOWN_VERSION, "unknown_version") /* of a version that no rule takes */              \
    X(OPS_REPLY_INVALID_SCHEMA, "invalid_schema")   /* not what its rule's schema says */
enum ops_reply {
#define X(code, name) code,
    OPS_REPLIES(X)
#undef X
        OPS_REPLY_COUNT
};
const char *ops_reply_name(enum ops_reply reply);

/* Records that were to be written to the dead-letter topic. */
#define OPS_DEAD_LETTERS(X)                                                   \
    X(OPS_DEAD_LETTER_SENT, "sent")             /* a broker has it */         \
    X(OPS_DEAD_LETTER_FAILED, "failed")         /* refused, or not written */ \
    X(OPS_DEAD_LETTER_SUPPRESSED, "suppressed") /* too many in a second */
enum ops_dead_letter {
#define X(code, name) code,
    OPS_DEAD_LETTERS(X)
#undef X
        OPS_DEAD_LETTER_COUNT
};
const char *ops_dead_letter_name(enum ops_dead_letter result);

struct ops_counters;

/* route_count: rows for routes; requests without a route are counted under the label "none". Returns owned or NULL. */
struct ops_counters *ops_counters_new(size_t route_count);
/* More rows, after a reload brought routes; what was counted stays. ERR_OK or ERR_NO_MEMORY (nothing changed). */
enum err_code ops_counters_grow(struct ops_counters *counters, size_t route_count) SG_NODISCARD;
void ops_counters_freep(struct ops_counters **counters);

/* ---- counting. Thread: the owner's ---- */
#define OPS_NO_ROUTE UINT32_MAX /* as is any route beyond the rows */
void ops_count_request(struct ops_counters *counters, uint32_t route, enum path_taken path, int status,
                       uint64_t duration_ns);
void ops_count_fallback(struct ops_counters *counters, enum path_fallback reason);
void ops_count_reply(struct ops_counters *counters, enum ops_reply reply);
void ops_count_dead_letter(struct ops_counters *counters, enum ops_dead_letter result);
/* An event of a stream; sent: it was taken for sending, else dropped because the client reads too slowly. */
void ops_count_event(struct ops_counters *counters, bool sent);

/* ---- adding up ---- */
struct ops_gauges {
    uint64_t parked;
    uint64_t active_requests;
    uint64_t legacy_active;
    uint64_t wins[AWAIT_WINNER_COUNT];
    uint64_t auth_hits, auth_verified, auth_refused;
    uint64_t legacy_retries;
    uint64_t streams; /* of the parked ones: their event stream is under way */
};
/* Adds src to dst, which grows as needed. Thread: whoever owns both at that moment. */
enum err_code ops_counters_add(struct ops_counters *dst, const struct ops_counters *src) SG_NODISCARD;
void ops_gauges_add(struct ops_gauges *dst, const struct ops_gauges *src);

/* An operation that has a route, or had one before a reload: its counters stay. */
struct ops_operation {
    struct span name;
    bool active; /* it has a route now */
    uint64_t parked;
    double kafka_ratio; /* of users, by its flag: 0..1 */
    struct path_breaker_view breaker;
};

/* Process-wide values beside the loops'. */
struct ops_process {
    uint64_t connections;
    uint64_t log_dropped;
    bool kafka, kafka_reachable, draining;
    uint64_t kafka_records, kafka_delivered, kafka_not_persisted, kafka_uncertain, kafka_offset_resets;
    uint64_t kafka_partitions, kafka_queue_len, kafka_fatal_errors;
    uint64_t unmatched_skipped; /* replies that the reader thread dismissed by their id */
    uint64_t invalid_skipped;   /* and those without a usable header that are not JSON */
    uint64_t dead_letters_sent, dead_letters_failed; /* by their delivery reports */
    uint64_t body_bytes;
    uint64_t reloads_ok, reloads_failed;
    struct path_breaker_view cluster_breaker;
    const struct ops_operation *operations; /* rows of the counters */
    size_t operation_count;
    const char *version;
};
/* Appends the Prometheus text exposition (version 0.0.4). */
void ops_render_metrics(const struct ops_counters *counters, const struct ops_gauges *gauges,
                        const struct ops_process *process, struct buf *out);

/* One check of /health/ready. */
struct ops_check {
    const char *name;
    bool ok;
    char detail[160];
};
/* Appends {"status":"ok"|"unavailable","version":...,"embeddedBroker":...,"checks":[...]}. Returns whether all are ok. */
bool ops_render_health(const struct ops_check *checks, size_t count, const char *version, bool embedded,
                       struct buf *out);
