/* SPDX-License-Identifier: MIT */
/* test_sched.c - the scheduler's policies as golden traces: an event, and what must come back. */
#include "trace.h"

#include <stdio.h>

#include "base/mem.h"
#include "runner.h"

START_TEST(batches_grow_fourfold_from_a_probe_and_two_are_in_flight)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 200 200", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 1+4 4000", "store 1:1+4 vm1 try1; assign 1:9+16 vm1 try1");
    EXPECT(&t, "@3 result 1 1 try1 5+4 4000", "store 1:5+4 vm1 try1; assign 1:25+16 vm1 try1");
    EXPECT(&t, "@4 result 1 1 try1 9+10 10000", "store 1:9+10 vm1 try1");
    EXPECT(&t, "@5 result 1 1 try1 19+6 6000", "store 1:19+6 vm1 try1; assign 1:41+64 vm1 try1");
    ck_assert_uint_ge(info(&t, 1).element_ns, 990);
    ck_assert_uint_le(info(&t, 1).element_ns, 1000);
    end(&t);
}
END_TEST

START_TEST(batches_are_cut_at_once_when_elements_turn_out_long)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 200", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 1+4 40000000",
           "store 1:1+4 vm1 try1; assign 1:9+1 vm1 try1");
    end(&t);
}
END_TEST

START_TEST(a_batch_stays_under_its_bytes_but_one_element_always_goes)
{
    struct sched_options opt = {.batch_bytes = 1000};
    struct trace t = begin(&opt);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 4096 1638400", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000",
           "store 1:0+1 vm1 try1; assign 1:1+2 vm1 try1; assign 1:3+2 vm1 try1");
    EXPECT(&t, "add 1 10 99999999", "");
    end(&t);
}
END_TEST

START_TEST(an_idle_vm_comes_before_a_second_batch)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "join 3", "serve 1 1", "serve 1 2");
    EXPECT(&t, "add 1 1", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 5000000", "store 1:0+1 vm1 try1");
    EXPECT(&t, "add 1 5", "assign 1:1+1 vm1 try1; assign 1:2+1 vm2 try1; assign 1:3+1 vm1 try1; "
                          "assign 1:4+1 vm2 try1");
    end(&t);
}
END_TEST

START_TEST(a_lost_vms_elements_go_first_with_the_next_attempt)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 40", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 1+2 2000000", "store 1:1+2 vm1 try1"); /* these stay */
    EXPECT(&t, "lost 1 expected", "");
    EXPECT(&t, "serve 1 2", "assign 1:3+4 vm2 try2; assign 1:7+2 vm2 try2");
    EXPECT(&t, "@3 result 1 2 try2 3+4 4000000",
           "store 1:3+4 vm2 try2; assign 1:9+4 vm2 try1");
    ck_assert_uint_eq(info(&t, 1).reissued, 6);
    ck_assert_uint_eq(sched_attempts(t.s, 1, 8), 2);
    ck_assert_uint_eq(sched_attempts(t.s, 1, 1), 1);
    ck_assert_uint_eq(sched_attempts(t.s, 1, 20), 0);
    ck_assert_uint_eq(sched_attempts(t.s, 1, 40), 0);
    end(&t);
}
END_TEST

