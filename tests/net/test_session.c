/* SPDX-License-Identifier: MIT */
/* Sessions that behave: echo, order, heartbeats, closing. Two loops on threads of their own. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "tests/suite.h"
#include "peer.h"

static void setup(void)
{
    make_folder();
    loops_start();
}

static void teardown(void)
{
    loops_end();
    remove_folder();
}

/* A connected pair; the client has said hello and the server taken it. */
static void pair_open(struct pair *p, const char *address, bool is_echo)
{
    pair_make(p, address);
    pair_greet(p);
    p->end->is_echo = is_echo; /* no message is on its way: nobody looks */
}

static const char *const addresses[] = {"unix", "tcp:127.0.0.1:0", "tcp:[::1]:0"};

static const char *address_at(int i) { return i == 0 ? unix_in_folder("a.sock") : addresses[i]; }

static bool has_ipv6(void)
{
    char bound[128];
    int fd = net_listen_fd("tcp:[::1]:0", bound, sizeof(bound));
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

START_TEST(messages_come_back_whole)
{
    static const size_t sizes[] = {0, 1, 15, 65527, 65528, 65529, 65535, 65536, 65537,
                                   131064, 131072, 131073, 1000000, 20000000};
    const size_t count = sizeof(sizes) / sizeof(sizes[0]);
    struct pair p;
    if (_i == 2 && !has_ipv6()) {
        return;
    }
    pair_open(&p, address_at(_i), true);
    for (size_t i = 0; i < count; i++) {
        peer_send(p.client, WIRE_REQUEST, (uint32_t)i, pattern(sizes[i], (unsigned)i));
    }
    peer_wait_messages(p.client, 1 + count);
    for (size_t i = 0; i < count; i++) {
        const struct wire_message *m = &p.client->messages[1 + i];
        ck_assert_int_eq(m->type, WIRE_REQUEST);
        ck_assert_uint_eq(m->stream, i);
        ck_assert_msg(is_pattern(m->body, sizes[i], (unsigned)i), "%zu bytes changed", sizes[i]);
    }
    ck_assert_uint_eq(net_session_queued(p.client->session), 0);
    if (_i == 0) {
        ck_assert_str_eq(net_session_peer(p.client->session), p.server.address);
        ck_assert_str_eq(net_session_peer(p.end->session), p.server.address);
        ck_assert_uint_eq(net_session_peer_pid(p.end->session), (uint32_t)getpid());
    } else {
        ck_assert_uint_eq(net_session_peer_pid(p.end->session), 0);
    }
    pair_close(&p);
}
END_TEST

/* Both ends send large messages at once: nobody waits for the other to read. */
START_TEST(bulk_both_ways_at_once_does_not_lock_up)
{
    struct pair p;
    pair_open(&p, unix_in_folder("a.sock"), false);
    for (unsigned i = 0; i < 4; i++) {
        peer_send(p.client, WIRE_RUN, i, pattern(8000000, i));
        peer_send(p.end, WIRE_RESULT, i, pattern(8000000, i + 7));
    }
    peer_wait_messages(p.client, 5);
    peer_wait_messages(p.end, 5);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(is_pattern(p.end->messages[1 + i].body, 8000000, i));
        ck_assert(is_pattern(p.client->messages[1 + i].body, 8000000, i + 7));
    }
    pair_close(&p);
}
END_TEST

#define PER_SENDER 2000

START_TEST(each_threads_messages_stay_in_order)
{
    struct pair p;
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    pair_open(&p, unix_in_folder("a.sock"), false);
    for (uint32_t i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.peer = p.client, .number = i, .count = PER_SENDER};
        pthread_create(&threads[i], NULL, sender_run, &senders[i]);
    }
    peer_wait_messages(p.end, 1 + SENDERS * PER_SENDER);
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
    }
    senders_check(p.end);
    pair_close(&p);
}
END_TEST

/* --- against a raw socket --------------------------------------------------------------- */

static struct peer *accept_raw(int *raw)
{
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct peer *p = peer_new(here);
    *raw = fds[1];
    p->fd = fds[0];
    return p;
}

static void finish_raw(struct peer *p, int raw)
{
    close(raw);
    peer_wait_closed(p);
    net_loop_free(here);
    here = NULL;
    peer_free(p);
}

static void read_header(int fd, struct wire_header *h, uint8_t *body)
{
    uint8_t head[WIRE_HEADER_BYTES];
    ck_assert_uint_eq(read_all(fd, head, sizeof(head)), sizeof(head));
    ck_assert_int_eq(wire_header_get(h, head, WIRE_BODY_MAX), 0);
    ck_assert_uint_eq(read_all(fd, body, h->length), h->length);
}

