/* SPDX-License-Identifier: MIT */
/* index.c - see index.h. */
#include "ckpt/index.h"

#include <stdbool.h>

#include "ckpt/ldb.h"

static int entry_at(MDB_cursor *cursor, MDB_val *key, MDB_cursor_op op, struct index_entry *e)
{
    MDB_val value;
    int rc = ldb_cursor_get(cursor, key, &value, op);

    return rc == 0 ? index_entry_get(e, key->mv_data, key->mv_size, value.mv_data, value.mv_size)
                   : rc;
}

int index_find(MDB_cursor *cursor, uint32_t stage, uint64_t at, struct index_entry *e)
{
    uint8_t bytes[KEY_INDEX] = {0};
    MDB_val key = {sizeof(bytes), bytes};
    struct index_entry before;
    int rc, rc_before;

    key_put_u32(bytes, stage);
    key_put_u64(bytes + 4, at);
    rc = entry_at(cursor, &key, MDB_SET_RANGE, e);
    if (rc < 0 || (rc == 0 && e->stage == stage && e->first == at)) {
        return rc;
    }
    /* At the end of the table PREV does not work from nowhere, LAST does. */
    rc_before = entry_at(cursor, &key, rc == 0 ? MDB_PREV : MDB_LAST, &before);
    if (rc_before < 0) {
        return rc_before;
    }
    if (rc_before == 0 && before.stage == stage && before.first + before.count > at) {
        *e = before;
        return 0;
    }
    return rc == 0 && e->stage == stage ? 0 : TRK_END;
}

static int put(MDB_txn *txn, MDB_dbi dbi, struct record_tail *tail, struct index_entry *e,
               bool is_last)
{
    uint8_t key[KEY_INDEX], value[INDEX_VALUE];
    MDB_val val = {sizeof(value), value};
    int rc;

    index_entry_put(key, value, e);
    rc = ldb_put(txn, dbi, key, sizeof(key), &val, is_last ? MDB_APPEND : MDB_NOOVERWRITE);
    if (rc == 0) {
        tail->index_count++;
        tail->index_sum += e->check;
    }
    return rc > 0 ? TRK_ECORRUPT : rc;
}

static bool is_behind(const struct index_entry *last, uint32_t stage, uint64_t at)
{
    return last->count > 0 &&
           (last->stage < stage || (last->stage == stage && last->first + last->count <= at));
}

int index_add(MDB_txn *txn, MDB_dbi dbi, MDB_cursor *cursor, struct record_tail *tail,
              struct index_entry *last, const struct index_entry *run, uint64_t *added)
{
    uint64_t at = run->first, end = run->first + run->count;
    int rc = 0;

    *added = 0;
    if (last->count == 0) {
        MDB_val key;
        rc = entry_at(cursor, &key, MDB_LAST, last);
        last->count = rc == 0 ? last->count : 0;
    }
    rc = rc < 0 ? rc : 0;
    while (rc == 0 && at < end) {
        struct index_entry next, e = {.stage = run->stage, .first = at, .seq = run->seq};
        bool is_last = is_behind(last, run->stage, at);
        uint64_t stop = end;

        rc = is_last ? TRK_END : index_find(cursor, run->stage, at, &next);
        if (rc < 0) {
            return rc;
        }
        if (rc == 0 && next.first <= at) {
            at = next.first + next.count;
            continue;
        }
        if (rc == 0 && next.first < end) {
            stop = next.first;
        }
        e.count = stop - at;
        rc = put(txn, dbi, tail, &e, is_last);
        if (is_last || last->count == 0) {
            *last = e;
        }
        *added += e.count;
        at = stop;
    }
    return rc;
}

static int cut(MDB_txn *txn, MDB_dbi dbi, struct record_tail *tail, struct index_entry *e,
               uint64_t first, uint64_t end)
{
    uint8_t key[KEY_INDEX], value[INDEX_VALUE];
    struct index_entry left = *e, right = *e;
    int rc;

    index_entry_put(key, value, e);
    rc = ldb_del(txn, dbi, key, sizeof(key));
    if (rc != 0) {
        return rc < 0 ? rc : TRK_ECORRUPT;
    }
    tail->index_count--;
    tail->index_sum -= e->check;
    if (e->first < first) {
        left.count = first - e->first;
        rc = put(txn, dbi, tail, &left, false);
    }
    if (rc == 0 && e->first + e->count > end) {
        right.first = end;
        right.count = e->first + e->count - end;
        rc = put(txn, dbi, tail, &right, false);
    }
    return rc;
}

int index_remove(MDB_txn *txn, MDB_dbi dbi, MDB_cursor *cursor, struct record_tail *tail,
                 const struct index_entry *run, uint64_t *removed)
{
    uint64_t at = run->first, end = run->first + run->count;
    int rc = 0;

    *removed = 0;
    while (rc == 0 && at < end) {
        struct index_entry e;
        uint64_t first, stop;

        rc = index_find(cursor, run->stage, at, &e);
        if (rc != 0 || e.first >= end) {
            break;
        }
        first = e.first < at ? at : e.first;
        stop = e.first + e.count < end ? e.first + e.count : end;
        rc = cut(txn, dbi, tail, &e, at, end);
        *removed += stop - first;
        at = stop;
    }
    return rc < 0 ? rc : 0;
}
