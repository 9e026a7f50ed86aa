/* SPDX-License-Identifier: MIT */
/* read.h - looking at a job's store: from another process while the job runs, from this one, or
 * when nobody runs it. What is seen is durable. Each call looks at the newest state and holds
 * nothing of it afterwards (values are copied, no snapshot pins pages). One thread at a time per
 * reader.
 *
 * Every record's digests are checked. What does not check is TRK_ECORRUPT; opening the store for
 * writing repairs it. A store that nobody holds and that was not closed in order should be looked
 * at with ckpt_check first: LMDB trusts the pages it maps. */
#ifndef CKPT_READ_H
#define CKPT_READ_H

#include "base/blob.h"
#include "ckpt/record.h"

struct ckpt_reader;
struct ckpt_store;

/* TRK_END: there is no store in dir. */
TRK_MUST_USE int ckpt_reader_open(struct ckpt_reader **out, const char *dir);
/* In the process that has the store open, where it must not be opened a second time. Free it
 * before the store is closed. */
TRK_MUST_USE int ckpt_reader_of(struct ckpt_reader **out, struct ckpt_store *store);
void ckpt_reader_free(struct ckpt_reader *r);

struct ckpt_info {
    uint8_t uuid[RECORD_UUID];
    uint32_t epoch;      /* of the last writer */
    uint64_t version;    /* grows with each record */
    uint64_t records;
    uint64_t bytes;      /* of the file */
};
TRK_MUST_USE int ckpt_read_info(struct ckpt_reader *r, struct ckpt_info *out);

/* 0, *value is the caller's; TRK_END: no such record. */
TRK_MUST_USE int ckpt_read_get(struct ckpt_reader *r, enum ckpt_kind kind, const void *key,
                               size_t key_size, struct blob **value);
/* The next record behind key in the order of keys; key->size 0: the first. TRK_END. */
struct ckpt_read_key {
    uint8_t bytes[RECORD_KEY_MAX];
    size_t size;
};
TRK_MUST_USE int ckpt_read_next(struct ckpt_reader *r, enum ckpt_kind kind,
                                struct ckpt_read_key *key, struct blob **value);
/* Of a kind whose keys are (stage, number), see ckpt_key: the stage's first record from *number on;
 * *number is then its own. TRK_END. To see all start at 0 and go on at *number + 1. */
TRK_MUST_USE int ckpt_read_numbered(struct ckpt_reader *r, enum ckpt_kind kind, uint32_t stage,
                                    uint64_t *number, struct blob **value);

/* The same backwards: the stage's record at *number, or else its last one before. */
TRK_MUST_USE int ckpt_read_before(struct ckpt_reader *r, enum ckpt_kind kind, uint32_t stage,
                                  uint64_t *number, struct blob **value);
/* Of its value, which is there; of one in parts the parts are not read, only found. TRK_END. */
TRK_MUST_USE int ckpt_read_size(struct ckpt_reader *r, enum ckpt_kind kind, const void *key,
                                size_t key_size, uint64_t *size);

/* All zeros for a stage that has none. */
TRK_MUST_USE int ckpt_read_count(struct ckpt_reader *r, uint32_t stage, struct record_count *out);

/* Elements first .. first + count have their results in the record seq. */
struct ckpt_found {
    uint64_t first, count, seq;
};
/* The run that covers at, or the first one behind it: without its results. TRK_END. */
TRK_MUST_USE int ckpt_read_find(struct ckpt_reader *r, uint32_t stage, uint64_t at,
                                struct ckpt_found *out);

struct ckpt_result {
    struct ckpt_found found; /* these elements of the record are the ones to look at */
    struct record_run run;   /* all elements of the record */
    struct blob *value;      /* as put, for all of run; the caller's */
};
/* In the order of elements: as ckpt_read_find, with the record. */
TRK_MUST_USE int ckpt_read_at(struct ckpt_reader *r, uint32_t stage, uint64_t at,
                              struct ckpt_result *out);
/* In the order of recording. A position of zeros is before the first. */
struct ckpt_position {
    uint64_t seq, at;
};
TRK_MUST_USE int ckpt_read_recorded(struct ckpt_reader *r, uint32_t stage,
                                    struct ckpt_position *position, struct ckpt_result *out);

#endif
