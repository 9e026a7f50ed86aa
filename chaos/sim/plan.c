/* SPDX-License-Identifier: MIT */
/* plan.c - draws a plan from a seed. */
#include "plan.h"

#include <string.h>

#define FAULT_NAME(name, text, repeats) [FAULT_##name] = text,
const char *const fault_names[FAULT_COUNT] = {FAULTS(FAULT_NAME)};
#undef FAULT_NAME

#define FAULT_REPEATS(name, text, repeats) [FAULT_##name] = repeats,
static const bool fault_repeats[FAULT_COUNT] = {FAULTS(FAULT_REPEATS)};
#undef FAULT_REPEATS

static const char *const spread_names[] = {"zero", "even", "random", "tail"};

/* Most schedules are small: what can go wrong among many mostly goes wrong among three, and a
 * thousand small ones fit where one large one does. */
static uint64_t draw_sizes(struct plan *p, struct dice *d)
{
    uint64_t elements;
    if (dice_chance(d, 4)) { /* several segments of elements */
        p->vms = (uint32_t)dice_between(d, 1, 40);
        elements = dice_between(d, 4000, 14000);
    } else if (dice_chance(d, 25)) {
        p->vms = (uint32_t)dice_scale(d, 1, 60);
        elements = dice_scale(d, 1, 1500);
    } else {
        p->vms = (uint32_t)dice_scale(d, 1, 8);
        elements = dice_chance(d, 30) ? 0 : dice_scale(d, 1, 50);
    }
    p->stages = dice_chance(d, 600) ? 1 : (uint32_t)dice_between(d, 1, STAGES_MAX);
    return elements;
}

#define ON(name) (UINT64_C(1) << FAULT_##name)
/* Kinds that have something to do with each other; alone they would rarely meet. */
static const uint64_t themes[] = {
    0,
    ON(KILL) | ON(RESET) | ON(POISON) | ON(HANG) | ON(DEATH_LOST) | ON(DEATH_LATE),
    ON(BREAK) | ON(PARTITION) | ON(ONE_WAY) | ON(LONG_STOP) | ON(HANDOVER) | ON(DUPLICATE),
    ON(BREAK) | ON(LONG_STOP) | ON(HANDOVER) | ON(DUPLICATE) | ON(FAILING) | ON(SPECULATE),
    ON(DRAIN) | ON(RECYCLE) | ON(FARM_DRAIN) | ON(UNSERVE) | ON(JOIN_LATE) | ON(SLOW),
    ON(SPECULATE) | ON(SLOW) | ON(FAILING) | ON(KILL) | ON(STOP) | ON(HANG) | ON(BREAK),
    ON(SPECULATE) | ON(SLOW) | ON(DRAIN) | ON(UNSERVE) | ON(FARM_DRAIN) | ON(CALLS),
    ON(SPECULATE) | ON(CALLS) | ON(HANDOVER) | ON(BREAK) | ON(SLOW) | ON(DUPLICATE),
    ON(ASK_BACK) | ON(UNSERVE) | ON(STOP) | ON(JOIN_LATE) | ON(SLOW) | ON(KILL),
    ON(CANCEL) | ON(STRANGER) | ON(PAUSE) | ON(CALLS) | ON(LATE_CLOSE) | ON(BREAK),
    ON(CRASH) | ON(RECRASH) | ON(POWER) | ON(SYNC_FAIL) | ON(SYNC_SLOW) | ON(DISK_FULL),
    ON(CRASH) | ON(HANDOVER) | ON(DUPLICATE) | ON(FOREIGN) | ON(GHOST) | ON(SYNC_SLOW),
    ON(CRASH) | ON(HANDOVER) | ON(BREAK) | ON(LONG_STOP) | ON(PARTITION) | ON(KILL) | ON(GHOST),
    ON(CRASH) | ON(MOVED) | ON(DRAIN) | ON(RECYCLE) | ON(HANDOVER) | ON(SYNC_FAIL),
    ON(CRASH) | ON(FAILING) | ON(SPECULATE) | ON(CANCEL) | ON(POISON) | ON(HANDOVER),
};

