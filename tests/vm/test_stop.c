/* SPDX-License-Identifier: MIT */
/* What stops running code: timeouts, cancels; and user code that meddles with descriptors. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/sys.h"
#include "tests/suite.h"
#include "rig.h"

#define LATE_NS 1000000000u /* a busy machine, a sanitizer: no test of the clock itself */

static struct rig rig;

static void setup(void)
{
    rig_start(&rig, 1, NULL);
}

static void teardown(void)
{
    rig_stop(&rig);
}

/* Takes results until one of that index has come; its text. */
static void take_result(struct client *c, uint64_t index, char *text, size_t size)
{
    bool is_found = false;
    while (!is_found) {
        struct wire_message msg = client_take(c, WIRE_RESULT);
        struct wire_result r;
        ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
        const uint8_t *at = r.payloads;
        for (uint32_t i = 0; i < r.count; i++) {
            uint32_t n = le_load_u32(r.sizes + 4 * i);
            if (r.first + i == index) {
                snprintf(text, size, "%.*s", (int)n, (const char *)at);
                is_found = true;
            }
            at += n;
        }
        blob_unref(msg.body);
    }
}

static void expect_result(struct client *c, uint64_t index, const char *expected)
{
    char text[64];
    take_result(c, index, text, sizeof(text));
    ck_assert_str_eq(text, expected);
}

static void cancel(struct client *c, uint64_t first, uint32_t count)
{
    client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 1, .first = first, .count = count});
}

/* Until what runs has printed its line. */
static void wait_for_output(void)
{
    blob_unref(client_take(rig.watch, WIRE_OUTPUT).body);
}

/* --- timeouts -------------------------------------------------------------------------- */

/* What runs before it in the same batch, then an element without end. */
static const struct {
    const char *before[3];
    const char *stuck;
} stuck_table[] = {
    {{NULL}, "sleep 60000"},
    {{"a", "sleep 100", "b"}, "spin 60000"},
    {{"sleep 140", "sleep 140", "sleep 140"}, "deaf 60000"},
};

START_TEST(element_over_its_timeout_ends_its_vm)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[5];
    char output[256];
    uint32_t n = 0;
    while (n < 3 && stuck_table[_i].before[n] != NULL) {
        payloads[n] = stuck_table[_i].before[n];
        n++;
    }
    payloads[n] = stuck_table[_i].stuck;
    payloads[n + 1] = "never";
    client_stage_timeout(c, 1, 200);
    client_run(c, 1, 10, n + 2, payloads);
    struct wire_death death = client_take_death_output(&rig, output, sizeof(output));
    ck_assert_uint_eq(death.end, WIRE_END_TIMEOUT);
    ck_assert(!death.is_expected);
    ck_assert(death.has_element);
    ck_assert_uint_eq(death.index_of_element, 10 + n);
    ck_assert_uint_eq(death.exit_status, 72);
    ck_assert_uint_ge(death.ran_ns, 200000000);
    ck_assert_uint_lt(death.ran_ns, 200000000 + LATE_NS);
    ck_assert_msg(strstr(output, "stuck in echo_vm.c") != NULL, "its output: %s", output);
    if (n > 0) {
        take_result(c, 9 + n, output, sizeof(output)); /* sent before */
    }
    client_wait_closed(c);
    client_free(c);
    struct trk_vm_info now = rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    ck_assert_int_eq(strncmp(now.note, "ended at a timeout while running element 1", 42), 0);
}
END_TEST

START_TEST(each_element_has_the_whole_timeout)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"sleep 150", "sleep 150", "sleep 150", "sleep 150", "end"};
    client_stage_timeout(c, 1, 400);
    client_run(c, 1, 0, 5, payloads);
    expect_result(c, 4, "end");
    client_run(c, 1, 5, 5, payloads); /* and once more after a pause in which nothing runs */
    expect_result(c, 9, "end");
    client_bye(c);
}
END_TEST

START_TEST(timeout_is_for_its_stage_only)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *fast = "x", *slow = "sleep 300";
    char text[16];
    client_stage_timeout(c, 1, 100);
    client_stage(c, 2, "f");
    client_run(c, 1, 0, 1, &fast);
    client_run(c, 2, 1, 1, &slow);
    expect_result(c, 1, "sleep 300");
    client_run(c, 1, 2, 1, &fast);
    ck_assert_int_eq(client_call(c, "sleep 300", text, sizeof(text)), TRK_STATUS_OK);
    expect_result(c, 2, "x");
    client_bye(c);
}
END_TEST

START_TEST(dump_that_hangs_is_cut_short)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payload = "hang";
    client_stage_timeout(c, 1, 100);
    client_run(c, 1, 3, 1, &payload);
    struct wire_death death = client_take_death(&rig);
    ck_assert_uint_eq(death.end, WIRE_END_TIMEOUT);
    ck_assert_int_eq(death.signal, SIGKILL);
    ck_assert(death.has_element);
    ck_assert_uint_eq(death.index_of_element, 3);
    client_wait_closed(c);
    client_free(c);
}
END_TEST

/* --- cancels --------------------------------------------------------------------------- */

