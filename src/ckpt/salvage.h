/* SPDX-License-Identifier: MIT */
/* salvage.h - makes a store anew from the records that are found in a damaged one. */
#ifndef CKPT_SALVAGE_H
#define CKPT_SALVAGE_H

#include <stdint.h>

#include "trickle/error.h"

struct ckpt_salvaged {
    uint64_t records;           /* in the new store */
    uint64_t elements;          /* with a result, in the new store */
    uint64_t elements_expected; /* by the newest counters that were found: at least */
    uint64_t void_records;      /* found, but of transactions that were never committed */
    uint64_t unreadable_bytes;  /* of the file: the disk did not give them */
    char kept_as[64];           /* name of the damaged file, in the same directory */
};

/* dir/data.mdb is read with pread only, found whole or in pieces: every record that is undamaged
 * and was valid last goes into a new environment, which then takes the file's place; the old one is
 * kept beside it. Of two results of one element the first one counts, of two records of one name
 * the newer one; where the newest is damaged that may be an older one that it had replaced, so what
 * a record is about (digests of elements and code) belongs into the record that depends on it.
 *
 * The caller holds the job's lock. TRK_EFULL: no room; TRK_EVERSION: there are records of a newer
 * Trickle; after these and other errors nothing has changed, fail_text. */
TRK_MUST_USE int salvage_store(const char *dir, struct ckpt_salvaged *report);

#endif
