/* SPDX-License-Identifier: MIT */
/* interfaces.h - the network interfaces that multicast goes out of and comes in by. */
#ifndef DISCOVERY_INTERFACES_H
#define DISCOVERY_INTERFACES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#define DISCOVERY_INTERFACES_MAX 64

struct discovery_interface {
    unsigned index;         /* the kernel's number */
    struct in_addr address; /* the first IPv4 address */
    bool is_loopback;
};

/* The usable ones: up, with an IPv4 address, able to multicast. Loopback is one of them when it
 * has been given the MULTICAST flag, or when there is no other. Returns their count. */
size_t discovery_interfaces(struct discovery_interface *out, size_t max);

#endif
