/* SPDX-License-Identifier: MIT */
/* durable.c - works of a job: opening their stage, comparing what the program adds with what it
 * added the last time, and switching to another stage when that differs.
 *
 * All on the program's thread but durable_put_work and the switch itself. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/value.h"
#include "farm/farm_impl.h"

int durable_open(struct trk_work *work, const struct trk_work_options *opt)
{
    struct trk_job *job = work->farm->job;
    bool is_new;
    int rc;

    if (job == NULL || opt->key == NULL) {
        return 0;
    }
    if (opt->key[0] == '\0' || strlen(opt->key) > RECORD_KEY_MAX) {
        return fail(TRK_EINVAL, "the key of a work has 1 to %d bytes", RECORD_KEY_MAX);
    }
    memcpy(work->fingerprint.bytes, opt->fingerprint, sizeof(work->fingerprint));
    rc = job_stage_open(job, opt->key, work->name, &work->fingerprint, &work->in_job, &is_new);
    if (rc < 0) {
        return rc;
    }
    work->stage = work->store_stage = work->in_job->number;
    work->last_total = work->in_job->is_closed ? work->in_job->total : UINT64_MAX;
    work->last_closed_after = work->in_job->closed_after;
    if (is_new) {
        return 0;
    }
    for (uint32_t s = work->stage; rc == 0 && job->retry_failed && s != 0;
         s = job_stage_previous(job, s)) { /* else they would be taken over from there */
        rc = replay_forget_failed(job, s);
    }
    return rc < 0 ? rc : replay_new(&work->replay, job, work->stage);
}

void durable_close(struct trk_work *work)
{
    if (work->in_job != NULL) {
        job_stage_release(work->farm->job, work->in_job);
        work->in_job = NULL;
    }
    replay_free(work->replay);
    edit_free(work->edit);
    kept_gather_fini(&work->gather);
    work->replay = NULL;
    work->edit = NULL;
}

/* --- a list that has changed ---------------- */

struct switching {
    struct trk_work *work;
    struct waiter waiter;
    uint32_t number;
    uint64_t ticket; /* out: of what was put before */
};

static void switch_on_loop(void *arg)
{
    struct switching *s = arg;

    s->ticket = s->work->last_ticket;
    s->work->store_stage = s->number;
    waiter_post(&s->waiter);
}

/* What is stored from now on, is stored under number; what was handed on before, is durable. */
static int switch_stage(struct trk_work *work, uint32_t number)
{
    struct switching s = {.work = work, .number = number};
    int rc = trk_work_flush(work);

    if (rc < 0) {
        return rc;
    }
    if (waiter_init(&s.waiter) < 0) {
        return fail(TRK_EIO, "cannot make a semaphore");
    }
    rc = net_loop_post(work->farm->loop, switch_on_loop, &s);
    if (rc == 0) {
        while (waiter_wait(&s.waiter, -1) != 0) { /* a signal: s is in use until it comes */
        }
    }
    waiter_fini(&s.waiter);
    return rc < 0 ? fail(rc, "the farm is closed") : job_sync(work->farm->job, s.ticket);
}

static int refuse_change(const struct trk_work *work, const char *what)
{
    return fail(TRK_ECHANGED, "%s of %s %s; resume with --on-change=keep (or redo): equal elements "
                "keep their results, the others run", "the work list", work->name, what);
}

/* From element index on the list is another one. */
static int begin_edit(struct trk_work *work, uint64_t index, const char *what)
{
    struct trk_job *job = work->farm->job;
    struct job_stage *old = work->in_job, *stage;
    struct ckpt_position copied = {0};
    int rc;

    if (job->on_change == TRK_CHANGE_REFUSE) {
        return refuse_change(work, what);
    }
    rc = job_stage_edit(job, old, &stage);
    if (rc == 0) {
        work->in_job = stage;
        rc = switch_stage(work, old->number); /* what was handed on is in the store */
    }
    if (rc == 0) {
        rc = job_sync(job, work->put_ticket);
    }
    if (rc == 0) {
        rc = edit_copy(job, old->number, stage->number, index, &copied);
    }
    if (rc == 0) { /* the block that ends here has not been put again yet */
        rc = kept_put_gathered(work);
    }
    if (rc == 0) { /* results that come now are recorded behind those copied, as they are given */
        rc = switch_stage(work, stage->number);
    }
    if (rc == 0) {
        rc = edit_copy(job, old->number, stage->number, index, &copied);
    }
    if (rc == 0) {
        edit_free(work->edit); /* of an earlier change */
        work->edit = NULL;
        rc = edit_new(&work->edit, job, stage->number, index);
    }
    if (work->replay != NULL) {
        work->replay->limit = index;
    }
    return rc;
}

