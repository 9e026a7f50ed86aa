/* SPDX-License-Identifier: MIT */
/* local.c - finding supervisors of the same user on this machine: sockets "s-*.sock" in the
 * private runtime directory.
 *
 * A socket has its name only once it listens (net/listen.c), so a refused connection means that
 * its supervisor has died without clearing up; the file is then removed, if it is ours. Connecting
 * to a unix socket never blocks here: a full backlog is an answer at once, too.
 *
 * inotify tells of supervisors that come later (their socket is renamed, not created). Where
 * the user has no inotify instance left, only ask() finds them. */
#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "discovery/discovery_impl.h"

#define SOCKET_SUFFIX ".sock"

struct local {
    struct trk_discovery_sink sink;
    int inotify_fd; /* -1: none to be had */
    int watch;      /* of the directory; -1: none */
    char dir[108];  /* sizeof sun_path: a longer one could hold no socket */
};

static bool is_supervisor(const char *name)
{
    size_t size = strlen(name), prefix = strlen(DISCOVERY_LOCAL_PREFIX);
    size_t suffix = strlen(SOCKET_SUFFIX);
    return size > prefix + suffix && memcmp(name, DISCOVERY_LOCAL_PREFIX, prefix) == 0 &&
           memcmp(name + size - suffix, SOCKET_SUFFIX, suffix) == 0;
}

/* 0: someone listens. Else what connect says. */
static int probe(const struct sockaddr_un *name)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    int error = connect(fd, (const struct sockaddr *)name, sizeof(*name)) == 0 ? 0 : errno;
    close(fd);
    return error == EAGAIN ? 0 : error;
}

/* "unix:DIR/NAME" into address; false when it is too long for a socket. */
static bool make_address(const struct local *l, const char *name, char *address, size_t size)
{
    int n = snprintf(address, size, "unix:%s/%s", l->dir, name);
    return n > 0 && (size_t)n < size && (size_t)n - 5 < sizeof(((struct sockaddr_un *)0)->sun_path);
}

static void look_at(struct local *l, const char *name)
{
    char address[128];
    if (!is_supervisor(name) || !make_address(l, name, address, sizeof(address))) {
        return;
    }
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    const char *path = address + 5;
    memcpy(un.sun_path, path, strlen(path) + 1);
    int error = probe(&un);
    struct stat st;
    if (error == 0) {
        l->sink.found(l->sink.ctx, address);
    } else if (error == ECONNREFUSED && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) &&
               st.st_uid == geteuid() && unlink(path) == 0) {
        log_info("discovery", "removed %s, which a dead supervisor left", path);
    } else {
        log_debug("discovery", "%s: %s", path, strerror(error));
    }
}

static void watch_dir(struct local *l)
{
    if (l->inotify_fd >= 0 && l->watch < 0) {
        l->watch = inotify_add_watch(l->inotify_fd, l->dir,
                                     IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_ONLYDIR);
    }
}

static void local_close(void *state)
{
    struct local *l = state;
    if (l->inotify_fd >= 0) {
        sys_fd_remove(l->inotify_fd);
        close(l->inotify_fd);
    }
    mem_free(l);
}

static int local_open(const struct trk_discovery_config *config,
                      const struct trk_discovery_sink *sink, void **state)
{
    const char *dir = config->runtime_dir;
    if (dir == NULL || strlen(dir) >= sizeof(((struct local *)0)->dir)) {
        return fail(TRK_EINVAL, "the runtime directory's name is too long for sockets in it");
    }
    struct local *l = mem_zalloc(1, sizeof(*l));
    if (l == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    l->sink = *sink;
    l->watch = -1;
    memcpy(l->dir, dir, strlen(dir) + 1);
    l->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (l->inotify_fd >= 0 && sys_fd_add(l->inotify_fd) != 0) {
        close(l->inotify_fd);
        l->inotify_fd = -1;
    }
    watch_dir(l);
    if (l->watch < 0) {
        log_info("discovery", "%s is not watched: %s", l->dir, strerror(errno));
    }
    *state = l;
    return 0;
}

static int local_ask(void *state)
{
    struct local *l = state;
    watch_dir(l); /* the directory may have been made meanwhile, or anew */
    DIR *dir = opendir(l->dir);
    if (dir == NULL) {
        /* No directory: no supervisors. */
        return errno == ENOENT ? 0 : fail(TRK_EIO, "%s: %s", l->dir, strerror(errno));
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        look_at(l, entry->d_name);
    }
    closedir(dir);
    return 0;
}

static int local_fd(void *state)
{
    const struct local *l = state;
    return l->inotify_fd;
}

static void take_event(struct local *l, const struct inotify_event *event)
{
    if ((event->mask & IN_Q_OVERFLOW) != 0) {
        (void)!local_ask(l); /* events were lost */
    } else if ((event->mask & IN_IGNORED) != 0) {
        l->watch = -1; /* the directory itself has gone */
    } else if (event->len == 0) {
        return;
    } else if ((event->mask & IN_MOVED_TO) != 0) {
        look_at(l, event->name);
    } else if ((event->mask & (IN_DELETE | IN_MOVED_FROM)) != 0 && is_supervisor(event->name)) {
        char address[128];
        if (l->sink.gone != NULL && make_address(l, event->name, address, sizeof(address))) {
            l->sink.gone(l->sink.ctx, address);
        }
    }
}

static void local_process(void *state)
{
    struct local *l = state;
    _Alignas(struct inotify_event) char bytes[4096];
    ssize_t n;
    while (l->inotify_fd >= 0 && (n = read(l->inotify_fd, bytes, sizeof(bytes))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *event = (const struct inotify_event *)(bytes + at);
            take_event(l, event);
            at += (ssize_t)(sizeof(*event) + event->len);
        }
    }
}

const struct trk_discovery_module discovery_local = {
    .abi = TRK_DISCOVERY_ABI,
    .size = sizeof(struct trk_discovery_module),
    .name = "local",
    .is_immediate = true,
    .open = local_open,
    .ask = local_ask,
    .fd = local_fd,
    .process = local_process,
    .close = local_close,
};
