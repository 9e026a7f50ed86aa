/* SPDX-License-Identifier: MIT */
/* test_keyfile.c - where the key is, who may have it, making and rotating it. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "auth/keyfile.h"
#include "tests/suite.h"

static char folder[64];
static struct auth_keys keys;

static const char *in_folder(const char *name)
{
    static char path[2][256];
    static int turn;
    turn = 1 - turn;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", folder, name);
    return path[turn];
}

static void setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/trickle-test-key-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    setenv("XDG_CONFIG_HOME", folder, 1);
    umask(022);
}

static void remove_all(const char *name)
{
    const char *const left[] = {"key", "other", "deep/er/trickle/key", "deep/er/trickle",
                                "deep/er", "deep", "home/.config/trickle/key",
                                "home/.config/trickle", "home/.config", "home"};
    for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%s", name, left[i]);
        if (unlink(path) != 0) {
            rmdir(path);
        }
    }
    rmdir(name);
}

static void teardown(void)
{
    remove_all(in_folder("trickle"));
    remove_all(folder);
}

static const char *key_file(void) { return in_folder("trickle/key"); }

static unsigned mode_of(const char *path)
{
    struct stat st;
    ck_assert_msg(stat(path, &st) == 0, "%s: %m", path);
    return (unsigned)st.st_mode & 07777;
}

static int count_files(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;
    while (dir != NULL && readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count - 2;
}

static void check_says(const char *text)
{
    ck_assert_msg(strstr(fail_text(), text) != NULL, "\"%s\" is not in: %s", text, fail_text());
}

/* --- names -------------------------------------------------------------------------------- */

START_TEST(name_follows_the_environment)
{
    char path[256], small[8];
    ck_assert_int_eq(auth_keyfile_path(path, sizeof(path)), 0);
    ck_assert_str_eq(path, key_file());
    ck_assert_int_eq(auth_keyfile_path(small, sizeof(small)), TRK_EINVAL);
    setenv("HOME", "/home/a", 1);
    setenv("XDG_CONFIG_HOME", "relative", 1);
    ck_assert_int_eq(auth_keyfile_path(path, sizeof(path)), 0);
    ck_assert_str_eq(path, "/home/a/.config/trickle/key");
    unsetenv("XDG_CONFIG_HOME");
    ck_assert_int_eq(auth_keyfile_path(path, sizeof(path)), 0);
    ck_assert_str_eq(path, "/home/a/.config/trickle/key");
    unsetenv("HOME");
    ck_assert_int_eq(auth_keyfile_path(path, sizeof(path)), 0); /* from the user's entry */
    ck_assert_int_eq(path[0], '/');
}
END_TEST

/* --- making ------------------------------------------------------------------------------- */

START_TEST(no_key_is_an_answer_and_makes_none)
{
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), AUTH_NO_KEY);
    ck_assert_int_eq(auth_keyfile_load(&keys, in_folder("a/b/c")), AUTH_NO_KEY);
    ck_assert_int_eq(count_files(folder), 0);
}
END_TEST

START_TEST(new_key_is_private_and_comes_back)
{
    struct auth_keys again;
    umask((mode_t)(_i == 0 ? 0 : 0277)); /* whatever the user's is */
    setenv("XDG_CONFIG_HOME", in_folder("deep/er"), 1);
    mkdir(in_folder("deep"), 0700);
    mkdir(in_folder("deep/er"), 0700);
    chmod(in_folder("deep"), 0700);
    chmod(in_folder("deep/er"), 0700);
    int rc = auth_keyfile_new(&keys, NULL);
    if (_i == 1 && geteuid() != 0) {
        return; /* a directory that its owner may not write */
    }
    ck_assert_msg(rc == 0, "%s", fail_text());
    ck_assert_uint_eq(mode_of(in_folder("deep/er/trickle/key")), 0600);
    ck_assert_uint_eq(mode_of(in_folder("deep/er/trickle")) & 077, 0);
    ck_assert_int_eq(count_files(in_folder("deep/er/trickle")), 1); /* no temporary is left */
    ck_assert_int_eq(auth_keyfile_load(&again, NULL), 0);
    ck_assert_mem_eq(&again, &keys, sizeof(keys));
}
END_TEST

START_TEST(missing_parents_are_made)
{
    unsetenv("XDG_CONFIG_HOME");
    setenv("HOME", in_folder("home"), 1);
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    ck_assert_uint_eq(mode_of(in_folder("home/.config/trickle")), 0700);
    ck_assert_uint_eq(mode_of(in_folder("home/.config")), 0700);
}
END_TEST

