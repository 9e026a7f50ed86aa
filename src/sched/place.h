/* SPDX-License-Identifier: MIT */
/* place.h - how large a batch is and which VM gets it: functions of their arguments alone. */
#ifndef SCHED_PLACE_H
#define SCHED_PLACE_H

#include "sched/bits.h"

/* An element this many batches long is not worth hiding a round trip behind another. */
#define SCHED_LONG_BATCHES 16u

struct place {
    uint64_t batch_ns;    /* work to aim at */
    uint32_t batch_max;   /* elements at most */
    uint32_t batch_bytes; /* bytes at most, but one element always goes */
    uint32_t in_flight;   /* batches a VM may have */
    uint64_t element_ns;  /* one element's duration; 0: unknown */
    uint32_t batch_now;   /* elements that are proved reasonable */
    uint64_t mean_bytes;  /* one element's size; 0: unknown */
    uint64_t pending;     /* elements waiting */
    uint32_t vms;         /* serving the stage */
    bool is_closed;       /* no more will come */
};

/* Elements for the next batch: at least 1. */
uint64_t sched_place_size(const struct place *p);
/* Batches a VM may have before this one is given to it: 0 when only an idle one will do. */
uint32_t sched_place_load_max(const struct place *p);
/* Is one such element so long that nothing should queue behind it? */
bool sched_place_is_long(const struct place *p);
/* The least loaded VM that serves, lowest slot first, or SCHED_NONE. avoid (SCHED_NONE: no VM)
 * comes after others as loaded as it is, or not at all when it must not have it. room[load] are
 * the VMs with room at that load. */
size_t sched_place_vm(const struct bits *room, uint32_t load_max, const struct bits *serves,
                      size_t avoid, bool must_avoid);

#endif
