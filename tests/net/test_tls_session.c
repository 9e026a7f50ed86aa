/* SPDX-License-Identifier: MIT */
/* test_tls_session.c - sessions with keys over loopback TCP: as those without, and closed to who
 * has no key. Two loops on threads of their own. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "net/address.h"
#include "tests/suite.h"
#include "peer.h"

#define LOOPBACK "tcp:127.0.0.1:0"

static struct auth_keys ours, theirs;

static void setup(void)
{
    ours.count = theirs.count = 1;
    ck_assert_int_eq(auth_key_make(&ours.key[0]), 0);
    ck_assert_int_eq(auth_key_make(&theirs.key[0]), 0);
    make_folder();
    loops_start();
}

static void teardown(void)
{
    loops_end();
    remove_folder();
}

/* A pair whose ends have our key. */
static void pair_make_keyed(struct pair *p, const char *address)
{
    pair_make(p, address);
    p->end->opt.keys = &ours;
    p->end->opt.role = AUTH_VM;
    p->client->opt.keys = &ours;
    p->client->opt.role = AUTH_INITIATOR;
}

static void pair_open(struct pair *p, bool is_echo)
{
    pair_make_keyed(p, LOOPBACK);
    pair_greet(p);
    p->end->is_echo = is_echo; /* no message is on its way: nobody looks */
}

/* --- as without TLS ----------------------------------------------------------------------- */

START_TEST(messages_come_back_whole)
{
    static const size_t sizes[] = {0, 1, 15, 16367, 16368, 16369, 65527, 65528, 65529, 65535,
                                   65536, 65537, 131064, 1000000, 16 << 20};
    const size_t count = sizeof(sizes) / sizeof(sizes[0]);
    struct pair p;
    pair_open(&p, true);
    for (size_t i = 0; i < count; i++) {
        peer_send(p.client, WIRE_REQUEST, (uint32_t)i, pattern(sizes[i], (unsigned)i));
    }
    peer_wait_messages(p.client, 1 + count);
    for (size_t i = 0; i < count; i++) {
        const struct wire_message *m = &p.client->messages[1 + i];
        ck_assert_uint_eq(m->stream, i);
        ck_assert_msg(is_pattern(m->body, sizes[i], (unsigned)i), "%zu bytes changed", sizes[i]);
    }
    ck_assert_uint_eq(net_session_queued(p.client->session), 0);
    ck_assert_int_eq(p.client->opened, 1);
    pair_close(&p);
}
END_TEST

/* Beats go between the fragments: with a patience of a fraction of what the transfer takes nobody
 * is taken for dead. */
START_TEST(heartbeats_pass_through_bulk)
{
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    p.client->opt.ping_ms = p.end->opt.ping_ms = 2;
    p.client->opt.dead_ms = p.end->opt.dead_ms = 2000;
    pair_greet(&p);
    for (unsigned i = 0; i < 4; i++) {
        peer_send(p.client, WIRE_RUN, i, pattern(16 << 20, i));
        peer_send(p.end, WIRE_RESULT, i, pattern(16 << 20, i + 7));
    }
    peer_wait_messages(p.client, 5);
    peer_wait_messages(p.end, 5);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(is_pattern(p.end->messages[1 + i].body, 16 << 20, i));
        ck_assert(is_pattern(p.client->messages[1 + i].body, 16 << 20, i + 7));
    }
    pair_close(&p);
}
END_TEST

#define PER_SENDER 1000

/* Threads on both sides, while both loops read. */
START_TEST(each_threads_messages_stay_in_order)
{
    struct pair p;
    pthread_t threads[2 * SENDERS];
    struct sender senders[2 * SENDERS];
    pair_open(&p, false);
    for (uint32_t i = 0; i < 2 * SENDERS; i++) {
        senders[i] = (struct sender){i < SENDERS ? p.client : p.end, i % SENDERS, PER_SENDER};
        pthread_create(&threads[i], NULL, sender_run, &senders[i]);
    }
    peer_wait_messages(p.end, 1 + SENDERS * PER_SENDER);
    peer_wait_messages(p.client, 1 + SENDERS * PER_SENDER);
    for (int i = 0; i < 2 * SENDERS; i++) {
        pthread_join(threads[i], NULL);
    }
    senders_check(p.end);
    senders_check(p.client);
    pair_close(&p);
}
END_TEST

/* Nobody reads the other end for now: what is sent afterwards overtakes what is queued. */
static void block_there(void *arg)
{
    int *go = arg;
    char byte;
    ck_assert_int_eq(read(go[0], &byte, 1), 1);
}

