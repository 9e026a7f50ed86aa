/* SPDX-License-Identifier: MIT */
/* rig.h - a private runtime directory and supervisors of echo VMs in it, for tests of the farm. */
#ifndef TESTS_FARM_RIG_H
#define TESTS_FARM_RIG_H

#include <stdbool.h>
#include <sys/types.h>

#include "auth/keys.h"
#include "trickle/trickle.h"

#define RIG_SUPERVISORS_MAX 4

struct rig {
    char dir[64];                    /* runtime directory, removed at the end */
    pid_t pids[RIG_SUPERVISORS_MAX]; /* supervisors; 0: none */
    size_t count;
    struct trk_farm *farm;
};

/* Aborts the test when something of it cannot be had. */
void rig_start(struct rig *r);
/* Starts a supervisor with n VMs; waits until they are idle. Returns its pid. */
pid_t rig_supervisor(struct rig *r, int n);
void rig_stop_supervisor(struct rig *r, pid_t pid, int signal);
struct trk_farm *rig_farm(struct rig *r); /* one more; the first is r->farm */
void rig_stop(struct rig *r);

/* Two users who have nothing in common but a key: this process, and one that is far away. */
struct rig_two {
    char home[64];                 /* of all below, removed at the end */
    char key[128], our_log[96];    /* ours: key file; what this process logs, all of it */
    char far_config[96], far_key[128]; /* the other one's: XDG_CONFIG_HOME, the key file there */
    struct auth_keys keys;         /* in both files */
};
/* Starts r, too, which then has no farm. */
void rig_two_start(struct rig_two *two, struct rig *r);
void rig_two_stop(struct rig_two *two, struct rig *r);

const char *rig_read_log(const char *path); /* "" when there is none; until the next call */
void rig_wait_log(const char *path, const char *wanted); /* at most 10 s */

/* connect and wait, at most 10 s. Returns what trk_connect_wait returned last. */
int rig_connect(struct trk_farm *farm, uint32_t max, bool need_all, uint32_t wait_ms,
                struct trk_vmlist **out);
/* Calls the VM with text, waits at most 10 s; the answer is copied, terminated. */
int rig_call(struct trk_vm *vm, const char *text, char *answer, size_t size);

#endif
