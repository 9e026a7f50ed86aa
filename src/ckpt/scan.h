/* SPDX-License-Identifier: MIT */
/* scan.h - finds records in the bytes of a file, whatever else is in it. */
#ifndef CKPT_SCAN_H
#define CKPT_SCAN_H

#include "ckpt/record.h"

struct scan_report {
    uint64_t bytes;            /* read */
    uint64_t unreadable_bytes; /* the disk gave an error, taken for zeros */
    uint64_t newer;            /* undamaged heads of a format that is not known here */
};

/* Calls found for each whole, undamaged record, in the order of the file; what lies inside of one
 * is not looked at. Stops when found returns other than 0, and returns that. TRK_EIO: not to be
 * opened; TRK_ENOMEM. */
TRK_MUST_USE int scan_file(const char *path, int (*found)(void *ctx, const struct record *r),
                           void *ctx, struct scan_report *report);
/* The same for bytes in memory. With is_end false a record that may go on behind them is left:
 * *used says from where on to look again. */
TRK_MUST_USE int scan_bytes(const uint8_t *bytes, size_t size, bool is_end, size_t *used,
                            int (*found)(void *ctx, const struct record *r), void *ctx,
                            struct scan_report *report);

#endif
