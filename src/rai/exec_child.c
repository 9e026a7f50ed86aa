/* SPDX-License-Identifier: MIT */
/* exec_child.c - one command: started, read, waited for, stopped.
 *
 * It is started by posix_spawn, which shares this process's memory until the exec: the size of
 * the VM does not matter. One poll then waits for all that can happen:
 *
 *   pidfd    it has ended
 *   out, err it has printed: read at once, so that it never waits for us
 *   wake     the net thread wants it stopped
 *   time     it has used up its time, or the time since SIGTERM
 *
 * While it runs this process holds the other ends of out and err too: a command that closes them
 * is no event, and the one that matters, its end, costs one turn of the loop. After that the ends
 * are closed here, and the end of file tells whether somebody else still holds them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/sys.h"
#include "rai/exec_impl.h"

#define NEVER UINT64_MAX
#define MS_NS 1000000u
#define READ_BYTES 65536u     /* what a pipe holds */
#define DRAIN_READS 64        /* of both streams: the largest pipe, with room to spare */
#define LOOK_NS (2u * MS_NS)  /* between looks at what no descriptor tells */
#define LAST_NS (20u * MS_NS) /* for what has closed the streams because it ends itself */

enum { WAKE, PROC, OUT, ERR, FDS }; /* of child.polled */

struct child {
    const struct exec_command *cmd;
    struct exec_tree *tree;
    struct exec_keep *keep[FDS];  /* of OUT and ERR */
    struct pollfd polled[FDS];
    int write_fds[FDS];           /* the other ends of OUT and ERR; -1: closed */
    uint64_t kill_ns;             /* when SIGKILL is due, of one that was asked to end; or NEVER */
    enum trk_exec_outcome stopped; /* TIMEOUT, INTERRUPTED; OK: by nobody */
    bool is_killed, is_reaped;
};

/* --- its descriptors --------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* What has a number that the command's own will get is moved out of the way. */
static int raise_fd(int fd)
{
    if (fd < 0 || fd > 2) {
        return fd;
    }
    int raised = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return raised;
}

/* A command can read there too, by the name /dev/stdout, and be quicker than we after a poll: our
 * own end never waits. */
static int open_stream(struct child *ch, int which)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return -1;
    }
    ch->polled[which].fd = raise_fd(fds[0]);
    ch->write_fds[which] = raise_fd(fds[1]);
    if (ch->polled[which].fd < 0 || ch->write_fds[which] < 0) {
        return -1;
    }
    return fcntl(ch->polled[which].fd, F_SETFL, O_NONBLOCK);
}

static void close_fds(struct child *ch, struct exec_wake *wake)
{
    pthread_mutex_lock(&wake->lock);
    wake->fd = -1;
    pthread_mutex_unlock(&wake->lock);
    for (int i = 0; i < FDS; i++) {
        close_fd(&ch->polled[i].fd);
        close_fd(&ch->write_fds[i]);
    }
}

static int open_fds(struct child *ch, struct exec_wake *wake)
{
    ch->polled[WAKE].fd = raise_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (ch->polled[WAKE].fd < 0 || open_stream(ch, OUT) < 0 || open_stream(ch, ERR) < 0) {
        int error = errno;
        close_fds(ch, wake);
        return fail(TRK_EIO, "cannot make the pipes of a command: %s", strerror(error));
    }
    pthread_mutex_lock(&wake->lock);
    wake->fd = ch->polled[WAKE].fd;
    pthread_mutex_unlock(&wake->lock);
    return 0;
}

void exec_wake_interrupt(struct exec_wake *w)
{
    pthread_mutex_lock(&w->lock);
    if (w->fd >= 0) {
        (void)eventfd_write(w->fd, 1); /* full: it has been told often enough */
    }
    pthread_mutex_unlock(&w->lock);
}

/* --- its start --------------------------------------------------------------------------- */

static int add_actions(posix_spawn_file_actions_t *a, const struct child *ch)
{
    const struct exec_command *c = ch->cmd;
    int rc = c->input_fd >= 0 ? posix_spawn_file_actions_adddup2(a, c->input_fd, 0)
                              : posix_spawn_file_actions_addopen(a, 0, "/dev/null", O_RDONLY, 0);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(a, ch->write_fds[OUT], 1);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(a, ch->write_fds[ERR], 2);
    if (c->cwd_fd >= 0) {
        rc = rc != 0 ? rc : posix_spawn_file_actions_addfchdir_np(a, c->cwd_fd);
    }
    /* User code may have opened some without CLOEXEC. */
    return rc != 0 ? rc : posix_spawn_file_actions_addclosefrom_np(a, 3);
}

static int set_attributes(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int rc = posix_spawnattr_setsigmask(attr, &none);
    rc = rc != 0 ? rc : posix_spawnattr_setsigdefault(attr, &all);
    rc = rc != 0 ? rc : posix_spawnattr_setpgroup(attr, 0);
    return rc != 0 ? rc : posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK |
                                                             POSIX_SPAWN_SETSIGDEF |
                                                             POSIX_SPAWN_SETPGROUP);
}

