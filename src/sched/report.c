/* SPDX-License-Identifier: MIT */
/* report.c - what VMs and the program report about elements.
 *
 * A result counts if its element has none yet and its attempt was ever made, whoever sends it:
 * the VM it is assigned to now, one that was given up, one that got it before a re-issue. The
 * copy that still runs elsewhere is then no longer waited for, and what it reports is dropped.
 * Everything else in a report is an event with an outcome: SCHED_DROP, counted.
 *
 * A result that an earlier epoch handed over counts likewise, but nobody here ever made its
 * attempt, and nobody here knows how long it took. The run that it overtakes may have hours to go,
 * and is stopped. Its failures count only where the first failure is the last: else the element
 * simply has its tries in this epoch.
 *
 * A failure is a result too if its element has no retries left. Otherwise it is counted, and its
 * run is over: the element waits for its next try, unless it runs elsewhere. The same failure may
 * be reported twice, and no element may be given up for that: after the first failure only those
 * of its present runs count. */
#include <assert.h>

#include "base/mark.h"
#include "base/mutate.h"
#include "sched/core.h"

enum verdict { DROPPED, STORED, RETRIED };

/* Is the report about this run? */
static bool is_from(const struct batch *b, const struct sched_event *ev)
{
    return b != NULL && b->vm->number == ev->vm && b->attempt == ev->attempt;
}

static bool is_wanted(const struct element *e, const struct sched_event *ev)
{
    enum element_state state = e != NULL ? sched_element_state(e) : ELEMENT_DELIVERED;
    return (MUTATE(DROP_LATE, false, state == ELEMENT_PENDING) || state == ELEMENT_DELAYED ||
            state == ELEMENT_ASSIGNED ||
            MUTATE(HANDED_TWICE, e != NULL && ev->vm == SCHED_NO_VM, false)) &&
           MUTATE(NO_ATTEMPT_CHECK, true,
                  ev->vm == SCHED_NO_VM || (ev->attempt > 0 && ev->attempt <= e->attempt));
}

/* What becomes of an element that the report is about, as far as the table can tell. */
static enum verdict element_judge(const struct sched *s, const struct stage *st,
                                  const struct sched_event *ev, uint64_t index,
                                  const struct element *e)
{
    uint32_t failures;
    if (!is_wanted(e, ev)) {
        return DROPPED;
    }
    if (ev->type == SCHED_RESULT) {
        return STORED;
    }
    if (ev->vm == SCHED_NO_VM && st->retries > 0) {
        MARK("an earlier epoch's failure is dropped: there are retries");
        return DROPPED;
    }
    failures = sched_segments_failures(&st->elements, index);
    if (failures > 0) {
        const struct batch *b =
            sched_element_state(e) == ELEMENT_ASSIGNED ? sched_batch_of(s, e) : NULL;
        if (!is_from(b, ev) && (b == NULL || !is_from(sched_batch_second(b, index), ev))) {
            MARK("a failure that may have been counted is dropped");
            return DROPPED;
        }
    }
    return failures < st->retries ? RETRIED : STORED;
}

struct split {
    struct vm *touched;   /* its batches have changed, sched_vm_refresh() is due */
    uint64_t stored;      /* elements stored */
    uint64_t retried;     /* elements to be tried again */
    uint32_t whole;       /* size of the largest batch that ended */
    uint32_t runs;        /* actions given */
    uint64_t overtaken;   /* actions given to stop runs that an earlier epoch's result overtakes */
};

/* Tells the VM of a run that an earlier epoch's result overtakes, while there is room for such
 * actions, that is for all but reports full of holes. Untold it goes on, and its report is
 * dropped. */
static void run_overtake(struct sched *s, const struct batch *b, uint64_t index,
                         struct split *split)
{
    MARK("a run is cancelled, an earlier epoch had its result");
    if (split->overtaken < (uint64_t)2 * s->opt.in_flight * s->vms.count) {
        size_t before = s->action_count;
        sched_run_cancel(s, b, index);
        split->overtaken += s->action_count - before;
    }
}

