/* SPDX-License-Identifier: MIT */
/* replay.c - see replay.h.
 *
 * Two walks through the store, each a record at a time: work records in the order of elements,
 * beside the elements the program makes; result records in the order of recording, or of
 * elements, beside the results it takes. Only what was recorded when the stage was opened (version)
 * is given from here; later results come from the farm. */
#include "farm/replay.h"

#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"

int replay_new(struct replay **out, struct trk_job *job, uint32_t stage)
{
    struct replay *r = mem_zalloc(1, sizeof(*r));
    int rc;

    if (r == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    r->job = job_ref(job);
    r->stage = stage;
    r->limit = UINT64_MAX;
    key_put_u32(r->key.bytes, stage); /* sorts before all keys of the stage's elements */
    r->key.size = KEY_STAGE;
    rc = job_read_version(job, &r->version);
    if (rc < 0) {
        replay_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

void replay_free(struct replay *r)
{
    if (r == NULL) {
        return;
    }
    blob_unref(r->block);
    blob_unref(r->result.value);
    job_unref(r->job);
    mem_free(r);
}

static int damaged(const struct replay *r)
{
    return fail(TRK_ECORRUPT, "the store of job %s holds what cannot be: stop, and trickle fsck %s "
                "looks it over", r->job->name, r->job->name);
}

/* --- elements that are known ---------------- */

/* Holds the next work record. 0, TRK_END, an error. */
static int next_block(struct replay *r)
{
    struct blob *block;
    int rc = job_read_next(r->job, CKPT_WORK, &r->key, &block);

    blob_unref(r->block);
    r->block = NULL;
    if (rc == 0 && (r->key.size != KEY_STAGE_NUMBER || key_get_u32(r->key.bytes) != r->stage)) {
        blob_unref(block);
        rc = TRK_END;
    }
    if (rc != 0) {
        r->is_work_end = true;
        return rc;
    }
    r->block = block;
    if (value_work_decode(&r->work, block->data, block->size) < 0) {
        return damaged(r);
    }
    r->block_first = key_get_u64(r->key.bytes + KEY_STAGE);
    r->span = r->work.delivered;
    r->span_at = 0;
    return 0;
}

/* Holds the work record of index, or the next one behind it. */
static int seek_block(struct replay *r, uint64_t index)
{
    int rc = 0;

    while (rc == 0 && !r->is_work_end &&
           (r->block == NULL || r->block_first + r->work.count <= index)) {
        rc = next_block(r);
    }
    return rc == TRK_END ? 0 : rc;
}

static uint64_t delivered_at(struct replay *r, uint32_t at)
{
    uint32_t count;
    uint64_t delivered;

    value_work_span_get(r->span, &count, &delivered);
    while (at >= r->span_at + count) { /* the spans add up to the elements: checked */
        r->span_at += count;
        r->span += VALUE_WORK_SPAN;
        value_work_span_get(r->span, &count, &delivered);
    }
    return delivered;
}

/* Finds the run of results at index, or the next one behind it. */
static int seek_found(struct replay *r, uint64_t index)
{
    int rc;

    if (r->is_found_end || (r->has_found && index < r->found.first + r->found.count)) {
        return 0;
    }
    rc = job_read_find(r->job, r->stage, index, &r->found);
    r->has_found = rc == 0;
    r->is_found_end = rc == TRK_END;
    return rc < 0 ? rc : 0;
}

static bool is_in(const struct ckpt_found *found, uint64_t index)
{
    return index >= found->first && index - found->first < found->count;
}

int replay_look(struct replay *r, uint64_t index, struct replay_look *out)
{
    bool has_result;
    int rc = seek_block(r, index);

    memset(out, 0, sizeof(*out));
    if (rc == 0) {
        rc = seek_found(r, index);
    }
    if (rc < 0 || index >= r->limit) {
        return rc;
    }
    has_result = r->has_found && is_in(&r->found, index) && r->found.seq <= r->version;
    if (r->block != NULL && index >= r->block_first) {
        uint32_t at = (uint32_t)(index - r->block_first);
        out->is_known = true;
        memcpy(out->digest.bytes, r->work.digests + (size_t)at * sizeof(out->digest),
               sizeof(out->digest));
        out->delivered = delivered_at(r, at);
        out->is_recorded = has_result;
    } else {
        out->has_stray_result = has_result;
    }
    return 0;
}

bool replay_block(const struct replay *r, uint64_t index, uint64_t *first, uint32_t *count)
{
    if (index >= r->limit || r->block == NULL || index < r->block_first ||
        index - r->block_first >= r->work.count) {
        return false;
    }
    *first = r->block_first;
    *count = r->work.count;
    return true;
}

bool replay_is_over(const struct replay *r, uint64_t index)
{
    if (index >= r->limit) {
        return true;
    }
    return r->is_work_end && (r->block == NULL || index >= r->block_first + r->work.count) &&
           r->is_found_end;
}

int replay_next_known(struct replay *r, uint64_t index, uint64_t *known)
{
    int rc = seek_block(r, index);

    if (rc < 0) {
        return rc;
    }
    if (r->block == NULL || index >= r->limit) {
        return TRK_END;
    }
    *known = index > r->block_first ? index : r->block_first;
    return 0;
}

/* --- recorded results ---------------- */

/* Begins to give the elements found.first .. of r->result, but those before from. */
static int begin_result(struct replay *r, uint64_t from)
{
    const struct ckpt_found *found = &r->result.found;
    uint64_t skip = found->first - r->result.run.first;

    if (value_result_decode(&r->value, r->result.run.count, r->result.value->data,
                            r->result.value->size) < 0 ||
        skip + found->count > r->result.run.count) {
        return damaged(r);
    }
    r->at = found->first > from ? found->first : from;
    r->end = found->first + found->count;
    r->payload = r->value.payloads;
    for (uint64_t i = 0; i < r->at - r->result.run.first; i++) {
        r->payload += le_load_u32(r->value.sizes + i * 4);
    }
    return 0;
}

static void end_result(struct replay *r)
{
    blob_unref(r->result.value);
    r->result.value = NULL;
}

static void give(struct replay *r, struct trk_result *out)
{
    uint64_t i = r->at - r->result.run.first;
    uint32_t size = le_load_u32(r->value.sizes + i * 4);

    *out = (struct trk_result){.index = r->at, .status = r->value.statuses[i],
                               .payload = r->payload, .size = size,
                               .attempts = r->value.attempt};
    r->payload += size;
    r->at++;
}

void replay_refresh(struct replay *r)
{
    r->has_found = r->is_found_end = false;
    if (r->result.value != NULL) {
        r->position = (struct ckpt_position){r->result.found.seq, r->at};
        end_result(r);
        r->at = r->end = 0;
    }
}

int replay_take(struct replay *r, uint64_t added, bool is_closed, struct trk_result *out)
{
    for (;;) {
        int rc;
        if (r->is_given) {
            return TRK_END;
        }
        if (r->result.value != NULL && r->at < r->end && r->at < r->limit) {
            if (r->at < added) {
                give(r, out);
                return 0;
            }
            if (!is_closed) {
                return TRK_AGAIN;
            }
            r->at = r->end; /* the list has become shorter */
        }
        end_result(r);
        rc = job_read_recorded(r->job, r->stage, &r->position, &r->result);
        if (rc == TRK_END || (rc == 0 && r->result.found.seq > r->version)) {
            if (rc == 0) {
                end_result(r);
            }
            r->is_given = true;
            return TRK_END;
        }
        if (rc == 0) {
            rc = begin_result(r, 0);
        }
        if (rc < 0) {
            return rc;
        }
    }
}

int replay_take_at(struct replay *r, uint64_t index, struct trk_result *out)
{
    int rc;

    if (index >= r->limit) {
        return TRK_END;
    }
    if (r->result.value != NULL && r->at == index && r->at < r->end) {
        give(r, out);
        return 0;
    }
    if (r->is_given || (r->end > index && r->at > index)) {
        return TRK_END; /* the next result known is of a later element */
    }
    end_result(r);
    rc = job_read_at(r->job, r->stage, index, &r->result);
    if (rc == TRK_END) {
        r->is_given = true;
        return TRK_END;
    }
    if (rc < 0) {
        return rc;
    }
    if (r->result.found.seq > r->version) { /* of this run of the program: the farm gives it */
        r->end = r->result.found.first + r->result.found.count;
        r->at = r->end;
        end_result(r);
        return TRK_END;
    }
    rc = begin_result(r, index);
    if (rc == 0 && r->at == index) {
        give(r, out);
        return 0;
    }
    return rc < 0 ? rc : TRK_END;
}

/* --- failures ---------------- */

static int forget_failures_of(struct trk_job *job, uint32_t stage, const struct ckpt_result *res,
                              uint64_t *ticket)
{
    const struct ckpt_found *found = &res->found;
    uint64_t skip = found->first - res->run.first;
    struct value_result v;
    int rc = value_result_decode(&v, res->run.count, res->value->data, res->value->size);

    if (rc < 0 || skip + found->count > res->run.count) {
        return fail(TRK_ECORRUPT, "the store of job %s holds what cannot be: stop, and trickle "
                    "fsck %s looks it over", job->name, job->name);
    }
    for (uint64_t i = 0, end; i < found->count && rc == 0; i = end) {
        end = i + 1;
        if (v.statuses[skip + i] == TRK_STATUS_OK) {
            continue;
        }
        while (end < found->count && v.statuses[skip + end] != TRK_STATUS_OK) {
            end++;
        }
        rc = job_forget(job, stage, &(struct record_run){.first = found->first + i,
                                                         .count = end - i, .failed = end - i},
                        ticket);
    }
    return rc;
}

int replay_forget_failed(struct trk_job *job, uint32_t stage)
{
    struct ckpt_position position = {0};
    struct ckpt_result res;
    uint64_t version, ticket = 0;
    int rc = job_read_version(job, &version);

    while (rc == 0 && (rc = job_read_recorded(job, stage, &position, &res)) == 0) {
        if (res.found.seq <= version && res.run.failed > 0) {
            rc = forget_failures_of(job, stage, &res, &ticket);
        }
        blob_unref(res.value);
    }
    return rc == TRK_END ? job_sync(job, ticket) : rc;
}
