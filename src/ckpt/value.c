/* SPDX-License-Identifier: MIT */
/* value.c - see value.h.
 *
 *   stage     head, u32 previous, u32 replaced_by, u8 is_closed, u8[3] 0, u64 total, u64
 *             closed_after (0 unless closed), u8 fingerprint[16], u32 key_size, u32 name_size,
 *             key, name
 *   work      head, u32 count, u32 spans, u32 0, u8 digests[count][16],
 *             spans x (u32 count, u64 delivered)
 *   elements  head, u32 count, u32 sizes[count], the elements
 *   attempts  head, u32 count, count x (u32 epoch, attempt, outcome, vm_pid, vm_index, i32 signal,
 *             i32 exit_status, u32 output_size, u64 started_ms, duration_ns, rss_max_bytes,
 *             u8 host_size, u8 has_output, u16 0, host, output)
 *   state     head, u32 epoch, u32 attempt, u32 0, u8 element[16], bytes
 *
 * where head is u8 version, u8[3] 0. There is one way to write each value: what decodes, encodes to
 * the same bytes again. The records around them carry digests, so a value that does not decode was
 * written so: a checked length is worth more here than a guess at what was meant. */
#include "ckpt/value.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

#define VERSION 1
#define STAGE_FIXED 60
#define WORK_FIXED 16
#define ATTEMPT_FIXED 60
#define STATE_FIXED 28
#define HOST_MAX (sizeof(((struct trk_attempt *)NULL)->vm_host) - 1)

/* In hot loops, where a call for each number shows. */
static inline uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static void put_flag(struct buf *b, bool flag)
{
    buf_put_u32(b, flag ? 1 : 0);
}

static bool get_flag(struct cursor *c)
{
    uint32_t flag = cursor_get_u32(c);

    c->has_failed = c->has_failed || flag > 1;
    return flag == 1;
}

static void start(struct buf *b, size_t size)
{
    buf_init(b);
    buf_reserve(b, size);
    buf_put_u32(b, VERSION);
}

static int begin(struct cursor *c, const void *bytes, size_t size)
{
    uint32_t head;

    cursor_init(c, bytes, size);
    head = cursor_get_u32(c);
    if (c->has_failed || head == 0 || head > UINT8_MAX) {
        return TRK_ECORRUPT;
    }
    return head > VERSION ? TRK_EVERSION : 0;
}

static int finish(const struct cursor *c)
{
    return c->has_failed || cursor_left(c) > 0 ? TRK_ECORRUPT : 0;
}

/* --- stage ---------------- */

struct blob *value_stage_encode(const struct value_stage *v)
{
    struct buf b;

    assert(v->key_size <= UINT32_MAX && v->name_size <= UINT32_MAX);
    start(&b, STAGE_FIXED + v->key_size + v->name_size);
    buf_put_u32(&b, v->previous);
    buf_put_u32(&b, v->replaced_by);
    put_flag(&b, v->is_closed);
    buf_put_u64(&b, v->is_closed ? v->total : 0);
    buf_put_u64(&b, v->is_closed ? v->closed_after : 0);
    buf_put(&b, v->fingerprint.bytes, sizeof(v->fingerprint.bytes));
    buf_put_u32(&b, (uint32_t)v->key_size);
    buf_put_u32(&b, (uint32_t)v->name_size);
    buf_put(&b, v->key, v->key_size);
    buf_put(&b, v->name, v->name_size);
    return buf_take(&b);
}

int value_stage_decode(struct value_stage *v, const void *bytes, size_t size)
{
    const uint8_t *fingerprint;
    struct cursor c;
    int rc = begin(&c, bytes, size);

    if (rc < 0) {
        return rc;
    }
    memset(v, 0, sizeof(*v));
    v->previous = cursor_get_u32(&c);
    v->replaced_by = cursor_get_u32(&c);
    v->is_closed = get_flag(&c);
    v->total = cursor_get_u64(&c);
    v->closed_after = cursor_get_u64(&c);
    fingerprint = cursor_get(&c, sizeof(v->fingerprint.bytes));
    if (fingerprint != NULL) {
        memcpy(v->fingerprint.bytes, fingerprint, sizeof(v->fingerprint.bytes));
    }
    v->key_size = cursor_get_u32(&c);
    v->name_size = cursor_get_u32(&c);
    v->key = (const char *)cursor_get(&c, v->key_size);
    v->name = (const char *)cursor_get(&c, v->name_size);
    return !v->is_closed && (v->total | v->closed_after) != 0 ? TRK_ECORRUPT : finish(&c);
}

/* --- work ---------------- */

