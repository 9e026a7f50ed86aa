/* SPDX-License-Identifier: MIT */
/* native.h - functions of shared objects as the functions of work: bytes in, bytes out.
 *
 * Two readers. Whoever writes such a function needs only the first half, and links nothing:
 *
 *   TRK_NATIVE(square)
 *   {
 *       double x;
 *       if (call->size != sizeof(x)) {
 *           return trk_native_fail(call, "an element is one double");
 *       }
 *       memcpy(&x, call->payload, sizeof(x));
 *       x *= x;
 *       return trk_native_write(call, &x, sizeof(x));
 *   }
 *   cc -shared -fPIC -o square.so square.c
 *
 * Whoever has it run names it by the second half, and submits work as always (work.h). */
#ifndef TRICKLE_NATIVE_H
#define TRICKLE_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- in the shared object -------------------------------------------------------------- *
 *
 * A function is called once for each run of an element, on one thread, for as long as it likes.
 * Its process stays the same for many elements of one program, so what it keeps in static variables
 * stays too; the library is loaded once and never unloaded. It returns
 *
 *   0           done: what it wrote is the result
 *   TRK_EMOVED  after a checkpoint has said so: the element goes on elsewhere
 *   otherwise   it failed (the element may be run again: trk_work_options.retries); what it wrote,
 *               or gave to trk_native_fail, is the payload of the TRK_STATUS_EXCEPTION
 *
 * The functions below are for the thread that it was called on. */

#define TRK_NATIVE_ABI 1

struct trk_native_call;

/* What the VM does for a function. The table only ever grows at its end; size says how much of it
 * this VM has, and the wrappers below answer TRK_EVERSION for what it does not have. */
struct trk_native_host {
    uint32_t abi;  /* TRK_NATIVE_ABI */
    uint32_t size; /* bytes of this table */
    int (*write)(const struct trk_native_call *call, const void *bytes, size_t size);
    int (*give_up)(const struct trk_native_call *call, const char *sentence);
    int (*checkpoint)(const struct trk_native_call *call, const void *bytes, size_t size);
    int (*restore)(const struct trk_native_call *call, const void **bytes, size_t *size);
    int (*is_cancelled)(const struct trk_native_call *call);
};

/* Valid while the function runs. It only grows at its end, too. */
struct trk_native_call {
    const struct trk_native_host *host;
    const void *payload; /* the element's bytes; aligned to nothing */
    size_t size;
    uint64_t index;      /* of the element */
    uint32_t attempt;    /* 1 for the first run of it */
    uint32_t stage;      /* of the work: the same for all its elements */
};

typedef int trk_native_fn(const struct trk_native_call *call);

/* Head of such a function: its name is exported as it is, in C++ too. */
#ifdef __cplusplus
#define TRK_NATIVE(name)                                           \
    extern "C" TRK_API int name(const struct trk_native_call *call); \
    extern "C" TRK_API int name(const struct trk_native_call *call)
#else
#define TRK_NATIVE(name)                                \
    TRK_API int name(const struct trk_native_call *call); \
    TRK_API int name(const struct trk_native_call *call)
#endif

#define TRK_NATIVE_HAS(call, member)                                        \
    ((call)->host->size >= offsetof(struct trk_native_host, member) +       \
                               sizeof((call)->host->member))

/* Appends to the result. 0; TRK_ENOMEM; TRK_ETOOBIG over 1 GiB: then the element fails, whatever
 * the function returns. */
static inline int trk_native_write(const struct trk_native_call *call, const void *bytes,
                                   size_t size)
{
    return call->host->write(call, bytes, size);
}

/* Replaces what was written by a sentence for people. Returns a value to return: an error. */
static inline int trk_native_fail(const struct trk_native_call *call, const char *sentence)
{
    return call->host->give_up(call, sentence);
}

/* Saves the element's state (copied) in place of the last one; returns when it is durable. 0;
 * TRK_EMOVED: saved, and this VM is to leave: return TRK_EMOVED, and the element goes on from here
 * on another; TRK_END: its work is not durable, nothing was saved; an error of trk_vm_checkpoint
 * (vm.h). */
static inline int trk_native_checkpoint(const struct trk_native_call *call, const void *bytes,
                                        size_t size)
{
    return TRK_NATIVE_HAS(call, checkpoint) ? call->host->checkpoint(call, bytes, size)
                                            : (int)TRK_EVERSION;
}

/* What was saved last, by whichever run of this element. 0: *bytes are borrowed until the next
 * checkpoint or the end of the element; TRK_END: nothing was. */
static inline int trk_native_restore(const struct trk_native_call *call, const void **bytes,
                                     size_t *size)
{
    return TRK_NATIVE_HAS(call, restore) ? call->host->restore(call, bytes, size)
                                         : (int)TRK_EVERSION;
}

/* 1: the program does not want this element any more; return soon, or the VM is ended. */
static inline int trk_native_is_cancelled(const struct trk_native_call *call)
{
    return TRK_NATIVE_HAS(call, is_cancelled) ? call->host->is_cancelled(call) : 0;
}

/* --- in the program ---------------------------------------------------------------------- */

struct trk_farm;

#define TRK_NATIVE_MODULE "native"
#define TRK_NATIVE_SYMBOL_MAX 1024 /* bytes of a symbol or of a library's name */

/* A function, named. For trk_work_options: module = TRK_NATIVE_MODULE, and function, function_size
 * and fingerprint from here. */
struct trk_native {
    void *function;
    size_t function_size;
    uint8_t fingerprint[16];
};

/* symbol of the shared object at path, which is read now and sent to each machine once: it is known
 * by its content, and so is the fingerprint. It is registered with the farm (trk_farm_blob), so a
 * resumed program names it again. Any thread. TRK_EIO, TRK_EINVAL (not a shared object, not a
 * symbol), TRK_ETOOBIG, TRK_ENOMEM; trk_last_error. What only a VM can tell (another processor,
 * libraries or a symbol that are missing) is the failure of the elements. */
TRK_API TRK_MUST_USE int trk_native_send(struct trk_farm *farm, const char *path,
                                         const char *symbol, struct trk_native *out);

/* symbol of a library that is on the VM's machine already: a path there, or a name that its dynamic
 * linker finds ("libm.so.6"). The fingerprint is of these names: what the library does there is not
 * known here. Any thread. TRK_EINVAL, TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_native_find(const char *library, const char *symbol,
                                         struct trk_native *out);
TRK_API void trk_native_free(struct trk_native *native); /* what is in it; zeroed is fine */

#ifdef __cplusplus
}
#endif
#endif
