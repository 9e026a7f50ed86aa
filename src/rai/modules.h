/* SPDX-License-Identifier: MIT */
/* modules.h - the RAI modules that every VM has, and what any module has to be. */
#ifndef RAI_MODULES_H
#define RAI_MODULES_H

#include "trickle/rai.h"

extern const struct trk_rai_module rai_native; /* native.c */

/* Beside its own module each VM runs these; NULL ends them. */
extern const struct trk_rai_module *const rai_built_in[];

const struct trk_rai_module *rai_built_in_find(const char *name); /* NULL: there is none */

/* Copies a module's table into one of this version, where what it does not have is NULL. Returns
 * 0, or TRK_EVERSION, TRK_EINVAL with a sentence about who. */
TRK_MUST_USE int rai_module_copy(struct trk_rai_module *out, const struct trk_rai_module *module,
                                 const char *who);
/* That of a shared object of others. 0, or TRK_EVERSION, TRK_EINVAL with a sentence. */
TRK_MUST_USE int rai_module_load(struct trk_rai_module *out, const char *path);

#endif
