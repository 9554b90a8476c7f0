/* SPDX-License-Identifier: Apache-2.0 */
/* Which path a call of a route takes, decided once, when its head is there: the flag, the user's place in a split, whether
 * Kafka is usable at all, and room for the body. A call that may take legacy goes there at once when Kafka is closed, so
 * that its body is streamed and not collected first. design.md section 5. */
#include <arpa/inet.h>

#include "internal.h"

#define ADDRESS_MAX (INET6_ADDRSTRLEN + 2)

/* ---- who the user is ---- */

/* An address as X-Forwarded-For may have it: "192.0.2.1", "192.0.2.1:4711", "[2001:db8::1]:4711", "2001:db8::1". */
static bool parse_address(struct span text, struct sockaddr_storage *ret_address)
{
    char copy[ADDRESS_MAX + 8];
    text = span_trim(text);
    if (text.len > 0 && text.ptr[0] == '[') {
        const char *end = memchr(text.ptr, ']', text.len);
        text = (struct span){text.ptr + 1, end ? (size_t)(end - text.ptr - 1) : 0};
    } else {
        const char *colon = text.len ? memchr(text.ptr, ':', text.len) : NULL;
        if (colon && !memchr(colon + 1, ':', (size_t)(text.ptr + text.len - colon - 1)))
            text.len = (size_t)(colon - text.ptr); /* one colon: a port */
    }
    if (text.len == 0 || text.len >= sizeof(copy))
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)ret_address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)ret_address;
    *ret_address = (struct sockaddr_storage){.ss_family = AF_INET};
    if (inet_pton(AF_INET, copy, &in->sin_addr) == 1)
        return true;
    *ret_address = (struct sockaddr_storage){.ss_family = AF_INET6};
    return inet_pton(AF_INET6, copy, &in6->sin6_addr) == 1;
}

static void on_header(void *arg, struct span name, struct span value)
{
    struct buf *list = arg;
    if (!span_eq_nocase(name, SPAN_LIT("X-Forwarded-For")))
        return;
    if (list->len)
        buf_append_char(list, ',');
    buf_append_span(list, value);
}

/* The address nearest to us that is not a trusted proxy's: the peer, or, behind proxies, the last such entry of
 * X-Forwarded-For. What a stranger writes to the left of it is not believed. */
static void client_address(struct exchange *ex, struct buf *list, char out[INET6_ADDRSTRLEN])
{
    const struct config *config = ex->view->plan->config;
    const struct sockaddr *peer = http_request_peer(ex->http);
    struct sockaddr_storage address;
    exchange_format_address(peer, out);
    buf_clear(list);
    if (!peer || !config_trusts(config, peer))
        return;
    http_request_each_header(ex->http, on_header, list);
    for (struct span rest = buf_ok(list) ? buf_span(list) : (struct span){NULL, 0}; rest.len;) {
        size_t start = rest.len;
        while (start > 0 && rest.ptr[start - 1] != ',')
            start--;
        if (!parse_address((struct span){rest.ptr + start, rest.len - start}, &address))
            return;
        exchange_format_address((const struct sockaddr *)(const void *)&address, out);
        if (!config_trusts(config, (const struct sockaddr *)(const void *)&address))
            return;
        rest.len = start ? start - 1 : 0;
    }
}

/* Sticky by the token's subject, which is not verified yet: a forged one chooses a path, never a right. */
static unsigned place_of(struct exchange *ex)
{
    struct exchange_worker *worker = ex->worker;
    char address[INET6_ADDRSTRLEN];
    buf_clear(&worker->key);
    if (auth_peek_subject(http_request_header(ex->http, "Authorization"), &worker->command_doc,
                          &worker->scratch, &worker->key))
        return path_place(buf_span(&worker->key));
    client_address(ex, &worker->scratch, address);
    return path_place(span_of(address));
}

/* ---- room for the body ---- */

/* What the body may need at most; 0: none is coming. */
static uint64_t body_need(const struct exchange *ex)
{
    bool has_body;
    uint64_t limit = ex->view->plan->config->body_limit;
    int64_t length = http_request_content_length(ex->http, &has_body);
    return !has_body ? 0 : length < 0 || (uint64_t)length > limit ? limit : (uint64_t)length;
}

static bool reserve_body(struct exchange *ex)
{
    uint64_t need = body_need(ex), budget = ex->view->plan->config->body_memory;
    if (need == 0)
        return true;
    atomic_uint_fast64_t *total = &ex->worker->shared->body_bytes;
    if (atomic_fetch_add_explicit(total, need, memory_order_relaxed) + need > budget) {
        atomic_fetch_sub_explicit(total, need, memory_order_relaxed);
        return false;
    }
    ex->body_reserved = need;
    return true;
}

/* ---- the choice ---- */

static bool is_closed(struct exchange *ex, enum path_fallback *ret_reason)
{
    struct exchange_shared *shared = ex->worker->shared;
    exchange_cluster_observe(shared, ex->worker->view->plan); /* main looks only now and then */
    struct exchange_closed closed;
    if (exchange_route_closed(shared, ex->view->plan, ex->route, &closed)) {
        *ret_reason = closed.reason;
        return true;
    }
    return exchange_breaker_refuses(ex, ret_reason);
}

bool exchange_takes_kafka(struct exchange *ex, int *ret_reason)
{
    enum path_fallback reason;
    *ret_reason = -1;
    unsigned place = ex->flag.mode == PATH_MODE_SPLIT ? place_of(ex) : 0;
    if (!path_flag_takes_kafka(&ex->flag, place))
        return false;
    /* Without legacy the checks come first: a caller without a token learns that, and not that Kafka is away. */
    if (ex->worker->legacy && path_flag_has_legacy(&ex->flag) && is_closed(ex, &reason)) {
        *ret_reason = (int)reason;
        return false;
    }
    if (reserve_body(ex))
        return true;
    *ret_reason = PATH_FALLBACK_OVERLOADED;
    return false;
}
