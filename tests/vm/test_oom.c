/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/suite.h"
#include "vm/oom.h"

static char dir[32];  /* plays /sys/fs/cgroup */
static char list[64]; /* plays /proc/self/cgroup */
static char kmsg[64]; /* plays /dev/kmsg: a pipe that gives record by record */
static int log_fd;

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void make_dir(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    ck_assert_int_eq(mkdir(path, 0700), 0);
}

static void setup(void)
{
    snprintf(dir, sizeof(dir), "/tmp/trickle-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(list, sizeof(list), "%s/list", dir);
    snprintf(kmsg, sizeof(kmsg), "%s/log", dir);
    make_dir("memory");
    make_dir("memory/old");
    make_dir("new");
}

static void teardown(void)
{
    char command[64];
    snprintf(command, sizeof(command), "rm -r %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static struct oom start(void)
{
    struct oom o;
    oom_init(&o, list, dir, kmsg);
    return o;
}

static void set_new(unsigned kills)
{
    char text[128];
    snprintf(text, sizeof(text), "low 0\nhigh 0\nmax 9\noom 7\noom_kill %u\noom_group_kill 0\n",
             kills);
    write_file("new/memory.events", text);
}

/* Where the count may be found: version 2, the older controllers, as seen in a container. */
static const struct {
    const char *list;
    const char *file;
} place_table[] = {
    {"0::/new\n", "new/memory.events"},
    {"9:name=systemd:/x\n4:memory:/old\n0::/\n", "memory/old/memory.oom_control"},
    {"0::/user.slice/elsewhere\n", "memory.events"},
    {"4:memory:/docker/0123\n0::/\n", "memory/memory.oom_control"},
};

START_TEST(a_risen_count_is_evidence_once)
{
    write_file("list", place_table[_i].list);
    write_file(place_table[_i].file, "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
    struct oom o = start();
    ck_assert(!oom_has_killed(&o, 100));
    write_file(place_table[_i].file, "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n");
    ck_assert(oom_has_killed(&o, 100));
    ck_assert(!oom_has_killed(&o, 101));
    write_file(place_table[_i].file, "oom_kill 8\n");
    ck_assert(oom_has_killed(&o, 102));
    ck_assert(oom_has_killed(&o, 103)); /* two died at once */
    ck_assert(!oom_has_killed(&o, 104));
    oom_fini(&o);
}
END_TEST

START_TEST(what_happened_before_the_start_explains_nothing)
{
    write_file("list", "0::/new\n");
    set_new(1);
    struct oom o = start();
    set_new(2);
    oom_look(&o);
    ck_assert(!oom_has_killed(&o, 100));
    oom_fini(&o);
}
END_TEST

START_TEST(nothing_to_read_is_no_evidence)
{
    struct oom o = start(); /* not even a list */
    ck_assert(!oom_has_killed(&o, 100));
    oom_look(&o);
    oom_fini(&o);
    write_file("list", "nonsense\n0:\n\n4:memory\n0::/new\n");
    write_file("new/memory.events", "low 0\n");
    o = start();
    ck_assert(!oom_has_killed(&o, 100));
    oom_fini(&o);
    write_file("list", "0::/new\n");
    set_new(3);
    o = start();
    set_new(1); /* moved to another cgroup: less than before */
    ck_assert(!oom_has_killed(&o, 100));
    oom_fini(&o);
}
END_TEST

/* --- the log ------------------------------------------------------------------------------ */

static struct oom start_with_log(void)
{
    ck_assert_int_eq(mkfifo(kmsg, 0600), 0);
    struct oom o = start();
    ck_assert_int_ge(o.log, 0);
    log_fd = open(kmsg, O_WRONLY);
    ck_assert_int_ge(log_fd, 0);
    return o;
}

static void say(const char *record)
{
    ck_assert_int_eq(write(log_fd, record, strlen(record)), (ssize_t)strlen(record));
}

/* What the log says, and whether that means process 4711. */
static const struct {
    const char *record;
    bool is_evidence;
} record_table[] = {
    {"3,900,1,-;Out of memory: Killed process 4711 (python3) total-vm:1kB, anon-rss:2kB\n", true},
    {"3,900,1,-;Memory cgroup out of memory: Killed process 4711 (python3) total-vm:1kB\n", true},
    {"3,900,1,-;Out of memory: Killed process 47110 (python3) total-vm:1kB\n", false},
    {"3,900,1,-;Out of memory: Killed process 471 (python3) total-vm:1kB\n", false},
    {"6,900,1,-;oom_reaper: reaped process 4711 (python3)\n", false},
    {"12,900,1,-;Out of memory: Killed process 4711 (python3)\n", false}, /* a user's words */
    {"Killed process 4711", false},
    {"", false},
};

START_TEST(the_log_names_whom_it_means)
{
    struct oom o = start_with_log();
    say(record_table[_i].record);
    ck_assert_int_eq(oom_has_killed(&o, 4711), record_table[_i].is_evidence);
    ck_assert(!oom_has_killed(&o, 4711)); /* once */
    close(log_fd);
    oom_fini(&o);
}
END_TEST

START_TEST(a_name_is_remembered_and_explains_its_count)
{
    write_file("list", "0::/new\n");
    set_new(0);
    struct oom o = start_with_log();
    say("3,1,1,-;Out of memory: Killed process 4711 (python3)\n");
    set_new(1);
    ck_assert(!oom_has_killed(&o, 4712)); /* killed by somebody else at the same moment */
    oom_look(&o);
    ck_assert(oom_has_killed(&o, 4711));
    close(log_fd);
    oom_fini(&o);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("oom");
    TCase *tc = tcase_create("oom");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, a_risen_count_is_evidence_once, 0,
                        sizeof(place_table) / sizeof(place_table[0]));
    tcase_add_test(tc, what_happened_before_the_start_explains_nothing);
    tcase_add_test(tc, nothing_to_read_is_no_evidence);
    tcase_add_loop_test(tc, the_log_names_whom_it_means, 0,
                        sizeof(record_table) / sizeof(record_table[0]));
    tcase_add_test(tc, a_name_is_remembered_and_explains_its_count);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
