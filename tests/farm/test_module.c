/* SPDX-License-Identifier: MIT */
/* test_module.c - works that say which module is to run them: who gets them, and what is said when
 * nobody can. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig;
static struct trk_vmlist *list;

static void setup(void)
{
    rig_start(&rig);
    rig_supervisor(&rig, 1);
    int rc = rig_connect(rig.farm, 0, false, 0, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void teardown(void)
{
    trk_vmlist_free(list);
    rig_stop(&rig);
}

static struct trk_work_options options(const char *module)
{
    return (struct trk_work_options){.size = sizeof(struct trk_work_options), .name = "render",
                                     .function = "f", .function_size = 1, .list = list,
                                     .module = module};
}

static struct trk_work *work_new(const char *module)
{
    struct trk_work_options opt = options(module);
    struct trk_work *work;
    int rc = trk_work_new(rig.farm, &opt, &work);

    ck_assert_msg(rc == 0, "trk_work_new: %d %s", rc, trk_last_error());
    ck_assert_int_eq(trk_work_add(work, "hello", 5), 0);
    ck_assert_int_eq(trk_work_close(work), 0);
    return work;
}

static void takes_its_result(struct trk_work *work)
{
    time_t until = time(NULL) + 20;
    struct trk_result r;
    int rc;

    do {
        rc = trk_work_next(work, 1000, &r);
    } while (rc == TRK_AGAIN && time(NULL) < until);
    ck_assert_int_eq(rc, 0);
    ck_assert_int_eq(r.status, TRK_STATUS_OK);
    ck_assert_mem_eq(r.payload, "hello", 5);
}

/* The next message that a person should read. */
static void takes_message(const char *wanted)
{
    struct trk_notice notice;

    do {
        ck_assert_int_eq(trk_farm_notice(rig.farm, 10000, &notice), 0);
        if (notice.kind == TRK_NOTICE_MESSAGE) {
            ck_assert_msg(strstr(notice.text, wanted) != NULL, "wanted %s, got %s", wanted,
                          notice.text);
        } else {
            trk_notice_free(&notice);
            notice.kind = 0;
        }
    } while (notice.kind != TRK_NOTICE_MESSAGE);
    trk_notice_free(&notice);
}

START_TEST(the_own_module_runs_what_names_it_or_none)
{
    const char *const names[] = {NULL, "", "echo"};

    for (size_t i = 0; i < 3; i++) {
        struct trk_work *work = work_new(names[i]);
        takes_its_result(work);
        trk_work_free(work);
    }
}
END_TEST

START_TEST(what_no_vm_can_run_is_said_and_waits_for_one_that_can)
{
    struct trk_work *other = work_new("song"), *own = work_new("echo");
    struct trk_progress progress;
    struct trk_result r;

    takes_message("render waits for a VM of the module song: none of those that are there can run "
                  "it (VM 0 on ");
    takes_its_result(own); /* in the same list: it was not given the other one */
    trk_work_progress(other, &progress);
    ck_assert_uint_eq(progress.vms, 0);
    ck_assert_int_eq(trk_work_next(other, 0, &r), TRK_AGAIN);
    setenv("ECHO_NAME", "song", 1);
    rig_supervisor(&rig, 1);
    unsetenv("ECHO_NAME");
    struct trk_vmlist *again; /* asks who is there, at once */
    ck_assert_int_eq(rig_connect(rig.farm, 0, false, 0, &again), 0);
    takes_its_result(other);
    trk_vmlist_free(again);
    trk_work_free(own);
    trk_work_free(other);
}
END_TEST

START_TEST(fixed_vms_that_cannot_run_it_are_refused)
{
    struct trk_vm *vm = trk_vmlist_get(list, 0);
    struct trk_work_options opt = options("song");
    struct trk_work *work;

    opt.list = NULL;
    opt.vms = &vm;
    opt.vms_count = 1;
    ck_assert_int_eq(trk_work_new(rig.farm, &opt, &work), TRK_EINVAL);
    ck_assert_str_eq(trk_last_error(), "none of these VMs runs work of the module song; start some "
                                       "that do with: trickle vm --rai song");
    opt.module = "a name that is longer than any module's may be";
    ck_assert_int_eq(trk_work_new(rig.farm, &opt, &work), TRK_EINVAL);
    ck_assert_str_eq(trk_last_error(), "the name of a module has at most 31 bytes");
    trk_vm_unref(vm);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("module");
    TCase *tc = tcase_create("module");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_own_module_runs_what_names_it_or_none);
    tcase_add_test(tc, what_no_vm_can_run_is_said_and_waits_for_one_that_can);
    tcase_add_test(tc, fixed_vms_that_cannot_run_it_are_refused);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
