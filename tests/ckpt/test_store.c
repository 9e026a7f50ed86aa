/* SPDX-License-Identifier: MIT */
/* test_store.c - what is put is read: in order, after reopening, from other processes; the lock. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h" /* before check.h, which has a macro of that name */
#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/home.h"
#include "ckpt/lock.h"
#include "ckpt/verify.h"
#include "tests/suite.h"
#include "rig.h"

static struct ckpt_value text_value(const char *text)
{
    return (struct ckpt_value){.slices = {{text, strlen(text)}}, .count = 1};
}

static void put_text(struct ckpt_store *s, enum ckpt_kind kind, const char *key, const char *text,
                     uint64_t *ticket)
{
    struct ckpt_value value = text_value(text);

    ck_assert_int_eq(ckpt_store_put_record(s, kind, key, strlen(key), &value, ticket), 0);
}

static void expect_text(struct ckpt_reader *r, enum ckpt_kind kind, const char *key,
                        const char *text)
{
    struct blob *blob = NULL;
    int rc = ckpt_read_get(r, kind, key, strlen(key), &blob);

    if (text == NULL) {
        ck_assert_int_eq(rc, TRK_END);
        return;
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_uint_eq(blob->size, strlen(text));
    ck_assert_mem_eq(blob->data, text, blob->size);
    blob_unref(blob);
}

static void expect_sound(void)
{
    struct verify_report report;
    int rc = verify_store(rig_job(), &report, NULL);

    ck_assert_msg(rc == 0, "%s", report.why);
}

/* --- records ---------------- */

START_TEST(records_are_read_back_after_reopening)
{
    struct ckpt_opened opened;
    struct ckpt_store *s = rig_open(&opened);
    struct ckpt_reader *r;
    uint8_t uuid[RECORD_UUID];
    uint64_t ticket;

    ck_assert(opened.is_new);
    ck_assert_uint_eq(opened.epoch, 1);
    memcpy(uuid, opened.uuid, sizeof(uuid));
    put_text(s, CKPT_JOB, "argv", "prog.py 1 2", NULL);
    put_text(s, CKPT_ONCE, "seed", "42", NULL);
    put_text(s, CKPT_ONCE, "empty", "", NULL);
    put_text(s, CKPT_JOB, "argv", "prog.py 3", &ticket);
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();

    s = rig_open(&opened);
    ck_assert(!opened.is_new);
    ck_assert(opened.was_clean);
    ck_assert_uint_eq(opened.epoch, 2);
    ck_assert_mem_eq(opened.uuid, uuid, sizeof(uuid));
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    expect_text(r, CKPT_JOB, "argv", "prog.py 3");
    expect_text(r, CKPT_ONCE, "seed", "42");
    expect_text(r, CKPT_ONCE, "empty", "");
    expect_text(r, CKPT_ONCE, "argv", NULL);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(results_are_read_in_both_orders)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    struct ckpt_found found;
    uint64_t ticket = 0;

    for (uint64_t i = 0; i < 300; i++) { /* blocks of 7, out of order, two stages */
        uint64_t block = i * 101 % 300;
        rig_put(s, 1, block * 7, 7, 0);
        ticket = rig_put(s, 2, block, 1, 0);
    }
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 1, 0), 2100);
    ck_assert_uint_eq(rig_check(r, 2, 0), 300);
    ck_assert_uint_eq(rig_check(r, 3, 0), 0);
    ck_assert_int_eq(ckpt_read_find(r, 1, 8, &found), 0);
    ck_assert_uint_eq(found.first, 7);
    ck_assert_uint_eq(found.count, 7);
    ck_assert_int_eq(ckpt_read_find(r, 1, 2100, &found), TRK_END);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();
}
END_TEST

