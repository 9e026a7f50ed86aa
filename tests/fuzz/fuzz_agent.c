/* SPDX-License-Identifier: MIT */
/* fuzz_agent.c - what a holder of a lease may send to a VM, in any order, between what the VM does
 * with it: work and notes of every kind, good and bad. The agent keeps its invariants, all that it
 * hands out lies within what came, and nothing stays allocated.
 * The input is a list of steps: u8 what; for a message u16 size and its body. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "fuzz.h"
#include "vm/agent.h"

static const uint8_t types[] = {WIRE_REQUEST, WIRE_STAGE,  WIRE_RUN,   WIRE_ACK,
                                WIRE_RECALL,  WIRE_CANCEL, WIRE_STATE, WIRE_STATE_DONE};
enum { TYPES = sizeof(types) };
enum step { STEP_NEXT = TYPES, STEP_HOLD, STEP_HOLD_DURABLE, STEP_HOLD_STATE, STEP_GIVE_BACK,
            STEP_ORPHAN, STEP_LEASE, STEP_COUNT };

static volatile uint8_t read_last; /* so that reading is not optimized away */

/* Reads each byte, for the sanitizer. */
static void look_at(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    for (size_t i = 0; i < size; i++) {
        read_last = at[i];
    }
}

static void take_message(struct agent *a, uint8_t type, struct cursor *c)
{
    size_t size = cursor_get_u16(c), left = cursor_left(c);
    struct wire_message msg = {.type = type, .stream = 1}, out;
    bool has_out;

    size = size < left ? size : left;
    msg.body = blob_dup(cursor_get(c, size), size); /* of its exact size, for the sanitizer */
    assert(msg.body != NULL);
    int rc = agent_message(a, &msg, &has_out, &out);
    assert(rc == 0 || rc == TRK_ECORRUPT);
    if (has_out) {
        struct wire_note note;
        assert(rc == 0 && out.type == WIRE_RECALLED);
        rc = wire_note_decode(&note, out.body);
        assert(rc == 0);
        blob_unref(out.body);
    }
}

static void take_job(struct agent *a)
{
    struct agent_job job;

    agent_next(a, &job);
    if (job.kind == AGENT_REQUEST) {
        look_at(job.request.name, job.request.name_size);
        look_at(job.request.payload, job.request.size);
    } else if (job.kind == AGENT_ELEMENT || job.kind == AGENT_STAGE) {
        look_at(job.payload, job.size);
    }
    if (job.state != NULL) {
        look_at(job.state_bytes, job.state_size);
    }
    (void)!agent_is_cancelled(a, job.stage);
    agent_job_done(&job);
}

static void hold(struct agent *a, enum step step)
{
    static const uint8_t fingerprint[16] = "the code's print";
    const struct digest digests[2] = {{"one"}, {"other"}};
    struct blob *body = blob_dup("results", 7);
    int rc = 0;

    assert(body != NULL);
    if (step == STEP_HOLD) {
        rc = agent_hold(a, agent_next_seq(a), body);
    } else if (step == STEP_HOLD_DURABLE) {
        rc = agent_hold_durable(a, agent_next_seq(a), body, 2, digests, fingerprint);
    } else {
        (void)agent_next_state(a);
        agent_hold_state(a, body, fingerprint);
    }
    assert(rc == 0);
    blob_unref(body);
}

static void lease(struct agent *a)
{
    struct wire_hello hello = {.purpose = WIRE_PURPOSE_LEASE, .epoch = 1, .job = "a job",
                               .incarnation = "an initiator"};

    (void)!agent_release(a);
    (void)!agent_lease(a, &hello);
}

static void take_step(struct agent *a, enum step step, struct cursor *c)
{
    struct wire_message out;

    if (step < (enum step)TYPES) {
        take_message(a, types[step], c);
    } else if (step == STEP_NEXT) {
        take_job(a);
    } else if (step == STEP_LEASE) {
        lease(a);
    } else if (!agent_is_leased(a)) {
        return;
    } else if (step == STEP_GIVE_BACK) {
        if (agent_give_back(a, &out) == 1) {
            blob_unref(out.body);
        }
    } else if (step == STEP_ORPHAN) {
        agent_orphan(a);
    } else {
        hold(a, step);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t live = mem_live();
    struct agent *a = agent_new();
    struct cursor c;

    assert(a != NULL);
    lease(a);
    cursor_init(&c, data, size);
    while (cursor_left(&c) > 0) {
        take_step(a, (enum step)(cursor_get_u8(&c) % STEP_COUNT), &c);
        agent_check(a);
    }
    agent_free(a);
    assert(mem_live() == live);
    return 0;
}
