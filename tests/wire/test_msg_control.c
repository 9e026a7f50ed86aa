/* SPDX-License-Identifier: MIT */
/* test_msg_control.c - MessagePack bodies: every field, versions to come, and what peers with
 * other habits or bad intentions may send. Bodies are built with msgpack-c by hand where our own
 * encoder would not make them. */
#include <check.h>
#include <msgpack/pack.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tests/suite.h"
#include "samples.h"

static struct buf built;
static msgpack_packer pk;

static int put_bytes(void *data, const char *bytes, size_t size)
{
    buf_put(data, bytes, size);
    return 0;
}

static void setup(void)
{
    buf_init(&built);
    msgpack_packer_init(&pk, &built, put_bytes);
}

static void teardown(void)
{
    mem_fail_after(0);
    buf_fini(&built);
}

static void put_str(const char *text)
{
    msgpack_pack_str_with_body(&pk, text, strlen(text));
}

static void put_id(const char *key)
{
    static const char id[16] = "0123456789abcde";

    put_str(key);
    msgpack_pack_bin_with_body(&pk, id, sizeof(id));
}

/* A hello without its purpose, inside a map of 7 + more entries; the test puts what is missing. */
static void put_most_of_hello(size_t more)
{
    msgpack_pack_map(&pk, 7 + more);
    put_id("job");
    put_str("ep");
    msgpack_pack_uint64(&pk, 5);
    put_id("inc");
    put_str("pid");
    msgpack_pack_uint32(&pk, 6);
    put_str("host");
    put_str("alpha");
    put_str("prog");
    put_str("beta");
}

static void put_hello(size_t more)
{
    put_most_of_hello(more);
    put_str("for");
    msgpack_pack_uint8(&pk, WIRE_PURPOSE_LEASE);
}

static int decode_hello(struct wire_hello *m)
{
    struct blob *loose = buf_take(&built), *exact = blob_dup(loose->data, loose->size);
    int rc = wire_hello_decode(m, exact);

    blob_unref(loose);
    blob_unref(exact);
    return rc;
}

/* --- all fields --------------------------------------------------------------------------- */

START_TEST(hello_carries_all_of_it)
{
    struct wire_hello in, out;
    struct blob *body;

    memset(&in, 0, sizeof(in));
    in.purpose = WIRE_PURPOSE_WATCH;
    memset(in.job, 1, 16);
    in.epoch = UINT64_MAX;
    memset(in.incarnation, 0xff, 16);
    in.pid = UINT32_MAX;
    strncpy(in.host, "host", sizeof(in.host) - 1);
    strncpy(in.program, "program", sizeof(in.program) - 1);
    body = wire_hello_encode(&in);
    ck_assert_int_eq(wire_hello_decode(&out, body), 0);
    ck_assert_mem_eq(&out, &in, sizeof(in));
    blob_unref(body);
}
END_TEST

START_TEST(welcome_carries_all_of_it)
{
    struct wire_welcome in, out;
    struct blob *body;

    memset(&in, 0, sizeof(in));
    in.is_accepted = true;
    strncpy(in.reason, "because", sizeof(in.reason) - 1);
    memset(in.supervisor, 7, 16);
    sample_info(&in.vm, 3);
    body = wire_welcome_encode(&in);
    ck_assert_int_eq(wire_welcome_decode(&out, body), 0);
    ck_assert_int_eq(out.is_accepted, true);
    ck_assert_str_eq(out.reason, "because");
    ck_assert_mem_eq(out.supervisor, in.supervisor, 16);
    ck_assert_mem_eq(&out.vm, &in.vm, sizeof(in.vm));
    blob_unref(body);
}
END_TEST

