/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - Two buffers of LOG_HALF bytes exist while the log runs. Callers append to `filling` under log_mtx; the
 * writer swaps it for its empty one under log_mtx and writes without it. So at most 2 * LOG_HALF bytes wait,
 * and a caller copies at most one batch.
 * - The writer is in one of three states (guarded by log_mtx): idle (waits without a limit; the caller that
 * finds it so wakes it, once), pausing (waits a few ms so that lines collect; log_stop() or a
 * half full buffer ends it), busy.
 * - Every write is cut at a line's end within PIPE_BUF and follows a poll() that saw room: lines of several
 * processes on one pipe stay whole, and a full pipe does not block the writer even if the descriptor is a
 * blocking one.
 * - A writer that is stuck all the same (another process filled the pipe in between) is left behind by
 * log_stop() with its buffers: after that the log cannot be started again. */
#include "syncgate/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_HALF        ((size_t)512 * 1024)
#define LOG_BATCH       ((size_t)16 * 1024)
#define LOG_LINE_MAX    ((size_t)64 * 1024)
#define LOG_PAUSE_NS    (4 * SG_NSEC_PER_MSEC)
#define LOG_STOP_NS     SG_NSEC_PER_SEC
#define LOG_POLL_MS     50
#define LOG_DROPPED_MAX 160 /* bytes of the line that reports drops */

enum log_state { LOG_OFF, LOG_BUSY, LOG_IDLE, LOG_PAUSING, LOG_LEFT_BEHIND };

struct log_half {
    char *ptr;
    size_t len;
};

static pthread_mutex_t log_mtx = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t log_wake, log_done; /* CLOCK_MONOTONIC */
static enum log_state log_state;          /* guarded by log_mtx, as all down to log_unreported */
static struct log_half filling;
static bool writer_done;
static uint64_t log_unreported; /* dropped lines that no line has told yet */

static int log_fd = -1;
static bool log_fd_is_file;
static struct log_half writing; /* the writer's alone */
static pthread_t writer_thread;

static atomic_int log_level = LOG_LEVEL_COUNT; /* LOG_LEVEL_COUNT: not running */
static _Atomic uint64_t dropped_total;
static _Atomic uint64_t stop_deadline_ns; /* 0: not stopping */

/* What a thread has built and not handed over. */
struct log_thread {
    struct buf batch;
    uint64_t lines;
    bool batching;
    bool open; /* between log_begin() and log_end() */
};
static __thread struct log_thread *log_self;
static pthread_key_t self_key;
static pthread_once_t self_once = PTHREAD_ONCE_INIT;

const char *log_level_name(enum log_level level)
{
    static const char *const names[] = {
#define X(code, name) name,
        LOG_LEVEL_TABLE(X)
#undef X
    };
    SG_ASSERT((unsigned)level < LOG_LEVEL_COUNT);
    return names[level];
}

bool log_level_parse(struct span name, enum log_level *ret_level)
{
    for (int level = 0; level < LOG_AUDIT; level++) {
        if (!span_eq(name, span_of(log_level_name((enum log_level)level))))
            continue;
        *ret_level = (enum log_level)level;
        return true;
    }
    return false;
}

/* ---- handing over ---- */

static void count_dropped(uint64_t lines)
{
    atomic_fetch_add_explicit(&dropped_total, lines, memory_order_relaxed);
    pthread_mutex_lock(&log_mtx);
    log_unreported += lines;
    pthread_mutex_unlock(&log_mtx);
}

static void hand_over(struct log_thread *self)
{
    if (self->batch.len == 0)
        return;
    pthread_mutex_lock(&log_mtx);
    bool on = log_state != LOG_OFF && log_state != LOG_LEFT_BEHIND, wake = false;
    bool fits = on && LOG_HALF - filling.len >= self->batch.len;
    if (fits) {
        memcpy(filling.ptr + filling.len, self->batch.ptr, self->batch.len);
        filling.len += self->batch.len;
        if (log_state == LOG_IDLE || (log_state == LOG_PAUSING && filling.len >= LOG_HALF / 2)) {
            log_state = LOG_BUSY;
            wake = true;
        }
    } else if (on) {
        log_unreported += self->lines;
    }
    pthread_mutex_unlock(&log_mtx);
    if (wake)
        pthread_cond_signal(&log_wake);
    if (on && !fits)
        atomic_fetch_add_explicit(&dropped_total, self->lines, memory_order_relaxed);
    buf_clear(&self->batch);
    self->lines = 0;
}

static void on_thread_end(void *arg)
{
    struct log_thread *self = arg;
    hand_over(self);
    buf_fini(&self->batch);
    free(self);
    log_self = NULL;
}

static void make_self_key(void)
{
    SG_ASSERT(pthread_key_create(&self_key, on_thread_end) == 0);
}

