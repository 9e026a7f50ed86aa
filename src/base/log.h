/* SPDX-License-Identifier: MIT */
/* log.h - log lines to stderr by level. Quiet (WARN) by default; level from --log or
 * $TRICKLE_LOG: error, warn, info, debug. One line is one write(2). Any thread. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "trickle/error.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

int log_set_level(const char *name); /* 0, or TRK_EINVAL and nothing changed */
enum log_level log_get_level(void);
/* area: "net", "sched", ...  Format without a newline. */
void log_write(enum log_level level, const char *area, const char *format, ...) TRK_PRINTF(3, 4);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                       \
    do {                                     \
        if (log_get_level() >= LOG_DEBUG) {  \
            log_write(LOG_DEBUG, __VA_ARGS__); \
        }                                    \
    } while (0)

#endif
