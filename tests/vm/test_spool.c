/* SPDX-License-Identifier: MIT */
/* Files of held results: written whole, read with suspicion, kept within bounds. */
#include "base/fail.h" /* before check.h, which has a macro of that name */

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "tests/suite.h"
#include "vm/spool.h"
#include "wire/msg.h"

#define JOB_TEXT "6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a"

static const uint8_t job[16] = "jjjjjjjjjjjjjjjj", other_job[16] = "oooooooooooooooo";
static char home[64];

static void setup(void)
{
    ck_assert_int_eq(log_set_level("error"), 0); /* damage is warned of, here a thousand times */
    snprintf(home, sizeof(home), "/tmp/trickle-spool-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(home));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void teardown(void)
{
    nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void path_of(char *path, size_t size, const char *file)
{
    snprintf(path, size, "%s/held/" JOB_TEXT "/%s", home, file);
}

static struct spool_entry entry_of(uint32_t i, const char *payload)
{
    struct spool_entry e = {.kind = WIRE_HELD_RESULT, .status = i % 2 ? TRK_STATUS_EXCEPTION
                                                                      : TRK_STATUS_OK,
                            .stage = 7 + i % 3, .attempt = 2, .index = 1000 + i,
                            .payload = payload, .size = strlen(payload)};
    memset(e.element, (int)i, 16);
    memset(e.fingerprint, 'f', 16);
    return e;
}

/* Files of count records whose payloads are "result 0", "result 1" ... */
static int try_write(const char *name, uint32_t count)
{
    struct spool_writer *w;
    int rc = spool_create(&w, home, job, 3, name);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        char payload[32];
        snprintf(payload, sizeof(payload), "result %u", i);
        struct spool_entry e = entry_of(i, payload);
        rc = spool_add(w, &e);
        if (rc < 0) {
            spool_abort(w);
        }
    }
    return rc < 0 ? rc : spool_commit(w);
}

static void write_file(const char *name, uint32_t count)
{
    int rc = try_write(name, count);
    ck_assert_msg(rc == 0, "%s", fail_text());
}

static struct spool_file *open_file(const char *name)
{
    struct spool_file *f;
    int rc = spool_open(&f, home, job, name);
    ck_assert_msg(rc == 0, "%s", fail_text());
    return f;
}

/* Record i is as it was written, or not to be had. */
static int check_record(struct spool_file *f, uint32_t i, uint32_t written)
{
    struct spool_entry e, wanted;
    struct blob *payload;
    char text[32];
    snprintf(text, sizeof(text), "result %u", written);
    wanted = entry_of(written, text);
    int rc = spool_read(f, i, &e, &payload);
    if (rc != 0) {
        return rc;
    }
    ck_assert_uint_eq(e.kind, wanted.kind);
    ck_assert_uint_eq(e.status, wanted.status);
    ck_assert_uint_eq(e.stage, wanted.stage);
    ck_assert_uint_eq(e.attempt, wanted.attempt);
    ck_assert_uint_eq(e.index, wanted.index);
    ck_assert_mem_eq(e.element, wanted.element, 16);
    ck_assert_mem_eq(e.fingerprint, wanted.fingerprint, 16);
    ck_assert_uint_eq(e.size, wanted.size);
    ck_assert_mem_eq(e.payload, text, e.size);
    blob_unref(payload);
    return 0;
}

/* --- whole files --------------------------------------------------------------------------- */

static void count_name(void *ctx, const char *name)
{
    ck_assert_str_eq(name, "a");
    ++*(int *)ctx;
}

START_TEST(what_is_written_is_read)
{
    uint64_t live = mem_live();
    int names = 0;
    write_file("a", 5);
    spool_list(home, job, count_name, &names);
    ck_assert_int_eq(names, 1);
    spool_list(home, other_job, count_name, &names);
    ck_assert_int_eq(names, 1);
    struct spool_file *f = open_file("a");
    ck_assert_str_eq(spool_name(f), "a");
    ck_assert_uint_eq(spool_epoch(f), 3);
    ck_assert_uint_eq(spool_count(f), 5);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_uint_eq(spool_stage(f, i), 7 + i % 3);
        ck_assert_uint_eq(spool_size(f, i), 8);
        ck_assert_int_eq(check_record(f, i, i), 0);
    }
    spool_delete(f);
    ck_assert_int_eq(check_record(f, 0, 0), TRK_END);
    spool_close(f);
    ck_assert_int_eq(spool_open(&f, home, job, "a"), TRK_END);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

START_TEST(files_and_folders_are_private)
{
    char path[256];
    struct stat st;
    write_file("a", 1);
    path_of(path, sizeof(path), "a.held");
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    path_of(path, sizeof(path), "");
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    snprintf(path, sizeof(path), "%s/held", home);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
}
END_TEST

START_TEST(unfinished_file_is_not_there)
{
    struct spool_writer *w;
    struct spool_entry e = entry_of(0, "x");
    int names = 0;
    ck_assert_int_eq(spool_create(&w, home, job, 1, "a"), 0);
    ck_assert_int_eq(spool_add(w, &e), 0);
    spool_list(home, job, count_name, &names);
    ck_assert_int_eq(names, 0);
    spool_abort(w);
    char path[256];
    path_of(path, sizeof(path), "");
    ck_assert_int_lt(access(path, F_OK), 0); /* no trace */
}
END_TEST

START_TEST(another_jobs_file_is_refused)
{
    struct spool_file *f;
    char from[256], to[256];
    write_file("a", 1);
    snprintf(to, sizeof(to), "%s/held/6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f", home);
    ck_assert_int_eq(mkdir(to, 0700), 0);
    path_of(from, sizeof(from), "a.held");
    snprintf(to, sizeof(to), "%s/held/6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f/a.held", home);
    ck_assert_int_eq(rename(from, to), 0);
    ck_assert_int_eq(spool_open(&f, home, other_job, "a"), TRK_ECORRUPT);
}
END_TEST

/* --- damage -------------------------------------------------------------------------------- */

static size_t read_file(const char *path, uint8_t *bytes, size_t cap)
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    size_t size = fread(bytes, 1, cap, file);
    fclose(file);
    return size;
}

static void replace_file(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

/* Whatever the file is now, each record that can be read is one of those written, at its place. */
static uint32_t count_good(void)
{
    struct spool_file *f;
    uint32_t good = 0;
    int rc = spool_open(&f, home, job, "a");
    if (rc != 0) {
        ck_assert(rc == TRK_ECORRUPT || rc == TRK_EVERSION);
        return 0;
    }
    ck_assert_uint_le(spool_count(f), 3);
    for (uint32_t i = 0; i < spool_count(f); i++) {
        rc = check_record(f, i, i);
        ck_assert(rc == 0 || rc == TRK_ECORRUPT);
        good += rc == 0;
    }
    spool_close(f);
    return good;
}

START_TEST(any_byte_that_flips_is_found)
{
    uint8_t bytes[1024];
    char path[256];
    write_file("a", 3);
    path_of(path, sizeof(path), "a.held");
    size_t size = read_file(path, bytes, sizeof(bytes));
    ck_assert_uint_eq(count_good(), 3);
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x41;
        replace_file(path, bytes, size);
        ck_assert_msg(count_good() < 3, "byte %zu", i);
        bytes[i] ^= 0x41;
    }
}
END_TEST

START_TEST(truncated_file_gives_what_is_whole)
{
    uint8_t bytes[1024];
    char path[256];
    write_file("a", 3);
    path_of(path, sizeof(path), "a.held");
    size_t size = read_file(path, bytes, sizeof(bytes));
    for (size_t n = 0; n < size; n++) {
        replace_file(path, bytes, n);
        ck_assert_uint_eq(count_good(), n < 64 ? 0 : (n - 64) / (112 + 8));
    }
}
END_TEST

START_TEST(damaged_payload_costs_its_record_only)
{
    uint8_t bytes[1024];
    char path[256];
    write_file("a", 3);
    path_of(path, sizeof(path), "a.held");
    size_t size = read_file(path, bytes, sizeof(bytes));
    bytes[64 + 112] ^= 1;
    replace_file(path, bytes, size);
    struct spool_file *f = open_file("a");
    ck_assert_uint_eq(spool_count(f), 3);
    ck_assert_int_eq(check_record(f, 0, 0), TRK_ECORRUPT);
    ck_assert_int_eq(check_record(f, 1, 1), 0);
    ck_assert_int_eq(check_record(f, 2, 2), 0);
    spool_close(f);
}
END_TEST

/* --- bounds -------------------------------------------------------------------------------- */

static void set_age(const char *file, time_t seconds)
{
    char path[256];
    struct timespec times[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    path_of(path, sizeof(path), file);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
}

static bool is_there(const char *file)
{
    char path[256];
    path_of(path, sizeof(path), file);
    return access(path, F_OK) == 0;
}

START_TEST(old_files_go)
{
    const struct spool_limits limits = {.seconds = 100, .bytes = 1 << 20};
    write_file("a", 1);
    write_file("b", 1);
    set_age("a.held", 200);
    set_age("b.held", 50);
    ck_assert_int_eq(spool_trim(home, &limits, 0), 0);
    ck_assert(!is_there("a.held"));
    ck_assert(is_there("b.held"));
}
END_TEST

START_TEST(oldest_goes_first_when_there_is_too_much)
{
    struct spool_limits limits = {.seconds = 1000, .bytes = 3 * (64 + 120)};
    write_file("a", 1);
    write_file("b", 1);
    write_file("c", 1);
    set_age("a.held", 20);
    set_age("b.held", 30);
    set_age("c.held", 10);
    ck_assert_int_eq(spool_trim(home, &limits, 0), 0);
    ck_assert(is_there("b.held"));
    ck_assert_int_eq(spool_trim(home, &limits, 100), 0);
    ck_assert(!is_there("b.held"));
    ck_assert(is_there("a.held"));
    ck_assert_int_eq(spool_trim(home, &limits, limits.bytes + 1), TRK_EFULL);
    ck_assert(is_there("a.held"));
    ck_assert_int_eq(spool_trim(home, &limits, limits.bytes), 0);
    char path[256];
    path_of(path, sizeof(path), "");
    ck_assert_int_lt(access(path, F_OK), 0); /* the folder of the last one goes, too */
}
END_TEST

START_TEST(what_killed_writers_left_goes)
{
    const struct spool_limits limits = {.seconds = 1000000, .bytes = 1 << 20};
    char path[256];
    write_file("a", 1);
    path_of(path, sizeof(path), "b.tmp");
    replace_file(path, (const uint8_t *)"x", 1);
    ck_assert_int_eq(spool_trim(home, &limits, 0), 0);
    ck_assert(is_there("b.tmp")); /* it may be at work */
    set_age("b.tmp", 2 * 86400);
    ck_assert_int_eq(spool_trim(home, &limits, 0), 0);
    ck_assert(!is_there("b.tmp"));
    ck_assert(is_there("a.held"));
}
END_TEST

/* --- what fails ---------------------------------------------------------------------------- */

START_TEST(full_disk_is_said_and_leaves_nothing)
{
    const struct rlimit small = {.rlim_cur = 300, .rlim_max = RLIM_INFINITY};
    struct rlimit before;
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = try_write("a", 3);
    setrlimit(RLIMIT_FSIZE, &before);
    ck_assert_int_eq(rc, TRK_EFULL);
    ck_assert_ptr_nonnull(strstr(fail_text(), "a.held"));
    ck_assert(!is_there("a.held"));
    ck_assert(!is_there("a.tmp"));
}
END_TEST

START_TEST(no_memory_is_said)
{
    uint64_t live = mem_live();
    struct spool_file *f;
    const struct spool_limits limits = {.seconds = 1000, .bytes = 1 << 20};
    write_file("a", 100);
    int rc = TRK_ENOMEM;
    for (uint64_t n = 1; rc == TRK_ENOMEM; n++) {
        mem_fail_after(n);
        rc = spool_open(&f, home, job, "a");
        mem_fail_after(0);
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_uint_eq(spool_count(f), 100);
    mem_fail_after(1);
    ck_assert_int_eq(check_record(f, 0, 0), TRK_ENOMEM);
    mem_fail_after(1);
    ck_assert_int_eq(spool_trim(home, &limits, 0), TRK_ENOMEM);
    mem_fail_after(1);
    ck_assert_int_eq(try_write("b", 1), TRK_ENOMEM);
    mem_fail_after(0);
    spool_close(f);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("spool");
    TCase *tc = tcase_create("spool");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, what_is_written_is_read);
    tcase_add_test(tc, files_and_folders_are_private);
    tcase_add_test(tc, unfinished_file_is_not_there);
    tcase_add_test(tc, another_jobs_file_is_refused);
    tcase_add_test(tc, any_byte_that_flips_is_found);
    tcase_add_test(tc, truncated_file_gives_what_is_whole);
    tcase_add_test(tc, damaged_payload_costs_its_record_only);
    tcase_add_test(tc, old_files_go);
    tcase_add_test(tc, oldest_goes_first_when_there_is_too_much);
    tcase_add_test(tc, what_killed_writers_left_goes);
    tcase_add_test(tc, full_disk_is_said_and_leaves_nothing);
    tcase_add_test(tc, no_memory_is_said);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
