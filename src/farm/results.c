/* SPDX-License-Identifier: MIT */
/* results.c - results from a VM's message to the program.
 *
 *   RESULT from a VM -> sched: STORE -> put in the job's store (or the volatile recorder's group)
 *   durable (or the end of the turn) -> sched RECORDED -> DELIVER -> the program; ACK to the VMs
 *
 * So nothing is acknowledged or delivered before it is recorded. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "farm/drive_impl.h"

#define ACK_MS 20u
#define ACK_MESSAGES 32u
#define ACK_BYTES ((size_t)256 << 10)

/* How many of these are not TRK_STATUS_OK; mostly none is. */
static uint32_t count_failed(const uint8_t *statuses, uint32_t count)
{
    uint32_t failed = 0, i = 0;

    for (; i + 8 <= count; i += 8) {
        uint64_t eight;
        memcpy(&eight, statuses + i, 8);
        for (uint32_t k = 0; eight != 0 && k < 8; k++) {
            failed += statuses[i + k] != TRK_STATUS_OK;
        }
    }
    for (; i < count; i++) {
        failed += statuses[i] != TRK_STATUS_OK;
    }
    return failed;
}

static struct parcel *parcel_new(struct trk_work *work, struct blob *body,
                                 const struct wire_result *r, uint64_t first, uint32_t count)
{
    struct parcel *p = mem_zalloc(1, sizeof(*p));
    uint32_t skip = (uint32_t)(first - r->first);

    if (p == NULL) {
        return NULL;
    }
    list_init(&p->node);
    p->work = work_ref(work);
    p->body = blob_ref(body);
    p->first = first;
    p->count = count;
    p->attempt = r->attempt;
    p->statuses = r->statuses + skip;
    p->sizes = r->sizes + (size_t)skip * 4;
    p->payloads = r->payloads;
    for (uint32_t i = 0; i < skip; i++) {
        p->payloads += le_load_u32(r->sizes + (size_t)i * 4);
    }
    for (uint32_t i = 0; i < count; i++) {
        p->bytes += le_load_u32(p->sizes + (size_t)i * 4);
    }
    p->failed = count_failed(p->statuses, count);
    return p;
}

/* Into the job's store: from the attempt on the bytes stand as they came (see value.h), or as the
 * store had them. */
static int put_durable(struct parcel *p, uint32_t stage, const uint8_t *attempt)
{
    struct trk_farm *farm = p->work->farm;
    struct record_run run = {.first = p->first, .count = p->count, .failed = p->failed};
    struct ckpt_value value = {.blob = p->body, .count = 4};
    int rc;

    value.slices[0] = (struct ckpt_slice){attempt, 4};
    value.slices[1] = (struct ckpt_slice){p->statuses, p->count};
    value.slices[2] = (struct ckpt_slice){p->sizes, (size_t)p->count * 4};
    value.slices[3] = (struct ckpt_slice){p->payloads, p->bytes};
    rc = job_put_result(farm->job, stage, &run, &value, &p->ticket);
    if (rc == 0) {
        farm->last_ticket = p->work->last_ticket = p->ticket;
        list_push_back(&farm->syncing, &p->node);
    }
    return rc;
}

int results_adopt(struct parcel *parcel, uint32_t stage)
{
    return put_durable(parcel, stage, parcel->body->data);
}

static int put_volatile(struct step *step, struct trk_work *work, struct parcel *p, uint64_t seq)
{
    struct ckpt_run run = {.stage = work->stage, .first = p->first, .count = p->count,
                           .seq = seq};
    int rc = ckpt_put(step->farm->ckpt, &run);

    if (rc == 0) {
        list_push_back(&step->farm->puts, &p->node);
    }
    return rc;
}

static int put(struct step *step, struct trk_work *work, struct blob *body,
               const struct wire_result *result, uint64_t first, uint64_t count)
{
    struct parcel *parcel = parcel_new(work, body, result, first, (uint32_t)count);
    int rc = TRK_ENOMEM;

    if (parcel != NULL) {
        rc = work->store_stage != 0
                 ? put_durable(parcel, work->store_stage, body->data + WIRE_RESULT_ATTEMPT)
                 : put_volatile(step, work, parcel, result->seq);
    }
    if (rc == 0) {
        step->ticket = parcel->ticket;
    }
    if (rc < 0) {
        if (parcel != NULL) {
            parcel_free(parcel);
        }
        step->has_lost = true;
        work_fail(work, rc);
    }
    return rc;
}

