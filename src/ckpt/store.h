/* SPDX-License-Identifier: MIT */
/* store.h - a job's durable store: hand records over, hear when they are safe.
 *
 *   ckpt_store_put_*  ->  queue  ->  store thread: one transaction of all that queued up during
 *   the last sync  ->  notify()  ->  ckpt_store_poll: everything up to this ticket is durable
 *
 * Tickets count up in the order of the puts, and transactions hold them in that order: when a
 * result is durable, so is every record put before it. There is no timer and no waiting.
 *
 * When the disk is full or a sync fails the store is paused: what is not durable yet is kept, put
 * again into an environment opened anew, and goes on by itself when there is room. Nothing is
 * refused meanwhile; whoever puts looks at ckpt_store_is_full before it takes on more.
 *
 * Any thread may call what does not say otherwise. After a fork the child gets TRK_EFORKED. */
#ifndef CKPT_STORE_H
#define CKPT_STORE_H

#include <stdbool.h>

#include "base/blob.h"
#include "ckpt/record.h"
#include "ckpt/salvage.h"
#include "ckpt/write.h"

/* A result of 1 GiB, and what stands around it. */
#define CKPT_VALUE_MAX (((uint64_t)1 << 30) + ((uint64_t)1 << 20))
#define CKPT_SLICES_MAX 4

struct ckpt_store;
struct ckpt_body; /* a value that arrives in parts */

struct ckpt_store_options {
    const char *dir;           /* the job's own, see home.h; made when missing */
    const char *helper;        /* trickle-fsck; NULL: $TRICKLE_FSCK, else where it is installed */
    void (*notify)(void *ctx); /* on the store thread: something has changed, call poll; or NULL */
    void *ctx;
    size_t queue_bytes;        /* full above this; 0: 64 MiB */
    bool is_trusted;           /* tests: open what is there without checking it */
};

/* What opening found. */
struct ckpt_opened {
    bool is_new;         /* there was no store */
    bool was_clean;      /* it was closed in order and nothing has touched it since */
    bool is_salvaged;    /* it was damaged: see lost */
    uint32_t epoch;      /* this writer's, durable already: higher than any before */
    uint8_t uuid[RECORD_UUID];
    struct ckpt_salvaged lost;
    char text[1024];     /* sentences for a person about what was found; "" when all is well */
};

/* Takes the lock, checks the store after an unclean end (salvages it when it is damaged), raises
 * the epoch and syncs it. 0; TRK_EDENIED: locked, fail_text says by whom; TRK_EFULL: no room;
 * others: fail_text. */
TRK_MUST_USE int ckpt_store_open(struct ckpt_store **out, const struct ckpt_store_options *opt,
                                 struct ckpt_opened *opened);
/* Makes what was put durable, closes in order, gives the lock back. TRK_EIO: paused, so the rest
 * is not durable (closed all the same). notify is not called any more. NULL is fine. */
int ckpt_store_close(struct ckpt_store *s);

/* Bytes in up to CKPT_SLICES_MAX pieces, which follow each other in the record. */
struct ckpt_value {
    struct blob *blob; /* holds slices: a reference is taken until durable. Those that are not in
                          it, and all when it is NULL, are copied */
    struct ckpt_slice slices[CKPT_SLICES_MAX];
    unsigned count;
    struct ckpt_body *body; /* instead of slices: taken, even after an error */
};

/* Results of count elements from first on, of which failed are failures. TRK_ETOOBIG,
 * TRK_EINVAL, TRK_ENOMEM: nothing was put. */
TRK_MUST_USE int ckpt_store_put_result(struct ckpt_store *s, uint32_t stage,
                                       const struct record_run *run,
                                       const struct ckpt_value *value, uint64_t *ticket);
/* Any other record; one of the same kind and key is replaced. Not CKPT_RESULT, FORGET, PART and
 * what is derived. Keys: up to RECORD_KEY_MAX bytes, not empty; for kinds with numbers see
 * ckpt_key. */
TRK_MUST_USE int ckpt_store_put_record(struct ckpt_store *s, enum ckpt_kind kind, const void *key,
                                       size_t key_size, const struct ckpt_value *value,
                                       uint64_t *ticket);
/* No error when there is none. A salvage may bring back what was deleted. */
TRK_MUST_USE int ckpt_store_delete(struct ckpt_store *s, enum ckpt_kind kind, const void *key,
                                   size_t key_size, uint64_t *ticket);
/* The results of these elements do not count any more: they may be recorded anew. */
TRK_MUST_USE int ckpt_store_forget(struct ckpt_store *s, uint32_t stage,
                                   const struct record_run *run, uint64_t *ticket);

/* A large value whose bytes are stored as they arrive. One thread at a time per body; it ends in a
 * ckpt_value or in ckpt_body_drop. What no record ends up owning is dropped, at the latest when
 * the store is opened the next time. */
TRK_MUST_USE int ckpt_body_new(struct ckpt_store *s, struct ckpt_body **out);
TRK_MUST_USE int ckpt_body_add(struct ckpt_body *body, struct blob *blob, const void *bytes,
                               size_t size);
void ckpt_body_drop(struct ckpt_body *body);

struct ckpt_state {
    uint64_t durable;      /* tickets up to this one */
    size_t queued_bytes;   /* not durable yet */
    uint64_t queued_count;
    uint64_t syncs;        /* transactions committed */
    uint64_t sync_ns;      /* spent in their commits */
    bool is_paused;        /* see text: nothing becomes durable until it goes on by itself */
    char text[512];
};
void ckpt_store_poll(struct ckpt_store *s, struct ckpt_state *out);
/* Cheap: tickets up to this one are durable. */
uint64_t ckpt_store_durable(const struct ckpt_store *s);
bool ckpt_store_is_full(const struct ckpt_store *s);
/* Waits until the ticket is durable. 0; TRK_AGAIN: timeout (-1: none), or paused. */
TRK_MUST_USE int ckpt_store_wait(struct ckpt_store *s, uint64_t ticket, int timeout_ms);

/* (stage, number) as a key of CKPT_WORK, ELEMENTS, FAILURE, ATTEMPT, STATE. */
static inline void ckpt_key(uint8_t key[KEY_STAGE_NUMBER], uint32_t stage, uint64_t number)
{
    key_put_u32(key, stage);
    key_put_u64(key + 4, number);
}

#endif
