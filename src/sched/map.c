/* SPDX-License-Identifier: MIT */
/* map.c - the hash table, see map.h. Linear probing; removal closes the gap, no tombstones. */
#include "sched/map.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

static size_t home_of(const struct map *m, uint32_t group, uint64_t key)
{
    uint64_t x = (key + 1) * UINT64_C(0x9E3779B97F4A7C15) ^
                 (uint64_t)(group + 1) * UINT64_C(0xC2B2AE3D27D4EB4F);
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    x ^= x >> 32;
    return (size_t)x & (m->capacity - 1);
}

/* The slot of the pair, or the free one where it would go. */
static size_t probe(const struct map *m, uint32_t group, uint64_t key)
{
    size_t i = home_of(m, group, key);
    while (m->slots[i].is_used && (m->slots[i].key != key || m->slots[i].group != group)) {
        i = (i + 1) & (m->capacity - 1);
    }
    return i;
}

int sched_map_reserve(struct map *m, size_t n)
{
    struct map grown = {.capacity = m->capacity > 0 ? m->capacity : 16};
    if (n > SIZE_MAX / 4) {
        return TRK_ENOMEM;
    }
    while (grown.capacity < 2 * n) {
        grown.capacity *= 2;
    }
    if (grown.capacity == m->capacity) {
        return 0;
    }
    grown.slots = mem_zalloc(grown.capacity, sizeof *grown.slots);
    if (grown.slots == NULL) {
        return TRK_ENOMEM;
    }
    for (size_t i = 0; i < m->capacity; i++) {
        if (m->slots[i].is_used) {
            sched_map_put(&grown, m->slots[i].group, m->slots[i].key, m->slots[i].value);
        }
    }
    mem_free(m->slots);
    *m = grown;
    return 0;
}

void sched_map_fini(struct map *m)
{
    mem_free(m->slots);
    memset(m, 0, sizeof *m);
}

uint64_t *sched_map_find(const struct map *m, uint32_t group, uint64_t key)
{
    size_t i;
    if (m->count == 0) {
        return NULL;
    }
    i = probe(m, group, key);
    return m->slots[i].is_used ? &m->slots[i].value : NULL;
}

uint64_t *sched_map_put(struct map *m, uint32_t group, uint64_t key, uint64_t value)
{
    size_t i;
    assert(2 * (m->count + 1) <= m->capacity);
    i = probe(m, group, key);
    assert(!m->slots[i].is_used);
    m->slots[i] =
        (struct map_slot){.key = key, .value = value, .group = group, .is_used = true};
    m->count++;
    return &m->slots[i].value;
}

/* Empties slot i and moves those behind it up that would not be found otherwise. */
static void remove_at(struct map *m, size_t i)
{
    size_t mask = m->capacity - 1;
    size_t next = i;
    assert(m->slots[i].is_used && m->count > 0);
    for (;;) {
        size_t home;
        m->slots[i].is_used = false;
        do {
            next = (next + 1) & mask;
            if (!m->slots[next].is_used) {
                m->count--;
                return;
            }
            home = home_of(m, m->slots[next].group, m->slots[next].key);
        } while (((next - home) & mask) < ((next - i) & mask)); /* found without slot i */
        m->slots[i] = m->slots[next];
        i = next;
    }
}

void sched_map_remove(struct map *m, uint32_t group, uint64_t key)
{
    if (m->count > 0) {
        size_t i = probe(m, group, key);
        if (m->slots[i].is_used) {
            remove_at(m, i);
        }
    }
}

void sched_map_remove_group(struct map *m, uint32_t group)
{
    for (size_t i = 0; i < m->capacity && m->count > 0; i++) {
        /* Removal may move another pair of the group here. What it moves over the end of the
         * table comes from the beginning, where none of the group is left. */
        while (m->slots[i].is_used && m->slots[i].group == group) {
            remove_at(m, i);
        }
    }
}
