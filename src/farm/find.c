/* SPDX-License-Identifier: MIT */
/* find.c - who is there: discovery modules find supervisors, watch sessions tell of their VMs.
 *
 * A supervisor's address may be found again and again; there is one session per address, and one
 * supervisor per id (the same one seen over unix and TCP counts once, the first stays). Slots are
 * never forgotten while the farm lives, so their numbers can be the scheduler's. All of this is
 * on the farm thread.
 *
 * TCP is TLS with the user's key, which is looked at again whenever somebody is found, and every
 * few seconds: sessions by a key that was revoked end, and are made again by one that holds.
 * Without protection only --insecure connects: to loopback, and to the hosts that the user has
 * named, each time with a warning. What a supervisor on another machine says cannot lead elsewhere:
 * its VMs are where it is. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "discovery/discovery_impl.h"
#include "farm/farm_impl.h"

static uint64_t now_ms(struct trk_farm *farm)
{
    return net_loop_now_ms(farm->loop);
}

/* --- slots ---------------- */

static struct slot *slot_find(struct trk_farm *farm, const uint8_t supervisor[16], uint32_t index)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->info.index == index && memcmp(slot->info.supervisor, supervisor, 16) == 0) {
            return slot;
        }
    }
    return NULL;
}

static struct slot *slot_new(struct trk_farm *farm)
{
    struct slot *slot = mem_zalloc(1, sizeof(*slot));

    if (slot == NULL) {
        return NULL;
    }
    if (farm->slots_count == farm->slots_cap) {
        uint32_t cap = farm->slots_cap ? farm->slots_cap * 2 : 64;
        struct slot **table = mem_realloc(farm->slot_by_number, cap * sizeof(*table));
        if (table == NULL) {
            mem_free(slot);
            return NULL;
        }
        farm->slot_by_number = table;
        farm->slots_cap = cap;
    }
    slot->number = farm->slots_count++;
    list_init(&slot->ack_node);
    farm->slot_by_number[slot->number] = slot;
    pthread_mutex_lock(&farm->mutex);
    list_push_back(&farm->slots, &slot->node);
    pthread_mutex_unlock(&farm->mutex);
    return slot;
}

struct slot *find_slot_of_vm(struct trk_farm *farm, const uint8_t incarnation[16])
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->vm != NULL && slot->vm->is_welcome &&
            memcmp(slot->vm->info.incarnation, incarnation, 16) == 0) {
            return slot;
        }
    }
    return NULL;
}

static bool is_tcp(const char *address)
{
    return strncmp(address, "tcp:", 4) == 0;
}

/* "tcp::4711" means: at the host where its supervisor was reached. One that is on another machine
 * has no say in other hosts, nor in files of this one. */
static void complete_address(struct trk_vm_info *info, const struct supervisor *sup)
{
    char port[32];
    const char *end = strrchr(sup->address, ':');

    if (sup->has_joined) { /* it is only known where that is */
        snprintf(info->address, sizeof(info->address), "%.*s", (int)(end - sup->address),
                 sup->address);
        return;
    }
    if (!is_tcp(sup->address) || info->address[0] == '\0') {
        return;
    }
    if (strncmp(info->address, "tcp::", 5) != 0) {
        log_warn("farm", "%s names a VM at %s, which is not used", sup->address, info->address);
        net_count_drop();
        info->address[0] = '\0';
        return;
    }
    snprintf(port, sizeof(port), "%.30s", info->address + 5);
    snprintf(info->address, sizeof(info->address), "%.*s:%s", (int)(end - sup->address),
             sup->address, port);
}

