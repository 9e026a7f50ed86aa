/* SPDX-License-Identifier: MIT */
/* home.c - see home.h. Results are as private as what made them: others get no access, and a
 * directory in which others could put links is refused. */
#include "ckpt/home.h"

#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fail.h"

/* File systems whose files other machines may change, or whose locks and shared maps are not to be
 * trusted. FUSE is among them: most of what is behind it is a network. */
static const struct {
    uint32_t magic;
    const char *name;
} networks[] = {
    {0x6969, "NFS"},         {0x517b, "SMB"},         {0xff534d42, "CIFS"},
    {0xfe534d42, "SMB"},     {0x65735546, "FUSE"},    {0x5346414f, "AFS"},
    {0x6b414653, "AFS"},     {0x00c36400, "Ceph"},    {0x0bd00bd0, "Lustre"},
    {0x47504653, "GPFS"},    {0x01021997, "9P"},      {0x19830326, "BeeGFS"},
    {0x01161970, "GFS2"},    {0x7461636f, "OCFS2"},   {0x73757245, "Coda"},
    {0xaad7aaea, "PanFS"},   {0x786f4256, "vboxsf"},  {0x20030528, "OrangeFS"},
};

static const char *network_name(const char *path)
{
    struct statfs fs;

    if (statfs(path, &fs) == 0) {
        for (size_t i = 0; i < sizeof(networks) / sizeof(networks[0]); i++) {
            if ((uint32_t)fs.f_type == networks[i].magic) {
                return networks[i].name;
            }
        }
    }
    return NULL;
}

int ckpt_private_dir(const char *path)
{
    struct stat st;

    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        return fail(errno == ENOSPC || errno == EDQUOT ? TRK_EFULL : TRK_EIO, "cannot make %s: %s",
                    path, strerror(errno));
    }
    if (lstat(path, &st) < 0) {
        return fail(TRK_EIO, "cannot look at %s: %s", path, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid()) {
        return fail(TRK_EDENIED, "%s is %s: set TRICKLE_HOME to a directory of yours", path,
                    S_ISDIR(st.st_mode) ? "another user's" : "not a directory");
    }
    if ((st.st_mode & 077) != 0 && chmod(path, 0700) < 0) {
        return fail(TRK_EDENIED, "%s is open to others, and cannot be closed to them: %s", path,
                    strerror(errno));
    }
    return 0;
}

/* All directories above path; those that are missing are made for the user alone. */
static int make_parents(const char *path)
{
    char part[HOME_PATH_MAX];

    for (size_t i = 1; path[i] != '\0' && i < sizeof(part); i++) {
        if (path[i] == '/') {
            snprintf(part, sizeof(part), "%.*s", (int)i, path);
            if (mkdir(part, 0700) < 0 && errno != EEXIST) {
                return fail(TRK_EIO, "cannot make %s: %s; set TRICKLE_HOME", part,
                            strerror(errno));
            }
        }
    }
    return 0;
}

/* A directory of the user's that the XDG specification names by a variable, and where it is
 * without: the first part is returned, or NULL, and *end follows it. */
static const char *user_dir(const char *variable, const char *otherwise, const char **end)
{
    const char *name = getenv(variable);
    struct passwd *pw;

    *end = "/trickle";
    if (name != NULL && name[0] == '/') { /* others do not count, as it wants it */
        return name;
    }
    *end = otherwise;
    name = getenv("HOME");
    if ((name == NULL || name[0] != '/') && (pw = getpwuid(geteuid())) != NULL) {
        name = pw->pw_dir;
    }
    return name;
}

