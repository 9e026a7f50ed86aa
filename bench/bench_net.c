/* SPDX-License-Identifier: MIT */
/* bench_net.c - what a session costs over a bare unix socket, and what TLS costs over plain TCP on
 * loopback: 16 MB messages there and back, trivial elements as the farm sends them (batches of 100,
 * two in flight), tiny messages in a stream, and the round trip of one. Both ends are threads of
 * this process. Prints, judges nothing: what TLS may cost is said of a farm (bench_tls.py), which
 * does more than to send. TLS and TCP take turns, and the best of each counts: what else the
 * machine does must not decide. Encryption is done by both ends at once, so two cores that are free
 * tell more than two that are shared. */
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "auth/keys.h"
#include "base/sys.h"
#include "net/session.h"

#define BULK_BYTES ((size_t)16 << 20)
#define BULK_COUNT 32
#define TINY_COUNT 20000
#define STREAM_COUNT 200000
#define STREAM_WINDOW 1000 /* messages on their way */
#define BATCH_ELEMENTS 100 /* of 64 bytes */
#define BATCH_COUNT 10000
#define TURNS 5

enum transport { UNIX, TCP, TLS };

static struct auth_keys keys = {.count = 1};

struct end {
    struct net_session *session;
    bool is_echo;
    int got; /* messages, under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t came;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct end *end = user;
    net_session_set_trusted(s);
    if (end->is_echo) {
        if (net_session_send(s, msg->type, msg->stream, msg->body) != 0) {
            die("send");
        }
        return;
    }
    blob_unref(msg->body);
    pthread_mutex_lock(&end->mutex);
    end->got++;
    pthread_cond_signal(&end->came);
    pthread_mutex_unlock(&end->mutex);
}

static void on_close(struct net_session *s, void *user, int error, const char *why) {}

static const struct net_session_ops ops = {.on_message = on_message, .on_close = on_close};

struct attach {
    struct net_loop *loop;
    struct end *end;
    int fd;
    const struct auth_keys *keys;
    bool is_client;
    const char *address; /* to connect to, in place of fd */
};

static void attach(void *arg)
{
    struct attach *a = arg;
    struct net_session_options opt = {.ops = &ops, .user = a->end, .keys = a->keys,
                                      .role = a->is_client ? AUTH_INITIATOR : AUTH_VM};
    int rc = a->address != NULL
                 ? net_session_connect(a->loop, a->address, &opt, &a->end->session)
                 : net_session_accept(a->loop, a->fd, &opt, &a->end->session);
    if (rc != 0) {
        die("session");
    }
    net_session_set_trusted(a->end->session);
    pthread_mutex_lock(&a->end->mutex);
    a->end->got = 0;
    pthread_cond_signal(&a->end->came);
    pthread_mutex_unlock(&a->end->mutex);
}

static void wait_for(struct end *end, int count)
{
    pthread_mutex_lock(&end->mutex);
    while (end->got < count) {
        pthread_cond_wait(&end->came, &end->mutex);
    }
    pthread_mutex_unlock(&end->mutex);
}

static struct end *make_end(struct attach *a, bool is_echo)
{
    struct end *end = calloc(1, sizeof(*end));
    pthread_mutex_init(&end->mutex, NULL);
    pthread_cond_init(&end->came, NULL);
    end->is_echo = is_echo;
    end->got = -1;
    a->end = end;
    if (net_loop_post(a->loop, attach, a) != 0) {
        die("post");
    }
    wait_for(end, 0);
    return end;
}

/* Two connected ends: with a unix socket pair, or over loopback. */
static void make_ends(enum transport transport, struct net_loop *here, struct net_loop *there,
                      struct end **client, struct end **server)
{
    const struct auth_keys *with = transport == TLS ? &keys : NULL;
    struct attach a = {.loop = here, .keys = with, .is_client = true};
    struct attach b = {.loop = there, .keys = with};
    char address[128];
    int fds[2];
    if (transport == UNIX) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
            die("socketpair");
        }
        a.fd = fds[0];
        b.fd = fds[1];
        *client = make_end(&a, false);
    } else {
        int listener = net_listen_fd("tcp:127.0.0.1:0", address, sizeof(address));
        struct pollfd coming = {listener, POLLIN, 0};
        a.address = address;
        *client = make_end(&a, false);
        if (poll(&coming, 1, -1) != 1 || (b.fd = accept(listener, NULL, NULL)) < 0) {
            die("accept");
        }
        close(listener);
    }
    *server = make_end(&b, true);
}

static void send_one(struct end *client, size_t size, int i)
{
    struct blob *body = blob_new(size);
    body->size = size;
    memset(body->data, i, size);
    if (net_session_send(client->session, WIRE_REQUEST, 1, body) != 0) {
        die("send");
    }
}

