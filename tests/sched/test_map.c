/* SPDX-License-Identifier: MIT */
#include "sched/map.h"

#include "base/mem.h"
#include "runner.h"

#define GROUPS 5
#define KEYS 400

START_TEST(what_was_put_is_found_until_removed_under_random_use)
{
    static uint64_t expected[GROUPS][KEYS]; /* 0: absent */
    struct map m = {0};
    uint64_t random = 3;
    ck_assert_int_eq(sched_map_reserve(&m, GROUPS * KEYS), 0);
    for (int i = 1; i < 30000; i++) {
        uint32_t group;
        uint64_t key;
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        group = (uint32_t)(random >> 60) % GROUPS;
        key = (random >> 40) % KEYS;
        if (i % 5000 == 0) {
            sched_map_remove_group(&m, group);
            for (uint64_t k = 0; k < KEYS; k++) {
                expected[group][k] = 0;
            }
        } else if (expected[group][key] == 0) {
            sched_map_put(&m, group, key, (uint64_t)i);
            expected[group][key] = (uint64_t)i;
        } else {
            sched_map_remove(&m, group, key);
            expected[group][key] = 0;
        }
        sched_map_remove(&m, GROUPS, key); /* absent is fine */
        if (i % 1000 != 0) {
            continue;
        }
        for (group = 0; group < GROUPS; group++) {
            for (key = 0; key < KEYS; key++) {
                const uint64_t *value = sched_map_find(&m, group, key);
                ck_assert_uint_eq(value != NULL ? *value : 0, expected[group][key]);
            }
        }
    }
    sched_map_fini(&m);
}
END_TEST

START_TEST(reserving_is_all_that_allocates)
{
    struct map m = {0};
    ck_assert_ptr_null(sched_map_find(&m, 0, 0));
    mem_fail_after(1);
    ck_assert_int_eq(sched_map_reserve(&m, 1), TRK_ENOMEM);
    mem_fail_after(0);
    ck_assert_int_eq(sched_map_reserve(&m, 1000), 0);
    mem_fail_after(1);
    for (uint64_t i = 0; i < 1000; i++) {
        *sched_map_put(&m, 0, i << 32, 0) = i;
    }
    ck_assert_int_eq(sched_map_reserve(&m, 2000), TRK_ENOMEM);
    mem_fail_after(0);
    ck_assert_int_eq(sched_map_reserve(&m, 2000), 0);
    for (uint64_t i = 0; i < 1000; i++) {
        ck_assert_uint_eq(*sched_map_find(&m, 0, i << 32), i);
    }
    sched_map_fini(&m);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched map");
    ADD(suite, what_was_put_is_found_until_removed_under_random_use);
    ADD(suite, reserving_is_all_that_allocates);
    return run_suite(suite);
}
