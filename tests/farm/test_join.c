/* SPDX-License-Identifier: MIT */
/* Supervisors that dial in: a farm that listens on loopback, and real VMs that share nothing with
 * it but a key, and listen nowhere but in a runtime directory of their own. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "auth/keyfile.h"
#include "tests/farm/rig.h"
#include "tests/suite.h"

#define FAR_MAX 2

static struct rig rig; /* here; rig.farm is not used */
static struct rig_two two;
static char where[64];
static struct far {
    pid_t pid; /* 0: does not run */
    char dir[96], log[96];
} fars[FAR_MAX];
static struct trk_farm *farm;
static struct trk_vmlist *list;

static void begin(void)
{
    rig_two_start(&two, &rig);
    for (int i = 0; i < FAR_MAX; i++) {
        snprintf(fars[i].dir, sizeof(fars[i].dir), "%s/far%d", two.home, i);
        snprintf(fars[i].log, sizeof(fars[i].log), "%s/log%d", two.home, i);
        fars[i].pid = 0;
        ck_assert_int_eq(mkdir(fars[i].dir, 0700), 0);
    }
    farm = NULL;
    list = NULL;
}

static void close_farm(void)
{
    trk_vmlist_free(list);
    list = NULL;
    trk_farm_close(farm, 2000);
    farm = NULL;
}

static int stop_far(struct far *f)
{
    int status = 0;
    if (f->pid != 0) {
        kill(f->pid, SIGTERM);
        waitpid(f->pid, &status, 0);
        f->pid = 0;
    }
    return status;
}

static void end(void)
{
    close_farm();
    for (int i = 0; i < FAR_MAX; i++) {
        stop_far(&fars[i]);
    }
    rig_two_stop(&two, &rig);
}

