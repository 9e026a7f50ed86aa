/* SPDX-License-Identifier: MIT */
/* double.c - second runs of what runs very long, for stages that speculate.
 *
 * A VM may be slow, or hang, without being dead. At the end of a stage, when a VM idles that has
 * nothing else to do, the element that runs longest somewhere else runs there too: twice as long
 * as one takes, as far as is known, is long. The first result of the two is stored, and the
 * other VM is told that it need not go on. When one of the two VMs is lost, or gives the element
 * back, the other run is simply the element's run.
 *
 * Elements that VMs died of get no second run: that would cost a second VM. */
#include <assert.h>

#include "sched/core.h"
#include "sched/place.h"

void sched_run_cancel(struct sched *s, const struct batch *b, uint64_t index)
{
    struct sched_action *last = s->action_count > 0 ? &s->actions[s->action_count - 1] : NULL;
    if (last != NULL && last->type == SCHED_CANCEL_RUN && last->stage == b->stage->number &&
        last->vm == b->vm->number && last->attempt == b->attempt &&
        last->first + last->count == index) {
        last->count++;
    } else {
        sched_action_range(s, SCHED_CANCEL_RUN, b->stage, index, 1);
        s->actions[s->action_count - 1].vm = b->vm->number;
        s->actions[s->action_count - 1].attempt = b->attempt;
    }
    sched_vm_report(b->vm, s->now_ns); /* it goes on with the next element now */
}

void sched_second_end(struct sched *s, struct batch *second)
{
    struct vm *first_vm = second->twin->vm;
    struct vm *vm = second->vm;
    sched_batch_unpair(second);
    sched_batch_end(second);
    sched_vm_refresh(&s->vms, vm);
    sched_vm_refresh(&s->vms, first_vm);
}

static void second_begin(struct sched *s, struct batch *b, uint64_t index, struct vm *vm)
{
    struct stage *st = b->stage;
    struct element_range range = {.first = index, .count = 1};
    struct batch *second;
    struct sched_action *a;
    assert(vm->load == 0);
    sched_vm_report(vm, s->now_ns);
    second = sched_batch_begin(vm, st, &range);
    second->attempt = sched_segments_again(&st->elements, index);
    second->may_double = true; /* if it is left alone */
    second->is_long = st->element_ns / SCHED_LONG_BATCHES > s->opt.batch_ns;
    sched_batch_pair(b, second);
    sched_vm_refresh(&s->vms, vm);
    sched_vm_refresh(&s->vms, b->vm);
    st->reissued++;
    st->doubled++;
    a = sched_action_add(s, SCHED_ASSIGN);
    a->stage = st->number;
    a->vm = vm->number;
    a->attempt = second->attempt;
    a->first = index;
    a->count = 1;
}

/* Is there anything else for the VM? What it may not have (dispatch.c) comes to it in time. */
static bool is_needed(const struct sched *s, size_t slot)
{
    const struct list *pos;
    list_for_each(pos, &s->hungry) {
        if (sched_bits_test(&container_of(pos, struct stage, in_hungry)->serves, slot)) {
            return true;
        }
    }
    return false;
}

/* An idle VM for a second run, or SCHED_NONE. */
static size_t idle_for(const struct sched *s, const struct stage *st)
{
    size_t slot = sched_bits_next_both(&s->vms.room[0], &st->serves, 0);
    while (slot != SCHED_NONE && is_needed(s, slot)) {
        slot = sched_bits_next_both(&s->vms.room[0], &st->serves, slot + 1);
    }
    return slot;
}

/* The element of a batch that runs: the first one that is left. */
static uint64_t running_of(const struct batch *b)
{
    uint64_t index = b->first;
    while (sched_batch_element(b, index) == NULL) {
        index++;
        assert(index < b->first + b->count);
    }
    return index;
}

uint64_t sched_double_some(struct sched *s)
{
    uint64_t wake_ns = UINT64_MAX;
    const struct list *pos;
    list_for_each(pos, &s->speculating) {
        struct stage *st = container_of(pos, struct stage, in_speculating);
        /* What is asked back may come for the idle VMs: as many of them wait for that. */
        while (st->is_closed && st->element_ns > 0 && s->vms.idle > s->vms.recalls &&
               !list_is_empty(&st->runners)) {
            struct batch *b = container_of(st->runners.next, struct batch, in_runners);
            uint64_t due_ns = b->vm->report_ns + sched_stage_double_ns(st) + 1;
            size_t slot = idle_for(s, st);
            if (slot == SCHED_NONE) {
                break;
            }
            if (due_ns > s->now_ns) {
                wake_ns = due_ns < wake_ns ? due_ns : wake_ns;
                break;
            }
            second_begin(s, b, running_of(b), s->vms.slots[slot]);
        }
    }
    return wake_ns;
}
