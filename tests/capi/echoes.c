/* SPDX-License-Identifier: MIT */
/* echoes.c - a durable program as a user writes it, on VMs of the echo module, for tests:
 *
 *   echoes [-r] COUNT STOP GATE [WORD]
 *
 * adds up 0 .. COUNT - 1, which VMs echo. When STOP results have come it says so and waits for the
 * file GATE, or a signal. -r: SIGTERM just ends it. Prints the sum, WORD in hexadecimal, its
 * directory and $WANTED. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trickle/trickle.h"

struct sum {
    uint64_t count, stop, taken, sum;
    const char *gate;
    char text[32];
};

static int make(void *ctx, uint64_t index, const void **element, size_t *size)
{
    struct sum *sum = ctx;

    if (index == sum->count) {
        return TRK_END;
    }
    *size = (size_t)snprintf(sum->text, sizeof(sum->text), index == 3 ? "raise three" : "%llu",
                             (unsigned long long)index);
    if (index == 5) {
        memcpy(sum->text, "\xff\xfe", *size = 2);
    }
    *element = sum->text;
    return 0;
}

static int take(void *ctx, const struct trk_result *result)
{
    struct sum *sum = ctx;
    char text[32] = "";

    if (result->status == TRK_STATUS_OK && result->size < sizeof(text)) {
        memcpy(text, result->payload, result->size);
        sum->sum += strtoull(text, NULL, 10);
    }
    if (++sum->taken == sum->stop) {
        printf("at %llu\n", (unsigned long long)sum->taken);
        fflush(stdout);
        while (access(sum->gate, F_OK) != 0 && trk_signals_caught() == 0) {
            usleep(1000);
        }
    }
    return 0;
}

static int run(struct trk_farm *farm, struct sum *sum)
{
    struct trk_run run = {.size = sizeof(run), .source = make, .source_ctx = sum,
                          .sink = take, .sink_ctx = sum};
    struct trk_work_options options = {.size = sizeof(options), .name = "echo", .key = "echo",
                                       .function = "echo", .function_size = 4};
    struct trk_vmlist *vms = NULL;
    struct trk_work *work = NULL;
    int rc = trk_connect_start(farm, 0, false, 10000, &vms);

    while (rc == 0 && (rc = trk_connect_wait(vms, 1000)) == TRK_AGAIN) {
        rc = trk_signals_caught() != 0 ? TRK_ECANCELLED : 0;
    }
    options.list = vms;
    if (rc == 0 && (rc = trk_work_new(farm, &options, &work)) == 0) {
        while ((rc = trk_work_run(work, &run, 1000)) == TRK_AGAIN) {
        }
    }
    if (rc != 0) {
        fprintf(stderr, "echoes: %s\n", trk_last_error());
    }
    trk_work_free(work);
    trk_vmlist_free(vms);
    return rc;
}

static void report(const struct sum *sum, const char *word)
{
    char cwd[4096];

    printf("sum %llu word ", (unsigned long long)sum->sum);
    for (; *word != '\0'; word++) {
        printf("%02x", (unsigned char)*word);
    }
    printf(" in %s wanted %s job %s\n", getcwd(cwd, sizeof(cwd)),
           getenv("WANTED") != NULL ? getenv("WANTED") : "-",
           getenv("TRICKLE_JOB") != NULL ? "set" : "-");
}

int main(int argc, char **argv)
{
    bool is_raw = argc > 1 && strcmp(argv[1], "-r") == 0;
    char **args = argv + is_raw;
    struct trk_job_options options = {.size = sizeof(options), .name = "echoes", .argc = argc,
                                      .argv = argv};
    struct trk_farm_options farm_options = {.size = sizeof(farm_options)};
    struct trk_job_opened opened;
    struct trk_farm *farm = NULL;
    struct sum sum = {.count = 0};
    int rc;

    if (argc - is_raw < 4) {
        fprintf(stderr, "usage: echoes [-r] COUNT STOP GATE [WORD]\n");
        return 2;
    }
    sum.count = strtoull(args[1], NULL, 10);
    sum.stop = strtoull(args[2], NULL, 10);
    sum.gate = args[3];
    if ((!is_raw && (rc = trk_signals_catch()) < 0) ||
        (rc = trk_job_open(&farm_options.job, &options, &opened)) < 0) {
        fprintf(stderr, "echoes: %s\n", trk_last_error());
        return trk_job_finish(NULL, rc);
    }
    rc = trk_farm_new(&farm, &farm_options);
    if (rc == 0) {
        rc = run(farm, &sum);
        trk_farm_close(farm, 1000);
    }
    if (rc == 0) {
        report(&sum, args[4] != NULL ? args[4] : "");
    }
    return trk_job_finish(farm_options.job, rc);
}
