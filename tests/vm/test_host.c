/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/sys.h"
#include "tests/suite.h"
#include "rig.h"

static struct rig rig;

static void setup(void)
{
    rig_start(&rig, 1, NULL);
}

static void teardown(void)
{
    rig_stop(&rig);
}

/* Results as they come: one text per element, in the order of their indices. */
struct got {
    uint32_t messages;
    uint32_t count;
    uint64_t next; /* index that must come next */
    uint64_t seq;  /* of the last message */
    char last[256];
    uint8_t last_status;
};

/* Takes RESULT messages until count elements of that stage have come. */
static void take_results(struct client *c, uint32_t stage, uint32_t count, struct got *g)
{
    while (g->count < count) {
        struct wire_message msg = client_take(c, WIRE_RESULT);
        struct wire_result r;
        ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
        ck_assert_uint_eq(r.stage, stage);
        ck_assert_uint_eq(r.attempt, 1);
        ck_assert_uint_eq(r.first, g->next);
        ck_assert_uint_eq(r.seq, g->seq + 1);
        const uint8_t *at = r.payloads;
        for (uint32_t i = 0; i < r.count; i++) {
            uint32_t size = le_load_u32(r.sizes + 4 * i);
            snprintf(g->last, sizeof(g->last), "%.*s", (int)size, (const char *)at);
            g->last_status = r.statuses[i];
            at += size;
        }
        g->messages++;
        g->count += r.count;
        g->next += r.count;
        g->seq = r.seq;
        blob_unref(msg.body);
    }
}

/* Runs one element of stage 1, which must be declared; its text. */
static struct got run_one(struct client *c, uint64_t index, const char *payload, uint64_t seq)
{
    struct got g = {.next = index, .seq = seq};
    client_run(c, 1, index, 1, &payload);
    take_results(c, 1, 1, &g);
    return g;
}

/* --- leases ---------------------------------------------------------------------------- */

START_TEST(second_lease_is_refused_and_names_the_holder)
{
    struct client *a = client_lease(&rig, 0, 1);
    struct client *b = client_open(&rig, rig_vm(&rig, 0).address, WIRE_PURPOSE_LEASE, 2);
    char expected[128];
    ck_assert(!b->welcome.is_accepted);
    snprintf(expected, sizeof(expected), "leased by client1 (pid %d, here)", (int)getpid());
    ck_assert_str_eq(b->welcome.reason, expected);
    client_wait_closed(b);
    client_free(b);
    struct trk_vm_info seen = rig_wait_vm(&rig, 0, TRK_VM_LEASED, NULL);
    ck_assert_str_eq(seen.owner, expected + strlen("leased by "));
    ck_assert_mem_eq(seen.incarnation, a->welcome.vm.incarnation, 16);
    ck_assert_str_eq(a->welcome.vm.module, "echo");
    ck_assert_uint_eq(a->welcome.vm.pid, seen.pid);
    client_bye(a);
}
END_TEST

START_TEST(watching_a_vm_and_leasing_a_supervisor_are_refused)
{
    struct client *c = client_open(&rig, rig_vm(&rig, 0).address, WIRE_PURPOSE_WATCH, 2);
    ck_assert(!c->welcome.is_accepted);
    client_wait_closed(c);
    client_free(c);
    c = client_open(&rig, rig.address, WIRE_PURPOSE_LEASE, 2);
    ck_assert(!c->welcome.is_accepted);
    client_wait_closed(c);
    client_free(c);
}
END_TEST

START_TEST(lease_that_asked_nothing_leaves_the_vm_as_it_is)
{
    for (int i = 0; i < 5; i++) {
        struct client *c = client_lease(&rig, 0, (uint8_t)(2 + i));
        struct trk_vm_info before = c->welcome.vm;
        rig_wait_vm(&rig, 0, TRK_VM_LEASED, NULL);
        if (i % 2 == 0) {
            client_bye(c);
        } else {
            client_free(c); /* just gone */
        }
        struct trk_vm_info after = rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
        ck_assert_mem_eq(before.incarnation, after.incarnation, 16);
        ck_assert_str_eq(after.owner, "");
    }
}
END_TEST

