/* SPDX-License-Identifier: MIT */
/* test_frame.c - messages through the cutter and the assembler, whole, in pieces, interleaved,
 * damaged. What arrives is written down as text ("RUN#7:35:<digest>"), so that any two ways to
 * feed the same bytes can be compared. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/mem.h"
#include "samples.h"
#include "tests/suite.h"
#include "wire/frame.h"

/* Written by on_message. */
static char transcript[4096];
static size_t messages;
static int verdict;                      /* what on_message returns */
static struct wire_assembler *to_trust;  /* made trusted by on_message; or NULL */

static struct wire_assembler *assembler;
static struct buf stream; /* bytes as on the wire */

static int on_message(void *ctx, struct wire_message *msg)
{
    struct digest d = hash_digest(msg->body->data, msg->body->size);
    size_t used = strlen(transcript);

    ck_assert_ptr_eq(ctx, &messages);
    snprintf(transcript + used, sizeof(transcript) - used, "%s#%u:%zu:%02x%02x%02x ",
             wire_type_name(msg->type), msg->stream, msg->body->size, d.bytes[0], d.bytes[1],
             d.bytes[2]);
    messages++;
    blob_unref(msg->body);
    if (to_trust != NULL) {
        wire_assembler_set_trusted(to_trust, true);
    }
    return verdict;
}

static void restart(void)
{
    wire_assembler_free(assembler);
    assembler = wire_assembler_new();
    ck_assert_ptr_nonnull(assembler);
    wire_assembler_set_trusted(assembler, true);
    transcript[0] = '\0';
    messages = 0;
    verdict = 0;
    to_trust = NULL;
}

static void setup(void)
{
    buf_init(&stream);
    restart();
}

static void teardown(void)
{
    mem_fail_after(0);
    buf_fini(&stream);
    wire_assembler_free(assembler);
    assembler = NULL;
    ck_assert_uint_eq(mem_live(), 0);
}

static int feed(const void *bytes, size_t size)
{
    return wire_assembler_feed(assembler, bytes, size, on_message, &messages);
}

static int feed_stream(void)
{
    return feed(stream.blob->data, buf_size(&stream));
}

/* Appends a frame with size bytes of body that look random; total > 0: of a first fragment. */
static void put_frame(uint8_t type, uint8_t flags, uint32_t number, uint64_t total, size_t size)
{
    struct wire_header h = {type, flags, number, (uint32_t)(size + (total > 0 ? 8 : 0))};
    uint8_t head[WIRE_HEADER_BYTES];

    wire_header_put(head, &h);
    buf_put(&stream, head, sizeof(head));
    if (total > 0) {
        buf_put_u64(&stream, total);
    }
    for (size_t i = 0; i < size; i++) {
        buf_put_u8(&stream, (uint8_t)(buf_size(&stream) * 37 + number));
    }
}

/* Appends a message of size bytes as the cutter cuts it. */
static void put_message(uint8_t type, uint32_t number, size_t size)
{
    struct blob *body = blob_new(size);
    struct wire_cutter c;

    for (size_t i = 0; i < size; i++) {
        body->data[i] = (uint8_t)(i * 131 + i / 256 + number);
    }
    body->size = size;
    wire_cutter_init(&c, type, number, body);
    while (!wire_cutter_is_done(&c)) {
        uint8_t head[WIRE_HEAD_MAX];
        const uint8_t *data;
        size_t head_size, data_size;

        wire_cutter_next(&c, head, &head_size, &data, &data_size);
        ck_assert_uint_le(head_size + data_size, WIRE_HEADER_BYTES + WIRE_BODY_MAX);
        buf_put(&stream, head, head_size);
        buf_put(&stream, data, data_size);
    }
    wire_cutter_fini(&c);
}

/* A small stream with everything in it: empty and short messages, a message in four fragments
 * with others between them. */
static void put_everything(void)
{
    put_frame(WIRE_PING, 0, 0, 0, 0);
    put_frame(WIRE_REQUEST, 0, 3, 0, 20);
    put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, 35, 10);
    put_frame(WIRE_PONG, 0, 0, 0, 0);
    put_frame(WIRE_RUN, WIRE_MORE, 7, 0, 1);
    put_frame(WIRE_RUN, WIRE_MORE, 7, 0, 20);
    put_frame(WIRE_ACK, 0, 7, 0, 3);
    put_frame(WIRE_RUN, 0, 8, 0, 2); /* same type, another stream */
    put_frame(WIRE_RUN, 0, 7, 0, 4);
    put_frame(WIRE_REPLY, 0, 3, 0, 5);
}

