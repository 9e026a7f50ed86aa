/* SPDX-License-Identifier: MIT */
/* test_crypto.c - the door to OpenSSL: closed at exit, free in a forked child. What happens at
 * exit happens in processes of their own. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "auth/crypto.h"
#include "base/sys.h"
#include "tests/suite.h"

#define CHILDREN 30
#define SLOW_NS 900000000 /* a door that cannot be shut is waited for for a second */
#define SLOW_MAX 3        /* children that the machine may have held up */

/* The exit status of a process that runs fn; -1: a signal ended it. */
static int status_of(void (*fn)(void))
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        alarm(30);
        fn();
        _exit(99);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* An exit handler that was there before OpenSSL's. */
static void look(void) { _exit(auth_crypto_enter() ? 1 : 42); }

static void exit_outside(void)
{
    atexit(look);
    if (!auth_crypto_enter()) {
        _exit(2);
    }
    auth_crypto_leave();
    if (!auth_crypto_enter()) {
        _exit(3);
    }
    auth_crypto_leave();
    exit(0);
}

START_TEST(nobody_enters_after_exit)
{
    ck_assert_int_eq(status_of(exit_outside), 42);
}
END_TEST

/* As in a signal handler that interrupts who is inside. */
static void exit_inside(void)
{
    exit(auth_crypto_enter() ? 42 : 2);
}

START_TEST(exit_from_inside_ends)
{
    ck_assert_int_eq(status_of(exit_inside), 42);
}
END_TEST

/* --- a wall clock that is wrong ---------------------------------------------------------- */

static time_t wall_ahead_s;

/* In place of the C library's. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) {
        now->tv_sec += wall_ahead_s;
    }
    return rc;
}

/* It was set back by an hour after the time had been asked for. */
START_TEST(step_of_the_clock_makes_no_end_longer)
{
    wall_ahead_s = 3600;
    ck_assert_int_eq(status_of(exit_inside), 42);
    wall_ahead_s = 0;
}
END_TEST

/* --- fork -------------------------------------------------------------------------------- */

static atomic_bool is_over;
static uint64_t exit_ns; /* when the child called exit() */

/* Inside nearly all the time. */
static void *go_in_and_out(void *unused)
{
    while (!is_over) {
        if (!auth_crypto_enter()) {
            return NULL;
        }
        for (uint64_t start = sys_now_ns(); sys_now_ns() - start < 1000000;) {
        }
        auth_crypto_leave();
    }
    return NULL;
}

static void say_whether_slow(void)
{
    if (exit_ns != 0) {
        _exit(sys_now_ns() - exit_ns < SLOW_NS ? 0 : 1);
    }
}

static void enter_and_exit(void)
{
    exit_ns = sys_now_ns();
    if (!auth_crypto_enter()) {
        _exit(3);
    }
    auth_crypto_leave();
    exit(2);
}

START_TEST(children_find_the_door_free)
{
    pthread_t thread;
    int slow = 0;
    atexit(say_whether_slow);
    ck_assert_int_eq(pthread_create(&thread, NULL, go_in_and_out, NULL), 0);
    for (int i = 0; i < CHILDREN && slow <= SLOW_MAX; i++) {
        int status = status_of(enter_and_exit);
        ck_assert_msg(status == 0 || status == 1, "child %d: exit status %d", i, status);
        slow += status;
    }
    is_over = true;
    pthread_join(thread, NULL);
    ck_assert_msg(slow <= SLOW_MAX, "%d children took as long as a door that stays shut", slow);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("crypto");
    TCase *t = tcase_create("crypto");
    tcase_set_timeout(t, 50);
    tcase_add_test(t, nobody_enters_after_exit);
    tcase_add_test(t, exit_from_inside_ends);
    tcase_add_test(t, step_of_the_clock_makes_no_end_longer);
    tcase_add_test(t, children_find_the_door_free);
    suite_add_tcase(s, t);
    return run_suite(s);
}
