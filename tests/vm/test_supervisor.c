/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/sys.h"
#include "tests/suite.h"
#include "rig.h"

static struct rig rig;

static void setup(void)
{
    rig_start(&rig, 2, NULL);
}

static void teardown(void)
{
    rig_stop(&rig);
}

/* Starts one element of stage 1 on a fresh lease; incarnation 1 is the watch's own. */
static struct client *lease_and_run(uint32_t vm, uint64_t index, const char *payload)
{
    struct client *c = client_lease(&rig, vm, 1);
    client_stage(c, 1, "f");
    client_run(c, 1, index, 1, &payload);
    return c;
}

/* Collects OUTPUT until size bytes have come; returns the last 63 of them in tail. */
static void take_output(struct rig *r, size_t size, char tail[64])
{
    size_t got = 0;
    while (got < size) {
        struct wire_message msg = client_take(r->watch, WIRE_OUTPUT);
        struct wire_output output;
        ck_assert_int_eq(wire_output_decode(&output, msg.body), 0);
        size_t n = output.size < 63 ? output.size : 63;
        memcpy(tail, (const char *)output.text + output.size - n, n);
        tail[n] = '\0';
        got += output.size;
        blob_unref(msg.body);
    }
    ck_assert_uint_eq(got, size);
}

/* The guard: the one child of the supervisor that runs the supervisor's own program. */
static pid_t find_guard(pid_t supervisor)
{
    char name[64], comm[32];
    int pid, found = 0;
    snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)supervisor, (int)supervisor);
    FILE *f = fopen(name, "r");
    while (f != NULL && fscanf(f, "%d", &pid) == 1) {
        snprintf(name, sizeof(name), "/proc/%d/comm", pid);
        FILE *g = fopen(name, "r");
        if (g != NULL && fscanf(g, "%31s", comm) == 1 && strcmp(comm, "trickle-guard") == 0 &&
            !process_is_gone(&pid)) { /* the one before may not have been buried yet */
            found = pid;
        }
        if (g != NULL) {
            fclose(g);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return found;
}

static bool has_guard(const void *supervisor)
{
    return find_guard(*(const pid_t *)supervisor) != 0;
}

/* It may be on its way, and the kernel's list of children may miss one now and then. */
static pid_t wait_guard(pid_t supervisor)
{
    pid_t guard;
    do {
        wait_until(has_guard, &supervisor);
        guard = find_guard(supervisor);
    } while (guard == 0);
    return guard;
}

/* --- deaths ---------------------------------------------------------------------------- */

START_TEST(killed_vm_is_reported_with_its_element_and_starts_again)
{
    struct client *c = lease_and_run(0, 17, "sleep 60000");
    pid_t pid = (pid_t)c->welcome.vm.pid;
    char tail[64];
    take_output(&rig, strlen("sleep 60000\n"), tail);
    kill(pid, SIGKILL);
    struct wire_death death = client_take_death(&rig);
    ck_assert_int_eq(death.signal, SIGKILL);
    ck_assert(!death.is_expected);
    ck_assert_uint_eq(death.end, WIRE_END_UNKNOWN);
    ck_assert(death.has_element);
    ck_assert_uint_eq(death.stage, 1);
    ck_assert_uint_eq(death.index_of_element, 17);
    ck_assert_uint_eq(death.attempt, 1);
    ck_assert_uint_eq(death.pid, (uint32_t)pid);
    ck_assert_uint_gt(death.rss_max_bytes, 0);
    ck_assert_uint_gt(death.ran_ns, 0);
    ck_assert_mem_eq(death.vm, c->welcome.vm.incarnation, 16);
    ck_assert_uint_eq(death.output_size, strlen("sleep 60000\n"));
    struct trk_vm_info now = rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    ck_assert_str_eq(now.note, "killed by SIGKILL while running element 17 of stage 1: "
                               "sleep 60000");
    client_wait_closed(c);
    client_free(c);
}
END_TEST

/* How user code can end its process, and what is to be said about it. */
static const struct {
    const char *payload;
    int signal, exit_status;
} end_table[] = {{"segv", SIGSEGV, 0}, {"abort", SIGABRT, 0}, {"exit 3", 0, 3},
                 {"exit 0", 0, 0},     {"kill 15", SIGTERM, 0}, {"exit 70", 0, 70}};

START_TEST(death_names_cause_and_the_one_element)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"a", "b", end_table[_i].payload, "c"};
    client_stage(c, 1, "f");
    client_run(c, 1, 100, 4, payloads);
    struct wire_death death = client_take_death(&rig);
    ck_assert_int_eq(death.signal, end_table[_i].signal);
    ck_assert_int_eq(death.exit_status, end_table[_i].exit_status);
    ck_assert_uint_eq(death.end, WIRE_END_UNKNOWN);
    ck_assert(!death.is_expected);
    ck_assert(death.has_element);
    ck_assert_uint_eq(death.index_of_element, 102);
    client_wait_closed(c);
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
}
END_TEST

