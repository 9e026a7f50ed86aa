/* SPDX-License-Identifier: MIT */
/* Commands as the module runs them: what they get, how they end, what is kept of them. */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "tests/rai/exec_rig.h"
#include "tests/suite.h"

START_TEST(command_gets_its_fields)
{
    rig_argv("printf", "%s|%s|%s|%s", "{1}", "x{0}y{#}", "{/.1}", "", NULL);
    rig_open();
    ck_assert_int_eq(rig_run("a b\n'c'", "/\xff\xfe/z.t", NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "/\xff\xfe/z.t|xa b\n'c'y42|z|");
    ck_assert_int_eq(rig_result.exit_status, 0);
    ck_assert_uint_eq(rig_result.err.total, 0);
    ck_assert_uint_gt(rig_result.duration_ns, 0);
    ck_assert_uint_gt(rig_result.rss_max_bytes, 0);
}
END_TEST

START_TEST(every_byte_survives_the_shell)
{
    char all[256];
    for (int i = 1; i < 256; i++) {
        all[i - 1] = (char)i;
    }
    all[255] = '\0';
    rig_shell("printf %s {q0}");
    rig_open();
    ck_assert_int_eq(rig_run(all, NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), all);
    ck_assert_int_eq(rig_run("", NULL), TRK_STATUS_OK);
    ck_assert_int_eq(rig_run("a", NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "a");
}
END_TEST

START_TEST(its_end_is_told)
{
    rig_shell("echo o; echo e >&2; {0}");
    rig_open();
    ck_assert_int_eq(rig_run("exit 3", NULL), TRK_STATUS_EXCEPTION);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_EXIT);
    ck_assert_int_eq(rig_result.exit_status, 3);
    ck_assert_int_eq(rig_result.signal, 0);
    ck_assert_str_eq(rig_why(), "/bin/sh exited with status 3");
    ck_assert_str_eq(rig_out(), "o\n");
    ck_assert_mem_eq(rig_result.err.bytes, "e\n", 2);
    ck_assert_int_eq(rig_run("kill -SEGV $$", NULL), TRK_STATUS_EXCEPTION);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_SIGNAL);
    ck_assert_int_eq(rig_result.exit_status, -1);
    ck_assert_int_eq(rig_result.signal, SIGSEGV);
}
END_TEST

START_TEST(environment_is_the_vms_and_the_specs)
{
    static const struct trk_exec_bytes set[] = {{"A=b c", 5}, {"GONE=not", 8}, {"E=", 2}};
    static const struct trk_exec_bytes unset[] = {{"AWAY", 4}};
    setenv("AWAY", "1", 1);
    setenv("AWAYS", "2", 1);
    setenv("GONE", "before", 1);
    setenv("TRICKLE_ELEMENT", "before", 1);
    rig_spec.env = set;
    rig_spec.env_count = 3;
    rig_spec.unset = unset;
    rig_spec.unset_count = 1;
    rig_attempt = 3;
    rig_shell("echo $TRICKLE_ELEMENT,$TRICKLE_ATTEMPT,$A,$GONE,${E-none},${AWAY-none},$AWAYS;"
              "env | grep -c -e ^TRICKLE_ELEMENT -e ^GONE");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "41,3,b c,not,,none,2\n2\n");
}
END_TEST

START_TEST(nothing_else_of_the_vm_gets_in)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    umask(027);
    int fd = open("/dev/null", O_RDWR); /* without CLOEXEC */
    rig_shell("grep -E 'Sig(Blk|Ign)' /proc/self/status; umask; echo /proc/$$/fd/*; cat;"
              "test $$ = $(ps -o pgid= -p $$) && echo leads");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    close(fd);
    unsigned long long blocked = 1, ignored = ~0ull;
    ck_assert_int_eq(sscanf(rig_out(), "SigBlk: %llx SigIgn: %llx 0027", &blocked, &ignored), 2);
    ck_assert_uint_eq(blocked, 0);
    ck_assert_uint_eq(ignored & 0x7fffffff, 0); /* glibc ignores two more, which are its own */
    /* 3 is the directory that the shell lists. */
    ck_assert_msg(strstr(rig_out(), "/fd/2 ") != NULL, "%s", rig_out());
    ck_assert_msg(strstr(rig_out(), "/fd/3\nleads\n") != NULL, "%s", rig_out());
}
END_TEST

START_TEST(descriptors_below_three_may_be_closed)
{
    int kept[3];
    for (int i = 0; i < 3; i++) {
        kept[i] = fcntl(i, F_DUPFD_CLOEXEC, 50);
        close(i);
    }
    rig_spec.has_input = true;
    rig_spec.input = rig_word("in {0}");
    rig_shell("cat; echo o; echo e >&2");
    rig_open();
    int status = rig_run("x", NULL);
    for (int i = 0; i < 3; i++) {
        dup2(kept[i], i);
        close(kept[i]);
    }
    ck_assert_int_eq(status, TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "in xo\n");
    ck_assert_mem_eq(rig_result.err.bytes, "e\n", 2);
}
END_TEST

