/* SPDX-License-Identifier: Apache-2.0 */
#include "answer.h"

#include <string.h>
#include <strings.h>

#define BODY_NONE    (-1) /* no header says where the body ends */
#define BODY_CHUNKED (-2)

static bool header_is(const char *line, size_t len, const char *name, const char **ret_value)
{
    size_t name_len = strlen(name);
    if (len <= name_len || line[name_len] != ':' || strncasecmp(line, name, name_len) != 0)
        return false;
    *ret_value = line + name_len + 1;
    while (**ret_value == ' ' || **ret_value == '\t')
        (*ret_value)++;
    return true;
}

/* Every line up to `end` ends in CRLF, so the walk never leaves the header section. */
static ssize_t read_headers(const char *line, const char *end, bool *ret_close)
{
    ssize_t body = BODY_NONE;
    while (line < end) {
        const char *eol = memchr(line, '\r', (size_t)(end - line)), *value;
        if (!eol)
            break;
        size_t len = (size_t)(eol - line);
        if (header_is(line, len, "Content-Length", &value)) {
            body = 0;
            for (; *value >= '0' && *value <= '9' && body < 1 << 30; value++)
                body = body * 10 + (*value - '0');
        } else if (header_is(line, len, "Transfer-Encoding", &value)) {
            body = BODY_CHUNKED;
        } else if (header_is(line, len, "Connection", &value)) {
            *ret_close = strncasecmp(value, "close", 5) == 0;
        }
        line = eol + 2;
    }
    return body;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Walks the chunks at `at`; with `out`, moves their contents there. Returns the bytes they take, 0 if some
 * are missing, -1 if they are malformed. Trailers are not expected. */
static ssize_t walk_chunks(const char *at, size_t len, char *out, size_t *ret_body_len)
{
    size_t pos = 0, body_len = 0;
    for (;;) {
        size_t size = 0;
        const char *eol = memmem(at + pos, len - pos, "\r\n", 2);
        if (!eol)
            return len - pos > 32 ? -1 : 0;
        int digit = hex_digit(at[pos]);
        if (digit < 0)
            return -1;
        for (; (digit = hex_digit(at[pos])) >= 0 && size < 1 << 24; pos++)
            size = size * 16 + (size_t)digit;
        pos = (size_t)(eol - at) + 2;
        if (len - pos < size + 2)
            return 0;
        if (memcmp(at + pos + size, "\r\n", 2) != 0)
            return -1;
        if (out)
            memmove(out + body_len, at + pos, size);
        body_len += size;
        pos += size + 2;
        if (size == 0) {
            *ret_body_len = body_len;
            return (ssize_t)pos;
        }
    }
}

ssize_t answer_parse(char *text, size_t len, struct answer *ret_answer)
{
    char *head_end = memmem(text, len, "\r\n\r\n", 4);
    if (!head_end)
        return len > 65536 ? -1 : 0;
    if (head_end - text < 12 || memcmp(text, "HTTP/1.1 ", 9) != 0)
        return -1;
    *ret_answer = (struct answer){.status = (text[9] - '0') * 100 + (text[10] - '0') * 10 + (text[11] - '0')};
    const char *first = memchr(text, '\r', len);
    ssize_t body = read_headers(first + 2, head_end + 2, &ret_answer->close);
    char *start = head_end + 4;
    size_t have = len - (size_t)(start - text);
    ret_answer->body = start;
    if (ret_answer->status == 204 || ret_answer->status == 304)
        return start - text;
    if (body == BODY_CHUNKED) {
        ssize_t size = walk_chunks(start, have, NULL, &ret_answer->body_len);
        if (size <= 0)
            return size;
        walk_chunks(start, have, start, &ret_answer->body_len);
        return (start - text) + size;
    }
    if (body == BODY_NONE)
        return -1;
    if ((size_t)body > have)
        return 0;
    ret_answer->body_len = (size_t)body;
    return (start - text) + body;
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

bool answer_has_string(const struct answer *answer, const char *name, const char *value, size_t value_len)
{
    const char *end = answer->body + answer->body_len, *at = answer->body;
    size_t name_len = strlen(name);
    while ((at = memmem(at, (size_t)(end - at), name, name_len))) {
        at = skip_blanks(at + name_len, end);
        if (at == end || *at != ':')
            continue;
        at = skip_blanks(at + 1, end);
        if ((size_t)(end - at) >= value_len + 2 && at[0] == '"' && at[value_len + 1] == '"' &&
            memcmp(at + 1, value, value_len) == 0)
            return true;
    }
    return false;
}

bool answer_has_key(const struct answer *answer, const char *name)
{
    return memmem(answer->body, answer->body_len, name, strlen(name)) != NULL;
}