static int home_name(char *path, size_t size)
{
    const char *name = getenv("TRICKLE_HOME"), *end = "";
    char here[HOME_PATH_MAX] = "";
    int n;

    if (name == NULL || name[0] == '\0') {
        name = user_dir("XDG_STATE_HOME", "/.local/state/trickle", &end);
    }
    if (name == NULL || name[0] == '\0' ||
        (name[0] != '/' && getcwd(here, sizeof(here)) == NULL)) {
        return fail(TRK_EIO, "there is no home directory: set TRICKLE_HOME");
    }
    n = snprintf(path, size, "%s%s%s%s", here, here[0] != '\0' ? "/" : "", name, end);
    if (n < 0 || (size_t)n >= size || n >= HOME_PATH_MAX) {
        return fail(TRK_EINVAL, "the name of the state directory is too long");
    }
    while (n > 1 && path[n - 1] == '/') {
        path[--n] = '\0';
    }
    return 0;
}

/* The file system that path is on, or will be: its nearest parent that exists says. */
static const char *network_above(const char *path)
{
    char part[HOME_PATH_MAX];
    struct stat st;
    char *slash;

    snprintf(part, sizeof(part), "%s", path);
    while (stat(part, &st) < 0 && (slash = strrchr(part, '/')) != NULL && slash != part) {
        *slash = '\0';
    }
    return network_name(part);
}

static int check_home(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
        return fail(TRK_EIO, "%s is no directory: set TRICKLE_HOME", path);
    }
    if (st.st_uid != geteuid()) {
        return fail(TRK_EDENIED, "%s belongs to user %u, not to you: set TRICKLE_HOME", path,
                    (unsigned)st.st_uid);
    }
    if ((st.st_mode & 022) != 0) {
        return fail(TRK_EDENIED, "others may write to %s (mode %04o): chmod 700 it, or set "
                    "TRICKLE_HOME", path, (unsigned)st.st_mode & 07777);
    }
    return 0;
}

int ckpt_home(char *path, size_t size, char *notice, size_t notice_size)
{
    const char *network;
    int rc = home_name(path, size);

    notice[0] = '\0';
    if (rc < 0) {
        return rc;
    }
    network = network_above(path);
    if (network != NULL) {
        snprintf(notice, notice_size, "%s is on %s, where a store is not safe: jobs are kept in "
                 "/var/tmp/trickle-%u", path, network, (unsigned)geteuid());
        snprintf(path, size, "/var/tmp/trickle-%u", (unsigned)geteuid());
        return ckpt_private_dir(path);
    }
    rc = make_parents(path);
    if (rc == 0 && mkdir(path, 0700) < 0 && errno != EEXIST) {
        rc = fail(TRK_EIO, "cannot make %s: %s", path, strerror(errno));
    }
    return rc == 0 ? check_home(path) : rc;
}

int ckpt_cache(char *path, size_t size)
{
    const char *end, *name = user_dir("XDG_CACHE_HOME", "/.cache/trickle", &end);
    int n = name != NULL ? snprintf(path, size, "%s%s", name, end) : -1;

    if (n < 0 || (size_t)n >= size || n >= HOME_PATH_MAX || path[0] != '/') {
        return fail(TRK_EIO, "there is no directory for a cache: set HOME or XDG_CACHE_HOME");
    }
    n = make_parents(path);
    return n == 0 ? ckpt_private_dir(path) : n;
}

static bool is_name(const char *name)
{
    size_t size = strlen(name);

    if (size == 0 || size > HOME_NAME_MAX || name[0] == '.' || name[0] == '-') {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)name[i] <= ' ' || name[i] == '/' || name[i] == 127) {
            return false;
        }
    }
    return true;
}

int ckpt_job_dir(const char *home, const char *name, char *path, size_t size)
{
    int n, rc;

    if (!is_name(name)) {
        return fail(TRK_EINVAL, "'%s' cannot be the name of a job: up to %d characters, no '/' and "
                    "no blanks, not beginning with '.' or '-'", name, HOME_NAME_MAX);
    }
    n = snprintf(path, size, "%s/jobs", home);
    if (n < 0 || (size_t)n + HOME_NAME_MAX + 2 > size) {
        return fail(TRK_EINVAL, "the name of the state directory is too long");
    }
    rc = ckpt_private_dir(path);
    if (rc == 0) {
        snprintf(path + n, size - (size_t)n, "/%s", name);
        rc = ckpt_private_dir(path);
    }
    return rc;
}
