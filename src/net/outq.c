/* SPDX-License-Identifier: MIT */
/* outq.c - see outq.h. */
#include "net/outq.h"

#include <assert.h>

#include "base/mem.h"

static bool is_control(uint8_t type)
{
    switch ((enum wire_type)type) {
    case WIRE_HELLO:
    case WIRE_JOIN:
    case WIRE_WELCOME: /* nothing may overtake the greeting, so it goes the same way */
    case WIRE_PING:
    case WIRE_PONG:
    case WIRE_BYE:
    case WIRE_ACK:
    case WIRE_RECALL:
    case WIRE_RECALLED:
    case WIRE_CANCEL:
    case WIRE_HELD_DONE:
    case WIRE_HELD_ASK:
    case WIRE_STATE_DONE:
    case WIRE_WANT:
        return true;
    case WIRE_REQUEST:
    case WIRE_REPLY:
    case WIRE_STAGE:
    case WIRE_RUN:
    case WIRE_RESULT:
    case WIRE_VMS:
    case WIRE_OUTPUT:
    case WIRE_DEATH:
    case WIRE_HELD:
    case WIRE_HELD_END:
    case WIRE_DIAL:
    case WIRE_BLOB:
    case WIRE_STATE: /* it must not overtake a RUN, nor a RUN it */
    case WIRE_TYPE_COUNT:
        break;
    }
    return false;
}

void outq_init(struct outq *q)
{
    *q = (struct outq){.partial_sent = 0};
    list_init(&q->control);
    list_init(&q->bulk);
}

void outq_item_free(struct outq_item *item)
{
    wire_cutter_fini(&item->cutter);
    mem_free(item);
}

static void free_all(struct list *head)
{
    struct list *node;
    while ((node = list_pop_front(head)) != NULL) {
        outq_item_free(container_of(node, struct outq_item, node));
    }
}

void outq_fini(struct outq *q)
{
    free_all(&q->control);
    free_all(&q->bulk);
    q->partial_sent = 0;
    q->bytes = 0;
}

struct outq_item *outq_item_new(uint8_t type, uint32_t stream, struct blob *body)
{
    struct outq_item *item = mem_alloc(sizeof(*item));
    if (item == NULL) {
        blob_unref(body);
        return NULL;
    }
    list_init(&item->node);
    wire_cutter_init(&item->cutter, type, stream, body);
    return item;
}

void outq_push(struct outq *q, struct outq_item *item)
{
    size_t size = item->cutter.body->size;
    /* Only what is a single frame may go between the fragments of another message. */
    bool is_ahead = is_control(item->cutter.type) && size <= WIRE_BODY_MAX;
    list_push_back(is_ahead ? &q->control : &q->bulk, &item->node);
    q->bytes += size + WIRE_HEADER_BYTES;
}

bool outq_has_control(const struct outq *q, uint8_t type)
{
    const struct list *node;
    list_for_each(node, &q->control) {
        if (container_of(node, struct outq_item, node)->cutter.type == type) {
            return true;
        }
    }
    return false;
}

bool outq_is_empty(const struct outq *q)
{
    /* A half written frame's item is still in its list. */
    return list_is_empty(&q->control) && list_is_empty(&q->bulk);
}

static void add_iov(struct outq_batch *batch, const uint8_t *bytes, size_t size, size_t skip)
{
    if (size > skip) {
        batch->iov[batch->iov_count++] =
            (struct iovec){.iov_base = (void *)(bytes + skip), .iov_len = size - skip};
        batch->bytes += size - skip;
    }
}

/* frame is the batch's last one; its first sent bytes are written already. */
static void add_frame(struct outq_batch *batch, const struct outq_frame *frame, size_t sent)
{
    size_t head_sent = sent < frame->head_size ? sent : frame->head_size;
    add_iov(batch, frame->head, frame->head_size, head_sent);
    add_iov(batch, frame->data, frame->data_size, sent - head_sent);
    batch->frame_count++;
}

static void add_items(struct outq_batch *batch, const struct list *head)
{
    const struct list *node;
    list_for_each(node, head) {
        struct outq_item *item = container_of(node, struct outq_item, node);
        struct wire_cutter cutter = item->cutter; /* borrows the body */
        while (!wire_cutter_is_done(&cutter)) {
            if (batch->frame_count == OUTQ_FRAMES_MAX) {
                return;
            }
            struct outq_frame *frame = &batch->frames[batch->frame_count];
            frame->item = item;
            wire_cutter_next(&cutter, frame->head, &frame->head_size, &frame->data,
                             &frame->data_size);
            frame->after = cutter;
            add_frame(batch, frame, 0);
        }
    }
}

void outq_prepare(struct outq *q, struct outq_batch *batch)
{
    batch->frame_count = 0;
    batch->iov_count = 0;
    batch->bytes = 0;
    if (q->partial_sent > 0) {
        batch->frames[0] = q->partial;
        add_frame(batch, &batch->frames[0], q->partial_sent);
    }
    add_items(batch, &q->control);
    add_items(batch, &q->bulk);
}

/* Bytes of the body among the first sent bytes of the frame. */
static size_t data_within(const struct outq_frame *frame, size_t sent)
{
    return sent > frame->head_size ? sent - frame->head_size : 0;
}

void outq_commit(struct outq *q, const struct outq_batch *batch, size_t written)
{
    assert(written <= batch->bytes);
    for (size_t i = 0; i < batch->frame_count && written > 0; i++) {
        const struct outq_frame *frame = &batch->frames[i];
        size_t start = i == 0 ? q->partial_sent : 0;
        size_t left = frame->head_size + frame->data_size - start;
        size_t took = written < left ? written : left;
        written -= took;
        q->bytes -= data_within(frame, start + took) - data_within(frame, start);
        frame->item->cutter = frame->after;
        if (took < left) {
            q->partial = *frame;
            q->partial_sent = start + took;
            return;
        }
        q->partial_sent = 0;
        if (wire_cutter_is_done(&frame->item->cutter)) {
            list_remove(&frame->item->node);
            outq_item_free(frame->item);
            q->bytes -= WIRE_HEADER_BYTES;
            q->messages_done++;
        }
    }
}
