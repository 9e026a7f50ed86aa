/* SPDX-License-Identifier: MIT */
/* test_policies.c - what happens when VMs and elements misbehave, as golden traces: silence,
 * failures and retries, blame, blocked VMs, second runs, VMs that come back. */
#include "trace.h"

#include <stdio.h>

#include "runner.h"

/* --- silence ------------------------------------------------------------------------------- */

START_TEST(a_silent_vm_gets_nothing_until_it_speaks)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 1", "serve 1 2");
    QUIET(&t, "suspect 1", "suspect 1");
    EXPECT(&t, "add 1 2", "assign 1:0+1 vm2 try1");
    EXPECT(&t, "unsuspect 1", "assign 1:1+1 vm1 try1");
    QUIET(&t, "unsuspect 1", "suspect 2");
    EXPECT(&t, "result 1 2 try1 0+1 9000000", "store 1:0+1 vm2 try1"); /* still taken */
    EXPECT(&t, "add 1 1", "");
    EXPECT(&t, "unsuspect 2", "assign 1:2+1 vm2 try1");
    REFUSED(&t, "suspect 9", TRK_EINVAL);
    EXPECT(&t, "lost 2 loss", "");
    end(&t);
}
END_TEST

START_TEST(a_silent_vm_is_not_asked_to_give_back_and_stands_in_nobodys_way)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "join 3", "serve 1 1", "add 1 6");
    EXPECT(&t, "result 1 1 try1 0+1 10000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "serve 1 2", "assign 1:3+1 vm2 try1; assign 1:4+1 vm2 try1");
    EXPECT(&t, "serve 1 3", "assign 1:5+1 vm3 try1");
    EXPECT(&t, "result 1 3 try1 5+1 10000000", "store 1:5+1 vm3 try1; recall 1:2+1 vm1");
    EXPECT(&t, "suspect 1", "recall 1:4+1 vm2"); /* its answer is not waited for */
    EXPECT(&t, "recalled 1 2 4+1", "assign 1:4+1 vm3 try1");
    EXPECT(&t, "recalled 1 1 2+1", "assign 1:2+1 vm2 try1"); /* it came after all */
    end(&t);
}
END_TEST

/* --- failures ------------------------------------------------------------------------------ */

START_TEST(a_failure_without_retries_is_stored_like_a_result)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "serve 1 1", "add 1 1", "close 1");
    EXPECT(&t, "failed 1 1 try1 0+1 1000", "store 1:0+1 vm1 try1");
    EXPECT(&t, "failed 1 1 try1 0+1 1000", "drop 1:0+1");
    EXPECT(&t, "recorded 1 0+1", "deliver 1:0+1; done 1");
    ck_assert_uint_eq(info(&t, 1).failed, 1);
    ck_assert_uint_eq(info(&t, 1).dropped, 1);
    end(&t);
}
END_TEST

START_TEST(a_failed_element_runs_again_after_a_wait_that_doubles)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 retries 2 backoff 8000", "join 1", "serve 1 1", "add 1 1", "close 1");
    EXPECT(&t, "@1000 failed 1 1 try1 0+1 1000", "drop 1:0+1; wake @9000");
    ck_assert_uint_eq(info(&t, 1).delayed, 1);
    EXPECT(&t, "@8999 tick", "");
    EXPECT(&t, "@9000 tick", "assign 1:0+1 vm1 try2");
    EXPECT(&t, "@10000 failed 1 1 try2 0+1 1000", "drop 1:0+1; wake @26000");
    EXPECT(&t, "@26000 tick", "assign 1:0+1 vm1 try3");
    EXPECT(&t, "@30000 failed 1 1 try3 0+1 1000", "store 1:0+1 vm1 try3");
    EXPECT(&t, "recorded 1 0+1", "deliver 1:0+1; done 1");
    ck_assert_uint_eq(info(&t, 1).retried, 2);
    ck_assert_uint_eq(info(&t, 1).failed, 1);
    ck_assert_uint_eq(info(&t, 1).dropped, 0);
    end(&t);
}
END_TEST

