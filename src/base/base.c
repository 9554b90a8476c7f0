/* SPDX-License-Identifier: Apache-2.0 */
#include "syncgate/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void base_bug(const char *cond, const char *file, int line)
{
    fprintf(stderr,
            "{\"level\":\"fatal\",\"msg\":\"bug: assertion failed\",\"cond\":\"%s\",\"at\":\"%s:%d\"}\n",
            cond, file, line);
    abort();
}

struct span span_trim(struct span s)
{
    while (s.len && (s.ptr[0] == ' ' || s.ptr[0] == '\t')) {
        s.ptr++;
        s.len--;
    }
    while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

char *span_dup(struct span s)
{
    char *copy = malloc(s.len + 1);
    if (!copy)
        return NULL;
    if (s.len)
        memcpy(copy, s.ptr, s.len);
    copy[s.len] = '\0';
    return copy;
}

bool span_eq_nocase(struct span a, struct span b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++) {
        unsigned char x = (unsigned char)a.ptr[i], y = (unsigned char)b.ptr[i];
        if (x == y)
            continue;
        if ((x ^ y) != 0x20 || (x | 0x20) < 'a' || (x | 0x20) > 'z')
            return false;
    }
    return true;
}

void buf_fini(struct buf *buf)
{
    if (!buf)
        return;
    free(buf->ptr);
    *buf = BUF_INIT;
}

bool buf_reserve(struct buf *buf, size_t more)
{
    if (buf->failed)
        return false;
    if (buf->cap - buf->len >= more)
        return true;
    size_t cap = buf->cap ? buf->cap : 128;
    while (cap - buf->len < more) {
        if (cap > SIZE_MAX / 2) {
            buf->failed = true;
            return false;
        }
        cap *= 2;
    }
    char *ptr = realloc(buf->ptr, cap);
    if (!ptr) {
        buf->failed = true;
        return false;
    }
    buf->ptr = ptr;
    buf->cap = cap;
    return true;
}

void buf_append(struct buf *buf, const void *data, size_t len)
{
    if (len == 0 || !buf_reserve(buf, len))
        return;
    memcpy(buf->ptr + buf->len, data, len);
    buf->len += len;
}

void buf_append_u64(struct buf *buf, uint64_t value)
{
    char digits[20];
    size_t n = sizeof(digits);
    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    buf_append(buf, digits + n, sizeof(digits) - n);
}

void buf_append_i64(struct buf *buf, int64_t value)
{
    if (value < 0)
        buf_append_char(buf, '-');
    buf_append_u64(buf, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        buf->failed = true;
    else if (buf_reserve(buf, (size_t)n + 1)) {
        vsnprintf(buf->ptr + buf->len, (size_t)n + 1, fmt, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

/* Length of the UTF-8 sequence at p (1..4), or 0 when it is not well-formed (Unicode table 3-7). */
static size_t utf8_len(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2)
        return 0;
    if (p[0] < 0xe0)
        return left >= 2 && (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if (p[0] < 0xf0) {
        if (left < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80)
            return 0;
        return (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ? 0 : 3;
    }
    if (p[0] > 0xf4 || left < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (p[3] & 0xc0) != 0x80)
        return 0;
    return (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f) ? 0 : 4;
}

void buf_append_json_string(struct buf *buf, struct span s)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)s.ptr, *end = p + s.len, *run = p;
    buf_append_char(buf, '"');
    while (p < end) {
        unsigned char c = *p;
        size_t n = utf8_len(p, (size_t)(end - p));
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            p += n;
            continue;
        }
        buf_append(buf, run, (size_t)(p - run));
        if (n == 0)
            buf_append_lit(buf, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            buf_append(buf, (char[]){'\\', (char)c}, 2);
        else if (c == '\n')
            buf_append_lit(buf, "\\n");
        else if (c == '\r')
            buf_append_lit(buf, "\\r");
        else if (c == '\t')
            buf_append_lit(buf, "\\t");
        else if (c == 0x7f)
            buf_append_char(buf, 0x7f);
        else
            buf_append(buf, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
        run = ++p;
    }
    buf_append(buf, run, (size_t)(p - run));
    buf_append_char(buf, '"');
}

bool base_parse_u64(struct span text, uint64_t *ret_value)
{
    uint64_t value = 0;
    if (text.len == 0)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        unsigned d = (unsigned char)text.ptr[i] - (unsigned)'0';
        if (d > 9 || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, (uint64_t)d, &value))
            return false;
    }
    *ret_value = value;
    return true;
}

int base_read_file(const char *path, size_t max_len, struct buf *buf)
{
    /* The open of a named pipe without a writer would wait for one. Reading one that has a writer does wait. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno;
    int rc = fcntl(fd, F_SETFL, 0) == 0 ? 0 : errno;
    for (size_t total = 0; rc == 0;) {
        if (!buf_reserve(buf, 4096)) {
            rc = ENOMEM;
            break;
        }
        ssize_t n = read(fd, buf->ptr + buf->len, buf->cap - buf->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = n < 0 ? errno : 0;
            break;
        }
        buf->len += (size_t)n;
        total += (size_t)n;
        if (total > max_len) {
            rc = EFBIG;
            break;
        }
    }
    close(fd);
    return rc;
}
