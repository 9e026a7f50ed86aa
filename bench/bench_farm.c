/* SPDX-License-Identifier: MIT */
/* bench_farm.c - one real farm thread against a thousand VMs that only speak the protocol.
 *
 *   bench_farm [VMS [ELEMENT_MS [SECONDS]]]      default 1000 5 10; from 1 ms on
 *
 * A child process plays a supervisor and its VMs: it takes leases, answers each element after
 * ELEMENT_MS of "computing" (no processor is used for that), one message per element, and notes
 * how long each VM heard nothing from the farm. The parent is an ordinary program. Printed:
 * elements per second, CPU seconds per second of both, and the longest silence a VM saw, which
 * has to stay below suspect_after. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/session.h"
#include "trickle/trickle.h"
#include "wire/msg.h"

#define QUEUE 64

struct run {
    uint32_t stage, attempt;
    uint64_t index, ready_ns;
};

/* A pretended VM: its elements finish one after the other. */
struct fake {
    struct net_session *session;
    uint32_t number;
    uint64_t seq, busy_until_ns, silent_max_ms;
    struct run runs[QUEUE];
    uint32_t head, count;
};

static struct {
    struct net_loop *loop;
    struct fake *fakes;
    uint32_t count;
    uint64_t element_ns, results;
    char dir[64];
} g;

static void check(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "bench_farm: %s: %s\n", what, trk_strerror(rc));
        exit(1);
    }
}

static void info_of(uint32_t number, struct trk_vm_info *info)
{
    *info = (struct trk_vm_info){.index = number, .state = TRK_VM_IDLE, .pid = 100000 + number,
                                 .cores = 1};
    memset(info->supervisor, 7, 16);
    memcpy(info->incarnation, &number, 4);
    info->incarnation[15] = 1;
    snprintf(info->host, sizeof(info->host), "bench");
    snprintf(info->module, sizeof(info->module), "fake");
    snprintf(info->address, sizeof(info->address), "unix:%s/v-%u.sock", g.dir, number);
}

static void answer_hello(struct net_session *s, uint32_t number, bool is_vm)
{
    struct wire_welcome welcome = {.is_accepted = true};

    memset(welcome.supervisor, 7, 16);
    if (is_vm) {
        info_of(number, &welcome.vm);
    }
    net_session_set_trusted(s);
    check(net_session_send(s, WIRE_WELCOME, 0, wire_welcome_encode(&welcome)), "WELCOME");
}

static void vm_take_run(struct fake *vm, const struct blob *body)
{
    struct wire_run run;
    uint64_t now = sys_now_ns();

    check(wire_run_decode(&run, body), "RUN");
    for (uint32_t i = 0; i < run.count; i++) {
        if (vm->count == QUEUE) {
            fprintf(stderr, "bench_farm: more than %d elements queued on a VM\n", QUEUE);
            exit(1);
        }
        vm->busy_until_ns = (vm->busy_until_ns > now ? vm->busy_until_ns : now) + g.element_ns;
        vm->runs[(vm->head + vm->count++) % QUEUE] =
            (struct run){run.stage, run.attempt, run.first + i, vm->busy_until_ns};
    }
}

static void on_vm_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct fake *vm = user;

    if (msg->type == WIRE_HELLO) {
        answer_hello(s, vm->number, true);
    } else if (msg->type == WIRE_RUN) {
        vm_take_run(vm, msg->body);
    } else if (msg->type == WIRE_BYE) {
        net_session_close(s, false);
    }
    blob_unref(msg->body);
}

static void on_vm_close(struct net_session *s, void *user, int error, const char *why)
{
    struct fake *vm = user;

    vm->session = NULL;
    vm->count = 0;
    net_session_unref(s);
}

