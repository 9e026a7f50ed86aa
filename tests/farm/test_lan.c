/* SPDX-License-Identifier: MIT */
/* A farm and VMs that have nothing in common but a key: two runtime directories, two
 * configurations, TCP on loopback between them. */
#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "auth/keyfile.h"
#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig; /* here; rig.farm is not used */
static struct rig_two two;
static char far_dir[96], far_log[96];
static pid_t far;
static unsigned port;
static struct trk_farm *farm;

static void begin(void)
{
    rig_two_start(&two, &rig);
    snprintf(far_dir, sizeof(far_dir), "%s/far", two.home);
    snprintf(far_log, sizeof(far_log), "%s/log", two.home);
    ck_assert_int_eq(mkdir(far_dir, 0700), 0);
    far = 0;
    farm = NULL;
}

static void stop_far(void)
{
    if (far != 0) {
        kill(far, SIGTERM);
        waitpid(far, NULL, 0);
        far = 0;
    }
}

static void end(void)
{
    trk_farm_close(farm, 2000);
    stop_far();
    rig_two_stop(&two, &rig);
}

static const char *log_text(void)
{
    return rig_read_log(far_log);
}

static void wait_log(const char *wanted)
{
    rig_wait_log(far_log, wanted);
}

/* Two VMs of the far user; extra: NULL, or one more option. */
static void start_far(const char *extra)
{
    char fd_text[16], ready[8] = "";
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(fd_text, sizeof(fd_text), "%d", fds[1]);
    far = fork();
    ck_assert_int_ge(far, 0);
    if (far == 0) {
        int log = open(far_log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(log, 2);
        setenv("XDG_CONFIG_HOME", two.far_config, 1);
        execl(getenv("TRICKLE_VM"), "trickle-vm", "--exec", getenv("ECHO_VM"), "-n", "2",
              "--runtime", far_dir, "--ready-fd", fd_text, "--log", "debug", "--listen",
              "127.0.0.1", extra, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    ck_assert_msg(poll(&p, 1, 20000) == 1 && read(fds[0], ready, sizeof(ready) - 1) > 0,
                  "not ready: %s", log_text());
    close(fds[0]);
    const char *said = strstr(log_text(), "listening on 127.0.0.1:");
    ck_assert_ptr_nonnull(said);
    ck_assert_int_eq(sscanf(said, "listening on 127.0.0.1:%u", &port), 1);
}

static int open_farm(struct trk_farm_options *opt)
{
    char hosts[64];
    snprintf(hosts, sizeof(hosts), "127.0.0.1:%u", port);
    opt->size = sizeof(*opt);
    opt->runtime_dir = rig.dir;
    opt->hosts = opt->lan ? NULL : hosts;
    trk_farm_close(farm, 2000);
    farm = NULL;
    return trk_farm_new(&farm, opt);
}

static void open_farm_with(const char *key_file)
{
    struct trk_farm_options opt = {.key_file = key_file};
    int rc = open_farm(&opt);
    ck_assert_msg(rc == 0, "%d %s", rc, trk_last_error());
}

/* One VM answers; its information. */
static struct trk_vm_info expect_work(void)
{
    struct trk_vmlist *list;
    struct trk_vm_info info;
    char answer[32];
    int rc = rig_connect(farm, 2, true, 5000, &list);
    ck_assert_msg(rc == 0, "%d %s\n%s", rc, trk_last_error(), log_text());
    struct trk_vm *vm = trk_vmlist_get(list, 0);
    ck_assert_int_eq(rig_call(vm, "over there", answer, sizeof(answer)), 0);
    ck_assert_str_eq(answer, "over there");
    trk_vm_get_info(vm, &info);
    trk_vm_unref(vm);
    trk_vmlist_free(list);
    return info;
}

static void expect_no_vms(const char *wanted)
{
    struct trk_vmlist *list;
    struct trk_notice notice;
    ck_assert_int_eq(rig_connect(farm, 0, false, 0, &list), TRK_ENOVMS);
    trk_vmlist_free(list);
    ck_assert_int_eq(trk_farm_notice(farm, 10000, &notice), 0);
    ck_assert_msg(strstr(notice.text, wanted) != NULL, "said: %s, wanted: %s", notice.text, wanted);
    trk_notice_free(&notice);
}

START_TEST(work_goes_over_tls)
{
    start_far(NULL);
    open_farm_with(two.key);
    struct trk_vm_info info = expect_work();
    char wanted[TRK_VM_TEXT_MAX + 64];
    ck_assert_int_eq(strncmp(info.address, "tcp:127.0.0.1:", 14), 0);
    snprintf(wanted, sizeof(wanted), "%s: TLS handshake done", info.address);
    ck_assert_ptr_nonnull(strstr(rig_read_log(two.our_log), wanted));
    snprintf(wanted, sizeof(wanted), "tcp:127.0.0.1:%u: TLS handshake done", port);
    ck_assert_ptr_nonnull(strstr(rig_read_log(two.our_log), wanted));
}
END_TEST

/* The whole of a file in /proc has no secret in it, neither as text nor as bytes. */
static void expect_no_secret(pid_t pid, const char *name)
{
    static char text[262144];
    char path[64], secret[AUTH_TEXT_MAX];
    auth_keys_format(&two.keys, secret);
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    size_t size = fread(text, 1, sizeof(text), file);
    fclose(file);
    ck_assert_uint_gt(size, 0);
    secret[strcspn(secret, "\n")] = '\0';
    const char *hex = strrchr(secret, ' ') + 1;
    ck_assert_ptr_null(memmem(text, size, hex, strlen(hex)));
    ck_assert_ptr_null(memmem(text, size, two.keys.key[0].secret, AUTH_SECRET_BYTES));
}

START_TEST(key_is_in_no_argument_and_no_environment)
{
    start_far(NULL);
    open_farm_with(two.key);
    struct trk_vmlist *list;
    struct trk_vm_info info;
    ck_assert_int_eq(rig_connect(farm, 2, true, 5000, &list), 0);
    struct trk_vm *vm = trk_vmlist_get(list, 0);
    trk_vm_get_info(vm, &info);
    expect_no_secret((pid_t)info.pid, "environ");
    expect_no_secret((pid_t)info.pid, "cmdline");
    expect_no_secret(far, "environ");
    expect_no_secret(far, "cmdline");
    trk_vm_unref(vm);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(wrong_key_is_refused_by_both)
{
    struct trk_vm_info *infos;
    size_t count;
    start_far(NULL);
    struct auth_keys other = {.count = 1};
    ck_assert_int_eq(auth_key_make(&other.key[0]), 0);
    ck_assert_int_eq(auth_keyfile_save(&other, two.key, true), 0);
    open_farm_with(two.key);
    expect_no_vms("cannot be used");
    wait_log("is not let in");
    wait_log(other.key[0].id); /* which key it was */
    ck_assert_ptr_null(strstr(log_text(), "TLS handshake done"));
    open_farm_with(two.far_key);
    ck_assert_int_eq(trk_vms_list(farm, 5000, &infos, &count), 0);
    ck_assert_uint_eq(count, 2);
    ck_assert_uint_ge(infos[0].dropped, 1); /* it was counted */
    trk_vms_list_free(infos);
}
END_TEST

START_TEST(without_a_key_nothing_is_said)
{
    start_far(NULL);
    open_farm_with(NULL); /* the usual one, which there is not */
    expect_no_vms("trickle key import");
    ck_assert_ptr_null(strstr(log_text(), "is not let in")); /* nobody has even connected */
}
END_TEST

START_TEST(plain_client_is_refused)
{
    struct trk_farm_options opt = {.insecure = true};
    start_far(NULL);
    ck_assert_int_eq(open_farm(&opt), 0);
    expect_no_vms("warning: --insecure");
    wait_log("plain text came");
}
END_TEST

#define STRANGERS 65 /* one more than are let in at once */

/* Connections that say nothing, until one of them is closed. */
static void crowd(int fds[STRANGERS], unsigned at)
{
    const struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)at),
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct pollfd p = {.events = POLLIN};
    for (int i = 0; i < STRANGERS; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(connect(fds[i], (const struct sockaddr *)&name, sizeof(name)), 0);
    }
    p.fd = fds[STRANGERS - 1];
    ck_assert_int_eq(poll(&p, 1, 10000), 1);
}

START_TEST(strangers_keep_nobody_of_this_machine_out)
{
    struct trk_vm_info *infos;
    size_t count;
    int fds[3][STRANGERS];
    start_far(NULL);
    open_farm_with(two.key);
    ck_assert_int_eq(trk_vms_list(farm, 5000, &infos, &count), 0);
    ck_assert_uint_eq(count, 2);
    trk_farm_close(farm, 2000);
    farm = NULL;
    for (size_t i = 0; i < count; i++) {
        crowd(fds[i], (unsigned)atoi(strrchr(infos[i].address, ':') + 1));
    }
    crowd(fds[2], port);
    trk_vms_list_free(infos);
    struct trk_farm_options opt = {.size = sizeof(opt), .runtime_dir = far_dir};
    ck_assert_int_eq(trk_farm_new(&farm, &opt), 0);
    ck_assert_int_eq(strncmp(expect_work().address, "unix:", 5), 0);
    for (int i = 0; i < 3 * STRANGERS; i++) {
        close(fds[i / STRANGERS][i % STRANGERS]);
    }
}
END_TEST

START_TEST(lan_needs_a_key)
{
    struct trk_farm_options opt = {.lan = true};
    ck_assert_int_eq(open_farm(&opt), TRK_EDENIED);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "trickle key import"));
}
END_TEST

