/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tests/suite.h"
#include "vm/agent.h"

static struct wire_hello hello_of(uint8_t job, uint64_t epoch, uint8_t incarnation)
{
    struct wire_hello h = {.purpose = WIRE_PURPOSE_LEASE, .epoch = epoch, .pid = 7};
    memset(h.job, job, sizeof(h.job));
    memset(h.incarnation, incarnation, sizeof(h.incarnation));
    snprintf(h.program, sizeof(h.program), "test");
    return h;
}

static struct agent *leased_agent(void)
{
    struct agent *a = agent_new();
    struct wire_hello h = hello_of(1, 1, 1);
    ck_assert_ptr_nonnull(a);
    ck_assert_int_eq(agent_lease(a, &h), 0);
    return a;
}

/* Gives a message to the agent, which must have no answer. */
static int give(struct agent *a, uint8_t type, uint32_t stream, struct blob *body)
{
    struct wire_message msg = {.type = type, .stream = stream, .body = body}, out;
    bool has_out;
    ck_assert_ptr_nonnull(body);
    int rc = agent_message(a, &msg, &has_out, &out);
    ck_assert(!has_out);
    agent_check(a);
    return rc;
}

static int give_stage(struct agent *a, uint32_t stage)
{
    struct wire_stage m = {.stage = stage, .function = "f", .size = 1};
    return give(a, WIRE_STAGE, 0, wire_stage_encode(&m));
}

static struct blob *run_blob(uint32_t stage, uint64_t first, uint32_t count)
{
    struct wire_part parts[256];
    static char bytes[256][24];
    ck_assert_uint_le(count, 256);
    for (uint32_t i = 0; i < count; i++) {
        int n = snprintf(bytes[i], sizeof(bytes[i]), "e%llu", (unsigned long long)(first + i));
        parts[i] = (struct wire_part){bytes[i], (size_t)n};
    }
    return wire_run_encode(stage, 1, first, parts, count);
}

static int give_run(struct agent *a, uint32_t stage, uint64_t first, uint32_t count)
{
    return give(a, WIRE_RUN, 0, run_blob(stage, first, count));
}

static int give_note(struct agent *a, uint8_t type, struct wire_note note)
{
    return give(a, type, 0, wire_note_encode(&note));
}

static int give_request(struct agent *a, uint32_t stream)
{
    struct wire_request m = {.op = TRK_OP_CALL, .name = "f", .name_size = 1};
    return give(a, WIRE_REQUEST, stream, wire_request_encode(&m));
}

static int cancel(struct agent *a, uint32_t stage)
{
    return give_note(a, WIRE_CANCEL, (struct wire_note){.stage = stage});
}

/* Recalls and gives what came back. */
static struct wire_note recall(struct agent *a, uint32_t stage, uint64_t first, uint32_t count)
{
    struct wire_note ask = {.stage = stage, .first = first, .count = count}, answer;
    struct wire_message msg = {.type = WIRE_RECALL, .body = wire_note_encode(&ask)}, out;
    bool has_out;
    ck_assert_int_eq(agent_message(a, &msg, &has_out, &out), 0);
    ck_assert(has_out);
    ck_assert_int_eq(out.type, WIRE_RECALLED);
    ck_assert_int_eq(wire_note_decode(&answer, out.body), 0);
    blob_unref(out.body);
    agent_check(a);
    ck_assert_uint_eq(answer.stage, stage);
    return answer;
}

static void expect_kind(struct agent *a, enum agent_job_kind kind)
{
    struct agent_job job;
    agent_next(a, &job);
    ck_assert_int_eq(job.kind, kind);
    agent_job_done(&job);
    agent_check(a);
}

static void expect_element(struct agent *a, uint32_t stage, uint64_t index, bool is_last)
{
    struct agent_job job;
    char text[24];
    agent_next(a, &job);
    ck_assert_int_eq(job.kind, AGENT_ELEMENT);
    ck_assert_uint_eq(job.stage, stage);
    ck_assert_uint_eq(job.index, index);
    ck_assert_int_eq(job.is_last, is_last);
    int n = snprintf(text, sizeof(text), "e%llu", (unsigned long long)index);
    ck_assert_uint_eq(job.size, (size_t)n);
    ck_assert_mem_eq(job.payload, text, (size_t)n);
    agent_job_done(&job);
    agent_check(a);
}

