/* SPDX-License-Identifier: MIT */
/* mark.h - coverage marks: which transitions and which rare branches a run has really taken.
 *
 * Nothing at all unless compiled with -DTRK_MARKS, which only the simulator's second build does
 * (chaos/sim): production objects hold neither the counters nor a trace of them. With it, each
 * mark is a counter of its own whose address lies in a section, so that those that were never
 * reached can be listed too. Not for several threads. */
#ifndef BASE_MARK_H
#define BASE_MARK_H

#ifdef TRK_MARKS
#include <stddef.h>
#include <stdint.h>

#define MARK_STATES_MAX 16

/* One place in the code. */
struct mark {
    const char *name;
    uint64_t hits;
};

/* A table of states, each beginning with its name, with the bits of allowed next states. */
struct mark_table {
    const char *name;
    const void *states; /* the table: count entries of stride bytes */
    size_t stride, next_at, count;
    uint64_t hits[MARK_STATES_MAX][MARK_STATES_MAX]; /* [from][to] */
};

/* This place was reached. */
#define MARK(text)                                                                            \
    do {                                                                                      \
        static struct mark mark_ = {.name = text};                                            \
        static struct mark *const at_ __attribute__((section("trk_marks"), used)) = &mark_;   \
        (void)at_;                                                                            \
        mark_.hits++;                                                                         \
    } while (0)

/* A state of this table was left for another: entries of table have a member next. */
#define MARK_MOVE(text, table, from, to)                                                      \
    do {                                                                                      \
        static struct mark_table mark_ = {                                                    \
            .name = text,                                                                     \
            .states = (table),                                                                \
            .stride = sizeof((table)[0]),                                                     \
            .next_at = offsetof(__typeof__((table)[0]), next),                                \
            .count = sizeof(table) / sizeof((table)[0])};                                     \
        static struct mark_table *const at_                                                   \
            __attribute__((section("trk_mark_tables"), used)) = &mark_;                       \
        (void)at_;                                                                            \
        mark_.hits[from][to]++;                                                               \
    } while (0)
#else
#define MARK(text) ((void)0)
#define MARK_MOVE(text, table, from, to) ((void)0)
#endif

#endif
