/* SPDX-License-Identifier: MIT */
/* judge.h - judges the scheduler's actions in a pretended farm (farm.h) by what went in and what
 * happened on the VMs; it knows nothing of the scheduler's tables. Carries the actions out, too. */
#ifndef TESTS_SCHED_JUDGE_H
#define TESTS_SCHED_JUDGE_H

#include "farm.h"

/* Is there a VM for the stage that is neither this one nor blocked nor about to leave? */
static bool is_another_usable(const struct farm *f, const struct stage *st, size_t than)
{
    for (size_t i = 0; i < f->vm_count; i++) {
        const struct vm *vm = &f->vms[i];
        if (i != than && vm->is_there && !vm->is_draining && !f->is_blocked[vm->number] &&
            (st == NULL || st->serves[i])) {
            return true;
        }
    }
    return false;
}

static void judge_assign(struct farm *f, const struct sched_action *a)
{
    struct stage *st = &f->stages[a->stage];
    size_t at = vm_by_number(f, a->vm);
    MUST(f, at < VMS_MAX && !f->vms[at].is_draining && st->serves[at],
         "stage %u assigned to vm %u, which is not for it", a->stage, a->vm);
    MUST(f, !f->vms[at].is_suspect, "stage %u assigned to vm %u, which is silent", a->stage, a->vm);
    MUST(f, !f->is_blocked[a->vm] || !is_another_usable(f, st, at),
         "stage %u assigned to vm %u, which is blocked", a->stage, a->vm);
    MUST(f, !st->is_cancelled && a->attempt > 0 && a->first + a->count <= st->added,
         "stage %u: assigned what is not there", a->stage);
    for (uint64_t i = a->first; i < a->first + a->count; i++) {
        struct story *story = &st->stories[i];
        MUST(f, story->stored == 0, "stage %u element %llu: assigned after its result", a->stage,
             (unsigned long long)i);
        MUST(f, story->claims == 0 || (story->claims == 1 && a->count == 1 && st->is_speculating &&
                                       st->is_closed && story->claim[0].vm != a->vm),
             "stage %u element %llu: assigned while it runs", a->stage, (unsigned long long)i);
        MUST(f, a->attempt > story->tried, "stage %u element %llu: attempt %u again", a->stage,
             (unsigned long long)i, a->attempt);
        f->seen.doubles += story->claims == 1;
        story->claim[story->claims].vm = a->vm;
        story->claim[story->claims++].attempt = a->attempt;
    }
    post_to_vm(f, TO_VM_RUN, at, a);
}

/* Runs of these elements on a VM are over. attempt 0: any. */
static void claims_end(struct stage *st, uint64_t first, uint64_t count, uint32_t vm,
                       uint32_t attempt)
{
    for (uint64_t i = first; i < first + count && i < st->added; i++) {
        struct story *story = &st->stories[i];
        for (uint8_t k = story->claims; k-- > 0;) {
            if (story->claim[k].vm == vm && (attempt == 0 || story->claim[k].attempt == attempt)) {
                story->claims--;
                story->claim[k] = story->claim[story->claims];
            }
        }
    }
}

/* What an event says about runs under way. */
static void judge_event(struct farm *f, const struct sched_event *ev)
{
    switch (ev->type) {
    case SCHED_VM_LOST:
        for (uint32_t i = 0; i < f->stage_count; i++) {
            claims_end(&f->stages[i], 0, f->stages[i].added, ev->vm, 0);
        }
        break;
    case SCHED_RECALLED:
        claims_end(&f->stages[ev->stage], ev->first, ev->count, ev->vm, 0);
        break;
    case SCHED_RESULT:
    case SCHED_FAILED:
        if (ev->attempt < FORGED_ATTEMPT) {
            claims_end(&f->stages[ev->stage], ev->first, ev->count, ev->vm, ev->attempt);
        }
        break;
    case SCHED_VM_UNBLOCK:
        f->is_blocked[ev->vm] = false;
        f->against[ev->vm] = 0;
        break;
    case SCHED_VM_JOINED:
    case SCHED_VM_DRAINING:
    case SCHED_VM_SUSPECT:
    case SCHED_STAGE_OPENED:
    case SCHED_STAGE_VM:
    case SCHED_WORK_ADDED:
    case SCHED_WORK_CLOSED:
    case SCHED_RECORDED:
    case SCHED_DELIVERED:
    case SCHED_CANCEL:
    case SCHED_STAGE_CLOSED:
    case SCHED_TICK:
    case SCHED_EVENT_COUNT:
        break;
    }
}