static void slot_update(struct supervisor *sup, const struct trk_vm_info *info)
{
    struct trk_farm *farm = sup->farm;
    struct slot *slot = slot_find(farm, sup->id, info->index);

    if (slot == NULL && (slot = slot_new(farm)) == NULL) {
        log_error("farm", "out of memory: VM %u of %s is not used", info->index, sup->address);
        return;
    }
    if (slot->sup != sup || slot->info.state != info->state ||
        memcmp(slot->info.incarnation, info->incarnation, 16) != 0) {
        slot->refusals = 0;
        slot->retry_at_ms = 0;
    }
    if (slot->sup != sup || info->state == TRK_VM_FAILING || info->state == TRK_VM_STOPPING ||
        memcmp(slot->info.incarnation, info->incarnation, 16) != 0) {
        join_forget(slot); /* who was called will not come */
    }
    slot->info = *info;
    memcpy(slot->info.supervisor, sup->id, 16);
    complete_address(&slot->info, sup);
    slot->sup = sup;
    if (slot->vm != NULL && slot->vm->is_silent &&
        strcmp(slot->vm->info.address, slot->info.address) != 0) {
        net_session_close(slot->vm->session, false); /* where it was is nobody any more */
    }
    if (slot->lease == LEASE_TRYING && (info->state == TRK_VM_FAILING ||
                                        info->state == TRK_VM_STOPPING)) {
        net_session_close(slot->vm->session, false); /* it will not answer soon */
    }
}

/* --- supervisors ---------------- */

static void supervisor_lose(struct supervisor *sup)
{
    struct list *pos;

    sup->farm->hasty_asks = sup->state == SUP_ANSWERED ? FARM_ASKS_SOON : sup->farm->hasty_asks;
    sup->state = SUP_GONE;
    list_for_each(pos, &sup->farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->sup == sup) {
            slot->sup = NULL;
            join_forget(slot);
        }
    }
    net_session_unref(sup->session);
    sup->session = NULL;
    farm_touch(sup->farm);
}

/* Another supervisor entry with the same id that has answered. */
static bool supervisor_is_known(struct supervisor *sup)
{
    struct list *pos;

    list_for_each(pos, &sup->farm->supervisors) {
        struct supervisor *other = container_of(pos, struct supervisor, node);
        if (other == sup || other->state != SUP_ANSWERED || memcmp(other->id, sup->id, 16) != 0) {
            continue;
        }
        if (!sup->has_joined || !other->has_joined ||
            net_session_silent_ms(other->session) < sup->farm->suspect_after_ms) {
            return true;
        }
        net_session_close(other->session, false); /* it came again: that one is dead */
        supervisor_lose(other);
        break;
    }
    return false;
}

static int supervisor_on_welcome(struct supervisor *sup, struct blob *body)
{
    struct wire_welcome welcome;
    int rc = wire_welcome_decode(&welcome, body);

    if (rc < 0) {
        return rc;
    }
    if (!welcome.is_accepted) {
        notice_message(sup->farm, TRK_NOTICE_MESSAGE, NULL, "%s refused: %s", sup->address,
                       welcome.reason);
        return TRK_EDENIED;
    }
    memcpy(sup->id, welcome.supervisor, 16);
    sup->has_id = true;
    sup->has_complained = false;
    net_session_set_trusted(sup->session);
    if (supervisor_is_known(sup)) {
        return TRK_ECLOSED;
    }
    held_ask(sup);
    return 0;
}

static int supervisor_on_vms(struct supervisor *sup, struct blob *body)
{
    struct wire_vms vms;
    int rc = wire_vms_decode(&vms, body);

    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < vms.count; i++) {
        slot_update(sup, &vms.infos[i]);
    }
    mem_free(vms.infos);
    sup->state = SUP_ANSWERED;
    farm_touch(sup->farm);
    return 0;
}

static int supervisor_on_output(struct supervisor *sup, struct blob *body)
{
    struct wire_output output;
    struct slot *slot;
    int rc = wire_output_decode(&output, body);

    if (rc < 0) {
        return rc;
    }
    slot = find_slot_of_vm(sup->farm, output.vm);
    if (slot != NULL) {
        notice_put(sup->farm, TRK_NOTICE_OUTPUT, slot->vm, output.text, output.size);
    } else {
        /* Its handle has gone already; what it printed is still worth reading. */
        struct trk_vm late = {.info = {.pid = output.pid, .index = output.index}};
        notice_put(sup->farm, TRK_NOTICE_OUTPUT, &late, output.text, output.size);
    }
    return 0;
}