/* One program after the other: the next one never sees the last one's lease, and its connection
 * waits for the new process. */
START_TEST(used_vm_is_starting_when_its_lease_has_ended)
{
    char text[16];
    for (int i = 0; i < 10; i++) {
        struct client *c = client_lease(&rig, 0, 2);
        struct trk_vm_info before = c->welcome.vm;
        ck_assert_int_eq(client_call(c, "x", text, sizeof(text)), TRK_STATUS_OK);
        client_bye(c);
        struct client *w = client_open(&rig, rig.address, WIRE_PURPOSE_WATCH, 3);
        client_wait_vms(w);
        struct trk_vm_info now = w->infos[0];
        client_free(w);
        bool is_same = memcmp(now.incarnation, before.incarnation, 16) == 0;
        ck_assert_msg(now.state == TRK_VM_STARTING || (now.state == TRK_VM_IDLE && !is_same),
                      "state %u, same incarnation: %d", now.state, is_same);
        ck_assert_str_eq(now.owner, "");
        struct client *next = client_lease(&rig, 0, 4);
        ck_assert_mem_ne(next->welcome.vm.incarnation, before.incarnation, 16);
        client_bye(next);
    }
}
END_TEST

/* Its address has changed, say: the old session is dead and nobody here has noticed. */
START_TEST(holder_that_comes_again_gets_a_fresh_vm)
{
    char text[16];
    struct client *c = client_lease(&rig, 0, 1);
    struct trk_vm_info info = rig_vm(&rig, 0);
    ck_assert_int_eq(client_call(c, "hello", text, sizeof(text)), TRK_STATUS_OK);
    struct client *again = client_open(&rig, info.address, WIRE_PURPOSE_LEASE, 1);
    client_wait_closed(c);
    ck_assert(again->welcome.is_accepted);
    ck_assert_mem_ne(again->welcome.vm.incarnation, c->welcome.vm.incarnation, 16);
    ck_assert_int_eq(client_call(again, "again", text, sizeof(text)), TRK_STATUS_OK);
    client_free(c);
    client_bye(again);
}
END_TEST

START_TEST(vanished_holder_ends_what_runs)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct trk_vm_info before = c->welcome.vm;
    const char *payload = "deaf 60000";
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 1, &payload);
    rig_wait_vm(&rig, 0, TRK_VM_LEASED, NULL);
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, before.incarnation);
}
END_TEST

/* --- requests -------------------------------------------------------------------------- */

START_TEST(requests_are_answered)
{
    struct client *c = client_lease(&rig, 0, 2);
    char text[64];
    ck_assert_int_eq(client_call(c, "hello", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "hello");
    ck_assert_int_eq(client_call(c, "raise oh", text, sizeof(text)), TRK_STATUS_EXCEPTION);
    ck_assert_str_eq(text, "oh");
    ck_assert_int_eq(client_call(c, "", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "");
    client_bye(c);
}
END_TEST

START_TEST(large_requests_come_back_whole)
{
    struct client *c = client_lease(&rig, 0, 2);
    size_t size = 5 << 20;
    struct wire_request request = {.op = TRK_OP_CALL, .payload = calloc(1, size), .size = size};
    struct wire_reply reply;
    memset((void *)(uintptr_t)request.payload, 'y', size);
    client_send(c, WIRE_REQUEST, 9, wire_request_encode(&request));
    struct wire_message msg = client_take(c, WIRE_REPLY);
    ck_assert_int_eq(wire_reply_decode(&reply, msg.body), 0);
    ck_assert_uint_eq(reply.size, size);
    ck_assert(memcmp(reply.payload, request.payload, size) == 0);
    blob_unref(msg.body);
    free((void *)(uintptr_t)request.payload);
    client_bye(c);
}
END_TEST

START_TEST(request_on_stream_0_is_answered_only_when_it_fails)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct wire_request good = {.op = TRK_OP_DELETE, .payload = "x", .size = 1};
    struct wire_request bad = {.op = TRK_OP_DELETE, .payload = "raise x", .size = 7};
    client_send(c, WIRE_REQUEST, 0, wire_request_encode(&good));
    client_send(c, WIRE_REQUEST, 0, wire_request_encode(&bad));
    struct wire_message msg = client_take(c, WIRE_REPLY);
    ck_assert_uint_eq(msg.stream, 0);
    ck_assert_uint_eq(msg.body->data[0], TRK_STATUS_EXCEPTION);
    blob_unref(msg.body);
    ck_assert(!client_has(c, WIRE_REPLY));
    client_bye(c);
}
END_TEST

/* --- work ------------------------------------------------------------------------------ */

START_TEST(trivial_elements_return_in_bulk)
{
    struct client *c = client_lease(&rig, 0, 2);
    const char *payloads[2000];
    char texts[2000][16];
    struct got g = {0};
    for (int i = 0; i < 2000; i++) {
        snprintf(texts[i], sizeof(texts[i]), "n%d", i);
        payloads[i] = texts[i];
    }
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 2000, payloads);
    client_run(c, 1, 2000, 2000, payloads);
    take_results(c, 1, 4000, &g);
    ck_assert_str_eq(g.last, "n1999");
    ck_assert_uint_lt(g.messages, 1000);
    client_note(c, WIRE_ACK, (struct wire_note){.seq = g.seq});
    client_bye(c);
}
END_TEST