static struct log_thread *this_thread(void)
{
    if (log_self)
        return log_self;
    pthread_once(&self_once, make_self_key);
    struct log_thread *self = calloc(1, sizeof(*self));
    if (self && pthread_setspecific(self_key, self) != 0) {
        free(self);
        self = NULL;
    }
    return log_self = self;
}

void log_flush_thread(void)
{
    if (log_self)
        hand_over(log_self);
}

void log_batch_thread(bool on)
{
    struct log_thread *self = this_thread();
    if (!self)
        return; /* without memory each line goes alone, or is dropped */
    self->batching = on;
    if (!on)
        hand_over(self);
}

/* ---- building a line ---- */

static void append_head(struct buf *out, enum log_level level)
{
    char iso[CLOCK_ISO_LEN + 1];
    clock_format_iso(clock_real_ms(), iso);
    buf_append_lit(out, "{\"ts\":\"");
    buf_append(out, iso, CLOCK_ISO_LEN);
    buf_append_lit(out, "\",\"level\":\"");
    buf_append_span(out, span_of(log_level_name(level)));
    buf_append_lit(out, "\",\"msg\":");
}

bool log_begin(struct log_line *line, enum log_level level, const char *msg)
{
    *line = (struct log_line){.level = level};
    int lowest = atomic_load_explicit(&log_level, memory_order_relaxed);
    if ((int)level < lowest)
        return false;
    struct log_thread *self = this_thread();
    if (!self) {
        count_dropped(1);
        return false;
    }
    SG_ASSERT(!self->open);
    self->open = true;
    line->out = &self->batch;
    line->start = self->batch.len;
    append_head(line->out, level);
    buf_append_json_string(line->out, span_of(msg));
    return true;
}

/* As a JSON string without what JSON lets through and a terminal obeys: DEL, and U+0080 to U+009F. */
static void append_text(struct buf *out, struct span text)
{
    size_t at = out->len;
    buf_append_json_string(out, text);
    for (; buf_ok(out) && at < out->len; at++) {
        unsigned char c = (unsigned char)out->ptr[at];
        if (c == 0x7f)
            out->ptr[at] = '?';
        else if (c == 0xc2 && (unsigned char)out->ptr[at + 1] < 0xa0) /* a quote stands behind the last one */
            out->ptr[at] = out->ptr[at + 1] = '?';
    }
}

static void append_key(struct log_line *line, const char *key)
{
    buf_append_lit(line->out, ",\"");
    buf_append_span(line->out, span_of(key));
    buf_append_lit(line->out, "\":");
}

void log_span(struct log_line *line, const char *key, struct span text)
{
    if (!line->out)
        return;
    append_key(line, key);
    if (!text.ptr) {
        buf_append_lit(line->out, "null");
        return;
    }
    if (text.len <= LOG_VALUE_MAX) {
        append_text(line->out, text);
        return;
    }
    text.len = LOG_VALUE_MAX;
    for (int back = 0; back < 3 && ((unsigned char)text.ptr[text.len] & 0xc0) == 0x80; back++)
        text.len--;
    append_text(line->out, text);
    if (!buf_ok(line->out))
        return;
    line->out->len--;
    buf_append_lit(line->out, "...\"");
}

void log_str(struct log_line *line, const char *key, const char *text)
{
    if (line->out)
        log_span(line, key, span_of(text));
}

void log_u64(struct log_line *line, const char *key, uint64_t value)
{
    if (!line->out)
        return;
    append_key(line, key);
    buf_append_u64(line->out, value);
}

void log_i64(struct log_line *line, const char *key, int64_t value)
{
    if (!line->out)
        return;
    append_key(line, key);
    buf_append_i64(line->out, value);
}

void log_bool(struct log_line *line, const char *key, bool value)
{
    if (!line->out)
        return;
    append_key(line, key);
    buf_append_span(line->out, value ? SPAN_LIT("true") : SPAN_LIT("false"));
}

void log_ms(struct log_line *line, const char *key, uint64_t duration_ns)
{
    if (!line->out)
        return;
    uint64_t us = duration_ns / 1000;
    unsigned fraction = (unsigned)(us % 1000);
    append_key(line, key);
    buf_append_u64(line->out, us / 1000);
    buf_append(line->out,
               (char[]){'.', (char)('0' + fraction / 100), (char)('0' + fraction / 10 % 10),
                        (char)('0' + fraction % 10)},
               4);
}

void log_end(struct log_line *line)
{
    struct buf *out = line->out;
    if (!out)
        return;
    line->out = NULL;
    struct log_thread *self = log_self;
    self->open = false;
    buf_append_lit(out, "}\n");
    if (!buf_ok(out) || out->len - line->start > LOG_LINE_MAX) {
        out->len = line->start;
        out->failed = false;
        count_dropped(1);
        return;
    }
    self->lines++;
    if (!self->batching || line->level >= LOG_ERROR || out->len >= LOG_BATCH)
        hand_over(self);
}

