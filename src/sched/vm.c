/* SPDX-License-Identifier: MIT */
/* vm.c - the VMs and their batches, see vm.h. */
#include "sched/vm.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sched/fault.h"

#define FUTILE_NS UINT64_C(100000000) /* after a recall that gave nothing back; then twice that */
#define FUTILE_MAX 6u                 /* and so on, so often */

#define in_vm_batch(pos) container_of(pos, struct batch, in_vm)

static size_t vm_size(const struct vm_table *t)
{
    return sizeof(struct vm) + t->in_flight * sizeof(struct batch);
}

void sched_vms_init(struct vm_table *t, uint32_t in_flight)
{
    assert(in_flight > 0 && in_flight <= ELEMENT_BATCH_MAX);
    memset(t, 0, sizeof *t);
    t->in_flight = in_flight;
    list_init(&t->recallable);
}

void sched_vms_fini(struct vm_table *t)
{
    for (size_t i = 0; i < t->capacity; i++) {
        mem_free(t->slots[i]);
    }
    mem_free(t->slots);
    sched_map_fini(&t->by_number);
    sched_bits_fini(&t->free);
    for (uint32_t i = 0; i < t->in_flight; i++) {
        sched_bits_fini(&t->room[i]);
    }
}

/* Room for one more VM in every table. */
static int table_reserve(struct vm_table *t)
{
    size_t capacity = t->capacity > 0 ? 2 * t->capacity : 16;
    struct vm **slots;
    int rc = sched_map_reserve(&t->by_number, t->count + 1);
    if (rc < 0 || t->count < t->capacity) {
        return rc;
    }
    if (capacity > ELEMENT_VM_MAX || sched_bits_reserve(&t->free, capacity) < 0) {
        return TRK_ENOMEM;
    }
    for (uint32_t i = 0; i < t->in_flight; i++) {
        if (sched_bits_reserve(&t->room[i], capacity) < 0) {
            return TRK_ENOMEM;
        }
    }
    slots = mem_realloc(t->slots, capacity * sizeof(struct vm *));
    if (slots == NULL) {
        return TRK_ENOMEM;
    }
    for (size_t i = t->capacity; i < capacity; i++) {
        slots[i] = NULL;
        sched_bits_set(&t->free, i);
    }
    t->slots = slots;
    t->capacity = capacity;
    return 0;
}

int sched_vms_add(struct vm_table *t, uint32_t number, struct vm **out)
{
    struct vm *vm;
    assert(sched_vms_find(t, number) == NULL);
    if (table_reserve(t) < 0) {
        return TRK_ENOMEM;
    }
    vm = mem_zalloc(1, vm_size(t));
    if (vm == NULL) {
        return TRK_ENOMEM;
    }
    vm->number = number;
    vm->slot = (uint32_t)sched_bits_next(&t->free, 0);
    vm->level = SCHED_NONE;
    list_init(&vm->queue);
    for (uint32_t i = 0; i < t->in_flight; i++) {
        vm->batches[i].vm = vm;
        list_init(&vm->batches[i].in_vm);
        list_init(&vm->batches[i].in_stage);
        list_init(&vm->batches[i].in_recallable);
        list_init(&vm->batches[i].in_runners);
    }
    sched_bits_clear(&t->free, vm->slot);
    t->slots[vm->slot] = vm;
    t->count++;
    sched_map_put(&t->by_number, 0, number, vm->slot);
    sched_vm_refresh(t, vm);
    *out = vm;
    return 0;
}

void sched_vms_remove(struct vm_table *t, struct vm *vm)
{
    assert(vm->load == 0 && t->slots[vm->slot] == vm);
    vm->is_draining = true; /* leaves room[] */
    sched_vm_recall_end(t, vm);
    sched_vm_refresh(t, vm);
    sched_map_remove(&t->by_number, 0, vm->number);
    sched_bits_set(&t->free, vm->slot);
    t->slots[vm->slot] = NULL;
    t->count--;
    mem_free(vm);
}

struct vm *sched_vms_find(const struct vm_table *t, uint32_t number)
{
    const uint64_t *slot = sched_map_find(&t->by_number, 0, number);
    return slot != NULL ? t->slots[*slot] : NULL;
}

struct batch *sched_batch_begin(struct vm *vm, struct stage *st,
                                const struct element_range *range)
{
    struct batch *b = vm->batches;
    while (b->stage != NULL) {
        b++;
    }
    assert(b->left == 0 && list_is_empty(&b->in_vm) && b->twin == NULL && !b->is_second);
    assert(range->count > 0 && range->count <= UINT32_MAX);
    b->stage = st;
    b->first = range->first;
    b->count = b->left = (uint32_t)range->count;
    b->is_long = b->may_double = false;
    list_push_back(&vm->queue, &b->in_vm);
    list_push_back(&st->batches, &b->in_stage);
    vm->load++;
    return b;
}

