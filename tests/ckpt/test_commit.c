/* SPDX-License-Identifier: MIT */
/* test_commit.c - group commit: order, and what happens when the disk does not do as it is told.
 *
 * The system calls that LMDB writes with are taken over here (the executable's symbols come before
 * the C library's), so that the n-th of them can fail, or wait. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fail.h" /* before check.h, which has a macro of that name */
#include "ckpt/ldb.h"
#include "ckpt/verify.h"
#include "tests/suite.h"
#include "disk.h"
#include "rig.h"

/* --- a disk that fails ---------------- */

enum { FAIL_NOTHING, FAIL_SYNC, FAIL_WRITE, FAIL_SHORT };

static atomic_int fault_kind;
static atomic_int fault_in;    /* calls until the first that fails; 1: the next */
static atomic_int fault_count; /* so many fail, one after the other */
static atomic_int sync_calls;
static pthread_mutex_t sync_gate = PTHREAD_MUTEX_INITIALIZER; /* held: syncs wait */

static bool must_fail(int kind)
{
    if (atomic_load(&fault_kind) != kind) {
        return false;
    }
    if (atomic_load(&fault_in) > 1) {
        atomic_fetch_sub(&fault_in, 1);
        return false;
    }
    return atomic_fetch_sub(&fault_count, 1) > 0;
}

static void set_fault(int kind, int in, int count)
{
    atomic_store(&fault_in, in);
    atomic_store(&fault_count, count);
    atomic_store(&fault_kind, kind);
}

int disk_sync(int fd)
{
    atomic_fetch_add(&sync_calls, 1);
    pthread_mutex_lock(&sync_gate);
    pthread_mutex_unlock(&sync_gate);
    if (must_fail(FAIL_SYNC)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t disk_pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (disk_is_store(fd)) {
        if (must_fail(FAIL_WRITE)) {
            errno = EIO;
            return -1;
        }
        if (must_fail(FAIL_SHORT)) {
            return syscall(SYS_pwrite64, fd, bytes, size / 2, offset);
        }
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

ssize_t disk_writev(int fd, const struct iovec *pieces, int count)
{
    if (disk_is_store(fd)) {
        if (must_fail(FAIL_WRITE)) {
            errno = EIO;
            return -1;
        }
        if (must_fail(FAIL_SHORT)) {
            return syscall(SYS_writev, fd, pieces, count > 1 ? count / 2 : 1);
        }
    }
    return syscall(SYS_writev, fd, pieces, count);
}

/* --- helpers ---------------- */

static void setup(void)
{
    set_fault(FAIL_NOTHING, 0, 0);
    rig_setup_in_memory();
}

static void setup_on_disk(void)
{
    set_fault(FAIL_NOTHING, 0, 0);
    rig_setup();
}

static void expect_all(uint64_t count)
{
    struct verify_report report;
    struct ckpt_reader *r;
    int rc = verify_store(rig_job(), &report, NULL);

    ck_assert_msg(rc == 0, "%s", report.why);
    ck_assert_int_eq(ckpt_reader_open(&r, rig_job()), 0);
    ck_assert_uint_eq(rig_check(r, 1, 0), count);
    ckpt_reader_free(r);
}

/* --- order ---------------- */

struct told {
    struct ckpt_store *store;
    atomic_uint_fast64_t calls, durable;
};

static void on_notify(void *ctx)
{
    struct told *told = ctx;

    atomic_fetch_add(&told->calls, 1);
    if (told->store != NULL) {
        atomic_store(&told->durable, ckpt_store_durable(told->store));
    }
}

START_TEST(what_queues_up_during_a_sync_is_one_transaction)
{
    struct told told = {0};
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK,
                                     .notify = on_notify, .ctx = &told};
    struct ckpt_opened opened;
    struct ckpt_state before, after;
    uint64_t ticket = 0;
    int syncs;

    ck_assert_int_eq(ckpt_store_open(&told.store, &opt, &opened), 0);
    syncs = atomic_load(&sync_calls);
    pthread_mutex_lock(&sync_gate);
    rig_put(told.store, 1, 0, 1, 0);
    while (atomic_load(&sync_calls) == syncs) {
        sched_yield(); /* until the first one's sync has begun */
    }
    ckpt_store_poll(told.store, &before);
    for (uint64_t i = 1; i < 1000; i++) {
        ticket = rig_put(told.store, 1, i, 1, 0);
    }
    ck_assert_uint_eq(ckpt_store_durable(told.store), 0);
    pthread_mutex_unlock(&sync_gate);
    rig_wait(told.store, ticket);
    ckpt_store_poll(told.store, &after);
    ck_assert_uint_eq(after.syncs, before.syncs + 2);
    ck_assert_uint_eq(after.queued_count, 0);
    ck_assert_int_eq(ckpt_store_close(told.store), 0);
    ck_assert_uint_eq(atomic_load(&told.durable), ticket);
    ck_assert_uint_eq(atomic_load(&told.calls), 2);
    expect_all(1000);
}
END_TEST

static void put_and_sync(void *ctx)
{
    struct ckpt_store *s = rig_open(NULL);

    rig_wait(s, rig_put(s, 1, 0, 100, 0));
    pthread_mutex_lock(&sync_gate); /* nothing more becomes durable */
    rig_put(s, 1, 100, 100, 0);
}

START_TEST(what_was_durable_is_there_after_a_crash)
{
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    struct ckpt_store *s;

    ck_assert_int_eq(rig_crash(put_and_sync, NULL), 0);
    s = rig_open(&opened);
    ck_assert(!opened.is_salvaged);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 1, 0), 100);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(a_full_queue_says_so_and_empties)
{
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK,
                                     .queue_bytes = 100000};
    struct ckpt_opened opened;
    struct ckpt_store *s;
    uint64_t ticket = 0, count = 0;

    ck_assert_int_eq(ckpt_store_open(&s, &opt, &opened), 0);
    pthread_mutex_lock(&sync_gate);
    while (!ckpt_store_is_full(s)) {
        ticket = rig_put(s, 1, count++, 1, 0);
        ck_assert_uint_lt(count, 10000);
    }
    pthread_mutex_unlock(&sync_gate);
    rig_wait(s, ticket);
    ck_assert(!ckpt_store_is_full(s));
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_all(count);
}
END_TEST

