/* SPDX-License-Identifier: MIT */
/* watch.c - initiators (and `trickle vms`) that watch this supervisor's VMs.
 *
 *   HELLO(watch) -> WELCOME, VMS(all); then VMS for each change, at once; OUTPUT and DEATH for VMs
 *   whose lease is of the incarnation that the HELLO named; REQUESTs are orders (order.c);
 *   HELD_ASK -> HELD: what this machine holds for the HELLO's job (offer.c);
 *   a program that was dialed (join.c) is told JOIN first and then says the same; DIAL: it wants a
 *   VM to dial in, too
 *
 * A watcher that does not read must not fill our memory: beyond a bound its output is dropped and
 * the gap named; VMS and DEATH always go, they are few. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "vm/spool.h"
#include "vm/supervisor.h"

#define HOLD_LOOK_MS 3600000u /* how often what is too old is looked for */
#define REFUSAL_MS 60000u      /* how often one is told to who reads warnings only */
#define DIALED_DEAD_MS 10000u   /* a program that is silent for so long is dialed again */
#define OUTPUT_QUEUED_MAX ((size_t)4 << 20)

struct watcher {
    struct list link; /* in supervisor.watchers */
    struct supervisor *sup;
    struct net_session *session; /* our reference; known from the first callback on */
    struct wire_hello hello;     /* when is_proved */
    bool is_proved;
    bool is_accepted; /* gets what there is */
    bool is_tcp;
    struct join *join; /* by whom it was dialed; NULL: it was accepted */
    char refused[TRK_VM_TEXT_MAX]; /* why, by whom was dialed; "": it has not */
    struct offer *offer; /* when it has asked for what is held; else NULL */
    uint64_t dropped; /* bytes of output since the last that went */
};

static void send_message(struct watcher *w, uint8_t type, uint32_t stream, struct blob *body)
{
    if (body == NULL || net_session_send(w->session, type, stream, body) < 0) {
        /* It would miss something for good: rather let it connect and ask again. */
        net_session_close(w->session, false);
    }
}

static void send_all(struct watcher *w)
{
    struct supervisor *sup = w->sup;
    struct wire_vms vms = {.is_all = true, .count = sup->opt.count};
    vms.infos = mem_zalloc(vms.count, sizeof(*vms.infos));
    struct blob *body = NULL;
    if (vms.infos != NULL) {
        memcpy(vms.supervisor, sup->id, 16);
        for (uint32_t i = 0; i < sup->opt.count; i++) {
            child_info(&sup->vms[i], w->is_tcp, &vms.infos[i]);
        }
        body = wire_vms_encode(&vms);
        mem_free(vms.infos);
    }
    send_message(w, WIRE_VMS, 0, body);
}

static void on_hello(struct watcher *w, const struct blob *body)
{
    struct wire_welcome welcome = {.is_accepted = true};
    if (wire_hello_decode(&w->hello, body) < 0) {
        net_count_drop();
        net_session_close(w->session, false);
        return;
    }
    if (w->sup->is_ended) { /* else we would wait for this one to go */
        net_session_close(w->session, false);
        return;
    }
    memcpy(welcome.supervisor, w->sup->id, 16);
    if (w->hello.purpose != WIRE_PURPOSE_WATCH) {
        welcome.is_accepted = false;
        snprintf(welcome.reason, sizeof(welcome.reason),
                 "this is a supervisor, which can only be watched; its VMs can be leased");
        send_message(w, WIRE_WELCOME, 0, wire_welcome_encode(&welcome));
        net_session_close(w->session, true);
        return;
    }
    net_session_set_trusted(w->session);
    w->is_accepted = true;
    w->sup->watching++;
    send_message(w, WIRE_WELCOME, 0, wire_welcome_encode(&welcome));
    send_all(w);
}

