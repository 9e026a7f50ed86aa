/* SPDX-License-Identifier: MIT */
/* test_durable.c - works of a job over real VM processes, by a C program: recorded, and given back
 * to the next farm. This is also what a thread sanitizer looks at. */
#include "base/fail.h" /* before check.h, which has a macro of that name */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "farm/job.h"
#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig;
static struct trk_job *job;
static struct trk_farm *farm;
static struct trk_vmlist *list;
static char home[80];
static uint64_t ahead_elements, ahead_bytes;

static void open_all(enum trk_on_change on_change)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "durable", .home = home,
                                  .on_change = on_change};
    struct trk_farm_options options = {.size = sizeof(options), .runtime_dir = rig.dir};
    struct trk_job_opened opened;
    int rc = trk_job_open(&job, &opt, &opened);

    ck_assert_msg(rc == 0, "trk_job_open: %d %s", rc, trk_last_error());
    options.job = job;
    rc = trk_farm_new(&farm, &options);
    ck_assert_msg(rc == 0, "trk_farm_new: %d %s", rc, trk_last_error());
    rc = rig_connect(farm, 2, true, 5000, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void close_all(void)
{
    trk_vmlist_free(list);
    trk_farm_close(farm, 1000);
    ck_assert_int_eq(trk_job_close(job), 0);
}

static void setup(void)
{
    rig_start(&rig);
    rig_supervisor(&rig, 2);
    snprintf(home, sizeof(home), "%s/home", rig.dir);
    open_all(TRK_CHANGE_REFUSE);
}

static void teardown(void)
{
    char command[128];

    close_all();
    snprintf(command, sizeof(command), "rm -r %s", home);
    ck_assert_int_eq(system(command), 0);
    rig_stop(&rig);
}

static struct trk_work *work_new(bool ordered)
{
    struct trk_work_options opt = {.size = sizeof(opt), .name = "echo", .function = "echo",
                                   .function_size = 4, .list = list, .ordered = ordered,
                                   .ahead_elements = ahead_elements,
                                   .ahead_bytes = ahead_bytes, .key = "echo#1"};
    struct trk_work *work;
    int rc = trk_work_new(farm, &opt, &work);

    ck_assert_msg(rc == 0, "trk_work_new: %d %s", rc, trk_last_error());
    return work;
}

/* false: the next element is to be made first. */
static bool take(struct trk_work *work, unsigned char *seen, uint64_t offset)
{
    struct trk_result r;
    char text[32];
    int rc;

    do {
        rc = trk_work_next(work, 10000, &r);
    } while (rc == TRK_AGAIN && trk_work_turn(work) != TRK_TURN_ADD);
    if (rc == TRK_AGAIN) {
        return false;
    }
    ck_assert_msg(rc == 0, "trk_work_next: %d %s", rc, trk_last_error());
    snprintf(text, sizeof(text), "%llu", (unsigned long long)(r.index + offset));
    if (r.size != strlen(text) || memcmp(r.payload, text, r.size) != 0 || seen[r.index]++ != 0) {
        ck_abort_msg("element %llu: expected %s once, got %.*s", (unsigned long long)r.index, text,
                     (int)r.size, (const char *)r.payload);
    }
    return true;
}

/* Elements offset, offset + 1, ...: adds all, takes all, as the turns are. */
static struct trk_progress run_all(uint64_t n, uint64_t offset, bool ordered)
{
    struct trk_work *work = work_new(ordered);
    unsigned char *seen = calloc(n, 1);
    struct trk_progress progress;
    uint64_t added = 0, taken = 0;

    while (taken < n) {
        enum trk_turn turn = trk_work_turn(work);
        if (added < n && turn != TRK_TURN_TAKE) {
            char text[32];
            int size = snprintf(text, sizeof(text), "%llu", (unsigned long long)(added + offset));
            int rc = trk_work_add(work, text, (size_t)size);
            ck_assert_msg(rc == 0 || rc == TRK_FULL, "trk_work_add: %d %s", rc, trk_last_error());
            added += rc == 0;
            if (rc == 0 && added < n) {
                continue;
            }
        }
        if (added == n) {
            int rc = trk_work_close(work);
            ck_assert_msg(rc == 0, "trk_work_close: %d %s", rc, trk_last_error());
        }
        taken += take(work, seen, offset);
    }
    trk_work_progress(work, &progress);
    trk_work_free(work);
    free(seen);
    return progress;
}

START_TEST(recorded_results_are_given_back_without_vms)
{
    for (int ordered = 0; ordered < 2; ordered++) {
        struct trk_progress p = run_all(5000, 0, ordered);
        ck_assert_uint_eq(p.done, 5000);
        ck_assert_uint_eq(p.restored, ordered ? 5000 : 0);
        close_all();
        open_all(TRK_CHANGE_REFUSE);
        p = run_all(5000, 0, ordered);
        ck_assert_uint_eq(p.done, 5000);
        ck_assert_uint_eq(p.restored, 5000);
    }
}
END_TEST

START_TEST(a_work_that_was_left_goes_on)
{
    struct trk_work *work = work_new(false);
    unsigned char seen[3000] = {0};
    struct trk_progress p;
    char text[32];

    for (int i = 0; i < 3000; i++) {
        int size = snprintf(text, sizeof(text), "%d", i);
        ck_assert_int_eq(trk_work_add(work, text, (size_t)size), 0);
    }
    for (int i = 0; i < 100; i++) {
        take(work, seen, 0);
    }
    trk_work_free(work); /* nothing waits for what is under way */
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    p = run_all(4000, 0, true);
    ck_assert_uint_ge(p.restored, 100);
    ck_assert_uint_eq(p.done, 4000);
}
END_TEST

START_TEST(another_list_is_refused_and_taken_over_when_that_is_wanted)
{
    struct trk_work *work;
    struct trk_progress p;

    run_all(1000, 0, false);
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    work = work_new(false);
    ck_assert_int_eq(trk_work_add(work, "500", 3), TRK_ECHANGED);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "--on-change=keep"));
    trk_work_free(work);
    close_all();
    open_all(TRK_CHANGE_KEEP);
    p = run_all(1000, 500, false); /* half of them are those of before */
    ck_assert_uint_eq(p.done, 1000);
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    p = run_all(1000, 500, false);
    ck_assert_uint_eq(p.restored, 1000);
}
END_TEST

