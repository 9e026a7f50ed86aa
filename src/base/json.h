/* SPDX-License-Identifier: MIT */
/* json.h - writing JSON into a buf, a piece at a time: the caller puts braces and commas. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/buf.h"
#include "trickle/error.h"

/* As it is; at most 511 bytes (more is a bug: nothing is put). */
void json_put(struct buf *b, const char *format, ...) TRK_PRINTF(2, 3);
/* A number of seconds, whatever the program's locale is. */
void json_put_seconds(struct buf *b, uint64_t ns);
/* A string, quoted. A byte that is not UTF-8 becomes the lone surrogate U+DC00 + byte, from which
 * Python's os.fsencode gives it back. */
void json_put_text(struct buf *b, const char *text);

#endif
