/* SPDX-License-Identifier: MIT */
/* json.c - see json.h. */
#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PIECE_MAX 512

void json_put(struct buf *b, const char *format, ...)
{
    char text[PIECE_MAX];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof(text));
    buf_put(b, text, (size_t)n);
}

void json_put_seconds(struct buf *b, uint64_t ns)
{
    json_put(b, "%" PRIu64 ".%06u", ns / 1000000000u, (unsigned)(ns % 1000000000u / 1000u));
}

/* How many bytes at text are one character in UTF-8, from 0x80 on; 0: they are none. */
static size_t character(const unsigned char *text)
{
    static const struct {
        unsigned char first, last;   /* lead bytes */
        unsigned char least, most;   /* of the second byte: no overlong forms, no surrogates */
        size_t size;
    } forms[] = {
        {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3}, {0xE1, 0xEC, 0x80, 0xBF, 3},
        {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4},
        {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (text[0] < forms[i].first || text[0] > forms[i].last) {
            continue;
        }
        size_t size = 1;
        if (text[1] >= forms[i].least && text[1] <= forms[i].most) {
            for (size = 2; size < forms[i].size && (text[size] & 0xC0) == 0x80; size++) {
            }
        }
        return size == forms[i].size ? size : 0;
    }
    return 0;
}

void json_put_text(struct buf *b, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    buf_put_u8(b, '"');
    while (*at != '\0') {
        size_t size = *at < 0x80 ? 1 : character(at);
        if (size == 0) {
            json_put(b, "\\udc%02x", *at);
        } else if (*at == '"' || *at == '\\') {
            json_put(b, "\\%c", *at);
        } else if (*at < 0x20) {
            json_put(b, "\\u%04x", *at);
        } else {
            buf_put(b, at, size);
        }
        at += size > 0 ? size : 1;
    }
    buf_put_u8(b, '"');
}