uint32_t sched_batch_index(const struct batch *b)
{
    return (uint32_t)(b - b->vm->batches);
}

void sched_batch_end(struct batch *b)
{
    assert(b->stage != NULL && b->vm->load > 0 && b->twin == NULL);
    list_remove(&b->in_vm);
    list_remove(&b->in_stage);
    list_remove(&b->in_recallable);
    list_remove(&b->in_runners);
    b->stage = NULL;
    b->left = 0;
    b->vm->load--;
}

bool sched_batch_is_head(const struct batch *b)
{
    return b->vm->queue.next == &b->in_vm;
}

uint32_t sched_batch_unstarted(const struct batch *b)
{
    assert(b->left > 0);
    return sched_batch_is_head(b) ? b->left - 1 : b->left;
}

struct element *sched_batch_element(const struct batch *b, uint64_t index)
{
    struct element *e = sched_segments_get(&b->stage->elements, index);
    if (b->is_second) {
        return index == b->first ? e : NULL;
    }
    return e != NULL && sched_element_is_at(e, b->vm->slot, sched_batch_index(b)) ? e : NULL;
}

void sched_batch_pair(struct batch *b, struct batch *second)
{
    assert(b->twin == NULL && second->twin == NULL && second->left == 1);
    assert(sched_batch_element(b, second->first) != NULL && b->vm != second->vm);
    second->is_second = true;
    second->twin = b;
    b->twin = second;
}

void sched_batch_unpair(struct batch *second)
{
    assert(second->is_second && second->twin->twin == second && second->left == 1);
    second->twin->twin = NULL;
    second->twin = NULL;
    second->is_second = false;
    second->left = 0;
}

void sched_batch_promote(struct batch *second)
{
    struct batch *b = second->twin;
    sched_batch_unpair(second);
    sched_segments_move(&b->stage->elements, second->first, second->vm->slot,
                        sched_batch_index(second));
    assert(b->left > 0);
    b->left--;
    second->left = 1;
}

/* The result of what it works on is on its way, most of the time: there is nothing to ask for. Or
 * the recall was there before the batch, and what follows an endless element waits for ever: so
 * it is asked again, later and later. */
void sched_vm_recall_futile(struct vm *vm, uint64_t now_ns)
{
    vm->ask_ns = now_ns + (FUTILE_NS << (vm->futile < FUTILE_MAX ? vm->futile : FUTILE_MAX));
    vm->futile += vm->futile < FUTILE_MAX;
}

/* Runners stay in the order of the last reports, the longest-running one in front. */
void sched_vm_report(struct vm *vm, uint64_t now_ns)
{
    vm->report_ns = now_ns;
    vm->futile = 0;
    vm->ask_ns = 0;
    if (vm->load > 0) {
        struct batch *b = in_vm_batch(vm->queue.next);
        if (!list_is_empty(&b->in_runners)) {
            list_remove(&b->in_runners);
            list_push_back(&b->stage->runners, &b->in_runners);
        }
    }
}

void sched_vm_recall_end(struct vm_table *t, struct vm *vm)
{
    if (vm->recall != NULL) {
        assert(t->recalls > 0);
        t->recalls--;
        vm->recall = NULL;
    }
}

/* The room[] this VM belongs in. */
static size_t level_of(const struct vm_table *t, const struct vm *vm)
{
    if (vm->is_draining || vm->is_suspect || vm->load >= t->in_flight) {
        return SCHED_NONE;
    }
    if (vm->load > 0 && in_vm_batch(vm->queue.prev)->is_long) {
        return SCHED_NONE;
    }
    return vm->load;
}

static bool is_recallable(const struct batch *b)
{
    return !b->vm->is_suspect && b->vm->recall == NULL && sched_batch_unstarted(b) > 0;
}

static bool is_runner(const struct batch *b)
{
    return b->may_double && b->twin == NULL && sched_batch_is_head(b);
}

void sched_vm_refresh(struct vm_table *t, struct vm *vm)
{
    struct list *pos;
    size_t level = level_of(t, vm);
    if (level != vm->level) {
        if (vm->level != SCHED_NONE) {
            sched_bits_clear(&t->room[vm->level], vm->slot);
            t->idle -= vm->level == 0;
        }
        if (level != SCHED_NONE) {
            sched_bits_set(&t->room[level], vm->slot);
            t->idle += level == 0;
        }
        vm->level = level;
    }
    list_for_each(pos, &vm->queue) {
        struct batch *b = in_vm_batch(pos);
        if (!is_recallable(b)) {
            list_remove(&b->in_recallable);
        } else if (list_is_empty(&b->in_recallable)) {
            list_push_back(&t->recallable, &b->in_recallable);
        }
        if (!is_runner(b)) {
            list_remove(&b->in_runners);
        } else if (list_is_empty(&b->in_runners)) {
            list_push_back(&b->stage->runners, &b->in_runners);
        }
    }
}

