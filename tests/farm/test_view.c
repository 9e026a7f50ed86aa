/* SPDX-License-Identifier: MIT */
/* Jobs from outside: what is there, what is recorded, and what the one who runs it answers. The
 * answers are asked for by this program again, as a process of its own: test_view ask NAME VERB. */
#include <check.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/home.h"
#include "ckpt/store.h"
#include "ckpt/value.h"
#include "farm/control.h"
#include "farm/farm_impl.h"
#include "tests/farm/rig.h"
#include "tests/suite.h"

static char home[64];

static void setup(void)
{
    snprintf(home, sizeof(home), "/tmp/trk-view-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(home));
    setenv("TRICKLE_HOME", home, 1);
}

static void teardown(void)
{
    char *names, command[128];
    size_t count;

    ck_assert_int_eq(trk_job_names(NULL, &names, &count), 0);
    for (const char *name = names; count > 0; count--, name += strlen(name) + 1) {
        ck_assert_int_eq(trk_job_remove(NULL, name), 0);
    }
    trk_free(names);
    snprintf(command, sizeof(command), "%s/jobs", home);
    rmdir(command);
    ck_assert_int_eq(rmdir(home), 0);
}

/* --- a store with a known content ---------------- */

static void put(struct ckpt_store *store, enum ckpt_kind kind, const void *key, size_t key_size,
                struct blob *blob)
{
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, blob->size}}, .count = 1};
    uint64_t ticket;

    ck_assert_int_eq(ckpt_store_put_record(store, kind, key, key_size, &value, &ticket), 0);
    blob_unref(blob);
}

static void put_stage(struct ckpt_store *store, uint32_t number, const char *name, uint64_t total,
                      uint32_t replaced_by)
{
    struct value_stage stage = {.is_closed = total > 0, .total = total, .key = name,
                                .key_size = strlen(name), .name = name,
                                .name_size = strlen(name), .replaced_by = replaced_by};
    uint8_t key[KEY_STAGE];

    key_put_u32(key, number);
    put(store, CKPT_STAGE, key, sizeof(key), value_stage_encode(&stage));
}

static void put_work(struct ckpt_store *store, uint32_t stage, uint64_t first, uint32_t count)
{
    uint8_t digests[16 * 64] = {0}, span[VALUE_WORK_SPAN], key[KEY_STAGE_NUMBER];
    struct value_work work = {.count = count, .digests = digests, .spans = 1, .delivered = span};

    value_work_span_put(span, count, 0);
    ckpt_key(key, stage, first);
    put(store, CKPT_WORK, key, sizeof(key), value_work_encode(&work));
}

/* Results "r<index>"; every fifth has failed. */
static void put_results(struct ckpt_store *store, uint32_t stage, uint64_t first, uint32_t count)
{
    struct record_run run = {.first = first, .count = count};
    struct ckpt_value value = {.count = 1};
    uint64_t ticket;
    struct buf b;

    buf_init(&b);
    buf_put_u32(&b, 3);
    for (uint64_t i = first; i < first + count; i++) {
        buf_put_u8(&b, i % 5 == 4);
        run.failed += i % 5 == 4;
    }
    for (uint64_t i = first; i < first + count; i++) {
        char text[32];
        buf_put_u32(&b, (uint32_t)snprintf(text, sizeof(text), "r%llu", (unsigned long long)i));
    }
    for (uint64_t i = first; i < first + count; i++) {
        char text[32];
        buf_put(&b, text, (size_t)snprintf(text, sizeof(text), "r%llu", (unsigned long long)i));
    }
    value.slices[0] = (struct ckpt_slice){b.blob->data, b.blob->size};
    ck_assert_int_eq(ckpt_store_put_result(store, stage, &run, &value, &ticket), 0);
    buf_fini(&b);
}

