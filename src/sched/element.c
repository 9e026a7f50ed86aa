/* SPDX-License-Identifier: MIT */
/* element.c - elements, their states and segments, see element.h. */
#include "sched/element.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sched/fault.h"

#define TO(s) (1u << ELEMENT_##s)
static const struct {
    const char *name;
    unsigned next; /* allowed states after this one */
} element_states[ELEMENT_STATE_COUNT] = {
    [ELEMENT_PENDING] = {"PENDING", TO(ASSIGNED) | TO(RETURNED)}, /* RETURNED: a late result */
    [ELEMENT_ASSIGNED] = {"ASSIGNED", TO(PENDING) | TO(RETURNED) | TO(FAILED)},
    [ELEMENT_RETURNED] = {"RETURNED", TO(RECORDED)},
    [ELEMENT_FAILED] = {"FAILED", TO(RECORDED)},
    [ELEMENT_RECORDED] = {"RECORDED", TO(DELIVERED)},
    [ELEMENT_DELIVERED] = {"DELIVERED", 0},
};

/* The only writer of an element's state. */
static inline void element_move(struct segments *g, struct element *e, enum element_state to)
{
    enum element_state from = sched_element_state(e);
    assert((element_states[from].next & (1u << to)) != 0);
    assert(g->in_state[from] > 0);
    e->where = (e->where & ~7u) | (unsigned)to;
    g->in_state[from]--;
    g->in_state[to]++;
}

const char *sched_element_state_name(enum element_state state)
{
    assert(state < ELEMENT_STATE_COUNT);
    return element_states[state].name;
}

void sched_element_blame(struct element *e, bool is_blamed)
{
    e->where = is_blamed ? e->where | 8u : e->where & ~8u;
}

static size_t ring_at(const struct segments *g, uint64_t number)
{
    return (size_t)number & (g->capacity - 1);
}

struct segment *sched_segments_of(const struct segments *g, uint64_t index)
{
    uint64_t number = index / SEGMENT_LENGTH;
    return number >= g->base && number < g->end ? g->ring[ring_at(g, number)] : NULL;
}

struct element *sched_segments_get(const struct segments *g, uint64_t index)
{
    struct segment *seg = index < g->added ? sched_segments_of(g, index) : NULL;
    return seg != NULL ? &seg->elements[index % SEGMENT_LENGTH] : NULL;
}

/* For an element that must be there. */
static struct element *element_at(const struct segments *g, uint64_t index)
{
    struct element *e = sched_segments_get(g, index);
    assert(e != NULL);
    return e;
}

static void came_back_set(struct segments *g, uint64_t index)
{
    struct segment *seg = sched_segments_of(g, index);
    unsigned at = (unsigned)(index % SEGMENT_LENGTH);
    assert(index < g->fresh);
    seg->came_back[at / 64] |= UINT64_C(1) << at % 64;
    if (seg->returned_words == 0) {
        sched_bits_set(&g->came_back, ring_at(g, index / SEGMENT_LENGTH));
    }
    seg->returned_words |= UINT64_C(1) << at / 64;
}

static void came_back_clear(struct segments *g, uint64_t index)
{
    struct segment *seg = sched_segments_of(g, index);
    unsigned at = (unsigned)(index % SEGMENT_LENGTH);
    assert((seg->came_back[at / 64] >> at % 64 & 1) != 0);
    seg->came_back[at / 64] &= ~(UINT64_C(1) << at % 64);
    if (seg->came_back[at / 64] == 0) {
        seg->returned_words &= ~(UINT64_C(1) << at / 64);
        if (seg->returned_words == 0) {
            sched_bits_clear(&g->came_back, ring_at(g, index / SEGMENT_LENGTH));
        }
    }
}

/* --- growing and shrinking --------------------------------------------------------------- */

void sched_segments_fini(struct segments *g)
{
    for (uint64_t n = g->base; n < g->end; n++) {
        mem_free(g->ring[ring_at(g, n)]);
    }
    mem_free(g->ring);
    sched_bits_fini(&g->came_back);
    memset(g, 0, sizeof *g);
}

