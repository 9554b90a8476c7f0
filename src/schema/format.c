/* SPDX-License-Identifier: Apache-2.0 */
/* Formats of strings: the RFCs' rules, and the legacy backend's own (legacy contract 0.1). Texts are UTF-8
 * and may hold NUL bytes, so nothing here treats them as C strings. */
#include "program.h"

#include <arpa/inet.h>

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool is_alpha(char c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

static inline bool is_alnum(char c)
{
    return is_digit(c) || is_alpha(c);
}

static inline bool is_hex(char c)
{
    return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* strchr() that does not find the terminating NUL. */
static inline bool is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

static bool inet_is_valid(int family, struct span text)
{
    char copy[INET6_ADDRSTRLEN + 1];
    struct in6_addr address;
    if (text.len >= sizeof(copy) || memchr(text.ptr, 0, text.len))
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    return inet_pton(family, copy, &address) == 1;
}

bool ipv4_is_valid(struct span text)
{
    return inet_is_valid(AF_INET, text);
}

bool ipv6_is_valid(struct span text)
{
    return inet_is_valid(AF_INET6, text);
}

/* RFC 9562 section 4, any version and variant: the same as the legacy rule. */
static bool uuid_holds(struct span text)
{
    if (text.len != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? text.ptr[i] != '-' : !is_hex(text.ptr[i]))
            return false;
    }
    return true;
}

/* ---- date-time ---- */

/* Two digits at p, at most `max`; -1 if not so. */
static int two_digits(const char *p, int max)
{
    if (!is_digit(p[0]) || !is_digit(p[1]))
        return -1;
    int value = (p[0] - '0') * 10 + (p[1] - '0');
    return value <= max ? value : -1;
}

/* YYYY-MM-DD at p. */
static bool date_holds(const char *p)
{
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int century = two_digits(p, 99), rest = two_digits(p + 2, 99), month = two_digits(p + 5, 12),
        day = two_digits(p + 8, 31);
    if (century < 0 || rest < 0 || p[4] != '-' || month < 1 || p[7] != '-' || day < 1 ||
        day > days[month - 1])
        return false;
    bool leap = rest ? rest % 4 == 0 : century % 4 == 0;
    return leap || month != 2 || day < 29;
}

/* RFC 3339 section 5.6. A leap second is one in UTC, after the offset. */
static bool date_time_holds(struct span text)
{
    const char *p = text.ptr, *end = p + text.len;
    if (text.len < 20 || !date_holds(p) || (p[10] | 0x20) != 't' || p[13] != ':' || p[16] != ':')
        return false;
    int hour = two_digits(p + 11, 23), minute = two_digits(p + 14, 59), second = two_digits(p + 17, 60);
    if (hour < 0 || minute < 0 || second < 0)
        return false;
    p += 19;
    if (*p == '.') {
        const char *fraction = ++p;
        while (p < end && is_digit(*p))
            p++;
        if (p == fraction || p == end)
            return false;
    }
    int offset = 0;
    if ((*p | 0x20) == 'z') {
        p++;
    } else {
        if (end - p != 6 || (*p != '+' && *p != '-') || p[3] != ':')
            return false;
        int hours = two_digits(p + 1, 23), minutes = two_digits(p + 4, 59);
        if (hours < 0 || minutes < 0)
            return false;
        offset = (hours * 60 + minutes) * (*p == '-' ? -1 : 1);
        p += 6;
    }
    return p == end && (second < 60 || (hour * 60 + minute - offset + 2 * 1440) % 1440 == 23 * 60 + 59);
}

/* Capital T and Z, no offset, seconds optional, no leap second. */
static bool js_date_time_holds(struct span text)
{
    const char *p = text.ptr, *end = p + text.len;
    if (text.len < 17 || !date_holds(p) || p[10] != 'T' || two_digits(p + 11, 23) < 0 || p[13] != ':' ||
        two_digits(p + 14, 59) < 0)
        return false;
    p += 16;
    if (*p == ':') {
        if (end - p < 4 || two_digits(p + 1, 59) < 0)
            return false;
        p += 3;
        if (*p == '.') {
            const char *fraction = ++p;
            while (p < end && is_digit(*p))
                p++;
            if (p == fraction)
                return false;
        }
    }
    return end - p == 1 && *p == 'Z';
}

/* ---- email ---- */

/* Local-part of RFC 5321 section 4.1.2. Returns its length, or 0. */
static size_t local_part(struct span text)
{
    const char *p = text.ptr, *end = p + text.len;
    if (p < end && *p == '"') {
        for (p++; p < end && *p != '"'; p++) {
            if (*p == '\\' && ++p == end)
                return 0;
            if (*p < 0x20 || *p > 0x7e)
                return 0;
        }
        return p < end ? (size_t)(p + 1 - text.ptr) : 0;
    }
    bool dot = true; /* a dot may not stand here */
    for (; p < end && *p != '@'; p++) {
        if (*p == '.' ? dot : !is_alnum(*p) && !is_one_of(*p, "!#$%&'*+-/=?^_`{|}~"))
            return 0;
        dot = *p == '.';
    }
    return dot ? 0 : (size_t)(p - text.ptr);
}

/* Labels of letters, digits and inner dashes, joined by dots. */
static bool domain_holds(struct span text)
{
    size_t label = 0;
    if (text.len == 0 || text.len > 255)
        return false;
    for (size_t i = 0; i <= text.len; i++) {
        if (i == text.len || text.ptr[i] == '.') {
            if (label == 0 || label > 63 || text.ptr[i - 1] == '-')
                return false;
            label = 0;
        } else if (is_alnum(text.ptr[i]) || (text.ptr[i] == '-' && label > 0)) {
            label++;
        } else {
            return false;
        }
    }
    return true;
}

/* Mailbox of RFC 5321 section 4.1.2; of the address literals, IPv4 and IPv6. */
static bool email_holds(struct span text)
{
    size_t local = local_part(text);
    if (local == 0 || local > 64 || local >= text.len || text.ptr[local] != '@')
        return false;
    struct span domain = {text.ptr + local + 1, text.len - local - 1};
    if (domain.len < 2 || domain.ptr[0] != '[' || domain.ptr[domain.len - 1] != ']')
        return domain_holds(domain);
    struct span address = {domain.ptr + 1, domain.len - 2};
    if (address.len > 5 && span_eq_nocase((struct span){address.ptr, 5}, SPAN_LIT("IPv6:")))
        return ipv6_is_valid((struct span){address.ptr + 5, address.len - 5});
    return ipv4_is_valid(address);
}

static bool js_email_holds(struct span text)
{
    const char *at = memchr(text.ptr, '@', text.len), *end = text.ptr + text.len;
    if (!at || at == text.ptr || text.ptr[0] == '.' || at[-1] == '.' || at[-1] == '\'')
        return false;
    for (const char *p = text.ptr; p < at; p++) {
        if (!is_alnum(*p) && !is_one_of(*p, "_'+-."))
            return false;
        if (*p == '.' && p[1] == '.')
            return false;
    }
    size_t labels = 0, label = 0, letters = 0; /* `letters`: the label so far consists of them */
    for (const char *p = at + 1; p < end; p++) {
        if (*p == '.') {
            if (label == 0)
                return false;
            labels++;
            label = letters = 0;
        } else if (is_alnum(*p) || (*p == '-' && label > 0)) {
            label++;
            letters += is_alpha(*p);
        } else {
            return false;
        }
    }
    return labels > 0 && label >= 2 && letters == label;
}

/* ---- uri ---- */

/* True if every byte is unreserved, a sub-delim, percent-encoded or one of `more` (RFC 3986 appendix A). */
static bool uri_chars(struct span text, const char *more)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (is_alnum(c) || is_one_of(c, "-._~!$&'()*+,;=") || is_one_of(c, more))
            continue;
        if (c != '%' || text.len - i < 3 || !is_hex(text.ptr[i + 1]) || !is_hex(text.ptr[i + 2]))
            return false;
        i += 2;
    }
    return true;
}

