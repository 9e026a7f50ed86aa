/* SPDX-License-Identifier: MIT */
#include "base/fail.h" /* before check.h, which has a macro fail */
#include "peer.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

struct net_loop *here, *there;
static int fds_before;
static uint64_t live_before;

void loops_start(void)
{
    ck_assert_int_eq(net_loop_new(&here), 0); /* the first makes what libuv keeps for good */
    net_loop_free(here);
    fds_before = count_fds();
    live_before = mem_live();
    ck_assert_int_eq(net_loop_new(&here), 0);
    ck_assert_int_eq(net_loop_new(&there), 0);
    ck_assert_int_eq(net_loop_start_thread(here, "here"), 0);
    ck_assert_int_eq(net_loop_start_thread(there, "there"), 0);
}

void loops_free(void)
{
    net_loop_free(here);
    net_loop_free(there);
    here = there = NULL;
}

void loops_end(void)
{
    loops_free();
    ck_assert_int_eq(count_fds(), fds_before);
    ck_assert_uint_eq(mem_live(), live_before);
}

static void on_open(struct net_session *s, void *user)
{
    struct peer *p = user;
    if (p->closes == PEER_IN_OPEN) {
        net_session_close(s, false);
    }
    pthread_mutex_lock(&p->mutex);
    p->opened++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct peer *p = user;
    if (!p->is_wary) {
        net_session_set_trusted(s);
    }
    if (p->is_echo) {
        /* The other side may have gone. */
        (void)!net_session_send(s, msg->type, msg->stream, blob_ref(msg->body));
    }
    if (p->closes == PEER_IN_MESSAGE || p->closes == PEER_FLUSH_IN_MESSAGE) {
        net_session_close(s, p->closes == PEER_FLUSH_IN_MESSAGE);
    }
    pthread_mutex_lock(&p->mutex);
    if (p->is_quiet || p->count >= PEER_MESSAGES_MAX) {
        blob_unref(msg->body);
    } else {
        p->messages[p->count] = *msg;
    }
    p->count++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

static void on_close(struct net_session *s, void *user, int error, const char *why)
{
    struct peer *p = user;
    if (p->closes == PEER_IN_CLOSE) {
        net_session_close(s, false);
        net_session_close(s, true);
    }
    pthread_mutex_lock(&p->mutex);
    p->closed++;
    p->error = error;
    snprintf(p->why, sizeof(p->why), "%s", why);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

static const struct net_session_ops ops = {
    .on_open = on_open, .on_message = on_message, .on_close = on_close};

struct peer *peer_new(struct net_loop *loop)
{
    struct peer *p = calloc(1, sizeof(*p));
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->loop = loop;
    p->opt.ops = &ops;
    p->opt.user = p;
    return p;
}

void peer_free(struct peer *p)
{
    if (p->session != NULL) {
        ck_assert_msg(p->closed == 1, "on_close came %d times, not once", p->closed);
    }
    net_session_unref(p->session);
    for (size_t i = 0; i < p->count && i < PEER_MESSAGES_MAX && !p->is_quiet; i++) {
        blob_unref(p->messages[i].body);
    }
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

struct call {
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t mutex;
    pthread_cond_t done;
    bool is_done;
};

static void run_call(void *arg)
{
    struct call *c = arg;
    c->fn(c->arg);
    pthread_mutex_lock(&c->mutex);
    c->is_done = true;
    pthread_cond_signal(&c->done);
    pthread_mutex_unlock(&c->mutex);
}

void on_loop(struct net_loop *loop, void (*fn)(void *arg), void *arg)
{
    if (net_loop_is_here(loop)) {
        fn(arg);
        return;
    }
    struct call c = {.fn = fn, .arg = arg, .mutex = PTHREAD_MUTEX_INITIALIZER,
                     .done = PTHREAD_COND_INITIALIZER};
    int rc = net_loop_post(loop, run_call, &c);
    ck_assert_int_eq(rc, 0);
    pthread_mutex_lock(&c.mutex);
    while (!c.is_done) {
        pthread_cond_wait(&c.done, &c.mutex);
    }
    pthread_mutex_unlock(&c.mutex);
}

static void connect_here(void *arg)
{
    struct peer *p = arg;
    mem_fail_after(p->fail_after);
    p->result = net_session_connect(p->loop, p->address, &p->opt, &p->session);
    mem_fail_after(0);
    if (p->result == 0) {
        ck_assert_int_eq(p->opened, 0); /* asynchronous, always */
        ck_assert_int_eq(p->closed, 0);
    }
}

int peer_connect(struct peer *p, const char *address)
{
    p->address = address;
    on_loop(p->loop, connect_here, p);
    return p->result;
}

static void accept_here(void *arg)
{
    struct peer *p = arg;
    p->result = net_session_accept(p->loop, p->fd, &p->opt, &p->session);
}

int peer_accept(struct peer *p, int fd)
{
    p->fd = fd;
    on_loop(p->loop, accept_here, p);
    return p->result;
}

void peer_send(struct peer *p, uint8_t type, uint32_t stream, struct blob *body)
{
    int rc = net_session_send(p->session, type, stream, body);
    ck_assert_int_eq(rc, 0);
}

void peer_close(struct peer *p, bool flush)
{
    net_session_close(p->session, flush);
    peer_wait_closed(p);
}

/* One turn of waiting, under the mutex. */
static void wait_once(struct peer *p, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    if (pthread_cond_timedwait(&p->changed, &p->mutex, &until) != 0) {
        ck_abort_msg("waited in vain for %s: %zu messages, opened %d, closed %d (%s)", what,
                     p->count, p->opened, p->closed, p->why);
    }
}

void peer_wait_messages(struct peer *p, size_t count)
{
    pthread_mutex_lock(&p->mutex);
    while (p->count < count) {
        wait_once(p, "messages");
    }
    pthread_mutex_unlock(&p->mutex);
}

void peer_wait_opened(struct peer *p)
{
    pthread_mutex_lock(&p->mutex);
    while (p->opened == 0) {
        wait_once(p, "on_open");
    }
    pthread_mutex_unlock(&p->mutex);
}

void peer_wait_closed(struct peer *p)
{
    pthread_mutex_lock(&p->mutex);
    while (p->closed == 0) {
        wait_once(p, "on_close");
    }
    pthread_mutex_unlock(&p->mutex);
}

struct blob *pattern(size_t size, unsigned seed)
{
    struct blob *b = blob_new(size);
    ck_assert_ptr_nonnull(b);
    for (size_t i = 0; i < size; i++) {
        b->data[i] = (uint8_t)((i * 31 + seed) ^ (i >> 8) ^ (i >> 16));
    }
    b->size = size;
    return b;
}

bool is_pattern(const struct blob *b, size_t size, unsigned seed)
{
    struct blob *want = pattern(size, seed);
    bool is_same = b->size == size && (size == 0 || memcmp(b->data, want->data, size) == 0);
    blob_unref(want);
    return is_same;
}

struct blob *text_blob(const char *text)
{
    struct blob *b = blob_dup(text, strlen(text));
    ck_assert_ptr_nonnull(b);
    return b;
}

static void accepted(void *user, int fd)
{
    struct server *s = user;
    if (s->taken == s->ready) {
        close(fd);
        return;
    }
    (void)!peer_accept(s->ends[s->taken++], fd);
}

static void start_here(void *arg)
{
    struct server *s = arg;
    int rc = net_listener_start(s->loop, s->fd, accepted, s, &s->listener);
    ck_assert_int_eq(rc, 0);
}

void server_start(struct server *s, struct net_loop *loop, const char *address)
{
    memset(s, 0, sizeof(*s));
    s->loop = loop;
    s->fd = net_listen_fd(address, s->address, sizeof(s->address));
    ck_assert_msg(s->fd >= 0, "%s: %s", address, fail_text());
    on_loop(loop, start_here, s);
}

struct peer *server_expect(struct server *s)
{
    struct peer *p = peer_new(s->loop);
    s->ends[s->ready++] = p;
    return p;
}

static void stop_here(void *arg)
{
    struct server *s = arg;
    net_listener_close(s->listener);
}

void server_stop(struct server *s)
{
    on_loop(s->loop, stop_here, s);
    close(s->fd);
}

void pair_make(struct pair *p, const char *address)
{
    server_start(&p->server, there, address);
    p->end = server_expect(&p->server);
    p->client = peer_new(here);
}

void pair_connect(struct pair *p)
{
    ck_assert_int_eq(peer_connect(p->client, p->server.address), 0);
    peer_send(p->client, WIRE_HELLO, 0, text_blob("hello"));
}

void pair_greet(struct pair *p)
{
    pair_connect(p);
    peer_wait_messages(p->end, 1);
    peer_send(p->end, WIRE_WELCOME, 0, text_blob("welcome"));
    peer_wait_messages(p->client, 1);
}

void pair_close(struct pair *p)
{
    peer_close(p->client, true);
    peer_wait_closed(p->end);
    pair_free(p);
}

void pair_free(struct pair *p)
{
    server_stop(&p->server);
    loops_free();
    peer_free(p->client);
    peer_free(p->end);
}

void *sender_run(void *sender)
{
    const struct sender *s = sender;
    unsigned seed = s->number + 1;
    for (uint32_t i = 0; i < s->count; i++) {
        size_t size = i % (s->count / 20) == 0 ? 200000 : (size_t)rand_r(&seed) % 300;
        struct blob *b = pattern(4 + size, s->number);
        le_store_u32(b->data, i);
        peer_send(s->peer, WIRE_RUN, s->number, b);
    }
    return NULL;
}

void senders_check(const struct peer *p)
{
    uint32_t next[SENDERS] = {0};
    for (size_t i = 1; i < p->count; i++) {
        const struct wire_message *m = &p->messages[i];
        ck_assert_uint_lt(m->stream, SENDERS);
        ck_assert_uint_eq(le_load_u32(m->body->data), next[m->stream]);
        next[m->stream]++;
        le_store_u32(m->body->data, 0);
        struct blob *want = pattern(m->body->size, m->stream);
        le_store_u32(want->data, 0);
        ck_assert_int_eq(memcmp(want->data, m->body->data, want->size), 0);
        blob_unref(want);
    }
}

static char folder[64];

void make_folder(void)
{
    snprintf(folder, sizeof(folder), "/tmp/trickle-test-net-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

void remove_folder(void)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        unlink(in_folder(entry->d_name));
    }
    if (dir != NULL) {
        closedir(dir);
    }
    rmdir(folder);
}

const char *in_folder(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

const char *unix_in_folder(const char *name)
{
    static char address[600];
    snprintf(address, sizeof(address), "unix:%s/%s", folder, name);
    return address;
}

int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

void write_all(int fd, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t n = write(fd, at, size);
        ck_assert_msg(n > 0, "write: %m");
        at += n;
        size -= (size_t)n;
    }
}

size_t read_all(int fd, void *bytes, size_t size)
{
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, (uint8_t *)bytes + got, size - got);
        if (n <= 0) {
            break;
        }
        got += (size_t)n;
    }
    return got;
}

void write_frame(int fd, uint8_t type, uint8_t flags, uint32_t stream, const void *body,
                 size_t size)
{
    uint8_t *frame = malloc(WIRE_HEADER_BYTES + size);
    struct wire_header h = {.type = type, .flags = flags, .stream = stream,
                            .length = (uint32_t)size};
    wire_header_put(frame, &h);
    memcpy(frame + WIRE_HEADER_BYTES, body, size);
    write_all(fd, frame, WIRE_HEADER_BYTES + size); /* at once: the reader may close after it */
    free(frame);
}
