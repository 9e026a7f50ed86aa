/* SPDX-License-Identifier: MIT */
/* vm.h - the VM's side: serve one lease with a RAI module.
 *
 * The supervisor (trickle-vm) starts a process per VM with its sockets as inherited
 * descriptors, named by TRICKLE_VM_FDS in the environment. That process calls
 * trk_vm_serve() from the thread that is to compute. */
#ifndef TRICKLE_VM_H
#define TRICKLE_VM_H

#include "trickle/rai.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Serves initiators until the lease that used this process has ended, or the supervisor has
 * gone or asked to stop. Starts the net thread, runs the module's functions on the calling
 * thread. Descriptors and the shared page come from TRICKLE_VM_FDS, which is removed from the
 * environment. Returns 0 when the process should exit in order (exit status 0), or an error
 * with trk_last_error(). May be called once per process. */
TRK_API TRK_MUST_USE int trk_vm_serve(const struct trk_rai_module *module, void *state);

/* In user code's process: true in a child that user code forked from a VM (or an initiator). */
TRK_API bool trk_is_forked(void);

#ifdef __cplusplus
}
#endif
#endif
