/* SPDX-License-Identifier: MIT */
/* farm.c - carries events to the production scheduler and its actions to VMs, the store and the
 * program: what src/farm/drive.c does.
 *
 *   RESULT from a VM -> sched: STORE -> store_put ................ in the turn
 *   end of the turn: store_turn ... later: RECORDED -> DELIVER -> the program; ACK to the VMs */
#include "farm.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sim.h"

#define RUN_BYTES_MAX ((size_t)64 << 20)

/* What the actions of one step may refer to. */
struct step {
    const struct sched_event *ev;
    struct blob *body;                /* RESULT being stepped */
    const struct wire_result *result;
    struct parcel *parcel;            /* RECORDED: the run that was recorded */
};

static bool is_open(const struct sim *s, uint32_t number)
{
    return number > 0 && number <= s->plan.stages && (s->farm.open >> number & 1) != 0;
}

bool farm_has_open(const struct sim *s, uint32_t number)
{
    return is_open(s, number);
}

uint64_t farm_added(const struct sim *s, uint32_t number)
{
    return s->program.stage[number - 1].added;
}

bool farm_has_closed(const struct sim *s, uint32_t number)
{
    return s->program.stage[number - 1].is_closed;
}

void farm_touch(struct sim *s)
{
    if (!s->farm.has_turn) {
        s->farm.has_turn = true;
        clock_in(&s->clock, s->plan.turn_ns, EVENT_FARM_TURN, 0, 0);
    }
}

static void send_note(struct sim *s, uint32_t vm, uint8_t type, const struct wire_note *note)
{
    struct slot *slot = &s->farm.slots[vm];
    if (slot->state == SLOT_HELD) {
        net_send(s, net_conn(s, slot->conn), TO_VM, type, 0, wire_note_encode(note));
    }
}

/* --- assigning ----------------------------------------------------------------------------- */

static void open_stage_at(struct sim *s, struct slot *slot, uint32_t number)
{
    uint8_t function[4];
    struct wire_stage stage = {.stage = number, .function = function, .size = sizeof(function),
                               .flags = WIRE_STAGE_DURABLE,
                               .timeout_ms = s->plan.stage[number - 1].timeout_ms};
    stage_fingerprint(s, number - 1, stage.fingerprint);
    if ((slot->told >> number & 1) != 0) {
        return;
    }
    slot->told |= 1u << number;
    fault_on_stage(s, number - 1);
    le_store_u32(function, number);
    net_send(s, net_conn(s, slot->conn), TO_VM, WIRE_STAGE, 0, wire_stage_encode(&stage));
}

/* Elements first.. of one RUN message. */
static void send_run(struct sim *s, struct slot *slot, uint32_t number, uint32_t attempt,
                     uint64_t first, uint32_t count)
{
    size_t size = ELEMENT_HEAD + s->plan.stage[number - 1].input_bytes;
    uint8_t *bytes = sim_alloc(count, size);
    struct wire_part *parts = sim_alloc(count, sizeof(*parts));
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = bytes + i * size;
        element_write(s, number - 1, first + i, at);
        parts[i] = (struct wire_part){at, size};
    }
    net_send(s, net_conn(s, slot->conn), TO_VM, WIRE_RUN, 0,
             wire_run_encode(number, attempt, first, parts, count));
    mem_free(bytes);
    mem_free(parts);
}

void farm_ask_back(struct sim *s, uint32_t vm)
{
    struct wire_note note = {0};
    uint64_t first, count;
    if (!judge_charge(s, vm, &note.stage, &first, &count)) {
        return;
    }
    note.first = first + (dice_chance(&s->dice, 600) ? 0 : dice_below(&s->dice, count));
    note.count = 1 + (uint32_t)dice_below(&s->dice, count);
    tell(s, "farm", 0, "asks VM %u for %llu+%u of stage %u", vm, (unsigned long long)note.first,
         note.count, note.stage);
    send_note(s, vm, WIRE_RECALL, &note);
}

