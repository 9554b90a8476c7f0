/* SPDX-License-Identifier: Apache-2.0 */
/* app: the composition root. Makes the parts from the configuration, starts and stops them in the order that app_serve()
 * shows from top to bottom, and owns the admin port. Thread: main, but where said. */
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

struct app {
    const struct config *config;
    const char *config_file; /* NULL: none; for messages */
    struct route_table *routes;
    struct auth_keys *keys;
    int64_t keys_mtime_ns;
    struct exchange_shared shared;
    struct kafka *kafka;
    struct http_listener *listener, *admin_listener;
    struct app_worker *workers;
    size_t worker_count;

    struct loop *loop; /* main's: signals, admin, housekeeping */
    struct http_front *admin_front;
    struct loop_io signal_io;
    struct loop_timer tick;
    enum app_phase phase;
    uint64_t started_ns, phase_ns; /* CLOCK_MONOTONIC */
    bool hurry;                    /* a second signal */
    bool abandoned;                /* parked requests were ended */
    bool counting;                 /* a gather is under way for the drain */
};

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
enum err_code app_load(struct app *app, struct err *err);
void app_unload(struct app *app);
/* Looks whether the JWKS file changed, and gives the workers its keys. */
void app_reload_keys(struct app *app);

/* ---- admin.c ---- */
extern const struct http_handler app_admin_handler; /* arg: the app */
/* Whether the gateway should get traffic; *ret_why names the first check that fails. */
bool app_is_ready(const struct app *app, const char **ret_why);

/* Serves until a signal ends it. Returns the exit code. */
int app_serve(const struct config *config, const char *config_file);
