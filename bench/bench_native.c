/* SPDX-License-Identifier: MIT */
/* bench_native.c - trivial elements through the native module on two VMs, beside what a C program
 * would do without Trickle, in one run.
 *
 *   bench_native TRICKLE_VM OBJECT [ELEMENTS [ROUNDS]]    default 1,000,000, the best of 5
 *
 *   pool 1000 two forked workers that read elements from a pipe, call the function through a
 *             pointer and write results into another, 1,000 elements at a time, two such chunks in
 *             flight for each: no result outlives anything, and chunks are the program's business
 *   pool 1    the same, but an element is sent and answered as it comes, up to 64 in flight
 *   native    the same function as a shared object, elements added one by one
 *   durable   the same in a job: each result is in the store, synced, before it is taken
 *
 * Results are summed up in each, and the sums compared. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "trickle/trickle.h"

#define WORKERS 2
#define CHUNK 1000u

static uint64_t elements = 1000000;
static char dir[] = "/tmp/trk-bench-XXXXXX", home[64];

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "bench_native: %s: %s (%s)\n", what, trk_last_error(), trk_strerror(rc));
        exit(1);
    }
}

/* --- without Trickle ------------------------------------------------------------------- */

static uint64_t add(uint64_t x)
{
    return x + 1;
}

static uint64_t (*volatile function)(uint64_t) = add;

static void transfer(int fd, void *bytes, size_t size, bool is_write)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = is_write ? write(fd, (char *)bytes + at, size - at)
                             : read(fd, (char *)bytes + at, size - at);
        if (n <= 0) {
            _exit(n < 0);
        }
        at += (size_t)n;
    }
}

static void work_for_pool(int in, int out)
{
    uint64_t chunk[CHUNK + 1]; /* how many, and they */

    for (;;) {
        transfer(in, chunk, sizeof(chunk[0]), false);
        transfer(in, chunk + 1, chunk[0] * sizeof(chunk[0]), false);
        for (uint64_t i = 1; i <= chunk[0]; i++) {
            chunk[i] = function(chunk[i]);
        }
        transfer(out, chunk, (chunk[0] + 1) * sizeof(chunk[0]), true);
    }
}

static void send_chunk(int fd, uint64_t size, uint64_t *sent)
{
    uint64_t chunk[CHUNK + 1];

    chunk[0] = elements - *sent < size ? elements - *sent : size;
    if (chunk[0] == 0) {
        return;
    }
    for (uint64_t i = 1; i <= chunk[0]; i++) {
        chunk[i] = (*sent)++;
    }
    transfer(fd, chunk, (chunk[0] + 1) * sizeof(chunk[0]), true);
}

static double run_pool(uint64_t size, unsigned in_flight, uint64_t *sum)
{
    struct pollfd polls[WORKERS];
    int out[WORKERS];
    uint64_t chunk[CHUNK + 1], sent = 0, taken = 0;
    double start;

    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < WORKERS; i++) {
        int to[2], from[2];
        if (pipe(to) < 0 || pipe(from) < 0) {
            exit(1);
        }
        if (fork() == 0) {
            close(to[1]);
            for (int k = 0; k < i; k++) {
                close(out[k]); /* its end is that of its input */
            }
            work_for_pool(to[0], from[1]);
        }
        close(to[0]);
        close(from[1]);
        out[i] = to[1];
        polls[i] = (struct pollfd){.fd = from[0], .events = POLLIN};
    }
    start = now();
    for (unsigned i = 0; i < WORKERS * in_flight; i++) {
        send_chunk(out[i % WORKERS], size, &sent);
    }
    while (taken < elements && poll(polls, WORKERS, -1) > 0) {
        for (int i = 0; i < WORKERS; i++) {
            if ((polls[i].revents & POLLIN) == 0) {
                continue;
            }
            transfer(polls[i].fd, chunk, sizeof(chunk[0]), false);
            transfer(polls[i].fd, chunk + 1, chunk[0] * sizeof(chunk[0]), false);
            for (uint64_t k = 1; k <= chunk[0]; k++) {
                *sum += chunk[k];
            }
            taken += chunk[0];
            send_chunk(out[i], size, &sent);
        }
    }
    start = now() - start;
    for (int i = 0; i < WORKERS; i++) {
        close(out[i]);
        close(polls[i].fd);
        wait(NULL);
    }
    return start;
}

/* --- with it ---------------------------------------------------------------------------- */

static int take(struct trk_work *work, int timeout_ms, uint64_t *sum)
{
    struct trk_result r;
    uint64_t x;
    int rc = trk_work_next(work, timeout_ms, &r);

    check(rc, "next");
    if (rc == 0 && (r.status != TRK_STATUS_OK || r.size != sizeof(x))) {
        fprintf(stderr, "bench_native: %.*s\n", (int)r.size, (const char *)r.payload);
        exit(1);
    }
    if (rc == 0) {
        memcpy(&x, r.payload, sizeof(x));
        *sum += x;
    }
    return rc;
}

