/* SPDX-License-Identifier: MIT */
/* session.h - a connection that carries messages: frames, fragments, heartbeats, any-thread send.
 *
 * With keys a TCP session is TLS (tls.h) and begins with its handshake: until both sides have
 * proved that they have a key nothing else of the peer's is parsed, nothing of ours is sent, and
 * the peer is held to NET_STRANGERS_MAX, NET_HANDSHAKE_MS and NET_HANDSHAKE_BYTES.
 *
 * Callbacks come on the loop thread. Sending is for any thread: when nothing is queued the
 * sender writes to the socket itself (a wake-up of the loop thread costs more than the write),
 * what does not fit is queued and written by the loop. Control messages (PING, PONG, ACK, RECALL,
 * RECALLED, CANCEL, BYE) are queued ahead of everything else and go between fragments; HELLO and
 * WELCOME go with them, so that nothing overtakes a greeting. Beware: a BYE overtakes what is
 * queued; net_session_close with flush does not.
 *
 * Life: opened (connect or accept) -> on_message ... -> on_close exactly once -> memory is the
 * caller's reference to drop. Reference counted: the loop holds one until after on_close. */
#ifndef NET_SESSION_H
#define NET_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "auth/keys.h"
#include "net/loop.h"
#include "wire/frame.h"

struct net_session;

/* Who has not proved to have a key: connections that a loop has accepted and that are in their TLS
 * handshake, and the time and bytes for each. For one more another one has to go (TRK_EFULL): of
 * those that have not begun with a key the oldest one of the address that has most of them. So
 * who has many keeps nobody out who comes from elsewhere, or is quick. */
#define NET_STRANGERS_MAX 64
#define NET_HANDSHAKE_MS 3000
#define NET_HANDSHAKE_BYTES 8192

struct net_session_ops {
    /* The connection is up (for connects; accepted ones are up at once), the TLS handshake over.
     * Optional. */
    void (*on_open)(struct net_session *s, void *user);
    /* Takes msg->body. */
    void (*on_message)(struct net_session *s, void *user, struct wire_message *msg);
    /* The last callback. error 0: net_session_close was called or the peer closed in order (with
     * TLS: it said so; a connection that was cut is TRK_EIO); TRK_EDENIED: the TLS handshake
     * failed; why: a sentence, borrowed. */
    void (*on_close)(struct net_session *s, void *user, int error, const char *why);
};

struct net_session_options {
    const struct net_session_ops *ops; /* static */
    void *user;
    uint32_t hello_ms; /* the peer's first message must come within this; 0: 5,000 */
    uint32_t ping_ms;  /* PING after so long without sending; 0: 1,000 */
    uint32_t dead_ms;  /* TRK_ETIMEDOUT after so long without receiving, once greeted; 0: never */
    const struct auth_keys *keys; /* TCP is TLS with these (copied); NULL: plain. Unix: ignored */
    enum auth_role role;          /* with keys: this side's, whoever connects */
    int fd_min;                   /* connects: the descriptor is not below; 0: any */
};

/* address: "unix:/path" or "tcp:host:port" (numeric). Asynchronous: failures come as on_close.
 * Loop thread. *out: one reference for the caller. */
TRK_MUST_USE int net_session_connect(struct net_loop *loop, const char *address,
                                     const struct net_session_options *opt,
                                     struct net_session **out);
/* Takes over a connected socket (closed on error too). Loop thread. */
TRK_MUST_USE int net_session_accept(struct net_loop *loop, int fd,
                                    const struct net_session_options *opt,
                                    struct net_session **out);

/* Sends a message; body's reference is taken, also on error. Any thread. TRK_ECLOSED when the
 * session is closed or closing. */
TRK_MUST_USE int net_session_send(struct net_session *s, uint8_t type, uint32_t stream,
                                  struct blob *body);
/* Bytes queued and not yet given to the kernel. Any thread. */
size_t net_session_queued(struct net_session *s);
/* Lets larger and other messages than HELLO/WELCOME through (frame.h). Loop thread; callable from
 * on_message: what arrived behind the hello is then parsed as trusted. */
void net_session_set_trusted(struct net_session *s);
/* The session goes on as another one: callbacks, user and times are those of opt from now on (keys
 * and role stay), and the peer is to greet again: nobody is trusted, and its first message is
 * waited for. Loop thread; callable from on_message. */
void net_session_hand_over(struct net_session *s, const struct net_session_options *opt);
/* Milliseconds since any byte came from the peer; 0 when bytes wait unread. Loop thread. */
uint64_t net_session_silent_ms(struct net_session *s);
/* Unix sockets: the peer's pid (0 for TCP); where we connected, of who made the listening socket
 * (the supervisor, for a VM's). The peer's uid was checked on connect and accept:
 * another user's is refused with TRK_EDENIED. */
uint32_t net_session_peer_pid(const struct net_session *s);
/* The address of the peer as text, "tcp:10.0.0.2:4711" or "unix:/path". */
const char *net_session_peer(const struct net_session *s);

/* Closes: after what is queued has been written and the peer has closed, too (flush, at most
 * 500 ms), or at once. Any thread; on_close follows, no on_message does. Closing twice is
 * harmless; net_loop_stop does not wait for a flush. */
void net_session_close(struct net_session *s, bool flush);
/* A key was revoked: ends the loop's TLS sessions by any that is none of keys, also those that are
 * still in their handshake: nothing of theirs is given to anybody from now on, their on_close comes
 * soon, with TRK_EDENIED. Loop thread; callable from the callbacks of any session. */
void net_sessions_revoke(struct net_loop *loop, const struct auth_keys *keys);
struct net_session *net_session_ref(struct net_session *s);
void net_session_unref(struct net_session *s); /* NULL is fine */

/* --- listening ------------------------------------------------------------------------- */

struct net_listener;

/* Makes a listening socket (CLOEXEC, non-blocking). "unix:/path" (0600, stale file replaced when
 * nobody answers there; the path appears only once it can be connected to) or "tcp:host:port",
 * port 0: any; "tcp:*:port": all addresses, IPv4 and, where there is IPv6, both ("tcp:[::]:port"
 * in bound). bound: the address it got, at least 128 bytes. Returns the descriptor or TRK_E*. */
int net_listen_fd(const char *address, char *bound, size_t bound_size);
/* Accepts on fd (borrowed: stays open after net_listener_close): each connection is handed over
 * as a descriptor, which the callback owns. Accept errors (EMFILE ...) back off, never spin. */
TRK_MUST_USE int net_listener_start(struct net_loop *loop, int fd,
                                    void (*on_accept)(void *user, int fd), void *user,
                                    struct net_listener **out);
void net_listener_close(struct net_listener *l); /* loop thread; frees itself */

/* Connections and frames dropped as garbage, timed out or refused in this process. */
uint64_t net_dropped(void);
void net_count_drop(void);

#endif
