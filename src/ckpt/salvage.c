/* SPDX-License-Identifier: MIT */
/* salvage.c - a new store from the records of a damaged one.
 *
 *   1  scan: whose records they are (by most), and for each epoch what was durable at its begin
 *   2  scan again: every record that counts goes into a new environment beside the old one
 *   3  values in parts whose parts are not all there are dropped; their elements run again
 *   4  results and forgets, in their order, make index and counters anew
 *   5  the new file takes the place of the old one, which is kept under another name
 *
 * Memory does not grow with the store. A crash on the way leaves the damaged store as it was. */
#include "ckpt/salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ckpt/home.h"
#include "ckpt/ldb.h"
#include "ckpt/scan.h"
#include "ckpt/store_impl.h"

#define UUIDS_MAX 16
#define TXN_BYTES ((size_t)32 << 20)
#define TXN_RECORDS 65536

struct epoch {
    uint32_t epoch;
    uint64_t base;
};

struct stage_count { /* the newest counter of a stage */
    uint32_t stage, epoch;
    uint64_t version, recorded;
};

struct salvage {
    const char *dir;
    char work_dir[4200];
    struct {
        uint8_t uuid[RECORD_UUID];
        uint64_t count;
    } uuids[UUIDS_MAX];
    unsigned uuids_count;
    uint8_t uuid[RECORD_UUID];
    struct epoch *epochs;
    size_t epochs_count, epochs_cap;
    struct stage_count *counts;
    size_t counts_count, counts_cap;
    uint64_t version_max;
    uint32_t epoch_max;
    struct ckpt_env env;
    struct writer w;
    struct ckpt_salvaged *report;
};

/* --- 1: what is there ---------------- */

static int note_uuid(void *ctx, const struct record *r)
{
    struct salvage *s = ctx;
    unsigned i;

    for (i = 0; i < s->uuids_count; i++) {
        if (memcmp(s->uuids[i].uuid, r->uuid, RECORD_UUID) == 0) {
            s->uuids[i].count++;
            return 0;
        }
    }
    if (i < UUIDS_MAX) {
        memcpy(s->uuids[i].uuid, r->uuid, RECORD_UUID);
        s->uuids[i].count = 1;
        s->uuids_count++;
    }
    return 0;
}

static bool is_ours(const struct salvage *s, const struct record *r)
{
    return memcmp(r->uuid, s->uuid, RECORD_UUID) == 0;
}

static int grow(void **items, size_t *cap, size_t count, size_t size)
{
    size_t wanted = *cap != 0 ? *cap * 2 : 64;
    void *moved;

    if (count < *cap) {
        return 0;
    }
    moved = mem_realloc(*items, wanted * size);
    if (moved == NULL) {
        return TRK_ENOMEM;
    }
    *items = moved;
    *cap = wanted;
    return 0;
}

static int note_epoch(void *ctx, const struct record *r)
{
    struct salvage *s = ctx;
    int rc;

    if (!is_ours(s, r)) {
        return 0;
    }
    s->version_max = r->version > s->version_max ? r->version : s->version_max;
    s->epoch_max = r->epoch > s->epoch_max ? r->epoch : s->epoch_max;
    for (size_t i = s->epochs_count; i-- > 0;) { /* records of one epoch stand together */
        if (s->epochs[i].epoch == r->epoch) {
            s->epochs[i].base = r->base < s->epochs[i].base ? r->base : s->epochs[i].base;
            return 0;
        }
    }
    rc = grow((void **)&s->epochs, &s->epochs_cap, s->epochs_count, sizeof(*s->epochs));
    if (rc == 0) {
        s->epochs[s->epochs_count++] = (struct epoch){r->epoch, r->base};
    }
    return rc;
}

/* A later writer began below it: its transaction was never committed. */
static bool is_void(const struct salvage *s, const struct record *r)
{
    for (size_t i = 0; i < s->epochs_count; i++) {
        if (s->epochs[i].epoch > r->epoch && s->epochs[i].base < r->version) {
            return true;
        }
    }
    return false;
}

/* --- 2: taking over ---------------- */

static int note_count(struct salvage *s, const struct record *r)
{
    struct record_count count;
    uint32_t stage;
    int rc;

    if (record_count_get(&count, r) < 0) {
        return 0;
    }
    stage = key_get_u32(r->key);
    for (size_t i = s->counts_count; i-- > 0;) {
        struct stage_count *c = &s->counts[i];
        if (c->stage == stage) {
            if (r->epoch > c->epoch || (r->epoch == c->epoch && r->version > c->version)) {
                *c = (struct stage_count){stage, r->epoch, r->version, count.recorded};
            }
            return 0;
        }
    }
    rc = grow((void **)&s->counts, &s->counts_cap, s->counts_count, sizeof(*s->counts));
    if (rc == 0) {
        s->counts[s->counts_count++] =
            (struct stage_count){stage, r->epoch, r->version, count.recorded};
    }
    return rc;
}

