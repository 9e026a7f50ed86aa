/* SPDX-License-Identifier: MIT */
/* host_net.c - the net half of a VM: who may use it, what comes in, when it ends.
 *
 *   accept -> HELLO -> granted: the holder, its messages go to the agent
 *                   -> refused: WELCOME that names the holder, closed
 *
 * The end of a lease (BYE, or the connection ends) finds the process in one of three ways:
 *   never used   it is free again as it is
 *   idle         it ends in order: the compute thread returns from trk_vm_serve, the interpreter
 *                is finalised; a timer on this thread bounds that
 *   computing    it ends at once
 * Before that the page says STARTING and the supervisor is told, so that a program that comes
 * right behind this one counts the VM and waits for it.
 *
 * A drained VM closes the connection after its last result without a BYE: control messages
 * overtake results, the end of the stream does not. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "vm/host_impl.h"
#include "wire/msg.h"

/* One accepted connection. */
struct peer {
    struct host *host;
    struct net_session *session; /* our reference; known from the first callback on */
    bool is_proved; /* it has said HELLO (whatever became of that) */
    bool is_holder;
};

/* --- small helpers ------------------------------------------------------------------- */

void host_wake(struct host *h)
{
    if (h->is_waiting) {
        h->is_waiting = false;
        sem_post(&h->wake);
    }
}

static void tell_supervisor(struct host *h, char byte)
{
    ssize_t n = send(h->fds.control, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n != 1) {
        log_debug("vm", "supervisor not told '%c': %s", byte, strerror(errno));
    }
}

/* Moves what the net room has counted since the last time into the page. */
static void count_dropped(struct host *h)
{
    uint64_t now = net_dropped();
    atomic_fetch_add(&h->page->dropped, now - h->dropped_seen);
    h->dropped_seen = now;
}

static void page_set_state(struct host *h, enum trk_vm_state state)
{
    atomic_store(&h->page->state, (unsigned)state);
}

/* --- the end of the process ---------------------------------------------------------- */

static void on_exit_timer(uv_timer_t *timer)
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
    uv_timer_start(&h->exit_timer, on_exit_timer, HOST_EXIT_MS, 0);
}

/* The supervisor has gone: nobody will look after this process and its children any more. */
static _Noreturn void die_with_group(struct host *h)
{
    if (getpgrp() == h->pid) {
        kill(-h->pid, SIGKILL);
    }
    _exit(1);
}

/* --- the lease ----------------------------------------------------------------------- */

/* The holder has gone or said goodbye. Harmless when it has happened before. */
static void lease_end(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    struct net_session *s = h->session;
    h->session = NULL;
    bool is_draining = h->is_draining;
    bool can_stay = s != NULL && agent_release(h->agent) && !is_draining;
    pthread_mutex_unlock(&h->lock);
    if (s == NULL) {
        return;
    }
    if (can_stay) {
        atomic_store(&h->page->has_lease, 0);
        page_set_state(h, TRK_VM_IDLE);
        tell_supervisor(h, 'R');
    } else {
        stop_accepting(h);
        if (!is_draining) {
            page_set_state(h, TRK_VM_STARTING);
        }
        tell_supervisor(h, 'E');
    }
    net_session_close(s, false);
    net_session_unref(s);
    if (!can_stay) {
        end_process(h);
    }
}

void host_net_drained(void *host)
{
    struct host *h = host;
    pthread_mutex_lock(&h->lock);
    struct net_session *s = h->session != NULL ? net_session_ref(h->session) : NULL;
    pthread_mutex_unlock(&h->lock);
    if (s == NULL) {
        tell_supervisor(h, 'E');
        end_process(h);
        return;
    }
    net_session_close(s, true); /* on_close comes when the results are out, and ends the lease */
    net_session_unref(s);
}

static void describe_self(struct host *h, struct trk_vm_info *vm)
{
    const struct vm_page *page = h->page;
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    memset(vm, 0, sizeof(*vm));
    memcpy(vm->incarnation, page->incarnation, 16);
    memcpy(vm->supervisor, h->fds.supervisor, 16);
    vm->index = h->fds.index;
    vm->state = TRK_VM_LEASED;
    vm->pid = (uint32_t)h->pid;
    vm->cores = h->fds.cores;
    vm->memory_bytes = pages > 0 && page_size > 0 ? (uint64_t)pages * (uint64_t)page_size : 0;
    vm->dropped = atomic_load(&page->dropped);
    snprintf(vm->host, sizeof(vm->host), "%s", h->host_name);
    snprintf(vm->module, sizeof(vm->module), "%s", page->module);
    snprintf(vm->version, sizeof(vm->version), "%s", page->version);
    snprintf(vm->owner, sizeof(vm->owner), "%s", page->owner);
}

static void send_welcome(struct peer *p, const struct wire_welcome *welcome)
{
    struct blob *body = wire_welcome_encode(welcome);
    if (body == NULL || net_session_send(p->session, WIRE_WELCOME, 0, body) < 0) {
        net_session_close(p->session, false);
    }
}

