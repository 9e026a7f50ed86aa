/* SPDX-License-Identifier: MIT */
/* beacon.c - the datagrams of multicast discovery.
 *
 *   offset 0  u16 magic "Tk"    8  u8[16] nonce
 *          2  u8  version      24  u8[16] supervisor
 *          3  u8  kind         40  u8[24] zero (authentication)
 *          4  u16 tcp_port
 *          6  u16 zero
 *
 * A datagram that is not exactly this is somebody else's and ignored, also one with authentication:
 * who cannot check it must not act on it. */
#include "wire/beacon.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "wire/frame.h"

#define AUTH_BYTES 24
#define ID_BYTES 16

void wire_beacon_put(uint8_t out[WIRE_BEACON_BYTES], const struct wire_beacon *b)
{
    assert(b->kind >= WIRE_BEACON_ASK && b->kind <= WIRE_BEACON_HERE);
    memset(out, 0, WIRE_BEACON_BYTES);
    out[0] = WIRE_MAGIC & 0xff;
    out[1] = WIRE_MAGIC >> 8;
    out[2] = WIRE_VERSION;
    out[3] = b->kind;
    out[4] = (uint8_t)b->tcp_port;
    out[5] = (uint8_t)(b->tcp_port >> 8);
    memcpy(out + 8, b->nonce, ID_BYTES);
    memcpy(out + 8 + ID_BYTES, b->supervisor, ID_BYTES);
}

int wire_beacon_get(struct wire_beacon *b, const void *bytes, size_t size)
{
    static const uint8_t no_auth[AUTH_BYTES];
    struct cursor c;
    const uint8_t *nonce, *supervisor, *auth;
    uint8_t version;

    if (size != WIRE_BEACON_BYTES) {
        return TRK_ECORRUPT;
    }
    cursor_init(&c, bytes, size);
    if (cursor_get_u16(&c) != WIRE_MAGIC) {
        return TRK_ECORRUPT;
    }
    version = cursor_get_u8(&c);
    if (version != WIRE_VERSION) {
        return TRK_EVERSION;
    }
    b->kind = cursor_get_u8(&c);
    b->tcp_port = cursor_get_u16(&c);
    if (b->kind < WIRE_BEACON_ASK || b->kind > WIRE_BEACON_HERE || cursor_get_u16(&c) != 0) {
        return TRK_ECORRUPT;
    }
    nonce = cursor_get(&c, ID_BYTES);
    supervisor = cursor_get(&c, ID_BYTES);
    auth = cursor_get(&c, AUTH_BYTES);
    if (auth == NULL || memcmp(auth, no_auth, AUTH_BYTES) != 0) {
        return TRK_ECORRUPT;
    }
    memcpy(b->nonce, nonce, ID_BYTES);
    memcpy(b->supervisor, supervisor, ID_BYTES);
    return 0;
}