START_TEST(slow_elements_return_one_by_one)
{
    struct client *c = client_lease(&rig, 0, 2);
    const char *payloads[] = {"sleep 6", "sleep 6", "sleep 6", "sleep 6", "attempt"};
    struct got g = {0};
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 5, payloads);
    take_results(c, 1, 5, &g);
    ck_assert_uint_ge(g.messages, 4);
    ck_assert_str_eq(g.last, "1 4 1");
    client_bye(c);
}
END_TEST

START_TEST(results_do_not_wait_for_a_long_element)
{
    struct client *c = client_lease(&rig, 0, 2);
    const char *payloads[] = {"a", "b", "sleep 60000"};
    struct got g = {0};
    client_stage(c, 1, "f");
    for (uint32_t i = 0; i < 3; i++) { /* the message that is sent early is as any other */
        client_run(c, 1, g.next, 3, payloads);
        take_results(c, 1, 2 + 3 * i, &g);
        ck_assert_str_eq(g.last, "b");
        client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 1, .first = g.next, .count = 1});
        take_results(c, 1, 3 + 3 * i, &g);
        ck_assert_str_eq(g.last, "interrupted");
    }
    client_bye(c);
}
END_TEST

START_TEST(large_results_stand_between_small_ones)
{
    struct client *c = client_lease(&rig, 0, 2);
    const char *payloads[] = {"a", "big 70000", "b", "big 200000", "big 30000", "big 65536", "c"};
    struct got g = {0};
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 7, payloads);
    take_results(c, 1, 7, &g);
    ck_assert_str_eq(g.last, "c");
    client_bye(c);
}
END_TEST

START_TEST(stage_that_does_not_open_fails_its_elements)
{
    struct client *c = client_lease(&rig, 0, 2);
    const char *payloads[] = {"a", "b"};
    struct got g = {0};
    char text[16];
    client_stage(c, 1, "bad");
    client_run(c, 1, 0, 2, payloads);
    take_results(c, 1, 2, &g);
    ck_assert_str_eq(g.last, "no such function");
    ck_assert_uint_eq(g.last_status, TRK_STATUS_EXCEPTION);
    client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 1});
    client_stage(c, 1, "good");
    client_run(c, 1, 0, 2, payloads);
    g = (struct got){.seq = g.seq};
    take_results(c, 1, 2, &g);
    ck_assert_str_eq(g.last, "b");
    client_call(c, "stages", text, sizeof(text));
    ck_assert_str_eq(text, "1");
    client_bye(c);
}
END_TEST