/* Takes an element's result; returns the batch it was assigned to or NULL. */
static struct batch *element_take(struct sched *s, struct stage *st, const struct sched_event *ev,
                                  uint64_t index, const struct element *e, struct split *split)
{
    struct batch *b = NULL;
    if (sched_element_state(e) == ELEMENT_ASSIGNED) {
        struct batch *second;
        b = sched_batch_of(s, e);
        second = sched_batch_second(b, index);
        if (second != NULL) {
            if (!is_from(second, ev)) {
                MARK("a second run is cancelled");
                sched_run_cancel(s, second, index);
            }
            if (!is_from(b, ev)) {
                MARK("a first run is cancelled, the second or a late one won");
                sched_run_cancel(s, b, index);
            }
            sched_second_end(s, second);
        } else if (ev->vm == SCHED_NO_VM) {
            run_overtake(s, b, index, split);
        }
        b->left--;
    }
    if (sched_element_is_blamed(e)) {
        sched_blame_clear(s, st, index, ev->vm);
    }
    sched_segments_finish(&st->elements, index, ELEMENT_RETURNED);
    return b;
}

/* A run that has not brought a result is over. The other one goes on if there is one; otherwise
 * the element is still assigned, and has left its batch. Returns whether it has. */
static bool run_leave(struct sched *s, struct batch *b, uint64_t index, bool has_failed)
{
    struct batch *second = sched_batch_second(b, index);
    if (second == NULL) {
        b->left--;
        return true;
    }
    MARK("the second run goes on, the first one failed or was given back");
    sched_batch_promote(second);
    second->may_double = second->may_double && !has_failed;
    sched_vm_refresh(&s->vms, second->vm);
    return false;
}

/* Counts a failed run; the next one waits, if none is under way, and what is under way gets no
 * second run again: that would be a try without a wait. Returns the batch that has lost
 * the element or NULL. */
static struct batch *element_retry(struct sched *s, struct stage *st, const struct sched_event *ev,
                                   uint64_t index, const struct element *e)
{
    struct batch *b = NULL;
    bool is_free = true;
    if (MUTATE(FAILURE_UNCOUNTED, false, true)) {
        sched_segments_count_failure(&st->elements, index);
    }
    st->retried++;
    if (sched_element_state(e) == ELEMENT_ASSIGNED) {
        b = sched_batch_of(s, e);
        if (is_from(b, ev)) {
            is_free = run_leave(s, b, index, true);
        } else {
            struct batch *second = sched_batch_second(b, index);
            if (is_from(second, ev)) {
                MARK("the first run goes on, the second one failed");
                b->may_double = false;
                sched_second_end(s, second);
            } /* else a late one: what is under way is the next try */
            b = NULL;
            is_free = false;
        }
    }
    if (is_free) {
        uint32_t failures = sched_segments_failures(&st->elements, index);
        sched_segments_delay(&st->elements, index, sched_stage_retry_ms(st, failures, s->now_ns));
    }
    return b;
}

static void run_end(struct sched *s, const struct stage *st, const struct sched_event *ev,
                    uint64_t first, uint64_t count, bool is_stored)
{
    if (count == 0) {
        return;
    }
    sched_action_range(s, is_stored ? SCHED_STORE : SCHED_DROP, st, first, count);
    s->actions[s->action_count - 1].vm = ev->vm;
    s->actions[s->action_count - 1].attempt = ev->attempt;
}

/* Drops what the VM reports although it is wanted; what that VM had to do of it runs again. */
static struct batch *element_redo(struct sched *s, struct stage *st, const struct sched_event *ev,
                                  uint64_t index, const struct element *e)
{
    struct batch *b, *second;
    if (sched_element_state(e) != ELEMENT_ASSIGNED) {
        return NULL;
    }
    b = sched_batch_of(s, e);
    second = sched_batch_second(b, index);
    if (second != NULL && second->vm->number == ev->vm) {
        sched_second_end(s, second);
        return NULL;
    }
    if (b->vm->number != ev->vm) {
        return NULL;
    }
    if (run_leave(s, b, index, false)) {
        sched_segments_put_back(&st->elements, index, false);
    }
    return b;
}

