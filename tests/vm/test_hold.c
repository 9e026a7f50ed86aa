/* SPDX-License-Identifier: MIT */
/* What outlives an initiator: real VMs whose holder vanishes, and who comes for their results. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/hash.h"
#include "tests/suite.h"
#include "rig.h"

#define SLOW "slow 400"

static struct rig rig;
static const uint8_t code[16] = "the code's sum..";

static void setup(void)
{
    rig_start(&rig, 1, NULL);
}

static void teardown(void)
{
    rig_stop(&rig);
}

/* --- helpers ------------------------------------------------------------------------------- */

static void open_durable(struct client *c, uint32_t stage)
{
    struct wire_stage m = {.stage = stage, .flags = WIRE_STAGE_DURABLE, .function = "f",
                           .size = 1};
    memcpy(m.fingerprint, code, sizeof(code));
    client_send(c, WIRE_STAGE, 0, wire_stage_encode(&m));
}

/* Leases VM 0 as incarnation and job 1, whose watch is that of the rig, and runs these. */
static struct client *run_durable(uint32_t count, const char *const *payloads)
{
    struct client *c = client_lease(&rig, 0, 1);
    open_durable(c, 1);
    client_run(c, 1, 10, count, payloads);
    return c;
}

static void wait_for_output(void)
{
    blob_unref(client_take(rig.watch, WIRE_OUTPUT).body);
}

/* Waits for the results of count elements; they are not acknowledged. */
static void wait_for_results(struct client *c, uint32_t count)
{
    for (uint32_t n = 0; n < count;) {
        struct wire_message msg = client_take(c, WIRE_RESULT);
        struct wire_result r;
        ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
        n += r.count;
        blob_unref(msg.body);
    }
}

static void ask(struct client *watch, uint32_t stage)
{
    client_note(watch, WIRE_HELD_ASK, (struct wire_note){.stage = stage});
}

static void done(struct client *watch, uint64_t token, bool is_to_delete)
{
    client_note(watch, WIRE_HELD_DONE, (struct wire_note){.seq = token, .flag = is_to_delete});
}

/* The next HELD; its payload as text. */
static struct wire_held take_held(struct client *watch, char *text, size_t size)
{
    struct wire_message msg = client_take(watch, WIRE_HELD);
    struct wire_held m;
    ck_assert_int_eq(wire_held_decode(&m, msg.body), 0);
    snprintf(text, size, "%.*s", (int)m.size, (const char *)m.payload);
    m.payload = NULL;
    blob_unref(msg.body);
    return m;
}

/* Of element index of stage 1, which is what text says. */
static uint64_t expect_held(struct client *watch, uint64_t index, const char *text)
{
    char got[64];
    struct wire_held m = take_held(watch, got, sizeof(got));
    struct digest element = hash_digest(text, strlen(text));
    ck_assert_uint_eq(m.kind, WIRE_HELD_RESULT);
    ck_assert_uint_eq(m.stage, 1);
    ck_assert_uint_eq(m.index, index);
    ck_assert_uint_eq(m.attempt, 1);
    ck_assert_uint_eq(m.epoch, 1);
    ck_assert_uint_eq(m.status, TRK_STATUS_OK);
    ck_assert_mem_eq(m.element, element.bytes, 16);
    ck_assert_mem_eq(m.fingerprint, code, 16);
    ck_assert_str_eq(got, text);
    return m.token;
}

static void expect_end(struct client *watch, uint32_t stage)
{
    struct wire_message msg = client_take(watch, WIRE_HELD_END);
    struct wire_note note;
    ck_assert_int_eq(wire_note_decode(&note, msg.body), 0);
    ck_assert_uint_eq(note.stage, stage);
    blob_unref(msg.body);
}

/* How many files are held; -1: there is no folder at all. */
static int count_files(void)
{
    char path[160];
    int count = 0;
    snprintf(path, sizeof(path), "%s/held/01010101010101010101010101010101", rig.home);
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        count += strstr(entry->d_name, ".held") != NULL; /* not one that is being written */
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return dir != NULL ? count : -1;
}

static bool is_count(const void *count)
{
    return count_files() == *(const int *)count;
}

static void wait_for_files(int count)
{
    wait_until(is_count, &count);
}

/* A holder vanishes that has all its results and has acknowledged none. */
static void leave_results(uint32_t count, const char *const *payloads)
{
    struct client *c = run_durable(count, payloads);
    wait_for_results(c, count);
    client_free(c);
    wait_for_files(1);
}

