/* SPDX-License-Identifier: MIT */
/* stage.h - one stage: its elements, who serves it, how long its elements take.
 *
 * The estimate is a ratio of two sums that forget: computing time over elements. So a message
 * with a thousand short elements outweighs one with a single long one. batch_now is how many
 * elements a batch may hold as far as is proved: it starts at one, is cut at once when elements
 * turn out longer, and grows fourfold only when a batch of that size has come back.
 *
 * Blocked VMs are spare: they serve a stage only while no other VM does. So a block can neither
 * leave a stage without any VM nor outlive the reason to have it. */
#ifndef SCHED_STAGE_H
#define SCHED_STAGE_H

#include "base/list.h"
#include "sched/element.h"
#include "sched/sched.h"

struct stage {
    uint32_t number;          /* the caller's */
    struct list in_sched;     /* all stages, as they were opened */
    struct list in_hungry;    /* stages with pending elements; whose turn is next is in front */
    struct list batches;      /* struct batch: assigned ones, oldest first */
    struct segments elements;
    struct list in_delayed;   /* stages with elements that wait for their next try */
    struct list in_speculating; /* stages that speculate */
    struct list runners;      /* struct batch: what may get a second run, longest-running first */
    struct bits serves;       /* slots of the VMs that serve it and may get work */
    struct bits spare;        /* slots of blocked VMs that were to serve it */
    uint32_t regulars;        /* VMs that serve it and are not blocked */
    uint32_t spares;          /* members of spare */
    uint32_t retries;         /* runs after a failed one */
    uint64_t backoff_ns;      /* wait after the first failure */
    uint64_t spent_ns;        /* computing time, forgetting an eighth per report */
    uint64_t spent_count;     /* elements in 1/256, forgetting likewise */
    uint64_t element_ns;      /* their ratio; 0: unknown */
    uint32_t batch_now;       /* elements per batch that are proved reasonable */
    uint64_t failed, reissued, dropped, retried, doubled; /* as in struct sched_stage_info */
    uint64_t added_before, delivered_before;  /* at the time it was cancelled */
    bool is_closed, is_cancelled;
    bool is_speculating; /* what runs very long may get a second run */
    bool is_done; /* SCHED_DONE was given */
};

/* NULL: out of memory. Room for VM slots below vm_slots. */
struct stage *sched_stage_new(const struct sched_event *opened, size_t vm_slots);
void sched_stage_free(struct stage *st);
/* Room for VM slots below vm_slots. */
TRK_MUST_USE int sched_stage_reserve(struct stage *st, size_t vm_slots);
static inline uint64_t sched_stage_pending(const struct stage *st)
{
    return st->elements.in_state[ELEMENT_PENDING];
}
/* Are all elements recorded, as far as added? */
bool sched_stage_is_recorded(const struct stage *st);
/* How many VMs may get work of it. */
static inline uint32_t sched_stage_vms(const struct stage *st)
{
    return st->regulars > 0 ? st->regulars : st->spares;
}
/* Was the VM to serve it, blocked or not? */
bool sched_stage_has(const struct stage *st, size_t vm_slot);
void sched_stage_serve(struct stage *st, size_t vm_slot, bool is_serving, bool is_blocked);
/* When an element that fails now for the n-th time is tried again, in whole ms. */
uint64_t sched_stage_retry_ms(const struct stage *st, uint32_t n, uint64_t now_ns);
/* How long an element has to run until it may get a second run. */
uint64_t sched_stage_double_ns(const struct stage *st);
/* Takes a measurement into the estimate; cuts batch_now to what fits batch_ns. */
void sched_stage_measure(struct stage *st, uint64_t busy_ns, uint64_t count, uint64_t batch_ns,
                         uint32_t batch_max);
/* A batch of count elements has come back whole. */
void sched_stage_grow(struct stage *st, uint64_t count, uint64_t batch_ns, uint32_t batch_max);
void sched_stage_check(const struct stage *st);

#endif
