/* SPDX-License-Identifier: MIT */
#include "sched/element.h"

#include <signal.h>

#include "base/mem.h"
#include "runner.h"

static struct element_range peek(const struct segments *g, uint64_t max)
{
    struct element_range r = {0};
    ck_assert(sched_segments_peek(g, 0, max, &r));
    sched_segments_check(g, 0);
    return r;
}

static void assign(struct segments *g, uint64_t first, uint64_t count)
{
    struct element_range r = peek(g, count);
    ck_assert_uint_eq(r.first, first);
    ck_assert_uint_eq(r.count, count);
    sched_segments_assign(g, &r, 5, 1);
}

START_TEST(an_element_takes_eight_bytes_and_a_segment_little_more)
{
    struct segments g = {0};
    ck_assert_uint_eq(sizeof(struct element), 8);
    ck_assert_int_eq(sched_segments_add(&g, 1000000, 1000000), 0);
    ck_assert_uint_le(sched_segments_memory(&g), 1000000 * 9);
    sched_segments_fini(&g);
}
END_TEST

START_TEST(what_came_back_goes_first_the_lowest_index_before_all)
{
    struct segments g = {0};
    ck_assert_int_eq(sched_segments_add(&g, 20000, 0), 0);
    assign(&g, 0, 20000 - 1);
    sched_segments_put_back(&g, 12000, false);
    sched_segments_put_back(&g, 4096, false);
    sched_segments_put_back(&g, 4095, false);
    sched_segments_put_back(&g, 4097, false);
    assign(&g, 4095, 1); /* a range ends with its segment */
    assign(&g, 4096, 2);
    assign(&g, 12000, 1);
    assign(&g, 19999, 1);
    ck_assert_uint_eq(g.in_state[ELEMENT_PENDING], 0);
    sched_segments_check(&g, 0);
    sched_segments_fini(&g);
}
END_TEST

START_TEST(a_range_has_one_attempt_and_blamed_elements_go_alone)
{
    struct segments g = {0};
    ck_assert_int_eq(sched_segments_add(&g, 10, 0), 0);
    assign(&g, 0, 10);
    sched_segments_put_back(&g, 0, true); /* recalled: its attempt was never made */
    sched_segments_put_back(&g, 1, true);
    for (uint64_t i = 2; i < 6; i++) {
        sched_segments_put_back(&g, i, false);
    }
    sched_element_blame(sched_segments_get(&g, 4), true);
    ck_assert_uint_eq(peek(&g, 9).attempt, 0);
    assign(&g, 0, 2);
    ck_assert_uint_eq(peek(&g, 9).attempt, 1);
    assign(&g, 2, 2);
    ck_assert(peek(&g, 9).is_blamed);
    assign(&g, 4, 1);
    assign(&g, 5, 1);
    ck_assert_uint_eq(sched_segments_get(&g, 0)->attempt, 1);
    ck_assert_uint_eq(sched_segments_get(&g, 5)->attempt, 2);
    sched_segments_finish(&g, 4, ELEMENT_RETURNED);
    ck_assert(!sched_element_is_blamed(sched_segments_get(&g, 4)));
    sched_segments_fini(&g);
}
END_TEST

START_TEST(delivered_segments_are_freed_so_a_long_stream_is_short)
{
    struct segments g = {0};
    size_t most = 0;
    for (uint64_t done = 0; done < 50 * 4096; done += 1000) {
        ck_assert_int_eq(sched_segments_add(&g, 1000, 0), 0);
        assign(&g, done, 1000);
        for (uint64_t i = done; i < done + 1000; i++) {
            sched_segments_finish(&g, i, ELEMENT_RETURNED);
        }
        sched_segments_advance(&g, done, 1000, ELEMENT_RECORDED);
        sched_segments_advance(&g, done, 1000, ELEMENT_DELIVERED);
        sched_segments_check(&g, 0);
        most = sched_segments_memory(&g) > most ? sched_segments_memory(&g) : most;
    }
    ck_assert_uint_le(most, 2 * sizeof(struct segment) + 4096);
    ck_assert_ptr_null(sched_segments_get(&g, 0));
    sched_segments_fini(&g);
}
END_TEST

START_TEST(a_segment_in_the_middle_is_freed_while_the_first_is_held_up)
{
    struct segments g = {0};
    ck_assert_int_eq(sched_segments_add(&g, 5 * 4096, 0), 0);
    assign(&g, 0, 5 * 4096);
    for (uint64_t i = 4096; i < 2 * 4096; i++) {
        sched_segments_finish(&g, i, ELEMENT_RETURNED);
    }
    ck_assert(sched_segments_are(&g, 4096, 4096, 1u << ELEMENT_RETURNED));
    ck_assert(!sched_segments_are(&g, 4095, 2, 1u << ELEMENT_RETURNED));
    ck_assert(!sched_segments_are(&g, 5 * 4096, 1, 255));
    ck_assert(!sched_segments_are(&g, 1, UINT64_MAX, 255));
    sched_segments_advance(&g, 4096, 4096, ELEMENT_RECORDED);
    sched_segments_advance(&g, 4096, 4096, ELEMENT_DELIVERED);
    ck_assert_uint_eq(g.held, 4);
    ck_assert_ptr_null(sched_segments_get(&g, 4096));
    ck_assert_int_eq(sched_segments_add(&g, 40 * 4096, 0), 0); /* the ring moves */
    sched_segments_put_back(&g, 3 * 4096, false);
    ck_assert_uint_eq(peek(&g, 7).first, 3 * 4096);
    sched_segments_fini(&g);
}
END_TEST