static void on_order(struct watcher *w, const struct wire_message *msg)
{
    struct wire_request order;
    char answer[512];
    if (wire_request_decode(&order, msg->body) < 0) {
        net_count_drop();
        net_session_close(w->session, false);
        return;
    }
    /* The other user of a unix socket was refused when it connected. */
    int status = order_obey(w->sup, &order, !w->is_tcp, answer, sizeof(answer));
    struct wire_reply reply = {
        .status = (uint8_t)status, .payload = answer, .size = strlen(answer)};
    send_message(w, WIRE_REPLY, msg->stream, wire_reply_encode(&reply));
}

/* --- what is held for its job -------------------------------------------------------- */

static void trim_held(struct supervisor *sup)
{
    const struct spool_limits limits = {.seconds = sup->opt.hold_seconds,
                                        .bytes = sup->opt.hold_bytes};
    if (spool_trim(sup->home, &limits, 0) < 0) {
        log_warn("vm", "held results are not looked through: %s", fail_text());
    }
}

static void on_hold_timer(uv_timer_t *timer)
{
    trim_held(timer->data);
}

/* Where results are held; the first time somebody wants to know. */
static bool find_home(struct supervisor *sup)
{
    char notice[512];
    if (sup->home[0] != '\0') {
        return true;
    }
    if (ckpt_home(sup->home, sizeof(sup->home), notice, sizeof(notice)) < 0) {
        log_warn("vm", "results cannot be held for jobs: %s", fail_text());
        sup->home[0] = '\0';
        return false;
    }
    trim_held(sup);
    uv_timer_init(net_loop_uv(sup->loop), &sup->hold_timer); /* cannot fail, nor can this: */
    sup->hold_timer.data = sup;
    uv_timer_start(&sup->hold_timer, on_hold_timer, HOLD_LOOK_MS, HOLD_LOOK_MS);
    return true;
}

static int on_held_ask(struct watcher *w, const struct wire_note *note)
{
    if (w->offer == NULL && find_home(w->sup)) {
        w->offer = offer_new(w->sup->home, w->hello.job, w->session);
        if (w->offer == NULL) {
            return TRK_ENOMEM;
        }
    }
    return w->offer != NULL ? offer_ask(w->offer, note->stage) : 0;
}

static void on_held(struct watcher *w, const struct wire_message *msg)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, msg->body);
    if (rc == 0 && msg->type == WIRE_HELD_ASK) {
        rc = on_held_ask(w, &note);
    } else if (rc == 0 && w->offer != NULL) {
        offer_done(w->offer, note.seq, note.flag == 1);
    }
    if (rc < 0) { /* it would miss something: rather let it connect and ask again */
        net_count_drop();
        net_session_close(w->session, false);
    }
}

void watch_look_at_held(struct supervisor *sup)
{
    struct list *pos;
    list_for_each(pos, &sup->watchers) {
        struct watcher *w = container_of(pos, struct watcher, link);
        if (w->offer != NULL) {
            offer_look(w->offer);
        }
    }
}

/* --- programs that were dialed ------------------------------------------------------- */

static void on_refusal(struct watcher *w, const struct blob *body)
{
    struct wire_welcome welcome;
    if (wire_welcome_decode(&welcome, body) == 0) {
        snprintf(w->refused, sizeof(w->refused), "%s", welcome.reason);
    }
    net_session_close(w->session, false);
}

/* It wants one of the VMs to dial in. */
static void on_dial(struct watcher *w, const struct blob *body)
{
    struct wire_join dial;
    if (wire_join_decode(&dial, body) < 0) {
        net_count_drop();
        net_session_close(w->session, false);
        return;
    }
    join_wanted(w->join);
    keys_look(w->sup); /* the VM's come first */
    join_tell_vm(w->sup, &dial, net_session_peer(w->session));
}

/* --- sessions ------------------------------------------------------------------------ */

