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
    job->body = NULL;
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

int agent_hold(struct agent *a, uint64_t seq, struct blob *result)
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
    return 0;
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
    size_t count = 0, bytes = 0;
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
    }
    assert(count == a->held_count && bytes == a->held_bytes);
    assert(!(a->is_leased && a->is_ended));
    assert(a->is_leased || (list_is_empty(&a->requests) && list_is_empty(&a->work) &&
                            list_is_empty(&a->stages) && list_is_empty(&a->held)));
}
