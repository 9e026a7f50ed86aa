/* SPDX-License-Identifier: MIT */
/* job.c - opening and closing a durable job, its named values, and what reads its store. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/home.h"
#include "farm/farm_impl.h"

struct trk_job *job_ref(struct trk_job *job)
{
    atomic_fetch_add_explicit(&job->refs, 1, memory_order_relaxed);
    return job;
}

void job_unref(struct trk_job *job)
{
    if (job == NULL || atomic_fetch_sub_explicit(&job->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (size_t i = 0; i < job->stages_count; i++) {
        mem_free(job->stages[i]->key);
        mem_free(job->stages[i]->name);
        mem_free(job->stages[i]);
    }
    mem_free(job->stages);
    mem_free(job->name);
    mem_free(job->dir);
    pthread_mutex_destroy(&job->mutex);
    pthread_mutex_destroy(&job->tell_mutex);
    mem_free(job);
}

/* --- who is told ---------------- */

static void look_on_loop(void *arg)
{
    struct trk_farm *farm = arg;

    atomic_store(&farm->job->is_told, false); /* before the look: what comes later tells again */
    results_told(farm);
}

/* On the store's thread. */
static void on_durable(void *ctx)
{
    struct trk_job *job = ctx;

    pthread_mutex_lock(&job->tell_mutex);
    if (job->farm != NULL && !atomic_exchange(&job->is_told, true) &&
        net_loop_post(job->farm->loop, look_on_loop, job->farm) < 0) {
        atomic_store(&job->is_told, false); /* it has ended */
    }
    pthread_mutex_unlock(&job->tell_mutex);
}

void job_tell(struct trk_job *job, struct trk_farm *farm)
{
    pthread_mutex_lock(&job->tell_mutex);
    job->farm = farm;
    pthread_mutex_unlock(&job->tell_mutex);
}

/* --- opening and closing ---------------- */

static int find_dir(const struct trk_job_options *opt, char *dir, size_t size, char *notice,
                    size_t notice_size)
{
    char home[HOME_PATH_MAX];
    int rc = 0;

    notice[0] = '\0';
    if (opt->home != NULL) {
        if (snprintf(home, sizeof(home), "%s", opt->home) >= (int)sizeof(home)) {
            return fail(TRK_EINVAL, "the path of the home of jobs is too long");
        }
        rc = ckpt_private_dir(home);
    } else {
        rc = ckpt_home(home, sizeof(home), notice, notice_size);
    }
    return rc < 0 ? rc : ckpt_job_dir(home, opt->name, dir, size);
}

static int no_job(const char *name)
{
    return fail(TRK_EINVAL, "there is no job of the name %s; trickle jobs lists those there are",
                name);
}

/* A store that must exist is not made. */
static bool is_missing(const char *dir)
{
    char path[HOME_PATH_MAX + HOME_NAME_MAX + 32];
    struct stat st;

    snprintf(path, sizeof(path), "%s/data.mdb", dir);
    if (stat(path, &st) == 0 || errno != ENOENT) {
        return false;
    }
    snprintf(path, sizeof(path), "%s/last", dir); /* it was there: opening says so */
    return stat(path, &st) < 0 && errno == ENOENT;
}

static int check_existence(const struct trk_job_options *opt, const struct ckpt_opened *found)
{
    if (opt->must_be_new && !found->is_new) {
        return fail(TRK_EINVAL, "there is a job of the name %s already; go on with: trickle "
                    "resume %s, or remove it with: trickle rm %s", opt->name, opt->name, opt->name);
    }
    if (opt->must_exist && found->is_new) {
        return no_job(opt->name);
    }
    return 0;
}

static struct trk_job *job_new(const struct trk_job_options *opt, const char *dir)
{
    struct trk_job *job = mem_zalloc(1, sizeof(*job));

