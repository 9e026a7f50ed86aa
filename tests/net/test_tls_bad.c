/* SPDX-License-Identifier: MIT */
/* test_tls_bad.c - sessions with keys and the bad world: strangers that send garbage, nothing,
 * too much or come in numbers, and a man in the middle who changes, cuts and repeats. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/address.h"
#include "net/tls.h"
#include "tests/suite.h"
#include "peer.h"

static uint64_t dropped_before;
static struct auth_keys ours;

static void setup(void)
{
    ours.count = 1;
    ck_assert_int_eq(auth_key_make(&ours.key[0]), 0);
    dropped_before = net_dropped();
    loops_start();
}

/* --- connections --------------------------------------------------------------------------- */

static int listen_somewhere(char address[128])
{
    int fd = net_listen_fd("tcp:127.0.0.1:0", address, 128);
    ck_assert_msg(fd >= 0, "%s", fail_text());
    return fd;
}

/* The two ends of a TCP connection, raw's with an address of its own; raw's calls wait. */
static void tcp_pair(const char *from, int *fd, int *raw)
{
    char address[128], own[128];
    struct net_address a, b;
    int listener = listen_somewhere(address);
    ck_assert_int_eq(net_address_parse(&a, address), 0);
    snprintf(own, sizeof(own), "tcp:%s:0", from);
    ck_assert_int_eq(net_address_parse(&b, own), 0);
    *raw = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(*raw, (const struct sockaddr *)&b.sa, b.size), 0);
    ck_assert_int_eq(connect(*raw, (const struct sockaddr *)&a.sa, a.size), 0);
    *fd = accept(listener, NULL, NULL);
    ck_assert_int_ge(*fd, 0);
    close(listener);
}

/* A VM's end of a session with a key, made for raw to talk to; not accepted yet. */
static struct peer *end_new(const char *from, int *raw)
{
    struct peer *p = peer_new(there);
    p->opt.keys = &ours;
    p->opt.role = AUTH_VM;
    tcp_pair(from, &p->fd, raw);
    return p;
}

static struct peer *accept_from(const char *address, int *raw)
{
    struct peer *p = end_new(address, raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    return p;
}

static struct peer *accept_raw(int *raw) { return accept_from("127.0.0.1", raw); }

static void check_closed(struct peer *p, int error, const char *says)
{
    peer_wait_closed(p);
    ck_assert_msg(p->error == error, "%d: %s", p->error, p->why);
    ck_assert_msg(strstr(p->why, says) != NULL, "\"%s\" is not in: %s", says, p->why);
    ck_assert_uint_eq(p->count, 0);
    ck_assert_uint_eq(net_dropped(), dropped_before + 1);
}

static void finish(struct peer *p, int raw)
{
    close(raw);
    peer_wait_closed(p);
    loops_free();
    peer_free(p);
}

/* An initiator on a raw socket: its half of the handshake, begun. */
static struct net_tls *call_raw(int raw)
{
    struct net_tls *t;
    size_t size;
    ck_assert_int_eq(net_tls_new(&t, &ours, AUTH_INITIATOR, true), 0);
    ck_assert_int_eq(net_tls_handshake(t), TRK_AGAIN);
    const uint8_t *bytes = net_tls_output(t, &size);
    write_all(raw, bytes, size);
    net_tls_sent(t, size);
    return t;
}

static void end_call(struct net_tls *t, int raw)
{
    uint8_t bytes[4096];
    size_t size;
    int rc = TRK_AGAIN;
    while (rc == TRK_AGAIN) {
        ssize_t n = read(raw, bytes, sizeof(bytes));
        ck_assert_int_gt(n, 0);
        net_tls_feed(t, bytes, (size_t)n);
        rc = net_tls_handshake(t);
    }
    ck_assert_int_eq(rc, 0);
    const uint8_t *out = net_tls_output(t, &size);
    write_all(raw, out, size);
    net_tls_sent(t, size);
}

/* --- strangers ----------------------------------------------------------------------------- */

static const struct {
    const char *bytes, *says;
    size_t size;
} garbage[] = {
#define CASE(text, says) {text, says, sizeof(text) - 1}
    CASE("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain text"),
    CASE("Tk\3\1\0\0\0\0\1\0\0\0\2\0\0\0hi", "plain text"),
    CASE("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "plain text"),
    CASE("\x16gibberish, gibberish, gibberish", "TLS"),
    CASE("\x16\x03\x03\x00\x04\x01\xff\xff\xff", "handshake"),
    CASE("\x16\x03\x03\x00\x05hello", "handshake"),
    CASE("\x16\x03\x03\xff\xff", "handshake"),
    CASE("\x15\x03\x03\x00\x02\x02\x28", "handshake"),
#undef CASE
};
#define GARBAGE_COUNT (int)(sizeof(garbage) / sizeof(garbage[0]))

START_TEST(garbage_is_dropped_and_counted)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    write_all(raw, garbage[_i].bytes, garbage[_i].size);
    check_closed(p, TRK_EDENIED, garbage[_i].says);
    finish(p, raw);
}
END_TEST

static int random_byte(unsigned *seed) { return rand_r(seed) >> 8 & 0xff; }

START_TEST(noise_is_dropped_and_counted)
{
    uint8_t bytes[600];
    int raw;
    unsigned seed = (unsigned)_i;
    struct peer *p = accept_raw(&raw);
    p->opt.hello_ms = 50;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)random_byte(&seed);
    }
    /* A sound header of a record, so that it gets as far as it can. */
    memcpy(bytes, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
    write_all(raw, bytes, sizeof(bytes));
    check_closed(p, TRK_EDENIED, "handshake");
    finish(p, raw);
}
END_TEST

