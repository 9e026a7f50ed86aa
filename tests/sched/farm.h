/* SPDX-License-Identifier: MIT */
/* farm.h - a pretended farm on a virtual clock: the VMs, and what happens on them.
 *
 * A VM takes batches, runs their elements one by one, and sends what came of it in runs of results
 * and of failures. What happened to each element is noted here, for judge.h to compare with what
 * the scheduler makes of it. */
#ifndef TESTS_SCHED_FARM_H
#define TESTS_SCHED_FARM_H

#include <stdio.h>
#include <string.h>

#include "sched/sched.h"
#include "timeline.h"

#define VMS_MAX 24
#define STAGES_MAX 3
#define RUNS_MAX 64
#define NUMBERS_MAX 20000 /* VM numbers in one farm */
#define DIED_ON_MAX 4
#define US UINT64_C(1000)

struct run { /* a batch on a VM: elements [next, end) have not started */
    uint32_t stage, attempt;
    uint64_t next, end;
};

struct vm {
    uint32_t number;
    bool is_there;  /* for the scheduler */
    bool is_alive;  /* computes and reports; a cut-off one is alive without being there */
    bool is_draining;
    bool is_suspect;
    bool is_deadly;         /* whatever it runs ends it */
    uint64_t slowness;      /* percent of an element's duration */
    struct run runs[RUNS_MAX];
    size_t run_count;
    bool is_busy;
    uint64_t turn;           /* counts what it started: an end of something else is void */
    uint32_t stage, attempt; /* of what runs */
    uint64_t element;
    struct sched_event report; /* results not sent yet, or failures */
};

struct story { /* of an element */
    uint8_t stored, delivered, starts;
    uint8_t good, bad;    /* runs that ended, well or not */
    uint8_t own_deaths;   /* VMs it ended */
    uint8_t claims;       /* runs under way, as the scheduler must see it */
    uint32_t tried;       /* the highest attempt that was started */
    uint8_t died_on_count;
    struct {
        uint32_t vm, attempt;
    } claim[2];
    uint32_t died_on[DIED_ON_MAX]; /* numbers of VMs it ended, the first ones */
};

struct stage {
    uint64_t count, added;
    uint64_t short_ns;
    uint32_t retries;
    bool is_speculating;
    bool serves[VMS_MAX];  /* by place in the array of VMs */
    bool is_closed, is_cancelled, is_done, is_forgotten;
    struct story *stories;
    uint64_t recorded;
};

struct farm {
    struct sched *s;
    uint64_t seed, random, now_ns;
    struct timeline due; /* what is to come */
    struct vm vms[VMS_MAX];
    uint32_t incarnations[VMS_MAX];
    size_t vm_count;
    uint32_t next_number;
    struct stage stages[STAGES_MAX];
    size_t stage_count;
    unsigned faults; /* which are on */
    uint64_t faults_end_ns, latency_ns;
    uint32_t poison; /* one element in so many kills its VM */
    uint32_t max_own_deaths;
    uint32_t deadly_number;  /* of the VM that kills, if there is one */
    uint8_t against[NUMBERS_MAX]; /* elements that died on the VM and were completed elsewhere */
    bool is_blocked[NUMBERS_MAX];
    uint64_t steps, elements;
    bool is_told;
    bool is_even; /* all elements of a stage take the same time */
    uint64_t recorded_ns; /* when the last result was recorded */
    struct {
        uint64_t failures, retries, quarantines, blocks, doubles, cancels, restored, handed, moved;
    } seen;
};

enum { LOSE = 1, CUT_OFF = 2, TWICE = 4, DRAIN = 8, CANCEL = 16, POISON = 32, PIECES = 64,
       UNSERVE = 128, FORGE = 256, SUSPECT = 512, FAIL = 1024, DEADLY = 2048, BACK = 4096,
       STUCK = 8192, RESUMED = 16384, HANDED = 32768, MOVED = 65536, FAULTS_ALL = 131071 };
#define FAULT_KINDS 17
#define FORGED_ATTEMPT 100000u /* one that is never made */

static uint64_t draw(struct farm *f, uint64_t below)
{
    uint64_t z = (f->random += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return below > 0 ? (z ^ (z >> 31)) % below : 0;
}

#define MUST(f, condition, ...)                                                          \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "seed=%llu at %llu us, step %llu: ", (unsigned long long)(f)->seed, \
                    (unsigned long long)((f)->now_ns / US), (unsigned long long)(f)->steps);    \
            fprintf(stderr, __VA_ARGS__);                                                \
            fprintf(stderr, "\n  replay: SEED=%llu test_swarm\n", (unsigned long long)(f)->seed); \
            abort();                                                                     \
        }                                                                                \
    } while (0)