START_TEST(keys_are_walked_in_order)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_read_key key = {.size = 0};
    struct ckpt_reader *r;
    uint8_t bytes[KEY_STAGE_NUMBER];
    struct blob *blob;
    uint64_t ticket = 0, n = 0;
    int rc;

    for (uint64_t i = 0; i < 50; i++) {
        struct ckpt_value value = text_value("elements");
        ckpt_key(bytes, 5, i * 37 % 50);
        ck_assert_int_eq(ckpt_store_put_record(s, CKPT_WORK, bytes, sizeof(bytes), &value,
                                               &ticket), 0);
    }
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    while ((rc = ckpt_read_next(r, CKPT_WORK, &key, &blob)) == 0) {
        ck_assert_uint_eq(key_get_u64(key.bytes + 4), n);
        n++;
        blob_unref(blob);
    }
    ck_assert_int_eq(rc, TRK_END);
    ck_assert_uint_eq(n, 50);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(the_first_result_of_an_element_counts)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_result result;
    struct record_count count;
    struct ckpt_reader *r;
    char line[64];

    rig_put(s, 1, 10, 10, 0);
    rig_put(s, 1, 5, 10, 1);  /* 10 .. 14 are there already */
    rig_put(s, 1, 12, 3, 2);  /* all are */
    rig_put(s, 1, 0, 40, 3);  /* around all */
    rig_wait(s, rig_put(s, 1, 12, 1, 4));
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 1, 4), 40);
    for (uint64_t i = 0; i < 40; i++) {
        unsigned round = i >= 10 && i < 20 ? 0 : i >= 5 && i < 10 ? 1 : 3;
        ck_assert_int_eq(ckpt_read_at(r, 1, i, &result), 0);
        rig_value(line, 1, result.run.first, round);
        ck_assert_mem_eq(result.value->data, line, strlen(line));
        blob_unref(result.value);
    }
    ck_assert_int_eq(ckpt_read_count(r, 1, &count), 0);
    ck_assert_uint_eq(count.recorded, 40);
    ck_assert_uint_eq(count.runs, 5);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();
}
END_TEST

START_TEST(forgotten_results_are_recorded_anew)
{
    struct record_run run = {.first = 3, .count = 4};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    struct ckpt_found found;

    rig_put(s, 1, 0, 10, 0);
    ck_assert_int_eq(ckpt_store_forget(s, 1, &run, NULL), 0);
    rig_wait(s, rig_put(s, 1, 5, 1, 1));
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 1, 1), 7);
    ck_assert_int_eq(ckpt_read_find(r, 1, 3, &found), 0);
    ck_assert_uint_eq(found.first, 5);
    ck_assert_uint_eq(found.count, 1);
    run = (struct record_run){.first = 0, .count = UINT64_MAX};
    ck_assert_int_eq(ckpt_store_forget(s, 1, &run, NULL), 0);
    rig_wait(s, rig_put(s, 2, 0, 1, 0));
    ck_assert_uint_eq(rig_check(r, 1, 1), 0);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    struct record_run none = {.first = 3, .count = 0}, wide = {.first = 3, .count = UINT64_MAX};
    struct ckpt_value value = text_value("x"), large = {.slices = {{"", CKPT_VALUE_MAX + 1}},
                                                        .count = 1};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_state state;
    char key[RECORD_KEY_MAX + 1] = {0};

    ck_assert_int_eq(ckpt_store_put_result(s, 1, &none, &value, NULL), TRK_EINVAL);
    ck_assert_int_eq(ckpt_store_put_result(s, 1, &wide, &value, NULL), TRK_EINVAL);
    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_ONCE, key, 0, &value, NULL), TRK_EINVAL);
    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_ONCE, key, sizeof(key), &value, NULL),
                     TRK_EINVAL);
    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_TAIL, key, 4, &value, NULL), TRK_EINVAL);
    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_ONCE, key, 4, &large, NULL), TRK_ETOOBIG);
    ckpt_store_poll(s, &state);
    ck_assert_uint_eq(state.queued_count, 0);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

/* --- large values ---------------- */

static struct blob *large_blob(size_t size, unsigned seed)
{
    struct blob *blob = blob_new(size);

    ck_assert_ptr_nonnull(blob);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = (i + seed) * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(blob->data + i, &word, size - i < 8 ? size - i : 8);
    }
    blob->size = size;
    return blob;
}

static void put_large(struct ckpt_store *s, uint64_t element, struct blob *blob, bool in_parts)
{
    struct record_run run = {.first = element, .count = 1};
    struct ckpt_value value = {.blob = blob, .count = 1};
    uint64_t ticket;

    value.slices[0] = (struct ckpt_slice){blob->data, blob->size};
    if (in_parts) {
        ck_assert_int_eq(ckpt_body_new(s, &value.body), 0);
        for (size_t at = 0; at < blob->size; at += 300000) {
            size_t n = blob->size - at < 300000 ? blob->size - at : 300000;
            ck_assert_int_eq(ckpt_body_add(value.body, blob, blob->data + at, n), 0);
        }
    }
    ck_assert_int_eq(ckpt_store_put_result(s, 1, &run, &value, &ticket), 0);
    ck_assert_int_eq(ckpt_store_wait(s, ticket, 300000), 0);
}

