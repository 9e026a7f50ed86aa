/* SPDX-License-Identifier: MIT */
/* call.c - handles of VMs and requests to them. The program's thread writes a request to the
 * VM's socket itself; the farm thread takes the answer and wakes who waits.
 *
 * A call has two references: the program's, and that of the VM's table of outstanding calls. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

struct trk_vm *vm_new(struct trk_farm *farm, struct slot *slot)
{
    struct trk_vm *vm = mem_zalloc(1, sizeof(*vm));

    if (vm != NULL) {
        atomic_init(&vm->refs, 1);
        vm->farm = farm_ref(farm);
        vm->slot = slot;
        vm->next_stream = 1;
        list_init(&vm->calls);
    }
    return vm;
}

struct trk_vm *trk_vm_ref(struct trk_vm *vm)
{
    atomic_fetch_add_explicit(&vm->refs, 1, memory_order_relaxed);
    return vm;
}

void trk_vm_unref(struct trk_vm *vm)
{
    if (vm == NULL || sys_is_forked()) {
        return;
    }
    if (atomic_fetch_sub_explicit(&vm->refs, 1, memory_order_acq_rel) == 1) {
        net_session_unref(vm->session);
        mem_free(vm->last_output);
        farm_unref(vm->farm);
        mem_free(vm);
    }
}

void trk_vm_get_info(struct trk_vm *vm, struct trk_vm_info *out)
{
    *out = vm->info;
    out->state = atomic_load(&vm->is_lost) ? TRK_VM_LOST : TRK_VM_LEASED;
}

bool trk_vm_is_lost(struct trk_vm *vm)
{
    return atomic_load(&vm->is_lost);
}

void trk_vm_lost_reason(struct trk_vm *vm, char *text, size_t size)
{
    pthread_mutex_lock(&vm->farm->mutex);
    snprintf(text, size, "%s", vm->reason);
    pthread_mutex_unlock(&vm->farm->mutex);
}

void vm_set_lost(struct trk_vm *vm, const char *reason)
{
    pthread_mutex_lock(&vm->farm->mutex);
    if (!atomic_load(&vm->is_lost)) {
        snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
        atomic_store(&vm->is_lost, true);
    }
    pthread_mutex_unlock(&vm->farm->mutex);
}

/* --- calls ---------------- */

static void call_unref(struct trk_call *call)
{
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) == 1) {
        blob_unref(call->body);
        trk_vm_unref(call->vm);
        mem_free(call);
    }
}

/* Under the mutex; the table's reference goes to the caller. */
static void call_finish(struct trk_call *call, int error, struct blob *body)
{
    list_remove(&call->node);
    call->error = error;
    call->body = body;
    call->done_seq = ++call->vm->farm->done_seq;
    atomic_store_explicit(&call->is_done, true, memory_order_release);
    if (call->waiter != NULL) {
        waiter_post(call->waiter);
    }
}

void call_on_reply(struct trk_vm *vm, struct wire_message *msg)
{
    struct trk_call *found = NULL;
    struct wire_reply reply;
    struct list *pos;

    if (wire_reply_decode(&reply, msg->body) < 0) {
        blob_unref(msg->body);
        net_count_drop();
        net_session_close(vm->session, false);
        return;
    }
    pthread_mutex_lock(&vm->farm->mutex);
    list_for_each(pos, &vm->calls) {
        struct trk_call *call = container_of(pos, struct trk_call, node);
        if (call->stream == msg->stream) {
            found = call; /* nearly always the first: a VM answers in order */
            found->reply = (struct trk_reply){reply.status, reply.payload, reply.size};
            call_finish(found, 0, msg->body);
            break;
        }
    }
    pthread_mutex_unlock(&vm->farm->mutex);
    if (found != NULL) {
        call_unref(found);
        return;
    }
    if (msg->stream == 0 && reply.status != TRK_STATUS_OK) {
        log_warn("farm", "VM %u (pid %u) could not take an injection again", vm->info.index,
                 vm->info.pid);
    }
    blob_unref(msg->body); /* nobody waits for it any more */
}

void call_fail_all(struct trk_vm *vm, int error)
{
    struct list failed, *node;

    list_init(&failed);
    pthread_mutex_lock(&vm->farm->mutex);
    while (!list_is_empty(&vm->calls)) {
        struct trk_call *call = container_of(vm->calls.next, struct trk_call, node);
        call_finish(call, error, NULL);
        list_push_back(&failed, &call->node);
    }
    pthread_mutex_unlock(&vm->farm->mutex);
    while ((node = list_pop_front(&failed)) != NULL) {
        call_unref(container_of(node, struct trk_call, node));
    }
}

static int lost_error(struct trk_vm *vm)
{
    char reason[256];

    trk_vm_lost_reason(vm, reason, sizeof(reason));
    return fail(TRK_EVMLOST, "VM %u on %s (pid %u) is lost: %s", vm->info.index, vm->info.host,
                vm->info.pid, reason[0] != '\0' ? reason : "its connection ended");
}

static struct trk_call *call_new(struct trk_vm *vm)
{
    struct trk_call *call = mem_zalloc(1, sizeof(*call));

    if (call != NULL) {
        atomic_init(&call->refs, 2);
        call->vm = trk_vm_ref(vm);
        list_init(&call->node);
    }
    return call;
}

