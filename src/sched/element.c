/* SPDX-License-Identifier: MIT */
/* element.c - elements, their states and segments, see element.h. */
#include "sched/element.h"

#include <assert.h>
#include <string.h>

#include "base/mark.h"
#include "base/mem.h"
#include "sched/fault.h"

#define TO(s) (1u << ELEMENT_##s)
static const struct {
    const char *name;
    unsigned next; /* allowed states after this one */
} element_states[ELEMENT_STATE_COUNT] = {
    /* RETURNED from PENDING, DELAYED: a late result. DELAYED from PENDING: a late failure.
     * DELIVERED from PENDING: while it is added, as an earlier epoch recorded it. */
    [ELEMENT_PENDING] = {"PENDING", TO(ASSIGNED) | TO(RETURNED) | TO(DELAYED) | TO(DELIVERED)},
    [ELEMENT_ASSIGNED] = {"ASSIGNED",
                          TO(PENDING) | TO(DELAYED) | TO(RETURNED) | TO(FAILED)},
    [ELEMENT_RETURNED] = {"RETURNED", TO(RECORDED)},
    [ELEMENT_FAILED] = {"FAILED", TO(RECORDED)},
    [ELEMENT_RECORDED] = {"RECORDED", TO(DELIVERED)},
    [ELEMENT_DELIVERED] = {"DELIVERED", 0},
    [ELEMENT_DELAYED] = {"DELAYED", TO(PENDING) | TO(RETURNED)},
};

