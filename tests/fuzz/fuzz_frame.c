/* SPDX-License-Identifier: MIT */
/* fuzz_frame.c - a stream of bytes into two assemblers: to one in a single piece, to the other in
 * pieces, directly where that is offered. Both must give the same messages and the same verdict.
 * Byte 0: bit 0, is the peer trusted from the start; bit 1, is it trusted once it has greeted.
 * Byte 1: seed of the pieces. */
#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "../wire/samples.h"
#include "base/hash.h"
#include "base/mem.h"
#include "fuzz.h"
#include "wire/frame.h"

struct receiver {
    struct wire_assembler *assembler;
    bool trusts_greeting;
    size_t count;          /* messages so far */
    struct digest history; /* of all messages so far */
};

static int on_message(void *ctx, struct wire_message *msg)
{
    struct receiver *r = ctx;
    struct {
        struct digest before, body;
        uint32_t type, stream;
    } entry = {r->history, hash_digest(msg->body->data, msg->body->size), msg->type, msg->stream};

    r->history = hash_digest(&entry, sizeof(entry));
    r->count++;
    blob_unref(msg->body);
    if (r->trusts_greeting) {
        wire_assembler_set_trusted(r->assembler, true);
    }
    return 0;
}

static void start(struct receiver *r, uint8_t options)
{
    memset(r, 0, sizeof(*r));
    r->assembler = wire_assembler_new();
    assert(r->assembler != NULL);
    r->trusts_greeting = (options & 2) != 0;
    wire_assembler_set_trusted(r->assembler, (options & 1) != 0);
}

static int feed_in_pieces(struct receiver *r, const uint8_t *bytes, size_t size, uint64_t seed)
{
    int rc = 0;

    while (size > 0 && rc == 0) {
        size_t room = 0, n = 1 + sample_random(&seed) % (size < 64 ? size : 64);
        uint8_t *to = wire_assembler_direct(r->assembler, &room);

        if (to != NULL) {
            n = size < room ? size : room;
            memcpy(to, bytes, n);
            rc = wire_assembler_filled(r->assembler, n, on_message, r);
        } else {
            rc = wire_assembler_feed(r->assembler, bytes, n, on_message, r);
        }
        bytes += n;
        size -= n;
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct receiver whole, pieces;
    uint64_t live = mem_live();
    int rc;

    if (size < 2) {
        return 0;
    }
    start(&whole, data[0]);
    start(&pieces, data[0]);
    rc = wire_assembler_feed(whole.assembler, data + 2, size - 2, on_message, &whole);
    /* Once refused, the rest is not looked at: so the same messages came before it. */
    assert(feed_in_pieces(&pieces, data + 2, size - 2, data[1] + UINT64_C(1)) == rc);
    assert(whole.count == pieces.count);
    assert(memcmp(&whole.history, &pieces.history, sizeof(whole.history)) == 0);
    wire_assembler_free(whole.assembler);
    wire_assembler_free(pieces.assembler);
    assert(mem_live() == live);
    return 0;
}
