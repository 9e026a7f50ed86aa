/* SPDX-License-Identifier: MIT */
/* pack.c - the MessagePack half of message bodies.
 *
 * The reader takes what MessagePack allows (an integer in any width, text as str or bin) but is
 * strict about meaning: a value of the wrong type or out of the field's range, a key that comes
 * twice, a field that is missing or bytes behind the end make the whole body corrupt. Failure
 * travels in the cursor, as in base/buf.h: after it every read gives 0 and every loop ends. */
#include "pack.h"

#include <assert.h>
#include <limits.h>
#include <msgpack/pack.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"

/* The least that a map in an array takes: one byte of header and, per field, a key of one byte
 * with its header and a value of one byte. Bounds what an array's count may make us allocate. */
#define FIELD_BYTES_MIN 3

/* Pointers to structs whose type is not known here: as bytes, for aliasing's sake. */
static void *load_pointer(const uint8_t *at)
{
    void *pointer;

    memcpy(&pointer, at, sizeof(pointer));
    return pointer;
}

static void store_pointer(uint8_t *at, const void *pointer)
{
    memcpy(at, &pointer, sizeof(pointer));
}

/* --- writing ----------------------------------------------------------------------------- */

static int put_bytes(void *data, const char *bytes, size_t size)
{
    struct buf *b = data;

    buf_put(b, bytes, size);
    return b->has_failed ? -1 : 0;
}

static void encode_struct(msgpack_packer *pk, const struct pack_layout *layout,
                          const uint8_t *value);

static void encode_array(msgpack_packer *pk, const struct pack_field *f, const uint8_t *items,
                         size_t count)
{
    msgpack_pack_array(pk, count);
    for (size_t i = 0; i < count; i++) {
        encode_struct(pk, f->layout, items + i * f->layout->struct_bytes);
    }
}

/* Return values are not looked at: the buf behind the packer keeps its failure. */
static void encode_field(msgpack_packer *pk, const struct pack_field *f, const uint8_t *value)
{
    const uint8_t *at = value + f->at;
    size_t count;

    switch (f->kind) {
    case PACK_BOOL:
        *(const bool *)at ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
        break;
    case PACK_U32:
        msgpack_pack_uint32(pk, *(const uint32_t *)at);
        break;
    case PACK_U64:
        msgpack_pack_uint64(pk, *(const uint64_t *)at);
        break;
    case PACK_I32:
        msgpack_pack_int32(pk, *(const int32_t *)at);
        break;
    case PACK_ID:
        msgpack_pack_bin_with_body(pk, at, PACK_ID_BYTES);
        break;
    case PACK_TEXT:
        msgpack_pack_str_with_body(pk, at, strnlen((const char *)at, f->size - 1));
        break;
    case PACK_BYTES:
        count = *(const size_t *)(value + f->count_at);
        msgpack_pack_bin(pk, count);
        if (count != 0) {
            msgpack_pack_bin_body(pk, *(const void *const *)at, count);
        }
        break;
    case PACK_STRUCT:
        encode_struct(pk, f->layout, at);
        break;
    case PACK_ARRAY:
        encode_array(pk, f, load_pointer(at), *(const size_t *)(value + f->count_at));
        break;
    }
}

static void encode_struct(msgpack_packer *pk, const struct pack_layout *layout,
                          const uint8_t *value)
{
    msgpack_pack_map(pk, layout->count);
    for (size_t i = 0; i < layout->count; i++) {
        const struct pack_field *f = &layout->fields[i];

        msgpack_pack_str_with_body(pk, f->key, strlen(f->key));
        encode_field(pk, f, value);
    }
}

struct blob *pack_encode(const struct pack_layout *layout, const void *value)
{
    struct buf b;
    msgpack_packer pk;

    buf_init(&b);
    msgpack_packer_init(&pk, &b, put_bytes);
    encode_struct(&pk, layout, value);
    return buf_take(&b);
}

/* --- reading: the format ------------------------------------------------------------------- */

/* One value as its first bytes describe it. */
struct item {
    enum { ITEM_OTHER, ITEM_UINT, ITEM_INT, ITEM_BOOL, ITEM_BYTES, ITEM_ARRAY, ITEM_MAP } kind;
    uint64_t number; /* UINT, BOOL; BYTES: size; ARRAY, MAP: count */
    int64_t negative; /* INT: below 0 */
    const uint8_t *bytes; /* BYTES: borrowed */
};

static uint64_t get_be(struct cursor *c, size_t size)
{
    const uint8_t *at = cursor_get(c, size);
    uint64_t v = 0;

    for (size_t i = 0; at != NULL && i < size; i++) {
        v = v << 8 | at[i];
    }
    return v;
}

static void item_bytes(struct cursor *c, struct item *item, uint64_t size)
{
    item->kind = ITEM_BYTES;
    item->number = size;
    item->bytes = cursor_get(c, size);
}