START_TEST(vms_may_be_none_one_or_many)
{
    static struct trk_vm_info infos[1000];
    static const size_t counts[] = {0, 1, 15, 16, 1000};

    for (unsigned i = 0; i < 1000; i++) {
        sample_info(&infos[i], i);
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct wire_vms in = {.is_all = i % 2 == 0, .infos = infos, .count = counts[i]}, out;
        struct blob *body = wire_vms_encode(&in);

        ck_assert_int_eq(wire_vms_decode(&out, body), 0);
        ck_assert_int_eq(out.is_all, in.is_all);
        ck_assert_uint_eq(out.count, counts[i]);
        ck_assert_int_eq(memcmp(out.infos, infos, counts[i] * sizeof(infos[0])), 0);
        mem_free(out.infos);
        blob_unref(body);
    }
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(output_is_bytes_and_borrowed)
{
    static char text[70000];
    struct wire_output in = {.pid = 1, .index = 2, .text = text, .size = sizeof(text)}, out;
    struct blob *body;

    memset(text, 0xfe, sizeof(text));
    text[1] = '\0';
    body = wire_output_encode(&in);
    ck_assert_int_eq(wire_output_decode(&out, body), 0);
    ck_assert_uint_eq(out.pid, 1);
    ck_assert_uint_eq(out.index, 2);
    ck_assert_uint_eq(out.size, sizeof(text));
    ck_assert_int_eq(memcmp(out.text, text, sizeof(text)), 0);
    ck_assert((const uint8_t *)out.text > body->data &&
              (const uint8_t *)out.text < body->data + body->size);
    blob_unref(body);
    in.text = NULL;
    in.size = 0;
    body = wire_output_encode(&in);
    ck_assert_int_eq(wire_output_decode(&out, body), 0);
    ck_assert_uint_eq(out.size, 0);
    blob_unref(body);
}
END_TEST

START_TEST(death_carries_all_of_it)
{
    struct wire_death in = {.pid = 1, .index = 2, .signal = INT32_MIN, .exit_status = INT32_MAX,
                            .is_expected = true, .rss_max_bytes = UINT64_MAX,
                            .has_element = true, .stage = 3, .attempt = 4,
                            .index_of_element = UINT64_MAX - 1, .ran_ns = 5, .output = "bye",
                            .output_size = 3, .end = WIRE_END_OOM};
    struct wire_death out;
    struct blob *body;

    memset(in.vm, 1, 16);
    memset(in.lease, 2, 16);
    body = wire_death_encode(&in);
    ck_assert_int_eq(wire_death_decode(&out, body), 0);
    ck_assert_mem_eq(out.vm, in.vm, 16);
    ck_assert_mem_eq(out.lease, in.lease, 16);
    ck_assert_uint_eq(out.pid, 1);
    ck_assert_uint_eq(out.index, 2);
    ck_assert_int_eq(out.signal, INT32_MIN);
    ck_assert_int_eq(out.exit_status, INT32_MAX);
    ck_assert(out.is_expected && out.has_element);
    ck_assert_uint_eq(out.end, WIRE_END_OOM);
    ck_assert_uint_eq(out.rss_max_bytes, UINT64_MAX);
    ck_assert_uint_eq(out.stage, 3);
    ck_assert_uint_eq(out.attempt, 4);
    ck_assert_uint_eq(out.index_of_element, UINT64_MAX - 1);
    ck_assert_uint_eq(out.ran_ns, 5);
    ck_assert_uint_eq(out.output_size, 3);
    ck_assert_mem_eq(out.output, "bye", 3);
    blob_unref(body);
}
END_TEST

START_TEST(death_has_one_of_the_known_ends)
{
    struct wire_death in = {.pid = 1, .end = (uint32_t)_i}, out;
    struct blob *body = wire_death_encode(&in);
    int rc = wire_death_decode(&out, body);

    ck_assert_int_eq(rc, _i < WIRE_END_COUNT ? 0 : TRK_ECORRUPT);
    ck_assert(rc < 0 || out.end == (uint32_t)_i);
    blob_unref(body);
}
END_TEST

START_TEST(greetings_fit_before_trust)
{
    struct wire_welcome welcome;
    struct wire_hello hello;
    struct blob *body;

    memset(&welcome, 0xff, sizeof(welcome)); /* no text is terminated: the longest there can be */
    welcome.is_accepted = true;
    body = wire_welcome_encode(&welcome);
    ck_assert_uint_le(body->size, WIRE_HELLO_MAX);
    blob_unref(body);
    memset(&hello, 0xff, sizeof(hello));
    body = wire_hello_encode(&hello);
    ck_assert_uint_le(body->size, WIRE_HELLO_MAX);
    blob_unref(body);
}
END_TEST

/* --- text ----------------------------------------------------------------------------------- */

START_TEST(text_too_long_is_cut_and_terminated)
{
    char text[300];
    struct wire_hello m;

    memset(text, 't', sizeof(text));
    msgpack_pack_map(&pk, 7);
    put_id("job");
    put_id("inc");
    put_str("for");
    msgpack_pack_uint8(&pk, WIRE_PURPOSE_LEASE);
    put_str("ep");
    msgpack_pack_uint8(&pk, 1);
    put_str("pid");
    msgpack_pack_uint8(&pk, 1);
    put_str("host");
    msgpack_pack_str_with_body(&pk, text, sizeof(text));
    put_str("prog");
    msgpack_pack_bin_with_body(&pk, "a\0b", 3); /* bin is fine; what follows a NUL is not shown */
    ck_assert_int_eq(decode_hello(&m), 0);
    ck_assert_uint_eq(strlen(m.host), sizeof(m.host) - 1);
    ck_assert_str_eq(m.program, "a");
}
END_TEST

START_TEST(text_need_not_be_utf8)
{
    struct wire_hello in = {.purpose = WIRE_PURPOSE_LEASE, .host = "\xff\xc0\x80", .program = ""};
    struct wire_hello out;
    struct blob *body = wire_hello_encode(&in);

    ck_assert_int_eq(wire_hello_decode(&out, body), 0);
    ck_assert_str_eq(out.host, in.host);
    ck_assert_str_eq(out.program, "");
    blob_unref(body);
}
END_TEST

/* --- newer versions ------------------------------------------------------------------------- */

/* A value of each type that MessagePack has; 32-bit heads with little behind them by hand. */
static void put_any_value(int which)
{
    switch (which) {
    case 0: msgpack_pack_nil(&pk); break;
    case 1: msgpack_pack_true(&pk); break;
    case 2: msgpack_pack_int64(&pk, INT64_MIN); break;
    case 3: msgpack_pack_uint64(&pk, UINT64_MAX); break;
    case 4: msgpack_pack_float(&pk, 1.5f); break;
    case 5: msgpack_pack_double(&pk, 1.5); break;
    case 6: buf_put(&built, "\xdb\0\0\0\2ab", 7); break;
    case 7: buf_put(&built, "\xc6\0\0\0\2ab", 7); break;
    case 8: msgpack_pack_ext_with_body(&pk, "abc", 3, 5); break;
    case 9: msgpack_pack_ext_with_body(&pk, "abcd", 4, -1); break;
    case 10: buf_put(&built, "\xc9\0\0\0\1\5x", 7); break;
    case 11: buf_put(&built, "\xdd\0\0\0\1\xc0", 6); break;
    case 12: buf_put(&built, "\xdf\0\0\0\1\xc0\xc2", 7); break;
    case 13: msgpack_pack_int8(&pk, -100); break;
    case 14: msgpack_pack_int16(&pk, -1000); break;
    case 15: msgpack_pack_int32(&pk, -100000); break;
    case 16: buf_put(&built, "\xda\0\1a", 4); break;
    case 17: buf_put(&built, "\xc8\0\1\5x", 5); break;
    default: buf_put(&built, "\xde\0\1\1\xdc\0\1\xd8\1aaaaaaaaaaaaaaaa", 25); break;
    }
}

START_TEST(unknown_keys_are_skipped)
{
    struct wire_hello m;

    put_hello(2);
    put_str("new");
    put_any_value(_i);
    put_str("");
    msgpack_pack_array(&pk, 2);
    put_any_value(_i);
    put_any_value(_i);
    ck_assert_int_eq(decode_hello(&m), 0);
    ck_assert_uint_eq(m.pid, 6);
    ck_assert_str_eq(m.program, "beta");
}
END_TEST

START_TEST(nesting_is_bounded)
{
    struct wire_hello m;

    put_hello(1);
    put_str("new");
    for (int i = 0; i < _i; i++) {
        msgpack_pack_array(&pk, 1);
    }
    msgpack_pack_nil(&pk);
    ck_assert_int_eq(decode_hello(&m), _i < 16 ? 0 : TRK_ECORRUPT);
}
END_TEST

START_TEST(bottomless_nesting_does_not_eat_the_stack)
{
    struct wire_hello m;
    uint8_t *at;

    put_hello(1);
    put_str("new");
    at = buf_reserve(&built, 1 << 20);
    memset(at, 0x91, 1 << 20); /* array of one, of one, of one ... */
    built.blob->size += 1 << 20;
    ck_assert_int_eq(decode_hello(&m), TRK_ECORRUPT);
}
END_TEST

/* --- habits and bad intentions ---------------------------------------------------------------- */

static const struct {
    const char *bytes;
    size_t size;
    int rc;
} purposes[] = {
    {"\x01", 1, 0},                                 /* fixint */
    {"\xcc\x01", 2, 0},                             /* uint 8 */
    {"\xcd\x00\x01", 3, 0},
    {"\xce\x00\x00\x00\x01", 5, 0},
    {"\xcf\x00\x00\x00\x00\x00\x00\x00\x01", 9, 0}, /* uint 64 */
    {"\xd0\x01", 2, 0},                             /* int 8 */
    {"\xd1\x00\x01", 3, 0},
    {"\xd2\x00\x00\x00\x01", 5, 0},
    {"\xd3\x00\x00\x00\x00\x00\x00\x00\x01", 9, 0},
    {"\xff", 1, TRK_ECORRUPT},                      /* -1 */
    {"\xd0\xff", 2, TRK_ECORRUPT},
    {"\xcf\x00\x00\x00\x01\x00\x00\x00\x01", 9, TRK_ECORRUPT}, /* 2^32 + 1 */
    {"\x00", 1, TRK_ECORRUPT},                      /* no purpose */
    {"\x03", 1, TRK_ECORRUPT},
    {"\xc0", 1, TRK_ECORRUPT},                      /* nil */
    {"\xc3", 1, TRK_ECORRUPT},                      /* true */
    {"\xa1\x31", 2, TRK_ECORRUPT},                  /* "1" */
    {"\xca\x3f\x80\x00\x00", 5, TRK_ECORRUPT},      /* 1.0 */
    {"\x91\x01", 2, TRK_ECORRUPT},                  /* [1] */
    {"\xc1", 1, TRK_ECORRUPT},                      /* never used */
    {"", 0, TRK_ECORRUPT},
};

START_TEST(numbers_come_in_any_width_but_in_range)
{
    struct wire_hello m;

    put_most_of_hello(0);
    put_str("for");
    buf_put(&built, purposes[_i].bytes, purposes[_i].size);
    ck_assert_int_eq(decode_hello(&m), purposes[_i].rc);
}
END_TEST

START_TEST(a_missing_key_is_refused)
{
    struct wire_hello m;

    put_most_of_hello(0);
    put_str("other");
    msgpack_pack_uint8(&pk, 1);
    ck_assert_int_eq(decode_hello(&m), TRK_ECORRUPT);
}
END_TEST

START_TEST(a_key_that_comes_twice_is_refused)
{
    struct wire_hello m;

    put_hello(1);
    put_str("pid");
    msgpack_pack_uint8(&pk, 1);
    ck_assert_int_eq(decode_hello(&m), TRK_ECORRUPT);
}
END_TEST

START_TEST(a_key_that_is_no_text_is_refused)
{
    struct wire_hello m;

    put_hello(1);
    msgpack_pack_uint8(&pk, 1);
    msgpack_pack_uint8(&pk, 1);
    ck_assert_int_eq(decode_hello(&m), TRK_ECORRUPT);
}
END_TEST

START_TEST(an_id_of_another_size_is_refused)
{
    struct wire_hello m;

    msgpack_pack_map(&pk, 7);
    put_str("job");
    msgpack_pack_bin_with_body(&pk, "0123456789abcdef", (size_t)_i);
    ck_assert_int_eq(decode_hello(&m), TRK_ECORRUPT);
}
END_TEST

static const struct {
    const char *bytes;
    size_t size;
} heads[] = {
    {"", 0}, {"\x80", 1}, {"\x90", 1}, {"\xc0", 1},
    {"\xdf\xff\xff\xff\xff", 5}, {"\xde\xff\xff", 3},
    {"\x81\xdb\xff\xff\xff\xff", 6}, {"\x81\xa1x\xdd\xff\xff\xff\xff", 8},
    {"\x81\xa1x\xdf\xff\xff\xff\xff", 8}, {"\x81\xa1x\xc9\xff\xff\xff\xff", 8},
};

START_TEST(what_is_no_map_or_claims_too_much_is_refused)
{
    struct wire_hello m;

    buf_put(&built, heads[_i].bytes, heads[_i].size);
    ck_assert_int_eq(decode_hello(&m), TRK_ECORRUPT);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

/* All but the array of a VMS. */
static void put_most_of_vms(size_t more)
{
    msgpack_pack_map(&pk, 3 + more);
    put_str("all");
    msgpack_pack_true(&pk);
    put_id("sup");
}

START_TEST(a_claimed_count_of_vms_allocates_nothing)
{
    struct wire_vms m;
    struct blob *body;

    put_most_of_vms(0);
    put_str("vms");
    buf_put(&built, "\xdd\xff\xff\xff\xff\x80\x80\x80\x80", 9);
    body = buf_take(&built);
    mem_fail_after(1); /* an attempt to allocate would be answered TRK_ENOMEM */
    ck_assert_int_eq(wire_vms_decode(&m, body), TRK_ECORRUPT);
    ck_assert_ptr_null(m.infos);
    ck_assert_uint_eq(m.count, 0);
    blob_unref(body);
}
END_TEST

START_TEST(an_error_behind_the_array_frees_it)
{
    struct wire_vms m;
    struct blob *body;

    put_most_of_vms(1);
    put_str("vms");
    msgpack_pack_array(&pk, 0);
    put_str("all"); /* again */
    msgpack_pack_true(&pk);
    body = buf_take(&built);
    ck_assert_int_eq(wire_vms_decode(&m, body), TRK_ECORRUPT);
    blob_unref(body);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

START_TEST(a_state_that_nobody_knows_is_refused)
{
    struct trk_vm_info info;
    struct wire_vms vms = {.infos = &info, .count = 1}, out;
    struct wire_welcome welcome = {.is_accepted = true}, seen;
    struct blob *body;

    sample_info(&info, 1);
    info.state = TRK_VM_FINISHING + 1;
    body = wire_vms_encode(&vms);
    ck_assert_int_eq(wire_vms_decode(&out, body), TRK_ECORRUPT);
    ck_assert_ptr_null(out.infos);
    blob_unref(body);
    welcome.vm = info;
    body = wire_welcome_encode(&welcome);
    ck_assert_int_eq(wire_welcome_decode(&seen, body), TRK_ECORRUPT);
    blob_unref(body);
    ck_assert_uint_eq(mem_live(), 0);
}
END_TEST

static TCase *make_case(void)
{
    TCase *tc = tcase_create("msg_control");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, hello_carries_all_of_it);
    tcase_add_test(tc, welcome_carries_all_of_it);
    tcase_add_test(tc, vms_may_be_none_one_or_many);
    tcase_add_test(tc, output_is_bytes_and_borrowed);
    tcase_add_test(tc, death_carries_all_of_it);
    tcase_add_loop_test(tc, death_has_one_of_the_known_ends, 0, WIRE_END_COUNT + 2);
    tcase_add_test(tc, greetings_fit_before_trust);
    tcase_add_test(tc, text_too_long_is_cut_and_terminated);
    tcase_add_test(tc, text_need_not_be_utf8);
    tcase_add_loop_test(tc, unknown_keys_are_skipped, 0, 19);
    tcase_add_loop_test(tc, nesting_is_bounded, 0, 20);
    tcase_add_test(tc, bottomless_nesting_does_not_eat_the_stack);
    tcase_add_loop_test(tc, numbers_come_in_any_width_but_in_range, 0,
                        (int)(sizeof(purposes) / sizeof(purposes[0])));
    tcase_add_test(tc, a_missing_key_is_refused);
    tcase_add_test(tc, a_key_that_comes_twice_is_refused);
    tcase_add_test(tc, a_key_that_is_no_text_is_refused);
    tcase_add_loop_test(tc, an_id_of_another_size_is_refused, 0, 16);
    tcase_add_loop_test(tc, what_is_no_map_or_claims_too_much_is_refused, 0,
                        (int)(sizeof(heads) / sizeof(heads[0])));
    tcase_add_test(tc, a_claimed_count_of_vms_allocates_nothing);
    tcase_add_test(tc, an_error_behind_the_array_frees_it);
    tcase_add_test(tc, a_state_that_nobody_knows_is_refused);
    return tc;
}

int main(void)
{
    Suite *s = suite_create("msg_control");

    suite_add_tcase(s, make_case());
    return run_suite(s);
}
