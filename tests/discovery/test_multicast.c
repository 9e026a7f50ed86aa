/* SPDX-License-Identifier: MIT */
/* Multicast on this machine, on groups of the test's own. Skipped where no interface can multicast
 * (networks between machines: netns.py). */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "discovery/group.h"
#include "tests/suite.h"
#include "finder.h"

static char groups[128]; /* an IPv4 group, and the same number in IPv6 */
static uint64_t live_before;
static struct trk_discovery_config config;
static struct finder f;
static struct auth_keys keys, rotated, stranger; /* rotated: a newer one, and that of keys */
static struct discovery_seals seals;            /* of keys */
static struct discovery_interfaces interfaces;
static struct discovery_group group;            /* the IPv4 one */
static const uint8_t id_a[16] = "supervisor a", id_b[16] = "supervisor b";

static void make_keys(void)
{
    stranger.count = keys.count = 1;
    ck_assert_int_eq(auth_key_make(&keys.key[0]), 0);
    ck_assert_int_eq(auth_key_make(&stranger.key[0]), 0);
    rotated = keys;
    struct auth_key newer;
    ck_assert_int_eq(auth_key_make(&newer), 0);
    auth_keys_rotate(&rotated, &newer);
    ck_assert_int_eq(discovery_seals_init(&seals, &keys), 0);
}

static void setup(void)
{
    uint8_t dice[4];
    struct discovery_group both[DISCOVERY_GROUPS_MAX];
    ck_assert_int_eq(sys_random(dice, sizeof(dice)), 0);
    int port = 20000 + dice[2] * 64 + dice[3] % 64;
    snprintf(groups, sizeof(groups), "239.192.%d.%d:%d,[ff12::%x:%x]:%d", dice[0], dice[1], port,
             dice[0] + 1, dice[1], port);
    ck_assert_int_eq(discovery_groups_parse(both, groups), 2);
    group = both[0];
    discovery_interfaces(&interfaces);
    live_before = mem_live();
    make_keys();
    config = (struct trk_discovery_config){.multicast = groups, .keys = &keys};
    ck_assert_int_eq(finder_open(&f, &discovery_multicast, &config), 0);
}

/* Opens the module again, with other keys. */
static void open_with(const struct auth_keys *other)
{
    discovery_multicast.close(f.state);
    config.keys = other;
    ck_assert_int_eq(finder_open(&f, &discovery_multicast, &config), 0);
}

static void teardown(void)
{
    discovery_multicast.close(f.state);
    ck_assert_uint_eq(mem_live(), live_before);
}

/* Can IPv4 multicast be tried here? */
static bool has_network(void)
{
    for (size_t i = 0; i < interfaces.count; i++) {
        if (discovery_is_ipv4(&interfaces.list[i].address)) {
            return true;
        }
    }
    return false;
}

static struct discovery_responder *open_responder(const struct auth_keys *of, uint16_t port,
                                                  const uint8_t *id)
{
    struct discovery_responder *r;
    const struct discovery_responder_options opt = {
        .multicast = groups, .keys = of, .ipv4_port = port, .ipv6_port = port, .supervisor = id};
    ck_assert_int_eq(discovery_responder_open(&r, &opt), 0);
    return r;
}

static void ask(void) { ck_assert_int_eq(discovery_multicast.ask(f.state), 0); }

/* Lets all of them work until none has anything left to read. */
static void settle(struct discovery_responder *a, struct discovery_responder *b)
{
    bool is_busy = true;
    while (is_busy) {
        is_busy = false;
        struct discovery_responder *both[] = {a, b};
        for (int i = 0; i < 2; i++) {
            if (both[i] != NULL && is_readable(discovery_responder_fd(both[i]), 0)) {
                discovery_responder_process(both[i]);
                is_busy = true;
            }
        }
        if (is_readable(discovery_multicast.fd(f.state), is_busy ? 0 : 50)) {
            discovery_multicast.process(f.state);
            is_busy = true;
        }
    }
}

/* Of loop number i: a plain farm, one with a key. */
static const struct auth_keys *keys_of(int i) { return i == 0 ? NULL : &keys; }

