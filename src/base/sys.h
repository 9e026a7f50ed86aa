/* SPDX-License-Identifier: MIT */
/* sys.h - the few things the edges need from the operating system in one place: clock, random
 * bytes, the descriptors to close in a forked child, the private runtime directory. The pure
 * rooms (sched, vm/agent.c) must not include this header. */
#ifndef BASE_SYS_H
#define BASE_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t sys_now_ns(void); /* CLOCK_MONOTONIC */
int sys_random(void *bytes, size_t size); /* 0 or TRK_EIO */

/* Descriptors of this process that a forked child must close (plain close, nothing else). The
 * first sys_fd_add installs the pthread_atfork handler. Any thread. At most 65,536 descriptors. */
int sys_fd_add(int fd); /* also sets CLOEXEC; 0 or TRK_E*; fd stays the caller's */
void sys_fd_remove(int fd); /* before closing it */
bool sys_is_forked(void);   /* true in a child of the process that called sys_fd_add first */

/* $override if not NULL, else $TRICKLE_RUNTIME, else /tmp/trickle-UID; made with 0700 when
 * missing. Refused (TRK_EDENIED, with a sentence in why) when it is a link, not ours, or open to
 * others. path_size at least 108. */
int sys_runtime_dir(const char *override, char *path, size_t path_size, char *why,
                    size_t why_size);
void sys_host_name(char *text, size_t size);
int sys_block_signals(void *old_sigset); /* all, for threads to be made; old: sigset_t */
void sys_restore_signals(const void *old_sigset);

#endif
