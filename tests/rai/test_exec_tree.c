/* SPDX-License-Identifier: MIT */
/* What a command starts, and how all of it ends: timeouts, cancels, daemons. Scripts wait on a
 * fifo, "f", that nobody writes into unless the test does. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sys.h"
#include "tests/rai/exec_rig.h"
#include "tests/suite.h"

#define WAIT "read x < f" /* for ever */
#define QUIET " </dev/null >/dev/null 2>&1 "

static void setup(void)
{
    rig_setup();
    ck_assert_int_eq(mkfifo("f", 0600), 0);
    ck_assert_int_eq(mkfifo("up", 0600), 0);
}

/* The numbers in the files whose names begin with "pid", as the scripts wrote them: all dead? */
static void check_dead(const char *name)
{
    int pid = atoi(rig_read(name));
    ck_assert_msg(pid > 1, "%s was not written", name);
    ck_assert_msg(kill(pid, 0) < 0 && errno == ESRCH, "%s, process %d, lives", name, pid);
}

START_TEST(what_closes_its_streams_may_run_on)
{
    rig_shell("exec >&- 2>&-; sh -c 'exit 0'; exit 3");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
    ck_assert_int_eq(rig_result.exit_status, 3);
    ck_assert_uint_eq(rig_result.left, 0);
}
END_TEST

START_TEST(late_output_of_what_is_left_is_waited_for)
{
    rig_shell("(while kill -0 $$ 2>/dev/null && ! grep -q ') Z' /proc/$$/stat; do :; done;"
              "echo late) & echo early");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "early\nlate\n");
    ck_assert_uint_eq(rig_result.left, 0);
}
END_TEST

START_TEST(what_holds_a_stream_is_killed_after_a_moment)
{
    rig_shell("sh -c 'echo $$ > pid; echo > up; " WAIT "' & read x < up; echo done");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "done\n");
    ck_assert_uint_eq(rig_result.left, 1);
    ck_assert_uint_lt(rig_result.duration_ns, 5000000000);
    check_dead("pid");
}
END_TEST

START_TEST(what_floods_a_stream_is_killed_after_a_moment)
{
    rig_shell("for i in 1 2 3 4 5 6; do yes & done; exit 0");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_uint_ge(rig_result.left, 1);
    ck_assert_uint_lt(rig_result.duration_ns, 5000000000);
}
END_TEST

/* Who reads there takes bytes away that were announced to us. */
START_TEST(a_stream_that_others_read_too_holds_up_nothing)
{
    rig_spec.timeout_ms = 200;
    rig_shell("exec 3<>up; for i in 1 2 3 4 5 6 7 8; do"
              "  sh -c 'exec </dev/stdout; echo >&3; exec cat >/dev/null' & done;"
              "for i in 1 2 3 4 5 6 7 8; do read x <&3; done; echo x; " WAIT);
    rig_open();
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
        ck_assert_int_eq(rig_result.outcome, TRK_EXEC_TIMEOUT);
    }
}
END_TEST

/* A daemon of each kind: {0} is how it is started. */
static const char *const daemons[] = {
    "setsid",
    "env -u TRICKLE_EXEC_ -u TRICKLE_VM_OWNER setsid",
    "env -i /usr/bin/setsid",
};

START_TEST(daemons_are_killed_at_once)
{
    rig_shell("exec 3<>up; ({0} sh -c 'echo $$ > pid; echo > up;"
              "/bin/sh -c \"echo \\$\\$ > pid2; echo > up; " WAIT
              "\"; :'" QUIET "&) ; read x <&3; read x <&3");
    rig_open();
    ck_assert_int_eq(rig_run(daemons[_i], NULL), TRK_STATUS_OK);
    ck_assert_uint_eq(rig_result.left, 2);
    check_dead("pid");
    check_dead("pid2");
}
END_TEST

