/* SPDX-License-Identifier: MIT */
/* test_value.c - the values of records: what goes in comes out; bytes that are cut, changed or
 * lie about sizes are refused or mean something that encodes to the same bytes again. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/value.h"
#include "tests/suite.h"
#include "trickle/error.h"

/* --- samples ---------------- */

static struct blob *sample_stage(void)
{
    struct value_stage v = {.fingerprint = hash_digest("code", 4), .total = 1000,
                            .closed_after = 77, .previous = 3, .replaced_by = 7,
                            .is_closed = true, .key = "count#2", .key_size = 7, .name = "count",
                            .name_size = 5};
    return value_stage_encode(&v);
}

#define WORK_COUNT 5
static struct blob *sample_work(void)
{
    static const char *const elements[WORK_COUNT] = {"one", "two", "", "three", ""};
    uint8_t digests[WORK_COUNT][16], spans[2][VALUE_WORK_SPAN];
    struct value_work v = {.count = WORK_COUNT, .digests = digests[0], .spans = 2,
                           .delivered = spans[0]};

    for (int i = 0; i < WORK_COUNT; i++) {
        struct digest d = hash_digest(elements[i], strlen(elements[i]));
        memcpy(digests[i], d.bytes, 16);
    }
    value_work_span_put(spans[0], 4, 0);
    value_work_span_put(spans[1], 1, UINT64_C(1) << 40);
    return value_work_encode(&v);
}

#define ELEMENTS "onetwothree"
static struct blob *join_elements(uint32_t count, const uint8_t *sizes, const uint8_t *elements,
                                  size_t size)
{
    uint8_t head[VALUE_ELEMENTS_HEAD];
    struct buf b;

    value_elements_put(head, count);
    buf_init(&b);
    buf_put(&b, head, sizeof(head));
    buf_put(&b, sizes, (size_t)count * 4);
    buf_put(&b, elements, size);
    return buf_take(&b);
}

static struct blob *sample_elements(void)
{
    static const uint8_t sizes[WORK_COUNT * 4] = {3, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5};

    return join_elements(WORK_COUNT, sizes, (const uint8_t *)ELEMENTS, strlen(ELEMENTS));
}

static struct blob *sample_attempts(void)
{
    static char output[] = "Segmentation fault\n", empty[] = "";
    struct value_attempt a[3] = {
        {.epoch = 1, .a = {.attempt = 1, .outcome = TRK_OUTCOME_DIED, .vm_pid = 4242,
                           .vm_index = 3, .vm_host = "node7", .started_ms = 1700000000000,
                           .duration_ns = 1500000, .signal = 11, .exit_status = -1,
                           .rss_max_bytes = UINT64_C(5) << 30, .output = output,
                           .output_size = sizeof(output) - 1}},
        {.epoch = 2, .a = {.attempt = 2, .outcome = TRK_OUTCOME_LOST, .signal = -1}},
        {.epoch = 2, .a = {.attempt = 3, .outcome = TRK_OUTCOME_TIMEOUT, .output = empty}},
    };

    memset(a[1].a.vm_host, 'h', sizeof(a[1].a.vm_host) - 1);
    return value_attempts_encode(a, 3);
}

static struct blob *sample_state(void)
{
    struct value_state v = {.epoch = 3, .attempt = 2, .element = hash_digest("element", 7),
                            .bytes = "half way", .size = 8};
    return value_state_encode(&v);
}

#define RESULT_COUNT 4
static struct blob *sample_result(void)
{
    static const uint8_t statuses[RESULT_COUNT] = {TRK_STATUS_OK, TRK_STATUS_ERROR,
                                                   TRK_STATUS_EXCEPTION, TRK_STATUS_OK};
    struct buf b;

    buf_init(&b);
    buf_put_u32(&b, 6);
    buf_put(&b, statuses, sizeof(statuses));
    buf_put_u32(&b, 1);
    buf_put_u32(&b, 0);
    buf_put_u32(&b, 5);
    buf_put_u32(&b, 2);
    buf_put(&b, "abbbbbcc", 8);
    return buf_take(&b);
}