void results_put(struct step *step, const struct sched_action *a)
{
    struct trk_work *work = drive_work_of(step->farm, a->stage);

    if (work != NULL && step->result != NULL) {
        put(step, work, step->body, step->result, a->first, a->count);
    }
}

static void describe_failure(const struct step *step, const struct sched_action *a, char *text,
                             size_t size)
{
    char reason[256] = "its VMs were lost each time";

    if (step->lost != NULL) {
        lease_describe(step->lost, reason, sizeof(reason));
    }
    snprintf(text, size, "element %llu ended its VM too often, last in run %u: %s",
             (unsigned long long)a->first, a->attempt, reason);
}

void results_put_failure(struct step *step, const struct sched_action *a)
{
    struct trk_work *work = drive_work_of(step->farm, a->stage);
    struct wire_result head = {.stage = a->stage, .attempt = a->attempt, .first = a->first,
                               .count = 1};
    uint8_t status = TRK_STATUS_ERROR;
    struct wire_result decoded;
    struct blob *body;
    char text[512];
    uint32_t size;

    if (work == NULL) {
        return;
    }
    describe_failure(step, a, text, sizeof(text));
    size = (uint32_t)strlen(text);
    body = wire_result_encode(&head, &status, &size, text, size);
    if (body == NULL || wire_result_decode(&decoded, body) < 0) {
        work_fail(work, TRK_ENOMEM);
    } else {
        put(step, work, body, &decoded, a->first, 1);
    }
    blob_unref(body);
}

/* What user code failed at, with its exception, for whoever asks what happened. */
static void note_exceptions(struct slot *slot, struct trk_work *work, const struct wire_result *r)
{
    const uint8_t *payload = r->payloads;

    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t size = le_load_u32(r->sizes + (size_t)i * 4);
        if (r->statuses[i] != TRK_STATUS_OK) {
            struct trk_attempt a = {.attempt = r->attempt, .outcome = TRK_OUTCOME_EXCEPTION,
                                    .duration_ns = r->busy_ns / r->count,
                                    .output = (char *)payload, .output_size = size};
            attempts_bad(work, slot->vm, r->first + i, &a);
        }
        payload += size;
    }
}

/* One step per run of results that are alike: those whose code failed may be run again. */
static int step_results(struct slot *slot, struct trk_work *work, struct blob *body,
                        const struct wire_result *r, uint32_t failed, uint64_t *ticket)
{
    struct step step = {.farm = slot->vm->farm, .body = body, .result = r};
    uint32_t i = 0, end;
    int rc = 0;

    for (; rc == 0 && i < r->count; i = end) {
        bool is_failed = work->retries > 0 && r->statuses[i] == TRK_STATUS_EXCEPTION;
        struct sched_event ev = {.type = is_failed ? SCHED_FAILED : SCHED_RESULT,
                                 .vm = slot->number, .stage = r->stage, .attempt = r->attempt,
                                 .first = r->first + i};
        for (end = failed > 0 ? i : r->count; end < r->count; end++) {
            if (work->retries > 0 && (r->statuses[end] == TRK_STATUS_EXCEPTION) != is_failed) {
                break;
            }
            ev.failed += !is_failed && r->statuses[end] != TRK_STATUS_OK;
        }
        ev.count = end - i;
        ev.busy_ns = r->busy_ns * ev.count / r->count;
        step.ev = &ev;
        rc = drive_step(&step);
    }
    *ticket = step.has_lost ? UINT64_MAX : step.ticket; /* then it is never acknowledged */
    return rc;
}

