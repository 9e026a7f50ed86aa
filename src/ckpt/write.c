/* SPDX-License-Identifier: MIT */
/* write.c - see write.h.
 *
 * Values are written straight into LMDB's pages (MDB_RESERVE): body first, then the head with its
 * digests. Records whose keys only grow are appended, which keeps pages full; only where that is
 * refused an older record of the same key is looked for. */
#include "ckpt/write.h"

#include <assert.h>
#include <string.h>

#include "ckpt/index.h"
#include "ckpt/ldb.h"

int writer_begin(struct writer *w, struct ckpt_env *env)
{
    memset(w, 0, sizeof(*w));
    w->env = env;
    w->tail = env->tail;
    return ldb_begin(env->mdb, 0, &w->txn);
}

void writer_abort(struct writer *w)
{
    if (w->txn != NULL) {
        mdb_txn_abort(w->txn); /* its cursors go with it */
        w->txn = NULL;
    }
}

/* Takes a record that is replaced or deleted out of the sums. */
static int subtract(struct writer *w, const MDB_val *value, struct record *r)
{
    int rc = record_head_get(r, value->mv_data, value->mv_size);

    if (rc == 0) {
        record_sum_sub(w->tail.sum, &r->digest);
        w->tail.records--;
    }
    return rc;
}

/* The record of this key goes away; *body: the number of its parts, or 0. */
static int retire(struct writer *w, enum ckpt_kind kind, const void *key, size_t key_size,
                  uint64_t *body)
{
    struct record_parts parts;
    struct record old;
    MDB_val value;
    int rc = ldb_get(w->txn, w->env->tables[kind], key, key_size, &value);

    *body = 0;
    if (rc == 0) {
        rc = subtract(w, &value, &old);
        if (rc == 0 && (old.flags & RECORD_IN_PARTS) != 0) {
            rc = record_parts_get(&parts, &old);
            *body = rc == 0 ? parts.body : 0;
        }
    }
    return rc;
}

/* Room for a record of this key: at its end when it can be, in place of an older one if not. */
static int reserve(struct writer *w, const struct record *r, MDB_val *value)
{
    MDB_dbi dbi = w->env->tables[r->kind];
    bool is_plain = r->kind == CKPT_TAIL; /* no part of the sums */
    uint64_t body = 0;
    int rc = TRK_AGAIN;

    if (!is_plain && r->kind != CKPT_COUNT) {
        rc = ldb_put(w->txn, dbi, r->key, r->key_size, value, MDB_APPEND | MDB_RESERVE);
    }
    if (rc == TRK_AGAIN) {
        if (!is_plain) {
            rc = retire(w, r->kind, r->key, r->key_size, &body);
            if (rc < 0) {
                return rc;
            }
        }
        if (body != 0 && (rc = writer_drop_parts(w, body)) < 0) {
            return rc;
        }
        rc = ldb_put(w->txn, dbi, r->key, r->key_size, value, MDB_RESERVE);
    }
    return rc > 0 ? TRK_ECORRUPT : rc;
}

/* Writes prefix and slices as the body of r, whose key, kind, flags and version are set. */
static int put(struct writer *w, struct record *r, const void *prefix, size_t prefix_size,
               const struct ckpt_slice *slices, unsigned count)
{
    MDB_val value = {0, NULL};
    uint8_t *at;
    int rc;

    r->body_size = prefix_size;
    for (unsigned i = 0; i < count; i++) {
        r->body_size += slices[i].size;
    }
    assert(r->key_size <= RECORD_KEY_MAX && r->body_size <= RECORD_BODY_MAX);
    value.mv_size = record_size(r->key_size, r->body_size);
    rc = reserve(w, r, &value);
    if (rc < 0) {
        return rc;
    }
    at = (uint8_t *)value.mv_data + RECORD_HEAD + r->key_size;
    if (prefix_size > 0) {
        memcpy(at, prefix, prefix_size);
        at += prefix_size;
    }
    for (unsigned i = 0; i < count; i++) {
        if (slices[i].size > 0) {
            memcpy(at, slices[i].bytes, slices[i].size);
            at += slices[i].size;
        }
    }
    r->uuid = w->env->uuid;
    r->epoch = w->env->epoch;
    r->base = w->env->base;
    record_seal(value.mv_data, r);
    if (r->kind != CKPT_TAIL) {
        record_sum_add(w->tail.sum, &r->digest);
        w->tail.records++;
    }
    w->bytes += value.mv_size;
    w->records++;
    return 0;
}