START_TEST(the_wait_is_100_ms_unless_told_and_60_s_at_most)
{
    struct trace t = begin(NULL);
    double wait_ms = 0;
    GO(&t, "open 1 retries 40", "join 1", "serve 1 1", "add 1 1");
    for (unsigned i = 1; i <= 40; i++) {
        char line[64];
        double us = 0;
        snprintf(line, sizeof line, "failed 1 1 try%u 0+1 1000", i);
        ck_assert_int_eq(trace_step(&t, line), 0);
        ck_assert_int_eq(sscanf(t.text, "drop 1:0+1; wake @%lf", &us), 1);
        wait_ms = us / 1000 - (double)t.now_ns / 1e6;
        ck_assert_msg(i > 1 || (wait_ms >= 100 && wait_ms <= 113), "the first: %g ms", wait_ms);
        ck_assert_msg(i > 2 || i == 1 || (wait_ms >= 200 && wait_ms <= 225), "%g ms", wait_ms);
        t.now_ns += (uint64_t)(wait_ms * 1e6) + 1000000;
        ck_assert_int_eq(trace_step(&t, "tick"), 0);
    }
    ck_assert_msg(wait_ms >= 60000 && wait_ms <= 67501, "the last: %g ms", wait_ms);
    end(&t);
}
END_TEST

START_TEST(a_message_of_results_and_failures_is_stepped_in_runs)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 retries 1", "join 1", "serve 1 1", "add 1 9");
    EXPECT(&t, "result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    EXPECT(&t, "result 1 1 try1 1+1 1000000", "store 1:1+1 vm1 try1");
    EXPECT(&t, "failed 1 1 try1 2+2 1000", "drop 1:2+2; wake @108000");
    EXPECT(&t, "result 1 1 try1 4+1 1000000", "store 1:4+1 vm1 try1"); /* the batch is over */
    EXPECT(&t, "failed 1 1 try1 5+1 1000", "drop 1:5+1");
    EXPECT(&t, "result 1 1 try1 6+3 3000000", "store 1:6+3 vm1 try1");
    ck_assert_uint_eq(info(&t, 1).assigned, 0);
    ck_assert_uint_eq(info(&t, 1).delayed, 3);
    EXPECT(&t, "@108000 tick", "assign 1:2+2 vm1 try2; assign 1:5+1 vm1 try2");
    EXPECT(&t, "result 1 1 try2 2+1 1000", "store 1:2+1 vm1 try2");
    EXPECT(&t, "failed 1 1 try2 3+1 1000", "store 1:3+1 vm1 try2");
    EXPECT(&t, "failed 1 1 try2 5+1 1000", "store 1:5+1 vm1 try2");
    end(&t);
}
END_TEST

START_TEST(a_good_result_that_comes_late_is_stored_while_its_element_waits)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 retries 1", "join 1", "serve 1 1", "add 1 1", "close 1", "lost 1 loss", "join 2",
       "serve 1 2");
    EXPECT(&t, "failed 1 2 try2 0+1 1000", "drop 1:0+1; wake @108000");
    EXPECT(&t, "result 1 1 try1 0+1 1000", "store 1:0+1 vm1 try1");
    EXPECT(&t, "@108000 tick", "");
    EXPECT(&t, "recorded 1 0+1", "deliver 1:0+1; done 1");
    end(&t);
}
END_TEST

START_TEST(the_same_failure_counts_once)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 retries 1", "join 1", "serve 1 1", "add 1 1");
    EXPECT(&t, "failed 1 1 try1 0+1 1000", "drop 1:0+1; wake @108000");
    EXPECT(&t, "failed 1 1 try1 0+1 1000", "drop 1:0+1"); /* while it waits */
    EXPECT(&t, "@108000 tick", "assign 1:0+1 vm1 try2");
    EXPECT(&t, "failed 1 1 try1 0+1 1000", "drop 1:0+1"); /* while it runs again */
    EXPECT(&t, "failed 1 2 try2 0+1 1000", "drop 1:0+1"); /* from a VM that does not run it */
    EXPECT(&t, "recalled 1 1 0+1", "assign 1:0+1 vm1 try2");
    EXPECT(&t, "lost 1 expected", "");
    EXPECT(&t, "failed 1 1 try2 0+1 1000", "drop 1:0+1"); /* may be any: it runs again */
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:0+1 vm1 try3");
    EXPECT(&t, "failed 1 1 try3 0+1 1000", "store 1:0+1 vm1 try3");
    ck_assert_uint_eq(info(&t, 1).dropped, 4);
    end(&t);
}
END_TEST

