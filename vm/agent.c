/* SPDX-License-Identifier: MIT */
/* agent.c - the VM's half of the protocol as a pure state machine.
 *
 *   requests   in the order they came; always taken first
 *   work       one queue of items in the order they came:
 *
 *       [OPEN stage 1] [batch 1: 0..99] [batch 1: 100..199] [OPEN stage 2] [batch 2: 0..9]
 *                        ^ cursor: 0..41 were taken, 42.. can be recalled
 *
 *   held       RESULT messages not yet acknowledged, ascending by sequence number
 *
 * A batch is the RUN message as it came, with a cursor: taking an element moves the cursor and
 * counts a reference, nothing is copied or allocated. Recall moves either end of what is left.
 *
 * Sessions let control messages (ACK, RECALL, CANCEL) overtake the others, so these may come
 * before what they speak of: a RECALL then gives back nothing, and a CANCEL leaves a tombstone
 * that swallows the STAGE. A RUN whose stage was declared once but is gone is dropped; one whose
 * stage was never declared is a broken peer. */
#include "vm/agent.h"

#include <assert.h>
#include <string.h>

#include "base/blob.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"

#define FENCES_MAX 8 /* jobs whose last epoch is remembered while the process lives */

enum item_kind { ITEM_OPEN, ITEM_BATCH, ITEM_CLOSE };

/* What stands in the work queue. */
struct item {
    struct list link; /* in agent.work, or alone */
    enum item_kind kind;
};

struct batch {
    struct item item;        /* ITEM_BATCH */
    struct blob *body;       /* the RUN message */
    uint32_t stage, attempt; /* from it */
    uint64_t first;          /* index of element 0 of the message */
    uint32_t at, end;        /* elements at..end-1 are still queued */
    const uint8_t *sizes;    /* borrowed from body: size of element i at 4 * i */
    const uint8_t *payload;  /* borrowed from body: bytes of element at */
};

struct stage {
    struct item item;  /* ITEM_OPEN until opened, ITEM_CLOSE when cancelled afterwards */
    struct list link;  /* in agent.stages */
    uint32_t id;
    struct blob *body; /* the STAGE message until it is taken */
    const void *function;
    size_t size;
    bool is_cancelled;
    bool is_tombstone; /* cancelled before its STAGE arrived */
};

struct request {
    struct list link; /* in agent.requests */
    uint32_t stream;
    struct blob *body;
    struct wire_request request; /* borrowed from body */
};

struct held {
    struct list link; /* in agent.held */
    uint64_t seq;
    struct blob *body;
};

/* The last lease of a job: what a later one has to beat. */
struct fence {
    bool is_set;
    uint8_t job[16];
    uint64_t epoch;
    uint8_t incarnation[16];
};

struct agent {
    bool is_leased;
    bool is_used;  /* something was asked under this lease */
    bool is_ended; /* a used lease is over: no other may follow in this process */
    bool has_stage; /* stage_last means something */
    uint32_t stage_last; /* highest stage declared under this lease */
    struct wire_hello holder;
    struct fence fences[FENCES_MAX];
    uint32_t fence_next; /* the slot to overwrite next */
    struct list requests, work, stages, held;
    size_t queued; /* elements in work */
    size_t held_count, held_bytes;
    uint64_t seq_last; /* of the RESULT messages of this lease */
};

struct agent *agent_new(void)
{
    struct agent *a = mem_zalloc(1, sizeof(*a));
    if (a == NULL) {
        return NULL;
    }
    list_init(&a->requests);
    list_init(&a->work);
    list_init(&a->stages);
    list_init(&a->held);
    return a;
}

static void batch_free(struct agent *a, struct batch *b)
{
    a->queued -= b->end - b->at;
    list_remove(&b->item.link);
    blob_unref(b->body);
    mem_free(b);
}

static void stage_free(struct stage *s)
{
    list_remove(&s->item.link);
    list_remove(&s->link);
    blob_unref(s->body);
    mem_free(s);
}

static void request_free(struct request *r)
{
    list_remove(&r->link);
    blob_unref(r->body);
    mem_free(r);
}

