/* SPDX-License-Identifier: MIT */
/* keywatch.c - see keywatch.h. The file is looked at before it is read: what changes in between
 * is seen at the next look. One that could not be used is tried at each look, changed or not: what
 * was in the way may have been no part of it (its directory, or no descriptor left). */
#include "auth/keywatch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"

static void look(const char *path, struct stat *out)
{
    if (lstat(path, out) != 0) {
        memset(out, 0, sizeof(*out));
    }
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mode == b->st_mode && a->st_uid == b->st_uid &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

int auth_watch_open(struct auth_watch *w, const char *path)
{
    int rc = 0;
    memset(w, 0, sizeof(*w));
    if (path == NULL) {
        rc = auth_keyfile_path(w->path, sizeof(w->path));
    } else if (snprintf(w->path, sizeof(w->path), "%s", path) >= (int)sizeof(w->path)) {
        rc = fail(TRK_EINVAL, "the name of the key file is too long");
    }
    if (rc == 0) {
        look(w->path, &w->seen);
        rc = auth_keyfile_load(&w->keys, w->path);
    }
    if (rc < 0) {
        auth_watch_clear(w);
    }
    return rc;
}

int auth_watch_read(struct auth_watch *w, int fd)
{
    char text[2 * AUTH_TEXT_MAX]; /* what is too long to be one of ours still says so */
    size_t size = 0;
    ssize_t n = 1;
    int rc;
    memset(w, 0, sizeof(*w));
    while (size < sizeof(text) && n != 0) {
        n = read(fd, text + size, sizeof(text) - size);
        if (n < 0 && errno != EINTR) {
            explicit_bzero(text, sizeof(text));
            return fail(TRK_EIO, "cannot read a key: %s", strerror(errno));
        }
        size += n > 0 ? (size_t)n : 0;
    }
    rc = auth_keys_parse(&w->keys, text, size, "what was given");
    explicit_bzero(text, sizeof(text));
    return rc;
}

int auth_watch_look(struct auth_watch *w)
{
    struct stat now;
    struct auth_keys keys;
    int rc;
    if (w->path[0] == '\0') {
        return 0;
    }
    look(w->path, &now);
    bool is_old = is_same(&now, &w->seen);
    if (is_old && !w->is_owed) {
        return 0;
    }
    w->seen = now;
    rc = auth_keyfile_load(&keys, w->path);
    w->is_owed = rc < 0;
    if (rc == AUTH_NO_KEY) {
        return w->keys.count == 0 ? 0
                                  : fail(TRK_EIO, "the key %s has gone; the one it held stays in "
                                         "use until this ends", w->path);
    }
    if (rc < 0) {
        return is_old ? 0 : rc;
    }
    w->keys = keys;
    auth_keys_clear(&keys);
    return 1;
}

void auth_watch_clear(struct auth_watch *w)
{
    explicit_bzero(w, sizeof(*w));
}
