/* SPDX-License-Identifier: MIT */
/* supervisor.h - trickle-vm: one supervisor, its VMs, those who watch them. One thread.
 *
 *   main.c        options
 *   supervisor.c  start, signals, the end
 *   child.c       one VM: its process, sockets, page; restarts
 *   output.c      what it prints
 *   death.c       how its process died, and why
 *   oom.c         evidence that the kernel ended it for lack of memory
 *   memory.c      --memory-limit while something runs
 *   watch.c       initiators that watch: VMS, OUTPUT, DEATH
 *   order.c       what they may ask for: drain, stop
 *   offer.c       what is held here for their job, handed to them
 *   join.c        programs that this supervisor dials in to
 *   keys.c        the farm's keys, for TLS and multicast
 *   guard.c       what cleans up when this process is killed */
#ifndef VM_SUPERVISOR_H
#define VM_SUPERVISOR_H

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <uv.h>

#include "auth/keywatch.h"
#include "base/list.h"
#include "ckpt/home.h"
#include "discovery/discovery_impl.h"
#include "net/loop.h"
#include "net/session.h"
#include "vm/guard.h"
#include "vm/host.h"
#include "vm/oom.h"
#include "vm/page.h"
#include "wire/msg.h"

#define OUTPUT_KEPT 65536u  /* last output kept per VM */
#define DEATH_OUTPUT 4096u  /* of it, this much goes into a DEATH */
#define SOCKET_PATH_MAX 108 /* of a unix socket */
#define VMS_MAX 1024        /* of one supervisor */
#define JOINS_MAX 16        /* programs to dial in to */
#define UNPROVED_MAX 64     /* of a kind, without TLS, that have not said HELLO yet */

struct supervisor_options {
    uint32_t count;          /* VMs */
    const char *command[4];  /* that is a VM: program and arguments, ended by NULL */
    char *const *wrap;       /* a command that runs that one, which is put behind; NULL: none */
    const char *listen_host; /* TCP: numeric, without brackets; "*": all; NULL: none */
    uint16_t listen_port;    /* 0: any */
    const char *joins[JOINS_MAX]; /* "HOST:PORT" of programs to dial in to */
    size_t joins_count;
    bool lan;                /* answer multicast questions */
    const char *multicast;   /* "group:port" */
    struct auth_watch *keys; /* TCP, both ways, and multicast need them; borrowed; NULL:
                                --insecure */
    const char *runtime_dir; /* or NULL */
    uint64_t memory_limit;   /* bytes of a VM; 0: none */
    uint64_t recycle_after;  /* elements; 0: any number */
    uint64_t hold_seconds, hold_bytes; /* what is held for jobs whose program has gone */
    int listening_fd;        /* told when the sockets are there; -1: none */
    int ready_fd;            /* told when all VMs are up; -1: none */
    bool is_quiet;           /* do not say that all VMs are up, only what is wrong */
};

/* A descriptor watched by the loop. */
struct watched_fd;

/* One VM: a place that processes come and go in. */
struct vm_child {
    struct supervisor *sup;
    uint32_t index;
    /* For all its processes. */
    char unix_path[SOCKET_PATH_MAX];
    int listen_fd, tcp_fd; /* tcp_fd -1: none */
    uint16_t tcp_port;
    int page_fd;
    struct vm_page *page;
    uv_timer_t timer; /* no process: the next start; else it is overdue, see child.c */
    /* Of the process that runs now. */
    pid_t pid; /* 0: none */
    uint64_t start_ns;
    struct watched_fd *control, *output;
    bool is_ready;   /* it has accepted connections */
    bool was_leased; /* it has had a lease */
    bool has_ended;  /* it has said that its lease is over */
    bool was_over;   /* memory.c: it was over the limit a moment ago */
    enum wire_end end; /* why we killed it; UNKNOWN: we did not, or have nothing to say */
    uint8_t *ring;   /* its last OUTPUT_KEPT bytes of output */
    uint64_t printed; /* bytes of output so far; modulo OUTPUT_KEPT: where the next one goes */
    /* Of the one that has died. */
    pid_t dead;        /* it is to be replaced, and what it left to be killed; 0: none */
    bool died_at_once; /* for nothing */
    /* Over its processes. */
    bool is_leaving;   /* no other process follows this one */
    uint32_t failures; /* deaths right after the start, in a row */
    char note[TRK_VM_TEXT_MAX]; /* the last unexpected death; "" */
};

