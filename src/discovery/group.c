/* SPDX-License-Identifier: MIT */
/* group.c - see group.h. Datagrams are sent by interface number (IP_PKTINFO), so that a machine
 * with several networks asks in all of them whatever its routing table says about the group. */
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
#include "discovery/interfaces.h"

int discovery_group_parse(struct sockaddr_in *out, const char *text)
{
    char host[INET_ADDRSTRLEN];
    const char *colon = strchr(text, ':');
    size_t size = colon != NULL ? (size_t)(colon - text) : 0;
    if (size == 0 || size >= sizeof(host)) {
        return fail(TRK_EINVAL, "multicast group \"%.60s\": not of the form GROUP:PORT", text);
    }
    memcpy(host, text, size);
    host[size] = '\0';
    size_t digits = strspn(colon + 1, "0123456789");
    long port = digits > 0 && digits <= 5 && colon[1 + digits] == '\0' ? atol(colon + 1) : 0;
    memset(out, 0, sizeof(*out));
    out->sin_family = AF_INET;
    out->sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &out->sin_addr) != 1 ||
        !IN_MULTICAST(ntohl(out->sin_addr.s_addr))) {
        return fail(TRK_EINVAL, "multicast group \"%.60s\": the address must be from 224.0.0.0 to "
                    "239.255.255.255", text);
    }
    if (port < 1 || port > 65535) {
        return fail(TRK_EINVAL, "multicast group \"%.60s\": the port must be from 1 to 65535",
                    text);
    }
    return 0;
}

static int set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value));
}

int discovery_group_open(const struct sockaddr_in *bound)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
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
    if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) != 0 ||
        set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 1) != 0 ||
        set_option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 1) != 0 ||
        set_option(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0) != 0 ||
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1) != 0 ||
        bind(fd, (const struct sockaddr *)bound, sizeof(*bound)) != 0) {
        rc = fail(TRK_EIO, "cannot use UDP port %u for multicast: %s",
                  (unsigned)ntohs(bound->sin_port), strerror(errno));
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

int discovery_group_join(int fd, const struct sockaddr_in *group)
{
    struct discovery_interface list[DISCOVERY_INTERFACES_MAX];
    size_t count = discovery_interfaces(list, DISCOVERY_INTERFACES_MAX);
    int joined = 0;
    for (size_t i = 0; i < count; i++) {
        struct ip_mreqn member = {.imr_multiaddr = group->sin_addr,
                                  .imr_ifindex = (int)list[i].index};
        if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &member, sizeof(member)) == 0) {
            joined++;
        } else if (errno != EADDRINUSE) { /* which says: joined already */
            log_debug("discovery", "cannot join on interface %u: %s", list[i].index,
                      strerror(errno));
        }
    }
    return joined;
}

/* One datagram out of one interface. source zero: the kernel chooses. */
static void send_by(int fd, const struct sockaddr_in *to, unsigned interface,
                    struct in_addr source, const struct wire_beacon *b)
{
    uint8_t bytes[WIRE_BEACON_BYTES];
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(struct in_pktinfo))];
    } control = {.space = {0}};
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    struct sockaddr_in name = *to;
    struct msghdr msg = {.msg_name = &name, .msg_namelen = sizeof(name), .msg_iov = &iov,
                         .msg_iovlen = 1, .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    struct in_pktinfo info = {.ipi_ifindex = (int)interface, .ipi_spec_dst = source};
    c->cmsg_level = IPPROTO_IP;
    c->cmsg_type = IP_PKTINFO;
    c->cmsg_len = CMSG_LEN(sizeof(info));
    memcpy(CMSG_DATA(c), &info, sizeof(info));
    wire_beacon_put(bytes, b);
    if (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        log_debug("discovery", "cannot send by interface %u: %s", interface, strerror(errno));
    }
}

void discovery_group_send(int fd, const struct sockaddr_in *group, const struct wire_beacon *b)
{
    struct discovery_interface list[DISCOVERY_INTERFACES_MAX];
    size_t count = discovery_interfaces(list, DISCOVERY_INTERFACES_MAX);
    for (size_t i = 0; i < count; i++) {
        send_by(fd, group, list[i].index, list[i].address, b);
    }
}

void discovery_group_answer(int fd, const struct discovery_from *to, const struct wire_beacon *b)
{
    send_by(fd, &to->sender, to->interface, to->local, b);
}

static void note_packet_info(struct msghdr *msg, struct discovery_from *from)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            from->interface = (unsigned)info.ipi_ifindex;
            from->local = info.ipi_spec_dst;
        }
    }
}

bool discovery_group_receive(int fd, int *budget, struct wire_beacon *b,
                             struct discovery_from *from)
{
    while (*budget > 0) {
        uint8_t bytes[WIRE_BEACON_BYTES + 1]; /* one more: longer ones are seen to be longer */
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(sizeof(struct in_pktinfo))];
        } control;
        struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        *from = (struct discovery_from){.interface = 0};
        struct msghdr msg = {.msg_name = &from->sender, .msg_namelen = sizeof(from->sender),
                             .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
                             .msg_controllen = sizeof(control.space)};
        ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            return false;
        }
        --*budget; /* errors count, too: one that stays must not spin */
        if (n < 0 || wire_beacon_get(b, bytes, (size_t)n) != 0) {
            continue;
        }
        note_packet_info(&msg, from);
        if (from->interface != 0 && from->sender.sin_addr.s_addr != htonl(INADDR_ANY)) {
            return true;
        }
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
