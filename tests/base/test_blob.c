/* SPDX-License-Identifier: MIT */
/* test_blob.c - reference counts, also from two threads, and blobs that cost no memory. */
#include <check.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/blob.h"
#include "base/mem.h"
#include "tests/suite.h"

static void teardown(void)
{
    mem_fail_after(0);
}

START_TEST(new_blob_is_empty_with_room)
{
    struct blob *b = blob_new(100);

    ck_assert_uint_eq(b->size, 0);
    ck_assert_uint_ge(b->cap, 100);
    blob_unref(b);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(dup_copies_also_nothing)
{
    struct blob *b = blob_dup("abc", 3), *none = blob_dup(NULL, 0);

    ck_assert_uint_eq(b->size, 3);
    ck_assert_mem_eq(b->data, "abc", 3);
    ck_assert_uint_eq(none->size, 0);
    blob_unref(b);
    blob_unref(none);
}
END_TEST

START_TEST(last_unref_frees)
{
    struct blob *b = blob_new(1);

    ck_assert_ptr_eq(blob_ref(b), b);
    blob_unref(b);
    ck_assert_uint_eq(mem_live(), 1);
    blob_unref(b);
    ck_assert_uint_eq(mem_live(), 0);
    blob_unref(NULL);
}
END_TEST

static void *ref_and_unref(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        blob_unref(blob_ref(arg));
    }
    blob_unref(arg);
    return NULL;
}

START_TEST(counting_is_atomic)
{
    struct blob *b = blob_new(1);
    pthread_t threads[2];

    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ref_and_unref, blob_ref(b)), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_uint_eq(atomic_load(&b->refs), 1);
    blob_unref(b);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(large_blob_is_not_touched)
{
    size_t size = (size_t)64 << 20, page = (size_t)sysconf(_SC_PAGESIZE), resident = 0;
    static unsigned char map[((size_t)64 << 20) / 4096];
    struct blob *b;
    uintptr_t start;

    mallopt(M_PERTURB, 0); /* meson test has malloc fill what it gives */
    b = blob_new(size);
    ck_assert_ptr_nonnull(b);
    start = ((uintptr_t)b->data + page - 1) / page * page;
    ck_assert_int_eq(mincore((void *)start, size - page, map), 0);
    for (size_t i = 0; i < size / page - 1; i++) {
        resident += map[i] & 1;
    }
    ck_assert_uint_le(resident, 1024); /* a huge page at its start, at most two */
    blob_unref(b);
}
END_TEST

START_TEST(trimmed_blob_has_its_bytes_and_no_more_room)
{
    struct blob *b = blob_new(100000);

    memcpy(b->data, "abc", 3);
    b->size = 3;
    mem_fail_after(_i);
    blob_trim(&b);
    mem_fail_after(0);
    ck_assert_uint_eq(b->cap, _i == 0 ? 3 : 100000);
    ck_assert_uint_eq(b->size, 3);
    ck_assert_mem_eq(b->data, "abc", 3);
    blob_unref(b);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(too_large_or_no_memory_is_null)
{
    ck_assert_ptr_null(blob_new(SIZE_MAX));
    mem_fail_after(1);
    ck_assert_ptr_null(blob_new(1));
    ck_assert_ptr_null(blob_dup("x", 1));
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blob");
    TCase *tc = tcase_create("blob");

    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_test(tc, new_blob_is_empty_with_room);
    tcase_add_test(tc, dup_copies_also_nothing);
    tcase_add_test(tc, last_unref_frees);
    tcase_add_test(tc, counting_is_atomic);
    tcase_add_test(tc, large_blob_is_not_touched);
    tcase_add_loop_test(tc, trimmed_blob_has_its_bytes_and_no_more_room, 0, 2);
    tcase_add_test(tc, too_large_or_no_memory_is_null);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