START_TEST(control_goes_ahead_of_bulk)
{
    int go[2];
    struct pair p;
    pair_open(&p, false);
    ck_assert_int_eq(pipe(go), 0);
    ck_assert_int_eq(net_loop_post(there, block_there, go), 0);
    peer_send(p.client, WIRE_RUN, 1, pattern(50000000, 1));
    size_t queued = net_session_queued(p.client->session);
    ck_assert_uint_gt(queued, 20000000);
    peer_send(p.client, WIRE_RUN, 2, text_blob("after"));
    peer_send(p.client, WIRE_CANCEL, 3, text_blob("at once"));
    write_all(go[1], "g", 1);
    peer_wait_messages(p.end, 4);
    ck_assert_int_eq(p.end->messages[1].type, WIRE_CANCEL);
    ck_assert_uint_eq(p.end->messages[2].stream, 1);
    ck_assert(is_pattern(p.end->messages[2].body, 50000000, 1));
    ck_assert_uint_eq(p.end->messages[3].stream, 2);
    close(go[0]);
    close(go[1]);
    pair_close(&p);
}
END_TEST

START_TEST(close_with_flush_delivers_all)
{
    struct pair p;
    pair_open(&p, false);
    /* Unread input on our side must not destroy what we say last. */
    peer_send(p.client, WIRE_RUN, 0, pattern(3000000, 1));
    peer_send(p.end, WIRE_RESULT, 9, pattern(4000000, 2)); /* more than the kernel takes */
    net_session_close(p.end->session, true);
    peer_wait_closed(p.client);
    peer_wait_closed(p.end);
    ck_assert_msg(p.client->error == 0, "%s", p.client->why);
    ck_assert_int_eq(p.end->error, 0);
    ck_assert_uint_eq(p.client->count, 2);
    ck_assert(is_pattern(p.client->messages[1].body, 4000000, 2));
    pair_free(&p);
}
END_TEST

/* Closed before the handshake is over: what was sent till then arrives. */
START_TEST(flush_waits_for_the_handshake)
{
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    ck_assert_int_eq(peer_connect(p.client, p.server.address), 0);
    peer_send(p.client, WIRE_HELLO, 0, text_blob("hello"));
    net_session_close(p.client->session, true);
    peer_wait_messages(p.end, 1);
    peer_wait_closed(p.end);
    peer_wait_closed(p.client);
    ck_assert_int_eq(p.end->error, 0);
    ck_assert_int_eq(p.client->error, 0);
    pair_free(&p);
}
END_TEST

/* At once is in order, too, as far as the other side can be told. */
START_TEST(close_at_once_is_no_cut)
{
    struct pair p;
    pair_open(&p, false);
    peer_close(p.client, false);
    peer_wait_closed(p.end);
    ck_assert_msg(p.end->error == 0, "%s", p.end->why);
    pair_free(&p);
}
END_TEST

START_TEST(close_works_inside_every_callback)
{
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    p.client->closes = (enum peer_close)(_i % 5);
    p.end->closes = (enum peer_close)(_i / 5);
    ck_assert_int_eq(peer_connect(p.client, p.server.address), 0);
    (void)!net_session_send(p.client->session, WIRE_HELLO, 0, text_blob("hello"));
    if (p.client->closes != PEER_IN_OPEN && p.end->closes != PEER_IN_MESSAGE &&
        p.end->closes != PEER_FLUSH_IN_MESSAGE) {
        peer_wait_messages(p.end, 1);
        (void)!net_session_send(p.end->session, WIRE_WELCOME, 0, text_blob("welcome"));
        net_session_close(p.end->session, true);
    }
    peer_wait_closed(p.client);
    peer_wait_closed(p.end);
    pair_free(&p);
}
END_TEST

START_TEST(loop_that_ends_closes_its_sessions)
{
    struct pair p;
    pair_open(&p, false);
    server_stop(&p.server);
    net_loop_free(here);
    here = NULL;
    ck_assert_int_eq(p.client->closed, 1);
    peer_wait_closed(p.end);
    ck_assert_int_eq(p.end->error, 0);
    net_loop_free(there);
    there = NULL;
    peer_free(p.client);
    peer_free(p.end);
}
END_TEST

/* The same user on one machine needs no key. */
START_TEST(unix_sockets_ignore_keys)
{
    struct pair p;
    pair_make_keyed(&p, unix_in_folder("a.sock"));
    p.end->opt.keys = &theirs;
    pair_greet(&p);
    pair_close(&p);
}
END_TEST