static bool is_gone_shown(const void *arg)
{
    return strstr(rig_vm(&rig, 0).owner, ", here), gone") != NULL;
}

/* --- results ------------------------------------------------------------------------------- */

START_TEST(vanished_holders_element_is_finished_and_held)
{
    const char *payloads[] = {SLOW, "never", "never"};
    struct client *c = run_durable(3, payloads), *other;
    wait_for_output();
    client_free(c);
    other = client_open(&rig, rig_vm(&rig, 0).address, WIRE_PURPOSE_LEASE, 2);
    ck_assert(!other->welcome.is_accepted);
    ck_assert_ptr_nonnull(strstr(other->welcome.reason, "finishes an element of client1 (pid"));
    ck_assert_ptr_nonnull(strstr(other->welcome.reason, ", here), gone"));
    wait_until(is_gone_shown, NULL);
    client_free(other);
    wait_for_files(1);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
    other = client_lease(&rig, 0, 2); /* it is free for others now */
    client_bye(other);
    ask(rig.watch, 1);
    uint64_t token = expect_held(rig.watch, 10, SLOW);
    ck_assert(!client_has(rig.watch, WIRE_HELD)); /* what had not started was dropped */
    done(rig.watch, token, true);
    wait_for_files(-1);
}
END_TEST

START_TEST(results_that_nobody_acknowledged_are_held)
{
    const char *payloads[] = {"a", "bb", "c"};
    leave_results(3, payloads);
    ask(rig.watch, 1);
    done(rig.watch, expect_held(rig.watch, 10, "a"), true);
    done(rig.watch, expect_held(rig.watch, 11, "bb"), true);
    uint64_t token = expect_held(rig.watch, 12, "c");
    ck_assert_int_eq(count_files(), 1); /* until all of it is done with */
    done(rig.watch, token, true);
    wait_for_files(-1);
}
END_TEST

START_TEST(goodbye_holds_what_was_not_acknowledged_and_ends_what_runs)
{
    const char *payloads[] = {"a", "slow 60000"};
    struct client *c = run_durable(2, payloads);
    wait_for_output();
    wait_for_results(c, 1);
    client_bye(c);
    wait_for_files(1);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
    ask(rig.watch, 1);
    done(rig.watch, expect_held(rig.watch, 10, "a"), true);
    wait_for_files(-1);
    ck_assert(!client_has(rig.watch, WIRE_HELD));
}
END_TEST

START_TEST(nothing_is_held_of_what_is_recorded_or_volatile)
{
    const char *payloads[] = {"a"};
    struct client *c = run_durable(1, payloads);
    struct trk_vm_info info = c->welcome.vm;
    client_stage(c, 2, "f");
    client_run(c, 2, 0, 1, payloads);
    wait_for_results(c, 2);
    client_note(c, WIRE_ACK, (struct wire_note){.seq = 1});
    char text[16];
    client_call(c, "ping", text, sizeof(text)); /* the ACK has been read */
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, info.incarnation);
    ck_assert_int_eq(count_files(), -1);
}
END_TEST

START_TEST(volatile_element_of_a_vanished_holder_ends)
{
    const char *payloads[] = {"slow 60000"};
    struct client *c = client_lease(&rig, 0, 1);
    struct trk_vm_info info = c->welcome.vm;
    client_stage(c, 2, "f");
    client_run(c, 2, 0, 1, payloads);
    wait_for_output();
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, info.incarnation);
}
END_TEST

START_TEST(what_an_interrupt_made_is_not_held)
{
    const char *payloads[] = {"slow 60000"};
    struct client *c = run_durable(1, payloads);
    struct trk_vm_info info = c->welcome.vm;
    wait_for_output();
    client_note(c, WIRE_CANCEL, (struct wire_note){.stage = 1, .flag = 1});
    wait_for_results(c, 1);
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, info.incarnation);
    ck_assert_int_eq(count_files(), -1);
}
END_TEST

START_TEST(earlier_results_survive_the_death_of_a_vm_that_goes_on)
{
    const char *payloads[] = {"a", "slow 60000"};
    struct client *c = run_durable(2, payloads);
    pid_t pid = (pid_t)c->welcome.vm.pid;
    wait_for_output();
    wait_for_results(c, 1);
    client_free(c);
    wait_for_files(1);
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ask(rig.watch, 1);
    done(rig.watch, expect_held(rig.watch, 10, "a"), true);
    wait_for_files(-1);
}
END_TEST

