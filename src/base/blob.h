/* SPDX-License-Identifier: MIT */
/* blob.h - a reference-counted piece of bytes: the currency in which payloads travel from the
 * socket to whoever needs them, without copies. Counting is atomic; the bytes belong to one
 * writer until the blob is shared. */
#ifndef BASE_BLOB_H
#define BASE_BLOB_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct blob {
    atomic_uint refs;
    size_t size; /* bytes used; at most cap */
    size_t cap;  /* bytes allocated */
    uint8_t data[];
};

/* A blob of size 0 with room for cap bytes, one reference for the caller; NULL: out of memory. */
struct blob *blob_new(size_t cap);
struct blob *blob_dup(const void *bytes, size_t size);
/* Gives back the room that is not used; only while nobody else holds it. *blob may move. */
void blob_trim(struct blob **blob);
struct blob *blob_ref(struct blob *blob);
void blob_unref(struct blob *blob); /* NULL is fine */

#endif
