/* SPDX-License-Identifier: MIT */
/* multicast.c - finding supervisors on the local network.
 *
 * A question goes to the group out of every usable interface, answers come back to the asking
 * socket and must repeat the question's nonce. A second socket hears the group itself: a
 * supervisor that comes up later says HERE there.
 *
 * A machine with two networks in common with us answers twice, from two addresses. Each
 * supervisor is reported by the address that was first, and once per question; another address
 * takes over only when the first has not answered the two questions before. */
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

#define KNOWN_MAX 1024
#define TURN_DATAGRAMS 256

struct known {
    uint8_t supervisor[16];
    struct in_addr host;
    uint16_t port;
    uint64_t round; /* the last in which it was reported */
};

struct multicast {
    struct trk_discovery_sink sink;
    struct sockaddr_in group;
    int ask_fd;               /* asks, hears answers */
    int here_fd;              /* hears the group; -1: cannot */
    int epoll_fd;             /* over both */
    uint8_t nonce[16];        /* of the question */
    uint8_t last_nonce[16];   /* of the question before: its late answers count, too */
    uint64_t round;           /* questions asked */
    size_t known_count;       /* used of known */
    size_t known_next;        /* overwritten next when full */
    struct known known[KNOWN_MAX];
};

static void multicast_close(void *state)
{
    struct multicast *m = state;
    discovery_group_close(m->epoll_fd);
    discovery_group_close(m->here_fd);
    discovery_group_close(m->ask_fd);
    mem_free(m);
}

static int multicast_open(const struct trk_discovery_config *config,
                          const struct trk_discovery_sink *sink, void **state)
{
    const char *text = config->multicast != NULL ? config->multicast : DISCOVERY_MULTICAST_DEFAULT;
    struct sockaddr_in group, any = {.sin_family = AF_INET};
    int rc = discovery_group_parse(&group, text);
    if (rc != 0) {
        return rc;
    }
    struct multicast *m = mem_zalloc(1, sizeof(*m));
    if (m == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    m->sink = *sink;
    m->group = group;
    m->here_fd = m->epoll_fd = -1;
    m->ask_fd = rc = discovery_group_open(&any);
    if (rc < 0) {
        multicast_close(m);
        return rc;
    }
    m->here_fd = discovery_group_open(&group);
    if (m->here_fd < 0) {
        m->here_fd = -1;
        log_info("discovery", "VMs that start later are not noticed: %s", fail_text());
    }
    const int fds[] = {m->ask_fd, m->here_fd};
    m->epoll_fd = rc = discovery_epoll(fds, 2);
    if (rc < 0) {
        multicast_close(m);
        return rc;
    }
    *state = m;
    return 0;
}

static int multicast_ask(void *state)
{
    struct multicast *m = state;
    struct wire_beacon b = {.kind = WIRE_BEACON_ASK};
    memcpy(m->last_nonce, m->nonce, sizeof(m->nonce));
    int rc = sys_random(m->nonce, sizeof(m->nonce));
    if (rc != 0) {
        return rc;
    }
    m->round++;
    if (m->here_fd >= 0) {
        discovery_group_join(m->here_fd, &m->group); /* interfaces may have come */
    }
    memcpy(b.nonce, m->nonce, sizeof(b.nonce));
    discovery_group_send(m->ask_fd, &m->group, &b);
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

/* Decides whether what a supervisor said is to be reported, and notes it. */
static bool is_news(struct multicast *m, const struct wire_beacon *b, struct in_addr host)
{
    struct known *k = find(m, b->supervisor);
    if (k == NULL) {
        k = add(m, b->supervisor);
    } else if (k->host.s_addr == host.s_addr && k->port == b->tcp_port) {
        if (k->round == m->round && b->kind == WIRE_BEACON_ANSWER) {
            return false;
        }
    } else if (k->round + 2 > m->round) {
        return false;
    }
    k->host = host;
    k->port = b->tcp_port;
    k->round = m->round;
    return true;
}

static void take(struct multicast *m, const struct wire_beacon *b,
                 const struct discovery_from *from)
{
    struct in_addr host = from->sender.sin_addr;
    bool is_loopback = ntohl(host.s_addr) >> 24 == IN_LOOPBACKNET;
    if (b->tcp_port == 0 || (is_loopback && from->interface != if_nametoindex("lo"))) {
        return;
    }
    if (is_news(m, b, host)) {
        char text[INET_ADDRSTRLEN], address[64];
        inet_ntop(AF_INET, &host, text, sizeof(text));
        snprintf(address, sizeof(address), "tcp:%s:%u", text, (unsigned)b->tcp_port);
        m->sink.found(m->sink.ctx, address);
    }
}

static bool is_answer(const struct multicast *m, const struct wire_beacon *b)
{
    return b->kind == WIRE_BEACON_ANSWER && m->round > 0 &&
           (memcmp(b->nonce, m->nonce, sizeof(m->nonce)) == 0 ||
            (m->round > 1 && memcmp(b->nonce, m->last_nonce, sizeof(m->nonce)) == 0));
}

static void multicast_process(void *state)
{
    struct multicast *m = state;
    struct wire_beacon b;
    struct discovery_from from;
    int budget = TURN_DATAGRAMS;
    while (discovery_group_receive(m->ask_fd, &budget, &b, &from)) {
        if (is_answer(m, &b)) {
            take(m, &b, &from);
        }
    }
    budget = m->here_fd >= 0 ? TURN_DATAGRAMS : 0;
    while (discovery_group_receive(m->here_fd, &budget, &b, &from)) {
        if (b.kind == WIRE_BEACON_HERE) {
            take(m, &b, &from);
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
