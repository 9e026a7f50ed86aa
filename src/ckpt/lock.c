/* SPDX-License-Identifier: MIT */
/* lock.c - see lock.h. */
#include "ckpt/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/sys.h"

static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct list held = {&held, &held};

static void lock_path(char *path, size_t size, const char *dir)
{
    snprintf(path, size, "%s/job.lock", dir);
}

/* Whether this process holds it; held_mutex is locked. Opens nothing. */
static bool is_ours(const struct stat *st)
{
    struct list *pos;

    list_for_each(pos, &held) {
        struct ckpt_lock *lock = container_of(pos, struct ckpt_lock, node);
        if (lock->dev == st->st_dev && lock->ino == st->st_ino) {
            return true;
        }
    }
    return false;
}

static void read_line(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");

    text[0] = '\0';
    if (file != NULL) {
        if (fgets(text, (int)size, file) == NULL) {
            text[0] = '\0';
        }
        text[strcspn(text, "\n")] = '\0';
        fclose(file);
    }
}

/* When this process began, in ticks since boot: field 22, counted behind the name's last ")". */
static uint64_t own_start(void)
{
    char line[1024];
    const char *at;

    read_line("/proc/self/stat", line, sizeof(line));
    at = strrchr(line, ')');
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at != NULL ? strtoull(at, NULL, 10) : 0;
}

static int describe_self(int fd)
{
    char text[600], boot[40], host[256], since[40];
    time_t now = time(NULL);
    struct tm tm;
    int size;

    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    sys_host_name(host, sizeof(host));
    localtime_r(&now, &tm);
    strftime(since, sizeof(since), "%Y-%m-%d %H:%M:%S", &tm);
    size = snprintf(text, sizeof(text), "%ld\n%llu\n%s\n%s\n%s\n", (long)getpid(),
                    (unsigned long long)own_start(), boot, host, since);
    return ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)size, 0) == size ? 0 : TRK_EIO;
}

static void take_line(char **at, char *out, size_t size)
{
    size_t length = strcspn(*at, "\n");

    snprintf(out, size, "%.*s", (int)length, *at);
    *at += length + ((*at)[length] != '\0');
}

static void read_holder(int fd, struct ckpt_holder *holder)
{
    char text[1024], number[32];
    char *at = text;
    ssize_t size = pread(fd, text, sizeof(text) - 1, 0);

    text[size > 0 ? size : 0] = '\0';
    take_line(&at, number, sizeof(number));
    holder->pid = (pid_t)strtol(number, NULL, 10);
    take_line(&at, number, sizeof(number));
    holder->started = strtoull(number, NULL, 10);
    take_line(&at, holder->boot, sizeof(holder->boot));
    take_line(&at, holder->host, sizeof(holder->host));
    take_line(&at, holder->since, sizeof(holder->since));
}

static int refuse(const char *dir, const struct ckpt_holder *h)
{
    const char *name = strrchr(dir, '/');

    name = name != NULL && name[1] != '\0' ? name + 1 : dir;
    return fail(TRK_EDENIED, "the job %s is run by process %ld%s%s since %s: wait for it, or end "
                "that process", name, (long)h->pid, h->host[0] != '\0' ? " on " : "", h->host,
                h->since[0] != '\0' ? h->since : "an unknown time");
}

static int take(struct ckpt_lock *lock, const char *dir, const char *path)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct ckpt_holder holder = {0};
    struct stat st;
    int fd;

    if (stat(path, &st) == 0 && is_ours(&st)) {
        return fail(TRK_EDENIED, "the job in %s is open in this process already", dir);
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int code = errno;
        if (fd >= 0) {
            close(fd);
        }
        return fail(TRK_EIO, "cannot open %s: %s", path, strerror(code));
    }
    if (fcntl(fd, F_SETLK, &range) < 0) {
        int code = errno;
        read_holder(fd, &holder);
        close(fd);
        return code == EACCES || code == EAGAIN
                   ? refuse(dir, &holder)
                   : fail(TRK_EIO, "cannot lock %s: %s", path, strerror(code));
    }
    if (describe_self(fd) < 0) {
        /* Only people miss it; a full disk must not keep a job from being opened. */
        errno = 0;
    }
    if (sys_fd_add(fd) < 0) {
        close(fd);
        return fail(TRK_EIO, "too many open files");
    }
    lock->fd = fd;
    lock->dev = st.st_dev;
    lock->ino = st.st_ino;
    list_push_back(&held, &lock->node);
    return 0;
}

int ckpt_lock_take(struct ckpt_lock *lock, const char *dir)
{
    char path[4200];
    int rc;

    lock->fd = -1;
    lock_path(path, sizeof(path), dir);
    pthread_mutex_lock(&held_mutex);
    rc = take(lock, dir, path);
    pthread_mutex_unlock(&held_mutex);
    return rc;
}

void ckpt_lock_give(struct ckpt_lock *lock)
{
    if (lock->fd < 0) {
        return;
    }
    pthread_mutex_lock(&held_mutex);
    list_remove(&lock->node);
    sys_fd_remove(lock->fd);
    close(lock->fd);
    lock->fd = -1;
    pthread_mutex_unlock(&held_mutex);
}

int ckpt_lock_holder(const char *dir, struct ckpt_holder *holder)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[4200];
    struct stat st;
    int fd, rc = 0;

    memset(holder, 0, sizeof(*holder));
    lock_path(path, sizeof(path), dir);
    pthread_mutex_lock(&held_mutex);
    if (stat(path, &st) < 0) {
        rc = errno == ENOENT ? 0 : TRK_EIO;
    } else if (is_ours(&st)) {
        holder->pid = getpid();
    } else if ((fd = open(path, O_RDWR | O_CLOEXEC)) < 0) {
        rc = TRK_EIO;
    } else {
        if (fcntl(fd, F_GETLK, &range) < 0) {
            rc = TRK_EIO;
        } else if (range.l_type != F_UNLCK) {
            read_holder(fd, holder);
            /* The kernel knows better, unless the holder is in another name space (0). */
            holder->pid = range.l_pid > 0 ? range.l_pid : holder->pid;
        }
        close(fd);
    }
    pthread_mutex_unlock(&held_mutex);
    return rc;
}