static struct agent *agent_with_run(uint64_t first, uint32_t count)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(give_stage(a, 1), 0);
    expect_kind(a, AGENT_STAGE);
    ck_assert_int_eq(give_run(a, 1, first, count), 0);
    return a;
}

/* --- leases -------------------------------------------------------------------------- */

START_TEST(only_one_holds_the_lease)
{
    struct agent *a = leased_agent();
    struct wire_hello other = hello_of(2, 1, 2), same = hello_of(1, 1, 1);
    ck_assert_int_eq(agent_lease(a, &other), TRK_EDENIED);
    ck_assert_int_eq(agent_lease(a, &same), TRK_EDENIED);
    ck_assert_str_eq(agent_holder(a)->program, "test");
    ck_assert_uint_eq(agent_holder(a)->pid, 7);
    agent_free(a);
}
END_TEST

/* A lease (1, 5, 1) has been; which leases may follow? */
static const struct {
    uint8_t job;
    uint64_t epoch;
    uint8_t incarnation;
    int rc;
} fence_table[] = {
    {1, 4, 1, TRK_EDENIED}, /* an older epoch, whoever it is */
    {1, 4, 2, TRK_EDENIED}, {1, 5, 2, TRK_EDENIED}, /* the same epoch, somebody else */
    {1, 5, 1, 0},           {1, 6, 2, 0},           {2, 1, 2, 0}, /* another job */
    {0, 0, 9, 0},           /* no job at all */
};

START_TEST(older_and_doubled_epochs_are_fenced)
{
    struct agent *a = agent_new();
    struct wire_hello before = hello_of(1, 5, 1);
    struct wire_hello h = hello_of(fence_table[_i].job, fence_table[_i].epoch,
                                   fence_table[_i].incarnation);
    ck_assert_int_eq(agent_lease(a, &before), 0);
    ck_assert(agent_release(a));
    ck_assert_int_eq(agent_lease(a, &h), fence_table[_i].rc);
    agent_check(a);
    agent_free(a);
}
END_TEST

START_TEST(refused_lease_moves_no_fence)
{
    struct agent *a = agent_new();
    struct wire_hello first = hello_of(1, 5, 1), late = hello_of(1, 9, 2);
    ck_assert_int_eq(agent_lease(a, &first), 0);
    ck_assert_int_eq(agent_lease(a, &late), TRK_EDENIED);
    ck_assert(agent_release(a));
    ck_assert_int_eq(agent_lease(a, &first), 0);
    agent_free(a);
}
END_TEST

START_TEST(jobless_leases_do_not_fence_each_other)
{
    struct agent *a = agent_new();
    for (uint8_t i = 1; i < 20; i++) {
        struct wire_hello h = hello_of(0, 0, i);
        ck_assert_int_eq(agent_lease(a, &h), 0);
        ck_assert(agent_release(a));
    }
    agent_free(a);
}
END_TEST

START_TEST(unused_agent_serves_the_next_lease)
{
    struct agent *a = leased_agent();
    struct wire_hello next = hello_of(2, 1, 2);
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 0}), 0);
    ck_assert(!agent_is_used(a));
    ck_assert(agent_release(a));
    ck_assert(!agent_is_leased(a));
    ck_assert_ptr_null(agent_holder(a));
    ck_assert_int_eq(agent_lease(a, &next), 0);
    agent_free(a);
}
END_TEST