static void held_free(struct agent *a, struct held *h)
{
    a->held_count--;
    a->held_bytes -= h->body->size;
    list_remove(&h->link);
    blob_unref(h->body);
    mem_free(h);
}

static void drop_all(struct agent *a)
{
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        if (item->kind == ITEM_BATCH) {
            batch_free(a, container_of(item, struct batch, item));
        }
    }
    list_for_each_safe(pos, tmp, &a->stages) {
        stage_free(container_of(pos, struct stage, link));
    }
    list_for_each_safe(pos, tmp, &a->requests) {
        request_free(container_of(pos, struct request, link));
    }
    list_for_each_safe(pos, tmp, &a->held) {
        held_free(a, container_of(pos, struct held, link));
    }
    assert(list_is_empty(&a->work));
}

void agent_free(struct agent *a)
{
    if (a == NULL) {
        return;
    }
    drop_all(a);
    mem_free(a);
}

/* --- lease --------------------------------------------------------------------------- */

static bool is_zero(const uint8_t id[16])
{
    static const uint8_t zero[16];
    return memcmp(id, zero, sizeof(zero)) == 0;
}

static struct fence *fence_find(struct agent *a, const uint8_t job[16])
{
    for (size_t i = 0; i < FENCES_MAX; i++) {
        if (a->fences[i].is_set && memcmp(a->fences[i].job, job, 16) == 0) {
            return &a->fences[i];
        }
    }
    return NULL;
}

int agent_lease(struct agent *a, const struct wire_hello *hello)
{
    if (a->is_leased || a->is_ended) {
        return TRK_EDENIED;
    }
    /* Without a job there is nothing to resume, hence nothing to fence. */
    if (!is_zero(hello->job)) {
        struct fence *fence = fence_find(a, hello->job);
        if (fence != NULL) {
            bool is_same = memcmp(fence->incarnation, hello->incarnation, 16) == 0;
            if (hello->epoch < fence->epoch || (hello->epoch == fence->epoch && !is_same)) {
                return TRK_EDENIED;
            }
        } else {
            fence = &a->fences[a->fence_next];
            a->fence_next = (a->fence_next + 1) % FENCES_MAX;
        }
        fence->is_set = true;
        fence->epoch = hello->epoch;
        memcpy(fence->job, hello->job, 16);
        memcpy(fence->incarnation, hello->incarnation, 16);
    }
    a->is_leased = true;
    a->is_used = false;
    a->has_stage = false;
    a->stage_last = 0;
    a->seq_last = 0;
    a->holder = *hello;
    return 0;
}

bool agent_is_leased(const struct agent *a)
{
    return a->is_leased;
}

bool agent_is_used(const struct agent *a)
{
    return a->is_used;
}

const struct wire_hello *agent_holder(const struct agent *a)
{
    return a->is_leased ? &a->holder : NULL;
}

bool agent_release(struct agent *a)
{
    drop_all(a);
    if (a->is_leased && a->is_used) {
        a->is_ended = true;
    }
    a->is_leased = false;
    a->is_used = false;
    return !a->is_ended;
}

/* --- in ------------------------------------------------------------------------------ */

/* The declared, not cancelled stage; or NULL. */
static struct stage *stage_find(const struct agent *a, uint32_t id)
{
    struct list *pos;
    list_for_each(pos, &a->stages) {
        struct stage *s = container_of(pos, struct stage, link);
        if (s->id == id && !s->is_cancelled) {
            return s;
        }
    }
    return NULL;
}

static struct stage *tombstone_find(const struct agent *a, uint32_t id)
{
    struct list *pos;
    list_for_each(pos, &a->stages) {
        struct stage *s = container_of(pos, struct stage, link);
        if (s->id == id && s->is_tombstone) {
            return s;
        }
    }
    return NULL;
}

static struct stage *stage_new(struct agent *a, uint32_t id)
{
    struct stage *s = mem_zalloc(1, sizeof(*s));
    if (s == NULL) {
        return NULL;
    }
    s->id = id;
    s->item.kind = ITEM_OPEN;
    list_init(&s->item.link);
    list_push_back(&a->stages, &s->link);
    return s;
}

