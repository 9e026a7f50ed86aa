/* SPDX-License-Identifier: MIT */
/* child.c - one VM of the supervisor: sockets and page that stay, processes that come and go.
 *
 *   start -> runs: STARTING -> (ready) IDLE <-> LEASED -> STARTING (its lease is over)
 *     ^                                                       |
 *     |  at once; or, when it died right after its start      v
 *     +--  for nothing, with back-off (FAILING)  <---------  died
 *
 * What the VM does is read from its page whenever somebody asks; the control socket only says
 * that there is something new. A process leads its own session and process group; when it has
 * died, whatever it left in there is killed before the next one starts. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "vm/supervisor.h"

#define AT_ONCE_NS 1000000000u /* a process that lived shorter has died at once */
#define BACK_OFF_FIRST_MS 100u
#define BACK_OFF_MAX_MS 30000u
#define READY_MS 60000u /* a process that is not ready after so long hangs */
#define GONE_MS 3000u   /* nor has one that is still there so long after it said its end */
#define TURN_BYTES (256u << 10) /* of output read at once, in turn with other VMs */
#define LAST_BYTES (1u << 20)   /* of output read after a death: a pipe holds less */

/* --- what it looks like -------------------------------------------------------------- */

enum trk_vm_state child_state(const struct vm_child *vm)
{
    if (vm->sup->is_stopping || vm->is_leaving) {
        return TRK_VM_STOPPING;
    }
    if (vm->pid == 0 || !vm->is_ready) {
        return vm->failures > 0 ? TRK_VM_FAILING : TRK_VM_STARTING;
    }
    unsigned state = atomic_load(&vm->page->state);
    bool is_known = state == TRK_VM_IDLE || state == TRK_VM_LEASED || state == TRK_VM_STOPPING ||
                    state == TRK_VM_FINISHING;
    return is_known ? (enum trk_vm_state)state : TRK_VM_STARTING;
}

bool child_is_settled(const struct vm_child *vm)
{
    return (vm->pid != 0 && vm->is_ready) || vm->failures > 0 || vm->is_leaving;
}

/* The VM process writes these texts, and user code may have scribbled over them. */
static void copy_text(char *out, size_t size, const char *text, size_t text_size)
{
    size_t n = strnlen(text, text_size);
    n = n < size - 1 ? n : size - 1;
    memcpy(out, text, n);
    out[n] = '\0';
}

void child_info(const struct vm_child *vm, bool is_tcp, struct trk_vm_info *info)
{
    const struct supervisor *sup = vm->sup;
    const struct vm_page *page = vm->page;
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    memset(info, 0, sizeof(*info));
    memcpy(info->incarnation, page->incarnation, 16);
    memcpy(info->supervisor, sup->id, 16);
    info->index = vm->index;
    info->state = child_state(vm);
    info->pid = (uint32_t)vm->pid;
    info->cores = sup->cores;
    info->memory_bytes = pages > 0 && page_size > 0 ? (uint64_t)pages * (uint64_t)page_size : 0;
    info->dropped = atomic_load(&page->dropped) + net_dropped();
    snprintf(info->host, sizeof(info->host), "%s", sup->host_name);
    copy_text(info->module, sizeof(info->module), page->module, sizeof(page->module));
    copy_text(info->version, sizeof(info->version), page->version, sizeof(page->version));
    if (info->state == TRK_VM_LEASED || info->state == TRK_VM_FINISHING) {
        copy_text(info->owner, sizeof(info->owner), page->owner, sizeof(page->owner));
    }
    snprintf(info->note, sizeof(info->note), "%s", vm->note);
    if (!is_tcp) {
        snprintf(info->address, sizeof(info->address), "unix:%s", vm->unix_path);
    } else if (vm->tcp_fd >= 0) {
        /* Whoever asks knows better than we under which of our addresses it reaches us. */
        snprintf(info->address, sizeof(info->address), "tcp::%u", vm->tcp_port);
    }
}

/* --- its process --------------------------------------------------------------------- */

/* Not ready, or not gone, in time: what its own net thread would have ended, had user code not
 * closed its descriptors; or an interpreter that waits for a dead file server. */
static void on_overdue(uv_timer_t *timer)
{
    struct vm_child *vm = timer->data;
    log_warn("vm", "VM %u (pid %d) %s; it is killed", vm->index, (int)vm->pid,
             vm->is_ready ? "does not end" : "does not get ready");
    child_kill(vm, WIRE_END_UNKNOWN);
}

