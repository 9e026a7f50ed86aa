/* SPDX-License-Identifier: MIT */
/* responder.c - the supervisor's half of multicast discovery: HERE once, then an answer for each
 * question, sent back the way it came and from the address we have there.
 *
 * Interfaces come (Wi-Fi, a cable, a VPN) and change their addresses while a supervisor runs for
 * months. A netlink socket says so at once; a timer looks every five seconds in case that was
 * lost. Joining where it is joined already is a harmless no, so nothing needs to be remembered;
 * where something is new, HERE is said again.
 *
 * With keys, a stranger's question is dropped before it costs more than a MAC. An answer is as
 * long as its question (beacons have one size), goes only to where the question says under its
 * MAC that it was sent from, and once: a question is known again by its MAC, and after so many
 * others that it has been forgotten, a replay gets its sender the same small answer. Answers are
 * rationed beyond that. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "discovery/discovery_impl.h"
#include "discovery/group.h"
#include "discovery/ration.h"

#define LOOK_AGAIN_S 5
#define TURN_DATAGRAMS 64
#define ANSWERS_PER_S 200
#define SEEN_MAX 1024

struct discovery_responder {
    struct discovery_group groups[DISCOVERY_GROUPS_MAX];
    int fds[DISCOVERY_GROUPS_MAX]; /* of each: hears it, sends all; -1: this machine cannot */
    int groups_count;
    struct discovery_seals seals;
    struct discovery_interfaces interfaces; /* those it can be reached at; as of the last look */
    struct in6_addr only;     /* the one address it listens at; unspecified: all */
    uint16_t ipv4_port, ipv6_port; /* TCP; 0: not reached so */
    uint8_t supervisor[16];   /* id */
    int timer_fd;
    int netlink_fd;           /* -1: only the timer */
    int epoll_fd;             /* over all of them */
    struct discovery_ration answers;
    size_t seen_count;        /* used of seen */
    size_t seen_next;         /* overwritten next when full */
    uint8_t seen[SEEN_MAX][WIRE_BEACON_MAC]; /* of the questions answered last */
};

static int open_timer(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct itimerspec every = {.it_interval.tv_sec = LOOK_AGAIN_S,
                               .it_value.tv_sec = LOOK_AGAIN_S};
    if (fd < 0 || timerfd_settime(fd, 0, &every, NULL) != 0 || sys_fd_add(fd) != 0) {
        int error = errno;
        discovery_group_close(fd);
        return fail(TRK_EIO, "cannot make a timer: %s", strerror(error));
    }
    return fd;
}

/* -1 where the kernel has none for us: the timer is enough. */
static int open_netlink(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct sockaddr_nl name = {.nl_family = AF_NETLINK,
                               .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR |
                                            RTMGRP_IPV6_IFADDR};
    if (fd >= 0 && (bind(fd, (struct sockaddr *)&name, sizeof(name)) != 0 || sys_fd_add(fd) != 0)) {
        discovery_group_close(fd);
        fd = -1;
    }
    return fd;
}

/* Reads all that waits; what it says does not matter. Returns whether there was anything. */
static bool drain(int fd)
{
    char bytes[8192];
    bool had_any = false;
    for (;;) {
        ssize_t n = fd >= 0 ? read(fd, bytes, sizeof(bytes)) : 0;
        if (n > 0 || (n < 0 && errno == ENOBUFS)) { /* netlink: messages were lost */
            had_any = true;
        } else if (n == 0 || errno != EINTR) {
            return had_any;
        }
    }
}

static uint16_t port_at(const struct discovery_responder *r, const struct in6_addr *address)
{
    return discovery_is_ipv4(address) ? r->ipv4_port : r->ipv6_port;
}

/* Everybody can hear this. With keys it only makes those who have one ask, and names nothing. */
static void say_here(struct discovery_responder *r)
{
    struct wire_beacon b = {.kind = WIRE_BEACON_HERE};
    bool is_plain = r->seals.count == 0;
    if (is_plain) {
        memcpy(b.supervisor, r->supervisor, sizeof(b.supervisor));
    }
    for (int i = 0; i < r->groups_count; i++) {
        if (r->fds[i] >= 0) {
            b.port = is_plain ? port_at(r, &r->groups[i].address) : 0;
            discovery_group_send(r->fds[i], &r->groups[i], &r->interfaces, 0, &r->seals, &b);
        }
    }
}

