/* SPDX-License-Identifier: MIT */
/* sched.h - the scheduler as a pure state machine.
 *
 * No I/O, no clock, no threads, no randomness, no callbacks: put an event in, carry out the
 * actions that come back, in order. One owner, one thread. It never sees an element's bytes, only
 * numbers. A scheduler holds all stages (one per forkwork/forkgen) and all VMs of one farm.
 *
 *   PENDING -> ASSIGNED(vm, attempt) -> RETURNED -> RECORDED -> DELIVERED
 *    ^  ^           |  |  VM lost, drained, recalled  |
 *    |  +-----------+  |                              +-> FAILED (recorded too)
 *    |                 |  the user's code failed, retries are left
 *    +---- DELAYED <---+
 *          until its back-off has passed
 *
 * In a resumed job what was recorded in an earlier epoch is DELIVERED from the moment it is added;
 * a result that an earlier epoch's VM had kept ends its element's life here whatever its state.
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

/* Instead of a VM, of a result that an earlier epoch's made: see SCHED_RESULT. No VM's number. */
#define SCHED_NO_VM UINT32_MAX

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
    SCHED_STAGE_OPENED, /* stage: number chosen by the caller, not in use; retries, backoff_ns,
                           flag: bits of enum sched_stage_flag */
    SCHED_STAGE_VM,     /* stage, vm, flag: flag 1: the vm serves this stage, 0: no more */
    SCHED_WORK_ADDED,   /* stage, count, bytes: elements next..next+count-1 (next counts from 0),
                           flag: bits of enum sched_work_flag */
    SCHED_WORK_CLOSED,  /* stage */
    SCHED_RESULT,       /* stage, vm, attempt, first, count, failed, busy_ns. vm SCHED_NO_VM: handed
                           over from an earlier epoch; counts for every element without a result,
                           whatever its attempt, and measures and excuses nobody */
    SCHED_RECORDED,     /* stage, first, count: these results are safe */
    SCHED_DELIVERED,    /* stage, first, count: taken by the program */
    SCHED_RECALLED,     /* stage, vm, first, count: the vm gave these back unstarted;
                           flag: bits of enum sched_recalled_flag */
    SCHED_CANCEL,       /* stage: nothing new starts, what is queued is recalled */
    SCHED_STAGE_CLOSED, /* stage: forget it; only after its SCHED_DONE */
    SCHED_TICK,         /* time has passed */
    SCHED_VM_SUSPECT,   /* vm, flag: flag 1: it is silent and gets nothing new, 0: it speaks again;
                           flag 1 is followed by flag 0 or VM_LOST within a bounded time */
    SCHED_VM_UNBLOCK,   /* vm: what it was blocked for is forgotten; it need not be there */
    SCHED_FAILED,       /* as RESULT without failed, but the user's code failed for all of these: a
                           message with both is stepped as runs of RESULT and FAILED, in order.
                           With SCHED_NO_VM it counts only in a stage without retries: which
                           failures of which epoch were counted is not known */
    SCHED_EVENT_COUNT
};

enum sched_stage_flag {
    SCHED_STAGE_SPECULATE = 1, /* at its end what runs very long also runs on an idle VM */
};

enum sched_work_flag {
    SCHED_WORK_RECORDED = 1, /* an earlier epoch recorded these: DELIVERED at once, never assigned,
                                no SCHED_DELIVER; they take no room */
};

enum sched_recalled_flag {
    SCHED_RECALLED_STARTED = 1, /* given back in the middle (trickle.Moved): nobody's fault, but
                                   that attempt was made. Answers no recall */
};

enum sched_cause {
    SCHED_CAUSE_LOSS,     /* silence, machine or link gone, SIGKILL without evidence */
    SCHED_CAUSE_OWN,      /* the running element's own doing: SEGV, ABRT, exit, OOM */
    SCHED_CAUSE_EXPECTED, /* drained, recycled, stopped: nobody's fault */
    SCHED_CAUSE_TIMEOUT,  /* the running element was over its time: an own death like any other */
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
    uint32_t retries; /* STAGE_OPENED: runs after a failed one, at most 65,534; 0: none */
    uint64_t backoff_ns; /* STAGE_OPENED: wait after an element's first failure, doubled by each
                            further one up to 60 s, and rounded up by an eighth of it at most so
                            that elements go together; 0: 100 ms */
};

enum sched_action_type {
    SCHED_ASSIGN, /* stage, vm, attempt, first, count: send these to the vm */
    SCHED_RECALL, /* stage, vm, first, count: ask the vm for what has not started of these */
    SCHED_STORE,  /* stage, first, count, vm, attempt: of the RESULT or FAILED being stepped, record
                     these (all others of it are in a DROP) */
    SCHED_DELIVER, /* stage, first, count: recorded, hand them to the program */
    SCHED_FAIL,    /* stage, first, cause, attempt: record this element as failed: it had its share
                      of deaths or losses */
    SCHED_DROP,    /* stage, first, count: of the RESULT or FAILED being stepped, do not record
                      these: late, duplicate, unknown, or a failure that is tried again */
    SCHED_DONE,    /* stage: closed, and every element is recorded */
    SCHED_WAKE_AT, /* at_ns: give a TICK then */
    SCHED_BLOCK_VM, /* vm, which may be away: elements die on it that run elsewhere. It gets
                       nothing for a stage that another VM serves, also when it joins again under
                       its number, until VM_UNBLOCK. */
    SCHED_CANCEL_RUN, /* vm, stage, attempt, first, count: the vm need not run these any further;
                         whatever it reports about them is dropped */
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
    uint64_t added, pending, delayed, assigned, returned, recorded, delivered, failed;
    uint64_t reissued;  /* assignments beyond an element's first */
    uint64_t retried;   /* failed runs after which the element was not given up */
    uint64_t doubled;   /* second assignments of elements that ran very long */
    uint64_t dropped;   /* reports without effect: late, duplicate, unknown */
    uint32_t vms;       /* serving the stage */
    uint64_t element_ns; /* estimate of one element's duration; 0: unknown */
    bool is_closed, is_cancelled;
};
TRK_MUST_USE int sched_stage_get(const struct sched *s, uint32_t stage,
                                 struct sched_stage_info *out);
/* Attempts that were started for an element (1 normally); 0 once delivered and forgotten, or when
 * its result came from an earlier epoch before it ran in this one. */
uint32_t sched_attempts(const struct sched *s, uint32_t stage, uint64_t index);
size_t sched_memory(const struct sched *s); /* bytes held */

/* Checks every cross-table invariant; aborts with a sentence when one is broken. For tests and
 * the simulator, after every step. */
void sched_check(const struct sched *s);

#endif
