/* SPDX-License-Identifier: Apache-2.0 */
/* The legacy path: http and legacy joined, streamed both ways.
 * Invariants:
 * - ex->call is not NULL exactly while legacy may still call back; whoever ends the exchange first cancels it.
 * - legacy refuses data as a whole when the front's buffer is full, and offers it again after on_drain; the front holds an
 *   upload back when legacy takes less than offered, and goes on after on_writable. No body is gathered, but small
 *   answers of known length, which are cheaper to send in one piece. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

#include "internal.h"

#define HEADERS_MAX 128
#define EXTRA_MAX   8

struct header_list {
    struct legacy_header headers[HEADERS_MAX];
    size_t count;
    bool overflow, has_correlation_id;
    bool trusted;              /* the peer's X-Forwarded-* are believed */
    struct buf *forwarded_for; /* of all its lines: a proxy may add one of its own below the client's */
    struct span forwarded_proto, forwarded_host;
};

/* ---- the request to legacy ---- */

static void on_header(void *arg, struct span name, struct span value)
{
    struct header_list *list = arg;
    /* These are rewritten by extra_headers(). */
    if (span_eq_nocase(name, SPAN_LIT("X-Forwarded-For"))) {
        if (list->forwarded_for->len && value.len)
            buf_append_lit(list->forwarded_for, ", ");
        buf_append_span(list->forwarded_for, value);
        return;
    }
    if (span_eq_nocase(name, SPAN_LIT("X-Forwarded-Proto"))) {
        list->forwarded_proto = value;
        return;
    }
    if (span_eq_nocase(name, SPAN_LIT("X-Forwarded-Host"))) {
        list->forwarded_host = value;
        return;
    }
    if (span_eq_nocase(name, SPAN_LIT("X-Correlation-Id")))
        list->has_correlation_id = true;
    if (list->count == HEADERS_MAX) {
        list->overflow = true;
        return;
    }
    list->headers[list->count++] = (struct legacy_header){name, value};
}

void exchange_format_address(const struct sockaddr *peer, char out[INET6_ADDRSTRLEN])
{
    const void *address = NULL;
    out[0] = '\0';
    if (peer && peer->sa_family == AF_INET)
        address = &((const struct sockaddr_in *)(const void *)peer)->sin_addr;
    else if (peer && peer->sa_family == AF_INET6) {
        const struct sockaddr_in6 *peer6 = (const struct sockaddr_in6 *)(const void *)peer;
        if (IN6_IS_ADDR_V4MAPPED(&peer6->sin6_addr)) {
            inet_ntop(AF_INET, peer6->sin6_addr.s6_addr + 12, out, INET6_ADDRSTRLEN);
            return;
        }
        address = &peer6->sin6_addr;
    }
    if (address)
        inet_ntop(peer->sa_family, address, out, INET6_ADDRSTRLEN);
}

/* X-Forwarded-*: a trusted proxy's are continued, anybody else's are replaced by what we saw. */
static size_t extra_headers(struct exchange *ex, struct header_list *list, char peer_text[INET6_ADDRSTRLEN],
                            struct legacy_header extra[EXTRA_MAX])
{
    struct buf *text = list->forwarded_for;
    const struct sockaddr *peer = http_request_peer(ex->http);
    size_t count = 0;
    exchange_format_address(peer, peer_text);
    list->trusted = peer && config_trusts(ex->view->plan->config, peer);
    if (!list->trusted)
        buf_clear(text);
    else if (text->len)
        buf_append_lit(text, ", ");
    buf_append_span(text, span_of(peer_text));
    extra[count++] = (struct legacy_header){SPAN_LIT("X-Forwarded-For"), buf_span(text)};
    bool proto = list->trusted && list->forwarded_proto.ptr, host = list->trusted && list->forwarded_host.ptr;
    extra[count++] = (struct legacy_header){SPAN_LIT("X-Forwarded-Proto"),
                                            proto ? list->forwarded_proto : SPAN_LIT("http")};
    struct span own_host = http_request_host(ex->http);
    if (host || own_host.ptr)
        extra[count++] =
            (struct legacy_header){SPAN_LIT("X-Forwarded-Host"), host ? list->forwarded_host : own_host};
    if (!list->has_correlation_id)
        extra[count++] =
            (struct legacy_header){SPAN_LIT("X-Correlation-Id"), {ex->id_text, AWAIT_ID_TEXT_LEN}};
    return count;
}

static const struct legacy_handler handler;

void exchange_proxy_start(struct exchange *ex, bool stream)
{
    struct header_list list = {.forwarded_for = &ex->worker->text};
    struct legacy_header extra[EXTRA_MAX];
    char peer_text[INET6_ADDRSTRLEN];
    bool has_body;
    buf_clear(list.forwarded_for);
    http_request_each_header(ex->http, on_header, &list);
    if (list.overflow) {
        exchange_answer_error(ex, ERR_BAD_REQUEST, "Too many request headers");
        return;
    }
    size_t extra_count = extra_headers(ex, &list, peer_text, extra);
    struct legacy_request request = {
        .method = http_request_method(ex->http),
        .target = http_request_target(ex->http),
        .headers = list.headers,
        .header_count = list.count,
        .extra = extra,
        .extra_count = extra_count,
        .content_length = http_request_content_length(ex->http, &has_body),
    };
    request.body_kind = !has_body ? LEGACY_BODY_NONE : stream ? LEGACY_BODY_STREAM : LEGACY_BODY_FIXED;
    if (request.body_kind == LEGACY_BODY_FIXED)
        request.body = http_request_body(ex->http);
    ex->path = PATH_TAKEN_LEGACY;
    ex->retry_after_ns = 0; /* it told when Kafka may be tried again; from here on a refusal is legacy's */
    ex->legacy_streaming = request.body_kind == LEGACY_BODY_STREAM;
    if (stream)
        http_request_set_body_mode(ex->http, HTTP_BODY_STREAM);
    exchange_set_state(ex, EXCHANGE_PROXYING);
    enum err_code code = legacy_start(ex->worker->legacy, &request, &handler, ex, &ex->call);
    if (code != ERR_OK) {
        ex->call = NULL;
        exchange_answer_error(ex, code, "The request cannot be passed to the legacy backend");
    }
}