    if (job == NULL) {
        return NULL;
    }
    atomic_init(&job->refs, 1);
    pthread_mutex_init(&job->mutex, NULL);
    pthread_mutex_init(&job->tell_mutex, NULL);
    job->on_change = opt->on_change;
    job->retry_failed = opt->retry_failed;
    job->name = mem_strdup(opt->name);
    job->dir = mem_strdup(dir);
    if (job->name == NULL || job->dir == NULL) {
        job_unref(job);
        return NULL;
    }
    return job;
}

static void describe(struct trk_job *job, const struct ckpt_opened *found, const char *notice,
                     struct trk_job_opened *out)
{
    bool has_both = notice[0] != '\0' && found->text[0] != '\0';

    memset(out, 0, sizeof(*out));
    out->is_new = found->is_new;
    out->epoch = found->epoch;
    memcpy(out->uuid, found->uuid, sizeof(out->uuid));
    snprintf(out->dir, sizeof(out->dir), "%s", job->dir);
    snprintf(out->text, sizeof(out->text), "%.900s%s%.1000s", notice, has_both ? "\n" : "",
             found->text);
}

int trk_job_open(struct trk_job **out, const struct trk_job_options *opt,
                 struct trk_job_opened *opened)
{
    struct ckpt_store_options store = {.notify = on_durable};
    char dir[HOME_PATH_MAX + HOME_NAME_MAX + 16], notice[1024];
    struct ckpt_opened found = {.is_new = true};
    struct trk_job *job;
    int rc;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork: start a new process instead");
    }
    if (opt->size != sizeof(*opt)) {
        return fail(TRK_EVERSION, "the program was built for another Trickle");
    }
    rc = find_dir(opt, dir, sizeof(dir), notice, sizeof(notice));
    if (rc == 0 && opt->must_exist && is_missing(dir)) {
        rc = no_job(opt->name);
    }
    if (rc < 0) {
        return rc;
    }
    job = job_new(opt, dir);
    if (job == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    store.dir = dir;
    store.ctx = job;
    rc = ckpt_store_open(&job->store, &store, &found);
    if (rc == 0) {
        memcpy(job->uuid, found.uuid, sizeof(job->uuid));
        job->epoch = found.epoch;
        rc = check_existence(opt, &found);
        if (rc == 0) {
            rc = ckpt_reader_of(&job->reader, job->store);
        }
        if (rc == 0) {
            rc = job_stages_load(job);
        }
    }
    if (rc < 0) {
        trk_job_close(job);
        return rc;
    }
    describe(job, &found, notice, opened);
    *out = job;
    return 0;
}

int trk_job_close(struct trk_job *job)
{
    struct ckpt_store *store;
    int rc = 0;

    if (job == NULL || sys_is_forked()) {
        return 0;
    }
    pthread_mutex_lock(&job->mutex);
    store = job->store;
    job->store = NULL;
    ckpt_reader_free(job->reader);
    job->reader = NULL;
    pthread_mutex_unlock(&job->mutex);
    if (store != NULL) {
        rc = ckpt_store_close(store);
    }
    job_unref(job);
    return rc;
}

void trk_job_get_state(struct trk_job *job, struct trk_job_state *out)
{
    struct ckpt_state state = {0};

    memset(out, 0, sizeof(*out));
    if (sys_is_forked()) {
        return;
    }
    pthread_mutex_lock(&job->mutex);
    if (job->store != NULL) {
        ckpt_store_poll(job->store, &state);
    }
    pthread_mutex_unlock(&job->mutex);
    out->syncs = state.syncs;
    out->sync_ns = state.sync_ns;
    out->queued_bytes = state.queued_bytes;
    out->is_paused = state.is_paused;
    snprintf(out->text, sizeof(out->text), "%s", state.text);
}

/* --- named values ---------------- */

static int check_name(const char *name)
{
    size_t size = strlen(name);

    return size > 0 && size <= RECORD_KEY_MAX
               ? 0 : fail(TRK_EINVAL, "a name in a job has 1 to %d bytes", RECORD_KEY_MAX);
}

