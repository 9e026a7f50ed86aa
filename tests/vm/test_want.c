/* SPDX-License-Identifier: MIT */
/* test_want.c - a VM that asks its initiator for a blob: what comes, comes damaged, comes late, to
 * another VM, or never. The blob is a shared object by name only. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/hash.h"
#include "rai/native_spec.h"
#include "rig.h"
#include "tests/suite.h"

#define OBJECT "this is no shared object"

static struct rig rig;
static char cache[64];
static struct digest digest;

static void setup(void)
{
    snprintf(cache, sizeof(cache), "/tmp/trk-blob-%s", "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(cache));
    setenv("XDG_CACHE_HOME", cache, 1);
    digest = hash_digest(OBJECT, strlen(OBJECT));
    rig_start(&rig, 2, NULL);
}

static void teardown(void)
{
    char command[128];

    rig_stop(&rig);
    snprintf(command, sizeof(command), "rm -rf %s", cache);
    ck_assert_int_eq(system(command), 0);
}

/* Stage 1 names a function in that object; one element. */
static void ask_for_it(struct client *c)
{
    struct native_spec spec = {.kind = NATIVE_SENT, .digest = digest, .symbol = "f",
                               .symbol_size = 1, .library = "f.so", .library_size = 4};
    struct blob *function = native_spec_encode(&spec);
    struct wire_stage stage = {.stage = 1, .module = TRK_NATIVE_MODULE,
                               .function = function->data, .size = function->size};
    const char *const payloads[] = {"x"};

    client_send(c, WIRE_STAGE, 0, wire_stage_encode(&stage));
    client_run(c, 1, 0, 1, payloads);
    blob_unref(function);
}

static void takes_want(struct client *c)
{
    struct wire_message msg = client_take(c, WIRE_WANT);
    uint8_t wanted[16];

    ck_assert_int_eq(wire_want_decode(wanted, msg.body), 0);
    ck_assert_mem_eq(wanted, digest.bytes, 16);
    blob_unref(msg.body);
}

static void send_blob(struct client *c, const struct digest *of, bool is_known, const char *bytes)
{
    struct wire_blob m = {.is_known = is_known, .bytes = bytes, .size = strlen(bytes)};

    memcpy(m.digest, of->bytes, 16);
    client_send(c, WIRE_BLOB, 0, wire_blob_encode(&m));
}

static void says(struct client *c, const char *wanted)
{
    struct wire_message msg = client_take(c, WIRE_RESULT);
    struct wire_result r;
    char text[512];

    ck_assert_int_eq(wire_result_decode(&r, msg.body), 0);
    snprintf(text, sizeof(text), "%.*s", (int)le_load_u32(r.sizes), (const char *)r.payloads);
    ck_assert_int_eq(r.statuses[0], TRK_STATUS_ERROR);
    ck_assert_msg(strstr(text, wanted) != NULL, "wanted '%s', got '%s'", wanted, text);
    blob_unref(msg.body);
}

START_TEST(it_is_asked_for_once_per_machine)
{
    struct client *one = client_lease(&rig, 0, 2), *other = client_lease(&rig, 1, 3);

    ask_for_it(one);
    takes_want(one);
    ask_for_it(other); /* this VM waits for the first one */
    send_blob(one, &digest, true, OBJECT);
    says(one, "f.so is no shared object");
    says(other, "f.so is no shared object");
    ck_assert(!client_has(other, WIRE_WANT));
    client_bye(one);
    client_bye(other);
}
END_TEST

START_TEST(what_is_unknown_or_damaged_fails_the_elements)
{
    struct client *one = client_lease(&rig, 0, 2), *other = client_lease(&rig, 1, 3);

    ask_for_it(one);
    takes_want(one);
    send_blob(one, &digest, false, "");
    says(one, "the program does not have f.so any more");
    ask_for_it(other);
    takes_want(other);
    send_blob(other, &digest, true, "something else");
    says(other, "a blob came damaged");
    client_bye(one);
    client_bye(other);
}
END_TEST

START_TEST(what_was_not_asked_for_is_left_alone)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct digest other = hash_digest("else", 4);

    send_blob(c, &digest, true, OBJECT); /* early */
    ask_for_it(c);
    takes_want(c);
    send_blob(c, &other, true, "else");
    send_blob(c, &digest, true, OBJECT);
    send_blob(c, &digest, true, OBJECT); /* twice */
    says(c, "f.so is no shared object");
    client_send(c, WIRE_BLOB, 0, blob_dup("too short", 9));
    client_wait_closed(c);
    client_free(c);
}
END_TEST

START_TEST(a_vm_does_not_wait_for_who_has_gone)
{
    struct client *c = client_lease(&rig, 0, 2);
    struct trk_vm_info before = rig_vm(&rig, 0);

    ask_for_it(c);
    takes_want(c);
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, before.incarnation);
    c = client_lease(&rig, 0, 3); /* and the next one asks again */
    ask_for_it(c);
    takes_want(c);
    client_free(c);
    rig_wait_vm(&rig, 0, TRK_VM_IDLE, before.incarnation);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("want");
    TCase *tc = tcase_create("want");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, it_is_asked_for_once_per_machine);
    tcase_add_test(tc, what_is_unknown_or_damaged_fails_the_elements);
    tcase_add_test(tc, what_was_not_asked_for_is_left_alone);
    tcase_add_test(tc, a_vm_does_not_wait_for_who_has_gone);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
