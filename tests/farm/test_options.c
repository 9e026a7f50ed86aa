/* SPDX-License-Identifier: MIT */
/* test_options.c - structs of options that say their size: programs that were built for an older or
 * a newer Trickle, and those that say nothing. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/farm/rig.h"
#include "tests/suite.h"

static struct rig rig;
static struct trk_vmlist *list;

static void setup(void)
{
    rig_start(&rig);
    rig_supervisor(&rig, 1);
    int rc = rig_connect(rig.farm, 1, true, 5000, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void teardown(void)
{
    trk_vmlist_free(list);
    rig_stop(&rig);
}

/* Each gives its options of that size to the function that takes them: at bytes is room for more
 * than they have, all of it zero but for what is theirs. */
static int give_farm(void *bytes, size_t size)
{
    struct trk_farm_options opt = {.size = size, .runtime_dir = rig.dir};
    struct trk_farm *farm;
    int rc;

    memcpy(bytes, &opt, sizeof(opt));
    rc = trk_farm_new(&farm, bytes);
    if (rc == 0) {
        trk_farm_close(farm, 0);
    }
    return rc;
}

static int give_work(void *bytes, size_t size)
{
    struct trk_work_options opt = {.size = size, .list = list};
    struct trk_work *work;
    int rc;

    memcpy(bytes, &opt, sizeof(opt));
    rc = trk_work_new(rig.farm, bytes, &work);
    if (rc == 0) {
        trk_work_free(work);
    }
    return rc;
}

static int give_job(void *bytes, size_t size)
{
    char home[128], command[160];
    struct trk_job_options opt = {.size = size, .name = "sizes", .home = home};
    struct trk_job_opened opened;
    struct trk_job *job;
    int rc;

    snprintf(home, sizeof(home), "%s/home", rig.dir);
    memcpy(bytes, &opt, sizeof(opt));
    rc = trk_job_open(&job, bytes, &opened);
    if (rc == 0) {
        ck_assert_int_eq(trk_job_close(job), 0);
        snprintf(command, sizeof(command), "rm -r %s", home);
        ck_assert_int_eq(system(command), 0);
    }
    return rc;
}

static int no_source(void *ctx, uint64_t index, const void **element, size_t *size)
{
    return TRK_END;
}

static int no_sink(void *ctx, const struct trk_result *result)
{
    return 0;
}

static int give_run(void *bytes, size_t size)
{
    struct trk_work_options options = {.size = sizeof(options), .list = list};
    struct trk_run run = {.size = size, .source = no_source, .sink = no_sink};
    struct trk_work *work;
    int rc;

    memcpy(bytes, &run, sizeof(run));
    ck_assert_int_eq(trk_work_new(rig.farm, &options, &work), 0);
    rc = trk_work_run(work, bytes, 5000);
    trk_work_free(work);
    return rc;
}

static const struct {
    const char *name;
    int (*give)(void *bytes, size_t size);
    size_t size, older; /* of the struct; of what it was at first, or as little as works */
} structs[] = {
    {"trk_farm_options", give_farm, sizeof(struct trk_farm_options),
     offsetof(struct trk_farm_options, lan)},
    {"trk_work_options", give_work, sizeof(struct trk_work_options),
     offsetof(struct trk_work_options, vms)},
    {"trk_job_options", give_job, sizeof(struct trk_job_options),
     offsetof(struct trk_job_options, must_be_new)},
    {"trk_run", give_run, sizeof(struct trk_run), offsetof(struct trk_run, sink_ctx)},
};

static void expect(int i, size_t size, size_t garbage_at, int expected)
{
    _Alignas(16) unsigned char bytes[8192] = {0};
    int rc;

    if (garbage_at > 0) {
        bytes[garbage_at] = 1;
    }
    rc = structs[i].give(bytes, size);
    ck_assert_msg(rc == expected, "%s of %zu bytes (it has %zu): expected %d, got %d %s",
                  structs[i].name, size, structs[i].size, expected, rc, trk_last_error());
}

START_TEST(options_of_an_older_program_are_taken)
{
    expect(_i, structs[_i].size, 0, 0);
    expect(_i, structs[_i].older, 0, 0);
}
END_TEST

START_TEST(what_an_older_program_does_not_have_is_not_read)
{
    expect(_i, structs[_i].older, structs[_i].size, 0);
}
END_TEST

START_TEST(options_of_a_newer_program_are_taken_when_it_uses_nothing_new)
{
    expect(_i, structs[_i].size + 64, 0, 0);
    expect(_i, structs[_i].size + 64, structs[_i].size + 64, 0); /* behind its end */
}
END_TEST

START_TEST(options_of_a_newer_program_that_uses_something_new_are_refused)
{
    expect(_i, structs[_i].size + 64, structs[_i].size + 63, TRK_EVERSION);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "newer Trickle"));
}
END_TEST

START_TEST(options_without_a_size_are_refused)
{
    expect(_i, 0, 0, TRK_EINVAL);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), ".size"));
    expect(_i, (size_t)-1, 0, TRK_EINVAL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *tc = tcase_create("options");
    int count = (int)(sizeof(structs) / sizeof(structs[0]));

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, options_of_an_older_program_are_taken, 0, count);
    tcase_add_loop_test(tc, what_an_older_program_does_not_have_is_not_read, 0, count);
    tcase_add_loop_test(tc, options_of_a_newer_program_are_taken_when_it_uses_nothing_new, 0,
                        count);
    tcase_add_loop_test(tc, options_of_a_newer_program_that_uses_something_new_are_refused, 0,
                        count);
    tcase_add_loop_test(tc, options_without_a_size_are_refused, 0, count);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
