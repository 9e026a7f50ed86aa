/* SPDX-License-Identifier: MIT */
/* test_beacon.c - datagrams from whoever shares the network. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "wire/beacon.h"

static struct wire_beacon sample(uint8_t kind)
{
    struct wire_beacon b = {.kind = kind, .tcp_port = 0xfedc};

    memset(b.nonce, 0xab, sizeof(b.nonce));
    memset(b.supervisor, 0xcd, sizeof(b.supervisor));
    return b;
}

START_TEST(each_kind_survives)
{
    struct wire_beacon before = sample((uint8_t)_i), after;
    uint8_t bytes[WIRE_BEACON_BYTES];

    wire_beacon_put(bytes, &before);
    ck_assert_int_eq(wire_beacon_get(&after, bytes, sizeof(bytes)), 0);
    ck_assert_uint_eq(after.kind, before.kind);
    ck_assert_uint_eq(after.tcp_port, before.tcp_port);
    ck_assert_mem_eq(after.nonce, before.nonce, sizeof(after.nonce));
    ck_assert_mem_eq(after.supervisor, before.supervisor, sizeof(after.supervisor));
}
END_TEST

START_TEST(only_the_exact_size_is_taken)
{
    struct wire_beacon b = sample(WIRE_BEACON_ASK), out;
    uint8_t bytes[WIRE_BEACON_BYTES + 1] = {0};

    wire_beacon_put(bytes, &b);
    for (size_t size = 0; size <= sizeof(bytes); size++) {
        uint8_t *copy = malloc(size + 1);

        memcpy(copy, bytes, size);
        ck_assert_int_eq(wire_beacon_get(&out, copy, size),
                         size == WIRE_BEACON_BYTES ? 0 : TRK_ECORRUPT);
        free(copy);
    }
}
END_TEST

START_TEST(every_flip_is_refused_or_means_another_value)
{
    struct wire_beacon b = sample(WIRE_BEACON_ANSWER), out;
    uint8_t bytes[WIRE_BEACON_BYTES], again[WIRE_BEACON_BYTES];

    for (size_t at = 0; at < sizeof(bytes); at++) {
        for (unsigned flip = 1; flip < 256; flip++) {
            int rc;

            wire_beacon_put(bytes, &b);
            bytes[at] ^= (uint8_t)flip;
            rc = wire_beacon_get(&out, bytes, sizeof(bytes));
            ck_assert_int_le(rc, 0);
            if (rc == 0) {
                wire_beacon_put(again, &out);
                ck_assert_mem_eq(again, bytes, sizeof(bytes));
            }
        }
    }
}
END_TEST

static const struct {
    size_t at;
    uint8_t value;
    int rc;
} bad[] = {
    {0, 'X', TRK_ECORRUPT}, {1, 'X', TRK_ECORRUPT}, {2, 1, TRK_EVERSION}, {3, 0, TRK_ECORRUPT},
    {3, 4, TRK_ECORRUPT},   {6, 1, TRK_ECORRUPT},   {7, 1, TRK_ECORRUPT}, {40, 1, TRK_ECORRUPT},
    {63, 1, TRK_ECORRUPT},
};

START_TEST(what_is_not_ours_is_refused)
{
    struct wire_beacon b = sample(WIRE_BEACON_HERE), out;
    uint8_t bytes[WIRE_BEACON_BYTES];

    wire_beacon_put(bytes, &b);
    bytes[bad[_i].at] = bad[_i].value;
    ck_assert_int_eq(wire_beacon_get(&out, bytes, sizeof(bytes)), bad[_i].rc);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("beacon");
    TCase *tc = tcase_create("beacon");
    SRunner *sr;
    int failed;

    tcase_add_loop_test(tc, each_kind_survives, WIRE_BEACON_ASK, WIRE_BEACON_HERE + 1);
    tcase_add_test(tc, only_the_exact_size_is_taken);
    tcase_add_test(tc, every_flip_is_refused_or_means_another_value);
    tcase_add_loop_test(tc, what_is_not_ours_is_refused, 0, (int)(sizeof(bad) / sizeof(bad[0])));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
