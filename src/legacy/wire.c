/* SPDX-License-Identifier: Apache-2.0 */
/* The multi handle's sockets and its timer, in the loop. Invariants:
 * - curl asks to watch a connection anew for every request. Its registration is kept while the connection is
 * idle in curl's cache, which saves two system calls a request. That is safe because every connection is
 * opened and closed by our callbacks, so no descriptor is closed behind the loop's back; other descriptors
 * (the resolver's) are removed at once.
 * - An idle connection that becomes readable was closed, or speaks unasked. curl would reuse the latter and
 * take the words for the next answer, so the connection is shut down here; curl finds it dead and drops it. What
 * came behind an answer already is looked for when the answer ends: the connection may be used again in this turn.
 * - curl is entered from the loop only (on_ready, on_timer, on_task), never from one of its callbacks. */
#include "call.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

struct legacy_socket {
    struct loop_io io;
    struct legacy *legacy;
    uint32_t watched; /* events registered with the loop; 0: not registered */
    bool connection;  /* opened by us */
    bool idle;        /* in curl's cache */
};

/* ---- results ---- */

static void collect(struct legacy *legacy)
{
    int left;
    for (CURLMsg *msg; (msg = curl_multi_info_read(legacy->multi, &left));) {
        struct legacy_call *call = NULL;
        if (msg->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &call);
        call_done(call, msg->data.result);
    }
}

/* ---- descriptors ---- */

static struct legacy_socket *socket_find(struct legacy *legacy, int fd)
{
    return (size_t)fd < legacy->socket_cap ? legacy->sockets[fd] : NULL;
}

static void on_ready(struct loop_io *io, uint32_t events);

static struct legacy_socket *socket_add(struct legacy *legacy, int fd)
{
    if ((size_t)fd >= legacy->socket_cap) {
        size_t cap = legacy->socket_cap ? legacy->socket_cap : 64;
        while (cap <= (size_t)fd)
            cap *= 2;
        struct legacy_socket **sockets = realloc(legacy->sockets, cap * sizeof(struct legacy_socket *));
        if (!sockets)
            return NULL;
        memset(sockets + legacy->socket_cap, 0, (cap - legacy->socket_cap) * sizeof(struct legacy_socket *));
        legacy->sockets = sockets;
        legacy->socket_cap = cap;
    }
    struct legacy_socket *sock = calloc(1, sizeof(*sock));
    if (!sock)
        return NULL;
    sock->legacy = legacy;
    sock->io = (struct loop_io){.fd = fd, .on_ready = on_ready};
    return legacy->sockets[fd] = sock;
}

static void socket_unwatch(struct legacy_socket *sock)
{
    loop_io_del(sock->legacy->loop, &sock->io);
    sock->watched = 0;
}

static void socket_drop(struct legacy_socket *sock)
{
    socket_unwatch(sock);
    sock->legacy->sockets[sock->io.fd] = NULL;
    free(sock);
}

static bool socket_watch(struct legacy_socket *sock, uint32_t events)
{
    if (sock->watched == events)
        return true;
    enum err_code code = sock->watched ? loop_io_mod(sock->legacy->loop, &sock->io, events)
                                       : loop_io_add(sock->legacy->loop, &sock->io, events);
    if (code != ERR_OK)
        return false;
    sock->watched = events;
    return true;
}

void wire_placed(struct legacy_call *call)
{
    if (call->unplaced)
        call->legacy->unplaced--;
    call->unplaced = false;
}

