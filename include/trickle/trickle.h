/* SPDX-License-Identifier: MIT */
/* trickle.h - all of Trickle's public C API. */
#ifndef TRICKLE_TRICKLE_H
#define TRICKLE_TRICKLE_H

#include "trickle/discovery.h"
#include "trickle/error.h"
#include "trickle/farm.h"
#include "trickle/job.h"
#include "trickle/key.h"
#include "trickle/rai.h"
#include "trickle/run.h"
#include "trickle/view.h"
#include "trickle/vm.h"
#include "trickle/work.h"

#define TRK_VERSION "0.1.0"

#endif
