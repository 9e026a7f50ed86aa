/* SPDX-License-Identifier: MIT */
/* rai.h - remote access and invocation modules: how a VM runs what an initiator asks for.
 *
 * A module is a table of functions. The VM's compute thread calls all of them, one at a time,
 * except interrupt, which comes from the net thread while the compute thread may be anywhere.
 * The operations are those of the 2007 paper's RAI server (section 4: inject, call, getattr,
 * delete), plus setattr, fetch, and run: one element of work.
 *
 * Threads: trk_rai_reply_write: the compute thread, in the function of the module that was given
 * the reply. */
#ifndef TRICKLE_RAI_H
#define TRICKLE_RAI_H

#include "trickle/farm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRK_RAI_ABI 1

struct trk_rai_reply; /* where a module writes an answer; owned by the host */

/* Appends bytes to the answer. TRK_ENOMEM; TRK_ETOOBIG over 1 GiB (the host then answers with a
 * TRK_STATUS_ERROR of its own, whatever the module returns). bytes are copied. */
TRK_API TRK_MUST_USE int trk_rai_reply_write(struct trk_rai_reply *reply, const void *bytes,
                                             size_t size);

struct trk_rai_request {
    enum trk_op op;
    uint64_t object; /* 0: the VM's name space */
    const char *name; /* terminated, may be "" */
    const void *payload; /* borrowed for the call */
    size_t size;
};

/* What run may return besides an enum trk_status, after trk_vm_checkpoint has said TRK_EMOVED:
 * there is no result, the element goes on elsewhere. The reply is not looked at. */
#define TRK_RAI_MOVED 100

struct trk_rai_element {
    uint32_t stage;
    uint32_t attempt; /* 1 for the first */
    uint64_t index;
    const void *payload; /* borrowed for the call */
    size_t size;
};

/* All functions return the status of the answer they wrote (enum trk_status) unless they say
 * otherwise. state is what open gave.
 *
 * The table only ever grows at its end: size says how much of it a module has, and what it does not
 * have is as if NULL. A table may end before dump. */
struct trk_rai_module {
    uint32_t abi;     /* TRK_RAI_ABI */
    uint32_t size;    /* sizeof(struct trk_rai_module) */
    const char *name; /* "python", "exec", ... */
    const char *version; /* of its language, for people and for version checks */
    /* Optional: without it the VM answers each request with a sentence that it only runs work. */
    int (*request)(void *state, const struct trk_rai_request *req, struct trk_rai_reply *reply);
    /* Makes a function ready; its elements name it by stage. function: from trk_work_options. */
    int (*stage_open)(void *state, uint32_t stage, const void *function, size_t size,
                      struct trk_rai_reply *reply);
    int (*run)(void *state, const struct trk_rai_element *element, struct trk_rai_reply *reply);
    void (*stage_close)(void *state, uint32_t stage); /* optional */
    /* Around each wait for something to do (the python module releases the GIL). Optional. */
    void (*wait_begin)(void *state);
    void (*wait_end)(void *state);
    /* Net thread: ask running code to stop (python: KeyboardInterrupt). Optional. */
    void (*interrupt)(void *state);
    /* Net thread: the running element has used up its timeout and its process is about to end.
     * Writes to stderr where the code is stuck (python: the traceback); returns when that is
     * written, or after 200 ms. Optional. */
    void (*dump)(void *state);
    /* Compute thread: makes the state that the others get, before the VM is ready or, of a built-in
     * module, before its first stage. TRK_STATUS_OK; else why says the reason. Optional: the state
     * is NULL, or what trk_vm_serve was given. */
    int (*open)(void **state, struct trk_rai_reply *why);
    /* Compute thread: the process ends in order, nothing else follows. Optional. */
    void (*close)(void *state);
};

/* What a shared object for trickle vm --rai PATH exports: gives its table, which stays valid.
 * docs/modules.md tells how one is written, built and tried. */
TRK_API const struct trk_rai_module *trickle_rai_module(void);

#ifdef __cplusplus
}
#endif
#endif
