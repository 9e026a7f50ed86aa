/* SPDX-License-Identifier: MIT */
/* relay_queue.c - see relay_queue.h. */
#include "relay_queue.h"

#include <stdlib.h>
#include <string.h>

static bool is_before(const struct queued *a, const struct queued *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->serial < b->serial;
}

static bool grow(struct queue *q)
{
    size_t room = q->room == 0 ? 1024 : 2 * q->room;
    struct queued **heap = realloc(q->heap, room * sizeof(*heap));
    if (heap == NULL) {
        return false;
    }
    q->heap = heap;
    q->room = room;
    return true;
}

bool queue_put(struct queue *q, uint64_t due_ns, uint16_t from, uint16_t to, const uint8_t *bytes,
               size_t size)
{
    if (q->bytes + size > QUEUE_BYTES_MAX || (q->count == q->room && !grow(q))) {
        return false;
    }
    struct queued *one = malloc(sizeof(*one) + size);
    if (one == NULL) {
        return false;
    }
    *one = (struct queued){.due_ns = due_ns, .serial = q->serial++, .from = from, .to = to,
                           .size = (uint32_t)size};
    memcpy(one->bytes, bytes, size);
    q->bytes += size;
    size_t at = q->count++;
    while (at > 0 && is_before(one, q->heap[(at - 1) / 2])) {
        q->heap[at] = q->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    q->heap[at] = one;
    return true;
}

struct queued *queue_take(struct queue *q, uint64_t now_ns)
{
    if (q->count == 0 || q->heap[0]->due_ns > now_ns) {
        return NULL;
    }
    struct queued *first = q->heap[0], *last = q->heap[--q->count];
    size_t at = 0;
    for (size_t next = 1; next < q->count; next = 2 * at + 1) {
        next += next + 1 < q->count && is_before(q->heap[next + 1], q->heap[next]);
        if (!is_before(q->heap[next], last)) {
            break;
        }
        q->heap[at] = q->heap[next];
        at = next;
    }
    q->heap[at] = last;
    q->bytes -= first->size;
    return first;
}

uint64_t queue_due_ns(const struct queue *q)
{
    return q->count == 0 ? UINT64_MAX : q->heap[0]->due_ns;
}

void queue_fini(struct queue *q)
{
    for (size_t i = 0; i < q->count; i++) {
        free(q->heap[i]);
    }
    free(q->heap);
    *q = (struct queue){0};
}
