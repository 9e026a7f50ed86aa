/* SPDX-License-Identifier: MIT */
/* lease.c - leases on VMs: asking for them, holding, losing and giving them back.
 *
 *   FREE --lease_start--> TRYING --WELCOME--> HELD --end of connection, death report--> FREE
 *     \                   ^ +----- refused, closed ----------------------------------> FREE
 *      +-----> CALLED ---/   a VM that dials in (join.c): it was asked to, it has come
 *
 * A VM is lost when its connection ends. Its supervisor, when there is one, says within
 * milliseconds how the process died and what it was running; that report is waited for
 * FARM_DEATH_WAIT_MS, so that the loss has its cause from the start. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "farm/farm_impl.h"

#define REFUSALS_FEW 5u /* after more nobody waits for a VM, though it is tried on */
#define PAUSE_MIN_MS 500u /* pulses that are less late than this happen on busy machines */

/* It may be asked for a lease. */
static bool slot_is_usable(const struct slot *slot)
{
    if (slot->sup == NULL) {
        return false;
    }
    if (slot->info.state == TRK_VM_LEASED || slot->info.state == TRK_VM_FINISHING) {
        /* By us, who have lost it: the VM has not noticed, and ends that lease when we ask. */
        return memcmp(slot->info.incarnation, slot->ours, sizeof(slot->ours)) == 0;
    }
    return slot->info.state == TRK_VM_IDLE || slot->info.state == TRK_VM_STARTING;
}

bool slot_is_trying(const struct slot *slot)
{
    return slot->lease == LEASE_CALLED || slot->lease == LEASE_TRYING;
}

bool slot_is_promising(const struct slot *slot)
{
    /* A process that is ending refuses for as long as a busy machine lets it live; its supervisor
     * tells of the next one. One that is stopped says nothing at all. */
    bool is_hopeless = slot->refusals > REFUSALS_FEW && slot->info.state != TRK_VM_STARTING;

    return !is_hopeless && (slot_is_trying(slot) ||
                            (slot->lease == LEASE_FREE && slot_is_usable(slot)));
}

bool lease_is_trying(struct trk_farm *farm)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        if (slot_is_trying(container_of(pos, struct slot, node))) {
            return true;
        }
    }
    return false;
}

/* --- the end of a lease ---------------- */

void lease_describe(const struct trk_vm *vm, char *text, size_t size)
{
    static const char *const ends[WIRE_END_COUNT] = {
        [WIRE_END_LEASE] = "its lease ended", [WIRE_END_DRAINED] = "it was drained",
        [WIRE_END_RECYCLED] = "it was recycled", [WIRE_END_TIMEOUT] = "ended by timeout",
        [WIRE_END_MEMORY] = "ended by its memory limit",
        [WIRE_END_OOM] = "killed by the kernel because memory ran out",
        [WIRE_END_DEAF] = "restarted because it did not heed an interrupt"};
    const struct wire_death *d = &vm->death;
    char what[96], where[96] = "";

    if (!vm->has_death) {
        snprintf(text, size, vm->is_silent ? "no sign of life"
                             : vm->is_revoked ? "the key of its session is revoked"
                             : vm->is_leaving ? "it left, drained or to be replaced"
                                              : "its connection ended");
        return;
    }
    if (ends[d->end] != NULL) {
        snprintf(what, sizeof(what), "%s", ends[d->end]);
    } else if (d->signal != 0) {
        const char *name = sigabbrev_np(d->signal);
        snprintf(what, sizeof(what), "killed by SIG%s", name != NULL ? name : "?");
    } else {
        snprintf(what, sizeof(what), "its process ended with status %d", d->exit_status);
    }
    if (d->has_element) {
        snprintf(where, sizeof(where), " while running element %llu for %.3f s",
                 (unsigned long long)d->index_of_element, (double)d->ran_ns / 1e9);
    }
    snprintf(text, size, "%s%s, having used %llu MB at most", what, where,
             (unsigned long long)(d->rss_max_bytes >> 20));
}

