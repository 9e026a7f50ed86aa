/* SPDX-License-Identifier: MIT */
/* agent_out.c - what leaves a VM's agent: jobs for the compute thread, results it holds, elements
 * it gives back; and the check of all its tables. */
#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/mark.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "vm/agent_impl.h"

/* --- out ----------------------------------------------------------------------------- */

/* What its stage says of an element, and what was said of it alone. */
static void add_stage(struct agent *a, struct agent_job *job)
{
    const struct stage *s = agent_stage_find(a, job->stage);
    struct list *pos;
    if (s == NULL || !s->is_durable) {
        return;
    }
    job->is_durable = true;
    memcpy(job->fingerprint, s->fingerprint, 16);
    list_for_each(pos, &a->starts) {
        struct start *start = container_of(pos, struct start, link);
        if (start->state.stage == job->stage && start->state.index == job->index) {
            job->state = blob_ref(start->body);
            job->state_bytes = start->state.bytes;
            job->state_size = start->state.size;
            agent_start_free(start);
            break;
        }
    }
}

static void next_element(struct agent *a, struct batch *b, struct agent_job *job)
{
    job->kind = AGENT_ELEMENT;
    job->stage = b->stage;
    job->attempt = b->attempt;
    job->timeout_ms = b->timeout_ms;
    job->index = b->first + b->at;
    job->payload = b->payload;
    job->size = le_load_u32(b->sizes + 4 * (size_t)b->at);
    b->payload += job->size;
    b->at++;
    a->queued--;
    job->is_last = b->at == b->end;
    add_stage(a, job);
    job->body = blob_ref(b->body);
    if (job->is_last) {
        agent_batch_free(a, b);
    }
}

static void next_item(struct agent *a, struct item *item, struct agent_job *job)
{
    struct stage *s = container_of(item, struct stage, item);
    switch (item->kind) {
    case ITEM_BATCH:
        next_element(a, container_of(item, struct batch, item), job);
        break;
    case ITEM_OPEN:
        job->kind = AGENT_STAGE;
        job->stage = s->id;
        job->payload = s->function;
        job->size = s->size;
        memcpy(job->module, s->module, sizeof(job->module));
        job->body = s->body; /* moved */
        s->body = NULL;
        list_remove(&item->link);
        break;
    case ITEM_CLOSE:
        job->kind = AGENT_STAGE_CLOSE;
        job->stage = s->id;
        agent_stage_free(s);
        break;
    }
}

void agent_next(struct agent *a, struct agent_job *job)
{
    memset(job, 0, sizeof(*job));
    if (!list_is_empty(&a->requests)) {
        struct request *r = container_of(a->requests.next, struct request, link);
        job->kind = AGENT_REQUEST;
        job->stream = r->stream;
        job->request = r->request;
        job->body = r->body; /* moved */
        r->body = NULL;
        agent_request_free(r);
    } else if (!list_is_empty(&a->work)) {
        next_item(a, container_of(a->work.next, struct item, link), job);
    }
}

void agent_job_done(struct agent_job *job)
{
    blob_unref(job->body);
    blob_unref(job->state);
    job->body = job->state = NULL;
    job->kind = AGENT_NOTHING;
}

bool agent_has_request(const struct agent *a)
{
    return !list_is_empty(&a->requests);
}

uint32_t agent_timeout_ms(const struct agent *a)
{
    uint32_t least = 0;
    struct list *pos;
    list_for_each(pos, &a->work) {
        const struct item *item = container_of(pos, struct item, link);
        const struct batch *b = container_of(item, struct batch, item);
        if (item->kind == ITEM_BATCH && b->timeout_ms != 0 &&
            (least == 0 || b->timeout_ms < least)) {
            least = b->timeout_ms;
        }
    }
    return least;
}

bool agent_is_cancelled(const struct agent *a, uint32_t stage)
{
    struct list *pos;
    list_for_each(pos, &a->stages) {
        const struct stage *s = container_of(pos, struct stage, link);
        if (s->id == stage && s->is_cancelled) {
            return true;
        }
    }
    return false;
}

int agent_give_back(struct agent *a, struct wire_message *out)
{
    struct list *pos;
    list_for_each(pos, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        if (item->kind != ITEM_BATCH) {
            continue;
        }
        struct batch *b = container_of(item, struct batch, item);
        MARK("a VM that leaves gives elements back");
        struct wire_note note = {
            .stage = b->stage, .first = b->first + b->at, .count = b->end - b->at};
        struct blob *body = wire_note_encode(&note);
        if (body == NULL) {
            return TRK_ENOMEM;
        }
        agent_forget_starts(a, b->stage, note.first, note.first + note.count);
        agent_batch_free(a, b);
        *out = (struct wire_message){.type = WIRE_RECALLED, .body = body};
        return 1;
    }
    return 0;
}

/* --- results ------------------------------------------------------------------------- */

uint64_t agent_next_seq(struct agent *a)
{
    return ++a->seq_last;
}

static int hold(struct agent *a, uint64_t seq, struct blob *result, struct held **out)
{
    assert(seq > 0 && seq <= a->seq_last);
    assert(list_is_empty(&a->held) ||
           container_of(a->held.prev, struct held, link)->seq < seq);
    struct held *h = mem_zalloc(1, sizeof(*h));
    if (h == NULL) {
        return TRK_ENOMEM;
    }
    h->seq = seq;
    h->body = blob_ref(result);
    if (MUTATE(HELD_FREED, true, false)) {
        list_init(&h->link);
        mem_free(h);
        blob_unref(result);
        return 0;
    }
    list_push_back(&a->held, &h->link);
    a->held_count++;
    a->held_bytes += result->size;
    *out = h;
    return 0;
}

