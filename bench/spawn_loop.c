/* SPDX-License-Identifier: MIT */
/* spawn_loop.c - how fast are commands with nothing around them? N processes that each run
 * posix_spawn and waitpid in a loop: what trickle map is measured against.
 *
 *   spawn_loop [-s] [-j WORKERS] COUNT COMMAND [ARGUMENT]...
 *
 * -s: each worker in a session of its own, as VMs are, because Linux shares CPU time by sessions.
 * Prints commands per second, a line of one number. */
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int run_all(long count, char **argv)
{
    for (long i = 0; i < count; i++) {
        pid_t pid;
        int status, rc = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
        if (rc != 0) {
            fprintf(stderr, "spawn_loop: %s: %s\n", argv[0], strerror(rc));
            return 1;
        }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (status != 0) {
            fprintf(stderr, "spawn_loop: %s: wait status %d\n", argv[0], status);
            return 1;
        }
    }
    return 0;
}

static long parse_count(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end != '\0' || value < 1 || value > 1000000000) {
        fprintf(stderr, "spawn_loop: %s is no number of commands or workers\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    long workers = 2;
    int option, failed = 0, has_sessions = 0, status;
    while ((option = getopt(argc, argv, "+sj:")) != -1) {
        if (option == 's') {
            has_sessions = 1;
        } else {
            workers = option == 'j' ? parse_count(optarg) : 0;
        }
    }
    if (workers < 1 || argc - optind < 2) {
        fprintf(stderr, "Usage: spawn_loop [-s] [-j WORKERS] COUNT COMMAND [ARGUMENT]...\n");
        return 2;
    }
    long count = parse_count(argv[optind]);
    double start = now_s();
    for (long i = 0; i < workers; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (has_sessions) {
                setsid();
            }
            _exit(run_all(count / workers + (i < count % workers), argv + optind + 1));
        }
        failed |= pid < 0;
    }
    while (wait(&status) > 0 || errno == EINTR) {
        failed |= status != 0;
    }
    printf("%.0f\n", (double)count / (now_s() - start));
    return failed;
}