/* Bytes that belong to no answer. (Under TLS it may be a session ticket.) */
static bool has_unasked(const struct legacy_socket *sock)
{
    char c;
    return !sock->legacy->tls && recv(sock->io.fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static void hang_up(const struct legacy_socket *sock)
{
    char sink[16384];
    /* Nothing more comes in then, but what is in the receive buffer stays, and curl looks for the end of file. */
    shutdown(sock->io.fd, SHUT_RDWR);
    while (recv(sock->io.fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
        ;
}

static void on_idle_ready(struct legacy_socket *sock)
{
    socket_unwatch(sock);
    /* Under TLS it may be a session ticket. And a call that was paused before curl asked to watch its
     * connection holds one that only looks idle. */
    if (sock->legacy->tls || sock->legacy->unplaced > 0)
        return;
    hang_up(sock);
}

static void on_ready(struct loop_io *io, uint32_t events)
{
    struct legacy_socket *sock = SG_CONTAINER_OF(io, struct legacy_socket, io);
    struct legacy *legacy = sock->legacy;
    int ev = 0, running;
    if (sock->idle) {
        on_idle_ready(sock);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) /* curl reads the error from the socket itself */
        ev |= CURL_CSELECT_IN;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        ev |= CURL_CSELECT_OUT;
    curl_multi_socket_action(legacy->multi, io->fd, ev, &running);
    collect(legacy);
}

/* ---- callbacks of curl ---- */

/* Whether curl stopped reading because the answer has ended, and not because the connection has. */
static bool answer_is_complete(const struct legacy_call *call, int fd)
{
    char c;
    if (call->head.content_length >= 0)
        return call->received == call->head.content_length;
    if (!call->head.transfer_encoding) /* until close */
        return true;
    ssize_t n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
}

/* curl does not want to read any more and the owner is not the reason, but it does not end the transfer
 * before the upload has ended, which may be never. (Under TLS not reading may mean other things.) */
static void on_read_side_gone(struct legacy_call *call, int fd)
{
    if (!call->has_body || call->recv_paused || call->legacy->tls)
        return;
    if (call->head.done && answer_is_complete(call, fd))
        call->answered = true;
    else if (call->head.done)
        call->last_word = true;
    call_add_work(call);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
    (void)unused;
    struct legacy *legacy = arg;
    struct legacy_socket *sock = socket_find(legacy, fd);
    struct legacy_call *call = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &call);
    if (what == CURL_POLL_REMOVE) {
        if (!sock)
            return 0;
        if (!sock->connection) { /* the resolver's */
            socket_drop(sock);
            return 0;
        }
        sock->idle = call && !call->recv_paused && !call->send_paused;
        if (!sock->idle || sock->watched != EPOLLIN)
            socket_unwatch(sock);
        if (sock->idle && has_unasked(sock))
            hang_up(sock);
    } else {
        uint32_t events =
            (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) | (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
        if (!sock)
            sock = socket_add(legacy, fd);
        if (sock)
            sock->idle = false;
        if (call)
            wire_placed(call);
        if ((!sock || !socket_watch(sock, events)) && call) {
            call->failed = true;
            call_add_work(call);
        }
    }
    if (call) {
        call->reading = what != CURL_POLL_REMOVE && (what & CURL_POLL_IN);
        if (!call->reading)
            on_read_side_gone(call, fd);
    }
    return 0;
}

static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)purpose;
    struct legacy *legacy = arg;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->protocol);
    if (fd < 0)
        return CURL_SOCKET_BAD;
    struct legacy_socket *sock = socket_find(legacy, fd);
    if (sock) /* curl closes a socket that never got connected without a word to us */
        socket_drop(sock);
    sock = socket_add(legacy, fd);
    if (!sock) {
        close(fd);
        return CURL_SOCKET_BAD;
    }
    sock->connection = true;
    return fd;
}

static int on_close(void *arg, curl_socket_t fd)
{
    struct legacy *legacy = arg;
    struct legacy_socket *sock = socket_find(legacy, fd);
    if (sock)
        socket_drop(sock);
    return close(fd);
}

/* ---- timer ---- */

static void on_timer(struct loop_timer *timer)
{
    struct legacy *legacy = SG_CONTAINER_OF(timer, struct legacy, timer);
    legacy->due = true;
    wire_run_due(legacy);
}

/* 0 ms is the end of this turn if the task has yet to run (all calls started in one turn go through curl
 * together), else the next turn: curl also says 0 when it stopped reading a fast backend for the sake of the
 * other calls. */
static int on_set_timer(CURLM *multi, long timeout_ms, void *arg)
{
    (void)multi;
    struct legacy *legacy = arg;
    legacy->due = timeout_ms == 0;
    if (timeout_ms < 0) {
        loop_timer_cancel(legacy->loop, &legacy->timer);
        return 0;
    }
    uint64_t deadline = loop_now_ns(legacy->loop) + (uint64_t)timeout_ms * SG_NSEC_PER_MSEC;
    if (loop_timer_set(legacy->loop, &legacy->timer, deadline) != ERR_OK) {
        legacy->due = true; /* too early is harmless */
        loop_defer(legacy->loop, &legacy->task);
    }
    return 0;
}

void wire_run_due(struct legacy *legacy)
{
    int running;
    if (!legacy->due)
        return;
    legacy->due = false;
    loop_timer_cancel(legacy->loop, &legacy->timer);
    curl_multi_socket_action(legacy->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(legacy);
}

/* ---- life ---- */

bool wire_prepare(struct legacy *legacy, CURL *easy)
{
    return curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, legacy) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, legacy) == CURLE_OK;
}

bool wire_init(struct legacy *legacy)
{
    legacy->timer.on_timer = on_timer;
    long max = (long)legacy->max_connections;
    /* Running calls are limited here; the limits of curl make room for a fresh connection among the idle
     * ones. */
    return curl_multi_setopt(legacy->multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK &&
           curl_multi_setopt(legacy->multi, CURLMOPT_SOCKETDATA, legacy) == CURLM_OK &&
           curl_multi_setopt(legacy->multi, CURLMOPT_TIMERFUNCTION, on_set_timer) == CURLM_OK &&
           curl_multi_setopt(legacy->multi, CURLMOPT_TIMERDATA, legacy) == CURLM_OK &&
           curl_multi_setopt(legacy->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING) == CURLM_OK &&
           curl_multi_setopt(legacy->multi, CURLMOPT_MAXCONNECTS, max) == CURLM_OK &&
           curl_multi_setopt(legacy->multi, CURLMOPT_MAX_HOST_CONNECTIONS, max) == CURLM_OK;
}

void wire_fini(struct legacy *legacy)
{
    loop_timer_cancel(legacy->loop, &legacy->timer);
    for (size_t fd = 0; fd < legacy->socket_cap; fd++)
        if (legacy->sockets[fd])
            socket_drop(legacy->sockets[fd]);
    free(legacy->sockets);
}