/* Fails each allocation of an addition of 10 segments in turn; returns how many there are, when
 * it has been added. */
static uint64_t add_without_memory(struct segments *g,
                                   int (*add)(struct segments *g, uint64_t n, uint64_t bytes))
{
    uint64_t n = 1;
    ck_assert_int_eq(sched_segments_add(g, 100, 0), 0);
    for (;; n++) {
        int rc;
        mem_fail_after(n);
        rc = add(g, 10 * 4096, 0);
        mem_fail_after(0);
        sched_segments_check(g, 0);
        if (rc == 0) {
            return n;
        }
        ck_assert_int_eq(rc, TRK_ENOMEM);
        ck_assert_uint_eq(g->added, 100);
        ck_assert_uint_eq(g->fresh, 0);
        ck_assert_uint_eq(g->held, 1);
    }
}

START_TEST(adding_without_memory_changes_nothing)
{
    struct segments g = {0};
    ck_assert_uint_gt(add_without_memory(&g, sched_segments_add), 10);
    sched_segments_fini(&g);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(what_is_added_delivered_takes_no_memory_and_nothing_waits_behind_it)
{
    struct segments g = {0};
    ck_assert_int_eq(sched_segments_add_delivered(&g, 1000 * 4096, 0), 0);
    sched_segments_check(&g, 0);
    ck_assert_uint_eq(g.held, 0);
    ck_assert_uint_eq(g.base, 1000);
    ck_assert_int_eq(sched_segments_add_delivered(&g, 5, 0), 0);
    ck_assert_int_eq(sched_segments_add(&g, 2, 0), 0);
    ck_assert_int_eq(sched_segments_add_delivered(&g, 4096 - 8, 0), 0);
    ck_assert_uint_eq(g.held, 1);
    ck_assert_int_eq(sched_segments_add(&g, 3, 0), 0);
    sched_segments_check(&g, 0);
    assign(&g, 1000 * 4096 + 5, 2);
    assign(&g, 1001 * 4096 - 1, 1); /* fresh ones go segment by segment only when they must */
    assign(&g, 1001 * 4096, 2);
    for (uint64_t i = 5; i < 4096; i += i == 6 ? 4095 - 6 : 1) {
        sched_segments_finish(&g, 1000 * 4096 + i, ELEMENT_RETURNED);
        sched_segments_advance(&g, 1000 * 4096 + i, 1, ELEMENT_RECORDED);
        sched_segments_advance(&g, 1000 * 4096 + i, 1, ELEMENT_DELIVERED);
    }
    sched_segments_check(&g, 0);
    ck_assert_uint_eq(g.held, 1); /* the second */
    ck_assert_uint_eq(g.in_state[ELEMENT_DELIVERED], 1001 * 4096);
    sched_segments_fini(&g);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(adding_delivered_ones_without_memory_changes_nothing)
{
    struct segments g = {0};
    ck_assert_uint_gt(add_without_memory(&g, sched_segments_add_delivered), 2);
    ck_assert_uint_eq(g.held, 2);
    assign(&g, 0, 100);
    sched_segments_fini(&g);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

/* Every pair of states that the functions can be asked for and that must not follow each other. */
START_TEST(forbidden_moves_abort)
{
    struct segments g = {0};
    ck_assert_int_eq(sched_segments_add(&g, 4, 0), 0);
    assign(&g, 0, 4);
    sched_segments_finish(&g, 1, ELEMENT_RETURNED);
    sched_segments_finish(&g, 2, ELEMENT_FAILED);
    sched_segments_finish(&g, 3, ELEMENT_RETURNED);
    sched_segments_advance(&g, 3, 1, ELEMENT_RECORDED);
    switch (_i) {
    case 0:
        sched_segments_advance(&g, 0, 1, ELEMENT_RECORDED);
        break;
    case 1:
        sched_segments_advance(&g, 1, 1, ELEMENT_DELIVERED);
        break;
    case 2:
        sched_segments_put_back(&g, 1, false);
        break;
    case 3:
        sched_segments_finish(&g, 2, ELEMENT_RETURNED);
        break;
    case 4:
        sched_segments_put_back(&g, 2, false);
        break;
    case 5:
        sched_segments_finish(&g, 3, ELEMENT_RETURNED);
        break;
    case 6:
        sched_segments_advance(&g, 3, 1, ELEMENT_RECORDED);
        break;
    case 7:
        sched_segments_put_back(&g, 3, false);
        break;
    case 8:
        sched_segments_put_back(&g, 0, false);
        sched_segments_finish(&g, 0, ELEMENT_FAILED);
        break;
    default:
        break;
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched element");
    TCase *forbidden = tcase_create("forbidden");
    ADD(suite, an_element_takes_eight_bytes_and_a_segment_little_more);
    ADD(suite, what_came_back_goes_first_the_lowest_index_before_all);
    ADD(suite, a_range_has_one_attempt_and_blamed_elements_go_alone);
    ADD(suite, delivered_segments_are_freed_so_a_long_stream_is_short);
    ADD(suite, a_segment_in_the_middle_is_freed_while_the_first_is_held_up);
    ADD(suite, adding_without_memory_changes_nothing);
    ADD(suite, what_is_added_delivered_takes_no_memory_and_nothing_waits_behind_it);
    ADD(suite, adding_delivered_ones_without_memory_changes_nothing);
    tcase_add_loop_test_raise_signal(forbidden, forbidden_moves_abort, SIGABRT, 0, 9);
    suite_add_tcase(suite, forbidden);
    return run_suite(suite);
}
