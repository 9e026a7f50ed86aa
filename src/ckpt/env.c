/* SPDX-License-Identifier: MIT */
/* env.c - see env.h. */
#include "ckpt/env.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "ckpt/ldb.h"

#define MAP_LARGEST ((size_t)1 << (sizeof(size_t) > 4 ? 42 : 30))
#define MAP_SMALLEST ((size_t)16 << 20)
#define READERS_MAX 1022

static const char *const table_names[ENV_TABLES] = {
    [CKPT_JOB] = "job",           [CKPT_STAGE] = "stages",   [CKPT_WORK] = "work",
    [CKPT_RESULT] = "results",    [CKPT_FAILURE] = "failures", [CKPT_ATTEMPT] = "attempts",
    [CKPT_ONCE] = "once",         [CKPT_STATE] = "states",   [CKPT_TELEMETRY] = "telemetry",
    [CKPT_FORGET] = "forgets",    [CKPT_PART] = "parts",     [CKPT_COUNT] = "counts",
    [CKPT_TAIL] = "tail",         [CKPT_ELEMENTS] = "elements", [ENV_INDEX] = "index",
};

const char *env_table_name(unsigned table)
{
    return table < ENV_TABLES ? table_names[table] : NULL;
}

static int try_open(struct ckpt_env *env, const char *dir, size_t map_size)
{
    unsigned flags = MDB_NOTLS;
    int rc = ldb_env_new(&env->mdb);

    if (rc < 0) {
        env->mdb = NULL;
        return rc;
    }
    flags |= env->mode == ENV_WRITE ? 0 : MDB_RDONLY;
    flags |= env->mode == ENV_CHECK ? MDB_NOLOCK : 0;
    mdb_env_set_mapsize(env->mdb, map_size);
    mdb_env_set_maxdbs(env->mdb, ENV_TABLES);
    mdb_env_set_maxreaders(env->mdb, READERS_MAX);
    rc = ldb_env_open(env->mdb, dir, flags);
    if (rc < 0) {
        mdb_env_close(env->mdb); /* as LMDB wants it, also after a failed open */
        env->mdb = NULL;
    }
    env->map_size = map_size;
    return rc;
}

static int open_mapped(struct ckpt_env *env, const char *dir, size_t map_size)
{
    size_t size = map_size != 0 ? map_size : MAP_LARGEST;
    int rc = try_open(env, dir, size);

    while (rc == TRK_ENOMEM && size / 2 >= MAP_SMALLEST) {
        size /= 2;
        rc = try_open(env, dir, size);
    }
    return rc;
}

static int open_tables(struct ckpt_env *env, MDB_txn *txn)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < ENV_TABLES; i++) {
        if (table_names[i] != NULL) {
            rc = ldb_table(txn, table_names[i], env->mode == ENV_WRITE ? MDB_CREATE : 0,
                           &env->tables[i]);
            if (rc == TRK_END && i < CKPT_KIND_END && record_format((enum ckpt_kind)i) > 1) {
                env->tables[i] = ENV_NO_TABLE; /* made by a Trickle that did not know it */
                rc = 0;
            }
        }
    }
    return rc;
}

int env_tail_get(const struct ckpt_env *env, MDB_txn *txn, struct record *r,
                 struct record_tail *tail)
{
    MDB_val value;
    int rc = ldb_get(txn, env->tables[CKPT_TAIL], "tail", 4, &value);

    if (rc == 0) {
        rc = record_get(r, value.mv_data, value.mv_size);
    }
    return rc == 0 ? record_tail_get(tail, r) : rc;
}

int env_parts_check(const struct ckpt_env *env, MDB_txn *txn, const struct record *r,
                    uint8_t end[KEY_PART])
{
    struct digest chain = {{0}};
    struct record_parts parts;
    uint64_t size = 0;
    int rc = record_parts_get(&parts, r);

    if (rc < 0) {
        return rc;
    }
    key_put_u64(end, parts.body);
    for (uint32_t i = 0; i < parts.count; i++) {
        struct record part;
        MDB_val value;
        key_put_u32(end + 8, i);
        rc = ldb_get(txn, env->tables[CKPT_PART], end, KEY_PART, &value);
        rc = rc == 0 ? record_head_get(&part, value.mv_data, value.mv_size) : rc;
        if (rc != 0) {
            return rc == TRK_END ? TRK_ECORRUPT : rc;
        }
        record_chain(&chain, &part.digest);
        size += part.body_size;
    }
    key_put_u32(end + 8, PART_END);
    return size == parts.size && memcmp(&chain, &parts.chain, sizeof(chain)) == 0 ? 0
                                                                                  : TRK_ECORRUPT;
}

/* Opens the tables and reads the tail, in a transaction that also leaves the handles valid. */
static int load(struct ckpt_env *env)
{
    struct record r;
    MDB_txn *txn;
    int rc = ldb_begin(env->mdb, env->mode == ENV_WRITE ? 0 : MDB_RDONLY, &txn);

    if (rc < 0) {
        return rc;
    }
    rc = open_tables(env, txn);
    if (rc == 0) {
        rc = env_tail_get(env, txn, &r, &env->tail);
    }
    if (rc == 0) {
        memcpy(env->uuid, r.uuid, sizeof(env->uuid));
        env->epoch = r.epoch;
    } else if (rc == TRK_END && env->mode == ENV_WRITE) {
        memset(&env->tail, 0, sizeof(env->tail));
        env->epoch = 0;
        rc = sys_random(env->uuid, sizeof(env->uuid));
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return ldb_commit(txn);
}

/* LMDB does not say where its map is; /proc does. */
static void find_map(struct ckpt_env *env)
{
    char line[512];
    FILE *maps = env->mode != ENV_CHECK ? fopen("/proc/self/maps", "re") : NULL;
    mdb_filehandle_t fd;
    struct stat st;

    env->map = NULL;
    if (maps == NULL) {
        return;
    }
    if (mdb_env_get_fd(env->mdb, &fd) == 0 && fstat(fd, &st) == 0) {
        while (env->map == NULL && fgets(line, sizeof(line), maps) != NULL) {
            uintptr_t from, to;
            unsigned long inode;
            int fields = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &from, &to,
                                &inode);
            if (fields == 3 &&
                inode == st.st_ino && to - from == env->map_size) {
                env->map = (void *)from;
            }
        }
    }
    fclose(maps);
}

int env_open(struct ckpt_env *env, const char *dir, enum env_mode mode, size_t map_size)
{
    char path[4200];
    struct stat st;
    int rc;

    memset(env, 0, sizeof(*env));
    env->mode = mode;
    snprintf(path, sizeof(path), "%s/data.mdb", dir);
    if (mode != ENV_WRITE && (stat(path, &st) < 0 || st.st_size == 0)) {
        return TRK_END;
    }
    rc = open_mapped(env, dir, map_size);
    if (rc == 0) {
        rc = load(env);
        if (rc != 0) {
            env_close(env);
        }
    }
    if (rc == 0) {
        find_map(env);
        env->base = env->tail.version;
    }
    return rc;
}

void env_close(struct ckpt_env *env)
{
    if (env->mdb != NULL) {
        mdb_env_close(env->mdb);
        env->mdb = NULL;
        env->map = NULL;
    }
}

void env_trim(struct ckpt_env *env)
{
    MDB_envinfo info;

    if (env->map != NULL && mdb_env_info(env->mdb, &info) == 0) {
        size_t used = (info.me_last_pgno + 1) * (size_t)4096;
        madvise(env->map, used < env->map_size ? used : env->map_size, MADV_DONTNEED);
    }
}
