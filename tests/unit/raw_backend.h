/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/1.1 backend made of raw sockets, for tests that need every byte and every close under control. One
 * thread accepts, one thread per connection runs the script `serve`. What a script shares with the test goes
 * through atomics and the semaphores. */
#pragma once

#include <arpa/inet.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "syncgate/base.h"

#define BACKEND_CONNS 600

struct backend;

struct backend_conn {
    struct backend *backend;
    int fd, number; /* number: from 0, in the order of accepting */
    char in[65536];
    size_t in_len;
};

struct backend_request {
    char head[16384]; /* with the blank line, NUL-terminated */
    size_t body_len;
    uint32_t body_sum; /* of the decoded body */
    char body[256];    /* its beginning, NUL-terminated */
};

struct backend {
    int listen_fd, port;
    void (*serve)(struct backend_conn *conn);
    _Atomic(const void *) arg; /* for the script */
    atomic_size_t arg_len;
    pthread_t acceptor, threads[BACKEND_CONNS];
    _Atomic int fds[BACKEND_CONNS];
    atomic_int connections, executions;
    atomic_bool stopping;
    sem_t go;   /* the test lets a script go on */
    sem_t done; /* a script says that it got somewhere */
    pthread_mutex_t last_mtx;
    struct backend_request last; /* to be read after backend_stop() */
};

static uint32_t backend_sum(uint32_t sum, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + (unsigned char)data[i];
    return sum;
}

static inline bool backend_fill(struct backend_conn *conn)
{
    if (conn->in_len == sizeof(conn->in))
        return false;
    ssize_t n = recv(conn->fd, conn->in + conn->in_len, sizeof(conn->in) - conn->in_len, 0);
    if (n <= 0)
        return false;
    conn->in_len += (size_t)n;
    return true;
}

static inline void backend_eat(struct backend_conn *conn, size_t n)
{
    conn->in_len -= n;
    memmove(conn->in, conn->in + n, conn->in_len);
}

static inline void backend_note_body(struct backend_request *request, const char *data, size_t n)
{
    for (size_t i = 0; i < n && request->body_len + i < sizeof(request->body) - 1; i++)
        request->body[request->body_len + i] = data[i];
    request->body_sum = backend_sum(request->body_sum, data, n);
    request->body_len += n;
}

static inline bool backend_read_bytes(struct backend_conn *conn, struct backend_request *request, size_t left)
{
    while (left) {
        if (!conn->in_len && !backend_fill(conn))
            return false;
        size_t n = conn->in_len < left ? conn->in_len : left;
        backend_note_body(request, conn->in, n);
        backend_eat(conn, n);
        left -= n;
    }
    return true;
}

/* The line up to CRLF, without it. */
static inline bool backend_read_line(struct backend_conn *conn, char *line, size_t room)
{
    for (;;) {
        const char *end = memmem(conn->in, conn->in_len, "\r\n", 2);
        if (end) {
            size_t len = (size_t)(end - conn->in);
            SG_ASSERT(len < room);
            memcpy(line, conn->in, len);
            line[len] = '\0';
            backend_eat(conn, len + 2);
            return true;
        }
        if (!backend_fill(conn))
            return false;
    }
}

static inline bool backend_read_head(struct backend_conn *conn, struct backend_request *request)
{
    for (;;) {
        const char *end = memmem(conn->in, conn->in_len, "\r\n\r\n", 4);
        if (end) {
            size_t len = (size_t)(end - conn->in) + 4;
            SG_ASSERT(len < sizeof(request->head));
            memcpy(request->head, conn->in, len);
            request->head[len] = '\0';
            request->body_len = 0;
            request->body_sum = 0;
            memset(request->body, 0, sizeof(request->body));
            backend_eat(conn, len);
            return true;
        }
        if (!backend_fill(conn))
            return false;
    }
}