/* --- decoders with one face: those that decode say what they would encode ---------------- */

static int again_stage(const uint8_t *bytes, size_t size, struct blob **again)
{
    struct value_stage v;
    int rc = value_stage_decode(&v, bytes, size);

    *again = rc == 0 ? value_stage_encode(&v) : NULL;
    return rc;
}

static int again_work(const uint8_t *bytes, size_t size, struct blob **again)
{
    struct value_work v;
    int rc = value_work_decode(&v, bytes, size);

    *again = rc == 0 ? value_work_encode(&v) : NULL;
    return rc;
}

static int again_attempts(const uint8_t *bytes, size_t size, struct blob **again)
{
    struct value_attempt *all = NULL;
    size_t count;
    int rc = value_attempts_decode(&all, &count, bytes, size);

    *again = rc == 0 ? value_attempts_encode(all, count) : NULL;
    mem_free(all);
    return rc;
}

static int again_state(const uint8_t *bytes, size_t size, struct blob **again)
{
    struct value_state v;
    int rc = value_state_decode(&v, bytes, size);

    *again = rc == 0 ? value_state_encode(&v) : NULL;
    return rc;
}

static int again_elements(const uint8_t *bytes, size_t size, struct blob **again)
{
    struct value_elements v;
    int rc = value_elements_decode(&v, bytes, size);

    *again = rc == 0 ? join_elements(v.count, v.sizes, v.elements, v.size) : NULL;
    return rc;
}

static int again_result(const uint8_t *bytes, size_t size, struct blob **again)
{
    struct value_result v;
    struct buf b;
    int rc = value_result_decode(&v, RESULT_COUNT, bytes, size);

    *again = NULL;
    if (rc == 0) {
        size_t sum = 0;
        buf_init(&b);
        buf_put_u32(&b, v.attempt);
        buf_put(&b, v.statuses, RESULT_COUNT);
        for (int i = 0; i < RESULT_COUNT; i++) {
            ck_assert_uint_le(v.statuses[i], TRK_STATUS_ERROR);
            sum += le_load_u32(v.sizes + 4 * i);
            buf_put_u32(&b, le_load_u32(v.sizes + 4 * i));
        }
        buf_put(&b, v.payloads, sum);
        *again = buf_take(&b);
    }
    return rc;
}

static const struct {
    const char *name;
    struct blob *(*sample)(void);
    int (*again)(const uint8_t *bytes, size_t size, struct blob **again);
    bool has_version;
    size_t open_end; /* so many bytes at the end may be fewer or more */
} cases[] = {
    {"stage", sample_stage, again_stage, true, 0},
    {"work", sample_work, again_work, true, 0},
    {"elements", sample_elements, again_elements, true, 0},
    {"attempts", sample_attempts, again_attempts, true, 0},
    {"state", sample_state, again_state, true, 8},
    {"result", sample_result, again_result, false, 0},
};
#define CASES ((int)(sizeof(cases) / sizeof(cases[0])))

/* Decodes a copy of exactly size bytes; a good one must encode to the same. */
static int decode(int which, const uint8_t *bytes, size_t size)
{
    uint8_t *exact = malloc(size + (size == 0));
    struct blob *again;
    int rc;

    ck_assert_ptr_nonnull(exact);
    memcpy(exact, bytes, size);
    rc = cases[which].again(exact, size, &again);
    if (rc == 0) {
        ck_assert_ptr_nonnull(again);
        ck_assert_msg(again->size == size && memcmp(again->data, exact, size) == 0,
                      "%s: %zu bytes decode to what is encoded as %zu others",
                      cases[which].name, size, again->size);
    }
    blob_unref(again);
    free(exact);
    return rc;
}

/* --- each field ---------------- */

