/* SPDX-License-Identifier: Apache-2.0 */
/* A second reader of JSON, for the error path only: it finds the same first error as V8's JsonParser, and words it alike.
 * Invariants:
 * - The text is looked at as UTF-16, because positions and the quoted context count code units and may cut a pair.
 * - Nesting is a stack of bytes on the heap: as JSON.parse(), it knows no limit of depth. */
#include "bad_json.h"

#include <stdio.h>

#define CONTEXT ((size_t)10) /* code units quoted before and behind the error */

struct reader {
    uint16_t *text;
    size_t len, pos;
    struct buf *message;
    struct buf open; /* '{' or '[' of each open container */
};

/* ---- UTF-16 ---- */

/* The code point at *p, which moves on; U+FFFD for the longest start of a sequence that is not one (Unicode 3.9). */
static uint32_t next_code_point(const unsigned char **p, const unsigned char *end)
{
    unsigned char lead = *(*p)++;
    if (lead < 0x80)
        return lead;
    unsigned more = lead >= 0xc2 && lead < 0xe0   ? 1
                    : (lead & 0xf0) == 0xe0       ? 2
                    : lead >= 0xf0 && lead < 0xf5 ? 3
                                                  : 0;
    if (!more)
        return 0xfffd;
    unsigned char min = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char max = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    uint32_t cp = lead & (0x3fu >> more);
    for (; more; more--, min = 0x80, max = 0xbf) {
        if (*p == end || **p < min || **p > max)
            return 0xfffd;
        cp = cp << 6 | (*(*p)++ & 0x3f);
    }
    return cp;
}

static bool to_utf16(struct span body, struct reader *reader)
{
    const unsigned char *p = (const unsigned char *)body.ptr, *end = p + body.len;
    reader->text = malloc((body.len + 1) * sizeof(*reader->text));
    if (!reader->text)
        return false;
    if (body.len >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    while (p < end) {
        uint32_t cp = next_code_point(&p, end);
        if (cp >= 0x10000) {
            reader->text[reader->len++] = (uint16_t)(0xd800 + ((cp - 0x10000) >> 10));
            cp = 0xdc00 | (cp & 0x3ff);
        }
        reader->text[reader->len++] = (uint16_t)cp;
    }
    return true;
}

/* As JSON.stringify() writes them: a half of a pair that stands alone is escaped. */
static void append_units(struct buf *out, const uint16_t *units, size_t len)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    for (size_t i = 0; i < len; i++) {
        uint32_t cp = units[i];
        if (cp >= 0xd800 && cp < 0xdc00 && i + 1 < len && units[i + 1] >= 0xdc00 && units[i + 1] < 0xe000)
            cp = 0x10000 + ((cp & 0x3ff) << 10 | (units[++i] & 0x3ff));
        const char *at = cp && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
        if (at) {
            buf_append_char(out, '\\');
            buf_append_char(out, letters[at - plain]);
        } else if (cp < 0x20 || (cp >= 0xd800 && cp < 0xe000)) {
            buf_printf(out, "\\u%04x", (unsigned)cp);
        } else if (cp < 0x80) {
            buf_append_char(out, (char)cp);
        } else {
            if (cp < 0x800)
                buf_append_char(out, (char)(0xc0 | cp >> 6));
            else if (cp < 0x10000)
                buf_append_char(out, (char)(0xe0 | cp >> 12));
            else
                buf_append_char(out, (char)(0xf0 | cp >> 18));
            if (cp >= 0x10000)
                buf_append_char(out, (char)(0x80 | (cp >> 12 & 0x3f)));
            if (cp >= 0x800)
                buf_append_char(out, (char)(0x80 | (cp >> 6 & 0x3f)));
            buf_append_char(out, (char)(0x80 | (cp & 0x3f)));
        }
    }
}

/* ---- messages; each returns false ---- */

static bool fail_at(struct reader *reader, const char *what)
{
    buf_printf(reader->message, "\"%s in JSON at position %zu\"", what, reader->pos);
    return false;
}

