/* SPDX-License-Identifier: MIT */
/* test_sys.c - descriptors across fork, the runtime directory's rules, signals of threads. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sys.h"
#include "trickle/error.h"

static char folder[64], path[128], why[256];

static void setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/test_sys-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    unsetenv("TRICKLE_RUNTIME");
    path[0] = why[0] = '\0';
}

/* Nothing deeper than what the tests below make. */
static void teardown(void)
{
    static const char *const names[] = {"run", "link", "file"};
    char name[128];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(name, sizeof(name), "%s/%s", folder, names[i]);
        if (unlink(name) < 0) {
            rmdir(name);
        }
    }
    rmdir(folder);
}

static const char *in_folder(const char *name)
{
    static char full[128];

    snprintf(full, sizeof(full), "%s/%s", folder, name);
    return full;
}

static int runtime_dir(const char *override)
{
    return sys_runtime_dir(override, path, sizeof(path), why, sizeof(why));
}

/* --- fork --------------------------------------------------------------------------------- */

/* Runs check in a forked child; its return is the exit status. */
static int in_child(int (*check)(int fd), int fd)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        _exit(check(fd));
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static int is_forked(int fd)
{
    return sys_is_forked();
}

static int add_again(int fd)
{
    return -sys_fd_add(dup(STDERR_FILENO));
}