START_TEST(control_goes_ahead_of_bulk)
{
    static uint8_t body[WIRE_BODY_MAX];
    const size_t size = 20000000;
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    peer_send(p, WIRE_RUN, 1, pattern(size, 1)); /* nobody reads: most of it is queued */
    size_t queued = net_session_queued(p->session);
    ck_assert_uint_gt(queued, size / 2);
    peer_send(p, WIRE_RUN, 2, text_blob("after"));
    peer_send(p, WIRE_CANCEL, 3, text_blob("at once"));
    size_t before = 0;
    struct wire_header h;
    for (;;) {
        read_header(raw, &h, body);
        if (h.type != WIRE_RUN) {
            break;
        }
        ck_assert_uint_eq(h.stream, 1);
        before += h.length;
    }
    ck_assert_int_eq(h.type, WIRE_CANCEL);
    ck_assert_msg(before <= size - queued + 2 * WIRE_BODY_MAX,
                  "%zu bytes went ahead of the control message, %zu were in the kernel", before,
                  size - queued);
    for (;;) { /* the rest is complete */
        read_header(raw, &h, body);
        if (h.stream == 2) {
            break;
        }
        before += h.length;
    }
    ck_assert_uint_eq(before, size + 8);
    finish_raw(p, raw);
}
END_TEST

START_TEST(ping_is_answered_and_not_shown)
{
    static uint8_t body[WIRE_BODY_MAX];
    struct wire_header h;
    int raw;
    struct peer *p = accept_raw(&raw);
    p->opt.ping_ms = 60000;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    write_frame(raw, WIRE_PING, 0, 0, "", 0);
    write_frame(raw, WIRE_PONG, 0, 0, "", 0);
    write_frame(raw, WIRE_ACK, 0, 0, "x", 1);
    read_header(raw, &h, body);
    ck_assert_int_eq(h.type, WIRE_PONG);
    peer_wait_messages(p, 2);
    ck_assert_int_eq(p->messages[0].type, WIRE_HELLO);
    ck_assert_int_eq(p->messages[1].type, WIRE_ACK);
    finish_raw(p, raw);
}
END_TEST

START_TEST(silence_is_broken_by_pings)
{
    static uint8_t body[WIRE_BODY_MAX];
    struct wire_header h;
    int raw;
    struct peer *p = accept_raw(&raw);
    p->opt.ping_ms = 5;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    peer_wait_messages(p, 1);
    peer_send(p, WIRE_WELCOME, 0, text_blob("w"));
    read_header(raw, &h, body);
    ck_assert_int_eq(h.type, WIRE_WELCOME); /* never a ping before it */
    for (int i = 0; i < 3; i++) {
        read_header(raw, &h, body);
        ck_assert_int_eq(h.type, WIRE_PING);
    }
    finish_raw(p, raw);
}
END_TEST

START_TEST(peer_that_stays_silent_is_dead)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    p->opt.dead_ms = 30;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    peer_wait_closed(p);
    ck_assert_int_eq(p->error, TRK_ETIMEDOUT);
    finish_raw(p, raw);
}
END_TEST

/* What arrived before the end is delivered before on_close. */
START_TEST(end_of_file_comes_after_the_last_message)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    write_frame(raw, WIRE_RESULT, 0, 0, "last", 4);
    shutdown(raw, SHUT_RDWR);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    peer_wait_closed(p);
    ck_assert_uint_eq(p->count, 2);
    ck_assert_int_eq(p->error, 0);
    finish_raw(p, raw);
}
END_TEST

/* Our write fails because the peer has gone; its last words are read all the same. */
START_TEST(failed_write_does_not_lose_what_the_peer_said)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    p->is_echo = true; /* so that a write fails while there is more to read */
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    for (uint32_t i = 0; i < 50; i++) {
        write_frame(raw, WIRE_RESULT, 0, i, "result", 6);
    }
    close(raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    peer_wait_closed(p);
    ck_assert_uint_eq(p->count, 51);
    net_loop_free(here);
    here = NULL;
    peer_free(p);
}
END_TEST

/* --- closing ---------------------------------------------------------------------------- */

START_TEST(close_with_flush_delivers_all)
{
    struct pair p;
    pair_open(&p, _i == 0 ? unix_in_folder("a.sock") : "tcp:127.0.0.1:0", false);
    /* Unread input on our side must not destroy what we say last. */
    peer_send(p.client, WIRE_RUN, 0, pattern(3000000, 1));
    peer_send(p.end, WIRE_RESULT, 9, pattern(4000000, 2)); /* more than the kernel takes */
    net_session_close(p.end->session, true);
    ck_assert_int_eq(net_session_send(p.end->session, WIRE_RESULT, 0, text_blob("late")),
                     TRK_ECLOSED);
    peer_wait_closed(p.client);
    peer_wait_closed(p.end);
    ck_assert_int_eq(p.client->error, 0);
    ck_assert_int_eq(p.end->error, 0);
    ck_assert_uint_eq(p.client->count, 2);
    ck_assert(is_pattern(p.client->messages[1].body, 4000000, 2));
    pair_close(&p);
}
END_TEST

