/* SPDX-License-Identifier: MIT */
/* vm.h - the VM's side: serve one lease with a RAI module.
 *
 * The supervisor (trickle-vm) starts a process per VM with its sockets as inherited
 * descriptors, named by TRICKLE_VM_FDS in the environment. That process calls
 * trk_vm_serve() from the thread that is to compute.
 *
 * Threads: trk_vm_serve: once in a process. trk_is_forked: any thread. Checkpoints: only the thread
 * that called trk_vm_serve, from inside the module's run. */
#ifndef TRICKLE_VM_H
#define TRICKLE_VM_H

#include "trickle/rai.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Serves initiators until the lease that used this process has ended, or the supervisor has
 * gone or asked to stop. Starts the net thread, runs the module's functions on the calling
 * thread. Descriptors and the shared page come from TRICKLE_VM_FDS, which is removed from the
 * environment. state: what the module's functions get; NULL: what its open makes, if it has one.
 * Returns 0 when the process should exit in order (exit status 0), or an error with
 * trk_last_error(). May be called once per process. */
TRK_API TRK_MUST_USE int trk_vm_serve(const struct trk_rai_module *module, void *state);

/* In user code's process: true in a child that user code forked from a VM (or an initiator). */
TRK_API bool trk_is_forked(void);

/* --- checkpoints inside an element ----------------------------------------------------- *
 *
 * From user code, on the thread that called trk_vm_serve, while the module's run is at an element.
 * The state is the element's: whichever VM runs it next gets the last one that was saved. */

/* Saves bytes (copied) in place of what was saved before. Returns when that is durable: recorded
 * by the initiator or, when that has gone, on the disk of this machine.
 *   0            saved
 *   TRK_EMOVED   saved, and this VM is to leave: run should return TRK_RAI_MOVED now, and the
 *                element goes on from here on another VM, without blame
 *   TRK_AGAIN    a signal came: look at signals, then call trk_vm_checkpoint_wait
 *   TRK_END      nothing was saved: no element runs, or its work is not durable
 *   TRK_ETOOBIG  over 1 GiB less 4 KiB
 *   TRK_EINVAL   not the thread that runs the element
 *   TRK_EFULL, TRK_EIO  the initiator has gone, and this machine's disk did not take it
 *   TRK_ENOMEM, TRK_EFORKED
 * After an error what was saved before stays. */
TRK_API TRK_MUST_USE int trk_vm_checkpoint(const void *bytes, size_t size);
/* After TRK_AGAIN: goes on waiting for the same state; answers as trk_vm_checkpoint does. */
TRK_API TRK_MUST_USE int trk_vm_checkpoint_wait(void);
/* The last state saved of the element that runs, by whichever run of it. 0: *bytes are borrowed
 * until the next checkpoint or the end of the element; TRK_END: there is none. */
TRK_API TRK_MUST_USE int trk_vm_restore(const void **bytes, size_t *size);

/* --- bytes that work names by content --------------------------------------------------- *
 *
 * On the thread that called trk_vm_serve, inside a function of the module. */

/* The blob that the program has registered under that digest (trk_farm_blob), from this machine's
 * cache ($XDG_CACHE_HOME/trickle/blobs), or else from the program: waits for it.
 *   0            *fd is a descriptor of a file with these bytes, to read and to run, the caller's
 *   TRK_END      the program has not registered it
 *   TRK_ECLOSED  the program has gone
 *   TRK_ECORRUPT it was damaged on its way
 *   TRK_EINVAL   not the thread that runs the module, or no VM
 *   TRK_EIO (no memory to keep it in), TRK_EFORKED */
TRK_API TRK_MUST_USE int trk_vm_blob(const uint8_t digest[16], int *fd);

#ifdef __cplusplus
}
#endif
#endif