static inline bool backend_read_body(struct backend_conn *conn, struct backend_request *request)
{
    const char *length = strcasestr(request->head, "\r\nContent-Length:");
    char line[128];
    if (length)
        return backend_read_bytes(conn, request, (size_t)strtoul(length + 17, NULL, 10));
    if (!strcasestr(request->head, "\r\nTransfer-Encoding: chunked\r\n"))
        return true;
    for (;;) {
        if (!backend_read_line(conn, line, sizeof(line)))
            return false;
        size_t size = (size_t)strtoul(line, NULL, 16);
        if (size && !backend_read_bytes(conn, request, size))
            return false;
        if (!backend_read_line(conn, line, sizeof(line)) || line[0])
            return false;
        if (!size)
            return true;
    }
}

/* A whole request, noted as the last one; false when the peer is gone. */
static inline bool backend_read(struct backend_conn *conn, struct backend_request *request)
{
    if (!backend_read_head(conn, request) || !backend_read_body(conn, request))
        return false;
    pthread_mutex_lock(&conn->backend->last_mtx);
    conn->backend->last = *request;
    pthread_mutex_unlock(&conn->backend->last_mtx);
    return true;
}

static inline bool backend_send(struct backend_conn *conn, const char *data, size_t len)
{
    while (len) {
        ssize_t n = send(conn->fd, data, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

static inline bool backend_say(struct backend_conn *conn, const char *text)
{
    return backend_send(conn, text, strlen(text));
}

/* Until the peer closes. */
static inline void backend_drain(struct backend_conn *conn)
{
    do
        conn->in_len = 0;
    while (backend_fill(conn));
}

static inline void backend_wait_go(struct backend_conn *conn)
{
    while (sem_wait(&conn->backend->go) != 0)
        ;
}

static inline void *backend_conn_main(void *arg)
{
    struct backend_conn *conn = arg;
    conn->backend->serve(conn);
    atomic_store(&conn->backend->fds[conn->number], -1);
    close(conn->fd);
    free(conn);
    return NULL;
}

static inline void *backend_main(void *arg)
{
    struct backend *backend = arg;
    for (int fd; (fd = accept(backend->listen_fd, NULL, NULL)) >= 0;) {
        struct backend_conn *conn = malloc(sizeof(*conn));
        int number = atomic_load(&backend->connections);
        SG_ASSERT(conn && number < BACKEND_CONNS);
        conn->backend = backend;
        conn->fd = fd;
        conn->number = number;
        conn->in_len = 0;
        atomic_store(&backend->fds[number], fd);
        atomic_store(&backend->connections, number + 1);
        SG_ASSERT(pthread_create(&backend->threads[number], NULL, backend_conn_main, conn) == 0);
    }
    return NULL;
}

static inline void backend_start(struct backend *backend, void (*serve)(struct backend_conn *conn))
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    memset(backend, 0, sizeof(*backend));
    backend->serve = serve;
    pthread_mutex_init(&backend->last_mtx, NULL);
    sem_init(&backend->go, 0, 0);
    sem_init(&backend->done, 0, 0);
    backend->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SG_ASSERT(bind(backend->listen_fd, (struct sockaddr *)&address, len) == 0);
    SG_ASSERT(listen(backend->listen_fd, 128) == 0);
    SG_ASSERT(getsockname(backend->listen_fd, (struct sockaddr *)&address, &len) == 0);
    backend->port = ntohs(address.sin_port);
    SG_ASSERT(pthread_create(&backend->acceptor, NULL, backend_main, backend) == 0);
}

/* No new connection is accepted any more: connecting is refused. */
static inline void backend_stop_listening(struct backend *backend)
{
    shutdown(backend->listen_fd, SHUT_RDWR);
    pthread_join(backend->acceptor, NULL);
    close(backend->listen_fd);
    backend->listen_fd = -1;
}

static inline void backend_stop(struct backend *backend)
{
    atomic_store(&backend->stopping, true);
    if (backend->listen_fd >= 0)
        backend_stop_listening(backend);
    for (int i = 0; i < atomic_load(&backend->connections); i++) {
        int fd = atomic_load(&backend->fds[i]);
        sem_post(&backend->go);
        if (fd > 0)
            shutdown(fd, SHUT_RDWR);
    }
    for (int i = 0; i < atomic_load(&backend->connections); i++)
        pthread_join(backend->threads[i], NULL);
    pthread_mutex_destroy(&backend->last_mtx);
    sem_destroy(&backend->go);
    sem_destroy(&backend->done);
}
