/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - A call is in exactly one place: waiting (started), running (in the multi handle), resting (between two attempts;
 * in no list, its timer is set), or spare; `work` is beside it.
 * - The owner's calls (start, write, resume, cancel) never enter curl, so they are safe inside any callback;
 * what they ask for is done by the task at the end of the turn.
 * - A cancelled call stays until the task removes it; no callback of the owner follows.
 * - Results are collected whenever curl has been entered, before the task looks at its work, so an error that
 * curl found goes before an early end. */
#include "call.h"

#include <stdio.h>

enum err_code legacy_global_init(void)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? ERR_OK : ERR_INTERNAL;
}

/* ---- base URL ---- */

static CURLUcode url_part(CURLU *url, CURLUPart part, char **ret_text)
{
    *ret_text = NULL;
    return curl_url_get(url, part, ret_text, 0);
}

static bool has_part(CURLU *url, CURLUPart part)
{
    char *text;
    bool has = url_part(url, part, &text) == CURLUE_OK;
    curl_free(text);
    return has;
}

/* Returns owned, or NULL with *err filled. The URL itself is not shown: it may hold a password. */
static CURLU *parse_url(const char *text, struct err *err)
{
    CURLU *url = curl_url();
    char *scheme = NULL;
    const char *wrong = NULL;
    if (!url) {
        err_set(err, ERR_NO_MEMORY, "out of memory for LEGACY_URL");
        return NULL;
    }
    CURLUcode rc = curl_url_set(url, CURLUPART_URL, text ? text : "", CURLU_PATH_AS_IS);
    if (rc == CURLUE_OK)
        rc = url_part(url, CURLUPART_SCHEME, &scheme);
    if (rc != CURLUE_OK)
        wrong = curl_url_strerror(rc);
    else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        wrong = "the scheme is neither http nor https";
    else if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD))
        wrong = "a user name or password is not supported";
    else if (has_part(url, CURLUPART_QUERY) || has_part(url, CURLUPART_FRAGMENT))
        wrong = "a query or fragment cannot be a prefix";
    curl_free(scheme);
    if (wrong) {
        err_set(err, ERR_CONFIG, "LEGACY_URL: %s; expected http(s)://host[:port][/prefix]", wrong);
        curl_url_cleanup(url);
        return NULL;
    }
    return url;
}

bool legacy_url_check(const char *url, struct err *err)
{
    CURLU *parsed = parse_url(url, err);
    curl_url_cleanup(parsed);
    return parsed != NULL;
}

/* Splits the base URL into what curl connects to and the prefix of all targets. */
static bool set_base(struct legacy *legacy, const char *text, struct err *err)
{
    CURLU *url = parse_url(text, err);
    if (!url)
        return false;
    char *path = NULL, *origin = NULL, *scheme = NULL;
    bool ok = url_part(url, CURLUPART_PATH, &path) == CURLUE_OK &&
              url_part(url, CURLUPART_SCHEME, &scheme) == CURLUE_OK &&
              curl_url_set(url, CURLUPART_PATH, "/", 0) == CURLUE_OK &&
              url_part(url, CURLUPART_URL, &origin) == CURLUE_OK;
    if (ok) {
        size_t len = strlen(path);
        while (len && path[len - 1] == '/')
            len--;
        legacy->prefix = span_dup((struct span){path, len});
        legacy->origin = strdup(origin);
        legacy->tls = strcmp(scheme, "https") == 0;
        ok = legacy->prefix && legacy->origin;
    }
    if (!ok)
        err_set(err, ERR_NO_MEMORY, "out of memory for LEGACY_URL");
    curl_free(path);
    curl_free(origin);
    curl_free(scheme);
    curl_url_cleanup(url);
    return ok;
}

/* ---- pool of calls ---- */

static void call_free(struct legacy_call *call)
{
    curl_easy_cleanup(call->easy);
    buf_fini(&call->text);
    buf_fini(&call->stream);
    head_fini(&call->head);
    free(call->nodes);
    free(call);
}

static bool new_handle(struct legacy_call *call)
{
    curl_easy_cleanup(call->easy);
    call->easy = curl_easy_init();
    return call->easy && transfer_prepare(call) && wire_prepare(call->legacy, call->easy);
}

