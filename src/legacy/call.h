/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. legacy.c owns the life of calls, request.c and head.c the two messages,
 * transfer.c the callbacks of one transfer, retry.c what is sent again, wire.c the sockets and the timer of the multi
 * handle. */
#pragma once

#include <curl/curl.h>
#include <sys/queue.h>

#include "syncgate/legacy.h"
#include "syncgate/log.h"

#define LEGACY_STREAM_MAX       ((size_t)65536)
#define LEGACY_HEAD_MAX_BYTES   ((size_t)102400) /* all heads of one answer, 1xx included */
#define LEGACY_HEAD_MAX_HEADERS ((size_t)500)

TAILQ_HEAD(call_list, legacy_call);

struct legacy {
    struct loop *loop;
    CURLM *multi;
    char *origin; /* "http://backend:3000/": what curl connects to and names in Host */
    char *prefix; /* path of the base URL without its last slash */
    bool tls;
    uint64_t timeout_ns;
    long connect_timeout_ms;
    size_t max_connections;
    size_t max_calls; /* 0: no limit */
    unsigned max_retries;
    uint32_t retry_backoff_ms;
    uint64_t retries; /* of all calls so far */
    struct log_limit failure_log;
    bool handles_for_once; /* see handles_are_for_once() */

    struct call_list waiting; /* started, not in the multi handle: FIFO */
    struct call_list work;    /* calls that the task has to look at */
    struct call_list spare;   /* pool */
    size_t work_len, spare_len;
    size_t running;  /* calls in the multi handle */
    size_t unplaced; /* those of them whose connection is not known (yet) */
    size_t active;   /* calls whose end the owner has not been told and did not ask for */

    struct loop_task task;
    struct loop_timer timer; /* curl's */
    bool due;                /* curl's timer has run out */

    struct legacy_socket **sockets; /* by descriptor */
    size_t socket_cap;
};

/* The head of an answer while its lines arrive. */
struct head_line {
    uint32_t name, name_len, value, value_len; /* offsets in text */
};
struct head {
    struct buf text;
    struct head_line *lines;
    struct legacy_header *headers; /* twice cap: all of them, then those that go on */
    size_t count, cap;
    size_t bytes;
    int64_t content_length; /* -1: none */
    bool in_lines;          /* the status line was seen */
    bool transfer_encoding;
    bool done;
};

struct legacy_call {
    struct legacy *legacy;
    CURL *easy;
    struct legacy_handler handler;
    void *arg;
    TAILQ_ENTRY(legacy_call) link;      /* waiting or spare */
    TAILQ_ENTRY(legacy_call) work_link; /* work */
    struct loop_timer timer;
    uint64_t started_ns;
    uint64_t progress_ns; /* last sign of life of the backend, or end of a wait that was ours */
    curl_off_t uploaded;  /* as of the last look of the timer */

    bool in_work;
    bool running;   /* in the multi handle */
    bool resting;   /* between two attempts: the timer ends it */
    bool cancelled; /* the owner is gone */
    bool over;      /* on_end is being called or has been */
    bool failed;    /* a callback had to give up: ends as ERR_LEGACY_BROKEN */
    bool answered;  /* the answer is complete; what is left of the upload does not matter */
    bool last_word; /* nothing more is read: if curl still wants to send, the call is broken */

    /* request */
    struct buf text;
    struct curl_slist *nodes;
    size_t node_cap;
    bool resendable; /* idempotent, and no stream */
    bool has_body;
    bool head_method;
    unsigned requests;        /* times curl was about to send it */
    unsigned requests_of_run; /* those since it entered the multi handle */
    unsigned retries;         /* attempts after the first */
    enum err_code failure;    /* of the attempt before; with retries only */
    enum legacy_body body_kind;
    struct span whole_body, body; /* FIXED: all of it, and what is left */
    int64_t stream_left;          /* STREAM: bytes of content_length still to come; -1: chunked */
    struct buf stream;            /* STREAM: [stream_off, len) is not sent yet */
    size_t stream_off;
    bool stream_ended;
    bool stream_bad; /* more or fewer bytes than announced */
    bool want_writable;
    bool writable;    /* on_writable is due */
    bool send_paused; /* curl waits for the stream */

    /* answer */
    struct head head;
    int64_t received;
    bool unplaced;    /* has a connection, but curl did not ask to watch it */
    bool reading;     /* curl watches the connection for the answer */
    bool probed;      /* see starved_without_reader() */
    bool recv_paused; /* the owner refused data */
    bool resume;
};

/* ---- legacy.c ---- */
/* Puts the call before the task of this turn. Safe inside curl's callbacks. */
void call_add_work(struct legacy_call *call);
/* Removes the call from curl, tells the owner and takes the call back. Never inside a callback of curl. */
void call_end(struct legacy_call *call, enum err_code code);
/* The same for what curl has ended: it may be tried again. */
void call_done(struct legacy_call *call, CURLcode rc);
/* Takes the call out of curl or the queue. */
void call_leave(struct legacy_call *call);

/* ---- fields.c: header fields, RFC 9110 section 5 ---- */
bool field_is_token(struct span name);
/* No CR, LF or NUL. */
bool field_value_is_safe(struct span value);
/* Whether a message with these headers hands `name` on: neither hop-by-hop nor named by Connection. */
bool field_is_end_to_end(const struct legacy_header *headers, size_t count, struct span name);

/* ---- request.c ---- */
/* ERR_OK, ERR_BAD_REQUEST or ERR_NO_MEMORY. */
enum err_code request_apply(struct legacy_call *call, const struct legacy_request *request) SG_NODISCARD;

/* ---- head.c ---- */
enum head_result { HEAD_MORE, HEAD_INTERIM, HEAD_FINAL, HEAD_BAD };
enum head_result head_take(struct head *head, struct span line, int status);
/* Fills *response from a final head; it borrows from head. */
void head_response(struct head *head, int status, struct legacy_response *response);
void head_reset(struct head *head);
void head_fini(struct head *head);

/* ---- transfer.c ---- */
/* Sets what never changes on an easy handle. False without memory. */
bool transfer_prepare(struct legacy_call *call);
enum err_code transfer_result(const struct legacy_call *call, CURLcode rc);
/* Of our own timer. Ends the call or sets the timer again. */
void transfer_on_timer(struct loop_timer *timer);
size_t stream_len(const struct legacy_call *call);

/* ---- retry.c ---- */
/* Whether curl may send the request again now; then it is counted. */
bool retry_by_curl(struct legacy_call *call) SG_NODISCARD;
/* True: the failed call was taken out of curl, rests, and is tried again later. */
bool retry_rest(struct legacy_call *call, CURLcode rc, enum err_code code) SG_NODISCARD;
/* The rest is over: the call waits for its turn. */
void retry_go_on(struct legacy_call *call);

/* ---- wire.c ---- */
/* The call has a known connection, or none any more. */
void wire_placed(struct legacy_call *call);
bool wire_init(struct legacy *legacy);
void wire_fini(struct legacy *legacy); /* after curl_multi_cleanup() */
/* Options of an easy handle that make its sockets known. */
bool wire_prepare(struct legacy *legacy, CURL *easy);
/* Lets curl do what its timer asked for. */
void wire_run_due(struct legacy *legacy);
