/* SPDX-License-Identifier: Apache-2.0 */
/* A request's life, as libmicrohttpd tells it:
 *   first line -> HEAD -> (pieces) -> BODY -> complete -> ENDED -> answered -> completed
 * Invariants:
 * - A response may be queued only in ENDED, or in the very first call (which closes the connection when a body was to
 *   come). An answer given in between waits in request->response while the rest of the upload is discarded.
 * - `suspended` mirrors libmicrohttpd's state: suspend only inside its callbacks, resume exactly once.
 * - on_done is called once for each request whose on_begin was called, and last. */
#include <strings.h>
#include <sys/socket.h>

#include "internal.h"

/* ---- birth and death ---- */

static struct http_connection *connection_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* RFC 9112 section 3.2.2: a target in absolute form is accepted, and its authority stands for Host. Fills path (without the
 * slash if the URI has none) and authority (ptr NULL in any other form). */
static void split_target(struct span uri, struct span *ret_path, struct span *ret_authority)
{
    static const char *const schemes[] = {"http://", "https://"};
    *ret_path = uri;
    *ret_authority = (struct span){NULL, 0};
    for (size_t i = 0; i < SG_ARRAY_LEN(schemes); i++) {
        size_t len = strlen(schemes[i]);
        if (uri.len <= len || strncasecmp(uri.ptr, schemes[i], len) != 0)
            continue;
        size_t end = len + strcspn(uri.ptr + len, "/?");
        *ret_authority = (struct span){uri.ptr + len, end - len};
        *ret_path = (struct span){uri.ptr + end, uri.len - end};
        return;
    }
}

/* libmicrohttpd takes a query apart next: a struct for each argument, in the memory of the connection, which some 250 of
 * them fill, so that not even an answer has room. Nobody reads them: the target has been copied. The text is in the
 * receive buffer, and libmicrohttpd writes to it itself. */
static void drop_arguments(const char *uri)
{
    char *mark = strchr((char *)(uintptr_t)uri, '?');
    if (mark)
        mark[1] = '\0';
}

void *http_on_first_line(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct http_pack *pack = cls;
    struct http_connection *connection = connection_of(mhd);
    struct span path, authority;
    split_target(span_of(uri), &path, &authority);
    bool slash = authority.ptr && (path.len == 0 || path.ptr[0] != '/');
    size_t target_len = slash + path.len, len = target_len + 1 + authority.len;
    struct http_request *request = connection ? calloc(1, sizeof(*request) + len) : NULL;
    if (!request)
        return NULL; /* http_on_access refuses */
    request->front = pack->front;
    request->connection = connection;
    request->started_ns = connection->waits_since_ns = loop_now_ns(pack->front->loop);
    request->target_len = target_len;
    request->raw_target = (struct span){uri, strlen(uri)};
    if (slash)
        request->target[0] = '/';
    memcpy(request->target + slash, path.ptr, path.len);
    if (authority.ptr) {
        memcpy(request->target + target_len + 1, authority.ptr, authority.len);
        request->authority = (struct span){request->target + target_len + 1, authority.len};
    }
    drop_arguments(uri);
    connection->request = request;
    request->link = &pack->front->requests;
    request->next = *request->link;
    if (request->next)
        request->next->link = &request->next;
    *request->link = request;
    pack->front->active++;
    return request;
}

void http_on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                       enum MHD_RequestTerminationCode code)
{
    (void)cls;
    (void)mhd;
    struct http_request *request = *context;
    *context = NULL;
    if (!request)
        return;
    *request->link = request->next;
    if (request->next)
        request->next->link = request->link;
    loop_timer_cancel(request->front->loop, &request->body_timer);
    request->connection->request = NULL;
    http_wait_for_head(request->connection);
    request->front->active--;
    if (request->begun) {
        const struct http_summary summary = {
            .status = request->phase == HTTP_PHASE_ANSWERED ? request->status : 0,
            .completed = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !request->aborted,
            .client_gone = !request->late && (request->gone || request->connection->gone ||
                                              code == MHD_REQUEST_TERMINATED_CLIENT_ABORT ||
                                              code == MHD_REQUEST_TERMINATED_READ_ERROR),
            .started_ns = request->started_ns,
        };
        request->front->settings.handler.on_done(request->user, &summary);
    }
    if (request->response)
        MHD_destroy_response(request->response);
    buf_fini(&request->body);
    buf_fini(&request->stream);
    free(request);
}

