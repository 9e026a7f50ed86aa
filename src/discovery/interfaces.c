/* SPDX-License-Identifier: MIT */
/* interfaces.c - see interfaces.h. Enumerated anew whenever it matters: interfaces come and go. */
#include "discovery/interfaces.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>

#include "base/log.h"

static bool has_index(const struct discovery_interface *list, size_t count, unsigned index)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i].index == index) {
            return true;
        }
    }
    return false;
}

static bool is_usable(const struct ifaddrs *a, bool with_loopback)
{
    if (a->ifa_addr == NULL || a->ifa_addr->sa_family != AF_INET || !(a->ifa_flags & IFF_UP)) {
        return false;
    }
    return (a->ifa_flags & IFF_MULTICAST) != 0 || (with_loopback && (a->ifa_flags & IFF_LOOPBACK));
}

static size_t collect(const struct ifaddrs *all, bool with_loopback,
                      struct discovery_interface *out, size_t max)
{
    size_t count = 0;
    for (const struct ifaddrs *a = all; a != NULL && count < max; a = a->ifa_next) {
        if (!is_usable(a, with_loopback)) {
            continue;
        }
        unsigned index = if_nametoindex(a->ifa_name);
        if (index == 0 || has_index(out, count, index)) {
            continue; /* gone meanwhile, or a second address */
        }
        const struct sockaddr_in *in = (const struct sockaddr_in *)a->ifa_addr;
        out[count++] = (struct discovery_interface){
            .index = index,
            .address = in->sin_addr,
            .is_loopback = (a->ifa_flags & IFF_LOOPBACK) != 0,
        };
    }
    return count;
}

size_t discovery_interfaces(struct discovery_interface *out, size_t max)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0) {
        log_info("discovery", "cannot list the network interfaces: %s", strerror(errno));
        return 0;
    }
    size_t count = collect(all, false, out, max);
    if (count == 0) {
        count = collect(all, true, out, max);
    }
    freeifaddrs(all);
    return count;
}
