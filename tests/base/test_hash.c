/* SPDX-License-Identifier: MIT */
/* test_hash.c - digests are XXH3-128 in canonical order: they are stored, so they never change. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tests/suite.h"

static const struct {
    const char *text, *hex;
} known[] = {
    {"", "99aa06d3014798d86001c324468d497f"},
    {"a", "a96faf705af16834e6c632b61e964e1f"},
    {"abc", "06b05ab6733a618578af5f94892f3950"},
};

START_TEST(known_digests)
{
    struct digest d = hash_digest(known[_i].text, strlen(known[_i].text));
    char hex[33];

    for (int i = 0; i < 16; i++) {
        snprintf(hex + 2 * i, 3, "%02x", d.bytes[i]);
    }
    ck_assert_str_eq(hex, known[_i].hex);
}
END_TEST

START_TEST(nothing_at_null_is_nothing)
{
    struct digest a = hash_digest(NULL, 0), b = hash_digest("", 0);

    ck_assert_mem_eq(a.bytes, b.bytes, sizeof(a.bytes));
}
END_TEST

START_TEST(one_bit_changes_it)
{
    static uint8_t bytes[1000];
    struct digest before = hash_digest(bytes, sizeof(bytes)), after;

    bytes[999] ^= 1;
    after = hash_digest(bytes, sizeof(bytes));
    ck_assert_mem_ne(before.bytes, after.bytes, sizeof(before.bytes));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hash");
    TCase *tc = tcase_create("hash");

    tcase_add_loop_test(tc, known_digests, 0, (int)(sizeof(known) / sizeof(known[0])));
    tcase_add_test(tc, nothing_at_null_is_nothing);
    tcase_add_test(tc, one_bit_changes_it);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
