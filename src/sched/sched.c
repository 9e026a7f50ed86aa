/* SPDX-License-Identifier: MIT */
/* sched.c - life of a scheduler, the switch over events, stages and work. The map of the other
 * files is in core.h. */
#include <assert.h>
#include <string.h>

#include "base/mark.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sched/core.h"

#define BATCH_MAX_LIMIT 65536u /* elements per batch, whatever the options say */
#define BLAME_LIMIT 65535u     /* what struct blame can count to */

static uint64_t option(uint64_t value, uint64_t fallback, uint64_t limit)
{
    value = value != 0 ? value : fallback;
    return value < limit ? value : limit;
}

int sched_new(struct sched **out, const struct sched_options *opt)
{
    const struct sched_options none = {0};
    struct sched *s = mem_zalloc(1, sizeof *s);
    if (s == NULL) {
        return TRK_ENOMEM;
    }
    opt = opt != NULL ? opt : &none;
    s->opt = (struct sched_options){
        .batch_ns = option(opt->batch_ns, 4000000, UINT64_C(1) << 42),
        .batch_max = (uint32_t)option(opt->batch_max, 4096, BATCH_MAX_LIMIT),
        .batch_bytes = (uint32_t)option(opt->batch_bytes, 262144, UINT32_MAX),
        .in_flight = (uint32_t)option(opt->in_flight, 2, ELEMENT_BATCH_MAX),
        .live_max = option(opt->live_max, UINT64_C(1) << 32, UINT64_MAX),
        .max_own_deaths = (uint32_t)option(opt->max_own_deaths, 3, BLAME_LIMIT),
        .max_losses = (uint32_t)option(opt->max_losses, 20, BLAME_LIMIT),
    };
    list_init(&s->stages);
    list_init(&s->hungry);
    list_init(&s->delayed);
    list_init(&s->speculating);
    sched_vms_init(&s->vms, s->opt.in_flight);
    /* What a step without any VM can give: a late report split, DONE. */
    s->action_capacity = s->opt.batch_max + 8;
    s->actions = mem_zalloc(s->action_capacity, sizeof *s->actions);
    if (s->actions == NULL) {
        mem_free(s);
        return TRK_ENOMEM;
    }
    *out = s;
    return 0;
}

/* Takes a stage out of all tables but its own; its elements are forgotten. */
static void stage_unlink(struct sched *s, struct stage *st)
{
    while (!list_is_empty(&st->batches)) {
        struct batch *b = container_of(st->batches.next, struct batch, in_stage);
        struct vm *vm = b->vm;
        if (b->twin != NULL) {
            sched_second_end(s, b->is_second ? b : b->twin);
            continue;
        }
        sched_batch_end(b);
        sched_vm_refresh(&s->vms, vm);
    }
    for (size_t i = 0; i < s->vms.capacity; i++) {
        struct vm *vm = s->vms.slots[i];
        if (vm != NULL && vm->recall == st) {
            sched_vm_recall_end(&s->vms, vm); /* the answer will be about nothing */
            sched_vm_refresh(&s->vms, vm);
        }
    }
    sched_blames_remove_stage(&s->blames, st->number);
    s->live -= MUTATE(CANCEL_LEAK, 0,
                      st->elements.added - st->elements.in_state[ELEMENT_DELIVERED]);
    sched_segments_fini(&st->elements);
    list_remove(&st->in_hungry);
    list_remove(&st->in_delayed);
    list_remove(&st->in_speculating);
}

static void stage_forget(struct sched *s, struct stage *st)
{
    stage_unlink(s, st);
    sched_map_remove(&s->stage_numbers, 0, st->number);
    list_remove(&st->in_sched);
    sched_stage_free(st);
}

void sched_free(struct sched *s)
{
    if (s == NULL) {
        return;
    }
    while (!list_is_empty(&s->stages)) {
        stage_forget(s, container_of(s->stages.next, struct stage, in_sched));
    }
    sched_vms_fini(&s->vms);
    sched_map_fini(&s->stage_numbers);
    sched_blames_fini(&s->blames);
    sched_suspicions_fini(&s->suspicions);
    mem_free(s->actions);
    mem_free(s);
}

