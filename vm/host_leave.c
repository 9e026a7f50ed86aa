/* SPDX-License-Identifier: MIT */
/* host_leave.c - how a lease and the process of a VM end. Net thread.
 *
 * The end of a lease (BYE, or the connection ends) finds the process in one of three ways:
 *   never used   it is free again as it is
 *   idle         it ends in order: the compute thread returns from trk_vm_serve, the interpreter
 *                is finalised; a timer on this thread bounds that
 *   computing    it ends at once, unless the holder has vanished and a durable stage's element
 *                runs: that is finished first (host_hold.c)
 * Before that the page says STARTING and the supervisor is told, so that a program that comes
 * right behind this one counts the VM and waits for it.
 *
 * A VM that leaves by itself (drained, recycled):
 *
 *   host_leave    RECALLED for each queued run, BYE       (what comes later goes straight back)
 *   drained       the running element has ended, its result is sent
 *   linger        drained only: the holder may still fetch what it needs; requests are answered
 *   close         after the last result; then as at the end of a lease
 *
 * RECALLED and BYE overtake results that wait in the session, which does no harm: the holder goes
 * by the end of the stream, and that comes behind the last result. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "vm/host_impl.h"

void host_tell(struct host *h, char byte)
{
    ssize_t n = send(h->fds.control, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n != 1) {
        log_debug("vm", "supervisor not told '%c': %s", byte, strerror(errno));
    }
}

void host_set_state(struct host *h, enum trk_vm_state state)
{
    atomic_store(&h->page->state, (unsigned)state);
}

void host_note_end(struct host *h, enum wire_end end)
{
    atomic_store(&h->page->end, (unsigned)end);
}

/* --- the end of the process ---------------------------------------------------------- */

void host_on_exit_timer(uv_timer_t *timer)
{
    (void)timer;
    log_debug("vm", "the orderly end took over %d ms", HOST_EXIT_MS);
    _exit(0);
}

/* From here on who connects waits for the next process. */
static void stop_accepting(struct host *h)
{
    net_listener_close(h->listen_unix); /* NULL is fine */
    net_listener_close(h->listen_tcp);
    h->listen_unix = h->listen_tcp = NULL;
}

/* Says so, in the page first. */
static void announce_end(struct host *h)
{
    stop_accepting(h);
    h->is_over = true;
    host_note_end(h, h->leaving != WIRE_END_UNKNOWN ? h->leaving : WIRE_END_LEASE);
    if (h->leaving != WIRE_END_DRAINED) {
        host_set_state(h, TRK_VM_STARTING);
    }
    host_tell(h, 'E');
}

/* The process ends: at once when code is running, else in order. */
static void end_process(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    h->is_ending = true;
    bool is_running = atomic_load(&h->is_running);
    host_wake(h);
    pthread_mutex_unlock(&h->lock);
    if (is_running) {
        _exit(0);
    }
    uv_timer_start(&h->exit_timer, host_on_exit_timer, HOST_EXIT_MS, 0);
}

/* --- the lease ----------------------------------------------------------------------- */

static struct net_session *holder_session(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    struct net_session *s = h->session != NULL ? net_session_ref(h->session) : NULL;
    pthread_mutex_unlock(&h->lock);
    return s;
}

/* The holder has gone or said goodbye. Harmless when it has happened before. */
void host_lease_end(struct host *h, bool has_vanished)
{
    pthread_mutex_lock(&h->lock);
    struct net_session *s = h->session;
    h->session = NULL;
    bool goes_on = s != NULL && host_hold_begin(h, has_vanished);
    bool can_stay = s != NULL && !goes_on && agent_release(h->agent) &&
                    h->leaving == WIRE_END_UNKNOWN;
    pthread_mutex_unlock(&h->lock);
    if (s == NULL) {
        return;
    }
    if (goes_on) {
        char owner[sizeof(h->page->owner)];
        snprintf(owner, sizeof(owner), "%.*s, gone", (int)sizeof(owner) - 8, h->page->owner);
        memcpy(h->page->owner, owner, sizeof(owner));
        host_set_state(h, TRK_VM_FINISHING);
        host_tell(h, 'L'); /* by somebody else, so to say */
        net_session_close(s, false);
        net_session_unref(s);
        return;
    }
    if (can_stay) {
        atomic_store(&h->page->has_lease, 0);
        host_set_state(h, TRK_VM_IDLE);
        host_tell(h, 'R');
    } else {
        announce_end(h);
    }
    net_session_close(s, false);
    net_session_unref(s);
    if (!can_stay) {
        end_process(h);
    }
}