START_TEST(question_is_answered_once)
{
    if (!has_network()) {
        return;
    }
    open_with(keys_of(_i));
    struct discovery_responder *a = open_responder(keys_of(_i), 4711, id_a);
    struct discovery_responder *b = open_responder(keys_of(_i), 4712, id_b);
    ck_assert(!discovery_multicast.is_immediate);
    ask();
    settle(a, b);
    ck_assert_int_eq(f.found_count, 2);
    for (int i = 0; i < 2; i++) {
        const char *port = strrchr(f.found[i], ':');
        ck_assert_int_eq(strncmp(f.found[i], "tcp:", 4), 0);
        ck_assert(strcmp(port, ":4711") == 0 || strcmp(port, ":4712") == 0);
        ck_assert_int_ne(strncmp(f.found[i], "tcp:0.0.0.0", 11), 0);
        ck_assert_ptr_null(strstr(f.found[i], "[::]"));
    }
    ask(); /* a new question: told again */
    settle(a, b);
    ck_assert_int_eq(f.found_count, 4);
    discovery_responder_free(a);
    discovery_responder_free(b);
}
END_TEST

START_TEST(supervisor_that_starts_later_is_heard)
{
    if (!has_network()) {
        return;
    }
    open_with(keys_of(_i));
    ask();
    struct discovery_responder *a = open_responder(keys_of(_i), 4711, id_a);
    settle(a, NULL);
    ck_assert_int_ge(f.found_count, 1);
    ck_assert_ptr_nonnull(strstr(f.found[0], ":4711"));
    discovery_responder_free(a);
}
END_TEST

static const struct {
    const struct auth_keys *asks, *answers;
    bool is_found;
} meetings[] = {
    {&keys, &keys, true},         {NULL, NULL, true},           {&keys, NULL, false},
    {NULL, &keys, false},         {&stranger, &keys, false},    {&rotated, &keys, true},
    {&keys, &rotated, true},      {&rotated, &rotated, true},   {&stranger, &rotated, false},
};

START_TEST(only_those_with_a_key_in_common_meet)
{
    if (!has_network()) {
        return;
    }
    open_with(meetings[_i].asks);
    struct discovery_responder *a = open_responder(meetings[_i].answers, 4711, id_a);
    ask();
    settle(a, NULL);
    ck_assert_int_eq(f.found_count, meetings[_i].is_found ? 1 : 0);
    discovery_responder_free(a);
    a = open_responder(meetings[_i].answers, 4712, id_b); /* its HERE */
    settle(a, NULL);
    ck_assert_int_eq(f.found_count > 1, meetings[_i].is_found);
    discovery_responder_free(a);
}
END_TEST

START_TEST(keys_are_rotated_under_a_running_supervisor)
{
    if (!has_network()) {
        return;
    }
    struct auth_keys newer = {.key[0] = rotated.key[0], .count = 1};
    struct discovery_responder *a = open_responder(&keys, 4711, id_a);
    open_with(&newer);
    ask();
    settle(a, NULL);
    ck_assert_int_eq(f.found_count, 0);
    ck_assert_int_eq(discovery_responder_set_keys(a, &rotated), 0); /* says so by itself */
    settle(a, NULL);
    ck_assert_int_eq(f.found_count, 1);
    open_with(&keys);
    ask();
    settle(a, NULL);
    ck_assert_int_eq(f.found_count, 1);
    ck_assert_int_eq(discovery_responder_set_keys(a, &newer), 0); /* finished: the old one is out */
    ask();
    settle(a, NULL);
    ck_assert_int_eq(f.found_count, 1);
    ck_assert_int_eq(discovery_responder_set_keys(a, NULL), TRK_EINVAL);
    discovery_responder_free(a);
}
END_TEST

/* --- somebody with sockets of their own ------------------------------------------------- */

/* Sends any bytes to the group, from an address and port that are known. */
struct voice {
    int fd;
    struct in6_addr address;
    uint16_t port;
};

static struct voice make_voice(void)
{
    struct voice v;
    size_t i = 0;
    while (!discovery_is_ipv4(&interfaces.list[i].address)) {
        i++;
    }
    v.address = interfaces.list[i].address;
    v.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = discovery_to_ipv4(&v.address)};
    struct ip_mreqn by = {.imr_ifindex = (int)interfaces.list[i].index};
    socklen_t size = sizeof(name);
    ck_assert_int_eq(bind(v.fd, (struct sockaddr *)&name, sizeof(name)), 0);
    ck_assert_int_eq(setsockopt(v.fd, IPPROTO_IP, IP_MULTICAST_IF, &by, sizeof(by)), 0);
    ck_assert_int_eq(getsockname(v.fd, (struct sockaddr *)&name, &size), 0);
    v.port = ntohs(name.sin_port);
    return v;
}

