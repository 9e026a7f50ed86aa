/* SPDX-License-Identifier: MIT */
/* ckpt.c - the volatile recorder: a growing array of runs that a commit hands back whole. It has
 * the shape of the durable one (put, then commit in groups) and none of its cost. */
#include "ckpt/ckpt.h"

#include "base/mem.h"

struct ckpt {
    struct ckpt_run *runs;
    size_t count, cap;
    size_t committed; /* runs handed out by the last commit, dropped at the next put or commit */
};

int ckpt_new(struct ckpt **out)
{
    struct ckpt *c = mem_zalloc(1, sizeof(*c));
    if (c == NULL) {
        return TRK_ENOMEM;
    }
    *out = c;
    return 0;
}

void ckpt_free(struct ckpt *c)
{
    if (c != NULL) {
        mem_free(c->runs);
        mem_free(c);
    }
}

static void drop_committed(struct ckpt *c)
{
    if (c->committed > 0) {
        c->count = 0; /* a commit always takes all there is */
        c->committed = 0;
    }
}

int ckpt_put(struct ckpt *c, const struct ckpt_run *run)
{
    drop_committed(c);
    if (c->count == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 64;
        struct ckpt_run *runs = mem_realloc(c->runs, cap * sizeof(*runs));
        if (runs == NULL) {
            return TRK_ENOMEM;
        }
        c->runs = runs;
        c->cap = cap;
    }
    c->runs[c->count++] = *run;
    return 0;
}

int ckpt_commit(struct ckpt *c, const struct ckpt_run **runs, size_t *count)
{
    drop_committed(c);
    c->committed = c->count;
    *runs = c->runs;
    *count = c->count;
    return 0;
}
