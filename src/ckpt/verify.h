/* SPDX-License-Identifier: MIT */
/* verify.h - is a store whole? Runs in a process of its own (trickle-fsck): LMDB may kill it. */
#ifndef CKPT_VERIFY_H
#define CKPT_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

struct verify_report {
    uint64_t records; /* walked */
    uint64_t elements; /* with a result */
    uint64_t version;
    char why[400];     /* what is wrong */
};

/* Walks every page and every record. The caller sees to it that nobody writes. 0; TRK_END: there is
 * no store; TRK_ECORRUPT, TRK_EVERSION and others with report->why.
 *   progress  called now and then; may be NULL */
TRK_MUST_USE int verify_store(const char *dir, struct verify_report *report,
                              void (*progress)(uint64_t records));

/* --- by a child ---------------- */

/* Runs helper on dir and believes nothing but its last line. 0; TRK_ECORRUPT: damaged, or it died
 * (why); TRK_EVERSION; TRK_EIO: it could not be run. helper NULL: where it is installed. */
TRK_MUST_USE int ckpt_check(const char *dir, const char *helper, struct verify_report *report);
/* The helper's main. With is_child it also says how far it is, so that it is not taken for dead. */
int verify_main(const char *dir, bool is_child);

#endif
