/* SPDX-License-Identifier: MIT */
/* stages.c - the stages of a durable job: which number a work's results are stored under.
 *
 * A stage is found again by its key. Where its code or its list has changed another number takes
 * its place (replaced_by), so that what is stored under one number always belongs together. */
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ckpt/value.h"
#include "farm/farm_impl.h"

static struct job_stage *find_number(struct trk_job *job, uint32_t number)
{
    for (size_t i = 0; i < job->stages_count; i++) {
        if (job->stages[i]->number == number) {
            return job->stages[i];
        }
    }
    return NULL;
}

static struct job_stage *find_key(struct trk_job *job, const char *key)
{
    for (size_t i = job->stages_count; i > 0; i--) {
        struct job_stage *stage = job->stages[i - 1];
        if (stage->replaced_by == 0 && strcmp(stage->key, key) == 0) {
            return stage;
        }
    }
    return NULL;
}

static char *dup_text(const char *text, size_t size)
{
    char *own = mem_alloc(size + 1);

    if (own != NULL) {
        memcpy(own, text, size);
        own[size] = '\0';
    }
    return own;
}

static void stage_free(struct job_stage *stage)
{
    if (stage != NULL) {
        mem_free(stage->key);
        mem_free(stage->name);
        mem_free(stage);
    }
}

/* Takes stage. */
static int append(struct trk_job *job, struct job_stage *stage)
{
    if (stage == NULL || stage->key == NULL || stage->name == NULL) {
        stage_free(stage);
        return TRK_ENOMEM;
    }
    if (job->stages_count == job->stages_cap) {
        size_t cap = job->stages_cap > 0 ? job->stages_cap * 2 : 16;
        struct job_stage **stages = mem_realloc(job->stages, cap * sizeof(*stages));
        if (stages == NULL) {
            stage_free(stage);
            return TRK_ENOMEM;
        }
        job->stages = stages;
        job->stages_cap = cap;
    }
    job->stages[job->stages_count++] = stage;
    return 0;
}

static int load_one(struct trk_job *job, uint32_t number, const struct blob *bytes)
{
    struct job_stage *stage;
    struct value_stage v;
    int rc = value_stage_decode(&v, bytes->data, bytes->size);

    if (rc < 0) {
        return rc;
    }
    stage = mem_zalloc(1, sizeof(*stage));
    if (stage != NULL) {
        *stage = (struct job_stage){.number = number, .fingerprint = v.fingerprint,
                                    .total = v.total, .closed_after = v.closed_after,
                                    .previous = v.previous,
                                    .replaced_by = v.replaced_by, .is_closed = v.is_closed,
                                    .key = dup_text(v.key, v.key_size),
                                    .name = dup_text(v.name, v.name_size)};
    }
    return append(job, stage);
}

int job_stages_load(struct trk_job *job)
{
    struct ckpt_read_key key = {.size = 0};
    struct blob *bytes;
    int rc;

    while ((rc = job_read_next(job, CKPT_STAGE, &key, &bytes)) == 0) {
        rc = key.size == KEY_STAGE ? load_one(job, key_get_u32(key.bytes), bytes) : TRK_ECORRUPT;
        blob_unref(bytes);
        if (rc < 0) {
            return fail(rc, "the stages of job %s cannot be read: %s", job->name,
                        trk_strerror(rc));
        }
    }
    return rc == TRK_END ? 0 : rc;
}

/* Under the mutex. */
static int save(struct trk_job *job, const struct job_stage *stage)
{
    struct value_stage v = {.fingerprint = stage->fingerprint, .total = stage->total,
                            .closed_after = stage->closed_after,
                            .previous = stage->previous, .replaced_by = stage->replaced_by,
                            .is_closed = stage->is_closed, .key = stage->key,
                            .key_size = strlen(stage->key), .name = stage->name,
                            .name_size = strlen(stage->name)};
    struct ckpt_value value = {.count = 1};
    uint8_t key[KEY_STAGE];
    int rc = TRK_ENOMEM;

    if (job->store == NULL) {
        return TRK_ECLOSED;
    }
    value.blob = value_stage_encode(&v);
    if (value.blob != NULL) {
        value.slices[0] = (struct ckpt_slice){value.blob->data, value.blob->size};
        key_put_u32(key, stage->number);
        rc = ckpt_store_put_record(job->store, CKPT_STAGE, key, sizeof(key), &value, NULL);
        blob_unref(value.blob);
    }
    return rc;
}

/* Under the mutex. A new one, saved; in place of old when that is not NULL. */
static int make(struct trk_job *job, const char *key, const char *name,
                const struct digest *fingerprint, struct job_stage *old, uint32_t previous,
                struct job_stage **out)
{
    struct job_stage *stage = mem_zalloc(1, sizeof(*stage));
    uint32_t number = 1;
    int rc;

