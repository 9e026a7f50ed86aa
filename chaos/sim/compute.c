/* SPDX-License-Identifier: MIT */
/* compute.c - the computing half of a VM, step by step: what vm/host_compute.c does.
 *
 * One job at a time. Results are gathered and sent when 1 ms has passed since the last sending,
 * when 64 KiB are there, at the end of a batch, and before anything else is done or waited for;
 * each message is numbered, held by the agent, and only then sent. */
#include <assert.h>
#include <signal.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "sim.h"

#define FLUSH_NS (1 * MS)
#define FLUSH_BYTES 65536u
#define LATE_NS (10 * MS) /* results do not wait longer behind a long element */
#define RESULTS_MAX 4096u

uint64_t element_mark(const struct sim *s, uint32_t stage, uint64_t index)
{
    return dice_mix(s->plan.seed * 2 + 1 + dice_mix((uint64_t)stage << 48 ^ index));
}

uint64_t result_mark(const struct sim *s, uint32_t stage, uint64_t index, uint32_t run)
{
    return dice_mix(element_mark(s, stage, index) + run * UINT64_C(0x9e3779b97f4a7c15));
}

void element_write(const struct sim *s, uint32_t stage, uint64_t index, uint8_t *to)
{
    le_store_u64(to, element_mark(s, stage, index));
    le_store_u64(to + 8, index);
    memset(to + ELEMENT_HEAD, 0, s->plan.stage[stage].input_bytes);
}

struct digest element_digest(const struct sim *s, uint32_t stage, uint64_t index)
{
    size_t size = ELEMENT_HEAD + s->plan.stage[stage].input_bytes;
    uint8_t *bytes = sim_alloc(size, 1);
    struct digest digest;
    element_write(s, stage, index, bytes);
    digest = hash_digest(bytes, size);
    mem_free(bytes);
    return digest;
}

void stage_fingerprint(const struct sim *s, uint32_t stage, uint8_t out[16])
{
    le_store_u64(out, dice_mix(s->plan.seed + stage));
    le_store_u64(out + 8, stage);
}

/* --- sending ------------------------------------------------------------------------------- */

static void book(struct vm *vm, uint64_t seq, struct blob *body, bool is_durable)
{
    if (vm->unacked_head > 32 && vm->unacked_head > vm->unacked_count / 2) {
        vm->unacked_count -= vm->unacked_head;
        memmove(vm->unacked, vm->unacked + vm->unacked_head,
                vm->unacked_count * sizeof(*vm->unacked));
        vm->unacked_head = 0;
    }
    if (vm->unacked_count == vm->unacked_cap) {
        vm->unacked_cap = vm->unacked_cap > 0 ? 2 * vm->unacked_cap : 8;
        vm->unacked = sim_grow(vm->unacked, vm->unacked_cap, sizeof(*vm->unacked));
    }
    vm->unacked[vm->unacked_count++] = (struct unacked){seq, blob_ref(body), is_durable};
}

void compute_hold(struct sim *s, struct vm *vm)
{
    struct results *r = &vm->results;
    struct wire_result head = {.stage = r->stage, .attempt = r->attempt, .first = r->first,
                               .count = r->count, .busy_ns = r->busy_ns};
    struct blob *body;
    uint8_t fingerprint[16];
    int rc;
    if (r->count == 0) {
        return;
    }
    stage_fingerprint(s, r->stage - 1, fingerprint);
    if (agent_is_leased(vm->agent)) {
        head.seq = agent_next_seq(vm->agent);
        body = wire_result_encode(&head, r->statuses, r->sizes, r->payloads, r->bytes);
        if (body == NULL) {
            sim_broken(s, "out of memory");
        }
        rc = r->is_durable ? agent_hold_durable(vm->agent, head.seq, body, r->count, r->digests,
                                                fingerprint)
                           : agent_hold(vm->agent, head.seq, body);
        if (rc < 0) {
            sim_broken(s, "a result cannot be held: %s", trk_strerror(rc));
        }
        book(vm, head.seq, body, r->is_durable);
        s->vms.touched = vm->number;
        if (vm->conn != CONN_NONE) {
            net_send(s, net_conn(s, vm->conn), TO_FARM, WIRE_RESULT, 0, body);
        } else {
            blob_unref(body);
        }
    }
    r->count = 0;
    r->bytes = 0;
    r->busy_ns = 0;
    vm->flushed_ns = s->clock.now_ns;
}

