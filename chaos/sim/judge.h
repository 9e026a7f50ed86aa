/* SPDX-License-Identifier: MIT */
/* judge.h - what truly happened to every element, and whether the promises were kept.
 *
 * The judge knows nothing of the scheduler's tables. It is told what left the farm (assigned),
 * what VMs did (started, ended, died, let go), what was put, recorded and delivered, and breaks
 * off at the first thing that must not be. Every run of an element has its own number and its
 * own result, so that "a result that some run computed" can be told from any other. */
#ifndef SIM_JUDGE_H
#define SIM_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sched/sched.h"

struct sim;
struct blob;
struct parcel;

enum fate_bits { FATE_PUT = 1, FATE_RECORDED = 2, FATE_DELIVERED = 4, FATE_GIVEN_UP = 8 };

/* One element. */
struct fate {
    uint64_t ended;      /* bit per run (the last for all from 63 on): it gave a result */
    uint64_t failed;     /* likewise: it gave a failure, and that has reached the farm */
    uint32_t holder[2];  /* VM + 1 that it is assigned to: one, or two when speculating; 0: none */
    uint32_t attempt[2]; /* of that assignment */
    uint32_t recorded;   /* run whose result was put; 0: given up */
    uint16_t assigned;   /* how often */
    uint16_t started;    /* how often; also the number of the last run */
    uint16_t own_deaths; /* of VMs, with a report that names it */
    uint16_t losses;     /* of VMs that had it */
    uint8_t bits;        /* enum fate_bits */
};

/* What was assigned to a VM under its lease. */
struct charge {
    uint32_t stage;
    uint64_t first, count;
};

struct charges {
    struct charge *items;
    size_t count, cap, tidy_at;
    uint64_t held;       /* elements that the VM is a holder of */
};

struct stage_record {
    struct fate *fates;
    uint64_t count;
    uint64_t recorded, delivered;
    bool is_cancelled;
};

struct judge {
    struct stage_record stage[4];
    struct charges *charges; /* by VM */
};

void judge_start(struct sim *s);
void judge_fini(struct sim *s);

/* stage: counted from 0. */
void judge_assigned(struct sim *s, const struct sched_action *a);
void judge_recalled(struct sim *s, uint32_t stage, uint64_t first, uint64_t count, uint32_t vm);
/* A run was called off: this VM is no holder of it any more. */
void judge_called_off(struct sim *s, uint32_t stage, uint64_t first, uint64_t count, uint32_t vm);
/* The farm gives a VM up: before the scheduler is told, and after. */
void judge_lost(struct sim *s, uint32_t vm, const struct sched_event *ev);
void judge_after_loss(struct sim *s, const struct sched_event *ev);
bool judge_has_second(const struct sim *s, uint32_t stage, uint64_t index); /* runs twice */
/* Something that was assigned to the VM; stage: its number. False: nothing was. */
bool judge_charge(struct sim *s, uint32_t vm, uint32_t *stage, uint64_t *first, uint64_t *count);
uint64_t judge_held(const struct sim *s, uint32_t vm);

uint32_t judge_started(struct sim *s, uint32_t stage, uint64_t index, uint32_t vm);
void judge_ended(struct sim *s, uint32_t stage, uint64_t index, uint32_t run);
void judge_died(struct sim *s, uint32_t stage, uint64_t index, uint32_t run);
void judge_released(struct sim *s, uint32_t vm, const struct blob *result);

/* A RESULT message from a VM number has come: before and after it was stepped. What it has that
 * was needed must have been put. */
void judge_before_result(struct sim *s, uint32_t vm, const struct blob *result);
void judge_after_result(struct sim *s, const struct blob *result);
void judge_given_up(struct sim *s, uint32_t stage, uint64_t index, enum sched_cause cause);
void judge_put(struct sim *s, const struct parcel *p);
void judge_recorded(struct sim *s, const struct parcel *p);
/* The program takes the next result of a parcel. */
void judge_delivered(struct sim *s, const struct parcel *p);
void judge_cancelled(struct sim *s, uint32_t stage);
void judge_end(struct sim *s);

#endif
