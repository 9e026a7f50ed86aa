/* SPDX-License-Identifier: MIT */
/* test_record.c - the format of records: what goes in comes out, and no changed bit goes unseen;
 * finding records in other bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "ckpt/scan.h"
#include "tests/suite.h"
#include "rig.h"

static const uint8_t uuid[RECORD_UUID] = "0123456789abcde";

/* A sealed record in out; returns its size. */
static size_t make(uint8_t *out, enum ckpt_kind kind, const char *key, const char *body)
{
    struct record r = {.kind = kind, .epoch = 3, .version = 77, .base = 70, .uuid = uuid,
                       .key = (const uint8_t *)key, .key_size = strlen(key),
                       .body_size = strlen(body)};

    memcpy(out + RECORD_HEAD + r.key_size, body, r.body_size);
    record_seal(out, &r);
    return record_size(r.key_size, r.body_size);
}

START_TEST(what_was_sealed_is_read_back)
{
    uint8_t bytes[512];
    size_t size = make(bytes, CKPT_ONCE, "seed", "forty-two");
    struct record r;

    ck_assert_int_eq(record_get(&r, bytes, size), 0);
    ck_assert_int_eq(r.kind, CKPT_ONCE);
    ck_assert_uint_eq(r.epoch, 3);
    ck_assert_uint_eq(r.version, 77);
    ck_assert_uint_eq(r.base, 70);
    ck_assert_mem_eq(r.uuid, uuid, sizeof(uuid));
    ck_assert_uint_eq(r.key_size, 4);
    ck_assert_mem_eq(r.key, "seed", 4);
    ck_assert_uint_eq(r.body_size, 9);
    ck_assert_mem_eq(r.body, "forty-two", 9);
}
END_TEST

