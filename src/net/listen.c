/* SPDX-License-Identifier: MIT */
/* listen.c - listening sockets.
 *
 * A unix socket is bound under a name of its own ("PATH~"), listens, and is only then renamed to
 * PATH: whoever sees PATH can connect to it. So a refused connection proves that a file is stale,
 * for us here and for those who look for supervisors (discovery/local.c), and replacing a stale
 * file leaves no gap. */
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/address.h"
#include "net/loop_impl.h"
#include "net/session.h"

#define ACCEPTS_PER_TURN 16 /* few of NET_STRANGERS_MAX: each is read before others displace it */
#define BACK_OFF_MS 100

static atomic_ullong dropped;

uint64_t net_dropped(void) { return atomic_load(&dropped); }

void net_count_drop(void) { atomic_fetch_add(&dropped, 1); }

/* --- making the socket ------------------------------------------------------------------ */

/* 0: path is free or stale. */
static int check_unused(const struct net_address *a, const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return errno == ENOENT ? 0 : fail(TRK_EIO, "%s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(st.st_mode)) {
        return fail(TRK_EIO, "%s exists and is not a socket", path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return fail(TRK_EIO, "cannot make a socket: %s", strerror(errno));
    }
    int rc = connect(fd, (const struct sockaddr *)&a->sa, a->size);
    int error = rc == 0 ? 0 : errno;
    close(fd);
    if (error == ECONNREFUSED || error == ENOENT) {
        return 0;
    }
    return fail(TRK_EIO, "%s is in use: another process listens there", path);
}

/* Binds under the unfinished name and listens. On error nothing is left behind. */
static int listen_unix(int fd, const struct net_address *a)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
    struct sockaddr_un early = *un;
    size_t size = strlen(un->sun_path);
    if (size + 1 >= sizeof(early.sun_path)) {
        return fail(TRK_EINVAL, "%s: the path is too long for a socket", un->sun_path);
    }
    early.sun_path[size] = NET_UNIX_UNFINISHED;
    early.sun_path[size + 1] = '\0';
    int rc = check_unused(a, un->sun_path);
    if (rc != 0) {
        return rc;
    }
    unlink(early.sun_path); /* left by a process that ended right here */
    /* The file gets the socket's own mode: unlike umask this is no other thread's business. */
    if (fchmod(fd, 0600) != 0 || bind(fd, (struct sockaddr *)&early, sizeof(early)) != 0) {
        return fail(TRK_EIO, "cannot bind %s: %s", un->sun_path, strerror(errno));
    }
    if (listen(fd, SOMAXCONN) != 0 || rename(early.sun_path, un->sun_path) != 0) {
        rc = fail(TRK_EIO, "cannot listen on %s: %s", un->sun_path, strerror(errno));
        unlink(early.sun_path);
        return rc;
    }
    return 0;
}

static int listen_tcp(int fd, const struct net_address *a, const char *text, bool is_both)
{
    int one = 1, is_only = !is_both;
    if (a->sa.ss_family == AF_INET6) {
        (void)!setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &is_only, sizeof(is_only));
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        bind(fd, (const struct sockaddr *)&a->sa, a->size) != 0 || listen(fd, SOMAXCONN) != 0) {
        return fail(TRK_EIO, "cannot listen on %s: %s", text, strerror(errno));
    }
    return 0;
}

/* is_both: an IPv6 socket takes IPv4, too. */
static int listen_at(const char *address, bool is_both, char *bound, size_t bound_size)
{
    struct net_address a;
    int rc = net_address_parse(&a, address);
    if (rc != 0) {
        return rc;
    }
    int fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return fail(TRK_EIO, "cannot make a socket: %s", strerror(errno));
    }
    rc = a.sa.ss_family == AF_UNIX ? listen_unix(fd, &a) : listen_tcp(fd, &a, address, is_both);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    net_address_of_socket(fd, bound, bound_size);
    return fd;
}

