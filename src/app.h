/* SPDX-License-Identifier: Apache-2.0 */
/* app: the composition root. Makes the parts from the configuration, starts and stops them in the order that app_serve()
 * shows from top to bottom, reloads the configuration, holds the flags that were set at run time, and owns the admin port.
 * Thread: main, but where said. */
#pragma once

#include <pthread.h>

#include "syncgate/config.h"
#include "syncgate/exchange.h"

#define APP_VERSION SYNCGATE_VERSION

struct app_worker {
    pthread_t thread;
    bool started;
    struct loop *loop;
    struct exchange_worker *exchange;
    struct http_front *front;
};

enum app_phase {
    APP_STARTING, /* positions in the reply topics are being looked up */
    APP_SERVING,
    APP_LEAVING,  /* SIGTERM came: not ready, still accepting for SHUTDOWN_DELAY */
    APP_DRAINING, /* no new connections; requests under way finish, for at most SHUTDOWN_TIMEOUT */
    APP_STOPPED
};

/* A flag that was set at the admin port. */
struct app_override {
    char *operation; /* operationId; NULL: the common value */
    struct path_flag flag;
};

/* A flag as it holds now, and who says so. */
#define APP_FLAG_SOURCES(X)                                                             \
    X(APP_FLAG_CONFIGURED, "configured") /* environment, configuration file, default */ \
    X(APP_FLAG_FILE, "file")             /* FEATURE_KAFKA_EVENTS_FILE */                \
    X(APP_FLAG_ADMIN, "admin")
enum app_flag_source {
#define X(code, name) code,
    APP_FLAG_SOURCES(X)
#undef X
};
struct app_flag {
    struct path_flag flag;
    enum app_flag_source source;
    bool own; /* the operation's own value, not the common one */
};

struct app {
    const char *config_file;    /* NULL: none */
    struct exchange_plan *plan; /* the current one: its configuration and routes */
    struct auth_keys *keys;
    int64_t keys_mtime_ns;
    struct exchange_shared shared;
    struct kafka *kafka;
    struct http_listener *listener, *admin_listener;
    struct app_worker *workers;
    size_t worker_count;

    struct app_override *overrides;
    size_t override_count;
    struct exchange_plan *next_plan; /* checked, waits for its topics; NULL: none */
    struct auth_keys *next_keys;
    int64_t next_keys_mtime_ns;
    uint64_t next_since_ns; /* CLOCK_MONOTONIC */
    struct buf next_kept;   /* settings that need a restart */
    uint64_t reloads_ok, reloads_failed;

    struct loop *loop; /* main's: signals, admin, housekeeping */
    struct http_front *admin_front;
    struct loop_io signal_io;
    struct loop_timer tick;
    enum app_phase phase;
    uint64_t started_ns, phase_ns; /* CLOCK_MONOTONIC */
    bool hurry;                    /* a second signal */
    bool abandoned;                /* parked requests were ended */
    bool refusing;                 /* nothing is active any more, and nothing is begun */
    bool counting;                 /* a gather is under way for the drain */
};

static inline const struct config *app_config(const struct app *app)
{
    return app->plan->config;
}

/* ---- gathering: one message that visits every worker's loop and comes back ---- */
struct app_gather {
    struct loop_msg msg;
    struct app *app;
    size_t next;
    bool abandon; /* end parked requests on the way */
    struct ops_counters *counters;
    struct ops_gauges gauges;
    void (*on_complete)(struct app_gather *gather); /* Thread: main; owns the gather */
    void *arg;
};
/* Returns NULL without memory; else on_complete follows. */
struct app_gather *app_gather_start(struct app *app, bool abandon, void (*on_complete)(struct app_gather *),
                                    void *arg);
void app_gather_freep(struct app_gather **gather);

