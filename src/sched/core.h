/* SPDX-License-Identifier: MIT */
/* core.h - what the parts of the scheduler share: the tables, and the actions of one step.
 *
 *   sched.c     new, free, the one switch over events, stages and work, queries
 *   report.c    what VMs and the program report: RESULT, RECORDED, DELIVERED, RECALLED
 *   loss.c      VMs that come and go, and whose fault it was
 *   block.c     VMs that are not used though they are there: silent or suspected of killing
 *   dispatch.c  after each event: what goes to which VM, and what is asked back
 *   double.c    second runs of what runs very long
 *   place.c     the choices in dispatch, as pure functions
 *   stage.c, element.c, vm.c, blame.c, bits.c, map.c   the tables
 *   check.c     every invariant across them
 *
 * Handlers check an event first and change nothing when they return an error. They only change
 * tables; sched_dispatch() alone hands out work. Room for the most actions a step can give is
 * reserved when a VM joins, and so is an entry of blame for its loss: no other event can fail for
 * want of memory. A second run of an element takes a place in its VM, a delayed element one that
 * was made when it was added. */
#ifndef SCHED_CORE_H
#define SCHED_CORE_H

#include <assert.h>

#include "sched/blame.h"
#include "sched/map.h"
#include "sched/sched.h"
#include "sched/stage.h"
#include "sched/vm.h"

struct sched {
    struct sched_options opt;  /* every field filled in */
    uint64_t now_ns;           /* of the step under way, or the last one */
    uint64_t live;             /* elements not delivered, of all stages */
    struct list stages;        /* struct stage, as they were opened */
    struct list hungry;        /* those with pending elements; whose turn is next is in front */
    struct list delayed;       /* those with elements that wait for their next try */
    struct list speculating;   /* those that speculate and are not cancelled */
    struct map stage_numbers;  /* the caller's number -> struct stage */
    struct vm_table vms;
    struct blame_table blames; /* of the elements that are marked so */
    struct suspicion_table suspicions; /* by VM number */
    struct sched_action *actions;
    size_t action_count, action_capacity;
    uint64_t wake_ns;          /* the last SCHED_WAKE_AT given */
};

/* The next action of this step, zeroed but for its type; room for it is reserved. */
struct sched_action *sched_action_add(struct sched *s, enum sched_action_type type);
void sched_action_range(struct sched *s, enum sched_action_type type, const struct stage *st,
                        uint64_t first, uint64_t count);
struct stage *sched_stage_find(const struct sched *s, uint32_t number); /* or NULL */
/* After a change of a stage: its place among the hungry, and SCHED_DONE when it has ended. */
void sched_stage_settle(struct sched *s, struct stage *st);
/* Asks a batch's VM for what has not started of it. */
void sched_recall_all(struct sched *s, const struct batch *b);
/* The batch that an assigned element is in. */
static inline struct batch *sched_batch_of(const struct sched *s, const struct element *e)
{
    struct batch *b = &s->vms.slots[sched_element_vm(e)]->batches[sched_element_batch(e)];
    assert(b->stage != NULL && b->left > 0);
    return b;
}
/* Tells a VM that it need not run an element any further; together with the one before it, if that
 * was the last action. */
void sched_run_cancel(struct sched *s, const struct batch *b, uint64_t index);
/* The second run is over, the first goes on. */
void sched_second_end(struct sched *s, struct batch *second);
/* Takes the blame from an element that vm has completed; that speaks against others, unless it
 * is SCHED_NO_VM: how they fared in an earlier epoch is not known. */
void sched_blame_clear(struct sched *s, const struct stage *st, uint64_t index, uint32_t vm);

int sched_on_result(struct sched *s, const struct sched_event *ev);
int sched_on_recorded(struct sched *s, const struct sched_event *ev);
int sched_on_delivered(struct sched *s, const struct sched_event *ev);
int sched_on_recalled(struct sched *s, const struct sched_event *ev);
int sched_on_vm_joined(struct sched *s, const struct sched_event *ev);
int sched_on_vm_lost(struct sched *s, const struct sched_event *ev);
int sched_on_vm_suspect(struct sched *s, const struct sched_event *ev);
int sched_on_vm_unblock(struct sched *s, const struct sched_event *ev);
int sched_on_vm_draining(struct sched *s, const struct sched_event *ev);
int sched_on_stage_vm(struct sched *s, const struct sched_event *ev);
void sched_dispatch(struct sched *s);
/* May this VM not have the blamed element yet? Returns until when, or 0. */
uint64_t sched_held_until(const struct sched *s, const struct stage *st,
                          const struct element_range *next, size_t vm_slot);
/* Gives second runs to idle VMs. Returns when to look again, UINT64_MAX: when something comes. */
uint64_t sched_double_some(struct sched *s);

#endif
