/* SPDX-License-Identifier: MIT */
/* The agent and what outlives its lease: durable results, states, fences. */
#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tests/suite.h"
#include "vm/agent.h"

static const uint8_t code[16] = "the code's sum..";

static struct wire_hello hello_of(uint8_t job, uint64_t epoch, uint8_t incarnation)
{
    struct wire_hello h = {.purpose = WIRE_PURPOSE_LEASE, .epoch = epoch, .pid = 7};
    memset(h.job, job, sizeof(h.job));
    memset(h.incarnation, incarnation, sizeof(h.incarnation));
    return h;
}

static int give(struct agent *a, uint8_t type, struct blob *body)
{
    struct wire_message msg = {.type = type, .body = body}, out;
    bool has_out;
    ck_assert_ptr_nonnull(body);
    int rc = agent_message(a, &msg, &has_out, &out);
    if (has_out) {
        blob_unref(out.body);
    }
    agent_check(a);
    return rc;
}

static void give_stage(struct agent *a, uint32_t stage, uint32_t flags)
{
    struct wire_stage m = {.stage = stage, .flags = flags, .function = "f", .size = 1};
    memcpy(m.fingerprint, code, sizeof(code));
    ck_assert_int_eq(give(a, WIRE_STAGE, wire_stage_encode(&m)), 0);
}

static void give_run(struct agent *a, uint32_t stage, uint64_t first, uint32_t count)
{
    struct wire_part parts[16];
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = (struct wire_part){"abc", 3};
    }
    ck_assert_int_eq(give(a, WIRE_RUN, wire_run_encode(stage, 1, first, parts, count)), 0);
}

static int give_state(struct agent *a, uint32_t stage, uint64_t index, const char *bytes)
{
    struct wire_state m = {.stage = stage, .attempt = 1, .index = index, .bytes = bytes,
                           .size = strlen(bytes)};
    return give(a, WIRE_STATE, wire_state_encode(&m));
}

static int give_note(struct agent *a, uint8_t type, struct wire_note note)
{
    return give(a, type, wire_note_encode(&note));
}

/* Stage 1 is durable, stage 2 is not; both are open. */
static struct agent *agent_with_stages(void)
{
    struct agent *a = agent_new();
    struct wire_hello h = hello_of(1, 1, 1);
    struct agent_job job;
    ck_assert_ptr_nonnull(a);
    ck_assert_int_eq(agent_lease(a, &h), 0);
    give_stage(a, 1, WIRE_STAGE_DURABLE);
    give_stage(a, 2, 0);
    for (int i = 0; i < 2; i++) {
        agent_next(a, &job);
        ck_assert_int_eq(job.kind, AGENT_STAGE);
        agent_job_done(&job);
    }
    return a;
}

static struct agent_job take(struct agent *a)
{
    struct agent_job job;
    agent_next(a, &job);
    ck_assert_int_eq(job.kind, AGENT_ELEMENT);
    return job;
}

static struct blob *result_of(uint32_t stage, uint64_t seq)
{
    static const uint8_t status = TRK_STATUS_OK;
    static const uint32_t size = 2;
    struct wire_result head = {.stage = stage, .attempt = 1, .first = seq, .count = 1, .seq = seq};
    return wire_result_encode(&head, &status, &size, "ok", 2);
}

static void hold(struct agent *a, uint32_t stage, bool is_durable)
{
    uint64_t seq = agent_next_seq(a);
    struct blob *body = result_of(stage, seq);
    struct digest digest = hash_digest("abc", 3);
    ck_assert_ptr_nonnull(body);
    ck_assert_int_eq(is_durable ? agent_hold_durable(a, seq, body, 1, &digest, code)
                                : agent_hold(a, seq, body), 0);
    blob_unref(body);
    agent_check(a);
}

START_TEST(elements_say_whether_they_are_durable)
{
    struct agent *a = agent_with_stages();
    give_run(a, 1, 0, 1);
    give_run(a, 2, 0, 1);
    struct agent_job job = take(a);
    ck_assert(job.is_durable);
    ck_assert_mem_eq(job.fingerprint, code, 16);
    ck_assert_ptr_null(job.state);
    agent_job_done(&job);
    job = take(a);
    ck_assert(!job.is_durable);
    agent_job_done(&job);
    agent_free(a);
}
END_TEST

