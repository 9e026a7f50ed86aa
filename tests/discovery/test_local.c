/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "tests/suite.h"
#include "finder.h"
#include "net/session.h"

static char folder[64], bound[128];
static uint64_t live_before;
static struct trk_discovery_config config;
static struct finder f;

static const char *path_of(const char *name)
{
    static char path[108];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static const char *address_of(const char *name)
{
    static char address[160];
    snprintf(address, sizeof(address), "unix:%s/%s", folder, name);
    return address;
}

static void setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/trickle-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    config = (struct trk_discovery_config){.runtime_dir = folder};
    live_before = mem_live();
    ck_assert_int_eq(finder_open(&f, &discovery_local, &config), 0);
}

static void teardown(void)
{
    static const char *const names[] = {"s-1-a.sock", "s-2-b.sock", "v-1-a-0.sock", "s-3-c.sock",
                                        "s-4-d.sock~"};
    discovery_local.close(f.state);
    ck_assert_uint_eq(mem_live(), live_before);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        unlink(path_of(names[i]));
    }
    ck_assert_int_eq(rmdir(folder), 0);
}

static int listen_at(const char *name)
{
    int fd = net_listen_fd(address_of(name), bound, sizeof(bound));
    ck_assert_int_ge(fd, 0);
    return fd;
}

START_TEST(supervisors_that_listen_are_found_at_once)
{
    int a = listen_at("s-1-a.sock"), b = listen_at("s-2-b.sock"), v = listen_at("v-1-a-0.sock");
    ck_assert(discovery_local.is_immediate);
    ck_assert_int_eq(discovery_local.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 2);
    ck_assert(finder_has(&f, address_of("s-1-a.sock")));
    ck_assert(finder_has(&f, address_of("s-2-b.sock")));
    close(a);
    close(b);
    close(v);
}
END_TEST

START_TEST(stale_socket_is_removed_and_not_reported)
{
    int a = listen_at("s-1-a.sock");
    close(listen_at("s-2-b.sock"));
    close(open(path_of("s-3-c.sock"), O_CREAT | O_WRONLY, 0600)); /* no socket: not ours to judge */
    ck_assert_int_eq(discovery_local.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 1);
    ck_assert_str_eq(f.found[0], address_of("s-1-a.sock"));
    ck_assert_int_eq(access(path_of("s-2-b.sock"), F_OK), -1);
    ck_assert_int_eq(access(path_of("s-1-a.sock"), F_OK), 0);
    ck_assert_int_eq(access(path_of("s-3-c.sock"), F_OK), 0);
    close(a);
}
END_TEST

/* Bound under its unfinished name, as between bind and listen. */
START_TEST(socket_that_does_not_listen_yet_is_left_alone)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path_of("s-4-d.sock~"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(discovery_local.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 0);
    ck_assert_int_eq(access(path_of("s-4-d.sock~"), F_OK), 0);
    close(fd);
}
END_TEST

START_TEST(supervisor_that_starts_later_is_seen)
{
    ck_assert_int_eq(discovery_local.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 0);
    int a = listen_at("s-1-a.sock");
    ck_assert(finder_wait(&f, 1));
    ck_assert_str_eq(f.found[0], address_of("s-1-a.sock"));
    unlink(path_of("s-1-a.sock"));
    ck_assert(is_readable(discovery_local.fd(f.state), 5000));
    discovery_local.process(f.state);
    ck_assert_int_eq(f.gone_count, 1);
    ck_assert_str_eq(f.gone[0], address_of("s-1-a.sock"));
    ck_assert_int_eq(f.found_count, 1);
    ck_assert(!is_readable(discovery_local.fd(f.state), 0));
    close(a);
}
END_TEST

/* The runtime directory was cleared away under a long-running program, and made again. */
START_TEST(directory_may_go_and_come_back)
{
    ck_assert_int_eq(rmdir(folder), 0);
    ck_assert(is_readable(discovery_local.fd(f.state), 5000));
    discovery_local.process(f.state);
    ck_assert_int_eq(discovery_local.ask(f.state), 0);
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    ck_assert_int_eq(discovery_local.ask(f.state), 0);
    int a = listen_at("s-1-a.sock");
    ck_assert(finder_wait(&f, 1));
    close(a);
}
END_TEST

START_TEST(opening_without_memory_or_with_a_long_name_fails)
{
    char longest[300];
    void *state = NULL;
    mem_fail_after(1);
    ck_assert_int_eq(discovery_local.open(&config, &f.sink, &state), TRK_ENOMEM);
    mem_fail_after(0);
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    config.runtime_dir = longest;
    ck_assert_int_eq(discovery_local.open(&config, &f.sink, &state), TRK_EINVAL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("local");
    TCase *t = tcase_create("local");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, supervisors_that_listen_are_found_at_once);
    tcase_add_test(t, stale_socket_is_removed_and_not_reported);
    tcase_add_test(t, socket_that_does_not_listen_yet_is_left_alone);
    tcase_add_test(t, supervisor_that_starts_later_is_seen);
    tcase_add_test(t, directory_may_go_and_come_back);
    tcase_add_test(t, opening_without_memory_or_with_a_long_name_fails);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