/* The message seq is recorded when the store is as far as ticket. */
static int note_unsafe(struct slot *slot, uint64_t seq, uint64_t ticket)
{
    if (slot->unsafe_count == slot->unsafe_cap) {
        uint32_t cap = slot->unsafe_cap > 0 ? slot->unsafe_cap * 2 : 64;
        struct unsafe *ring = mem_alloc(cap * sizeof(*ring));
        if (ring == NULL) {
            return TRK_ENOMEM;
        }
        for (uint32_t i = 0; i < slot->unsafe_count; i++) {
            ring[i] = slot->unsafe[(slot->unsafe_head + i) % slot->unsafe_cap];
        }
        mem_free(slot->unsafe);
        slot->unsafe = ring;
        slot->unsafe_head = 0;
        slot->unsafe_cap = cap;
    }
    slot->unsafe[(slot->unsafe_head + slot->unsafe_count++) % slot->unsafe_cap] =
        (struct unsafe){seq, ticket};
    return 0;
}

/* What of a slot's messages is recorded, now that the store is as far as durable. */
static void look_at_unsafe(struct slot *slot, uint64_t durable)
{
    while (slot->unsafe_count > 0 && slot->unsafe[slot->unsafe_head].ticket <= durable) {
        slot->seq_safe = slot->unsafe[slot->unsafe_head].seq;
        slot->unsafe_head = (slot->unsafe_head + 1) % slot->unsafe_cap;
        slot->unsafe_count--;
    }
}

/* A message has been dealt with: recorded at once, or when the ticket is durable. */
static int note_seen(struct slot *slot, uint64_t seq, uint64_t ticket)
{
    if (ticket == 0 && slot->unsafe_count == 0) {
        slot->seq_safe = slot->seq_seen;
        return 0;
    }
    return note_unsafe(slot, seq, ticket); /* also what is safe waits for what came before it */
}

static int on_result(struct slot *slot, struct blob *body)
{
    struct trk_farm *farm = slot->vm->farm;
    struct wire_result result;
    struct trk_work *work;
    uint64_t ticket = 0;
    uint32_t failed;
    int rc = wire_result_decode(&result, body);

    if (rc < 0) {
        return rc;
    }
    slot->seq_seen = result.seq > slot->seq_seen ? result.seq : slot->seq_seen;
    busy_done(slot, result.stage, result.first, result.count);
    slot->ack_bytes += body->size;
    if (list_is_empty(&slot->ack_node)) {
        list_push_back(&farm->acks, &slot->ack_node);
        slot->ack_at_ms = net_loop_now_ms(farm->loop) + ACK_MS;
    }
    work = drive_work_of(farm, result.stage);
    if (work == NULL || result.count == 0) {
        return note_seen(slot, result.seq, 0); /* cancelled meanwhile: the VM may let go */
    }
    failed = count_failed(result.statuses, result.count);
    if (failed < result.count) {
        attempts_good(work, slot->vm, &result);
    }
    if (failed > 0) {
        note_exceptions(slot, work, &result);
    }
    rc = step_results(slot, work, body, &result, failed, &ticket);
    if (ticket == 0 && farm->job != NULL &&
        work->last_ticket > ckpt_store_durable(farm->job->store)) {
        ticket = work->last_ticket; /* what of it was needed is put, and may not be durable yet */
    }
    return rc < 0 ? rc : note_seen(slot, result.seq, ticket);
}

static int on_recalled(struct slot *slot, struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);

    if (rc < 0 || drive_work_of(slot->vm->farm, note.stage) == NULL) {
        return rc;
    }
    busy_done(slot, note.stage, note.first, note.count);
    return drive_step_simple(slot->vm->farm,
                       &(struct sched_event){.type = SCHED_RECALLED, .vm = slot->number,
                                             .stage = note.stage, .first = note.first,
                                             .count = note.count,
                                             .flag = note.flag ? SCHED_RECALLED_STARTED : 0});
}

void drive_on_message(struct slot *slot, struct wire_message *msg)
{
    int rc = msg->type == WIRE_RESULT ? on_result(slot, msg->body) : on_recalled(slot, msg->body);

    blob_unref(msg->body);
    if (rc < 0) {
        log_warn("farm", "VM %u sent a %s that cannot be: its session ends", slot->info.index,
                 wire_type_name(msg->type));
        net_count_drop();
        net_session_close(slot->vm->session, false);
    }
}

