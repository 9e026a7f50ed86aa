/* SPDX-License-Identifier: MIT */
/* drive.c - carries events to the scheduler and its actions to sessions, recorder and programs.
 * The only caller of sched_step in production; all on the farm thread.
 *
 *   RESULT from a VM -> sched: STORE -> ckpt_put ............ in the turn
 *   end of the turn: ckpt_commit -> sched RECORDED -> DELIVER -> the program; ACK to the VMs
 *
 * So nothing is acknowledged or delivered before it is recorded. */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

#define RUN_BYTES_MAX ((size_t)64 << 20) /* split longer runs: a message must fit its limit */

/* What the actions of one step may refer to. */
struct step {
    struct trk_farm *farm;
    const struct sched_event *ev;
    struct blob *body;               /* RESULT being stepped */
    const struct wire_result *result;
    struct parcel *parcel;           /* RECORDED: the run that was recorded */
    const struct wire_death *death;  /* VM_LOST */
};

int drive_open(struct trk_farm *farm)
{
    struct sched_options opt = {0};
    int rc = sched_new(&farm->sched, &opt);

    if (rc == 0) {
        rc = ckpt_new(&farm->ckpt);
    }
    return rc < 0 ? fail(rc, "out of memory") : 0;
}

static struct trk_work *work_of(struct trk_farm *farm, uint32_t stage)
{
    struct list *pos;

    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->stage == stage && work->is_open) {
            return work;
        }
    }
    return NULL;
}

/* --- assigning ---------------- */

static bool is_opened(struct trk_work *work, const struct slot *slot)
{
    return slot->number < work->opened_cap && slot->lease == LEASE_HELD &&
           work->opened[slot->number] == slot->lease_number;
}

/* Tells the VM of the stage, once per lease. */
static int open_stage_at(struct trk_work *work, struct slot *slot)
{
    struct blob *body;

    if (is_opened(work, slot)) {
        return 0;
    }
    if (slot->number >= work->opened_cap) {
        uint32_t cap = slot->number + 64;
        uint64_t *opened = mem_realloc(work->opened, cap * sizeof(*opened));
        if (opened == NULL) {
            return TRK_ENOMEM;
        }
        memset(opened + work->opened_cap, 0, (cap - work->opened_cap) * sizeof(*opened));
        work->opened = opened;
        work->opened_cap = cap;
    }
    pthread_mutex_lock(&work->farm->mutex);
    slot->vm->is_used = true;
    pthread_mutex_unlock(&work->farm->mutex);
    body = wire_stage_encode(&(struct wire_stage){.stage = work->stage,
                                                  .function = work->function->data,
                                                  .size = work->function->size});
    if (body == NULL) {
        return TRK_ENOMEM;
    }
    work->opened[slot->number] = slot->lease_number;
    return net_session_send(slot->vm->session, WIRE_STAGE, 0, body);
}

/* Elements first.. of one RUN message: as many of count as fit. Returns how many. */
static uint32_t gather(struct trk_work *work, uint64_t first, uint64_t count,
                       struct wire_part *parts, uint32_t parts_cap)
{
    size_t total = 0;
    uint32_t n = 0;

    while (n < count && n < parts_cap) {
        struct block *block = block_of(work, first + n);
        uint32_t at = (uint32_t)(first + n - block->first);
        if (block->is_run) {
            break;
        }
        for (; at < block->count && n < count && n < parts_cap; at++, n++) {
            size_t size = block->offsets[at + 1] - block->offsets[at];
            if (n > 0 && total + size > RUN_BYTES_MAX) {
                return n;
            }
            parts[n] = (struct wire_part){block->bytes->data + block->offsets[at], size};
            total += size;
        }
    }
    return n;
}

static int send_run(struct trk_work *work, struct slot *slot, uint32_t attempt, uint64_t first,
                    uint64_t count)
{
    struct wire_part parts[1024];

    while (count > 0) {
        struct blob *body;
        uint32_t n = gather(work, first, count, parts, 1024);
        if (n == 0) { /* a large element has its RUN body ready but for stage and attempt */
            struct block *block = block_of(work, first);
            le_store_u32(block->bytes->data, work->stage);
            le_store_u32(block->bytes->data + 4, attempt);
            body = blob_ref(block->bytes);
            n = 1;
        } else {
            body = wire_run_encode(work->stage, attempt, first, parts, n);
        }
        if (body == NULL) {
            return TRK_ENOMEM;
        }
        int rc = net_session_send(slot->vm->session, WIRE_RUN, 0, body);
        if (rc < 0) {
            return rc;
        }
        first += n;
        count -= n;
    }
    return 0;
}