/* A batch has lost an element to the report. */
static void split_touch(struct sched *s, struct split *split, struct batch *b)
{
    if (split->touched != NULL && split->touched != b->vm) {
        sched_vm_refresh(&s->vms, split->touched);
    }
    split->touched = b->vm;
    if (b->left == 0) {
        split->whole = b->count > split->whole ? b->count : split->whole;
        sched_batch_end(b);
    }
}

/* Splits the report into runs to store and runs to drop. The room for actions is bounded: a
 * report that would need more runs than a batch has elements (none of ours does) loses its end. */
static void result_split(struct sched *s, struct stage *st, const struct sched_event *ev,
                         struct split *split)
{
    uint64_t end = ev->first + ev->count;
    uint64_t added = st->elements.added;
    uint64_t run = ev->first;
    bool is_run_stored = false;
    for (uint64_t i = ev->first; i < end && i < added; i++) {
        const struct element *e = sched_segments_get(&st->elements, i);
        bool has_room = split->runs < s->opt.batch_max + 2;
        enum verdict verdict = element_judge(s, st, ev, i, e);
        bool is_stored = verdict == STORED && has_room;
        struct batch *b = NULL;
        if (is_stored != is_run_stored) {
            run_end(s, st, ev, run, i - run, is_run_stored);
            split->runs++;
            run = i;
            is_run_stored = is_stored;
        }
        if (is_stored) {
            b = element_take(s, st, ev, i, e, split);
            split->stored++;
        } else if (verdict == RETRIED) {
            b = element_retry(s, st, ev, i, e);
            split->retried++;
        } else if (verdict == STORED) {
            b = element_redo(s, st, ev, i, e);
        }
        if (b != NULL) {
            split_touch(s, split, b);
        }
    }
    if (is_run_stored && end > added) {
        run_end(s, st, ev, run, added - run, true);
        run = added;
        is_run_stored = false;
    }
    run_end(s, st, ev, run, end - run, is_run_stored);
    st->dropped += ev->count - split->stored - split->retried;
    if (split->touched != NULL) {
        sched_vm_refresh(&s->vms, split->touched);
    }
}

/* RESULT and FAILED. */
int sched_on_result(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    struct split split = {0};
    if (ev->count == 0) {
        return 0;
    }
    if (st == NULL || st->is_cancelled || ev->first > UINT64_MAX - ev->count) {
        struct sched_action *a = sched_action_add(s, SCHED_DROP);
        MARK("a report about no stage is dropped");
        a->stage = ev->stage;
        a->vm = ev->vm;
        a->attempt = ev->attempt;
        a->first = ev->first;
        a->count = ev->count;
        if (st != NULL) {
            st->dropped += ev->count;
        }
        return 0;
    }
    result_split(s, st, ev, &split);
    sched_stage_settle(s, st);
    if (split.stored + split.retried == 0) {
        return 0;
    }
    if (ev->type == SCHED_FAILED) {
        st->failed += split.stored;
    } else {
        st->failed += ev->failed < split.stored ? ev->failed : split.stored;
    }
    if (split.retried == 0 && ev->vm != SCHED_NO_VM) {
        /* What is tried again says nothing about how long it takes. */
        sched_stage_measure(st, ev->busy_ns, ev->count, s->opt.batch_ns, s->opt.batch_max);
        if (split.whole > 0) {
            sched_stage_grow(st, split.whole, s->opt.batch_ns, s->opt.batch_max);
        }
    }
    if (vm != NULL) {
        if (vm->futile > 0) {
            MARK("a VM that gave nothing back may be asked again");
        }
        sched_vm_report(vm, s->now_ns);
    }
    return 0;
}

