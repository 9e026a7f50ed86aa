/* SPDX-License-Identifier: MIT */
/* block.c - VMs that are not used although they are there.
 *
 * A silent VM gets nothing new; what it has is re-issued when the caller gives it up, not before.
 *
 * A VM that elements die on, which others then complete, is blocked: broken memory, a missing
 * library, a full disk would otherwise eat one element after the other. But some elements die
 * now and then wherever they run. In a long job these bring down every VM some day, and are
 * completed by another; to block for that would leave one VM of many. So a VM has to stand out:
 * with BLOCK_ELEMENTS of them at least half of the other VMs must have none, and so on. */
#include <assert.h>

#include "base/mark.h"
#include "sched/core.h"

#define BLOCK_ELEMENTS 3u
#define BLOCK_RATIO 4u /* so many times what the better half of the others has, beyond that */

int sched_on_vm_suspect(struct sched *s, const struct sched_event *ev)
{
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    if (vm == NULL) {
        return TRK_EINVAL;
    }
    if (vm->is_suspect != (ev->flag != 0)) {
        vm->is_suspect = ev->flag != 0;
        sched_vm_recall_end(&s->vms, vm); /* others may be asked while its answer is not coming */
        sched_vm_refresh(&s->vms, vm);
    }
    return 0;
}

static bool is_usable(const struct vm *vm)
{
    return vm != NULL && !vm->is_draining && !vm->is_suspect && !vm->is_blocked;
}

/* Is there a usable VM but this one, and does it look worse than at least half of these? */
static bool stands_out(const struct sched *s, const struct suspicion *entry)
{
    size_t others = 0, alike = 0;
    for (size_t i = 0; i < s->vms.capacity; i++) {
        others += is_usable(s->vms.slots[i]) && s->vms.slots[i]->number != entry->vm;
    }
    for (size_t i = 0; i < s->suspicions.count; i++) {
        const struct suspicion *other = &s->suspicions.items[i];
        uint64_t much = BLOCK_ELEMENTS + (uint64_t)BLOCK_RATIO * other->elements;
        alike += other != entry && entry->elements < much &&
                 is_usable(sched_vms_find(&s->vms, other->vm));
    }
    return others > 0 && entry->elements >= BLOCK_ELEMENTS && 2 * alike <= others;
}

static void block_set(struct sched *s, struct vm *vm, bool is_blocked)
{
    struct list *pos;
    assert(vm->is_blocked != is_blocked);
    list_for_each(pos, &s->stages) {
        struct stage *st = container_of(pos, struct stage, in_sched);
        if (sched_stage_has(st, vm->slot)) {
            sched_stage_serve(st, vm->slot, false, vm->is_blocked);
            sched_stage_serve(st, vm->slot, true, is_blocked);
        }
    }
    vm->is_blocked = is_blocked;
}

static void block(struct sched *s, struct suspicion *entry)
{
    struct vm *vm = sched_vms_find(&s->vms, entry->vm);
    struct list *pos;
    entry->is_blocked = true;
    sched_action_add(s, SCHED_BLOCK_VM)->vm = entry->vm;
    if (vm == NULL) {
        MARK("a VM that is away is blocked");
        return; /* it is noticed when it comes back */
    }
    block_set(s, vm, true);
    list_for_each(pos, &vm->queue) {
        const struct batch *b = container_of(pos, struct batch, in_vm);
        if (!sched_bits_test(&b->stage->serves, vm->slot)) {
            sched_recall_all(s, b);
        }
    }
}

/* The entry of a VM, made if it is not there: of the VMs that are away the oldest one makes room,
 * a blocked one only if there is no other. */
static struct suspicion *suspicion_of(struct sched *s, uint32_t vm)
{
    struct suspicion_table *t = &s->suspicions;
    struct suspicion *entry = sched_suspicions_find(t, vm);
    struct suspicion *oldest = NULL;
    if (entry != NULL) {
        return entry;
    }
    for (size_t i = 0; t->count == t->capacity && i < t->count; i++) {
        bool is_better = oldest == NULL || (oldest->is_blocked && !t->items[i].is_blocked);
        if (is_better && sched_vms_find(&s->vms, t->items[i].vm) == NULL) {
            oldest = &t->items[i];
        }
    }
    if (oldest != NULL) {
        sched_suspicions_remove(t, oldest);
    }
    assert(t->count < t->capacity); /* there is more room than VMs */
    entry = &t->items[t->count++];
    *entry = (struct suspicion){.vm = vm};
    return entry;
}

void sched_blame_clear(struct sched *s, const struct stage *st, uint64_t index, uint32_t vm)
{
    const struct blame *b = sched_blames_find(&s->blames, st->number, index);
    assert(b != NULL);
    for (uint32_t i = 0; i < b->vm_count && vm != SCHED_NO_VM; i++) {
        struct suspicion *entry;
        if (b->vms[i] == vm) {
            continue;
        }
        entry = suspicion_of(s, b->vms[i]);
        entry->elements += entry->elements < UINT32_MAX;
        if (!entry->is_blocked && stands_out(s, entry)) {
            block(s, entry);
        }
    }
    sched_blames_remove(&s->blames, st->number, index);
}

int sched_on_vm_unblock(struct sched *s, const struct sched_event *ev)
{
    struct suspicion *entry = sched_suspicions_find(&s->suspicions, ev->vm);
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    if (entry != NULL) {
        sched_suspicions_remove(&s->suspicions, entry);
    }
    if (vm != NULL && vm->is_blocked) {
        MARK("a VM is unblocked");
        block_set(s, vm, false);
    }
    return 0;
}