START_TEST(vm_may_dial_in)
{
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    p.client->opt.role = AUTH_VM;
    p.end->opt.role = AUTH_INITIATOR;
    pair_greet(&p);
    pair_close(&p);
}
END_TEST

/* --- who is not let in --------------------------------------------------------------------- */

static const struct {
    const char *what;
    bool client_plain, end_plain, other_key;
    enum auth_role client, end;
    int client_error, end_error;
    const char *client_says, *end_says;
} refusals[] = {
    {"another key", false, false, true, AUTH_INITIATOR, AUTH_VM, TRK_EDENIED, TRK_EDENIED,
     "refuses our key", "not one of ours"},
    {"initiator calls initiator", false, false, false, AUTH_INITIATOR, AUTH_INITIATOR, TRK_EDENIED,
     TRK_EDENIED, "refuses our key", "wrong role"},
    {"VM calls VM", false, false, false, AUTH_VM, AUTH_VM, TRK_EDENIED, TRK_EDENIED,
     "refuses our key", "wrong role"},
    {"plain text to TLS", true, false, false, AUTH_INITIATOR, AUTH_VM, 0, TRK_EDENIED,
     "closed the connection", "plain text"},
    {"TLS to plain text", false, true, false, AUTH_INITIATOR, AUTH_VM, TRK_EIO, TRK_ECORRUPT,
     "before the TLS handshake was over", "speaks TLS"},
};

START_TEST(stranger_is_refused_with_a_reason_on_both_sides)
{
    struct pair p;
    uint64_t dropped = net_dropped();
    pair_make_keyed(&p, LOOPBACK);
    p.client->opt.keys = refusals[_i].client_plain ? NULL
                         : refusals[_i].other_key  ? &theirs
                                                   : &ours;
    p.end->opt.keys = refusals[_i].end_plain ? NULL : &ours;
    p.client->opt.role = refusals[_i].client;
    p.end->opt.role = refusals[_i].end;
    ck_assert_int_eq(peer_connect(p.client, p.server.address), 0);
    /* It may have been refused already, unless it is plain. */
    (void)!net_session_send(p.client->session, WIRE_HELLO, 0, text_blob("hello"));
    peer_wait_closed(p.end);
    peer_wait_closed(p.client);
    ck_assert_msg(p.end->error == refusals[_i].end_error, "%d, %s", p.end->error, p.end->why);
    ck_assert_msg(strstr(p.end->why, refusals[_i].end_says) != NULL, "%s", p.end->why);
    /* A connection that is closed with unread input may be reset: its reason may not arrive. */
    bool was_reset = strstr(p.client->why, "lost") != NULL;
    ck_assert_msg(was_reset || p.client->error == refusals[_i].client_error, "%s", p.client->why);
    ck_assert_msg(was_reset || strstr(p.client->why, refusals[_i].client_says) != NULL, "%s",
                  p.client->why);
    ck_assert_int_eq(p.client->opened, refusals[_i].client_plain ? 1 : 0);
    ck_assert_uint_eq(p.end->count, 0);
    ck_assert_uint_eq(p.client->count, 0);
    ck_assert_uint_gt(net_dropped(), dropped);
    pair_free(&p);
}
END_TEST

START_TEST(both_keys_are_accepted_while_rotating)
{
    struct auth_keys both = {.count = 2, .key = {theirs.key[0], ours.key[0]}};
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    p.end->opt.keys = &both;
    p.client->opt.keys = _i == 0 ? &ours : _i == 1 ? &theirs : &both;
    pair_greet(&p);
    pair_close(&p);
}
END_TEST

static void revoke_theirs(void *loop)
{
    net_sessions_revoke(loop, &ours);
}

static const struct net_session_ops *usual;
static bool is_closed_within; /* the callback that revoked the key of its own session */

static void revoke_in_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct peer *p = user;
    bool is_order = msg->type == WIRE_REQUEST;
    usual->on_message(s, user, msg);
    if (is_order) {
        net_sessions_revoke(p->loop, &theirs);
        is_closed_within = p->closed != 0;
    }
}

/* A supervisor looks at its key file when it is told to have a VM dial in (vm/watch.c). */
START_TEST(key_may_be_revoked_by_a_callback_of_its_own_session)
{
    struct net_session_ops mine;
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    usual = p.end->opt.ops;
    mine = *usual;
    mine.on_message = revoke_in_message;
    p.end->opt.ops = &mine;
    pair_greet(&p);
    peer_send(p.client, WIRE_REQUEST, 0, pattern(100, 1));
    /* Nothing that comes behind it counts. The client may have heard of the end already. */
    for (uint32_t i = 0; i < 3; i++) {
        (void)!net_session_send(p.client->session, WIRE_REPLY, i, pattern(100000, 1));
    }
    peer_wait_closed(p.end);
    ck_assert(!is_closed_within);
    ck_assert_int_eq(p.end->error, TRK_EDENIED);
    ck_assert_msg(strstr(p.end->why, "is revoked") != NULL, "%s", p.end->why);
    ck_assert_uint_eq(p.end->count, 2);
    peer_wait_closed(p.client);
    pair_free(&p);
}
END_TEST

