/* SPDX-License-Identifier: MIT */
/* block.c - the elements of a work whose results are not recorded yet, found by index.
 *
 * Blocks come in order of their first index, so the table is an array searched by halves. Bytes
 * are dropped as soon as all elements of a block are recorded, wherever it stands; its place in
 * the table when all before it are. */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "farm/farm_impl.h"

void block_fini(struct block *block)
{
    blob_unref(block->bytes);
    mem_free(block->offsets);
    mem_free(block->digests);
    mem_free(block->delivered);
    block->bytes = NULL;
    block->offsets = NULL;
    block->digests = NULL;
    block->delivered = NULL;
}

/* With count of its items; as it was when that is not possible, or NULL. */
static void *shrunk(void *array, size_t count, size_t size)
{
    void *moved = array != NULL ? mem_realloc(array, count * size) : NULL;

    return moved != NULL ? moved : array;
}

void block_trim(struct block *block)
{
    if (block->bytes == NULL || block->count >= block->cap / 2) {
        return;
    }
    blob_trim(&block->bytes);
    block->offsets = shrunk(block->offsets, (size_t)block->count + 1, sizeof(*block->offsets));
    block->digests = shrunk(block->digests, block->count, sizeof(*block->digests));
    block->delivered = shrunk(block->delivered, block->count, sizeof(*block->delivered));
    block->cap = block->count;
}

struct block *block_find(const struct trk_work *work, uint64_t index)
{
    size_t low = work->blocks_head, high = work->blocks_head + work->blocks_count;
    struct block *block;

    while (low + 1 < high) {
        size_t mid = low + (high - low) / 2;
        if (work->blocks[mid].first <= index) {
            low = mid;
        } else {
            high = mid;
        }
    }
    block = low < high ? &work->blocks[low] : NULL;
    if (block == NULL || index < block->first || index - block->first >= block->count) {
        return NULL;
    }
    return block;
}

struct block *block_of(struct trk_work *work, uint64_t index)
{
    struct block *block = block_find(work, index);

    assert(block != NULL);
    return block;
}

static int reserve(struct trk_work *work)
{
    if (work->blocks_head + work->blocks_count < work->blocks_cap) {
        return 0;
    }
    if (work->blocks_head > work->blocks_cap / 2) {
        memmove(work->blocks, work->blocks + work->blocks_head,
                work->blocks_count * sizeof(*work->blocks));
        work->blocks_head = 0;
        return 0;
    }
    size_t cap = work->blocks_cap ? work->blocks_cap * 2 : 64;
    struct block *blocks = mem_realloc(work->blocks, cap * sizeof(*blocks));
    if (blocks == NULL) {
        return TRK_ENOMEM;
    }
    work->blocks = blocks;
    work->blocks_cap = cap;
    return 0;
}

/* These elements are recorded: their bytes are not needed any more. */
void blocks_drop(struct trk_work *work, uint64_t first, uint64_t count)
{
    while (count > 0) {
        struct block *block = block_of(work, first);
        uint64_t n = block->first + block->count - first;
        n = n < count ? n : count;
        assert(block->left >= n);
        block->left -= (uint32_t)n;
        if (block->left == 0) {
            atomic_fetch_sub(&work->held_bytes, block->bytes->size);
            block_fini(block);
        }
        first += n;
        count -= n;
    }
    while (work->blocks_count > 0 && work->blocks[work->blocks_head].left == 0) {
        work->blocks_head++;
        work->blocks_count--;
    }
}

void blocks_free(struct trk_work *work)
{
    for (size_t i = 0; i < work->blocks_count; i++) {
        struct block *block = &work->blocks[work->blocks_head + i];
        if (block->bytes != NULL) {
            atomic_fetch_sub(&work->held_bytes, block->bytes->size);
        }
        block_fini(block);
    }
    mem_free(work->blocks);
    work->blocks = NULL;
    work->blocks_head = work->blocks_count = work->blocks_cap = 0;
}

int blocks_put(struct trk_work *work, const struct block *block)
{
    int rc = reserve(work);

    if (rc == 0) {
        work->blocks[work->blocks_head + work->blocks_count++] = *block;
    }
    return rc;
}
