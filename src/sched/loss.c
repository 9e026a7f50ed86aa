/* SPDX-License-Identifier: MIT */
/* loss.c - VMs that come and go, and whose fault it was.
 *
 * Of a lost VM's elements at most one is blamed: the one named by the report of its death. When
 * a VM vanished without any report, that is the first element it had not answered for, and only
 * with a loss, of which an element may have many. Without that, an element that takes its whole
 * machine down would do so for ever. The others run again, unblamed.
 *
 * A blamed element goes out alone, so that its next victim loses nobody else's work. When it has
 * had its share of deaths or losses it is quarantined: the caller records the failure. An element
 * that runs on another VM as well does not run again for the loss of one of them. */
#include <assert.h>

#include "base/mark.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sched/core.h"

/* Most actions one step can give with so many VMs: a report split element by element, both runs
 * of an element cancelled per second run, or two ranges per batch that an earlier epoch's result
 * overtakes; every suspicion a block, and so all batches recalled; then every place filled, one
 * recall per VM; DONE and WAKE_AT. */
static size_t actions_max(const struct sched *s, size_t vms)
{
    return s->opt.batch_max + s->suspicions.capacity +
           vms * (4 * (size_t)s->opt.in_flight + 3) + 8;
}

static int actions_reserve(struct sched *s, size_t vms)
{
    struct sched_action *grown;
    size_t capacity = s->action_capacity > 0 ? s->action_capacity : actions_max(s, 16);
    while (capacity < actions_max(s, vms)) {
        capacity *= 2;
    }
    if (capacity == s->action_capacity) {
        return 0;
    }
    grown = mem_realloc(s->actions, capacity * sizeof *grown);
    if (grown == NULL) {
        return TRK_ENOMEM;
    }
    s->actions = grown;
    s->action_capacity = capacity;
    return 0;
}

int sched_on_vm_joined(struct sched *s, const struct sched_event *ev)
{
    const struct suspicion *suspicion;
    struct list *pos;
    struct vm *vm;
    if (ev->vm == SCHED_NO_VM || sched_vms_find(&s->vms, ev->vm) != NULL) {
        return TRK_EINVAL;
    }
    /* Reserved now: the loss of any VM may add one blame, and losses cannot fail. */
    if (sched_blames_reserve(&s->blames, s->blames.index.count + s->vms.count + 1) < 0 ||
        sched_suspicions_reserve(&s->suspicions, 2 * (s->vms.count + 1)) < 0 ||
        actions_reserve(s, s->vms.count + 1) < 0 || sched_vms_add(&s->vms, ev->vm, &vm) < 0) {
        return TRK_ENOMEM;
    }
    list_for_each(pos, &s->stages) {
        struct stage *st = container_of(pos, struct stage, in_sched);
        if (sched_stage_reserve(st, s->vms.capacity) < 0) {
            sched_vms_remove(&s->vms, vm);
            return TRK_ENOMEM;
        }
    }
    suspicion = sched_suspicions_find(&s->suspicions, ev->vm);
    vm->is_blocked = suspicion != NULL && suspicion->is_blocked;
    return 0;
}

static void serve_nothing(struct sched *s, const struct vm *vm)
{
    struct list *pos;
    list_for_each(pos, &s->stages) {
        sched_stage_serve(container_of(pos, struct stage, in_sched), vm->slot, false,
                          vm->is_blocked);
    }
}

/* Notes a death or loss. True: that was its last. */
static bool blame_add(struct sched *s, const struct stage *st, uint64_t index,
                      const struct sched_event *ev)
{
    struct blame *b = sched_blames_find(&s->blames, st->number, index);
    if (b == NULL) {
        b = sched_blames_put(&s->blames, st->number, index);
    }
    b->vm = ev->vm;
    if (ev->cause == SCHED_CAUSE_LOSS) {
        b->losses++;
    } else {
        assert(ev->cause == SCHED_CAUSE_OWN || ev->cause == SCHED_CAUSE_TIMEOUT);
        sched_blame_died_on(b, ev->vm, s->now_ns);
    }
    return b->own_deaths >= s->opt.max_own_deaths + MUTATE(ONE_DEATH_MORE, 1, 0) ||
           b->losses >= s->opt.max_losses;
}

static void element_quarantine(struct sched *s, struct stage *st, uint64_t index,
                               const struct sched_event *ev)
{
    const struct element *e = sched_segments_get(&st->elements, index);
    struct sched_action *a = sched_action_add(s, SCHED_FAIL);
    if (ev->cause == SCHED_CAUSE_LOSS) {
        MARK("an element is given up for its losses");
    }
    a->stage = st->number;
    a->vm = ev->vm;
    a->first = index;
    a->count = 1;
    a->cause = ev->cause;
    a->attempt = e->attempt;
    sched_blames_remove(&s->blames, st->number, index);
    sched_segments_finish(&st->elements, index, ELEMENT_FAILED);
    st->failed++;
}

