/* SPDX-License-Identifier: MIT */
/* sys.c - clock, random bytes, descriptors and fork, the runtime directory, signal masks.
 *
 * Descriptors and fork: a child of user code's fork() shares our sockets with us. If it kept them
 * open, a connection would not end when we end; if it used them, it would speak into our
 * sessions. So the registered ones are closed in the child, by a handler that does nothing but
 * what is safe there: the registry is a bitmap of atomics, needs no lock (another thread may have
 * held it at the moment of the fork) and no memory. */
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "trickle/error.h"

#define FDS_MAX 65536
#define FDS_PER_WORD 64

static atomic_uint_least64_t fd_words[FDS_MAX / FDS_PER_WORD];
static atomic_bool is_forked;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_error; /* of pthread_atfork; written once under fork_once */

uint64_t sys_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int sys_random(void *bytes, size_t size)
{
    uint8_t *at = bytes;

    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return TRK_EIO;
        }
        at += got;
        size -= (size_t)got;
    }
    return 0;
}

/* Runs in the child, before fork() returns there. */
static void after_fork(void)
{
    int errno_before = errno;

    atomic_store(&is_forked, true);
    for (int i = 0; i < FDS_MAX / FDS_PER_WORD; i++) {
        uint64_t word = atomic_exchange(&fd_words[i], 0);

        while (word != 0) {
            close(i * FDS_PER_WORD + __builtin_ctzll(word));
            word &= word - 1; /* without its lowest bit */
        }
    }
    errno = errno_before;
}

static void install_fork_handler(void)
{
    fork_error = pthread_atfork(NULL, NULL, after_fork);
}

int sys_fd_add(int fd)
{
    int flags;

    if (sys_is_forked()) {
        return TRK_EFORKED;
    }
    if (fd < 0) {
        return TRK_EINVAL;
    }
    if (fd >= FDS_MAX) {
        return TRK_EFULL;
    }
    flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0) {
        return TRK_EIO;
    }
    pthread_once(&fork_once, install_fork_handler);
    if (fork_error != 0) {
        return TRK_ENOMEM;
    }
    atomic_fetch_or(&fd_words[fd / FDS_PER_WORD], UINT64_C(1) << fd % FDS_PER_WORD);
    return 0;
}

void sys_fd_remove(int fd)
{
    if (fd >= 0 && fd < FDS_MAX) {
        atomic_fetch_and(&fd_words[fd / FDS_PER_WORD], ~(UINT64_C(1) << fd % FDS_PER_WORD));
    }
}

bool sys_is_forked(void)
{
    return atomic_load_explicit(&is_forked, memory_order_relaxed);
}

/* The directory's name into path: absolute (others get it as part of an address, and have another
 * working directory) and without a slash at its end (which would hide that it is a link). */
static int runtime_name(const char *override, char *path, size_t path_size)
{
    const char *name = override != NULL ? override : getenv("TRICKLE_RUNTIME");
    char here[4096];
    int size;

    if (name == NULL || name[0] == '\0') {
        size = snprintf(path, path_size, "/tmp/trickle-%u", (unsigned)geteuid());
    } else if (name[0] == '/') {
        size = snprintf(path, path_size, "%s", name);
    } else if (getcwd(here, sizeof(here)) != NULL) {
        size = snprintf(path, path_size, "%s/%s", here, name);
    } else {
        return TRK_EIO;
    }
    if (size < 0 || (size_t)size >= path_size) {
        return TRK_EINVAL;
    }
    while (size > 1 && path[size - 1] == '/') {
        path[--size] = '\0';
    }
    return 0;
}

TRK_PRINTF(4, 5)
static int refuse(int error, char *why, size_t why_size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, why_size, format, args);
    va_end(args);
    return error;
}

int sys_runtime_dir(const char *override, char *path, size_t path_size, char *why,
                    size_t why_size)
{
    struct stat st;
    int rc = runtime_name(override, path, path_size);

    if (rc == TRK_EINVAL) {
        return refuse(rc, why, why_size,
                      "the name of the runtime directory is too long (at most %zu bytes)",
                      path_size - 1);
    }
    if (rc < 0) {
        return refuse(rc, why, why_size, "the working directory has no name: %s",
                      strerror(errno));
    }
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        return refuse(TRK_EIO, why, why_size, "cannot make the runtime directory %s: %s", path,
                      strerror(errno));
    }
    if (lstat(path, &st) < 0) {
        return refuse(TRK_EIO, why, why_size, "cannot look at the runtime directory %s: %s", path,
                      strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        return refuse(TRK_EDENIED, why, why_size,
                      "the runtime directory %s is a %s; remove it or set TRICKLE_RUNTIME", path,
                      S_ISLNK(st.st_mode) ? "symbolic link" : "file");
    }
    if (st.st_uid != geteuid()) {
        return refuse(TRK_EDENIED, why, why_size,
                      "the runtime directory %s belongs to user %u, not to you; set "
                      "TRICKLE_RUNTIME to one of yours",
                      path, (unsigned)st.st_uid);
    }
    if ((st.st_mode & 077) != 0) {
        return refuse(TRK_EDENIED, why, why_size,
                      "the runtime directory %s is open to others (mode %04o); chmod 700 it", path,
                      (unsigned)st.st_mode & 07777);
    }
    return 0;
}

void sys_host_name(char *text, size_t size)
{
    char name[256];

    if (gethostname(name, sizeof(name)) < 0) {
        name[0] = '\0';
    }
    name[sizeof(name) - 1] = '\0'; /* a cut name need not be terminated */
    snprintf(text, size, "%s", name[0] != '\0' ? name : "localhost");
}

int sys_block_signals(void *old_sigset)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t all;

    sigfillset(&all);
    /* A thread's own faults cannot be put off; blocked, they would only skip the handler that
     * tells what happened (a sanitizer's, Python's faulthandler). */
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        sigdelset(&all, faults[i]);
    }
    return pthread_sigmask(SIG_SETMASK, &all, old_sigset) == 0 ? 0 : TRK_EIO;
}

void sys_restore_signals(const void *old_sigset)
{
    pthread_sigmask(SIG_SETMASK, old_sigset, NULL);
}
