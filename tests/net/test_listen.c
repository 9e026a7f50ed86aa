/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "net/address.h"
#include "tests/suite.h"
#include "peer.h"

static char bound[128];

static void setup(void) { make_folder(); }

static void teardown(void) { remove_folder(); }

static int connect_to(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

START_TEST(unix_socket_is_private)
{
    struct stat st;
    mode_t old = umask(0);
    int fd = net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound));
    umask(old);
    ck_assert_int_ge(fd, 0);
    ck_assert_str_eq(bound, unix_in_folder("a.sock"));
    ck_assert_int_eq(stat(in_folder("a.sock"), &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFSOCK | 0600);
    ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    ck_assert_int_ne(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    ck_assert_int_eq(access(in_folder("a.sock~"), F_OK), -1);
    close(fd);
}
END_TEST

START_TEST(stale_socket_is_replaced)
{
    int fd = net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound));
    close(fd); /* the file stays */
    ck_assert_int_eq(connect_to(in_folder("a.sock")), -1);
    fd = net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound));
    ck_assert_int_ge(fd, 0);
    int client = connect_to(in_folder("a.sock"));
    ck_assert_int_ge(client, 0);
    close(client);
    close(fd);
}
END_TEST

START_TEST(live_socket_is_left_alone)
{
    int fd = net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound));
    ck_assert_int_eq(net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound)), TRK_EIO);
    int client = connect_to(in_folder("a.sock"));
    ck_assert_int_ge(client, 0);
    close(client);
    close(fd);
}
END_TEST

START_TEST(file_that_is_no_socket_is_left_alone)
{
    int fd = open(in_folder("a.sock"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    ck_assert_int_eq(net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound)), TRK_EIO);
    ck_assert_int_eq(access(in_folder("a.sock"), F_OK), 0);
}
END_TEST

static const struct {
    const char *text, *host; /* host NULL: refused */
    int port;                /* -1: none was said */
} places[] = {
    {"10.0.0.1", "10.0.0.1", -1}, {"10.0.0.1:80", "10.0.0.1", 80}, {"::1", "::1", -1},
    {"[::1]", "::1", -1},         {"[::1]:80", "::1", 80},         {"localhost:0", "127.0.0.1", 0},
    {"fe80::1%lo", "fe80::1%lo", -1}, {"[fe80::1%lo]:80", "fe80::1%lo", 80},
    {"fe80::1%none", NULL, 0},    {"10.0.0.1%lo", NULL, 0},        {"%lo", NULL, 0},
    {"", NULL, 0},                {"name:80", NULL, 0},            {"10.0.0.1:", NULL, 0},
    {"10.0.0.1:65536", NULL, 0},  {"[::1", NULL, 0},               {"[::1]80", NULL, 0},
    {"10.0.0.1:+1", NULL, 0},     {":80", NULL, 0},                {"10.0.0:1", NULL, 0},
    {"1:2:3:4:5:6:7:8:9:10:11:12:13:14:15:16:17:18:19:20:21:22:23:24:25:26:27", NULL, 0},
};

