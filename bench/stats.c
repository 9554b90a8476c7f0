/* SPDX-License-Identifier: Apache-2.0 */
#include "stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* Values below 64 have a bucket each; above, the highest six bits behind the leading one choose it. */
static unsigned bucket_of(uint64_t value)
{
    if (value < 1u << HISTOGRAM_SUB_BITS)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    return ((shift + 1) << HISTOGRAM_SUB_BITS) + (unsigned)(value >> shift) - (1u << HISTOGRAM_SUB_BITS);
}

static uint64_t bucket_middle(unsigned bucket)
{
    if (bucket < 1u << HISTOGRAM_SUB_BITS)
        return bucket;
    unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t low = (uint64_t)((bucket & ((1u << HISTOGRAM_SUB_BITS) - 1)) + (1u << HISTOGRAM_SUB_BITS))
                   << shift;
    return low + ((UINT64_C(1) << shift) >> 1);
}

void histogram_clear(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

void histogram_add(struct histogram *histogram, uint64_t duration_ns)
{
    histogram->counts[bucket_of(duration_ns)]++;
    histogram->total++;
    if (duration_ns > histogram->max_ns)
        histogram->max_ns = duration_ns;
}

double histogram_percentile_ms(const struct histogram *histogram, double fraction)
{
    if (!histogram->total)
        return 0;
    uint64_t rank = (uint64_t)ceil(fraction * (double)histogram->total), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->counts[i];
        if (!histogram->counts[i] || seen < rank)
            continue;
        uint64_t middle = bucket_middle(i);
        return (double)(middle < histogram->max_ns ? middle : histogram->max_ns) / 1e6;
    }
    return (double)histogram->max_ns / 1e6;
}

uint64_t stats_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double stats_own_cpu_us(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

double stats_process_cpu_us(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return -1;
    size_t len = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[len] = '\0';
    /* The name, in parentheses, may hold blanks and parentheses itself; behind it, utime and stime are words
     * 12 and 13. */
    char *word = strrchr(text, ')');
    for (int i = 0; word && i < 12; i++)
        word = strchr(word + 1, ' ');
    if (!word)
        return -1;
    char *end;
    unsigned long long user = strtoull(word, &end, 10), system = strtoull(end, NULL, 10);
    return (double)(user + system) * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

bool stats_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end || errno || value < min || value > max)
        return false;
    *ret_value = value;
    return true;
}

bool stats_parse_double(const char *text, double min, double max, double *ret_value)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= min && value <= max))
        return false;
    *ret_value = value;
    return true;
}
