/* SPDX-License-Identifier: MIT */
/* shim.c - a library to preload that ends its process with SIGKILL at a chosen instant: after the
 * n-th write to a store, in the middle of it, after the n-th sync, or after the n-th frame sent.
 *
 *   TRICKLE_CRASH=write:7 | torn:7 | sync:3 | frame:20      0: never
 *   TRICKLE_CRASH_COUNT=FILE       at an orderly end the counts are written there, one a line
 *
 * What counts as a store's is a file called data.mdb. The helper that checks stores is left
 * alone. */
#include "chaos/live/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum what { WRITE, TORN, SYNC, FRAME, WHATS };

static const char *const names[WHATS] = {"write", "torn", "sync", "frame"};
static atomic_ulong counts[WHATS];
static unsigned long fatal[WHATS];
static bool is_on;

__attribute__((constructor)) static void begin(void)
{
    const char *plan = getenv("TRICKLE_CRASH");

    is_on = plan != NULL && strcmp(program_invocation_short_name, "trickle-fsck") != 0;
    for (int i = 0; is_on && i < WHATS; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(plan, names[i], n) == 0 && plan[n] == ':') {
            fatal[i] = strtoul(plan + n + 1, NULL, 10);
        }
    }
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("TRICKLE_CRASH_COUNT");
    FILE *f = is_on && path != NULL ? fopen(path, "w") : NULL;

    if (f != NULL) {
        for (int i = 0; i < WHATS; i++) {
            fprintf(f, "%s %lu\n", names[i], atomic_load(&counts[i]));
        }
        fclose(f);
    }
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) {
        pause();
    }
}

/* Is this the instant? */
static bool count(enum what what)
{
    return atomic_fetch_add(&counts[what], 1) + 1 == fatal[what];
}

static bool is_store(int fd)
{
    char path[4096];
    size_t n = is_on ? preload_path(fd, path, sizeof(path)) : 0;

    return n > 9 && memcmp(path + n - 9, "/data.mdb", 9) == 0;
}

static bool is_socket(int fd)
{
    struct stat st;

    return is_on && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t)
    bool is_ours = is_store(fd);
    ssize_t n;

    if (is_ours && count(TORN)) {
        (void)!next(fd, bytes, size / 2, at);
        die();
    }
    n = next(fd, bytes, size, at);
    if (is_ours && count(WRITE)) {
        die();
    }
    return n;
}
ALSO_64(pwrite);

ssize_t writev(int fd, const struct iovec *parts, int parts_count)
{
    NEXT(ssize_t, "writev", int, const struct iovec *, int)
    bool is_ours = is_store(fd);
    ssize_t n;

    if (is_ours && count(TORN)) { /* the first half of the parts */
        (void)!next(fd, parts, parts_count > 1 ? parts_count / 2 : 1);
        die();
    }
    n = next(fd, parts, parts_count);
    if (is_ours && count(WRITE)) {
        die();
    }
    return n;
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int)
    bool is_ours = is_store(fd);
    int rc = next(fd);

    if (is_ours && count(SYNC)) {
        die();
    }
    return rc;
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    NEXT(ssize_t, "sendmsg", int, const struct msghdr *, int)
    ssize_t n = next(fd, msg, flags);

    if (n > 0 && is_socket(fd) && count(FRAME)) {
        die();
    }
    return n;
}