static struct legacy_call *call_new(struct legacy *legacy)
{
    struct legacy_call *call = calloc(1, sizeof(*call));
    if (!call)
        return NULL;
    call->legacy = legacy;
    call->timer.on_timer = transfer_on_timer;
    if (!new_handle(call)) {
        call_free(call);
        return NULL;
    }
    return call;
}

/* Before 8.1.1 libcurl joins a folded line that is the first of an answer to a header of the handle's transfer before, whose
 * memory is free by then: a backend could crash the gateway. A new handle costs a microsecond; connections and names are
 * kept in the multi handle. */
static bool handles_are_for_once(void)
{
    return curl_version_info(CURLVERSION_NOW)->version_num < 0x080101;
}

static void call_reset(struct legacy_call *call)
{
    call->running = call->cancelled = call->over = call->failed = false;
    call->answered = call->last_word = call->reading = call->probed = false;
    call->resting = false;
    call->requests = call->requests_of_run = call->retries = 0;
    call->uploaded = 0;
    call->received = 0;
    call->stream_off = 0;
    buf_clear(&call->stream);
    call->stream_ended = call->stream_bad = call->want_writable = call->writable = false;
    call->send_paused = call->recv_paused = call->resume = false;
    head_reset(&call->head);
}

static struct legacy_call *call_take(struct legacy *legacy)
{
    struct legacy_call *call = TAILQ_FIRST(&legacy->spare);
    if (call) {
        TAILQ_REMOVE(&legacy->spare, call, link);
        legacy->spare_len--;
        if (legacy->handles_for_once && !new_handle(call)) {
            call_free(call);
            return NULL;
        }
    } else if (!(call = call_new(legacy))) {
        return NULL;
    }
    call_reset(call);
    return call;
}

static void call_give_back(struct legacy_call *call)
{
    struct legacy *legacy = call->legacy;
    if (legacy->spare_len >= legacy->max_connections) {
        call_free(call);
        return;
    }
    if (call->stream.cap > 4096)
        buf_fini(&call->stream);
    if (call->text.cap > 8192)
        buf_fini(&call->text);
    TAILQ_INSERT_HEAD(&legacy->spare, call, link);
    legacy->spare_len++;
}

/* ---- the task ---- */

void call_add_work(struct legacy_call *call)
{
    struct legacy *legacy = call->legacy;
    if (!call->in_work && !call->over) {
        call->in_work = true;
        TAILQ_INSERT_TAIL(&legacy->work, call, work_link);
        legacy->work_len++;
    }
    loop_defer(legacy->loop, &legacy->task);
}

static void remove_work(struct legacy_call *call)
{
    call->in_work = false;
    TAILQ_REMOVE(&call->legacy->work, call, work_link);
    call->legacy->work_len--;
}

void call_leave(struct legacy_call *call)
{
    struct legacy *legacy = call->legacy;
    if (call->running) {
        curl_multi_remove_handle(legacy->multi, call->easy);
        wire_placed(call);
        legacy->running--;
        call->running = false;
    } else if (!call->resting) {
        TAILQ_REMOVE(&legacy->waiting, call, link);
    }
    if (!TAILQ_EMPTY(&legacy->waiting))
        loop_defer(legacy->loop, &legacy->task);
}

/* What the caller is not told: refused, no such name, a certificate that nobody trusts. */
static void tell_failure(struct legacy_call *call, CURLcode rc, enum err_code code)
{
    struct legacy *legacy = call->legacy;
    uint64_t suppressed;
    long os_error = 0;
    if (call->cancelled || !log_limit_ok(&legacy->failure_log, loop_now_ns(legacy->loop), 1, &suppressed))
        return;
    curl_easy_getinfo(call->easy, CURLINFO_OS_ERRNO, &os_error);
    struct log_line line;
    log_begin(&line, LOG_WARN, "legacy call failed");
    log_str(&line, "code", err_info(code)->label);
    /* Our own word is no reason: a reused connection was lost, and what is not idempotent is not sent again. */
    log_str(&line, "reason", rc == CURLE_ABORTED_BY_CALLBACK ? "connection lost" : curl_easy_strerror(rc));
    if (os_error)
        log_str(&line, "text", strerrordesc_np((int)os_error));
    log_u64(&line, "suppressed", suppressed);
    log_end(&line);
}

