/* SPDX-License-Identifier: MIT */
/* discovery_impl.h - the built-in discovery modules, and the supervisor's half of multicast. */
#ifndef DISCOVERY_IMPL_H
#define DISCOVERY_IMPL_H

#include "trickle/discovery.h"

/* s-*.sock in the runtime dir; stale ones are removed; later ones are seen by inotify. */
extern const struct trk_discovery_module discovery_local;
/* UDP, TTL 1, every usable interface. */
extern const struct trk_discovery_module discovery_multicast;
/* A list of host:port. */
extern const struct trk_discovery_module discovery_hosts;

/* Supervisor's side: joins the group on every usable interface (again when interfaces change) and
 * answers questions; port: its TCP port. */
struct discovery_responder;
TRK_MUST_USE int discovery_responder_new(struct discovery_responder **out, const char *multicast,
                                         uint16_t tcp_port, const uint8_t supervisor[16]);
int discovery_responder_fd(struct discovery_responder *r);
void discovery_responder_process(struct discovery_responder *r);
void discovery_responder_free(struct discovery_responder *r);

#define DISCOVERY_MULTICAST_DEFAULT "239.192.84.107:8407"
#define DISCOVERY_LOCAL_PREFIX "s-" /* supervisor sockets: s-PID-XXXX.sock */

#endif
