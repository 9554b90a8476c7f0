/* SPDX-License-Identifier: Apache-2.0 */
/* base: the small things every room uses: spans, buffers, clocks, checks. libc only.
 * Owns no global state, starts no thread, takes no lock. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SG_NODISCARD                       __attribute__((warn_unused_result))
#define SG_PRINTF(fmt, args)               __attribute__((format(printf, fmt, args)))
#define SG_NSEC_PER_MSEC                   UINT64_C(1000000)
#define SG_NSEC_PER_SEC                    UINT64_C(1000000000)
#define SG_ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define SG_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Always-on check for our own bugs, never for input, broker or memory. Logs to stderr and aborts. */
#define SG_ASSERT(cond)                          \
    do {                                         \
        if (__builtin_expect(!(cond), 0))        \
            base_bug(#cond, __FILE__, __LINE__); \
    } while (0)
void base_bug(const char *cond, const char *file, int line) __attribute__((noreturn, cold));

/* ---- span: a borrowed run of bytes; not NUL-terminated ---- */
struct span {
    const char *ptr;
    size_t len;
};
#define SPAN_LIT(s) ((struct span){(s), sizeof(s) - 1})
#define SPAN_INIT(s)       \
    {                      \
        (s), sizeof(s) - 1 \
    } /* for static initialisers */
static inline struct span span_of(const char *s)
{
    return (struct span){s, s ? strlen(s) : 0};
}
static inline bool span_eq(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || (a.ptr && b.ptr && memcmp(a.ptr, b.ptr, a.len) == 0));
}
/* Without the blanks and tabs around it (optional whitespace of RFC 9110). */
struct span span_trim(struct span s);
/* A NUL-terminated copy, owned; NULL without memory. */
char *span_dup(struct span s);
/* ASCII case-insensitive equality, for header names. */
bool span_eq_nocase(struct span a, struct span b);

/* ---- buf: a growable byte buffer with a sticky failure flag ----
 * Out of memory sets `failed` and drops further appends; check once at the end with buf_ok(). */
struct buf {
    char *ptr;
    size_t len;
    size_t cap;
    bool failed;
};
#define BUF_INIT ((struct buf){NULL, 0, 0, false})
static inline bool buf_ok(const struct buf *buf)
{
    return !buf->failed;
}
static inline struct span buf_span(const struct buf *buf)
{
    return (struct span){buf->ptr, buf->len};
}
static inline void buf_clear(struct buf *buf)
{
    buf->len = 0;
    buf->failed = false;
}
/* Frees the storage; the buffer may be used again afterwards. NULL-safe. */
void buf_fini(struct buf *buf);
/* Makes room for `more` bytes behind len. Returns false (and sets failed) without memory. */
bool buf_reserve(struct buf *buf, size_t more);
void buf_append(struct buf *buf, const void *data, size_t len);
static inline void buf_append_span(struct buf *buf, struct span s)
{
    buf_append(buf, s.ptr, s.len);
}
static inline void buf_append_char(struct buf *buf, char c)
{
    buf_append(buf, &c, 1);
}
#define buf_append_lit(buf, lit) buf_append((buf), (lit), sizeof(lit) - 1)
void buf_append_u64(struct buf *buf, uint64_t value);
void buf_append_i64(struct buf *buf, int64_t value);
void buf_printf(struct buf *buf, const char *fmt, ...) SG_PRINTF(2, 3);
/* Appends `s` as a quoted JSON string (RFC 8259). Bytes that are not UTF-8 become U+FFFD. */
void buf_append_json_string(struct buf *buf, struct span s);

/* ---- clocks. Thread: any ---- */
/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_mono_ns(void);
/* CLOCK_REALTIME in milliseconds since the epoch. */
int64_t clock_real_ms(void);
/* Writes `unix_ms` as 2025-08-16T10:00:00.000Z (24 bytes and a NUL) into `out`. */
#define CLOCK_ISO_LEN 24
void clock_format_iso(int64_t unix_ms, char out[CLOCK_ISO_LEN + 1]);
/* Parses an ISO-8601 date-time (T, seconds optional, any fraction, Z or +hh:mm offset, years 0000-9999) to unix ms.
 * Fractions beyond a millisecond are cut off, as JavaScript's Date does. Returns false if it is none. */
bool clock_parse_iso(struct span text, int64_t *ret_unix_ms);

/* Decimal digits only, no sign, no blanks. False on overflow or anything else. */
bool base_parse_u64(struct span text, uint64_t *ret_value);
/* Reads a whole file of at most max_len bytes into `buf` (appended). Returns 0 or a positive errno. */
int base_read_file(const char *path, size_t max_len, struct buf *buf);
