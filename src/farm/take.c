/* SPDX-License-Identifier: MIT */
/* take.c - results out: parcels from the farm, and what the store gives of the last run.
 *
 * In a resumed job recorded results come before live ones, in the order in which they were
 * recorded, and each only when the program has added its element again. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

#define LAZY_MS 10

/* What the program has taken, on its way to the scheduler. */
struct taken {
    struct trk_work *work;
    uint64_t first, count;
};

static void taken_on_loop(void *arg)
{
    struct taken *taken = arg;

    drive_delivered(taken->work, taken->first, taken->count);
    work_unref(taken->work);
    mem_free(taken);
}

static int finish_current(struct trk_work *work)
{
    struct parcel *parcel = work->current;
    struct taken *taken = parcel->is_restored ? NULL : mem_alloc(sizeof(*taken));
    int rc = parcel->is_restored ? 0 : TRK_ENOMEM;

    if (taken != NULL) {
        *taken = (struct taken){work_ref(work), parcel->first, parcel->count};
        rc = net_loop_post(work->farm->loop, taken_on_loop, taken);
        if (rc < 0) {
            work_unref(work);
            mem_free(taken);
        }
    }
    work->current = NULL;
    atomic_fetch_sub(&work->held_bytes, parcel->bytes);
    parcel_free(parcel);
    return rc == TRK_ENOMEM ? fail(rc, "out of memory") : 0; /* a closed farm has no use for it */
}

static int heap_push(struct trk_work *work, struct parcel *parcel)
{
    size_t i = work->heap_count;

    if (i == work->heap_cap) {
        size_t cap = work->heap_cap ? work->heap_cap * 2 : 64;
        struct parcel **heap = mem_realloc(work->heap, cap * sizeof(struct parcel *));
        if (heap == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
        work->heap = heap;
        work->heap_cap = cap;
    }
    work->heap_count++;
    for (; i > 0 && work->heap[(i - 1) / 2]->first > parcel->first; i = (i - 1) / 2) {
        work->heap[i] = work->heap[(i - 1) / 2];
    }
    work->heap[i] = parcel;
    return 0;
}

static struct parcel *heap_pop(struct trk_work *work)
{
    struct parcel *top = work->heap[0];
    struct parcel *last = work->heap[--work->heap_count];
    size_t i = 0, n = work->heap_count;

    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < n && work->heap[child + 1]->first < work->heap[child]->first) {
            child++;
        }
        if (child >= n || work->heap[child]->first >= last->first) {
            break;
        }
        work->heap[i] = work->heap[child];
        i = child;
    }
    if (n > 0) {
        work->heap[i] = last;
    }
    return top;
}

/* Takes the next parcel that is due from what has come. */
static int take_ready(struct trk_work *work)
{
    struct list *node;
    int rc = 0;

    pthread_mutex_lock(&work->mutex);
    do {
        node = list_pop_front(&work->ready);
        if (node != NULL && work->ordered) {
            rc = heap_push(work, container_of(node, struct parcel, node));
            if (rc < 0) {
                list_push_front(&work->ready, node);
            }
        } else if (node != NULL) {
            work->current = container_of(node, struct parcel, node);
        }
    } while (rc == 0 && node != NULL && work->ordered);
    if (rc == 0 && work->error < 0 && work->current == NULL) {
        rc = work->error;
    }
    pthread_mutex_unlock(&work->mutex);
    if (work->ordered && work->heap_count > 0 && work->heap[0]->first == work->next_index) {
        work->current = heap_pop(work);
        work->next_index += work->current->count;
        rc = 0;
    }
    return rc;
}

static void wait_ready(struct trk_work *work, int timeout_ms)
{
    work->is_interrupted = false;
    pthread_mutex_lock(&work->mutex);
    waiter_drain(&work->waiter); /* of what came when the last wait had just ended ... */
    if (list_is_empty(&work->ready) && work->error == 0 && !atomic_load(&work->is_stopped)) {
        work->is_waiting = true; /* ... before is_stopped is looked at: it is set, then posted */
        pthread_mutex_unlock(&work->mutex);
        if (work->lazy && (timeout_ms < 0 || timeout_ms > LAZY_MS)) {
            timeout_ms = LAZY_MS;
        }
        errno = 0;
        work->is_interrupted = waiter_wait(&work->waiter, timeout_ms) != 0 && errno == EINTR;
        pthread_mutex_lock(&work->mutex);
        work->is_waiting = false;
    }
    pthread_mutex_unlock(&work->mutex);
}

