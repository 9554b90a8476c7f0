/* SPDX-License-Identifier: Apache-2.0 */
#include "syncgate/base.h"

#include <time.h>

uint64_t clock_mono_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SG_NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

int64_t clock_real_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Days since 1970-01-01 of a proleptic Gregorian date; the year starts in March so that the leap day is last. */
static int64_t days_from_civil(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    const int64_t era = (year >= 0 ? year : year - 399) / 400;
    const int64_t yoe = year - era * 400;
    const int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void digits(char *out, unsigned value, int width)
{
    while (width-- > 0) {
        out[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

void clock_format_iso(int64_t unix_ms, char out[CLOCK_ISO_LEN + 1])
{
    int64_t days = unix_ms / 86400000, ms = unix_ms % 86400000;
    if (ms < 0) {
        ms += 86400000;
        days--;
    }
    const int64_t z = days + 719468;
    const int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    const int64_t doe = z - era * 146097;
    const int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    const int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    const int64_t mp = (5 * doy + 2) / 153;
    const unsigned day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
    const unsigned month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
    const int64_t year = yoe + era * 400 + (month <= 2);
    memcpy(out, "0000-00-00T00:00:00.000Z", CLOCK_ISO_LEN + 1);
    digits(out, (unsigned)year, 4);
    digits(out + 5, month, 2);
    digits(out + 8, day, 2);
    digits(out + 11, (unsigned)(ms / 3600000), 2);
    digits(out + 14, (unsigned)(ms / 60000 % 60), 2);
    digits(out + 17, (unsigned)(ms / 1000 % 60), 2);
    digits(out + 20, (unsigned)(ms % 1000), 3);
}

/* Reads `width` digits at *pos and moves on; false if there are fewer. */
static bool read_digits(struct span text, size_t *pos, int width, unsigned *ret_value)
{
    unsigned value = 0;
    for (int i = 0; i < width; i++, (*pos)++) {
        if (*pos >= text.len || text.ptr[*pos] < '0' || text.ptr[*pos] > '9')
            return false;
        value = value * 10 + (unsigned)(text.ptr[*pos] - '0');
    }
    *ret_value = value;
    return true;
}

static bool read_char(struct span text, size_t *pos, char c)
{
    if (*pos >= text.len || text.ptr[*pos] != c)
        return false;
    (*pos)++;
    return true;
}

static bool read_offset_min(struct span text, size_t *pos, int *ret_offset_min)
{
    unsigned hour = 0, minute = 0;
    *ret_offset_min = 0;
    if (read_char(text, pos, 'Z'))
        return true;
    int sign = read_char(text, pos, '+') ? 1 : read_char(text, pos, '-') ? -1 : 0;
    if (!sign || !read_digits(text, pos, 2, &hour) || !read_char(text, pos, ':') ||
        !read_digits(text, pos, 2, &minute) || hour > 23 || minute > 59)
        return false;
    *ret_offset_min = sign * (int)(hour * 60 + minute);
    return true;
}

bool clock_parse_iso(struct span text, int64_t *ret_unix_ms)
{
    static const unsigned char month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    unsigned year, month, day, hour, minute, second = 0, ms = 0;
    size_t pos = 0;
    if (!read_digits(text, &pos, 4, &year) || !read_char(text, &pos, '-') ||
        !read_digits(text, &pos, 2, &month) || !read_char(text, &pos, '-') ||
        !read_digits(text, &pos, 2, &day) || !read_char(text, &pos, 'T') ||
        !read_digits(text, &pos, 2, &hour) || !read_char(text, &pos, ':') ||
        !read_digits(text, &pos, 2, &minute))
        return false;
    if (read_char(text, &pos, ':')) {
        if (!read_digits(text, &pos, 2, &second))
            return false;
        if (read_char(text, &pos, '.')) {
            unsigned scale = 100, digit;
            if (!read_digits(text, &pos, 1, &digit))
                return false;
            do {
                ms += digit * scale;
                scale /= 10;
            } while (read_digits(text, &pos, 1, &digit));
        }
    }
    int offset_min;
    if (!read_offset_min(text, &pos, &offset_min) || pos != text.len)
        return false;
    if (month < 1 || month > 12 || hour > 23 || minute > 59 || second > 59)
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day < 1 || day > month_days[month - 1] + (month == 2 && leap ? 1u : 0u))
        return false;
    int64_t minutes = days_from_civil(year, month, day) * 1440 + (int64_t)(hour * 60 + minute) - offset_min;
    *ret_unix_ms = minutes * 60000 + (int64_t)(second * 1000 + ms);
    return true;
}