START_TEST(every_flipped_bit_is_noticed)
{
    uint8_t bytes[512];
    size_t size = make(bytes, CKPT_RESULT, "key of it", "the body");
    struct record r;

    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_msg(record_get(&r, bytes, size) < 0, "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_int_eq(record_get(&r, bytes, size), 0);
}
END_TEST

START_TEST(a_record_of_another_size_is_refused)
{
    uint8_t bytes[512] = {0};
    size_t size = make(bytes, CKPT_RESULT, "k", "body");
    struct record r;

    for (size_t n = 0; n < sizeof(bytes); n++) {
        ck_assert_int_eq(record_get(&r, bytes, n), n == size ? 0 : TRK_ECORRUPT);
    }
}
END_TEST

START_TEST(a_newer_format_is_told_from_damage)
{
    uint8_t bytes[512];
    size_t size = make(bytes, CKPT_RESULT, "k", "body");
    struct digest head;
    struct record r;

    bytes[24] = RECORD_FORMAT + 1;
    ck_assert_int_eq(record_get(&r, bytes, size), TRK_ECORRUPT);
    head = hash_digest(bytes + 24, RECORD_HEAD - 24 + 1);
    memcpy(bytes + 8, head.bytes, 16);
    ck_assert_int_eq(record_get(&r, bytes, size), TRK_EVERSION);
}
END_TEST

/* A Trickle that does not know a kind must not take the store for damaged. */
START_TEST(a_record_has_the_format_that_first_knew_its_kind)
{
    struct digest head;
    struct record r;

    for (enum ckpt_kind kind = CKPT_JOB; kind < CKPT_KIND_END; kind++) {
        uint8_t bytes[512];
        size_t size = make(bytes, kind, "k", "body");
        ck_assert_uint_eq(bytes[24], kind == CKPT_ELEMENTS ? 2 : 1);
        ck_assert_int_eq(record_get(&r, bytes, size), 0);
        bytes[24] ^= 3; /* 1 and 2 change places */
        head = hash_digest(bytes + 24, RECORD_HEAD - 24 + 1);
        memcpy(bytes + 8, head.bytes, 16);
        ck_assert_int_eq(record_get(&r, bytes, size), TRK_ECORRUPT);
    }
}
END_TEST

START_TEST(keys_sort_as_their_numbers)
{
    static const uint64_t numbers[] = {0, 1, 255, 256, 65535, 1u << 31, UINT64_C(1) << 40,
                                       UINT64_MAX};
    uint8_t before[8], key[8];

    key_put_u64(before, 0);
    for (size_t i = 1; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        key_put_u64(key, numbers[i]);
        ck_assert_int_lt(memcmp(before, key, 8), 0);
        ck_assert_uint_eq(key_get_u64(key), numbers[i]);
        memcpy(before, key, 8);
    }
}
END_TEST

START_TEST(a_sum_does_not_depend_on_order_and_notices_what_is_missing)
{
    struct digest d[3];
    uint64_t forth[2] = {0, 0}, back[2] = {0, 0};

    for (int i = 0; i < 3; i++) {
        d[i] = hash_digest(&i, sizeof(i));
        record_sum_add(forth, &d[i]);
    }
    for (int i = 2; i >= 0; i--) {
        record_sum_add(back, &d[i]);
    }
    ck_assert_mem_eq(forth, back, sizeof(forth));
    record_sum_sub(forth, &d[1]);
    ck_assert_mem_ne(forth, back, sizeof(forth));
    record_sum_add(forth, &d[1]);
    ck_assert_mem_eq(forth, back, sizeof(forth));
}
END_TEST

START_TEST(an_index_entry_notices_every_flipped_bit)
{
    struct index_entry e = {.stage = 2, .first = 1000, .count = 50, .seq = 9}, out;
    uint8_t key[KEY_INDEX + INDEX_VALUE], *value = key + KEY_INDEX;

    index_entry_put(key, value, &e);
    ck_assert_int_eq(index_entry_get(&out, key, KEY_INDEX, value, INDEX_VALUE), 0);
    ck_assert_uint_eq(out.stage, 2);
    ck_assert_uint_eq(out.first, 1000);
    ck_assert_uint_eq(out.count, 50);
    ck_assert_uint_eq(out.seq, 9);
    ck_assert_uint_eq(out.check, e.check);
    for (size_t bit = 0; bit < sizeof(key) * 8; bit++) {
        key[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_int_lt(index_entry_get(&out, key, KEY_INDEX, value, INDEX_VALUE), 0);
        key[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}
END_TEST

/* --- scanning ---------------- */

static int count_found(void *ctx, const struct record *r)
{
    unsigned *found = ctx;

    ck_assert_uint_eq(r->version, 77);
    ++*found;
    return 0;
}

START_TEST(records_are_found_among_other_bytes)
{
    static uint8_t bytes[1 << 16];
    struct scan_report report = {0};
    unsigned found = 0;
    size_t at = 13, used;

    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = RECORD_MAGIC[i % 7]; /* starts of magics everywhere */
    }
    for (int i = 0; i < 100; i++) {
        at += make(bytes + at, CKPT_RESULT, "k", "body") + (size_t)i % 5;
    }
    ck_assert_int_eq(scan_bytes(bytes, sizeof(bytes), true, &used, count_found, &found, &report),
                     0);
    ck_assert_uint_eq(found, 100);
    ck_assert_uint_eq(used, sizeof(bytes));
}
END_TEST

START_TEST(a_record_inside_of_another_is_none)
{
    uint8_t inner[256], bytes[1024];
    struct record r = {.kind = CKPT_RESULT, .version = 77, .uuid = uuid,
                       .key = (const uint8_t *)"outer", .key_size = 5};
    struct scan_report report = {0};
    unsigned found = 0;
    size_t used;

    r.body_size = make(inner, CKPT_RESULT, "k", "body");
    memcpy(bytes + RECORD_HEAD + 5, inner, r.body_size);
    record_seal(bytes, &r);
    ck_assert_int_eq(scan_bytes(bytes, record_size(5, r.body_size), true, &used, count_found,
                                &found, &report), 0);
    ck_assert_uint_eq(found, 1);
}
END_TEST

START_TEST(records_across_windows_are_found_once)
{
    const size_t size = (size_t)20 << 20;
    uint8_t *bytes = calloc(1, size), *body = malloc(RECORD_PART_MAX);
    struct scan_report report;
    unsigned found = 0, made = 0;
    size_t at = 1;

    ck_assert(bytes != NULL && body != NULL);
    while (at + RECORD_SIZE_MAX < size) {
        struct record r = {.kind = CKPT_PART, .version = 77, .uuid = uuid,
                           .key = (const uint8_t *)"part", .key_size = 4,
                           .body_size = made % 3 == 0 ? RECORD_PART_MAX : 100};
        memset(bytes + at + RECORD_HEAD + 4, (int)made, r.body_size);
        record_seal(bytes + at, &r);
        at += record_size(4, r.body_size) + 7;
        made++;
    }
    rig_write(rig_path("file"), bytes, size);
    ck_assert_int_eq(scan_file(rig_path("file"), count_found, &found, &report), 0);
    ck_assert_uint_eq(found, made);
    ck_assert_uint_eq(report.bytes, size);
    free(bytes);
    free(body);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("record");
    TCase *tc = tcase_create("format"), *scan = tcase_create("scan");

    tcase_add_test(tc, what_was_sealed_is_read_back);
    tcase_add_test(tc, every_flipped_bit_is_noticed);
    tcase_add_test(tc, a_record_of_another_size_is_refused);
    tcase_add_test(tc, a_newer_format_is_told_from_damage);
    tcase_add_test(tc, a_record_has_the_format_that_first_knew_its_kind);
    tcase_add_test(tc, keys_sort_as_their_numbers);
    tcase_add_test(tc, a_sum_does_not_depend_on_order_and_notices_what_is_missing);
    tcase_add_test(tc, an_index_entry_notices_every_flipped_bit);
    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(scan, rig_setup, rig_teardown);
    tcase_add_test(scan, records_are_found_among_other_bytes);
    tcase_add_test(scan, a_record_inside_of_another_is_none);
    tcase_add_test(scan, records_across_windows_are_found_once);
    suite_add_tcase(suite, scan);
    return run_suite(suite);
}
