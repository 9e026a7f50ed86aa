/* SPDX-License-Identifier: MIT */
/* beacon.h - multicast questions and answers, one UDP datagram each, of fixed size: an answer is
 * never longer than its question (no amplifier). Authentication fields are reserved (zero until
 * transport security lands). */
#ifndef WIRE_BEACON_H
#define WIRE_BEACON_H

#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#define WIRE_BEACON_BYTES 64

enum wire_beacon_kind { WIRE_BEACON_ASK = 1, WIRE_BEACON_ANSWER = 2, WIRE_BEACON_HERE = 3 };

/* HERE: a supervisor says on its own that it has just come up (so that VMs that start during a
 * run are seen at once). */
struct wire_beacon {
    uint8_t kind;           /* enum wire_beacon_kind */
    uint16_t tcp_port;      /* ANSWER, HERE: where the supervisor listens on the sender's host */
    uint8_t nonce[16];      /* of the question, repeated in the answer */
    uint8_t supervisor[16]; /* ANSWER, HERE */
};
void wire_beacon_put(uint8_t out[WIRE_BEACON_BYTES], const struct wire_beacon *b);
TRK_MUST_USE int wire_beacon_get(struct wire_beacon *b, const void *bytes, size_t size);

#endif
