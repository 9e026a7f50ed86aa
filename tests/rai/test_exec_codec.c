/* SPDX-License-Identifier: MIT */
/* The encodings of commands, elements and results: what is written is read, what is damaged or
 * cannot be is refused; and the words that templates make. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/rai/exec_rig.h"
#include "tests/suite.h"

static struct trk_exec_bytes text(const char *s)
{
    return (struct trk_exec_bytes){s, strlen(s)};
}

static void make_full(void)
{
    static const struct trk_exec_bytes set[] = {{"A=1", 3}, {"B=", 2}}, unset[] = {{"C", 1}};
    rig_argv("prog", "a{q0}b", "{o1}", "", NULL);
    rig_spec.cwd = rig_word("/tmp/{//1}");
    rig_spec.has_input = true;
    rig_spec.input = rig_word("in{o0}");
    rig_spec.env = set;
    rig_spec.env_count = 2;
    rig_spec.unset = unset;
    rig_spec.unset_count = 1;
    rig_spec.outputs = rig_words(&rig_spec.outputs_count, "x{.0}", "y{/1}", NULL);
    rig_spec.check = rig_words(&rig_spec.check_count, "test -s {qf}", NULL);
    rig_spec.is_check_shell = true;
    rig_spec.timeout_ms = 5;
    rig_spec.kill_after_ms = 6;
    rig_spec.stdout_keep = 7;
    rig_spec.stderr_keep = TRK_EXEC_KEEP_NONE;
}

START_TEST(spec_is_read_as_it_was_written)
{
    struct trk_exec_spec *s;
    void *bytes, *again;
    size_t size, again_size;
    make_full();
    ck_assert_msg(trk_exec_spec_encode(&rig_spec, &bytes, &size) == 0, "%s", fail_text());
    ck_assert_msg(trk_exec_spec_decode(bytes, size, &s) == 0, "%s", fail_text());
    ck_assert_uint_eq(s->argc, 4);
    ck_assert_uint_eq(s->argv[1].count, 3);
    ck_assert_int_eq(s->argv[1].pieces[1].kind, TRK_EXEC_FIELD);
    ck_assert(s->argv[1].pieces[1].is_quoted);
    ck_assert_uint_eq(s->check_count, 3); /* /bin/sh -c */
    ck_assert(!s->is_check_shell);
    ck_assert_uint_eq(s->env_count, 2);
    ck_assert_uint_eq(s->stderr_keep, TRK_EXEC_KEEP_NONE);
    ck_assert_uint_eq(s->timeout_ms, 5);
    ck_assert_int_eq(trk_exec_spec_encode(s, &again, &again_size), 0);
    ck_assert_uint_eq(again_size, size);
    ck_assert_mem_eq(again, bytes, size);
    mem_free(again);
    mem_free(bytes);
    mem_free(s);
}
END_TEST

/* What is accepted is written back byte for byte; the rest has a sentence. */
static void check_damaged(const uint8_t *bytes, size_t size)
{
    struct trk_exec_spec *s;
    void *again;
    size_t again_size;
    uint8_t *copy = malloc(size + 1); /* so that ASan sees reads past its end */
    memcpy(copy, bytes, size);
    copy = realloc(copy, size > 0 ? size : 1);
    int rc = trk_exec_spec_decode(copy, size, &s);
    free(copy);
    if (rc < 0) {
        ck_assert_int_ne(rc, TRK_ENOMEM);
        ck_assert_str_ne(fail_text(), "");
        return;
    }
    ck_assert_msg(trk_exec_spec_encode(s, &again, &again_size) == 0, "%s", fail_text());
    ck_assert_uint_eq(again_size, size);
    ck_assert_mem_eq(again, bytes, size);
    mem_free(again);
    mem_free(s);
}

START_TEST(damaged_specs_are_refused)
{
    static const uint8_t values[] = {0, 1, 2, 5, 0x7f, 0x80, 0xff};
    void *bytes;
    size_t size;
    make_full();
    ck_assert_int_eq(trk_exec_spec_encode(&rig_spec, &bytes, &size), 0);
    uint8_t *b = bytes;
    for (size_t n = 0; n <= size; n++) {
        check_damaged(b, n);
    }
    for (size_t i = 0; i < size; i++) {
        uint8_t before = b[i];
        for (size_t v = 0; v < sizeof(values); v++) {
            b[i] = values[v];
            check_damaged(b, size);
        }
        b[i] = before;
    }
    struct trk_exec_spec *s;
    b[1] = 9;
    ck_assert_int_eq(trk_exec_spec_decode(b, size, &s), TRK_EVERSION);
    mem_free(bytes);
}
END_TEST

