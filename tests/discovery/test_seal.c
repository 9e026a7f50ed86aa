/* SPDX-License-Identifier: MIT */
/* Who is believed: right key and right kind, and not a byte changed. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "discovery/seal.h"
#include "tests/suite.h"

static struct auth_keys one_key, other_key, both_keys;
static struct discovery_seals one, other, both, plain;

static void setup(void)
{
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(auth_key_make(&both_keys.key[i]), 0);
    }
    both_keys.count = 2;
    one_key = (struct auth_keys){.key[0] = both_keys.key[0], .count = 1};
    other_key = (struct auth_keys){.key[0] = both_keys.key[1], .count = 1};
    ck_assert_int_eq(discovery_seals_init(&one, &one_key), 0);
    ck_assert_int_eq(discovery_seals_init(&other, &other_key), 0);
    ck_assert_int_eq(discovery_seals_init(&both, &both_keys), 0);
    ck_assert_int_eq(discovery_seals_init(&plain, NULL), 0);
}

static struct wire_beacon sample(uint8_t kind)
{
    struct wire_beacon b = {.kind = kind, .port = 4711, .address = "an address"};
    memset(b.nonce, 'n', kind != WIRE_BEACON_HERE ? sizeof(b.nonce) : 0);
    memset(b.supervisor, 's', kind != WIRE_BEACON_ASK ? sizeof(b.supervisor) : 0);
    return b;
}

/* As it would be heard. -2: it does not even look like a beacon. */
static int check(const struct discovery_seals *by, const uint8_t bytes[WIRE_BEACON_BYTES])
{
    struct wire_beacon b;
    return wire_beacon_get(&b, bytes, WIRE_BEACON_BYTES) == 0
               ? discovery_seals_check(by, &b, bytes) : -2;
}

START_TEST(sealed_is_believed_by_who_has_the_key)
{
    struct wire_beacon b = sample((uint8_t)_i);
    uint8_t bytes[WIRE_BEACON_BYTES];
    ck_assert_uint_eq(discovery_seals_rounds(&one), 1);
    ck_assert_int_eq(discovery_seals_put(&one, 0, &b, bytes), 0);
    ck_assert_int_eq(check(&one, bytes), 0);
    ck_assert_int_eq(check(&other, bytes), -1);
    ck_assert_int_eq(check(&plain, bytes), -1);
    ck_assert_int_eq(check(&both, bytes), 0);
    ck_assert_uint_eq(discovery_seals_rounds(&both), 2);
    ck_assert_int_eq(discovery_seals_put(&both, 1, &b, bytes), 0);
    ck_assert_int_eq(check(&both, bytes), 1);
    ck_assert_int_eq(check(&other, bytes), 0);
    ck_assert_int_eq(check(&one, bytes), -1);
}
END_TEST

START_TEST(bare_is_believed_by_who_has_none)
{
    struct wire_beacon b = sample((uint8_t)_i);
    uint8_t bytes[WIRE_BEACON_BYTES];
    ck_assert_uint_eq(discovery_seals_rounds(&plain), 1);
    ck_assert_int_eq(discovery_seals_put(&plain, 0, &b, bytes), 0);
    ck_assert_int_eq(check(&plain, bytes), 0);
    ck_assert_int_eq(check(&one, bytes), -1);
    ck_assert_int_eq(check(&both, bytes), -1);
}
END_TEST

START_TEST(key_id_on_the_wire_is_the_one_of_the_key)
{
    struct wire_beacon b = sample(WIRE_BEACON_ASK);
    uint8_t bytes[WIRE_BEACON_BYTES];
    char id[AUTH_ID_DIGITS + 1];
    ck_assert_int_eq(discovery_seals_put(&one, 0, &b, bytes), 0);
    for (size_t i = 0; i < sizeof(b.key_id); i++) {
        snprintf(id + 2 * i, 3, "%02x", b.key_id[i]);
    }
    ck_assert_str_eq(id, one_key.key[0].id);
}
END_TEST

START_TEST(every_flipped_bit_is_refused)
{
    struct wire_beacon b = sample((uint8_t)_i);
    uint8_t bytes[WIRE_BEACON_BYTES];
    ck_assert_int_eq(discovery_seals_put(&both, 0, &b, bytes), 0);
    for (size_t bit = 0; bit < 8 * sizeof(bytes); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert_int_lt(check(&both, bytes), 0);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ck_assert_int_eq(check(&both, bytes), 0);
}
END_TEST

/* What one side has said is never the other side's answer, whatever is written over it. */
START_TEST(question_cannot_be_turned_into_an_answer)
{
    struct wire_beacon ask = sample(WIRE_BEACON_ASK), answer = sample(WIRE_BEACON_ANSWER);
    uint8_t bytes[WIRE_BEACON_BYTES], as_answer[WIRE_BEACON_BYTES];
    memset(answer.supervisor, 0, sizeof(answer.supervisor));
    ck_assert_int_eq(discovery_seals_put(&one, 0, &answer, as_answer), 0);
    ck_assert_int_eq(discovery_seals_put(&one, 0, &ask, bytes), 0);
    ck_assert(memcmp(bytes + WIRE_BEACON_SEALED, as_answer + WIRE_BEACON_SEALED,
                     WIRE_BEACON_MAC) != 0);
    /* Even where the kinds were the same byte, the keys are not the same. */
    uint8_t mac[AUTH_MAC_BYTES];
    ck_assert_int_eq(auth_mac(mac, one.seal[0].ask, as_answer, WIRE_BEACON_SEALED), 0);
    memcpy(as_answer + WIRE_BEACON_SEALED, mac, sizeof(mac));
    ck_assert_int_eq(check(&one, as_answer), -1);
}
END_TEST

START_TEST(cleared_seals_leave_nothing)
{
    static const struct discovery_seals none;
    discovery_seals_clear(&both);
    ck_assert_mem_eq(&both, &none, sizeof(none));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("seal");
    TCase *t = tcase_create("seal");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, sealed_is_believed_by_who_has_the_key, WIRE_BEACON_ASK,
                        WIRE_BEACON_HERE + 1);
    tcase_add_loop_test(t, bare_is_believed_by_who_has_none, WIRE_BEACON_ASK,
                        WIRE_BEACON_HERE + 1);
    tcase_add_test(t, key_id_on_the_wire_is_the_one_of_the_key);
    tcase_add_loop_test(t, every_flipped_bit_is_refused, WIRE_BEACON_ASK, WIRE_BEACON_HERE + 1);
    tcase_add_test(t, question_cannot_be_turned_into_an_answer);
    tcase_add_test(t, cleared_seals_leave_nothing);
    suite_add_tcase(s, t);
    return run_suite(s);
}