int sched_on_recorded(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    if (st != NULL && st->is_cancelled) {
        return 0; /* was under way when the stage was cancelled */
    }
    if (st == NULL || !sched_segments_are(&st->elements, ev->first, ev->count,
                                          1u << ELEMENT_RETURNED | 1u << ELEMENT_FAILED)) {
        return TRK_EINVAL;
    }
    if (ev->count > 0) {
        sched_segments_advance(&st->elements, ev->first, ev->count, ELEMENT_RECORDED);
        sched_action_range(s, SCHED_DELIVER, st, ev->first, ev->count);
        sched_stage_settle(s, st);
    }
    return 0;
}

int sched_on_delivered(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    if (st != NULL && st->is_cancelled) {
        return 0;
    }
    if (st == NULL ||
        !sched_segments_are(&st->elements, ev->first, ev->count, 1u << ELEMENT_RECORDED)) {
        return TRK_EINVAL;
    }
    assert(s->live >= ev->count);
    s->live -= ev->count;
    sched_segments_advance(&st->elements, ev->first, ev->count, ELEMENT_DELIVERED);
    return 0;
}

/* Puts back what of [first, end) is still assigned to the batch, unless it runs elsewhere too.
 * Returns how many. */
static uint64_t batch_put_back(struct sched *s, struct batch *b, uint64_t first, uint64_t end,
                               bool was_started)
{
    struct segments *g = &b->stage->elements;
    uint64_t n = 0;
    uint64_t batch_end = b->first + b->count;
    first = first > b->first ? first : b->first;
    end = end < batch_end ? end : batch_end;
    for (uint64_t i = first; i < end; i++) {
        const struct element *e = sched_batch_element(b, i);
        if (e == NULL) {
            continue;
        }
        n++;
        if (b->is_second) {
            struct vm *vm = b->twin->vm;
            MARK("a second run is given back");
            sched_batch_unpair(b);
            sched_vm_refresh(&s->vms, vm);
            break;
        }
        if (run_leave(s, b, i, false)) {
            /* An attempt that was made elsewhere meanwhile is not taken back. */
            sched_segments_put_back(g, i, e->attempt == b->attempt &&
                                              MUTATE(MOVED_UNCOUNTED, true, !was_started));
        }
    }
    return n;
}

static bool is_answer(const struct vm *vm, const struct stage *st, const struct sched_event *ev)
{
    return st != NULL && vm->recall == st &&
           (ev->count == 0 || (ev->first < vm->recall_first + vm->recall_count &&
                               vm->recall_first < ev->first + ev->count));
}

int sched_on_recalled(struct sched *s, const struct sched_event *ev)
{
    struct stage *st = sched_stage_find(s, ev->stage);
    struct vm *vm = sched_vms_find(&s->vms, ev->vm);
    struct list *pos, *tmp;
    bool was_started = (ev->flag & SCHED_RECALLED_STARTED) != 0;
    uint64_t returned = 0;
    if (ev->first > UINT64_MAX - ev->count || st == NULL || st->is_cancelled) {
        return 0; /* about a stage that has gone meanwhile */
    }
    if (vm != NULL) {
        list_for_each_safe(pos, tmp, &vm->queue) {
            struct batch *b = container_of(pos, struct batch, in_vm);
            if (b->stage == st) {
                returned += batch_put_back(s, b, ev->first, ev->first + ev->count, was_started);
                if (b->left == 0) {
                    sched_batch_end(b);
                }
            }
        }
        if (was_started && returned > 0) {
            MARK("an element was given back in the middle");
            sched_vm_report(vm, s->now_ns); /* it goes on with the next element now */
        } else if (!was_started && is_answer(vm, st, ev)) {
            sched_vm_recall_end(&s->vms, vm);
            if (returned == 0) {
                MARK("a recall gave nothing back");
                sched_vm_recall_futile(vm, s->now_ns);
            }
        }
        sched_vm_refresh(&s->vms, vm);
        sched_stage_settle(s, st);
    }
    st->dropped += ev->count - returned;
    return 0;
}
