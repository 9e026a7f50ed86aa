/* SPDX-License-Identifier: MIT */
/* session.c - a connection on the loop; see session.h for what it promises.
 *
 *   CONNECTING --connected--> (SHAKING -->) OPEN --flushed, our side shut down--> LINGER --> CLOSED
 *        \_______________________\____________\____ closed, lost, garbage, timeout ____/
 *
 * Everything that the loop does to a session ends in advance(): it looks at what is wanted (by
 * anyone: the wishes are under the mutex) and moves on. Other threads only leave wishes and post
 * the session's one task. Callbacks of the user never close a session under our feet for that
 * reason: net_session_close leaves a wish, too.
 *
 * Reading is in session_in.c, writing in session_out.c; SHAKING and reading with TLS in
 * session_tls.c.
 *
 * Closing with flush shuts our side down after the last byte and reads on (dropping what comes)
 * until the peer closes, too: a socket closed with unread input is reset, and a reset may destroy
 * our last messages on their way.
 *
 * The writer uses the descriptor without the mutex, so teardown waits until it has left; it never
 * blocks in a system call. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/session_impl.h"

#define FLUSH_MS 500
#define RETRY_FIRST_MS 2 /* a unix listener's backlog is full */
#define RETRY_MAX_MS 100
#define NEVER UINT64_MAX

static uint64_t clock_ms(void) { return sys_now_ns() / 1000000; }

/* --- references ------------------------------------------------------------------------- */

struct net_session *net_session_ref(struct net_session *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void net_session_unref(struct net_session *s)
{
    if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    assert(s->fd < 0);
    outq_fini(&s->out);
    net_tls_free(s->tls);
    wire_assembler_free(s->in);
    pthread_cond_destroy(&s->writer_left);
    pthread_mutex_destroy(&s->mutex);
    mem_free(s);
}

/* --- closing ---------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct net_session *s = handle->data;
    if (--s->handles_open == 0) {
        net_session_unref(s);
    }
}

void net_session_teardown(struct net_session *s, int error, const char *format, ...)
{
    if (s->phase == CLOSED) {
        return;
    }
    s->phase = CLOSED;
    char why[sizeof(s->why)]; /* format's arguments may be s->why itself */
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    pthread_mutex_lock(&s->mutex);
    s->is_closed = true;
    while (s->is_writing) {
        pthread_cond_wait(&s->writer_left, &s->mutex);
    }
    outq_fini(&s->out);
    if (s->tls != NULL) {
        net_session_leave_tls(s);
    }
    pthread_mutex_unlock(&s->mutex);
    wire_assembler_free(s->in);
    s->in = NULL;
    if (s->has_poll) {
        uv_close((uv_handle_t *)&s->poll, on_handle_closed); /* out of epoll at once */
    }
    if (s->fd >= 0) {
        sys_fd_remove(s->fd);
        close(s->fd);
        s->fd = -1;
    }
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    net_loop_remove_closer(&s->closer);
    log_debug("net", "%s: closed: %s", s->peer, why);
    s->ops->on_close(s, s->user, error, why);
}

void net_session_fail(struct net_session *s, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->why, sizeof(s->why), format, args);
    va_end(args);
    s->failed = error;
    pthread_mutex_lock(&s->mutex);
    net_session_poke(s);
    pthread_mutex_unlock(&s->mutex);
}

static void close_with_loop(struct net_closer *closer)
{
    struct net_session *s = container_of(closer, struct net_session, closer);
    net_session_teardown(s, 0, "the event loop has ended");
}

void net_session_close(struct net_session *s, bool flush)
{
    enum close_wish wish = flush ? CLOSE_FLUSH : CLOSE_NOW;
    pthread_mutex_lock(&s->mutex);
    if (wish > s->wish) {
        s->wish = wish;
        net_session_poke(s);
    }
    pthread_mutex_unlock(&s->mutex);
}

/* --- connecting ------------------------------------------------------------------------- */

