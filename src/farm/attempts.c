/* SPDX-License-Identifier: MIT */
/* attempts.c - what happened to each element: every run of it that ended, where, how long, how.
 *
 * Runs that gave results are kept as they came, one entry per message (many elements); runs that
 * ended badly one by one, with what was printed last. Both are rings: of a work of millions of
 * elements the newest are kept, and bad ends never make room for good ones. Written by the farm
 * thread, read by the program, under work->mutex. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

#define GOOD_MAX 65536u
#define BAD_MAX 16384u
#define OUTPUT_MAX ((size_t)4096)

/* A process of a VM that ran something. */
struct place {
    uint32_t pid, index;
    char host[64];
};

/* A run of elements that came back in one message. */
struct good {
    uint64_t first, started_ms, busy_ns;
    uint32_t count, attempt, place;
};

/* One run of one element that failed. */
struct bad {
    struct trk_attempt a;
    uint64_t element;
    uint32_t place;
};

struct attempts {
    struct place *places;
    size_t places_count, places_cap;
    struct good *good;
    size_t good_count, good_next, good_cap; /* a ring once good_cap is GOOD_MAX */
    struct bad *bad;
    size_t bad_count, bad_next, bad_cap;
};

static uint64_t wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* The next entry of a ring that grows to max entries. NULL: out of memory. */
static void *ring_next(void **items, size_t *count, size_t *next, size_t *cap, size_t size,
                       size_t max)
{
    if (*count == *cap && *cap < max) {
        size_t grown = *cap > 0 ? *cap * 4 : 64;
        void *more = mem_realloc(*items, (grown < max ? grown : max) * size);
        if (more == NULL) {
            return NULL;
        }
        *items = more;
        *cap = grown < max ? grown : max;
        *next = *count;
    }
    void *item = (char *)*items + *next * size;
    *next = (*next + 1) % *cap;
    *count += *count < *cap;
    return item;
}

static uint32_t place_of(struct attempts *log, const struct trk_vm *vm)
{
    for (size_t i = log->places_count; i > 0 && i + 16 > log->places_count; i--) {
        const struct place *p = &log->places[i - 1];
        if (p->pid == vm->info.pid && strncmp(p->host, vm->info.host, sizeof(p->host) - 1) == 0) {
            return (uint32_t)(i - 1);
        }
    }
    if (log->places_count == log->places_cap) {
        size_t cap = log->places_cap > 0 ? log->places_cap * 2 : 16;
        struct place *places = mem_realloc(log->places, cap * sizeof(*places));
        if (places == NULL) {
            return UINT32_MAX;
        }
        log->places = places;
        log->places_cap = cap;
    }
    struct place *p = &log->places[log->places_count];
    *p = (struct place){.pid = vm->info.pid, .index = vm->info.index};
    snprintf(p->host, sizeof(p->host), "%.63s", vm->info.host);
    return (uint32_t)log->places_count++;
}

static struct attempts *log_of(struct trk_work *work)
{
    if (work->attempts == NULL) {
        work->attempts = mem_zalloc(1, sizeof(*work->attempts));
    }
    return work->attempts; /* NULL: out of memory; history is not worth failing for */
}

void attempts_good(struct trk_work *work, const struct trk_vm *vm, const struct wire_result *r)
{
    struct attempts *log;
    struct good *good;

    pthread_mutex_lock(&work->mutex);
    log = log_of(work);
    if (log != NULL) {
        void *items = log->good;
        good = ring_next(&items, &log->good_count, &log->good_next, &log->good_cap, sizeof(*good),
                         GOOD_MAX);
        log->good = items;
        if (good != NULL) {
            *good = (struct good){.first = r->first, .count = r->count, .attempt = r->attempt,
                                  .busy_ns = r->busy_ns, .place = place_of(log, vm),
                                  .started_ms = wall_ms() - r->busy_ns / 1000000u};
        }
    }
    pthread_mutex_unlock(&work->mutex);
}