struct sched_action *sched_action_add(struct sched *s, enum sched_action_type type)
{
    struct sched_action *a;
    assert(s->action_count < s->action_capacity);
    assert(type < SCHED_ACTION_COUNT);
    a = &s->actions[s->action_count++];
    *a = (struct sched_action){.type = type};
    return a;
}

void sched_action_range(struct sched *s, enum sched_action_type type, const struct stage *st,
                        uint64_t first, uint64_t count)
{
    struct sched_action *a = sched_action_add(s, type);
    assert(count > 0);
    a->stage = st->number;
    a->first = first;
    a->count = count;
}

struct stage *sched_stage_find(const struct sched *s, uint32_t number)
{
    const uint64_t *value = sched_map_find(&s->stage_numbers, 0, number);
    return value != NULL ? (struct stage *)(uintptr_t)*value : NULL;
}

static void list_put(struct list *head, struct list *node, bool is_in)
{
    if (is_in != list_is_empty(node)) {
        return;
    }
    if (is_in) {
        list_push_back(head, node);
    } else {
        list_remove(node);
    }
}

void sched_stage_settle(struct sched *s, struct stage *st)
{
    list_put(&s->hungry, &st->in_hungry, sched_stage_pending(st) > 0);
    list_put(&s->delayed, &st->in_delayed, st->elements.in_state[ELEMENT_DELAYED] > 0);
    if (!st->is_done && (st->is_cancelled || (st->is_closed && sched_stage_is_recorded(st)))) {
        st->is_done = true;
        sched_action_add(s, SCHED_DONE)->stage = st->number;
    }
}

/* --- stages and work ----------------------------------------------------------------------- */

static int on_stage_opened(struct sched *s, const struct sched_event *ev)
{
    struct stage *st;
    if (sched_stage_find(s, ev->stage) != NULL) {
        return TRK_EINVAL;
    }
    if (sched_map_reserve(&s->stage_numbers, s->stage_numbers.count + 1) < 0) {
        return TRK_ENOMEM;
    }
    st = sched_stage_new(ev, s->vms.capacity);
    if (st == NULL) {
        return TRK_ENOMEM;
    }
    sched_map_put(&s->stage_numbers, 0, ev->stage, (uint64_t)(uintptr_t)st);
    list_push_back(&s->stages, &st->in_sched);
    if (st->is_speculating) {
        list_push_back(&s->speculating, &st->in_speculating);
    }
    return 0;
}

static int on_work_added(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    bool is_recorded = MUTATE(RECORDED_RUNS, false, (ev->flag & SCHED_WORK_RECORDED) != 0);
    uint64_t live = is_recorded ? 0 : ev->count;
    int rc;
    if (st != NULL && st->is_cancelled) {
        return 0; /* was under way when the stage was cancelled */
    }
    if (st == NULL || st->is_closed) {
        return TRK_EINVAL;
    }
    if ((live > 0 && (s->live > s->opt.live_max || live > s->opt.live_max - s->live)) ||
        ev->count > UINT64_MAX - st->elements.added) {
        MARK("no room for more elements");
        return TRK_EFULL;
    }
    rc = live > 0 ? sched_segments_add(&st->elements, ev->count, ev->bytes)
                  : sched_segments_add_delivered(&st->elements, ev->count, ev->bytes);
    if (rc < 0) {
        return rc;
    }
    s->live += live;
    sched_stage_settle(s, st);
    return 0;
}

static int on_work_closed(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    if (st == NULL) {
        return TRK_EINVAL;
    }
    st->is_closed = true;
    sched_stage_settle(s, st);
    return 0;
}

static int on_cancel(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    struct list *pos;
    if (st == NULL) {
        return TRK_EINVAL;
    }
    if (st->is_cancelled) {
        return 0;
    }
    list_for_each(pos, &st->batches) {
        sched_recall_all(s, container_of(pos, struct batch, in_stage));
    }
    st->added_before = st->elements.added;
    st->delivered_before = st->elements.in_state[ELEMENT_DELIVERED];
    stage_unlink(s, st);
    st->is_cancelled = true;
    sched_stage_settle(s, st);
    return 0;
}

static int on_stage_closed(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    if (st == NULL || !st->is_done) {
        return TRK_EINVAL;
    }
    stage_forget(s, st);
    return 0;
}

/* --- the step ------------------------------------------------------------------------------ */