void call_done(struct legacy_call *call, CURLcode rc)
{
    enum err_code code = transfer_result(call, rc);
    if (code != ERR_OK && retry_rest(call, rc, code))
        return;
    if (code != ERR_OK)
        tell_failure(call, rc, code);
    call_end(call, code);
}

void call_end(struct legacy_call *call, enum err_code code)
{
    struct legacy *legacy = call->legacy;
    call_leave(call);
    if (call->in_work)
        remove_work(call);
    call->over = true;
    loop_timer_cancel(legacy->loop, &call->timer);
    if (!call->cancelled) {
        legacy->active--;
        call->handler.on_end(call->arg, code);
    }
    call_give_back(call);
}

/* The upload has run dry and curl does not read: the backend has closed, or has said everything. Going on
 * makes curl tell us where it stands: it ends the transfer, or asks for the socket (wire.c looks at it), or
 * wants more to send. */
static bool starved_without_reader(struct legacy_call *call)
{
    if (!call->send_paused || call->recv_paused || call->reading || call->legacy->tls)
        return false;
    if (!call->head.done || call->probed)
        call->last_word = true;
    call->probed = true;
    return true;
}

/* Lets go of what was paused and can go on. curl hands data that it had to keep to on_data from here. */
static CURLcode unpause(struct legacy_call *call)
{
    bool recv = call->recv_paused && call->resume;
    bool send = call->send_paused && (stream_len(call) > 0 || call->stream_ended || call->stream_bad ||
                                      call->last_word || starved_without_reader(call));
    call->resume = false;
    if (!recv && !send)
        return CURLE_OK;
    if (recv)
        call->recv_paused = false;
    if (send)
        call->send_paused = false;
    call->progress_ns = loop_now_ns(call->legacy->loop);
    int still = (call->recv_paused ? CURLPAUSE_RECV : 0) | (call->send_paused ? CURLPAUSE_SEND : 0);
    CURLcode rc = curl_easy_pause(call->easy, still);
    return rc == CURLE_BAD_FUNCTION_ARGUMENT ? CURLE_OK : rc; /* between two connections: nothing is paused */
}

static void do_work(struct legacy_call *call)
{
    bool give_up =
        call->running && !call->cancelled && !call->failed && !call->answered && unpause(call) != CURLE_OK;
    if (call->cancelled || call->failed || give_up) {
        call_end(call, transfer_result(call, CURLE_WRITE_ERROR));
    } else if (call->answered) {
        call_end(call, ERR_OK);
    } else if (call->writable) {
        call->writable = false;
        call->handler.on_writable(call->arg);
    }
}

static void start_waiting(struct legacy *legacy)
{
    for (struct legacy_call *call;
         legacy->running < legacy->max_connections && (call = TAILQ_FIRST(&legacy->waiting));) {
        if (call->cancelled || curl_multi_add_handle(legacy->multi, call->easy) != CURLM_OK) {
            call_end(call, ERR_NO_MEMORY);
            continue;
        }
        TAILQ_REMOVE(&legacy->waiting, call, link);
        call->running = true;
        legacy->running++;
    }
}

static void on_task(struct loop_task *task)
{
    struct legacy *legacy = SG_CONTAINER_OF(task, struct legacy, task);
    /* Work that comes up meanwhile waits until curl has run: an answered call may end by itself. */
    for (size_t n = legacy->work_len; n > 0 && legacy->work_len > 0; n--) {
        struct legacy_call *call = TAILQ_FIRST(&legacy->work);
        remove_work(call);
        do_work(call);
    }
    start_waiting(legacy);
    wire_run_due(legacy);
}

/* ---- interface ---- */