START_TEST(key_is_never_replaced_by_new)
{
    struct auth_keys other;
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    ck_assert_int_eq(auth_keyfile_new(&other, NULL), TRK_EDENIED);
    check_says("trickle key rotate");
    ck_assert_uint_eq(other.count, 0);
    ck_assert_int_eq(auth_keyfile_load(&other, NULL), 0);
    ck_assert_mem_eq(&other, &keys, sizeof(keys));
    ck_assert_int_eq(count_files(in_folder("trickle")), 1);
}
END_TEST

START_TEST(failed_writing_leaves_what_was_there)
{
    struct auth_keys other = {.count = 1}, found;
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    ck_assert_int_eq(auth_key_make(&other.key[0]), 0);
    mkdir(in_folder("other"), 0700);
    mkdir(in_folder("other/x"), 0700);
    /* A directory in the file's place cannot be replaced. */
    ck_assert_int_eq(auth_keyfile_save(&other, in_folder("other"), true), TRK_EIO);
    rmdir(in_folder("other/x"));
    ck_assert_int_eq(count_files(folder), 2); /* trickle, other */
    ck_assert_int_eq(auth_keyfile_save(&other, in_folder("trickle/key/x"), true), TRK_EIO);
    ck_assert_int_eq(auth_keyfile_load(&found, NULL), 0);
    ck_assert_mem_eq(&found, &keys, sizeof(keys));
}
END_TEST

/* --- rotating ----------------------------------------------------------------------------- */

START_TEST(rotation_offers_the_new_and_keeps_the_old)
{
    struct auth_keys before, during, after;
    ck_assert_int_eq(auth_keyfile_rotate(&during, NULL), TRK_EDENIED);
    check_says("trickle key new");
    ck_assert_int_eq(auth_keyfile_new(&before, NULL), 0);
    ck_assert_int_eq(auth_keyfile_finish(&after, NULL), TRK_EDENIED);
    check_says(before.key[0].id);
    ck_assert_int_eq(auth_keyfile_rotate(&during, NULL), 0);
    ck_assert_uint_eq(during.count, 2);
    ck_assert_str_eq(during.key[1].id, before.key[0].id);
    ck_assert_str_ne(during.key[0].id, before.key[0].id);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), 0);
    ck_assert_mem_eq(&keys, &during, sizeof(keys));
    ck_assert_int_eq(auth_keyfile_rotate(&after, NULL), TRK_EDENIED); /* the old would be lost */
    check_says("trickle key finish");
    ck_assert_int_eq(auth_keyfile_finish(&after, NULL), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), 0);
    ck_assert_uint_eq(keys.count, 1);
    ck_assert_str_eq(keys.key[0].id, during.key[0].id);
    ck_assert_uint_eq(mode_of(key_file()), 0600);
    ck_assert_int_eq(count_files(in_folder("trickle")), 1);
}
END_TEST

/* --- who may have it ---------------------------------------------------------------------- */

#define ROTATORS 8

/* Rotates when the pipe is closed. Exit status 0: it has made the key whose ID it has written. */
static pid_t start_rotator(int go[2], int said)
{
    struct auth_keys made;
    char byte;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        close(go[1]);
        if (read(go[0], &byte, 1) != 0) {
            _exit(2);
        }
        int rc = auth_keyfile_rotate(&made, NULL);
        if (rc == 0 && write(said, made.key[0].id, AUTH_ID_DIGITS) != AUTH_ID_DIGITS) {
            _exit(3);
        }
        _exit(rc == 0 ? 0 : rc == TRK_EDENIED ? 1 : 4);
    }
    return pid;
}

START_TEST(of_many_who_rotate_at_once_one_does)
{
    pid_t pids[ROTATORS];
    char id[AUTH_ID_DIGITS + 1] = "";
    int go[2], said[2], done = 0;
    struct auth_keys old;
    ck_assert_int_eq(auth_keyfile_new(&old, NULL), 0);
    ck_assert(pipe(go) == 0 && pipe(said) == 0);
    for (int i = 0; i < ROTATORS; i++) {
        pids[i] = start_rotator(go, said[1]);
    }
    close(go[0]);
    close(go[1]);
    for (int i = 0; i < ROTATORS; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) < 2, "status %x", status);
        done += WEXITSTATUS(status) == 0;
    }
    ck_assert_int_eq(done, 1);
    ck_assert_int_eq(read(said[0], id, AUTH_ID_DIGITS), AUTH_ID_DIGITS);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), 0);
    ck_assert_str_eq(keys.key[0].id, id);
    ck_assert_str_eq(keys.key[1].id, old.key[0].id);
    close(said[0]);
    close(said[1]);
}
END_TEST

