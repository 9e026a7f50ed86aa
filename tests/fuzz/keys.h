/* SPDX-License-Identifier: MIT */
/* keys.h - the two keys of the fuzzers' farm. Always the same, so that a corpus can be made. */
#ifndef TESTS_FUZZ_KEYS_H
#define TESTS_FUZZ_KEYS_H

#include <assert.h>
#include <stdio.h>

#include "auth/keys.h"

#define FUZZ_KEYS "trickle-key-1 430f85e8 " \
    "6e6577206e6577206e6577206e6577206e6577206e6577206e6577206e657721\n" \
    "trickle-key-1 81d214bb " \
    "6f6c64206f6c64206f6c64206f6c64206f6c64206f6c64206f6c64206f6c6421\n"

static inline void fuzz_keys(struct auth_keys *keys)
{
    int rc = auth_keys_parse(keys, FUZZ_KEYS, sizeof(FUZZ_KEYS) - 1, "the fuzzers' keys");

    assert(rc == 0 && keys->count == 2);
}

#endif