struct legacy *legacy_new(struct loop *loop, const struct legacy_settings *settings, struct err *err)
{
    SG_ASSERT(settings->timeout_ms > 0 && settings->connect_timeout_ms > 0 && settings->max_connections > 0);
    struct legacy *legacy = calloc(1, sizeof(*legacy));
    if (!legacy) {
        err_set(err, ERR_NO_MEMORY, "out of memory for the legacy path");
        return NULL;
    }
    legacy->loop = loop;
    legacy->task.on_task = on_task;
    legacy->timeout_ns = settings->timeout_ms * SG_NSEC_PER_MSEC;
    legacy->connect_timeout_ms = (long)settings->connect_timeout_ms;
    legacy->max_connections = settings->max_connections;
    legacy->max_calls = settings->max_calls;
    legacy->max_retries = settings->retries;
    legacy->handles_for_once = handles_are_for_once();
    legacy->retry_backoff_ms = settings->retry_backoff_ms;
    TAILQ_INIT(&legacy->waiting);
    TAILQ_INIT(&legacy->work);
    TAILQ_INIT(&legacy->spare);
    if (!set_base(legacy, settings->url, err)) {
        legacy_freep(&legacy);
        return NULL;
    }
    legacy->multi = curl_multi_init();
    if (!legacy->multi || !wire_init(legacy)) {
        err_set(err, ERR_NO_MEMORY, "out of memory for the legacy path");
        legacy_freep(&legacy);
    }
    return legacy;
}

void legacy_freep(struct legacy **legacy_ptr)
{
    struct legacy *legacy = *legacy_ptr;
    if (!legacy)
        return;
    *legacy_ptr = NULL;
    SG_ASSERT(legacy->active == 0);
    if (legacy->multi)
        on_task(&legacy->task); /* removes the cancelled ones */
    SG_ASSERT(legacy->running == 0 && TAILQ_EMPTY(&legacy->waiting));
    for (struct legacy_call *call; (call = TAILQ_FIRST(&legacy->spare));) {
        TAILQ_REMOVE(&legacy->spare, call, link);
        call_free(call);
    }
    if (legacy->multi)
        curl_multi_cleanup(legacy->multi);
    wire_fini(legacy);
    loop_undefer(legacy->loop, &legacy->task);
    free(legacy->prefix);
    free(legacy->origin);
    free(legacy);
}

enum err_code legacy_start(struct legacy *legacy, const struct legacy_request *request,
                           const struct legacy_handler *handler, void *arg, struct legacy_call **ret_call)
{
    if (legacy->max_calls && legacy->active >= legacy->max_calls)
        return ERR_OVERLOADED;
    struct legacy_call *call = call_take(legacy);
    if (!call)
        return ERR_NO_MEMORY;
    enum err_code code = request_apply(call, request);
    if (code == ERR_OK) {
        call->started_ns = call->progress_ns = loop_now_ns(legacy->loop);
        code = loop_timer_set(legacy->loop, &call->timer, call->progress_ns + legacy->timeout_ns);
    }
    if (code != ERR_OK) {
        call_give_back(call);
        return code;
    }
    call->handler = *handler;
    call->arg = arg;
    legacy->active++;
    TAILQ_INSERT_TAIL(&legacy->waiting, call, link);
    loop_defer(legacy->loop, &legacy->task);
    *ret_call = call;
    return ERR_OK;
}

size_t legacy_call_write(struct legacy_call *call, const char *data, size_t len)
{
    SG_ASSERT(call->body_kind == LEGACY_BODY_STREAM && !call->stream_ended);
    size_t kept = stream_len(call), room = LEGACY_STREAM_MAX - kept, n = len < room ? len : room;
    if (n > 0 && call->stream_off > 0 && call->stream.len + n > call->stream.cap) {
        memmove(call->stream.ptr, call->stream.ptr + call->stream_off, kept);
        call->stream.len = kept;
        call->stream_off = 0;
    }
    buf_append(&call->stream, data, n);
    if (!buf_ok(&call->stream))
        call->stream_bad = true; /* a stream with a hole must not be completed */
    if (call->stream_left >= 0 && (int64_t)stream_len(call) > call->stream_left)
        call->stream_bad = true;
    call->want_writable = n < len;
    if (call->send_paused)
        call_add_work(call);
    return n;
}

void legacy_call_write_end(struct legacy_call *call)
{
    call->stream_ended = true;
    if (call->send_paused)
        call_add_work(call);
}

void legacy_call_resume(struct legacy_call *call)
{
    call->resume = true;
    call_add_work(call);
}

void legacy_call_cancel(struct legacy_call *call)
{
    if (call->over || call->cancelled)
        return;
    call->cancelled = true;
    call->legacy->active--;
    loop_timer_cancel(call->legacy->loop, &call->timer);
    call_add_work(call);
}

size_t legacy_active(const struct legacy *legacy)
{
    return legacy->active;
}

uint64_t legacy_retries(const struct legacy *legacy)
{
    return legacy->retries;
}
