/* SPDX-License-Identifier: MIT */
/* test_native.c - functions of shared objects on real VM processes: sent, found, kept, refused. The
 * VMs' own module is another one (echo_vm). */
#include <check.h>
#include <dirent.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/farm/rig.h"
#include "tests/suite.h"

#define OBJECT_MAX ((size_t)8 << 20)

static struct rig rig;
static struct trk_vmlist *list;
static char cache[96], copy[128]; /* XDG_CACHE_HOME of the VMs; a place for a changed object */
static struct trk_native native;

static void start(const char *cache_home)
{
    rig_start(&rig);
    snprintf(cache, sizeof(cache), "%s/cache", rig.dir);
    snprintf(copy, sizeof(copy), "%s/copy.so", rig.dir);
    setenv("XDG_CACHE_HOME", cache_home != NULL ? cache_home : cache, 1);
    rig_supervisor(&rig, 2);
    int rc = rig_connect(rig.farm, 2, true, 0, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void setup(void)
{
    start(NULL);
}

static void teardown(void)
{
    char command[384];

    trk_native_free(&native);
    trk_vmlist_free(list);
    trk_farm_close(rig.farm, 2000);
    rig.farm = NULL;
    snprintf(command, sizeof(command), "rm -rf %s %s %s/home", cache, copy, rig.dir);
    ck_assert_int_eq(system(command), 0);
    rig_stop(&rig);
}

static void name_sent(const char *path, const char *symbol)
{
    int rc = trk_native_send(rig.farm, path, symbol, &native);
    ck_assert_msg(rc == 0, "trk_native_send: %d %s", rc, trk_last_error());
}

static struct trk_work *work_new(struct trk_farm *farm, const char *key)
{
    struct trk_work_options opt = {.size = sizeof(opt), .name = "native", .list = list,
                                   .module = TRK_NATIVE_MODULE, .function = native.function,
                                   .function_size = native.function_size, .key = key,
                                   .ordered = true};
    struct trk_work *work;

    memcpy(opt.fingerprint, native.fingerprint, sizeof(opt.fingerprint));
    int rc = trk_work_new(farm, &opt, &work);
    ck_assert_msg(rc == 0, "trk_work_new: %d %s", rc, trk_last_error());
    return work;
}

static struct trk_result next(struct trk_work *work)
{
    time_t until = time(NULL) + 30;
    struct trk_result r;
    int rc;

    do {
        rc = trk_work_next(work, 1000, &r);
    } while (rc == TRK_AGAIN && time(NULL) < until);
    ck_assert_msg(rc == 0, "no result: %d %s", rc, trk_last_error());
    return r;
}

/* One element; it stays open, so that its result can be looked at. */
static struct trk_work *run_one(const void *element, size_t size, struct trk_result *r)
{
    struct trk_work *work = work_new(rig.farm, NULL);

    ck_assert_int_eq(trk_work_add(work, element, size), 0);
    ck_assert_int_eq(trk_work_close(work), 0);
    *r = next(work);
    return work;
}

static void says(int status, const char *wanted)
{
    struct trk_result r;
    struct trk_work *work = run_one("x", 1, &r);
    char text[1024];

    snprintf(text, sizeof(text), "%.*s", (int)r.size, (const char *)r.payload);
    ck_assert_msg((int)r.status == status && strstr(text, wanted) != NULL,
                  "wanted status %d and '%s', got %d and '%s'", status, wanted, (int)r.status,
                  text);
    trk_work_free(work);
}

/* How many blobs the cache has. */
static int kept(void)
{
    char path[128];
    struct dirent *entry;
    int count = 0;

    snprintf(path, sizeof(path), "%s/trickle/blobs", cache);
    DIR *dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        count += entry->d_name[0] != '.';
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

/* The object with n zeros behind it, and from replaced by to, or its machine by another. */
static void change_copy(size_t zeros, const char *from, const char *to, int machine)
{
    static unsigned char bytes[OBJECT_MAX];
    FILE *in = fopen(getenv("NATIVE_OBJECT"), "rb"), *out = fopen(copy, "wb");

    ck_assert(in != NULL && out != NULL);
    memset(bytes, 0, sizeof(bytes));
    size_t size = fread(bytes, 1, sizeof(bytes), in) + zeros;
    ck_assert_uint_lt(size, sizeof(bytes));
    if (machine != 0) {
        ((Elf64_Ehdr *)bytes)->e_machine = (Elf64_Half)machine;
    }
    unsigned char *at = from != NULL ? memmem(bytes, size, from, strlen(from)) : NULL;
    ck_assert(from == NULL || at != NULL);
    if (at != NULL) {
        memcpy(at, to, strlen(to));
    }
    ck_assert_uint_eq(fwrite(bytes, 1, size, out), size);
    fclose(in);
    fclose(out);
}

START_TEST(elements_run_in_a_sent_object)
{
    uint64_t told[3];

    name_sent(getenv("NATIVE_OBJECT"), "who");
    struct trk_work *work = work_new(rig.farm, NULL);
    for (int i = 0; i < 500; i++) {
        ck_assert_int_eq(trk_work_add(work, NULL, 0), 0);
    }
    ck_assert_int_eq(trk_work_close(work), 0);
    for (uint64_t i = 0; i < 500; i++) {
        struct trk_result r = next(work);
        if (r.status != TRK_STATUS_OK || r.size != sizeof(told)) {
            ck_abort_msg("element %d: status %d: %.*s", (int)i, (int)r.status, (int)r.size,
                         (const char *)r.payload);
        }
        memcpy(told, r.payload, sizeof(told));
        if (told[0] != i || told[1] != 1 || told[2] == (uint64_t)getpid()) {
            ck_abort_msg("element %d was told index %d, attempt %d", (int)i, (int)told[0],
                         (int)told[1]);
        }
    }
    trk_work_free(work);
    ck_assert_int_eq(kept(), 1);
}
END_TEST

START_TEST(an_object_is_found_on_the_machine)
{
    struct trk_result r;

    ck_assert_int_eq(trk_native_find(getenv("NATIVE_OBJECT"), "echo", &native), 0);
    struct trk_work *work = run_one("hello", 5, &r);
    ck_assert_int_eq(r.status, TRK_STATUS_OK);
    ck_assert_mem_eq(r.payload, "hello", 5);
    trk_work_free(work);
    ck_assert_int_eq(kept(), 0);
}
END_TEST

START_TEST(large_objects_and_results_come_whole)
{
    uint64_t size = 5000000;
    struct trk_result r;

    change_copy((size_t)3 << 20, NULL, NULL, 0);
    name_sent(copy, "big");
    struct trk_work *work = run_one(&size, sizeof(size), &r);
    ck_assert_msg(r.status == TRK_STATUS_OK && r.size == size, "status %d, %zu bytes: %.100s",
                  (int)r.status, r.size, (const char *)r.payload);
    trk_work_free(work);
}
END_TEST

static void keep_nothing(void)
{
    start("/dev/null/nowhere");
}

START_TEST(an_object_runs_from_memory)
{
    says(TRK_STATUS_EXCEPTION, "seven returned 7");
    ck_assert_int_eq(kept(), 0);
}
END_TEST

static void name_seven(void)
{
    keep_nothing();
    name_sent(getenv("NATIVE_OBJECT"), "seven");
}

/* More than a VM has spellings for, if it does not take care: each works all the same. */
START_TEST(many_objects_are_kept_apart)
{
    char text[16];

    for (int i = 1; i <= 130; i++) {
        snprintf(text, sizeof(text), "object-%03d", i);
        change_copy(0, "object-000", text, 0);
        name_sent(copy, "which");
        says(TRK_STATUS_OK, text);
        trk_native_free(&native);
    }
}
END_TEST

START_TEST(failures_are_sentences)
{
    const char *object = getenv("NATIVE_OBJECT");

    name_sent(object, "refuse");
    says(TRK_STATUS_EXCEPTION, "no such tile");
    trk_native_free(&native);
    name_sent(object, "moved_by_itself");
    says(TRK_STATUS_EXCEPTION, "moved_by_itself returned -16");
    trk_native_free(&native);
    name_sent(object, "state");
    says(TRK_STATUS_OK, "not durable");
    trk_native_free(&native);
    name_sent(object, "nothing_of_that_name");
    says(TRK_STATUS_ERROR, "has no function nothing_of_that_name");
    trk_native_free(&native);
    ck_assert_int_eq(trk_native_find("libnowhere.so.5", "f", &native), 0);
    says(TRK_STATUS_ERROR, "cannot load libnowhere.so.5");
    trk_native_free(&native);
    name_sent(getenv("NATIVE_UNDEFINED"), "echo");
    says(TRK_STATUS_ERROR, "undefined symbol: trickle_nobody_defines_this");
    trk_native_free(&native);
    change_copy(0, "libc.so.6", "libq.so.6", 0);
    name_sent(copy, "echo");
    says(TRK_STATUS_ERROR, "libq.so.6: cannot open shared object file");
    trk_native_free(&native);
    change_copy(0, NULL, NULL, EM_S390);
    name_sent(copy, "echo");
    says(TRK_STATUS_ERROR, "copy.so is for S/390, and this VM is on");
}
END_TEST

START_TEST(what_is_no_function_has_no_name)
{
    char none[128];

    ck_assert_int_eq(trk_native_send(rig.farm, rig.dir, "echo", &native), TRK_EINVAL);
    ck_assert_int_eq(trk_native_send(rig.farm, "/no/such/file", "echo", &native), TRK_EIO);
    snprintf(none, sizeof(none), "/proc/self/comm");
    ck_assert_int_eq(trk_native_send(rig.farm, none, "echo", &native), TRK_EINVAL);
    ck_assert_ptr_nonnull(strstr(trk_last_error(), "no shared object"));
    ck_assert_int_eq(trk_native_send(rig.farm, getenv("NATIVE_OBJECT"), "", &native), TRK_EINVAL);
    ck_assert_int_eq(trk_native_find("", "f", &native), TRK_EINVAL);
    native.function = malloc(4);
    native.function_size = 4;
    memcpy(native.function, "\1\1\4\0", 4);
    says(TRK_STATUS_ERROR, "names no native function");
    free(native.function);
    native.function = NULL;
}
END_TEST

START_TEST(an_object_that_nobody_has_is_told_of)
{
    struct trk_farm *other = rig_farm(&rig);

    ck_assert_int_eq(trk_native_send(other, getenv("NATIVE_OBJECT"), "echo", &native), 0);
    says(TRK_STATUS_ERROR, "the program does not have native_object.so any more");
    trk_farm_close(other, 1000);
}
END_TEST

START_TEST(a_crash_is_the_elements)
{
    struct trk_result r;

    name_sent(getenv("NATIVE_CRASH"), "echo"); /* while it is loaded */
    struct trk_work *work = run_one("x", 1, &r);
    ck_assert_int_eq(r.status, TRK_STATUS_ERROR);
    ck_assert_uint_eq(r.attempts, 3);
    trk_work_free(work);
    trk_native_free(&native);
    name_sent(getenv("NATIVE_OBJECT"), "crash");
    work = run_one("x", 1, &r);
    ck_assert_int_eq(r.status, TRK_STATUS_ERROR);
    ck_assert_uint_eq(r.attempts, 3);
    trk_work_free(work);
}
END_TEST

START_TEST(a_cancelled_function_sees_it)
{
    struct trk_result r;
    uint64_t before[3], after[3];

    name_sent(getenv("NATIVE_OBJECT"), "who");
    struct trk_work *work = run_one("x", 1, &r);
    memcpy(before, r.payload, sizeof(before));
    trk_work_free(work);
    trk_native_free(&native);
    name_sent(getenv("NATIVE_OBJECT"), "endless");
    struct trk_work *endless = work_new(rig.farm, NULL);
    for (int i = 0; i < 2; i++) { /* both VMs */
        ck_assert_int_eq(trk_work_add(endless, "x", 1), 0);
    }
    ck_assert_int_eq(trk_work_flush(endless), 0);
    trk_work_cancel(endless, true);
    trk_native_free(&native);
    name_sent(getenv("NATIVE_OBJECT"), "who");
    for (int i = 0; i < 20; i++) {
        work = run_one("x", 1, &r);
        memcpy(after, r.payload, sizeof(after));
        trk_work_free(work);
        if (after[2] == before[2]) {
            break;
        }
    }
    trk_work_free(endless);
    ck_assert_msg(after[2] == before[2], "VM %d was ended", (int)before[2]);
}
END_TEST

/* Opens the job; 0, or what trk_work_new says. Adds three elements where there is a work. */
static int durable(struct trk_job **job, struct trk_farm **farm, struct trk_work **work)
{
    char home[96];
    struct trk_job_options opt = {.size = sizeof(opt), .name = "native", .home = home};
    struct trk_farm_options options = {.size = sizeof(options), .runtime_dir = rig.dir};
    struct trk_job_opened opened;

    snprintf(home, sizeof(home), "%s/home", rig.dir);
    ck_assert_int_eq(trk_job_open(job, &opt, &opened), 0);
    options.job = *job;
    ck_assert_int_eq(trk_farm_new(farm, &options), 0);
    ck_assert_int_eq(rig_connect(*farm, 2, true, 5000, &list), 0);
    ck_assert_int_eq(trk_native_send(*farm, copy, "state", &native), 0);
    struct trk_work_options wo = {.size = sizeof(wo), .name = "native", .list = list,
                                  .module = TRK_NATIVE_MODULE, .function = native.function,
                                  .function_size = native.function_size, .key = "native#1",
                                  .ordered = true};
    memcpy(wo.fingerprint, native.fingerprint, sizeof(wo.fingerprint));
    int rc = trk_work_new(*farm, &wo, work);
    for (int i = 0; i < 3 && rc == 0; i++) {
        ck_assert_int_eq(trk_work_add(*work, "abc" + i, 1), 0);
    }
    return rc;
}

static void end_durable(struct trk_job *job, struct trk_farm *farm)
{
    trk_native_free(&native);
    trk_vmlist_free(list);
    trk_farm_close(farm, 1000);
    ck_assert_int_eq(trk_job_close(job), 0);
    list = NULL;
}

START_TEST(a_job_knows_the_code_by_its_content)
{
    struct trk_job *job;
    struct trk_farm *farm;
    struct trk_work *work;
    struct trk_progress progress;

    trk_vmlist_free(list); /* the job's farm is to have the VMs */
    for (int run = 0; run < 2; run++) {
        change_copy(0, NULL, NULL, 0);
        ck_assert_int_eq(durable(&job, &farm, &work), 0);
        ck_assert_int_eq(trk_work_close(work), 0);
        for (int i = 0; i < 3; i++) {
            struct trk_result r = next(work);
            ck_assert_msg(r.status == TRK_STATUS_OK && r.size == 1 &&
                          memcmp(r.payload, "abc" + i, 1) == 0, "status %d: %.*s", (int)r.status,
                          (int)r.size, (const char *)r.payload);
        }
        trk_work_progress(work, &progress);
        ck_assert_uint_eq(progress.restored, run == 0 ? 0 : 3);
        trk_work_free(work);
        end_durable(job, farm);
    }
    change_copy(8, NULL, NULL, 0);
    ck_assert_int_eq(durable(&job, &farm, &work), TRK_ECHANGED);
    end_durable(job, farm);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("native");
    TCase *tc = tcase_create("native"), *memory = tcase_create("memory");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, elements_run_in_a_sent_object);
    tcase_add_test(tc, an_object_is_found_on_the_machine);
    tcase_add_test(tc, large_objects_and_results_come_whole);
    tcase_add_test(tc, many_objects_are_kept_apart);
    tcase_add_test(tc, failures_are_sentences);
    tcase_add_test(tc, what_is_no_function_has_no_name);
    tcase_add_test(tc, an_object_that_nobody_has_is_told_of);
    tcase_add_test(tc, a_crash_is_the_elements);
    tcase_add_test(tc, a_cancelled_function_sees_it);
    tcase_add_test(tc, a_job_knows_the_code_by_its_content);
    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(memory, name_seven, teardown);
    tcase_set_timeout(memory, 60);
    tcase_add_test(memory, an_object_runs_from_memory);
    suite_add_tcase(suite, memory);
    return run_suite(suite);
}
