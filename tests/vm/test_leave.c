/* SPDX-License-Identifier: MIT */
/* VMs that leave: drained, stopped, recycled, over their memory limit. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static struct client *lease_and_run(uint32_t vm, uint32_t count, const char *const *payloads)
{
    struct client *c = client_lease(&rig, vm, 1);
    client_stage(c, 1, "f");
    client_run(c, 1, 0, count, payloads);
    return c;
}

static void wait_for_output(void)
{
    blob_unref(client_take(rig.watch, WIRE_OUTPUT).body);
}

/* The next message must give back exactly these. */
static void expect_recalled(struct client *c, uint32_t stage, uint64_t first, uint32_t count)
{
    struct wire_message msg = client_next(c);
    struct wire_note note;
    ck_assert_msg(msg.type == WIRE_RECALLED, "%s came", wire_type_name(msg.type));
    ck_assert_int_eq(wire_note_decode(&note, msg.body), 0);
    ck_assert_uint_eq(note.stage, stage);
    ck_assert_uint_eq(note.first, first);
    ck_assert_uint_eq(note.count, count);
    blob_unref(msg.body);
}

static void expect_bye(struct client *c)
{
    struct wire_message msg = client_next(c);
    ck_assert_msg(msg.type == WIRE_BYE, "%s came", wire_type_name(msg.type));
    blob_unref(msg.body);
}

/* Results of elements first..first+count-1 of stage 1, and no others, come next. */
static void expect_results(struct client *c, uint64_t first, uint32_t count)
{
    uint64_t next = first;
    while (next < first + count) {
        struct wire_message msg = client_take(c, WIRE_RESULT);
        struct wire_result r;
        ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
        ck_assert_uint_eq(r.first, next);
        next += r.count;
        blob_unref(msg.body);
    }
    ck_assert_uint_eq(next, first + count);
}

static struct wire_death take_death(enum wire_end end)
{
    struct wire_death death = client_take_death(&rig);
    ck_assert_uint_eq(death.end, end);
    return death;
}

static void drain(uint32_t vm, char *text, size_t size)
{
    int status = client_order(rig.watch, "drain", rig_vm(&rig, vm).pid, text, size);
    ck_assert_msg(status == TRK_STATUS_OK, "refused: %s", text);
}

/* --- draining -------------------------------------------------------------------------- */

START_TEST(drained_vm_finishes_what_runs_and_gives_back_the_rest)
{
    const char *payloads[] = {"sleep 1100", "a", "b", "c"};
    char text[256], expected[256];
    struct client *c = lease_and_run(0, 4, payloads);
    client_stage(c, 2, "f");
    client_run(c, 2, 70, 3, payloads);
    client_run(c, 1, 30, 2, payloads);
    wait_for_output();
    drain(0, text, sizeof(text));
    snprintf(expected, sizeof(expected), "VM 0 (pid %u) finishes what it runs, gives the rest back "
             "to client1 (pid %d, here) and leaves", c->welcome.vm.pid, (int)getpid());
    ck_assert_str_eq(text, expected);
    expect_recalled(c, 1, 1, 3);
    expect_recalled(c, 2, 70, 3);
    expect_recalled(c, 1, 30, 2);
    expect_bye(c);
    rig_wait_vm(&rig, 0, TRK_VM_STOPPING, NULL);
    client_run(c, 1, 50, 1, payloads); /* it had not heard yet */
    expect_recalled(c, 1, 50, 1);
    expect_results(c, 0, 1);
    client_wait_closed(c);
    struct wire_death death = take_death(WIRE_END_DRAINED);
    ck_assert(death.is_expected);
    ck_assert(!death.has_element);
    ck_assert_uint_eq(rig_wait_vm(&rig, 0, TRK_VM_STOPPING, NULL).state, TRK_VM_STOPPING);
    client_free(c);
    c = client_lease(&rig, 1, 1); /* the other one is not concerned */
    client_bye(c);
}
END_TEST

static bool has_no_process(const void *vm)
{
    return rig_vm(&rig, *(const uint32_t *)vm).pid == 0;
}