static void speak(const struct voice *v, const void *bytes, size_t size)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(group.port),
                             .sin_addr = discovery_to_ipv4(&group.address)};
    struct pollfd p = {.fd = v->fd, .events = POLLOUT};
    ssize_t n;
    do { /* the network card may take its time with many */
        ck_assert_int_eq(poll(&p, 1, 10000), 1);
        n = sendto(v->fd, bytes, size, 0, (struct sockaddr *)&to, sizeof(to));
    } while (n < 0 && errno == EAGAIN);
    ck_assert_msg(n == (ssize_t)size, "sent %zd of %zu: %s", n, size, strerror(errno));
}

/* A question as v would ask it, with nonce all over. */
static void make_question(const struct voice *v, const struct discovery_seals *by, uint8_t nonce,
                          uint8_t bytes[WIRE_BEACON_BYTES])
{
    struct wire_beacon b = {.kind = WIRE_BEACON_ASK, .port = v->port};
    memcpy(b.address, &v->address, sizeof(b.address));
    memset(b.nonce, nonce, sizeof(b.nonce));
    ck_assert_int_eq(discovery_seals_put(by, 0, &b, bytes), 0);
}

/* Lets a answer what has been asked, then counts what v gets; each no longer than a question. */
static int count_answers(struct discovery_responder *a, const struct voice *v)
{
    uint8_t bytes[4096];
    int answers = 0;
    settle(a, NULL);
    ssize_t n;
    while ((n = recv(v->fd, bytes, sizeof(bytes), 0)) >= 0) {
        ck_assert_int_eq(n, WIRE_BEACON_BYTES);
        answers++;
    }
    return answers;
}

START_TEST(stranger_gets_no_answer)
{
    if (!has_network()) {
        return;
    }
    static const struct discovery_seals plain;
    struct discovery_seals other;
    uint8_t bytes[WIRE_BEACON_BYTES];
    ck_assert_int_eq(discovery_seals_init(&other, &stranger), 0);
    struct discovery_responder *a = open_responder(&keys, 4711, id_a);
    struct voice v = make_voice();
    make_question(&v, &plain, 1, bytes);
    speak(&v, bytes, sizeof(bytes));
    make_question(&v, &other, 2, bytes);
    speak(&v, bytes, sizeof(bytes));
    memcpy(bytes + 4, seals.seal[0].id, sizeof(seals.seal[0].id)); /* the ID is no secret */
    speak(&v, bytes, sizeof(bytes));
    make_question(&v, &seals, 3, bytes);
    for (size_t size = 0; size < sizeof(bytes); size++) {
        speak(&v, bytes, size);
    }
    ck_assert_int_eq(count_answers(a, &v), 0);
    for (size_t at = 0; at < sizeof(bytes); at++) {
        bytes[at] ^= 0x10;
        speak(&v, bytes, sizeof(bytes));
        bytes[at] ^= 0x10;
    }
    ck_assert_int_eq(count_answers(a, &v), 0);
    speak(&v, bytes, sizeof(bytes)); /* one that is right is heard after all of them */
    ck_assert_int_eq(count_answers(a, &v), 1);
    discovery_responder_free(a);
    close(v.fd);
}
END_TEST

START_TEST(replayed_question_is_not_answered_again)
{
    if (!has_network()) {
        return;
    }
    uint8_t bytes[WIRE_BEACON_BYTES];
    struct discovery_responder *a = open_responder(&keys, 4711, id_a);
    struct voice v = make_voice(), thief = make_voice();
    make_question(&v, &seals, 1, bytes);
    speak(&v, bytes, sizeof(bytes));
    speak(&v, bytes, sizeof(bytes));
    ck_assert_int_eq(count_answers(a, &v), 1);
    speak(&v, bytes, sizeof(bytes));
    ck_assert_int_eq(count_answers(a, &v), 0);
    speak(&thief, bytes, sizeof(bytes)); /* nor is another answered at all */
    make_question(&v, &seals, 2, bytes);
    speak(&thief, bytes, sizeof(bytes));
    ck_assert_int_eq(count_answers(a, &thief), 0);
    ck_assert_int_eq(count_answers(a, &v), 0);
    speak(&v, bytes, sizeof(bytes));
    ck_assert_int_eq(count_answers(a, &v), 1);
    discovery_responder_free(a);
    close(v.fd);
    close(thief.fd);
}
END_TEST

