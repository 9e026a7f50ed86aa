/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "net/loop.h"
#include "tests/suite.h"

static struct net_loop *loop;
static uint64_t live_before;
static int order[100000], turns;
static atomic_int order_count;

static void setup(void)
{
    order_count = turns = 0;
    live_before = mem_live();
    ck_assert_int_eq(net_loop_new(&loop), 0);
}

static void teardown(void)
{
    net_loop_free(loop);
    ck_assert_uint_eq(mem_live(), live_before);
}

static void note(void *arg) { order[order_count++] = (int)(intptr_t)arg; }

static void stop(void *arg) { net_loop_stop(loop); }

START_TEST(posts_run_in_order_on_the_loop_thread)
{
    for (intptr_t i = 0; i < 1000; i++) {
        ck_assert_int_eq(net_loop_post(loop, note, (void *)i), 0);
    }
    ck_assert_int_eq(net_loop_post(loop, stop, NULL), 0);
    ck_assert(net_loop_is_here(loop));
    net_loop_run(loop);
    ck_assert_int_eq(order_count, 1000);
    for (int i = 0; i < 1000; i++) {
        ck_assert_int_eq(order[i], i);
    }
}
END_TEST

#define POSTERS 4
#define POSTS 20000

static void *post_many(void *arg)
{
    intptr_t number = (intptr_t)arg;
    for (intptr_t i = 0; i < POSTS; i++) {
        ck_assert_int_eq(net_loop_post(loop, note, (void *)(number * POSTS + i)), 0);
    }
    return NULL;
}

START_TEST(each_threads_posts_stay_in_order)
{
    pthread_t threads[POSTERS];
    int next[POSTERS] = {0};
    ck_assert_int_eq(net_loop_start_thread(loop, "net"), 0);
    ck_assert(!net_loop_is_here(loop));
    for (intptr_t i = 0; i < POSTERS; i++) {
        pthread_create(&threads[i], NULL, post_many, (void *)i);
    }
    for (int i = 0; i < POSTERS; i++) {
        pthread_join(threads[i], NULL);
    }
    net_loop_free(loop); /* runs what it has taken in */
    loop = NULL;
    ck_assert_int_eq(order_count, POSTERS * POSTS);
    for (int i = 0; i < POSTERS * POSTS; i++) {
        int number = order[i] / POSTS;
        ck_assert_int_eq(order[i] % POSTS, next[number]);
        next[number]++;
    }
}
END_TEST

static void on_prepare(uv_prepare_t *prepare) { turns++; }

static void post_again(void *arg)
{
    intptr_t left = (intptr_t)arg;
    ck_assert_int_eq(net_loop_post(loop, left > 0 ? post_again : stop, (void *)(left - 1)), 0);
}

START_TEST(post_from_a_post_waits_for_the_next_turn)
{
    uv_prepare_t prepare;
    uv_prepare_init(net_loop_uv(loop), &prepare);
    uv_prepare_start(&prepare, on_prepare);
    ck_assert_int_eq(net_loop_post(loop, post_again, (void *)10), 0);
    net_loop_run(loop);
    ck_assert_int_ge(turns, 12);
    net_loop_free(loop); /* closes the handle that was left open, too */
    loop = NULL;
}
END_TEST

START_TEST(stopped_loop_takes_no_posts)
{
    net_loop_stop(loop);
    net_loop_run(loop);
    ck_assert_int_eq(net_loop_post(loop, note, NULL), TRK_ECLOSED);
    ck_assert_int_eq(order_count, 0);
}
END_TEST

START_TEST(joined_loop_may_be_stopped_again)
{
    ck_assert_int_eq(net_loop_start_thread(loop, "net"), 0);
    net_loop_join(loop);
    net_loop_stop(loop);
    net_loop_join(loop);
    ck_assert_int_eq(net_loop_post(loop, note, NULL), TRK_ECLOSED);
}
END_TEST

/* Posted, never run: the arguments must not be lost. */
START_TEST(posts_of_a_loop_that_never_ran_run_in_free)
{
    ck_assert_int_eq(net_loop_post(loop, note, NULL), 0);
    net_loop_free(loop);
    loop = NULL;
    ck_assert_int_eq(order_count, 1);
}
END_TEST

static void note_signals(void *arg)
{
    pthread_sigmask(SIG_BLOCK, NULL, arg);
    net_loop_stop(loop);
}

START_TEST(thread_blocks_signals)
{
    sigset_t set;
    sigemptyset(&set);
    ck_assert_int_eq(net_loop_start_thread(loop, "a name longer than fifteen"), 0);
    ck_assert_int_eq(net_loop_post(loop, note_signals, &set), 0);
    net_loop_free(loop);
    loop = NULL;
    ck_assert_int_eq(sigismember(&set, SIGINT), 1);
    ck_assert_int_eq(sigismember(&set, SIGTERM), 1);
    ck_assert_int_eq(sigismember(&set, SIGCHLD), 1);
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    ck_assert_int_eq(sigismember(&set, SIGINT), 0); /* only there */
}
END_TEST

START_TEST(no_memory_for_a_loop_or_a_post)
{
    struct net_loop *other = NULL;
    for (uint64_t n = 1; n <= 2; n++) {
        mem_fail_after(n);
        ck_assert_int_eq(net_loop_new(&other), TRK_ENOMEM);
        mem_fail_after(0);
        ck_assert_ptr_null(other);
    }
    mem_fail_after(1);
    ck_assert_int_eq(net_loop_post(loop, note, NULL), TRK_ENOMEM);
    mem_fail_after(0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("loop");
    TCase *t = tcase_create("loop");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, posts_run_in_order_on_the_loop_thread);
    tcase_add_test(t, each_threads_posts_stay_in_order);
    tcase_add_test(t, post_from_a_post_waits_for_the_next_turn);
    tcase_add_test(t, stopped_loop_takes_no_posts);
    tcase_add_test(t, joined_loop_may_be_stopped_again);
    tcase_add_test(t, posts_of_a_loop_that_never_ran_run_in_free);
    tcase_add_test(t, thread_blocks_signals);
    tcase_add_test(t, no_memory_for_a_loop_or_a_post);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
