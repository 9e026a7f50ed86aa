/* SPDX-License-Identifier: MIT */
/* queue.c - the owner's side of the store: puts become items of the queue. */
#include <assert.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/sys.h"
#include "ckpt/store_impl.h"

#define ITEM_COST 128 /* what an item costs beside its value, bytes, about */

void item_free(struct item *item)
{
    blob_unref(item->blob);
    mem_free(item);
}

size_t item_bytes(const struct item *item)
{
    return item->size + item->key_size + ITEM_COST;
}

/* Whether the value's blob holds this slice. */
static bool is_held(const struct ckpt_value *value, unsigned i)
{
    const uint8_t *at = value->slices[i].bytes;

    return value->blob != NULL && at >= value->blob->data &&
           at <= value->blob->data + value->blob->size;
}

/* An item with room for key and for the slices that no blob holds. */
static int item_new(struct item **out, enum item_op op, const void *key, size_t key_size,
                    const struct ckpt_value *value)
{
    size_t copied = 0, size = 0;
    struct item *item;

    if (value != NULL && value->body == NULL) {
        assert(value->count <= CKPT_SLICES_MAX);
        for (unsigned i = 0; i < value->count; i++) {
            if (__builtin_add_overflow(size, value->slices[i].size, &size)) {
                return TRK_ETOOBIG;
            }
        }
        if (size > CKPT_VALUE_MAX) {
            return TRK_ETOOBIG;
        }
        for (unsigned i = 0; i < value->count; i++) {
            copied += is_held(value, i) ? 0 : value->slices[i].size;
        }
    }
    item = mem_alloc(sizeof(*item) + key_size + copied);
    if (item == NULL) {
        return TRK_ENOMEM;
    }
    memset(item, 0, sizeof(*item));
    list_init(&item->node);
    item->op = op;
    item->key_size = key_size;
    if (key_size > 0) {
        memcpy(item->key, key, key_size);
    }
    item->size = size;
    if (size > 0) {
        uint8_t *at = item->key + key_size;
        memcpy(item->slices, value->slices, value->count * sizeof(value->slices[0]));
        item->slice_count = value->count;
        for (unsigned i = 0; i < value->count; i++) {
            if (is_held(value, i)) {
                continue;
            }
            if (value->slices[i].size > 0) {
                memcpy(at, value->slices[i].bytes, value->slices[i].size);
            }
            item->slices[i].bytes = at;
            at += value->slices[i].size;
        }
        item->blob = value->blob != NULL ? blob_ref(value->blob) : NULL;
    }
    *out = item;
    return 0;
}

/* Takes item. */
static void enqueue(struct ckpt_store *s, struct item *item, uint64_t *ticket)
{
    atomic_fetch_add(&s->queued_bytes, item_bytes(item));
    pthread_mutex_lock(&s->mutex);
    assert(!s->is_stopping);
    item->ticket = ++s->last_ticket;
    if (ticket != NULL) {
        *ticket = item->ticket;
    }
    s->queued_count++;
    /* The store thread sleeps only while the queue is empty; a paused one has its own clock. */
    if (list_is_empty(&s->queue)) {
        pthread_cond_signal(&s->wake);
    }
    list_push_back(&s->queue, &item->node);
    pthread_mutex_unlock(&s->mutex);
}

static bool is_run(const struct record_run *run)
{
    uint64_t end;

    return run->count > 0 && !__builtin_add_overflow(run->first, run->count, &end);
}

static int put(struct ckpt_store *s, struct item *item, struct ckpt_body *body, int rc,
               uint64_t *ticket)
{
    if (rc < 0) {
        if (body != NULL) {
            ckpt_body_drop(body);
        }
        return rc;
    }
    item->body = body;
    enqueue(s, item, ticket);
    return 0;
}

int ckpt_store_put_result(struct ckpt_store *s, uint32_t stage, const struct record_run *run,
                          const struct ckpt_value *value, uint64_t *ticket)
{
    struct item *item = NULL;
    int rc = TRK_EINVAL;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    if (is_run(run)) {
        rc = item_new(&item, ITEM_RESULT, NULL, 0, value);
    }
    if (rc == 0) {
        item->kind = CKPT_RESULT;
        item->stage = stage;
        item->run = *run;
    }
    return put(s, item, value->body, rc, ticket);
}

