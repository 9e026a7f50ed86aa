/* SPDX-License-Identifier: MIT */
/* host_impl.h - inside the VM process: what the net thread and the compute thread share.
 *
 *   net thread (host_net.c)                       compute thread (host_compute.c), the caller
 *     accepts, decides who leases,                  takes a job, runs the module, gathers
 *     feeds messages into the agent  ---lock--->    results, holds and sends them
 *     control socket, end of the lease  <--post--   drained
 *
 * There is one host per process and it is never freed: the process ends with it, and the net
 * thread keeps watch until the last moment (a finaliser that hangs, a supervisor that is gone). */
#ifndef VM_HOST_IMPL_H
#define VM_HOST_IMPL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

#include "net/loop.h"
#include "net/session.h"
#include "rai/rai.h"
#include "trickle/vm.h"
#include "vm/agent.h"
#include "vm/host.h"
#include "vm/page.h"

#define HOST_UNPROVED_MAX 64     /* connections that have not said HELLO yet */
#define HOST_EXIT_MS 1000        /* an orderly end may take so long */
#define HOST_INTERRUPT_MS 500    /* interrupted code may run on for so long */
#define HOST_TCP_DEAD_MS 60000   /* an initiator on another machine that is silent for so long */
#define HOST_EXIT_INTERRUPTED 70 /* exit status: code that did not heed the interrupt */
#define HOST_EXIT_MEMORY 71      /* exit status: no memory to hold or send a result */

struct gather; /* results not sent yet, host_compute.c */

struct host {
    /* Fixed after the start. */
    const struct trk_rai_module *module;
    void *module_state;
    struct vm_fds fds;
    struct vm_page *page;
    pid_t pid;
    volatile char *fork_mark; /* 1; reads 0 in a forked child. NULL: compare pid */
    char host_name[64];

    /* Net thread. */
    struct net_loop *loop;
    struct net_listener *listen_unix, *listen_tcp;
    uv_poll_t control;
    uv_timer_t exit_timer;      /* an orderly end takes too long */
    uv_timer_t interrupt_timer; /* interrupted code runs on */
    uint64_t interrupted_run;   /* which run the interrupt was for */
    unsigned unproved;
    uint64_t dropped_seen; /* of net_dropped(), already counted in the page */

    /* Compute thread. */
    struct gather *gather;
    struct trk_rai_reply reply;
    struct failed_stage *failed; /* stages that failed to open */
    uint64_t flushed_ns;         /* when results were sent last */

    /* Shared, under lock. */
    pthread_mutex_t lock;
    struct agent *agent;
    struct net_session *session; /* the holder's, one reference; NULL: no lease */
    bool is_waiting;             /* the compute thread sleeps on wake */
    bool is_draining;            /* end after the running element */
    bool is_ending;              /* the process is about to end: take nothing more */
    uint64_t run;                /* number of the job that runs or ran last */
    bool run_is_element;
    uint32_t run_stage;

    /* Written by the compute thread without the lock, set under it. */
    atomic_bool is_running; /* inside a function of the module */
    sem_t wake;
};

/* host_net.c */
TRK_MUST_USE int host_net_start(struct host *h);
void host_net_drained(void *host); /* posted: nothing runs any more and all results are sent */
void host_wake(struct host *h);    /* under lock */

/* host_compute.c */
TRK_MUST_USE int host_compute_init(struct host *h);
void host_compute(struct host *h); /* until is_ending */

#endif
