/* SPDX-License-Identifier: MIT */
/* map.h - a hash table from (group, key) to a number; open addressing, at most half full.
 *
 * Reserving is the only thing that allocates: whoever puts has reserved before, at an event that
 * may fail. Nothing ever walks the table in its own order to decide something. */
#ifndef SCHED_MAP_H
#define SCHED_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

struct map_slot {
    uint64_t key;
    uint64_t value;
    uint32_t group;
    bool is_used;
};

struct map {
    struct map_slot *slots;
    size_t capacity; /* 0 or a power of two */
    size_t count;    /* used slots; twice this is at most the capacity */
};

/* Makes room for n pairs in all. TRK_ENOMEM with nothing changed. */
TRK_MUST_USE int sched_map_reserve(struct map *m, size_t n);
void sched_map_fini(struct map *m);
/* The value, borrowed until the next change of the table, or NULL. */
uint64_t *sched_map_find(const struct map *m, uint32_t group, uint64_t key);
/* Adds a pair that is not there; room was reserved. Returns the value as find does. */
uint64_t *sched_map_put(struct map *m, uint32_t group, uint64_t key, uint64_t value);
void sched_map_remove(struct map *m, uint32_t group, uint64_t key); /* absent is fine */
void sched_map_remove_group(struct map *m, uint32_t group);

#endif
