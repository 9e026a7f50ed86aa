/* SPDX-License-Identifier: MIT */
/* write.h - what one write transaction does to the tables: records with their versions, the
 * index, counters, the tail with its sums. One thread; nothing is visible or durable before
 * writer_commit has returned 0. */
#ifndef CKPT_WRITE_H
#define CKPT_WRITE_H

#include <stdbool.h>

#include "ckpt/env.h"

struct ckpt_slice {
    const void *bytes;
    size_t size;
};

#define WRITER_COUNTS 8

struct writer {
    struct ckpt_env *env;
    MDB_txn *txn;                   /* NULL: none is open */
    struct record_tail tail;        /* as it will be */
    size_t bytes;                   /* put in this transaction */
    size_t records;                 /* the same */
    MDB_cursor *index;              /* NULL: not needed so far */
    struct index_entry index_last;  /* see index_add */
    unsigned counts_count;
    struct {
        uint32_t stage;
        struct record_count count;
    } counts[WRITER_COUNTS];        /* touched in this transaction */
};

/* What has been written of a value in parts. Zeros at first. */
struct writer_parts {
    uint64_t body;       /* its number; 0: none yet */
    uint64_t size;       /* bytes so far */
    uint32_t count;
    struct digest chain;
};

TRK_MUST_USE int writer_begin(struct writer *w, struct ckpt_env *env);
void writer_abort(struct writer *w);
/* Ends the transaction in any case. 0: durable, and env->tail says so. */
TRK_MUST_USE int writer_commit(struct writer *w);

/* A record with a key. One that was there before is replaced, with its parts. */
TRK_MUST_USE int writer_put(struct writer *w, enum ckpt_kind kind, const void *key,
                            size_t key_size, const struct ckpt_slice *slices, unsigned count);
/* The same, its value being the parts written before. */
TRK_MUST_USE int writer_put_parts(struct writer *w, enum ckpt_kind kind, const void *key,
                                  size_t key_size, const struct writer_parts *parts);
/* A result record; elements that have one already keep it, and the index leads to that. */
TRK_MUST_USE int writer_result(struct writer *w, uint32_t stage, const struct record_run *run,
                               const struct ckpt_slice *slices, unsigned count);
TRK_MUST_USE int writer_result_parts(struct writer *w, uint32_t stage,
                                     const struct record_run *run,
                                     const struct writer_parts *parts);
/* One more part, at most RECORD_PART_MAX bytes. */
TRK_MUST_USE int writer_part(struct writer *w, struct writer_parts *parts,
                             const struct ckpt_slice *slices, unsigned count);
/* All parts of a value, and its end. */
TRK_MUST_USE int writer_drop_parts(struct writer *w, uint64_t body);
/* Results of these elements do not count any more; run->failed of them were failures. */
TRK_MUST_USE int writer_forget(struct writer *w, uint32_t stage, const struct record_run *run);
/* 0 also when there is none. */
TRK_MUST_USE int writer_delete(struct writer *w, enum ckpt_kind kind, const void *key,
                               size_t key_size);

/* Salvage: takes over a record as it is (no result's index entry is made). */
TRK_MUST_USE int writer_adopt(struct writer *w, const struct record *r);
/* Salvage: makes the index entries and counters of a result or forget record that is there. */
TRK_MUST_USE int writer_replay(struct writer *w, const struct record *r);

#endif
