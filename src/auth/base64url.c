/* SPDX-License-Identifier: Apache-2.0 */
#include "key.h"

static int digit_value(unsigned char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '-')
        return 62;
    return c == '_' ? 63 : -1;
}

bool base64url_decode(struct span text, unsigned char *out, size_t *ret_len)
{
    uint32_t bits = 0; /* only the lowest `held` bits are still to be written */
    unsigned held = 0;
    size_t len = 0;
    if (text.len % 4 == 1)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        int value = digit_value((unsigned char)text.ptr[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            out[len++] = (unsigned char)(bits >> held);
        }
    }
    if (bits & ((1U << held) - 1))
        return false;
    *ret_len = len;
    return true;
}

bool base64url_is(struct span text)
{
    for (size_t i = 0; i < text.len; i++)
        if (digit_value((unsigned char)text.ptr[i]) < 0)
            return false;
    return text.len > 0;
}