/* It is one of those any more that have not said HELLO. */
static void prove(struct watcher *w)
{
    if (!w->is_proved) {
        w->is_proved = true;
        w->sup->unproved[w->is_tcp] -= w->join == NULL;
    }
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct watcher *w = user;
    bool is_held = msg->type == WIRE_HELD_ASK || msg->type == WIRE_HELD_DONE;
    w->session = s;
    if (!w->is_proved && msg->type == WIRE_HELLO) {
        prove(w);
        on_hello(w, msg->body);
    } else if (w->join != NULL && !w->is_proved && msg->type == WIRE_WELCOME) {
        on_refusal(w, msg->body);
    } else if (w->join != NULL && w->is_accepted && msg->type == WIRE_DIAL) {
        on_dial(w, msg->body);
    } else if (msg->type == WIRE_REQUEST && w->is_accepted) {
        on_order(w, msg);
    } else if (is_held && w->is_accepted) {
        on_held(w, msg);
    } else if (msg->type == WIRE_BYE && w->is_accepted) {
        net_session_close(s, true);
    } else {
        net_count_drop();
        net_session_close(s, false);
    }
    blob_unref(msg->body);
}

/* Somebody is not let in. Who tries all the time must not fill the log. */
static void log_refusal(struct supervisor *sup, const char *who, const char *why)
{
    uint64_t now = net_loop_now_ms(sup->loop);
    if (sup->refused_ms == 0 || now >= sup->refused_ms + REFUSAL_MS) {
        sup->refused_ms = now + 1;
        log_warn("vm", "%s is not let in: %s", who, why);
    } else {
        log_info("vm", "%s is not let in: %s", who, why);
    }
}

static void on_close(struct net_session *s, void *user, int error, const char *why)
{
    struct watcher *w = user;
    struct supervisor *sup = w->sup;
    if (w->join != NULL) {
        bool is_refused = error == TRK_EDENIED || error == TRK_EVERSION;
        join_ended(w->join, w->refused[0] != '\0' ? w->refused : why,
                   is_refused || w->refused[0] != '\0');
    } else if (error < 0 && !w->is_proved) {
        log_refusal(sup, net_session_peer(s), why);
    } else {
        log_debug("vm", "watcher %s closed: %s", net_session_peer(s),
                  error < 0 ? why : "in order");
    }
    prove(w);
    if (w->is_accepted && --sup->watching == 0 && sup->is_ended) {
        net_loop_stop(sup->loop);
    }
    list_remove(&w->link);
    offer_free(w->offer);
    mem_free(w);
    net_session_unref(s);
}

static const struct net_session_ops watcher_ops = {.on_message = on_message,
                                                   .on_close = on_close};

static void accept_watcher(struct supervisor *sup, int fd, bool is_tcp)
{
    struct watcher *w = NULL;
    /* With keys the session room limits who has none, and lets no one keep the others out. */
    bool is_limited = !is_tcp || keys_of(sup) == NULL;
    if (!is_limited || sup->unproved[is_tcp] < UNPROVED_MAX) {
        w = mem_zalloc(1, sizeof(*w));
    }
    if (w == NULL) {
        log_refusal(sup, "a connection", "too many others have not said HELLO");
        close(fd);
        net_count_drop();
        return;
    }
    struct net_session_options opt = {.ops = &watcher_ops,
                                      .user = w,
                                      .dead_ms = is_tcp ? 60000 : 0,
                                      .keys = keys_of(sup),
                                      .role = AUTH_VM};
    struct net_session *s;
    w->sup = sup;
    w->is_tcp = is_tcp;
    sup->unproved[is_tcp]++;
    list_push_back(&sup->watchers, &w->link);
    if (net_session_accept(sup->loop, fd, &opt, &s) < 0) {
        log_refusal(sup, "a connection", fail_text());
        sup->unproved[is_tcp]--;
        list_remove(&w->link);
        mem_free(w);
    }
}

void watch_accept_unix(void *sup, int fd)
{
    accept_watcher(sup, fd, false);
}

void watch_accept_tcp(void *sup, int fd)
{
    keys_look(sup);
    accept_watcher(sup, fd, true);
}

