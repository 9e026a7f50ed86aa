/* SPDX-License-Identifier: MIT */
/* shim.c - a library to preload that makes a process's disk and clock fail, while it runs.
 *
 *   CHAOS_SHIM=FILE      what is wrong just now: a struct control, shared with whoever makes the
 *                        faults (shim.py has the same layout)
 *   TRICKLE_HOME=DIR     the disk: files below it
 *
 * Disk: writes that find no room or fail, syncs that fail or take long, reads that fail. A failed
 * sync has also lost what was written since the one before: the kernel drops such pages. Here,
 * while syncs fail, writes are forgotten, too, if asked for; the next sync then fails in any case.
 * Stores are read through a map, where a bad sector is a signal: here the pages become unreadable,
 * and whoever looks at them dies of it. That changes at the next write or sync, the moments at
 * which this library is asked.
 *
 * Clock: what tells the time of day is off by so much; what tells how time passes is not, as when
 * somebody sets the clock. For all processes with this control, or for one of them.
 *
 * Each fault that has struck is counted there. */
#include "chaos/live/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#define MAGIC 0x43484153u
#define STORES_MAX 8
#define NS 1000000000

struct control {
    _Atomic int64_t clock_ns;        /* the clock is off by so much */
    _Atomic uint32_t magic;
    _Atomic uint32_t clock_pid;      /* whose clock; 0: everybody's */
    _Atomic uint32_t is_full;        /* bool: there is no room */
    _Atomic uint32_t sync_us;        /* so much longer takes each sync */
    _Atomic uint32_t write_us;       /* and each write */
    _Atomic uint32_t syncs_fail;     /* so many; UINT32_MAX: all */
    _Atomic uint32_t writes_fail;
    _Atomic uint32_t reads_fail;
    _Atomic uint32_t read_pid;       /* whose reads fail and maps are unreadable; 0: everybody's */
    _Atomic uint32_t writes_vanish;  /* bool: while syncs fail */
    _Atomic uint32_t is_unreadable;  /* bool: maps of stores */
    _Atomic uint32_t hits_full, hits_slow, hits_sync, hits_write, hits_read, hits_map;
    _Atomic uint32_t hits_clock;     /* wrong times that were told */
};

static struct control *control;
static char home[4096]; /* with a final slash */
static size_t home_size;
static atomic_bool has_lost; /* writes that vanished: the next sync has to tell */

/* Maps of stores in this process: read-only and shared ones of files called data.mdb. */
static struct map {
    _Atomic(uintptr_t) at;
    size_t size;
    atomic_bool is_shut;
} maps[STORES_MAX];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_SHIM"), *place = getenv("TRICKLE_HOME");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct stat st;
    void *at = MAP_FAILED;

    if (fd >= 0 && fstat(fd, &st) == 0 && (size_t)st.st_size >= sizeof(*control)) {
        at = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (at == MAP_FAILED || ((struct control *)at)->magic != MAGIC) {
        return;
    }
    if (place != NULL && realpath(place, home) != NULL && strlen(home) + 2 < sizeof(home)) {
        home_size = strlen(home);
        home[home_size++] = '/';
    } else if (place != NULL && strlen(place) + 2 < sizeof(home)) { /* is not there yet */
        home_size = strlen(place);
        memcpy(home, place, home_size);
        home[home_size++] = '/';
    }
    control = at;
}

/* Is it a file on the bad disk? */
static bool is_ours(int fd)
{
    char path[4096];
    size_t n = control != NULL && home_size > 0 ? preload_path(fd, path, sizeof(path)) : 0;

    return n > home_size && memcmp(path, home, home_size) == 0;
}

/* Takes one from a number of failures. */
static bool takes_one(_Atomic uint32_t *left)
{
    uint32_t n = atomic_load(left);

    while (n != 0 && n != UINT32_MAX && !atomic_compare_exchange_weak(left, &n, n - 1)) {
    }
    return n != 0;
}

/* Is it this process that a fault is for? */
static bool is_meant(_Atomic uint32_t *pid)
{
    uint32_t whom = atomic_load(pid);

    return whom == 0 || whom == (uint32_t)getpid();
}

static void hit(_Atomic uint32_t *count)
{
    atomic_fetch_add(count, 1);
}

static void delay(uint32_t us)
{
    struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};

    if (us != 0) {
        hit(&control->hits_slow);
        nanosleep(&t, NULL);
    }
}

/* --- reads through maps ----------------------------------------------------------------------- */

static bool is_store(int fd)
{
    char path[4096];
    size_t n = preload_path(fd, path, sizeof(path));

    return n > home_size + 9 && memcmp(path + n - 9, "/data.mdb", 9) == 0;
}

/* Makes maps unreadable, or readable again, as the control says now. The first pages stay: LMDB
 * reads them before each transaction, and not every reader would get any further. */
static void shut_maps(void)
{
    bool is_shut = atomic_load(&control->is_unreadable) != 0 && is_meant(&control->read_pid);

    for (int i = 0; i < STORES_MAX; i++) {
        uintptr_t at = atomic_load(&maps[i].at);
        size_t kept = 2 * (size_t)sysconf(_SC_PAGESIZE);
        if (at != 0 && maps[i].size > kept &&
            atomic_exchange(&maps[i].is_shut, is_shut) != is_shut) {
            mprotect((char *)at + kept, maps[i].size - kept, is_shut ? PROT_NONE : PROT_READ);
            if (is_shut) {
                hit(&control->hits_map);
            }
        }
    }
}

