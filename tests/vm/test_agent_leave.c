/* SPDX-License-Identifier: MIT */
/* What leaves an agent's queue without having run: cancelled elements, those given back. */
#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "tests/suite.h"
#include "vm/agent.h"

#define COUNT 10

static struct blob *run_blob(uint32_t stage, uint64_t first, uint32_t count)
{
    struct wire_part parts[COUNT];
    static char bytes[COUNT][24];
    for (uint32_t i = 0; i < count; i++) {
        int n = snprintf(bytes[i], sizeof(bytes[i]), "e%llu", (unsigned long long)(first + i));
        parts[i] = (struct wire_part){bytes[i], (size_t)n};
    }
    return wire_run_encode(stage, 1, first, parts, count);
}

static int give(struct agent *a, uint8_t type, struct blob *body)
{
    struct wire_message msg = {.type = type, .body = body}, out;
    bool has_out;
    ck_assert_ptr_nonnull(body);
    int rc = agent_message(a, &msg, &has_out, &out);
    ck_assert(!has_out);
    agent_check(a);
    return rc;
}

static void give_stage(struct agent *a, uint32_t stage, uint32_t timeout_ms)
{
    struct wire_stage m = {.stage = stage, .timeout_ms = timeout_ms, .function = "f", .size = 1};
    struct agent_job job;
    ck_assert_int_eq(give(a, WIRE_STAGE, wire_stage_encode(&m)), 0);
    agent_next(a, &job);
    ck_assert_int_eq(job.kind, AGENT_STAGE);
    agent_job_done(&job);
}

static void give_run(struct agent *a, uint32_t stage, uint64_t first, uint32_t count)
{
    ck_assert_int_eq(give(a, WIRE_RUN, run_blob(stage, first, count)), 0);
}

static int cancel(struct agent *a, uint32_t stage, uint64_t first, uint32_t count)
{
    struct wire_note note = {.stage = stage, .first = first, .count = count};
    return give(a, WIRE_CANCEL, wire_note_encode(&note));
}

static struct agent *leased_agent(void)
{
    struct agent *a = agent_new();
    struct wire_hello h = {.purpose = WIRE_PURPOSE_LEASE, .epoch = 1};
    ck_assert_ptr_nonnull(a);
    ck_assert_int_eq(agent_lease(a, &h), 0);
    give_stage(a, 1, 0);
    return a;
}

/* Takes the next element: its index, with its own bytes. */
static uint64_t next_index(struct agent *a)
{
    struct agent_job job;
    char text[24];
    agent_next(a, &job);
    ck_assert_int_eq(job.kind, AGENT_ELEMENT);
    uint64_t index = job.index;
    int n = snprintf(text, sizeof(text), "e%llu", (unsigned long long)index);
    ck_assert_uint_eq(job.size, (size_t)n);
    ck_assert_mem_eq(job.payload, text, (size_t)n);
    agent_job_done(&job);
    agent_check(a);
    return index;
}

/* --- single elements ---------------------------------------------------------------------- */

/* Batches 0..4 and 5..9, of which 0 is taken; [first, first + count) is cancelled. */
static const struct {
    uint64_t first;
    uint32_t count;
    const char *left; /* what then runs */
} cancel_table[] = {
    {0, 1, "123456789"},  {1, 1, "23456789"}, {4, 1, "12356789"},  {2, 2, "1456789"},
    {3, 4, "12789"},      {0, 5, "56789"},    {0, 10, ""},         {7, 1, "12345689"},
    {6, 3, "123459"},     {9, 9, "12345678"}, {20, 5, "123456789"}, {5, 5, "1234"},
};

START_TEST(cancelled_elements_do_not_run)
{
    struct agent *a = leased_agent();
    const char *left = cancel_table[_i].left;
    give_run(a, 1, 0, 5);
    give_run(a, 1, 5, 5);
    ck_assert_uint_eq(next_index(a), 0);
    ck_assert_int_eq(cancel(a, 1, cancel_table[_i].first, cancel_table[_i].count), 0);
    ck_assert_uint_eq(agent_queued(a), strlen(left));
    ck_assert_int_eq(cancel(a, 1, cancel_table[_i].first, cancel_table[_i].count), 0); /* twice */
    for (; *left != '\0'; left++) {
        ck_assert_uint_eq(next_index(a), (uint64_t)(*left - '0'));
    }
    ck_assert_uint_eq(agent_queued(a), 0);
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(elements_of_other_stages_run)
{
    struct agent *a = leased_agent();
    give_stage(a, 2, 0);
    give_run(a, 1, 0, 3);
    give_run(a, 2, 0, 3);
    ck_assert_int_eq(cancel(a, 2, 0, 3), 0);
    ck_assert_int_eq(cancel(a, 7, 0, 3), 0); /* never seen: not remembered either */
    ck_assert_uint_eq(agent_queued(a), 3);
    ck_assert(!agent_is_cancelled(a, 2));
    give_run(a, 2, 0, 1); /* a later attempt */
    ck_assert_uint_eq(agent_queued(a), 4);
    agent_free(a);
}
END_TEST

START_TEST(cancelled_indices_that_wrap_are_corrupt)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(cancel(a, 1, UINT64_MAX, 2), TRK_ECORRUPT);
    agent_free(a);
}
END_TEST

