/* SPDX-License-Identifier: MIT */
/* vm.h - machines, their supervisors, and VMs: a process each, with the production agent in it.
 *
 *   down --EVENT_VM_READY--> up, free --HELLO--> leased --BYE, connection lost--> down
 *                                       runs, holds      --drained, killed-----> down
 *
 * What vm/host_net.c and vm/host_compute.c do with threads and sockets is done here step by step:
 * one job at a time, results gathered and flushed by the same rules, each message held before it
 * is sent. When its farm has gone a VM finishes what runs and its supervisor keeps what it holds
 * (held.c), or, without the fault handover, that is lost with it. */
#ifndef SIM_VM_H
#define SIM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net.h"
#include "vm/agent.h"

struct sim;

/* A result that its supervisor keeps for a farm that has gone. */
struct held_item {
    uint32_t vm;
    uint32_t stage, attempt;
    uint64_t index;
    uint64_t epoch;             /* of the lease it was made under */
    uint8_t status;
    struct digest element;
    uint8_t fingerprint[16];
    struct blob *body;          /* one reference; payload is in it */
    const uint8_t *payload;
    size_t size;
    bool is_foreign;            /* nobody may take it */
    bool is_ready;              /* may be handed over */
    bool is_sent;               /* since it was asked for */
    bool is_gone;               /* deleted */
};

struct machine {
    bool is_cut[WAY_COUNT]; /* nothing gets through this way */
    bool is_down;           /* reset, and not up again */
    uint32_t watch;         /* connection of its supervisor with the farm, or CONN_NONE */
    uint32_t asked;         /* stages whose held results the farm wants, a bit each */
    struct held_item *held; /* on its disk; a token is an index + 1 */
    uint32_t held_count, held_cap;
};

/* Results that are computed and not sent yet. */
struct results {
    uint32_t stage, attempt, count;
    uint64_t first, busy_ns;
    size_t bytes, cap, bytes_cap;
    uint8_t *statuses;
    uint32_t *sizes;
    uint8_t *payloads;
    struct digest *digests; /* of the elements' bytes */
    bool is_durable;        /* they outlive the lease */
};

/* A RESULT message that was sent and not acknowledged: our own book, apart from the agent's. */
struct unacked {
    uint64_t seq;
    struct blob *body;
    bool is_durable;
};

struct vm {
    uint32_t number;
    uint64_t life;            /* counts its processes */
    bool is_up;               /* its process accepts connections */
    bool is_stopped;          /* SIGSTOP */
    bool is_draining;         /* ends after what runs */
    enum wire_end leaving;    /* why, then */
    bool is_orphan;           /* its lease is lost, it finishes what runs and hands it over */
    bool is_away;             /* has left, comes back later */
    unsigned blocks;          /* reasons why it is not heard: stopped, cut off */
    uint64_t blocked_ns;      /* since when */
    struct agent *agent;
    uint32_t conn;            /* the holder's or CONN_NONE */
    uint32_t slow_percent;    /* of the ordinary duration of an element */

    struct agent_job job;     /* is_busy: what it does */
    bool is_busy;
    bool is_killing;          /* the element will end its process */
    bool is_hanging;          /* it will not end */
    bool is_endless;          /* nor will anybody end it */
    bool is_interrupted;      /* it was called off, and gives up */
    bool is_moving;           /* it goes on elsewhere */
    uint64_t jobs;            /* counts jobs */
    uint64_t step;            /* counts EVENT_VM_STEP: others are void */
    uint64_t started_ns, ends_ns;
    uint32_t run;             /* number of this run of the element, from the judge */
    uint32_t elements_done;   /* in this life */
    uint32_t opened, cancelled; /* stages, a bit each, under this lease */

    struct agent_fence fences[AGENT_FENCES]; /* its supervisor's: they outlive the process */
    struct results results;
    uint64_t flushed_ns;
    struct unacked *unacked;  /* oldest first, from unacked_head on */
    uint32_t unacked_head, unacked_count, unacked_cap;
};