static void draw_faults(struct plan *p, struct dice *d)
{
    static const unsigned shares[] = {0, 60, 150, 300, 600}; /* of all kinds that are on */
    unsigned share = shares[dice_below(d, sizeof(shares) / sizeof(shares[0]))];
    uint64_t theme = share == 0 ? 0 : themes[dice_below(d, sizeof(themes) / sizeof(themes[0]))];
    for (int k = 0; k < FAULT_COUNT; k++) {
        unsigned chance = (theme >> k & 1) != 0 ? 700 : share;
        p->weight[k] = dice_chance(d, chance) ? (unsigned)dice_scale(d, 1, 16) : 0;
        if (k == FAULT_HANDOVER && p->weight[k] > 0) {
            p->weight[k] = 16;
        }
        p->has_losses = p->has_losses || (p->weight[k] > 0 && fault_repeats[k]);
    }
}

static void draw_scheduler(struct plan *p, struct dice *d, uint64_t elements)
{
    struct sched_options *o = &p->sched;
    o->batch_max = dice_chance(d, 500) ? (uint32_t)dice_scale(d, 1, 256) : 0;
    o->batch_max = elements > 3000 ? 0 : o->batch_max;
    o->batch_ns = dice_chance(d, 300) ? dice_scale(d, 1 * MS, 100 * MS) : 0;
    o->batch_bytes = dice_chance(d, 200) ? (uint32_t)dice_scale(d, 1, 4096) : 0;
    o->in_flight = dice_chance(d, 300) ? (uint32_t)dice_between(d, 1, 4) : 0;
    o->live_max = dice_chance(d, 150) ? dice_scale(d, 1, elements + 1) : 0;
    o->max_own_deaths = dice_chance(d, 300) ? (uint32_t)dice_between(d, 1, 4) : 0;
    o->max_losses = dice_chance(d, 300) ? (uint32_t)dice_scale(d, 2, 30) : 0;
}

static void draw_stage(struct plan *p, struct dice *d, struct stage_plan *s, uint64_t elements)
{
    s->elements = elements;
    s->mean_ns = dice_scale(d, 1 * US, elements > 3000 ? 10 * MS : 20 * SEC);
    s->spread = (enum spread)dice_below(d, 4);
    s->is_ordered = dice_chance(d, 400);
    s->ahead = dice_chance(d, 400) ? dice_scale(d, 1, elements + 1) : elements + 1;
    s->block_max = dice_chance(d, 500) ? dice_scale(d, 1, 64) : 4096;
    s->pull_ns = dice_chance(d, 700) ? 0 : dice_scale(d, 1 * US, s->mean_ns + 10 * US);
    s->take_ns = dice_chance(d, 700) ? 0 : dice_scale(d, 1 * US, s->mean_ns + 10 * US);
    s->close_ns = p->weight[FAULT_LATE_CLOSE] > 0 ? dice_scale(d, 1 * MS, 20 * SEC) : 0;
    s->input_bytes = dice_chance(d, 700) ? 0 : (uint32_t)dice_scale(d, 1, 2000);
    s->result_bytes = dice_chance(d, 700) ? 0 : (uint32_t)dice_scale(d, 1, 2000);
    if (elements < 60 && dice_chance(d, 20)) {
        s->input_bytes = (uint32_t)dice_scale(d, 1000, 200000); /* several fragments */
        s->result_bytes = (uint32_t)dice_scale(d, 1000, 200000);
    }
    if (p->weight[FAULT_POISON] > 0) {
        s->poison = (uint32_t)dice_scale(d, 1, 300);
        s->poison_runs = dice_chance(d, 700) ? UINT32_MAX : (uint32_t)dice_between(d, 1, 3);
    }
    if (p->weight[FAULT_HANG] > 0) {
        s->hang = (uint32_t)dice_scale(d, 1, 200);
        s->hang_runs = dice_chance(d, 500) ? 1 : UINT32_MAX;
        if (s->hang_runs > 1 || dice_chance(d, 500)) {
            s->timeout_ms = (uint32_t)(s->mean_ns / MS * 70 * p->slow_percent / 100) + 1000;
        }
    }
    if (p->weight[FAULT_FAILING] > 0) {
        s->failing = (uint32_t)dice_scale(d, 1, 900);
        s->retries = dice_chance(d, 200) ? 0 : (uint32_t)dice_between(d, 1, 4);
        s->backoff_ns = dice_chance(d, 300) ? 0 : dice_scale(d, 1 * MS, 2 * SEC);
        if (p->weight[FAULT_HANDOVER] > 0) { /* late results while the element waits */
            s->failing = (uint32_t)dice_between(d, 300, 900);
            s->backoff_ns = dice_scale(d, 100 * MS, 2 * SEC);
        }
    }
    s->is_speculating = p->weight[FAULT_SPECULATE] > 0;
    s->serves = dice_chance(d, 900) ? 1 : (uint32_t)dice_between(d, 2, 3);
}