static void assign(struct step *step, const struct sched_action *a)
{
    struct slot *slot = step->farm->slot_by_number[a->vm];
    struct trk_work *work = work_of(step->farm, a->stage);
    int rc;

    if (work == NULL || slot->vm == NULL) {
        return;
    }
    rc = open_stage_at(work, slot);
    if (rc == 0) {
        rc = send_run(work, slot, a->attempt, a->first, a->count);
    }
    if (rc < 0 && rc != TRK_ECLOSED) {
        /* Half a batch on its way is worse than none: end the session, all of it is re-issued. */
        log_error("farm", "cannot send work to VM %u: %s", slot->info.index, trk_strerror(rc));
        net_session_close(slot->vm->session, false);
    }
}

static void send_note(struct slot *slot, uint8_t type, const struct wire_note *note)
{
    struct blob *body = wire_note_encode(note);

    if (body != NULL && net_session_send(slot->vm->session, type, 0, body) < 0) {
        log_debug("farm", "VM %u has gone before a %s", slot->info.index, wire_type_name(type));
    }
}

/* --- results ---------------- */

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
    return p;
}

static int put(struct step *step, struct trk_work *work, struct blob *body,
               const struct wire_result *result, uint64_t first, uint64_t count)
{
    struct ckpt_run run = {.stage = work->stage, .first = first, .count = count,
                           .seq = result->seq};
    struct parcel *parcel = parcel_new(work, body, result, first, (uint32_t)count);
    int rc = parcel == NULL ? TRK_ENOMEM : ckpt_put(step->farm->ckpt, &run);

    if (rc < 0) {
        if (parcel != NULL) {
            parcel_free(parcel);
        }
        work_fail(work, rc);
        return rc;
    }
    list_push_back(&step->farm->puts, &parcel->node);
    return 0;
}

static void put_failure(struct step *step, const struct sched_action *a)
{
    struct trk_work *work = work_of(step->farm, a->stage);
    struct wire_result head = {.stage = a->stage, .attempt = a->attempt, .first = a->first,
                               .count = 1};
    uint8_t status = TRK_STATUS_ERROR;
    const char *signal_name = NULL;
    struct wire_result decoded;
    struct blob *body;
    char text[256];
    uint32_t size;

    if (work == NULL) {
        return;
    }
    if (step->death != NULL && step->death->signal != 0) {
        signal_name = sigabbrev_np(step->death->signal);
    }
    size = (uint32_t)snprintf(text, sizeof(text), "element %llu ended its VM in %u runs of it%s%s",
                              (unsigned long long)a->first, a->attempt,
                              signal_name != NULL ? "; the last was killed by SIG" : "",
                              signal_name != NULL ? signal_name : "");
    body = wire_result_encode(&head, &status, &size, text, size);
    if (body == NULL || wire_result_decode(&decoded, body) < 0) {
        work_fail(work, TRK_ENOMEM);
    } else {
        put(step, work, body, &decoded, a->first, 1);
    }
    blob_unref(body);
}

static void deliver(struct step *step, const struct sched_action *a)
{
    struct parcel *parcel = step->parcel;

    assert(parcel != NULL && a->first == parcel->first && a->count == parcel->count);
    step->parcel = NULL;
    work_put(parcel);
}

static void apply(struct step *step, const struct sched_action *a)
{
    struct trk_work *work;

    switch (a->type) {
    case SCHED_ASSIGN:
        assign(step, a);
        break;
    case SCHED_RECALL:
        send_note(step->farm->slot_by_number[a->vm], WIRE_RECALL,
                  &(struct wire_note){.stage = a->stage, .first = a->first,
                                      .count = (uint32_t)a->count});
        break;
    case SCHED_STORE:
        work = work_of(step->farm, a->stage);
        if (work != NULL && step->result != NULL) {
            put(step, work, step->body, step->result, a->first, a->count);
        }
        break;
    case SCHED_DELIVER:
        deliver(step, a);
        break;
    case SCHED_FAIL:
        put_failure(step, a);
        break;
    case SCHED_WAKE_AT:
        step->farm->wake_at_ns = a->at_ns;
        break;
    case SCHED_DROP:
        log_debug("farm", "results %llu+%llu of stage %u were not wanted any more",
                  (unsigned long long)a->first, (unsigned long long)a->count, a->stage);
        break;
    case SCHED_DONE: /* the program sees it by its count */
    case SCHED_ACTION_COUNT:
        break;
    }
}

static int step_event(struct step *step)
{
    struct sched_actions actions;
    struct trk_work *work = work_of(step->farm, step->ev->stage);
    int rc = sched_step(step->farm->sched, step->ev, sys_now_ns(), &actions);

    if (rc < 0) {
        log_error("sched", "event %d was refused: %s", (int)step->ev->type, trk_strerror(rc));
        return rc;
    }
    for (size_t i = 0; i < actions.count; i++) {
        apply(step, &actions.items[i]);
    }
    if (work != NULL) {
        work->is_dirty = true;
    }
    return 0;
}

