/* SPDX-License-Identifier: MIT */
/* load.c - discovery modules of others, from shared objects. */
#include <stddef.h>
#include <string.h>

#include "base/fail.h"
#include "base/plugin.h"
#include "discovery/discovery_impl.h"

#define SIZE_LEAST sizeof(struct trk_discovery_module) /* of the first version, which this is */

int discovery_load(struct trk_discovery_module *out, const char *path)
{
    const struct trk_discovery_module *module;
    const void *table;
    int rc = plugin_load(path, "trickle_discovery_module", "discovery module", &table);

    if (rc < 0) {
        return rc;
    }
    module = table;
    if (module->abi != TRK_DISCOVERY_ABI || module->size < SIZE_LEAST) {
        return fail(TRK_EVERSION, "%s is a discovery module for another version of Trickle "
                    "(interface %u with %u bytes, where this one has %u with %zu): build it again",
                    path, module->abi, module->size, TRK_DISCOVERY_ABI, SIZE_LEAST);
    }
    memcpy(out, module, sizeof(*out));
    if (out->name == NULL || out->open == NULL || out->ask == NULL || out->fd == NULL ||
        out->process == NULL || out->close == NULL) {
        return fail(TRK_EINVAL, "%s is a discovery module without name, open, ask, fd, process or "
                    "close: it needs all of these", path);
    }
    return 0;
}