START_TEST(drained_vm_without_its_holder_finishes)
{
    const char *payloads[] = {SLOW};
    struct client *c = run_durable(1, payloads);
    char text[256];
    wait_for_output();
    client_free(c);
    ck_assert_int_eq(client_order(rig.watch, "drain", rig_vm(&rig, 0).pid, text, sizeof(text)),
                     TRK_STATUS_OK);
    ask(rig.watch, 1);
    expect_held(rig.watch, 10, SLOW); /* told before the supervisor ends with its last VM */
    rig_wait_exit(&rig);
    ck_assert_int_eq(count_files(), 1);
    rig_finish(&rig);
    setup(); /* for teardown */
}
END_TEST

/* --- handing over -------------------------------------------------------------------------- */

START_TEST(kept_is_sent_when_it_is_asked_for_again)
{
    const char *payloads[] = {"a"};
    leave_results(1, payloads);
    ask(rig.watch, 2); /* it has none of that stage */
    expect_end(rig.watch, 2);
    ck_assert(!client_has(rig.watch, WIRE_HELD));
    ask(rig.watch, 1);
    uint64_t token = expect_held(rig.watch, 10, "a");
    expect_end(rig.watch, 1);
    ask(rig.watch, 1); /* it is on its way already */
    done(rig.watch, token, false);
    done(rig.watch, token, false); /* twice */
    done(rig.watch, 12345678901234, true);
    ask(rig.watch, 1);
    token = expect_held(rig.watch, 10, "a");
    ck_assert(!client_has(rig.watch, WIRE_HELD));
    ck_assert_int_eq(count_files(), 1);
    done(rig.watch, token, true);
    wait_for_files(-1);
}
END_TEST

START_TEST(what_comes_later_is_sent_without_another_question)
{
    const char *payloads[] = {SLOW};
    struct client *c = run_durable(1, payloads);
    wait_for_output();
    ask(rig.watch, 1);
    client_free(c);
    done(rig.watch, expect_held(rig.watch, 10, SLOW), true);
    wait_for_files(-1);
}
END_TEST

START_TEST(another_job_gets_nothing)
{
    const char *payloads[] = {"a"};
    struct client *other;
    leave_results(1, payloads);
    other = client_open(&rig, rig.address, WIRE_PURPOSE_WATCH, 2);
    ask(other, 1);
    ask(rig.watch, 1);
    done(rig.watch, expect_held(rig.watch, 10, "a"), true);
    wait_for_files(-1);
    ck_assert(!client_has(other, WIRE_HELD));
    client_free(other);
}
END_TEST

START_TEST(two_who_come_both_hear_of_it)
{
    const char *payloads[] = {"a"};
    struct client *other;
    leave_results(1, payloads);
    other = client_open(&rig, rig.address, WIRE_PURPOSE_WATCH, 1);
    ask(other, 1);
    ask(rig.watch, 1);
    uint64_t token = expect_held(other, 10, "a");
    done(rig.watch, expect_held(rig.watch, 10, "a"), true);
    wait_for_files(-1);
    done(other, token, true); /* it has gone already */
    ask(other, 1);
    client_free(other);
}
END_TEST

START_TEST(results_of_any_size_are_held)
{
    const char *payloads[] = {"big 3000000", "big 9000000", "big 0", "a"};
    char text[8];
    leave_results(4, payloads);
    ask(rig.watch, 1);
    struct wire_held first = take_held(rig.watch, text, sizeof(text));
    ck_assert_uint_eq(first.size, 3000000);
    ck_assert_str_eq(text, "xxxxxxx");
    struct wire_held second = take_held(rig.watch, text, sizeof(text));
    ck_assert_uint_eq(second.size, 9000000);
    ck_assert(!client_has(rig.watch, WIRE_HELD)); /* until some of that is done with */
    ck_assert(!client_has(rig.watch, WIRE_HELD_END));
    done(rig.watch, first.token, true);
    done(rig.watch, second.token, true);
    struct wire_held third = take_held(rig.watch, text, sizeof(text));
    ck_assert_uint_eq(third.size, 0);
    done(rig.watch, third.token, true);
    done(rig.watch, expect_held(rig.watch, 13, "a"), true);
    wait_for_files(-1);
}
END_TEST

