/* SPDX-License-Identifier: MIT */
/* msg_work.c - the bodies that carry work and answers: flat layouts (drawn in msg.h).
 *
 * A payload is copied once into its message and never on the way out: decoders point into the
 * body. Counts come from a peer, so every sum is made in 64 bits from 32-bit parts, which cannot
 * overflow, and must meet the size of the body exactly. */
#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "trickle/work.h"
#include "wire/msg.h"

#define REQUEST_HEAD 16
#define REQUEST_NAME_MAX 4096
#define STAGE_HEAD 32

static struct cursor open_body(const struct blob *body)
{
    struct cursor c;

    cursor_init(&c, body->data, body->size);
    return c;
}

static int finish(const struct cursor *c)
{
    return c->has_failed || c->at != c->end ? TRK_ECORRUPT : 0;
}

/* The rest of the body as a payload. */
static const void *get_rest(struct cursor *c, size_t *size)
{
    *size = cursor_left(c);
    return cursor_get(c, *size);
}

/* u8[3] 0: kept for flags of a newer version, which this one would misread. */
static void get_zero24(struct cursor *c)
{
    uint32_t low = cursor_get_u16(c);

    c->has_failed |= (low | cursor_get_u8(c)) != 0;
}

static void get_zero32(struct cursor *c)
{
    c->has_failed |= cursor_get_u32(c) != 0;
}

static void get_id(struct cursor *c, uint8_t id[16])
{
    const uint8_t *at = cursor_get(c, 16);

    memset(id, 0, 16);
    if (at != NULL) {
        memcpy(id, at, 16);
    }
}

static void get_module(struct cursor *c, char module[TRK_MODULE_MAX], uint32_t size)
{
    const uint8_t *at = size < TRK_MODULE_MAX ? cursor_get(c, size) : NULL;

    memset(module, 0, TRK_MODULE_MAX);
    if (at == NULL || memchr(at, '\0', size) != NULL) {
        c->has_failed = true;
    } else {
        memcpy(module, at, size);
    }
}

/* A buf with room for exactly size bytes: one allocation per message. */
static void start(struct buf *b, size_t size)
{
    buf_init(b);
    b->blob = blob_new(size);
    b->has_failed = b->blob == NULL;
}

struct blob *wire_request_encode(const struct wire_request *m)
{
    struct buf b;

    assert(m->name_size <= REQUEST_NAME_MAX);
    start(&b, REQUEST_HEAD + m->name_size + m->size);
    buf_put_u8(&b, m->op);
    buf_put(&b, "\0\0", 3);
    buf_put_u32(&b, (uint32_t)m->name_size);
    buf_put_u64(&b, m->object);
    buf_put(&b, m->name, m->name_size);
    buf_put(&b, m->payload, m->size);
    return buf_take(&b);
}

int wire_request_decode(struct wire_request *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->op = cursor_get_u8(&c);
    get_zero24(&c);
    m->name_size = cursor_get_u32(&c);
    m->object = cursor_get_u64(&c);
    m->name = (const char *)cursor_get(&c, m->name_size);
    m->payload = get_rest(&c, &m->size);
    if (c.has_failed || m->op < TRK_OP_INJECT || m->op > TRK_OP_FETCH ||
        m->name_size > REQUEST_NAME_MAX || memchr(m->name, '\0', m->name_size) != NULL) {
        return TRK_ECORRUPT;
    }
    return 0;
}

void wire_reply_head(uint8_t out[WIRE_REPLY_HEAD], uint8_t status)
{
    memset(out, 0, WIRE_REPLY_HEAD);
    out[0] = status;
}

struct blob *wire_reply_encode(const struct wire_reply *m)
{
    struct buf b;
    uint8_t head[WIRE_REPLY_HEAD];

    start(&b, sizeof(head) + m->size);
    wire_reply_head(head, m->status);
    buf_put(&b, head, sizeof(head));
    buf_put(&b, m->payload, m->size);
    return buf_take(&b);
}

int wire_reply_decode(struct wire_reply *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->status = cursor_get_u8(&c);
    get_zero24(&c);
    m->payload = get_rest(&c, &m->size);
    return c.has_failed || m->status > TRK_STATUS_ERROR ? TRK_ECORRUPT : 0;
}

struct blob *wire_stage_encode(const struct wire_stage *m)
{
    struct buf b;
    size_t module_size = strnlen(m->module, sizeof(m->module));

    assert(module_size < sizeof(m->module));
    start(&b, STAGE_HEAD + module_size + m->size);
    buf_put_u32(&b, m->stage);
    buf_put_u32(&b, m->timeout_ms);
    buf_put_u32(&b, m->flags);
    buf_put_u32(&b, (uint32_t)module_size);
    buf_put(&b, m->fingerprint, sizeof(m->fingerprint));
    buf_put(&b, m->module, module_size);
    buf_put(&b, m->function, m->size);
    return buf_take(&b);
}