/* One element never ends and nobody ends it: its VM, or two of them, are lost to the others. */
static void draw_endless(struct plan *p, struct dice *d)
{
    struct stage_plan *s = &p->stage[dice_below(d, p->stages)];
    bool is_enough = p->vms >= (p->weight[FAULT_SPECULATE] > 0 ? 4u : 3u);
    if (p->weight[FAULT_ENDLESS] > 0 && is_enough && s->elements > 0) {
        s->endless = 1 + dice_below(d, s->elements);
        s->timeout_ms = 0;
        s->serves = 1;
        p->sched.live_max = 0;
    }
}

static void draw_network(struct plan *p, struct dice *d)
{
    p->has_frames = dice_chance(d, 250);
    p->latency_ns = dice_scale(d, 1 * US, 50 * MS);
    if (p->weight[FAULT_SPECULATE] > 0 && dice_chance(d, 500)) {
        p->latency_ns = dice_scale(d, 5 * MS, 300 * MS); /* what is asked and what runs cross */
    }
    p->jitter_ns = dice_chance(d, 500) ? 0 : dice_scale(d, 1 * US, 10 * p->latency_ns);
    p->byte_ps = dice_chance(d, 500) ? 0 : dice_scale(d, 100, 1000000);
    p->window = (uint32_t)dice_scale(d, 1, 256);
    p->sync_ns = dice_chance(d, 400) ? 0 : dice_scale(d, 10 * US, 200 * MS);
    p->turn_ns = dice_chance(d, 700) ? 0 : dice_scale(d, 1 * US, 1 * MS);
    p->dead_after_ns = dice_scale(d, 50 * MS, 10 * SEC) + 4 * (p->latency_ns + p->jitter_ns);
    p->vm_dead_ns = p->dead_after_ns * dice_between(d, 1, 8);
    p->restart_ns = dice_scale(d, 1 * MS, 500 * MS);
    p->hang_ns = dice_scale(d, 10 * MS, 20 * SEC);
    p->run_max = dice_chance(d, 600) ? 1024 : (uint32_t)dice_scale(d, 1, 16);
    p->suspect_after_ns = p->dead_after_ns / dice_between(d, 1, 8);
    p->recycle_after = (uint32_t)dice_scale(d, 1, 40);
    p->resume_ns = dice_scale(d, 1 * MS, 20 * SEC);
}

/* The faults come while the work is done: about as long as it takes alone, or some times that. */
static void draw_times(struct plan *p, struct dice *d)
{
    uint64_t work_ns = 0;
    for (uint32_t i = 0; i < p->stages; i++) {
        struct stage_plan *s = &p->stage[i];
        work_ns += s->elements * (s->mean_ns / 2 + s->pull_ns + s->take_ns);
    }
    work_ns = work_ns / p->vms + 20 * (p->latency_ns + p->jitter_ns + p->sync_ns) + 10 * MS;
    for (uint32_t i = 0; i < p->stages; i++) {
        p->stage[i].starts_ns = dice_chance(d, 500) ? 0 : dice_below(d, work_ns);
    }
    p->faults_end_ns = dice_scale(d, work_ns / 4, work_ns * 4);
    p->fault_gap_ns = p->faults_end_ns / dice_scale(d, 2, 24) + 1;
}

