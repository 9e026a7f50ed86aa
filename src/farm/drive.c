/* SPDX-License-Identifier: MIT */
/* drive.c - carries events to the scheduler and its actions to sessions, recorder and programs.
 * The only caller of sched_step in production; all on the farm thread.
 *
 * Results are in results.c. */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/drive_impl.h"

#define RUN_BYTES_MAX ((size_t)64 << 20) /* split longer runs: a message must fit its limit */

int drive_open(struct trk_farm *farm)
{
    struct sched_options opt = {0};
    int rc = sched_new(&farm->sched, &opt);

    if (rc == 0) {
        rc = ckpt_new(&farm->ckpt);
    }
    return rc < 0 ? fail(rc, "out of memory") : 0;
}

struct trk_work *drive_work_of(struct trk_farm *farm, uint32_t stage)
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
    struct wire_stage stage;
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
    stage = (struct wire_stage){.stage = work->stage, .timeout_ms = work->timeout_ms,
                                .flags = work->store_stage != 0 ? WIRE_STAGE_DURABLE : 0,
                                .function = work->function->data, .size = work->function->size};
    memcpy(stage.module, work->module, sizeof(stage.module));
    memcpy(stage.fingerprint, work->fingerprint.bytes, sizeof(stage.fingerprint));
    body = wire_stage_encode(&stage);
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
    struct trk_work *work = drive_work_of(step->farm, a->stage);
    int rc;

    if (work == NULL || slot->vm == NULL) {
        return;
    }
    busy_assigned(slot, a->stage, a->first, a->count);
    rc = open_stage_at(work, slot);
    rc = rc < 0 ? rc : states_send(work, slot, a->first, a->count);
    if (rc == 0) {
        rc = send_run(work, slot, a->attempt, a->first, a->count);
    }
    if (rc < 0 && rc != TRK_ECLOSED) {
        /* Half a batch on its way is worse than none: end the session, all of it is re-issued. */
        log_error("farm", "cannot send work to VM %u: %s", slot->info.index, trk_strerror(rc));
        net_session_close(slot->vm->session, false);
    }
}

void drive_send_note(struct slot *slot, uint8_t type, const struct wire_note *note)
{
    struct blob *body = slot->vm != NULL ? wire_note_encode(note) : NULL;

    if (body != NULL && net_session_send(slot->vm->session, type, 0, body) < 0) {
        log_debug("farm", "VM %u has gone before a %s", slot->info.index, wire_type_name(type));
    }
}

static void deliver(struct step *step, const struct sched_action *a)
{
    struct parcel *parcel = step->parcel;

    assert(parcel != NULL && a->first == parcel->first && a->count == parcel->count);
    step->parcel = NULL;
    work_put(parcel);
}

static void block_vm(struct trk_farm *farm, struct slot *slot)
{
    log_warn("farm", "VM %u on %s gets no more work: elements that ended it ran well elsewhere",
             slot->info.index, slot->info.host);
    notice_message(farm, TRK_NOTICE_MESSAGE, slot->vm, "VM %u on %s gets no more work: three "
                   "elements that ended it ran well elsewhere", slot->info.index,
                   slot->info.host);
}

