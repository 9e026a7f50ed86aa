/* SPDX-License-Identifier: MIT */
/* test_list.c - order, removal while walking, removal twice. */
#include <check.h>
#include <stdlib.h>

#include "base/list.h"
#include "tests/suite.h"

struct thing {
    int number;
    struct list node;
};

static struct thing things[4] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};
static struct list head;

static void setup(void)
{
    list_init(&head);
    for (int i = 0; i < 4; i++) {
        list_push_back(&head, &things[i].node);
    }
}

static int number_of(struct list *node)
{
    return container_of(node, struct thing, node)->number;
}

START_TEST(walks_in_order)
{
    struct list *pos;
    int expected = 0;

    list_for_each(pos, &head) {
        ck_assert_int_eq(number_of(pos), expected);
        expected++;
    }
    ck_assert_int_eq(expected, 4);
}
END_TEST

START_TEST(push_front_is_first)
{
    list_remove(&things[3].node);
    list_push_front(&head, &things[3].node);
    ck_assert_int_eq(number_of(list_pop_front(&head)), 3);
    ck_assert_int_eq(number_of(list_pop_front(&head)), 0);
}
END_TEST

START_TEST(all_may_be_removed_on_a_safe_walk)
{
    struct list *pos, *tmp;

    list_for_each_safe(pos, tmp, &head) {
        list_remove(pos);
    }
    ck_assert(list_is_empty(&head));
    ck_assert_ptr_null(list_pop_front(&head));
}
END_TEST

START_TEST(removing_twice_is_harmless)
{
    list_remove(&things[1].node);
    list_remove(&things[1].node);
    ck_assert_int_eq(number_of(list_pop_front(&head)), 0);
    ck_assert_int_eq(number_of(list_pop_front(&head)), 2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("list");
    TCase *tc = tcase_create("list");

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, walks_in_order);
    tcase_add_test(tc, push_front_is_first);
    tcase_add_test(tc, all_may_be_removed_on_a_safe_walk);
    tcase_add_test(tc, removing_twice_is_harmless);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