static void put_attempts(struct ckpt_store *store, uint32_t stage, uint64_t element)
{
    struct value_attempt attempts[2] = {
        {.epoch = 1, .a = {.attempt = 1, .outcome = TRK_OUTCOME_DIED, .signal = SIGSEGV,
                           .vm_host = "here", .output = "last words", .output_size = 10}},
        {.epoch = 2, .a = {.attempt = 1, .outcome = TRK_OUTCOME_LOST, .vm_host = "there"}}};
    uint8_t key[KEY_STAGE_NUMBER];

    ckpt_key(key, stage, element);
    put(store, CKPT_ATTEMPT, key, sizeof(key), value_attempts_encode(attempts, 2));
}

/* Stage 1: 20 elements, results 0..9 in two records, the later ones first, and 15. Stage 2: open,
 * 100 elements known. Stage 3 was replaced. */
static void make_job(const char *name)
{
    struct ckpt_store_options opt = {.is_trusted = true};
    struct ckpt_store *store;
    struct ckpt_opened opened;
    char dir[4200];

    ck_assert_int_eq(ckpt_job_dir(home, name, dir, sizeof(dir)), 0);
    opt.dir = dir;
    ck_assert_int_eq(ckpt_store_open(&store, &opt, &opened), 0);
    put_stage(store, 1, "first", 20, 0);
    put_stage(store, 2, "second", 0, 0);
    put_stage(store, 3, "third", 7, 2);
    for (uint32_t i = 0; i < 10; i++) {
        put_work(store, 2, i * 10, 10);
    }
    put_work(store, 4, 0, 64); /* of a stage whose record did not get there */
    put_results(store, 1, 5, 5);
    put_results(store, 1, 0, 5);
    put_results(store, 1, 15, 1);
    put_attempts(store, 1, 4);
    ck_assert_int_eq(ckpt_store_close(store), 0);
}

static struct trk_view *open_view(const char *name)
{
    struct trk_view *view;
    int rc = trk_view_open(&view, NULL, name);

    ck_assert_msg(rc == 0, "trk_view_open: %d %s", rc, trk_last_error());
    return view;
}

/* --- names ---------------- */

START_TEST(jobs_are_listed_and_removed)
{
    struct trk_view *view;
    char *names;
    size_t count;

    ck_assert_int_eq(trk_job_names(NULL, &names, &count), 0);
    ck_assert_uint_eq(count, 0);
    trk_free(names);
    make_job("b");
    make_job("a");
    ck_assert_int_eq(trk_job_names(home, &names, &count), 0);
    ck_assert_uint_eq(count, 2);
    ck_assert_str_eq(names, "a");
    ck_assert_str_eq(names + 2, "b");
    trk_free(names);
    ck_assert_int_eq(trk_job_remove(NULL, "a"), 0);
    ck_assert_int_eq(trk_job_remove(NULL, "a"), TRK_END);
    ck_assert_int_eq(trk_view_open(&view, NULL, "a"), TRK_END);
    ck_assert_int_eq(trk_view_open(&view, NULL, "../b"), TRK_EINVAL);
    ck_assert_int_eq(trk_job_remove(NULL, ".."), TRK_EINVAL);
}
END_TEST

START_TEST(what_this_process_has_open_is_left_alone)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "mine"};
    struct trk_job_opened *opened = mem_alloc(sizeof(*opened));
    struct trk_view *view;
    struct trk_job *job;
    char text[512];

    ck_assert_int_eq(trk_job_open(&job, &opt, opened), 0);
    ck_assert_int_eq(trk_view_open(&view, NULL, "mine"), TRK_EDENIED);
    ck_assert_int_eq(trk_job_remove(NULL, "mine"), TRK_EDENIED);
    ck_assert_int_eq(trk_job_check(NULL, "mine", text, sizeof(text)), TRK_EDENIED);
    ck_assert_int_eq(trk_job_close(job), 0);
    mem_free(opened);
}
END_TEST

/* --- records ---------------- */