static void on_control(void *user)
{
    struct vm_child *vm = user;
    char bytes[64];
    ssize_t n = recv(watched_fd_get(vm->control), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        /* It has closed its end: it is dying (SIGCHLD follows), or user code closed everything. */
        watched_fd_close(vm->control);
        vm->control = NULL;
        return;
    }
    bool is_stale = false;
    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == 'R') {
            vm->is_ready = true;
            uv_timer_stop(&vm->timer);
        } else if (bytes[i] == 'L') {
            vm->was_leased = true;
            vm->failures = 0;
        } else if (bytes[i] == 'E') {
            vm->has_ended = true;
            uv_timer_start(&vm->timer, on_overdue, GONE_MS, 0);
        } else {
            is_stale = true;
        }
    }
    if (is_stale) {
        log_debug("vm", "VM %u says what this supervisor does not know", vm->index);
    }
    watch_push(vm->sup, vm);
    supervisor_vm_changed(vm->sup);
}

static void on_output(void *user)
{
    output_read(user, TURN_BYTES);
}

static void reset_page(struct vm_child *vm)
{
    struct vm_page *page = vm->page;
    page->magic = VM_PAGE_MAGIC;
    atomic_store(&page->has_element, 0);
    atomic_store(&page->has_lease, 0);
    memset(page->lease, 0, sizeof(page->lease));
    memset(page->owner, 0, sizeof(page->owner));
    atomic_store(&page->end, WIRE_END_UNKNOWN);
    page->memory_limit = vm->sup->opt.memory_limit;
    page->recycle_after = vm->sup->opt.recycle_after;
    page->hold_seconds = vm->sup->opt.hold_seconds;
    page->hold_bytes = vm->sup->opt.hold_bytes;
    if (sys_random(page->incarnation, sizeof(page->incarnation)) < 0) {
        log_error("vm", "no random bytes to be had");
    }
    atomic_store(&page->state, TRK_VM_STARTING);
}

/* In the forked child: everything that may fail says so on the output pipe. */
static _Noreturn void child_main(struct vm_child *vm, int control, int output,
                                 char *const argv[], char *const env[], pid_t supervisor)
{
    const int inherited[] = {vm->listen_fd, vm->tcp_fd, control, vm->page_fd};
    sigset_t none;
    for (int number = 1; number < NSIG; number++) {
        signal(number, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    atomic_store(&vm->sup->guard.groups[vm->index], getpid());
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != supervisor) {
        _exit(1); /* it died before we could ask to be told */
    }
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null, 0);
    dup2(output, 1);
    dup2(output, 2);
    for (size_t i = 0; i < sizeof(inherited) / sizeof(inherited[0]); i++) {
        if (inherited[i] >= 0) {
            fcntl(inherited[i], F_SETFD, 0);
        }
    }
    execve(argv[0], argv, env);
    dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static bool is_own_variable(const char *entry)
{
    return strncmp(entry, VM_FDS_ENV "=", sizeof(VM_FDS_ENV)) == 0 ||
           strncmp(entry, VM_OWNER_ENV "=", sizeof(VM_OWNER_ENV)) == 0;
}

/* This process's environment and two more, which come first: whoever looks for the owner finds it
 * at once. Array for mem_free, entries borrowed. */
static char **make_env(char *owner, char *fds)
{
    size_t count = 0, n = 2;
    while (environ[count] != NULL) {
        count++;
    }
    char **env = mem_zalloc(count + 3, sizeof(*env));
    if (env == NULL) {
        return NULL;
    }
    env[0] = owner;
    env[1] = fds;
    for (size_t i = 0; i < count; i++) {
        if (!is_own_variable(environ[i])) {
            env[n++] = environ[i];
        }
    }
    return env;
}

/* The command of a VM, behind the one that is to run it. Array for mem_free, entries borrowed. */
static char **make_argv(const struct supervisor_options *opt)
{
    const char *own[] = {opt->exec != NULL ? opt->exec : opt->python,
                         opt->exec != NULL ? NULL : opt->boot};
    size_t n = 0;
    while (opt->wrap != NULL && opt->wrap[n] != NULL) {
        n++;
    }
    char **argv = mem_zalloc(n + 3, sizeof(*argv));
    for (size_t i = 0; argv != NULL && i < n + 2; i++) {
        argv[i] = i < n ? opt->wrap[i] : (char *)(uintptr_t)own[i - n];
    }
    return argv;
}

static pid_t fork_child(struct vm_child *vm, int control, int output)
{
    const struct supervisor_options *opt = &vm->sup->opt;
    char fds_text[256] = VM_FDS_ENV "=";
    struct vm_fds fds = {.listen = vm->listen_fd,
                         .tcp = vm->tcp_fd,
                         .control = control,
                         .page = vm->page_fd,
                         .index = vm->index,
                         .cores = vm->sup->cores,
                         .tcp_port = vm->tcp_port,
                         .is_tls = vm->sup->opt.keys != NULL};
    memcpy(fds.supervisor, vm->sup->id, 16);
    size_t prefix = strlen(fds_text);
    char **env = make_env(vm->sup->marker, fds_text), **argv = make_argv(opt);
    if (env == NULL || argv == NULL ||
        vm_fds_format(&fds, fds_text + prefix, (unsigned)(sizeof(fds_text) - prefix)) < 0) {
        mem_free(env);
        mem_free(argv);
        errno = ENOMEM;
        return -1;
    }
    /* A handler of ours that runs in the child would write into this process's loop. */
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    pid_t supervisor = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        child_main(vm, control, output, argv, env, supervisor);
    }
    int error = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    mem_free(env);
    mem_free(argv);
    errno = error;
    return pid;
}

