/* SPDX-License-Identifier: MIT */
/* exec_tree.c - all that a command has started, and its end.
 *
 * While a command runs this process is a "child subreaper": whatever below it loses its parent
 * becomes its child, a daemon with a session of its own too. So a tree is taken apart from its
 * root: kill the children, reap them, and their children are ours; until there are none. Only
 * processes that are our own children and not reaped are ever killed, so that no number can have
 * passed on to another process meanwhile.
 *
 * Not all children are the command's: user code of a python VM may have its own, and may start
 * more on threads while a command runs. What was there before is left alone, and so is what
 * another thread has started: the kernel lists children by thread, and gives adopted ones to the
 * first. Of the others:
 *   it has ended                               reaped: nobody else waits for it
 *   it has our mark in its environment         the command's
 *   it has the supervisor's, but not our mark  the VM's own
 *   neither                                    the command's, unless in this process's group
 * The usual case is that there is nothing at all, and that is one system call. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "rai/exec_impl.h"

#define ENVIRON_MAX (256u << 10) /* of an environment, as much as this is searched */
#define CHILDREN_MAX 4096        /* that are looked at in one turn; then comes the next */
#define KILL_MS 3000u            /* a process that has not gone so long after SIGKILL hangs */

/* No child at all? */
static bool is_childless(void)
{
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
}

/* The children that one thread has started or adopted, behind count others. */
static size_t children_of_thread(pid_t thread, pid_t *out, size_t count)
{
    char name[64];
    int pid;
    snprintf(name, sizeof(name), "/proc/self/task/%d/children", (int)thread);
    FILE *file = fopen(name, "re");
    while (file != NULL && count < CHILDREN_MAX && fscanf(file, "%d", &pid) == 1) {
        out[count++] = pid;
    }
    if (file != NULL) {
        fclose(file);
    }
    return count;
}

/* Those of this thread, and what this process has adopted. */
static size_t list_children(pid_t out[CHILDREN_MAX])
{
    if (is_childless()) {
        return 0;
    }
    size_t count = children_of_thread(getpid(), out, 0);
    return gettid() != getpid() ? children_of_thread(gettid(), out, count) : count;
}

/* Is there a variable that begins so? */
static bool has_variable(const char *text, size_t size, const char *start)
{
    size_t start_size = strlen(start);
    const char *at = text, *end = text + size;
    while (at < end && (at = memmem(at, (size_t)(end - at), start, start_size)) != NULL) {
        if (at == text || at[-1] == '\0') {
            return true;
        }
        at++;
    }
    return false;
}

/* Which of our marks are in the environment that a process was started with? */
static void read_marks(pid_t pid, const char *mark, bool *has_mark, bool *has_owner)
{
    char name[32], *text = mem_alloc(ENVIRON_MAX);
    size_t size = 0;
    ssize_t n;
    snprintf(name, sizeof(name), "/proc/%d/environ", (int)pid);
    int fd = text != NULL ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    while (fd >= 0 && size < ENVIRON_MAX && (n = read(fd, text + size, ENVIRON_MAX - size)) > 0) {
        size += (size_t)n;
    }
    if (fd >= 0) {
        close(fd);
    }
    *has_mark = size > 0 && has_variable(text, size, mark);
    *has_owner = size > 0 && has_variable(text, size, EXEC_OWNER_ENV "=");
    mem_free(text);
}

static bool has_ended(pid_t pid)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* A child that is not the command itself: does it come from the command? */
static bool is_ours(const struct exec_tree *t, pid_t pid)
{
    bool has_mark, has_owner;
    for (size_t i = 0; i < t->foreign_count; i++) {
        if (t->foreign[i] == pid) {
            return false;
        }
    }
    pid_t group = getpgid(pid);
    if (group == t->pid || has_ended(pid)) {
        return true;
    }
    read_marks(pid, t->mark, &has_mark, &has_owner);
    return has_mark || (!has_owner && group != getpgrp()) || has_ended(pid);
}

