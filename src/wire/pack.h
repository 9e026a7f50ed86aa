/* SPDX-License-Identifier: MIT */
/* pack.h - plain structs <-> MessagePack maps, by tables that name each field once.
 *
 * Private to src/wire. Writing goes through msgpack-c. Reading does not: msgpack-c builds a tree
 * whose size follows the counts that the peer claims, whereas this reader walks the bytes once,
 * allocates nothing but the one array a table asks for, and never goes deeper than the tables do
 * (skipped values: PACK_DEPTH_MAX). */
#ifndef WIRE_PACK_H
#define WIRE_PACK_H

#include "base/buf.h"
#include "trickle/error.h"

#define PACK_DEPTH_MAX 16
#define PACK_ID_BYTES 16

enum pack_kind {
    PACK_BOOL,
    PACK_U32,
    PACK_U64,
    PACK_I32,
    PACK_ID,     /* uint8_t[16] */
    PACK_TEXT,   /* char[size], terminated; cut to fit when read */
    PACK_BYTES,  /* const void * at `at`, size_t at `count_at`; borrowed from the body when read */
    PACK_STRUCT, /* a map of its own: `layout` */
    PACK_ARRAY,  /* pointer at `at`, size_t at `count_at`: array of maps, made with mem_alloc */
};

struct pack_field {
    const char *key;
    enum pack_kind kind;
    size_t at;                        /* offset in the struct */
    size_t size;                      /* TEXT: of the field */
    size_t count_at;                  /* BYTES, ARRAY: offset of the count */
    const struct pack_layout *layout; /* STRUCT, ARRAY: of what is inside */
};

struct pack_layout {
    const struct pack_field *fields; /* all of them required when read */
    size_t count;                    /* at most 32 */
    size_t struct_bytes;
};

/* NULL: out of memory. */
struct blob *pack_encode(const struct pack_layout *layout, const void *value);
/* Fills *value, which is zeroed first. On an error nothing is left allocated and *value is zero
 * again. TRK_ECORRUPT, TRK_ENOMEM. */
TRK_MUST_USE int pack_decode(const struct pack_layout *layout, void *value,
                             const struct blob *body);

#endif
