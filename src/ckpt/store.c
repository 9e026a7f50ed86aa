/* SPDX-License-Identifier: MIT */
/* store.c - a store's life: lock, check, salvage, open, raise the epoch; close. */
#include "ckpt/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/home.h"
#include "ckpt/last.h"
#include "ckpt/ldb.h"
#include "ckpt/store_impl.h"
#include "ckpt/verify.h"

#define QUEUE_BYTES ((size_t)64 << 20)

/* A limit of file sizes is to be an error here, not the end of the process: the signal is kept
 * away while this thread writes, and taken off before it is let in again. */
static void hold_signals(sigset_t *before)
{
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &one, before);
}

static void release_signals(const sigset_t *before)
{
    struct timespec now = {0, 0};
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, SIGXFSZ);
    if (!sigismember(before, SIGXFSZ)) {
        while (sigtimedwait(&one, NULL, &now) > 0) {
        }
    }
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static void sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* The names of a new store's files and directories are durable, too. */
static void sync_names(const char *dir)
{
    char path[4200];
    char *slash;

    snprintf(path, sizeof(path), "%s", dir);
    for (int i = 0; i < 3; i++) {
        sync_dir(path);
        slash = strrchr(path, '/');
        if (slash == NULL || slash == path) {
            break;
        }
        *slash = '\0';
    }
}

static void describe_salvage(struct ckpt_opened *opened, const char *why)
{
    const struct ckpt_salvaged *lost = &opened->lost;
    unsigned long long missing = lost->elements_expected > lost->elements
                                     ? lost->elements_expected - lost->elements : 0;

    if (missing > 0) {
        snprintf(opened->text, sizeof(opened->text), "the store was damaged (%s): results of "
                 "%llu elements were saved, those of at least %llu are lost and run again; the "
                 "damaged file is kept as %s", why, (unsigned long long)lost->elements, missing,
                 lost->kept_as);
    } else {
        snprintf(opened->text, sizeof(opened->text), "the store was damaged (%s): all that is "
                 "known of was saved, results of %llu elements; the damaged file is kept as %s",
                 why, (unsigned long long)lost->elements, lost->kept_as);
    }
}

/* Whether LMDB may be let at the store; if not, it is made anew from what is good of it. */
static int make_sound(const char *dir, const struct ckpt_store_options *opt,
                      struct ckpt_opened *opened)
{
    struct verify_report report;
    char path[4200], why[512];
    struct stat st;
    int rc;

    snprintf(path, sizeof(path), "%s/data.mdb", dir);
    opened->is_new = stat(path, &st) < 0 || st.st_size == 0;
    if (opened->is_new && last_exists(dir)) {
        snprintf(opened->text, sizeof(opened->text), "the file of the store is gone: nothing is "
                 "left of what was recorded in it");
        log_warn("ckpt", "%s", opened->text);
    }
    opened->was_clean = !opened->is_new && clean_is(dir);
    if (opened->is_new || opened->was_clean || opt->is_trusted) {
        return 0;
    }
    rc = ckpt_check(dir, opt->helper, &report);
    if (rc == 0) {
        return 0;
    }
    if (rc == TRK_EVERSION) {
        return fail(rc, "the store in %s was written by a newer Trickle: resume with that", dir);
    }
    if (rc == TRK_ECORRUPT) {
        snprintf(why, sizeof(why), "%s", report.why);
    } else { /* not looked at: taking over what is good is always safe */
        snprintf(why, sizeof(why), "it could not be checked: %s", fail_text());
    }
    rc = salvage_store(dir, &opened->lost);
    if (rc == 0) {
        opened->is_salvaged = true;
        describe_salvage(opened, why);
        log_warn("ckpt", "%s", opened->text);
    }
    return rc;
}

/* Raises the epoch, durably. */
static int begin_epoch(struct ckpt_store *s)
{
    struct writer w;
    int rc;

    s->env.epoch++;
    rc = writer_begin(&w, &s->env);
    return rc == 0 ? writer_commit(&w) : rc;
}

/* What a crash, or a try that failed, has left of a store in the making. */
static void clear_making(const char *making)
{
    char path[4300];

    snprintf(path, sizeof(path), "%s/data.mdb", making);
    unlink(path);
    snprintf(path, sizeof(path), "%s/lock.mdb", making);
    unlink(path);
    rmdir(making);
}

/* Makes an empty store elsewhere and moves it to its place, so that none is ever half made. */
static int make_store(struct ckpt_store *s)
{
    char making[4200], from[4300], to[4300];
    struct writer w;
    int rc;

    snprintf(making, sizeof(making), "%s/making", s->dir);
    snprintf(from, sizeof(from), "%s/data.mdb", making);
    snprintf(to, sizeof(to), "%s/data.mdb", s->dir);
    clear_making(making);
    if (mkdir(making, 0700) < 0) {
        return fail(errno == ENOSPC ? TRK_EFULL : TRK_EIO, "cannot make %s: %s", making,
                    strerror(errno));
    }
    rc = env_open(&s->env, making, ENV_WRITE, 0);
    if (rc == 0) {
        rc = writer_begin(&w, &s->env);
    }
    if (rc == 0) {
        rc = writer_commit(&w);
    }
    env_close(&s->env);
    if (rc == 0 && rename(from, to) < 0) {
        rc = TRK_EIO;
    }
    clear_making(making);
    sync_dir(s->dir);
    return rc > 0 ? TRK_EIO : rc;
}

