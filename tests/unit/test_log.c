/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#include "syncgate/log.h"

/* Everything written so far to a memory file, as owned lines. */
static char *read_all(int fd, size_t *ret_len)
{
    off_t len = lseek(fd, 0, SEEK_END);
    char *text = malloc((size_t)len + 1);
    assert_non_null(text);
    assert_int_equal(pread(fd, text, (size_t)len, 0), len);
    text[len] = '\0';
    *ret_len = (size_t)len;
    return text;
}

static json_t *parse_line(const char *line, size_t len)
{
    json_error_t error;
    json_t *object = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!object)
        fail_msg("not JSON: %s in %.*s", error.text, (int)len, line);
    assert_true(json_is_object(object));
    int64_t ms;
    const char *ts = json_string_value(json_object_get(object, "ts"));
    assert_non_null(ts);
    assert_true(clock_parse_iso(span_of(ts), &ms));
    assert_true(ms > 1600000000000);
    assert_non_null(json_string_value(json_object_get(object, "msg")));
    return object;
}

typedef void (*on_line_fn)(json_t *object, void *arg);

static size_t each_line(const char *text, size_t len, on_line_fn on_line, void *arg)
{
    size_t lines = 0;
    for (const char *at = text, *end = text + len; at < end; lines++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        assert_non_null(newline);
        json_t *object = parse_line(at, (size_t)(newline - at));
        if (on_line)
            on_line(object, arg);
        json_decref(object);
        at = newline + 1;
    }
    return lines;
}