START_TEST(stdin_is_a_word)
{
    size_t size = 300000;
    char *big = calloc(1, size);
    memset(big + 1, 'x', size - 2);
    rig_spec.has_input = true;
    rig_spec.input = rig_word("{0}");
    rig_argv("wc", "-c", NULL);
    rig_open();
    ck_assert_int_eq(rig_run_field(big, size), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "300000\n");
    ck_assert_int_eq(rig_run_field("", 0), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "0\n");
    free(big);
}
END_TEST

static void check_not_started(const char *field, const char *why)
{
    ck_assert_int_eq(rig_run(field, NULL), TRK_STATUS_EXCEPTION);
    ck_assert_msg(rig_result.outcome == TRK_EXEC_NOT_STARTED, "%s", rig_why());
    ck_assert_msg(strstr(rig_why(), why) != NULL, "expected %s, got %s", why, rig_why());
    ck_assert_int_eq(rig_result.exit_status, -1);
}

START_TEST(what_cannot_start_says_why)
{
    rig_write("plain", "echo\n");
    rig_write("orphan", "#!/no/such/interpreter\n");
    rig_write("text", "echo\n");
    chmod("orphan", 0755);
    chmod("text", 0755);
    rig_argv("{0}", NULL);
    rig_open();
    check_not_started("no-such-program", "cannot start no-such-program: there is no such program");
    check_not_started("./nothing", "there is no such program");
    check_not_started("", "there is no such program");
    check_not_started("./orphan", "the interpreter that its first line names is missing");
    check_not_started("./text", "a script begins with #!");
    check_not_started("./plain", "no execute permission");
    check_not_started("/", "no execute permission");
    rig_argv("true", "{0}{1}", NULL);
    rai_exec.stage_close(NULL, 7);
    rig_open();
    check_not_started("x", "needs field 1 of its element, counted from 0, and this element has 1");
}
END_TEST

START_TEST(what_cannot_be_an_argument_says_why)
{
    size_t size = 4u << 20;
    char *big = malloc(size);
    memset(big, 'x', size);
    rig_argv("true", "{0}", NULL);
    rig_open();
    ck_assert_int_eq(rig_run_field(big, size), TRK_STATUS_EXCEPTION);
    free(big);
    ck_assert_msg(strstr(rig_why(), "environment are too long") != NULL, "%s", rig_why());
    ck_assert_int_eq(rig_run_field("a\0b", 3), TRK_STATUS_EXCEPTION);
    ck_assert_msg(strstr(rig_why(), "field 0 of the element, counted from 0, has a NUL byte"),
                  "%s", rig_why());
}
END_TEST

START_TEST(cwd_may_come_from_the_element)
{
    mkdir("d\xff", 0755);
    rig_write("d\xff/prog", "#!/bin/sh\npwd -P\n");
    chmod("d\xff/prog", 0755);
    rig_spec.cwd = rig_word("{0}");
    rig_argv("./prog", NULL);
    rig_open();
    ck_assert_int_eq(rig_run("d\xff", NULL), TRK_STATUS_OK);
    ck_assert_msg(strstr(rig_out(), "/d\xff\n") != NULL, "%s", rig_out());
    check_not_started("nowhere", "cannot start the command in the directory \"nowhere\": No such");
    check_not_started("d\xff/prog", "Not a directory");
}
END_TEST

START_TEST(program_is_found_in_the_path_it_gets)
{
    static const struct trk_exec_bytes set[] = {{"PATH=a:b:/bin:/usr/bin", 22}};
    mkdir("a", 0755);
    mkdir("b", 0755);
    rig_write("a/prog", "#!/bin/sh\necho a\n"); /* not executable: passed over */
    rig_write("b/prog", "#!/bin/sh\necho b\n");
    chmod("b/prog", 0755);
    rig_spec.env = set;
    rig_spec.env_count = 1;
    rig_argv("prog", NULL);
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "b\n");
    chmod("a/prog", 0755);
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_str_eq(rig_out(), "a\n");
}
END_TEST

START_TEST(a_flood_is_counted_and_its_ends_are_kept)
{
    rig_spec.stdout_keep = 20;
    rig_spec.stderr_keep = TRK_EXEC_KEEP_NONE;
    rig_shell("seq 1 300000; seq 1 10 >&2");
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_OK);
    ck_assert_uint_eq(rig_result.out.total, 1988895);
    ck_assert_uint_eq(rig_result.out.head, 10);
    ck_assert_str_eq(rig_out(), "1\n2\n3\n4\n5\n99\n300000\n");
    ck_assert_uint_eq(rig_result.err.total, 21);
    ck_assert_uint_eq(rig_result.err.size, 0);
}
END_TEST

