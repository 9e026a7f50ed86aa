/* SPDX-License-Identifier: MIT */
/* judge.c - see judge.h. */
#include "judge.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "sim.h"

#define LL unsigned long long

void judge_start(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        struct stage_record *r = &s->judge.stage[i];
        r->count = s->plan.stage[i].elements;
        r->fates = sim_alloc(r->count, sizeof(*r->fates));
        s->tally.elements += r->count;
    }
    s->judge.charges = sim_alloc(s->plan.vms, sizeof(*s->judge.charges));
    s->judge.granted = sim_alloc(s->plan.vms, sizeof(*s->judge.granted));
}

void judge_fini(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        mem_free(s->judge.stage[i].fates);
    }
    for (uint32_t i = 0; i < s->plan.vms; i++) {
        mem_free(s->judge.charges[i].items);
    }
    mem_free(s->judge.charges);
    mem_free(s->judge.granted);
}

static struct fate *fate_of(struct sim *s, uint32_t stage, uint64_t index)
{
    if (stage >= s->plan.stages || index >= s->judge.stage[stage].count) {
        sim_broken(s, "element %llu of stage %u: there is no such", (LL)index, stage + 1);
    }
    return &s->judge.stage[stage].fates[index];
}

static uint64_t run_bit(uint32_t run)
{
    return UINT64_C(1) << (run < 63 ? run : 63);
}

/* --- who has what -------------------------------------------------------------------------- */

static bool is_holder(const struct fate *f, uint32_t vm)
{
    return f->holder[0] == vm + 1 || f->holder[1] == vm + 1;
}

static void holder_remove(struct sim *s, struct fate *f, uint32_t vm)
{
    for (int i = 0; i < 2; i++) {
        if (f->holder[i] == vm + 1) {
            f->holder[i] = 0;
            s->judge.charges[vm].held--;
        }
    }
}

/* Drops charges of which the VM holds nothing any more. */
static void charges_tidy(struct sim *s, uint32_t vm)
{
    struct charges *c = &s->judge.charges[vm];
    size_t kept = 0;
    for (size_t i = 0; i < c->count; i++) {
        const struct charge *item = &c->items[i];
        uint64_t k = 0;
        while (k < item->count && !is_holder(fate_of(s, item->stage, item->first + k), vm)) {
            k++;
        }
        if (k < item->count) {
            c->items[kept++] = *item;
        }
    }
    c->count = kept;
    c->tidy_at = 2 * kept + 16;
}

void judge_assigned(struct sim *s, const struct sched_action *a)
{
    uint32_t stage = a->stage - 1, vm = a->vm;
    struct charges *c = &s->judge.charges[vm];
    if (s->farm.is_idle) {
        sim_broken(s, "VM %u gets elements of stage %u while the disk is full", vm, a->stage);
    }
    if (c->count >= c->tidy_at) {
        charges_tidy(s, vm);
    }
    if (c->count == c->cap) {
        c->cap = c->cap > 0 ? 2 * c->cap : 16;
        c->items = sim_grow(c->items, c->cap, sizeof(*c->items));
    }
    c->items[c->count++] = (struct charge){stage, a->first, a->count};
    c->held += a->count;
    for (uint64_t i = a->first; i < a->first + a->count; i++) {
        struct fate *f = fate_of(s, stage, i);
        int place = f->holder[0] == 0 ? 0 : 1;
        if ((f->bits & FATE_PUT) != 0) {
            sim_broken(s, "element %llu of stage %u is assigned to VM %u and has its result",
                       (LL)i, stage + 1, vm);
        }
        if (a->attempt <= f->attempt_run) {
            sim_broken(s, "element %llu of stage %u is assigned as attempt %u, and attempt %u has "
                       "begun", (LL)i, stage + 1, a->attempt, f->attempt_run);
        }
        if (is_holder(f, vm) || (place == 1 && !s->plan.stage[stage].is_speculating)) {
            sim_broken(s, "element %llu of stage %u is assigned to VM %u while VM %u has it",
                       (LL)i, stage + 1, vm, f->holder[0] - 1);
        }
        if (f->holder[place] != 0) {
            sim_broken(s, "element %llu of stage %u is assigned a third time", (LL)i, stage + 1);
        }
        f->holder[place] = vm + 1;
        f->attempt[place] = a->attempt;
        f->assigned++;
    }
}

void judge_called_off(struct sim *s, uint32_t stage, uint64_t first, uint64_t count, uint32_t vm)
{
    for (uint64_t i = first; i < first + count; i++) {
        holder_remove(s, fate_of(s, stage, i), vm);
    }
}

