/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/exchange/sse.h"

/* ---- who asks ---- */

static void test_accept(void **state)
{
    (void)state;
    static const struct {
        const char *lines[3]; /* field lines */
        bool asks;
    } cases[] = {
        {{NULL}, false},
        {{""}, false},
        {{"text/event-stream"}, true},
        {{"Text/Event-Stream"}, true},
        {{" text/event-stream\t"}, true},
        {{"text/event-stream;charset=utf-8"}, true},
        {{"text/event-stream ; charset = x ; q=0.001"}, true},
        {{"text/event-stream;q=1.000"}, true},
        {{"text/event-stream;Q=0.5"}, true},
        {{",, text/event-stream ,"}, true},
        /* An asterisk names nothing. */
        {{"*/*"}, false},
        {{"text/*"}, false},
        {{"text/*, */*;q=0.1"}, false},
        {{"*/*, text/event-stream"}, true},
        /* Not acceptable, or not understood. */
        {{"text/event-stream;q=0"}, false},
        {{"text/event-stream;q=0.000"}, false},
        {{"text/event-stream;q=1.001"}, false},
        {{"text/event-stream;q=2"}, false},
        {{"text/event-stream;q=0.0001"}, false},
        {{"text/event-stream;q="}, false},
        {{"text/event-stream;q=-1"}, false},
        {{"text/event-stream;q=.5"}, false},
        {{"text/event-stream;q=0,5"}, false},
        {{"text/event-stream;q=1x"}, false},
        {{"text/event-streams"}, false},
        {{"text/event-strea"}, false},
        {{"x-text/event-stream"}, false},
        {{"text/event-stream/x"}, false},
        {{"text / event-stream"}, false},
        /* Against JSON: the client's preference; with equal weights the one that is named for a purpose. */
        {{"application/json"}, false},
        {{"application/json, text/event-stream"}, true},
        {{"application/json;q=0.9, text/event-stream;q=0.9"}, true},
        {{"application/json, text/event-stream;q=0.9"}, false},
        {{"application/json;q=0.5, text/event-stream;q=0.9"}, true},
        {{"application/*, text/event-stream;q=0.9"}, false},
        {{"*/*, text/event-stream;q=0.9"}, false},
        {{"*/*;q=0.8, text/event-stream;q=0.9"}, true},
        /* The most specific range speaks for JSON. */
        {{"*/*, application/json;q=0.1, text/event-stream;q=0.9"}, true},
        {{"application/json;q=0.1, application/*, text/event-stream;q=0.9"}, true},
        {{"application/json;q=0, text/event-stream;q=0.001"}, true},
        /* Several field lines are one list. */
        {{"application/json;q=0.5", "text/event-stream"}, true},
        {{"text/event-stream;q=0.5", "application/json"}, false},
        {{"text/event-stream;q=0.5", "text/event-stream;q=0.7", "application/json;q=0.6"}, true},
        {{"text/event-stream;q=bad", "text/event-stream"}, true},
        /* What stands in quotes separates nothing. */
        {{"text/plain;a=\",text/event-stream\""}, false},
        {{"text/plain;a=\"\\\",text/event-stream\""}, false},
        {{"text/event-stream;a=\";q=0\""}, true},
        {{"text/plain;a=\"x\", text/event-stream"}, true},
        {{"text/plain;a=\"x, text/event-stream"}, false},
        {{"text/plain;a=\"x\\"}, false},
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct sse_accept accept = {0};
        for (size_t l = 0; l < SG_ARRAY_LEN(cases[i].lines) && cases[i].lines[l]; l++) {
            char *copy = span_dup(span_of(cases[i].lines[l])); /* so that a sanitizer sees its end */
            sse_accept_add(&accept, (struct span){copy, strlen(copy)});
            free(copy);
        }
        if (sse_accept_asks(&accept) != cases[i].asks)
            fail_msg("%zu: %s: not %d", i, cases[i].lines[0] ? cases[i].lines[0] : "(none)", cases[i].asks);
    }
}

/* ---- events ---- */

static void test_events(void **state)
{
    (void)state;
    static const struct {
        uint64_t id;
        const char *data, *text;
    } cases[] = {
        {1, "{\"a\":1}", "event: progress\nid: 1\ndata: {\"a\":1}\n\n"},
        {UINT64_MAX, "null", "event: progress\nid: 18446744073709551615\ndata: null\n\n"},
        {2, "", "event: progress\nid: 2\ndata: \n\n"},
        {2, " x", "event: progress\nid: 2\ndata:  x\n\n"}, /* one blank is the reader's to take off */
        {2, "a\nb", "event: progress\nid: 2\ndata: a\ndata: b\n\n"},
        {2, "a\rb", "event: progress\nid: 2\ndata: a\ndata: b\n\n"},
        {2, "a\r\nb", "event: progress\nid: 2\ndata: a\ndata: b\n\n"},
        {2, "a\n\rb", "event: progress\nid: 2\ndata: a\ndata: \ndata: b\n\n"},
        {2, "a\n\nevent: result\n",
         "event: progress\nid: 2\ndata: a\ndata: \ndata: event: result\ndata: \n\n"},
        {2, "a\r", "event: progress\nid: 2\ndata: a\ndata: \n\n"},
        {2, "\r\n", "event: progress\nid: 2\ndata: \ndata: \n\n"},
        {2, "\xe2\x80\xa8", "event: progress\nid: 2\ndata: \xe2\x80\xa8\n\n"}, /* U+2028 ends no line here */
    };
    for (size_t i = 0; i < SG_ARRAY_LEN(cases); i++) {
        struct buf out = BUF_INIT;
        size_t len = strlen(cases[i].data);
        char *copy = malloc(len ? len : 1); /* without a NUL */
        assert_non_null(copy);
        memcpy(copy, cases[i].data, len);
        sse_append(&out, "progress", cases[i].id, (struct span){copy, len});
        buf_append_char(&out, '\0');
        assert_true(buf_ok(&out));
        assert_string_equal(out.ptr, cases[i].text);
        free(copy);
        buf_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
