/* SPDX-License-Identifier: MIT */
/* keyfile.c - see keyfile.h.
 *
 * What is judged is what was opened (fstat, not stat), and it is opened without following a link:
 * a link in the place of the file could name another user's. */
#include "auth/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/sys.h"

/* The text of a file that is too long to be one of ours still says so. */
#define READ_MAX (2 * AUTH_TEXT_MAX)

/* --- names ------------------------------------------------------------------------------- */

int auth_keyfile_path(char *path, size_t size)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int length;
    /* Relative ones are to be ignored, says the XDG specification. */
    if (config != NULL && config[0] == '/') {
        length = snprintf(path, size, "%s/trickle/key", config);
    } else {
        if (home == NULL || home[0] != '/') {
            const struct passwd *user = getpwuid(geteuid());
            home = user != NULL ? user->pw_dir : NULL;
        }
        if (home == NULL || home[0] != '/') {
            return fail(TRK_EINVAL, "there is no home directory to look for the key in; set HOME");
        }
        length = snprintf(path, size, "%s/.config/trickle/key", home);
    }
    if (length < 0 || (size_t)length >= size) {
        return fail(TRK_EINVAL, "the name of the key file is too long");
    }
    return 0;
}

/* path, or the usual name in its place; and the directory it is in. */
static int find_names(const char *path, char file[PATH_MAX], char dir[PATH_MAX])
{
    if (path == NULL) {
        int rc = auth_keyfile_path(file, PATH_MAX);
        if (rc != 0) {
            return rc;
        }
    } else if (snprintf(file, PATH_MAX, "%s", path) >= PATH_MAX) {
        return fail(TRK_EINVAL, "the name of the key file is too long");
    }
    const char *slash = strrchr(file, '/');
    size_t size = slash != NULL ? (size_t)(slash - file) : 0;
    snprintf(dir, PATH_MAX, "%.*s", (int)size, file);
    if (size == 0) {
        snprintf(dir, PATH_MAX, "%s", slash != NULL ? "/" : ".");
    }
    return 0;
}

/* --- reading ----------------------------------------------------------------------------- */

/* Who may change the directory may put another file in the key's place. */
static int check_dir(const char *dir)
{
    struct stat st;
    if (stat(dir, &st) != 0) {
        return fail(TRK_EIO, "%s: %s", dir, strerror(errno));
    }
    if (st.st_uid != geteuid() && st.st_uid != 0) {
        return fail(TRK_EDENIED, "%s, where the key is, belongs to user %u, not to you", dir,
                    (unsigned)st.st_uid);
    }
    if ((st.st_mode & 022) != 0 && (st.st_mode & S_ISVTX) == 0) {
        return fail(TRK_EDENIED, "others may change %s, where the key is (mode %04o): type\n"
                    "  chmod 700 %s", dir, (unsigned)st.st_mode & 07777, dir);
    }
    return 0;
}

static int check_file(int fd, const char *file)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return fail(TRK_EIO, "%s: %s", file, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return fail(TRK_EDENIED, "%s is not a file", file);
    }
    if (st.st_uid != geteuid()) {
        return fail(TRK_EDENIED, "the key %s belongs to user %u, not to you (user %u)", file,
                    (unsigned)st.st_uid, (unsigned)geteuid());
    }
    if ((st.st_mode & 077) != 0) {
        return fail(TRK_EDENIED, "the key %s is open to others (mode %04o): type\n  chmod 600 %s\n"
                    "and, if anybody may have read it,\n  trickle key rotate", file,
                    (unsigned)st.st_mode & 07777, file);
    }
    return 0;
}

/* Bytes read, at most READ_MAX, or TRK_EIO. */
static ssize_t read_text(int fd, char text[READ_MAX], const char *file)
{
    size_t size = 0;
    ssize_t n = 1;
    while (size < READ_MAX && n != 0) {
        n = read(fd, text + size, READ_MAX - size);
        if (n < 0 && errno != EINTR) {
            return fail(TRK_EIO, "cannot read the key %s: %s", file, strerror(errno));
        }
        size += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)size;
}

static int load_open(struct auth_keys *out, int fd, const char *file, const char *dir)
{
    int rc = check_file(fd, file);
    rc = rc == 0 ? check_dir(dir) : rc;
    if (rc != 0) {
        return rc;
    }
    char text[READ_MAX];
    ssize_t size = read_text(fd, text, file);
    rc = size < 0 ? (int)size : auth_keys_parse(out, text, (size_t)size, file);
    explicit_bzero(text, sizeof(text));
    return rc;
}

int auth_keyfile_load(struct auth_keys *out, const char *path)
{
    char file[PATH_MAX], dir[PATH_MAX];
    int rc = find_names(path, file, dir);
    if (rc != 0) {
        return rc;
    }
    int fd = open(file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        return AUTH_NO_KEY;
    }
    if (fd < 0 && errno == ELOOP) {
        return fail(TRK_EDENIED, "the key %s is a symbolic link; put the file itself there", file);
    }
    if (fd < 0) {
        return fail(TRK_EIO, "cannot read the key %s: %s", file, strerror(errno));
    }
    rc = load_open(out, fd, file, dir);
    close(fd);
    return rc;
}

/* --- writing ----------------------------------------------------------------------------- */

/* Makes dir and what is missing above it. Those above get 0700 too, as XDG asks for. */
static int make_dirs(const char *dir)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s", dir);
    for (char *at = path + 1; *at != '\0'; at++) {
        if (*at == '/') {
            *at = '\0';
            (void)!mkdir(path, 0700); /* what matters is whether the last one works */
            *at = '/';
        }
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return fail(TRK_EIO, "cannot make the directory %s: %s", dir, strerror(errno));
    }
    return check_dir(dir);
}

