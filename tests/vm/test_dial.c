/* SPDX-License-Identifier: MIT */
/* A supervisor that dials in, and its VM, seen by a pretended program that listens: what they say,
 * and what they make of orders that are damaged, late, or for others. Plain TCP on loopback. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "tests/net/peer.h"
#include "tests/suite.h"

static struct rig rig;
static struct net_loop *loop;
static struct server server;
static struct peer *sup; /* the supervisor */

static void wait_first(struct peer *p, uint8_t type)
{
    peer_wait_messages(p, 1);
    ck_assert_str_eq(wire_type_name(p->messages[0].type), wire_type_name(type));
}

static struct wire_join said_by(struct peer *p)
{
    struct wire_join join;
    wait_first(p, WIRE_JOIN);
    ck_assert_int_eq(wire_join_decode(&join, p->messages[0].body), 0);
    return join;
}

static void say_hello(struct peer *p, uint32_t purpose, uint8_t id)
{
    struct wire_hello hello = {.purpose = purpose, .epoch = 1, .pid = 7, .program = "program"};
    memset(hello.incarnation, id, 16);
    peer_send(p, WIRE_HELLO, 0, wire_hello_encode(&hello));
}

/* The second message, after JOIN. */
static struct wire_welcome welcome_of(struct peer *p)
{
    struct wire_welcome welcome;
    peer_wait_messages(p, 2);
    ck_assert_str_eq(wire_type_name(p->messages[1].type), "WELCOME");
    ck_assert_int_eq(wire_welcome_decode(&welcome, p->messages[1].body), 0);
    return welcome;
}

static void finish(struct peer *p)
{
    peer_close(p, false);
    peer_free(p);
}

/* Waits for the supervisor, which comes (again). */
static void expect_supervisor(void)
{
    static const uint8_t zero[16];
    sup = server_expect(&server);
    struct wire_join join = said_by(sup);
    ck_assert_mem_eq(join.token, zero, 16);
    say_hello(sup, WIRE_PURPOSE_WATCH, 2);
    ck_assert(welcome_of(sup).is_accepted);
    ck_assert_mem_eq(welcome_of(sup).supervisor, join.id, 16);
    peer_wait_messages(sup, 3);
    ck_assert_str_eq(wire_type_name(sup->messages[2].type), "VMS");
}

static struct wire_join order_of(struct trk_vm_info vm, uint8_t token)
{
    struct wire_join dial;
    memcpy(dial.id, vm.incarnation, 16);
    memset(dial.token, token, 16);
    return dial;
}

/* Has VM 0 dial in; it says JOIN. */
static struct peer *dial(uint8_t token)
{
    struct wire_join order = order_of(rig_vm(&rig, 0), token);
    struct peer *p = server_expect(&server);
    peer_send(sup, WIRE_DIAL, 0, wire_join_encode(&order));
    struct wire_join join = said_by(p);
    ck_assert_mem_eq(join.id, order.id, 16);
    ck_assert_mem_eq(join.token, order.token, 16);
    return p;
}

static void begin(void)
{
    ck_assert_int_eq(net_loop_new(&loop), 0);
    ck_assert_int_eq(net_loop_start_thread(loop, "program"), 0);
    server_start(&server, loop, "tcp:127.0.0.1:0");
    rig_start(&rig, 1, "--insecure", "--join", server.address + 4, NULL);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
    expect_supervisor();
}

static void end(void)
{
    if (sup != NULL) {
        finish(sup);
    }
    rig_stop(&rig); /* its end is in order, whatever was here */
    server_stop(&server);
    net_loop_free(loop);
}

START_TEST(vm_is_leased_by_its_own_connection)
{
    struct peer *p = dial(1);
    say_hello(p, WIRE_PURPOSE_LEASE, 2);
    ck_assert(welcome_of(p).is_accepted);
    ck_assert_mem_eq(welcome_of(p).vm.incarnation, rig_vm(&rig, 0).incarnation, 16);
    rig_wait_vm(&rig, 0, TRK_VM_LEASED, NULL);
    peer_send(p, WIRE_BYE, 0, blob_new(0));
    peer_wait_closed(p);
    peer_free(p);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
}
END_TEST

START_TEST(supervisor_comes_again_for_ever)
{
    for (int i = 0; i < 3; i++) {
        finish(sup);
        expect_supervisor();
    }
    finish(dial(1));
}
END_TEST

START_TEST(supervisor_that_is_refused_comes_again)
{
    struct wire_welcome no = {.is_accepted = false, .reason = "not now"};
    finish(sup);
    sup = server_expect(&server);
    wait_first(sup, WIRE_JOIN);
    peer_send(sup, WIRE_WELCOME, 0, wire_welcome_encode(&no));
    peer_wait_closed(sup);
    peer_free(sup);
    expect_supervisor();
}
END_TEST

START_TEST(order_for_a_vm_that_is_not_there_is_forgotten)
{
    struct wire_join order = order_of(rig_vm(&rig, 0), 1);
    order.id[0] ^= 1;
    peer_send(sup, WIRE_DIAL, 0, wire_join_encode(&order));
    struct peer *p = dial(2); /* this is the next that comes */
    say_hello(p, WIRE_PURPOSE_LEASE, 2);
    ck_assert(welcome_of(p).is_accepted);
    finish(p);
}
END_TEST

START_TEST(damaged_order_ends_the_session)
{
    peer_send(sup, WIRE_DIAL, 0, text_blob("nonsense"));
    peer_wait_closed(sup);
    peer_free(sup);
    expect_supervisor();
}
END_TEST

