/* SPDX-License-Identifier: MIT */
/* store.c - see store.h. */
#include "store.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sim.h"

#define LL unsigned long long

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

/* --- the disk ------------------------------------------------------------------------------ */

static void record_clear(struct record *r)
{
    blob_unref(r->body);
    *r = (struct record){.state = RECORD_NONE};
}

/* Writes one result of a parcel: not durable, and torn unless the transaction gets finished. */
static void record_write(struct sim *s, const struct parcel *p, uint32_t i, const uint8_t *payload,
                         enum record_state state)
{
    struct record *r = &s->store.disk.records[p->stage][p->first + i];
    if (r->state != RECORD_NONE) { /* put again after a sync that failed */
        if (r->is_given_up != p->is_given_up || *r->status != p->statuses[i] ||
            le_load_u32(r->size) != parcel_size(p, i) ||
            memcmp(r->payload, payload, parcel_size(p, i)) != 0) {
            sim_broken(s, "element %llu of stage %u is recorded with two results",
                       (LL)(p->first + i), p->stage + 1);
        }
        return;
    }
    *r = (struct record){.state = state, .is_given_up = p->is_given_up, .attempt = p->attempt,
                         .group = s->store.syncs, .body = blob_ref(p->body),
                         .status = p->statuses + i, .size = p->sizes + 4 * (size_t)i,
                         .payload = payload};
}

enum written { WRITTEN_NOTHING, WRITTEN_TORN, WRITTEN_ALL };

/* What a transaction leaves on disk that was not synced. */
static void write_group(struct sim *s, const struct group *g, enum written how)
{
    struct disk *d = &s->store.disk;
    s->store.syncs++;
    for (const struct parcel *p = g->first; how != WRITTEN_NOTHING && p != NULL; p = p->next) {
        const uint8_t *payload = p->payloads + p->at;
        for (uint32_t i = 0; i < p->count; payload += parcel_size(p, i), i++) {
            if (how == WRITTEN_ALL) {
                record_write(s, p, i, payload, RECORD_VISIBLE);
            } else if (dice_chance(&s->dice, 500)) {
                record_write(s, p, i, payload, RECORD_TORN);
            }
        }
    }
    for (uint32_t i = 0; how == WRITTEN_ALL && i < s->plan.stages; i++) {
        d->added[i] = g->added[i] > d->added[i] ? g->added[i] : d->added[i];
    }
}

/* Calls what with each record of this state. */
static void each_record(struct sim *s, enum record_state state,
                        void (*what)(struct sim *s, struct record *r, uint32_t stage,
                                     uint64_t index))
{
    for (uint32_t stage = 0; stage < s->plan.stages; stage++) {
        for (uint64_t i = 0; i < s->plan.stage[stage].elements; i++) {
            struct record *r = &s->store.disk.records[stage][i];
            if (r->state == state) {
                what(s, r, stage, i);
            }
        }
    }
}

static void record_sync(struct sim *s, struct record *r, uint32_t stage, uint64_t index)
{
    r->state = RECORD_DURABLE;
    judge_durable(s, stage, index);
}

/* All that was written is durable now. */
static void disk_sync(struct sim *s, const struct group *g)
{
    struct store *st = &s->store;
    write_group(s, g, WRITTEN_ALL);
    if (st->has_visible) { /* of earlier transactions, too */
        each_record(s, RECORD_VISIBLE, record_sync);
        st->has_visible = false;
        return;
    }
    for (const struct parcel *p = g->first; p != NULL; p = p->next) {
        for (uint64_t i = p->first; i < p->first + p->count; i++) {
            struct record *r = &st->disk.records[p->stage][i];
            if (r->state == RECORD_VISIBLE) {
                record_sync(s, r, p->stage, i);
            }
        }
    }
}

/* --- a process's life with it -------------------------------------------------------------- */

static void record_unseen(struct sim *s, struct record *r, uint32_t stage, uint64_t index)
{
    (void)s;
    (void)stage;
    (void)index;
    if (MUTATE(TORN_VISIBLE, true, false)) {
        r->state = RECORD_VISIBLE;
    } else {
        record_clear(r);
    }
}

