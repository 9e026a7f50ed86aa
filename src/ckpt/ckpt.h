/* SPDX-License-Identifier: MIT */
/* ckpt.h - where results are recorded before they are acknowledged and delivered.
 *
 * ckpt_put hands a run of results over; ckpt_commit makes everything put since the last commit
 * safe and says what that was, in order. Today the only recorder is the volatile one: recorded
 * means held by the initiator's memory. The farm drives it once per turn of its loop, so all
 * results that arrived in one turn form one group. One owner, one thread. */
#ifndef CKPT_CKPT_H
#define CKPT_CKPT_H

#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

struct ckpt;

struct ckpt_run {
    uint32_t stage;
    uint32_t vm;
    uint64_t first, count;
    uint64_t seq; /* of the VM's RESULT message they came in; 0: made here (a failure) */
};

TRK_MUST_USE int ckpt_new(struct ckpt **out);
void ckpt_free(struct ckpt *c);
/* 0, or TRK_ENOMEM with nothing changed. */
TRK_MUST_USE int ckpt_put(struct ckpt *c, const struct ckpt_run *run);
/* *runs: borrowed until the next ckpt_put or ckpt_commit. */
TRK_MUST_USE int ckpt_commit(struct ckpt *c, const struct ckpt_run **runs, size_t *count);

#endif
