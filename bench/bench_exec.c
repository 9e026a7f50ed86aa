/* SPDX-License-Identifier: MIT */
/* bench_exec.c - the module "exec" in a loop, without VM and farm: N processes that each run
 * elements as a VM does. Beside it: spawn_loop.c.
 *
 *   bench_exec [-j WORKERS] COUNT COMMAND [ARGUMENT]...
 *
 * Prints commands per second, a line of one number. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "rai/modules.h"
#include "rai/rai.h"
#include "trickle/exec.h"

static int run_all(long count, const void *spec, size_t spec_size)
{
    struct trk_exec_bytes field = {"x", 1};
    struct trk_rai_element element = {.attempt = 1};
    struct trk_rai_reply reply;
    void *bytes;
    rai_reply_init(&reply);
    if (rai_reply_begin(&reply, 0) < 0 ||
        rai_exec.stage_open(NULL, 0, spec, spec_size, &reply) != TRK_STATUS_OK ||
        trk_exec_element_encode(&field, 1, &bytes, &element.size) < 0) {
        fprintf(stderr, "bench_exec: %s\n", fail_text());
        return 1;
    }
    element.payload = bytes;
    for (long i = 0; i < count; i++) {
        element.index = (uint64_t)i;
        if (rai_reply_begin(&reply, 0) < 0 ||
            rai_exec.run(NULL, &element, &reply) != TRK_STATUS_OK) {
            fprintf(stderr, "bench_exec: command %ld failed\n", i);
            return 1;
        }
    }
    return 0;
}

static int make_spec(char **argv, int argc, void **spec, size_t *size)
{
    struct trk_exec_piece *pieces = mem_zalloc((size_t)argc, sizeof(*pieces));
    struct trk_exec_word *words = mem_zalloc((size_t)argc, sizeof(*words));
    if (pieces == NULL || words == NULL) {
        return TRK_ENOMEM;
    }
    for (int i = 0; i < argc; i++) {
        pieces[i].text = (struct trk_exec_bytes){argv[i], strlen(argv[i])};
        words[i] = (struct trk_exec_word){&pieces[i], 1};
    }
    struct trk_exec_spec s = {.size = sizeof(s), .argv = words, .argc = (size_t)argc};
    int rc = trk_exec_spec_encode(&s, spec, size);
    mem_free(words);
    mem_free(pieces);
    return rc;
}

int main(int argc, char **argv)
{
    long workers = 2;
    int option, failed = 0, status;
    void *spec;
    size_t size;
    while ((option = getopt(argc, argv, "+j:")) != -1) {
        workers = option == 'j' ? strtol(optarg, NULL, 10) : 0;
    }
    long count = argc - optind >= 2 ? strtol(argv[optind], NULL, 10) : 0;
    if (workers < 1 || count < 1) {
        fprintf(stderr, "Usage: bench_exec [-j WORKERS] COUNT COMMAND [ARGUMENT]...\n");
        return 2;
    }
    if (make_spec(argv + optind + 1, argc - optind - 1, &spec, &size) < 0) {
        fprintf(stderr, "bench_exec: %s\n", fail_text());
        return 1;
    }
    uint64_t start_ns = sys_now_ns();
    for (long i = 0; i < workers; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            _exit(run_all(count / workers + (i < count % workers), spec, size));
        }
        failed |= pid < 0;
    }
    while (wait(&status) > 0 || errno == EINTR) {
        failed |= status != 0;
    }
    printf("%.0f\n", (double)count / ((double)(sys_now_ns() - start_ns) / 1e9));
    return failed;
}
