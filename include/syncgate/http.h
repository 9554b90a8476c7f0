/* SPDX-License-Identifier: Apache-2.0 */
/* http: the front. HTTP/1.1 server connections through libmicrohttpd (its sole includer), parked requests, answers. A front
 * belongs to one loop; a listening socket is shared by the fronts of a port. A request whose handler has not answered when
 * its body is complete is parked by itself, costs no thread, and is answered later from its loop. It knows no route.
 * design.md section 6, docs/architecture.md "Connections in packs". RFC 9110, RFC 9112. */
#pragma once

#include <sys/socket.h>

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/loop.h"

struct http_listener;
struct http_front;
struct http_request;

/* ---- listener ---- */

/* Binds and listens ("127.0.0.1:8080", "[::1]:0", "0.0.0.0:8080"). A busy port is an error. Returns owned, or NULL with
 * *err. max_connections: over all fronts; more wait in the kernel's backlog. Thread: main. */
struct http_listener *http_listener_new(const char *address, uint32_t max_connections, struct err *err);
/* The bound address with the port that the kernel chose. */
const char *http_listener_address(const struct http_listener *listener);
/* Refuses new connections from now on. Thread: main; the fronts notice in their next accept. */
void http_listener_close(struct http_listener *listener);
/* All fronts must be gone. NULL-safe. */
void http_listener_freep(struct http_listener **listener);
uint32_t http_listener_connections(const struct http_listener *listener); /* Thread: any */

/* ---- front ---- */

enum http_body_mode {
    HTTP_BODY_COLLECT, /* gathered, at most body_limit bytes; on_end then finds it with http_request_body() */
    HTTP_BODY_STREAM,  /* handed to on_body piece by piece */
};

/* What became of a request, for the log line. */
struct http_summary {
    int status;     /* of the queued answer; 0: none was queued */
    bool completed; /* the answer was sent whole */
    bool client_gone;
    uint64_t started_ns; /* CLOCK_MONOTONIC of the first line */
};

/* Callbacks, all on the front's loop. `user` is what on_begin returned. */
struct http_handler {
    /* The head is here. Answer at once, or set the body mode (COLLECT by default). Returns the request's user pointer. What the
     * front itself has refused (http_request_is_answered()) is to be reported only. */
    void *(*on_begin)(void *arg, struct http_request *request);
    void *arg;
    /* STREAM: takes 0..len bytes; less than len holds the upload back until http_request_body_resume(). */
    size_t (*on_body)(void *user, const char *data, size_t len);
    /* The whole request is here. Answer now or later (parked). COLLECT: the body is larger than body_limit if
     * http_request_body_too_large(). Not called for a request that was answered before, but for an upload (STREAM) whose
     * streamed answer has not ended yet. */
    void (*on_end)(void *user);
    /* The client left while no answer was queued. Let go of everything that waits; then call http_request_abort(). */
    void (*on_gone)(void *user);
    /* A streaming answer has room again after http_stream_write() refused. */
    void (*on_drain)(void *user);
    /* The last callback: the exchange is over, the request is freed after it. */
    void (*on_done)(void *user, const struct http_summary *summary);
};

struct http_settings {
    size_t connection_memory; /* bytes for request line and headers of one connection */
    size_t body_limit;
    uint32_t idle_timeout_ms;
    /* A collected body has this time to arrive, the rest of a discarded one as well. 0: no limit. */
    uint32_t body_timeout_ms;
    struct http_handler handler;
};

/* Borrows loop and listener. Returns owned, or NULL with *err. Thread: main, before the loop runs. */
struct http_front *http_front_new(struct loop *loop, struct http_listener *listener,
                                  const struct http_settings *settings, struct err *err);
/* Fronts of one listener share its connections. All must be joined before the loops run. */
enum err_code http_front_join(struct http_front *front) SG_NODISCARD;
/* From now on every answer closes its connection. Thread: loop. */
void http_front_drain(struct http_front *front);
/* From now on a request is answered 503 instead of begun. Thread: loop. */
void http_front_refuse(struct http_front *front);
/* Requests between their first line and on_done. Thread: loop. */
uint32_t http_front_active(const struct http_front *front);
/* Closes all connections; aborts what is unfinished (on_done is called). NULL-safe. Thread: loop, or main once it ended. */
void http_front_freep(struct http_front **front);

/* ---- request. Thread: the front's loop ---- */

struct span http_request_method(const struct http_request *request);
/* Path and query as received; of a target in absolute form what follows its authority, "/" at least. */
struct span http_request_target(const struct http_request *request);
/* Whom the client means: the authority of an absolute target, else Host; ptr NULL if neither is there. */
struct span http_request_host(const struct http_request *request);
bool http_request_is_http10(const struct http_request *request);
/* First header of that name (any case); ptr NULL if absent. */
struct span http_request_header(const struct http_request *request, const char *name);
void http_request_each_header(const struct http_request *request,
                              void (*on_header)(void *arg, struct span name, struct span value), void *arg);
/* Content-Length, -1: chunked, 0: no body. has_body: a body was announced at all. */
int64_t http_request_content_length(const struct http_request *request, bool *ret_has_body);
const struct sockaddr *http_request_peer(const struct http_request *request);
void http_request_set_body_mode(struct http_request *request, enum http_body_mode mode);
/* COLLECT, from on_end on: the body, kept until http_request_body_drop() or the end. */
struct span http_request_body(const struct http_request *request);
bool http_request_body_too_large(const struct http_request *request);
/* Frees the collected body early: a parked request then costs less. */
void http_request_body_drop(struct http_request *request);
/* STREAM: on_body may be called again. */
void http_request_body_resume(struct http_request *request);
bool http_request_is_answered(const struct http_request *request);
uint64_t http_request_started_ns(const struct http_request *request);

struct http_header {
    struct span name;
    struct span value;
};
struct http_answer {
    int status;
    const struct http_header
        *headers; /* in order; Content-Length, Connection, Date and Transfer-Encoding are the front's */
    size_t header_count;
    struct span body; /* copied */
};
/* Whether the head of this answer fits into the connection's memory beside that of the request. If not, the connection would be
 * closed without an answer. Those of a few short headers always do. */
bool http_request_has_room(const struct http_request *request, const struct http_answer *answer);
/* Queues the answer and lets a parked request go. Exactly one answer a request (asserted). Without memory the
 * connection is closed. */
void http_request_answer(struct http_request *request, const struct http_answer *answer);
/* The same with a streamed body: length -1 is chunked (until close for HTTP/1.0); answer->body is ignored. */
void http_request_answer_stream(struct http_request *request, const struct http_answer *answer,
                                int64_t length);
/* Takes all of data (true), or nothing when the buffer (64 KiB) has no room for it: on_drain follows. */
bool http_stream_write(struct http_request *request, const char *data, size_t len);
/* The body is complete; ok false breaks the connection, so that the client sees a truncated body. */
void http_stream_end(struct http_request *request, bool ok);
/* Drops the connection of a request whose client left, answered or not. */
void http_request_abort(struct http_request *request);
