/* SPDX-License-Identifier: MIT */
/* session_impl.h - a session's state, and its writing half (session_out.c) and its
 * half below TLS (session_tls.c) for its life (session.c). */
#ifndef NET_SESSION_IMPL_H
#define NET_SESSION_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/address.h"
#include "net/loop_impl.h"
#include "net/outq.h"
#include "net/session.h"
#include "net/tls.h"

#define NET_TURN_BYTES ((size_t)1 << 20) /* read or written per turn of the loop */

enum phase { CONNECTING, SHAKING /* hands: TLS only */, OPEN, LINGER, CLOSED };
enum close_wish { CLOSE_NOT, CLOSE_FLUSH, CLOSE_NOW }; /* only rises */

struct net_session {
    /* Fixed. */
    struct net_loop *loop; /* not to be touched when is_closed: it may be gone */
    const struct net_session_ops *ops;
    void *user;
    uint32_t hello_ms, ping_ms, dead_ms;
    struct net_address address;      /* connects: where to */
    char peer[NET_ADDRESS_TEXT];     /* for people */
    atomic_uint refs;

    /* Loop thread. */
    enum phase phase;
    int fd;                     /* -1: none. The writer uses it too, while is_writing */
    uint32_t peer_pid;          /* unix sockets */
    uv_poll_t poll;
    uv_timer_t timer;           /* the earliest of all deadlines */
    unsigned handles_open;      /* the loop's reference is dropped when the last is closed */
    bool has_poll;              /* poll is initialised */
    int poll_events;            /* what poll is started for; 0: stopped */
    uint64_t timer_due_ms;      /* NEVER: timer not started */
    struct net_closer closer;   /* net_loop_free */
    struct wire_assembler *in;
    bool is_trusted;            /* net_session_set_trusted */
    bool has_greeted;           /* the peer's first message has come */
    bool owes_on_open;          /* on_open is to be called */
    struct list stranger;       /* in the loop's list of them; else an empty one of its own */
    uint64_t address_tag;       /* stranger: the same for all of its address */
    bool is_corked;             /* receiving: the loop's own sends wait for its end */
    bool has_said_end;          /* TLS: the peer knows that nothing follows */
    uint8_t first_byte;         /* that came from the peer */
    uint64_t shake_ms;          /* SHAKING: the handshake is due then */
    int failed;                 /* TRK_E*: it is over, advance() closes it with why */
    char why[256];              /* sentence for on_close */
    uint64_t started_ms;        /* when it was made: the hello is due from here */
    uint64_t received_ms;       /* last sign of life */
    uint64_t received_bytes;    /* since the start */
    uint64_t pinged_ms;         /* last time a PING was due */
    uint64_t close_ms;          /* the flush ends here; 0: none */
    uint64_t retry_ms;          /* connect again then; 0: no */
    uint32_t retry_wait_ms;     /* before the next retry */

    /* Any thread, under the mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t writer_left; /* is_writing has become false */
    struct outq out;
    struct net_tls *tls;        /* NULL: plain */
    bool is_up;                 /* connected: may be written to */
    bool may_speak;             /* messages may be written: no TLS, or its handshake is over */
    bool is_writing;            /* a thread is writing, mutex or not */
    bool is_blocked;            /* the kernel takes no more: the loop goes on */
    bool is_posted;             /* task is on its way */
    bool is_closed;             /* torn down */
    int write_errno;            /* a write failed: no more is written */
    _Atomic enum close_wish wish; /* written under the mutex, read anywhere */
    struct net_task task;       /* runs advance() */
    atomic_ullong sent_ms;      /* last time bytes were written; sys clock */
};

/* Asks the loop thread to look at the session. Under the mutex. */
void net_session_poke(struct net_session *s);
/* Writes what is queued until the kernel takes no more or about budget bytes are written; what is
 * left then is the loop's. Under the mutex, which is let go around system calls. */
void net_session_write_out(struct net_session *s, size_t budget);
/* Is there anything that could be written? Under the mutex. */
bool net_session_has_output(const struct net_session *s);
/* Bytes sent of size, or -errno; MSG_NOSIGNAL, never blocks. */
ssize_t net_session_send_bytes(int fd, const void *bytes, size_t size);
/* PING, PONG: an empty message. */
void net_session_send_beat(struct net_session *s, uint8_t type);

/* session.c */
/* The one way to CLOSED. Never called from inside a callback of the user. */
void net_session_teardown(struct net_session *s, int error, const char *format, ...)
    TRK_PRINTF(3, 4);
/* Has advance() tear it down, with this sentence; until then nothing more of the peer's is given
 * to the user. Loop thread, also from inside a callback. */
void net_session_fail(struct net_session *s, int error, const char *format, ...)
    TRK_PRINTF(3, 4);
/* It is closing: what comes is dropped. */
static inline bool net_session_is_deaf(const struct net_session *s)
{
    return s->wish != CLOSE_NOT || s->failed != 0;
}
/* Messages may go both ways from now on. */
void net_session_open(struct net_session *s);
/* on_open, when it is due. Not from within net_session_connect. */
void net_session_tell_open(struct net_session *s);

/* session_in.c: loop thread. */
/* For the assembler. Positive: stop, the session is being closed. */
int net_session_on_assembled(void *ctx, struct wire_message *msg);
/* Reads for one turn; may end in CLOSED. */
void net_session_read_in(struct net_session *s);
/* A write has failed, so the peer has gone: reads what it left. Ends in CLOSED. */
void net_session_read_rest(struct net_session *s);

/* session_tls.c: loop thread. */
/* The session is to be TLS. 0 or TRK_ENOMEM with a sentence. */
TRK_MUST_USE int net_session_use_tls(struct net_session *s, const struct net_session_options *opt,
                                     bool is_caller);
/* s->fd has become a connection: begins with the handshake. 0 or TRK_E* (net_tls_why). */
TRK_MUST_USE int net_session_begin_tls(struct net_session *s);
/* Receives once: goes on with the handshake, feeds the assembler. Returns as recv does, or -errno;
 * *asked: the most that it could have been; *rc: TRK_END: the peer has ended in order; TRK_E*: to
 * be dropped; positive: being closed. */
ssize_t net_session_receive_tls(struct net_session *s, size_t *asked, int *rc);
/* Says that nothing follows. Returns true when that is sent, too. */
bool net_session_end_tls(struct net_session *s);
/* In teardown, when no writer is left: sends what can be sent at once. Under the mutex. */
void net_session_leave_tls(struct net_session *s);

#endif