START_TEST(a_stage_is_read_back)
{
    struct blob *blob = sample_stage();
    struct digest code = hash_digest("code", 4);
    struct value_stage v;

    ck_assert_int_eq(value_stage_decode(&v, blob->data, blob->size), 0);
    ck_assert_mem_eq(v.fingerprint.bytes, code.bytes, sizeof(code.bytes));
    ck_assert_uint_eq(v.total, 1000);
    ck_assert_uint_eq(v.closed_after, 77);
    ck_assert_uint_eq(v.previous, 3);
    ck_assert_uint_eq(v.replaced_by, 7);
    ck_assert(v.is_closed);
    ck_assert_uint_eq(v.key_size, 7);
    ck_assert_mem_eq(v.key, "count#2", 7);
    ck_assert_uint_eq(v.name_size, 5);
    ck_assert_mem_eq(v.name, "count", 5);
    blob_unref(blob);
}
END_TEST

START_TEST(an_open_stage_has_no_total)
{
    struct value_stage v = {.total = 5};
    struct blob *blob = value_stage_encode(&v);

    ck_assert_int_eq(value_stage_decode(&v, blob->data, blob->size), 0);
    ck_assert(!v.is_closed);
    ck_assert_uint_eq(v.total, 0);
    ck_assert_uint_eq(v.key_size + v.name_size, 0);
    blob_unref(blob);
}
END_TEST

START_TEST(a_work_is_read_back)
{
    struct blob *blob = sample_work();
    struct digest second = hash_digest("two", 3);
    struct value_work v;
    uint64_t delivered;
    uint32_t count;

    ck_assert_int_eq(value_work_decode(&v, blob->data, blob->size), 0);
    ck_assert_uint_eq(v.count, WORK_COUNT);
    ck_assert_mem_eq(v.digests + 16, second.bytes, 16);
    ck_assert_uint_eq(v.spans, 2);
    value_work_span_get(v.delivered, &count, &delivered);
    ck_assert_uint_eq(count, 4);
    ck_assert_uint_eq(delivered, 0);
    value_work_span_get(v.delivered + VALUE_WORK_SPAN, &count, &delivered);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(delivered, UINT64_C(1) << 40);
    blob_unref(blob);
}
END_TEST

START_TEST(elements_are_read_back)
{
    struct blob *blob = sample_elements();
    struct value_elements v;

    ck_assert_int_eq(value_elements_decode(&v, blob->data, blob->size), 0);
    ck_assert_uint_eq(v.count, WORK_COUNT);
    ck_assert_uint_eq(le_load_u32(v.sizes + 12), 5);
    ck_assert_uint_eq(v.size, strlen(ELEMENTS));
    ck_assert_mem_eq(v.elements, ELEMENTS, strlen(ELEMENTS));
    blob_unref(blob);
}
END_TEST

START_TEST(results_are_read_back)
{
    struct blob *blob = sample_result();
    struct value_result v;

    ck_assert_int_eq(value_result_decode(&v, RESULT_COUNT, blob->data, blob->size), 0);
    ck_assert_uint_eq(v.attempt, 6);
    ck_assert_uint_eq(v.statuses[1], TRK_STATUS_ERROR);
    ck_assert_uint_eq(le_load_u32(v.sizes + 8), 5);
    ck_assert_mem_eq(v.payloads, "abbbbbcc", 8);
    blob_unref(blob);
}
END_TEST

START_TEST(results_of_another_count_are_refused)
{
    static const uint64_t wrong[] = {0, 1, 3, 5, 1000, UINT32_MAX, UINT64_MAX / 5,
                                     UINT64_MAX / 5 + 1, UINT64_MAX - 3, UINT64_MAX};
    struct blob *blob = sample_result();
    struct value_result v;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_msg(value_result_decode(&v, wrong[i], blob->data, blob->size) == TRK_ECORRUPT,
                      "%llu results", (unsigned long long)wrong[i]);
    }
    blob_unref(blob);
}
END_TEST

START_TEST(a_state_is_read_back)
{
    struct blob *blob = sample_state();
    struct digest element = hash_digest("element", 7);
    struct value_state v;

    ck_assert_int_eq(value_state_decode(&v, blob->data, blob->size), 0);
    ck_assert_uint_eq(v.epoch, 3);
    ck_assert_uint_eq(v.attempt, 2);
    ck_assert_mem_eq(v.element.bytes, element.bytes, sizeof(element.bytes));
    ck_assert_uint_eq(v.size, 8);
    ck_assert_mem_eq(v.bytes, "half way", 8);
    blob_unref(blob);
}
END_TEST

