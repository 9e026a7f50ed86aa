/* SPDX-License-Identifier: MIT */
/* group.c - see group.h. Datagrams are sent by interface number (IP_PKTINFO, IPV6_PKTINFO), so
 * that a machine with several networks asks in all of them whatever its routing table says about
 * the group; and from an address chosen here, since the beacon has to name it. */
#include "discovery/group.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/sys.h"

/* --- addresses -------------------------------------------------------------------------- */

union socket_name {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

static socklen_t make_name(union socket_name *out, const struct in6_addr *address, uint16_t port,
                           unsigned interface)
{
    memset(out, 0, sizeof(*out));
    if (discovery_is_ipv4(address)) {
        out->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port),
                                       .sin_addr = discovery_to_ipv4(address)};
        return sizeof(out->in);
    }
    out->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port),
                                     .sin6_addr = *address};
    if (IN6_IS_ADDR_LINKLOCAL(address) || IN6_IS_ADDR_MULTICAST(address)) {
        out->in6.sin6_scope_id = interface;
    }
    return sizeof(out->in6);
}

static struct in6_addr address_of(const union socket_name *name, uint16_t *port)
{
    bool is_ipv4 = name->any.sa_family == AF_INET;
    *port = ntohs(is_ipv4 ? name->in.sin_port : name->in6.sin6_port);
    return is_ipv4 ? discovery_from_ipv4(name->in.sin_addr) : name->in6.sin6_addr;
}

static bool is_link_group(const struct in6_addr *address)
{
    return IN6_IS_ADDR_MC_NODELOCAL(address) || IN6_IS_ADDR_MC_LINKLOCAL(address);
}

static bool is_group(const struct in6_addr *address)
{
    return IN6_IS_ADDR_MULTICAST(address) ||
           (discovery_is_ipv4(address) &&
            IN_MULTICAST(ntohl(discovery_to_ipv4(address).s_addr)));
}

/* One of the list: [text, text+size). */
static int parse_group(struct discovery_group *out, const char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN];
    const char *colon = memrchr(text, ':', size);
    size_t host_size = colon != NULL ? (size_t)(colon - text) : 0;
    bool has_brackets = host_size > 2 && text[0] == '[' && colon[-1] == ']';
    int shown = (int)(size < 60 ? size : 60);
    if (has_brackets) {
        host_size -= 2;
    }
    if (host_size == 0 || host_size >= sizeof(host)) {
        return fail(TRK_EINVAL, "multicast group \"%.*s\": not of the form GROUP:PORT (IPv6: "
                    "[GROUP]:PORT)", shown, text);
    }
    memcpy(host, text + (has_brackets ? 1 : 0), host_size);
    host[host_size] = '\0';
    struct in_addr ipv4;
    bool is_address = has_brackets ? inet_pton(AF_INET6, host, &out->address) == 1
                                   : inet_pton(AF_INET, host, &ipv4) == 1;
    if (is_address && !has_brackets) {
        out->address = discovery_from_ipv4(ipv4);
    }
    if (!is_address || !is_group(&out->address) ||
        discovery_is_ipv4(&out->address) == has_brackets) {
        return fail(TRK_EINVAL, "multicast group \"%.*s\": the address must be from 224.0.0.0 to "
                    "239.255.255.255, or IPv6 that begins with ff", shown, text);
    }
    size_t left = size - (size_t)(colon + 1 - text), digits = strspn(colon + 1, "0123456789");
    long port = digits > 0 && digits <= 5 && digits == left ? atol(colon + 1) : 0;
    if (port < 1 || port > 65535) {
        return fail(TRK_EINVAL, "multicast group \"%.*s\": the port must be from 1 to 65535",
                    shown, text);
    }
    out->port = (uint16_t)port;
    return 0;
}

int discovery_groups_parse(struct discovery_group *out, const char *text)
{
    int count = 0;
    for (const char *at = text;; at++) {
        size_t size = strcspn(at, ",");
        if (count == DISCOVERY_GROUPS_MAX) {
            return fail(TRK_EINVAL, "more than %d multicast groups", DISCOVERY_GROUPS_MAX);
        }
        int rc = parse_group(&out[count], at, size);
        if (rc < 0) {
            return rc;
        }
        count++;
        at += size;
        if (*at == '\0') {
            return count;
        }
    }
}

/* --- sockets ---------------------------------------------------------------------------- */

static bool set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

static bool set_up_ipv4(int fd)
{
    return set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 1) &&
           set_option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 1) &&
           set_option(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0) &&
           set_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
}

static bool set_up_ipv6(int fd, int hops)
{
    /* Kernels before 4.20 cannot be told to hear the joined groups only; receive looks again. */
    (void)!set_option(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0);
    return set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) &&
           set_option(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, hops) &&
           set_option(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1) &&
           set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
}

