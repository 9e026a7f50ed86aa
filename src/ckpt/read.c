/* SPDX-License-Identifier: MIT */
/* read.c - see read.h. A call enters (takes or renews a snapshot) and leaves (gives it back). */
#include "ckpt/read.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/index.h"
#include "ckpt/ldb.h"
#include "ckpt/store_impl.h"

#define LOOK_EVERY_NS 50000000
#define TRIM_BYTES ((size_t)32 << 20)
#define PAGE_BYTES 4096

struct ckpt_reader {
    struct list node;         /* of the store's readers */
    struct ckpt_store *store; /* whose environment is used; NULL: own */
    struct ckpt_env own;
    struct ckpt_env *env;
    MDB_txn *txn;             /* reset between calls; NULL: none yet */
    char *dir;
    uint64_t looked_ns;       /* when the name was last looked at */
    size_t untrimmed;         /* bytes of the map touched since it was trimmed, about */
    ino_t ino;                /* of the file that is open: salvage puts another in its place */
};

static void drop_txn(struct ckpt_reader *r)
{
    if (r->txn != NULL) {
        mdb_txn_abort(r->txn);
        r->txn = NULL;
    }
}

void readers_detach(struct ckpt_store *s)
{
    struct list *pos;

    pthread_mutex_lock(&s->mutex);
    list_for_each(pos, &s->readers) {
        drop_txn(container_of(pos, struct ckpt_reader, node));
    }
    pthread_mutex_unlock(&s->mutex);
}

static int damaged(int rc, const struct ckpt_reader *r)
{
    return rc != TRK_ECORRUPT
               ? rc
               : fail(rc, "the store in %s is damaged: resuming the job repairs it",
                      r->store != NULL ? r->store->dir : r->dir);
}

static int stat_data(const struct ckpt_reader *r, struct stat *st)
{
    char path[4200];

    snprintf(path, sizeof(path), "%s/data.mdb", r->store != NULL ? r->store->dir : r->dir);
    return stat(path, st) == 0 ? 0 : TRK_END;
}

static int open_own(struct ckpt_reader *r)
{
    struct stat st;
    int rc = stat_data(r, &st);

    drop_txn(r);
    env_close(&r->own);
    if (rc == 0) {
        rc = env_open(&r->own, r->dir, ENV_READ, 0);
    }
    r->ino = rc == 0 ? st.st_ino : 0;
    return rc;
}

static int begin(struct ckpt_reader *r)
{
    int rc;

    if (r->txn != NULL) {
        rc = ldb_renew(r->txn);
        if (rc == 0) {
            return 0;
        }
        drop_txn(r);
    }
    rc = ldb_begin(r->env->mdb, MDB_RDONLY, &r->txn);
    if (rc != 0) {
        r->txn = NULL;
    }
    return rc;
}

static bool lacks_table(const struct ckpt_env *env)
{
    for (unsigned i = 0; i < ENV_TABLES; i++) {
        if (env_table_name(i) != NULL && env->tables[i] == ENV_NO_TABLE) {
            return true;
        }
    }
    return false;
}

/* Whether another file is in the place of the open one, or its writer may have made a table that
 * was not there; asked now and then. */
static bool is_outdated(struct ckpt_reader *r)
{
    uint64_t now_ns = sys_now_ns();
    struct stat st;

    if (now_ns - r->looked_ns < LOOK_EVERY_NS) {
        return false;
    }
    r->looked_ns = now_ns;
    return stat_data(r, &st) == 0 && (st.st_ino != r->ino || lacks_table(r->env));
}

static int enter(struct ckpt_reader *r)
{
    int rc = 0;

    if (sys_is_forked() && r->store != NULL) {
        return TRK_EFORKED;
    }
    if (r->store != NULL) {
        pthread_rwlock_rdlock(&r->store->env_lock);
        rc = r->env->mdb == NULL ? TRK_AGAIN : begin(r);
        if (rc != 0) {
            pthread_rwlock_unlock(&r->store->env_lock);
        }
        return rc;
    }
    if (r->own.mdb == NULL || is_outdated(r)) {
        rc = open_own(r);
    }
    if (rc == 0) {
        rc = begin(r);
        if (rc < 0 && ldb_code() == MDB_MAP_RESIZED && (rc = open_own(r)) == 0) {
            rc = begin(r);
        }
    }
    return damaged(rc, r);
}

