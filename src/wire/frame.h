/* SPDX-License-Identifier: MIT */
/* frame.h - messages <-> frames. No sockets: bytes in, messages out, and back.
 *
 *   offset 0  u16 magic "Tk"     a message is one frame, or a run of fragments on one stream:
 *          2  u8  version          first: FIRST|MORE, body starts with u64 total length
 *          3  u8  type             then:  MORE ...   last: neither
 *          4  u8  flags          Fragments of one message are sent in order and one fragmented
 *          5  u8[3] zero         message at a time; single-frame messages may come between them,
 *          8  u32 stream         so that a gigabyte neither silences heartbeats nor delays a
 *         12  u32 length         cancel. Bodies of frames are at most 64 KiB.
 *
 * Little endian. Every byte from a network is checked here or in msg.c: a parser error is
 * TRK_ECORRUPT and the connection is to be dropped. */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/blob.h"
#include "trickle/error.h"

#define WIRE_MAGIC 0x6b54u /* "Tk" */
#define WIRE_VERSION 3
#define WIRE_HEADER_BYTES 16
#define WIRE_BODY_MAX 65536u
#define WIRE_MESSAGE_MAX (((size_t)1 << 30) + 65536) /* 1 GiB payload and its layout around */
#define WIRE_HELLO_MAX 4096u /* before a peer has proved itself: one small frame */

enum wire_flag { WIRE_MORE = 1, WIRE_FIRST = 2 };

enum wire_type {
    WIRE_HELLO = 1, /* first message of who connects */
    WIRE_WELCOME,   /* first message back: taken, or refused with a reason */
    WIRE_PING,      /* empty; answered by PONG */
    WIRE_PONG,
    WIRE_BYE,       /* the lease ends in order / the VM is about to end */
    WIRE_REQUEST,   /* stream: number of the request */
    WIRE_REPLY,     /* stream: the request's */
    WIRE_STAGE,     /* declares a stage (function) before its first RUN */
    WIRE_RUN,       /* a batch of elements */
    WIRE_RESULT,    /* results of a run of elements of one batch */
    WIRE_ACK,       /* results up to here are recorded: let go of them */
    WIRE_RECALL,    /* give back what has not started */
    WIRE_RECALLED,
    WIRE_CANCEL,    /* drop a stage */
    WIRE_VMS,       /* supervisor: the VMs it has (all, or those that changed) */
    WIRE_OUTPUT,    /* supervisor: what user code printed on a VM of this initiator */
    WIRE_DEATH,     /* supervisor: how a VM of this initiator died */
    WIRE_HELD,      /* supervisor: what a VM had for a job whose initiator had gone */
    WIRE_HELD_DONE, /* one of these is not needed any more, or not yet */
    WIRE_HELD_ASK,  /* send what you hold of a stage */
    WIRE_HELD_END,  /* supervisor: that was all of a stage */
    WIRE_STATE,     /* a checkpoint of an element, to be recorded / to go on from */
    WIRE_STATE_DONE, /* it is recorded */
    WIRE_JOIN,      /* first message of a supervisor or VM that dials in to an initiator */
    WIRE_DIAL,      /* to such a supervisor: let this VM dial in */
    WIRE_WANT,      /* a VM lacks a blob that its work names by content */
    WIRE_BLOB,      /* here it is; or nobody knows it */
    WIRE_TYPE_COUNT
};

struct wire_header {
    uint8_t type, flags;
    uint32_t stream, length;
};

void wire_header_put(uint8_t out[WIRE_HEADER_BYTES], const struct wire_header *h);
/* TRK_ECORRUPT: not ours; TRK_EVERSION: ours, of another version. limit: allowed length. */
TRK_MUST_USE int wire_header_get(struct wire_header *h, const uint8_t in[WIRE_HEADER_BYTES],
                                 uint32_t limit);

struct wire_message {
    uint8_t type;
    uint32_t stream;
    struct blob *body; /* owned by whoever holds the message; never NULL */
};

/* Puts messages together from bytes as they arrive. */
struct wire_assembler;
struct wire_assembler *wire_assembler_new(void); /* NULL: out of memory */
void wire_assembler_free(struct wire_assembler *a);
/* Before the handshake: only one frame of HELLO, WELCOME or JOIN up to WIRE_HELLO_MAX is let
 * through; another one each time that trust is taken away. */
void wire_assembler_set_trusted(struct wire_assembler *a, bool is_trusted);
/* Takes all of bytes in; on_message is called for each whole message and takes msg->body (one
 * reference). When on_message returns non-zero parsing stops and that is returned, and the rest
 * of bytes is dropped. TRK_ECORRUPT, TRK_EVERSION, TRK_ENOMEM: drop the connection. */
TRK_MUST_USE int wire_assembler_feed(struct wire_assembler *a, const uint8_t *bytes, size_t size,
                                     int (*on_message)(void *ctx, struct wire_message *msg),
                                     void *ctx);
/* Where the next bytes may be read to directly (inside a large fragment), or NULL: use feed.
 * After reading n bytes there call wire_assembler_filled. */
uint8_t *wire_assembler_direct(struct wire_assembler *a, size_t *room);
TRK_MUST_USE int wire_assembler_filled(struct wire_assembler *a, size_t n,
                                       int (*on_message)(void *ctx, struct wire_message *msg),
                                       void *ctx);

/* Cuts a message into frames. */
struct wire_cutter {
    uint8_t type;
    uint32_t stream;
    struct blob *body; /* owned */
    size_t sent;       /* bytes of body already in frames */
    bool is_started;
};
void wire_cutter_init(struct wire_cutter *c, uint8_t type, uint32_t stream, struct blob *body);
void wire_cutter_fini(struct wire_cutter *c);
bool wire_cutter_is_done(const struct wire_cutter *c);
/* The next frame: head (header, and the total where it is the first of several) into out, its
 * length into *head_size; *data, *data_size: the part of the body that follows (borrowed). */
#define WIRE_HEAD_MAX (WIRE_HEADER_BYTES + 8)
void wire_cutter_next(struct wire_cutter *c, uint8_t out[WIRE_HEAD_MAX], size_t *head_size,
                      const uint8_t **data, size_t *data_size);

const char *wire_type_name(uint8_t type); /* "HELLO"; "?" */

#endif
