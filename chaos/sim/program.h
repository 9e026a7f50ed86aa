/* SPDX-License-Identifier: MIT */
/* program.h - the program: opens stages, pulls elements within its bounds, takes results, closes.
 *
 * What python/trickle and src/farm/work.c do on the calling thread: no more than `ahead` elements
 * are added and not taken; ordered results wait in a heap for the one that is due. */
#ifndef SIM_PROGRAM_H
#define SIM_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim;
struct parcel;

struct program_stage {
    bool is_open, is_closed, is_finished;
    bool is_done;               /* the scheduler said so */
    bool has_feed, has_take;    /* the event is due */
    bool is_full;               /* the scheduler could take no more */
    uint64_t added, taken;
    struct parcel *first, *last; /* unordered: in the order they came */
    struct parcel **heap;        /* ordered: the lowest first */
    size_t heap_count, heap_cap;
};

struct program {
    struct program_stage stage[4];
    uint32_t finished;           /* stages */
};

void program_start(struct sim *s);
void program_fini(struct sim *s); /* as if it had never begun */
void program_put(struct sim *s, struct parcel *p); /* recorded: takes it */
void program_done(struct sim *s, uint32_t stage);
void program_on_open(struct sim *s, uint32_t stage);
void program_on_feed(struct sim *s, uint32_t stage);
void program_on_close(struct sim *s, uint32_t stage);
void program_on_take(struct sim *s, uint32_t stage);
/* Ends a stage of which all is done but the element that never ends. False: there is none. */
bool program_look(struct sim *s);
void program_cancel(struct sim *s, uint32_t stage); /* it wants no more */

#endif
