/* SPDX-License-Identifier: MIT */
/* session_in.c - the reading half of a session: loop thread.
 *
 * Once per readiness, at most NET_TURN_BYTES, so that a busy peer does not starve others. Inside a
 * large fragment bytes go straight into the message, together with the next header in the same
 * call. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/log.h"
#include "net/session_impl.h"

int net_session_on_assembled(void *ctx, struct wire_message *msg)
{
    struct net_session *s = ctx;
    s->has_greeted = true;
    if (msg->type == WIRE_PING || msg->type == WIRE_PONG) {
        blob_unref(msg->body);
        if (msg->type == WIRE_PING) {
            net_session_send_beat(s, WIRE_PONG);
        }
    } else {
        s->ops->on_message(s, s->user, msg);
    }
    return net_session_is_deaf(s) ? 1 : 0;
}

/* Receives once and feeds the assembler. Returns recvmsg's answer or -errno; *asked: the most
 * that it could have been; *rc: what the assembler says. */
static ssize_t receive(struct net_session *s, size_t *asked, int *rc)
{
    uint8_t *scratch = net_loop_scratch(s->loop);
    size_t room = 0;
    bool is_wanted = !net_session_is_deaf(s);
    uint8_t *direct = is_wanted ? wire_assembler_direct(s->in, &room) : NULL;
    /* Behind a fragment only the next header: then the next fragment is read in place, too. */
    size_t more = direct != NULL ? WIRE_HEADER_BYTES : NET_SCRATCH_BYTES;
    struct iovec iov[2] = {{direct, room}, {scratch, more}};
    struct msghdr msg = {.msg_iov = direct != NULL ? iov : iov + 1,
                         .msg_iovlen = direct != NULL ? 2 : 1};
    *asked = (direct != NULL ? room : 0) + more;
    *rc = 0;
    ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
        return -errno;
    }
    s->received_bytes += (uint64_t)n;
    if (n == 0 || !is_wanted) {
        return n;
    }
    s->received_ms = uv_now(net_loop_uv(s->loop));
    size_t left = (size_t)n;
    if (s->received_bytes == left) {
        s->first_byte = scratch[0];
    }
    if (direct != NULL) {
        size_t placed = left < room ? left : room;
        *rc = wire_assembler_filled(s->in, placed, net_session_on_assembled, s);
        left -= placed;
    }
    if (*rc == 0 && left > 0) {
        *rc = wire_assembler_feed(s->in, scratch, left, net_session_on_assembled, s);
    }
    return n;
}

#define TLS_FIRST_BYTE 22 /* of every TLS handshake; never of a message */

/* What was wrong with what the peer sent. */
static const char *describe(const struct net_session *s, int rc)
{
    if (s->tls != NULL && net_tls_why(s->tls)[0] != '\0') {
        return net_tls_why(s->tls);
    }
    if (s->tls == NULL && !s->has_greeted && s->first_byte == TLS_FIRST_BYTE) {
        return "it speaks TLS, and this side has no key or was told --insecure";
    }
    return trk_strerror(rc);
}

static void drop_garbage(struct net_session *s, int rc)
{
    const char *what = describe(s, rc);
    if (rc != TRK_ENOMEM) {
        net_count_drop();
    }
    log_info("net", "%s: connection dropped: %s", s->peer, what);
    if (rc == TRK_EVERSION) {
        net_session_teardown(s, rc, "%s speaks another version of Trickle's protocol", s->peer);
    } else if (s->phase == SHAKING) {
        net_session_teardown(s, rc, "no session with %s: %s", s->peer, what);
    } else {
        net_session_teardown(s, rc, "what %s sent was dropped: %s", s->peer, what);
    }
}

/* The peer sends no more. */
static void end_of_input(struct net_session *s)
{
    if (s->tls == NULL || s->wish != CLOSE_NOT) {
        net_session_teardown(s, 0, "%s closed the connection", s->peer);
    } else if (s->phase == SHAKING) {
        net_count_drop();
        log_info("net", "%s: closed within the TLS handshake", s->peer);
        net_session_teardown(s, TRK_EIO,
                             "%s closed the connection before the TLS handshake was over", s->peer);
    } else {
        /* In order is what was said under the keys: anybody on the way can cut. */
        log_info("net", "%s: the connection was cut", s->peer);
        net_session_teardown(s, TRK_EIO, "connection to %s lost: it was cut", s->peer);
    }
}

/* Receives once. What is sent meanwhile, in answer, is written together afterwards. */
static ssize_t receive_corked(struct net_session *s, size_t *asked, int *rc)
{
    s->is_corked = true;
    ssize_t n = s->tls != NULL ? net_session_receive_tls(s, asked, rc) : receive(s, asked, rc);
    s->is_corked = false;
    pthread_mutex_lock(&s->mutex);
    net_session_write_out(s, NET_TURN_BYTES);
    pthread_mutex_unlock(&s->mutex);
    return n;
}

void net_session_read_in(struct net_session *s)
{
    size_t taken = 0;
    /* One that has failed is closed for that reason, whatever reading it would say. */
    while (taken < NET_TURN_BYTES && s->phase != CLOSED && s->failed == 0) {
        size_t asked;
        int rc;
        ssize_t n = receive_corked(s, &asked, &rc);
        if (n == -EINTR) {
            continue;
        }
        if (n == -EAGAIN) {
            return;
        }
        if (rc < 0) {
            drop_garbage(s, rc);
            return;
        }
        if (s->tls != NULL && rc == TRK_END) {
            net_session_teardown(s, 0, "%s closed the connection", s->peer);
            return;
        }
        if (n == 0 || (n < 0 && s->wish != CLOSE_NOT)) {
            end_of_input(s);
            return;
        }
        if (n < 0) {
            net_session_teardown(s, TRK_EIO, "connection to %s lost: %s", s->peer,
                                 strerror((int)-n));
            return;
        }
        if ((size_t)n < asked) {
            return; /* nothing is left: saves the call that would say so */
        }
        taken += (size_t)n;
    }
}

void net_session_read_rest(struct net_session *s)
{
    uint64_t before;
    do {
        before = s->received_bytes;
        net_session_read_in(s);
    } while (s->phase != CLOSED && s->received_bytes != before);
    net_session_teardown(s, TRK_EIO, "connection to %s lost: %s", s->peer,
                         strerror(s->write_errno));
}

static bool has_input(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

uint64_t net_session_silent_ms(struct net_session *s)
{
    uint64_t now = uv_now(net_loop_uv(s->loop));
    uint64_t silent = now > s->received_ms ? now - s->received_ms : 0;
    /* When it is this process that slept, the peer's bytes wait in the socket. */
    if (silent > 100 && s->phase == OPEN && has_input(s->fd)) {
        return 0;
    }
    return silent;
}