START_TEST(a_late_failure_counts_as_the_first_and_does_not_stop_the_next_try)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 retries 1", "join 1", "serve 1 1", "add 1 2", "lost 1 loss");
    EXPECT(&t, "failed 1 1 try1 0+1 1000", "drop 1:0+1; wake @108000"); /* it was pending */
    GO(&t, "join 2");
    EXPECT(&t, "serve 1 2", "assign 1:1+1 vm2 try1");
    EXPECT(&t, "lost 2 loss", "");
    GO(&t, "join 3");
    EXPECT(&t, "serve 1 3", "assign 1:1+1 vm3 try2");
    EXPECT(&t, "failed 1 2 try1 1+1 1000", "drop 1:1+1"); /* runs elsewhere: that is the retry */
    EXPECT(&t, "failed 1 3 try2 1+1 1000", "store 1:1+1 vm3 try2");
    end(&t);
}
END_TEST

START_TEST(many_elements_wait_in_segments_of_their_own_time)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 retries 9", "join 1", "serve 1 1", "add 1 20000");
    EXPECT(&t, "result 1 1 try1 0+1 1",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    for (uint64_t first = 1, count = 4; first < 15000; first += count) {
        char line[64];
        const char *at;
        unsigned long long f = 0, n = 0;
        snprintf(line, sizeof line, "@%llu failed 1 1 try1 %llu+%llu 1",
                 (unsigned long long)first * 10, (unsigned long long)first,
                 (unsigned long long)count);
        ck_assert_int_eq(trace_step(&t, line), 0);
        at = strstr(t.text, "assign 1:");
        ck_assert_msg(at != NULL && sscanf(at, "assign 1:%llu+%llu", &f, &n) == 2, "%s", t.text);
        if (first == 1) {
            first = 5 - count; /* the second batch that was in flight */
        } else if (strstr(t.text, "try2") != NULL) {
            break;
        }
        (void)f;
        (void)n;
    }
    ck_assert_uint_gt(info(&t, 1).delayed + info(&t, 1).pending, 0);
    GO(&t, "lost 1 expected", "@10000000 tick");
    ck_assert_uint_eq(info(&t, 1).delayed, 0);
    ck_assert_uint_eq(info(&t, 1).pending, 19999);
    end(&t);
}
END_TEST

/* --- whose fault --------------------------------------------------------------------------- */

START_TEST(a_timeout_is_an_own_death)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "serve 1 1", "add 1 1", "lost 1 timeout 1 0", "join 1", "serve 1 1",
       "lost 1 own 1 0", "join 1", "serve 1 1");
    EXPECT(&t, "lost 1 timeout 1 0", "fail 1:0 timeout try3");
    end(&t);
}
END_TEST

START_TEST(an_element_that_died_waits_for_another_vm_but_not_for_ever)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 1", "serve 1 2");
    EXPECT(&t, "add 1 3", "assign 1:0+1 vm1 try1; assign 1:1+1 vm2 try1");
    EXPECT(&t, "lost 1 own 1 0", "");
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try1; wake @6e+07"); /* not the one it died of */
    EXPECT(&t, "@1000 result 1 1 try1 2+1 1000000", "store 1:2+1 vm1 try1; wake @1.002e+06");
    EXPECT(&t, "@1001999 tick", "");
    EXPECT(&t, "@1002000 tick", "assign 1:0+1 vm1 try2"); /* the other one does not end */
    EXPECT(&t, "lost 1 own 1 0", "");
    GO(&t, "join 1", "serve 1 1");
    EXPECT(&t, "result 1 2 try1 1+1 1000000000", "store 1:1+1 vm2 try1; assign 1:0+1 vm2 try3");
    end(&t);
}
END_TEST