/* A hello that comes a byte at a time, and stops. */
START_TEST(slow_handshake_is_dropped_and_counted)
{
    static const char bytes[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    int raw;
    struct peer *p = end_new("127.0.0.1", &raw);
    p->opt.hello_ms = 60;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    for (int i = 0; i < _i; i++) {
        (void)!send(raw, bytes + i, 1, MSG_NOSIGNAL); /* on a slow machine it is dropped by now */
    }
    check_closed(p, TRK_ETIMEDOUT, "did not finish the TLS handshake within 60 ms");
    finish(p, raw);
}
END_TEST

/* However long it may take to greet. */
START_TEST(patient_session_has_no_patience_for_strangers)
{
    int raw;
    struct peer *p = end_new("127.0.0.1", &raw);
    p->opt.hello_ms = 100000;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    check_closed(p, TRK_ETIMEDOUT, "did not finish the TLS handshake within 3000 ms");
    finish(p, raw);
}
END_TEST

/* Records that OpenSSL would take one after the other. */
START_TEST(long_handshake_is_dropped_and_counted)
{
    static const char head[] = "\x16\x03\x03\x00\x64", start[] = "\x01\x00\x80\x00";
    char record[sizeof(head) - 1 + 100];
    int raw;
    struct peer *p = accept_raw(&raw);
    memset(record, 0, sizeof(record));
    memcpy(record, head, sizeof(head) - 1);
    memcpy(record + sizeof(head) - 1, start, sizeof(start) - 1);
    ssize_t n = 1;
    size_t sent = 0;
    while (n > 0 && sent < 10 * NET_HANDSHAKE_BYTES) {
        n = send(raw, record, sizeof(record), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        memset(record + sizeof(head) - 1, 0, 100);
    }
    check_closed(p, TRK_EDENIED, "handshake is too long");
    finish(p, raw);
}
END_TEST

static void revoke_all(void *loop)
{
    struct auth_keys others = {.count = 1};
    ck_assert_int_eq(auth_key_make(&others.key[0]), 0);
    net_sessions_revoke(loop, &others);
}

/* Its handshake has begun with keys that are revoked meanwhile. */
START_TEST(handshake_does_not_outlast_its_key)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    struct net_tls *t = _i == 0 ? NULL : call_raw(raw); /* has it named its key, too? */
    char byte;
    if (t != NULL) {
        ck_assert_uint_eq(read_all(raw, &byte, 1), 1);
    }
    on_loop(there, revoke_all, there);
    check_closed(p, TRK_EDENIED, "is revoked");
    net_tls_free(t);
    finish(p, raw);
}
END_TEST

/* What raw says now comes as a message. */
static void expect_greeting(struct peer *p, struct net_tls *t, int raw)
{
    uint8_t head[WIRE_HEADER_BYTES];
    size_t size;
    wire_header_put(head, &(struct wire_header){.type = WIRE_HELLO});
    const struct iovec iov = {head, sizeof(head)};
    end_call(t, raw);
    ck_assert_int_eq(net_tls_write(t, &iov, 1), (ssize_t)sizeof(head));
    const uint8_t *bytes = net_tls_output(t, &size);
    write_all(raw, bytes, size);
    peer_wait_messages(p, 1);
    net_tls_free(t);
}

/* Ends with all of them closed. */
static void end_strangers(struct peer **p, const int *raw, int count)
{
    for (int i = 0; i < count; i++) {
        close(raw[i]);
        peer_wait_closed(p[i]);
    }
    loops_free();
    for (int i = 0; i < count; i++) {
        peer_free(p[i]);
    }
}

#define CROWD (2 * NET_STRANGERS_MAX)

START_TEST(strangers_are_few)
{
    struct peer *p[NET_STRANGERS_MAX + 2];
    int raw[NET_STRANGERS_MAX + 2];
    p[0] = accept_raw(&raw[0]); /* who has proved to have the key is no stranger */
    struct net_tls *t = call_raw(raw[0]);
    end_call(t, raw[0]);
    for (int i = 1; i < NET_STRANGERS_MAX + 2; i++) {
        p[i] = accept_raw(&raw[i]);
    }
    check_closed(p[1], TRK_EFULL, "gave way"); /* the oldest; nobody else */
    close(raw[2]);
    peer_wait_closed(p[2]);
    ck_assert_int_eq(p[2]->error, TRK_EIO);
    ck_assert_int_eq(p[0]->closed + p[3]->closed + p[NET_STRANGERS_MAX + 1]->closed, 0);
    raw[2] = -1;
    net_tls_free(t);
    end_strangers(p, raw, NET_STRANGERS_MAX + 2);
}
END_TEST

START_TEST(crowd_of_one_address_keeps_no_other_out)
{
    struct peer *p[CROWD + 1];
    int raw[CROWD + 1];
    for (int i = 0; i < CROWD; i++) {
        p[i] = accept_raw(&raw[i]);
        if (i == NET_STRANGERS_MAX / 2) { /* from elsewhere, and silent for now */
            p[CROWD] = accept_from("127.0.0.2", &raw[CROWD]);
        }
    }
    expect_greeting(p[CROWD], call_raw(raw[CROWD]), raw[CROWD]);
    end_strangers(p, raw, CROWD + 1);
}
END_TEST

START_TEST(crowd_keeps_nobody_out_who_has_begun_with_a_key)
{
    struct peer *p[CROWD + 1];
    int raw[CROWD + 1];
    struct net_tls *t = NULL;
    for (int i = 0; i < CROWD; i++) {
        p[i] = accept_raw(&raw[i]);
        if (i == NET_STRANGERS_MAX / 2) {
            p[CROWD] = accept_raw(&raw[CROWD]);
            t = call_raw(raw[CROWD]);
            struct pollfd answer = {.fd = raw[CROWD], .events = POLLIN};
            ck_assert_int_eq(poll(&answer, 1, 10000), 1);
        }
    }
    expect_greeting(p[CROWD], t, raw[CROWD]);
    end_strangers(p, raw, CROWD + 1);
}
END_TEST

/* --- who has the key, and no manners --------------------------------------------------------- */

START_TEST(garbage_under_the_key_is_dropped)
{
    static const char text[] = "not a frame, not a frame, not a frame";
    const struct iovec iov = {(void *)text, sizeof(text)};
    int raw;
    size_t size;
    struct peer *p = accept_raw(&raw);
    struct net_tls *t = call_raw(raw);
    end_call(t, raw);
    ck_assert_int_eq(net_tls_write(t, &iov, 1), (ssize_t)sizeof(text));
    const uint8_t *bytes = net_tls_output(t, &size);
    write_all(raw, bytes, size);
    check_closed(p, TRK_ECORRUPT, "what ");
    net_tls_free(t);
    finish(p, raw);
}
END_TEST

START_TEST(silence_after_the_handshake_is_dropped)
{
    int raw;
    struct peer *p = end_new("127.0.0.1", &raw);
    p->opt.hello_ms = 100;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    struct net_tls *t = call_raw(raw);
    end_call(t, raw);
    check_closed(p, TRK_ETIMEDOUT, "did not answer within 100 ms");
    net_tls_free(t);
    finish(p, raw);
}
END_TEST

/* --- a man in the middle --------------------------------------------------------------------- */

#define PASSED_MAX 4000

struct relay {
    int fd[2];             /* to the initiator, to the VM */
    int flip_from;         /* the direction of which a byte is changed; -1: none */
    size_t flip_at;        /* the byte */
    uint8_t flip_bit;
    size_t cut_at;         /* both are cut off when the initiator has said so much */
    size_t passed[2];      /* bytes */
    uint8_t first[PASSED_MAX]; /* of what the initiator said */
    pthread_t thread;
};

/* Passes on what has come. Returns false at the end. */
static bool pass(struct relay *r, int from)
{
    uint8_t bytes[65536];
    ssize_t n = read(r->fd[from], bytes, sizeof(bytes));
    if (n <= 0) {
        return false;
    }
    size_t at = r->passed[from];
    if (from == r->flip_from && r->flip_at >= at && r->flip_at < at + (size_t)n) {
        bytes[r->flip_at - at] ^= r->flip_bit;
    }
    if (from == 0 && at < PASSED_MAX) {
        memcpy(r->first + at, bytes, (size_t)n < PASSED_MAX - at ? (size_t)n : PASSED_MAX - at);
    }
    r->passed[from] += (size_t)n;
    for (ssize_t sent = 0; sent < n;) {
        ssize_t m = send(r->fd[1 - from], bytes + sent, (size_t)(n - sent), MSG_NOSIGNAL);
        if (m <= 0) {
            return false;
        }
        sent += m;
    }
    return true;
}

static void *run_relay(void *arg)
{
    struct relay *r = arg;
    struct pollfd p[2] = {{r->fd[0], POLLIN, 0}, {r->fd[1], POLLIN, 0}};
    while ((p[0].fd >= 0 || p[1].fd >= 0) && poll(p, 2, 10000) > 0) {
        for (int i = 0; i < 2; i++) {
            if (p[i].revents != 0 && p[i].fd >= 0 && !pass(r, i)) {
                p[i].fd = -1;
                shutdown(r->fd[1 - i], SHUT_WR);
            }
        }
        if (r->passed[0] >= r->cut_at) {
            break;
        }
    }
    close(r->fd[0]);
    close(r->fd[1]);
    return NULL;
}

/* An initiator and a VM with a relay between them. */
struct path {
    struct peer *client, *end;
    struct relay relay;
};

static void path_open(struct path *p, int flip_from, size_t flip_at, uint8_t flip_bit,
                      size_t cut_at)
{
    char address[128];
    int listener = listen_somewhere(address);
    memset(&p->relay, 0, sizeof(p->relay));
    p->end = end_new("127.0.0.1", &p->relay.fd[1]);
    p->end->is_echo = true;
    p->client = peer_new(here);
    p->client->opt.keys = &ours;
    p->client->opt.hello_ms = p->end->opt.hello_ms = 300;
    p->client->opt.dead_ms = p->end->opt.dead_ms = 300;
    p->client->opt.ping_ms = p->end->opt.ping_ms = 50;
    ck_assert_int_eq(peer_connect(p->client, address), 0);
    struct pollfd coming = {listener, POLLIN, 0};
    ck_assert_int_eq(poll(&coming, 1, 10000), 1);
    p->relay.fd[0] = accept(listener, NULL, NULL);
    close(listener);
    ck_assert_int_eq(peer_accept(p->end, p->end->fd), 0);
    p->relay.flip_from = flip_from;
    p->relay.flip_at = flip_at;
    p->relay.flip_bit = flip_bit;
    p->relay.cut_at = cut_at;
    pthread_create(&p->relay.thread, NULL, run_relay, &p->relay);
}

#define WORD_BYTES 300

/* Waits for both echoes, or for the end. */
static bool path_talk(struct path *p)
{
    struct peer *c = p->client;
    (void)!net_session_send(c->session, WIRE_HELLO, 0, text_blob("hello"));
    (void)!net_session_send(c->session, WIRE_RUN, 7, pattern(WORD_BYTES, 7));
    pthread_mutex_lock(&c->mutex);
    while (c->count < 2 && c->closed == 0) {
        pthread_cond_wait(&c->changed, &c->mutex);
    }
    bool is_done = c->count >= 2;
    pthread_mutex_unlock(&c->mutex);
    return is_done;
}

static void path_close(struct path *p)
{
    net_session_close(p->client->session, true);
    peer_wait_closed(p->client);
    peer_wait_closed(p->end);
    pthread_join(p->relay.thread, NULL);
}

static void check_heard(const struct peer *p)
{
    ck_assert_uint_le(p->count, 2);
    if (p->count >= 1) {
        ck_assert_int_eq(p->messages[0].type, WIRE_HELLO);
        ck_assert_mem_eq(p->messages[0].body->data, "hello", 5);
    }
    if (p->count >= 2) {
        ck_assert_int_eq(p->messages[1].type, WIRE_RUN);
        ck_assert_uint_eq(p->messages[1].stream, 7);
        ck_assert(is_pattern(p->messages[1].body, WORD_BYTES, 7));
    }
}

static void nothing(void *arg) {}

/* The peers' callbacks have been left when their loops have done something else. */
static void path_free(struct path *p)
{
    on_loop(here, nothing, NULL);
    on_loop(there, nothing, NULL);
    peer_free(p->client);
    peer_free(p->end);
}

/* Each byte in full runs, one in twenty else; a waiting session costs a third of a second. */
START_TEST(changed_bytes_change_no_message)
{
    struct path p;
    size_t step = getenv("TRICKLE_FULL") != NULL ? 1 : 20;
    path_open(&p, -1, 0, 0, SIZE_MAX);
    ck_assert(path_talk(&p));
    path_close(&p);
    check_heard(p.end);
    check_heard(p.client);
    ck_assert_int_eq(p.client->error, 0);
    ck_assert_int_eq(p.end->error, 0);
    size_t size = p.relay.passed[_i];
    path_free(&p);
    ck_assert_uint_gt(size, 500);
    for (size_t at = 0; at < size; at += step) {
        path_open(&p, _i, at, (uint8_t)(1 << at % 8), SIZE_MAX);
        bool is_done = path_talk(&p);
        path_close(&p);
        check_heard(p.end);
        check_heard(p.client);
        ck_assert_msg(is_done || p.end->error != 0 || p.client->error != 0, "byte %zu", at);
        ck_assert_str_ne(p.end->why, "");
        ck_assert_str_ne(p.client->why, "");
        path_free(&p);
    }
}
END_TEST

START_TEST(cut_connection_is_no_orderly_end)
{
    struct path p;
    path_open(&p, -1, 0, 0, 10000);
    ck_assert(path_talk(&p));
    (void)!net_session_send(p.client->session, WIRE_RUN, 8, pattern(1000000, 8));
    peer_wait_closed(p.client);
    peer_wait_closed(p.end);
    pthread_join(p.relay.thread, NULL);
    ck_assert_int_eq(p.client->error, TRK_EIO);
    ck_assert_int_eq(p.end->error, TRK_EIO);
    ck_assert_ptr_nonnull(strstr(p.end->why, "lost"));
    ck_assert_uint_eq(p.end->count, 2); /* the part is not shown */
    path_free(&p);
}
END_TEST

START_TEST(repeated_session_is_refused)
{
    struct path p;
    int raw;
    char bytes[4096];
    path_open(&p, -1, 0, 0, SIZE_MAX);
    ck_assert(path_talk(&p));
    path_close(&p);
    ck_assert_uint_lt(p.relay.passed[0], PASSED_MAX);
    struct peer *again = accept_raw(&raw);
    uint64_t dropped = net_dropped();
    write_all(raw, p.relay.first, p.relay.passed[0]);
    while (read(raw, bytes, sizeof(bytes)) > 0) {
    }
    peer_wait_closed(again);
    ck_assert_int_eq(again->error, TRK_EDENIED);
    ck_assert_uint_eq(again->count, 0);
    ck_assert_uint_eq(net_dropped(), dropped + 1);
    path_free(&p);
    finish(again, raw);
}
END_TEST

static void add_tests(TCase *t)
{
    tcase_add_loop_test(t, garbage_is_dropped_and_counted, 0, GARBAGE_COUNT);
    tcase_add_loop_test(t, noise_is_dropped_and_counted, 0, 20);
    tcase_add_loop_test(t, slow_handshake_is_dropped_and_counted, 0, 11);
    tcase_add_test(t, patient_session_has_no_patience_for_strangers);
    tcase_add_test(t, long_handshake_is_dropped_and_counted);
    tcase_add_loop_test(t, handshake_does_not_outlast_its_key, 0, 2);
    tcase_add_test(t, strangers_are_few);
    tcase_add_test(t, crowd_of_one_address_keeps_no_other_out);
    tcase_add_test(t, crowd_keeps_nobody_out_who_has_begun_with_a_key);
    tcase_add_test(t, garbage_under_the_key_is_dropped);
    tcase_add_test(t, silence_after_the_handshake_is_dropped);
    tcase_add_loop_test(t, changed_bytes_change_no_message, 0, 2);
    tcase_add_test(t, cut_connection_is_no_orderly_end);
    tcase_add_test(t, repeated_session_is_refused);
}

int main(void)
{
    Suite *s = suite_create("tls_bad");
    TCase *t = tcase_create("tls_bad");
    tcase_add_checked_fixture(t, setup, loops_end);
    tcase_set_timeout(t, getenv("TRICKLE_FULL") != NULL ? 600 : 50);
    add_tests(t);
    suite_add_tcase(s, t);
    return run_suite(s);
}
