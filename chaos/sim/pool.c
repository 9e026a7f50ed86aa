/* SPDX-License-Identifier: MIT */
/* pool.c - processes that take seeds from a shared counter.
 *
 * What a process says when it breaks goes to a file without a name, so that the line with seed
 * and replay command can be printed before it. */
#include "pool.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cover.h"
#include "revision.h"

#define JOBS_MAX 256u

/* One process's part of the shared memory. */
struct worker {
    pid_t pid;            /* 0: none */
    uint64_t seed;        /* that it runs now */
    int said;             /* descriptor of what it said */
    struct tally tally;
};

struct shared {
    atomic_uint_fast64_t next; /* seed */
    struct cover cover;
    struct worker workers[JOBS_MAX];
};

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static _Noreturn void work(struct shared *sh, struct worker *w, const struct pool_options *opt,
                           double until)
{
    dup2(w->said, STDERR_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        w->seed = atomic_fetch_add(&sh->next, 1);
        if (w->seed > opt->last || (until > 0 && now_seconds() >= until)) {
            break;
        }
        alarm(opt->watch_seconds);
        sim_run(w->seed, &opt->sim, &w->tally);
    }
    cover_add(&sh->cover);
    fflush(NULL);
    _Exit(0);
}

static void start(struct shared *sh, struct worker *w, const struct pool_options *opt,
                  double until)
{
    pid_t pid;
    w->said = memfd_create("said", MFD_CLOEXEC);
    fflush(NULL);
    pid = w->said < 0 ? -1 : fork();
    if (pid < 0) {
        fprintf(stderr, "sim: cannot start a process: %s\n", strerror(errno));
        exit(3);
    }
    if (pid == 0) {
        work(sh, w, opt, until);
    }
    w->pid = pid; /* written here only: the child shares this memory */
}

static void describe(const struct worker *w, const struct pool_options *opt, int status)
{
    char text[4096];
    off_t at = 0;
    ssize_t n;
    fprintf(stderr, "FAILED seed=%llu git=%s options=\"%s\" replay: build/chaos/sim%s%s --seed "
            "%llu --trace\n", (unsigned long long)w->seed, SIM_REVISION, opt->options,
            opt->options[0] != '\0' ? " " : "", opt->options, (unsigned long long)w->seed);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        fprintf(stderr, "it took longer than %u s\n", opt->watch_seconds);
    } else if (WIFSIGNALED(status)) {
        fprintf(stderr, "killed by SIG%s\n", sigabbrev_np(WTERMSIG(status)));
    }
    while ((n = pread(w->said, text, sizeof(text), at)) > 0) {
        fwrite(text, 1, (size_t)n, stderr);
        at += n;
    }
}

static void stop_all(struct shared *sh, unsigned jobs)
{
    for (unsigned i = 0; i < jobs; i++) {
        if (sh->workers[i].pid > 0) {
            kill(sh->workers[i].pid, SIGKILL);
        }
    }
}

/* Waits for one process to end; returns how it did. */
static struct worker *reap(struct shared *sh, unsigned jobs, int *status)
{
    pid_t pid;
    do {
        pid = waitpid(-1, status, 0);
    } while (pid < 0 && errno == EINTR);
    for (unsigned i = 0; pid > 0 && i < jobs; i++) {
        if (sh->workers[i].pid == pid) {
            sh->workers[i].pid = 0;
            return &sh->workers[i];
        }
    }
    return NULL;
}

static void tally_sum(struct tally *to, const struct tally *from)
{
    /* A tally is nothing but counts of 64 bits. */
    uint64_t *sum = (uint64_t *)to;
    const uint64_t *add = (const uint64_t *)from;
    for (size_t i = 0; i < sizeof(*to) / sizeof(*sum); i++) {
        sum[i] += add[i];
    }
}

unsigned pool_run(const struct pool_options *opt, struct tally *tally)
{
    double until = opt->seconds > 0 ? now_seconds() + opt->seconds : 0;
    unsigned jobs = opt->jobs < JOBS_MAX ? opt->jobs : JOBS_MAX;
    unsigned failed = 0;
    int status;
    struct worker *w;
    struct shared *sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED) {
        fprintf(stderr, "sim: no shared memory: %s\n", strerror(errno));
        exit(3);
    }
    atomic_init(&sh->next, opt->first);
    for (unsigned i = 0; i < jobs; i++) {
        start(sh, &sh->workers[i], opt, until);
    }
    while ((w = reap(sh, jobs, &status)) != NULL) {
        bool is_broken = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        if (is_broken && (failed == 0 || opt->keep_going)) {
            failed++;
            describe(w, opt, status);
            if (!opt->keep_going) {
                stop_all(sh, jobs);
            }
        }
        close(w->said);
        if (is_broken && opt->keep_going) {
            start(sh, w, opt, until);
        }
    }
    for (unsigned i = 0; i < jobs; i++) {
        tally_sum(tally, &sh->workers[i].tally);
    }
    cover_take(&sh->cover);
    munmap(sh, sizeof(*sh));
    return failed;
}