void judge_recalled(struct sim *s, uint32_t stage, uint64_t first, uint64_t count, uint32_t vm)
{
    if (!s->judge.stage[stage].is_cancelled) {
        judge_called_off(s, stage, first, count, vm);
    }
}

void judge_lost(struct sim *s, uint32_t vm, const struct sched_event *ev)
{
    struct charges *c = &s->judge.charges[vm];
    bool is_own = ev->cause == SCHED_CAUSE_OWN || ev->cause == SCHED_CAUSE_TIMEOUT;
    for (size_t i = 0; i < c->count; i++) {
        const struct charge *item = &c->items[i];
        for (uint64_t k = item->first; k < item->first + item->count; k++) {
            struct fate *f = fate_of(s, item->stage, k);
            if (!is_holder(f, vm)) {
                continue;
            }
            holder_remove(s, f, vm);
            f->losses++;
            if (is_own && ev->has_element && ev->stage == item->stage + 1 && ev->first == k &&
                (f->bits & FATE_PUT) == 0) {
                f->own_deaths++;
            }
        }
    }
    c->count = 0;
    assert(c->held == 0);
    s->tally.lost++;
}

static uint32_t deaths_max(const struct sim *s)
{
    return s->plan.sched.max_own_deaths != 0 ? s->plan.sched.max_own_deaths : 3;
}

void judge_after_loss(struct sim *s, const struct sched_event *ev)
{
    const struct fate *f;
    if (!ev->has_element || ev->stage == 0 || ev->stage > s->plan.stages ||
        s->judge.stage[ev->stage - 1].is_cancelled) {
        return;
    }
    f = fate_of(s, ev->stage - 1, ev->first);
    if (f->own_deaths >= deaths_max(s) && (f->bits & FATE_PUT) == 0) {
        sim_broken(s, "element %llu of stage %u has killed %u VMs and is not given up",
                   (LL)ev->first, ev->stage, f->own_deaths);
    }
}

bool judge_has_second(const struct sim *s, uint32_t stage, uint64_t index)
{
    const struct fate *f = &s->judge.stage[stage].fates[index];
    return f->holder[0] != 0 && f->holder[1] != 0;
}

bool judge_charge(struct sim *s, uint32_t vm, uint32_t *stage, uint64_t *first, uint64_t *count)
{
    const struct charges *c = &s->judge.charges[vm];
    const struct charge *item;
    if (c->held == 0) {
        return false;
    }
    item = &c->items[c->count - 1 - dice_below(&s->dice, c->count < 3 ? c->count : 3)];
    *stage = item->stage + 1;
    *first = item->first;
    *count = item->count;
    return true;
}

uint64_t judge_held(const struct sim *s, uint32_t vm)
{
    return s->judge.charges[vm].held;
}

/* --- what VMs do --------------------------------------------------------------------------- */

uint32_t judge_started(struct sim *s, uint32_t stage, uint64_t index, uint32_t vm,
                       uint32_t attempt, uint64_t epoch)
{
    struct fate *f = fate_of(s, stage, index);
    if (epoch == s->judge.epoch && (f->bits & FATE_OLD) != 0) {
        sim_broken(s, "element %llu of stage %u runs on VM %u, and had its result before run %llu "
                   "of the job", (LL)index, stage + 1, vm, (LL)epoch);
    }
    if (epoch == s->judge.epoch && attempt > f->attempt_run) {
        f->attempt_run = attempt;
    }
    f->started++;
    s->tally.runs++;
    if (f->started > f->assigned) {
        sim_broken(s, "element %llu of stage %u starts %u times, on VM %u now, and was assigned %u "
                   "times", (LL)index, stage + 1, f->started, vm, f->assigned);
    }
    return f->started;
}

void judge_ended(struct sim *s, uint32_t stage, uint64_t index, uint32_t run)
{
    fate_of(s, stage, index)->ended |= run_bit(run);
}

void judge_moved(struct sim *s, uint32_t stage, uint64_t index)
{
    fate_of(s, stage, index)->excuses++;
}

void judge_died(struct sim *s, uint32_t stage, uint64_t index, uint32_t run)
{
    tell(s, "judge", 0, "run %u of element %llu of stage %u gave nothing", run, (LL)index,
         stage + 1);
}

/* A failure that was, or may have been, tried again need not be recorded. */
static bool is_retried(const struct sim *s, uint32_t stage, uint8_t status)
{
    return status != TRK_STATUS_OK && s->plan.stage[stage].retries > 0;
}

