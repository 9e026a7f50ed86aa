/* SPDX-License-Identifier: MIT */
/* run.c - one seed: takes the next thing due, does it, has everything checked. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sim.h"

/* So many events in a second without anything getting further go round in a circle. */
#define IDLE_EVENTS_MAX 50000u

static bool is_of_farm(uint32_t what)
{
    return what >= EVENT_FARM_SILENT && what <= EVENT_TAKE;
}

static void happen_at_farm(struct sim *s, const struct due *due)
{
    switch (due->what) {
    case EVENT_FARM_SILENT:
        farm_on_silent(s, due->who, (uint32_t)due->arg);
        break;
    case EVENT_FARM_LOSS:
        farm_on_loss(s, due->who, due->arg);
        break;
    case EVENT_FARM_RETRY:
        farm_on_retry(s, due->who);
        break;
    case EVENT_FARM_SUSPECT:
        farm_on_suspect(s, due->who, due->arg != 0);
        break;
    case EVENT_FARM_LATE:
        farm_on_late(s, due->who, (uint32_t)due->arg);
        break;
    case EVENT_FARM_UNBLOCK:
        farm_on_unblock(s, due->who);
        break;
    case EVENT_FARM_TURN:
        farm_on_turn(s);
        break;
    case EVENT_FARM_WAKE:
        farm_touch(s);
        break;
    case EVENT_FARM_RESYNC:
        farm_touch(s);
        break;
    case EVENT_SYNCED:
        store_on_synced(s);
        break;
    case EVENT_OPEN:
        program_on_open(s, due->who);
        break;
    case EVENT_FEED:
        program_on_feed(s, due->who);
        break;
    case EVENT_CLOSE:
        program_on_close(s, due->who);
        break;
    case EVENT_TAKE:
        program_on_take(s, due->who);
        break;
    default:
        assert(false);
    }
}

static void happen(struct sim *s, const struct due *due)
{
    switch (due->what) {
    case EVENT_ARRIVE:
        net_on_arrive(s, due->who, (enum way)due->arg);
        break;
    case EVENT_PUMP:
        net_on_pump(s, due->who, (enum way)due->arg);
        break;
    case EVENT_VM_READY:
        vm_on_ready(s, due->who, due->arg);
        break;
    case EVENT_VM_STEP:
        vm_on_step(s, due->who, due->arg);
        break;
    case EVENT_VM_LATE:
        vm_on_late(s, due->who, due->arg);
        break;
    case EVENT_VM_HUNG:
        vm_on_hung(s, due->who, due->arg);
        break;
    case EVENT_VM_SILENT:
        vm_on_silent(s, due->who, (uint32_t)due->arg);
        break;
    case EVENT_DEATH:
        vm_on_death(s, due->who, (uint32_t)due->arg);
        break;
    case EVENT_SPOOL:
        spool_on_ready(s, due->who, due->arg);
        break;
    case EVENT_RESUME:
        farm_begin(s);
        break;
    case EVENT_FAULT:
        fault_inject(s);
        break;
    case EVENT_STRIKE:
        fault_strike(s, due->who, (enum fault)due->arg);
        break;
    case EVENT_MEND:
        fault_mend(s, due->who, due->arg);
        break;
    case EVENT_QUIET:
        fault_quiet(s);
        break;
    case EVENT_LOOK:
        if (!s->is_over && !program_look(s)) {
            clock_in(&s->clock, 20 * SEC, EVENT_LOOK, 0, 0);
        }
        break;
    case EVENT_DEADLINE:
        if (!s->is_over) {
            sim_broken(s, "it has not ended in time");
        }
        break;
    default:
        assert(false);
    }
}

static void check(struct sim *s)
{
    if (s->vms.touched != UINT32_MAX) {
        vm_check(s, s->vms.touched);
    }
    if (!s->farm.is_alive) {
        return;
    }
    if (s->is_traced || s->plan.check_every <= 1 || s->tally.events % s->plan.check_every == 0) {
        sched_check(s->farm.sched);
    }
}