/* --- faults ---------------- */

static const int kinds[] = {FAIL_SYNC, FAIL_WRITE, FAIL_SHORT};

/* The n-th call fails once: nobody notices, all becomes durable. A reader is along. */
START_TEST(a_passing_failure_loses_nothing)
{
    struct ckpt_store *s = rig_open(NULL);
    struct record_count count;
    struct ckpt_reader *r;
    uint64_t element = 0;

    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    for (int n = 1; n <= 12; n++) {
        set_fault(kinds[_i], n, 1);
        for (int i = 0; i < 6; i++) {
            rig_put(s, 1, element, 3, 0);
            rig_wait(s, rig_put(s, 1, element + 3, 40, 0));
            element += 43;
            ck_assert_int_eq(ckpt_read_count(r, 1, &count), 0);
            ck_assert_uint_eq(count.recorded, element);
        }
        ck_assert_uint_eq(rig_check(r, 1, 0), element);
    }
    set_fault(FAIL_NOTHING, 0, 0);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_all(element);
}
END_TEST

static void wait_for_pause(struct ckpt_store *s, struct ckpt_state *state)
{
    for (ckpt_store_poll(s, state); !state->is_paused; ckpt_store_poll(s, state)) {
        sched_yield();
    }
}

START_TEST(a_lasting_failure_pauses_and_goes_on)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_state state;
    uint64_t ticket, durable = rig_put(s, 1, 0, 10, 0);

    rig_wait(s, durable);
    set_fault(kinds[_i], 1, rig_is_full() ? 5 : 2); /* each wait is twice the one before */
    ticket = rig_put(s, 1, 10, 10, 0);
    wait_for_pause(s, &state);
    ck_assert_uint_eq(state.durable, durable);
    ck_assert_msg(strstr(state.text, "goes on") != NULL || strstr(state.text, "again") != NULL,
                  "said: %s", state.text);
    ck_assert_int_eq(ckpt_store_wait(s, ticket, -1), TRK_AGAIN);
    while (ckpt_store_durable(s) < ticket) {
        ckpt_store_poll(s, &state);
        sched_yield();
    }
    ckpt_store_poll(s, &state);
    ck_assert(!state.is_paused);
    set_fault(FAIL_NOTHING, 0, 0);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_all(20);
}
END_TEST