static void judge_story(struct farm *f, const struct sched_event *ev, const struct sched_action *a,
                        uint64_t i)
{
    const struct stage *st = &f->stages[a->stage];
    struct story *story = &st->stories[i];
    unsigned long long index = i;
    MUST(f, i < st->added, "stage %u element %llu: stored before it was added", a->stage, index);
    MUST(f, story->stored++ == 0, "stage %u element %llu: stored twice", a->stage, index);
    story->claims = 0;
    if (a->type == SCHED_FAIL) {
        MUST(f, story->own_deaths >= f->max_own_deaths,
             "stage %u element %llu: quarantined after %u deaths", a->stage, index,
             story->own_deaths);
        f->seen.quarantines++;
        return;
    }
    if (ev->type == SCHED_FAILED) {
        MUST(f, story->bad > st->retries, "stage %u element %llu: failed after %u of %u runs",
             a->stage, index, story->bad, st->retries + 1);
        f->seen.failures++;
    } else {
        MUST(f, story->good > 0, "stage %u element %llu: result out of thin air", a->stage, index);
    }
    f->seen.handed += a->vm == SCHED_NO_VM;
    for (uint32_t k = 0; k < story->died_on_count && a->vm != SCHED_NO_VM; k++) {
        if (story->died_on[k] != a->vm) {
            count_up(&f->against[story->died_on[k]]);
        }
    }
}

static void judge_store(struct farm *f, const struct sched_event *event,
                        const struct sched_action *a)
{
    const struct stage *st = &f->stages[a->stage];
    struct sched_event ev = {.type = SCHED_RECORDED, .stage = a->stage, .first = a->first,
                             .count = a->count};
    MUST(f, !st->is_cancelled, "stage %u: stored after its cancel", a->stage);
    for (uint64_t i = a->first; i < a->first + a->count; i++) {
        judge_story(f, event, a, i);
    }
    if (ev.count > 1 && draw(f, 4) == 0) { /* recorded in two goes, the later one first */
        uint64_t half = ev.count / 2;
        ev.first += half;
        ev.count -= half;
        post_event(f, latency(f), &ev);
        ev.first = a->first;
        ev.count = half;
    }
    post_event(f, latency(f), &ev);
}

static void judge_deliver(struct farm *f, const struct sched_action *a)
{
    struct stage *st = &f->stages[a->stage];
    struct sched_event ev = {.type = SCHED_DELIVERED, .stage = a->stage, .first = a->first,
                             .count = a->count};
    for (uint64_t i = a->first; i < a->first + a->count; i++) {
        MUST(f, st->stories[i].stored == 1 && st->stories[i].delivered++ == 0,
             "stage %u element %llu: delivered twice or unrecorded", a->stage,
             (unsigned long long)i);
    }
    st->recorded += a->count;
    f->recorded_ns = f->now_ns;
    post_event(f, latency(f) * 2, &ev);
}

static void judge_done(struct farm *f, const struct sched_action *a)
{
    struct stage *st = &f->stages[a->stage];
    MUST(f, !st->is_done, "stage %u: done twice", a->stage);
    MUST(f, st->is_cancelled || (st->is_closed && st->recorded == st->count),
         "stage %u: done with %llu of %llu recorded", a->stage, (unsigned long long)st->recorded,
         (unsigned long long)st->count);
    st->is_done = true;
    if (st->is_cancelled && draw(f, 2) == 0) {
        struct sched_event ev = {.type = SCHED_STAGE_CLOSED, .stage = a->stage};
        post_event(f, 10 * f->latency_ns, &ev);
    }
}