/* --- leaving ------------------------------------------------------------------------- */

void host_give_back(struct host *h, struct net_session *s)
{
    struct wire_message out;
    int rc;
    do {
        pthread_mutex_lock(&h->lock);
        rc = agent_give_back(h->agent, &out);
        pthread_mutex_unlock(&h->lock);
        if (rc > 0 && net_session_send(s, out.type, out.stream, out.body) == TRK_ENOMEM) {
            rc = TRK_ENOMEM;
        }
    } while (rc > 0);
    if (rc < 0) {
        host_out_of_memory();
    }
}

void host_leave(struct host *h, enum wire_end why)
{
    bool is_first = h->leaving == WIRE_END_UNKNOWN;
    if (h->is_over || (!is_first && why == WIRE_END_RECYCLED)) {
        return;
    }
    h->leaving = why;
    atomic_store(&h->is_to_move, why == WIRE_END_DRAINED);
    stop_accepting(h);
    if (why == WIRE_END_DRAINED) {
        host_set_state(h, TRK_VM_STOPPING);
    }
    pthread_mutex_lock(&h->lock);
    h->is_draining = true;
    host_wake(h);
    pthread_mutex_unlock(&h->lock);
    struct net_session *s = is_first ? holder_session(h) : NULL;
    if (s != NULL) {
        host_give_back(h, s);
        struct blob *bye = blob_new(0);
        if (bye == NULL || net_session_send(s, WIRE_BYE, 0, bye) == TRK_ENOMEM) {
            host_out_of_memory();
        }
        net_session_unref(s);
    }
}

void host_net_recycle(void *host)
{
    host_leave(host, WIRE_END_RECYCLED);
}

/* Closes when the holder has taken all, which may be gigabytes. */
static void close_when_sent(struct host *h, struct net_session *s)
{
    uint64_t now_ms = net_loop_now_ms(h->loop);
    pthread_mutex_lock(&h->lock);
    size_t unsent = net_session_queued(s) + agent_kept(h->agent); /* those come to a disk */
    pthread_mutex_unlock(&h->lock);
    if (unsent != h->unsent || h->unsent_ms == 0) {
        h->unsent = unsent;
        h->unsent_ms = now_ms;
    }
    if (unsent > 0 && now_ms - h->unsent_ms < HOST_STALL_MS) {
        uv_timer_start(&h->linger_timer, host_on_linger_timer, HOST_UNSENT_MS, 0);
    } else {
        net_session_close(s, true); /* on_close comes when all is out, and ends the lease */
    }
}

void host_on_linger_timer(uv_timer_t *timer)
{
    struct host *h = timer->data;
    pthread_mutex_lock(&h->lock);
    bool is_busy = atomic_load(&h->is_running) || agent_has_request(h->agent);
    pthread_mutex_unlock(&h->lock);
    struct net_session *s = holder_session(h);
    if (s != NULL && !is_busy) { /* else host_net_drained comes again */
        close_when_sent(h, s);
    }
    net_session_unref(s);
}

void host_net_drained(void *host)
{
    struct host *h = host;
    struct net_session *s = holder_session(h);
    uint64_t now_ms = net_loop_now_ms(h->loop);
    if (h->linger_end_ms == 0) {
        h->linger_end_ms = now_ms + HOST_LINGER_MAX_MS;
    }
    if (s == NULL && !h->is_over) {
        host_hold_late(h);
        pthread_mutex_lock(&h->lock);
        agent_release(h->agent);
        pthread_mutex_unlock(&h->lock);
        announce_end(h);
        end_process(h);
    } else if (s != NULL && h->leaving == WIRE_END_DRAINED && now_ms < h->linger_end_ms) {
        uv_timer_start(&h->linger_timer, host_on_linger_timer, HOST_LINGER_MS, 0);
    } else if (s != NULL) {
        close_when_sent(h, s);
    }
    net_session_unref(s);
}
