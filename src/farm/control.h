/* SPDX-License-Identifier: MIT */
/* control.h - a running job answers questions; what each VM is busy with. Farm thread. */
#ifndef FARM_CONTROL_H
#define FARM_CONTROL_H

#include <stdint.h>

struct control; /* a farm's socket for questions, see control.c */
struct slot;
struct trk_farm;

#define BUSY_RUNS 8 /* more than a VM has in flight */

/* Elements of one assignment that are not answered yet. */
struct busy_run {
    uint32_t stage;
    uint64_t first, end;
};

/* What a VM has: it runs the first element of the first run. For people: where it overflows, it
 * forgets. */
struct busy {
    uint64_t lease;    /* slot->lease_number it is of; of another it says nothing */
    uint64_t since_ns; /* when that element began, about */
    uint32_t count;
    struct busy_run runs[BUSY_RUNS];
};

void busy_assigned(struct slot *slot, uint32_t stage, uint64_t first, uint64_t count);
/* Answered, or given back. */
void busy_done(struct slot *slot, uint32_t stage, uint64_t first, uint64_t count);

/* Nothing where the farm has no job. Without a socket the job runs all the same, with a warning. */
void control_open(struct trk_farm *farm);
void control_close(struct trk_farm *farm); /* NULL is fine: nothing is open */

#endif
