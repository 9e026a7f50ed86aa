/* SPDX-License-Identifier: MIT */
/* fail.h - the sentence that goes with a negative return: kept per thread, for people. */
#ifndef BASE_FAIL_H
#define BASE_FAIL_H

#include "trickle/error.h"

/* Remembers the sentence and returns error, so that `return fail(TRK_EIO, "...")` reads well. */
int fail(int error, const char *format, ...) TRK_PRINTF(2, 3);
const char *fail_text(void); /* of this thread; "" at first */

#endif
