/* SPDX-License-Identifier: MIT */
/* evaluate.c - a program for the VMs of poly.c: evaluate "1 0 -2" NUMBER... prints the values of
 * x^2 - 2 there, a line each, in their order. */
#include <stdio.h>
#include <string.h>
#include <trickle/trickle.h>

static void print_notices(struct trk_farm *farm)
{
    struct trk_notice notice;
    while (trk_farm_notice(farm, 0, &notice) == 0) {
        fprintf(stderr, "%s\n", notice.text);
        trk_notice_free(&notice);
    }
}

/* 0 when all of them have a value. */
static int print_values(struct trk_work *work)
{
    struct trk_result result;
    int rc, failed = 0;
    do {
        rc = trk_work_next(work, 1000, &result);
        if (rc == 0) {
            printf("%.*s\n", (int)result.size, (const char *)result.payload);
            failed |= result.status != TRK_STATUS_OK;
        }
    } while (rc == 0 || rc == TRK_AGAIN);
    return rc == TRK_END ? failed : rc;
}

static int evaluate(struct trk_farm *farm, const char *function, char **numbers, int count)
{
    struct trk_vmlist *vms = NULL;
    struct trk_work *work = NULL;
    int rc = trk_connect_start(farm, 0, false, 0, &vms);
    while (rc == 0 && (rc = trk_connect_wait(vms, 1000)) == TRK_AGAIN) {
        rc = 0;
    }
    struct trk_work_options options = {.size = sizeof(options), .name = "evaluate",
                                       .function = function, .function_size = strlen(function),
                                       .list = vms, .ordered = true, .module = "poly"};
    rc = rc < 0 ? rc : trk_work_new(farm, &options, &work);
    for (int i = 0; rc == 0 && i < count; i++) { /* a few: they are not more than may be ahead */
        rc = trk_work_add(work, numbers[i], strlen(numbers[i]));
    }
    rc = rc < 0 ? rc : trk_work_close(work);
    rc = rc < 0 ? rc : print_values(work);
    if (rc < 0) {
        fprintf(stderr, "%s\n", trk_last_error());
    }
    trk_work_free(work);
    trk_vmlist_free(vms);
    return rc;
}

int main(int argc, char **argv)
{
    struct trk_farm_options options = {.size = sizeof(options), .program = "evaluate",
                                       .module = "poly"}; /* connect to its VMs only */
    struct trk_farm *farm;
    if (argc < 2) {
        fprintf(stderr, "usage: evaluate COEFFICIENTS NUMBER...\n");
        return 2;
    }
    if (trk_farm_new(&farm, &options) < 0) {
        fprintf(stderr, "%s\n", trk_last_error());
        return 1;
    }
    int rc = evaluate(farm, argv[1], argv + 2, argc - 2);
    print_notices(farm);
    trk_farm_close(farm, 1000);
    return rc == 0 ? 0 : 1;
}