    if (job->stages_count > 0) {
        number = job->stages[job->stages_count - 1]->number + 1;
    }
    if (stage != NULL) {
        *stage = (struct job_stage){.number = number, .fingerprint = *fingerprint,
                                    .previous = previous, .is_used = true,
                                    .key = mem_strdup(key), .name = mem_strdup(name)};
    }
    rc = append(job, stage);
    if (rc == 0) {
        rc = save(job, stage);
    }
    if (rc == 0 && old != NULL) { /* after the new one: a crash between leaves the newer in force */
        old->replaced_by = number;
        old->is_used = false;
        rc = save(job, old);
    }
    if (rc == 0) {
        *out = stage;
    }
    return rc;
}

static int changed(const struct job_stage *stage)
{
    return fail(TRK_ECHANGED, "the code of %s has changed since its results were recorded; resume "
                "with --on-change=keep to keep them, or with --on-change=redo to run it again",
                stage->name);
}

/* Under the mutex. */
static int reuse(struct trk_job *job, struct job_stage *stage, const char *name,
                 const struct digest *fingerprint, struct job_stage **out, bool *is_new)
{
    if (stage->is_used) {
        return fail(TRK_EINVAL, "two works of job %s that run at once are called %s; give "
                    "each forkwork and forkgen a name= of its own", job->name, stage->key);
    }
    if (memcmp(&stage->fingerprint, fingerprint, sizeof(*fingerprint)) != 0) {
        if (job->on_change == TRK_CHANGE_REFUSE) {
            return changed(stage);
        }
        if (job->on_change == TRK_CHANGE_REDO) {
            *is_new = true;
            return make(job, stage->key, name, fingerprint, stage, 0, out);
        }
        stage->fingerprint = *fingerprint;
        if (save(job, stage) < 0) {
            return fail(TRK_ENOMEM, "out of memory");
        }
    }
    stage->is_used = true;
    *is_new = false;
    *out = stage;
    return 0;
}

int job_stage_open(struct trk_job *job, const char *key, const char *name,
                   const struct digest *fingerprint, struct job_stage **out, bool *is_new)
{
    struct job_stage *stage;
    int rc;

    pthread_mutex_lock(&job->mutex);
    stage = find_key(job, key);
    if (stage != NULL) {
        rc = reuse(job, stage, name, fingerprint, out, is_new);
    } else {
        *is_new = true;
        rc = make(job, key, name, fingerprint, NULL, 0, out);
        if (rc < 0) {
            rc = fail(rc, "cannot record a new stage: %s", trk_strerror(rc));
        }
    }
    pthread_mutex_unlock(&job->mutex);
    return rc;
}

int job_stage_find(struct trk_job *job, const char *key, struct job_stage *out)
{
    const struct job_stage *stage;

    pthread_mutex_lock(&job->mutex);
    stage = find_key(job, key);
    if (stage != NULL) {
        *out = *stage;
    }
    pthread_mutex_unlock(&job->mutex);
    return stage != NULL ? 0 : TRK_END;
}

int job_stage_edit(struct trk_job *job, struct job_stage *old, struct job_stage **out)
{
    int rc;

    pthread_mutex_lock(&job->mutex);
    rc = make(job, old->key, old->name, &old->fingerprint, old, old->number, out);
    pthread_mutex_unlock(&job->mutex);
    return rc < 0 ? fail(rc, "cannot record a new stage: %s", trk_strerror(rc)) : 0;
}

int job_stage_close(struct trk_job *job, uint32_t number, uint64_t total,
                    uint64_t closed_after)
{
    struct job_stage *stage;
    int rc = 0;

    pthread_mutex_lock(&job->mutex);
    stage = find_number(job, number);
    if (stage == NULL) {
        rc = TRK_EINVAL;
    } else if (!stage->is_closed || stage->total != total ||
               stage->closed_after != closed_after) {
        stage->is_closed = true;
        stage->total = total;
        stage->closed_after = closed_after;
        rc = save(job, stage);
    }
    pthread_mutex_unlock(&job->mutex);
    return rc;
}

int job_stage_grow(struct trk_job *job, uint32_t number, uint64_t elements)
{
    struct job_stage *stage;
    int rc = 0;

    pthread_mutex_lock(&job->mutex);
    stage = find_number(job, number);
    if (stage != NULL && stage->is_closed && stage->total < elements) {
        stage->is_closed = false;
        rc = save(job, stage);
    }
    pthread_mutex_unlock(&job->mutex);
    return rc;
}

void job_stage_release(struct trk_job *job, struct job_stage *stage)
{
    pthread_mutex_lock(&job->mutex);
    stage->is_used = false;
    pthread_mutex_unlock(&job->mutex);
}

uint32_t job_stage_now(struct trk_job *job, uint32_t number)
{
    struct job_stage *stage;

    pthread_mutex_lock(&job->mutex);
    stage = find_number(job, number);
    while (stage != NULL && stage->replaced_by > stage->number) {
        stage = find_number(job, stage->replaced_by);
    }
    number = stage != NULL ? stage->number : 0;
    pthread_mutex_unlock(&job->mutex);
    return number;
}

uint32_t job_stage_previous(struct trk_job *job, uint32_t number)
{
    struct job_stage *stage;

    pthread_mutex_lock(&job->mutex);
    stage = find_number(job, number);
    number = stage != NULL && stage->previous < number ? stage->previous : 0;
    pthread_mutex_unlock(&job->mutex);
    return number;
}