START_TEST(closing_while_paused_tells_and_keeps_what_was_durable)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_opened opened;
    struct ckpt_state state;
    struct ckpt_body *body;
    struct ckpt_value value = {.count = 0};
    struct record_run run = {.first = 30, .count = 1};

    rig_wait(s, rig_put(s, 1, 0, 10, 0));
    set_fault(kinds[_i], 1, 1000000);
    rig_put(s, 1, 10, 10, 0);
    ck_assert_int_eq(ckpt_body_new(s, &body), 0);
    ck_assert_int_eq(ckpt_body_add(body, NULL, "part", 4), 0);
    value.body = body;
    ck_assert_int_eq(ckpt_store_put_result(s, 1, &run, &value, NULL), 0);
    wait_for_pause(s, &state);
    ck_assert_int_eq(ckpt_store_close(s), TRK_EIO);
    set_fault(FAIL_NOTHING, 0, 0);
    s = rig_open(&opened);
    ck_assert(!opened.was_clean);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_all(10);
}
END_TEST

START_TEST(a_large_value_survives_a_failure_between_its_transactions)
{
    static const size_t size = (size_t)80 << 20; /* three transactions */
    struct blob *blob = blob_new(size);
    struct record_run run = {.first = 0, .count = 1};
    struct ckpt_value value = {.blob = blob, .slices = {{NULL, size}}, .count = 1};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_result result;
    struct ckpt_reader *r;
    uint64_t ticket;

    ck_assert_ptr_nonnull(blob);
    blob->size = size;
    for (size_t i = 0; i < size; i++) {
        blob->data[i] = (uint8_t)(i * 31 >> 3);
    }
    value.slices[0].bytes = blob->data;
    set_fault(FAIL_SYNC, 1 + _i, 1);
    ck_assert_int_eq(ckpt_store_put_result(s, 1, &run, &value, &ticket), 0);
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_at(r, 1, 0, &result), 0);
    ck_assert_uint_eq(result.value->size, size);
    ck_assert(memcmp(result.value->data, blob->data, size) == 0);
    blob_unref(result.value);
    blob_unref(blob);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

/* Whatever LMDB call fails: opening says so or works, what is put becomes durable. */
START_TEST(any_failed_call_of_lmdb_is_survived)
{
    uint64_t element = 0, n;
    bool was_hit = true;

    ck_assert_int_eq(ckpt_store_close(rig_open(NULL)), 0);
    /* How many calls there are depends on the groups. */
    for (n = 1; was_hit || n < 120; n += rig_stride(1)) {
        struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK};
        struct record_run run = {.first = 1000000, .count = 1};
        struct ckpt_opened opened;
        struct ckpt_store *s;
        struct blob *large = blob_new(RECORD_PART_MAX + 4096); /* two parts */
        struct ckpt_value value = {.blob = large, .count = 1};
        int rc;

        ldb_fail_at(n);
        rc = ckpt_store_open(&s, &opt, &opened);
        if (rc != 0) {
            ck_assert_str_ne(fail_text(), "");
            s = rig_open(&opened);
        }
        rig_put(s, 1, element, 5, 0);
        rig_put(s, 1, element + 5, 2, 0);
        rig_put(s, 1, element + 3, 3, 0);
        memset(large->data, (int)n, large->cap);
        large->size = large->cap;
        value.slices[0] = (struct ckpt_slice){large->data, large->size};
        ck_assert_int_eq(ckpt_store_put_record(s, CKPT_STATE, "x", 1, &value, NULL), 0);
        blob_unref(large);
        ck_assert_int_eq(ckpt_store_forget(s, 1, &run, NULL), 0);
        element += 7;
        rig_wait(s, rig_put(s, 2, n, 1, 0));
        ck_assert_int_eq(ckpt_store_close(s), 0);
        was_hit = rc != 0 || ldb_fail_left() == 0;
        ck_assert_uint_lt(n, 2000);
        ldb_fail_at(0);
        expect_all(element);
    }
    ck_assert_uint_ge(n, 120);
}
END_TEST

/* --- no room ---------------- */