START_TEST(key_that_others_can_read_is_refused)
{
    static const mode_t modes[] = {0640, 0620, 0610, 0604, 0602, 0601, 0644, 0666, 0777};
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        ck_assert_int_eq(chmod(key_file(), modes[i]), 0);
        ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
        check_says("chmod 600 ");
        check_says(key_file());
    }
    ck_assert_int_eq(chmod(key_file(), 0400), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), 0);
}
END_TEST

START_TEST(directory_that_others_can_change_is_refused)
{
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    ck_assert_int_eq(chmod(in_folder("trickle"), 0770), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
    check_says("chmod 700 ");
    ck_assert_int_eq(auth_keyfile_rotate(&keys, NULL), TRK_EDENIED);
    ck_assert_int_eq(chmod(in_folder("trickle"), 0755), 0); /* they may look at its name */
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), 0);
}
END_TEST

START_TEST(links_and_other_things_are_refused)
{
    ck_assert_int_eq(auth_keyfile_new(&keys, in_folder("other")), 0);
    mkdir(in_folder("trickle"), 0700);
    ck_assert_int_eq(symlink(in_folder("other"), key_file()), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
    check_says("symbolic link");
    unlink(key_file());
    ck_assert_int_eq(mkdir(key_file(), 0700), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
    check_says("not a file");
    rmdir(key_file());
    ck_assert_int_eq(mkfifo(key_file(), 0600), 0); /* does not wait for a writer */
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
    check_says("not a file");
}
END_TEST

START_TEST(key_of_another_user_is_refused)
{
    if (geteuid() != 0) {
        return;
    }
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    ck_assert_int_eq(chown(key_file(), 65534, 65534), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
    check_says("belongs to user 65534");
    ck_assert_int_eq(chown(key_file(), 0, 0), 0);
    ck_assert_int_eq(chown(in_folder("trickle"), 65534, 65534), 0);
    ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_EDENIED);
    check_says("belongs to user 65534");
}
END_TEST

static int read_as_stranger(void)
{
    if (setgid(65534) != 0 || setuid(65534) != 0) {
        return 100;
    }
    return -auth_keyfile_load(&keys, key_file());
}

START_TEST(second_user_gets_nothing)
{
    int status;
    if (geteuid() != 0) {
        return;
    }
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    chmod(folder, 0755);
    chmod(in_folder("trickle"), (mode_t)(_i == 0 ? 0700 : 0755));
    pid_t pid = fork();
    if (pid == 0) {
        _exit(read_as_stranger());
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), -TRK_EIO); /* the system says no already */
}
END_TEST

START_TEST(damaged_files_are_refused)
{
    static const char *const texts[] = {"", "x", "trickle-key-1 02d449a3 11\n"};
    static char long_text[100000];
    memset(long_text, 'k', sizeof(long_text) - 1);
    ck_assert_int_eq(auth_keyfile_new(&keys, NULL), 0);
    for (size_t i = 0; i <= sizeof(texts) / sizeof(texts[0]); i++) {
        const char *text = i < sizeof(texts) / sizeof(texts[0]) ? texts[i] : long_text;
        int fd = open(key_file(), O_WRONLY | O_TRUNC);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        close(fd);
        ck_assert_int_eq(auth_keyfile_load(&keys, NULL), TRK_ECORRUPT);
        check_says(key_file());
        ck_assert_uint_eq(keys.count, 0);
        ck_assert_int_eq(auth_keyfile_rotate(&keys, NULL), TRK_ECORRUPT); /* it may be mended */
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("keyfile");
    TCase *t = tcase_create("keyfile");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, name_follows_the_environment);
    tcase_add_test(t, no_key_is_an_answer_and_makes_none);
    tcase_add_loop_test(t, new_key_is_private_and_comes_back, 0, 2);
    tcase_add_test(t, missing_parents_are_made);
    tcase_add_test(t, key_is_never_replaced_by_new);
    tcase_add_test(t, failed_writing_leaves_what_was_there);
    tcase_add_test(t, rotation_offers_the_new_and_keeps_the_old);
    tcase_add_test(t, of_many_who_rotate_at_once_one_does);
    tcase_add_test(t, key_that_others_can_read_is_refused);
    tcase_add_test(t, directory_that_others_can_change_is_refused);
    tcase_add_test(t, links_and_other_things_are_refused);
    tcase_add_test(t, key_of_another_user_is_refused);
    tcase_add_loop_test(t, second_user_gets_nothing, 0, 2);
    tcase_add_test(t, damaged_files_are_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
