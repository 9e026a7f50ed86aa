/* SPDX-License-Identifier: MIT */
/* cache.c - see cache.h.
 *
 * A file gets its name by rename, so under the name is all of it or nothing, whoever is killed
 * when. Nothing is synced: what a power failure leaves is found by its digest, and fetched again.
 * The time of a file is that of its last use. A file that goes while another VM has it open, or
 * runs its pages, stays until that is over. */
#include "vm/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/sys.h"

#define LOOK_MS 10 /* how often somebody who waits looks whether the other one has it */
#define NAME_MAX_BYTES 64
#define PATH_BYTES (HOME_PATH_MAX + NAME_MAX_BYTES)

static void path_of(char path[PATH_BYTES], const char *dir, const struct digest *digest,
                    const char *end)
{
    int n = snprintf(path, PATH_BYTES, "%s/", dir);
    for (size_t i = 0; i < sizeof(digest->bytes); i++) {
        n += snprintf(path + n, PATH_BYTES - (size_t)n, "%02x", digest->bytes[i]);
    }
    snprintf(path + n, PATH_BYTES - (size_t)n, "%s", end);
}

int cache_open(char *dir, size_t size)
{
    int rc = ckpt_cache(dir, size);
    if (rc == 0 && strlen(dir) + sizeof("/blobs") > size) {
        rc = fail(TRK_EINVAL, "the name of the cache directory is too long");
    }
    if (rc == 0) {
        strncat(dir, "/blobs", size - strlen(dir) - 1);
        rc = ckpt_private_dir(dir);
    }
    return rc;
}

/* --- reading ------------------------------------------------------------------------- */

static int write_all(int fd, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        at += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int cache_in_memory(const void *bytes, size_t size)
{
    int fd = memfd_create("trickle-blob", MFD_CLOEXEC);
    if (fd >= 0 && write_all(fd, bytes, size) == 0) {
        return fd;
    }
    int rc = fail(TRK_EIO, "cannot keep %zu bytes in memory: %s", size, strerror(errno));
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static bool is_noexec(int fd)
{
    struct statvfs fs;
    return fstatvfs(fd, &fs) == 0 && (fs.f_flag & ST_NOEXEC) != 0;
}

/* Reads the file through. Its descriptor, or one of a copy; TRK_END: it is not what it should be.
 * fd is taken. */
static int check(int fd, size_t size, const struct digest *digest)
{
    void *bytes = size > 0 ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    int found = TRK_END;
    if (bytes != MAP_FAILED) {
        struct digest sum = hash_digest(size > 0 ? bytes : "", size);
        if (memcmp(sum.bytes, digest->bytes, sizeof(sum.bytes)) == 0) {
            (void)futimens(fd, NULL); /* used; a read-only file system has no memory for that */
            found = is_noexec(fd) ? cache_in_memory(bytes, size) : fd;
        }
        if (size > 0) {
            munmap(bytes, size);
        }
    }
    if (found != fd) {
        close(fd);
    }
    return found < 0 ? TRK_END : found;
}

int cache_find(const char *dir, const struct digest *digest)
{
    char path[PATH_BYTES];
    struct stat st;
    path_of(path, dir, digest, "");
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return TRK_END;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) {
        close(fd);
        return TRK_END;
    }
    fd = check(fd, (size_t)st.st_size, digest);
    if (fd == TRK_END) {
        log_warn("vm", "%s is damaged: it is fetched again", path);
        unlink(path);
    }
    return fd;
}

/* --- writing ------------------------------------------------------------------------- */

/* Is that still the file of this name? Its last owner may have renamed or removed it. */
static bool is_named(int fd, const char *path)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && lstat(path, &there) == 0 && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

int cache_claim(const char *dir, const struct digest *digest)
{
    const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
    uint64_t end_ns = sys_now_ns() + CACHE_CLAIM_MS * UINT64_C(1000000);
    char path[PATH_BYTES];
    path_of(path, dir, digest, ".part");
    while (sys_now_ns() < end_ns) {
        int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
        bool is_ours = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
        bool is_theirs = fd >= 0 && !is_ours && errno == EWOULDBLOCK;
        if (is_ours && is_named(fd, path)) {
            return fd;
        }
        if (!is_ours && !is_theirs) {
            log_info("vm", "blobs are not kept in %s: %s", dir, strerror(errno));
        }
        if (fd >= 0) {
            close(fd);
        }
        if (!is_ours && !is_theirs) {
            return TRK_END;
        }
        nanosleep(&pause, NULL);
    }
    log_info("vm", "another VM has been fetching a blob for %d s: this one fetches it, too",
             CACHE_CLAIM_MS / 1000);
    return TRK_END;
}

void cache_drop(const char *dir, const struct digest *digest, int claim)
{
    char path[PATH_BYTES];
    path_of(path, dir, digest, ".part");
    unlink(path); /* before the lock goes: then it may be another's */
    close(claim);
}

/* All files of it together, and the one that was used least recently. */
static uint64_t sum_up(DIR *dir, char oldest[NAME_MAX_BYTES], unsigned *count)
{
    struct timespec least = {0};
    struct dirent *entry;
    struct stat st;
    uint64_t sum = 0;
    *count = 0;
    rewinddir(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (strlen(entry->d_name) >= NAME_MAX_BYTES ||
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(st.st_mode)) {
            continue;
        }
        sum += (uint64_t)st.st_size;
        if ((*count)++ == 0 || st.st_mtim.tv_sec < least.tv_sec ||
            (st.st_mtim.tv_sec == least.tv_sec && st.st_mtim.tv_nsec < least.tv_nsec)) {
            least = st.st_mtim;
            snprintf(oldest, NAME_MAX_BYTES, "%s", entry->d_name);
        }
    }
    return sum;
}

/* The one used last stays, whatever its size. */
static void trim(const char *path, uint64_t limit)
{
    DIR *dir = opendir(path);
    char oldest[NAME_MAX_BYTES];
    unsigned count;
    if (dir == NULL) {
        return;
    }
    while (sum_up(dir, oldest, &count) > limit && count > 1 &&
           unlinkat(dirfd(dir), oldest, 0) == 0) {
    }
    closedir(dir);
}

int cache_put(const char *dir, const struct digest *digest, int claim, const void *bytes,
              size_t size, uint64_t limit)
{
    char part[PATH_BYTES], path[PATH_BYTES];
    path_of(part, dir, digest, ".part");
    path_of(path, dir, digest, "");
    if (ftruncate(claim, 0) < 0 || write_all(claim, bytes, size) < 0 || rename(part, path) < 0) {
        int rc = fail(errno == ENOSPC || errno == EDQUOT ? TRK_EFULL : TRK_EIO,
                      "cannot keep a blob of %zu bytes in %s: %s", size, dir, strerror(errno));
        cache_drop(dir, digest, claim);
        return rc;
    }
    close(claim);
    trim(dir, limit);
    return 0;
}
