/* SPDX-License-Identifier: MIT */
/* bench_net.c - what a session costs over a bare unix socket: 16 MB messages there and back, and
 * the round trip of a tiny one. Both ends are threads of this process. Prints, judges nothing. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/sys.h"
#include "net/session.h"

#define BULK_BYTES ((size_t)16 << 20)
#define BULK_COUNT 32
#define TINY_COUNT 20000

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
};

static void attach(void *arg)
{
    struct attach *a = arg;
    struct net_session_options opt = {.ops = &ops, .user = a->end};
    if (net_session_accept(a->loop, a->fd, &opt, &a->end->session) != 0) {
        die("accept");
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

static struct end *make_end(struct net_loop *loop, int fd, bool is_echo, struct attach *a)
{
    struct end *end = calloc(1, sizeof(*end));
    pthread_mutex_init(&end->mutex, NULL);
    pthread_cond_init(&end->came, NULL);
    end->is_echo = is_echo;
    end->got = -1;
    *a = (struct attach){.loop = loop, .end = end, .fd = fd};
    if (net_loop_post(loop, attach, a) != 0) {
        die("post");
    }
    wait_for(end, 0);
    return end;
}

static double session_seconds(size_t size, int count)
{
    struct net_loop *here, *there;
    struct attach a, b;
    int fds[2];
    if (net_loop_new(&here) != 0 || net_loop_new(&there) != 0 ||
        net_loop_start_thread(here, "here") != 0 || net_loop_start_thread(there, "there") != 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        die("set-up");
    }
    struct end *client = make_end(here, fds[0], false, &a);
    struct end *server = make_end(there, fds[1], true, &b);
    uint64_t start = sys_now_ns();
    for (int i = 0; i < count; i++) {
        struct blob *body = blob_new(size);
        body->size = size;
        memset(body->data, i, size);
        if (net_session_send(client->session, WIRE_REQUEST, 1, body) != 0) {
            die("send");
        }
        wait_for(client, i + 1);
    }
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

int main(void)
{
    double mb = (double)BULK_BYTES * 2 * BULK_COUNT / 1e6;
    double session = session_seconds(BULK_BYTES, BULK_COUNT);
    double plain = plain_seconds(BULK_BYTES, BULK_COUNT);
    printf("16 MB echo: session %.0f MB/s, bare socket %.0f MB/s, ratio %.2f\n", mb / session,
           mb / plain, plain / session);
    session = session_seconds(64, TINY_COUNT);
    plain = plain_seconds(64, TINY_COUNT);
    printf("64 byte round trip: session %.1f us, bare socket %.1f us, ratio %.2f\n",
           session / TINY_COUNT * 1e6, plain / TINY_COUNT * 1e6, session / plain);
    return 0;
}
