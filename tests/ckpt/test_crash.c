/* SPDX-License-Identifier: MIT */
/* test_crash.c - a process that ends at any write or sync, and a machine that loses any of what was
 * not synced: what was said to be durable is there, nothing needs to be salvaged.
 *
 * The calls that LMDB writes with are taken over here: they count, end the process, or keep a log
 * of what went to the disk in which order. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fail.h" /* before check.h, which has a macro of that name */
#include "base/log.h"
#include "ckpt/verify.h"
#include "tests/suite.h"
#include "disk.h"
#include "rig.h"

/* --- the disk ---------------- */

struct entry {
    off_t offset;
    size_t size;      /* 0: a sync */
    uint8_t *bytes;
    uint64_t durable; /* elements that were durable before it */
    bool is_through;  /* written with O_DSYNC: it and what was synced before are on the disk */
};

static struct entry *entries;
static size_t entries_count;
static atomic_bool is_logging;
static atomic_uint_fast64_t durable_elements;
static atomic_int dies_in; /* calls; 0: never */

static void count_call(void)
{
    if (atomic_load(&dies_in) > 0 && atomic_fetch_sub(&dies_in, 1) == 1) {
        _exit(9);
    }
}

static struct entry *note(off_t offset, size_t size)
{
    struct entry *e;

    entries = realloc(entries, (entries_count + 1) * sizeof(*entries));
    e = &entries[entries_count++];
    *e = (struct entry){.offset = offset, .size = size,
                        .durable = atomic_load(&durable_elements)};
    e->bytes = size > 0 ? malloc(size) : NULL;
    return e;
}