static int step_simple(struct trk_farm *farm, const struct sched_event *ev)
{
    return step_event(&(struct step){.farm = farm, .ev = ev});
}

static int on_result(struct slot *slot, struct blob *body)
{
    struct trk_farm *farm = slot->vm->farm;
    struct wire_result result;
    struct sched_event ev = {.type = SCHED_RESULT, .vm = slot->number};
    int rc = wire_result_decode(&result, body);

    if (rc < 0) {
        return rc;
    }
    slot->seq_seen = result.seq > slot->seq_seen ? result.seq : slot->seq_seen;
    if (list_is_empty(&slot->ack_node)) {
        list_push_back(&farm->acks, &slot->ack_node);
    }
    if (work_of(farm, result.stage) == NULL || result.count == 0) {
        return 0; /* of a stage that was cancelled: acknowledged, so that the VM lets go */
    }
    ev.stage = result.stage;
    ev.attempt = result.attempt;
    ev.first = result.first;
    ev.count = result.count;
    ev.busy_ns = result.busy_ns;
    for (uint32_t i = 0; i < result.count; i++) {
        ev.failed += result.statuses[i] != TRK_STATUS_OK;
    }
    return step_event(&(struct step){.farm = farm, .ev = &ev, .body = body, .result = &result});
}

static int on_recalled(struct slot *slot, struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);

    if (rc < 0 || note.count == 0 || work_of(slot->vm->farm, note.stage) == NULL) {
        return rc;
    }
    return step_simple(slot->vm->farm,
                       &(struct sched_event){.type = SCHED_RECALLED, .vm = slot->number,
                                             .stage = note.stage, .first = note.first,
                                             .count = note.count});
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

/* --- VMs ---------------- */

static bool serves(const struct trk_work *work, const struct slot *slot)
{
    if (work->list != NULL) {
        return vmlist_has(work->list, slot);
    }
    for (size_t i = 0; i < work->slots_count; i++) {
        if (work->slots[i] == slot) {
            return true;
        }
    }
    return false;
}

static void serve(struct trk_work *work, struct slot *slot)
{
    step_simple(work->farm, &(struct sched_event){.type = SCHED_STAGE_VM, .vm = slot->number,
                                                  .stage = work->stage, .flag = 1});
}

void drive_vm_joined(struct slot *slot)
{
    struct trk_farm *farm = slot->vm->farm;
    struct list *pos;

    if (step_simple(farm, &(struct sched_event){.type = SCHED_VM_JOINED, .vm = slot->number}) < 0) {
        return; /* out of memory: the VM serves calls, but no work */
    }
    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && serves(work, slot)) {
            serve(work, slot);
        }
    }
}

void drive_slot_in_list(struct slot *slot, struct trk_vmlist *list)
{
    struct list *pos;

    list_for_each(pos, &list->farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && work->list == list && slot->is_joined) {
            serve(work, slot);
        }
    }
}

void drive_vm_lost(struct slot *slot, enum sched_cause cause, const struct wire_death *death)
{
    struct sched_event ev = {.type = SCHED_VM_LOST, .vm = slot->number, .cause = cause};
    struct trk_farm *farm = slot->vm->farm;
    struct list *pos;

    if (death != NULL && death->has_element) {
        ev.has_element = true;
        ev.stage = death->stage;
        ev.first = death->index_of_element;
    }
    list_remove(&slot->ack_node);
    step_event(&(struct step){.farm = farm, .ev = &ev, .death = death});
    list_for_each(pos, &farm->works) {
        container_of(pos, struct trk_work, node)->is_dirty = true;
    }
}

void drive_vm_suspect(struct slot *slot, bool is_suspect)
{
    log_info("farm", "VM %u (pid %u) %s", slot->vm->info.index, slot->vm->info.pid,
             is_suspect ? "is silent" : "speaks again");
}

/* --- works ---------------- */

int drive_open_work(struct trk_work *work)
{
    struct trk_farm *farm = work->farm;
    struct list *pos;
    int rc;

    work->stage = ++farm->next_stage;
    rc = step_simple(farm, &(struct sched_event){.type = SCHED_STAGE_OPENED,
                                                 .stage = work->stage});
    if (rc < 0) {
        return rc;
    }
    work->is_open = true;
    work->is_dirty = true;
    list_push_back(&farm->works, &work->node);
    work_ref(work);
    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->is_joined && serves(work, slot)) {
            serve(work, slot);
        }
    }
    return 0;
}

