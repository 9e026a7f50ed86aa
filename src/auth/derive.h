/* SPDX-License-Identifier: MIT */
/* derive.h - what is made from a key: one derived key per use, and MACs with it.
 *
 * The secret itself is never used on the wire. Each role and direction has a key of its own
 * (HKDF-SHA256, the use as info), so that what one side said can never be passed off as the other
 * side's answer. No state; any thread. */
#ifndef AUTH_DERIVE_H
#define AUTH_DERIVE_H

#include "auth/keys.h"

#define AUTH_DERIVED_BYTES 32
#define AUTH_MAC_BYTES 32

enum auth_use {
    AUTH_TLS_INITIATOR, /* an initiator calls a VM or a supervisor */
    AUTH_TLS_VM,        /* a VM calls an initiator (it dials in) */
    AUTH_DISCOVERY_ASK,
    AUTH_DISCOVERY_ANSWER,
    AUTH_USE_COUNT
};

/* TRK_ENOMEM, or TRK_ECLOSED (crypto.h), with a sentence. */
TRK_MUST_USE int auth_derive(uint8_t out[AUTH_DERIVED_BYTES], const struct auth_key *key,
                             enum auth_use use);
/* HMAC-SHA256 of bytes with a derived key. As auth_derive. */
TRK_MUST_USE int auth_mac(uint8_t out[AUTH_MAC_BYTES], const uint8_t derived[AUTH_DERIVED_BYTES],
                          const void *bytes, size_t size);
/* Are two MACs (or the same first bytes of two) the same? Takes as long whatever they are. */
bool auth_is_same(const void *a, const void *b, size_t size);

#endif