START_TEST(attempts_are_read_back)
{
    struct blob *blob = sample_attempts();
    struct value_attempt *all;
    size_t count;

    ck_assert_int_eq(value_attempts_decode(&all, &count, blob->data, blob->size), 0);
    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(all[0].epoch, 1);
    ck_assert_uint_eq(all[0].a.outcome, TRK_OUTCOME_DIED);
    ck_assert_uint_eq(all[0].a.vm_pid, 4242);
    ck_assert_uint_eq(all[0].a.vm_index, 3);
    ck_assert_str_eq(all[0].a.vm_host, "node7");
    ck_assert_uint_eq(all[0].a.started_ms, 1700000000000);
    ck_assert_uint_eq(all[0].a.duration_ns, 1500000);
    ck_assert_int_eq(all[0].a.signal, 11);
    ck_assert_int_eq(all[0].a.exit_status, -1);
    ck_assert_uint_eq(all[0].a.rss_max_bytes, UINT64_C(5) << 30);
    ck_assert_uint_eq(all[0].a.output_size, 19);
    ck_assert_mem_eq(all[0].a.output, "Segmentation fault\n", 19);
    ck_assert_uint_eq(strlen(all[1].a.vm_host), sizeof(all[1].a.vm_host) - 1);
    ck_assert_ptr_null(all[1].a.output);
    ck_assert_int_eq(all[1].a.signal, -1);
    ck_assert_ptr_nonnull(all[2].a.output);
    ck_assert_uint_eq(all[2].a.output_size, 0);
    mem_free(all);
    blob_unref(blob);
}
END_TEST

START_TEST(of_too_many_attempts_the_last_are_kept)
{
    size_t count = VALUE_ATTEMPTS_MAX + 3;
    struct value_attempt *all = calloc(count, sizeof(*all)), *got;
    struct blob *blob;

    ck_assert_ptr_nonnull(all);
    for (size_t i = 0; i < count; i++) {
        all[i].a.attempt = (uint32_t)i + 1;
    }
    blob = value_attempts_encode(all, count);
    ck_assert_int_eq(value_attempts_decode(&got, &count, blob->data, blob->size), 0);
    ck_assert_uint_eq(count, VALUE_ATTEMPTS_MAX);
    ck_assert_uint_eq(got[0].a.attempt, 4);
    ck_assert_uint_eq(got[count - 1].a.attempt, VALUE_ATTEMPTS_MAX + 3);
    mem_free(got);
    blob_unref(blob);
    blob = value_attempts_encode(NULL, 0);
    ck_assert_int_eq(value_attempts_decode(&got, &count, blob->data, blob->size), 0);
    ck_assert_uint_eq(count, 0);
    mem_free(got);
    blob_unref(blob);
    free(all);
}
END_TEST

/* --- all of them, bytes that are not as they were ---------------- */

START_TEST(every_truncation_is_refused)
{
    struct blob *blob = cases[_i].sample();

    ck_assert_int_eq(decode(_i, blob->data, blob->size), 0);
    for (size_t size = 0; size < blob->size; size++) {
        int rc = decode(_i, blob->data, size);
        ck_assert_msg(size < blob->size - cases[_i].open_end ? rc == TRK_ECORRUPT : rc == 0,
                      "%s: %zu of %zu bytes gave %d", cases[_i].name, size, blob->size, rc);
    }
    blob_unref(blob);
}
END_TEST

START_TEST(a_byte_more_is_refused)
{
    struct blob *blob = cases[_i].sample();
    uint8_t *more = calloc(1, blob->size + 1);

    memcpy(more, blob->data, blob->size);
    ck_assert_int_eq(decode(_i, more, blob->size + 1), cases[_i].open_end > 0 ? 0 : TRK_ECORRUPT);
    free(more);
    blob_unref(blob);
}
END_TEST

