/* SPDX-License-Identifier: MIT */
/* Multicast on this machine, on a group of the test's own. Skipped where no interface can
 * multicast (networks between machines: netns.py). */
#include <arpa/inet.h>
#include <check.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "discovery/group.h"
#include "discovery/interfaces.h"
#include "finder.h"

static char group[64];
static uint64_t live_before;
static struct trk_discovery_config config;
static struct finder f;
static const uint8_t id_a[16] = "supervisor a", id_b[16] = "supervisor b";

static void setup(void)
{
    uint8_t dice[4];
    ck_assert_int_eq(sys_random(dice, sizeof(dice)), 0);
    snprintf(group, sizeof(group), "239.192.%d.%d:%d", dice[0], dice[1],
             20000 + dice[2] * 64 + dice[3] % 64);
    config = (struct trk_discovery_config){.multicast = group};
    live_before = mem_live();
    ck_assert_int_eq(finder_open(&f, &discovery_multicast, &config), 0);
}

static void teardown(void)
{
    discovery_multicast.close(f.state);
    ck_assert_uint_eq(mem_live(), live_before);
}

static bool has_network(void)
{
    struct discovery_interface list[DISCOVERY_INTERFACES_MAX];
    return discovery_interfaces(list, DISCOVERY_INTERFACES_MAX) > 0;
}

static struct discovery_responder *responder(uint16_t port, const uint8_t *id)
{
    struct discovery_responder *r;
    ck_assert_int_eq(discovery_responder_new(&r, group, port, id), 0);
    return r;
}

/* Lets the responder answer one question. */
static void answer(struct discovery_responder *r)
{
    ck_assert(is_readable(discovery_responder_fd(r), 5000));
    discovery_responder_process(r);
}

START_TEST(question_is_answered_once)
{
    if (!has_network()) {
        return;
    }
    struct discovery_responder *a = responder(4711, id_a), *b = responder(4712, id_b);
    ck_assert(!discovery_multicast.is_immediate);
    ck_assert_int_eq(discovery_multicast.ask(f.state), 0);
    answer(a);
    answer(b);
    ck_assert(finder_wait(&f, 2));
    while (is_readable(discovery_multicast.fd(f.state), 50)) {
        discovery_multicast.process(f.state); /* the same on other interfaces */
    }
    ck_assert_int_eq(f.found_count, 2);
    for (int i = 0; i < 2; i++) {
        const char *port = strrchr(f.found[i], ':');
        ck_assert_int_eq(strncmp(f.found[i], "tcp:", 4), 0);
        ck_assert(strcmp(port, ":4711") == 0 || strcmp(port, ":4712") == 0);
        ck_assert_int_ne(strncmp(f.found[i], "tcp:0.0.0.0", 11), 0);
    }
    ck_assert_int_eq(discovery_multicast.ask(f.state), 0); /* a new question: told again */
    answer(a);
    ck_assert(finder_wait(&f, 3));
    discovery_responder_free(a);
    discovery_responder_free(b);
}
END_TEST

START_TEST(supervisor_that_starts_later_is_heard)
{
    if (!has_network()) {
        return;
    }
    ck_assert_int_eq(discovery_multicast.ask(f.state), 0);
    struct discovery_responder *a = responder(4711, id_a);
    ck_assert(finder_wait(&f, 1));
    discovery_responder_free(a);
}
END_TEST

static int plain_socket(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    int fd = discovery_group_open(&any);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* Nobody asked, a wrong nonce, no port, and noise: not a word of it is reported. */
START_TEST(forged_answers_are_ignored)
{
    if (!has_network()) {
        return;
    }
    struct sockaddr_in to;
    ck_assert_int_eq(discovery_group_parse(&to, group), 0);
    ck_assert_int_eq(discovery_multicast.ask(f.state), 0);
    int fd = plain_socket();
    struct wire_beacon b = {.kind = WIRE_BEACON_ANSWER, .tcp_port = 4711};
    discovery_group_send(fd, &to, &b);
    b = (struct wire_beacon){.kind = WIRE_BEACON_HERE, .tcp_port = 0};
    discovery_group_send(fd, &to, &b);
    b = (struct wire_beacon){.kind = WIRE_BEACON_ASK, .tcp_port = 4711};
    discovery_group_send(fd, &to, &b);
    (void)!sendto(fd, "noise", 5, 0, (struct sockaddr *)&to, sizeof(to));
    b = (struct wire_beacon){.kind = WIRE_BEACON_HERE, .tcp_port = 4799};
    discovery_group_send(fd, &to, &b); /* the one that counts comes last */
    ck_assert(finder_wait(&f, 1));
    ck_assert_ptr_nonnull(strstr(f.found[0], ":4799"));
    ck_assert_int_eq(f.found_count, 1);
    discovery_group_close(fd);
}
END_TEST

START_TEST(answers_are_rationed)
{
    if (!has_network()) {
        return;
    }
    struct sockaddr_in to;
    ck_assert_int_eq(discovery_group_parse(&to, group), 0);
    struct discovery_responder *a = responder(4711, id_a);
    int fd = plain_socket(), answers = 0;
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 50; i++) {
            struct wire_beacon b = {.kind = WIRE_BEACON_ASK};
            discovery_group_send(fd, &to, &b);
        }
        while (is_readable(discovery_responder_fd(a), 0)) {
            discovery_responder_process(a);
        }
        struct wire_beacon b;
        struct discovery_from from;
        int budget = 1000;
        while (discovery_group_receive(fd, &budget, &b, &from)) {
            answers++;
        }
    }
    ck_assert_int_gt(answers, 0);
    ck_assert_int_lt(answers, 1500); /* of at least 2,000 questions */
    discovery_responder_free(a);
    discovery_group_close(fd);
}
END_TEST

static const char *const malformed[] = {"", "239.1.2.3", "239.1.2.3:", "239.1.2.3:0",
                                        "239.1.2.3:65536", "10.0.0.1:80", "group:80",
                                        "239.1.2.3:80x", ":80"};

START_TEST(malformed_group_is_refused)
{
    struct discovery_responder *r;
    config.multicast = malformed[_i];
    void *state;
    ck_assert_int_eq(discovery_multicast.open(&config, &f.sink, &state), TRK_EINVAL);
    ck_assert_int_eq(discovery_responder_new(&r, malformed[_i], 1, id_a), TRK_EINVAL);
}
END_TEST

START_TEST(opening_without_memory_fails)
{
    struct discovery_responder *r;
    void *state;
    mem_fail_after(1);
    ck_assert_int_eq(discovery_multicast.open(&config, &f.sink, &state), TRK_ENOMEM);
    ck_assert_int_eq(discovery_responder_new(&r, group, 1, id_a), TRK_ENOMEM);
    mem_fail_after(0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("multicast");
    TCase *t = tcase_create("multicast");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, question_is_answered_once);
    tcase_add_test(t, supervisor_that_starts_later_is_heard);
    tcase_add_test(t, forged_answers_are_ignored);
    tcase_add_test(t, answers_are_rationed);
    tcase_add_loop_test(t, malformed_group_is_refused, 0,
                        (int)(sizeof(malformed) / sizeof(malformed[0])));
    tcase_add_test(t, opening_without_memory_fails);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    SRunner *sr = srunner_create(suite());
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
