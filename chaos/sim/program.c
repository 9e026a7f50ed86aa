/* SPDX-License-Identifier: MIT */
/* program.c - see program.h. */
#include "program.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sim.h"

static struct program_stage *stage_get(struct sim *s, uint32_t stage)
{
    assert(stage < s->plan.stages);
    return &s->program.stage[stage];
}

static void feed_soon(struct sim *s, uint32_t stage, uint64_t in_ns)
{
    struct program_stage *st = stage_get(s, stage);
    if (!st->has_feed && st->is_open && !st->is_closed) {
        st->has_feed = true;
        clock_in(&s->clock, in_ns, EVENT_FEED, stage, 0);
    }
}

/* The result that is next for the program, or NULL. */
static struct parcel *due(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (!s->plan.stage[stage].is_ordered) {
        return st->first;
    }
    return st->heap_count > 0 && st->heap[0]->first == st->taken ? st->heap[0] : NULL;
}

static void take_soon(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (!st->has_take && st->is_open && due(s, stage) != NULL) {
        st->has_take = true;
        clock_in(&s->clock, s->plan.stage[stage].take_ns, EVENT_TAKE, stage, 0);
    }
}

/* --- parcels ------------------------------------------------------------------------------- */

static void heap_push(struct program_stage *st, struct parcel *p)
{
    size_t at = st->heap_count++;
    if (st->heap_count > st->heap_cap) {
        st->heap_cap = st->heap_cap > 0 ? 2 * st->heap_cap : 8;
        st->heap = sim_grow(st->heap, st->heap_cap, sizeof(*st->heap));
    }
    while (at > 0 && p->first < st->heap[(at - 1) / 2]->first) {
        st->heap[at] = st->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    st->heap[at] = p;
}

static void heap_pop(struct program_stage *st)
{
    struct parcel *last = st->heap[--st->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= st->heap_count) {
            break;
        }
        if (child + 1 < st->heap_count && st->heap[child + 1]->first < st->heap[child]->first) {
            child++;
        }
        if (st->heap[child]->first >= last->first) {
            break;
        }
        st->heap[at] = st->heap[child];
        at = child;
    }
    st->heap[at] = last;
}

static void drop_parcels(struct program_stage *st)
{
    while (st->first != NULL) {
        struct parcel *p = st->first;
        st->first = p->next;
        parcel_free(p);
    }
    for (size_t i = 0; i < st->heap_count; i++) {
        parcel_free(st->heap[i]);
    }
    st->heap_count = 0;
}

void program_put(struct sim *s, struct parcel *p)
{
    struct program_stage *st = stage_get(s, p->stage);
    uint32_t stage = p->stage;
    p->next = NULL;
    if (s->plan.stage[stage].is_ordered) {
        heap_push(st, p);
    } else if (st->first == NULL) {
        st->first = st->last = p;
    } else {
        st->last->next = p;
        st->last = p;
    }
    take_soon(s, stage);
}

/* --- the life of a stage ------------------------------------------------------------------- */

static void finish(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    tell(s, "program", 0, "has finished stage %u", stage + 1);
    st->is_finished = true;
    st->is_open = false;
    s->program.finished++;
    farm_cancel(s, stage);
    drop_parcels(st);
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        s->program.stage[i].is_full = false; /* there is room now */
        feed_soon(s, i, 0);
    }
    sim_progress(s);
    if (s->program.finished == s->plan.stages) {
        s->is_over = true;
    }
}

static void finish_if_all(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (st->is_open && st->is_closed && st->taken == s->plan.stage[stage].elements) {
        if (!st->is_done) {
            sim_broken(s, "all of stage %u is delivered and it is not said to be done",
                       stage + 1);
        }
        finish(s, stage);
    }
}

void program_done(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (st->is_open && s->judge.stage[stage].recorded < s->plan.stage[stage].elements &&
        !s->judge.stage[stage].is_cancelled) {
        sim_broken(s, "stage %u is said to be done and %llu results are recorded", stage + 1,
                   (unsigned long long)s->judge.stage[stage].recorded);
    }
    st->is_done = true;
}

void program_on_open(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (st->is_finished) {
        return; /* cancelled before it began */
    }
    tell(s, "program", 0, "opens stage %u", stage + 1);
    st->is_open = true;
    farm_open_stage(s, stage);
    feed_soon(s, stage, 0);
}

