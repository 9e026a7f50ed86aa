/* SPDX-License-Identifier: MIT */
/* plugin.h - tables of functions in shared objects that others have built. */
#ifndef BASE_PLUGIN_H
#define BASE_PLUGIN_H

#include "trickle/error.h"

/* Loads the shared object, for good, and calls the function of that name in it, which gives its
 * table. what: what such a table is ("RAI module"). 0, or TRK_EINVAL with a sentence. */
TRK_MUST_USE int plugin_load(const char *path, const char *function, const char *what,
                             const void **table);

#endif
