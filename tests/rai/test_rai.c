/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <string.h>

#include "base/mem.h"
#include "rai/rai.h"
#include "tests/suite.h"

static struct trk_rai_reply reply;

static void setup(void)
{
    rai_reply_init(&reply);
}

static void teardown(void)
{
    rai_reply_fini(&reply);
    ck_assert_uint_eq(mem_live(), 0);
}

START_TEST(answer_stands_behind_the_prefix)
{
    ck_assert_int_eq(rai_reply_begin(&reply, 4), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "ab", 2), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "", 0), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "c", 1), 0);
    ck_assert_uint_eq(rai_reply_size(&reply), 3);
    ck_assert_mem_eq(rai_reply_bytes(&reply), "abc", 3);
    ck_assert_int_eq(rai_reply_end(&reply, TRK_STATUS_EXCEPTION), TRK_STATUS_EXCEPTION);
    struct blob *blob = rai_reply_take(&reply);
    ck_assert_uint_eq(blob->size, 7);
    ck_assert_mem_eq(blob->data, "\0\0\0\0abc", 7);
    blob_unref(blob);
}
END_TEST

START_TEST(each_answer_begins_empty)
{
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
        ck_assert_uint_eq(rai_reply_size(&reply), 0);
        ck_assert_int_eq(trk_rai_reply_write(&reply, "abc", 3), 0);
    }
    static char big[2 << 20];
    ck_assert_int_eq(trk_rai_reply_write(&reply, big, sizeof(big)), 0);
    ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
    ck_assert_uint_eq(rai_reply_size(&reply), 0);
}
END_TEST

START_TEST(answer_over_the_limit_becomes_a_sentence)
{
    reply.limit = 10;
    ck_assert_int_eq(rai_reply_begin(&reply, 4), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "0123456789", 10), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "x", 1), TRK_ETOOBIG);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "", 0), TRK_ETOOBIG); /* it stays */
    ck_assert_int_eq(rai_reply_end(&reply, TRK_STATUS_OK), TRK_STATUS_ERROR);
    ck_assert_uint_gt(rai_reply_size(&reply), 10);
    ck_assert_mem_eq(rai_reply_bytes(&reply), "the answer is larger", 20);
    ck_assert_int_eq(rai_reply_begin(&reply, 4), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "0123456789", 10), 0);
    ck_assert_int_eq(rai_reply_end(&reply, TRK_STATUS_OK), TRK_STATUS_OK);
}
END_TEST

START_TEST(sizes_that_wrap_are_over_the_limit)
{
    ck_assert_int_eq(rai_reply_begin(&reply, 4), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "a", 1), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "a", SIZE_MAX), TRK_ETOOBIG);
}
END_TEST

START_TEST(no_memory_becomes_a_sentence)
{
    static char big[4096];
    ck_assert_int_eq(rai_reply_begin(&reply, 4), 0);
    mem_fail_after(1);
    ck_assert_int_eq(trk_rai_reply_write(&reply, big, sizeof(big)), TRK_ENOMEM);
    ck_assert_int_eq(rai_reply_end(&reply, TRK_STATUS_OK), TRK_STATUS_ERROR);
    mem_fail_after(0);
    ck_assert_mem_eq(rai_reply_bytes(&reply), "the VM ran out of memory", 24);
}
END_TEST

START_TEST(no_memory_for_the_prefix_is_told)
{
    mem_fail_after(1);
    ck_assert_int_eq(rai_reply_begin(&reply, 4), TRK_ENOMEM);
    mem_fail_after(0);
    ck_assert_int_eq(rai_reply_begin(&reply, 4), 0);
}
END_TEST

START_TEST(a_status_that_does_not_exist_becomes_a_sentence)
{
    ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
    ck_assert_int_eq(trk_rai_reply_write(&reply, "abc", 3), 0);
    ck_assert_int_eq(rai_reply_end(&reply, -7), TRK_STATUS_ERROR);
    ck_assert_mem_eq(rai_reply_bytes(&reply), "the RAI module returned -7", 26);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rai");
    TCase *tc = tcase_create("reply");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, answer_stands_behind_the_prefix);
    tcase_add_test(tc, each_answer_begins_empty);
    tcase_add_test(tc, answer_over_the_limit_becomes_a_sentence);
    tcase_add_test(tc, sizes_that_wrap_are_over_the_limit);
    tcase_add_test(tc, no_memory_becomes_a_sentence);
    tcase_add_test(tc, no_memory_for_the_prefix_is_told);
    tcase_add_test(tc, a_status_that_does_not_exist_becomes_a_sentence);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