START_TEST(flush_ends_though_nobody_reads)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    peer_send(p, WIRE_RUN, 1, pattern(20000000, 1));
    peer_close(p, true);
    ck_assert_int_eq(p->error, 0);
    finish_raw(p, raw);
}
END_TEST

START_TEST(close_works_inside_every_callback)
{
    static const enum peer_close when[] = {PEER_IN_OPEN, PEER_IN_MESSAGE, PEER_FLUSH_IN_MESSAGE,
                                           PEER_IN_CLOSE};
    struct server s;
    server_start(&s, there, unix_in_folder("a.sock"));
    struct peer *end = server_expect(&s);
    struct peer *client = peer_new(here);
    client->closes = when[_i];
    end->is_echo = true;
    ck_assert_int_eq(peer_connect(client, s.address), 0);
    if (when[_i] != PEER_IN_OPEN) { /* else it may be closed by now */
        peer_send(client, WIRE_HELLO, 0, text_blob("hello"));
    }
    if (when[_i] == PEER_IN_CLOSE) {
        peer_wait_messages(client, 1);
        peer_close(client, false);
    }
    peer_wait_closed(client);
    ck_assert_int_eq(client->error, 0);
    ck_assert_int_eq(net_session_send(client->session, WIRE_RUN, 0, text_blob("x")), TRK_ECLOSED);
    net_session_close(client->session, true); /* harmless */
    peer_wait_closed(end);
    server_stop(&s);
    loops_free();
    peer_free(client);
    peer_free(end);
}
END_TEST

static void *close_now(void *arg)
{
    struct peer *p = arg;
    net_session_close(p->session, false);
    return NULL;
}

static void *send_until_closed(void *arg)
{
    struct peer *p = arg;
    while (net_session_send(p->session, WIRE_RUN, 0, pattern(100000, 0)) == 0) {
    }
    return NULL;
}

/* Threads write while another closes. */
START_TEST(close_from_a_thread_amid_sends)
{
    struct pair p;
    pthread_t writers[2], closer;
    pair_open(&p, unix_in_folder("a.sock"), false);
    p.end->is_quiet = false;
    for (int i = 0; i < 2; i++) {
        pthread_create(&writers[i], NULL, send_until_closed, p.client);
    }
    peer_wait_messages(p.end, 20);
    pthread_create(&closer, NULL, close_now, p.client);
    pthread_join(closer, NULL);
    for (int i = 0; i < 2; i++) {
        pthread_join(writers[i], NULL);
    }
    pair_close(&p);
}
END_TEST

START_TEST(loop_that_ends_closes_its_sessions)
{
    struct server s;
    server_start(&s, there, unix_in_folder("a.sock"));
    struct peer *end = server_expect(&s);
    struct peer *client = peer_new(here);
    ck_assert_int_eq(peer_connect(client, s.address), 0);
    peer_send(client, WIRE_HELLO, 0, pattern(100, 1));
    peer_send(client, WIRE_RUN, 0, pattern(20000000, 1));
    loops_free();
    ck_assert_int_eq(client->closed, 1);
    net_session_close(client->session, false); /* touches no loop */
    ck_assert_int_eq(net_session_send(client->session, WIRE_RUN, 0, text_blob("x")), TRK_ECLOSED);
    ck_assert_uint_eq(net_session_queued(client->session), 0);
    close(s.fd);
    peer_free(client);
    peer_free(end);
}
END_TEST

START_TEST(what_is_too_big_is_refused_at_once)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    struct blob *b = text_blob("x");
    b->size = WIRE_MESSAGE_MAX + 1; /* never looked at */
    ck_assert_int_eq(net_session_send(p->session, WIRE_RUN, 0, b), TRK_ETOOBIG);
    finish_raw(p, raw);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("session");
    TCase *t = tcase_create("session");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 50);
    tcase_add_loop_test(t, messages_come_back_whole, 0, 3);
    tcase_add_test(t, bulk_both_ways_at_once_does_not_lock_up);
    tcase_add_test(t, each_threads_messages_stay_in_order);
    tcase_add_test(t, control_goes_ahead_of_bulk);
    tcase_add_test(t, ping_is_answered_and_not_shown);
    tcase_add_test(t, silence_is_broken_by_pings);
    tcase_add_test(t, peer_that_stays_silent_is_dead);
    tcase_add_test(t, end_of_file_comes_after_the_last_message);
    tcase_add_test(t, failed_write_does_not_lose_what_the_peer_said);
    tcase_add_loop_test(t, close_with_flush_delivers_all, 0, 2);
    tcase_add_test(t, flush_ends_though_nobody_reads);
    tcase_add_loop_test(t, close_works_inside_every_callback, 0, 4);
    tcase_add_test(t, close_from_a_thread_amid_sends);
    tcase_add_test(t, loop_that_ends_closes_its_sessions);
    tcase_add_test(t, what_is_too_big_is_refused_at_once);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
