/* SPDX-License-Identifier: MIT */
/* seal.h - the MACs of beacons, and who is believed.
 *
 * With keys, beacons are sealed and only sealed ones count: questions by the key of questions, all
 * else by the key of answers, so that neither can be passed off as the other. Without keys (plain
 * farms) beacons are bare and only bare ones count: the two kinds of farm do not see each other. */
#ifndef DISCOVERY_SEAL_H
#define DISCOVERY_SEAL_H

#include "auth/derive.h"
#include "wire/beacon.h"

/* A value; cleared with discovery_seals_clear. */
struct discovery_seals {
    size_t count; /* 0: plain */
    struct discovery_seal {
        uint8_t id[WIRE_BEACON_KEY_ID];
        uint8_t ask[AUTH_DERIVED_BYTES], answer[AUTH_DERIVED_BYTES];
    } seal[AUTH_KEYS_MAX];
};

/* keys: borrowed for the call; NULL: plain. TRK_ENOMEM with a sentence. */
TRK_MUST_USE int discovery_seals_init(struct discovery_seals *out, const struct auth_keys *keys);
void discovery_seals_clear(struct discovery_seals *seals);
/* How often each thing is to be said: once per key, since others may know only one of ours while
 * keys are rotated; plain, once. */
size_t discovery_seals_rounds(const struct discovery_seals *seals);
/* Fills in the seal number key of b (plain: none) and writes it. TRK_ENOMEM with a sentence. */
TRK_MUST_USE int discovery_seals_put(const struct discovery_seals *seals, size_t key,
                                     struct wire_beacon *b, uint8_t out[WIRE_BEACON_BYTES]);
/* The number of the key b is sealed with (plain: 0), or -1: not to be believed. */
int discovery_seals_check(const struct discovery_seals *seals, const struct wire_beacon *b,
                          const uint8_t bytes[WIRE_BEACON_BYTES]);

#endif
