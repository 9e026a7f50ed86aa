/* SPDX-License-Identifier: MIT */
/* samples.h - one message of each kind, and a way to decode and encode any kind by number: what
 * the tests of hostile bytes, the fuzzers and their seed corpus share. Always the same bytes. */
#ifndef TESTS_WIRE_SAMPLES_H
#define TESTS_WIRE_SAMPLES_H

#include <stdbool.h>

#include "wire/msg.h"

enum sample_kind {
    SAMPLE_HELLO,
    SAMPLE_WELCOME,
    SAMPLE_VMS,
    SAMPLE_OUTPUT,
    SAMPLE_DEATH,
    SAMPLE_REQUEST,
    SAMPLE_REPLY,
    SAMPLE_STAGE,
    SAMPLE_RUN,
    SAMPLE_RESULT,
    SAMPLE_NOTE,
    SAMPLE_HELD,
    SAMPLE_STATE,
    SAMPLE_JOIN,
    SAMPLE_WANT,
    SAMPLE_BLOB,
    SAMPLE_KIND_COUNT
};

/* A random number generator that gives the same on every machine (xorshift64); *state not 0. */
uint64_t sample_random(uint64_t *state);

void sample_info(struct trk_vm_info *info, unsigned seed);
const char *sample_name(enum sample_kind kind);
/* NULL: out of memory. */
struct blob *sample_body(enum sample_kind kind);
/* Decodes body as kind and encodes what came out: into *again unless it is NULL. Returns what
 * decode did, or TRK_ENOMEM. */
int sample_again(enum sample_kind kind, const struct blob *body, struct blob **again);
/* Does the layout end in bytes without a length of their own, so that a shorter body is valid? */
bool sample_is_open_ended(enum sample_kind kind);
/* Flat: what was decoded is encoded to the very same bytes. */
bool sample_is_flat(enum sample_kind kind);

#endif