START_TEST(stages_are_told_with_their_counts)
{
    static const struct {
        const char *name;
        uint64_t added, recorded, failed;
        bool is_closed;
        uint32_t replaced_by;
    } wanted[3] = {{"first", 20, 11, 2, true, 0}, {"second", 100, 0, 0, false, 0},
                   {"third", 7, 0, 0, true, 2}};
    struct trk_view_stage *stages;
    struct trk_view *view;
    size_t count;

    make_job("a");
    view = open_view("a");
    ck_assert_int_eq(trk_view_stages(view, &stages, &count), 0);
    ck_assert_uint_eq(count, 3);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_uint_eq(stages[i].number, i + 1);
        ck_assert_str_eq(stages[i].name, wanted[i].name);
        ck_assert_str_eq(stages[i].key, wanted[i].name);
        ck_assert_uint_eq(stages[i].added, wanted[i].added);
        ck_assert_uint_eq(stages[i].recorded, wanted[i].recorded);
        ck_assert_uint_eq(stages[i].failed, wanted[i].failed);
        ck_assert_int_eq(stages[i].is_closed, wanted[i].is_closed);
        ck_assert_uint_eq(stages[i].replaced_by, wanted[i].replaced_by);
    }
    trk_view_stages_free(stages);
    trk_view_close(view);
}
END_TEST

static void check_result(const struct trk_view_result *r, uint64_t index)
{
    char text[32];
    int size = snprintf(text, sizeof(text), "r%llu", (unsigned long long)index);

    ck_assert_uint_eq(r->index, index);
    ck_assert_uint_eq(r->status, index % 5 == 4);
    ck_assert_uint_eq(r->attempt, 3);
    ck_assert_uint_eq(r->size, (size_t)size);
    ck_assert_mem_eq(r->payload, text, (size_t)size);
}

START_TEST(results_come_by_index_and_as_recorded)
{
    static const uint64_t recorded[11] = {5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 15};
    static const uint64_t by_index[11] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15};
    struct trk_view_walk one = {.stage = 1}, two = {.stage = 1, .in_recorded_order = true};
    struct trk_view_result result;
    struct trk_view *view;

    make_job("a");
    view = open_view("a");
    for (int i = 0; i < 11; i++) { /* in turns: one does not disturb the other */
        ck_assert_int_eq(trk_view_next(view, &one, &result), 0);
        check_result(&result, by_index[i]);
        ck_assert_int_eq(trk_view_next(view, &two, &result), 0);
        check_result(&result, recorded[i]);
    }
    ck_assert_int_eq(trk_view_next(view, &one, &result), TRK_END);
    ck_assert_int_eq(trk_view_next(view, &two, &result), TRK_END);
    for (uint64_t i = 0; i < 20; i++) {
        bool is_there = i < 10 || i == 15;
        ck_assert_int_eq(trk_view_result(view, 1, 19 - i, &result),
                         (19 - i < 10 || 19 - i == 15) ? 0 : TRK_END);
        ck_assert_int_eq(trk_view_result(view, 1, i, &result), is_there ? 0 : TRK_END);
        if (is_there) {
            check_result(&result, i);
        }
    }
    trk_view_close(view);
}
END_TEST

START_TEST(attempts_are_told)
{
    struct trk_view_attempt *attempts;
    struct trk_view *view;
    size_t count;

    make_job("a");
    view = open_view("a");
    ck_assert_int_eq(trk_view_attempts(view, 1, 4, &attempts, &count), 0);
    ck_assert_uint_eq(count, 2);
    ck_assert_uint_eq(attempts[0].epoch, 1);
    ck_assert_int_eq(attempts[0].a.signal, SIGSEGV);
    ck_assert_str_eq(attempts[0].a.output, "last words");
    ck_assert_str_eq(attempts[1].a.vm_host, "there");
    ck_assert_ptr_null(attempts[1].a.output);
    trk_view_attempts_free(attempts, count);
    ck_assert_int_eq(trk_view_attempts(view, 1, 5, &attempts, &count), 0);
    ck_assert_uint_eq(count, 0);
    trk_view_attempts_free(attempts, count);
    trk_view_close(view);
}
END_TEST