START_TEST(answers_are_rationed)
{
    if (!has_network()) {
        return;
    }
    open_with(keys_of(_i));
    struct discovery_responder *a = open_responder(keys_of(_i), 4711, id_a);
    static const struct discovery_seals plain;
    struct voice v = make_voice();
    uint8_t bytes[WIRE_BEACON_BYTES];
    int answers = 0;
    uint64_t start = sys_now_ns();
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 50; i++) {
            make_question(&v, _i == 0 ? &plain : &seals, (uint8_t)(i + 1), bytes);
            bytes[32] = (uint8_t)round; /* of the nonce; so the MAC has to be made again */
            struct wire_beacon b;
            ck_assert_int_eq(wire_beacon_get(&b, bytes, sizeof(bytes)), 0);
            ck_assert_int_eq(discovery_seals_put(_i == 0 ? &plain : &seals, 0, &b, bytes), 0);
            speak(&v, bytes, sizeof(bytes));
        }
        while (is_readable(discovery_responder_fd(a), 0)) {
            discovery_responder_process(a);
        }
        while (recv(v.fd, bytes, sizeof(bytes), 0) >= 0) {
            answers++;
        }
    }
    /* 200 at once and 200 in a second, of 1000. */
    uint64_t seconds = (sys_now_ns() - start) / 1000000000 + 1;
    ck_assert_int_ge(answers, 200);
    ck_assert_uint_le((uint64_t)answers, 200 + 200 * seconds);
    discovery_responder_free(a);
    close(v.fd);
}
END_TEST

/* An IPv6 socket hears a port, not a group: what was sent to this machine alone, maybe from far
 * away, is not a question. */
START_TEST(question_to_one_machine_is_not_answered)
{
    static const struct discovery_seals plain;
    size_t i = 0;
    while (i < interfaces.count && (discovery_is_ipv4(&interfaces.list[i].address) ||
                                    !IN6_IS_ADDR_LINKLOCAL(&interfaces.list[i].address))) {
        i++;
    }
    if (i == interfaces.count) {
        return; /* no IPv6 here */
    }
    struct discovery_responder *a = open_responder(NULL, 4711, id_a);
    const struct discovery_interface *by = &interfaces.list[i];
    struct discovery_group all[DISCOVERY_GROUPS_MAX];
    ck_assert_int_eq(discovery_groups_parse(all, groups), 2);
    int fd = discovery_group_open(&all[1], false, 1);
    ck_assert_int_ge(fd, 0);
    struct wire_beacon b = {.kind = WIRE_BEACON_ASK, .port = discovery_group_port(fd)};
    struct discovery_letter to = {.interface = by->index, .port = all[1].port};
    memcpy(to.b.address, &by->address, sizeof(to.b.address));
    discovery_group_answer(fd, &to, &interfaces, &plain, &b);
    settle(a, NULL);
    int budget = 1000;
    struct discovery_letter letter;
    ck_assert(!discovery_group_receive(fd, NULL, &plain, &budget, &letter));
    discovery_group_send(fd, &all[1], &interfaces, by->index, &plain, &b);
    settle(a, NULL);
    ck_assert(discovery_group_receive(fd, NULL, &plain, &budget, &letter));
    ck_assert_int_eq(letter.b.kind, WIRE_BEACON_ANSWER);
    discovery_responder_free(a);
    discovery_group_close(fd);
}
END_TEST

/* Somebody who has the key and answers by hand: hears one question. */
static struct discovery_letter hear(int ear, const struct discovery_seals *by)
{
    struct discovery_letter letter;
    int budget = 1000;
    do {
        ck_assert(is_readable(ear, 5000));
    } while (!discovery_group_receive(ear, &group, by, &budget, &letter));
    return letter;
}

static int open_ear(void)
{
    int ear = discovery_group_open(&group, true, 1);
    ck_assert_int_ge(ear, 0);
    ck_assert_int_gt(discovery_group_join(ear, &group, &interfaces), 0);
    return ear;
}

