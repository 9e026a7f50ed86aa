/* SPDX-License-Identifier: MIT */
/* blob.c - header and bytes in one allocation. The bytes are never cleared here: a large blob is
 * made of fresh pages that cost nothing until somebody writes to them. */
#include "base/blob.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

struct blob *blob_new(size_t cap)
{
    struct blob *blob;

    if (cap > SIZE_MAX - sizeof(*blob)) {
        return NULL;
    }
    blob = mem_alloc(sizeof(*blob) + cap);
    if (blob == NULL) {
        return NULL;
    }
    atomic_init(&blob->refs, 1);
    blob->size = 0;
    blob->cap = cap;
    return blob;
}

struct blob *blob_dup(const void *bytes, size_t size)
{
    struct blob *blob = blob_new(size);

    if (blob != NULL && size != 0) {
        memcpy(blob->data, bytes, size);
        blob->size = size;
    }
    return blob;
}

void blob_trim(struct blob **blob)
{
    struct blob *moved;

    assert(atomic_load_explicit(&(*blob)->refs, memory_order_relaxed) == 1);
    moved = mem_realloc(*blob, sizeof(*moved) + (*blob)->size);
    if (moved != NULL) {
        moved->cap = moved->size;
        *blob = moved;
    }
}

struct blob *blob_ref(struct blob *blob)
{
    unsigned before = atomic_fetch_add_explicit(&blob->refs, 1, memory_order_relaxed);

    assert(before > 0);
    return blob;
}

void blob_unref(struct blob *blob)
{
    unsigned before;

    if (blob == NULL) {
        return;
    }
    /* Release: what this holder did to the bytes is done before; acquire: before they go away. */
    before = atomic_fetch_sub_explicit(&blob->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before == 1) {
        mem_free(blob);
    }
}
