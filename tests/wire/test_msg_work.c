/* SPDX-License-Identifier: MIT */
/* test_msg_work.c - what work and answers carry, and sums that must not be fooled. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tests/suite.h"
#include "samples.h"

START_TEST(request_carries_all_of_it)
{
    struct wire_request in = {.op = TRK_OP_SETATTR, .object = UINT64_MAX, .name = "n\xff",
                              .name_size = 2, .payload = "pay\0load", .size = 8};
    struct wire_request out;
    struct blob *body = wire_request_encode(&in);

    ck_assert_int_eq(wire_request_decode(&out, body), 0);
    ck_assert_uint_eq(out.op, TRK_OP_SETATTR);
    ck_assert_uint_eq(out.object, UINT64_MAX);
    ck_assert_uint_eq(out.name_size, 2);
    ck_assert_mem_eq(out.name, "n\xff", 2);
    ck_assert_uint_eq(out.size, 8);
    ck_assert_mem_eq(out.payload, "pay\0load", 8);
    blob_unref(body);
}
END_TEST

START_TEST(request_may_be_bare)
{
    struct wire_request in = {.op = TRK_OP_FETCH, .object = 1}, out;
    struct blob *body = wire_request_encode(&in);

    ck_assert_int_eq(wire_request_decode(&out, body), 0);
    ck_assert_uint_eq(out.name_size, 0);
    ck_assert_uint_eq(out.size, 0);
    blob_unref(body);
}
END_TEST

START_TEST(request_names_are_checked)
{
    static char name[4097];
    struct wire_request in = {.op = TRK_OP_CALL, .name = name, .name_size = 4096}, out;
    struct blob *body;

    memset(name, 'n', sizeof(name));
    body = wire_request_encode(&in);
    ck_assert_int_eq(wire_request_decode(&out, body), 0);
    body->data[16 + 4095] = '\0'; /* ends early for some, not for others */
    ck_assert_int_eq(wire_request_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
    in.name_size = 4000;
    in.payload = name;
    in.size = 4000;
    body = wire_request_encode(&in);
    le_store_u32(body->data + 4, 4097); /* would fit into the body, but is too long */
    ck_assert_int_eq(wire_request_decode(&out, body), TRK_ECORRUPT);
    le_store_u32(body->data + 4, UINT32_MAX);
    ck_assert_int_eq(wire_request_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
}
END_TEST

START_TEST(unknown_operations_and_statuses_are_refused)
{
    struct blob *request = sample_body(SAMPLE_REQUEST), *reply = sample_body(SAMPLE_REPLY);
    struct wire_request q;
    struct wire_reply r;

    request->data[0] = 0;
    ck_assert_int_eq(wire_request_decode(&q, request), TRK_ECORRUPT);
    request->data[0] = TRK_OP_FETCH + 1;
    ck_assert_int_eq(wire_request_decode(&q, request), TRK_ECORRUPT);
    reply->data[0] = TRK_STATUS_ERROR + 1;
    ck_assert_int_eq(wire_reply_decode(&r, reply), TRK_ECORRUPT);
    blob_unref(request);
    blob_unref(reply);
}
END_TEST

START_TEST(reply_head_is_what_encode_writes)
{
    struct wire_reply in = {.status = TRK_STATUS_ERROR, .payload = "why", .size = 3}, out;
    struct blob *body = wire_reply_encode(&in);
    uint8_t head[WIRE_REPLY_HEAD];

    wire_reply_head(head, TRK_STATUS_ERROR);
    ck_assert_mem_eq(body->data, head, sizeof(head));
    ck_assert_int_eq(wire_reply_decode(&out, body), 0);
    ck_assert_uint_eq(out.status, TRK_STATUS_ERROR);
    ck_assert_mem_eq(out.payload, "why", 3);
    blob_unref(body);
}
END_TEST

START_TEST(stage_carries_all_of_it)
{
    struct wire_stage in = {.stage = 7, .timeout_ms = 9, .flags = WIRE_STAGE_DURABLE,
                            .fingerprint = "sixteen bytes ..", .module = "exec",
                            .function = "code", .size = 4}, out;
    struct blob *body = wire_stage_encode(&in);

    ck_assert_int_eq(wire_stage_decode(&out, body), 0);
    ck_assert_str_eq(out.module, "exec");
    ck_assert_uint_eq(out.stage, 7);
    ck_assert_uint_eq(out.timeout_ms, 9);
    ck_assert_uint_eq(out.size, 4);
    ck_assert_mem_eq(out.function, "code", 4);
    ck_assert_uint_eq(out.flags, WIRE_STAGE_DURABLE);
    ck_assert_mem_eq(out.fingerprint, in.fingerprint, 16);
    body->data[8] = 2; /* a flag that we do not know would be misread */
    ck_assert_int_eq(wire_stage_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
}
END_TEST

START_TEST(module_of_a_stage_is_a_name)
{
    struct wire_stage in = {.stage = 7, .module = "exec", .function = "code", .size = 4}, out;
    struct blob *body = wire_stage_encode(&in);

    body->data[12] = 9; /* longer than what is there */
    ck_assert_int_eq(wire_stage_decode(&out, body), TRK_ECORRUPT);
    body->data[12] = 4;
    body->data[33] = '\0'; /* in the middle of it */
    ck_assert_int_eq(wire_stage_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
    in.function = "a function that is longer than any name of a module may be";
    in.size = strlen(in.function);
    body = wire_stage_encode(&in);
    body->data[12] = TRK_MODULE_MAX; /* its terminator would have no room */
    ck_assert_int_eq(wire_stage_decode(&out, body), TRK_ECORRUPT);
    body->data[12] = TRK_MODULE_MAX - 1;
    ck_assert_int_eq(wire_stage_decode(&out, body), 0);
    ck_assert_uint_eq(strlen(out.module), TRK_MODULE_MAX - 1);
    blob_unref(body);
}
END_TEST

START_TEST(held_carries_all_of_it)
{
    struct wire_held in = {.token = 1, .stage = 2, .attempt = 3, .index = 4, .epoch = 5,
                           .kind = WIRE_HELD_RESULT, .status = TRK_STATUS_ERROR,
                           .element = "an element's sum", .fingerprint = "a function's sum",
                           .payload = "value", .size = 5}, out;
    struct blob *body = wire_held_encode(&in);

    ck_assert_uint_eq(body->size, WIRE_HELD_HEAD + 5);
    ck_assert_int_eq(wire_held_decode(&out, body), 0);
    ck_assert_uint_eq(out.token, 1);
    ck_assert_uint_eq(out.stage, 2);
    ck_assert_uint_eq(out.attempt, 3);
    ck_assert_uint_eq(out.index, 4);
    ck_assert_uint_eq(out.epoch, 5);
    ck_assert_uint_eq(out.kind, WIRE_HELD_RESULT);
    ck_assert_uint_eq(out.status, TRK_STATUS_ERROR);
    ck_assert_mem_eq(out.element, in.element, 16);
    ck_assert_mem_eq(out.fingerprint, in.fingerprint, 16);
    ck_assert_uint_eq(out.size, 5);
    ck_assert_mem_eq(out.payload, "value", 5);
    blob_unref(body);
}
END_TEST

/* Offset, value: kind at 32, status at 33, zeros behind, the index at 16. */
static const struct {
    size_t at;
    uint8_t value;
} bad_held[] = {{32, 0}, {32, 3}, {33, 3}, {34, 1}, {36, 1}};

START_TEST(held_is_checked)
{
    struct wire_held in = {.kind = WIRE_HELD_RESULT}, out;
    struct blob *body = wire_held_encode(&in);

    body->data[bad_held[_i].at] = bad_held[_i].value;
    ck_assert_int_eq(wire_held_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
}
END_TEST

START_TEST(held_state_has_no_status)
{
    struct wire_held in = {.kind = WIRE_HELD_STATE}, out;
    struct blob *body = wire_held_encode(&in);

    ck_assert_int_eq(wire_held_decode(&out, body), 0);
    body->data[33] = TRK_STATUS_EXCEPTION;
    ck_assert_int_eq(wire_held_decode(&out, body), TRK_ECORRUPT);
    body->data[33] = 0;
    memset(body->data + 16, 0xff, 8);
    ck_assert_int_eq(wire_held_decode(&out, body), TRK_ECORRUPT); /* no number of an element */
    blob_unref(body);
}
END_TEST

START_TEST(state_carries_all_of_it)
{
    struct wire_state in = {.stage = 2, .attempt = 3, .index = 4, .seq = 5,
                            .element = "an element's sum", .bytes = "half", .size = 4}, out;
    struct blob *body = wire_state_encode(&in);

    ck_assert_uint_eq(body->size, WIRE_STATE_HEAD + 4);
    ck_assert_int_eq(wire_state_decode(&out, body), 0);
    ck_assert_uint_eq(out.stage, 2);
    ck_assert_uint_eq(out.attempt, 3);
    ck_assert_uint_eq(out.index, 4);
    ck_assert_uint_eq(out.seq, 5);
    ck_assert_mem_eq(out.element, in.element, 16);
    ck_assert_uint_eq(out.size, 4);
    ck_assert_mem_eq(out.bytes, "half", 4);
    blob_unref(body);
}
END_TEST

START_TEST(want_is_a_digest_and_no_more)
{
    static const uint8_t in[16] = "of what is asked";
    uint8_t out[16];
    struct blob *body = wire_want_encode(in), *other = blob_dup(in, 15);

    ck_assert_int_eq(wire_want_decode(out, body), 0);
    ck_assert_mem_eq(out, in, 16);
    ck_assert_int_eq(wire_want_decode(out, other), TRK_ECORRUPT);
    blob_unref(body);
    blob_unref(other);
}
END_TEST

START_TEST(blob_carries_all_of_it)
{
    struct wire_blob in = {.digest = "of all its bytes", .is_known = true, .bytes = "code",
                           .size = 4}, out;
    struct blob *body = wire_blob_encode(&in);

    ck_assert_uint_eq(body->size, WIRE_BLOB_HEAD + 4);
    ck_assert_int_eq(wire_blob_decode(&out, body), 0);
    ck_assert(out.is_known);
    ck_assert_mem_eq(out.digest, in.digest, 16);
    ck_assert_uint_eq(out.size, 4);
    ck_assert_mem_eq(out.bytes, "code", 4);
    body->data[16] = 2;
    ck_assert_int_eq(wire_blob_decode(&out, body), TRK_ECORRUPT);
    body->data[16] = 0; /* nobody knows it, and here it is */
    ck_assert_int_eq(wire_blob_decode(&out, body), TRK_ECORRUPT);
    body->size = WIRE_BLOB_HEAD;
    ck_assert_int_eq(wire_blob_decode(&out, body), 0);
    ck_assert(!out.is_known);
    blob_unref(body);
}
END_TEST

START_TEST(run_carries_its_elements)
{
    static const struct wire_part parts[] = {{"one", 3}, {NULL, 0}, {"three", 5}};
    struct blob *body = wire_run_encode(1, 2, 1000, parts, 3);
    struct wire_run m;

    ck_assert_int_eq(wire_run_decode(&m, body), 0);
    ck_assert_uint_eq(m.stage, 1);
    ck_assert_uint_eq(m.attempt, 2);
    ck_assert_uint_eq(m.first, 1000);
    ck_assert_uint_eq(m.count, 3);
    ck_assert_uint_eq(le_load_u32(m.sizes), 3);
    ck_assert_uint_eq(le_load_u32(m.sizes + 4), 0);
    ck_assert_uint_eq(le_load_u32(m.sizes + 8), 5);
    ck_assert_mem_eq(m.payloads, "onethree", 8);
    ck_assert_uint_eq(body->size, WIRE_RUN_HEAD + 12 + 8);
    blob_unref(body);
}
END_TEST

/* Offsets of fields: RUN has its count at 16 and its index at 8, sizes from 24. */
START_TEST(run_sums_are_not_fooled)
{
    static const struct wire_part parts[] = {{"abcd", 4}, {"efgh", 4}};
    struct blob *body = wire_run_encode(1, 1, 0, parts, 2);
    struct wire_run m;

    le_store_u32(body->data + 24, 5); /* one too many */
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    le_store_u32(body->data + 28, 3); /* and one too few: together right */
    ck_assert_int_eq(wire_run_decode(&m, body), 0);
    le_store_u32(body->data + 24, UINT32_MAX); /* 8 modulo 2^32 */
    le_store_u32(body->data + 28, 9);
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    le_store_u32(body->data + 24, 4);
    le_store_u32(body->data + 28, 4);
    le_store_u32(body->data + 16, 0); /* no elements */
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    le_store_u32(body->data + 16, UINT32_MAX);
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    le_store_u32(body->data + 16, 0x40000002); /* times 4 is 8 modulo 2^32 */
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    le_store_u32(body->data + 16, 2);
    le_store_u64(body->data + 8, UINT64_MAX - 1); /* indices run over */
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    le_store_u64(body->data + 8, UINT64_MAX - 2);
    ck_assert_int_eq(wire_run_decode(&m, body), 0);
    blob_unref(body);
}
END_TEST

START_TEST(run_that_claims_more_sizes_than_it_has_is_refused)
{
    struct blob *body = blob_new(WIRE_RUN_HEAD);
    struct wire_run m;

    memset(body->data, 0, WIRE_RUN_HEAD);
    body->size = WIRE_RUN_HEAD;
    le_store_u32(body->data + 16, 1);
    ck_assert_int_eq(wire_run_decode(&m, body), TRK_ECORRUPT);
    blob_unref(body);
}
END_TEST

START_TEST(result_carries_all_of_it)
{
    struct blob *body = sample_body(SAMPLE_RESULT);
    struct wire_result m;

    ck_assert_int_eq(wire_result_decode(&m, body), 0);
    ck_assert_uint_eq(m.stage, 9);
    ck_assert_uint_eq(m.attempt, 1);
    ck_assert_uint_eq(m.count, 3);
    ck_assert_uint_eq(m.first, 1000);
    ck_assert_uint_eq(m.seq, 17);
    ck_assert_uint_eq(m.busy_ns, 123456);
    ck_assert_uint_eq(m.statuses[1], TRK_STATUS_EXCEPTION);
    ck_assert_uint_eq(le_load_u32(m.sizes + 8), 4);
    ck_assert_mem_eq(m.payloads, "abcde", 5);
    ck_assert_uint_eq(body->size, WIRE_RESULT_HEAD + 3 * 5 + 5);
    blob_unref(body);
}
END_TEST

START_TEST(head_of_one_result_is_that_of_the_encoder)
{
    struct wire_result m = {.stage = 9, .attempt = 2, .count = 1, .first = 1000, .seq = 17,
                            .busy_ns = 123456};
    const uint8_t status = TRK_STATUS_EXCEPTION;
    const uint32_t size = 5;
    uint8_t head[WIRE_RESULT_ONE_HEAD];
    struct blob *body = wire_result_encode(&m, &status, &size, "abcde", size);

    wire_result_one_head(head, &m, status, size);
    ck_assert_uint_eq(body->size, sizeof(head) + size);
    ck_assert_mem_eq(body->data, head, sizeof(head));
    blob_unref(body);
}
END_TEST

START_TEST(result_statuses_are_checked)
{
    struct blob *body = sample_body(SAMPLE_RESULT);
    struct wire_result m;

    body->data[WIRE_RESULT_HEAD + 2] = TRK_STATUS_ERROR + 1;
    ck_assert_int_eq(wire_result_decode(&m, body), TRK_ECORRUPT);
    blob_unref(body);
}
END_TEST

START_TEST(note_carries_all_of_it)
{
    struct wire_note in = {.stage = UINT32_MAX, .count = UINT32_MAX, .flag = 1,
                           .first = UINT64_MAX - UINT32_MAX, .seq = UINT64_MAX};
    struct wire_note out;
    struct blob *body = wire_note_encode(&in);

    ck_assert_int_eq(wire_note_decode(&out, body), 0);
    ck_assert_uint_eq(out.stage, in.stage);
    ck_assert_uint_eq(out.count, in.count);
    ck_assert_uint_eq(out.flag, in.flag);
    ck_assert_uint_eq(out.first, in.first);
    ck_assert_uint_eq(out.seq, in.seq);
    le_store_u32(body->data + 8, 2); /* a flag nobody knows */
    ck_assert_int_eq(wire_note_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
    in.first = UINT64_MAX;
    body = wire_note_encode(&in);
    ck_assert_int_eq(wire_note_decode(&out, body), TRK_ECORRUPT);
    blob_unref(body);
}
END_TEST

START_TEST(large_payload_takes_one_allocation)
{
    size_t size = (size_t)16 << 20;
    char *bytes = mem_zalloc(1, size);
    struct wire_part part = {bytes, size};
    struct blob *body;
    struct wire_run m;

    mem_fail_after(2);
    body = wire_run_encode(1, 1, 0, &part, 1);
    mem_fail_after(0);
    ck_assert_ptr_nonnull(body);
    ck_assert_int_eq(wire_run_decode(&m, body), 0);
    ck_assert_uint_eq(le_load_u32(m.sizes), size);
    blob_unref(body);
    mem_free(bytes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("msg_work");
    TCase *tc = tcase_create("msg_work");

    tcase_add_test(tc, request_carries_all_of_it);
    tcase_add_test(tc, request_may_be_bare);
    tcase_add_test(tc, request_names_are_checked);
    tcase_add_test(tc, unknown_operations_and_statuses_are_refused);
    tcase_add_test(tc, reply_head_is_what_encode_writes);
    tcase_add_test(tc, stage_carries_all_of_it);
    tcase_add_test(tc, module_of_a_stage_is_a_name);
    tcase_add_test(tc, held_carries_all_of_it);
    tcase_add_loop_test(tc, held_is_checked, 0, sizeof(bad_held) / sizeof(bad_held[0]));
    tcase_add_test(tc, held_state_has_no_status);
    tcase_add_test(tc, state_carries_all_of_it);
    tcase_add_test(tc, want_is_a_digest_and_no_more);
    tcase_add_test(tc, blob_carries_all_of_it);
    tcase_add_test(tc, run_carries_its_elements);
    tcase_add_test(tc, run_sums_are_not_fooled);
    tcase_add_test(tc, run_that_claims_more_sizes_than_it_has_is_refused);
    tcase_add_test(tc, result_carries_all_of_it);
    tcase_add_test(tc, head_of_one_result_is_that_of_the_encoder);
    tcase_add_test(tc, result_statuses_are_checked);
    tcase_add_test(tc, note_carries_all_of_it);
    tcase_add_test(tc, large_payload_takes_one_allocation);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
