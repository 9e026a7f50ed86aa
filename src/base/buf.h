/* SPDX-License-Identifier: MIT */
/* buf.h - growable bytes to write into, and a bounded cursor to read from. Little endian. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/blob.h"

/* A writer that grows a blob. After a failed put has_failed stays true and later puts do
 * nothing: check once, at the end. */
struct buf {
    struct blob *blob; /* owned; NULL while empty */
    bool has_failed;   /* out of memory */
};

void buf_init(struct buf *b);
void buf_fini(struct buf *b);
/* Room for more further bytes; returns where they go (NULL: out of memory), size unchanged. */
uint8_t *buf_reserve(struct buf *b, size_t more);
void buf_put(struct buf *b, const void *bytes, size_t size);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v);
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
size_t buf_size(const struct buf *b);
/* Gives the bytes away as a blob (one reference) and leaves b empty; NULL if it has failed. An
 * empty buf gives an empty blob. */
struct blob *buf_take(struct buf *b);

/* A reader. After a read past the end has_failed stays true and reads give 0. */
struct cursor {
    const uint8_t *at, *end;
    bool has_failed;
};

void cursor_init(struct cursor *c, const void *bytes, size_t size);
size_t cursor_left(const struct cursor *c);
const uint8_t *cursor_get(struct cursor *c, size_t size); /* borrowed; NULL on failure */
uint8_t cursor_get_u8(struct cursor *c);
uint16_t cursor_get_u16(struct cursor *c);
uint32_t cursor_get_u32(struct cursor *c);
uint64_t cursor_get_u64(struct cursor *c);

/* Unaligned little-endian access. */
void le_store_u32(void *p, uint32_t v);
void le_store_u64(void *p, uint64_t v);
uint16_t le_load_u16(const void *p);
uint32_t le_load_u32(const void *p);
uint64_t le_load_u64(const void *p);

#endif