/* Two VMs of the far user that join the farm; extra: NULL, or one more option. */
static void start_far(struct far *f, const char *extra)
{
    f->pid = fork();
    ck_assert_int_ge(f->pid, 0);
    if (f->pid == 0) {
        int log = open(f->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(log, 2);
        setenv("XDG_CONFIG_HOME", two.far_config, 1);
        execl(getenv("TRICKLE_VM"), "trickle-vm", "--exec", getenv("ECHO_VM"), "-n", "2",
              "--runtime", f->dir, "--log", "debug", "--join", where, extra, (char *)NULL);
        _exit(127);
    }
}

/* Listens at a free port, or where it did before. */
static int open_farm(struct trk_farm_options *opt)
{
    opt->size = sizeof(*opt);
    opt->runtime_dir = rig.dir;
    opt->listen = where[0] != '\0' ? where : "127.0.0.1";
    close_farm();
    int rc = trk_farm_new(&farm, opt);
    if (rc == 0) {
        snprintf(where, sizeof(where), "%s", trk_farm_listening(farm));
    }
    return rc;
}

static void open_farm_with(const char *key_file)
{
    struct trk_farm_options opt = {.key_file = key_file};
    int rc = open_farm(&opt);
    ck_assert_msg(rc == 0, "%d %s", rc, trk_last_error());
}

static void expect_vms(uint32_t count)
{
    trk_vmlist_free(list);
    int rc = rig_connect(farm, count, true, 9000, &list);
    ck_assert_msg(rc == 0, "%d %s\nours:\n%s", rc, trk_last_error(), rig_read_log(two.our_log));
    ck_assert_uint_eq(trk_vmlist_length(list), count);
}

static void expect_answer(size_t i)
{
    char answer[32];
    struct trk_vm *vm = trk_vmlist_get(list, i);
    int rc = rig_call(vm, "over there", answer, sizeof(answer));
    ck_assert_msg(rc == 0, "%d %s", rc, trk_last_error());
    ck_assert_str_eq(answer, "over there");
    trk_vm_unref(vm);
}

static void expect_notice(const char *wanted)
{
    struct trk_notice notice;
    bool is_found = false;
    while (!is_found) {
        ck_assert_msg(trk_farm_notice(farm, 10000, &notice) == 0, "nobody said: %s", wanted);
        is_found = strstr(notice.text, wanted) != NULL;
        trk_notice_free(&notice);
    }
}

START_TEST(vms_dial_in_and_work)
{
    struct trk_vm_info info;
    char wanted[128];
    open_farm_with(two.key);
    ck_assert_int_eq(strncmp(where, "127.0.0.1:", 10), 0);
    ck_assert_int_gt(atoi(where + 10), 0);
    snprintf(wanted, sizeof(wanted), "trickle vm --join %s", where);
    expect_notice(wanted);
    start_far(&fars[0], NULL);
    expect_vms(2);
    expect_answer(0);
    expect_answer(1);
    struct trk_vm *vm = trk_vmlist_get(list, 0);
    trk_vm_get_info(vm, &info);
    trk_vm_unref(vm);
    ck_assert_str_eq(info.address, "tcp:127.0.0.1"); /* where it is, which is no use to connect */
    rig_wait_log(two.our_log, "TLS handshake done");
    ck_assert_ptr_null(strstr(rig_read_log(fars[0].log), "listening on"));
    close_farm();
    int status = stop_far(&fars[0]);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}
END_TEST

START_TEST(programs_follow_each_other)
{
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    for (int i = 0; i < 3; i++) {
        expect_vms(2);
        expect_answer(1);
        open_farm_with(two.key);
    }
}
END_TEST

START_TEST(vms_that_were_there_first_come)
{
    open_farm_with(two.key);
    close_farm(); /* there was a port, now nobody listens */
    start_far(&fars[0], NULL);
    rig_wait_log(fars[0].log, "Connection refused");
    open_farm_with(two.key);
    expect_vms(2);
    expect_answer(0);
}
END_TEST

START_TEST(connect_waits_for_who_may_join)
{
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    int rc = rig_connect(farm, 0, false, 0, &list); /* no time to wait was given */
    ck_assert_msg(rc == 0, "%d %s", rc, trk_last_error());
}
END_TEST

START_TEST(two_supervisors_join)
{
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    start_far(&fars[1], NULL);
    expect_vms(4);
    for (size_t i = 0; i < 4; i++) {
        expect_answer(i);
    }
}
END_TEST

START_TEST(death_is_told_and_the_next_process_comes)
{
    char answer[32];
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    expect_vms(2);
    struct trk_vm *vm = trk_vmlist_get(list, 1);
    ck_assert_int_eq(rig_call(vm, "segv", answer, sizeof(answer)), TRK_EVMLOST);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "SIGSEGV"));
    trk_vm_unref(vm);
    expect_vms(2);
    expect_answer(0);
    expect_answer(1);
}
END_TEST

START_TEST(supervisor_that_is_killed_is_replaced_by_another)
{
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    expect_vms(2);
    kill(fars[0].pid, SIGKILL);
    waitpid(fars[0].pid, NULL, 0);
    fars[0].pid = 0;
    start_far(&fars[1], NULL);
    expect_vms(2);
    expect_answer(0);
}
END_TEST

START_TEST(wrong_key_is_refused_by_both)
{
    struct auth_keys other = {.count = 1};
    struct trk_vmlist *none;
    ck_assert_int_eq(auth_key_make(&other.key[0]), 0);
    ck_assert_int_eq(auth_keyfile_save(&other, two.key, true), 0);
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    rig_wait_log(two.our_log, "is not let in");
    rig_wait_log(two.our_log, two.keys.key[0].id); /* which key it was */
    rig_wait_log(fars[0].log, "WARN vm: cannot join");
    rig_wait_log(fars[0].log, "refuses our key");
    ck_assert_int_eq(rig_connect(farm, 0, false, 0, &none), TRK_ENOVMS);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "trickle vm --join 127.0.0.1"));
    trk_vmlist_free(none);
    ck_assert_ptr_null(strstr(rig_read_log(two.our_log), "TLS handshake done"));
    ck_assert_int_eq(auth_keyfile_save(&two.keys, two.key, true), 0); /* it is noticed */
    expect_vms(2);
}
END_TEST