static int look_at_all(void)
{
    struct trk_view_walk walk = {.stage = 1};
    struct trk_view_attempt *attempts;
    struct trk_view_result result;
    struct trk_view_stage *stages;
    struct trk_view *view;
    size_t count;
    char *names;
    int rc = trk_job_names(NULL, &names, &count);

    if (rc < 0) {
        return rc;
    }
    trk_free(names);
    rc = trk_view_open(&view, NULL, "a");
    if (rc < 0) {
        return rc;
    }
    rc = trk_view_stages(view, &stages, &count);
    if (rc == 0) {
        trk_view_stages_free(stages);
        rc = trk_view_attempts(view, 1, 4, &attempts, &count);
    }
    if (rc == 0) {
        trk_view_attempts_free(attempts, count);
    }
    while (rc == 0) {
        rc = trk_view_next(view, &walk, &result);
    }
    trk_view_close(view);
    return rc;
}

START_TEST(any_allocation_may_fail)
{
    uint64_t before;
    int rc = 0;

    make_job("a");
    ck_assert_int_eq(look_at_all(), TRK_END);
    before = mem_live();
    for (uint64_t n = 1; rc != TRK_END; n++) {
        mem_fail_after(n);
        rc = look_at_all();
        mem_fail_after(0);
        ck_assert_msg(rc == TRK_END || rc == TRK_ENOMEM, "allocation %llu: %d",
                      (unsigned long long)n, rc);
        ck_assert_uint_eq(mem_live(), before);
    }
}
END_TEST

/* --- what VMs are busy with ---------------- */

START_TEST(a_vm_is_busy_with_the_first_that_is_not_answered)
{
    struct slot slot = {.lease_number = 1};

    busy_assigned(&slot, 7, 0, 10);
    busy_assigned(&slot, 7, 10, 10);
    ck_assert_uint_eq(slot.busy.count, 2);
    busy_done(&slot, 7, 0, 4);
    ck_assert_uint_eq(slot.busy.runs[0].first, 4);
    busy_done(&slot, 8, 4, 4); /* of another stage */
    busy_done(&slot, 7, 15, 5); /* given back */
    ck_assert_uint_eq(slot.busy.runs[0].first, 4);
    ck_assert_uint_eq(slot.busy.runs[1].end, 15);
    busy_done(&slot, 7, 4, 6);
    ck_assert_uint_eq(slot.busy.count, 1);
    ck_assert_uint_eq(slot.busy.runs[0].first, 10);
    slot.lease_number = 2;
    busy_done(&slot, 7, 10, 5); /* late, of a VM that is gone */
    busy_assigned(&slot, 9, 1, 1);
    ck_assert_uint_eq(slot.busy.count, 1);
    ck_assert_uint_eq(slot.busy.runs[0].stage, 9);
    for (uint32_t i = 0; i < 2 * BUSY_RUNS; i++) {
        busy_assigned(&slot, 9, 10 + i, 1);
    }
    ck_assert_uint_eq(slot.busy.count, BUSY_RUNS);
}
END_TEST

/* --- asking ---------------- */

/* The helper: prints the answer. */
static int ask(const char *name, const char *verb)
{
    struct trk_view *view;
    char *answer;
    size_t size;
    int rc = trk_view_open(&view, NULL, name);

    if (rc == 0) {
        rc = trk_view_ask(view, verb, "", 10000, &answer, &size);
        if (rc == 0) {
            fwrite(answer, 1, size, stdout);
            trk_free(answer);
        }
        trk_view_close(view);
    }
    if (rc != 0) {
        printf("%d %s", rc, rc < 0 ? trk_last_error() : "");
    }
    return 0;
}

