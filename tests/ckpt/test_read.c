/* SPDX-License-Identifier: MIT */
/* test_read.c - readers: walking what has numbers, and what reading costs in memory. */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/verify.h"
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

static void put_numbered(struct ckpt_store *s, uint32_t stage, uint64_t number, size_t size)
{
    struct blob *blob = blob_new(size + 1);
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, size}}, .count = 1};
    uint8_t key[KEY_STAGE_NUMBER];
    uint64_t ticket;

    memset(blob->data, 'x', size);
    blob->size = size;
    ckpt_key(key, stage, number);
    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_ELEMENTS, key, sizeof(key), &value, &ticket), 0);
    rig_wait(s, ticket);
    blob_unref(blob);
}

START_TEST(the_record_before_a_number_is_found)
{
    static const struct {
        uint32_t stage;
        uint64_t asked, found; /* 0: none */
    } cases[] = {{2, 1000, 1000}, {2, 999, 0}, {2, 1001, 1000}, {2, 1999, 1000}, {2, 2000, 2000},
                 {2, UINT64_MAX, 2000}, {1, UINT64_MAX, 0}, {3, 70, 7}, {3, 6, 0}, {4, 9, 0}};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_reader *r;
    struct blob *blob;
    uint64_t number = 5;

    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_before(r, CKPT_ELEMENTS, 1, &number, &blob), TRK_END);
    put_numbered(s, 2, 1000, 10);
    put_numbered(s, 2, 2000, 20);
    put_numbered(s, 3, 7, 30);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        number = cases[i].asked;
        int rc = ckpt_read_before(r, CKPT_ELEMENTS, cases[i].stage, &number, &blob);
        ck_assert_msg(rc == (cases[i].found != 0 ? 0 : TRK_END), "case %zu gave %d", i, rc);
        ck_assert_uint_eq(number, rc == 0 ? cases[i].found : cases[i].asked);
        if (rc == 0) {
            ck_assert_uint_eq(blob->size, number == 7 ? 30 : number / 100);
            blob_unref(blob);
        }
    }
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(the_size_of_a_value_is_known_without_reading_it)
{
    static const size_t sizes[] = {0, 1, RECORD_PART_MAX, RECORD_PART_MAX + 1,
                                   3 * RECORD_PART_MAX};
    struct ckpt_store *s = rig_open(NULL);
    uint8_t key[KEY_STAGE_NUMBER];
    struct ckpt_reader *r;
    uint64_t size;

    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        put_numbered(s, 1, i, sizes[i]);
        ckpt_key(key, 1, i);
        ck_assert_int_eq(ckpt_read_size(r, CKPT_ELEMENTS, key, sizeof(key), &size), 0);
        ck_assert_uint_eq(size, sizes[i]);
    }
    ckpt_key(key, 2, 0);
    ck_assert_int_eq(ckpt_read_size(r, CKPT_ELEMENTS, key, sizeof(key), &size), TRK_END);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

/* As a Trickle that did not know it leaves a store. */
static void drop_table(const char *name)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;

    ck_assert_int_eq(mdb_env_create(&env), 0);
    ck_assert_int_eq(mdb_env_set_maxdbs(env, 20), 0);
    ck_assert_int_eq(mdb_env_open(env, rig_job(), 0, 0600), 0);
    ck_assert_int_eq(mdb_txn_begin(env, NULL, 0, &txn), 0);
    ck_assert_int_eq(mdb_dbi_open(txn, name, 0, &dbi), 0);
    ck_assert_int_eq(mdb_drop(txn, dbi, 1), 0);
    ck_assert_int_eq(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

START_TEST(a_store_of_an_older_trickle_lacks_a_table)
{
    struct ckpt_store *s = rig_open(NULL);
    uint8_t key[KEY_STAGE_NUMBER];
    struct verify_report report;
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    uint64_t number = 0, size;
    struct blob *blob;

    rig_wait(s, rig_put(s, 1, 0, 5, 0));
    ck_assert_int_eq(ckpt_store_close(s), 0);
    drop_table("elements");
    ck_assert_msg(verify_store(rig_job(), &report, NULL) == 0, "%s", report.why);
    ck_assert_int_eq(ckpt_reader_open(&r, rig_job()), 0);
    ck_assert_uint_eq(rig_check(r, 1, 0), 5);
    ckpt_key(key, 1, 0);
    ck_assert_int_eq(ckpt_read_get(r, CKPT_ELEMENTS, key, sizeof(key), &blob), TRK_END);
    ck_assert_int_eq(ckpt_read_size(r, CKPT_ELEMENTS, key, sizeof(key), &size), TRK_END);
    ck_assert_int_eq(ckpt_read_numbered(r, CKPT_ELEMENTS, 1, &number, &blob), TRK_END);
    ck_assert_int_eq(ckpt_read_before(r, CKPT_ELEMENTS, 1, &number, &blob), TRK_END);
    if (_i == 0) { /* a reader that is there already; else one that comes later */
        ckpt_reader_free(r);
    }
    s = rig_open(&opened);
    ck_assert(!opened.is_salvaged);
    put_numbered(s, 1, 0, 10);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    if (_i == 0) {
        ck_assert_int_eq(ckpt_reader_open(&r, rig_job()), 0);
    }
    do { /* it looks now and then */
        number = 0;
        blob = NULL;
    } while (ckpt_read_numbered(r, CKPT_ELEMENTS, 1, &number, &blob) == TRK_END);
    ck_assert_ptr_nonnull(blob);
    ck_assert_uint_eq(blob->size, 10);
    blob_unref(blob);
    ckpt_reader_free(r);
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
    tcase_add_test(tc, the_record_before_a_number_is_found);
    tcase_add_test(tc, the_size_of_a_value_is_known_without_reading_it);
    tcase_add_loop_test(tc, a_store_of_an_older_trickle_lacks_a_table, 0, 2);
    tcase_add_test(tc, reading_a_large_store_needs_little_memory);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
