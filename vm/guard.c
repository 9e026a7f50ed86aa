/* SPDX-License-Identifier: MIT */
/* guard.c - see guard.h. The guard is forked, not started anew: it needs no file of its own and
 * cannot fail to load. The supervisor has one thread, so the child may use the whole library. */
#include "vm/guard.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"

#define ENVIRON_MAX (256u << 10) /* of an environment, as much as this is searched */
#define ROUNDS_MAX 10
#define CHILDREN_MAX 16384 /* that are looked at; their ends bring the next turn */

int guard_init(struct guard *g, uint32_t count, const char *marker, const char **files)
{
    memset(g, 0, sizeof(*g));
    g->count = count;
    g->marker = marker;
    g->files = files;
    if (pipe2(g->pipe, O_CLOEXEC) < 0) {
        return fail(TRK_EIO, "cannot make a pipe: %s", strerror(errno));
    }
    void *at = mmap(NULL, count * sizeof(*g->groups), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return fail(TRK_ENOMEM, "cannot make shared memory: %s", strerror(errno));
    }
    g->groups = at;
    return 0;
}

static bool is_in(pid_t session, const pid_t *leaders, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (leaders[i] == session) {
            return true;
        }
    }
    return false;
}

/* The next process of /proc; 0: that was all. */
static pid_t next_process(DIR *dir)
{
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
        if (pid > 1) {
            return pid;
        }
    }
    return 0;
}

void guard_kill_sessions(const pid_t *leaders, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        kill(-leaders[i], SIGKILL);
    }
    DIR *dir = count > 0 ? opendir("/proc") : NULL;
    pid_t pid;
    while (dir != NULL && (pid = next_process(dir)) != 0) {
        pid_t session = getsid(pid);
        if (session > 1 && is_in(session, leaders, count)) {
            kill(pid, SIGKILL);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

bool guard_is_marked(pid_t pid, const char *marker, size_t marker_size)
{
    static char text[ENVIRON_MAX]; /* one thread */
    size_t size = 0;
    char name[32];
    struct stat st;
    ssize_t n;
    snprintf(name, sizeof(name), "/proc/%d/environ", (int)pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool is_ours = fstat(fd, &st) == 0 && st.st_uid == geteuid();
    while (is_ours && size < sizeof(text) &&
           (n = read(fd, text + size, sizeof(text) - size)) > 0) {
        size += (size_t)n;
    }
    close(fd);
    const char *at = memmem(text, size, marker, marker_size);
    return at != NULL && (at == text || at[-1] == '\0');
}

/* The whole variable, not one that only begins so. */
static bool is_marked(pid_t pid, const char *marker)
{
    return guard_is_marked(pid, marker, strlen(marker) + 1);
}

size_t guard_list_children(pid_t *out, size_t max)
{
    char name[64];
    size_t count = 0;
    snprintf(name, sizeof(name), "/proc/self/task/%d/children", (int)getpid());
    FILE *file = fopen(name, "re");
    while (file != NULL && count < max && fscanf(file, "%d", &out[count]) == 1) {
        count++;
    }
    if (file != NULL) {
        fclose(file);
    }
    return count;
}

void guard_kill_children(const char *start, bool (*is_kept)(void *user, pid_t pid), void *user)
{
    pid_t pids[CHILDREN_MAX];
    size_t count = guard_list_children(pids, CHILDREN_MAX);
    for (size_t i = 0; i < count; i++) {
        if (!is_kept(user, pids[i]) &&
            (start == NULL || guard_is_marked(pids[i], start, strlen(start)))) {
            kill(pids[i], SIGKILL);
        }
    }
}

void guard_kill_marked(const char *marker)
{
    bool is_found = marker[0] != '\0'; /* a start that failed early had none yet */
    /* One that forks while we look is found the next time. */
    for (int round = 0; is_found && round < ROUNDS_MAX; round++) {
        DIR *dir = opendir("/proc");
        pid_t pid;
        is_found = false;
        while (dir != NULL && (pid = next_process(dir)) != 0) {
            if (pid != getpid() && is_marked(pid, marker) && kill(pid, SIGKILL) == 0) {
                is_found = true;
            }
        }
        if (dir != NULL) {
            closedir(dir);
        }
    }
}

static void clean_up(const struct guard *g)
{
    for (uint32_t i = 0; i < g->count; i++) {
        pid_t leader = atomic_load(&g->groups[i]);
        if (leader > 1) {
            guard_kill_sessions(&leader, 1);
        }
    }
    guard_kill_marked(g->marker);
    for (const char **file = g->files; *file != NULL; file++) {
        unlink(*file);
    }
}

/* All descriptors but the pipe: a socket that the guard kept would look alive when it is dead. */
static void close_others(int keep)
{
    int null = open("/dev/null", O_RDWR);
    if (keep <= 2) {
        keep = fcntl(keep, F_DUPFD, 3);
    }
    for (int fd = 0; fd <= 2; fd++) {
        dup2(null, fd);
    }
    dup2(keep, 3);
    closefrom(4);
}

static _Noreturn void guard_main(const struct guard *g)
{
    char byte;
    sigset_t none;
    setsid(); /* a Ctrl-C at the terminal is not for us */
    for (int number = 1; number < NSIG; number++) {
        bool is_ignored = number == SIGHUP || number == SIGINT || number == SIGTERM;
        signal(number, is_ignored ? SIG_IGN : SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_NAME, "trickle-guard");
    close_others(g->pipe[0]);
    while (read(3, &byte, 1) < 0 && errno == EINTR) {
    }
    clean_up(g);
    _exit(0);
}

int guard_start(struct guard *g)
{
    /* A handler of ours that runs in the child would write into the parent's loop. */
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0) {
        guard_main(g);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (pid < 0) {
        return fail(TRK_EIO, "cannot start the guard process: %s", strerror(errno));
    }
    g->pid = pid;
    return 0;
}

void guard_stop(struct guard *g)
{
    close(g->pipe[1]);
    close(g->pipe[0]);
    if (g->pid > 0) {
        while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    munmap(g->groups, g->count * sizeof(*g->groups));
}
