/* SPDX-License-Identifier: MIT */
/* vm.c - the life of VMs, their leases, and what their supervisors say. */
#include <assert.h>
#include <signal.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sim.h"

struct vm *vm_get(struct sim *s, uint32_t number)
{
    assert(number < s->vms.count);
    return &s->vms.all[number];
}

uint32_t vm_machine(const struct sim *s, uint32_t number)
{
    return number / s->plan.per_machine;
}

static struct machine *machine_of(struct sim *s, const struct vm *vm)
{
    return &s->vms.machines[vm_machine(s, vm->number)];
}

bool vm_takes_packets(struct sim *s, const struct conn *c)
{
    const struct vm *vm = vm_get(s, c->vm);
    return vm->is_up && !vm->is_stopped;
}

/* --- the supervisor ------------------------------------------------------------------------ */

static void put_incarnation(const struct vm *vm, uint8_t out[16])
{
    memset(out, 0, 16);
    memcpy(out, &vm->life, sizeof(vm->life));
    memcpy(out + 8, &vm->number, sizeof(vm->number));
    out[15] = 1; /* none is all zeros */
}

static void say_state(struct sim *s, const struct vm *vm, enum trk_vm_state state)
{
    struct machine *m = machine_of(s, vm);
    struct trk_vm_info info = {.index = vm->number, .state = state, .module = "python"};
    struct wire_vms vms = {.infos = &info, .count = 1};
    if (m->is_down || m->watch == CONN_NONE) {
        return;
    }
    put_incarnation(vm, info.incarnation);
    net_send(s, net_conn(s, m->watch), TO_FARM, WIRE_VMS, 0, wire_vms_encode(&vms));
}

/* Prepares the report; it may come late or never. */
static void report_death(struct sim *s, const struct vm *vm, int signal, enum wire_end end)
{
    struct vms *v = &s->vms;
    bool has_element = vm->is_busy && vm->job.kind == AGENT_ELEMENT;
    struct wire_death death = {.index = vm->number, .signal = signal, .end = end,
                               .is_expected = end != WIRE_END_UNKNOWN && end != WIRE_END_TIMEOUT,
                               .has_element = has_element};
    uint64_t delay_ns = 0;
    if (machine_of(s, vm)->is_down) {
        return;
    }
    if (fault_strikes(s, FAULT_DEATH_LOST)) {
        tell(s, "vm", vm->number, "the report of its death is lost");
        s->tally.faults[FAULT_DEATH_LOST]++;
        return;
    }
    if (fault_strikes(s, FAULT_DEATH_LATE)) {
        delay_ns = dice_scale(&s->dice, 1 * MS, 4 * SEC);
        s->tally.faults[FAULT_DEATH_LATE]++;
    }
    put_incarnation(vm, death.vm);
    if (has_element) {
        death.stage = vm->job.stage;
        death.attempt = vm->job.attempt;
        death.index_of_element = vm->job.index;
        death.ran_ns = s->clock.now_ns - vm->started_ns;
    }
    v->reports = sim_grow(v->reports, v->report_count + 1, sizeof(*v->reports));
    v->reports[v->report_count] = wire_death_encode(&death);
    clock_in(&s->clock, delay_ns, EVENT_DEATH, vm_machine(s, vm->number), v->report_count);
    v->report_count++;
}

void vm_on_death(struct sim *s, uint32_t machine, uint32_t report)
{
    struct blob *body = s->vms.reports[report];
    struct machine *m = &s->vms.machines[machine];
    s->vms.reports[report] = NULL;
    if (m->is_down || m->watch == CONN_NONE) {
        blob_unref(body);
        return;
    }
    net_send(s, net_conn(s, m->watch), TO_FARM, WIRE_DEATH, 0, body);
}

/* --- being heard --------------------------------------------------------------------------- */

static void block(struct sim *s, struct vm *vm)
{
    uint32_t conn = s->farm.is_alive ? s->farm.slots[vm->number].conn : CONN_NONE;
    if (vm->blocks++ > 0) {
        return;
    }
    vm->blocked_ns = s->clock.now_ns;
    if (conn != CONN_NONE) {
        clock_in(&s->clock, s->plan.suspect_after_ns, EVENT_FARM_SUSPECT, vm->number, 1);
        clock_in(&s->clock, s->plan.dead_after_ns, EVENT_FARM_SILENT, vm->number, conn);
    }
    if (vm->conn != CONN_NONE) {
        clock_in(&s->clock, s->plan.vm_dead_ns, EVENT_VM_SILENT, vm->number, vm->conn);
    }
}