/* Makes the pair of sockets and the pipe, and the process between their other ends. */
static int start_process(struct vm_child *vm)
{
    int control[2] = {-1, -1}, output[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) < 0 ||
        pipe2(output, O_CLOEXEC) < 0) {
        int rc = fail(TRK_EIO, "cannot make a pipe: %s", strerror(errno));
        if (control[0] >= 0) {
            close(control[0]);
            close(control[1]);
        }
        return rc;
    }
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    keys_send(vm->sup, control[0]); /* there before the process is */
    pid_t pid = fork_child(vm, control[1], output[1]);
    int error = errno;
    close(control[1]);
    close(output[1]);
    vm->control = watched_fd_new(vm->sup, control[0], on_control, vm);
    vm->output = watched_fd_new(vm->sup, output[0], on_output, vm);
    if (pid < 0) {
        watched_fd_close(vm->control);
        watched_fd_close(vm->output);
        vm->control = vm->output = NULL;
        return fail(TRK_EIO, "cannot start a process: %s", strerror(error));
    }
    vm->pid = pid;
    uv_timer_start(&vm->timer, on_overdue, READY_MS, 0);
    atomic_store(&vm->sup->guard.groups[vm->index], pid);
    if (vm->control == NULL || vm->output == NULL) {
        kill(-pid, SIGKILL); /* without them it is of no use; its death starts the next */
        kill(pid, SIGKILL);
    }
    return 0;
}

static void on_restart_timer(uv_timer_t *timer)
{
    child_start(timer->data);
}

static void restart_later(struct vm_child *vm)
{
    uint64_t ms = BACK_OFF_FIRST_MS;
    for (uint32_t i = 0; i < vm->failures && ms < BACK_OFF_MAX_MS; i++) {
        ms *= 2;
    }
    vm->failures++;
    uv_timer_start(&vm->timer, on_restart_timer,
                   ms < BACK_OFF_MAX_MS ? ms : BACK_OFF_MAX_MS, 0);
}

void child_start(struct vm_child *vm)
{
    reset_page(vm);
    vm->is_ready = vm->was_leased = vm->has_ended = vm->was_over = false;
    vm->end = WIRE_END_UNKNOWN;
    vm->printed = 0;
    oom_look(&vm->sup->oom); /* what it says now was before this process */
    vm->start_ns = sys_now_ns();
    if (start_process(vm) < 0) {
        log_warn("vm", "VM %u: %s", vm->index, fail_text());
        snprintf(vm->note, sizeof(vm->note), "%s", fail_text());
        restart_later(vm);
    }
    watch_push(vm->sup, vm);
    supervisor_vm_changed(vm->sup);
}

/* --- its death ----------------------------------------------------------------------- */

