/* SPDX-License-Identifier: MIT */
/* blame.c - the side tables of guilt, see blame.h. */
#include "sched/blame.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

/* --- elements ------------------------------------------------------------------------------ */

int sched_blames_reserve(struct blame_table *t, size_t n)
{
    size_t capacity = t->capacity > 0 ? t->capacity : 8;
    struct blame *items;
    int rc = sched_map_reserve(&t->index, n);
    if (rc < 0 || n <= t->capacity) {
        return rc;
    }
    while (capacity < n) {
        capacity *= 2;
    }
    items = mem_realloc(t->items, capacity * sizeof *items);
    if (items == NULL) {
        return TRK_ENOMEM; /* the index may have grown, which nobody sees */
    }
    for (size_t i = t->capacity; i < capacity; i++) {
        items[i].next_free = i + 1;
    }
    /* The end of the old list of free places is the first of the new ones. */
    t->items = items;
    t->capacity = capacity;
    return 0;
}

void sched_blames_fini(struct blame_table *t)
{
    sched_map_fini(&t->index);
    mem_free(t->items);
    memset(t, 0, sizeof *t);
}

struct blame *sched_blames_find(const struct blame_table *t, uint32_t stage, uint64_t index)
{
    const uint64_t *place = sched_map_find(&t->index, stage, index);
    return place != NULL ? &t->items[*place] : NULL;
}

struct blame *sched_blames_put(struct blame_table *t, uint32_t stage, uint64_t index)
{
    size_t place = t->free;
    assert(place < t->capacity);
    t->free = t->items[place].next_free;
    t->items[place] = (struct blame){0};
    sched_map_put(&t->index, stage, index, place);
    return &t->items[place];
}

static void place_free(struct blame_table *t, size_t place)
{
    t->items[place].next_free = t->free;
    t->free = place;
}

void sched_blames_remove(struct blame_table *t, uint32_t stage, uint64_t index)
{
    const uint64_t *place = sched_map_find(&t->index, stage, index);
    if (place != NULL) {
        place_free(t, (size_t)*place);
        sched_map_remove(&t->index, stage, index);
    }
}

void sched_blames_remove_stage(struct blame_table *t, uint32_t stage)
{
    if (t->index.count == 0) {
        return;
    }
    for (size_t i = 0; i < t->index.capacity; i++) {
        const struct map_slot *slot = &t->index.slots[i];
        if (slot->is_used && slot->group == stage) {
            place_free(t, (size_t)slot->value);
        }
    }
    sched_map_remove_group(&t->index, stage);
}

void sched_blame_died_on(struct blame *b, uint32_t vm, uint64_t now_ns)
{
    b->own_deaths++;
    b->since_ns = now_ns;
    for (uint32_t i = 0; i < b->vm_count; i++) {
        if (b->vms[i] == vm) {
            return;
        }
    }
    if (b->vm_count == BLAME_VMS) {
        memmove(b->vms, b->vms + 1, (BLAME_VMS - 1) * sizeof *b->vms);
        b->vm_count--;
    }
    b->vms[b->vm_count++] = vm;
}

size_t sched_blames_memory(const struct blame_table *t)
{
    return t->index.capacity * sizeof(struct map_slot) + t->capacity * sizeof *t->items;
}

/* --- VMs ----------------------------------------------------------------------------------- */

int sched_suspicions_reserve(struct suspicion_table *t, size_t n)
{
    size_t capacity = t->capacity > 0 ? t->capacity : 16;
    struct suspicion *items;
    if (n <= t->capacity) {
        return 0;
    }
    while (capacity < n) {
        capacity *= 2;
    }
    items = mem_realloc(t->items, capacity * sizeof *items);
    if (items == NULL) {
        return TRK_ENOMEM;
    }
    t->items = items;
    t->capacity = capacity;
    return 0;
}

void sched_suspicions_fini(struct suspicion_table *t)
{
    mem_free(t->items);
    memset(t, 0, sizeof *t);
}

struct suspicion *sched_suspicions_find(const struct suspicion_table *t, uint32_t vm)
{
    for (size_t i = 0; i < t->count; i++) {
        if (t->items[i].vm == vm) {
            return &t->items[i];
        }
    }
    return NULL;
}

void sched_suspicions_remove(struct suspicion_table *t, struct suspicion *entry)
{
    size_t at = (size_t)(entry - t->items);
    assert(at < t->count);
    t->count--;
    memmove(entry, entry + 1, (t->count - at) * sizeof *entry);
}