START_TEST(the_first_report_of_any_attempt_wins_and_all_else_is_dropped)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 20", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "lost 1 expected", "");
    EXPECT(&t, "result 1 1 try1 7+1 1000000", "store 1:7+1 vm1 try1"); /* late, still pending */
    EXPECT(&t, "serve 1 2", "assign 1:1+4 vm2 try2; assign 1:5+2 vm2 try2");
    EXPECT(&t, "result 1 1 try1 2+1 1000000", "store 1:2+1 vm1 try1"); /* late, runs elsewhere */
    EXPECT(&t, "result 1 2 try2 1+4 4000000",
           "store 1:1+1 vm2 try2; drop 1:2+1; store 1:3+2 vm2 try2; assign 1:8+1 vm2 try2");
    EXPECT(&t, "result 1 2 try2 1+4 4000000", "drop 1:1+4"); /* twice */
    EXPECT(&t, "result 1 2 try3 5+1 9", "drop 1:5+1"); /* an attempt that never was */
    EXPECT(&t, "result 1 2 try0 5+1 9", "drop 1:5+1");
    EXPECT(&t, "result 1 2 try1 9+1 9", "drop 1:9+1"); /* not assigned to anybody yet */
    EXPECT(&t, "result 1 9 try1 19+3 9", "drop 1:19+3"); /* not there */
    EXPECT(&t, "result 1 9 try1 18446744073709551615+3 9", "drop 1:18446744073709551615+3");
    EXPECT(&t, "result 1 9 try1 0+99999999999 9",
           "drop 1:0+5; store 1:5+2 vm9 try1; drop 1:7+1; store 1:8+1 vm9 try1; "
           "drop 1:9+99999999990; assign 1:9+4 vm2 try1; assign 1:13+4 vm2 try1");
    EXPECT(&t, "result 7 1 try1 5+1 9", "drop 7:5+1");
    EXPECT(&t, "recorded 1 1+1", "deliver 1:1+1");
    EXPECT(&t, "result 1 2 try1 1+1 9", "drop 1:1+1");
    EXPECT(&t, "delivered 1 1+1", "");
    EXPECT(&t, "result 1 2 try1 1+1 9", "drop 1:1+1");
    end(&t);
}
END_TEST

START_TEST(a_report_in_too_many_pieces_loses_its_end_and_that_runs_again)
{
    struct sched_options opt = {.batch_max = 2, .in_flight = 16};
    struct trace t = begin(&opt);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+2 vm1 try1; assign 1:3+2 vm1 try1; "
           "assign 1:5+2 vm1 try1; assign 1:7+2 vm1 try1");
    EXPECT(&t, "result 1 1 try1 2+1 1", "store 1:2+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 4+1 1", "store 1:4+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 1+8 1",
           "store 1:1+1 vm1 try1; drop 1:2+1; store 1:3+1 vm1 try1; drop 1:4+5; "
           "assign 1:5+2 vm1 try2; assign 1:7+2 vm1 try2");
    end(&t);
}
END_TEST

START_TEST(a_stage_is_done_once_when_closed_and_recorded)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "open 2");
    EXPECT(&t, "close 2", "done 2");
    QUIET(&t, "close 2", "forget 2", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 2", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "close 1", "");
    EXPECT(&t, "result 1 1 try1 0+1 9", "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1");
    EXPECT(&t, "recorded 1 0+1", "deliver 1:0+1");
    EXPECT(&t, "result 1 1 try1 1+1 9", "store 1:1+1 vm1 try1");
    REFUSED(&t, "forget 1", TRK_EINVAL);
    REFUSED(&t, "delivered 1 0+2", TRK_EINVAL);
    EXPECT(&t, "recorded 1 1+1", "deliver 1:1+1; done 1");
    REFUSED(&t, "recorded 1 1+1", TRK_EINVAL);
    ck_assert_uint_eq(info(&t, 1).recorded, 2);
    EXPECT(&t, "delivered 1 0+2", "");
    REFUSED(&t, "delivered 1 0+2", TRK_EINVAL);
    ck_assert_uint_eq(info(&t, 1).delivered, 2);
    EXPECT(&t, "forget 1", "");
    end(&t);
}
END_TEST

START_TEST(what_contradicts_the_contract_is_refused_without_a_change)
{
    static const char *const lines[] = {
        "open 1", "join 1", "serve 1 9", "serve 9 1", "unserve 9 9", "add 9 1", "close 9",
        "recorded 9 0+1", "recorded 1 0+1", "recorded 1 5+1", "delivered 1 0+1", "lost 9 loss",
        "drain 9", "cancel 9", "forget 1", "forget 9", "@1 tick", "@1 add 1 1",
    };
    struct sched_options opt = {.live_max = 10};
    struct trace t = begin(&opt);
    struct sched_stage_info i;
    t.now_ns = 5000;
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 3", "assign 1:0+1 vm1 try1");
    for (size_t k = 0; k < sizeof lines / sizeof *lines; k++) {
        REFUSED(&t, lines[k], TRK_EINVAL);
        t.now_ns = 5000;
    }
    REFUSED(&t, "add 1 8", TRK_EFULL);
    REFUSED(&t, "add 1 18446744073709551615", TRK_EFULL);
    QUIET(&t, "add 1 7", "add 1 0", "close 1");
    REFUSED(&t, "add 1 0", TRK_EINVAL);
    ck_assert_int_eq(sched_stage_get(t.s, 9, &i), TRK_EINVAL);
    ck_assert_uint_eq(sched_attempts(t.s, 9, 0), 0);
    ck_assert_uint_eq(info(&t, 1).pending, 9);
    end(&t);
}
END_TEST

