/* SPDX-License-Identifier: MIT */
/* rai.h - where a RAI module writes its answer, as the host of the module sees it. */
#ifndef RAI_RAI_H
#define RAI_RAI_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "trickle/rai.h"

struct trk_rai_reply {
    struct buf buf; /* the host's prefix, then the answer */
    size_t start;   /* where the answer starts */
    size_t limit;   /* bytes an answer may have */
    int error;      /* TRK_ENOMEM, TRK_ETOOBIG: what went wrong while it was written; or 0 */
};

void rai_reply_init(struct trk_rai_reply *r); /* limit: 1 GiB */
void rai_reply_fini(struct trk_rai_reply *r);
/* Begins an answer behind prefix_size bytes that the host fills in later; forgets the one before
 * (a large buffer is freed, a small one used again). TRK_ENOMEM: no room for the prefix. */
TRK_MUST_USE int rai_reply_begin(struct trk_rai_reply *r, size_t prefix_size);
/* The answer so far, borrowed until the next call. */
const uint8_t *rai_reply_bytes(const struct trk_rai_reply *r);
size_t rai_reply_size(const struct trk_rai_reply *r);
void rai_reply_clear(struct trk_rai_reply *r); /* the answer so far, and what went wrong with it */
/* What becomes of the answer when the module has returned status: a writing error, or a status
 * that does not exist, turns it into a TRK_STATUS_ERROR sentence. Returns the status to send. */
int rai_reply_end(struct trk_rai_reply *r, int status);
/* Gives prefix and answer away as a blob (one reference). */
struct blob *rai_reply_take(struct trk_rai_reply *r);

#endif
