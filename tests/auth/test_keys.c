/* SPDX-License-Identifier: MIT */
/* test_keys.c - the text of keys: what is taken, what is refused, and that nothing is quoted. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/keys.h"
#include "tests/suite.h"

/* The first 4 bytes of SHA-256 over 32 bytes of 0x11 and of 0x22 (by sha256sum). */
#define ONES "1111111111111111111111111111111111111111111111111111111111111111"
#define TWOS "2222222222222222222222222222222222222222222222222222222222222222"
#define ONE "trickle-key-1 02d449a3 " ONES
#define TWO "trickle-key-1 9f72ea0c " TWOS

static struct auth_keys keys;

static int parse(const char *text)
{
    memset(&keys, 0x77, sizeof(keys));
    return auth_keys_parse(&keys, text, strlen(text), "/home/a/key");
}

START_TEST(good_text_is_taken)
{
    static const struct {
        const char *text;
        size_t count;
    } good[] = {{ONE "\n", 1}, {ONE, 1}, {ONE "\n" TWO "\n", 2}, {TWO "\n" ONE, 2}};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        ck_assert_msg(parse(good[i].text) == 0, "%zu: %s", i, fail_text());
        ck_assert_uint_eq(keys.count, good[i].count);
    }
    ck_assert_int_eq(parse(TWO "\n" ONE), 0);
    ck_assert_str_eq(keys.key[0].id, "9f72ea0c"); /* the first stays the first */
    ck_assert_uint_eq(keys.key[0].secret[31], 0x22);
    ck_assert_uint_eq(keys.key[1].secret[0], 0x11);
}
END_TEST

static const struct {
    const char *text, *says;
} bad[] = {
    {"", "is empty"},
    {"\n", "line 1 is not a key"},
    {"ssh-rsa AAAA\n", "line 1 is not a key"},
    {ONE "\n\n", "line 2 is not a key"},
    {"trickle-key-2 02d449a3 " ONES "\n", "another version"},
    {"trickle-key-1", "another version"},
    {"trickle-key-1 ", "damaged"},
    {"trickle-key-1 02d449a3 " ONES "1\n", "damaged"},
    {"trickle-key-1 02d449a3 " ONES " \n", "damaged"},
    {"trickle-key-1 02d449a3 " ONES "\r\n", "damaged"},
    {"trickle-key-1 02d449a3-" ONES "\n", "damaged"},
    {"trickle-key-1 02d449a3 111111111111111111111111111111111111111111111111111111111111111\n",
     "damaged"},
    {"trickle-key-1 02d449a3 g111111111111111111111111111111111111111111111111111111111111111\n",
     "damaged"},
    {"trickle-key-1 02d449a4 " ONES "\n", "its ID and its secret differ"},
    {"trickle-key-1 02D449A3 " ONES "\n", "its ID and its secret differ"},
    {"trickle-key-1 02d449a3 " TWOS "\n", "its ID and its secret differ"},
    {ONE "\n" ONE "\n", "line 2 repeats"},
    {ONE "\n" TWO "\n" ONE "\n", "more than 2 keys"},
};

START_TEST(bad_text_is_refused_without_quoting_it)
{
    static const struct auth_keys none;
    ck_assert_int_eq(parse(bad[_i].text), TRK_ECORRUPT);
    ck_assert_msg(strstr(fail_text(), bad[_i].says) != NULL, "%s", fail_text());
    ck_assert_ptr_nonnull(strstr(fail_text(), "/home/a/key"));
    ck_assert_ptr_null(strstr(fail_text(), "1111"));
    ck_assert_ptr_null(strstr(fail_text(), "2222"));
    ck_assert_mem_eq(&keys, &none, sizeof(keys));
}
END_TEST

/* Any other byte anywhere in a line, zero bytes too, makes it damaged. */
START_TEST(each_flip_is_refused)
{
    char text[] = ONE "\n";
    for (size_t at = 0; at + 2 < sizeof(text); at++) {
        for (int bit = 0; bit < 8; bit++) {
            text[at] ^= (char)(1 << bit);
            ck_assert_msg(auth_keys_parse(&keys, text, sizeof(text) - 1, "key") == TRK_ECORRUPT,
                          "byte %zu, bit %d", at, bit);
            text[at] ^= (char)(1 << bit);
        }
    }
    for (size_t size = 0; size + 2 < sizeof(text); size++) {
        ck_assert_int_eq(auth_keys_parse(&keys, text, size, "key"), TRK_ECORRUPT);
    }
}
END_TEST

START_TEST(text_comes_back)
{
    char text[AUTH_TEXT_MAX];
    ck_assert_int_eq(parse(ONE "\n" TWO), 0);
    size_t size = auth_keys_format(&keys, text);
    ck_assert_str_eq(text, ONE "\n" TWO "\n");
    ck_assert_uint_eq(size, strlen(text));
    ck_assert_uint_eq(size + 1, AUTH_TEXT_MAX);
}
END_TEST

START_TEST(made_keys_differ_and_parse)
{
    struct auth_keys made = {.count = 2};
    char text[AUTH_TEXT_MAX];
    ck_assert_int_eq(auth_key_make(&made.key[0]), 0);
    ck_assert_int_eq(auth_key_make(&made.key[1]), 0);
    ck_assert_mem_ne(made.key[0].secret, made.key[1].secret, AUTH_SECRET_BYTES);
    auth_keys_format(&made, text);
    ck_assert_int_eq(parse(text), 0);
    ck_assert_mem_eq(&keys, &made, sizeof(keys));
}
END_TEST

START_TEST(rotation_keeps_the_newest_two)
{
    struct auth_key a, b, c;
    struct auth_keys k = {.count = 0};
    ck_assert_int_eq(auth_key_make(&a) | auth_key_make(&b) | auth_key_make(&c), 0);
    auth_keys_rotate(&k, &a);
    ck_assert_uint_eq(k.count, 1);
    auth_keys_rotate(&k, &b);
    auth_keys_rotate(&k, &c);
    ck_assert_uint_eq(k.count, 2);
    ck_assert_str_eq(k.key[0].id, c.id);
    ck_assert_str_eq(k.key[1].id, b.id);
    ck_assert_ptr_eq(auth_keys_find(&k, b.id, AUTH_ID_DIGITS), &k.key[1]);
    ck_assert_ptr_null(auth_keys_find(&k, a.id, AUTH_ID_DIGITS));
    ck_assert_ptr_null(auth_keys_find(&k, b.id, AUTH_ID_DIGITS - 1));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("keys");
    TCase *t = tcase_create("keys");
    tcase_add_test(t, good_text_is_taken);
    tcase_add_loop_test(t, bad_text_is_refused_without_quoting_it, 0,
                        (int)(sizeof(bad) / sizeof(bad[0])));
    tcase_add_test(t, each_flip_is_refused);
    tcase_add_test(t, text_comes_back);
    tcase_add_test(t, made_keys_differ_and_parse);
    tcase_add_test(t, rotation_keeps_the_newest_two);
    suite_add_tcase(s, t);
    return run_suite(s);
}
