/* SPDX-License-Identifier: MIT */
/* Sessions and the bad world: garbage, strangers, slow and dying peers, failing connects, no
 * memory. Whatever comes: on_close once, counted, nothing leaked. */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tests/suite.h"
#include "peer.h"

static struct net_loop *loop;
static int fds_before;
static uint64_t live_before, dropped_before;

static void setup(void)
{
    make_folder();
    ck_assert_int_eq(net_loop_new(&loop), 0); /* the first makes what libuv keeps for good */
    net_loop_free(loop);
    fds_before = count_fds();
    live_before = mem_live();
    dropped_before = net_dropped();
    ck_assert_int_eq(net_loop_new(&loop), 0);
    ck_assert_int_eq(net_loop_start_thread(loop, "net"), 0);
}

static void teardown(void)
{
    net_loop_free(loop);
    ck_assert_int_eq(count_fds(), fds_before);
    ck_assert_uint_eq(mem_live(), live_before);
    remove_folder();
}

static struct peer *accept_raw(int *raw)
{
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct peer *p = peer_new(loop);
    *raw = fds[1];
    p->fd = fds[0];
    return p;
}

static void finish(struct peer *p)
{
    peer_wait_closed(p);
    net_loop_free(loop);
    loop = NULL;
    peer_free(p);
}

/* --- garbage ---------------------------------------------------------------------------- */

#define HEAD(version, type, flags, l0, l1, l2, l3) \
    "Tk" version type flags "\0\0\0" "\1\0\0\0" l0 l1 l2 l3

static const struct {
    const char *what;
    bool after_hello;
    int error;
    const char *bytes;
    size_t size;
} garbage[] = {
#define CASE(what, after, error, text) {what, after, error, text, sizeof(text) - 1}
    CASE("a web browser", false, TRK_ECORRUPT, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    CASE("zeros", false, TRK_ECORRUPT, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    CASE("another version", false, TRK_EVERSION, HEAD("\7", "\1", "\0", "\1", "\0", "\0", "\0")),
    CASE("work before the hello", false, TRK_ECORRUPT,
         HEAD("\3", "\11", "\0", "\1", "\0", "\0", "\0")),
    CASE("a ping before the hello", false, TRK_ECORRUPT,
         HEAD("\3", "\3", "\0", "\0", "\0", "\0", "\0")),
    CASE("a hello of 5,000 bytes", false, TRK_ECORRUPT,
         HEAD("\3", "\1", "\0", "\210", "\23", "\0", "\0")),
    CASE("a hello in fragments", false, TRK_ECORRUPT,
         HEAD("\3", "\1", "\3", "\11", "\0", "\0", "\0")),
    CASE("a frame of 4 GiB", true, TRK_ECORRUPT,
         HEAD("\3", "\11", "\0", "\377", "\377", "\377", "\377")),
    CASE("a message of 2^60 bytes", true, TRK_ECORRUPT,
         HEAD("\3", "\11", "\3", "\11", "\0", "\0", "\0") "\0\0\0\0\0\0\0\20x"),
    CASE("an unknown type", true, TRK_ECORRUPT,
         HEAD("\3", "\144", "\0", "\0", "\0", "\0", "\0")),
    CASE("a fragment of nothing", true, TRK_ECORRUPT,
         HEAD("\3", "\11", "\1", "\1", "\0", "\0", "\0")),
    CASE("noise", true, TRK_ECORRUPT, "0123456789abcdefghijklmnopqrstuvwxyz"),
#undef CASE
};
#define GARBAGE_COUNT (int)(sizeof(garbage) / sizeof(garbage[0]))

START_TEST(garbage_is_dropped_and_counted)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    if (garbage[_i].after_hello) {
        write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    }
    write_all(raw, garbage[_i].bytes, garbage[_i].size);
    peer_wait_closed(p);
    ck_assert_msg(p->error == garbage[_i].error, "%s: error %d (%s)", garbage[_i].what, p->error,
                  p->why);
    ck_assert_uint_eq(p->count, garbage[_i].after_hello ? 1 : 0);
    ck_assert_uint_eq(net_dropped(), dropped_before + 1);
    uint8_t byte;
    ck_assert_uint_eq(read_all(raw, &byte, 1), 0); /* it learns nothing */
    close(raw);
    finish(p);
}
END_TEST

START_TEST(second_hello_to_the_wary_is_dropped)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    p->is_wary = true;
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    peer_wait_closed(p);
    ck_assert_int_eq(p->error, TRK_ECORRUPT);
    ck_assert_uint_eq(p->count, 1);
    close(raw);
    finish(p);
}
END_TEST