START_TEST(key_that_others_can_read_is_refused)
{
    struct trk_farm_options opt = {.key_file = two.key};
    ck_assert_int_eq(chmod(two.key, 0644), 0);
    ck_assert_int_eq(open_farm(&opt), TRK_EDENIED);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "chmod 600"));
    opt.lan = true;
    ck_assert_int_eq(open_farm(&opt), TRK_EDENIED);
}
END_TEST

START_TEST(keys_are_rotated_under_a_running_supervisor)
{
    start_far(NULL);
    open_farm_with(two.key);
    expect_work();
    ck_assert_int_eq(auth_keyfile_rotate(&two.keys, two.far_key), 0);
    open_farm_with(two.key); /* the old one still holds */
    expect_work();
    open_farm_with(two.far_key); /* and so does the new one, with VMs that had the old one */
    expect_work();
    ck_assert_int_eq(auth_keyfile_finish(&two.keys, two.far_key), 0);
    open_farm_with(two.key);
    expect_no_vms("cannot be used");
    open_farm_with(two.far_key);
    expect_work();
}
END_TEST

START_TEST(keys_are_rotated_under_a_running_farm)
{
    start_far(NULL);
    open_farm_with(two.far_key); /* one file for both: a shared home */
    expect_work();
    ck_assert_int_eq(auth_keyfile_rotate(&two.keys, two.far_key), 0);
    expect_work();
    ck_assert_int_eq(auth_keyfile_finish(&two.keys, two.far_key), 0);
    expect_work();
    /* Both at once, and the VMs know: only a farm that has looked, too, gets in. */
    ck_assert_int_eq(auth_keyfile_rotate(&two.keys, two.far_key), 0);
    ck_assert_int_eq(auth_keyfile_finish(&two.keys, two.far_key), 0);
    kill(far, SIGHUP);
    wait_log(two.keys.key[0].id);
    expect_work();
}
END_TEST

