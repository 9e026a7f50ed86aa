/* SPDX-License-Identifier: MIT */
/* record.c - records to bytes and back. Bytes may be anything: a disk gave them. */
#include "ckpt/record.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"

enum offset {
    AT_DIGEST = 8,
    AT_FORMAT = 24,
    AT_KIND = 25,
    AT_KEY_SIZE = 26,
    AT_FLAGS = 28,
    AT_BODY_SIZE = 32,
    AT_VERSION = 40,
    AT_BASE = 48,
    AT_EPOCH = 56,
    AT_ZERO = 60,
    AT_UUID = 64,
    AT_BODY_DIGEST = 80,
};

uint8_t record_format(enum ckpt_kind kind)
{
    return kind == CKPT_ELEMENTS ? 2 : 1;
}

void record_seal(uint8_t *out, struct record *r)
{
    struct digest body = hash_digest(out + RECORD_HEAD + r->key_size, r->body_size);

    assert(r->key_size <= RECORD_KEY_MAX && r->body_size <= RECORD_BODY_MAX);
    assert(r->kind > 0 && r->kind < CKPT_KIND_END);
    memcpy(out, RECORD_MAGIC, RECORD_MAGIC_BYTES);
    out[AT_FORMAT] = record_format(r->kind);
    out[AT_KIND] = (uint8_t)r->kind;
    out[AT_KEY_SIZE] = (uint8_t)r->key_size;
    out[AT_KEY_SIZE + 1] = (uint8_t)(r->key_size >> 8);
    le_store_u32(out + AT_FLAGS, r->flags);
    le_store_u64(out + AT_BODY_SIZE, r->body_size);
    le_store_u64(out + AT_VERSION, r->version);
    le_store_u64(out + AT_BASE, r->base);
    le_store_u32(out + AT_EPOCH, r->epoch);
    le_store_u32(out + AT_ZERO, 0);
    memcpy(out + AT_UUID, r->uuid, RECORD_UUID);
    memcpy(out + AT_BODY_DIGEST, body.bytes, sizeof(body.bytes));
    if (r->key_size > 0) {
        memcpy(out + RECORD_HEAD, r->key, r->key_size);
    }
    r->digest = hash_digest(out + AT_FORMAT, RECORD_HEAD - AT_FORMAT + r->key_size);
    memcpy(out + AT_DIGEST, r->digest.bytes, sizeof(r->digest.bytes));
}

int record_head_get(struct record *r, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    uint64_t body_size;

    if (size < RECORD_HEAD || memcmp(at, RECORD_MAGIC, RECORD_MAGIC_BYTES) != 0) {
        return TRK_ECORRUPT;
    }
    memset(r, 0, sizeof(*r));
    r->key_size = le_load_u16(at + AT_KEY_SIZE);
    body_size = le_load_u64(at + AT_BODY_SIZE);
    if (r->key_size > RECORD_KEY_MAX || r->key_size > size - RECORD_HEAD) {
        return TRK_ECORRUPT;
    }
    r->digest = hash_digest(at + AT_FORMAT, RECORD_HEAD - AT_FORMAT + r->key_size);
    if (memcmp(at + AT_DIGEST, r->digest.bytes, sizeof(r->digest.bytes)) != 0) {
        return TRK_ECORRUPT;
    }
    if (at[AT_FORMAT] > RECORD_FORMAT) {
        return TRK_EVERSION; /* undamaged, but not for us */
    }
    if (at[AT_KIND] == 0 || at[AT_KIND] >= CKPT_KIND_END ||
        at[AT_FORMAT] != record_format((enum ckpt_kind)at[AT_KIND]) ||
        body_size > RECORD_BODY_MAX || le_load_u32(at + AT_ZERO) != 0 ||
        (le_load_u32(at + AT_FLAGS) & ~(uint32_t)RECORD_IN_PARTS) != 0) {
        return TRK_ECORRUPT;
    }
    r->kind = (enum ckpt_kind)at[AT_KIND];
    r->flags = le_load_u32(at + AT_FLAGS);
    r->body_size = (size_t)body_size;
    r->version = le_load_u64(at + AT_VERSION);
    r->base = le_load_u64(at + AT_BASE);
    r->epoch = le_load_u32(at + AT_EPOCH);
    r->uuid = at + AT_UUID;
    r->key = at + RECORD_HEAD;
    r->body = r->key + r->key_size;
    return 0;
}