void judge_let_go(struct sim *s, uint32_t stage, uint64_t index, uint8_t status, uint64_t epoch,
                  uint32_t vm)
{
    const struct stage_record *r = &s->judge.stage[stage];
    if ((fate_of(s, stage, index)->bits & FATE_RECORDED) == 0 && !r->is_cancelled &&
        r->cancelled_epoch < epoch && !is_retried(s, stage, status)) {
        sim_broken(s, "VM %u lets go of the result of element %llu of stage %u, which is not "
                   "recorded", vm, (LL)index, stage + 1);
    }
}

void judge_released(struct sim *s, uint32_t vm, uint64_t epoch, const struct blob *result)
{
    struct wire_result r;
    if (wire_result_decode(&r, result) < 0 || r.stage == 0 || r.stage > s->plan.stages) {
        sim_broken(s, "VM %u held something that is no result", vm);
    }
    for (uint32_t i = 0; i < r.count; i++) {
        judge_let_go(s, r.stage - 1, r.first + i, r.statuses[i], epoch, vm);
    }
}

/* --- what the farm records and delivers ---------------------------------------------------- */

void judge_before_result(struct sim *s, uint32_t vm, const struct blob *result)
{
    struct wire_result r;
    const uint8_t *bytes;
    if (wire_result_decode(&r, result) < 0 || s->plan.stage[r.stage - 1].retries == 0) {
        return;
    }
    bytes = r.payloads;
    for (uint32_t i = 0; i < r.count; bytes += le_load_u32(r.sizes + 4 * (size_t)i), i++) {
        struct fate *f = fate_of(s, r.stage - 1, r.first + i);
        if (r.statuses[i] == TRK_STATUS_OK) {
            continue;
        }
        f->failed |= run_bit(le_load_u32(bytes + 8));
        for (int h = 0; h < 2; h++) { /* that run is over: the element may go elsewhere */
            if (f->holder[h] == vm + 1 && f->attempt[h] == r.attempt) {
                holder_remove(s, f, vm);
            }
        }
    }
}

void judge_after_result(struct sim *s, const struct blob *result)
{
    struct wire_result r;
    if (wire_result_decode(&r, result) < 0 || s->judge.stage[r.stage - 1].is_cancelled) {
        return;
    }
    for (uint32_t i = 0; i < r.count; i++) {
        const struct fate *f = fate_of(s, r.stage - 1, r.first + i);
        if ((f->bits & FATE_PUT) == 0 && !is_retried(s, r.stage - 1, r.statuses[i])) {
            sim_broken(s, "the result of element %llu of stage %u came, was needed, and is not "
                       "recorded", (LL)(r.first + i), r.stage);
        }
    }
}

void judge_given_up(struct sim *s, uint32_t stage, uint64_t index, enum sched_cause cause)
{
    struct fate *f = fate_of(s, stage, index);
    uint32_t losses = s->plan.sched.max_losses != 0 ? s->plan.sched.max_losses : 20;
    bool is_guilty = plan_is_poison(&s->plan, stage, index) ||
                     plan_is_hanging(&s->plan, stage, index);
    if (cause == SCHED_CAUSE_LOSS) {
        is_guilty = f->losses >= losses;
    } else if (f->own_deaths < deaths_max(s)) {
        is_guilty = false;
    }
    if (!is_guilty) {
        sim_broken(s, "element %llu of stage %u is given up after %u deaths and %u losses: it is "
                   "not to blame", (LL)index, stage + 1, f->own_deaths, f->losses);
    }
    f->bits |= FATE_GIVEN_UP;
    s->tally.failed++;
}

/* Which run a result at bytes is of; breaks when no run computed it. */
static uint32_t run_of(struct sim *s, uint32_t stage, uint64_t index, bool is_given_up,
                       const uint8_t *bytes, uint32_t size)
{
    const struct fate *f = fate_of(s, stage, index);
    uint32_t run;
    if (is_given_up) {
        if ((f->bits & FATE_GIVEN_UP) == 0) {
            sim_broken(s, "element %llu of stage %u has a failure that nobody gave it", (LL)index,
                       stage + 1);
        }
        return 0;
    }
    run = size >= RESULT_HEAD ? le_load_u32(bytes + 8) : 0;
    if (run == 0 || size != RESULT_HEAD + s->plan.stage[stage].result_bytes ||
        (f->ended & run_bit(run)) == 0 || le_load_u64(bytes) != result_mark(s, stage, index, run)) {
        sim_broken(s, "element %llu of stage %u has a result (run %u) that no run computed",
                   (LL)index, stage + 1, run);
    }
    return run;
}