START_TEST(what_queues_behind_an_endless_element_goes_back_to_where_it_died)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 1", "add 1 3");
    EXPECT(&t, "@1000 result 1 1 try1 0+1 10000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1; assign 1:2+1 vm1 try1");
    EXPECT(&t, "serve 1 2", "recall 1:2+1 vm1");
    EXPECT(&t, "@2000 recalled 1 1 2+1", "assign 1:2+1 vm2 try1");
    EXPECT(&t, "@3000 lost 1 own 1 1", "assign 1:1+1 vm2 try2");
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", "wake @1.023e+06"); /* not at once: VM 1 may be bad */
    EXPECT(&t, "@1022999 tick", "");
    EXPECT(&t, "@1023000 tick", "recall 1:1+1 vm2"); /* but 2 may never end */
    EXPECT(&t, "recalled 1 2 1+1", "assign 1:1+1 vm1 try2");
    end(&t);
}
END_TEST

START_TEST(a_vm_that_kills_everything_takes_few_at_a_time)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 2", "add 1 100");
    for (int i = 1; i <= 4; i++) {
        char line[64], want[64];
        snprintf(want, sizeof want, "assign 1:%d+1 vm1 try1", i);
        GO(&t, "serve 1 1");
        ck_assert_msg(strncmp(t.text, want, strlen(want)) == 0, "%s", t.text);
        snprintf(line, sizeof line, "lost 1 own 1 %d", i);
        GO(&t, line);
        GO(&t, "join 1");
    }
    EXPECT(&t, "serve 1 1", "");
    EXPECT(&t, "@1000 result 1 2 try1 0+1 1000", "store 1:0+1 vm2 try1; assign 1:1+1 vm2 try2; "
                                                 "assign 1:5+4 vm1 try1; assign 1:9+4 vm1 try1; "
                                                 "wake @1e+06");
    end(&t);
}
END_TEST

/* --- blocked VMs --------------------------------------------------------------------------- */

/* Elements first .. first+n-1 die on VM 1 and are completed by VM 2, both serving stage 1, where
 * nothing else is to do. Returns what the last completion brought. */
static const char *die_and_complete(struct trace *t, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++) {
        char line[64];
        GO(t, "unserve 1 2", "add 1 1");
        snprintf(line, sizeof line, "lost 1 own 1 %u", i);
        GO(t, line);
        GO(t, "serve 1 2", "join 1", "serve 1 1");
        snprintf(line, sizeof line, "result 1 2 try2 %u+1 1000", i);
        GO(t, line);
    }
    return t->text;
}

START_TEST(a_vm_that_three_elements_died_on_is_blocked_when_others_have_completed_them)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 1", "serve 1 2");
    ck_assert_str_eq(die_and_complete(&t, 0, 2), "store 1:1+1 vm2 try2");
    ck_assert_str_eq(die_and_complete(&t, 2, 1), "block vm1; store 1:2+1 vm2 try2");
    EXPECT(&t, "add 1 2", "assign 1:3+2 vm2 try1");
    EXPECT(&t, "lost 1 expected", "");
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", ""); /* still blocked under that number */
    ck_assert_uint_eq(info(&t, 1).vms, 1);
    EXPECT(&t, "lost 2 expected", "assign 1:3+2 vm1 try2"); /* it is the last one */
    GO(&t, "join 2");
    EXPECT(&t, "serve 1 2", "wake @2000"); /* to ask for the rest of that batch */
    EXPECT(&t, "recalled 1 1 4+1", "assign 1:4+1 vm2 try2");
    EXPECT(&t, "result 1 1 try2 3+1 1000", "store 1:3+1 vm1 try2");
    EXPECT(&t, "add 1 1", "assign 1:5+1 vm2 try1");
    QUIET(&t, "unblock 1", "unblock 1", "unblock 99");
    EXPECT(&t, "add 1 1", "assign 1:6+1 vm1 try1");
    end(&t);
}
END_TEST

