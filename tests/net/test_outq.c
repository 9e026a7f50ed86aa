/* SPDX-License-Identifier: MIT */
/* The queue of what goes out, written in pieces of every size: what comes out is always whole
 * frames in a valid order. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/outq.h"
#include "tests/suite.h"

static struct outq q;
static struct wire_assembler *in;
static uint64_t live_before;
static size_t got_count;
static struct {
    uint8_t type;
    uint32_t stream;
    size_t size;
    uint8_t first, last; /* bytes of the body */
} got[1000];

static void setup(void)
{
    got_count = 0;
    live_before = mem_live();
    outq_init(&q);
    in = wire_assembler_new();
    wire_assembler_set_trusted(in, true);
}

static void teardown(void)
{
    outq_fini(&q);
    wire_assembler_free(in);
    ck_assert_uint_eq(mem_live(), live_before);
}

static int on_message(void *ctx, struct wire_message *msg)
{
    size_t size = msg->body->size;
    got[got_count].type = msg->type;
    got[got_count].stream = msg->stream;
    got[got_count].size = size;
    got[got_count].first = size > 0 ? msg->body->data[0] : 0;
    got[got_count].last = size > 0 ? msg->body->data[size - 1] : 0;
    got_count++;
    blob_unref(msg->body);
    return 0;
}

static void push(uint8_t type, uint32_t stream, size_t size)
{
    struct blob *b = blob_new(size);
    b->size = size;
    memset(b->data, (int)stream, size);
    if (size > 0) {
        b->data[size - 1] = (uint8_t)~stream;
    }
    struct outq_item *item = outq_item_new(type, stream, b);
    ck_assert_ptr_nonnull(item);
    outq_push(&q, item);
}

/* Writes up to size bytes of the next batch "to the peer". */
static void write_some(size_t size)
{
    static struct outq_batch batch;
    outq_prepare(&q, &batch);
    ck_assert_uint_gt(batch.bytes, 0);
    size_t left = size < batch.bytes ? size : batch.bytes;
    size_t written = left;
    for (size_t i = 0; i < batch.iov_count && left > 0; i++) {
        size_t n = batch.iov[i].iov_len < left ? batch.iov[i].iov_len : left;
        ck_assert_int_eq(wire_assembler_feed(in, batch.iov[i].iov_base, n, on_message, NULL), 0);
        left -= n;
    }
    outq_commit(&q, &batch, written);
}

static const size_t steps[] = {1, 7, 16, 17, 1000, 65536, 65552, 200000, 10000000};

START_TEST(any_split_gives_whole_messages)
{
    static const size_t sizes[] = {0, 1, 70000, 3, 65536, 65537, 0, 200000};
    const size_t count = sizeof(sizes) / sizeof(sizes[0]);
    for (size_t i = 0; i < count; i++) {
        push(WIRE_RUN, (uint32_t)i, sizes[i]);
    }
    while (!outq_is_empty(&q)) {
        write_some(steps[_i]);
    }
    ck_assert_uint_eq(q.bytes, 0);
    ck_assert_uint_eq(q.messages_done, count);
    ck_assert_uint_eq(got_count, count);
    for (size_t i = 0; i < count; i++) {
        ck_assert_uint_eq(got[i].stream, i);
        ck_assert_uint_eq(got[i].size, sizes[i]);
        if (sizes[i] > 1) {
            ck_assert_uint_eq(got[i].first, i);
            ck_assert_uint_eq(got[i].last, (uint8_t)~i);
        }
    }
}
END_TEST

START_TEST(control_waits_for_no_more_than_the_frame_begun)
{
    push(WIRE_RUN, 1, 1000000);
    write_some(100); /* amid the first frame */
    push(WIRE_CANCEL, 2, 10);
    push(WIRE_PING, 3, 0);
    write_some(WIRE_BODY_MAX + WIRE_HEADER_BYTES - 100 + WIRE_HEADER_BYTES + 10);
    ck_assert_uint_eq(got_count, 1);
    ck_assert_uint_eq(got[0].type, WIRE_CANCEL);
    write_some(5); /* amid the ping: nothing may go before its rest */
    push(WIRE_ACK, 4, 1);
    while (!outq_is_empty(&q)) {
        write_some(100000);
    }
    ck_assert_uint_eq(got_count, 4);
    ck_assert_uint_eq(got[1].type, WIRE_PING);
    ck_assert_uint_eq(got[2].type, WIRE_ACK);
    ck_assert_uint_eq(got[3].type, WIRE_RUN);
}
END_TEST

START_TEST(bytes_count_what_is_left)
{
    push(WIRE_RUN, 1, 1000);
    ck_assert_uint_eq(q.bytes, 1000 + WIRE_HEADER_BYTES);
    write_some(WIRE_HEADER_BYTES + 600);
    ck_assert_uint_eq(q.bytes, 400 + WIRE_HEADER_BYTES);
    write_some(400);
    ck_assert_uint_eq(q.bytes, 0);
}
END_TEST

/* A greeting must not be overtaken by the ping behind it. */
START_TEST(greeting_stays_first)
{
    push(WIRE_WELCOME, 1, 100);
    push(WIRE_PING, 0, 0);
    push(WIRE_CANCEL, 0, 8);
    while (!outq_is_empty(&q)) {
        write_some(50);
    }
    ck_assert_uint_eq(got[0].type, WIRE_WELCOME);
}
END_TEST

/* Control in name, but too long for one frame: it may not go between another's fragments. */
START_TEST(long_control_waits_its_turn)
{
    push(WIRE_RUN, 1, 200000);
    write_some(70000);
    push(WIRE_ACK, 2, 100000);
    while (!outq_is_empty(&q)) {
        write_some(70000);
    }
    ck_assert_uint_eq(got[0].type, WIRE_RUN);
    ck_assert_uint_eq(got[1].type, WIRE_ACK);
}
END_TEST

START_TEST(random_traffic_keeps_order_within_a_class)
{
    unsigned seed = (unsigned)_i + 1;
    uint32_t run = 0, ack = 0, next_run = 0, next_ack = 0;
    for (int i = 0; i < 600; i++) {
        int dice = rand_r(&seed) % 10;
        if (dice < 3 && run + ack < 900) {
            push(WIRE_RUN, run++, (size_t)rand_r(&seed) % 150000);
        } else if (dice < 5 && run + ack < 900) {
            push(WIRE_ACK, ack++, (size_t)rand_r(&seed) % 64);
        } else if (!outq_is_empty(&q)) {
            write_some(1 + (size_t)rand_r(&seed) % 120000);
        }
    }
    while (!outq_is_empty(&q)) {
        write_some(1 + (size_t)rand_r(&seed) % 2000000);
    }
    for (size_t i = 0; i < got_count; i++) {
        uint32_t *next = got[i].type == WIRE_RUN ? &next_run : &next_ack;
        ck_assert_msg(got[i].stream == *next, "seed %u: %u came before %u", (unsigned)_i + 1,
                      got[i].stream, *next);
        ++*next;
    }
    ck_assert_uint_eq(got_count, run + ack);
    ck_assert_uint_eq(q.bytes, 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("outq");
    TCase *t = tcase_create("outq");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, any_split_gives_whole_messages, 0,
                        (int)(sizeof(steps) / sizeof(steps[0])));
    tcase_add_test(t, control_waits_for_no_more_than_the_frame_begun);
    tcase_add_test(t, bytes_count_what_is_left);
    tcase_add_test(t, greeting_stays_first);
    tcase_add_test(t, long_control_waits_its_turn);
    tcase_add_loop_test(t, random_traffic_keeps_order_within_a_class, 0, 20);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(suite());
}
