/* SPDX-License-Identifier: MIT */
/* stale.c - a peer that has the key and comes from a job's past: asks VMs for leases in the name of
 * a run of the job that is over. They have to refuse, unless they have never heard of the job; then
 * it gives the lease back at once.
 *
 *   stale KEYFILE HOME JOB ADDRESS...     the addresses as "tcp:HOST:PORT"
 *
 * Goes round until SIGTERM or SIGINT, a session at a time, and prints a line of JSON then: how many
 * were refused, granted, or ended otherwise. */
#include <inttypes.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "auth/keyfile.h"
#include "base/fail.h"
#include "net/session.h"
#include "trickle/view.h"
#include "wire/msg.h"

#define PAUSE_NS 10000000 /* between two sessions */

/* One try, written by the loop's thread until it posts over. */
struct try {
    struct net_loop *loop;
    const char *address;
    struct net_session_options opt;
    struct wire_hello hello;
    bool is_refused, is_granted;
    sem_t over;
};

static volatile sig_atomic_t is_stopped;

static void on_signal(int number) { is_stopped = 1; }

static void on_open(struct net_session *s, void *user)
{
    struct try *t = user;
    struct blob *body = wire_hello_encode(&t->hello);
    if (body == NULL || net_session_send(s, WIRE_HELLO, 0, body) < 0) {
        net_session_close(s, false);
    }
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct try *t = user;
    struct wire_welcome welcome;
    if (msg->type == WIRE_WELCOME && wire_welcome_decode(&welcome, msg->body) == 0) {
        t->is_granted = welcome.is_accepted;
        t->is_refused = !welcome.is_accepted;
    }
    blob_unref(msg->body);
    net_session_close(s, true);
}

static void on_close(struct net_session *s, void *user, int error, const char *why)
{
    struct try *t = user;
    net_session_unref(s);
    sem_post(&t->over);
}

static const struct net_session_ops ops = {.on_open = on_open, .on_message = on_message,
                                           .on_close = on_close};

static void connect_on_loop(void *user)
{
    struct try *t = user;
    struct net_session *s;
    if (net_session_connect(t->loop, t->address, &t->opt, &s) < 0) {
        sem_post(&t->over);
    }
}

/* The job, and its run before the last one. false: it has none yet. */
static bool look_up(struct wire_hello *hello, const char *home, const char *job)
{
    struct trk_view *view;
    struct trk_view_info info;
    if (trk_view_open(&view, home, job) != 0) {
        return false;
    }
    int rc = trk_view_get_info(view, &info);
    trk_view_close(view);
    if (rc != 0 || info.epoch < 2) {
        return false;
    }
    memcpy(hello->job, info.uuid, sizeof(hello->job));
    hello->epoch = info.epoch - 1;
    return true;
}

int main(int argc, char **argv)
{
    struct auth_keys keys;
    struct try t = {0};
    uint64_t refused = 0, granted = 0, other = 0;
    if (argc < 5 || auth_keyfile_load(&keys, argv[1]) != 0 ||
        !look_up(&t.hello, argv[2], argv[3]) || net_loop_new(&t.loop) < 0 ||
        net_loop_start_thread(t.loop, "stale") < 0) {
        fprintf(stderr, "stale: usage: stale KEYFILE HOME JOB ADDRESS..., of a job that was "
                        "resumed: %s\n", fail_text());
        return 2;
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    sem_init(&t.over, 0, 0);
    t.opt = (struct net_session_options){.ops = &ops, .user = &t, .keys = &keys,
                                         .role = AUTH_INITIATOR};
    t.hello.purpose = WIRE_PURPOSE_LEASE;
    t.hello.pid = (uint32_t)getpid();
    snprintf(t.hello.host, sizeof(t.hello.host), "hostile");
    snprintf(t.hello.program, sizeof(t.hello.program), "stale");
    for (int i = 0; !is_stopped; i++) {
        const struct timespec pause = {0, PAUSE_NS};
        t.address = argv[4 + i % (argc - 4)];
        t.is_granted = t.is_refused = false;
        if (getrandom(t.hello.incarnation, sizeof(t.hello.incarnation), 0) < 0 ||
            net_loop_post(t.loop, connect_on_loop, &t) < 0) {
            return 1;
        }
        while (sem_wait(&t.over) != 0) {
        }
        refused += t.is_refused;
        granted += t.is_granted;
        other += !t.is_refused && !t.is_granted;
        nanosleep(&pause, NULL);
    }
    net_loop_free(t.loop);
    printf("{\"mode\":\"old_epoch\",\"epoch\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"granted\":%"
           PRIu64 ",\"other\":%" PRIu64 "}\n", t.hello.epoch, refused, granted, other);
    return 0;
}