static void on_sup_message(struct net_session *s, void *user, struct wire_message *msg)
{
    if (msg->type == WIRE_HELLO) {
        struct wire_vms vms = {.is_all = true, .count = g.count};

        memset(vms.supervisor, 7, 16);
        vms.infos = mem_zalloc(g.count, sizeof(*vms.infos));
        for (uint32_t i = 0; i < g.count; i++) {
            info_of(i, &vms.infos[i]);
        }
        answer_hello(s, 0, false);
        check(net_session_send(s, WIRE_VMS, 0, wire_vms_encode(&vms)), "VMS");
        mem_free(vms.infos);
    }
    blob_unref(msg->body);
}

static void on_sup_close(struct net_session *s, void *user, int error, const char *why)
{
    net_session_unref(s);
}

static const struct net_session_ops vm_ops = {.on_message = on_vm_message, .on_close = on_vm_close};
static const struct net_session_ops sup_ops = {.on_message = on_sup_message,
                                               .on_close = on_sup_close};

static void on_vm_accept(void *user, int fd)
{
    struct fake *vm = user;
    struct net_session_options opt = {.ops = &vm_ops, .user = vm};

    check(net_session_accept(g.loop, fd, &opt, &vm->session), "accept");
}

static void on_sup_accept(void *user, int fd)
{
    struct net_session_options opt = {.ops = &sup_ops};
    struct net_session *s;

    check(net_session_accept(g.loop, fd, &opt, &s), "accept");
}

static void finish_due(struct fake *vm, uint64_t now)
{
    while (vm->count > 0 && vm->runs[vm->head].ready_ns <= now && vm->session != NULL) {
        struct run *r = &vm->runs[vm->head];
        struct wire_result head = {.stage = r->stage, .attempt = r->attempt, .count = 1,
                                   .first = r->index, .seq = ++vm->seq,
                                   .busy_ns = g.element_ns > 0 ? g.element_ns : 1000};
        uint8_t status = TRK_STATUS_OK;
        uint32_t size = 8;

        vm->head = (vm->head + 1) % QUEUE;
        vm->count--;
        g.results++;
        if (net_session_send(vm->session, WIRE_RESULT, 0,
                             wire_result_encode(&head, &status, &size, &r->index, 8)) < 0) {
            return;
        }
    }
}

static void on_tick(uv_timer_t *timer)
{
    uint64_t now = sys_now_ns();

    for (uint32_t i = 0; i < g.count; i++) {
        struct fake *vm = &g.fakes[i];
        if (vm->session != NULL) {
            uint64_t silent = net_session_silent_ms(vm->session);
            vm->silent_max_ms = silent > vm->silent_max_ms ? silent : vm->silent_max_ms;
            finish_due(vm, now);
        }
    }
}

