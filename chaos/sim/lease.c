/* SPDX-License-Identifier: MIT */
/* lease.c - leases on VMs, as in src/farm/lease.c. */
#include <signal.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sim.h"

#define DEATH_WAIT_NS (500 * MS)
#define RETRY_NS (20 * MS)

static struct slot *slot_get(struct sim *s, uint32_t vm)
{
    return &s->farm.slots[vm];
}

/* --- getting a VM -------------------------------------------------------------------------- */

void lease_fill(struct sim *s, uint32_t vm)
{
    struct slot *slot = slot_get(s, vm);
    struct conn *c;
    if (slot->state != SLOT_FREE || s->farm.is_closing ||
        (slot->said != TRK_VM_IDLE && slot->said != TRK_VM_STARTING)) {
        return;
    }
    if (slot->retry_ns > s->clock.now_ns) {
        clock_at(&s->clock, slot->retry_ns, EVENT_FARM_RETRY, vm, 0);
        return;
    }
    c = net_connect(s, CONN_LEASE, vm);
    slot->conn = c->id;
    slot->state = SLOT_TRYING;
    net_send(s, c, TO_VM, WIRE_HELLO, 0, blob_ref(s->farm.hello));
    clock_in(&s->clock, 5 * s->plan.dead_after_ns, EVENT_FARM_SILENT, vm, c->id);
}

static void lease_free(struct sim *s, struct slot *slot, uint32_t vm)
{
    slot->state = SLOT_FREE;
    slot->conn = CONN_NONE;
    slot->is_down = slot->has_death = slot->is_draining = false;
    s->farm.leaving -= slot->is_leaving;
    slot->is_given_back = slot->is_leaving = slot->has_said_bye = false;
    slot->told = 0;
    lease_fill(s, vm);
}

static void refused(struct sim *s, struct slot *slot, uint32_t vm)
{
    slot->refusals++;
    slot->retry_ns = s->clock.now_ns + RETRY_NS * (slot->refusals < 20 ? slot->refusals : 20);
    lease_free(s, slot, vm);
}

void lease_on_welcome(struct sim *s, struct conn *c, struct wire_message *msg)
{
    struct slot *slot = slot_get(s, c->vm);
    struct wire_welcome w;
    int rc = msg->type == WIRE_WELCOME ? wire_welcome_decode(&w, msg->body) : TRK_ECORRUPT;
    if (rc < 0) {
        sim_broken(s, "VM %u said %s instead of WELCOME", c->vm, wire_type_name(msg->type));
    }
    if (!w.is_accepted) {
        tell(s, "farm", 0, "is refused by VM %u", c->vm);
        net_close(s, c, END_FARM, LEAVE_ABRUPT);
        refused(s, slot, c->vm);
        return;
    }
    slot->state = SLOT_HELD; /* what its supervisor said stays: it may be newer than this */
    slot->refusals = 0;
    slot->seq_acked = 0;
    slot->calls = 0;
    slot->lease++;
    slot->told = 0;
    memcpy(slot->incarnation, w.vm.incarnation, 16);
    net_trust(c, TO_FARM);
    tell(s, "farm", 0, "holds VM %u", c->vm);
    drive_vm_joined(s, c->vm);
    sim_progress(s);
}

void farm_on_retry(struct sim *s, uint32_t vm)
{
    lease_fill(s, vm);
}

/* --- losing and giving back ---------------------------------------------------------------- */

static enum sched_cause cause_of(const struct slot *slot)
{
    if (!slot->has_death) {
        return slot->is_given_back || slot->has_said_bye ? SCHED_CAUSE_EXPECTED : SCHED_CAUSE_LOSS;
    }
    if (slot->death.is_expected) {
        return SCHED_CAUSE_EXPECTED;
    }
    if (!slot->death.has_element) { /* killed from outside while nothing ran */
        return slot->death.signal == SIGKILL ? SCHED_CAUSE_EXPECTED : SCHED_CAUSE_LOSS;
    }
    if (slot->death.end == WIRE_END_TIMEOUT) {
        return SCHED_CAUSE_TIMEOUT;
    }
    return slot->death.signal == SIGSEGV ? SCHED_CAUSE_OWN : SCHED_CAUSE_LOSS;
}

static void finish_loss(struct sim *s, struct slot *slot, uint32_t vm)
{
    if (slot->is_joined) {
        slot->is_joined = false;
        drive_vm_lost(s, vm, cause_of(slot), slot->has_death ? &slot->death : NULL);
    }
    lease_free(s, slot, vm);
    farm_touch(s);
}