START_TEST(a_blocked_vm_is_used_for_a_stage_that_nobody_else_serves)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "open 2", "join 1", "join 2", "serve 1 1", "serve 1 2", "serve 2 1");
    ck_assert_str_eq(die_and_complete(&t, 0, 3), "block vm1; store 1:2+1 vm2 try2");
    GO(&t, "serve 2 1");
    EXPECT(&t, "add 2 1", "assign 2:0+1 vm1 try1");
    EXPECT(&t, "result 2 1 try1 0+1 1000", "store 2:0+1 vm1 try1");
    GO(&t, "drain 2");
    EXPECT(&t, "add 1 1", "assign 1:3+1 vm1 try1"); /* the other one gets nothing any more */
    end(&t);
}
END_TEST

START_TEST(what_waits_on_a_vm_is_asked_back_when_it_is_blocked)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 1", "serve 1 2");
    (void)die_and_complete(&t, 0, 2);
    GO(&t, "unserve 1 2", "add 1 1", "lost 1 own 1 2", "serve 1 2"); /* at VM 2 */
    GO(&t, "join 1", "serve 1 1");
    EXPECT(&t, "add 1 2", "assign 1:3+2 vm1 try1");
    EXPECT(&t, "result 1 2 try2 2+1 1000", "block vm1; recall 1:3+2 vm1; store 1:2+1 vm2 try2; "
                                           "wake @2000");
    EXPECT(&t, "recalled 1 1 4+1", "assign 1:4+1 vm2 try1");
    EXPECT(&t, "result 1 1 try1 3+1 1000", "store 1:3+1 vm1 try1");
    end(&t);
}
END_TEST

START_TEST(the_last_usable_vm_is_never_blocked)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "join 2", "serve 1 1", "serve 1 2");
    (void)die_and_complete(&t, 0, 2);
    GO(&t, "unserve 1 2", "add 1 1", "lost 1 own 1 2", "serve 1 2", "lost 2 loss", "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:2+1 vm1 try3");
    EXPECT(&t, "result 1 2 try2 2+1 1000", "store 1:2+1 vm2 try2"); /* late; VM 1 is alone */
    EXPECT(&t, "add 1 1", "assign 1:3+1 vm1 try1");
    end(&t);
}
END_TEST

START_TEST(elements_that_die_anywhere_block_nobody)
{
    struct trace t = begin(NULL);
    unsigned blocked = 0, next = 0;
    GO(&t, "open 1");
    for (unsigned vm = 1; vm <= 8; vm++) {
        char line[64];
        snprintf(line, sizeof line, "join %u", vm);
        GO(&t, line);
    }
    for (unsigned round = 0; round < 400; round++) { /* each dies once, on every VM in turn */
        unsigned vm = (round * 7 + round / 5) % 8 + 1, other = vm % 8 + 1;
        char line[6][64];
        snprintf(line[0], 64, "serve 1 %u", vm);
        snprintf(line[1], 64, "lost %u own 1 %u", vm, next);
        snprintf(line[2], 64, "serve 1 %u", other);
        snprintf(line[3], 64, "result 1 %u try2 %u+1 1000", other, next);
        snprintf(line[4], 64, "unserve 1 %u", other);
        snprintf(line[5], 64, "join %u", vm);
        GO(&t, "add 1 1");
        for (int i = 0; i < 6; i++) {
            GO(&t, line[i]);
            blocked += strstr(t.text, "block") != NULL;
        }
        next++;
    }
    ck_assert_msg(blocked <= 1, "%u VMs of 8 were blocked", blocked);
    end(&t);
}
END_TEST

