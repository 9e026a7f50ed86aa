/* SPDX-License-Identifier: MIT */
/* bench_pingpong.c - the floor under every call: a message over a unix socket to another process
 * and back, with nothing but read and write. Prints the median round trip in microseconds.
 *
 *   bench_pingpong [ROUNDS [BYTES]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BYTES_MAX = 65536 };

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* False at the end of the stream. */
static int read_all(int fd, char *buffer, size_t size)
{
    while (size > 0) {
        ssize_t n = read(fd, buffer, size);
        if (n <= 0) {
            return 0;
        }
        buffer += n;
        size -= (size_t)n;
    }
    return 1;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int ping(int fd, char *buffer, size_t size, double *times, size_t rounds)
{
    for (size_t i = 0; i < rounds; i++) {
        double start = now_us();
        if (write(fd, buffer, size) != (ssize_t)size || !read_all(fd, buffer, size)) {
            return 0;
        }
        times[i] = now_us() - start;
    }
    return 1;
}

int main(int argc, char **argv)
{
    static char buffer[BYTES_MAX];
    size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
    size_t size = argc > 2 ? strtoul(argv[2], NULL, 10) : 100;
    int fds[2];
    if (rounds == 0 || rounds > 100000000 || size == 0 || size > BYTES_MAX) {
        fprintf(stderr, "usage: bench_pingpong [ROUNDS [BYTES]]\n");
        return 2;
    }
    double *times = malloc(rounds * sizeof *times);
    if (times == NULL || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) {
        perror("bench_pingpong");
        return 1;
    }
    pid_t child = fork();
    if (child == 0) {
        close(fds[0]);
        while (read_all(fds[1], buffer, size) && write(fds[1], buffer, size) == (ssize_t)size) {
        }
        _exit(0);
    }
    close(fds[1]);
    int is_done = child > 0 && ping(fds[0], buffer, size, times, rounds);
    close(fds[0]);
    if (child > 0) {
        waitpid(child, NULL, 0);
    }
    if (is_done) {
        qsort(times, rounds, sizeof *times, compare);
        printf("%.2f\n", times[rounds / 2]);
    } else {
        perror("bench_pingpong");
    }
    free(times);
    return is_done ? 0 : 1;
}
