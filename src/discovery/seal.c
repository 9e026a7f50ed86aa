/* SPDX-License-Identifier: MIT */
/* seal.c - see seal.h. */
#include "discovery/seal.h"

#include <assert.h>
#include <string.h>

_Static_assert(WIRE_BEACON_MAC == AUTH_MAC_BYTES, "a beacon has room for a whole MAC");
_Static_assert(2 * WIRE_BEACON_KEY_ID == AUTH_ID_DIGITS, "a beacon has room for a key's ID");

/* The value of a hex digit; the ID of a key has no others. */
static uint8_t digit(char c) { return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10); }

int discovery_seals_init(struct discovery_seals *out, const struct auth_keys *keys)
{
    *out = (struct discovery_seals){.count = keys != NULL ? keys->count : 0};
    for (size_t i = 0; i < out->count; i++) {
        struct discovery_seal *seal = &out->seal[i];
        const struct auth_key *key = &keys->key[i];
        for (size_t j = 0; j < sizeof(seal->id); j++) {
            seal->id[j] = (uint8_t)(digit(key->id[2 * j]) << 4 | digit(key->id[2 * j + 1]));
        }
        int rc = auth_derive(seal->ask, key, AUTH_DISCOVERY_ASK);
        rc = rc < 0 ? rc : auth_derive(seal->answer, key, AUTH_DISCOVERY_ANSWER);
        if (rc < 0) {
            discovery_seals_clear(out);
            return rc;
        }
    }
    return 0;
}

void discovery_seals_clear(struct discovery_seals *seals)
{
    explicit_bzero(seals, sizeof(*seals));
}

size_t discovery_seals_rounds(const struct discovery_seals *seals)
{
    return seals->count > 0 ? seals->count : 1;
}

static int make_mac(uint8_t mac[WIRE_BEACON_MAC], const struct discovery_seal *seal, uint8_t kind,
                    const uint8_t bytes[WIRE_BEACON_BYTES])
{
    return auth_mac(mac, kind == WIRE_BEACON_ASK ? seal->ask : seal->answer, bytes,
                    WIRE_BEACON_SEALED);
}

int discovery_seals_put(const struct discovery_seals *seals, size_t key, struct wire_beacon *b,
                        uint8_t out[WIRE_BEACON_BYTES])
{
    assert(key < discovery_seals_rounds(seals));
    b->is_sealed = seals->count > 0;
    memset(b->key_id, 0, sizeof(b->key_id));
    memset(b->mac, 0, sizeof(b->mac));
    if (!b->is_sealed) {
        wire_beacon_put(out, b);
        return 0;
    }
    memcpy(b->key_id, seals->seal[key].id, sizeof(b->key_id));
    wire_beacon_put(out, b);
    int rc = make_mac(b->mac, &seals->seal[key], b->kind, out);
    memcpy(out + WIRE_BEACON_SEALED, b->mac, sizeof(b->mac));
    return rc;
}

int discovery_seals_check(const struct discovery_seals *seals, const struct wire_beacon *b,
                          const uint8_t bytes[WIRE_BEACON_BYTES])
{
    if (b->is_sealed != (seals->count > 0)) {
        return -1;
    }
    for (size_t i = 0; i < seals->count; i++) {
        const struct discovery_seal *seal = &seals->seal[i];
        uint8_t mac[WIRE_BEACON_MAC];
        if (memcmp(seal->id, b->key_id, sizeof(seal->id)) == 0 &&
            make_mac(mac, seal, b->kind, bytes) == 0 && auth_is_same(mac, b->mac, sizeof(mac))) {
            return (int)i;
        }
    }
    return b->is_sealed ? -1 : 0;
}
