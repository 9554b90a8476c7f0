/* SPDX-License-Identifier: Apache-2.0 */
/* Callbacks of one transfer. Invariants:
 * - Inside them nothing of curl is called but curl_easy_getinfo() and curl_easy_setopt(); the owner, whom they
 * call, may cancel the call, so `cancelled` is looked at again after every word to the owner. The handle is
 * removed later, by the task.
 * - A request goes out a second time only as retry.c permits. curl retries every method when a reused connection
 * dies before the first byte of an answer (lib/transfer.c, Curl_retry_request). That no SEEKFUNCTION is set
 * stops it only once a byte of the body has left, so on_request() is asked before each attempt.
 * - `requests` == 0 proves that not a byte of a request has left. */
#include "call.h"

size_t stream_len(const struct legacy_call *call)
{
    return call->stream.len - call->stream_off;
}

static void on_progress(struct legacy_call *call)
{
    call->progress_ns = loop_now_ns(call->legacy->loop);
}

static int on_request(void *arg, char *peer_ip, char *own_ip, int peer_port, int own_port)
{
    (void)peer_ip, (void)own_ip, (void)peer_port, (void)own_port;
    struct legacy_call *call = arg;
    if (call->cancelled || (call->requests_of_run > 0 && !retry_by_curl(call)))
        return CURL_PREREQFUNC_ABORT;
    call->requests++;
    call->requests_of_run++;
    if (!call->unplaced)
        call->legacy->unplaced++;
    call->unplaced = true;
    return CURL_PREREQFUNC_OK;
}

/* ---- upload ---- */

static size_t read_fixed(struct legacy_call *call, char *out, size_t room)
{
    size_t n = call->body.len < room ? call->body.len : room;
    memcpy(out, call->body.ptr, n);
    call->body.ptr += n;
    call->body.len -= n;
    return n;
}

static size_t read_stream(struct legacy_call *call, char *out, size_t room)
{
    size_t n = stream_len(call) < room ? stream_len(call) : room;
    /* Never a byte more or less than announced: the backend would take the difference for a request, or wait.
     */
    if (call->stream_bad || (call->stream_ended && call->stream_left > (int64_t)stream_len(call)))
        return CURL_READFUNC_ABORT;
    if (n == 0) {
        if (call->stream_ended)
            return 0;
        call->send_paused = true;
        call_add_work(call); /* is anybody still listening? */
        return CURL_READFUNC_PAUSE;
    }
    memcpy(out, call->stream.ptr + call->stream_off, n);
    call->stream_off += n;
    if (call->stream_left >= 0)
        call->stream_left -= (int64_t)n;
    if (call->want_writable) {
        call->want_writable = false;
        call->writable = true;
        call_add_work(call);
    }
    return n;
}

static size_t on_read(char *out, size_t size, size_t count, void *arg)
{
    struct legacy_call *call = arg;
    if (call->cancelled || call->failed || call->last_word)
        return CURL_READFUNC_ABORT;
    on_progress(call);
    if (call->body_kind == LEGACY_BODY_FIXED)
        return read_fixed(call, out, size * count);
    return read_stream(call, out, size * count);
}

/* ---- answer ---- */

/* With all of the answer here curl still waits for the upload to end. If it does so in this turn the
 * connection lives on; otherwise the task ends the call. */
static void note_answered(struct legacy_call *call)
{
    if (!call->has_body)
        return;
    call->answered = true;
    call_add_work(call);
}

/* On a connection that an HTTP/1.0 backend keeps alive curl would speak HTTP/1.0 as well, and refuse a chunked upload. */
static void leave_http_10(struct legacy_call *call)
{
    long version = 0;
    curl_easy_getinfo(call->easy, CURLINFO_HTTP_VERSION, &version);
    if (version == CURL_HTTP_VERSION_1_0)
        curl_easy_setopt(call->easy, CURLOPT_FORBID_REUSE, 1L);
}

/* From status 300 on curl ends the upload that is under way, but the backend may need it to end its answer. Of one without
 * a length only curl can tell whether it was complete when the connection ends, and it does so when nothing is sent. */
static void keep_sending(struct legacy_call *call)
{
    if (call->has_body)
        curl_easy_setopt(call->easy, CURLOPT_KEEP_SENDING_ON_ERROR, call->head.content_length >= 0 ? 1L : 0L);
}

