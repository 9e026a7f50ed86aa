/* SPDX-License-Identifier: MIT */
/* commit.c - the store thread: group commit.
 *
 *   take the whole queue -> one transaction -> commit (LMDB: write pages, fdatasync, write the
 *   meta page through) -> publish what is durable -> again
 *
 * So whatever queued up during a sync goes into the next transaction. A transaction is bounded: a
 * large value is written part by part over several, its head in the last one; parts without a head
 * belong to nobody.
 *
 * When anything fails, nothing of the transaction counts. The environment is closed and opened
 * again (after a failed sync the cache may say that pages are clean that are on no disk; all that
 * the new transaction leads to is written anew), the tail is read from it, and all that is held
 * is put again. The first failure is tried again at once; then, and when there is no room, the
 * store is paused: it says why and tries again, with growing intervals up to 2 s. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/ldb.h"
#include "ckpt/store_impl.h"

#define TXN_BYTES ((size_t)32 << 20)
#define TXN_RECORDS 65536
#define TRIM_BYTES ((size_t)32 << 20)
#define READERS_EVERY 64
#define ROOM_BYTES ((size_t)1 << 20) /* with less, a disk counts as full */
#define RETRY_FIRST_MS 50
#define RETRY_MAX_MS 2000

static bool is_txn_full(const struct writer *w)
{
    return w->bytes >= TXN_BYTES || w->records >= TXN_RECORDS;
}

/* Up to room bytes of the item's value from offset on. */
static unsigned slices_at(const struct item *item, size_t offset, size_t room,
                          struct ckpt_slice out[CKPT_SLICES_MAX], size_t *size)
{
    unsigned count = 0;

    *size = 0;
    for (unsigned i = 0; i < item->slice_count && room > 0; i++) {
        const struct ckpt_slice *slice = &item->slices[i];
        size_t n = slice->size;
        if (offset >= n) {
            offset -= n;
            continue;
        }
        n -= offset;
        n = n < room ? n : room;
        out[count++] = (struct ckpt_slice){(const uint8_t *)slice->bytes + offset, n};
        offset = 0;
        room -= n;
        *size += n;
    }
    return count;
}

/* 0: all parts are written; TRK_AGAIN: the transaction is full. */
static int apply_parts(struct writer *w, struct item *item)
{
    struct parts_progress *p = &item->parts;
    int rc = 0;

    while (rc == 0 && p->offset_now < item->size) {
        struct ckpt_slice slices[CKPT_SLICES_MAX];
        size_t size;
        unsigned count;
        if (is_txn_full(w)) {
            return TRK_AGAIN;
        }
        count = slices_at(item, p->offset_now, RECORD_PART_MAX, slices, &size);
        rc = writer_part(w, &p->now, slices, count);
        p->offset_now += size;
    }
    return rc;
}

static int apply_value(struct writer *w, struct item *item)
{
    const struct writer_parts *parts = NULL;
    int rc = 0;

    if (item->body != NULL) {
        parts = &item->body->parts.now;
    } else if (item->size > RECORD_PART_MAX) {
        rc = apply_parts(w, item);
        parts = &item->parts.now;
    }
    if (rc != 0) {
        return rc;
    }
    if (parts != NULL && parts->count == 0) {
        parts = NULL; /* a body that nothing was added to */
    }
    if (item->op == ITEM_RESULT) {
        return parts != NULL ? writer_result_parts(w, item->stage, &item->run, parts)
                             : writer_result(w, item->stage, &item->run, item->slices,
                                             item->slice_count);
    }
    return parts != NULL ? writer_put_parts(w, item->kind, item->key, item->key_size, parts)
                         : writer_put(w, item->kind, item->key, item->key_size, item->slices,
                                      item->slice_count);
}

static int apply(struct writer *w, struct item *item)
{
    switch (item->op) {
    case ITEM_RECORD:
    case ITEM_RESULT:
        return apply_value(w, item);
    case ITEM_DELETE:
        return writer_delete(w, item->kind, item->key, item->key_size);
    case ITEM_FORGET:
        return writer_forget(w, item->stage, &item->run);
    case ITEM_PART:
        return writer_part(w, &item->body->parts.now, item->slices, item->slice_count);
    case ITEM_DROP:
        return writer_drop_parts(w, item->body->parts.now.body);
    }
    return TRK_EINVAL;
}

static struct parts_progress *progress_of(struct item *item)
{
    return item->body != NULL ? &item->body->parts : &item->parts;
}

/* What the last transaction did about the item's parts is durable. */
static void keep_parts(struct item *item)
{
    struct parts_progress *p = progress_of(item);

    p->durable = p->now;
    p->offset_durable = p->offset_now;
}

/* What the last transaction did about parts did not happen. */
static void undo_parts(struct ckpt_store *s)
{
    struct list *pos;

    list_for_each(pos, &s->taken) {
        struct parts_progress *p = progress_of(container_of(pos, struct item, node));
        p->now = p->durable;
        p->offset_now = p->offset_durable;
    }
}

