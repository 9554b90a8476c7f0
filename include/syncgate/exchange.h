/* SPDX-License-Identifier: Apache-2.0 */
/* exchange: the story of one call: route -> path -> body -> auth -> schema -> command -> reply -> answer, or the legacy
 * path. The only room that knows all the others; it connects them through callbacks and holds no library. One
 * struct exchange_worker a loop, one struct exchange_shared a process. States and who may change them: docs/states.md.
 * design.md sections 4, 5 and 6. */
#pragma once

#include <stdatomic.h>

#include "syncgate/auth.h"
#include "syncgate/await.h"
#include "syncgate/http.h"
#include "syncgate/kafka.h"
#include "syncgate/legacy.h"
#include "syncgate/loop.h"
#include "syncgate/ops.h"
#include "syncgate/path.h"
#include "syncgate/route.h"

struct sockaddr;

/* The form of the answers that refuse a request; SYNCGATE_ERROR_PROFILE. */
enum exchange_error_profile {
    EXCHANGE_ERRORS_TS_REST, /* what the legacy backend sends */
    EXCHANGE_ERRORS_NEST,    /* as NestJS's ValidationPipe */
    EXCHANGE_ERRORS_PROBLEM, /* RFC 9457, for every error the gateway makes */
};

/* What the exchange knows of a route beyond the route file. */
struct exchange_route {
    enum path_mode mode;
    uint32_t command_topic;  /* index into exchange_shared.command_topics */
    const char *reply_topic; /* the reply address in the command's headers; NUL-terminated */
    bool reply_needs_body;   /* a reply template refers to the request's body: it is kept until the reply */
    atomic_uint in_flight;   /* parked requests of the route, over all loops */
};

/* Immutable while the loops run, but for the counters. */
struct exchange_shared {
    const struct route_table *routes;
    struct exchange_route *route_states; /* [routes->count] */
    struct span *command_topics;         /* distinct */
    size_t command_topic_count;
    char **reply_topic_names; /* NUL-terminated copies of routes->reply_topics */
    uint32_t instance;
    bool has_legacy;
    enum exchange_error_profile error_profile;
    bool field_matching;                                          /* some route asks for it */
    struct await_fields *fields;                                  /* owned; NULL unless field_matching */
    struct kafka *kafka;                                          /* borrowed; NULL: no route uses Kafka */
    bool (*trusts)(const void *arg, const struct sockaddr *peer); /* TRUSTED_PROXIES */
    const void *trusts_arg;
    struct auth_keys *auth_keys; /* borrowed; NULL: no route needs a token */
    size_t auth_cache_max;
    struct legacy_settings legacy;
    uint32_t max_parked_per_loop;
    atomic_uint_fast64_t unmatched; /* replies dismissed on the reader thread */
    atomic_uint_fast64_t invalid;   /* without a usable header, and not JSON */
};

/* Fills what follows from the routes: command_topics, reply_topic_names, route_states (modes stay as given in `modes`,
 * one per route). ERR_OK or ERR_NO_MEMORY. Thread: main, at start. */
enum err_code exchange_shared_init(struct exchange_shared *shared, const struct route_table *routes,
                                   const enum path_mode *modes) SG_NODISCARD;
void exchange_shared_fini(struct exchange_shared *shared);

struct exchange_worker;

/* Borrows shared and loop. Returns owned, or NULL with *err. Thread: main, before the loop runs. */
struct exchange_worker *exchange_worker_new(struct exchange_shared *shared, struct loop *loop,
                                            unsigned loop_number, struct err *err);
/* No request may be under way. NULL-safe. */
void exchange_worker_freep(struct exchange_worker **worker);
/* The callbacks of a public front; the front's handler.arg is the worker. */
extern const struct http_handler exchange_http_handler;
/* The callbacks of kafka; handler.arg is the shared, loop_args are the workers. */
extern const struct kafka_handler exchange_kafka_handler;

/* Ends every parked request (winner: shutdown). Thread: loop. */
void exchange_worker_abandon(struct exchange_worker *worker);
/* Another key set from now on. Borrowed for the call. Thread: loop. */
void exchange_worker_set_keys(struct exchange_worker *worker, struct auth_keys *keys);
/* Counters and gauges of this loop, added to the caller's. Thread: loop. */
void exchange_worker_collect(struct exchange_worker *worker, struct ops_counters *counters,
                             struct ops_gauges *gauges);
/* Requests between on_begin and on_done. Thread: loop. */
uint32_t exchange_worker_active(const struct exchange_worker *worker);

/* Why a route's Kafka path is closed right now; NULL: it is open. Thread: any. */
const char *exchange_route_closed(const struct exchange_shared *shared, const struct route *route);
