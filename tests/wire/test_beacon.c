/* SPDX-License-Identifier: MIT */
/* test_beacon.c - datagrams from whoever shares the network. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/suite.h"
#include "wire/beacon.h"

static struct wire_beacon sample(uint8_t kind, bool is_sealed)
{
    struct wire_beacon b = {.kind = kind, .is_sealed = is_sealed, .port = 0xfedc};

    memset(b.address, 0x12, sizeof(b.address));
    if (kind != WIRE_BEACON_HERE) {
        memset(b.nonce, 0xab, sizeof(b.nonce));
    }
    if (kind != WIRE_BEACON_ASK) {
        memset(b.supervisor, 0xcd, sizeof(b.supervisor));
    }
    if (is_sealed) {
        memset(b.key_id, 0x34, sizeof(b.key_id));
        memset(b.mac, 0xef, sizeof(b.mac));
    }
    return b;
}

/* Of loop number i: each kind, without a MAC and with one. */
static struct wire_beacon sample_of(int i)
{
    return sample((uint8_t)(WIRE_BEACON_ASK + i / 2), i % 2 == 1);
}
#define SAMPLES 6

START_TEST(each_kind_survives)
{
    struct wire_beacon before = sample_of(_i), after;
    uint8_t bytes[WIRE_BEACON_BYTES];

    wire_beacon_put(bytes, &before);
    ck_assert_int_eq(wire_beacon_get(&after, bytes, sizeof(bytes)), 0);
    ck_assert_uint_eq(after.kind, before.kind);
    ck_assert_int_eq(after.is_sealed, before.is_sealed);
    ck_assert_uint_eq(after.port, before.port);
    ck_assert_mem_eq(after.key_id, before.key_id, sizeof(after.key_id));
    ck_assert_mem_eq(after.address, before.address, sizeof(after.address));
    ck_assert_mem_eq(after.nonce, before.nonce, sizeof(after.nonce));
    ck_assert_mem_eq(after.supervisor, before.supervisor, sizeof(after.supervisor));
    ck_assert_mem_eq(after.mac, before.mac, sizeof(after.mac));
}
END_TEST

/* All that is said, and that it is so long, is under the MAC; the MAC itself follows at once. */
START_TEST(what_is_sealed_comes_before_the_mac)
{
    struct wire_beacon b = sample(WIRE_BEACON_ANSWER, true), other = b;
    uint8_t one[WIRE_BEACON_BYTES], two[WIRE_BEACON_BYTES];

    ck_assert_int_eq(WIRE_BEACON_SEALED + WIRE_BEACON_MAC, WIRE_BEACON_BYTES);
    memset(other.mac, 0x55, sizeof(other.mac));
    wire_beacon_put(one, &b);
    wire_beacon_put(two, &other);
    ck_assert_mem_eq(one, two, WIRE_BEACON_SEALED);
    ck_assert_mem_eq(one + WIRE_BEACON_SEALED, b.mac, WIRE_BEACON_MAC);
    ck_assert_mem_eq(two + WIRE_BEACON_SEALED, other.mac, WIRE_BEACON_MAC);
}
END_TEST

START_TEST(only_the_exact_size_is_taken)
{
    struct wire_beacon b = sample_of(_i), out;
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
    struct wire_beacon b = sample_of(_i), out;
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
    uint8_t kind;
    bool is_sealed;
    size_t at;
    uint8_t value;
    int rc;
} bad[] = {
    {WIRE_BEACON_ASK, true, 0, 'X', TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 1, 'X', TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 2, 1, TRK_EVERSION},
    {WIRE_BEACON_ASK, true, 3, 0, TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 3, 4, TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 10, 2, TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 11, 1, TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 15, 1, TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 10, 0, TRK_ECORRUPT},   /* a MAC, and says that it has none */
    {WIRE_BEACON_ASK, false, 4, 1, TRK_ECORRUPT},   /* a key and no MAC */
    {WIRE_BEACON_ANSWER, false, 64, 1, TRK_ECORRUPT},
    {WIRE_BEACON_ANSWER, false, 95, 1, TRK_ECORRUPT},
    {WIRE_BEACON_ASK, true, 48, 1, TRK_ECORRUPT},   /* who asks is no supervisor */
    {WIRE_BEACON_ASK, false, 63, 1, TRK_ECORRUPT},
    {WIRE_BEACON_HERE, true, 32, 1, TRK_ECORRUPT},  /* nobody asked */
    {WIRE_BEACON_HERE, false, 47, 1, TRK_ECORRUPT},
};

START_TEST(what_is_not_ours_is_refused)
{
    struct wire_beacon b = sample(bad[_i].kind, bad[_i].is_sealed), out;
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

    tcase_add_loop_test(tc, each_kind_survives, 0, SAMPLES);
    tcase_add_test(tc, what_is_sealed_comes_before_the_mac);
    tcase_add_loop_test(tc, only_the_exact_size_is_taken, 0, SAMPLES);
    tcase_add_loop_test(tc, every_flip_is_refused_or_means_another_value, 0, SAMPLES);
    tcase_add_loop_test(tc, what_is_not_ours_is_refused, 0, (int)(sizeof(bad) / sizeof(bad[0])));
    suite_add_tcase(s, tc);
    return run_suite(s);
}
