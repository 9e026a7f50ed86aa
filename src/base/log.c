/* SPDX-License-Identifier: MIT */
/* log.c - one line, one write(2), so that lines of many processes on one stderr do not mix.
 *
 * A line never holds a control character: parts of it come from other processes, and a name with
 * an escape sequence or a newline must not forge a line or repaint a terminal. Logging disturbs
 * nobody: errno stays, a failed write is dropped, nothing is allocated. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048
#define LEVEL_COUNT 4
#define LEVEL_UNSET (-1)

static const struct {
    const char *name;  /* as people give it */
    const char *label; /* as lines show it */
} levels[LEVEL_COUNT] = {
    [LOG_ERROR] = {"error", "ERROR"},
    [LOG_WARN] = {"warn", "WARN"},
    [LOG_INFO] = {"info", "INFO"},
    [LOG_DEBUG] = {"debug", "DEBUG"},
};

static atomic_int current = LEVEL_UNSET; /* enum log_level once known */

static int level_of(const char *name)
{
    for (int i = 0; name != NULL && i < LEVEL_COUNT; i++) {
        if (strcasecmp(name, levels[i].name) == 0) {
            return i;
        }
    }
    return LEVEL_UNSET;
}

int log_set_level(const char *name)
{
    int level = level_of(name);

    if (level == LEVEL_UNSET) {
        return TRK_EINVAL;
    }
    atomic_store(&current, level);
    return 0;
}

enum log_level log_get_level(void)
{
    int level = atomic_load_explicit(&current, memory_order_relaxed);
    int expected = LEVEL_UNSET;

    if (level != LEVEL_UNSET) {
        return (enum log_level)level;
    }
    /* A name nobody knows must not stop a program that only inherited it: quiet, as without. */
    level = level_of(getenv("TRICKLE_LOG"));
    level = level == LEVEL_UNSET ? LOG_WARN : level;
    if (!atomic_compare_exchange_strong(&current, &expected, level)) {
        level = expected; /* set by another thread meanwhile */
    }
    return (enum log_level)level;
}

void log_write(enum log_level level, const char *area, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    int errno_before = errno, head, text;
    size_t size;
    ssize_t written;
    va_list args;

    if (level > log_get_level()) {
        return;
    }
    head = snprintf(line, sizeof(line), "trickle[%d] %s %.32s: ", (int)getpid(),
                    levels[level].label, area);
    va_start(args, format);
    text = vsnprintf(line + head, sizeof(line) - (size_t)head, format, args);
    va_end(args);
    size = strlen(line);
    if (text >= (int)sizeof(line) - head) {
        memcpy(line + size - 3, "...", 3); /* says that it was cut */
    }
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) {
            line[i] = ' ';
        }
    }
    line[size] = '\n'; /* in the terminator's place */
    do {
        written = write(STDERR_FILENO, line, size + 1);
    } while (written < 0 && errno == EINTR);
    errno = errno_before;
}