/* ---- bodies that take too long ---- */

static void on_body_late(struct loop_timer *timer)
{
    struct http_request *request = SG_CONTAINER_OF(timer, struct http_request, body_timer);
    if (request->phase != HTTP_PHASE_BODY || request->aborted)
        return;
    request->aborted = request->late = true;
    if (request
            ->suspended) /* an upload held back by a backend whose answer waits for the upload: nothing can move */
        http_resume(request);
    else
        http_answer_late(request);
}

void http_bound_body(struct http_request *request)
{
    struct loop *loop = request->front->loop;
    request->body_timer.on_timer = on_body_late;
    if (request->front->settings.body_timeout_ms &&
        !loop_timer_is_set(&request->body_timer)) /* without memory for it the idle time-out is left */
        (void)!loop_timer_set(loop, &request->body_timer,
                              loop_now_ns(loop) +
                                  request->front->settings.body_timeout_ms * SG_NSEC_PER_MSEC);
}

/* ---- suspending ---- */

static void suspend(struct http_request *request)
{
    SG_ASSERT(!request->suspended);
    request->suspended = true;
    MHD_suspend_connection(request->connection->mhd);
}

void http_resume(struct http_request *request)
{
    SG_ASSERT(request->suspended);
    request->suspended = false;
    MHD_resume_connection(request->connection->mhd);
    http_pack_run_later(request->connection->pack);
}

void http_on_client_gone(struct http_connection *connection)
{
    struct http_request *request = connection->request;
    connection->gone = true;
    /* libmicrohttpd takes a short read for the end of what is there. When data and the end of file came together it does not
     * look again: the request, which can't become whole any more, would stay until the idle time-out. */
    if (!request || (!request->suspended && request->phase <= HTTP_PHASE_BODY))
        shutdown(connection->watch.fd, SHUT_RDWR);
    /* While libmicrohttpd has the connection it notices by itself and on_done tells. */
    if (!request || !request->suspended || request->gone)
        return;
    request->gone = true;
    request->front->settings.handler.on_gone(request->user);
}

void http_request_abort(struct http_request *request)
{
    if (request->aborted)
        return;
    request->aborted = true;
    if (request->streaming && request->phase == HTTP_PHASE_ANSWERED) {
        http_stream_end(request, false);
        return;
    }
    if (!request->suspended)
        return; /* the next callback of libmicrohttpd sees `aborted` */
    if (request->phase == HTTP_PHASE_ENDED) {
        /* Nobody reads it; it is the way to end a suspended connection. */
        request->response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
        request->status = 499;
        if (request->response) {
            MHD_add_response_header(request->response, "Connection", "close");
            (void)!http_queue(request);
        }
    }
    http_resume(request); /* an upload that was held back ends in the next callback */
}

/* ---- the head ---- */

struct framing {
    int content_lengths;
    int encodings;
    int hosts;
    bool chunked;
    int64_t length;
    bool bad_length, bad_field;
    const char *last_value;
    size_t cookies_len;
};