/* Declares a stage that names its module. */
static void stage_of(struct client *c, uint32_t stage, const char *module)
{
    struct wire_stage m = {.stage = stage, .function = "f", .size = 1};
    snprintf(m.module, sizeof(m.module), "%s", module);
    client_send(c, WIRE_STAGE, 0, wire_stage_encode(&m));
}

START_TEST(stage_of_a_module_that_is_not_there_fails_its_elements_and_no_others)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct got g = {0};
    const char *payload = "stages";
    stage_of(c, 1, "echo");
    stage_of(c, 2, "nowhere");
    client_run(c, 2, 0, 1, &payload);
    take_results(c, 2, 1, &g);
    ck_assert_uint_eq(g.last_status, TRK_STATUS_ERROR);
    ck_assert_str_eq(g.last, "this VM has no module nowhere: its own is echo");
    client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 2});
    g = run_one(c, 0, payload, g.seq);
    ck_assert_uint_eq(g.last_status, TRK_STATUS_OK);
    ck_assert_str_eq(g.last, "1"); /* that one was opened, and the other not closed */
    client_bye(c);
}
END_TEST

START_TEST(what_has_not_started_can_be_recalled)
{
    struct client *c = client_lease(&rig, 0, 2);
    const char *payloads[] = {"x", "sleep 50", "y", "z"};
    struct got g = {0};
    struct wire_note back;
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 4, payloads);
    take_results(c, 1, 1, &g); /* sent when the second has begun or ended */
    client_note(c, WIRE_RECALL, (struct wire_note){.stage = 1, .first = 0, .count = 4});
    struct wire_message msg = client_take(c, WIRE_RECALLED);
    ck_assert_int_eq(wire_note_decode(&back, msg.body), 0);
    blob_unref(msg.body);
    take_results(c, 1, 4 - back.count, &g);
    ck_assert_uint_eq(g.next, 4 - back.count);
    ck_assert(back.count == 0 || back.first == g.next);
    client_bye(c);
}
END_TEST

START_TEST(interrupted_code_stops_and_the_vm_stays)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payload = "sleep 60000";
    char text[16];
    struct got g = {0};
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 1, &payload);
    blob_unref(client_take(rig.watch, WIRE_OUTPUT).body); /* it runs */
    client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 1, .flag = 1});
    take_results(c, 1, 1, &g);
    ck_assert_str_eq(g.last, "interrupted");
    ck_assert_int_eq(client_call(c, "stages", text, sizeof(text)), TRK_STATUS_OK);
    client_bye(c);
}
END_TEST

START_TEST(code_that_ignores_the_interrupt_costs_its_vm)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payload = "deaf 60000";
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 1, &payload);
    blob_unref(client_take(rig.watch, WIRE_OUTPUT).body); /* it runs */
    client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 1, .flag = 1});
    client_wait_closed(c);
    struct wire_death death = client_take_death(&rig);
    ck_assert_int_eq(death.exit_status, 70);
    ck_assert(death.is_expected);
    ck_assert_uint_eq(death.end, WIRE_END_DEAF);
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
}
END_TEST

/* --- fork ------------------------------------------------------------------------------ */