int record_get(struct record *r, const void *bytes, size_t size)
{
    int rc = record_head_get(r, bytes, size);
    struct digest body;

    if (rc < 0) {
        return rc;
    }
    if (size != record_size(r->key_size, r->body_size)) {
        return TRK_ECORRUPT;
    }
    body = hash_digest(r->body, r->body_size);
    return memcmp((const uint8_t *)bytes + AT_BODY_DIGEST, body.bytes, sizeof(body.bytes)) == 0
               ? 0
               : TRK_ECORRUPT;
}

/* --- keys ---------------- */

void key_put_u32(uint8_t *out, uint32_t v)
{
    v = __builtin_bswap32(v);
    le_store_u32(out, v);
}

void key_put_u64(uint8_t *out, uint64_t v)
{
    v = __builtin_bswap64(v);
    le_store_u64(out, v);
}

uint32_t key_get_u32(const uint8_t *key)
{
    return __builtin_bswap32(le_load_u32(key));
}

uint64_t key_get_u64(const uint8_t *key)
{
    return __builtin_bswap64(le_load_u64(key));
}

/* --- bodies ---------------- */

void record_parts_put(uint8_t out[RECORD_PARTS_BYTES], const struct record_parts *p)
{
    le_store_u64(out, p->body);
    le_store_u64(out + 8, p->size);
    le_store_u32(out + 16, p->count);
    le_store_u32(out + 20, 0);
    memcpy(out + 24, p->chain.bytes, sizeof(p->chain.bytes));
}

bool record_is_named(enum ckpt_kind kind)
{
    switch (kind) {
    case CKPT_JOB:
    case CKPT_STAGE:
    case CKPT_WORK:
    case CKPT_FAILURE:
    case CKPT_ATTEMPT:
    case CKPT_ONCE:
    case CKPT_STATE:
    case CKPT_TELEMETRY:
    case CKPT_ELEMENTS:
        return true;
    case CKPT_RESULT:
    case CKPT_FORGET:
    case CKPT_PART:
    case CKPT_COUNT:
    case CKPT_TAIL:
    case CKPT_KIND_END:
        break;
    }
    return false;
}

int record_parts_get(struct record_parts *p, const struct record *r)
{
    size_t before = r->kind == CKPT_RESULT ? RECORD_RUN_BYTES : 0;
    const uint8_t *at = r->body + before;

    if ((r->flags & RECORD_IN_PARTS) == 0 || r->body_size != before + RECORD_PARTS_BYTES ||
        le_load_u32(at + 20) != 0) {
        return TRK_ECORRUPT;
    }
    p->body = le_load_u64(at);
    p->size = le_load_u64(at + 8);
    p->count = le_load_u32(at + 16);
    memcpy(p->chain.bytes, at + 24, sizeof(p->chain.bytes));
    return p->count == PART_END ? TRK_ECORRUPT : 0;
}

void record_chain(struct digest *chain, const struct digest *part)
{
    uint8_t both[2 * sizeof(chain->bytes)];

    memcpy(both, chain->bytes, sizeof(chain->bytes));
    memcpy(both + sizeof(chain->bytes), part->bytes, sizeof(part->bytes));
    *chain = hash_digest(both, sizeof(both));
}

void record_run_put(uint8_t out[RECORD_RUN_BYTES], const struct record_run *run)
{
    le_store_u64(out, run->first);
    le_store_u64(out + 8, run->count);
    le_store_u64(out + 16, run->failed);
}

