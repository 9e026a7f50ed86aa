/* SPDX-License-Identifier: MIT */
/* relay_tcp.h - the TCP connections that pass: which there are, how they begin, their reset.
 *
 * A reset needs a number that only the two ends know. What an end acknowledges is the number that
 * it waits for, so each packet of it says how to reset it: those of a connection that is to be
 * reset are answered so, until the end is gone. At once it is tried with the last that it sent; if
 * more has come to it since, it asks what that was (a "challenge ACK", RFC 5961), which again is
 * such a packet.
 *
 * A table of fixed size: a new connection takes the place of the one in its row that was silent
 * for longest. One that was forgotten is not counted and cannot be reset until it sends again. */
#ifndef RELAY_TCP_H
#define RELAY_TCP_H

#include "relay_packet.h"

struct tcp_end {
    struct ip_address address;
    uint16_t port;
    uint16_t machine;    /* its number */
    bool has_ended;      /* it has sent FIN */
    struct packet last;  /* what it sent last; payload is not kept */
};

struct tcp_connection {
    bool is_used;
    bool is_reset;       /* what its ends send does not pass, and is answered */
    bool is_known;       /* its first bytes were looked at, or cannot be */
    uint32_t first_seq;  /* of the SYN */
    uint64_t heard;      /* when, in packets */
    struct tcp_end end[2]; /* 0: who opened it */
};

enum tcp_opening {
    TCP_OPENING_NOT,   /* nothing new is known */
    TCP_OPENING_BEGUN, /* a new connection */
    TCP_OPENING_TLS,   /* its first bytes are a TLS handshake */
    TCP_OPENING_PLAIN, /* they are not */
};

struct tcp_table;
struct tcp_table *tcp_table_new(void); /* NULL: no memory */
void tcp_table_free(struct tcp_table *t);

/* Notes a packet of TCP that goes from one machine to another. Returns its connection, dead after
 * the next call, or NULL: there is none any more. */
struct tcp_connection *tcp_table_note(struct tcp_table *t, const struct packet *p, uint16_t from,
                                      uint16_t to, enum tcp_opening *opening);

/* Marks the connections between a and b (-1: any machine) as reset and calls each for both of
 * their ends: p is what it sent last, to be answered. Returns how many. */
unsigned tcp_table_reset(struct tcp_table *t, int a, int b,
                         void (*each)(void *ctx, const struct tcp_end *end,
                                      const struct tcp_end *other), void *ctx);

#endif
