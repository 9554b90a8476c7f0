/* SPDX-License-Identifier: Apache-2.0 */
/* The listening socket. One a port, watched by every front with EPOLLEXCLUSIVE; whoever accepts gives the connection to
 * the front with the fewest. (A socket each with SO_REUSEPORT would let a second gateway on the same port start, and a full front
 * would keep clients that another could serve.) */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "internal.h"

#define ACCEPT_BATCH    32
#define ACCEPT_PAUSE_NS (50 * SG_NSEC_PER_MSEC)

struct handover {
    struct loop_msg msg;
    struct http_front *front;
    int fd;
    struct sockaddr_storage address;
    socklen_t address_len;
};

/* ---- the socket ---- */

static enum err_code split_address(const char *text, char host[64], char port[8], struct err *err)
{
    const char *colon = strrchr(text, ':');
    size_t host_len = colon ? (size_t)(colon - text) : 0;
    bool bracket = host_len >= 2 && text[0] == '[' && colon[-1] == ']';
    if (bracket) {
        text++;
        host_len -= 2;
    }
    uint64_t number;
    if (!colon || host_len == 0 || host_len >= 64 || !base_parse_u64(span_of(colon + 1), &number) ||
        number > 65535)
        return err_set(err, ERR_CONFIG, "%s: expected HOST:PORT", text);
    memcpy(host, text, host_len);
    host[host_len] = '\0';
    snprintf(port, 8, "%u", (unsigned)number);
    return ERR_OK;
}

static int bind_and_listen(const struct addrinfo *info)
{
    const int on = 1, off = 0;
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (info->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, 4096) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void write_address(struct http_listener *listener)
{
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof(bound);
    char host[64], port[8];
    getsockname(listener->fd, (struct sockaddr *)&bound, &len);
    getnameinfo((struct sockaddr *)&bound, len, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(listener->address, sizeof(listener->address), bound.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s",
             host, port);
}

struct http_listener *http_listener_new(const char *address, uint32_t max_connections, struct err *err)
{
    char host[64], port[8];
    if (split_address(address, host, port, err) != ERR_OK)
        return NULL;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *info = NULL;
    int rc = getaddrinfo(host, port, &hints, &info);
    if (rc != 0) {
        err_set(err, ERR_CONFIG, "%s: %s", address, gai_strerror(rc));
        return NULL;
    }
    struct http_listener *listener = calloc(1, sizeof(*listener));
    int fd = listener ? bind_and_listen(info) : -1;
    freeaddrinfo(info);
    if (fd < 0) {
        err_set(err, ERR_CONFIG, "cannot listen on %s: %s", address, strerror(errno));
        free(listener);
        return NULL;
    }
    listener->fd = fd;
    listener->max_connections = max_connections;
    write_address(listener);
    return listener;
}

const char *http_listener_address(const struct http_listener *listener)
{
    return listener->address;
}

uint32_t http_listener_connections(const struct http_listener *listener)
{
    return atomic_load_explicit(&listener->connections, memory_order_relaxed);
}

void http_listener_close(struct http_listener *listener)
{
    /* shutdown() on a listening socket refuses clients at once while the descriptor stays valid for the fronts. */
    atomic_store(&listener->closed, true);
    shutdown(listener->fd, SHUT_RD);
}

void http_listener_freep(struct http_listener **listener_ptr)
{
    struct http_listener *listener = *listener_ptr;
    if (!listener)
        return;
    *listener_ptr = NULL;
    close(listener->fd);
    free(listener);
}

/* ---- accepting ---- */

static struct http_front *least_loaded(struct http_front *self)
{
    struct http_listener *listener = self->listener;
    struct http_front *best = self;
    unsigned fewest = atomic_load_explicit(&self->connections, memory_order_relaxed);
    for (size_t i = 0; i < listener->front_count; i++) {
        unsigned count = atomic_load_explicit(&listener->fronts[i]->connections, memory_order_relaxed);
        if (count < fewest) {
            fewest = count;
            best = listener->fronts[i];
        }
    }
    return best;
}

/* Thread: the loop of the front that takes the connection. */
static void on_handover(struct loop_msg *msg)
{
    struct handover *handover = SG_CONTAINER_OF(msg, struct handover, msg);
    http_front_take(handover->front, handover->fd, (struct sockaddr *)&handover->address,
                    handover->address_len);
    free(handover);
}

static void give(struct http_front *self, int fd, const struct sockaddr_storage *address,
                 socklen_t address_len)
{
    struct http_front *front = least_loaded(self);
    /* Counted here, so that the next choice sees it. */
    atomic_fetch_add_explicit(&front->connections, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&front->listener->connections, 1, memory_order_relaxed);
    struct handover *handover = front == self ? NULL : malloc(sizeof(*handover));
    if (!handover) {
        if (front != self) {
            atomic_fetch_sub_explicit(&front->connections, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&self->connections, 1, memory_order_relaxed);
        }
        http_front_take(self, fd, (const struct sockaddr *)address, address_len);
        return;
    }
    *handover = (struct handover){
        .msg.on_msg = on_handover, .front = front, .fd = fd, .address = *address, .address_len = address_len};
    loop_post(front->loop, &handover->msg);
}

static void accept_pause(struct http_front *front, const char *why)
{
    uint64_t suppressed;
    if (log_limit_ok(&front->log_limit, loop_now_ns(front->loop), 1, &suppressed)) {
        struct log_line line;
        log_begin(&line, LOG_WARN, "not accepting connections for a moment");
        log_str(&line, "reason", why);
        log_u64(&line, "connections", http_listener_connections(front->listener));
        log_end(&line);
    }
    loop_io_del(front->loop, &front->accept_io);
    if (loop_timer_set(front->loop, &front->accept_pause, loop_now_ns(front->loop) + ACCEPT_PAUSE_NS) !=
        ERR_OK)
        (void)http_accept_start(front);
}

static void on_accept_ready(struct loop_io *io, uint32_t events)
{
    (void)events;
    struct http_front *front = SG_CONTAINER_OF(io, struct http_front, accept_io);
    struct http_listener *listener = front->listener;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (atomic_load_explicit(&listener->closed, memory_order_relaxed)) {
            loop_io_del(front->loop, &front->accept_io);
            return;
        }
        if (http_listener_connections(listener) >= listener->max_connections) {
            accept_pause(front, "SYNCGATE_MAX_CONNECTIONS reached");
            return;
        }
        struct sockaddr_storage address;
        socklen_t len = sizeof(address);
        int fd = accept4(io->fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            give(front, fd, &address, len);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            accept_pause(front, strerror(errno));
            return;
        } else if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

static void on_accept_again(struct loop_timer *timer)
{
    struct http_front *front = SG_CONTAINER_OF(timer, struct http_front, accept_pause);
    if (!atomic_load(&front->listener->closed))
        (void)http_accept_start(front);
}

enum err_code http_accept_start(struct http_front *front)
{
    front->accept_io.fd = front->listener->fd;
    front->accept_io.on_ready = on_accept_ready;
    front->accept_pause.on_timer = on_accept_again;
    return loop_io_add(front->loop, &front->accept_io, EPOLLIN | EPOLLEXCLUSIVE);
}

void http_accept_stop(struct http_front *front)
{
    loop_io_del(front->loop, &front->accept_io);
    loop_timer_cancel(front->loop, &front->accept_pause);
}
