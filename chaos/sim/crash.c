/* SPDX-License-Identifier: MIT */
/* crash.c - the farm's process dies at any instant, and later a new one resumes the job.
 *
 * Between two events, or in the middle of one: whatever is about to leave the process - a message,
 * a transaction, a result to the program - may be the first that does not. What the process does
 * after that nobody sees, and its memory goes at the end of the event. What is left is the disk
 * (store.h), what is on its way, and the VMs. */
#include "sim.h"

bool farm_output(struct sim *s)
{
    if (!s->farm.is_dying && s->farm.dies_in > 0 && --s->farm.dies_in == 0) {
        s->farm.is_dying = true;
    }
    return !s->farm.is_dying;
}

void farm_die(struct sim *s)
{
    if (!s->farm.is_alive || s->farm.dies_in > 0) {
        return;
    }
    s->tally.faults[FAULT_CRASH]++;
    if (dice_chance(&s->dice, 300)) {
        s->farm.is_dying = true;
    } else {
        s->farm.dies_in = (uint32_t)dice_scale(&s->dice, 1, 40);
    }
}

void farm_crash(struct sim *s)
{
    bool is_power = fault_strikes(s, FAULT_POWER);
    tell(s, "farm", 0, is_power ? "its machine goes down" : "its process dies");
    s->tally.faults[FAULT_POWER] += is_power;
    s->is_over = false; /* what it did last has not happened */
    judge_crashed(s);
    store_crash(s, is_power);
    program_fini(s);
    farm_fini(s);
    net_desert(s, is_power);
    clock_in(&s->clock, dice_scale(&s->dice, 1 * US, s->plan.resume_ns), EVENT_RESUME, 0, 0);
}

void farm_begin(struct sim *s)
{
    for (uint32_t i = 0; i < s->net.live_count; i++) {
        struct conn *c = net_conn(s, s->net.live[i]);
        if (c->is_deserted && c->is_open[END_VM]) {
            c->is_deserted = false;
            net_refuse(s, c, TO_VM);
        }
    }
    if (fault_strikes(s, FAULT_RECRASH)) {
        s->tally.faults[FAULT_RECRASH]++;
        if (dice_chance(&s->dice, 500)) {
            s->farm.dies_in = (uint32_t)dice_scale(&s->dice, 1, 20);
        } else {
            clock_in(&s->clock, dice_below(&s->dice, 4 * (s->plan.latency_ns + s->plan.sync_ns)),
                     EVENT_STRIKE, 0, FAULT_CRASH);
        }
    }
    farm_start(s);
    sim_progress(s);
}
