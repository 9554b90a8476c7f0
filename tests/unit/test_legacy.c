/* SPDX-License-Identifier: Apache-2.0 */
/* The direct path against a backend of raw sockets, in a real loop. A test waits for events; the watchdog
 * only ends a test that would hang. */
#include <dlfcn.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "raw_backend.h"
#include "syncgate/legacy.h"

#define ANSWER_OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

static struct loop *loop;
static struct legacy *legacy;
static struct backend backend;

/* ---- the owner of calls ---- */

struct owner {
    struct legacy_call *call;
    int heads, ends, status;
    int64_t content_length;
    enum err_code code;
    char headers[2048]; /* "Name: value\n" each */
    char body[4096];
    size_t body_len;
    uint32_t body_sum;
    size_t refuse_at; /* 0: off */
    bool refuse;      /* data, until the test says otherwise */
    int refused, writables;
    bool cancel_in_head, cancel_in_data, cancel_in_end, resume_in_data;
    void (*on_end)(struct owner *owner);
};

static void on_head(void *arg, const struct legacy_response *response)
{
    struct owner *owner = arg;
    assert_int_equal(owner->heads, 0);
    assert_int_equal(owner->ends, 0);
    owner->heads++;
    owner->status = response->status;
    owner->content_length = response->content_length;
    for (size_t i = 0; i < response->header_count; i++) {
        size_t at = strlen(owner->headers);
        snprintf(owner->headers + at, sizeof(owner->headers) - at, "%.*s: %.*s\n",
                 (int)response->headers[i].name.len, response->headers[i].name.ptr,
                 (int)response->headers[i].value.len, response->headers[i].value.ptr);
    }
    if (owner->cancel_in_head)
        legacy_call_cancel(owner->call);
}

static bool on_data(void *arg, const char *data, size_t len)
{
    struct owner *owner = arg;
    assert_int_equal(owner->heads, 1);
    assert_int_equal(owner->ends, 0);
    if (owner->resume_in_data) {
        owner->resume_in_data = false;
        legacy_call_resume(owner->call);
        owner->refused++;
        return false;
    }
    if (owner->refuse || (owner->refuse_at && owner->body_len >= owner->refuse_at)) {
        owner->refused++;
        return false;
    }
    for (size_t i = 0; i < len && owner->body_len + i < sizeof(owner->body) - 1; i++)
        owner->body[owner->body_len + i] = data[i];
    owner->body_len += len;
    owner->body_sum = backend_sum(owner->body_sum, data, len);
    if (owner->cancel_in_data)
        legacy_call_cancel(owner->call);
    return true;
}

static void on_writable(void *arg)
{
    ((struct owner *)arg)->writables++;
}

static void on_end(void *arg, enum err_code code)
{
    struct owner *owner = arg;
    assert_int_equal(owner->ends, 0);
    owner->ends++;
    owner->code = code;
    if (owner->cancel_in_end)
        legacy_call_cancel(owner->call);
    if (owner->on_end)
        owner->on_end(owner);
}

static const struct legacy_handler handler = {on_head, on_data, on_writable, on_end};

/* ---- set-up ---- */

struct limits {
    uint32_t connect_ms, timeout_ms, connections, calls, retries, backoff_ms;
};

static void open_legacy(const char *host, const char *prefix, struct limits limits)
{
    char url[256];
    struct err err;
    snprintf(url, sizeof(url), "http://%s:%d%s", host, backend.port, prefix);
    const struct legacy_settings settings = {
        .url = url,
        .connect_timeout_ms = limits.connect_ms ? limits.connect_ms : 5000,
        .timeout_ms = limits.timeout_ms ? limits.timeout_ms : 20000,
        .max_connections = limits.connections ? limits.connections : 16,
        .max_calls = limits.calls,
        .retries = limits.retries,
        .retry_backoff_ms = limits.backoff_ms ? limits.backoff_ms : 1,
    };
    loop = loop_new(NULL);
    legacy = legacy_new(loop, &settings, &err);
    assert_non_null(legacy);
}

static void begin(void (*serve)(struct backend_conn *conn), const char *prefix, struct limits limits)
{
    backend_start(&backend, serve);
    open_legacy("127.0.0.1", prefix, limits);
}

static void close_legacy(void)
{
    assert_int_equal(legacy_active(legacy), 0);
    legacy_freep(&legacy);
    legacy_freep(&legacy);
    loop_freep(&loop);
}

static void finish(void)
{
    close_legacy();
    backend_stop(&backend);
}

/* Turns the loop until `cond` holds. Threads of the backend do not wake the loop: hence the short waits. */
#define RUN_UNTIL(cond)                                                \
    do {                                                               \
        uint64_t watchdog_ns = clock_mono_ns() + 30 * SG_NSEC_PER_SEC; \
        while (!(cond)) {                                              \
            loop_turn(loop, 5);                                        \
            assert_true(clock_mono_ns() < watchdog_ns);                \
        }                                                              \
    } while (0)

static enum err_code start(struct owner *owner, const char *method, const char *target, const char *body)
{
    const struct legacy_request request = {
        .method = span_of(method),
        .target = span_of(target),
        .body_kind = body ? LEGACY_BODY_FIXED : LEGACY_BODY_NONE,
        .body = span_of(body),
    };
    return legacy_start(legacy, &request, &handler, owner, &owner->call);
}

static void start_stream(struct owner *owner, const char *method, int64_t content_length)
{
    const struct legacy_request request = {
        .method = span_of(method),
        .target = SPAN_LIT("/stream"),
        .body_kind = LEGACY_BODY_STREAM,
        .content_length = content_length,
    };
    assert_int_equal(legacy_start(legacy, &request, &handler, owner, &owner->call), ERR_OK);
}

static struct owner call_and_wait(const char *method, const char *target, const char *body)
{
    struct owner owner = {0};
    assert_int_equal(start(&owner, method, target, body), ERR_OK);
    assert_int_equal(owner.ends + owner.heads, 0); /* nothing from inside legacy_start() */
    RUN_UNTIL(owner.ends);
    return owner;
}

/* ---- requests on the wire ---- */

static void serve_ok(struct backend_conn *conn)
{
    struct backend_request request;
    while (backend_read(conn, &request)) {
        atomic_fetch_add(&conn->backend->executions, 1);
        if (!backend_say(conn, strncmp(request.head, "HEAD ", 5) == 0
                                   ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
                                   : ANSWER_OK))
            return;
    }
}

/* clang-format off */
#define S(text) {text, sizeof(text) - 1}
#define H(name, value) {S(name), S(value)}
/* clang-format on */

