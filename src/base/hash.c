/* SPDX-License-Identifier: MIT */
/* hash.c - the digest of an element or a record. Canonical order, so that it means the same on
 * every machine and in every store. */
#include "base/hash.h"

#include <xxhash.h>

struct digest hash_digest(const void *bytes, size_t size)
{
    XXH128_canonical_t canonical;
    struct digest digest;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(size != 0 ? bytes : "", size));
    for (unsigned i = 0; i < sizeof(digest.bytes); i++) {
        digest.bytes[i] = canonical.digest[i];
    }
    return digest;
}