START_TEST(cancelled_elements_that_wait_do_not_run)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"sleep 1100", "a", "b", "c"};
    client_stage(c, 1, "f");
    client_run(c, 1, 0, 4, payloads);
    wait_for_output();
    cancel(c, 1, 2);
    expect_result(c, 0, "sleep 1100");
    expect_result(c, 3, "c");
    ck_assert(!client_has(c, WIRE_RESULT));
    client_bye(c);
}
END_TEST

START_TEST(cancelled_element_that_runs_is_interrupted_alone)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"sleep 60000", "sleep 30", "c"};
    client_stage(c, 1, "f");
    client_run(c, 1, 7, 3, payloads);
    wait_for_output();
    cancel(c, 9, 100); /* not those that run */
    cancel(c, 0, 7);
    cancel(c, 7, 1);
    expect_result(c, 7, "interrupted");
    expect_result(c, 8, "sleep 30");
    ck_assert(!client_has(c, WIRE_RESULT));
    client_bye(c);
}
END_TEST

START_TEST(cancelled_element_that_does_not_heed_costs_its_vm)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payloads[] = {"deaf 60000", "a"};
    client_stage(c, 1, "f");
    client_run(c, 1, 7, 2, payloads);
    wait_for_output();
    cancel(c, 7, 1);
    struct wire_death death = client_take_death(&rig);
    ck_assert_uint_eq(death.end, WIRE_END_DEAF);
    ck_assert(death.is_expected);
    ck_assert_uint_eq(death.index_of_element, 7);
    client_wait_closed(c);
    client_free(c);
    struct trk_vm_info now = rig_wait_vm(&rig, 0, TRK_VM_IDLE, death.vm);
    ck_assert_str_eq(now.note, "");
}
END_TEST

/* Whenever the cancel comes, before the element begins, in that moment or after it: it stops,
 * and never takes so long that the process has to end. */
START_TEST(interrupt_is_not_lost_in_the_moment_of_the_start)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *payload = "sleep 60000";
    char text[16];
    uint64_t waited = 0;
    client_stage(c, 1, "f");
    for (uint64_t i = 0; i < 300; i++) {
        client_run(c, 1, i, 1, &payload);
        for (uint64_t end = sys_now_ns() + waited; sys_now_ns() < end;) {
        }
        waited = (waited + 700) % 60000;
        cancel(c, i, 1);
        /* Between elements, so behind this one. */
        ck_assert_int_eq(client_call(c, "x", text, sizeof(text)), TRK_STATUS_OK);
    }
    client_bye(c);
}
END_TEST

START_TEST(interrupt_does_not_hit_the_element_of_another_stage)
{
    struct client *c = client_lease(&rig, 0, 1);
    const char *first = "sleep 1", *second = "sleep 3";
    client_stage(c, 1, "f");
    client_stage(c, 2, "f");
    for (uint64_t i = 0; i < 100; i++) {
        client_run(c, 1, i, 1, &first);
        client_run(c, 2, 1000 + i, 1, &second);
        for (uint64_t end = sys_now_ns() + 900000 + i * 4000; sys_now_ns() < end;) {
        }
        cancel(c, i, 1);
        expect_result(c, 1000 + i, "sleep 3");
    }
    client_bye(c);
}
END_TEST

/* --- descriptors ----------------------------------------------------------------------- */

START_TEST(what_user_code_prints_never_lands_in_a_socket)
{
    struct client *c = client_lease(&rig, 0, 1);
    char text[64];
    ck_assert_int_eq(client_call(c, "own", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "0");
    ck_assert_int_eq(client_call(c, "close", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "0");
    for (int i = 0; i < 5; i++) {
        /* Its connection would get number 0, 1 or 2. */
        struct client *other = client_open(&rig, rig_vm(&rig, 0).address, WIRE_PURPOSE_LEASE, 2);
        ck_assert(!other->welcome.is_accepted);
        client_call(c, "print into the dark", text, sizeof(text));
        client_wait_closed(other);
        client_free(other);
    }
    ck_assert_int_eq(client_call(c, "still here", text, sizeof(text)), TRK_STATUS_OK);
    ck_assert_str_eq(text, "still here");
    client_bye(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stop");
    TCase *tc = tcase_create("stop");
    tcase_set_timeout(tc, 30);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, element_over_its_timeout_ends_its_vm, 0,
                        sizeof(stuck_table) / sizeof(stuck_table[0]));
    tcase_add_test(tc, each_element_has_the_whole_timeout);
    tcase_add_test(tc, timeout_is_for_its_stage_only);
    tcase_add_test(tc, dump_that_hangs_is_cut_short);
    tcase_add_test(tc, cancelled_elements_that_wait_do_not_run);
    tcase_add_test(tc, cancelled_element_that_runs_is_interrupted_alone);
    tcase_add_test(tc, cancelled_element_that_does_not_heed_costs_its_vm);
    tcase_add_test(tc, interrupt_is_not_lost_in_the_moment_of_the_start);
    tcase_add_test(tc, interrupt_does_not_hit_the_element_of_another_stage);
    tcase_add_test(tc, what_user_code_prints_never_lands_in_a_socket);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
