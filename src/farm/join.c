/* SPDX-License-Identifier: MIT */
/* join.c - VMs that dial in, because nobody can connect to where they are: the farm listens.
 *
 *   supervisor   connects, JOIN(its id)          find_joined: one like any other from here on
 *   farm         wants VM v: slot is CALLED,     join_call: DIAL(v, token) to that supervisor
 *   VM v         connects, JOIN(v, token)        lease_joined: slot is TRYING, HELLO(lease)
 *
 * Who connects has proved by TLS that it has the farm's key and calls as a VM; before that nothing
 * of it is parsed, and there are bounds on how many such connections there are (net/session.h, or
 * CALLERS_MAX without keys) and how long. A token is random, made for one process of one VM, and
 * counts once: whoever comes with another one, or comes late or twice, is refused. A VM that does
 * not come in time counts as one that refused: it is asked again, with a new token. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "auth/derive.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"
#include "net/address.h"

#define CALLERS_MAX 64       /* without keys: connections that have not said JOIN yet */
#define DIAL_MS 5000         /* a VM that was asked to dial in comes within this */
#define DIAL_AGAIN_MS 700    /* else it is asked again after this */
#define REFUSAL_MS 60000     /* how often one is told to who reads warnings only */

/* Who has connected and has not said what it is. */
struct caller {
    struct list node; /* farm->callers */
    struct trk_farm *farm;
    struct net_session *session; /* our reference; known from the first callback on */
    bool is_refused;
};

/* --- calling ---------------- */

void join_forget(struct slot *slot)
{
    if (slot->lease == LEASE_CALLED) {
        slot->lease = LEASE_FREE;
        explicit_bzero(slot->token, sizeof(slot->token));
    }
}

static void miss(struct trk_farm *farm, struct slot *slot, const char *why)
{
    join_forget(slot);
    lease_refused(farm, slot, DIAL_AGAIN_MS, why);
    farm_touch(farm);
}

void join_call(struct trk_farm *farm, struct slot *slot)
{
    /* One that is starting comes when its interpreter is up. */
    uint64_t wait_ms = slot->info.state == TRK_VM_STARTING ? FARM_HELLO_MS : DIAL_MS;
    struct wire_join dial;
    struct blob *body = NULL;

    slot->lease = LEASE_CALLED;
    slot->call_until_ms = net_loop_now_ms(farm->loop) + wait_ms;
    memcpy(dial.id, slot->info.incarnation, sizeof(dial.id));
    if (sys_random(slot->token, sizeof(slot->token)) == 0) {
        memcpy(dial.token, slot->token, sizeof(dial.token));
        body = wire_join_encode(&dial);
        explicit_bzero(dial.token, sizeof(dial.token));
    }
    if (body == NULL || net_session_send(slot->sup->session, WIRE_DIAL, 0, body) < 0) {
        miss(farm, slot, "it cannot be asked to dial in");
    }
}

void join_pulse(struct trk_farm *farm)
{
    uint64_t now = net_loop_now_ms(farm->loop);
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease == LEASE_CALLED && now >= slot->call_until_ms) {
            miss(farm, slot, "it was asked to dial in, and did not come in time");
        }
    }
}

/* --- who comes ---------------- */

/* Who tries all the time must not fill the log. */
static void log_refusal(struct trk_farm *farm, const char *who, const char *why)
{
    uint64_t now = net_loop_now_ms(farm->loop);
    bool is_told = farm->refused_ms == 0 || now >= farm->refused_ms + REFUSAL_MS;

    if (is_told) {
        farm->refused_ms = now + 1;
    }
    log_write(is_told ? LOG_WARN : LOG_INFO, "farm", "%s is not let in: %s", who, why);
}

static void refuse(struct caller *c, const char *why)
{
    struct wire_welcome welcome = {.is_accepted = false};
    struct blob *body;

    c->is_refused = true;
    net_count_drop();
    log_refusal(c->farm, net_session_peer(c->session), why);
    snprintf(welcome.reason, sizeof(welcome.reason), "%s", why);
    body = wire_welcome_encode(&welcome);
    if (body == NULL || net_session_send(c->session, WIRE_WELCOME, 0, body) < 0) {
        net_session_close(c->session, false);
    }
    net_session_close(c->session, true);
}

static struct slot *slot_called(struct trk_farm *farm, const struct wire_join *join)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease == LEASE_CALLED &&
            memcmp(slot->info.incarnation, join->id, sizeof(join->id)) == 0 &&
            auth_is_same(slot->token, join->token, sizeof(join->token))) {
            return slot;
        }
    }
    return NULL;
}

static void caller_free(struct caller *c)
{
    c->farm->callers_count--;
    list_remove(&c->node);
    mem_free(c);
}