/* An element's own doing: a signal of its own, an end of the process it asked for, or proof. */
static enum sched_cause cause_of(const struct trk_vm *vm)
{
    const struct wire_death *d = &vm->death;

    if (!vm->has_death) { /* who said that it leaves closes before its process has ended */
        return vm->is_leaving || vm->is_revoked ? SCHED_CAUSE_EXPECTED : SCHED_CAUSE_LOSS;
    }
    if (d->is_expected) {
        return SCHED_CAUSE_EXPECTED;
    }
    if (!d->has_element) { /* killed from outside while nothing ran: no element had a part in it */
        bool is_killed = d->signal == SIGKILL && d->end == WIRE_END_UNKNOWN;
        return is_killed ? SCHED_CAUSE_EXPECTED : SCHED_CAUSE_LOSS;
    }
    switch (d->end) {
    case WIRE_END_TIMEOUT:
        return SCHED_CAUSE_TIMEOUT;
    case WIRE_END_MEMORY:
    case WIRE_END_OOM:
        return SCHED_CAUSE_OWN;
    default:
        break;
    }
    switch (d->signal) {
    case 0:
    case SIGSEGV:
    case SIGBUS:
    case SIGILL:
    case SIGFPE:
    case SIGABRT:
    case SIGSYS:
    case SIGXCPU:
        return SCHED_CAUSE_OWN;
    default:
        return SCHED_CAUSE_LOSS;
    }
}

/* All is known that will be: let the handle go, tell the scheduler. */
static void finish_loss(struct slot *slot)
{
    struct trk_vm *vm = slot->vm;
    struct trk_farm *farm = vm->farm;
    char reason[256];

    if (vm->is_given_back) {
        snprintf(reason, sizeof(reason), "it was given back");
    } else {
        lease_describe(vm, reason, sizeof(reason));
    }
    vm_set_lost(vm, reason);
    if (slot->is_joined) {
        drive_vm_lost(slot, cause_of(vm));
        slot->is_joined = false;
    }
    if (!vm->is_given_back) {
        log_info("farm", "VM %u (pid %u) is lost: %s", vm->info.index, vm->info.pid, reason);
        if (vm->has_death ? !vm->death.is_expected : !vm->is_leaving) {
            notice_message(farm, TRK_NOTICE_VM_LOST, vm, "%s", reason);
        }
    }
    call_fail_all(vm, farm->is_closing ? TRK_ECLOSED : TRK_EVMLOST);
    pthread_mutex_lock(&farm->mutex);
    slot->vm = NULL;
    pthread_mutex_unlock(&farm->mutex);
    slot->lease = LEASE_FREE;
    if (vm->is_given_back && slot->info.state == TRK_VM_LEASED) {
        slot->info.state = TRK_VM_STARTING; /* until its supervisor says better */
    }
    trk_vm_unref(vm);
    farm_touch(farm);
}

bool slot_is_live(const struct slot *slot)
{
    return slot->lease == LEASE_HELD && !slot->vm->is_down && !slot->vm->is_silent;
}

/* The VM has said nothing for so long that its work goes to others. Its session stands: results
 * that still come are taken where they are the first. */
static void declare_silent(struct slot *slot)
{
    struct trk_vm *vm = slot->vm;
    char reason[128];

    vm->is_silent = true;
    snprintf(reason, sizeof(reason), "no sign of life for %.1f s",
             (double)vm->farm->dead_after_ms / 1000.0);
    vm_set_lost(vm, reason);
    log_info("farm", "VM %u (pid %u) is lost: %s", vm->info.index, vm->info.pid, reason);
    notice_message(vm->farm, TRK_NOTICE_VM_LOST, vm, "%s", reason);
    if (slot->is_joined) {
        drive_vm_lost(slot, SCHED_CAUSE_LOSS);
        slot->is_joined = false;
    }
    call_fail_all(vm, TRK_EVMLOST);
    farm_touch(vm->farm);
}

