/* SPDX-License-Identifier: Apache-2.0 */
/* Sending a request again. Invariants:
 * - Only what RFC 9110 section 9.2.2 calls idempotent and whose body is here whole is sent again, only after a failure to
 * connect or a connection that ended before an answer, and never once a line of an answer has come. Not after a
 * time-out: a backend that is slow would get the same work twice.
 * - curl resends by itself, at once, when a reused connection dies. That counts as one of our attempts and needs the
 * same permission (on_request() asks for it). With a body it is refused, because curl has read some of it; the attempt
 * that follows is ours.
 * - A resting call is in no list and not in curl: its timer brings it back, to the end of the queue.
 * - Attempts do not prolong the call: all of them together have timeout_ms until a head comes. */
#include "call.h"

#include <sys/random.h>

#define RETRY_WAIT_MAX_MS 1000u

static bool is_permitted(const struct legacy_call *call)
{
    return call->resendable && call->retries < call->legacy->max_retries && call->head.bytes == 0;
}

static void count(struct legacy_call *call)
{
    call->retries++;
    call->legacy->retries++;
}

bool retry_by_curl(struct legacy_call *call)
{
    if (call->has_body || !is_permitted(call))
        return false;
    count(call);
    return true;
}

/* Whether the backend refused the connection or ended it, as far as curl can tell. */
static bool is_lost_connection(CURLcode rc)
{
    switch (rc) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_FAIL_REWIND:    /* curl would resend, but cannot rewind the body */
    case CURLE_ABORTED_BY_CALLBACK: /* curl would resend, but on_request() refused */
        return true;
    default:
        return false;
    }
}

/* Full jitter: uniform between nothing and base * 2^n, so that calls that failed together do not come back together. */
static uint64_t wait_ns(const struct legacy_call *call)
{
    uint64_t max_ms = call->legacy->retry_backoff_ms, random = 0;
    for (unsigned n = 0; n < call->retries && max_ms < RETRY_WAIT_MAX_MS; n++)
        max_ms *= 2;
    if (max_ms > RETRY_WAIT_MAX_MS)
        max_ms = RETRY_WAIT_MAX_MS;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
        random = clock_mono_ns();
    return random % (max_ms * SG_NSEC_PER_MSEC + 1);
}

bool retry_rest(struct legacy_call *call, CURLcode rc, enum err_code code)
{
    struct loop *loop = call->legacy->loop;
    /* curl's own resend found nobody to connect to, so on_request() was not asked. */
    if (rc == CURLE_COULDNT_CONNECT && call->requests_of_run > 0)
        (void)!retry_by_curl(call);
    if (call->cancelled || call->failed || !is_permitted(call) || !is_lost_connection(rc))
        return false;
    uint64_t until_ns = loop_now_ns(loop) + wait_ns(call);
    if (until_ns >= call->started_ns + call->legacy->timeout_ns ||
        loop_timer_set(loop, &call->timer, until_ns) != ERR_OK)
        return false;
    count(call);
    call_leave(call);
    call->resting = true;
    call->failure = code;
    call->requests_of_run = 0;
    call->body = call->whole_body;
    call->uploaded = 0;
    call->reading = call->probed = false;
    return true;
}

void retry_go_on(struct legacy_call *call)
{
    struct legacy *legacy = call->legacy;
    call->resting = false;
    TAILQ_INSERT_TAIL(&legacy->waiting, call, link);
    loop_defer(legacy->loop, &legacy->task);
}