void farm_on_loss(struct sim *s, uint32_t vm, uint64_t lease)
{
    struct slot *slot = slot_get(s, vm);
    if (slot->is_down && slot->lease == lease) {
        finish_loss(s, slot, vm);
    }
}

/* The connection with a VM is over: what became of it is told by its supervisor. */
void lease_session_ends(struct sim *s, uint32_t vm)
{
    struct slot *slot = slot_get(s, vm);
    if (slot->state == SLOT_TRYING) {
        refused(s, slot, vm);
    } else if (slot->state == SLOT_HELD && !slot->is_down) {
        slot->is_down = true;
        clock_in(&s->clock, slot->has_death || slot->is_given_back ? 0 : DEATH_WAIT_NS,
                 EVENT_FARM_LOSS, vm, slot->lease);
    }
}

void farm_on_close(struct sim *s, struct conn *c)
{
    if (c->kind == CONN_LEASE && slot_get(s, c->vm)->conn == c->id) {
        tell(s, "farm", 0, "sees the end of its connection with VM %u", c->vm);
        lease_session_ends(s, c->vm);
    }
}

void farm_on_silent(struct sim *s, uint32_t vm, uint32_t conn)
{
    struct slot *slot = slot_get(s, vm);
    const struct vm *v = vm_get(s, vm);
    struct conn *c = net_conn(s, conn);
    bool is_silent = c->is_vanished ||
                     (v->blocks > 0 && s->clock.now_ns >= v->blocked_ns + s->plan.dead_after_ns);
    if (slot->conn != conn || slot->is_down || (slot->state == SLOT_HELD && !is_silent)) {
        return;
    }
    tell(s, "farm", 0, "has not heard VM %u for too long", vm);
    if (slot->state == SLOT_HELD && dice_chance(&s->dice, 500)) {
        c->is_late = true; /* it may still have something to say */
    } else {
        net_close(s, c, END_FARM, LEAVE_ABRUPT);
    }
    lease_session_ends(s, vm);
}

void farm_on_late(struct sim *s, uint32_t vm, uint32_t conn)
{
    struct conn *c = net_conn(s, conn);
    if (c->is_late && !c->is_given_back) {
        tell(s, "farm", 0, "VM %u speaks again, and is given back", vm);
        c->is_given_back = true;
        net_send(s, c, TO_VM, WIRE_BYE, 0, blob_new(0));
    }
}

void lease_end(struct sim *s, uint32_t vm)
{
    struct slot *slot = slot_get(s, vm);
    if (slot->state != SLOT_HELD || slot->is_down || slot->is_given_back) {
        return;
    }
    slot->is_given_back = true;
    tell(s, "farm", 0, "gives VM %u back", vm);
    net_send(s, net_conn(s, slot->conn), TO_VM, WIRE_BYE, 0, blob_new(0));
}

void farm_close(struct sim *s)
{
    s->farm.is_closing = true;
    for (uint32_t i = 0; i < s->plan.vms; i++) {
        lease_end(s, i);
    }
}

void farm_drain(struct sim *s, uint32_t vm)
{
    struct slot *slot = slot_get(s, vm);
    if (slot->state != SLOT_HELD || slot->is_down || slot->is_given_back || slot->is_leaving) {
        return;
    }
    tell(s, "farm", 0, "wants to give VM %u back", vm);
    slot->is_leaving = true;
    s->farm.leaving++;
    drive_vm_draining(s, vm);
}

void lease_end_leaving(struct sim *s)
{
    for (uint32_t vm = 0; s->farm.leaving > 0 && vm < s->plan.vms; vm++) {
        struct slot *slot = slot_get(s, vm);
        if (slot->is_leaving && slot->state == SLOT_HELD && judge_held(s, vm) == 0) {
            lease_end(s, vm);
        }
    }
}

void farm_call(struct sim *s, uint32_t vm)
{
    struct slot *slot = slot_get(s, vm);
    struct wire_request request = {.op = TRK_OP_CALL, .object = 1, .name = "f", .name_size = 1};
    if (slot->state == SLOT_HELD && !slot->is_down && !slot->is_given_back) {
        slot->calls++;
        net_send(s, net_conn(s, slot->conn), TO_VM, WIRE_REQUEST, slot->calls,
                 wire_request_encode(&request));
    }
}

/* --- what supervisors say ------------------------------------------------------------------ */