int writer_put(struct writer *w, enum ckpt_kind kind, const void *key, size_t key_size,
               const struct ckpt_slice *slices, unsigned count)
{
    struct record r = {.kind = kind, .key = key, .key_size = key_size,
                       .version = ++w->tail.version};

    return put(w, &r, NULL, 0, slices, count);
}

/* The mark behind the last part: without it they belong to nobody and are dropped. */
static int end_parts(struct writer *w, const struct writer_parts *parts)
{
    uint8_t key[KEY_PART];

    key_put_u64(key, parts->body);
    key_put_u32(key + 8, PART_END);
    return writer_put(w, CKPT_PART, key, sizeof(key), NULL, 0);
}

static void describe(uint8_t out[RECORD_PARTS_BYTES], const struct writer_parts *parts)
{
    record_parts_put(out, &(struct record_parts){.body = parts->body, .size = parts->size,
                                                 .count = parts->count, .chain = parts->chain});
}

int writer_put_parts(struct writer *w, enum ckpt_kind kind, const void *key, size_t key_size,
                     const struct writer_parts *parts)
{
    struct record r = {.kind = kind, .key = key, .key_size = key_size, .flags = RECORD_IN_PARTS};
    uint8_t described[RECORD_PARTS_BYTES];
    int rc = end_parts(w, parts);

    describe(described, parts);
    r.version = ++w->tail.version;
    return rc < 0 ? rc : put(w, &r, described, sizeof(described), NULL, 0);
}

/* --- counters ---------------- */

static int flush_count(struct writer *w, unsigned i)
{
    uint8_t key[KEY_STAGE], body[RECORD_COUNT_BYTES];
    struct record r = {.kind = CKPT_COUNT, .key = key, .key_size = sizeof(key),
                       .version = w->tail.version};

    key_put_u32(key, w->counts[i].stage);
    record_count_put(body, &w->counts[i].count);
    return put(w, &r, body, sizeof(body), NULL, 0);
}

static int load_count(struct writer *w, uint32_t stage, struct record_count *count)
{
    uint8_t key[KEY_STAGE];
    struct record r;
    MDB_val value;
    int rc;

    memset(count, 0, sizeof(*count));
    key_put_u32(key, stage);
    rc = ldb_get(w->txn, w->env->tables[CKPT_COUNT], key, sizeof(key), &value);
    if (rc != 0) {
        return rc == TRK_END ? 0 : rc;
    }
    rc = record_get(&r, value.mv_data, value.mv_size);
    return rc == 0 ? record_count_get(count, &r) : rc;
}

/* The stage's counters, for changing; written when the transaction ends or others need the room. */
static int count_of(struct writer *w, uint32_t stage, struct record_count **out)
{
    unsigned i;
    int rc;

    for (i = 0; i < w->counts_count; i++) {
        if (w->counts[i].stage == stage) {
            *out = &w->counts[i].count;
            return 0;
        }
    }
    if (i == WRITER_COUNTS) {
        i = stage % WRITER_COUNTS;
        rc = flush_count(w, i);
        if (rc < 0) {
            return rc;
        }
    } else {
        w->counts_count++;
    }
    w->counts[i].stage = stage;
    *out = &w->counts[i].count;
    return load_count(w, stage, *out);
}

