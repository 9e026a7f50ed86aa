/* SPDX-License-Identifier: MIT */
/* lock.h - one writer per job: a POSIX record lock on job.lock, which a fork does not inherit and
 * the end of the process gives back. The file says who holds it, for people.
 *
 * Closing any descriptor of that file would give the lock back, so a process that holds it opens
 * it never again: a table of held locks answers here. */
#ifndef CKPT_LOCK_H
#define CKPT_LOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "trickle/error.h"

struct ckpt_lock {
    int fd;           /* -1: not held */
    struct list node; /* of the locks this process holds */
    dev_t dev;
    ino_t ino;
};

struct ckpt_holder {
    pid_t pid;           /* 0: nobody holds it */
    uint64_t started;    /* of the process, in ticks since boot */
    char boot[40];       /* boot id of its machine */
    char host[256];
    char since[40];      /* date and time, local, for people */
};

/* 0; TRK_EDENIED: held, fail_text says by whom; TRK_EIO. dir exists. */
TRK_MUST_USE int ckpt_lock_take(struct ckpt_lock *lock, const char *dir);
void ckpt_lock_give(struct ckpt_lock *lock);
/* Who holds it now: 0 (pid 0: nobody), TRK_EIO. */
TRK_MUST_USE int ckpt_lock_holder(const char *dir, struct ckpt_holder *holder);

#endif
