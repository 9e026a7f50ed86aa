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
 *   starts     states that queued elements go on from, few at any time
 *
 * A batch is the RUN message as it came, with a cursor: taking an element moves the cursor and
 * counts a reference, nothing is copied or allocated. Recall moves either end of what is left.
 *
 * Sessions let control messages (ACK, RECALL, CANCEL) overtake the others, so these may come
 * before what they speak of: a RECALL then gives back nothing, and a CANCEL leaves a tombstone
 * that swallows the STAGE. A RUN whose stage was declared once but is gone is dropped; one whose
 * stage was never declared is a broken peer. */
#include "vm/agent_impl.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "base/buf.h"
#include "base/mark.h"
#include "base/mem.h"
#include "base/mutate.h"

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
    list_init(&a->starts);
    a->fences = a->own_fences;
    return a;
}

void agent_use_fences(struct agent *a, struct agent_fence fences[AGENT_FENCES])
{
    a->fences = fences;
}

void agent_batch_free(struct agent *a, struct batch *b)
{
    a->queued -= b->end - b->at;
    list_remove(&b->item.link);
    blob_unref(b->body);
    mem_free(b);
}

void agent_stage_free(struct stage *s)
{
    list_remove(&s->item.link);
    list_remove(&s->link);
    blob_unref(s->body);
    mem_free(s);
}

void agent_request_free(struct request *r)
{
    list_remove(&r->link);
    blob_unref(r->body);
    mem_free(r);
}

void agent_start_free(struct start *s)
{
    list_remove(&s->link);
    blob_unref(s->body);
    mem_free(s);
}

void agent_forget_starts(struct agent *a, uint32_t stage, uint64_t first, uint64_t last)
{
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->starts) {
        struct start *s = container_of(pos, struct start, link);
        if (s->state.stage == stage && s->state.index >= first && s->state.index < last) {
            agent_start_free(s);
        }
    }
}

static void held_free(struct agent *a, struct held *h)
{
    a->kept_count -= h->digests != NULL;
    a->held_count--;
    a->held_bytes -= h->body->size;
    list_remove(&h->link);
    blob_unref(h->body);
    mem_free(h->digests);
    mem_free(h);
}

static void drop_queued(struct agent *a)
{
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        if (item->kind == ITEM_BATCH) {
            agent_batch_free(a, container_of(item, struct batch, item));
        }
    }
    list_for_each_safe(pos, tmp, &a->stages) {
        agent_stage_free(container_of(pos, struct stage, link));
    }
    list_for_each_safe(pos, tmp, &a->requests) {
        agent_request_free(container_of(pos, struct request, link));
    }
    list_for_each_safe(pos, tmp, &a->starts) {
        agent_start_free(container_of(pos, struct start, link));
    }
    assert(list_is_empty(&a->work));
}