int discovery_group_open(const struct discovery_group *g, bool is_ear, int hops)
{
    bool is_ipv4 = discovery_is_ipv4(&g->address);
    union socket_name name;
    /* Bound to the group an IPv4 socket hears nothing else. IPv6 cannot do that for all
     * interfaces at once. */
    struct in6_addr bound = is_ipv4 ? discovery_from_ipv4((struct in_addr){INADDR_ANY})
                                    : in6addr_any;
    socklen_t size = make_name(&name, is_ear && is_ipv4 ? &g->address : &bound,
                               is_ear ? g->port : 0, 0);
    int fd = socket(name.any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return fail(TRK_EIO, "cannot make a UDP socket: %s", strerror(errno));
    }
    int rc = sys_fd_add(fd);
    if (rc != 0) {
        close(fd);
        return fail(rc, "too many descriptors are open");
    }
    /* All on this machine that ask or answer hear the group's port: UDP multicast is given to
     * each socket. */
    if ((is_ear && !set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)) ||
        !(is_ipv4 ? set_up_ipv4(fd) : set_up_ipv6(fd, is_link_group(&g->address) ? 1 : hops)) ||
        bind(fd, &name.any, size) != 0) {
        rc = fail(TRK_EIO, "cannot use UDP port %u for multicast: %s", (unsigned)g->port,
                  strerror(errno));
        discovery_group_close(fd);
        return rc;
    }
    return fd;
}

void discovery_group_close(int fd)
{
    if (fd >= 0) {
        sys_fd_remove(fd);
        close(fd);
    }
}

uint16_t discovery_group_port(int fd)
{
    union socket_name name = {.any.sa_family = AF_UNSPEC};
    socklen_t size = sizeof(name);
    uint16_t port;
    (void)!getsockname(fd, &name.any, &size);
    address_of(&name, &port);
    return port;
}

static int join_on(int fd, const struct discovery_group *g, unsigned interface)
{
    if (discovery_is_ipv4(&g->address)) {
        struct ip_mreqn member = {.imr_multiaddr = discovery_to_ipv4(&g->address),
                                  .imr_ifindex = (int)interface};
        return setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &member, sizeof(member));
    }
    struct ipv6_mreq member = {.ipv6mr_multiaddr = g->address, .ipv6mr_interface = interface};
    return setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &member, sizeof(member));
}

int discovery_group_join(int fd, const struct discovery_group *g,
                         const struct discovery_interfaces *all)
{
    int joined = 0;
    for (size_t i = 0; i < all->count; i++) {
        const struct discovery_interface *one = &all->list[i];
        if (discovery_is_ipv4(&one->address) != discovery_is_ipv4(&g->address)) {
            continue;
        }
        if (join_on(fd, g, one->index) == 0) {
            joined++;
        } else if (errno != EADDRINUSE) { /* which says: joined already */
            log_debug("discovery", "cannot join on interface %u: %s", one->index,
                      strerror(errno));
        }
    }
    return joined;
}

/* --- datagrams -------------------------------------------------------------------------- */

union packet_info {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(struct in6_pktinfo))]; /* the larger of the two */
};

/* Says which interface the datagram goes out of, and from which address. */
static void put_packet_info(struct msghdr *msg, union packet_info *control, unsigned interface,
                            const struct in6_addr *source)
{
    struct in_pktinfo info = {.ipi_ifindex = (int)interface};
    struct in6_pktinfo info6 = {.ipi6_ifindex = interface, .ipi6_addr = *source};
    bool is_ipv4 = discovery_is_ipv4(source);
    size_t size = is_ipv4 ? sizeof(info) : sizeof(info6);
    memset(control, 0, sizeof(*control));
    msg->msg_control = control->space;
    msg->msg_controllen = CMSG_SPACE(size);
    struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    c->cmsg_level = is_ipv4 ? IPPROTO_IP : IPPROTO_IPV6;
    c->cmsg_type = is_ipv4 ? IP_PKTINFO : IPV6_PKTINFO;
    c->cmsg_len = CMSG_LEN(size);
    if (is_ipv4) {
        info.ipi_spec_dst = discovery_to_ipv4(source);
        memcpy(CMSG_DATA(c), &info, size);
    } else {
        memcpy(CMSG_DATA(c), &info6, size);
    }
}

/* One datagram from one address, to another one's port. Has it gone out? */
static bool send_from(int fd, const struct discovery_interface *from, const struct in6_addr *to,
                      uint16_t port, const struct discovery_seals *seals, size_t key,
                      const struct wire_beacon *b)
{
    struct wire_beacon sealed = *b;
    uint8_t bytes[WIRE_BEACON_BYTES];
    union socket_name name;
    union packet_info control;
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    struct msghdr msg = {.msg_name = &name, .msg_iov = &iov, .msg_iovlen = 1,
                         .msg_namelen = make_name(&name, to, port, from->index)};
    memcpy(sealed.address, &from->address, sizeof(sealed.address));
    if (discovery_seals_put(seals, key, &sealed, bytes) < 0) {
        log_warn("discovery", "%s", fail_text());
        return false;
    }
    put_packet_info(&msg, &control, from->index, &from->address);
    if (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        log_debug("discovery", "cannot send by interface %u: %s", from->index, strerror(errno));
        return false;
    }
    return true;
}