START_TEST(epochs_are_fenced_across_processes)
{
    struct trk_vm_info info = rig_vm(&rig, 0);
    struct client *c = client_lease(&rig, 0, 1);
    char text[16];
    client_call(c, "ping", text, sizeof(text)); /* used: a new process follows */
    client_bye(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, info.incarnation);
    c = client_open_epoch(&rig, info.address, 1, 1, 2); /* the same epoch, another incarnation */
    ck_assert(!c->welcome.is_accepted);
    ck_assert_str_eq(c->welcome.reason, "this VM has served a later run of the same job");
    client_free(c);
    c = client_open_epoch(&rig, info.address, 1, 2, 2);
    ck_assert(c->welcome.is_accepted);
    client_bye(c);
    c = client_open_epoch(&rig, info.address, 1, 1, 1); /* the older one again */
    ck_assert(!c->welcome.is_accepted);
    client_free(c);
}
END_TEST

/* --- checkpoints --------------------------------------------------------------------------- */

static struct wire_state take_state(struct client *c, char *text, size_t size)
{
    struct wire_message msg = client_take(c, WIRE_STATE);
    struct wire_state m;
    ck_assert_int_eq(wire_state_decode(&m, msg.body), 0);
    snprintf(text, size, "%.*s", (int)m.size, (const char *)m.bytes);
    m.bytes = NULL;
    blob_unref(msg.body);
    return m;
}

/* The result of one element as text. */
static void take_result(struct client *c, uint64_t index, char *text, size_t size)
{
    struct wire_message msg = client_take(c, WIRE_RESULT);
    struct wire_result r;
    ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
    ck_assert_uint_eq(r.first, index);
    ck_assert_uint_eq(r.count, 1);
    snprintf(text, size, "%.*s", (int)le_load_u32(r.sizes), (const char *)r.payloads);
    blob_unref(msg.body);
}

static void run_one(struct client *c, uint64_t index, const char *payload)
{
    client_run(c, 1, index, 1, &payload);
}

START_TEST(checkpoint_waits_until_it_is_recorded)
{
    const char *payloads[] = {"save half"};
    struct client *c = run_durable(1, payloads);
    char text[64];
    struct wire_state m = take_state(c, text, sizeof(text));
    struct digest element = hash_digest("save half", 9);
    ck_assert_str_eq(text, "half");
    ck_assert_uint_eq(m.stage, 1);
    ck_assert_uint_eq(m.index, 10);
    ck_assert_uint_eq(m.attempt, 1);
    ck_assert_mem_eq(m.element, element.bytes, 16);
    ck_assert(!client_has(c, WIRE_RESULT));
    client_note(c, WIRE_STATE_DONE, (struct wire_note){.seq = m.seq});
    take_result(c, 10, text, sizeof(text));
    ck_assert_str_eq(text, "0");
    client_note(c, WIRE_ACK, (struct wire_note){.seq = 1});
    client_bye(c);
}
END_TEST

START_TEST(element_goes_on_from_its_state)
{
    struct client *c = client_lease(&rig, 0, 1);
    struct wire_state state = {.stage = 1, .attempt = 1, .index = 10, .bytes = "half", .size = 4};
    char text[64];
    open_durable(c, 1);
    client_send(c, WIRE_STATE, 0, wire_state_encode(&state));
    run_one(c, 10, "load");
    run_one(c, 11, "load");
    take_result(c, 10, text, sizeof(text));
    ck_assert_str_eq(text, "half");
    take_result(c, 11, text, sizeof(text));
    ck_assert_str_eq(text, "nothing");
    client_note(c, WIRE_ACK, (struct wire_note){.seq = 2});
    client_bye(c);
}
END_TEST

START_TEST(volatile_elements_save_nothing)
{
    const char *payloads[] = {"save half"};
    struct client *c = client_lease(&rig, 0, 1);
    char text[64];
    client_stage(c, 2, "f");
    client_run(c, 2, 0, 1, payloads);
    take_result(c, 0, text, sizeof(text));
    ck_assert_int_eq(atoi(text), TRK_END);
    client_call(c, "save half", text, sizeof(text)); /* no element at all */
    ck_assert_int_eq(atoi(text), TRK_END);
    client_bye(c);
}
END_TEST