/* --- headers ------------------------------------------------------------------------------ */

START_TEST(header_survives)
{
    struct wire_header in = {WIRE_DEATH, WIRE_FIRST | WIRE_MORE, 0xfedcba98u, 65536}, out;
    uint8_t bytes[WIRE_HEADER_BYTES];

    wire_header_put(bytes, &in);
    ck_assert_mem_eq(bytes, "Tk\3\x11\3\0\0\0\x98\xba\xdc\xfe\0\0\1\0", 16);
    ck_assert_int_eq(wire_header_get(&out, bytes, 65536), 0);
    ck_assert_uint_eq(out.type, in.type);
    ck_assert_uint_eq(out.flags, in.flags);
    ck_assert_uint_eq(out.stream, in.stream);
    ck_assert_uint_eq(out.length, in.length);
    ck_assert_int_eq(wire_header_get(&out, bytes, 65535), TRK_ECORRUPT);
}
END_TEST

static const struct {
    size_t at;
    uint8_t value;
    int rc;
} bad_headers[] = {
    {0, 'X', TRK_ECORRUPT}, {1, 'X', TRK_ECORRUPT}, {2, 0, TRK_EVERSION}, {2, 1, TRK_EVERSION},
    {3, 0, TRK_ECORRUPT},   {3, WIRE_TYPE_COUNT, TRK_ECORRUPT},           {3, 255, TRK_ECORRUPT},
    {4, WIRE_FIRST, TRK_ECORRUPT}, {4, 4, TRK_ECORRUPT}, {4, 0x83, TRK_ECORRUPT},
    {5, 1, TRK_ECORRUPT},   {6, 1, TRK_ECORRUPT},   {7, 1, TRK_ECORRUPT}, {15, 1, TRK_ECORRUPT},
};

START_TEST(bad_header_is_refused)
{
    struct wire_header h = {WIRE_PING, 0, 1, 2};
    uint8_t bytes[WIRE_HEADER_BYTES];

    wire_header_put(bytes, &h);
    bytes[bad_headers[_i].at] = bad_headers[_i].value;
    ck_assert_int_eq(wire_header_get(&h, bytes, WIRE_BODY_MAX), bad_headers[_i].rc);
    ck_assert_int_eq(feed(bytes, sizeof(bytes)), bad_headers[_i].rc);
    put_frame(WIRE_PING, 0, 0, 0, 0);
    ck_assert_int_eq(feed_stream(), bad_headers[_i].rc); /* and it stays so */
    ck_assert_uint_eq(messages, 0);
}
END_TEST

START_TEST(types_have_names)
{
    ck_assert_str_eq(wire_type_name(WIRE_HELLO), "HELLO");
    for (int type = 1; type < WIRE_TYPE_COUNT; type++) {
        ck_assert_str_ne(wire_type_name((uint8_t)type), "?");
    }
    ck_assert_str_eq(wire_type_name(0), "?");
    ck_assert_str_eq(wire_type_name(WIRE_TYPE_COUNT), "?");
    ck_assert_str_eq(wire_type_name(255), "?");
}
END_TEST

/* --- messages ------------------------------------------------------------------------------- */

static const size_t sizes[] = {0, 1, 100, 65535, 65536, 65537, 131064, 131065, 200000};
static const size_t pieces[] = {5, 16, 4096, 65536, 1 << 20};

