/* SPDX-License-Identifier: MIT */
/* test_swarm.c - seeded random farms around the scheduler, judged by what went in and came out.
 *
 * A farm of pretended VMs (farm.h) on a virtual clock: messages take random times and overtake
 * each other, VMs are slow, die, fall silent and go on reporting, kill what they are given, come
 * back under their number, join, drain; elements kill VMs, fail now and then or always, get stuck;
 * reports come twice and in pieces; stages are cancelled; parts of them were recorded by an earlier
 * epoch, whose results also come late; what runs is given back in the middle. Each seed switches a
 * random subset of that on. After a while the faults stop, and then every stage must end. The
 * judge (judge.h) knows nothing of the scheduler's tables: it sees actions and the pretended VMs.
 *
 *   test_swarm           2,000 seeds
 *   SEED=17 test_swarm   one seed, with its story on stderr
 *   SEEDS=N test_swarm   N seeds */
#include "base/mem.h"
#include "judge.h"
#include "runner.h"

#define SEEDS 2000

/* --- the farm ------------------------------------------------------------------------------ */

static bool step(struct farm *f, const struct sched_event *ev)
{
    struct sched_actions actions;
    int rc;
    if (f->is_told) {
        fprintf(stderr, "%8llu us event %d stage %u vm %u try %u %llu+%llu\n",
                (unsigned long long)(f->now_ns / US), (int)ev->type, ev->stage, ev->vm, ev->attempt,
                (unsigned long long)ev->first, (unsigned long long)ev->count);
    }
    f->steps++;
    rc = sched_step(f->s, ev, f->now_ns, &actions);
    judge(f, ev, &actions);
    if (f->elements < 2000 || f->steps % 64 == 0) { /* it walks all elements */
        sched_check(f->s);
    }
    return rc == 0;
}

/* The number of a VM that joins: a new one, or one that was there before. */
static uint32_t number_for(struct farm *f)
{
    uint32_t number = f->next_number;
    if ((f->faults & BACK) != 0 && number > 0 && draw(f, 3) > 0) {
        number = (uint32_t)draw(f, number < 8 ? number : 8);
    }
    return vm_by_number(f, number) == VMS_MAX ? number : f->next_number;
}

static void vm_join(struct farm *f)
{
    size_t at = 0;
    struct vm *vm;
    while (at < f->vm_count && (f->vms[at].is_there || f->vms[at].is_alive)) {
        at++;
    }
    if (at == VMS_MAX) {
        return;
    }
    f->vm_count = at == f->vm_count ? at + 1 : f->vm_count;
    vm = &f->vms[at];
    *vm = (struct vm){.number = number_for(f), .is_alive = true,
                      .slowness = draw(f, 5) == 0 ? 1000 : 100};
    vm->is_there = true;
    vm->is_deadly = (f->faults & DEADLY) != 0 && vm->number == f->deadly_number;
    f->next_number += vm->number == f->next_number;
    MUST(f, f->next_number < NUMBERS_MAX, "more VMs than numbers");
    f->incarnations[at]++;
    MUST(f, step(f, &(struct sched_event){.type = SCHED_VM_JOINED, .vm = vm->number}), "join");
    for (uint32_t i = 0; i < f->stage_count; i++) {
        f->stages[i].serves[at] = true;
        if (!f->stages[i].is_forgotten) {
            MUST(f, step(f, &(struct sched_event){.type = SCHED_STAGE_VM, .stage = i,
                                                  .vm = vm->number, .flag = 1}), "serve");
        }
    }
}

static void vm_drain(struct farm *f, size_t at)
{
    struct vm *vm = &f->vms[at];
    if (!vm->is_draining) {
        vm->is_draining = true;
        MUST(f, step(f, &(struct sched_event){.type = SCHED_VM_DRAINING, .vm = vm->number}),
             "drain");
        if ((f->faults & MOVED) != 0 && vm->is_alive) {
            vm_move(f, at);
        }
        post_event(f, 100 * f->latency_ns,
                   &(struct sched_event){.type = SCHED_VM_LOST, .vm = vm->number,
                                         .cause = SCHED_CAUSE_EXPECTED});
    }
}