START_TEST(drained_vm_without_a_lease_ends_at_once)
{
    char text[256];
    uint32_t vm = 1, pid = rig_vm(&rig, 1).pid;
    uint64_t start = sys_now_ns();
    drain(1, text, sizeof(text));
    wait_until(has_no_process, &vm);
    ck_assert_uint_lt(sys_now_ns() - start, 2000000000u);
    ck_assert_uint_eq(rig_vm(&rig, 1).state, TRK_VM_STOPPING);
    ck_assert_int_eq(client_order(rig.watch, "drain", pid, text, sizeof(text)), TRK_STATUS_ERROR);
    ck_assert(!client_has(rig.watch, WIRE_DEATH));
}
END_TEST

START_TEST(drained_vm_still_answers_its_holder)
{
    const char *payload = "sleep 1100";
    char text[256];
    struct client *c = lease_and_run(0, 1, &payload);
    wait_for_output();
    drain(0, text, sizeof(text));
    expect_bye(c);
    ck_assert_int_eq(client_call(c, "state", text, sizeof(text)), TRK_STATUS_OK); /* queued */
    ck_assert_str_eq(text, "state");
    ck_assert_int_eq(client_call(c, "more", text, sizeof(text)), TRK_STATUS_OK); /* after it */
    expect_results(c, 0, 1);
    client_bye(c); /* it need not wait for more */
    take_death(WIRE_END_DRAINED);
}
END_TEST

START_TEST(drained_twice_is_drained_once)
{
    const char *payload = "sleep 1100";
    char text[256];
    struct client *c = lease_and_run(0, 1, &payload);
    wait_for_output();
    drain(0, text, sizeof(text));
    drain(0, text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "is leaving already"));
    expect_bye(c);
    expect_results(c, 0, 1);
    client_wait_closed(c);
    ck_assert(!client_has(c, WIRE_BYE));
    client_free(c);
    take_death(WIRE_END_DRAINED);
}
END_TEST

START_TEST(death_of_an_element_in_a_drained_vm_is_its_own)
{
    const char *payload = "sleep 60000";
    char text[256];
    struct client *c = lease_and_run(0, 1, &payload);
    wait_for_output();
    drain(0, text, sizeof(text));
    expect_bye(c);
    kill((pid_t)c->welcome.vm.pid, SIGSEGV);
    struct wire_death death = take_death(WIRE_END_UNKNOWN);
    ck_assert(!death.is_expected);
    ck_assert(death.has_element);
    client_wait_closed(c);
    client_free(c);
}
END_TEST

START_TEST(large_result_of_a_drained_vm_arrives)
{
    const char *payloads[] = {"sleep 1100", "big 30000000"};
    char text[256];
    struct client *c = lease_and_run(0, 1, payloads);
    client_run(c, 1, 1, 1, &payloads[1]);
    expect_results(c, 0, 1);
    drain(0, text, sizeof(text)); /* while it is made or sent, or before */
    struct wire_message msg;
    do {
        msg = client_next(c);
        blob_unref(msg.body);
    } while (msg.type != WIRE_RESULT && msg.type != WIRE_RECALLED);
    client_wait_closed(c);
    client_free(c);
    take_death(WIRE_END_DRAINED);
}
END_TEST

START_TEST(supervisor_ends_with_its_last_vm)
{
    char text[256];
    drain(0, text, sizeof(text));
    ck_assert_ptr_null(strstr(text, "last"));
    drain(1, text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "it was the last one here, so trickle-vm ends, too"));
    ck_assert_int_eq(rig_wait_exit(&rig), 0);
    rig_finish(&rig);
}
END_TEST

/* --- orders ---------------------------------------------------------------------------- */

START_TEST(stopped_vm_ends_now_and_does_not_come_back)
{
    const char *payload = "deaf 60000";
    char text[256];
    uint32_t vm = 0;
    struct client *c = lease_and_run(0, 1, &payload);
    wait_for_output();
    drain(0, text, sizeof(text)); /* would take a minute */
    uint32_t pid = rig_vm(&rig, 0).pid;
    ck_assert_int_eq(client_order(rig.watch, "stop", pid, text, sizeof(text)), TRK_STATUS_OK);
    struct wire_death death = take_death(WIRE_END_DRAINED);
    ck_assert_int_eq(death.signal, SIGKILL);
    ck_assert(death.is_expected);
    client_wait_closed(c);
    client_free(c);
    wait_until(has_no_process, &vm);
    ck_assert_uint_eq(rig_vm(&rig, 0).state, TRK_VM_STOPPING);
}
END_TEST

static const struct {
    const char *verb;
    uint32_t pid; /* 0: that of VM 0 */
    const char *said;
} refused_table[] = {
    {"drain", 1, "has that pid"},
    {"stop", 4000000000, "has that pid"},
    {"restart", 0, "to drain or to stop a VM only"},
    {"", 0, "to drain or to stop a VM only"},
};