void value_work_span_put(uint8_t out[VALUE_WORK_SPAN], uint32_t count, uint64_t delivered)
{
    le_store_u32(out, count);
    le_store_u64(out + 4, delivered);
}

void value_work_span_get(const uint8_t *span, uint32_t *count, uint64_t *delivered)
{
    *count = le_load_u32(span);
    *delivered = le_load_u64(span + 4);
}

/* The spans cover the elements, none is empty. */
static bool are_spans_whole(const uint8_t *spans, uint32_t spans_count, uint32_t count)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < spans_count; i++) {
        uint32_t span = load_u32(spans + (size_t)i * VALUE_WORK_SPAN);
        if (span == 0) {
            return false;
        }
        sum += span;
    }
    return sum == count;
}

static uint64_t sum_sizes(const uint8_t *sizes, uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++) {
        sum += load_u32(sizes + i * 4);
    }
    return sum;
}

struct blob *value_work_encode(const struct value_work *v)
{
    size_t digests = (size_t)v->count * sizeof(struct digest);
    size_t spans = (size_t)v->spans * VALUE_WORK_SPAN;
    struct buf b;

    assert(v->count > 0 && are_spans_whole(v->delivered, v->spans, v->count));
    start(&b, WORK_FIXED + digests + spans);
    buf_put_u32(&b, v->count);
    buf_put_u32(&b, v->spans);
    buf_put_u32(&b, 0);
    buf_put(&b, v->digests, digests);
    buf_put(&b, v->delivered, spans);
    return buf_take(&b);
}

int value_work_decode(struct value_work *v, const void *bytes, size_t size)
{
    struct cursor c;
    uint32_t zero;
    int rc = begin(&c, bytes, size);

    if (rc < 0) {
        return rc;
    }
    memset(v, 0, sizeof(*v));
    v->count = cursor_get_u32(&c);
    v->spans = cursor_get_u32(&c);
    zero = cursor_get_u32(&c);
    v->digests = cursor_get(&c, (size_t)v->count * sizeof(struct digest));
    v->delivered = cursor_get(&c, (size_t)v->spans * VALUE_WORK_SPAN);
    rc = finish(&c);
    if (rc < 0) {
        return rc;
    }
    return zero == 0 && v->count > 0 && are_spans_whole(v->delivered, v->spans, v->count)
               ? 0
               : TRK_ECORRUPT;
}

/* --- elements ---------------- */

void value_elements_put(uint8_t head[VALUE_ELEMENTS_HEAD], uint32_t count)
{
    assert(count > 0);
    le_store_u32(head, VERSION);
    le_store_u32(head + 4, count);
}

int value_elements_decode(struct value_elements *v, const void *bytes, size_t size)
{
    struct cursor c;
    int rc = begin(&c, bytes, size);

    if (rc < 0) {
        return rc;
    }
    v->count = cursor_get_u32(&c);
    v->sizes = cursor_get(&c, (size_t)v->count * 4);
    v->size = cursor_left(&c);
    v->elements = cursor_get(&c, v->size);
    return !c.has_failed && v->count > 0 && sum_sizes(v->sizes, v->count) == v->size
               ? 0
               : TRK_ECORRUPT;
}

/* --- result ---------------- */

int value_result_decode(struct value_result *v, uint64_t count, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    uint8_t worst = 0;

    if (size < 4 || count == 0 || count > (size - 4) / 5) {
        return TRK_ECORRUPT;
    }
    v->attempt = load_u32(at);
    v->statuses = at + 4;
    v->sizes = v->statuses + count;
    v->payloads = v->sizes + count * 4;
    for (uint64_t i = 0; i < count; i++) {
        worst = v->statuses[i] > worst ? v->statuses[i] : worst;
    }
    return worst <= TRK_STATUS_ERROR && sum_sizes(v->sizes, count) == size - 4 - count * 5
               ? 0
               : TRK_ECORRUPT;
}

/* --- attempts ---------------- */

static void put_attempt(struct buf *b, const struct value_attempt *v)
{
    size_t host = strnlen(v->a.vm_host, HOST_MAX);
    size_t output = v->a.output != NULL ? v->a.output_size : 0;

    assert(output <= UINT32_MAX && v->a.outcome <= TRK_OUTCOME_LOST);
    buf_put_u32(b, v->epoch);
    buf_put_u32(b, v->a.attempt);
    buf_put_u32(b, v->a.outcome);
    buf_put_u32(b, v->a.vm_pid);
    buf_put_u32(b, v->a.vm_index);
    buf_put_u32(b, (uint32_t)v->a.signal);
    buf_put_u32(b, (uint32_t)v->a.exit_status);
    buf_put_u32(b, (uint32_t)output);
    buf_put_u64(b, v->a.started_ms);
    buf_put_u64(b, v->a.duration_ns);
    buf_put_u64(b, v->a.rss_max_bytes);
    buf_put_u8(b, (uint8_t)host);
    buf_put_u8(b, v->a.output != NULL);
    buf_put_u16(b, 0);
    buf_put(b, v->a.vm_host, host);
    buf_put(b, v->a.output, output);
}

