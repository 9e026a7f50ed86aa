/* SPDX-License-Identifier: MIT */
/* What comes to a farm that listens: pretended supervisors and VMs that have the key and come with
 * other tokens, late, twice or never, and strangers that have none. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <arpa/inet.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "auth/keyfile.h"
#include "base/mem.h"
#include "tests/farm/rig.h"
#include "tests/net/peer.h"
#include "tests/suite.h"
#include "wire/msg.h"

static struct rig rig; /* rig.farm is not used */
static char home[64], key[128], address[128];
static struct auth_keys keys;
static struct trk_farm *farm;
static struct trk_vmlist *list;
static struct net_loop *loop;
static struct peer *sup; /* the supervisor that we pretend to be */
static struct wire_join dial; /* what it was told last */

static struct peer *call(void)
{
    struct peer *p = peer_new(loop);
    p->opt.keys = &keys;
    p->opt.role = AUTH_VM;
    int rc = peer_connect(p, address);
    ck_assert_int_eq(rc, 0);
    return p;
}

static void join_as(struct peer *p, const uint8_t id[16], const uint8_t token[16])
{
    struct wire_join join;
    memcpy(join.id, id, 16);
    memcpy(join.token, token, 16);
    peer_send(p, WIRE_JOIN, 0, wire_join_encode(&join));
}

/* Tells of the one VM that there is. */
static void send_vm(uint8_t incarnation, uint32_t state)
{
    struct trk_vm_info info = {.state = state, .pid = 4711};
    struct wire_vms vms = {.is_all = true, .infos = &info, .count = 1};
    memset(info.incarnation, incarnation, 16);
    memset(vms.supervisor, 's', 16);
    memcpy(info.supervisor, vms.supervisor, 16);
    peer_send(sup, WIRE_VMS, 0, wire_vms_encode(&vms));
}

/* The n-th message to the supervisor, HELLO being the first, is a DIAL for that VM. */
static void expect_dial(size_t n, uint8_t incarnation)
{
    uint8_t id[16];
    memset(id, incarnation, 16);
    peer_wait_messages(sup, n);
    ck_assert_str_eq(wire_type_name(sup->messages[n - 1].type), "DIAL");
    ck_assert_int_eq(wire_join_decode(&dial, sup->messages[n - 1].body), 0);
    ck_assert_mem_eq(dial.id, id, 16);
}

static void expect_first(struct peer *p, uint8_t type)
{
    peer_wait_messages(p, 1);
    ck_assert_str_eq(wire_type_name(p->messages[0].type), wire_type_name(type));
}

static void expect_refused(struct peer *p, const char *why)
{
    struct wire_welcome welcome;
    expect_first(p, WIRE_WELCOME);
    ck_assert_int_eq(wire_welcome_decode(&welcome, p->messages[0].body), 0);
    ck_assert(!welcome.is_accepted);
    ck_assert_msg(strstr(welcome.reason, why) != NULL, "%s", welcome.reason);
    peer_close(p, false);
    peer_free(p);
}

static void finish(struct peer *p)
{
    peer_close(p, false);
    peer_free(p);
}

static void welcome(struct peer *p, uint8_t incarnation)
{
    struct wire_welcome w = {.is_accepted = true};
    memset(w.supervisor, 's', 16);
    memset(w.vm.incarnation, incarnation, 16);
    memcpy(w.vm.supervisor, w.supervisor, 16);
    w.vm.state = TRK_VM_LEASED;
    peer_send(p, WIRE_WELCOME, 0, wire_welcome_encode(&w));
}

/* A supervisor that has joined, with VM 'v', idle; the farm wants it. */
static void join_supervisor(void)
{
    static const uint8_t zero[16];
    uint8_t id[16];
    memset(id, 's', 16);
    sup = call();
    join_as(sup, id, zero);
    expect_first(sup, WIRE_HELLO);
    welcome(sup, 0);
    send_vm('v', TRK_VM_IDLE);
    ck_assert_int_eq(trk_connect_start(farm, 1, true, 60000, &list), 0);
    expect_dial(2, 'v');
}

