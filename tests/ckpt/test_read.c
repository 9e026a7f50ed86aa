/* SPDX-License-Identifier: MIT */
/* test_read.c - readers: walking what has numbers, and what reading costs in memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/suite.h"
#include "rig.h"

START_TEST(the_records_of_a_stage_are_walked_by_number)
{
    static const struct {
        uint32_t stage;
        uint64_t number;
    } put[] = {{2, 3000}, {1, 0}, {2, 1000}, {3, 0}, {2, UINT64_MAX}, {2, 2000}, {3, 500}};
    static const uint64_t expected[] = {1000, 2000, 3000, UINT64_MAX};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    uint8_t bytes[KEY_STAGE_NUMBER];
    uint64_t ticket = 0, number = 0;
    struct blob *blob;

    for (size_t i = 0; i < sizeof(put) / sizeof(put[0]); i++) {
        char text[40];
        struct ckpt_value value = {.slices = {{text, 0}}, .count = 1};
        value.slices[0].size = (size_t)snprintf(
            text, sizeof(text), "%u %llu", put[i].stage, (unsigned long long)put[i].number);
        ckpt_key(bytes, put[i].stage, put[i].number);
        ck_assert_int_eq(ckpt_store_put_record(s, CKPT_WORK, bytes, sizeof(bytes), &value,
                                               &ticket), 0);
    }
    rig_wait(s, ticket);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        char text[40];
        ck_assert_int_eq(ckpt_read_numbered(r, CKPT_WORK, 2, &number, &blob), 0);
        ck_assert_uint_eq(number, expected[i]);
        snprintf(text, sizeof(text), "2 %llu", (unsigned long long)number);
        ck_assert_uint_eq(blob->size, strlen(text));
        ck_assert_mem_eq(blob->data, text, blob->size);
        blob_unref(blob);
        number += number < UINT64_MAX;
    }
    number = 501;
    ck_assert_int_eq(ckpt_read_numbered(r, CKPT_WORK, 3, &number, &blob), TRK_END);
    ck_assert_int_eq(ckpt_read_numbered(r, CKPT_ATTEMPT, 2, &number, &blob), TRK_END);
    ck_assert_uint_eq(number, 501);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

/* Memory of this process that files stand behind, KiB. */
static long file_memory(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;

    ck_assert_ptr_nonnull(status);
    while (kib < 0 && fgets(line, sizeof(line), status) != NULL) {
        (void)!sscanf(line, "RssFile: %ld", &kib);
    }
    fclose(status);
    ck_assert_int_ge(kib, 0);
    return kib;
}

/* Reads 96 MiB, and gives back the pages it has seen. */
static void read_all(struct ckpt_reader *r, uint64_t count, uint32_t size)
{
    long before = file_memory(), most = before;
    struct ckpt_result result;

    for (uint64_t at = 0; at < count; at++) {
        ck_assert_int_eq(ckpt_read_at(r, 1, at, &result), 0);
        ck_assert_uint_eq(result.value->size, size);
        ck_assert_uint_eq(result.value->data[size / 2], at);
        blob_unref(result.value);
        most = file_memory() > most ? file_memory() : most;
    }
    ck_assert_msg(most - before < 48 << 10, "%ld KiB more than the %ld at first", most - before,
                  before);
}

START_TEST(reading_a_large_store_needs_little_memory)
{
    enum { COUNT = 96, SIZE = 1 << 20 };
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    uint64_t ticket = 0;

    for (uint64_t i = 0; i < COUNT; i++) {
        struct blob *blob = blob_new(SIZE);
        struct record_run run = {.first = i, .count = 1};
        struct ckpt_value value = {.blob = blob, .slices = {{blob->data, SIZE}}, .count = 1};
        memset(blob->data, (int)i, SIZE);
        ck_assert_int_eq(ckpt_store_put_result(s, 1, &run, &value, &ticket), 0);
        blob_unref(blob);
        rig_wait(s, ticket);
    }
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    read_all(r, COUNT, SIZE);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    ck_assert_int_eq(ckpt_reader_open(&r, rig_job()), 0);
    read_all(r, COUNT, SIZE);
    ckpt_reader_free(r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("read");
    TCase *tc = tcase_create("read");

    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_records_of_a_stage_are_walked_by_number);
    tcase_add_test(tc, reading_a_large_store_needs_little_memory);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