static struct wire_beacon make_answer(const struct discovery_letter *to, uint16_t port)
{
    struct wire_beacon b = {.kind = WIRE_BEACON_ANSWER, .port = port, .supervisor = "by hand"};
    memcpy(b.nonce, to->b.nonce, sizeof(b.nonce));
    return b;
}

START_TEST(replayed_answer_is_dropped)
{
    if (!has_network()) {
        return;
    }
    int ear = open_ear();
    ask();
    struct discovery_letter first = hear(ear, &seals);
    struct wire_beacon b = make_answer(&first, 4711);
    for (int i = 0; i < 3; i++) {
        discovery_group_answer(ear, &first, &interfaces, &seals, &b);
    }
    settle(NULL, NULL);
    ck_assert_int_eq(f.found_count, 1);
    ask();
    discovery_group_answer(ear, &first, &interfaces, &seals, &b); /* of the question before */
    settle(NULL, NULL);
    ck_assert_int_eq(f.found_count, 1);
    ask();
    memset(b.supervisor, 'x', sizeof(b.supervisor)); /* and from nobody that is known */
    discovery_group_answer(ear, &first, &interfaces, &seals, &b);
    settle(NULL, NULL);
    ck_assert_int_eq(f.found_count, 1);
    discovery_group_close(ear);
}
END_TEST

/* A recorded HERE, which repeats no nonce, makes nobody believe in anything. */
START_TEST(replayed_here_is_only_a_hint)
{
    if (!has_network()) {
        return;
    }
    int ear = open_ear();
    struct wire_beacon b = {.kind = WIRE_BEACON_HERE, .port = 4711, .supervisor = "long gone"};
    ask();
    uint64_t start = sys_now_ns();
    for (int i = 0; i < 50; i++) {
        discovery_group_send(ear, &group, &interfaces, 0, &seals, &b);
    }
    settle(NULL, NULL);
    ck_assert_int_eq(f.found_count, 0);
    uint64_t seconds = (sys_now_ns() - start) / 1000000000 + 1;
    int budget = 1000, questions = 0;
    struct discovery_letter letter;
    while (discovery_group_receive(ear, &group, &seals, &budget, &letter)) {
        questions += letter.b.kind == WIRE_BEACON_ASK;
    }
    /* Ten at once and ten in a second, of 50; in each network that it came in by. */
    uint64_t networks = 0;
    for (size_t i = 0; i < interfaces.count; i++) {
        networks += discovery_is_ipv4(&interfaces.list[i].address);
    }
    ck_assert_int_ge(questions, 2);
    ck_assert_uint_le((uint64_t)questions, networks + networks * (10 + 10 * seconds));
    discovery_group_close(ear);
}
END_TEST

/* What everybody can hear says where somebody is, not who and at which port. */
START_TEST(sealed_here_names_nothing)
{
    if (!has_network()) {
        return;
    }
    static const uint8_t nobody[16];
    int ear = open_ear();
    struct discovery_responder *a = open_responder(&keys, 4711, id_a);
    struct discovery_letter letter = hear(ear, &seals);
    ck_assert_int_eq(letter.b.kind, WIRE_BEACON_HERE);
    ck_assert_uint_eq(letter.b.port, 0);
    ck_assert_mem_eq(letter.b.supervisor, nobody, sizeof(nobody));
    discovery_responder_free(a);
    discovery_group_close(ear);
}
END_TEST