/* Room in the ring for segments base..end-1. */
static int ring_reserve(struct segments *g, uint64_t end)
{
    struct segment **ring;
    struct bits came_back = {0};
    size_t capacity = g->capacity > 0 ? g->capacity : 4;
    if (end - g->base <= g->capacity) {
        return 0;
    }
    if (end - g->base > SCHED_BITS_MAX) {
        return TRK_ENOMEM;
    }
    while (capacity < end - g->base) {
        capacity *= 2;
    }
    ring = mem_zalloc(capacity, sizeof(struct segment *));
    if (ring == NULL || sched_bits_reserve(&came_back, capacity) < 0) {
        mem_free(ring);
        return TRK_ENOMEM;
    }
    for (uint64_t n = g->base; n < g->end; n++) {
        struct segment *seg = g->ring[ring_at(g, n)];
        ring[n & (capacity - 1)] = seg;
        if (seg != NULL && seg->returned_words != 0) {
            sched_bits_set(&came_back, (size_t)n & (capacity - 1));
        }
    }
    mem_free(g->ring);
    sched_bits_fini(&g->came_back);
    g->ring = ring;
    g->capacity = capacity;
    g->came_back = came_back;
    return 0;
}

int sched_segments_add(struct segments *g, uint64_t count, uint64_t bytes)
{
    uint64_t old_end = g->end;
    uint64_t last = g->added + count;
    uint64_t mean = count > 0 ? bytes / count + (bytes % count != 0) : 0;
    uint64_t end = last / SEGMENT_LENGTH + (last % SEGMENT_LENGTH != 0);
    if (end > g->end && ring_reserve(g, end) < 0) {
        return TRK_ENOMEM;
    }
    while (g->end < end) {
        struct segment *seg = mem_zalloc(1, sizeof *seg);
        if (seg == NULL) {
            while (g->end > old_end) {
                g->end--;
                mem_free(g->ring[ring_at(g, g->end)]);
                g->ring[ring_at(g, g->end)] = NULL;
                g->held--;
            }
            return TRK_ENOMEM;
        }
        g->ring[ring_at(g, g->end)] = seg;
        g->end++;
        g->held++;
    }
    while (g->added < last) {
        struct segment *seg = sched_segments_of(g, g->added);
        uint64_t n = SEGMENT_LENGTH - g->added % SEGMENT_LENGTH;
        n = n < last - g->added ? n : last - g->added;
        assert(seg != NULL && seg->filled == g->added % SEGMENT_LENGTH);
        seg->filled += (uint32_t)n;
        seg->live += (uint32_t)n;
        seg->bytes += mean * n;
        g->added += n;
    }
    g->in_state[ELEMENT_PENDING] += count;
    return 0;
}

static void segment_free(struct segments *g, uint64_t number)
{
    struct segment *seg = g->ring[ring_at(g, number)];
    assert(seg->live == 0 && seg->returned_words == 0);
    mem_free(seg);
    g->ring[ring_at(g, number)] = NULL;
    g->held--;
    while (g->base < g->end && g->ring[ring_at(g, g->base)] == NULL) {
        g->base++;
    }
}

/* --- the queue --------------------------------------------------------------------------- */

/* The lowest index that came back, or UINT64_MAX. */
static uint64_t came_back_first(const struct segments *g)
{
    size_t base, at;
    uint64_t number;
    const struct segment *seg;
    if (g->capacity == 0) {
        return UINT64_MAX;
    }
    base = ring_at(g, g->base);
    at = sched_bits_next(&g->came_back, base);
    if (at == SCHED_NONE) {
        at = sched_bits_next(&g->came_back, 0);
    }
    if (at == SCHED_NONE) {
        return UINT64_MAX;
    }
    number = g->base + ((at - base) & (g->capacity - 1));
    seg = g->ring[at];
    assert(seg != NULL && seg->returned_words != 0);
    at = (size_t)__builtin_ctzll(seg->returned_words);
    return number * SEGMENT_LENGTH + at * 64 + (size_t)__builtin_ctzll(seg->came_back[at]);
}

