/* SPDX-License-Identifier: MIT */
/* blame.h - the side tables of guilt: elements that VMs died of, and VMs that elements died on.
 *
 * A struct blame is what an element has done; it is forgotten when the element has a result or
 * is quarantined. A struct suspicion is what speaks against a VM number: how many elements died
 * on it and were completed by another. It outlives the VM, since that comes back under its
 * number, but not for ever: the table is twice as large as there are VMs, and the oldest entry
 * about a VM that is away makes room.
 *
 * Both are reserved when a VM joins; at that time alone they may allocate. */
#ifndef SCHED_BLAME_H
#define SCHED_BLAME_H

#include "sched/map.h"

#define BLAME_VMS 4u /* VMs that an element is remembered to have died on, the last ones */

struct blame {
    uint32_t own_deaths;     /* VMs that died of it */
    uint32_t losses;         /* VMs that were lost while it ran, without evidence */
    uint32_t vm;             /* the last such VM: tried elsewhere if possible */
    uint32_t vms[BLAME_VMS]; /* different VMs of its own deaths */
    uint32_t vm_count;       /* how many of these */
    uint64_t since_ns;       /* its last own death */
    size_t next_free;        /* in the list of free places */
};

struct blame_table {
    struct map index;    /* (stage, element) -> place */
    struct blame *items; /* by place */
    size_t capacity;     /* places there are */
    size_t free;         /* the first free one, or capacity: none */
};

/* Makes room for n elements in all. TRK_ENOMEM with nothing changed. */
TRK_MUST_USE int sched_blames_reserve(struct blame_table *t, size_t n);
void sched_blames_fini(struct blame_table *t);
struct blame *sched_blames_find(const struct blame_table *t, uint32_t stage, uint64_t index);
/* Adds an entry that is not there, zeroed; room was reserved. */
struct blame *sched_blames_put(struct blame_table *t, uint32_t stage, uint64_t index);
void sched_blames_remove(struct blame_table *t, uint32_t stage, uint64_t index); /* or absent */
void sched_blames_remove_stage(struct blame_table *t, uint32_t stage);
void sched_blame_died_on(struct blame *b, uint32_t vm, uint64_t now_ns);
size_t sched_blames_memory(const struct blame_table *t);

struct suspicion {
    uint32_t vm;       /* the caller's number */
    uint32_t elements; /* that died on it and were completed elsewhere */
    bool is_blocked;
};

struct suspicion_table {
    struct suspicion *items; /* in the order of their first element */
    size_t count, capacity;
};

TRK_MUST_USE int sched_suspicions_reserve(struct suspicion_table *t, size_t n);
void sched_suspicions_fini(struct suspicion_table *t);
struct suspicion *sched_suspicions_find(const struct suspicion_table *t, uint32_t vm);
void sched_suspicions_remove(struct suspicion_table *t, struct suspicion *entry);

#endif
