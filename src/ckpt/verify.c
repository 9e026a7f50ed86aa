/* SPDX-License-Identifier: MIT */
/* verify.c - walks a store that nobody writes to.
 *
 * First the pages (pages.h), so that LMDB can be let at them; then, through LMDB, every record:
 * its digests, that it stands under its own key in the table of its kind, that values in parts are
 * whole; the index as a set; and the sums of the tail over all of them, which notice what is
 * valid in itself but not what was written last: an older page, a missing one. Last, the note
 * beside the store: a meta page that fell back by a transaction is sound, but not the newest. */
#include "ckpt/verify.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "ckpt/env.h"
#include "ckpt/last.h"
#include "ckpt/ldb.h"
#include "ckpt/pages.h"

#define PROGRESS_EVERY 10000

struct verifier {
    struct ckpt_env env;
    MDB_txn *txn;
    struct verify_report *report;
    struct record_tail found;
    uint64_t recorded_index, recorded_counts; /* elements, by the index and by the counters */
    void (*progress)(uint64_t records);
};

static int bad(struct verifier *v, unsigned table, const char *what)
{
    snprintf(v->report->why, sizeof(v->report->why), "%s: %s", env_table_name(table), what);
    return TRK_ECORRUPT;
}

/* The bodies of the parts are checked where their table is walked. */
static int check_parts(struct verifier *v, const struct record *r)
{
    uint8_t end[KEY_PART];
    MDB_val value;

    return env_parts_check(&v->env, v->txn, r, end) == 0 &&
                   ldb_get(v->txn, v->env.tables[CKPT_PART], end, sizeof(end), &value) == 0
               ? 0
               : TRK_ECORRUPT;
}

static int check_record(struct verifier *v, unsigned table, const MDB_val *key,
                        const MDB_val *value)
{
    struct record_count count;
    struct record_run run;
    struct record r;
    int rc = record_get(&r, value->mv_data, value->mv_size);

    if (rc < 0) {
        return rc == TRK_EVERSION ? rc : bad(v, table, "a record is damaged");
    }
    if (r.kind != table || r.key_size != key->mv_size ||
        memcmp(r.key, key->mv_data, r.key_size) != 0 ||
        memcmp(r.uuid, v->env.uuid, RECORD_UUID) != 0 || r.version > v->env.tail.version ||
        r.epoch > v->env.epoch) {
        return bad(v, table, "a record stands where another belongs");
    }
    if (r.kind == CKPT_RESULT || r.kind == CKPT_FORGET) {
        rc = record_run_get(&run, &r);
        if (rc == 0 && key_get_u64(r.key + 4) != r.version) {
            rc = TRK_ECORRUPT;
        }
    } else if (r.kind == CKPT_COUNT) {
        rc = record_count_get(&count, &r);
        v->recorded_counts += rc == 0 ? count.recorded : 0;
    }
    if (rc == 0 && (r.flags & RECORD_IN_PARTS) != 0) {
        rc = check_parts(v, &r);
    }
    if (rc < 0) {
        return bad(v, table, "a record is not complete");
    }
    if (table != CKPT_TAIL) {
        record_sum_add(v->found.sum, &r.digest);
        v->found.records++;
    }
    return 0;
}

static int check_index(struct verifier *v, const MDB_val *key, const MDB_val *value,
                       struct index_entry *last)
{
    struct index_entry e;
    int rc = index_entry_get(&e, key->mv_data, key->mv_size, value->mv_data, value->mv_size);

    if (rc < 0 || (last->count > 0 && last->stage == e.stage &&
                   last->first + last->count > e.first)) {
        return bad(v, ENV_INDEX, "an entry is damaged");
    }
    v->found.index_count++;
    v->found.index_sum += e.check;
    v->recorded_index += e.count;
    *last = e;
    return 0;
}

static int walk_table(struct verifier *v, unsigned table)
{
    struct index_entry last = {0};
    MDB_val key, value;
    MDB_cursor *cursor;
    MDB_stat stat;
    uint64_t count = 0;
    int rc = ldb_cursor(v->txn, v->env.tables[table], &cursor);

    if (rc < 0) {
        return rc;
    }
    if (mdb_stat(v->txn, v->env.tables[table], &stat) != 0) {
        stat.ms_entries = 0;
    }
    rc = ldb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (rc == 0) {
        /* A damaged tree can be endless. */
        if (++count > stat.ms_entries) {
            rc = bad(v, table, "it has no end");
            break;
        }
        rc = table == ENV_INDEX ? check_index(v, &key, &value, &last)
                                : check_record(v, table, &key, &value);
        if (rc == 0) {
            if (++v->report->records % PROGRESS_EVERY == 0 && v->progress != NULL) {
                v->progress(v->report->records);
            }
            rc = ldb_cursor_get(cursor, &key, &value, MDB_NEXT);
        }
    }
    mdb_cursor_close(cursor);
    return rc == TRK_END ? 0 : rc;
}

static int compare(struct verifier *v, const char *dir)
{
    const struct record_tail *tail = &v->env.tail;
    struct last_note note;

    if (v->found.records != tail->records ||
        memcmp(v->found.sum, tail->sum, sizeof(tail->sum)) != 0) {
        return bad(v, CKPT_TAIL, "records are missing, or not those that were written last");
    }
    if (v->found.index_count != tail->index_count || v->found.index_sum != tail->index_sum ||
        v->recorded_index != v->recorded_counts) {
        return bad(v, ENV_INDEX, "entries are missing, or not those that were written last");
    }
    if (last_read(dir, v->env.uuid, &note) == 0 &&
        (note.epoch > v->env.epoch || note.version > tail->version)) {
        return bad(v, CKPT_TAIL, "the newest transactions are missing");
    }
    return 0;
}

static int walk(struct verifier *v, const char *dir)
{
    int rc = ldb_begin(v->env.mdb, MDB_RDONLY, &v->txn);

    for (unsigned table = 0; rc == 0 && table < ENV_TABLES; table++) {
        if (env_table_name(table) != NULL && v->env.tables[table] != ENV_NO_TABLE) {
            rc = walk_table(v, table);
        }
    }
    if (rc == 0) {
        rc = compare(v, dir);
    }
    if (v->txn != NULL) {
        mdb_txn_abort(v->txn);
    }
    return rc;
}

int verify_store(const char *dir, struct verify_report *report, void (*progress)(uint64_t records))
{
    struct verifier v = {.report = report, .progress = progress};
    char path[4200];
    int rc;

    memset(report, 0, sizeof(*report));
    snprintf(path, sizeof(path), "%s/data.mdb", dir);
    rc = pages_check(path, report->why, sizeof(report->why));
    if (rc < 0) {
        return rc;
    }
    rc = env_open(&v.env, dir, ENV_CHECK, 0);
    if (rc == TRK_END) {
        snprintf(report->why, sizeof(report->why), "it has no tables or no tail");
        return TRK_ECORRUPT;
    }
    if (rc == TRK_ECORRUPT) {
        snprintf(report->why, sizeof(report->why), "its tail is damaged");
    } else if (rc != 0) {
        snprintf(report->why, sizeof(report->why), "cannot be opened: %s", ldb_text());
    } else {
        rc = walk(&v, dir);
        report->elements = v.recorded_index;
        report->version = v.env.tail.version;
        if (rc < 0 && report->why[0] == '\0') {
            snprintf(report->why, sizeof(report->why), "%s", trk_strerror(rc));
        }
    }
    env_close(&v.env);
    return rc;
}
