/* SPDX-License-Identifier: MIT */
/* edit.c - see edit.h. A hash table of digests; what has the same digest is a chain in the order of
 * elements. It is made only when a list has changed, and costs 48 bytes per recorded element. */
#include "farm/edit.h"

#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "farm/kept.h"

#define NONE UINT32_MAX
#define CHAIN_MAX 1000 /* stages that have replaced each other */

struct entry {
    struct digest digest;
    uint64_t index;
    uint32_t stage;
    uint32_t next; /* of the same digest, or of the same bucket; NONE: the last */
};

struct edit {
    struct entry *entries;
    uint32_t count, cap;
    uint32_t *heads, *tails; /* of buckets, chains in the order they were put */
    uint32_t buckets;        /* a power of two */
};

static uint32_t bucket_of(const struct edit *e, const struct digest *digest)
{
    return le_load_u32(digest->bytes) & (e->buckets - 1);
}

static void link_entry(struct edit *e, uint32_t i)
{
    uint32_t b = bucket_of(e, &e->entries[i].digest);

    e->entries[i].next = NONE;
    if (e->heads[b] == NONE) {
        e->heads[b] = i;
    } else {
        e->entries[e->tails[b]].next = i;
    }
    e->tails[b] = i;
}

static int grow(struct edit *e)
{
    uint32_t cap = e->cap > 0 ? e->cap * 2 : 1024;
    struct entry *entries;
    uint32_t *tables;

    if (cap < e->cap || cap == NONE) {
        return TRK_EFULL;
    }
    entries = mem_realloc(e->entries, (size_t)cap * sizeof(*entries));
    if (entries == NULL) {
        return TRK_ENOMEM;
    }
    e->entries = entries;
    tables = mem_realloc(e->heads, (size_t)cap * 2 * sizeof(*tables));
    if (tables == NULL) {
        return TRK_ENOMEM;
    }
    e->cap = e->buckets = cap;
    e->heads = tables;
    e->tails = tables + cap;
    memset(e->heads, 0xff, (size_t)cap * sizeof(*tables));
    for (uint32_t i = 0; i < e->count; i++) { /* only while it is being built: none is taken yet */
        if (e->entries[i].stage != 0) {
            link_entry(e, i);
        }
    }
    return 0;
}

static int put(struct edit *e, const struct digest *digest, uint32_t stage, uint64_t index)
{
    int rc = e->count == e->cap ? grow(e) : 0;

    if (rc < 0) {
        return fail(rc, "no memory to compare a changed list of %u elements", e->count);
    }
    e->entries[e->count] = (struct entry){.digest = *digest, .stage = stage, .index = index};
    link_entry(e, e->count++);
    return 0;
}

bool edit_take(struct edit *e, const struct digest *digest, uint32_t *stage, uint64_t *index)
{
    uint32_t b, before = NONE;

    if (e->count == 0) {
        return false;
    }
    b = bucket_of(e, digest);
    for (uint32_t i = e->heads[b]; i != NONE; before = i, i = e->entries[i].next) {
        struct entry *entry = &e->entries[i];
        if (memcmp(&entry->digest, digest, sizeof(*digest)) != 0) {
            continue;
        }
        if (before == NONE) {
            e->heads[b] = entry->next;
        } else {
            e->entries[before].next = entry->next;
        }
        if (e->tails[b] == i) {
            e->tails[b] = before;
        }
        *stage = entry->stage;
        *index = entry->index;
        entry->stage = 0; /* a table that grows leaves it out */
        return true;
    }
    return false;
}

enum what { TAKE_ALL, TAKE_RECORDED, PUT_RECORDED };

/* Known elements of a stage before index take their share, or those with results are put. */
static int walk(struct edit *e, struct trk_job *job, uint32_t stage, uint64_t index,
                enum what what)
{
    struct replay *r;
    uint64_t at = 0;
    int rc = replay_new(&r, job, stage);

    if (rc < 0) {
        return rc;
    }
    while (rc == 0 && (rc = replay_next_known(r, at, &at)) == 0 && at < index) {
        struct replay_look look;
        uint32_t from;
        uint64_t was;
        rc = replay_look(r, at, &look);
        if (rc == 0 && what == PUT_RECORDED && look.is_recorded) {
            rc = put(e, &look.digest, stage, at);
        } else if (rc == 0 && (what == TAKE_ALL ||
                               (what == TAKE_RECORDED && look.is_recorded))) {
            (void)edit_take(e, &look.digest, &from, &was);
        }
        at++;
    }
    replay_free(r);
    return rc < 0 ? rc : 0;
}

