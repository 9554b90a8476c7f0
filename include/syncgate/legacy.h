/* SPDX-License-Identifier: Apache-2.0 */
/* legacy: the direct path. One HTTP request to the legacy backend through libcurl's multi interface (socket_action) in
 * the caller's loop, with kept-alive connections, streamed both ways with bounded buffers. Sole includer of curl.h.
 * Only GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 section 9.2.2) whose body is here whole may be sent more than
 * once, as legacy_settings.retries says; everything else is sent at most once, whatever becomes of its connection. It
 * follows no redirect and decodes no content.
 * Needs libcurl 7.87 (CURLOPT_PREREQFUNCTION, CURLOPT_QUICK_EXIT).
 * Thread: the loop's own throughout. Locks: none. design.md section 5. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"
#include "syncgate/loop.h"

struct legacy;
struct legacy_call;

struct legacy_settings {
    const char *url; /* base URL, http:// or https://, with or without a path prefix */
    uint32_t connect_timeout_ms;
    /* From the start, or the last byte of the request that the backend took, to the response head, and between two body
     * bytes (not for the whole call). Does not run while the owner refuses data or owes a piece of its stream. */
    uint32_t timeout_ms;
    uint32_t
        max_connections; /* to the backend, of this loop; calls above wait in order, for timeout_ms at most */
    /* Calls of this loop under way or waiting; legacy_start() refuses more with ERR_OVERLOADED. 0: no limit. */
    uint32_t max_calls;
    /* Attempts after the first (0: none), of an idempotent call without a streamed body, when the connection was refused,
     * or ended before the first line of an answer; not after a time-out. libcurl's own resend on a kept-alive connection
     * that died is one of them, and goes out at once; before attempt n (from 0) of the others the call rests for
     * a random time between 0 and min(retry_backoff_ms * 2^n, 1 s). All attempts together have timeout_ms until the
     * head of an answer. */
    uint32_t retries;
    uint32_t retry_backoff_ms;
};
/* Process-wide libcurl initialisation, once, before any thread starts. */
enum err_code legacy_global_init(void) SG_NODISCARD;
/* Checks a base URL. False with *err filled (names LEGACY_URL). */
bool legacy_url_check(const char *url, struct err *err);

/* Returns owned, or NULL with *err filled. Borrows loop, which must outlive it. */
struct legacy *legacy_new(struct loop *loop, const struct legacy_settings *settings, struct err *err);
/* All calls must have ended or been cancelled; not from inside a callback. Never waits for a name lookup. NULL-safe. */
void legacy_freep(struct legacy **legacy);

struct legacy_header {
    struct span name;
    struct span value;
};

enum legacy_body {
    LEGACY_BODY_NONE,  /* no body at all; POST, PUT and PATCH say Content-Length: 0 */
    LEGACY_BODY_FIXED, /* `body`, borrowed until on_end */
    LEGACY_BODY_STREAM, /* fed with legacy_call_write(); length in content_length, or -1: chunked. A stream that does not
                         * keep its announced length breaks the call (ERR_LEGACY_BROKEN) and its connection */
};

/* All borrowed for legacy_start() only, but `body`. Hop-by-hop headers (RFC 9110 section 7.6.1, those that Connection names
 * included), Host, Content-Length and Expect are dropped from `headers` here; the others go out as they are, in order. */
struct legacy_request {
    struct span method;
    struct span
        target; /* raw path and query as received, beginning with a slash; appended to the base URL byte for byte
                         * (a slash that ends the base URL does not count). Or "*" of OPTIONS: sent without the prefix */
    const struct legacy_header *headers;
    size_t header_count;
    const struct legacy_header
        *extra; /* X-Forwarded-*, X-Correlation-Id, traceparent ...; sent as they are */
    size_t extra_count;
    enum legacy_body body_kind;
    struct span body;
    int64_t content_length; /* of a stream; -1 unknown */
};

struct legacy_response {
    int status;
    const struct legacy_header
        *headers; /* end-to-end headers in order, repeated ones kept; hop-by-hop, Content-Length dropped */
    size_t header_count;
    int64_t content_length; /* -1: unknown (chunked or until close). HEAD and 304 have it without a body */
};

/* Callbacks; never called from inside legacy_start(). After on_end or legacy_call_cancel() none follows and the call is gone. */
struct legacy_handler {
    /* The response head (1xx are skipped). Borrowed for the call. */
    void (*on_head)(void *arg, const struct legacy_response *response);
    /* Body bytes. Return false to refuse them all for now: the call pauses and the same bytes (perhaps cut differently)
     * come again after legacy_call_resume(). */
    bool (*on_data)(void *arg, const char *data, size_t len);
    /* After legacy_call_write() took less than offered: there is room again. */
    void (*on_writable)(void *arg);
    /* Over. ERR_OK: the answer is complete (an answer that comes before the upload has ended ends it). Certainly not
     * executed: ERR_LEGACY_UNREACHABLE (no connection), ERR_OVERLOADED (no connection was free in time), ERR_NO_MEMORY.
     * Perhaps executed: ERR_LEGACY_TIMEOUT, ERR_LEGACY_BROKEN (reset, bad HTTP, truncated body). Of a call that was tried
     * more than once "not executed" means: by none of the attempts. */
    void (*on_end)(void *arg, enum err_code code);
};

/* Starts a call. ERR_OK with *ret_call borrowed until on_end; else nothing was started and no callback comes:
 * ERR_BAD_REQUEST (method or header name no token, CR, LF or NUL in a value, blank or control character in the target,
 * CONNECT), ERR_OVERLOADED (max_calls) or ERR_NO_MEMORY. This and all calls below may be used inside any callback, of any call. */
enum err_code legacy_start(struct legacy *legacy, const struct legacy_request *request,
                           const struct legacy_handler *handler, void *arg,
                           struct legacy_call **ret_call) SG_NODISCARD;
/* Feeds the stream; takes 0..len bytes (bounded buffer of 64 KiB). */
size_t legacy_call_write(struct legacy_call *call, const char *data, size_t len);
/* The stream is complete. */
void legacy_call_write_end(struct legacy_call *call);
/* The receiver can take data again. Safe at any time; on_data follows from the loop, not from inside. */
void legacy_call_resume(struct legacy_call *call);
/* Drops the call: its connection is closed at the end of the turn. No callback follows, and a FIXED body is not read
 * any more. Harmless inside on_end. */
void legacy_call_cancel(struct legacy_call *call);
size_t legacy_active(const struct legacy *legacy);
/* Attempts after the first, of all calls so far, libcurl's own included. */
uint64_t legacy_retries(const struct legacy *legacy);
