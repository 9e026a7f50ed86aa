/* SPDX-License-Identifier: MIT */
/* store.h - the store: takes results, makes them durable in groups, says when; and the disk that
 * outlives the farm's process.
 *
 * As in DESIGN: whatever queued up during the last sync goes into the next one; no timer. With
 * each group go the acknowledgements that may be sent once it is durable.
 *
 *   next --store_turn--> syncing --sync--> disk: durable --> farm_on_recorded
 *    ^                    | | the process dies
 *    +---sync failed------+ +--> nothing of it is on disk, or a torn part, or all of it
 *                                                 (nobody sees that) (visible, not durable)
 *
 * What is visible and not durable is durable with the next sync: so a run of the job syncs its
 * number, the epoch, before it does anything, and only then believes what it reads.
 *
 * Elements whose bytes are kept are not modelled: they go to the disk before the work record that
 * makes them known, and nothing that scheduler, agents or messages do depends on them. That order
 * is looked at where transactions are real, in tests/ckpt/test_crash.c. */
#ifndef SIM_STORE_H
#define SIM_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim;
struct blob;

/* A run of results of one message. */
struct parcel {
    struct parcel *next;
    uint32_t stage;                   /* from 0 */
    uint32_t attempt;
    uint64_t first;
    uint32_t count, taken;            /* taken: by the program */
    bool is_given_up;                 /* made here: the element had its share of deaths */
    bool is_restored;                 /* read from the disk: the scheduler knows it as delivered */
    struct blob *body;                /* one reference; the pointers are into it */
    const uint8_t *statuses, *sizes, *payloads;
    size_t at;                        /* bytes of payloads taken */
};

/* What may be acknowledged when the group is safe. */
struct receipt {
    uint32_t vm;          /* the VM; HELD: the connection with its supervisor */
    bool is_held;         /* it was handed over by a supervisor */
    uint64_t lease;       /* number of the VM's lease */
    uint64_t seq;         /* of the message; HELD: its token */
};

/* One transaction. */
struct group {
    struct parcel *first, *last;
    size_t count;
    struct receipt *receipts;
    size_t receipt_count, receipt_cap;
    uint64_t added[4];    /* elements of each stage that were added, at least */
    uint64_t epoch;       /* of the run that begins; 0: none does */
};

enum record_state {
    RECORD_NONE,
    RECORD_TORN,    /* of a transaction that was not finished: must never be seen */
    RECORD_VISIBLE, /* of one that was, but was not synced */
    RECORD_DURABLE
};

/* The result of one element on disk. */
struct record {
    enum record_state state;
    bool is_given_up;
    uint32_t attempt;
    uint64_t group;                   /* number of its transaction */
    struct blob *body;                /* one reference; the pointers are into it */
    const uint8_t *status, *size, *payload;
};

struct disk {
    struct record *records[4];        /* by stage and element */
    uint64_t added[4];                /* likewise visible */
    uint64_t epoch;                   /* of the last run that is durable */
    bool is_full;
};

struct store {
    struct disk disk;
    struct group next;    /* gathers */
    struct group syncing;
    bool is_syncing;
    uint64_t retry_ns;    /* no sync before: the last one failed */
    uint64_t syncs;       /* transactions that were begun */
    bool has_visible;     /* something may be visible and not durable */
    uint64_t lost_from;   /* while the machine goes down: these transactions are lost */
};

/* A new process opens the store: reads what is visible, and begins to sync the epoch. */
void store_open(struct sim *s, uint64_t epoch);
/* Its process dies; is_power: and the machine goes down. */
void store_crash(struct sim *s, bool is_power);
/* Elements of a stage up to this one were added. */
void store_put_work(struct sim *s, uint32_t stage, uint64_t added);
void store_put(struct sim *s, struct parcel *p); /* takes it */
void store_receipt(struct sim *s, const struct receipt *r);
/* The end of a turn: starts a sync if there is something and none is under way. */
void store_turn(struct sim *s);
void store_on_synced(struct sim *s);
/* The recorded result of an element as a parcel, or NULL. */
struct parcel *store_read(struct sim *s, uint32_t stage, uint64_t index);
bool store_has(const struct sim *s, uint32_t stage, uint64_t index);
void store_disk_full(struct sim *s, bool is_full);
void store_start(struct sim *s);
void store_fini(struct sim *s);

void parcel_free(struct parcel *p);
uint32_t parcel_size(const struct parcel *p, uint32_t i); /* bytes of its result number i */

#endif
