/* SPDX-License-Identifier: MIT */
/* frame.c - the assembler and the cutter (the layout is drawn in frame.h).
 *
 * The assembler is in one of two states: collecting a head (16 bytes, 24 for the first of several
 * fragments), or filling the body of a frame. Where the body goes is settled once the head is
 * whole: a blob of the frame's own size, or the one fragmented message in progress, whose blob
 * was made from its stated total, so that each byte is stored once, at its final place. All that
 * can be wrong with a frame is found in its head; bodies are only counted.
 *
 * After any failure the place in the stream is lost: the assembler repeats its answer for ever. */
#include "wire/frame.h"

#include <assert.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

#define TOTAL_BYTES 8
/* Below this, reading straight into the body is not worth a system call of its own. */
#define DIRECT_MIN 4096

struct wire_assembler {
    bool is_trusted;
    bool has_greeted; /* the one message that an untrusted peer may send has come */
    int error;        /* what stopped us, for ever; 0: nothing */

    uint8_t head[WIRE_HEAD_MAX];
    size_t head_size;         /* bytes of head so far */
    bool is_in_body;          /* else in head */
    struct wire_header frame; /* in body: its head */
    size_t left;              /* in body: bytes of the frame still to come */
    struct blob *single;      /* in body: of an unfragmented message; else NULL */

    struct blob *whole;       /* the fragmented message in progress, or NULL */
    size_t whole_total;       /* its stated size */
    uint8_t whole_type;
    uint32_t whole_stream;
};

static const char *const type_names[WIRE_TYPE_COUNT] = {
    [WIRE_HELLO] = "HELLO",   [WIRE_WELCOME] = "WELCOME", [WIRE_PING] = "PING",
    [WIRE_PONG] = "PONG",     [WIRE_BYE] = "BYE",         [WIRE_REQUEST] = "REQUEST",
    [WIRE_REPLY] = "REPLY",   [WIRE_STAGE] = "STAGE",     [WIRE_RUN] = "RUN",
    [WIRE_RESULT] = "RESULT", [WIRE_ACK] = "ACK",         [WIRE_RECALL] = "RECALL",
    [WIRE_RECALLED] = "RECALLED", [WIRE_CANCEL] = "CANCEL", [WIRE_VMS] = "VMS",
    [WIRE_OUTPUT] = "OUTPUT", [WIRE_DEATH] = "DEATH",
    [WIRE_HELD] = "HELD",     [WIRE_HELD_DONE] = "HELD_DONE", [WIRE_HELD_ASK] = "HELD_ASK",
    [WIRE_HELD_END] = "HELD_END", [WIRE_STATE] = "STATE",   [WIRE_STATE_DONE] = "STATE_DONE",
    [WIRE_JOIN] = "JOIN",     [WIRE_DIAL] = "DIAL",       [WIRE_WANT] = "WANT",
    [WIRE_BLOB] = "BLOB",
};

const char *wire_type_name(uint8_t type)
{
    return type < WIRE_TYPE_COUNT && type_names[type] != NULL ? type_names[type] : "?";
}

void wire_header_put(uint8_t out[WIRE_HEADER_BYTES], const struct wire_header *h)
{
    memset(out, 0, WIRE_HEADER_BYTES);
    out[0] = WIRE_MAGIC & 0xff;
    out[1] = WIRE_MAGIC >> 8;
    out[2] = WIRE_VERSION;
    out[3] = h->type;
    out[4] = h->flags;
    le_store_u32(out + 8, h->stream);
    le_store_u32(out + 12, h->length);
}

int wire_header_get(struct wire_header *h, const uint8_t in[WIRE_HEADER_BYTES], uint32_t limit)
{
    if (le_load_u16(in) != WIRE_MAGIC) {
        return TRK_ECORRUPT;
    }
    if (in[2] != WIRE_VERSION) {
        return TRK_EVERSION;
    }
    h->type = in[3];
    h->flags = in[4];
    h->stream = le_load_u32(in + 8);
    h->length = le_load_u32(in + 12);
    if (h->type == 0 || h->type >= WIRE_TYPE_COUNT || h->length > limit) {
        return TRK_ECORRUPT;
    }
    if ((h->flags & ~(WIRE_MORE | WIRE_FIRST)) != 0 || h->flags == WIRE_FIRST) {
        return TRK_ECORRUPT;
    }
    return (in[5] | in[6] | in[7]) != 0 ? TRK_ECORRUPT : 0;
}