static void assign(struct sim *s, const struct sched_action *a)
{
    struct slot *slot = &s->farm.slots[a->vm];
    if (slot->state != SLOT_HELD || !is_open(s, a->stage)) {
        sim_broken(s, "elements of stage %u are assigned to VM %u, which is not held", a->stage,
                   a->vm);
    }
    judge_assigned(s, a);
    tell(s, "farm", 0, "assigns %llu+%llu of stage %u to VM %u (attempt %u)",
         (unsigned long long)a->first, (unsigned long long)a->count, a->stage, a->vm, a->attempt);
    bool is_second = judge_has_second(s, a->stage - 1, a->first);
    if (is_second) {
        s->tally.faults[FAULT_SPECULATE]++;
        fault_on_second(s, a->vm);
    }
    if ((a->count > 1 || is_second) && s->plan.stage[a->stage - 1].is_speculating &&
        fault_strikes(s, FAULT_CALLS)) { /* the batch waits behind it, and may be called off */
        s->tally.faults[FAULT_CALLS]++;
        farm_call(s, a->vm);
    }
    open_stage_at(s, slot, a->stage);
    for (uint64_t sent = 0; sent < a->count;) {
        uint64_t n = a->count - sent;
        n = n < s->plan.run_max ? n : s->plan.run_max;
        send_run(s, slot, a->stage, a->attempt, a->first + sent, (uint32_t)n);
        sent += n;
    }
    if (a->count > 2 && fault_is_on(s, FAULT_ASK_BACK) && dice_chance(&s->dice, 100)) {
        farm_ask_back(s, a->vm); /* at once: most of it has not started */
    }
}

/* --- results ------------------------------------------------------------------------------- */

static struct parcel *parcel_new(struct blob *body, const struct wire_result *r, uint64_t first,
                                 uint32_t count)
{
    struct parcel *p = sim_alloc(1, sizeof(*p));
    uint32_t skip = (uint32_t)(first - r->first);
    p->stage = r->stage - 1;
    p->attempt = r->attempt;
    p->first = first;
    p->count = count;
    p->body = blob_ref(body);
    p->statuses = r->statuses + skip;
    p->sizes = r->sizes + 4 * (size_t)skip;
    p->payloads = r->payloads;
    for (uint32_t i = 0; i < skip; i++) {
        p->payloads += le_load_u32(r->sizes + 4 * (size_t)i);
    }
    return p;
}

static void put(struct sim *s, const struct step *step, uint64_t first, uint64_t count)
{
    store_put(s, parcel_new(step->body, step->result, first, (uint32_t)count));
    if (MUTATE(DELIVER_EARLY, true, false)) {
        program_put(s, parcel_new(step->body, step->result, first, (uint32_t)count));
    }
}

static void put_failure(struct sim *s, const struct sched_action *a)
{
    static const char text[] = "element ended its VM too often";
    struct wire_result head = {.stage = a->stage, .attempt = a->attempt, .first = a->first,
                               .count = 1};
    uint8_t status = TRK_STATUS_ERROR;
    uint32_t size = sizeof(text);
    struct wire_result decoded;
    struct parcel *p;
    struct blob *body = wire_result_encode(&head, &status, &size, text, size);
    if (body == NULL || wire_result_decode(&decoded, body) < 0) {
        sim_broken(s, "out of memory");
    }
    tell(s, "farm", 0, "gives up element %llu of stage %u", (unsigned long long)a->first,
         a->stage);
    judge_given_up(s, a->stage - 1, a->first, a->cause);
    p = parcel_new(body, &decoded, a->first, 1);
    p->is_given_up = true;
    store_put(s, p);
    blob_unref(body);
}

static void deliver(struct sim *s, struct step *step, const struct sched_action *a)
{
    struct parcel *p = step->parcel;
    if (p == NULL || a->first != p->first || a->count != p->count || a->stage != p->stage + 1) {
        sim_broken(s, "%llu+%llu of stage %u are delivered, which is not what was recorded",
                   (unsigned long long)a->first, (unsigned long long)a->count, a->stage);
    }
    step->parcel = NULL;
    program_put(s, p);
}