static void record_seen(struct sim *s, struct record *r, uint32_t stage, uint64_t index)
{
    if (index >= s->store.disk.added[stage]) {
        sim_broken(s, "element %llu of stage %u is recorded, and that it was added is not",
                   (LL)index, stage + 1);
    }
    judge_restored(s, stage, index, r->is_given_up, r->payload, le_load_u32(r->size));
}

void store_open(struct sim *s, uint64_t epoch)
{
    struct store *st = &s->store;
    each_record(s, RECORD_TORN, record_unseen); /* transactions without an end */
    each_record(s, RECORD_VISIBLE, record_seen);
    each_record(s, RECORD_DURABLE, record_seen);
    st->has_visible = true;
    judge_opened(s);
    st->next.epoch = epoch;
    store_turn(s);
}

static void record_lose(struct sim *s, struct record *r, uint32_t stage, uint64_t index)
{
    (void)stage;
    (void)index;
    if (r->group >= s->store.lost_from) {
        record_clear(r);
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
    *g = (struct group){0};
}

void store_crash(struct sim *s, bool is_power)
{
    struct store *st = &s->store;
    if (st->is_syncing) {
        enum written how = (enum written)dice_below(&s->dice, 3);
        tell(s, "store", 0, "dies in a sync: %s", how == WRITTEN_NOTHING ? "nothing is written"
             : how == WRITTEN_TORN ? "a part of it is written" : "all of it is written");
        judge_in_doubt(s, &st->syncing);
        write_group(s, &st->syncing, how);
    }
    if (MUTATE(CRASH_KEEPS_UNSYNCED, true, false)) {
        write_group(s, &st->next, WRITTEN_ALL);
    }
    if (is_power) { /* of what was not synced any number of transactions is there, the first ones */
        uint64_t lost = dice_below(&s->dice, 4);
        st->lost_from = st->syncs + 1 - (lost < st->syncs ? lost : st->syncs);
        each_record(s, RECORD_VISIBLE, record_lose);
        each_record(s, RECORD_TORN, record_lose);
    }
    group_fini(&st->next);
    group_fini(&st->syncing);
    st->is_syncing = false;
    st->retry_ns = 0;
}

void store_start(struct sim *s)
{
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        s->store.disk.records[i] = sim_alloc(s->plan.stage[i].elements + 1,
                                             sizeof(struct record));
    }
}

void store_fini(struct sim *s)
{
    group_fini(&s->store.next);
    group_fini(&s->store.syncing);
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        for (uint64_t k = 0; k < s->plan.stage[i].elements; k++) {
            blob_unref(s->store.disk.records[i][k].body);
        }
        mem_free(s->store.disk.records[i]);
    }
}

/* --- reading ------------------------------------------------------------------------------- */

bool store_has(const struct sim *s, uint32_t stage, uint64_t index)
{
    return s->store.disk.records[stage][index].state >= RECORD_VISIBLE;
}

struct parcel *store_read(struct sim *s, uint32_t stage, uint64_t index)
{
    const struct record *r = &s->store.disk.records[stage][index];
    struct parcel *p;
    if (!store_has(s, stage, index)) {
        return NULL;
    }
    p = sim_alloc(1, sizeof(*p));
    *p = (struct parcel){.stage = stage, .attempt = r->attempt, .first = index, .count = 1,
                         .is_given_up = r->is_given_up, .is_restored = true,
                         .body = blob_ref(r->body), .statuses = r->status, .sizes = r->size,
                         .payloads = r->payload};
    return p;
}

/* --- putting ------------------------------------------------------------------------------- */