void plan_draw(struct plan *p, uint64_t seed, uint32_t vms, uint64_t elements)
{
    struct dice dice = {.state = dice_mix(seed + 0x5eed)};
    struct dice *d = &dice;
    uint64_t drawn, left;
    memset(p, 0, sizeof(*p));
    p->seed = seed;
    drawn = draw_sizes(p, d);
    p->vms = vms != 0 ? vms : p->vms;
    left = elements != UINT64_MAX ? elements : drawn;
    p->per_machine = (uint32_t)dice_between(d, 1, p->vms > 16 ? 16 : p->vms);
    /* Looking into all tables takes most of the time; what is broken stays broken for a while. */
    p->check_every = seed % 4 == 0 ? 1 : 5;
    if ((uint64_t)p->vms * 16 + left > 300) {
        p->check_every = 5 + (uint32_t)(((uint64_t)p->vms * 16 + left) / 60);
    }
    draw_faults(p, d);
    p->slow_percent = p->weight[FAULT_SLOW] > 0 ? (uint32_t)dice_scale(d, 110, 2000) : 100;
    draw_scheduler(p, d, left);
    for (uint32_t i = 0; i < p->stages; i++) {
        uint64_t share = left;
        if (i + 1 < p->stages && left > 0) {
            share = elements != UINT64_MAX ? left / (p->stages - i) : dice_below(d, left + 1);
        }
        draw_stage(p, d, &p->stage[i], share);
        left -= share;
    }
    draw_endless(p, d);
    draw_network(p, d);
    draw_times(p, d);
}

void plan_straggler(struct plan *p, uint64_t elements, uint64_t element_ns)
{
    *p = (struct plan){
        .vms = 4, .per_machine = 4, .stages = 1, .faults_end_ns = UINT64_MAX / 2,
        .fault_gap_ns = UINT64_MAX / 8, .latency_ns = 50 * US, .window = 256,
        .dead_after_ns = 10 * SEC, .suspect_after_ns = 2 * SEC, .vm_dead_ns = 60 * SEC,
        .restart_ns = 50 * MS, .run_max = 1024, .slow_percent = 1000, .slow_vms = 1,
        .check_every = 16};
    p->stage[0] = (struct stage_plan){
        .elements = elements, .mean_ns = element_ns, .spread = SPREAD_EVEN,
        .ahead = elements + 1, .block_max = 4096, .serves = 1};
}

void plan_print(const struct plan *p, FILE *out)
{
    const struct sched_options *o = &p->sched;
    fprintf(out, "%u VMs, %u per machine;", p->vms, p->per_machine);
    for (uint32_t i = 0; i < p->stages; i++) {
        const struct stage_plan *s = &p->stage[i];
        fprintf(out, " stage %u: %llu elements of %.3f ms (%s)%s, ahead %llu;", i + 1,
                (unsigned long long)s->elements, (double)s->mean_ns / 1e6,
                spread_names[s->spread], s->is_ordered ? ", ordered" : "",
                (unsigned long long)s->ahead);
    }
    fprintf(out, " batch_max %u, in_flight %u, live_max %llu, deaths %u, losses %u;", o->batch_max,
            o->in_flight, (unsigned long long)o->live_max, o->max_own_deaths, o->max_losses);
    fprintf(out, " latency %.3f+%.3f ms, sync %.3f ms, dead after %.0f ms%s; faults until %.0f ms:",
            (double)p->latency_ns / 1e6, (double)p->jitter_ns / 1e6, (double)p->sync_ns / 1e6,
            (double)p->dead_after_ns / 1e6, p->has_frames ? ", frames" : "",
            (double)p->faults_end_ns / 1e6);
    for (int k = 0; k < FAULT_COUNT; k++) {
        if (p->weight[k] > 0) {
            fprintf(out, " %s=%u", fault_names[k], p->weight[k]);
        }
    }
    fputc('\n', out);
}

