/* SPDX-License-Identifier: MIT */
/* kept.c - see kept.h. */
#include "farm/kept.h"

#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

/* --- reading back ---------------- */

void kept_drop(struct kept_page *page)
{
    blob_unref(page->bytes);
    memset(page, 0, sizeof(*page));
}

/* Whether these are the bytes that the work record tells of. */
static bool is_right(const struct value_elements *v, const struct value_work *work)
{
    const uint8_t *at = v->elements;

    for (uint32_t i = 0; i < v->count; i++) {
        uint32_t size = le_load_u32(v->sizes + (size_t)i * 4);
        struct digest digest = hash_digest(at, size);
        if (memcmp(digest.bytes, work->digests + (size_t)i * sizeof(digest),
                   sizeof(digest)) != 0) {
            return false;
        }
        at += size;
    }
    return true;
}

/* The bytes of a work record's elements, checked. */
static int read_bytes(struct kept_page *page, struct ckpt_reader *r, uint32_t stage,
                      uint64_t first, const struct value_work *work)
{
    uint8_t key[KEY_STAGE_NUMBER];
    int rc;

    ckpt_key(key, stage, first);
    rc = ckpt_read_get(r, CKPT_ELEMENTS, key, sizeof(key), &page->bytes);
    if (rc == 0) {
        rc = value_elements_decode(&page->v, page->bytes->data, page->bytes->size);
        if (rc == 0 && (page->v.count != work->count || !is_right(&page->v, work))) {
            rc = TRK_END;
        }
    }
    return rc == TRK_END ? TRK_ENOTKEPT : rc;
}

int kept_read(struct kept_page *page, struct ckpt_reader *r, uint32_t stage, uint64_t index)
{
    uint64_t first = index;
    struct value_work work;
    struct blob *value;
    int rc;

    kept_drop(page);
    rc = ckpt_read_before(r, CKPT_WORK, stage, &first, &value);
    if (rc != 0) {
        return rc;
    }
    rc = value_work_decode(&work, value->data, value->size);
    if (rc == 0) {
        rc = index - first < work.count ? read_bytes(page, r, stage, first, &work) : TRK_END;
    }
    if (rc == 0) {
        page->stage = stage;
        page->first = page->at = first;
        page->count = work.count;
    } else {
        kept_drop(page);
    }
    blob_unref(value);
    return rc;
}

bool kept_has(const struct kept_page *page, uint32_t stage, uint64_t index)
{
    return page->count > 0 && page->stage == stage && index >= page->first &&
           index - page->first < page->count;
}

void kept_get(struct kept_page *page, uint64_t index, const void **element, size_t *size)
{
    if (index < page->at) {
        page->at = page->first;
        page->offset = 0;
    }
    for (; page->at < index; page->at++) {
        page->offset += le_load_u32(page->v.sizes + (page->at - page->first) * 4);
    }
    *element = page->v.elements + page->offset;
    *size = le_load_u32(page->v.sizes + (index - page->first) * 4);
}

int kept_count(struct ckpt_reader *r, uint32_t stage, uint64_t *count)
{
    uint64_t first = UINT64_MAX;
    struct value_work work;
    struct blob *value;
    int rc = ckpt_read_before(r, CKPT_WORK, stage, &first, &value);

    *count = 0;
    if (rc == 0) {
        rc = value_work_decode(&work, value->data, value->size);
        *count = rc == 0 ? first + work.count : 0;
        blob_unref(value);
    }
    return rc == TRK_END ? 0 : rc;
}

/* --- the walk of a program ---------------- */

struct trk_elements {
    struct trk_job *job;   /* one reference */
    char *name;            /* of the stage, for people */
    uint32_t stage;
    uint64_t next, end;    /* elements that are still to be given */
    struct kept_page page;
};

int trk_job_get_stage(struct trk_job *job, const char *key, struct trk_job_stage *out)
{
    struct job_stage stage;
    int rc = sys_is_forked() ? fail(TRK_EFORKED, "Trickle was used after fork")
                             : job_stage_find(job, key, &stage);

    memset(out, 0, sizeof(*out));
    if (rc == 0) {
        out->is_closed = stage.is_closed;
        out->elements = stage.total;
    }
    return rc != 0 || stage.is_closed ? rc : job_read_known(job, stage.number, &out->elements);
}

