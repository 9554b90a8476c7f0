/* SPDX-License-Identifier: Apache-2.0 */
/* exchange: the story of one call: route -> path -> body -> auth -> schema -> command -> reply -> answer, or the legacy
 * path. The only room that knows all the others; it connects them through callbacks and holds no library. One
 * struct exchange_worker a loop, one struct exchange_shared a process, one struct exchange_plan a configuration: a call keeps the
 * plan it began with. States and who may change them: docs/states.md. design.md sections 4, 5 and 6. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "syncgate/auth.h"
#include "syncgate/await.h"
#include "syncgate/config.h"
#include "syncgate/http.h"
#include "syncgate/kafka.h"
#include "syncgate/legacy.h"
#include "syncgate/loop.h"
#include "syncgate/ops.h"
#include "syncgate/path.h"
#include "syncgate/route.h"

/* A breaker and its lock. `open` repeats, for a look without the lock, whether it refuses calls. */
struct exchange_breaker {
    pthread_mutex_t mtx; /* leaf */
    struct path_breaker breaker;
    atomic_bool open;
};

/* What of an operation outlives a reload, found again by its operationId. Never freed before the end. */
struct exchange_operation {
    char *name;
    uint32_t slot;         /* index in exchange_shared.operations; labels of metrics */
    atomic_uint in_flight; /* parked requests, over all loops */
    struct exchange_breaker breaker;
};

/* What the exchange knows of a route beyond the route file. */
struct exchange_route {
    struct exchange_operation *operation;
    _Atomic(uint32_t) flag;  /* packed, exchange_route_flag(): the only thing here that changes */
    uint32_t command_topic;  /* index in the room kafka */
    struct span reply_topic; /* the reply address in the command's headers; ptr NULL: none */
    bool reply_needs_body;   /* a reply template refers to the request's body: it is kept until the reply */
    uint32_t max_in_flight;
};

#define EXCHANGE_NO_ADDRESS UINT32_MAX

/* One configuration with its routes; immutable but for the flags. Counted by its holders: the app and each loop. */
struct exchange_plan {
    atomic_uint refs;
    struct config *config;         /* owned */
    struct route_table *routes;    /* owned */
    struct exchange_route *states; /* [routes->count] */
    char **reply_topic_names;      /* NUL-terminated copies of routes->reply_topics */
    uint32_t *reply_topic_ids;     /* their indexes in the room kafka */
    uint32_t address_id;           /* SYNCGATE_REPLY_TOPIC's index there; EXCHANGE_NO_ADDRESS: not set */
    char reply_partition[12];      /* SYNCGATE_REPLY_PARTITION as text; empty: not set */
    struct span *command_topics;   /* distinct */
    uint32_t *command_topic_ids;
    size_t command_topic_count;
    uint32_t dead_letter_topic; /* with config->dead_letter_topic: its index in the room kafka */
    size_t slot_count;          /* operations up to and with this plan */
    bool field_matching;        /* some route asks for it */
    struct path_breaker_settings route_breaker, cluster_breaker;
    struct exchange_plan *next; /* in exchange_shared.plans */
};

#define EXCHANGE_ID_HEADERS_MAX 64

/* For the process. Set before the loops run, then immutable but for the atomics and what a lock guards. */
struct exchange_shared {
    uint32_t instance;
    bool has_legacy;
    struct kafka *kafka;         /* borrowed; NULL: not configured */
    struct auth_keys *auth_keys; /* borrowed for exchange_worker_new(); NULL: none */
    struct await_fields *fields; /* owned */
    struct legacy_settings legacy;
    size_t loop_count;
    struct exchange_operation **operations; /* main only */
    size_t operation_count;
    pthread_mutex_t plans_mtx; /* leaf: the list of plans that calls may still hold */
    struct exchange_plan *plans;
    atomic_bool field_matching; /* one of them asks for it */
    /* Headers in which a reply of any plan may carry its id, NUL-terminated, owned. Main adds a name, then publishes the
     * count that covers it; none changes or goes. */
    char *id_headers[EXCHANGE_ID_HEADERS_MAX];
    atomic_uint id_header_count;
    struct exchange_breaker cluster;
    atomic_bool unreachable;         /* the cluster's breaker was told so */
    atomic_uint_fast64_t body_bytes; /* announced by requests that are being collected, or kept */
    atomic_uint_fast64_t unmatched;  /* replies dismissed on the reader thread */
    atomic_uint_fast64_t invalid;    /* without a usable header, and not JSON */
};