START_TEST(hangup_makes_it_look_at_the_key)
{
    start_far(NULL);
    ck_assert_int_eq(auth_keyfile_rotate(&two.keys, two.far_key), 0);
    kill(far, SIGHUP);
    wait_log("the keys have changed");
    wait_log(two.keys.key[0].id);
    open_farm_with(two.far_key);
    expect_work();
}
END_TEST

START_TEST(insecure_on_both_sides_is_plain_and_warns)
{
    struct trk_farm_options opt = {.insecure = true};
    struct trk_notice notice;
    start_far("--insecure");
    wait_log("warning: --insecure: whoever can reach 127.0.0.1");
    ck_assert_int_eq(open_farm(&opt), 0);
    expect_work();
    ck_assert_int_eq(trk_farm_notice(farm, 10000, &notice), 0);
    ck_assert_ptr_nonnull(strstr(notice.text, "warning: --insecure"));
    trk_notice_free(&notice);
    ck_assert_ptr_null(strstr(log_text(), "TLS handshake done"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lan");
    TCase *tc = tcase_create("lan");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, begin, end);
    tcase_add_test(tc, work_goes_over_tls);
    tcase_add_test(tc, key_is_in_no_argument_and_no_environment);
    tcase_add_test(tc, wrong_key_is_refused_by_both);
    tcase_add_test(tc, without_a_key_nothing_is_said);
    tcase_add_test(tc, plain_client_is_refused);
    tcase_add_test(tc, strangers_keep_nobody_of_this_machine_out);
    tcase_add_test(tc, lan_needs_a_key);
    tcase_add_test(tc, key_that_others_can_read_is_refused);
    tcase_add_test(tc, keys_are_rotated_under_a_running_supervisor);
    tcase_add_test(tc, keys_are_rotated_under_a_running_farm);
    tcase_add_test(tc, hangup_makes_it_look_at_the_key);
    tcase_add_test(tc, insecure_on_both_sides_is_plain_and_warns);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