int edit_new(struct edit **out, struct trk_job *job, uint32_t stage, uint64_t index)
{
    struct edit *e = mem_zalloc(1, sizeof(*e));
    uint32_t chain[CHAIN_MAX];
    size_t n = 0;
    int rc = 0;

    if (e == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    for (uint32_t s = job_stage_previous(job, stage); s != 0 && n < CHAIN_MAX;
         s = job_stage_previous(job, s)) {
        chain[n++] = s;
    }
    while (rc == 0 && n-- > 0) { /* the oldest first; what a stage took over counts as its own */
        rc = walk(e, job, chain[n], UINT64_MAX, TAKE_RECORDED);
        if (rc == 0) {
            rc = walk(e, job, chain[n], UINT64_MAX, PUT_RECORDED);
        }
    }
    if (rc == 0) {
        rc = walk(e, job, stage, index, TAKE_ALL);
    }
    if (rc < 0) {
        edit_free(e);
        return rc;
    }
    *out = e;
    return 0;
}

void edit_free(struct edit *e)
{
    if (e != NULL) {
        mem_free(e->entries);
        mem_free(e->heads);
        mem_free(e);
    }
}

/* --- copying ---------------- */

/* count elements of a result from first on become those of stage to, from at on. */
static int copy_result(struct trk_job *job, const struct ckpt_result *res, uint64_t first,
                       uint64_t count, uint32_t to, uint64_t at, uint64_t *ticket)
{
    struct record_run run = {.first = at, .count = count};
    uint64_t skip = first - res->run.first;
    struct ckpt_value value = {.blob = res->value, .count = 4};
    const uint8_t *payload, *end;
    struct value_result v;
    int rc;

    if (value_result_decode(&v, res->run.count, res->value->data, res->value->size) < 0 ||
        skip + count > res->run.count) {
        return fail(TRK_ECORRUPT, "the store of job %s holds what cannot be", job->name);
    }
    payload = v.payloads;
    for (uint64_t i = 0; i < skip; i++) {
        payload += le_load_u32(v.sizes + i * 4);
    }
    end = payload;
    for (uint64_t i = skip; i < skip + count; i++) {
        end += le_load_u32(v.sizes + i * 4);
        run.failed += v.statuses[i] != TRK_STATUS_OK;
    }
    value.slices[0] = (struct ckpt_slice){res->value->data, 4}; /* the attempt */
    value.slices[1] = (struct ckpt_slice){v.statuses + skip, count};
    value.slices[2] = (struct ckpt_slice){v.sizes + skip * 4, count * 4};
    value.slices[3] = (struct ckpt_slice){payload, (size_t)(end - payload)};
    rc = job_put_result(job, to, &run, &value, ticket);
    return rc < 0 ? rc : job_keep_up(job, *ticket);
}

/* Leaves what is known of the first count elements; the turns stay. spans: room for all of them. */
static void clip(struct value_work *work, uint32_t count, uint8_t *spans)
{
    uint32_t left = count, of_span;
    uint64_t delivered;

    memcpy(spans, work->delivered, (size_t)work->spans * VALUE_WORK_SPAN);
    for (work->spans = 0; left > 0; work->spans++, left -= of_span) {
        uint8_t *span = spans + (size_t)work->spans * VALUE_WORK_SPAN;
        value_work_span_get(span, &of_span, &delivered);
        of_span = of_span < left ? of_span : left;
        value_work_span_put(span, of_span, delivered);
    }
    work->count = count;
    work->delivered = spans;
}

static int copy_work(struct trk_job *job, uint32_t from, uint32_t to, uint64_t first,
                     uint64_t index, const struct blob *block, uint64_t *ticket)
{
    struct value_work work;
    uint8_t *spans = NULL;
    int rc = value_work_decode(&work, block->data, block->size);

    if (rc == 0 && first + work.count > index) {
        spans = mem_alloc((size_t)work.spans * VALUE_WORK_SPAN);
        if (spans == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
        clip(&work, (uint32_t)(index - first), spans);
    }
    if (rc == 0) {
        rc = kept_copy(job, from, to, first, work.count, ticket);
    }
    if (rc == 0) {
        rc = job_put_work(job, to, first, &work, ticket);
    }
    mem_free(spans);
    return rc < 0 ? rc : job_keep_up(job, *ticket);
}

/* Work records: those elements are known under the new number too. */
static int copy_works(struct trk_job *job, uint32_t from, uint32_t to, uint64_t index,
                      uint64_t *ticket)
{
    struct ckpt_read_key key = {.size = KEY_STAGE};
    struct blob *block;
    int rc;

    key_put_u32(key.bytes, from);
    while ((rc = job_read_next(job, CKPT_WORK, &key, &block)) == 0) {
        uint64_t first = key.size == KEY_STAGE_NUMBER ? key_get_u64(key.bytes + KEY_STAGE) : 0;
        if (key.size != KEY_STAGE_NUMBER || key_get_u32(key.bytes) != from || first >= index) {
            blob_unref(block);
            break;
        }
        rc = copy_work(job, from, to, first, index, block, ticket);
        blob_unref(block);
        if (rc < 0) {
            return rc;
        }
    }
    return rc < 0 ? rc : 0;
}

int edit_copy(struct trk_job *job, uint32_t from, uint32_t to, uint64_t index,
              struct ckpt_position *position)
{
    struct ckpt_result res;
    uint64_t ticket = 0;
    int rc = position->seq == 0 ? copy_works(job, from, to, index, &ticket) : 0;

    while (rc == 0 && (rc = job_read_recorded(job, from, position, &res)) == 0) {
        uint64_t first = res.found.first, count = res.found.count;
        if (first < index) {
            count = count > index - first ? index - first : count;
            rc = copy_result(job, &res, first, count, to, first, &ticket);
        }
        blob_unref(res.value);
    }
    return rc < 0 ? rc : job_sync(job, ticket);
}