static void count_up(uint8_t *n)
{
    *n += *n < 255;
}

/* --- time ---------------------------------------------------------------------------------- */

static void post(struct farm *f, uint64_t delay_ns, struct message m)
{
    m.at_ns = f->now_ns + delay_ns;
    timeline_push(&f->due, m);
}

static uint64_t latency(struct farm *f)
{
    return 1 + draw(f, f->latency_ns);
}

static void post_event(struct farm *f, uint64_t delay_ns, const struct sched_event *ev)
{
    post(f, delay_ns, (struct message){.kind = TO_SCHED, .ev = *ev});
}

static void post_to_vm(struct farm *f, int kind, size_t at, const struct sched_action *a)
{
    post(f, latency(f),
         (struct message){.kind = kind, .vm = (uint32_t)at, .incarnation = f->incarnations[at],
                          .ev = {.stage = a->stage, .attempt = a->attempt, .first = a->first,
                                 .count = a->count}});
}

/* --- pretended VMs ------------------------------------------------------------------------- */

static void vm_flush(struct farm *f, struct vm *vm)
{
    if (vm->report.count > 0) {
        post_event(f, latency(f), &vm->report);
        if ((f->faults & TWICE) != 0 && draw(f, 4) == 0) {
            post_event(f, latency(f) * 3, &vm->report);
        }
        vm->report.count = 0;
    }
}

static bool is_poison(const struct farm *f, uint32_t stage, uint64_t index)
{
    return (f->faults & POISON) != 0 && (index * 67 + stage + f->seed) % f->poison == 0;
}

/* Some elements always fail, others now and then. */
static bool has_failed(struct farm *f, uint32_t stage, uint64_t index)
{
    return (f->faults & FAIL) != 0 &&
           ((index * 11 + stage + f->seed) % 17 == 0 || draw(f, 6) == 0);
}

static void vm_start_next(struct farm *f, size_t at)
{
    struct vm *vm = &f->vms[at];
    struct run *r = vm->runs;
    struct stage *st;
    uint64_t ns;
    if (vm->is_busy || vm->run_count == 0) {
        return;
    }
    st = &f->stages[r->stage];
    vm->is_busy = true;
    vm->turn++;
    vm->stage = r->stage;
    vm->attempt = r->attempt;
    vm->element = r->next++;
    count_up(&st->stories[vm->element].starts);
    if (vm->attempt > st->stories[vm->element].tried) {
        st->stories[vm->element].tried = vm->attempt;
    }
    if (r->next == r->end) {
        vm->run_count--;
        memmove(r, r + 1, vm->run_count * sizeof *r);
    }
    ns = st->short_ns * vm->slowness / 100;
    ns = f->is_even ? ns : ns / 2 + draw(f, ns);
    if ((f->faults & STUCK) != 0 && draw(f, 30) == 0) {
        ns = ns * 50 + 400000 * US;
    }
    post(f, ns, (struct message){.kind = ELEMENT_ENDS, .vm = (uint32_t)at,
                                 .incarnation = f->incarnations[at],
                                 .ev = {.busy_ns = ns, .first = vm->turn}});
}

static void vm_run(struct farm *f, const struct message *m)
{
    struct vm *vm = &f->vms[m->vm];
    MUST(f, vm->run_count < RUNS_MAX, "vm %u: %zu batches queued", vm->number, vm->run_count);
    vm->runs[vm->run_count++] =
        (struct run){.stage = m->ev.stage, .attempt = m->ev.attempt, .next = m->ev.first,
                     .end = m->ev.first + m->ev.count};
    vm_start_next(f, m->vm);
}

/* Gives back what has not started of a range, a message per run, one without elements if none. */
static void vm_recall(struct farm *f, const struct message *m)
{
    struct vm *vm = &f->vms[m->vm];
    struct sched_event ev = {.type = SCHED_RECALLED, .vm = vm->number, .stage = m->ev.stage,
                             .first = m->ev.first};
    bool is_any = false;
    for (size_t i = 0; i < vm->run_count; i++) {
        struct run *r = &vm->runs[i];
        uint64_t first = r->next > m->ev.first ? r->next : m->ev.first;
        if (r->stage != m->ev.stage || first >= r->end || r->end > m->ev.first + m->ev.count) {
            continue; /* only tails: that is what is asked for */
        }
        ev.first = first;
        ev.count = r->end - first;
        post_event(f, latency(f), &ev);
        is_any = true;
        r->end = first;
        if (r->next == r->end) {
            vm->run_count--;
            memmove(r, r + 1, (vm->run_count - i) * sizeof *r);
            i--;
        }
    }
    if (!is_any) {
        post_event(f, latency(f), &ev);
    }
}