static void refuse(struct peer *p, const char *reason)
{
    struct wire_welcome welcome = {.is_accepted = false};
    snprintf(welcome.reason, sizeof(welcome.reason), "%s", reason);
    memcpy(welcome.supervisor, p->host->fds.supervisor, 16);
    log_debug("vm", "%s refused: %s", net_session_peer(p->session), reason);
    send_welcome(p, &welcome);
    net_session_close(p->session, true);
}

static void welcome_holder(struct peer *p, const struct wire_hello *hello)
{
    struct host *h = p->host;
    struct vm_page *page = h->page;
    struct wire_welcome welcome = {.is_accepted = true};
    p->is_holder = true;
    memcpy(page->lease, hello->incarnation, 16);
    snprintf(page->owner, sizeof(page->owner), "%.50s (pid %u, %.50s)", hello->program,
             hello->pid, hello->host);
    atomic_store(&page->has_lease, 1);
    page_set_state(h, TRK_VM_LEASED);
    tell_supervisor(h, 'L');
    log_debug("vm", "leased by %s", page->owner);
    net_session_set_trusted(p->session);
    describe_self(h, &welcome.vm);
    memcpy(welcome.supervisor, h->fds.supervisor, 16);
    send_welcome(p, &welcome);
}

static void on_hello(struct peer *p, const struct blob *body)
{
    struct host *h = p->host;
    struct wire_hello hello;
    if (wire_hello_decode(&hello, body) < 0) {
        net_count_drop();
        net_session_close(p->session, false);
        return;
    }
    if (hello.purpose != WIRE_PURPOSE_LEASE) {
        refuse(p, "this is a VM, which can only be leased; its supervisor can be watched");
        return;
    }
    pthread_mutex_lock(&h->lock);
    bool is_draining = h->is_draining, is_ending = h->is_ending;
    bool is_leased = agent_is_leased(h->agent);
    int rc = is_draining || is_ending ? TRK_EDENIED : agent_lease(h->agent, &hello);
    if (rc == 0) {
        h->session = net_session_ref(p->session);
    }
    pthread_mutex_unlock(&h->lock);
    if (rc == 0) {
        welcome_holder(p, &hello);
    } else if (is_draining) {
        refuse(p, "this VM is stopping");
    } else if (is_ending) {
        /* Accepted a moment too early; no answer means: try again, the next process will say. */
        net_session_close(p->session, true);
    } else if (is_leased) {
        char reason[sizeof(h->page->owner) + 16];
        snprintf(reason, sizeof(reason), "leased by %s", h->page->owner);
        refuse(p, reason);
    } else {
        refuse(p, "this VM has served a later run of the same job");
    }
}

/* --- messages of the holder ---------------------------------------------------------- */

static void on_interrupt_timer(uv_timer_t *timer)
{
    struct host *h = timer->data;
    pthread_mutex_lock(&h->lock);
    bool is_stuck = atomic_load(&h->is_running) && h->run == h->interrupted_run;
    pthread_mutex_unlock(&h->lock);
    if (is_stuck) {
        log_info("vm", "cancelled code did not stop within %d ms: this VM starts again",
                 HOST_INTERRUPT_MS);
        /* Nobody's fault: the initiator wanted it. */
        page_set_state(h, TRK_VM_STARTING);
        tell_supervisor(h, 'E');
        _exit(HOST_EXIT_INTERRUPTED);
    }
}

/* A CANCEL that interrupts: ask the running element of that stage to stop, and watch it. */
static void interrupt_stage(struct host *h, uint32_t stage)
{
    pthread_mutex_lock(&h->lock);
    bool is_hit = atomic_load(&h->is_running) && h->run_is_element && h->run_stage == stage;
    uint64_t run = h->run;
    pthread_mutex_unlock(&h->lock);
    bool is_watched = uv_is_active((const uv_handle_t *)&h->interrupt_timer) &&
                      h->interrupted_run == run;
    if (!is_hit || is_watched) {
        return;
    }
    h->interrupted_run = run;
    uv_timer_start(&h->interrupt_timer, on_interrupt_timer, HOST_INTERRUPT_MS, 0);
    if (h->module->interrupt != NULL) {
        h->module->interrupt(h->module_state);
    }
}

static bool wants_interrupt(const struct wire_message *msg, uint32_t *stage)
{
    struct wire_note note;
    if (msg->type != WIRE_CANCEL || wire_note_decode(&note, msg->body) < 0) {
        return false;
    }
    *stage = note.stage;
    return note.flag == 1;
}

