/* SPDX-License-Identifier: MIT */
/* element.h - the elements of one stage: eight bytes each, in segments.
 *
 *   PENDING -> ASSIGNED(vm, batch) -> RETURNED -> RECORDED -> DELIVERED
 *    |   ^        |    |                 ^           ^
 *    |   +--------+    +--> FAILED ------|-----------+
 *    +-- a late result of an earlier ----+
 *        attempt
 *
 * Segments lie in a ring by number; one whose elements were all delivered is freed, wherever it
 * lies. What was never assigned is the range [fresh, added). What was assigned and came back
 * (lost, recalled) is found through two bit sets: a segment's bits, and the set of segments that
 * have any. So neither a loss nor a recall allocates, and the lowest index comes first.
 *
 *   base                     fresh                added
 *    |  #### ..##r### #r#.##   |                    |      # assigned or further
 *    +-------------------------+--------------------+      r came back, . delivered
 *
 * attempt counts the attempts that were made, the one under way included; a fresh element has
 * none. A recall takes its attempt back, since nothing was started. */
#ifndef SCHED_ELEMENT_H
#define SCHED_ELEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sched/bits.h"

enum element_state {
    ELEMENT_PENDING, /* 0: a new segment is zeroed */
    ELEMENT_ASSIGNED,
    ELEMENT_RETURNED, /* its result is being recorded */
    ELEMENT_FAILED,   /* quarantined: that failure is being recorded */
    ELEMENT_RECORDED,
    ELEMENT_DELIVERED,
    ELEMENT_STATE_COUNT
};

struct element {
    uint32_t attempt; /* attempts made so far */
    uint32_t where;   /* bits 0-2 state, 3 is blamed, 4-7 batch, 8-31 slot of the VM */
};

#define ELEMENT_VM_MAX ((size_t)1 << 24)
#define ELEMENT_BATCH_MAX 16u
#define SEGMENT_LENGTH 4096u /* 64 * 64: two levels of words find a bit */

struct segment {
    uint64_t returned_words;       /* which words of came_back are not 0 */
    uint64_t came_back[64];        /* PENDING below fresh: first in the queue */
    uint64_t bytes;                /* of the elements, rounded up per block */
    uint32_t filled;               /* elements added */
    uint32_t live;                 /* of these, not delivered */
    struct element elements[SEGMENT_LENGTH];
};

struct segments {
    struct segment **ring; /* by segment number & (capacity - 1); NULL: freed */
    size_t capacity;       /* 0 or a power of two */
    uint64_t base;         /* number of the first segment kept */
    uint64_t end;          /* number after the last */
    struct bits came_back; /* ring positions of segments with came_back bits */
    uint64_t fresh;        /* the first index that was never assigned */
    uint64_t added;
    uint64_t in_state[ELEMENT_STATE_COUNT]; /* how many are in each state */
    size_t held;           /* segments in memory */
};

/* A run of elements that can go out together. */
struct element_range {
    uint64_t first, count;
    uint32_t attempt; /* made so far, the same for all */
    bool is_blamed;   /* one element that may have killed a VM: it goes alone */
};

static inline enum element_state sched_element_state(const struct element *e)
{
    return (enum element_state)(e->where & 7);
}
static inline bool sched_element_is_blamed(const struct element *e)
{
    return (e->where & 8) != 0;
}
static inline uint32_t sched_element_batch(const struct element *e)
{
    return e->where >> 4 & 15;
}
static inline uint32_t sched_element_vm(const struct element *e)
{
    return e->where >> 8;
}
static inline bool sched_element_is_at(const struct element *e, uint32_t vm, uint32_t batch)
{
    return sched_element_state(e) == ELEMENT_ASSIGNED && e->where >> 8 == vm &&
           (e->where >> 4 & 15) == batch;
}

const char *sched_element_state_name(enum element_state state);
void sched_element_blame(struct element *e, bool is_blamed);

void sched_segments_fini(struct segments *g);
/* Appends count elements that have bytes in all. TRK_ENOMEM with nothing changed. */
TRK_MUST_USE int sched_segments_add(struct segments *g, uint64_t count, uint64_t bytes);
/* NULL: delivered and forgotten, or never added. */
struct element *sched_segments_get(const struct segments *g, uint64_t index);
struct segment *sched_segments_of(const struct segments *g, uint64_t index);

/* What goes out next: at most max elements; false when nothing is pending. */
bool sched_segments_peek(const struct segments *g, uint64_t max, struct element_range *out);
/* PENDING -> ASSIGNED for a range that peek gave. */
void sched_segments_assign(struct segments *g, const struct element_range *range, uint32_t vm,
                           uint32_t batch);
/* ASSIGNED -> PENDING, in front; is_recalled: its attempt was never started. */
void sched_segments_put_back(struct segments *g, uint64_t index, bool is_recalled);
/* PENDING or ASSIGNED -> RETURNED, or ASSIGNED -> FAILED. */
void sched_segments_finish(struct segments *g, uint64_t index, enum element_state to);
/* Are all of these in one of the states (bits 1 << state)? */
bool sched_segments_are(const struct segments *g, uint64_t first, uint64_t count, unsigned states);
/* RETURNED, FAILED -> RECORDED, or RECORDED -> DELIVERED, which frees full segments. */
void sched_segments_advance(struct segments *g, uint64_t first, uint64_t count,
                            enum element_state to);
/* The mean size of the elements around index; 0: unknown. */
uint64_t sched_segments_mean_bytes(const struct segments *g, uint64_t index);
size_t sched_segments_memory(const struct segments *g);
void sched_segments_check(const struct segments *g, uint32_t stage);

#endif