int disk_sync(int fd)
{
    count_call();
    if (atomic_load(&is_logging) && disk_is_store(fd)) {
        note(0, 0);
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t disk_pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (disk_is_store(fd)) {
        count_call();
        if (atomic_load(&is_logging)) {
            struct entry *e = note(offset, size);
            memcpy(e->bytes, bytes, size);
            e->is_through = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
        }
    }
    return syscall(SYS_pwrite64, fd, bytes, size, offset);
}

ssize_t disk_writev(int fd, const struct iovec *pieces, int count)
{
    if (disk_is_store(fd)) {
        off_t offset = lseek(fd, 0, SEEK_CUR);
        count_call();
        for (int i = 0; atomic_load(&is_logging) && i < count; i++) {
            struct entry *e = note(offset, pieces[i].iov_len);
            memcpy(e->bytes, pieces[i].iov_base, pieces[i].iov_len);
            offset += (off_t)pieces[i].iov_len;
        }
    }
    return syscall(SYS_writev, fd, pieces, count);
}

/* --- the job ---------------- */

/* Transactions of a run: each of their calls is one to end at. */
static uint64_t rounds(void)
{
    return rig_is_full() ? 12 : 4;
}

/* Also outside of a running test: no asserts. false: something failed. */
static bool put(struct ckpt_store *s, uint64_t first, uint64_t count, uint64_t *ticket)
{
    struct record_run run = {.first = first, .count = count};
    char lines[64 * 64];
    struct ckpt_value value = {.slices = {{lines, 0}}, .count = 1};

    for (uint64_t i = 0; i < count; i++) {
        value.slices[0].size += rig_value(lines + value.slices[0].size, 1, first + i, 0);
    }
    return ckpt_store_put_result(s, 1, &run, &value, ticket) == 0;
}

/* Every round makes 50 elements durable, and says so in the file told. */
static bool run_job(struct ckpt_store *s, uint64_t from, int told)
{
    uint64_t count = rounds();

    for (uint64_t i = from; i < from + count; i++) {
        uint64_t first = i * 50, ticket = 0;
        bool is_put = rig_put_block(s, 1, first, 50, &ticket) == 0 &&
                      put(s, first, 1, &ticket) && put(s, first + 1, 9, &ticket) &&
                      put(s, first + 10, 40, &ticket);
        if (!is_put || ckpt_store_wait(s, ticket, 20000) != 0) {
            return false;
        }
        atomic_store(&durable_elements, first + 50);
        if (told >= 0 && syscall(SYS_pwrite64, told, &(uint64_t){first + 50}, 8, 0) != 8) {
            return false;
        }
    }
    return true;
}

static int main_that_dies(const char *job)
{
    struct ckpt_store_options opt = {.dir = job, .helper = TRICKLE_FSCK};
    const char *from = getenv("TEST_FROM");
    struct ckpt_opened opened;
    struct ckpt_store *s;
    char path[4200];
    int told;

    snprintf(path, sizeof(path), "%s/../told", job);
    told = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    atomic_store(&dies_in, atoi(getenv("TEST_DIE_AT")));
    return ckpt_store_open(&s, &opt, &opened) == 0 && run_job(s, strtoull(from, NULL, 10), told) &&
                   ckpt_store_close(s) == 0
               ? 0
               : 1;
}

/* All that was said to be durable is there, and the bytes of each known element. */
static void check(struct ckpt_reader *r, uint64_t durable, const char *what, size_t n)
{
    uint64_t lacking, kept = rig_check_blocks(r, 1, &lacking);

    ck_assert_msg(rig_check(r, 1, 0) >= durable, "%s %zu: results", what, n);
    ck_assert_msg(kept >= durable && lacking == 0, "%s %zu: %llu elements kept of %llu, %llu "
                  "without their bytes", what, n, (unsigned long long)kept,
                  (unsigned long long)durable, (unsigned long long)lacking);
}

static uint64_t read_told(void)
{
    uint64_t told = 0;
    int fd = open(rig_path("told"), O_RDONLY);

    if (fd >= 0) {
        ck_assert_int_ne(pread(fd, &told, sizeof(told), 0), -1);
        close(fd);
    }
    return told;
}

/* Runs a process that goes on with the job and dies at its n-th call. What it said to be durable
 * must be there. Returns its status: 0 when it made fewer calls. */
static int die_at(int n)
{
    char command[600];
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    struct ckpt_store *s;
    int status;

    snprintf(command, sizeof(command),
             "TEST_JOB=%s TEST_DIE_AT=%d TEST_FROM=%llu exec /proc/%ld/exe", rig_job(), n,
             (unsigned long long)read_told() / 50, (long)getpid());
    status = system(command);
    ck_assert(status == 0 || WEXITSTATUS(status) == 9);
    s = rig_open(&opened);
    ck_assert_msg(!opened.is_salvaged, "call %d: %s", n, opened.text);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    check(r, read_told(), "call", (size_t)n);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    ck_assert_int_lt(n, 500);
    return status;
}

/* Each process goes on in the store that the one before left, and dies at a later call. */
START_TEST(a_process_may_end_at_any_call)
{
    for (int n = 1; die_at(n) != 0; n += (int)rig_stride(1)) {
    }
    ck_assert_uint_gt(read_told(), 50 * rounds());
}
END_TEST

START_TEST(a_process_may_end_at_any_call_that_makes_a_store)
{
    for (int n = 1; read_told() == 0; n++) {
        rig_remove(rig_job());
        ck_assert_int_eq(mkdir(rig_job(), 0700), 0);
        die_at(n);
    }
}
END_TEST

/* --- power ---------------- */

static void apply(int fd, const struct entry *e)
{
    ck_assert_int_eq(syscall(SYS_pwrite64, fd, e->bytes, e->size, e->offset), e->size);
}

/* The disk as it may be when the power goes before entry at: all that was synced, and of the rest
 * what the bits of chosen say. */
static void make_image(const uint8_t *base, size_t base_size, size_t at, uint64_t chosen)
{
    size_t synced = 0;
    int fd;

    for (size_t i = 0; i < at; i++) {
        synced = entries[i].size == 0 || entries[i].is_through ? i + 1 : synced;
    }
    rig_remove(rig_path("image"));
    ck_assert_int_eq(mkdir(rig_path("image"), 0700), 0);
    rig_write(rig_path("image/data.mdb"), base, base_size);
    fd = open(rig_path("image/data.mdb"), O_WRONLY);
    for (size_t i = 0; i < at; i++) {
        if (entries[i].size > 0 && (i < synced || (chosen >> (i - synced) % 64 & 1))) {
            apply(fd, &entries[i]);
        }
    }
    close(fd);
}

START_TEST(any_loss_of_what_was_not_synced_is_survived)
{
    char data[400], image[400];
    struct ckpt_store_options opt = {.dir = image, .helper = TRICKLE_FSCK};
    struct ckpt_store *s = rig_open(NULL);
    uint64_t random = 88172645463325252u + (uint64_t)_i;
    uint8_t *base;
    size_t size;

    snprintf(image, sizeof(image), "%s/image", rig_dir());
    ck_assert(run_job(s, 0, -1));
    ck_assert_int_eq(ckpt_store_close(s), 0);
    snprintf(data, sizeof(data), "%s/data.mdb", rig_job());
    base = rig_read(data, &size);
    atomic_store(&is_logging, true);
    s = rig_open(NULL);
    ck_assert(run_job(s, rounds(), -1));
    ck_assert_int_eq(ckpt_store_close(s), 0);
    atomic_store(&is_logging, false);
    for (size_t at = 1; at <= entries_count; at += rig_stride(1)) {
        uint64_t durable = at < entries_count ? entries[at].durable : durable_elements;
        struct ckpt_opened opened;
        struct ckpt_reader *r;
        int rc;
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        make_image(base, size, at, _i == 0 ? 0 : _i == 1 ? UINT64_MAX : random);
        rc = ckpt_store_open(&s, &opt, &opened);
        ck_assert_msg(rc == 0, "write %zu: %s", at, fail_text());
        ck_assert_msg(!opened.is_salvaged, "write %zu: %s", at, opened.text);
        ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
        check(r, durable, "write", at);
        ckpt_reader_free(r);
        ck_assert_int_eq(ckpt_store_close(s), 0);
    }
    for (size_t i = 0; i < entries_count; i++) {
        free(entries[i].bytes);
    }
    free(entries);
    free(base);
    rig_remove(rig_path("image"));
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tc;

    log_set_level("error");
    if (getenv("TEST_JOB") != NULL) {
        return main_that_dies(getenv("TEST_JOB"));
    }
    suite = suite_create("crash");
    tc = tcase_create("crash");
    tcase_add_checked_fixture(tc, rig_setup_in_memory, rig_teardown);
    tcase_set_timeout(tc, 240);
    tcase_add_test(tc, a_process_may_end_at_any_call);
    tcase_add_test(tc, a_process_may_end_at_any_call_that_makes_a_store);
    tcase_add_loop_test(tc, any_loss_of_what_was_not_synced_is_survived, 0, 6);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