/* The bytes of the hello come one at a time, and stop. */
struct handing {
    struct peer *from, *to;
};

static void hand_over(void *arg)
{
    struct handing *h = arg;
    net_session_hand_over(h->from->session, &h->to->opt);
    h->to->session = h->from->session;
    h->from->session = NULL;
}

/* 0: it greets again; 1: it says something else; 2: it says nothing more. */
START_TEST(who_is_handed_over_has_to_greet_again)
{
    static const int errors[] = {0, TRK_ECORRUPT, TRK_ETIMEDOUT};
    int raw;
    struct handing h = {accept_raw(&raw), peer_new(loop)};
    h.to->opt.hello_ms = _i == 2 ? 50 : 0;
    ck_assert_int_eq(peer_accept(h.from, h.from->fd), 0);
    write_frame(raw, WIRE_JOIN, 0, 0, "hi", 2);
    peer_wait_messages(h.from, 1); /* which was trusted with that */
    on_loop(loop, hand_over, &h);
    if (_i < 2) {
        write_frame(raw, _i == 0 ? WIRE_HELLO : WIRE_RUN, 0, 0, "hi", 2);
    }
    if (_i == 0) {
        peer_wait_messages(h.to, 1);
        write_frame(raw, WIRE_RUN, 0, 0, "more", 4);
        peer_wait_messages(h.to, 2);
        close(raw);
    }
    peer_wait_closed(h.to);
    ck_assert_int_eq(h.to->error, errors[_i]);
    ck_assert_uint_eq(h.from->count, 1);
    ck_assert_int_eq(h.from->closed, 0); /* it is none of that one's any more */
    peer_free(h.from);
    if (_i != 0) {
        close(raw);
    }
    finish(h.to);
}
END_TEST

START_TEST(slow_hello_is_dropped_and_counted)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    p->opt.hello_ms = 20;
    write_all(raw, "Tk\3\1", 4);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    peer_wait_closed(p);
    ck_assert_int_eq(p->error, TRK_ETIMEDOUT);
    ck_assert_uint_eq(net_dropped(), dropped_before + 1);
    close(raw);
    finish(p);
}
END_TEST

/* A peer that was killed amid a message: the part is not shown. */
START_TEST(half_a_message_is_not_delivered)
{
    static uint8_t body[WIRE_BODY_MAX];
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    le_store_u64(body, 20000000);
    write_frame(raw, WIRE_RESULT, WIRE_FIRST | WIRE_MORE, 0, body, sizeof(body));
    if (_i == 1) {
        write_frame(raw, WIRE_RESULT, WIRE_MORE, 0, body, sizeof(body));
        write_all(raw, "Tk\3", 3); /* within a header */
    } else if (_i == 2) {
        uint8_t head[WIRE_HEADER_BYTES];
        const struct wire_header h = {WIRE_RESULT, WIRE_MORE, 0, WIRE_BODY_MAX};
        wire_header_put(head, &h);
        write_all(raw, head, sizeof(head));
        write_all(raw, body, 40000); /* within a fragment */
    }
    close(raw);
    peer_wait_closed(p);
    ck_assert_int_eq(p->error, 0);
    ck_assert_uint_eq(p->count, 1);
    finish(p);
}
END_TEST

/* One of ours asks again and again without ever reading: answers do not pile up. */
START_TEST(flood_of_pings_takes_no_memory)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    peer_wait_messages(p, 1);
    peer_send(p, WIRE_RUN, 1, pattern(5000000, 1)); /* fills what the kernel takes */
    size_t queued = net_session_queued(p->session);
    ck_assert_uint_gt(queued, 0);
    for (int i = 0; i < 1000; i++) {
        write_frame(raw, WIRE_PING, 0, 0, "", 0);
    }
    write_frame(raw, WIRE_ACK, 0, 0, "x", 1);
    peer_wait_messages(p, 2);
    ck_assert_uint_le(net_session_queued(p->session), queued + WIRE_HEADER_BYTES);
    close(raw);
    finish(p);
}
END_TEST

/* --- connecting ------------------------------------------------------------------------- */