static void unblock(struct sim *s, struct vm *vm)
{
    assert(vm->blocks > 0);
    vm->blocks--;
    if (vm->blocks == 0) { /* its next sign of life */
        clock_in(&s->clock, s->plan.latency_ns, EVENT_FARM_SUSPECT, vm->number, 0);
        if (vm->conn != CONN_NONE) {
            clock_in(&s->clock, s->plan.latency_ns, EVENT_FARM_LATE, vm->number, vm->conn);
        }
    }
}

void machine_cut(struct sim *s, uint32_t machine, enum way way, bool is_cut)
{
    struct machine *m = &s->vms.machines[machine];
    if (m->is_cut[way] == is_cut) {
        return;
    }
    m->is_cut[way] = is_cut;
    for (uint32_t i = 0; i < s->vms.count; i++) {
        if (vm_machine(s, i) == machine) {
            if (is_cut) {
                block(s, vm_get(s, i));
            } else {
                unblock(s, vm_get(s, i));
            }
        }
    }
    if (!is_cut) {
        net_kick(s);
    }
}

void vm_stop(struct sim *s, struct vm *vm)
{
    if (!vm->is_up || vm->is_stopped) {
        return;
    }
    vm->is_stopped = true;
    vm->step++; /* the end of what it does is put off */
    if (vm->is_busy && !vm->is_hanging) {
        vm->ends_ns -= s->clock.now_ns; /* what is left of it */
    }
    block(s, vm);
}

void vm_continue(struct sim *s, struct vm *vm)
{
    if (!vm->is_stopped) {
        return;
    }
    tell(s, "vm", vm->number, "goes on");
    vm->is_stopped = false;
    unblock(s, vm);
    if (vm->is_busy && !vm->is_hanging) {
        vm->ends_ns += s->clock.now_ns;
        clock_at(&s->clock, vm->ends_ns, EVENT_VM_STEP, vm->number, vm->step);
    }
    if (vm->conn != CONN_NONE && net_conn(s, vm->conn)->is_deserted) {
        clock_in(&s->clock, s->plan.vm_dead_ns, EVENT_VM_SILENT, vm->number, vm->conn);
    }
    net_kick(s);
    compute(s, vm);
}

/* --- the process --------------------------------------------------------------------------- */

static void forget_unacked(struct vm *vm)
{
    for (uint32_t i = vm->unacked_head; i < vm->unacked_count; i++) {
        blob_unref(vm->unacked[i].body);
    }
    vm->unacked_head = vm->unacked_count = 0;
}

/* What is left of the process goes; nothing of it is on the way but what net.c has. */
static void process_end(struct sim *s, struct vm *vm)
{
    if (vm->is_stopped) {
        vm->is_stopped = false;
        unblock(s, vm);
    }
    compute_drop(vm);
    forget_unacked(vm);
    agent_free(vm->agent);
    vm->agent = NULL;
    vm->conn = CONN_NONE;
    vm->is_up = vm->is_orphan = vm->is_draining = false;
    vm->life++;
    s->vms.touched = UINT32_MAX;
}

static void restart(struct sim *s, struct vm *vm)
{
    uint64_t wait_ns = dice_between(&s->dice, s->plan.restart_ns / 2, s->plan.restart_ns);
    if (vm->is_away) {
        return; /* vm_return() */
    }
    clock_in(&s->clock, wait_ns, EVENT_VM_READY, vm->number, vm->life);
}

void vm_die(struct sim *s, struct vm *vm, int signal, enum wire_end end)
{
    struct conn *c = vm->conn != CONN_NONE ? net_conn(s, vm->conn) : NULL;
    assert(vm->is_up);
    if (vm->is_busy && vm->job.kind == AGENT_ELEMENT) {
        judge_died(s, vm->job.stage, vm->job.index, vm->run);
    }
    report_death(s, vm, signal, end);
    process_end(s, vm);
    if (c != NULL) {
        net_close(s, c, END_VM, LEAVE_ABRUPT);
    }
    if (!vm->is_away) {
        say_state(s, vm, TRK_VM_STARTING);
    }
    restart(s, vm);
}

void vm_kill(struct sim *s, struct vm *vm, int signal)
{
    if (vm->is_up) {
        tell(s, "vm", vm->number, "killed by signal %d", signal);
        vm_die(s, vm, signal, WIRE_END_UNKNOWN);
    }
}

