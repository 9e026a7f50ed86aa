/* SPDX-License-Identifier: MIT */
/* exec_codec.c - elements and results of commands to bytes and back; exec.h has the layouts. */
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "rai/exec_impl.h"

#define ELEMENT_MARK 'E'
#define RESULT_MARK 'R'
#define BYTES_MAX ((size_t)1 << 30) /* of an element or a result */

/* --- of all three ------------------------------------------------------------------------ */

void exec_put_head(struct buf *b, char mark, uint8_t third)
{
    buf_put_u8(b, (uint8_t)mark);
    buf_put_u8(b, TRK_EXEC_ABI);
    buf_put_u8(b, third);
    buf_put_u8(b, 0);
}

int exec_get_head(struct cursor *c, char mark, uint8_t *third, const char *name)
{
    uint8_t found = cursor_get_u8(c), version = cursor_get_u8(c);
    *third = cursor_get_u8(c);
    uint8_t zero = cursor_get_u8(c);
    if (c->has_failed || found != (uint8_t)mark) {
        return fail(TRK_ECORRUPT, "these bytes are no %s of the exec module", name);
    }
    if (version != TRK_EXEC_ABI || zero != 0) {
        return fail(TRK_EVERSION, "this %s is of version %u of the exec module, known is %u", name,
                    version, TRK_EXEC_ABI);
    }
    return 0;
}

void exec_put_bytes(struct buf *b, const void *bytes, size_t size)
{
    buf_put_u32(b, (uint32_t)size);
    if (size > 0) {
        buf_put(b, bytes, size);
    }
}

void exec_get_bytes(struct cursor *c, struct trk_exec_bytes *out)
{
    size_t size = cursor_get_u32(c);
    const void *bytes = cursor_get(c, size);
    out->bytes = bytes;
    out->size = bytes != NULL ? size : 0;
}

int exec_give(struct buf *b, void **out, size_t *size)
{
    size_t n = buf_size(b);
    void *copy = b->has_failed ? NULL : mem_alloc(n > 0 ? n : 1);
    if (copy == NULL) {
        buf_fini(b);
        return fail(TRK_ENOMEM, "out of memory");
    }
    memcpy(copy, b->blob->data, n);
    buf_fini(b);
    *out = copy;
    *size = n;
    return 0;
}

/* --- elements ---------------------------------------------------------------------------- */