/* A parcel's results are safe. */
static void recorded(struct trk_farm *farm, struct parcel *parcel)
{
    struct trk_work *work = parcel->work;
    struct sched_event ev = {.type = SCHED_RECORDED, .stage = work->stage,
                             .first = parcel->first, .count = parcel->count};
    struct step step = {.farm = farm, .ev = &ev, .parcel = parcel};

    if (work->is_open && parcel->is_restored) {
        work_put(parcel);
        return;
    }
    if (work->is_open) {
        blocks_drop(work, parcel->first, parcel->count);
        states_recorded(work, parcel->first, parcel->count);
        drive_step(&step);
    }
    if (step.parcel != NULL) {
        parcel_free(step.parcel); /* cancelled meanwhile */
    }
}

void results_commit(struct trk_farm *farm)
{
    const struct ckpt_run *runs;
    size_t count;
    int rc = ckpt_commit(farm->ckpt, &runs, &count);

    if (rc < 0) {
        log_error("farm", "cannot record results: %s", trk_strerror(rc));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct list *node = list_pop_front(&farm->puts);
        struct parcel *parcel = container_of(node, struct parcel, node);

        assert(runs[i].first == parcel->first && runs[i].count == parcel->count);
        recorded(farm, parcel);
    }
}

/* While the store cannot write, or is behind with it, VMs get nothing new: what they still have on
 * their way is little. */
static void hold_vms(struct trk_farm *farm)
{
    bool is_held = farm->is_paused || ckpt_store_is_full(farm->job->store);
    struct list *pos;

    if (is_held == farm->is_held) {
        return;
    }
    farm->is_held = is_held;
    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->is_joined && !slot->vm->is_suspect) {
            drive_vm_suspect(slot, is_held);
        }
    }
}

static void look_at_disk(struct trk_farm *farm)
{
    struct trk_job_state state;

    trk_job_get_state(farm->job, &state);
    if (state.is_paused != farm->is_paused) {
        farm->is_paused = state.is_paused;
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "%s",
                       farm->is_paused ? state.text
                                       : "the store can be written again: the job goes on");
    }
}

void results_durable(struct trk_farm *farm)
{
    uint64_t durable;
    struct list *pos;

    if (farm->job == NULL || farm->sched == NULL) {
        return;
    }
    durable = ckpt_store_durable(farm->job->store);
    while (!list_is_empty(&farm->syncing)) {
        struct parcel *parcel = container_of(farm->syncing.next, struct parcel, node);
        if (parcel->ticket > durable) {
            break;
        }
        list_remove(&parcel->node);
        recorded(farm, parcel);
    }
    list_for_each(pos, &farm->acks) {
        look_at_unsafe(container_of(pos, struct slot, ack_node), durable);
    }
    held_durable(farm, durable);
    hold_vms(farm);
}

void results_told(struct trk_farm *farm)
{
    if (farm->sched != NULL) {
        look_at_disk(farm);
        results_durable(farm);
    }
}

void results_acknowledge_now(struct slot *slot)
{
    if (slot->seq_safe > slot->seq_acked) {
        slot->seq_acked = slot->seq_safe;
        drive_send_note(slot, WIRE_ACK, &(struct wire_note){.seq = slot->seq_acked});
    }
}

/* An acknowledgement only lets the VM free memory, and costs it a wake-up: so it waits a little
 * for others, unless much is held. */
void results_acknowledge(struct trk_farm *farm)
{
    uint64_t now = net_loop_now_ms(farm->loop);
    struct list *pos, *tmp;

    list_for_each_safe(pos, tmp, &farm->acks) {
        struct slot *slot = container_of(pos, struct slot, ack_node);
        bool is_due = slot->seq_safe - slot->seq_acked >= ACK_MESSAGES ||
                      slot->ack_bytes >= ACK_BYTES || now >= slot->ack_at_ms;
        if (slot->seq_safe == slot->seq_acked) {
            continue; /* the store will tell */
        }
        if (!is_due) {
            farm_wake_in(farm, slot->ack_at_ms - now);
            continue;
        }
        slot->seq_acked = slot->seq_safe;
        slot->ack_bytes = 0;
        if (slot->unsafe_count == 0) {
            list_remove(&slot->ack_node);
        } else {
            slot->ack_at_ms = now + ACK_MS;
        }
        drive_send_note(slot, WIRE_ACK, &(struct wire_note){.seq = slot->seq_acked});
    }
}