void vm_on_ready(struct sim *s, uint32_t number, uint64_t life)
{
    struct vm *vm = vm_get(s, number);
    if (vm->is_up || vm->life != life || machine_of(s, vm)->is_down) {
        return;
    }
    vm->agent = agent_new();
    if (vm->agent == NULL) {
        sim_broken(s, "out of memory");
    }
    if (MUTATE(FENCE_FORGOTTEN, false, true)) {
        agent_use_fences(vm->agent, vm->fences);
    }
    vm->is_up = true;
    vm->is_away = false;
    vm->elements_done = 0;
    tell(s, "vm", number, "is up (process %llu)", (unsigned long long)life);
    say_state(s, vm, TRK_VM_IDLE);
    net_kick(s);
    sim_progress(s);
}

void vm_return(struct sim *s, struct vm *vm)
{
    if (vm->is_away && !vm->is_up) {
        vm->is_away = false;
        restart(s, vm);
    }
}

void machine_reset(struct sim *s, uint32_t machine)
{
    struct machine *m = &s->vms.machines[machine];
    m->is_down = true;
    for (uint32_t i = 0; i < s->vms.count; i++) {
        struct vm *vm = vm_get(s, i);
        if (vm_machine(s, i) != machine) {
            continue;
        }
        if (vm->is_busy && vm->job.kind == AGENT_ELEMENT) {
            judge_died(s, vm->job.stage, vm->job.index, vm->run);
        }
        if (vm->is_up) {
            process_end(s, vm);
        }
        memset(vm->fences, 0, sizeof(vm->fences)); /* they are in its supervisor's memory */
        judge_unfenced(s, i);
    }
    for (uint32_t i = 0; i < m->held_count; i++) {
        m->held[i].is_sent = false;
    }
    for (uint32_t i = 0; i < s->net.live_count;) {
        struct conn *c = net_conn(s, s->net.live[i]);
        if (c->kind == CONN_LEASE && vm_machine(s, c->vm) == machine && c->is_open[END_VM]) {
            c->is_vanished = true;
            clock_in(&s->clock, s->plan.dead_after_ns, EVENT_FARM_SILENT, c->vm, c->id);
            net_close(s, c, END_VM, LEAVE_SILENT);
            i = c->is_live ? i + 1 : i;
        } else {
            i++;
        }
    }
}

void machine_return(struct sim *s, uint32_t machine)
{
    s->vms.machines[machine].is_down = false;
    spool_push(s, machine);
    for (uint32_t i = 0; i < s->vms.count; i++) {
        struct vm *vm = vm_get(s, i);
        if (vm_machine(s, i) == machine && !vm->is_up) {
            say_state(s, vm, TRK_VM_STARTING);
            restart(s, vm);
        }
    }
    for (uint32_t i = 0; i < s->net.live_count; i++) {
        struct conn *c = net_conn(s, s->net.live[i]);
        if (c->kind == CONN_LEASE && vm_machine(s, c->vm) == machine && c->is_vanished) {
            net_refuse(s, c, TO_FARM);
        }
    }
}

/* --- the lease ----------------------------------------------------------------------------- */

/* When held results are handed over: at any time; or, where elements are tried again, as likely
 * as not while the element waits for its next try. */
static uint64_t handover_ns(struct sim *s, const struct blob *result)
{
    const struct stage_plan *p = &s->plan.stage[le_load_u32(result->data) - 1];
    uint64_t backoff_ns = p->backoff_ns != 0 ? p->backoff_ns : 100 * MS;
    if (p->retries == 0 || dice_chance(&s->dice, 300)) {
        return dice_scale(&s->dice, 1 * US, 5 * SEC);
    }
    return (dice_chance(&s->dice, 500) ? 500 * MS : 0) + dice_below(&s->dice, 2 * p->mean_ns) +
           dice_below(&s->dice, 2 * backoff_ns);
}

/* Our book: what was not kept is let go without an acknowledgement. */
static void forget_volatile(struct vm *vm)
{
    uint32_t kept = vm->unacked_head;
    for (uint32_t i = vm->unacked_head; i < vm->unacked_count; i++) {
        if (vm->unacked[i].is_durable) {
            vm->unacked[kept++] = vm->unacked[i];
        } else {
            blob_unref(vm->unacked[i].body);
        }
    }
    vm->unacked_count = kept;
}

