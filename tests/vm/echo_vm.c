/* SPDX-License-Identifier: MIT */
/* echo_vm.c - a VM without Python: a module that does what the payload says. For tests of the
 * supervisor and of the farm (trickle-vm --exec). ECHO_NAME: what it calls itself.
 *
 *   "sleep MS"   sleeps, unless interrupted     "deaf MS"   the same, but does not heed interrupts
 *   "spin MS"    computes                       "big N"     answers N bytes
 *                (each prints its line first when it is for over a second)
 *   "slow MS"    the same as sleep, prints its line in any case
 *   "save TEXT"  makes a checkpoint of TEXT, answers what came of it: its number
 *   "moved TEXT" the same, but gives the element back when it is told to
 *   "load"       answers the state of its element, or "nothing"
 *   "print TEXT" writes TEXT to stdout          "flood N"   prints N bytes
 *   "segv", "abort", "exit N", "kill N"         ends that way
 *   "fork"       forks; the child returns from here, the parent answers "forked"
 *   "orphan"     leaves a sleeping child behind, in its group; answers its pid
 *   "loose"      the same, in a process group of its own
 *   "daemon"     the same, in a session of its own, its parent gone
 *   "grow MB"    takes that much memory for good
 *   "swell MB"   the same, then sleeps for a minute
 *   "close"      closes descriptors 0 to 2  "own"  answers how many others there are below 10
 *   "hang"       sleeps for a minute, and so does who is to tell where it is stuck
 *   "raise TEXT" answers TEXT as an exception   "stages"    answers how many stages are open
 *   "attempt"    answers "STAGE INDEX ATTEMPT"  all else    is the answer */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "trickle/vm.h"

#define TEXT_MAX 256

static atomic_bool is_interrupted;
static atomic_bool is_hanging;
static int stages_open;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int answer(struct trk_rai_reply *reply, int status, const void *bytes, size_t size)
{
    int rc = trk_rai_reply_write(reply, bytes, size);
    (void)rc; /* the reply remembers it */
    return status;
}

static int answer_number(struct trk_rai_reply *reply, long number)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld", number);
    return answer(reply, TRK_STATUS_OK, text, (size_t)n);
}

static int pass_time(struct trk_rai_reply *reply, const char *text, uint64_t ms)
{
    uint64_t end = now_ms() + ms;
    if (ms > 1000 || strncmp(text, "slow", 4) == 0) {
        puts(text);
        fflush(stdout);
    }
    while (now_ms() < end) {
        if (atomic_load(&is_interrupted) && text[0] != 'd') {
            return answer(reply, TRK_STATUS_EXCEPTION, "interrupted", 11);
        }
        if (strncmp(text, "spin", 4) != 0) {
            usleep(1000);
        }
    }
    return answer(reply, TRK_STATUS_OK, text, strlen(text));
}

static int answer_big(struct trk_rai_reply *reply, size_t size, bool is_printed)
{
    char chunk[4096];
    memset(chunk, 'x', sizeof(chunk));
    for (size_t left = size; left > 0;) {
        size_t n = left < sizeof(chunk) ? left : sizeof(chunk);
        if (is_printed) {
            fwrite(chunk, 1, n, stdout);
        } else if (trk_rai_reply_write(reply, chunk, n) < 0) {
            break;
        }
        left -= n;
    }
    fflush(stdout);
    return TRK_STATUS_OK;
}

static int leave_child(struct trk_rai_reply *reply, bool is_loose)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (is_loose) {
            setpgid(0, 0);
        }
        for (;;) {
            pause();
        }
    }
    return answer_number(reply, pid);
}

/* Answers the pid of a grandchild that has left all of us behind. */
static int leave_daemon(struct trk_rai_reply *reply)
{
    int fds[2];
    pid_t pid = 0;
    if (pipe(fds) < 0) {
        return TRK_STATUS_ERROR;
    }
    pid_t child = fork();
    if (child == 0) {
        setsid();
        pid = fork();
        if (pid == 0) {
            for (;;) {
                pause();
            }
        }
        (void)!write(fds[1], &pid, sizeof(pid));
        _exit(0);
    }
    (void)!read(fds[0], &pid, sizeof(pid));
    waitpid(child, NULL, 0);
    close(fds[0]);
    close(fds[1]);
    return answer_number(reply, pid);
}

static int save(struct trk_rai_reply *reply, const char *state, bool is_moving)
{
    int rc = trk_vm_checkpoint(state, strlen(state));
    while (rc == TRK_AGAIN) {
        rc = trk_vm_checkpoint_wait();
    }
    return rc == TRK_EMOVED && is_moving ? TRK_RAI_MOVED : answer_number(reply, rc);
}

static int load(struct trk_rai_reply *reply)
{
    const void *bytes = "nothing";
    size_t size = 7;
    int rc = trk_vm_restore(&bytes, &size);
    return answer(reply, rc < 0 ? TRK_STATUS_ERROR : TRK_STATUS_OK, bytes, size);
}

/* Filled in by the kernel: a sanitizer does not double it. */
static int grow(struct trk_rai_reply *reply, size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return answer(reply, at != MAP_FAILED ? TRK_STATUS_OK : TRK_STATUS_ERROR, "grown", 5);
}