size_t exchange_proxy_write(struct exchange *ex, const char *data, size_t len)
{
    /* Nobody reads the rest of an upload whose call has ended. */
    return ex->call ? legacy_call_write(ex->call, data, len) : len;
}

void exchange_proxy_stop(struct exchange *ex)
{
    if (ex->call)
        legacy_call_cancel(ex->call);
    ex->call = NULL;
}

void exchange_note_fallback(struct exchange *ex, enum path_fallback reason)
{
    ops_count_fallback(ex->worker->counters, reason);
    ex->fallback = (int)reason;
}

void exchange_fall_back(struct exchange *ex, enum path_fallback reason, enum err_code code)
{
    exchange_note_fallback(ex, reason);
    if (ex->worker->legacy && path_flag_has_legacy(&ex->flag))
        exchange_proxy_start(ex, false);
    else if (code == ERR_NO_COMMAND)
        exchange_answer_error(ex, code, "This request has no Kafka command, and the legacy path is off");
    else if (code == ERR_OVERLOADED)
        exchange_answer_error(ex, code, "Too many requests are waiting; this one was not executed");
    else
        exchange_answer_error(ex, code, "The command could not be handed to Kafka; it was not executed");
}

/* ---- the answer from legacy ---- */

static bool has_no_body(const struct exchange *ex, int status)
{
    return status == 204 || status == 304 || span_eq(http_request_method(ex->http), SPAN_LIT("HEAD"));
}

/* Headers are borrowed for the callback only: a gathered answer keeps a copy, one block, spans behind the struct. */
static struct http_answer *copy_head(const struct legacy_response *response)
{
    size_t bytes = sizeof(struct http_answer) + response->header_count * sizeof(struct http_header);
    for (size_t i = 0; i < response->header_count; i++)
        bytes += response->headers[i].name.len + response->headers[i].value.len;
    struct http_answer *head = malloc(bytes);
    if (!head)
        return NULL;
    struct http_header *headers = (struct http_header *)(void *)(head + 1);
    char *text = (char *)(headers + response->header_count);
    *head = (struct http_answer){
        .status = response->status, .headers = headers, .header_count = response->header_count};
    for (size_t i = 0; i < response->header_count; i++) {
        const struct legacy_header *from = &response->headers[i];
        memcpy(text, from->name.ptr, from->name.len);
        headers[i].name = (struct span){text, from->name.len};
        text += from->name.len;
        memcpy(text, from->value.ptr, from->value.len);
        headers[i].value = (struct span){text, from->value.len};
        text += from->value.len;
    }
    return head;
}

static void on_head(void *arg, const struct legacy_response *response)
{
    struct exchange *ex = arg;
    bool small = response->content_length >= 0 && response->content_length <= EXCHANGE_SMALL_BODY &&
                 !has_no_body(ex, response->status);
    if (small && (ex->legacy_head = copy_head(response)))
        return;
    exchange_answer_legacy(ex, response, response->content_length, (struct span){NULL, 0}, true);
}

static bool on_data(void *arg, const char *data, size_t len)
{
    struct exchange *ex = arg;
    if (ex->legacy_head) {
        buf_append(&ex->legacy_body, data, len);
        return true;
    }
    return http_stream_write(ex->http, data, len);
}

static void on_writable(void *arg)
{
    struct exchange *ex = arg;
    http_request_body_resume(ex->http);
}

static void answer_gathered(struct exchange *ex)
{
    const struct http_answer *head = ex->legacy_head;
    /* http_header and legacy_header are the same two spans. */
    _Static_assert(sizeof(struct http_header) == sizeof(struct legacy_header), "one shape of header");
    const struct legacy_response response = {
        .status = head->status,
        .headers = (const struct legacy_header *)(const void *)head->headers,
        .header_count = head->header_count,
    };
    if (buf_ok(&ex->legacy_body))
        exchange_answer_legacy(ex, &response, 0, buf_span(&ex->legacy_body), false);
    else
        exchange_answer_error(ex, ERR_INTERNAL,
                              "The legacy backend answered, but there is no memory to pass it on");
}

static void on_end(void *arg, enum err_code code)
{
    struct exchange *ex = arg;
    ex->call = NULL;
    if (ex->state == EXCHANGE_ANSWERED) { /* the head is out */
        ex->code = code;
        http_stream_end(ex->http, code == ERR_OK);
        return;
    }
    if (code == ERR_OK && ex->legacy_head)
        answer_gathered(ex);
    else
        exchange_answer_error(ex, code == ERR_OK ? ERR_LEGACY_BROKEN : code,
                              code == ERR_LEGACY_TIMEOUT       ? "The legacy backend did not answer in time"
                              : code == ERR_LEGACY_UNREACHABLE ? "The legacy backend cannot be reached"
                              : code == ERR_OVERLOADED         ? "Too many requests to the legacy backend"
                                                       : "The legacy backend gave no complete answer");
    http_request_body_resume(ex->http); /* an upload held back goes on, to be discarded */
}

static const struct legacy_handler handler = {
    .on_head = on_head,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_end = on_end,
};
