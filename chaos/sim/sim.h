/* SPDX-License-Identifier: MIT */
/* sim.h - a whole farm in one process on a virtual clock, from one seed.
 *
 *   program.c   pulls elements, takes results            (calling thread of production)
 *   farm.c      leases, assigns, acknowledges            (src/farm; the production scheduler)
 *   store.c     records results, in groups, takes time   (src/ckpt; part of the farm's process)
 *   crash.c     the farm's process dies, a new one resumes (src/farm/job.c)
 *   held.c      what supervisors keep for a farm that has gone, and hand over (vm/spool.c)
 *   net.c       connections: order, delay, breaks, cuts  (src/net; production frames)
 *   vm.c        leases, runs, holds, dies                (vm/; the production agent)
 *   fault.c     what goes wrong, and when it all ends
 *   judge.c     knows what really happened, and judges   (knows nothing of the scheduler)
 *   story.c     trace, and the state of all tables for who has to find out
 *   main.c, pool.c   seeds, processes, counts
 *
 * One loop (sim_run) takes the next thing due, does it, and has all tables checked. No threads,
 * no clock, no sleeping, and nothing whose order depends on an address: a seed replays exactly. */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "clock.h"
#include "farm.h"
#include "judge.h"
#include "net.h"
#include "plan.h"
#include "program.h"
#include "store.h"
#include "trickle/error.h"
#include "vm.h"

/* What is due. who and arg as said. From FARM_SILENT to TAKE it is the farm's process that acts:
 * while that is paused, these wait. */
enum sim_event {
    EVENT_ARRIVE,     /* conn, way: the next packet is there */
    EVENT_PUMP,       /* conn, way: the wire is free again */
    EVENT_VM_READY,   /* vm, life: its process is up */
    EVENT_VM_STEP,    /* vm, run: what it did is done */
    EVENT_VM_LATE,    /* vm, job: results wait behind a long element */
    EVENT_VM_HUNG,    /* vm, run: hangs for too long */
    EVENT_VM_SILENT,  /* vm, conn: has it heard nothing for too long? */
    EVENT_DEATH,      /* machine, report: the supervisor sends it */
    EVENT_SPOOL,      /* machine, which: held results may be handed over */
    EVENT_RESUME,     /* a new process of the farm begins */
    EVENT_FARM_SILENT, /* vm, conn: has the farm heard nothing for too long? */
    EVENT_FARM_LOSS,  /* vm: its death report has been waited for */
    EVENT_FARM_RETRY, /* vm: may be asked again */
    EVENT_FARM_SUSPECT, /* vm, 1: has it been silent? 0: does it speak again? */
    EVENT_FARM_LATE,  /* vm, conn: one that was given up speaks again */
    EVENT_FARM_UNBLOCK, /* vm: somebody has looked after it */
    EVENT_FARM_TURN,  /* the farm's loop comes to its end */
    EVENT_FARM_WAKE,  /* the scheduler wants a tick */
    EVENT_FARM_RESYNC, /* the store tries again */
    EVENT_SYNCED,     /* a sync of the store has ended */
    EVENT_OPEN,       /* stage: the program opens it */
    EVENT_FEED,       /* stage: the program adds elements */
    EVENT_CLOSE,      /* stage: the program has no more */
    EVENT_TAKE,       /* stage: the program takes a result */
    EVENT_FAULT,      /* something goes wrong */
    EVENT_STRIKE,     /* vm or stage, fault: strikes this one */
    EVENT_MEND,       /* vm or machine, what: and gets well again */
    EVENT_QUIET,      /* from here on nothing goes wrong any more */
    EVENT_LOOK,       /* is all done that can be? */
    EVENT_DEADLINE,   /* now it must be over */
    EVENT_COUNT
};

struct tally {
    uint64_t seeds, events, elements, runs, results, calls;
    uint64_t virtual_ns;
    uint64_t digest; /* of all that happened, the same for every run of the same seeds */
    uint64_t faults[FAULT_COUNT];   /* injected */
    uint64_t lost, blocked;    /* VMs */
    uint64_t failed;           /* elements given up */
    uint64_t dropped;          /* reports without effect */
    uint64_t cancelled;        /* stages */
    uint64_t restored;         /* results read from the disk by a later run */
    uint64_t handed;           /* results taken from supervisors */
};

struct sim {
    struct plan plan;
    struct clock clock;
    struct dice dice;
    struct net net;
    struct vms vms;
    struct farm farm;
    struct store store;
    struct program program;
    struct judge judge;
    struct tally tally;
    uint64_t farm_born; /* order of the first event of its process: earlier ones are void */
    uint32_t farm_processes; /* there were so many */
    bool is_traced;
    bool is_quiet;      /* the faults have ended */
    bool is_over;       /* the program has ended */
    uint64_t idle_events; /* since something got further, or a second has passed */
    uint64_t idle_ns;     /* since when they are counted */
};

struct sim_options {
    uint32_t vms;      /* 0: as the seed says */
    uint64_t elements; /* UINT64_MAX: as the seed says */
    const struct plan *plan; /* instead of what the seed says, or NULL */
    bool is_traced;
};

/* Runs one seed to its end and adds to tally. Does not return when a promise is broken. */
void sim_run(uint64_t seed, const struct sim_options *opt, struct tally *tally);
/* Something got further: the end is nearer. */
static inline void sim_progress(struct sim *s)
{
    s->idle_events = 0;
}
/* Takes a number into the digest. */
static inline void sim_note(struct sim *s, uint64_t what)
{
    s->tally.digest = (s->tally.digest ^ what) * UINT64_C(0x100000001b3);
    s->tally.digest ^= s->tally.digest >> 29;
}

/* crash.c */
bool farm_output(struct sim *s); /* something is about to leave its process; false: it dies */
void farm_crash(struct sim *s);  /* it has died: what is left of it goes */
void farm_die(struct sim *s);    /* now, or in the middle of what it does next */
void farm_begin(struct sim *s);  /* EVENT_RESUME */

/* fault.c */
void fault_start(struct sim *s);
void fault_inject(struct sim *s);
void fault_mend(struct sim *s, uint32_t who, uint64_t what);
void fault_quiet(struct sim *s);
static inline bool fault_is_on(const struct sim *s, enum fault fault)
{
    return s->plan.weight[fault] > 0 && !s->is_quiet;
}
void fault_strike(struct sim *s, uint32_t who, enum fault fault);
/* A VM is told of a stage: it may be cancelled before that comes there. */
void fault_on_stage(struct sim *s, uint32_t stage);
/* A VM was given a second run: it may leave before that starts. */
void fault_on_second(struct sim *s, uint32_t vm);
/* Does a fault of this kind strike now? Weight 16 is nearly always. */
bool fault_strikes(struct sim *s, enum fault fault);

/* story.c */
void story_tell(struct sim *s, const char *who, uint32_t number, const char *format, ...)
    TRK_PRINTF(4, 5);
#define tell(sim, ...)                    \
    do {                                  \
        if ((sim)->is_traced) {           \
            story_tell(sim, __VA_ARGS__); \
        }                                 \
    } while (0)
/* A promise is broken: says so with the state of all tables, and ends the process. */
_Noreturn void sim_broken(struct sim *s, const char *format, ...) TRK_PRINTF(2, 3);

#endif
