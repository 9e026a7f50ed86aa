/* SPDX-License-Identifier: MIT */
/* test_tls_exit.c - the end of a process that has sessions with TLS: exit() while loops and senders
 * are at work, with handshakes under way, in forked children, and with a clean-up of the program's
 * that closes everything behind OpenSSL's. Each end is that of a process of its own. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "base/blob.h"
#include "base/sys.h"
#include "net/session.h"
#include "tests/suite.h"

#define ENDS 8         /* processes per test; TRICKLE_FULL: many more */
#define ENDS_FULL 400
#define PATIENCE 30    /* seconds that a process may take */
#define LARGE 100000   /* bytes of a message that the loops send to each other, round and round */
#define SMALL 200      /* of one of a thread of its own */
#define ON_WAY 8       /* messages of each kind */
#define LINGER_NS 10000000
#define GUESTS 16      /* connections that are made, and given up, at any time */

enum stream { OF_LOOPS = 1, OF_SENDER };

static struct auth_keys keys;
static struct net_loop *here, *there;
static struct net_session *client, *server; /* the pair that talks */
static struct net_listener *listener;
static char address[128];
static sem_t has_come; /* posted for each message that is back, and each new connection */
static sem_t may_send; /* for the sender */
static atomic_bool is_over;

static int count_of_ends(void) { return getenv("TRICKLE_FULL") != NULL ? ENDS_FULL : ENDS; }

/* --- the process that ends --------------------------------------------------------------- */

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, fail_text());
    _exit(3);
}

static void on_echo(struct net_session *s, void *user, struct wire_message *msg)
{
    (void)!net_session_send(s, msg->type, msg->stream, msg->body);
}

static void on_answer(struct net_session *s, void *user, struct wire_message *msg)
{
    if (msg->stream == OF_LOOPS) {
        (void)!net_session_send(s, msg->type, msg->stream, msg->body);
    } else {
        blob_unref(msg->body);
        sem_post(&may_send);
    }
    sem_post(&has_come);
}

static void on_server_close(struct net_session *s, void *user, int error, const char *why)
{
    net_session_unref(s);
}

static void on_client_close(struct net_session *s, void *user, int error, const char *why) {}

static const struct net_session_ops echo_ops = {.on_message = on_echo,
                                                .on_close = on_server_close};
static const struct net_session_ops client_ops = {.on_message = on_answer,
                                                  .on_close = on_client_close};

static void on_accept(void *user, int fd)
{
    struct net_session_options opt = {.ops = &echo_ops, .keys = &keys, .role = AUTH_VM};
    if (net_session_accept(there, fd, &opt, &server) == 0) { /* else the process is ending */
        net_session_set_trusted(server);
    }
}

static void listen_there(void *fd)
{
    if (net_listener_start(there, *(int *)fd, on_accept, NULL, &listener) != 0) {
        die("listen");
    }
    sem_post(&has_come);
}

static void connect_here(void *unused)
{
    struct net_session_options opt = {.ops = &client_ops, .keys = &keys, .role = AUTH_INITIATOR};
    if (net_session_connect(here, address, &opt, &client) != 0) {
        die("connect");
    }
    net_session_set_trusted(client);
    sem_post(&has_come);
}

/* One connection after the other: most of them are in their handshake. */
static void on_guest_open(struct net_session *s, void *user) { net_session_close(s, false); }

static void connect_guest(void);

static void on_guest_close(struct net_session *s, void *user, int error, const char *why)
{
    net_session_unref(s);
    sem_post(&has_come);
    if (!is_over) {
        connect_guest();
    }
}

static void connect_guest(void)
{
    static const struct net_session_ops ops = {
        .on_open = on_guest_open, .on_message = on_answer, .on_close = on_guest_close};
    struct net_session_options opt = {.ops = &ops, .keys = &keys, .role = AUTH_INITIATOR};
    struct net_session *guest;
    (void)!net_session_connect(here, address, &opt, &guest); /* refused: the process is ending */
}

static void connect_guests(void *unused)
{
    for (int i = 0; i < GUESTS; i++) {
        connect_guest();
    }
}

static int send_one(enum stream stream, size_t size)
{
    struct blob *body = blob_new(size);
    if (body == NULL) {
        die("blob");
    }
    memset(body->data, 7, size);
    body->size = size;
    return net_session_send(client, WIRE_REQUEST, stream, body);
}

static void *keep_sending(void *unused)
{
    do {
        while (sem_wait(&may_send) != 0 && errno == EINTR) {
        }
    } while (!is_over && send_one(OF_SENDER, SMALL) == 0);
    return NULL;
}

static void wait_for(int count)
{
    for (; count > 0; count--) {
        while (sem_wait(&has_come) != 0 && errno == EINTR) {
        }
    }
}

/* An exit handler that takes its time, behind OpenSSL's: the others get theirs. */
static void linger(void)
{
    for (uint64_t start = sys_now_ns(); sys_now_ns() - start < LINGER_NS;) {
        sched_yield();
    }
}