static const struct request_case {
    const char *prefix, *method, *target;
    struct legacy_header headers[8], extra[3];
    enum legacy_body kind;
    const char *body;
    int64_t length;
    const char *head; /* expected; %d is the port */
} request_cases[] = {
    {.method = "GET", .target = "/", .head = "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.prefix = "/", .method = "GET", .target = "/x", .head = "GET /x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.prefix = "/pre/fix/",
     .method = "GET",
     .target = "/a/../b//./%2F%7e?q=a%20b&[]|{}\"<>\\^`&x=/../#y",
     .head = "GET /pre/fix/a/../b//./%%2F%%7e?q=a%%20b&[]|{}\"<>\\^`&x=/../#y HTTP/1.1\r\nHost: "
             "127.0.0.1:%d\r\n\r\n"},
    {.method = "GET",
     .target = "/\xc3\xa9?\xff",
     .head = "GET /\xc3\xa9?\xff HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.prefix = "/p",
     .method = "OPTIONS",
     .target = "*",
     .head = "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.method = "HEAD", .target = "/h", .head = "HEAD /h HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.method = "DELETE", .target = "/d", .head = "DELETE /d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.method = "PURGE", .target = "/d", .head = "PURGE /d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.method = "post", .target = "/d", .head = "post /d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"},
    {.method = "POST",
     .target = "/p",
     .head = "POST /p HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"},
    {.method = "PUT",
     .target = "/p",
     .head = "PUT /p HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"},
    {.method = "PATCH",
     .target = "/p",
     .head = "PATCH /p HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"},
    {.method = "DELETE",
     .target = "/p",
     .kind = LEGACY_BODY_FIXED,
     .body = "",
     .head = "DELETE /p HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"},
    {.method = "POST",
     .target = "/p",
     .kind = LEGACY_BODY_FIXED,
     .body = "{\"a\":1}",
     .head = "POST /p HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 7\r\n\r\n"},
    {.method = "GET",
     .target = "/search",
     .kind = LEGACY_BODY_FIXED,
     .body = "query",
     .head = "GET /search HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 5\r\n\r\n"},
    {.method = "HEAD",
     .target = "/odd",
     .kind = LEGACY_BODY_FIXED,
     .body = "body",
     .head = "HEAD /odd HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 4\r\n\r\n"},
    {.method = "POST",
     .target = "/s",
     .kind = LEGACY_BODY_STREAM,
     .body = "streamed",
     .length = 8,
     .head = "POST /s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 8\r\n\r\n"},
    {.method = "PATCH",
     .target = "/s",
     .kind = LEGACY_BODY_STREAM,
     .body = "streamed",
     .length = -1,
     .head = "PATCH /s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {.method = "POST",
     .target = "/s",
     .kind = LEGACY_BODY_STREAM,
     .body = "",
     .length = 0,
     .head = "POST /s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n"},
    {.method = "POST",
     .target = "/s",
     .kind = LEGACY_BODY_STREAM,
     .body = "",
     .length = -1,
     .head = "POST /s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {.method = "GET",
     .target = "/h",
     .headers = {H("X-A", "1"), H("x-a", "  2\t"), H("X-Empty", ""), H("X-A", "1"),
                 H("Accept", "text/html; q=0.5"), H("User-Agent", "u"), H("X-Semi", ";"), H("X-Blank", " ")},
     .extra = {H("X-Forwarded-For", "192.0.2.1"), H("traceparent", "00-aa-bb-01")},
     .head = "GET /h HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-A: 1\r\nx-a: 2\r\nX-Empty:\r\nX-A: 1\r\n"
             "Accept: text/html; q=0.5\r\nUser-Agent: u\r\nX-Semi: ;\r\nX-Blank:\r\n"
             "X-Forwarded-For: 192.0.2.1\r\ntraceparent: 00-aa-bb-01\r\n\r\n"},
    {.method = "GET",
     .target = "/accept-nothing",
     .headers = {H("Accept", ""), H("Cookie", "a=b"), H("Authorization", "Bearer x"), H("Referer", "r")},
     .head = "GET /accept-nothing HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept:\r\nCookie: a=b\r\nAuthorization: "
             "Bearer x\r\n"
             "Referer: r\r\n\r\n"},
    {.method = "POST",
     .target = "/hop",
     .headers = {H("Host", "evil"), H("Connection", "close, X-Private ,,Keep-Alive"), H("x-private", "p"),
                 H("TE", "gzip"), H("Transfer-Encoding", "chunked"), H("Content-Length", "99"),
                 H("Expect", "100-continue"), H("Content-Type", "text/plain")},
     .extra = {H("X-Private", "ours")},
     .kind = LEGACY_BODY_FIXED,
     .body = "ab",
     .head = "POST /hop HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: text/plain\r\nX-Private: ours\r\n"
             "Content-Length: 2\r\n\r\n"},
    {.method = "GET",
     .target = "/hop",
     .headers = {H("keep-alive", "5"), H("upgrade", "h2c"), H("proxy-connection", "x"), H("trailer", "x"),
                 H("Range", "bytes=0-1"), H("If-None-Match", "\"e\""), H("Accept-Encoding", "gzip, br")},
     .head = "GET /hop HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nRange: bytes=0-1\r\nIf-None-Match: \"e\"\r\n"
             "Accept-Encoding: gzip, br\r\n\r\n"},
};

static size_t count_headers(const struct legacy_header *headers, size_t max)
{
    size_t n = 0;
    while (n < max && headers[n].name.ptr)
        n++;
    return n;
}

static void test_requests_on_the_wire(void **state)
{
    (void)state;
    for (size_t i = 0; i < SG_ARRAY_LEN(request_cases); i++) {
        const struct request_case *c = &request_cases[i];
        struct owner owner = {0};
        char expected[1024];
        const struct legacy_request request = {
            .method = span_of(c->method),
            .target = span_of(c->target),
            .headers = c->headers,
            .header_count = count_headers(c->headers, SG_ARRAY_LEN(c->headers)),
            .extra = c->extra,
            .extra_count = count_headers(c->extra, SG_ARRAY_LEN(c->extra)),
            .body_kind = c->kind,
            .body = span_of(c->body),
            .content_length = c->length,
        };
        begin(serve_ok, c->prefix ? c->prefix : "", (struct limits){0});
        assert_int_equal(legacy_start(legacy, &request, &handler, &owner, &owner.call), ERR_OK);
        assert_int_equal(legacy_active(legacy), 1);
        if (c->kind == LEGACY_BODY_STREAM) {
            assert_int_equal(legacy_call_write(owner.call, c->body, strlen(c->body)), strlen(c->body));
            legacy_call_write_end(owner.call);
        }
        RUN_UNTIL(owner.ends);
        assert_int_equal(owner.code, ERR_OK);
        assert_int_equal(owner.content_length, 2);
        assert_string_equal(owner.body, strcmp(c->method, "HEAD") == 0 ? "" : "ok");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(expected, sizeof(expected), c->head, backend.port);
#pragma GCC diagnostic pop
        finish(); /* joins the backend's threads, so `last` may be read */
        assert_string_equal(backend.last.head, expected);
        assert_string_equal(backend.last.body, c->body ? c->body : "");
    }
}

static void test_bad_requests_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct span method, target;
        struct legacy_header header;
    } cases[] = {
        {S(""), S("/"), H("A", "b")},
        {S("GET "), S("/"), H("A", "b")},
        {S("GE\0T"), S("/"), H("A", "b")},
        {S("GET\r\nX: y"), S("/"), H("A", "b")},
        {S("CONNECT"), S("/"), H("A", "b")},
        {S("GET"), S(""), H("A", "b")},
        {S("GET"), S("x"), H("A", "b")},
        {S("GET"), S("*"), H("A", "b")},
        {S("GET"), S("http://other/"), H("A", "b")},
        {S("GET"), S("/a b"), H("A", "b")},
        {S("GET"), S("/a\r\nX: y"), H("A", "b")},
        {S("GET"), S("/a\0b"), H("A", "b")},
        {S("GET"), S("/a\x7f"), H("A", "b")},
        {S("GET"), S("/"), H("A", "b\r\nX: y")},
        {S("GET"), S("/"), H("A", "b\n")},
        {S("GET"), S("/"), H("A", "b\rc")},
        {S("GET"), S("/"), H("A", "b\0c")},
        {S("GET"), S("/"), H("", "b")},
        {S("GET"), S("/"), H("A B", "b")},
        {S("GET"), S("/"), H("A:", "b")},
        {S("GET"), S("/"), H("A\r\nB", "b")},
    };
    begin(serve_ok, "", (struct limits){0});
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++)
        for (int in_extra = 0; in_extra < 2; in_extra++) {
            struct owner owner = {0};
            struct legacy_request request = {.method = cases[i].method, .target = cases[i].target};
            request.headers = in_extra ? NULL : &cases[i].header;
            request.extra = in_extra ? &cases[i].header : NULL;
            request.header_count = !in_extra;
            request.extra_count = (size_t)in_extra;
            assert_int_equal(legacy_start(legacy, &request, &handler, &owner, &owner.call), ERR_BAD_REQUEST);
            assert_int_equal(legacy_active(legacy), 0);
        }
    assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK);
    finish();
    assert_int_equal(backend.executions, 1);
}

