/* SPDX-License-Identifier: MIT */
/* host_net.c - the net half of a VM: who may use it, and what comes in.
 *
 *   accept -> HELLO -> granted: the holder, its messages go to the agent
 *                   -> refused: WELCOME that names the holder, closed
 *   dial -> JOIN, and the same
 *
 * How that ends is in host_leave.c. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "vm/host_impl.h"
#include "wire/msg.h"

/* One connection: accepted, or dialed in on order of the supervisor. */
struct peer {
    struct host *host;
    struct net_session *session; /* our reference; known from the first callback on */
    bool is_proved; /* it has said HELLO (whatever became of that) */
    bool is_holder;
    bool is_tcp;    /* it came by TCP: anybody could */
    bool is_dialed; /* we called it */
};

/* --- small helpers ------------------------------------------------------------------- */

void host_wake(struct host *h)
{
    if (h->is_waiting) {
        h->is_waiting = false;
        sem_post(&h->wake);
    }
}

/* Moves what the net room has counted since the last time into the page. */
static void count_dropped(struct host *h)
{
    uint64_t now = net_dropped();
    atomic_fetch_add(&h->page->dropped, now - h->dropped_seen);
    h->dropped_seen = now;
}

/* --- the lease ----------------------------------------------------------------------- */

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
    host_hold_open(h, hello);
    snprintf(page->owner, sizeof(page->owner), "%.50s (pid %u, %.50s)", hello->program,
             hello->pid, hello->host);
    atomic_store(&page->has_lease, 1);
    host_set_state(h, TRK_VM_LEASED);
    host_tell(h, 'L');
    log_debug("vm", "leased by %s", page->owner);
    net_session_set_trusted(p->session);
    describe_self(h, &welcome.vm);
    memcpy(welcome.supervisor, h->fds.supervisor, 16);
    send_welcome(p, &welcome);
}

/* The holder asks for the lease that it has: its session has died under way, and we have not
 * noticed yet (its address or ours is another one now). The lease ends as if we had. Under the
 * lock. */