/* A pause of this process, or of the whole machine, is no silence of its VMs: they have their time
 * again to be heard. */
static void note_pause(struct trk_farm *farm, uint64_t now_ms)
{
    uint64_t late_ms = now_ms - farm->pulsed_ms;
    uint64_t limit_ms = farm->dead_after_ms / 2;

    farm->pulsed_ms = now_ms;
    if (late_ms > (limit_ms > PAUSE_MIN_MS ? limit_ms : PAUSE_MIN_MS)) {
        farm->listening_ms = now_ms;
        log_info("farm", "this program, or its machine, stood still for %.1f s",
                 (double)late_ms / 1000.0);
    }
}

static uint64_t silent_ms(struct trk_vm *vm)
{
    uint64_t silent = net_session_silent_ms(vm->session);
    uint64_t listened = vm->farm->pulsed_ms - vm->farm->listening_ms;

    return silent < listened ? silent : listened;
}

static void listen_to(struct slot *slot)
{
    struct trk_vm *vm = slot->vm;
    struct trk_farm *farm = vm->farm;
    uint64_t silent = vm->is_silent ? net_session_silent_ms(vm->session) : silent_ms(vm);

    if (vm->is_silent) {
        if (silent < farm->dead_after_ms) {
            lease_end(slot); /* it speaks again: its handle is lost, so it starts afresh */
        } else if (silent > (uint64_t)farm->dead_after_ms * 6) {
            net_session_close(vm->session, false);
        }
        return;
    }
    if (slot->is_joined && vm->is_suspect != (silent >= farm->suspect_after_ms)) {
        vm->is_suspect = !vm->is_suspect;
        if (!farm->is_held) { /* then it gets nothing new anyway */
            drive_vm_suspect(slot, vm->is_suspect);
        }
    }
    if (silent >= farm->dead_after_ms) {
        declare_silent(slot);
    }
}

void lease_pulse(struct trk_farm *farm)
{
    struct list *pos;

    note_pause(farm, net_loop_now_ms(farm->loop));
    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease == LEASE_HELD && !slot->vm->is_down) {
            listen_to(slot);
        }
    }
}

void lease_check_down(struct trk_farm *farm)
{
    uint64_t now = net_loop_now_ms(farm->loop);
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        uint64_t wait = farm->is_closing ? 1000 : FARM_DEATH_WAIT_MS; /* last output, at the end */
        if (slot->vm == NULL || !slot->vm->is_down) {
            continue;
        }
        if (slot->vm->has_death || slot->sup == NULL || now >= slot->vm->down_at_ms + wait) {
            finish_loss(slot);
        } else {
            farm_wake_in(farm, slot->vm->down_at_ms + wait - now);
        }
    }
}

void lease_death(struct trk_farm *farm, const struct wire_death *death)
{
    struct slot *slot = find_slot_of_vm(farm, death->vm);

    if (slot == NULL) {
        return; /* late: the loss has been dealt with */
    }
    slot->vm->has_death = true;
    slot->vm->death = *death;
    slot->vm->death.output = NULL;
    slot->vm->death.output_size = 0;
    if (death->output_size > 0 && slot->vm->last_output == NULL) {
        slot->vm->last_output = mem_alloc(death->output_size);
        if (slot->vm->last_output != NULL) {
            memcpy(slot->vm->last_output, death->output, death->output_size);
            slot->vm->last_output_size = death->output_size;
        }
    }
    /* Results it sent before its death may still be in the socket: its end comes by on_close. */
    farm_touch(farm);
}