struct vms {
    struct vm *all;
    struct machine *machines;
    uint32_t count, machine_count;
    struct blob **reports; /* encoded deaths; taken when sent */
    uint32_t report_count;
    uint32_t touched;      /* whose agent the event under way has changed, or UINT32_MAX */
};

void vms_start(struct sim *s);
void vms_fini(struct sim *s);
struct vm *vm_get(struct sim *s, uint32_t number);
uint32_t vm_machine(const struct sim *s, uint32_t number);
bool vm_takes_packets(struct sim *s, const struct conn *c);

/* Events. */
void vm_on_ready(struct sim *s, uint32_t number, uint64_t life);
void vm_on_step(struct sim *s, uint32_t number, uint64_t step);
void vm_on_hung(struct sim *s, uint32_t number, uint64_t job);
void vm_on_late(struct sim *s, uint32_t number, uint64_t job);
void vm_on_silent(struct sim *s, uint32_t number, uint32_t conn);
void vm_on_message(struct sim *s, struct conn *c, struct wire_message *msg); /* takes the body */
void vm_on_close(struct sim *s, struct conn *c);
void vm_on_death(struct sim *s, uint32_t machine, uint32_t report);

/* What befalls a VM. */
void vm_kill(struct sim *s, struct vm *vm, int signal);
void vm_stop(struct sim *s, struct vm *vm);
void vm_continue(struct sim *s, struct vm *vm);
void vm_drain(struct sim *s, struct vm *vm, bool is_leaving);
void vm_return(struct sim *s, struct vm *vm);             /* one that is away comes back */
void machine_cut(struct sim *s, uint32_t machine, enum way way, bool is_cut);
void machine_reset(struct sim *s, uint32_t machine);
void machine_return(struct sim *s, uint32_t machine);

/* A farm has come: connects it with all supervisors. */
void vms_watch(struct sim *s);

/* held.c: the supervisor's half. */
/* Keeps the results of a message. Returns how many items that are, foreign ones not counted. */
uint32_t spool_add(struct sim *s, const struct vm *vm, const struct agent_kept *kept);
void spool_on_ready(struct sim *s, uint32_t machine, uint64_t which); /* which: end << 32 | first */
void spool_push(struct sim *s, uint32_t machine);
void spool_delete(struct sim *s, struct held_item *item);
void spool_on_message(struct sim *s, struct conn *c, struct wire_message *msg);
void spool_fini(struct machine *m);
/* After an event: the agent that it changed against our own book. */
void vm_check(struct sim *s, uint32_t number);

/* compute.c: what a VM computes. */
void compute(struct sim *s, struct vm *vm);          /* takes the next job if it is free */
/* What runs of these elements, or of the stage, is called off. */
void compute_interrupt(struct sim *s, struct vm *vm, const struct wire_note *note);
/* It leaves: what runs may stop in the middle, to go on elsewhere. */
void compute_move(struct sim *s, struct vm *vm);
void compute_drop(struct vm *vm);                    /* its process is gone */
void compute_hold(struct sim *s, struct vm *vm);     /* holds what is gathered, sends if it can */
void compute_fini(struct vm *vm);
/* What an element's bytes and results are made of. */
#define ELEMENT_HEAD 16
#define RESULT_HEAD 16
uint64_t element_mark(const struct sim *s, uint32_t stage, uint64_t index);
void element_write(const struct sim *s, uint32_t stage, uint64_t index, uint8_t *to);
struct digest element_digest(const struct sim *s, uint32_t stage, uint64_t index);
void stage_fingerprint(const struct sim *s, uint32_t stage, uint8_t out[16]); /* of its code */
uint64_t result_mark(const struct sim *s, uint32_t stage, uint64_t index, uint32_t run);

/* In vm.c, for compute.c. */
void vm_die(struct sim *s, struct vm *vm, int signal, enum wire_end end);
void vm_leave(struct sim *s, struct vm *vm); /* drained: its results are out, it ends */
void vm_orphan_done(struct sim *s, struct vm *vm);

#endif
