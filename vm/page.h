/* SPDX-License-Identifier: MIT */
/* page.h - the page a VM process shares with its supervisor: what the VM is doing, readable also
 * after its death. One writer (the VM process; the supervisor resets it between processes). */
#ifndef VM_PAGE_H
#define VM_PAGE_H

#include <stdatomic.h>
#include <stdint.h>

#define VM_PAGE_MAGIC 0x65676170u

struct vm_page {
    uint32_t magic;
    atomic_uint state;        /* enum trk_vm_state, as the VM sees it */
    atomic_uint has_element;  /* 1 while user code of an element runs */
    uint32_t stage, attempt;
    uint64_t index;
    uint64_t start_ns;        /* CLOCK_MONOTONIC when it started */
    atomic_ullong dropped;    /* garbage connections and frames dropped by this VM, all processes */
    atomic_uint has_lease;
    uint8_t lease[16];        /* incarnation of the initiator */
    char owner[128];
    uint8_t incarnation[16];  /* of this VM process, set by the supervisor before the start */
    char version[64];
    char module[32];
};

#endif