static int open_env(struct ckpt_store *s, struct ckpt_opened *opened)
{
    int dead, rc = 0;

    clean_unmark(s->dir);
    sync_dir(s->dir); /* or a power failure would bring the mark back */
    if (opened->is_new) {
        rc = make_store(s);
    }
    if (rc == 0) {
        rc = env_open(&s->env, s->dir, ENV_WRITE, 0);
    }
    if (rc == 0) {
        mdb_reader_check(s->env.mdb, &dead);
        rc = begin_epoch(s);
    }
    if (rc == 0) {
        rc = store_drop_orphans(&s->env);
    }
    if (rc != 0) {
        env_close(&s->env);
        return fail(rc > 0 ? TRK_EIO : rc, "cannot open the store in %s: %s", s->dir,
                    rc == TRK_EFULL || rc == TRK_EIO ? ldb_text() : trk_strerror(rc));
    }
    if (opened->is_new) {
        sync_names(s->dir);
    }
    s->last_fd = last_open(s->dir);
    if (s->last_fd >= 0 && sys_fd_add(s->last_fd) < 0) {
        close(s->last_fd);
        s->last_fd = -1;
    }
    store_note_last(s);
    opened->epoch = s->env.epoch;
    memcpy(opened->uuid, s->env.uuid, sizeof(opened->uuid));
    return 0;
}

void store_note_last(struct ckpt_store *s)
{
    last_write(s->last_fd, s->env.uuid,
               &(struct last_note){.epoch = s->env.epoch, .version = s->env.tail.version});
}

static int start_thread(struct ckpt_store *s)
{
    sigset_t before;
    int code;

    if (sys_block_signals(&before) < 0) {
        return TRK_EIO;
    }
    code = pthread_create(&s->thread, NULL, store_thread, s);
    sys_restore_signals(&before);
    return code == 0 ? 0 : fail(TRK_ENOMEM, "cannot start a thread: %s", strerror(code));
}

static struct ckpt_store *store_new(const struct ckpt_store_options *opt)
{
    struct ckpt_store *s = mem_zalloc(1, sizeof(*s));
    pthread_condattr_t attr;

    if (s == NULL || (s->dir = mem_strdup(opt->dir)) == NULL) {
        mem_free(s);
        return NULL;
    }
    s->lock.fd = s->last_fd = -1;
    s->notify = opt->notify;
    s->ctx = opt->ctx;
    s->queue_bytes_max = opt->queue_bytes != 0 ? opt->queue_bytes : QUEUE_BYTES;
    list_init(&s->readers);
    list_init(&s->queue);
    list_init(&s->taken);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->wake, &attr);
    pthread_cond_init(&s->done, &attr);
    pthread_rwlock_init(&s->env_lock, NULL);
    pthread_condattr_destroy(&attr);
    return s;
}

static void drop_items(struct list *items)
{
    struct list *node;

    while ((node = list_pop_front(items)) != NULL) {
        struct item *item = container_of(node, struct item, node);
        if (item->op != ITEM_PART) {
            mem_free(item->body);
        }
        item_free(item);
    }
}

static void store_free(struct ckpt_store *s)
{
    drop_items(&s->taken);
    drop_items(&s->queue);
    if (s->last_fd >= 0) {
        sys_fd_remove(s->last_fd);
        close(s->last_fd);
    }
    env_close(&s->env);
    ckpt_lock_give(&s->lock);
    pthread_rwlock_destroy(&s->env_lock);
    pthread_cond_destroy(&s->done);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->mutex);
    mem_free(s->dir);
    mem_free(s);
}

int ckpt_store_open(struct ckpt_store **out, const struct ckpt_store_options *opt,
                    struct ckpt_opened *opened)
{
    struct ckpt_store *s;
    sigset_t before;
    int rc;

    memset(opened, 0, sizeof(*opened));
    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "%s", trk_strerror(TRK_EFORKED));
    }
    rc = ckpt_private_dir(opt->dir);
    if (rc < 0) {
        return rc;
    }
    s = store_new(opt);
    if (s == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    hold_signals(&before);
    rc = ckpt_lock_take(&s->lock, s->dir);
    rc = rc == 0 ? make_sound(s->dir, opt, opened) : rc;
    rc = rc == 0 ? open_env(s, opened) : rc;
    release_signals(&before);
    rc = rc == 0 ? start_thread(s) : rc;
    if (rc < 0) {
        store_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

int ckpt_store_close(struct ckpt_store *s)
{
    bool is_whole;
    sigset_t before;

    if (s == NULL) {
        return 0;
    }
    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    pthread_mutex_lock(&s->mutex);
    s->is_stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    is_whole = list_is_empty(&s->taken) && list_is_empty(&s->queue);
    hold_signals(&before);
    if (s->env.mdb != NULL) {
        env_close(&s->env);
        if (is_whole) {
            clean_mark(s->dir);
        }
    }
    release_signals(&before);
    if (!is_whole) {
        fail(TRK_EIO, "%s", s->text);
    }
    store_free(s);
    return is_whole ? 0 : TRK_EIO;
}