START_TEST(what_uses_up_its_time_is_ended_with_all_it_started)
{
    rig_spec.timeout_ms = 1500;
    rig_spec.kill_after_ms = 50;
    rig_shell("trap '' TERM; echo on; (setsid sh -c 'echo $$ > pid; echo > up; " WAIT "'" QUIET
              "&); read x < up; sh -c 'echo $$ > pid2; " WAIT "'");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_TIMEOUT);
    ck_assert_str_eq(rig_why(), "/bin/sh used up its time of 1.5 s");
    ck_assert_str_eq(rig_out(), "on\n");
    ck_assert_int_eq(rig_result.signal, SIGKILL);
    check_dead("pid");
    check_dead("pid2");
}
END_TEST

START_TEST(what_heeds_sigterm_may_say_goodbye)
{
    rig_spec.timeout_ms = 500;
    rig_spec.kill_after_ms = 20000;
    rig_shell("trap 'echo bye; exit 9' TERM; kill -STOP $$; " WAIT);
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_TIMEOUT);
    ck_assert_int_eq(rig_result.exit_status, 9);
    ck_assert_str_eq(rig_out(), "bye\n");
    ck_assert_uint_lt(rig_result.duration_ns, 10000000000);
}
END_TEST

static void *interrupt_when_up(void *arg)
{
    char byte;
    int fd = open("up", O_RDONLY); /* until the script opens it */
    (void)!read(fd, &byte, 1);
    close(fd);
    rai_exec.interrupt(NULL);
    return NULL;
}

START_TEST(an_interrupt_ends_it)
{
    pthread_t thread;
    rig_shell("trap '' TERM; echo $$ > pid; echo > up; " WAIT);
    rig_open();
    rai_exec.interrupt(NULL); /* nothing runs: nothing happens */
    pthread_create(&thread, NULL, interrupt_when_up, NULL);
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
    pthread_join(thread, NULL);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_INTERRUPTED);
    ck_assert_str_eq(rig_why(), "/bin/sh was cancelled");
    ck_assert_uint_lt(rig_result.duration_ns, 5000000000);
    check_dead("pid");
    rig_argv("true", NULL);
    rai_exec.stage_close(NULL, 7);
    rig_spec.is_shell = false;
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK); /* the next one is not concerned */
}
END_TEST

static pid_t start_child(bool has_session)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (has_session) {
            setsid();
        }
        for (;;) {
            pause();
        }
    }
    return pid;
}

START_TEST(what_is_not_the_commands_is_left_alone)
{
    pid_t pids[2] = {start_child(false), start_child(true)};
    rig_shell("(setsid sh -c 'echo $$ > pid; echo > up; " WAIT "'" QUIET "&); read x < up");
    rig_open();
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
        ck_assert_uint_eq(rig_result.left, 1);
        check_dead("pid");
    }
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(waitpid(pids[i], NULL, WNOHANG), 0);
        kill(pids[i], SIGKILL);
        ck_assert_int_eq(waitpid(pids[i], NULL, 0), pids[i]);
    }
    int is_reaper = -1;
    prctl(PR_GET_CHILD_SUBREAPER, &is_reaper);
    ck_assert_int_eq(is_reaper, 0);
}
END_TEST

/* A VM of a farm that a command has started: it is killed while a command of its own runs. Not in
 * a test, so nothing of check.h. */
static int nested(void)
{
    static const char script[] = "setsid sh -c 'echo $$ > pid; env > marks; echo > up; " WAIT
                                 "; :'";
    const struct trk_exec_piece piece = {.text = {script, sizeof(script) - 1}};
    const struct trk_exec_word word = {&piece, 1};
    const struct trk_exec_spec spec = {.size = sizeof(spec), .argv = &word, .argc = 1,
                                       .is_shell = true};
    struct trk_rai_element element = {.stage = 7, .attempt = 1};
    struct trk_rai_reply reply;
    void *bytes;
    size_t size;
    setenv("TRICKLE_VM_OWNER", "4567", 1);
    rai_reply_init(&reply);
    if (trk_exec_spec_encode(&spec, &bytes, &size) < 0 || rai_reply_begin(&reply, 0) < 0 ||
        rai_exec.stage_open(NULL, 7, bytes, size, &reply) != TRK_STATUS_OK ||
        trk_exec_element_encode(NULL, 0, &bytes, &element.size) < 0) {
        return 1;
    }
    element.payload = bytes;
    return rai_exec.run(NULL, &element, &reply);
}