static void expect_large(struct ckpt_reader *r, uint64_t element, const struct blob *blob)
{
    struct ckpt_result result;

    ck_assert_int_eq(ckpt_read_at(r, 1, element, &result), 0);
    ck_assert_uint_eq(result.found.first, element);
    ck_assert_uint_eq(result.value->size, blob->size);
    ck_assert(memcmp(result.value->data, blob->data, blob->size) == 0);
    blob_unref(result.value);
}

/* Around every edge of the parts; 1 GiB with TRICKLE_FULL. */
START_TEST(values_of_all_sizes_come_back)
{
    static const size_t sizes[] = {0, 1, 100, 2000, 2100, 4096, RECORD_PART_MAX - 1,
                                   RECORD_PART_MAX, RECORD_PART_MAX + 1, 3 * RECORD_PART_MAX,
                                   (size_t)64 << 20, (size_t)1 << 30};
    size_t count = sizeof(sizes) / sizeof(sizes[0]) - !rig_is_full();
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;

    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    for (size_t i = 0; i < count; i++) {
        struct blob *blob = large_blob(sizes[i], (unsigned)i);
        put_large(s, 2 * i, blob, false);
        expect_large(r, 2 * i, blob);
        put_large(s, 2 * i + 1, blob, true);
        expect_large(r, 2 * i + 1, blob);
        blob_unref(blob);
    }
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();
}
END_TEST

START_TEST(the_parts_of_a_replaced_value_go)
{
    struct blob *blob = large_blob((size_t)3 << 20, 1);
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, blob->size}}, .count = 1};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    struct ckpt_info before, after;
    uint64_t ticket = 0;

    for (int i = 0; i < 20; i++) {
        ck_assert_int_eq(ckpt_store_put_record(s, CKPT_STATE, "e", 1, &value, &ticket), 0);
    }
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_info(r, &before), 0);
    ck_assert_uint_eq(before.records, 5); /* head, three parts, their end */
    ck_assert_int_eq(ckpt_store_delete(s, CKPT_STATE, "e", 1, NULL), 0);
    ck_assert_int_eq(ckpt_store_delete(s, CKPT_STATE, "e", 1, &ticket), 0);
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_read_info(r, &after), 0);
    ck_assert_uint_eq(after.records, 0);
    ckpt_reader_free(r);
    blob_unref(blob);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();
}
END_TEST

static void start_a_body(void *ctx)
{
    struct blob *blob = large_blob((size_t)5 << 20, 2);
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_body *body;

    rig_put(s, 1, 0, 3, 0);
    ck_assert_int_eq(ckpt_body_new(s, &body), 0);
    ck_assert_int_eq(ckpt_body_add(body, blob, blob->data, blob->size), 0);
    rig_wait(s, rig_put(s, 1, 3, 1, 0));
}

START_TEST(parts_without_a_head_go_at_the_next_opening)
{
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    struct ckpt_store *s;
    struct ckpt_info info;

    ck_assert_int_eq(rig_crash(start_a_body, NULL), 0);
    s = rig_open(&opened);
    ck_assert(!opened.was_clean);
    ck_assert(!opened.is_salvaged);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_info(r, &info), 0);
    ck_assert_uint_eq(info.records, 3); /* two results and a counter */
    ck_assert_uint_eq(rig_check(r, 1, 0), 4);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(a_dropped_body_leaves_nothing)
{
    struct blob *blob = large_blob((size_t)2 << 20, 2);
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    struct ckpt_body *body;
    struct ckpt_info info;

    ck_assert_int_eq(ckpt_body_new(s, &body), 0);
    ck_assert_int_eq(ckpt_body_add(body, blob, blob->data, blob->size), 0);
    ckpt_body_drop(body);
    ck_assert_int_eq(ckpt_body_new(s, &body), 0);
    ckpt_body_drop(body);
    rig_wait(s, rig_put(s, 1, 3, 1, 0));
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_info(r, &info), 0);
    ck_assert_uint_eq(info.records, 2);
    ckpt_reader_free(r);
    blob_unref(blob);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    expect_sound();
}
END_TEST

/* --- lock, fork, privacy ---------------- */

static int try_open(void)
{
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK};
    struct ckpt_opened opened;
    struct ckpt_store *s = NULL;

    return ckpt_store_open(&s, &opt, &opened);
}