/* count messages there and back, at most window of them on their way. */
static double session_seconds(enum transport transport, size_t size, int count, int window)
{
    struct net_loop *here, *there;
    struct end *client, *server;
    if (net_loop_new(&here) != 0 || net_loop_new(&there) != 0 ||
        net_loop_start_thread(here, "here") != 0 || net_loop_start_thread(there, "there") != 0) {
        die("set-up");
    }
    make_ends(transport, here, there, &client, &server);
    send_one(client, size, 0); /* the connection and the handshake are not counted */
    wait_for(client, 1);
    uint64_t start = sys_now_ns();
    for (int i = 1; i <= count; i++) {
        send_one(client, size, i);
        wait_for(client, i + 2 - window);
    }
    wait_for(client, count + 1);
    double seconds = (double)(sys_now_ns() - start) / 1e9;
    net_loop_free(here);
    net_loop_free(there);
    net_session_unref(client->session);
    net_session_unref(server->session);
    free(client);
    free(server);
    return seconds;
}

static void read_all(int fd, char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = read(fd, bytes, size);
        if (n <= 0) {
            die("read");
        }
        bytes += n;
        size -= (size_t)n;
    }
}

static void write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n <= 0) {
            die("write");
        }
        bytes += n;
        size -= (size_t)n;
    }
}

struct plain {
    int fd, count;
    size_t size;
};

static void *plain_echo(void *arg)
{
    struct plain *p = arg;
    for (int i = 0; i < p->count; i++) {
        char *bytes = malloc(p->size);
        read_all(p->fd, bytes, p->size);
        write_all(p->fd, bytes, p->size);
        free(bytes);
    }
    return NULL;
}

static double plain_seconds(size_t size, int count)
{
    int fds[2];
    pthread_t thread;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        die("socketpair");
    }
    struct plain p = {.fd = fds[1], .count = count, .size = size};
    pthread_create(&thread, NULL, plain_echo, &p);
    uint64_t start = sys_now_ns();
    for (int i = 0; i < count; i++) {
        char *bytes = malloc(size);
        memset(bytes, i, size);
        write_all(fds[0], bytes, size);
        read_all(fds[0], bytes, size);
        free(bytes);
    }
    double seconds = (double)(sys_now_ns() - start) / 1e9;
    pthread_join(thread, NULL);
    close(fds[0]);
    close(fds[1]);
    return seconds;
}

static void compare_unix(void)
{
    double mb = (double)BULK_BYTES * 2 * BULK_COUNT / 1e6;
    double session = session_seconds(UNIX, BULK_BYTES, BULK_COUNT, 1);
    double plain = plain_seconds(BULK_BYTES, BULK_COUNT);
    printf("16 MB echo: session %.0f MB/s, bare socket %.0f MB/s, ratio %.2f\n", mb / session,
           mb / plain, plain / session);
    session = session_seconds(UNIX, 64, TINY_COUNT, 1);
    plain = plain_seconds(64, TINY_COUNT);
    printf("64 byte round trip: session %.1f us, bare socket %.1f us, ratio %.2f\n",
           session / TINY_COUNT * 1e6, plain / TINY_COUNT * 1e6, session / plain);
}

/* Amounts per second, in the unit of amount. */
static void compare_tls(const char *what, const char *unit, double amount, size_t size, int count,
                        int window)
{
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < 2 * TURNS; i++) {
        double seconds = session_seconds(i % 2 == 0 ? TCP : TLS, size, count, window);
        best[i % 2] = seconds < best[i % 2] ? seconds : best[i % 2];
    }
    printf("%s: TLS %.0f %s, TCP %.0f %s, TLS costs %.0f %%\n", what, amount / best[1], unit,
           amount / best[0], unit, 100 * (1 - best[0] / best[1]));
}

int main(void)
{
    if (auth_key_make(&keys.key[0]) != 0) {
        die("key");
    }
    compare_unix();
    compare_tls("16 MB echo", "MB/s", (double)BULK_BYTES * 2 * BULK_COUNT / 1e6, BULK_BYTES,
                BULK_COUNT, 1);
    compare_tls("trivial elements in batches", "thousand/s", BATCH_COUNT * BATCH_ELEMENTS / 1e3,
                BATCH_ELEMENTS * 64, BATCH_COUNT, 2);
    compare_tls("64 byte stream", "thousand/s", STREAM_COUNT / 1e3, 64, STREAM_COUNT,
                STREAM_WINDOW);
    compare_tls("64 byte round trip", "thousand/s", TINY_COUNT / 1e3, 64, TINY_COUNT, 1);
    return 0;
}