/* The same, for a read of that table. */
static int enter_table(struct ckpt_reader *r, enum ckpt_kind kind)
{
    return kind > 0 && kind < CKPT_KIND_END ? enter(r) : TRK_EINVAL;
}

/* Pages that were looked at stay in this process's memory, in the end the whole file, unless they
 * are given back. The cache of the system keeps them. */
static int leave(struct ckpt_reader *r, int rc)
{
    mdb_txn_reset(r->txn);
    if (r->untrimmed >= TRIM_BYTES) {
        env_trim(r->env);
        r->untrimmed = 0;
    }
    if (r->store != NULL) {
        pthread_rwlock_unlock(&r->store->env_lock);
    }
    return damaged(rc, r);
}

int ckpt_reader_open(struct ckpt_reader **out, const char *dir)
{
    struct ckpt_reader *r = mem_zalloc(1, sizeof(*r));
    int rc;

    if (r == NULL || (r->dir = mem_strdup(dir)) == NULL) {
        mem_free(r);
        return TRK_ENOMEM;
    }
    list_init(&r->node);
    r->env = &r->own;
    rc = open_own(r);
    if (rc != 0) {
        ckpt_reader_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

int ckpt_reader_of(struct ckpt_reader **out, struct ckpt_store *store)
{
    struct ckpt_reader *r;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    r = mem_zalloc(1, sizeof(*r));
    if (r == NULL) {
        return TRK_ENOMEM;
    }
    r->store = store;
    r->env = &store->env;
    pthread_mutex_lock(&store->mutex);
    list_push_back(&store->readers, &r->node);
    pthread_mutex_unlock(&store->mutex);
    *out = r;
    return 0;
}

void ckpt_reader_free(struct ckpt_reader *r)
{
    if (r == NULL || (sys_is_forked() && r->store != NULL)) {
        return;
    }
    if (r->store != NULL) {
        pthread_rwlock_rdlock(&r->store->env_lock);
        pthread_mutex_lock(&r->store->mutex);
        list_remove(&r->node);
        drop_txn(r);
        pthread_mutex_unlock(&r->store->mutex);
        pthread_rwlock_unlock(&r->store->env_lock);
    } else {
        drop_txn(r);
        env_close(&r->own);
    }
    mem_free(r->dir);
    mem_free(r);
}

/* --- records ---------------- */

static int collect_parts(struct ckpt_reader *r, const struct record_parts *parts,
                         struct blob *blob)
{
    uint8_t bytes[KEY_PART];
    struct digest chain = {{0}};

    key_put_u64(bytes, parts->body);
    for (uint32_t i = 0; i < parts->count; i++) {
        struct record part;
        MDB_val value;
        int rc;
        key_put_u32(bytes + 8, i);
        rc = ldb_get(r->txn, r->env->tables[CKPT_PART], bytes, sizeof(bytes), &value);
        if (rc == 0) {
            rc = record_get(&part, value.mv_data, value.mv_size);
        }
        if (rc != 0 || part.kind != CKPT_PART || part.key_size != sizeof(bytes) ||
            memcmp(part.key, bytes, sizeof(bytes)) != 0 ||
            part.body_size > blob->cap - blob->size) {
            return rc < 0 ? rc : TRK_ECORRUPT;
        }
        r->untrimmed += value.mv_size;
        memcpy(blob->data + blob->size, part.body, part.body_size);
        blob->size += part.body_size;
        record_chain(&chain, &part.digest);
    }
    return blob->size == parts->size &&
                   memcmp(&chain, &parts->chain, sizeof(chain)) == 0
               ? 0
               : TRK_ECORRUPT;
}

/* The value of a record that has been checked, copied. */
static int copy_value(struct ckpt_reader *r, const struct record *record, struct blob **out)
{
    size_t before = record->kind == CKPT_RESULT ? RECORD_RUN_BYTES : 0;
    struct record_parts parts;
    struct blob *blob;
    int rc = 0;

    if ((record->flags & RECORD_IN_PARTS) == 0) {
        *out = blob_dup(record->body + before, record->body_size - before);
        return *out != NULL ? 0 : TRK_ENOMEM;
    }
    rc = record_parts_get(&parts, record);
    if (rc < 0 || parts.size > CKPT_VALUE_MAX) {
        return TRK_ECORRUPT;
    }
    blob = blob_new((size_t)parts.size);
    if (blob == NULL) {
        return TRK_ENOMEM;
    }
    rc = collect_parts(r, &parts, blob);
    if (rc < 0) {
        blob_unref(blob);
        return rc;
    }
    *out = blob;
    return 0;
}

/* Checks what stands under a key: that it is a record, whole, and the one meant. */
static int check_record(struct ckpt_reader *r, enum ckpt_kind kind, const void *key,
                        size_t key_size, const MDB_val *value, struct record *out)
{
    int rc = record_get(out, value->mv_data, value->mv_size);

    r->untrimmed += PAGE_BYTES + value->mv_size;
    if (rc < 0) {
        return rc;
    }
    return out->kind == kind && out->key_size == key_size &&
                   memcmp(out->key, key, key_size) == 0 &&
                   memcmp(out->uuid, r->env->uuid, RECORD_UUID) == 0 &&
                   (kind != CKPT_RESULT || out->body_size >= RECORD_RUN_BYTES)
               ? 0
               : TRK_ECORRUPT;
}

static int find_record(struct ckpt_reader *r, enum ckpt_kind kind, const void *key,
                       size_t key_size, struct record *out)
{
    MDB_val value;
    int rc = TRK_END;

    if (r->env->tables[kind] != ENV_NO_TABLE) {
        rc = ldb_get(r->txn, r->env->tables[kind], key, key_size, &value);
    }
    return rc == 0 ? check_record(r, kind, key, key_size, &value, out) : rc;
}

int ckpt_read_info(struct ckpt_reader *r, struct ckpt_info *out)
{
    struct record_tail tail;
    struct record record;
    struct stat st;
    int rc = enter(r);

    if (rc != 0) {
        return rc;
    }
    memset(out, 0, sizeof(*out));
    rc = env_tail_get(r->env, r->txn, &record, &tail);
    if (rc == 0) {
        memcpy(out->uuid, record.uuid, sizeof(out->uuid));
        out->epoch = record.epoch;
        out->version = tail.version;
        out->records = tail.records;
        out->bytes = stat_data(r, &st) == 0 ? (uint64_t)st.st_size : 0;
    }
    return leave(r, rc);
}

int ckpt_read_get(struct ckpt_reader *r, enum ckpt_kind kind, const void *key, size_t key_size,
                  struct blob **value)
{
    struct record record;
    int rc;

    if (key_size == 0 || key_size > RECORD_KEY_MAX) {
        return TRK_EINVAL;
    }
    rc = enter_table(r, kind);
    if (rc != 0) {
        return rc;
    }
    rc = find_record(r, kind, key, key_size, &record);
    return leave(r, rc == 0 ? copy_value(r, &record, value) : rc);
}

/* The first record of the table behind key, or at it with or_at. */
static int seek(struct ckpt_reader *r, enum ckpt_kind kind, const void *key, size_t key_size,
                bool or_at, MDB_val *found, struct record *out)
{
    MDB_val wanted = {key_size, (void *)key}, value;
    MDB_cursor *cursor;
    int rc;

    if (r->env->tables[kind] == ENV_NO_TABLE) {
        return TRK_END;
    }
    rc = ldb_cursor(r->txn, r->env->tables[kind], &cursor);
    if (rc < 0) {
        return rc;
    }
    *found = wanted;
    rc = ldb_cursor_get(cursor, found, &value, key_size == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (rc == 0 && !or_at && key_size > 0 && found->mv_size == key_size &&
        memcmp(found->mv_data, key, key_size) == 0) {
        rc = ldb_cursor_get(cursor, found, &value, MDB_NEXT);
    }
    if (rc == 0) {
        rc = check_record(r, kind, found->mv_data, found->mv_size, &value, out);
    }
    mdb_cursor_close(cursor);
    return rc;
}

int ckpt_read_next(struct ckpt_reader *r, enum ckpt_kind kind, struct ckpt_read_key *key,
                   struct blob **value)
{
    struct record record;
    MDB_val found;
    int rc = enter_table(r, kind);

    if (rc != 0) {
        return rc;
    }
    rc = seek(r, kind, key->bytes, key->size, false, &found, &record);
    if (rc == 0) {
        rc = copy_value(r, &record, value);
    }
    if (rc == 0) {
        memcpy(key->bytes, record.key, record.key_size);
        key->size = record.key_size;
    }
    return leave(r, rc);
}

/* A record that was found: TRK_END when it is another stage's. */
static int take_numbered(struct ckpt_reader *r, const struct record *record, uint32_t stage,
                         uint64_t *number, struct blob **value)
{
    int rc = TRK_END;

    if (record->key_size == KEY_STAGE_NUMBER && key_get_u32(record->key) == stage) {
        rc = copy_value(r, record, value);
    }
    if (rc == 0) {
        *number = key_get_u64(record->key + 4);
    }
    return rc;
}

int ckpt_read_numbered(struct ckpt_reader *r, enum ckpt_kind kind, uint32_t stage,
                       uint64_t *number, struct blob **value)
{
    uint8_t key[KEY_STAGE_NUMBER];
    struct record record;
    MDB_val found;
    int rc = enter_table(r, kind);

    if (rc != 0) {
        return rc;
    }
    ckpt_key(key, stage, *number);
    rc = seek(r, kind, key, sizeof(key), true, &found, &record);
    return leave(r, rc == 0 ? take_numbered(r, &record, stage, number, value) : rc);
}

/* The record at key, or else the last one before it. */
static int seek_back(struct ckpt_reader *r, enum ckpt_kind kind, const uint8_t *key,
                     size_t key_size, struct record *out)
{
    MDB_val found = {key_size, (void *)key}, value;
    MDB_cursor *cursor;
    int rc;

    if (r->env->tables[kind] == ENV_NO_TABLE) {
        return TRK_END;
    }
    rc = ldb_cursor(r->txn, r->env->tables[kind], &cursor);
    if (rc < 0) {
        return rc;
    }
    rc = ldb_cursor_get(cursor, &found, &value, MDB_SET_RANGE);
    if (rc == TRK_END) {
        rc = ldb_cursor_get(cursor, &found, &value, MDB_LAST);
    } else if (rc == 0 && (found.mv_size != key_size ||
                           memcmp(found.mv_data, key, key_size) != 0)) {
        rc = ldb_cursor_get(cursor, &found, &value, MDB_PREV);
    }
    if (rc == 0) {
        rc = check_record(r, kind, found.mv_data, found.mv_size, &value, out);
    }
    mdb_cursor_close(cursor);
    return rc;
}

int ckpt_read_before(struct ckpt_reader *r, enum ckpt_kind kind, uint32_t stage,
                     uint64_t *number, struct blob **value)
{
    uint8_t key[KEY_STAGE_NUMBER];
    struct record record;
    int rc = enter_table(r, kind);

    if (rc != 0) {
        return rc;
    }
    ckpt_key(key, stage, *number);
    rc = seek_back(r, kind, key, sizeof(key), &record);
    return leave(r, rc == 0 ? take_numbered(r, &record, stage, number, value) : rc);
}

int ckpt_read_size(struct ckpt_reader *r, enum ckpt_kind kind, const void *key, size_t key_size,
                   uint64_t *size)
{
    struct record_parts parts;
    struct record record;
    uint8_t end[KEY_PART];
    int rc = enter_table(r, kind);

    if (rc != 0) {
        return rc;
    }
    rc = find_record(r, kind, key, key_size, &record);
    if (rc == 0 && (record.flags & RECORD_IN_PARTS) != 0) {
        rc = record_parts_get(&parts, &record);
        rc = rc == 0 ? env_parts_check(r->env, r->txn, &record, end) : rc;
        *size = parts.size;
    } else if (rc == 0) {
        *size = record.body_size;
    }
    return leave(r, rc);
}

int ckpt_read_count(struct ckpt_reader *r, uint32_t stage, struct record_count *out)
{
    uint8_t key[KEY_STAGE];
    struct record record;
    int rc = enter(r);

    if (rc != 0) {
        return rc;
    }
    memset(out, 0, sizeof(*out));
    key_put_u32(key, stage);
    rc = find_record(r, CKPT_COUNT, key, sizeof(key), &record);
    if (rc == 0) {
        rc = record_count_get(out, &record);
    }
    return leave(r, rc == TRK_END ? 0 : rc);
}

/* --- results ---------------- */

static int find(struct ckpt_reader *r, uint32_t stage, uint64_t at, struct ckpt_found *out)
{
    struct index_entry e;
    MDB_cursor *cursor;
    int rc = ldb_cursor(r->txn, r->env->tables[ENV_INDEX], &cursor);

    if (rc < 0) {
        return rc;
    }
    rc = index_find(cursor, stage, at, &e);
    mdb_cursor_close(cursor);
    if (rc == 0) {
        *out = (struct ckpt_found){.first = e.first, .count = e.count, .seq = e.seq};
    }
    return rc;
}

int ckpt_read_find(struct ckpt_reader *r, uint32_t stage, uint64_t at, struct ckpt_found *out)
{
    int rc = enter(r);

    return rc != 0 ? rc : leave(r, find(r, stage, at, out));
}

int ckpt_read_at(struct ckpt_reader *r, uint32_t stage, uint64_t at, struct ckpt_result *out)
{
    uint8_t key[KEY_STAGE_NUMBER];
    struct record record;
    int rc = enter(r);

    if (rc != 0) {
        return rc;
    }
    rc = find(r, stage, at, &out->found);
    if (rc == 0) {
        ckpt_key(key, stage, out->found.seq);
        rc = find_record(r, CKPT_RESULT, key, sizeof(key), &record);
        rc = rc == TRK_END ? TRK_ECORRUPT : rc;
    }
    if (rc == 0) {
        rc = record_run_get(&out->run, &record);
    }
    if (rc == 0 && (out->found.first < out->run.first || out->found.first + out->found.count >
                                                             out->run.first + out->run.count)) {
        rc = TRK_ECORRUPT;
    }
    if (rc == 0) {
        rc = copy_value(r, &record, &out->value);
    }
    return leave(r, rc);
}

/* The next piece of the record, from at on, whose elements have their results in it. */
static int live_piece(struct ckpt_reader *r, uint32_t stage, uint64_t seq, uint64_t at,
                      const struct record_run *run, struct ckpt_found *out)
{
    uint64_t end = run->first + run->count;

    at = at > run->first ? at : run->first;
    while (at < end) {
        int rc = find(r, stage, at, out);
        if (rc != 0) {
            return rc;
        }
        if (out->first >= end) {
            break;
        }
        if (out->seq == seq) {
            if (out->first < run->first || out->first + out->count > end) {
                return TRK_ECORRUPT;
            }
            if (out->first < at) { /* whoever reads has had its begin */
                out->count -= at - out->first;
                out->first = at;
            }
            return 0;
        }
        at = out->first + out->count;
    }
    return TRK_END;
}

int ckpt_read_recorded(struct ckpt_reader *r, uint32_t stage, struct ckpt_position *position,
                       struct ckpt_result *out)
{
    uint8_t key[KEY_STAGE_NUMBER];
    struct record record;
    MDB_val found;
    bool or_at = true;
    int rc = enter(r);

    if (rc != 0) {
        return rc;
    }
    for (;;) {
        uint64_t seq;
        ckpt_key(key, stage, position->seq);
        rc = seek(r, CKPT_RESULT, key, sizeof(key), or_at, &found, &record);
        if (rc == 0 && (record.key_size != sizeof(key) || key_get_u32(record.key) != stage)) {
            rc = TRK_END;
        }
        if (rc == 0) {
            rc = record_run_get(&out->run, &record);
        }
        if (rc != 0) {
            break;
        }
        seq = key_get_u64(record.key + 4);
        rc = live_piece(r, stage, seq, seq == position->seq ? position->at : 0, &out->run,
                        &out->found);
        if (rc == 0) {
            rc = copy_value(r, &record, &out->value);
        }
        if (rc == 0) {
            *position = (struct ckpt_position){seq, out->found.first + out->found.count};
        }
        if (rc != TRK_END) {
            break;
        }
        *position = (struct ckpt_position){seq, UINT64_MAX};
        or_at = false;
    }
    return leave(r, rc);
}