/* --- elements ------------------------------------------------------------------------------ */

static uint64_t trait(const struct plan *p, uint32_t stage, uint64_t index, uint64_t which)
{
    return dice_mix(dice_mix(p->seed * 8 + which) + dice_mix((uint64_t)stage << 56 ^ index));
}

uint64_t plan_element_ns(const struct plan *p, uint32_t stage, uint64_t index)
{
    const struct stage_plan *s = &p->stage[stage];
    uint64_t hash = trait(p, stage, index, 1);
    switch (s->spread) {
    case SPREAD_ZERO:
        return 0;
    case SPREAD_EVEN:
        return s->mean_ns;
    case SPREAD_RANDOM:
        return hash % (2 * s->mean_ns);
    case SPREAD_TAIL: /* half of them a quarter as long, then ever fewer ever longer ones */
        return (s->mean_ns / 4 + 1) << (hash == 0 ? 8 : __builtin_ctzll(hash | 1u << 8));
    }
    return 0;
}

bool plan_is_poison(const struct plan *p, uint32_t stage, uint64_t index)
{
    uint32_t poison = p->stage[stage].poison;
    return poison > 0 && trait(p, stage, index, 2) % 1000 < poison &&
           index + 1 != p->stage[stage].endless;
}

bool plan_is_hanging(const struct plan *p, uint32_t stage, uint64_t index)
{
    uint32_t hang = p->stage[stage].hang;
    return hang > 0 && trait(p, stage, index, 3) % 1000 < hang &&
           index + 1 != p->stage[stage].endless;
}

bool plan_is_failing(const struct plan *p, uint32_t stage, uint64_t index, uint32_t run)
{
    uint32_t failing = p->stage[stage].failing;
    uint64_t hash = trait(p, stage, index, 4);
    if (failing == 0 || hash % 1000 >= failing) {
        return false;
    }
    return (hash >> 32) % 4 == 0 || dice_mix(hash + run) % 100 < 60;
}

uint64_t plan_patience_ns(const struct plan *p)
{
    uint64_t deaths = (p->sched.max_own_deaths != 0 ? p->sched.max_own_deaths : 3) +
                      (p->sched.max_losses != 0 ? p->sched.max_losses : 20) + 2;
    uint64_t each = 4 * (p->latency_ns + p->jitter_ns + p->sync_ns + p->turn_ns) + 1 * MS;
    uint64_t patience = 60 * SEC + 30 * (p->dead_after_ns + p->vm_dead_ns + p->restart_ns) +
                        p->resume_ns;
    uint64_t runs = 1;
    if (p->weight[FAULT_POISON] > 0) {
        runs = deaths;
    } else if (p->weight[FAULT_RECYCLE] > 0) {
        runs = 2;
    }
    if (p->weight[FAULT_HANG] > 0) {
        runs = deaths;
    }
    if (runs > 1) { /* what died is kept from the VM it died on for a while */
        each += 2 * p->restart_ns + 62 * SEC;
    }
    if (p->weight[FAULT_FAILING] > 0) {
        runs += 4;
        each += 40 * SEC;
    }
    for (uint32_t i = 0; i < p->stages; i++) {
        const struct stage_plan *s = &p->stage[i];
        uint64_t bytes_ns = (s->input_bytes + s->result_bytes + 200) * p->byte_ps / 1000;
        patience += s->close_ns + s->starts_ns;
        for (uint64_t k = 0; k < s->elements; k++) {
            uint64_t work_ns = plan_element_ns(p, i, k) * p->slow_percent / 100;
            work_ns += plan_is_hanging(p, i, k) ? p->hang_ns + s->timeout_ms * MS : 0;
            patience += runs * (each + bytes_ns + 3 * work_ns) + s->pull_ns + s->take_ns;
        }
    }
    return patience;
}