START_TEST(order_that_cannot_be_is_refused_with_a_sentence)
{
    char text[256];
    uint32_t pid = refused_table[_i].pid != 0 ? refused_table[_i].pid : rig_vm(&rig, 0).pid;
    int status = client_order(rig.watch, refused_table[_i].verb, pid, text, sizeof(text));
    ck_assert_int_eq(status, TRK_STATUS_ERROR);
    ck_assert_msg(strstr(text, refused_table[_i].said) != NULL, "said: %s", text);
    ck_assert_uint_eq(rig_vm(&rig, 0).state, TRK_VM_IDLE);
}
END_TEST

START_TEST(order_over_tcp_is_refused)
{
    char address[64], text[256];
    unsigned port;
    rig_start(&rig, 1, "--listen", "127.0.0.1", "--insecure", NULL);
    const char *said = strstr(rig.said, "listening on 127.0.0.1:");
    ck_assert_ptr_nonnull(said);
    ck_assert_int_eq(sscanf(said, "listening on 127.0.0.1:%u", &port), 1);
    snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", port);
    struct client *w = client_open(&rig, address, WIRE_PURPOSE_WATCH, 3);
    int status = client_order(w, "drain", rig_vm(&rig, 0).pid, text, sizeof(text));
    ck_assert_int_eq(status, TRK_STATUS_ERROR);
    ck_assert_ptr_nonnull(strstr(text, "only from the machine they run on"));
    client_free(w);
    rig_stop(&rig);
}
END_TEST

/* --- recycling ------------------------------------------------------------------------- */

START_TEST(vm_is_replaced_after_so_many_elements)
{
    const char *payloads[] = {"a", "b", "c", "d", "e"};
    rig_start(&rig, 1, "--recycle-after", "3", NULL);
    uint8_t before[16];
    memset(before, 0, sizeof(before));
    for (int round = 0; round < 10; round++) {
        struct client *c = lease_and_run(0, 5, payloads);
        ck_assert_mem_ne(c->welcome.vm.incarnation, before, 16);
        memcpy(before, c->welcome.vm.incarnation, 16);
        expect_results(c, 0, 3);
        expect_recalled(c, 1, 3, 2);
        expect_bye(c);
        client_wait_closed(c);
        client_free(c);
        struct wire_death death = take_death(WIRE_END_RECYCLED);
        ck_assert(death.is_expected);
        ck_assert(!death.has_element);
    }
    struct trk_vm_info now = rig_wait_vm(&rig, 0, TRK_VM_IDLE, before);
    ck_assert_str_eq(now.note, "");
    rig_stop(&rig);
}
END_TEST

START_TEST(recycled_vm_sends_its_large_result_first)
{
    const char *payload = "big 50000000";
    rig_start(&rig, 1, "--recycle-after", "1", NULL);
    struct client *c = lease_and_run(0, 1, &payload);
    expect_results(c, 0, 1);
    client_wait_closed(c);
    client_free(c);
    take_death(WIRE_END_RECYCLED);
    rig_stop(&rig);
}
END_TEST

/* --- memory ---------------------------------------------------------------------------- */

START_TEST(grown_vm_is_replaced_between_elements)
{
    const char *payloads[] = {"a", "grow 300", "b", "grow 250", "c"};
    rig_start(&rig, 1, "--memory-limit", "640M", NULL);
    struct client *c = lease_and_run(0, 5, payloads);
    expect_results(c, 0, 4);
    expect_recalled(c, 1, 4, 1);
    expect_bye(c);
    client_wait_closed(c);
    client_free(c);
    struct wire_death death = take_death(WIRE_END_RECYCLED);
    ck_assert(death.is_expected);
    ck_assert_uint_ge(death.rss_max_bytes, 550u << 20);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    rig_stop(&rig);
}
END_TEST

START_TEST(element_over_the_memory_limit_is_killed)
{
    const char *payloads[] = {"a", "swell 700", "b"};
    rig_start(&rig, 1, "--memory-limit", "640M", NULL);
    struct client *c = lease_and_run(0, 3, payloads);
    struct wire_death death = take_death(WIRE_END_MEMORY);
    ck_assert(!death.is_expected);
    ck_assert(death.has_element);
    ck_assert_uint_eq(death.index_of_element, 1);
    ck_assert_uint_gt(death.rss_max_bytes, 640u << 20);
    client_wait_closed(c);
    client_free(c);
    struct trk_vm_info now = rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    ck_assert_int_eq(strncmp(now.note, "killed over its memory limit while", 34), 0);
    rig_stop(&rig);
}
END_TEST

