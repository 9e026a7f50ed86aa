/* SPDX-License-Identifier: MIT */
/* edit.h - a stage whose list is not what it was: results of equal elements are found by the digest
 * of the element, the k-th of a kind by the k-th of that kind. */
#ifndef FARM_EDIT_H
#define FARM_EDIT_H

#include "farm/replay.h"

struct edit;

/* What stage may take over, from the stages it replaces; its own known elements before index have
 * had their share. */
TRK_MUST_USE int edit_new(struct edit **out, struct trk_job *job, uint32_t stage, uint64_t index);
void edit_free(struct edit *e); /* NULL is fine */
/* An element of that digest: where its result is, which is taken out. false: there is none. */
bool edit_take(struct edit *e, const struct digest *digest, uint32_t *stage, uint64_t *index);
/* Copies what is known and recorded of elements before index from one stage to another: results in
 * the order of recording, those behind *position, which moves on (zeros: from the first on, and
 * what is known too). */
TRK_MUST_USE int edit_copy(struct trk_job *job, uint32_t from, uint32_t to, uint64_t index,
                           struct ckpt_position *position);

#endif
