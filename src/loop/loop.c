/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants:
 * - Only the inbox (inbox, wake_fd, stopping) is touched by other threads; everything else belongs to the loop's thread.
 * - The inbox is a lock-free stack. The sender that finds it empty wakes the loop; the loop takes the whole stack with one
 *   exchange and reverses it, so messages of one sender keep their order and no wake-up is lost.
 * - epoll data is slot | generation << 32. A slot's generation changes when its io is deleted, so events fetched
 *   before the deletion find nobody.
 * - Deferred tasks run after everything else of the turn; tasks they queue run in the same turn. */
#include "syncgate/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOP_EVENTS 256

struct loop_slot {
    struct loop_io *io; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

struct loop {
    int epoll_fd;
    uint64_t now_ns;

    struct loop_slot *slots; /* [0] is unused */
    uint32_t slot_count, slot_cap, free_slot;

    struct loop_timer **heap; /* 1-based binary min-heap */
    uint32_t heap_len, heap_cap;

    struct loop_task *task_head, **task_tail;

    _Atomic(struct loop_msg *) inbox;
    struct loop_io wake;
    atomic_bool stopping;
};

/* ---- inbox ---- */

static struct loop_msg *inbox_take(struct loop *loop)
{
    struct loop_msg *stack = atomic_exchange_explicit(&loop->inbox, NULL, memory_order_acquire), *fifo = NULL;
    while (stack) {
        struct loop_msg *next = stack->next;
        stack->next = fifo;
        fifo = stack;
        stack = next;
    }
    return fifo;
}

static void inbox_deliver(struct loop *loop)
{
    for (struct loop_msg *msg = inbox_take(loop), *next; msg; msg = next) {
        next = msg->next;
        msg->on_msg(msg);
    }
}

static void wake_up(struct loop *loop)
{
    const uint64_t one = 1;
    ssize_t n;
    do
        n = write(loop->wake.fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
}

static void on_wake(struct loop_io *io, uint32_t events)
{
    (void)events;
    uint64_t count;
    while (read(io->fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    inbox_deliver(SG_CONTAINER_OF(io, struct loop, wake));
}

void loop_post(struct loop *loop, struct loop_msg *msg)
{
    struct loop_msg *head = atomic_load_explicit(&loop->inbox, memory_order_relaxed);
    do
        msg->next = head;
    while (!atomic_compare_exchange_weak_explicit(&loop->inbox, &head, msg, memory_order_release,
                                                  memory_order_relaxed));
    if (!head)
        wake_up(loop);
}

/* ---- life ---- */

struct loop *loop_new(struct err *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop) {
        err_set(err, ERR_NO_MEMORY, "out of memory for an event loop");
        return NULL;
    }
    atomic_init(&loop->inbox, NULL);
    atomic_init(&loop->stopping, false);
    loop->task_tail = &loop->task_head;
    loop->now_ns = clock_mono_ns();
    loop->wake = (struct loop_io){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .on_ready = on_wake};
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0 || loop->wake.fd < 0 || loop_io_add(loop, &loop->wake, EPOLLIN) != ERR_OK) {
        err_set(err, ERR_INTERNAL, "cannot create an event loop: %s", strerror(errno));
        loop_freep(&loop);
    }
    return loop;
}

void loop_freep(struct loop **loop_ptr)
{
    struct loop *loop = *loop_ptr;
    if (!loop)
        return;
    *loop_ptr = NULL;
    inbox_deliver(loop);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake.fd >= 0)
        close(loop->wake.fd);
    free(loop->slots);
    free(loop->heap);
    free(loop);
}

void loop_deliver(struct loop *loop)
{
    inbox_deliver(loop);
}

void loop_stop(struct loop *loop)
{
    atomic_store_explicit(&loop->stopping, true, memory_order_release);
    wake_up(loop);
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

uint64_t loop_now_refresh_ns(struct loop *loop)
{
    return loop->now_ns = clock_mono_ns();
}

/* ---- file descriptors ---- */

static uint32_t slot_take(struct loop *loop)
{
    if (!loop->free_slot) {
        if (loop->slot_count + 1 >= loop->slot_cap) {
            uint32_t cap = loop->slot_cap ? loop->slot_cap * 2 : 64;
            struct loop_slot *slots = realloc(loop->slots, cap * sizeof(*slots));
            if (!slots)
                return 0;
            loop->slots = slots;
            loop->slot_cap = cap;
        }
        uint32_t slot = ++loop->slot_count;
        loop->slots[slot] = (struct loop_slot){NULL, 1, 0};
        return slot;
    }
    uint32_t slot = loop->free_slot;
    loop->free_slot = loop->slots[slot].next_free;
    return slot;
}

static void slot_give_back(struct loop *loop, uint32_t slot)
{
    loop->slots[slot].io = NULL;
    loop->slots[slot].generation++;
    loop->slots[slot].next_free = loop->free_slot;
    loop->free_slot = slot;
}

static int slot_ctl(struct loop *loop, int op, struct loop_io *io, uint32_t events)
{
    struct epoll_event event = {
        .events = events,
        .data.u64 = io->slot | (uint64_t)loop->slots[io->slot].generation << 32,
    };
    return epoll_ctl(loop->epoll_fd, op, io->fd, &event);
}

enum err_code loop_io_add(struct loop *loop, struct loop_io *io, uint32_t events)
{
    SG_ASSERT(io->slot == 0);
    io->slot = slot_take(loop);
    if (!io->slot)
        return ERR_NO_MEMORY;
    loop->slots[io->slot].io = io;
    if (slot_ctl(loop, EPOLL_CTL_ADD, io, events) == 0)
        return ERR_OK;
    slot_give_back(loop, io->slot);
    io->slot = 0;
    return ERR_INTERNAL;
}

enum err_code loop_io_mod(struct loop *loop, struct loop_io *io, uint32_t events)
{
    SG_ASSERT(io->slot != 0);
    return slot_ctl(loop, EPOLL_CTL_MOD, io, events) == 0 ? ERR_OK : ERR_INTERNAL;
}

void loop_io_del(struct loop *loop, struct loop_io *io)
{
    if (!io->slot)
        return;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
    slot_give_back(loop, io->slot);
    io->slot = 0;
}

/* ---- timers ---- */

static void heap_place(struct loop *loop, uint32_t pos, struct loop_timer *timer)
{
    loop->heap[pos] = timer;
    timer->heap_pos = pos;
}

static void heap_up(struct loop *loop, uint32_t pos, struct loop_timer *timer)
{
    for (; pos > 1 && loop->heap[pos / 2]->deadline_ns > timer->deadline_ns; pos /= 2)
        heap_place(loop, pos, loop->heap[pos / 2]);
    heap_place(loop, pos, timer);
}

static void heap_down(struct loop *loop, uint32_t pos, struct loop_timer *timer)
{
    for (uint32_t child; (child = pos * 2) <= loop->heap_len; pos = child) {
        if (child < loop->heap_len && loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
            child++;
        if (loop->heap[child]->deadline_ns >= timer->deadline_ns)
            break;
        heap_place(loop, pos, loop->heap[child]);
    }
    heap_place(loop, pos, timer);
}

enum err_code loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns)
{
    uint32_t pos = timer->heap_pos;
    if (!pos) {
        if (loop->heap_len + 1 >= loop->heap_cap) {
            uint32_t cap = loop->heap_cap ? loop->heap_cap * 2 : 64;
            struct loop_timer **heap = realloc(loop->heap, cap * sizeof(struct loop_timer *));
            if (!heap)
                return ERR_NO_MEMORY;
            loop->heap = heap;
            loop->heap_cap = cap;
        }
        pos = ++loop->heap_len;
        timer->deadline_ns = deadline_ns;
        heap_up(loop, pos, timer);
        return ERR_OK;
    }
    bool sooner = deadline_ns < timer->deadline_ns;
    timer->deadline_ns = deadline_ns;
    if (sooner)
        heap_up(loop, pos, timer);
    else
        heap_down(loop, pos, timer);
    return ERR_OK;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
    uint32_t pos = timer->heap_pos;
    if (!pos)
        return;
    timer->heap_pos = 0;
    struct loop_timer *last = loop->heap[loop->heap_len--];
    if (last == timer)
        return;
    if (pos > 1 && loop->heap[pos / 2]->deadline_ns > last->deadline_ns)
        heap_up(loop, pos, last);
    else
        heap_down(loop, pos, last);
}

static void run_timers(struct loop *loop)
{
    while (loop->heap_len && loop->heap[1]->deadline_ns <= loop->now_ns) {
        struct loop_timer *timer = loop->heap[1];
        loop_timer_cancel(loop, timer);
        timer->on_timer(timer);
    }
}

/* ---- end-of-turn work ---- */

void loop_defer(struct loop *loop, struct loop_task *task)
{
    if (task->queued)
        return;
    task->queued = true;
    task->next = NULL;
    *loop->task_tail = task;
    loop->task_tail = &task->next;
}

void loop_undefer(struct loop *loop, struct loop_task *task)
{
    if (!task->queued)
        return;
    task->queued = false;
    for (struct loop_task **at = &loop->task_head; *at; at = &(*at)->next) {
        if (*at != task)
            continue;
        *at = task->next;
        if (loop->task_tail == &task->next)
            loop->task_tail = at;
        return;
    }
}

static void run_tasks(struct loop *loop)
{
    /* Bounded: a task that queues itself again runs in the next turn at the latest, so events are not starved. */
    for (int budget = 4096; loop->task_head && budget > 0; budget--) {
        struct loop_task *task = loop->task_head;
        loop->task_head = task->next;
        if (!loop->task_head)
            loop->task_tail = &loop->task_head;
        task->queued = false;
        task->on_task(task);
    }
}

/* ---- the turn ---- */

/* Rounded up, so that a timer never fires early and the loop does not spin on the last fraction of a millisecond. */
static int wait_ms(const struct loop *loop, int max_wait_ms)
{
    if (loop->task_head)
        return 0;
    if (!loop->heap_len)
        return max_wait_ms;
    uint64_t now = clock_mono_ns(), deadline = loop->heap[1]->deadline_ns;
    if (deadline <= now)
        return 0;
    uint64_t ms = (deadline - now + SG_NSEC_PER_MSEC - 1) / SG_NSEC_PER_MSEC;
    if (ms > 60000)
        ms = 60000;
    return max_wait_ms >= 0 && (uint64_t)max_wait_ms < ms ? max_wait_ms : (int)ms;
}

void loop_turn(struct loop *loop, int max_wait_ms)
{
    struct epoll_event events[LOOP_EVENTS];
    int n = epoll_wait(loop->epoll_fd, events, LOOP_EVENTS, wait_ms(loop, max_wait_ms));
    loop->now_ns = clock_mono_ns();
    for (int i = 0; i < n; i++) {
        struct loop_slot *slot = &loop->slots[(uint32_t)events[i].data.u64];
        if (slot->io && slot->generation == (uint32_t)(events[i].data.u64 >> 32))
            slot->io->on_ready(slot->io, events[i].events);
    }
    run_timers(loop);
    run_tasks(loop);
}

void loop_run(struct loop *loop, void (*after_turn)(void))
{
    while (!atomic_load_explicit(&loop->stopping, memory_order_acquire)) {
        loop_turn(loop, -1);
        if (after_turn)
            after_turn();
    }
}