/* 0, or errno. */
static int start(struct child *ch)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc != 0) {
        return rc;
    }
    rc = posix_spawnattr_init(&attr);
    if (rc == 0) {
        rc = set_attributes(&attr);
        rc = rc != 0 ? rc : add_actions(&actions, ch);
        rc = rc != 0 ? rc : posix_spawn(&ch->tree->pid, ch->cmd->path, &actions, &attr,
                                        ch->cmd->argv, ch->cmd->env);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&actions);
    if (rc != 0) {
        ch->tree->pid = 0;
        return rc;
    }
    /* Without one (a kernel before 5.3) its end is looked for. */
    ch->polled[PROC].fd = pidfd_open(ch->tree->pid, 0);
    return 0;
}

/* --- while it runs ----------------------------------------------------------------------- */

/* One read; the end of file closes. False: no memory. */
static bool read_stream(struct child *ch, int which)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = read(ch->polled[which].fd, bytes, sizeof(bytes));
    if (n > 0) {
        return exec_keep_add(ch->keep[which], bytes, (size_t)n);
    }
    if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
        close_fd(&ch->polled[which].fd);
    }
    return true;
}

static bool read_streams(struct child *ch)
{
    bool is_fine = true;
    for (int i = OUT; i <= ERR; i++) {
        int events = ch->polled[i].fd >= 0 ? ch->polled[i].revents : 0;
        if ((events & POLLIN) != 0) {
            is_fine = read_stream(ch, i) && is_fine;
        } else if (events != 0) {
            close_fd(&ch->polled[i].fd);
        }
    }
    return is_fine;
}

/* Waits for events until due_ns. Returns how many there are; 0 also when a signal came. */
static int wait_events(struct child *ch, uint64_t due_ns)
{
    struct timespec left, *timeout = NULL;
    if (due_ns != NEVER) {
        uint64_t now_ns = sys_now_ns(), ns = due_ns > now_ns ? due_ns - now_ns : 0;
        left = (struct timespec){.tv_sec = (time_t)(ns / (1000 * MS_NS)),
                                 .tv_nsec = (long)(ns % (1000 * MS_NS))};
        timeout = &left;
    }
    int count = ppoll(ch->polled, FDS, timeout, NULL);
    if (count <= 0) {
        for (int i = 0; i < FDS; i++) {
            ch->polled[i].revents = 0;
        }
        return 0;
    }
    return count;
}