START_TEST(commands_of_a_farm_inside_are_killed_too)
{
    char self[4096];
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);
    ck_assert_int_gt(size, 0);
    self[size] = '\0';
    setenv("TRICKLE_VM_OWNER", "0123", 1);
    rig_shell("{q0} nested & vm=$!; read x < up; kill -9 $vm; wait $vm; echo end");
    rig_open();
    ck_assert_int_eq(rig_run(self, NULL), TRK_STATUS_OK);
    ck_assert_msg(strncmp(rig_out() + strlen(rig_out()) - 4, "end\n", 4) == 0, "%s", rig_out());
    ck_assert_uint_ge(rig_result.left, 1);
    check_dead("pid");
    ck_assert_msg(strstr(rig_read("marks"), "TRICKLE_VM_OWNER=4567\n") != NULL, "%s",
                  rig_read("marks"));
}
END_TEST

static pid_t of_thread[2];

/* As user code of a python VM does: its own processes, from another thread, while a command runs.
 * They were started by exec, and so show the environment that the VM has. */
static void *start_children(void *arg)
{
    char byte;
    int fd = open("up", O_RDONLY), status;
    (void)!read(fd, &byte, 1);
    for (int i = 0; i < 2; i++) {
        of_thread[i] = fork();
        if (of_thread[i] == 0) {
            if (i == 1) {
                setsid();
            }
            execl("/bin/sh", "sh", "-c", "kill -STOP $$", (char *)NULL);
            _exit(1);
        }
        waitpid(of_thread[i], &status, WUNTRACED);
    }
    close(fd);
    fd = open("f", O_WRONLY);
    close(fd);
    return NULL;
}

START_TEST(what_a_thread_starts_meanwhile_is_left_alone)
{
    pthread_t thread;
    setenv("TRICKLE_VM_OWNER", "0123", 1);
    rig_shell("(setsid sh -c 'echo $$ > pid; echo > up; exec 3<>g; read x <&3'" QUIET "&);" WAIT);
    ck_assert_int_eq(mkfifo("g", 0600), 0);
    rig_open();
    pthread_create(&thread, NULL, start_children, NULL);
    rig_run(NULL);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(rig_result.left, 1);
    check_dead("pid");
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(waitpid(of_thread[i], NULL, WNOHANG), 0);
        kill(of_thread[i], SIGKILL);
        ck_assert_int_eq(waitpid(of_thread[i], NULL, 0), of_thread[i]);
    }
}
END_TEST

START_TEST(many_that_start_others_are_all_killed)
{
    rig_spec.timeout_ms = 20000;
    rig_shell("b() { (setsid sh -c 'while :; do setsid sh -c : & done'" QUIET "&) ; }; b; b; b");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_uint_ge(rig_result.left, 3);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "nested") == 0) {
        return nested();
    }
    Suite *suite = suite_create("exec_tree");
    TCase *tc = tcase_create("tree");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, rig_teardown);
    tcase_add_test(tc, what_closes_its_streams_may_run_on);
    tcase_add_test(tc, late_output_of_what_is_left_is_waited_for);
    tcase_add_test(tc, what_holds_a_stream_is_killed_after_a_moment);
    tcase_add_test(tc, what_floods_a_stream_is_killed_after_a_moment);
    tcase_add_test(tc, a_stream_that_others_read_too_holds_up_nothing);
    tcase_add_loop_test(tc, daemons_are_killed_at_once, 0, 3);
    tcase_add_test(tc, what_uses_up_its_time_is_ended_with_all_it_started);
    tcase_add_test(tc, what_heeds_sigterm_may_say_goodbye);
    tcase_add_test(tc, an_interrupt_ends_it);
    tcase_add_test(tc, what_is_not_the_commands_is_left_alone);
    tcase_add_test(tc, commands_of_a_farm_inside_are_killed_too);
    tcase_add_test(tc, what_a_thread_starts_meanwhile_is_left_alone);
    tcase_add_test(tc, many_that_start_others_are_all_killed);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
