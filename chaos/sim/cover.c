/* SPDX-License-Identifier: MIT */
/* cover.c - see cover.h. */
#include "cover.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mark.h"

#ifdef TRK_MARKS
/* The linker's names for the sections that MARK and MARK_MOVE fill. */
extern struct mark *__start_trk_marks[], *__stop_trk_marks[];
extern struct mark_table *__start_trk_mark_tables[], *__stop_trk_mark_tables[];

/* Calls with each counter in the same order. */
static size_t each(void (*visit)(struct cover *c, size_t i, uint64_t *hits), struct cover *c)
{
    size_t n = 0;
    for (struct mark **m = __start_trk_marks; m < __stop_trk_marks; m++) {
        visit(c, n++, &(*m)->hits);
    }
    for (struct mark_table **t = __start_trk_mark_tables; t < __stop_trk_mark_tables; t++) {
        for (size_t from = 0; from < (*t)->count; from++) {
            for (size_t to = 0; to < (*t)->count; to++) {
                visit(c, n++, &(*t)->hits[from][to]);
            }
        }
    }
    assert(n <= COVER_MAX);
    return n;
}

static void add_one(struct cover *c, size_t i, uint64_t *hits)
{
    atomic_fetch_add(&c->hits[i], *hits);
    *hits = 0;
}

static void take_one(struct cover *c, size_t i, uint64_t *hits)
{
    *hits += atomic_load(&c->hits[i]);
}

bool cover_exists(void)
{
    return true;
}

void cover_add(struct cover *to)
{
    each(add_one, to);
}

void cover_take(const struct cover *from)
{
    each(take_one, (struct cover *)from);
}

static const char *state_name(const struct mark_table *t, size_t i)
{
    return *(const char *const *)((const char *)t->states + i * t->stride);
}

static unsigned allowed_after(const struct mark_table *t, size_t i)
{
    return *(const unsigned *)((const char *)t->states + i * t->stride + t->next_at);
}

static unsigned print_table(const struct mark_table *t)
{
    unsigned holes = 0;
    printf("coverage of the states of %s:\n", t->name);
    for (size_t from = 0; from < t->count; from++) {
        for (size_t to = 0; to < t->count; to++) {
            if ((allowed_after(t, from) >> to & 1) != 0) {
                uint64_t hits = t->hits[from][to];
                printf("  %-10s -> %-10s %14llu%s\n", state_name(t, from), state_name(t, to),
                       (unsigned long long)hits, hits == 0 ? "  HOLE" : "");
                holes += hits == 0;
            }
        }
    }
    return holes;
}

unsigned cover_print(void)
{
    unsigned holes = 0;
    for (struct mark_table **t = __start_trk_mark_tables; t < __stop_trk_mark_tables; t++) {
        holes += print_table(*t);
    }
    printf("coverage of marked places:\n");
    for (struct mark **m = __start_trk_marks; m < __stop_trk_marks; m++) {
        printf("  %-52s %14llu%s\n", (*m)->name, (unsigned long long)(*m)->hits,
               (*m)->hits == 0 ? "  HOLE" : "");
        holes += (*m)->hits == 0;
    }
    return holes;
}
#else
bool cover_exists(void)
{
    return false;
}

void cover_add(struct cover *to)
{
    (void)to;
}

void cover_take(const struct cover *from)
{
    (void)from;
}

unsigned cover_print(void)
{
    return 0;
}
#endif
