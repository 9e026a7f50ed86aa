/* SPDX-License-Identifier: MIT */
/* test_run.c - whole works by trk_work_run over real VM processes: sources and sinks that answer
 * all they may, stops from threads and signal handlers, resumed jobs, two farms in one process. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig;
static struct trk_vmlist *list;

static void setup(void)
{
    rig_start(&rig);
    rig_supervisor(&rig, 2);
    int rc = rig_connect(rig.farm, 2, true, 5000, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void teardown(void)
{
    trk_vmlist_free(list);
    rig_stop(&rig);
}

static struct trk_work *work_of(struct trk_farm *farm, struct trk_vmlist *vms, bool ordered,
                                uint64_t ahead, const char *key)
{
    struct trk_work_options opt = {.size = sizeof(opt), .name = "echo", .function = "echo",
                                   .function_size = 4, .list = vms, .ordered = ordered,
                                   .ahead_elements = ahead, .key = key};
    struct trk_work *work;
    int rc = trk_work_new(farm, &opt, &work);

    ck_assert_msg(rc == 0, "trk_work_new: %d %s", rc, trk_last_error());
    return work;
}

static struct trk_work *work_new(bool ordered, uint64_t ahead)
{
    return work_of(rig.farm, list, ordered, ahead, NULL);
}

/* A stream of numbers as texts, and what came back. */
struct stream {
    struct trk_work *work;
    uint64_t count;        /* elements in all */
    const char *element;   /* NULL: the index as a text */
    bool ordered;
    uint64_t asked, taken; /* calls of the source that made one, of the sink */
    uint64_t fail_source_at, fail_sink_at; /* once, at this index or number; 0: never */
    uint64_t idle_every;   /* the source wants a result first after so many; 0: never */
    uint64_t sum;          /* of the numbers that came */
    char text[32];
};

static int source(void *ctx, uint64_t index, const void **element, size_t *size)
{
    struct stream *s = ctx;

    if (index != s->asked) {
        ck_abort_msg("expected to be asked for element %llu, was for %llu",
                     (unsigned long long)s->asked, (unsigned long long)index);
    }
    if (s->fail_source_at != 0 && index == s->fail_source_at) {
        s->fail_source_at = 0;
        return 100;
    }
    if (index == s->count) {
        return TRK_END;
    }
    if (s->idle_every != 0 && index >= s->taken + s->idle_every) {
        return TRK_AGAIN;
    }
    snprintf(s->text, sizeof(s->text), "%llu", (unsigned long long)index);
    *element = s->element != NULL ? s->element : s->text;
    *size = strlen(*element);
    s->asked++;
    return 0;
}

static int sink(void *ctx, const struct trk_result *r)
{
    struct stream *s = ctx;
    char text[32] = "";

    if (r->status != TRK_STATUS_OK || r->size >= sizeof(text) ||
        (s->ordered && r->index != s->taken)) {
        ck_abort_msg("result %llu, of element %llu: status %d, %zu bytes",
                     (unsigned long long)s->taken, (unsigned long long)r->index, (int)r->status,
                     r->size);
    }
    memcpy(text, r->payload, r->size);
    s->sum += strtoull(text, NULL, 10);
    s->taken++;
    if (s->fail_sink_at != 0 && s->taken == s->fail_sink_at) {
        s->fail_sink_at = 0;
        return TRK_EIO;
    }
    return 0;
}

static struct trk_run run_of(struct stream *s)
{
    return (struct trk_run){.size = sizeof(struct trk_run), .source = source, .source_ctx = s,
                            .sink = sink, .sink_ctx = s};
}

/* Until it is something other than TRK_AGAIN, at most 60 s. */
static int run(struct stream *s, int timeout_ms)
{
    struct trk_run r = run_of(s);
    time_t until = time(NULL) + 60;
    int rc;

    do {
        rc = trk_work_run(s->work, &r, timeout_ms);
    } while (rc == TRK_AGAIN && time(NULL) < until);
    return rc;
}

static void expect_all(const struct stream *s)
{
    ck_assert_uint_eq(s->asked, s->count);
    ck_assert_uint_eq(s->taken, s->count);
    ck_assert_uint_eq(s->sum, s->count * (s->count - 1) / 2);
}