static bool fail_end(struct reader *reader)
{
    buf_append_lit(reader->message, "\"Unexpected end of JSON input\"");
    return false;
}

/* Unexpected token 'x', ..."around it"... is not valid JSON */
static bool fail_quoting(struct reader *reader)
{
    struct buf *out = reader->message;
    bool is_long = reader->len > CONTEXT * 2;
    bool head_cut = is_long && reader->pos >= CONTEXT,
         tail_cut = is_long && reader->pos < reader->len - CONTEXT;
    size_t start = head_cut ? reader->pos - CONTEXT : 0, end = tail_cut ? reader->pos + CONTEXT : reader->len;
    buf_append_lit(out, "\"Unexpected token '");
    append_units(out, reader->text + reader->pos, 1);
    buf_append_lit(out, "', ");
    if (head_cut)
        buf_append_lit(out, "...");
    buf_append_lit(out, "\\\"");
    append_units(out, reader->text + start, end - start);
    buf_append_lit(out, "\\\"");
    if (tail_cut)
        buf_append_lit(out, "...");
    buf_append_lit(out, " is not valid JSON\"");
    return false;
}

static bool text_is(const struct reader *reader, const char *ascii)
{
    size_t i = 0;
    while (i < reader->len && ascii[i] && reader->text[i] == (unsigned char)ascii[i])
        i++;
    return i == reader->len && !ascii[i];
}

static bool fail_token(struct reader *reader)
{
    if (reader->pos == reader->len)
        return fail_end(reader);
    uint16_t unit = reader->text[reader->pos];
    if (unit == '"')
        return fail_at(reader, "Unexpected string");
    if (unit == '-' || (unit >= '0' && unit <= '9'))
        return fail_at(reader, "Unexpected number");
    if (text_is(reader, "[object Object]")) { /* String() of an object: V8 knows that mistake */
        buf_append_lit(reader->message, "\"\\\"[object Object]\\\" is not valid JSON\"");
        return false;
    }
    return fail_quoting(reader);
}

/* ---- reading ---- */

/* The code unit at the reader, -1 at the end. */
static int peek(const struct reader *reader)
{
    return reader->pos < reader->len ? reader->text[reader->pos] : -1;
}