/* The part of *rest before the first of `stops`; *rest becomes what follows, the stop included. */
static struct span take_until(struct span *rest, const char *stops)
{
    size_t n = 0;
    while (n < rest->len && !is_one_of(rest->ptr[n], stops))
        n++;
    struct span part = {rest->ptr, n};
    *rest = (struct span){rest->ptr + n, rest->len - n};
    return part;
}

static bool ip_literal_holds(struct span text)
{
    if (text.len < 4 || (text.ptr[0] | 0x20) != 'v')
        return ipv6_is_valid(text);
    size_t dot = 1;
    while (dot < text.len && is_hex(text.ptr[dot]))
        dot++;
    struct span address = {text.ptr + dot + 1, text.len - dot - 1};
    return dot > 1 && dot + 1 < text.len && text.ptr[dot] == '.' && !memchr(address.ptr, '%', address.len) &&
           uri_chars(address, ":");
}

static bool authority_holds(struct span text)
{
    const char *at = text.len ? memchr(text.ptr, '@', text.len) : NULL;
    if (at) {
        struct span user = {text.ptr, (size_t)(at - text.ptr)};
        if (!uri_chars(user, ":"))
            return false;
        text = (struct span){at + 1, text.len - user.len - 1};
    }
    if (text.len && text.ptr[0] == '[') {
        const char *close = memchr(text.ptr, ']', text.len);
        if (!close || !ip_literal_holds((struct span){text.ptr + 1, (size_t)(close - text.ptr) - 1}))
            return false;
        text = (struct span){close + 1, text.len - (size_t)(close - text.ptr) - 1};
    } else if (!uri_chars(take_until(&text, ":"), "")) {
        return false;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (i == 0 ? text.ptr[i] != ':' : !is_digit(text.ptr[i]))
            return false;
    }
    return true;
}