START_TEST(end_of_a_lease_is_expected)
{
    char text[16];
    struct client *c = client_lease(&rig, 1, 1);
    client_call(c, "x", text, sizeof(text));
    client_bye(c);
    struct wire_death death = client_take_death(&rig);
    ck_assert(death.is_expected);
    ck_assert_uint_eq(death.end, WIRE_END_LEASE);
    ck_assert(!death.has_element);
    ck_assert_int_eq(death.signal, 0);
    ck_assert_int_eq(death.exit_status, 0);
    ck_assert_uint_eq(death.index, 1);
    struct trk_vm_info now = rig_wait_vm(&rig, 1, TRK_VM_IDLE, death.vm);
    ck_assert_str_eq(now.note, "");
}
END_TEST

START_TEST(idle_vm_that_is_killed_starts_again)
{
    struct trk_vm_info before = rig_vm(&rig, 0);
    kill((pid_t)before.pid, SIGKILL);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, before.incarnation);
    ck_assert(!client_has(rig.watch, WIRE_DEATH)); /* it was nobody's */
}
END_TEST

/* An element that kills every VM it meets must not make the VM look broken. */
START_TEST(vm_that_dies_in_its_elements_starts_again_at_once)
{
    uint64_t start = sys_now_ns();
    for (int i = 0; i < 10; i++) {
        struct client *c = lease_and_run(0, 0, "segv");
        struct wire_death death = client_take_death(&rig);
        client_wait_closed(c);
        client_free(c);
        rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    }
    ck_assert_uint_lt(sys_now_ns() - start, 5000000000u);
}
END_TEST

/* --- output ---------------------------------------------------------------------------- */

START_TEST(output_comes_to_the_holder_before_the_death)
{
    char tail[64];
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"print hello", "flood 300000", "exit 1"};
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 3, payloads);
    struct wire_death death = client_take_death(&rig);
    take_output(&rig, 6 + 300000, tail);
    ck_assert_uint_eq(death.output_size, 4096);
    ck_assert_int_eq(tail[0], 'x');
    client_free(c);
}
END_TEST

START_TEST(output_of_others_is_not_shown)
{
    char text[16];
    struct client *c = client_lease(&rig, 0, 2); /* not the watch's incarnation */
    client_call(c, "print secret", text, sizeof(text));
    client_bye(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, c->welcome.vm.incarnation);
    ck_assert(!client_has(rig.watch, WIRE_OUTPUT));
    ck_assert(!client_has(rig.watch, WIRE_DEATH));
}
END_TEST

static int connect_plain(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(un.sun_path, sizeof(un.sun_path), "%.100s", rig.address + strlen("unix:"));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return fd;
}

static void say_hello(int fd, uint8_t id)
{
    struct wire_hello hello = {.purpose = WIRE_PURPOSE_WATCH};
    uint8_t head[WIRE_HEADER_BYTES];
    memset(hello.incarnation, id, 16);
    struct blob *body = wire_hello_encode(&hello);
    struct wire_header h = {.type = WIRE_HELLO, .length = (uint32_t)body->size};
    wire_header_put(head, &h);
    (void)!write(fd, head, sizeof(head)); /* whether it was heard shows in the answer */
    (void)!write(fd, body->data, body->size);
    blob_unref(body);
}

/* A watcher that does not read: a plain socket that has said hello. */
static int watch_without_reading(uint8_t id)
{
    char byte;
    int fd = connect_plain();
    say_hello(fd, id);
    ck_assert_int_eq(read(fd, &byte, 1), 1); /* it is welcome */
    return fd;
}