static int apply(struct sched *s, const struct sched_event *ev)
{
    switch (ev->type) {
    case SCHED_VM_JOINED:
        return sched_on_vm_joined(s, ev);
    case SCHED_VM_LOST:
        return sched_on_vm_lost(s, ev);
    case SCHED_VM_DRAINING:
        return sched_on_vm_draining(s, ev);
    case SCHED_STAGE_OPENED:
        return on_stage_opened(s, ev);
    case SCHED_STAGE_VM:
        return sched_on_stage_vm(s, ev);
    case SCHED_WORK_ADDED:
        return on_work_added(s, ev);
    case SCHED_WORK_CLOSED:
        return on_work_closed(s, ev);
    case SCHED_RESULT:
    case SCHED_FAILED:
        return sched_on_result(s, ev);
    case SCHED_RECORDED:
        return sched_on_recorded(s, ev);
    case SCHED_DELIVERED:
        return sched_on_delivered(s, ev);
    case SCHED_RECALLED:
        return sched_on_recalled(s, ev);
    case SCHED_CANCEL:
        return on_cancel(s, ev);
    case SCHED_STAGE_CLOSED:
        return on_stage_closed(s, ev);
    case SCHED_TICK:
        return 0;
    case SCHED_VM_SUSPECT:
        return sched_on_vm_suspect(s, ev);
    case SCHED_VM_UNBLOCK:
        return sched_on_vm_unblock(s, ev);
    case SCHED_EVENT_COUNT:
    default:
        return TRK_EINVAL;
    }
}

int sched_step(struct sched *s, const struct sched_event *ev, uint64_t now_ns,
               struct sched_actions *actions)
{
    uint64_t before = s->now_ns;
    int rc = TRK_EINVAL;
    s->action_count = 0;
    if (now_ns >= before) {
        s->now_ns = now_ns;
        rc = apply(s, ev);
    }
    if (rc == 0) {
        sched_dispatch(s);
    } else {
        assert(rc < 0 && s->action_count == 0);
        s->now_ns = before;
    }
    actions->items = s->actions;
    actions->count = s->action_count;
    return rc;
}

/* --- queries ------------------------------------------------------------------------------- */

int sched_stage_get(const struct sched *s, uint32_t stage, struct sched_stage_info *out)
{
    const struct stage *st = sched_stage_find(s, stage);
    const uint64_t *in;
    if (st == NULL) {
        return TRK_EINVAL;
    }
    in = st->elements.in_state;
    *out = (struct sched_stage_info){
        .added = st->is_cancelled ? st->added_before : st->elements.added,
        .pending = in[ELEMENT_PENDING],
        .delayed = in[ELEMENT_DELAYED],
        .assigned = in[ELEMENT_ASSIGNED],
        .returned = in[ELEMENT_RETURNED] + in[ELEMENT_FAILED],
        .recorded = in[ELEMENT_RECORDED],
        .delivered = st->is_cancelled ? st->delivered_before : in[ELEMENT_DELIVERED],
        .failed = st->failed,
        .reissued = st->reissued,
        .dropped = st->dropped,
        .retried = st->retried,
        .doubled = st->doubled,
        .vms = sched_stage_vms(st),
        .element_ns = st->element_ns,
        .is_closed = st->is_closed,
        .is_cancelled = st->is_cancelled,
    };
    return 0;
}

uint32_t sched_attempts(const struct sched *s, uint32_t stage, uint64_t index)
{
    const struct stage *st = sched_stage_find(s, stage);
    const struct element *e = st != NULL ? sched_segments_get(&st->elements, index) : NULL;
    return e != NULL ? e->attempt : 0;
}

size_t sched_memory(const struct sched *s)
{
    const struct list *pos;
    size_t bytes = sizeof *s + s->action_capacity * sizeof *s->actions +
                   s->stage_numbers.capacity * sizeof(struct map_slot) +
                   sched_blames_memory(&s->blames) +
                   s->suspicions.capacity * sizeof(struct suspicion) + sched_vms_memory(&s->vms);
    list_for_each(pos, &s->stages) {
        const struct stage *st = container_of(pos, struct stage, in_sched);
        bytes += sizeof *st + sched_segments_memory(&st->elements) +
                 sched_bits_memory(&st->serves) + sched_bits_memory(&st->spare);
    }
    return bytes;
}