static int memory_file(void)
{
    int fd = memfd_create("log", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void say(enum log_level level, const char *msg)
{
    struct log_line line;
    log_begin(&line, level, msg);
    log_end(&line);
}

static void test_fields(void **state)
{
    (void)state;
    int fd = memory_file();
    struct log_line line;
    assert_int_equal(log_start(fd, LOG_INFO), ERR_OK);
    assert_int_equal(log_start(fd, LOG_INFO), ERR_INTERNAL);
    assert_true(log_begin(&line, LOG_WARN, "a \"quoted\"\nmessage"));
    log_str(&line, "none", NULL);
    log_str(&line, "text", "x\x1b[31m\r\n\xff\xc3");
    log_str(&line, "terminal",
            "\x7f \xc2\x9b"
            "31m \xc2\xa0 \xe2\x82\x9b");
    log_span(&line, "span", SPAN_LIT("a\0b"));
    log_u64(&line, "u", UINT64_MAX / 2);
    log_i64(&line, "i", INT64_MIN);
    log_bool(&line, "yes", true);
    log_ms(&line, "ms", 1234567999);
    log_ms(&line, "short_ms", 5999);
    log_end(&line);
    log_stop();
    size_t len;
    char *text = read_all(fd, &len);
    for (size_t i = 0; i + 1 < len; i++) {
        assert_true((unsigned char)text[i] >= 0x20 && text[i] != 0x7f);
        /* U+0080 to U+009F: CSI and its kin, which terminals obey. */
        assert_false((unsigned char)text[i] == 0xc2 && (unsigned char)text[i + 1] < 0xa0);
    }
    assert_int_equal(text[len - 1], '\n');
    assert_non_null(strstr(text, "\"ms\":1234.567,\"short_ms\":0.005}"));
    json_t *object = parse_line(text, len - 1);
    assert_string_equal(json_string_value(json_object_get(object, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(object, "msg")), "a \"quoted\"\nmessage");
    assert_true(json_is_null(json_object_get(object, "none")));
    assert_string_equal(json_string_value(json_object_get(object, "text")),
                        "x\x1b[31m\r\n\xef\xbf\xbd\xef\xbf\xbd");
    assert_string_equal(json_string_value(json_object_get(object, "terminal")),
                        "? ??31m \xc2\xa0 \xe2\x82\x9b");
    assert_int_equal(json_string_length(json_object_get(object, "span")), 3);
    assert_true(json_integer_value(json_object_get(object, "i")) == INT64_MIN);
    assert_true(json_is_true(json_object_get(object, "yes")));
    json_decref(object);
    free(text);
    close(fd);
}

/* A value is cut at a character's border, and the result is still UTF-8. */
static void test_long_value(void **state)
{
    (void)state;
    static char value[LOG_VALUE_MAX * 3];
    for (size_t shift = 0; shift < 4; shift++) {
        int fd = memory_file();
        struct log_line line;
        for (size_t i = 0; i < shift; i++)
            value[i] = 'a';
        for (size_t i = shift; i + 4 <= sizeof(value); i += 4)
            memcpy(value + i, "\xf0\x9f\x98\x80", 4);
        assert_int_equal(log_start(fd, LOG_INFO), ERR_OK);
        log_begin(&line, LOG_INFO, "long");
        log_span(&line, "v", (struct span){value, sizeof(value)});
        log_end(&line);
        log_stop();
        size_t len;
        char *text = read_all(fd, &len);
        assert_null(strstr(text, "\xef\xbf\xbd"));
        assert_non_null(strstr(text, "...\"}"));
        assert_true(len < LOG_VALUE_MAX + 200);
        assert_int_equal(each_line(text, len, NULL, NULL), 1);
        free(text);
        close(fd);
    }
}

static void test_levels(void **state)
{
    (void)state;
    static const struct {
        enum log_level lowest;
        size_t lines;
    } cases[] = {{LOG_DEBUG, 6}, {LOG_INFO, 5}, {LOG_WARN, 4}, {LOG_ERROR, 3}, {LOG_FATAL, 2}};
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        int fd = memory_file();
        assert_int_equal(log_start(fd, LOG_INFO), ERR_OK);
        log_set_level(cases[i].lowest);
        assert_int_equal(log_get_level(), cases[i].lowest);
        for (int level = 0; level < LOG_LEVEL_COUNT; level++)
            say((enum log_level)level, "x");
        log_stop();
        say(LOG_FATAL, "after the end");
        size_t len;
        char *text = read_all(fd, &len);
        assert_int_equal(each_line(text, len, NULL, NULL), cases[i].lines);
        free(text);
        close(fd);
    }
    enum log_level level;
    assert_true(log_level_parse(SPAN_LIT("warn"), &level));
    assert_int_equal(level, LOG_WARN);
    assert_false(log_level_parse(SPAN_LIT("WARN"), &level));
    assert_false(log_level_parse(SPAN_LIT(""), &level));
    assert_false(log_level_parse(SPAN_LIT("audit"), &level)); /* nothing filters those */
}

#define TALKERS    4
#define TALK_LINES 1000 /* all of them fit into the buffer: none may be dropped */

static void *talker_main(void *arg)
{
    int talker = (int)(intptr_t)arg;
    log_batch_thread(talker % 2 == 0);
    for (int i = 0; i < TALK_LINES; i++) {
        struct log_line line;
        log_begin(&line, i % 100 == 99 ? LOG_ERROR : LOG_INFO, "talk");
        log_i64(&line, "talker", talker);
        log_i64(&line, "number", i);
        log_end(&line);
        if (i % 8 == 7)
            log_flush_thread();
        if (i % 500 == 0)
            log_set_level(LOG_DEBUG);
    }
    return NULL; /* what is left in the batch goes when the thread ends */
}

static void check_order(json_t *object, void *arg)
{
    json_int_t *next = arg;
    json_t *talker = json_object_get(object, "talker");
    if (!talker)
        fail_msg("a line was dropped");
    json_int_t *number = &next[json_integer_value(talker)];
    assert_int_equal(json_integer_value(json_object_get(object, "number")), *number);
    ++*number;
}

static void test_threads_keep_their_order(void **state)
{
    (void)state;
    int fd = memory_file();
    pthread_t threads[TALKERS];
    uint64_t dropped = log_dropped_total();
    assert_int_equal(log_start(fd, LOG_INFO), ERR_OK);
    for (int i = 0; i < TALKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, talker_main, (void *)(intptr_t)i), 0);
    for (int i = 0; i < TALKERS; i++)
        pthread_join(threads[i], NULL);
    log_stop();
    assert_int_equal(log_dropped_total(), dropped);
    size_t len;
    char *text = read_all(fd, &len);
    json_int_t next[TALKERS] = {0};
    assert_int_equal(each_line(text, len, check_order, next), TALKERS * TALK_LINES);
    free(text);
    close(fd);
}

struct tally {
    uint64_t lines, reported;
    json_int_t last;
};

static void tally_line(json_t *object, void *arg)
{
    struct tally *tally = arg;
    json_t *count = json_object_get(object, "count");
    if (count) {
        assert_string_equal(json_string_value(json_object_get(object, "msg")), "log lines dropped");
        tally->reported += (uint64_t)json_integer_value(count);
        return;
    }
    json_int_t number = json_integer_value(json_object_get(object, "number"));
    assert_true(number > tally->last);
    tally->last = number;
    tally->lines++;
}

static void *drain_main(void *arg)
{
    const int *ends = arg;
    static char chunk[65536];
    ssize_t n;
    while ((n = read(ends[0], chunk, sizeof(chunk))) > 0)
        assert_int_equal(write(ends[1], chunk, (size_t)n), n);
    return NULL;
}

/* Nobody reads the pipe: callers are not held up, losses are counted, and told once there is room again. */
static void full_pipe(int flags)
{
    enum { LINES = 20000 };
    int ends[2], fd = memory_file();
    static char blob[101];
    memset(blob, 'x', 100);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(fcntl(ends[1], F_SETFL, flags), 0);
    uint64_t before = log_dropped_total();
    assert_int_equal(log_start(ends[1], LOG_INFO), ERR_OK);
    for (int i = 1; i <= LINES; i++) {
        struct log_line line;
        log_begin(&line, LOG_INFO, "flood");
        log_i64(&line, "number", i);
        log_str(&line, "blob", blob);
        log_end(&line);
    }
    uint64_t dropped = log_dropped_total() - before;
    assert_true(dropped > 0 && dropped < LINES);
    pthread_t drain;
    int pair[2] = {ends[0], fd};
    assert_int_equal(pthread_create(&drain, NULL, drain_main, pair), 0);
    log_stop();
    close(ends[1]);
    pthread_join(drain, NULL);
    close(ends[0]);
    assert_int_equal(log_dropped_total() - before, dropped);
    size_t len;
    char *text = read_all(fd, &len);
    struct tally tally = {0};
    each_line(text, len, tally_line, &tally);
    assert_int_equal(tally.reported, dropped);
    assert_int_equal(tally.lines + dropped, LINES);
    free(text);
    close(fd);
}

static void test_full_pipe(void **state)
{
    (void)state;
    full_pipe(0);
    full_pipe(O_NONBLOCK);
}

/* Nobody ever reads: stopping is bounded. */
static void test_stop_is_bounded(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    uint64_t before = log_dropped_total();
    assert_int_equal(log_start(ends[1], LOG_INFO), ERR_OK);
    for (int i = 0; i < 3000; i++)
        say(LOG_INFO, "nobody reads this line, which is long enough to fill a pipe in the end");
    uint64_t start_ns = clock_mono_ns();
    log_stop();
    uint64_t took_ns = clock_mono_ns() - start_ns;
    assert_true(took_ns > SG_NSEC_PER_SEC / 2 && took_ns < 2 * SG_NSEC_PER_SEC);
    assert_true(log_dropped_total() > before);
    close(ends[0]);
    close(ends[1]);
}

/* The reader is gone, or the descriptor was never one: the process lives on (SIGPIPE included) and counts. */
static void test_broken_descriptor(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    uint64_t before = log_dropped_total();
    assert_int_equal(log_start(ends[1], LOG_INFO), ERR_OK);
    say(LOG_ERROR, "into the void");
    log_stop();
    assert_int_equal(log_dropped_total(), before + 1);
    close(ends[1]);
    assert_int_equal(log_start(ends[1], LOG_INFO), ERR_OK);
    say(LOG_ERROR, "into no descriptor");
    log_stop();
    assert_int_equal(log_dropped_total(), before + 2);
}

static size_t readable(int fd, int timeout_ms)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    return poll(&pfd, 1, timeout_ms) == 1;
}

