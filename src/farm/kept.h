/* SPDX-License-Identifier: MIT */
/* kept.h - the elements of durable works that are kept in the store (keep_elements): put beside
 * their work records, read back a block at a time.
 *
 * The work record of a block says which elements there are and what their digests are; the record
 * of their bytes has the same key and is put before it, so that there is never a work record
 * without. Bytes that do not fit the digests are as good as none: what a crash or a salvage left in
 * that place. What is lacking is put again when the element is added again. */
#ifndef FARM_KEPT_H
#define FARM_KEPT_H

#include "base/buf.h"
#include "ckpt/read.h"
#include "ckpt/value.h"
#include "farm/job.h"

/* A block that was read back. */
struct kept_page {
    uint32_t stage;
    uint64_t first, count;     /* elements; count 0: none is held */
    struct blob *bytes;        /* one reference: the value */
    struct value_elements v;   /* in it */
    uint64_t at;               /* element */
    size_t offset;             /* of its bytes */
};

/* Holds the block of element index. 0; TRK_END: it is not known; TRK_ENOTKEPT: no bytes that are
 * its own; or as read.h. */
TRK_MUST_USE int kept_read(struct kept_page *page, struct ckpt_reader *r, uint32_t stage,
                           uint64_t index);
bool kept_has(const struct kept_page *page, uint32_t stage, uint64_t index);
/* Of an element that it has. Borrowed from the page. */
void kept_get(struct kept_page *page, uint64_t index, const void **element, size_t *size);
void kept_drop(struct kept_page *page);

/* How many elements of a stage are known: its last work record's end. */
TRK_MUST_USE int kept_count(struct ckpt_reader *r, uint32_t stage, uint64_t *count);

/* Elements on their way into the store. */
struct kept_run {
    uint64_t first;
    uint32_t count;
    const uint8_t *sizes;  /* count x u32, little endian */
    struct blob *blob;     /* what holds the elements; NULL: they are copied */
    const void *elements;  /* one after the other */
    size_t size;           /* of all */
};
TRK_MUST_USE int kept_put(struct trk_job *job, uint32_t stage, const struct kept_run *run,
                          uint64_t *ticket);
/* The bytes of the first count elements of a block become those of another stage. None that are
 * there: nothing happens. */
TRK_MUST_USE int kept_copy(struct trk_job *job, uint32_t from, uint32_t to, uint64_t first,
                           uint32_t count, uint64_t *ticket);

/* Elements of a block whose bytes are lacking, as the program adds them again. */
struct kept_gather {
    uint64_t first;           /* the block's first */
    uint32_t count;           /* so many of it are here */
    bool is_on;               /* they are lacking */
    struct buf sizes, bytes;
};

#endif
