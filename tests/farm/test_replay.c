/* SPDX-License-Identifier: MIT */
/* test_replay.c - stages of a job, what a resumed one knows and gives back, changed lists. A store
 * and no farm: what the farm would have written is written here. */
#include "base/fail.h" /* before check.h, which has a macro of that name */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "farm/edit.h"
#include "tests/suite.h"
#include "trickle/job.h"

static char home[64];
static struct trk_job *job;
static uint64_t live_before;

static void open_job(enum trk_on_change on_change)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "j", .home = home,
                                  .on_change = on_change};
    struct trk_job_opened opened;
    int rc = trk_job_open(&job, &opt, &opened);

    ck_assert_msg(rc == 0, "%s", fail_text());
}

static void reopen(enum trk_on_change on_change)
{
    ck_assert_int_eq(trk_job_close(job), 0);
    open_job(on_change);
}

static void setup(void)
{
    snprintf(home, sizeof(home), "/tmp/test-replay-XXXXX" "X");
    ck_assert_ptr_nonnull(mkdtemp(home));
    live_before = mem_live();
    open_job(TRK_CHANGE_REFUSE);
}

static void teardown(void)
{
    char command[128];

    mem_fail_after(0);
    ck_assert_int_eq(trk_job_close(job), 0);
    snprintf(command, sizeof(command), "rm -r %s", home);
    ck_assert_int_eq(system(command), 0);
    ck_assert_uint_eq(mem_live(), live_before);
}

/* --- what the farm writes ---------------- */

static struct digest digest_of(uint64_t element)
{
    return hash_digest(&element, sizeof(element));
}

static struct job_stage *open_stage(const char *key, const char *code)
{
    struct digest fingerprint = hash_digest(code, strlen(code));
    struct job_stage *stage;
    bool is_new;
    int rc = job_stage_open(job, key, "work", &fingerprint, &stage, &is_new);

    ck_assert_msg(rc == 0, "%s", fail_text());
    return stage;
}