/* Whether it is to replace what was found under its key before. */
static int is_wanted(struct salvage *s, const struct record *r, bool *out)
{
    struct record old;
    MDB_val value;
    int rc = ldb_get(s->w.txn, s->env.tables[r->kind], r->key, r->key_size, &value);

    *out = true;
    if (rc == 0) {
        rc = record_head_get(&old, value.mv_data, value.mv_size);
        *out = r->epoch > old.epoch || (r->epoch == old.epoch && r->version > old.version);
    }
    return rc < 0 ? rc : 0;
}

static bool is_txn_full(const struct writer *w)
{
    return w->bytes >= TXN_BYTES || w->records >= TXN_RECORDS;
}

static int next_txn(struct salvage *s)
{
    int rc = 0;

    if (is_txn_full(&s->w)) {
        rc = writer_commit(&s->w);
        rc = rc == 0 ? writer_begin(&s->w, &s->env) : rc;
    }
    return rc;
}

/* The key must be of the form that its kind has: it will be read by that. */
static bool has_key(const struct record *r)
{
    if (r->kind == CKPT_PART) {
        return r->key_size == KEY_PART && key_get_u32(r->key + 8) != PART_END;
    }
    if (r->kind == CKPT_RESULT || r->kind == CKPT_FORGET) {
        return r->key_size == KEY_STAGE_NUMBER && key_get_u64(r->key + 4) == r->version;
    }
    return record_is_named(r->kind) && r->key_size > 0; /* the others are made anew */
}

static int adopt(void *ctx, const struct record *r)
{
    struct salvage *s = ctx;
    bool is_newest;
    int rc;

    if (!is_ours(s, r)) {
        return 0;
    }
    if (is_void(s, r)) {
        s->report->void_records++;
        return 0;
    }
    if (!has_key(r)) {
        return r->kind == CKPT_COUNT ? note_count(s, r) : 0;
    }
    rc = is_wanted(s, r, &is_newest);
    if (rc == 0 && is_newest) {
        rc = writer_adopt(&s->w, r);
    }
    return rc == 0 ? next_txn(s) : rc;
}

/* --- 3: values in parts ---------------- */

/* All parts there: 0, and their end is marked; TRK_ECORRUPT: not. */
static int settle_parts(struct salvage *s, const struct record *r)
{
    uint8_t end[KEY_PART];
    int rc = env_parts_check(&s->env, s->w.txn, r, end);

    return rc == 0 ? writer_put(&s->w, CKPT_PART, end, sizeof(end), NULL, 0) : rc;
}

static int settle_table(struct salvage *s, enum ckpt_kind kind)
{
    struct {
        uint8_t bytes[RECORD_KEY_MAX];
        size_t size;
    } at = {.size = 0};
    int rc = 0;

    for (;;) {
        MDB_cursor *cursor;
        MDB_val key = {at.size, at.bytes}, value;
        struct record r;
        rc = ldb_cursor(s->w.txn, s->env.tables[kind], &cursor);
        if (rc < 0) {
            return rc;
        }
        rc = ldb_cursor_get(cursor, &key, &value, at.size == 0 ? MDB_FIRST : MDB_SET_RANGE);
        if (rc == 0 && at.size > 0 && key.mv_size == at.size &&
            memcmp(key.mv_data, at.bytes, at.size) == 0) {
            rc = ldb_cursor_get(cursor, &key, &value, MDB_NEXT);
        }
        while (rc == 0) {
            rc = record_head_get(&r, value.mv_data, value.mv_size);
            if (rc < 0 || (r.flags & RECORD_IN_PARTS) != 0) {
                break;
            }
            rc = ldb_cursor_get(cursor, &key, &value, MDB_NEXT);
        }
        if (rc == 0) {
            memcpy(at.bytes, key.mv_data, key.mv_size);
            at.size = key.mv_size;
            rc = settle_parts(s, &r);
            rc = rc == TRK_ECORRUPT ? writer_delete(&s->w, kind, at.bytes, at.size) : rc;
        }
        mdb_cursor_close(cursor);
        rc = rc == 0 ? next_txn(s) : rc;
        if (rc != 0) {
            return rc == TRK_END ? 0 : rc;
        }
    }
}

static int settle_all(struct salvage *s)
{
    int rc = 0;

    for (enum ckpt_kind kind = CKPT_JOB; rc == 0 && kind < CKPT_KIND_END; kind++) {
        if (kind != CKPT_PART && kind != CKPT_COUNT && kind != CKPT_TAIL) {
            rc = settle_table(s, kind);
        }
    }
    return rc;
}

