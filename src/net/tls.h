/* SPDX-License-Identifier: MIT */
/* tls.h - one end of a TLS 1.3 connection as a state machine: bytes in, bytes out.
 *
 * No sockets, no locks, no threads of its own: the session feeds what it received and takes what
 * is to be sent. During the handshake it is one state, OpenSSL's; then what reads (feed, read) and
 * what writes (write, rekey, end, output, sent) share nothing, and each needs its own guard only.
 * All is in memory: input is the caller's, used in place; output is a fixed buffer, because what is
 * encrypted can no longer be overtaken. It holds as much as the kernel may hold unsent
 * (net_socket_tune): with a quarter of that, sending 16 MB took a seventh more of the processor.
 *
 * Who may: both sides prove that they have the farm's key (external PSK), each connection has
 * fresh keys besides (psk_dhe_ke). The identity says "trickle1:ID:ROLE" of who calls, and the PSK
 * is derived for that role. A side answers only the other role, so a call that is thrown back at
 * one of the caller's kind is refused. No certificates, tickets, early data, older versions.
 *
 * When the process ends (auth/crypto.h) a connection says and hears nothing any more: what is
 * written and fed is taken and forgotten, so that nobody spins, and who wants to close can. */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "auth/keys.h"
#include "trickle/error.h"

#define NET_TLS_RECORD 16384 /* bytes of plain text in a record, at most */
#define NET_TLS_RECORDS 16   /* full ones of output */

struct net_tls;

/* role: of this side. The caller offers keys' first; who answers accepts all of them. What is
 * needed of keys is copied. TRK_ENOMEM, TRK_ECLOSED (the process is ending) with a sentence. */
TRK_MUST_USE int net_tls_new(struct net_tls **out, const struct auth_keys *keys,
                             enum auth_role role, bool is_caller);
void net_tls_free(struct net_tls *t); /* NULL is fine */

/* Bytes from the network, borrowed until they are used up: the next handshake step or reads take
 * all of them in. Those of the call before must be. */
void net_tls_feed(struct net_tls *t, const void *bytes, size_t size);
/* Goes on with the handshake; the caller's begins with it. 0: done; TRK_AGAIN: more must come;
 * TRK_EDENIED, TRK_ENOMEM: refused (net_tls_why). Then and in all cases: look for output. */
TRK_MUST_USE int net_tls_handshake(struct net_tls *t);
/* Decrypts into out. 0 and *got > 0; 0 and *got 0: more must come; TRK_END: the peer has ended in
 * order; TRK_ECORRUPT, TRK_ENOMEM: the connection is to be dropped (net_tls_why). */
TRK_MUST_USE int net_tls_read(struct net_tls *t, uint8_t *out, size_t room, size_t *got);
/* Encrypts of iov what there is room for, in full records where it can. Returns the bytes taken
 * (0: no room) or TRK_EIO: it has failed for good. */
TRK_MUST_USE ssize_t net_tls_write(struct net_tls *t, const struct iovec *iov, size_t count);
/* New keys for what is written from now on; done by itself every 2^22 records, long before too much
 * has been encrypted with one. */
void net_tls_rekey(struct net_tls *t);
/* Tests: by itself every so many records. */
void net_tls_set_rekey(struct net_tls *t, uint64_t records);
/* Says to the peer that nothing follows, or after a failed read that its bytes were changed. */
void net_tls_end(struct net_tls *t);

/* What is to be sent: stays where it is, and may grow, until net_tls_sent. */
const uint8_t *net_tls_output(const struct net_tls *t, size_t *size);
void net_tls_sent(struct net_tls *t, size_t size);

/* Is the key that the peer proves, or may still prove, none of keys any more? */
bool net_tls_is_revoked(const struct net_tls *t, const struct auth_keys *keys);
/* Answering: the caller has begun with one of our keys. It may repeat what it has heard. */
bool net_tls_has_met(const struct net_tls *t);

/* Notes a reason of the session's own. */
void net_tls_refuse(struct net_tls *t, const char *why);
/* Why it failed, about the peer: "its key 1234abcd is not one of ours". "": it has not. */
const char *net_tls_why(const struct net_tls *t);

#endif
