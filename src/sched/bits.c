/* SPDX-License-Identifier: MIT */
/* bits.c - the hierarchical bit set, see bits.h. */
#include "sched/bits.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sched/fault.h"

static size_t level_words(const struct bits *b, unsigned level)
{
    return b->offset[level + 1] - b->offset[level];
}

static uint64_t *word_at(const struct bits *b, unsigned level, size_t i)
{
    assert(i < level_words(b, level));
    return &b->words[b->offset[level] + i];
}

int sched_bits_reserve(struct bits *b, size_t n)
{
    struct bits grown = {.capacity = b->capacity > 0 ? b->capacity : 64};
    size_t words;
    if (n <= b->capacity) {
        return 0;
    }
    if (n > SCHED_BITS_MAX) {
        return TRK_ENOMEM;
    }
    while (grown.capacity < n) {
        grown.capacity *= 2;
    }
    words = grown.capacity;
    for (unsigned level = 0; level < SCHED_BITS_LEVELS; level++) {
        words = (words + 63) / 64;
        grown.offset[level + 1] = grown.offset[level] + words;
    }
    grown.words = mem_zalloc(grown.offset[SCHED_BITS_LEVELS], sizeof(uint64_t));
    if (grown.words == NULL) {
        return TRK_ENOMEM;
    }
    for (size_t i = sched_bits_next(b, 0); i != SCHED_NONE; i = sched_bits_next(b, i + 1)) {
        sched_bits_set(&grown, i);
    }
    mem_free(b->words);
    *b = grown;
    return 0;
}

void sched_bits_fini(struct bits *b)
{
    mem_free(b->words);
    memset(b, 0, sizeof *b);
}

void sched_bits_set(struct bits *b, size_t i)
{
    assert(i < b->capacity);
    for (unsigned level = 0; level < SCHED_BITS_LEVELS; level++) {
        uint64_t *word = word_at(b, level, i >> 6);
        uint64_t before = *word;
        *word |= UINT64_C(1) << (i & 63);
        if (before != 0) {
            return; /* the levels above know already */
        }
        i >>= 6;
    }
}

void sched_bits_clear(struct bits *b, size_t i)
{
    assert(i < b->capacity);
    for (unsigned level = 0; level < SCHED_BITS_LEVELS; level++) {
        uint64_t *word = word_at(b, level, i >> 6);
        *word &= ~(UINT64_C(1) << (i & 63));
        if (*word != 0) {
            return;
        }
        i >>= 6;
    }
}

bool sched_bits_test(const struct bits *b, size_t i)
{
    return i < b->capacity && (*word_at(b, 0, i >> 6) >> (i & 63) & 1) != 0;
}

size_t sched_bits_next(const struct bits *b, size_t from)
{
    return sched_bits_next_both(b, b, from);
}

size_t sched_bits_next_both(const struct bits *a, const struct bits *b, size_t from)
{
    unsigned level = 0;
    size_t i = from; /* a bit number of this level */
    if (a->capacity == 0 || b->capacity == 0) {
        return SCHED_NONE;
    }
    while (level < SCHED_BITS_LEVELS) {
        size_t at = i >> 6;
        uint64_t word = 0;
        if (at < level_words(a, level) && at < level_words(b, level)) {
            word = *word_at(a, level, at) & *word_at(b, level, at) & ~UINT64_C(0) << (i & 63);
        }
        if (word == 0) {
            level++; /* nothing more under this word: the next bit of the level above */
            i = at + 1;
            continue;
        }
        i = (at << 6) + (size_t)__builtin_ctzll(word);
        if (level == 0) {
            return i;
        }
        level--;
        i <<= 6;
    }
    return SCHED_NONE;
}

size_t sched_bits_memory(const struct bits *b)
{
    return b->offset[SCHED_BITS_LEVELS] * sizeof(uint64_t);
}

void sched_bits_check(const struct bits *b)
{
    for (unsigned level = 0; b->capacity > 0 && level + 1 < SCHED_BITS_LEVELS; level++) {
        for (size_t i = 0; i < level_words(b, level); i++) {
            bool above = (*word_at(b, level + 1, i >> 6) >> (i & 63) & 1) != 0;
            sched_must(above == (*word_at(b, level, i) != 0),
                       "bits: level %u, word %zu: the level above disagrees", level, i);
        }
    }
}
