/* SPDX-License-Identifier: MIT */
/* test_json.c - JSON that any reader takes, whatever bytes and locale the program has. */
#include <check.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tests/suite.h"

static void expect(struct buf *b, const char *text)
{
    struct blob *blob = buf_take(b);

    ck_assert_ptr_nonnull(blob);
    ck_assert_msg(blob->size == strlen(text) && memcmp(blob->data, text, blob->size) == 0,
                  "expected %s, got %.*s", text, (int)blob->size, (const char *)blob->data);
    blob_unref(blob);
}

static const struct {
    const char *text, *json;
} texts[] = {
    {"", "\"\""},
    {"plain", "\"plain\""},
    {"a\"b\\c\n\x01\x7f", "\"a\\\"b\\\\c\\u000a\\u0001\x7f\""},
    {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""},
    {"\xff", "\"\\udcff\""},                            /* never in UTF-8 */
    {"\xc0\xaf", "\"\\udcc0\\udcaf\""},                 /* overlong */
    {"\xed\xa0\x80", "\"\\udced\\udca0\\udc80\""},      /* a surrogate */
    {"\xf4\x90\x80\x80", "\"\\udcf4\\udc90\\udc80\\udc80\""}, /* beyond the last */
    {"\xe2\x82", "\"\\udce2\\udc82\""},                 /* cut off */
    {"\xc3x", "\"\\udcc3x\""},
};

START_TEST(texts_are_quoted_and_bytes_that_are_no_utf8_survive)
{
    struct buf b;

    buf_init(&b);
    json_put_text(&b, texts[_i].text);
    expect(&b, texts[_i].json);
}
END_TEST

START_TEST(seconds_have_a_point_in_every_locale)
{
    struct buf b;

    setlocale(LC_ALL, "de_DE.UTF-8"); /* where it is installed */
    buf_init(&b);
    json_put_seconds(&b, 1234567890123456789u);
    expect(&b, "1234567890.123456");
    json_put_seconds(&b, 0);
    expect(&b, "0.000000");
}
END_TEST

START_TEST(pieces_follow_one_another)
{
    struct buf b;

    buf_init(&b);
    json_put(&b, "{\"n\": %d, \"t\": ", 17);
    json_put_text(&b, "x");
    json_put(&b, "}");
    expect(&b, "{\"n\": 17, \"t\": \"x\"}");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json");
    TCase *tc = tcase_create("json");

    tcase_add_loop_test(tc, texts_are_quoted_and_bytes_that_are_no_utf8_survive, 0,
                        (int)(sizeof(texts) / sizeof(texts[0])));
    tcase_add_test(tc, seconds_have_a_point_in_every_locale);
    tcase_add_test(tc, pieces_follow_one_another);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
