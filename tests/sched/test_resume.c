/* SPDX-License-Identifier: MIT */
/* test_resume.c - what a resumed job asks of the scheduler, as golden traces: elements that an
 * earlier epoch recorded, results that it handed over, and elements given back in the middle. */
#include "trace.h"

#include <stdio.h>

#include "runner.h"

START_TEST(what_was_recorded_before_is_never_assigned)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1", "add 1 3 recorded");
    EXPECT(&t, "add 1 1", "assign 1:3+1 vm1 try1");
    EXPECT(&t, "add 1 2", "");
    EXPECT(&t, "add 1 4 recorded", ""); /* behind two that wait */
    QUIET(&t, "add 1 2", "add 1 1 recorded");
    ck_assert_uint_eq(info(&t, 1).added, 13);
    ck_assert_uint_eq(info(&t, 1).delivered, 8);
    ck_assert_uint_eq(info(&t, 1).pending, 4);
    EXPECT(&t, "@1 result 1 1 try1 3+1 1000",
           "store 1:3+1 vm1 try1; assign 1:4+2 vm1 try1; assign 1:10+2 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 4+2 2000", "store 1:4+2 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 8+3 2000", "drop 1:8+2; store 1:10+1 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 11+1 2000", "store 1:11+1 vm1 try1");
    EXPECT(&t, "close 1", "");
    REFUSED(&t, "recorded 1 0+1", TRK_EINVAL);
    REFUSED(&t, "delivered 1 0+1", TRK_EINVAL);
    EXPECT(&t, "recorded 1 3+3", "deliver 1:3+3");
    EXPECT(&t, "recorded 1 10+2", "deliver 1:10+2; done 1");
    REFUSED(&t, "add 1 1 recorded", TRK_EINVAL); /* it is closed */
    end(&t);
}
END_TEST

START_TEST(a_stage_whose_elements_were_all_recorded_is_done_when_it_is_closed)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "add 1 10000000 recorded", "add 1 0 recorded", "add 1 7 recorded");
    ck_assert_uint_lt(sched_memory(t.s), 2000000); /* mostly what actions need */
    ck_assert_uint_eq(sched_attempts(t.s, 1, 10000001), 0);
    EXPECT(&t, "close 1", "done 1");
    ck_assert_uint_eq(info(&t, 1).delivered, 10000007);
    EXPECT(&t, "forget 1", "");
    end(&t);
}
END_TEST

START_TEST(what_was_recorded_before_takes_no_room_of_the_window)
{
    const struct sched_options opt = {.live_max = 2};
    struct trace t = begin(&opt);
    QUIET(&t, "open 1", "add 1 9 recorded", "add 1 2");
    REFUSED(&t, "add 1 1", TRK_EFULL);
    EXPECT(&t, "add 1 9 recorded", "");
    EXPECT(&t, "cancel 1", "done 1");
    EXPECT(&t, "add 1 1 recorded", "");
    ck_assert_uint_eq(info(&t, 1).added, 20);
    ck_assert_uint_eq(info(&t, 1).delivered, 18);
    end(&t);
}
END_TEST

START_TEST(a_result_handed_over_counts_whatever_the_element_does)
{
    struct trace t = begin(NULL);
    EXPECT(&t, "open 1 retries 2 backoff 1000", "");
    EXPECT(&t, "handed 1 try1 0+2", "drop 1:0+2"); /* not added yet */
    QUIET(&t, "add 1 1 recorded", "add 1 9");
    EXPECT(&t, "handed 1 try7 0+1", "drop 1:0+1");
    EXPECT(&t, "handed 1 try7 4+1", "store 1:4+1 handed try7"); /* fresh, behind others */
    EXPECT(&t, "join 1", "");
    EXPECT(&t, "serve 1 1", "assign 1:1+1 vm1 try1");
    EXPECT(&t, "failed 1 1 try1 1+1 1000", "drop 1:1+1; assign 1:2+1 vm1 try1; wake @1000");
    EXPECT(&t, "handed 1 try2 1+1", "store 1:1+1 handed try2"); /* delayed */
    EXPECT(&t, "handed 1 try2 1+1", "drop 1:1+1");              /* returned */
    EXPECT(&t, "handed 1 try9 2+1", "stop 1:2+1 vm1; store 1:2+1 handed try9; "
                                    "assign 1:3+1 vm1 try1"); /* assigned */
    EXPECT(&t, "result 1 1 try1 2+1 1000", "drop 1:2+1"); /* stopped too late */
    EXPECT(&t, "recorded 1 1+2", "deliver 1:1+2");
    EXPECT(&t, "handed 1 try1 1+1", "drop 1:1+1"); /* recorded */
    EXPECT(&t, "delivered 1 1+2", "");
    EXPECT(&t, "handed 1 try1 1+1", "drop 1:1+1"); /* delivered */
    EXPECT(&t, "lost 1 expected", "");
    EXPECT(&t, "handed 1 try0 3+1", "store 1:3+1 handed try0"); /* back in the queue */
    EXPECT(&t, "handed 1 try1 9+2", "store 1:9+1 handed try1; drop 1:10+1");
    EXPECT(&t, "handed 2 try1 0+1", "drop 2:0+1");
    ck_assert_uint_eq(info(&t, 1).pending, 4);
    ck_assert_uint_eq(info(&t, 1).returned, 3);
    ck_assert_uint_eq(info(&t, 1).failed, 0);
    end(&t);
}
END_TEST

