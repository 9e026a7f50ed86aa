/* SPDX-License-Identifier: MIT */
/* rai.c - the reply buffer of RAI modules.
 *
 * A module just writes; what goes wrong while it writes (no memory, over the limit) is kept here
 * and decides at the end, whatever the module returns: no half answer leaves the VM. */
#include "rai/rai.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "trickle/work.h"

#define KEEP_BYTES ((size_t)1 << 20) /* a buffer up to this size is used again */

void rai_reply_init(struct trk_rai_reply *r)
{
    buf_init(&r->buf);
    r->start = 0;
    r->limit = TRK_ELEMENT_BYTES_MAX;
    r->error = 0;
}

void rai_reply_fini(struct trk_rai_reply *r)
{
    buf_fini(&r->buf);
}

/* Back to size bytes, without an error. */
static void truncate_reply(struct trk_rai_reply *r, size_t size)
{
    assert(size <= buf_size(&r->buf));
    r->buf.has_failed = false;
    if (r->buf.blob != NULL) {
        r->buf.blob->size = size;
    }
    r->error = 0;
}

int rai_reply_begin(struct trk_rai_reply *r, size_t prefix_size)
{
    if (r->buf.blob != NULL && r->buf.blob->cap > KEEP_BYTES) {
        buf_fini(&r->buf);
    }
    truncate_reply(r, 0);
    r->start = 0;
    uint8_t *prefix = buf_reserve(&r->buf, prefix_size);
    if (prefix == NULL) {
        r->buf.has_failed = false;
        return TRK_ENOMEM;
    }
    memset(prefix, 0, prefix_size);
    r->buf.blob->size = prefix_size;
    r->start = prefix_size;
    return 0;
}

void rai_reply_clear(struct trk_rai_reply *r)
{
    truncate_reply(r, r->start);
}

const uint8_t *rai_reply_bytes(const struct trk_rai_reply *r)
{
    return r->buf.blob->data + r->start;
}

size_t rai_reply_size(const struct trk_rai_reply *r)
{
    return buf_size(&r->buf) - r->start;
}

int trk_rai_reply_write(struct trk_rai_reply *r, const void *bytes, size_t size)
{
    if (r->error != 0) {
        return r->error;
    }
    if (size > r->limit - rai_reply_size(r)) {
        r->error = TRK_ETOOBIG;
        return r->error;
    }
    buf_put(&r->buf, bytes, size);
    if (r->buf.has_failed) {
        r->error = TRK_ENOMEM;
    }
    return r->error;
}

static int replace(struct trk_rai_reply *r, const char *sentence)
{
    truncate_reply(r, r->start);
    buf_put(&r->buf, sentence, strlen(sentence));
    r->buf.has_failed = false; /* a failure without a sentence is still a failure */
    return TRK_STATUS_ERROR;
}

int rai_reply_end(struct trk_rai_reply *r, int status)
{
    if (r->error == TRK_ETOOBIG) {
        return replace(r, "the answer is larger than the limit of 1 GiB");
    }
    if (r->error != 0) {
        return replace(r, "the VM ran out of memory while it wrote the answer");
    }
    if (status != TRK_STATUS_OK && status != TRK_STATUS_EXCEPTION && status != TRK_STATUS_ERROR) {
        char text[96];
        snprintf(text, sizeof(text), "the RAI module returned %d, which is no status", status);
        return replace(r, text);
    }
    return status;
}

struct blob *rai_reply_take(struct trk_rai_reply *r)
{
    struct blob *blob = r->buf.blob;
    assert(blob != NULL);
    r->buf.blob = NULL;
    r->start = 0;
    return blob;
}
