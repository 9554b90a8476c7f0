/* SPDX-License-Identifier: Apache-2.0 */
/* A front: the packs (libmicrohttpd daemons) of one loop.
 * Invariants:
 * - libmicrohttpd runs in external mode: MHD_run() when its epoll descriptor is readable, when one of its time-outs is due,
 *   and at the end of a turn that resumed connections. Never from inside a handler.
 * - A connection is registered twice: by libmicrohttpd in its own set, and by us for EPOLLRDHUP in the loop's set, because
 *   a suspended connection is in nobody's.
 * - Packs are filled first-fit, so the number of packs in use is as small as it can be and a resume walks at most
 *   HTTP_PACK_CONNECTIONS suspended connections. Empty packs are kept for reuse. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "internal.h"

/* ---- connections ---- */

static void on_hangup(struct loop_io *io, uint32_t events)
{
    struct http_connection *connection = SG_CONTAINER_OF(io, struct http_connection, watch);
    if (!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        return;
    http_on_client_gone(connection);
    /* Half a request line and a half-close: libmicrohttpd would wait for the rest until the idle time-out. */
    if (!connection->request)
        shutdown(io->fd, SHUT_RDWR);
}

/* libmicrohttpd's time-out begins anew with each byte: a head that comes in drops would keep its connection for days. The
 * timer is not moved for every request; it looks when it fires. */
static void on_head_late(struct loop_timer *timer)
{
    struct http_connection *connection = SG_CONTAINER_OF(timer, struct http_connection, head_timer);
    const struct http_front *front = connection->pack->front;
    uint64_t deadline_ns = connection->waits_since_ns + front->settings.idle_timeout_ms * SG_NSEC_PER_MSEC;
    if (connection->request && connection->request->phase != HTTP_PHASE_HEAD)
        return; /* set again at its end */
    if (deadline_ns > loop_now_ns(front->loop) && loop_timer_set(front->loop, timer, deadline_ns) == ERR_OK)
        return;
    connection->late = true;
    shutdown(connection->watch.fd, SHUT_RDWR);
}

void http_wait_for_head(struct http_connection *connection)
{
    const struct http_front *front = connection->pack->front;
    connection->waits_since_ns = loop_now_ns(front->loop);
    if (loop_timer_is_set(&connection->head_timer))
        return;
    /* Without memory for it libmicrohttpd's time-out is left. */
    (void)!loop_timer_set(front->loop, &connection->head_timer,
                          connection->waits_since_ns + front->settings.idle_timeout_ms * SG_NSEC_PER_MSEC);
}

static void connection_start(struct http_pack *pack, struct MHD_Connection *mhd, void **context)
{
    struct http_connection *connection = calloc(1, sizeof(*connection));
    *context = connection;
    if (!connection)
        return; /* the first request on it is refused */
    connection->pack = pack;
    connection->mhd = mhd;
    connection->watch.fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    connection->watch.on_ready = on_hangup;
    (void)!loop_io_add(pack->front->loop, &connection->watch, EPOLLRDHUP | EPOLLET);
    connection->head_timer.on_timer = on_head_late;
    http_wait_for_head(connection);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http_pack *pack = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        connection_start(pack, mhd, context);
        return;
    }
    struct http_connection *connection = *context;
    *context = NULL;
    if (connection) {
        loop_io_del(pack->front->loop, &connection->watch);
        loop_timer_cancel(pack->front->loop, &connection->head_timer);
        free(connection);
    }
    pack->connections--;
    atomic_fetch_sub_explicit(&pack->front->connections, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&pack->front->listener->connections, 1, memory_order_relaxed);
}

/* ---- packs ---- */

__attribute__((format(printf, 2, 0))) static void on_mhd_log(void *cls, const char *format, va_list ap)
{
    struct http_front *front = cls;
    uint64_t suppressed;
    char text[256];
    if (log_get_level() > LOG_DEBUG ||
        !log_limit_ok(&front->log_limit, loop_now_ns(front->loop), 20, &suppressed))
        return;
    vsnprintf(text, sizeof(text), format, ap);
    struct log_line line;
    log_begin(&line, LOG_DEBUG, "libmicrohttpd");
    log_str(&line, "text", text);
    log_end(&line);
}

/* Targets are passed on as they came: nothing is decoded. */
static size_t keep_escapes(void *cls, struct MHD_Connection *mhd, char *text)
{
    (void)cls;
    (void)mhd;
    return strlen(text);
}

static void pack_run(struct http_pack *pack)
{
    struct loop *loop = pack->front->loop;
    MHD_UNSIGNED_LONG_LONG wait_ms;
    MHD_run(pack->daemon);
    if (MHD_get_timeout(pack->daemon, &wait_ms) != MHD_YES) {
        loop_timer_cancel(loop, &pack->idle);
        return;
    }
    if (wait_ms == 0) {
        loop_defer(loop, &pack->run);
        return;
    }
    /* Idle time-outs may be late by a second; moving the timer for every request would cost more. */
    uint64_t deadline_ns = loop_now_ns(loop) + (wait_ms + 1) * SG_NSEC_PER_MSEC;
    if (!loop_timer_is_set(&pack->idle) || pack->idle.deadline_ns > deadline_ns + SG_NSEC_PER_SEC)
        (void)!loop_timer_set(loop, &pack->idle, deadline_ns);
}

