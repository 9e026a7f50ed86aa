/* SPDX-License-Identifier: MIT */
/* plan.h - what a seed stands for: sizes, speeds, bounds, and which faults are on, how often.
 *
 * Swarm testing: each seed switches a random subset of the faults on. A schedule with all of them
 * would hardly ever get far enough for the rare ones to meet, and none would show what a fault
 * does alone. */
#ifndef SIM_PLAN_H
#define SIM_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "clock.h"
#include "sched/sched.h"

#define STAGES_MAX 4

/* X(name, what people see, may it make an element run more than once). Those that are injected
 * now and then come first, then those that are properties of the whole schedule. */
#define FAULTS(X)                                                                        \
    X(KILL, "kill", true)               /* SIGKILL of a VM */                            \
    X(STOP, "stop", false)              /* SIGSTOP, shorter than dead_after */           \
    X(LONG_STOP, "long-stop", true)     /* SIGSTOP, longer than that */                  \
    X(BREAK, "break", true)             /* a connection breaks, a suffix is lost */      \
    X(PARTITION, "partition", true)     /* a machine is cut off for a while */           \
    X(ONE_WAY, "one-way", true)         /* one direction is cut off */                   \
    X(RESET, "reset", true)             /* a machine goes down without a word */         \
    X(DRAIN, "drain", false)            /* a VM leaves in order and comes back later */  \
    X(UNSERVE, "unserve", false)        /* a VM is taken from a stage, then given back */ \
    X(ASK_BACK, "ask-back", false)      /* the farm asks for any part of a batch */      \
    X(FARM_DRAIN, "farm-drain", false)  /* the farm gives a VM back in order */          \
    X(CANCEL, "cancel", false)          /* the program wants no more of a stage */       \
    X(PAUSE, "pause", false)            /* the farm's process does not run for a while */ \
    X(STRANGER, "stranger", false)      /* a report about what never was */              \
    X(CALLS, "calls", false)            /* a request between the elements */             \
    X(CRASH, "crash", true)             /* the farm's process dies, and is resumed */    \
    X(DISK_FULL, "disk-full", false)    /* nothing can be written for a while */         \
    X(GHOST, "ghost", false)            /* an earlier run of the job asks for a VM */    \
    X(POISON, "poison", true)           /* elements that kill their VM */                \
    X(HANG, "hang", true)               /* elements that run until their VM is killed */ \
    X(ENDLESS, "endless", true)         /* one element runs without end: all else ends */  \
    X(RECYCLE, "recycle", false)        /* VMs end after some elements */                \
    X(JOIN_LATE, "join-late", false)    /* VMs that come during the run */               \
    X(FAILING, "failing", true)         /* elements whose code fails, retries */         \
    X(SPECULATE, "speculate", true)     /* what runs very long runs twice */             \
    X(SLOW, "slow", false)              /* VMs several times slower than others */       \
    X(LATE_CLOSE, "late-close", false)  /* the end of the input is told late */          \
    X(DEATH_LOST, "death-lost", false)  /* death reports that never come */              \
    X(DEATH_LATE, "death-late", false)  /* and those that come too late */               \
    X(HANDOVER, "handover", false)      /* held results come after their VM was lost */  \
    X(DUPLICATE, "duplicate", false)    /* and come more than once */                    \
    X(FOREIGN, "foreign", false)        /* with such as are of something else */         \
    X(RECRASH, "recrash", true)         /* the farm also dies while it is resumed */     \
    X(POWER, "power", true)             /* its whole machine goes down with it */        \
    X(SYNC_FAIL, "sync-fail", false)    /* syncs that fail */                            \
    X(SYNC_SLOW, "sync-slow", false)    /* syncs that take seconds */                    \
    X(MOVED, "moved", true)             /* what runs on a draining VM goes on elsewhere */

enum fault {
#define FAULT_ENUM(name, text, repeats) FAULT_##name,
    FAULTS(FAULT_ENUM)
#undef FAULT_ENUM
    FAULT_COUNT
};
#define FAULT_TIMED_COUNT FAULT_POISON /* those before it are injected now and then */

extern const char *const fault_names[FAULT_COUNT];