static void gather(struct sim *s, struct vm *vm, uint8_t status, uint64_t busy_ns)
{
    struct results *r = &vm->results;
    const struct agent_job *job = &vm->job;
    uint32_t stage = job->stage - 1;
    size_t size = RESULT_HEAD + s->plan.stage[stage].result_bytes;
    if (r->count == 0) {
        r->stage = job->stage;
        r->attempt = job->attempt;
        r->first = job->index;
        r->is_durable = !vm->is_interrupted;
    }
    if (r->count == r->cap) {
        r->cap = r->cap > 0 ? 2 * r->cap : 4;
        r->statuses = sim_grow(r->statuses, r->cap, sizeof(*r->statuses));
        r->sizes = sim_grow(r->sizes, r->cap, sizeof(*r->sizes));
        r->digests = sim_grow(r->digests, r->cap, sizeof(*r->digests));
    }
    if (r->bytes + size > r->bytes_cap) {
        r->bytes_cap = 2 * (r->bytes + size);
        r->payloads = sim_grow(r->payloads, r->bytes_cap, 1);
    }
    le_store_u64(r->payloads + r->bytes, result_mark(s, stage, job->index, vm->run));
    le_store_u32(r->payloads + r->bytes + 8, vm->run);
    le_store_u32(r->payloads + r->bytes + 12, vm->number);
    memset(r->payloads + r->bytes + RESULT_HEAD, (int)job->index & 255, size - RESULT_HEAD);
    r->statuses[r->count] = status;
    r->sizes[r->count] = (uint32_t)size;
    r->digests[r->count] = hash_digest(job->payload, job->size);
    r->bytes += size;
    r->busy_ns += busy_ns;
    r->count++;
}

/* --- jobs ---------------------------------------------------------------------------------- */

static void busy(struct sim *s, struct vm *vm, uint64_t for_ns)
{
    vm->is_busy = true;
    vm->started_ns = s->clock.now_ns;
    vm->ends_ns = s->clock.now_ns + for_ns;
    vm->step++;
    if (!vm->is_hanging) {
        clock_at(&s->clock, vm->ends_ns, EVENT_VM_STEP, vm->number, vm->step);
    }
}

static void check_input(struct sim *s, const struct vm *vm)
{
    const struct agent_job *job = &vm->job;
    uint32_t bit = job->stage <= STAGES_MAX ? 1u << job->stage : 0;
    if (bit == 0 || (vm->opened & bit) == 0 || (vm->cancelled & bit) != 0) {
        sim_broken(s, "VM %u runs element %llu of stage %u, which is not open there", vm->number,
                   (unsigned long long)job->index, job->stage);
    }
    if (job->size < ELEMENT_HEAD || le_load_u64((const uint8_t *)job->payload + 8) != job->index ||
        le_load_u64(job->payload) != element_mark(s, job->stage - 1, job->index)) {
        sim_broken(s, "VM %u got other bytes than those of element %llu of stage %u", vm->number,
                   (unsigned long long)job->index, job->stage);
    }
}

static void start_element(struct sim *s, struct vm *vm)
{
    const struct agent_job *job = &vm->job;
    uint32_t stage = job->stage - 1;
    uint64_t for_ns;
    check_input(s, vm);
    for_ns = plan_element_ns(&s->plan, stage, job->index) * vm->slow_percent / 100;
    vm->run = judge_started(s, stage, job->index, vm->number, job->attempt,
                            agent_holder(vm->agent)->epoch);
    vm->is_killing = plan_is_poison(&s->plan, stage, job->index) &&
                     vm->run <= s->plan.stage[stage].poison_runs;
    vm->is_endless = job->index + 1 == s->plan.stage[stage].endless;
    vm->is_hanging = plan_is_hanging(&s->plan, stage, job->index) &&
                     vm->run <= s->plan.stage[stage].hang_runs;
    tell(s, "vm", vm->number, "starts element %llu of stage %u (attempt %u, run %u%s)",
         (unsigned long long)job->index, job->stage, job->attempt, vm->run,
         vm->is_killing ? ", deadly" : vm->is_hanging ? ", hangs" : "");
    if (vm->is_endless) {
        s->tally.faults[FAULT_ENDLESS]++;
        vm->is_hanging = true;
    } else if (vm->is_hanging) {
        s->tally.faults[FAULT_HANG]++;
        clock_in(&s->clock, job->timeout_ms > 0 ? job->timeout_ms * MS : s->plan.hang_ns,
                 EVENT_VM_HUNG, vm->number, vm->jobs);
    }
    if (vm->results.count > 0 && (vm->is_hanging || for_ns > LATE_NS)) {
        clock_in(&s->clock, dice_between(&s->dice, LATE_NS, 2 * LATE_NS), EVENT_VM_LATE,
                 vm->number, vm->jobs);
    }
    busy(s, vm, for_ns);
}