static void apply(struct sim *s, struct step *step, const struct sched_action *a)
{
    struct wire_note note = {.stage = a->stage, .first = a->first, .count = (uint32_t)a->count};
    switch (a->type) {
    case SCHED_ASSIGN:
        assign(s, a);
        break;
    case SCHED_RECALL:
        tell(s, "farm", 0, "recalls %llu+%llu of stage %u from VM %u",
             (unsigned long long)a->first, (unsigned long long)a->count, a->stage, a->vm);
        send_note(s, a->vm, WIRE_RECALL, &note);
        break;
    case SCHED_STORE:
        put(s, step, a->first, a->count);
        break;
    case SCHED_DELIVER:
        deliver(s, step, a);
        break;
    case SCHED_FAIL:
        put_failure(s, a);
        break;
    case SCHED_WAKE_AT:
        s->farm.wake_ns = a->at_ns;
        clock_at(&s->clock, a->at_ns, EVENT_FARM_WAKE, 0, 0);
        break;
    case SCHED_DROP:
        s->tally.dropped += a->count;
        if (MUTATE(RECORD_TWICE, step->result != NULL && is_open(s, a->stage), false)) {
            put(s, step, a->first, a->count);
        }
        break;
    case SCHED_DONE:
        program_done(s, a->stage - 1);
        break;
    case SCHED_BLOCK_VM:
        tell(s, "farm", 0, "VM %u is blocked", a->vm);
        s->tally.blocked++;
        if (s->is_quiet || dice_chance(&s->dice, 300)) { /* somebody looks after it */
            clock_in(&s->clock, dice_scale(&s->dice, 1 * MS, 10 * SEC), EVENT_FARM_UNBLOCK, a->vm,
                     0);
        }
        break;
    case SCHED_CANCEL_RUN:
        tell(s, "farm", 0, "calls off %llu+%llu of stage %u at VM %u",
             (unsigned long long)a->first, (unsigned long long)a->count, a->stage, a->vm);
        judge_called_off(s, a->stage - 1, a->first, a->count, a->vm);
        send_note(s, a->vm, WIRE_CANCEL, &note);
        break;
    case SCHED_ACTION_COUNT:
        break;
    }
}

static int step_event(struct sim *s, struct step *step)
{
    struct sched_actions actions;
    int rc = sched_step(s->farm.sched, step->ev, s->clock.now_ns, &actions);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < actions.count; i++) {
        apply(s, step, &actions.items[i]);
    }
    farm_touch(s);
    return 0;
}

int drive_step(struct sim *s, const struct sched_event *ev)
{
    return step_event(s, &(struct step){.ev = ev});
}

/* For events that the contract does not let the scheduler refuse. */
static void must_step(struct sim *s, struct step *step)
{
    int rc = step_event(s, step);
    if (rc < 0) {
        sim_broken(s, "the scheduler refused event %d: %s", (int)step->ev->type,
                   trk_strerror(rc));
    }
}

static void step_simple(struct sim *s, const struct sched_event *ev)
{
    must_step(s, &(struct step){.ev = ev});
}

/* --- messages ------------------------------------------------------------------------------ */

static void acknowledge(struct sim *s, uint32_t vm, uint64_t lease, uint64_t seq)
{
    struct slot *slot = &s->farm.slots[vm];
    bool is_same = MUTATE(ACK_OTHER_LEASE, true, slot->lease == lease);
    if (slot->state == SLOT_HELD && is_same && seq > slot->seq_acked) {
        slot->seq_acked = seq;
        send_note(s, vm, WIRE_ACK, &(struct wire_note){.seq = seq});
    }
}

/* A message with results and failures is stepped as runs of these. */
static void step_results(struct sim *s, uint32_t vm, struct blob *body,
                         const struct wire_result *r)
{
    struct sched_event ev = {.vm = vm, .stage = r->stage, .attempt = r->attempt};
    struct step step = {.ev = &ev, .body = body, .result = r};
    uint32_t at = 0;
    while (at < r->count) {
        bool is_failed = r->statuses[at] != TRK_STATUS_OK;
        uint32_t end = at + 1;
        while (end < r->count && (r->statuses[end] != TRK_STATUS_OK) == is_failed) {
            end++;
        }
        ev.type = is_failed ? SCHED_FAILED : SCHED_RESULT;
        ev.first = r->first + at;
        ev.count = end - at;
        ev.busy_ns = r->busy_ns / r->count * ev.count;
        must_step(s, &step);
        at = end;
    }
}

