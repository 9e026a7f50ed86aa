/* SPDX-License-Identifier: MIT */
/* trickle.h - all of Trickle's public C API: a durable task farm for programs in C and C++.
 *
 * What a program that farms out work calls, in this order; each is told of in its own header:
 *
 *     trk_signals_catch     run.h    Ctrl-C and trickle cancel stop it cleanly
 *     trk_job_open          job.h    results are recorded: a killed program goes on where it was
 *     trk_farm_new          farm.h   a thread that finds VMs and gives them work
 *     trk_connect_start     farm.h   and trk_connect_wait: a list of VMs
 *     trk_work_new          work.h   what is to run, on which VMs, how often it is tried
 *     trk_work_run          run.h    elements from a source, results to a sink
 *     trk_work_free, trk_vmlist_free, trk_farm_close
 *     trk_job_finish        job.h    notes how it ended, and says what main() returns
 *
 * 0 is success; negative answers are errors (error.h), and trk_last_error() has a sentence about
 * them for a person; positive ones are part of what a function does. */
#ifndef TRICKLE_TRICKLE_H
#define TRICKLE_TRICKLE_H

#include "trickle/discovery.h"
#include "trickle/error.h"
#include "trickle/exec.h"
#include "trickle/farm.h"
#include "trickle/job.h"
#include "trickle/key.h"
#include "trickle/native.h"
#include "trickle/rai.h"
#include "trickle/run.h"
#include "trickle/view.h"
#include "trickle/vm.h"
#include "trickle/work.h"

#define TRK_VERSION "0.1.0"

#endif