static void apply(struct step *step, const struct sched_action *a)
{
    switch (a->type) {
    case SCHED_ASSIGN:
        assign(step, a);
        break;
    case SCHED_RECALL:
        drive_send_note(step->farm->slot_by_number[a->vm], WIRE_RECALL,
                  &(struct wire_note){.stage = a->stage, .first = a->first,
                                      .count = (uint32_t)a->count});
        break;
    case SCHED_STORE:
        results_put(step, a);
        break;
    case SCHED_DELIVER:
        deliver(step, a);
        break;
    case SCHED_FAIL:
        results_put_failure(step, a);
        break;
    case SCHED_WAKE_AT:
        step->farm->wake_at_ns = a->at_ns;
        break;
    case SCHED_DROP:
        log_debug("farm", "results %llu+%llu of stage %u were not wanted any more",
                  (unsigned long long)a->first, (unsigned long long)a->count, a->stage);
        break;
    case SCHED_BLOCK_VM:
        block_vm(step->farm, step->farm->slot_by_number[a->vm]);
        break;
    case SCHED_CANCEL_RUN:
        drive_send_note(step->farm->slot_by_number[a->vm], WIRE_CANCEL,
                  &(struct wire_note){.stage = a->stage, .first = a->first, .flag = 1,
                                      .count = (uint32_t)a->count});
        break;
    case SCHED_DONE: /* the program sees it by its count */
    case SCHED_ACTION_COUNT:
        break;
    }
}

int drive_step(struct step *step)
{
    struct sched_actions actions;
    struct trk_work *work = drive_work_of(step->farm, step->ev->stage);
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

int drive_step_simple(struct trk_farm *farm, const struct sched_event *ev)
{
    return drive_step(&(struct step){.farm = farm, .ev = ev});
}

/* --- VMs ---------------- */

static bool is_for(const struct trk_work *work, const struct slot *slot)
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

static const char *module_of(const struct slot *slot)
{
    return slot->lease == LEASE_HELD ? slot->vm->info.module : slot->info.module;
}

static bool serves(const struct trk_work *work, const struct slot *slot)
{
    return is_for(work, slot) && work_fits(work, module_of(slot));
}

/* VMs are there, and none of them can run it. Those that come later may. */
static void check_module(struct trk_work *work)
{
    const struct slot *other = NULL;
    struct list *pos;

    list_for_each(pos, &work->farm->slots) {
        const struct slot *slot = container_of(pos, struct slot, node);
        if (slot->is_joined && is_for(work, slot)) {
            if (work_fits(work, module_of(slot))) {
                return;
            }
            other = slot;
        }
    }
    if (other != NULL) {
        notice_message(work->farm, TRK_NOTICE_MESSAGE, NULL, "%s waits for a VM of the module %s: "
                       "none of those that are there can run it (VM %u on %s is of %s); start some "
                       "with: trickle vm --rai %s", work->name, work->module, other->info.index,
                       other->info.host, module_of(other), work->module);
    }
}

/* Does any list that is not closed hold a VM of it? */
static bool has_vms(const struct trk_work *work)
{
    struct list *pos;

    list_for_each(pos, &work->farm->vmlists) {
        struct trk_vmlist *list = container_of(pos, struct trk_vmlist, node);
        if (work->list == list) {
            return true;
        }
        for (size_t i = 0; work->list == NULL && i < work->slots_count; i++) {
            if (vmlist_has(list, work->slots[i])) {
                return true;
            }
        }
    }
    return false;
}

void drive_list_closed(struct trk_farm *farm)
{
    struct list *pos;

    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && !has_vms(work)) {
            drive_cancel(work, false);
            work_fail(work, TRK_ECLOSED);
        }
    }
}

bool drive_needs(struct trk_farm *farm, const struct slot *slot)
{
    struct list *pos;

    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && work->list == NULL && serves(work, slot)) {
            return true;
        }
    }
    return false;
}

static void serve(struct trk_work *work, struct slot *slot)
{
    if (work->is_asking) {
        return; /* drive_serve_all follows */
    }
    drive_step_simple(work->farm, &(struct sched_event){.type = SCHED_STAGE_VM, .vm = slot->number,
                                                        .stage = work->stage, .flag = 1});
}

void drive_vm_joined(struct slot *slot)
{
    struct trk_farm *farm = slot->vm->farm;
    struct list *pos;
    struct sched_event ev = {.type = SCHED_VM_JOINED, .vm = slot->number};

    if (drive_step_simple(farm, &ev) < 0) {
        return; /* out of memory: the VM serves calls, but no work */
    }
    if (farm->is_held) {
        drive_vm_suspect(slot, true);
    }
    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && serves(work, slot)) {
            serve(work, slot);
        }
    }
}