/* Takes what is there to read; true when text has come. */
static bool read_up_to(int fd, const char *text)
{
    static char bytes[32 << 20];
    static size_t size;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 10) > 0) {
        ssize_t n = read(fd, bytes + size, sizeof(bytes) - size);
        ck_assert_int_gt(n, 0);
        size += (size_t)n;
    }
    ck_assert_uint_lt(size, 8000000); /* not all of it */
    return memmem(bytes, size, text, strlen(text)) != NULL;
}

START_TEST(output_that_nobody_reads_is_dropped_and_said)
{
    char text[16];
    int fd = watch_without_reading(7);
    struct client *c = client_lease(&rig, 0, 7);
    for (int i = 0; i < 12; i++) { /* 12 MB */
        ck_assert_int_eq(client_call(c, "flood 1000000", text, sizeof(text)), TRK_STATUS_OK);
    }
    do { /* it was not held up; and the next thing it prints says what is missing */
        ck_assert_int_eq(client_call(c, "print again", text, sizeof(text)), TRK_STATUS_OK);
    } while (!read_up_to(fd, "bytes of output dropped"));
    close(fd);
    client_bye(c);
}
END_TEST

/* --- what user code leaves behind ------------------------------------------------------- */

START_TEST(children_end_with_their_vm)
{
    static const char *const calls[] = {"orphan", "loose"};
    char text[16];
    struct client *c = client_lease(&rig, 0, 1);
    ck_assert_int_eq(client_call(c, calls[_i], text, sizeof(text)), TRK_STATUS_OK);
    pid_t child = atoi(text);
    ck_assert_int_gt(child, 1);
    ck_assert(!process_is_gone(&child));
    client_bye(c);
    struct wire_death death = client_take_death(&rig);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm); /* the child held the old pipe */
    wait_until(process_is_gone, &child);
}
END_TEST

/* --- the end --------------------------------------------------------------------------- */

START_TEST(idle_vms_end_quickly)
{
    uint64_t start = sys_now_ns();
    kill(rig.pid, SIGTERM);
    int status = rig_wait_exit(&rig);
    ck_assert_int_eq(status, 0);
    ck_assert_uint_lt(sys_now_ns() - start, 1000000000u);
    rig_finish(&rig);
}
END_TEST

START_TEST(sigterm_lets_the_running_element_finish)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"sleep 1100", "sleep 60000"};
    struct wire_result r;
    char tail[64];
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 2, payloads);
    take_output(&rig, strlen("sleep 1100\n"), tail); /* it runs */
    kill(rig.pid, SIGTERM);
    rig_wait_vm(&rig, 0, TRK_VM_STOPPING, NULL);
    struct wire_message msg = client_take(c, WIRE_RESULT);
    ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
    ck_assert_uint_eq(r.count, 1);
    ck_assert_mem_eq(r.payloads, "sleep 1100", 10);
    blob_unref(msg.body);
    client_wait_closed(c);
    client_free(c);
    ck_assert_int_eq(rig_wait_exit(&rig), 0);
    struct wire_death death = client_take_death(&rig);
    ck_assert(death.is_expected);
    ck_assert_uint_eq(death.end, WIRE_END_DRAINED);
    rig_finish(&rig);
}
END_TEST

static bool process_is_stopped(const void *pid)
{
    char name[64], state = '?';
    snprintf(name, sizeof(name), "/proc/%d/stat", (int)*(const pid_t *)pid);
    FILE *f = fopen(name, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fscanf(f, "%*d (%*[^)]) %c", &state), 1);
    fclose(f);
    return state == 'T';
}

static void stop_vm(uint32_t vm)
{
    pid_t pid = (pid_t)rig_vm(&rig, vm).pid;
    ck_assert_int_eq(kill(pid, SIGSTOP), 0);
    wait_until(process_is_stopped, &pid);
}

/* One that runs, and one that has nothing to do. */
START_TEST(sigterm_lets_a_vm_that_is_stopped_finish)
{
    struct client *c = lease_and_run(0, 0, "slow 300");
    char tail[64];
    take_output(&rig, strlen("slow 300\n"), tail);
    stop_vm(0);
    stop_vm(1);
    kill(rig.pid, SIGTERM);
    blob_unref(client_take(c, WIRE_RESULT).body);
    client_wait_closed(c);
    client_free(c);
    ck_assert_int_eq(rig_wait_exit(&rig), 0);
    rig_finish(&rig);
}
END_TEST

