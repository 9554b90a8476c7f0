/* SPDX-License-Identifier: Apache-2.0 */
/* legacy: the direct path. One HTTP request to the legacy backend through libcurl's multi interface (socket_action) in
 * the caller's loop, with kept-alive connections, streamed both ways with bounded buffers. Sole includer of curl.h.
 * It never sends a non-idempotent request twice: bodies go through READFUNCTION without SEEKFUNCTION, bodiless
 * non-idempotent requests use FRESH_CONNECT; it follows no redirect and decodes no content.
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
    uint32_t
        timeout_ms; /* from start to the response head, and between two body bytes (not for the whole call) */
    uint32_t max_connections; /* to the backend, of this loop */
};
/* Process-wide libcurl initialisation, once, before any thread starts. */
enum err_code legacy_global_init(void) SG_NODISCARD;
/* Checks a base URL. False with *err filled (names LEGACY_URL). */
bool legacy_url_check(const char *url, struct err *err);

/* Returns owned, or NULL with *err filled. Borrows loop, which must outlive it. */
struct legacy *legacy_new(struct loop *loop, const struct legacy_settings *settings, struct err *err);
/* All calls must have ended or been cancelled. NULL-safe. */
void legacy_freep(struct legacy **legacy);

struct legacy_header {
    struct span name;
    struct span value;
};

enum legacy_body {
    LEGACY_BODY_NONE,   /* no body at all */
    LEGACY_BODY_FIXED,  /* `body`, borrowed until on_end */
    LEGACY_BODY_STREAM, /* fed with legacy_call_write(); length in content_length, or -1: chunked */
};

/* All borrowed for legacy_start() only, but `body`. Hop-by-hop headers (RFC 9110 section 7.6.1, those that Connection names
 * included), Host, Content-Length and Expect are dropped from `headers` here; the others go out as they are, in order. */
struct legacy_request {
    struct span method;
    struct span target; /* raw path and query as received; appended to the base URL byte for byte */
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
    int64_t content_length; /* -1: unknown (chunked or until close) */
};

/* Callbacks; never called from inside legacy_start(). After on_end or legacy_call_cancel() none follows and the call is gone. */
struct legacy_handler {
    /* The response head (1xx are skipped). Borrowed for the call. */
    void (*on_head)(void *arg, const struct legacy_response *response);
    /* Body bytes. Return false to refuse them all for now: the call pauses and the same bytes come again after
     * legacy_call_resume(). */
    bool (*on_data)(void *arg, const char *data, size_t len);
    /* After legacy_call_write() took less than offered: there is room again. */
    void (*on_writable)(void *arg);
    /* Over. ERR_OK: complete. ERR_LEGACY_UNREACHABLE (no connection, so certainly not executed), ERR_LEGACY_TIMEOUT,
     * ERR_LEGACY_BROKEN (reset, bad HTTP, truncated body), ERR_OVERLOADED, ERR_NO_MEMORY. */
    void (*on_end)(void *arg, enum err_code code);
};

/* Starts a call. ERR_OK with *ret_call borrowed until on_end; else nothing was started and no callback comes. */
enum err_code legacy_start(struct legacy *legacy, const struct legacy_request *request,
                           const struct legacy_handler *handler, void *arg,
                           struct legacy_call **ret_call) SG_NODISCARD;
/* Feeds the stream; takes 0..len bytes (bounded buffer of 64 KiB). */
size_t legacy_call_write(struct legacy_call *call, const char *data, size_t len);
/* The stream is complete. */
void legacy_call_write_end(struct legacy_call *call);
/* The receiver can take data again. Safe at any time; on_data follows from the loop, not from inside. */
void legacy_call_resume(struct legacy_call *call);
/* Drops the call: the connection is closed unless already idle. No callback follows. */
void legacy_call_cancel(struct legacy_call *call);
size_t legacy_active(const struct legacy *legacy);