static void on_pack_ready(struct loop_io *io, uint32_t events)
{
    (void)events;
    pack_run(SG_CONTAINER_OF(io, struct http_pack, io));
}

static void on_pack_task(struct loop_task *task)
{
    pack_run(SG_CONTAINER_OF(task, struct http_pack, run));
}

static void on_pack_idle(struct loop_timer *timer)
{
    pack_run(SG_CONTAINER_OF(timer, struct http_pack, idle));
}

void http_pack_run_later(struct http_pack *pack)
{
    loop_defer(pack->front->loop, &pack->run);
}

static struct http_pack *pack_new(struct http_front *front)
{
    struct http_pack *pack = calloc(1, sizeof(*pack));
    if (!pack)
        return NULL;
    pack->front = front;
    pack->io.on_ready = on_pack_ready;
    pack->run.on_task = on_pack_task;
    pack->idle.on_timer = on_pack_idle;
    const struct http_settings *settings = &front->settings;
    pack->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL,
        NULL, http_on_access, pack, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, front,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_PACK_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        settings->connection_memory, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)((settings->idle_timeout_ms + 999) / 1000), MHD_OPTION_URI_LOG_CALLBACK, http_on_first_line,
        pack, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        pack, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, pack, MHD_OPTION_END);
    if (pack->daemon) {
        pack->io.fd = MHD_get_daemon_info(pack->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
        if (loop_io_add(front->loop, &pack->io, EPOLLIN) == ERR_OK) {
            pack->next = front->packs;
            front->packs = pack;
            return pack;
        }
        MHD_stop_daemon(pack->daemon);
    }
    free(pack);
    return NULL;
}

static struct http_pack *pack_with_room(struct http_front *front)
{
    for (struct http_pack *pack = front->packs; pack; pack = pack->next)
        if (pack->connections < HTTP_PACK_CONNECTIONS)
            return pack;
    return pack_new(front);
}

void http_front_take(struct http_front *front, int fd, const struct sockaddr *address, socklen_t address_len)
{
    struct http_pack *pack = pack_with_room(front);
    if (pack) {
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        pack->connections++;
        /* On failure libmicrohttpd closes the socket; whether it told on_connection first shows in the count. */
        uint32_t before = pack->connections;
        if (MHD_add_connection(pack->daemon, fd, address, address_len) == MHD_YES) {
            http_pack_run_later(pack);
            return;
        }
        if (pack->connections < before)
            return;
        pack->connections--;
    } else
        close(fd);
    atomic_fetch_sub_explicit(&front->connections, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&front->listener->connections, 1, memory_order_relaxed);
}

/* ---- life ---- */

struct http_front *http_front_new(struct loop *loop, struct http_listener *listener,
                                  const struct http_settings *settings, struct err *err)
{
    struct http_front *front = calloc(1, sizeof(*front));
    if (!front) {
        err_set(err, ERR_NO_MEMORY, "out of memory for the HTTP front");
        return NULL;
    }
    front->loop = loop;
    front->listener = listener;
    front->settings = *settings;
    if (!pack_new(front)) {
        err_set(err, ERR_INTERNAL, "cannot start libmicrohttpd");
        http_front_freep(&front);
    }
    return front;
}

enum err_code http_front_join(struct http_front *front)
{
    SG_ASSERT(front->listener->front_count < HTTP_FRONTS_MAX);
    front->listener->fronts[front->listener->front_count++] = front;
    return http_accept_start(front);
}

void http_front_drain(struct http_front *front)
{
    front->draining = true;
}

void http_front_refuse(struct http_front *front)
{
    front->refusing = true;
}

uint32_t http_front_active(const struct http_front *front)
{
    return front->active;
}

void http_front_freep(struct http_front **front_ptr)
{
    struct http_front *front = *front_ptr;
    if (!front)
        return;
    *front_ptr = NULL;
    front->ending = true;
    http_accept_stop(front);
    /* libmicrohttpd aborts the process when a daemon stops with a suspended connection: none may be suspended from here on,
     * so requests that the last MHD_run() reads are refused. */
    for (struct http_request *request = front->requests, *next; request; request = next) {
        next = request->next;
        http_request_abort(request);
    }
    for (struct http_pack *pack = front->packs, *next; pack; pack = next) {
        next = pack->next;
        MHD_run(pack->daemon);
        loop_io_del(front->loop, &pack->io);
        loop_undefer(front->loop, &pack->run);
        loop_timer_cancel(front->loop, &pack->idle);
        MHD_stop_daemon(pack->daemon);
        free(pack);
    }
    buf_fini(&front->scratch);
    free(front);
}
