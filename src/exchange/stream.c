/* SPDX-License-Identifier: Apache-2.0 */
/* The answer as server-sent events, for a client that asks for them on a route with progress replies.
 * Invariants:
 * - Nothing goes out before the first reply came, and that reply proves that the command is in Kafka: what is being streamed
 *   never falls back.
 * - Progress leaves the call in the awaiter table. Who takes it out sends the terminal event, the last one.
 * - The front's buffer bounds what is unsent. Progress that does not fit is dropped and counted; the terminal event waits in
 *   stream->last, which is empty otherwise, for on_drain. */
#include "internal.h"
#include "sse.h"

#define COMMENT_INTERVAL_NS (15 * SG_NSEC_PER_SEC) /* proxies close what is silent for 30 s or more */

/* ---- does the client ask for it? ---- */

static void on_header(void *arg, struct span name, struct span value)
{
    if (span_eq_nocase(name, SPAN_LIT("Accept")))
        sse_accept_add(arg, value);
}

static bool is_asked(const struct exchange *ex)
{
    struct sse_accept accept = {0};
    if (!ex->route->has_progress || span_eq(http_request_method(ex->http), SPAN_LIT("HEAD")))
        return false;
    http_request_each_header(ex->http, on_header, &accept);
    return sse_accept_asks(&accept);
}

/* ---- begin and end ---- */

static void on_quiet(struct loop_timer *timer)
{
    struct exchange_stream *stream = SG_CONTAINER_OF(timer, struct exchange_stream, quiet);
    struct loop *loop = stream->ex->worker->loop;
    /* Without room something is on its way, and without memory there is no next one. */
    (void)!http_stream_write(stream->ex->http, ":\n", 2);
    (void)!loop_timer_set(loop, timer, loop_now_ns(loop) + COMMENT_INTERVAL_NS);
}

/* Without memory the call goes on as if no stream had been asked for. */
static void begin(struct exchange *ex)
{
    struct loop *loop = ex->worker->loop;
    struct exchange_stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return;
    stream->ex = ex;
    stream->quiet.on_timer = on_quiet;
    (void)!loop_timer_set(loop, &stream->quiet, loop_now_ns(loop) + COMMENT_INTERVAL_NS);
    ex->stream = stream;
    ex->waited_ns = loop_now_ns(loop) - ex->parked_ns;
    ex->worker->streams++;
    exchange_answer_stream(ex);
}

void exchange_stream_quit(struct exchange *ex)
{
    loop_timer_cancel(ex->worker->loop, &ex->stream->quiet);
    ex->worker->streams--;
}

void exchange_stream_free(struct exchange *ex)
{
    if (ex->stream)
        buf_fini(&ex->stream->last);
    free(ex->stream);
    ex->stream = NULL;
}

/* ---- events ---- */

/* The rule's body, for which null stands if there is none: readers pass over an event without data. */
static enum err_code render(struct exchange *ex, const struct route_answer *answer,
                            const struct mapping_scope *scope, struct span *ret_data)
{
    struct buf *value = &ex->worker->value;
    buf_clear(value);
    enum err_code code =
        answer->body ? mapping_render(answer->body, scope, &ex->worker->scratch, value) : ERR_OK;
    *ret_data = value->len ? buf_span(value) : SPAN_LIT("null");
    return code == ERR_OK && !buf_ok(value) ? ERR_NO_MEMORY : code;
}

static void count(struct exchange *ex, bool sent)
{
    ex->stream->events += sent;
    ops_count_event(ex->worker->counters, sent);
}

static void send_progress(struct exchange *ex, struct span data)
{
    struct buf *text = &ex->worker->text;
    buf_clear(text);
    sse_append(text, "progress", ex->stream->events + 1, data);
    count(ex, buf_ok(text) && http_stream_write(ex->http, text->ptr, text->len));
}

static void send_last(struct exchange *ex, const char *event, struct span data)
{
    struct buf *last = &ex->stream->last;
    exchange_set_state(ex, EXCHANGE_ANSWERED);
    sse_append(last, event, ex->stream->events + 1, data);
    if (buf_ok(last))
        exchange_stream_drain(ex);
    else /* the client sees a body that was cut off */
        http_stream_end(ex->http, false);
}

void exchange_stream_drain(struct exchange *ex)
{
    struct buf *last = &ex->stream->last;
    if (!last->len || !buf_ok(last) || !http_stream_write(ex->http, last->ptr, last->len))
        return;
    buf_fini(last);
    count(ex, true);
    http_stream_end(ex->http, true);
}

/* ---- replies ---- */

void exchange_stream_progress(struct exchange *ex, const struct route_answer *answer,
                              const struct mapping_scope *scope)
{
    struct span data;
    ex->progressed = true;
    if (!ex->stream && is_asked(ex))
        begin(ex);
    if (ex->stream && render(ex, answer, scope, &data) == ERR_OK)
        send_progress(ex, data);
    else if (ex->stream)
        count(ex, false);
    exchange_written(ex);
}

void exchange_stream_offer(struct exchange *ex, const struct route_answer *answer)
{
    if (!ex->stream && answer->status < 400 && is_asked(ex))
        begin(ex);
}

void exchange_stream_end(struct exchange *ex, const struct route_answer *answer,
                         const struct mapping_scope *scope)
{
    struct span data;
    if (render(ex, answer, scope, &data) == ERR_OK)
        send_last(ex, answer->status < 400 ? "result" : "error", data);
    else
        exchange_answer_error(ex, ERR_INTERNAL, "The reply came, but there is no memory to answer with it");
}

void exchange_stream_end_error(struct exchange *ex, struct span body)
{
    send_last(ex, "error", body);
}
