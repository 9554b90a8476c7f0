/* SPDX-License-Identifier: Apache-2.0 */
/* Private to ops: the counters' layout. */
#pragma once

#include "syncgate/ops.h"

#define OPS_BUCKETS      15
#define OPS_STATUS_MIN   100
#define OPS_STATUS_MAX   599
#define OPS_STATUS_COUNT (OPS_STATUS_MAX - OPS_STATUS_MIN + 1)
extern const uint64_t ops_bucket_ns[OPS_BUCKETS];

/* One route on one path; made when the first request ends there. */
struct ops_cell {
    uint64_t by_status[OPS_STATUS_COUNT];
    uint64_t buckets[OPS_BUCKETS + 1]; /* not cumulative; the last is +Inf */
    uint64_t sum_ns;
};

struct ops_counters {
    size_t route_count;
    struct ops_cell **cells; /* [0: none, else 1 + route][path] */
    uint64_t fallbacks[PATH_FALLBACK_COUNT];
    uint64_t replies[OPS_REPLY_COUNT];
    uint64_t dead_letters[OPS_DEAD_LETTER_COUNT];
    uint64_t events_sent, events_dropped;
};
