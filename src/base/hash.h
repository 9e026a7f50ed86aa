/* SPDX-License-Identifier: MIT */
/* hash.h - XXH3-128 digests of bytes (xxHash), in canonical byte order. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct digest {
    uint8_t bytes[16];
};
struct digest hash_digest(const void *bytes, size_t size);

#endif