static void item_signed(struct item *item, int64_t v)
{
    item->kind = v < 0 ? ITEM_INT : ITEM_UINT;
    item->negative = v < 0 ? v : 0;
    item->number = v < 0 ? 0 : (uint64_t)v;
}

static void item_counted(struct item *item, bool is_map, uint64_t count)
{
    item->kind = is_map ? ITEM_MAP : ITEM_ARRAY;
    item->number = count;
}

/* The values that are a type byte with a number in it. */
static void get_short_item(struct cursor *c, struct item *item, uint8_t type)
{
    if (type <= 0x7f) { /* positive fixint */
        item_signed(item, type);
    } else if (type <= 0x8f) { /* fixmap */
        item_counted(item, true, type & 0x0f);
    } else if (type <= 0x9f) { /* fixarray */
        item_counted(item, false, type & 0x0f);
    } else if (type <= 0xbf) { /* fixstr */
        item_bytes(c, item, type & 0x1f);
    } else { /* negative fixint */
        item_signed(item, (int8_t)type);
    }
}

/* Reads a value; of an array or a map only its head. */
static struct item get_item(struct cursor *c)
{
    struct item item = {.kind = ITEM_OTHER};
    uint8_t type = cursor_get_u8(c);

    if (type <= 0xbf || type >= 0xe0) {
        get_short_item(c, &item, type);
        return item;
    }
    switch (type) {
    case 0xc0: /* nil */
        break;
    case 0xc2: case 0xc3: /* false, true */
        item.kind = ITEM_BOOL;
        item.number = type & 1;
        break;
    case 0xc4: case 0xc5: case 0xc6: /* bin 8, 16, 32 */
        item_bytes(c, &item, get_be(c, (size_t)1 << (type - 0xc4)));
        break;
    case 0xc7: case 0xc8: case 0xc9: /* ext 8, 16, 32: a type byte, then the data */
        cursor_get(c, 1 + get_be(c, (size_t)1 << (type - 0xc7)));
        break;
    case 0xca: case 0xcb: /* float 32, 64 */
        cursor_get(c, (size_t)4 << (type - 0xca));
        break;
    case 0xcc: case 0xcd: case 0xce: case 0xcf: /* uint 8 .. 64 */
        item.kind = ITEM_UINT;
        item.number = get_be(c, (size_t)1 << (type - 0xcc));
        break;
    case 0xd0:
        item_signed(&item, (int8_t)get_be(c, 1));
        break;
    case 0xd1:
        item_signed(&item, (int16_t)get_be(c, 2));
        break;
    case 0xd2:
        item_signed(&item, (int32_t)get_be(c, 4));
        break;
    case 0xd3:
        item_signed(&item, (int64_t)get_be(c, 8));
        break;
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: /* fixext 1 .. 16 */
        cursor_get(c, 1 + ((size_t)1 << (type - 0xd4)));
        break;
    case 0xd9: case 0xda: case 0xdb: /* str 8, 16, 32 */
        item_bytes(c, &item, get_be(c, (size_t)1 << (type - 0xd9)));
        break;
    case 0xdc: case 0xdd: /* array 16, 32 */
        item_counted(&item, false, get_be(c, (size_t)2 << (type - 0xdc)));
        break;
    case 0xde: case 0xdf: /* map 16, 32 */
        item_counted(&item, true, get_be(c, (size_t)2 << (type - 0xde)));
        break;
    default: /* 0xc1 is never used */
        c->has_failed = true;
        break;
    }
    return item;
}

/* A claimed count costs nothing here: each round reads a byte at least, or ends the loop. */
static void skip_item(struct cursor *c, unsigned depth)
{
    struct item item = get_item(c);
    uint64_t left = item.kind == ITEM_ARRAY ? item.number
                    : item.kind == ITEM_MAP ? item.number * 2
                                            : 0;

    if (depth >= PACK_DEPTH_MAX) {
        c->has_failed = true;
    }
    for (; left > 0 && !c->has_failed; left--) {
        skip_item(c, depth + 1);
    }
}

/* --- reading: the fields --------------------------------------------------------------------- */

static struct item get_kind(struct cursor *c, int kind)
{
    struct item item = get_item(c);

    if (c->has_failed || (int)item.kind != kind) {
        c->has_failed = true;
        memset(&item, 0, sizeof(item));
    }
    return item;
}

static uint64_t get_uint(struct cursor *c, uint64_t max)
{
    uint64_t v = get_kind(c, ITEM_UINT).number;

    c->has_failed |= v > max;
    return v;
}

static int32_t get_i32(struct cursor *c)
{
    struct item item = get_item(c);

    if (item.kind == ITEM_UINT && item.number <= INT32_MAX) {
        return (int32_t)item.number;
    }
    if (item.kind == ITEM_INT && item.negative >= INT32_MIN) {
        return (int32_t)item.negative;
    }
    c->has_failed = true;
    return 0;
}

static void get_id(struct cursor *c, uint8_t id[PACK_ID_BYTES])
{
    struct item item = get_kind(c, ITEM_BYTES);

    if (item.number != PACK_ID_BYTES) {
        c->has_failed = true;
    } else {
        memcpy(id, item.bytes, PACK_ID_BYTES);
    }
}