START_TEST(every_changed_byte_is_refused_or_means_itself)
{
    static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x03};
    struct blob *blob = cases[_i].sample();

    for (size_t at = 0; at < blob->size; at++) {
        for (size_t i = 0; i < sizeof(flips); i++) {
            blob->data[at] ^= flips[i];
            decode(_i, blob->data, blob->size); /* checks what decodes */
            blob->data[at] ^= flips[i];
        }
    }
    blob_unref(blob);
}
END_TEST

START_TEST(huge_numbers_anywhere_are_survived)
{
    static const uint32_t numbers[] = {UINT32_MAX, 0x80000000u, 0x10000000u, 0x0ccccccdu};
    struct blob *blob = cases[_i].sample();
    uint8_t before[8];

    for (size_t at = 0; at + 8 <= blob->size; at++) {
        memcpy(before, blob->data + at, 8);
        for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
            le_store_u32(blob->data + at, numbers[i]);
            decode(_i, blob->data, blob->size);
            le_store_u32(blob->data + at + 4, numbers[i]); /* of two sizes side by side */
            decode(_i, blob->data, blob->size);
            memcpy(blob->data + at, before, 8);
        }
    }
    blob_unref(blob);
}
END_TEST

START_TEST(a_newer_version_is_told_from_damage)
{
    struct blob *blob = cases[_i].sample();

    if (cases[_i].has_version) {
        blob->data[0]++;
        ck_assert_int_eq(decode(_i, blob->data, blob->size), TRK_EVERSION);
        ck_assert_int_eq(decode(_i, blob->data, 4), TRK_EVERSION);
        blob->data[0] = 0;
        ck_assert_int_eq(decode(_i, blob->data, blob->size), TRK_ECORRUPT);
        blob->data[0] = 1;
        blob->data[2] = 1;
        ck_assert_int_eq(decode(_i, blob->data, blob->size), TRK_ECORRUPT);
    }
    blob_unref(blob);
}
END_TEST

START_TEST(without_memory_nothing_is_left)
{
    struct blob *whole = cases[_i].sample(), *blob = NULL;
    struct value_attempt *all = NULL;
    uint64_t live = mem_live();
    size_t count;
    int rc = TRK_ENOMEM;

    for (uint64_t n = 1; blob == NULL; n++) {
        ck_assert_uint_lt(n, 100);
        mem_fail_after(n);
        blob = cases[_i].sample();
        mem_fail_after(0);
        ck_assert_uint_eq(mem_live(), live + (blob != NULL));
    }
    ck_assert_uint_eq(blob->size, whole->size);
    ck_assert_mem_eq(blob->data, whole->data, whole->size);
    if (cases[_i].sample == sample_attempts) {
        mem_fail_after(1);
        rc = value_attempts_decode(&all, &count, blob->data, blob->size);
        mem_fail_after(0);
        ck_assert_int_eq(rc, TRK_ENOMEM);
        ck_assert_ptr_null(all);
    }
    blob_unref(blob);
    ck_assert_uint_eq(mem_live(), live);
    blob_unref(whole);
}
END_TEST

/* --- what a value may claim ---------------- */

START_TEST(a_work_must_fit_together)
{
    struct blob *blob = sample_work();
    uint8_t *spans = blob->data + 16 + WORK_COUNT * 16;
    struct value_work v;

    value_work_span_put(spans, 3, 0); /* one element has no span */
    ck_assert_int_eq(value_work_decode(&v, blob->data, blob->size), TRK_ECORRUPT);
    value_work_span_put(spans, 5, 0); /* an element too many, and an empty span */
    value_work_span_put(spans + VALUE_WORK_SPAN, 0, 0);
    ck_assert_int_eq(value_work_decode(&v, blob->data, blob->size), TRK_ECORRUPT);
    value_work_span_put(spans, 4, 0);
    value_work_span_put(spans + VALUE_WORK_SPAN, 1, 0);
    ck_assert_int_eq(value_work_decode(&v, blob->data, blob->size), 0);
    blob->data[12] = 1; /* what is to be zero */
    ck_assert_int_eq(value_work_decode(&v, blob->data, blob->size), TRK_ECORRUPT);
    blob_unref(blob);
}
END_TEST

