/* SPDX-License-Identifier: MIT */
/* farm.h - the initiator: what src/farm/lease.c and src/farm/drive.c do, around the production
 * scheduler.
 *
 *   slot: FREE --the supervisor says idle--> TRYING --WELCOME--> HELD
 *          ^                                   | refused           | connection ends, silence
 *          +-----------------------------------+-- death report ---+
 *
 * A message is stepped when it comes; at the end of the turn the store starts a sync, and only
 * when that is done RECORDED is stepped, results are delivered and VMs are told to let go. */
#ifndef SIM_FARM_H
#define SIM_FARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sched/sched.h"
#include "wire/msg.h"

struct sim;
struct conn;
struct group;
struct wire_held;

enum slot_state { SLOT_FREE, SLOT_TRYING, SLOT_HELD };

/* The place of a VM, whatever process is there. */
struct slot {
    enum slot_state state;
    uint32_t conn;             /* TRYING, HELD and until the loss is dealt with; or CONN_NONE */
    enum trk_vm_state said;    /* by its supervisor, last */
    bool is_joined;            /* the scheduler knows it */
    bool is_down;              /* its connection has ended, the death report is waited for */
    bool has_death;
    bool is_draining;          /* the scheduler was told so */
    bool is_suspect;           /* it is silent */
    bool is_held_back;         /* the scheduler was told so, or that the disk is full */
    bool is_leaving;           /* it goes back when it has nothing any more */
    bool is_given_back;        /* BYE was sent */
    bool has_said_bye;         /* BYE came: it leaves in order */
    uint8_t incarnation[16];   /* of the VM, from WELCOME */
    struct wire_death death;
    uint64_t lease;            /* counts leases: tells incarnations apart */
    uint64_t seq_acked;
    uint64_t retry_ns;         /* not tried again before */
    uint32_t refusals;         /* in a row */
    uint32_t told;             /* stages, a bit each, under this lease */
    uint32_t unserved;         /* stages that were taken from it */
    uint32_t calls;            /* requests not answered */
};

/* A held result whose element has not been added yet. */
struct early {
    uint32_t conn;
    struct blob *body;
};

struct farm {
    bool is_alive;             /* there is a process */
    bool is_open;              /* its epoch is durable: it may meet VMs */
    bool is_dying;             /* nothing leaves it any more */
    bool is_full;              /* its store cannot write */
    bool is_idle;              /* so all VMs were told to get nothing new */
    uint32_t dies_in;          /* so many things leave it before it dies; 0: it does not */
    uint64_t epoch;            /* of this run of the job */
    struct early *early;
    uint32_t early_count;
    struct sched *sched;
    struct slot *slots;        /* by VM */
    struct blob *hello;
    uint32_t open;             /* stages that the scheduler knows, a bit each */
    bool is_paused;            /* its process does not run */
    uint64_t paused_until_ns;
    bool has_turn;             /* EVENT_FARM_TURN is due */
    uint64_t wake_ns;          /* from the scheduler; 0: none */
    uint32_t leaving;          /* VMs that go back when they have nothing any more */
    bool is_closing;           /* all VMs are being given back */
};

/* A process begins: opens the store. When its epoch is durable it opens for the program. */
void farm_start(struct sim *s);
void farm_opened(struct sim *s);
void farm_fini(struct sim *s);
/* Gives all VMs back: the program has ended. */
void farm_close(struct sim *s);

/* For the program. stage: from 0. */
void farm_open_stage(struct sim *s, uint32_t stage);
/* Adds the stage's elements from first on. Returns how many there was room for. */
uint64_t farm_add(struct sim *s, uint32_t stage, uint64_t first, uint64_t count);
void farm_close_input(struct sim *s, uint32_t stage);
void farm_taken(struct sim *s, uint32_t stage, uint64_t first, uint64_t count);
void farm_cancel(struct sim *s, uint32_t stage); /* also: it is finished, forget it */

/* From the network and the store. */
void farm_on_message(struct sim *s, struct conn *c, struct wire_message *msg); /* takes the body */
void farm_on_close(struct sim *s, struct conn *c);
void farm_on_recorded(struct sim *s, struct group *group); /* takes the parcels */

/* Events. */
void farm_on_silent(struct sim *s, uint32_t vm, uint32_t conn);
void farm_on_loss(struct sim *s, uint32_t vm, uint64_t lease);
void farm_on_retry(struct sim *s, uint32_t vm);
void farm_on_suspect(struct sim *s, uint32_t vm, bool is_suspect);
void farm_on_late(struct sim *s, uint32_t vm, uint32_t conn);
void farm_on_unblock(struct sim *s, uint32_t vm);
void farm_on_turn(struct sim *s);
void farm_touch(struct sim *s); /* a turn is due */
void farm_resume(struct sim *s); /* its process runs again */

/* Faults. */
void farm_unserve(struct sim *s, uint32_t vm, uint32_t stage, bool is_serving);
void farm_drain(struct sim *s, uint32_t vm);
void farm_ask_back(struct sim *s, uint32_t vm); /* a part of what it has, as nobody would */
void farm_call(struct sim *s, uint32_t vm);
void farm_forge(struct sim *s); /* a report that cannot be true reaches it */
void farm_ghost(struct sim *s, uint32_t vm); /* an earlier run of the job asks for the VM */

/* held.c */
void held_ask(struct sim *s, uint32_t stage);      /* the stage was opened */
void held_on_message(struct sim *s, struct conn *c, const struct blob *body);
void held_early(struct sim *s);                    /* elements were added, or there are no more */
void held_done(struct sim *s, uint32_t conn, uint64_t token, bool is_delete);
void held_drop(struct sim *s);                     /* the process ends */
/* farm.c, for it: steps a result from an earlier lease. */
void farm_hand_over(struct sim *s, const struct wire_held *h);
uint64_t farm_added(const struct sim *s, uint32_t number); /* elements of an open stage */
bool farm_has_open(const struct sim *s, uint32_t number);
bool farm_has_closed(const struct sim *s, uint32_t number); /* nothing will be added */

/* lease.c, for farm.c and back. */
void lease_fill(struct sim *s, uint32_t vm);
void lease_end(struct sim *s, uint32_t vm);
void lease_end_leaving(struct sim *s); /* the end of a turn */
void lease_on_welcome(struct sim *s, struct conn *c, struct wire_message *msg);
void lease_on_watch(struct sim *s, struct conn *c, struct wire_message *msg);
void lease_session_ends(struct sim *s, uint32_t vm);
int drive_step(struct sim *s, const struct sched_event *ev);
void drive_vm_joined(struct sim *s, uint32_t vm);
void drive_vm_lost(struct sim *s, uint32_t vm, enum sched_cause cause,
                   const struct wire_death *death);
void drive_vm_draining(struct sim *s, uint32_t vm);
void drive_vm_suspect(struct sim *s, uint32_t vm, bool is_suspect);
void farm_on_disk(struct sim *s, bool is_full); /* the store cannot write, or can again */

#endif
