/* SPDX-License-Identifier: MIT */
/* test_farm.c - the initiator against real supervisors and VM processes. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig;

static void setup(void)
{
    rig_start(&rig);
}

static void teardown(void)
{
    rig_stop(&rig);
}

static struct trk_vmlist *connect_ok(uint32_t max)
{
    struct trk_vmlist *list;
    int rc = rig_connect(rig.farm, max, max > 0, 0, &list);

    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
    return list;
}

START_TEST(connect_without_vms_names_the_command)
{
    struct trk_vmlist *list;

    ck_assert_int_eq(rig_connect(rig.farm, 0, false, 0, &list), TRK_ENOVMS);
    ck_assert_msg(strstr(trk_last_error(), "trickle vm") != NULL, "said: %s", trk_last_error());
    trk_vmlist_free(list);
}
END_TEST

START_TEST(connect_finds_all)
{
    struct trk_vmlist *list;

    rig_supervisor(&rig, 3);
    list = connect_ok(0);
    ck_assert_uint_eq(trk_vmlist_length(list), 3);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(connect_of_too_many_says_what_was_found_and_keeps_none)
{
    struct trk_vmlist *list;

    rig_supervisor(&rig, 3);
    ck_assert_int_eq(rig_connect(rig.farm, 4, true, 0, &list), TRK_ENOVMS);
    ck_assert_msg(strstr(trk_last_error(), "found 3") != NULL, "said: %s", trk_last_error());
    trk_vmlist_free(list);

    struct trk_farm *other = rig_farm(&rig);
    int rc = rig_connect(other, 3, true, 2000, &list);
    ck_assert_msg(rc == 0, "the VMs were not given back: %s", trk_last_error());
    trk_vmlist_free(list);
    trk_farm_close(other, 2000);
}
END_TEST

START_TEST(two_programs_share_by_max)
{
    struct trk_farm *other = rig_farm(&rig);
    struct trk_vmlist *a, *b, *c;
    struct trk_vm_info ia, ib;

    rig_supervisor(&rig, 3);
    a = connect_ok(2);
    ck_assert_int_eq(rig_connect(other, 0, false, 0, &b), 0);
    ck_assert_uint_eq(trk_vmlist_length(a), 2);
    ck_assert_uint_eq(trk_vmlist_length(b), 1);
    for (size_t i = 0; i < 2; i++) {
        struct trk_vm *va = trk_vmlist_get(a, i), *vb = trk_vmlist_get(b, 0);
        trk_vm_get_info(va, &ia);
        trk_vm_get_info(vb, &ib);
        ck_assert_uint_ne(ia.pid, ib.pid);
        trk_vm_unref(va);
        trk_vm_unref(vb);
    }
    ck_assert_int_eq(rig_connect(other, 2, true, 0, &c), TRK_ENOVMS);
    ck_assert_msg(strstr(trk_last_error(), "serve others") != NULL, "said: %s", trk_last_error());
    trk_vmlist_free(c);
    trk_vmlist_free(b);
    trk_vmlist_free(a);
    trk_farm_close(other, 2000);
}
END_TEST

START_TEST(second_connect_of_a_program_gives_the_same_vms)
{
    struct trk_vmlist *a, *b;
    struct trk_vm *va, *vb;

    rig_supervisor(&rig, 2);
    a = connect_ok(0);
    b = connect_ok(0);
    ck_assert_uint_eq(trk_vmlist_length(b), 2);
    va = trk_vmlist_get(a, 0);
    vb = trk_vmlist_get(b, 0);
    ck_assert_ptr_eq(va, vb);
    trk_vm_unref(va);
    trk_vm_unref(vb);
    trk_vmlist_free(a);
    trk_vmlist_free(b);
}
END_TEST

/* What is asked for while memory is short, in this thread or that of the farm, comes when there is
 * some again. */
START_TEST(connect_survives_a_moment_without_memory)
{
    rig_supervisor(&rig, 1);
    trk_vmlist_free(connect_ok(0));
    for (uint64_t n = 1; n < 30; n++) {
        struct trk_vmlist *list;
        mem_fail_after(n);
        int rc = trk_connect_start(rig.farm, 1, true, 60000, &list);
        bool is_started = rc == 0;
        if (is_started) {
            rc = trk_connect_wait(list, 20);
        }
        mem_fail_after(0);
        if (is_started) {
            rc = rc == TRK_AGAIN ? trk_connect_wait(list, 10000) : rc;
            ck_assert_msg(rc == 0, "allocation %u: %d %s", (unsigned)n, rc, trk_last_error());
            trk_vmlist_free(list);
        }
    }
}
END_TEST