static void begin(void)
{
    struct trk_farm_options opt = {.size = sizeof(opt), .key_file = key, .listen = "127.0.0.1:0"};
    snprintf(home, sizeof(home), "/tmp/trk-join-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(home));
    snprintf(key, sizeof(key), "%s/key", home);
    ck_assert_int_eq(auth_keyfile_new(&keys, key), 0);
    rig_start(&rig);
    trk_farm_close(rig.farm, 0);
    rig.farm = NULL;
    opt.runtime_dir = rig.dir;
    int rc = trk_farm_new(&farm, &opt);
    ck_assert_msg(rc == 0, "%d %s", rc, trk_last_error());
    snprintf(address, sizeof(address), "tcp:%s", trk_farm_listening(farm));
    ck_assert_int_eq(net_loop_new(&loop), 0);
    ck_assert_int_eq(net_loop_start_thread(loop, "test"), 0);
    list = NULL;
    sup = NULL;
}

static void end(void)
{
    trk_vmlist_free(list);
    trk_farm_close(farm, 0);
    if (sup != NULL) {
        finish(sup);
    }
    net_loop_free(loop);
    rig_stop(&rig);
    unlink(key);
    ck_assert_int_eq(rmdir(home), 0);
}

/* The VM that was asked to, with its token; the farm says HELLO. */
static struct peer *dial_in(void)
{
    struct peer *p = call();
    join_as(p, dial.id, dial.token);
    expect_first(p, WIRE_HELLO);
    return p;
}

/* The right one is still wanted. */
static void expect_lease(void)
{
    struct peer *p = dial_in();
    welcome(p, dial.id[0]);
    ck_assert_int_eq(trk_connect_wait(list, 10000), 0);
    finish(p);
}

/* The farm has ended the session of a VM that came, and asks that VM again. */
static void expect_end_and_dial(struct peer *p)
{
    peer_wait_closed(p);
    peer_free(p);
    expect_dial(3, 'v');
    expect_lease();
}

START_TEST(only_the_right_token_is_taken)
{
    uint8_t other[16];
    join_supervisor();
    memcpy(other, dial.token, 16);
    other[15] ^= 1;
    struct peer *p = call();
    join_as(p, dial.id, other);
    expect_refused(p, "token");
    memcpy(other, dial.id, 16);
    other[0] ^= 1; /* of another VM */
    p = call();
    join_as(p, other, dial.token);
    expect_refused(p, "token");
    expect_lease();
}
END_TEST

START_TEST(token_counts_once)
{
    join_supervisor();
    struct peer *first = dial_in(), *second = call();
    join_as(second, dial.id, dial.token);
    expect_refused(second, "token");
    welcome(first, 'v');
    ck_assert_int_eq(trk_connect_wait(list, 10000), 0);
    second = call(); /* not any more when the lease is held, either */
    join_as(second, dial.id, dial.token);
    expect_refused(second, "token");
    finish(first);
}
END_TEST

START_TEST(token_of_a_process_that_has_ended_is_refused)
{
    join_supervisor();
    struct wire_join old = dial;
    send_vm('w', TRK_VM_IDLE);
    expect_dial(3, 'w');
    ck_assert_int_ne(memcmp(old.token, dial.token, 16), 0);
    struct peer *p = call();
    join_as(p, old.id, old.token);
    expect_refused(p, "token");
    expect_lease();
}
END_TEST

START_TEST(token_is_refused_when_the_supervisor_has_gone)
{
    join_supervisor();
    struct wire_join old = dial;
    trk_vmlist_free(list);
    list = NULL;
    finish(sup);
    join_supervisor(); /* when it is known again, that was noticed */
    struct peer *p = call();
    join_as(p, old.id, old.token);
    expect_refused(p, "token");
    expect_lease();
}
END_TEST

START_TEST(vm_that_does_not_come_is_asked_again)
{
    join_supervisor();
    struct wire_join old = dial;
    expect_dial(3, 'v'); /* within ten seconds */
    ck_assert_int_ne(memcmp(old.token, dial.token, 16), 0);
    struct peer *p = call();
    join_as(p, old.id, old.token);
    expect_refused(p, "late");
    expect_lease();
}
END_TEST

START_TEST(vm_that_comes_and_says_nothing_is_asked_again)
{
    join_supervisor();
    struct peer *p = dial_in();
    expect_end_and_dial(p);
}
END_TEST

START_TEST(vm_that_refuses_is_asked_again)
{
    struct wire_welcome no = {.is_accepted = false, .reason = "busy"};
    join_supervisor();
    struct peer *p = dial_in();
    peer_send(p, WIRE_WELCOME, 0, wire_welcome_encode(&no));
    expect_end_and_dial(p);
}
END_TEST

START_TEST(vm_of_another_supervisor_is_refused)
{
    struct wire_welcome w = {.is_accepted = true, .vm = {.state = TRK_VM_LEASED}};
    join_supervisor();
    struct peer *p = dial_in();
    peer_send(p, WIRE_WELCOME, 0, wire_welcome_encode(&w)); /* supervisor: zero */
    expect_end_and_dial(p);
}
END_TEST

static void wait_heard_or_closed(struct peer *p)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&p->mutex);
    while (rc == 0 && p->count == 0 && p->closed == 0) {
        rc = pthread_cond_timedwait(&p->changed, &p->mutex, &until);
    }
    pthread_mutex_unlock(&p->mutex);
    ck_assert_msg(rc == 0, "neither a word nor the end of the connection in 10 s");
}