static int write_text(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, text, size);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        text += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return fsync(fd);
}

/* Writes the file under a name of its own, for the owner only from its first moment. */
static int write_temporary(const struct auth_keys *keys, char temporary[PATH_MAX],
                           const char *file)
{
    char text[AUTH_TEXT_MAX];
    uint64_t random;
    if (sys_random(&random, sizeof(random)) != 0 ||
        snprintf(temporary, PATH_MAX, "%s.%016llx", file, (unsigned long long)random) >= PATH_MAX) {
        return fail(TRK_EINVAL, "the name of the key file is too long");
    }
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return fail(TRK_EIO, "cannot write the key %s: %s", temporary, strerror(errno));
    }
    size_t size = auth_keys_format(keys, text);
    /* fchmod: a umask may have taken the owner's own bits. */
    int rc = fchmod(fd, 0600) == 0 ? write_text(fd, text, size) : -1;
    explicit_bzero(text, sizeof(text));
    int error = errno;
    close(fd);
    if (rc != 0) {
        unlink(temporary);
        return fail(TRK_EIO, "cannot write the key %s: %s", temporary, strerror(error));
    }
    return 0;
}

static int put_in_place(const char *temporary, const char *file, const char *dir, bool may_replace)
{
    /* Unlike a rename a link never replaces what somebody else has just put there. */
    int rc = may_replace ? rename(temporary, file) : link(temporary, file);
    int error = errno;
    if (!may_replace || rc != 0) {
        unlink(temporary);
    }
    if (rc != 0 && error == EEXIST) {
        return fail(TRK_EDENIED, "there is a key already, %s: to replace it by a new one type\n"
                    "  trickle key rotate", file);
    }
    if (rc != 0) {
        return fail(TRK_EIO, "cannot write the key %s: %s", file, strerror(error));
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!fsync(fd); /* not all file systems have that; the file is there */
        close(fd);
    }
    return 0;
}

int auth_keyfile_save(const struct auth_keys *keys, const char *path, bool may_replace)
{
    char file[PATH_MAX], dir[PATH_MAX], temporary[PATH_MAX];
    int rc = find_names(path, file, dir);
    rc = rc == 0 ? make_dirs(dir) : rc;
    rc = rc == 0 ? write_temporary(keys, temporary, file) : rc;
    return rc == 0 ? put_in_place(temporary, file, dir, may_replace) : rc;
}

/* What is locked is the file that is to be replaced: who has waited for it finds another one in its
 * place, and waits for that. So nothing else lies about, and over NFS it works, too. */
int auth_keyfile_lock(int *lock, const char *path)
{
    char file[PATH_MAX], dir[PATH_MAX];
    struct stat held, there;
    int rc = find_names(path, file, dir);
    *lock = -1;
    while (rc == 0) {
        int fd = open(file, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0) {
            return 0; /* loading it says why */
        }
        if (flock(fd, LOCK_EX) != 0 && errno == EINTR) {
            close(fd);
            return fail(TRK_EIO, "interrupted while another process changes the key %s", file);
        }
        if (fstat(fd, &held) != 0 || lstat(file, &there) != 0 ||
            (held.st_ino == there.st_ino && held.st_dev == there.st_dev)) {
            *lock = fd;
            return 0;
        }
        close(fd);
    }
    return rc;
}

void auth_keyfile_unlock(int lock)
{
    if (lock >= 0) {
        close(lock);
    }
}

int auth_keyfile_new(struct auth_keys *out, const char *path)
{
    memset(out, 0, sizeof(*out));
    out->count = 1;
    int rc = auth_key_make(&out->key[0]);
    rc = rc == 0 ? auth_keyfile_save(out, path, false) : rc;
    if (rc != 0) {
        auth_keys_clear(out);
    }
    return rc;
}

static int load_existing(struct auth_keys *out, const char *path)
{
    int rc = auth_keyfile_load(out, path);
    if (rc == AUTH_NO_KEY) {
        return fail(TRK_EDENIED, "there is no key yet: to make one type\n  trickle key new");
    }
    return rc;
}

int auth_keyfile_rotate(struct auth_keys *out, const char *path)
{
    struct auth_key key;
    int lock, rc = auth_keyfile_lock(&lock, path);
    rc = rc == 0 ? load_existing(out, path) : rc;
    if (rc == 0 && out->count == AUTH_KEYS_MAX) {
        rc = fail(TRK_EDENIED, "keys are being rotated already (%s for %s); when all machines "
                  "have the new one, type\n  trickle key finish", out->key[0].id, out->key[1].id);
    }
    rc = rc == 0 ? auth_key_make(&key) : rc;
    if (rc == 0) {
        auth_keys_rotate(out, &key);
        explicit_bzero(&key, sizeof(key));
        rc = auth_keyfile_save(out, path, true);
    }
    auth_keyfile_unlock(lock);
    if (rc != 0) {
        auth_keys_clear(out);
    }
    return rc;
}

int auth_keyfile_finish(struct auth_keys *out, const char *path)
{
    int lock, rc = auth_keyfile_lock(&lock, path);
    rc = rc == 0 ? load_existing(out, path) : rc;
    if (rc == 0 && out->count < AUTH_KEYS_MAX) {
        rc = fail(TRK_EDENIED, "no rotation is under way: there is one key, %s", out->key[0].id);
    }
    if (rc == 0) {
        explicit_bzero(&out->key[1], sizeof(out->key[1]));
        out->count = 1;
        rc = auth_keyfile_save(out, path, true);
    }
    auth_keyfile_unlock(lock);
    if (rc != 0) {
        auth_keys_clear(out);
    }
    return rc;
}