static void drop_all(struct agent *a)
{
    struct list *pos, *tmp;
    drop_queued(a);
    list_for_each_safe(pos, tmp, &a->held) {
        held_free(a, container_of(pos, struct held, link));
    }
    blob_unref(a->state);
    a->state = NULL;
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

/* False: a later run of the same job was here. */
static bool pass_fence(struct agent *a, const struct wire_hello *hello)
{
    struct agent_fence *fence = &a->fences[0]; /* the job's, else the oldest */
    uint32_t last = 0;
    for (size_t i = 0; i < AGENT_FENCES; i++) {
        struct agent_fence *f = &a->fences[i];
        bool is_same = memcmp(f->incarnation, hello->incarnation, 16) == 0;
        last = f->stamp > last ? f->stamp : last;
        if (f->stamp == 0 || memcmp(f->job, hello->job, 16) != 0) {
            continue;
        }
        if (hello->epoch < f->epoch || (hello->epoch == f->epoch && !is_same)) {
            return false;
        }
        f->stamp = 0;
    }
    for (size_t i = 1; i < AGENT_FENCES; i++) {
        fence = a->fences[i].stamp < fence->stamp ? &a->fences[i] : fence;
    }
    /* Not set until all of it stands there: this process may be killed at any time. */
    fence->stamp = 0;
    atomic_signal_fence(memory_order_seq_cst);
    fence->epoch = hello->epoch;
    memcpy(fence->job, hello->job, 16);
    memcpy(fence->incarnation, hello->incarnation, 16);
    atomic_signal_fence(memory_order_seq_cst);
    fence->stamp = last + 1;
    return true;
}

int agent_lease(struct agent *a, const struct wire_hello *hello)
{
    if (a->is_leased || a->is_ended) {
        return TRK_EDENIED;
    }
    /* Without a job there is nothing to resume, hence nothing to fence. */
    if (hello->epoch != 0 && !is_zero(hello->job) && !pass_fence(a, hello)) {
        return TRK_EDENIED;
    }
    a->is_leased = true;
    a->is_used = false;
    a->has_stage = false;
    a->stage_last = 0;
    a->seq_last = a->state_last = a->state_done = 0;
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
    a->is_orphan = false;
    a->is_used = false;
    return !a->is_ended;
}

void agent_orphan(struct agent *a)
{
    struct list *pos, *tmp;
    assert(a->is_leased);
    MARK("a holder vanishes");
    a->is_orphan = true;
    drop_queued(a);
    list_for_each_safe(pos, tmp, &a->held) {
        struct held *h = container_of(pos, struct held, link);
        if (h->digests == NULL) {
            held_free(a, h);
        }
    }
}

bool agent_is_orphan(const struct agent *a)
{
    return a->is_orphan;
}

/* --- in ------------------------------------------------------------------------------ */

struct stage *agent_stage_find(const struct agent *a, uint32_t id)
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
    if (agent_stage_find(a, decoded.stage) != NULL) {
        return TRK_ECORRUPT; /* two functions under one number: which would run is a guess */
    }
    struct stage *s = tombstone_find(a, decoded.stage);
    if (s != NULL) {
        MARK("a STAGE whose CANCEL has come is swallowed");
        agent_stage_free(s); /* its CANCEL overtook it */
    } else {
        s = stage_new(a, decoded.stage);
        if (s == NULL) {
            return TRK_ENOMEM;
        }
        s->timeout_ms = decoded.timeout_ms;
        s->function = decoded.function;
        s->size = decoded.size;
        memcpy(s->module, decoded.module, sizeof(s->module));
        s->is_durable = (decoded.flags & WIRE_STAGE_DURABLE) != 0;
        memcpy(s->fingerprint, decoded.fingerprint, 16);
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
    const struct stage *s = agent_stage_find(a, run.stage);
    if (s == NULL) {
        bool is_known = was_declared(a, run.stage) || tombstone_find(a, run.stage) != NULL;
        MARK("a RUN of a cancelled stage is dropped");
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
    b->timeout_ms = s->timeout_ms;
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
    agent_let_go(a, note.seq + MUTATE(ACK_ONE_MORE, 1, 0));
    return 0;
}

void agent_let_go(struct agent *a, uint64_t seq)
{
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->held) {
        struct held *h = container_of(pos, struct held, link);
        if (h->seq > seq) {
            break;
        }
        held_free(a, h);
    }
}

/* What an element goes on from. Of an element that is not queued here it is of no use, but comes
 * before its RUN: so it waits. */
static int take_state(struct agent *a, struct blob *body)
{
    struct wire_state decoded;
    int rc = wire_state_decode(&decoded, body);
    if (rc < 0) {
        return rc;
    }
    agent_forget_starts(a, decoded.stage, decoded.index, decoded.index + 1);
    const struct stage *s = agent_stage_find(a, decoded.stage);
    if (s == NULL || !s->is_durable) {
        return was_declared(a, decoded.stage) ? 0 : TRK_ECORRUPT;
    }
    struct start *start = mem_zalloc(1, sizeof(*start));
    if (start == NULL) {
        return TRK_ENOMEM;
    }
    start->state = decoded;
    start->body = blob_ref(body);
    list_push_back(&a->starts, &start->link);
    return 0;
}

static int take_state_done(struct agent *a, struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);
    if (rc < 0) {
        return rc;
    }
    if (note.seq > a->state_last) {
        return TRK_ECORRUPT; /* recorded what was never sent */
    }
    agent_state_done(a, note.seq);
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

/* Moves the cursor without counting. */
static void batch_skip(struct batch *b, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++, b->at++) {
        b->payload += MUTATE(PAYLOAD_SLIP, 0, le_load_u32(b->sizes + 4 * (size_t)b->at));
    }
}

