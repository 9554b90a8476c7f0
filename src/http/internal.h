/* SPDX-License-Identifier: Apache-2.0 */
/* Private to http: the structs its files share. */
#pragma once

#include <microhttpd.h>
#include <stdatomic.h>

#include "syncgate/http.h"
#include "syncgate/log.h"

#define HTTP_PACK_CONNECTIONS 256u
#define HTTP_FRONTS_MAX       256u
#define HTTP_STREAM_BUFFER    (64u << 10)
#define HTTP_ANSWER_ROOM      512u       /* for the head of an answer of our own */
#define HTTP_DISCARD_MAX      (1u << 20) /* bytes of an upload that an early answer may still wait for */

struct http_listener {
    int fd;
    char address[80];
    uint32_t max_connections;
    atomic_uint connections;
    atomic_bool closed;
    struct http_front *fronts[HTTP_FRONTS_MAX];
    size_t front_count;
};

/* A libmicrohttpd daemon with at most HTTP_PACK_CONNECTIONS connections. */
struct http_pack {
    struct http_front *front;
    struct http_pack *next;
    struct MHD_Daemon *daemon;
    uint32_t connections;
    struct loop_io io;      /* the daemon's epoll descriptor */
    struct loop_task run;   /* MHD_run() at the end of the turn */
    struct loop_timer idle; /* the daemon's next time-out */
};

struct http_front {
    struct loop *loop;
    struct http_listener *listener;
    struct http_settings settings;
    struct loop_io accept_io;
    struct loop_timer accept_pause;
    struct http_pack *packs;
    struct http_request *requests; /* all that are under way */
    atomic_uint connections;       /* read by the other fronts to balance */
    uint32_t active;
    bool draining;
    bool refusing;
    bool ending; /* http_front_freep() runs: a request that comes now is refused */
    struct buf scratch;
    struct log_limit log_limit;
};

struct http_connection {
    struct http_pack *pack;
    struct MHD_Connection *mhd;
    struct http_request *request; /* the one under way */
    struct loop_io watch;         /* EPOLLRDHUP: libmicrohttpd does not notice while suspended */
    struct loop_timer head_timer; /* set while no request is under way, and perhaps for longer */
    uint64_t waits_since_ns;      /* for a first line, then for the rest of a head */
    bool gone;
    bool late; /* the head was: what is in the receive buffer still begins no request */
};

enum http_phase {
    HTTP_PHASE_HEAD,    /* the first line is here, the handler was not called yet */
    HTTP_PHASE_BODY,    /* body pieces arrive */
    HTTP_PHASE_ENDED,   /* complete: parked until answered */
    HTTP_PHASE_ANSWERED /* the response is queued */
};

struct http_request {
    struct http_front *front;
    struct http_request *next, **link; /* front->requests */
    struct http_connection *connection;
    void *user;
    const char *method; /* libmicrohttpd's, valid while the request lives */
    const char *version;
    enum http_phase phase;
    enum http_body_mode body_mode;
    bool begun;     /* on_begin was called, so on_done is due */
    bool ended;     /* on_end was called */
    bool suspended; /* libmicrohttpd's connection is */
    bool gone;      /* on_gone was called */
    bool aborted;
    bool body_too_large;
    bool late;                    /* the body was: the connection is being closed */
    struct loop_timer body_timer; /* set in BODY while the front itself waits for the body */
    size_t discarded;
    struct buf body;
    struct MHD_Response *response; /* ready, not queued yet */
    int status;
    uint64_t started_ns;
    /* streaming answer */
    bool streaming, stream_ended, stream_ok, stream_refused;
    struct buf stream; /* stream_at..len is to be sent */
    size_t stream_at;
    size_t target_len;
    struct span authority;  /* of a target in absolute form, behind target */
    struct span raw_target; /* libmicrohttpd's: where it was, and how long */
    size_t answer_room;     /* bytes of the connection's memory that are left for the head of an answer */
    char target[];          /* NUL-terminated */
};

/* front.c */
void http_pack_run_later(struct http_pack *pack);
/* The next head is due from now on. */
void http_wait_for_head(struct http_connection *connection);
void http_front_take(struct http_front *front, int fd, const struct sockaddr *address, socklen_t address_len);
/* listener.c */
enum err_code http_accept_start(struct http_front *front);
void http_accept_stop(struct http_front *front);
/* request.c: libmicrohttpd's callbacks */
void *http_on_first_line(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result http_on_access(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                               const char *version, const char *data, size_t *data_len, void **context);
void http_on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                       enum MHD_RequestTerminationCode code);
void http_on_client_gone(struct http_connection *connection);
void http_resume(struct http_request *request);
/* From now on the rest of the body has body_timeout_ms. */
void http_bound_body(struct http_request *request);
/* answer.c */
enum MHD_Result http_queue(struct http_request *request);
void http_answer_failure(struct http_request *request, int status, const char *error, const char *message);
/* 408 past libmicrohttpd, which takes no response in the middle of an upload, and the end of the connection. */
void http_answer_late(struct http_request *request);
