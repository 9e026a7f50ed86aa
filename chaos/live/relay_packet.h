/* SPDX-License-Identifier: MIT */
/* relay_packet.h - what the relay has to know of an IP packet, and the one it makes itself. */
#ifndef RELAY_PACKET_H
#define RELAY_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MAX 65536
#define PACKET_RESET_MAX 60 /* bytes of what packet_reset makes */

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* IPv4 as ::ffff:a.b.c.d, so that there is one kind. */
struct ip_address {
    uint8_t byte[16];
};
bool ip_address_parse(struct ip_address *out, const char *text);
bool ip_address_same(const struct ip_address *a, const struct ip_address *b);
bool ip_address_is_v4(const struct ip_address *a);
bool ip_address_is_link_local(const struct ip_address *a); /* fe80::/10 */

struct packet {
    struct ip_address from, to;
    bool is_multicast; /* or a broadcast */
    bool is_tcp;       /* and what follows is set */
    uint16_t from_port, to_port;
    uint32_t seq, ack;
    uint8_t flags; /* TCP_* */
    const uint8_t *payload; /* borrowed from the packet's bytes */
    size_t payload_bytes;
};
bool packet_parse(struct packet *out, const uint8_t *bytes, size_t size); /* false: no IP */

/* The answer of a host that does not know the connection, as if it came from whom p was sent to:
 * p's sender takes it, because it has exactly the number that it waits for. Returns its bytes. */
size_t packet_reset(uint8_t out[PACKET_RESET_MAX], const struct packet *p);

#endif
