/* SPDX-License-Identifier: MIT */
#include "sched/bits.h"

#include "base/mem.h"
#include "runner.h"

START_TEST(next_finds_the_lowest_member_from_a_place_on)
{
    static const size_t members[] = {0, 63, 64, 4095, 4096, 262143, 262144, 999999};
    struct bits b = {0};
    size_t from = 0;
    ck_assert_uint_eq(sched_bits_next(&b, 0), SCHED_NONE);
    ck_assert_int_eq(sched_bits_reserve(&b, 1000000), 0);
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        sched_bits_set(&b, members[i]);
    }
    sched_bits_check(&b);
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        ck_assert_uint_eq(sched_bits_next(&b, from), members[i]);
        ck_assert(sched_bits_test(&b, members[i]));
        from = members[i] + 1;
    }
    ck_assert_uint_eq(sched_bits_next(&b, from), SCHED_NONE);
    ck_assert_uint_eq(sched_bits_next(&b, SIZE_MAX), SCHED_NONE);
    sched_bits_clear(&b, 63);
    sched_bits_clear(&b, 262143);
    sched_bits_check(&b);
    ck_assert_uint_eq(sched_bits_next(&b, 1), 64);
    ck_assert_uint_eq(sched_bits_next(&b, 4097), 262144);
    sched_bits_fini(&b);
}
END_TEST

START_TEST(two_sets_of_different_size_meet_in_their_common_members)
{
    struct bits a = {0}, b = {0};
    uint64_t random = 1;
    ck_assert_int_eq(sched_bits_reserve(&a, 100), 0);
    ck_assert_int_eq(sched_bits_reserve(&b, 20000), 0);
    ck_assert_int_eq(sched_bits_reserve(&a, 5000), 0);
    for (int i = 0; i < 3000; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sched_bits_set(&a, (random >> 33) % 5000);
        sched_bits_set(&b, (random >> 20) % 20000);
    }
    sched_bits_check(&a);
    sched_bits_check(&b);
    for (size_t from = 0; from < 5100; from++) {
        size_t expected = from;
        while (expected < 20000 &&
               !(sched_bits_test(&a, expected) && sched_bits_test(&b, expected))) {
            expected++;
        }
        expected = expected < 20000 ? expected : SCHED_NONE;
        ck_assert_uint_eq(sched_bits_next_both(&a, &b, from), expected);
        ck_assert_uint_eq(sched_bits_next_both(&b, &a, from), expected);
    }
    sched_bits_fini(&a);
    sched_bits_fini(&b);
}
END_TEST

START_TEST(growing_keeps_members_and_fails_without_a_change)
{
    struct bits b = {0};
    ck_assert_int_eq(sched_bits_reserve(&b, 64), 0);
    sched_bits_set(&b, 7);
    mem_fail_after(1);
    ck_assert_int_eq(sched_bits_reserve(&b, 65), TRK_ENOMEM);
    mem_fail_after(0);
    ck_assert_int_eq(sched_bits_reserve(&b, SCHED_BITS_MAX + 1), TRK_ENOMEM);
    ck_assert_uint_eq(b.capacity, 64);
    ck_assert_int_eq(sched_bits_reserve(&b, SCHED_BITS_MAX), 0);
    ck_assert_uint_eq(sched_bits_next(&b, 0), 7);
    sched_bits_set(&b, SCHED_BITS_MAX - 1);
    ck_assert_uint_eq(sched_bits_next(&b, 8), SCHED_BITS_MAX - 1);
    ck_assert_uint_eq(sched_bits_next(&b, SCHED_BITS_MAX), SCHED_NONE);
    sched_bits_fini(&b);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched bits");
    ADD(suite, next_finds_the_lowest_member_from_a_place_on);
    ADD(suite, two_sets_of_different_size_meet_in_their_common_members);
    ADD(suite, growing_keeps_members_and_fails_without_a_change);
    return run_suite(suite);
}