/* Runs itself anew: a fork alone would say "used after fork". */
static void open_in_another_process(char *said, size_t size)
{
    char command[4500];
    FILE *out;

    snprintf(command, sizeof(command), "TEST_OPEN=%s /proc/%ld/exe 2>&1", rig_job(),
             (long)getpid());
    out = popen(command, "r");
    ck_assert_ptr_nonnull(out);
    said[fread(said, 1, size - 1, out)] = '\0';
    pclose(out);
}

static int main_of_another_process(const char *dir)
{
    struct ckpt_store_options opt = {.dir = dir, .helper = TRICKLE_FSCK};
    struct ckpt_opened opened;
    struct ckpt_store *s = NULL;
    int rc = ckpt_store_open(&s, &opt, &opened);

    printf("%d %s\n", rc, rc < 0 ? fail_text() : "open");
    ckpt_store_close(s);
    return 0;
}

START_TEST(a_second_writer_is_told_who_holds_the_lock)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_holder holder;
    char said[2000], pid[40];

    snprintf(pid, sizeof(pid), "process %ld ", (long)getpid());
    open_in_another_process(said, sizeof(said));
    ck_assert_msg(strncmp(said, "-12 ", 4) == 0 && strstr(said, pid) != NULL, "said: %s", said);
    ck_assert_int_eq(try_open(), TRK_EDENIED);
    ck_assert_msg(strstr(fail_text(), "in this process") != NULL, "said: %s", fail_text());
    /* Neither of the two has taken the lock away. */
    open_in_another_process(said, sizeof(said));
    ck_assert_msg(strncmp(said, "-12 ", 4) == 0, "said: %s", said);
    ck_assert_int_eq(ckpt_lock_holder(rig_job(), &holder), 0);
    ck_assert_int_eq(holder.pid, getpid());
    ck_assert_int_eq(ckpt_store_close(s), 0);
    open_in_another_process(said, sizeof(said));
    ck_assert_msg(strncmp(said, "0 ", 2) == 0, "said: %s", said);
    ck_assert_int_eq(ckpt_lock_holder(rig_job(), &holder), 0);
    ck_assert_int_eq(holder.pid, 0);
}
END_TEST

