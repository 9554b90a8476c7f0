/* SPDX-License-Identifier: Apache-2.0 */
#include "syncgate/path.h"

#include <stdio.h>

#include "mix.h"

#define PLACES      10000u /* of users; a share is counted in them */
#define PER_PERCENT (PLACES / 100u)

const char *path_taken_name(enum path_taken taken)
{
    return taken == PATH_TAKEN_KAFKA ? "kafka" : taken == PATH_TAKEN_LEGACY ? "legacy" : "none";
}

const char *path_fallback_name(enum path_fallback reason)
{
    static const char *const names[] = {
#define X(code, name) name,
        PATH_FALLBACKS(X)
#undef X
    };
    SG_ASSERT((unsigned)reason < PATH_FALLBACK_COUNT);
    return names[reason];
}

/* ---- the flag ---- */

/* The digits in front of `text`, at most `max` of them, cut off from it. Returns how many there were. */
static size_t take_digits(struct span *text, size_t max, unsigned *ret_value)
{
    size_t count = 0;
    unsigned value = 0;
    while (count < max && count < text->len && text->ptr[count] >= '0' && text->ptr[count] <= '9')
        value = value * 10 + (unsigned)(text->ptr[count++] - '0');
    text->ptr += count;
    text->len -= count;
    *ret_value = value;
    return count;
}

/* "12.5" -> 1250. "05" is refused: who wrote it may have meant 0.5. */
static bool parse_share(struct span text, uint16_t *ret_share)
{
    const char *begin = text.ptr;
    unsigned percent, fraction = 0;
    size_t digits = take_digits(&text, 3, &percent);
    if (digits == 0 || (digits > 1 && *begin == '0'))
        return false;
    if (text.len > 0 && *text.ptr == '.') {
        text = (struct span){text.ptr + 1, text.len - 1};
        size_t decimals = take_digits(&text, 2, &fraction);
        if (decimals == 0)
            return false;
        if (decimals == 1)
            fraction *= 10;
    }
    unsigned share = percent * PER_PERCENT + fraction;
    if (text.len > 0 || share > PLACES)
        return false;
    *ret_share = (uint16_t)share;
    return true;
}

enum err_code path_flag_parse(struct span text, const char *where, struct path_flag *ret_flag,
                              struct err *err)
{
    static const struct {
        const char *text;
        enum path_mode mode;
    } values[] = {{"false", PATH_MODE_LEGACY},
                  {"off", PATH_MODE_LEGACY},
                  {"true", PATH_MODE_PRIMARY},
                  {"primary", PATH_MODE_PRIMARY},
                  {"only", PATH_MODE_ONLY}};
    static const struct span split = SPAN_INIT("split:");
    for (size_t i = 0; i < SG_ARRAY_LEN(values); i++) {
        if (span_eq(text, span_of(values[i].text))) {
            *ret_flag = (struct path_flag){.mode = values[i].mode};
            return ERR_OK;
        }
    }
    uint16_t share;
    if (text.len > split.len && memcmp(text.ptr, split.ptr, split.len) == 0 &&
        parse_share((struct span){text.ptr + split.len, text.len - split.len}, &share)) {
        *ret_flag = (struct path_flag){.mode = PATH_MODE_SPLIT, .share = share};
        return ERR_OK;
    }
    return err_set(err, ERR_CONFIG,
                   "%s: '%.*s': expected false, off, split:N (N: 0 to 100, at most two decimals), true, "
                   "primary or only",
                   where, (int)text.len, text.ptr);
}

void path_flag_format(const struct path_flag *flag, char out[PATH_FLAG_TEXT_LEN + 1])
{
    static const char *const names[] = {
        [PATH_MODE_LEGACY] = "off",
        [PATH_MODE_PRIMARY] = "primary",
        [PATH_MODE_ONLY] = "only",
    };
    SG_ASSERT((unsigned)flag->mode < SG_ARRAY_LEN(names) && flag->share <= PLACES);
    unsigned percent = flag->share / PER_PERCENT, fraction = flag->share % PER_PERCENT;
    if (flag->mode != PATH_MODE_SPLIT)
        snprintf(out, PATH_FLAG_TEXT_LEN + 1, "%s", names[flag->mode]);
    else if (fraction == 0)
        snprintf(out, PATH_FLAG_TEXT_LEN + 1, "split:%u", percent);
    else if (fraction % 10 == 0)
        snprintf(out, PATH_FLAG_TEXT_LEN + 1, "split:%u.%u", percent, fraction / 10);
    else
        snprintf(out, PATH_FLAG_TEXT_LEN + 1, "split:%u.%02u", percent, fraction);
}

bool path_flag_eq(const struct path_flag *a, const struct path_flag *b)
{
    return a->mode == b->mode && (a->mode != PATH_MODE_SPLIT || a->share == b->share);
}

/* ---- a user's place ---- */

unsigned path_place(struct span key)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a: offset basis, then a prime for each byte */
    for (size_t i = 0; i < key.len; i++)
        hash = (hash ^ (unsigned char)key.ptr[i]) * UINT64_C(0x100000001b3);
    /* FNV-1a hardly mixes the last bytes of a key, where many user ids differ. */
    return (unsigned)(path_mix64(hash) % PLACES);
}

bool path_flag_takes_kafka(const struct path_flag *flag, unsigned place)
{
    return flag->mode == PATH_MODE_SPLIT ? place < flag->share : flag->mode != PATH_MODE_LEGACY;
}
