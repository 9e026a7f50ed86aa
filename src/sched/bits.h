/* SPDX-License-Identifier: MIT */
/* bits.h - a set of small numbers that finds its lowest member in a few steps.
 *
 * Four levels of words: a bit of a level says whether the word below it holds any bit, so that
 * set, clear and find-next cost at most four words each, up to 2^24 members. Two sets can be
 * searched for their first common member without building the intersection. Growing is the only
 * thing that allocates. */
#ifndef SCHED_BITS_H
#define SCHED_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#define SCHED_BITS_LEVELS 4
#define SCHED_BITS_MAX ((size_t)1 << 24)
#define SCHED_NONE SIZE_MAX /* no member */

struct bits {
    uint64_t *words;                        /* all levels, the lowest first */
    size_t offset[SCHED_BITS_LEVELS + 1];   /* where each level starts in words */
    size_t capacity;                        /* members 0..capacity-1 fit */
};

/* Makes room for members below n; members stay. TRK_ENOMEM with nothing changed. */
TRK_MUST_USE int sched_bits_reserve(struct bits *b, size_t n);
void sched_bits_fini(struct bits *b);
void sched_bits_set(struct bits *b, size_t i);
void sched_bits_clear(struct bits *b, size_t i);
bool sched_bits_test(const struct bits *b, size_t i); /* false beyond the capacity */
/* The lowest member that is >= from, or SCHED_NONE. */
size_t sched_bits_next(const struct bits *b, size_t from);
/* The lowest common member that is >= from, or SCHED_NONE. */
size_t sched_bits_next_both(const struct bits *a, const struct bits *b, size_t from);
size_t sched_bits_memory(const struct bits *b);
void sched_bits_check(const struct bits *b);

#endif