START_TEST(what_speaks_against_vms_that_never_return_is_forgotten)
{
    struct trace t = begin(NULL);
    size_t bytes = 0;
    GO(&t, "open 1", "join 1", "serve 1 1");
    for (unsigned i = 0; i < 300; i++) {
        char line[4][64];
        snprintf(line[0], 64, "join %u", 100 + i);
        snprintf(line[1], 64, "serve 1 %u", 100 + i);
        snprintf(line[2], 64, "lost %u own 1 %u", 100 + i, i);
        snprintf(line[3], 64, "result 1 1 try2 %u+1 1000", i);
        GO(&t, "unserve 1 1");
        GO(&t, line[0]);
        GO(&t, line[1]);
        GO(&t, "add 1 1");
        GO(&t, line[2]);
        GO(&t, "serve 1 1");
        GO(&t, line[3]);
        bytes = i == 20 ? sched_memory(t.s) : bytes;
    }
    ck_assert_uint_eq(sched_memory(t.s), bytes);
    end(&t);
}
END_TEST

/* --- second runs --------------------------------------------------------------------------- */

/* A stage whose elements take 10 ms; 0 is done, 1 runs on VM 1 since 100 ms, VM 2 has nothing. */
static struct trace begin_tail(const char *open)
{
    struct trace t = begin(NULL);
    GO(&t, open, "join 1", "join 2", "serve 1 1", "add 1 2", "close 1");
    EXPECT(&t, "@100000 result 1 1 try1 0+1 10000000",
           "store 1:0+1 vm1 try1; assign 1:1+1 vm1 try1");
    EXPECT(&t, "serve 1 2", strstr(open, "speculate") != NULL ? "wake @200000" : "");
    EXPECT(&t, "@200000 tick", "");
    return t;
}

START_TEST(what_runs_very_long_runs_on_an_idle_vm_too_and_the_first_result_counts)
{
    struct trace t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200000.001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "@900000 tick", ""); /* once */
    ck_assert_uint_eq(info(&t, 1).doubled, 1);
    ck_assert_uint_eq(info(&t, 1).assigned, 1);
    EXPECT(&t, "result 1 2 try2 1+1 10000000", "stop 1:1+1 vm1; store 1:1+1 vm2 try2");
    EXPECT(&t, "result 1 1 try1 1+1 900000000", "drop 1:1+1");
    EXPECT(&t, "recorded 1 0+2", "deliver 1:0+2; done 1");
    end(&t);
}
END_TEST

START_TEST(the_first_run_may_still_win)
{
    struct trace t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "result 1 1 try1 1+1 10000000", "stop 1:1+1 vm2; store 1:1+1 vm1 try1");
    EXPECT(&t, "result 1 2 try2 1+1 10000000", "drop 1:1+1");
    end(&t);
}
END_TEST

START_TEST(nothing_runs_twice_unless_the_stage_wants_it)
{
    struct trace t = begin_tail("open 1");
    EXPECT(&t, "@10000000 tick", "");
    end(&t);
}
END_TEST

START_TEST(the_loss_of_one_of_two_vms_leaves_the_other_running)
{
    struct trace t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "lost 2 loss", "");
    GO(&t, "join 2");
    EXPECT(&t, "serve 1 2", ""); /* a loss counts for it, so nobody is risked again */
    EXPECT(&t, "result 1 2 try2 1+1 1", "store 1:1+1 vm2 try2"); /* late */
    end(&t);
    t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "lost 1 expected", "");
    ck_assert_uint_eq(info(&t, 1).assigned, 1);
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", "wake @300001");
    EXPECT(&t, "@300002 tick", "assign 1:1+1 vm1 try3"); /* it is the only run again */
    QUIET(&t, "lost 1 expected", "lost 2 expected");
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:1+1 vm1 try4");
    end(&t);
}
END_TEST

