/* SPDX-License-Identifier: MIT */
/* test_fail.c - error numbers have texts, sentences belong to their thread. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#undef fail /* check.h has an old macro of that name */
#include "base/fail.h"
#include "tests/suite.h"

static const int errors[] = {
#define NUMBER(name, number, text) TRK_##name,
    TRK_ERROR_MAP(NUMBER)
#undef NUMBER
};
#define ERROR_COUNT ((int)(sizeof(errors) / sizeof(errors[0])))

START_TEST(every_error_has_a_text_of_its_own)
{
    for (int i = 0; i < ERROR_COUNT; i++) {
        for (int j = 0; j < i; j++) {
            ck_assert_int_ne(errors[i], errors[j]);
            ck_assert_str_ne(trk_strerror(errors[i]), trk_strerror(errors[j]));
        }
        ck_assert_str_ne(trk_strerror(errors[i]), trk_strerror(-9999));
    }
    ck_assert_str_eq(trk_strerror(TRK_ENOMEM), "out of memory");
    ck_assert_ptr_nonnull(trk_strerror(0));
    ck_assert_ptr_nonnull(trk_strerror(TRK_AGAIN));
    ck_assert_ptr_nonnull(trk_strerror(12345));
}
END_TEST

START_TEST(fail_returns_the_error_and_keeps_the_sentence)
{
    ck_assert_str_eq(fail_text(), "");
    errno = ENOENT;
    ck_assert_int_eq(fail(TRK_EIO, "%s %d", "seven", 7), TRK_EIO);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_str_eq(fail_text(), "seven 7");
}
END_TEST

START_TEST(a_sentence_may_be_part_of_the_next)
{
    fail(TRK_EIO, "inner");
    fail(TRK_EIO, "outer: %s", fail_text());
    ck_assert_str_eq(fail_text(), "outer: inner");
}
END_TEST

START_TEST(long_sentences_are_cut)
{
    char text[5000];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    fail(TRK_EIO, "%s", text);
    ck_assert_uint_gt(strlen(fail_text()), 500);
    ck_assert_uint_lt(strlen(fail_text()), sizeof(text) - 1);
}
END_TEST

static void *fail_elsewhere(void *arg)
{
    ck_assert_str_eq(fail_text(), "");
    fail(TRK_EIO, "theirs");
    return NULL;
}

START_TEST(each_thread_has_its_own)
{
    pthread_t thread;

    fail(TRK_EIO, "mine");
    ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    ck_assert_str_eq(fail_text(), "mine");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fail");
    TCase *tc = tcase_create("fail");

    tcase_add_test(tc, every_error_has_a_text_of_its_own);
    tcase_add_test(tc, fail_returns_the_error_and_keeps_the_sentence);
    tcase_add_test(tc, a_sentence_may_be_part_of_the_next);
    tcase_add_test(tc, long_sentences_are_cut);
    tcase_add_test(tc, each_thread_has_its_own);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