START_TEST(used_agent_ends_with_its_lease)
{
    struct agent *a = agent_with_run(0, 3);
    struct wire_hello next = hello_of(2, 1, 2);
    ck_assert_int_eq(give_request(a, 1), 0);
    struct blob *result = blob_dup("r", 1);
    ck_assert_int_eq(agent_hold(a, agent_next_seq(a), result), 0);
    blob_unref(result);
    ck_assert(!agent_release(a));
    agent_check(a);
    ck_assert_uint_eq(agent_queued(a), 0);
    ck_assert_uint_eq(agent_held(a, NULL), 0);
    expect_kind(a, AGENT_NOTHING);
    ck_assert_int_eq(agent_lease(a, &next), TRK_EDENIED);
    ck_assert(!agent_release(a)); /* twice */
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(messages_without_a_lease_are_refused)
{
    struct agent *a = agent_new();
    ck_assert_int_eq(give_request(a, 1), TRK_ECORRUPT);
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

/* --- order --------------------------------------------------------------------------- */

START_TEST(elements_come_in_order_behind_their_stage)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(give_stage(a, 1), 0);
    ck_assert_int_eq(give_run(a, 1, 10, 2), 0);
    ck_assert_int_eq(give_stage(a, 2), 0);
    ck_assert_int_eq(give_run(a, 2, 0, 1), 0);
    ck_assert_int_eq(give_run(a, 1, 12, 1), 0);
    ck_assert_uint_eq(agent_queued(a), 4);
    expect_kind(a, AGENT_STAGE);
    expect_element(a, 1, 10, false);
    expect_element(a, 1, 11, true);
    expect_kind(a, AGENT_STAGE);
    expect_element(a, 2, 0, true);
    expect_element(a, 1, 12, true);
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

START_TEST(requests_come_before_elements)
{
    struct agent *a = agent_with_run(0, 2);
    struct agent_job job;
    expect_element(a, 1, 0, false);
    ck_assert_int_eq(give_request(a, 41), 0);
    ck_assert_int_eq(give_request(a, 42), 0);
    agent_next(a, &job);
    ck_assert_int_eq(job.kind, AGENT_REQUEST);
    ck_assert_uint_eq(job.stream, 41);
    ck_assert_uint_eq(job.request.op, TRK_OP_CALL);
    ck_assert_mem_eq(job.request.name, "f", 1);
    agent_job_done(&job);
    expect_kind(a, AGENT_REQUEST);
    expect_element(a, 1, 1, true);
    agent_free(a);
}
END_TEST

START_TEST(a_job_outlives_its_batch_and_its_lease)
{
    struct agent *a = agent_with_run(5, 1);
    struct agent_job job;
    agent_next(a, &job);
    ck_assert(!agent_release(a));
    agent_free(a);
    ck_assert_mem_eq(job.payload, "e5", 2);
    agent_job_done(&job);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

/* --- recall -------------------------------------------------------------------------- */

/* A batch 10..19 of which 10 and 11 are taken; what is asked back, what comes. */
static const struct {
    uint64_t first;
    uint32_t count;
    uint64_t back_first;
    uint32_t back_count;
    uint64_t next; /* element that runs next; 0: none */
} recall_table[] = {
    {10, 10, 12, 8, 0},  /* the whole run: what is not taken */
    {12, 8, 12, 8, 0},   {16, 4, 16, 4, 12}, /* the tail */
    {16, 100, 16, 4, 12}, {11, 3, 12, 2, 14}, /* the head */
    {14, 2, 14, 0, 12}, /* the middle: nothing */
    {10, 2, 10, 0, 12}, /* both taken already */
    {20, 5, 20, 0, 12},  {0, 5, 0, 0, 12},   {15, 0, 15, 0, 12},
};

START_TEST(recall_gives_back_what_was_not_taken)
{
    struct agent *a = agent_with_run(10, 10);
    expect_element(a, 1, 10, false);
    expect_element(a, 1, 11, false);
    struct wire_note back = recall(a, 1, recall_table[_i].first, recall_table[_i].count);
    ck_assert_uint_eq(back.first, recall_table[_i].back_first);
    ck_assert_uint_eq(back.count, recall_table[_i].back_count);
    ck_assert_uint_eq(agent_queued(a), 8 - recall_table[_i].back_count);
    for (uint64_t at = recall_table[_i].next, left = agent_queued(a); left > 0; left--, at++) {
        expect_element(a, 1, at, left == 1);
    }
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

START_TEST(recall_of_one_stage_leaves_the_other)
{
    struct agent *a = agent_with_run(0, 4);
    ck_assert_int_eq(give_stage(a, 2), 0);
    ck_assert_int_eq(give_run(a, 2, 0, 4), 0);
    ck_assert_uint_eq(recall(a, 2, 0, 4).count, 4);
    ck_assert_uint_eq(recall(a, 2, 0, 4).count, 0); /* twice */
    ck_assert_uint_eq(agent_queued(a), 4);
    expect_element(a, 1, 0, false);
    agent_free(a);
}
END_TEST

START_TEST(recall_that_overtakes_its_run_gives_nothing)
{
    struct agent *a = leased_agent();
    ck_assert_uint_eq(recall(a, 1, 0, 4).count, 0);
    ck_assert_int_eq(give_stage(a, 1), 0);
    ck_assert_int_eq(give_run(a, 1, 0, 4), 0);
    ck_assert_uint_eq(agent_queued(a), 4);
    agent_free(a);
}
END_TEST

/* --- cancel -------------------------------------------------------------------------- */

START_TEST(cancel_drops_what_is_queued_and_closes_the_stage)
{
    struct agent *a = agent_with_run(0, 4);
    expect_element(a, 1, 0, false);
    ck_assert(!agent_is_cancelled(a, 1));
    ck_assert_int_eq(cancel(a, 1), 0);
    ck_assert(agent_is_cancelled(a, 1));
    ck_assert_uint_eq(agent_queued(a), 0);
    ck_assert_int_eq(cancel(a, 1), 0); /* twice */
    ck_assert_uint_eq(recall(a, 1, 0, 4).count, 0);
    expect_kind(a, AGENT_STAGE_CLOSE);
    expect_kind(a, AGENT_NOTHING);
    ck_assert(!agent_is_cancelled(a, 1));
    ck_assert_int_eq(cancel(a, 1), 0); /* late */
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

START_TEST(cancel_before_the_stage_was_opened_leaves_nothing)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(give_stage(a, 1), 0);
    ck_assert_int_eq(give_run(a, 1, 0, 4), 0);
    ck_assert_int_eq(cancel(a, 1), 0);
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

START_TEST(cancel_that_overtakes_swallows_stage_and_runs)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(cancel(a, 3), 0);
    ck_assert_int_eq(cancel(a, 3), 0);
    ck_assert_int_eq(give_stage(a, 3), 0);
    ck_assert_int_eq(give_run(a, 3, 0, 4), 0);
    expect_kind(a, AGENT_NOTHING);
    ck_assert_int_eq(cancel(a, 2), 0); /* stages come in any order: found by the simulator */
    ck_assert_int_eq(give_stage(a, 2), 0);
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

START_TEST(cancel_between_runs_swallows_the_later_ones)
{
    struct agent *a = agent_with_run(0, 4);
    ck_assert_int_eq(cancel(a, 1), 0);
    ck_assert_int_eq(give_run(a, 1, 4, 4), 0);
    expect_kind(a, AGENT_STAGE_CLOSE);
    ck_assert_int_eq(give_run(a, 1, 8, 4), 0);
    expect_kind(a, AGENT_NOTHING);
    agent_free(a);
}
END_TEST

START_TEST(a_stage_number_can_be_used_again)
{
    struct agent *a = agent_with_run(0, 1);
    ck_assert_int_eq(cancel(a, 1), 0);
    ck_assert_int_eq(give_stage(a, 1), 0);
    ck_assert_int_eq(give_run(a, 1, 0, 1), 0);
    expect_kind(a, AGENT_STAGE_CLOSE);
    expect_kind(a, AGENT_STAGE);
    expect_element(a, 1, 0, true);
    agent_free(a);
}
END_TEST

/* --- results ------------------------------------------------------------------------- */

START_TEST(results_are_held_until_acknowledged)
{
    struct agent *a = leased_agent();
    struct blob *r = blob_dup("abc", 3);
    size_t bytes;
    for (uint64_t seq = 1; seq <= 5; seq++) {
        ck_assert_uint_eq(agent_next_seq(a), seq);
        ck_assert_int_eq(agent_hold(a, seq, r), 0);
    }
    agent_check(a);
    ck_assert_uint_eq(agent_held(a, &bytes), 5);
    ck_assert_uint_eq(bytes, 15);
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 3}), 0);
    ck_assert_uint_eq(agent_held(a, &bytes), 2);
    ck_assert_uint_eq(bytes, 6);
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 2}), 0); /* late */
    ck_assert_uint_eq(agent_held(a, NULL), 2);
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 5}), 0);
    ck_assert_uint_eq(agent_held(a, &bytes), 0);
    ck_assert_uint_eq(bytes, 0);
    ck_assert_uint_eq(atomic_load(&r->refs), 1);
    blob_unref(r);
    agent_free(a);
}
END_TEST