int trk_job_elements(struct trk_job *job, const char *key, uint64_t from,
                     struct trk_elements **out)
{
    struct trk_elements *walk;
    struct job_stage stage;
    int rc = sys_is_forked() ? fail(TRK_EFORKED, "Trickle was used after fork")
                             : job_stage_find(job, key, &stage);

    if (rc != 0) {
        return rc;
    }
    walk = mem_zalloc(1, sizeof(*walk));
    if (walk == NULL || (walk->name = mem_strdup(stage.name)) == NULL) {
        mem_free(walk);
        return fail(TRK_ENOMEM, "out of memory");
    }
    walk->job = job_ref(job);
    walk->stage = stage.number;
    walk->next = from;
    walk->end = stage.total;
    rc = stage.is_closed ? 0 : job_read_known(job, stage.number, &walk->end);
    if (rc < 0) {
        trk_elements_free(walk);
        return rc;
    }
    *out = walk;
    return 0;
}

int trk_elements_next(struct trk_elements *walk, const void **element, size_t *size)
{
    int rc = 0;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    if (walk->next >= walk->end) {
        return TRK_END;
    }
    if (!kept_has(&walk->page, walk->stage, walk->next)) {
        rc = job_read_kept(walk->job, &walk->page, walk->stage, walk->next);
    }
    if (rc == TRK_END || rc == TRK_ENOTKEPT) {
        return fail(TRK_ENOTKEPT, "the store of job %s does not have element %llu of %s: the job "
                    "can only go on with its list, which gives back what is lacking",
                    walk->job->name, (unsigned long long)walk->next, walk->name);
    }
    if (rc == TRK_AGAIN) {
        return fail(TRK_EIO, "the store of job %s cannot be read while its disk fails",
                    walk->job->name);
    }
    if (rc == 0) {
        kept_get(&walk->page, walk->next++, element, size);
    }
    return rc;
}

void trk_elements_free(struct trk_elements *walk)
{
    if (walk != NULL) {
        kept_drop(&walk->page);
        job_unref(walk->job);
        mem_free(walk->name);
        mem_free(walk);
    }
}

/* --- putting ---------------- */

int kept_put(struct trk_job *job, uint32_t stage, const struct kept_run *run, uint64_t *ticket)
{
    uint8_t head[VALUE_ELEMENTS_HEAD], key[KEY_STAGE_NUMBER];
    struct ckpt_value value = {.blob = run->blob, .count = 3};

    value_elements_put(head, run->count);
    value.slices[0] = (struct ckpt_slice){head, sizeof(head)};
    value.slices[1] = (struct ckpt_slice){run->sizes, (size_t)run->count * 4};
    value.slices[2] = (struct ckpt_slice){run->elements, run->size};
    ckpt_key(key, stage, run->first);
    return job_put_record(job, CKPT_ELEMENTS, key, sizeof(key), &value, ticket);
}

int kept_put_block(struct trk_work *work, const struct block *block)
{
    struct kept_run run = {.first = block->first, .count = block->count, .blob = block->bytes};
    uint8_t *sizes = NULL;
    struct wire_run large;
    int rc = 0;

    if (block->is_run) {
        rc = wire_run_decode(&large, block->bytes);
        run.sizes = large.sizes;
        run.elements = large.payloads;
        run.size = rc == 0 ? le_load_u32(large.sizes) : 0;
    } else {
        sizes = mem_alloc((size_t)block->count * 4);
        rc = sizes == NULL ? TRK_ENOMEM : 0;
        for (uint32_t i = 0; rc == 0 && i < block->count; i++) {
            le_store_u32(sizes + (size_t)i * 4, block->offsets[i + 1] - block->offsets[i]);
        }
        run.sizes = sizes;
        run.elements = block->bytes->data;
        run.size = block->bytes->size;
    }
    if (rc == 0) {
        rc = kept_put(work->farm->job, work->store_stage, &run, &work->last_ticket);
    }
    mem_free(sizes);
    return rc;
}

int kept_put_one(struct trk_work *work, const void *element, size_t size)
{
    uint8_t le_size[4];
    struct kept_run run = {.first = work->added, .count = 1, .sizes = le_size,
                           .elements = element, .size = size};

    le_store_u32(le_size, (uint32_t)size);
    return kept_put(work->farm->job, work->in_job->number, &run, &work->put_ticket);
}

