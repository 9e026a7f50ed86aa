/* SPDX-License-Identifier: MIT */
/* guard.h - a tiny process that cleans up behind a supervisor that died in whatever way.
 *
 * It waits for the end of a pipe whose other end only the supervisor holds. Then it kills what is
 * left of the VMs and removes the socket files.
 *
 * What is left of a VM: its process group, its session, and whatever else still carries the
 * supervisor's marker in the environment it was started with, a daemon with a session of its own
 * too. A program that wipes its environment escapes. */
#ifndef VM_GUARD_H
#define VM_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct guard {
    pid_t pid;          /* of the guard; 0: none */
    int pipe[2];        /* never written; the supervisor keeps both ends to start it again */
    atomic_int *groups; /* shared: process group of each VM; 0: none */
    uint32_t count;
    const char *marker; /* "NAME=value", in the environment of all that VMs start; borrowed */
    const char **files; /* to be removed; borrowed, as are the names; NULL at its end */
};

/* Makes the shared table. 0 or TRK_E* with a sentence. */
int guard_init(struct guard *g, uint32_t count, const char *marker, const char **files);
/* Forks the guard (again). */
int guard_start(struct guard *g);
/* The supervisor ends in order: lets the guard go, waits for it. */
void guard_stop(struct guard *g);

/* Kills all processes of these sessions and process groups (a VM is the leader of both). */
void guard_kill_sessions(const pid_t *leaders, size_t count);
/* Was this process of ours started with a variable in its environment that begins so? */
bool guard_is_marked(pid_t pid, const char *start, size_t start_size);
/* The children of this process, which has one thread; not more than max. How many are in out. */
size_t guard_list_children(pid_t *out, size_t max);
/* Kills those children of this process, which has one thread, that is_kept does not know and that
 * have a variable that begins so; NULL: all of them. */
void guard_kill_children(const char *start, bool (*is_kept)(void *user, pid_t pid), void *user);
/* Kills all processes of this user that were started with the marker in their environment. */
void guard_kill_marked(const char *marker);

#endif