START_TEST(sequence_starts_again_with_each_lease)
{
    struct agent *a = leased_agent();
    struct wire_hello next = hello_of(2, 1, 2);
    ck_assert_uint_eq(agent_next_seq(a), 1);
    ck_assert(agent_release(a));
    ck_assert_int_eq(agent_lease(a, &next), 0);
    ck_assert_uint_eq(agent_next_seq(a), 1);
    agent_free(a);
}
END_TEST

/* --- what must not come --------------------------------------------------------------- */

START_TEST(acknowledging_what_was_never_sent_is_corrupt)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = 1}), TRK_ECORRUPT);
    agent_free(a);
}
END_TEST

START_TEST(run_of_a_stage_never_declared_is_corrupt)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(give_run(a, 1, 0, 1), TRK_ECORRUPT);
    ck_assert_int_eq(give_stage(a, 1), 0);
    ck_assert_int_eq(give_run(a, 2, 0, 1), TRK_ECORRUPT);
    agent_free(a);
}
END_TEST

START_TEST(two_functions_under_one_stage_are_corrupt)
{
    struct agent *a = leased_agent();
    ck_assert_int_eq(give_stage(a, 1), 0);
    ck_assert_int_eq(give_stage(a, 1), TRK_ECORRUPT);
    agent_free(a);
}
END_TEST