static void on_result(struct sim *s, uint32_t vm, struct blob *body)
{
    struct wire_result result;
    if (wire_result_decode(&result, body) < 0) {
        sim_broken(s, "VM %u sent a result that cannot be read", vm);
    }
    tell(s, "farm", 0, "gets results %llu+%u of stage %u from VM %u (attempt %u)",
         (unsigned long long)result.first, result.count, result.stage, vm, result.attempt);
    if (!is_open(s, result.stage) || result.count == 0) {
        return; /* of a stage that was cancelled: acknowledged, so that the VM lets go */
    }
    judge_before_result(s, vm, body);
    step_results(s, vm, body, &result);
    judge_after_result(s, body);
}

static void on_session_result(struct sim *s, uint32_t vm, struct blob *body)
{
    struct slot *slot = &s->farm.slots[vm];
    struct receipt r = {.vm = vm, .lease = slot->lease};
    struct wire_result result;
    size_t before = s->store.next.count;
    on_result(s, vm, body);
    r.seq = wire_result_decode(&result, body) == 0 ? result.seq : 0;
    /* Also what was not needed waits: what came before it need not be durable yet. */
    if (MUTATE(ACK_EARLY, true, false) ||
        MUTATE(DROPPED_ACKED, s->store.next.count == before, false)) {
        acknowledge(s, vm, r.lease, r.seq);
    }
    store_receipt(s, &r);
}

static void on_recalled(struct sim *s, uint32_t vm, const struct blob *body)
{
    struct wire_note note;
    struct sched_event ev = {.type = SCHED_RECALLED, .vm = vm};
    if (wire_note_decode(&note, body) < 0) {
        sim_broken(s, "VM %u sent a RECALLED that cannot be read", vm);
    }
    tell(s, "farm", 0, "gets %llu+%u of stage %u back from VM %u",
         (unsigned long long)note.first, note.count, note.stage, vm);
    if (!is_open(s, note.stage)) {
        return;
    }
    judge_recalled(s, note.stage - 1, note.first, note.count, vm);
    ev.stage = note.stage;
    ev.first = note.first;
    ev.count = note.count;
    ev.flag = note.flag != 0 ? SCHED_RECALLED_STARTED : 0;
    step_simple(s, &ev);
}

static void on_session_message(struct sim *s, uint32_t vm, struct wire_message *msg)
{
    struct slot *slot = &s->farm.slots[vm];
    drive_vm_suspect(s, vm, false); /* it speaks */
    switch (msg->type) {
    case WIRE_RESULT:
        on_session_result(s, vm, msg->body);
        break;
    case WIRE_RECALLED:
        on_recalled(s, vm, msg->body);
        break;
    case WIRE_BYE:
        slot->has_said_bye = true;
        drive_vm_draining(s, vm);
        break;
    case WIRE_REPLY:
        if (slot->calls == 0) {
            sim_broken(s, "VM %u answers what nobody asked", vm);
        }
        slot->calls--;
        break;
    default:
        sim_broken(s, "VM %u sent a %s", vm, wire_type_name(msg->type));
    }
    farm_touch(s);
}

/* From a VM that was given up. What it did is not lost, and it starts afresh. */
static void on_late_message(struct sim *s, struct conn *c, struct wire_message *msg)
{
    if (msg->type == WIRE_RESULT) {
        on_result(s, c->vm, msg->body);
        farm_touch(s);
    }
    farm_on_late(s, c->vm, c->id);
}