static void judge_block(struct farm *f, const struct sched_action *a)
{
    MUST(f, !f->is_blocked[a->vm], "vm %u: blocked twice", a->vm);
    MUST(f, is_another_usable(f, NULL, vm_by_number(f, a->vm)), "vm %u: the last one is blocked",
         a->vm);
    f->is_blocked[a->vm] = true;
    f->seen.blocks++;
}

static void judge_split(struct farm *f, const struct sched_event *ev,
                        const struct sched_actions *actions)
{
    uint64_t next = ev->first;
    for (size_t i = 0; i < actions->count; i++) {
        const struct sched_action *a = &actions->items[i];
        if (a->type == SCHED_STORE || a->type == SCHED_DROP) {
            MUST(f, a->first == next && a->count > 0, "a report was not split in order");
            next += a->count;
        }
    }
    MUST(f, next == ev->first + ev->count, "a report was not split whole");
}

/* By the end of the step, what a VM is told to stop has its result, or VMs have died of it too
 * often, and three elements that died on a blocked VM have theirs from elsewhere. */
static void judge_end(struct farm *f, const struct sched_actions *actions)
{
    for (size_t i = 0; i < actions->count; i++) {
        const struct sched_action *a = &actions->items[i];
        for (uint64_t k = 0; a->type == SCHED_CANCEL_RUN && k < a->count; k++) {
            MUST(f, f->stages[a->stage].stories[a->first + k].stored == 1,
                 "stage %u element %llu: stopped without a result", a->stage,
                 (unsigned long long)(a->first + k));
            f->seen.cancels++;
        }
        MUST(f, a->type != SCHED_BLOCK_VM || f->against[a->vm] >= 3,
             "vm %u: blocked for %u elements", a->vm, f->against[a->vm]);
    }
}

static void judge_one(struct farm *f, const struct sched_event *ev, const struct sched_action *a)
{
    size_t at;
    switch (a->type) {
    case SCHED_ASSIGN:
        judge_assign(f, a);
        break;
    case SCHED_RECALL:
    case SCHED_CANCEL_RUN:
        at = vm_by_number(f, a->vm);
        MUST(f, at < VMS_MAX, "vm %u is asked, but has gone", a->vm);
        post_to_vm(f, a->type == SCHED_RECALL ? TO_VM_RECALL : TO_VM_CANCEL_RUN, at, a);
        break;
    case SCHED_STORE:
        MUST(f, (ev->type == SCHED_RESULT || ev->type == SCHED_FAILED) &&
                    ev->attempt < FORGED_ATTEMPT, "a store without a result");
        judge_store(f, ev, a);
        break;
    case SCHED_FAIL:
        judge_store(f, ev, a);
        break;
    case SCHED_DELIVER:
        judge_deliver(f, a);
        break;
    case SCHED_DONE:
        judge_done(f, a);
        break;
    case SCHED_WAKE_AT:
        MUST(f, a->at_ns > f->now_ns, "woken in the past");
        post_event(f, a->at_ns - f->now_ns, &(struct sched_event){.type = SCHED_TICK});
        break;
    case SCHED_BLOCK_VM:
        judge_block(f, a);
        break;
    case SCHED_DROP:
        f->seen.retries += ev->type == SCHED_FAILED;
        break;
    case SCHED_ACTION_COUNT:
        break;
    }
}

static void judge(struct farm *f, const struct sched_event *ev, const struct sched_actions *actions)
{
    judge_event(f, ev);
    if (ev->type == SCHED_RESULT || ev->type == SCHED_FAILED) {
        judge_split(f, ev, actions);
    }
    for (size_t i = 0; i < actions->count; i++) {
        const struct sched_action a = actions->items[i];
        if (f->is_told) {
            fprintf(stderr, "    action %d stage %u vm %u try %u %llu+%llu\n", (int)a.type, a.stage,
                    a.vm, a.attempt, (unsigned long long)a.first, (unsigned long long)a.count);
        }
        judge_one(f, ev, &a);
    }
    judge_end(f, actions);
}

#endif