START_TEST(cut_messages_come_together_from_pieces_of_any_size)
{
    struct buf expected;
    char text[200];

    buf_init(&expected);
    put_message(WIRE_REPLY, 5, sizes[_i]);
    for (size_t i = 0; i < sizes[_i]; i++) {
        buf_put_u8(&expected, (uint8_t)(i * 131 + i / 256 + 5));
    }
    buf_reserve(&expected, 1);
    snprintf(text, sizeof(text), "REPLY#5:%zu:%02x", sizes[_i],
             hash_digest(expected.blob->data, sizes[_i]).bytes[0]);
    buf_fini(&expected);
    for (size_t p = 0; p < sizeof(pieces) / sizeof(pieces[0]); p++) {
        size_t size = buf_size(&stream);

        restart();
        for (size_t at = 0; at < size; at += pieces[p]) {
            size_t n = size - at < pieces[p] ? size - at : pieces[p];

            ck_assert_int_eq(feed(stream.blob->data + at, n), 0);
        }
        ck_assert_uint_eq(messages, 1);
        ck_assert_int_eq(strncmp(transcript, text, strlen(text)), 0);
    }
}
END_TEST

START_TEST(small_messages_are_one_frame)
{
    put_message(WIRE_RUN, 1, WIRE_BODY_MAX);
    ck_assert_uint_eq(buf_size(&stream), WIRE_HEADER_BYTES + WIRE_BODY_MAX);
    ck_assert_uint_eq(stream.blob->data[4], 0);
}
END_TEST

START_TEST(every_two_splits_give_the_same)
{
    char whole[sizeof(transcript)];
    size_t size;

    put_everything();
    size = buf_size(&stream);
    ck_assert_int_eq(feed_stream(), 0);
    ck_assert_uint_eq(messages, 7);
    memcpy(whole, transcript, sizeof(whole));
    for (size_t i = 0; i <= size; i++) {
        for (size_t j = i; j <= size; j++) {
            restart();
            ck_assert_int_eq(feed(stream.blob->data, i), 0);
            ck_assert_int_eq(feed(stream.blob->data + i, j - i), 0);
            ck_assert_int_eq(feed(stream.blob->data + j, size - j), 0);
            ck_assert_str_eq(transcript, whole);
        }
    }
}
END_TEST

START_TEST(interleaved_messages_arrive_when_they_are_whole)
{
    put_everything();
    ck_assert_int_eq(feed_stream(), 0);
    for (const char *at = transcript, *const *name =
             (const char *const[]){"PING", "REQUEST#3:20", "PONG", "ACK#7:3", "RUN#8:2", "RUN#7:35",
                                   "REPLY#3:5", NULL};
         *name != NULL; name++) {
        ck_assert_msg(strncmp(at, *name, strlen(*name)) == 0, "%s expected at %s", *name, at);
        at = strchr(at, ' ') + 1;
    }
}
END_TEST

/* Takes the stream as a session does: straight into the body where it may. */
static void read_directly(uint64_t *seed)
{
    size_t at = 0, size = buf_size(&stream), direct = 0;

    while (at < size) {
        size_t room = 0, n = 1 + sample_random(seed) % 100000;
        uint8_t *to = wire_assembler_direct(assembler, &room);

        n = n < size - at ? n : size - at;
        if (to != NULL) {
            n = n < room ? n : room;
            memcpy(to, stream.blob->data + at, n);
            ck_assert_int_eq(wire_assembler_filled(assembler, n, on_message, &messages), 0);
            direct += n;
        } else {
            n = n < 1000 ? n : 1000;
            ck_assert_int_eq(feed(stream.blob->data + at, n), 0);
        }
        at += n;
    }
    ck_assert_uint_gt(direct, size / 2);
}

START_TEST(direct_reading_gives_the_same)
{
    char whole[sizeof(transcript)];
    uint64_t seed = (uint64_t)_i + 1;

    put_message(WIRE_PING, 0, 0);
    put_message(WIRE_REQUEST, 1, 500000);
    put_message(WIRE_PING, 0, 0);
    put_message(WIRE_REQUEST, 2, 65536);
    ck_assert_int_eq(feed_stream(), 0);
    memcpy(whole, transcript, sizeof(whole));
    restart();
    read_directly(&seed);
    ck_assert_str_eq(transcript, whole);
}
END_TEST