START_TEST(a_forked_child_has_neither_lock_nor_store)
{
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    struct ckpt_found found;
    char said[2000];
    int pipes[2], status;
    pid_t pid;

    rig_wait(s, rig_put(s, 1, 0, 5, 0));
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(pipe(pipes), 0);
    pid = fork();
    if (pid == 0) {
        struct record_run run = {.first = 1, .count = 1};
        struct ckpt_value value = text_value("x");
        bool is_refused = ckpt_store_put_result(s, 1, &run, &value, NULL) == TRK_EFORKED &&
                          ckpt_read_find(r, 1, 0, &found) == TRK_EFORKED &&
                          ckpt_store_close(s) == TRK_EFORKED && try_open() == TRK_EFORKED;
        char c;
        close(pipes[1]);
        ckpt_reader_free(r);
        (void)!read(pipes[0], &c, 1); /* until the parent has closed its store */
        _exit(is_refused ? 0 : 1);
    }
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    open_in_another_process(said, sizeof(said)); /* while the child lives */
    ck_assert_msg(strncmp(said, "0 ", 2) == 0, "said: %s", said);
    close(pipes[1]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    close(pipes[0]);
}
END_TEST

START_TEST(files_are_private)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "job.lock", "last"};
    mode_t mask = umask(0);
    struct ckpt_store *s = rig_open(NULL);
    struct stat st;

    ck_assert_int_eq(stat(rig_job(), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    for (size_t i = 0; i < 4; i++) {
        char path[400];
        snprintf(path, sizeof(path), "%s/%s", rig_job(), names[i]);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_msg((st.st_mode & 07777) == 0600, "%s has mode %o", names[i], st.st_mode);
    }
    ck_assert_int_eq(ckpt_store_close(s), 0);
    umask(mask);
}
END_TEST

START_TEST(the_home_is_where_it_is_said_to_be)
{
    char path[HOME_PATH_MAX], job[HOME_PATH_MAX], notice[1000];
    struct stat st;

    setenv("TRICKLE_HOME", rig_path("a/b"), 1);
    ck_assert_int_eq(ckpt_home(path, sizeof(path), notice, sizeof(notice)), 0);
    ck_assert_str_eq(path, rig_path("a/b"));
    ck_assert_str_eq(notice, "");
    ck_assert_int_eq(ckpt_job_dir(path, "render-1", job, sizeof(job)), 0);
    ck_assert_str_eq(job, rig_path("a/b/jobs/render-1"));
    ck_assert_int_eq(stat(job, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    ck_assert_int_eq(ckpt_job_dir(path, "../x", job, sizeof(job)), TRK_EINVAL);
    ck_assert_int_eq(ckpt_job_dir(path, "", job, sizeof(job)), TRK_EINVAL);
    ck_assert_int_eq(ckpt_job_dir(path, "a b", job, sizeof(job)), TRK_EINVAL);
    chmod(path, 0777);
    ck_assert_int_eq(ckpt_home(path, sizeof(path), notice, sizeof(notice)), TRK_EDENIED);
    unsetenv("TRICKLE_HOME");
    setenv("XDG_STATE_HOME", rig_path("state"), 1);
    ck_assert_int_eq(ckpt_home(path, sizeof(path), notice, sizeof(notice)), 0);
    ck_assert_str_eq(path, rig_path("state/trickle"));
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", rig_path("me"), 1);
    ck_assert_int_eq(ckpt_home(path, sizeof(path), notice, sizeof(notice)), 0);
    ck_assert_str_eq(path, rig_path("me/.local/state/trickle"));
    rig_remove(rig_path("a/b/jobs"));
    rig_remove(rig_path("a"));
    rig_remove(rig_path("state"));
    rig_remove(rig_path("me/.local/state"));
    rig_remove(rig_path("me/.local"));
    ck_assert_int_eq(symlink("/tmp", rig_path("link")), 0);
    ck_assert_int_eq(ckpt_private_dir(rig_path("link")), TRK_EDENIED);
}
END_TEST

/* --- readers ---------------- */

struct shared {
    int started[2], stop[2];
};

/* Reads all there is over and over, until told to stop; every value must be right. */
static void read_along(void *ctx)
{
    struct shared *shared = ctx;
    struct ckpt_reader *r;
    uint64_t before = 0, now;
    char c = 'x';

    close(shared->stop[1]);
    fcntl(shared->stop[0], F_SETFL, O_NONBLOCK);
    ck_assert_int_eq(ckpt_reader_open(&r, rig_job()), 0);
    ck_assert_int_eq(write(shared->started[1], &c, 1), 1);
    while (read(shared->stop[0], &c, 1) < 0) {
        struct ckpt_position position = {0, 0};
        struct ckpt_result result;
        now = 0;
        while (ckpt_read_recorded(r, 1, &position, &result) == 0) {
            now += result.found.count;
            blob_unref(result.value);
        }
        ck_assert_uint_ge(now, before);
        before = now;
    }
    ck_assert_uint_eq(rig_check(r, 1, 0), 2000 * 5);
    ckpt_reader_free(r);
}

START_TEST(another_process_reads_while_this_one_writes)
{
    struct shared shared;
    struct ckpt_store *s;
    uint64_t ticket = 0;
    int status;
    pid_t pid;
    char c;

    ck_assert_int_eq(pipe(shared.started), 0);
    ck_assert_int_eq(pipe(shared.stop), 0);
    ck_assert_int_eq(ckpt_store_close(rig_open(NULL)), 0);
    pid = fork(); /* before the store is open here: its child may open its own reader */
    if (pid == 0) {
        read_along(&shared);
        _exit(0);
    }
    ck_assert_int_eq(read(shared.started[0], &c, 1), 1);
    s = rig_open(NULL);
    for (uint64_t i = 0; i < 2000; i++) {
        ticket = rig_put(s, 1, i * 5, 5, 0);
        if (i % 50 == 0) {
            rig_wait(s, ticket);
        }
    }
    rig_wait(s, ticket);
    close(shared.stop[0]);
    close(shared.stop[1]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    close(shared.started[0]);
    close(shared.started[1]);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(there_is_no_store_to_read)
{
    struct ckpt_reader *r;

    ck_assert_int_eq(ckpt_reader_open(&r, rig_path("nothing")), TRK_END);
}
END_TEST

static void work_in_little_space(void *ctx)
{
    struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    struct ckpt_reader *r;
    struct ckpt_store *s;

    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
    s = rig_open(NULL);
    rig_wait(s, rig_put(s, 1, 0, 100, 0));
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 1, 0), 100);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}

START_TEST(a_limited_address_space_is_enough)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* these want terabytes */
    ck_assert_int_eq(rig_crash(work_in_little_space, NULL), 0);
#else
    (void)work_in_little_space;
#endif
}
END_TEST

START_TEST(a_value_may_be_partly_in_a_blob)
{
    struct blob *blob = blob_dup("[in the blob]", 13), *got;
    char before[] = "before ", after[] = " after", none[] = "";
    struct ckpt_value value = {.blob = blob, .slices = {{before, 7}, {blob->data + 1, 11},
                                                        {none, 0}, {after, 6}}, .count = 4};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    uint64_t ticket;

    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_ONCE, "k", 1, &value, &ticket), 0);
    memset(before, 'x', sizeof(before) - 1); /* copied: they are the caller's again */
    memset(after, 'x', sizeof(after) - 1);
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_get(r, CKPT_ONCE, "k", 1, &got), 0);
    ck_assert_uint_eq(got->size, 24);
    ck_assert_mem_eq(got->data, "before in the blob after", 24);
    blob_unref(got);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    ck_assert_uint_eq(atomic_load(&blob->refs), 1);
    blob_unref(blob);
}
END_TEST

