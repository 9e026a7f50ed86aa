/* SPDX-License-Identifier: MIT */
/* ldb.h - the one seam through which the store calls LMDB: its codes become ours here, and tests
 * can fail the n-th call. Reads of values give memory of LMDB: borrowed until the next write in
 * the same transaction, or its end. */
#ifndef CKPT_LDB_H
#define CKPT_LDB_H

#include <lmdb.h>
#include <stdint.h>

#include "trickle/error.h"

/* 0; TRK_END: not found; TRK_AGAIN: the key exists (with MDB_APPEND: is not the last); TRK_EFULL:
 * no room, on disk or in the map; TRK_ECORRUPT; TRK_EVERSION; TRK_ENOMEM; TRK_EIO. */
int ldb_error(int code);
int ldb_code(void);           /* of this thread's last failure: LMDB's or errno, for people */
const char *ldb_text(void);   /* the same as text */

TRK_MUST_USE int ldb_env_new(MDB_env **env);
TRK_MUST_USE int ldb_env_open(MDB_env *env, const char *path, unsigned flags);
TRK_MUST_USE int ldb_begin(MDB_env *env, unsigned flags, MDB_txn **txn);
TRK_MUST_USE int ldb_renew(MDB_txn *txn);
TRK_MUST_USE int ldb_commit(MDB_txn *txn); /* ends txn in any case */
TRK_MUST_USE int ldb_table(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *dbi);
TRK_MUST_USE int ldb_get(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_size,
                         MDB_val *value);
TRK_MUST_USE int ldb_put(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_size,
                         MDB_val *value, unsigned flags);
TRK_MUST_USE int ldb_del(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_size);
TRK_MUST_USE int ldb_cursor(MDB_txn *txn, MDB_dbi dbi, MDB_cursor **cursor);
TRK_MUST_USE int ldb_cursor_get(MDB_cursor *cursor, MDB_val *key, MDB_val *value,
                                MDB_cursor_op op);
TRK_MUST_USE int ldb_cursor_del(MDB_cursor *cursor);

/* Tests: the n-th call from now (1: the next) fails with EIO, and only that one; 0: none. */
void ldb_fail_at(uint64_t n);
uint64_t ldb_fail_left(void); /* calls until then; 0: it has failed, or none is to */

#endif