/* A batching thread's lines wait for the flush; an error takes them along at once. */
static void test_batches(void **state)
{
    (void)state;
    int ends[2];
    char text[65536];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(log_start(ends[1], LOG_INFO), ERR_OK);
    log_batch_thread(true);
    say(LOG_INFO, "one");
    assert_false(readable(ends[0], 30));
    log_flush_thread();
    assert_true(readable(ends[0], 5000));
    assert_true(read(ends[0], text, sizeof(text)) > 0);
    say(LOG_INFO, "two");
    say(LOG_ERROR, "three");
    assert_true(readable(ends[0], 5000));
    ssize_t n = read(ends[0], text, sizeof(text));
    assert_int_equal(each_line(text, (size_t)n, NULL, NULL), 2);
    for (int i = 0; i < 300; i++) /* more than a batch goes by itself */
        say(LOG_INFO, "a line of the batch that grows until it is too large");
    assert_true(readable(ends[0], 5000));
    log_batch_thread(false);
    log_stop();
    close(ends[0]);
    close(ends[1]);
}

static void test_limit(void **state)
{
    (void)state;
    struct log_limit limit = {0};
    uint64_t suppressed = 99, now = 5 * SG_NSEC_PER_SEC;
    assert_true(log_limit_ok(&limit, now, 2, &suppressed));
    assert_int_equal(suppressed, 0);
    assert_true(log_limit_ok(&limit, now + 1, 2, &suppressed));
    for (int i = 0; i < 7; i++)
        assert_false(log_limit_ok(&limit, now + 2, 2, &suppressed));
    assert_true(log_limit_ok(&limit, now + SG_NSEC_PER_SEC, 2, &suppressed));
    assert_int_equal(suppressed, 7);
    assert_true(log_limit_ok(&limit, now + SG_NSEC_PER_SEC, 2, &suppressed));
    assert_int_equal(suppressed, 0);
}