START_TEST(an_element_that_kills_three_vms_fails_and_its_neighbours_do_not)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    QUIET(&t, "lost 1 own 1 2", "join 2");
    EXPECT(&t, "serve 1 2", "assign 1:1+1 vm2 try2; assign 1:2+1 vm2 try2"); /* alone */
    EXPECT(&t, "result 1 2 try2 1+1 1000000", "store 1:1+1 vm2 try2"); /* nothing behind it */
    QUIET(&t, "lost 2 own 1 2", "join 3");
    EXPECT(&t, "serve 1 3", "assign 1:2+1 vm3 try3");
    EXPECT(&t, "lost 3 own 1 2", "fail 1:2 own try3");
    EXPECT(&t, "join 4", "");
    EXPECT(&t, "serve 1 4", "assign 1:3+4 vm4 try2; assign 1:7+2 vm4 try2");
    EXPECT(&t, "result 1 1 try1 2+1 9", "drop 1:2+1"); /* the failure was first */
    ck_assert_uint_eq(info(&t, 1).returned, 3);
    ck_assert_uint_eq(info(&t, 1).failed, 1);
    EXPECT(&t, "recorded 1 0+3", "deliver 1:0+3");
    end(&t);
}
END_TEST

START_TEST(after_a_death_another_vm_is_tried_if_one_has_room)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 1", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "lost 1 own 1 0", "");
    EXPECT(&t, "join 1", ""); /* the same number again */
    QUIET(&t, "join 2", "open 2", "serve 2 1", "serve 2 2");
    EXPECT(&t, "add 2 2", "assign 2:0+1 vm1 try1; assign 2:1+1 vm2 try1");
    QUIET(&t, "serve 1 2", "serve 1 1");
    EXPECT(&t, "result 2 2 try1 1+1 9000000", "store 2:1+1 vm2 try1; assign 1:0+1 vm2 try2");
    EXPECT(&t, "lost 2 own 1 0", "");
    EXPECT(&t, "result 2 1 try1 0+1 9000000", "store 2:0+1 vm1 try1; assign 1:0+1 vm1 try3");
    EXPECT(&t, "lost 1 own 1 0", "fail 1:0 own try3");
    end(&t);
}
END_TEST

START_TEST(a_result_clears_the_blame)
{
    struct sched_options opt = {.max_own_deaths = 2};
    struct trace t = begin(&opt);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 1", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "lost 1 own 1 0", "");
    EXPECT(&t, "result 1 1 try1 0+1 9", "store 1:0+1 vm1 try1"); /* it was done after all */
    EXPECT(&t, "recorded 1 0+1", "deliver 1:0+1");
    end(&t);
}
END_TEST

START_TEST(losses_count_apart_and_without_a_report_for_the_first_unanswered)
{
    struct sched_options opt = {.max_losses = 2};
    struct trace t = begin(&opt);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "@2 result 1 1 try1 1+1 1000000", "store 1:1+1 vm1 try1");
    EXPECT(&t, "lost 1 loss", ""); /* 2 is suspected */
    EXPECT(&t, "join 1", "");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try2");
    QUIET(&t, "lost 1 own 1 2", "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try3");
    EXPECT(&t, "lost 1 expected", ""); /* nobody's fault */
    EXPECT(&t, "join 1", "");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try4");
    EXPECT(&t, "lost 1 loss 1 7", ""); /* names one that it did not have */
    EXPECT(&t, "join 1", "");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try5");
    EXPECT(&t, "lost 1 loss", "fail 1:2 loss try5");
    end(&t);
}
END_TEST

