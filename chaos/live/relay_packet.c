/* SPDX-License-Identifier: MIT */
/* relay_packet.c - see relay_packet.h. */
#include "relay_packet.h"

#include <arpa/inet.h>
#include <string.h>

#define V4_HEADER 20
#define V6_HEADER 40
#define TCP_HEADER 20
#define PROTOCOL_TCP 6
#define TTL 64

static const uint8_t v4_prefix[12] = {[10] = 0xff, [11] = 0xff};

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value);
}

/* --- addresses --------------------------------------------------------------------------- */

static void from_v4(struct ip_address *out, const uint8_t *four)
{
    memcpy(out->byte, v4_prefix, sizeof(v4_prefix));
    memcpy(out->byte + 12, four, 4);
}

bool ip_address_parse(struct ip_address *out, const char *text)
{
    uint8_t four[4];
    if (inet_pton(AF_INET, text, four) == 1) {
        from_v4(out, four);
        return true;
    }
    return inet_pton(AF_INET6, text, out->byte) == 1;
}

bool ip_address_same(const struct ip_address *a, const struct ip_address *b)
{
    return memcmp(a->byte, b->byte, sizeof(a->byte)) == 0;
}

bool ip_address_is_v4(const struct ip_address *a)
{
    return memcmp(a->byte, v4_prefix, sizeof(v4_prefix)) == 0;
}

bool ip_address_is_link_local(const struct ip_address *a)
{
    return a->byte[0] == 0xfe && (a->byte[1] & 0xc0) == 0x80;
}

static bool is_multicast(const struct ip_address *a)
{
    return ip_address_is_v4(a) ? a->byte[12] >= 224 : a->byte[0] == 0xff;
}

/* --- reading ----------------------------------------------------------------------------- */

static void parse_tcp(struct packet *out, const uint8_t *tcp, size_t size)
{
    size_t header = size >= TCP_HEADER ? 4 * (size_t)(tcp[12] >> 4) : 0;
    if (header < TCP_HEADER || header > size) {
        return;
    }
    out->is_tcp = true;
    out->from_port = get16(tcp);
    out->to_port = get16(tcp + 2);
    out->seq = get32(tcp + 4);
    out->ack = get32(tcp + 8);
    out->flags = tcp[13];
    out->payload = tcp + header;
    out->payload_bytes = size - header;
}

bool packet_parse(struct packet *out, const uint8_t *bytes, size_t size)
{
    memset(out, 0, sizeof(*out));
    if (size >= V4_HEADER && bytes[0] >> 4 == 4) {
        size_t header = 4 * (size_t)(bytes[0] & 15), end = get16(bytes + 2);
        from_v4(&out->from, bytes + 12);
        from_v4(&out->to, bytes + 16);
        /* Only the first fragment has the ports. */
        if (bytes[9] == PROTOCOL_TCP && (get16(bytes + 6) & 0x1fff) == 0 && end <= size &&
            header >= V4_HEADER && header <= end) {
            parse_tcp(out, bytes + header, end - header);
        }
    } else if (size >= V6_HEADER && bytes[0] >> 4 == 6) {
        size_t payload = get16(bytes + 4);
        memcpy(out->from.byte, bytes + 8, 16);
        memcpy(out->to.byte, bytes + 24, 16);
        if (bytes[6] == PROTOCOL_TCP && payload <= size - V6_HEADER) {
            parse_tcp(out, bytes + V6_HEADER, payload);
        }
    } else {
        return false;
    }
    out->is_multicast = is_multicast(&out->to);
    return true;
}

/* --- making ------------------------------------------------------------------------------ */

static uint32_t add_up(uint32_t sum, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i + 1 < size; i += 2) { /* sizes here are even */
        sum += get16(bytes + i);
    }
    return sum;
}

static uint16_t checksum(uint32_t sum)
{
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)~sum;
}

static size_t put_ip_header(uint8_t *out, const struct ip_address *from,
                            const struct ip_address *to)
{
    if (ip_address_is_v4(from)) {
        memset(out, 0, V4_HEADER);
        out[0] = 0x45;
        put16(out + 2, V4_HEADER + TCP_HEADER);
        out[8] = TTL;
        out[9] = PROTOCOL_TCP;
        memcpy(out + 12, from->byte + 12, 4);
        memcpy(out + 16, to->byte + 12, 4);
        put16(out + 10, checksum(add_up(0, out, V4_HEADER)));
        return V4_HEADER;
    }
    memset(out, 0, V6_HEADER);
    out[0] = 0x60;
    put16(out + 4, TCP_HEADER);
    out[6] = PROTOCOL_TCP;
    out[7] = TTL;
    memcpy(out + 8, from->byte, 16);
    memcpy(out + 24, to->byte, 16);
    return V6_HEADER;
}

size_t packet_reset(uint8_t out[PACKET_RESET_MAX], const struct packet *p)
{
    size_t header = put_ip_header(out, &p->to, &p->from);
    uint8_t *tcp = out + header;
    memset(tcp, 0, TCP_HEADER);
    put16(tcp, p->to_port);
    put16(tcp + 2, p->from_port);
    if ((p->flags & TCP_ACK) != 0) {
        put32(tcp + 4, p->ack);
        tcp[13] = TCP_RST;
    } else { /* nothing has come to it yet: what it has sent is named instead */
        uint32_t sent = (uint32_t)p->payload_bytes + ((p->flags & TCP_SYN) != 0);
        put32(tcp + 8, p->seq + sent);
        tcp[13] = TCP_RST | TCP_ACK;
    }
    tcp[12] = TCP_HEADER / 4 << 4;
    uint32_t sum = PROTOCOL_TCP + TCP_HEADER;
    size_t address = ip_address_is_v4(&p->from) ? 4 : 16;
    sum = add_up(sum, out + header - 2 * address, 2 * address);
    put16(tcp + 16, checksum(add_up(sum, tcp, TCP_HEADER)));
    return header + TCP_HEADER;
}