START_TEST(a_call_is_answered)
{
    struct trk_vmlist *list;
    struct trk_vm *vm;
    char answer[64];

    rig_supervisor(&rig, 1);
    list = connect_ok(0);
    vm = trk_vmlist_get(list, 0);
    ck_assert_int_eq(rig_call(vm, "hello", answer, sizeof(answer)), 0);
    ck_assert_str_eq(answer, "hello");
    trk_vm_unref(vm);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(thousands_of_calls_may_be_outstanding)
{
    enum { N = 5000 };
    static struct trk_call *calls[N];
    struct trk_vmlist *list;
    struct trk_vm *vm;
    char text[16];

    rig_supervisor(&rig, 1);
    list = connect_ok(0);
    vm = trk_vmlist_get(list, 0);
    for (int i = 0; i < N; i++) {
        int n = snprintf(text, sizeof(text), "%d", i);
        ck_assert_int_eq(trk_vm_request(vm, TRK_OP_CALL, 0, "echo", text, (size_t)n, &calls[i]),
                         0);
    }
    for (int i = N - 1; i >= 0; i--) {
        struct trk_reply reply;
        int rc, n = snprintf(text, sizeof(text), "%d", i);
        while ((rc = trk_call_wait(calls[i], 10000, &reply)) == TRK_AGAIN) {
        }
        ck_assert_int_eq(rc, 0);
        ck_assert_uint_eq(reply.size, (size_t)n);
        ck_assert_mem_eq(reply.payload, text, (size_t)n);
        trk_call_free(calls[i]);
    }
    trk_vm_unref(vm);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(a_killed_vm_fails_its_calls_and_comes_back_as_a_new_handle)
{
    struct trk_vmlist *list;
    struct trk_vm *vm, *next;
    char answer[64], reason[256];
    time_t until = time(NULL) + 10;

    rig_supervisor(&rig, 1);
    list = connect_ok(0);
    vm = trk_vmlist_get(list, 0);
    ck_assert_int_eq(rig_call(vm, "segv", answer, sizeof(answer)), TRK_EVMLOST);
    ck_assert(trk_vm_is_lost(vm));
    trk_vm_lost_reason(vm, reason, sizeof(reason));
    ck_assert_msg(strstr(reason, "SIGSEGV") != NULL, "reason: %s", reason);
    ck_assert_int_eq(rig_call(vm, "again", answer, sizeof(answer)), TRK_EVMLOST);
    do {
        struct trk_notice notice;
        if (trk_farm_notice(rig.farm, 20, &notice) == 0) {
            trk_notice_free(&notice);
        }
        trk_vmlist_refresh(list);
        next = trk_vmlist_get(list, 0);
        trk_vm_unref(next);
    } while (next == vm && time(NULL) < until);
    ck_assert_ptr_ne(next, vm);
    ck_assert_uint_eq(trk_vmlist_length(list), 1);
    next = trk_vmlist_get(list, 0);
    ck_assert_int_eq(rig_call(next, "hello", answer, sizeof(answer)), 0);
    ck_assert_str_eq(answer, "hello");
    trk_vm_unref(next);
    trk_vm_unref(vm);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(output_of_user_code_arrives_as_a_notice)
{
    struct trk_vmlist *list;
    struct trk_vm *vm;
    struct trk_notice notice;
    char answer[64];
    time_t until = time(NULL) + 10;
    bool has_seen = false;

    rig_supervisor(&rig, 1);
    list = connect_ok(0);
    vm = trk_vmlist_get(list, 0);
    ck_assert_int_eq(rig_call(vm, "print seen by none\n", answer, sizeof(answer)), 0);
    while (!has_seen && time(NULL) < until) {
        if (trk_farm_notice(rig.farm, 100, &notice) == 0) {
            has_seen = notice.kind == TRK_NOTICE_OUTPUT &&
                       strstr(notice.text, "seen by none") != NULL;
            trk_notice_free(&notice);
        }
    }
    ck_assert_msg(has_seen, "no notice with the output within 10 s");
    trk_vm_unref(vm);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(programs_that_follow_each_other_find_all_vms)
{
    rig_supervisor(&rig, 2);
    for (int round = 0; round < 5; round++) {
        struct trk_farm *farm = rig_farm(&rig);
        struct trk_vmlist *list;
        char answer[16];
        int rc = rig_connect(farm, 0, false, 0, &list);

        ck_assert_msg(rc == 0, "round %d: %s", round, trk_last_error());
        ck_assert_uint_eq(trk_vmlist_length(list), 2);
        for (size_t i = 0; i < 2; i++) {
            struct trk_vm *vm = trk_vmlist_get(list, i);
            ck_assert_int_eq(rig_call(vm, "x", answer, sizeof(answer)), 0);
            trk_vm_unref(vm);
        }
        trk_vmlist_free(list);
        trk_farm_close(farm, 2000);
    }
}
END_TEST

START_TEST(all_vms_are_listed_with_their_holder)
{
    struct trk_vm_info *infos;
    struct trk_vmlist *list;
    size_t count, leased = 0;

    rig_supervisor(&rig, 3);
    list = connect_ok(1);
    struct trk_farm *other = rig_farm(&rig);
    ck_assert_int_eq(trk_vms_list(other, 5000, &infos, &count), 0);
    ck_assert_uint_eq(count, 3);
    for (size_t i = 0; i < count; i++) {
        if (infos[i].state == TRK_VM_LEASED) {
            leased++;
            ck_assert_msg(strstr(infos[i].owner, "test") != NULL, "owner: %s", infos[i].owner);
        }
    }
    ck_assert_uint_eq(leased, 1);
    trk_vms_list_free(infos);
    trk_farm_close(other, 1000);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(objects_outlive_their_farm)
{
    struct trk_vmlist *list;
    struct trk_vm *vm;
    struct trk_call *call;
    struct trk_reply reply;

    rig_supervisor(&rig, 1);
    list = connect_ok(0);
    vm = trk_vmlist_get(list, 0);
    ck_assert_int_eq(trk_vm_request(vm, TRK_OP_CALL, 0, "x", "sleep 60000", 11, &call), 0);
    trk_farm_close(rig.farm, 2000);
    rig.farm = NULL;
    ck_assert_int_eq(trk_call_wait(call, 1000, &reply), TRK_ECLOSED);
    ck_assert_int_lt(trk_vm_request(vm, TRK_OP_CALL, 0, "x", "", 0, NULL), 0);
    ck_assert(trk_vm_is_lost(vm));
    trk_call_free(call);
    trk_vm_unref(vm);
    trk_vmlist_free(list);
}
END_TEST

/* Takes a notice; was it output of another VM than the one with that pid? */
static int other_printed(uint32_t pid)
{
    struct trk_notice notice;
    int is_other = 0;

    if (trk_farm_notice(rig.farm, 20, &notice) == 0) {
        is_other = notice.kind == TRK_NOTICE_OUTPUT && notice.vm_pid != pid;
        trk_notice_free(&notice);
    }
    return is_other;
}

START_TEST(a_vm_that_joins_later_has_the_injections)
{
    struct trk_vmlist *list;
    struct trk_call **calls;
    struct trk_reply reply;
    struct trk_vm_info info;
    struct trk_vm *vm;
    size_t count;
    int printed = 0;
    time_t until = time(NULL) + 10;

    rig_supervisor(&rig, 1);
    list = connect_ok(0);
    vm = trk_vmlist_get(list, 0);
    trk_vm_get_info(vm, &info);
    trk_vm_unref(vm);
    ck_assert_int_eq(trk_inject(list, NULL, "name", "print injected\n", 15, &calls, &count), 0);
    ck_assert_uint_eq(count, 1);
    ck_assert_int_eq(trk_call_wait(calls[0], 10000, &reply), 0);
    trk_call_free(calls[0]);
    free(calls);
    rig_supervisor(&rig, 1);
    while ((trk_vmlist_refresh(list) < 2 || printed == 0) && time(NULL) < until) {
        printed += other_printed(info.pid);
    }
    ck_assert_uint_eq(trk_vmlist_length(list), 2);
    ck_assert_int_eq(printed, 1);
    trk_vmlist_free(list);
}
END_TEST

START_TEST(a_stopped_vm_is_lost_and_comes_back_when_it_goes_on)
{
    struct trk_vmlist *list;
    struct trk_vm_info info;
    struct trk_vm *vm, *next;
    char answer[64], reason[256];
    time_t until = time(NULL) + 20;
    struct trk_farm *farm;

    rig_supervisor(&rig, 1);
    setenv("TRICKLE_DEAD_AFTER", "0.3", 1);
    farm = rig_farm(&rig);
    ck_assert_int_eq(rig_connect(farm, 1, true, 0, &list), 0);
    vm = trk_vmlist_get(list, 0);
    trk_vm_get_info(vm, &info);
    ck_assert_int_eq(kill((pid_t)info.pid, SIGSTOP), 0);
    ck_assert_int_eq(rig_call(vm, "x", answer, sizeof(answer)), TRK_EVMLOST);
    trk_vm_lost_reason(vm, reason, sizeof(reason));
    ck_assert_msg(strstr(reason, "no sign of life") != NULL, "reason: %s", reason);
    ck_assert_int_eq(kill((pid_t)info.pid, SIGCONT), 0);
    do {
        struct trk_notice notice;
        if (trk_farm_notice(farm, 20, &notice) == 0) {
            trk_notice_free(&notice);
        }
        trk_vmlist_refresh(list);
        next = trk_vmlist_get(list, 0);
        trk_vm_unref(next);
    } while (next == vm && time(NULL) < until);
    ck_assert_ptr_ne(next, vm);
    next = trk_vmlist_get(list, 0);
    ck_assert_int_eq(rig_call(next, "hello", answer, sizeof(answer)), 0);
    trk_vm_unref(next);
    trk_vm_unref(vm);
    trk_vmlist_free(list);
    trk_farm_close(farm, 2000);
}
END_TEST

static void wait_idle(struct trk_farm *farm)
{
    time_t until = time(NULL) + 20;
    enum trk_vm_state state;

    do {
        struct trk_vm_info *infos;
        size_t count;
        ck_assert_int_eq(trk_vms_list(farm, 5000, &infos, &count), 0);
        state = count == 1 ? infos[0].state : TRK_VM_STARTING;
        trk_vms_list_free(infos);
    } while (state != TRK_VM_IDLE && time(NULL) < until);
    ck_assert_int_eq(state, TRK_VM_IDLE);
}

/* What is known of the VM is out of date for longer than a few tries: its supervisor, stopped
 * here, still calls it free while it is another's. */
START_TEST(a_vm_that_refuses_for_long_is_had_when_it_is_free)
{
    struct trk_vmlist *mine, *list;
    pid_t supervisor = rig_supervisor(&rig, 1);
    struct trk_farm *other = rig_farm(&rig);

    trk_vmlist_free(connect_ok(1));
    wait_idle(rig.farm);
    wait_idle(other);
    ck_assert_int_eq(kill(supervisor, SIGSTOP), 0);
    mine = connect_ok(1);
    ck_assert_int_eq(trk_connect_start(other, 1, true, 10000, &list), 0);
    /* Before, it was given up after 120 ms. */
    ck_assert_int_eq(trk_connect_wait(list, 1000), TRK_AGAIN);
    trk_vmlist_free(mine);
    ck_assert_int_eq(trk_connect_wait(list, 5000), 0);
    ck_assert_uint_eq(trk_vmlist_length(list), 1);
    ck_assert_int_eq(kill(supervisor, SIGCONT), 0);
    trk_vmlist_free(list);
    trk_farm_close(other, 1000);
}
END_TEST

/* The program and its VM stand still, as on a machine that is suspended or moved; the program wakes
 * up first. */
START_TEST(a_pause_of_the_whole_machine_loses_no_vm)
{
    struct trk_vmlist *list;
    struct trk_vm_info info;
    struct trk_vm *vm;
    char command[256], answer[64];
    struct trk_farm *farm;

    rig_supervisor(&rig, 1);
    setenv("TRICKLE_DEAD_AFTER", "1.5", 1);
    farm = rig_farm(&rig);
    ck_assert_int_eq(rig_connect(farm, 1, true, 0, &list), 0);
    vm = trk_vmlist_get(list, 0);
    trk_vm_get_info(vm, &info);
    snprintf(command, sizeof(command),
             "kill -STOP %u %d; sleep 2; kill -CONT %d; sleep 0.1; kill -CONT %u", info.pid,
             (int)getpid(), (int)getpid(), info.pid);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(rig_call(vm, "hello", answer, sizeof(answer)), 0);
    trk_vm_unref(vm);
    trk_vmlist_free(list);
    trk_farm_close(farm, 2000);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("farm");
    TCase *tc = tcase_create("farm");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, connect_without_vms_names_the_command);
    tcase_add_test(tc, connect_finds_all);
    tcase_add_test(tc, connect_of_too_many_says_what_was_found_and_keeps_none);
    tcase_add_test(tc, two_programs_share_by_max);
    tcase_add_test(tc, second_connect_of_a_program_gives_the_same_vms);
    tcase_add_test(tc, connect_survives_a_moment_without_memory);
    tcase_add_test(tc, a_call_is_answered);
    tcase_add_test(tc, thousands_of_calls_may_be_outstanding);
    tcase_add_test(tc, a_killed_vm_fails_its_calls_and_comes_back_as_a_new_handle);
    tcase_add_test(tc, output_of_user_code_arrives_as_a_notice);
    tcase_add_test(tc, programs_that_follow_each_other_find_all_vms);
    tcase_add_test(tc, all_vms_are_listed_with_their_holder);
    tcase_add_test(tc, objects_outlive_their_farm);
    tcase_add_test(tc, a_vm_that_joins_later_has_the_injections);
    tcase_add_test(tc, a_stopped_vm_is_lost_and_comes_back_when_it_goes_on);
    tcase_add_test(tc, a_pause_of_the_whole_machine_loses_no_vm);
    tcase_add_test(tc, a_vm_that_refuses_for_long_is_had_when_it_is_free);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