/* As trickle resume --retry-failed does, or the repair of a damaged store. */
static void forget(uint32_t stage, uint64_t first, uint64_t count)
{
    struct record_run run = {.first = first, .count = count};
    uint64_t ticket;

    ck_assert_int_eq(job_forget(job, stage, &run, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
}

START_TEST(a_full_window_does_not_wait_for_a_recorded_result_behind_it)
{
    for (int i = 0; i < 2; i++) {
        struct trk_progress p;
        run_all(100, 0, false);
        close_all();
        open_all(TRK_CHANGE_REFUSE);
        forget(1, 0, 99);
        ahead_elements = i == 0 ? 3 : 0;
        ahead_bytes = i == 1 ? 5 : 0;
        p = run_all(100, 0, false);
        ahead_elements = ahead_bytes = 0;
        ck_assert_uint_eq(p.restored, 1);
    }
}
END_TEST

START_TEST(a_list_changed_again_keeps_nothing_of_the_first_comparison)
{
    uint64_t live;
    struct trk_work *work;

    run_all(10, 0, false);
    close_all();
    open_all(TRK_CHANGE_KEEP);
    run_all(10, 1, false);
    forget(2, 2, 1);
    close_all();
    live = mem_live();
    open_all(TRK_CHANGE_KEEP);
    work = work_new(false);
    for (int i = 1; i <= 10; i++) { /* the third is compared with the first list */
        char text[32];
        int size = snprintf(text, sizeof(text), "%d", i < 8 ? i : i + 100);
        ck_assert_int_eq(trk_work_add(work, text, (size_t)size), 0);
    }
    trk_work_free(work);
    close_all();
    ck_assert_uint_eq(mem_live(), live);
    open_all(TRK_CHANGE_KEEP);
}
END_TEST

START_TEST(the_end_of_the_list_waits_for_what_runs_again)
{
    struct trk_work *work = work_new(false);
    unsigned char seen[2] = {0}, again[2] = {0};
    struct trk_result r;

    ck_assert_int_eq(trk_work_add(work, "0", 1), 0);
    ck_assert_int_eq(trk_work_add(work, "1", 1), 0);
    take(work, seen, 0);
    take(work, seen, 0);
    ck_assert_int_eq(trk_work_close(work), 0);
    trk_work_free(work);
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    forget(1, 1, 1);
    work = work_new(false);
    ck_assert_int_eq(trk_work_add(work, "0", 1), 0);
    ck_assert_int_eq(trk_work_add(work, "1", 1), 0);
    ck_assert_int_eq(trk_work_turn(work), TRK_TURN_TAKE);
    take(work, again, 0);
    ck_assert_int_eq(again[0], 1);
    ck_assert_int_eq(trk_work_next(work, 0, &r), TRK_AGAIN); /* it was not sent yet */
    ck_assert_int_eq(trk_work_turn(work), TRK_TURN_TAKE);
    take(work, again, 0);
    ck_assert_int_ne(trk_work_turn(work), TRK_TURN_TAKE);
    ck_assert_int_eq(trk_work_close(work), 0);
    ck_assert_int_eq(trk_work_next(work, 0, &r), TRK_END);
    trk_work_free(work);
}
END_TEST

START_TEST(a_list_that_has_grown_is_not_closed)
{
    struct trk_work *work;

    run_all(3, 0, false);
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    ck_assert(job->stages[0]->is_closed);
    work = work_new(false);
    for (int i = 0; i < 5; i++) {
        char text[32];
        int size = snprintf(text, sizeof(text), "%d", i);
        ck_assert_int_eq(trk_work_add(work, text, (size_t)size), 0);
    }
    ck_assert_int_eq(trk_work_flush(work), 0);
    trk_work_free(work); /* the program ended before it had made all */
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    ck_assert(!job->stages[0]->is_closed);
}
END_TEST

START_TEST(a_work_that_could_not_be_opened_can_be_opened_again)
{
    struct trk_work_options opt = {.size = sizeof(opt), .name = "echo", .function = "echo",
                                   .function_size = 4, .list = list, .key = "echo#1"};
    struct trk_work *work;
    int rc = TRK_ENOMEM;

    run_all(10, 0, false);
    for (uint64_t n = 1; rc < 0 && n < 200; n++) {
        mem_fail_after(n);
        rc = trk_work_new(farm, &opt, &work);
        mem_fail_after(0);
        ck_assert_msg(rc == 0 || rc == TRK_ENOMEM, "%d %s", rc, trk_last_error());
    }
    ck_assert_int_eq(rc, 0);
    trk_work_free(work);
}
END_TEST

START_TEST(a_job_that_must_exist_is_not_made)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "other", .home = home,
                                  .must_exist = true};
    struct trk_job_opened opened;
    struct trk_job *other;

    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(trk_job_open(&other, &opt, &opened), TRK_EINVAL);
    }
    opt.must_exist = false;
    ck_assert_int_eq(trk_job_open(&other, &opt, &opened), 0);
    ck_assert(opened.is_new);
    ck_assert_int_eq(trk_job_close(other), 0);
    opt.must_exist = true;
    ck_assert_int_eq(trk_job_open(&other, &opt, &opened), 0);
    ck_assert_int_eq(trk_job_close(other), 0);
}
END_TEST