static void on_a_small_disk(void *ctx)
{
    struct ckpt_store *s;
    struct ckpt_state state;
    struct blob *blob = blob_new((size_t)900 << 10);
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, blob->cap}}, .count = 1};
    uint64_t ticket = 0, count = 0;

    ck_assert_int_eq(mkdir(rig_path("disk"), 0700), 0);
    ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
    ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    ck_assert_int_eq(mount("tmpfs", rig_dir(), "tmpfs", 0, "size=8m"), 0);
    memset(blob->data, 1, blob->cap);
    rig_write(rig_path("filler"), blob->data, blob->cap);
    s = rig_open(NULL);
    rig_wait(s, rig_put(s, 1, 0, 5, 0));
    for (ckpt_store_poll(s, &state); !state.is_paused; ckpt_store_poll(s, &state)) {
        struct record_run run = {.first = count++, .count = 1};
        ck_assert_int_eq(ckpt_store_put_result(s, 2, &run, &value, &ticket), 0);
        (void)!ckpt_store_wait(s, ticket, 1000);
        ck_assert_uint_lt(count, 20);
    }
    ck_assert_msg(strstr(state.text, "is full") != NULL, "said: %s", state.text);
    ck_assert_int_eq(unlink(rig_path("filler")), 0);
    ck_assert_int_eq(mount("tmpfs", rig_dir(), "tmpfs", MS_REMOUNT, "size=64m"), 0);
    while (ckpt_store_durable(s) < ticket) {
        sched_yield();
    }
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_all(5);
    blob_unref(blob);
}

START_TEST(a_full_disk_pauses_until_there_is_room)
{
    if (geteuid() == 0 && unshare(0) == 0) {
        ck_assert_int_eq(rig_crash(on_a_small_disk, NULL), 0);
        rmdir(rig_path("disk"));
    }
}
END_TEST

START_TEST(a_limit_of_file_size_pauses_until_it_is_raised)
{
    struct rlimit before, limit;
    struct ckpt_state state;
    struct ckpt_store *s = rig_open(NULL);
    struct blob *blob = blob_new((size_t)900 << 10);
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, blob->cap}}, .count = 1};
    uint64_t ticket = 0, count = 0;

    memset(blob->data, 1, blob->cap);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)4 << 20;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (ckpt_store_poll(s, &state); !state.is_paused; ckpt_store_poll(s, &state)) {
        struct record_run run = {.first = count++, .count = 1};
        ck_assert_int_eq(ckpt_store_put_result(s, 2, &run, &value, &ticket), 0);
        (void)!ckpt_store_wait(s, ticket, 1000);
        ck_assert_uint_lt(count, 20);
    }
    ck_assert_msg(strstr(state.text, "limited") != NULL || strstr(state.text, "full") != NULL,
                  "said: %s", state.text);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    while (ckpt_store_durable(s) < ticket) {
        sched_yield();
    }
    ck_assert_int_eq(ckpt_store_close(s), 0);
    blob_unref(blob);
    expect_all(0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("commit");
    TCase *tc = tcase_create("commit"), *disk = tcase_create("disk");

    tcase_add_checked_fixture(tc, setup, rig_teardown);
    tcase_set_timeout(tc, 240);
    tcase_add_test(tc, what_queues_up_during_a_sync_is_one_transaction);
    tcase_add_test(tc, a_full_queue_says_so_and_empties);
    tcase_add_loop_test(tc, a_passing_failure_loses_nothing, 0, 3);
    tcase_add_loop_test(tc, a_lasting_failure_pauses_and_goes_on, 0, 3);
    tcase_add_loop_test(tc, closing_while_paused_tells_and_keeps_what_was_durable, 0, 3);
    tcase_add_test(tc, any_failed_call_of_lmdb_is_survived);
    tcase_add_test(tc, a_full_disk_pauses_until_there_is_room);
    tcase_add_test(tc, a_limit_of_file_size_pauses_until_it_is_raised);
    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(disk, setup_on_disk, rig_teardown);
    tcase_set_timeout(disk, 240);
    tcase_add_test(disk, what_was_durable_is_there_after_a_crash);
    tcase_add_loop_test(disk, a_large_value_survives_a_failure_between_its_transactions, 0, 3);
    suite_add_tcase(suite, disk);
    return run_suite(suite);
}
