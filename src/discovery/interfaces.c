/* SPDX-License-Identifier: MIT */
/* interfaces.c - see interfaces.h. Enumerated anew whenever it matters: interfaces come and go. */
#include "discovery/interfaces.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

#define IPV4_PREFIX 96 /* bits of ::ffff:0:0 */

bool discovery_is_ipv4(const struct in6_addr *address) { return IN6_IS_ADDR_V4MAPPED(address); }

struct in6_addr discovery_from_ipv4(struct in_addr address)
{
    struct in6_addr mapped = {.s6_addr = {[10] = 0xff, 0xff}};
    memcpy(mapped.s6_addr + 12, &address, sizeof(address));
    return mapped;
}

struct in_addr discovery_to_ipv4(const struct in6_addr *address)
{
    struct in_addr ipv4;
    memcpy(&ipv4, address->s6_addr + 12, sizeof(ipv4));
    return ipv4;
}

bool discovery_is_loopback(const struct in6_addr *address)
{
    return IN6_IS_ADDR_LOOPBACK(address) ||
           (discovery_is_ipv4(address) && address->s6_addr[12] == IN_LOOPBACKNET);
}

/* How many bits a and b have in common from the first on. */
static unsigned common_bits(const struct in6_addr *a, const struct in6_addr *b)
{
    unsigned bits = 0;
    while (bits < 128 && ((a->s6_addr[bits / 8] ^ b->s6_addr[bits / 8]) >> (7 - bits % 8)) == 0) {
        bits++;
    }
    return bits;
}

static unsigned ones(const uint8_t *mask, size_t size)
{
    unsigned bits = 0;
    while (bits < size * 8 && (mask[bits / 8] >> (7 - bits % 8) & 1) != 0) {
        bits++;
    }
    return bits;
}

/* An IPv6 address cannot be used in the second in which the kernel asks whether anybody else has
 * it. Only trying tells. */
static bool is_ready(const struct sockaddr_in6 *name)
{
    struct sockaddr_in6 any_port = *name;
    any_port.sin6_port = 0;
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool is_bound = fd >= 0 && bind(fd, (struct sockaddr *)&any_port, sizeof(any_port)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return is_bound;
}

/* Takes over address and prefix; false: neither IPv4 nor IPv6, or not ready. */
static bool take_address(struct discovery_interface *out, const struct ifaddrs *a)
{
    static const struct in6_addr all = {.s6_addr = {[0 ... 15] = 0xff}};
    if (a->ifa_addr == NULL) {
        return false;
    }
    if (a->ifa_addr->sa_family == AF_INET) {
        struct in_addr mask = {.s_addr = INADDR_NONE};
        if (a->ifa_netmask != NULL) {
            mask = ((const struct sockaddr_in *)a->ifa_netmask)->sin_addr;
        }
        out->address = discovery_from_ipv4(((const struct sockaddr_in *)a->ifa_addr)->sin_addr);
        out->prefix = IPV4_PREFIX + ones((const uint8_t *)&mask, sizeof(mask));
        return discovery_to_ipv4(&out->address).s_addr != INADDR_ANY;
    }
    if (a->ifa_addr->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a->ifa_addr;
        const struct sockaddr_in6 *mask = (const struct sockaddr_in6 *)a->ifa_netmask;
        out->address = in6->sin6_addr;
        out->prefix = ones(mask != NULL ? mask->sin6_addr.s6_addr : all.s6_addr, 16);
        return is_ready(in6);
    }
    return false;
}

static bool is_usable(const struct ifaddrs *a, bool with_loopback)
{
    return (a->ifa_flags & IFF_UP) != 0 &&
           ((a->ifa_flags & IFF_MULTICAST) != 0 ||
            (with_loopback && (a->ifa_flags & IFF_LOOPBACK) != 0));
}

static void collect(const struct ifaddrs *all, bool with_loopback,
                    struct discovery_interfaces *out)
{
    for (const struct ifaddrs *a = all; a != NULL; a = a->ifa_next) {
        struct discovery_interface one = {.is_loopback = (a->ifa_flags & IFF_LOOPBACK) != 0};
        if (out->count == DISCOVERY_INTERFACES_MAX) {
            log_info("discovery", "more than %d network addresses: only the first are used",
                     DISCOVERY_INTERFACES_MAX);
            return;
        }
        if (is_usable(a, with_loopback) && take_address(&one, a) &&
            (one.index = if_nametoindex(a->ifa_name)) != 0) { /* 0: gone meanwhile */
            out->list[out->count++] = one;
        }
    }
}

void discovery_interfaces(struct discovery_interfaces *out)
{
    struct ifaddrs *all;
    out->count = 0;
    if (getifaddrs(&all) != 0) {
        log_info("discovery", "cannot list the network interfaces: %s", strerror(errno));
        return;
    }
    collect(all, false, out);
    if (out->count == 0) {
        collect(all, true, out);
    }
    freeifaddrs(all);
}

bool discovery_interfaces_are_equal(const struct discovery_interfaces *a,
                                    const struct discovery_interfaces *b)
{
    if (a->count != b->count) {
        return false;
    }
    for (size_t i = 0; i < a->count; i++) {
        if (a->list[i].index != b->list[i].index || a->list[i].prefix != b->list[i].prefix ||
            !IN6_ARE_ADDR_EQUAL(&a->list[i].address, &b->list[i].address)) {
            return false;
        }
    }
    return true;
}

bool discovery_interface_is_first(const struct discovery_interfaces *all, size_t i)
{
    const struct discovery_interface *one = &all->list[i];
    for (size_t j = 0; j < i; j++) {
        const struct discovery_interface *other = &all->list[j];
        if (other->index == one->index && other->prefix == one->prefix &&
            common_bits(&other->address, &one->address) >= one->prefix) {
            return false;
        }
    }
    return true;
}

const struct discovery_interface *discovery_interface_for(const struct discovery_interfaces *all,
                                                          unsigned interface,
                                                          const struct in6_addr *peer)
{
    const struct discovery_interface *best = NULL;
    unsigned best_bits = 0;
    for (size_t i = 0; i < all->count; i++) {
        const struct discovery_interface *one = &all->list[i];
        unsigned bits = common_bits(&one->address, peer);
        if (one->index == interface && (best == NULL || bits > best_bits) &&
            discovery_is_ipv4(&one->address) == discovery_is_ipv4(peer)) {
            best = one;
            best_bits = bits;
        }
    }
    return best;
}
