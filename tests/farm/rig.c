/* SPDX-License-Identifier: MIT */
#include "tests/farm/rig.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "auth/keyfile.h"

#define LOG_MAX 262144

void rig_start(struct rig *r)
{
    *r = (struct rig){.dir = "/tmp/trk-farm-XXXXXX"};
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    r->farm = rig_farm(r);
}

struct trk_farm *rig_farm(struct rig *r)
{
    struct trk_farm_options opt = {.size = sizeof(opt), .program = "test", .runtime_dir = r->dir};
    struct trk_farm *farm;
    int rc = trk_farm_new(&farm, &opt);

    ck_assert_msg(rc == 0, "trk_farm_new: %d %s", rc, trk_last_error());
    return farm;
}

pid_t rig_supervisor(struct rig *r, int n)
{
    char count[16], fd_text[16], ready[8] = "";
    struct pollfd p;
    int fds[2];
    pid_t pid;

    ck_assert_int_eq(pipe(fds), 0);
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(count, sizeof(count), "%d", n);
    snprintf(fd_text, sizeof(fd_text), "%d", fds[1]);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        execl(getenv("TRICKLE_VM"), "trickle-vm", "--exec", getenv("ECHO_VM"), "-n", count,
              "--runtime", r->dir, "--ready-fd", fd_text, "--die-with-parent", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    p = (struct pollfd){.fd = fds[0], .events = POLLIN};
    ck_assert_msg(poll(&p, 1, 20000) == 1 && read(fds[0], ready, sizeof(ready) - 1) > 0,
                  "the supervisor was not ready in 20 s");
    close(fds[0]);
    ck_assert_uint_lt(r->count, RIG_SUPERVISORS_MAX);
    r->pids[r->count++] = pid;
    return pid;
}

void rig_stop_supervisor(struct rig *r, pid_t pid, int signal)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->pids[i] == pid) {
            kill(pid, signal);
            waitpid(pid, NULL, 0);
            r->pids[i] = 0;
        }
    }
}

void rig_stop(struct rig *r)
{
    struct dirent *entry;
    DIR *dir;

    if (r->farm != NULL) {
        trk_farm_close(r->farm, 2000);
    }
    for (size_t i = 0; i < r->count; i++) {
        if (r->pids[i] != 0) {
            rig_stop_supervisor(r, r->pids[i], SIGTERM);
        }
    }
    dir = opendir(r->dir);
    ck_assert_ptr_nonnull(dir);
    while ((entry = readdir(dir)) != NULL) {
        ck_assert_msg(entry->d_name[0] == '.', "left over: %s/%s", r->dir, entry->d_name);
    }
    closedir(dir);
    rmdir(r->dir);
}

void rig_two_start(struct rig_two *two, struct rig *r)
{
    char none[96];

    *two = (struct rig_two){.home = "/tmp/trk-two-XXXXXX"};
    ck_assert_ptr_nonnull(mkdtemp(two->home));
    snprintf(two->far_config, sizeof(two->far_config), "%s/far-config", two->home);
    snprintf(two->far_key, sizeof(two->far_key), "%s/trickle/key", two->far_config);
    snprintf(two->our_log, sizeof(two->our_log), "%s/our-log", two->home);
    snprintf(two->key, sizeof(two->key), "%s/key", two->home);
    setenv("TRICKLE_LOG", "debug", 1);
    ck_assert_ptr_nonnull(freopen(two->our_log, "a", stderr));
    snprintf(none, sizeof(none), "%s/none", two->home);
    setenv("XDG_CONFIG_HOME", none, 1); /* whoever runs this: its key is none of ours */
    ck_assert_int_eq(auth_keyfile_new(&two->keys, two->far_key), 0);
    ck_assert_int_eq(auth_keyfile_save(&two->keys, two->key, false), 0);
    rig_start(r);
    trk_farm_close(r->farm, 0);
    r->farm = NULL;
}

void rig_two_stop(struct rig_two *two, struct rig *r)
{
    char command[128];

    rig_stop(r);
    snprintf(command, sizeof(command), "rm -r %s", two->home);
    ck_assert_int_eq(system(command), 0);
}

const char *rig_read_log(const char *path)
{
    static char text[LOG_MAX];
    FILE *file = fopen(path, "r");

    text[0] = '\0';
    if (file != NULL) {
        text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
        fclose(file);
    }
    return text;
}

void rig_wait_log(const char *path, const char *wanted)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    time_t until = time(NULL) + 10;

    while (strstr(rig_read_log(path), wanted) == NULL) {
        ck_assert_msg(time(NULL) < until, "not in the log: %s\n%s", wanted, rig_read_log(path));
        nanosleep(&pause, NULL); /* between two looks; the time limit is the only clock */
    }
}

static time_t soon(void)
{
    return time(NULL) + 10;
}

int rig_connect(struct trk_farm *farm, uint32_t max, bool need_all, uint32_t wait_ms,
                struct trk_vmlist **out)
{
    int rc = trk_connect_start(farm, max, need_all, wait_ms, out);
    time_t until = soon();

    if (rc == 0) {
        do {
            rc = trk_connect_wait(*out, 1000);
        } while (rc == TRK_AGAIN && time(NULL) < until);
    }
    return rc;
}

int rig_call(struct trk_vm *vm, const char *text, char *answer, size_t size)
{
    struct trk_call *call;
    struct trk_reply reply;
    time_t until = soon();
    int rc = trk_vm_request(vm, TRK_OP_CALL, 0, "echo", text, strlen(text), &call);

    if (rc < 0) {
        return rc;
    }
    do {
        rc = trk_call_wait(call, 1000, &reply);
    } while (rc == TRK_AGAIN && time(NULL) < until);
    if (rc == 0) {
        size_t n = reply.size < size - 1 ? reply.size : size - 1;
        memcpy(answer, reply.payload, n);
        answer[n] = '\0';
    }
    trk_call_free(call);
    return rc;
}