/* --- 4: index and counters ---------------- */

/* The first record of the table at or behind key: TRK_END when there is none. */
static int replay_next(struct salvage *s, enum ckpt_kind kind, const uint8_t *from,
                       MDB_cursor *cursor, bool is_placed, struct record *r)
{
    MDB_val key = {KEY_STAGE_NUMBER, (void *)from}, value;
    int rc = ldb_cursor_get(cursor, &key, &value, is_placed ? MDB_GET_CURRENT : MDB_SET_RANGE);

    return rc == 0 ? record_head_get(r, value.mv_data, value.mv_size) : rc;
}

/* A transaction's worth of both tables, in the order of their keys, from *from on. */
static int replay_some(struct salvage *s, uint8_t from[KEY_STAGE_NUMBER])
{
    static const enum ckpt_kind kinds[2] = {CKPT_RESULT, CKPT_FORGET};
    MDB_cursor *cursors[2];
    struct record r[2];
    int rc[2], done = 0;

    for (int i = 0; i < 2; i++) {
        int opened = ldb_cursor(s->w.txn, s->env.tables[kinds[i]], &cursors[i]);
        if (opened < 0) {
            return opened; /* the transaction takes the other one with it */
        }
        rc[i] = replay_next(s, kinds[i], from, cursors[i], false, &r[i]);
    }
    while (done == 0 && rc[0] >= 0 && rc[1] >= 0 && (rc[0] == 0 || rc[1] == 0)) {
        int i = rc[0] != 0 || (rc[1] == 0 && memcmp(r[1].key, r[0].key, KEY_STAGE_NUMBER) < 0);
        MDB_val key, value;
        memcpy(from, r[i].key, KEY_STAGE_NUMBER);
        if (is_txn_full(&s->w)) {
            done = TRK_AGAIN;
            break;
        }
        done = writer_replay(&s->w, &r[i]);
        rc[i] = ldb_cursor_get(cursors[i], &key, &value, MDB_NEXT);
        if (rc[i] == 0) {
            rc[i] = record_head_get(&r[i], value.mv_data, value.mv_size);
        }
        /* The other's record may have moved with what was written. */
        if (rc[!i] == 0) {
            rc[!i] = replay_next(s, kinds[!i], from, cursors[!i], true, &r[!i]);
        }
    }
    mdb_cursor_close(cursors[0]);
    mdb_cursor_close(cursors[1]);
    return done != 0 ? done : rc[0] < 0 ? rc[0] : rc[1] < 0 ? rc[1] : 0;
}

static int replay_all(struct salvage *s)
{
    uint8_t from[KEY_STAGE_NUMBER] = {0};
    int rc;

    while ((rc = replay_some(s, from)) == TRK_AGAIN) {
        rc = next_txn(s);
        if (rc < 0) {
            break;
        }
    }
    return rc;
}

/* --- 5: in its place ---------------- */