START_TEST(indices_that_wrap_are_corrupt)
{
    struct agent *a = agent_with_run(0, 1);
    struct wire_note note = {.stage = 1, .first = UINT64_MAX, .count = 2};
    struct blob *run = run_blob(1, 0, 2);
    memset(run->data + 8, 0xff, 8); /* first */
    ck_assert_int_eq(give(a, WIRE_RUN, 0, run), TRK_ECORRUPT);
    ck_assert_int_eq(give_note(a, WIRE_RECALL, note), TRK_ECORRUPT);
    agent_free(a);
}
END_TEST

START_TEST(types_that_are_not_for_a_vm_are_corrupt)
{
    struct agent *a = leased_agent();
    for (int type = 0; type < 256; type++) {
        bool is_ours = type == WIRE_REQUEST || type == WIRE_STAGE || type == WIRE_RUN ||
                       type == WIRE_ACK || type == WIRE_RECALL || type == WIRE_CANCEL;
        /* An empty body is nothing that ours could have. */
        ck_assert_int_eq(give(a, (uint8_t)type, 0, blob_new(0)), TRK_ECORRUPT);
        ck_assert(!is_ours || !agent_is_used(a));
    }
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(every_truncation_of_a_run_is_corrupt)
{
    struct agent *a = agent_with_run(0, 1);
    struct blob *whole = run_blob(1, 1, 3);
    for (size_t size = 0; size < whole->size; size++) {
        ck_assert_int_eq(give(a, WIRE_RUN, 0, blob_dup(whole->data, size)), TRK_ECORRUPT);
    }
    ck_assert_uint_eq(agent_queued(a), 1);
    ck_assert_int_eq(give(a, WIRE_RUN, 0, whole), 0);
    ck_assert_uint_eq(agent_queued(a), 4);
    agent_free(a);
}
END_TEST

START_TEST(garbage_bodies_do_no_harm)
{
    static const uint8_t types[] = {WIRE_REQUEST, WIRE_STAGE,  WIRE_RUN,
                                    WIRE_ACK,     WIRE_RECALL, WIRE_CANCEL};
    struct agent *a = leased_agent();
    srand(1);
    for (int i = 0; i < 20000; i++) {
        struct wire_message msg = {.type = types[rand() % 6], .body = blob_new(64)}, out;
        bool has_out;
        msg.body->size = (size_t)(rand() % 64);
        for (size_t at = 0; at < msg.body->size; at++) {
            msg.body->data[at] = rand() % 3 == 0 ? (uint8_t)rand() : 0;
        }
        int rc = agent_message(a, &msg, &has_out, &out);
        ck_assert(rc == 0 || rc == TRK_ECORRUPT);
        ck_assert_ptr_null(msg.body);
        if (has_out) {
            blob_unref(out.body);
        }
        agent_check(a);
        struct agent_job job;
        agent_next(a, &job);
        agent_job_done(&job);
    }
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

/* --- no memory ------------------------------------------------------------------------ */

static struct blob *make_body(uint8_t type)
{
    struct wire_note note = {.stage = 1, .first = 0, .count = 4};
    struct wire_stage stage = {.stage = 2, .function = "f", .size = 1};
    struct wire_request request = {.op = TRK_OP_CALL, .name = "f", .name_size = 1};
    switch (type) {
    case WIRE_REQUEST:
        return wire_request_encode(&request);
    case WIRE_STAGE:
        return wire_stage_encode(&stage);
    case WIRE_RUN:
        return run_blob(1, 4, 4);
    case WIRE_CANCEL:
        note = (struct wire_note){.stage = 9}; /* not seen yet: leaves a tombstone */
        return wire_note_encode(&note);
    default:
        return wire_note_encode(&note);
    }
}

START_TEST(no_memory_leaves_the_agent_as_it_was)
{
    static const uint8_t types[] = {WIRE_REQUEST, WIRE_STAGE, WIRE_RUN, WIRE_RECALL, WIRE_CANCEL};
    struct agent *a = agent_with_run(0, 4);
    for (uint64_t n = 1; n < 20; n++) {
        struct wire_message msg = {.type = types[_i], .body = make_body(types[_i])}, out;
        bool has_out;
        uint64_t live = mem_live();
        mem_fail_after(n);
        int rc = agent_message(a, &msg, &has_out, &out);
        mem_fail_after(0);
        agent_check(a);
        if (rc == 0) {
            ck_assert_uint_gt(n, 1); /* the first allocation did matter */
            if (has_out) {
                blob_unref(out.body);
            }
            agent_free(a);
            ck_assert_uint_eq(mem_live(), 0);
            return;
        }
        ck_assert_int_eq(rc, TRK_ENOMEM);
        ck_assert(!has_out);
        ck_assert_uint_eq(mem_live(), live - 1); /* the body is gone, nothing else */
        ck_assert_uint_eq(agent_queued(a), 4);
    }
    ck_abort_msg("out of memory for ever");
}
END_TEST

START_TEST(no_memory_to_hold_a_result_is_told)
{
    struct agent *a = leased_agent();
    struct blob *r = blob_dup("abc", 3);
    uint64_t seq = agent_next_seq(a);
    mem_fail_after(1);
    ck_assert_int_eq(agent_hold(a, seq, r), TRK_ENOMEM);
    ck_assert_ptr_null(agent_new());
    mem_fail_after(0);
    agent_check(a);
    ck_assert_int_eq(agent_hold(a, seq, r), 0);
    blob_unref(r);
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

/* --- anything, in any order ------------------------------------------------------------- */

#define STAGES 4
#define INDICES 4096

/* Where each element is: an independent account of the agent's queue. */
struct model {
    enum { NOWHERE, QUEUED, TAKEN, BACK } at[STAGES][INDICES];
    uint32_t next[STAGES]; /* first index not sent yet */
    bool is_open[STAGES];
    size_t queued;
    uint64_t seq, acked;
};

static void random_in(struct agent *a, struct model *m, uint32_t s)
{
    uint32_t count = 1 + (uint32_t)rand() % 20;
    if (!m->is_open[s]) {
        ck_assert_int_eq(give_stage(a, s), 0);
        m->is_open[s] = true;
    } else if (m->next[s] + count < INDICES) {
        ck_assert_int_eq(give_run(a, s, m->next[s], count), 0);
        for (uint32_t i = 0; i < count; i++) {
            m->at[s][m->next[s]++] = QUEUED;
        }
        m->queued += count;
    }
}

static void random_recall(struct agent *a, struct model *m, uint32_t s)
{
    uint64_t first = m->next[s] > 30 ? m->next[s] - (uint32_t)rand() % 30 : 0;
    struct wire_note back = recall(a, s, first, (uint32_t)rand() % 30);
    for (uint32_t i = 0; i < back.count; i++) {
        ck_assert_int_eq(m->at[s][back.first + i], QUEUED);
        m->at[s][back.first + i] = BACK;
    }
    m->queued -= back.count;
}

static void random_cancel(struct agent *a, struct model *m, uint32_t s)
{
    if (rand() % 8 != 0 || !m->is_open[s]) {
        return;
    }
    ck_assert_int_eq(cancel(a, s), 0);
    m->is_open[s] = false;
    for (uint32_t i = 0; i < m->next[s]; i++) {
        m->queued -= m->at[s][i] == QUEUED;
        m->at[s][i] = NOWHERE;
    }
    m->next[s] = 0;
}

static void random_out(struct agent *a, struct model *m)
{
    struct agent_job job;
    agent_next(a, &job);
    if (job.kind == AGENT_ELEMENT) {
        ck_assert_int_eq(m->at[job.stage][job.index], QUEUED);
        m->at[job.stage][job.index] = TAKEN;
        m->queued--;
        struct blob *r = blob_dup("r", 1);
        ck_assert_uint_eq(agent_next_seq(a), ++m->seq);
        ck_assert_int_eq(agent_hold(a, m->seq, r), 0);
        blob_unref(r);
    }
    agent_job_done(&job);
}

START_TEST(random_messages_keep_every_element_in_one_place)
{
    static struct model m;
    struct agent *a = leased_agent();
    memset(&m, 0, sizeof(m));
    srand(100 + (unsigned)_i);
    for (int step = 0; step < 20000; step++) {
        uint32_t s = (uint32_t)rand() % STAGES;
        switch (rand() % 8) {
        case 0:
        case 1:
            random_in(a, &m, s);
            break;
        case 2:
            random_recall(a, &m, s);
            break;
        case 3:
            random_cancel(a, &m, s);
            break;
        case 4:
            m.acked += m.seq > m.acked ? (uint64_t)rand() % (m.seq - m.acked + 1) : 0;
            ck_assert_int_eq(give_note(a, WIRE_ACK, (struct wire_note){.seq = m.acked}), 0);
            break;
        default:
            random_out(a, &m);
            break;
        }
        agent_check(a);
        ck_assert_msg(agent_queued(a) == m.queued, "seed %d step %d: %zu queued, expected %zu",
                      100 + _i, step, agent_queued(a), m.queued);
        ck_assert_uint_eq(agent_held(a, NULL), m.seq - m.acked);
    }
    ck_assert(!agent_release(a));
    agent_free(a);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("agent");
    TCase *tc = tcase_create("lease");
    tcase_add_test(tc, only_one_holds_the_lease);
    tcase_add_loop_test(tc, older_and_doubled_epochs_are_fenced, 0,
                        sizeof(fence_table) / sizeof(fence_table[0]));
    tcase_add_test(tc, refused_lease_moves_no_fence);
    tcase_add_test(tc, jobless_leases_do_not_fence_each_other);
    tcase_add_test(tc, unused_agent_serves_the_next_lease);
    tcase_add_test(tc, used_agent_ends_with_its_lease);
    tcase_add_test(tc, messages_without_a_lease_are_refused);
    suite_add_tcase(suite, tc);
    tc = tcase_create("order");
    tcase_add_test(tc, elements_come_in_order_behind_their_stage);
    tcase_add_test(tc, requests_come_before_elements);
    tcase_add_test(tc, a_job_outlives_its_batch_and_its_lease);
    suite_add_tcase(suite, tc);
    tc = tcase_create("recall and cancel");
    tcase_add_loop_test(tc, recall_gives_back_what_was_not_taken, 0,
                        sizeof(recall_table) / sizeof(recall_table[0]));
    tcase_add_test(tc, recall_of_one_stage_leaves_the_other);
    tcase_add_test(tc, recall_that_overtakes_its_run_gives_nothing);
    tcase_add_test(tc, cancel_drops_what_is_queued_and_closes_the_stage);
    tcase_add_test(tc, cancel_before_the_stage_was_opened_leaves_nothing);
    tcase_add_test(tc, cancel_that_overtakes_swallows_stage_and_runs);
    tcase_add_test(tc, cancel_between_runs_swallows_the_later_ones);
    tcase_add_test(tc, a_stage_number_can_be_used_again);
    suite_add_tcase(suite, tc);
    tc = tcase_create("results");
    tcase_add_test(tc, results_are_held_until_acknowledged);
    tcase_add_test(tc, sequence_starts_again_with_each_lease);
    suite_add_tcase(suite, tc);
    tc = tcase_create("bad input");
    tcase_set_timeout(tc, 30); /* sanitizers */
    tcase_add_test(tc, acknowledging_what_was_never_sent_is_corrupt);
    tcase_add_test(tc, run_of_a_stage_never_declared_is_corrupt);
    tcase_add_test(tc, two_functions_under_one_stage_are_corrupt);
    tcase_add_test(tc, indices_that_wrap_are_corrupt);
    tcase_add_test(tc, types_that_are_not_for_a_vm_are_corrupt);
    tcase_add_test(tc, every_truncation_of_a_run_is_corrupt);
    tcase_add_test(tc, garbage_bodies_do_no_harm);
    suite_add_tcase(suite, tc);
    tc = tcase_create("no memory");
    tcase_add_loop_test(tc, no_memory_leaves_the_agent_as_it_was, 0, 5);
    tcase_add_test(tc, no_memory_to_hold_a_result_is_told);
    suite_add_tcase(suite, tc);
    tc = tcase_create("random");
    tcase_set_timeout(tc, 30);
    tcase_add_loop_test(tc, random_messages_keep_every_element_in_one_place, 0, 5);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