/* URI of RFC 3986 section 3: with a scheme. */
static bool uri_holds(struct span text)
{
    struct span scheme = take_until(&text, ":/?#");
    if (scheme.len == 0 || !is_alpha(scheme.ptr[0]) || text.len == 0 || text.ptr[0] != ':')
        return false;
    for (size_t i = 0; i < scheme.len; i++) {
        if (!is_alnum(scheme.ptr[i]) && !is_one_of(scheme.ptr[i], "+-."))
            return false;
    }
    text = (struct span){text.ptr + 1, text.len - 1};
    if (text.len >= 2 && memcmp(text.ptr, "//", 2) == 0) {
        text = (struct span){text.ptr + 2, text.len - 2};
        if (!authority_holds(take_until(&text, "/?#")))
            return false;
    }
    if (!uri_chars(take_until(&text, "?#"), ":@/"))
        return false;
    if (text.len && text.ptr[0] == '?') {
        text = (struct span){text.ptr + 1, text.len - 1};
        if (!uri_chars(take_until(&text, "#"), ":@/?"))
            return false;
    }
    return text.len == 0 || uri_chars((struct span){text.ptr + 1, text.len - 1}, ":@/?");
}

bool format_holds(enum schema_format format, struct span text)
{
    switch (format) {
    case FORMAT_UUID:
    case FORMAT_JS_UUID:
        return uuid_holds(text);
    case FORMAT_DATE_TIME:
        return date_time_holds(text);
    case FORMAT_EMAIL:
        return email_holds(text);
    case FORMAT_URI:
        return uri_holds(text);
    case FORMAT_JS_DATE_TIME:
        return js_date_time_holds(text);
    case FORMAT_JS_EMAIL:
        return js_email_holds(text);
    default:
        return url_is_valid(text);
    }
}
