/* SPDX-License-Identifier: MIT */
/* group.h - beacons over a multicast group: what the one who asks and the one who answers share. */
#ifndef DISCOVERY_GROUP_H
#define DISCOVERY_GROUP_H

#include <netinet/in.h>
#include <stdbool.h>

#include "wire/beacon.h"

/* "239.1.2.3:4711", IPv4. TRK_EINVAL with a sentence. */
TRK_MUST_USE int discovery_group_parse(struct sockaddr_in *out, const char *text);

/* A UDP socket that sends with TTL 1 and hears what is sent to bound (the group, or any address
 * and port 0), of the groups joined on it only. The descriptor, or TRK_EIO with a sentence. */
int discovery_group_open(const struct sockaddr_in *bound);
void discovery_group_close(int fd); /* -1 is fine */
/* Joins on every usable interface; returns on how many it had not been joined before. */
int discovery_group_join(int fd, const struct sockaddr_in *group);
/* Sends out of every usable interface; what cannot be sent is lost, as any datagram may be. */
void discovery_group_send(int fd, const struct sockaddr_in *group, const struct wire_beacon *b);

struct discovery_from {
    struct sockaddr_in sender;
    unsigned interface;      /* it came in by this one */
    struct in_addr local;    /* our address there */
};
/* Takes the next well-formed beacon. False: none is left, or many have been read in this turn
 * (*budget counts down with each datagram). */
bool discovery_group_receive(int fd, int *budget, struct wire_beacon *b,
                             struct discovery_from *from);
/* Answers the sender, by the same interface. */
void discovery_group_answer(int fd, const struct discovery_from *to, const struct wire_beacon *b);

/* An epoll descriptor over fds (-1: left out), or TRK_EIO with a sentence. */
int discovery_epoll(const int *fds, int count);

#endif
