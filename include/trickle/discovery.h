/* SPDX-License-Identifier: MIT */
/* discovery.h - discovery modules: how an initiator finds supervisors of VMs.
 *
 * A module finds addresses of supervisors, no more; the farm then asks each supervisor for its
 * VMs. Discovery proves nothing about identity. All functions are called on the farm thread
 * and must not block. A module needs no event loop: it names one pollable descriptor (an epoll
 * descriptor where it has several). */
#ifndef TRICKLE_DISCOVERY_H
#define TRICKLE_DISCOVERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRK_DISCOVERY_ABI 1

struct auth_keys; /* opaque: for the built-in modules only */

struct trk_discovery_config {
    const char *runtime_dir; /* private directory of this user's sockets */
    const char *hosts;       /* "host:port,@file,..." or NULL */
    const char *multicast;   /* "group:port,..." or NULL */
    const struct auth_keys *keys; /* of the farm; NULL: a plain one */
};

/* Where a module reports to. found may be called inside open, ask and process.
 *   address  "unix:/path" or "tcp:host:port" (numeric host, [::1] form for IPv6); copied */
struct trk_discovery_sink {
    void *ctx;
    void (*found)(void *ctx, const char *address);
    void (*gone)(void *ctx, const char *address); /* optional knowledge; may never be called */
};

struct trk_discovery_module {
    uint32_t abi;  /* TRK_DISCOVERY_ABI */
    uint32_t size; /* sizeof(struct trk_discovery_module) */
    const char *name;
    /* True: ask() has reported all there is when it returns (same machine, a list). False:
     * answers come later through process(), the farm waits for quiet. */
    bool is_immediate;
    /* config and sink are borrowed for the call: copy what is needed later. */
    TRK_MUST_USE int (*open)(const struct trk_discovery_config *config,
                             const struct trk_discovery_sink *sink, void **state);
    TRK_MUST_USE int (*ask)(void *state);
    int (*fd)(void *state);       /* readable: call process(); -1: never */
    void (*process)(void *state); /* reads what came, reports */
    void (*close)(void *state);
};

/* What a shared object for trickle run --discovery PATH exports: gives its table, which stays
 * valid. docs/modules.md tells how one is written, built and tried. */
TRK_API const struct trk_discovery_module *trickle_discovery_module(void);

#ifdef __cplusplus
}
#endif
#endif
