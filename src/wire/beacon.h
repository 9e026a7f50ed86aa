/* SPDX-License-Identifier: MIT */
/* beacon.h - multicast questions and answers: one UDP datagram each, all of one size, so that an
 * answer is never longer than its question.
 *
 * Who knows the farm's key proves it by a MAC over the bytes before the MAC. It is not computed
 * here (wire is pure): write the beacon, compute, put it in; or read, compute, compare. A beacon
 * names the address it is sent from, under the MAC: one that was recorded is worth nothing from
 * elsewhere. Without a key (plain farms) there is no MAC, and what a beacon says is a rumour. */
#ifndef WIRE_BEACON_H
#define WIRE_BEACON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#define WIRE_BEACON_BYTES 96
#define WIRE_BEACON_SEALED 64 /* the MAC is over so many bytes, the first */
#define WIRE_BEACON_MAC 32    /* and fills the rest */
#define WIRE_BEACON_KEY_ID 4

enum wire_beacon_kind {
    WIRE_BEACON_ASK = 1,
    WIRE_BEACON_ANSWER = 2,
    WIRE_BEACON_HERE = 3, /* unasked: a supervisor has come up, or has another address */
};

struct wire_beacon {
    uint8_t kind;                       /* enum wire_beacon_kind */
    bool is_sealed;                     /* it has a MAC */
    uint8_t key_id[WIRE_BEACON_KEY_ID]; /* of the key of the MAC; without one zero */
    uint16_t port;          /* ASK: where answers are heard (UDP); else the supervisor's (TCP), in
                             * HERE 0 where strangers are not to know it */
    uint8_t address[16];    /* it is sent from; IPv4 as ::ffff:a.b.c.d */
    uint8_t nonce[16];      /* ASK: random; ANSWER: the question's; HERE: zero */
    uint8_t supervisor[16]; /* ANSWER, HERE: its id, or zero as the port is; ASK: zero */
    uint8_t mac[WIRE_BEACON_MAC]; /* without one zero */
};
void wire_beacon_put(uint8_t out[WIRE_BEACON_BYTES], const struct wire_beacon *b);
/* 0; TRK_EVERSION or TRK_ECORRUPT: to be ignored. Says nothing of whether the MAC is right. */
TRK_MUST_USE int wire_beacon_get(struct wire_beacon *b, const void *bytes, size_t size);

#endif