int ckpt_store_put_record(struct ckpt_store *s, enum ckpt_kind kind, const void *key,
                          size_t key_size, const struct ckpt_value *value, uint64_t *ticket)
{
    struct item *item = NULL;
    int rc = TRK_EINVAL;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    if (record_is_named(kind) && key_size > 0 && key_size <= RECORD_KEY_MAX) {
        rc = item_new(&item, ITEM_RECORD, key, key_size, value);
    }
    if (rc == 0) {
        item->kind = kind;
    }
    return put(s, item, value->body, rc, ticket);
}

int ckpt_store_delete(struct ckpt_store *s, enum ckpt_kind kind, const void *key, size_t key_size,
                      uint64_t *ticket)
{
    struct item *item;
    int rc;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    if (!record_is_named(kind) || key_size == 0 || key_size > RECORD_KEY_MAX) {
        return TRK_EINVAL;
    }
    rc = item_new(&item, ITEM_DELETE, key, key_size, NULL);
    if (rc == 0) {
        item->kind = kind;
        enqueue(s, item, ticket);
    }
    return rc;
}

int ckpt_store_forget(struct ckpt_store *s, uint32_t stage, const struct record_run *run,
                      uint64_t *ticket)
{
    struct item *item;
    int rc;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    if (!is_run(run)) {
        return TRK_EINVAL;
    }
    rc = item_new(&item, ITEM_FORGET, NULL, 0, NULL);
    if (rc == 0) {
        item->kind = CKPT_FORGET;
        item->stage = stage;
        item->run = *run;
        enqueue(s, item, ticket);
    }
    return rc;
}

/* --- values that arrive in parts ---------------- */

int ckpt_body_new(struct ckpt_store *s, struct ckpt_body **out)
{
    struct ckpt_body *body;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    body = mem_zalloc(1, sizeof(*body));
    if (body == NULL) {
        return TRK_ENOMEM;
    }
    body->store = s;
    *out = body;
    return 0;
}

int ckpt_body_add(struct ckpt_body *body, struct blob *blob, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    if (size > CKPT_VALUE_MAX - body->size) {
        return TRK_ETOOBIG;
    }
    while (size > 0) {
        size_t n = size < RECORD_PART_MAX ? size : RECORD_PART_MAX;
        struct ckpt_value value = {.blob = blob, .slices = {{at, n}}, .count = 1};
        struct item *item;
        int rc = item_new(&item, ITEM_PART, NULL, 0, &value);

        if (rc < 0) {
            return rc;
        }
        item->kind = CKPT_PART;
        item->body = body;
        enqueue(body->store, item, NULL);
        body->size += n;
        body->count++;
        at += n;
        size -= n;
    }
    return 0;
}

void ckpt_body_drop(struct ckpt_body *body)
{
    struct item *item;

    if (sys_is_forked()) {
        return;
    }
    if (body->count == 0) {
        mem_free(body);
        return;
    }
    if (item_new(&item, ITEM_DROP, NULL, 0, NULL) < 0) {
        return; /* its parts go when the store is opened again, its few bytes with the process */
    }
    item->kind = CKPT_PART;
    item->body = body;
    enqueue(body->store, item, NULL);
}

/* --- what has become of it ---------------- */

uint64_t ckpt_store_durable(const struct ckpt_store *s)
{
    return atomic_load(&s->durable);
}

bool ckpt_store_is_full(const struct ckpt_store *s)
{
    return atomic_load(&s->queued_bytes) >= s->queue_bytes_max;
}

void ckpt_store_poll(struct ckpt_store *s, struct ckpt_state *out)
{
    memset(out, 0, sizeof(*out));
    if (sys_is_forked()) {
        return;
    }
    pthread_mutex_lock(&s->mutex);
    out->durable = atomic_load(&s->durable);
    out->queued_bytes = atomic_load(&s->queued_bytes);
    out->queued_count = s->queued_count;
    out->syncs = s->syncs;
    out->sync_ns = s->sync_ns;
    out->is_paused = s->is_paused;
    if (s->is_paused) {
        memcpy(out->text, s->text, sizeof(out->text));
    }
    pthread_mutex_unlock(&s->mutex);
}

int ckpt_store_wait(struct ckpt_store *s, uint64_t ticket, int timeout_ms)
{
    struct timespec until;
    int rc = 0;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&s->mutex);
    while (rc == 0 && !s->is_paused && atomic_load(&s->durable) < ticket) {
        rc = timeout_ms < 0 ? pthread_cond_wait(&s->done, &s->mutex)
                            : pthread_cond_timedwait(&s->done, &s->mutex, &until);
    }
    rc = atomic_load(&s->durable) >= ticket ? 0 : TRK_AGAIN;
    pthread_mutex_unlock(&s->mutex);
    return rc;
}
