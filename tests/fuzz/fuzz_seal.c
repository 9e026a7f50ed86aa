/* SPDX-License-Identifier: MIT */
/* fuzz_seal.c - any datagram to a farm that has two keys, as while they are rotated. Believed is
 * only what one of them seals to the same bytes. Byte 0: bit 0, seal what looks like a beacon by
 * the first key, so that what is behind the MAC is reached, too; bit 1: to a farm without a key. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "discovery/seal.h"
#include "fuzz.h"
#include "keys.h"

static void try_beacon(const struct discovery_seals *seals, const uint8_t *bytes, size_t size)
{
    uint8_t again[WIRE_BEACON_BYTES];
    struct wire_beacon b;

    if (wire_beacon_get(&b, bytes, size) != 0) {
        return;
    }
    int key = discovery_seals_check(seals, &b, bytes);
    if (key < 0) {
        return;
    }
    assert(b.is_sealed == (seals->count > 0));
    assert((size_t)key < discovery_seals_rounds(seals));
    int rc = discovery_seals_put(seals, (size_t)key, &b, again);
    assert(rc == 0 && size == sizeof(again) && memcmp(again, bytes, size) == 0);
}

/* Made once: to derive them takes longer than all else. */
static const struct discovery_seals *find_seals(bool is_plain)
{
    static struct discovery_seals plain, sealed;
    struct auth_keys keys;

    if (sealed.count == 0) {
        fuzz_keys(&keys);
        int rc = discovery_seals_init(&sealed, &keys);
        assert(rc == 0);
    }
    return is_plain ? &plain : &sealed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_beacon b;

    if (size < 1) {
        return 0;
    }
    const struct discovery_seals *seals = find_seals((data[0] & 2) != 0);
    uint8_t *bytes = malloc(size); /* all but byte 0; not a byte to be read behind it */
    assert(bytes != NULL);
    memcpy(bytes, data + 1, size - 1);
    if ((data[0] & 1) != 0 && wire_beacon_get(&b, bytes, size - 1) == 0) {
        int rc = discovery_seals_put(seals, 0, &b, bytes);
        assert(rc == 0);
    }
    try_beacon(seals, bytes, size - 1);
    free(bytes);
    return 0;
}
