/* SPDX-License-Identifier: MIT */
/* rig.h - for tests of VMs: a real trickle-vm with echo VMs in a folder of its own, and clients
 * that speak the wire to it. Everything that waits fails the test after ten seconds. */
#ifndef TESTS_VM_RIG_H
#define TESTS_VM_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"
#include "net/session.h"
#include "wire/msg.h"

#define RIG_VMS_MAX 8
#define CLIENT_MESSAGES_MAX 4096

/* One connection, to the supervisor or to a VM. */
struct client {
    struct rig *rig;
    struct net_session *session;
    struct wire_hello hello;
    struct wire_welcome welcome;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool is_closed;
    size_t count; /* messages not taken yet */
    struct wire_message messages[CLIENT_MESSAGES_MAX];
    struct trk_vm_info infos[RIG_VMS_MAX]; /* watching: the newest of each VM */
    size_t infos_count;
};

struct rig {
    pid_t pid;
    char dir[64];      /* runtime directory */
    char home[96];     /* TRICKLE_HOME, beside it; made by who needs it */
    char address[128]; /* "unix:..." of the supervisor */
    char said[4096];   /* what it had printed when it was ready */
    struct net_loop *loop;
    struct client *watch; /* rig_watch */
};

/* Starts trickle-vm -n vms --exec echo_vm and the further arguments (up to NULL), waits until it
 * is ready, and watches it as incarnation 1. */
void rig_start(struct rig *r, int vms, ...);
/* SIGTERM; checks that it exits with 0 and leaves nothing. */
void rig_stop(struct rig *r);
/* For those who end it in other ways: waits until the folder is empty, frees all. */
void rig_finish(struct rig *r);
int rig_wait_exit(struct rig *r); /* status of the supervisor */
/* Runs trickle-vm with these arguments, without a rig; gives its exit status, output in said. */
int rig_run(char *said, size_t size, ...);

/* "BUILD/tests/vm/NAME" */
const char *rig_program(const char *name, char *path, size_t size);

/* id: fills the incarnation. welcome is filled when it returns. */
struct client *client_open(struct rig *r, const char *address, uint32_t purpose, uint8_t id);
/* A lease of a certain run of a job; see what came of it in welcome. */
struct client *client_open_epoch(struct rig *r, const char *address, uint8_t job, uint64_t epoch,
                                 uint8_t id);
struct client *client_lease(struct rig *r, uint32_t vm, uint8_t id); /* must be accepted */
void client_send(struct client *c, uint8_t type, uint32_t stream, struct blob *body);
/* Takes the oldest message of that type. Its body is for blob_unref. */
struct wire_message client_take(struct client *c, uint8_t type);
struct wire_message client_next(struct client *c); /* the oldest of any type */
bool client_has(struct client *c, uint8_t type);
void client_wait_closed(struct client *c);
void client_wait_vms(struct client *c); /* watching: until infos is filled */
void client_free(struct client *c); /* closes at once, without BYE */
void client_bye(struct client *c);  /* ends the lease: BYE, waits for the end, frees */

struct trk_vm_info rig_vm(struct rig *r, uint32_t i); /* as the watch saw it last */
/* Of what the watch has seen: waits until VM i is in that state, and of another incarnation than
 * not (NULL: any). */
struct trk_vm_info rig_wait_vm(struct rig *r, uint32_t i, uint32_t state, const uint8_t *not);

/* Sends a request "call" with this payload and gives the answer's status, its text in text. */
int client_call(struct client *c, const char *payload, char *text, size_t size);
void client_stage(struct client *c, uint32_t stage, const char *function);
void client_stage_timeout(struct client *c, uint32_t stage, uint32_t timeout_ms);
void client_run(struct client *c, uint32_t stage, uint64_t first, uint32_t count,
                const char *const *payloads);
void client_note(struct client *c, uint8_t type, struct wire_note note);
struct wire_death client_take_death(struct rig *r); /* its output is not kept */
struct wire_death client_take_death_output(struct rig *r, char *text, size_t size);
/* Tells the supervisor what to do with the VM of that pid; gives the answer's status and text. */
int client_order(struct client *watch, const char *verb, uint32_t pid, char *text, size_t size);

/* Waits until fn(arg) is true. */
void wait_until(bool (*fn)(const void *arg), const void *arg);
bool process_is_gone(const void *pid); /* pid_t; a zombie has gone, too */

#endif
