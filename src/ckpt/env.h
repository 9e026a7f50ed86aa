/* SPDX-License-Identifier: MIT */
/* env.h - one LMDB environment with the tables of a job: opening it in three ways, its map.
 *
 * The map is as large as address space allows (4 TiB, halved until mmap takes it): it costs
 * nothing, and a map that is full would stop the job. Never opened twice in one process, never
 * used after a fork. */
#ifndef CKPT_ENV_H
#define CKPT_ENV_H

#include <lmdb.h>
#include <stddef.h>
#include <stdint.h>

#include "ckpt/record.h"

enum env_mode {
    ENV_WRITE, /* makes what is missing; one process, which holds the job's lock */
    ENV_READ,  /* beside a writer */
    ENV_CHECK, /* read-only and without LMDB's own lock file: the caller holds the job's lock */
};

#define ENV_INDEX CKPT_KIND_END /* the table that holds no records */
#define ENV_TABLES (CKPT_KIND_END + 1)
#define ENV_NO_TABLE 0 /* a store of an older Trickle lacks it: LMDB gives no table this number */

struct ckpt_env {
    MDB_env *mdb;                /* NULL: closed */
    enum env_mode mode;
    MDB_dbi tables[ENV_TABLES];  /* by kind; some may be ENV_NO_TABLE when not writing */
    size_t map_size;             /* bytes of address space */
    void *map;                   /* where it is; NULL: unknown */
    uint8_t uuid[RECORD_UUID];   /* of the job */
    uint32_t epoch;              /* of the last writer */
    uint64_t base;               /* version that was durable when this writer opened it */
    struct record_tail tail;     /* as last committed */
};

/* "job", "results", ...; NULL for numbers that are no table. */
const char *env_table_name(unsigned table);

/* dir holds data.mdb. With ENV_WRITE, a new store gets a new UUID; its first writer_commit writes
 * it. TRK_END: there is no store (only with READ and CHECK). Otherwise as ldb.h.
 *   map_size  0: as large as possible */
TRK_MUST_USE int env_open(struct ckpt_env *env, const char *dir, enum env_mode mode,
                          size_t map_size);
void env_close(struct ckpt_env *env);
/* The tail as a transaction sees it: 0, TRK_END, TRK_ECORRUPT. */
TRK_MUST_USE int env_tail_get(const struct ckpt_env *env, MDB_txn *txn, struct record *r,
                              struct record_tail *tail);
/* Whether the parts of a record that is in parts are all there, by their heads; end: the key of
 * what marks their end, which need not be there. 0; TRK_ECORRUPT: they are not; or as ldb.h. */
TRK_MUST_USE int env_parts_check(const struct ckpt_env *env, MDB_txn *txn,
                                 const struct record *r, uint8_t end[KEY_PART]);
/* Gives pages of the map back to the system: they stay in its cache, but not in our size. */
void env_trim(struct ckpt_env *env);

#endif