/* --- assembler ----------------------------------------------------------------------------- */

struct wire_assembler *wire_assembler_new(void)
{
    return mem_zalloc(1, sizeof(struct wire_assembler));
}

void wire_assembler_free(struct wire_assembler *a)
{
    if (a != NULL) {
        blob_unref(a->single);
        blob_unref(a->whole);
        mem_free(a);
    }
}

void wire_assembler_set_trusted(struct wire_assembler *a, bool is_trusted)
{
    a->is_trusted = is_trusted;
    a->has_greeted &= is_trusted;
}

/* Who has not proved itself may say one small hello, and costs us no more than that. */
static int check_trust(const struct wire_assembler *a)
{
    if (a->is_trusted) {
        return 0;
    }
    if (a->has_greeted || a->frame.flags != 0 || a->frame.length > WIRE_HELLO_MAX ||
        (a->frame.type != WIRE_HELLO && a->frame.type != WIRE_WELCOME &&
         a->frame.type != WIRE_JOIN)) {
        return TRK_ECORRUPT;
    }
    return 0;
}

/* The head of a first fragment is whole, total included. */
static int begin_whole(struct wire_assembler *a)
{
    uint64_t total = le_load_u64(a->head + WIRE_HEADER_BYTES);

    a->left = a->frame.length - TOTAL_BYTES;
    if (total > WIRE_MESSAGE_MAX || total <= a->left) {
        return TRK_ECORRUPT;
    }
    a->whole = blob_new(total);
    if (a->whole == NULL) {
        return TRK_ENOMEM;
    }
    a->whole_total = total;
    a->whole_type = a->frame.type;
    a->whole_stream = a->frame.stream;
    return 0;
}

/* Is the frame a later fragment of the message in progress? */
static bool is_fragment(const struct wire_assembler *a)
{
    return a->whole != NULL && a->frame.type == a->whole_type &&
           a->frame.stream == a->whole_stream;
}

/* The head of any other frame is whole: where will its body go? */
static int begin_body(struct wire_assembler *a)
{
    size_t missing;

    a->left = a->frame.length;
    if (is_fragment(a)) {
        missing = a->whole_total - a->whole->size;
        if (a->left == 0) {
            return TRK_ECORRUPT; /* says nothing, and could be said for ever */
        }
        if (a->frame.flags == WIRE_MORE) {
            return a->left < missing ? 0 : TRK_ECORRUPT;
        }
        return a->left == missing ? 0 : TRK_ECORRUPT;
    }
    if (a->frame.flags != 0) {
        return TRK_ECORRUPT; /* a fragment of nothing, or of a second message */
    }
    a->single = blob_new(a->left);
    return a->single != NULL ? 0 : TRK_ENOMEM;
}

/* Takes bytes for the head; goes on to the body when it is whole. */
static int feed_head(struct wire_assembler *a, const uint8_t **bytes, size_t *size)
{
    bool is_first = a->head_size >= WIRE_HEADER_BYTES; /* only these need more than a header */
    size_t want = (is_first ? WIRE_HEAD_MAX : WIRE_HEADER_BYTES) - a->head_size;
    size_t n = *size < want ? *size : want;
    int rc;

    memcpy(a->head + a->head_size, *bytes, n);
    a->head_size += n;
    *bytes += n;
    *size -= n;
    if (n < want) {
        return 0;
    }
    if (is_first) {
        rc = begin_whole(a);
    } else {
        rc = wire_header_get(&a->frame, a->head, WIRE_BODY_MAX);
        if (rc == 0) {
            rc = check_trust(a);
        }
        if (rc == 0 && (a->frame.flags & WIRE_FIRST) != 0) {
            /* One fragmented message at a time; and the total must be there. */
            return a->whole == NULL && a->frame.length >= TOTAL_BYTES ? 0 : TRK_ECORRUPT;
        }
        if (rc == 0) {
            rc = begin_body(a);
        }
    }
    a->head_size = 0;
    a->is_in_body = rc == 0;
    return rc;
}