/* All sizes of what is kept, written in pieces of all sizes, against what is simply right. */
START_TEST(first_and_last_bytes_are_kept)
{
    uint8_t all[64];
    struct trk_rai_reply reply;
    rai_reply_init(&reply);
    for (size_t i = 0; i < sizeof(all); i++) {
        all[i] = (uint8_t)i;
    }
    for (size_t keep = 0; keep < 20; keep++) {
        for (size_t step = 1; step < 23; step++) {
            struct exec_keep k = {.keep = keep};
            for (size_t n = 0; n < sizeof(all); n += step) {
                struct trk_exec_kept kept;
                exec_keep_get(&k, &kept);
                size_t size = n <= keep ? n : keep, head = n <= keep ? n : keep / 2;
                ck_assert_uint_eq(kept.total, n);
                ck_assert_uint_eq(kept.size, size);
                ck_assert_uint_eq(kept.head, head);
                ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
                ck_assert_int_eq(exec_keep_write(&k, &reply), 0);
                ck_assert_uint_eq(rai_reply_size(&reply), size);
                ck_assert_mem_eq(rai_reply_bytes(&reply), all, head);
                ck_assert_mem_eq(rai_reply_bytes(&reply) + head, all + n - (size - head),
                                 size - head);
                ck_assert(exec_keep_add(&k, all + n, n + step < 64 ? step : 64 - n));
            }
            exec_keep_fini(&k);
        }
    }
    rai_reply_fini(&reply);
}
END_TEST

START_TEST(no_memory_is_an_error_and_leaves_nothing)
{
    int status = TRK_STATUS_ERROR;
    rig_spec.has_input = true;
    rig_spec.input = rig_word("{0}");
    size_t count;
    rig_spec.outputs = rig_words(&count, "out{#}", NULL);
    rig_spec.outputs_count = count;
    rig_shell("cat > {q/o0}; cat {q/o0} > {qo0}; seq 1 2000");
    rig_open();
    for (uint64_t n = 1; status == TRK_STATUS_ERROR || n < 3; n++) {
        struct trk_exec_bytes field = {"x", 1};
        struct trk_rai_element element = {.stage = 7, .attempt = 1};
        struct trk_rai_reply reply;
        void *bytes;
        ck_assert_int_eq(trk_exec_element_encode(&field, 1, &bytes, &element.size), 0);
        element.payload = bytes;
        rai_reply_init(&reply);
        ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
        mem_fail_after(n);
        status = rai_reply_end(&reply, rai_exec.run(NULL, &element, &reply));
        mem_fail_after(0);
        rai_reply_fini(&reply);
        mem_free(bytes);
        ck_assert_uint_lt(n, 200);
    }
    ck_assert_str_eq(rig_read("out1"), "x");
    char names[256];
    rig_list(names, sizeof(names));
    ck_assert_str_eq(names, "out1 ");
}
END_TEST

START_TEST(a_status_that_others_take_is_told)
{
    signal(SIGCHLD, SIG_IGN);
    rig_argv("echo", "x", NULL);
    rig_open();
    ck_assert_int_eq(rig_run(NULL), TRK_STATUS_EXCEPTION);
    signal(SIGCHLD, SIG_DFL);
    ck_assert_int_eq(rig_result.outcome, TRK_EXEC_UNKNOWN);
    ck_assert_str_eq(rig_out(), "x\n");
    ck_assert_msg(strstr(rig_why(), "SIGCHLD") != NULL, "%s", rig_why());
}
END_TEST

START_TEST(a_bad_spec_is_answered_with_a_sentence)
{
    struct trk_rai_reply reply;
    rai_reply_init(&reply);
    ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
    ck_assert_int_eq(rai_exec.stage_open(NULL, 7, "x", 1, &reply), TRK_STATUS_ERROR);
    ck_assert_mem_eq(rai_reply_bytes(&reply), "these bytes are no command", 26);
    rai_reply_fini(&reply);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exec");
    TCase *tc = tcase_create("command");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_add_test(tc, command_gets_its_fields);
    tcase_add_test(tc, every_byte_survives_the_shell);
    tcase_add_test(tc, its_end_is_told);
    tcase_add_test(tc, environment_is_the_vms_and_the_specs);
    tcase_add_test(tc, nothing_else_of_the_vm_gets_in);
    tcase_add_test(tc, descriptors_below_three_may_be_closed);
    tcase_add_test(tc, stdin_is_a_word);
    tcase_add_test(tc, what_cannot_start_says_why);
    tcase_add_test(tc, what_cannot_be_an_argument_says_why);
    tcase_add_test(tc, cwd_may_come_from_the_element);
    tcase_add_test(tc, program_is_found_in_the_path_it_gets);
    tcase_add_test(tc, a_flood_is_counted_and_its_ends_are_kept);
    tcase_add_test(tc, first_and_last_bytes_are_kept);
    tcase_add_test(tc, no_memory_is_an_error_and_leaves_nothing);
    tcase_add_test(tc, a_status_that_others_take_is_told);
    tcase_add_test(tc, a_bad_spec_is_answered_with_a_sentence);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
