/* SPDX-License-Identifier: MIT */
/* supervisor.c - start, signals, the end.
 *
 * One thread and one loop do everything; nothing here blocks. Started in this order: names, guard,
 * sockets, VMs. A supervisor that fails half way, or is killed, leaves the same things to clean up
 * as one that ends in order, so supervisor_run cleans up in one place and the guard does the rest.
 *
 * SIGTERM or SIGINT: the sockets' names go away, VMs finish what they run and end (one that is
 * stopped is continued for that); again: they are killed. This process ends when the last VM has
 * ended. */
#include "vm/supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/address.h"

#define OTHERS_MAX 4096 /* children that are told from what VMs leave behind */

/* --- descriptors in the loop ---------------------------------------------------------- */

struct watched_fd {
    uv_poll_t poll;
    int fd; /* owned */
    void (*fn)(void *user);
    void *user;
};

static void on_watched(uv_poll_t *poll, int status, int events)
{
    struct watched_fd *w = poll->data;
    w->fn(w->user); /* an error shows when it reads */
}

struct watched_fd *watched_fd_new(struct supervisor *sup, int fd, void (*fn)(void *user),
                                  void *user)
{
    struct watched_fd *w = mem_zalloc(1, sizeof(*w));
    if (w == NULL || uv_poll_init(net_loop_uv(sup->loop), &w->poll, fd) < 0) {
        mem_free(w);
        close(fd);
        return NULL;
    }
    w->fd = fd;
    w->fn = fn;
    w->user = user;
    w->poll.data = w;
    if (uv_poll_start(&w->poll, UV_READABLE | UV_DISCONNECT, on_watched) < 0) {
        watched_fd_close(w);
        return NULL;
    }
    return w;
}

int watched_fd_get(const struct watched_fd *w)
{
    return w->fd;
}

static void on_watched_closed(uv_handle_t *handle)
{
    mem_free(handle->data);
}

void watched_fd_close(struct watched_fd *w)
{
    if (w != NULL) {
        uv_close((uv_handle_t *)&w->poll, on_watched_closed);
        close(w->fd); /* out of the loop already */
    }
}

/* --- the end --------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void unlink_sockets(struct supervisor *sup)
{
    for (const char **file = sup->files; file != NULL && *file != NULL; file++) {
        unlink(*file);
    }
}

static void stop_listening(struct supervisor *sup)
{
    net_listener_close(sup->unix_listener); /* NULL is fine */
    net_listener_close(sup->tcp_listener);
    sup->unix_listener = sup->tcp_listener = NULL;
    join_stop(sup);
    watched_fd_close(sup->responder_fd);
    sup->responder_fd = NULL;
    if (sup->responder != NULL) {
        discovery_responder_free(sup->responder);
        sup->responder = NULL;
    }
    unlink_sockets(sup);
    close_fd(&sup->unix_fd); /* who waits to be accepted learns that it will not be */
    close_fd(&sup->tcp_fd);
}

/* All VMs have ended: what is still queued for watchers goes out, then the loop ends. */
static void finish(struct supervisor *sup)
{
    if (sup->is_ended) {
        return;
    }
    sup->is_ended = true;
    watch_close_all(sup);
    if (sup->watching == 0) {
        net_loop_stop(sup->loop);
    }
}

void supervisor_stop(struct supervisor *sup, int number)
{
    bool is_second = sup->is_stopping;
    log_info("vm", "%s: the VMs %s", strsignal(number),
             is_second ? "are killed" : "end when they have finished what they run");
    sup->is_stopping = true;
    stop_listening(sup);
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        if (is_second) {
            child_stop(&sup->vms[i]);
        } else {
            child_drain(&sup->vms[i]);
        }
    }
    supervisor_vm_changed(sup);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    supervisor_stop(handle->data, number);
}