/* Gives a VM back, in order. */
void lease_end(struct slot *slot)
{
    struct blob *bye;

    join_forget(slot);
    if (slot->lease == LEASE_FREE || slot->vm == NULL || slot->vm->is_given_back) {
        return;
    }
    slot->vm->is_given_back = true;
    inject_forget_slot(slot->vm->farm, slot);
    if (slot->lease == LEASE_HELD) {
        results_acknowledge_now(slot); /* else it would hold them for a later run of the job */
    }
    bye = slot->lease == LEASE_HELD ? blob_new(0) : NULL;
    if (bye != NULL && net_session_send(slot->vm->session, WIRE_BYE, 0, bye) == 0) {
        return; /* the VM closes when it has noted the end, so that nobody sees a stale state */
    }
    net_session_close(slot->vm->session, false);
}

/* --- sessions with VMs ---------------- */

#define RETRY_MS 20 /* doubled with each further refusal */
#define RETRY_TCP_MS 700 /* a new key may take a few seconds to get to all VMs */
#define RETRY_DOUBLINGS_MAX 6u

static void try_again_later(struct trk_farm *farm, struct slot *slot, uint64_t least_ms)
{
    unsigned doublings = slot->refusals < RETRY_DOUBLINGS_MAX ? slot->refusals
                                                              : RETRY_DOUBLINGS_MAX;
    uint64_t wait_ms = (uint64_t)RETRY_MS << doublings;

    slot->refusals++;
    slot->retry_at_ms = net_loop_now_ms(farm->loop) + (wait_ms > least_ms ? wait_ms : least_ms);
}

void lease_refused(struct trk_farm *farm, struct slot *slot, uint64_t least_ms,
                   const char *reason)
{
    try_again_later(farm, slot, least_ms);
    log_info("farm", "VM %u at %s: %s", slot->info.index, slot->info.address, reason);
}

static int on_welcome(struct slot *slot, struct wire_message *msg)
{
    struct trk_vm *vm = slot->vm;
    struct wire_welcome welcome;
    int rc = msg->type == WIRE_WELCOME ? wire_welcome_decode(&welcome, msg->body) : TRK_ECORRUPT;

    blob_unref(msg->body);
    if (rc < 0) {
        return rc;
    }
    if (!welcome.is_accepted) {
        lease_refused(vm->farm, slot, RETRY_MS, welcome.reason);
        return TRK_EDENIED;
    }
    if (memcmp(welcome.supervisor, slot->info.supervisor, sizeof(welcome.supervisor)) != 0) {
        /* An address that has changed hands: what it says would count as that VM's. */
        lease_refused(vm->farm, slot, RETRY_TCP_MS, "a VM of another supervisor answers there");
        net_count_drop();
        return TRK_EDENIED;
    }
    vm->is_welcome = true;
    vm->info = welcome.vm;
    memcpy(vm->info.supervisor, slot->info.supervisor, 16);
    vm->info.index = slot->info.index;
    memcpy(vm->info.address, slot->info.address, sizeof(vm->info.address));
    slot->info.state = TRK_VM_LEASED;
    slot->lease = LEASE_HELD;
    memcpy(slot->ours, vm->info.incarnation, sizeof(slot->ours));
    slot->refusals = 0;
    slot->seq_seen = slot->seq_acked = slot->seq_safe = 0;
    slot->unsafe_count = 0;
    slot->lease_number++;
    net_session_set_trusted(vm->session);
    if (vm->is_given_back) {
        vm->is_given_back = false; /* BYE could not be sent before the lease was there */
        lease_end(slot);
        return 0;
    }
    inject_replay(vm->farm, slot);
    drive_vm_joined(slot);
    slot->is_joined = true;
    log_info("farm", "VM %u on %s (pid %u) is ours", vm->info.index, vm->info.host, vm->info.pid);
    farm_touch(vm->farm);
    return 0;
}

/* The VM is about to leave; what it had not started it has given back. */
static int on_bye(struct slot *slot)
{
    slot->vm->is_leaving = true;
    if (slot->is_joined) {
        drive_vm_draining(slot);
    }
    notice_put(slot->vm->farm, TRK_NOTICE_VM_LEAVING, slot->vm, "", 0);
    farm_touch(slot->vm->farm);
    return 0;
}