static int supervisor_on_death(struct supervisor *sup, struct blob *body)
{
    struct wire_death death;
    int rc = wire_death_decode(&death, body);

    if (rc == 0) {
        lease_death(sup->farm, &death);
    }
    return rc;
}

static void supervisor_on_message(struct net_session *session, void *user,
                                  struct wire_message *msg)
{
    struct supervisor *sup = user;
    int rc;

    if (!sup->has_id) {
        rc = msg->type == WIRE_WELCOME ? supervisor_on_welcome(sup, msg->body) : TRK_ECORRUPT;
    } else if (msg->type == WIRE_VMS) {
        rc = supervisor_on_vms(sup, msg->body);
    } else if (msg->type == WIRE_OUTPUT) {
        rc = supervisor_on_output(sup, msg->body);
    } else if (msg->type == WIRE_DEATH) {
        rc = supervisor_on_death(sup, msg->body);
    } else if (msg->type == WIRE_HELD || msg->type == WIRE_HELD_END) {
        rc = held_on_message(sup, msg);
    } else if (msg->type == WIRE_REPLY) {
        order_on_reply(sup->farm, msg);
        rc = 0;
    } else {
        rc = TRK_ECORRUPT;
    }
    blob_unref(msg->body);
    if (rc < 0) {
        if (rc == TRK_ECORRUPT) {
            log_warn("farm", "%s sent a damaged %s", sup->address, wire_type_name(msg->type));
            net_count_drop();
        }
        net_session_close(session, false);
    }
}

/* Why its VMs are not used; once until they are. */
static void complain(struct supervisor *sup, const char *why)
{
    if (!sup->has_complained) {
        sup->has_complained = true;
        notice_message(sup->farm, TRK_NOTICE_MESSAGE, NULL, "VMs at %s cannot be used: %s",
                       sup->address, why);
    }
}

static void supervisor_connect(struct supervisor *sup);

static void supervisor_on_close(struct net_session *session, void *user, int error,
                                const char *why)
{
    struct supervisor *sup = user;

    if (error < 0 && sup->state == SUP_CONNECTING) {
        log_info("farm", "supervisor at %s: %s", sup->address, why);
        if (error == TRK_EVERSION || error == TRK_EDENIED) {
            complain(sup, why);
        }
    } else if (sup->state == SUP_CONNECTING && !sup->has_id && is_tcp(sup->address) &&
               !sup->has_joined &&
               sup->farm->keys.keys.count == 0 && !sup->farm->is_closing) {
        complain(sup, "it closed the connection without a word, as it does when it wants a key");
    }
    bool is_revoked = error == TRK_EDENIED && sup->state == SUP_ANSWERED;
    supervisor_lose(sup);
    if (sup->has_joined) { /* who comes again is a new one */
        list_remove(&sup->node);
        mem_free(sup);
    } else if (is_revoked && !sup->farm->is_closing) {
        supervisor_connect(sup); /* by the key that took the place of the session's */
    }
}

static const struct net_session_ops supervisor_ops = {
    .on_message = supervisor_on_message,
    .on_close = supervisor_on_close,
};

int find_connect(struct trk_farm *farm, const char *address,
                 const struct net_session_options *opt, struct net_session **out)
{
    struct net_session_options secured = *opt;

    secured.role = AUTH_INITIATOR;
    secured.keys = farm->keys.keys.count > 0 ? &farm->keys.keys : NULL;
    if (is_tcp(address) && secured.keys == NULL && !farm->insecure) {
        return fail(TRK_EDENIED, "there is no key");
    }
    return net_session_connect(farm->loop, address, &secured, out);
}