static void skip_blanks(struct reader *reader)
{
    for (int c; (c = peek(reader)) == ' ' || c == '\t' || c == '\n' || c == '\r';)
        reader->pos++;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool read_escape(struct reader *reader)
{
    int c = peek(reader);
    if (c < 0)
        return fail_end(reader);
    if (c > 0xff)
        return fail_token(reader);
    if (c > 0x7f || !c || !strchr("\"\\/bfnrtu", c))
        return fail_at(reader, "Bad escaped character");
    reader->pos++;
    for (int i = 0; c == 'u' && i < 4; i++, reader->pos++) {
        int digit = peek(reader);
        if (!is_digit(digit) && !((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f' && digit < 0x80))
            return fail_at(reader, "Bad Unicode escape");
    }
    return true;
}

/* At the opening quote. */
static bool read_string(struct reader *reader)
{
    for (reader->pos++;;) {
        int c = peek(reader);
        if (c < 0)
            return fail_at(reader, "Unterminated string");
        if (c < 0x20)
            return fail_at(reader, "Bad control character in string literal");
        reader->pos++;
        if (c == '"')
            return true;
        if (c == '\\' && !read_escape(reader))
            return false;
    }
}

static bool read_digits(struct reader *reader, const char *none)
{
    if (!is_digit(peek(reader)))
        return fail_at(reader, none);
    while (is_digit(peek(reader)))
        reader->pos++;
    return true;
}

static bool read_number(struct reader *reader)
{
    if (peek(reader) == '-') {
        reader->pos++;
        if (!is_digit(peek(reader)))
            return fail_at(reader, "No number after minus sign");
    }
    bool zero = peek(reader) == '0';
    reader->pos++;
    if (zero && is_digit(peek(reader)))
        return fail_at(reader, "Unexpected number");
    while (is_digit(peek(reader)))
        reader->pos++;
    if (peek(reader) == '.') {
        reader->pos++;
        if (!read_digits(reader, "Unterminated fractional number"))
            return false;
    }
    if (peek(reader) == 'e' || peek(reader) == 'E') {
        reader->pos++;
        if (peek(reader) == '+' || peek(reader) == '-')
            reader->pos++;
        return read_digits(reader, "Exponent part is missing a number");
    }
    return true;
}

static bool read_scalar(struct reader *reader)
{
    int c = peek(reader);
    if (c == '"')
        return read_string(reader);
    if (c == '-' || is_digit(c))
        return read_number(reader);
    const char *word = c == 't' ? "true" : c == 'f' ? "false" : c == 'n' ? "null" : NULL;
    if (!word)
        return fail_token(reader);
    for (; *word; word++, reader->pos++)
        if (peek(reader) != *word)
            return fail_token(reader);
    return true;
}

/* A member's name and colon. V8 words the first member's errors with more care. */
static bool read_name(struct reader *reader, bool first)
{
    if (peek(reader) != '"')
        return fail_at(reader,
                       first ? "Expected property name or '}'" : "Expected double-quoted property name");
    if (!read_string(reader))
        return false;
    skip_blanks(reader);
    if (peek(reader) != ':')
        return first ? fail_at(reader, "Expected ':' after property name") : fail_token(reader);
    reader->pos++;
    return true;
}

/* Behind a value: closes containers, up to the next value. *ret_done: the outermost one has ended. */
static bool read_to_next(struct reader *reader, bool *ret_done)
{
    while (reader->open.len) {
        bool object = reader->open.ptr[reader->open.len - 1] == '{';
        skip_blanks(reader);
        int c = peek(reader);
        if (c == ',') {
            reader->pos++;
            skip_blanks(reader);
            return !object || read_name(reader, false);
        }
        if (c != (object ? '}' : ']'))
            return fail_at(reader, object ? "Expected ',' or '}' after property value"
                                          : "Expected ',' or ']' after array element");
        reader->pos++;
        reader->open.len--;
    }
    *ret_done = true;
    return true;
}

/* At '{' or '['. *ret_empty: it was closed at once. */
static bool read_open(struct reader *reader, bool *ret_empty)
{
    char bracket = (char)reader->text[reader->pos++];
    skip_blanks(reader);
    *ret_empty = peek(reader) == (bracket == '{' ? '}' : ']');
    if (*ret_empty) {
        reader->pos++;
        return true;
    }
    buf_append_char(&reader->open, bracket);
    return bracket != '{' || read_name(reader, true);
}

static bool read_document(struct reader *reader)
{
    skip_blanks(reader);
    if (peek(reader) < 0)
        return fail_end(reader);
    if (peek(reader) != '{' && peek(reader) != '[') /* the body parser is strict: no scalar at the top */
        return fail_quoting(reader);
    for (bool done = false; !done && buf_ok(&reader->open);) {
        skip_blanks(reader);
        bool whole = true;
        if (peek(reader) == '{' || peek(reader) == '[') {
            if (!read_open(reader, &whole))
                return false;
        } else if (!read_scalar(reader)) {
            return false;
        }
        if (whole && !read_to_next(reader, &done))
            return false;
    }
    skip_blanks(reader);
    if (peek(reader) < 0)
        return true;
    buf_printf(reader->message, "\"Unexpected non-whitespace character after JSON at position %zu\"",
               reader->pos);
    return false;
}

enum bad_json bad_json_explain(struct span body, struct buf *message)
{
    struct reader reader = {.message = message};
    enum bad_json result = BAD_JSON_NO_MEMORY;
    if (to_utf16(body, &reader)) {
        bool good = read_document(&reader);
        if (buf_ok(&reader.open) && buf_ok(message))
            result = good ? BAD_JSON_WELL_FORMED : BAD_JSON_MALFORMED;
    }
    free(reader.text);
    buf_fini(&reader.open);
    return result;
}