/* Silent for a while, if it is not given up before. */
static void vm_suspect(struct farm *f, size_t at)
{
    struct vm *vm = &f->vms[at];
    struct sched_event ev = {.type = SCHED_VM_SUSPECT, .vm = vm->number, .flag = 1};
    if (!vm->is_suspect) {
        vm->is_suspect = true;
        MUST(f, step(f, &ev), "suspect");
        ev.flag = 0;
        post_event(f, draw(f, 20 * f->latency_ns), &ev);
    }
}

static void unserve(struct farm *f, size_t at)
{
    uint32_t i = (uint32_t)draw(f, f->stage_count);
    struct stage *st = &f->stages[i];
    if (!st->is_forgotten && !f->vms[at].is_draining) {
        st->serves[at] = !st->serves[at];
        MUST(f, step(f, &(struct sched_event){.type = SCHED_STAGE_VM, .stage = i,
                                              .vm = f->vms[at].number, .flag = st->serves[at]}),
             "serve or not");
    }
}

static void cancel(struct farm *f, uint32_t stage)
{
    struct stage *st = &f->stages[stage];
    if (!st->is_cancelled && !st->is_done) {
        st->is_cancelled = true;
        MUST(f, step(f, &(struct sched_event){.type = SCHED_CANCEL, .stage = stage}), "cancel");
        MUST(f, st->is_done, "stage %u: cancelled but not done", stage);
    }
}

/* Results that an earlier epoch's VM had made, of any elements, known yet or not. */
static void hand_over(struct farm *f)
{
    uint32_t i = (uint32_t)draw(f, f->stage_count);
    struct stage *st = &f->stages[i];
    struct sched_event ev = {.type = SCHED_RESULT, .vm = SCHED_NO_VM, .stage = i,
                             .attempt = (uint32_t)draw(f, 3), .first = draw(f, st->count + 1),
                             .count = 1 + draw(f, 12)};
    for (uint64_t k = ev.first; k < ev.first + ev.count && k < st->count; k++) {
        count_up(&st->stories[k].good);
    }
    MUST(f, step(f, &ev), "a result of an earlier epoch was refused");
}

static void fault(struct farm *f)
{
    size_t at = draw(f, f->vm_count);
    struct vm *vm = &f->vms[at];
    unsigned which = 1u << draw(f, FAULT_KINDS);
    if (vm->is_there && vm->is_alive) {
        switch (which & f->faults) {
        case LOSE:
            vm_lost(f, at, SCHED_CAUSE_LOSS, draw(f, 2) == 0);
            break;
        case CUT_OFF: /* given up, but it goes on, and its reports arrive */
            vm->is_there = false;
            MUST(f, step(f, &(struct sched_event){.type = SCHED_VM_LOST, .vm = vm->number}), "cut");
            break;
        case DRAIN:
            vm_drain(f, at);
            break;
        case UNSERVE:
            unserve(f, at);
            break;
        case SUSPECT:
            vm_suspect(f, at);
            break;
        default:
            break;
        }
    }
    if ((which & f->faults) == CANCEL && draw(f, 8) == 0) {
        cancel(f, (uint32_t)draw(f, f->stage_count));
    }
    if ((which & f->faults) == DEADLY && draw(f, 4) == 0) {
        post_event(f, 1, &(struct sched_event){.type = SCHED_VM_UNBLOCK, .vm = vm->number});
    }
    if ((which & f->faults) == HANDED) {
        hand_over(f);
    }
    if ((which & f->faults) == FORGE) {
        enum sched_event_type type = draw(f, 2) == 0 ? SCHED_RESULT : SCHED_FAILED;
        post_event(f, 1, &(struct sched_event){.type = type, .vm = vm->number,
                                               .stage = (uint32_t)draw(f, STAGES_MAX + 1),
                                               .attempt = FORGED_ATTEMPT + (uint32_t)draw(f, 9),
                                               .first = draw(f, 50), .count = 1 + draw(f, 50)});
    }
    if (draw(f, 3) == 0) {
        vm_join(f);
    }
    if (f->now_ns < f->faults_end_ns) {
        post(f, 1 + draw(f, f->faults_end_ns / 40), (struct message){.kind = FAULT});
        return;
    }
    /* The quiet phase: enough VMs, all serving everything, nothing more goes wrong. */
    f->faults &= TWICE | PIECES | POISON | FAIL | DEADLY;
    vm_join(f);
    for (size_t i = 0; i < f->vm_count; i++) {
        for (uint32_t k = 0; k < f->stage_count; k++) {
            if (f->vms[i].is_there && !f->stages[k].serves[i]) {
                f->stages[k].serves[i] = true;
                (void)step(f, &(struct sched_event){.type = SCHED_STAGE_VM, .stage = k,
                                                    .vm = f->vms[i].number, .flag = 1});
            }
        }
    }
}