void drive_serve_all(struct trk_work *work)
{
    struct list *pos;

    list_for_each(pos, &work->farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->is_joined && serves(work, slot)) {
            serve(work, slot);
        }
    }
}

void drive_slot_in_list(struct slot *slot, struct trk_vmlist *list)
{
    struct list *pos;

    list_for_each(pos, &list->farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && work->list == list && slot->is_joined && serves(work, slot)) {
            serve(work, slot);
        }
    }
}

/* The run that the loss ended, where it is known. */
static void note_loss(const struct trk_vm *vm, enum sched_cause cause)
{
    const struct wire_death *d = &vm->death;
    struct trk_work *work = drive_work_of(vm->farm, d->stage);
    struct trk_attempt a = {.attempt = d->attempt, .outcome = TRK_OUTCOME_LOST,
                            .duration_ns = d->ran_ns, .signal = d->signal,
                            .exit_status = d->exit_status, .rss_max_bytes = d->rss_max_bytes,
                            .output = vm->last_output, .output_size = vm->last_output_size};

    if (work == NULL || !vm->has_death || !d->has_element) {
        return;
    }
    if (d->end == WIRE_END_TIMEOUT) {
        a.outcome = TRK_OUTCOME_TIMEOUT;
    } else if (d->end == WIRE_END_MEMORY) {
        a.outcome = TRK_OUTCOME_MEMORY;
    } else if (d->end == WIRE_END_OOM) {
        a.outcome = TRK_OUTCOME_OOM;
    } else if (cause == SCHED_CAUSE_OWN) {
        a.outcome = TRK_OUTCOME_DIED;
    }
    attempts_bad(work, vm, d->index_of_element, &a);
}

void drive_vm_lost(struct slot *slot, enum sched_cause cause)
{
    struct sched_event ev = {.type = SCHED_VM_LOST, .vm = slot->number, .cause = cause};
    struct trk_vm *vm = slot->vm;
    struct list *pos;

    if (vm->has_death && vm->death.has_element) {
        ev.has_element = true;
        ev.stage = vm->death.stage;
        ev.first = vm->death.index_of_element;
    }
    list_remove(&slot->ack_node);
    slot->ack_bytes = 0;
    note_loss(vm, cause);
    drive_step(&(struct step){.farm = vm->farm, .ev = &ev, .lost = vm});
    list_for_each(pos, &vm->farm->works) {
        container_of(pos, struct trk_work, node)->is_dirty = true;
    }
}

void drive_vm_suspect(struct slot *slot, bool is_suspect)
{
    drive_step_simple(slot->vm->farm, &(struct sched_event){.type = SCHED_VM_SUSPECT,
                                                      .vm = slot->number, .flag = is_suspect});
}

void drive_vm_draining(struct slot *slot)
{
    drive_step_simple(slot->vm->farm, &(struct sched_event){.type = SCHED_VM_DRAINING,
                                                            .vm = slot->number});
}

/* --- works ---------------- */

int drive_open_work(struct trk_work *work)
{
    struct trk_farm *farm = work->farm;
    int rc;

    if (work->store_stage == 0) {
        work->stage = STAGE_VOLATILE + ++farm->next_stage;
    }
    rc = states_open(work);
    if (rc < 0) {
        return rc;
    }
    rc = drive_step_simple(farm, &(struct sched_event){
        .type = SCHED_STAGE_OPENED, .stage = work->stage, .retries = work->retries,
        .backoff_ns = (uint64_t)work->retry_after_ms * 1000000u,
        .flag = work->speculate ? SCHED_STAGE_SPECULATE : 0});
    if (rc < 0) {
        return rc;
    }
    work->is_open = true;
    work->is_dirty = true;
    work->opened_ns = sys_now_ns();
    list_push_back(&farm->works, &work->node);
    work_ref(work);
    work->is_asking = work->store_stage != 0 && farm->hello.epoch > 1;
    drive_serve_all(work);
    check_module(work);
    farm_touch(farm); /* some of its VMs may have to be leased again */
    return 0;
}

