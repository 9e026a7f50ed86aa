/* SPDX-License-Identifier: MIT */
/* relay_link.h - one direction between two machines: what becomes of a packet, and when.
 *
 * No clock and no queue of its own: time comes in, and how often and when the packet has to be
 * there comes out. Random numbers are drawn from the link's own seed, the same count for each
 * packet, so that what one link does depends on its own packets only. */
#ifndef RELAY_LINK_H
#define RELAY_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINK_COPIES_MAX 2

struct link_settings {
    double delay_ms;       /* every packet is so late */
    double jitter_ms;      /* and up to so much more; the order stays */
    double loss;           /* probability, as the following ones */
    double duplicate;
    double reorder;        /* such a packet waits reorder_ms more, and others overtake it */
    double reorder_ms;
    double multicast_loss; /* of multicast packets, besides loss */
    double rate_kbit;      /* 1,000 bits a second; 0: no limit */
    double queue_bytes;    /* what may wait for the rate; what does not fit is dropped */
    double cut;            /* not 0: nothing passes */
};

struct link_counters {
    uint64_t packets, bytes;    /* what came in */
    uint64_t delivered;         /* what went out, duplicates too */
    uint64_t lost, multicast_lost, cut, duplicated, reordered;
    uint64_t overflow;          /* dropped: a queue is full */
    uint64_t refused;           /* the machine did not take it: its interface is down */
    uint64_t connections;       /* of TCP, opened in this direction */
    uint64_t tls, plain;        /* of these: the first bytes were a TLS handshake, or not */
    uint64_t resets;            /* forged ones, in this direction */
};

struct link {
    struct link_settings set;
    struct link_counters count;
    uint64_t random;     /* state of its generator */
    uint64_t free_at_ns; /* when what waits for the rate is through */
    uint64_t last_due_ns;
};
void link_init(struct link *l, uint64_t seed);

/* Whether there is such a setting; false also for a value that makes no sense. */
bool link_set(struct link *l, const char *name, const char *value);

/* Decides about a packet that comes at now_ns. Returns its copies, 0 to LINK_COPIES_MAX, and when
 * each is due. */
unsigned link_pass(struct link *l, size_t bytes, bool is_multicast, uint64_t now_ns,
                   uint64_t due_ns[LINK_COPIES_MAX]);

/* The counters as members of a JSON object. Returns the characters, as snprintf. */
int link_format(const struct link *l, char *out, size_t size);

#endif