/* The frame's body is complete: hands over the message if it is, too. */
static int end_body(struct wire_assembler *a,
                    int (*on_message)(void *ctx, struct wire_message *msg), void *ctx)
{
    struct wire_message msg = {.type = a->frame.type, .stream = a->frame.stream};

    a->is_in_body = false;
    if (a->single != NULL) {
        msg.body = a->single;
        a->single = NULL;
    } else if (a->frame.flags == 0) {
        assert(a->whole->size == a->whole_total);
        msg.body = a->whole;
        a->whole = NULL;
    } else {
        return 0; /* more fragments follow */
    }
    a->has_greeted = true;
    return on_message(ctx, &msg);
}

/* n bytes of the body have been put in place. */
static int advance(struct wire_assembler *a, size_t n,
                   int (*on_message)(void *ctx, struct wire_message *msg), void *ctx)
{
    struct blob *to = a->single != NULL ? a->single : a->whole;

    assert(a->is_in_body && n <= a->left && n <= to->cap - to->size);
    to->size += n;
    a->left -= n;
    return a->left == 0 ? end_body(a, on_message, ctx) : 0;
}

/* Where the next byte of the body goes. */
static uint8_t *body_end(const struct wire_assembler *a)
{
    struct blob *to = a->single != NULL ? a->single : a->whole;

    return to->data + to->size;
}

int wire_assembler_feed(struct wire_assembler *a, const uint8_t *bytes, size_t size,
                        int (*on_message)(void *ctx, struct wire_message *msg), void *ctx)
{
    while (a->error == 0 && size > 0) {
        size_t n;

        if (!a->is_in_body) {
            a->error = feed_head(a, &bytes, &size);
            if (a->error == 0 && a->is_in_body && a->left == 0) {
                a->error = advance(a, 0, on_message, ctx); /* an empty body is whole already */
            }
            continue;
        }
        n = size < a->left ? size : a->left;
        memcpy(body_end(a), bytes, n);
        bytes += n;
        size -= n;
        a->error = advance(a, n, on_message, ctx);
    }
    return a->error;
}

uint8_t *wire_assembler_direct(struct wire_assembler *a, size_t *room)
{
    if (a->error != 0 || !a->is_in_body || a->left < DIRECT_MIN) {
        return NULL;
    }
    *room = a->left;
    return body_end(a);
}

int wire_assembler_filled(struct wire_assembler *a, size_t n,
                          int (*on_message)(void *ctx, struct wire_message *msg), void *ctx)
{
    if (a->error == 0 && n > 0) {
        a->error = advance(a, n, on_message, ctx);
    }
    return a->error;
}

/* --- cutter -------------------------------------------------------------------------------- */

void wire_cutter_init(struct wire_cutter *c, uint8_t type, uint32_t stream, struct blob *body)
{
    c->type = type;
    c->stream = stream;
    c->body = body;
    c->sent = 0;
    c->is_started = false;
}

void wire_cutter_fini(struct wire_cutter *c)
{
    blob_unref(c->body);
    c->body = NULL;
}

bool wire_cutter_is_done(const struct wire_cutter *c)
{
    return c->is_started && c->sent == c->body->size; /* an empty body is one frame, too */
}

void wire_cutter_next(struct wire_cutter *c, uint8_t out[WIRE_HEAD_MAX], size_t *head_size,
                      const uint8_t **data, size_t *data_size)
{
    struct wire_header h = {.type = c->type, .stream = c->stream};
    size_t left = c->body->size - c->sent;
    bool is_first = !c->is_started && left > WIRE_BODY_MAX;
    size_t extra = is_first ? TOTAL_BYTES : 0;
    size_t n = left < WIRE_BODY_MAX - extra ? left : WIRE_BODY_MAX - extra;

    assert(!wire_cutter_is_done(c));
    h.flags = (uint8_t)((is_first ? WIRE_FIRST : 0) | (n < left ? WIRE_MORE : 0));
    h.length = (uint32_t)(n + extra);
    wire_header_put(out, &h);
    if (is_first) {
        le_store_u64(out + WIRE_HEADER_BYTES, c->body->size);
    }
    *head_size = WIRE_HEADER_BYTES + extra;
    *data = c->body->data + c->sent;
    *data_size = n;
    c->sent += n;
    c->is_started = true;
}
