/* SPDX-License-Identifier: MIT */
/* test_cache.c - blobs that a machine keeps: whole or not at all, by one VM for all, up to a
 * limit. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/suite.h"
#include "vm/cache.h"

static char root[64], dir[HOME_PATH_MAX];

static void setup(void)
{
    snprintf(root, sizeof(root), "/tmp/trk-cache-%s", "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    setenv("XDG_CACHE_HOME", root, 1);
    ck_assert_int_eq(cache_open(dir, sizeof(dir)), 0);
}

static void teardown(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
}

static struct digest put(const char *text, uint64_t limit)
{
    struct digest digest = hash_digest(text, strlen(text));
    int claim = cache_claim(dir, &digest);

    ck_assert_int_ge(claim, 0);
    ck_assert_int_eq(cache_put(dir, &digest, claim, text, strlen(text), limit), 0);
    return digest;
}

static void has(const struct digest *digest, const char *wanted)
{
    char text[256] = "";
    int fd = cache_find(dir, digest);

    ck_assert_msg(fd >= 0 && fd != TRK_END, "%s is not there", wanted);
    ck_assert_int_eq(pread(fd, text, sizeof(text) - 1, 0), (ssize_t)strlen(wanted));
    ck_assert_str_eq(text, wanted);
    close(fd);
}

static void path_of(const struct digest *digest, const char *end, char path[HOME_PATH_MAX + 64])
{
    int n = snprintf(path, HOME_PATH_MAX, "%s/", dir);

    for (int i = 0; i < 16; i++) {
        n += snprintf(path + n, 3, "%02x", digest->bytes[i]);
    }
    snprintf(path + n, 8, "%s", end);
}

START_TEST(what_was_put_is_found)
{
    struct digest other = {{1}}, digest = put("some code", CACHE_BYTES_MAX);
    struct stat st;

    has(&digest, "some code");
    ck_assert_int_eq(cache_find(dir, &other), TRK_END);
    ck_assert_int_eq(stat(dir, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0700);
    digest = put("", CACHE_BYTES_MAX);
    has(&digest, "");
}
END_TEST

START_TEST(a_damaged_one_is_as_none)
{
    struct digest digest = put("some code", CACHE_BYTES_MAX);
    char path[HOME_PATH_MAX + 64];

    path_of(&digest, "", path);
    ck_assert_int_eq(truncate(path, 5), 0); /* as a power failure may leave it */
    ck_assert_int_eq(cache_find(dir, &digest), TRK_END);
    ck_assert_int_ne(access(path, F_OK), 0);
    digest = put("some code", CACHE_BYTES_MAX);
    has(&digest, "some code");
}
END_TEST

START_TEST(those_used_least_recently_go)
{
    struct digest a = put("aaaa", 100), b = put("bbbb", 100), c;
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    char path[HOME_PATH_MAX + 64];

    path_of(&a, "", path);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, old, 0), 0);
    path_of(&b, "", path);
    old[0].tv_sec = old[1].tv_sec = 2000;
    ck_assert_int_eq(utimensat(AT_FDCWD, path, old, 0), 0);
    has(&a, "aaaa"); /* used now */
    c = put("cccc", 8);
    ck_assert_int_eq(cache_find(dir, &b), TRK_END);
    has(&a, "aaaa");
    has(&c, "cccc");
    c = put("larger than all there may be", 8);
    has(&c, "larger than all there may be");
    ck_assert_int_eq(cache_find(dir, &a), TRK_END);
}
END_TEST

START_TEST(another_vm_is_waited_for)
{
    struct digest digest = hash_digest("slow", 4);
    int claim = cache_claim(dir, &digest), status, started[2];
    char byte;

    ck_assert_int_eq(pipe(started), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(claim);
        (void)!write(started[1], "s", 1);
        claim = cache_claim(dir, &digest); /* when the other one has let go, which is with it */
        int fd = cache_find(dir, &digest);
        _exit(claim == TRK_END || fd == TRK_END);
    }
    ck_assert_int_eq(read(started[0], &byte, 1), 1);
    ck_assert_int_eq(cache_put(dir, &digest, claim, "slow", 4, 100), 0);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(a_killed_one_leaves_its_part_to_the_next)
{
    struct digest digest = hash_digest("mine", 4);
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        int claim = cache_claim(dir, &digest);
        (void)!write(claim, "mi and more than that", 21);
        raise(SIGKILL);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(cache_find(dir, &digest), TRK_END);
    put("mine", 100);
    has(&digest, "mine");
}
END_TEST

START_TEST(a_full_disk_leaves_nothing)
{
    struct digest digest = hash_digest("full", 4);
    char path[HOME_PATH_MAX + 64];
    int full = open("/dev/full", O_WRONLY);

    ck_assert_int_ge(cache_claim(dir, &digest), 0);
    ck_assert_int_lt(cache_put(dir, &digest, full, "full", 4, 100), 0);
    ck_assert_int_eq(cache_find(dir, &digest), TRK_END);
    path_of(&digest, ".part", path);
    ck_assert_int_ne(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_place_that_is_not_ours_is_not_used)
{
    char place[128];

    snprintf(place, sizeof(place), "%s/trickle/blobs", root);
    ck_assert_int_eq(rmdir(place), 0);
    ck_assert_int_eq(symlink("/tmp", place), 0);
    ck_assert_int_eq(cache_open(dir, sizeof(dir)), TRK_EDENIED);
    setenv("XDG_CACHE_HOME", "/dev/null", 1);
    ck_assert_int_lt(cache_open(dir, sizeof(dir)), 0);
}
END_TEST

START_TEST(memory_serves_where_no_file_can)
{
    char text[8] = "";
    int fd = cache_in_memory("code", 4);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, text, sizeof(text), 0), 4);
    ck_assert_str_eq(text, "code");
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cache");
    TCase *tc = tcase_create("cache");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, what_was_put_is_found);
    tcase_add_test(tc, a_damaged_one_is_as_none);
    tcase_add_test(tc, those_used_least_recently_go);
    tcase_add_test(tc, another_vm_is_waited_for);
    tcase_add_test(tc, a_killed_one_leaves_its_part_to_the_next);
    tcase_add_test(tc, a_full_disk_leaves_nothing);
    tcase_add_test(tc, a_place_that_is_not_ours_is_not_used);
    tcase_add_test(tc, memory_serves_where_no_file_can);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
