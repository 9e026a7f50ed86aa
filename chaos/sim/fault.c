/* SPDX-License-Identifier: MIT */
/* fault.c - what goes wrong, when it gets well again, and the quiet phase.
 *
 * At random times one of the kinds that are on is drawn by its weight, and strikes a random VM,
 * machine or stage. When the time of faults is over everything is mended: from there on the work
 * must come to its end within a bound. */
#include <signal.h>

#include "sim.h"

bool fault_strikes(struct sim *s, enum fault fault)
{
    return fault_is_on(s, fault) && dice_below(&s->dice, 17) < s->plan.weight[fault];
}

static void mend_in(struct sim *s, uint64_t in_ns, uint32_t who, enum fault fault, uint64_t more)
{
    clock_in(&s->clock, in_ns, EVENT_MEND, who, (uint64_t)fault | more << 8);
}

static uint64_t outage_ns(struct sim *s)
{
    return dice_scale(&s->dice, 1 * MS, 3 * s->plan.dead_after_ns);
}

/* Faults of a VM. */
static void strike_vm(struct sim *s, enum fault fault, struct vm *vm)
{
    uint64_t dead_ns = s->plan.dead_after_ns;
    uint32_t conn = s->farm.is_alive ? s->farm.slots[vm->number].conn : CONN_NONE;
    switch ((int)fault) {
    case FAULT_KILL:
        vm_kill(s, vm, SIGKILL);
        break;
    case FAULT_STOP:
    case FAULT_LONG_STOP:
        if (vm->is_up && !vm->is_stopped) {
            tell(s, "vm", vm->number, "is stopped");
            vm_stop(s, vm);
            mend_in(s, fault == FAULT_STOP ? dice_scale(&s->dice, 1 * US, dead_ns * 8 / 10)
                                           : dead_ns + dice_below(&s->dice, 2 * dead_ns),
                    vm->number, fault, vm->life);
        }
        break;
    case FAULT_BREAK:
        if (conn != CONN_NONE) {
            tell(s, "net", conn, "the connection with VM %u breaks", vm->number);
            net_break(s, net_conn(s, conn));
        }
        break;
    case FAULT_DRAIN:
        vm_drain(s, vm, true);
        mend_in(s, outage_ns(s) + s->plan.restart_ns, vm->number, fault, 0);
        break;
    case FAULT_FARM_DRAIN:
        farm_drain(s, vm->number);
        break;
    case FAULT_ASK_BACK:
        farm_ask_back(s, vm->number);
        break;
    case FAULT_CALLS:
        farm_call(s, vm->number);
        break;
    default:
        break;
    }
}

static void strike_machine(struct sim *s, enum fault fault, uint32_t machine)
{
    struct machine *m = &s->vms.machines[machine];
    bool is_to_vm = fault == FAULT_PARTITION, is_to_farm = is_to_vm;
    if (fault == FAULT_RESET) {
        if (!m->is_down) {
            tell(s, "machine", machine, "goes down");
            machine_reset(s, machine);
            mend_in(s, outage_ns(s), machine, fault, 0);
        }
        return;
    }
    if (fault == FAULT_ONE_WAY) {
        is_to_vm = dice_chance(&s->dice, 500);
        is_to_farm = !is_to_vm;
    }
    if (m->is_cut[TO_VM] || m->is_cut[TO_FARM]) {
        return;
    }
    tell(s, "machine", machine, "is cut off%s", is_to_vm && is_to_farm ? ""
         : is_to_vm ? " from what the farm sends" : " with what it sends");
    if (is_to_vm) {
        machine_cut(s, machine, TO_VM, true);
    }
    if (is_to_farm) {
        machine_cut(s, machine, TO_FARM, true);
    }
    mend_in(s, outage_ns(s), machine, fault, 0);
}

static void strike(struct sim *s, enum fault fault)
{
    uint32_t vm = (uint32_t)dice_below(&s->dice, s->plan.vms);
    uint32_t stage = (uint32_t)dice_below(&s->dice, s->plan.stages);
    if ((s->farm.is_paused || !s->farm.is_open) &&
        (fault == FAULT_UNSERVE || fault == FAULT_FARM_DRAIN || fault == FAULT_CANCEL ||
         fault == FAULT_STRANGER || fault == FAULT_CALLS || fault == FAULT_ASK_BACK ||
         fault == FAULT_PAUSE || fault == FAULT_GHOST)) {
        return; /* what its process would do */
    }
    s->tally.faults[fault] += fault != FAULT_CRASH;
    switch ((int)fault) {
    case FAULT_PARTITION:
    case FAULT_ONE_WAY:
    case FAULT_RESET:
        strike_machine(s, fault, vm_machine(s, vm));
        break;
    case FAULT_UNSERVE:
        farm_unserve(s, vm, stage, false);
        mend_in(s, outage_ns(s), vm, fault, stage);
        break;
    case FAULT_CANCEL:
        s->tally.faults[fault]--; /* counted when there is something to cancel */
        program_cancel(s, stage);
        break;
    case FAULT_PAUSE:
        if (!s->farm.is_paused) {
            uint64_t for_ns = dice_scale(&s->dice, 1 * US, 2 * SEC);
            tell(s, "farm", 0, "is paused");
            s->farm.is_paused = true;
            s->farm.paused_until_ns = s->clock.now_ns + for_ns;
            mend_in(s, for_ns, 0, fault, 0);
        }
        break;
    case FAULT_STRANGER:
        farm_forge(s);
        break;
    case FAULT_CRASH:
        farm_die(s);
        break;
    case FAULT_DISK_FULL:
        store_disk_full(s, true);
        mend_in(s, dice_scale(&s->dice, 1 * MS, 20 * SEC), 0, fault, 0);
        break;
    case FAULT_GHOST:
        farm_ghost(s, vm);
        break;
    default:
        strike_vm(s, fault, vm_get(s, vm));
        break;
    }
}