static bool final_head(struct legacy_call *call, int status)
{
    struct legacy_response response;
    leave_http_10(call);
    keep_sending(call);
    head_response(&call->head, status, &response);
    on_progress(call);
    call->handler.on_head(call->arg, &response);
    if (call->cancelled)
        return false;
    if (call->head_method || status == 204 || status == 304 || call->head.content_length == 0)
        note_answered(call);
    return true;
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    struct legacy_call *call = arg;
    size_t len = size * count;
    long status = 0;
    if (call->cancelled || call->failed)
        return 0;
    if (call->head.done) /* trailers */
        return len;
    if (len <= 2)
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    switch (head_take(&call->head, (struct span){line, len}, (int)status)) {
    case HEAD_MORE:
    case HEAD_INTERIM:
        return len;
    case HEAD_FINAL:
        return final_head(call, (int)status) ? len : 0;
    case HEAD_BAD:
        break;
    }
    call->failed = true;
    return 0;
}

static size_t on_write(char *data, size_t size, size_t count, void *arg)
{
    struct legacy_call *call = arg;
    size_t len = size * count;
    if (call->cancelled || call->failed || !call->head.done)
        return 0;
    if (call->head_method) /* curl does not know when a HEAD carries a body */
        return len;
    on_progress(call);
    if (!call->handler.on_data(call->arg, data, len)) {
        call->recv_paused = true;
        return call->cancelled ? 0 : CURL_WRITEFUNC_PAUSE;
    }
    if (call->cancelled)
        return 0;
    call->received += (int64_t)len;
    if (call->received == call->head.content_length)
        note_answered(call);
    return len;
}

/* ---- end ---- */

enum err_code transfer_result(const struct legacy_call *call, CURLcode rc)
{
    if (call->requests == 0)
        return rc == CURLE_OUT_OF_MEMORY ? ERR_NO_MEMORY : ERR_LEGACY_UNREACHABLE;
    if (rc == CURLE_OK && call->head.done)
        return ERR_OK;
    return rc == CURLE_OPERATION_TIMEDOUT ? ERR_LEGACY_TIMEOUT : ERR_LEGACY_BROKEN;
}

/* While the owner holds the answer back or owes a piece of the upload, the backend is not to blame for
 * silence. */
static bool waits_for_owner(const struct legacy_call *call)
{
    return call->recv_paused || call->send_paused;
}

void transfer_on_timer(struct loop_timer *timer)
{
    struct legacy_call *call = SG_CONTAINER_OF(timer, struct legacy_call, timer);
    struct legacy *legacy = call->legacy;
    uint64_t now = loop_now_ns(legacy->loop);
    curl_off_t uploaded = 0;
    if (call->resting)
        retry_go_on(call);
    if (call->running)
        curl_easy_getinfo(call->easy, CURLINFO_SIZE_UPLOAD_T, &uploaded);
    if (waits_for_owner(call) || uploaded != call->uploaded)
        call->progress_ns = now;
    call->uploaded = uploaded;
    uint64_t since = call->retries > 0 && !call->head.done ? call->started_ns : call->progress_ns;
    uint64_t deadline = since + legacy->timeout_ns;
    if (deadline > now && loop_timer_set(legacy->loop, timer, deadline) == ERR_OK)
        return;
    if (!call->running)
        call_end(call, call->retries > 0 ? call->failure : ERR_OVERLOADED);
    else
        call_end(call, call->requests ? ERR_LEGACY_TIMEOUT : ERR_LEGACY_UNREACHABLE);
}

bool transfer_prepare(struct legacy_call *call)
{
    CURL *easy = call->easy;
    const struct legacy *legacy = call->legacy;
    return curl_easy_setopt(easy, CURLOPT_URL, legacy->origin) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, legacy->connect_timeout_ms) == CURLE_OK &&
           /* Node.js, for one, closes after 5 idle seconds; curl counts whole ones. Not reusing what may be
            * closed that moment saves requests that may not be sent again. */
           curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, 3L) == CURLE_OK &&
           /* Removing a handle whose name is being resolved must not wait for the resolver's thread. */
           curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, call) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_request) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQDATA, call) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_READDATA, call) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, call) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_write) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, call) == CURLE_OK;
}
