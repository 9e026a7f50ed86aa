/* SPDX-License-Identifier: MIT */
/* discovery_impl.h - the built-in discovery modules, and the supervisor's half of multicast. */
#ifndef DISCOVERY_IMPL_H
#define DISCOVERY_IMPL_H

#include "trickle/discovery.h"

/* s-*.sock in the runtime dir; stale ones are removed; later ones are seen by inotify. */
extern const struct trk_discovery_module discovery_local;
/* UDP to multicast groups, IPv4 and IPv6, by every usable interface. */
extern const struct trk_discovery_module discovery_multicast;
/* A list of host:port, or files of them. */
extern const struct trk_discovery_module discovery_hosts;

/* The module of a shared object of others. 0, or TRK_EVERSION, TRK_EINVAL with a sentence. */
TRK_MUST_USE int discovery_load(struct trk_discovery_module *out, const char *path);

struct auth_keys;

/* What a supervisor tells those who may know. */
struct discovery_responder_options {
    const char *multicast;       /* groups; NULL: DISCOVERY_MULTICAST_DEFAULT; borrowed */
    const struct auth_keys *keys; /* only who has one of them is answered; NULL: a plain farm, only
                                   * who asks without a key is; copied */
    const char *listen_host;     /* numeric, without brackets: it listens at this address only;
                                  * NULL or a wildcard: at all; borrowed */
    uint16_t ipv4_port, ipv6_port; /* it listens at, TCP; 0: not by this family */
    const uint8_t *supervisor;   /* its id, 16 bytes; copied */
};

/* Supervisor's side: joins the groups on every usable interface (again when interfaces change),
 * says that it is there, and answers questions. One thread. */
struct discovery_responder;
/* TRK_EINVAL, TRK_EIO, TRK_ENOMEM with a sentence. */
TRK_MUST_USE int discovery_responder_open(struct discovery_responder **out,
                                          const struct discovery_responder_options *opt);
/* Other keys from now on (they were rotated); keys is copied. Those of a plain farm stay none, and
 * none cannot be given to others: TRK_EINVAL. TRK_ENOMEM: the old ones go on. */
TRK_MUST_USE int discovery_responder_set_keys(struct discovery_responder *r,
                                              const struct auth_keys *keys);
int discovery_responder_fd(struct discovery_responder *r);
void discovery_responder_process(struct discovery_responder *r);
void discovery_responder_free(struct discovery_responder *r);

/* Of a plain farm, listening at one IPv4 port. */
static inline TRK_MUST_USE int discovery_responder_new(struct discovery_responder **out,
                                                       const char *multicast, uint16_t tcp_port,
                                                       const uint8_t supervisor[16])
{
    struct discovery_responder_options opt = {.multicast = multicast, .ipv4_port = tcp_port,
                                              .supervisor = supervisor};
    return discovery_responder_open(out, &opt);
}

/* The last two: of the link, and of the site. All three are ranges for anybody's use. */
#define DISCOVERY_MULTICAST_DEFAULT \
    "239.192.84.107:8407,[ff12::5472:6b6c]:8407,[ff15::5472:6b6c]:8407"
#define DISCOVERY_LOCAL_PREFIX "s-" /* supervisor sockets: s-PID-XXXX.sock */
/* Links that a question to a group of the site may pass: without a key none but the next. */
#define DISCOVERY_SITE_HOPS 8

#endif