/* Leaves a failure to advance(): on_close must not come from inside net_session_connect. */
static void fail_later(struct net_session *s, int error, const char *why)
{
    s->failed = error;
    snprintf(s->why, sizeof(s->why), "cannot connect to %s: %s", s->peer, why);
}

void net_session_open(struct net_session *s)
{
    s->phase = OPEN;
    pthread_mutex_lock(&s->mutex);
    s->is_up = s->may_speak = true;
    net_session_write_out(s, NET_TURN_BYTES); /* the hello may be waiting already */
    pthread_mutex_unlock(&s->mutex);
}

/* s->fd has become a connection. */
static void set_up(struct net_session *s)
{
    int rc = net_socket_check_peer(s->fd, &s->peer_pid);
    if (rc != 0) {
        net_count_drop();
        fail_later(s, rc, fail_text());
        return;
    }
    net_socket_tune(s->fd);
    s->received_ms = clock_ms();
    if (s->tls == NULL) {
        net_session_open(s);
        return;
    }
    rc = net_session_begin_tls(s);
    if (rc != 0) {
        fail_later(s, rc, fail_text());
    }
}

void net_session_tell_open(struct net_session *s)
{
    if (s->owes_on_open && s->phase == OPEN) {
        s->owes_on_open = false;
        if (s->ops->on_open != NULL && !net_session_is_deaf(s)) {
            s->ops->on_open(s, s->user);
        }
    }
}

static void try_connect(struct net_session *s)
{
    s->retry_ms = 0;
    int rc = connect(s->fd, (const struct sockaddr *)&s->address.sa, s->address.size);
    if (rc == 0) {
        set_up(s);
    } else if (errno == EAGAIN) {
        s->retry_ms = uv_now(net_loop_uv(s->loop)) + s->retry_wait_ms;
        s->retry_wait_ms *= 2;
        s->retry_wait_ms = s->retry_wait_ms < RETRY_MAX_MS ? s->retry_wait_ms : RETRY_MAX_MS;
    } else if (errno != EINPROGRESS && errno != EINTR) {
        fail_later(s, TRK_EIO, strerror(errno));
    }
}

/* The descriptor of a connect under way is ready: it is connected or has failed. */
static void finish_connect(struct net_session *s)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
        error = errno;
    }
    if (error != 0) {
        fail_later(s, TRK_EIO, strerror(error));
        return;
    }
    set_up(s);
}

/* --- what moves on ---------------------------------------------------------------------- */

static void on_poll(uv_poll_t *poll, int status, int events);
static void on_timer(uv_timer_t *timer);

static void watch(struct net_session *s, bool is_blocked)
{
    int events = UV_READABLE | (is_blocked ? UV_WRITABLE : 0);
    if (s->phase == CONNECTING) {
        events = s->retry_ms != 0 ? 0 : UV_WRITABLE;
    }
    if (events == s->poll_events) {
        return;
    }
    s->poll_events = events;
    int rc = events == 0 ? uv_poll_stop(&s->poll) : uv_poll_start(&s->poll, events, on_poll);
    if (rc != 0) {
        net_session_teardown(s, TRK_EIO, "cannot wait for %s: %s", s->peer, uv_strerror(rc));
    }
}

static bool may_ping(struct net_session *s)
{
    if (s->phase != OPEN || !s->is_trusted) {
        return false;
    }
    pthread_mutex_lock(&s->mutex);
    /* Before it has our greeting the peer takes no ping for one. */
    bool answer = s->out.messages_done > 0;
    pthread_mutex_unlock(&s->mutex);
    return answer;
}

static uint64_t ping_due_ms(struct net_session *s)
{
    uint64_t sent = atomic_load_explicit(&s->sent_ms, memory_order_relaxed);
    return (sent > s->pinged_ms ? sent : s->pinged_ms) + s->ping_ms;
}

static uint64_t dead_due_ms(const struct net_session *s)
{
    bool counts = s->dead_ms != 0 && s->has_greeted && s->phase == OPEN;
    return counts ? s->received_ms + s->dead_ms : NEVER;
}

static uint64_t hello_due_ms(const struct net_session *s)
{
    return s->has_greeted ? NEVER : s->started_ms + s->hello_ms;
}