bool sched_segments_peek(const struct segments *g, uint64_t max, struct element_range *out)
{
    uint64_t first;
    const struct segment *seg;
    const struct element *e;
    assert(max > 0);
    if (g->in_state[ELEMENT_PENDING] == 0) {
        return false;
    }
    first = g->in_state[ELEMENT_PENDING] > g->added - g->fresh ? came_back_first(g) : UINT64_MAX;
    if (first == UINT64_MAX) {
        uint64_t left = g->added - g->fresh;
        *out = (struct element_range){.first = g->fresh, .count = left < max ? left : max};
        return true;
    }
    e = element_at(g, first);
    *out = (struct element_range){.first = first, .count = 1, .attempt = e->attempt,
                                  .is_blamed = sched_element_is_blamed(e)};
    seg = sched_segments_of(g, first);
    while (!out->is_blamed && out->count < max) {
        size_t at = (size_t)((first + out->count) % SEGMENT_LENGTH);
        e = &seg->elements[at];
        if (at == 0 || (seg->came_back[at / 64] >> at % 64 & 1) == 0 ||
            e->attempt != out->attempt || sched_element_is_blamed(e)) {
            break;
        }
        out->count++;
    }
    return true;
}

void sched_segments_assign(struct segments *g, const struct element_range *range, uint32_t vm,
                           uint32_t batch)
{
    bool is_fresh = range->first == g->fresh;
    assert(range->count > 0 && range->first <= g->fresh);
    assert(vm < ELEMENT_VM_MAX && batch < ELEMENT_BATCH_MAX);
    for (uint64_t i = range->first; i < range->first + range->count; i++) {
        struct element *e = element_at(g, i);
        if (!is_fresh) {
            came_back_clear(g, i);
        }
        element_move(g, e, ELEMENT_ASSIGNED);
        e->where = (e->where & 15u) | batch << 4 | vm << 8;
        if (e->attempt < UINT32_MAX) {
            e->attempt++;
        }
    }
    if (is_fresh) {
        g->fresh += range->count;
    }
}

void sched_segments_put_back(struct segments *g, uint64_t index, bool is_recalled)
{
    struct element *e = element_at(g, index);
    element_move(g, e, ELEMENT_PENDING);
    if (is_recalled) {
        assert(e->attempt > 0);
        e->attempt--;
    }
    came_back_set(g, index);
}

void sched_segments_finish(struct segments *g, uint64_t index, enum element_state to)
{
    struct element *e = element_at(g, index);
    assert(to == ELEMENT_RETURNED || to == ELEMENT_FAILED);
    if (sched_element_state(e) == ELEMENT_PENDING) {
        came_back_clear(g, index); /* a fresh element has no attempt that could report */
    }
    sched_element_blame(e, false);
    element_move(g, e, to);
}

bool sched_segments_are(const struct segments *g, uint64_t first, uint64_t count, unsigned states)
{
    if (first > g->added || count > g->added - first) {
        return false;
    }
    for (uint64_t i = first; i < first + count; i++) {
        const struct element *e = sched_segments_get(g, i);
        if (e == NULL || (states & (1u << sched_element_state(e))) == 0) {
            return false;
        }
    }
    return true;
}

void sched_segments_advance(struct segments *g, uint64_t first, uint64_t count,
                            enum element_state to)
{
    assert(to == ELEMENT_RECORDED || to == ELEMENT_DELIVERED);
    for (uint64_t i = first; i < first + count; i++) {
        struct segment *seg = sched_segments_of(g, i);
        element_move(g, &seg->elements[i % SEGMENT_LENGTH], to);
        if (to == ELEMENT_DELIVERED) {
            seg->live--;
            if (seg->live == 0 && seg->filled == SEGMENT_LENGTH) {
                segment_free(g, i / SEGMENT_LENGTH);
            }
        }
    }
}

