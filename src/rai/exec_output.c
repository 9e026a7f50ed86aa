/* SPDX-License-Identifier: MIT */
/* exec_output.c - an output under a temporary name, and into place.
 *
 *   frames/0007.png                          where it is to be
 *   frames/.trickle-0007.png-0/              the first run's own, locked by it
 *   frames/.trickle-0007.png-0/0007.png      what the command writes
 *   frames/.trickle-0007.png-1/              of a second run at the same time
 *
 * A run takes the first directory that nobody has: it is not there, or the lock on it is free and
 * what is in it was left by a run that died (the kernel frees the lock of a dead process). So the
 * name tells where to look, no list of a directory of a million files is needed, and nothing of a
 * run that lives is touched. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/hash.h"
#include "base/mem.h"
#include "rai/exec_impl.h"

#define RUNS_MAX 16       /* of one output at a time (and left by the dead, without locks) */
#define TRIES_MAX 8       /* at one directory that others make and remove */
#define DEPTH_MAX 64      /* of directories in a temporary one, to be removed */
#define DIR_FORMAT ".trickle-%s-%u"
#define DIR_EXTRA 16      /* bytes of that beside the name */
#define NAME_BYTES_MAX 255

#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

/* --- removing ------------------------------------------------------------------------------ */

/* All that is in a directory; links are not followed. Takes fd over. */
static void clear(int fd, unsigned depth)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;
    if (dir == NULL) {
        close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || unlinkat(fd, name, 0) == 0) {
            continue;
        }
        int inner = depth > 0 ? openat(fd, name, OPEN_DIR | O_NOFOLLOW) : -1;
        if (inner >= 0) {
            clear(inner, depth - 1);
            (void)unlinkat(fd, name, AT_REMOVEDIR);
        }
    }
    closedir(dir);
}

static void clear_dir(int dir_fd)
{
    int fd = openat(dir_fd, ".", OPEN_DIR);
    if (fd >= 0) {
        clear(fd, DEPTH_MAX);
    }
}

/* --- the temporary directory ----------------------------------------------------------------- */

/* Is it still what has this name, and made by this user? (What is new is, whatever a file server
 * makes of root.) */
static bool is_same(int parent_fd, const char *name, int fd, bool is_new)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && fstatat(parent_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           here.st_dev == there.st_dev && here.st_ino == there.st_ino &&
           (is_new || here.st_uid == geteuid());
}

/* Opens and locks a directory that is there. Its descriptor; -1: it is somebody's, or has gone
 * (errno ENOENT). is_new: we have made it, so it is ours where locks do not work. */
static int claim(int parent_fd, const char *name, bool is_new)
{
    int fd = openat(parent_fd, name, OPEN_DIR | O_NOFOLLOW);
    if (fd < 0) {
        return -1;
    }
    bool is_locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
    bool is_ours = is_locked || (is_new && errno != EWOULDBLOCK);
    if (is_ours && is_same(parent_fd, name, fd, is_new)) {
        return fd;
    }
    close(fd);
    errno = is_locked ? ENOENT : EWOULDBLOCK; /* removed by the one who had it before */
    return -1;
}

/* Removes what a run that is no more has left under the next numbers. */
static void sweep(int parent_fd, char *name, size_t size, const char *base, unsigned number)
{
    for (unsigned n = number + 1; n < RUNS_MAX; n++) {
        snprintf(name, size, DIR_FORMAT, base, n);
        int fd = claim(parent_fd, name, false);
        if (fd < 0 && errno == ENOENT) {
            return;
        }
        if (fd >= 0) {
            clear_dir(fd);
            (void)unlinkat(parent_fd, name, AT_REMOVEDIR);
            close(fd);
        }
    }
}

/* The part of the directory's name that says whose it is. */
static void name_base(char *out, size_t size, const char *base)
{
    if (strlen(base) + DIR_EXTRA <= NAME_BYTES_MAX) {
        snprintf(out, size, "%s", base);
        return;
    }
    struct digest digest = hash_digest(base, strlen(base));
    for (size_t i = 0; i < sizeof(digest.bytes); i++) {
        snprintf(out + 2 * i, 3, "%02x", digest.bytes[i]);
    }
}

/* Makes or takes over the one with this number. 0: dir_fd is set; 1: it is somebody's; TRK_EIO. */
static int try_number(struct exec_output *o, const char *name)
{
    for (int i = 0; i < TRIES_MAX; i++) {
        bool is_new = mkdirat(o->parent_fd, name, 0777) == 0;
        if (!is_new && errno != EEXIST) {
            return fail(TRK_EIO, "cannot make a directory for the output %.300s: %s", o->target,
                        strerror(errno));
        }
        o->dir_fd = claim(o->parent_fd, name, is_new);
        if (o->dir_fd >= 0) {
            if (!is_new) {
                clear_dir(o->dir_fd);
            }
            return 0;
        }
        if (errno == EMFILE || errno == ENFILE) {
            return fail(TRK_EIO, "cannot open a directory for the output %.300s: %s", o->target,
                        strerror(errno));
        }
        if (errno != ENOENT) {
            return 1;
        }
    }
    return 1;
}