/* What a script has started before its last line, exec trickle-vm, is no VM's doing. */
static int note_others(struct supervisor *sup)
{
    sup->others = mem_alloc(OTHERS_MAX * sizeof(*sup->others));
    if (sup->others == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    sup->others_count = guard_list_children(sup->others, OTHERS_MAX);
    return 0;
}

/* Its number may be another process's, later. */
static void forget_other(struct supervisor *sup, pid_t pid)
{
    for (size_t i = 0; i < sup->others_count; i++) {
        if (sup->others[i] == pid) {
            sup->others[i] = sup->others[--sup->others_count];
            return;
        }
    }
}

/* The guard, the VMs, and what was there before them. */
static bool is_kept_child(void *user, pid_t pid)
{
    const struct supervisor *sup = user;
    bool is_kept = pid == sup->guard.pid;
    for (size_t i = 0; i < sup->others_count && !is_kept; i++) {
        is_kept = sup->others[i] == pid;
    }
    for (uint32_t i = 0; sup->vms != NULL && i < sup->opt.count && !is_kept; i++) {
        is_kept = sup->vms[i].pid == pid;
    }
    return is_kept;
}

/* What user code has set free from its VM (a daemon of its own session) was adopted by us, and
 * ends with us. */
static void kill_adopted(struct supervisor *sup)
{
    if (sup->others != NULL) { /* else the start has failed before it was known what is ours */
        guard_kill_children(NULL, is_kept_child, sup);
    }
    guard_kill_marked(sup->marker); /* their children, which init has adopted by now */
}

/* What a command has set free is its VM's child (src/rai/exec_tree.c); ours only when the VM has
 * died under it. When it has gone its own children are ours, and we are called again. */
static void kill_commands(struct supervisor *sup)
{
    char start[sizeof(VM_COMMAND_MARK) + sizeof(sup->marker)];
    snprintf(start, sizeof(start), VM_COMMAND_MARK "%s=", strchr(sup->marker, '=') + 1);
    guard_kill_children(start, is_kept_child, sup);
}

/* --- children --------------------------------------------------------------------------- */

static void reaped(struct supervisor *sup, pid_t pid, int status, const struct rusage *usage)
{
    if (pid == sup->guard.pid) {
        log_warn("vm", "the guard process has died; starting it again");
        sup->guard.pid = 0;
        if (guard_start(&sup->guard) < 0) {
            log_error("vm", "%s", fail_text());
        }
        return;
    }
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        if (sup->vms[i].pid == pid) {
            child_died(&sup->vms[i], status, usage);
            return;
        }
    }
    forget_other(sup, pid);
    log_debug("vm", "a process that is no VM (pid %d) has ended", (int)pid);
}

/* All deaths are told before the first is followed up: others wait for the news. */
static void on_child_signal(uv_signal_t *handle, int number)
{
    struct supervisor *sup = handle->data;
    int status;
    struct rusage usage;
    pid_t pid, dead[VMS_MAX];
    size_t count = 0;
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        reaped(sup, pid, status, &usage);
    }
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        if (sup->vms[i].dead != 0) {
            dead[count++] = sup->vms[i].dead;
            sup->vms[i].dead = 0;
            child_replace(&sup->vms[i]);
        }
    }
    guard_kill_sessions(dead, count); /* children that had made groups of their own */
    kill_commands(sup);
}

/* To whoever waits for this; the descriptor is done with, unless it is the other one, too. */
static void tell_fd(int *fd, const char *line, int other)
{
    if (*fd < 0) {
        return;
    }
    (void)!write(*fd, line, strlen(line)); /* a reader that has gone does not care */
    if (*fd != other) {
        close(*fd);
    }
    *fd = -1;
}

/* "python 3.11.2", of the first VM that knows */
static void describe_vms(const struct supervisor *sup, char *text, size_t size)
{
    struct trk_vm_info info;
    snprintf(text, size, "%s", sup->opt.command[0]);
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        child_info(&sup->vms[i], false, &info);
        if (info.version[0] != '\0') {
            snprintf(text, size, "%s %s", info.module, info.version);
            return;
        }
    }
}

static void announce(struct supervisor *sup, uint32_t failing, const char *note)
{
    char what[256];
    describe_vms(sup, what, sizeof(what));
    if (!sup->opt.is_quiet) {
        fprintf(stderr, "trickle-vm: %u VM%s on %s (%s), pid %d\n", sup->opt.count,
                sup->opt.count == 1 ? "" : "s", sup->host_name, what, (int)getpid());
    }
    if (failing > 0) {
        fprintf(stderr, "trickle-vm: %u of them cannot start and will be tried again: %s\n",
                failing, note);
    }
    tell_fd(&sup->opt.ready_fd, "ready\n", -1);
}

void supervisor_vm_changed(struct supervisor *sup)
{
    uint32_t alive = 0, settled = 0, failing = 0, leaving = 0;
    const char *note = "";
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        const struct vm_child *vm = &sup->vms[i];
        alive += vm->pid != 0;
        settled += child_is_settled(vm);
        leaving += vm->is_leaving;
        if (child_state(vm) == TRK_VM_FAILING) {
            failing++;
            note = vm->note;
        }
    }
    if (leaving == sup->opt.count && !sup->is_stopping) { /* one by one */
        sup->is_stopping = true;
        stop_listening(sup);
    }
    if (sup->is_stopping) {
        if (alive == 0) {
            finish(sup);
        }
    } else if (settled == sup->opt.count && !sup->is_announced) {
        sup->is_announced = true;
        announce(sup, failing, note);
    }
}

