/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - A connection has at most one request in flight; bytes behind its answer answer nothing, and count as
 * crossed.
 * - A connection owns one device and is the only one that touches it, so every status but the expected one is
 * wrong. After a wrong one (and at the start, after an earlier run) the device's state is unknown:
 * STEP_SETTLE unbinds it.
 * - `requests`, the histogram and the CPU times cover the same time: from begin_measuring() to
 * end_measuring(). */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_WAIT   256
#define SCRATCH_SIZE      (1 << 20)
#define EXAMPLES_ON_ERROR 5
#define GIVE_UP_ERRORS    1000

enum step { STEP_SETTLE, STEP_BIND, STEP_UNBIND, STEP_PLAIN, STEP_PARK, STEP_DONE };

struct request {
    char *text;
    size_t len;
};

struct conn {
    int fd;
    enum step step;
    bool in_flight, wants_write;
    size_t sent;
    uint64_t due_ns; /* when it was sent, or should have been */
    struct request bind, unbind;
    char device[32];
    size_t device_len;
    char *kept; /* the beginning of an answer */
    size_t kept_len;
};

struct client {
    const struct load_options *options;
    struct load_result *result;
    volatile sig_atomic_t *stop;
    int epoll_fd;
    struct conn *conns;
    struct request plain;
    unsigned in_flight, unsettled;
    bool measuring, draining, failed;
    uint64_t start_ns, now_ns;
    double start_cpu_us;
    struct conn **idle; /* with a rate: connections waiting for their next turn */
    unsigned idle_count;
    uint64_t next_due_ns;
    char *scratch;
};

static void start_request(struct client *client, struct conn *conn);

/* ---- requests ---- */

