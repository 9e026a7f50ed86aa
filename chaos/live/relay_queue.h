/* SPDX-License-Identifier: MIT */
/* relay_queue.h - packets that are on their way, in the order in which they are due; what is due
 * at the same time leaves as it came. A binary heap. */
#ifndef RELAY_QUEUE_H
#define RELAY_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUEUE_BYTES_MAX (128u << 20) /* of all packets together */

struct queued {
    uint64_t due_ns;
    uint64_t serial;     /* the n-th that came */
    uint16_t from, to;   /* machines */
    uint32_t size;
    uint8_t bytes[];
};

struct queue {
    struct queued **heap; /* heap[0] is the next; NULL: never used */
    size_t count, room;
    size_t bytes;
    uint64_t serial;
};
/* Copies the packet. false: there is no room for it. */
bool queue_put(struct queue *q, uint64_t due_ns, uint16_t from, uint16_t to, const uint8_t *bytes,
               size_t size);
/* The next one if it is due, to be freed with free(); else NULL. */
struct queued *queue_take(struct queue *q, uint64_t now_ns);
uint64_t queue_due_ns(const struct queue *q); /* of the next one; UINT64_MAX: there is none */
void queue_fini(struct queue *q);

#endif