int watch_dial(struct supervisor *sup, const char *address, struct join *join)
{
    struct watcher *w = mem_zalloc(1, sizeof(*w));
    if (w == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    struct net_session_options opt = {.ops = &watcher_ops,
                                      .user = w,
                                      .dead_ms = DIALED_DEAD_MS,
                                      .keys = keys_of(sup),
                                      .role = AUTH_VM};
    struct wire_join hello = {.token = {0}};
    w->sup = sup;
    w->is_tcp = true;
    w->join = join;
    int rc = net_session_connect(sup->loop, address, &opt, &w->session);
    if (rc < 0) {
        mem_free(w);
        return rc;
    }
    list_push_back(&sup->watchers, &w->link);
    memcpy(hello.id, sup->id, sizeof(hello.id));
    struct blob *body = wire_join_encode(&hello);
    if (body == NULL || net_session_send(w->session, WIRE_JOIN, 0, body) < 0) {
        net_session_close(w->session, false);
    }
    return 0;
}

void watch_push(struct supervisor *sup, const struct vm_child *vm)
{
    struct list *pos;
    list_for_each(pos, &sup->watchers) {
        struct watcher *w = container_of(pos, struct watcher, link);
        if (w->is_accepted) {
            struct trk_vm_info info;
            struct wire_vms vms = {.is_all = false, .infos = &info, .count = 1};
            memcpy(vms.supervisor, sup->id, 16);
            child_info(vm, w->is_tcp, &info);
            send_message(w, WIRE_VMS, 0, wire_vms_encode(&vms));
        }
    }
}

/* Who holds the lease; the youngest connection when it has several (an older one may be dead). */
static struct watcher *holder_of(struct supervisor *sup, const uint8_t lease[16])
{
    struct list *pos;
    struct watcher *found = NULL;
    list_for_each(pos, &sup->watchers) {
        struct watcher *w = container_of(pos, struct watcher, link);
        if (w->is_accepted && memcmp(w->hello.incarnation, lease, 16) == 0) {
            found = w;
        }
    }
    return found;
}

static void send_output(struct watcher *w, const struct vm_child *vm, const void *text,
                        size_t size)
{
    struct wire_output output = {.pid = (uint32_t)vm->pid,
                                 .index = vm->index,
                                 .text = text,
                                 .size = size};
    memcpy(output.vm, vm->page->incarnation, 16);
    send_message(w, WIRE_OUTPUT, 0, wire_output_encode(&output));
}

void watch_output(const struct vm_child *vm, const void *text, size_t size)
{
    struct watcher *w = NULL;
    if (atomic_load(&vm->page->has_lease)) {
        w = holder_of(vm->sup, vm->page->lease);
    }
    if (w == NULL) {
        log_debug("vm", "VM %u (pid %d) printed: %.*s", vm->index, (int)vm->pid, (int)size,
                  (const char *)text);
        return;
    }
    if (net_session_queued(w->session) > OUTPUT_QUEUED_MAX) {
        w->dropped += size;
        return;
    }
    if (w->dropped > 0) {
        char note[64];
        int n = snprintf(note, sizeof(note), "\n... %" PRIu64 " bytes of output dropped\n",
                         w->dropped);
        w->dropped = 0;
        send_output(w, vm, note, (size_t)n);
    }
    send_output(w, vm, text, size);
}

void watch_death(struct supervisor *sup, const struct wire_death *death)
{
    struct watcher *w = holder_of(sup, death->lease);
    if (w != NULL) {
        send_message(w, WIRE_DEATH, 0, wire_death_encode(death));
    }
}

void watch_close_all(struct supervisor *sup)
{
    struct list *pos;
    list_for_each(pos, &sup->watchers) {
        struct watcher *w = container_of(pos, struct watcher, link);
        if (w->is_accepted) {
            net_session_close(w->session, true);
        }
    }
}