/* A program whose loops are busy when it returns; is_late: OpenSSL is not used before ours. */
static void be_busy(bool is_late)
{
    static int fd;
    pthread_t sender;
    if (atexit(linger) != 0) {
        die("atexit");
    }
    if (!is_late) {
        OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CRYPTO_STRINGS, NULL);
    }
    keys.count = 1;
    sem_init(&has_come, 0, 0);
    sem_init(&may_send, 0, ON_WAY);
    if (auth_key_make(&keys.key[0]) != 0 || net_loop_new(&here) != 0 || net_loop_new(&there) != 0 ||
        net_loop_start_thread(here, "here") != 0 || net_loop_start_thread(there, "there") != 0) {
        die("set-up");
    }
    fd = net_listen_fd("tcp:127.0.0.1:0", address, sizeof(address));
    if (fd < 0 || net_loop_post(there, listen_there, &fd) != 0 ||
        net_loop_post(here, connect_here, NULL) != 0) {
        die("connect");
    }
    wait_for(2);
    for (int i = 0; i < ON_WAY; i++) {
        (void)!send_one(OF_LOOPS, LARGE);
    }
    if (pthread_create(&sender, NULL, keep_sending, NULL) != 0 || pthread_detach(sender) != 0 ||
        net_loop_post(here, connect_guests, NULL) != 0) {
        die("threads");
    }
}

/* --- who watches ------------------------------------------------------------------------- */

/* Runs fn(i) in a process of its own, which must end by itself, in time, and with status 0. */
static void expect_end(void (*fn)(int i), int i)
{
    int fds[2], status;
    char none;
    ck_assert_int_eq(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        close(fds[0]);
        fn(i);
        _exit(4); /* it should have ended */
    }
    close(fds[1]);
    struct pollfd ended = {fds[0], POLLIN, 0}; /* the end of the pipe is the end of the process */
    bool is_in_time = poll(&ended, 1, PATIENCE * 1000) == 1 && read(fds[0], &none, 1) == 0;
    if (!is_in_time) {
        kill(pid, SIGABRT);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    close(fds[0]);
    ck_assert_msg(is_in_time, "end %d: not within %d s", i, PATIENCE);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
                  "end %d: expected exit status 0, got %s %d", i,
                  WIFSIGNALED(status) ? "signal" : "status",
                  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static void exit_busy(int i)
{
    be_busy(i % 2 == 0);
    wait_for(1 + 3 * i);
    exit(0);
}

START_TEST(process_exits_with_busy_sessions)
{
    for (int i = 0; i < count_of_ends(); i++) {
        expect_end(exit_busy, i % 40);
    }
}
END_TEST

static void *exit_from_thread(void *unused) { exit(0); }

static void exit_busy_from_a_thread(int i)
{
    pthread_t thread;
    be_busy(i % 2 == 0);
    wait_for(1 + 3 * i);
    if (pthread_create(&thread, NULL, exit_from_thread, NULL) != 0) {
        die("thread");
    }
    pthread_join(thread, NULL);
}

START_TEST(any_thread_may_exit)
{
    for (int i = 0; i < count_of_ends(); i++) {
        expect_end(exit_busy_from_a_thread, i % 40);
    }
}
END_TEST

/* Of the program, and registered before OpenSSL was used: it runs after all that OpenSSL does. */
static void close_all(void)
{
    is_over = true;
    (void)!send_one(OF_LOOPS, LARGE);
    net_session_close(client, true);
    net_loop_free(here);
    net_loop_free(there);
}

static void exit_and_close(int i)
{
    if (atexit(close_all) != 0) {
        die("atexit");
    }
    exit_busy(i);
}

START_TEST(exit_handlers_may_close_sessions)
{
    for (int i = 0; i < count_of_ends(); i++) {
        expect_end(exit_and_close, i % 40);
    }
}
END_TEST

/* Its children exit while its threads are at work; it hears of that, and goes on. */
static void fork_busy(int i)
{
    be_busy(i % 2 == 0);
    for (int child = 0; child < 5; child++) {
        int status = 0;
        wait_for(2);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(PATIENCE / 2);
            exit(0);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            fprintf(stderr, "child %d: status %x\n", child, (unsigned)status);
            _exit(5);
        }
    }
    wait_for(10);
    exit(0);
}

START_TEST(children_exit_in_order)
{
    for (int i = 0; i < count_of_ends(); i++) {
        expect_end(fork_busy, i % 40);
    }
}
END_TEST

/* LeakSanitizer asks for this. What threads hold that are still at work is not lost, but it may
 * look so: it cannot stop all of them. And each exit would take a second. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return 1; }
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "atexit_sleep_ms=0"; }

int main(void)
{
    Suite *s = suite_create("tls_exit");
    TCase *t = tcase_create("tls_exit");
    tcase_set_timeout(t, 0); /* the patience above, per process */
    tcase_add_test(t, process_exits_with_busy_sessions);
    tcase_add_test(t, any_thread_may_exit);
    tcase_add_test(t, exit_handlers_may_close_sessions);
    tcase_add_test(t, children_exit_in_order);
    suite_add_tcase(s, t);
    return run_suite(s);
}