START_TEST(who_connected_here_cannot_have_vms_dial)
{
    struct client *c = client_open(&rig, rig.address, WIRE_PURPOSE_WATCH, 3);
    struct wire_join order = order_of(rig_vm(&rig, 0), 1);
    client_send(c, WIRE_DIAL, 0, wire_join_encode(&order));
    client_wait_closed(c);
    client_free(c);
    finish(dial(2)); /* nobody came before it */
}
END_TEST

START_TEST(leased_vm_comes_and_says_whose_it_is)
{
    struct client *holder = client_lease(&rig, 0, 1);
    struct peer *p = dial(1);
    say_hello(p, WIRE_PURPOSE_LEASE, 2);
    ck_assert(!welcome_of(p).is_accepted);
    ck_assert_ptr_nonnull(strstr(welcome_of(p).reason, "leased by client1"));
    peer_wait_closed(p);
    peer_free(p);
    client_bye(holder);
}
END_TEST

START_TEST(refused_vm_stays_as_it_was)
{
    struct wire_welcome no = {.is_accepted = false, .reason = "late"};
    struct peer *p = dial(1);
    peer_send(p, WIRE_WELCOME, 0, wire_welcome_encode(&no));
    peer_wait_closed(p);
    peer_free(p);
    client_bye(client_lease(&rig, 0, 1));
}
END_TEST

START_TEST(vm_that_is_not_greeted_gives_up)
{
    struct peer *p = dial(1);
    peer_wait_closed(p); /* within ten seconds */
    peer_free(p);
    client_bye(client_lease(&rig, 0, 1));
}
END_TEST

START_TEST(descriptors_of_user_code_are_left_alone)
{
    char text[64];
    struct client *holder = client_lease(&rig, 0, 2);
    ck_assert_int_eq(client_call(holder, "close", text, sizeof(text)), TRK_STATUS_OK);
    struct peer *p = dial(1); /* the holder comes again, by another way */
    ck_assert_int_eq(client_call(holder, "own", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "0");
    finish(p);
    client_bye(holder);
}
END_TEST

START_TEST(holder_that_comes_again_ends_its_old_lease)
{
    struct peer *p = dial(1), *again;
    say_hello(p, WIRE_PURPOSE_LEASE, 2);
    ck_assert(welcome_of(p).is_accepted);
    again = dial(2);
    say_hello(again, WIRE_PURPOSE_LEASE, 2);
    peer_wait_closed(p);
    peer_wait_closed(again);
    peer_free(p);
    peer_free(again);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
}
END_TEST

START_TEST(death_goes_to_the_program)
{
    struct peer *p = dial(1);
    struct wire_death death;
    say_hello(p, WIRE_PURPOSE_LEASE, 2);
    ck_assert(welcome_of(p).is_accepted);
    kill((pid_t)rig_vm(&rig, 0).pid, SIGKILL);
    peer_wait_closed(p);
    peer_free(p);
    for (size_t i = 3;; i++) {
        peer_wait_messages(sup, i + 1);
        if (sup->messages[i].type == WIRE_DEATH) {
            ck_assert_int_eq(wire_death_decode(&death, sup->messages[i].body), 0);
            break;
        }
    }
    ck_assert_int_eq(death.signal, SIGKILL);
}
END_TEST

static const struct {
    const char *args[4], *said;
} wrong[] = {
    {{"--join"}, "requires an argument"},
    {{"--join", "there"}, "HOST:PORT"},
    {{"--join", "a:1,b:1"}, "HOST:PORT"},
    {{"--join", "@file:1"}, "HOST:PORT"},
    {{"--join", "there:0", "--insecure"}, "from 1 to 65535"},
    {{"--join", "there:4711", "--key-file", "/nowhere"}, "trickle key new"},
};

START_TEST(wrong_words_are_refused)
{
    char said[4096];
    int status = rig_run(said, sizeof(said), wrong[_i].args[0], wrong[_i].args[1],
                         wrong[_i].args[2], wrong[_i].args[3], NULL);
    ck_assert_int_ne(status, 0);
    ck_assert_msg(strstr(said, wrong[_i].said) != NULL, "%s", said);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dial");
    TCase *tc = tcase_create("dial"), *words = tcase_create("words");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, begin, end);
    tcase_add_test(tc, vm_is_leased_by_its_own_connection);
    tcase_add_test(tc, supervisor_comes_again_for_ever);
    tcase_add_test(tc, supervisor_that_is_refused_comes_again);
    tcase_add_test(tc, order_for_a_vm_that_is_not_there_is_forgotten);
    tcase_add_test(tc, damaged_order_ends_the_session);
    tcase_add_test(tc, who_connected_here_cannot_have_vms_dial);
    tcase_add_test(tc, leased_vm_comes_and_says_whose_it_is);
    tcase_add_test(tc, refused_vm_stays_as_it_was);
    tcase_add_test(tc, vm_that_is_not_greeted_gives_up);
    tcase_add_test(tc, descriptors_of_user_code_are_left_alone);
    tcase_add_test(tc, holder_that_comes_again_ends_its_old_lease);
    tcase_add_test(tc, death_goes_to_the_program);
    tcase_add_loop_test(words, wrong_words_are_refused, 0,
                        (int)(sizeof(wrong) / sizeof(wrong[0])));
    suite_add_tcase(suite, tc);
    suite_add_tcase(suite, words);
    return run_suite(suite);
}