/* --- the start -------------------------------------------------------------------------- */

static uint32_t count_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? (uint32_t)n : 1;
}

/* A socket file whose process is gone, and that nobody listens on (the process number may be of
 * another container that shares the directory). */
static bool is_stale_socket(const char *dir, const char *name)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int pid;
    if ((strncmp(name, "s-", 2) != 0 && strncmp(name, "v-", 2) != 0) ||
        sscanf(name + 2, "%d-", &pid) != 1 || pid <= 0 || kill(pid, 0) == 0 || errno != ESRCH ||
        snprintf(un.sun_path, sizeof(un.sun_path), "%s/%s", dir, name) >=
            (int)sizeof(un.sun_path)) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    bool is_refused = connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0 &&
                      errno == ECONNREFUSED;
    close(fd);
    return is_refused;
}

/* What supervisors left that were killed together with their guards (a reset of the machine). */
static void remove_stale_sockets(const char *dir_name)
{
    DIR *dir = opendir(dir_name);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (is_stale_socket(dir_name, entry->d_name)) {
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

/* Names all socket files, so that the guard knows them before they exist. files[0] is ours,
 * files[1 + i] that of VM i. */
static int make_names(struct supervisor *sup)
{
    char dir[SOCKET_PATH_MAX], why[256], path[SOCKET_PATH_MAX + 64];
    uint16_t tag;
    int rc = sys_runtime_dir(sup->opt.runtime_dir, dir, sizeof(dir), why, sizeof(why));
    if (rc < 0) {
        return fail(rc, "%s", why);
    }
    remove_stale_sockets(dir);
    if (sys_random(&tag, sizeof(tag)) < 0 || sys_random(sup->id, sizeof(sup->id)) < 0) {
        return fail(TRK_EIO, "no random bytes to be had");
    }
    int n = snprintf(sup->marker, sizeof(sup->marker), VM_OWNER_ENV "=");
    for (size_t i = 0; i < sizeof(sup->id); i++) {
        n += snprintf(sup->marker + n, sizeof(sup->marker) - (size_t)n, "%02x", sup->id[i]);
    }
    sup->files = mem_zalloc(sup->opt.count + 2, sizeof(*sup->files));
    for (uint32_t i = 0; sup->files != NULL && i <= sup->opt.count; i++) {
        char name[64];
        if (i == 0) {
            snprintf(name, sizeof(name), DISCOVERY_LOCAL_PREFIX "%d-%04x.sock", (int)getpid(),
                     tag);
        } else {
            snprintf(name, sizeof(name), "v-%d-%04x-%u.sock", (int)getpid(), tag, i - 1);
        }
        if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= SOCKET_PATH_MAX - 1) {
            return fail(TRK_EINVAL, "the name of the runtime directory %s is too long", dir);
        }
        sup->files[i] = mem_strdup(path);
        if (sup->files[i] == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
    }
    return sup->files != NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
}

static int listen_unix(struct supervisor *sup)
{
    char address[SOCKET_PATH_MAX + 8], bound[TRK_VM_TEXT_MAX];
    snprintf(address, sizeof(address), "unix:%s", sup->files[0]);
    sup->unix_fd = net_listen_fd(address, bound, sizeof(bound));
    if (sup->unix_fd < 0) {
        return sup->unix_fd;
    }
    return net_listener_start(sup->loop, sup->unix_fd, watch_accept_unix, sup,
                              &sup->unix_listener);
}

void supervisor_tcp_address(const struct supervisor *sup, uint16_t port, char *text, size_t size)
{
    net_address_tcp(text, size, sup->opt.listen_host, port);
}

static int listen_tcp(struct supervisor *sup)
{
    char address[TRK_VM_TEXT_MAX], bound[TRK_VM_TEXT_MAX];
    if (sup->opt.listen_host == NULL) {
        return 0;
    }
    supervisor_tcp_address(sup, sup->opt.listen_port, address, sizeof(address));
    sup->tcp_fd = net_listen_fd(address, bound, sizeof(bound));
    if (sup->tcp_fd < 0) {
        return sup->tcp_fd;
    }
    sup->tcp_port = (uint16_t)strtoul(strrchr(bound, ':') + 1, NULL, 10);
    sup->has_ipv6 = strncmp(bound, "tcp:[", 5) == 0;
    supervisor_tcp_address(sup, sup->tcp_port, bound, sizeof(bound));
    fprintf(stderr, "trickle-vm: listening on %s\n", bound + 4);
    return net_listener_start(sup->loop, sup->tcp_fd, watch_accept_tcp, sup, &sup->tcp_listener);
}

static void on_question(void *user)
{
    struct supervisor *sup = user;
    discovery_responder_process(sup->responder);
}

static int start_responder(struct supervisor *sup)
{
    if (!sup->opt.lan) {
        return 0;
    }
    bool is_all = strcmp(sup->opt.listen_host, "*") == 0;
    struct discovery_responder_options opt = {
        .multicast = sup->opt.multicast,
        .keys = keys_of(sup),
        .listen_host = is_all ? NULL : sup->opt.listen_host,
        .ipv4_port = is_all || !sup->has_ipv6 ? sup->tcp_port : 0,
        .ipv6_port = sup->has_ipv6 ? sup->tcp_port : 0,
        .supervisor = sup->id};
    int rc = discovery_responder_open(&sup->responder, &opt);
    if (rc < 0) {
        return rc;
    }
    /* A copy: the responder closes its own. */
    int fd = fcntl(discovery_responder_fd(sup->responder), F_DUPFD_CLOEXEC, 3);
    sup->responder_fd = fd >= 0 ? watched_fd_new(sup, fd, on_question, sup) : NULL;
    return sup->responder_fd != NULL ? 0 : fail(TRK_EIO, "cannot watch the multicast socket");
}

static int start_signals(struct supervisor *sup)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGCHLD};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        int rc = uv_signal_init(net_loop_uv(sup->loop), &sup->signals[i]);
        sup->signals[i].data = sup;
        if (rc == 0) {
            rc = uv_signal_start(&sup->signals[i],
                                 numbers[i] == SIGCHLD ? on_child_signal : on_stop_signal,
                                 numbers[i]);
        }
        if (rc < 0) {
            return fail(TRK_EIO, "cannot wait for signals: %s", uv_strerror(rc));
        }
    }
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

