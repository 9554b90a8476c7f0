/* SPDX-License-Identifier: Apache-2.0 */
/* stats: what the benchmark programs measure with: a histogram of durations, the CPU time of processes,
 * clocks. Single-threaded, no locks; it knows neither HTTP nor Kafka. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define NSEC_PER_SEC 1000000000.0

/* ---- durations: logarithmic buckets, 64 to each power of two, so a percentile is at most 1.6 % off ---- */
#define HISTOGRAM_SUB_BITS 6
#define HISTOGRAM_BUCKETS  ((64 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t max_ns;
};

void histogram_clear(struct histogram *histogram);
void histogram_add(struct histogram *histogram, uint64_t duration_ns);
/* The duration that `fraction` (0..1) of the samples do not exceed, in milliseconds; 0 without samples. */
double histogram_percentile_ms(const struct histogram *histogram, double fraction);

/* ---- CPU time ---- */
/* CLOCK_MONOTONIC. */
uint64_t stats_now_ns(void);
/* User and system time of this process, in microseconds. */
double stats_own_cpu_us(void);
/* User and system time of all threads of another process (/proc/PID/stat), in microseconds; -1 if it is gone.
 * The kernel tells it in clock ticks, so a difference is worth what the run is long: 10 ms of 3 s. */
double stats_process_cpu_us(pid_t pid);

/* ---- numbers on a command line ---- */
/* Decimal, in [min, max]; false otherwise. */
bool stats_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value);
bool stats_parse_double(const char *text, double min, double max, double *ret_value);