static void end_element(struct sim *s, struct vm *vm)
{
    struct results *r = &vm->results;
    const struct agent_job *job = &vm->job;
    uint64_t now_ns = s->clock.now_ns;
    bool is_failed = vm->is_interrupted ||
                     plan_is_failing(&s->plan, job->stage - 1, job->index, vm->run);
    if (r->count > 0 && (r->stage != job->stage || r->attempt != job->attempt ||
                         r->first + r->count != job->index ||
                         r->is_durable == vm->is_interrupted)) {
        compute_hold(s, vm);
    }
    s->tally.faults[FAULT_FAILING] += is_failed && !vm->is_interrupted;
    if (!vm->is_interrupted) { /* that one's result must never be recorded */
        judge_ended(s, job->stage - 1, job->index, vm->run);
    }
    if (RESULT_HEAD + s->plan.stage[job->stage - 1].result_bytes > FLUSH_BYTES) {
        compute_hold(s, vm); /* a large one travels alone */
    }
    gather(s, vm, is_failed ? TRK_STATUS_EXCEPTION : TRK_STATUS_OK, now_ns - vm->started_ns);
    if (job->is_last || r->bytes >= FLUSH_BYTES || r->count >= RESULTS_MAX ||
        now_ns - vm->flushed_ns >= FLUSH_NS) {
        compute_hold(s, vm);
    }
    vm->elements_done++;
    sim_progress(s);
    if (fault_is_on(s, FAULT_RECYCLE) && vm->elements_done >= s->plan.recycle_after &&
        !vm->is_draining) {
        s->tally.faults[FAULT_RECYCLE]++;
        vm_drain(s, vm, false);
    }
}

/* It was asked to leave, and has saved its state. */
static void give_back_started(struct sim *s, struct vm *vm)
{
    struct wire_note note = {.stage = vm->job.stage, .first = vm->job.index, .count = 1, .flag = 1};
    tell(s, "vm", vm->number, "gives back element %llu of stage %u in the middle",
         (unsigned long long)vm->job.index, vm->job.stage);
    s->tally.faults[FAULT_MOVED]++;
    judge_moved(s, vm->job.stage - 1, vm->job.index);
    compute_hold(s, vm);
    if (vm->conn != CONN_NONE) {
        net_send(s, net_conn(s, vm->conn), TO_FARM, WIRE_RECALLED, 0, wire_note_encode(&note));
    }
    sim_progress(s);
}

void compute_move(struct sim *s, struct vm *vm)
{
    if (!vm->is_busy || vm->job.kind != AGENT_ELEMENT || vm->is_interrupted || vm->is_endless ||
        !fault_strikes(s, FAULT_MOVED)) {
        return;
    }
    vm->is_moving = true;
    vm->is_killing = vm->is_hanging = false;
    vm->step++;
    vm->ends_ns = s->clock.now_ns + dice_scale(&s->dice, 1 * US, 100 * MS);
    clock_at(&s->clock, vm->ends_ns, EVENT_VM_STEP, vm->number, vm->step);
}

static void reply(struct sim *s, struct vm *vm)
{
    struct wire_reply answer = {.payload = &vm->job.stream, .size = sizeof(vm->job.stream)};
    if (vm->conn != CONN_NONE) {
        net_send(s, net_conn(s, vm->conn), TO_FARM, WIRE_REPLY, vm->job.stream,
                 wire_reply_encode(&answer));
    }
}

static void open_stage(struct sim *s, struct vm *vm)
{
    const struct agent_job *job = &vm->job;
    if (job->size != 4 || le_load_u32(job->payload) != job->stage ||
        (vm->opened & 1u << job->stage) != 0) {
        sim_broken(s, "VM %u opens stage %u with another one's function, or twice", vm->number,
                   job->stage);
    }
    vm->opened |= 1u << job->stage;
}

