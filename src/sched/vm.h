/* SPDX-License-Identifier: MIT */
/* vm.h - the VMs, and the batches they have.
 *
 * A batch is a run of elements as it was sent; it lives in a fixed place of its VM, so assigning
 * never allocates. left counts those of its elements that are still ASSIGNED to it: results,
 * recalls and late results from elsewhere take from it, and at 0 it is over.
 *
 * An element that runs very long may have a second run. Its batch is a twin of the one that the
 * element is assigned to: one element, is_second, and the element's own record does not name it.
 *
 * room[n] holds the VMs that have n batches and may get another; a batch is recallable while its
 * VM is not asked already and something in it is probably not started; a stage that speculates has
 * a list of its runners, batches that are being worked on. sched_vm_refresh() derives all that
 * from the VM, and is called after every change of it. */
#ifndef SCHED_VM_H
#define SCHED_VM_H

#include "base/list.h"
#include "sched/bits.h"
#include "sched/map.h"
#include "sched/stage.h"

struct vm;

struct batch {
    struct list in_vm;         /* the VM's queue, in the order sent */
    struct list in_stage;      /* the stage's batches */
    struct list in_recallable; /* those of all VMs */
    struct list in_runners;    /* the stage's runners */
    struct vm *vm;             /* whose place this is */
    struct stage *stage;       /* NULL: a free place */
    uint64_t first;
    uint32_t count;
    uint32_t left;    /* elements still assigned to it */
    uint32_t attempt; /* of all its elements */
    bool is_long;     /* nothing is queued behind it */
    bool may_double;  /* its element may get a second run, as far as it is known */
    bool is_second;   /* the second run of an element that is assigned to its twin */
    struct batch *twin; /* the other run of one of its elements, or NULL */
};

struct vm {
    uint32_t number;         /* the caller's */
    uint32_t slot;           /* ours: its index in the table */
    uint32_t load;           /* batches it has */
    size_t level;            /* the room[] it is in, or SCHED_NONE */
    struct list queue;       /* struct batch, the one it works on in front */
    uint64_t report_ns;      /* when it last reported, or began from idle */
    struct stage *recall;    /* stage of the recall it has not answered, or NULL */
    uint64_t recall_first;   /* what was asked back */
    uint64_t recall_count;
    bool is_draining;        /* gets nothing new */
    bool is_suspect;         /* silent, gets nothing new until it speaks */
    bool is_blocked;         /* serves only stages that nobody else serves */
    uint32_t futile;         /* recalls in a row that gave nothing back since it reported */
    uint64_t ask_ns;         /* for that it is not asked again before */
    struct batch batches[];  /* in_flight places */
};

struct vm_table {
    struct vm **slots;       /* by slot; NULL: free */
    size_t capacity;         /* slots there are */
    size_t count;            /* VMs there are */
    uint32_t in_flight;      /* batches per VM, at most ELEMENT_BATCH_MAX */
    struct map by_number;    /* the caller's number -> slot */
    struct bits free;        /* slots without a VM */
    struct bits room[ELEMENT_BATCH_MAX];
    size_t idle;             /* VMs in room[0] */
    struct list recallable;  /* struct batch */
    size_t recalls;          /* VMs that have not answered a recall */
};

void sched_vms_init(struct vm_table *t, uint32_t in_flight);
void sched_vms_fini(struct vm_table *t);
/* Adds a VM whose number is not in use; *out is borrowed. TRK_ENOMEM: as before, except that
 * tables may have room for more. */
TRK_MUST_USE int sched_vms_add(struct vm_table *t, uint32_t number, struct vm **out);
/* Removes a VM that has no batch. */
void sched_vms_remove(struct vm_table *t, struct vm *vm);
struct vm *sched_vms_find(const struct vm_table *t, uint32_t number); /* or NULL */

/* A free place of a VM that has one, now holding the range. */
struct batch *sched_batch_begin(struct vm *vm, struct stage *st,
                                const struct element_range *range);
uint32_t sched_batch_index(const struct batch *b); /* its place in the VM */
void sched_batch_end(struct batch *b);
/* First in its VM's queue: the one the VM works on. */
bool sched_batch_is_head(const struct batch *b);
/* Elements of it that have probably not started. */
uint32_t sched_batch_unstarted(const struct batch *b);
struct element *sched_batch_element(const struct batch *b, uint64_t index); /* NULL: not its own */
/* Gives an element of b, assigned to it, a second run in a batch of one elsewhere. */
void sched_batch_pair(struct batch *b, struct batch *second);
/* The second run of an element assigned to b, or NULL. */
static inline struct batch *sched_batch_second(const struct batch *b, uint64_t index)
{
    struct batch *second = b->is_second ? NULL : b->twin;
    return second != NULL && second->first == index ? second : NULL;
}
/* The second run is over; its batch is empty, to be ended. */
void sched_batch_unpair(struct batch *second);
/* The first run is over: the element is now assigned to what was the second. */
void sched_batch_promote(struct batch *second);

/* It has reported, or works on something else from now on. */
void sched_vm_report(struct vm *vm, uint64_t now_ns);
void sched_vm_recall_end(struct vm_table *t, struct vm *vm); /* answered, or void */
/* Its answer was that it has nothing to give back. */
void sched_vm_recall_futile(struct vm *vm, uint64_t now_ns);
void sched_vm_refresh(struct vm_table *t, struct vm *vm);
size_t sched_vms_memory(const struct vm_table *t);
void sched_vms_check(const struct vm_table *t);

#endif