static void take_one(struct trk_work *work, struct trk_result *out)
{
    struct parcel *p = work->current;
    uint32_t size = le_load_u32(p->sizes + (size_t)p->at * 4);

    *out = (struct trk_result){.index = p->first + p->at, .status = p->statuses[p->at],
                               .payload = p->payloads, .size = size, .attempts = p->attempt};
    p->payloads += size;
    p->at++;
    work->taken++;
}

static int work_error(struct trk_work *work, int error)
{
    if (error == TRK_ECLOSED) {
        return fail(error, "the work cannot go on: its VMs have been given back (the list of VMs, "
                    "or the farm, was closed)");
    }
    return fail(error, "the work cannot go on: %s", trk_strerror(error));
}

/* The list ended here, after results that have not been given yet: they run again. */
static bool is_end_due(const struct trk_work *work)
{
    return !work->is_closed && work->added == work->last_total &&
           work->taken < work->last_closed_after;
}

/* What was recorded before this run. 0; TRK_AGAIN: the next one's element has to be added first;
 * TRK_END: none is due now, or none can be: for its element there is no room before others have
 * been taken (those before it may run because their failures do not count any more). */
static int take_restored(struct trk_work *work, struct trk_result *out)
{
    struct replay *r = work->replay;
    int rc = TRK_END;

    if (trk_work_turn(work) == TRK_TURN_ADD) {
        rc = TRK_AGAIN;
    } else if (work->ordered) {
        rc = work->next_index < work->added ? replay_take_at(r, work->next_index, out) : TRK_END;
        work->next_index += rc == 0;
    } else {
        rc = replay_take(r, work->added, work->is_closed, out);
    }
    if (rc == 0) {
        work->taken++;
        work->restored_taken++;
        work->restored_failed += out->status != TRK_STATUS_OK;
    } else if (rc == TRK_END && r->is_given && replay_is_over(r, work->added) &&
               work->restored_taken == work->restored && !is_end_due(work) &&
               (work->edit != NULL ||
                job_stage_previous(work->farm->job, work->in_job->number) == 0)) {
        replay_free(r);
        work->replay = NULL;
    }
    if (rc == TRK_AGAIN && (work->lazy ? work->taken < work->added : work_is_full(work))) {
        rc = TRK_END;
    }
    return rc;
}

int trk_work_next(struct trk_work *work, int timeout_ms, struct trk_result *out)
{
    int rc = 0;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    for (bool has_waited = false;; has_waited = true) {
        if (atomic_load_explicit(&work->is_stopped, memory_order_relaxed)) {
            return fail(TRK_ECANCELLED, "the work was stopped");
        }
        if (work->current != NULL && work->current->at == work->current->count) {
            rc = finish_current(work);
        }
        if (rc < 0 || work->is_cancelled || (work->is_closed && work->taken == work->added)) {
            return rc < 0 ? rc : TRK_END;
        }
        if (work->current == NULL && work->replay != NULL) {
            rc = take_restored(work, out);
            if (rc != TRK_END) {
                return rc;
            }
        }
        if (work->current == NULL && (rc = take_ready(work)) < 0) {
            return work_error(work, rc);
        }
        if (work->current != NULL) {
            take_one(work, out);
            return 0;
        }
        if (has_waited || timeout_ms == 0) {
            return TRK_AGAIN;
        }
        if ((rc = trk_work_flush(work)) < 0) {
            return rc;
        }
        wait_ready(work, timeout_ms);
    }
}

void trk_work_progress(struct trk_work *work, struct trk_progress *out)
{
    pthread_mutex_lock(&work->mutex);
    *out = work->progress;
    pthread_mutex_unlock(&work->mutex);
    out->added = work->added;
    out->restored = work->restored;
    out->done += work->restored;
    out->failed += work->restored_failed;
    out->is_closed = work->is_closed;
}