static void batch_cut(struct agent *a, struct batch *b, uint64_t first, uint64_t last)
{
    uint32_t count = (uint32_t)(last - first);
    a->queued -= count;
    agent_forget_starts(a, b->stage, first, last);
    if (last == b->first + b->end) {
        b->end -= count;
    } else {
        MARK("elements are taken from the front of a batch");
        batch_skip(b, count);
    }
    if (b->at == b->end) {
        agent_batch_free(a, b);
    }
}

/* Takes queued elements [first, last) out of the middle of b; what is behind them becomes a batch
 * of its own. TRK_ENOMEM: nothing has changed. */
static int batch_split(struct agent *a, struct batch *b, uint64_t first, uint64_t last)
{
    struct batch *rest = mem_alloc(sizeof(*rest));
    if (rest == NULL) {
        return TRK_ENOMEM;
    }
    *rest = *b;
    rest->body = blob_ref(b->body);
    batch_skip(rest, (uint32_t)(last - b->first) - b->at);
    b->end = (uint32_t)(first - b->first);
    a->queued -= (size_t)(last - first);
    list_insert(&rest->item.link, &b->item.link, b->item.link.next);
    return 0;
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
    if (MUTATE(RECALL_RUNNING, found != NULL && found->at > 0, false)) {
        answer.first--;
        answer.count++;
    }
    struct blob *encoded = wire_note_encode(&answer);
    if (encoded == NULL) {
        return TRK_ENOMEM; /* before anything has changed */
    }
    if (found != NULL) {
        batch_cut(a, found, first, last);
    }
    *out = (struct wire_message){.type = WIRE_RECALLED, .body = encoded};
    *has_out = MUTATE(RECALL_UNANSWERED, found == NULL, true);
    return 0;
}

/* Drops the queued ones of these elements. Those that are not here yet will run: to remember them
 * could swallow a later attempt that is meant. */
static int cancel_elements(struct agent *a, const struct wire_note *note)
{
    uint64_t last = note->first + note->count;
    if (last < note->first) {
        return TRK_ECORRUPT;
    }
    int rc = 0;
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        struct batch *b = container_of(item, struct batch, item);
        if (rc < 0 || item->kind != ITEM_BATCH || b->stage != note->stage) {
            continue;
        }
        uint64_t left_first = b->first + b->at, left_last = b->first + b->end;
        uint64_t lo = note->first > left_first ? note->first : left_first;
        uint64_t hi = last < left_last ? last : left_last;
        if (lo < hi && lo != left_first && hi != left_last) {
            rc = batch_split(a, b, lo, hi);
        } else if (lo < hi) {
            batch_cut(a, b, lo, hi);
        }
    }
    return rc;
}

static int take_cancel(struct agent *a, struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);
    if (rc < 0) {
        return rc;
    }
    if (note.count > 0) {
        return cancel_elements(a, &note);
    }
    struct stage *s = agent_stage_find(a, note.stage);
    if (s == NULL) {
        /* Stages are not always declared in the order of their numbers: that a higher one was
         * does not mean that this one's STAGE has come. */
        if (agent_is_cancelled(a, note.stage)) {
            return 0; /* twice */
        }
        s = stage_new(a, note.stage);
        if (s == NULL) {
            return TRK_ENOMEM;
        }
        MARK("a CANCEL overtakes its STAGE");
        s->is_cancelled = s->is_tombstone = true;
        return 0;
    }
    struct list *pos, *tmp;
    agent_forget_starts(a, s->id, 0, UINT64_MAX);
    list_for_each_safe(pos, tmp, &a->work) {
        struct item *item = container_of(pos, struct item, link);
        if (item->kind == ITEM_BATCH && container_of(item, struct batch, item)->stage == s->id &&
            MUTATE(CANCEL_RUNS_ON, false, true)) {
            agent_batch_free(a, container_of(item, struct batch, item));
        }
    }
    if (s->body != NULL) {
        MARK("a stage is cancelled before it is opened");
        agent_stage_free(s); /* not opened yet: as if it had never come */
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
    if (!a->is_leased || a->is_orphan) {
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
    case WIRE_STATE:
        rc = take_state(a, body);
        break;
    case WIRE_STATE_DONE:
        rc = take_state_done(a, body);
        break;
    default:
        break;
    }
    blob_unref(body);
    return rc;
}