static int start(struct supervisor *sup)
{
    int rc = note_others(sup);
    rc = rc < 0 ? rc : make_names(sup);
    rc = rc < 0 ? rc : net_loop_new(&sup->loop);
    rc = rc < 0 ? rc : start_signals(sup);
    rc = rc < 0 ? rc : keys_start(sup);
    rc = rc < 0 ? rc : guard_init(&sup->guard, sup->opt.count, sup->marker, sup->files);
    rc = rc < 0 ? rc : guard_start(&sup->guard);
    if (rc < 0) {
        return rc;
    }
    sup->vms = mem_zalloc(sup->opt.count, sizeof(*sup->vms));
    if (sup->vms == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        rc = child_init(&sup->vms[i], sup, i, sup->files[1 + i]);
        if (rc < 0) {
            return rc;
        }
    }
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        child_start(&sup->vms[i]);
    }
    memory_start(sup);
    /* Last, so that whoever finds this supervisor sees all its VMs. */
    rc = listen_tcp(sup);
    rc = rc < 0 ? rc : listen_unix(sup);
    rc = rc < 0 ? rc : start_responder(sup);
    rc = rc < 0 ? rc : join_start(sup);
    if (rc == 0) {
        tell_fd(&sup->opt.listening_fd, "listening\n", sup->opt.ready_fd);
    }
    return rc;
}

static void clean_up(struct supervisor *sup)
{
    for (uint32_t i = 0; sup->vms != NULL && i < sup->opt.count; i++) {
        child_kill(&sup->vms[i], WIRE_END_DRAINED); /* only after a failed start */
        if (sup->vms[i].sup != NULL) {
            child_fini(&sup->vms[i]);
        }
    }
    if (sup->loop != NULL) {
        stop_listening(sup);
        net_loop_free(sup->loop);
    }
    kill_adopted(sup);
    if (sup->guard.groups != NULL) {
        guard_stop(&sup->guard);
    }
    oom_fini(&sup->oom);
    for (const char **file = sup->files; file != NULL && *file != NULL; file++) {
        mem_free((char *)(uintptr_t)*file);
    }
    mem_free(sup->files);
    mem_free(sup->others);
    mem_free(sup->vms);
    mem_free(sup->joins);
}

int supervisor_run(const struct supervisor_options *opt)
{
    struct supervisor sup = {.opt = *opt, .unix_fd = -1, .tcp_fd = -1};
    list_init(&sup.watchers);
    oom_init(&sup.oom, "/proc/self/cgroup", "/sys/fs/cgroup", "/dev/kmsg");
    sys_host_name(sup.host_name, sizeof(sup.host_name));
    sup.cores = count_cores();
    if (sup.opt.count == 0) {
        sup.opt.count = sup.cores;
    }
    /* Orphans of a VM come to us, not to init: we end them. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    int rc = start(&sup);
    if (rc == 0) {
        net_loop_run(sup.loop);
    }
    clean_up(&sup);
    return rc;
}