START_TEST(a_result_handed_over_measures_nothing_and_stops_whole_runs)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 17", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    ck_assert_uint_eq(info(&t, 1).element_ns, 1000);
    EXPECT(&t, "serve 1 2", "assign 1:9+4 vm2 try1; assign 1:13+4 vm2 try1");
    EXPECT(&t, "@2 handed 1 try3 4+10",
           "stop 1:4+5 vm1; stop 1:9+5 vm2; store 1:4+10 handed try3");
    ck_assert_uint_eq(info(&t, 1).element_ns, 1000);
    EXPECT(&t, "@3 result 1 1 try1 1+4 4000", "store 1:1+3 vm1 try1; drop 1:4+1; wake @2002");
    EXPECT(&t, "@3 result 1 2 try1 14+3 3000", "store 1:14+3 vm2 try1");
    end(&t);
}
END_TEST

START_TEST(a_report_full_of_holes_from_an_earlier_epoch_needs_no_more_room)
{
    const struct sched_options opt = {.batch_max = 2, .in_flight = 1};
    struct trace t = begin(&opt);
    char line[64];
    EXPECT(&t, "open 1", "");
    ck_assert_int_eq(trace_step(&t, "add 1 60"), 0);
    for (unsigned vm = 1; vm <= 20; vm++) {
        snprintf(line, sizeof line, "join %u", vm);
        ck_assert_int_eq(trace_step(&t, line), 0);
        snprintf(line, sizeof line, "serve 1 %u", vm);
        ck_assert_int_eq(trace_step(&t, line), 0);
    }
    for (unsigned i = 1; i < 20; i += 2) {
        snprintf(line, sizeof line, "handed 1 try1 %u+1", i);
        ck_assert_int_eq(trace_step(&t, line), 0);
    }
    ck_assert_int_eq(trace_step(&t, "handed 1 try1 0+20"), 0);
    ck_assert_uint_ge(info(&t, 1).returned, 12);
    end(&t);
}
END_TEST

START_TEST(a_failure_handed_over_counts_where_the_first_is_the_last)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1 retries 1", "open 2", "add 1 1", "add 2 2");
    EXPECT(&t, "handedbad 1 try1 0+1", "drop 1:0+1");
    EXPECT(&t, "handedbad 2 try1 1+1", "store 2:1+1 handed try1");
    ck_assert_uint_eq(info(&t, 1).pending, 1);
    ck_assert_uint_eq(info(&t, 1).retried, 0);
    ck_assert_uint_eq(info(&t, 2).failed, 1);
    end(&t);
}
END_TEST

/* Stage 1, closed: element 1 runs on VM 2 and, for that took long, on VM 1 too. */
static struct trace begin_doubled(void)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1 speculate", "join 1", "join 2", "serve 1 1", "serve 1 2");
    EXPECT(&t, "add 1 2", "assign 1:0+1 vm1 try1; assign 1:1+1 vm2 try1");
    EXPECT(&t, "close 1", "");
    EXPECT(&t, "@200000 result 1 1 try1 0+1 200000000",
           "store 1:0+1 vm1 try1; wake @400000");
    EXPECT(&t, "@400000.001 tick", "assign 1:1+1 vm1 try2");
    return t;
}

START_TEST(a_result_handed_over_ends_both_runs_of_an_element)
{
    struct trace t = begin_doubled();
    EXPECT(&t, "handed 1 try1 1+1",
           "stop 1:1+1 vm1; stop 1:1+1 vm2; store 1:1+1 handed try1");
    EXPECT(&t, "recorded 1 0+2", "deliver 1:0+2; done 1");
    end(&t);
}
END_TEST

