/* SPDX-License-Identifier: MIT */
/* outq.h - messages on their way out: two queues and at most one frame that is half written.
 *
 * No sockets and no locks: the session asks for a batch of frames, writes what the kernel takes
 * and reports how much that was. Frames are cut for each batch anew (a cutter is three numbers),
 * so that a control message that comes meanwhile goes in front of every frame that has not been
 * started. While a batch is out, messages may be pushed but no second batch prepared. */
#ifndef NET_OUTQ_H
#define NET_OUTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "wire/frame.h"

#define OUTQ_FRAMES_MAX 16 /* per batch: 1 MiB of full fragments */

struct outq_item {
    struct list node;
    struct wire_cutter cutter; /* owns the body; how far it is cut into frames already started */
};

struct outq_frame {
    struct outq_item *item;         /* borrowed from the queue */
    struct wire_cutter after;       /* item's cutter once this frame is started */
    uint8_t head[WIRE_HEAD_MAX];    /* header, and the total where it is the first of several */
    size_t head_size;               /* bytes used of head */
    const uint8_t *data;            /* part of the item's body */
    size_t data_size;               /* bytes at data */
};

struct outq {
    struct list control;       /* struct outq_item: goes first, one frame each */
    struct list bulk;          /* struct outq_item: in order of pushing */
    struct outq_frame partial; /* started but not finished, when partial_sent > 0 */
    size_t partial_sent;       /* bytes of partial that are written */
    size_t bytes;              /* bodies not yet written, and a header for each message */
    uint64_t messages_done;    /* messages written to their end */
};

struct outq_batch {
    struct outq_frame frames[OUTQ_FRAMES_MAX];
    struct iovec iov[2 * OUTQ_FRAMES_MAX]; /* head and data of each frame */
    size_t frame_count, iov_count;
    size_t bytes; /* of all of iov */
};

void outq_init(struct outq *q);
void outq_fini(struct outq *q);
/* Takes body's reference, also on error (NULL: out of memory). */
struct outq_item *outq_item_new(uint8_t type, uint32_t stream, struct blob *body);
void outq_item_free(struct outq_item *item); /* one that was not pushed */
void outq_push(struct outq *q, struct outq_item *item); /* takes item */
/* Is a control message of this type waiting? */
bool outq_has_control(const struct outq *q, uint8_t type);
bool outq_is_empty(const struct outq *q);
/* Fills batch with the next frames: the rest of the half written one, control, bulk. */
void outq_prepare(struct outq *q, struct outq_batch *batch);
/* written bytes of the batch's iov have been taken by the kernel. */
void outq_commit(struct outq *q, const struct outq_batch *batch, size_t written);

#endif