static void test_connections_are_reused_and_modes_do_not_leak(void **state)
{
    (void)state;
    static const struct {
        const char *method, *body;
    } calls[] = {{"POST", "12345"}, {"GET", NULL},   {"HEAD", NULL}, {"GET", NULL}, {"PUT", "x"},
                 {"OPTIONS", NULL}, {"GET", "with"}, {"HEAD", NULL}, {"POST", "y"}};
    begin(serve_ok, "", (struct limits){0});
    for (size_t i = 0; i < 3 * SG_ARRAY_LEN(calls); i++) {
        const char *body = calls[i % SG_ARRAY_LEN(calls)].body;
        struct owner owner = call_and_wait(calls[i % SG_ARRAY_LEN(calls)].method, "/", body);
        assert_int_equal(owner.code, ERR_OK);
    }
    assert_int_equal(backend.connections, 1);
    assert_int_equal(call_and_wait("PURGE", "/", NULL).code, ERR_OK); /* its own connection, */
    assert_int_equal(backend.connections, 2);
    assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK); /* which others may use */
    assert_int_equal(backend.connections, 2);
    finish();
    assert_int_equal(backend.last.body_len, 0);
    assert_null(strstr(backend.last.head, "Content-Length"));
}

/* ---- answers ---- */

static void serve_arg_and_close(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read(conn, &request))
        return;
    atomic_fetch_add(&conn->backend->executions, 1);
    backend_send(conn, conn->backend->arg, conn->backend->arg_len);
    shutdown(conn->fd, SHUT_WR);
    backend_drain(conn);
}

static const struct answer_case {
    const char *method, *raw;
    enum err_code code;
    int status;
    int64_t length;
    const char *headers, *body;
} answer_cases[] = {
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ERR_OK, 200, 5, "", "hello"},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ERR_OK, 200, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nX:1\r\n\r\nuntil close", ERR_OK, 200, -1, "X: 1\n", "until close"},
    {"GET", "HTTP/1.0 200 OK\r\n\r\nold", ERR_OK, 200, -1, "", "old"},
    {"GET", "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", ERR_OK, 404, 2, "", "no"},
    {"GET", "HTTP/1.1 599 X\r\nContent-Length: 0\r\n\r\n", ERR_OK, 599, 0, "", ""},
    {"GET", "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", ERR_OK, 204, -1, "A: b\n", ""},
    {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"e\"\r\n\r\n", ERR_OK, 304, 9,
     "ETag: \"e\"\n", ""},
    {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", ERR_OK, 200, 9, "", ""},
    {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ERR_OK, 200, -1, "", ""},
    /* redirects, challenges and encodings are for the client */
    {"GET", "HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 1\r\n\r\nx", ERR_OK, 302, 1,
     "Location: http://[bad\n", "x"},
    {"GET", "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 1\r\n\r\nx", ERR_OK, 401,
     1, "WWW-Authenticate: Basic realm=x\n", "x"},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nraw", ERR_OK, 200, 3,
     "Content-Encoding: gzip\n", "raw"},
    /* order, repetition, blanks, hop-by-hop */
    {"GET",
     "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nB:  x y \t\r\nset-cookie: a=2\r\nEmpty:\r\nConnection: close, "
     "B2\r\nb2: gone\r\n"
     "Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2\r\nContent-Length: 1\r\n\r\n!",
     ERR_OK, 200, 1, "Set-Cookie: a=1\nB: x y\nset-cookie: a=2\nEmpty: \n", "!"},
    /* interim answers and trailers are skipped */
    {"GET",
     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 3\r\n\r\n"
     "HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n!",
     ERR_OK, 201, 1, "", "!"},
    {"GET",
     "HTTP/1.1 200 OK\r\nTrailer: T\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: "
     "gone\r\n\r\n",
     ERR_OK, 200, -1, "", "hello!"},
    {"POST", "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}", ERR_OK, 201, 2, "", "{}"},
    /* broken ones */
    {"GET", "", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", ERR_LEGACY_BROKEN, 200, 5, "", "hell"},
    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ERR_LEGACY_BROKEN, 200, -1,
     "", "hello"},
    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", ERR_LEGACY_BROKEN, 200, -1, "",
     ""},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Len", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "no http at all\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/3.7 200 OK\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 20000 OK\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nbinary", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", ERR_LEGACY_BROKEN, 0, 0,
     "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\na", ERR_LEGACY_BROKEN, 0, 0, "",
     ""},
    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx", ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
     ERR_LEGACY_BROKEN, 0, 0, "", ""},
    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", ERR_OK, 200,
     -1, "", "x"},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     ERR_LEGACY_BROKEN, 0, 0, "", ""},
};

static void test_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < SG_ARRAY_LEN(answer_cases); i++) {
        const struct answer_case *c = &answer_cases[i];
        begin(serve_arg_and_close, "", (struct limits){0});
        backend.arg = c->raw;
        backend.arg_len = strlen(c->raw);
        struct owner owner = call_and_wait(c->method, "/", strcmp(c->method, "POST") == 0 ? "b" : NULL);
        if (owner.code != c->code || owner.status != c->status)
            print_error("case %zu: %s\n", i, c->raw);
        assert_int_equal(owner.code, c->code);
        assert_int_equal(owner.status, c->status);
        assert_int_equal(owner.content_length, c->length);
        assert_string_equal(owner.headers, c->headers);
        assert_string_equal(owner.body, c->body);
        finish();
        assert_int_equal(backend.executions, 1);
    }
}

/* The backend closes after every single byte of an answer: a piece is never taken for the whole. */
static void test_close_at_any_byte(void **state)
{
    (void)state;
    static const char *const answers[] = {
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(answers); i++)
        for (size_t cut = 0, whole = strlen(answers[i]); cut <= whole; cut++) {
            begin(serve_arg_and_close, "", (struct limits){0});
            backend.arg = answers[i];
            backend.arg_len = cut;
            struct owner owner = call_and_wait("POST", "/", "body");
            /* curl does not insist on the very last LF of a chunked body */
            assert_int_equal(owner.code,
                             cut == whole || (i == 1 && cut == whole - 1) ? ERR_OK : ERR_LEGACY_BROKEN);
            assert_memory_equal(owner.body, "hello", owner.body_len);
            finish();
            assert_int_equal(backend.executions, 1);
        }
}

static void test_head_is_bounded(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct buf raw = BUF_INIT;
        buf_append_lit(&raw, "HTTP/1.1 200 OK\r\n");
        for (int i = 0; i < 9000; i++)
            if (kind == 0) /* many lines */
                buf_append_lit(&raw, "A: b\r\n");
            else if (kind == 1) /* one long line */
                buf_append_lit(&raw, "A: bbbbbbbbbbbbbbbbbbb");
            else /* no end of interim answers */
                buf_append_lit(&raw, "\r\n\r\nHTTP/1.1 102 Wait\r\n");
        if (kind == 2)
            memcpy(raw.ptr + 9, "102", 3);
        begin(serve_arg_and_close, "", (struct limits){0});
        backend.arg = raw.ptr;
        backend.arg_len = raw.len;
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_LEGACY_BROKEN);
        finish();
        buf_fini(&raw);
    }
}

/* ---- never twice ---- */

/* Answers the first request; reads the second one on the same connection, counts it and leaves without a
 * word. */
static void serve_then_die(struct backend_conn *conn)
{
    struct backend_request request;
    bool reset = conn->backend->arg != NULL;
    for (int n = 0; backend_read_head(conn, &request); n++) {
        bool victim = strstr(request.head, "/victim") != NULL;
        if (victim)
            atomic_fetch_add(&conn->backend->executions, 1);
        bool at_head = victim && strstr(request.head, "/victim-head"); /* the head alone was enough */
        if (!at_head && !backend_read_body(conn, &request))
            return;
        if (at_head || (victim && (n > 0 || strncmp(request.head, "GET", 3) != 0))) {
            if (reset)
                setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
            return;
        }
        backend_say(conn, ANSWER_OK);
    }
}

