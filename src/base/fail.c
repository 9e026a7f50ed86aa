/* SPDX-License-Identifier: MIT */
/* fail.c - error numbers and their sentences. Only the edges (the public API, the commands) say
 * sentences; the rooms behind them pass numbers up. */
#include "base/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX 1024

static _Thread_local char last_text[TEXT_MAX];

int fail(int error, const char *format, ...)
{
    char text[TEXT_MAX]; /* apart: an argument may be fail_text() itself */
    int errno_before = errno;
    va_list args;

    va_start(args, format);
    if (vsnprintf(text, sizeof(text), format, args) < 0) {
        text[0] = '\0';
    }
    va_end(args);
    memcpy(last_text, text, strlen(text) + 1);
    errno = errno_before;
    return error;
}

const char *fail_text(void)
{
    return last_text;
}

const char *trk_strerror(int error)
{
    switch (error) {
    case TRK_OK:
        return "success";
#define ERROR_TEXT(name, number, text) \
    case number:                       \
        return text;
        TRK_ERROR_MAP(ERROR_TEXT)
#undef ERROR_TEXT
    case TRK_AGAIN:
        return "nothing yet";
    case TRK_END:
        return "there will be no more";
    case TRK_FULL:
        return "no room now";
    default:
        return "unknown error";
    }
}