START_TEST(elements_must_fit_together)
{
    struct blob *blob = sample_elements();
    uint8_t *sizes = blob->data + VALUE_ELEMENTS_HEAD;
    struct value_elements v;

    le_store_u32(sizes, 4); /* sizes of more than there is */
    ck_assert_int_eq(value_elements_decode(&v, blob->data, blob->size), TRK_ECORRUPT);
    le_store_u32(sizes, 2);
    ck_assert_int_eq(value_elements_decode(&v, blob->data, blob->size), TRK_ECORRUPT);
    ck_assert_int_eq(value_elements_decode(&v, blob->data, blob->size - 1), 0);
    le_store_u32(blob->data + 4, 0); /* none at all */
    ck_assert_int_eq(value_elements_decode(&v, blob->data, VALUE_ELEMENTS_HEAD), TRK_ECORRUPT);
    blob_unref(blob);
}
END_TEST

START_TEST(an_attempts_text_is_one)
{
    struct blob *blob = sample_attempts();
    uint8_t *first = blob->data + 8;
    struct value_attempt *all;
    size_t count;

    first[60 + 2] = '\0'; /* in the host */
    ck_assert_int_eq(value_attempts_decode(&all, &count, blob->data, blob->size), TRK_ECORRUPT);
    first[60 + 2] = 'd';
    le_store_u32(first + 8, TRK_OUTCOME_LOST + 1);
    ck_assert_int_eq(value_attempts_decode(&all, &count, blob->data, blob->size), TRK_ECORRUPT);
    le_store_u32(first + 8, TRK_OUTCOME_DONE);
    first[57] = 0; /* no output, but some */
    ck_assert_int_eq(value_attempts_decode(&all, &count, blob->data, blob->size), TRK_ECORRUPT);
    first[57] = 1;
    le_store_u32(blob->data + 4, VALUE_ATTEMPTS_MAX + 1);
    ck_assert_int_eq(value_attempts_decode(&all, &count, blob->data, blob->size), TRK_ECORRUPT);
    le_store_u32(blob->data + 4, 3);
    ck_assert_int_eq(value_attempts_decode(&all, &count, blob->data, blob->size), 0);
    mem_free(all);
    blob_unref(blob);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("value");
    TCase *fields = tcase_create("fields"), *bytes = tcase_create("bytes");

    tcase_add_test(fields, a_stage_is_read_back);
    tcase_add_test(fields, an_open_stage_has_no_total);
    tcase_add_test(fields, a_work_is_read_back);
    tcase_add_test(fields, elements_are_read_back);
    tcase_add_test(fields, results_are_read_back);
    tcase_add_test(fields, results_of_another_count_are_refused);
    tcase_add_test(fields, a_state_is_read_back);
    tcase_add_test(fields, attempts_are_read_back);
    tcase_add_test(fields, of_too_many_attempts_the_last_are_kept);
    tcase_add_test(fields, a_work_must_fit_together);
    tcase_add_test(fields, elements_must_fit_together);
    tcase_add_test(fields, an_attempts_text_is_one);
    suite_add_tcase(suite, fields);
    tcase_add_loop_test(bytes, every_truncation_is_refused, 0, CASES);
    tcase_add_loop_test(bytes, a_byte_more_is_refused, 0, CASES);
    tcase_add_loop_test(bytes, every_changed_byte_is_refused_or_means_itself, 0, CASES);
    tcase_add_loop_test(bytes, huge_numbers_anywhere_are_survived, 0, CASES);
    tcase_add_loop_test(bytes, a_newer_version_is_told_from_damage, 0, CASES);
    tcase_add_loop_test(bytes, without_memory_nothing_is_left, 0, CASES);
    suite_add_tcase(suite, bytes);
    return run_suite(suite);
}