/* A run of an element ended with its VM. Its other run, if there is one, is now the only one;
 * otherwise it runs again, or is quarantined when it has had its share. */
static void element_lose(struct sched *s, struct batch *b, uint64_t index,
                         const struct sched_event *ev, bool is_guilty)
{
    struct stage *st = b->stage;
    struct batch *other = b->is_second ? b->twin : sched_batch_second(b, index);
    bool is_last = is_guilty && blame_add(s, st, index, ev);
    if (b->is_second) {
        MARK("the VM of a second run is lost");
        sched_batch_unpair(b);
    } else if (other != NULL) {
        MARK("the VM of a first run is lost, the second goes on");
        sched_batch_promote(other);
    } else {
        b->left--;
    }
    if (is_last) {
        element_quarantine(s, st, index, ev);
    } else if (is_guilty) {
        sched_element_blame(sched_segments_get(&st->elements, index), true);
    }
    if (other == NULL) {
        if (!is_last) {
            sched_segments_put_back(&st->elements, index, false);
        }
        return;
    }
    other->may_double = other->may_double && !is_guilty;
    if (is_last) {
        MARK("the other run of an element that is given up is cancelled");
        sched_run_cancel(s, other, index);
        other->left--;
        if (other->left == 0) {
            sched_batch_end(other);
        }
    }
    sched_vm_refresh(&s->vms, other->vm);
}

/* What a lost VM had of one batch. *is_blamed: the guilty one has been found. */
static void batch_lose(struct sched *s, struct batch *b, const struct sched_event *ev,
                       bool *is_blamed)
{
    struct stage *st = b->stage;
    uint64_t end = b->first + b->count - MUTATE(FORGET_ONE, b->count > 1, 0);
    for (uint64_t i = b->first; i < end; i++) {
        bool is_guilty;
        if (sched_batch_element(b, i) == NULL) {
            continue;
        }
        is_guilty = ev->has_element ? st->number == ev->stage &&
                                          i == MUTATE(BLAME_FIRST, b->first, ev->first)
                                    : ev->cause == SCHED_CAUSE_LOSS;
        is_guilty = is_guilty && !*is_blamed && ev->cause != SCHED_CAUSE_EXPECTED;
        *is_blamed = *is_blamed || is_guilty;
        element_lose(s, b, i, ev, is_guilty);
    }
    assert(b->left == 0);
    sched_batch_end(b);
    sched_stage_settle(s, st);
}

int sched_on_vm_lost(struct sched *s, const struct sched_event *ev)
{
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    struct list *pos, *tmp;
    bool is_blamed = false;
    if (vm == NULL || ev->cause > SCHED_CAUSE_TIMEOUT) {
        return TRK_EINVAL;
    }
    list_for_each_safe(pos, tmp, &vm->queue) {
        batch_lose(s, container_of(pos, struct batch, in_vm), ev, &is_blamed);
    }
    serve_nothing(s, vm);
    sched_vms_remove(&s->vms, vm);
    return 0;
}

void sched_recall_all(struct sched *s, const struct batch *b)
{
    sched_action_range(s, SCHED_RECALL, b->stage, b->first, b->count);
    s->actions[s->action_count - 1].vm = b->vm->number;
}

int sched_on_vm_draining(struct sched *s, const struct sched_event *ev)
{
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    struct list *pos;
    if (vm == NULL) {
        return TRK_EINVAL;
    }
    if (vm->is_draining) {
        return 0;
    }
    vm->is_draining = true;
    serve_nothing(s, vm);
    list_for_each(pos, &vm->queue) {
        sched_recall_all(s, container_of(pos, struct batch, in_vm));
    }
    sched_vm_recall_end(&s->vms, vm); /* all of it is asked back now */
    sched_vm_recall_futile(vm, s->now_ns); /* and later again: a recall may overtake its batch */
    sched_vm_refresh(&s->vms, vm);
    return 0;
}

int sched_on_stage_vm(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    struct list *pos;
    if (st == NULL || vm == NULL) {
        return TRK_EINVAL;
    }
    if (st->is_cancelled || vm->is_draining ||
        sched_stage_has(st, vm->slot) == (ev->flag != 0)) {
        return 0;
    }
    sched_stage_serve(st, vm->slot, ev->flag != 0, vm->is_blocked);
    list_for_each(pos, &vm->queue) {
        const struct batch *b = container_of(pos, struct batch, in_vm);
        if (ev->flag == 0 && b->stage == st) {
            sched_recall_all(s, b); /* what runs may finish there */
        }
    }
    return 0;
}
