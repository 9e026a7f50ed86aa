/* SPDX-License-Identifier: MIT */
/* test_hostile.c - every message, damaged in every way that can be enumerated and some that
 * cannot. Bodies are copied into blobs of their exact size, so that a sanitizer sees the first
 * byte read behind them. What is accepted must survive another round unchanged. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/suite.h"
#include "samples.h"

static void teardown(void)
{
    mem_fail_after(0);
}

/* Decodes a copy of bytes. What decodes is encoded, decoded and encoded again: the two encodings
 * must be the same, and for flat layouts the same as bytes. */
static int offer(enum sample_kind kind, const uint8_t *bytes, size_t size)
{
    struct blob *body = blob_dup(bytes, size), *first = NULL, *second = NULL;
    int rc = sample_again(kind, body, &first);

    ck_assert_msg(rc == 0 || rc == TRK_ECORRUPT, "%s: rc %d", sample_name(kind), rc);
    if (rc == 0) {
        ck_assert_int_eq(sample_again(kind, first, &second), 0);
        ck_assert_uint_eq(first->size, second->size);
        ck_assert_mem_eq(first->data, second->data, first->size);
        if (sample_is_flat(kind)) {
            ck_assert_uint_eq(first->size, size);
            ck_assert_int_eq(memcmp(first->data, bytes, size), 0);
        }
    }
    blob_unref(body);
    blob_unref(first);
    blob_unref(second);
    return rc;
}

START_TEST(sample_survives)
{
    enum sample_kind kind = (enum sample_kind)_i;
    struct blob *body = sample_body(kind), *again = NULL;

    ck_assert_int_eq(sample_again(kind, body, &again), 0);
    ck_assert_uint_eq(again->size, body->size);
    ck_assert_mem_eq(again->data, body->data, body->size);
    blob_unref(body);
    blob_unref(again);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(every_truncation_is_refused_or_valid_in_itself)
{
    enum sample_kind kind = (enum sample_kind)_i;
    struct blob *body = sample_body(kind);

    for (size_t size = 0; size < body->size; size++) {
        int rc = offer(kind, body->data, size);

        if (!sample_is_open_ended(kind)) {
            ck_assert_msg(rc == TRK_ECORRUPT, "%s cut to %zu: rc %d", sample_name(kind), size, rc);
        }
    }
    blob_unref(body);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(bytes_behind_the_end_are_refused)
{
    enum sample_kind kind = (enum sample_kind)_i;
    struct blob *body = sample_body(kind);
    struct blob *longer = blob_new(body->size + 1);

    memcpy(longer->data, body->data, body->size);
    longer->data[body->size] = 0;
    ck_assert_int_eq(offer(kind, longer->data, body->size + 1),
                     sample_is_open_ended(kind) ? 0 : TRK_ECORRUPT);
    blob_unref(body);
    blob_unref(longer);
}
END_TEST

/* All other values in short bodies; in long ones, for the time it takes, each bit flipped. */
START_TEST(every_byte_may_be_another)
{
    enum sample_kind kind = (enum sample_kind)_i;
    struct blob *body = sample_body(kind);

    for (size_t at = 0; at < body->size; at++) {
        uint8_t before = body->data[at];

        for (unsigned flip = 1; flip < 256; flip = body->size < 128 ? flip + 1 : flip * 2) {
            body->data[at] = (uint8_t)(before ^ flip);
            offer(kind, body->data, body->size);
        }
        body->data[at] = before;
    }
    blob_unref(body);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(random_damage_never_crashes)
{
    enum sample_kind kind = (enum sample_kind)_i;
    struct blob *body = sample_body(kind);
    uint64_t seed = 0x7472696b + (uint64_t)_i;
    uint8_t bytes[2048];

    ck_assert_uint_le(body->size, sizeof(bytes));
    for (int round = 0; round < 2000; round++) {
        size_t size = body->size;
        unsigned hits = 1 + sample_random(&seed) % 8;

        memcpy(bytes, body->data, size);
        while (hits-- > 0) {
            static const uint8_t nasty[] = {0, 0x7f, 0x80, 0xc1, 0xdd, 0xdf, 0xc6, 0xff};
            size_t at = sample_random(&seed) % size;

            bytes[at] = sample_random(&seed) % 2 == 0 ? nasty[sample_random(&seed) % 8]
                                                      : (uint8_t)sample_random(&seed);
        }
        if (sample_random(&seed) % 4 == 0) {
            size = sample_random(&seed) % (size + 1);
        }
        offer(kind, bytes, size);
    }
    blob_unref(body);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(noise_never_crashes)
{
    enum sample_kind kind = (enum sample_kind)_i;
    uint64_t seed = 99 + (uint64_t)_i;
    uint8_t bytes[64];

    for (int round = 0; round < 5000; round++) {
        size_t size = sample_random(&seed) % sizeof(bytes);

        for (size_t i = 0; i < size; i++) {
            bytes[i] = (uint8_t)sample_random(&seed);
        }
        offer(kind, bytes, size);
    }
}
END_TEST

START_TEST(each_failing_allocation_is_reported_and_leaks_nothing)
{
    enum sample_kind kind = (enum sample_kind)_i;

    for (uint64_t n = 1;; n++) {
        struct blob *body, *again = NULL;
        int rc = TRK_ENOMEM;

        mem_fail_after(n);
        body = sample_body(kind);
        if (body != NULL) {
            rc = sample_again(kind, body, &again);
        }
        mem_fail_after(0);
        blob_unref(body);
        blob_unref(again);
        ck_assert_uint_eq(mem_live(), 0);
        if (rc == 0) {
            ck_assert_uint_ge(n, 3); /* it took two blobs at least */
            break;
        }
        ck_assert_int_eq(rc, TRK_ENOMEM);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hostile");
    TCase *tc = tcase_create("hostile");

    tcase_set_timeout(tc, 50);
    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_loop_test(tc, sample_survives, 0, SAMPLE_KIND_COUNT);
    tcase_add_loop_test(tc, every_truncation_is_refused_or_valid_in_itself, 0, SAMPLE_KIND_COUNT);
    tcase_add_loop_test(tc, bytes_behind_the_end_are_refused, 0, SAMPLE_KIND_COUNT);
    tcase_add_loop_test(tc, every_byte_may_be_another, 0, SAMPLE_KIND_COUNT);
    tcase_add_loop_test(tc, random_damage_never_crashes, 0, SAMPLE_KIND_COUNT);
    tcase_add_loop_test(tc, noise_never_crashes, 0, SAMPLE_KIND_COUNT);
    tcase_add_loop_test(tc, each_failing_allocation_is_reported_and_leaks_nothing, 0,
                        SAMPLE_KIND_COUNT);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