static void vm_on_message(struct net_session *session, void *user, struct wire_message *msg)
{
    struct trk_vm *vm = user;
    int rc = 0;

    if (vm->slot->vm != vm) {
        blob_unref(msg->body); /* of a session that is being closed */
    } else if (!vm->is_welcome) {
        rc = on_welcome(vm->slot, msg);
    } else if (msg->type == WIRE_REPLY) {
        call_on_reply(vm, msg);
    } else if (msg->type == WIRE_RESULT || msg->type == WIRE_RECALLED) {
        drive_on_message(vm->slot, msg);
    } else if (msg->type == WIRE_STATE && vm->farm->job != NULL) {
        rc = states_on_message(vm->slot, msg->body);
        blob_unref(msg->body);
    } else {
        rc = msg->type == WIRE_BYE ? on_bye(vm->slot) : TRK_ECORRUPT;
        blob_unref(msg->body);
    }
    if (rc < 0) {
        if (rc == TRK_ECORRUPT) {
            log_warn("farm", "VM %u sent a damaged %s", vm->slot->info.index,
                     wire_type_name(msg->type));
            net_count_drop();
        }
        net_session_close(session, false);
    }
}

static void vm_on_close(struct net_session *session, void *user, int error, const char *why)
{
    struct trk_vm *vm = user;
    struct slot *slot = vm->slot;

    farm_touch(vm->farm);
    if (slot->vm == vm && !vm->is_welcome) {
        if (error == TRK_ETIMEDOUT && slot->refusals < REFUSALS_FEW) {
            slot->refusals = REFUSALS_FEW; /* that was long enough to wait for it */
        }
        if (error == TRK_ETIMEDOUT ||
            (error < 0 && strncmp(slot->info.address, "tcp:", 4) == 0)) {
            lease_refused(vm->farm, slot, RETRY_TCP_MS, why);
        } else if (error < 0 && slot->refusals == 0) {
            lease_refused(vm->farm, slot, RETRY_MS, why);
        }
        pthread_mutex_lock(&vm->farm->mutex);
        slot->vm = NULL;
        pthread_mutex_unlock(&vm->farm->mutex);
        slot->lease = LEASE_FREE;
        trk_vm_unref(vm);
    } else if (slot->vm == vm) {
        vm->is_down = true;
        vm->is_revoked = error == TRK_EDENIED;
        vm->down_at_ms = net_loop_now_ms(vm->farm->loop);
        if (vm->is_given_back && !vm->is_used) {
            vm->down_at_ms = 0; /* its process goes on: there is no death to wait for */
        }
        if (vm->is_given_back && !vm->farm->is_closing) {
            vm->down_at_ms = 0;
        }
    }
    trk_vm_unref(vm); /* the session's */
}

static const struct net_session_ops vm_ops = {
    .on_message = vm_on_message,
    .on_close = vm_on_close,
};

/* No dead_ms: what silence means is decided in lease_pulse. */
static struct net_session_options vm_options(struct trk_farm *farm, struct trk_vm *vm)
{
    return (struct net_session_options){.ops = &vm_ops, .user = vm,
                                        .ping_ms = farm->suspect_after_ms / 2};
}

/* The session leads to a VM, which is to become ours: vm is taken. */
static void ask_for_lease(struct trk_farm *farm, struct slot *slot, struct trk_vm *vm)
{
    struct wire_hello hello = farm->hello;
    struct blob *body;

    trk_vm_ref(vm); /* the session's, until on_close */
    pthread_mutex_lock(&farm->mutex);
    slot->vm = vm;
    pthread_mutex_unlock(&farm->mutex);
    slot->lease = LEASE_TRYING;
    hello.purpose = WIRE_PURPOSE_LEASE;
    body = wire_hello_encode(&hello);
    if (body == NULL || net_session_send(vm->session, WIRE_HELLO, 0, body) < 0) {
        net_session_close(vm->session, false);
    }
}