START_TEST(what_waits_behind_a_long_element_is_recalled_for_an_idle_vm)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 3", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@10000 result 1 1 try1 0+1 10000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "serve 1 2", "recall 1:2+1 vm1");
    EXPECT(&t, "@10500 tick", ""); /* asked once */
    EXPECT(&t, "@11000 recalled 1 1 2+1", "assign 1:2+1 vm2 try1");
    ck_assert_uint_eq(sched_attempts(t.s, 1, 2), 1); /* it was never started before */
    ck_assert_uint_eq(info(&t, 1).reissued, 0);
    end(&t);
}
END_TEST

START_TEST(a_recall_that_gave_nothing_is_repeated_after_the_next_report_or_later_and_later)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1000 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "serve 1 2", "recall 1:7+2 vm1; wake @3000");
    EXPECT(&t, "@2000 recalled 1 1 7+0", "");
    EXPECT(&t, "@3000.001 tick", "wake @102000");
    EXPECT(&t, "@90000 tick", "");
    EXPECT(&t, "@90000 result 1 1 try1 1+1 85000000",
           "store 1:1+1 vm1 try1; recall 1:7+2 vm1");
    EXPECT(&t, "recalled 1 1 2+1", "assign 1:2+1 vm2 try1"); /* of its own, no answer */
    EXPECT(&t, "recalled 1 1 7+2", "assign 1:7+1 vm2 try1");
    end(&t);
    t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 3", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@10000 result 1 1 try1 0+1 10000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "serve 1 2", "recall 1:2+1 vm1"); /* comes before 2 does; 1 never ends */
    EXPECT(&t, "recalled 1 1 2+0", "wake @110000");
    EXPECT(&t, "@110000 tick", "recall 1:2+1 vm1");
    EXPECT(&t, "recalled 1 1 2+0", "wake @310000");
    EXPECT(&t, "@310000 tick", "recall 1:2+1 vm1");
    EXPECT(&t, "recalled 1 1 2+1", "assign 1:2+1 vm2 try1");
    end(&t);
}
END_TEST

START_TEST(a_batch_that_is_overdue_is_recalled_by_the_clock)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "join 2", "serve 1 1");
    EXPECT(&t, "add 1 5", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "@1000 result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1");
    EXPECT(&t, "serve 1 2", "wake @3000");
    EXPECT(&t, "@2000 tick", "");
    EXPECT(&t, "@3000.001 tick", "recall 1:3+2 vm1");
    EXPECT(&t, "@3100 lost 1 expected", "assign 1:1+4 vm2 try2");
    EXPECT(&t, "@3200 recalled 1 1 3+2", ""); /* from beyond the grave */
    end(&t);
}
END_TEST

START_TEST(a_draining_vm_gives_back_and_gets_nothing)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 0+1 9000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "drain 1", "recall 1:1+1 vm1; recall 1:2+1 vm1");
    QUIET(&t, "drain 1", "serve 1 1", "recalled 1 1 2+1");
    EXPECT(&t, "result 1 1 try1 1+1 9000000", "store 1:1+1 vm1 try1");
    QUIET(&t, "lost 1 expected", "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try1; assign 1:3+1 vm1 try1");
    end(&t);
}
END_TEST

/* The simulator found it: the recall overtook the batch, and the element in front never ended. */
START_TEST(a_draining_vm_is_asked_again_for_what_it_did_not_give_back)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "serve 1 1");
    EXPECT(&t, "add 1 3", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 0+1 9000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "drain 1", "recall 1:1+1 vm1; recall 1:2+1 vm1");
    QUIET(&t, "recalled 1 1 2+0", "join 2");
    EXPECT(&t, "serve 1 2", "wake @100000");
    EXPECT(&t, "@100000 tick", "recall 1:2+1 vm1");
    EXPECT(&t, "recalled 1 1 2+1", "assign 1:2+1 vm2 try1");
    end(&t);
}
END_TEST