static int make_dir(struct exec_output *o)
{
    char base[NAME_BYTES_MAX + 1], name[NAME_BYTES_MAX + DIR_EXTRA + 1];
    name_base(base, sizeof(base), o->base);
    for (unsigned n = 0; n < RUNS_MAX; n++) {
        snprintf(name, sizeof(name), DIR_FORMAT, base, n);
        int rc = try_number(o, name);
        if (rc < 0) {
            return rc;
        }
        if (rc == 0) {
            o->dir = mem_strdup(name);
            sweep(o->parent_fd, name, sizeof(name), base, n);
            return o->dir != NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
        }
    }
    return fail(TRK_EIO, "%u runs write the output %.300s at the same time, or were killed where "
                "locks do not work: remove .trickle-%.200s-* beside it", RUNS_MAX, o->target, base);
}

/* --- the target's directory ------------------------------------------------------------------ */

/* Each that is missing is made, and its name synced into the one above. Writes into path. */
static int make_parents(int cwd_fd, char *path)
{
    char *slash = path;
    while ((slash = strchr(slash + 1, '/')) != NULL) {
        *slash = '\0';
        if (mkdirat(cwd_fd, path, 0777) == 0) {
            char *above = strrchr(path, '/');
            if (above != NULL) {
                *above = '\0';
            }
            int fd = openat(cwd_fd, above == NULL ? "." : path[0] == '\0' ? "/" : path, OPEN_DIR);
            if (fd >= 0) {
                (void)fsync(fd); /* exec_output_place tells when the disk does not do it */
                close(fd);
            }
            if (above != NULL) {
                *above = '/';
            }
        } else if (errno != EEXIST && errno != EISDIR) {
            return -1;
        }
        *slash = '/';
    }
    return 0;
}

static int open_parent(struct exec_output *o, int cwd_fd)
{
    size_t size = (size_t)(o->base - o->target);
    char *path = mem_strdup(o->target);
    if (path == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    path[size] = '\0';
    const char *name = size > 0 ? path : ".";
    o->parent_fd = openat(cwd_fd, name, OPEN_DIR);
    if (o->parent_fd < 0 && errno == ENOENT && make_parents(cwd_fd, path) == 0) {
        o->parent_fd = openat(cwd_fd, name, OPEN_DIR);
    }
    int error = errno;
    mem_free(path);
    if (o->parent_fd < 0) {
        return fail(TRK_EIO, "cannot make or open the directory of the output %.300s: %s",
                    o->target, strerror(error));
    }
    return 0;
}

/* --- the life of an output ------------------------------------------------------------------- */

int exec_output_begin(struct exec_output *o, int cwd_fd, const char *target)
{
    const char *slash = strrchr(target, '/');
    memset(o, 0, sizeof(*o));
    o->parent_fd = o->dir_fd = -1;
    o->target = target;
    o->base = slash != NULL ? slash + 1 : target;
    if (o->base[0] == '\0' || strcmp(o->base, ".") == 0 || strcmp(o->base, "..") == 0) {
        return fail(TRK_EINVAL, "\"%.300s\" cannot be the name of an output file", target);
    }
    if (strlen(o->base) > NAME_BYTES_MAX) {
        return fail(TRK_EINVAL, "the output's name %.300s is too long", target);
    }
    int rc = open_parent(o, cwd_fd);
    rc = rc < 0 ? rc : make_dir(o);
    if (rc < 0) {
        return rc;
    }
    size_t size = (size_t)(o->base - target), dir_size = strlen(o->dir);
    o->file = mem_alloc(size + dir_size + 1 + strlen(o->base) + 1);
    if (o->file == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    memcpy(o->file, target, size);
    memcpy(o->file + size, o->dir, dir_size);
    o->file[size + dir_size] = '/';
    memcpy(o->file + size + dir_size + 1, o->base, strlen(o->base) + 1);
    return 0;
}

int exec_output_check(const struct exec_output *o)
{
    struct stat st;
    if (fstatat(o->dir_fd, o->base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT
                   ? fail(TRK_EINVAL, "the command exited with 0 and has not written %.300s",
                          o->target)
                   : fail(TRK_EINVAL, "cannot look at the output %.300s: %s", o->target,
                          strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return fail(TRK_EINVAL, "what the command wrote as %.300s is no regular file", o->target);
    }
    if (st.st_size == 0) {
        return fail(TRK_EINVAL, "the command exited with 0 and left %.300s empty", o->target);
    }
    return 0;
}

static int not_placed(const struct exec_output *o, const char *what)
{
    return fail(TRK_EIO, "cannot %s the output %.300s: %s", what, o->target, strerror(errno));
}

int exec_output_place(const struct exec_output *o)
{
    int fd = openat(o->dir_fd, o->base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return not_placed(o, "open");
    }
    int rc = fsync(fd);
    if (rc < 0) {
        rc = not_placed(o, "sync");
        close(fd);
        return rc;
    }
    close(fd);
    if (renameat(o->dir_fd, o->base, o->parent_fd, o->base) < 0) {
        return not_placed(o, "put into place");
    }
    return fsync(o->parent_fd) < 0 ? not_placed(o, "sync the directory of") : 0;
}

void exec_output_end(struct exec_output *o)
{
    if (o->dir_fd >= 0) {
        clear_dir(o->dir_fd);
        if (o->dir != NULL) {
            (void)unlinkat(o->parent_fd, o->dir, AT_REMOVEDIR);
        }
        close(o->dir_fd);
    }
    if (o->parent_fd >= 0) {
        close(o->parent_fd);
    }
    mem_free(o->dir);
    mem_free(o->file);
    o->dir = o->file = NULL;
    o->dir_fd = o->parent_fd = -1;
}
