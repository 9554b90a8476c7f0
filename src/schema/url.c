/* SPDX-License-Identifier: Apache-2.0 */
/* What the WHATWG URL parser accepts without a base, as far as failure goes; nothing is built. International
 * domain names are accepted without the mapping and the checks of UTS 46: a host that is not ASCII only has
 * to be free of forbidden ASCII characters. */
#include "program.h"

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool is_alpha(char c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

static inline bool is_blank(char c)
{
    return c == '\t' || c == '\n' || c == '\r';
}

/* The input with tabs and newlines skipped, as the parser does. */
struct cursor {
    const char *pos, *end;
};

/* The next character, or -1 at the end. */
static int peek(struct cursor *in)
{
    while (in->pos < in->end && is_blank(*in->pos))
        in->pos++;
    return in->pos < in->end ? (unsigned char)*in->pos : -1;
}

static bool take(struct cursor *in, const char *set)
{
    int c = peek(in);
    if (c <= 0 || !strchr(set, c))
        return false;
    in->pos++;
    return true;
}

/* A number of an IPv4 host: decimal, 0octal or 0xhex. False if it is none; saturates. */
static bool ipv4_number(struct span text, uint64_t *ret_value)
{
    int radix = 10;
    if (text.len >= 2 && text.ptr[0] == '0') {
        radix = (text.ptr[1] | 0x20) == 'x' ? 16 : 8;
        text = (struct span){text.ptr + (radix == 16 ? 2 : 1), text.len - (radix == 16 ? 2 : 1)};
    } else if (text.len == 0) {
        return false;
    }
    *ret_value = 0;
    for (size_t i = 0; i < text.len; i++) {
        int d = hex_value(text.ptr[i]);
        if (d < 0 || d >= radix)
            return false;
        if (*ret_value <= UINT32_MAX)
            *ret_value = *ret_value * (uint64_t)radix + (uint64_t)d;
    }
    return true;
}

/* A host whose last label is a number must be an IPv4 address as a whole. */
static bool ipv4_host_holds(struct span host)
{
    struct span parts[5];
    size_t count = 0;
    if (host.len && host.ptr[host.len - 1] == '.')
        host.len--;
    const char *last = host.len ? memrchr(host.ptr, '.', host.len) : NULL;
    struct span tail = last ? (struct span){last + 1, host.len - (size_t)(last + 1 - host.ptr)} : host;
    bool digits = tail.len > 0;
    for (size_t i = 0; i < tail.len; i++)
        digits = digits && is_digit(tail.ptr[i]);
    uint64_t value;
    bool hex =
        tail.len >= 2 && tail.ptr[0] == '0' && (tail.ptr[1] | 0x20) == 'x' && ipv4_number(tail, &value);
    if (!digits && !hex)
        return true;
    for (size_t start = 0, i = 0; i <= host.len; i++) {
        if (i < host.len && host.ptr[i] != '.')
            continue;
        if (count == 4)
            return false;
        parts[count++] = (struct span){host.ptr + start, i - start};
        start = i + 1;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t max = i + 1 < count ? 255 : UINT32_MAX >> (8 * (count - 1));
        if (!ipv4_number(parts[i], &value) || value > max)
            return false;
    }
    return true;
}

static bool host_holds(struct span host, bool special)
{
    if (host.len && host.ptr[0] == '[')
        return host.ptr[host.len - 1] == ']' && ipv6_is_valid((struct span){host.ptr + 1, host.len - 2});
    size_t n = 0;
    char decoded[1024];
    for (size_t i = 0; i < host.len; i++, n++) {
        unsigned char c = (unsigned char)host.ptr[i];
        if (special && c == '%' && host.len - i >= 3 && hex_value(host.ptr[i + 1]) >= 0 &&
            hex_value(host.ptr[i + 2]) >= 0) {
            c = (unsigned char)(hex_value(host.ptr[i + 1]) << 4 | hex_value(host.ptr[i + 2]));
            i += 2;
        }
        if (c == 0 || strchr("\t\n\r #/:<>?@[\\]^|", c) || (special && (c < 0x20 || c == '%' || c == 0x7f)))
            return false;
        /* No name and no address is that long. */
        if (n == sizeof(decoded))
            return false;
        decoded[n] = (char)c;
    }
    return !special || ipv4_host_holds((struct span){decoded, n});
}

/* [userinfo@]host[:port], already cut out and without tabs and newlines. */
static bool authority_holds(struct span text, bool special, bool file)
{
    const char *at = text.len ? memrchr(text.ptr, '@', text.len) : NULL;
    bool credentials = at && !file;
    if (credentials)
        text = (struct span){at + 1, text.len - (size_t)(at + 1 - text.ptr)};
    size_t colon = text.len;
    bool bracket = false;
    for (size_t i = 0; i < text.len && colon == text.len && !file; i++) {
        bracket = text.ptr[i] == '[' || (bracket && text.ptr[i] != ']');
        if (text.ptr[i] == ':' && !bracket)
            colon = i;
    }
    if (colon == 0 && (credentials || special || text.len) && !file)
        return false;
    uint64_t port = 0;
    struct span digits =
        colon < text.len ? (struct span){text.ptr + colon + 1, text.len - colon - 1} : (struct span){"", 0};
    if (digits.len && (!base_parse_u64(digits, &port) || port > 65535))
        return false;
    return host_holds((struct span){text.ptr, colon}, special);
}

static bool scheme_is(const char *name, struct span scheme)
{
    return span_eq_nocase(span_of(name), scheme);
}

/* Copies what stands before the next of `stops`, without tabs and newlines. */
static struct span take_authority(struct cursor *in, const char *stops, struct buf *store)
{
    for (int c; (c = peek(in)) >= 0 && (c == 0 || !strchr(stops, c)); in->pos++)
        buf_append_char(store, (char)c);
    return store->len ? buf_span(store) : SPAN_LIT("");
}

static bool after_scheme(struct cursor in, struct span scheme)
{
    static const char *const specials[] = {"http", "https", "ws", "wss", "ftp", "file"};
    bool special = false, file = scheme_is("file", scheme);
    for (size_t i = 0; i < SG_ARRAY_LEN(specials); i++)
        special |= scheme_is(specials[i], scheme);
    if (special && !file) {
        while (take(&in, "/\\"))
            ;
    } else if (!take(&in, file ? "/\\" : "/") || !take(&in, file ? "/\\" : "/")) {
        return true; /* no authority: any path will do */
    }
    struct buf store = BUF_INIT;
    struct span authority = take_authority(&in, special ? "/\\?#" : "/?#", &store);
    bool drive = file && authority.len == 2 && is_alpha(authority.ptr[0]) && strchr(":|", authority.ptr[1]);
    bool holds = buf_ok(&store) && (drive || authority_holds(authority, special, file));
    buf_fini(&store);
    return holds;
}

bool url_is_valid(struct span text)
{
    struct cursor in = {text.ptr, text.ptr + text.len};
    while (in.pos < in.end && (unsigned char)*in.pos <= 0x20)
        in.pos++;
    while (in.pos < in.end && (unsigned char)in.end[-1] <= 0x20)
        in.end--;
    char scheme[64];
    size_t n = 0;
    for (int c; (c = peek(&in)) > 0 && (is_alpha((char)c) || (n && (is_digit((char)c) || strchr("+-.", c))));
         in.pos++) {
        /* Longer schemes are cut: none of the special ones is that long. */
        if (n < sizeof(scheme))
            scheme[n++] = (char)c;
    }
    return n > 0 && take(&in, ":") && after_scheme(in, (struct span){scheme, n});
}