/* Another thread may have held any lock when it was forked. */
START_TEST(a_child_waits_for_no_lock)
{
    struct trk_job_state state;
    struct trk_work *work;
    int status = -1;
    pid_t pid;

    run_all(10, 0, false);
    close_all();
    open_all(TRK_CHANGE_REFUSE);
    work = work_new(false);
    pthread_mutex_lock(&job->mutex);
    pid = fork();
    if (pid == 0) {
        alarm(5);
        trk_job_get_state(job, &state);
        _exit(trk_work_turn(work) != TRK_TURN_ANY);
    }
    pthread_mutex_unlock(&job->mutex);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    trk_work_free(work);
}
END_TEST

START_TEST(a_work_outlives_its_farm_and_its_job)
{
    struct trk_work *work = work_new(false);
    struct trk_result r;
    char text[32];

    for (int i = 0; i < 500; i++) {
        int size = snprintf(text, sizeof(text), "%d", i);
        ck_assert_int_eq(trk_work_add(work, text, (size_t)size), 0);
    }
    ck_assert_int_ge(trk_work_flush(work), 0);
    close_all();
    while (trk_work_next(work, 0, &r) == 0) {
    }
    ck_assert_int_lt(trk_work_add(work, "x", 1) + trk_work_close(work), 0);
    trk_work_free(work);
    open_all(TRK_CHANGE_REFUSE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("durable");
    TCase *all = tcase_create("all");

    tcase_set_timeout(all, 60);
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, recorded_results_are_given_back_without_vms);
    tcase_add_test(all, a_work_that_was_left_goes_on);
    tcase_add_test(all, another_list_is_refused_and_taken_over_when_that_is_wanted);
    tcase_add_test(all, a_full_window_does_not_wait_for_a_recorded_result_behind_it);
    tcase_add_test(all, a_list_changed_again_keeps_nothing_of_the_first_comparison);
    tcase_add_test(all, the_end_of_the_list_waits_for_what_runs_again);
    tcase_add_test(all, a_list_that_has_grown_is_not_closed);
    tcase_add_test(all, a_work_that_could_not_be_opened_can_be_opened_again);
    tcase_add_test(all, a_job_that_must_exist_is_not_made);
    tcase_add_test(all, a_child_waits_for_no_lock);
    tcase_add_test(all, a_work_outlives_its_farm_and_its_job);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