static bool was_declared(const struct agent *a, uint32_t id)
{
    return a->has_stage && id <= a->stage_last;
}

static int take_request(struct agent *a, uint32_t stream, struct blob *body)
{
    struct wire_request decoded;
    int rc = wire_request_decode(&decoded, body);
    if (rc < 0) {
        return rc;
    }
    struct request *r = mem_zalloc(1, sizeof(*r));
    if (r == NULL) {
        return TRK_ENOMEM;
    }
    r->stream = stream;
    r->request = decoded;
    r->body = blob_ref(body);
    list_push_back(&a->requests, &r->link);
    a->is_used = true;
    return 0;
}

static int take_stage(struct agent *a, struct blob *body)
{
    struct wire_stage decoded;
    int rc = wire_stage_decode(&decoded, body);
    if (rc < 0) {
        return rc;
    }
    if (stage_find(a, decoded.stage) != NULL) {
        return TRK_ECORRUPT; /* two functions under one number: which would run is a guess */
    }
    struct stage *s = tombstone_find(a, decoded.stage);
    if (s != NULL) {
        stage_free(s); /* its CANCEL overtook it */
    } else {
        s = stage_new(a, decoded.stage);
        if (s == NULL) {
            return TRK_ENOMEM;
        }
        s->function = decoded.function;
        s->size = decoded.size;
        s->body = blob_ref(body);
        list_push_back(&a->work, &s->item.link);
    }
    if (!a->has_stage || decoded.stage > a->stage_last) {
        a->has_stage = true;
        a->stage_last = decoded.stage;
    }
    a->is_used = true;
    return 0;
}

static int take_run(struct agent *a, struct blob *body)
{
    struct wire_run run;
    int rc = wire_run_decode(&run, body);
    if (rc < 0) {
        return rc;
    }
    if (run.first + run.count < run.first) {
        return TRK_ECORRUPT;
    }
    if (stage_find(a, run.stage) == NULL) {
        bool is_known = was_declared(a, run.stage) || tombstone_find(a, run.stage) != NULL;
        return is_known ? 0 : TRK_ECORRUPT; /* cancelled meanwhile, or never declared */
    }
    if (run.count == 0) {
        return 0;
    }
    struct batch *b = mem_zalloc(1, sizeof(*b));
    if (b == NULL) {
        return TRK_ENOMEM;
    }
    b->item.kind = ITEM_BATCH;
    b->body = blob_ref(body);
    b->stage = run.stage;
    b->attempt = run.attempt;
    b->first = run.first;
    b->end = run.count;
    b->sizes = run.sizes;
    b->payload = run.payloads;
    list_push_back(&a->work, &b->item.link);
    a->queued += run.count;
    return 0;
}

static int take_ack(struct agent *a, struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);
    if (rc < 0) {
        return rc;
    }
    if (note.seq > a->seq_last) {
        return TRK_ECORRUPT; /* recorded what was never sent */
    }
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->held) {
        struct held *h = container_of(pos, struct held, link);
        if (h->seq > note.seq) {
            break;
        }
        held_free(a, h);
    }
    return 0;
}

/* Narrows [first, last) to what can be given back of b: what has not been taken, where that lies
 * at either end of the rest (the middle would leave two batches). */
static bool recall_part(const struct batch *b, uint64_t *first, uint64_t *last)
{
    uint64_t left_first = b->first + b->at, left_last = b->first + b->end;
    uint64_t lo = *first > left_first ? *first : left_first;
    uint64_t hi = *last < left_last ? *last : left_last;
    if (lo >= hi || (lo != left_first && hi != left_last)) {
        return false;
    }
    *first = lo;
    *last = hi;
    return true;
}

static void batch_cut(struct agent *a, struct batch *b, uint64_t first, uint64_t last)
{
    uint32_t count = (uint32_t)(last - first);
    a->queued -= count;
    if (last == b->first + b->end) {
        b->end -= count;
    } else {
        for (uint32_t i = 0; i < count; i++, b->at++) {
            b->payload += le_load_u32(b->sizes + 4 * (size_t)b->at);
        }
    }
    if (b->at == b->end) {
        batch_free(a, b);
    }
}