START_TEST(registered_descriptors_are_closed_in_a_child)
{
    int fd = open("/dev/null", O_RDONLY), other = open("/dev/null", O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(sys_fd_add(fd), 0);
    ck_assert_int_eq(in_child(is_open, fd), 0);
    ck_assert_int_eq(in_child(is_open, other), 1);
    ck_assert_int_eq(is_open(fd), 1); /* here it stays */
    sys_fd_remove(fd);
    ck_assert_int_eq(in_child(is_open, fd), 1);
    close(fd);
    close(other);
}
END_TEST

START_TEST(a_child_knows_that_it_is_one)
{
    int fd = open("/dev/null", O_RDONLY);

    ck_assert_int_eq(in_child(is_forked, -1), 0); /* nothing registered: nothing to fear */
    ck_assert_int_eq(sys_fd_add(fd), 0);
    ck_assert(!sys_is_forked());
    ck_assert_int_eq(in_child(is_forked, -1), 1);
    ck_assert_int_eq(in_child(add_again, -1), -TRK_EFORKED);
    ck_assert(!sys_is_forked());
    close(fd);
}
END_TEST

START_TEST(adding_sets_cloexec_and_checks)
{
    int fd = open("/dev/null", O_RDONLY);

    ck_assert_int_eq(sys_fd_add(fd), 0);
    ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    sys_fd_remove(fd);
    close(fd);
    ck_assert_int_eq(sys_fd_add(fd), TRK_EIO);
    ck_assert_int_eq(sys_fd_add(-1), TRK_EINVAL);
    ck_assert_int_eq(sys_fd_add(65536), TRK_EFULL);
    sys_fd_remove(-1);
    sys_fd_remove(1 << 30);
}
END_TEST

static void *add_and_remove(void *arg)
{
    int fd = *(int *)arg;

    for (int i = 0; i < 2000; i++) {
        ck_assert_int_eq(sys_fd_add(fd), 0);
        sys_fd_remove(fd);
    }
    ck_assert_int_eq(sys_fd_add(fd), 0);
    return NULL;
}

START_TEST(threads_do_not_disturb_each_other_in_the_registry)
{
    pthread_t threads[2];
    int fds[2];

    for (int i = 0; i < 2; i++) {
        fds[i] = open("/dev/null", O_RDONLY);
        ck_assert_int_eq(pthread_create(&threads[i], NULL, add_and_remove, &fds[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(in_child(is_open, fds[i]), 0);
        close(fds[i]);
    }
}
END_TEST

/* --- runtime directory -------------------------------------------------------------------- */

START_TEST(missing_directory_is_made_private)
{
    struct stat st;

    ck_assert_msg(runtime_dir(in_folder("run")) == 0, "%s", why);
    ck_assert_str_eq(path, in_folder("run"));
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);
    ck_assert_msg(runtime_dir(in_folder("run")) == 0, "%s", why); /* and found again */
}
END_TEST

START_TEST(environment_names_it_unless_overridden)
{
    setenv("TRICKLE_RUNTIME", in_folder("run"), 1);
    ck_assert_msg(runtime_dir(NULL) == 0, "%s", why);
    ck_assert_str_eq(path, in_folder("run"));
    setenv("TRICKLE_RUNTIME", "/nonexistent/x", 1);
    ck_assert_msg(runtime_dir(in_folder("run")) == 0, "%s", why);
    ck_assert_int_eq(runtime_dir(NULL), TRK_EIO);
    ck_assert_msg(strstr(why, "/nonexistent/x") != NULL, "%s", why);
    setenv("TRICKLE_RUNTIME", "", 1);
    ck_assert_int_eq(runtime_dir(NULL), 0); /* as if not set */
    ck_assert_msg(strncmp(path, "/tmp/trickle-", 13) == 0, "%s", path);
}
END_TEST

START_TEST(relative_names_become_absolute_and_trailing_slashes_go)
{
    ck_assert_int_eq(chdir(folder), 0);
    ck_assert_msg(runtime_dir("run//") == 0, "%s", why);
    ck_assert_str_eq(path, in_folder("run"));
    ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

START_TEST(links_files_and_open_directories_are_refused)
{
    char target[128];
    int fd;

    ck_assert_int_eq(runtime_dir(in_folder("run")), 0);
    snprintf(target, sizeof(target), "%s", in_folder("run"));
    ck_assert_int_eq(symlink(target, in_folder("link")), 0);
    ck_assert_int_eq(runtime_dir(in_folder("link")), TRK_EDENIED);
    ck_assert_msg(strstr(why, "symbolic link") != NULL, "%s", why);
    ck_assert_int_eq(runtime_dir(in_folder("link/")), TRK_EDENIED);

    fd = open(in_folder("file"), O_CREAT | O_WRONLY, 0600);
    close(fd);
    ck_assert_int_eq(runtime_dir(in_folder("file")), TRK_EDENIED);

    ck_assert_int_eq(chmod(target, 0750), 0);
    ck_assert_int_eq(runtime_dir(target), TRK_EDENIED);
    ck_assert_msg(strstr(why, "0750") != NULL, "%s", why);
}
END_TEST

START_TEST(somebody_elses_directory_is_refused)
{
    if (geteuid() != 0) {
        return; /* only root can give a directory away */
    }
    ck_assert_int_eq(mkdir(in_folder("run"), 0700), 0);
    ck_assert_int_eq(chown(in_folder("run"), 12345, 12345), 0);
    ck_assert_int_eq(runtime_dir(in_folder("run")), TRK_EDENIED);
    ck_assert_msg(strstr(why, "12345") != NULL, "%s", why);
}
END_TEST

START_TEST(too_long_a_name_is_refused)
{
    char name[200];

    memset(name, 'x', sizeof(name) - 1);
    name[0] = '/';
    name[sizeof(name) - 1] = '\0';
    ck_assert_int_eq(runtime_dir(name), TRK_EINVAL);
    ck_assert_msg(strstr(why, "too long") != NULL, "%s", why);
}
END_TEST

/* --- the rest ------------------------------------------------------------------------------- */

START_TEST(clock_moves_and_random_differs)
{
    uint64_t before = sys_now_ns();
    uint8_t a[16] = {0}, b[16] = {0};

    ck_assert_uint_ge(sys_now_ns(), before);
    ck_assert_uint_gt(before, 0);
    ck_assert_int_eq(sys_random(a, sizeof(a)), 0);
    ck_assert_int_eq(sys_random(b, sizeof(b)), 0);
    ck_assert_mem_ne(a, b, sizeof(a));
    ck_assert_int_eq(sys_random(NULL, 0), 0);
}
END_TEST

START_TEST(host_name_fits_what_is_given)
{
    char name[256], small[3];

    sys_host_name(name, sizeof(name));
    ck_assert_uint_gt(strlen(name), 0);
    sys_host_name(small, sizeof(small));
    ck_assert_uint_le(strlen(small), 2);
    ck_assert_int_eq(strncmp(name, small, strlen(small)), 0);
}
END_TEST

START_TEST(signals_are_blocked_and_come_back)
{
    sigset_t old, now;

    ck_assert_int_eq(sys_block_signals(&old), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    ck_assert_int_eq(sigismember(&now, SIGINT), 1);
    ck_assert_int_eq(sigismember(&now, SIGTERM), 1);
    ck_assert_int_eq(sigismember(&now, SIGCHLD), 1);
    ck_assert_int_eq(sigismember(&now, SIGPIPE), 1);
    ck_assert_int_eq(sigismember(&now, SIGSEGV), 0);
    sys_restore_signals(&old);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    ck_assert_int_eq(sigismember(&now, SIGINT), sigismember(&old, SIGINT));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sys");
    TCase *tc = tcase_create("sys");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, registered_descriptors_are_closed_in_a_child);
    tcase_add_test(tc, a_child_knows_that_it_is_one);
    tcase_add_test(tc, adding_sets_cloexec_and_checks);
    tcase_add_test(tc, threads_do_not_disturb_each_other_in_the_registry);
    tcase_add_test(tc, missing_directory_is_made_private);
    tcase_add_test(tc, environment_names_it_unless_overridden);
    tcase_add_test(tc, relative_names_become_absolute_and_trailing_slashes_go);
    tcase_add_test(tc, links_files_and_open_directories_are_refused);
    tcase_add_test(tc, somebody_elses_directory_is_refused);
    tcase_add_test(tc, too_long_a_name_is_refused);
    tcase_add_test(tc, clock_moves_and_random_differs);
    tcase_add_test(tc, host_name_fits_what_is_given);
    tcase_add_test(tc, signals_are_blocked_and_come_back);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    /* The fork handler of one test would see the children of the next. */
    srunner_set_fork_status(sr, CK_FORK);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