static struct net_session_options supervisor_options(struct supervisor *sup)
{
    return (struct net_session_options){.ops = &supervisor_ops, .user = sup,
                                        .ping_ms = sup->farm->suspect_after_ms / 2,
                                        .dead_ms = sup->farm->dead_after_ms};
}

/* Asks for its VMs, by its session. */
static void watch(struct supervisor *sup)
{
    struct wire_hello hello = sup->farm->hello;
    struct blob *body;

    sup->state = SUP_CONNECTING;
    hello.purpose = WIRE_PURPOSE_WATCH;
    body = wire_hello_encode(&hello);
    if (body == NULL || net_session_send(sup->session, WIRE_HELLO, 0, body) < 0) {
        net_session_close(sup->session, false);
    }
}

static void supervisor_connect(struct supervisor *sup)
{
    struct trk_farm *farm = sup->farm;
    struct net_session_options opt = supervisor_options(sup);

    sup->state = SUP_GONE;
    sup->has_id = false;
    if (find_connect(farm, sup->address, &opt, &sup->session) < 0) {
        log_info("farm", "supervisor at %s: %s", sup->address, fail_text());
        sup->session = NULL;
        return;
    }
    watch(sup);
}

int find_joined(struct trk_farm *farm, struct net_session *session)
{
    struct supervisor *sup = mem_zalloc(1, sizeof(*sup));
    struct net_session_options opt;

    if (sup == NULL) {
        return TRK_ENOMEM;
    }
    sup->farm = farm;
    sup->has_joined = true;
    sup->session = session;
    snprintf(sup->address, sizeof(sup->address), "%s", net_session_peer(session));
    list_push_back(&farm->supervisors, &sup->node);
    opt = supervisor_options(sup);
    net_session_hand_over(session, &opt);
    watch(sup);
    farm_touch(farm);
    return 0;
}

static bool address_is_loopback(const char *address)
{
    return strncmp(address, "tcp:127.", 8) == 0 || strncmp(address, "tcp:[::1]", 9) == 0;
}

/* NULL: its VMs may be used; or why not. Warns where that is the user's risk. */
static const char *why_not(struct supervisor *sup)
{
    struct trk_farm *farm = sup->farm;

    if (!is_tcp(sup->address) || farm->keys.keys.count > 0) {
        return NULL;
    }
    if (!farm->insecure) {
        return "there is no key to protect the connection with; type on a machine that has it: "
               "trickle key show --secret | ssh THIS-HOST trickle key import";
    }
    if (!address_is_loopback(sup->address) && !sup->is_named) {
        return "--insecure uses VMs of other machines only where --hosts names their address";
    }
    notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "warning: --insecure: whoever is on the way to "
                   "%s can read and change all that goes there, and run code in its place",
                   sup->address);
    return NULL;
}

static void supervisor_try(struct supervisor *sup)
{
    const char *why;

    if (is_tcp(sup->address)) {
        find_look_at_keys(sup->farm);
    }
    why = why_not(sup);
    if (why != NULL) {
        log_info("farm", "supervisor at %s: %s", sup->address, why);
        complain(sup, why);
        return;
    }
    supervisor_connect(sup);
}

static struct supervisor *supervisor_find(struct trk_farm *farm, const char *address)
{
    struct list *pos;

    list_for_each(pos, &farm->supervisors) {
        struct supervisor *sup = container_of(pos, struct supervisor, node);
        if (!sup->has_joined && strcmp(sup->address, address) == 0) {
            return sup;
        }
    }
    return NULL;
}

static void on_found(void *ctx, const char *address)
{
    struct finder *finder = ctx;
    struct trk_farm *farm = finder->farm;
    struct supervisor *sup = supervisor_find(farm, address);

    finder->has_answer = true;
    finder->answered_at_ms = now_ms(farm);
    farm_touch(farm);
    if (sup == NULL) {
        sup = mem_zalloc(1, sizeof(*sup));
        if (sup == NULL || strlen(address) >= sizeof(sup->address)) {
            mem_free(sup);
            return; /* no real address is that long */
        }
        memcpy(sup->address, address, strlen(address) + 1);
        sup->farm = farm;
        sup->state = SUP_GONE;
        list_push_back(&farm->supervisors, &sup->node);
    }
    sup->is_named |= finder->module == &discovery_hosts;
    if (sup->state == SUP_GONE) {
        supervisor_try(sup);
    }
}

