/* SPDX-License-Identifier: MIT */
/* element.h - the elements of one stage: eight bytes each, in segments.
 *
 *   PENDING -> ASSIGNED(vm, batch) -> RETURNED -> RECORDED -> DELIVERED
 *    | ^ ^         |   |   |             ^ ^         ^
 *    | | +---------+   |   +--> FAILED --|-|---------+
 *    | DELAYED <-------+                 | |
 *    |    |              late results of | |
 *    +----|---- earlier attempts --------+ |
 *         +--------------------------------+
 *
 * An element that an earlier epoch recorded is DELIVERED when it is added.
 *
 * Segments lie in a ring by number; one whose elements were all delivered is freed, wherever it
 * lies, and one that would be filled by such elements is never made. What was never assigned is
 * the range [fresh, added). What was assigned and came back (lost, recalled) is found through two
 * bit sets: a segment's bits, and the set of segments that have any. So neither a loss nor a recall
 * allocates, and the lowest index comes first. When something behind a fresh element leaves the
 * range without being assigned, the fresh ones before it go on in the bit sets, too.
 *
 *   base                     fresh                added
 *    |  #### ..##r### #r#.##   |                    |      # assigned or further
 *    +-------------------------+--------------------+      r came back, . delivered
 *
 * attempt counts the attempts that were made, the one under way included; a fresh element has
 * none, nor has one whose result came from an earlier epoch first. A recall takes its attempt back,
 * since nothing was started.
 *
 * What waits for its next try after a failure has no VM, so the time it waits for takes the place
 * of that: milliseconds, modulo 2^28, of which no wait is longer than DELAY_MAX_MS. A segment
 * knows a lower bound of these times and so does the whole; only what has reached it is walked.
 * Stages with retries have two bytes more per element for the number of failures. */
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
    ELEMENT_DELAYED, /* failed, and will be tried again */
    ELEMENT_STATE_COUNT
};

struct element {
    uint32_t attempt; /* attempts made so far */
    uint32_t where;   /* bits 0-2 state, 3 is blamed, 4-7 batch, 8-31 slot of the VM, or
                         4-31 when it is DELAYED until */
};

#define ELEMENT_VM_MAX ((size_t)1 << 24)
#define ELEMENT_BATCH_MAX 16u
#define SEGMENT_LENGTH 4096u /* 64 * 64: two levels of words find a bit */
#define FAILURES_MAX 65535u
#define DELAY_MAX_MS 100000u

struct segment {
    uint64_t returned_words;       /* which words of came_back are not 0 */
    uint64_t came_back[64];        /* PENDING below fresh: first in the queue */
    uint64_t bytes;                /* of the elements, rounded up per block */
    uint32_t filled;               /* elements added */
    uint32_t live;                 /* of these, not delivered */
    uint32_t delayed;              /* of these, DELAYED */
    uint64_t due_ms;               /* none of them is due earlier */
    struct element elements[SEGMENT_LENGTH];
    uint16_t failures[];           /* of each element; where the stage has retries */
};

struct segments {
    struct segment **ring; /* by segment number & (capacity - 1); NULL: freed */
    size_t capacity;       /* 0 or a power of two */
    uint64_t base;         /* number of the first segment kept */
    uint64_t end;          /* number after the last */
    struct bits came_back; /* ring positions of segments with came_back bits */
    struct bits delayed;   /* ring positions of segments with DELAYED elements */
    uint64_t due_ms;       /* none of these is due earlier */
    bool has_failures;     /* room to count them; set before the first element is added */
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
/* Likewise, but these are DELIVERED: what of a segment is all that needs no memory. */
TRK_MUST_USE int sched_segments_add_delivered(struct segments *g, uint64_t count, uint64_t bytes);
/* NULL: delivered and forgotten, or never added. */
struct element *sched_segments_get(const struct segments *g, uint64_t index);
struct segment *sched_segments_of(const struct segments *g, uint64_t index);

/* What goes out next: at most max elements, none below from; false when nothing is pending. */
bool sched_segments_peek(const struct segments *g, uint64_t from, uint64_t max,
                         struct element_range *out);
/* PENDING -> ASSIGNED for a range that peek gave. */
void sched_segments_assign(struct segments *g, const struct element_range *range, uint32_t vm,
                           uint32_t batch);
/* ASSIGNED -> PENDING, in front; is_recalled: its attempt was never started. */
void sched_segments_put_back(struct segments *g, uint64_t index, bool is_recalled);
/* How often its user code has failed; 0 where that is not counted. */
uint32_t sched_segments_failures(const struct segments *g, uint64_t index);
void sched_segments_count_failure(struct segments *g, uint64_t index);
/* PENDING or ASSIGNED -> DELAYED, until due_ms, at most DELAY_MAX_MS from now. */
void sched_segments_delay(struct segments *g, uint64_t index, uint64_t due_ms);
/* DELAYED -> PENDING, in front, for what is due; then due_ms is later than now. */
void sched_segments_release(struct segments *g, uint64_t now_ms);
/* An assigned element runs once more elsewhere: the number of that attempt. */
uint32_t sched_segments_again(struct segments *g, uint64_t index);
/* An assigned element is assigned to another VM, where it runs already. */
void sched_segments_move(struct segments *g, uint64_t index, uint32_t vm, uint32_t batch);
/* PENDING, ASSIGNED or DELAYED -> RETURNED, or ASSIGNED -> FAILED. */
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