static bool request_build(struct request *request, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static bool request_build(struct request *request, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vasprintf(&request->text, fmt, args);
    va_end(args);
    request->len = len < 0 ? 0 : (size_t)len;
    return len >= 0;
}

static bool request_build_json(struct request *request, const struct load_options *options, const char *path,
                               const char *body)
{
    return request_build(request,
                         "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                         "Authorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n%s",
                         path, ntohs(options->target.sin_port), options->token ? options->token : "",
                         strlen(body), body);
}

static bool build_device_requests(const struct load_options *options, struct conn *conn, unsigned number)
{
    char body[160];
    conn->device_len =
        (size_t)snprintf(conn->device, sizeof(conn->device), "GH-%u", options->first_device + number);
    snprintf(body, sizeof(body),
             "{\"qrData\":{\"deviceId\":\"%s\",\"bindingToken\":\"q7Zt91LmPa03Xw5c\",\"v\":1}}",
             conn->device);
    if (!request_build_json(&conn->bind, options, "/api/devices/bind-qr", body))
        return false;
    snprintf(body, sizeof(body), "{\"deviceId\":\"%s\",\"reason\":\"moved\"}", conn->device);
    return request_build_json(&conn->unbind, options, "/api/devices/unbind", body);
}

static bool build_plain_request(const struct load_options *options, struct request *request)
{
    char length[64] = "", content[] = "Content-Type: application/json\r\n";
    if (options->body_len || strcmp(options->method, "POST") == 0)
        snprintf(length, sizeof(length), "Content-Length: %zu\r\n", options->body_len);
    return request_build(request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s%s%s%s%s\r\n%.*s",
                         options->method, options->path, ntohs(options->target.sin_port),
                         options->token ? "Authorization: Bearer " : "", options->token ? options->token : "",
                         options->token ? "\r\n" : "", length[0] ? content : "", length,
                         (int)options->body_len, options->body ? options->body : "");
}

static const struct request *current_request(const struct client *client, const struct conn *conn)
{
    switch (conn->step) {
    case STEP_PLAIN:
        return &client->plain;
    case STEP_BIND:
    case STEP_PARK:
        return &conn->bind;
    default:
        return &conn->unbind;
    }
}

/* ---- connections ---- */

/* Blocking, at most 5 s: the kernel accepts for a listener that is busy, and refuses at once for none. */
static int connect_to(const struct sockaddr_in *address)
{
    const struct timeval patience = {.tv_sec = 5};
    const int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void watch_conn(struct client *client, struct conn *conn, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(client->epoll_fd, op, conn->fd, &event) < 0)
        client->failed = true;
}

static bool conn_open(struct client *client, struct conn *conn)
{
    conn->fd = connect_to(&client->options->target);
    if (conn->fd < 0) {
        fprintf(stderr, "sg-load: cannot connect: %s\n", strerror(errno));
        client->failed = true;
        return false;
    }
    watch_conn(client, conn, EPOLL_CTL_ADD, EPOLLIN);
    return true;
}

static void conn_close(struct conn *conn)
{
    if (conn->fd >= 0)
        close(conn->fd);
    conn->fd = -1;
    conn->wants_write = false;
    conn->kept_len = 0;
}

static void send_rest(struct client *client, struct conn *conn)
{
    const struct request *request = current_request(client, conn);
    ssize_t n =
        send(conn->fd, request->text + conn->sent, request->len - conn->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0)
        conn->sent += (size_t)n; /* a failure shows as an event of the socket */
    bool wants_write = conn->sent < request->len && (n >= 0 || errno == EAGAIN);
    if (wants_write != conn->wants_write)
        watch_conn(client, conn, EPOLL_CTL_MOD, wants_write ? EPOLLIN | EPOLLOUT : EPOLLIN);
    conn->wants_write = wants_write;
}

static void start_request(struct client *client, struct conn *conn)
{
    if (conn->fd < 0 && !conn_open(client, conn))
        return;
    conn->in_flight = true;
    conn->sent = 0;
    client->in_flight++;
    send_rest(client, conn);
}

/* What a connection does when its answer has been dealt with. */
static void next_request(struct client *client, struct conn *conn)
{
    if (client->draining || conn->step == STEP_DONE || client->failed)
        return;
    if (client->options->rate > 0 && conn->step != STEP_SETTLE) {
        client->idle[client->idle_count++] = conn;
        return;
    }
    conn->due_ns = client->now_ns;
    start_request(client, conn);
}

/* ---- answers ---- */

enum verdict { VERDICT_RIGHT, VERDICT_UNEXPECTED, VERDICT_CROSSED };

static enum verdict judge(const struct client *client, const struct conn *conn, const struct answer *answer)
{
    const int status = answer->status;
    if (conn->step == STEP_PLAIN || conn->step == STEP_PARK)
        return status == client->options->expect_status ? VERDICT_RIGHT : VERDICT_UNEXPECTED;
    if (conn->step == STEP_SETTLE && status == 400)
        return VERDICT_RIGHT; /* was not bound */
    if (status != 200)
        return VERDICT_UNEXPECTED;
    /* Only a bind answers with a time. */
    if (answer_has_key(answer, "\"boundAt\"") != (conn->step == STEP_BIND))
        return VERDICT_CROSSED;
    return answer_has_string(answer, "\"deviceId\"", conn->device, conn->device_len) ? VERDICT_RIGHT
                                                                                     : VERDICT_CROSSED;
}

static void complain(const struct client *client, const struct conn *conn, const struct answer *answer,
                     const char *what)
{
    const struct load_result *result = client->result;
    static const char *const names[] = {"unbind first", "bind", "unbind", "plain", "park", "done"};
    if (result->unexpected + result->crossed + result->errors > EXAMPLES_ON_ERROR)
        return;
    fprintf(stderr, "sg-load: %s: %s %s: status %d, body %.*s\n", what, names[conn->step], conn->device,
            answer ? answer->status : 0, answer ? (int)(answer->body_len < 300 ? answer->body_len : 300) : 0,
            answer ? answer->body : "");
}

static void set_step(struct client *client, struct conn *conn, enum step step)
{
    client->unsettled += (step == STEP_SETTLE) - (conn->step == STEP_SETTLE);
    conn->step = step;
}

static void take_answer(struct client *client, struct conn *conn, const struct answer *answer)
{
    struct load_result *result = client->result;
    enum verdict verdict = judge(client, conn, answer);
    conn->in_flight = false;
    client->in_flight--;
    if (verdict == VERDICT_RIGHT) {
        result->checked++;
        if (client->measuring && conn->step != STEP_SETTLE) {
            result->requests++;
            histogram_add(&result->latency, client->now_ns - conn->due_ns);
        }
    } else if (verdict == VERDICT_CROSSED) {
        result->crossed++;
        complain(client, conn, answer, "an answer to another request");
    } else {
        result->unexpected++;
        complain(client, conn, answer, "unexpected answer");
    }
    if (conn->step == STEP_PARK)
        set_step(client, conn, STEP_DONE);
    else if (conn->step != STEP_PLAIN)
        set_step(client, conn,
                 verdict != VERDICT_RIGHT  ? STEP_SETTLE
                 : conn->step == STEP_BIND ? STEP_UNBIND
                                           : STEP_BIND);
    if (answer->close)
        conn_close(conn);
    next_request(client, conn);
}

static void conn_broke(struct client *client, struct conn *conn, const char *what)
{
    conn_close(conn);
    if (!conn->in_flight)
        return; /* closed while idle: the next request opens it again */
    client->result->errors++;
    complain(client, conn, NULL, what);
    conn->in_flight = false;
    client->in_flight--;
    if (conn->step != STEP_PLAIN)
        set_step(client, conn, conn->step == STEP_PARK ? STEP_DONE : STEP_SETTLE);
    if (client->result->errors >= GIVE_UP_ERRORS) {
        fputs("sg-load: too many broken connections\n", stderr);
        client->failed = true;
    }
    next_request(client, conn);
}

static void keep(struct client *client, struct conn *conn, size_t len)
{
    char *kept = realloc(conn->kept, len);
    if (!kept) {
        conn_broke(client, conn, "out of memory");
        return;
    }
    memcpy(kept, client->scratch, len);
    conn->kept = kept;
    conn->kept_len = len;
}

static void conn_read(struct client *client, struct conn *conn)
{
    struct answer answer;
    size_t have = conn->kept_len;
    if (have)
        memcpy(client->scratch, conn->kept, have);
    ssize_t n = recv(conn->fd, client->scratch + have, SCRATCH_SIZE - have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_broke(client, conn, n == 0 ? "closed by the server" : strerror(errno));
        return;
    }
    have += (size_t)n;
    ssize_t used = answer_parse(client->scratch, have, &answer);
    if (used == 0 && have < SCRATCH_SIZE) {
        keep(client, conn, have);
        return;
    }
    conn->kept_len = 0;
    if (used <= 0) {
        conn_broke(client, conn, "not an HTTP answer");
        return;
    }
    if (!conn->in_flight || (size_t)used < have) {
        client->result->crossed++;
        complain(client, conn, &answer, "an answer to no request");
        if (!conn->in_flight) {
            conn_close(conn);
            return;
        }
        answer.close = true;
    }
    take_answer(client, conn, &answer);
}

/* ---- the run ---- */

static void begin_measuring(struct client *client)
{
    struct load_result *result = client->result;
    client->measuring = true;
    client->start_ns = client->now_ns;
    client->start_cpu_us = stats_own_cpu_us();
    for (unsigned i = 0; i < result->watched_count; i++)
        result->watched[i].start_us = stats_process_cpu_us(result->watched[i].pid);
}

static void end_measuring(struct client *client)
{
    struct load_result *result = client->result;
    if (!client->measuring)
        return;
    client->measuring = false;
    for (unsigned i = 0; i < result->watched_count; i++) {
        double now_us = stats_process_cpu_us(result->watched[i].pid);
        result->watched[i].used_us = now_us < 0 ? -1 : now_us - result->watched[i].start_us;
    }
    result->own_cpu_us = stats_own_cpu_us() - client->start_cpu_us;
    result->seconds = (double)(client->now_ns - client->start_ns) / NSEC_PER_SEC;
}

/* With a rate, requests are due at fixed times; one that has to wait for a free connection counts that wait,
 * too. */
static void start_due(struct client *client)
{
    const uint64_t interval_ns = (uint64_t)(NSEC_PER_SEC / client->options->rate);
    if (!client->next_due_ns)
        client->next_due_ns = client->now_ns;
    while (client->idle_count && client->next_due_ns <= client->now_ns && !client->draining) {
        struct conn *conn = client->idle[--client->idle_count];
        conn->due_ns = client->next_due_ns;
        client->next_due_ns += interval_ns;
        start_request(client, conn);
    }
}

static void turn(struct client *client, uint64_t until_ns)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    if (client->options->rate > 0 && client->idle_count && client->next_due_ns < until_ns)
        until_ns = client->next_due_ns;
    uint64_t now_ns = stats_now_ns(), wait_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    if (wait_ns > 1000000000u)
        wait_ns = 1000000000u;
    const struct timespec timeout = {.tv_sec = (time_t)(wait_ns / 1000000000u),
                                     .tv_nsec = (long)(wait_ns % 1000000000u)};
    int n = epoll_pwait2(client->epoll_fd, events, EVENTS_PER_WAIT, &timeout, NULL);
    for (int i = 0; i < n; i++) {
        struct conn *conn = events[i].data.ptr;
        client->now_ns = stats_now_ns();
        if (events[i].events & EPOLLOUT)
            send_rest(client, conn);
        if (conn->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
            conn_read(client, conn);
    }
    client->now_ns = stats_now_ns();
    if (client->options->rate > 0)
        start_due(client);
}

static bool running(const struct client *client)
{
    return !*client->stop && !client->failed;
}

static void run_until(struct client *client, uint64_t until_ns)
{
    while (client->now_ns < until_ns && running(client))
        turn(client, until_ns);
}

static void drain(struct client *client, double seconds)
{
    const uint64_t until_ns = client->now_ns + (uint64_t)(seconds * NSEC_PER_SEC);
    client->draining = true;
    while (client->in_flight && client->now_ns < until_ns && !client->failed)
        turn(client, until_ns);
    if (client->in_flight)
        fprintf(stderr, "sg-load: %u requests were never answered\n", client->in_flight);
    client->result->errors += client->in_flight;
}

static void run_load(struct client *client)
{
    const struct load_options *options = client->options;
    client->now_ns = stats_now_ns();
    for (unsigned i = 0; i < options->connections; i++)
        next_request(client, &client->conns[i]);
    run_until(client, client->now_ns + (uint64_t)(options->warmup_seconds * NSEC_PER_SEC));
    const uint64_t settled_ns = client->now_ns + (uint64_t)(options->seconds * NSEC_PER_SEC);
    while (client->unsettled && running(client) && client->now_ns < settled_ns)
        turn(client, settled_ns);
    begin_measuring(client);
    const uint64_t until_ns = client->now_ns + (uint64_t)(options->seconds * NSEC_PER_SEC);
    while (client->now_ns < until_ns && running(client) &&
           (!options->max_requests || client->result->requests < options->max_requests))
        turn(client, until_ns);
    end_measuring(client);
    drain(client, options->drain_seconds);
}

/* ---- parking ---- */

/* The sum of the gauge's samples at the admin address; -1 if it can't be read. */
static double read_gauge(struct client *client)
{
    static const char gauge[] = "\nsyncgate_parked_requests",
                      get[] = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                              "Connection: close\r\n\r\n";
    struct answer answer;
    size_t have = 0;
    ssize_t n = -1, used = 0;
    int fd = connect_to(&client->options->admin);
    if (fd < 0 || send(fd, get, sizeof(get) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(get) - 1)
        goto out;
    while (used == 0 && have < SCRATCH_SIZE - 1 &&
           (n = recv(fd, client->scratch + have, SCRATCH_SIZE - 1 - have, 0)) > 0)
        used = answer_parse(client->scratch, have += (size_t)n, &answer);
out:
    if (fd >= 0)
        close(fd);
    if (used <= 0 || answer.status != 200)
        return -1;
    char *line = client->scratch + (answer.body - client->scratch);
    line[answer.body_len] = '\0';
    double sum = -1;
    while ((line = strstr(line, gauge))) {
        line += sizeof(gauge) - 1;
        if (*line != '{' && *line != ' ')
            continue;
        char *value = *line == '{' ? strchr(line, '}') : line;
        sum = (sum < 0 ? 0 : sum) + (value ? strtod(value + 1, NULL) : 0);
    }
    return sum;
}

static void wait_until_parked(struct client *client)
{
    const uint64_t until_ns = client->now_ns + (uint64_t)(client->options->drain_seconds * NSEC_PER_SEC);
    double parked = 0;
    while (running(client) && client->now_ns < until_ns) {
        run_until(client, client->now_ns + 50000000u);
        parked = read_gauge(client);
        if (parked >= client->options->connections)
            break;
    }
    client->result->parked = parked > 0 ? (uint64_t)parked : 0;
    if (parked < client->options->connections) {
        fprintf(stderr, "sg-load: only %.0f requests are parked\n", parked);
        client->failed = true;
    }
}

static void run_park(struct client *client)
{
    const struct load_options *options = client->options;
    for (unsigned i = 0; i < options->connections && running(client); i++) {
        client->now_ns = stats_now_ns();
        next_request(client, &client->conns[i]);
    }
    wait_until_parked(client);
    if (client->failed)
        return;
    printf("parked %u\n", options->connections);
    fflush(stdout);
    begin_measuring(client);
    run_until(client, client->now_ns + (uint64_t)(options->seconds * NSEC_PER_SEC));
    end_measuring(client);
    if (!options->abandon)
        drain(client, options->drain_seconds);
}

/* ---- life ---- */

static bool open_all(struct client *client)
{
    const struct load_options *options = client->options;
    for (unsigned i = 0; i < options->connections; i++) {
        struct conn *conn = &client->conns[i];
        if (options->mode != LOAD_PLAIN && !build_device_requests(options, conn, i))
            return false;
        conn->step = options->mode == LOAD_PARK    ? STEP_PARK
                     : options->mode == LOAD_PLAIN ? STEP_PLAIN
                                                   : STEP_BIND;
        if (options->mode == LOAD_CYCLES)
            set_step(client, conn, STEP_SETTLE);
        if (*client->stop || !conn_open(client, conn))
            return false;
    }
    return options->mode != LOAD_PLAIN || build_plain_request(options, &client->plain);
}

bool client_run(const struct load_options *options, volatile sig_atomic_t *stop, struct load_result *result)
{
    struct client client = {.options = options, .result = result, .stop = stop};
    client.conns = calloc(options->connections, sizeof(*client.conns));
    client.idle = calloc(options->connections, sizeof(struct conn *));
    client.scratch = malloc(SCRATCH_SIZE);
    client.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool ok = client.conns && client.idle && client.scratch && client.epoll_fd >= 0;
    for (unsigned i = 0; client.conns && i < options->connections; i++)
        client.conns[i].fd = -1;
    if (ok && (ok = open_all(&client))) {
        if (options->mode == LOAD_PARK)
            run_park(&client);
        else
            run_load(&client);
    }
    for (unsigned i = 0; client.conns && i < options->connections; i++) {
        conn_close(&client.conns[i]);
        free(client.conns[i].bind.text);
        free(client.conns[i].unbind.text);
        free(client.conns[i].kept);
    }
    if (client.epoll_fd >= 0)
        close(client.epoll_fd);
    free(client.plain.text);
    free(client.conns);
    free(client.idle);
    free(client.scratch);
    return ok && !client.failed;
}
