/* SPDX-License-Identifier: MIT */
/* cache.h - blobs that this machine has already been sent: files named by the digest of what is in
 * them, in a directory of the user's, shared by all VMs.
 *
 *   DIGEST       (32 hex digits) whole, or damaged by a disk: it is read through before it is used
 *   DIGEST.part  is being fetched by whoever has it locked; a killed one leaves it to the next
 *
 * It is a cache: whatever goes wrong costs another transfer, or memory, and never the work. */
#ifndef VM_CACHE_H
#define VM_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "ckpt/home.h"

#define CACHE_BYTES_MAX ((uint64_t)1 << 30) /* then those go that were used least recently */
#define CACHE_CLAIM_MS 10000 /* who is fetched for by another VM waits so long */

/* Where the cache is: made when missing. dir at least HOME_PATH_MAX. */
TRK_MUST_USE int cache_open(char *dir, size_t size);
/* A read-only descriptor of that blob, of a file whose pages can be run (where the cache's cannot,
 * a copy in memory), the caller's; TRK_END: it is not there. */
TRK_MUST_USE int cache_find(const char *dir, const struct digest *digest);
/* For whoever is to fetch it: another VM that does so already is waited for. A descriptor for
 * cache_put or cache_drop; TRK_END: it cannot be kept here. Then cache_find may have it. */
TRK_MUST_USE int cache_claim(const char *dir, const struct digest *digest);
/* Puts the bytes there, takes the claim and lets the oldest others go, down to limit in all. After
 * an error the blob is not there. */
TRK_MUST_USE int cache_put(const char *dir, const struct digest *digest, int claim,
                           const void *bytes, size_t size, uint64_t limit);
void cache_drop(const char *dir, const struct digest *digest, int claim);
/* The same as cache_find gives, without any directory. TRK_EIO: not even memory is to be had. */
TRK_MUST_USE int cache_in_memory(const void *bytes, size_t size);

#endif
