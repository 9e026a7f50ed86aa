/* SPDX-License-Identifier: MIT */
/* Outputs under temporary names: into place when all is well, and gone when it is not. */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/rai/exec_rig.h"
#include "tests/suite.h"

static void set_output(const char *name)
{
    rig_spec.outputs = rig_words(&rig_spec.outputs_count, name, NULL);
}

static void check_names(const char *expected)
{
    char names[1024];
    rig_list(names, sizeof(names));
    ck_assert_str_eq(names, expected);
}

START_TEST(output_is_put_into_place)
{
    set_output("out-{0}.png");
    rig_write("out-a b.png", "old");
    rig_shell("echo {qo0}; cat out-*; ls -A; echo new > {qo0}; echo side > {q//o0}/side");
    rig_open();
    ck_assert_int_eq(rig_run("a b", NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "./.trickle-out-a b.png-0/out-a b.png\nold"
                                ".trickle-out-a b.png-0\nout-a b.png\n" + 2);
    ck_assert_str_eq(rig_read("out-a b.png"), "new\n");
    check_names("out-a b.png ");
}
END_TEST

START_TEST(directories_are_made)
{
    set_output("a/b\xff/c/{0}");
    rig_argv("cp", "/dev/null", "/dev/null", NULL);
    rig_shell("echo x > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run("x", NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_read("a/b\xff/c/x"), "x\n");
    ck_assert_int_eq(rig_run("y", NULL), TRK_STATUS_OK); /* they are there now */
    ck_assert_int_eq(chdir("a/b\xff/c"), 0);
    check_names("x y ");
    ck_assert_int_eq(chdir("../../.."), 0);
}
END_TEST

START_TEST(names_are_relative_to_cwd)
{
    char path[128];
    ck_assert_ptr_nonnull(getcwd(path, 64));
    ck_assert_int_eq(mkdir("sub", 0755), 0);
    set_output("{0}");
    rig_spec.cwd = rig_word("sub");
    rig_shell("echo x > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run("out", NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_read("sub/out"), "x\n");
    snprintf(path + strlen(path), 64, "/whole");
    ck_assert_int_eq(rig_run(path, NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_read("whole"), "x\n");
}
END_TEST

static const struct {
    const char *script, *why;
    enum trk_exec_outcome outcome;
} failures[] = {
    {":", "the command exited with 0 and has not written out", TRK_EXEC_BAD_OUTPUT},
    {": > .trickle-out-0/out", "exited with 0 and left out empty", TRK_EXEC_BAD_OUTPUT},
    {"mkdir .trickle-out-0/out", "wrote as out is no regular file", TRK_EXEC_BAD_OUTPUT},
    {"ln -s /etc/passwd .trickle-out-0/out", "is no regular file", TRK_EXEC_BAD_OUTPUT},
    {"echo bad > .trickle-out-0/out", "out did not pass its check (exit status 1)",
     TRK_EXEC_BAD_OUTPUT},
    {"echo good > .trickle-out-0/out; exit 4", "exited with status 4", TRK_EXEC_EXIT},
    {"mkdir -p .trickle-out-0/a/b; echo x > .trickle-out-0/a/b/c; kill -KILL $$", "signal 9",
     TRK_EXEC_SIGNAL},
};

START_TEST(a_failure_leaves_what_was_there)
{
    rig_write("out", "old");
    set_output("out");
    rig_spec.check = rig_words(&rig_spec.check_count, "grep", "-q", "good", "{f}", NULL);
    rig_shell("{0}");
    rig_open();
    ck_assert_int_eq(rig_run(failures[_i].script, NULL), TRK_STATUS_EXCEPTION);
    ck_assert_msg(strstr(rig_why(), failures[_i].why) != NULL, "%s", rig_why());
    ck_assert_int_eq(rig_result.outcome, failures[_i].outcome);
    ck_assert_str_eq(rig_read("out"), "old");
    check_names("out ");
    ck_assert_int_eq(rig_run("echo good > .trickle-out-0/out", NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_read("out"), "good\n");
}
END_TEST

static const struct {
    const char *name, *why;
} names[] = {
    {"", "cannot be the name of an output file"},
    {"dir/", "cannot be the name of an output file"},
    {"..", "cannot be the name of an output file"},
    {"file/x", "cannot make or open the directory of the output file/x: Not a directory"},
    {"file/y/x", "cannot make or open the directory of the output file/y/x: Not a directory"},
    {"dir", "cannot put into place the output dir: Is a directory"},
};

START_TEST(names_that_cannot_be_say_why)
{
    rig_write("file", "");
    ck_assert_int_eq(mkdir("dir", 0755), 0);
    set_output("{0}");
    rig_shell("echo x > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run(names[_i].name, NULL), TRK_STATUS_EXCEPTION);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_BAD_OUTPUT);
    ck_assert_msg(strstr(rig_why(), names[_i].why) != NULL, "%s", rig_why());
    check_names("dir file ");
}
END_TEST

START_TEST(what_a_killed_run_left_is_removed)
{
    for (int i = 0; i < 2; i++) {
        char dir[32], name[64];
        snprintf(dir, sizeof(dir), ".trickle-out-%d", i);
        ck_assert_int_eq(mkdir(dir, 0755), 0);
        snprintf(name, sizeof(name), "%s/out", dir);
        rig_write(name, "half");
    }
    set_output("out");
    rig_shell("test ! -e {qo0} && echo {qo0} && ls -A && echo whole > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), ".trickle-out-0/out\n.trickle-out-0\n");
    ck_assert_str_eq(rig_read("out"), "whole\n");
    check_names("out ");
}
END_TEST

START_TEST(two_runs_at_once_do_not_meet)
{
    ck_assert_int_eq(mkdir(".trickle-out-0", 0755), 0);
    rig_write(".trickle-out-0/out", "other");
    int fd = open(".trickle-out-0", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    set_output("out");
    rig_shell("echo {qo0}; echo mine > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), ".trickle-out-1/out\n");
    ck_assert_str_eq(rig_read("out"), "mine\n");
    ck_assert_str_eq(rig_read(".trickle-out-0/out"), "other");
    check_names(".trickle-out-0 out ");
    close(fd);
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    check_names("out ");
}
END_TEST

START_TEST(too_many_at_once_say_so)
{
    int fds[16];
    for (int i = 0; i < 16; i++) {
        char name[64];
        snprintf(name, sizeof(name), ".trickle-out-%d", i);
        ck_assert_int_eq(mkdir(name, 0755), 0);
        fds[i] = open(name, O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(flock(fds[i], LOCK_EX), 0);
    }
    set_output("out");
    rig_shell("echo x > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
    ck_assert_msg(strstr(rig_why(), "remove .trickle-out-* beside it") != NULL, "%s", rig_why());
    for (int i = 0; i < 16; i++) {
        close(fds[i]);
    }
}
END_TEST

START_TEST(a_link_is_not_followed)
{
    ck_assert_int_eq(mkdir("precious", 0755), 0);
    rig_write("precious/out", "mine");
    ck_assert_int_eq(symlink("precious", ".trickle-out-0"), 0);
    set_output("out");
    rig_shell("ln -s ../precious {q//o0}/link; echo x > {qo0}");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_read("precious/out"), "mine");
    check_names(".trickle-out-0 out precious ");
}
END_TEST

START_TEST(long_names_and_several_outputs_work)
{
    char name[256];
    memset(name, 'n', 255);
    name[255] = '\0';
    rig_spec.outputs = rig_words(&rig_spec.outputs_count, "{0}", "second", NULL);
    rig_shell("echo 1 > {qo0}; echo 2 > {qo1}");
    rig_open();
    ck_assert_int_eq(rig_run(name, NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_read(name), "1\n");
    ck_assert_str_eq(rig_read("second"), "2\n");
    ck_assert_int_eq(rig_run("second", NULL), TRK_STATUS_EXCEPTION);
    ck_assert_msg(strstr(rig_why(), "two outputs have the same name") != NULL, "%s", rig_why());
    unlink(name);
    check_names("second ");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exec_output");
    TCase *tc = tcase_create("output");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_add_test(tc, output_is_put_into_place);
    tcase_add_test(tc, directories_are_made);
    tcase_add_test(tc, names_are_relative_to_cwd);
    tcase_add_loop_test(tc, a_failure_leaves_what_was_there, 0,
                        (int)(sizeof(failures) / sizeof(failures[0])));
    tcase_add_loop_test(tc, names_that_cannot_be_say_why, 0,
                        (int)(sizeof(names) / sizeof(names[0])));
    tcase_add_test(tc, what_a_killed_run_left_is_removed);
    tcase_add_test(tc, two_runs_at_once_do_not_meet);
    tcase_add_test(tc, too_many_at_once_say_so);
    tcase_add_test(tc, a_link_is_not_followed);
    tcase_add_test(tc, long_names_and_several_outputs_work);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