START_TEST(failed_connect_comes_as_on_close)
{
    char bound[128], address[160];
    struct peer *p = peer_new(loop);
    if (_i == 0) {
        snprintf(address, sizeof(address), "%s", unix_in_folder("nobody.sock"));
    } else {
        int fd = net_listen_fd(_i == 1 ? unix_in_folder("dead.sock") : "tcp:127.0.0.1:0", bound,
                               sizeof(bound));
        ck_assert_int_ge(fd, 0);
        close(fd);
        snprintf(address, sizeof(address), "%s", bound);
    }
    ck_assert_int_eq(peer_connect(p, address), 0);
    peer_wait_closed(p);
    ck_assert_int_eq(p->error, TRK_EIO);
    ck_assert_int_eq(p->opened, 0);
    ck_assert_ptr_nonnull(strstr(p->why, address));
    ck_assert_uint_eq(net_dropped(), dropped_before); /* nobody was dropped */
    finish(p);
}
END_TEST

START_TEST(malformed_address_is_refused_at_once)
{
    static const char *const bad[] = {"", "unix:", "unix:relative", "tcp:", "tcp:127.0.0.1",
                                      "tcp:localhost:80", "tcp:127.0.0.1:x", "tcp::1:80",
                                      "tcp:127.0.0.1:65536", "udp:127.0.0.1:1", "tcp::80",
                                      "tcp:[::1:80", "tcp:[127.0.0.1]:1"};
    struct peer *p = peer_new(loop);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_msg(peer_connect(p, bad[i]) == TRK_EINVAL, "%s was taken", bad[i]);
    }
    peer_free(p);
}
END_TEST

/* The listener's process is busy starting and its backlog is full. */
START_TEST(full_backlog_is_waited_for)
{
    enum { COUNT = 6 };
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", in_folder("full.sock"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(listen(fd, 0), 0);
    struct peer *peers[COUNT];
    int accepted[COUNT];
    for (int i = 0; i < COUNT; i++) {
        peers[i] = peer_new(loop);
        ck_assert_int_eq(peer_connect(peers[i], unix_in_folder("full.sock")), 0);
        peer_send(peers[i], WIRE_HELLO, 0, text_blob("hello")); /* waits with it */
    }
    for (int i = 0; i < COUNT; i++) {
        char hello[WIRE_HEADER_BYTES + 5];
        accepted[i] = accept(fd, NULL, NULL);
        ck_assert_int_ge(accepted[i], 0);
        ck_assert_uint_eq(read_all(accepted[i], hello, sizeof(hello)), sizeof(hello));
    }
    for (int i = 0; i < COUNT; i++) {
        close(accepted[i]); /* in what order they were accepted is open */
    }
    for (int i = 0; i < COUNT; i++) {
        peer_wait_closed(peers[i]);
        ck_assert_int_eq(peers[i]->opened, 1);
        ck_assert_int_eq(peers[i]->error, 0);
    }
    close(fd);
    net_loop_free(loop);
    loop = NULL;
    for (int i = 0; i < COUNT; i++) {
        peer_free(peers[i]);
    }
}
END_TEST

START_TEST(connect_that_is_not_answered_times_out)
{
    char bound[128];
    int fd = net_listen_fd(unix_in_folder("mute.sock"), bound, sizeof(bound));
    struct peer *p = peer_new(loop);
    p->opt.hello_ms = 30;
    ck_assert_int_eq(peer_connect(p, bound), 0);
    peer_wait_closed(p);
    ck_assert_int_eq(p->error, TRK_ETIMEDOUT);
    ck_assert_int_eq(p->opened, 1);
    close(fd);
    finish(p);
}
END_TEST

/* --- another user ----------------------------------------------------------------------- */

#define STRANGER 65534

/* A process of another user that connects when told and waits to be cut off. */
static pid_t start_stranger(const char *path, int *go)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        char byte;
        snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        close(fds[1]);
        bool is_cut = setuid(STRANGER) == 0 && read(fds[0], &byte, 1) == 1 &&
                      connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0 &&
                      read(fd, &byte, 1) <= 0;
        _exit(is_cut ? 0 : 1);
    }
    close(fds[0]);
    *go = fds[1];
    return pid;
}

