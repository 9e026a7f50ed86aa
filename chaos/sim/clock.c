/* SPDX-License-Identifier: MIT */
/* clock.c - a binary heap of things due, and SplitMix64. */
#include "clock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

void *sim_alloc(size_t count, size_t size)
{
    void *p = mem_zalloc(count, size);
    if (p == NULL) {
        fprintf(stderr, "sim: out of memory (%zu times %zu bytes)\n", count, size);
        exit(3);
    }
    return p;
}

void *sim_grow(void *ptr, size_t count, size_t size)
{
    void *p = mem_realloc(ptr, count * size);
    if (p == NULL) {
        fprintf(stderr, "sim: out of memory (%zu times %zu bytes)\n", count, size);
        exit(3);
    }
    return p;
}

static bool is_before(const struct due *a, const struct due *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

void clock_at(struct clock *c, uint64_t at_ns, uint32_t what, uint32_t who, uint64_t arg)
{
    struct due due = {.at_ns = at_ns > c->now_ns ? at_ns : c->now_ns,
                      .order = c->order++,
                      .what = what,
                      .who = who,
                      .arg = arg};
    size_t at = c->count++;
    if (c->count > c->cap) {
        c->cap = c->cap > 0 ? c->cap * 2 : 64;
        c->heap = sim_grow(c->heap, c->cap, sizeof(*c->heap));
    }
    while (at > 0 && is_before(&due, &c->heap[(at - 1) / 2])) {
        c->heap[at] = c->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    c->heap[at] = due;
}

void clock_in(struct clock *c, uint64_t in_ns, uint32_t what, uint32_t who, uint64_t arg)
{
    clock_at(c, c->now_ns + in_ns, what, who, arg);
}

bool clock_next(struct clock *c, struct due *out)
{
    struct due last;
    size_t at = 0;
    if (c->count == 0) {
        return false;
    }
    *out = c->heap[0];
    last = c->heap[--c->count];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= c->count) {
            break;
        }
        if (child + 1 < c->count && is_before(&c->heap[child + 1], &c->heap[child])) {
            child++;
        }
        if (!is_before(&c->heap[child], &last)) {
            break;
        }
        c->heap[at] = c->heap[child];
        at = child;
    }
    c->heap[at] = last;
    assert(out->at_ns >= c->now_ns);
    c->now_ns = out->at_ns;
    return true;
}

void clock_fini(struct clock *c)
{
    mem_free(c->heap);
    c->heap = NULL;
    c->count = c->cap = 0;
}

/* --- dice ---------------------------------------------------------------------------------- */

uint64_t dice_mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t dice_next(struct dice *d)
{
    d->state += UINT64_C(0x9e3779b97f4a7c15);
    return dice_mix(d->state);
}

uint64_t dice_below(struct dice *d, uint64_t n)
{
    assert(n > 0);
    return dice_next(d) % n; /* the bias does not matter here */
}

uint64_t dice_between(struct dice *d, uint64_t lo, uint64_t hi)
{
    return lo + dice_below(d, hi - lo + 1);
}

uint64_t dice_scale(struct dice *d, uint64_t lo, uint64_t hi)
{
    unsigned doublings = 0;
    uint64_t top;
    assert(lo <= hi);
    while (doublings < 62 && (lo | 1) <= hi >> (doublings + 1)) {
        doublings++;
    }
    top = (lo | 1) << dice_below(d, doublings + 1);
    top = dice_between(d, top, 2 * top);
    return top < lo ? lo : top > hi ? hi : top;
}

bool dice_chance(struct dice *d, unsigned per_mille)
{
    return dice_below(d, 1000) < per_mille;
}