static int wait_durable(struct trk_job *job, uint64_t ticket, int timeout_ms)
{
    struct ckpt_store *store;
    int rc;

    pthread_mutex_lock(&job->mutex);
    store = job->store; /* stays: whoever closes the job is this thread, or breaks the contract */
    pthread_mutex_unlock(&job->mutex);
    if (store == NULL) {
        return fail(TRK_ECLOSED, "the job is closed");
    }
    rc = ckpt_store_wait(store, ticket, timeout_ms);
    return rc < 0 ? fail(rc, "%s", trk_strerror(rc)) : rc;
}

int trk_job_put(struct trk_job *job, enum trk_note kind, const char *name, const void *bytes,
                size_t size, bool wait, int timeout_ms)
{
    struct ckpt_value value = {.slices = {{bytes, size}}, .count = 1};
    uint64_t ticket;
    int rc = sys_is_forked() ? fail(TRK_EFORKED, "Trickle was used after fork") : check_name(name);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&job->mutex);
    rc = job->store == NULL ? TRK_ECLOSED
                            : ckpt_store_put_record(job->store, (enum ckpt_kind)kind, name,
                                                    strlen(name), &value, &ticket);
    pthread_mutex_unlock(&job->mutex);
    if (rc < 0) {
        return fail(rc, "cannot record %s: %s", name, trk_strerror(rc));
    }
    return wait ? wait_durable(job, ticket, timeout_ms) : 0;
}

int trk_job_get(struct trk_job *job, enum trk_note kind, const char *name, void **bytes,
                size_t *size)
{
    struct blob *blob;
    int rc = sys_is_forked() ? fail(TRK_EFORKED, "Trickle was used after fork") : check_name(name);

    if (rc == 0) {
        rc = job_read_get(job, (enum ckpt_kind)kind, name, strlen(name), &blob);
    }
    if (rc != 0) {
        return rc;
    }
    *bytes = mem_alloc(blob->size + 1);
    if (*bytes != NULL) {
        memcpy(*bytes, blob->data, blob->size);
        *size = blob->size;
    }
    blob_unref(blob);
    return *bytes != NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
}

void trk_free(void *bytes)
{
    mem_free(bytes);
}

/* --- reading ---------------- */

static int closed(void)
{
    return fail(TRK_ECLOSED, "the job is closed");
}

static int read_failed(struct trk_job *job, int rc)
{
    if (rc == TRK_ECORRUPT) {
        return fail(rc, "the store of job %s is damaged: stop, and trickle resume %s repairs it",
                    job->name, job->name);
    }
    return rc < 0 ? fail(rc, "cannot read the store of job %s: %s", job->name, trk_strerror(rc))
                  : rc;
}

/* Calls a function of read.h on the job's reader. */
#define JOB_READ(job, call)                                  \
    do {                                                     \
        int rc_;                                             \
        pthread_mutex_lock(&(job)->mutex);                   \
        rc_ = (job)->reader == NULL ? TRK_ECLOSED : (call);  \
        pthread_mutex_unlock(&(job)->mutex);                 \
        return rc_ == TRK_ECLOSED ? closed() : read_failed(job, rc_); \
    } while (0)

int job_read_next(struct trk_job *job, enum ckpt_kind kind, struct ckpt_read_key *key,
                  struct blob **value)
{
    JOB_READ(job, ckpt_read_next(job->reader, kind, key, value));
}

int job_read_size(struct trk_job *job, enum ckpt_kind kind, const void *key, size_t key_size,
                  uint64_t *size)
{
    JOB_READ(job, ckpt_read_size(job->reader, kind, key, key_size, size));
}

int job_read_kept(struct trk_job *job, struct kept_page *page, uint32_t stage, uint64_t index)
{
    JOB_READ(job, kept_read(page, job->reader, stage, index));
}

int job_read_known(struct trk_job *job, uint32_t stage, uint64_t *count)
{
    JOB_READ(job, kept_count(job->reader, stage, count));
}

int job_read_find(struct trk_job *job, uint32_t stage, uint64_t at, struct ckpt_found *out)
{
    JOB_READ(job, ckpt_read_find(job->reader, stage, at, out));
}