/* Counts that only each by itself can be right: no array of them may be made. */
START_TEST(counts_that_contradict_each_other_are_refused)
{
    enum { SIZE = 4096, WORDS = 20, PIECES = 24 }; /* where the counts of argv stand */
    uint8_t bytes[SIZE] = {'S', TRK_EXEC_ABI};
    le_store_u32(bytes + WORDS, (SIZE - PIECES) / 4);
    le_store_u32(bytes + PIECES, (SIZE - PIECES - 4) / 12);
    check_damaged(bytes, SIZE);
    le_store_u32(bytes + WORDS, (SIZE - PIECES) / 4 - 1);
    le_store_u32(bytes + PIECES, 0);
    le_store_u32(bytes + PIECES + 4, (SIZE - PIECES - 8) / 12);
    check_damaged(bytes, SIZE);
}
END_TEST

START_TEST(no_memory_for_a_spec_is_told)
{
    struct trk_exec_spec *s = NULL;
    void *bytes = NULL;
    size_t size;
    make_full();
    int rc = TRK_ENOMEM;
    for (uint64_t n = 1; rc == TRK_ENOMEM; n++) {
        mem_fail_after(n);
        rc = trk_exec_spec_encode(&rig_spec, &bytes, &size);
        mem_fail_after(0);
    }
    ck_assert_int_eq(rc, 0);
    mem_fail_after(1);
    ck_assert_int_eq(trk_exec_spec_decode(bytes, size, &s), TRK_ENOMEM);
    mem_fail_after(0);
    mem_free(bytes);
}
END_TEST

START_TEST(elements_are_read_as_they_were_written)
{
    struct trk_exec_bytes fields[3] = {{"a\0b", 3}, {"", 0}, {"\xff", 1}}, *read;
    uint8_t *bytes;
    size_t size, count;
    for (size_t n = 0; n <= 3; n++) {
        ck_assert_int_eq(trk_exec_element_encode(fields, n, (void **)&bytes, &size), 0);
        ck_assert_int_eq(trk_exec_element_decode(bytes, size, &read, &count), 0);
        ck_assert_uint_eq(count, n);
        for (size_t i = 0; i < n; i++) {
            ck_assert_uint_eq(read[i].size, fields[i].size);
            ck_assert_mem_eq(read[i].bytes, fields[i].bytes, fields[i].size);
        }
        mem_free(read);
        for (size_t cut = 0; cut < size; cut++) {
            ck_assert_int_ne(trk_exec_element_decode(bytes, cut, &read, &count), 0);
        }
        bytes[4]++; /* one field more than there is */
        ck_assert_int_eq(trk_exec_element_decode(bytes, size, &read, &count), TRK_ECORRUPT);
        mem_free(bytes);
    }
    ck_assert_int_eq(trk_exec_element_encode(fields, TRK_EXEC_FIELDS_MAX + 1, (void **)&bytes,
                                             &size), TRK_EINVAL);
}
END_TEST

