/* SPDX-License-Identifier: MIT */
/* session_out.c - the writing half of a session: any thread.
 *
 * One thread at a time is the writer (is_writing); it holds the mutex only between system calls,
 * others push and leave, and the writer takes theirs along. When the kernel takes no more,
 * is_blocked hands the queue over to the loop, which polls for writability; it does so too when a
 * sender has written its own message and others keep pushing.
 *
 * What the loop sends while it receives for the session (answers, mostly) is written when that is
 * done: many small messages in one call and, with TLS, in one record.
 *
 * With TLS a step encrypts some records under the mutex, the rest of the time it sends them: what
 * is encrypted cannot be overtaken any more, so it has a limit. The next records are made when
 * the ones before are sent. Before the handshake is over only its own bytes are written.
 *
 * A failed write does not close by itself: what the peer sent before it went away (its last
 * results) is still to be read. */
#include <errno.h>

#include "base/sys.h"
#include "net/session_impl.h"

#define SENDER_BYTES ((size_t)256 << 10) /* a sender writes so much for others */

void net_session_poke(struct net_session *s)
{
    if (s->is_posted || s->is_closed) {
        return;
    }
    /* A loop that has stopped takes no posts: net_loop_free closes the session then. */
    if (net_loop_post_task(s->loop, &s->task) == 0) {
        s->is_posted = true;
        net_session_ref(s);
    }
}

/* Bytes written, or -errno. */
static ssize_t send_batch(int fd, struct outq_batch *batch)
{
    struct msghdr msg = {.msg_iov = batch->iov, .msg_iovlen = batch->iov_count};
    ssize_t n;
    do {
        n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t net_session_send_bytes(int fd, const void *bytes, size_t size)
{
    ssize_t n;
    do {
        n = send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

bool net_session_has_output(const struct net_session *s)
{
    size_t size = 0;
    if (s->tls != NULL) {
        net_tls_output(s->tls, &size);
    }
    return size > 0 || (s->may_speak && !outq_is_empty(&s->out));
}

static bool may_write(const struct net_session *s)
{
    return s->is_up && !s->is_writing && !s->is_blocked && !s->is_closed && s->write_errno == 0;
}

/* One step of writing: bytes or -errno; *is_short: the kernel took less than it was given. Under
 * the mutex, which is let go around the system call. */
static ssize_t write_plain(struct net_session *s, bool *is_short)
{
    struct outq_batch batch;
    outq_prepare(&s->out, &batch);
    pthread_mutex_unlock(&s->mutex);
    ssize_t n = send_batch(s->fd, &batch);
    pthread_mutex_lock(&s->mutex);
    if (n > 0) {
        outq_commit(&s->out, &batch, (size_t)n);
    }
    *is_short = n >= 0 && (size_t)n < batch.bytes;
    return n;
}

/* The same with TLS. What is encrypted counts as written: it goes out before anything else. */
static ssize_t write_tls(struct net_session *s, bool *is_short)
{
    size_t size;
    net_tls_output(s->tls, &size);
    if (size == 0) {
        struct outq_batch batch;
        outq_prepare(&s->out, &batch);
        ssize_t taken = net_tls_write(s->tls, batch.iov, batch.iov_count);
        if (taken < 0) {
            return -EPROTO;
        }
        outq_commit(&s->out, &batch, (size_t)taken);
    }
    const uint8_t *bytes = net_tls_output(s->tls, &size);
    pthread_mutex_unlock(&s->mutex);
    ssize_t n = net_session_send_bytes(s->fd, bytes, size);
    pthread_mutex_lock(&s->mutex);
    if (n > 0) {
        net_tls_sent(s->tls, (size_t)n);
    }
    *is_short = n >= 0 && (size_t)n < size;
    return n;
}

void net_session_write_out(struct net_session *s, size_t budget)
{
    size_t written = 0;
    if (!may_write(s) || !net_session_has_output(s)) {
        return;
    }
    s->is_writing = true;
    while (net_session_has_output(s) && !s->is_closed && !s->is_blocked) {
        bool is_short;
        ssize_t n = s->tls != NULL ? write_tls(s, &is_short) : write_plain(s, &is_short);
        if (n == -EAGAIN || n == -ENOBUFS) {
            s->is_blocked = true;
        } else if (n < 0) {
            s->write_errno = (int)-n;
            break;
        } else {
            written += (size_t)n;
            s->is_blocked = is_short || (written >= budget && net_session_has_output(s));
        }
    }
    s->is_writing = false;
    pthread_cond_broadcast(&s->writer_left);
    if (written > 0) {
        atomic_store_explicit(&s->sent_ms, sys_now_ns() / 1000000, memory_order_relaxed);
    }
    if (s->is_blocked || s->write_errno != 0 || s->wish != CLOSE_NOT) {
        net_session_poke(s);
    }
}

int net_session_send(struct net_session *s, uint8_t type, uint32_t stream, struct blob *body)
{
    size_t size = body->size;
    if (sys_is_forked() || size > WIRE_MESSAGE_MAX) {
        blob_unref(body);
        /* In a child the descriptor's number may be another file's by now. */
        return sys_is_forked() ? TRK_EFORKED : TRK_ETOOBIG;
    }
    struct outq_item *item = outq_item_new(type, stream, body);
    if (item == NULL) {
        return TRK_ENOMEM;
    }
    pthread_mutex_lock(&s->mutex);
    if (s->is_closed || s->wish != CLOSE_NOT || s->write_errno != 0) {
        pthread_mutex_unlock(&s->mutex);
        outq_item_free(item);
        return TRK_ECLOSED;
    }
    outq_push(&s->out, item);
    bool is_here = net_loop_is_here(s->loop);
    if (!is_here || !s->is_corked) {
        /* The loop has others to care for; a sender of its own stays until its message is out. */
        net_session_write_out(s, is_here ? NET_TURN_BYTES : size + SENDER_BYTES);
    }
    pthread_mutex_unlock(&s->mutex);
    return 0;
}

size_t net_session_queued(struct net_session *s)
{
    pthread_mutex_lock(&s->mutex);
    size_t bytes = 0;
    if (s->tls != NULL) {
        net_tls_output(s->tls, &bytes);
    }
    bytes += s->out.bytes;
    pthread_mutex_unlock(&s->mutex);
    return bytes;
}

/* At most one is waiting: a peer that asks without reading must not fill our memory. Without
 * memory for it the next one may get through. */
void net_session_send_beat(struct net_session *s, uint8_t type)
{
    pthread_mutex_lock(&s->mutex);
    bool is_waiting = outq_has_control(&s->out, type);
    pthread_mutex_unlock(&s->mutex);
    struct blob *body = is_waiting ? NULL : blob_new(0);
    if (body != NULL) {
        (void)!net_session_send(s, type, 0, body);
    }
}
