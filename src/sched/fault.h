/* SPDX-License-Identifier: MIT */
/* fault.h - aborting with a sentence when an invariant is broken. */
#ifndef SCHED_FAULT_H
#define SCHED_FAULT_H

#include <stdlib.h>

#include "base/log.h"

#define sched_must(condition, ...)            \
    do {                                      \
        if (!(condition)) {                   \
            log_error("sched", __VA_ARGS__);  \
            abort();                          \
        }                                     \
    } while (0)

#endif
