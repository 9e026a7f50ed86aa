/* SPDX-License-Identifier: MIT */
/* address.h - "unix:/path" and "tcp:host:port" as socket addresses and back; socket options. */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "trickle/error.h"

#define NET_ADDRESS_TEXT 128 /* the longest text of an address, with its terminator */

struct net_address {
    struct sockaddr_storage sa;
    socklen_t size; /* bytes used of sa */
};

/* Numeric hosts only, "[::1]" for IPv6. TRK_EINVAL with a sentence. */
TRK_MUST_USE int net_address_parse(struct net_address *out, const char *text);
/* "tcp:HOST:PORT" of a numeric host without brackets. */
void net_address_tcp(char *text, size_t size, const char *host, uint16_t port);
/* Takes apart where to listen: "10.0.0.1", "10.0.0.1:80", "::1", "[::1]:80" (localhost is
 * 127.0.0.1). host: without brackets; *port stays as it is where none is said. TRK_EINVAL with a
 * sentence. */
TRK_MUST_USE int net_address_split(const char *text, char *host, size_t size, uint16_t *port);
void net_address_format(const struct net_address *a, char *text, size_t size);
/* The address of the other end of a connected socket (of this end where a unix peer has none). */
void net_address_of_peer(int fd, char *text, size_t size);
/* The address a socket is bound to. */
void net_address_of_socket(int fd, char *text, size_t size);

bool net_socket_is_unix(int fd);
/* Options of a connection: no delay and keepalive for TCP, larger buffers for unix sockets. */
void net_socket_tune(int fd);
/* Unix sockets: TRK_EDENIED with a sentence when the peer is another user; *pid: the peer's.
 * TCP: 0, *pid = 0. */
TRK_MUST_USE int net_socket_check_peer(int fd, uint32_t *pid);

/* A socket is bound as "PATH~" and renamed to PATH once it listens (listen.c). */
#define NET_UNIX_UNFINISHED '~'

#endif
