/* SPDX-License-Identifier: MIT */
/* drive_impl.h - what drive.c (events and actions) and results.c (results from message to
 * delivery) share. Farm thread. */
#ifndef FARM_DRIVE_IMPL_H
#define FARM_DRIVE_IMPL_H

#include "farm/farm_impl.h"

/* What the actions of one step may refer to. */
struct step {
    struct trk_farm *farm;
    const struct sched_event *ev;
    struct blob *body;               /* RESULT being stepped */
    const struct wire_result *result;
    struct parcel *parcel;           /* RECORDED: the run that was recorded */
    const struct trk_vm *lost;       /* VM_LOST */
    uint64_t ticket;                 /* RESULT: out: of what was put last in the job's store */
    bool has_lost;                   /* RESULT: out: some of it could not be put: keep it */
};

/* Gives the event to the scheduler and carries out its actions. */
int drive_step(struct step *step);
int drive_step_simple(struct trk_farm *farm, const struct sched_event *ev);
/* NULL: no stage of that number is open. */
struct trk_work *drive_work_of(struct trk_farm *farm, uint32_t stage);
void drive_send_note(struct slot *slot, uint8_t type, const struct wire_note *note);

/* results.c */
void results_put(struct step *step, const struct sched_action *a);         /* STORE */
void results_put_failure(struct step *step, const struct sched_action *a); /* FAIL */
void results_commit(struct trk_farm *farm);  /* of works without a job */
void results_acknowledge(struct trk_farm *farm);

#endif