void vm_on_step(struct sim *s, uint32_t number, uint64_t step)
{
    struct vm *vm = vm_get(s, number);
    if (vm->step != step || !vm->is_busy) {
        return;
    }
    if (vm->is_killing) {
        s->tally.faults[FAULT_POISON]++;
        tell(s, "vm", number, "killed by element %llu of stage %u",
             (unsigned long long)vm->job.index, vm->job.stage);
        vm_die(s, vm, SIGSEGV, WIRE_END_UNKNOWN);
        return;
    }
    vm->is_busy = false;
    switch (vm->job.kind) {
    case AGENT_ELEMENT:
        if (vm->is_moving) {
            give_back_started(s, vm);
        } else {
            end_element(s, vm);
        }
        break;
    case AGENT_REQUEST:
        reply(s, vm);
        break;
    case AGENT_STAGE:
    case AGENT_STAGE_CLOSE:
    case AGENT_NOTHING:
        break;
    }
    agent_job_done(&vm->job);
    compute(s, vm);
}

void vm_on_hung(struct sim *s, uint32_t number, uint64_t job)
{
    struct vm *vm = vm_get(s, number);
    if (vm->is_busy && vm->jobs == job && vm->is_hanging) {
        tell(s, "vm", number, "killed because element %llu of stage %u hangs",
             (unsigned long long)vm->job.index, vm->job.stage);
        vm_die(s, vm, SIGKILL, vm->job.timeout_ms > 0 ? WIRE_END_TIMEOUT : WIRE_END_UNKNOWN);
    }
}

void vm_on_late(struct sim *s, uint32_t number, uint64_t job)
{
    struct vm *vm = vm_get(s, number);
    if (!vm->is_up || !vm->is_busy || vm->jobs != job) {
        return;
    }
    if (vm->is_stopped) { /* its timer too */
        clock_in(&s->clock, s->plan.dead_after_ns, EVENT_VM_LATE, number, job);
        return;
    }
    compute_hold(s, vm);
}

void compute_interrupt(struct sim *s, struct vm *vm, const struct wire_note *note)
{
    bool is_hit = vm->is_busy && vm->job.kind == AGENT_ELEMENT && vm->job.stage == note->stage &&
                  (note->count == 0 || (vm->job.index >= note->first &&
                                        vm->job.index < note->first + note->count));
    if (!is_hit || vm->is_interrupted || vm->is_moving) {
        return;
    }
    tell(s, "vm", vm->number, "is told to leave element %llu of stage %u",
         (unsigned long long)vm->job.index, vm->job.stage);
    if ((vm->is_hanging && !vm->is_endless) || dice_chance(&s->dice, 300)) { /* heeds nothing */
        vm_die(s, vm, 0, WIRE_END_DEAF);
        return;
    }
    vm->is_interrupted = true;
    vm->is_killing = vm->is_hanging = false;
    vm->step++;
    vm->ends_ns = s->clock.now_ns + dice_scale(&s->dice, 1 * US, 1 * MS);
    clock_at(&s->clock, vm->ends_ns, EVENT_VM_STEP, vm->number, vm->step);
}

void compute(struct sim *s, struct vm *vm)
{
    if (!vm->is_up || vm->is_stopped || vm->is_busy) {
        return;
    }
    if (vm->is_orphan) {
        vm_orphan_done(s, vm);
        return;
    }
    if (vm->is_draining) {
        vm_leave(s, vm);
        return;
    }
    agent_next(vm->agent, &vm->job);
    s->vms.touched = vm->number;
    if (vm->job.kind == AGENT_NOTHING) {
        compute_hold(s, vm);
        return;
    }
    vm->jobs++;
    vm->is_killing = vm->is_hanging = vm->is_interrupted = vm->is_moving = false;
    if (vm->job.kind == AGENT_ELEMENT) {
        start_element(s, vm);
        return;
    }
    compute_hold(s, vm);
    if (vm->job.kind == AGENT_STAGE) {
        open_stage(s, vm);
    }
    busy(s, vm, dice_chance(&s->dice, 500)
                    ? 0
                    : dice_scale(&s->dice, 1 * US, vm->job.kind == AGENT_REQUEST ? 2 * SEC
                                                                                 : 5 * MS));
}

void compute_drop(struct vm *vm)
{
    if (vm->is_busy) {
        agent_job_done(&vm->job);
    }
    vm->is_busy = vm->is_hanging = vm->is_killing = vm->is_interrupted = vm->is_moving = false;
    vm->step++;
    vm->results.count = 0;
    vm->results.bytes = 0;
    vm->results.busy_ns = 0;
}

void compute_fini(struct vm *vm)
{
    compute_drop(vm);
    mem_free(vm->results.statuses);
    mem_free(vm->results.sizes);
    mem_free(vm->results.digests);
    mem_free(vm->results.payloads);
}