static void test_never_executed_twice(void **state)
{
    (void)state;
    static const struct {
        const char *method, *target, *body;
        bool stream;
        enum err_code code;
        int executions;
    } cases[] = {
        /* with two attempts more */
        {"POST", "/victim", "body", false, ERR_LEGACY_BROKEN, 1},
        {"POST", "/victim", "body", true, ERR_LEGACY_BROKEN, 1},
        {"POST", "/victim", NULL, false, ERR_LEGACY_BROKEN, 1},
        {"POST", "/victim", "", false, ERR_LEGACY_BROKEN, 1},
        {"POST", "/victim-head", "body", false, ERR_LEGACY_BROKEN, 1},
        {"POST", "/victim-head", NULL, true, ERR_LEGACY_BROKEN, 1}, /* curl has not begun the body */
        {"PATCH", "/victim", "body", true, ERR_LEGACY_BROKEN, 1},
        {"PATCH", "/victim", "body", false, ERR_LEGACY_BROKEN, 1},
        {"PURGE", "/victim", NULL, false, ERR_LEGACY_BROKEN, 1},
        {"get", "/victim", NULL, false, ERR_LEGACY_BROKEN, 1},  /* not the method GET */
        {"PUT", "/victim", "body", true, ERR_LEGACY_BROKEN, 1}, /* what has been streamed is gone */
        /* those that may be sent again; the backend dies under each */
        {"PUT", "/victim", "body", false, ERR_LEGACY_BROKEN, 3},
        {"PUT", "/victim-head", "body", false, ERR_LEGACY_BROKEN, 3},
        {"PUT", "/victim", NULL, false, ERR_LEGACY_BROKEN, 3},
        {"DELETE", "/victim", NULL, false, ERR_LEGACY_BROKEN, 3},
        {"DELETE", "/victim-head", NULL, false, ERR_LEGACY_BROKEN, 3},
        {"DELETE", "/victim", "body", false, ERR_LEGACY_BROKEN, 3},
        {"OPTIONS", "/victim", NULL, false, ERR_LEGACY_BROKEN, 3},
        {"TRACE", "/victim", NULL, false, ERR_LEGACY_BROKEN, 3},
        {"HEAD", "/victim", NULL, false, ERR_LEGACY_BROKEN, 3},
        {"GET", "/victim", "body", false, ERR_OK, 2}, /* only a reused connection dies under GET */
        {"GET", "/victim", NULL, false, ERR_OK, 2},
    };
    for (size_t i = 0; i < 2 * SG_ARRAY_LEN(cases); i++) {
        size_t at = i / 2;
        struct owner owner = {0};
        begin(serve_then_die, "", (struct limits){.retries = 2});
        backend.arg = i % 2 ? "reset" : NULL;
        assert_int_equal(call_and_wait("GET", "/first", NULL).code, ERR_OK);
        const struct legacy_request request = {
            .method = span_of(cases[at].method),
            .target = span_of(cases[at].target),
            .body_kind = cases[at].stream ? LEGACY_BODY_STREAM
                         : cases[at].body ? LEGACY_BODY_FIXED
                                          : LEGACY_BODY_NONE,
            .body = span_of(cases[at].body),
            .content_length = -1,
        };
        assert_int_equal(legacy_start(legacy, &request, &handler, &owner, &owner.call), ERR_OK);
        if (cases[at].stream && cases[at].body) {
            legacy_call_write(owner.call, cases[at].body, strlen(cases[at].body));
            legacy_call_write_end(owner.call);
        }
        RUN_UNTIL(owner.ends);
        if (owner.code != cases[at].code)
            print_error("case %zu: %s\n", at, cases[at].method);
        assert_int_equal(owner.code, cases[at].code);
        assert_int_equal(legacy_retries(legacy), cases[at].executions - 1);
        finish();
        assert_int_equal(backend.executions, cases[at].executions);
    }
}

/* ---- sending again ---- */

/* The first arg_len connections end, each in its own way, before an answer; `arg` is what is said before. */
static void serve_after_failures(struct backend_conn *conn)
{
    struct backend_request request;
    if ((size_t)conn->number < conn->backend->arg_len) {
        if (!backend_read(conn, &request))
            return;
        atomic_fetch_add(&conn->backend->executions, 1);
        backend_say(conn, conn->backend->arg);
        if (conn->number % 2)
            setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
        return;
    }
    serve_ok(conn);
}

static void test_attempts_are_limited(void **state)
{
    (void)state;
    static const struct {
        const char *method, *body;
        uint32_t retries;
        size_t failures;
        const char *said;
        enum err_code code;
        int executions;
    } cases[] = {
        {"GET", NULL, 0, 1, "", ERR_LEGACY_BROKEN, 1},
        {"GET", NULL, 1, 1, "", ERR_OK, 2},
        {"GET", NULL, 2, 2, "", ERR_OK, 3},
        {"GET", NULL, 2, 3, "", ERR_LEGACY_BROKEN, 3},
        {"GET", NULL, 7, 7, "", ERR_OK, 8},
        {"PUT", "the body", 2, 2, "", ERR_OK, 3},
        {"DELETE", NULL, 2, 1, "", ERR_OK, 2},
        {"POST", "the body", 7, 1, "", ERR_LEGACY_BROKEN, 1},
        {"POST", NULL, 7, 1, "", ERR_LEGACY_BROKEN, 1},
        /* a word of an answer, and it is the answer's failure */
        {"GET", NULL, 7, 1, "HTTP/1.1 200 OK\r\n", ERR_LEGACY_BROKEN, 1},
        {"PUT", "the body", 7, 1, "HTTP/1.1 100 Continue\r\n\r\n", ERR_LEGACY_BROKEN, 1},
        {"GET", NULL, 7, 1, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ERR_LEGACY_BROKEN, 1},
        {"GET", NULL, 7, 1, "SSH-2.0-OpenSSH\r\n", ERR_LEGACY_BROKEN, 1},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        begin(serve_after_failures, "", (struct limits){.retries = cases[i].retries});
        backend.arg = cases[i].said;
        backend.arg_len = cases[i].failures;
        struct owner owner = call_and_wait(cases[i].method, "/", cases[i].body);
        if (owner.code != cases[i].code)
            print_error("case %zu\n", i);
        assert_int_equal(owner.code, cases[i].code);
        assert_int_equal(legacy_retries(legacy), cases[i].executions - 1);
        finish();
        assert_int_equal(backend.executions, cases[i].executions);
        if (cases[i].body) /* the last attempt carried all of it */
            assert_string_equal(backend.last.body, cases[i].body);
    }
}

/* A port that nobody listens on: refused at once, so all the time that passes is the rests'. */
static void open_refusing(struct limits limits)
{
    backend_start(&backend, serve_ok);
    backend_stop_listening(&backend);
    open_legacy("127.0.0.1", "", limits);
}

static void test_refused_connections_are_tried_again(void **state)
{
    (void)state;
    open_refusing((struct limits){.retries = 3});
    assert_int_equal(call_and_wait("PUT", "/", "body").code, ERR_LEGACY_UNREACHABLE);
    assert_int_equal(legacy_retries(legacy), 3);
    assert_int_equal(call_and_wait("POST", "/", "body").code, ERR_LEGACY_UNREACHABLE);
    assert_int_equal(legacy_retries(legacy), 3);
    struct owner owner = {0};
    start_stream(&owner, "PUT", -1);
    RUN_UNTIL(owner.ends);
    assert_int_equal(owner.code, ERR_LEGACY_UNREACHABLE);
    assert_int_equal(legacy_retries(legacy), 3);
    finish();
}

/* The total of n rests is a sum of uniform ones; over many calls it comes near half of the sum of the limits. */
static void test_rests_grow_and_are_jittered(void **state)
{
    (void)state;
    enum { CALLS = 64 };
    static struct owner owners[CALLS];
    memset(owners, 0, sizeof(owners));
    open_refusing((struct limits){.retries = 4, .backoff_ms = 32}); /* 32 + 64 + 128 + 256 ms at most */
    uint64_t started_ns = loop_now_refresh_ns(loop), first_ns = 0, last_ns = 0;
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(start(&owners[i], "GET", "/", NULL), ERR_OK);
    int ended = 0;
    while (ended < CALLS) {
        int before = ended;
        loop_turn(loop, 5);
        ended = 0;
        for (int i = 0; i < CALLS; i++)
            ended += owners[i].ends;
        last_ns = loop_now_ns(loop) - started_ns;
        if (before == 0 && ended > 0)
            first_ns = last_ns;
        assert_true(last_ns < 30 * SG_NSEC_PER_SEC);
    }
    assert_int_equal(legacy_retries(legacy), 4 * CALLS);
    /* All below 100 ms, or the slowest not 50 ms after the fastest: less likely than one in 10^9. */
    assert_true(last_ns > 200 * SG_NSEC_PER_MSEC);
    assert_true(last_ns - first_ns > 50 * SG_NSEC_PER_MSEC);
    finish();
}