int job_read_at(struct trk_job *job, uint32_t stage, uint64_t at, struct ckpt_result *out)
{
    JOB_READ(job, ckpt_read_at(job->reader, stage, at, out));
}

int job_read_recorded(struct trk_job *job, uint32_t stage, struct ckpt_position *position,
                      struct ckpt_result *out)
{
    JOB_READ(job, ckpt_read_recorded(job->reader, stage, position, out));
}

int job_read_get(struct trk_job *job, enum ckpt_kind kind, const void *key, size_t key_size,
                 struct blob **value)
{
    JOB_READ(job, ckpt_read_get(job->reader, kind, key, key_size, value));
}

int job_read_version(struct trk_job *job, uint64_t *version)
{
    struct ckpt_info info = {0};
    int rc;

    pthread_mutex_lock(&job->mutex);
    rc = job->reader == NULL ? TRK_ECLOSED : ckpt_read_info(job->reader, &info);
    pthread_mutex_unlock(&job->mutex);
    *version = info.version;
    return rc == TRK_ECLOSED ? closed() : read_failed(job, rc);
}

int job_sync(struct trk_job *job, uint64_t ticket)
{
    int rc;

    do {
        rc = wait_durable(job, ticket, 1000);
    } while (rc == TRK_AGAIN);
    return rc;
}

bool job_is_behind(struct trk_job *job)
{
    bool is_full;

    pthread_mutex_lock(&job->mutex);
    is_full = job->store != NULL && ckpt_store_is_full(job->store);
    pthread_mutex_unlock(&job->mutex);
    return is_full;
}

int job_keep_up(struct trk_job *job, uint64_t ticket)
{
    return job_is_behind(job) ? job_sync(job, ticket) : 0;
}

/* Calls a function of store.h on the job's store. */
#define JOB_PUT(job, call)                                   \
    do {                                                     \
        int rc_;                                             \
        pthread_mutex_lock(&(job)->mutex);                   \
        rc_ = (job)->store == NULL ? TRK_ECLOSED : (call);   \
        pthread_mutex_unlock(&(job)->mutex);                 \
        return put_failed(job, rc_);                         \
    } while (0)

static int put_failed(struct trk_job *job, int rc)
{
    if (rc == TRK_ECLOSED) {
        return closed();
    }
    return rc < 0 ? fail(rc, "cannot write to the store of job %s: %s", job->name,
                         trk_strerror(rc)) : rc;
}

int job_forget(struct trk_job *job, uint32_t stage, const struct record_run *run,
               uint64_t *ticket)
{
    JOB_PUT(job, ckpt_store_forget(job->store, stage, run, ticket));
}

int job_put_result(struct trk_job *job, uint32_t stage, const struct record_run *run,
                   const struct ckpt_value *value, uint64_t *ticket)
{
    JOB_PUT(job, ckpt_store_put_result(job->store, stage, run, value, ticket));
}

int job_put_record(struct trk_job *job, enum ckpt_kind kind, const void *key, size_t key_size,
                   const struct ckpt_value *value, uint64_t *ticket)
{
    JOB_PUT(job, ckpt_store_put_record(job->store, kind, key, key_size, value, ticket));
}

int job_put_work(struct trk_job *job, uint32_t stage, uint64_t first,
                 const struct value_work *work, uint64_t *ticket)
{
    struct ckpt_value value = {.blob = value_work_encode(work), .count = 1};
    uint8_t key[KEY_STAGE_NUMBER];
    int rc = TRK_ENOMEM;

    if (value.blob != NULL) {
        value.slices[0] = (struct ckpt_slice){value.blob->data, value.blob->size};
        ckpt_key(key, stage, first);
        pthread_mutex_lock(&job->mutex);
        rc = job->store == NULL ? TRK_ECLOSED
                                : ckpt_store_put_record(job->store, CKPT_WORK, key, sizeof(key),
                                                        &value, ticket);
        pthread_mutex_unlock(&job->mutex);
        blob_unref(value.blob);
    }
    return put_failed(job, rc);
}
