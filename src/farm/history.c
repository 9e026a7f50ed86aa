/* SPDX-License-Identifier: MIT */
/* history.c - what happened to elements of a durable work, in its job: runs that ended badly are
 * recorded, so that `trickle why` tells of them in later runs of the program and without it.
 *
 * Runs that gave a result need no record: the result has their number. */
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "ckpt/value.h"
#include "farm/farm_impl.h"

/* What earlier runs of the program left; outputs are in bytes. */
struct earlier {
    struct value_attempt *attempts;
    size_t count;
    struct blob *bytes;
};

static void earlier_free(struct earlier *e)
{
    mem_free(e->attempts);
    blob_unref(e->bytes);
}

static int earlier_get(struct earlier *e, struct trk_job *job, uint32_t stage, uint64_t index)
{
    uint8_t key[KEY_STAGE_NUMBER];
    size_t n = 0;
    int rc;

    memset(e, 0, sizeof(*e));
    ckpt_key(key, stage, index);
    rc = job_read_get(job, CKPT_ATTEMPT, key, sizeof(key), &e->bytes);
    if (rc != 0) {
        e->bytes = NULL;
        return rc < 0 ? rc : 0;
    }
    rc = value_attempts_decode(&e->attempts, &e->count, e->bytes->data, e->bytes->size);
    if (rc < 0) {
        blob_unref(e->bytes);
        memset(e, 0, sizeof(*e));
        return rc;
    }
    for (size_t i = 0; i < e->count; i++) {
        if (e->attempts[i].epoch < job->epoch) {
            e->attempts[n++] = e->attempts[i];
        }
    }
    e->count = n;
    return 0;
}

static int put(struct trk_job *job, uint32_t stage, uint64_t index,
               const struct value_attempt *attempts, size_t count)
{
    struct ckpt_value value = {.blob = value_attempts_encode(attempts, count), .count = 1};
    uint8_t key[KEY_STAGE_NUMBER];
    int rc;

    if (value.blob == NULL) {
        return TRK_ENOMEM;
    }
    ckpt_key(key, stage, index);
    value.slices[0] = (struct ckpt_slice){value.blob->data, value.blob->size};
    rc = job_put_record(job, CKPT_ATTEMPT, key, sizeof(key), &value, NULL);
    blob_unref(value.blob);
    return rc;
}

static int record(struct trk_work *work, uint64_t index, const struct trk_attempt *now,
                  size_t now_count)
{
    struct trk_job *job = work->farm->job;
    struct value_attempt *all;
    struct earlier old;
    size_t count, first;
    int rc = earlier_get(&old, job, work->store_stage, index);

    if (rc < 0) {
        return rc;
    }
    count = old.count + now_count;
    all = mem_zalloc(count, sizeof(*all));
    if (all == NULL) {
        rc = TRK_ENOMEM;
    } else {
        if (old.count > 0) {
            memcpy(all, old.attempts, old.count * sizeof(*all));
        }
        for (size_t i = 0; i < now_count; i++) {
            all[old.count + i] = (struct value_attempt){job->epoch, now[i]};
        }
        first = count > VALUE_ATTEMPTS_MAX ? count - VALUE_ATTEMPTS_MAX : 0;
        rc = put(job, work->store_stage, index, all + first, count - first);
    }
    mem_free(all);
    earlier_free(&old);
    return rc;
}

void history_put(struct trk_work *work, uint64_t index)
{
    struct trk_attempt *attempts;
    size_t count;
    int rc = attempts_now(work, index, &attempts, &count);

    if (rc == 0 && count > 0) {
        rc = record(work, index, attempts, count);
    }
    if (rc < 0) {
        log_warn("farm", "a run of element %llu of %s is not on record: %s",
                 (unsigned long long)index, work->name, trk_strerror(rc));
    }
    trk_attempts_free(attempts, count);
}

/* What old runs left goes before now, which is taken. */
static int prepend(const struct earlier *old, struct trk_attempt *now, size_t now_count,
                   struct trk_attempt **out)
{
    struct trk_attempt *all = mem_realloc(now, (old->count + now_count) * sizeof(*all));

    if (all == NULL) {
        trk_attempts_free(now, now_count);
        return fail(TRK_ENOMEM, "out of memory");
    }
    memmove(all + old->count, all, now_count * sizeof(*all));
    for (size_t i = 0; i < old->count; i++) {
        all[i] = old->attempts[i].a;
        attempts_own_output(&all[i]);
    }
    *out = all;
    return 0;
}

int history_get(struct trk_work *work, uint32_t stage, uint64_t index, struct trk_attempt **out,
                size_t *count)
{
    struct earlier old;
    int rc = attempts_now(work, index, out, count);

    if (rc < 0 || stage == 0) {
        return rc;
    }
    rc = earlier_get(&old, work->farm->job, stage, index);
    if (rc < 0) {
        trk_attempts_free(*out, *count);
        return rc;
    }
    if (old.count > 0) {
        rc = prepend(&old, *out, *count, out);
        *count += old.count;
    }
    earlier_free(&old);
    return rc;
}

int trk_work_attempts(struct trk_work *work, uint64_t index, struct trk_attempt **out,
                      size_t *count)
{
    return history_get(work, work->in_job != NULL ? work->in_job->number : 0, index, out, count);
}