struct blob *value_attempts_encode(const struct value_attempt *attempts, size_t count)
{
    struct buf b;

    if (count > VALUE_ATTEMPTS_MAX) {
        attempts += count - VALUE_ATTEMPTS_MAX;
        count = VALUE_ATTEMPTS_MAX;
    }
    start(&b, 8 + count * (ATTEMPT_FIXED + HOST_MAX));
    buf_put_u32(&b, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        put_attempt(&b, &attempts[i]);
    }
    return buf_take(&b);
}

static void get_attempt(struct cursor *c, struct value_attempt *v)
{
    const uint8_t *host, *output;
    uint8_t host_size, has_output;
    bool is_good;

    v->epoch = cursor_get_u32(c);
    v->a.attempt = cursor_get_u32(c);
    v->a.outcome = cursor_get_u32(c);
    v->a.vm_pid = cursor_get_u32(c);
    v->a.vm_index = cursor_get_u32(c);
    v->a.signal = (int32_t)cursor_get_u32(c);
    v->a.exit_status = (int32_t)cursor_get_u32(c);
    v->a.output_size = cursor_get_u32(c);
    v->a.started_ms = cursor_get_u64(c);
    v->a.duration_ns = cursor_get_u64(c);
    v->a.rss_max_bytes = cursor_get_u64(c);
    host_size = cursor_get_u8(c);
    has_output = cursor_get_u8(c);
    is_good = cursor_get_u16(c) == 0 && host_size <= HOST_MAX && has_output <= 1 &&
              (has_output == 1 || v->a.output_size == 0) && v->a.outcome <= TRK_OUTCOME_LOST;
    host = cursor_get(c, host_size);
    output = cursor_get(c, v->a.output_size);
    if (c->has_failed || !is_good || (host_size > 0 && memchr(host, '\0', host_size) != NULL)) {
        c->has_failed = true;
        return;
    }
    memcpy(v->a.vm_host, host, host_size);
    v->a.output = has_output == 1 ? (char *)output : NULL;
}

int value_attempts_decode(struct value_attempt **attempts, size_t *count, const void *bytes,
                          size_t size)
{
    struct value_attempt *all;
    struct cursor c;
    uint32_t n;
    int rc = begin(&c, bytes, size);

    if (rc < 0) {
        return rc;
    }
    n = cursor_get_u32(&c);
    if (c.has_failed || n > VALUE_ATTEMPTS_MAX || n > cursor_left(&c) / ATTEMPT_FIXED) {
        return TRK_ECORRUPT;
    }
    all = mem_zalloc(n + (n == 0), sizeof(*all));
    if (all == NULL) {
        return TRK_ENOMEM;
    }
    for (uint32_t i = 0; i < n && !c.has_failed; i++) {
        get_attempt(&c, &all[i]);
    }
    rc = finish(&c);
    if (rc < 0) {
        mem_free(all);
        return rc;
    }
    *attempts = all;
    *count = n;
    return 0;
}

/* --- state ---------------- */

struct blob *value_state_encode(const struct value_state *v)
{
    struct buf b;

    start(&b, 4 + STATE_FIXED + v->size);
    buf_put_u32(&b, v->epoch);
    buf_put_u32(&b, v->attempt);
    buf_put_u32(&b, 0);
    buf_put(&b, v->element.bytes, sizeof(v->element.bytes));
    buf_put(&b, v->bytes, v->size);
    return buf_take(&b);
}

int value_state_decode(struct value_state *v, const void *bytes, size_t size)
{
    const uint8_t *element;
    struct cursor c;
    int rc = begin(&c, bytes, size);

    if (rc < 0) {
        return rc;
    }
    memset(v, 0, sizeof(*v));
    v->epoch = cursor_get_u32(&c);
    v->attempt = cursor_get_u32(&c);
    c.has_failed |= cursor_get_u32(&c) != 0;
    element = cursor_get(&c, sizeof(v->element.bytes));
    v->size = cursor_left(&c);
    v->bytes = cursor_get(&c, v->size);
    if (element != NULL) {
        memcpy(v->element.bytes, element, sizeof(v->element.bytes));
    }
    return finish(&c);
}
