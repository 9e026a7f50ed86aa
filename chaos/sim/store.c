/* SPDX-License-Identifier: MIT */
/* store.c - see store.h. */
#include "store.h"

#include <assert.h>

#include "base/buf.h"
#include "base/mem.h"
#include "sim.h"

void parcel_free(struct parcel *p)
{
    blob_unref(p->body);
    mem_free(p);
}

uint32_t parcel_size(const struct parcel *p, uint32_t i)
{
    assert(i < p->count);
    return le_load_u32(p->sizes + 4 * (size_t)i);
}

void store_put(struct sim *s, struct parcel *p)
{
    struct group *g = &s->store.next;
    judge_put(s, p);
    p->next = NULL;
    if (g->first == NULL) {
        g->first = p;
    } else {
        g->last->next = p;
    }
    g->last = p;
    g->count++;
}

void store_receipt(struct sim *s, const struct receipt *r)
{
    struct group *g = &s->store.next;
    struct receipt *last = g->receipt_count > 0 ? &g->receipts[g->receipt_count - 1] : NULL;
    if (last != NULL && !r->is_spool && !last->is_spool && last->vm == r->vm &&
        last->lease == r->lease) {
        last->seq = r->seq > last->seq ? r->seq : last->seq;
        return;
    }
    if (g->receipt_count == g->receipt_cap) {
        g->receipt_cap = g->receipt_cap > 0 ? 2 * g->receipt_cap : 8;
        g->receipts = sim_grow(g->receipts, g->receipt_cap, sizeof(*g->receipts));
    }
    g->receipts[g->receipt_count++] = *r;
}

void store_on_synced(struct sim *s)
{
    struct store *st = &s->store;
    struct group group = st->syncing;
    for (struct parcel *p = group.first; p != NULL; p = p->next) {
        judge_recorded(s, p);
    }
    st->syncing = (struct group){0};
    st->is_syncing = false;
    st->syncs++;
    tell(s, "store", 0, "%zu runs of results are safe", group.count);
    farm_on_recorded(s, &group);
    mem_free(group.receipts);
}

void store_turn(struct sim *s)
{
    struct store *st = &s->store;
    if (st->is_syncing || (st->next.first == NULL && st->next.receipt_count == 0)) {
        return;
    }
    st->syncing = st->next;
    st->next = (struct group){0};
    st->is_syncing = true;
    if (s->plan.sync_ns == 0) {
        store_on_synced(s);
    } else { /* now and then one takes much longer */
        uint64_t sync_ns = dice_between(&s->dice, s->plan.sync_ns / 2, s->plan.sync_ns);
        sync_ns *= dice_chance(&s->dice, 30) ? 10 : 1;
        clock_in(&s->clock, sync_ns, EVENT_SYNCED, 0, 0);
    }
}

static void group_fini(struct group *g)
{
    while (g->first != NULL) {
        struct parcel *p = g->first;
        g->first = p->next;
        parcel_free(p);
    }
    mem_free(g->receipts);
}

void store_fini(struct sim *s)
{
    group_fini(&s->store.next);
    group_fini(&s->store.syncing);
}