START_TEST(direct_is_offered_inside_large_bodies_only)
{
    size_t room = 0;

    ck_assert_ptr_null(wire_assembler_direct(assembler, &room));
    put_message(WIRE_REQUEST, 1, 100000);
    ck_assert_int_eq(feed(stream.blob->data, WIRE_HEAD_MAX), 0);
    ck_assert_ptr_nonnull(wire_assembler_direct(assembler, &room));
    ck_assert_uint_eq(room, WIRE_BODY_MAX - 8);
    ck_assert_int_eq(wire_assembler_filled(assembler, 0, on_message, &messages), 0);
    ck_assert_int_eq(feed(stream.blob->data, 65000), 0);
    ck_assert_ptr_null(wire_assembler_direct(assembler, &room)); /* few bytes left */
}
END_TEST

START_TEST(a_large_message_takes_one_allocation)
{
    put_message(WIRE_REQUEST, 1, 1 << 20);
    mem_fail_after(2);
    ck_assert_int_eq(feed_stream(), 0);
    ck_assert_uint_eq(messages, 1);
}
END_TEST

/* --- fragments that do not add up ------------------------------------------------------------ */

/* The first fragment of a message of 100 bytes, with 10 of them. */
static void put_first(void)
{
    put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, 100, 10);
}

static void second_first(void) { put_first(); put_first(); }
static void first_of_another(void)
{
    put_first();
    put_frame(WIRE_REPLY, WIRE_FIRST | WIRE_MORE, 9, 100, 10);
}
static void fragment_of_nothing(void) { put_frame(WIRE_RUN, WIRE_MORE, 7, 0, 10); }
static void other_stream(void) { put_first(); put_frame(WIRE_RUN, WIRE_MORE, 8, 0, 10); }
static void other_type(void) { put_first(); put_frame(WIRE_REPLY, WIRE_MORE, 7, 0, 10); }
static void more_fills_it(void) { put_first(); put_frame(WIRE_RUN, WIRE_MORE, 7, 0, 90); }
static void more_is_too_much(void) { put_first(); put_frame(WIRE_RUN, WIRE_MORE, 7, 0, 91); }
static void last_is_too_much(void) { put_first(); put_frame(WIRE_RUN, 0, 7, 0, 91); }
static void last_is_too_little(void) { put_first(); put_frame(WIRE_RUN, 0, 7, 0, 89); }
static void empty_fragment(void) { put_first(); put_frame(WIRE_RUN, WIRE_MORE, 7, 0, 0); }
static void empty_last(void) { put_first(); put_frame(WIRE_RUN, 0, 7, 0, 0); }
static void total_in_first(void) { put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, 10, 10); }
static void total_too_small(void) { put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, 9, 10); }
static void total_too_large(void)
{
    put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, WIRE_MESSAGE_MAX + 1, 10);
}
static void total_absurd(void)
{
    put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, UINT64_MAX, 10);
}
static void no_room_for_total(void) { put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, 0, 7); }

static void (*const wrongs[])(void) = {
    second_first, first_of_another, fragment_of_nothing, other_stream, other_type, more_fills_it,
    more_is_too_much, last_is_too_much, last_is_too_little, empty_fragment, empty_last,
    total_in_first, total_too_small, total_too_large, total_absurd, no_room_for_total,
};

START_TEST(fragments_that_do_not_add_up_are_refused)
{
    wrongs[_i]();
    ck_assert_int_eq(feed_stream(), TRK_ECORRUPT);
    ck_assert_uint_eq(messages, 0);
    ck_assert_int_eq(feed_stream(), TRK_ECORRUPT);
}
END_TEST

START_TEST(the_largest_total_is_taken_and_costs_nothing_yet)
{
    put_frame(WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, WIRE_MESSAGE_MAX, 10);
    ck_assert_int_eq(feed_stream(), 0);
    ck_assert_uint_eq(messages, 0);
}
END_TEST

/* --- trust ---------------------------------------------------------------------------------- */

static const struct {
    uint8_t type, flags;
    uint64_t total;
    size_t size;
    int rc;
} greetings[] = {
    {WIRE_HELLO, 0, 0, 10, 0},
    {WIRE_WELCOME, 0, 0, WIRE_HELLO_MAX, 0},
    {WIRE_JOIN, 0, 0, 10, 0},
    {WIRE_HELLO, 0, 0, WIRE_HELLO_MAX + 1, TRK_ECORRUPT},
    {WIRE_DIAL, 0, 0, 10, TRK_ECORRUPT},
    {WIRE_PING, 0, 0, 0, TRK_ECORRUPT},
    {WIRE_REQUEST, 0, 0, 10, TRK_ECORRUPT},
    {WIRE_HELLO, WIRE_FIRST | WIRE_MORE, 100, 10, TRK_ECORRUPT},
    {WIRE_HELLO, WIRE_MORE, 0, 10, TRK_ECORRUPT},
};