int wire_stage_decode(struct wire_stage *m, const struct blob *body)
{
    struct cursor c = open_body(body);
    uint32_t module_size;

    m->stage = cursor_get_u32(&c);
    m->timeout_ms = cursor_get_u32(&c);
    m->flags = cursor_get_u32(&c);
    module_size = cursor_get_u32(&c);
    get_id(&c, m->fingerprint);
    get_module(&c, m->module, module_size);
    c.has_failed |= (m->flags & ~(uint32_t)WIRE_STAGE_DURABLE) != 0;
    m->function = get_rest(&c, &m->size);
    return finish(&c);
}

/* The table of sizes and the payloads behind it, which must fill the body. */
static void get_payloads(struct cursor *c, uint32_t count, const uint8_t **sizes,
                         const uint8_t **payloads)
{
    uint64_t sum = 0;
    size_t size;

    *sizes = cursor_get(c, (size_t)count * 4);
    for (uint32_t i = 0; *sizes != NULL && i < count; i++) {
        sum += le_load_u32(*sizes + (size_t)i * 4);
    }
    *payloads = get_rest(c, &size);
    c->has_failed |= size != sum;
}

/* Elements first, first + 1, ... first + count - 1 must be numbers. */
static bool is_run(uint64_t first, uint32_t count)
{
    return count > 0 && first <= UINT64_MAX - count;
}

/* u32 stage, u32 attempt, u64 first, u32 count, u32 0: how RUN and RESULT begin. */
static void put_run(struct buf *b, uint32_t stage, uint32_t attempt, uint64_t first,
                    uint32_t count)
{
    buf_put_u32(b, stage);
    buf_put_u32(b, attempt);
    buf_put_u64(b, first);
    buf_put_u32(b, count);
    buf_put_u32(b, 0);
}

/* A body about one element, which ends with bytes of it. */
static int finish_element(const struct cursor *c, uint64_t index, size_t size)
{
    return is_run(index, 1) && size <= TRK_ELEMENT_BYTES_MAX ? finish(c) : TRK_ECORRUPT;
}

struct blob *wire_run_encode(uint32_t stage, uint32_t attempt, uint64_t first,
                             const struct wire_part *parts, uint32_t count)
{
    struct buf b;
    size_t size = WIRE_RUN_HEAD + (size_t)count * 4;

    assert(is_run(first, count));
    for (uint32_t i = 0; i < count; i++) {
        assert(parts[i].size <= UINT32_MAX);
        size += parts[i].size;
    }
    start(&b, size);
    put_run(&b, stage, attempt, first, count);
    for (uint32_t i = 0; i < count; i++) {
        buf_put_u32(&b, (uint32_t)parts[i].size);
    }
    for (uint32_t i = 0; i < count; i++) {
        buf_put(&b, parts[i].bytes, parts[i].size);
    }
    return buf_take(&b);
}

int wire_run_decode(struct wire_run *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->stage = cursor_get_u32(&c);
    m->attempt = cursor_get_u32(&c);
    m->first = cursor_get_u64(&c);
    m->count = cursor_get_u32(&c);
    get_zero32(&c);
    get_payloads(&c, m->count, &m->sizes, &m->payloads);
    return is_run(m->first, m->count) ? finish(&c) : TRK_ECORRUPT;
}

struct blob *wire_result_encode(const struct wire_result *head, const uint8_t *statuses,
                                const uint32_t *sizes, const void *payloads, size_t payload_size)
{
    struct buf b;
    uint64_t sum = 0;

    assert(is_run(head->first, head->count));
    start(&b, WIRE_RESULT_HEAD + (size_t)head->count * 5 + payload_size);
    put_run(&b, head->stage, head->attempt, head->first, head->count);
    buf_put_u64(&b, head->seq);
    buf_put_u64(&b, head->busy_ns);
    buf_put(&b, statuses, head->count);
    for (uint32_t i = 0; i < head->count; i++) {
        sum += sizes[i];
        buf_put_u32(&b, sizes[i]);
    }
    assert(sum == payload_size);
    buf_put(&b, payloads, payload_size);
    return buf_take(&b);
}

void wire_result_one_head(uint8_t out[WIRE_RESULT_ONE_HEAD], const struct wire_result *head,
                          uint8_t status, uint32_t size)
{
    assert(head->count == 1 && is_run(head->first, 1));
    le_store_u32(out, head->stage);
    le_store_u32(out + 4, head->attempt);
    le_store_u64(out + 8, head->first);
    le_store_u32(out + 16, 1);
    le_store_u32(out + 20, 0);
    le_store_u64(out + 24, head->seq);
    le_store_u64(out + 32, head->busy_ns);
    out[WIRE_RESULT_HEAD] = status;
    le_store_u32(out + WIRE_RESULT_HEAD + 1, size);
}

int wire_result_decode(struct wire_result *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->stage = cursor_get_u32(&c);
    m->attempt = cursor_get_u32(&c);
    m->first = cursor_get_u64(&c);
    m->count = cursor_get_u32(&c);
    get_zero32(&c);
    m->seq = cursor_get_u64(&c);
    m->busy_ns = cursor_get_u64(&c);
    m->statuses = cursor_get(&c, m->count);
    get_payloads(&c, m->count, &m->sizes, &m->payloads);
    if (!is_run(m->first, m->count)) {
        return TRK_ECORRUPT;
    }
    for (uint32_t i = 0; !c.has_failed && i < m->count; i++) {
        c.has_failed = m->statuses[i] > TRK_STATUS_ERROR;
    }
    return finish(&c);
}

