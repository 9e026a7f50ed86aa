/* SPDX-License-Identifier: MIT */
/* record.h - how one thing is written into a job's store. PURE: bytes in, bytes out.
 *
 * A record describes itself: found anywhere in a file, without the tree that led to it, it says
 * whose it is, what it is called, and whether a bit of it has changed. Little endian:
 *
 *      0  magic
 *      8  digest of bytes 24 .. 96 + key_size   XXH3-128: the head, and through it the body
 *     24  u8 format, u8 kind, u16 key_size
 *     28  u32 flags
 *     32  u64 body_size
 *     40  u64 version        counts the records of a store: later ones have higher ones
 *     48  u64 base           version that was durable when the writer opened the store
 *     56  u32 epoch          of the writer; u32 zero
 *     64  u8 store[16]       the job's UUID
 *     80  digest of the body
 *     96  key, body
 *
 * base is for salvage: a writer that crashed leaves records of a transaction that was never
 * committed in pages that look free. The next writer starts again behind the last durable version,
 * so a record is void when one of a later epoch has a base below its version. */
#ifndef CKPT_RECORD_H
#define CKPT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "trickle/error.h"

#define RECORD_MAGIC "\x93TRKrec\n"
#define RECORD_MAGIC_BYTES 8
#define RECORD_FORMAT 2 /* the newest that is known here, see record_format */
#define RECORD_HEAD 96
#define RECORD_KEY_MAX 480
#define RECORD_PART_MAX ((size_t)1 << 20) /* larger values are stored in parts of this */
#define RECORD_BODY_MAX (RECORD_PART_MAX + 1024)
#define RECORD_SIZE_MAX (RECORD_HEAD + RECORD_KEY_MAX + RECORD_BODY_MAX)
#define RECORD_UUID 16

/* Numbers are on disk: append only. */
enum ckpt_kind {
    CKPT_JOB = 1,       /* name: what was run, where, with what */
    CKPT_STAGE = 2,     /* stage */
    CKPT_WORK = 3,      /* stage, first element: a block of elements */
    CKPT_RESULT = 4,    /* stage, seq: results of a run of elements; seq is the version */
    CKPT_FAILURE = 5,   /* stage, element */
    CKPT_ATTEMPT = 6,   /* stage, element: what the runs of it came to */
    CKPT_ONCE = 7,      /* name: a value made once */
    CKPT_STATE = 8,     /* stage, element: a checkpoint of its user code */
    CKPT_TELEMETRY = 9, /* anything of passing interest */
    CKPT_FORGET = 10,   /* stage, version: results before it do not count any more */
    CKPT_PART = 11,     /* body, part: of a value over RECORD_PART_MAX; part ~0: it is complete */
    CKPT_COUNT = 12,    /* stage: counters. Derived: a salvage counts anew */
    CKPT_TAIL = 13,     /* the state of the whole store, written by each transaction. Derived */
    CKPT_ELEMENTS = 14, /* stage, first element: bytes of the elements of that CKPT_WORK */
    CKPT_KIND_END
};

/* The format of the records of a kind: that of the first Trickle that knew it. So a store can be
 * used by all that know what is in it, and an older one refuses a store that it would take for
 * damaged, whose sums it cannot add up, and would repair by leaving out what it does not know. */
uint8_t record_format(enum ckpt_kind kind);
/* Kinds whose key the store is given with the value; it makes the keys of the others itself. */
bool record_is_named(enum ckpt_kind kind);

enum record_flag {
    RECORD_IN_PARTS = 1, /* the value is in CKPT_PART records: the body ends with record_parts */
};

struct record {
    enum ckpt_kind kind;
    uint32_t flags; /* enum record_flag */
    uint32_t epoch;
    uint64_t version, base;
    const uint8_t *uuid; /* borrowed, RECORD_UUID bytes */
    const uint8_t *key;  /* borrowed */
    size_t key_size;     /* at most RECORD_KEY_MAX */
    const uint8_t *body; /* borrowed */
    size_t body_size;    /* at most RECORD_BODY_MAX */
    struct digest digest; /* of the head: the record's fingerprint */
};

static inline size_t record_size(size_t key_size, size_t body_size)
{
    return RECORD_HEAD + key_size + body_size;
}