int lease_joined(struct trk_farm *farm, struct slot *slot, struct net_session *session)
{
    struct trk_vm *vm = vm_new(farm, slot);
    struct net_session_options opt;

    if (vm == NULL) {
        return TRK_ENOMEM;
    }
    opt = vm_options(farm, vm);
    vm->session = session;
    net_session_hand_over(session, &opt);
    ask_for_lease(farm, slot, vm);
    return 0;
}

static void lease_start(struct trk_farm *farm, struct slot *slot)
{
    struct trk_vm *vm;
    struct net_session_options opt;

    if (slot->sup->has_joined) {
        join_call(farm, slot);
        return;
    }
    vm = vm_new(farm, slot);
    if (vm == NULL) {
        lease_refused(farm, slot, RETRY_MS, "out of memory");
        farm_touch(farm);
        return;
    }
    opt = vm_options(farm, vm);
    /* A VM that is starting is silent until its interpreter is up; if it fails its supervisor
     * says so. */
    opt.hello_ms = slot->info.state == TRK_VM_STARTING ? FARM_HELLO_MS : 0;
    if (find_connect(farm, slot->info.address, &opt, &vm->session) < 0) {
        lease_refused(farm, slot, RETRY_MS, fail_text());
        farm_touch(farm); /* nothing else may happen that would have us look again */
        trk_vm_unref(vm);
        return;
    }
    ask_for_lease(farm, slot, vm);
}

/* --- who gets what ---------------- */

/* How many more VMs the list wants beyond those that serve it now. */
static uint64_t list_room(const struct trk_vmlist *list)
{
    uint64_t live = 0;

    if (list->state != VMLIST_FINDING && list->state != VMLIST_READY) {
        return 0;
    }
    if (list->max == 0) {
        return UINT32_MAX;
    }
    for (size_t i = 0; i < list->slots_count; i++) {
        live += slot_is_live(list->slots[i]);
    }
    return live < list->max ? list->max - live : 0;
}

/* A list counts a held VM as its own when the slot is in it; hands it over where there is room. */
static void offer(struct trk_farm *farm, struct slot *slot)
{
    struct list *pos;

    list_for_each(pos, &farm->vmlists) {
        struct trk_vmlist *list = container_of(pos, struct trk_vmlist, node);
        if (!vmlist_has(list, slot) && list_room(list) > 0 && vmlist_add(list, slot) == 0) {
            inject_replay_list(farm, slot, list);
            drive_slot_in_list(slot, list);
        }
    }
}

void lease_fill(struct trk_farm *farm)
{
    uint64_t need = 0, trying = 0, now = net_loop_now_ms(farm->loop);
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        trying += slot_is_trying(slot);
        if (slot_is_live(slot) && !slot->vm->is_given_back) {
            offer(farm, slot);
        }
    }
    list_for_each(pos, &farm->vmlists) {
        uint64_t room = list_room(container_of(pos, struct trk_vmlist, node));
        need = room > need ? room : need;
    }
    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease != LEASE_FREE || !slot_is_usable(slot)) {
            continue;
        }
        if (trying >= need && !drive_needs(farm, slot)) {
            continue;
        }
        if (slot->retry_at_ms > now) {
            farm_wake_in(farm, slot->retry_at_ms - now);
            continue;
        }
        lease_start(farm, slot);
        trying += slot_is_trying(slot);
    }
}

static bool is_wanted(struct trk_farm *farm, struct slot *slot)
{
    struct list *pos;

    list_for_each(pos, &farm->vmlists) {
        if (vmlist_has(container_of(pos, struct trk_vmlist, node), slot)) {
            return true;
        }
    }
    return false;
}

void lease_release_unused(struct trk_farm *farm)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease == LEASE_HELD && !is_wanted(farm, slot)) {
            lease_end(slot);
        }
    }
}
