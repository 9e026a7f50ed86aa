/* SPDX-License-Identifier: MIT */
/* interfaces.h - the addresses of this machine that multicast goes out from and comes in at.
 *
 * An address is an in6_addr everywhere in this room, IPv4 as ::ffff:a.b.c.d; what tells one
 * link-local address from another is the number of the interface beside it. */
#ifndef DISCOVERY_INTERFACES_H
#define DISCOVERY_INTERFACES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#define DISCOVERY_INTERFACES_MAX 256

/* One address of one interface. */
struct discovery_interface {
    unsigned index;          /* the kernel's number */
    struct in6_addr address;
    unsigned prefix;         /* bits of it that its network shares, of 128 */
    bool is_loopback;
};

struct discovery_interfaces {
    size_t count;
    struct discovery_interface list[DISCOVERY_INTERFACES_MAX]; /* in the kernel's order */
};

/* The usable ones: up, able to multicast, the address ready to send from. Loopback is one of them
 * when it has been given the MULTICAST flag, or when there is no other. */
void discovery_interfaces(struct discovery_interfaces *out);
bool discovery_interfaces_are_equal(const struct discovery_interfaces *a,
                                    const struct discovery_interfaces *b);
/* Is [i] the first address of its interface in its network? To speak from one is enough. */
bool discovery_interface_is_first(const struct discovery_interfaces *all, size_t i);
/* The one on interface that fits peer best (same family, longest common prefix); NULL: none. */
const struct discovery_interface *discovery_interface_for(const struct discovery_interfaces *all,
                                                          unsigned interface,
                                                          const struct in6_addr *peer);

bool discovery_is_ipv4(const struct in6_addr *address);
struct in6_addr discovery_from_ipv4(struct in_addr address);
struct in_addr discovery_to_ipv4(const struct in6_addr *address);
bool discovery_is_loopback(const struct in6_addr *address);

#endif