START_TEST(kept_are_the_durable_ones_that_are_held)
{
    struct agent *a = agent_with_stages();
    struct agent_kept kept;
    uint64_t seq = 0;
    hold(a, 1, true);
    hold(a, 2, false);
    hold(a, 1, true);
    hold(a, 1, true);
    ck_assert_uint_eq(agent_kept(a), 3);
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 1}), 0);
    ck_assert_uint_eq(agent_kept(a), 2);
    ck_assert(agent_kept_next(a, &seq, &kept));
    ck_assert_uint_eq(seq, 3);
    ck_assert_uint_eq(kept.count, 1);
    ck_assert_mem_eq(kept.fingerprint, code, 16);
    struct digest digest = hash_digest("abc", 3);
    ck_assert_mem_eq(kept.digests[0].bytes, digest.bytes, 16);
    ck_assert(agent_kept_next(a, &seq, &kept));
    ck_assert_uint_eq(seq, 4);
    ck_assert(!agent_kept_next(a, &seq, &kept));
    agent_let_go(a, 4);
    ck_assert_uint_eq(agent_kept(a), 0);
    ck_assert_uint_eq(agent_held(a, NULL), 0);
    agent_free(a);
}
END_TEST

START_TEST(orphan_keeps_only_what_is_durable)
{
    struct agent *a = agent_with_stages();
    struct wire_hello other = hello_of(2, 1, 2);
    struct agent_job job;
    give_run(a, 1, 0, 3);
    job = take(a);
    hold(a, 1, true);
    hold(a, 2, false);
    agent_orphan(a);
    agent_check(a);
    ck_assert(agent_is_orphan(a));
    ck_assert_uint_eq(agent_queued(a), 0);
    ck_assert_uint_eq(agent_held(a, NULL), 1);
    ck_assert_int_eq(agent_lease(a, &other), TRK_EDENIED);
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 1}), TRK_ECORRUPT);
    agent_job_done(&job);
    hold(a, 2, false); /* what ends after it */
    hold(a, 1, true);
    ck_assert_uint_eq(agent_kept(a), 2);
    ck_assert_uint_eq(agent_held(a, NULL), 2);
    agent_let_go(a, UINT64_MAX);
    ck_assert(!agent_release(a));
    ck_assert(!agent_is_orphan(a));
    agent_check(a);
    agent_free(a);
}
END_TEST

START_TEST(cancelled_stages_results_are_still_kept)
{
    struct agent *a = agent_with_stages();
    struct agent_kept kept;
    uint64_t seq = 0;
    hold(a, 1, true);
    ck_assert_int_eq(give_note(a, WIRE_CANCEL, (struct wire_note){.stage = 1}), 0);
    agent_orphan(a);
    ck_assert(agent_kept_next(a, &seq, &kept));
    ck_assert_mem_eq(kept.fingerprint, code, 16);
    agent_free(a);
}
END_TEST

START_TEST(state_comes_with_its_element)
{
    struct agent *a = agent_with_stages();
    ck_assert_int_eq(give_state(a, 1, 1, "old"), 0);
    ck_assert_int_eq(give_state(a, 1, 1, "half"), 0); /* takes its place */
    give_run(a, 1, 0, 3);
    struct agent_job job = take(a);
    ck_assert_ptr_null(job.state);
    agent_job_done(&job);
    job = take(a);
    ck_assert_ptr_nonnull(job.state);
    ck_assert_uint_eq(job.state_size, 4);
    ck_assert_mem_eq(job.state_bytes, "half", 4);
    agent_job_done(&job);
    agent_check(a);
    agent_free(a);
}
END_TEST