/* What was set free by the command. */
static size_t list_ours(const struct exec_tree *t, pid_t out[CHILDREN_MAX])
{
    size_t found = list_children(out), count = 0;
    for (size_t i = 0; i < found; i++) {
        if (out[i] != t->pid && is_ours(t, out[i])) {
            out[count++] = out[i];
        }
    }
    return count;
}

int exec_tree_begin(struct exec_tree *t, const char *mark)
{
    int is_reaper = 0;
    memset(t, 0, sizeof(*t));
    t->mark = mark;
    if (!is_childless()) {
        pid_t children[CHILDREN_MAX];
        size_t count = list_children(children);
        t->foreign = mem_alloc((count + 1) * sizeof(*t->foreign));
        if (t->foreign == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
        memcpy(t->foreign, children, count * sizeof(*children));
        t->foreign_count = count;
    }
    (void)prctl(PR_GET_CHILD_SUBREAPER, &is_reaper);
    t->was_reaper = is_reaper != 0;
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* cannot fail since Linux 3.4 */
    return 0;
}

void exec_tree_end(struct exec_tree *t)
{
    (void)prctl(PR_SET_CHILD_SUBREAPER, t->was_reaper);
    mem_free(t->foreign);
    t->foreign = NULL;
    t->foreign_count = 0;
}

bool exec_tree_has_left(struct exec_tree *t)
{
    pid_t pids[CHILDREN_MAX];
    if (is_childless()) {
        return false;
    }
    size_t count = list_ours(t, pids), left = 0;
    for (size_t i = 0; i < count; i++) {
        left += waitpid(pids[i], NULL, WNOHANG) == 0;
    }
    return left > 0;
}

void exec_tree_signal(const struct exec_tree *t, bool is_reaped, int number)
{
    pid_t pids[CHILDREN_MAX];
    if (!is_reaped) {
        kill(-t->pid, number);
        kill(-t->pid, SIGCONT); /* what is stopped would not hear it */
    }
    size_t count = list_ours(t, pids);
    for (size_t i = 0; i < count; i++) {
        kill(pids[i], number);
        kill(pids[i], SIGCONT);
    }
}

/* Waits for a child that was killed. False: it does not go (it waits for a dead disk). */
static bool reap(pid_t pid, uint64_t until_ns)
{
    int fd = pidfd_open(pid, 0);
    uint64_t now_ns = sys_now_ns();
    if (fd >= 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ms = now_ns < until_ns ? (int)((until_ns - now_ns) / 1000000) : 0;
        while (poll(&p, 1, ms) < 0 && errno == EINTR) {
        }
        close(fd);
    }
    pid_t rc;
    while ((rc = waitpid(pid, NULL, WNOHANG)) == 0 && fd < 0 && sys_now_ns() < until_ns) {
        poll(NULL, 0, 1);
    }
    return rc != 0; /* also when somebody else has reaped it */
}

/* One turn: those that are ours now. False: one of them does not go. */
static bool kill_listed(struct exec_tree *t, pid_t *pids, size_t count, uint64_t until_ns)
{
    for (size_t i = 0; i < count; i++) {
        if (waitpid(pids[i], NULL, WNOHANG) == pids[i]) {
            pids[i] = 0; /* it had ended by itself */
            continue;
        }
        if (getpgid(pids[i]) == t->pid) {
            kill(-t->pid, SIGKILL); /* at once: they may be forking faster than we look */
        }
        kill(pids[i], SIGKILL);
        t->left++;
    }
    for (size_t i = 0; i < count; i++) {
        if (pids[i] != 0 && !reap(pids[i], until_ns)) {
            log_warn("exec", "process %d, which a command has left, does not end", (int)pids[i]);
            return false;
        }
    }
    return true;
}

void exec_tree_kill(struct exec_tree *t)
{
    pid_t pids[CHILDREN_MAX];
    uint64_t until_ns = sys_now_ns() + KILL_MS * (uint64_t)1000000;
    size_t count;
    while ((count = list_ours(t, pids)) > 0 && kill_listed(t, pids, count, until_ns)) {
        if (sys_now_ns() > until_ns) {
            log_warn("exec", "a command has left processes that start others all the time");
            return;
        }
    }
}