uint64_t sched_segments_mean_bytes(const struct segments *g, uint64_t index)
{
    const struct segment *seg = sched_segments_of(g, index);
    return seg != NULL && seg->filled > 0 ? seg->bytes / seg->filled : 0;
}

size_t sched_segments_memory(const struct segments *g)
{
    return g->held * sizeof(struct segment) + g->capacity * sizeof(struct segment *) +
           sched_bits_memory(&g->came_back);
}

/* --- self-check ---------------------------------------------------------------------------- */

static void segment_check(const struct segments *g, uint64_t number, uint64_t seen[],
                          uint32_t stage)
{
    const struct segment *seg = g->ring[ring_at(g, number)];
    uint32_t live = 0;
    for (uint32_t at = 0; at < seg->filled; at++) {
        uint64_t index = number * SEGMENT_LENGTH + at;
        const struct element *e = &seg->elements[at];
        enum element_state state = sched_element_state(e);
        bool came_back = (seg->came_back[at / 64] >> at % 64 & 1) != 0;
        sched_must(state < ELEMENT_STATE_COUNT, "stage %u element %llu: state %d does not exist",
                   stage, (unsigned long long)index, (int)state);
        seen[state]++;
        live += state != ELEMENT_DELIVERED;
        sched_must(came_back == (state == ELEMENT_PENDING && index < g->fresh),
                   "stage %u element %llu: %s, but its bit in the queue is %d", stage,
                   (unsigned long long)index, sched_element_state_name(state), came_back);
        sched_must(index < g->fresh || (state == ELEMENT_PENDING && e->attempt == 0),
                   "stage %u element %llu: was never assigned, yet %s with attempt %u", stage,
                   (unsigned long long)index, sched_element_state_name(state), e->attempt);
        sched_must(state == ELEMENT_PENDING || e->attempt > 0,
                   "stage %u element %llu: %s without an attempt", stage,
                   (unsigned long long)index, sched_element_state_name(state));
        sched_must(!sched_element_is_blamed(e) || state == ELEMENT_PENDING ||
                       state == ELEMENT_ASSIGNED,
                   "stage %u element %llu: %s and still blamed", stage,
                   (unsigned long long)index, sched_element_state_name(state));
    }
    sched_must(live == seg->live, "stage %u segment %llu: %u live, counted %u", stage,
               (unsigned long long)number, seg->live, live);
    sched_must(live > 0 || seg->filled < SEGMENT_LENGTH, "stage %u segment %llu: not freed", stage,
               (unsigned long long)number);
    for (unsigned w = 0; w < 64; w++) {
        sched_must((seg->came_back[w] != 0) == ((seg->returned_words >> w & 1) != 0),
                   "stage %u segment %llu: word %u of the queue disagrees with its summary", stage,
                   (unsigned long long)number, w);
    }
    sched_must(sched_bits_test(&g->came_back, ring_at(g, number)) == (seg->returned_words != 0),
               "stage %u segment %llu: the set of segments disagrees", stage,
               (unsigned long long)number);
}

void sched_segments_check(const struct segments *g, uint32_t stage)
{
    uint64_t seen[ELEMENT_STATE_COUNT] = {0};
    uint64_t kept = 0;
    size_t held = 0;
    sched_bits_check(&g->came_back);
    for (uint64_t n = g->base; n < g->end; n++) {
        const struct segment *seg = g->ring[ring_at(g, n)];
        if (seg != NULL) {
            segment_check(g, n, seen, stage);
            held++;
            kept += seg->filled;
        }
    }
    seen[ELEMENT_DELIVERED] += g->added - kept; /* in segments that were freed */
    for (int i = 0; i < ELEMENT_STATE_COUNT; i++) {
        sched_must(seen[i] == g->in_state[i], "stage %u: %llu elements %s, counted %llu", stage,
                   (unsigned long long)g->in_state[i],
                   sched_element_state_name((enum element_state)i), (unsigned long long)seen[i]);
    }
    sched_must(held == g->held && g->fresh <= g->added,
               "stage %u: %zu segments held, counted %zu", stage, g->held, held);
}
