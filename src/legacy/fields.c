/* SPDX-License-Identifier: Apache-2.0 */
#include "call.h"

bool field_is_token(struct span name)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.ptr[i];
        if (((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c >= '0' && c <= '9'))
            continue;
        if (c == 0 || c >= 0x7f || !strchr(others, c))
            return false;
    }
    return name.len > 0;
}

bool field_value_is_safe(struct span value)
{
    for (size_t i = 0; i < value.len; i++)
        if (value.ptr[i] == '\r' || value.ptr[i] == '\n' || value.ptr[i] == '\0')
            return false;
    return true;
}

/* RFC 9110 section 7.6.1. Trailer is listed because trailers are not handed on. */
static bool is_hop_by_hop(struct span name)
{
    switch (name.len) {
    case 2:
        return span_eq_nocase(name, SPAN_LIT("TE"));
    case 7:
        return span_eq_nocase(name, SPAN_LIT("Upgrade")) || span_eq_nocase(name, SPAN_LIT("Trailer"));
    case 10:
        return span_eq_nocase(name, SPAN_LIT("Connection")) || span_eq_nocase(name, SPAN_LIT("Keep-Alive"));
    case 16:
        return span_eq_nocase(name, SPAN_LIT("Proxy-Connection"));
    case 17:
        return span_eq_nocase(name, SPAN_LIT("Transfer-Encoding"));
    default:
        return false;
    }
}

static bool list_has(struct span list, struct span item)
{
    while (list.len) {
        const char *comma = memchr(list.ptr, ',', list.len);
        size_t len = comma ? (size_t)(comma - list.ptr) : list.len;
        if (span_eq_nocase(span_trim((struct span){list.ptr, len}), item))
            return true;
        len += comma != NULL;
        list = (struct span){list.ptr + len, list.len - len};
    }
    return false;
}

bool field_is_end_to_end(const struct legacy_header *headers, size_t count, struct span name)
{
    if (is_hop_by_hop(name))
        return false;
    for (size_t i = 0; i < count; i++)
        if (headers[i].name.len == 10 && span_eq_nocase(headers[i].name, SPAN_LIT("Connection")) &&
            list_has(headers[i].value, name))
            return false;
    return true;
}