START_TEST(request_over_the_memory_limit_is_killed)
{
    struct wire_request request = {.op = TRK_OP_CALL, .payload = "swell 700", .size = 9};
    rig_start(&rig, 1, "--memory-limit", "0.625G", NULL);
    struct client *c = client_lease(&rig, 0, 1);
    client_send(c, WIRE_REQUEST, 7, wire_request_encode(&request));
    struct wire_death death = take_death(WIRE_END_MEMORY);
    ck_assert(!death.has_element);
    client_wait_closed(c);
    client_free(c);
    rig_stop(&rig);
}
END_TEST

/* --- how fast -------------------------------------------------------------------------- */

/* The best of some: the machine may be busy, the way must be short. */
START_TEST(death_is_told_within_20_ms)
{
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < 10; i++) {
        struct client *c = client_lease(&rig, 0, 1);
        uint64_t start = sys_now_ns();
        kill((pid_t)c->welcome.vm.pid, SIGKILL);
        struct wire_death death = client_take_death(&rig);
        uint64_t took = sys_now_ns() - start;
        best_ns = took < best_ns ? took : best_ns;
        client_wait_closed(c);
        client_free(c);
        rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    }
    ck_assert_uint_lt(best_ns, 20000000);
}
END_TEST

/* --- the descriptors that are told ------------------------------------------------------ */

static void read_all(int fd, char *text, size_t size)
{
    size_t got = 0;
    ssize_t n;
    while (got < size - 1 && (n = read(fd, text + got, size - 1 - got)) > 0) {
        got += (size_t)n;
    }
    text[got] = '\0';
}

START_TEST(listening_and_ready_are_told_in_order)
{
    char dir[] = "/tmp/trickle-test-XXXXXX", number[16], text[64], path[4200], echo[4200];
    int fds[2], status;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(pipe(fds), 0);
    snprintf(number, sizeof(number), "%d", fds[1]);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        execl(rig_program("../../trickle-vm", path, sizeof(path)), "trickle-vm", "-n", "1",
              "--exec", rig_program("echo_vm", echo, sizeof(echo)), "--runtime", dir,
              "--die-with-parent", "--ready-fd", number, "--listening-fd", number, NULL);
        _exit(127);
    }
    close(fds[1]);
    read_all(fds[0], text, sizeof(text));
    close(fds[0]);
    ck_assert_str_eq(text, "listening\nready\n");
    kill(pid, SIGTERM);
    waitpid(pid, &status, 0);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("leave");
    TCase *tc = tcase_create("leave");
    tcase_set_timeout(tc, 30);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, drained_vm_finishes_what_runs_and_gives_back_the_rest);
    tcase_add_test(tc, drained_vm_without_a_lease_ends_at_once);
    tcase_add_test(tc, drained_vm_still_answers_its_holder);
    tcase_add_test(tc, drained_twice_is_drained_once);
    tcase_add_test(tc, death_of_an_element_in_a_drained_vm_is_its_own);
    tcase_add_test(tc, large_result_of_a_drained_vm_arrives);
    tcase_add_test(tc, stopped_vm_ends_now_and_does_not_come_back);
    tcase_add_loop_test(tc, order_that_cannot_be_is_refused_with_a_sentence, 0,
                        sizeof(refused_table) / sizeof(refused_table[0]));
    tcase_add_test(tc, death_is_told_within_20_ms);
    suite_add_tcase(suite, tc);
    tc = tcase_create("end");
    tcase_set_timeout(tc, 30);
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, supervisor_ends_with_its_last_vm);
    suite_add_tcase(suite, tc);
    tc = tcase_create("options");
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, order_over_tcp_is_refused);
    tcase_add_test(tc, vm_is_replaced_after_so_many_elements);
    tcase_add_test(tc, recycled_vm_sends_its_large_result_first);
    tcase_add_test(tc, grown_vm_is_replaced_between_elements);
    tcase_add_test(tc, element_over_the_memory_limit_is_killed);
    tcase_add_test(tc, request_over_the_memory_limit_is_killed);
    tcase_add_test(tc, listening_and_ready_are_told_in_order);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
