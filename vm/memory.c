/* SPDX-License-Identifier: MIT */
/* memory.c - --memory-limit: VMs whose running code has taken too much are killed.
 *
 * All are looked at ten times a second, only when there is a limit. Between elements a VM looks at
 * itself, and makes room for another process before it comes to this (host_compute.c). One that is
 * over the limit while no element runs gets a second look: it may be about to do just that. */
#include <inttypes.h>

#include "base/log.h"
#include "vm/supervisor.h"

#define LOOK_MS 100

static void look_at(struct vm_child *vm)
{
    uint64_t limit = vm->sup->opt.memory_limit;
    bool has_element = atomic_load(&vm->page->has_element) != 0;
    uint64_t bytes = vm_rss_bytes(vm->pid);
    if (bytes <= limit) {
        vm->was_over = false;
    } else if (has_element || vm->was_over) {
        log_info("vm", "VM %u (pid %d) has %" PRIu64 " MB, over its limit of %" PRIu64
                 " MB: it is killed", vm->index, (int)vm->pid, bytes >> 20, limit >> 20);
        child_kill(vm, WIRE_END_MEMORY);
    } else {
        vm->was_over = true;
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct supervisor *sup = timer->data;
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        struct vm_child *vm = &sup->vms[i];
        if (vm->pid != 0 && vm->is_ready && vm->end == WIRE_END_UNKNOWN) {
            look_at(vm);
        }
    }
}

void memory_start(struct supervisor *sup)
{
    if (sup->opt.memory_limit == 0) {
        return;
    }
    uv_timer_init(net_loop_uv(sup->loop), &sup->memory_timer); /* cannot fail, nor can this: */
    sup->memory_timer.data = sup;
    uv_timer_start(&sup->memory_timer, on_timer, LOOK_MS, LOOK_MS);
}