void program_on_feed(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    const struct stage_plan *p = &s->plan.stage[stage];
    uint64_t open = st->added - st->taken, count, added;
    st->has_feed = false;
    if (!st->is_open || st->is_closed || st->is_full) {
        return;
    }
    if (st->added < p->elements) {
        if (open >= p->ahead) {
            return; /* goes on when something was taken */
        }
        count = dice_between(&s->dice, 1, p->block_max);
        count = count < p->elements - st->added ? count : p->elements - st->added;
        count = count < p->ahead - open ? count : p->ahead - open;
        added = farm_add(s, stage, st->added, count);
        added = added > 0 || count == 1 ? added : farm_add(s, stage, st->added, 1);
        if (added == 0) {
            st->is_full = true;
            return;
        }
        st->added += added;
        held_early(s);
        tell(s, "program", 0, "has added %llu of stage %u", (unsigned long long)st->added,
             stage + 1);
    }
    if (st->added < p->elements) {
        feed_soon(s, stage, p->pull_ns);
    } else if (!s->is_quiet && p->close_ns > 0) {
        st->has_feed = true; /* no other feeding */
        s->tally.faults[FAULT_LATE_CLOSE]++;
        clock_in(&s->clock, p->close_ns, EVENT_CLOSE, stage, 0);
    } else {
        program_on_close(s, stage);
    }
}

void program_on_close(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (st->is_open && !st->is_closed) {
        tell(s, "program", 0, "has no more for stage %u", stage + 1);
        st->is_closed = true;
        held_early(s);
        farm_close_input(s, stage);
        finish_if_all(s, stage);
    }
}

/* Takes what is left of the parcel that is due, or a part of it. */
static void take(struct sim *s, uint32_t stage, struct parcel *p)
{
    struct program_stage *st = stage_get(s, stage);
    uint64_t first = p->first + p->taken;
    uint32_t count = p->count - p->taken;
    bool is_restored = p->is_restored;
    if (!farm_output(s)) {
        return; /* nobody saw it */
    }
    if (count > 1 && dice_chance(&s->dice, 200)) {
        count = 1 + (uint32_t)dice_below(&s->dice, count);
    }
    for (uint32_t i = 0; i < count; i++) {
        judge_delivered(s, p);
        p->at += parcel_size(p, p->taken);
        p->taken++;
    }
    st->taken += count;
    tell(s, "program", 0, "takes %llu+%u of stage %u", (unsigned long long)first, count,
         stage + 1);
    if (p->taken == p->count) {
        if (s->plan.stage[stage].is_ordered) {
            heap_pop(st);
        } else {
            st->first = p->next;
        }
        parcel_free(p);
    }
    if (!is_restored) {
        farm_taken(s, stage, first, count);
    }
}

/* Ordered: a parcel of which a part was taken is due with the rest. */
static struct parcel *due_part(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (s->plan.stage[stage].is_ordered && st->heap_count > 0 && st->heap[0]->taken > 0) {
        return st->heap[0];
    }
    return due(s, stage);
}

void program_on_take(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    struct parcel *p;
    st->has_take = false;
    p = st->is_open ? due_part(s, stage) : NULL;
    if (p == NULL) {
        return;
    }
    take(s, stage, p);
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        s->program.stage[i].is_full = false; /* there may be room now */
        feed_soon(s, i, 0);
    }
    if (due_part(s, stage) != NULL && !st->has_take) {
        st->has_take = true;
        clock_in(&s->clock, s->plan.stage[stage].take_ns, EVENT_TAKE, stage, 0);
    }
    finish_if_all(s, stage);
}

void program_cancel(struct sim *s, uint32_t stage)
{
    struct program_stage *st = stage_get(s, stage);
    if (!st->is_finished && st->is_open) {
        tell(s, "program", 0, "wants no more of stage %u", stage + 1);
        s->tally.faults[FAULT_CANCEL]++;
        finish(s, stage);
    }
}

bool program_look(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        const struct stage_plan *p = &s->plan.stage[i];
        struct program_stage *st = stage_get(s, i);
        uint64_t left = 0;
        if (!st->is_open || p->endless == 0 || p->endless > st->added) {
            continue;
        }
        for (uint64_t k = 0; k < st->added; k++) {
            left += (s->judge.stage[i].fates[k].bits & FATE_RECORDED) == 0;
        }
        if (left == 1 && (s->judge.stage[i].fates[p->endless - 1].bits & FATE_RECORDED) == 0 &&
            (st->is_closed || st->added - st->taken >= p->ahead)) {
            program_cancel(s, i);
            return true;
        }
    }
    return false;
}

void program_start(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        clock_in(&s->clock, s->plan.stage[i].starts_ns, EVENT_OPEN, i, 0);
    }
}

void program_fini(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        drop_parcels(&s->program.stage[i]);
        mem_free(s->program.stage[i].heap);
    }
    memset(&s->program, 0, sizeof(s->program));
}
