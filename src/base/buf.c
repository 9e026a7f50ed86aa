/* SPDX-License-Identifier: MIT */
/* buf.c - a writer that grows one blob in place, and a reader that cannot leave its bytes.
 *
 * Both carry their failure along, so that a writer or parser reads as a list of fields with one
 * check at the end. Growth is by half: a gigabyte being collected wastes address space, not pages,
 * as the tail is untouched. */
#include "base/buf.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "base/mem.h"

#define CAP_MIN 128 /* most control messages fit without growing */

void buf_init(struct buf *b)
{
    b->blob = NULL;
    b->has_failed = false;
}

void buf_fini(struct buf *b)
{
    blob_unref(b->blob);
    buf_init(b);
}

/* A blob with room for cap bytes in the place of b's; false: out of memory, b's stays. */
static bool grow(struct buf *b, size_t cap)
{
    struct blob *blob;

    if (b->blob == NULL) {
        b->blob = blob_new(cap);
        return b->blob != NULL;
    }
    /* Nobody else may hold a blob that moves. */
    assert(atomic_load(&b->blob->refs) == 1);
    blob = mem_realloc(b->blob, sizeof(*blob) + cap);
    if (blob == NULL) {
        return false;
    }
    blob->cap = cap;
    b->blob = blob;
    return true;
}

uint8_t *buf_reserve(struct buf *b, size_t more)
{
    size_t size = buf_size(b), need, cap;

    if (b->has_failed) {
        return NULL;
    }
    if (__builtin_add_overflow(size, more, &need) || need > SIZE_MAX / 2 - sizeof(struct blob)) {
        b->has_failed = true;
        return NULL;
    }
    if (b->blob == NULL || need > b->blob->cap) {
        cap = size + size / 2;
        cap = cap < need ? need : cap;
        cap = cap < CAP_MIN ? CAP_MIN : cap;
        if (!grow(b, cap)) {
            b->has_failed = true;
            return NULL;
        }
    }
    return b->blob->data + size;
}

void buf_put(struct buf *b, const void *bytes, size_t size)
{
    uint8_t *to = buf_reserve(b, size);

    if (to != NULL && size != 0) {
        memcpy(to, bytes, size);
        b->blob->size += size;
    }
}

/* The low size bytes of v, lowest first. */
static void put_le(struct buf *b, uint64_t v, size_t size)
{
    uint8_t bytes[8];

    le_store_u64(bytes, v);
    buf_put(b, bytes, size);
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    put_le(b, v, 1);
}

void buf_put_u16(struct buf *b, uint16_t v)
{
    put_le(b, v, 2);
}

void buf_put_u32(struct buf *b, uint32_t v)
{
    put_le(b, v, 4);
}

void buf_put_u64(struct buf *b, uint64_t v)
{
    put_le(b, v, 8);
}

size_t buf_size(const struct buf *b)
{
    return b->blob != NULL ? b->blob->size : 0;
}

struct blob *buf_take(struct buf *b)
{
    struct blob *blob = NULL;

    if (!b->has_failed) {
        blob = b->blob != NULL ? b->blob : blob_new(0);
        b->blob = NULL;
    }
    buf_fini(b);
    return blob;
}

void cursor_init(struct cursor *c, const void *bytes, size_t size)
{
    c->at = bytes;
    /* NULL + 0 is undefined in C, and an empty message may well be (NULL, 0). */
    c->end = size != 0 ? c->at + size : c->at;
    c->has_failed = false;
}

size_t cursor_left(const struct cursor *c)
{
    return c->has_failed ? 0 : (size_t)(c->end - c->at);
}

const uint8_t *cursor_get(struct cursor *c, size_t size)
{
    static const uint8_t nothing[1];
    const uint8_t *at = c->at;

    if (c->has_failed || size > (size_t)(c->end - c->at)) {
        c->has_failed = true;
        return NULL;
    }
    if (size == 0) {
        return at != NULL ? at : nothing; /* NULL is kept for failure */
    }
    c->at += size;
    return at;
}

uint8_t cursor_get_u8(struct cursor *c)
{
    const uint8_t *at = cursor_get(c, 1);

    return at != NULL ? *at : 0;
}

uint16_t cursor_get_u16(struct cursor *c)
{
    const uint8_t *at = cursor_get(c, 2);

    return at != NULL ? le_load_u16(at) : 0;
}

uint32_t cursor_get_u32(struct cursor *c)
{
    const uint8_t *at = cursor_get(c, 4);

    return at != NULL ? le_load_u32(at) : 0;
}

uint64_t cursor_get_u64(struct cursor *c)
{
    const uint8_t *at = cursor_get(c, 8);

    return at != NULL ? le_load_u64(at) : 0;
}

/* Stores through the host's order: GCC 12 leaves a loop of single bytes a loop, and these are in
 * every message and record. Its loads it does see through. */
void le_store_u32(void *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

void le_store_u64(void *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof(v));
}

uint16_t le_load_u16(const void *p)
{
    const uint8_t *from = p;

    return (uint16_t)(from[0] | from[1] << 8);
}

uint32_t le_load_u32(const void *p)
{
    const uint8_t *from = p;

    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

uint64_t le_load_u64(const void *p)
{
    const uint8_t *from = p;

    return le_load_u32(from) | (uint64_t)le_load_u32(from + 4) << 32;
}