void farm_on_message(struct sim *s, struct conn *c, struct wire_message *msg)
{
    if (c->kind == CONN_WATCH) {
        lease_on_watch(s, c, msg);
    } else if (c->is_ghost) { /* the answer does not matter to it: it ends */
        net_close(s, c, END_FARM, LEAVE_ABRUPT);
    } else if (c->is_late) {
        on_late_message(s, c, msg);
    } else if (s->farm.slots[c->vm].conn == c->id && !s->farm.slots[c->vm].is_down) {
        if (s->farm.slots[c->vm].state == SLOT_TRYING) {
            lease_on_welcome(s, c, msg);
        } else {
            on_session_message(s, c->vm, msg);
        }
    }
    blob_unref(msg->body);
}

void farm_hand_over(struct sim *s, const struct wire_held *h)
{
    struct wire_result head = {.stage = h->stage, .attempt = h->attempt, .first = h->index,
                               .count = 1}, result;
    uint32_t size = (uint32_t)h->size;
    struct blob *body = wire_result_encode(&head, &h->status, &size, h->payload, h->size);
    if (body == NULL || wire_result_decode(&result, body) < 0) {
        sim_broken(s, "out of memory");
    }
    step_results(s, SCHED_NO_VM, body, &result);
    judge_after_result(s, body);
    blob_unref(body);
}

/* A result that cannot be: of an attempt that was never made, or of an element there is not. */
void farm_forge(struct sim *s)
{
    uint32_t stage = (uint32_t)dice_below(&s->dice, s->plan.stages);
    uint64_t count = s->plan.stage[stage].elements;
    uint8_t status = TRK_STATUS_OK, bytes[RESULT_HEAD] = {0};
    uint32_t size = sizeof(bytes);
    struct wire_result head = {.stage = stage + 1, .count = 1, .seq = 1}, result;
    struct blob *body;
    if (dice_chance(&s->dice, 100)) {
        head.stage = s->plan.stages + 1;
    }
    head.first = count > 0 && dice_chance(&s->dice, 800) ? dice_below(&s->dice, count)
                                                         : count + dice_below(&s->dice, 9);
    head.attempt = dice_chance(&s->dice, 200) ? 0 : 1000000;
    body = wire_result_encode(&head, &status, &size, bytes, size);
    if (body == NULL || wire_result_decode(&result, body) < 0) {
        sim_broken(s, "out of memory");
    }
    tell(s, "farm", 0, "gets a forged result %llu of stage %u", (unsigned long long)head.first,
         head.stage);
    step_results(s, (uint32_t)dice_below(&s->dice, s->plan.vms + 1), body, &result);
    blob_unref(body);
}

/* --- recorded ------------------------------------------------------------------------------ */

void farm_on_recorded(struct sim *s, struct group *group)
{
    struct parcel *p = group->first;
    while (p != NULL) {
        struct parcel *next = p->next;
        struct sched_event ev = {.type = SCHED_RECORDED, .stage = p->stage + 1,
                                 .first = p->first, .count = p->count};
        struct step step = {.ev = &ev, .parcel = p};
        bool is_skipped = MUTATE(GROUP_TAIL, next == NULL && p != group->first, false);
        p->next = NULL;
        if (is_open(s, p->stage + 1) && !is_skipped) {
            must_step(s, &step);
        }
        if (step.parcel != NULL) {
            parcel_free(step.parcel); /* cancelled meanwhile */
        }
        p = next;
    }
    for (size_t i = 0; i < group->receipt_count; i++) {
        const struct receipt *r = &group->receipts[i];
        if (r->is_held) {
            held_done(s, r->vm, r->seq, true);
        } else {
            acknowledge(s, r->vm, r->lease, r->seq);
        }
    }
    farm_touch(s);
}

void farm_on_turn(struct sim *s)
{
    s->farm.has_turn = false;
    store_turn(s);
    lease_end_leaving(s);
    if (s->farm.wake_ns != 0 && s->clock.now_ns >= s->farm.wake_ns) {
        s->farm.wake_ns = 0;
        step_simple(s, &(struct sched_event){.type = SCHED_TICK});
    }
}

void farm_resume(struct sim *s)
{
    s->farm.is_paused = false;
    tell(s, "farm", 0, "goes on");
    net_kick(s);
    farm_touch(s);
}