static uint64_t shake_due_ms(const struct net_session *s)
{
    return s->phase == SHAKING ? s->shake_ms : NEVER;
}

static uint64_t min_ms(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void set_timer(struct net_session *s)
{
    uint64_t due = min_ms(min_ms(hello_due_ms(s), dead_due_ms(s)), shake_due_ms(s));
    if (s->retry_ms != 0) {
        due = min_ms(due, s->retry_ms);
    }
    if (s->close_ms != 0) {
        due = min_ms(due, s->close_ms);
    }
    if (s->phase == OPEN && s->is_trusted) {
        due = min_ms(due, ping_due_ms(s));
    }
    /* A deadline that has moved on is noticed when the timer fires: cheaper than moving it. */
    if (due < s->timer_due_ms) {
        uint64_t now = uv_now(net_loop_uv(s->loop));
        s->timer_due_ms = due;
        uv_timer_start(&s->timer, on_timer, due > now ? due - now : 1, 0); /* cannot fail */
    }
}

/* Closing with flush, one step further. */
static void flush(struct net_session *s, bool is_written)
{
    if (s->close_ms == 0) {
        s->close_ms = uv_now(net_loop_uv(s->loop)) + FLUSH_MS;
    }
    if (s->phase == OPEN && is_written && (s->tls == NULL || net_session_end_tls(s))) {
        s->phase = LINGER;
        shutdown(s->fd, SHUT_WR);
    }
}

static void advance(struct net_session *s)
{
    if (s->phase == CLOSED) {
        return;
    }
    net_session_tell_open(s);
    pthread_mutex_lock(&s->mutex);
    bool is_blocked = s->is_blocked;
    bool is_written = !net_session_has_output(s) && !s->is_writing;
    bool is_broken = s->write_errno != 0;
    enum close_wish wish = s->wish;
    pthread_mutex_unlock(&s->mutex);
    if (wish == CLOSE_NOW || (wish == CLOSE_FLUSH && is_broken)) {
        net_session_teardown(s, 0, "closed by this side");
        return;
    }
    if (s->failed != 0) {
        net_session_teardown(s, s->failed, "%s", s->why);
        return;
    }
    if (is_broken) {
        net_session_read_rest(s);
        return;
    }
    if (wish == CLOSE_FLUSH) {
        flush(s, is_written);
    }
    set_timer(s);
    watch(s, is_blocked);
}

static void on_task(void *arg)
{
    struct net_session *s = arg;
    pthread_mutex_lock(&s->mutex);
    s->is_posted = false;
    pthread_mutex_unlock(&s->mutex);
    advance(s);
    net_session_unref(s);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct net_session *s = poll->data;
    if (status < 0) {
        s->poll_events = 0; /* libuv has stopped it; reading will say what is wrong */
        events = UV_READABLE;
    }
    if (s->phase == CONNECTING) {
        finish_connect(s);
    } else {
        if ((events & UV_WRITABLE) != 0) {
            pthread_mutex_lock(&s->mutex);
            s->is_blocked = false;
            net_session_write_out(s, NET_TURN_BYTES);
            pthread_mutex_unlock(&s->mutex);
        }
        if ((events & UV_READABLE) != 0) {
            net_session_read_in(s);
        }
    }
    advance(s);
}

/* Returns true when the peer has been silent for too long. */
static bool is_overdue(struct net_session *s, uint64_t now)
{
    return now >= hello_due_ms(s) || now >= dead_due_ms(s) || now >= shake_due_ms(s);
}

/* The peer did not get as far as its hello. */
static void drop_slow(struct net_session *s)
{
    bool was_up = s->phase != CONNECTING, was_shaking = s->phase == SHAKING;
    uint32_t limit = was_shaking && NET_HANDSHAKE_MS < s->hello_ms ? NET_HANDSHAKE_MS : s->hello_ms;
    const char *missing = was_shaking ? "TLS handshake" : was_up ? "hello" : "connection";
    if (was_up) {
        net_count_drop();
    }
    log_info("net", "%s: dropped: no %s in time", s->peer, missing);
    if (was_shaking) {
        net_session_teardown(s, TRK_ETIMEDOUT, "%s did not finish the TLS handshake within %u ms",
                             s->peer, limit);
    } else {
        net_session_teardown(s, TRK_ETIMEDOUT, "%s did not answer within %u ms", s->peer, limit);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct net_session *s = timer->data;
    uint64_t now = uv_now(net_loop_uv(s->loop));
    s->timer_due_ms = NEVER;
    if (s->failed != 0) {
        return; /* advance() is on its way */
    }
    if (s->retry_ms != 0 && now >= s->retry_ms) {
        try_connect(s);
    }
    if (is_overdue(s, now) && s->phase != CONNECTING && s->phase != CLOSED) {
        net_session_read_in(s); /* was it we who slept? */
    }
    if (s->phase == CLOSED) {
        return;
    }
    if (now >= min_ms(hello_due_ms(s), shake_due_ms(s))) {
        drop_slow(s);
        return;
    }
    if (now >= dead_due_ms(s)) {
        net_session_teardown(s, TRK_ETIMEDOUT, "nothing was heard from %s for %u ms", s->peer,
                             s->dead_ms);
        return;
    }
    if (s->close_ms != 0 && now >= s->close_ms) {
        net_session_teardown(s, 0, "closed by this side");
        return;
    }
    if (s->phase == OPEN && s->is_trusted && now >= ping_due_ms(s)) {
        s->pinged_ms = now;
        if (may_ping(s)) {
            net_session_send_beat(s, WIRE_PING);
        }
    }
    advance(s);
}

/* --- making ----------------------------------------------------------------------------- */

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static void set_options(struct net_session *s, const struct net_session_options *opt)
{
    s->ops = opt->ops;
    s->user = opt->user;
    s->hello_ms = or_default(opt->hello_ms, 5000);
    s->ping_ms = or_default(opt->ping_ms, 1000);
    s->dead_ms = opt->dead_ms;
    s->started_ms = clock_ms();
}

/* A session without a descriptor, one reference for the caller and one for the loop. Its timer is
 * initialised, so from here on it ends by teardown only. */
static struct net_session *session_new(struct net_loop *loop,
                                       const struct net_session_options *opt)
{
    assert(net_loop_is_here(loop));
    struct net_session *s = mem_zalloc(1, sizeof(*s));
    struct wire_assembler *in = wire_assembler_new();
    if (s == NULL || in == NULL) {
        mem_free(s);
        wire_assembler_free(in);
        return NULL;
    }
    s->loop = loop;
    set_options(s, opt);
    s->fd = -1;
    list_init(&s->stranger);
    s->in = in;
    s->timer_due_ms = NEVER;
    s->retry_wait_ms = RETRY_FIRST_MS;
    s->received_ms = s->started_ms;
    s->pinged_ms = s->started_ms;
    s->task = (struct net_task){.fn = on_task, .arg = s};
    s->closer.close = close_with_loop;
    atomic_init(&s->refs, 2);
    atomic_init(&s->sent_ms, s->started_ms);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->writer_left, NULL);
    outq_init(&s->out);
    uv_timer_init(net_loop_uv(loop), &s->timer); /* cannot fail */
    s->timer.data = s;
    s->handles_open = 1;
    net_loop_add_closer(loop, &s->closer);
    return s;
}

/* The session takes fd over, also on error. */
static int adopt(struct net_session *s, int fd)
{
    s->fd = fd;
    int rc = sys_fd_add(fd);
    if (rc != 0) {
        return fail(rc, "too many descriptors are open");
    }
    rc = uv_poll_init(net_loop_uv(s->loop), &s->poll, fd); /* makes it non-blocking, too */
    if (rc != 0) {
        return fail(TRK_EIO, "%s", uv_strerror(rc));
    }
    s->poll.data = s;
    s->has_poll = true;
    s->handles_open++;
    return 0;
}

static void ignore_close(struct net_session *s, void *user, int error, const char *why) {}

/* Ends one that the caller never had: what it learns is an error and fail_text(). */
static void abandon(struct net_session *s)
{
    static const struct net_session_ops silent = {.on_close = ignore_close};
    s->ops = &silent;
    net_session_teardown(s, 0, "%s", fail_text());
    net_session_unref(s);
}

static int make_socket(int family, int fd_min)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= fd_min) {
        return fd;
    }
    int raised = fcntl(fd, F_DUPFD_CLOEXEC, fd_min);
    close(fd);
    return raised;
}