void judge_put(struct sim *s, const struct parcel *p)
{
    const uint8_t *bytes = p->payloads;
    for (uint32_t i = 0; i < p->count; bytes += parcel_size(p, i), i++) {
        struct fate *f = fate_of(s, p->stage, p->first + i);
        if ((f->bits & FATE_PUT) != 0) {
            sim_broken(s, "element %llu of stage %u is recorded twice", (LL)(p->first + i),
                       p->stage + 1);
        }
        f->recorded = run_of(s, p->stage, p->first + i, p->is_given_up, bytes,
                             parcel_size(p, i));
        if (p->statuses[i] == TRK_STATUS_EXCEPTION &&
            (uint32_t)__builtin_popcountll(f->failed) <= s->plan.stage[p->stage].retries &&
            s->plan.stage[p->stage].retries > 0) {
            sim_broken(s, "element %llu of stage %u is recorded as failed after %d failures, it "
                       "has %u retries", (LL)(p->first + i), p->stage + 1,
                       __builtin_popcountll(f->failed), s->plan.stage[p->stage].retries);
        }
        f->bits |= FATE_PUT;
        for (int h = 0; h < 2; h++) {
            if (f->holder[h] != 0) {
                holder_remove(s, f, f->holder[h] - 1);
            }
        }
    }
}

void judge_durable(struct sim *s, uint32_t stage, uint64_t index)
{
    struct fate *f = fate_of(s, stage, index);
    assert((f->bits & FATE_PUT) != 0 && (f->bits & FATE_RECORDED) == 0);
    f->bits |= FATE_RECORDED;
    s->judge.stage[stage].recorded++;
    sim_progress(s);
}

void judge_delivered(struct sim *s, const struct parcel *p)
{
    uint64_t index = p->first + p->taken;
    struct fate *f = fate_of(s, p->stage, index);
    if ((f->bits & FATE_RECORDED) == 0 || (f->bits & FATE_DELIVERED) != 0) {
        sim_broken(s, "element %llu of stage %u is delivered %s", (LL)index, p->stage + 1,
                   (f->bits & FATE_DELIVERED) != 0 ? "twice" : "before it is recorded");
    }
    if (run_of(s, p->stage, index, p->is_given_up, p->payloads + p->at,
               parcel_size(p, p->taken)) != f->recorded) {
        sim_broken(s, "element %llu of stage %u: another result is delivered than was recorded",
                   (LL)index, p->stage + 1);
    }
    f->bits |= FATE_DELIVERED;
    s->judge.stage[p->stage].delivered++;
    s->tally.results++;
    sim_progress(s);
}

void judge_cancelled(struct sim *s, uint32_t stage)
{
    struct stage_record *r = &s->judge.stage[stage];
    if (r->is_cancelled) {
        return;
    }
    r->is_cancelled = true;
    r->cancelled_epoch = s->judge.epoch;
    for (uint64_t i = 0; i < r->count; i++) {
        for (int h = 0; h < 2; h++) {
            if (r->fates[i].holder[h] != 0) {
                holder_remove(s, &r->fates[i], r->fates[i].holder[h] - 1);
            }
        }
    }
}

/* --- runs of the job ----------------------------------------------------------------------- */

void judge_leased(struct sim *s, uint32_t vm, uint64_t epoch, const uint8_t incarnation[16])
{
    struct granted *g = &s->judge.granted[vm];
    if (epoch < g->epoch ||
        (epoch == g->epoch && memcmp(incarnation, g->incarnation, 16) != 0)) {
        sim_broken(s, "VM %u lets run %llu of the job in, and has served run %llu", vm, (LL)epoch,
                   (LL)g->epoch);
    }
    g->epoch = epoch;
    memcpy(g->incarnation, incarnation, 16);
}

void judge_unfenced(struct sim *s, uint32_t vm)
{
    s->judge.granted[vm].epoch = 0;
}

/* All that is not durable may be lost, and what ran for it may run again. */
static void fate_crash(struct sim *s, struct fate *f)
{
    bool is_lost = (f->bits & FATE_PUT) != 0 && (f->bits & FATE_RECORDED) == 0;
    uint32_t holders = (f->holder[0] != 0) + (f->holder[1] != 0);
    for (int h = 0; h < 2; h++) {
        if (f->holder[h] != 0) {
            holder_remove(s, f, f->holder[h] - 1);
        }
    }
    f->excuses += f->losses + (uint32_t)__builtin_popcountll(f->failed) + holders + is_lost;
    f->failed = 0;
    f->losses = f->own_deaths = 0;
    f->attempt_run = 0;
    f->bits &= (uint8_t)~(FATE_PUT | FATE_DELIVERED);
}