/* What the farm has for it fails at the n-th allocation, from when it says JOIN. */
START_TEST(vm_that_comes_while_memory_is_short_is_asked_again)
{
    join_supervisor();
    for (uint64_t n = 3; n < 6; n++) { /* before is what it is sent and received with */
        struct peer *p = call();
        peer_wait_opened(p);
        struct blob *body = wire_join_encode(&dial);
        mem_fail_after(n);
        (void)!net_session_send(p->session, WIRE_JOIN, 0, body);
        wait_heard_or_closed(p);
        mem_fail_after(0);
        finish(p);
        expect_dial(2 * (size_t)n - 3, dial.id[0]);
        send_vm((uint8_t)n, TRK_VM_IDLE); /* another one, which has never refused */
        expect_dial(2 * (size_t)n - 2, (uint8_t)n);
    }
    expect_lease();
}
END_TEST

START_TEST(supervisor_that_is_there_twice_counts_once)
{
    static const uint8_t zero[16];
    join_supervisor();
    struct peer *again = call();
    join_as(again, zero, zero);
    expect_first(again, WIRE_HELLO);
    welcome(again, 0);
    peer_wait_closed(again);
    peer_free(again);
    expect_lease();
}
END_TEST

START_TEST(who_is_no_vm_is_not_let_in)
{
    struct wire_hello hello = {.purpose = WIRE_PURPOSE_LEASE};
    uint64_t before = net_dropped();
    struct peer *p = call();
    peer_send(p, WIRE_HELLO, 0, wire_hello_encode(&hello));
    peer_wait_closed(p);
    ck_assert_uint_eq(p->count, 0);
    peer_free(p);
    p = peer_new(loop); /* a program: the handshake has another key for it */
    p->opt.keys = &keys;
    p->opt.role = AUTH_INITIATOR;
    ck_assert_int_eq(peer_connect(p, address), 0);
    peer_wait_closed(p);
    ck_assert_int_eq(p->opened, 0);
    ck_assert_int_lt(p->error, 0);
    peer_free(p);
    ck_assert_uint_ge(net_dropped(), before + 2);
    join_supervisor();
    expect_lease();
}
END_TEST

static int connect_raw(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval limit = {.tv_sec = 10};
    in.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

static void expect_end(int fd)
{
    char bytes[256];
    ssize_t n;
    do {
        n = recv(fd, bytes, sizeof(bytes), 0);
    } while (n > 0); /* an alert, at most */
    ck_assert_msg(n == 0 || errno == ECONNRESET, "not closed: %s", strerror(errno));
    close(fd);
}

START_TEST(garbage_is_dropped)
{
    static const char *const garbage[] = {"GET / HTTP/1.0\r\n\r\n", "Tk\2\30\0\0\0\0",
                                          "\x16\x03\x01\xff\xff..."};
    char noise[9000];
    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        int fd = connect_raw();
        write_all(fd, garbage[i], 8);
        if (i < 2) {
            expect_end(fd);
        } else {
            close(fd); /* the rest of its handshake never comes */
        }
    }
    memset(noise, 0x16, sizeof(noise));
    int fd = connect_raw();
    (void)!send(fd, noise, sizeof(noise), MSG_NOSIGNAL);
    expect_end(fd);
    join_supervisor();
    expect_lease();
}
END_TEST

START_TEST(strangers_are_few_and_disturb_nobody)
{
    enum { MANY = 70 };
    int fds[MANY];
    join_supervisor();
    for (int i = 0; i < MANY; i++) {
        fds[i] = connect_raw();
    }
    struct peer *p = call(); /* while they are there: for who has the key there is room */
    peer_send(p, WIRE_BYE, 0, blob_new(0));
    peer_wait_closed(p);
    ck_assert_msg(p->opened == 1, "not let in: %s", p->why);
    peer_free(p);
    for (int i = 0; i < MANY - NET_STRANGERS_MAX; i++) {
        expect_end(fds[i]); /* the oldest give way */
    }
    for (int i = MANY - NET_STRANGERS_MAX; i < MANY; i++) {
        close(fds[i]);
    }
    expect_lease();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("join_bad");
    TCase *tc = tcase_create("join_bad");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, begin, end);
    tcase_add_test(tc, only_the_right_token_is_taken);
    tcase_add_test(tc, token_counts_once);
    tcase_add_test(tc, token_of_a_process_that_has_ended_is_refused);
    tcase_add_test(tc, token_is_refused_when_the_supervisor_has_gone);
    tcase_add_test(tc, vm_that_does_not_come_is_asked_again);
    tcase_add_test(tc, vm_that_comes_and_says_nothing_is_asked_again);
    tcase_add_test(tc, vm_that_refuses_is_asked_again);
    tcase_add_test(tc, vm_of_another_supervisor_is_refused);
    tcase_add_test(tc, vm_that_comes_while_memory_is_short_is_asked_again);
    tcase_add_test(tc, supervisor_that_is_there_twice_counts_once);
    tcase_add_test(tc, who_is_no_vm_is_not_let_in);
    tcase_add_test(tc, garbage_is_dropped);
    tcase_add_test(tc, strangers_are_few_and_disturb_nobody);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
