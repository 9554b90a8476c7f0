/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "syncgate/loop.h"

static int fired[64], fired_count;
struct numbered_timer {
    struct loop_timer timer;
    int number;
};

static void on_numbered(struct loop_timer *timer)
{
    fired[fired_count++] = SG_CONTAINER_OF(timer, struct numbered_timer, timer)->number;
}

static void test_timers_fire_in_order(void **state)
{
    (void)state;
    struct loop *loop = loop_new(NULL);
    struct numbered_timer timers[32] = {0};
    uint64_t now = loop_now_ns(loop);
    fired_count = 0;
    for (int i = 0; i < 32; i++) {
        timers[i].timer.on_timer = on_numbered;
        timers[i].number = (i * 7) % 32;
        assert_int_equal(loop_timer_set(loop, &timers[i].timer, now + (uint64_t)timers[i].number * 1000),
                         ERR_OK);
    }
    for (int i = 0; i < 32; i++) /* every third is cancelled, one is moved to the end */
        if (timers[i].number % 3 == 0)
            loop_timer_cancel(loop, &timers[i].timer);
        else if (timers[i].number == 1)
            assert_int_equal(loop_timer_set(loop, &timers[i].timer, now + 40000), ERR_OK);
    while (fired_count < 21)
        loop_turn(loop, -1);
    assert_int_equal(fired[20], 1);
    for (int i = 1; i < 20; i++)
        assert_true(fired[i] > fired[i - 1]);
    loop_freep(&loop);
}

static void test_timer_not_early(void **state)
{
    (void)state;
    struct loop *loop = loop_new(NULL);
    struct numbered_timer timer = {.timer.on_timer = on_numbered};
    fired_count = 0;
    uint64_t deadline = clock_mono_ns() + 3500000;
    assert_int_equal(loop_timer_set(loop, &timer.timer, deadline), ERR_OK);
    while (!fired_count)
        loop_turn(loop, -1);
    assert_true(clock_mono_ns() >= deadline);
    assert_false(loop_timer_is_set(&timer.timer));
    loop_freep(&loop);
}

struct counted_msg {
    struct loop_msg msg;
    int sender, number;
};
static int last_of[4], received;
static struct loop *post_loop;

static void on_counted(struct loop_msg *msg)
{
    struct counted_msg *counted = SG_CONTAINER_OF(msg, struct counted_msg, msg);
    assert_int_equal(counted->number, last_of[counted->sender] + 1);
    last_of[counted->sender] = counted->number;
    if (++received == 4 * 20000)
        loop_stop(post_loop);
    free(counted);
}

static void *sender_main(void *arg)
{
    int sender = (int)(intptr_t)arg;
    for (int i = 1; i <= 20000; i++) {
        struct counted_msg *counted = malloc(sizeof(*counted));
        SG_ASSERT(counted);
        *counted = (struct counted_msg){.msg.on_msg = on_counted, .sender = sender, .number = i};
        loop_post(post_loop, &counted->msg);
    }
    return NULL;
}

static void test_inbox_keeps_order_and_loses_nothing(void **state)
{
    (void)state;
    pthread_t threads[4];
    post_loop = loop_new(NULL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sender_main, (void *)(intptr_t)i), 0);
    loop_run(post_loop, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(received, 4 * 20000);
    loop_freep(&post_loop);
}

/* Two descriptors are ready in one turn; the first one's callback deletes the other, whose event must be dropped. */
static struct loop *io_loop;
static struct loop_io ios[2];
static int io_calls;
static void on_io(struct loop_io *io, uint32_t events)
{
    (void)events;
    io_calls++;
    struct loop_io *other = io == &ios[0] ? &ios[1] : &ios[0];
    loop_io_del(io_loop, other);
    loop_io_del(io_loop, io);
}

static void test_deleted_io_gets_no_event(void **state)
{
    (void)state;
    int pipes[2][2];
    io_loop = loop_new(NULL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe(pipes[i]), 0);
        ios[i] = (struct loop_io){.fd = pipes[i][0], .on_ready = on_io};
        assert_int_equal(loop_io_add(io_loop, &ios[i], EPOLLIN), ERR_OK);
        assert_int_equal(write(pipes[i][1], "x", 1), 1);
    }
    loop_turn(io_loop, -1);
    assert_int_equal(io_calls, 1);
    loop_turn(io_loop, 0);
    assert_int_equal(io_calls, 1);
    for (int i = 0; i < 2; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    loop_freep(&io_loop);
}

static int task_runs;
static void on_task(struct loop_task *task)
{
    (void)task;
    task_runs++;
}

static void test_tasks_run_once_a_turn(void **state)
{
    (void)state;
    struct loop *loop = loop_new(NULL);
    struct loop_task a = {.on_task = on_task}, b = {.on_task = on_task}, c = {.on_task = on_task};
    loop_defer(loop, &a);
    loop_defer(loop, &a);
    loop_defer(loop, &b);
    loop_undefer(loop, &b);
    loop_defer(loop, &c);
    loop_turn(loop, 0);
    assert_int_equal(task_runs, 2);
    loop_turn(loop, 0);
    assert_int_equal(task_runs, 2);
    loop_freep(&loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timers_fire_in_order),
        cmocka_unit_test(test_timer_not_early),
        cmocka_unit_test(test_inbox_keeps_order_and_loses_nothing),
        cmocka_unit_test(test_deleted_io_gets_no_event),
        cmocka_unit_test(test_tasks_run_once_a_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
