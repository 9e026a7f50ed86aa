/* SPDX-License-Identifier: MIT */
/* Keys that change while a program runs. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "auth/keywatch.h"
#include "tests/suite.h"

static char dir[64], path[96];
static struct auth_watch watch;

static void begin(void)
{
    snprintf(dir, sizeof(dir), "/tmp/trk-watch-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/key", dir);
}

static void end(void)
{
    auth_watch_clear(&watch);
    unlink(path);
    ck_assert_int_eq(rmdir(dir), 0);
}

START_TEST(changed_file_is_noticed_once)
{
    struct auth_keys keys;
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(auth_watch_open(&watch, path), 0);
    ck_assert_str_eq(watch.keys.key[0].id, keys.key[0].id);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_int_eq(auth_keyfile_rotate(&keys, path), 0);
    ck_assert_int_eq(auth_watch_look(&watch), 1);
    ck_assert_uint_eq(watch.keys.count, 2);
    ck_assert_str_eq(watch.keys.key[0].id, keys.key[0].id);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_int_eq(auth_keyfile_finish(&keys, path), 0);
    ck_assert_int_eq(auth_watch_look(&watch), 1);
    ck_assert_uint_eq(watch.keys.count, 1);
}
END_TEST

START_TEST(key_that_is_made_later_is_found)
{
    struct auth_keys keys;
    ck_assert_int_eq(auth_watch_open(&watch, path), AUTH_NO_KEY);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(auth_watch_look(&watch), 1);
    ck_assert_str_eq(watch.keys.key[0].id, keys.key[0].id);
}
END_TEST

START_TEST(bad_file_takes_no_key_away_and_is_told_once)
{
    struct auth_keys keys;
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(auth_watch_open(&watch, path), 0);
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert_int_eq(auth_watch_look(&watch), TRK_EDENIED);
    ck_assert_ptr_nonnull(strstr(fail_text(), "chmod 600"));
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_str_eq(watch.keys.key[0].id, keys.key[0].id);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(auth_watch_look(&watch), TRK_EIO);
    ck_assert_ptr_nonnull(strstr(fail_text(), "has gone"));
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_str_eq(watch.keys.key[0].id, keys.key[0].id);
    ck_assert_int_eq(chmod(dir, 0700), 0);
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(auth_watch_look(&watch), 1);
    ck_assert_str_eq(watch.keys.key[0].id, keys.key[0].id);
}
END_TEST

/* Else a key that was taken away would open what runs until the file changes once more. */
START_TEST(file_that_could_not_be_read_is_read_later)
{
    struct auth_keys keys;
    struct rlimit limit, none;
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(auth_keyfile_rotate(&keys, path), 0);
    ck_assert_int_eq(auth_watch_open(&watch, path), 0);
    ck_assert_int_eq(auth_keyfile_finish(&keys, path), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = 0;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    int first = auth_watch_look(&watch), second = auth_watch_look(&watch);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_int_eq(first, TRK_EIO);
    ck_assert_int_eq(second, 0); /* told once */
    ck_assert_uint_eq(watch.keys.count, 2);
    ck_assert_int_eq(auth_watch_look(&watch), 1);
    ck_assert_uint_eq(watch.keys.count, 1);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
}
END_TEST

START_TEST(directory_that_is_put_right_lets_the_key_in)
{
    struct auth_keys keys;
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(auth_watch_open(&watch, path), 0);
    ck_assert_int_eq(auth_keyfile_rotate(&keys, path), 0);
    ck_assert_int_eq(chmod(dir, 0777), 0);
    ck_assert_int_eq(auth_watch_look(&watch), TRK_EDENIED);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_int_eq(chmod(dir, 0700), 0);
    ck_assert_int_eq(auth_watch_look(&watch), 1);
    ck_assert_uint_eq(watch.keys.count, 2);
}
END_TEST

START_TEST(refused_file_is_none)
{
    struct auth_keys keys;
    ck_assert_int_eq(auth_keyfile_new(&keys, path), 0);
    ck_assert_int_eq(chmod(path, 0640), 0);
    ck_assert_int_eq(auth_watch_open(&watch, path), TRK_EDENIED);
    ck_assert_uint_eq(watch.keys.count, 0);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
}
END_TEST

START_TEST(keys_come_by_a_pipe)
{
    struct auth_keys keys = {.count = 1};
    char text[AUTH_TEXT_MAX];
    int fds[2];
    ck_assert_int_eq(auth_key_make(&keys.key[0]), 0);
    size_t size = auth_keys_format(&keys, text);
    ck_assert_int_eq(pipe(fds), 0);
    ck_assert_int_eq(write(fds[1], text, size), (ssize_t)size);
    close(fds[1]);
    ck_assert_int_eq(auth_watch_read(&watch, fds[0]), 0);
    ck_assert_mem_eq(watch.keys.key[0].secret, keys.key[0].secret, AUTH_SECRET_BYTES);
    ck_assert_int_eq(auth_watch_look(&watch), 0);
    ck_assert_int_eq(auth_watch_read(&watch, fds[0]), TRK_ECORRUPT); /* its end only */
    close(fds[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("keywatch");
    TCase *tc = tcase_create("keywatch");
    tcase_add_checked_fixture(tc, begin, end);
    tcase_add_test(tc, changed_file_is_noticed_once);
    tcase_add_test(tc, key_that_is_made_later_is_found);
    tcase_add_test(tc, bad_file_takes_no_key_away_and_is_told_once);
    tcase_add_test(tc, file_that_could_not_be_read_is_read_later);
    tcase_add_test(tc, directory_that_is_put_right_lets_the_key_in);
    tcase_add_test(tc, refused_file_is_none);
    tcase_add_test(tc, keys_come_by_a_pipe);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