/* Completes a record whose body stands already at out + RECORD_HEAD + r->key_size: writes head
 * and key. r->body is not used; r->digest is set. */
void record_seal(uint8_t *out, struct record *r);

/* The head and key of a record at the start of bytes; r->body is where the body is to follow,
 * unread. 0; TRK_EVERSION: of a newer format; TRK_ECORRUPT: not a record, or damaged. */
TRK_MUST_USE int record_head_get(struct record *r, const void *bytes, size_t size);
/* A whole record in exactly size bytes, all of it checked. */
TRK_MUST_USE int record_get(struct record *r, const void *bytes, size_t size);

/* --- keys: big endian, so that they sort as the numbers do ---------------- */

#define KEY_STAGE 4          /* u32 stage */
#define KEY_STAGE_NUMBER 12  /* u32 stage, u64 element or seq */
#define KEY_PART 12          /* u64 body, u32 part */
#define KEY_INDEX 20         /* u32 stage, u64 first, u64 seq */
#define PART_END UINT32_MAX  /* after the last part: the value is complete */
void key_put_u32(uint8_t *out, uint32_t v);
void key_put_u64(uint8_t *out, uint64_t v);
uint32_t key_get_u32(const uint8_t *key);
uint64_t key_get_u64(const uint8_t *key);

/* --- bodies ---------------- */

/* At the end of the body of a record with RECORD_IN_PARTS. */
#define RECORD_PARTS_BYTES 40
struct record_parts {
    uint64_t body;       /* its number */
    uint64_t size;       /* of the value, bytes */
    uint32_t count;      /* of parts */
    struct digest chain; /* of the digests of the parts, see record_chain */
};
void record_parts_put(uint8_t out[RECORD_PARTS_BYTES], const struct record_parts *p);
/* Of a record with that flag: 0 or TRK_ECORRUPT. */
TRK_MUST_USE int record_parts_get(struct record_parts *p, const struct record *r);
/* The chain, with one more part: digest(chain, digest of the part's record). Starts as zeros. */
void record_chain(struct digest *chain, const struct digest *part);

/* Before a result's value. */
#define RECORD_RUN_BYTES 24
struct record_run {
    uint64_t first, count; /* elements; count > 0 */
    uint64_t failed;       /* of these, so many are failures */
};
void record_run_put(uint8_t out[RECORD_RUN_BYTES], const struct record_run *run);
/* Of CKPT_RESULT and CKPT_FORGET. */
TRK_MUST_USE int record_run_get(struct record_run *run, const struct record *r);

#define RECORD_COUNT_BYTES 32
struct record_count {
    uint64_t recorded; /* elements with a result */
    uint64_t failed;   /* of these, failures */
    uint64_t runs;     /* result records */
    uint64_t bytes;    /* of their values */
};
void record_count_put(uint8_t out[RECORD_COUNT_BYTES], const struct record_count *c);
TRK_MUST_USE int record_count_get(struct record_count *c, const struct record *r);

/* Sums are of sets: each record adds its digest, wherever it stands, and takes it away when it is
 * replaced. A page that is an older one, valid in itself, does not fit the sum. */
#define RECORD_TAIL_BYTES 48
struct record_tail {
    uint64_t version;     /* of the last record */
    uint64_t records;     /* all but the tail itself */
    uint64_t sum[2];      /* of their digests */
    uint64_t index_count; /* entries */
    uint64_t index_sum;   /* of their checks */
};
void record_tail_put(uint8_t out[RECORD_TAIL_BYTES], const struct record_tail *t);
TRK_MUST_USE int record_tail_get(struct record_tail *t, const struct record *r);
void record_sum_add(uint64_t sum[2], const struct digest *digest);
void record_sum_sub(uint64_t sum[2], const struct digest *digest);

/* An entry of the index, which is derived from results and no record itself:
 * (stage, first, seq) -> u64 count, u64 check. */
#define INDEX_VALUE 16
struct index_entry {
    uint32_t stage;
    uint64_t first, count, seq;
    uint64_t check;
};
void index_entry_put(uint8_t key[KEY_INDEX], uint8_t value[INDEX_VALUE], struct index_entry *e);
TRK_MUST_USE int index_entry_get(struct index_entry *e, const void *key, size_t key_size,
                                 const void *value, size_t value_size);

#endif
