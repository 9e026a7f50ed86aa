/* SPDX-License-Identifier: MIT */
/* tls_rig.h - ends of TLS for the fuzzers, with the same keys and the same "random" bytes in every
 * run: so a handshake recorded once is a good one for ever, and every finding can be repeated. */
#ifndef TESTS_FUZZ_TLS_RIG_H
#define TESTS_FUZZ_TLS_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/tls.h"

struct net_record;

#define TLS_RIG_BYTES 100000

/* What an end has sent. */
struct tls_rig_flight {
    uint8_t bytes[TLS_RIG_BYTES];
    size_t size;
};

/* An initiator that calls, or a VM that answers. has_key: it has the farm's, else another one of
 * the same name. From here on this end's random bytes are the same in each run. */
struct net_tls *tls_rig_end(bool is_caller, bool has_key);
/* A step of the handshake with these bytes. What it sends is added to f unless that is NULL. */
int tls_rig_step(struct net_tls *t, bool is_caller, const void *bytes, size_t size,
                 struct tls_rig_flight *f);
void tls_rig_output(struct net_tls *t, struct tls_rig_flight *f);
/* A whole handshake of a new end with a peer that is OpenSSL's; *peer: writes as the peer does.
 * Who knows the key can do that. */
struct net_tls *tls_rig_shaken(bool is_caller, struct net_record *peer);

#endif
