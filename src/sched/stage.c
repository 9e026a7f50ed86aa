/* SPDX-License-Identifier: MIT */
/* stage.c - see stage.h. */
#include "sched/stage.h"

#include <assert.h>

#include "base/mem.h"
#include "sched/fault.h"

#define BUSY_NS_MAX (UINT64_C(1) << 50) /* 13 days; longer is taken as that (no overflow) */
#define GROWTH 4u                       /* a probe may mislead: this much per step */
#define NS_PER_MS UINT64_C(1000000)
#define BACKOFF_NS (100 * NS_PER_MS)    /* unless it is told */
#define WAIT_NS_MAX (60000 * NS_PER_MS)
#define WAIT_GRAINS 8u                  /* waits end together in grains of this part of one */
#define DOUBLE_NS_MIN (100 * NS_PER_MS) /* nothing shorter is worth a second run */

struct stage *sched_stage_new(const struct sched_event *opened, size_t vm_slots)
{
    struct stage *st = mem_zalloc(1, sizeof *st);
    if (st == NULL) {
        return NULL;
    }
    st->number = opened->stage;
    st->batch_now = 1;
    st->retries = opened->retries < FAILURES_MAX ? opened->retries : FAILURES_MAX - 1;
    st->backoff_ns = opened->backoff_ns > 0 ? opened->backoff_ns : BACKOFF_NS;
    st->is_speculating = (opened->flag & SCHED_STAGE_SPECULATE) != 0;
    st->elements.has_failures = st->retries > 0;
    list_init(&st->in_sched);
    list_init(&st->in_hungry);
    list_init(&st->in_delayed);
    list_init(&st->in_speculating);
    list_init(&st->batches);
    list_init(&st->runners);
    if (sched_stage_reserve(st, vm_slots) < 0) {
        sched_bits_fini(&st->serves);
        mem_free(st);
        return NULL;
    }
    return st;
}

int sched_stage_reserve(struct stage *st, size_t vm_slots)
{
    int rc = sched_bits_reserve(&st->serves, vm_slots);
    return rc < 0 ? rc : sched_bits_reserve(&st->spare, vm_slots);
}

void sched_stage_free(struct stage *st)
{
    assert(list_is_empty(&st->batches) && list_is_empty(&st->in_sched));
    assert(list_is_empty(&st->runners) && list_is_empty(&st->in_speculating));
    sched_segments_fini(&st->elements);
    sched_bits_fini(&st->serves);
    sched_bits_fini(&st->spare);
    mem_free(st);
}

bool sched_stage_is_recorded(const struct stage *st)
{
    const uint64_t *in = st->elements.in_state;
    assert(in[ELEMENT_RECORDED] + in[ELEMENT_DELIVERED] <= st->elements.added);
    return in[ELEMENT_RECORDED] + in[ELEMENT_DELIVERED] == st->elements.added;
}

bool sched_stage_has(const struct stage *st, size_t vm_slot)
{
    return sched_bits_test(&st->serves, vm_slot) || sched_bits_test(&st->spare, vm_slot);
}

void sched_stage_serve(struct stage *st, size_t vm_slot, bool is_serving, bool is_blocked)
{
    struct bits *in = is_blocked ? &st->spare : &st->serves;
    uint32_t *count = is_blocked ? &st->spares : &st->regulars;
    if (sched_bits_test(in, vm_slot) == is_serving) {
        return;
    }
    if (is_serving) {
        sched_bits_set(in, vm_slot);
        ++*count;
    } else {
        assert(*count > 0);
        sched_bits_clear(in, vm_slot);
        --*count;
        sched_bits_clear(&st->serves, vm_slot);
    }
    if (st->spares == 0) {
        return;
    }
    for (size_t i = sched_bits_next(&st->spare, 0); i != SCHED_NONE;
         i = sched_bits_next(&st->spare, i + 1)) {
        if (st->regulars == 0) {
            sched_bits_set(&st->serves, i);
        } else {
            sched_bits_clear(&st->serves, i);
        }
    }
}

uint64_t sched_stage_retry_ms(const struct stage *st, uint32_t n, uint64_t now_ns)
{
    uint64_t wait_ns = st->backoff_ns;
    uint64_t wait_ms, grain_ms, due_ms;
    for (; n > 1 && wait_ns < WAIT_NS_MAX; n--) {
        wait_ns *= 2;
    }
    wait_ns = wait_ns < WAIT_NS_MAX ? wait_ns : WAIT_NS_MAX;
    wait_ms = wait_ns / NS_PER_MS + (wait_ns % NS_PER_MS != 0);
    grain_ms = wait_ms / WAIT_GRAINS > 0 ? wait_ms / WAIT_GRAINS : 1;
    due_ms = now_ns / NS_PER_MS + (now_ns % NS_PER_MS != 0) + wait_ms;
    return (due_ms + grain_ms - 1) / grain_ms * grain_ms;
}

uint64_t sched_stage_double_ns(const struct stage *st)
{
    uint64_t twice = 2 * (st->element_ns < BUSY_NS_MAX ? st->element_ns : BUSY_NS_MAX);
    return twice > DOUBLE_NS_MIN ? twice : DOUBLE_NS_MIN;
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
    uint32_t serving = 0, spares = 0;
    sched_bits_check(&st->serves);
    sched_bits_check(&st->spare);
    for (size_t i = sched_bits_next(&st->serves, 0); i != SCHED_NONE;
         i = sched_bits_next(&st->serves, i + 1)) {
        serving++;
    }
    for (size_t i = sched_bits_next(&st->spare, 0); i != SCHED_NONE;
         i = sched_bits_next(&st->spare, i + 1)) {
        spares++;
        sched_must(sched_bits_test(&st->serves, i) == (st->regulars == 0),
                   "stage %u: the blocked VM in slot %zu serves it, or does not", st->number, i);
    }
    sched_must(serving == sched_stage_vms(st) && spares == st->spares,
               "stage %u: %u VMs serve it, %u are spare, counted %u, %u", st->number,
               sched_stage_vms(st), st->spares, serving, spares);
    sched_must(list_is_empty(&st->in_hungry) == (sched_stage_pending(st) == 0),
               "stage %u: %llu pending, but its place in the queue of stages disagrees",
               st->number, (unsigned long long)sched_stage_pending(st));
    sched_must(!st->is_cancelled || (st->elements.added == 0 && list_is_empty(&st->batches)),
               "stage %u: cancelled, yet it holds elements", st->number);
    sched_must(st->is_done == (st->is_cancelled ||
                               (st->is_closed && sched_stage_is_recorded(st))),
               "stage %u: done is %d, which is not what its elements say", st->number,
               st->is_done);
    sched_must(list_is_empty(&st->in_delayed) == (st->elements.in_state[ELEMENT_DELAYED] == 0),
               "stage %u: %llu delayed, listed otherwise", st->number,
               (unsigned long long)st->elements.in_state[ELEMENT_DELAYED]);
    sched_segments_check(&st->elements, st->number);
}