/* The program's list may be over before the last one was. */
int durable_check_end(struct trk_work *work)
{
    char what[96];
    uint64_t known;
    int rc;

    if (work->replay == NULL) {
        return 0;
    }
    rc = replay_next_known(work->replay, work->added, &known);
    if (rc != 0) {
        return rc < 0 ? rc : 0;
    }
    snprintf(what, sizeof(what), "has only %llu elements, and had more when the job ran last",
             (unsigned long long)work->added);
    return begin_edit(work, work->added, what);
}

/* --- adding ---------------- */

/* Before the work record of an element behind the end of the last run's list. */
static int grow(const struct trk_work *work, uint32_t stage, uint64_t elements)
{
    return elements > work->last_total ? job_stage_grow(work->farm->job, stage, elements) : 0;
}

/* An element with the result of an equal one, on its way to the farm thread. */
struct adopted {
    struct parcel *parcel;
    uint32_t stage; /* it is stored under this number */
    bool is_known;  /* it has its work record */
    struct digest digest;
    uint64_t delivered; /* results the program had been given when it made it */
};

static void adopted_free(struct adopted *a)
{
    if (a != NULL && a->parcel != NULL) {
        parcel_free(a->parcel);
    }
    mem_free(a);
}

/* Here, so that it is recorded behind all that was put or handed on before it, and given in that
 * order; the other way round a resumed program would be given them in another. */
static void adopt_on_loop(void *arg)
{
    struct adopted *a = arg;
    struct parcel *parcel = a->parcel;
    struct trk_work *work = parcel->work;
    uint8_t span[VALUE_WORK_SPAN];
    struct value_work v = {.count = 1, .digests = a->digest.bytes, .spans = 1, .delivered = span};
    int rc = grow(work, a->stage, parcel->first + 1);

    value_work_span_put(span, 1, a->delivered);
    if (rc == 0 && !a->is_known) {
        rc = job_put_work(work->farm->job, a->stage, parcel->first, &v, NULL);
    }
    if (rc == 0) {
        rc = results_adopt(parcel, a->stage);
    }
    if (rc < 0) {
        work_fail(work, rc);
    } else {
        a->parcel = NULL;
    }
    adopted_free(a);
}

/* One result of what the store has. */
static int make_parcel(struct trk_work *work, const struct ckpt_result *result, uint64_t index,
                       struct parcel *parcel)
{
    struct value_result v;
    int rc = value_result_decode(&v, result->run.count, result->value->data,
                                 result->value->size);

    list_init(&parcel->node);
    parcel->work = work_ref(work);
    parcel->body = result->value;
    parcel->first = work->added;
    parcel->count = 1;
    parcel->is_restored = true;
    if (rc < 0) {
        return fail(rc, "the store of job %s holds what cannot be", work->farm->job->name);
    }
    for (uint64_t at = result->run.first; at < index; at++, v.sizes += 4, v.statuses++) {
        v.payloads += le_load_u32(v.sizes);
    }
    parcel->attempt = v.attempt;
    parcel->statuses = v.statuses;
    parcel->sizes = v.sizes;
    parcel->payloads = v.payloads;
    parcel->bytes = le_load_u32(v.sizes);
    parcel->failed = v.statuses[0] != TRK_STATUS_OK;
    return 0;
}

/* A result of an equal element elsewhere becomes that of the next element. */
static int adopt(struct trk_work *work, uint32_t stage, uint64_t index, const struct offer *offer,
                 bool is_known)
{
    struct adopted *a = mem_zalloc(1, sizeof(*a));
    struct ckpt_result result;
    int rc = TRK_ENOMEM;

    if (a != NULL && (a->parcel = mem_zalloc(1, sizeof(*a->parcel))) != NULL) {
        rc = trk_work_flush(work); /* those before it are handed on before it */
    }
    if (rc == 0) {
        rc = job_read_at(work->farm->job, stage, index, &result);
    }
    if (rc == 0) {
        rc = make_parcel(work, &result, index, a->parcel);
    }
    if (rc == 0) {
        a->stage = work->in_job->number;
        a->is_known = is_known;
        a->digest = offer->digest;
        a->delivered = work->lazy ? 0 : work->pulled_at;
        if (work->keep_elements && !is_known) {
            rc = kept_put_one(work, offer->element, offer->size); /* before its work record */
        }
    }
    if (rc == 0) {
        rc = net_loop_post(work->farm->loop, adopt_on_loop, a);
    }
    if (rc != 0) {
        adopted_free(a);
        return rc == TRK_ENOMEM ? fail(rc, "out of memory") : rc;
    }
    return job_is_behind(work->farm->job) ? switch_stage(work, work->in_job->number) : 0;
}

