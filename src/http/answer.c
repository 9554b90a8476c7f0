/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: a response is made at once and queued when libmicrohttpd allows it (see request.c). */
#include <stdio.h>
#include <sys/socket.h>

#include "internal.h"

#define STREAM_BLOCK (16u << 10)

enum MHD_Result http_queue(struct http_request *request)
{
    struct MHD_Response *response = request->response;
    SG_ASSERT(request->phase == HTTP_PHASE_ENDED);
    request->phase = HTTP_PHASE_ANSWERED;
    request->response = NULL;
    enum MHD_Result rc = MHD_queue_response(request->connection->mhd, (unsigned)request->status, response);
    MHD_destroy_response(response);
    return rc;
}

/* Header lines with NUL-terminated copies; a value with a line break in it is dropped by libmicrohttpd. So is an empty
 * one, for which a blank stands: to its reader that is the same (RFC 9110 section 5.5). */
static void add_headers(struct http_request *request, struct MHD_Response *response,
                        const struct http_answer *answer)
{
    struct buf *scratch = &request->front->scratch;
    for (size_t i = 0; i < answer->header_count; i++) {
        const struct http_header *header = &answer->headers[i];
        buf_clear(scratch);
        buf_append_span(scratch, header->name);
        buf_append_char(scratch, '\0');
        buf_append_span(scratch, header->value.len ? header->value : SPAN_LIT(" "));
        buf_append_char(scratch, '\0');
        if (buf_ok(scratch))
            MHD_add_response_header(response, scratch->ptr, scratch->ptr + header->name.len + 1);
    }
    if (request->front->draining)
        MHD_add_response_header(response, "Connection", "close");
}

bool http_request_has_room(const struct http_request *request, const struct http_answer *answer)
{
    size_t need = 192; /* status line, Date, Connection, Content-Length or Transfer-Encoding */
    for (size_t i = 0; i < answer->header_count; i++)
        need += answer->headers[i].name.len + answer->headers[i].value.len + 5;
    return need <= request->answer_room;
}

static void answer_with(struct http_request *request, const struct http_answer *answer,
                        struct MHD_Response *response)
{
    SG_ASSERT(!http_request_is_answered(request));
    if (!response) {
        request->aborted = true; /* no memory for an answer: the connection is closed instead */
        if (request->suspended)
            http_resume(request);
        return;
    }
    add_headers(request, response, answer);
    request->response = response;
    request->status = answer->status;
    if (request->phase == HTTP_PHASE_BODY && request->begun && !request->streaming)
        http_bound_body(request);
    if (!request->suspended)
        return; /* we are inside libmicrohttpd's callback, which queues it when it may */
    if (request->phase == HTTP_PHASE_ENDED && http_queue(request) != MHD_YES)
        request->aborted = true;
    http_resume(request);
}

void http_request_answer(struct http_request *request, const struct http_answer *answer)
{
    answer_with(request, answer,
                MHD_create_response_from_buffer(answer->body.len, (void *)(uintptr_t)answer->body.ptr,
                                                MHD_RESPMEM_MUST_COPY));
}

void http_answer_failure(struct http_request *request, int status, const char *error, const char *message)
{
    char body[256];
    int len = snprintf(body, sizeof(body), "{\"message\":\"%s\",\"error\":\"%s\",\"statusCode\":%d}", message,
                       error, status);
    const struct http_header headers[] = {
        {SPAN_LIT("Content-Type"), SPAN_LIT("application/json; charset=utf-8")},
        {SPAN_LIT("Access-Control-Allow-Origin"), SPAN_LIT("*")},
    };
    const struct http_answer answer = {status, headers, SG_ARRAY_LEN(headers), {body, (size_t)len}};
    http_request_answer(request, &answer);
}

void http_answer_late(struct http_request *request)
{
    static const char body[] = "{\"message\":\"the request body did not arrive in time\",\"error\":\"Request "
                               "Timeout\",\"statusCode\":408}";
    char text[512];
    int fd = request->connection->watch.fd;
    int len = snprintf(text, sizeof(text),
                       "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json; charset=utf-8\r\n"
                       "Access-Control-Allow-Origin: *\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                       sizeof(body) - 1, body);
    /* Nothing else is on its way: the answers before are sent, and this request has none (or one that is given up). */
    if (!request->response && send(fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) == len) {
        request->phase = HTTP_PHASE_ANSWERED;
        request->status = 408;
    }
    shutdown(fd, SHUT_RDWR); /* libmicrohttpd finds it closed */
}

/* ---- streamed bodies ---- */

/* libmicrohttpd asks for bytes. Suspends the connection when there are none yet. */
static ssize_t stream_read(void *cls, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct http_request *request = cls;
    struct buf *stream = &request->stream;
    size_t have = stream->len - request->stream_at;
    if (have) {
        size_t count = have < max ? have : max;
        memcpy(out, stream->ptr + request->stream_at, count);
        request->stream_at += count;
        if (request->stream_at == stream->len) {
            buf_clear(stream);
            request->stream_at = 0;
        }
        if (request->stream_refused) {
            request->stream_refused = false;
            request->front->settings.handler.on_drain(request->user);
        }
        return (ssize_t)count;
    }
    if (request->stream_ended)
        return request->stream_ok ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
    if (request->connection->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    request->suspended = true;
    MHD_suspend_connection(request->connection->mhd);
    return 0;
}

void http_request_answer_stream(struct http_request *request, const struct http_answer *answer,
                                int64_t length)
{
    uint64_t size = length < 0 ? MHD_SIZE_UNKNOWN : (uint64_t)length;
    request->streaming = true;
    answer_with(request, answer,
                MHD_create_response_from_callback(size, STREAM_BLOCK, stream_read, request, NULL));
}

/* Wakes the connection if it sleeps in stream_read(), not if it is still parked before its answer. */
static void stream_wake(struct http_request *request)
{
    if (request->suspended && request->phase == HTTP_PHASE_ANSWERED)
        http_resume(request);
}

bool http_stream_write(struct http_request *request, const char *data, size_t len)
{
    struct buf *stream = &request->stream;
    SG_ASSERT(request->streaming);
    if (len == 0 || request->aborted || request->stream_ended) /* ended here: without memory */
        return true;
    if (stream->len - request->stream_at + len > HTTP_STREAM_BUFFER && stream->len > request->stream_at) {
        request->stream_refused = true;
        return false;
    }
    if (request->stream_at && stream->cap - stream->len < len) {
        memmove(stream->ptr, stream->ptr + request->stream_at, stream->len - request->stream_at);
        stream->len -= request->stream_at;
        request->stream_at = 0;
    }
    buf_append(stream, data, len);
    if (!buf_ok(stream)) {
        http_stream_end(request, false);
        return true;
    }
    stream_wake(request);
    return true;
}

void http_stream_end(struct http_request *request, bool ok)
{
    if (request->stream_ended)
        return;
    request->stream_ended = true;
    request->stream_ok = ok;
    if (!ok) {
        buf_clear(&request->stream);
        request->stream_at = 0;
    }
    if (request->phase == HTTP_PHASE_BODY) { /* what is left of an upload is discarded */
        http_bound_body(request);
        http_request_body_resume(request);
    }
    stream_wake(request);
}
