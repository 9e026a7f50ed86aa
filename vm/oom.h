/* SPDX-License-Identifier: MIT */
/* oom.h - was it the kernel's OOM killer? Evidence, where there is any.
 *
 *   the kernel's log, where it may be read: names the process
 *   the count of such kills in our own cgroup (version 2, or the older memory controller): it has
 *   risen since the last look; VMs are in the cgroup of their supervisor */
#ifndef VM_OOM_H
#define VM_OOM_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define OOM_NAMED_MAX 64

struct oom {
    char events[PATH_MAX]; /* the file with the line "oom_kill N"; "" : there is none */
    uint64_t kills;        /* N, when it was looked at last */
    int log;               /* the kernel's; -1: may not be read */
    pid_t named[OOM_NAMED_MAX]; /* processes it has named that nobody has asked for, a ring */
    uint32_t named_count;  /* so far; modulo OOM_NAMED_MAX: where the next goes */
};

/* cgroups: "/proc/self/cgroup"; root: "/sys/fs/cgroup"; log: "/dev/kmsg". Others in tests. */
void oom_init(struct oom *o, const char *cgroups, const char *root, const char *log);
void oom_fini(struct oom *o);
/* What has happened up to now explains no later death. */
void oom_look(struct oom *o);
/* A process was killed by SIGKILL, which nobody here has sent, and has just been reaped. */
bool oom_has_killed(struct oom *o, pid_t pid);

#endif