START_TEST(strangers_may_send_one_small_greeting)
{
    wire_assembler_set_trusted(assembler, false);
    put_frame(greetings[_i].type, greetings[_i].flags, 0, greetings[_i].total, greetings[_i].size);
    ck_assert_int_eq(feed_stream(), greetings[_i].rc);
    ck_assert_uint_eq(messages, greetings[_i].rc == 0 ? 1 : 0);
    ck_assert_int_eq(feed_stream(), TRK_ECORRUPT); /* a second one is too much */
}
END_TEST

START_TEST(who_is_to_greet_again_may)
{
    wire_assembler_set_trusted(assembler, false);
    put_frame(WIRE_JOIN, 0, 0, 0, 10);
    ck_assert_int_eq(feed_stream(), 0);
    wire_assembler_set_trusted(assembler, false);
    ck_assert_int_eq(feed_stream(), 0);
    ck_assert_uint_eq(messages, 2);
    ck_assert_int_eq(feed_stream(), TRK_ECORRUPT);
}
END_TEST

START_TEST(nobody_is_trusted_at_first)
{
    struct wire_assembler *fresh = wire_assembler_new();

    put_frame(WIRE_PING, 0, 0, 0, 0);
    ck_assert_int_eq(wire_assembler_feed(fresh, stream.blob->data, buf_size(&stream), on_message,
                                         &messages), TRK_ECORRUPT);
    wire_assembler_free(fresh);
}
END_TEST

START_TEST(trust_given_on_the_greeting_holds_for_what_follows_it)
{
    wire_assembler_set_trusted(assembler, false);
    to_trust = assembler;
    put_frame(WIRE_HELLO, 0, 0, 0, 10);
    put_message(WIRE_RUN, 1, 100000);
    ck_assert_int_eq(feed_stream(), 0);
    ck_assert_uint_eq(messages, 2);
}
END_TEST

/* --- ends ----------------------------------------------------------------------------------- */

START_TEST(a_receiver_that_has_enough_gets_no_more)
{
    put_frame(WIRE_PING, 0, 0, 0, 0);
    put_frame(WIRE_PING, 0, 0, 0, 0);
    verdict = TRK_ECLOSED;
    ck_assert_int_eq(feed_stream(), TRK_ECLOSED);
    ck_assert_uint_eq(messages, 1);
    verdict = 0;
    ck_assert_int_eq(feed_stream(), TRK_ECLOSED); /* the rest was dropped: the place is lost */
    ck_assert_uint_eq(messages, 1);
}
END_TEST

START_TEST(unfinished_messages_are_freed)
{
    put_everything();
    for (size_t i = 0; i < buf_size(&stream); i++) {
        restart();
        ck_assert_int_eq(feed(stream.blob->data, i), 0);
    }
    /* teardown looks for what is left over */
}
END_TEST

START_TEST(each_failing_allocation_is_reported_and_leaks_nothing)
{
    uint64_t n = 1;
    int rc;

    put_everything();
    for (;; n++) {
        mem_fail_after(0);
        restart();
        mem_fail_after(n);
        rc = feed_stream();
        mem_fail_after(0);
        if (rc == 0) {
            break;
        }
        ck_assert_int_eq(rc, TRK_ENOMEM);
        ck_assert_int_eq(feed_stream(), TRK_ENOMEM);
    }
    ck_assert_uint_eq(n, 8); /* one allocation for each of 7 messages */
    mem_fail_after(1);
    ck_assert_ptr_null(wire_assembler_new());
}
END_TEST

/* --- damage --------------------------------------------------------------------------------- */

START_TEST(every_flipped_bit_is_survived)
{
    size_t size;

    put_everything();
    size = buf_size(&stream);
    for (size_t at = 0; at < size; at++) {
        for (unsigned flip = 1; flip < 256; flip *= 2) {
            uint8_t *copy = malloc(size); /* exact, for the sanitizer */
            int rc;

            memcpy(copy, stream.blob->data, size);
            copy[at] ^= (uint8_t)flip;
            restart();
            rc = feed(copy, size);
            ck_assert_msg(rc == 0 || rc == TRK_ECORRUPT || rc == TRK_EVERSION, "rc %d", rc);
            free(copy);
        }
    }
}
END_TEST