static void sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static int keep_old(struct salvage *s, const char *data)
{
    char stamp[40], path[4300];
    time_t now = time(NULL);
    struct tm tm;

    localtime_r(&now, &tm);
    strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm);
    for (unsigned n = 0; n < 1000; n++) {
        snprintf(s->report->kept_as, sizeof(s->report->kept_as), "damaged-%s-%u.mdb", stamp, n);
        snprintf(path, sizeof(path), "%s/%s", s->dir, s->report->kept_as);
        if (link(data, path) == 0) {
            return 0;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    return fail(TRK_EIO, "cannot keep the damaged %s: %s", data, strerror(errno));
}

static int replace(struct salvage *s)
{
    char from[4300], data[4300], lock[4300];
    int rc;

    snprintf(from, sizeof(from), "%s/data.mdb", s->work_dir);
    snprintf(data, sizeof(data), "%s/data.mdb", s->dir);
    snprintf(lock, sizeof(lock), "%s/lock.mdb", s->dir);
    rc = keep_old(s, data);
    if (rc < 0) {
        return rc;
    }
    if (rename(from, data) < 0) {
        return fail(TRK_EIO, "cannot replace %s: %s", data, strerror(errno));
    }
    unlink(lock); /* whoever reads still has the old file */
    sync_dir(s->dir);
    return 0;
}

static void clear_work_dir(const struct salvage *s)
{
    char path[4300];

    snprintf(path, sizeof(path), "%s/data.mdb", s->work_dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/lock.mdb", s->work_dir);
    unlink(path);
    rmdir(s->work_dir);
}

static int choose_uuid(struct salvage *s, const struct scan_report *scanned)
{
    unsigned best = 0;

    if (scanned->newer > 0) { /* without what it wrote, the rest would say something else */
        return fail(TRK_EVERSION, "the store in %s was written by a newer Trickle: resume with "
                    "that", s->dir);
    }
    for (unsigned i = 1; i < s->uuids_count; i++) {
        best = s->uuids[i].count > s->uuids[best].count ? i : best;
    }
    if (s->uuids_count > 0) {
        memcpy(s->uuid, s->uuids[best].uuid, sizeof(s->uuid));
    }
    return 0;
}

static int fill(struct salvage *s, const char *data)
{
    struct scan_report scanned;
    int rc = writer_begin(&s->w, &s->env);

    if (rc == 0) {
        rc = scan_file(data, adopt, s, &scanned);
        s->report->unreadable_bytes = scanned.unreadable_bytes;
    }
    if (s->w.tail.version < s->version_max) {
        s->w.tail.version = s->version_max; /* no version is given twice */
    }
    rc = rc == 0 ? settle_all(s) : rc;
    if (rc == 0) {
        rc = writer_commit(&s->w);
        rc = rc == 0 ? store_drop_orphans(&s->env) : rc;
        rc = rc == 0 ? writer_begin(&s->w, &s->env) : rc;
    }
    rc = rc == 0 ? replay_all(s) : rc;
    if (rc == 0) {
        rc = writer_commit(&s->w);
    }
    writer_abort(&s->w);
    return rc;
}

static int report_all(struct salvage *s)
{
    struct ckpt_salvaged *out = s->report;
    MDB_cursor *cursor;
    MDB_val key, value;
    MDB_txn *txn;
    int rc = ldb_begin(s->env.mdb, MDB_RDONLY, &txn);

    if (rc < 0) {
        return rc;
    }
    out->records = s->env.tail.records;
    rc = ldb_cursor(txn, s->env.tables[CKPT_COUNT], &cursor);
    if (rc == 0) {
        rc = ldb_cursor_get(cursor, &key, &value, MDB_FIRST);
        while (rc == 0) {
            struct record_count count;
            struct record r;
            if (record_get(&r, value.mv_data, value.mv_size) == 0 &&
                record_count_get(&count, &r) == 0) {
                out->elements += count.recorded;
            }
            rc = ldb_cursor_get(cursor, &key, &value, MDB_NEXT);
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    for (size_t i = 0; i < s->counts_count; i++) {
        out->elements_expected += s->counts[i].recorded;
    }
    if (out->elements_expected < out->elements) {
        out->elements_expected = out->elements; /* the newest counters are lost */
    }
    return rc < 0 ? rc : 0;
}

static int make_new(struct salvage *s, const char *data)
{
    int rc = ckpt_private_dir(s->work_dir);

    if (rc < 0) {
        return rc;
    }
    rc = env_open(&s->env, s->work_dir, ENV_WRITE, 0);
    if (rc == 0) {
        if (s->uuids_count > 0) {
            memcpy(s->env.uuid, s->uuid, sizeof(s->uuid));
        }
        s->env.epoch = s->epoch_max;
        s->env.base = s->version_max;
        rc = fill(s, data);
        rc = rc == 0 ? report_all(s) : rc;
        env_close(&s->env);
    }
    if (rc < 0) {
        return fail(rc, "cannot repair the store in %s: %s", s->dir,
                    rc == TRK_EFULL || rc == TRK_EIO ? ldb_text() : trk_strerror(rc));
    }
    return replace(s);
}

int salvage_store(const char *dir, struct ckpt_salvaged *report)
{
    struct salvage *s = mem_zalloc(1, sizeof(*s));
    struct scan_report scanned = {0};
    char data[4200];
    int rc;

    memset(report, 0, sizeof(*report));
    if (s == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    s->dir = dir;
    s->report = report;
    snprintf(data, sizeof(data), "%s/data.mdb", dir);
    snprintf(s->work_dir, sizeof(s->work_dir), "%s/salvage", dir);
    clear_work_dir(s);
    rc = scan_file(data, note_uuid, s, &scanned);
    if (rc < 0) {
        rc = fail(rc, "cannot read %s: %s", data,
                  rc == TRK_EIO ? strerror(errno) : trk_strerror(rc));
    }
    rc = rc == 0 ? choose_uuid(s, &scanned) : rc;
    if (rc == 0 && (rc = scan_file(data, note_epoch, s, &scanned)) < 0) {
        rc = fail(rc, "cannot read %s: %s", data, trk_strerror(rc));
    }
    if (rc == 0) {
        rc = make_new(s, data);
    }
    clear_work_dir(s);
    mem_free(s->epochs);
    mem_free(s->counts);
    mem_free(s);
    return rc;
}
