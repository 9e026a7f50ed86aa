/* SPDX-License-Identifier: MIT */
/* work.c - the program's side of a stage: elements in, results out.
 *
 * Elements are gathered in blocks (a post per element would cost more than the element), results
 * come as parcels. The window - elements added and not taken, bytes held on their behalf - is
 * kept here, by the one thread that uses the work; nothing on the farm thread ever waits for it. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"
#include "rai/modules.h"
#include "trickle/run.h"

#define AHEAD 100000u
#define AHEAD_DURABLE 200000u
#define BLOCK_ELEMENTS 1024u
#define BLOCK_BYTES ((size_t)64 << 10)
#define RECORDED_ELEMENTS 65536u
#define BLOCK_AGE_NS 1000000u      /* a slow iterable's elements are handed on after 1 ms */
#define CLOCK_EVERY 16             /* elements: the clock costs as much as a small element */
#define LARGE_BYTES ((size_t)32 << 10) /* from here an element goes alone, as a ready RUN body */

struct trk_work *work_ref(struct trk_work *work)
{
    atomic_fetch_add_explicit(&work->refs, 1, memory_order_relaxed);
    return work;
}

static void block_free(struct block *block)
{
    if (block != NULL) {
        block_fini(block);
        mem_free(block);
    }
}

void work_unref(struct trk_work *work)
{
    struct list *node;

    if (atomic_fetch_sub_explicit(&work->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    while ((node = list_pop_front(&work->ready)) != NULL) {
        struct parcel *parcel = container_of(node, struct parcel, node);
        parcel->work = NULL;
        parcel_free(parcel);
    }
    block_free(work->build);
    blocks_free(work);
    vmlist_unref(work->list);
    blob_unref(work->function);
    attempts_free(work->attempts);
    pthread_mutex_destroy(&work->mutex);
    waiter_fini(&work->waiter);
    farm_unref(work->farm);
    mem_free(work->opened);
    mem_free(work->slots);
    mem_free(work->heap);
    mem_free(work->name);
    mem_free(work);
}

void parcel_free(struct parcel *parcel)
{
    blob_unref(parcel->body);
    if (parcel->work != NULL) {
        work_unref(parcel->work);
    }
    mem_free(parcel);
}

/* Under the work's mutex. */
static void wake(struct trk_work *work)
{
    if (work->is_waiting) {
        waiter_post(&work->waiter);
        work->is_waiting = false;
    }
}

void work_put(struct parcel *parcel)
{
    struct trk_work *work = parcel->work;

    parcel->work = NULL; /* the queue's parcels hold no reference: no circle */
    atomic_fetch_add(&work->held_bytes, parcel->bytes);
    pthread_mutex_lock(&work->mutex);
    work->progress.done += parcel->count; /* with the results: who has all sees all done */
    work->progress.failed += parcel->failed;
    list_push_back(&work->ready, &parcel->node);
    if (!work->lazy || work->progress.done == work->total) {
        wake(work);
    }
    pthread_mutex_unlock(&work->mutex);
    work_unref(work);
}

void work_fail(struct trk_work *work, int error)
{
    pthread_mutex_lock(&work->mutex);
    if (work->error == 0) {
        work->error = error;
    }
    wake(work);
    pthread_mutex_unlock(&work->mutex);
}

/* --- opening ---------------- */

static void open_on_loop(void *arg)
{
    struct trk_work *work = arg;
    int rc = work->farm->is_closing ? TRK_ECLOSED : drive_open_work(work);

    if (rc < 0) {
        work_fail(work, rc);
    }
    work_unref(work);
}

bool work_fits(const struct trk_work *work, const char *own)
{
    return work->module[0] == '\0' || own[0] == '\0' || strcmp(own, work->module) == 0 ||
           rai_built_in_find(work->module) != NULL;
}

static int copy_slots(struct trk_work *work, const struct trk_work_options *opt)
{
    if (opt->list != NULL) {
        work->list = vmlist_ref(opt->list);
        return 0;
    }
    bool can_run = false;
    char option[FARM_RAI_MAX];
    work->slots = mem_zalloc(opt->vms_count > 0 ? opt->vms_count : 1, sizeof(struct slot *));
    if (work->slots == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < opt->vms_count; i++) {
        if (opt->vms[i]->farm != work->farm) {
            return fail(TRK_EINVAL, "a VM of another farm");
        }
        work->slots[work->slots_count++] = opt->vms[i]->slot;
        can_run |= work_fits(work, opt->vms[i]->info.module);
    }
    if (!can_run) {
        return fail(TRK_EINVAL, "none of these VMs runs work of the module %s; start some that do "
                    "with: trickle vm%s", work->module, farm_rai_option(work->module, option));
    }
    return 0;
}

static struct trk_work *work_new(struct trk_farm *farm, const struct trk_work_options *opt)
{
    struct trk_work *work = mem_zalloc(1, sizeof(*work));

    if (work == NULL || waiter_init(&work->waiter) < 0) {
        mem_free(work);
        return NULL;
    }
    atomic_init(&work->refs, 1);
    atomic_init(&work->is_stopped, false);
    work->farm = farm_ref(farm);
    pthread_mutex_init(&work->mutex, NULL);
    list_init(&work->node);
    list_init(&work->ready);
    work->ordered = opt->ordered;
    work->speculate = opt->speculate;
    work->lazy = opt->lazy;
    work->keep_elements = opt->keep_elements;
    work->total = UINT64_MAX;
    work->retries = opt->retries;
    work->retry_after_ms = opt->retry_after_ms;
    work->timeout_ms = opt->timeout_ms;
    snprintf(work->module, sizeof(work->module), "%s", opt->module != NULL ? opt->module : "");
    work->ahead_elements = opt->ahead_elements;
    if (work->ahead_elements == 0) { /* results of durable works come back a sync or two later */
        bool is_durable = farm->job != NULL && opt->key != NULL;
        work->ahead_elements = is_durable ? AHEAD_DURABLE : AHEAD;
    }
    work->ahead_bytes = opt->ahead_bytes != 0 ? opt->ahead_bytes : (uint64_t)256 << 20;
    work->name = mem_strdup(opt->name != NULL ? opt->name : "work");
    work->function = blob_dup(opt->function, opt->function_size);
    if (work->name == NULL || work->function == NULL) {
        work_unref(work);
        return NULL;
    }
    return work;
}

static int check_options(const struct trk_work_options *opt)
{
    if (opt->list == NULL && opt->vms_count == 0) {
        return fail(TRK_EINVAL, "no VMs to run on: connect() gives some");
    }
    if (opt->function_size > TRK_ELEMENT_BYTES_MAX) {
        return fail(TRK_ETOOBIG, "the function is %s", trk_strerror(TRK_ETOOBIG));
    }
    if (opt->module != NULL && strlen(opt->module) >= TRK_MODULE_MAX) {
        return fail(TRK_EINVAL, "the name of a module has at most %d bytes", TRK_MODULE_MAX - 1);
    }
    return 0;
}

int trk_work_new(struct trk_farm *farm, const struct trk_work_options *options,
                 struct trk_work **out)
{
    struct trk_work_options copy, *opt = &copy;
    struct trk_work *work;
    int rc = farm_usable(farm);

    if (rc < 0 || (rc = options_copy(&copy, sizeof(copy), options)) < 0 ||
        (rc = check_options(opt)) < 0) {
        return rc;
    }
    work = work_new(farm, opt);
    if (work == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    rc = durable_open(work, opt);
    if (rc < 0) {
        durable_close(work);
        work_unref(work);
        return rc;
    }
    rc = copy_slots(work, opt);
    if (rc == 0) {
        rc = net_loop_post(farm->loop, open_on_loop, work_ref(work));
        if (rc < 0) {
            work_unref(work);
            fail(rc, "the farm is closed");
        }
    }
    if (rc < 0) {
        durable_close(work);
        work_unref(work);
        return rc;
    }
    *out = work;
    return 0;
}

/* --- adding ---------------- */

static void add_on_loop(void *arg)
{
    struct block *block = arg;
    struct trk_work *work = block->work;
    size_t size = block->bytes != NULL ? block->bytes->size : 0;
    int rc = drive_add(work, block);

    if (rc < 0) {
        atomic_fetch_sub(&work->held_bytes, size);
        work_fail(work, rc);
    }
    mem_free(block);
    work_unref(work);
}

/* After the work records of all its elements. */
static void close_stage(struct trk_work *work)
{
    int rc;

    pthread_mutex_lock(&work->mutex);
    uint64_t total = work->elements, after = work->closed_after;
    bool is_left_open = work->is_left_open;
    pthread_mutex_unlock(&work->mutex);
    if (is_left_open) {
        return;
    }
    rc = job_stage_close(work->farm->job, work->store_stage, total, after);
    if (rc < 0) {
        work_fail(work, rc);
    }
}

static void close_on_loop(void *arg)
{
    struct trk_work *work = arg;

    drive_close_input(work);
    if (work->store_stage != 0) {
        close_stage(work);
    }
    pthread_mutex_lock(&work->mutex);
    if (work->progress.done == work->total) {
        wake(work); /* all had come before the end was known */
    }
    pthread_mutex_unlock(&work->mutex);
    work_unref(work);
}

static int post_block(struct trk_work *work, struct block *block)
{
    int rc;

    block->left = block->kind == BLOCK_RECORDED ? 0 : block->count;
    block->work = work_ref(work);
    rc = net_loop_post(work->farm->loop, add_on_loop, block);
    if (rc < 0) {
        work_unref(work);
        block_free(block);
        return fail(rc, "the farm is closed");
    }
    return 0;
}

int trk_work_flush(struct trk_work *work)
{
    struct block *block = work->build;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    if (block == NULL) {
        return 0;
    }
    work->build = NULL;
    block_trim(block);
    return post_block(work, block);
}

static struct block *block_new(const struct trk_work *work, enum block_kind kind, uint32_t cap,
                               size_t bytes)
{
    struct block *block = mem_zalloc(1, sizeof(*block));
    bool is_durable = work->in_job != NULL;

    if (block == NULL) {
        return NULL;
    }
    block->first = work->added;
    block->cap = cap;
    block->kind = kind;
    if (kind == BLOCK_RECORDED) {
        return block;
    }
    block->offsets = mem_alloc(((size_t)cap + 1) * sizeof(uint32_t));
    block->bytes = blob_new(bytes);
    block->digests = is_durable ? mem_alloc(cap * sizeof(struct digest)) : NULL;
    block->delivered = is_durable && !work->lazy ? mem_alloc(cap * sizeof(uint64_t)) : NULL;
    if (block->offsets == NULL || block->bytes == NULL ||
        (is_durable && (block->digests == NULL || (!work->lazy && block->delivered == NULL)))) {
        block_free(block);
        return NULL;
    }
    block->offsets[0] = 0;
    return block;
}

/* What a durable work notes of an element, beside its bytes. */
static void note(const struct trk_work *work, struct block *block, const struct digest *digest)
{
    if (block->digests != NULL) {
        block->digests[block->count] = *digest;
    }
    if (block->delivered != NULL) {
        block->delivered[block->count] = work->pulled_at;
    }
}

static int add_large(struct trk_work *work, const void *element, size_t size,
                     enum block_kind kind, const struct digest *digest)
{
    struct wire_part part = {element, size};
    struct block *block;
    int rc = trk_work_flush(work);

    if (rc < 0) {
        return rc;
    }
    block = block_new(work, kind, 1, 0);
    if (block == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    blob_unref(block->bytes);
    block->bytes = wire_run_encode(0, 0, work->added, &part, 1);
    if (block->bytes == NULL) {
        block_free(block);
        return fail(TRK_ENOMEM, "out of memory for an element of %zu bytes", size);
    }
    note(work, block, digest);
    block->is_run = true;
    block->count = 1;
    work->added++;
    atomic_fetch_add(&work->held_bytes, block->bytes->size);
    return post_block(work, block);
}

/* The block that is being filled, where it is of that kind and has room; else a new one. */
static int block_for(struct trk_work *work, enum block_kind kind, uint32_t cap, size_t size,
                     struct block **out)
{
    struct block *block = work->build;
    int rc;

    if (block != NULL && (block->kind != kind || (kind != BLOCK_RECORDED &&
                          block->bytes->size + size > block->bytes->cap))) {
        if ((rc = trk_work_flush(work)) < 0) {
            return rc;
        }
        block = NULL;
    }
    if (block == NULL) {
        block = block_new(work, kind, cap, BLOCK_BYTES);
        if (block == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
        work->build = block;
        work->build_since_ns = sys_now_ns();
    }
    *out = block;
    return 0;
}

static int add_small(struct trk_work *work, const void *element, size_t size,
                     enum block_kind kind, const struct digest *digest)
{
    struct block *block;
    int rc = block_for(work, kind, BLOCK_ELEMENTS, size, &block);

    if (rc < 0) {
        return rc;
    }
    note(work, block, digest);
    if (size > 0) { /* of nothing there need be no address */
        memcpy(block->bytes->data + block->bytes->size, element, size);
        block->bytes->size += size;
    }
    block->offsets[++block->count] = (uint32_t)block->bytes->size;
    work->added++;
    atomic_fetch_add_explicit(&work->held_bytes, size, memory_order_relaxed);
    if (block->count == block->cap ||
        (block->count % CLOCK_EVERY == 0 && sys_now_ns() - work->build_since_ns > BLOCK_AGE_NS)) {
        return trk_work_flush(work);
    }
    return 0;
}

/* It has its result: it is only counted. */
static int add_recorded(struct trk_work *work)
{
    struct block *block;
    int rc = block_for(work, BLOCK_RECORDED, RECORDED_ELEMENTS, 0, &block);

    if (rc < 0) {
        return rc;
    }
    block->count++;
    work->added++;
    return block->count == block->cap ? trk_work_flush(work) : 0;
}

static bool is_full(struct trk_work *work, size_t size)
{
    /* added and not taken, restored ones apart */
    uint64_t open = (work->added - work->restored) - (work->taken - work->restored_taken);

    return open > 0 && (open >= work->ahead_elements ||
                        atomic_load_explicit(&work->held_bytes, memory_order_relaxed) + size >
                            work->ahead_bytes);
}

bool work_is_full(struct trk_work *work)
{
    return is_full(work, work->is_offered ? work->offered_size : 0);
}

/* The program's element of a durable work, made when pulled_at results had been taken. */
static int add_durable(struct trk_work *work, const void *element, size_t size)
{
    struct offer offer = {element, size, hash_digest(element, size)};
    enum block_kind kind = BLOCK_NEW;
    bool is_adopted;
    int rc = 0;

    if (!work->is_offered) {
        work->pulled_at = work->taken;
        work->is_offered = true;
        work->offered_size = size;
    }
    if (work->replay != NULL || work->edit != NULL) {
        rc = durable_look(work, &offer, &kind);
    }
    if (rc < 0) {
        return rc;
    }
    if (kind != BLOCK_RECORDED && is_full(work, size)) {
        return TRK_FULL;
    }
    is_adopted = rc == 1;
    rc = work->keep_elements ? kept_again(work, element, size) : 0;
    if (rc < 0) {
        return rc;
    }
    work->is_offered = false;
    if (kind == BLOCK_RECORDED) {
        work->restored += !is_adopted;
        return add_recorded(work);
    }
    return size >= LARGE_BYTES ? add_large(work, element, size, kind, &offer.digest)
                               : add_small(work, element, size, kind, &offer.digest);
}

int trk_work_add(struct trk_work *work, const void *element, size_t size)
{
    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    if (work->is_closed) {
        return fail(TRK_ECLOSED, "elements were added after the end of the work list");
    }
    if (work->is_cancelled) {
        return fail(TRK_ECANCELLED, "the work was cancelled");
    }
    if (size > TRK_ELEMENT_BYTES_MAX) {
        return fail(TRK_ETOOBIG, "element %llu has %zu bytes: %s",
                    (unsigned long long)work->added, size, trk_strerror(TRK_ETOOBIG));
    }
    if (work->in_job != NULL) {
        return add_durable(work, element, size);
    }
    if (is_full(work, size)) {
        return TRK_FULL;
    }
    return size >= LARGE_BYTES ? add_large(work, element, size, BLOCK_NEW, NULL)
                               : add_small(work, element, size, BLOCK_NEW, NULL);
}

static int end_adding(struct trk_work *work, bool is_left_open)
{
    int rc = trk_work_flush(work);

    if (rc == 0 && !work->is_closed && !is_left_open) {
        rc = durable_check_end(work);
    }
    if (rc < 0 || work->is_closed) {
        return rc;
    }
    work->is_closed = true;
    pthread_mutex_lock(&work->mutex);
    work->total = work->added - work->restored;
    work->elements = work->added;
    work->closed_after = work->lazy ? 0 : work->taken;
    work->is_left_open = is_left_open;
    pthread_mutex_unlock(&work->mutex);
    rc = net_loop_post(work->farm->loop, close_on_loop, work_ref(work));
    if (rc < 0) {
        work_unref(work);
        return fail(rc, "the farm is closed");
    }
    return 0;
}

int trk_work_close(struct trk_work *work)
{
    return end_adding(work, false);
}

int trk_work_leave_open(struct trk_work *work)
{
    return end_adding(work, true);
}

/* --- ending ---------------- */

static void cancel_on_loop(void *arg)
{
    drive_cancel(arg, false);
    work_unref(arg);
}

static void interrupt_on_loop(void *arg)
{
    drive_cancel(arg, true);
    work_unref(arg);
}

static void free_on_loop(void *arg)
{
    drive_forget_work(arg);
    work_unref(arg);
}

void trk_work_stop(struct trk_work *work)
{
    atomic_store(&work->is_stopped, true);
    waiter_post(&work->waiter); /* sem_post may be called in a signal handler */
}

void trk_work_cancel(struct trk_work *work, bool interrupt)
{
    if (sys_is_forked() || work->is_cancelled) {
        return;
    }
    work->is_cancelled = true;
    if (net_loop_post(work->farm->loop, interrupt ? interrupt_on_loop : cancel_on_loop,
                      work_ref(work)) < 0) {
        work_unref(work);
    }
}

void trk_work_free(struct trk_work *work)
{
    if (work == NULL || sys_is_forked()) {
        return;
    }
    durable_close(work);
    for (size_t i = 0; i < work->heap_count; i++) {
        parcel_free(work->heap[i]);
    }
    work->heap_count = 0;
    if (work->current != NULL) {
        parcel_free(work->current);
        work->current = NULL;
    }
    if (net_loop_post(work->farm->loop, free_on_loop, work) < 0) {
        work_unref(work); /* the farm has ended; it let go of the work itself */
    }
}
