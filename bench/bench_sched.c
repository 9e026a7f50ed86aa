/* SPDX-License-Identifier: MIT */
/* bench_sched.c - how fast the scheduler steps, alone: no VM, no byte, no clock but this one's.
 *
 * Pretended VMs answer in the order they were asked. Two loads: elements that take long go one by
 * one and cost three events each (RESULT, RECORDED, DELIVERED), cheap ones go in full batches.
 *
 *   bench_sched [elements]     default 2,000,000 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sched/sched.h"

struct queue { /* of what was assigned, as a ring */
    struct sched_action *items;
    size_t head, count, capacity;
};

struct bench {
    struct sched *s;
    struct queue queue;
    uint64_t element_ns, now_ns;
    uint64_t events, delivered;
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void step(struct bench *b, const struct sched_event *ev)
{
    struct sched_actions actions;
    if (sched_step(b->s, ev, b->now_ns, &actions) < 0) {
        fprintf(stderr, "event %d was refused\n", (int)ev->type);
        exit(1);
    }
    b->events++;
    for (size_t i = 0; i < actions.count; i++) {
        if (actions.items[i].type == SCHED_ASSIGN) {
            struct queue *q = &b->queue;
            if (q->count == q->capacity) {
                fprintf(stderr, "more batches than VMs take\n");
                exit(1);
            }
            q->items[(q->head + q->count++) % q->capacity] = actions.items[i];
        }
    }
}

static void answer(struct bench *b)
{
    struct sched_action a = b->queue.items[b->queue.head];
    struct sched_event ev = {.type = SCHED_RESULT, .stage = a.stage, .vm = a.vm,
                             .attempt = a.attempt, .first = a.first, .count = a.count,
                             .busy_ns = a.count * b->element_ns};
    b->queue.head = (b->queue.head + 1) % b->queue.capacity;
    b->queue.count--;
    b->now_ns += 100;
    step(b, &ev);
    ev.type = SCHED_RECORDED;
    step(b, &ev);
    ev.type = SCHED_DELIVERED;
    step(b, &ev);
    b->delivered += a.count;
}

static void begin(struct bench *b, uint32_t vms, uint64_t element_ns, uint32_t retries)
{
    memset(b, 0, sizeof *b);
    b->element_ns = element_ns;
    b->queue.capacity = 4 * (size_t)vms;
    b->queue.items = calloc(b->queue.capacity, sizeof *b->queue.items);
    if (b->queue.items == NULL || sched_new(&b->s, NULL) < 0) {
        exit(1);
    }
    step(b, &(struct sched_event){.type = SCHED_STAGE_OPENED, .stage = 1, .retries = retries});
    for (uint32_t i = 0; i < vms; i++) {
        step(b, &(struct sched_event){.type = SCHED_VM_JOINED, .vm = i});
        step(b, &(struct sched_event){.type = SCHED_STAGE_VM, .stage = 1, .vm = i, .flag = 1});
    }
    b->events = 0;
}

static void end(struct bench *b)
{
    sched_free(b->s);
    free(b->queue.items);
}

/* A stream with a window: elements are added as others are delivered. */
static void stream(uint32_t vms, uint64_t elements, uint64_t element_ns, const char *what)
{
    struct bench b;
    uint64_t added = 0;
    uint64_t block = element_ns < 100000 ? 4096 : 64;
    uint64_t window = 8 * (uint64_t)vms * block;
    double start, passed;
    begin(&b, vms, element_ns, 0);
    start = seconds();
    while (b.delivered < elements) {
        while (added < elements && added - b.delivered < window) {
            uint64_t n = elements - added < block ? elements - added : block;
            step(&b, &(struct sched_event){.type = SCHED_WORK_ADDED, .stage = 1, .count = n,
                                           .bytes = 8 * n});
            added += n;
        }
        if (b.queue.count == 0) {
            fprintf(stderr, "nothing is assigned\n");
            exit(1);
        }
        answer(&b);
    }
    passed = seconds() - start;
    printf("%-14s %6u VMs  %10.0f events/s  %7.1f ns/event  %7.1f ns/element\n", what, vms,
           (double)b.events / passed, passed * 1e9 / (double)b.events,
           passed * 1e9 / (double)elements);
    end(&b);
}

static void memory(uint64_t elements, uint32_t retries)
{
    struct bench b;
    size_t before;
    begin(&b, 1000, 1000, retries);
    before = sched_memory(b.s);
    step(&b, &(struct sched_event){.type = SCHED_WORK_ADDED, .stage = 1, .count = elements,
                                   .bytes = 8 * elements});
    printf("memory: %llu elements at once, %s: %.1f MB, %.2f bytes/element (the rest: %.1f MB)\n",
           (unsigned long long)elements, retries > 0 ? "with retries" : "no retries",
           (double)sched_memory(b.s) / 1e6,
           (double)(sched_memory(b.s) - before) / (double)elements, (double)before / 1e6);
    end(&b);
}

int main(int argc, char **argv)
{
    uint64_t elements = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000000;
    static const uint32_t vms[] = {1, 10, 100, 1000, 10000};
    for (size_t i = 0; i < sizeof vms / sizeof *vms; i++) {
        stream(vms[i], elements, 10000000, "one by one");
    }
    for (size_t i = 0; i < sizeof vms / sizeof *vms; i++) {
        stream(vms[i], elements * 5, 1000, "in batches");
    }
    memory(10000000, 0);
    memory(10000000, 3);
    return 0;
}