static void on_death(struct sim *s, const struct blob *body)
{
    struct wire_death death;
    struct slot *slot;
    if (wire_death_decode(&death, body) < 0 || death.index >= s->plan.vms) {
        sim_broken(s, "a report of a death that cannot be read");
    }
    slot = slot_get(s, death.index);
    if (slot->state != SLOT_HELD || memcmp(slot->incarnation, death.vm, 16) != 0) {
        return; /* late: the loss has been dealt with */
    }
    tell(s, "farm", 0, "hears how VM %u died", death.index);
    slot->has_death = true;
    slot->death = death;
    slot->death.output = NULL;
    if (slot->is_down) {
        clock_in(&s->clock, 0, EVENT_FARM_LOSS, death.index, slot->lease);
    }
}

void lease_on_watch(struct sim *s, struct conn *c, struct wire_message *msg)
{
    struct wire_vms vms;
    if (msg->type == WIRE_DEATH) {
        on_death(s, msg->body);
        return;
    }
    if (msg->type == WIRE_HELD) {
        held_on_message(s, c, msg->body);
        return;
    }
    if (msg->type != WIRE_VMS || wire_vms_decode(&vms, msg->body) < 0) {
        sim_broken(s, "a supervisor sent a %s", wire_type_name(msg->type));
    }
    for (size_t i = 0; i < vms.count; i++) {
        uint32_t vm = vms.infos[i].index;
        struct slot *slot = slot_get(s, vm);
        slot->said = vms.infos[i].state;
        if (slot->said == TRK_VM_STOPPING && slot->state == SLOT_HELD &&
            memcmp(slot->incarnation, vms.infos[i].incarnation, 16) == 0) {
            drive_vm_draining(s, vm);
        }
        lease_fill(s, vm);
    }
    mem_free(vms.infos);
}

/* --- the whole farm ------------------------------------------------------------------------ */

/* process: what tells this one from all others. */
static struct blob *hello_of(struct sim *s, uint64_t epoch, uint32_t process)
{
    struct wire_hello hello = {.purpose = WIRE_PURPOSE_LEASE, .epoch = epoch, .pid = 1,
                               .host = "here", .program = "sim"};
    struct blob *body;
    memset(hello.job, 7, sizeof(hello.job));
    memset(hello.incarnation, 9, sizeof(hello.incarnation));
    le_store_u32(hello.incarnation, process);
    body = wire_hello_encode(&hello);
    if (body == NULL) {
        sim_broken(s, "out of memory");
    }
    return body;
}

void farm_start(struct sim *s)
{
    uint64_t last = s->store.disk.epoch;
    s->farm_born = s->clock.order;
    s->farm_processes++;
    s->farm.is_alive = true;
    s->farm.epoch = MUTATE(EPOCH_SAME, last > 0 ? last : 1, last + 1);
    s->farm.hello = hello_of(s, s->farm.epoch, s->farm_processes);
    if (sched_new(&s->farm.sched, &s->plan.sched) < 0) {
        sim_broken(s, "out of memory");
    }
    s->farm.slots = sim_alloc(s->plan.vms, sizeof(*s->farm.slots));
    for (uint32_t i = 0; i < s->plan.vms; i++) {
        s->farm.slots[i].conn = CONN_NONE;
        s->farm.slots[i].said = TRK_VM_STOPPING; /* not heard of yet */
    }
    store_open(s, s->farm.epoch);
    if (MUTATE(EPOCH_UNSYNCED, true, false)) {
        farm_opened(s);
    }
}

void farm_opened(struct sim *s)
{
    if (s->farm.is_open) {
        return;
    }
    tell(s, "farm", 0, "is run %llu of the job", (unsigned long long)s->farm.epoch);
    judge_begins(s);
    s->farm.is_open = true;
    vms_watch(s);
    program_start(s);
}

void farm_ghost(struct sim *s, uint32_t vm)
{
    struct conn *c;
    if (s->farm.epoch < 2) {
        return;
    }
    c = net_connect(s, CONN_LEASE, vm);
    c->is_ghost = true;
    net_send(s, c, TO_VM, WIRE_HELLO, 0,
             hello_of(s, 1 + dice_below(&s->dice, s->farm.epoch - 1), UINT32_MAX));
}

void farm_fini(struct sim *s)
{
    sched_free(s->farm.sched);
    blob_unref(s->farm.hello);
    mem_free(s->farm.slots);
    held_drop(s);
    memset(&s->farm, 0, sizeof(s->farm));
}