/* Looks which of our addresses it can be reached at now. Returns whether they are others. */
static bool look(struct discovery_responder *r)
{
    struct discovery_interfaces now;
    size_t kept = 0;
    discovery_interfaces(&now);
    for (size_t i = 0; i < now.count; i++) {
        const struct in6_addr *address = &now.list[i].address;
        if (port_at(r, address) != 0 && (IN6_IS_ADDR_UNSPECIFIED(&r->only) ||
                                         IN6_ARE_ADDR_EQUAL(address, &r->only))) {
            now.list[kept++] = now.list[i];
        }
    }
    now.count = kept;
    if (discovery_interfaces_are_equal(&now, &r->interfaces)) {
        return false;
    }
    r->interfaces = now;
    return true;
}

/* Finds what has changed, joins where it is new, says so. */
static void look_and_tell(struct discovery_responder *r)
{
    bool is_changed = look(r);
    for (int i = 0; i < r->groups_count; i++) {
        if (r->fds[i] >= 0 && discovery_group_join(r->fds[i], &r->groups[i], &r->interfaces) > 0) {
            is_changed = true;
        }
    }
    if (is_changed) {
        say_here(r);
    }
}

/* "10.0.0.5", "fd00::5", "fe80::5%eth0"; a wildcard: unspecified. */
static int parse_host(struct in6_addr *out, const char *text)
{
    char host[INET6_ADDRSTRLEN] = "";
    size_t size = strcspn(text, "%"); /* the interface is another's concern */
    struct in_addr ipv4;
    memcpy(host, text, size < sizeof(host) ? size : 0);
    if (inet_pton(AF_INET, host, &ipv4) == 1) {
        *out = ipv4.s_addr == INADDR_ANY ? in6addr_any : discovery_from_ipv4(ipv4);
        return 0;
    }
    return inet_pton(AF_INET6, host, out) == 1 ? 0 :
        fail(TRK_EINVAL, "\"%.60s\" is not a numeric address to listen at", text);
}

/* At least one must work. A family that nobody can ask by is of no interest any more. */
static int open_groups(struct discovery_responder *r)
{
    bool has_ipv4 = false, has_ipv6 = false;
    int rc = fail(TRK_EINVAL, "there is no port to tell others of in any multicast group");
    for (int i = 0; i < r->groups_count; i++) {
        if (port_at(r, &r->groups[i].address) == 0) {
            continue; /* who asks by this family could not reach us */
        }
        int fd = discovery_group_open(&r->groups[i], true,
                                      r->seals.count > 0 ? DISCOVERY_SITE_HOPS : 1);
        if (fd >= 0) {
            r->fds[i] = fd;
            has_ipv4 |= discovery_is_ipv4(&r->groups[i].address);
            has_ipv6 |= !discovery_is_ipv4(&r->groups[i].address);
        } else {
            rc = fd;
            log_info("discovery", "multicast group %d is not heard: %s", i + 1, fail_text());
        }
    }
    r->ipv4_port = has_ipv4 ? r->ipv4_port : 0;
    r->ipv6_port = has_ipv6 ? r->ipv6_port : 0;
    return has_ipv4 || has_ipv6 ? 0 : rc;
}

static int open_sockets(struct discovery_responder *r)
{
    int fds[DISCOVERY_GROUPS_MAX + 2], rc = open_groups(r);
    if (rc < 0) {
        return rc;
    }
    r->timer_fd = rc = open_timer();
    if (rc < 0) {
        return rc;
    }
    r->netlink_fd = open_netlink();
    memcpy(fds, r->fds, sizeof(r->fds));
    fds[r->groups_count] = r->timer_fd;
    fds[r->groups_count + 1] = r->netlink_fd;
    r->epoll_fd = rc = discovery_epoll(fds, r->groups_count + 2);
    return rc < 0 ? rc : 0;
}

