/* SPDX-License-Identifier: MIT */
/* test_log.c - levels, the shape of a line, and what must not get into one. Runs with stderr in a
 * pipe; each test is a process of its own (the level is read from the environment once). */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static char out[8192];

/* What fn writes to stderr. */
static const char *capture(void (*fn)(void))
{
    int ends[2], saved = dup(STDERR_FILENO);
    ssize_t size;

    ck_assert_int_eq(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    fn();
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    size = read(ends[0], out, sizeof(out) - 1);
    close(ends[0]);
    ck_assert_int_ge(size, 0);
    out[size] = '\0';
    return out;
}

static void say_all(void)
{
    log_error("area", "e%d", 1);
    log_warn("area", "w%d", 2);
    log_info("area", "i%d", 3);
    log_debug("area", "d%d", 4);
}

static void say_bad(void)
{
    log_error("area", "a\nb\033[2Jc\177");
}

static void say_long(void)
{
    static char text[10000];

    memset(text, 'x', sizeof(text) - 1);
    log_error("area", "%s", text);
}

static const struct {
    const char *environment, *name; /* name: for log_set_level, or NULL */
    enum log_level level;
} cases[] = {
    {NULL, NULL, LOG_WARN},      {"error", NULL, LOG_ERROR}, {"info", NULL, LOG_INFO},
    {"debug", NULL, LOG_DEBUG},  {"loud", NULL, LOG_WARN},   {"", NULL, LOG_WARN},
    {"error", "info", LOG_INFO}, {NULL, "DEBUG", LOG_DEBUG}, {"bogus", "warn", LOG_WARN},
};

START_TEST(level_comes_from_the_option_then_the_environment)
{
    static const char marks[] = "ewid";
    const char *text;

    unsetenv("TRICKLE_LOG");
    if (cases[_i].environment != NULL) {
        setenv("TRICKLE_LOG", cases[_i].environment, 1);
    }
    if (cases[_i].name != NULL) {
        ck_assert_int_eq(log_set_level(cases[_i].name), 0);
    }
    ck_assert_int_eq(log_get_level(), cases[_i].level);
    text = capture(say_all);
    for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
        char mark[] = {':', ' ', marks[level], '\0'};

        ck_assert_msg((strstr(text, mark) != NULL) == (level <= (int)cases[_i].level),
                      "level %d in '%s'", level, text);
    }
}
END_TEST

START_TEST(bad_names_change_nothing)
{
    ck_assert_int_eq(log_set_level("info"), 0);
    ck_assert_int_eq(log_set_level("verbose"), TRK_EINVAL);
    ck_assert_int_eq(log_set_level(""), TRK_EINVAL);
    ck_assert_int_eq(log_set_level(NULL), TRK_EINVAL);
    ck_assert_int_eq(log_get_level(), LOG_INFO);
}
END_TEST

START_TEST(a_line_names_process_level_and_area)
{
    char expected[100];

    ck_assert_int_eq(log_set_level("error"), 0);
    snprintf(expected, sizeof(expected), "trickle[%d] ERROR area: e1\n", (int)getpid());
    ck_assert_str_eq(capture(say_all), expected);
}
END_TEST

START_TEST(control_characters_do_not_get_through)
{
    const char *text = capture(say_bad);

    ck_assert_msg(strstr(text, "a b [2Jc \n") != NULL, "seen '%s'", text);
}
END_TEST

START_TEST(long_lines_are_cut_and_say_so)
{
    const char *text = capture(say_long);
    size_t size = strlen(text);

    ck_assert_uint_gt(size, 1000);
    ck_assert_uint_lt(size, 4096); /* one atomic write to a pipe */
    ck_assert_str_eq(text + size - 4, "...\n");
}
END_TEST

START_TEST(errno_survives_and_a_closed_stderr_is_no_trouble)
{
    int saved = dup(STDERR_FILENO);

    close(STDERR_FILENO);
    errno = ENOENT;
    log_error("area", "nobody hears this");
    ck_assert_int_eq(errno, ENOENT);
    dup2(saved, STDERR_FILENO);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *tc = tcase_create("log");
    SRunner *sr;
    int failed;

    tcase_add_loop_test(tc, level_comes_from_the_option_then_the_environment, 0,
                        (int)(sizeof(cases) / sizeof(cases[0])));
    tcase_add_test(tc, bad_names_change_nothing);
    tcase_add_test(tc, a_line_names_process_level_and_area);
    tcase_add_test(tc, control_characters_do_not_get_through);
    tcase_add_test(tc, long_lines_are_cut_and_say_so);
    tcase_add_test(tc, errno_survives_and_a_closed_stderr_is_no_trouble);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_set_fork_status(sr, CK_FORK);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
