/* SPDX-License-Identifier: MIT */
/* runner.h - the main of a unit test here: one TCase per test, named after it. */
#ifndef TESTS_SCHED_RUNNER_H
#define TESTS_SCHED_RUNNER_H

#include "tests/suite.h"

#define ADD(suite, test)                      \
    do {                                      \
        TCase *tc_ = tcase_create(#test);     \
        tcase_set_timeout(tc_, 30);           \
        tcase_add_test(tc_, test);            \
        suite_add_tcase(suite, tc_);          \
    } while (0)

#endif