static void on_holder_message(struct peer *p, struct wire_message *msg)
{
    struct host *h = p->host;
    struct wire_message out;
    bool has_out = false;
    uint32_t stage = 0;
    uint8_t type = msg->type;
    bool is_interrupt = wants_interrupt(msg, &stage);
    pthread_mutex_lock(&h->lock);
    int rc = agent_message(h->agent, msg, &has_out, &out);
    host_wake(h);
    pthread_mutex_unlock(&h->lock);
    if (rc < 0) {
        log_warn("vm", "%s from %s: %s; connection dropped", wire_type_name(type),
                 net_session_peer(p->session), trk_strerror(rc));
        net_count_drop();
        net_session_close(p->session, false);
        return;
    }
    if (has_out) {
        rc = net_session_send(p->session, out.type, out.stream, out.body);
        (void)rc; /* closed meanwhile: on_close follows */
    }
    if (is_interrupt) {
        interrupt_stage(h, stage);
    }
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct peer *p = user;
    p->session = s;
    if (p->is_holder) {
        if (msg->type == WIRE_BYE) {
            blob_unref(msg->body);
            p->is_holder = false;
            lease_end(p->host);
        } else {
            on_holder_message(p, msg);
        }
        return;
    }
    if (!p->is_proved && msg->type == WIRE_HELLO) {
        p->is_proved = true;
        p->host->unproved--;
        on_hello(p, msg->body);
    } else {
        net_count_drop(); /* a second HELLO, a message behind a refusal, after BYE */
        net_session_close(s, false);
    }
    blob_unref(msg->body);
}

static void on_close(struct net_session *s, void *user, int error, const char *why)
{
    struct peer *p = user;
    struct host *h = p->host;
    if (!p->is_proved) {
        h->unproved--;
    }
    log_debug("vm", "%s closed: %s", net_session_peer(s), error < 0 ? why : "in order");
    count_dropped(h);
    if (p->is_holder) {
        lease_end(h);
    }
    mem_free(p);
    net_session_unref(s);
}

static const struct net_session_ops peer_ops = {.on_message = on_message, .on_close = on_close};

static void accept_peer(struct host *h, int fd, bool is_tcp)
{
    struct peer *p = h->unproved < HOST_UNPROVED_MAX ? mem_zalloc(1, sizeof(*p)) : NULL;
    if (p == NULL) {
        close(fd);
        net_count_drop();
        count_dropped(h);
        return;
    }
    struct net_session_options opt = {.ops = &peer_ops,
                                      .user = p,
                                      .dead_ms = is_tcp ? HOST_TCP_DEAD_MS : 0};
    struct net_session *s;
    p->host = h;
    h->unproved++;
    if (net_session_accept(h->loop, fd, &opt, &s) < 0) {
        h->unproved--;
        mem_free(p);
        count_dropped(h);
    }
}

static void on_accept_unix(void *user, int fd)
{
    accept_peer(user, fd, false);
}

static void on_accept_tcp(void *user, int fd)
{
    accept_peer(user, fd, true);
}

/* --- control ------------------------------------------------------------------------- */

static void drain(struct host *h)
{
    stop_accepting(h);
    page_set_state(h, TRK_VM_STOPPING);
    pthread_mutex_lock(&h->lock);
    h->is_draining = true;
    host_wake(h);
    pthread_mutex_unlock(&h->lock);
}

static void on_control(uv_poll_t *poll, int status, int events)
{
    struct host *h = poll->data;
    char bytes[16];
    ssize_t n = recv(h->fds.control, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR) && status == 0) {
        return;
    }
    if (n <= 0) {
        die_with_group(h);
    }
    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == 'S') {
            _exit(0);
        } else if (bytes[i] == 'D') {
            drain(h);
        }
    }
}

/* --- start --------------------------------------------------------------------------- */

/* Runs on the net thread: handles of a loop belong to its thread. */
static void start_on_loop(void *host)
{
    struct host *h = host;
    uv_loop_t *uv = net_loop_uv(h->loop);
    int rc = uv_timer_init(uv, &h->exit_timer);
    rc = rc < 0 ? rc : uv_timer_init(uv, &h->interrupt_timer);
    rc = rc < 0 ? rc : uv_poll_init(uv, &h->control, h->fds.control);
    h->exit_timer.data = h->interrupt_timer.data = h->control.data = h;
    rc = rc < 0 ? rc : uv_poll_start(&h->control, UV_READABLE | UV_DISCONNECT, on_control);
    rc = rc < 0 ? rc : net_listener_start(h->loop, h->fds.listen, on_accept_unix, h,
                                          &h->listen_unix);
    if (rc >= 0 && h->fds.tcp >= 0) {
        rc = net_listener_start(h->loop, h->fds.tcp, on_accept_tcp, h, &h->listen_tcp);
    }
    if (rc < 0) {
        log_error("vm", "cannot serve: the event loop failed (%d)", rc);
        _exit(1);
    }
    page_set_state(h, TRK_VM_IDLE);
    tell_supervisor(h, 'R');
}

int host_net_start(struct host *h)
{
    int rc = net_loop_new(&h->loop);
    if (rc < 0) {
        return rc;
    }
    h->dropped_seen = net_dropped();
    rc = net_loop_post(h->loop, start_on_loop, h);
    if (rc == 0) {
        rc = net_loop_start_thread(h->loop, "trickle-net");
    }
    if (rc < 0) {
        net_loop_free(h->loop);
        h->loop = NULL;
    }
    return rc;
}
