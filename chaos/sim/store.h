/* SPDX-License-Identifier: MIT */
/* store.h - the recorder: takes results, makes them safe in groups, says when.
 *
 * As in DESIGN: whatever queued up during the last sync goes into the next one; no timer. With
 * each group go the acknowledgements that may be sent once it is safe. Today it keeps results in
 * memory as src/ckpt does, and only its sync takes (virtual) time. */
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
    struct blob *body;                /* one reference; the pointers are into it */
    const uint8_t *statuses, *sizes, *payloads;
    size_t at;                        /* bytes of payloads taken */
};

/* What may be acknowledged when the group is safe. */
struct receipt {
    uint32_t vm;          /* the VM, or the spool */
    bool is_spool;
    uint64_t lease;       /* number of the VM's lease */
    uint64_t seq;
};

struct group {
    struct parcel *first, *last;
    size_t count;
    struct receipt *receipts;
    size_t receipt_count, receipt_cap;
};

struct store {
    struct group next;    /* gathers */
    struct group syncing;
    bool is_syncing;
    uint64_t syncs;
};

void store_put(struct sim *s, struct parcel *p); /* takes it */
void store_receipt(struct sim *s, const struct receipt *r);
/* The end of a turn: starts a sync if there is something and none is under way. */
void store_turn(struct sim *s);
void store_on_synced(struct sim *s);
void store_fini(struct sim *s);

void parcel_free(struct parcel *p);
uint32_t parcel_size(const struct parcel *p, uint32_t i); /* bytes of its result number i */

#endif