static void run_work(struct trk_work *work, uint64_t *sum)
{
    for (uint64_t i = 0; i < elements;) {
        int rc = trk_work_add(work, &i, sizeof(i));
        check(rc, "add");
        i += rc == 0;
        if (rc == TRK_FULL && take(work, 1000, sum) == 0) {
            while (take(work, 0, sum) == 0) {
            }
        }
    }
    check(trk_work_close(work), "close");
    while (take(work, 1000, sum) != TRK_END) {
    }
}

static void vms(struct trk_farm *farm, struct trk_vmlist **list)
{
    int rc = trk_connect_start(farm, WORKERS, true, 10000, list);

    check(rc, "connect");
    do {
        rc = trk_connect_wait(*list, 1000);
        check(rc, "connect");
    } while (rc == TRK_AGAIN);
}

static double run_native(const char *object, bool is_durable, uint64_t *sum)
{
    struct trk_farm_options fo = {.size = sizeof(fo), .program = "bench", .runtime_dir = dir};
    struct trk_job_options jo = {.size = sizeof(jo), .name = "native", .home = home};
    struct trk_work_options wo = {.size = sizeof(wo), .name = "add", .lazy = true,
                                  .module = TRK_NATIVE_MODULE,
                                  .key = is_durable ? "add#1" : NULL};
    struct trk_job_opened opened;
    struct trk_native native;
    struct trk_farm *farm;
    struct trk_work *work;
    double start;

    if (is_durable) {
        check(trk_job_open(&fo.job, &jo, &opened), "job");
    }
    check(trk_farm_new(&farm, &fo), "farm");
    vms(farm, &wo.list);
    check(trk_native_send(farm, object, "add", &native), "object");
    wo.function = native.function;
    wo.function_size = native.function_size;
    memcpy(wo.fingerprint, native.fingerprint, sizeof(wo.fingerprint));
    start = now();
    check(trk_work_new(farm, &wo, &work), "work");
    run_work(work, sum);
    start = now() - start;
    trk_work_free(work);
    trk_native_free(&native);
    trk_vmlist_free(wo.list);
    trk_farm_close(farm, 2000);
    if (is_durable) {
        check(trk_job_close(fo.job), "the job");
        char command[128];
        snprintf(command, sizeof(command), "rm -rf %s", home);
        (void)!system(command);
    }
    return start;
}

static pid_t start_vms(const char *program)
{
    char ready[16] = "", fd[16];
    int fds[2];
    pid_t pid;

    if (pipe(fds) < 0) {
        exit(1);
    }
    snprintf(fd, sizeof(fd), "%d", fds[1]);
    pid = fork();
    if (pid == 0) {
        close(fds[0]);
        execl(program, program, "--rai", "native", "-n", "2", "--runtime", dir, "--ready-fd", fd,
              "--die-with-parent", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    if (read(fds[0], ready, sizeof(ready)) <= 0) {
        fprintf(stderr, "bench_native: %s did not start\n", program);
        exit(1);
    }
    close(fds[0]);
    return pid;
}

enum { POOL, POOL_SINGLE, NATIVE, DURABLE, COUNT };
static const char *const names[COUNT] = {"pool 1000", "pool 1", "native", "durable"};

static double run(int which, const char *object, uint64_t *sum)
{
    switch (which) {
    case POOL:
        return run_pool(CHUNK, 2, sum);
    case POOL_SINGLE:
        return run_pool(1, 64, sum);
    default:
        return run_native(object, which == DURABLE, sum);
    }
}

int main(int argc, char **argv)
{
    double best[COUNT] = {0};
    int rounds = argc > 4 ? atoi(argv[4]) : 5;
    char command[128];
    pid_t pid;

    if (argc < 3 || mkdtemp(dir) == NULL) {
        fprintf(stderr, "usage: bench_native TRICKLE_VM OBJECT [ELEMENTS [ROUNDS]]\n");
        return 2;
    }
    elements = argc > 3 ? strtoull(argv[3], NULL, 10) : elements;
    snprintf(home, sizeof(home), "%s/home", dir);
    setenv("XDG_CACHE_HOME", dir, 1);
    pid = start_vms(argv[1]);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < COUNT; i++) {
            uint64_t sum = 0;
            double took = run(i, argv[2], &sum);
            if (sum != elements * (elements + 1) / 2) {
                fprintf(stderr, "bench_native: %s gave a wrong sum\n", names[i]);
                return 1;
            }
            best[i] = round == 0 || took < best[i] ? took : best[i];
        }
    }
    for (int i = 0; i < COUNT; i++) {
        printf("%-10s %11.0f elements/s   %6.2f of pool 1\n", names[i],
               (double)elements / best[i], best[POOL_SINGLE] / best[i]);
    }
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) != 0;
}