/* The only writer of an element's state. */
static inline void element_move(struct segments *g, struct element *e, enum element_state to)
{
    enum element_state from = sched_element_state(e);
    assert((element_states[from].next & (1u << to)) != 0);
    assert(g->in_state[from] > 0);
    MARK_MOVE("element", element_states, from, to);
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

static size_t segment_size(const struct segments *g)
{
    return sizeof(struct segment) + (g->has_failures ? SEGMENT_LENGTH * sizeof(uint16_t) : 0);
}

void sched_segments_fini(struct segments *g)
{
    for (uint64_t n = g->base; n < g->end; n++) {
        mem_free(g->ring[ring_at(g, n)]);
    }
    mem_free(g->ring);
    sched_bits_fini(&g->came_back);
    sched_bits_fini(&g->delayed);
    memset(g, 0, sizeof *g);
}

/* Room in the ring for segments base..end-1. */
static int ring_reserve(struct segments *g, uint64_t end)
{
    struct segment **ring;
    struct bits came_back = {0}, delayed = {0};
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
    if (ring == NULL || sched_bits_reserve(&came_back, capacity) < 0 ||
        (g->has_failures && sched_bits_reserve(&delayed, capacity) < 0)) {
        sched_bits_fini(&came_back);
        mem_free(ring);
        return TRK_ENOMEM;
    }
    for (uint64_t n = g->base; n < g->end; n++) {
        struct segment *seg = g->ring[ring_at(g, n)];
        ring[n & (capacity - 1)] = seg;
        if (seg != NULL && seg->returned_words != 0) {
            sched_bits_set(&came_back, (size_t)n & (capacity - 1));
        }
        if (seg != NULL && seg->delayed > 0) {
            sched_bits_set(&delayed, (size_t)n & (capacity - 1));
        }
    }
    mem_free(g->ring);
    sched_bits_fini(&g->came_back);
    sched_bits_fini(&g->delayed);
    g->ring = ring;
    g->capacity = capacity;
    g->came_back = came_back;
    g->delayed = delayed;
    return 0;
}

/* Makes the segments for elements up to last, but for those that the delivered ones fill. */
static int segments_make(struct segments *g, uint64_t last, bool are_delivered)
{
    uint64_t old_end = g->end;
    uint64_t end = last / SEGMENT_LENGTH + (last % SEGMENT_LENGTH != 0);
    if (end > g->end && ring_reserve(g, end) < 0) {
        return TRK_ENOMEM;
    }
    while (g->end < end) {
        bool is_needed = !are_delivered || last / SEGMENT_LENGTH == g->end;
        struct segment *seg = is_needed ? mem_zalloc(1, segment_size(g)) : NULL;
        if (is_needed && seg == NULL) {
            while (g->end > old_end) {
                g->end--;
                g->held -= g->ring[ring_at(g, g->end)] != NULL;
                mem_free(g->ring[ring_at(g, g->end)]);
                g->ring[ring_at(g, g->end)] = NULL;
            }
            return TRK_ENOMEM;
        }
        g->ring[ring_at(g, g->end)] = seg;
        g->end++;
        g->held += is_needed;
    }
    return 0;
}

/* The next n elements, of one segment, which is there unless they are DELIVERED and all of it. */
static void segment_fill(struct segments *g, struct segment *seg, uint64_t n, uint64_t mean_bytes)
{
    g->added += n;
    if (seg == NULL) {
        g->in_state[ELEMENT_DELIVERED] += n;
        return;
    }
    assert(seg->filled == (g->added - n) % SEGMENT_LENGTH);
    seg->filled += (uint32_t)n;
    seg->live += (uint32_t)n;
    seg->bytes += mean_bytes * n;
    g->in_state[ELEMENT_PENDING] += n;
}

/* How many of the elements up to last belong into the same segment as the next one. */
static uint64_t segment_share(const struct segments *g, uint64_t last)
{
    uint64_t n = SEGMENT_LENGTH - g->added % SEGMENT_LENGTH;
    return n < last - g->added ? n : last - g->added;
}

static uint64_t mean_of(uint64_t bytes, uint64_t count)
{
    return count > 0 ? bytes / count + (bytes % count != 0) : 0;
}

int sched_segments_add(struct segments *g, uint64_t count, uint64_t bytes)
{
    uint64_t last = g->added + count;
    if (segments_make(g, last, false) < 0) {
        return TRK_ENOMEM;
    }
    while (g->added < last) {
        struct segment *seg = sched_segments_of(g, g->added);
        assert(seg != NULL);
        segment_fill(g, seg, segment_share(g, last), mean_of(bytes, count));
    }
    return 0;
}

static void base_advance(struct segments *g)
{
    while (g->base < g->end && g->ring[ring_at(g, g->base)] == NULL) {
        g->base++;
    }
}

static void segment_free(struct segments *g, uint64_t number)
{
    struct segment *seg = g->ring[ring_at(g, number)];
    MARK("a segment whose elements were all delivered is freed");
    assert(seg->live == 0 && seg->returned_words == 0 && seg->delayed == 0);
    mem_free(seg);
    g->ring[ring_at(g, number)] = NULL;
    g->held--;
    base_advance(g);
}

/* What is fresh and below upto is found through the bits from now on. */
static void fresh_end(struct segments *g, uint64_t upto)
{
    assert(upto <= g->added);
    while (g->fresh < upto) {
        came_back_set(g, g->fresh++);
    }
}

/* DELIVERED, from whatever state; that may free the segment. */
static void deliver(struct segments *g, uint64_t index)
{
    struct segment *seg = sched_segments_of(g, index);
    element_move(g, &seg->elements[index % SEGMENT_LENGTH], ELEMENT_DELIVERED);
    seg->live--;
    if (seg->live == 0 && seg->filled == SEGMENT_LENGTH) {
        segment_free(g, index / SEGMENT_LENGTH);
    }
}

int sched_segments_add_delivered(struct segments *g, uint64_t count, uint64_t bytes)
{
    uint64_t last = g->added + count;
    if (segments_make(g, last, true) < 0) {
        return TRK_ENOMEM;
    }
    if (count > 0) {
        fresh_end(g, g->added);
    }
    while (g->added < last) {
        uint64_t first = g->added;
        struct segment *seg = sched_segments_of(g, first);
        segment_fill(g, seg, segment_share(g, last), mean_of(bytes, count));
        g->fresh = g->added;
        for (uint64_t i = first; seg != NULL && i < g->added; i++) {
            deliver(g, i);
        }
    }
    base_advance(g);
    return 0;
}

/* --- the queue --------------------------------------------------------------------------- */

/* The lowest index of a segment that came back and is not below from, or UINT64_MAX. */
static uint64_t came_back_in(const struct segment *seg, uint64_t number, uint64_t from)
{
    uint64_t start = number * SEGMENT_LENGTH;
    unsigned at = from > start ? (unsigned)(from - start) : 0; /* below SEGMENT_LENGTH */
    uint64_t word = seg->came_back[at / 64] & ~UINT64_C(0) << at % 64;
    unsigned w = at / 64;
    if (word == 0) {
        uint64_t later = w < 63 ? seg->returned_words & ~UINT64_C(0) << (w + 1) : 0;
        if (later == 0) {
            return UINT64_MAX;
        }
        w = (unsigned)__builtin_ctzll(later);
        word = seg->came_back[w];
    }
    return start + w * 64 + (unsigned)__builtin_ctzll(word);
}

/* The number of the first segment with came_back bits that is not below number, or UINT64_MAX. */
static uint64_t came_back_segment(const struct segments *g, uint64_t number)
{
    size_t start, at;
    if (number >= g->end) {
        return UINT64_MAX;
    }
    start = ring_at(g, number);
    at = sched_bits_next(&g->came_back, start);
    if (at == SCHED_NONE) {
        at = sched_bits_next(&g->came_back, 0);
    }
    if (at == SCHED_NONE) {
        return UINT64_MAX;
    }
    number += (at - start) & (g->capacity - 1);
    return number < g->end ? number : UINT64_MAX; /* round the ring: one below */
}

/* The lowest index that came back and is not below from, or UINT64_MAX. */
static uint64_t came_back_first(const struct segments *g, uint64_t from)
{
    uint64_t number = from / SEGMENT_LENGTH;
    uint64_t found = UINT64_MAX;
    number = came_back_segment(g, number > g->base ? number : g->base);
    while (number != UINT64_MAX && found == UINT64_MAX) {
        found = came_back_in(g->ring[ring_at(g, number)], number, from);
        if (found == UINT64_MAX) {
            number = came_back_segment(g, number + 1);
        }
    }
    return found;
}

bool sched_segments_peek(const struct segments *g, uint64_t from, uint64_t max,
                         struct element_range *out)
{
    uint64_t first;
    const struct segment *seg;
    const struct element *e;
    assert(max > 0 && from <= g->fresh);
    if (g->in_state[ELEMENT_PENDING] == 0) {
        return false;
    }
    first = UINT64_MAX;
    if (g->in_state[ELEMENT_PENDING] > g->added - g->fresh) {
        first = came_back_first(g, from);
    }
    if (first == UINT64_MAX) {
        uint64_t left = g->added - g->fresh;
        *out = (struct element_range){.first = g->fresh, .count = left < max ? left : max};
        return left > 0;
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

uint32_t sched_segments_again(struct segments *g, uint64_t index)
{
    struct element *e = element_at(g, index);
    assert(sched_element_state(e) == ELEMENT_ASSIGNED);
    if (e->attempt < UINT32_MAX) {
        e->attempt++;
    }
    return e->attempt;
}

void sched_segments_move(struct segments *g, uint64_t index, uint32_t vm, uint32_t batch)
{
    struct element *e = element_at(g, index);
    assert(sched_element_state(e) == ELEMENT_ASSIGNED);
    assert(vm < ELEMENT_VM_MAX && batch < ELEMENT_BATCH_MAX);
    e->where = (e->where & 15u) | batch << 4 | vm << 8;
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

/* --- failures and back-off --------------------------------------------------------------- */

uint32_t sched_segments_failures(const struct segments *g, uint64_t index)
{
    return g->has_failures ? sched_segments_of(g, index)->failures[index % SEGMENT_LENGTH] : 0;
}

void sched_segments_count_failure(struct segments *g, uint64_t index)
{
    uint16_t *failures = &sched_segments_of(g, index)->failures[index % SEGMENT_LENGTH];
    assert(g->has_failures && *failures < FAILURES_MAX);
    ++*failures;
}

void sched_segments_delay(struct segments *g, uint64_t index, uint64_t due_ms)
{
    struct segment *seg = sched_segments_of(g, index);
    struct element *e = element_at(g, index);
    if (sched_element_state(e) == ELEMENT_PENDING) {
        came_back_clear(g, index);
    }
    element_move(g, e, ELEMENT_DELAYED);
    e->where = (e->where & 15u) | (uint32_t)due_ms << 4;
    if (seg->delayed++ == 0) {
        sched_bits_set(&g->delayed, ring_at(g, index / SEGMENT_LENGTH));
        seg->due_ms = due_ms;
    }
    seg->due_ms = due_ms < seg->due_ms ? due_ms : seg->due_ms;
    if (g->in_state[ELEMENT_DELAYED] == 1 || due_ms < g->due_ms) {
        g->due_ms = due_ms;
    }
}

static void delayed_leave(struct segments *g, struct segment *seg, uint64_t index)
{
    assert(seg->delayed > 0);
    seg->delayed--;
    if (seg->delayed == 0) {
        sched_bits_clear(&g->delayed, ring_at(g, index / SEGMENT_LENGTH));
    }
}

static void segment_release(struct segments *g, struct segment *seg, uint64_t number,
                            uint64_t now_ms)
{
    uint64_t due_ms = UINT64_MAX;
    uint32_t left = seg->delayed;
    for (uint32_t at = 0; left > 0; at++) {
        struct element *e = &seg->elements[at];
        uint64_t index = number * SEGMENT_LENGTH + at;
        uint32_t wait_ms;
        if (sched_element_state(e) != ELEMENT_DELAYED) {
            continue;
        }
        left--;
        wait_ms = ((e->where >> 4) - (uint32_t)now_ms) & ((1u << 28) - 1);
        if (wait_ms > 0 && wait_ms <= DELAY_MAX_MS) {
            due_ms = now_ms + wait_ms < due_ms ? now_ms + wait_ms : due_ms;
        } else {
            delayed_leave(g, seg, index);
            element_move(g, e, ELEMENT_PENDING);
            came_back_set(g, index);
        }
    }
    seg->due_ms = due_ms;
}

void sched_segments_release(struct segments *g, uint64_t now_ms)
{
    uint64_t due_ms = UINT64_MAX;
    size_t at;
    if (g->due_ms > now_ms) {
        return;
    }
    for (at = sched_bits_next(&g->delayed, 0); at != SCHED_NONE;
         at = sched_bits_next(&g->delayed, at + 1)) {
        struct segment *seg = g->ring[at];
        uint64_t number = g->base + ((at - ring_at(g, g->base)) & (g->capacity - 1));
        if (seg->due_ms <= now_ms) {
            segment_release(g, seg, number, now_ms);
        }
        due_ms = seg->due_ms < due_ms ? seg->due_ms : due_ms;
    }
    g->due_ms = due_ms;
}

/* --- on to the end ----------------------------------------------------------------------- */

void sched_segments_finish(struct segments *g, uint64_t index, enum element_state to)
{
    struct element *e = element_at(g, index);
    assert(to == ELEMENT_RETURNED || to == ELEMENT_FAILED);
    if (sched_element_state(e) == ELEMENT_PENDING) {
        fresh_end(g, index < g->fresh ? g->fresh : index + 1); /* a result of an earlier epoch */
        came_back_clear(g, index);
    } else if (sched_element_state(e) == ELEMENT_DELAYED) {
        delayed_leave(g, sched_segments_of(g, index), index);
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
        if (to == ELEMENT_DELIVERED) {
            assert(sched_element_state(element_at(g, i)) == ELEMENT_RECORDED);
            deliver(g, i);
        } else {
            element_move(g, element_at(g, i), to);
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
    return g->held * segment_size(g) + g->capacity * sizeof(struct segment *) +
           sched_bits_memory(&g->came_back) + sched_bits_memory(&g->delayed);
}

/* --- self-check ---------------------------------------------------------------------------- */

static void segment_check(const struct segments *g, uint64_t number, uint64_t seen[],
                          uint32_t stage)
{
    const struct segment *seg = g->ring[ring_at(g, number)];
    uint32_t live = 0, delayed = 0;
    for (uint32_t at = 0; at < seg->filled; at++) {
        uint64_t index = number * SEGMENT_LENGTH + at;
        const struct element *e = &seg->elements[at];
        enum element_state state = sched_element_state(e);
        bool came_back = (seg->came_back[at / 64] >> at % 64 & 1) != 0;
        sched_must(state < ELEMENT_STATE_COUNT, "stage %u element %llu: state %d does not exist",
                   stage, (unsigned long long)index, (int)state);
        seen[state]++;
        live += state != ELEMENT_DELIVERED;
        delayed += state == ELEMENT_DELAYED;
        sched_must(came_back == (state == ELEMENT_PENDING && index < g->fresh),
                   "stage %u element %llu: %s, but its bit in the queue is %d", stage,
                   (unsigned long long)index, sched_element_state_name(state), came_back);
        sched_must(index < g->fresh || (state == ELEMENT_PENDING && e->attempt == 0),
                   "stage %u element %llu: was never assigned, yet %s with attempt %u", stage,
                   (unsigned long long)index, sched_element_state_name(state), e->attempt);
        sched_must(e->attempt > 0 || state == ELEMENT_PENDING || state == ELEMENT_RETURNED ||
                       state == ELEMENT_RECORDED || state == ELEMENT_DELIVERED,
                   "stage %u element %llu: %s without an attempt", stage,
                   (unsigned long long)index, sched_element_state_name(state));
        sched_must(!sched_element_is_blamed(e) || state == ELEMENT_PENDING ||
                       state == ELEMENT_ASSIGNED || state == ELEMENT_DELAYED,
                   "stage %u element %llu: %s and still blamed", stage,
                   (unsigned long long)index, sched_element_state_name(state));
    }
    sched_must(live == seg->live, "stage %u segment %llu: %u live, counted %u", stage,
               (unsigned long long)number, seg->live, live);
    sched_must(live > 0 || seg->filled < SEGMENT_LENGTH, "stage %u segment %llu: not freed", stage,
               (unsigned long long)number);
    sched_must(delayed == seg->delayed &&
                   sched_bits_test(&g->delayed, ring_at(g, number)) == (delayed > 0) &&
                   (delayed == 0 || seg->due_ms >= g->due_ms),
               "stage %u segment %llu: %u delayed, counted %u, the earliest not counted", stage,
               (unsigned long long)number, seg->delayed, delayed);
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
