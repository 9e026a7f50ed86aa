/* SPDX-License-Identifier: MIT */
/* order.c - what a watcher may ask of a supervisor, by the pid of a VM as VMS showed it:
 *
 *   drain   the VM finishes what it runs, gives the rest back, and leaves for good
 *   stop    it is ended now, for good
 *
 * Only for the same user on this machine: plain TCP proves nothing about who asks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vm/supervisor.h"

enum verb { VERB_NONE, VERB_DRAIN, VERB_STOP };

static enum verb find_verb(const struct wire_request *order)
{
    static const char *const verbs[] = {[VERB_DRAIN] = "drain", [VERB_STOP] = "stop"};
    for (int i = VERB_DRAIN; order->op == TRK_OP_CALL && i <= VERB_STOP; i++) {
        if (order->name_size == strlen(verbs[i]) &&
            memcmp(order->name, verbs[i], order->name_size) == 0) {
            return (enum verb)i;
        }
    }
    return VERB_NONE;
}

/* NULL: none of this supervisor has it. */
static struct vm_child *find_vm(struct supervisor *sup, const struct wire_request *order)
{
    char text[16] = "", *end;
    if (order->size == 0 || order->size >= sizeof(text)) {
        return NULL;
    }
    memcpy(text, order->payload, order->size);
    long pid = strtol(text, &end, 10);
    for (uint32_t i = 0; *end == '\0' && pid > 0 && i < sup->opt.count; i++) {
        if (sup->vms[i].pid == pid) {
            return &sup->vms[i];
        }
    }
    return NULL;
}

/* Do all other VMs leave already? */
static bool is_last(const struct supervisor *sup, const struct vm_child *vm)
{
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        if (&sup->vms[i] != vm && !sup->vms[i].is_leaving) {
            return false;
        }
    }
    return true;
}

int order_obey(struct supervisor *sup, const struct wire_request *order, bool is_local,
               char *answer, size_t size)
{
    enum verb verb = find_verb(order);
    if (verb == VERB_NONE) {
        snprintf(answer, size, "a supervisor can be asked to drain or to stop a VM only");
        return TRK_STATUS_ERROR;
    }
    if (!is_local) {
        snprintf(answer, size, "VMs can be drained or stopped only from the machine they run on");
        return TRK_STATUS_ERROR;
    }
    struct vm_child *vm = find_vm(sup, order);
    if (vm == NULL) {
        snprintf(answer, size, "no VM of the supervisor with pid %d has that pid (any more)",
                 (int)getpid());
        return TRK_STATUS_ERROR;
    }
    struct trk_vm_info info;
    bool was_leaving = child_state(vm) == TRK_VM_STOPPING;
    const char *end = is_last(sup, vm) ? "; it was the last one here, so trickle-vm ends, too" : "";
    child_info(vm, false, &info);
    if (verb == VERB_DRAIN && was_leaving) {
        snprintf(answer, size, "VM %u (pid %u) is leaving already%s", vm->index, info.pid, end);
        return TRK_STATUS_OK;
    }
    if (verb == VERB_DRAIN && info.state == TRK_VM_LEASED) {
        snprintf(answer, size, "VM %u (pid %u) finishes what it runs, gives the rest back to %s "
                 "and leaves%s", vm->index, info.pid, info.owner, end);
    } else {
        snprintf(answer, size, "VM %u (pid %u) %s%s", vm->index, info.pid,
                 verb == VERB_DRAIN ? "leaves" : "is ended", end);
    }
    log_info("vm", "%s", answer);
    if (verb == VERB_DRAIN) {
        child_drain(vm);
    } else {
        child_stop(vm);
    }
    return TRK_STATUS_OK;
}