START_TEST(results_are_read_as_they_were_written)
{
    struct trk_exec_result r = {.outcome = TRK_EXEC_SIGNAL, .exit_status = -1, .signal = 9,
                                .left = 2, .started_ms = 1ull << 40, .duration_ns = 3,
                                .cpu_ns = 4, .rss_max_bytes = 5, .why = text("why"),
                                .out = {"headtail", 8, 4, 100}, .err = {"", 0, 0, 0}}, read;
    uint8_t *bytes;
    size_t size;
    ck_assert_int_eq(trk_exec_result_encode(&r, (void **)&bytes, &size), 0);
    ck_assert_int_eq(trk_exec_result_decode(bytes, size, &read), 0);
    ck_assert_int_eq(read.outcome, r.outcome);
    ck_assert_int_eq(read.exit_status, -1);
    ck_assert_int_eq(read.signal, 9);
    ck_assert_uint_eq(read.left, 2);
    ck_assert_uint_eq(read.started_ms, r.started_ms);
    ck_assert_uint_eq(read.duration_ns, 3);
    ck_assert_uint_eq(read.rss_max_bytes, 5);
    ck_assert_mem_eq(read.why.bytes, "why", 3);
    ck_assert_mem_eq(read.out.bytes, "headtail", 8);
    ck_assert_uint_eq(read.out.head, 4);
    ck_assert_uint_eq(read.out.total, 100);
    for (size_t cut = 0; cut < size; cut++) {
        ck_assert_int_ne(trk_exec_result_decode(bytes, cut, &read), 0);
    }
    mem_free(bytes);
    r.out.head = 9;
    ck_assert_int_eq(trk_exec_result_encode(&r, (void **)&bytes, &size), TRK_EINVAL);
}
END_TEST

/* Each: a file name, and what GNU parallel makes of it as {.} {/} {//} {/.} */
static const char *const transforms[][5] = {
    {"a/b.c.d", "a/b.c", "b.c.d", "a", "b.c"},
    {"b", "b", "b", ".", "b"},
    {"a.b/c", "a.b/c", "c", "a.b", "c"},
    {"/c", "/c", "c", "/", "c"},
    {"a/b/", "a/b/", "", "a", ""},
    {"a//b.c", "a//b", "b.c", "a", "b"},
    {".rc", "", ".rc", ".", ""},
    {"c.", "c", "c.", ".", "c"}, /* GNU parallel cuts a dot at the end, too */
    {"/", "/", "", "/", ""},
    {"", "", "", ".", ""},
    {"a/.b", "a/", ".b", "a", ""},
};

START_TEST(transforms_are_those_of_gnu_parallel)
{
    struct trk_exec_bytes field = text(transforms[_i][0]), *words;
    size_t count;
    rig_argv("{.0}", "{/0}", "{//0}", "{/.0}", NULL);
    ck_assert_int_eq(trk_exec_argv(&rig_spec, &field, 1, 0, &words, &count), 0);
    ck_assert_uint_eq(count, 4);
    for (size_t i = 0; i < 4; i++) {
        ck_assert_str_eq(words[i].bytes, transforms[_i][i + 1]);
        ck_assert_uint_eq(words[i].size, strlen(transforms[_i][i + 1]));
    }
    mem_free(words);
}
END_TEST

START_TEST(the_command_is_shown_with_its_outputs_names)
{
    struct trk_exec_bytes fields[] = {text("it's"), text("d/e.f")}, *words;
    size_t count;
    make_full();
    rig_spec.is_check_shell = false;
    ck_assert_int_eq(trk_exec_argv(&rig_spec, fields, 2, 0, &words, &count), 0);
    ck_assert_uint_eq(count, 4);
    ck_assert_str_eq(words[1].bytes, "a'it'\\''s'b");
    ck_assert_str_eq(words[2].bytes, "ye.f");
    ck_assert_str_eq(words[3].bytes, "");
    mem_free(words);
    ck_assert_int_eq(trk_exec_argv(&rig_spec, fields, 1, 0, &words, &count), TRK_EINVAL);
    ck_assert_msg(strstr(fail_text(), "needs field 1") != NULL, "%s", fail_text());
    rig_spec.outputs_count = 1;
    ck_assert_int_eq(trk_exec_argv(&rig_spec, fields, 2, 0, &words, &count), TRK_EINVAL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exec_codec");
    TCase *tc = tcase_create("codec");
    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_add_test(tc, spec_is_read_as_it_was_written);
    tcase_add_test(tc, damaged_specs_are_refused);
    tcase_add_test(tc, counts_that_contradict_each_other_are_refused);
    tcase_add_test(tc, no_memory_for_a_spec_is_told);
    tcase_add_test(tc, elements_are_read_as_they_were_written);
    tcase_add_test(tc, results_are_read_as_they_were_written);
    tcase_add_loop_test(tc, transforms_are_those_of_gnu_parallel, 0,
                        (int)(sizeof(transforms) / sizeof(transforms[0])));
    tcase_add_test(tc, the_command_is_shown_with_its_outputs_names);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
