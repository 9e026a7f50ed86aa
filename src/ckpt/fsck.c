/* SPDX-License-Identifier: MIT */
/* fsck.c - trickle-fsck DIR: looks at the store of a job that nobody runs, changes nothing.
 *
 * Exit status: 0 whole, 1 damaged, 2 usage, 3 the job is running. With --child the caller holds
 * the job's lock. */
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "ckpt/lock.h"
#include "ckpt/verify.h"

int main(int argc, char **argv)
{
    struct ckpt_holder holder;

    if (argc == 3 && strcmp(argv[1], "--child") == 0) {
        return verify_main(argv[2], true);
    }
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: trickle-fsck DIRECTORY-OF-A-JOB\n");
        return 2;
    }
    if (ckpt_lock_holder(argv[1], &holder) == 0 && holder.pid != 0) {
        fprintf(stderr, "trickle-fsck: process %ld runs this job: its store changes\n",
                (long)holder.pid);
        return 3;
    }
    return verify_main(argv[1], false);
}