/* Adds elements that an earlier epoch recorded. */
static void grow_recorded(struct farm *f, uint32_t stage, uint64_t n)
{
    struct stage *st = &f->stages[stage];
    for (uint64_t i = st->added; i < st->added + n; i++) {
        st->stories[i].stored = st->stories[i].delivered = 1;
    }
    st->added += n;
    st->recorded += n;
    f->seen.restored += n;
    MUST(f, step(f, &(struct sched_event){.type = SCHED_WORK_ADDED, .stage = stage, .count = n,
                                          .flag = SCHED_WORK_RECORDED}), "add recorded");
}

/* The program adds some elements of each stage; the last ones close it. */
static void grow(struct farm *f)
{
    bool is_more = false;
    for (uint32_t i = 0; i < f->stage_count; i++) {
        struct stage *st = &f->stages[i];
        uint64_t n = 1 + draw(f, st->count / 2 + 1);
        if (st->is_closed || st->is_cancelled) {
            continue;
        }
        n = n < st->count - st->added ? n : st->count - st->added;
        if ((f->faults & RESUMED) != 0) {
            uint64_t recorded = draw(f, n + 1);
            grow_recorded(f, i, recorded);
            n -= recorded;
        }
        st->added += n;
        MUST(f, step(f, &(struct sched_event){.type = SCHED_WORK_ADDED, .stage = i, .count = n,
                                              .bytes = n * draw(f, 20000)}), "add");
        if (st->added == st->count) {
            st->is_closed = true;
            MUST(f, step(f, &(struct sched_event){.type = SCHED_WORK_CLOSED, .stage = i}), "close");
        }
        is_more = is_more || !st->is_closed;
    }
    if (is_more) {
        post(f, 1 + draw(f, f->faults_end_ns / 10), (struct message){.kind = GROW});
    }
}

static void arrive(struct farm *f, const struct sched_event *ev)
{
    size_t at = ev->type == SCHED_VM_LOST ? vm_by_number(f, ev->vm) : VMS_MAX;
    if (ev->type == SCHED_VM_LOST && at == VMS_MAX) {
        return; /* was given up before */
    }
    if (at < VMS_MAX) {
        struct vm *vm = &f->vms[at];
        if (vm->is_alive) { /* drained: it ends now */
            f->incarnations[at]++;
        }
        *vm = (struct vm){0};
    }
    if (ev->type == SCHED_VM_SUSPECT) {
        at = vm_by_number(f, ev->vm);
        if (at == VMS_MAX || !f->vms[at].is_suspect) {
            return; /* given up, and perhaps another one by now */
        }
        f->vms[at].is_suspect = false;
        at = VMS_MAX;
        MUST(f, step(f, ev), "event %d was refused", (int)ev->type);
        return;
    }
    if (ev->type == SCHED_STAGE_CLOSED) {
        f->stages[ev->stage].is_forgotten = true;
    }
    if ((ev->type == SCHED_RECORDED || ev->type == SCHED_DELIVERED) &&
        f->stages[ev->stage].is_forgotten) {
        MUST(f, !step(f, ev), "recorded in a stage that has gone");
        return;
    }
    MUST(f, step(f, ev), "event %d was refused", (int)ev->type);
    if (at < VMS_MAX) {
        vm_join(f); /* its supervisor starts it again */
    }
}

static void happen(struct farm *f, const struct message *m)
{
    bool is_current = m->incarnation == f->incarnations[m->vm] && f->vms[m->vm].is_alive;
    switch (m->kind) {
    case TO_SCHED:
        arrive(f, &m->ev);
        break;
    case TO_VM_RUN:
        if (is_current) {
            vm_run(f, m);
        }
        break;
    case TO_VM_RECALL:
        if (is_current) {
            vm_recall(f, m);
        }
        break;
    case TO_VM_CANCEL_RUN:
        if (is_current) {
            vm_cancel_run(f, m);
        }
        break;
    case ELEMENT_ENDS:
        if (is_current) {
            vm_element_ends(f, m);
        }
        break;
    case FAULT:
        fault(f);
        break;
    case GROW:
        grow(f);
        break;
    }
}