int writer_commit(struct writer *w)
{
    uint8_t body[RECORD_TAIL_BYTES];
    struct record r = {.kind = CKPT_TAIL, .key = (const uint8_t *)"tail", .key_size = 4,
                       .version = w->tail.version};
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < w->counts_count; i++) {
        rc = flush_count(w, i);
    }
    if (rc == 0) {
        record_tail_put(body, &w->tail);
        rc = put(w, &r, body, sizeof(body), NULL, 0);
    }
    if (rc < 0) {
        writer_abort(w);
        return rc;
    }
    rc = ldb_commit(w->txn);
    w->txn = NULL;
    if (rc == 0) {
        w->env->tail = w->tail;
    }
    return rc > 0 ? TRK_EIO : rc;
}

/* --- results ---------------- */

static int open_index(struct writer *w)
{
    return w->index != NULL ? 0 : ldb_cursor(w->txn, w->env->tables[ENV_INDEX], &w->index);
}

/* Index and counters of a result record of this version. */
static int enter(struct writer *w, uint32_t stage, uint64_t seq, const struct record_run *run,
                 uint64_t bytes)
{
    struct index_entry e = {.stage = stage, .first = run->first, .count = run->count, .seq = seq};
    struct record_count *count;
    uint64_t added;
    int rc = open_index(w);

    if (rc == 0) {
        rc = index_add(w->txn, w->env->tables[ENV_INDEX], w->index, &w->tail, &w->index_last, &e,
                       &added);
    }
    if (rc == 0) {
        rc = count_of(w, stage, &count);
    }
    if (rc == 0) {
        count->recorded += added;
        count->failed += run->failed < added ? run->failed : added;
        count->runs++;
        count->bytes += bytes;
    }
    return rc;
}

static void result_key(uint8_t key[KEY_STAGE_NUMBER], uint32_t stage, uint64_t seq)
{
    key_put_u32(key, stage);
    key_put_u64(key + 4, seq);
}

int writer_result(struct writer *w, uint32_t stage, const struct record_run *run,
                  const struct ckpt_slice *slices, unsigned count)
{
    uint8_t key[KEY_STAGE_NUMBER], head[RECORD_RUN_BYTES];
    struct record r = {.kind = CKPT_RESULT, .key = key, .key_size = sizeof(key),
                       .version = ++w->tail.version};
    int rc;

    result_key(key, stage, r.version);
    record_run_put(head, run);
    rc = put(w, &r, head, sizeof(head), slices, count);
    return rc < 0 ? rc : enter(w, stage, r.version, run, r.body_size - sizeof(head));
}

int writer_result_parts(struct writer *w, uint32_t stage, const struct record_run *run,
                        const struct writer_parts *parts)
{
    uint8_t key[KEY_STAGE_NUMBER], head[RECORD_RUN_BYTES + RECORD_PARTS_BYTES];
    struct record r = {.kind = CKPT_RESULT, .key = key, .key_size = sizeof(key),
                       .flags = RECORD_IN_PARTS};
    int rc = end_parts(w, parts);

    if (rc < 0) {
        return rc;
    }
    r.version = ++w->tail.version;
    result_key(key, stage, r.version);
    record_run_put(head, run);
    describe(head + RECORD_RUN_BYTES, parts);
    rc = put(w, &r, head, sizeof(head), NULL, 0);
    return rc < 0 ? rc : enter(w, stage, r.version, run, parts->size);
}

/* --- parts ---------------- */

int writer_part(struct writer *w, struct writer_parts *parts, const struct ckpt_slice *slices,
                unsigned count)
{
    uint8_t key[KEY_PART];
    struct record r = {.kind = CKPT_PART, .key = key, .key_size = sizeof(key),
                       .version = ++w->tail.version};
    int rc;

    if (parts->body == 0) {
        parts->body = r.version; /* a number that no other has */
    }
    key_put_u64(key, parts->body);
    key_put_u32(key + 8, parts->count);
    rc = put(w, &r, NULL, 0, slices, count);
    if (rc == 0) {
        record_chain(&parts->chain, &r.digest);
        parts->size += r.body_size;
        parts->count++;
    }
    return rc;
}

