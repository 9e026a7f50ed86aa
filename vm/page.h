/* SPDX-License-Identifier: MIT */
/* page.h - the page a VM process shares with its supervisor: what the VM is doing, readable also
 * after its death. One writer (the VM process; the supervisor resets it between processes).
 *
 * stage, attempt and index are those of the running element while has_element is set, and after a
 * death by timeout in any case. */
#ifndef VM_PAGE_H
#define VM_PAGE_H

#include <stdatomic.h>
#include <stdint.h>

#include "vm/agent.h"

#define VM_PAGE_MAGIC 0x65676172u /* changes with the struct */

struct vm_page {
    uint32_t magic;
    atomic_uint state;        /* enum trk_vm_state, as the VM sees it */
    atomic_uint has_element;  /* not 0 while user code of an element runs (2: see host_late.c) */
    uint32_t stage, attempt;
    uint64_t index;
    atomic_ullong start_ns;   /* CLOCK_MONOTONIC when it started */
    atomic_uint end;          /* enum wire_end: why it is about to end */
    atomic_ullong dropped;    /* garbage connections and frames dropped by this VM, all processes */
    atomic_uint has_lease;
    uint8_t lease[16];        /* incarnation of the initiator */
    char owner[128];
    uint8_t incarnation[16];  /* of this VM process, set by the supervisor before the start */
    char version[64];
    char module[32];
    /* Set by the supervisor before the start. */
    uint64_t memory_limit;  /* bytes; 0: none */
    uint64_t recycle_after; /* elements; 0: any number */
    uint64_t hold_seconds, hold_bytes; /* of what is held for jobs whose program has gone */
    /* Of all processes of this VM: written by the one that runs. */
    struct agent_fence fences[AGENT_FENCES];
};

#endif