static void farm_begin(struct farm *f, uint64_t seed)
{
    static const uint64_t durations[] = {1 * US, 100 * US, 3000 * US, 50000 * US, 200000 * US};
    struct sched_options opt = {0};
    memset(f, 0, sizeof *f);
    f->seed = f->random = seed;
    f->faults = (unsigned)draw(f, FAULTS_ALL + 1);
    f->poison = 2 + (uint32_t)draw(f, 60);
    f->latency_ns = 20 * US + draw(f, 3000 * US);
    f->max_own_deaths = 1 + (uint32_t)draw(f, 4);
    f->deadly_number = (uint32_t)draw(f, 3);
    opt.max_own_deaths = f->max_own_deaths;
    opt.max_losses = 1000; /* losses here are nobody's fault */
    opt.in_flight = 1 + (uint32_t)draw(f, 3);
    opt.batch_max = draw(f, 3) == 0 ? 1 + (uint32_t)draw(f, 9) : 0;
    ck_assert_int_eq(sched_new(&f->s, &opt), 0);
    f->stage_count = 1 + draw(f, STAGES_MAX);
    for (uint32_t i = 0; i < f->stage_count; i++) {
        struct stage *st = &f->stages[i];
        st->short_ns = durations[draw(f, 5)];
        st->count = draw(f, draw(f, 4) == 0 ? 400 : 40);
        if (st->short_ns == US && draw(f, 40) == 0) {
            st->count = 9000 + draw(f, 5000); /* several segments */
            f->poison += 500;
        }
        f->elements += st->count;
        st->stories = calloc(st->count + 1, sizeof *st->stories);
        st->retries = (uint32_t)draw(f, 4);
        st->is_speculating = draw(f, 2) == 0;
        f->faults_end_ns += st->count * st->short_ns / 2;
        MUST(f, step(f, &(struct sched_event){.type = SCHED_STAGE_OPENED, .stage = i,
                                              .retries = st->retries,
                                              .backoff_ns = 1 + draw(f, 50000 * US),
                                              .flag = st->is_speculating}), "open");
    }
    f->faults_end_ns += 20 * f->latency_ns;
    for (uint64_t n = 1 + draw(f, 12); n > 0; n--) {
        vm_join(f);
    }
    post(f, draw(f, 2 * f->latency_ns), (struct message){.kind = GROW});
    post(f, draw(f, f->faults_end_ns), (struct message){.kind = FAULT});
}

static void farm_end(struct farm *f)
{
    for (uint32_t i = 0; i < f->stage_count; i++) {
        struct stage *st = &f->stages[i];
        MUST(f, st->is_done, "stage %u never ended: %llu of %llu recorded", i,
             (unsigned long long)st->recorded, (unsigned long long)st->count);
        for (uint64_t k = 0; k < st->count && !st->is_cancelled; k++) {
            MUST(f, st->stories[k].stored == 1 && st->stories[k].delivered == 1,
                 "stage %u element %llu: stored %d times, delivered %d times", i,
                 (unsigned long long)k, st->stories[k].stored, st->stories[k].delivered);
        }
        if (!st->is_forgotten) {
            MUST(f, step(f, &(struct sched_event){.type = SCHED_STAGE_CLOSED, .stage = i}),
                 "stage %u cannot be forgotten", i);
        }
        free(st->stories);
    }
    sched_free(f->s);
    free(f->due.heap);
}

/* The farm at its end, borrowed until the next one. */
static const struct farm *farm_run(uint64_t seed, bool is_told)
{
    static struct farm f;
    farm_begin(&f, seed);
    f.is_told = is_told;
    while (f.due.count > 0) {
        struct message m = timeline_take(&f.due);
        MUST(&f, f.steps < 200000, "does not end");
        f.now_ns = m.at_ns;
        happen(&f, &m);
    }
    farm_end(&f);
    return &f;
}