START_TEST(a_result_handed_over_clears_the_blame_and_speaks_against_nobody)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "add 1 9", "join 1", "join 2");
    for (int i = 0; i < 4; i++) {
        char line[64];
        ck_assert_int_eq(trace_step(&t, "serve 1 1"), 0);
        snprintf(line, sizeof line, "lost 1 own 1 %d", i);
        EXPECT(&t, line, "");
        EXPECT(&t, "join 1", "");
        snprintf(line, sizeof line, "handed 1 try1 %d+1", i);
        ck_assert_int_eq(trace_step(&t, line), 0);
        ck_assert_ptr_null(strstr(t.text, "block"));
    }
    EXPECT(&t, "serve 1 2", "assign 1:4+1 vm2 try1");
    end(&t);
}
END_TEST

START_TEST(no_vm_has_the_number_of_none)
{
    struct trace t = begin(NULL);
    EXPECT(&t, "open 1", "");
    REFUSED(&t, "join 4294967295", TRK_EINVAL);
    REFUSED(&t, "serve 1 4294967295", TRK_EINVAL);
    REFUSED(&t, "drain 4294967295", TRK_EINVAL);
    REFUSED(&t, "suspect 4294967295", TRK_EINVAL);
    REFUSED(&t, "lost 4294967295 loss", TRK_EINVAL);
    QUIET(&t, "recalled 1 4294967295 0+1", "join 4294967294");
    end(&t);
}
END_TEST

START_TEST(what_was_begun_and_given_back_goes_on_elsewhere_with_the_next_attempt)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1 retries 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 0+1 9000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "drain 1", "recall 1:1+1 vm1; recall 1:2+1 vm1");
    EXPECT(&t, "recalled 1 1 2+1", ""); /* had not begun */
    EXPECT(&t, "moved 1 1 1+1", "");
    EXPECT(&t, "moved 1 1 1+1", ""); /* twice */
    ck_assert_uint_eq(info(&t, 1).dropped, 1);
    QUIET(&t, "lost 1 expected", "join 2");
    EXPECT(&t, "serve 1 2", "assign 1:1+1 vm2 try2; assign 1:2+1 vm2 try1");
    EXPECT(&t, "result 1 1 try1 1+1 9000000",
           "store 1:1+1 vm1 try1; assign 1:3+1 vm2 try1"); /* it was done after all */
    ck_assert_uint_eq(info(&t, 1).retried, 0);
    ck_assert_uint_eq(info(&t, 1).failed, 0);
    end(&t);
}
END_TEST

START_TEST(what_is_given_back_in_the_middle_is_no_answer_to_a_recall)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 6", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1000 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+1 vm1 try1");
    EXPECT(&t, "serve 1 2", "recall 1:5+1 vm1; wake @3000");
    EXPECT(&t, "@1001 moved 1 1 1+1", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "@1002 recalled 1 1 5+1", "assign 1:5+1 vm1 try1");
    end(&t);
}
END_TEST

START_TEST(a_run_given_back_in_the_middle_leaves_the_other_one)
{
    struct trace t = begin_doubled();
    EXPECT(&t, "moved 1 2 1+1", "wake @800000");
    ck_assert_uint_eq(info(&t, 1).assigned, 1);
    EXPECT(&t, "moved 1 1 1+1", "assign 1:1+1 vm1 try3");
    end(&t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched resume");
    ADD(suite, what_was_recorded_before_is_never_assigned);
    ADD(suite, a_stage_whose_elements_were_all_recorded_is_done_when_it_is_closed);
    ADD(suite, what_was_recorded_before_takes_no_room_of_the_window);
    ADD(suite, a_result_handed_over_counts_whatever_the_element_does);
    ADD(suite, a_result_handed_over_measures_nothing_and_stops_whole_runs);
    ADD(suite, a_report_full_of_holes_from_an_earlier_epoch_needs_no_more_room);
    ADD(suite, a_failure_handed_over_counts_where_the_first_is_the_last);
    ADD(suite, a_result_handed_over_ends_both_runs_of_an_element);
    ADD(suite, a_result_handed_over_clears_the_blame_and_speaks_against_nobody);
    ADD(suite, no_vm_has_the_number_of_none);
    ADD(suite, what_was_begun_and_given_back_goes_on_elsewhere_with_the_next_attempt);
    ADD(suite, what_is_given_back_in_the_middle_is_no_answer_to_a_recall);
    ADD(suite, a_run_given_back_in_the_middle_leaves_the_other_one);
    return run_suite(suite);
}
