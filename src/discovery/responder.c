/* SPDX-License-Identifier: MIT */
/* responder.c - the supervisor's half of multicast discovery: HERE once, then an answer for each
 * question, sent back the way it came.
 *
 * Interfaces come (Wi-Fi, a cable, a VPN) while a supervisor runs for months. A netlink socket
 * says so at once; a timer looks every five seconds in case that was lost. Joining where it is
 * joined already is a harmless no, so nothing needs to be remembered; where it is new, HERE is
 * said again.
 *
 * Questions are not authenticated yet: answers are rationed, are as long as the question, and say
 * no more than where a port is. */
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

#define LOOK_AGAIN_S 5
#define TURN_DATAGRAMS 64
#define ANSWERS_PER_S 200 /* and as many at once after a quiet second */

struct discovery_responder {
    struct sockaddr_in group;
    struct wire_beacon here;  /* what we say of ourselves */
    int socket_fd;            /* hears the group, sends all */
    int timer_fd;
    int netlink_fd;           /* -1: only the timer */
    int epoll_fd;             /* over the three */
    uint64_t answers;         /* tokens left */
    uint64_t refilled_ns;     /* when tokens were last added */
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
                               .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR};
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

static void say_here(struct discovery_responder *r)
{
    struct wire_beacon b = r->here;
    b.kind = WIRE_BEACON_HERE;
    discovery_group_send(r->socket_fd, &r->group, &b);
}

int discovery_responder_new(struct discovery_responder **out, const char *multicast,
                            uint16_t tcp_port, const uint8_t supervisor[16])
{
    struct sockaddr_in group;
    int rc = discovery_group_parse(&group, multicast);
    if (rc != 0) {
        return rc;
    }
    struct discovery_responder *r = mem_zalloc(1, sizeof(*r));
    if (r == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    r->group = group;
    r->here.tcp_port = tcp_port;
    memcpy(r->here.supervisor, supervisor, sizeof(r->here.supervisor));
    r->timer_fd = r->epoll_fd = r->netlink_fd = -1;
    r->answers = ANSWERS_PER_S;
    r->refilled_ns = sys_now_ns();
    r->socket_fd = rc = discovery_group_open(&group);
    if (rc < 0) {
        goto fail;
    }
    r->timer_fd = rc = open_timer();
    if (rc < 0) {
        goto fail;
    }
    r->netlink_fd = open_netlink();
    const int fds[] = {r->socket_fd, r->timer_fd, r->netlink_fd};
    r->epoll_fd = rc = discovery_epoll(fds, 3);
    if (rc < 0) {
        goto fail;
    }
    discovery_group_join(r->socket_fd, &r->group);
    say_here(r);
    *out = r;
    return 0;
fail:
    discovery_responder_free(r);
    return rc;
}

int discovery_responder_fd(struct discovery_responder *r) { return r->epoll_fd; }

/* May one more answer go out? */
static bool take_token(struct discovery_responder *r)
{
    uint64_t now = sys_now_ns();
    uint64_t more = (now - r->refilled_ns) / (1000000000 / ANSWERS_PER_S);
    if (more > 0) {
        r->answers = r->answers + more < ANSWERS_PER_S ? r->answers + more : ANSWERS_PER_S;
        r->refilled_ns = now;
    }
    if (r->answers == 0) {
        return false;
    }
    r->answers--;
    return true;
}

void discovery_responder_process(struct discovery_responder *r)
{
    bool is_due = drain(r->timer_fd);
    bool has_news = drain(r->netlink_fd);
    if ((is_due || has_news) && discovery_group_join(r->socket_fd, &r->group) > 0) {
        say_here(r);
    }
    int budget = TURN_DATAGRAMS;
    struct wire_beacon b;
    struct discovery_from from;
    while (discovery_group_receive(r->socket_fd, &budget, &b, &from)) {
        if (b.kind != WIRE_BEACON_ASK || !take_token(r)) {
            continue;
        }
        struct wire_beacon answer = r->here;
        answer.kind = WIRE_BEACON_ANSWER;
        memcpy(answer.nonce, b.nonce, sizeof(answer.nonce));
        discovery_group_answer(r->socket_fd, &from, &answer);
    }
}

void discovery_responder_free(struct discovery_responder *r)
{
    if (r != NULL) {
        discovery_group_close(r->epoll_fd);
        discovery_group_close(r->netlink_fd);
        discovery_group_close(r->timer_fd);
        discovery_group_close(r->socket_fd);
        mem_free(r);
    }
}