/* ---- the writer ---- */

static struct timespec mono_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / SG_NSEC_PER_SEC),
                             .tv_nsec = (long)(ns % SG_NSEC_PER_SEC)};
}

static bool is_stopping(void)
{
    return atomic_load_explicit(&stop_deadline_ns, memory_order_acquire) != 0;
}

static bool is_too_late(void)
{
    uint64_t deadline_ns = atomic_load_explicit(&stop_deadline_ns, memory_order_acquire);
    return deadline_ns != 0 && clock_mono_ns() >= deadline_ns;
}

/* True when a write will find room. False: the descriptor is broken, or stopping takes too long. */
static bool wait_writable(void)
{
    while (!log_fd_is_file) {
        struct pollfd pfd = {.fd = log_fd, .events = POLLOUT};
        int n = poll(&pfd, 1, LOG_POLL_MS);
        if (n > 0)
            return (pfd.revents & (POLLERR | POLLHUP | POLLNVAL)) == 0;
        if (n < 0 && errno != EINTR && errno != ENOMEM)
            return false;
        if (is_too_late())
            return false;
    }
    return true;
}

/* The length of the next write: whole lines within PIPE_BUF, or a piece of a longer line. */
static size_t chunk_len(const char *ptr, size_t len)
{
    if (log_fd_is_file || len <= PIPE_BUF)
        return len;
    const char *newline = memrchr(ptr, '\n', PIPE_BUF);
    return newline ? (size_t)(newline - ptr) + 1 : PIPE_BUF;
}

/* Returns the bytes that went out: less than len when the descriptor is broken. */
static size_t write_out(const char *ptr, size_t len)
{
    size_t done = 0;
    while (done < len) {
        if (!wait_writable())
            break;
        ssize_t n = write(log_fd, ptr + done, chunk_len(ptr + done, len - done));
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            break;
        else if (errno == EAGAIN && is_too_late())
            break;
    }
    return done;
}

static uint64_t count_lines(const char *ptr, size_t len)
{
    uint64_t lines = 0;
    for (const char *end = ptr + len, *at = ptr; at < end && (at = memchr(at, '\n', (size_t)(end - at)));
         at++)
        lines++;
    return lines;
}

/* Tells `lines` losses in one line. False when that did not get through either. */
static bool report_dropped(uint64_t lines)
{
    char storage[LOG_DROPPED_MAX];
    struct buf out = {.ptr = storage, .cap = sizeof(storage)}; /* large enough: it never grows */
    append_head(&out, LOG_WARN);
    buf_append_lit(&out, "\"log lines dropped\",\"count\":");
    buf_append_u64(&out, lines);
    buf_append_lit(&out, "}\n");
    SG_ASSERT(out.ptr == storage);
    return write_out(out.ptr, out.len) == out.len;
}

/* Writes what was swapped out, then tells of the losses known at the swap. */
static void write_half(uint64_t unreported)
{
    size_t done = write_out(writing.ptr, writing.len);
    uint64_t lost = count_lines(writing.ptr + done, writing.len - done);
    if (lost > 0)
        atomic_fetch_add_explicit(&dropped_total, lost, memory_order_relaxed);
    if (lost == 0 && unreported > 0 && report_dropped(unreported))
        unreported = 0;
    writing.len = 0;
    if (lost + unreported == 0)
        return;
    pthread_mutex_lock(&log_mtx);
    log_unreported += lost + unreported;
    pthread_mutex_unlock(&log_mtx);
}

/* Needs log_mtx. False when there is nothing left and the log stops. */
static bool wait_for_lines(void)
{
    while (filling.len == 0 && !is_stopping()) {
        log_state = LOG_IDLE;
        pthread_cond_wait(&log_wake, &log_mtx);
    }
    log_state = LOG_BUSY;
    return filling.len > 0;
}

/* Needs log_mtx. Lets lines collect, so that a busy gateway makes a few large writes and no wake-ups. */
static void pause_writer(void)
{
    struct timespec until = mono_timespec(clock_mono_ns() + LOG_PAUSE_NS);
    log_state = LOG_PAUSING;
    while (log_state == LOG_PAUSING && !is_stopping() &&
           pthread_cond_timedwait(&log_wake, &log_mtx, &until) != ETIMEDOUT)
        ;
}