int drive_add(struct trk_work *work, struct block *block)
{
    struct sched_event ev = {.type = SCHED_WORK_ADDED, .stage = work->stage,
                             .count = block->count, .bytes = block->bytes->size};
    int rc;

    if (!work->is_open) {
        block_fini(block);
        return TRK_ECLOSED;
    }
    rc = blocks_put(work, block);
    if (rc < 0) {
        block_fini(block);
        return rc;
    }
    rc = step_simple(work->farm, &ev);
    if (rc < 0) {
        block_fini(&work->blocks[work->blocks_head + --work->blocks_count]);
    }
    return rc;
}

void drive_close_input(struct trk_work *work)
{
    if (work->is_open) {
        step_simple(work->farm, &(struct sched_event){.type = SCHED_WORK_CLOSED,
                                                      .stage = work->stage});
    }
}

/* The program wants no more of it: not from the scheduler, not from the VMs. */
void drive_cancel(struct trk_work *work, bool interrupt)
{
    struct wire_note note = {.stage = work->stage, .flag = interrupt};
    struct list *pos;

    if (!work->is_open) {
        return;
    }
    step_simple(work->farm, &(struct sched_event){.type = SCHED_CANCEL, .stage = work->stage});
    step_simple(work->farm, &(struct sched_event){.type = SCHED_STAGE_CLOSED,
                                                  .stage = work->stage});
    work->is_open = false;
    list_for_each(pos, &work->farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (is_opened(work, slot)) {
            send_note(slot, WIRE_CANCEL, &note);
        }
    }
    blocks_free(work);
    mem_free(work->opened);
    work->opened = NULL;
    work->opened_cap = 0;
}

void drive_forget_work(struct trk_work *work)
{
    drive_cancel(work, false);
    if (!list_is_empty(&work->node)) {
        list_remove(&work->node);
        work_unref(work);
    }
}

void drive_delivered(struct trk_work *work, uint64_t first, uint64_t count)
{
    if (work->is_open) {
        step_simple(work->farm, &(struct sched_event){.type = SCHED_DELIVERED,
                                                      .stage = work->stage, .first = first,
                                                      .count = count});
    }
}

/* --- the end of a turn ---------------- */

static void commit(struct trk_farm *farm)
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
        struct trk_work *work = parcel->work;
        struct sched_event ev = {.type = SCHED_RECORDED, .stage = runs[i].stage,
                                 .first = runs[i].first, .count = runs[i].count};
        struct step step = {.farm = farm, .ev = &ev, .parcel = parcel};

        assert(runs[i].first == parcel->first && runs[i].count == parcel->count);
        if (work->is_open) {
            blocks_drop(work, parcel->first, parcel->count);
            step_event(&step);
        }
        if (step.parcel != NULL) {
            parcel_free(step.parcel); /* cancelled meanwhile */
        }
    }
}

static void acknowledge(struct trk_farm *farm)
{
    struct list *node;

    while ((node = list_pop_front(&farm->acks)) != NULL) {
        struct slot *slot = container_of(node, struct slot, ack_node);
        if (slot->vm != NULL && slot->seq_seen > slot->seq_acked) {
            slot->seq_acked = slot->seq_seen;
            send_note(slot, WIRE_ACK, &(struct wire_note){.seq = slot->seq_seen});
        }
    }
}

static void copy_progress(struct trk_work *work)
{
    struct sched_stage_info info;

    work->is_dirty = false;
    if (!work->is_open || sched_stage_get(work->farm->sched, work->stage, &info) < 0) {
        return;
    }
    pthread_mutex_lock(&work->mutex);
    work->progress.reissued = info.reissued;
    work->progress.vms = info.vms;
    work->progress.is_closed = info.is_closed;
    pthread_mutex_unlock(&work->mutex);
}

void drive_turn_end(struct trk_farm *farm)
{
    struct list *pos;
    uint64_t now;

    if (farm->sched == NULL) {
        return; /* closed */
    }
    commit(farm);
    acknowledge(farm);
    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_dirty) {
            copy_progress(work);
        }
    }
    if (farm->wake_at_ns != 0) {
        now = sys_now_ns();
        if (now >= farm->wake_at_ns) {
            farm->wake_at_ns = 0;
            step_simple(farm, &(struct sched_event){.type = SCHED_TICK});
        }
        if (farm->wake_at_ns != 0) {
            farm_wake_in(farm, farm->wake_at_ns > now ? (farm->wake_at_ns - now) / 1000000u + 1
                                                      : 1);
        }
    }
}

void drive_close(struct trk_farm *farm)
{
    struct list *node;

    while ((node = list_pop_front(&farm->puts)) != NULL) {
        parcel_free(container_of(node, struct parcel, node));
    }
    while (!list_is_empty(&farm->works)) {
        struct trk_work *work = container_of(farm->works.next, struct trk_work, node);
        work_fail(work, TRK_ECLOSED);
        drive_forget_work(work);
    }
    sched_free(farm->sched);
    ckpt_free(farm->ckpt);
    farm->sched = NULL;
    farm->ckpt = NULL;
}
