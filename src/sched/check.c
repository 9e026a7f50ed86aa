/* SPDX-License-Identifier: MIT */
/* check.c - every invariant across the tables. Those within one table are checked by its own
 * file; all of it is walked, so this is for tests and the simulator. */
#include "sched/core.h"
#include "sched/fault.h"

struct totals {
    uint64_t live;    /* elements not delivered */
    uint64_t blamed;  /* elements marked as blamed */
    size_t batches;   /* assigned, by the stages' lists */
    size_t stages;
    size_t hungry;    /* stages with pending elements */
};

static void element_check(const struct sched *s, const struct stage *st, uint64_t index,
                          const struct element *e, struct totals *sum)
{
    const struct blame *blame = sched_blames_find(&s->blames, st->number, index);
    sched_must((blame != NULL) == sched_element_is_blamed(e),
               "stage %u element %llu: blamed is %d, the side table says otherwise", st->number,
               (unsigned long long)index, sched_element_is_blamed(e));
    sum->blamed += sched_element_is_blamed(e);
    if (blame != NULL) {
        sched_must(blame->own_deaths + blame->losses > 0 &&
                       blame->own_deaths < s->opt.max_own_deaths &&
                       blame->losses < s->opt.max_losses &&
                       (blame->own_deaths > 0) == (blame->vm_count > 0),
                   "stage %u element %llu: %u deaths, %u losses", st->number,
                   (unsigned long long)index, blame->own_deaths, blame->losses);
    }
    if (st->retries > 0) {
        uint32_t failures = sched_segments_failures(&st->elements, index);
        sched_must(failures <= st->retries &&
                       (failures > 0 || sched_element_state(e) != ELEMENT_DELAYED),
                   "stage %u element %llu: %s after %u failures", st->number,
                   (unsigned long long)index, sched_element_state_name(sched_element_state(e)),
                   failures);
    }
    if (sched_element_state(e) == ELEMENT_ASSIGNED) {
        uint32_t slot = sched_element_vm(e), place = sched_element_batch(e);
        const struct vm *vm = slot < s->vms.capacity ? s->vms.slots[slot] : NULL;
        const struct batch *b = vm != NULL && place < s->opt.in_flight ? &vm->batches[place] : NULL;
        sched_must(b != NULL && b->stage == st && index >= b->first &&
                       index - b->first < b->count,
                   "stage %u element %llu: assigned to a batch that does not hold it", st->number,
                   (unsigned long long)index);
    }
}

static void stage_check(const struct sched *s, const struct stage *st, struct totals *sum)
{
    const struct segments *g = &st->elements;
    const struct list *pos;
    uint64_t left = 0;
    sched_stage_check(st);
    sched_must(sched_stage_find(s, st->number) == st, "stage %u: not found by its number",
               st->number);
    for (uint64_t n = g->base; n < g->end; n++) {
        const struct segment *seg = sched_segments_of(g, n * SEGMENT_LENGTH);
        for (uint32_t at = 0; seg != NULL && at < seg->filled; at++) {
            element_check(s, st, n * SEGMENT_LENGTH + at, &seg->elements[at], sum);
        }
    }
    list_for_each(pos, &st->batches) {
        const struct batch *b = container_of(pos, struct batch, in_stage);
        sched_must(b->stage == st, "stage %u: a batch of another stage in its list", st->number);
        left += b->is_second ? 0 : b->left;
        sum->batches++;
    }
    sched_must(left == g->in_state[ELEMENT_ASSIGNED],
               "stage %u: %llu elements assigned, %llu left in batches", st->number,
               (unsigned long long)g->in_state[ELEMENT_ASSIGNED], (unsigned long long)left);
    for (size_t i = sched_bits_next(&st->serves, 0); i != SCHED_NONE;
         i = sched_bits_next(&st->serves, i + 1)) {
        const struct vm *vm = i < s->vms.capacity ? s->vms.slots[i] : NULL;
        sched_must(vm != NULL && !vm->is_draining,
                   "stage %u: served by slot %zu, which has no VM for it", st->number, i);
    }
    for (size_t i = sched_bits_next(&st->spare, 0); i != SCHED_NONE;
         i = sched_bits_next(&st->spare, i + 1)) {
        const struct vm *vm = i < s->vms.capacity ? s->vms.slots[i] : NULL;
        sched_must(vm != NULL && vm->is_blocked, "stage %u: slot %zu is spare without reason",
                   st->number, i);
    }
    sched_must(g->in_state[ELEMENT_DELAYED] == 0 || g->due_ms > s->now_ns / 1000000,
               "stage %u: an element waits longer than it should", st->number);
    sum->live += g->added - g->in_state[ELEMENT_DELIVERED];
    sum->stages++;
    sum->hungry += sched_stage_pending(st) > 0;
}