START_TEST(both_runs_may_fail_and_each_counts_once)
{
    struct trace t = begin_tail("open 1 retries 1 backoff 8000 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "failed 1 2 try2 1+1 1000", "drop 1:1+1"); /* the next try is under way */
    EXPECT(&t, "failed 1 2 try2 1+1 1000", "drop 1:1+1");
    EXPECT(&t, "@900000 tick", "");
    EXPECT(&t, "failed 1 1 try1 1+1 1000", "store 1:1+1 vm1 try1");
    end(&t);
    t = begin_tail("open 1 retries 2 backoff 8000 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "failed 1 1 try1 1+1 1000", "drop 1:1+1"); /* VM 2 goes on */
    EXPECT(&t, "failed 1 2 try2 1+1 1000", "drop 1:1+1; wake @218000");
    EXPECT(&t, "@218000 tick", "assign 1:1+1 vm1 try3; wake @318000");
    end(&t);
}
END_TEST

START_TEST(what_kills_a_vm_is_not_doubled_and_a_last_death_stops_the_other_run)
{
    struct sched_options opt = {.max_own_deaths = 1};
    struct trace t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "lost 1 own 1 1", "");
    GO(&t, "join 1", "serve 1 1");
    EXPECT(&t, "@900000 tick", "");
    EXPECT(&t, "lost 2 own 1 1", "assign 1:1+1 vm1 try3");
    EXPECT(&t, "lost 1 own 1 1", "fail 1:1 own try3");
    end(&t);
    t = begin(&opt);
    GO(&t, "open 1 speculate", "join 1", "join 2", "serve 1 1", "add 1 2", "close 1",
       "@1 result 1 1 try1 0+1 1000000", "serve 1 2");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "lost 2 own 1 1", "fail 1:1 own try2; stop 1:1+1 vm1");
    ck_assert_uint_eq(info(&t, 1).assigned, 0);
    end(&t);
}
END_TEST

START_TEST(a_run_that_is_given_back_leaves_the_other_one)
{
    struct trace t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "drain 2", "recall 1:1+1 vm2");
    EXPECT(&t, "recalled 1 2 1+1", "");
    ck_assert_uint_eq(info(&t, 1).assigned, 1);
    EXPECT(&t, "lost 2 expected", "");
    GO(&t, "join 2");
    EXPECT(&t, "serve 1 2", "assign 1:1+1 vm2 try3");
    EXPECT(&t, "recalled 1 1 1+1", "wake @300001"); /* the first run; VM 1 is idle now */
    ck_assert_uint_eq(info(&t, 1).assigned, 1);
    EXPECT(&t, "recalled 1 2 1+1", "assign 1:1+1 vm1 try3");
    EXPECT(&t, "cancel 1", "recall 1:1+1 vm1; done 1");
    end(&t);
}
END_TEST

START_TEST(a_stage_may_be_cancelled_while_elements_run_twice)
{
    struct trace t = begin_tail("open 1 speculate");
    EXPECT(&t, "@200001 tick", "assign 1:1+1 vm2 try2");
    EXPECT(&t, "cancel 1", "recall 1:1+1 vm1; recall 1:1+1 vm2; done 1");
    EXPECT(&t, "forget 1", "");
    end(&t);
}
END_TEST

START_TEST(the_longest_running_is_doubled_first_and_other_work_comes_before)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1 speculate", "open 2", "join 1", "join 2", "join 3", "serve 1 1", "serve 1 2",
       "serve 1 3", "serve 2 3", "add 1 4", "close 1", "@1000 result 1 1 try1 0+1 1000000");
    EXPECT(&t, "@5000 tick", "");
    EXPECT(&t, "@250000 result 1 3 try1 2+1 1000000", "store 1:2+1 vm3 try1; "
                                                      "assign 1:1+1 vm3 try2");
    EXPECT(&t, "result 1 3 try2 1+1 1000000", "stop 1:1+1 vm2; store 1:1+1 vm3 try2; "
                                              "assign 1:3+1 vm2 try2");
    EXPECT(&t, "add 2 1", "assign 2:0+1 vm3 try1");
    end(&t);
}
END_TEST

/* --- VMs that come back -------------------------------------------------------------------- */