/* One transaction of what is taken; *finished: so many items are in it. */
static int transact(struct ckpt_store *s, uint64_t *finished)
{
    struct writer w;
    struct list *pos;
    uint64_t begin_ns;
    int rc;

    *finished = 0;
    rc = writer_begin(&w, &s->env);
    if (rc < 0) {
        return rc;
    }
    list_for_each(pos, &s->taken) {
        if (is_txn_full(&w)) {
            break;
        }
        rc = apply(&w, container_of(pos, struct item, node));
        if (rc != 0) {
            break;
        }
        ++*finished;
    }
    if (rc < 0) {
        writer_abort(&w);
        return rc;
    }
    begin_ns = sys_now_ns();
    rc = writer_commit(&w);
    if (rc == 0) {
        s->untrimmed += w.bytes;
        store_note_last(s);
        if (s->syncs % READERS_EVERY == 0) {
            int dead; /* readers that were killed hold on to pages */
            mdb_reader_check(s->env.mdb, &dead);
        }
        pthread_mutex_lock(&s->mutex);
        s->syncs++;
        s->sync_ns += sys_now_ns() - begin_ns;
        pthread_mutex_unlock(&s->mutex);
    }
    return rc;
}

static void notify(struct ckpt_store *s)
{
    if (s->notify != NULL) {
        s->notify(s->ctx);
    }
}

/* The first so many items are durable. */
static void publish(struct ckpt_store *s, uint64_t finished)
{
    uint64_t ticket = 0, count = 0;
    size_t bytes = 0;

    while (count < finished) {
        struct item *item = container_of(list_pop_front(&s->taken), struct item, node);
        keep_parts(item);
        ticket = item->ticket;
        bytes += item_bytes(item);
        count++;
        if (item->op != ITEM_PART && item->body != NULL) {
            mem_free(item->body);
        }
        item_free(item);
    }
    if (!list_is_empty(&s->taken)) { /* the next one may be in it in part */
        keep_parts(container_of(s->taken.next, struct item, node));
    }
    atomic_fetch_sub(&s->queued_bytes, bytes); /* first: who waited may ask if it is full */
    pthread_mutex_lock(&s->mutex);
    if (ticket > 0) {
        atomic_store(&s->durable, ticket);
    }
    s->queued_count -= count;
    s->is_paused = false;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->mutex);
    s->failures = 0;
    notify(s);
    if (s->untrimmed >= TRIM_BYTES) {
        env_trim(&s->env);
        s->untrimmed = 0;
    }
}

/* --- failures ---------------- */

static int reopen(struct ckpt_store *s)
{
    struct ckpt_env fresh;
    uint32_t epoch = s->env.epoch;
    uint64_t base = s->env.base;
    int rc;

    pthread_rwlock_wrlock(&s->env_lock);
    readers_detach(s);
    env_close(&s->env);
    rc = env_open(&fresh, s->dir, ENV_WRITE, s->map_wanted);
    if (rc == 0) {
        fresh.epoch = epoch; /* ours still: nobody else can have had the lock */
        fresh.base = base;
        s->env = fresh;
    }
    pthread_rwlock_unlock(&s->env_lock);
    return rc > 0 ? TRK_EIO : rc;
}

/* LMDB makes a plain I/O error of a write that came out short, which is what the last room on a
 * disk gives. The code that tells what it was, or the one that was there. */
static int diagnose(const struct ckpt_store *s, int code)
{
    size_t held = atomic_load(&s->queued_bytes);
    struct rlimit limit;
    struct statvfs fs;
    char path[4200];
    struct stat st;

    if (code != EIO) {
        return code;
    }
    if (statvfs(s->dir, &fs) == 0 &&
        (uint64_t)fs.f_bavail * fs.f_frsize < (uint64_t)held + ROOM_BYTES) {
        return ENOSPC;
    }
    snprintf(path, sizeof(path), "%s/data.mdb", s->dir);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        stat(path, &st) == 0 && (uint64_t)st.st_size + held + ROOM_BYTES > limit.rlim_cur) {
        return EFBIG;
    }
    return code;
}

static void explain(struct ckpt_store *s, int rc, int code, char *text, size_t size)
{
    struct statvfs fs;

    if (code == MDB_MAP_FULL) {
        snprintf(text, size, "the store in %s is larger than this process may map (%zu MB): the "
                 "job waits; raise its limit of address space (ulimit -v) and resume it", s->dir,
                 s->env.map_size >> 20);
    } else if (rc == TRK_EFULL && code == EFBIG) {
        snprintf(text, size, "the store in %s may not grow: files are limited (ulimit -f); the job "
                 "waits and goes on when there is room", s->dir);
    } else if (rc == TRK_EFULL) {
        double free_mb = statvfs(s->dir, &fs) == 0
                             ? (double)fs.f_bavail * (double)fs.f_frsize / 1e6 : 0;
        snprintf(text, size, "the disk of %s is full (%s, %.1f MB free): the job waits and goes on "
                 "when there is room", s->dir, mdb_strerror(code), free_mb);
    } else if (rc == TRK_ECORRUPT) {
        snprintf(text, size, "the store in %s is damaged: stop the job and resume it, which "
                 "repairs the store", s->dir);
    } else if (rc == TRK_ENOMEM) {
        snprintf(text, size, "no memory to write to the store in %s: the job waits and tries again",
                 s->dir);
    } else {
        snprintf(text, size, "the store in %s cannot be written (%s): the job waits and tries "
                 "again; look at the disk", s->dir,
                 code != 0 ? mdb_strerror(code) : trk_strerror(rc));
    }
}

