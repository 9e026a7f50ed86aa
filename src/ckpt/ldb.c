/* SPDX-License-Identifier: MIT */
/* ldb.c - LMDB behind a fuse, its codes made ours. */
#include "ckpt/ldb.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

static atomic_uint_fast64_t fuse; /* 0: off; else calls until the one that fails */
static _Thread_local int last_code;

int ldb_error(int code)
{
    if (code == MDB_SUCCESS) {
        return 0;
    }
    if (code == MDB_NOTFOUND) {
        return TRK_END;
    }
    if (code == MDB_KEYEXIST) {
        return TRK_AGAIN;
    }
    last_code = code;
    switch (code) {
    case ENOMEM:
        return TRK_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case MDB_MAP_FULL:
        return TRK_EFULL;
    case MDB_PAGE_NOTFOUND:
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_INCOMPATIBLE:
    case MDB_CURSOR_FULL:
        return TRK_ECORRUPT;
    case MDB_VERSION_MISMATCH:
        return TRK_EVERSION;
    default:
        return TRK_EIO;
    }
}

int ldb_code(void)
{
    return last_code;
}

const char *ldb_text(void)
{
    return mdb_strerror(last_code);
}

void ldb_fail_at(uint64_t n)
{
    atomic_store(&fuse, n);
}

uint64_t ldb_fail_left(void)
{
    return atomic_load(&fuse);
}

static bool must_fail(void)
{
    uint_fast64_t left = atomic_load_explicit(&fuse, memory_order_relaxed);

    while (left > 0) {
        if (atomic_compare_exchange_weak(&fuse, &left, left - 1)) {
            return left == 1;
        }
    }
    return false;
}

int ldb_env_new(MDB_env **env)
{
    return ldb_error(must_fail() ? EIO : mdb_env_create(env));
}

int ldb_env_open(MDB_env *env, const char *path, unsigned flags)
{
    return ldb_error(must_fail() ? EIO : mdb_env_open(env, path, flags, 0600));
}

int ldb_begin(MDB_env *env, unsigned flags, MDB_txn **txn)
{
    return ldb_error(must_fail() ? EIO : mdb_txn_begin(env, NULL, flags, txn));
}

int ldb_renew(MDB_txn *txn)
{
    return ldb_error(must_fail() ? EIO : mdb_txn_renew(txn));
}

int ldb_commit(MDB_txn *txn)
{
    if (must_fail()) {
        mdb_txn_abort(txn);
        return ldb_error(EIO);
    }
    return ldb_error(mdb_txn_commit(txn));
}

int ldb_table(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *dbi)
{
    return ldb_error(must_fail() ? EIO : mdb_dbi_open(txn, name, flags, dbi));
}

int ldb_get(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_size, MDB_val *value)
{
    MDB_val k = {key_size, (void *)key};

    return ldb_error(must_fail() ? EIO : mdb_get(txn, dbi, &k, value));
}

int ldb_put(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_size, MDB_val *value,
            unsigned flags)
{
    MDB_val k = {key_size, (void *)key};

    return ldb_error(must_fail() ? EIO : mdb_put(txn, dbi, &k, value, flags));
}

int ldb_del(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_size)
{
    MDB_val k = {key_size, (void *)key};

    return ldb_error(must_fail() ? EIO : mdb_del(txn, dbi, &k, NULL));
}

int ldb_cursor(MDB_txn *txn, MDB_dbi dbi, MDB_cursor **cursor)
{
    return ldb_error(must_fail() ? EIO : mdb_cursor_open(txn, dbi, cursor));
}

int ldb_cursor_get(MDB_cursor *cursor, MDB_val *key, MDB_val *value, MDB_cursor_op op)
{
    return ldb_error(must_fail() ? EIO : mdb_cursor_get(cursor, key, value, op));
}

int ldb_cursor_del(MDB_cursor *cursor)
{
    return ldb_error(must_fail() ? EIO : mdb_cursor_del(cursor, 0));
}
