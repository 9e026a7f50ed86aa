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
struct group;

enum fate_bits {
    FATE_PUT = 1,       /* it has a result: that is put, or was restored */
    FATE_RECORDED = 2,  /* which is durable */
    FATE_DELIVERED = 4, /* to this run of the program */
    FATE_GIVEN_UP = 8,
    FATE_IN_DOUBT = 16, /* in the transaction during which the farm died */
    FATE_OLD = 32       /* durable when this run of the job began */
};

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
    uint32_t excuses;    /* runs that are explained by what happened before, or that it moved */
    uint32_t attempt_run; /* the highest that was started in this run of the job */
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
    uint64_t cancelled_epoch; /* the last run of the job in which it was */
};

/* The last lease that a VM granted, as far as its supervisor can know. */
struct granted {
    uint64_t epoch;
    uint8_t incarnation[16];
};

struct judge {
    struct stage_record stage[4];
    struct charges *charges; /* by VM */
    struct granted *granted; /* by VM */
    uint64_t epoch;          /* of the last run of the job */
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

/* attempt, epoch: of its lease. Returns the number of the run. */
uint32_t judge_started(struct sim *s, uint32_t stage, uint64_t index, uint32_t vm,
                       uint32_t attempt, uint64_t epoch);
void judge_moved(struct sim *s, uint32_t stage, uint64_t index); /* stopped in the middle */
void judge_ended(struct sim *s, uint32_t stage, uint64_t index, uint32_t run);
void judge_died(struct sim *s, uint32_t stage, uint64_t index, uint32_t run);
void judge_released(struct sim *s, uint32_t vm, uint64_t epoch, const struct blob *result);
/* A VM or its supervisor lets go of one result. */
void judge_let_go(struct sim *s, uint32_t stage, uint64_t index, uint8_t status, uint64_t epoch,
                  uint32_t vm);
/* A VM grants a lease; its supervisor has forgotten all. */
void judge_leased(struct sim *s, uint32_t vm, uint64_t epoch, const uint8_t incarnation[16]);
void judge_unfenced(struct sim *s, uint32_t vm);

/* A RESULT message from a VM number has come: before and after it was stepped. What it has that
 * was needed must have been put. */
void judge_before_result(struct sim *s, uint32_t vm, const struct blob *result);
void judge_after_result(struct sim *s, const struct blob *result);
void judge_given_up(struct sim *s, uint32_t stage, uint64_t index, enum sched_cause cause);
void judge_put(struct sim *s, const struct parcel *p);
void judge_durable(struct sim *s, uint32_t stage, uint64_t index);

/* The farm's process dies; a transaction of its was under way; the next one reads the disk: each
 * result that it sees, then all were seen; its run of the job begins. */
void judge_crashed(struct sim *s);
void judge_in_doubt(struct sim *s, const struct group *g);
void judge_restored(struct sim *s, uint32_t stage, uint64_t index, bool is_given_up,
                    const uint8_t *bytes, uint32_t size);
void judge_opened(struct sim *s);
void judge_begins(struct sim *s);
/* The program takes the next result of a parcel. */
void judge_delivered(struct sim *s, const struct parcel *p);
void judge_cancelled(struct sim *s, uint32_t stage);
void judge_end(struct sim *s);

#endif