/* ERR_OK or ERR_NO_MEMORY. Thread: main, at start. */
enum err_code exchange_shared_init(struct exchange_shared *shared) SG_NODISCARD;
/* All plans must be gone. */
void exchange_shared_fini(struct exchange_shared *shared);

/* ---- plans. Thread: main, but where said ---- */

/* Takes config and routes, also on failure. flags: one for each route. Operations that are new get a slot. Returns owned (one
 * reference), or NULL with *err. */
struct exchange_plan *exchange_plan_new(struct exchange_shared *shared, struct config *config,
                                        struct route_table *routes, const struct path_flag *flags,
                                        struct err *err);
/* Makes the plan's topics known to Kafka; calls may be served by it from then on. ERR_OK, ERR_OVERLOADED (too many topics, or
 * too many different headers of replies) or ERR_NO_MEMORY. */
enum err_code exchange_plan_bind(struct exchange_shared *shared, struct exchange_plan *plan) SG_NODISCARD;
struct exchange_plan *exchange_plan_ref(struct exchange_plan *plan); /* Thread: any */
/* Thread: any. Locks: takes plans_mtx. */
void exchange_plan_unrefp(struct exchange_shared *shared, struct exchange_plan **plan);
/* A flag. It decides for calls that begin after it was set. Thread: any. */
struct path_flag exchange_route_flag(const struct exchange_route *route);
void exchange_route_set_flag(struct exchange_route *route, const struct path_flag *flag);
/* Why a route's Kafka path is closed right now, breakers apart. Borrows from the plan. */
struct exchange_closed {
    const char *why;   /* for people */
    struct span topic; /* which one it is about; ptr NULL: none */
    enum path_fallback reason;
    bool lacks_topic; /* its command topic is missing: its own trouble, nothing that a start waits for */
};
/* False: it is open, *ret_closed is not set. Thread: any. */
bool exchange_route_closed(const struct exchange_shared *shared, const struct exchange_plan *plan,
                           const struct route *route, struct exchange_closed *ret_closed);

/* ---- breakers. Thread: any. Locks: takes the breaker's ---- */

/* A look for people. */
void exchange_breaker_look(struct exchange_breaker *breaker, const struct path_breaker_settings *settings,
                           struct path_breaker_view *ret_view);
/* Opens the cluster's breaker when no broker can be reached, and lets it probe when one can again. */
void exchange_cluster_observe(struct exchange_shared *shared, const struct exchange_plan *plan);

/* ---- workers ---- */

struct exchange_worker;

/* Borrows shared and loop; takes a reference to the plan. Returns owned, or NULL with *err. Thread: main, before the loop runs. */
struct exchange_worker *exchange_worker_new(struct exchange_shared *shared, struct exchange_plan *plan,
                                            struct loop *loop, unsigned loop_number, struct err *err);
/* No request may be under way. NULL-safe. */
void exchange_worker_freep(struct exchange_worker **worker);
/* The callbacks of a public front; the front's handler.arg is the worker. */
extern const struct http_handler exchange_http_handler;
/* The callbacks of kafka; handler.arg is the shared, loop_args are the workers. */
extern const struct kafka_handler exchange_kafka_handler;

/* Calls that begin from now on use this plan (the worker takes a reference). ERR_OK or ERR_NO_MEMORY: it keeps the one it has.
 * Thread: loop. */
enum err_code exchange_worker_set_plan(struct exchange_worker *worker,
                                       struct exchange_plan *plan) SG_NODISCARD;
/* Another key set from now on. Borrowed for the call. Thread: loop. */
void exchange_worker_set_keys(struct exchange_worker *worker, struct auth_keys *keys);
/* Ends every parked request (winner: shutdown). Thread: loop. */
void exchange_worker_abandon(struct exchange_worker *worker);
/* Counters and gauges of this loop, added to the caller's. Thread: loop. */
void exchange_worker_collect(struct exchange_worker *worker, struct ops_counters *counters,
                             struct ops_gauges *gauges);
/* Requests between on_begin and on_done. Thread: loop. */
uint32_t exchange_worker_active(const struct exchange_worker *worker);
