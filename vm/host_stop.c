/* SPDX-License-Identifier: MIT */
/* host_stop.c - what stops a running element: its timeout, an interrupt. Net thread.
 *
 * The compute thread takes each job under the lock, so as long as this thread holds the lock the
 * running element may end, but no other can begin: what is done to it hits it or nothing.
 *
 * Timeouts. One timer. An element that begins after a look was queued at that look (or came with
 * a later RUN, which looks again), so the next look is due when the running one will have used up
 * its time, or after the least timeout of those that are queued: whatever begins meanwhile cannot
 * be over before. There is no timer when nothing that runs or is queued has a timeout.
 *
 * Interrupts. The compute thread looks at interrupted_run after it has noted the element in the
 * page, so one that comes before that finds its element, too; the little that is left between the
 * look and the module's own preparations is covered by a second interrupt a moment later. */
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sys.h"
#include "vm/host_impl.h"

#define NEVER UINT64_MAX
#define MS_NS 1000000u

/* --- timeouts ------------------------------------------------------------------------ */

/* Where the code is stuck, into the output. A dump that hangs itself is cut short by the kernel:
 * the page says already why this process dies. */
static void dump(struct host *h)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct itimerspec after = {.it_value.tv_nsec = HOST_DUMP_MS * (long)MS_NS};
    timer_t timer;
    const struct host_module *m = h->run_in->module;
    if (m == NULL || m->table.dump == NULL) {
        return;
    }
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0) {
        return;
    }
    if (timer_settime(timer, 0, &after, NULL) == 0) {
        m->table.dump(m->state);
    }
    timer_delete(timer);
}

/* Under the lock, for good: no other element begins, the page stays as it is. */
static _Noreturn void expire(struct host *h)
{
    log_info("vm", "element %llu of stage %u has used up its timeout of %u ms",
             (unsigned long long)h->run_index, h->run_stage, h->run_timeout_ms);
    host_note_end(h, WIRE_END_TIMEOUT);
    dump(h);
    _exit(HOST_EXIT_TIMEOUT);
}

/* When the running element will have used up its time. Under the lock. */
static uint64_t running_due_ns(struct host *h, uint64_t now_ns)
{
    if (!atomic_load(&h->is_running) || !h->run_is_element || h->run_timeout_ms == 0) {
        return NEVER;
    }
    bool has_begun = atomic_load_explicit(&h->page->has_element, memory_order_acquire) == 1;
    uint64_t start_ns = now_ns; /* at the earliest */
    if (has_begun) {
        start_ns = atomic_load_explicit(&h->page->start_ns, memory_order_relaxed);
    }
    return start_ns + (uint64_t)h->run_timeout_ms * MS_NS;
}

static void on_timeout_timer(uv_timer_t *timer)
{
    host_look_at_timeout(timer->data);
}

void host_look_at_timeout(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    uint64_t now_ns = sys_now_ns();
    uint32_t queued_ms = agent_timeout_ms(h->agent);
    uint64_t due_ns = running_due_ns(h, now_ns);
    if (due_ns <= now_ns) {
        expire(h);
    }
    pthread_mutex_unlock(&h->lock);
    if (queued_ms != 0 && now_ns + (uint64_t)queued_ms * MS_NS < due_ns) {
        due_ns = now_ns + (uint64_t)queued_ms * MS_NS;
    }
    if (due_ns == NEVER) {
        uv_timer_stop(&h->timeout_timer);
        return;
    }
    uv_update_time(net_loop_uv(h->loop)); /* timers count from the loop's idea of now */
    uv_timer_start(&h->timeout_timer, on_timeout_timer, (due_ns - now_ns + MS_NS - 1) / MS_NS, 0);
}

/* --- interrupts ---------------------------------------------------------------------- */

/* Under the lock. */
static void ask_to_stop(struct host *h)
{
    const struct host_module *m = h->run_in->module;
    if (m != NULL && m->table.interrupt != NULL) { /* NULL: what did not open ends at once */
        m->table.interrupt(m->state);
    }
}

/* Has the running element begun only just now, or not even that? Under the lock. */
static bool is_early(const struct host *h)
{
    uint64_t start_ns = atomic_load_explicit(&h->page->start_ns, memory_order_relaxed);
    return atomic_load_explicit(&h->page->has_element, memory_order_acquire) == 0 ||
           sys_now_ns() - start_ns < HOST_AGAIN_MS * MS_NS;
}

static _Noreturn void end_deaf(struct host *h)
{
    log_info("vm", "cancelled code did not stop within %d ms: this VM starts again",
             HOST_INTERRUPT_MS);
    /* Nobody's fault: the initiator wanted it. */
    host_note_end(h, WIRE_END_DEAF);
    if (h->leaving != WIRE_END_DRAINED) {
        host_set_state(h, TRK_VM_STARTING);
    }
    host_tell(h, 'E');
    _exit(HOST_EXIT_INTERRUPTED);
}

static void on_interrupt_timer(uv_timer_t *timer)
{
    struct host *h = timer->data;
    pthread_mutex_lock(&h->lock);
    bool is_stuck = atomic_load(&h->is_running) && h->run == atomic_load(&h->interrupted_run);
    if (is_stuck && h->is_repeated) {
        ask_to_stop(h);
    } else if (is_stuck) {
        end_deaf(h);
    }
    pthread_mutex_unlock(&h->lock);
    if (is_stuck) {
        h->is_repeated = false;
        uv_timer_start(&h->interrupt_timer, on_interrupt_timer, HOST_INTERRUPT_MS - HOST_AGAIN_MS,
                       0);
    }
}

void host_interrupt(struct host *h, const struct wire_note *cancel)
{
    pthread_mutex_lock(&h->lock);
    bool is_hit = atomic_load(&h->is_running) && h->run_is_element &&
                  h->run_stage == cancel->stage && h->run != atomic_load(&h->interrupted_run) &&
                  (cancel->count == 0 || h->run_index - cancel->first < cancel->count);
    if (is_hit) {
        atomic_store(&h->interrupted_run, h->run);
        h->is_repeated = is_early(h);
        ask_to_stop(h);
    }
    pthread_mutex_unlock(&h->lock);
    if (is_hit) {
        uv_timer_start(&h->interrupt_timer, on_interrupt_timer,
                       h->is_repeated ? HOST_AGAIN_MS : HOST_INTERRUPT_MS, 0);
    }
}