START_TEST(every_element_is_made_once_and_every_result_given_once)
{
    struct stream s = {.work = work_new(_i & 1, _i & 2 ? 7 : 0), .count = _i & 2 ? 500 : 100000,
                       .ordered = _i & 1};

    ck_assert_int_eq(run(&s, -1), 0);
    expect_all(&s);
    ck_assert_int_eq(run(&s, -1), 0); /* nothing is left */
    expect_all(&s);
    trk_work_free(s.work);
}
END_TEST

START_TEST(no_time_at_all_gets_there_too)
{
    struct stream s = {.work = work_new(false, 100), .count = 3000};

    ck_assert_int_eq(run(&s, 0), 0);
    expect_all(&s);
    trk_work_free(s.work);
}
END_TEST

START_TEST(what_callbacks_say_is_returned_and_it_goes_on)
{
    struct stream s = {.work = work_new(true, 50), .count = 1000, .ordered = true,
                       .fail_source_at = 300, .fail_sink_at = 200};

    ck_assert_int_eq(run(&s, -1), TRK_EIO); /* 200 are taken before 300 are made: ahead is 50 */
    ck_assert_uint_eq(s.taken, 200);
    ck_assert_int_eq(run(&s, -1), 100);
    ck_assert_uint_eq(s.asked, 300);
    ck_assert_int_eq(run(&s, -1), 0);
    expect_all(&s);
    trk_work_free(s.work);
}
END_TEST

START_TEST(a_source_may_wait_for_results)
{
    struct stream s = {.work = work_new(false, 0), .count = 300, .idle_every = 1 + (uint64_t)_i};

    ck_assert_int_eq(run(&s, -1), 0);
    expect_all(&s);
    trk_work_free(s.work);
}
END_TEST

static int idle_source(void *ctx, uint64_t index, const void **element, size_t *size)
{
    return TRK_AGAIN;
}

START_TEST(a_source_that_waits_for_nothing_gives_the_thread_back)
{
    struct stream s = {.work = work_new(false, 0)};
    struct trk_run r = run_of(&s);

    r.source = idle_source;
    ck_assert_int_eq(trk_work_run(s.work, &r, -1), TRK_AGAIN);
    trk_work_free(s.work);
}
END_TEST

START_TEST(an_array_is_a_source)
{
    static const char elements[4][3] = {"10", "20", "30", "40"};
    struct trk_array array = {elements, 2, 0};
    struct stream s = {.work = work_new(false, 0)};
    struct trk_run r = run_of(&s);

    array = (struct trk_array){elements, sizeof(elements[0]), 4};
    r.source = trk_array_source;
    r.source_ctx = &array;
    ck_assert_int_eq(trk_work_run(s.work, &r, 20000), 0);
    ck_assert_uint_eq(s.taken, 4);
    ck_assert_uint_eq(s.sum, 100);
    trk_work_free(s.work);
}
END_TEST

START_TEST(without_a_source_or_a_sink_it_says_so)
{
    struct stream s = {.work = work_new(false, 0)};
    struct trk_run r = run_of(&s);

    r.sink = NULL;
    ck_assert_int_eq(trk_work_run(s.work, &r, -1), TRK_EINVAL);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "sink"));
    trk_work_free(s.work);
}
END_TEST

/* --- stopping ---------------- */

static struct stream *stopped;

static void *stop_soon(void *arg)
{
    struct trk_progress p;

    do { /* it is under way: in its wait, or just before */
        usleep(1000);
        trk_work_progress(stopped->work, &p);
    } while (p.vms == 0);
    if (arg != NULL) {
        kill(getpid(), *(int *)arg);
    } else {
        trk_work_stop(stopped->work);
    }
    return NULL;
}

START_TEST(another_thread_stops_it)
{
    struct stream s = {.work = work_new(false, 0), .count = 10, .element = "sleep 60000"};
    pthread_t thread;

    stopped = &s;
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_soon, NULL), 0);
    ck_assert_int_eq(run(&s, -1), TRK_ECANCELLED);
    ck_assert_int_eq(run(&s, -1), TRK_ECANCELLED); /* and it stays so */
    pthread_join(thread, NULL);
    trk_work_cancel(s.work, true);
    trk_work_free(s.work);
}
END_TEST

static void on_alarm(int number)
{
    trk_work_stop(stopped->work);
}