/* ---- load.c: files and checks that need no socket; also what `syncgate check` does ---- */
/* Takes config, also on failure. Fills app->plan and app->keys. */
enum err_code app_load(struct app *app, struct config *config, struct err *err);
void app_unload(struct app *app);
/* A checked plan from the files that config names. Takes config, also on failure. Returns owned, or NULL with *err. */
struct exchange_plan *app_make_plan(struct app *app, struct config *config, struct err *err);
/* Whether these flags can be served with this configuration. ERR_OK or ERR_CONFIG. */
enum err_code app_check(const struct config *config, const struct route_table *routes,
                        const struct path_flag *flags, struct err *err);
/* Returns owned, or NULL: with err->code ERR_OK no keys are configured. */
struct auth_keys *app_load_keys(const struct config *config, struct err *err);

/* ---- reload.c ---- */
/* SIGHUP: reads everything again. What is wrong changes nothing. What is good is used as soon as its topics are known. */
void app_reload(struct app *app);
/* Looks after a reload that waits for its topics. True while one does. */
bool app_reload_step(struct app *app);
/* When the file of AUTH_JWKS was written, unix ns; 0: there is none. */
int64_t app_keys_mtime_ns(const struct config *config);
/* Looks whether the JWKS file changed, and gives the workers its keys. */
void app_reload_keys(struct app *app);
/* No reload can be under way. */
void app_reload_drop(struct app *app);

/* ---- flags.c ---- */
const char *app_flag_source_name(enum app_flag_source source);
/* The value of each route (ret_flags[routes->count]) and the common one (NULL: not wanted). What is set at the admin port
 * beats the flags file, which beats the settings; in each of the three an operation's own value beats the common one. */
enum err_code app_flags_resolve(const struct app *app, const struct config *config,
                                const struct route_table *routes, struct app_flag *ret_flags,
                                struct app_flag *ret_common, struct err *err);
/* Sets (flag not NULL) or takes back what is set at the admin port; operation NULL: the common value. ERR_OK; ERR_NOT_FOUND (no
 * such operation); ERR_CONFIG with *err (it cannot be served so; nothing changed); ERR_NO_MEMORY. */
enum err_code app_flags_override(struct app *app, const char *operation, const struct path_flag *flag,
                                 struct err *err);
/* The values alone, and whether they can be served: app_check(). */
enum err_code app_flags_values(const struct app *app, const struct config *config,
                               const struct route_table *routes, struct path_flag *ret_values,
                               struct err *err);
/* The same, stored in the plan: calls that begin from now on follow them. On failure nothing has changed. */
enum err_code app_flags_refresh(const struct app *app, struct exchange_plan *plan, struct err *err);
void app_flags_fini(struct app *app);
/* The audit line "flag changed". peer: NULL if nobody asked over the network. operation: NULL for the common value. */
void app_log_flag(const char *who, const char *peer, const char *operation, const char *before,
                  const char *after);

/* ---- admin.c ---- */
extern const struct http_handler app_admin_handler; /* arg: the app */
struct admin_call {
    struct app *app;
    struct http_request *http; /* NULL once it is over */
    bool gathering;
};
void app_admin_answer(struct admin_call *call, int status, struct span type, struct span body);
/* {"message":...,"statusCode":...} */
void app_admin_refuse(struct admin_call *call, int status, const char *message);
/* Of which routes somebody wants to know whether Kafka is closed. */
enum app_scope {
    APP_ALL_ROUTES, /* those that use it */
    APP_WAITED_FOR, /* the same, but for what a missing command topic closes */
    APP_ONLY_KAFKA, /* of these, those that have no other path */
};
/* Why it is closed for the first of them of which it is. False: it is open, *ret_closed is not set. */
bool app_closed_route(const struct app *app, enum app_scope scope, struct exchange_closed *ret_closed);
/* Whether a route's flag takes any call to Kafka. */
bool app_uses_kafka(const struct app *app);
/* Whether the gateway should get traffic; *ret_why names the first check that fails. */
bool app_is_ready(const struct app *app, const char **ret_why);

/* ---- admin_flags.c: /admin/flags and /admin/breakers ---- */
/* False: the target is none of these. */
bool app_admin_flags(struct admin_call *call, struct span method, struct span target);

/* Serves until a signal ends it. Takes config. Returns the exit code. */
int app_serve(struct config *config, const char *config_file);