/* That it has gone is seen by its session. */
static void on_gone(void *ctx, const char *address)
{
}

/* --- discovery modules ---------------- */

/* What went wrong there. One of others has no sentences of ours. */
static const char *finder_error(const struct finder *finder, int error)
{
    return finder->module == &finder->farm->discovery ? trk_strerror(error) : fail_text();
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct finder *finder = poll->data;

    finder->module->process(finder->state);
    farm_touch(finder->farm);
}

static int finder_open(struct finder *finder)
{
    struct trk_farm *farm = finder->farm;
    struct trk_discovery_config config = {.runtime_dir = farm->runtime_dir, .hosts = farm->hosts,
                                          .multicast = farm->multicast};
    struct trk_discovery_sink sink = {.ctx = finder, .found = on_found, .gone = on_gone};
    int rc, fd;

    config.keys = farm->keys.keys.count > 0 ? &farm->keys.keys : NULL;
    rc = finder->module->open(&config, &sink, &finder->state);
    if (rc < 0) {
        return rc;
    }
    finder->is_open = true;
    fd = finder->module->fd(finder->state);
    finder->poll = fd >= 0 ? mem_zalloc(1, sizeof(*finder->poll)) : NULL;
    if (finder->poll != NULL && uv_poll_init(net_loop_uv(farm->loop), finder->poll, fd) < 0) {
        mem_free(finder->poll);
        finder->poll = NULL;
    }
    if (finder->poll != NULL) {
        finder->poll->data = finder;
        uv_poll_start(finder->poll, UV_READABLE, on_readable);
    }
    return 0;
}

static void on_poll_closed(uv_handle_t *handle)
{
    mem_free(handle);
}

static void finder_close(struct finder *finder)
{
    if (finder->poll != NULL) {
        uv_close((uv_handle_t *)finder->poll, on_poll_closed);
        finder->poll = NULL;
    }
    if (finder->is_open) {
        finder->module->close(finder->state);
        finder->is_open = false;
    }
}

static void finder_add(struct trk_farm *farm, const struct trk_discovery_module *module)
{
    struct finder *finder = &farm->finders[farm->finders_count];
    int rc;

    finder->farm = farm;
    finder->module = module;
    rc = finder_open(finder);
    if (rc < 0) {
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "discovery %s cannot start: %s",
                       module->name, finder_error(finder, rc));
    }
    farm->finders_count += rc == 0;
}

void find_look_at_keys(struct trk_farm *farm)
{
    int rc = farm->keys.path[0] != '\0' ? auth_watch_look(&farm->keys) : 0;
    struct list *pos;

    farm->keys_looked_at_ms = now_ms(farm);
    if (rc < 0) {
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "%s", fail_text());
    }
    if (rc <= 0) {
        return;
    }
    log_info("farm", "the keys have changed; the first is %s", farm->keys.keys.key[0].id);
    net_sessions_revoke(farm->loop, &farm->keys.keys);
    farm->has_new_keys = true; /* modules may be on the stack: at the next question */
    list_for_each(pos, &farm->slots) { /* who refused the old one may take this one */
        struct slot *slot = container_of(pos, struct slot, node);
        slot->refusals = 0;
        slot->retry_at_ms = 0;
    }
}

/* Modules keep the keys that they were opened with. */
static void open_again(struct trk_farm *farm)
{
    farm->has_new_keys = false;
    for (size_t i = 0; i < farm->finders_count; i++) {
        struct finder *finder = &farm->finders[i];
        if (finder->module == &discovery_multicast) {
            finder_close(finder);
            if (finder_open(finder) < 0) {
                notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "discovery: %s", fail_text());
            }
        }
    }
}