/* What is held goes to disk, to be handed over by the supervisor. */
static void make_spool(struct sim *s, struct vm *vm)
{
    struct machine *m = machine_of(s, vm);
    uint32_t first = m->held_count, results = 0;
    struct blob *body = NULL;
    struct agent_kept kept;
    uint64_t seq = 0;
    forget_volatile(vm);
    while (agent_kept_next(vm->agent, &seq, &kept)) {
        body = body != NULL ? body : blob_ref((struct blob *)(uintptr_t)kept.body);
        results += spool_add(s, vm, &kept);
    }
    agent_let_go(vm->agent, seq);
    forget_unacked(vm);
    if (body == NULL) {
        return;
    }
    tell(s, "vm", vm->number, "spools %u held results", results);
    s->tally.faults[FAULT_HANDOVER]++;
    clock_in(&s->clock, handover_ns(s, body), EVENT_SPOOL, vm_machine(s, vm->number),
             (uint64_t)m->held_count << 32 | first);
    blob_unref(body);
}

void vm_orphan_done(struct sim *s, struct vm *vm)
{
    compute_hold(s, vm);
    make_spool(s, vm);
    vm_die(s, vm, 0, WIRE_END_LEASE);
}

/* The holder has gone (is_lost), or has said goodbye. */
static void lease_over(struct sim *s, struct vm *vm, bool is_lost)
{
    struct conn *c = net_conn(s, vm->conn);
    bool can_stay = !agent_is_used(vm->agent) && !vm->is_draining;
    vm->conn = CONN_NONE;
    tell(s, "vm", vm->number, "lease over%s", can_stay ? ", it stays" : "");
    net_close(s, c, END_VM, LEAVE_ABRUPT);
    if (can_stay) {
        if (!agent_release(vm->agent)) {
            sim_broken(s, "VM %u was never used and yet has to restart", vm->number);
        }
        say_state(s, vm, TRK_VM_IDLE);
    } else if (is_lost && !vm->is_endless && fault_strikes(s, FAULT_HANDOVER)) {
        vm->is_orphan = true;
        agent_orphan(vm->agent);
        make_spool(s, vm);
        if (!vm->is_busy || vm->job.kind != AGENT_ELEMENT) {
            vm_orphan_done(s, vm);
        }
    } else {
        vm_die(s, vm, 0, vm->is_draining ? vm->leaving : WIRE_END_LEASE);
    }
}

static void welcome(struct sim *s, struct conn *c, const struct vm *vm, bool is_accepted)
{
    struct wire_welcome w = {.is_accepted = is_accepted, .reason = "leased by somebody"};
    put_incarnation(vm, w.vm.incarnation);
    w.vm.index = vm->number;
    w.vm.state = TRK_VM_LEASED;
    net_send(s, c, TO_FARM, WIRE_WELCOME, 0, wire_welcome_encode(&w));
}

static void on_hello(struct sim *s, struct conn *c, struct vm *vm, struct wire_message *msg)
{
    struct wire_hello hello;
    int rc = msg->type == WIRE_HELLO ? wire_hello_decode(&hello, msg->body) : TRK_ECORRUPT;
    if (rc < 0) {
        sim_broken(s, "VM %u: a %s instead of a hello", vm->number, wire_type_name(msg->type));
    }
    if (vm->is_draining || agent_lease(vm->agent, &hello) < 0) {
        welcome(s, c, vm, false);
        net_close(s, c, END_VM, LEAVE_FLUSH);
        return;
    }
    judge_leased(s, vm->number, hello.epoch, hello.incarnation);
    vm->conn = c->id;
    vm->opened = vm->cancelled = 0;
    net_trust(c, TO_VM);
    welcome(s, c, vm, true);
    say_state(s, vm, TRK_VM_LEASED);
    if (vm->blocks > 0) {
        clock_in(&s->clock, s->plan.vm_dead_ns, EVENT_VM_SILENT, vm->number, vm->conn);
    }
}

void vm_on_close(struct sim *s, struct conn *c)
{
    if (c->kind == CONN_WATCH) {
        struct machine *m = &s->vms.machines[c->vm];
        m->watch = m->watch == c->id ? CONN_NONE : m->watch;
    } else if (vm_get(s, c->vm)->conn == c->id) {
        lease_over(s, vm_get(s, c->vm), true);
    }
}

