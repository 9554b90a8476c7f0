/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <math.h>
#include <stdio.h>

/* ---- decimal arithmetic ---- */

#define EXPONENT_LIMIT (INT64_C(1) << 40)

/* The significant digits of a JSON number: [first, last] in its text, and the power of ten of the last one.
 */
struct digits {
    const char *first, *last; /* NULL: the number is zero */
    int64_t exponent;
};

static struct digits digits_of(struct span text)
{
    struct digits digits = {NULL, NULL, 0};
    int64_t place = 0, last_place = 0, before_point = 0, exponent = 0;
    bool point = false;
    const char *p = text.ptr, *end = p + text.len;
    for (p += *p == '-'; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        if (*p != '0') {
            digits.first = digits.first ? digits.first : p;
            digits.last = p;
            last_place = place;
        }
        place++;
        before_point += !point;
    }
    if (p < end) {
        bool negative = *++p == '-';
        for (p += *p == '-' || *p == '+'; p < end && exponent < EXPONENT_LIMIT; p++)
            exponent = exponent * 10 + (*p - '0');
        exponent = negative ? -exponent : exponent;
    }
    digits.exponent = before_point - 1 - last_place + exponent;
    return digits;
}

bool decimal_unit_parse(struct span text, struct decimal_unit *ret_unit)
{
    struct digits digits = digits_of(text);
    if (!digits.first || digits.last - digits.first > 18)
        return false;
    uint64_t value = 0;
    for (const char *p = digits.first; p <= digits.last; p++) {
        if (*p == '.')
            continue;
        if (value >= UINT64_C(100000000000000000))
            return false;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    *ret_unit = (struct decimal_unit){value, digits.exponent};
    return true;
}

static uint64_t mul_mod(uint64_t a, uint64_t b, uint64_t mod)
{
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)((wide)a * b % mod);
}

bool decimal_is_multiple(struct span text, struct decimal_unit unit)
{
    struct digits digits = digits_of(text);
    if (!digits.first)
        return true;
    /* The last digit is not 0, so the number is no multiple of a higher power of ten. */
    if (digits.exponent < unit.exponent)
        return false;
    uint64_t rest = 0;
    for (const char *p = digits.first; p <= digits.last; p++) {
        if (*p != '.')
            rest = (mul_mod(rest, 10, unit.digits) + (uint64_t)(*p - '0')) % unit.digits;
    }
    uint64_t power = 10 % unit.digits;
    for (uint64_t n = (uint64_t)(digits.exponent - unit.exponent); n > 0; n >>= 1) {
        if (n & 1)
            rest = mul_mod(rest, power, unit.digits);
        power = mul_mod(power, power, unit.digits);
    }
    return rest == 0;
}

/* ---- JavaScript numbers ---- */

void js_number_format(double value, char out[JS_NUMBER_LEN])
{
    if (!isfinite(value) || value == 0) {
        snprintf(out, JS_NUMBER_LEN, "%s", value == 0 ? "0" : "null");
        return;
    }
    char text[JS_NUMBER_LEN], digits[20] = "";
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof(text), "%.*e", precision, value);
        if (strtod(text, NULL) == value)
            break;
    }
    int count = 0;
    const char *p = text;
    for (; *p != 'e'; p++) {
        if (*p >= '0' && *p <= '9')
            digits[count++] = *p;
    }
    int point = (int)strtol(p + 1, NULL, 10) + 1; /* digits before the point */
    const char *sign = value < 0 ? "-" : "";
    if (count <= point && point <= 21)
        snprintf(out, JS_NUMBER_LEN, "%s%.*s%.*s", sign, count, digits, point - count,
                 "000000000000000000000");
    else if (point > 0 && point <= 21)
        snprintf(out, JS_NUMBER_LEN, "%s%.*s.%.*s", sign, point, digits, count - point, digits + point);
    else if (point > -6 && point <= 0)
        snprintf(out, JS_NUMBER_LEN, "%s0.%.*s%.*s", sign, -point, "000000", count, digits);
    else
        snprintf(out, JS_NUMBER_LEN, "%s%c%s%.*se%+d", sign, digits[0], count > 1 ? "." : "", count - 1,
                 digits + 1, point - 1);
}

/* Length of the JavaScript white space or line terminator at p, or 0. */
static size_t js_blank(const char *p, const char *end)
{
    static const char *const wide[] = {"\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8", "\xe2\x80\xa9",
                                       "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80", "\xef\xbb\xbf"};
    size_t left = (size_t)(end - p);
    if (left == 0)
        return 0;
    if (*p == ' ' || (*p >= '\t' && *p <= '\r'))
        return 1;
    if (left >= 3 && memcmp(p, "\xe2\x80", 2) == 0 && (unsigned char)p[2] <= 0x8a)
        return 3;
    for (size_t i = 0; i < SG_ARRAY_LEN(wide); i++) {
        size_t len = strlen(wide[i]);
        if (left >= len && memcmp(p, wide[i], len) == 0)
            return len;
    }
    return 0;
}

static struct span js_trim(struct span text)
{
    const char *p = text.ptr, *end = p + text.len, *last;
    for (size_t n; (n = js_blank(p, end)) > 0;)
        p += n;
    for (const char *q = last = p; q < end;) {
        size_t n = js_blank(q, end);
        q += n ? n : 1;
        if (n == 0)
            last = q;
    }
    return (struct span){p, (size_t)(last - p)};
}

static double js_radix(struct span digits, unsigned radix)
{
    double value = digits.len ? 0 : NAN;
    for (size_t i = 0; i < digits.len; i++) {
        char c = digits.ptr[i];
        unsigned d = c >= '0' && c <= '9'                     ? (unsigned)(c - '0')
                     : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (unsigned)((c | 0x20) - 'a' + 10)
                                                              : 99;
        if (d >= radix)
            return NAN;
        value = value * radix + d;
    }
    return value;
}

static size_t digit_run(const char *p)
{
    size_t n = 0;
    while (p[n] >= '0' && p[n] <= '9')
        n++;
    return n;
}

double js_number_parse(struct span text)
{
    struct span s = js_trim(text);
    if (s.len == 0)
        return 0;
    if (s.len > 2 && s.ptr[0] == '0') {
        char kind = (char)(s.ptr[1] | 0x20);
        if (kind == 'x' || kind == 'o' || kind == 'b')
            return js_radix((struct span){s.ptr + 2, s.len - 2}, kind == 'x' ? 16 : kind == 'o' ? 8 : 2);
    }
    /* A longer text in a query is no number anybody means. */
    char copy[512];
    if (s.len >= sizeof(copy) || memchr(s.ptr, 0, s.len))
        return NAN;
    memcpy(copy, s.ptr, s.len);
    copy[s.len] = '\0';
    const char *p = copy + (copy[0] == '-' || copy[0] == '+');
    if (strcmp(p, "Infinity") == 0)
        return copy[0] == '-' ? -INFINITY : INFINITY;
    size_t whole = digit_run(p), fraction = 0;
    p += whole;
    if (*p == '.') {
        fraction = digit_run(p + 1);
        p += 1 + fraction;
    }
    if (whole + fraction == 0)
        return NAN;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t n = digit_run(p);
        if (n == 0)
            return NAN;
        p += n;
    }
    return *p == '\0' ? strtod(copy, NULL) : NAN;
}
