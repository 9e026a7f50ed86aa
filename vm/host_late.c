/* SPDX-License-Identifier: MIT */
/* host_late.c - results that wait behind a long element.
 *
 * Trivial results are gathered for some milliseconds, and whether these have passed is looked at
 * when the next element has ended. When that one runs for an hour, or for ever, what was gathered
 * before must not wait for it, nor die with it: the net thread sends it.
 *
 * What is gathered belongs to the compute thread between elements, and to nobody while one runs.
 * page->has_element says which, and is the lock, so that the usual case costs nothing more:
 *
 *   0 --begins--> 1 --ends--> 0        compute thread
 *                 1 <-------> 2        net thread, which sends meanwhile; the end waits for it
 *
 * The timer runs only while there is something to look for: the compute thread arms it when it
 * begins an element with results in hand. It is disarmed where the compute thread cannot miss
 * that: while the net thread holds has_element at 2, or under the lock when nothing runs. */
#include "base/sys.h"
#include "vm/host_impl.h"

#define LATE_MS 10
#define LONG_NS 1000000u /* an element that has run for so long */

/* Sends for the compute thread. False: no element runs, or only a short one. */
static bool send_late(struct host *h)
{
    struct vm_page *page = h->page;
    unsigned running = 1;
    if (atomic_load_explicit(&page->has_element, memory_order_acquire) != 1 ||
        sys_now_ns() - atomic_load_explicit(&page->start_ns, memory_order_relaxed) < LONG_NS ||
        !atomic_compare_exchange_strong(&page->has_element, &running, 2)) {
        return false;
    }
    host_flush(h);
    host_hold_late(h);
    atomic_store_explicit(&h->is_late_armed, false, memory_order_relaxed);
    atomic_store_explicit(&page->has_element, 1, memory_order_release);
    return true;
}

static void on_timer(uv_timer_t *timer)
{
    struct host *h = timer->data;
    if (send_late(h)) {
        return;
    }
    pthread_mutex_lock(&h->lock);
    bool is_idle = h->is_waiting || h->is_ending; /* then all has been sent */
    if (is_idle) {
        atomic_store_explicit(&h->is_late_armed, false, memory_order_relaxed);
    }
    pthread_mutex_unlock(&h->lock);
    if (!is_idle) {
        uv_timer_start(timer, on_timer, LATE_MS, 0);
    }
}

static void start_timer(void *host)
{
    struct host *h = host;
    uv_timer_start(&h->late_timer, on_timer, LATE_MS, 0);
}

void host_late_arm(struct host *h)
{
    atomic_store_explicit(&h->is_late_armed, true, memory_order_relaxed);
    if (net_loop_post(h->loop, start_timer, h) < 0) {
        atomic_store_explicit(&h->is_late_armed, false, memory_order_relaxed); /* the next tries */
    }
}