START_TEST(stages_take_turns_on_a_vm)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "open 2", "join 1", "serve 1 1", "serve 2 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "add 2 9", "");
    EXPECT(&t, "result 1 1 try1 0+1 5000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 2:0+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 1+1 5000000", "store 1:1+1 vm1 try1"); /* 2:0 may be long */
    EXPECT(&t, "result 2 1 try1 0+1 5000000",
           "store 2:0+1 vm1 try1; assign 1:2+1 vm1 try1; assign 2:1+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 2+1 5000000", "store 1:2+1 vm1 try1; assign 1:3+1 vm1 try1");
    EXPECT(&t, "result 2 1 try1 1+1 5000000", "store 2:1+1 vm1 try1; assign 2:2+1 vm1 try1");
    EXPECT(&t, "unserve 2 1", "recall 2:2+1 vm1");
    EXPECT(&t, "result 1 1 try1 3+1 5000000", "store 1:3+1 vm1 try1; assign 1:4+1 vm1 try1");
    end(&t);
}
END_TEST

START_TEST(a_cancelled_stage_is_done_at_once_and_what_comes_later_is_dropped)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "open 2", "join 1", "serve 1 1", "serve 2 1");
    EXPECT(&t, "add 1 9", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "result 1 1 try1 0+1 5000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "add 2 9", "");
    EXPECT(&t, "cancel 1",
           "recall 1:1+1 vm1; recall 1:2+1 vm1; done 1; assign 2:0+1 vm1 try1");
    EXPECT(&t, "cancel 1", "");
    EXPECT(&t, "result 1 1 try1 1+1 5000000", "drop 1:1+1");
    QUIET(&t, "recalled 1 1 2+1", "recorded 1 0+1", "delivered 1 0+1", "add 1 5", "serve 1 1",
          "close 1");
    ck_assert(info(&t, 1).is_cancelled);
    ck_assert_uint_eq(info(&t, 1).added, 9);
    EXPECT(&t, "forget 1", "");
    EXPECT(&t, "result 1 1 try1 1+1 5000000", "drop 1:1+1");
    EXPECT(&t, "recalled 1 1 1+1", "");
    EXPECT(&t, "open 1", ""); /* the number is free again */
    end(&t);
}
END_TEST

START_TEST(a_vm_that_serves_nothing_gets_nothing)
{
    struct trace t = begin(NULL);
    QUIET(&t, "open 1", "join 1", "add 1 9", "tick");
    EXPECT(&t, "serve 1 1", "assign 1:0+1 vm1 try1");
    EXPECT(&t, "serve 1 1", "");
    ck_assert_uint_eq(info(&t, 1).vms, 1);
    EXPECT(&t, "lost 1 expected", "");
    ck_assert_uint_eq(info(&t, 1).vms, 0);
    end(&t);
}
END_TEST

/* A life with everything in it; stops at the first refusal for want of memory, and steps that
 * line again when there is some. Returns how many refusals there were. */
static int live_through(uint64_t fail_at)
{
    static const char *const lines[] = {
        "open 1 retries 2 backoff 9 speculate", "join 1", "join 2", "serve 1 1", "serve 1 2",
        "add 1 20000", "open 2", "add 2 5", "failed 1 1 try1 0+1 7",
        "@1 result 1 1 try1 0+1 1000", "@2 result 1 2 try1 1+1 1000", "lost 1 own 1 2",
        "@3 result 1 2 try1 6+4 4000", "recorded 1 0+1", "drain 2", "recalled 1 2 10+4",
        "lost 2 loss", "join 40", "serve 2 40", "serve 1 40", "result 1 40 try2 2+1 9",
        "cancel 1", "forget 1", "open 3", "add 3 9", "add 3 70000 recorded", "add 3 9",
        "handed 3 try4 5+2", "close 2", "lost 40 loss",
    };
    struct trace t = {0};
    int refusals = 0;
    mem_fail_after(fail_at);
    if (sched_new(&t.s, NULL) != 0) {
        mem_fail_after(0);
        return 1;
    }
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        int rc = trace_step(&t, lines[i]);
        if (rc == TRK_ENOMEM) {
            static const char *const may[] = {"open", "join", "add"};
            bool is_allowed = false;
            for (size_t k = 0; k < 3; k++) {
                is_allowed = is_allowed || strncmp(lines[i], may[k], strlen(may[k])) == 0;
            }
            ck_assert_msg(is_allowed, "%s: out of memory", lines[i]);
            refusals++;
            mem_fail_after(0);
            rc = trace_step(&t, lines[i]);
        }
        ck_assert_msg(rc == 0, "%s: returned %d after failing allocation %llu", lines[i], rc,
                      (unsigned long long)fail_at);
    }
    mem_fail_after(0);
    end(&t);
    return refusals;
}

