/* SPDX-License-Identifier: MIT */
/* modules.c - the built-in modules, and the check of any module's table, see modules.h. */
#include "rai/modules.h"

#include <stddef.h>
#include <string.h>

#include "base/fail.h"
#include "base/plugin.h"

#define SIZE_LEAST offsetof(struct trk_rai_module, dump) /* the first version had no more */

const struct trk_rai_module *const rai_built_in[] = {
    &rai_native,
    NULL,
};

const struct trk_rai_module *rai_built_in_find(const char *name)
{
    const struct trk_rai_module *const *at = rai_built_in;

    while (*at != NULL && strcmp((*at)->name, name) != 0) {
        at++;
    }
    return *at;
}

int rai_module_copy(struct trk_rai_module *out, const struct trk_rai_module *module,
                    const char *who)
{
    size_t size = module->size < sizeof(*out) ? module->size : sizeof(*out);

    if (module->abi != TRK_RAI_ABI || module->size < SIZE_LEAST) {
        return fail(TRK_EVERSION, "%s is a RAI module for another version of Trickle (interface "
                    "%u with %u bytes, where this one has %u with %zu): build it again", who,
                    module->abi, module->size, TRK_RAI_ABI, sizeof(*out));
    }
    memset(out, 0, sizeof(*out));
    memcpy(out, module, size);
    if (out->name == NULL || out->name[0] == '\0' || strlen(out->name) >= TRK_MODULE_MAX) {
        return fail(TRK_EINVAL, "%s is a RAI module whose name is empty, or longer than %d bytes",
                    who, TRK_MODULE_MAX - 1);
    }
    if (out->version == NULL || out->stage_open == NULL || out->run == NULL) {
        return fail(TRK_EINVAL, "%s is a RAI module without version, stage_open or run: it needs "
                    "all of these", who);
    }
    return 0;
}

int rai_module_load(struct trk_rai_module *out, const char *path)
{
    const void *table;
    int rc = plugin_load(path, "trickle_rai_module", "RAI module", &table);

    rc = rc < 0 ? rc : rai_module_copy(out, table, path);
    if (rc == 0 && (rai_built_in_find(out->name) != NULL || strcmp(out->name, "python") == 0)) {
        return fail(TRK_EINVAL, "%s is a RAI module with the name %s, which one of Trickle's own "
                    "has", path, out->name);
    }
    return rc;
}