START_TEST(where_to_listen_is_taken_apart)
{
    char host[48], address[128];
    uint16_t port = 4711;
    int rc = net_address_split(places[_i].text, host, sizeof(host), &port);
    if (places[_i].host == NULL) {
        ck_assert_int_eq(rc, TRK_EINVAL);
        return;
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_str_eq(host, places[_i].host);
    ck_assert_int_eq(port, places[_i].port < 0 ? 4711 : places[_i].port);
    net_address_tcp(address, sizeof(address), host, port);
    struct net_address parsed;
    ck_assert_int_eq(net_address_parse(&parsed, address), 0);
}
END_TEST

START_TEST(bad_addresses_are_refused)
{
    char longest[200];
    memset(longest, 'x', sizeof(longest));
    memcpy(longest, "unix:/", 6);
    longest[sizeof(longest) - 1] = '\0';
    ck_assert_int_eq(net_listen_fd(longest, bound, sizeof(bound)), TRK_EINVAL);
    ck_assert_int_eq(net_listen_fd("tcp:somewhere:1", bound, sizeof(bound)), TRK_EINVAL);
    ck_assert_int_eq(net_listen_fd("tcp:192.0.2.1:0", bound, sizeof(bound)), TRK_EIO);
    ck_assert_int_eq(net_listen_fd(unix_in_folder("no/such/dir"), bound, sizeof(bound)), TRK_EIO);
}
END_TEST

START_TEST(port_zero_becomes_a_port)
{
    int fd = net_listen_fd("tcp:127.0.0.1:0", bound, sizeof(bound));
    unsigned port = 0;
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(sscanf(bound, "tcp:127.0.0.1:%u", &port), 1);
    ck_assert_uint_gt(port, 0);
    close(fd);
}
END_TEST

struct taker {
    struct net_loop *loop;
    struct net_listener *listener;
    int fd, taken, wanted; /* connections */
};

static void take(void *user, int fd)
{
    struct taker *t = user;
    close(fd);
    if (++t->taken == t->wanted) {
        net_listener_close(t->listener);
        net_loop_stop(t->loop);
    }
}

static void run_taker(struct taker *t, int clients)
{
    int fds[16];
    for (int i = 0; i < clients; i++) {
        fds[i] = connect_to(in_folder("a.sock"));
        ck_assert_int_ge(fds[i], 0);
    }
    net_loop_run(t->loop);
    for (int i = 0; i < clients; i++) {
        close(fds[i]);
    }
}

static void taker_init(struct taker *t, int wanted)
{
    *t = (struct taker){.wanted = wanted};
    t->fd = net_listen_fd(unix_in_folder("a.sock"), bound, sizeof(bound));
    ck_assert_int_eq(net_loop_new(&t->loop), 0);
    ck_assert_int_eq(net_listener_start(t->loop, t->fd, take, t, &t->listener), 0);
}

START_TEST(listener_may_be_closed_while_it_accepts)
{
    struct taker t;
    uint64_t live = mem_live();
    taker_init(&t, 3);
    run_taker(&t, 5); /* two are left in the backlog */
    ck_assert_int_eq(t.taken, 3);
    net_loop_free(t.loop);
    ck_assert_int_eq(fcntl(t.fd, F_GETFD) < 0, 0); /* the socket was borrowed */
    close(t.fd);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

static rlim_t old_limit;

static void lift_limit(uv_timer_t *timer)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = old_limit;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* No descriptor is left: the listener neither spins nor gives up. */
START_TEST(out_of_descriptors_backs_off)
{
    struct taker t;
    struct rlimit limit;
    uv_timer_t timer;
    taker_init(&t, 2);
    uv_timer_init(net_loop_uv(t.loop), &timer);
    uv_timer_start(&timer, lift_limit, 50, 0);
    int clients[2] = {connect_to(in_folder("a.sock")), connect_to(in_folder("a.sock"))};
    getrlimit(RLIMIT_NOFILE, &limit);
    old_limit = limit.rlim_cur;
    int lowest = dup(t.fd); /* the next one that accept would get */
    close(lowest);
    limit.rlim_cur = (rlim_t)lowest;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    net_loop_run(t.loop);
    getrusage(RUSAGE_SELF, &after);
    ck_assert_int_eq(t.taken, 2);
    long waits = after.ru_nvcsw - before.ru_nvcsw;
    ck_assert_msg(waits < 100, "%ld turns", waits);
    net_loop_free(t.loop);
    close(t.fd);
    close(clients[0]);
    close(clients[1]);
}
END_TEST

START_TEST(loop_that_ends_closes_its_listener)
{
    struct taker t;
    uint64_t live = mem_live();
    taker_init(&t, 1);
    net_loop_free(t.loop);
    close(t.fd);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("listen");
    TCase *t = tcase_create("listen");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, unix_socket_is_private);
    tcase_add_test(t, stale_socket_is_replaced);
    tcase_add_test(t, live_socket_is_left_alone);
    tcase_add_test(t, file_that_is_no_socket_is_left_alone);
    tcase_add_test(t, bad_addresses_are_refused);
    tcase_add_loop_test(t, where_to_listen_is_taken_apart, 0,
                        (int)(sizeof(places) / sizeof(places[0])));
    tcase_add_test(t, port_zero_becomes_a_port);
    tcase_add_test(t, listener_may_be_closed_while_it_accepts);
    tcase_add_test(t, out_of_descriptors_backs_off);
    tcase_add_test(t, loop_that_ends_closes_its_listener);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
