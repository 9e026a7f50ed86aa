/* SPDX-License-Identifier: MIT */
/* core.h - what the parts of the scheduler share: the tables, and the actions of one step.
 *
 *   sched.c     new, free, the one switch over events, stages and work, queries
 *   report.c    what VMs and the program report: RESULT, RECORDED, DELIVERED, RECALLED
 *   loss.c      VMs that come and go, and whose fault it was
 *   dispatch.c  after each event: what goes to which VM, and what is asked back
 *   place.c     the choices in dispatch, as pure functions
 *   stage.c, element.c, vm.c, bits.c, map.c   the tables
 *   check.c     every invariant across them
 *
 * Handlers check an event first and change nothing when they return an error. They only change
 * tables; sched_dispatch() alone hands out work. Room for the most actions a step can give is
 * reserved when a VM joins, and so is an entry of blame for its loss: no other event can fail for
 * want of memory. */
#ifndef SCHED_CORE_H
#define SCHED_CORE_H

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
    struct map stage_numbers;  /* the caller's number -> struct stage */
    struct vm_table vms;
    struct map blame;          /* (stage, index) -> struct blame, of blamed elements only */
    struct sched_action *actions;
    size_t action_count, action_capacity;
    uint64_t wake_ns;          /* the last SCHED_WAKE_AT given */
};

/* What a blamed element has done; fits a map's value. */
struct blame {
    uint16_t own_deaths; /* VMs that died of it */
    uint16_t losses;     /* VMs that were lost while it ran, without evidence */
    uint32_t vm;         /* the last such VM: tried elsewhere if possible */
};
struct blame sched_blame_unpack(uint64_t value);
uint64_t sched_blame_pack(struct blame b);

/* The next action of this step, zeroed but for its type; room for it is reserved. */
struct sched_action *sched_action_add(struct sched *s, enum sched_action_type type);
void sched_action_range(struct sched *s, enum sched_action_type type, const struct stage *st,
                        uint64_t first, uint64_t count);
struct stage *sched_stage_find(const struct sched *s, uint32_t number); /* or NULL */
/* After a change of a stage: its place among the hungry, and SCHED_DONE when it has ended. */
void sched_stage_settle(struct sched *s, struct stage *st);
/* Asks a batch's VM for what has not started of it. */
void sched_recall_all(struct sched *s, const struct batch *b);

int sched_on_result(struct sched *s, const struct sched_event *ev);
int sched_on_recorded(struct sched *s, const struct sched_event *ev);
int sched_on_delivered(struct sched *s, const struct sched_event *ev);
int sched_on_recalled(struct sched *s, const struct sched_event *ev);
int sched_on_vm_joined(struct sched *s, const struct sched_event *ev);
int sched_on_vm_lost(struct sched *s, const struct sched_event *ev);
int sched_on_vm_draining(struct sched *s, const struct sched_event *ev);
int sched_on_stage_vm(struct sched *s, const struct sched_event *ev);
void sched_dispatch(struct sched *s);

#endif