/* RFC 9110 section 5.6.2. libmicrohttpd takes "Content-Length : 5" for a header of another name, a proxy may not. */
static bool is_token(const char *name)
{
    for (const char *p = name; *p; p++)
        if (!(*p >= '0' && *p <= '9') && !(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') &&
            !strchr("!#$%&'*+-.^_`|~", *p))
            return false;
    return *name != '\0';
}

/* libmicrohttpd 0.9 glues a folded line (RFC 9112 section 5.2) to the header's name, in a copy of it; else a value stands
 * behind its name in the receive buffer. Version 1 joins folded lines as RFC 9112 allows, and promises no such place. */
static bool is_folded(const char *name, const char *value)
{
#if MHD_VERSION < 0x01000000
    const char *p = name + strlen(name) + 1;
    while (p < value && (*p == ' ' || *p == '\t'))
        p++;
    return value && p != value;
#else
    (void)name;
    (void)value;
    return false;
#endif
}

/* libmicrohttpd 0.9 takes what stands before a NUL for the whole value. Behind a value are the zeros that it put in the place
 * of CR LF, or of LF, and then the next name, or the zeros of the empty line. */
static bool is_cut(const char *value, const char *next_name)
{
#if MHD_VERSION < 0x01000000
    if (!value)
        return false;
    const char *end = value + strlen(value) + 1;
    return next_name ? next_name != end + (*end == '\0') : *end != '\0';
#else
    (void)value;
    (void)next_name;
    return false;
#endif
}

/* The same for method and target: spaces part them, and one the target from the version. */
static bool is_first_line_cut(const struct http_request *request)
{
#if MHD_VERSION < 0x01000000
    const char *p = request->method + strlen(request->method) + 1;
    while (p < request->raw_target.ptr && *p == ' ')
        p++;
    return p != request->raw_target.ptr ||
           request->version != request->raw_target.ptr + request->raw_target.len + 1;
#else
    (void)request;
    return false;
#endif
}

static enum MHD_Result look_at_framing(void *cls, enum MHD_ValueKind kind, const char *name,
                                       const char *value)
{
    struct framing *framing = cls;
    if (kind == MHD_COOKIE_KIND)
        return MHD_YES; /* is only counted; they stand behind all headers */
    bool cut = is_cut(framing->last_value, name);
    framing->last_value = value;
    if (cut || !is_token(name) || is_folded(name, value))
        framing->bad_field = true;
    else if (strcasecmp(name, "Host") == 0)
        framing->hosts++;
    else if (strcasecmp(name, "Cookie") == 0)
        framing->cookies_len += value ? strlen(value) + 32 : 0;
    else if (strcasecmp(name, "Content-Length") == 0) {
        uint64_t length;
        framing->content_lengths++;
        if (!base_parse_u64(span_of(value), &length) || length > INT64_MAX)
            framing->bad_length = true;
        else
            framing->length = (int64_t)length;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        framing->encodings++;
        framing->chunked = value && strcasecmp(value, "chunked") == 0;
    }
    return MHD_YES;
}

/* The heads of a request and of its answer share the connection's memory, with a struct for each header and cookie, and a
 * copy of the cookies. Without room libmicrohttpd closes the connection, when the request has been executed already. */
static void note_answer_room(struct http_request *request, const struct framing *framing, int count)
{
    const size_t entry = 64; /* 56, aligned */
    const char *end = framing->last_value ? framing->last_value : request->raw_target.ptr;
    size_t used = (size_t)(end + strlen(end) - request->method) + 32; /* line ends, alignment */
    used += entry * (size_t)count + framing->cookies_len;
    size_t memory = request->front->settings.connection_memory;
    request->answer_room = used < memory ? memory - used : 0;
}

/* What a proxy in front of us may read differently: request smuggling. Of two contradicting lengths libmicrohttpd would
 * silently prefer one. */
static bool framing_ok(struct http_request *request, int64_t *ret_length)
{
    struct framing framing = {0};
    int count = MHD_get_connection_values(request->connection->mhd,
                                          (enum MHD_ValueKind)(MHD_HEADER_KIND | MHD_COOKIE_KIND),
                                          look_at_framing, &framing);
    *ret_length = framing.encodings ? -1 : framing.length;
    note_answer_room(request, &framing, count);
    if (framing.encodings && http_request_is_http10(request))
        return false; /* RFC 9112 section 6.1: HTTP/1.0 knows no transfer coding */
    if (framing.hosts > 1 || (framing.hosts == 0 && !http_request_is_http10(request)))
        return false; /* section 3.2 */
    if (is_cut(framing.last_value, NULL) || is_first_line_cut(request))
        return false;
    return framing.content_lengths <= 1 && framing.encodings <= 1 && !framing.bad_length &&
           !framing.bad_field && !(framing.encodings && (framing.content_lengths || !framing.chunked));
}

static void tell_end(struct http_request *request)
{
    if (request->ended)
        return; /* a body that is too large ended the request in its head, and is only discarded now */
    request->ended = true;
    request->front->settings.handler.on_end(request->user);
}

static enum MHD_Result on_head(struct http_request *request, const char *method, const char *version)
{
    int64_t length;
    const struct http_handler *handler = &request->front->settings.handler;
    if (request->front->ending || request->connection->late)
        return MHD_NO;
    request->method = method;
    request->version = version;
    request->phase = HTTP_PHASE_BODY;
    bool taken = framing_ok(request, &length);
    if (!taken) /* before on_begin, so that the handler starts nothing */
        http_answer_failure(request, 400, "Bad Request", "ambiguous or invalid message head");
    else if (request->answer_room < HTTP_ANSWER_ROOM) {
        taken = false;
        http_answer_failure(request, 431, "Request Header Fields Too Large",
                            "the head leaves no room for an answer");
    } else if (request->front->refusing) {
        taken = false;
        http_answer_failure(request, 503, "Service Unavailable",
                            "the gateway is stopping; the request was not executed");
    }
    request->user = handler->on_begin(handler->arg, request);
    request->begun = true;
    if (request->aborted)
        return MHD_NO;
    if (!taken) {
        request->phase = HTTP_PHASE_ENDED;
        return http_queue(request);
    }
    if (length == 0)
        return MHD_YES; /* answered in the call that follows: here it would close the connection */
    bool expects = http_request_header(request, "Expect").ptr != NULL;
    if (!request->response && request->body_mode == HTTP_BODY_COLLECT && length > 0 &&
        (uint64_t)length > request->front->settings.body_limit) {
        request->body_too_large = true;
        if (expects || length > (int64_t)HTTP_DISCARD_MAX)
            tell_end(request);
    }
    if (request->response && (expects || length > (int64_t)HTTP_DISCARD_MAX)) {
        request->phase = HTTP_PHASE_ENDED;
        return http_queue(request);
    }
    if (request->response || request->body_mode == HTTP_BODY_COLLECT)
        http_bound_body(request);
    return MHD_YES;
}

/* ---- the body ---- */

/* A backend may answer while it reads the upload. libmicrohttpd sends that answer only behind the upload, so the upload
 * goes on until the answer has ended. */
static bool upload_goes_on(const struct http_request *request)
{
    return request->body_mode == HTTP_BODY_STREAM &&
           (!request->response || (request->streaming && !request->stream_ended));
}

static enum MHD_Result discard(struct http_request *request, size_t *data_len)
{
    request->discarded += *data_len;
    *data_len = 0;
    return request->discarded <= HTTP_DISCARD_MAX ? MHD_YES : MHD_NO;
}

static enum MHD_Result on_piece(struct http_request *request, const char *data, size_t *data_len)
{
    if (request->aborted)
        return MHD_NO;
    if (upload_goes_on(request)) {
        size_t taken = request->front->settings.handler.on_body(request->user, data, *data_len);
        SG_ASSERT(taken <= *data_len);
        *data_len -= taken;
        if (*data_len && request->connection->gone)
            return MHD_NO;
        if (*data_len)
            suspend(request);
        if (*data_len && request->response)
            http_bound_body(request); /* the backend may hold it back because its answer cannot leave */
        else
            loop_timer_cancel(request->front->loop, &request->body_timer);
        return MHD_YES;
    }
    if (request->response || request->body_too_large)
        return discard(request, data_len);
    if (request->body.len + *data_len > request->front->settings.body_limit) {
        request->body_too_large = true;
        http_request_body_drop(request);
        return discard(request, data_len);
    }
    buf_append(&request->body, data, *data_len);
    *data_len = 0;
    if (!buf_ok(&request->body))
        http_answer_failure(request, 503, "Service Unavailable", "out of memory");
    return MHD_YES;
}

static enum MHD_Result on_complete(struct http_request *request)
{
    const struct http_handler *handler = &request->front->settings.handler;
    request->phase = HTTP_PHASE_ENDED;
    loop_timer_cancel(request->front->loop, &request->body_timer);
    if (request->aborted)
        return MHD_NO; /* also: without memory for a piece nor for the answer, the body is not whole */
    if (request->connection->gone && !request->gone) {
        request->gone = true;
        handler->on_gone(request->user);
        return MHD_NO;
    }
    if (!request->response || upload_goes_on(request))
        tell_end(request);
    if (request->response)
        return http_queue(request);
    if (request->aborted)
        return MHD_NO;
    suspend(request);
    return MHD_YES;
}

enum MHD_Result http_on_access(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                               const char *version, const char *data, size_t *data_len, void **context)
{
    (void)cls;
    (void)mhd;
    (void)url;
    struct http_request *request = *context;
    if (!request)
        return MHD_NO;
    switch (request->phase) {
    case HTTP_PHASE_HEAD:
        return on_head(request, method, version);
    case HTTP_PHASE_BODY:
        return *data_len ? on_piece(request, data, data_len) : on_complete(request);
    case HTTP_PHASE_ENDED: /* resumed */
        if (request->response)
            return http_queue(request);
        return MHD_NO;
    case HTTP_PHASE_ANSWERED: /* libmicrohttpd asks only when it refused the response */
        break;
    }
    return MHD_NO;
}

/* ---- looking at it ---- */

struct span http_request_method(const struct http_request *request)
{
    return span_of(request->method);
}

struct span http_request_target(const struct http_request *request)
{
    return (struct span){request->target, request->target_len};
}

struct span http_request_host(const struct http_request *request)
{
    return request->authority.ptr ? request->authority : http_request_header(request, "Host");
}

bool http_request_is_http10(const struct http_request *request)
{
    return request->version && strcmp(request->version, "HTTP/1.0") == 0;
}

struct span http_request_header(const struct http_request *request, const char *name)
{
    const char *value = NULL;
    size_t len = 0;
    if (MHD_lookup_connection_value_n(request->connection->mhd, MHD_HEADER_KIND, name, strlen(name), &value,
                                      &len) != MHD_YES ||
        !value)
        return (struct span){NULL, 0};
    return (struct span){value, len};
}

struct each_header {
    void (*on_header)(void *arg, struct span name, struct span value);
    void *arg;
};

static enum MHD_Result each_header(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                   const char *value, size_t value_len)
{
    (void)kind;
    const struct each_header *each = cls;
    each->on_header(each->arg, (struct span){name, name_len},
                    (struct span){value ? value : "", value ? value_len : 0});
    return MHD_YES;
}

void http_request_each_header(const struct http_request *request,
                              void (*on_header)(void *arg, struct span name, struct span value), void *arg)
{
    struct each_header each = {on_header, arg};
    MHD_get_connection_values_n(request->connection->mhd, MHD_HEADER_KIND, each_header, &each);
}

int64_t http_request_content_length(const struct http_request *request, bool *ret_has_body)
{
    struct framing framing = {0};
    MHD_get_connection_values(request->connection->mhd, MHD_HEADER_KIND, look_at_framing, &framing);
    *ret_has_body = framing.encodings || framing.content_lengths;
    return framing.encodings ? -1 : framing.length;
}

const struct sockaddr *http_request_peer(const struct http_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    return info ? info->client_addr : NULL;
}

void http_request_set_body_mode(struct http_request *request, enum http_body_mode mode)
{
    SG_ASSERT(!request->begun); /* in on_begin */
    request->body_mode = mode;
}

struct span http_request_body(const struct http_request *request)
{
    return buf_span(&request->body);
}

bool http_request_body_too_large(const struct http_request *request)
{
    return request->body_too_large;
}

void http_request_body_drop(struct http_request *request)
{
    buf_fini(&request->body);
}

void http_request_body_resume(struct http_request *request)
{
    if (request->phase == HTTP_PHASE_BODY && request->suspended)
        http_resume(request);
}

bool http_request_is_answered(const struct http_request *request)
{
    return request->response || request->phase == HTTP_PHASE_ANSWERED;
}

uint64_t http_request_started_ns(const struct http_request *request)
{
    return request->started_ns;
}
