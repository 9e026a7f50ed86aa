/* SPDX-License-Identifier: MIT */
/* test_work.c - streams of elements over real VM processes, whole and while VMs die. */
#include <check.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig;
static struct trk_vmlist *list;

static void setup(void)
{
    rig_start(&rig);
    rig_supervisor(&rig, 2);
    int rc = rig_connect(rig.farm, 2, true, 0, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void teardown(void)
{
    trk_vmlist_free(list);
    rig_stop(&rig);
}

static struct trk_work *work_new(bool ordered, uint64_t ahead_elements, uint64_t ahead_bytes)
{
    struct trk_work_options opt = {.size = sizeof(opt), .name = "echo", .function = "echo",
                                   .function_size = 4, .list = list, .ordered = ordered,
                                   .ahead_elements = ahead_elements, .ahead_bytes = ahead_bytes};
    struct trk_work *work;
    int rc = trk_work_new(rig.farm, &opt, &work);

    ck_assert_msg(rc == 0, "trk_work_new: %d %s", rc, trk_last_error());
    return work;
}

static int next(struct trk_work *work, struct trk_result *r)
{
    time_t until = time(NULL) + 30;
    int rc;

    do {
        rc = trk_work_next(work, 1000, r);
    } while (rc == TRK_AGAIN && time(NULL) < until);
    return rc;
}

/* What element i of a run is, and its right answer. */
typedef size_t element_fn(uint64_t i, char *text, size_t size);

static size_t number_text(uint64_t i, char *text, size_t size)
{
    return (size_t)snprintf(text, size, "%llu", (unsigned long long)i);
}

struct run {
    struct trk_work *work;
    uint64_t n;         /* elements */
    element_fn *fn;
    bool ordered;
    uint64_t added, taken, errors;
    unsigned char *seen; /* per element: times a result came */
};

/* Plain ifs: each ck_assert writes to a pipe, which costs more than the element. */
static void take(struct run *run, const struct trk_result *r)
{
    char text[64];
    size_t size = run->fn(r->index, text, sizeof(text));

    if (r->index >= run->n || run->seen[r->index] != 0) {
        ck_abort_msg("element %llu of %llu came twice or never was",
                     (unsigned long long)r->index, (unsigned long long)run->n);
    }
    run->seen[r->index]++;
    if (run->ordered && r->index != run->taken) {
        ck_abort_msg("expected element %llu next, got %llu", (unsigned long long)run->taken,
                     (unsigned long long)r->index);
    }
    if (r->status != TRK_STATUS_OK) {
        run->errors++;
    } else if (r->size != size || memcmp(r->payload, text, size) != 0) {
        ck_abort_msg("element %llu: expected %.*s, got %.*s", (unsigned long long)r->index,
                     (int)size, text, (int)r->size, (const char *)r->payload);
    }
    run->taken++;
}

/* Adds and takes until all n have come; after half of them half(arg) is called once. */
static void run_all(struct run *run, void (*half)(void *arg), void *arg)
{
    struct trk_result r;
    char text[64];

    run->seen = calloc(run->n + 1, 1);
    while (run->added < run->n) {
        size_t size = run->fn(run->added, text, sizeof(text));
        int rc = trk_work_add(run->work, text, size);
        if (rc == TRK_FULL && (rc = next(run->work, &r)) == 0) {
            take(run, &r);
        } else if (rc != 0) {
            ck_abort_msg("expected 0 or TRK_FULL, got %d: %s", rc, trk_last_error());
        } else {
            run->added++;
        }
        if (half != NULL && run->added == run->n / 2) {
            half(arg);
            half = NULL;
        }
    }
    ck_assert_int_eq(trk_work_close(run->work), 0);
    int rc;
    while ((rc = next(run->work, &r)) == 0) {
        take(run, &r);
    }
    ck_assert_msg(rc == TRK_END, "next: %d %s", rc, trk_last_error());
    ck_assert_uint_eq(run->taken, run->n);
    free(run->seen);
}

START_TEST(every_element_has_its_result)
{
    struct run run = {.work = work_new(_i & 1, 0, 0), .n = 200000, .fn = number_text,
                      .ordered = _i & 1};
    struct trk_progress p;

    run_all(&run, NULL, NULL);
    ck_assert_uint_eq(run.errors, 0);
    trk_work_progress(run.work, &p);
    ck_assert_uint_eq(p.added, run.n);
    ck_assert_uint_eq(p.failed, 0);
    trk_work_free(run.work);
}
END_TEST

START_TEST(windows_of_one_element_or_byte_do_not_lock_up)
{
    struct run run = {.work = work_new(_i & 1, _i & 2 ? 1 : 0, _i & 2 ? 0 : 1), .n = 300,
                      .fn = number_text, .ordered = _i & 1};

    run_all(&run, NULL, NULL);
    ck_assert_uint_eq(run.errors, 0);
    trk_work_free(run.work);
}
END_TEST

START_TEST(no_elements_end_at_once)
{
    struct run run = {.work = work_new(false, 0, 0), .n = 0, .fn = number_text};

    run_all(&run, NULL, NULL);
    trk_work_free(run.work);
}
END_TEST

/* Kills a VM that lives; arg says which where more than one does. */
static void kill_one(void *arg)
{
    struct trk_vm_info info;

    trk_vmlist_refresh(list);
    for (size_t i = 0; i < trk_vmlist_length(list); i++) {
        struct trk_vm *vm = trk_vmlist_get(list, (i + (size_t)arg) % 2);
        bool is_lost = trk_vm_is_lost(vm);
        trk_vm_get_info(vm, &info);
        trk_vm_unref(vm);
        if (!is_lost && kill((pid_t)info.pid, SIGKILL) == 0) {
            return;
        }
    }
}

START_TEST(a_killed_vm_costs_no_result)
{
    struct run run = {.work = work_new(_i & 1, 5000, 0), .n = 100000, .fn = number_text,
                      .ordered = _i & 1};
    struct trk_progress p;

    run_all(&run, kill_one, NULL);
    ck_assert_uint_eq(run.errors, 0);
    trk_work_progress(run.work, &p);
    ck_assert_uint_eq(p.done, run.n);
    trk_work_free(run.work);
}
END_TEST

static size_t poison_text(uint64_t i, char *text, size_t size)
{
    return i == 1234 ? (size_t)snprintf(text, size, "segv") : number_text(i, text, size);
}

START_TEST(an_element_that_kills_vms_is_recorded_as_failed_and_costs_no_neighbour)
{
    struct run run = {.work = work_new(false, 0, 0), .n = 10000, .fn = poison_text};

    run_all(&run, NULL, NULL);
    ck_assert_uint_eq(run.errors, 1);
    trk_work_free(run.work);
}
END_TEST

START_TEST(large_elements_and_results_pass)
{
    static const size_t sizes[] = {32767, 32768, 65536, 1 << 20, 40 << 20};
    struct trk_work *work = work_new(true, 0, 0);
    struct trk_result r;

    for (size_t i = 0; i < 5; i++) {
        char *bytes = malloc(sizes[i]);
        memset(bytes, 'a' + (int)i, sizes[i]);
        ck_assert_int_eq(trk_work_add(work, bytes, sizes[i]), 0);
        free(bytes);
    }
    ck_assert_int_eq(trk_work_close(work), 0);
    for (size_t i = 0; i < 5; i++) {
        ck_assert_int_eq(next(work, &r), 0);
        ck_assert_uint_eq(r.index, i);
        ck_assert_uint_eq(r.size, sizes[i]);
        ck_assert_int_eq(((const char *)r.payload)[sizes[i] - 1], 'a' + (int)i);
    }
    ck_assert_int_eq(next(work, &r), TRK_END);
    trk_work_free(work);
}
END_TEST

START_TEST(a_cancelled_work_ends_and_leaves_no_busy_vm)
{
    struct trk_work *work = work_new(false, 0, 0);
    struct trk_result r;
    char answer[32];
    const char *text = _i == 0 ? "sleep 60000" : "deaf 60000";

    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(trk_work_add(work, text, strlen(text)), 0);
    }
    ck_assert_int_eq(trk_work_flush(work), 0);
    ck_assert_int_eq(trk_work_next(work, 100, &r), TRK_AGAIN);
    trk_work_cancel(work, true);
    ck_assert_int_eq(next(work, &r), TRK_END);
    trk_work_free(work);
    for (size_t i = 0; i < 2; i++) { /* interrupted, or restarted because it was deaf */
        time_t until = time(NULL) + 10;
        int rc;
        do {
            struct trk_vm *vm;
            trk_vmlist_refresh(list);
            vm = trk_vmlist_get(list, i);
            rc = rig_call(vm, "x", answer, sizeof(answer));
            trk_vm_unref(vm);
        } while (rc == TRK_EVMLOST && time(NULL) < until);
        ck_assert_int_eq(rc, 0);
    }
}
END_TEST

START_TEST(two_works_share_the_vms)
{
    struct trk_work *a = work_new(false, 0, 0), *b = work_new(false, 0, 0);
    struct trk_result r;
    char text[32];

    for (uint64_t i = 0; i < 1000; i++) {
        size_t n = number_text(i, text, sizeof(text));
        ck_assert_int_eq(trk_work_add(a, text, n), 0);
        ck_assert_int_eq(trk_work_add(b, text, n), 0);
    }
    ck_assert_int_eq(trk_work_close(a), 0);
    ck_assert_int_eq(trk_work_close(b), 0);
    for (int i = 0; i < 1000; i++) {
        ck_assert_int_eq(next(b, &r), 0);
        ck_assert_int_eq(next(a, &r), 0);
    }
    ck_assert_int_eq(next(a, &r), TRK_END);
    ck_assert_int_eq(next(b, &r), TRK_END);
    trk_work_free(a);
    trk_work_free(b);
}
END_TEST

START_TEST(work_that_is_not_finished_can_be_freed)
{
    struct trk_work *work = work_new(true, 0, 0);

    for (int i = 0; i < 50000; i++) {
        ck_assert_int_eq(trk_work_add(work, "x", 1), 0);
    }
    trk_work_free(work);
}
END_TEST

START_TEST(elements_that_come_one_by_one_take_no_more_memory_than_many)
{
    struct trk_work *work = work_new(false, 0, 0);
    size_t before = mallinfo2().uordblks;

    for (int i = 0; i < 5000; i++) { /* what a program does that adds one when it has taken one */
        ck_assert_int_eq(trk_work_add(work, "x", 1), 0);
        ck_assert_int_eq(trk_work_flush(work), 0);
    }
    size_t after = mallinfo2().uordblks;
    ck_assert_msg(after < before + (8 << 20), "5,000 elements of a byte take %zu bytes",
                  after - before);
    trk_work_free(work);
}
END_TEST

START_TEST(work_goes_on_when_its_only_vms_come_back)
{
    struct run run = {.work = work_new(false, 1000, 0), .n = 20000, .fn = number_text};

    kill_one(NULL);
    run_all(&run, kill_one, (void *)1);
    ck_assert_uint_eq(run.errors, 0);
    trk_work_free(run.work);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("work");
    TCase *tc = tcase_create("work");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_element_has_its_result, 0, 2);
    tcase_add_loop_test(tc, windows_of_one_element_or_byte_do_not_lock_up, 0, 4);
    tcase_add_test(tc, no_elements_end_at_once);
    tcase_add_loop_test(tc, a_killed_vm_costs_no_result, 0, 2);
    tcase_add_test(tc, an_element_that_kills_vms_is_recorded_as_failed_and_costs_no_neighbour);
    tcase_add_test(tc, large_elements_and_results_pass);
    tcase_add_loop_test(tc, a_cancelled_work_ends_and_leaves_no_busy_vm, 0, 2);
    tcase_add_test(tc, two_works_share_the_vms);
    tcase_add_test(tc, work_that_is_not_finished_can_be_freed);
    tcase_add_test(tc, elements_that_come_one_by_one_take_no_more_memory_than_many);
    tcase_add_test(tc, work_goes_on_when_its_only_vms_come_back);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