int record_run_get(struct record_run *run, const struct record *r)
{
    uint64_t end;

    if ((r->kind != CKPT_RESULT && r->kind != CKPT_FORGET) || r->key_size != KEY_STAGE_NUMBER ||
        r->body_size < RECORD_RUN_BYTES) {
        return TRK_ECORRUPT;
    }
    run->first = le_load_u64(r->body);
    run->count = le_load_u64(r->body + 8);
    run->failed = le_load_u64(r->body + 16);
    return run->count == 0 || __builtin_add_overflow(run->first, run->count, &end) ? TRK_ECORRUPT
                                                                                   : 0;
}

void record_count_put(uint8_t out[RECORD_COUNT_BYTES], const struct record_count *c)
{
    le_store_u64(out, c->recorded);
    le_store_u64(out + 8, c->failed);
    le_store_u64(out + 16, c->runs);
    le_store_u64(out + 24, c->bytes);
}

int record_count_get(struct record_count *c, const struct record *r)
{
    if (r->kind != CKPT_COUNT || r->key_size != KEY_STAGE || r->body_size != RECORD_COUNT_BYTES) {
        return TRK_ECORRUPT;
    }
    c->recorded = le_load_u64(r->body);
    c->failed = le_load_u64(r->body + 8);
    c->runs = le_load_u64(r->body + 16);
    c->bytes = le_load_u64(r->body + 24);
    return 0;
}

void record_tail_put(uint8_t out[RECORD_TAIL_BYTES], const struct record_tail *t)
{
    le_store_u64(out, t->version);
    le_store_u64(out + 8, t->records);
    le_store_u64(out + 16, t->sum[0]);
    le_store_u64(out + 24, t->sum[1]);
    le_store_u64(out + 32, t->index_count);
    le_store_u64(out + 40, t->index_sum);
}

int record_tail_get(struct record_tail *t, const struct record *r)
{
    if (r->kind != CKPT_TAIL || r->body_size != RECORD_TAIL_BYTES) {
        return TRK_ECORRUPT;
    }
    t->version = le_load_u64(r->body);
    t->records = le_load_u64(r->body + 8);
    t->sum[0] = le_load_u64(r->body + 16);
    t->sum[1] = le_load_u64(r->body + 24);
    t->index_count = le_load_u64(r->body + 32);
    t->index_sum = le_load_u64(r->body + 40);
    return 0;
}

void record_sum_add(uint64_t sum[2], const struct digest *digest)
{
    uint64_t low = le_load_u64(digest->bytes), high = le_load_u64(digest->bytes + 8);

    sum[0] += low;
    sum[1] += high + (sum[0] < low);
}

void record_sum_sub(uint64_t sum[2], const struct digest *digest)
{
    uint64_t low = le_load_u64(digest->bytes), high = le_load_u64(digest->bytes + 8);

    sum[1] -= high + (sum[0] < low);
    sum[0] -= low;
}

/* --- index ---------------- */

static uint64_t index_check(const uint8_t *key, const uint8_t *count)
{
    uint8_t both[KEY_INDEX + 8];
    struct digest d;

    memcpy(both, key, KEY_INDEX);
    memcpy(both + KEY_INDEX, count, 8);
    d = hash_digest(both, sizeof(both));
    return le_load_u64(d.bytes);
}

void index_entry_put(uint8_t key[KEY_INDEX], uint8_t value[INDEX_VALUE], struct index_entry *e)
{
    key_put_u32(key, e->stage);
    key_put_u64(key + 4, e->first);
    key_put_u64(key + 12, e->seq);
    le_store_u64(value, e->count);
    e->check = index_check(key, value);
    le_store_u64(value + 8, e->check);
}

int index_entry_get(struct index_entry *e, const void *key, size_t key_size, const void *value,
                    size_t value_size)
{
    const uint8_t *k = key, *v = value;
    uint64_t end;

    if (key_size != KEY_INDEX || value_size != INDEX_VALUE) {
        return TRK_ECORRUPT;
    }
    e->stage = key_get_u32(k);
    e->first = key_get_u64(k + 4);
    e->seq = key_get_u64(k + 12);
    e->count = le_load_u64(v);
    e->check = le_load_u64(v + 8);
    return e->count == 0 || __builtin_add_overflow(e->first, e->count, &end) ||
                   e->check != index_check(k, v)
               ? TRK_ECORRUPT
               : 0;
}