/* Two sessions with two keys; one of these is no longer taken, here (_i 0) or there (1). */
START_TEST(revoked_key_ends_its_sessions_and_no_others)
{
    struct auth_keys both = {.count = 2, .key = {ours.key[0], theirs.key[0]}};
    struct pair p;
    pair_make_keyed(&p, LOOPBACK);
    p.end->opt.keys = &both;
    pair_greet(&p);
    struct pair old = {.client = peer_new(here), .end = server_expect(&p.server)};
    old.end->opt.keys = &both;
    old.end->opt.role = AUTH_VM;
    old.client->opt.keys = &theirs;
    old.client->opt.role = AUTH_INITIATOR;
    old.server = p.server; /* for its address */
    pair_greet(&old);
    on_loop(_i == 0 ? here : there, revoke_theirs, _i == 0 ? here : there);
    struct peer *judge = _i == 0 ? old.client : old.end, *other = _i == 0 ? old.end : old.client;
    peer_wait_closed(judge);
    ck_assert_int_eq(judge->error, TRK_EDENIED);
    ck_assert_msg(strstr(judge->why, "is revoked") != NULL, "%s", judge->why);
    peer_wait_closed(other);
    ck_assert_msg(other->error == 0, "%s", other->why); /* it was told, nothing was cut */
    peer_send(p.client, WIRE_REQUEST, 0, text_blob("still there?"));
    peer_wait_messages(p.end, 2);
    pair_close(&p);
    peer_free(old.client);
    peer_free(old.end);
}
END_TEST

static void nothing(void *arg) {}

/* Each of our own allocations of a connect with keys; OpenSSL's are in test_tls_memory.c. */
START_TEST(connect_without_memory_is_refused)
{
    char address[128];
    int listener = net_listen_fd(LOOPBACK, address, sizeof(address)); /* nobody else allocates */
    struct peer *client = peer_new(here);
    client->opt.keys = &ours;
    uint64_t live = mem_live(), n = 1;
    for (; n < 100; n++) {
        client->fail_after = n;
        int rc = peer_connect(client, address);
        if (rc == 0) {
            break;
        }
        ck_assert_int_eq(rc, TRK_ENOMEM);
        on_loop(here, nothing, NULL); /* its handles are closed when the loop has gone round */
        on_loop(here, nothing, NULL);
        ck_assert_uint_eq(mem_live(), live);
    }
    ck_assert_uint_gt(n, 3);
    ck_assert_uint_lt(n, 100);
    peer_close(client, false);
    close(listener);
    net_loop_free(here);
    here = NULL;
    peer_free(client);
}
END_TEST

static void add_tests(TCase *t)
{
    tcase_add_test(t, messages_come_back_whole);
    tcase_add_test(t, heartbeats_pass_through_bulk);
    tcase_add_test(t, each_threads_messages_stay_in_order);
    tcase_add_test(t, control_goes_ahead_of_bulk);
    tcase_add_test(t, close_with_flush_delivers_all);
    tcase_add_test(t, flush_waits_for_the_handshake);
    tcase_add_test(t, close_at_once_is_no_cut);
    tcase_add_loop_test(t, close_works_inside_every_callback, 0, 25);
    tcase_add_test(t, loop_that_ends_closes_its_sessions);
    tcase_add_test(t, unix_sockets_ignore_keys);
    tcase_add_test(t, vm_may_dial_in);
    tcase_add_loop_test(t, stranger_is_refused_with_a_reason_on_both_sides, 0,
                        (int)(sizeof(refusals) / sizeof(refusals[0])));
    tcase_add_test(t, connect_without_memory_is_refused);
    tcase_add_loop_test(t, revoked_key_ends_its_sessions_and_no_others, 0, 2);
    tcase_add_test(t, key_may_be_revoked_by_a_callback_of_its_own_session);
    tcase_add_loop_test(t, both_keys_are_accepted_while_rotating, 0, 3);
}

int main(void)
{
    Suite *s = suite_create("tls_session");
    TCase *t = tcase_create("tls_session");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 50);
    add_tests(t);
    suite_add_tcase(s, t);
    return run_suite(s);
}
