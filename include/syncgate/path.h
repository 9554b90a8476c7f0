/* SPDX-License-Identifier: Apache-2.0 */
/* path: the feature flag, the choice between the Kafka and the legacy path, and the circuit breaker. Pure: no I/O, no clock,
 * no thread, no lock, no allocation; time is passed in. What is shared by threads is locked by its owner. design.md
 * section 5; the breaker's states are drawn in docs/states.md. */
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
    X(PATH_FALLBACK_NO_TOPIC, "no_topic")           /* the cluster lacks the route's command topic */  \
    X(PATH_FALLBACK_QUEUE_FULL, "queue_full")       /* librdkafka's queue refused it */                \
    X(PATH_FALLBACK_TOO_LARGE, "too_large")         /* larger than message.max.bytes */                \
    X(PATH_FALLBACK_NOT_PERSISTED, "not_persisted") /* the delivery report says so */                  \
    X(PATH_FALLBACK_OVERLOADED, "overloaded")       /* awaiter table or route full */                  \
    X(PATH_FALLBACK_BREAKER, "breaker_open")        /* the route's breaker is open */                  \
    X(PATH_FALLBACK_CLUSTER_BREAKER, "cluster_breaker_open") /* the cluster's breaker is open */
enum path_fallback {
#define X(code, name) code,
    PATH_FALLBACKS(X)
#undef X
        PATH_FALLBACK_COUNT
};
const char *path_fallback_name(enum path_fallback reason);

/* ---- the circuit breaker ----
 * Embedded in its owner, who locks it. Every call on the Kafka path asks for a permit and reports with it how it ended. now_ns
 * is CLOCK_MONOTONIC; an instant a little older than the one of an earlier call does no harm. */
#define PATH_BREAKER_STATES(X)                                                              \
    X(PATH_BREAKER_CLOSED, "closed")       /* every call passes, and is counted */          \
    X(PATH_BREAKER_OPEN, "open")           /* no call passes until the next probe may go */ \
    X(PATH_BREAKER_HALF_OPEN, "half_open") /* a few calls pass: the probes */
enum path_breaker_state {
#define X(code, name) code,
    PATH_BREAKER_STATES(X)
#undef X
        PATH_BREAKER_STATE_COUNT
};
const char *path_breaker_state_name(enum path_breaker_state state);

/* Why it opened last. */
#define PATH_BREAKER_REASONS(X)                                                                  \
    X(PATH_BREAKER_NONE, "none")                         /* it is closed */                      \
    X(PATH_BREAKER_PRODUCE_FAILURES, "produce_failures") /* their share reached the threshold */ \
    X(PATH_BREAKER_REPLY_TIMEOUTS, "reply_timeouts")     /* their share reached the threshold */ \
    X(PATH_BREAKER_UNREACHABLE, "unreachable")           /* tripped: all brokers are down */     \
    X(PATH_BREAKER_PROBE_FAILED, "probe_failed")         /* half-open, a probe failed */
enum path_breaker_reason {
#define X(code, name) code,
    PATH_BREAKER_REASONS(X)
#undef X
        PATH_BREAKER_REASON_COUNT
};
const char *path_breaker_reason_name(enum path_breaker_reason reason);

/* Passed with each call, so that they may change at any time. */
struct path_breaker_settings {
    bool enabled;       /* false: everything passes, nothing is counted, and an open breaker closes */
    uint32_t window_ms; /* calls that ended this long ago (to a tenth of it) are forgotten */
    uint32_t min_calls; /* no verdict on fewer calls in the window */
    uint32_t produce_failure_percent; /* 1..100: opens at this share of the calls; 0: these never open it */
    uint32_t timeout_percent;         /* the same for reply timeouts */
    uint32_t open_ms;                 /* the first open time; each failed probe doubles it */
    uint32_t open_max_ms;             /* up to this (before the jitter); below open_ms it counts as open_ms */
    uint32_t probes; /* successes that close it, and the most calls that half-open lets pass; at least 1 */
};

#define PATH_BREAKER_BUCKETS 10u
struct path_breaker_bucket {
    uint32_t calls, produce_failures, timeouts;
};
/* All fields are private to src/path/breaker.c. */
struct path_breaker {
    enum path_breaker_state state;
    enum path_breaker_reason reason;
    uint32_t epoch; /* state changes so far; a permit of an earlier one counts for nothing */
    struct path_breaker_bucket buckets[PATH_BREAKER_BUCKETS];
    uint32_t bucket;          /* the newest one */
    uint64_t bucket_start_ns; /* when it began */
    uint64_t opened;          /* how often it has opened */
    uint32_t opens_in_a_row;  /* since it was closed last */
    uint64_t open_ns;         /* open_ms as it was when it opened last */
    uint64_t next_probe_ns;
    uint32_t probes_under_way, probes_succeeded;
    uint64_t rng;
};

enum path_outcome {
    PATH_OUTCOME_NONE, /* says nothing: client gone, shutdown, fell out before producing */
    PATH_OUTCOME_SUCCESS,
    PATH_OUTCOME_PRODUCE_FAILURE,
    PATH_OUTCOME_TIMEOUT,
};
/* Given to one call, which keeps it until it reports. {0}: none. */
struct path_permit {
    uint32_t epoch;
    bool given;
    bool probe;
};

/* seed: of the jitter; breakers that shall not probe in step need different ones. */
void path_breaker_init(struct path_breaker *breaker, uint64_t seed);
/* May this call take Kafka? CLOSED: yes. OPEN: no until the next probe may go, then it becomes HALF_OPEN. HALF_OPEN: yes for
 * at most `probes` calls that are under way or succeeded. Not enabled: always yes. *ret_permit is set in any case. */
bool path_breaker_ask(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                      uint64_t now_ns, struct path_permit *ret_permit) SG_NODISCARD;
/* Exactly once for each permit that was given; clears the permit, so that a second report is harmless. It counts for nothing
 * when the breaker has changed its state since. A probe's NONE, and its failure of a kind whose threshold is 0, give
 * its place back; any other failure of a probe opens again. */
void path_breaker_report(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                         struct path_permit *permit, enum path_outcome outcome, uint64_t now_ns);
/* Opens at once, whatever was counted; harmless when it is open (or not enabled). reason: not NONE. */
void path_breaker_trip(struct path_breaker *breaker, const struct path_breaker_settings *settings,
                       enum path_breaker_reason reason, uint64_t now_ns);
/* What opened it is over: the next probe may go at some instant within a tenth of open_ms. Only ever brings it nearer;
 * nothing when not open. */
void path_breaker_hurry(struct path_breaker *breaker, uint64_t now_ns);

/* Changes of state so far: a cheap way to see whether there is something to tell. */
static inline uint32_t path_breaker_changes(const struct path_breaker *breaker)
{
    return breaker->epoch;
}

struct path_breaker_view {
    enum path_breaker_state state;
    enum path_breaker_reason reason;
    uint64_t wait_ns;                           /* OPEN: until the next probe may go; else 0 */
    uint32_t calls, produce_failures, timeouts; /* in the window */
    uint64_t opened;                            /* how often it has opened */
    uint32_t changes; /* of the state so far: who keeps the last one can log one line a change */
};
/* Changes nothing. Not enabled: looks closed, as it is at the next call. */
void path_breaker_look(const struct path_breaker *breaker, const struct path_breaker_settings *settings,
                       uint64_t now_ns, struct path_breaker_view *ret_view);
