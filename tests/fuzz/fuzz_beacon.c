/* SPDX-License-Identifier: MIT */
/* fuzz_beacon.c - any datagram: refused, or written back byte for byte. */
#include <assert.h>
#include <string.h>

#include "fuzz.h"
#include "wire/beacon.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t again[WIRE_BEACON_BYTES];
    struct wire_beacon beacon;

    if (wire_beacon_get(&beacon, data, size) == 0) {
        wire_beacon_put(again, &beacon);
        assert(size == sizeof(again) && memcmp(again, data, size) == 0);
    }
    return 0;
}