START_TEST(a_vm_that_was_only_silent_comes_back_and_its_old_batches_count_once)
{
    struct trace t = begin(NULL);
    GO(&t, "open 1", "join 1", "serve 1 1", "add 1 9");
    EXPECT(&t, "result 1 1 try1 0+1 1000000",
           "store 1:0+1 vm1 try1; assign 1:1+4 vm1 try1; assign 1:5+4 vm1 try1");
    QUIET(&t, "suspect 1", "lost 1 loss");
    GO(&t, "join 1");
    EXPECT(&t, "serve 1 1", "assign 1:1+1 vm1 try2"); /* 1 is under suspicion: alone */
    EXPECT(&t, "result 1 1 try1 1+2 2000000", /* its old batch goes on */
           "store 1:1+2 vm1 try1; assign 1:3+4 vm1 try2; assign 1:7+2 vm1 try2");
    EXPECT(&t, "result 1 1 try2 1+1 1000000", "drop 1:1+1");
    EXPECT(&t, "result 1 1 try1 3+2 2000000", "store 1:3+2 vm1 try1");
    ck_assert_uint_eq(info(&t, 1).assigned, 4);
    EXPECT(&t, "recalled 1 1 5+4", "assign 1:5+4 vm1 try2"); /* of the old batch or the new one */
    EXPECT(&t, "result 1 1 try2 3+4 4000000", "drop 1:3+2; store 1:5+2 vm1 try2");
    EXPECT(&t, "result 1 1 try2 7+2 2000000", "store 1:7+2 vm1 try2");
    ck_assert_uint_eq(info(&t, 1).assigned, 0);
    ck_assert_uint_eq(info(&t, 1).returned, 9);
    end(&t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched policies");
    ADD(suite, a_silent_vm_gets_nothing_until_it_speaks);
    ADD(suite, a_silent_vm_is_not_asked_to_give_back_and_stands_in_nobodys_way);
    ADD(suite, a_failure_without_retries_is_stored_like_a_result);
    ADD(suite, a_failed_element_runs_again_after_a_wait_that_doubles);
    ADD(suite, the_wait_is_100_ms_unless_told_and_60_s_at_most);
    ADD(suite, a_message_of_results_and_failures_is_stepped_in_runs);
    ADD(suite, a_good_result_that_comes_late_is_stored_while_its_element_waits);
    ADD(suite, the_same_failure_counts_once);
    ADD(suite, a_late_failure_counts_as_the_first_and_does_not_stop_the_next_try);
    ADD(suite, many_elements_wait_in_segments_of_their_own_time);
    ADD(suite, a_timeout_is_an_own_death);
    ADD(suite, an_element_that_died_waits_for_another_vm_but_not_for_ever);
    ADD(suite, what_queues_behind_an_endless_element_goes_back_to_where_it_died);
    ADD(suite, a_vm_that_kills_everything_takes_few_at_a_time);
    ADD(suite, a_vm_that_three_elements_died_on_is_blocked_when_others_have_completed_them);
    ADD(suite, a_blocked_vm_is_used_for_a_stage_that_nobody_else_serves);
    ADD(suite, what_waits_on_a_vm_is_asked_back_when_it_is_blocked);
    ADD(suite, the_last_usable_vm_is_never_blocked);
    ADD(suite, elements_that_die_anywhere_block_nobody);
    ADD(suite, what_speaks_against_vms_that_never_return_is_forgotten);
    ADD(suite, what_runs_very_long_runs_on_an_idle_vm_too_and_the_first_result_counts);
    ADD(suite, the_first_run_may_still_win);
    ADD(suite, nothing_runs_twice_unless_the_stage_wants_it);
    ADD(suite, the_loss_of_one_of_two_vms_leaves_the_other_running);
    ADD(suite, both_runs_may_fail_and_each_counts_once);
    ADD(suite, what_kills_a_vm_is_not_doubled_and_a_last_death_stops_the_other_run);
    ADD(suite, a_run_that_is_given_back_leaves_the_other_one);
    ADD(suite, a_stage_may_be_cancelled_while_elements_run_twice);
    ADD(suite, the_longest_running_is_doubled_first_and_other_work_comes_before);
    ADD(suite, a_vm_that_was_only_silent_comes_back_and_its_old_batches_count_once);
    return run_suite(suite);
}