void vm_on_silent(struct sim *s, uint32_t number, uint32_t conn)
{
    struct vm *vm = vm_get(s, number);
    bool is_deserted = vm->conn == conn && net_conn(s, conn)->is_deserted;
    if (vm->conn != conn || vm->is_stopped || (vm->blocks == 0 && !is_deserted)) {
        return;
    }
    if (!is_deserted && s->clock.now_ns < vm->blocked_ns + s->plan.vm_dead_ns) {
        return; /* another silence, which has its own event */
    }
    tell(s, "vm", number, "has not heard its holder for too long");
    lease_over(s, vm, true);
}

/* What has not started goes back to the holder. */
static void give_back(struct sim *s, struct vm *vm)
{
    struct wire_message out;
    int rc;
    while (vm->conn != CONN_NONE && (rc = agent_give_back(vm->agent, &out)) != 0) {
        if (rc < 0) {
            sim_broken(s, "out of memory");
        }
        net_send(s, net_conn(s, vm->conn), TO_FARM, out.type, out.stream, out.body);
    }
    s->vms.touched = vm->number;
}

void vm_drain(struct sim *s, struct vm *vm, bool is_leaving)
{
    if (!vm->is_up || vm->is_draining || vm->is_stopped) {
        return;
    }
    vm->is_draining = true;
    vm->is_away = is_leaving;
    vm->leaving = is_leaving ? WIRE_END_DRAINED : WIRE_END_RECYCLED;
    tell(s, "vm", vm->number, "drains");
    if (is_leaving) {
        say_state(s, vm, TRK_VM_STOPPING);
    }
    if (vm->conn != CONN_NONE) {
        give_back(s, vm);
        net_send(s, net_conn(s, vm->conn), TO_FARM, WIRE_BYE, 0, blob_new(0));
    }
    compute_move(s, vm);
    compute(s, vm);
}

void vm_leave(struct sim *s, struct vm *vm)
{
    struct conn *c = vm->conn != CONN_NONE ? net_conn(s, vm->conn) : NULL;
    if (MUTATE(DRAIN_LOSES, false, true)) {
        compute_hold(s, vm);
    }
    if (c != NULL) {
        vm->conn = CONN_NONE;
        net_close(s, c, END_VM, MUTATE(DRAIN_LOSES, LEAVE_ABRUPT, LEAVE_FLUSH));
    }
    tell(s, "vm", vm->number, "has drained");
    vm_die(s, vm, 0, vm->leaving);
}

/* --- messages ------------------------------------------------------------------------------ */

/* An acknowledgement: our book first, so that the judge sees what is let go. */
static void let_go(struct sim *s, struct vm *vm, const struct blob *body)
{
    struct wire_note note;
    if (wire_note_decode(&note, body) < 0) {
        sim_broken(s, "VM %u: an ACK that cannot be read", vm->number);
    }
    while (vm->unacked_head < vm->unacked_count &&
           vm->unacked[vm->unacked_head].seq <= note.seq) {
        struct unacked *u = &vm->unacked[vm->unacked_head++];
        judge_released(s, vm->number, agent_holder(vm->agent)->epoch, u->body);
        blob_unref(u->body);
    }
}

static uint32_t stage_bit_of(struct sim *s, const struct wire_message *msg)
{
    uint32_t stage = le_load_u32(msg->body->data);
    if (msg->type == WIRE_CANCEL) {
        struct wire_note note;
        stage = wire_note_decode(&note, msg->body) == 0 ? note.stage : 0;
    }
    if (stage == 0 || stage > s->plan.stages) {
        sim_broken(s, "a %s of stage %u, which there is not", wire_type_name(msg->type), stage);
    }
    return 1u << stage;
}

static void on_holder_message(struct sim *s, struct conn *c, struct vm *vm,
                              struct wire_message *msg)
{
    uint8_t type = msg->type;
    uint32_t stage_bit = type == WIRE_STAGE || type == WIRE_CANCEL ? stage_bit_of(s, msg) : 0;
    struct wire_note note = {0};
    struct wire_message out;
    bool has_out;
    int rc;
    if (type == WIRE_CANCEL && wire_note_decode(&note, msg->body) < 0) {
        sim_broken(s, "VM %u: a CANCEL that cannot be read", vm->number);
    }
    if (type == WIRE_ACK) {
        let_go(s, vm, msg->body);
    }
    rc = agent_message(vm->agent, msg, &has_out, &out);
    if (rc < 0) {
        sim_broken(s, "VM %u refused a %s: %s", vm->number, wire_type_name(type),
                   trk_strerror(rc));
    }
    if (type == WIRE_CANCEL && note.count == 0) {
        vm->cancelled |= stage_bit;
    }
    if (type == WIRE_CANCEL && (note.count > 0 || note.flag != 0)) {
        compute_interrupt(s, vm, &note);
    }
    if (has_out) {
        net_send(s, c, TO_FARM, out.type, out.stream, out.body);
    }
    s->vms.touched = vm->number;
    if (vm->is_draining) {
        give_back(s, vm); /* what comes now goes straight back */
    }
    compute(s, vm);
}