static int take_recall(struct agent *a, struct blob *body, bool *has_out,
                       struct wire_message *out)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);
    if (rc < 0) {
        return rc;
    }
    uint64_t first = note.first, last = note.first + note.count;
    if (last < first) {
        return TRK_ECORRUPT;
    }
    struct batch *found = NULL;
    struct list *pos;
    list_for_each(pos, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        struct batch *b = container_of(item, struct batch, item);
        if (item->kind == ITEM_BATCH && b->stage == note.stage &&
            recall_part(b, &first, &last)) {
            found = b;
            break;
        }
    }
    struct wire_note answer = {.stage = note.stage, .first = first};
    answer.count = found != NULL ? (uint32_t)(last - first) : 0;
    struct blob *encoded = wire_note_encode(&answer);
    if (encoded == NULL) {
        return TRK_ENOMEM; /* before anything has changed */
    }
    if (found != NULL) {
        batch_cut(a, found, first, last);
    }
    *out = (struct wire_message){.type = WIRE_RECALLED, .body = encoded};
    *has_out = true;
    return 0;
}

static int take_cancel(struct agent *a, struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);
    if (rc < 0) {
        return rc;
    }
    struct stage *s = stage_find(a, note.stage);
    if (s == NULL) {
        if (was_declared(a, note.stage) || tombstone_find(a, note.stage) != NULL) {
            return 0; /* twice, or late */
        }
        s = stage_new(a, note.stage);
        if (s == NULL) {
            return TRK_ENOMEM;
        }
        s->is_cancelled = s->is_tombstone = true;
        return 0;
    }
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        if (item->kind == ITEM_BATCH && container_of(item, struct batch, item)->stage == s->id) {
            batch_free(a, container_of(item, struct batch, item));
        }
    }
    if (s->body != NULL) {
        stage_free(s); /* not opened yet: as if it had never come */
        return 0;
    }
    s->is_cancelled = true;
    s->item.kind = ITEM_CLOSE;
    list_push_front(&a->work, &s->item.link);
    return 0;
}

int agent_message(struct agent *a, struct wire_message *msg, bool *has_out,
                  struct wire_message *out)
{
    struct blob *body = msg->body;
    int rc = TRK_ECORRUPT;
    msg->body = NULL;
    *has_out = false;
    if (!a->is_leased) {
        blob_unref(body);
        return TRK_ECORRUPT;
    }
    switch (msg->type) {
    case WIRE_REQUEST:
        rc = take_request(a, msg->stream, body);
        break;
    case WIRE_STAGE:
        rc = take_stage(a, body);
        break;
    case WIRE_RUN:
        rc = take_run(a, body);
        break;
    case WIRE_ACK:
        rc = take_ack(a, body);
        break;
    case WIRE_RECALL:
        rc = take_recall(a, body, has_out, out);
        break;
    case WIRE_CANCEL:
        rc = take_cancel(a, body);
        break;
    default:
        break;
    }
    blob_unref(body);
    return rc;
}

/* --- out ----------------------------------------------------------------------------- */

static void next_element(struct agent *a, struct batch *b, struct agent_job *job)
{
    job->kind = AGENT_ELEMENT;
    job->stage = b->stage;
    job->attempt = b->attempt;
    job->index = b->first + b->at;
    job->payload = b->payload;
    job->size = le_load_u32(b->sizes + 4 * (size_t)b->at);
    b->payload += job->size;
    b->at++;
    a->queued--;
    job->is_last = b->at == b->end;
    job->body = blob_ref(b->body);
    if (job->is_last) {
        batch_free(a, b);
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
        stage_free(s);
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
        request_free(r);
    } else if (!list_is_empty(&a->work)) {
        next_item(a, container_of(a->work.next, struct item, link), job);
    }
}

void agent_job_done(struct agent_job *job)
{
    blob_unref(job->body);
    memset(job, 0, sizeof(*job));
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
            assert(stage_find(a, b->stage) != NULL);
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