/* A result whose element's work record was lost: nobody knows whose it is. */
static int forget_stray(struct trk_work *work)
{
    struct record_run run = {.first = work->added, .count = 1};
    uint64_t ticket;
    int rc = job_forget(work->farm->job, work->in_job->number, &run, &ticket);

    if (rc == 0) {
        rc = job_sync(work->farm->job, ticket);
    }
    if (rc == 0) {
        replay_refresh(work->replay);
    }
    return rc;
}

static int compare(struct trk_work *work, struct replay_look *look, const struct digest *digest)
{
    char what[96];
    int rc = replay_look(work->replay, work->added, look);

    if (rc == 0 && look->has_stray_result) {
        rc = forget_stray(work);
    }
    if (rc < 0 || !look->is_known || memcmp(&look->digest, digest, sizeof(*digest)) == 0) {
        return rc;
    }
    snprintf(what, sizeof(what), "has changed: its element %llu is not what it was when the job "
             "ran last", (unsigned long long)work->added);
    memset(look, 0, sizeof(*look));
    return begin_edit(work, work->added, what);
}

int durable_look(struct trk_work *work, const struct offer *offer, enum block_kind *kind)
{
    struct replay_look look = {0};
    uint32_t stage;
    uint64_t index;
    int rc = work->replay != NULL ? compare(work, &look, &offer->digest) : 0;

    if (rc == 0 && work->edit == NULL && !look.is_recorded && work->replay != NULL &&
        work->replay->limit == UINT64_MAX && job_stage_previous(work->farm->job,
                                                                work->in_job->number) != 0) {
        rc = edit_new(&work->edit, work->farm->job, work->in_job->number, work->added);
    }
    if (rc < 0) {
        return rc;
    }
    *kind = look.is_recorded ? BLOCK_RECORDED : look.is_known ? BLOCK_KNOWN : BLOCK_NEW;
    if (work->edit != NULL && edit_take(work->edit, &offer->digest, &stage, &index) &&
        !look.is_recorded) {
        rc = adopt(work, stage, index, offer, look.is_known);
        *kind = rc == 0 ? BLOCK_RECORDED : *kind;
        return rc == 0 ? 1 : rc < 0 ? rc : 0; /* no result there after all: it runs */
    }
    return 0;
}

/* --- work records ---------------- */

/* Farm thread. */
int durable_put_work(struct trk_work *work, const struct block *block)
{
    struct value_work v = {.count = block->count, .digests = block->digests[0].bytes};
    uint8_t one[VALUE_WORK_SPAN], *spans = one;
    uint32_t from = 0;
    int rc = grow(work, work->store_stage, block->first + block->count);

    if (rc < 0) {
        return rc;
    }
    if (block->delivered != NULL) {
        spans = mem_alloc((size_t)block->count * VALUE_WORK_SPAN);
        if (spans == NULL) {
            return TRK_ENOMEM;
        }
    }
    for (uint32_t i = 1; i <= block->count; i++) {
        if (block->delivered == NULL ? i == block->count
                                     : i == block->count ||
                                           block->delivered[i] != block->delivered[from]) {
            value_work_span_put(spans + (size_t)v.spans++ * VALUE_WORK_SPAN, i - from,
                                block->delivered != NULL ? block->delivered[from] : 0);
            from = i;
        }
    }
    v.delivered = spans;
    if (work->keep_elements) {
        rc = kept_put_block(work, block);
    }
    if (rc == 0) {
        rc = job_put_work(work->farm->job, work->store_stage, block->first, &v,
                          &work->last_ticket);
    }
    if (spans != one) {
        mem_free(spans);
    }
    work->farm->last_ticket = rc == 0 ? work->last_ticket : work->farm->last_ticket;
    return rc;
}

/* --- turns ---------------- */

enum trk_turn trk_work_turn(struct trk_work *work)
{
    struct replay_look look;

    if (sys_is_forked() || work->in_job == NULL || work->lazy || work->is_closed ||
        work->is_cancelled) {
        return TRK_TURN_ANY;
    }
    if (work_is_full(work)) {
        return TRK_TURN_TAKE; /* so that no element is made long before it is added */
    }
    if (work->replay == NULL || replay_look(work->replay, work->added, &look) < 0) {
        return TRK_TURN_ANY;
    }
    if (!look.is_known && work->added == work->last_total) { /* here it ended */
        look.delivered = work->last_closed_after;
    } else if (!look.is_known) {
        return TRK_TURN_ANY;
    }
    if (look.delivered > work->taken && work->added > work->taken) {
        return TRK_TURN_TAKE;
    }
    return TRK_TURN_ADD;
}