static bool is_holder_again(struct host *h, const struct wire_hello *hello)
{
    const struct wire_hello *holder = agent_holder(h->agent);
    if (holder == NULL || h->session == NULL ||
        memcmp(holder->incarnation, hello->incarnation, sizeof(hello->incarnation)) != 0) {
        return false;
    }
    net_session_close(h->session, false); /* its on_close ends the lease */
    return true;
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
    bool is_leased = agent_is_leased(h->agent), is_orphan = agent_is_orphan(h->agent);
    is_ending |= is_holder_again(h, &hello);
    int rc = is_draining || is_ending ? TRK_EDENIED : agent_lease(h->agent, &hello);
    if (rc == 0) {
        h->session = net_session_ref(p->session);
    }
    pthread_mutex_unlock(&h->lock);
    if (rc == 0) {
        welcome_holder(p, &hello);
    } else if (is_orphan) {
        char reason[sizeof(h->page->owner) + 64];
        snprintf(reason, sizeof(reason), "finishes an element of %s", h->page->owner);
        refuse(p, reason);
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

/* A CANCEL of what runs: of the stage with its flag, or of single elements. */
static bool is_interrupt(const struct wire_message *msg, struct wire_note *note)
{
    return msg->type == WIRE_CANCEL && wire_note_decode(note, msg->body) == 0 &&
           (note->flag == 1 || note->count > 0);
}

static void on_holder_message(struct peer *p, struct wire_message *msg)
{
    struct host *h = p->host;
    struct wire_message out;
    bool has_out = false;
    struct wire_note cancel;
    uint8_t type = msg->type;
    bool is_to_stop = is_interrupt(msg, &cancel);
    int rc = type == WIRE_BLOB ? host_blob_come(h, msg->body) : 0;
    pthread_mutex_lock(&h->lock);
    if (type == WIRE_BLOB) {
        blob_unref(msg->body);
    } else {
        rc = agent_message(h->agent, msg, &has_out, &out);
    }
    bool has_timeout = type == WIRE_RUN && agent_timeout_ms(h->agent) != 0;
    host_wake(h);
    pthread_mutex_unlock(&h->lock);
    if (type == WIRE_STATE_DONE) {
        sem_post(&h->answer_wake);
    }
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
    if (is_to_stop) {
        host_interrupt(h, &cancel);
    }
    if (h->leaving != WIRE_END_UNKNOWN) {
        host_give_back(h, p->session); /* it was on its way when we said that we leave */
    } else if (has_timeout) {
        host_look_at_timeout(h);
    }
}

/* Who we dialed does not want us (any more). */
static void on_refusal(struct peer *p, const struct blob *body)
{
    struct wire_welcome welcome;
    if (wire_welcome_decode(&welcome, body) == 0) {
        log_info("vm", "%s refused: %s", net_session_peer(p->session), welcome.reason);
    }
    net_session_close(p->session, false);
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct peer *p = user;
    p->session = s;
    if (p->is_holder) {
        if (msg->type == WIRE_BYE) {
            blob_unref(msg->body);
            p->is_holder = false;
            host_lease_end(p->host, false);
        } else {
            on_holder_message(p, msg);
        }
        return;
    }
    if (!p->is_proved && msg->type == WIRE_HELLO) {
        p->is_proved = true;
        p->host->unproved[p->is_tcp]--;
        on_hello(p, msg->body);
    } else if (!p->is_proved && p->is_dialed && msg->type == WIRE_WELCOME) {
        on_refusal(p, msg->body);
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
        h->unproved[p->is_tcp]--;
    }
    if (error < 0 && !p->is_proved) {
        log_info("vm", "%s is not %s: %s", net_session_peer(s), p->is_dialed ? "reached" : "let in",
                 why);
    } else {
        log_debug("vm", "%s closed: %s", net_session_peer(s), error < 0 ? why : "in order");
    }
    count_dropped(h);
    if (p->is_holder) {
        /* Its key was revoked: nothing of it runs on, not even to be held for its job. */
        host_lease_end(h, error != TRK_EDENIED);
    }
    mem_free(p);
    net_session_unref(s);
}

static const struct net_session_ops peer_ops = {.on_message = on_message, .on_close = on_close};

static void accept_peer(struct host *h, int fd, bool is_tcp)
{
    bool has_keys = !is_tcp || !h->fds.is_tls || h->keys.count > 0;
    /* With keys the session room limits who has none, and lets no one keep the others out. */
    bool is_limited = !is_tcp || !h->fds.is_tls;
    bool has_room = !is_limited || h->unproved[is_tcp] < HOST_UNPROVED_MAX;
    struct peer *p = has_keys && has_room ? mem_zalloc(1, sizeof(*p)) : NULL;
    if (p == NULL) {
        log_info("vm", "a connection is not let in: %s", !has_keys ? "this VM has no key"
                 : has_room ? "out of memory" : "too many others have not said HELLO");
        close(fd);
        net_count_drop();
        count_dropped(h);
        return;
    }
    struct net_session_options opt = {.ops = &peer_ops,
                                      .user = p,
                                      .dead_ms = is_tcp ? HOST_TCP_DEAD_MS : 0,
                                      .keys = h->fds.is_tls ? &h->keys : NULL,
                                      .role = AUTH_VM};
    struct net_session *s;
    p->host = h;
    p->is_tcp = is_tcp;
    h->unproved[is_tcp]++;
    fd = vm_fd_raise(fd); /* user code may have closed 0 to 2, and prints there */
    if (net_session_accept(h->loop, fd, &opt, &s) < 0) {
        log_info("vm", "a connection is not let in: %s", fail_text());
        h->unproved[is_tcp]--;
        mem_free(p);
        count_dropped(h);
    }
}

void host_dial(struct host *h, const uint8_t token[16], const char *address)
{
    struct wire_join join;
    bool has_room = h->unproved[false] < HOST_UNPROVED_MAX; /* of ours: strangers take none */
    struct peer *p = h->is_over || !has_room ? NULL : mem_zalloc(1, sizeof(*p));
    if (p == NULL || (h->fds.is_tls && h->keys.count == 0)) {
        log_info("vm", "does not dial in at %s: %s", address, h->is_over ? "it ends" : "no room");
        mem_free(p);
        return;
    }
    struct net_session_options opt = {.ops = &peer_ops,
                                      .user = p,
                                      .dead_ms = HOST_TCP_DEAD_MS,
                                      .keys = h->fds.is_tls ? &h->keys : NULL,
                                      .role = AUTH_VM,
                                      .fd_min = VM_FD_FLOOR};
    p->host = h;
    p->is_dialed = true;
    if (net_session_connect(h->loop, address, &opt, &p->session) < 0) {
        log_info("vm", "cannot dial in: %s", fail_text());
        mem_free(p);
        return;
    }
    h->unproved[false]++;
    memcpy(join.id, h->page->incarnation, sizeof(join.id));
    memcpy(join.token, token, sizeof(join.token));
    struct blob *body = wire_join_encode(&join);
    if (body == NULL || net_session_send(p->session, WIRE_JOIN, 0, body) < 0) {
        net_session_close(p->session, false);
    }
}

static void on_accept_unix(void *user, int fd)
{
    accept_peer(user, fd, false);
}

static void on_accept_tcp(void *user, int fd)
{
    host_control_read(user); /* it may have been made with newer keys */
    accept_peer(user, fd, true);
}

/* --- control ------------------------------------------------------------------------- */

static void on_control(uv_poll_t *poll, int status, int events)
{
    host_control_read(poll->data); /* an error shows when it reads */
}

/* --- start --------------------------------------------------------------------------- */

/* Runs on the net thread: handles of a loop belong to its thread. */
static void start_on_loop(void *host)
{
    struct host *h = host;
    uv_loop_t *uv = net_loop_uv(h->loop);
    uv_timer_t *const timers[] = {&h->exit_timer, &h->interrupt_timer, &h->timeout_timer,
                                  &h->linger_timer, &h->late_timer};
    for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++) {
        uv_timer_init(uv, timers[i]); /* cannot fail */
        timers[i]->data = h;
    }
    int rc = uv_poll_init(uv, &h->control, h->fds.control);
    h->control.data = h;
    rc = rc < 0 ? rc : uv_poll_start(&h->control, UV_READABLE | UV_DISCONNECT, on_control);
    if (rc >= 0) {
        host_control_read(h);
    }
    rc = rc < 0 ? rc : net_listener_start(h->loop, h->fds.listen, on_accept_unix, h,
                                          &h->listen_unix);
    if (rc >= 0 && h->fds.tcp >= 0) {
        rc = net_listener_start(h->loop, h->fds.tcp, on_accept_tcp, h, &h->listen_tcp);
    }
    if (rc < 0) {
        log_error("vm", "cannot serve: the event loop failed (%d)", rc);
        _exit(1);
    }
    host_set_state(h, TRK_VM_IDLE);
    host_tell(h, 'R');
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