int kept_copy(struct trk_job *job, uint32_t from, uint32_t to, uint64_t first, uint32_t count,
              uint64_t *ticket)
{
    struct kept_run run = {.first = first, .count = count};
    uint8_t key[KEY_STAGE_NUMBER];
    struct value_elements v;
    struct blob *value;
    int rc;

    ckpt_key(key, from, first);
    rc = job_read_get(job, CKPT_ELEMENTS, key, sizeof(key), &value);
    if (rc != 0) {
        return rc == TRK_END ? 0 : rc;
    }
    rc = value_elements_decode(&v, value->data, value->size);
    if (rc == 0 && v.count >= count) {
        for (uint32_t i = 0; i < count; i++) {
            run.size += le_load_u32(v.sizes + (size_t)i * 4);
        }
        run.sizes = v.sizes;
        run.elements = v.elements;
        run.blob = value;
        rc = kept_put(job, to, &run, ticket);
    }
    blob_unref(value);
    return rc;
}

/* --- putting again ---------------- */

/* Whether the bytes of the block that begins with this element are to be put (again). One that is
 * in parts is a single element: it is only looked whether something of its size is there. */
static int look(struct trk_work *work, uint64_t first, size_t size, bool *is_lacking)
{
    struct trk_job *job = work->farm->job;
    struct kept_page page = {.count = 0};
    uint8_t key[KEY_STAGE_NUMBER];
    uint64_t stored;
    int rc;

    ckpt_key(key, work->in_job->number, first);
    rc = job_read_size(job, CKPT_ELEMENTS, key, sizeof(key), &stored);
    if (rc == 0 && stored > RECORD_PART_MAX) {
        *is_lacking = stored != VALUE_ELEMENTS_HEAD + 4 + (uint64_t)size;
        return 0;
    }
    rc = rc == 0 ? job_read_kept(job, &page, work->in_job->number, first) : rc;
    kept_drop(&page);
    *is_lacking = rc == TRK_END || rc == TRK_ENOTKEPT;
    return *is_lacking ? 0 : rc;
}

void kept_gather_fini(struct kept_gather *g)
{
    buf_fini(&g->sizes);
    buf_fini(&g->bytes);
    g->count = 0;
    g->is_on = false;
}

int kept_put_gathered(struct trk_work *work)
{
    struct kept_gather *g = &work->gather;
    struct kept_run run = {.first = g->first, .count = g->count};
    struct blob *sizes, *bytes;
    int rc = TRK_ENOMEM;

    if (g->count == 0) {
        return 0;
    }
    sizes = buf_take(&g->sizes);
    bytes = buf_take(&g->bytes);
    if (sizes != NULL && bytes != NULL) {
        run.sizes = sizes->data;
        run.blob = bytes;
        run.elements = bytes->data;
        run.size = bytes->size;
        rc = kept_put(work->farm->job, work->in_job->number, &run, &work->put_ticket);
    }
    blob_unref(sizes);
    blob_unref(bytes);
    kept_gather_fini(g);
    if (rc == TRK_ENOMEM) {
        return fail(rc, "out of memory");
    }
    return rc < 0 ? rc : job_keep_up(work->farm->job, work->put_ticket);
}

int kept_again(struct trk_work *work, const void *element, size_t size)
{
    struct kept_gather *g = &work->gather;
    uint64_t first;
    uint32_t count;
    bool is_lacking;
    int rc;

    if (work->replay == NULL ||
        !replay_block(work->replay, work->added, &first, &count)) {
        return 0;
    }
    if (work->added == first) {
        rc = look(work, first, size, &is_lacking);
        if (rc < 0 || !is_lacking) {
            kept_gather_fini(g);
            return rc;
        }
        if (count == 1) {
            rc = kept_put_one(work, element, size);
            return rc < 0 ? rc : job_keep_up(work->farm->job, work->put_ticket);
        }
        kept_gather_fini(g);
        g->first = first;
        g->is_on = true;
    }
    if (!g->is_on) {
        return 0;
    }
    buf_put_u32(&g->sizes, (uint32_t)size);
    buf_put(&g->bytes, element, size);
    return ++g->count == count ? kept_put_gathered(work) : 0;
}
