/* SPDX-License-Identifier: MIT */
/* value.h - what stands in the values of a job's records. PURE: bytes in, bytes out, nothing
 * believed. Little endian, each value begins with u8 version, u8[3] zero.
 *
 * _encode gives a new blob (one reference), NULL when out of memory. _decode: 0; TRK_ECORRUPT: not
 * exactly the format; TRK_EVERSION: of a newer one. Pointers in what it fills are borrowed from
 * the bytes, unaligned and not terminated. */
#ifndef CKPT_VALUE_H
#define CKPT_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/blob.h"
#include "base/hash.h"
#include "trickle/work.h"

/* CKPT_STAGE, key u32 stage: one forkwork or forkgen of the program. */
struct value_stage {
    struct digest fingerprint; /* of the code */
    uint64_t total;            /* elements, once is_closed */
    uint64_t closed_after;     /* results the program had been given when it closed the list */
    uint32_t previous;         /* results of its equal elements count here too; 0: none */
    uint32_t replaced_by;      /* that stage has taken its place; 0: it counts */
    bool is_closed;            /* the end of its list is known */
    const char *key;           /* tells stages of a program apart */
    size_t key_size;
    const char *name;          /* for people */
    size_t name_size;
};
struct blob *value_stage_encode(const struct value_stage *v);
TRK_MUST_USE int value_stage_decode(struct value_stage *v, const void *bytes, size_t size);

/* CKPT_WORK, key stage, first: elements first, first + 1, ... as they were added. */
struct value_work {
    uint32_t count;            /* > 0 */
    const uint8_t *digests;    /* count x 16: of each element's bytes */
    uint32_t spans;            /* runs of elements with the same delivered */
    const uint8_t *delivered;  /* spans x (u32 count, u64 delivered): how many results of the stage
                                  the program had been given when it made these elements */
};
struct blob *value_work_encode(const struct value_work *v);
TRK_MUST_USE int value_work_decode(struct value_work *v, const void *bytes, size_t size);
#define VALUE_WORK_SPAN 12
void value_work_span_put(uint8_t out[VALUE_WORK_SPAN], uint32_t count, uint64_t delivered);
void value_work_span_get(const uint8_t *span, uint32_t *count, uint64_t *delivered);

/* CKPT_ELEMENTS, key as that of the work record of the same elements: their bytes. What they have
 * to be is said by the digests there. */
struct value_elements {
    uint32_t count;            /* > 0 */
    const uint8_t *sizes;      /* count x u32 */
    const uint8_t *elements;   /* one after the other */
    size_t size;               /* of all elements */
};
#define VALUE_ELEMENTS_HEAD 8
/* What stands before the sizes; sizes and elements follow it, so that large ones are not copied. */
void value_elements_put(uint8_t head[VALUE_ELEMENTS_HEAD], uint32_t count);
TRK_MUST_USE int value_elements_decode(struct value_elements *v, const void *bytes, size_t size);

/* CKPT_RESULT: the value that follows the record's run of count elements. This one has no version
 * of its own: u32 attempt, u8 status[count], u32 size[count], bytes, as in a RESULT message, so
 * that what came from the network is stored as it stands. */
struct value_result {
    uint32_t attempt;
    const uint8_t *statuses; /* count x u8, enum trk_status */
    const uint8_t *sizes;    /* count x u32 */
    const uint8_t *payloads; /* one after the other */
};
TRK_MUST_USE int value_result_decode(struct value_result *v, uint64_t count, const void *bytes,
                                     size_t size);

/* CKPT_ATTEMPT, key stage, element: runs of it that have ended; of more than
 * VALUE_ATTEMPTS_MAX the last are kept. */
#define VALUE_ATTEMPTS_MAX 1000
struct value_attempt {
    uint32_t epoch;       /* of the job */
    struct trk_attempt a; /* output is not terminated here; vm_host is */
};
struct blob *value_attempts_encode(const struct value_attempt *attempts, size_t count);
/* *attempts: an array for mem_free. */
TRK_MUST_USE int value_attempts_decode(struct value_attempt **attempts, size_t *count,
                                       const void *bytes, size_t size);

/* CKPT_STATE, key stage, element: a checkpoint that its user code made. */
struct value_state {
    uint32_t epoch, attempt; /* of the job, of the element: which run made it */
    struct digest element;   /* of its bytes */
    const void *bytes;
    size_t size;
};
struct blob *value_state_encode(const struct value_state *v);
TRK_MUST_USE int value_state_decode(struct value_state *v, const void *bytes, size_t size);

#endif
