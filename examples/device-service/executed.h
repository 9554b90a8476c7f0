/* SPDX-License-Identifier: Apache-2.0 */
/* executed: which commands were executed, by correlation id, and how they ended. Kafka delivers at least
 * once; a command that comes again is answered from here instead of being executed again. Bounded: the oldest
 * is forgotten first. A service with a database keeps these ids there, in the transaction that executes the
 * command. Locks: none, the caller serializes. */
#pragma once

#include <jansson.h>

#include "devices.h"

#define EXECUTED_ID_SIZE 64 /* with the final NUL */

struct executed;

struct outcome {
    enum device_result result;
    bool is_forced; /* a failure that a test asked for */
    int64_t at_ms;
};

struct executed *executed_new(void);
void executed_freep(struct executed **executed);
/* True if id was executed before; counts it as delivered once more. */
bool executed_recall(struct executed *executed, const char *id, struct outcome *ret_outcome);
/* id is shorter than EXECUTED_ID_SIZE and not recorded yet. */
void executed_add(struct executed *executed, const char *id, struct outcome outcome);
/* {"<id>": how often}, owned: executed, or only those delivered again. */
json_t *executed_counts(const struct executed *executed, bool redelivered);
