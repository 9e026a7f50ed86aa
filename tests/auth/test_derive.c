/* SPDX-License-Identifier: MIT */
/* test_derive.c - derived keys and MACs against values that Python's hmac module computed. */
#include <check.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

#include "auth/derive.h"
#include "tests/suite.h"

static struct auth_key key;

static void setup(void) { memset(key.secret, 0x11, sizeof(key.secret)); }

/* HKDF-SHA256 of 32 bytes of 0x11, no salt, "trickle 1 ..." as info. */
static const struct {
    enum auth_use use;
    const char *hex;
} known[] = {
    {AUTH_TLS_INITIATOR, "f201ff7ceeb8df7b659e65966f835a5958f7e27928f47c6ca07bc29d59d21d95"},
    {AUTH_TLS_VM, "5cbeb87d86c192bb969db3266ea67fc1246f4ca562dd5dde4c2fcbe982b12dd2"},
    {AUTH_DISCOVERY_ASK, "780c93a5b6f4f62de717bc541b1a9591a5cfa21ec828585a8c6137421b0b8fc3"},
    {AUTH_DISCOVERY_ANSWER, "28ec8a253728cfe0668e5e36d7c112afb62c68ded774d38d7b51215cc646c5c9"},
};

static void check_hex(const uint8_t *bytes, size_t size, const char *hex)
{
    char text[2 * AUTH_MAC_BYTES + 1];
    for (size_t i = 0; i < size; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    ck_assert_str_eq(text, hex);
}

START_TEST(each_use_has_the_key_it_always_had)
{
    uint8_t out[AUTH_DERIVED_BYTES];
    ck_assert_int_eq(auth_derive(out, &key, known[_i].use), 0);
    check_hex(out, sizeof(out), known[_i].hex);
}
END_TEST

START_TEST(another_secret_gives_another_key)
{
    uint8_t one[AUTH_DERIVED_BYTES], two[AUTH_DERIVED_BYTES];
    ck_assert_int_eq(auth_derive(one, &key, AUTH_TLS_VM), 0);
    key.secret[31] ^= 1;
    ck_assert_int_eq(auth_derive(two, &key, AUTH_TLS_VM), 0);
    ck_assert_mem_ne(one, two, sizeof(one));
}
END_TEST

/* Test case 2 of RFC 4231 has a key of 4 bytes; HMAC pads short keys with zeros. */
START_TEST(mac_is_hmac_sha256)
{
    const uint8_t derived[AUTH_DERIVED_BYTES] = "Jefe";
    const char text[] = "what do ya want for nothing?";
    uint8_t mac[AUTH_MAC_BYTES];
    ck_assert_int_eq(auth_mac(mac, derived, text, strlen(text)), 0);
    check_hex(mac, sizeof(mac),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}
END_TEST

START_TEST(every_flip_of_a_mac_is_seen)
{
    uint8_t a[AUTH_MAC_BYTES], b[AUTH_MAC_BYTES];
    memset(a, 0x5a, sizeof(a));
    memcpy(b, a, sizeof(b));
    ck_assert(auth_is_same(a, b, sizeof(a)));
    for (size_t bit = 0; bit < 8 * sizeof(a); bit++) {
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert(!auth_is_same(a, b, sizeof(a)));
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    b[31] ^= 1;
    ck_assert(auth_is_same(a, b, 31));
}
END_TEST

/* The program around us may look at its errors later. */
START_TEST(errors_of_others_stay)
{
    uint8_t out[AUTH_DERIVED_BYTES];
    ERR_raise(ERR_LIB_USER, 77);
    unsigned long before = ERR_peek_last_error();
    ck_assert_int_eq(auth_derive(out, &key, AUTH_TLS_VM), 0);
    ck_assert_int_eq(auth_mac(out, out, "x", 1), 0);
    ck_assert_uint_eq(ERR_peek_last_error(), before);
    ck_assert_uint_eq(ERR_get_error(), before);
    ck_assert_uint_eq(ERR_get_error(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("derive");
    TCase *t = tcase_create("derive");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, each_use_has_the_key_it_always_had, 0, AUTH_USE_COUNT);
    tcase_add_test(t, another_secret_gives_another_key);
    tcase_add_test(t, mac_is_hmac_sha256);
    tcase_add_test(t, every_flip_of_a_mac_is_seen);
    tcase_add_test(t, errors_of_others_stay);
    suite_add_tcase(s, t);
    return run_suite(s);
}
