/* SPDX-License-Identifier: MIT */
/* sched.h - the scheduler as a pure state machine.
 *
 * No I/O, no clock, no threads, no randomness, no callbacks: put an event in, carry out the
 * actions that come back, in order. One owner, one thread. It never sees an element's bytes, only
 * numbers. A scheduler holds all stages (one per forkwork/forkgen) and all VMs of one farm.
 *
 *   PENDING -> ASSIGNED(vm, attempt) -> RETURNED -> RECORDED -> DELIVERED
 *      ^            |  VM lost, drained, recalled     |
 *      +------------+                                 +-> FAILED (recorded too)
 *
 * WORK_ADDED is the only event that may allocate for elements and answer TRK_EFULL; then nothing
 * has changed. VM_JOINED and STAGE_OPENED may answer TRK_ENOMEM, likewise. */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

struct sched;

struct sched_options {
    uint64_t batch_ns;      /* work per batch to aim at; 0: 4,000,000 (4 ms) */
    uint32_t batch_max;     /* elements per batch at most; 0: 4,096 */
    uint32_t batch_bytes;   /* bytes per batch at most; 0: 262,144; one element always goes */
    uint32_t in_flight;     /* batches assigned to a VM at once; 0: 2 */
    uint64_t live_max;      /* elements not yet delivered, all stages; 0: 1 << 32 */
    uint32_t max_own_deaths; /* an element's own deaths before quarantine; 0: 3 */
    uint32_t max_losses;     /* losses without evidence before quarantine; 0: 20 */
};

TRK_MUST_USE int sched_new(struct sched **out, const struct sched_options *opt);
void sched_free(struct sched *s);

enum sched_event_type {
    SCHED_VM_JOINED,    /* vm: a number chosen by the caller, not in use; serves no stage yet */
    SCHED_VM_LOST,      /* vm, cause, and stage/first of the element that was running if known */
    SCHED_VM_DRAINING,  /* vm: gets nothing new */
    SCHED_STAGE_OPENED, /* stage: number chosen by the caller, not in use */
    SCHED_STAGE_VM,     /* stage, vm, flag: flag 1: the vm serves this stage, 0: no more */
    SCHED_WORK_ADDED,   /* stage, count, bytes: elements next..next+count-1 (next counts from 0) */
    SCHED_WORK_CLOSED,  /* stage */
    SCHED_RESULT,       /* stage, vm, attempt, first, count, failed, busy_ns */
    SCHED_RECORDED,     /* stage, first, count: these results are safe */
    SCHED_DELIVERED,    /* stage, first, count: taken by the program */
    SCHED_RECALLED,     /* stage, vm, first, count: the vm gave these back unstarted */
    SCHED_CANCEL,       /* stage: nothing new starts, what is queued is recalled */
    SCHED_STAGE_CLOSED, /* stage: forget it; only after its SCHED_DONE */
    SCHED_TICK,         /* time has passed */
    SCHED_EVENT_COUNT
};

enum sched_cause {
    SCHED_CAUSE_LOSS,     /* silence, machine or link gone, SIGKILL without evidence */
    SCHED_CAUSE_OWN,      /* the running element's own doing: SEGV, ABRT, exit, OOM, timeout */
    SCHED_CAUSE_EXPECTED, /* drained, recycled, stopped: nobody's fault */
};

struct sched_event {
    enum sched_event_type type;
    uint32_t vm, stage;
    uint32_t attempt;
    uint64_t first;
    uint64_t count;
    uint64_t bytes;
    uint64_t busy_ns;
    uint32_t failed; /* RESULT: how many of these are failures (for counters only) */
    uint32_t flag;
    enum sched_cause cause;
    bool has_element; /* VM_LOST: stage and first name the element that was running. Without it
                         a SCHED_CAUSE_LOSS counts for the first one the VM had not answered. */
};

enum sched_action_type {
    SCHED_ASSIGN, /* stage, vm, attempt, first, count: send these to the vm */
    SCHED_RECALL, /* stage, vm, first, count: ask the vm for what has not started of these */
    SCHED_STORE,  /* stage, first, count, vm, attempt: of the RESULT being stepped, record these
                     (the others of it are late, duplicate or unknown: drop and count them) */
    SCHED_DELIVER, /* stage, first, count: recorded, hand them to the program */
    SCHED_FAIL,    /* stage, first, cause, attempt: record this element as failed */
    SCHED_DROP,    /* stage, first, count: (RESULT being stepped) not wanted */
    SCHED_DONE,    /* stage: closed, and every element is recorded */
    SCHED_WAKE_AT, /* at_ns: give a TICK then */
    SCHED_ACTION_COUNT
};

struct sched_action {
    enum sched_action_type type;
    uint32_t vm, stage, attempt;
    enum sched_cause cause;
    uint64_t first, count;
    uint64_t at_ns;
};

/* The actions of one step; borrowed from the scheduler, dead after the next step. */
struct sched_actions {
    const struct sched_action *items;
    size_t count;
};

/* Applies one event. now_ns must not go backwards. Returns 0; TRK_EFULL or TRK_ENOMEM as above
 * with s unchanged; TRK_EINVAL: an event that contradicts the contract (unknown stage or vm in an
 * event of ours, RECORDED or DELIVERED of an element that is not so far), s unchanged. Reports
 * about stages, VMs, attempts that are not current are no error: they give SCHED_DROP. Between
 * CANCEL and STAGE_CLOSED what was under way about the stage (WORK_ADDED, WORK_CLOSED, STAGE_VM,
 * RECORDED, DELIVERED) has no effect. */
TRK_MUST_USE int sched_step(struct sched *s, const struct sched_event *ev, uint64_t now_ns,
                            struct sched_actions *actions);

struct sched_stage_info {
    /* How many elements are in each state now; added is their sum until the stage is cancelled. A
     * quarantined one is returned until recorded. failed is a count apart, not a state. */
    uint64_t added, pending, assigned, returned, recorded, delivered, failed;
    uint64_t reissued;  /* assignments beyond an element's first */
    uint64_t dropped;   /* reports without effect: late, duplicate, unknown */
    uint32_t vms;       /* serving the stage */
    uint64_t element_ns; /* estimate of one element's duration; 0: unknown */
    bool is_closed, is_cancelled;
};
TRK_MUST_USE int sched_stage_get(const struct sched *s, uint32_t stage,
                                 struct sched_stage_info *out);
/* Attempts that were started for an element (1 normally); 0 once delivered and forgotten. */
uint32_t sched_attempts(const struct sched *s, uint32_t stage, uint64_t index);
size_t sched_memory(const struct sched *s); /* bytes held */

/* Checks every cross-table invariant; aborts with a sentence when one is broken. For tests and
 * the simulator, after every step. */
void sched_check(const struct sched *s);

#endif