void attempts_bad(struct trk_work *work, const struct trk_vm *vm, uint64_t element,
                  const struct trk_attempt *attempt)
{
    size_t size = attempt->output_size < OUTPUT_MAX ? attempt->output_size : OUTPUT_MAX;
    const char *tail = attempt->output + (attempt->output_size - size);
    char *output = attempt->output != NULL ? mem_alloc(size + 1) : NULL;
    struct attempts *log;
    struct bad *bad = NULL;

    if (output != NULL) {
        memcpy(output, tail, size);
        output[size] = '\0';
    }
    pthread_mutex_lock(&work->mutex);
    log = log_of(work);
    if (log != NULL) {
        void *items = log->bad;
        bool was_full = log->bad_count == BAD_MAX;
        bad = ring_next(&items, &log->bad_count, &log->bad_next, &log->bad_cap, sizeof(*bad),
                        BAD_MAX);
        log->bad = items;
        if (bad != NULL && was_full) {
            mem_free(bad->a.output);
        }
    }
    if (bad != NULL) {
        bad->a = *attempt;
        bad->a.started_ms = wall_ms() - attempt->duration_ns / 1000000u;
        bad->a.output = output;
        bad->a.output_size = output != NULL ? size : 0;
        bad->element = element;
        bad->place = place_of(log, vm);
        output = NULL;
    }
    pthread_mutex_unlock(&work->mutex);
    mem_free(output);
    /* An exception that is not tried again is the element's result. */
    if (work->store_stage != 0 &&
        (attempt->outcome != TRK_OUTCOME_EXCEPTION || work->retries > 0)) {
        history_put(work, element);
    }
}

static void fill_place(const struct attempts *log, uint32_t place, struct trk_attempt *a)
{
    if (place < log->places_count) {
        a->vm_pid = log->places[place].pid;
        a->vm_index = log->places[place].index;
        memcpy(a->vm_host, log->places[place].host, sizeof(a->vm_host));
    }
}

/* An exception's has zeros inside. */
void attempts_own_output(struct trk_attempt *a)
{
    char *own = a->output != NULL ? mem_alloc(a->output_size + 1) : NULL;

    if (own != NULL) {
        memcpy(own, a->output, a->output_size);
        own[a->output_size] = '\0';
    }
    a->output_size = own != NULL ? a->output_size : 0;
    a->output = own;
}

/* A message of many elements may hold failed ones, which were noted one by one. */
static bool is_bad(const struct attempts *log, uint64_t index, const struct good *good)
{
    for (size_t i = 0; i < log->bad_count; i++) {
        const struct bad *bad = &log->bad[i];
        if (bad->element == index && bad->a.attempt == good->attempt &&
            bad->place == good->place) {
            return true;
        }
    }
    return false;
}

/* Appends what is known of an element; with out NULL only counts. */
static size_t collect(const struct attempts *log, uint64_t index, struct trk_attempt *out)
{
    size_t n = 0;

    for (size_t i = 0; i < log->bad_count; i++) {
        const struct bad *bad = &log->bad[i];
        if (bad->element == index) {
            if (out != NULL) {
                out[n] = bad->a;
                attempts_own_output(&out[n]);
                fill_place(log, bad->place, &out[n]);
            }
            n++;
        }
    }
    for (size_t i = 0; i < log->good_count; i++) {
        const struct good *good = &log->good[i];
        if (good->first <= index && index - good->first < good->count &&
            !is_bad(log, index, good)) {
            if (out != NULL) {
                out[n] = (struct trk_attempt){.attempt = good->attempt,
                                              .outcome = TRK_OUTCOME_DONE,
                                              .started_ms = good->started_ms,
                                              .duration_ns = good->busy_ns / good->count};
                fill_place(log, good->place, &out[n]);
            }
            n++;
        }
    }
    return n;
}

static void sort_by_attempt(struct trk_attempt *a, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct trk_attempt it = a[i];
        size_t at = i;
        for (; at > 0 && a[at - 1].attempt > it.attempt; at--) {
            a[at] = a[at - 1];
        }
        a[at] = it;
    }
}

int attempts_now(struct trk_work *work, uint64_t index, struct trk_attempt **out, size_t *count)
{
    struct trk_attempt *found = NULL;
    size_t n = 0;

    *out = NULL;
    *count = 0;
    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    pthread_mutex_lock(&work->mutex);
    if (work->attempts != NULL) {
        n = collect(work->attempts, index, NULL);
    }
    found = mem_zalloc(n > 0 ? n : 1, sizeof(*found));
    if (found != NULL && n > 0) {
        collect(work->attempts, index, found);
    }
    pthread_mutex_unlock(&work->mutex);
    if (found == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    sort_by_attempt(found, n);
    *out = found;
    *count = n;
    return 0;
}

void trk_attempts_free(struct trk_attempt *attempts, size_t count)
{
    for (size_t i = 0; attempts != NULL && i < count; i++) {
        mem_free(attempts[i].output);
    }
    mem_free(attempts);
}

void attempts_free(struct attempts *log)
{
    if (log != NULL) {
        for (size_t i = 0; i < log->bad_count; i++) {
            mem_free(log->bad[i].a.output);
        }
        mem_free(log->bad);
        mem_free(log->good);
        mem_free(log->places);
        mem_free(log);
    }
}