START_TEST(any_allocation_may_fail_and_the_event_be_tried_again)
{
    uint64_t n = 1;
    while (live_through(n) > 0) {
        n++;
    }
    ck_assert_uint_gt(n, 15);
    ck_assert_int_eq(live_through(0), 0);
}
END_TEST

START_TEST(many_vms_come_and_go_under_numbers_of_the_callers_choice)
{
    struct trace t = begin(NULL);
    char line[64];
    EXPECT(&t, "open 1", "");
    for (unsigned i = 0; i < 300; i++) {
        snprintf(line, sizeof line, "join %u", i * 2654435761u);
        EXPECT(&t, line, "");
        snprintf(line, sizeof line, "serve 1 %u", i * 2654435761u);
        EXPECT(&t, line, "");
    }
    ck_assert_int_eq(trace_step(&t, "add 1 20"), 0);
    for (unsigned i = 0; i < 300; i++) {
        snprintf(line, sizeof line, "lost %u own", i * 2654435761u);
        ck_assert_int_eq(trace_step(&t, line), 0);
    }
    ck_assert_uint_eq(info(&t, 1).vms, 0);
    ck_assert_uint_eq(info(&t, 1).pending, 20);
    ck_assert_uint_gt(sched_memory(t.s), 20 * 8);
    end(&t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched");
    ADD(suite, batches_grow_fourfold_from_a_probe_and_two_are_in_flight);
    ADD(suite, batches_are_cut_at_once_when_elements_turn_out_long);
    ADD(suite, a_batch_stays_under_its_bytes_but_one_element_always_goes);
    ADD(suite, an_idle_vm_comes_before_a_second_batch);
    ADD(suite, a_lost_vms_elements_go_first_with_the_next_attempt);
    ADD(suite, the_first_report_of_any_attempt_wins_and_all_else_is_dropped);
    ADD(suite, a_report_in_too_many_pieces_loses_its_end_and_that_runs_again);
    ADD(suite, a_stage_is_done_once_when_closed_and_recorded);
    ADD(suite, what_contradicts_the_contract_is_refused_without_a_change);
    ADD(suite, an_element_that_kills_three_vms_fails_and_its_neighbours_do_not);
    ADD(suite, after_a_death_another_vm_is_tried_if_one_has_room);
    ADD(suite, a_result_clears_the_blame);
    ADD(suite, losses_count_apart_and_without_a_report_for_the_first_unanswered);
    ADD(suite, what_waits_behind_a_long_element_is_recalled_for_an_idle_vm);
    ADD(suite, a_recall_that_gave_nothing_is_repeated_after_the_next_report_or_later_and_later);
    ADD(suite, a_batch_that_is_overdue_is_recalled_by_the_clock);
    ADD(suite, a_draining_vm_gives_back_and_gets_nothing);
    ADD(suite, a_draining_vm_is_asked_again_for_what_it_did_not_give_back);
    ADD(suite, stages_take_turns_on_a_vm);
    ADD(suite, a_cancelled_stage_is_done_at_once_and_what_comes_later_is_dropped);
    ADD(suite, a_vm_that_serves_nothing_gets_nothing);
    ADD(suite, any_allocation_may_fail_and_the_event_be_tried_again);
    ADD(suite, many_vms_come_and_go_under_numbers_of_the_callers_choice);
    return run_suite(suite);
}