/* --- VMs ----------------------------------------------------------------------------------- */

static void serve(struct sim *s, uint32_t vm, uint32_t stage, bool is_serving)
{
    if (vm % s->plan.stage[stage].serves == 0) {
        step_simple(s, &(struct sched_event){.type = SCHED_STAGE_VM, .vm = vm,
                                             .stage = stage + 1, .flag = is_serving});
    }
}

/* Tells the scheduler what has changed of whether a VM may get something new. */
static void hold_back(struct sim *s, uint32_t vm)
{
    struct slot *slot = &s->farm.slots[vm];
    bool is_held_back = slot->is_suspect || s->farm.is_full;
    if (slot->is_joined && slot->is_held_back != is_held_back) {
        slot->is_held_back = is_held_back;
        step_simple(s, &(struct sched_event){.type = SCHED_VM_SUSPECT, .vm = vm,
                                             .flag = is_held_back});
    }
}

void farm_on_disk(struct sim *s, bool is_full)
{
    if (s->farm.is_full != is_full) {
        s->farm.is_full = is_full;
        s->farm.is_idle = false;
        for (uint32_t vm = 0; vm < s->plan.vms; vm++) {
            hold_back(s, vm);
        }
        s->farm.is_idle = is_full;
    }
}

void drive_vm_joined(struct sim *s, uint32_t vm)
{
    struct slot *slot = &s->farm.slots[vm];
    slot->told = MUTATE(STAGE_ONCE, s->farm.open * (slot->lease > 1), 0);
    step_simple(s, &(struct sched_event){.type = SCHED_VM_JOINED, .vm = vm});
    slot->is_joined = true;
    slot->is_suspect = slot->is_held_back = false;
    hold_back(s, vm);
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        if (is_open(s, i + 1) && (slot->unserved >> i & 1) == 0) {
            serve(s, vm, i, true);
        }
    }
}

void drive_vm_lost(struct sim *s, uint32_t vm, enum sched_cause cause,
                   const struct wire_death *death)
{
    static const char *const causes[] = {"without evidence", "its element's fault", "expected",
                                         "its element was over its time"};
    struct sched_event ev = {.type = SCHED_VM_LOST, .vm = vm, .cause = cause};
    if (death != NULL && death->has_element) {
        ev.has_element = true;
        ev.stage = death->stage;
        ev.first = death->index_of_element;
    }
    tell(s, "farm", 0, "VM %u is lost: %s", vm, causes[cause]);
    judge_lost(s, vm, &ev);
    step_simple(s, &ev);
    judge_after_loss(s, &ev);
}

void drive_vm_draining(struct sim *s, uint32_t vm)
{
    struct slot *slot = &s->farm.slots[vm];
    if (slot->is_joined && !slot->is_draining) {
        slot->is_draining = true;
        step_simple(s, &(struct sched_event){.type = SCHED_VM_DRAINING, .vm = vm});
    }
}

void drive_vm_suspect(struct sim *s, uint32_t vm, bool is_suspect)
{
    struct slot *slot = &s->farm.slots[vm];
    if (slot->is_joined && slot->is_suspect != is_suspect) {
        tell(s, "farm", 0, is_suspect ? "VM %u is silent" : "VM %u speaks again", vm);
        slot->is_suspect = is_suspect;
        hold_back(s, vm);
    }
}

void farm_on_suspect(struct sim *s, uint32_t vm, bool is_suspect)
{
    const struct vm *v = vm_get(s, vm);
    bool is_silent = v->blocks > 0 &&
                     s->clock.now_ns >= v->blocked_ns + s->plan.suspect_after_ns;
    if (is_silent == is_suspect && !s->farm.slots[vm].is_down) {
        drive_vm_suspect(s, vm, is_suspect);
    }
}

void farm_on_unblock(struct sim *s, uint32_t vm)
{
    step_simple(s, &(struct sched_event){.type = SCHED_VM_UNBLOCK, .vm = vm});
}

