/* SPDX-License-Identifier: MIT */
#include "sched/place.h"

#include "runner.h"

#define MS UINT64_C(1000000)

static struct place usual(void)
{
    return (struct place){.batch_ns = 4 * MS, .batch_max = 4096, .batch_bytes = 262144,
                          .in_flight = 2, .element_ns = MS, .batch_now = 4096,
                          .pending = 1000000, .vms = 4};
}

START_TEST(a_batch_is_four_milliseconds_of_work_within_its_bounds)
{
    struct place p = usual();
    ck_assert_uint_eq(sched_place_size(&p), 4);
    p.element_ns = 1000;
    ck_assert_uint_eq(sched_place_size(&p), 4000);
    p.element_ns = 1;
    ck_assert_uint_eq(sched_place_size(&p), 4096);
    p.batch_now = 16; /* no more is proved */
    ck_assert_uint_eq(sched_place_size(&p), 16);
    p.batch_now = 4096;
    p.mean_bytes = 1000;
    ck_assert_uint_eq(sched_place_size(&p), 262);
    p.mean_bytes = UINT64_C(1) << 30;
    ck_assert_uint_eq(sched_place_size(&p), 1);
}
END_TEST

START_TEST(unknown_and_long_elements_go_one_by_one)
{
    struct place p = usual();
    p.element_ns = 0;
    ck_assert_uint_eq(sched_place_size(&p), 1);
    ck_assert(sched_place_is_long(&p));
    p.element_ns = 5 * MS;
    ck_assert_uint_eq(sched_place_size(&p), 1);
    ck_assert(!sched_place_is_long(&p));
    p.element_ns = 1000 * MS;
    ck_assert_uint_eq(sched_place_size(&p), 1);
    ck_assert(sched_place_is_long(&p));
}
END_TEST

START_TEST(batches_shrink_towards_the_end_of_a_closed_stage)
{
    struct place p = usual();
    p.element_ns = 100000;
    p.pending = 100;
    ck_assert_uint_eq(sched_place_size(&p), 40);
    p.is_closed = true;
    ck_assert_uint_eq(sched_place_size(&p), 13);
    p.pending = 9;
    ck_assert_uint_eq(sched_place_size(&p), 2);
    p.pending = 8;
    ck_assert_uint_eq(sched_place_size(&p), 1);
    p.element_ns = 1000; /* a message of one would cost more than it is worth */
    ck_assert_uint_eq(sched_place_size(&p), 62);
}
END_TEST

START_TEST(the_last_long_elements_wait_for_an_idle_vm)
{
    struct place p = usual();
    p.element_ns = 10 * MS;
    p.is_closed = true;
    ck_assert_uint_eq(sched_place_load_max(&p), 1);
    p.pending = 4;
    ck_assert_uint_eq(sched_place_load_max(&p), 0);
    p.is_closed = false;
    ck_assert_uint_eq(sched_place_load_max(&p), 1);
}
END_TEST

START_TEST(an_idle_vm_comes_first_and_the_avoided_one_last_of_these)
{
    struct bits room[2] = {{0}, {0}};
    struct bits serves = {0};
    ck_assert_int_eq(sched_bits_reserve(&room[0], 64), 0);
    ck_assert_int_eq(sched_bits_reserve(&room[1], 64), 0);
    ck_assert_int_eq(sched_bits_reserve(&serves, 64), 0);
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, SCHED_NONE, false), SCHED_NONE);
    sched_bits_set(&room[0], 9);
    sched_bits_set(&room[1], 1);
    sched_bits_set(&room[1], 3);
    sched_bits_set(&serves, 3);
    ck_assert_uint_eq(sched_place_vm(room, 0, &serves, SCHED_NONE, false), SCHED_NONE);
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, SCHED_NONE, false), 3);
    sched_bits_set(&serves, 9);
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, SCHED_NONE, false), 9);
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, 9, false), 9); /* better than a queue */
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, 9, true), 3);
    sched_bits_set(&room[0], 11);
    sched_bits_set(&serves, 11);
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, 9, false), 11);
    sched_bits_clear(&serves, 11);
    sched_bits_clear(&serves, 3);
    ck_assert_uint_eq(sched_place_vm(room, 1, &serves, 9, true), SCHED_NONE);
    sched_bits_fini(&room[0]);
    sched_bits_fini(&room[1]);
    sched_bits_fini(&serves);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched place");
    ADD(suite, a_batch_is_four_milliseconds_of_work_within_its_bounds);
    ADD(suite, unknown_and_long_elements_go_one_by_one);
    ADD(suite, batches_shrink_towards_the_end_of_a_closed_stage);
    ADD(suite, the_last_long_elements_wait_for_an_idle_vm);
    ADD(suite, an_idle_vm_comes_first_and_the_avoided_one_last_of_these);
    return run_suite(suite);
}
