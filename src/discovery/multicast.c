/* SPDX-License-Identifier: MIT */
/* multicast.c - finding supervisors on the local network.
 *
 * A question with a new nonce goes to each group out of every network of ours, answers come back
 * to the asking socket and must repeat the nonce: of this question, or of the one before for those
 * who are late. Whatever else comes is old, replayed or forged, and dropped.
 *
 * A second socket hears the group itself: a supervisor that comes up later says HERE there. That
 * repeats no nonce, so with keys it is only a hint, and the question is asked again where the hint
 * came from. Those who have answered it already know it and keep quiet.
 *
 * A machine with two networks in common with us answers twice, from two addresses. Each supervisor
 * is reported by the address that was first, and once per question; another address takes over
 * only when the first has not answered the two questions before. */
#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "discovery/discovery_impl.h"
#include "discovery/group.h"
#include "discovery/ration.h"

#define KNOWN_MAX 1024
#define TURN_DATAGRAMS 256
#define HINTS_PER_S 10 /* are followed by another question; what is missed the next one finds */

/* Where a supervisor is reached. */
struct place {
    struct in6_addr address;
    unsigned interface; /* where the address is link-local; else 0 */
    uint16_t port;
};

struct known {
    uint8_t supervisor[16];
    struct place place;
    uint64_t round; /* the last in which it was reported */
};

/* One group. */
struct channel {
    struct discovery_group group;
    int ask_fd;        /* asks, hears answers */
    int ear_fd;        /* hears the group; -1: cannot */
    uint16_t ask_port; /* of ask_fd */
};

struct multicast {
    struct trk_discovery_sink sink;
    struct discovery_seals seals;
    struct channel channels[DISCOVERY_GROUPS_MAX];
    int channels_count;
    int epoll_fd;             /* over the sockets of all */
    uint8_t nonce[16];        /* of the question */
    uint8_t last_nonce[16];   /* of the question before: its late answers count, too */
    uint64_t round;           /* questions asked */
    struct discovery_ration hints;
    struct discovery_interfaces interfaces; /* as of the last time it asked */
    size_t known_count;       /* used of known */
    size_t known_next;        /* overwritten next when full */
    struct known known[KNOWN_MAX];
};

static void multicast_close(void *state)
{
    struct multicast *m = state;
    discovery_group_close(m->epoll_fd);
    for (int i = 0; i < m->channels_count; i++) {
        discovery_group_close(m->channels[i].ear_fd);
        discovery_group_close(m->channels[i].ask_fd);
    }
    discovery_seals_clear(&m->seals);
    mem_free(m);
}

/* A machine without IPv6, or without IPv4, goes on with the groups it can use. */
static int open_channels(struct multicast *m, const struct discovery_group *groups, int count)
{
    int hops = m->seals.count > 0 ? DISCOVERY_SITE_HOPS : 1, rc = TRK_EIO;
    for (int i = 0; i < count; i++) {
        struct channel *c = &m->channels[m->channels_count];
        c->group = groups[i];
        c->ask_fd = discovery_group_open(&c->group, false, hops);
        if (c->ask_fd < 0) {
            rc = c->ask_fd;
            log_info("discovery", "multicast group %d is not asked: %s", i + 1, fail_text());
            continue;
        }
        m->channels_count++;
        c->ask_port = discovery_group_port(c->ask_fd);
        c->ear_fd = discovery_group_open(&c->group, true, hops);
        if (c->ear_fd < 0) {
            c->ear_fd = -1;
            log_info("discovery", "VMs that start later are not noticed: %s", fail_text());
        }
    }
    return m->channels_count > 0 ? 0 : rc;
}

static int open_epoll(struct multicast *m)
{
    int fds[2 * DISCOVERY_GROUPS_MAX];
    for (int i = 0; i < m->channels_count; i++) {
        fds[2 * i] = m->channels[i].ask_fd;
        fds[2 * i + 1] = m->channels[i].ear_fd;
    }
    m->epoll_fd = discovery_epoll(fds, 2 * m->channels_count);
    return m->epoll_fd < 0 ? m->epoll_fd : 0;
}