START_TEST(no_memory_to_split_a_batch_is_told)
{
    struct agent *a = leased_agent();
    struct wire_note note = {.stage = 1, .first = 2, .count = 1};
    struct blob *body = wire_note_encode(&note);
    give_run(a, 1, 0, 5);
    mem_fail_after(1);
    int rc = give(a, WIRE_CANCEL, body);
    mem_fail_after(0);
    ck_assert_int_eq(rc, TRK_ENOMEM);
    ck_assert_uint_eq(agent_queued(a), 5);
    agent_check(a);
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

/* --- giving back -------------------------------------------------------------------------- */

static int take_back(struct agent *a, struct wire_note *note)
{
    struct wire_message out;
    int rc = agent_give_back(a, &out);
    if (rc > 0) {
        ck_assert_int_eq(out.type, WIRE_RECALLED);
        ck_assert_int_eq(wire_note_decode(note, out.body), 0);
        blob_unref(out.body);
    }
    agent_check(a);
    return rc;
}

START_TEST(all_that_is_queued_is_given_back)
{
    struct agent *a = leased_agent();
    struct wire_note note;
    give_stage(a, 2, 0);
    give_run(a, 1, 0, 4);
    give_run(a, 2, 10, 4);
    ck_assert_int_eq(cancel(a, 2, 12, 1), 0);
    ck_assert_uint_eq(next_index(a), 0);
    ck_assert_int_eq(take_back(a, &note), 1);
    ck_assert(note.stage == 1 && note.first == 1 && note.count == 3);
    ck_assert_int_eq(take_back(a, &note), 1);
    ck_assert(note.stage == 2 && note.first == 10 && note.count == 2);
    ck_assert_int_eq(take_back(a, &note), 1);
    ck_assert(note.stage == 2 && note.first == 13 && note.count == 1);
    ck_assert_int_eq(take_back(a, &note), 0);
    ck_assert_uint_eq(agent_queued(a), 0);
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(no_memory_gives_nothing_back)
{
    struct agent *a = leased_agent();
    struct wire_message out;
    struct wire_note note;
    give_run(a, 1, 0, 4);
    mem_fail_after(1);
    ck_assert_int_eq(agent_give_back(a, &out), TRK_ENOMEM);
    mem_fail_after(0);
    ck_assert_uint_eq(agent_queued(a), 4);
    ck_assert_int_eq(take_back(a, &note), 1);
    ck_assert_uint_eq(note.count, 4);
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(a_waiting_request_is_seen)
{
    struct agent *a = leased_agent();
    struct wire_request request = {.op = TRK_OP_CALL};
    struct agent_job job;
    ck_assert(!agent_has_request(a));
    ck_assert_int_eq(give(a, WIRE_REQUEST, wire_request_encode(&request)), 0);
    ck_assert(agent_has_request(a));
    agent_next(a, &job);
    agent_job_done(&job);
    ck_assert(!agent_has_request(a));
    agent_free(a);
}
END_TEST

/* --- timeouts ----------------------------------------------------------------------------- */

START_TEST(elements_have_the_timeout_of_their_stage)
{
    struct agent *a = leased_agent();
    struct agent_job job;
    give_stage(a, 2, 700);
    give_stage(a, 3, 300);
    give_run(a, 1, 0, 1);
    ck_assert_uint_eq(agent_timeout_ms(a), 0);
    give_run(a, 2, 0, 1);
    give_run(a, 3, 0, 1);
    ck_assert_uint_eq(agent_timeout_ms(a), 300);
    static const uint32_t expected[] = {0, 700, 300};
    for (size_t i = 0; i < 3; i++) {
        agent_next(a, &job);
        ck_assert_uint_eq(job.timeout_ms, expected[i]);
        agent_job_done(&job);
    }
    ck_assert_uint_eq(agent_timeout_ms(a), 0); /* nothing is queued any more */
    agent_free(a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("agent_leave");
    TCase *tc = tcase_create("cancel");
    tcase_add_loop_test(tc, cancelled_elements_do_not_run, 0,
                        sizeof(cancel_table) / sizeof(cancel_table[0]));
    tcase_add_test(tc, elements_of_other_stages_run);
    tcase_add_test(tc, cancelled_indices_that_wrap_are_corrupt);
    tcase_add_test(tc, no_memory_to_split_a_batch_is_told);
    suite_add_tcase(suite, tc);
    tc = tcase_create("give back");
    tcase_add_test(tc, all_that_is_queued_is_given_back);
    tcase_add_test(tc, no_memory_gives_nothing_back);
    tcase_add_test(tc, a_waiting_request_is_seen);
    suite_add_tcase(suite, tc);
    tc = tcase_create("timeouts");
    tcase_add_test(tc, elements_have_the_timeout_of_their_stage);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