void judge_crashed(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        struct stage_record *r = &s->judge.stage[i];
        r->is_cancelled = false;
        r->delivered = 0;
        for (uint64_t k = 0; k < r->count; k++) {
            fate_crash(s, &r->fates[k]);
            if (r->cancelled_epoch == s->judge.epoch) { /* all of it, as if it had never been */
                r->fates[k].excuses = r->fates[k].assigned;
            }
        }
    }
    for (uint32_t vm = 0; vm < s->plan.vms; vm++) {
        assert(s->judge.charges[vm].held == 0);
        s->judge.charges[vm].count = 0;
    }
}

void judge_in_doubt(struct sim *s, const struct group *g)
{
    for (const struct parcel *p = g->first; p != NULL; p = p->next) {
        for (uint64_t i = p->first; i < p->first + p->count; i++) {
            if (!store_has(s, p->stage, i)) {
                fate_of(s, p->stage, i)->bits |= FATE_IN_DOUBT;
            }
        }
    }
}

void judge_restored(struct sim *s, uint32_t stage, uint64_t index, bool is_given_up,
                    const uint8_t *bytes, uint32_t size)
{
    struct fate *f = fate_of(s, stage, index);
    uint32_t run = run_of(s, stage, index, is_given_up, bytes, size);
    if ((f->bits & FATE_RECORDED) != 0 && run != f->recorded) {
        sim_broken(s, "element %llu of stage %u had the result of run %u, and now has that of run "
                   "%u", (LL)index, stage + 1, f->recorded, run);
    }
    f->recorded = run;
    f->bits |= FATE_PUT;
}

void judge_opened(struct sim *s)
{
    uint64_t seen = 0, unseen = 0;
    for (uint32_t stage = 0; stage < s->plan.stages; stage++) {
        for (uint64_t i = 0; i < s->judge.stage[stage].count; i++) {
            struct fate *f = &s->judge.stage[stage].fates[i];
            bool is_seen = (f->bits & FATE_PUT) != 0;
            if ((f->bits & FATE_RECORDED) != 0 && !is_seen) {
                sim_broken(s, "the recorded result of element %llu of stage %u is lost", (LL)i,
                           stage + 1);
            }
            if ((f->bits & FATE_IN_DOUBT) != 0) {
                seen += is_seen;
                unseen += !is_seen;
            }
            f->bits &= (uint8_t)~FATE_IN_DOUBT;
        }
    }
    if (seen > 0 && unseen > 0) {
        sim_broken(s, "of a transaction that was not finished %llu results are seen, %llu not",
                   (LL)seen, (LL)unseen);
    }
}

void judge_begins(struct sim *s)
{
    if (s->farm.epoch <= s->judge.epoch || s->farm.epoch > s->store.disk.epoch) {
        sim_broken(s, "run %llu of the job begins after run %llu, and run %llu is what is recorded",
                   (LL)s->farm.epoch, (LL)s->judge.epoch, (LL)s->store.disk.epoch);
    }
    s->judge.epoch = s->farm.epoch;
    for (uint32_t stage = 0; stage < s->plan.stages; stage++) {
        for (uint64_t i = 0; i < s->judge.stage[stage].count; i++) {
            struct fate *f = &s->judge.stage[stage].fates[i];
            f->attempt_run = 0;
            if ((f->bits & FATE_RECORDED) != 0) {
                f->bits |= FATE_OLD;
            }
        }
    }
}

static void judge_element(struct sim *s, uint32_t stage, uint64_t index)
{
    const struct fate *f = fate_of(s, stage, index);
    const struct stage_plan *p = &s->plan.stage[stage];
    if ((f->bits & FATE_DELIVERED) == 0) {
        sim_broken(s, "element %llu of stage %u was never delivered", (LL)index, stage + 1);
    }
    if (f->started != 1 && !s->plan.has_losses && !p->is_speculating && p->retries == 0) {
        sim_broken(s, "element %llu of stage %u ran %u times and nothing was lost", (LL)index,
                   stage + 1, f->started);
    }
    if (f->started > 1 + f->losses + f->excuses + __builtin_popcountll(f->failed) &&
        !p->is_speculating) {
        sim_broken(s, "element %llu of stage %u ran %u times; %u losses, %d failures and %u other "
                   "reasons do not explain that", (LL)index, stage + 1, f->started, f->losses,
                   __builtin_popcountll(f->failed), f->excuses);
    }
}

void judge_end(struct sim *s)
{
    for (uint32_t stage = 0; stage < s->plan.stages; stage++) {
        const struct stage_record *r = &s->judge.stage[stage];
        if (r->is_cancelled && r->delivered < r->count) {
            s->tally.cancelled++;
            continue;
        }
        for (uint64_t i = 0; i < r->count; i++) {
            judge_element(s, stage, i);
        }
    }
}