/* The first connection ends after the request; later ones stay silent. */
static void serve_once_then_silence(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read(conn, &request))
        return;
    atomic_fetch_add(&conn->backend->executions, 1);
    if (conn->number > 0)
        backend_wait_go(conn);
}

static void test_attempts_share_one_timeout(void **state)
{
    (void)state;
    open_refusing((struct limits){.retries = 10, .backoff_ms = 1000, .timeout_ms = 200});
    uint64_t started_ns = loop_now_refresh_ns(loop);
    for (int i = 0; i < 5; i++)
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_LEGACY_UNREACHABLE);
    assert_true(loop_now_ns(loop) - started_ns < 5 * 400 * SG_NSEC_PER_MSEC);
    finish();

    /* The second attempt meets silence: it has what the first one left. */
    begin(serve_once_then_silence, "", (struct limits){.retries = 10, .timeout_ms = 300});
    started_ns = loop_now_refresh_ns(loop);
    struct owner owner = call_and_wait("PUT", "/", "body");
    assert_int_equal(owner.code, ERR_LEGACY_TIMEOUT);
    assert_int_equal(legacy_retries(legacy), 1);
    assert_true(loop_now_ns(loop) - started_ns >= 300 * SG_NSEC_PER_MSEC);
    finish();
    assert_int_equal(backend.executions, 2); /* and no attempt after a time-out */
}

/* The first connection ends after the request, the second one is held: what waits to be sent again was perhaps executed. */
static void serve_once_then_drip(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read(conn, &request) || conn->number == 0)
        return;
    backend_say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
    backend_wait_go(conn);
}

static void test_a_sent_call_is_never_overload(void **state)
{
    (void)state;
    begin(serve_once_then_drip, "", (struct limits){.connections = 1, .retries = 2, .timeout_ms = 500});
    struct owner sent = {0}, paused = {.refuse = true};
    assert_int_equal(start(&sent, "PUT", "/", "b"), ERR_OK);
    assert_int_equal(start(&paused, "GET", "/", NULL), ERR_OK);
    RUN_UNTIL(sent.ends);
    assert_int_equal(sent.code, ERR_LEGACY_BROKEN);
    assert_int_equal(paused.ends, 0);
    assert_int_equal(legacy_retries(legacy), 1);
    legacy_call_cancel(paused.call);
    finish();
}

static void test_resting_calls(void **state)
{
    (void)state;
    enum { MANY = 20 };
    static struct owner owners[MANY];
    memset(owners, 0, sizeof(owners));
    open_refusing((struct limits){.retries = 10, .backoff_ms = 1000, .connections = 1});
    for (int i = 0; i < MANY; i++)
        assert_int_equal(start(&owners[i], "GET", "/", NULL), ERR_OK);
    RUN_UNTIL(legacy_retries(legacy) >= MANY / 2);
    assert_int_equal(legacy_active(legacy), MANY); /* a resting call keeps nobody waiting, and is active */
    for (int i = 0; i < MANY; i++)
        legacy_call_cancel(owners[i].call);
    finish();
    for (int i = 0; i < MANY; i++)
        assert_int_equal(owners[i].ends, 0);
}

static void serve_on_go(struct backend_conn *conn)
{
    struct backend_request request;
    while (backend_read(conn, &request)) {
        atomic_fetch_add(&conn->backend->executions, 1);
        backend_wait_go(conn);
        backend_say(conn, ANSWER_OK);
    }
}

static void test_calls_are_limited(void **state)
{
    (void)state;
    begin(serve_on_go, "", (struct limits){.connections = 1, .calls = 3});
    struct owner owners[4] = {0};
    for (int round = 0; round < 2; round++) {
        memset(owners, 0, sizeof(owners));
        for (int i = 0; i < 3; i++)
            assert_int_equal(start(&owners[i], "GET", "/", NULL), ERR_OK);
        assert_int_equal(start(&owners[3], "GET", "/", NULL), ERR_OVERLOADED);
        legacy_call_cancel(owners[2].call); /* its place is free at once */
        assert_int_equal(start(&owners[3], "GET", "/", NULL), ERR_OK);
        sem_post(&backend.go);
        sem_post(&backend.go);
        sem_post(&backend.go);
        RUN_UNTIL(owners[0].ends && owners[1].ends && owners[3].ends);
        assert_int_equal(owners[3].code, ERR_OK);
    }
    finish();
}

/* The request went out, the connection died, and the next one is refused: that is not "unreachable". */
static void serve_first_then_wait(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read(conn, &request) || !backend_say(conn, ANSWER_OK) || !backend_read(conn, &request))
        return;
    atomic_fetch_add(&conn->backend->executions, 1);
    sem_post(&conn->backend->done);
    backend_wait_go(conn);
}

static void test_sent_is_never_called_unreachable(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct owner owner = {0};
        begin(serve_first_then_wait, "", (struct limits){.retries = 2});
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK);
        assert_int_equal(start(&owner, i ? "POST" : "GET", "/", i ? "body" : NULL), ERR_OK);
        RUN_UNTIL(sem_trywait(&backend.done) == 0);
        backend_stop_listening(&backend);
        sem_post(&backend.go);
        RUN_UNTIL(owner.ends);
        assert_int_equal(owner.code, ERR_LEGACY_BROKEN);
        assert_int_equal(legacy_retries(legacy), i ? 0 : 2); /* curl's own and one of ours */
        assert_int_equal(call_and_wait("POST", "/", "x").code, ERR_LEGACY_UNREACHABLE);
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_LEGACY_UNREACHABLE);
        finish();
        assert_int_equal(backend.executions, 1);
    }
}

/* An idle connection on which the backend speaks unasked must not answer the next request. */
static void serve_and_babble(struct backend_conn *conn)
{
    struct backend_request request;
    while (backend_read(conn, &request)) {
        backend_say(conn, ANSWER_OK);
        if (conn->number == 0) {
            backend_wait_go(conn);
            backend_say(conn, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate");
            backend_drain(conn); /* the gateway hangs up */
            sem_post(&conn->backend->done);
            return;
        }
    }
}

static void test_unasked_answer_is_not_delivered(void **state)
{
    (void)state;
    begin(serve_and_babble, "", (struct limits){0});
    assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK);
    sem_post(&backend.go);
    RUN_UNTIL(sem_trywait(&backend.done) == 0);
    struct owner owner = call_and_wait("POST", "/", "x");
    assert_int_equal(owner.code, ERR_OK);
    assert_int_equal(owner.status, 200);
    assert_int_equal(backend.connections, 2);
    finish();
}

/* libcurl would join the line to a header of the call before, which it has freed. */
static void serve_folded(struct backend_conn *conn)
{
    struct backend_request request;
    while (backend_read(conn, &request))
        if (!backend_say(conn, strstr(request.head, "/folded")
                                   ? "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n"
                                   : ANSWER_OK))
            return;
}

static void test_folded_first_line_is_broken(void **state)
{
    (void)state;
    begin(serve_folded, "", (struct limits){.connections = 1});
    for (int i = 0; i < 10; i++) {
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK);
        assert_int_equal(call_and_wait("POST", "/folded", "x").code, ERR_LEGACY_BROKEN);
    }
    finish();
}

/* What a backend says behind an answer, more than curl reads with it, while another call waits for the connection: it is
 * used again in the turn in which the answer ends. */
