/* SPDX-License-Identifier: MIT */
/* test_buf.c - the writer's growth and failure, the reader's bounds, byte order. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tests/suite.h"

static void teardown(void)
{
    mem_fail_after(0);
}

START_TEST(what_was_put_is_read_back)
{
    struct buf b;
    struct cursor c;
    struct blob *blob;

    buf_init(&b);
    buf_put_u8(&b, 0xfe);
    buf_put_u16(&b, 0xfedc);
    buf_put_u32(&b, 0xfedcba98u);
    buf_put_u64(&b, UINT64_C(0xfedcba9876543210));
    buf_put(&b, "tail", 4);
    ck_assert_uint_eq(buf_size(&b), 19);
    blob = buf_take(&b);
    cursor_init(&c, blob->data, blob->size);
    ck_assert_uint_eq(cursor_get_u8(&c), 0xfe);
    ck_assert_uint_eq(cursor_get_u16(&c), 0xfedc);
    ck_assert_uint_eq(cursor_get_u32(&c), 0xfedcba98u);
    ck_assert_uint_eq(cursor_get_u64(&c), UINT64_C(0xfedcba9876543210));
    ck_assert_uint_eq(cursor_left(&c), 4);
    ck_assert_mem_eq(cursor_get(&c, 4), "tail", 4);
    ck_assert(!c.has_failed);
    blob_unref(blob);
}
END_TEST

START_TEST(numbers_are_little_endian)
{
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t out[8];

    ck_assert_uint_eq(le_load_u16(bytes), 0x0201);
    ck_assert_uint_eq(le_load_u32(bytes), 0x04030201u);
    ck_assert_uint_eq(le_load_u64(bytes), UINT64_C(0x0807060504030201));
    le_store_u64(out, UINT64_C(0x0807060504030201));
    ck_assert_mem_eq(out, bytes, 8);
    le_store_u32(out, 0x04030201u);
    ck_assert_mem_eq(out, bytes, 4);
}
END_TEST

START_TEST(it_grows_as_needed)
{
    struct buf b;
    struct blob *blob;

    buf_init(&b);
    for (int i = 0; i < 100000; i++) {
        buf_put_u8(&b, (uint8_t)(i % 251));
    }
    blob = buf_take(&b);
    ck_assert_uint_eq(blob->size, 100000);
    for (int i = 0; i < 100000; i++) {
        ck_assert_int_eq(blob->data[i], i % 251);
    }
    ck_assert_uint_eq(buf_size(&b), 0); /* and b is empty again */
    blob_unref(blob);
}
END_TEST

START_TEST(reserve_leaves_size_to_the_caller)
{
    struct buf b;
    uint8_t *at;

    buf_init(&b);
    buf_put(&b, "ab", 2);
    at = buf_reserve(&b, 1000);
    ck_assert_ptr_nonnull(at);
    ck_assert_uint_eq(buf_size(&b), 2);
    memset(at, 'c', 1000);
    b.blob->size += 1000;
    buf_put(&b, "d", 1);
    ck_assert_uint_eq(buf_size(&b), 1003);
    ck_assert_mem_eq(b.blob->data, "abcc", 4);
    ck_assert_int_eq(b.blob->data[1002], 'd');
    buf_fini(&b);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(empty_buf_gives_an_empty_blob)
{
    struct buf b;
    struct blob *blob;

    buf_init(&b);
    blob = buf_take(&b);
    ck_assert_ptr_nonnull(blob);
    ck_assert_uint_eq(blob->size, 0);
    blob_unref(blob);
    buf_put(&b, NULL, 0);
    buf_fini(&b);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(failure_sticks_and_leaks_nothing)
{
    int n = 1;
    struct blob *blob;

    for (;; n++) {
        struct buf b;

        buf_init(&b);
        mem_fail_after((uint64_t)n);
        for (int i = 0; i < 1000; i++) {
            buf_put_u64(&b, 1);
        }
        mem_fail_after(0);
        if (b.has_failed) {
            buf_put(&b, "x", 1); /* memory is back, the gap is not */
            ck_assert_ptr_null(buf_reserve(&b, 1));
        }
        blob = buf_take(&b);
        ck_assert(!b.has_failed);
        if (blob != NULL) {
            break;
        }
        ck_assert_uint_eq(mem_live(), 0);
    }
    ck_assert_int_gt(n, 3);
    ck_assert_uint_eq(blob->size, 8000);
    blob_unref(blob);
}
END_TEST

START_TEST(absurd_reserve_fails)
{
    struct buf b;

    buf_init(&b);
    buf_put(&b, "x", 1);
    ck_assert_ptr_null(buf_reserve(&b, SIZE_MAX));
    ck_assert(b.has_failed);
    ck_assert_ptr_null(buf_take(&b));
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(cursor_never_leaves_its_bytes)
{
    static const uint8_t bytes[7];

    for (size_t size = 0; size < sizeof(bytes); size++) {
        struct cursor c;

        cursor_init(&c, bytes, size);
        ck_assert_uint_eq(cursor_get_u64(&c), 0);
        ck_assert(c.has_failed);
        ck_assert_uint_eq(cursor_left(&c), 0);
        ck_assert_uint_eq(cursor_get_u8(&c), 0); /* would fit, but a read has failed before */
        ck_assert_ptr_null(cursor_get(&c, 0));
        cursor_init(&c, bytes, size);
        ck_assert_ptr_null(cursor_get(&c, SIZE_MAX));
    }
}
END_TEST

START_TEST(cursor_over_nothing_is_valid)
{
    struct cursor c;

    cursor_init(&c, NULL, 0);
    ck_assert_uint_eq(cursor_left(&c), 0);
    ck_assert_ptr_nonnull(cursor_get(&c, 0));
    ck_assert(!c.has_failed);
    ck_assert_ptr_null(cursor_get(&c, 1));
    ck_assert(c.has_failed);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("buf");
    TCase *tc = tcase_create("buf");

    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_test(tc, what_was_put_is_read_back);
    tcase_add_test(tc, numbers_are_little_endian);
    tcase_add_test(tc, it_grows_as_needed);
    tcase_add_test(tc, reserve_leaves_size_to_the_caller);
    tcase_add_test(tc, empty_buf_gives_an_empty_blob);
    tcase_add_test(tc, failure_sticks_and_leaks_nothing);
    tcase_add_test(tc, absurd_reserve_fails);
    tcase_add_test(tc, cursor_never_leaves_its_bytes);
    tcase_add_test(tc, cursor_over_nothing_is_valid);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