static uint64_t min_ns(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void stop(struct child *ch, enum trk_exec_outcome why)
{
    uint32_t ms = ch->cmd->kill_after_ms;
    if (why == TRK_EXEC_INTERRUPTED && ms > EXEC_INTERRUPT_MS) {
        ms = EXEC_INTERRUPT_MS; /* the host does not wait longer */
    }
    ch->stopped = why;
    ch->kill_ns = sys_now_ns() + ms * (uint64_t)MS_NS;
    exec_tree_signal(ch->tree, ch->is_reaped, SIGTERM);
}

/* What is due now: its timeout, an interrupt, the end of its respite. */
static void look_at_stops(struct child *ch)
{
    uint64_t now_ns = sys_now_ns();
    eventfd_t count;
    bool is_interrupted = (ch->polled[WAKE].revents & POLLIN) != 0 &&
                          eventfd_read(ch->polled[WAKE].fd, &count) == 0;
    if (ch->stopped == TRK_EXEC_OK && is_interrupted) {
        stop(ch, TRK_EXEC_INTERRUPTED);
    } else if (ch->stopped == TRK_EXEC_OK && !ch->is_reaped && now_ns >= ch->cmd->due_ns) {
        stop(ch, TRK_EXEC_TIMEOUT);
    } else if (ch->stopped != TRK_EXEC_OK && is_interrupted) {
        ch->kill_ns = min_ns(ch->kill_ns, now_ns + EXEC_INTERRUPT_MS * (uint64_t)MS_NS);
    }
    if (now_ns >= ch->kill_ns && !ch->is_killed && !ch->is_reaped) {
        ch->is_killed = true;
        exec_tree_signal(ch->tree, false, SIGKILL);
    }
}

static uint64_t next_due_ns(const struct child *ch)
{
    if (ch->stopped == TRK_EXEC_OK) {
        return ch->cmd->due_ns;
    }
    return ch->is_killed ? NEVER : ch->kill_ns;
}

/* Takes its status, if it has ended. */
static void reap(struct child *ch, struct exec_end *end)
{
    int status;
    pid_t pid = wait4(ch->tree->pid, &status, WNOHANG, &end->usage);
    if (pid == 0 || (pid < 0 && errno == EINTR)) {
        return;
    }
    ch->is_reaped = true;
    if (pid < 0) {
        end->outcome = TRK_EXEC_UNKNOWN; /* somebody else in this process has */
    } else if (WIFSIGNALED(status)) {
        end->signal = WTERMSIG(status);
        end->outcome = TRK_EXEC_SIGNAL;
    } else {
        end->exit_status = WEXITSTATUS(status);
        end->outcome = end->exit_status == 0 ? TRK_EXEC_OK : TRK_EXEC_EXIT;
    }
}

/* Until the command itself has ended. 0 or TRK_ENOMEM, then it may still run. */
static int attend(struct child *ch, struct exec_end *end)
{
    while (!ch->is_reaped) {
        uint64_t due_ns = next_due_ns(ch);
        if (ch->polled[PROC].fd < 0) {
            due_ns = min_ns(due_ns, sys_now_ns() + LOOK_NS);
        }
        int count = wait_events(ch, due_ns);
        if (count > 0 && !read_streams(ch)) {
            return TRK_ENOMEM;
        }
        if (ch->polled[PROC].fd < 0 || ch->polled[PROC].revents != 0) {
            reap(ch, end);
        }
        if (count == 0 || ch->polled[WAKE].revents != 0 || due_ns != NEVER) {
            look_at_stops(ch);
        }
    }
    return 0;
}

/* Reads what is there now: not more than pipes hold, for somebody may go on writing. TRK_ENOMEM,
 * else 1: somebody still holds a stream; 0: nobody. */
static int drain(struct child *ch)
{
    for (int i = 0; i < DRAIN_READS &&
                    (ch->polled[OUT].fd >= 0 || ch->polled[ERR].fd >= 0) &&
                    wait_events(ch, 0) > 0 &&
                    (ch->polled[OUT].revents | ch->polled[ERR].revents) != 0; i++) {
        if (!read_streams(ch)) {
            return TRK_ENOMEM;
        }
    }
    return ch->polled[OUT].fd >= 0 || ch->polled[ERR].fd >= 0;
}

/* The command has ended: what else holds its streams, or when it was stopped what else there is,
 * may go on for a moment. */
static int linger(struct child *ch)
{
    uint64_t end_ns = sys_now_ns() + EXEC_LINGER_MS * (uint64_t)MS_NS;
    close_fd(&ch->polled[PROC].fd);
    close_fd(&ch->write_fds[OUT]);
    close_fd(&ch->write_fds[ERR]);
    for (;;) {
        int held = drain(ch);
        bool is_stopped = ch->stopped != TRK_EXEC_OK;
        uint64_t now_ns = sys_now_ns();
        if (!held && !is_stopped) {
            end_ns = min_ns(end_ns, now_ns + LAST_NS);
        }
        uint64_t until_ns = is_stopped ? ch->kill_ns : min_ns(end_ns, ch->cmd->due_ns);
        if (held < 0) {
            return held;
        }
        if (!exec_tree_has_left(ch->tree)) {
            return 0; /* whoever else holds an end prints to nobody */
        }
        if (now_ns >= until_ns) {
            break;
        }
        if (wait_events(ch, min_ns(now_ns + LOOK_NS, until_ns)) > 0 && !read_streams(ch)) {
            return TRK_ENOMEM;
        }
        look_at_stops(ch);
    }
    exec_tree_kill(ch->tree);
    int held = drain(ch); /* their last words */
    return held < 0 ? held : 0;
}

/* Out of memory in the middle: nothing of it goes on. */
static void give_up(struct child *ch)
{
    struct exec_end end;
    if (!ch->is_reaped) {
        exec_tree_signal(ch->tree, false, SIGKILL);
    }
    while (!ch->is_reaped) {
        reap(ch, &end);
        if (!ch->is_reaped) {
            wait_events(ch, sys_now_ns() + LOOK_NS);
        }
    }
    exec_tree_kill(ch->tree);
}

int exec_child_run(const struct exec_command *c, struct exec_tree *tree, struct exec_wake *wake,
                   struct exec_keep *out, struct exec_keep *err, struct exec_end *end)
{
    struct child ch = {.cmd = c, .tree = tree, .kill_ns = NEVER};
    memset(end, 0, sizeof(*end));
    end->exit_status = -1;
    for (int i = 0; i < FDS; i++) {
        ch.polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
        ch.write_fds[i] = -1;
    }
    ch.keep[OUT] = out;
    ch.keep[ERR] = err;
    int rc = open_fds(&ch, wake);
    if (rc < 0) {
        return rc;
    }
    end->error = start(&ch);
    if (end->error != 0) {
        end->outcome = TRK_EXEC_NOT_STARTED;
        close_fds(&ch, wake);
        return 0;
    }
    rc = attend(&ch, end);
    rc = rc < 0 ? rc : linger(&ch);
    if (rc < 0) {
        give_up(&ch);
        fail(rc, "the VM ran out of memory while it read what a command printed");
    }
    if (ch.stopped != TRK_EXEC_OK) {
        end->outcome = ch.stopped;
    }
    close_fds(&ch, wake);
    return rc;
}
