/* SPDX-License-Identifier: MIT */
/* timeline.h - what is to come in a pretended farm, by time and then in the order it was posted: a
 * binary heap. */
#ifndef TESTS_SCHED_TIMELINE_H
#define TESTS_SCHED_TIMELINE_H

#include <stdbool.h>
#include <stdlib.h>

#include "sched/sched.h"

struct message { /* an event that reaches the scheduler, or a thing that happens, at a time */
    uint64_t at_ns, order;
    enum { TO_SCHED, TO_VM_RUN, TO_VM_RECALL, TO_VM_CANCEL_RUN, ELEMENT_ENDS, FAULT, GROW } kind;
    uint32_t vm;           /* place in the array */
    uint32_t incarnation;  /* of that VM: what is for another one is lost */
    struct sched_event ev; /* TO_SCHED; the fields of an action otherwise */
};

struct timeline {
    struct message *heap;
    size_t count, capacity;
    uint64_t order; /* messages ever posted: ties go by it */
};

static bool is_before(const struct message *a, const struct message *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

static void timeline_push(struct timeline *t, struct message m)
{
    size_t i = t->count++;
    if (t->count > t->capacity) {
        t->capacity = 2 * t->count;
        t->heap = realloc(t->heap, t->capacity * sizeof *t->heap);
        if (t->heap == NULL) {
            abort();
        }
    }
    m.order = t->order++;
    while (i > 0 && is_before(&m, &t->heap[(i - 1) / 2])) {
        t->heap[i] = t->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    t->heap[i] = m;
}

static struct message timeline_take(struct timeline *t)
{
    struct message top = t->heap[0];
    struct message last = t->heap[--t->count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < t->count && is_before(&t->heap[child + 1], &t->heap[child])) {
            child++;
        }
        if (child >= t->count || !is_before(&t->heap[child], &last)) {
            break;
        }
        t->heap[i] = t->heap[child];
        i = child;
    }
    t->heap[i] = last;
    return top;
}

#endif