/* Does one speak to the group from this address? To a group of the link from the link's own
 * address, to a wider one from one that is good beyond. */
static bool fits(const struct discovery_interface *one, const struct discovery_group *g)
{
    bool is_ipv4 = discovery_is_ipv4(&g->address);
    return discovery_is_ipv4(&one->address) == is_ipv4 &&
           (is_ipv4 || IN6_IS_ADDR_LINKLOCAL(&one->address) == is_link_group(&g->address));
}

void discovery_group_send(int fd, const struct discovery_group *g,
                          const struct discovery_interfaces *all, unsigned interface,
                          const struct discovery_seals *seals, const struct wire_beacon *b)
{
    for (size_t i = 0; i < all->count; i++) {
        const struct discovery_interface *one = &all->list[i];
        if ((interface != 0 && one->index != interface) || !fits(one, g) ||
            !discovery_interface_is_first(all, i)) {
            continue;
        }
        for (size_t key = 0; key < discovery_seals_rounds(seals); key++) {
            send_from(fd, one, &g->address, g->port, seals, key, b);
        }
    }
}

bool discovery_group_answer(int fd, const struct discovery_letter *to,
                            const struct discovery_interfaces *all,
                            const struct discovery_seals *seals, const struct wire_beacon *b)
{
    struct in6_addr peer;
    memcpy(&peer, to->b.address, sizeof(peer));
    const struct discovery_interface *from = discovery_interface_for(all, to->interface, &peer);
    return from != NULL && send_from(fd, from, &peer, to->port, seals, to->key, b);
}

void discovery_group_refuse(const uint8_t from[16], const char *why)
{
    char text[INET6_ADDRSTRLEN];
    if (log_get_level() >= LOG_DEBUG && inet_ntop(AF_INET6, from, text, sizeof(text)) != NULL) {
        log_debug("discovery", "a datagram from %s is ignored: %s", text, why);
    }
}

/* NULL: it is one of ours, from where it says, and *key has sealed it. Else what is wrong. */
static const char *judge(const struct wire_beacon *b, const uint8_t *bytes,
                         const struct in6_addr *sender, uint16_t port,
                         const struct discovery_seals *seals, int *key)
{
    if (memcmp(sender, b->address, sizeof(*sender)) != 0 ||
        (b->kind == WIRE_BEACON_ASK && b->port != port)) {
        return "its sender is not the one that it names (is it replayed?)";
    }
    *key = discovery_seals_check(seals, b, bytes);
    return *key >= 0 ? NULL : "it is not sealed with a key of ours";
}

/* Notes the interface; false: it was not sent to heard (NULL: to whatever). */
static bool take_packet_info(struct msghdr *msg, const struct discovery_group *heard,
                             unsigned *interface)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            struct in6_addr to = discovery_from_ipv4(info.ipi_addr);
            *interface = (unsigned)info.ipi_ifindex;
            return heard == NULL || IN6_ARE_ADDR_EQUAL(&to, &heard->address);
        }
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            *interface = info.ipi6_ifindex;
            return heard == NULL || IN6_ARE_ADDR_EQUAL(&info.ipi6_addr, &heard->address);
        }
    }
    return false;
}

bool discovery_group_receive(int fd, const struct discovery_group *heard,
                             const struct discovery_seals *seals, int *budget,
                             struct discovery_letter *out)
{
    while (*budget > 0) {
        uint8_t bytes[WIRE_BEACON_BYTES + 1]; /* one more: longer ones are seen to be longer */
        union packet_info control;
        union socket_name name = {.any.sa_family = AF_UNSPEC};
        struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct msghdr msg = {.msg_name = &name, .msg_namelen = sizeof(name), .msg_iov = &iov,
                             .msg_iovlen = 1, .msg_control = control.space,
                             .msg_controllen = sizeof(control.space)};
        ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            return false;
        }
        --*budget; /* errors count, too: one that stays must not spin */
        if (n < 0 || wire_beacon_get(&out->b, bytes, (size_t)n) != 0 ||
            !take_packet_info(&msg, heard, &out->interface)) {
            continue;
        }
        struct in6_addr sender = address_of(&name, &out->port);
        int key;
        const char *wrong = judge(&out->b, bytes, &sender, out->port, seals, &key);
        if (wrong == NULL) {
            out->key = (size_t)key;
            return true;
        }
        discovery_group_refuse(sender.s6_addr, wrong);
    }
    return false;
}

int discovery_epoll(const int *fds, int count)
{
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        return fail(TRK_EIO, "cannot make an epoll descriptor: %s", strerror(errno));
    }
    int rc = sys_fd_add(epoll_fd);
    for (int i = 0; i < count && rc == 0; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        if (fds[i] >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[i], &event) != 0) {
            rc = TRK_EIO;
        }
    }
    if (rc != 0) {
        discovery_group_close(epoll_fd);
        return fail(rc, "cannot watch for discovery: %s", strerror(errno));
    }
    return epoll_fd;
}