static int multicast_open(const struct trk_discovery_config *config,
                          const struct trk_discovery_sink *sink, void **state)
{
    const char *text = config->multicast != NULL ? config->multicast : DISCOVERY_MULTICAST_DEFAULT;
    struct discovery_group groups[DISCOVERY_GROUPS_MAX];
    int count = discovery_groups_parse(groups, text);
    if (count < 0) {
        return count;
    }
    struct multicast *m = mem_zalloc(1, sizeof(*m));
    if (m == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    m->sink = *sink;
    m->epoll_fd = -1;
    m->hints = discovery_ration_full(HINTS_PER_S, sys_now_ns());
    int rc = discovery_seals_init(&m->seals, config->keys);
    rc = rc < 0 ? rc : open_channels(m, groups, count);
    rc = rc < 0 ? rc : open_epoll(m);
    if (rc < 0) {
        multicast_close(m);
        return rc;
    }
    *state = m;
    return 0;
}

/* Asks in one group, by one interface (0: all). */
static void ask_by(struct multicast *m, const struct channel *c, unsigned interface)
{
    struct wire_beacon b = {.kind = WIRE_BEACON_ASK, .port = c->ask_port};
    memcpy(b.nonce, m->nonce, sizeof(b.nonce));
    discovery_group_send(c->ask_fd, &c->group, &m->interfaces, interface, &m->seals, &b);
}

static int multicast_ask(void *state)
{
    struct multicast *m = state;
    uint8_t nonce[16];
    int rc = sys_random(nonce, sizeof(nonce));
    if (rc != 0) {
        return rc;
    }
    memcpy(m->last_nonce, m->nonce, sizeof(m->nonce));
    memcpy(m->nonce, nonce, sizeof(m->nonce));
    m->round++;
    discovery_interfaces(&m->interfaces); /* some may have come, gone, or changed */
    for (int i = 0; i < m->channels_count; i++) {
        const struct channel *c = &m->channels[i];
        if (c->ear_fd >= 0) {
            discovery_group_join(c->ear_fd, &c->group, &m->interfaces);
        }
        ask_by(m, c, 0);
    }
    return 0;
}

static int multicast_fd(void *state)
{
    const struct multicast *m = state;
    return m->epoll_fd;
}

static struct known *find(struct multicast *m, const uint8_t supervisor[16])
{
    for (size_t i = 0; i < m->known_count; i++) {
        if (memcmp(m->known[i].supervisor, supervisor, 16) == 0) {
            return &m->known[i];
        }
    }
    return NULL;
}

static struct known *add(struct multicast *m, const uint8_t supervisor[16])
{
    struct known *k;
    if (m->known_count < KNOWN_MAX) {
        k = &m->known[m->known_count++];
    } else { /* forged ones must not grow without bound: the oldest goes */
        k = &m->known[m->known_next];
        m->known_next = (m->known_next + 1) % KNOWN_MAX;
    }
    memcpy(k->supervisor, supervisor, 16);
    return k;
}

/* Decides whether what a supervisor said in a round is to be reported, and notes it. */
static bool is_news(struct multicast *m, const struct wire_beacon *b, const struct place *place,
                    uint64_t round)
{
    struct known *k = find(m, b->supervisor);
    if (k == NULL) {
        k = add(m, b->supervisor);
    } else if (IN6_ARE_ADDR_EQUAL(&k->place.address, &place->address) &&
               k->place.interface == place->interface && k->place.port == place->port) {
        if (k->round >= round && b->kind == WIRE_BEACON_ANSWER) {
            return false;
        }
    } else if (k->round + 2 > round) {
        return false;
    }
    k->place = *place;
    k->round = round;
    return true;
}

static void format_place(char *text, size_t size, const struct place *place)
{
    char host[INET6_ADDRSTRLEN], name[IF_NAMESIZE];
    struct in_addr ipv4 = discovery_to_ipv4(&place->address);
    if (discovery_is_ipv4(&place->address)) {
        inet_ntop(AF_INET, &ipv4, host, sizeof(host));
        snprintf(text, size, "tcp:%s:%u", host, (unsigned)place->port);
        return;
    }
    inet_ntop(AF_INET6, &place->address, host, sizeof(host));
    if (place->interface == 0) {
        snprintf(text, size, "tcp:[%s]:%u", host, (unsigned)place->port);
    } else if (if_indextoname(place->interface, name) != NULL) {
        snprintf(text, size, "tcp:[%s%%%s]:%u", host, name, (unsigned)place->port);
    } else { /* gone since */
        snprintf(text, size, "tcp:[%s%%%u]:%u", host, place->interface, (unsigned)place->port);
    }
}

static void take(struct multicast *m, const struct discovery_letter *letter, uint64_t round)
{
    struct place place = {.port = letter->b.port};
    memcpy(&place.address, letter->b.address, sizeof(place.address));
    /* Ours alone, and only when it came that way. */
    bool is_loopback = discovery_is_loopback(&place.address);
    if (place.port == 0 || (is_loopback && letter->interface != if_nametoindex("lo"))) {
        return;
    }
    place.interface = IN6_IS_ADDR_LINKLOCAL(&place.address) ? letter->interface : 0;
    if (is_news(m, &letter->b, &place, round)) {
        char address[128];
        format_place(address, sizeof(address), &place);
        m->sink.found(m->sink.ctx, address);
    }
}

/* The round of the question that b answers; 0: of none. */
static uint64_t round_of(const struct multicast *m, const struct wire_beacon *b)
{
    if (b->kind != WIRE_BEACON_ANSWER) {
        return 0;
    }
    if (m->round > 0 && memcmp(b->nonce, m->nonce, sizeof(m->nonce)) == 0) {
        return m->round;
    }
    return m->round > 1 && memcmp(b->nonce, m->last_nonce, sizeof(m->nonce)) == 0 ? m->round - 1
                                                                                 : 0;
}

static void take_hint(struct multicast *m, const struct channel *c,
                      const struct discovery_letter *letter)
{
    if (letter->b.kind != WIRE_BEACON_HERE) {
        return;
    }
    if (m->seals.count == 0) {
        take(m, letter, m->round);
    } else if (m->round > 0 && discovery_ration_take(&m->hints, sys_now_ns())) {
        discovery_interfaces(&m->interfaces);
        ask_by(m, c, letter->interface);
    }
}

static void multicast_process(void *state)
{
    struct multicast *m = state;
    struct discovery_letter letter;
    for (int i = 0; i < m->channels_count; i++) {
        const struct channel *c = &m->channels[i];
        int budget = TURN_DATAGRAMS;
        while (discovery_group_receive(c->ask_fd, NULL, &m->seals, &budget, &letter)) {
            uint64_t round = round_of(m, &letter.b);
            if (round > 0) {
                take(m, &letter, round);
            } else {
                discovery_group_refuse(letter.b.address, "it answers no question that is open "
                                                         "(is it replayed?)");
            }
        }
        budget = c->ear_fd >= 0 ? TURN_DATAGRAMS : 0;
        while (discovery_group_receive(c->ear_fd, &c->group, &m->seals, &budget, &letter)) {
            take_hint(m, c, &letter);
        }
    }
}

const struct trk_discovery_module discovery_multicast = {
    .abi = TRK_DISCOVERY_ABI,
    .size = sizeof(struct trk_discovery_module),
    .name = "multicast",
    .is_immediate = false,
    .open = multicast_open,
    .ask = multicast_ask,
    .fd = multicast_fd,
    .process = multicast_process,
    .close = multicast_close,
};
