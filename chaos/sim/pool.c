/* SPDX-License-Identifier: MIT */
/* pool.c - processes that take seeds from a shared counter.
 *
 * What a process says when it breaks goes to a file without a name, so that the line with seed
 * and replay command can be printed before it. Then the seed is told once more, and the end of its
 * story printed: a log of a failed test has all that is needed. When the whole is told to stop,
 * as by a test runner whose patience has ended, it says which seeds were under way. */
#include "pool.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cover.h"
#include "revision.h"

#define JOBS_MAX 256u
#define STORIES_MAX 3u   /* failures whose story is told */
#define STORY_BYTES 6000 /* of its end */
#define WORDS_MAX 24

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

static volatile sig_atomic_t stop_signal; /* that has come, or 0 */

static void on_stop(int signal)
{
    stop_signal = signal;
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* This process ends when it has computed for so long: however busy the machine is. */
static void watch(unsigned seconds)
{
    struct itimerval timer = {.it_value.tv_sec = (time_t)seconds};
    setitimer(ITIMER_PROF, &timer, NULL);
}

static _Noreturn void work(struct shared *sh, struct worker *w, const struct pool_options *opt,
                           double until)
{
    dup2(w->said, STDERR_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    for (;;) {
        w->seed = atomic_fetch_add(&sh->next, 1);
        if (w->seed > opt->last || (until > 0 && now_seconds() >= until)) {
            break;
        }
        watch(opt->watch_seconds);
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

/* Tells a seed once more, and prints the end of its story. */
static void print_story(uint64_t seed, const struct pool_options *opt)
{
    char options[256], number[24], text[STORY_BYTES + 1], *at, *line;
    const char *words[WORDS_MAX] = {"sim", "--no-fork", "--trace", "--seed", number};
    int count = 5, story = memfd_create("story", MFD_CLOEXEC);
    off_t size;
    ssize_t n;
    pid_t pid;
    snprintf(number, sizeof(number), "%llu", (unsigned long long)seed);
    snprintf(options, sizeof(options), "%s", opt->options);
    for (char *word = strtok_r(options, " ", &at); word != NULL && count + 1 < WORDS_MAX;
         word = strtok_r(NULL, " ", &at)) {
        words[count++] = word;
    }
    fflush(NULL);
    pid = story < 0 ? -1 : fork();
    if (pid == 0) {
        dup2(story, STDOUT_FILENO);
        dup2(story, STDERR_FILENO);
        watch(opt->watch_seconds);
        execv("/proc/self/exe", (char *const *)words);
        _Exit(3);
    }
    if (pid < 0 || waitpid(pid, NULL, 0) < 0) {
        close(story);
        return;
    }
    size = lseek(story, 0, SEEK_END);
    n = pread(story, text, STORY_BYTES, size > STORY_BYTES ? size - STORY_BYTES : 0);
    text[n > 0 ? n : 0] = '\0';
    line = size > STORY_BYTES ? strchr(text, '\n') : NULL;
    fprintf(stderr, "the end of its story:\n%s", line != NULL ? line + 1 : text);
    close(story);
}

static void describe(const struct worker *w, const struct pool_options *opt, int status)
{
    char text[4096];
    off_t at = 0;
    ssize_t n;
    fprintf(stderr, "FAILED seed=%llu git=%s options=\"%s\" replay: build/chaos/sim%s%s --seed "
            "%llu --trace\n", (unsigned long long)w->seed, SIM_REVISION, opt->options,
            opt->options[0] != '\0' ? " " : "", opt->options, (unsigned long long)w->seed);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF) {
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

/* Told to stop: says what was under way. */
static _Noreturn void stop(struct shared *sh, unsigned jobs, const struct pool_options *opt)
{
    stop_all(sh, jobs);
    fprintf(stderr, "STOPPED by SIG%s, git=%s, while these were under way:\n",
            sigabbrev_np(stop_signal), SIM_REVISION);
    for (unsigned i = 0; i < jobs; i++) {
        if (sh->workers[i].pid > 0) {
            fprintf(stderr, "  build/chaos/sim%s%s --seed %llu --trace\n",
                    opt->options[0] != '\0' ? " " : "", opt->options,
                    (unsigned long long)sh->workers[i].seed);
        }
    }
    exit(1);
}

/* Waits for one process to end; returns how it did. */
static struct worker *reap(struct shared *sh, unsigned jobs, int *status)
{
    pid_t pid;
    do {
        pid = waitpid(-1, status, 0);
    } while (pid < 0 && errno == EINTR && stop_signal == 0);
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
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_stop}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_stop}, NULL);
    while (stop_signal == 0 && (w = reap(sh, jobs, &status)) != NULL) {
        bool is_broken = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        if (is_broken && (failed == 0 || opt->keep_going)) {
            failed++;
            describe(w, opt, status);
            if (!opt->keep_going) {
                stop_all(sh, jobs);
            }
            if (failed <= STORIES_MAX) {
                print_story(w->seed, opt);
            }
        }
        close(w->said);
        if (is_broken && opt->keep_going) {
            start(sh, w, opt, until);
        }
    }
    if (stop_signal != 0) {
        stop(sh, jobs, opt);
    }
    for (unsigned i = 0; i < jobs; i++) {
        tally_sum(tally, &sh->workers[i].tally);
    }
    cover_take(&sh->cover);
    munmap(sh, sizeof(*sh));
    return failed;
}