static void pause_store(struct ckpt_store *s, int rc, int code)
{
    char text[sizeof(s->text)];
    bool is_new;

    explain(s, rc, code, text, sizeof(text));
    pthread_mutex_lock(&s->mutex);
    is_new = !s->is_paused;
    s->is_paused = true;
    memcpy(s->text, text, sizeof(s->text));
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->mutex);
    if (is_new) {
        log_warn("ckpt", "%s", text);
        notify(s);
    }
}

/* Waits a little. false: the store is being closed, it has been tried often enough. */
static bool wait_to_retry(struct ckpt_store *s)
{
    uint64_t ms = (uint64_t)RETRY_FIRST_MS << (s->failures < 8 ? s->failures : 8);
    struct timespec until;
    bool goes_on;

    ms = ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->mutex);
    while (!s->is_stopping &&
           pthread_cond_timedwait(&s->wake, &s->mutex, &until) != ETIMEDOUT) {
    }
    goes_on = !s->is_stopping;
    pthread_mutex_unlock(&s->mutex);
    return goes_on;
}

/* After a failed transaction. false: give up. */
static bool recover(struct ckpt_store *s, int rc)
{
    int code = rc == TRK_ENOMEM ? 0 : diagnose(s, ldb_code());
    bool is_map = rc == TRK_EFULL && code == MDB_MAP_FULL;
    bool goes_on = true;

    rc = code == ENOSPC || code == EFBIG ? TRK_EFULL : rc;
    undo_parts(s);
    for (;;) {
        s->failures++;
        if (is_map) {
            s->map_wanted = s->env.map_size * 2;
        }
        /* The first failure may be a passing one; a disk does not empty itself at once. */
        if (s->failures > 1 || (rc == TRK_EFULL && !is_map)) {
            pause_store(s, rc, code);
            goes_on = wait_to_retry(s);
        }
        rc = reopen(s);
        if (rc == 0 || !goes_on) {
            return goes_on;
        }
        code = ldb_code();
        is_map = false;
    }
}

/* --- the thread ---------------- */

/* Takes all that has queued up; waits for something. false: the end, and nothing is left. */
static bool take(struct ckpt_store *s)
{
    struct list *node;

    pthread_mutex_lock(&s->mutex);
    while (list_is_empty(&s->taken) && list_is_empty(&s->queue) && !s->is_stopping) {
        pthread_cond_wait(&s->wake, &s->mutex);
    }
    while ((node = list_pop_front(&s->queue)) != NULL) {
        list_push_back(&s->taken, node);
    }
    pthread_mutex_unlock(&s->mutex);
    return !list_is_empty(&s->taken);
}

void *store_thread(void *arg)
{
    struct ckpt_store *s = arg;

    while (take(s)) {
        uint64_t finished;
        int rc = transact(s, &finished);

        if (rc == 0) {
            publish(s, finished);
        } else if (!recover(s, rc)) {
            break;
        }
    }
    return NULL;
}

/* --- orphans ---------------- */

/* The first body from *from on that has no end; TRK_END: none. Leaves *from behind it. */
static int next_orphan(struct ckpt_env *env, MDB_txn *txn, uint64_t *from, uint64_t *body)
{
    uint8_t bytes[KEY_PART] = {0};
    MDB_val key, value;
    MDB_cursor *cursor;
    int rc = ldb_cursor(txn, env->tables[CKPT_PART], &cursor);

    if (rc < 0) {
        return rc;
    }
    for (;;) {
        key = (MDB_val){sizeof(bytes), bytes};
        key_put_u64(bytes, *from);
        key_put_u32(bytes + 8, 0);
        rc = ldb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (rc != 0) {
            break;
        }
        *body = key_get_u64(key.mv_data);
        *from = *body + 1;
        key_put_u64(bytes, *body);
        key_put_u32(bytes + 8, PART_END);
        rc = ldb_get(txn, env->tables[CKPT_PART], bytes, sizeof(bytes), &value);
        if (rc != 0) {
            rc = rc == TRK_END ? 0 : rc;
            break;
        }
    }
    mdb_cursor_close(cursor);
    return rc;
}

int store_drop_orphans(struct ckpt_env *env)
{
    uint64_t from = 0, body;
    struct writer w;
    int rc = 0;

    while (rc == 0) {
        rc = writer_begin(&w, env);
        if (rc < 0) {
            return rc;
        }
        rc = next_orphan(env, w.txn, &from, &body);
        if (rc == 0) {
            rc = writer_drop_parts(&w, body);
        }
        if (rc == 0) {
            rc = writer_commit(&w);
        } else {
            writer_abort(&w);
        }
    }
    return rc < 0 ? rc : 0;
}
