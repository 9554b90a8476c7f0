/* SPDX-License-Identifier: Apache-2.0 */
/* loop: one epoll set, one timer heap and one inbox, run by one thread. Everything that belongs to a loop is touched
 * only by its thread, so it needs no lock; other threads reach it through loop_post() alone. libc only.
 * It never blocks but in epoll_wait, and knows nothing of HTTP or Kafka. design.md section 6. */
#pragma once

#include <sys/epoll.h>

#include "syncgate/base.h"
#include "syncgate/err.h"

struct loop;

/* ---- file descriptors ----
 * Embedded in its owner. The loop's epoll data holds a slot and a generation, never this pointer, so an event that
 * was already fetched when loop_io_del() ran is dropped. */
struct loop_io {
    int fd;
    uint32_t slot; /* private */
    void (*on_ready)(struct loop_io *io, uint32_t events);
};

/* ---- timers ---- Embedded; zero-initialised means not set. */
struct loop_timer {
    uint64_t deadline_ns; /* CLOCK_MONOTONIC */
    uint32_t heap_pos;    /* private: 1-based, 0 = not set */
    void (*on_timer)(struct loop_timer *timer);
};

/* ---- inbox ---- Embedded in a message that belongs to the loop from loop_post() on; on_msg owns it again. */
struct loop_msg {
    struct loop_msg *next; /* private */
    void (*on_msg)(struct loop_msg *msg);
};

/* ---- end-of-turn work ---- Embedded; runs once after the events, timers and messages of this turn. */
struct loop_task {
    struct loop_task *next; /* private */
    bool queued;            /* private */
    void (*on_task)(struct loop_task *task);
};

/* Returns owned, or NULL with *err filled. Thread: any. */
struct loop *loop_new(struct err *err);
/* The loop must not be running. Messages still in the inbox are delivered first. NULL-safe. */
void loop_freep(struct loop **loop);

/* Runs until loop_stop(). after_turn (NULL: none) is called before each wait, e.g. to hand over log lines.
 * Thread: the loop's own. */
void loop_run(struct loop *loop, void (*after_turn)(void));
/* One turn: waits at most max_wait_ms (-1: until something happens), then handles what is ready. For tests. */
void loop_turn(struct loop *loop, int max_wait_ms);
/* Delivers what is in the inbox, and nothing else. The loop must not be running. Thread: main. */
void loop_deliver(struct loop *loop);
/* Makes loop_run() return after the turn under way. Thread: any. */
void loop_stop(struct loop *loop);

/* CLOCK_MONOTONIC ns, read once per turn. Thread: loop. */
uint64_t loop_now_ns(const struct loop *loop);
/* Reads the clock again (after long work in a turn). Thread: loop. */
uint64_t loop_now_refresh_ns(struct loop *loop);

/* events: EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET ...; io->fd and io->on_ready are set by the caller, the fd stays the
 * caller's. ERR_OK, ERR_NO_MEMORY or ERR_INTERNAL (epoll_ctl failed). Thread: loop. */
enum err_code loop_io_add(struct loop *loop, struct loop_io *io, uint32_t events) SG_NODISCARD;
enum err_code loop_io_mod(struct loop *loop, struct loop_io *io, uint32_t events) SG_NODISCARD;
/* Before the fd is closed. No callback follows. Harmless when not added. Thread: loop. */
void loop_io_del(struct loop *loop, struct loop_io *io);

/* Sets or moves the timer; ERR_NO_MEMORY leaves it as it was. It fires not before deadline_ns. Thread: loop. */
enum err_code loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns) SG_NODISCARD;
/* Harmless when not set. No callback follows. Thread: loop. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);
static inline bool loop_timer_is_set(const struct loop_timer *timer)
{
    return timer->heap_pos != 0;
}

/* Hands msg to the loop, in order per sender; wakes it once per batch. Thread: any. Locks: none (lock-free). */
void loop_post(struct loop *loop, struct loop_msg *msg);
/* Queues the task for the end of this turn; queued twice runs once. Thread: loop. */
void loop_defer(struct loop *loop, struct loop_task *task);
/* Takes a queued task back (its owner goes away). Thread: loop. */
void loop_undefer(struct loop *loop, struct loop_task *task);
