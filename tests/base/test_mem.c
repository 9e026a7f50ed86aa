/* SPDX-License-Identifier: MIT */
/* test_mem.c - the allocation seam: the fuse and the counter that other tests rely on. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/suite.h"

static void teardown(void)
{
    mem_fail_after(0);
}

START_TEST(sizes_of_zero_give_real_pointers)
{
    void *a = mem_alloc(0), *b = mem_zalloc(0, 8), *c = mem_realloc(NULL, 0);

    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_nonnull(b);
    ck_assert_ptr_nonnull(c);
    c = mem_realloc(c, 0);
    ck_assert_ptr_nonnull(c);
    mem_free(a);
    mem_free(b);
    mem_free(c);
}
END_TEST

START_TEST(zalloc_clears_and_checks_the_product)
{
    unsigned char *p = mem_zalloc(7, 13);

    for (int i = 0; i < 7 * 13; i++) {
        ck_assert_int_eq(p[i], 0);
    }
    mem_free(p);
    ck_assert_ptr_null(mem_zalloc(SIZE_MAX / 2, 3));
}
END_TEST

START_TEST(strdup_copies)
{
    char *copy = mem_strdup("trickle");

    ck_assert_str_eq(copy, "trickle");
    mem_free(copy);
}
END_TEST

START_TEST(live_counts_what_is_not_freed)
{
    uint64_t before = mem_live();
    void *a = mem_alloc(1), *b = mem_zalloc(1, 1), *c = mem_realloc(NULL, 1);

    ck_assert_uint_eq(mem_live(), before + 3);
    c = mem_realloc(c, 1000);
    ck_assert_uint_eq(mem_live(), before + 3);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(NULL);
    ck_assert_uint_eq(mem_live(), before);
}
END_TEST

START_TEST(fuse_lets_n_minus_one_through_and_stays_burnt)
{
    void *kept[2];

    mem_fail_after(3);
    kept[0] = mem_alloc(1);
    kept[1] = mem_zalloc(1, 1);
    ck_assert_ptr_nonnull(kept[0]);
    ck_assert_ptr_nonnull(kept[1]);
    ck_assert_ptr_null(mem_alloc(1));
    ck_assert_ptr_null(mem_zalloc(1, 1));
    ck_assert_ptr_null(mem_strdup("x"));
    ck_assert_ptr_null(mem_realloc(kept[0], 100)); /* and kept[0] is still there */
    mem_fail_after(0);
    mem_free(kept[0]);
    mem_free(kept[1]);
    kept[0] = mem_alloc(1);
    ck_assert_ptr_nonnull(kept[0]);
    mem_free(kept[0]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mem");
    TCase *tc = tcase_create("mem");

    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_test(tc, sizes_of_zero_give_real_pointers);
    tcase_add_test(tc, zalloc_clears_and_checks_the_product);
    tcase_add_test(tc, strdup_copies);
    tcase_add_test(tc, live_counts_what_is_not_freed);
    tcase_add_test(tc, fuse_lets_n_minus_one_through_and_stays_burnt);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