START_TEST(forked_child_that_returns_disturbs_nobody)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct got g;
    char text[16];
    uint64_t seq = 0;
    client_stage(c, 1, "f");
    for (uint64_t i = 0; i < 20; i++) {
        g = run_one(c, i, "fork", seq);
        ck_assert_str_eq(g.last, "forked");
        seq = g.seq;
    }
    ck_assert_int_eq(client_call(c, "fork", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "forked");
    ck_assert_int_eq(client_call(c, "still here", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert(!client_has(c, WIRE_RESULT));
    ck_assert(!client_has(c, WIRE_REPLY));
    client_bye(c);
}
END_TEST

/* --- garbage --------------------------------------------------------------------------- */

static int connect_raw(const char *address)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", address + strlen("unix:"));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return fd;
}

static void send_garbage(const char *address)
{
    char byte;
    int fd = connect_raw(address);
    ck_assert_int_eq(write(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27), 27);
    ck_assert_int_le(read(fd, &byte, 1), 0); /* it hangs up */
    close(fd);
}

START_TEST(garbage_is_dropped_and_counted)
{
    char text[16];
    struct client *c = client_lease(&rig, 0, 2);
    uint64_t before = c->welcome.vm.dropped;
    for (int i = 0; i < 5; i++) {
        send_garbage(rig_vm(&rig, 0).address);
        send_garbage(rig.address);
    }
    ck_assert_int_eq(client_call(c, "fine", text, sizeof(text)), TRK_STATUS_OK);
    client_bye(c);
    struct client *w = client_open(&rig, rig.address, WIRE_PURPOSE_WATCH, 3);
    client_wait_vms(w);
    ck_assert_msg(w->infos[0].dropped >= before + 10, "%llu dropped, expected 10 more than %llu",
                  (unsigned long long)w->infos[0].dropped, (unsigned long long)before);
    client_free(w);
}
END_TEST

START_TEST(holder_that_sends_garbage_loses_its_lease)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct trk_vm_info before = c->welcome.vm;
    rig_wait_vm(&rig, 0, TRK_VM_LEASED, NULL);
    client_send(c, WIRE_RUN, 0, blob_dup("xyz", 3));
    client_wait_closed(c);
    client_free(c);
    struct trk_vm_info after = rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
    ck_assert_mem_eq(before.incarnation, after.incarnation, 16); /* it was never used */
    ck_assert_uint_gt(after.dropped, before.dropped);
}
END_TEST

START_TEST(strangers_who_say_nothing_are_limited_and_disturb_no_holder)
{
    struct client *c = client_lease(&rig, 0, 2);
    char text[16];
    int fds[80];
    char byte;
    int closed = 0;
    for (int i = 0; i < 80; i++) {
        fds[i] = connect_raw(rig_vm(&rig, 0).address);
    }
    for (int i = 64; i < 80; i++) {
        closed += read(fds[i], &byte, 1) == 0;
    }
    ck_assert_int_eq(closed, 16);
    ck_assert_int_eq(client_call(c, "fine", text, sizeof(text)), TRK_STATUS_OK);
    for (int i = 0; i < 80; i++) {
        close(fds[i]);
    }
    client_bye(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("host");
    TCase *tc = tcase_create("host");
    tcase_set_timeout(tc, 20);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, second_lease_is_refused_and_names_the_holder);
    tcase_add_test(tc, watching_a_vm_and_leasing_a_supervisor_are_refused);
    tcase_add_test(tc, lease_that_asked_nothing_leaves_the_vm_as_it_is);
    tcase_add_test(tc, used_vm_is_starting_when_its_lease_has_ended);
    tcase_add_test(tc, holder_that_comes_again_gets_a_fresh_vm);
    tcase_add_test(tc, vanished_holder_ends_what_runs);
    tcase_add_test(tc, requests_are_answered);
    tcase_add_test(tc, large_requests_come_back_whole);
    tcase_add_test(tc, request_on_stream_0_is_answered_only_when_it_fails);
    tcase_add_test(tc, trivial_elements_return_in_bulk);
    tcase_add_test(tc, slow_elements_return_one_by_one);
    tcase_add_test(tc, results_do_not_wait_for_a_long_element);
    tcase_add_test(tc, large_results_stand_between_small_ones);
    tcase_add_test(tc, stage_that_does_not_open_fails_its_elements);
    tcase_add_test(tc, stage_of_a_module_that_is_not_there_fails_its_elements_and_no_others);
    tcase_add_test(tc, what_has_not_started_can_be_recalled);
    tcase_add_test(tc, interrupted_code_stops_and_the_vm_stays);
    tcase_add_test(tc, code_that_ignores_the_interrupt_costs_its_vm);
    tcase_add_test(tc, forked_child_that_returns_disturbs_nobody);
    tcase_add_test(tc, garbage_is_dropped_and_counted);
    tcase_add_test(tc, holder_that_sends_garbage_loses_its_lease);
    tcase_add_test(tc, strangers_who_say_nothing_are_limited_and_disturb_no_holder);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