void vm_on_message(struct sim *s, struct conn *c, struct wire_message *msg)
{
    struct vm *vm;
    if (c->kind == CONN_WATCH) {
        spool_on_message(s, c, msg);
        blob_unref(msg->body);
        return;
    }
    vm = vm_get(s, c->vm);
    if (vm->conn != c->id) {
        on_hello(s, c, vm, msg);
        blob_unref(msg->body);
    } else if (msg->type == WIRE_BYE) {
        blob_unref(msg->body);
        lease_over(s, vm, false);
    } else {
        on_holder_message(s, c, vm, msg);
    }
}

void vm_check(struct sim *s, uint32_t number)
{
    struct vm *vm = vm_get(s, number);
    size_t held;
    if (vm->agent == NULL) {
        return;
    }
    agent_check(vm->agent);
    held = agent_held(vm->agent, NULL);
    if (held != vm->unacked_count - vm->unacked_head) {
        sim_broken(s, "VM %u holds %zu messages, %u were sent and not acknowledged", number, held,
                   vm->unacked_count - vm->unacked_head);
    }
}

/* --- all of them --------------------------------------------------------------------------- */

void vms_start(struct sim *s)
{
    struct vms *v = &s->vms;
    v->count = s->plan.vms;
    v->machine_count = vm_machine(s, v->count - 1) + 1;
    v->all = sim_alloc(v->count, sizeof(*v->all));
    v->machines = sim_alloc(v->machine_count, sizeof(*v->machines));
    for (uint32_t i = 0; i < v->machine_count; i++) {
        v->machines[i].watch = CONN_NONE;
    }
    for (uint32_t i = 0; i < v->count; i++) {
        struct vm *vm = &v->all[i];
        uint64_t ready_ns = 0;
        vm->number = i;
        vm->conn = CONN_NONE;
        vm->slow_percent = 100;
        if (i < s->plan.slow_vms) {
            vm->slow_percent = s->plan.slow_percent;
        } else if (fault_strikes(s, FAULT_SLOW)) {
            vm->slow_percent = s->plan.slow_percent;
            s->tally.faults[FAULT_SLOW]++;
        }
        if (fault_strikes(s, FAULT_JOIN_LATE)) {
            ready_ns = dice_below(&s->dice, s->plan.faults_end_ns + 1);
            s->tally.faults[FAULT_JOIN_LATE]++;
        }
        clock_at(&s->clock, ready_ns, EVENT_VM_READY, i, 0);
    }
}

void vms_watch(struct sim *s)
{
    for (uint32_t i = 0; i < s->vms.machine_count; i++) {
        struct machine *m = &s->vms.machines[i];
        struct conn *watch = net_connect(s, CONN_WATCH, i);
        net_trust(watch, TO_FARM);
        net_trust(watch, TO_VM);
        m->watch = watch->id;
        m->asked = 0;
        for (uint32_t k = 0; k < m->held_count; k++) {
            m->held[k].is_sent = false;
        }
    }
    for (uint32_t i = 0; i < s->vms.count; i++) {
        const struct vm *vm = vm_get(s, i);
        enum trk_vm_state state = vm->is_away ? TRK_VM_STOPPING
                                  : !vm->is_up ? TRK_VM_STARTING
                                  : agent_is_leased(vm->agent) ? TRK_VM_LEASED : TRK_VM_IDLE;
        say_state(s, vm, state);
    }
}

void vms_fini(struct sim *s)
{
    struct vms *v = &s->vms;
    for (uint32_t i = 0; i < v->count; i++) {
        struct vm *vm = &v->all[i];
        compute_fini(vm);
        forget_unacked(vm);
        mem_free(vm->unacked);
        agent_free(vm->agent);
    }
    for (uint32_t i = 0; i < v->machine_count; i++) {
        spool_fini(&v->machines[i]);
    }
    for (uint32_t i = 0; i < v->report_count; i++) {
        blob_unref(v->reports[i]);
    }
    mem_free(v->reports);
    mem_free(v->machines);
    mem_free(v->all);
}