int writer_drop_parts(struct writer *w, uint64_t body)
{
    uint8_t from[KEY_PART] = {0};
    MDB_val key = {sizeof(from), from}, value;
    MDB_cursor *cursor;
    struct record r;
    int rc = ldb_cursor(w->txn, w->env->tables[CKPT_PART], &cursor);

    if (rc < 0) {
        return rc;
    }
    key_put_u64(from, body);
    rc = ldb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (rc == 0 && key.mv_size == KEY_PART && key_get_u64(key.mv_data) == body) {
        rc = subtract(w, &value, &r);
        if (rc == 0) {
            rc = ldb_cursor_del(cursor);
        }
        if (rc == 0) { /* the cursor stands on what follows the deleted one */
            rc = ldb_cursor_get(cursor, &key, &value, MDB_GET_CURRENT);
            if (rc != 0) {
                key = (MDB_val){sizeof(from), from};
                rc = ldb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
            }
        }
    }
    mdb_cursor_close(cursor);
    return rc < 0 ? rc : 0;
}

/* --- forgetting, deleting ---------------- */

/* Index and counters of a forget record. */
static int leave(struct writer *w, uint32_t stage, const struct record_run *run)
{
    struct index_entry e = {.stage = stage, .first = run->first, .count = run->count};
    struct record_count *count;
    uint64_t removed;
    int rc = open_index(w);

    if (rc == 0) {
        w->index_last.count = 0;
        rc = index_remove(w->txn, w->env->tables[ENV_INDEX], w->index, &w->tail, &e, &removed);
    }
    if (rc == 0) {
        rc = count_of(w, stage, &count);
    }
    if (rc == 0) {
        count->recorded -= removed < count->recorded ? removed : count->recorded;
        count->failed -= run->failed < count->failed ? run->failed : count->failed;
        count->failed = count->failed < count->recorded ? count->failed : count->recorded;
    }
    return rc;
}

int writer_forget(struct writer *w, uint32_t stage, const struct record_run *run)
{
    uint8_t key[KEY_STAGE_NUMBER], body[RECORD_RUN_BYTES];
    struct record r = {.kind = CKPT_FORGET, .key = key, .key_size = sizeof(key),
                       .version = ++w->tail.version};
    int rc;

    result_key(key, stage, r.version);
    record_run_put(body, run);
    rc = put(w, &r, body, sizeof(body), NULL, 0);
    return rc < 0 ? rc : leave(w, stage, run);
}

int writer_delete(struct writer *w, enum ckpt_kind kind, const void *key, size_t key_size)
{
    uint64_t body;
    int rc = retire(w, kind, key, key_size, &body);

    if (rc == 0 && body != 0) {
        rc = writer_drop_parts(w, body);
    }
    if (rc == 0) {
        rc = ldb_del(w->txn, w->env->tables[kind], key, key_size);
    }
    return rc < 0 ? rc : 0;
}

/* --- salvage ---------------- */

int writer_adopt(struct writer *w, const struct record *r)
{
    size_t size = record_size(r->key_size, r->body_size);
    MDB_val value = {size, NULL};
    int rc = reserve(w, r, &value);

    if (rc < 0) {
        return rc;
    }
    /* Head, key and body stand in one piece, as they were found. */
    memcpy(value.mv_data, r->body - r->key_size - RECORD_HEAD, size);
    record_sum_add(w->tail.sum, &r->digest);
    w->tail.records++;
    if (w->tail.version < r->version) {
        w->tail.version = r->version;
    }
    w->bytes += size;
    w->records++;
    return 0;
}

int writer_replay(struct writer *w, const struct record *r)
{
    struct record_parts parts = {.size = 0};
    struct record_run run;
    uint32_t stage;
    int rc = record_run_get(&run, r);

    if (rc < 0) {
        return rc;
    }
    stage = key_get_u32(r->key);
    w->records++; /* of work, not of records */
    if (r->kind == CKPT_FORGET) {
        return leave(w, stage, &run);
    }
    if ((r->flags & RECORD_IN_PARTS) != 0) {
        rc = record_parts_get(&parts, r);
    } else {
        parts.size = r->body_size - RECORD_RUN_BYTES;
    }
    return rc < 0 ? rc : enter(w, stage, r->version, &run, parts.size);
}