/* A wrong nonce, no port, another kind, another key, none, and noise: not a word is reported. */
START_TEST(forged_answers_are_ignored)
{
    if (!has_network()) {
        return;
    }
    static const struct discovery_seals plain;
    struct discovery_seals other;
    ck_assert_int_eq(discovery_seals_init(&other, &stranger), 0);
    open_with(keys_of(_i));
    const struct discovery_seals *mine = _i == 0 ? &plain : &seals;
    int ear = open_ear();
    ask();
    struct discovery_letter q = hear(ear, mine);
    struct wire_beacon b = make_answer(&q, 0);
    discovery_group_answer(ear, &q, &interfaces, mine, &b);
    b = make_answer(&q, 4711);
    b.nonce[15] ^= 1;
    discovery_group_answer(ear, &q, &interfaces, mine, &b);
    b = make_answer(&q, 4711);
    discovery_group_answer(ear, &q, &interfaces, &other, &b);
    discovery_group_answer(ear, &q, &interfaces, _i == 0 ? &seals : &plain, &b);
    b = (struct wire_beacon){.kind = WIRE_BEACON_HERE, .port = 0};
    discovery_group_send(ear, &group, &interfaces, 0, mine, &b);
    b = (struct wire_beacon){.kind = WIRE_BEACON_HERE, .port = 4711};
    discovery_group_send(ear, &group, &interfaces, 0, &other, &b);
    b = (struct wire_beacon){.kind = WIRE_BEACON_ANSWER, .port = 4711};
    discovery_group_send(ear, &group, &interfaces, 0, mine, &b);
    struct voice v = make_voice();
    speak(&v, "noise", 5);
    settle(NULL, NULL);
    ck_assert_int_eq(f.found_count, 0);
    b = make_answer(&q, 4799);
    discovery_group_answer(ear, &q, &interfaces, mine, &b); /* the one that counts */
    settle(NULL, NULL);
    ck_assert_int_eq(f.found_count, 1);
    ck_assert_ptr_nonnull(strstr(f.found[0], ":4799"));
    close(v.fd);
    discovery_group_close(ear);
}
END_TEST

/* --- where a supervisor can be reached ---------------------------------------------------- */

static int found_by(const struct discovery_responder_options *opt)
{
    struct discovery_responder *r;
    open_with(&keys);
    ask();
    ck_assert_int_eq(discovery_responder_open(&r, opt), 0);
    ask();
    settle(r, NULL);
    discovery_responder_free(r);
    return f.found_count;
}

START_TEST(only_what_is_listened_at_is_told)
{
    char host[INET_ADDRSTRLEN], wanted[64];
    if (!has_network()) {
        return;
    }
    struct voice v = make_voice();
    struct in_addr ipv4 = discovery_to_ipv4(&v.address);
    close(v.fd);
    inet_ntop(AF_INET, &ipv4, host, sizeof(host));
    snprintf(wanted, sizeof(wanted), "tcp:%s:4711", host);
    struct discovery_responder_options opt = {.multicast = groups, .keys = &keys,
                                              .listen_host = host, .ipv4_port = 4711,
                                              .supervisor = id_a};
    ck_assert_int_ge(found_by(&opt), 1);
    for (int i = 0; i < f.found_count; i++) {
        ck_assert_str_eq(f.found[i], wanted);
    }
    opt.listen_host = "203.0.113.250"; /* for documents only: never ours */
    ck_assert_int_eq(found_by(&opt), 0);
    opt.listen_host = "0.0.0.0";
    ck_assert_int_ge(found_by(&opt), 1);
    opt.listen_host = NULL;
    opt.ipv6_port = opt.ipv4_port;
    opt.ipv4_port = 0;
    (void)found_by(&opt);
    for (int i = 0; i < f.found_count; i++) {
        ck_assert_int_eq(strncmp(f.found[i], "tcp:[", 5), 0);
    }
    struct discovery_responder *r;
    opt.ipv6_port = 0;
    ck_assert_int_eq(discovery_responder_open(&r, &opt), TRK_EINVAL);
    opt.ipv4_port = 4711;
    opt.listen_host = "render1";
    ck_assert_int_eq(discovery_responder_open(&r, &opt), TRK_EINVAL);
}
END_TEST

START_TEST(networks_of_an_interface_are_told_apart)
{
    struct discovery_interfaces all = {.count = 5};
    static const struct { const char *address; unsigned index, prefix; } in[] = {
        {"::ffff:10.0.0.2", 2, 120}, {"::ffff:10.0.0.3", 2, 120}, {"::ffff:192.168.1.2", 2, 120},
        {"fe80::2", 2, 64}, {"::ffff:10.0.0.9", 3, 120},
    };
    static const bool is_first[] = {true, false, true, true, true};
    for (size_t i = 0; i < all.count; i++) {
        all.list[i].index = in[i].index;
        all.list[i].prefix = in[i].prefix;
        ck_assert_int_eq(inet_pton(AF_INET6, in[i].address, &all.list[i].address), 1);
    }
    for (size_t i = 0; i < all.count; i++) {
        ck_assert_int_eq(discovery_interface_is_first(&all, i), is_first[i]);
    }
    struct in6_addr peer;
    inet_pton(AF_INET6, "::ffff:192.168.1.77", &peer);
    ck_assert_ptr_eq(discovery_interface_for(&all, 2, &peer), &all.list[2]);
    ck_assert_ptr_eq(discovery_interface_for(&all, 3, &peer), &all.list[4]);
    ck_assert_ptr_null(discovery_interface_for(&all, 4, &peer));
    inet_pton(AF_INET6, "fd00::1", &peer);
    ck_assert_ptr_eq(discovery_interface_for(&all, 2, &peer), &all.list[3]);
    ck_assert_ptr_null(discovery_interface_for(&all, 3, &peer));
    struct discovery_interfaces other = all;
    ck_assert(discovery_interfaces_are_equal(&all, &other));
    other.list[4].address.s6_addr[15]++;
    ck_assert(!discovery_interfaces_are_equal(&all, &other));
}
END_TEST

