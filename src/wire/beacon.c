/* SPDX-License-Identifier: MIT */
/* beacon.c - the datagrams of multicast discovery.
 *
 *   offset 0  u16   magic "Tk"        16  u8[16] address
 *          2  u8    version           32  u8[16] nonce
 *          3  u8    kind              48  u8[16] supervisor
 *          4  u8[4] key id            64  u8[32] MAC over what is before it
 *          8  u16   port
 *         10  u8    1: has a MAC
 *         11  u8[5] zero
 *
 * Each value has one form: a datagram that is not exactly what would be written for what it says
 * is somebody else's and ignored. */
#include "wire/beacon.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "wire/frame.h"

#define ID_BYTES 16
#define PAD_BYTES 5

static const uint8_t zeros[WIRE_BEACON_MAC];

static bool is_zero(const uint8_t *bytes, size_t size)
{
    return memcmp(bytes, zeros, size) == 0;
}

/* What a beacon of its kind must not say. */
static bool is_overloaded(const struct wire_beacon *b)
{
    if (!b->is_sealed && (!is_zero(b->key_id, sizeof(b->key_id)) ||
                          !is_zero(b->mac, sizeof(b->mac)))) {
        return true;
    }
    return (b->kind == WIRE_BEACON_ASK && !is_zero(b->supervisor, sizeof(b->supervisor))) ||
           (b->kind == WIRE_BEACON_HERE && !is_zero(b->nonce, sizeof(b->nonce)));
}

void wire_beacon_put(uint8_t out[WIRE_BEACON_BYTES], const struct wire_beacon *b)
{
    assert(b->kind >= WIRE_BEACON_ASK && b->kind <= WIRE_BEACON_HERE && !is_overloaded(b));
    memset(out, 0, WIRE_BEACON_BYTES);
    out[0] = WIRE_MAGIC & 0xff;
    out[1] = WIRE_MAGIC >> 8;
    out[2] = WIRE_VERSION;
    out[3] = b->kind;
    memcpy(out + 4, b->key_id, sizeof(b->key_id));
    out[8] = (uint8_t)b->port;
    out[9] = (uint8_t)(b->port >> 8);
    out[10] = b->is_sealed;
    memcpy(out + 16, b->address, sizeof(b->address));
    memcpy(out + 32, b->nonce, sizeof(b->nonce));
    memcpy(out + 48, b->supervisor, sizeof(b->supervisor));
    memcpy(out + WIRE_BEACON_SEALED, b->mac, sizeof(b->mac));
}

static void copy(uint8_t *to, struct cursor *c, size_t size)
{
    memcpy(to, cursor_get(c, size), size);
}

int wire_beacon_get(struct wire_beacon *b, const void *bytes, size_t size)
{
    struct cursor c;
    uint8_t version, flags;

    if (size != WIRE_BEACON_BYTES) {
        return TRK_ECORRUPT;
    }
    cursor_init(&c, bytes, size); /* of a size at which no read fails */
    if (cursor_get_u16(&c) != WIRE_MAGIC) {
        return TRK_ECORRUPT;
    }
    version = cursor_get_u8(&c);
    if (version != WIRE_VERSION) {
        return TRK_EVERSION;
    }
    b->kind = cursor_get_u8(&c);
    copy(b->key_id, &c, sizeof(b->key_id));
    b->port = cursor_get_u16(&c);
    flags = cursor_get_u8(&c);
    b->is_sealed = flags == 1;
    if (b->kind < WIRE_BEACON_ASK || b->kind > WIRE_BEACON_HERE || flags > 1 ||
        !is_zero(cursor_get(&c, PAD_BYTES), PAD_BYTES)) {
        return TRK_ECORRUPT;
    }
    copy(b->address, &c, ID_BYTES);
    copy(b->nonce, &c, ID_BYTES);
    copy(b->supervisor, &c, ID_BYTES);
    copy(b->mac, &c, WIRE_BEACON_MAC);
    return is_overloaded(b) ? TRK_ECORRUPT : 0;
}