/* Text may hold any bytes; what follows a NUL is nothing a C string can show. */
static void get_text(struct cursor *c, char *text, size_t size)
{
    struct item item = get_kind(c, ITEM_BYTES);
    size_t length = 0;

    if (!c->has_failed) {
        length = strnlen((const char *)item.bytes, item.number);
        length = length < size ? length : size - 1;
        memcpy(text, item.bytes, length);
    }
    text[length] = '\0';
}

static int decode_struct(struct cursor *c, const struct pack_layout *layout, uint8_t *value);

static int decode_array(struct cursor *c, const struct pack_field *f, uint8_t *value)
{
    uint64_t claimed = get_kind(c, ITEM_ARRAY).number;
    size_t bytes_min = 1 + FIELD_BYTES_MIN * f->layout->count;
    uint8_t *items;
    int rc = 0;

    if (c->has_failed || claimed > cursor_left(c) / bytes_min) {
        return TRK_ECORRUPT;
    }
    items = mem_zalloc(claimed, f->layout->struct_bytes);
    if (items == NULL) {
        return TRK_ENOMEM;
    }
    store_pointer(value + f->at, items);
    *(size_t *)(value + f->count_at) = claimed;
    for (size_t i = 0; i < claimed && rc == 0; i++) {
        rc = decode_struct(c, f->layout, items + i * f->layout->struct_bytes);
    }
    return rc;
}

static int decode_field(struct cursor *c, const struct pack_field *f, uint8_t *value)
{
    uint8_t *at = value + f->at;
    struct item item;

    switch (f->kind) {
    case PACK_BOOL:
        *(bool *)at = get_kind(c, ITEM_BOOL).number != 0;
        break;
    case PACK_U32:
        *(uint32_t *)at = (uint32_t)get_uint(c, UINT32_MAX);
        break;
    case PACK_U64:
        *(uint64_t *)at = get_uint(c, UINT64_MAX);
        break;
    case PACK_I32:
        *(int32_t *)at = get_i32(c);
        break;
    case PACK_ID:
        get_id(c, at);
        break;
    case PACK_TEXT:
        get_text(c, (char *)at, f->size);
        break;
    case PACK_BYTES:
        item = get_kind(c, ITEM_BYTES);
        *(const void **)at = item.bytes;
        *(size_t *)(value + f->count_at) = item.number;
        break;
    case PACK_STRUCT:
        return decode_struct(c, f->layout, at);
    case PACK_ARRAY:
        return decode_array(c, f, value);
    }
    return c->has_failed ? TRK_ECORRUPT : 0;
}

/* The place of key in the table; layout->count: a newer version's. */
static size_t find_field(const struct pack_layout *layout, const struct item *key)
{
    for (size_t i = 0; i < layout->count; i++) {
        const char *name = layout->fields[i].key;

        if (strlen(name) == key->number && memcmp(name, key->bytes, key->number) == 0) {
            return i;
        }
    }
    return layout->count;
}

static int decode_struct(struct cursor *c, const struct pack_layout *layout, uint8_t *value)
{
    uint64_t left = get_kind(c, ITEM_MAP).number;
    uint32_t seen = 0; /* bit per field */
    int rc = 0;

    for (; left > 0 && rc == 0 && !c->has_failed; left--) {
        struct item key = get_kind(c, ITEM_BYTES);
        size_t i;

        if (c->has_failed) {
            break;
        }
        i = find_field(layout, &key);
        if (i == layout->count) {
            skip_item(c, 0);
        } else if ((seen & UINT32_C(1) << i) != 0) {
            rc = TRK_ECORRUPT; /* twice: an array would leak, and which of them counts? */
        } else {
            seen |= UINT32_C(1) << i;
            rc = decode_field(c, &layout->fields[i], value);
        }
    }
    if (rc != 0) {
        return rc;
    }
    if (c->has_failed || seen != (uint32_t)((UINT64_C(1) << layout->count) - 1)) {
        return TRK_ECORRUPT;
    }
    return 0;
}

/* Frees the arrays of the outermost struct (nothing deeper has any) and makes all of it zero. */
static void clear(const struct pack_layout *layout, uint8_t *value)
{
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->fields[i].kind == PACK_ARRAY) {
            mem_free(load_pointer(value + layout->fields[i].at));
        }
    }
    memset(value, 0, layout->struct_bytes);
}

int pack_decode(const struct pack_layout *layout, void *value, const struct blob *body)
{
    struct cursor c;
    int rc;

    assert(layout->count <= 32);
    memset(value, 0, layout->struct_bytes);
    cursor_init(&c, body->data, body->size);
    rc = decode_struct(&c, layout, value);
    if (rc == 0 && cursor_left(&c) != 0) {
        rc = TRK_ECORRUPT;
    }
    if (rc != 0) {
        clear(layout, value);
    }
    return rc;
}
