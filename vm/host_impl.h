/* SPDX-License-Identifier: MIT */
/* host_impl.h - inside the VM process: what the net thread and the compute thread share.
 *
 *   net thread (host_net.c)                       compute thread (host_compute.c), the caller
 *     accepts, decides who leases,                  takes a job, runs the module, gathers
 *     feeds messages into the agent  ---lock--->    results, holds and sends them
 *     control socket, end of the lease  <--post--   recycle, drained
 *     timeouts, interrupts
 *
 *   host.c          takes over what the supervisor handed down
 *   host_net.c      connections and messages
 *   host_control.c  what the supervisor says: keys, drain, stop
 *   host_leave.c    the ways in which a lease and the process end
 *   host_stop.c     what stops a running element: its timeout, an interrupt
 *   host_modules.c  the modules of this VM, and which runs what
 *   host_late.c     results that wait behind a long element
 *   host_hold.c     durable results when their initiator has gone
 *   host_state.c    checkpoints inside an element
 *   host_blob.c     bytes that work names by content
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

#include "auth/keys.h"
#include "ckpt/home.h"
#include "net/loop.h"
#include "net/session.h"
#include "rai/rai.h"
#include "trickle/vm.h"
#include "vm/agent.h"
#include "vm/host.h"
#include "vm/page.h"
#include "vm/spool.h"

#define HOST_UNPROVED_MAX 64     /* of a kind, without TLS, that have not said HELLO yet */
#define HOST_EXIT_MS 1000        /* an orderly end may take so long */
#define HOST_INTERRUPT_MS 500    /* interrupted code may run on for so long */
#define HOST_AGAIN_MS 20         /* an interrupt so close to the start of its element is repeated */
#define HOST_DUMP_MS 250         /* telling where the code is stuck is cut short then */
#define HOST_LINGER_MS 100       /* a drained VM closes when asked nothing for so long */
#define HOST_LINGER_MAX_MS 5000  /* ... and in any case after so long */
#define HOST_STALL_MS 10000      /* a holder that takes no result for so long takes none any more */
#define HOST_UNSENT_MS 5         /* how often that is looked at */
#define HOST_TCP_DEAD_MS 60000   /* an initiator on another machine that is silent for so long */
#define HOST_EXIT_INTERRUPTED 70 /* exit status: code that did not heed the interrupt */
#define HOST_EXIT_MEMORY 71      /* exit status: no memory to hold or send a result */
#define HOST_EXIT_TIMEOUT 72     /* exit status: an element used up its timeout */

struct gather; /* results not sent yet, host_compute.c */

/* A module at work: the VM's own, or a built-in one beside it. */
struct host_module {
    struct host_module *next; /* in host.beside */
    struct trk_rai_module table;
    void *state;              /* what its functions get */
};

/* A stage that was opened. */
struct host_stage {
    struct host_stage *next;    /* in host.stages */
    uint32_t number;
    struct host_module *module; /* that runs its elements */
    int status;                 /* TRK_STATUS_OK; else each of its elements is answered with it, */
    struct blob *payload;       /* and this */
};

struct host {
    /* Fixed after the start. */
    struct host_module own; /* the module that this VM is for */
    struct vm_fds fds;
    struct vm_page *page;
    pid_t pid;
    volatile char *fork_mark; /* 1; reads 0 in a forked child. NULL: compare pid */
    char host_name[64];
    pthread_t compute_thread;

    /* Net thread. */
    struct net_loop *loop;
    struct net_listener *listen_unix, *listen_tcp;
    uv_poll_t control;
    uint8_t control_in[2 + AUTH_TEXT_MAX]; /* from the supervisor, not a whole message yet */
    size_t control_size;
    struct auth_keys keys;      /* for TCP; count 0: none have come */
    uv_timer_t exit_timer;      /* an orderly end takes too long */
    uv_timer_t interrupt_timer; /* interrupted code runs on */
    uv_timer_t timeout_timer;   /* an element that runs or is queued may have used up its time */
    uv_timer_t linger_timer;    /* drained, and nothing more is asked */
    uv_timer_t late_timer;      /* results may wait behind a long element */
    bool is_repeated;           /* interrupt_timer: interrupt again, then wait on */
    enum wire_end leaving;      /* why it leaves when what runs has ended; UNKNOWN: it does not */
    bool is_over;               /* the end of the process is under way */
    uint64_t linger_end_ms;     /* drained since HOST_LINGER_MAX_MS before; 0: not yet */
    size_t unsent;              /* bytes not taken by the holder when it leaves */
    uint64_t unsent_ms;         /* since when it is so many */
    unsigned unproved[2]; /* who has not said HELLO: of this machine, by TCP */
    uint64_t dropped_seen; /* of net_dropped(), already counted in the page */
    char home[HOME_PATH_MAX]; /* where results are held for the lease's job; "": nowhere */