START_TEST(keys_are_rotated_under_a_running_supervisor)
{
    open_farm_with(two.key);
    start_far(&fars[0], NULL);
    expect_vms(2);
    expect_answer(0);
    ck_assert_int_eq(auth_keyfile_rotate(&two.keys, two.far_key), 0);
    open_farm_with(two.far_key); /* which has both; and then only the new one */
    expect_vms(2);
    expect_answer(0);
    ck_assert_int_eq(auth_keyfile_finish(&two.keys, two.far_key), 0);
    open_farm_with(two.far_key);
    expect_vms(2);
    expect_answer(0);
    open_farm_with(two.key);
    rig_wait_log(fars[0].log, "refuses our key");
}
END_TEST

START_TEST(without_a_key_nobody_listens)
{
    struct trk_farm_options opt = {.insecure = false};
    ck_assert_int_eq(open_farm(&opt), TRK_EDENIED);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "trickle key new"));
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "trickle key import"));
}
END_TEST

START_TEST(insecure_on_both_sides_is_plain_and_warns)
{
    struct trk_farm_options opt = {.insecure = true};
    ck_assert_int_eq(open_farm(&opt), 0);
    expect_notice("warning: --insecure");
    start_far(&fars[0], "--insecure");
    expect_vms(2);
    expect_answer(0);
    rig_wait_log(fars[0].log, "warning: --insecure: whoever is at 127.0.0.1");
    ck_assert_ptr_null(strstr(rig_read_log(two.our_log), "TLS handshake done"));
    ck_assert_ptr_null(strstr(rig_read_log(fars[0].log), "listening on"));
}
END_TEST

START_TEST(insecure_supervisor_is_refused_by_a_farm_with_a_key)
{
    open_farm_with(two.key);
    start_far(&fars[0], "--insecure");
    rig_wait_log(two.our_log, "plain text came");
}
END_TEST

static const struct {
    const char *where;
    int rc;
    const char *why;
} wrong[] = {
    {"nonsense", TRK_EINVAL, "numeric address"},
    {"127.0.0.1:99999", TRK_EINVAL, "from 0 to 65535"},
    {"192.0.2.1:0", TRK_EIO, "cannot listen"},
};

START_TEST(where_nobody_can_listen_is_an_error)
{
    struct trk_farm_options opt = {.key_file = two.key};
    snprintf(where, sizeof(where), "%s", wrong[_i].where);
    ck_assert_int_eq(open_farm(&opt), wrong[_i].rc);
    ck_assert_msg(strstr(trk_last_error(), wrong[_i].why) != NULL, "%s", trk_last_error());
    where[0] = '\0';
}
END_TEST

START_TEST(port_in_use_is_an_error)
{
    struct trk_farm_options opt = {.size = sizeof(opt), .key_file = two.key, .runtime_dir = rig.dir,
                                   .listen = where};
    struct trk_farm *second;
    open_farm_with(two.key);
    ck_assert_int_eq(trk_farm_new(&second, &opt), TRK_EIO);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "in use"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("join");
    TCase *tc = tcase_create("join");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, begin, end);
    tcase_add_test(tc, vms_dial_in_and_work);
    tcase_add_test(tc, programs_follow_each_other);
    tcase_add_test(tc, vms_that_were_there_first_come);
    tcase_add_test(tc, connect_waits_for_who_may_join);
    tcase_add_test(tc, two_supervisors_join);
    tcase_add_test(tc, death_is_told_and_the_next_process_comes);
    tcase_add_test(tc, supervisor_that_is_killed_is_replaced_by_another);
    tcase_add_test(tc, wrong_key_is_refused_by_both);
    tcase_add_test(tc, keys_are_rotated_under_a_running_supervisor);
    tcase_add_test(tc, without_a_key_nobody_listens);
    tcase_add_test(tc, insecure_on_both_sides_is_plain_and_warns);
    tcase_add_test(tc, insecure_supervisor_is_refused_by_a_farm_with_a_key);
    tcase_add_loop_test(tc, where_nobody_can_listen_is_an_error, 0,
                        (int)(sizeof(wrong) / sizeof(wrong[0])));
    tcase_add_test(tc, port_in_use_is_an_error);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
