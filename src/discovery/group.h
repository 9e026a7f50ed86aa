/* SPDX-License-Identifier: MIT */
/* group.h - beacons over multicast groups: what the one who asks and the one who answers share.
 *
 * A beacon names the address it is sent from, and is heard only from there: a recorded one works
 * from nowhere else, and its answer goes to nobody else. */
#ifndef DISCOVERY_GROUP_H
#define DISCOVERY_GROUP_H

#include <netinet/in.h>
#include <stdbool.h>

#include "discovery/interfaces.h"
#include "discovery/seal.h"
#include "wire/beacon.h"

#define DISCOVERY_GROUPS_MAX 8

struct discovery_group {
    struct in6_addr address;
    uint16_t port;
};

/* "239.1.2.3:4711,[ff12::1]:4711": fills in up to DISCOVERY_GROUPS_MAX and returns how many.
 * TRK_EINVAL with a sentence. */
TRK_MUST_USE int discovery_groups_parse(struct discovery_group *out, const char *text);

/* A UDP socket to speak to the group with. is_ear: it hears what is sent to the group, once that
 * is joined; else what is sent to itself, on a port of its own. hops: how many links what is sent
 * to a group wider than a link may pass. The descriptor, or TRK_EIO with a sentence. */
int discovery_group_open(const struct discovery_group *g, bool is_ear, int hops);
void discovery_group_close(int fd); /* -1 is fine */
uint16_t discovery_group_port(int fd); /* that its answers are to be sent to */
/* Joins on all interfaces; returns on how many it had not been joined before. */
int discovery_group_join(int fd, const struct discovery_group *g,
                         const struct discovery_interfaces *all);
/* Sends b to the group out of each network of interface (0: of all), from our address there, by
 * each key; what cannot be sent is lost, as any datagram may be. */
void discovery_group_send(int fd, const struct discovery_group *g,
                          const struct discovery_interfaces *all, unsigned interface,
                          const struct discovery_seals *seals, const struct wire_beacon *b);

/* A beacon that came from where it says, sealed as it has to be. */
struct discovery_letter {
    struct wire_beacon b;
    uint16_t port;      /* of the socket that sent it */
    unsigned interface; /* it came in by this one */
    size_t key;         /* it is sealed with */
};
/* Takes the next one. heard: NULL, or the group it must have been sent to. False: none is left,
 * or many datagrams have been read in this turn (*budget counts down with each). */
bool discovery_group_receive(int fd, const struct discovery_group *heard,
                             const struct discovery_seals *seals, int *budget,
                             struct discovery_letter *out);
/* Says in the log, for who reads all of it, why a datagram does not count. */
void discovery_group_refuse(const uint8_t from[16], const char *why);
/* Sends b to the sender of to, sealed alike, by the same interface and from our address there.
 * False: we have no address there, or none that reaches it. */
bool discovery_group_answer(int fd, const struct discovery_letter *to,
                            const struct discovery_interfaces *all,
                            const struct discovery_seals *seals, const struct wire_beacon *b);

/* An epoll descriptor over fds (-1: left out), or TRK_EIO with a sentence. */
int discovery_epoll(const int *fds, int count);

#endif