static void on_join(struct caller *c, const struct wire_join *join)
{
    static const uint8_t none[sizeof(join->token)];
    struct trk_farm *farm = c->farm;
    struct net_session *session = c->session;
    struct slot *slot;

    if (farm->is_closing) {
        refuse(c, "this program ends");
        return;
    }
    if (memcmp(join->token, none, sizeof(none)) == 0) {
        if (find_joined(farm, session) < 0) {
            refuse(c, "out of memory");
            return;
        }
    } else {
        slot = slot_called(farm, join);
        if (slot == NULL) {
            refuse(c, "no VM was asked to dial in with that token, or it came late");
            return;
        }
        join_forget(slot);
        if (lease_joined(farm, slot, session) < 0) {
            refuse(c, "out of memory");
            miss(farm, slot, "out of memory");
            return;
        }
    }
    caller_free(c); /* the session is theirs now */
}

static void on_message(struct net_session *session, void *user, struct wire_message *msg)
{
    struct caller *c = user;
    struct wire_join join;
    bool is_join = !c->is_refused && msg->type == WIRE_JOIN &&
                   wire_join_decode(&join, msg->body) == 0;

    blob_unref(msg->body);
    c->session = session;
    if (is_join) {
        on_join(c, &join);
        return;
    }
    net_count_drop();
    if (!c->is_refused) {
        log_refusal(c->farm, net_session_peer(session), "only VMs that join may call here");
    }
    net_session_close(session, false);
}

static void on_close(struct net_session *session, void *user, int error, const char *why)
{
    struct caller *c = user;

    if (error < 0 && !c->is_refused) {
        log_refusal(c->farm, net_session_peer(session), why);
    }
    caller_free(c);
    net_session_unref(session);
}

static const struct net_session_ops caller_ops = {.on_message = on_message, .on_close = on_close};

static void on_accept(void *user, int fd)
{
    struct trk_farm *farm = user;
    struct net_session_options opt = {.ops = &caller_ops, .role = AUTH_INITIATOR};
    struct net_session *session;
    struct caller *c = NULL;

    find_look_at_keys(farm);
    opt.keys = farm->keys.keys.count > 0 ? &farm->keys.keys : NULL;
    /* With keys the session room limits who has none, and lets no one keep the others out. */
    if (opt.keys != NULL || (farm->insecure && farm->callers_count < CALLERS_MAX)) {
        c = mem_zalloc(1, sizeof(*c));
    }
    if (c == NULL) {
        log_refusal(farm, "a connection", "too many others have not said what they are");
        net_count_drop();
        close(fd);
        return;
    }
    c->farm = farm;
    farm->callers_count++;
    list_push_back(&farm->callers, &c->node);
    opt.user = c;
    if (net_session_accept(farm->loop, fd, &opt, &session) < 0) {
        log_refusal(farm, "a connection", fail_text());
        caller_free(c);
    }
}

/* --- listening ---------------- */

int join_listen(struct trk_farm *farm, const char *where)
{
    char host[NET_ADDRESS_TEXT], address[NET_ADDRESS_TEXT], bound[NET_ADDRESS_TEXT];
    uint16_t port = 0;
    int rc = net_address_split(where, host, sizeof(host), &port);

    if (rc < 0) {
        return rc;
    }
    net_address_tcp(address, sizeof(address), host, port);
    farm->listen_fd = net_listen_fd(address, bound, sizeof(bound));
    if (farm->listen_fd < 0) {
        return farm->listen_fd;
    }
    snprintf(farm->listening, sizeof(farm->listening), "%s", bound + strlen("tcp:"));
    rc = sys_fd_add(farm->listen_fd); /* a child that the program forks does not keep the port */
    return rc < 0 ? fail(rc, "too many descriptors are open") : 0;
}

/* What to type there: an address that is for all of this machine is no use to others. */
static void say_where(struct trk_farm *farm)
{
    const char *at = farm->listening, *port = strrchr(at, ':') + 1;
    bool is_all = strncmp(at, "0.0.0.0:", 8) == 0 || strncmp(at, "[::]:", 5) == 0;

    if (is_all) {
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "listening on %s; VMs join with: "
                       "trickle vm --join %s:%s", at, farm->hello.host, port);
    } else {
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "listening on %s; VMs join with: "
                       "trickle vm --join %s", at, at);
    }
    if (farm->keys.keys.count == 0) {
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "warning: --insecure: whoever can reach %s, "
                       "or is on the way to it, can give wrong results and run code as this user",
                       at);
    }
}

void join_open(struct trk_farm *farm)
{
    if (farm->listening[0] == '\0') {
        return;
    }
    farm->listen_until_ms = net_loop_now_ms(farm->loop) + FARM_JOIN_MS;
    if (net_listener_start(farm->loop, farm->listen_fd, on_accept, farm, &farm->listener) < 0) {
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "no VM can join: %s", fail_text());
        return;
    }
    say_where(farm);
}

void join_free(struct trk_farm *farm)
{
    if (farm->listen_fd >= 0) {
        sys_fd_remove(farm->listen_fd);
        close(farm->listen_fd);
        farm->listen_fd = -1;
    }
}

void join_close(struct trk_farm *farm)
{
    struct list *pos;

    net_listener_close(farm->listener);
    farm->listener = NULL;
    join_free(farm);
    list_for_each(pos, &farm->callers) {
        struct caller *c = container_of(pos, struct caller, node);
        if (c->session != NULL) {
            net_session_close(c->session, false);
        }
    }
}