void child_died(struct vm_child *vm, int status, const struct rusage *usage)
{
    kill(-vm->pid, SIGKILL);
    while (vm->control != NULL) { /* its last words */
        char byte;
        ssize_t n = recv(watched_fd_get(vm->control), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
        if (n <= 0) {
            watched_fd_close(vm->control);
            vm->control = NULL;
        } else {
            on_control(vm);
        }
    }
    output_read(vm, LAST_BYTES);
    watched_fd_close(vm->output); /* whoever still holds the other end prints to nobody */
    vm->output = NULL;
    uv_timer_stop(&vm->timer);
    bool is_expected = death_is_expected(death_report(vm, status, usage));
    vm->died_at_once = !is_expected && !vm->was_leased &&
                       sys_now_ns() - vm->start_ns < AT_ONCE_NS;
    vm->dead = vm->pid;
    vm->pid = 0;
    watch_look_at_held(vm->sup);
}

/* No process of this VM any more. */
static void retire(struct vm_child *vm)
{
    uv_timer_stop(&vm->timer);
    unlink(vm->unix_path);
    if (vm->listen_fd >= 0) {
        close(vm->listen_fd); /* who waits to be accepted learns that it will not be */
        vm->listen_fd = -1;
    }
    if (vm->tcp_fd >= 0) {
        close(vm->tcp_fd);
        vm->tcp_fd = -1;
    }
    watch_push(vm->sup, vm);
    supervisor_vm_changed(vm->sup);
}

void child_replace(struct vm_child *vm)
{
    atomic_store(&vm->sup->guard.groups[vm->index], 0);
    if (vm->sup->is_stopping || vm->is_leaving) {
        retire(vm);
    } else if (vm->died_at_once) {
        restart_later(vm);
        watch_push(vm->sup, vm);
        supervisor_vm_changed(vm->sup);
    } else {
        vm->failures = 0;
        child_start(vm);
    }
}

void child_drain(struct vm_child *vm)
{
    char byte = 'D';
    vm->is_leaving = true;
    if (vm->pid == 0) {
        retire(vm); /* it does not start again */
        return;
    }
    if (!vm->is_ready || vm->control == NULL ||
        send(watched_fd_get(vm->control), &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) {
        /* It does nothing for anybody, or does not listen any more. */
        child_kill(vm, WIRE_END_DRAINED);
    } else {
        kill(-vm->pid, SIGCONT); /* while it is stopped it would not finish, ever */
    }
    watch_push(vm->sup, vm);
}

void child_stop(struct vm_child *vm)
{
    vm->is_leaving = true;
    if (vm->pid == 0) {
        retire(vm);
        return;
    }
    child_kill(vm, WIRE_END_DRAINED);
    watch_push(vm->sup, vm);
}

void child_kill(struct vm_child *vm, enum wire_end why)
{
    if (vm->pid != 0) {
        vm->end = why;
        /* It may not have made its own group yet. */
        kill(vm->pid, SIGKILL);
        kill(-vm->pid, SIGKILL);
    }
}

/* --- for good ------------------------------------------------------------------------ */

static int make_page(struct vm_child *vm)
{
    vm->page_fd = memfd_create("trickle-vm-page", MFD_CLOEXEC);
    if (vm->page_fd < 0 || ftruncate(vm->page_fd, sizeof(struct vm_page)) < 0) {
        return fail(TRK_EIO, "cannot make shared memory: %s", strerror(errno));
    }
    void *at = mmap(NULL, sizeof(struct vm_page), PROT_READ | PROT_WRITE, MAP_SHARED, vm->page_fd,
                    0);
    if (at == MAP_FAILED) {
        return fail(TRK_EIO, "cannot map shared memory: %s", strerror(errno));
    }
    vm->page = at;
    return 0;
}

static int make_tcp(struct vm_child *vm)
{
    char address[TRK_VM_TEXT_MAX], bound[TRK_VM_TEXT_MAX];
    supervisor_tcp_address(vm->sup, 0, address, sizeof(address));
    vm->tcp_fd = net_listen_fd(address, bound, sizeof(bound));
    if (vm->tcp_fd < 0) {
        return vm->tcp_fd;
    }
    vm->tcp_port = (uint16_t)strtoul(strrchr(bound, ':') + 1, NULL, 10);
    return 0;
}

int child_init(struct vm_child *vm, struct supervisor *sup, uint32_t index, const char *path)
{
    char address[TRK_VM_TEXT_MAX + 8], bound[TRK_VM_TEXT_MAX];
    vm->sup = sup;
    vm->index = index;
    vm->listen_fd = vm->tcp_fd = vm->page_fd = -1;
    snprintf(vm->unix_path, sizeof(vm->unix_path), "%s", path);
    uv_timer_init(net_loop_uv(sup->loop), &vm->timer); /* cannot fail */
    vm->timer.data = vm;
    vm->ring = mem_alloc(OUTPUT_KEPT);
    if (vm->ring == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    int rc = make_page(vm);
    if (rc < 0) {
        return rc;
    }
    snprintf(address, sizeof(address), "unix:%s", path);
    vm->listen_fd = net_listen_fd(address, bound, sizeof(bound));
    if (vm->listen_fd < 0) {
        return vm->listen_fd;
    }
    return sup->opt.listen_host != NULL ? make_tcp(vm) : 0;
}

void child_fini(struct vm_child *vm)
{
    watched_fd_close(vm->control);
    watched_fd_close(vm->output);
    vm->control = vm->output = NULL;
    if (vm->listen_fd >= 0) {
        close(vm->listen_fd);
    }
    if (vm->tcp_fd >= 0) {
        close(vm->tcp_fd);
    }
    if (vm->page != NULL) {
        munmap(vm->page, sizeof(struct vm_page));
    }
    if (vm->page_fd >= 0) {
        close(vm->page_fd);
    }
    mem_free(vm->ring);
    vm->ring = NULL;
}
