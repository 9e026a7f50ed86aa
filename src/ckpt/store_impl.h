/* SPDX-License-Identifier: MIT */
/* store_impl.h - the store inside: shared by store.c (life), queue.c (puts), commit.c (the
 * thread) and read.c (readers in this process). [m]: under mutex. [t]: the store thread's. */
#ifndef CKPT_STORE_IMPL_H
#define CKPT_STORE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "ckpt/lock.h"
#include "ckpt/store.h"

enum item_op { ITEM_RECORD, ITEM_RESULT, ITEM_DELETE, ITEM_FORGET, ITEM_PART, ITEM_DROP };

/* A value in parts: while a transaction runs now is ahead of durable. */
struct parts_progress {
    struct writer_parts now, durable; /* [t] */
    size_t offset_now, offset_durable; /* [t] bytes of the item's slices that are in parts */
};

struct ckpt_body {
    struct ckpt_store *store;
    struct parts_progress parts; /* [t] */
    uint64_t size;               /* the owner's: bytes added */
    uint32_t count;              /* the owner's: parts added */
};

struct item {
    struct list node;
    uint64_t ticket;
    enum item_op op;
    enum ckpt_kind kind;
    uint32_t stage;
    struct record_run run;
    struct blob *blob;           /* one reference, or NULL; slices not in it point behind key */
    struct ckpt_slice slices[CKPT_SLICES_MAX];
    unsigned slice_count;
    size_t size;                 /* of the slices */
    struct ckpt_body *body;      /* PART: it belongs to this; else owned: it is the value */
    struct parts_progress parts; /* [t] of a large value that came in one piece */
    size_t key_size;
    uint8_t key[];
};

struct ckpt_store {
    char *dir;
    struct ckpt_lock lock;
    struct ckpt_env env;         /* [t]; for readers under env_lock */
    pthread_rwlock_t env_lock;   /* written to by the store thread, when it opens env anew */
    struct list readers;         /* [m] struct ckpt_reader */
    void (*notify)(void *ctx);
    void *ctx;
    size_t queue_bytes_max;
    pthread_t thread;

    pthread_mutex_t mutex;
    pthread_cond_t wake;         /* the store thread waits here */
    pthread_cond_t done;         /* ckpt_store_wait */
    struct list queue;           /* [m] struct item */
    uint64_t last_ticket;        /* [m] */
    uint64_t queued_count;       /* [m] */
    uint64_t syncs, sync_ns;     /* [m] */
    bool is_stopping;            /* [m] */
    bool is_paused;              /* [m] */
    char text[512];              /* [m] why */
    atomic_size_t queued_bytes;
    atomic_uint_fast64_t durable;

    struct list taken;           /* [t] items of the queue that are not durable yet */
    size_t map_wanted;           /* [t] 0: as large as possible */
    size_t untrimmed;            /* [t] bytes written since the map was trimmed */
    unsigned failures;           /* [t] in a row */
    int last_fd;                 /* [t] see last.h; -1: none */
};

/* commit.c */
void *store_thread(void *store);
void item_free(struct item *item);
size_t item_bytes(const struct item *item); /* what it counts in queued_bytes */
/* Drops parts that no record owns. */
TRK_MUST_USE int store_drop_orphans(struct ckpt_env *env);
/* store.c: notes beside the store what it holds durably. */
void store_note_last(struct ckpt_store *s);
/* read.c: ends their transactions. Under the write side of env_lock. */
void readers_detach(struct ckpt_store *s);

#endif