void fault_strike(struct sim *s, uint32_t who, enum fault fault)
{
    if (s->is_quiet || s->farm.is_paused) {
        return;
    }
    if (fault == FAULT_CRASH) {
        farm_die(s);
    } else if (fault == FAULT_CANCEL) {
        program_cancel(s, who);
    } else {
        s->tally.faults[fault]++;
        strike_vm(s, fault, vm_get(s, who));
    }
}

void fault_on_stage(struct sim *s, uint32_t stage)
{
    if (fault_is_on(s, FAULT_CANCEL) && dice_chance(&s->dice, 30)) {
        clock_in(&s->clock, dice_below(&s->dice, 2 * s->plan.latency_ns), EVENT_STRIKE, stage,
                 FAULT_CANCEL);
    }
}

void fault_on_second(struct sim *s, uint32_t vm)
{
    if (fault_strikes(s, FAULT_DRAIN)) { /* as likely as not while it is still on its way there */
        clock_in(&s->clock, dice_below(&s->dice, 2 * s->plan.latency_ns), EVENT_STRIKE, vm,
                 FAULT_DRAIN);
    }
}

void fault_inject(struct sim *s)
{
    unsigned sum = 0;
    if (s->is_quiet) {
        return;
    }
    for (int k = 0; k < FAULT_TIMED_COUNT; k++) {
        sum += s->plan.weight[k];
    }
    if (sum > 0) {
        uint64_t pick = dice_below(&s->dice, sum);
        int k = 0;
        while (pick >= s->plan.weight[k]) {
            pick -= s->plan.weight[k];
            k++;
        }
        strike(s, (enum fault)k);
        clock_in(&s->clock, dice_below(&s->dice, 2 * s->plan.fault_gap_ns), EVENT_FAULT, 0, 0);
    }
}

void fault_mend(struct sim *s, uint32_t who, uint64_t what)
{
    enum fault fault = (enum fault)(what & 255);
    uint64_t more = what >> 8;
    switch ((int)fault) {
    case FAULT_STOP:
    case FAULT_LONG_STOP:
        if (vm_get(s, who)->life == more) {
            vm_continue(s, vm_get(s, who));
        }
        break;
    case FAULT_PARTITION:
    case FAULT_ONE_WAY:
        tell(s, "machine", who, "is reached again");
        machine_cut(s, who, TO_VM, false);
        machine_cut(s, who, TO_FARM, false);
        break;
    case FAULT_RESET:
        if (s->vms.machines[who].is_down) {
            tell(s, "machine", who, "is up again");
            machine_return(s, who);
        }
        break;
    case FAULT_DRAIN:
        vm_return(s, vm_get(s, who));
        break;
    case FAULT_DISK_FULL:
        store_disk_full(s, false);
        break;
    case FAULT_UNSERVE:
        if (!s->farm.is_open) {
            return; /* the next one does not know of it */
        }
        if (s->farm.is_paused) {
            clock_at(&s->clock, s->farm.paused_until_ns, EVENT_MEND, who, what);
            return;
        }
        farm_unserve(s, who, (uint32_t)more, true);
        break;
    case FAULT_PAUSE:
        if (s->farm.is_paused && s->clock.now_ns >= s->farm.paused_until_ns) {
            farm_resume(s);
        }
        break;
    default:
        break;
    }
}

void fault_quiet(struct sim *s)
{
    if (s->is_quiet) {
        return;
    }
    tell(s, "faults", 0, "are over");
    s->is_quiet = true;
    s->farm.dies_in = 0;
    store_disk_full(s, false);
    if (s->farm.is_paused) {
        farm_resume(s);
    }
    for (uint32_t i = 0; i < s->vms.machine_count; i++) {
        fault_mend(s, i, FAULT_PARTITION);
        fault_mend(s, i, FAULT_RESET);
    }
    for (uint32_t i = 0; i < s->vms.count; i++) {
        struct vm *vm = vm_get(s, i);
        fault_mend(s, i, (uint64_t)FAULT_STOP | vm->life << 8);
        vm->is_away = vm->is_away && !vm->is_up; /* one that still drains comes back at once */
        vm_return(s, vm);
        if (!s->farm.is_alive) {
            continue;
        }
        farm_on_unblock(s, i); /* somebody has looked after all of them */
        for (uint32_t stage = 0; stage < s->plan.stages; stage++) {
            if ((s->farm.slots[i].unserved >> stage & 1) != 0) {
                farm_unserve(s, i, stage, true);
            }
        }
    }
    clock_in(&s->clock, plan_patience_ns(&s->plan), EVENT_DEADLINE, 0, 0);
    if (s->plan.weight[FAULT_ENDLESS] > 0) {
        clock_in(&s->clock, 20 * SEC, EVENT_LOOK, 0, 0);
    }
}

void fault_start(struct sim *s)
{
    clock_at(&s->clock, s->plan.faults_end_ns, EVENT_QUIET, 0, 0);
    clock_at(&s->clock, dice_below(&s->dice, 2 * s->plan.fault_gap_ns), EVENT_FAULT, 0, 0);
}
