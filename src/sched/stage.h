/* SPDX-License-Identifier: MIT */
/* stage.h - one stage: its elements, who serves it, how long its elements take.
 *
 * The estimate is a ratio of two sums that forget: computing time over elements. So a message
 * with a thousand short elements outweighs one with a single long one. batch_now is how many
 * elements a batch may hold as far as is proved: it starts at one, is cut at once when elements
 * turn out longer, and grows fourfold only when a batch of that size has come back. */
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
    struct bits serves;       /* slots of the VMs that serve it and may get work */
    uint32_t vms;             /* how many those are */
    uint64_t spent_ns;        /* computing time, forgetting an eighth per report */
    uint64_t spent_count;     /* elements in 1/256, forgetting likewise */
    uint64_t element_ns;      /* their ratio; 0: unknown */
    uint32_t batch_now;       /* elements per batch that are proved reasonable */
    uint64_t failed, reissued, dropped; /* as in struct sched_stage_info */
    uint64_t added_before, delivered_before;  /* at the time it was cancelled */
    bool is_closed, is_cancelled;
    bool is_done; /* SCHED_DONE was given */
};

/* NULL: out of memory. Room for VM slots below vm_slots. */
struct stage *sched_stage_new(uint32_t number, size_t vm_slots);
void sched_stage_free(struct stage *st);
static inline uint64_t sched_stage_pending(const struct stage *st)
{
    return st->elements.in_state[ELEMENT_PENDING];
}
/* Are all elements recorded, as far as added? */
bool sched_stage_is_recorded(const struct stage *st);
void sched_stage_serve(struct stage *st, size_t vm_slot, bool is_serving);
/* Takes a measurement into the estimate; cuts batch_now to what fits batch_ns. */
void sched_stage_measure(struct stage *st, uint64_t busy_ns, uint64_t count, uint64_t batch_ns,
                         uint32_t batch_max);
/* A batch of count elements has come back whole. */
void sched_stage_grow(struct stage *st, uint64_t count, uint64_t batch_ns, uint32_t batch_max);
void sched_stage_check(const struct stage *st);

#endif