/* --- memory ---------------- */

START_TEST(a_put_without_memory_leaves_nothing)
{
    struct blob *blob = large_blob((size_t)2 << 20, 2);
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, blob->size}}, .count = 1};
    struct record_run run = {.first = 0, .count = 1};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_state state;

    mem_fail_after(1);
    ck_assert_int_eq(ckpt_store_put_result(s, 1, &run, &value, NULL), TRK_ENOMEM);
    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_ONCE, "k", 1, &value, NULL), TRK_ENOMEM);
    ck_assert_int_eq(ckpt_store_delete(s, CKPT_ONCE, "k", 1, NULL), TRK_ENOMEM);
    ck_assert_int_eq(ckpt_store_forget(s, 1, &run, NULL), TRK_ENOMEM);
    mem_fail_after(0);
    ckpt_store_poll(s, &state);
    ck_assert_uint_eq(state.queued_bytes, 0);
    ck_assert_uint_eq(atomic_load(&blob->refs), 1);
    blob_unref(blob);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(opening_and_reading_survive_any_failed_allocation)
{
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK};
    struct ckpt_store *s = rig_open(NULL);
    uint64_t n, live;
    int rc = TRK_ENOMEM;

    rig_put(s, 1, 0, 5, 0);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    live = mem_live();
    for (n = 1; rc == TRK_ENOMEM; n++) {
        struct ckpt_opened opened;
        struct ckpt_reader *r = NULL;
        struct ckpt_result result;
        mem_fail_after(n);
        rc = ckpt_store_open(&s, &opt, &opened);
        if (rc == 0) {
            rc = ckpt_reader_of(&r, s);
            rc = rc == 0 ? ckpt_read_at(r, 1, 0, &result) : rc;
            mem_fail_after(0);
            if (rc == 0) {
                blob_unref(result.value);
            }
            if (r != NULL) {
                ckpt_reader_free(r);
            }
            ck_assert_int_eq(ckpt_store_close(s), 0);
        }
        mem_fail_after(0);
        ck_assert_uint_eq(mem_live(), live);
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_uint_gt(n, 3);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tc;

    if (getenv("TEST_OPEN") != NULL) {
        return main_of_another_process(getenv("TEST_OPEN"));
    }
    suite = suite_create("store");
    tc = tcase_create("store");
    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 240);
    tcase_add_test(tc, records_are_read_back_after_reopening);
    tcase_add_test(tc, results_are_read_in_both_orders);
    tcase_add_test(tc, keys_are_walked_in_order);
    tcase_add_test(tc, the_first_result_of_an_element_counts);
    tcase_add_test(tc, forgotten_results_are_recorded_anew);
    tcase_add_test(tc, what_cannot_be_is_refused);
    tcase_add_test(tc, values_of_all_sizes_come_back);
    tcase_add_test(tc, the_parts_of_a_replaced_value_go);
    tcase_add_test(tc, parts_without_a_head_go_at_the_next_opening);
    tcase_add_test(tc, a_dropped_body_leaves_nothing);
    tcase_add_test(tc, a_second_writer_is_told_who_holds_the_lock);
    tcase_add_test(tc, a_forked_child_has_neither_lock_nor_store);
    tcase_add_test(tc, files_are_private);
    tcase_add_test(tc, the_home_is_where_it_is_said_to_be);
    tcase_add_test(tc, another_process_reads_while_this_one_writes);
    tcase_add_test(tc, there_is_no_store_to_read);
    tcase_add_test(tc, a_limited_address_space_is_enough);
    tcase_add_test(tc, a_value_may_be_partly_in_a_blob);
    tcase_add_test(tc, a_put_without_memory_leaves_nothing);
    tcase_add_test(tc, opening_and_reading_survive_any_failed_allocation);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