int net_listen_fd(const char *address, char *bound, size_t bound_size)
{
    static const char all[] = "tcp:*:";
    char text[NET_ADDRESS_TEXT];
    if (strncmp(address, all, strlen(all)) != 0) {
        return listen_at(address, false, bound, bound_size);
    }
    snprintf(text, sizeof(text), "tcp:[::]:%s", address + strlen(all));
    int fd = listen_at(text, true, bound, bound_size);
    if (fd < 0) { /* a machine without IPv6 */
        snprintf(text, sizeof(text), "tcp:0.0.0.0:%s", address + strlen(all));
        fd = listen_at(text, false, bound, bound_size);
    }
    return fd;
}

/* --- accepting -------------------------------------------------------------------------- */

struct net_listener {
    struct net_loop *loop;
    int fd;                             /* borrowed */
    void (*on_accept)(void *user, int fd); /* takes the descriptor */
    void *user;
    uv_poll_t poll;                     /* a connection waits */
    uv_timer_t timer;                   /* the back-off is over */
    unsigned handles_open;              /* freed when the last is closed */
    bool is_closed;                     /* net_listener_close was called */
    struct net_closer closer;
};

/* Errors that belong to the one connection that was to be accepted. */
static bool is_passing(int error)
{
    return error == EINTR || error == ECONNABORTED || error == EPROTO || error == EPERM ||
           error == ENETDOWN || error == ENOPROTOOPT || error == EHOSTDOWN || error == ENONET ||
           error == EHOSTUNREACH || error == ENETUNREACH;
}

static void start_polling(struct net_listener *l);

static void on_backed_off(uv_timer_t *timer) { start_polling(timer->data); }

static void back_off(struct net_listener *l, const char *why)
{
    log_warn("net", "cannot accept connections for now: %s", why);
    uv_poll_stop(&l->poll);
    uv_timer_start(&l->timer, on_backed_off, BACK_OFF_MS, 0);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct net_listener *l = poll->data;
    if (status < 0) {
        back_off(l, uv_strerror(status));
        return;
    }
    for (int i = 0; i < ACCEPTS_PER_TURN && !l->is_closed; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            l->on_accept(l->user, fd);
        } else if (errno == EAGAIN) {
            return;
        } else if (!is_passing(errno)) {
            back_off(l, strerror(errno));
            return;
        }
    }
}

static void start_polling(struct net_listener *l)
{
    int rc = uv_poll_start(&l->poll, UV_READABLE, on_readable);
    if (rc != 0) {
        back_off(l, uv_strerror(rc));
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct net_listener *l = handle->data;
    if (--l->handles_open == 0) {
        mem_free(l);
    }
}

static void close_with_loop(struct net_closer *closer)
{
    net_listener_close(container_of(closer, struct net_listener, closer));
}

int net_listener_start(struct net_loop *loop, int fd, void (*on_accept)(void *user, int fd),
                       void *user, struct net_listener **out)
{
    struct net_listener *l = mem_zalloc(1, sizeof(*l));
    if (l == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    l->loop = loop;
    l->fd = fd;
    l->on_accept = on_accept;
    l->user = user;
    int rc = uv_poll_init(net_loop_uv(loop), &l->poll, fd);
    if (rc != 0) {
        mem_free(l);
        return fail(TRK_EIO, "cannot listen: %s", uv_strerror(rc));
    }
    uv_timer_init(net_loop_uv(loop), &l->timer); /* cannot fail */
    l->poll.data = l;
    l->timer.data = l;
    l->handles_open = 2;
    l->closer.close = close_with_loop;
    net_loop_add_closer(loop, &l->closer);
    start_polling(l);
    *out = l;
    return 0;
}

void net_listener_close(struct net_listener *l)
{
    if (l == NULL || l->is_closed) {
        return;
    }
    l->is_closed = true;
    net_loop_remove_closer(&l->closer);
    uv_close((uv_handle_t *)&l->poll, on_handle_closed);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
}