/* Elements first .. with these values, each made when delivered results had been given. */
static void put_works(uint32_t stage, uint64_t first, const uint64_t *elements, uint32_t count,
                      uint64_t delivered)
{
    uint8_t digests[100 * 16], span[VALUE_WORK_SPAN];
    struct value_work v = {.count = count, .digests = digests, .spans = 1, .delivered = span};
    uint64_t ticket;

    for (uint32_t i = 0; i < count; i++) {
        struct digest d = digest_of(elements[i]);
        memcpy(digests + i * 16, d.bytes, 16);
    }
    value_work_span_put(span, count, delivered);
    ck_assert_int_eq(job_put_work(job, stage, first, &v, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
}

/* Results of elements first .. first + count: one byte each, their index; odd ones have failed
 * where is_failing. */
static void put_results(uint32_t stage, uint64_t first, uint32_t count, bool is_failing)
{
    uint8_t attempt[4] = {1, 0, 0, 0}, statuses[100] = {0}, sizes[400], payload[100];
    struct record_run run = {.first = first, .count = count};
    struct ckpt_value value = {.slices = {{attempt, 4}, {statuses, count}, {sizes, count * 4},
                                          {payload, count}}, .count = 4};
    uint64_t ticket;

    for (uint32_t i = 0; i < count; i++) {
        le_store_u32(sizes + i * 4, 1);
        payload[i] = (uint8_t)(first + i);
        statuses[i] = is_failing && (first + i) % 2 == 1;
        run.failed += statuses[i];
    }
    ck_assert_int_eq(job_put_result(job, stage, &run, &value, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
}

static void take_expecting(struct replay *r, uint64_t added, uint64_t index)
{
    struct trk_result result;
    int rc = replay_take(r, added, false, &result);

    ck_assert_int_eq(rc, 0);
    ck_assert_uint_eq(result.index, index);
    ck_assert_uint_eq(result.size, 1);
    ck_assert_uint_eq(((const uint8_t *)result.payload)[0], (uint8_t)index);
}

/* Takes these, in this order. */
#define TAKE_ALL(r, added, ...)                                               \
    do {                                                                      \
        const uint64_t all_[] = {__VA_ARGS__};                                \
        for (size_t i_ = 0; i_ < sizeof(all_) / sizeof(*all_); i_++) {        \
            take_expecting(r, added, all_[i_]);                               \
        }                                                                     \
    } while (0)

static struct replay *replay_of(uint32_t stage)
{
    struct replay *r;

    ck_assert_int_eq(replay_new(&r, job, stage), 0);
    return r;
}

static const uint64_t counting[100] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

/* A stage of ten elements without a result. */
static uint32_t stage_of_ten(void)
{
    uint32_t stage = open_stage("a", "x")->number;

    put_works(stage, 0, counting, 10, 0);
    return stage;
}

/* --- stages ---------------- */

START_TEST(a_stage_is_found_again_by_its_key)
{
    uint32_t a = open_stage("a#1", "x")->number, b = open_stage("b#1", "x")->number;

    ck_assert_uint_ne(a, b);
    reopen(TRK_CHANGE_REFUSE);
    ck_assert_uint_eq(open_stage("b#1", "x")->number, b);
    ck_assert_uint_eq(open_stage("a#1", "x")->number, a);
    ck_assert_uint_gt(open_stage("c#1", "x")->number, b);
}
END_TEST

START_TEST(two_works_at_once_need_two_keys)
{
    struct digest fingerprint = hash_digest("x", 1);
    struct job_stage *stage = open_stage("a", "x"), *again;
    bool is_new;

    ck_assert_int_eq(job_stage_open(job, "a", "work", &fingerprint, &again, &is_new), TRK_EINVAL);
    ck_assert_ptr_nonnull(strstr(fail_text(), "name="));
    job_stage_release(job, stage);
    ck_assert_int_eq(job_stage_open(job, "a", "work", &fingerprint, &again, &is_new), 0);
    ck_assert(!is_new);
}
END_TEST

START_TEST(changed_code_is_refused_kept_or_done_again)
{
    uint32_t number = open_stage("a", "old")->number;
    struct digest fingerprint = hash_digest("new", 3);
    struct job_stage *stage;
    bool is_new;

    reopen(TRK_CHANGE_REFUSE);
    ck_assert_int_eq(job_stage_open(job, "a", "work", &fingerprint, &stage, &is_new),
                     TRK_ECHANGED);
    ck_assert_ptr_nonnull(strstr(fail_text(), "--on-change=keep"));
    reopen(TRK_CHANGE_KEEP);
    ck_assert_uint_eq(open_stage("a", "new")->number, number);
    reopen(TRK_CHANGE_REFUSE);
    ck_assert_uint_eq(open_stage("a", "new")->number, number);
    reopen(TRK_CHANGE_REDO);
    ck_assert_uint_ne(open_stage("a", "newer")->number, number);
    ck_assert_uint_ne(job_stage_now(job, number), number);
    ck_assert_uint_eq(job_stage_previous(job, job_stage_now(job, number)), 0);
    reopen(TRK_CHANGE_REFUSE);
    ck_assert_uint_eq(open_stage("a", "newer")->number, job_stage_now(job, number));
}
END_TEST

/* --- replay ---------------- */

START_TEST(what_is_known_is_told_element_by_element)
{
    uint32_t stage = open_stage("a", "x")->number;
    struct replay_look look;
    struct replay *r;

    put_works(stage, 0, counting, 5, 0);
    put_works(stage, 5, counting + 5, 3, 2);
    put_results(stage, 1, 2, false);
    put_results(stage, 6, 1, false);
    r = replay_of(stage);
    for (uint64_t i = 0; i < 8; i++) {
        struct digest expected = digest_of(i);
        ck_assert_int_eq(replay_look(r, i, &look), 0);
        ck_assert(look.is_known);
        ck_assert_mem_eq(look.digest.bytes, expected.bytes, 16);
        ck_assert_uint_eq(look.delivered, i < 5 ? 0 : 2);
        ck_assert_int_eq(look.is_recorded, i == 1 || i == 2 || i == 6);
        ck_assert(!replay_is_over(r, i));
    }
    ck_assert_int_eq(replay_look(r, 8, &look), 0);
    ck_assert(!look.is_known);
    ck_assert(replay_is_over(r, 8));
    replay_free(r);
}
END_TEST

START_TEST(results_come_in_the_order_they_were_recorded_when_their_element_is_there)
{
    uint32_t stage = stage_of_ten();
    struct trk_result result;
    struct replay *r;

    put_results(stage, 6, 2, false);
    put_results(stage, 0, 3, false);
    r = replay_of(stage);
    ck_assert_int_eq(replay_take(r, 6, false, &result), TRK_AGAIN);
    take_expecting(r, 7, 6);
    ck_assert_int_eq(replay_take(r, 7, false, &result), TRK_AGAIN);
    TAKE_ALL(r, 10, 7, 0);
    put_results(stage, 4, 1, false); /* of this run: not given from here */
    TAKE_ALL(r, 10, 1, 2);
    ck_assert_int_eq(replay_take(r, 10, false, &result), TRK_END);
    replay_free(r);
}
END_TEST

START_TEST(a_list_that_has_become_shorter_gives_what_is_left)
{
    uint32_t stage = stage_of_ten();
    struct trk_result result;
    struct replay *r;

    put_results(stage, 4, 6, false);
    put_results(stage, 0, 2, false);
    r = replay_of(stage);
    ck_assert_int_eq(replay_take(r, 1, true, &result), 0);
    ck_assert_uint_eq(result.index, 0);
    ck_assert_int_eq(replay_take(r, 1, true, &result), TRK_END);
    replay_free(r);
}
END_TEST

START_TEST(results_by_index_leave_out_what_this_run_recorded)
{
    uint32_t stage = stage_of_ten();
    struct trk_result result;
    struct replay *r;

    put_results(stage, 2, 2, false);
    put_results(stage, 7, 1, false);
    r = replay_of(stage);
    put_results(stage, 4, 2, false);
    for (uint64_t i = 0; i < 10; i++) {
        int rc = replay_take_at(r, i, &result);
        bool is_old = i == 2 || i == 3 || i == 7;
        ck_assert_int_eq(rc, is_old ? 0 : TRK_END);
        if (is_old) {
            ck_assert_uint_eq(result.index, i);
            ck_assert_uint_eq(((const uint8_t *)result.payload)[0], i);
        }
    }
    replay_free(r);
}
END_TEST

START_TEST(failures_can_be_forgotten)
{
    uint32_t stage = stage_of_ten();
    struct replay_look look;
    struct replay *r;

    put_results(stage, 0, 6, true);
    put_results(stage, 6, 2, false);
    ck_assert_int_eq(replay_forget_failed(job, stage), 0);
    r = replay_of(stage);
    for (uint64_t i = 0; i < 10; i++) {
        ck_assert_int_eq(replay_look(r, i, &look), 0);
        ck_assert_int_eq(look.is_recorded, i < 8 && (i >= 6 || i % 2 == 0));
    }
    TAKE_ALL(r, 10, 0, 2, 4, 6);
    replay_free(r);
}
END_TEST

START_TEST(a_result_without_its_element_is_a_stray)
{
    uint32_t stage = open_stage("a", "x")->number;
    struct record_run run = {.first = 4, .count = 1};
    struct replay_look look;
    uint64_t ticket;
    struct replay *r;

    put_works(stage, 0, counting, 3, 0);
    put_works(stage, 6, counting + 6, 2, 0);
    put_results(stage, 2, 5, false);
    r = replay_of(stage);
    TAKE_ALL(r, 10, 2, 3);
    ck_assert_int_eq(replay_look(r, 4, &look), 0);
    ck_assert(look.has_stray_result && !look.is_known && !look.is_recorded);
    ck_assert_int_eq(job_forget(job, stage, &run, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
    replay_refresh(r);
    ck_assert_int_eq(replay_look(r, 4, &look), 0);
    ck_assert(!look.has_stray_result);
    TAKE_ALL(r, 10, 5, 6);
    replay_free(r);
}
END_TEST

/* What is being given goes on where it was when a result elsewhere turns out to be a stray. */
START_TEST(a_stray_result_does_not_disturb_those_being_given)
{
    uint32_t stage = stage_of_ten();
    struct record_run run = {.first = 8, .count = 1};
    struct trk_result result;
    uint64_t ticket;
    struct replay *r, *ordered;

    put_results(stage, 1, 5, false);
    put_results(stage, 7, 3, false);
    r = replay_of(stage);
    ordered = replay_of(stage);
    TAKE_ALL(r, 10, 1, 2);
    for (uint64_t i = 1; i < 3; i++) {
        ck_assert_int_eq(replay_take_at(ordered, i, &result), 0);
    }
    ck_assert_int_eq(job_forget(job, stage, &run, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
    replay_refresh(r);
    replay_refresh(ordered);
    TAKE_ALL(r, 10, 3, 4, 5, 7, 9);
    ck_assert_int_eq(replay_take(r, 10, false, &result), TRK_END);
    for (uint64_t i = 3; i < 6; i++) {
        ck_assert_int_eq(replay_take_at(ordered, i, &result), 0);
        ck_assert_uint_eq(result.index, i);
        ck_assert_uint_eq(((const uint8_t *)result.payload)[0], i);
    }
    replay_free(r);
    replay_free(ordered);
}
END_TEST

/* --- edits ---------------- */

static void expect_taken(struct edit *e, uint64_t element, bool is_there, uint64_t at)
{
    struct digest d = digest_of(element);
    uint32_t stage;
    uint64_t index = 999;

    ck_assert_int_eq(edit_take(e, &d, &stage, &index), is_there);
    if (is_there) {
        ck_assert_uint_eq(index, at);
    }
}

START_TEST(equal_elements_keep_their_results_the_kth_the_kth)
{
    static const uint64_t list[] = {5, 7, 5, 9, 5, 7};
    struct job_stage *old = open_stage("a", "x"), *stage;
    struct edit *e;

    put_works(old->number, 0, list, 6, 0);
    put_results(old->number, 0, 3, false);
    put_results(old->number, 4, 1, false); /* 9 and the second 7 have none */
    ck_assert_int_eq(job_stage_edit(job, old, &stage), 0);
    ck_assert_uint_eq(job_stage_now(job, old->number), stage->number);
    ck_assert_int_eq(edit_new(&e, job, stage->number, 0), 0);
    expect_taken(e, 9, false, 0);
    expect_taken(e, 5, true, 0);
    expect_taken(e, 7, true, 1);
    expect_taken(e, 7, false, 0);
    expect_taken(e, 5, true, 2);
    expect_taken(e, 5, true, 4);
    expect_taken(e, 5, false, 0);
    edit_free(e);
}
END_TEST

START_TEST(elements_before_the_change_are_copied_and_have_had_their_share)
{
    static const uint64_t list[] = {5, 7, 5, 9, 5, 7};
    struct job_stage *old = open_stage("a", "x"), *stage;
    struct ckpt_position copied = {0};
    struct replay_look look;
    struct replay *r;
    struct edit *e;

    put_works(old->number, 0, list, 6, 0);
    put_results(old->number, 0, 6, true);
    ck_assert_int_eq(job_stage_edit(job, old, &stage), 0);
    ck_assert_int_eq(edit_copy(job, old->number, stage->number, 3, &copied), 0);
    ck_assert_int_eq(edit_new(&e, job, stage->number, 3), 0);
    expect_taken(e, 5, true, 4);
    expect_taken(e, 5, false, 0);
    expect_taken(e, 7, true, 5);
    edit_free(e);
    r = replay_of(stage->number);
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert_int_eq(replay_look(r, i, &look), 0);
        ck_assert_int_eq(look.is_known, i < 3);
        ck_assert_int_eq(look.is_recorded, i < 3);
    }
    TAKE_ALL(r, 3, 0, 1, 2);
    replay_free(r);
}
END_TEST

/* A generator that depends on results makes the same elements the next time, too. */
START_TEST(what_is_copied_keeps_its_turns_and_its_order)
{
    struct job_stage *old = open_stage("a", "x"), *stage;
    uint8_t digests[5 * 16], spans[3 * VALUE_WORK_SPAN];
    struct value_work v = {.count = 5, .digests = digests, .spans = 3, .delivered = spans};
    struct ckpt_position copied = {0};
    struct replay_look look;
    struct replay *r;
    uint64_t ticket;

    memset(digests, 0, sizeof(digests));
    value_work_span_put(spans, 2, 0);
    value_work_span_put(spans + VALUE_WORK_SPAN, 2, 1);
    value_work_span_put(spans + 2 * VALUE_WORK_SPAN, 1, 3);
    ck_assert_int_eq(job_put_work(job, old->number, 0, &v, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
    put_results(old->number, 1, 1, false);
    ck_assert_int_eq(job_stage_edit(job, old, &stage), 0);
    ck_assert_int_eq(edit_copy(job, old->number, stage->number, 3, &copied), 0);
    put_results(old->number, 2, 2, false);
    ck_assert_int_eq(edit_copy(job, old->number, stage->number, 3, &copied), 0);
    put_results(stage->number, 0, 1, false);
    r = replay_of(stage->number);
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert_int_eq(replay_look(r, i, &look), 0);
        ck_assert_int_eq(look.is_known, i < 3);
        ck_assert_uint_eq(look.delivered, i == 2 ? 1 : 0);
    }
    TAKE_ALL(r, 3, 1, 2, 0);
    replay_free(r);
}
END_TEST

START_TEST(a_list_changed_twice_finds_results_of_both)
{
    static const uint64_t first[] = {1, 2, 3, 4}, second[] = {1, 3, 8};
    struct job_stage *a = open_stage("a", "x"), *b, *c;
    struct edit *e;

    put_works(a->number, 0, first, 4, 0);
    put_results(a->number, 0, 4, false);
    ck_assert_int_eq(job_stage_edit(job, a, &b), 0);
    put_works(b->number, 0, second, 3, 0);
    put_results(b->number, 0, 1, false); /* the program was killed before it took over 3 */
    put_results(b->number, 2, 1, false);
    ck_assert_int_eq(job_stage_edit(job, b, &c), 0);
    reopen(TRK_CHANGE_KEEP);
    c = open_stage("a", "x");
    ck_assert_uint_eq(job_stage_now(job, 1), c->number);
    ck_assert_int_eq(edit_new(&e, job, c->number, 0), 0);
    for (uint64_t i = 1; i <= 4; i++) {
        expect_taken(e, i, true, i - 1);
        expect_taken(e, i, false, 0);
    }
    expect_taken(e, 8, true, 2);
    edit_free(e);
}
END_TEST

START_TEST(out_of_memory_is_an_error_and_leaves_nothing_behind)
{
    struct job_stage *old = open_stage("a", "x"), *stage;
    struct digest d = digest_of(3);
    uint64_t index;
    uint32_t from;
    int rc = -1;

    put_works(old->number, 0, counting, 12, 0);
    put_results(old->number, 0, 12, false);
    ck_assert_int_eq(job_stage_edit(job, old, &stage), 0);
    for (uint64_t n = 1; rc < 0 && n < 500; n++) {
        struct ckpt_result result;
        struct edit *e = NULL;
        mem_fail_after(n);
        rc = edit_new(&e, job, stage->number, 0);
        if (rc == 0 && edit_take(e, &d, &from, &index)) {
            rc = job_read_at(job, from, index, &result);
        }
        mem_fail_after(0);
        if (rc == 0) {
            blob_unref(result.value);
        }
        edit_free(e);
        ck_assert(rc == 0 || rc == TRK_ENOMEM);
    }
    ck_assert_int_eq(rc, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("replay");
    TCase *all = tcase_create("all");

    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, a_stage_is_found_again_by_its_key);
    tcase_add_test(all, two_works_at_once_need_two_keys);
    tcase_add_test(all, changed_code_is_refused_kept_or_done_again);
    tcase_add_test(all, what_is_known_is_told_element_by_element);
    tcase_add_test(all, results_come_in_the_order_they_were_recorded_when_their_element_is_there);
    tcase_add_test(all, a_list_that_has_become_shorter_gives_what_is_left);
    tcase_add_test(all, results_by_index_leave_out_what_this_run_recorded);
    tcase_add_test(all, failures_can_be_forgotten);
    tcase_add_test(all, a_result_without_its_element_is_a_stray);
    tcase_add_test(all, a_stray_result_does_not_disturb_those_being_given);
    tcase_add_test(all, equal_elements_keep_their_results_the_kth_the_kth);
    tcase_add_test(all, elements_before_the_change_are_copied_and_have_had_their_share);
    tcase_add_test(all, what_is_copied_keeps_its_turns_and_its_order);
    tcase_add_test(all, a_list_changed_twice_finds_results_of_both);
    tcase_add_test(all, out_of_memory_is_an_error_and_leaves_nothing_behind);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