START_TEST(a_signal_handler_stops_it)
{
    struct stream s = {.work = work_new(false, 0), .count = 10, .element = "sleep 60000"};
    struct sigaction action = {.sa_handler = on_alarm};
    int number = SIGUSR1;
    pthread_t thread;

    stopped = &s;
    sigaction(SIGUSR1, &action, NULL);
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_soon, &number), 0);
    ck_assert_int_eq(run(&s, -1), TRK_ECANCELLED);
    pthread_join(thread, NULL);
    trk_work_free(s.work);
}
END_TEST

static void on_nothing(int number)
{
}

START_TEST(any_other_signal_is_an_answer)
{
    struct stream s = {.work = work_new(false, 0), .count = 10, .element = "sleep 60000"};
    struct sigaction action = {.sa_handler = on_nothing};
    struct trk_run r = run_of(&s);
    int number = SIGUSR1;
    pthread_t thread;
    sigset_t set;

    stopped = &s;
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* for the other thread: this one is to get it */
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_soon, &number), 0);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    ck_assert_int_eq(trk_work_run(s.work, &r, 20000), TRK_AGAIN);
    pthread_join(thread, NULL);
    trk_work_free(s.work);
}
END_TEST

/* Check has handlers of its own, which would stay. */
static void catch_from_default(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_IGN);
    ck_assert_int_eq(trk_signals_catch(), 0);
}

START_TEST(signals_that_are_caught_stop_every_run)
{
    struct stream s = {.work = work_new(false, 0), .count = 10, .element = "sleep 60000"};
    int number = _i == 0 ? SIGTERM : SIGINT;
    pthread_t thread;

    stopped = &s;
    catch_from_default();
    ck_assert_ptr_eq(signal(SIGHUP, SIG_IGN), SIG_IGN); /* nohup stays what it is */
    ck_assert_int_eq(trk_signals_caught(), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_soon, &number), 0);
    ck_assert_int_eq(run(&s, -1), TRK_ECANCELLED);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), _i == 0 ? "SIGTERM" : "SIGINT"));
    ck_assert_int_eq(trk_signals_caught(), number);
    pthread_join(thread, NULL);
    trk_work_cancel(s.work, true);
    trk_work_free(s.work);
}
END_TEST

START_TEST(the_second_signal_ends_the_process)
{
    catch_from_default();
    raise(SIGTERM);
    raise(SIGTERM);
}
END_TEST

START_TEST(a_cancelled_work_says_so)
{
    struct stream s = {.work = work_new(false, 0), .count = 100};

    trk_work_cancel(s.work, false);
    ck_assert_int_eq(run(&s, -1), TRK_ECANCELLED);
    trk_work_free(s.work);
}
END_TEST

/* --- jobs ---------------- */

struct durable {
    struct trk_job *job;
    struct trk_farm *farm;
    struct trk_vmlist *list;
    char home[80];
};

static void durable_open(struct durable *d)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "run", .home = d->home};
    struct trk_farm_options options = {.size = sizeof(options), .runtime_dir = rig.dir};
    struct trk_job_opened opened;

    snprintf(d->home, sizeof(d->home), "%s/home", rig.dir);
    ck_assert_int_eq(trk_job_open(&d->job, &opt, &opened), 0);
    options.job = d->job;
    ck_assert_int_eq(trk_farm_new(&d->farm, &options), 0);
    ck_assert_int_eq(rig_connect(d->farm, 2, true, 5000, &d->list), 0);
}

static int durable_finish(struct durable *d, int rc)
{
    trk_vmlist_free(d->list);
    trk_farm_close(d->farm, 1000);
    return trk_job_finish(d->job, rc);
}

