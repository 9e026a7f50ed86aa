/* SPDX-License-Identifier: MIT */
/* plugin.c - loads shared objects, see plugin.h.
 *
 * All of its symbols must be found at once: one that is missing is a sentence now, not the end of
 * a process in the middle of a job. */
#include "base/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"

int plugin_load(const char *path, const char *function, const char *what, const void **table)
{
    char whole[PATH_MAX]; /* a name without a slash would be looked for in the system's folders */
    const void *(*get)(void);
    void *object, *symbol;

    if (realpath(path, whole) == NULL) {
        return fail(TRK_EINVAL, "cannot load %s: %s", path, strerror(errno));
    }
    object = dlopen(whole, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL) {
        return fail(TRK_EINVAL, "cannot load %s", dlerror()); /* which begins with its path */
    }
    symbol = dlsym(object, function);
    if (symbol == NULL) {
        return fail(TRK_EINVAL, "%s is no %s: it has no function %s", path, what, function);
    }
    memcpy(&get, &symbol, sizeof(get)); /* C knows no cast from an object to a function */
    *table = get();
    if (*table == NULL) {
        return fail(TRK_EINVAL, "%s is no %s: its function %s gives nothing", path, what, function);
    }
    return 0;
}