int net_session_connect(struct net_loop *loop, const char *address,
                        const struct net_session_options *opt, struct net_session **out)
{
    struct net_address a;
    int rc = net_address_parse(&a, address);
    if (rc != 0) {
        return rc;
    }
    struct net_session *s = session_new(loop, opt);
    if (s == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    s->address = a;
    s->owes_on_open = true;
    snprintf(s->peer, sizeof(s->peer), "%s", address);
    if (opt->keys != NULL && a.sa.ss_family != AF_UNIX &&
        (rc = net_session_use_tls(s, opt, true)) != 0) {
        abandon(s);
        return rc;
    }
    int fd = make_socket(a.sa.ss_family, opt->fd_min);
    if (fd < 0) {
        fail_later(s, TRK_EIO, strerror(errno));
    } else if ((rc = adopt(s, fd)) != 0) {
        fail_later(s, rc, fail_text());
    } else {
        try_connect(s);
    }
    pthread_mutex_lock(&s->mutex);
    net_session_poke(s);
    pthread_mutex_unlock(&s->mutex);
    *out = s;
    return 0;
}

int net_session_accept(struct net_loop *loop, int fd, const struct net_session_options *opt,
                       struct net_session **out)
{
    struct net_session *s = session_new(loop, opt);
    if (s == NULL) {
        close(fd);
        return fail(TRK_ENOMEM, "out of memory");
    }
    net_address_of_peer(fd, s->peer, sizeof(s->peer));
    int rc = adopt(s, fd);
    if (rc == 0 && opt->keys != NULL && !net_socket_is_unix(fd)) {
        rc = net_session_use_tls(s, opt, false);
    }
    if (rc == 0) {
        set_up(s);
        rc = s->failed;
    }
    if (rc == 0) {
        advance(s);
        *out = s;
        return 0;
    }
    log_info("net", "%s: connection refused: %s", s->peer, fail_text());
    abandon(s);
    return rc;
}

/* --- keys ------------------------------------------------------------------------------- */

void net_sessions_revoke(struct net_loop *loop, const struct auth_keys *keys)
{
    struct list *pos;
    list_for_each(pos, net_loop_closers(loop)) {
        struct net_closer *closer = container_of(pos, struct net_closer, node);
        struct net_session *s = container_of(closer, struct net_session, closer);
        if (closer->close == close_with_loop && s->tls != NULL && s->failed == 0 &&
            net_tls_is_revoked(s->tls, keys)) {
            log_info("net", "%s: connection dropped: its key is revoked", s->peer);
            net_count_drop();
            net_session_fail(s, TRK_EDENIED, "the key of the session with %s is revoked", s->peer);
        }
    }
}

/* --- the rest --------------------------------------------------------------------------- */

void net_session_set_trusted(struct net_session *s)
{
    assert(net_loop_is_here(s->loop));
    if (s->phase == CLOSED) {
        return;
    }
    s->is_trusted = true;
    wire_assembler_set_trusted(s->in, true);
    set_timer(s);
}

void net_session_hand_over(struct net_session *s, const struct net_session_options *opt)
{
    assert(net_loop_is_here(s->loop));
    set_options(s, opt);
    if (s->phase == CLOSED) {
        return;
    }
    s->is_trusted = s->has_greeted = false;
    wire_assembler_set_trusted(s->in, false);
    set_timer(s);
}

uint32_t net_session_peer_pid(const struct net_session *s) { return s->peer_pid; }

const char *net_session_peer(const struct net_session *s) { return s->peer; }