START_TEST(a_stopped_job_goes_on_and_its_source_is_led)
{
    struct durable d = {.job = NULL};
    uint64_t stop_at = 150, total = 400, taken;

    trk_vmlist_close(list); /* the job is to have the VMs */
    for (int run_number = 0; run_number < 2; run_number++) {
        durable_open(&d);
        struct stream s = {.count = total, .idle_every = 20,
                           .work = work_of(d.farm, d.list, _i & 1, 0, "run"), .ordered = _i & 1,
                           .fail_sink_at = run_number == 0 ? stop_at : 0};
        struct trk_progress p;
        int rc = run(&s, -1);

        trk_work_progress(s.work, &p);
        taken = s.taken;
        trk_work_free(s.work);
        if (run_number == 0) {
            ck_assert_int_eq(rc, TRK_EIO);
            ck_assert_uint_eq(taken, stop_at);
            ck_assert_int_eq(durable_finish(&d, TRK_ECANCELLED), TRK_EXIT_STOPPED);
        } else {
            ck_assert_msg(rc == 0, "%d %s", rc, trk_last_error());
            ck_assert_uint_ge(p.restored, stop_at);
            expect_all(&s);
            ck_assert_int_eq(durable_finish(&d, rc), TRK_EXIT_DONE);
        }
    }
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", d.home);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(another_source_is_told_what_differs)
{
    struct durable d = {.job = NULL};

    trk_vmlist_close(list);
    for (int run_number = 0; run_number < 2; run_number++) {
        durable_open(&d);
        struct stream s = {.count = 50, .work = work_of(d.farm, d.list, false, 0, "run"),
                           .element = run_number == 0 ? NULL : "7"};
        int rc = run(&s, -1);

        ck_assert_int_eq(rc, run_number == 0 ? 0 : TRK_ECHANGED);
        trk_work_free(s.work);
        ck_assert_int_eq(durable_finish(&d, rc),
                         run_number == 0 ? TRK_EXIT_DONE : TRK_EXIT_FAILED);
    }
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", d.home);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(ends_have_their_exit_status)
{
    ck_assert_int_eq(trk_job_finish(NULL, 0), 0);
    ck_assert_int_eq(trk_job_finish(NULL, TRK_AGAIN), 75);
    ck_assert_int_eq(trk_job_finish(NULL, TRK_ECANCELLED), 75);
    ck_assert_int_eq(trk_job_finish(NULL, TRK_ENOVMS), 1);
    ck_assert_int_eq(trk_job_finish(NULL, 100), 1);
}
END_TEST

/* --- two farms ---------------- */

static void *own_farm(void *arg)
{
    struct stream *s = arg;
    struct trk_farm *farm = rig_farm(&rig);
    struct trk_vmlist *vms;

    ck_assert_int_eq(rig_connect(farm, 1, true, 10000, &vms), 0);
    s->work = work_of(farm, vms, s->ordered, 0, NULL);
    ck_assert_int_eq(run(s, -1), 0);
    trk_work_free(s->work);
    trk_vmlist_free(vms);
    trk_farm_close(farm, 1000);
    return NULL;
}

START_TEST(two_farms_of_one_process_do_not_meet)
{
    struct stream streams[2] = {{.count = 20000, .ordered = true}, {.count = 30000}};
    pthread_t threads[2];

    trk_vmlist_close(list);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, own_farm, &streams[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        expect_all(&streams[i]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("run");
    TCase *tc = tcase_create("run"), *stop = tcase_create("stop"), *bare = tcase_create("bare");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_checked_fixture(stop, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_set_timeout(stop, 60);
    tcase_add_loop_test(tc, every_element_is_made_once_and_every_result_given_once, 0, 4);
    tcase_add_test(tc, no_time_at_all_gets_there_too);
    tcase_add_test(tc, what_callbacks_say_is_returned_and_it_goes_on);
    tcase_add_loop_test(tc, a_source_may_wait_for_results, 0, 2);
    tcase_add_test(tc, a_source_that_waits_for_nothing_gives_the_thread_back);
    tcase_add_test(tc, an_array_is_a_source);
    tcase_add_test(tc, without_a_source_or_a_sink_it_says_so);
    tcase_add_test(tc, a_cancelled_work_says_so);
    tcase_add_loop_test(tc, a_stopped_job_goes_on_and_its_source_is_led, 0, 2);
    tcase_add_test(tc, another_source_is_told_what_differs);
    tcase_add_test(tc, two_farms_of_one_process_do_not_meet);
    tcase_add_test(stop, another_thread_stops_it);
    tcase_add_test(stop, a_signal_handler_stops_it);
    tcase_add_test(stop, any_other_signal_is_an_answer);
    tcase_add_loop_test(stop, signals_that_are_caught_stop_every_run, 0, 2);
    tcase_add_test_raise_signal(bare, the_second_signal_ends_the_process, SIGTERM);
    tcase_add_test(bare, ends_have_their_exit_status);
    suite_add_tcase(suite, tc);
    suite_add_tcase(suite, stop);
    suite_add_tcase(suite, bare);
    return run_suite(suite);
}
