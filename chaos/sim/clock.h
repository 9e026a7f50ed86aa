/* SPDX-License-Identifier: MIT */
/* clock.h - virtual time: what is due when, and the dice. Nothing here knows of farms.
 *
 * Of things due at the same time the one asked for first comes first, so that a seed always
 * tells the same story. */
#ifndef SIM_CLOCK_H
#define SIM_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

/* Something that happens at a time. */
struct due {
    uint64_t at_ns;
    uint64_t order; /* of asking: ties */
    uint32_t what;  /* enum sim_event */
    uint32_t who;   /* VM, connection or stage, as what says */
    uint64_t arg;   /* as what says */
};

struct clock {
    struct due *heap; /* the next one first */
    size_t count, cap;
    uint64_t now_ns, order;
};

void clock_at(struct clock *c, uint64_t at_ns, uint32_t what, uint32_t who, uint64_t arg);
void clock_in(struct clock *c, uint64_t in_ns, uint32_t what, uint32_t who, uint64_t arg);
/* Takes the next thing due and goes to its time; false: nothing will ever happen again. */
bool clock_next(struct clock *c, struct due *out);
void clock_fini(struct clock *c);

/* Random numbers from a seed. */
struct dice {
    uint64_t state;
};
uint64_t dice_mix(uint64_t x); /* a hash of one number */
uint64_t dice_next(struct dice *d);
uint64_t dice_below(struct dice *d, uint64_t n);                /* 0..n-1; n > 0 */
uint64_t dice_between(struct dice *d, uint64_t lo, uint64_t hi); /* both included */
uint64_t dice_scale(struct dice *d, uint64_t lo, uint64_t hi);  /* each magnitude as likely */
bool dice_chance(struct dice *d, unsigned per_mille);

/* Memory for the simulator: ends the process with a sentence when there is none. */
void *sim_alloc(size_t count, size_t size); /* zeroed */
void *sim_grow(void *ptr, size_t count, size_t size);

#endif
