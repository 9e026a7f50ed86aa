/* SPDX-License-Identifier: MIT */
/* test_native_spec.c - how a function of a shared object is named: what is read is what was
 * written, and what nobody writes is refused. How they run is in tests/farm. */
#include <check.h>
#include <string.h>

#include "rai/native_spec.h"
#include "tests/suite.h"

static const struct native_spec sent = {.kind = NATIVE_SENT, .digest = {"of its content."},
                                        .symbol = "tile", .symbol_size = 4, .library = "a.so",
                                        .library_size = 4};

START_TEST(a_name_carries_all_of_it)
{
    struct blob *bytes = native_spec_encode(&sent);
    struct native_spec out;

    ck_assert_int_eq(native_spec_decode(&out, bytes->data, bytes->size), 0);
    ck_assert_int_eq(out.kind, NATIVE_SENT);
    ck_assert_mem_eq(&out.digest, &sent.digest, sizeof(sent.digest));
    ck_assert_uint_eq(out.symbol_size, 4);
    ck_assert_mem_eq(out.symbol, "tile", 4);
    ck_assert_uint_eq(out.library_size, 4);
    ck_assert_mem_eq(out.library, "a.so", 4);
    blob_unref(bytes);
}
END_TEST

/* Byte at becomes value. */
static const struct {
    size_t at;
    uint8_t value;
    int rc;
} changes[] = {
    {0, 2, TRK_EVERSION}, {1, 0, TRK_ECORRUPT},  {1, 3, TRK_ECORRUPT}, {1, 2, TRK_ECORRUPT},
    {2, 0, TRK_ECORRUPT}, {2, 5, TRK_ECORRUPT},  {3, 1, TRK_ECORRUPT}, {4, 3, TRK_ECORRUPT},
    {7, 1, TRK_ECORRUPT}, {24, 0, TRK_ECORRUPT}, {31, 0, TRK_ECORRUPT}, {8, 0, 0},
};

START_TEST(what_is_changed_is_checked)
{
    struct blob *bytes = native_spec_encode(&sent);
    struct native_spec out;

    bytes->data[changes[_i].at] = changes[_i].value;
    ck_assert_int_eq(native_spec_decode(&out, bytes->data, bytes->size), changes[_i].rc);
    blob_unref(bytes);
}
END_TEST

START_TEST(what_is_cut_is_refused)
{
    struct blob *bytes = native_spec_encode(&sent);
    struct native_spec out;

    for (size_t size = 0; size < bytes->size; size++) {
        ck_assert_int_lt(native_spec_decode(&out, bytes->data, size), 0);
    }
    blob_unref(bytes);
}
END_TEST

/* Of a sent one the content and the symbol count, of a found one the names. */
START_TEST(code_is_known_by_what_it_is)
{
    struct native_spec other = sent;
    struct digest first = native_spec_fingerprint(&sent), second;

    other.library = "renamed.so";
    other.library_size = 10;
    second = native_spec_fingerprint(&other);
    ck_assert_mem_eq(&first, &second, sizeof(first));
    other.symbol = "line";
    second = native_spec_fingerprint(&other);
    ck_assert_mem_ne(&first, &second, sizeof(first));
    other = (struct native_spec){.kind = NATIVE_FOUND, .symbol = "f", .symbol_size = 1,
                                 .library = "a.so", .library_size = 4};
    first = native_spec_fingerprint(&other);
    other.library = "b.so";
    second = native_spec_fingerprint(&other);
    ck_assert_mem_ne(&first, &second, sizeof(first));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("native_spec");
    TCase *tc = tcase_create("native_spec");

    tcase_add_test(tc, a_name_carries_all_of_it);
    tcase_add_loop_test(tc, what_is_changed_is_checked, 0, sizeof(changes) / sizeof(changes[0]));
    tcase_add_test(tc, what_is_cut_is_refused);
    tcase_add_test(tc, code_is_known_by_what_it_is);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