void store_put_work(struct sim *s, uint32_t stage, uint64_t added)
{
    s->store.next.added[stage] = added;
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
    if (last != NULL && !r->is_held && !last->is_held && last->vm == r->vm &&
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

/* What did not become durable goes first into the next transaction. */
static void put_again(struct sim *s)
{
    struct group *g = &s->store.syncing, *next = &s->store.next;
    struct receipt *receipts;
    if (g->first != NULL) {
        g->last->next = next->first;
        next->last = next->first != NULL ? next->last : g->last;
        next->first = g->first;
        next->count += g->count;
    }
    receipts = sim_grow(g->receipts, g->receipt_count + next->receipt_count + 1,
                        sizeof(*receipts));
    if (next->receipt_count > 0) {
        memcpy(receipts + g->receipt_count, next->receipts,
               next->receipt_count * sizeof(*receipts));
    }
    mem_free(next->receipts);
    next->receipts = receipts;
    next->receipt_count += g->receipt_count;
    next->receipt_cap = next->receipt_count + 1;
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        next->added[i] = next->added[i] > g->added[i] ? next->added[i] : g->added[i];
    }
    next->epoch = g->epoch;
    *g = (struct group){0};
}

static void sync_failed(struct sim *s)
{
    struct store *st = &s->store;
    bool is_all = !st->disk.is_full && dice_chance(&s->dice, 300);
    tell(s, "store", 0, "a sync fails%s%s", st->disk.is_full ? ", the disk is full" : "",
         is_all ? ", all of it is written" : "");
    /* Opened again: a torn transaction is not there, a finished one is, for the time being. */
    write_group(s, &st->syncing, is_all ? WRITTEN_ALL : WRITTEN_NOTHING);
    st->has_visible = st->has_visible || is_all;
    st->is_syncing = false;
    if (MUTATE(FAILED_SYNC_FORGETS, st->syncing.epoch == 0, false)) {
        group_fini(&st->syncing);
    }
    put_again(s);
    farm_on_disk(s, st->disk.is_full);
    st->retry_ns = s->clock.now_ns + dice_scale(&s->dice, 1 * US, 200 * MS);
    clock_at(&s->clock, st->retry_ns, EVENT_FARM_RESYNC, 0, 0);
}

void store_on_synced(struct sim *s)
{
    struct store *st = &s->store;
    struct group group;
    bool has_failed = st->disk.is_full || fault_strikes(s, FAULT_SYNC_FAIL);
    if (has_failed && !st->disk.is_full) {
        s->tally.faults[FAULT_SYNC_FAIL]++;
    }
    if (has_failed && MUTATE(FAILED_SYNC_OK, st->syncing.epoch != 0, true)) {
        sync_failed(s);
        return;
    }
    if (!has_failed) {
        disk_sync(s, &st->syncing);
    }
    group = st->syncing;
    st->syncing = (struct group){0};
    st->is_syncing = false;
    tell(s, "store", 0, "%zu runs of results are safe", group.count);
    farm_on_disk(s, false);
    if (group.epoch != 0) {
        st->disk.epoch = group.epoch;
        farm_opened(s);
    }
    farm_on_recorded(s, &group);
    mem_free(group.receipts);
}

static bool has_something(const struct sim *s)
{
    const struct group *g = &s->store.next;
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        if (g->added[i] > s->store.disk.added[i]) {
            return true;
        }
    }
    return g->first != NULL || g->receipt_count > 0 || g->epoch != 0;
}

void store_turn(struct sim *s)
{
    struct store *st = &s->store;
    uint64_t sync_ns = 0;
    if (st->is_syncing || s->clock.now_ns < st->retry_ns || !has_something(s) ||
        !farm_output(s)) {
        return;
    }
    st->syncing = st->next;
    st->next = (struct group){0};
    st->is_syncing = true;
    if (s->plan.sync_ns > 0) { /* now and then one takes much longer */
        sync_ns = dice_between(&s->dice, s->plan.sync_ns / 2, s->plan.sync_ns);
        sync_ns *= dice_chance(&s->dice, 30) ? 10 : 1;
    }
    if (fault_strikes(s, FAULT_SYNC_SLOW)) {
        s->tally.faults[FAULT_SYNC_SLOW]++;
        sync_ns += dice_scale(&s->dice, 1 * MS, 5 * SEC);
    }
    if (sync_ns == 0) {
        store_on_synced(s);
    } else {
        clock_in(&s->clock, sync_ns, EVENT_SYNCED, 0, 0);
    }
}

void store_disk_full(struct sim *s, bool is_full)
{
    if (s->store.disk.is_full != is_full) {
        tell(s, "store", 0, is_full ? "the disk is full" : "there is room on the disk");
        s->store.disk.is_full = is_full;
    }
}
