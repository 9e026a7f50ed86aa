/* SPDX-License-Identifier: MIT */
/* pool.h - many seeds on all cores: a process each, so that a broken one takes nobody with it. */
#ifndef SIM_POOL_H
#define SIM_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "sim.h"

struct pool_options {
    struct sim_options sim;
    uint64_t first, last;    /* seeds */
    double seconds;          /* 0: until last */
    unsigned jobs;           /* processes */
    unsigned watch_seconds;  /* a seed that takes longer is broken */
    bool keep_going;         /* after a failure */
    const char *options;     /* as typed, for the replay command */
};

/* Runs the seeds; adds to tally. Returns how many failed, each of which was described. */
unsigned pool_run(const struct pool_options *opt, struct tally *tally);

#endif
