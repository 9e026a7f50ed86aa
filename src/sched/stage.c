/* SPDX-License-Identifier: MIT */
/* stage.c - see stage.h. */
#include "sched/stage.h"

#include <assert.h>

#include "base/mem.h"
#include "sched/fault.h"

#define BUSY_NS_MAX (UINT64_C(1) << 50) /* 13 days; longer is taken as that (no overflow) */
#define GROWTH 4u                       /* a probe may mislead: this much per step */

struct stage *sched_stage_new(uint32_t number, size_t vm_slots)
{
    struct stage *st = mem_zalloc(1, sizeof *st);
    if (st == NULL) {
        return NULL;
    }
    st->number = number;
    st->batch_now = 1;
    list_init(&st->in_sched);
    list_init(&st->in_hungry);
    list_init(&st->batches);
    if (sched_bits_reserve(&st->serves, vm_slots) < 0) {
        mem_free(st);
        return NULL;
    }
    return st;
}

void sched_stage_free(struct stage *st)
{
    assert(list_is_empty(&st->batches) && list_is_empty(&st->in_sched));
    sched_segments_fini(&st->elements);
    sched_bits_fini(&st->serves);
    mem_free(st);
}

bool sched_stage_is_recorded(const struct stage *st)
{
    const uint64_t *in = st->elements.in_state;
    assert(in[ELEMENT_RECORDED] + in[ELEMENT_DELIVERED] <= st->elements.added);
    return in[ELEMENT_RECORDED] + in[ELEMENT_DELIVERED] == st->elements.added;
}

void sched_stage_serve(struct stage *st, size_t vm_slot, bool is_serving)
{
    if (sched_bits_test(&st->serves, vm_slot) == is_serving) {
        return;
    }
    if (is_serving) {
        sched_bits_set(&st->serves, vm_slot);
        st->vms++;
    } else {
        assert(st->vms > 0);
        sched_bits_clear(&st->serves, vm_slot);
        st->vms--;
    }
}

/* How many elements make batch_ns of work. */
static uint32_t batch_target(const struct stage *st, uint64_t batch_ns, uint32_t batch_max)
{
    uint64_t n;
    assert(st->element_ns > 0 && batch_max > 0);
    n = batch_ns / st->element_ns;
    return n < 1 ? 1 : n > batch_max ? batch_max : (uint32_t)n;
}

void sched_stage_measure(struct stage *st, uint64_t busy_ns, uint64_t count, uint64_t batch_ns,
                         uint32_t batch_max)
{
    uint32_t target;
    assert(count > 0);
    count = count < UINT32_MAX ? count : UINT32_MAX; /* both come from a VM: no overflow */
    busy_ns = busy_ns < BUSY_NS_MAX ? busy_ns : BUSY_NS_MAX;
    st->spent_ns += busy_ns - st->spent_ns / 8;
    st->spent_count += count * 256 - st->spent_count / 8;
    st->element_ns = st->spent_ns * 256 / st->spent_count;
    st->element_ns = st->element_ns > 0 ? st->element_ns : 1; /* 0 means unknown */
    target = batch_target(st, batch_ns, batch_max);
    if (st->batch_now > target) {
        st->batch_now = target;
    }
}

void sched_stage_grow(struct stage *st, uint64_t count, uint64_t batch_ns, uint32_t batch_max)
{
    if (count >= st->batch_now && st->element_ns > 0) {
        uint64_t target = batch_target(st, batch_ns, batch_max);
        uint64_t grown = (uint64_t)st->batch_now * GROWTH;
        st->batch_now = (uint32_t)(grown < target ? grown : target);
    }
    assert(st->batch_now > 0 && st->batch_now <= batch_max);
}

void sched_stage_check(const struct stage *st)
{
    uint32_t serving = 0;
    sched_bits_check(&st->serves);
    for (size_t i = sched_bits_next(&st->serves, 0); i != SCHED_NONE;
         i = sched_bits_next(&st->serves, i + 1)) {
        serving++;
    }
    sched_must(serving == st->vms, "stage %u: %u VMs serve it, counted %u", st->number, st->vms,
               serving);
    sched_must(list_is_empty(&st->in_hungry) == (sched_stage_pending(st) == 0),
               "stage %u: %llu pending, but its place in the queue of stages disagrees",
               st->number, (unsigned long long)sched_stage_pending(st));
    sched_must(!st->is_cancelled || (st->elements.added == 0 && list_is_empty(&st->batches)),
               "stage %u: cancelled, yet it holds elements", st->number);
    sched_must(st->is_done == (st->is_cancelled ||
                               (st->is_closed && sched_stage_is_recorded(st))),
               "stage %u: done is %d, which is not what its elements say", st->number,
               st->is_done);
    sched_segments_check(&st->elements, st->number);
}