static void refuse(void *user, int fd)
{
    struct peer *p = user;
    p->result = net_session_accept(p->loop, fd, &p->opt, &p->session);
    pthread_mutex_lock(&p->mutex);
    p->closed = 1; /* for peer_wait_closed: there is no session */
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

static struct net_listener *refusing;

static void start_refusing(void *arg)
{
    struct peer *p = arg;
    ck_assert_int_eq(net_listener_start(loop, p->fd, refuse, p, &refusing), 0);
}

static void stop_refusing(void *arg) { net_listener_close(refusing); }

START_TEST(another_user_is_refused)
{
    int go, status;
    char bound[128];
    if (geteuid() != 0) {
        return;
    }
    /* The folder's and the file's modes would keep it out already. */
    pid_t pid = start_stranger(in_folder("open.sock"), &go);
    struct peer *p = peer_new(loop);
    p->fd = net_listen_fd(unix_in_folder("open.sock"), bound, sizeof(bound));
    ck_assert_int_ge(p->fd, 0);
    ck_assert_int_eq(chmod(in_folder("open.sock"), 0666), 0);
    ck_assert_int_eq(chmod(in_folder(""), 0711), 0);
    on_loop(loop, start_refusing, p);
    write_all(go, "g", 1);
    peer_wait_closed(p);
    ck_assert_int_eq(p->result, TRK_EDENIED);
    ck_assert_ptr_null(p->session);
    ck_assert_uint_eq(net_dropped(), dropped_before + 1);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    on_loop(loop, stop_refusing, NULL);
    close(go);
    close(p->fd);
    p->count = 0;
    peer_free(p);
}
END_TEST

/* --- no memory -------------------------------------------------------------------------- */

START_TEST(connect_without_memory_is_refused)
{
    struct server s;
    server_start(&s, loop, unix_in_folder("a.sock"));
    struct peer *client = peer_new(loop);
    /* Connecting allocates: each failure says so at once, and leaves nothing behind. */
    uint64_t live = mem_live();
    uint64_t n = 1;
    for (; n < 100; n++) {
        client->fail_after = n;
        int rc = peer_connect(client, s.address);
        if (rc == 0) {
            break;
        }
        ck_assert_int_eq(rc, TRK_ENOMEM);
        ck_assert_uint_eq(mem_live(), live);
    }
    ck_assert_uint_gt(n, 1);
    ck_assert_uint_lt(n, 100);
    server_stop(&s);
    peer_close(client, false);
    finish(client);
}
END_TEST

START_TEST(message_without_memory_is_refused_and_freed)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    struct blob *b = text_blob("x");
    uint64_t live = mem_live();
    mem_fail_after(1);
    int rc = net_session_send(p->session, WIRE_RUN, 0, b);
    mem_fail_after(0);
    ck_assert_int_eq(rc, TRK_ENOMEM);
    ck_assert_uint_eq(mem_live(), live - 1); /* the body was taken */
    close(raw);
    finish(p);
}
END_TEST

/* A message comes for which there is no memory: the connection is closed, no more. */
START_TEST(arrival_without_memory_closes)
{
    int raw;
    struct peer *p = accept_raw(&raw);
    ck_assert_int_eq(peer_accept(p, p->fd), 0);
    mem_fail_after(1);
    write_frame(raw, WIRE_HELLO, 0, 0, "hi", 2);
    peer_wait_closed(p);
    mem_fail_after(0);
    ck_assert_int_eq(p->error, TRK_ENOMEM);
    ck_assert_uint_eq(net_dropped(), dropped_before); /* not the peer's fault */
    close(raw);
    finish(p);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("session_bad");
    TCase *t = tcase_create("session_bad");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 50);
    tcase_add_loop_test(t, garbage_is_dropped_and_counted, 0, GARBAGE_COUNT);
    tcase_add_test(t, second_hello_to_the_wary_is_dropped);
    tcase_add_loop_test(t, who_is_handed_over_has_to_greet_again, 0, 3);
    tcase_add_test(t, slow_hello_is_dropped_and_counted);
    tcase_add_loop_test(t, half_a_message_is_not_delivered, 0, 3);
    tcase_add_test(t, flood_of_pings_takes_no_memory);
    tcase_add_loop_test(t, failed_connect_comes_as_on_close, 0, 3);
    tcase_add_test(t, malformed_address_is_refused_at_once);
    tcase_add_test(t, full_backlog_is_waited_for);
    tcase_add_test(t, connect_that_is_not_answered_times_out);
    tcase_add_test(t, another_user_is_refused);
    tcase_add_test(t, connect_without_memory_is_refused);
    tcase_add_test(t, message_without_memory_is_refused_and_freed);
    tcase_add_test(t, arrival_without_memory_closes);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
