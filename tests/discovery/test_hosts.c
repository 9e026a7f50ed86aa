/* SPDX-License-Identifier: MIT */
#include "base/fail.h" /* before check.h, which has a fail of its own */

#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "tests/suite.h"
#include "finder.h"

static struct finder f;
static struct trk_discovery_config config;

/* Nothing is left over, once the threads of lookups have ended. */
static void teardown(void)
{
    uint64_t end = sys_now_ns() + 10000000000u;
    while (mem_live() != 0 && sys_now_ns() < end) {
        sched_yield();
    }
    ck_assert_uint_eq(mem_live(), 0);
}

static int open_list(const char *hosts)
{
    config = (struct trk_discovery_config){.hosts = hosts};
    return finder_open(&f, &discovery_hosts, &config);
}

START_TEST(numeric_hosts_are_reported_by_ask)
{
    uint64_t live = mem_live();
    ck_assert_int_eq(open_list("10.1.2.3:4711, [fd00::5]:80 ,127.0.0.1:65535,"), 0);
    ck_assert_int_eq(discovery_hosts.fd(f.state), -1);
    ck_assert_int_eq(discovery_hosts.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 3);
    ck_assert_str_eq(f.found[0], "tcp:10.1.2.3:4711");
    ck_assert_str_eq(f.found[1], "tcp:[fd00::5]:80");
    ck_assert_str_eq(f.found[2], "tcp:127.0.0.1:65535");
    ck_assert_int_eq(discovery_hosts.ask(f.state), 0); /* again: those that were lost come back */
    ck_assert_int_eq(f.found_count, 6);
    discovery_hosts.process(f.state);
    discovery_hosts.close(f.state);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

START_TEST(name_is_looked_up_meanwhile)
{
    ck_assert_int_eq(open_list("localhost:4711"), 0);
    ck_assert_int_ge(discovery_hosts.fd(f.state), 0);
    ck_assert_int_eq(discovery_hosts.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 0);
    ck_assert(finder_wait(&f, 1));
    ck_assert(finder_has(&f, "tcp:127.0.0.1:4711") || finder_has(&f, "tcp:[::1]:4711"));
    ck_assert_int_eq(discovery_hosts.ask(f.state), 0);
    ck_assert(finder_wait(&f, f.found_count + 1));
    discovery_hosts.close(f.state);
}
END_TEST

/* The farm closes while the name server takes its time. */
START_TEST(close_does_not_wait_for_a_lookup)
{
    for (int i = 0; i < 20; i++) {
        ck_assert_int_eq(open_list("localhost:1,localhost:2"), 0);
        ck_assert_int_eq(discovery_hosts.ask(f.state), 0);
        discovery_hosts.close(f.state);
    }
}
END_TEST

START_TEST(no_list_finds_nothing)
{
    ck_assert_int_eq(open_list(_i == 0 ? NULL : ""), 0);
    ck_assert_int_eq(discovery_hosts.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 0);
    discovery_hosts.close(f.state);
}
END_TEST

static const char *const malformed[] = {
    "host", "host:", ":4711", "host:0", "host:65536", "host:80x", "fd00::5:80", "[fd00::5]",
    "[nonsense]:80", "a:1,,b:2", " , ", "host:123456", "[]:80", "host:-1",
};

START_TEST(malformed_entry_is_refused)
{
    uint64_t live = mem_live();
    ck_assert_msg(open_list(malformed[_i]) == TRK_EINVAL, "\"%s\" was taken", malformed[_i]);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

static char file_name[64];

/* "@FILE" with these bytes in it. */
static const char *make_file(const char *text, size_t size)
{
    snprintf(file_name, sizeof(file_name), "@/tmp/trickle-test-XXXXXX");
    int fd = mkstemp(file_name + 1);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, size), (ssize_t)size);
    close(fd);
    return file_name;
}

START_TEST(hosts_may_be_in_a_file)
{
    static const char text[] = "# the rack\n10.0.0.1:1\n\n  [fe80::1%lo]:2, 10.0.0.3:3 # third\r\n"
                               "10.0.0.4:4";
    char list[128];
    snprintf(list, sizeof(list), "10.9.9.9:9, %s ,10.8.8.8:8", make_file(text, strlen(text)));
    ck_assert_int_eq(open_list(list), 0);
    ck_assert_int_eq(discovery_hosts.ask(f.state), 0);
    ck_assert_int_eq(f.found_count, 6);
    ck_assert_str_eq(f.found[0], "tcp:10.9.9.9:9");
    ck_assert_str_eq(f.found[1], "tcp:10.0.0.1:1");
    ck_assert_str_eq(f.found[2], "tcp:[fe80::1%lo]:2");
    ck_assert_str_eq(f.found[3], "tcp:10.0.0.3:3");
    ck_assert_str_eq(f.found[4], "tcp:10.0.0.4:4");
    ck_assert_str_eq(f.found[5], "tcp:10.8.8.8:8");
    discovery_hosts.close(f.state);
    ck_assert_int_eq(unlink(file_name + 1), 0);
}
END_TEST

static const struct {
    const char *text;
    size_t size;
} bad_files[] = {{"10.0.0.1:1\nnonsense\n", 20}, {"10.0.0.1:1\0", 11}, {"@/etc/passwd\n", 13}};

START_TEST(bad_file_is_refused_by_name)
{
    ck_assert_int_eq(open_list(make_file(bad_files[_i].text, bad_files[_i].size)), TRK_EINVAL);
    ck_assert_ptr_nonnull(strstr(fail_text(), file_name + 1));
    ck_assert_int_eq(unlink(file_name + 1), 0);
}
END_TEST

START_TEST(file_that_cannot_be_read_is_refused)
{
    static const char *const names[] = {"@/nowhere/at/all", "@", "@/tmp"};
    ck_assert_int_eq(open_list(names[_i]), TRK_EINVAL);
    ck_assert_ptr_nonnull(strstr(fail_text(), "hosts: cannot read"));
}
END_TEST

START_TEST(opening_without_memory_leaks_nothing)
{
    uint64_t live = mem_live();
    uint64_t n = 1;
    char list[128];
    snprintf(list, sizeof(list), "10.0.0.1:1,%s", make_file("localhost:2", 11));
    for (;; n++) {
        mem_fail_after(n);
        int rc = open_list(list);
        mem_fail_after(0);
        if (rc == 0) {
            break;
        }
        ck_assert(rc == TRK_ENOMEM || rc == TRK_EIO);
        ck_assert_uint_eq(mem_live(), live);
    }
    ck_assert_uint_gt(n, 4);
    ck_assert_int_eq(unlink(file_name + 1), 0);
    discovery_hosts.close(f.state);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hosts");
    TCase *t = tcase_create("hosts");
    tcase_add_checked_fixture(t, NULL, teardown);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, numeric_hosts_are_reported_by_ask);
    tcase_add_test(t, name_is_looked_up_meanwhile);
    tcase_add_test(t, close_does_not_wait_for_a_lookup);
    tcase_add_loop_test(t, no_list_finds_nothing, 0, 2);
    tcase_add_loop_test(t, malformed_entry_is_refused, 0,
                        (int)(sizeof(malformed) / sizeof(malformed[0])));
    tcase_add_test(t, hosts_may_be_in_a_file);
    tcase_add_loop_test(t, bad_file_is_refused_by_name, 0, 3);
    tcase_add_loop_test(t, file_that_cannot_be_read_is_refused, 0, 3);
    tcase_add_test(t, opening_without_memory_leaks_nothing);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