struct supervisor {
    struct supervisor_options opt;
    uint8_t id[16];
    char host_name[64];
    uint32_t cores;
    char unix_path[SOCKET_PATH_MAX];
    const char **files; /* the socket files, for the guard; NULL at the end */
    int unix_fd, tcp_fd; /* tcp_fd -1: none */
    uint16_t tcp_port;
    bool has_ipv6; /* tcp_fd takes IPv6 */
    struct net_loop *loop;
    struct net_listener *unix_listener, *tcp_listener;
    struct discovery_responder *responder;
    struct watched_fd *responder_fd;
    uv_signal_t signals[3]; /* TERM, INT, CHLD */
    pid_t *others;       /* children that this process had before it became a supervisor */
    size_t others_count; /* of them that have not ended */
    struct guard guard;
    char marker[64];  /* "TRICKLE_VM_OWNER=...", in the environment of all VMs */
    struct oom oom;
    uv_timer_t memory_timer;
    uv_timer_t keys_timer;    /* when there are keys, as the next two */
    uv_signal_t hangup;       /* HUP */
    bool has_terminal;        /* it was started in one */
    uint64_t refused_ms;      /* when a refusal was last told at the level of warnings; 0: never */
    char home[HOME_PATH_MAX]; /* where results are held; "": no job has been here */
    uv_timer_t hold_timer;    /* when it is "": not started */
    struct vm_child *vms;
    struct join *joins; /* opt.joins_count of them */
    struct list watchers;
    uint32_t unproved[2]; /* watchers that have not said HELLO: of this machine, by TCP */
    uint32_t watching; /* watchers that were accepted */
    bool is_announced; /* all VMs are idle or failing, and that was said */
    bool is_stopping;
    bool is_ended; /* no VM is left, the last sessions close */
};

/* supervisor.c */
int supervisor_run(const struct supervisor_options *opt); /* until it has ended; 0 or TRK_E* */
void supervisor_vm_changed(struct supervisor *sup); /* a VM became idle, failed, or is gone */
void supervisor_stop(struct supervisor *sup, int signal); /* as at SIGTERM */
/* "tcp:..." of listen_host with a port. */
void supervisor_tcp_address(const struct supervisor *sup, uint16_t port, char *text, size_t size);

/* fn: something can be read (or the other end is closed). Takes fd over, also on error (NULL). */
struct watched_fd *watched_fd_new(struct supervisor *sup, int fd, void (*fn)(void *user),
                                  void *user);
int watched_fd_get(const struct watched_fd *w);
void watched_fd_close(struct watched_fd *w); /* NULL is fine */

/* child.c */
int child_init(struct vm_child *vm, struct supervisor *sup, uint32_t index, const char *path);
void child_start(struct vm_child *vm);
/* Its process has been reaped: reports that; child_replace follows, when all are reported. */
void child_died(struct vm_child *vm, int status, const struct rusage *usage);
void child_replace(struct vm_child *vm);
void child_drain(struct vm_child *vm); /* to end after what it runs, and not to come back */
void child_stop(struct vm_child *vm);  /* to end now, and not to come back */
void child_kill(struct vm_child *vm, enum wire_end why); /* its process, now */
void child_fini(struct vm_child *vm);
bool child_is_settled(const struct vm_child *vm); /* idle or failing */
enum trk_vm_state child_state(const struct vm_child *vm);
void child_info(const struct vm_child *vm, bool is_tcp, struct trk_vm_info *info);

/* death.c */
bool death_is_expected(enum wire_end end);
/* Says how the process ended, to log and holder. Returns why. */
enum wire_end death_report(struct vm_child *vm, int status, const struct rusage *usage);

/* join.c */
struct join;
TRK_MUST_USE int join_start(struct supervisor *sup);
void join_stop(struct supervisor *sup); /* nobody new is dialed */
void join_wanted(struct join *j);       /* its program has asked for a VM */
/* Its session has ended. is_refused: by something that a person has to do. */
void join_ended(struct join *j, const char *why, bool is_refused);
void join_tell_vm(struct supervisor *sup, const struct wire_join *dial, const char *address);

/* keys.c */
TRK_MUST_USE int keys_start(struct supervisor *sup);
void keys_look(struct supervisor *sup); /* has the file changed? Then all get the new ones */
void keys_send(const struct supervisor *sup, int control); /* to a VM */
const struct auth_keys *keys_of(const struct supervisor *sup); /* NULL: plain */

/* memory.c */
void memory_start(struct supervisor *sup);

/* order.c: what a watcher asks for; is_local: of the same user on this machine. A sentence in
 * answer. Returns its enum trk_status. */
int order_obey(struct supervisor *sup, const struct wire_request *order, bool is_local,
               char *answer, size_t size);

/* offer.c: what this machine holds for a job. home and session are borrowed. NULL: out of memory */
struct offer;
struct offer *offer_new(const char *home, const uint8_t job[16], struct net_session *session);
void offer_free(struct offer *o); /* NULL is fine */
TRK_MUST_USE int offer_ask(struct offer *o, uint32_t stage); /* HELD_ASK */
void offer_done(struct offer *o, uint64_t token, bool is_to_delete); /* HELD_DONE */
void offer_look(struct offer *o); /* there may be new files */

/* output.c: what VMs print */
void output_read(struct vm_child *vm, size_t limit); /* at most about limit bytes */
size_t output_last(const struct vm_child *vm, char *text, size_t size); /* copies the last ones */
void output_last_line(const struct vm_child *vm, char *text, size_t size);

/* watch.c */
void watch_accept_unix(void *sup, int fd);
void watch_accept_tcp(void *sup, int fd);
/* Connects, and is watched. join_ended follows, after 0. */
TRK_MUST_USE int watch_dial(struct supervisor *sup, const char *address, struct join *join);
void watch_push(struct supervisor *sup, const struct vm_child *vm); /* the VM has changed */
void watch_output(const struct vm_child *vm, const void *text, size_t size);
void watch_death(struct supervisor *sup, const struct wire_death *death);
void watch_look_at_held(struct supervisor *sup); /* a VM has ended, and may have left something */
void watch_close_all(struct supervisor *sup);

#endif
