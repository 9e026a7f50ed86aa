/* SPDX-License-Identifier: MIT */
/* check.c - has a store walked by a process of its own.
 *
 * LMDB trusts the pages it maps: a damaged one can kill whoever walks it. So trickle-fsck walks,
 * and says on its standard output how far it is and at last what it found. Only that last line
 * counts: it may die in whatever way, and whoever waits for children in this process may take its
 * exit status. One that says nothing for a minute is ended. */
#include <errno.h>
#include <stdbool.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"
#include "ckpt/verify.h"

#define SILENCE_MS 60000

#ifndef CKPT_FSCK
#define CKPT_FSCK "trickle-fsck"
#endif

extern char **environ;

static const char *helper_name(const char *helper)
{
    const char *named = getenv("TRICKLE_FSCK");

    if (helper != NULL) {
        return helper;
    }
    return named != NULL && named[0] != '\0' ? named : CKPT_FSCK;
}

/* The child, with nothing of ours but a pipe as its output; in a process group of its own, because
 * the Ctrl-C that it would die of says nothing about the store. */
static int start(const char *helper, const char *dir, int out, pid_t *pid)
{
    char *argv[] = {(char *)helper, "--child", (char *)dir, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int code;

    sigemptyset(&none);
    sigfillset(&all);
    if (posix_spawn_file_actions_init(&actions) != 0) {
        return ENOMEM;
    }
    if (posix_spawnattr_init(&attr) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return ENOMEM;
    }
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETPGROUP);
    code = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    code = code == 0 ? posix_spawn_file_actions_adddup2(&actions, out, 1) : code;
    code = code == 0 ? posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
                     : code;
    code = code == 0 ? posix_spawnp(pid, helper, &actions, &attr, argv, environ) : code;
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return code;
}

/* Reads until the end and leaves the last whole line. false: silent for too long. */
static bool read_last_line(int fd, char *last, size_t size)
{
    char line[1024];
    size_t used = 0;

    last[0] = '\0';
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char bytes[512];
        ssize_t got;
        int ready = poll(&p, 1, SILENCE_MS);
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        if (ready <= 0) {
            return false;
        }
        got = read(fd, bytes, sizeof(bytes));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return true;
        }
        for (ssize_t i = 0; i < got; i++) {
            if (bytes[i] == '\n') {
                snprintf(last, size, "%.*s", (int)used, line);
                used = 0;
            } else if (used < sizeof(line)) {
                line[used++] = bytes[i];
            }
        }
    }
}

static int verdict(const char *line, struct verify_report *report)
{
    unsigned long long records, elements, version;
    int code, at = 0;

    if (sscanf(line, "ok %llu %llu %llu", &records, &elements, &version) == 3) {
        report->records = records;
        report->elements = elements;
        report->version = version;
        return 0;
    }
    if (sscanf(line, "bad %d %n", &code, &at) == 1 && at > 0 && code < 0) {
        snprintf(report->why, sizeof(report->why), "%s", line + at);
        return code == TRK_EVERSION ? code : TRK_ECORRUPT;
    }
    snprintf(report->why, sizeof(report->why), "the process that looked at it died");
    return TRK_ECORRUPT;
}

int ckpt_check(const char *dir, const char *helper, struct verify_report *report)
{
    const char *name = helper_name(helper);
    char last[1024];
    int fds[2], code;
    pid_t pid;
    bool is_told;

    memset(report, 0, sizeof(*report));
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return fail(TRK_EIO, "cannot make a pipe: %s", strerror(errno));
    }
    code = start(name, dir, fds[1], &pid);
    close(fds[1]);
    if (code != 0) {
        close(fds[0]);
        return fail(TRK_EIO, "cannot run %s: %s", name, strerror(code));
    }
    is_told = read_last_line(fds[0], last, sizeof(last));
    close(fds[0]);
    if (!is_told) {
        kill(pid, SIGKILL);
        snprintf(last, sizeof(last), "bad %d it takes for ever to read", TRK_ECORRUPT);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return verdict(last, report);
}

/* --- in the child ---------------- */

static void say_progress(uint64_t records)
{
    printf("at %llu\n", (unsigned long long)records);
    fflush(stdout);
}

int verify_main(const char *dir, bool is_child)
{
    struct rlimit no_core = {0, 0};
    struct verify_report report;
    int rc;

    setrlimit(RLIMIT_CORE, &no_core);
    rc = verify_store(dir, &report, is_child ? say_progress : NULL);
    if (rc == 0) {
        printf("ok %llu %llu %llu\n", (unsigned long long)report.records,
               (unsigned long long)report.elements, (unsigned long long)report.version);
    } else {
        printf("bad %d %s\n", rc, report.why);
    }
    return fflush(stdout) == 0 && rc == 0 ? 0 : 1;
}