static void ask_aside(const char *name, const char *verb, char *answer, size_t size)
{
    char self[256], command[512];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    size_t used;
    FILE *pipe;

    ck_assert_int_gt(length, 0);
    self[length] = '\0';
    snprintf(command, sizeof(command), "'%s' ask %s %s", self, name, verb);
    pipe = popen(command, "re");
    ck_assert_ptr_nonnull(pipe);
    used = fread(answer, 1, size - 1, pipe);
    answer[used] = '\0';
    ck_assert_int_eq(pclose(pipe), 0);
}

static volatile sig_atomic_t terminated;

static void on_term(int number)
{
    terminated = number;
}

START_TEST(a_running_job_answers)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "live"};
    struct trk_job_opened *opened = mem_alloc(sizeof(*opened));
    struct trk_farm_options farm_opt = {.size = sizeof(farm_opt), .program = "test"};
    char answer[4096], dir[64] = "/tmp/trk-farm-XXXXXX";
    struct trk_farm *farm;
    struct trk_job *job;

    ck_assert_ptr_nonnull(mkdtemp(dir));
    farm_opt.runtime_dir = dir;
    ck_assert_int_eq(trk_job_open(&job, &opt, opened), 0);
    ask_aside("live", "status", answer, sizeof(answer));
    ck_assert_str_eq(answer, "2 "); /* TRK_END: it has no farm yet */
    farm_opt.job = job;
    ck_assert_int_eq(trk_farm_new(&farm, &farm_opt), 0);
    do { /* the farm begins on its own thread */
        ask_aside("live", "status", answer, sizeof(answer));
    } while (strcmp(answer, "2 ") == 0);
    ck_assert_msg(strncmp(answer, "{\"pid\":", 7) == 0 && strstr(answer, "\"works\":[]") != NULL &&
                  strstr(answer, "\"is_paused\":false") != NULL, "%s", answer);
    ask_aside("live", "nonsense", answer, sizeof(answer));
    ck_assert_str_eq(answer, "-12 there is no such request");
    ask_aside("live", "attempts", answer, sizeof(answer));
    ck_assert_str_eq(answer, "[]");
    signal(SIGTERM, on_term);
    ask_aside("live", "cancel", answer, sizeof(answer));
    ck_assert_str_eq(answer, "ok");
    while (terminated != SIGTERM) {
        sched_yield(); /* the signal may come behind the answer */
    }
    trk_farm_close(farm, 1000);
    ask_aside("live", "status", answer, sizeof(answer));
    ck_assert_str_eq(answer, "2 ");
    ck_assert_int_eq(trk_job_close(job), 0);
    ask_aside("live", "status", answer, sizeof(answer));
    ck_assert_str_eq(answer, "2 ");
    ck_assert_msg(rmdir(dir) == 0, "something is left in %s", dir);
    mem_free(opened);
}
END_TEST

int main(int argc, char **argv)
{
    TCase *jobs, *plain;
    Suite *suite;

    if (argc == 4 && strcmp(argv[1], "ask") == 0) {
        return ask(argv[2], argv[3]);
    }
    suite = suite_create("view");
    jobs = tcase_create("jobs");
    plain = tcase_create("busy");
    tcase_add_checked_fixture(jobs, setup, teardown);
    tcase_set_timeout(jobs, 60);
    tcase_add_test(jobs, jobs_are_listed_and_removed);
    tcase_add_test(jobs, what_this_process_has_open_is_left_alone);
    tcase_add_test(jobs, stages_are_told_with_their_counts);
    tcase_add_test(jobs, results_come_by_index_and_as_recorded);
    tcase_add_test(jobs, attempts_are_told);
    tcase_add_test(jobs, any_allocation_may_fail);
    tcase_add_test(jobs, a_running_job_answers);
    tcase_add_test(plain, a_vm_is_busy_with_the_first_that_is_not_answered);
    suite_add_tcase(suite, jobs);
    suite_add_tcase(suite, plain);
    return run_suite(suite);
}
