/* SPDX-License-Identifier: MIT */
/* cover.h - the coverage marks of all processes, added up and printed.
 *
 * Marks are there in the second build of the simulator only (sim-marks, see base/mark.h); in the
 * other one all of this is empty. */
#ifndef SIM_COVER_H
#define SIM_COVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define COVER_MAX 4096

/* Hits of every mark, in the order of the section: the same in each process. */
struct cover {
    atomic_uint_fast64_t hits[COVER_MAX];
};

bool cover_exists(void);
void cover_add(struct cover *to);         /* this process's marks */
void cover_take(const struct cover *from); /* as this process's own, to print them */
/* Prints transitions and places, those never reached as holes. Returns how many those are. */
unsigned cover_print(void);

#endif
