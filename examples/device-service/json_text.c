/* SPDX-License-Identifier: Apache-2.0 */
#include "json_text.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/exchange/bad_json.h"
#include "devices.h"

#define REPLACEMENT "\xEF\xBF\xBD"

/* The text being made; never longer than three times the old one. */
struct copy {
    const char *in, *end;
    char *out;
};

static void replace(struct copy *copy, size_t len)
{
    memcpy(copy->out, REPLACEMENT, 3);
    copy->out += 3;
    copy->in += len;
}

static void keep(struct copy *copy, size_t len)
{
    memcpy(copy->out, copy->in, len);
    copy->out += len;
    copy->in += len;
}

static unsigned hex4(const char *digits)
{
    char text[5] = {digits[0], digits[1], digits[2], digits[3], '\0'};
    return (unsigned)strtoul(text, NULL, 16);
}

/* In well-formed JSON, at a backslash inside of a string. */
static void copy_escape(struct copy *copy)
{
    if (copy->in[1] != 'u') {
        keep(copy, 2);
        return;
    }
    unsigned unit = hex4(copy->in + 2);
    bool pair = unit >> 10 == 0xD800 >> 10 && copy->end - copy->in >= 12 && copy->in[6] == '\\' &&
                copy->in[7] == 'u' && hex4(copy->in + 8) >> 10 == 0xDC00 >> 10;
    if (pair)
        keep(copy, 12);
    else if (unit == 0 || unit >> 11 == 0xD800 >> 11)
        replace(copy, 6);
    else
        keep(copy, 6);
}

/* One character of more than a byte, or a byte that is none. */
static void copy_wide(struct copy *copy)
{
    json_t *whole = NULL;
    size_t len = 2;
    for (; len <= 4 && (size_t)(copy->end - copy->in) >= len && !whole; len++)
        whole = json_stringn(copy->in, len);
    json_decref(whole);
    if (whole) {
        keep(copy, len - 1);
        return;
    }
    replace(copy, 1);
    while (copy->in < copy->end && (*copy->in & 0xC0) == 0x80) /* a broken character counts as one here */
        copy->in++;
}

static void copy_number(struct copy *copy)
{
    size_t len = 0;
    while (copy->in + len < copy->end && strchr("+-.0123456789eE", copy->in[len]) && copy->in[len])
        len++;
    char *text = or_die(calloc(1, len + 1)); /* what is parsed need not end with a NUL */
    memcpy(text, copy->in, len);
    double number = strtod(text, NULL);
    free(text);
    if (!isinf(number)) {
        keep(copy, len);
        return;
    }
    const char *most = number < 0 ? "-1e308" : "1e308";
    memcpy(copy->out, most, strlen(most));
    copy->out += strlen(most);
    copy->in += len;
}

json_t *json_text_parse(const char *text, size_t len, json_t **ret_message)
{
    struct buf message = BUF_INIT;
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        len -= 3;
    }
    if (bad_json_explain((struct span){text, len}, &message) != BAD_JSON_WELL_FORMED) {
        if (ret_message)
            *ret_message = json_loadb(message.ptr, message.len, JSON_DECODE_ANY, NULL);
        if (ret_message && !*ret_message) /* it quotes half a pair */
            *ret_message = json_string("Unexpected token in JSON");
        buf_fini(&message);
        return NULL;
    }
    buf_fini(&message);
    char *fit = or_die(malloc(len * 3 + 8));
    struct copy copy = {text, text + len, fit};
    for (bool in_string = false; copy.in < copy.end;) {
        bool is_wide = (unsigned char)*copy.in >= 0x80;
        if (in_string && *copy.in == '\\')
            copy_escape(&copy);
        else if (is_wide)
            copy_wide(&copy);
        else if (!in_string && (isdigit((unsigned char)*copy.in) || *copy.in == '-'))
            copy_number(&copy);
        else {
            in_string = in_string != (*copy.in == '"');
            keep(&copy, 1);
        }
    }
    json_t *value = json_loadb(fit, (size_t)(copy.out - fit), JSON_DECODE_INT_AS_REAL, NULL);
    free(fit);
    if (!value && ret_message)
        *ret_message = json_string("The JSON text is nested too deeply");
    return value;
}