static int count_own(struct trk_rai_reply *reply)
{
    int count = 0;
    for (int fd = 3; fd < 10; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return answer_number(reply, count);
}

static _Noreturn void end(const char *text, long number)
{
    fflush(stdout);
    if (text[0] == 's') {
        signal(SIGSEGV, SIG_DFL); /* not a sanitizer's */
        raise(SIGSEGV);
    } else if (text[0] == 'a') {
        abort();
    } else if (text[0] == 'k') {
        raise((int)number);
    }
    _exit((int)number);
}

static int obey(const char *text, const void *payload, size_t size, struct trk_rai_reply *reply)
{
    char word[16] = "";
    const char *space = strchr(text, ' ');
    const char *rest = space != NULL ? space + 1 : "";
    long number = strtol(rest, NULL, 10);
    sscanf(text, "%15s", word);
    if (strcmp(word, "save") == 0 || strcmp(word, "moved") == 0) {
        return save(reply, rest, word[0] == 'm');
    }
    if (strcmp(word, "load") == 0) {
        return load(reply);
    }
    if (strcmp(word, "slow") == 0 || strcmp(word, "sleep") == 0 || strcmp(word, "deaf") == 0 ||
        strcmp(word, "spin") == 0) {
        return pass_time(reply, text, (uint64_t)number);
    }
    if (strcmp(word, "segv") == 0 || strcmp(word, "abort") == 0 || strcmp(word, "exit") == 0 ||
        strcmp(word, "kill") == 0) {
        end(text, number);
    }
    if (strcmp(word, "big") == 0 || strcmp(word, "flood") == 0) {
        return answer_big(reply, (size_t)number, word[0] == 'f');
    }
    if (strcmp(word, "print") == 0) {
        puts(rest);
        fflush(stdout);
        return TRK_STATUS_OK;
    }
    if (strcmp(word, "fork") == 0) {
        return fork() == 0 ? answer(reply, TRK_STATUS_OK, "child", 5)
                           : answer(reply, TRK_STATUS_OK, "forked", 6);
    }
    if (strcmp(word, "orphan") == 0 || strcmp(word, "loose") == 0) {
        return leave_child(reply, word[0] == 'l');
    }
    if (strcmp(word, "daemon") == 0) {
        return leave_daemon(reply);
    }
    if (strcmp(word, "grow") == 0) {
        return grow(reply, (size_t)number << 20);
    }
    if (strcmp(word, "swell") == 0) {
        grow(reply, (size_t)number << 20);
        return pass_time(reply, text, 60000);
    }
    if (strcmp(word, "hang") == 0) {
        atomic_store(&is_hanging, true);
        return pass_time(reply, text, 60000);
    }
    if (strcmp(word, "close") == 0) {
        return answer_number(reply, close(0) + close(1) + close(2));
    }
    if (strcmp(word, "own") == 0) {
        return count_own(reply);
    }
    if (strcmp(word, "raise") == 0) {
        return answer(reply, TRK_STATUS_EXCEPTION, rest, strlen(rest));
    }
    if (strcmp(word, "stages") == 0) {
        return answer_number(reply, stages_open);
    }
    return answer(reply, TRK_STATUS_OK, payload, size);
}

static int run_text(const void *payload, size_t size, struct trk_rai_reply *reply)
{
    char text[TEXT_MAX];
    size_t n = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
    memcpy(text, payload, n);
    text[n] = '\0';
    atomic_store(&is_interrupted, false);
    return obey(text, payload, size, reply);
}

static int on_request(void *state, const struct trk_rai_request *request,
                      struct trk_rai_reply *reply)
{
    return run_text(request->payload, request->size, reply);
}

static int on_stage_open(void *state, uint32_t stage, const void *function, size_t size,
                         struct trk_rai_reply *reply)
{
    if (size == 3 && memcmp(function, "bad", 3) == 0) {
        return answer(reply, TRK_STATUS_EXCEPTION, "no such function", 16);
    }
    stages_open++;
    return TRK_STATUS_OK;
}

static int on_run(void *state, const struct trk_rai_element *element,
                  struct trk_rai_reply *reply)
{
    if (element->size == 7 && memcmp(element->payload, "attempt", 7) == 0) {
        char text[64];
        int n = snprintf(text, sizeof(text), "%u %llu %u", element->stage,
                         (unsigned long long)element->index, element->attempt);
        return answer(reply, TRK_STATUS_OK, text, (size_t)n);
    }
    return run_text(element->payload, element->size, reply);
}

static void on_stage_close(void *state, uint32_t stage)
{
    stages_open--;
}

static void on_interrupt(void *state)
{
    atomic_store(&is_interrupted, true);
}

static void on_dump(void *state)
{
    static const char text[] = "stuck in echo_vm.c\n";
    (void)!write(2, text, sizeof(text) - 1);
    while (atomic_load(&is_hanging)) {
        pause();
    }
}

static struct trk_rai_module module = {.abi = TRK_RAI_ABI,
                                             .size = sizeof(module),
                                             .name = "echo",
                                             .version = "1",
                                             .request = on_request,
                                             .stage_open = on_stage_open,
                                             .run = on_run,
                                             .stage_close = on_stage_close,
                                             .interrupt = on_interrupt,
                                             .dump = on_dump};

int main(void)
{
    const char *name = getenv("ECHO_NAME");
    if (name != NULL) {
        module.name = name;
    }
    if (trk_vm_serve(&module, NULL) < 0) {
        fprintf(stderr, "echo_vm: %s\n", fail_text());
        return 1;
    }
    return 0;
}