    /* Compute thread. */
    struct gather *gather;
    struct trk_rai_reply reply;
    struct host_module *beside;  /* built-in modules that were used */
    struct host_stage *stages;   /* that are open, the one asked for last first */
    bool is_away;                /* the own module was told of a wait */
    uint64_t flushed_ns;         /* when results were sent last */
    uint64_t served;             /* elements run */
    uint64_t recycle_after;      /* elements; 0: any number */
    uint64_t memory_limit;       /* bytes; 0: none */
    const struct agent_job *element; /* that runs; NULL: none */
    bool has_moved;              /* its last checkpoint has said TRK_EMOVED */
    bool has_element_digest;
    struct digest element_digest; /* of its bytes */
    struct blob *state;          /* its last state that is safe, or NULL */
    const void *state_bytes;     /* in state */
    size_t state_size;
    struct blob *state_sent;     /* one that is not known to be safe yet, or NULL */
    uint64_t state_seq;          /* the number of that one */

    /* Shared, under lock. */
    pthread_mutex_t lock;
    struct agent *agent;
    struct net_session *session; /* the holder's, one reference; NULL: no lease */
    bool is_waiting;             /* the compute thread sleeps on wake */
    bool is_draining;            /* end after the running element */
    bool is_ending;              /* the process is about to end: take nothing more */
    uint64_t run;                /* number of the job that runs or ran last */
    bool run_is_element, run_is_durable;
    uint32_t run_stage, run_timeout_ms; /* of it; 0: none */
    uint64_t run_index;                 /* of the element */
    struct host_stage *run_in;          /* of the element */
    uint32_t spooled;                   /* files written under this lease */
    char state_name[SPOOL_NAME_MAX];    /* the file with the state of this element; "": none */
    uint32_t spooled_stage;
    uint64_t spooled_index;
    int state_error;                    /* the last state is safe nowhere: why */
    struct digest wanted;               /* the blob that the compute thread waits for */
    bool is_wanting;                    /* it does */
    struct blob *wanted_body;           /* the BLOB that has come for it, or NULL */
    sem_t answer_wake;                  /* posted when something has become of a state or blob */

    /* Written by the compute thread without the lock, set under it. */
    atomic_bool is_running; /* inside a function of the module */
    atomic_bool is_to_move; /* set by the net thread: elements end at their next checkpoint */
    sem_t wake;

    /* Written under the lock, read anywhere: the run that is to stop. */
    atomic_ullong interrupted_run;
    atomic_bool is_late_armed; /* set by the compute thread, reset as host_late.c says */
};

/* host_net.c */
TRK_MUST_USE int host_net_start(struct host *h);
void host_wake(struct host *h); /* under lock */
void host_dial(struct host *h, const uint8_t token[16], const char *address);

/* host_control.c: net thread. Takes in and does all that the supervisor has said. */
void host_control_read(struct host *h);

/* host_leave.c: net thread */
void host_tell(struct host *h, char byte); /* the supervisor */
void host_set_state(struct host *h, enum trk_vm_state state);
void host_note_end(struct host *h, enum wire_end end); /* in the page, for the supervisor */
/* To end after what runs: all that is queued goes back to the holder, which is told. */
void host_leave(struct host *h, enum wire_end why);
void host_give_back(struct host *h, struct net_session *s);
void host_net_recycle(void *host); /* posted: an element was the last that this process runs */
void host_net_drained(void *host); /* posted: nothing runs any more and all results are sent */
void host_on_linger_timer(uv_timer_t *timer);
void host_on_exit_timer(uv_timer_t *timer);
void host_lease_end(struct host *h, bool has_vanished); /* false: it said BYE */

/* host_stop.c: net thread */
void host_look_at_timeout(struct host *h); /* elements with timeouts have come */
void host_interrupt(struct host *h, const struct wire_note *cancel);

/* host_hold.c */
void host_hold_open(struct host *h, const struct wire_hello *hello); /* a lease begins */
/* The lease has ended; under the lock. True: an element goes on without its initiator. */
bool host_hold_begin(struct host *h, bool has_vanished);
void host_hold_late(struct host *h); /* results were held after that */
/* The last state goes to the spool; under the lock. 0, or why not. */
int host_spool_state(struct host *h);

/* host_state.c: compute thread */
void host_state_begin(struct host *h, const struct agent_job *job);
void host_state_end(struct host *h);

/* host_blob.c: net thread. TRK_ECORRUPT: drop the connection. */
TRK_MUST_USE int host_blob_come(struct host *h, struct blob *body);

/* host.c */
struct host *host_serving(void); /* NULL: this process is no VM */

/* host_late.c */
void host_late_arm(struct host *h); /* compute thread: an element begins, and results wait */

/* host_modules.c: compute thread, or before there are others */
TRK_MUST_USE int host_modules_open(struct host *h, const struct trk_rai_module *own, void *state);
void host_modules_close(struct host *h);
/* The next function that is called is one of this module (NULL: it waits for something to do). */
void host_modules_enter(struct host *h, const struct host_module *module);
/* The module of that name ("": the own one), ready to run; NULL: status and reply say why not. */
struct host_module *host_modules_get(struct host *h, const char *name, int *status);
int host_request(struct host *h, const struct trk_rai_request *request); /* as the own module's */
struct host_stage *host_stage_find(struct host *h, uint32_t number); /* NULL: it is not open */

/* host_compute.c */
TRK_MUST_USE int host_compute_init(struct host *h);
void host_compute(struct host *h);            /* until is_ending */
void host_send(struct host *h, uint8_t type, uint32_t stream, struct blob *body); /* takes body */
void host_flush(struct host *h);         /* sends what is gathered: whoever owns that */
_Noreturn void host_out_of_memory(void); /* any thread */

#endif