static const char *const malformed[] = {
    "", "239.1.2.3", "239.1.2.3:", "239.1.2.3:0", "239.1.2.3:65536", "10.0.0.1:80", "group:80",
    "239.1.2.3:80x", ":80", "239.1.2.3:80,", "[239.1.2.3]:80", "ff12::1:80", "[fd00::1]:80",
    "[ff12::1]", "[ff12::1:80", "[ff12::1]:70000", "[::ffff:239.1.2.3]:80", "[]:80",
    "239.1.2.3:1,239.1.2.3:2,239.1.2.3:3,239.1.2.3:4,239.1.2.3:5,239.1.2.3:6,239.1.2.3:7,"
    "239.1.2.3:8,239.1.2.3:9",
};

START_TEST(malformed_group_is_refused)
{
    struct discovery_responder *r;
    config.multicast = malformed[_i];
    void *state;
    ck_assert_int_eq(discovery_multicast.open(&config, &f.sink, &state), TRK_EINVAL);
    ck_assert_int_eq(discovery_responder_new(&r, malformed[_i], 1, id_a), TRK_EINVAL);
}
END_TEST

START_TEST(default_groups_are_well_formed)
{
    struct discovery_group all[DISCOVERY_GROUPS_MAX];
    ck_assert_int_eq(discovery_groups_parse(all, DISCOVERY_MULTICAST_DEFAULT), 3);
    ck_assert(discovery_is_ipv4(&all[0].address));
    ck_assert(IN6_IS_ADDR_MC_LINKLOCAL(&all[1].address));
    ck_assert(IN6_IS_ADDR_MC_SITELOCAL(&all[2].address));
}
END_TEST

START_TEST(opening_without_memory_fails)
{
    struct discovery_responder *r;
    void *state;
    mem_fail_after(1);
    ck_assert_int_eq(discovery_multicast.open(&config, &f.sink, &state), TRK_ENOMEM);
    ck_assert_int_eq(discovery_responder_new(&r, groups, 1, id_a), TRK_ENOMEM);
    mem_fail_after(0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("multicast");
    TCase *t = tcase_create("multicast");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 20);
    tcase_add_loop_test(t, question_is_answered_once, 0, 2);
    tcase_add_loop_test(t, supervisor_that_starts_later_is_heard, 0, 2);
    tcase_add_loop_test(t, only_those_with_a_key_in_common_meet, 0,
                        (int)(sizeof(meetings) / sizeof(meetings[0])));
    tcase_add_test(t, keys_are_rotated_under_a_running_supervisor);
    tcase_add_test(t, stranger_gets_no_answer);
    tcase_add_test(t, replayed_question_is_not_answered_again);
    tcase_add_test(t, question_to_one_machine_is_not_answered);
    tcase_add_loop_test(t, answers_are_rationed, 0, 2);
    tcase_add_test(t, replayed_answer_is_dropped);
    tcase_add_test(t, replayed_here_is_only_a_hint);
    tcase_add_test(t, sealed_here_names_nothing);
    tcase_add_loop_test(t, forged_answers_are_ignored, 0, 2);
    tcase_add_test(t, only_what_is_listened_at_is_told);
    tcase_add_test(t, networks_of_an_interface_are_told_apart);
    tcase_add_loop_test(t, malformed_group_is_refused, 0,
                        (int)(sizeof(malformed) / sizeof(malformed[0])));
    tcase_add_test(t, default_groups_are_well_formed);
    tcase_add_test(t, opening_without_memory_fails);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
