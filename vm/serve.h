/* SPDX-License-Identifier: MIT */
/* serve.h - VM processes that are this program: trickle-vm --rai MODULE. */
#ifndef VM_SERVE_H
#define VM_SERVE_H

#include <limits.h>
#include <stdbool.h>

#include "trickle/error.h"

/* Is it a module that such a VM runs: a built-in one, or a path of a shared object? */
bool serve_is_module(const char *module);
/* Before any VM is started: can it be loaded? 0, or an error with a sentence. A module of others
 * is tried in a process of its own. path: as VM processes are to be told of it. */
TRK_MUST_USE int serve_check(const char *module, char path[PATH_MAX]);
/* The VM process. Returns its exit status. */
int serve_module(const char *module);

#endif
