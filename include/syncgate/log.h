/* SPDX-License-Identifier: Apache-2.0 */
/* log: JSON lines on one descriptor, written by one thread of its own, so that no caller ever waits for a
 * slow reader. A line is built in the calling thread's buffer and handed over under one short mutex (a leaf:
 * nothing is called under it; nobody calls log under a lock). What does not fit is dropped and counted, never
 * waited for. Before log_start() and after log_stop() lines are discarded. It never writes a raw control
 * character or broken UTF-8. It does not know what is secret: callers pass no token and no body. design.md
 * section 7. */
#pragma once

#include "syncgate/base.h"
#include "syncgate/err.h"

#define LOG_LEVEL_TABLE(X) \
    X(LOG_DEBUG, "debug")  \
    X(LOG_INFO, "info")    \
    X(LOG_WARN, "warn")    \
    X(LOG_ERROR, "error")  \
    X(LOG_FATAL, "fatal")  \
    X(LOG_AUDIT, "audit") /* who changed what: written whatever the level is */

enum log_level {
#define X(level, name) level,
    LOG_LEVEL_TABLE(X)
#undef X
        LOG_LEVEL_COUNT
};
/* "debug" ... "audit". */
const char *log_level_name(enum log_level level);
/* False when `name` is none of "debug" ... "fatal" (exact, lower case). */
bool log_level_parse(struct span name, enum log_level *ret_level);

/* Starts the writer thread. The descriptor stays the caller's and must stay open until log_stop(); blocking
 * or not is both fine. ERR_OK, ERR_NO_MEMORY or ERR_INTERNAL (no thread, or already started). Thread: main,
 * no other logging yet. */
enum err_code log_start(int fd, enum log_level level) SG_NODISCARD;
/* Hands over the caller's batch, lets the writer flush for at most 1 s and ends it. What is not written by
 * then is lost. Other threads hand over theirs before (log_flush_thread(), or by ending). Harmless when not
 * started. Thread: main. */
void log_stop(void);

/* Lines below the level cost one load. Thread: any. Locks: none. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* ---- one line ----
 * log_begin(), fields in order, log_end(); one line at a time per thread. Keys are literals: they are written
 * as they are. When the level is filtered out the line is empty and every call on it does nothing. Thread:
 * any. */
struct log_line {
    struct buf *out; /* private; NULL: filtered or no memory */
    size_t start;
    enum log_level level;
};
/* Strings longer than this are cut at a character's border and end in "...". */
#define LOG_VALUE_MAX 2048

/* False when the line will not be written, for callers whose fields are costly to make; log_end() is still
 * due. */
bool log_begin(struct log_line *line, enum log_level level, const char *msg);
/* NULL text (and a span with a NULL ptr) is written as null. */
void log_str(struct log_line *line, const char *key, const char *text);
void log_span(struct log_line *line, const char *key, struct span text);
void log_u64(struct log_line *line, const char *key, uint64_t value);
void log_i64(struct log_line *line, const char *key, int64_t value);
void log_bool(struct log_line *line, const char *key, bool value);
/* Nanoseconds as milliseconds with three decimals. */
void log_ms(struct log_line *line, const char *key, uint64_t duration_ns);
/* Hands the line over at once, unless this thread batches. Errors and worse always go at once, after the
 * batch. Locks: takes log_mtx. */
void log_end(struct log_line *line);

/* From now on this thread's lines wait for log_flush_thread(); a batch of 16 KiB goes by itself. Thread: any,
 * for itself. */
void log_batch_thread(bool on);
/* At the end of a loop turn. Costs nothing when there is nothing to hand over. Locks: takes log_mtx. */
void log_flush_thread(void);

/* Lines lost so far (reader too slow, descriptor broken, no memory). Thread: any. */
uint64_t log_dropped_total(void);

/* ---- repeated errors ---- Zero-initialised; belongs to one thread (or is guarded by its owner). */
struct log_limit {
    uint64_t window_ns; /* private: when the second under way began */
    uint32_t passed;
    uint64_t suppressed;
};
/* True if this line may be written: at most per_second of them in a second. *ret_suppressed then tells how
 * many were held back since the last one that passed. */
bool log_limit_ok(struct log_limit *limit, uint64_t now_ns, uint32_t per_second, uint64_t *ret_suppressed);