void farm_unserve(struct sim *s, uint32_t vm, uint32_t stage, bool is_serving)
{
    struct slot *slot = &s->farm.slots[vm];
    slot->unserved = is_serving ? slot->unserved & ~(1u << stage) : slot->unserved | 1u << stage;
    if (slot->is_joined && is_open(s, stage + 1)) {
        tell(s, "farm", 0, "VM %u serves stage %u%s", vm, stage + 1, is_serving ? "" : " no more");
        serve(s, vm, stage, is_serving);
    }
}

/* --- stages -------------------------------------------------------------------------------- */

void farm_open_stage(struct sim *s, uint32_t stage)
{
    const struct stage_plan *p = &s->plan.stage[stage];
    step_simple(s, &(struct sched_event){
                       .type = SCHED_STAGE_OPENED, .stage = stage + 1, .retries = p->retries,
                       .backoff_ns = p->backoff_ns,
                       .flag = p->is_speculating ? SCHED_STAGE_SPECULATE : 0});
    s->farm.open |= 2u << stage;
    for (uint32_t vm = 0; vm < s->plan.vms; vm++) {
        if (s->farm.slots[vm].is_joined && (s->farm.slots[vm].unserved >> stage & 1) == 0) {
            serve(s, vm, stage, true);
        }
    }
    held_ask(s, stage);
}

/* Elements that are all recorded on disk, or all not. Is there room for them? */
static bool add_run(struct sim *s, uint32_t stage, uint64_t first, uint64_t count)
{
    bool is_recorded = store_has(s, stage, first);
    size_t size = ELEMENT_HEAD + s->plan.stage[stage].input_bytes;
    struct sched_event ev = {.type = SCHED_WORK_ADDED, .stage = stage + 1, .count = count,
                             .bytes = count * size,
                             .flag = is_recorded ? SCHED_WORK_RECORDED : 0};
    int rc = drive_step(s, &ev);
    if (rc < 0 && rc != TRK_EFULL) {
        sim_broken(s, "work was refused: %s", trk_strerror(rc));
    }
    for (uint64_t i = first; rc == 0 && is_recorded && i < first + count; i++) {
        s->tally.restored++;
        program_put(s, store_read(s, stage, i));
    }
    return rc == 0;
}

uint64_t farm_add(struct sim *s, uint32_t stage, uint64_t first, uint64_t count)
{
    uint64_t at = first;
    while (at < first + count) {
        uint64_t end = at + 1;
        while (end < first + count && store_has(s, stage, end) == store_has(s, stage, at)) {
            end++;
        }
        if (!add_run(s, stage, at, end - at)) {
            break;
        }
        at = end;
    }
    if (at > first) {
        store_put_work(s, stage, at);
    }
    return at - first;
}

void farm_close_input(struct sim *s, uint32_t stage)
{
    step_simple(s, &(struct sched_event){.type = SCHED_WORK_CLOSED, .stage = stage + 1});
}

void farm_taken(struct sim *s, uint32_t stage, uint64_t first, uint64_t count)
{
    if (is_open(s, stage + 1)) {
        step_simple(s, &(struct sched_event){.type = SCHED_DELIVERED, .stage = stage + 1,
                                             .first = first, .count = count});
    }
}

void farm_cancel(struct sim *s, uint32_t stage)
{
    struct wire_note note = {.stage = stage + 1,
                             .flag = s->plan.stage[stage].endless != 0 ||
                                     dice_chance(&s->dice, 500)};
    if (!is_open(s, stage + 1)) {
        return;
    }
    judge_cancelled(s, stage);
    step_simple(s, &(struct sched_event){.type = SCHED_CANCEL, .stage = stage + 1});
    step_simple(s, &(struct sched_event){.type = SCHED_STAGE_CLOSED, .stage = stage + 1});
    s->farm.open &= ~(2u << stage);
    for (uint32_t vm = 0; vm < s->plan.vms; vm++) {
        if ((s->farm.slots[vm].told >> (stage + 1) & 1) != 0) {
            send_note(s, vm, WIRE_CANCEL, &note);
        }
    }
}