/* A VM that runs (_i 0) or is stopped. */
START_TEST(second_sigterm_kills)
{
    struct client *c = lease_and_run(0, 0, "deaf 60000");
    char tail[64];
    take_output(&rig, strlen("deaf 60000\n"), tail);
    kill(rig.pid, SIGTERM);
    rig_wait_vm(&rig, 0, TRK_VM_STOPPING, NULL);
    if (_i == 1) {
        stop_vm(0);
    }
    kill(rig.pid, SIGTERM);
    ck_assert_int_eq(rig_wait_exit(&rig), 0);
    client_wait_closed(c);
    client_free(c);
    rig_finish(&rig);
}
END_TEST

/* It came before, and says hello while others are told that this is the end. */
START_TEST(late_hello_does_not_keep_a_supervisor)
{
    char bytes[4096];
    int late = connect_plain(), watch = watch_without_reading(7);
    kill(rig.pid, SIGTERM);
    while (read(watch, bytes, sizeof(bytes)) > 0) {
    }
    signal(SIGPIPE, SIG_IGN);
    say_hello(late, 8);
    (void)!read(late, bytes, 1); /* it is answered, or not */
    close(watch);
    ck_assert_int_eq(rig_wait_exit(&rig), 0);
    close(late);
    rig_finish(&rig);
}
END_TEST

/* other: a client of the second VM, or NULL. */
static void kill_and_expect_nothing(struct client *other)
{
    struct client *c = lease_and_run(0, 0, "deaf 60000");
    pid_t vms[2] = {(pid_t)rig_vm(&rig, 0).pid, (pid_t)rig_vm(&rig, 1).pid};
    pid_t guard = wait_guard(rig.pid);
    kill(rig.pid, SIGKILL);
    rig_wait_exit(&rig);
    wait_until(process_is_gone, &vms[0]);
    wait_until(process_is_gone, &vms[1]);
    wait_until(process_is_gone, &guard);
    client_free(c);
    if (other != NULL) {
        client_free(other);
    }
    rig_finish(&rig); /* waits until the sockets are gone */
}

START_TEST(killed_supervisor_leaves_nothing)
{
    kill_and_expect_nothing(NULL);
}
END_TEST

START_TEST(killed_supervisor_leaves_no_children_of_user_code)
{
    char text[16];
    struct client *c = client_lease(&rig, 1, 2);
    ck_assert_int_eq(client_call(c, "orphan", text, sizeof(text)), TRK_STATUS_OK);
    pid_t orphan = atoi(text);
    ck_assert_int_eq(client_call(c, "loose", text, sizeof(text)), TRK_STATUS_OK);
    pid_t loose = atoi(text);
    ck_assert_int_eq(client_call(c, "daemon", text, sizeof(text)), TRK_STATUS_OK);
    pid_t daemon = atoi(text);
    kill_and_expect_nothing(c);
    wait_until(process_is_gone, &orphan);
    wait_until(process_is_gone, &loose);
    wait_until(process_is_gone, &daemon);
}
END_TEST

START_TEST(guard_is_started_again)
{
    pid_t guard = wait_guard(rig.pid);
    kill(guard, SIGINT); /* ignored */
    kill(guard, SIGKILL);
    wait_until(process_is_gone, &guard);
    kill_and_expect_nothing(NULL);
}
END_TEST

/* --- starts ---------------------------------------------------------------------------- */

START_TEST(start_says_what_there_is)
{
    char host[64], expected[256];
    rig_start(&rig, 3, NULL);
    sys_host_name(host, sizeof(host));
    snprintf(expected, sizeof(expected), "trickle-vm: 3 VMs on %s (echo 1), pid %d\n", host,
             (int)rig.pid);
    ck_assert_str_eq(rig.said, expected);
    ck_assert_uint_eq(rig.watch->infos_count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct trk_vm_info now = rig_vm(&rig, i), *info = &now;
        ck_assert_uint_eq(info->state, TRK_VM_IDLE);
        ck_assert_uint_eq(info->index, i);
        ck_assert_str_eq(info->host, host);
        ck_assert_int_eq(strncmp(info->address, "unix:/", 6), 0);
        ck_assert_mem_eq(info->supervisor, rig.watch->welcome.supervisor, 16);
    }
    rig_stop(&rig);
}
END_TEST