START_TEST(state_of_what_does_not_run_here_is_dropped)
{
    uint64_t live = mem_live();
    struct agent *a = agent_with_stages();
    struct wire_message out;
    ck_assert_int_eq(give_state(a, 1, 1, "half"), 0);
    give_run(a, 1, 0, 2);
    ck_assert_int_eq(give_note(a, WIRE_RECALL, (struct wire_note){.stage = 1, .first = 1,
                                                                  .count = 1}), 0);
    give_run(a, 1, 1, 1);
    ck_assert_int_eq(give_state(a, 2, 0, "half"), 0); /* of a volatile stage */
    ck_assert_int_eq(give_state(a, 3, 0, "half"), TRK_ECORRUPT);
    for (int i = 0; i < 2; i++) {
        struct agent_job job = take(a);
        ck_assert_ptr_null(job.state);
        agent_job_done(&job);
    }
    ck_assert_int_eq(give_state(a, 1, 5, "half"), 0);
    give_run(a, 1, 5, 1);
    ck_assert_int_eq(agent_give_back(a, &out), 1);
    blob_unref(out.body);
    agent_check(a);
    ck_assert_int_eq(give_state(a, 1, 6, "half"), 0);
    ck_assert_int_eq(give_note(a, WIRE_CANCEL, (struct wire_note){.stage = 1}), 0);
    agent_free(a);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

START_TEST(state_is_held_until_it_is_safe)
{
    struct agent *a = agent_with_stages();
    struct blob *one = blob_dup("1", 1), *two = blob_dup("2", 1);
    struct agent_kept kept;
    ck_assert(!agent_kept_state(a, &kept));
    ck_assert_int_eq(give_note(a, WIRE_STATE_DONE, (struct wire_note){.seq = 1}), TRK_ECORRUPT);
    ck_assert_uint_eq(agent_next_state(a), 1);
    agent_hold_state(a, one, code);
    agent_check(a);
    ck_assert(!agent_state_is_done(a, 1));
    ck_assert_uint_eq(agent_next_state(a), 2);
    agent_hold_state(a, two, code);
    ck_assert_int_eq(give_note(a, WIRE_STATE_DONE, (struct wire_note){.seq = 1}), 0);
    ck_assert(agent_state_is_done(a, 1));
    ck_assert(agent_kept_state(a, &kept));
    ck_assert_ptr_eq(kept.body, two);
    ck_assert_int_eq(give_note(a, WIRE_STATE_DONE, (struct wire_note){.seq = 2}), 0);
    ck_assert(!agent_kept_state(a, &kept));
    blob_unref(one);
    blob_unref(two);
    agent_free(a);
}
END_TEST

static int lease_with(struct agent_fence *fences, struct wire_hello h)
{
    struct agent *a = agent_new();
    agent_use_fences(a, fences);
    int rc = agent_lease(a, &h);
    agent_free(a);
    return rc;
}

START_TEST(fences_outlive_the_agent)
{
    struct agent_fence fences[AGENT_FENCES] = {0};
    ck_assert_int_eq(lease_with(fences, hello_of(1, 3, 1)), 0);
    ck_assert_int_eq(lease_with(fences, hello_of(1, 2, 2)), TRK_EDENIED);
    ck_assert_int_eq(lease_with(fences, hello_of(1, 3, 2)), TRK_EDENIED);
    ck_assert_int_eq(lease_with(fences, hello_of(1, 3, 1)), 0);
    ck_assert_int_eq(lease_with(fences, hello_of(1, 4, 2)), 0);
    ck_assert_int_eq(lease_with(fences, hello_of(1, 3, 1)), TRK_EDENIED);
}
END_TEST

START_TEST(oldest_fence_makes_room)
{
    struct agent_fence fences[AGENT_FENCES] = {0};
    for (uint8_t job = 1; job <= AGENT_FENCES; job++) {
        ck_assert_int_eq(lease_with(fences, hello_of(job, 3, 1)), 0);
    }
    ck_assert_int_eq(lease_with(fences, hello_of(1, 4, 1)), 0); /* the youngest now */
    ck_assert_int_eq(lease_with(fences, hello_of(AGENT_FENCES + 1, 1, 1)), 0);
    ck_assert_int_eq(lease_with(fences, hello_of(1, 3, 1)), TRK_EDENIED);
    ck_assert_int_eq(lease_with(fences, hello_of(3, 2, 1)), TRK_EDENIED);
    ck_assert_int_eq(lease_with(fences, hello_of(2, 2, 1)), 0); /* forgotten */
}
END_TEST

START_TEST(no_memory_changes_nothing)
{
    struct agent *a = agent_with_stages();
    struct blob *body = result_of(1, 1);
    struct wire_state m = {.stage = 1, .attempt = 1, .index = 1, .bytes = "half", .size = 4};
    struct digest digest = hash_digest("abc", 3);
    uint64_t seq = agent_next_seq(a);
    int rc = TRK_ENOMEM, tries = 0;
    for (; rc == TRK_ENOMEM; tries++) {
        mem_fail_after((uint64_t)tries + 1);
        rc = agent_hold_durable(a, seq, body, 1, &digest, code);
        mem_fail_after(0);
        agent_check(a);
        ck_assert_uint_eq(agent_kept(a), rc == 0);
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_int_gt(tries, 2);
    rc = TRK_ENOMEM;
    for (tries = 0; rc == TRK_ENOMEM; tries++) {
        struct wire_message msg = {.type = WIRE_STATE, .body = wire_state_encode(&m)}, out;
        bool has_out;
        mem_fail_after((uint64_t)tries + 1);
        rc = agent_message(a, &msg, &has_out, &out);
        mem_fail_after(0);
        agent_check(a);
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_int_gt(tries, 1);
    blob_unref(body);
    agent_free(a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("agent_hold");
    TCase *tc = tcase_create("hold");
    tcase_add_test(tc, elements_say_whether_they_are_durable);
    tcase_add_test(tc, kept_are_the_durable_ones_that_are_held);
    tcase_add_test(tc, orphan_keeps_only_what_is_durable);
    tcase_add_test(tc, cancelled_stages_results_are_still_kept);
    tcase_add_test(tc, state_comes_with_its_element);
    tcase_add_test(tc, state_of_what_does_not_run_here_is_dropped);
    tcase_add_test(tc, state_is_held_until_it_is_safe);
    tcase_add_test(tc, fences_outlive_the_agent);
    tcase_add_test(tc, oldest_fence_makes_room);
    tcase_add_test(tc, no_memory_changes_nothing);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
