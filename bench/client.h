/* SPDX-License-Identifier: Apache-2.0 */
/* client: the load itself: keep-alive connections in one epoll set, one request in flight on each, every
 * answer checked. One thread. It talks to 127.0.0.1 only and always ends: see `seconds`, `drain_seconds` and
 * load.c's alarm. */
#pragma once

#include <netinet/in.h>
#include <signal.h>

#include "answer.h"
#include "stats.h"

#define CLIENT_WATCH_MAX 16

enum load_mode {
    LOAD_CYCLES, /* bind, unbind, bind, ... of the connection's own device */
    LOAD_PLAIN,  /* the same request again and again */
    LOAD_PARK,   /* one bind per connection, which nobody answers before its deadline */
};

struct watched_process {
    char *name; /* owned by main(); several processes may share one */
    pid_t pid;
    double start_us, used_us;
};

struct load_options {
    enum load_mode mode;
    struct sockaddr_in target, admin; /* admin.sin_port 0: not given */
    unsigned connections, first_device;
    double warmup_seconds, seconds, drain_seconds;
    uint64_t max_requests; /* 0: no limit */
    double rate;           /* requests/s over all connections; 0: each connection as fast as it is answered */
    int expect_status;
    bool abandon;              /* park: close instead of waiting for the answers */
    char *token;               /* NULL: none; owned by main(), like body */
    const char *method, *path; /* plain */
    char *body;                /* plain: NULL without one */
    size_t body_len;
};

struct load_result {
    struct histogram latency;
    uint64_t requests; /* answered as expected while it was measured */
    double seconds, own_cpu_us;
    uint64_t checked;    /* answered as expected, warm-up and drain included */
    uint64_t unexpected; /* another status or body */
    uint64_t crossed;    /* answers that belong to another request */
    uint64_t errors;     /* connections that broke, answers that never came */
    uint64_t parked;     /* what the gauge said when all had been sent */
    struct watched_process watched[CLIENT_WATCH_MAX];
    unsigned watched_count;
};

/* Runs the load; in LOAD_PARK it prints a line `parked N` once all are parked. `stop` ends it early (set by a
 * signal). Returns false, with a line on stderr, if it could not be run at all; answers of the wrong kind are
 * in the result. */
bool client_run(const struct load_options *options, volatile sig_atomic_t *stop, struct load_result *result);