START_TEST(vms_of_one_run_start_silently)
{
    rig_start(&rig, 1, "--die-with-parent", NULL);
    ck_assert_str_eq(rig.said, "");
    rig_stop(&rig);
}
END_TEST

/* A process that starts trickle-vm --die-with-parent and waits. */
static _Noreturn void be_parent(int pid_fd, int ready_fd, const char *dir)
{
    char path[4200], echo[4200], ready[16];
    snprintf(ready, sizeof(ready), "%d", ready_fd);
    pid_t pid = fork();
    if (pid == 0) {
        execl(rig_program("../../trickle-vm", path, sizeof(path)), "trickle-vm", "-n", "1",
              "--exec", rig_program("echo_vm", echo, sizeof(echo)), "--runtime", dir,
              "--ready-fd", ready, "--die-with-parent", NULL);
        _exit(127);
    }
    (void)!write(pid_fd, &pid, sizeof(pid));
    for (;;) {
        pause();
    }
}

START_TEST(supervisor_of_one_run_dies_with_its_parent)
{
    char dir[] = "/tmp/trickle-test-XXXXXX", byte;
    int pids[2], ready[2];
    pid_t supervisor;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(pipe(pids), 0);
    ck_assert_int_eq(pipe(ready), 0);
    pid_t parent = fork();
    if (parent == 0) {
        be_parent(pids[1], ready[1], dir);
    }
    close(ready[1]);
    ck_assert_int_eq(read(pids[0], &supervisor, sizeof(supervisor)), sizeof(supervisor));
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    wait_until(process_is_gone, &supervisor);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

/* As a script does that ends with: exec trickle-vm. Its other child gives back what it is sent. */
static _Noreturn void become_supervisor(int other_fd, int ready_fd, const char *dir)
{
    char path[4200], echo[4200], ready[16], byte;
    snprintf(ready, sizeof(ready), "%d", ready_fd);
    if (fork() == 0) {
        while (read(other_fd, &byte, 1) == 1 && write(other_fd, &byte, 1) == 1) {
        }
        _exit(0);
    }
    close(other_fd);
    execl(rig_program("../../trickle-vm", path, sizeof(path)), "trickle-vm", "-n", "1", "--exec",
          rig_program("echo_vm", echo, sizeof(echo)), "--runtime", dir, "--ready-fd", ready, NULL);
    _exit(127);
}

START_TEST(children_from_before_the_start_are_left_alone)
{
    char dir[] = "/tmp/trickle-test-XXXXXX", byte = 'x';
    int other[2], ready[2], status;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
    ck_assert_int_eq(pipe(ready), 0);
    pid_t supervisor = fork();
    if (supervisor == 0) {
        close(other[0]);
        become_supervisor(other[1], ready[1], dir);
    }
    close(other[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    kill(supervisor, SIGTERM);
    ck_assert_int_eq(waitpid(supervisor, &status, 0), supervisor);
    ck_assert_int_eq(status, 0);
    ck_assert_msg(send(other[0], &byte, 1, MSG_NOSIGNAL) == 1 && read(other[0], &byte, 1) == 1,
                  "the supervisor has killed a child that was there before it");
    close(other[0]);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

START_TEST(lan_starts_when_it_is_asked_for_in_full)
{
    /* A group of our own: other supervisors and tests stay out of this. */
    setenv("TRICKLE_MULTICAST", "239.192.84.108:18407", 1);
    rig_start(&rig, 1, "--lan", "--listen", "0.0.0.0", "--insecure", NULL);
    ck_assert_ptr_nonnull(strstr(rig.said, "warning: --insecure: whoever can reach 0.0.0.0"));
    rig_stop(&rig);
}
END_TEST

START_TEST(vm_that_cannot_start_is_failing)
{
    rig_start(&rig, 1, "--exec", "/bin/false", NULL);
    struct trk_vm_info info = rig_wait_vm(&rig, 0, TRK_VM_FAILING, NULL);
    ck_assert_str_eq(info.note, "exited with status 1");
    ck_assert_ptr_nonnull(strstr(rig.said, "1 of them cannot start"));
    rig_stop(&rig);
    rig_start(&rig, 1, "--exec", "/no/such/program", NULL);
    info = rig_wait_vm(&rig, 0, TRK_VM_FAILING, NULL);
    ck_assert_str_eq(info.note, "exited with status 127: cannot run /no/such/program: "
                                "No such file or directory");
    rig_stop(&rig);
}
END_TEST

START_TEST(tcp_serves_supervisor_and_vms)
{
    char address[128], text[16];
    unsigned port, vm_port;
    rig_start(&rig, 1, "--listen", "127.0.0.1", "--insecure", NULL);
    const char *said = strstr(rig.said, "listening on 127.0.0.1:");
    ck_assert_ptr_nonnull(said);
    ck_assert_int_eq(sscanf(said, "listening on 127.0.0.1:%u", &port), 1);
    snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", port);
    struct client *w = client_open(&rig, address, WIRE_PURPOSE_WATCH, 3);
    client_wait_vms(w);
    ck_assert_int_eq(sscanf(w->infos[0].address, "tcp::%u", &vm_port), 1);
    snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", vm_port);
    struct client *c = client_open(&rig, address, WIRE_PURPOSE_LEASE, 3);
    ck_assert(c->welcome.is_accepted);
    ck_assert_int_eq(client_call(c, "over tcp", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "over tcp");
    client_bye(c);
    client_free(w);
    rig_stop(&rig);
}
END_TEST

/* A dead supervisor's sockets: bound, and the process gone. */
START_TEST(stale_sockets_are_removed_at_the_start)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct stat st;
    int status;
    rig_start(&rig, 1, NULL);
    pid_t dead = fork();
    if (dead == 0) {
        _exit(0);
    }
    waitpid(dead, &status, 0);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s/v-%d-0000-0.sock", rig.dir, (int)dead);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    close(fd);
    char said[256], bound[128];
    int tcp = net_listen_fd("tcp:127.0.0.1:0", bound, sizeof(bound));
    /* Another supervisor in the same directory, which cannot have the port. */
    int rc = rig_run(said, sizeof(said), "--exec", "/bin/false", "--insecure", "--listen",
                     bound + strlen("tcp:"), "--runtime", rig.dir, NULL);
    ck_assert_int_eq(rc, 1);
    ck_assert_msg(strstr(said, "in use") != NULL, "said: %s", said);
    close(tcp);
    ck_assert_int_ne(stat(un.sun_path, &st), 0);
    ck_assert_int_eq(stat(rig.address + strlen("unix:"), &st), 0);
    rig_stop(&rig);
}
END_TEST

static const struct {
    const char *args[4];
    const char *said; /* part of what it must say */
} usage_table[] = {
    {{"--listen", "10.0.0.1"}, "type\n  trickle key new\n"},
    {{"--listen", "127.0.0.1"}, "type\n  trickle key new\n"},
    {{"--listen", "0.0.0.0:99", "--key-file", "/no/such/key"}, "trickle key import"},
    {{"--listen", "example"}, "numeric address"},
    {{"--listen", "127.0.0.1:99999"}, "from 0 to 65535"},
    {{"--listen", "[::1"}, "[ADDR]:PORT"},
    {{"--lan"}, "type\n  trickle key new\n"},
    {{"--lan", "--insecure"}, "type: trickle-vm --lan --listen ADDR --insecure"},
    {{"--lan", "--listen", "127.0.0.1", "--insecure"}, "type: trickle-vm --lan"},
    {{"--rai", "sonnet"}, "there is no such module; give python, exec, native, or the path"},
    {{"-n", "0"}, "from 1 to"},
    {{"-n", "2x"}, "from 1 to"},
    {{"--memory-limit", "2"}, "as 512M or 2G"},
    {{"--memory-limit", "2Gx"}, "as 512M or 2G"},
    {{"--memory-limit", "1K"}, "at least 1M"},
    {{"--memory-limit", "-3G"}, "at least 1M"},
    {{"--memory-limit", "nanG"}, "at least 1M"},
    {{"--recycle-after", "0"}, "from 1 to"},
    {{"--log", "loud"}, "error, warn, info or debug"},
    {{"--python", "/no/such/python"}, "/no/such/python: there is no such program"},
    {{"stray"}, "options only"},
    {{"--stray"}, "try trickle-vm --help"},
};

START_TEST(wrong_usage_is_told_with_status_2)
{
    char said[2048];
    const char *const *args = usage_table[_i].args;
    setenv("XDG_CONFIG_HOME", "/no/such", 1); /* no key, whoever runs this */
    int rc = rig_run(said, sizeof(said), args[0], args[1], args[2], args[3], NULL);
    ck_assert_int_eq(rc, 2);
    ck_assert_msg(strstr(said, usage_table[_i].said) != NULL, "said: %s, expected: %s", said,
                  usage_table[_i].said);
}
END_TEST

START_TEST(help_and_version_are_there)
{
    char said[4096];
    ck_assert_int_eq(rig_run(said, sizeof(said), "--help", NULL), 0);
    ck_assert_ptr_nonnull(strstr(said, "--python PATH"));
    ck_assert_int_eq(rig_run(said, sizeof(said), "--version", NULL), 0);
    ck_assert_int_eq(strncmp(said, "trickle-vm ", 11), 0);
}
END_TEST

START_TEST(runtime_directory_open_to_others_is_refused)
{
    char said[512], dir[] = "/tmp/trickle-test-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    chmod(dir, 0755);
    ck_assert_int_eq(rig_run(said, sizeof(said), "--exec", "/bin/false", "--runtime", dir, NULL),
                     1);
    ck_assert_msg(strstr(said, "open to others") != NULL, "said: %s", said);
    rmdir(dir);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("supervisor");
    TCase *tc = tcase_create("VMs");
    tcase_set_timeout(tc, 20);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, killed_vm_is_reported_with_its_element_and_starts_again);
    tcase_add_loop_test(tc, death_names_cause_and_the_one_element, 0,
                        sizeof(end_table) / sizeof(end_table[0]));
    tcase_add_test(tc, end_of_a_lease_is_expected);
    tcase_add_test(tc, idle_vm_that_is_killed_starts_again);
    tcase_add_test(tc, vm_that_dies_in_its_elements_starts_again_at_once);
    tcase_add_test(tc, output_comes_to_the_holder_before_the_death);
    tcase_add_test(tc, output_that_nobody_reads_is_dropped_and_said);
    tcase_add_test(tc, output_of_others_is_not_shown);
    tcase_add_loop_test(tc, children_end_with_their_vm, 0, 2);
    suite_add_tcase(suite, tc);
    tc = tcase_create("end");
    tcase_set_timeout(tc, 20);
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, idle_vms_end_quickly);
    tcase_add_test(tc, sigterm_lets_the_running_element_finish);
    tcase_add_loop_test(tc, second_sigterm_kills, 0, 2);
    tcase_add_test(tc, late_hello_does_not_keep_a_supervisor);
    tcase_add_test(tc, sigterm_lets_a_vm_that_is_stopped_finish);
    tcase_add_test(tc, killed_supervisor_leaves_nothing);
    tcase_add_test(tc, killed_supervisor_leaves_no_children_of_user_code);
    tcase_add_test(tc, guard_is_started_again);
    suite_add_tcase(suite, tc);
    tc = tcase_create("start");
    tcase_set_timeout(tc, 20);
    tcase_add_test(tc, start_says_what_there_is);
    tcase_add_test(tc, vms_of_one_run_start_silently);
    tcase_add_test(tc, supervisor_of_one_run_dies_with_its_parent);
    tcase_add_test(tc, children_from_before_the_start_are_left_alone);
    tcase_add_test(tc, lan_starts_when_it_is_asked_for_in_full);
    tcase_add_test(tc, vm_that_cannot_start_is_failing);
    tcase_add_test(tc, tcp_serves_supervisor_and_vms);
    tcase_add_test(tc, stale_sockets_are_removed_at_the_start);
    tcase_add_loop_test(tc, wrong_usage_is_told_with_status_2, 0,
                        sizeof(usage_table) / sizeof(usage_table[0]));
    tcase_add_test(tc, help_and_version_are_there);
    tcase_add_test(tc, runtime_directory_open_to_others_is_refused);
    suite_add_tcase(suite, tc);
    return suite;
}

int main(void)
{
    return run_suite(make_suite());
}