/* Feeds size bytes in random pieces, directly where offered. Returns as feed does. */
static int feed_in_pieces(const uint8_t *bytes, size_t size, uint64_t *seed)
{
    int rc = 0;

    while (size > 0 && rc == 0) {
        size_t room = 0, n = 1 + sample_random(seed) % (size < 5000 ? size : 5000);
        uint8_t *to = wire_assembler_direct(assembler, &room);

        if (to != NULL && sample_random(seed) % 2 == 0) {
            n = n < room ? n : room;
            memcpy(to, bytes, n);
            rc = wire_assembler_filled(assembler, n, on_message, &messages);
        } else {
            rc = feed(bytes, n);
        }
        bytes += n;
        size -= n;
    }
    return rc;
}

START_TEST(random_streams_are_judged_alike_however_they_are_split)
{
    uint64_t seed = 0x5eed + (uint64_t)_i;

    for (int round = 0; round < 20; round++) {
        char whole[sizeof(transcript)];
        int rc;

        buf_fini(&stream);
        for (int i = 0; i < 4; i++) {
            put_message((uint8_t)(1 + sample_random(&seed) % (WIRE_TYPE_COUNT - 1)),
                        (uint32_t)sample_random(&seed) % 4,
                        sample_random(&seed) % (sample_random(&seed) % 4 == 0 ? 200000 : 300));
        }
        for (uint64_t hits = sample_random(&seed) % 3; hits > 0; hits--) {
            stream.blob->data[sample_random(&seed) % buf_size(&stream)] ^=
                (uint8_t)(1 << sample_random(&seed) % 8);
        }
        restart();
        rc = feed_stream();
        memcpy(whole, transcript, sizeof(whole));
        restart();
        ck_assert_int_eq(feed_in_pieces(stream.blob->data, buf_size(&stream), &seed), rc);
        ck_assert_str_eq(transcript, whole);
    }
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static TCase *make_case(void)
{
    TCase *tc = tcase_create("frame");

    tcase_set_timeout(tc, 50);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, header_survives);
    tcase_add_loop_test(tc, bad_header_is_refused, 0, COUNT(bad_headers));
    tcase_add_test(tc, types_have_names);
    tcase_add_loop_test(tc, cut_messages_come_together_from_pieces_of_any_size, 0, COUNT(sizes));
    tcase_add_test(tc, small_messages_are_one_frame);
    tcase_add_test(tc, every_two_splits_give_the_same);
    tcase_add_test(tc, interleaved_messages_arrive_when_they_are_whole);
    tcase_add_loop_test(tc, direct_reading_gives_the_same, 0, 10);
    tcase_add_test(tc, direct_is_offered_inside_large_bodies_only);
    tcase_add_test(tc, a_large_message_takes_one_allocation);
    tcase_add_loop_test(tc, fragments_that_do_not_add_up_are_refused, 0, COUNT(wrongs));
    tcase_add_test(tc, the_largest_total_is_taken_and_costs_nothing_yet);
    tcase_add_loop_test(tc, strangers_may_send_one_small_greeting, 0, COUNT(greetings));
    tcase_add_test(tc, who_is_to_greet_again_may);
    tcase_add_test(tc, nobody_is_trusted_at_first);
    tcase_add_test(tc, trust_given_on_the_greeting_holds_for_what_follows_it);
    tcase_add_test(tc, a_receiver_that_has_enough_gets_no_more);
    tcase_add_test(tc, unfinished_messages_are_freed);
    tcase_add_test(tc, each_failing_allocation_is_reported_and_leaks_nothing);
    tcase_add_test(tc, every_flipped_bit_is_survived);
    tcase_add_loop_test(tc, random_streams_are_judged_alike_however_they_are_split, 0, 8);
    return tc;
}

int main(void)
{
    Suite *s = suite_create("frame");

    suite_add_tcase(s, make_case());
    return run_suite(s);
}