static void serve_and_overrun(struct backend_conn *conn)
{
    struct backend_request request;
    char text[16384 + 64];
    size_t len = conn->backend->arg_len;
    if (!backend_read(conn, &request))
        return;
    if (conn->number > 0) {
        backend_say(conn, ANSWER_OK);
        return;
    }
    memcpy(text, conn->backend->arg, len);
    memset(text + len, '.', 16384 - len);
    len = 16384 + (size_t)sprintf(text + 16384, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    backend_send(conn, text, len);
    backend_drain(conn);
}

static void test_rest_of_an_answer_is_not_delivered(void **state)
{
    (void)state;
    static const struct {
        const char *method, *raw;
    } cases[] = {
        {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"},
        {"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
        {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n"},
        {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct owner first = {0}, second = {0};
        begin(serve_and_overrun, "", (struct limits){.connections = 1});
        backend.arg = cases[i].raw;
        backend.arg_len = strlen(cases[i].raw);
        assert_int_equal(start(&first, cases[i].method, "/", NULL), ERR_OK);
        assert_int_equal(start(&second, "POST", "/", "x"), ERR_OK);
        RUN_UNTIL(first.ends && second.ends);
        assert_int_equal(first.code, ERR_OK);
        assert_int_equal(second.code, ERR_OK);
        assert_string_equal(second.body, "ok");
        assert_int_equal(backend.connections, 2);
        finish();
    }
}

/* ---- time ---- */

static void serve_silence(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read_head(conn, &request))
        return;
    if (strstr(request.head, "/drip"))
        backend_say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
    else if (strstr(request.head, "/interim"))
        backend_say(conn, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nA:");
    if (!strstr(request.head, "/deaf"))
        backend_read_body(conn, &request);
    sem_post(&conn->backend->done);
    backend_wait_go(conn);
}

static void test_timeouts(void **state)
{
    (void)state;
    static const struct {
        const char *method, *target;
        bool body;
        int heads;
    } cases[] = {
        {"GET", "/silent", false, 0}, {"GET", "/drip", false, 1}, {"GET", "/interim", false, 0},
        {"POST", "/silent", true, 0}, {"POST", "/deaf", true, 0}, {"POST", "/drip", true, 1},
    };
    char *big = calloc(1, 8 << 20);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct owner owner = {0};
        const struct legacy_request request = {
            .method = span_of(cases[i].method),
            .target = span_of(cases[i].target),
            .body_kind = cases[i].body ? LEGACY_BODY_FIXED : LEGACY_BODY_NONE,
            .body = {big, 8 << 20},
        };
        begin(serve_silence, "", (struct limits){.timeout_ms = 300});
        uint64_t started_ns = loop_now_ns(loop); /* of the turn: what timers go by */
        assert_int_equal(legacy_start(legacy, &request, &handler, &owner, &owner.call), ERR_OK);
        RUN_UNTIL(owner.ends);
        assert_true(clock_mono_ns() - started_ns >= 300 * SG_NSEC_PER_MSEC);
        assert_int_equal(owner.code, ERR_LEGACY_TIMEOUT);
        assert_int_equal(owner.heads, cases[i].heads);
        assert_string_equal(owner.body, cases[i].heads ? "ab" : "");
        finish();
    }
    free(big);
}

/* Nobody is timed out while the owner itself holds things up. */
static void test_own_pauses_are_no_timeouts(void **state)
{
    (void)state;
    begin(serve_ok, "", (struct limits){.timeout_ms = 700});
    struct owner reader = {.refuse = true}, writer = {0};
    assert_int_equal(start(&reader, "GET", "/", NULL), ERR_OK);
    start_stream(&writer, "POST", -1);
    RUN_UNTIL(reader.refused);
    uint64_t until_ns = clock_mono_ns() + 1500 * SG_NSEC_PER_MSEC;
    RUN_UNTIL(clock_mono_ns() >= until_ns); /* two timeouts long */
    assert_int_equal(reader.refused, 1);
    assert_int_equal(reader.ends + writer.ends, 0);
    reader.refuse = false;
    legacy_call_resume(reader.call);
    legacy_call_write(writer.call, "end", 3);
    legacy_call_write_end(writer.call);
    RUN_UNTIL(reader.ends && writer.ends);
    assert_int_equal(reader.code, ERR_OK);
    assert_string_equal(reader.body, "ok");
    assert_int_equal(writer.code, ERR_OK);
    finish();
}

static void test_connect_timeout_is_unreachable(void **state)
{
    (void)state;
    /* A listener whose queue is full drops further SYNs. */
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), fillers[4];
    assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(listener, 0), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    for (size_t i = 0; i < SG_ARRAY_LEN(fillers); i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fillers[i], (struct sockaddr *)&address, len);
    }
    backend.port = ntohs(address.sin_port);
    open_legacy("127.0.0.1", "", (struct limits){.connect_ms = 150});
    assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_LEGACY_UNREACHABLE);
    close_legacy();
    open_legacy("127.0.0.1", "", (struct limits){.timeout_ms = 150}); /* our own timer is first */
    assert_int_equal(call_and_wait("POST", "/", "x").code, ERR_LEGACY_UNREACHABLE);
    close_legacy();
    for (size_t i = 0; i < SG_ARRAY_LEN(fillers); i++)
        close(fillers[i]);
    close(listener);
}

/* ---- flow ---- */

#define BIG ((size_t)3 << 20)
static char *pattern(void)
{
    char *data = malloc(BIG);
    SG_ASSERT(data);
    for (size_t i = 0; i < BIG; i++)
        data[i] = (char)(i * 2654435761u >> 13);
    return data;
}

static void serve_big(struct backend_conn *conn)
{
    struct backend_request request;
    char line[64];
    while (backend_read(conn, &request)) {
        const char *data = conn->backend->arg;
        if (strstr(request.head, "/sized")) {
            snprintf(line, sizeof(line), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", BIG);
            backend_say(conn, line);
            backend_send(conn, data, BIG);
            continue;
        }
        backend_say(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (size_t at = 0, n; at < BIG; at += n) {
            n = 1 + at * 7 % 9000;
            n = n < BIG - at ? n : BIG - at;
            snprintf(line, sizeof(line), "%zx\r\n", n);
            backend_say(conn, line);
            backend_send(conn, data + at, n);
            if (!backend_say(conn, "\r\n"))
                return;
        }
        backend_say(conn, "0\r\n\r\n");
    }
}

static void test_download_with_back_pressure(void **state)
{
    (void)state;
    char *data = pattern();
    begin(serve_big, "", (struct limits){0});
    backend.arg = data;
    for (int i = 0; i < 4; i++) {
        struct owner owner = {.resume_in_data = i >= 2};
        assert_int_equal(start(&owner, "GET", i % 2 ? "/sized" : "/chunked", NULL), ERR_OK);
        while (!owner.ends) { /* refuse now and then, hold for some turns, go on */
            int refused = owner.refused;
            bool resumed_already =
                owner.resume_in_data; /* from inside on_data: then data comes at any time */
            owner.refuse_at = owner.body_len + 200000;
            RUN_UNTIL(owner.ends || owner.refused > refused);
            size_t before = owner.body_len;
            for (int turns = 0; turns < 3 && !resumed_already && !owner.ends; turns++) {
                loop_turn(loop, 0);
                assert_int_equal(owner.body_len, before);
            }
            owner.refuse_at = 0;
            if (!owner.ends) {
                legacy_call_resume(owner.call);
                legacy_call_resume(owner.call);
            }
        }
        assert_int_equal(owner.code, ERR_OK);
        assert_int_equal(owner.body_len, BIG);
        assert_true(owner.refused > 5);
        assert_int_equal(owner.body_sum, backend_sum(0, data, BIG));
    }
    assert_int_equal(backend.connections, 1);
    finish();
    free(data);
}

static void test_upload_stream(void **state)
{
    (void)state;
    char *data = pattern();
    for (int i = 0; i < 2; i++) {
        struct owner owner = {0};
        size_t at;
        begin(serve_ok, "", (struct limits){0});
        start_stream(&owner, "PUT", i ? (int64_t)BIG : -1);
        assert_int_equal(legacy_call_write(owner.call, data, BIG), 65536); /* the bound of the buffer */
        at = 65536;
        while (at < BIG) {
            int writables = owner.writables;
            RUN_UNTIL(owner.writables > writables);
            size_t n = legacy_call_write(owner.call, data + at, BIG - at);
            assert_true(n > 0 && n <= 65536);
            at += n;
        }
        legacy_call_write_end(owner.call);
        RUN_UNTIL(owner.ends);
        assert_int_equal(owner.code, ERR_OK);
        finish();
        assert_int_equal(backend.last.body_len, BIG);
        assert_int_equal(backend.last.body_sum, backend_sum(0, data, BIG));
    }
    free(data);
}

static void test_upload_of_wrong_length_is_broken(void **state)
{
    (void)state;
    static const struct {
        const char *first, *second;
    } cases[] = {{"1234", NULL}, {"", NULL}, {"12345678901", NULL}, {"123456789", "0x"}, {"1234", "56"}};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct owner owner = {0};
        begin(serve_ok, "", (struct limits){0});
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK);
        start_stream(&owner, "POST", 10);
        legacy_call_write(owner.call, cases[i].first, strlen(cases[i].first));
        if (cases[i].second) {
            loop_turn(loop, 0);
            loop_turn(loop, 0);
            legacy_call_write(owner.call, cases[i].second, strlen(cases[i].second));
        }
        legacy_call_write_end(owner.call);
        RUN_UNTIL(owner.ends);
        assert_int_equal(owner.code, ERR_LEGACY_BROKEN);
        assert_int_equal(call_and_wait("GET", "/", NULL).code, ERR_OK);
        assert_int_equal(backend.connections, 2); /* the half-used connection was closed */
        finish();
        assert_int_equal(backend.executions, 2);
    }
}

/* Answers on the head alone; the connection stays open and nothing of the body is read. */
static void serve_early(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read_head(conn, &request))
        return;
    if (strstr(request.head, "X: sized"))
        backend_say(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
    else if (strstr(request.head, "X: chunked"))
        backend_say(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n0\r\n\r\n");
    else if (strstr(request.head, "X: refusal"))
        backend_say(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nearly");
    else if (strstr(request.head, "X: closing"))
        backend_say(conn, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly");
    else
        backend_say(conn, "HTTP/1.1 204 No Content\r\n\r\n");
    backend_wait_go(conn);
}

static void test_early_answer_ends_the_upload(void **state)
{
    (void)state;
    static const struct legacy_header kinds[] = {H("X", "sized"), H("X", "chunked"), H("X", "refusal"),
                                                 H("X", "closing"), H("X", "empty")};
    char *big = calloc(8, BIG);
    for (size_t i = 0; i < 3 * SG_ARRAY_LEN(kinds); i++) {
        /* a body that does not fit into the socket's buffers, a stream that has run dry, one that never began
         */
        size_t kind = i % SG_ARRAY_LEN(kinds), mode = i / SG_ARRAY_LEN(kinds);
        struct owner owner = {0};
        const struct legacy_request request = {
            .method = SPAN_LIT("POST"),
            .target = SPAN_LIT("/"),
            .headers = &kinds[kind],
            .header_count = 1,
            .body_kind = mode ? LEGACY_BODY_STREAM : LEGACY_BODY_FIXED,
            .body = {big, 8 * BIG},
            .content_length = -1,
        };
        begin(serve_early, "", (struct limits){.timeout_ms = 10000});
        assert_int_equal(legacy_start(legacy, &request, &handler, &owner, &owner.call), ERR_OK);
        if (mode == 1)
            legacy_call_write(owner.call, big, 1000);
        RUN_UNTIL(owner.ends);
        assert_int_equal(owner.code, ERR_OK);
        assert_string_equal(owner.body, kind == 4 ? "" : "early");
        finish();
    }
    free(big);
}

/* Answers on the head alone and closes its side; the upload never goes on. A piece is not taken for the
 * whole. */
static void serve_early_and_shut(struct backend_conn *conn)
{
    struct backend_request request;
    if (!backend_read_head(conn, &request))
        return;
    backend_send(conn, conn->backend->arg, conn->backend->arg_len);
    shutdown(conn->fd, SHUT_WR);
    backend_drain(conn);
}

static void test_early_answer_with_close(void **state)
{
    (void)state;
#define CHUNKED "Transfer-Encoding: chunked\r\n\r\n"
    static const struct {
        const char *raw;
        enum err_code code;
    } cases[] = {
        {"", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly", ERR_OK},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nea", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nea", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nea", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nearly", ERR_OK},
        {"HTTP/1.1 413 No\r\n" CHUNKED "5\r\nearly\r\n0\r\n\r\n", ERR_OK},
        {"HTTP/1.1 413 No\r\n" CHUNKED "5\r\nearly\r\n", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 200 OK\r\nConnection: close\r\n" CHUNKED "5\r\nearly\r\n0\r\n\r\n", ERR_OK},
        {"HTTP/1.1 200 OK\r\nConnection: close\r\n" CHUNKED "5\r\nearly\r\n", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 200 OK\r\n" CHUNKED "5\r\nearly\r\n", ERR_LEGACY_BROKEN},
        {"HTTP/1.1 200 OK\r\n\r\nearly", ERR_OK},
        {"HTTP/1.1 413 No\r\n\r\nearly", ERR_OK},
    };
    for (size_t i = 0; i < 2 * SG_ARRAY_LEN(cases); i++) {
        struct owner owner = {0};
        begin(serve_early_and_shut, "", (struct limits){.timeout_ms = 10000});
        backend.arg = cases[i / 2].raw;
        backend.arg_len = strlen(cases[i / 2].raw);
        start_stream(&owner, "POST", i % 2 ? 5000 : -1);
        legacy_call_write(owner.call, "piece", 5);
        RUN_UNTIL(owner.ends);
        if (owner.code != cases[i / 2].code)
            print_error("case %zu\n", i);
        assert_int_equal(owner.code, cases[i / 2].code);
        finish();
    }
}

/* ---- lives ---- */

static void test_cancel_anywhere(void **state)
{
    (void)state;
    begin(serve_ok, "", (struct limits){.connections = 2});
    for (int i = 0; i < 3; i++) {
        struct owner owner = {.cancel_in_head = i == 0, .cancel_in_data = i == 1, .cancel_in_end = i == 2};
        assert_int_equal(start(&owner, "POST", "/", "b"), ERR_OK);
        RUN_UNTIL(legacy_active(legacy) == 0);
        assert_int_equal(owner.heads, 1);
        assert_int_equal(owner.ends, i == 2);
        assert_int_equal(owner.body_len, i == 0 ? 0 : 2);
    }
    struct owner never = {0}, running = {0}, waiting[4] = {0}, paused = {.refuse = true};
    assert_int_equal(start(&never, "GET", "/", NULL), ERR_OK);
    legacy_call_cancel(never.call); /* before its first turn */
    legacy_call_cancel(never.call);
    start_stream(&running, "POST", -1);
    assert_int_equal(start(&paused, "GET", "/", NULL), ERR_OK);
    RUN_UNTIL(paused.refused);
    for (int i = 0; i < 4; i++)
        assert_int_equal(start(&waiting[i], "GET", "/", NULL), ERR_OK);
    loop_turn(loop, 0);
    assert_int_equal(legacy_active(legacy), 6);
    legacy_call_cancel(waiting[1].call); /* in the queue */
    legacy_call_cancel(paused.call);
    RUN_UNTIL(waiting[0].ends && waiting[2].ends && waiting[3].ends);
    legacy_call_write(running.call, "x", 1);
    legacy_call_write_end(running.call);
    legacy_call_resume(running.call);
    legacy_call_cancel(running.call);
    assert_int_equal(legacy_active(legacy), 0);
    finish(); /* with the cancelled one still in curl */
    assert_int_equal(never.ends + running.ends + waiting[1].ends + paused.ends, 0);
}

static int chain_left;
static struct owner chain_owners[64];

static void start_next(struct owner *owner)
{
    assert_int_equal(owner->code, ERR_OK);
    if (chain_left-- > 0)
        assert_int_equal(start(&chain_owners[chain_left], chain_left % 2 ? "GET" : "POST", "/", NULL),
                         ERR_OK);
    if (chain_left >= 0)
        chain_owners[chain_left].on_end = start_next;
}

static void test_start_inside_callbacks(void **state)
{
    (void)state;
    begin(serve_ok, "", (struct limits){0});
    chain_left = 40;
    memset(chain_owners, 0, sizeof(chain_owners));
    struct owner first = {.on_end = start_next};
    assert_int_equal(start(&first, "GET", "/", NULL), ERR_OK);
    RUN_UNTIL(chain_left < 0);
    finish();
    assert_int_equal(backend.executions, 41);
}

static int finished_order[8], finished_count;
static struct owner queue_owners[8];
static void note_order(struct owner *owner)
{
    finished_order[finished_count++] = (int)(owner - queue_owners);
}

static void test_calls_above_the_limit_wait_in_order(void **state)
{
    (void)state;
    begin(serve_on_go, "", (struct limits){.connections = 1});
    finished_count = 0;
    for (int i = 0; i < 8; i++) { /* every third needs a connection of its own */
        queue_owners[i] = (struct owner){.on_end = note_order};
        assert_int_equal(start(&queue_owners[i], i % 3 ? "GET" : "POST", "/", NULL), ERR_OK);
    }
    for (int i = 0; i < 8; i++) {
        RUN_UNTIL(backend.executions == i + 1);
        assert_int_equal(finished_count, i);
        sem_post(&backend.go);
        RUN_UNTIL(finished_count == i + 1);
        assert_int_equal(finished_order[i], i);
    }
    finish();
    for (int i = 0; i < 8; i++)
        assert_int_equal(queue_owners[i].code, ERR_OK);
}

static void test_waiting_too_long_is_overload(void **state)
{
    (void)state;
    begin(serve_silence, "", (struct limits){.connections = 1, .timeout_ms = 700});
    struct owner paused = {.refuse = true}, late = {0};
    assert_int_equal(start(&paused, "GET", "/drip", NULL), ERR_OK);
    assert_int_equal(start(&late, "POST", "/", "b"), ERR_OK);
    RUN_UNTIL(late.ends);
    assert_int_equal(late.code, ERR_OVERLOADED);
    assert_int_equal(paused.ends, 0);
    legacy_call_cancel(paused.call);
    finish();
}

static void test_many_at_once(void **state)
{
    (void)state;
    enum { MANY = 400 };
    static struct owner owners[MANY];
    begin(serve_ok, "", (struct limits){.connections = 24});
    for (int round = 0; round < 3; round++) {
        memset(owners, 0, sizeof(owners));
        for (int i = 0; i < MANY; i++)
            assert_int_equal(start(&owners[i], i % 3 ? "GET" : "POST", "/", i % 3 ? NULL : "body"), ERR_OK);
        for (int i = 0; i < MANY; i += 7)
            legacy_call_cancel(owners[i].call);
        RUN_UNTIL(legacy_active(legacy) == 0);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(owners[i].ends, i % 7 != 0);
            if (owners[i].ends)
                assert_int_equal(owners[i].code, ERR_OK);
        }
    }
    assert_true(backend.connections <= 24 * 4);
    finish();
}

/* ---- names ---- */

/* Stands before libc's for the whole process: a name of ours is resolved when the test says so. */
static sem_t resolver_go;
static atomic_int resolving;
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!node || strcmp(node, "slow.test") != 0)
        return real(node, service, hints, result);
    atomic_fetch_add(&resolving, 1);
    while (sem_wait(&resolver_go) != 0)
        ;
    atomic_fetch_sub(&resolving, 1);
    return real("127.0.0.1", service, hints, result);
}

static void test_cancel_while_resolving_does_not_wait(void **state)
{
    (void)state;
    sem_init(&resolver_go, 0, 0);
    backend_start(&backend, serve_ok);
    open_legacy("slow.test", "", (struct limits){0});
    struct owner owners[3] = {0};
    for (int i = 0; i < 3; i++)
        assert_int_equal(start(&owners[i], "GET", "/", NULL), ERR_OK);
    RUN_UNTIL(resolving == 3);
    legacy_call_cancel(owners[0].call);
    loop_turn(loop, 0); /* would hang here */
    sem_post(&resolver_go);
    sem_post(&resolver_go);
    sem_post(&resolver_go);
    RUN_UNTIL(owners[1].ends && owners[2].ends);
    assert_int_equal(owners[0].ends, 0);
    assert_int_equal(owners[1].code, ERR_OK);
    assert_int_equal(owners[2].code, ERR_OK);
    close_legacy();

    open_legacy("slow.test", "", (struct limits){0});
    assert_int_equal(start(&owners[0], "GET", "/", NULL), ERR_OK);
    RUN_UNTIL(resolving == 1);
    legacy_call_cancel(owners[0].call);
    close_legacy(); /* nor here */
    open_legacy("slow.test", "", (struct limits){.connect_ms = 100});
    struct owner late = call_and_wait("GET", "/", NULL);
    assert_int_equal(late.code, ERR_LEGACY_UNREACHABLE);
    sem_post(&resolver_go);
    sem_post(&resolver_go);
    RUN_UNTIL(resolving == 0);
    finish();
}

static void test_unknown_name_is_unreachable(void **state)
{
    (void)state;
    backend.port = 80;
    open_legacy("name.invalid", "", (struct limits){0});
    assert_int_equal(call_and_wait("POST", "/", "b").code, ERR_LEGACY_UNREACHABLE);
    close_legacy();
}

static void test_url_check(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        bool good;
    } cases[] = {
        {"http://backend:3000", true},
        {"http://backend", true},
        {"https://b.example/api/", true},
        {"http://[::1]:3000/x", true},
        {"http://127.0.0.1:1", true},
        {NULL, false},
        {"", false},
        {"backend:3000", false},
        {"backend", false},
        {"ftp://backend", false},
        {"file:///etc", false},
        {"http://", false},
        {"http://b:99999", false},
        {"http://b:x", false},
        {"http://u:secret@b", false},
        {"http://u@b", false},
        {"http://b/?q", false},
        {"http://b/#f", false},
        {"http://b/a b", false},
        {"http://b/\r\nX: y", false},
        {"/path", false},
    };
    loop = loop_new(NULL);
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct err err = {.code = ERR_OK};
        assert_int_equal(legacy_url_check(cases[i].url, &err), cases[i].good);
        if (!cases[i].good) {
            assert_int_equal(err.code, ERR_CONFIG);
            assert_non_null(strstr(err.text, "LEGACY_URL"));
            assert_null(strstr(err.text, "secret"));
        }
        const struct legacy_settings settings = {
            .url = cases[i].url, .connect_timeout_ms = 1, .timeout_ms = 1, .max_connections = 1};
        struct legacy *made = legacy_new(loop, &settings, &err);
        assert_int_equal(made != NULL, cases[i].good);
        legacy_freep(&made);
    }
    loop_freep(&loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_on_the_wire),
        cmocka_unit_test(test_bad_requests_are_refused),
        cmocka_unit_test(test_connections_are_reused_and_modes_do_not_leak),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_close_at_any_byte),
        cmocka_unit_test(test_head_is_bounded),
        cmocka_unit_test(test_never_executed_twice),
        cmocka_unit_test(test_attempts_are_limited),
        cmocka_unit_test(test_refused_connections_are_tried_again),
        cmocka_unit_test(test_rests_grow_and_are_jittered),
        cmocka_unit_test(test_attempts_share_one_timeout),
        cmocka_unit_test(test_a_sent_call_is_never_overload),
        cmocka_unit_test(test_resting_calls),
        cmocka_unit_test(test_calls_are_limited),
        cmocka_unit_test(test_sent_is_never_called_unreachable),
        cmocka_unit_test(test_unasked_answer_is_not_delivered),
        cmocka_unit_test(test_folded_first_line_is_broken),
        cmocka_unit_test(test_rest_of_an_answer_is_not_delivered),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_own_pauses_are_no_timeouts),
        cmocka_unit_test(test_connect_timeout_is_unreachable),
        cmocka_unit_test(test_download_with_back_pressure),
        cmocka_unit_test(test_upload_stream),
        cmocka_unit_test(test_upload_of_wrong_length_is_broken),
        cmocka_unit_test(test_early_answer_ends_the_upload),
        cmocka_unit_test(test_early_answer_with_close),
        cmocka_unit_test(test_cancel_anywhere),
        cmocka_unit_test(test_start_inside_callbacks),
        cmocka_unit_test(test_calls_above_the_limit_wait_in_order),
        cmocka_unit_test(test_waiting_too_long_is_overload),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_cancel_while_resolving_does_not_wait),
        cmocka_unit_test(test_unknown_name_is_unreachable),
        cmocka_unit_test(test_url_check),
    };
    if (legacy_global_init() != ERR_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