static void on_term(uv_signal_t *handle, int signum)
{
    struct rusage use;
    uint64_t worst = 0;

    for (uint32_t i = 0; i < g.count; i++) {
        worst = g.fakes[i].silent_max_ms > worst ? g.fakes[i].silent_max_ms : worst;
    }
    getrusage(RUSAGE_SELF, &use);
    printf("the VMs: %.2f CPU s in all, the longest silence of the farm %llu ms\n",
           (double)use.ru_utime.tv_sec + (double)use.ru_stime.tv_sec +
               (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6,
           (unsigned long long)worst);
    fflush(stdout);
    _exit(0);
}

static void be_the_vms(int ready)
{
    static uv_timer_t tick;
    static uv_signal_t term;
    struct net_listener *listener;
    char address[160], bound[160];

    g.fakes = mem_zalloc(g.count, sizeof(*g.fakes));
    check(g.fakes != NULL ? net_loop_new(&g.loop) : TRK_ENOMEM, "loop");
    for (uint32_t i = 0; i <= g.count; i++) {
        int fd;
        if (i < g.count) {
            g.fakes[i].number = i;
            snprintf(address, sizeof(address), "unix:%s/v-%u.sock", g.dir, i);
        } else {
            snprintf(address, sizeof(address), "unix:%s/s-1-bench.sock", g.dir);
        }
        fd = net_listen_fd(address, bound, sizeof(bound));
        check(fd, address);
        check(net_listener_start(g.loop, fd, i < g.count ? on_vm_accept : on_sup_accept,
                                 &g.fakes[i < g.count ? i : 0], &listener), "listen");
    }
    uv_timer_init(net_loop_uv(g.loop), &tick);
    uv_timer_start(&tick, on_tick, 1, 1);
    uv_signal_init(net_loop_uv(g.loop), &term);
    uv_signal_start(&term, on_term, SIGTERM);
    if (write(ready, "r", 1) != 1) {
        exit(1);
    }
    net_loop_run(g.loop);
}

static int next(struct trk_work *work, int timeout_ms)
{
    struct trk_result r;
    int rc = trk_work_next(work, timeout_ms, &r);

    check(rc, "next");
    if (rc == 0 && r.status != TRK_STATUS_OK) {
        fprintf(stderr, "bench_farm: %.*s\n", (int)r.size, (const char *)r.payload);
        exit(1);
    }
    return rc;
}

static void be_the_program(double seconds)
{
    struct trk_farm_options opt = {.size = sizeof(opt), .program = "bench", .runtime_dir = g.dir};
    struct trk_work_options wo = {.size = sizeof(wo), .name = "fake", .function = "", .lazy = true};
    struct trk_farm *farm;
    struct trk_work *work;
    struct rusage use;
    uint64_t taken = 0, start, end, i = 0;
    double cpu;

    check(trk_farm_new(&farm, &opt), "farm");
    check(trk_connect_start(farm, 0, false, 0, &wo.list), "connect");
    for (int rc = TRK_AGAIN; rc == TRK_AGAIN;) {
        rc = trk_connect_wait(wo.list, 1000);
        check(rc, trk_last_error());
    }
    check(trk_work_new(farm, &wo, &work), "work");
    getrusage(RUSAGE_SELF, &use);
    cpu = -(double)use.ru_utime.tv_sec - (double)use.ru_stime.tv_sec -
          (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    start = sys_now_ns();
    end = start + (uint64_t)(seconds * 1e9);
    while (sys_now_ns() < end) {
        int rc = trk_work_add(work, &i, 8);
        check(rc, "add");
        i += rc == 0;
        while (rc == TRK_FULL && next(work, 100) == 0) {
            taken++;
            rc = 0;
            while (next(work, 0) == 0) {
                taken++;
            }
        }
    }
    end = sys_now_ns();
    getrusage(RUSAGE_SELF, &use);
    cpu += (double)use.ru_utime.tv_sec + (double)use.ru_stime.tv_sec +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    printf("%zu VMs, elements of %.0f ms: %.0f elements/s, the program and its farm thread use "
           "%.2f CPU s per second\n", trk_vmlist_length(wo.list), (double)g.element_ns / 1e6,
           (double)taken * 1e9 / (double)(end - start), cpu * 1e9 / (double)(end - start));
    fflush(stdout);
    trk_work_free(work);
    trk_vmlist_free(wo.list);
    trk_farm_close(farm, 2000);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    int ready[2];
    char byte;
    pid_t pid;

    g.count = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000;
    g.element_ns = (uint64_t)((argc > 2 ? atof(argv[2]) : 5) * 1e6);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    snprintf(g.dir, sizeof(g.dir), "/tmp/trk-bench-XXXXXX");
    if (g.count == 0 || g.element_ns < 1000000) {
        fprintf(stderr, "usage: bench_farm [VMS [ELEMENT_MS [SECONDS]]]\n");
        return 2;
    }
    if (mkdtemp(g.dir) == NULL || pipe(ready) < 0 || (pid = fork()) < 0) {
        perror("bench_farm");
        return 1;
    }
    if (pid == 0) {
        be_the_vms(ready[1]);
        return 1;
    }
    if (read(ready[0], &byte, 1) == 1) {
        be_the_program(argc > 3 ? atof(argv[3]) : 10);
    }
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    for (uint32_t i = 0; i <= g.count; i++) {
        char path[128];
        snprintf(path, sizeof(path), i < g.count ? "%s/v-%u.sock" : "%s/s-1-bench.sock", g.dir, i);
        unlink(path);
    }
    return rmdir(g.dir) < 0;
}