/* After a step no VM is idle while a stage it serves has something pending that it may have. */
static void idle_check(const struct sched *s)
{
    const struct list *pos;
    list_for_each(pos, &s->hungry) {
        const struct stage *st = container_of(pos, struct stage, in_hungry);
        size_t slot = sched_bits_next_both(&s->vms.room[0], &st->serves, 0);
        struct element_range next;
        bool is_held = slot != SCHED_NONE && sched_segments_peek(&st->elements, 0, 1, &next) &&
                       sched_held_until(s, st, &next, slot) > s->now_ns &&
                       sched_bits_next_both(&s->vms.room[0], &st->serves, slot + 1) == SCHED_NONE;
        sched_must(slot == SCHED_NONE || is_held,
                   "stage %u: %llu pending while the VM in slot %zu is idle", st->number,
                   (unsigned long long)sched_stage_pending(st), slot);
    }
}

static size_t list_length(const struct list *head)
{
    const struct list *pos;
    size_t n = 0;
    list_for_each(pos, head) {
        n++;
    }
    return n;
}

void sched_check(const struct sched *s)
{
    struct totals sum = {0};
    const struct list *pos;
    size_t loads = 0, recallable = 0;
    list_for_each(pos, &s->stages) {
        stage_check(s, container_of(pos, struct stage, in_sched), &sum);
    }
    sched_vms_check(&s->vms);
    for (size_t i = 0; i < s->vms.capacity; i++) {
        const struct vm *vm = s->vms.slots[i];
        for (uint32_t k = 0; vm != NULL && k < s->opt.in_flight; k++) {
            recallable += !list_is_empty(&vm->batches[k].in_recallable);
        }
        loads += vm != NULL ? vm->load : 0;
        sched_must(vm == NULL || vm->recall == NULL ||
                       sched_stage_find(s, vm->recall->number) == vm->recall,
                   "vm in slot %zu: a recall of a stage that has gone", i);
    }
    sched_must(loads == sum.batches, "%zu batches by VM, %zu by stage", loads, sum.batches);
    sched_must(recallable == list_length(&s->vms.recallable),
               "%zu batches are recallable, %zu listed", recallable,
               list_length(&s->vms.recallable));
    sched_must(sum.live == s->live, "%llu elements live, counted %llu",
               (unsigned long long)s->live, (unsigned long long)sum.live);
    sched_must(sum.blamed == s->blames.index.count, "%zu blamed, counted %llu",
               s->blames.index.count, (unsigned long long)sum.blamed);
    sched_must(s->vms.count == 0 || s->blames.capacity >= sum.blamed + s->vms.count,
               "no room to blame one element per VM (%llu blamed, %zu VMs)",
               (unsigned long long)sum.blamed, s->vms.count);
    for (size_t i = 0; i < s->suspicions.count; i++) {
        const struct suspicion *entry = &s->suspicions.items[i];
        const struct vm *vm = sched_vms_find(&s->vms, entry->vm);
        sched_must(sched_suspicions_find(&s->suspicions, entry->vm) == entry &&
                       (vm == NULL || vm->is_blocked == entry->is_blocked),
                   "vm %u: suspected twice, or blocked or not", entry->vm);
    }
    sched_must(sum.stages == s->stage_numbers.count && sum.hungry == list_length(&s->hungry),
               "%zu stages, %zu hungry; counted %zu, %zu", s->stage_numbers.count,
               list_length(&s->hungry), sum.stages, sum.hungry);
    idle_check(s);
}
