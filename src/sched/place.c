/* SPDX-License-Identifier: MIT */
/* place.c - sizes and places, see place.h. */
#include "sched/place.h"

#include <assert.h>

/* At the end batches shrink, but not below this part of one: sending costs more than it gains. */
#define SMALLEST_PART 64u

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint64_t sched_place_size(const struct place *p)
{
    uint64_t n;
    assert(p->batch_now > 0 && p->batch_max > 0);
    if (p->element_ns == 0) {
        return 1; /* a probe */
    }
    n = most(1, p->batch_ns / p->element_ns);
    n = least(n, least(p->batch_now, p->batch_max));
    if (p->mean_bytes > 0) {
        n = least(n, most(1, p->batch_bytes / p->mean_bytes));
    }
    if (p->is_closed && p->vms > 0) {
        uint64_t parts = 2 * (uint64_t)p->vms;
        uint64_t share = p->pending / parts + (p->pending % parts != 0);
        uint64_t smallest = p->batch_ns / SMALLEST_PART / p->element_ns;
        n = least(n, most(most(share, smallest), 1));
    }
    return n;
}

uint32_t sched_place_load_max(const struct place *p)
{
    assert(p->in_flight > 0);
    /* The last elements wait for whoever is free first, rather than behind somebody slow. */
    if (p->is_closed && p->pending <= p->vms && p->element_ns >= p->batch_ns / 2) {
        return 0;
    }
    return p->in_flight - 1;
}

bool sched_place_is_long(const struct place *p)
{
    return p->element_ns == 0 || p->element_ns / SCHED_LONG_BATCHES > p->batch_ns;
}

size_t sched_place_vm(const struct bits *room, uint32_t load_max, const struct bits *serves,
                      size_t avoid, bool must_avoid)
{
    for (uint32_t load = 0; load <= load_max; load++) {
        size_t slot = sched_bits_next_both(&room[load], serves, 0);
        if (slot != SCHED_NONE && slot == avoid) {
            size_t other = sched_bits_next_both(&room[load], serves, slot + 1);
            slot = other != SCHED_NONE || must_avoid ? other : slot;
        }
        if (slot != SCHED_NONE) {
            return slot;
        }
    }
    return SCHED_NONE;
}