START_TEST(state_of_a_vanished_holder_is_held)
{
    const char *payloads[] = {"moved half"};
    struct client *c = run_durable(1, payloads);
    char text[64];
    take_state(c, text, sizeof(text)); /* it waits for an answer */
    client_free(c);
    wait_for_files(1); /* its result; the state has gone with that */
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, NULL);
    ask(rig.watch, 1);
    struct wire_held m = take_held(rig.watch, text, sizeof(text));
    ck_assert_uint_eq(m.kind, WIRE_HELD_RESULT);
    ck_assert_str_eq(text, "0");
    ck_assert_int_eq(count_files(), 1);
    done(rig.watch, m.token, true);
    wait_for_files(-1);
}
END_TEST

START_TEST(leaving_vm_moves_an_element_at_its_checkpoint)
{
    const char *payloads[] = {"moved half"};
    struct client *c = run_durable(1, payloads);
    char text[256];
    struct wire_state m = take_state(c, text, sizeof(text));
    ck_assert_int_eq(client_order(rig.watch, "drain", rig_vm(&rig, 0).pid, text, sizeof(text)),
                     TRK_STATUS_OK);
    blob_unref(client_take(c, WIRE_BYE).body);
    client_note(c, WIRE_STATE_DONE, (struct wire_note){.seq = m.seq});
    struct wire_message msg = client_take(c, WIRE_RECALLED);
    struct wire_note note;
    ck_assert_int_eq(wire_note_decode(&note, msg.body), 0);
    blob_unref(msg.body);
    ck_assert_uint_eq(note.stage, 1);
    ck_assert_uint_eq(note.first, 10);
    ck_assert_uint_eq(note.count, 1);
    ck_assert_uint_eq(note.flag, 1);
    client_wait_closed(c);
    client_free(c);
    rig_wait_exit(&rig); /* it was the last VM */
    ck_assert_int_eq(count_files(), -1);
    rig_finish(&rig);
    setup(); /* for teardown */
}
END_TEST

START_TEST(orphan_that_leaves_leaves_its_state)
{
    const char *payloads[] = {"moved half"};
    struct client *c = run_durable(1, payloads);
    char text[256];
    take_state(c, text, sizeof(text));
    ck_assert_int_eq(client_order(rig.watch, "drain", rig_vm(&rig, 0).pid, text, sizeof(text)),
                     TRK_STATUS_OK);
    blob_unref(client_take(c, WIRE_BYE).body);
    client_free(c);
    ask(rig.watch, 1);
    struct wire_held m = take_held(rig.watch, text, sizeof(text));
    ck_assert_uint_eq(m.kind, WIRE_HELD_STATE);
    ck_assert_uint_eq(m.index, 10);
    ck_assert_str_eq(text, "half");
    rig_wait_exit(&rig);
    ck_assert_int_eq(count_files(), 1);
    rig_finish(&rig);
    setup(); /* for teardown */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hold");
    TCase *tc = tcase_create("hold");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, vanished_holders_element_is_finished_and_held);
    tcase_add_test(tc, results_that_nobody_acknowledged_are_held);
    tcase_add_test(tc, goodbye_holds_what_was_not_acknowledged_and_ends_what_runs);
    tcase_add_test(tc, nothing_is_held_of_what_is_recorded_or_volatile);
    tcase_add_test(tc, volatile_element_of_a_vanished_holder_ends);
    tcase_add_test(tc, what_an_interrupt_made_is_not_held);
    tcase_add_test(tc, earlier_results_survive_the_death_of_a_vm_that_goes_on);
    tcase_add_test(tc, drained_vm_without_its_holder_finishes);
    tcase_add_test(tc, kept_is_sent_when_it_is_asked_for_again);
    tcase_add_test(tc, what_comes_later_is_sent_without_another_question);
    tcase_add_test(tc, another_job_gets_nothing);
    tcase_add_test(tc, two_who_come_both_hear_of_it);
    tcase_add_test(tc, results_of_any_size_are_held);
    tcase_add_test(tc, epochs_are_fenced_across_processes);
    tcase_add_test(tc, checkpoint_waits_until_it_is_recorded);
    tcase_add_test(tc, element_goes_on_from_its_state);
    tcase_add_test(tc, volatile_elements_save_nothing);
    tcase_add_test(tc, state_of_a_vanished_holder_is_held);
    tcase_add_test(tc, leaving_vm_moves_an_element_at_its_checkpoint);
    tcase_add_test(tc, orphan_that_leaves_leaves_its_state);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