/* One thing that is due; false: nothing is. */
static bool step(struct sim *s)
{
    struct due due;
    if (!clock_next(&s->clock, &due)) {
        return false;
    }
    if (is_of_farm(due.what) && (!s->farm.is_alive || due.order < s->farm_born)) {
        return true; /* of a process that has died */
    }
    if (s->farm.is_paused && is_of_farm(due.what)) { /* its process does not run now */
        clock_at(&s->clock, s->farm.paused_until_ns, due.what, due.who, due.arg);
        return true;
    }
    s->tally.events++;
    sim_note(s, due.at_ns * 32 + due.what);
    s->vms.touched = UINT32_MAX;
    if (is_of_farm(due.what)) {
        happen_at_farm(s, &due);
    } else {
        happen(s, &due);
    }
    if (s->farm.is_dying) {
        farm_crash(s);
    }
    check(s);
    if (s->clock.now_ns >= s->idle_ns + 1 * SEC) {
        s->idle_events = 0;
        s->idle_ns = s->clock.now_ns;
    }
    if (++s->idle_events > IDLE_EVENTS_MAX + 100 * (uint64_t)s->plan.vms) {
        sim_broken(s, "%llu events and nothing gets further",
                   (unsigned long long)s->idle_events);
    }
    return true;
}

/* All work is done: everybody comes to rest, and nothing may be left over. */
static void rest(struct sim *s)
{
    fault_quiet(s);
    while (step(s)) {
    }
    for (uint32_t i = 0; i < s->plan.vms; i++) {
        const struct vm *vm = vm_get(s, i);
        size_t held = vm->agent != NULL ? agent_held(vm->agent, NULL) : 0;
        size_t queued = vm->agent != NULL ? agent_queued(vm->agent) : 0;
        if (held > 0 || queued > 0 || vm->is_busy || !vm->is_up) {
            sim_broken(s, "all is done, and VM %u is %s, has %zu elements queued and holds %zu "
                       "messages", i, vm->is_up ? "up" : "down", queued, held);
        }
        if (s->farm.slots[i].state != SLOT_HELD) {
            sim_broken(s, "all is well, and the farm does not hold VM %u", i);
        }
    }
    farm_close(s);
    while (step(s)) {
    }
    for (uint32_t i = 0; i < s->plan.vms; i++) {
        if (!vm_get(s, i)->is_up || agent_is_leased(vm_get(s, i)->agent)) {
            sim_broken(s, "the farm has gone, and VM %u is not free", i);
        }
    }
}

static void tally_add(struct tally *to, const struct tally *from)
{
    to->seeds++;
    to->events += from->events;
    to->elements += from->elements;
    to->runs += from->runs;
    to->results += from->results;
    to->virtual_ns += from->virtual_ns;
    to->digest += from->digest;
    to->lost += from->lost;
    to->blocked += from->blocked;
    to->failed += from->failed;
    to->dropped += from->dropped;
    to->cancelled += from->cancelled;
    to->restored += from->restored;
    to->handed += from->handed;
    for (int k = 0; k < FAULT_COUNT; k++) {
        to->faults[k] += from->faults[k];
    }
}

void sim_run(uint64_t seed, const struct sim_options *opt, struct tally *tally)
{
    uint64_t live = mem_live();
    struct sim *s = sim_alloc(1, sizeof(*s));
    if (opt->plan != NULL) {
        s->plan = *opt->plan;
    } else {
        plan_draw(&s->plan, seed, opt->vms, opt->elements);
    }
    s->dice.state = dice_mix(seed);
    s->is_traced = opt->is_traced;
    if (s->is_traced) {
        plan_print(&s->plan, stdout);
    }
    judge_start(s);
    store_start(s);
    vms_start(s);
    farm_start(s);
    fault_start(s);
    while (!s->is_over) {
        if (!step(s)) {
            sim_broken(s, "nothing will ever happen any more");
        }
    }
    s->tally.virtual_ns = s->clock.now_ns;
    judge_end(s);
    rest(s);
    tally_add(tally, &s->tally);
    program_fini(s);
    store_fini(s);
    farm_fini(s);
    vms_fini(s);
    net_fini(s);
    judge_fini(s);
    clock_fini(&s->clock);
    mem_free(s);
    if (mem_live() != live) {
        fprintf(stderr, "BROKEN: %llu allocations were not freed\n",
                (unsigned long long)(mem_live() - live));
        fflush(NULL);
        _Exit(1);
    }
}
