/* SPDX-License-Identifier: MIT */
/* main.c - the command line of the simulator. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cover.h"
#include "pool.h"
#include "revision.h"

#define COVER_SEEDS 10000 /* so many are enough to say that a transition is never taken */

static const char usage_text[] =
    "usage: sim [OPTION...]\n"
    "Runs whole farms on a virtual clock, each from a seed, and judges what they did.\n"
    "  --seeds A..B      these seeds, on all cores (default 1..1000)\n"
    "  --seed N          this one\n"
    "  --fresh N         N seeds that nobody has run (from the time of day)\n"
    "  --minutes M       until so much time has passed\n"
    "  --trace           with --seed: tell the story\n"
    "  --vms N           so many VMs (up to 10000) instead of what the seed says\n"
    "  --elements N      so many elements in all\n"
    "  --jobs N          so many processes (default: one per core)\n"
    "  --straggler       instead: how long four VMs take when one is ten times slower\n"
    "  --keep-going      go on after a failure\n"
    "  --no-coverage     leave out which transitions were taken\n"
    "  --no-fork         with --seed: in this process, for a debugger\n"
    "Exit status: 0 all promises were kept, 1 one was broken, 2 usage.\n";

struct arguments {
    struct pool_options pool;
    bool has_seed, has_coverage, has_fork, is_straggler;
    char options[256];    /* those that a replay needs */
};

static uint64_t number(const char *text, const char **end)
{
    char *stop;
    errno = 0;
    uint64_t value = strtoull(text, &stop, 10);
    if (stop == text || errno != 0 || text[0] == '-') {
        fprintf(stderr, "sim: %s is no number\n", text);
        exit(2);
    }
    if (end != NULL) {
        *end = stop;
    } else if (*stop != '\0') {
        fprintf(stderr, "sim: %s is no number\n", text);
        exit(2);
    }
    return value;
}

static void parse_seeds(struct pool_options *p, const char *text)
{
    const char *end;
    p->first = p->last = number(text, &end);
    if (strncmp(end, "..", 2) == 0) {
        p->last = number(end + 2, NULL);
    } else if (*end != '\0') {
        fprintf(stderr, "sim: seeds are given as 1..1000\n");
        exit(2);
    }
}

static void remember(struct arguments *a, const char *name, const char *value)
{
    size_t at = strlen(a->options);
    snprintf(a->options + at, sizeof(a->options) - at, "%s--%s %s", at > 0 ? " " : "", name,
             value);
}

static const struct option long_options[] = {
    {"seeds", required_argument, NULL, 's'},   {"seed", required_argument, NULL, 'S'},
    {"fresh", required_argument, NULL, 'F'},   {"minutes", required_argument, NULL, 'm'},
    {"trace", no_argument, NULL, 't'},         {"vms", required_argument, NULL, 'v'},
    {"elements", required_argument, NULL, 'e'}, {"jobs", required_argument, NULL, 'j'},
    {"keep-going", no_argument, NULL, 'k'},    {"no-coverage", no_argument, NULL, 'c'},
    {"no-fork", no_argument, NULL, 'f'},       {"straggler", no_argument, NULL, 'g'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0}};

static void fresh(struct pool_options *p, uint64_t count)
{
    p->first = (uint64_t)time(NULL) * 100000;
    p->last = count > 0 ? p->first + count - 1 : UINT64_MAX - 1;
}

static void parse_one(struct arguments *a, int option)
{
    struct pool_options *p = &a->pool;
    switch (option) {
    case 's':
        parse_seeds(p, optarg);
        break;
    case 'S':
        p->first = p->last = number(optarg, NULL);
        a->has_seed = true;
        break;
    case 'F':
        fresh(p, number(optarg, NULL));
        break;
    case 'm':
        p->seconds = 60 * strtod(optarg, NULL);
        break;
    case 't':
        p->sim.is_traced = true;
        break;
    case 'v':
        p->sim.vms = (uint32_t)number(optarg, NULL);
        remember(a, "vms", optarg);
        break;
    case 'e':
        p->sim.elements = number(optarg, NULL);
        remember(a, "elements", optarg);
        break;
    case 'j':
        p->jobs = (unsigned)number(optarg, NULL);
        break;
    case 'k':
        p->keep_going = true;
        break;
    case 'c':
        a->has_coverage = false;
        break;
    case 'f':
        a->has_fork = false;
        break;
    case 'g':
        a->is_straggler = true;
        break;
    case 'h':
        fputs(usage_text, stdout);
        exit(0);
    default:
        fputs(usage_text, stderr);
        exit(2);
    }
}

static void parse(struct arguments *a, int argc, char **argv)
{
    struct pool_options *p = &a->pool;
    int option;
    a->has_coverage = a->has_fork = true;
    p->first = 1;
    p->last = 0;
    p->sim.elements = UINT64_MAX;
    p->options = a->options;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        parse_one(a, option);
    }
    if (p->last == 0 && p->seconds > 0) {
        fresh(p, 0);
    } else if (p->last == 0 && !a->has_seed) {
        p->last = 1000;
    }
    if (p->jobs == 0) {
        p->jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    }
    if (p->last - p->first < p->jobs) {
        p->jobs = (unsigned)(p->last - p->first) + 1;
    }
    p->watch_seconds = a->options[0] != '\0' ? 1800 : 60;
    if (optind < argc || p->sim.vms > 10000 || (p->sim.is_traced && !a->has_seed)) {
        fputs(usage_text, stderr);
        exit(2);
    }
}