/* Stops an element that is not needed any more, if that is what runs. */
static void vm_cancel_run(struct farm *f, const struct message *m)
{
    struct vm *vm = &f->vms[m->vm];
    if (vm->is_busy && vm->stage == m->ev.stage && vm->element >= m->ev.first &&
        vm->element - m->ev.first < m->ev.count && vm->attempt == m->ev.attempt) {
        vm->is_busy = false;
        vm_flush(f, vm); /* there may be nothing else to do */
        vm_start_next(f, m->vm);
    }
}

/* Gives back what it runs, in the middle. */
static void vm_move(struct farm *f, size_t at)
{
    struct vm *vm = &f->vms[at];
    struct sched_event ev = {.type = SCHED_RECALLED, .vm = vm->number, .stage = vm->stage,
                             .first = vm->element, .count = 1, .flag = SCHED_RECALLED_STARTED};
    if (vm->is_busy) {
        vm->is_busy = false;
        f->seen.moved++;
        vm_flush(f, vm);
        post_event(f, latency(f), &ev);
        vm_start_next(f, at);
    }
}

static void vm_lost(struct farm *f, size_t at, enum sched_cause cause, bool is_known)
{
    struct vm *vm = &f->vms[at];
    struct sched_event ev = {.type = SCHED_VM_LOST, .vm = vm->number, .cause = cause};
    if (is_known && vm->is_busy) {
        ev.has_element = true;
        ev.stage = vm->stage;
        ev.first = vm->element;
    }
    if (is_known && vm->is_busy && cause != SCHED_CAUSE_LOSS) {
        struct story *story = &f->stages[vm->stage].stories[vm->element];
        bool is_new = true;
        count_up(&story->own_deaths);
        for (uint32_t i = 0; i < story->died_on_count; i++) {
            is_new = is_new && story->died_on[i] != vm->number;
        }
        if (is_new && story->died_on_count < DIED_ON_MAX) {
            story->died_on[story->died_on_count++] = vm->number;
        }
    }
    vm->is_alive = false;
    vm->run_count = 0;
    vm->is_busy = false;
    vm->report.count = 0;
    f->incarnations[at]++; /* what is on its way to it is lost */
    if (vm->is_there) {
        post_event(f, 2 * f->latency_ns, &ev);
    }
}

static void vm_element_ends(struct farm *f, const struct message *m)
{
    struct vm *vm = &f->vms[m->vm];
    struct sched_event *r = &vm->report;
    struct story *story;
    enum sched_event_type type;
    if (!vm->is_busy || vm->turn != m->ev.first) {
        return; /* it was stopped */
    }
    if (is_poison(f, vm->stage, vm->element) || vm->is_deadly) {
        vm_flush(f, vm); /* most of the time what was finished is out already */
        vm_lost(f, m->vm, draw(f, 2) == 0 ? SCHED_CAUSE_OWN : SCHED_CAUSE_TIMEOUT, true);
        return;
    }
    vm->is_busy = false;
    story = &f->stages[vm->stage].stories[vm->element];
    type = has_failed(f, vm->stage, vm->element) ? SCHED_FAILED : SCHED_RESULT;
    count_up(type == SCHED_FAILED ? &story->bad : &story->good);
    if (r->count > 0 && (r->stage != vm->stage || r->attempt != vm->attempt || r->type != type ||
                         r->first + r->count != vm->element)) {
        vm_flush(f, vm);
    }
    if (r->count == 0) {
        *r = (struct sched_event){.type = type, .vm = vm->number, .stage = vm->stage,
                                  .attempt = vm->attempt, .first = vm->element};
    }
    r->count++;
    r->busy_ns += m->ev.busy_ns;
    if (vm->run_count == 0 || m->ev.busy_ns > 1000 * US ||
        ((f->faults & PIECES) != 0 && draw(f, 3) == 0)) {
        vm_flush(f, vm);
    }
    vm_start_next(f, m->vm);
}

/* The VM that is there under this number, or VMS_MAX. */
static size_t vm_by_number(const struct farm *f, uint32_t number)
{
    for (size_t i = 0; i < f->vm_count; i++) {
        if (f->vms[i].is_there && f->vms[i].number == number) {
            return i;
        }
    }
    return VMS_MAX;
}

#endif
