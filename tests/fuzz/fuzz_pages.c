/* SPDX-License-Identifier: MIT */
/* fuzz_pages.c - any file in a store's place. Where pages_check finds nothing wrong LMDB maps it,
 * reads all there is, writes and takes it back, and writes and commits it: none of that may crash,
 * and what was committed is as sound as what was there.
 * The file is written from u16 its pages of 4 KiB, then pieces that are not zero: u32 where,
 * u16 size, bytes. */
#include <assert.h>
#include <lmdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/pages.h"
#include "fuzz.h"

#define PAGE 4096u
#define PAGES_MAX 1024u
#define COMMITS 3 /* the third one hands out pages that the first one freed */

static volatile uint8_t read_last; /* so that reading is not optimized away */

static void look_at(const MDB_val *v)
{
    const uint8_t *at = v->mv_data;

    for (size_t i = 0; i < v->mv_size; i++) {
        read_last = at[i];
    }
}

static int make_file(struct cursor *c)
{
    size_t size = cursor_get_u16(c) % PAGES_MAX * PAGE;
    uint8_t *bytes = calloc(1, size + 1);
    int fd = memfd_create("data.mdb", MFD_CLOEXEC);

    assert(bytes != NULL && fd >= 0);
    while (cursor_left(c) > 6) {
        size_t at = cursor_get_u32(c), n = cursor_get_u16(c), left = cursor_left(c);
        n = n < left ? n : left;
        const uint8_t *piece = cursor_get(c, n);
        if (at < size) {
            memcpy(bytes + at, piece, n < size - at ? n : size - at);
        }
    }
    ssize_t written = write(fd, bytes, size);
    assert(written == (ssize_t)size);
    free(bytes);
    return fd;
}

/* Reads the table, then writes to it: new keys, until pages are split, and none of the old. */
static void use_table(MDB_txn *txn, MDB_dbi dbi)
{
    static uint8_t bytes[3000];
    MDB_val key, value;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, dbi, &cursor);

    if (rc != 0) {
        return;
    }
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        look_at(&key);
        look_at(&value);
    }
    for (unsigned i = 0; i < 4; i++) {
        char name[16];
        key = (MDB_val){(size_t)snprintf(name, sizeof(name), "k%u", i), name};
        value = (MDB_val){i * 900, bytes};
        (void)!mdb_put(txn, dbi, &key, &value, 0);
    }
    if (mdb_cursor_get(cursor, &key, &value, MDB_FIRST) == 0) {
        (void)!mdb_cursor_del(cursor, 0);
    }
    mdb_cursor_close(cursor);
}

static void use_tables(MDB_txn *txn)
{
    MDB_dbi main, table;
    MDB_cursor *cursor;
    MDB_val key, value;

    if (mdb_dbi_open(txn, NULL, 0, &main) != 0 || mdb_cursor_open(txn, main, &cursor) != 0) {
        return;
    }
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT_NODUP) == 0) {
        char name[600];
        look_at(&value);
        snprintf(name, sizeof(name), "%.*s", (int)key.mv_size, (char *)key.mv_data);
        if (mdb_dbi_open(txn, name, 0, &table) == 0) {
            use_table(txn, table);
        }
    }
    mdb_cursor_close(cursor);
}

/* Returns whether all went well: what is sound can be written to, again and again. */
static bool use_store(const char *path)
{
    bool is_well = true;
    MDB_env *env;
    MDB_txn *txn;
    int rc = mdb_env_create(&env);

    assert(rc == 0);
    mdb_env_set_maxdbs(env, 64);
    mdb_env_set_mapsize(env, 64u << 20);
    rc = mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC, 0600);
    for (unsigned i = 0; rc == 0 && is_well && i < COMMITS + 1; i++) {
        is_well = mdb_txn_begin(env, NULL, 0, &txn) == 0;
        if (!is_well) {
            break;
        }
        use_tables(txn);
        if (i == 0) {
            mdb_txn_abort(txn);
        } else {
            is_well = mdb_txn_commit(txn) == 0;
        }
    }
    mdb_env_close(env);
    return rc == 0 && is_well;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t live = mem_live();
    char path[64], why[200];
    struct cursor c;

    if (size < 2) {
        return 0;
    }
    cursor_init(&c, data, size);
    int fd = make_file(&c);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int rc = pages_check(path, why, sizeof(why));
    assert(rc == 0 || rc == TRK_ECORRUPT);
    assert((rc == 0) == (why[0] == '\0'));
    if (rc == 0) {
        bool is_well = use_store(path);
        rc = pages_check(path, why, sizeof(why));
        if (!is_well || rc != 0) {
            fprintf(stderr, "taken as sound, then %s\n", rc != 0 ? why : "not written to");
            abort();
        }
    }
    close(fd);
    assert(mem_live() == live);
    return 0;
}