enum spread { SPREAD_ZERO, SPREAD_EVEN, SPREAD_RANDOM, SPREAD_TAIL };

struct stage_plan {
    uint64_t elements;
    uint64_t starts_ns;      /* when the program opens it */
    uint64_t mean_ns;        /* one element on an ordinary VM */
    enum spread spread;      /* how durations differ */
    bool is_ordered;         /* delivered in the order of the list */
    uint64_t ahead;          /* elements added but not taken, at most */
    uint64_t block_max;      /* elements added at a time */
    uint64_t pull_ns;        /* between two blocks */
    uint64_t take_ns;        /* the program's time for a parcel */
    uint64_t close_ns;       /* the end of input is told so long after the last element */
    uint32_t input_bytes;    /* of an element, beyond its identity */
    uint32_t result_bytes;   /* of a result, beyond its identity */
    uint32_t poison;         /* elements per thousand that kill */
    uint32_t poison_runs;    /* so many runs of it die; UINT32_MAX: all */
    uint32_t hang;           /* elements per thousand that hang */
    uint32_t hang_runs;      /* so many runs of it do */
    uint64_t endless;        /* index + 1 of an element that runs without end; 0: none */
    uint32_t timeout_ms;     /* of one element, longer than any takes that does not hang; 0: none */
    uint32_t failing;        /* elements per thousand whose code fails */
    uint32_t retries;        /* runs after a failed one */
    uint64_t backoff_ns;     /* before them */
    bool is_speculating;     /* what runs very long may run twice */
    uint32_t serves;         /* only every so-many-th VM serves it, 1: all */
};

struct plan {
    uint64_t seed;
    uint32_t vms, per_machine, stages;
    struct stage_plan stage[STAGES_MAX];
    struct sched_options sched;
    unsigned weight[FAULT_COUNT]; /* 0: off */
    bool has_losses;              /* a fault is on that may make elements run again */
    uint64_t faults_end_ns;       /* then it must come to an end */
    uint64_t fault_gap_ns;        /* mean time between two */
    bool has_frames;              /* messages are cut into frames and put together again */
    uint64_t latency_ns, jitter_ns;
    uint64_t byte_ps;             /* time on the wire, picoseconds per byte; 0: none */
    uint32_t window;              /* frames under way in one direction at most */
    uint64_t sync_ns;             /* a commit takes about so long; 0: no time at all */
    uint64_t turn_ns;             /* the farm's loop gathers messages for so long */
    uint64_t dead_after_ns;       /* silence that ends a session, at the farm */
    uint64_t vm_dead_ns;          /* likewise at a VM */
    uint64_t restart_ns;          /* a VM's process is up again */
    uint64_t hang_ns;             /* then what hangs is killed, where there is no timeout */
    uint64_t suspect_after_ns;    /* silence that makes the farm careful */
    uint64_t resume_ns;           /* a farm that died is resumed within this */
    uint32_t run_max;             /* elements per RUN message */
    uint32_t recycle_after;       /* elements */
    uint32_t slow_percent;        /* of the ordinary duration */
    uint32_t slow_vms;            /* the first so many are slow; 0: as the dice say */
    uint32_t check_every;         /* events between two looks into all tables */
};

/* vms, elements: 0 or UINT64_MAX means as the seed says. */
void plan_draw(struct plan *p, uint64_t seed, uint32_t vms, uint64_t elements);
/* No faults, four VMs, one of them ten times slower: for sleeping elements of this length. */
void plan_straggler(struct plan *p, uint64_t elements, uint64_t element_ns);
void plan_print(const struct plan *p, FILE *out); /* one line */

/* The duration of an element on an ordinary VM: the same for every attempt. */
uint64_t plan_element_ns(const struct plan *p, uint32_t stage, uint64_t index);
bool plan_is_poison(const struct plan *p, uint32_t stage, uint64_t index);
bool plan_is_hanging(const struct plan *p, uint32_t stage, uint64_t index);
/* Does this run of the element fail, its code's fault? Some always do, some now and then. */
bool plan_is_failing(const struct plan *p, uint32_t stage, uint64_t index, uint32_t run);
/* How long the rest may take at most once the faults have ended. */
uint64_t plan_patience_ns(const struct plan *p);

#endif