START_TEST(every_seed_ends_with_each_element_stored_and_delivered_once)
{
    const char *one = getenv("SEED");
    const char *many = getenv("SEEDS");
    uint64_t seeds = many != NULL ? strtoull(many, NULL, 10) : SEEDS;
    uint64_t live = mem_live();
    struct farm sum;
    memset(&sum, 0, sizeof sum);
    if (one != NULL) {
        farm_run(strtoull(one, NULL, 10), true);
    }
    for (uint64_t seed = 0; one == NULL && seed < seeds; seed++) {
        const struct farm *f = farm_run(seed, false);
        sum.seen.failures += f->seen.failures;
        sum.seen.retries += f->seen.retries;
        sum.seen.quarantines += f->seen.quarantines;
        sum.seen.blocks += f->seen.blocks;
        sum.seen.doubles += f->seen.doubles;
        sum.seen.cancels += f->seen.cancels;
        sum.seen.restored += f->seen.restored;
        sum.seen.handed += f->seen.handed;
        sum.seen.moved += f->seen.moved;
    }
    ck_assert_uint_eq(mem_live(), live);
    if (one == NULL && seeds >= SEEDS) { /* it happens at all */
        ck_assert_uint_gt(sum.seen.failures, 1000);
        ck_assert_uint_gt(sum.seen.retries, 1000);
        ck_assert_uint_gt(sum.seen.quarantines, 1000);
        ck_assert_uint_gt(sum.seen.blocks, 10);
        ck_assert_uint_gt(sum.seen.doubles, 100);
        ck_assert_uint_gt(sum.seen.cancels, 100);
        ck_assert_uint_gt(sum.seen.restored, 1000);
        ck_assert_uint_gt(sum.seen.handed, 1000);
        ck_assert_uint_gt(sum.seen.moved, 100);
    }
}
END_TEST

/* n equal elements on four VMs of which one is ten times slower, all added at once. Returns the
 * time they took in percent of the ideal. */
static uint64_t straggle(uint64_t n, uint64_t ns, bool is_known)
{
    static struct farm f;
    struct stage *st = &f.stages[0];
    uint64_t percent;
    memset(&f, 0, sizeof f);
    ck_assert_int_eq(sched_new(&f.s, NULL), 0);
    f.latency_ns = 300 * US;
    f.is_even = true;
    f.stage_count = 1;
    st->short_ns = ns;
    st->count = st->added = n;
    st->stories = calloc(n + 1, sizeof *st->stories);
    MUST(&f, step(&f, &(struct sched_event){.type = SCHED_STAGE_OPENED}), "open");
    for (int i = 0; i < 4; i++) {
        vm_join(&f);
        f.vms[i].slowness = i == 1 ? 1000 : 100;
    }
    MUST(&f, step(&f, &(struct sched_event){.type = SCHED_WORK_ADDED, .count = n}), "add");
    if (is_known) {
        st->is_closed = true;
        MUST(&f, step(&f, &(struct sched_event){.type = SCHED_WORK_CLOSED}), "close");
    }
    while (f.due.count > 0) {
        struct message m = timeline_take(&f.due);
        f.now_ns = m.at_ns;
        happen(&f, &m);
    }
    ck_assert_uint_eq(st->recorded, n);
    percent = f.recorded_ns * 100 / (n * ns * 10 / 31); /* three VMs and a tenth */
    if (!is_known) {
        st->is_closed = true;
        MUST(&f, step(&f, &(struct sched_event){.type = SCHED_WORK_CLOSED}), "close");
    }
    farm_end(&f);
    return percent;
}

START_TEST(a_vm_ten_times_slower_costs_little)
{
    static const uint64_t durations[] = {1000 * US, 4000 * US, 20000 * US, 100000 * US,
                                         2000000 * US};
    uint64_t ns = durations[_i / 2];
    uint64_t percent = straggle(400, ns, _i % 2 == 0);
    ck_assert_msg(percent <= 115, "400 elements of %llu us, %s: %llu %% of the ideal",
                  (unsigned long long)(ns / US), _i % 2 == 0 ? "closed" : "open",
                  (unsigned long long)percent);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched swarm");
    TCase *tc = tcase_create("seeds");
    tcase_set_timeout(tc, 50);
    tcase_add_test(tc, every_seed_ends_with_each_element_stored_and_delivered_once);
    tcase_add_loop_test(tc, a_vm_ten_times_slower_costs_little, 0, 10);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