static void print_tally(const struct tally *t, double seconds, const struct pool_options *p)
{
    double rate = seconds > 0 ? (double)t->seeds / seconds : 0;
    printf("%llu schedules in %.1f s: %.0f per second, %.0f per second and process (%u)\n",
           (unsigned long long)t->seeds, seconds, rate, rate / p->jobs, p->jobs);
    printf("%llu events (%.0f per schedule), %llu elements, %llu runs, %llu results delivered, "
           "%.1f h of virtual time, digest %016llx\n",
           (unsigned long long)t->events, (double)t->events / (double)(t->seeds ? t->seeds : 1),
           (unsigned long long)t->elements, (unsigned long long)t->runs,
           (unsigned long long)t->results, (double)t->virtual_ns / 3.6e12,
           (unsigned long long)t->digest);
    printf("%llu VMs lost, %llu blocked, %llu elements given up, %llu reports dropped, %llu stages "
           "cancelled\n", (unsigned long long)t->lost, (unsigned long long)t->blocked,
           (unsigned long long)t->failed, (unsigned long long)t->dropped,
           (unsigned long long)t->cancelled);
    printf("%llu results restored by later runs, %llu handed over by supervisors\n",
           (unsigned long long)t->restored, (unsigned long long)t->handed);
    printf("faults:");
    for (int k = 0; k < FAULT_COUNT; k++) {
        printf(" %s %llu%s", fault_names[k], (unsigned long long)t->faults[k],
               k + 1 < FAULT_COUNT ? "," : "\n");
    }
}

/* The same seeds, at most so many, with the build that has marks: prints what was taken. */
static int run_marks(const struct arguments *a)
{
    char path[PATH_MAX], seeds[64];
    uint64_t last = a->pool.last;
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);
    int status = 0;
    pid_t pid;
    if (n < 0) {
        return 0;
    }
    snprintf(path + n, 8, "-marks");
    last = last - a->pool.first >= COVER_SEEDS ? a->pool.first + COVER_SEEDS - 1 : last;
    snprintf(seeds, sizeof(seeds), "%llu..%llu", (unsigned long long)a->pool.first,
             (unsigned long long)last);
    if (access(path, X_OK) < 0) {
        printf("coverage: %s is not built\n", path);
        return 0;
    }
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        execl(path, path, "--seeds", seeds, (char *)NULL);
        _Exit(3);
    }
    return pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) ||
           WEXITSTATUS(status) != 0;
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Against the best that four VMs could do of which one has a tenth of the others' speed. */
static int run_straggler(void)
{
    static const uint64_t each_ns[] = {1 * MS, 10 * MS, 100 * MS, 1 * SEC};
    bool is_bad = false;
    for (size_t i = 0; i < sizeof(each_ns) / sizeof(each_ns[0]); i++) {
        for (uint64_t elements = 400; elements <= 4000; elements *= 10) {
            struct plan plan;
            struct sim_options opt = {.plan = &plan};
            struct tally tally = {0};
            double ratio;
            plan_straggler(&plan, elements, each_ns[i]);
            sim_run(1, &opt, &tally);
            ratio = (double)tally.virtual_ns / ((double)(elements * each_ns[i]) / 3.1);
            printf("%5llu elements of %7.1f ms: %8.3f s, %.3f of the ideal%s\n",
                   (unsigned long long)elements, (double)each_ns[i] / 1e6,
                   (double)tally.virtual_ns / 1e9, ratio, ratio > 1.15 ? "  TOO LONG" : "");
            is_bad = is_bad || ratio > 1.15;
        }
    }
    return is_bad;
}

int main(int argc, char **argv)
{
    static struct arguments a;
    static struct tally tally;
    double start = now_seconds();
    unsigned failed = 0, holes;
    parse(&a, argc, argv);
    if (log_set_level("error") < 0) {
        return 3;
    }
    if (a.is_straggler) {
        return run_straggler();
    }
    if (!a.has_fork) {
        for (uint64_t seed = a.pool.first; seed <= a.pool.last; seed++) {
            sim_run(seed, &a.pool.sim, &tally);
        }
    } else {
        failed = pool_run(&a.pool, &tally);
    }
    if (cover_exists() && failed == 0) {
        holes = cover_print();
        printf("%llu schedules, %u holes, digest %016llx\n", (unsigned long long)tally.seeds,
               holes, (unsigned long long)tally.digest);
        return 0;
    }
    printf("seeds %llu..%llu, git %s\n", (unsigned long long)a.pool.first,
           (unsigned long long)(a.pool.seconds > 0 ? a.pool.first + tally.seeds - 1 : a.pool.last),
           SIM_REVISION);
    print_tally(&tally, now_seconds() - start, &a.pool);
    if (failed == 0 && !a.has_seed && a.has_coverage && a.options[0] == '\0' &&
        a.pool.seconds == 0) {
        failed += run_marks(&a) != 0;
    }
    return failed > 0;
}