void find_open(struct trk_farm *farm)
{
    finder_add(farm, &discovery_local);
    if (farm->lan) {
        finder_add(farm, &discovery_multicast);
    }
    if (farm->hosts != NULL) {
        finder_add(farm, &discovery_hosts);
    }
    if (farm->has_discovery) {
        finder_add(farm, &farm->discovery);
    }
}

static void finder_ask(struct finder *finder)
{
    finder->asked_at_ms = now_ms(finder->farm);
    int rc = finder->is_open ? finder->module->ask(finder->state) : 0;

    if (rc < 0) {
        log_warn("farm", "discovery %s: %s", finder->module->name, finder_error(finder, rc));
    }
}

void find_ask(struct trk_farm *farm)
{
    find_look_at_keys(farm);
    if (farm->has_new_keys) {
        open_again(farm);
    }
    farm->asked_at_ms = now_ms(farm);
    for (size_t i = 0; i < farm->finders_count; i++) {
        farm->finders[i].has_answer = false;
        finder_ask(&farm->finders[i]);
    }
    farm_touch(farm);
}

void find_pulse(struct trk_farm *farm)
{
    bool has_gone = farm->lan;
    uint64_t wait_ms = farm->hasty_asks > 0 ? FARM_ASK_SOON_MS : FARM_ASK_AGAIN_MS;
    struct list *pos;

    list_for_each(pos, &farm->supervisors) {
        has_gone |= container_of(pos, struct supervisor, node)->state == SUP_GONE;
    }
    has_gone &= farm->asked_at_ms > 0;
    if (has_gone && now_ms(farm) >= farm->asked_at_ms + wait_ms) {
        farm->hasty_asks -= farm->hasty_asks > 0;
        find_ask(farm);
    } else if (now_ms(farm) >= farm->keys_looked_at_ms + FARM_KEYS_MS) {
        find_look_at_keys(farm); /* nobody may be left whose key was revoked */
    }
}

/* Have those who answer over a network had their time? A question may get lost, so while nobody
 * has answered it is asked again. */
static bool is_quiet(struct trk_farm *farm)
{
    uint64_t now = now_ms(farm);

    for (size_t i = 0; i < farm->finders_count; i++) {
        struct finder *finder = &farm->finders[i];
        uint64_t due = finder->answered_at_ms + FARM_QUIET_MS;
        if (finder->module->is_immediate || now >= farm->asked_at_ms + FARM_ASK_MAX_MS ||
            (finder->has_answer && now >= due)) {
            continue;
        }
        if (!finder->has_answer && now >= finder->asked_at_ms + FARM_REPEAT_MS) {
            finder_ask(finder);
        }
        farm_wake_in(farm, finder->has_answer ? due - now : FARM_REPEAT_MS);
        return false;
    }
    return true;
}

bool find_is_complete(struct trk_farm *farm)
{
    struct list *pos;

    list_for_each(pos, &farm->supervisors) {
        if (container_of(pos, struct supervisor, node)->state == SUP_CONNECTING) {
            return false;
        }
    }
    return is_quiet(farm);
}

void find_close(struct trk_farm *farm)
{
    struct list *pos;

    for (size_t i = 0; i < farm->finders_count; i++) {
        finder_close(&farm->finders[i]);
    }
    farm->finders_count = 0;
    list_for_each(pos, &farm->supervisors) {
        struct supervisor *sup = container_of(pos, struct supervisor, node);
        if (sup->session != NULL) {
            net_session_close(sup->session, false); /* the memory waits for on_close: find_free */
        }
    }
}

void find_free(struct trk_farm *farm)
{
    struct list *node;

    while ((node = list_pop_front(&farm->supervisors)) != NULL) {
        struct supervisor *sup = container_of(node, struct supervisor, node);
        net_session_unref(sup->session);
        mem_free(sup);
    }
}