int agent_hold(struct agent *a, uint64_t seq, struct blob *result)
{
    struct held *h;
    return a->is_orphan ? 0 : hold(a, seq, result, &h);
}

int agent_hold_durable(struct agent *a, uint64_t seq, struct blob *result,
                       uint32_t count, const struct digest *digests,
                       const uint8_t fingerprint[16])
{
    struct held *h = NULL;
    struct digest *copy = mem_alloc(count * sizeof(*copy));
    int rc = copy == NULL ? TRK_ENOMEM : hold(a, seq, result, &h);
    if (rc < 0 || h == NULL) {
        mem_free(copy);
        return rc;
    }
    memcpy(copy, digests, count * sizeof(*copy));
    memcpy(h->fingerprint, fingerprint, 16);
    h->digests = copy;
    h->count = count;
    a->kept_count++;
    return 0;
}

bool agent_kept_next(const struct agent *a, uint64_t *seq, struct agent_kept *out)
{
    struct list *pos;
    list_for_each(pos, &a->held) {
        const struct held *h = container_of(pos, struct held, link);
        if (h->seq > *seq && h->digests != NULL) {
            *seq = h->seq;
            out->body = h->body;
            out->count = h->count;
            out->digests = h->digests;
            memcpy(out->fingerprint, h->fingerprint, 16);
            return true;
        }
    }
    return false;
}

size_t agent_kept(const struct agent *a)
{
    return a->kept_count;
}

/* --- checkpoints --------------------------------------------------------------------- */

uint64_t agent_next_state(struct agent *a)
{
    return ++a->state_last;
}

void agent_hold_state(struct agent *a, struct blob *body, const uint8_t fingerprint[16])
{
    blob_unref(a->state);
    a->state = blob_ref(body);
    memcpy(a->state_fingerprint, fingerprint, 16);
}

bool agent_kept_state(const struct agent *a, struct agent_kept *out)
{
    if (a->state == NULL) {
        return false;
    }
    out->body = a->state;
    out->count = 0;
    out->digests = NULL;
    memcpy(out->fingerprint, a->state_fingerprint, 16);
    return true;
}

void agent_state_done(struct agent *a, uint64_t seq)
{
    a->state_done = seq > a->state_done ? seq : a->state_done;
    if (a->state_done == a->state_last) {
        blob_unref(a->state);
        a->state = NULL;
    }
}

bool agent_state_is_done(const struct agent *a, uint64_t seq)
{
    return a->state_done >= seq;
}

size_t agent_held(const struct agent *a, size_t *bytes)
{
    if (bytes != NULL) {
        *bytes = a->held_bytes;
    }
    return a->held_count;
}

size_t agent_queued(const struct agent *a)
{
    return a->queued;
}

static void check_work(const struct agent *a)
{
    size_t queued = 0;
    struct list *pos;
    list_for_each(pos, &a->work) {
        assert(pos->next->prev == pos && pos->prev->next == pos);
        const struct item *item = container_of(pos, struct item, link);
        if (item->kind == ITEM_BATCH) {
            const struct batch *b = container_of(item, struct batch, item);
            assert(b->at < b->end);
            assert(b->payload >= b->body->data && b->payload <= b->body->data + b->body->size);
            assert(agent_stage_find(a, b->stage) != NULL);
            queued += b->end - b->at;
        } else {
            const struct stage *s = container_of(item, struct stage, item);
            assert((item->kind == ITEM_OPEN) == (s->body != NULL));
            assert((item->kind == ITEM_CLOSE) == s->is_cancelled);
        }
    }
    assert(queued == a->queued);
}

void agent_check(const struct agent *a)
{
    size_t count = 0, bytes = 0, kept = 0;
    uint64_t seq = 0;
    struct list *pos;
    check_work(a);
    list_for_each(pos, &a->stages) {
        const struct stage *s = container_of(pos, struct stage, link);
        assert(!s->is_tombstone || (s->is_cancelled && list_is_empty(&s->item.link)));
        assert(!s->is_cancelled || s->body == NULL);
        assert(s->body == NULL || !list_is_empty(&s->item.link));
    }
    list_for_each(pos, &a->held) {
        const struct held *h = container_of(pos, struct held, link);
        assert(h->seq > seq && h->seq <= a->seq_last);
        seq = h->seq;
        count++;
        bytes += h->body->size;
        kept += h->digests != NULL;
    }
    assert(count == a->held_count && bytes == a->held_bytes && kept == a->kept_count);
    assert(!a->is_orphan || (a->is_leased && list_is_empty(&a->work) && kept == count));
    assert(a->state == NULL || a->state_done < a->state_last);
    list_for_each(pos, &a->starts) {
        const struct start *s = container_of(pos, struct start, link);
        const struct stage *stage = agent_stage_find(a, s->state.stage);
        assert(stage != NULL && stage->is_durable);
    }
    assert(!(a->is_leased && a->is_ended));
    assert(a->is_leased || (list_is_empty(&a->requests) && list_is_empty(&a->work) &&
                            list_is_empty(&a->stages) && list_is_empty(&a->held)));
}