struct blob *wire_held_encode(const struct wire_held *m)
{
    struct buf b;

    start(&b, WIRE_HELD_HEAD + m->size);
    buf_put_u64(&b, m->token);
    buf_put_u32(&b, m->stage);
    buf_put_u32(&b, m->attempt);
    buf_put_u64(&b, m->index);
    buf_put_u64(&b, m->epoch);
    buf_put_u8(&b, m->kind);
    buf_put_u8(&b, m->status);
    buf_put_u16(&b, 0);
    buf_put_u32(&b, 0);
    buf_put(&b, m->element, sizeof(m->element));
    buf_put(&b, m->fingerprint, sizeof(m->fingerprint));
    buf_put(&b, m->payload, m->size);
    return buf_take(&b);
}

int wire_held_decode(struct wire_held *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->token = cursor_get_u64(&c);
    m->stage = cursor_get_u32(&c);
    m->attempt = cursor_get_u32(&c);
    m->index = cursor_get_u64(&c);
    m->epoch = cursor_get_u64(&c);
    m->kind = cursor_get_u8(&c);
    m->status = cursor_get_u8(&c);
    c.has_failed |= cursor_get_u16(&c) != 0;
    get_zero32(&c);
    get_id(&c, m->element);
    get_id(&c, m->fingerprint);
    m->payload = get_rest(&c, &m->size);
    if ((m->kind != WIRE_HELD_RESULT || m->status > TRK_STATUS_ERROR) &&
        (m->kind != WIRE_HELD_STATE || m->status != 0)) {
        return TRK_ECORRUPT;
    }
    return finish_element(&c, m->index, m->size);
}

struct blob *wire_state_encode(const struct wire_state *m)
{
    struct buf b;

    start(&b, WIRE_STATE_HEAD + m->size);
    buf_put_u32(&b, m->stage);
    buf_put_u32(&b, m->attempt);
    buf_put_u64(&b, m->index);
    buf_put_u64(&b, m->seq);
    buf_put(&b, m->element, sizeof(m->element));
    buf_put(&b, m->bytes, m->size);
    return buf_take(&b);
}

int wire_state_decode(struct wire_state *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->stage = cursor_get_u32(&c);
    m->attempt = cursor_get_u32(&c);
    m->index = cursor_get_u64(&c);
    m->seq = cursor_get_u64(&c);
    get_id(&c, m->element);
    m->bytes = get_rest(&c, &m->size);
    return finish_element(&c, m->index, m->size);
}

struct blob *wire_want_encode(const uint8_t digest[16])
{
    return blob_dup(digest, 16);
}

int wire_want_decode(uint8_t digest[16], const struct blob *body)
{
    struct cursor c = open_body(body);

    get_id(&c, digest);
    return finish(&c);
}

void wire_blob_head(uint8_t out[WIRE_BLOB_HEAD], const uint8_t digest[16], bool is_known)
{
    memset(out, 0, WIRE_BLOB_HEAD);
    memcpy(out, digest, 16);
    out[16] = is_known;
}

struct blob *wire_blob_encode(const struct wire_blob *m)
{
    struct buf b;
    uint8_t head[WIRE_BLOB_HEAD];

    start(&b, sizeof(head) + m->size);
    wire_blob_head(head, m->digest, m->is_known);
    buf_put(&b, head, sizeof(head));
    buf_put(&b, m->bytes, m->size);
    return buf_take(&b);
}

int wire_blob_decode(struct wire_blob *m, const struct blob *body)
{
    struct cursor c = open_body(body);
    uint8_t is_known;

    get_id(&c, m->digest);
    is_known = cursor_get_u8(&c);
    get_zero24(&c);
    m->is_known = is_known == 1;
    m->bytes = get_rest(&c, &m->size);
    return is_known > 1 || (is_known == 0 && m->size > 0) ? TRK_ECORRUPT : finish(&c);
}

/* u32 stage, u32 count, u32 flag, u32 0, u64 first, u64 seq */
struct blob *wire_note_encode(const struct wire_note *m)
{
    struct buf b;

    buf_init(&b);
    buf_put_u32(&b, m->stage);
    buf_put_u32(&b, m->count);
    buf_put_u32(&b, m->flag);
    buf_put_u32(&b, 0);
    buf_put_u64(&b, m->first);
    buf_put_u64(&b, m->seq);
    return buf_take(&b);
}

int wire_note_decode(struct wire_note *m, const struct blob *body)
{
    struct cursor c = open_body(body);

    m->stage = cursor_get_u32(&c);
    m->count = cursor_get_u32(&c);
    m->flag = cursor_get_u32(&c);
    get_zero32(&c);
    m->first = cursor_get_u64(&c);
    m->seq = cursor_get_u64(&c);
    return m->flag > 1 || m->first > UINT64_MAX - m->count ? TRK_ECORRUPT : finish(&c);
}
