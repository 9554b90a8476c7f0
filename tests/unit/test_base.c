/* SPDX-License-Identifier: Apache-2.0 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "syncgate/base.h"
#include "syncgate/err.h"

static void test_iso_round_trip(void **state)
{
    (void)state;
    static const struct {
        int64_t unix_ms;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1756714530455, "2025-09-01T08:15:30.455Z"},
        {951782399999, "2000-02-28T23:59:59.999Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {253402300799999, "9999-12-31T23:59:59.999Z"},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        char out[CLOCK_ISO_LEN + 1];
        int64_t back;
        clock_format_iso(cases[i].unix_ms, out);
        assert_string_equal(out, cases[i].text);
        assert_true(clock_parse_iso(span_of(out), &back));
        assert_int_equal(back, cases[i].unix_ms);
    }
}

static void test_iso_parse(void **state)
{
    (void)state;
    int64_t ms;
    assert_true(clock_parse_iso(SPAN_LIT("2025-08-16T10:00Z"), &ms));
    assert_true(clock_parse_iso(SPAN_LIT("1970-01-01T01:00:00+01:00"), &ms));
    assert_int_equal(ms, 0);
    assert_true(clock_parse_iso(SPAN_LIT("1970-01-01T00:00:00.1239Z"), &ms));
    assert_int_equal(ms, 123);
    static const char *const bad[] = {"",
                                      "2025-08-16",
                                      "2025-08-16 10:00:00Z",
                                      "2025-02-29T00:00:00Z",
                                      "2025-13-01T00:00:00Z",
                                      "2025-08-16T24:00:00Z",
                                      "2025-08-16T10:60:00Z",
                                      "2025-08-16T10:00:60Z",
                                      "2025-08-16T10:00:00.Z",
                                      "2025-08-16T10:00:00",
                                      "2025-08-16T10:00:00ZZ",
                                      "2025-08-00T00:00Z"};
    for (size_t i = 0; i < SG_ARRAY_LEN(bad); i++)
        assert_false(clock_parse_iso(span_of(bad[i]), &ms));
}

static void test_json_string(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT;
    buf_append_json_string(&buf, SPAN_LIT("a\"\\\n\x01\xff\xd1\x8f\xed\xa0\x80"));
    /* 0xff alone, and the three bytes of an encoded surrogate, are not UTF-8. */
    assert_int_equal(
        buf.len, strlen("\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xd1\x8f\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""));
    assert_memory_equal(
        buf.ptr, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xd1\x8f\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"", buf.len);
    buf_fini(&buf);
}

static void test_buf(void **state)
{
    (void)state;
    struct buf buf = BUF_INIT;
    buf_append_u64(&buf, UINT64_MAX);
    buf_append_char(&buf, ' ');
    buf_append_i64(&buf, INT64_MIN);
    buf_printf(&buf, " %s", "x");
    assert_true(span_eq(buf_span(&buf), SPAN_LIT("18446744073709551615 -9223372036854775808 x")));
    assert_true(buf_ok(&buf));
    assert_false(buf_reserve(&buf, SIZE_MAX - 10));
    buf_append_lit(&buf, "dropped");
    assert_false(buf_ok(&buf));
    buf_fini(&buf);
}

static void test_parse_u64(void **state)
{
    (void)state;
    uint64_t value;
    assert_true(base_parse_u64(SPAN_LIT("18446744073709551615"), &value));
    assert_true(value == UINT64_MAX);
    assert_false(base_parse_u64(SPAN_LIT("18446744073709551616"), &value));
    assert_false(base_parse_u64(SPAN_LIT("-1"), &value));
    assert_false(base_parse_u64(SPAN_LIT(""), &value));
}

static void test_err_table(void **state)
{
    (void)state;
    for (int code = 0; code < ERR_COUNT; code++) {
        const struct err_info *info = err_info((enum err_code)code);
        assert_true(info->status >= 200 && info->status < 600);
        /* Retry-After belongs to 503 alone (design section 5). */
        assert_true(!info->retriable || info->status == 503);
    }
    assert_int_equal(err_info(ERR_REPLY_TIMEOUT)->status, 504);
    assert_string_equal(err_info(ERR_REPLY_TIMEOUT)->wire, "REPLY_TIMEOUT");
}

static bool is_asleep(pid_t pid)
{
    char path[64], name[256], process_state = '?';
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    bool read = file && fscanf(file, "%*d %255s %c", name, &process_state) == 2;
    if (file)
        fclose(file);
    return read && process_state == 'S';
}

/* A pipe that nobody writes to must not hold up who reads settings while the gateway serves. */
static void test_read_pipe(void **state)
{
    (void)state;
    char dir[] = "/tmp/syncgate-test-XXXXXX", path[64];
    struct buf text = BUF_INIT;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    assert_int_equal(base_read_file(path, 100, &text), 0);
    alarm(0);
    assert_int_equal(text.len, 0);
    unlink(path);
    rmdir(dir);
    /* --config <(...): what comes late is waited for. */
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[0]);
    pid_t reader = getpid(), child = fork();
    if (child == 0) {
        alarm(20);
        while (!is_asleep(reader))
            sched_yield();
        _exit(write(ends[1], "{}", 2) != 2);
    }
    close(ends[1]);
    assert_int_equal(base_read_file(path, 100, &text), 0);
    assert_true(span_eq(buf_span(&text), SPAN_LIT("{}")));
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ends[0]);
    buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_iso_round_trip), cmocka_unit_test(test_iso_parse),
        cmocka_unit_test(test_json_string),    cmocka_unit_test(test_buf),
        cmocka_unit_test(test_parse_u64),      cmocka_unit_test(test_err_table),
        cmocka_unit_test(test_read_pipe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
