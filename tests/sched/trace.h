/* SPDX-License-Identifier: MIT */
/* trace.h - events as lines of text in, actions as a line of text out, for readable tests.
 *
 *   open S [retries N backoff US] [speculate] | join V | serve S V | unserve S V
 *   add S N [BYTES] [recorded] | close S | drain V | cancel S | forget S | tick
 *   result S V tryT F+N NS | recorded S F+N | delivered S F+N
 *   failed S V tryT F+N NS | suspect V | unsuspect V | unblock V
 *   recalled S V F+N | moved S V F+N | lost V loss|own|expected|timeout [S F]
 *   handed S tryT F+N | handedbad S tryT F+N   a result, a failure from an earlier epoch
 *
 * "@7 line" happens 7 microseconds after the start; without it no time passes. */
#ifndef TESTS_SCHED_TRACE_H
#define TESTS_SCHED_TRACE_H

#include <check.h>
#include <string.h>

#include "sched/sched.h"

struct trace {
    struct sched *s;
    uint64_t now_ns;
    char text[4096]; /* the actions of the last step */
};

/* Two lines at the ends of every test. end() checks that no memory is left. */
struct trace begin(const struct sched_options *opt);
void end(struct trace *t);
struct sched_stage_info info(const struct trace *t, uint32_t stage);

/* Steps one line; returns what the step returned, the actions are in t->text. */
int trace_step(struct trace *t, const char *line);
/* Steps each line, whatever comes of it; or, is_quiet, none may bring an action. */
void trace_steps(struct trace *t, bool is_quiet, const char *const lines[], size_t count);

#define EXPECT(t, line, actions)                                                            \
    do {                                                                                    \
        int rc_ = trace_step(t, line);                                                      \
        ck_assert_msg(rc_ == 0, "%s: returned %d", line, rc_);                              \
        ck_assert_msg(strcmp((t)->text, actions) == 0, "%s\n  expected: %s\n  seen:     %s", \
                      line, actions, (t)->text);                                            \
    } while (0)

#define REFUSED(t, line, error)                                                       \
    do {                                                                              \
        int rc_ = trace_step(t, line);                                                \
        ck_assert_msg(rc_ == (error) && (t)->text[0] == '\0', "%s: returned %d, actions: %s", \
                      line, rc_, (t)->text);                                          \
    } while (0)

/* Lines that bring what they bring; and lines that must bring no action. */
#define GO(t, ...) TRACE_STEPS(t, false, __VA_ARGS__)
#define QUIET(t, ...) TRACE_STEPS(t, true, __VA_ARGS__)
#define TRACE_STEPS(t, is_quiet, ...)                                          \
    do {                                                                       \
        const char *const lines_[] = {__VA_ARGS__};                            \
        trace_steps(t, is_quiet, lines_, sizeof lines_ / sizeof *lines_);      \
    } while (0)

#endif