void *mmap(void *where, size_t size, int may, int flags, int fd, off_t offset)
{
    NEXT(void *, "mmap", void *, size_t, int, int, int, off_t)
    void *at = next(where, size, may, flags, fd, offset);

    if (at == MAP_FAILED || fd < 0 || (may & PROT_WRITE) || !is_ours(fd) || !is_store(fd)) {
        return at;
    }
    for (int i = 0; i < STORES_MAX; i++) {
        uintptr_t none = 0;
        if (atomic_compare_exchange_strong(&maps[i].at, &none, (uintptr_t)at)) {
            maps[i].size = size;
            atomic_store(&maps[i].is_shut, false);
            shut_maps();
            break;
        }
    }
    return at;
}
ALSO_64(mmap);

int munmap(void *at, size_t size)
{
    NEXT(int, "munmap", void *, size_t)

    for (int i = 0; i < STORES_MAX; i++) {
        uintptr_t own = (uintptr_t)at;
        atomic_compare_exchange_strong(&maps[i].at, &own, 0);
    }
    return next(at, size);
}

/* --- writes, syncs, reads --------------------------------------------------------------------- */

/* What becomes of a write: 0 it happens, 1 it vanishes, else -1 with errno. */
static int write_fate(int fd)
{
    if (!is_ours(fd)) {
        return 0;
    }
    shut_maps();
    delay(atomic_load(&control->write_us));
    if (atomic_load(&control->is_full)) {
        hit(&control->hits_full);
        errno = ENOSPC;
        return -1;
    }
    if (takes_one(&control->writes_fail)) {
        hit(&control->hits_write);
        errno = EIO;
        return -1;
    }
    if (atomic_load(&control->writes_vanish) == 0 || atomic_load(&control->syncs_fail) == 0) {
        return 0;
    }
    if (fcntl(fd, F_GETFL) & O_DSYNC) { /* it is a sync, too */
        hit(&control->hits_sync);
        errno = EIO;
        return -1;
    }
    atomic_store(&has_lost, true);
    return 1;
}

static ssize_t vector_size(const struct iovec *parts, int count)
{
    ssize_t size = 0;

    for (int i = 0; i < count; i++) {
        size += (ssize_t)parts[i].iov_len;
    }
    return size;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t)
    int fate = write_fate(fd);

    return fate == 0 ? next(fd, bytes, size, at) : fate < 0 ? -1 : (ssize_t)size;
}
ALSO_64(pwrite);

ssize_t write(int fd, const void *bytes, size_t size)
{
    NEXT(ssize_t, "write", int, const void *, size_t)

    return write_fate(fd) < 0 ? -1 : next(fd, bytes, size);
}

/* LMDB seeks and writes, so a write that vanishes has to move on, too. */
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(ssize_t, "writev", int, const struct iovec *, int)
    int fate = write_fate(fd);
    ssize_t size = vector_size(parts, count);

    if (fate == 0) {
        return next(fd, parts, count);
    }
    return fate < 0 || lseek(fd, size, SEEK_CUR) < 0 ? -1 : size;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    NEXT(ssize_t, "pwritev", int, const struct iovec *, int, off_t)
    int fate = write_fate(fd);

    return fate == 0 ? next(fd, parts, count, at) : fate < 0 ? -1 : vector_size(parts, count);
}
ALSO_64(pwritev);

/* A sync: true when it fails, with errno. */
static bool sync_fails(int fd)
{
    if (!is_ours(fd)) {
        return false;
    }
    shut_maps();
    delay(atomic_load(&control->sync_us));
    if (takes_one(&control->syncs_fail) | atomic_exchange(&has_lost, false)) {
        hit(&control->hits_sync);
        errno = EIO;
        return true;
    }
    return false;
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int)

    return sync_fails(fd) ? -1 : next(fd);
}

int fsync(int fd)
{
    NEXT(int, "fsync", int)

    return sync_fails(fd) ? -1 : next(fd);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t at)
{
    NEXT(ssize_t, "pread", int, void *, size_t, off_t)

    if (is_ours(fd) && is_meant(&control->read_pid) && takes_one(&control->reads_fail)) {
        hit(&control->hits_read);
        errno = EIO;
        return -1;
    }
    return next(fd, bytes, size, at);
}
ALSO_64(pread);

/* --- the clock -------------------------------------------------------------------------------- */

static int64_t offset_ns(void)
{
    int64_t ns = control != NULL ? atomic_load(&control->clock_ns) : 0;

    return ns != 0 && is_meant(&control->clock_pid) ? ns : 0;
}

static void shift(struct timespec *t, int64_t ns)
{
    int64_t all = (int64_t)t->tv_sec * NS + t->tv_nsec + ns;

    all = all > 0 ? all : 0; /* there is no time before 1970 */
    t->tv_sec = all / NS;
    t->tv_nsec = all % NS;
}

int clock_gettime(clockid_t which, struct timespec *t)
{
    NEXT(int, "clock_gettime", clockid_t, struct timespec *)
    int rc = next(which, t);
    int64_t ns = which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE ? offset_ns() : 0;

    if (rc == 0 && ns != 0) {
        shift(t, ns);
        hit(&control->hits_clock);
    }
    return rc;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    int rc = clock_gettime(CLOCK_REALTIME, &now);

    if (rc == 0) {
        t->tv_sec = now.tv_sec;
        t->tv_usec = now.tv_nsec / 1000;
    }
    return rc;
}

time_t time(time_t *t)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (t != NULL) {
        *t = now.tv_sec;
    }
    return now.tv_sec;
}

int timespec_get(struct timespec *t, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, t) == 0 ? base : 0;
}

/* Waits until a time of day: the kernel knows only the right one. */
int sem_timedwait(sem_t *restrict s, const struct timespec *restrict until)
{
    NEXT(int, "sem_timedwait", sem_t *, const struct timespec *)
    struct timespec at = *until;

    shift(&at, -offset_ns());
    return next(s, &at);
}