/* Elements with results from before: the scheduler counts them, nobody else needs them. */
static int add_recorded(struct trk_work *work, struct block *block)
{
    struct sched_event ev = {.type = SCHED_WORK_ADDED, .stage = work->stage,
                             .count = block->count, .flag = SCHED_WORK_RECORDED};

    states_recorded(work, block->first, block->count);
    held_added(work, block->first, block->count);
    block_fini(block);
    return drive_step_simple(work->farm, &ev);
}

int drive_add(struct trk_work *work, struct block *block)
{
    struct sched_event ev = {.type = SCHED_WORK_ADDED, .stage = work->stage,
                             .count = block->count};
    struct block *placed;
    int rc;

    if (!work->is_open) {
        block_fini(block);
        return TRK_ECLOSED;
    }
    if (block->kind == BLOCK_RECORDED) {
        return add_recorded(work, block);
    }
    rc = blocks_put(work, block);
    if (rc < 0) {
        block_fini(block);
        return rc;
    }
    ev.bytes = block->bytes->size;
    rc = drive_step_simple(work->farm, &ev);
    placed = &work->blocks[work->blocks_head + work->blocks_count - 1];
    if (rc < 0) {
        block_fini(placed);
        work->blocks_count--;
    } else if (work->store_stage != 0 && block->kind == BLOCK_NEW) {
        rc = durable_put_work(work, placed);
        mem_free(placed->delivered);
        placed->delivered = NULL;
    }
    if (rc == 0) {
        held_added(work, block->first, block->count);
    }
    return rc;
}

void drive_close_input(struct trk_work *work)
{
    if (work->is_open) {
        drive_step_simple(work->farm, &(struct sched_event){.type = SCHED_WORK_CLOSED,
                                                            .stage = work->stage});
    }
}

/* The program wants no more of it: not from the scheduler, not from the VMs. */
void drive_cancel(struct trk_work *work, bool interrupt)
{
    struct wire_note note = {.stage = work->stage, .flag = interrupt};
    struct sched_event cancel = {.type = SCHED_CANCEL, .stage = work->stage};
    struct sched_event forget = {.type = SCHED_STAGE_CLOSED, .stage = work->stage};
    struct list *pos;

    if (!work->is_open) {
        return;
    }
    drive_step_simple(work->farm, &cancel);
    drive_step_simple(work->farm, &forget);
    work->is_open = false;
    list_for_each(pos, &work->farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (is_opened(work, slot)) {
            drive_send_note(slot, WIRE_CANCEL, &note);
        }
    }
    blocks_free(work);
    states_free(work);
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
        drive_step_simple(work->farm, &(struct sched_event){.type = SCHED_DELIVERED,
                                                            .stage = work->stage, .first = first,
                                                            .count = count});
    }
}

/* --- the end of a turn ---------------- */

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
    results_commit(farm);
    results_durable(farm);
    results_acknowledge(farm);
    held_pulse(farm);
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
            drive_step_simple(farm, &(struct sched_event){.type = SCHED_TICK});
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

    while ((node = list_pop_front(&farm->puts)) != NULL ||
           (node = list_pop_front(&farm->syncing)) != NULL) {
        parcel_free(container_of(node, struct parcel, node));
    }
    while (!list_is_empty(&farm->works)) {
        struct trk_work *work = container_of(farm->works.next, struct trk_work, node);
        work_fail(work, TRK_ECLOSED);
        drive_forget_work(work);
    }
    held_close(farm);
    sched_free(farm->sched);
    ckpt_free(farm->ckpt);
    farm->sched = NULL;
    farm->ckpt = NULL;
}