int call_send(struct trk_vm *vm, struct blob *body, struct trk_call **out)
{
    struct trk_call *call = NULL;
    uint32_t stream = 0;
    int rc;

    if (out != NULL && (call = call_new(vm)) == NULL) {
        blob_unref(body);
        return fail(TRK_ENOMEM, "out of memory");
    }
    pthread_mutex_lock(&vm->farm->mutex);
    vm->is_used = true;
    if (atomic_load(&vm->is_lost)) {
        pthread_mutex_unlock(&vm->farm->mutex);
        blob_unref(body);
        goto lost;
    }
    if (call != NULL) {
        stream = call->stream = vm->next_stream;
        vm->next_stream = vm->next_stream == UINT32_MAX ? 1 : vm->next_stream + 1;
        list_push_back(&vm->calls, &call->node);
    }
    pthread_mutex_unlock(&vm->farm->mutex);
    rc = net_session_send(vm->session, WIRE_REQUEST, stream, body);
    if (rc == 0 || rc == TRK_ECLOSED) {
        /* Closed: the loss is about to be noted, and fails the call like all others. */
        if (out != NULL) {
            *out = call;
        }
        return 0;
    }
    if (call != NULL) {
        pthread_mutex_lock(&vm->farm->mutex);
        list_remove(&call->node);
        pthread_mutex_unlock(&vm->farm->mutex);
        call_unref(call);
        call_unref(call);
    }
    return fail(rc, "cannot send to the VM: %s", trk_strerror(rc));
lost:
    if (call != NULL) {
        call_unref(call);
        call_unref(call);
    }
    return lost_error(vm);
}

int trk_vm_request(struct trk_vm *vm, enum trk_op op, uint64_t object, const char *name,
                   const void *payload, size_t size, struct trk_call **out)
{
    struct wire_request request = {.op = (uint8_t)op, .object = object, .name = name,
                                   .name_size = strlen(name), .payload = payload, .size = size};
    struct blob *body;
    int rc = farm_usable(vm->farm);

    if (rc < 0) {
        return rc;
    }
    if (size > TRK_ELEMENT_BYTES_MAX) {
        return fail(TRK_ETOOBIG, "%zu bytes: %s", size, trk_strerror(TRK_ETOOBIG));
    }
    if (request.name_size > 4096) {
        return fail(TRK_EINVAL, "a name of %zu bytes is too long", request.name_size);
    }
    body = wire_request_encode(&request);
    return body != NULL ? call_send(vm, body, out) : fail(TRK_ENOMEM, "out of memory");
}

static int call_take(struct trk_call *call, struct trk_reply *reply)
{
    if (call->error == 0) {
        *reply = call->reply;
        return 0;
    }
    if (call->error == TRK_EVMLOST) {
        return lost_error(call->vm);
    }
    return fail(call->error, "the call was not answered: %s", trk_strerror(call->error));
}

bool trk_call_is_done(const struct trk_call *call)
{
    return atomic_load_explicit(&((struct trk_call *)call)->is_done, memory_order_acquire);
}

int trk_call_wait(struct trk_call *call, int timeout_ms, struct trk_reply *reply)
{
    size_t which;
    int rc = 0;

    if (!trk_call_is_done(call)) {
        rc = trk_call_wait_any(&call, 1, timeout_ms, &which);
    }
    return rc == 0 ? call_take(call, reply) : rc;
}

/* Under the mutex: the call that finished first, or n. */
static size_t first_done(struct trk_call *const *calls, size_t n)
{
    size_t best = n;

    for (size_t i = 0; i < n; i++) {
        if (trk_call_is_done(calls[i]) &&
            (best == n || calls[i]->done_seq < calls[best]->done_seq)) {
            best = i;
        }
    }
    return best;
}

/* Under the mutex. A call wakes one waiter; where another thread waits for the same call this one
 * looks again every 20 ms. Returns how long to wait. */
static int waiter_set(struct trk_call *const *calls, size_t n, struct waiter *waiter,
                      int timeout_ms)
{
    for (size_t k = 0; k < n; k++) {
        if (calls[k]->waiter == NULL) {
            calls[k]->waiter = waiter;
        } else if (calls[k]->waiter != waiter && (timeout_ms < 0 || timeout_ms > 20)) {
            timeout_ms = 20;
        }
    }
    return timeout_ms;
}

static void waiter_unset(struct trk_call *const *calls, size_t n, struct waiter *waiter)
{
    for (size_t k = 0; k < n; k++) {
        if (calls[k]->waiter == waiter) {
            calls[k]->waiter = NULL;
        }
    }
}

int trk_call_wait_any(struct trk_call *const *calls, size_t n, int timeout_ms, size_t *which)
{
    struct trk_farm *farm;
    struct waiter waiter;
    size_t i;

    if (n == 0) {
        return fail(TRK_EINVAL, "no calls to wait for");
    }
    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    farm = calls[0]->vm->farm;
    if (waiter_init(&waiter) < 0) {
        return fail(TRK_EIO, "cannot make a semaphore");
    }
    pthread_mutex_lock(&farm->mutex);
    i = first_done(calls, n);
    if (i == n && timeout_ms != 0) {
        timeout_ms = waiter_set(calls, n, &waiter, timeout_ms);
        pthread_mutex_unlock(&farm->mutex);
        waiter_wait(&waiter, timeout_ms);
        pthread_mutex_lock(&farm->mutex);
        waiter_unset(calls, n, &waiter);
        i = first_done(calls, n);
    }
    pthread_mutex_unlock(&farm->mutex);
    waiter_fini(&waiter);
    *which = i;
    return i < n ? 0 : TRK_AGAIN;
}

void trk_call_free(struct trk_call *call)
{
    if (call == NULL || sys_is_forked()) {
        return;
    }
    call_unref(call);
}