size_t sched_vms_memory(const struct vm_table *t)
{
    size_t bytes = t->capacity * sizeof(struct vm *) + t->count * vm_size(t) +
                   t->by_number.capacity * sizeof(struct map_slot) + sched_bits_memory(&t->free);
    for (uint32_t i = 0; i < t->in_flight; i++) {
        bytes += sched_bits_memory(&t->room[i]);
    }
    return bytes;
}

static void batch_check(const struct batch *b)
{
    const struct vm *vm = b->vm;
    uint32_t left = 0;
    sched_must(b->stage != NULL && b->left > 0 && b->left <= b->count,
               "vm %u: a batch with %u of %u left", vm->number, b->left, b->count);
    for (uint64_t i = b->first; i < b->first + b->count; i++) {
        const struct element *e = sched_batch_element(b, i);
        left += e != NULL;
        sched_must(e == NULL || e->attempt >= b->attempt, /* more: it had a second run */
                   "vm %u stage %u element %llu: attempt %u in a batch of attempt %u", vm->number,
                   b->stage->number, (unsigned long long)i, e != NULL ? e->attempt : 0,
                   b->attempt);
    }
    sched_must(left == b->left, "vm %u stage %u batch %llu: %u left, counted %u", vm->number,
               b->stage->number, (unsigned long long)b->first, b->left, left);
    sched_must(is_recallable(b) == !list_is_empty(&b->in_recallable),
               "vm %u stage %u batch %llu: recallable is %d, listed otherwise", vm->number,
               b->stage->number, (unsigned long long)b->first, is_recallable(b));
}

static void twin_check(const struct batch *b)
{
    const struct batch *second = b->is_second ? b : b->twin;
    const struct element *e;
    sched_must(is_runner(b) == !list_is_empty(&b->in_runners),
               "vm %u stage %u batch %llu: runner is %d, listed otherwise", b->vm->number,
               b->stage->number, (unsigned long long)b->first, is_runner(b));
    if (second == NULL) {
        return;
    }
    e = second->twin != NULL ? sched_segments_get(&b->stage->elements, second->first) : NULL;
    sched_must(e != NULL && second->count == 1 && second->twin->twin == second &&
                   !second->twin->is_second && second->stage == second->twin->stage &&
                   second->vm != second->twin->vm &&
                   sched_element_is_at(e, second->twin->vm->slot,
                                       sched_batch_index(second->twin)),
               "vm %u stage %u batch %llu: a second run of nothing", second->vm->number,
               b->stage->number, (unsigned long long)second->first);
}

static void vm_check(const struct vm_table *t, const struct vm *vm)
{
    struct list *pos;
    uint32_t load = 0, used = 0;
    list_for_each(pos, &vm->queue) {
        batch_check(in_vm_batch(pos));
        twin_check(in_vm_batch(pos));
        load++;
    }
    for (uint32_t i = 0; i < t->in_flight; i++) {
        used += vm->batches[i].stage != NULL;
        sched_must(vm->batches[i].stage != NULL ||
                       (list_is_empty(&vm->batches[i].in_recallable) &&
                        list_is_empty(&vm->batches[i].in_runners) &&
                        vm->batches[i].twin == NULL && !vm->batches[i].is_second),
                   "vm %u: a free place is listed as if it held something", vm->number);
    }
    sched_must(load == vm->load && used == load, "vm %u: load %u, %u queued, %u places used",
               vm->number, vm->load, load, used);
    sched_must(vm->level == level_of(t, vm), "vm %u: in the wrong room", vm->number);
    for (uint32_t i = 0; i < t->in_flight; i++) {
        sched_must(sched_bits_test(&t->room[i], vm->slot) == (vm->level == i),
                   "vm %u: room %u disagrees", vm->number, i);
    }
}

void sched_vms_check(const struct vm_table *t)
{
    size_t count = 0, idle = 0, recalls = 0;
    sched_bits_check(&t->free);
    for (uint32_t i = 0; i < t->in_flight; i++) {
        sched_bits_check(&t->room[i]);
    }
    for (size_t i = 0; i < t->capacity; i++) {
        const struct vm *vm = t->slots[i];
        sched_must((vm == NULL) == sched_bits_test(&t->free, i), "vm slot %zu: free or not?", i);
        if (vm == NULL) {
            continue;
        }
        sched_must(vm->slot == i && sched_vms_find(t, vm->number) == vm,
                   "vm %u: not found by its number", vm->number);
        vm_check(t, vm);
        count++;
        idle += vm->level == 0;
        recalls += vm->recall != NULL;
    }
    sched_must(count == t->count && idle == t->idle && recalls == t->recalls,
               "vms: %zu, %zu idle, %zu recalls; counted %zu, %zu, %zu", t->count, t->idle,
               t->recalls, count, idle, recalls);
}