int trk_exec_element_encode(const struct trk_exec_bytes *fields, size_t count, void **out,
                            size_t *size)
{
    size_t total = EXEC_HEAD_BYTES + 4;
    if (count > TRK_EXEC_FIELDS_MAX) {
        return fail(TRK_EINVAL, "an element can have %u fields, this one has %zu",
                    TRK_EXEC_FIELDS_MAX, count);
    }
    for (size_t i = 0; i < count; i++) {
        total += 4;
        if (total > BYTES_MAX || fields[i].size > BYTES_MAX - total) {
            return fail(TRK_ETOOBIG, "an element is larger than the limit of 1 GiB");
        }
        total += fields[i].size;
    }
    uint8_t *bytes = mem_alloc(total);
    if (bytes == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    const uint8_t head[EXEC_HEAD_BYTES] = {ELEMENT_MARK, TRK_EXEC_ABI, 0, 0};
    memcpy(bytes, head, sizeof(head));
    le_store_u32(bytes + sizeof(head), (uint32_t)count);
    uint8_t *at = bytes + sizeof(head) + 4;
    for (size_t i = 0; i < count; i++) {
        le_store_u32(at, (uint32_t)fields[i].size);
        if (fields[i].size > 0) {
            memcpy(at + 4, fields[i].bytes, fields[i].size);
        }
        at += 4 + fields[i].size;
    }
    *out = bytes;
    *size = total;
    return 0;
}

int trk_exec_element_decode(const void *bytes, size_t size, struct trk_exec_bytes **fields,
                            size_t *fields_count)
{
    struct cursor c;
    uint8_t zero;
    cursor_init(&c, bytes, size);
    int rc = exec_get_head(&c, ELEMENT_MARK, &zero, "element");
    if (rc < 0) {
        return rc;
    }
    size_t count = cursor_get_u32(&c);
    if (c.has_failed || zero != 0 || count > TRK_EXEC_FIELDS_MAX ||
        count > cursor_left(&c) / sizeof(uint32_t)) {
        return fail(TRK_ECORRUPT, "an element of the exec module is damaged");
    }
    struct trk_exec_bytes *list = mem_zalloc(count + 1, sizeof(*list));
    if (list == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < count; i++) {
        exec_get_bytes(&c, &list[i]);
    }
    if (c.has_failed || cursor_left(&c) > 0) {
        mem_free(list);
        return fail(TRK_ECORRUPT, "an element of the exec module is damaged");
    }
    *fields = list;
    *fields_count = count;
    return 0;
}

/* --- results ----------------------------------------------------------------------------- */

static bool is_whole(const struct trk_exec_kept *kept)
{
    return kept->head <= kept->size && kept->size <= kept->total && kept->size <= BYTES_MAX;
}

static void put_kept(struct buf *b, const struct trk_exec_kept *kept)
{
    buf_put_u64(b, kept->total);
    buf_put_u32(b, (uint32_t)kept->head);
    buf_put_u32(b, (uint32_t)kept->size);
}

static void get_kept(struct cursor *c, struct trk_exec_kept *kept)
{
    kept->total = cursor_get_u64(c);
    kept->head = cursor_get_u32(c);
    kept->size = cursor_get_u32(c);
}

void exec_put_result_head(struct buf *b, const struct trk_exec_result *r)
{
    exec_put_head(b, RESULT_MARK, (uint8_t)r->outcome);
    buf_put_u32(b, (uint32_t)r->exit_status);
    buf_put_u32(b, (uint32_t)r->signal);
    buf_put_u32(b, r->left);
    buf_put_u64(b, r->started_ms);
    buf_put_u64(b, r->duration_ns);
    buf_put_u64(b, r->cpu_ns);
    buf_put_u64(b, r->rss_max_bytes);
    buf_put_u32(b, (uint32_t)r->why.size);
    put_kept(b, &r->out);
    put_kept(b, &r->err);
}

int trk_exec_result_encode(const struct trk_exec_result *r, void **out, size_t *size)
{
    struct buf b;
    if ((unsigned)r->outcome > TRK_EXEC_UNKNOWN || !is_whole(&r->out) || !is_whole(&r->err) ||
        r->why.size > BYTES_MAX) {
        return fail(TRK_EINVAL, "this cannot be the result of a command");
    }
    buf_init(&b);
    exec_put_result_head(&b, r);
    buf_put(&b, r->why.bytes, r->why.size);
    buf_put(&b, r->out.bytes, r->out.size);
    buf_put(&b, r->err.bytes, r->err.size);
    return exec_give(&b, out, size);
}

int trk_exec_result_decode(const void *bytes, size_t size, struct trk_exec_result *out)
{
    struct trk_exec_result r = {0};
    struct cursor c;
    uint8_t outcome;
    cursor_init(&c, bytes, size);
    int rc = exec_get_head(&c, RESULT_MARK, &outcome, "result");
    if (rc < 0) {
        return rc;
    }
    r.outcome = outcome; /* of a later Trickle: its `why` says what it means */
    r.exit_status = (int32_t)cursor_get_u32(&c);
    r.signal = (int32_t)cursor_get_u32(&c);
    r.left = cursor_get_u32(&c);
    r.started_ms = cursor_get_u64(&c);
    r.duration_ns = cursor_get_u64(&c);
    r.cpu_ns = cursor_get_u64(&c);
    r.rss_max_bytes = cursor_get_u64(&c);
    r.why.size = cursor_get_u32(&c);
    get_kept(&c, &r.out);
    get_kept(&c, &r.err);
    r.why.bytes = cursor_get(&c, r.why.size);
    r.out.bytes = cursor_get(&c, r.out.size);
    r.err.bytes = cursor_get(&c, r.err.size);
    if (c.has_failed || cursor_left(&c) > 0 || !is_whole(&r.out) || !is_whole(&r.err)) {
        return fail(TRK_ECORRUPT, "a result of the exec module is damaged");
    }
    *out = r;
    return 0;
}
