/* SPDX-License-Identifier: MIT */
/* net.h - connections between the farm and VMs or supervisors, as src/net makes them.
 *
 * One way of a connection is two lanes at the sender (control messages overtake, src/net/outq.h),
 * a wire that takes time per byte, and packets under way, which arrive in order:
 *
 *    control ---\                        window
 *                +--> wire --> [packet][packet][packet] --> frames put together --> receiver
 *    bulk ------/
 *
 * A message is one packet; or, in schedules with frames, each of its frames is one, cut and put
 * together again by the production code, fed to it in random pieces. Who is stopped, cut off or
 * starting receives nothing; then packets wait, the window fills, and lanes grow. */
#ifndef SIM_NET_H
#define SIM_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/frame.h"

struct sim;

enum way { TO_VM, TO_FARM, WAY_COUNT };
enum end { END_FARM, END_VM, END_COUNT };
#define CONN_NONE UINT32_MAX

enum conn_kind {
    CONN_LEASE, /* farm to VM */
    CONN_WATCH  /* farm to supervisor */
};

/* How an end leaves. */
enum leave {
    LEAVE_FLUSH,  /* what it has sent arrives, then the end */
    LEAVE_ABRUPT, /* what is on its way arrives, then the end */
    LEAVE_SILENT  /* its machine is gone: not even the end arrives */
};

struct packet {
    struct packet *next;
    uint64_t arrives_ns;
    uint8_t type;
    uint32_t stream;
    bool is_end;                /* the other end has closed */
    bool is_started;            /* in a lane, with frames: cutter is in use */
    struct blob *body;          /* a message's, or the bytes of a frame */
    struct wire_cutter cutter;  /* of a message that is cut into frames */
};

struct queue {
    struct packet *first, *last;
    uint32_t count;
};

/* One way of a connection. */
struct pipe {
    struct queue control, bulk; /* not sent yet */
    struct queue flight;
    uint64_t free_ns;           /* when the wire has taken the last packet */
    uint64_t last_ns;           /* arrival of the last packet: no other is earlier */
    bool is_shut;               /* nothing more goes in: closed or broken */
    bool has_event;             /* EVENT_ARRIVE is due */
    bool is_waiting;            /* a packet has arrived, its receiver takes nothing now */
    bool has_pump;              /* EVENT_PUMP is due */
    struct wire_assembler *assembler;
};

struct conn {
    uint32_t id;
    enum conn_kind kind;
    uint32_t vm;                /* LEASE: whose; WATCH: which machine */
    bool is_open[END_COUNT];
    bool is_vanished;           /* the VM's machine went down: no end will ever arrive */
    bool is_live;               /* in net.live */
    bool is_deserted;           /* the farm's machine went down: no end has been sent */
    bool is_ghost;              /* of an earlier run of the job */
    bool is_given_back;         /* late: BYE was sent */
    bool is_late;               /* its VM was given up as silent; what still comes is taken */
    struct pipe pipe[WAY_COUNT];
};

struct net {
    struct conn **conns;        /* by id */
    uint32_t count, cap;
    uint32_t *live;             /* ids of those that are not closed at both ends */
    uint32_t live_count, live_cap;
    struct packet *spare;       /* to be used again */
    struct conn *feeding;       /* with frames: whose bytes are being put together */
    enum way feeding_way;
};

struct conn *net_connect(struct sim *s, enum conn_kind kind, uint32_t vm);
struct conn *net_conn(struct sim *s, uint32_t id);
/* Takes body. Returns 0, or TRK_ECLOSED when this end is closed. */
int net_send(struct sim *s, struct conn *c, enum way way, uint8_t type, uint32_t stream,
             struct blob *body);
void net_close(struct sim *s, struct conn *c, enum end end, enum leave how);
/* The connection breaks: a suffix of each way is lost, then both ends learn of it. */
void net_break(struct sim *s, struct conn *c);
/* A machine is back: what the other end, to which way goes, has open to it is refused. */
void net_refuse(struct sim *s, struct conn *c, enum way way);
/* The farm's process has died; is_power: its whole machine, which sends no end. */
void net_desert(struct sim *s, bool is_power);
/* After a hello: all messages are let through. */
void net_trust(struct conn *c, enum way way);
/* Somebody takes packets again: looks at all waiting ones. */
void net_kick(struct sim *s);
void net_on_arrive(struct sim *s, uint32_t id, enum way way);
void net_on_pump(struct sim *s, uint32_t id, enum way way);
void net_fini(struct sim *s);

#endif