int discovery_responder_open(struct discovery_responder **out,
                             const struct discovery_responder_options *opt)
{
    const char *groups = opt->multicast != NULL ? opt->multicast : DISCOVERY_MULTICAST_DEFAULT;
    struct discovery_responder *r = mem_zalloc(1, sizeof(*r));
    if (r == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    r->timer_fd = r->epoll_fd = r->netlink_fd = -1;
    memset(r->fds, -1, sizeof(r->fds));
    r->ipv4_port = opt->ipv4_port;
    r->ipv6_port = opt->ipv6_port;
    memcpy(r->supervisor, opt->supervisor, sizeof(r->supervisor));
    r->answers = discovery_ration_full(ANSWERS_PER_S, sys_now_ns());
    int rc = discovery_groups_parse(r->groups, groups);
    if (rc > 0) {
        r->groups_count = rc;
        rc = opt->listen_host != NULL ? parse_host(&r->only, opt->listen_host) : 0;
    }
    rc = rc < 0 ? rc : discovery_seals_init(&r->seals, opt->keys);
    rc = rc < 0 ? rc : open_sockets(r);
    if (rc < 0) {
        discovery_responder_free(r);
        return rc;
    }
    look_and_tell(r);
    *out = r;
    return 0;
}

int discovery_responder_set_keys(struct discovery_responder *r, const struct auth_keys *keys)
{
    struct discovery_seals seals;
    int rc = discovery_seals_init(&seals, keys);
    if (rc < 0) {
        return rc;
    }
    if ((seals.count > 0) != (r->seals.count > 0)) {
        discovery_seals_clear(&seals);
        return fail(TRK_EINVAL, "a plain farm and one with a key cannot become each other");
    }
    r->seals = seals;
    discovery_seals_clear(&seals);
    say_here(r);
    return 0;
}

int discovery_responder_fd(struct discovery_responder *r) { return r->epoll_fd; }

/* Has this question been answered? Bare ones cannot be told apart. */
static bool is_seen(const struct discovery_responder *r, const struct wire_beacon *b)
{
    for (size_t i = 0; b->is_sealed && i < r->seen_count; i++) {
        if (memcmp(r->seen[i], b->mac, sizeof(b->mac)) == 0) {
            return true;
        }
    }
    return false;
}

/* NULL: the question is to be answered. */
static const char *why_not(struct discovery_responder *r, const struct wire_beacon *b)
{
    if (is_seen(r, b)) {
        return "this question has been answered (it is replayed)";
    }
    return discovery_ration_take(&r->answers, sys_now_ns()) ? NULL : "there are too many questions";
}

static void note_seen(struct discovery_responder *r, const struct wire_beacon *b)
{
    memcpy(r->seen[r->seen_next], b->mac, sizeof(b->mac));
    r->seen_next = (r->seen_next + 1) % SEEN_MAX;
    r->seen_count += r->seen_count < SEEN_MAX;
}

static void answer(struct discovery_responder *r, int fd, const struct discovery_letter *letter)
{
    struct wire_beacon b = {.kind = WIRE_BEACON_ANSWER};
    struct in6_addr peer;
    memcpy(&peer, letter->b.address, sizeof(peer));
    b.port = port_at(r, &peer);
    memcpy(b.nonce, letter->b.nonce, sizeof(b.nonce));
    memcpy(b.supervisor, r->supervisor, sizeof(b.supervisor));
    if (discovery_group_answer(fd, letter, &r->interfaces, &r->seals, &b)) {
        note_seen(r, &letter->b); /* else it may be answered once we have an address for that */
    }
}

void discovery_responder_process(struct discovery_responder *r)
{
    bool is_due = drain(r->timer_fd);
    bool has_news = drain(r->netlink_fd);
    if (is_due || has_news) {
        look_and_tell(r);
    }
    for (int i = 0; i < r->groups_count; i++) {
        int budget = r->fds[i] >= 0 ? TURN_DATAGRAMS : 0;
        struct discovery_letter letter;
        while (discovery_group_receive(r->fds[i], &r->groups[i], &r->seals, &budget, &letter)) {
            const char *wrong = letter.b.kind == WIRE_BEACON_ASK ? why_not(r, &letter.b) : NULL;
            if (wrong != NULL) {
                discovery_group_refuse(letter.b.address, wrong);
            } else if (letter.b.kind == WIRE_BEACON_ASK) {
                answer(r, r->fds[i], &letter);
            }
        }
    }
}

void discovery_responder_free(struct discovery_responder *r)
{
    if (r != NULL) {
        discovery_group_close(r->epoll_fd);
        discovery_group_close(r->netlink_fd);
        discovery_group_close(r->timer_fd);
        for (int i = 0; i < r->groups_count; i++) {
            discovery_group_close(r->fds[i]);
        }
        discovery_seals_clear(&r->seals);
        mem_free(r);
    }
}