static void *writer_main(void *arg)
{
    (void)arg;
    pthread_setname_np(pthread_self(), "log");
    pthread_mutex_lock(&log_mtx);
    while (wait_for_lines()) {
        struct log_half full = filling;
        filling = writing;
        writing = full;
        uint64_t unreported = log_unreported;
        log_unreported = 0;
        pthread_mutex_unlock(&log_mtx);
        write_half(unreported);
        pthread_mutex_lock(&log_mtx);
        pause_writer();
    }
    uint64_t unreported = log_unreported;
    log_unreported = 0;
    pthread_mutex_unlock(&log_mtx);
    if (unreported > 0 && !is_too_late())
        report_dropped(unreported);
    pthread_mutex_lock(&log_mtx);
    writer_done = true;
    pthread_cond_signal(&log_done);
    pthread_mutex_unlock(&log_mtx);
    return NULL;
}

/* ---- life ---- */

static void init_conds(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&log_wake, &attr);
    pthread_cond_init(&log_done, &attr);
    pthread_condattr_destroy(&attr);
}

/* The writer takes no signal of the process: a broken pipe is an errno, and handlers run elsewhere. */
static int create_writer(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&writer_thread, NULL, writer_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* takes both buffers on ERR_OK. */
static enum err_code claim_log(int fd, char *first, char *second)
{
    pthread_mutex_lock(&log_mtx);
    bool off = log_state == LOG_OFF;
    if (off) {
        struct stat st;
        log_state = LOG_BUSY;
        log_fd = fd;
        log_fd_is_file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
        atomic_store_explicit(&stop_deadline_ns, 0, memory_order_release);
        filling = (struct log_half){.ptr = first};
        writing = (struct log_half){.ptr = second};
        writer_done = false;
        log_unreported = 0;
    }
    pthread_mutex_unlock(&log_mtx);
    return off ? ERR_OK : ERR_INTERNAL;
}

/* The writer is gone, or never came. */
static void release_log(void)
{
    pthread_mutex_lock(&log_mtx);
    log_state = LOG_OFF;
    free(filling.ptr);
    free(writing.ptr);
    filling = writing = (struct log_half){NULL, 0};
    pthread_mutex_unlock(&log_mtx);
}

enum err_code log_start(int fd, enum log_level level)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    SG_ASSERT((unsigned)level < LOG_LEVEL_COUNT);
    pthread_once(&once, init_conds);
    char *first = malloc(LOG_HALF), *second = malloc(LOG_HALF);
    enum err_code code = first && second ? ERR_OK : ERR_NO_MEMORY;
    if (code == ERR_OK)
        code = claim_log(fd, first, second);
    if (code != ERR_OK) {
        free(first);
        free(second);
        return code;
    }
    if (create_writer() != 0) {
        release_log();
        return ERR_INTERNAL;
    }
    log_set_level(level);
    return ERR_OK;
}

void log_stop(void)
{
    log_flush_thread();
    pthread_mutex_lock(&log_mtx);
    if (log_state == LOG_OFF || log_state == LOG_LEFT_BEHIND) {
        pthread_mutex_unlock(&log_mtx);
        return;
    }
    atomic_store_explicit(&log_level, LOG_LEVEL_COUNT, memory_order_relaxed);
    uint64_t deadline_ns = clock_mono_ns() + LOG_STOP_NS;
    atomic_store_explicit(&stop_deadline_ns, deadline_ns, memory_order_release);
    pthread_cond_signal(&log_wake);
    /* The writer gives up at the deadline by itself; a little more is for its last poll(). */
    struct timespec until = mono_timespec(deadline_ns + SG_NSEC_PER_MSEC * 4 * LOG_POLL_MS);
    while (!writer_done && pthread_cond_timedwait(&log_done, &log_mtx, &until) != ETIMEDOUT)
        ;
    bool done = writer_done;
    if (!done)
        log_state = LOG_LEFT_BEHIND;
    pthread_mutex_unlock(&log_mtx);
    if (!done) {
        pthread_detach(writer_thread);
        return;
    }
    pthread_join(writer_thread, NULL);
    release_log();
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
    int level = atomic_load_explicit(&log_level, memory_order_relaxed);
    return level < LOG_LEVEL_COUNT ? (enum log_level)level : LOG_FATAL;
}

uint64_t log_dropped_total(void)
{
    return atomic_load_explicit(&dropped_total, memory_order_relaxed);
}

bool log_limit_ok(struct log_limit *limit, uint64_t now_ns, uint32_t per_second, uint64_t *ret_suppressed)
{
    if (limit->window_ns == 0 || now_ns - limit->window_ns >= SG_NSEC_PER_SEC) {
        limit->window_ns = now_ns;
        limit->passed = 0;
    }
    if (limit->passed >= per_second) {
        limit->suppressed++;
        return false;
    }
    limit->passed++;
    *ret_suppressed = limit->suppressed;
    limit->suppressed = 0;
    return true;
}
