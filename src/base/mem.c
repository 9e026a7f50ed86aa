/* SPDX-License-Identifier: MIT */
/* mem.c - malloc behind a counter and a fuse.
 *
 * The counter of live allocations lets a test say "nothing is left over"; the fuse lets it fail
 * the n-th allocation. Both are single atomics, cheap enough to stay in every build: a test then
 * runs the very objects that production runs. Sizes of 0 give a real, freeable pointer, so that
 * NULL always means "out of memory". */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t live_count; /* allocations not yet freed */
static atomic_uint_fast64_t fuse;       /* 0: off; 1: burnt, all fail; else calls until then */

/* Whether this allocation is to fail. A burnt fuse stays burnt until mem_fail_after. */
static bool must_fail(void)
{
    uint_fast64_t left = atomic_load_explicit(&fuse, memory_order_relaxed);

    while (left > 1) {
        if (atomic_compare_exchange_weak(&fuse, &left, left - 1)) {
            return false;
        }
    }
    return left == 1;
}

static void *counted(void *ptr)
{
    if (ptr != NULL) {
        atomic_fetch_add_explicit(&live_count, 1, memory_order_relaxed);
    }
    return ptr;
}

void *mem_alloc(size_t size)
{
    return must_fail() ? NULL : counted(malloc(size != 0 ? size : 1));
}

void *mem_zalloc(size_t count, size_t size)
{
    size_t product;

    if (__builtin_mul_overflow(count, size, &product) || must_fail()) {
        return NULL;
    }
    return counted(calloc(1, product != 0 ? product : 1));
}

void *mem_realloc(void *ptr, size_t size)
{
    void *moved;

    if (must_fail()) {
        return NULL;
    }
    moved = realloc(ptr, size != 0 ? size : 1);
    return ptr == NULL ? counted(moved) : moved;
}

char *mem_strdup(const char *s)
{
    size_t size = strlen(s) + 1;
    char *copy = mem_alloc(size);

    if (copy != NULL) {
        memcpy(copy, s, size);
    }
    return copy;
}

void mem_free(void *ptr)
{
    if (ptr != NULL) {
        atomic_fetch_sub_explicit(&live_count, 1, memory_order_relaxed);
        free(ptr);
    }
}

void mem_fail_after(uint64_t n)
{
    atomic_store(&fuse, n);
}

uint64_t mem_live(void)
{
    return atomic_load(&live_count);
}