/* Not a check but a number: what a line with 12 fields costs its thread. Shown with SYNCGATE_LOG_COST=1. */
static void test_cost(void **state)
{
    (void)state;
    enum { LINES = 200000 };
    if (!getenv("SYNCGATE_LOG_COST"))
        skip();
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(log_start(fd, LOG_INFO), ERR_OK);
    log_batch_thread(true);
    uint64_t start_ns = clock_mono_ns();
    for (int i = 0; i < LINES; i++) {
        struct log_line line;
        log_begin(&line, LOG_INFO, "exchange");
        log_str(&line, "correlationId", "5f2f6f4e-8a55-4a4b-9a34-93b2f4c1d111");
        log_str(&line, "route", "bindDeviceQr");
        log_str(&line, "method", "POST");
        log_str(&line, "path", "kafka");
        log_u64(&line, "status", 200);
        log_str(&line, "code", "OK");
        log_ms(&line, "total_ms", 1234567);
        log_ms(&line, "reply_ms", 1034567);
        log_u64(&line, "bytes_in", 312);
        log_u64(&line, "bytes_out", 211);
        log_u64(&line, "loop", 1);
        log_str(&line, "traceId", "4bf92f3577b34da6a3ce929d0e0e4736");
        log_end(&line);
        if (i % 16 == 15)
            log_flush_thread();
    }
    printf("%.0f ns a line\n", (double)(clock_mono_ns() - start_ns) / LINES);
    log_stop();
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_long_value),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_threads_keep_their_order),
        cmocka_unit_test(test_full_pipe),
        cmocka_unit_test(test_stop_is_bounded),
        cmocka_unit_test(test_broken_descriptor),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
