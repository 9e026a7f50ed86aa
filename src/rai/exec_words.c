/* SPDX-License-Identifier: MIT */
/* exec_words.c - templates and an element's fields make words. Bytes stay bytes: no encoding is
 * looked at anywhere. The transforms are those of GNU parallel, to the corner cases. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "rai/exec_impl.h"

#define NUMBER_MAX 24 /* digits of a number, and its end */

static struct trk_exec_bytes base_of(struct trk_exec_bytes b)
{
    const char *slash = b.size > 0 ? memrchr(b.bytes, '/', b.size) : NULL;
    if (slash != NULL) {
        b.size -= (size_t)(slash + 1 - (const char *)b.bytes);
        b.bytes = slash + 1;
    }
    return b;
}

/* Without its last dot and what follows, when something follows and no slash is in it. */
static struct trk_exec_bytes without_ending(struct trk_exec_bytes b)
{
    struct trk_exec_bytes base = base_of(b);
    const char *dot = base.size > 0 ? memrchr(base.bytes, '.', base.size) : NULL;
    const char *end = (const char *)b.bytes + b.size;
    if (dot != NULL && dot + 1 < end) {
        b.size -= (size_t)(end - dot);
    }
    return b;
}

static struct trk_exec_bytes without_slashes(struct trk_exec_bytes b)
{
    const char *text = b.bytes;
    while (b.size > 1 && text[b.size - 1] == '/') {
        b.size--;
    }
    return b;
}

static struct trk_exec_bytes directory_of(struct trk_exec_bytes b)
{
    b = without_slashes(b);
    struct trk_exec_bytes base = base_of(b);
    if (base.size == b.size) {
        return (struct trk_exec_bytes){".", 1};
    }
    b.size -= base.size;
    return without_slashes(b);
}

static struct trk_exec_bytes transformed(struct trk_exec_bytes b, enum trk_exec_transform how)
{
    switch (how) {
    case TRK_EXEC_NO_ENDING:
        return without_ending(b);
    case TRK_EXEC_BASE:
        return base_of(b);
    case TRK_EXEC_DIRECTORY:
        return directory_of(b);
    case TRK_EXEC_BASE_NO_ENDING:
        return without_ending(base_of(b));
    case TRK_EXEC_WHOLE:
        break;
    }
    return b;
}

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("_-./:=@%+,", c) != NULL);
}

/* One word for a POSIX shell: as it is, or in single quotes. */
static void put_quoted(struct buf *b, struct trk_exec_bytes text)
{
    const char *at = text.bytes;
    size_t plain = 0;
    while (plain < text.size && is_plain(at[plain])) {
        plain++;
    }
    if (plain > 0 && plain == text.size) {
        buf_put(b, at, plain);
        return;
    }
    buf_put_u8(b, '\'');
    for (size_t i = 0; i < text.size;) {
        const char *quote = memchr(at + i, '\'', text.size - i);
        size_t n = quote != NULL ? (size_t)(quote - at) - i : text.size - i;
        buf_put(b, at + i, n);
        i += n;
        if (quote != NULL) {
            buf_put(b, "'\\''", 4);
            i++;
        }
    }
    buf_put_u8(b, '\'');
}

/* Where a piece that is no literal gets its bytes; number: room for one. */
static int find_value(const struct trk_exec_piece *p, const struct exec_values *v,
                      char number[NUMBER_MAX], struct trk_exec_bytes *out)
{
    int n;
    switch (p->kind) {
    case TRK_EXEC_FIELD:
        if (p->index >= v->fields_count) {
            return fail(TRK_EINVAL, "the command needs field %u of its element, counted from 0, "
                        "and this element has %zu", p->index, v->fields_count);
        }
        *out = v->fields[p->index];
        return 0;
    case TRK_EXEC_NUMBER:
        n = snprintf(number, NUMBER_MAX, "%" PRIu64, v->index + 1);
        *out = (struct trk_exec_bytes){number, (size_t)n};
        return 0;
    case TRK_EXEC_OUTPUT:
        *out = v->outputs[p->index];
        return 0;
    case TRK_EXEC_FILE:
        *out = *v->file;
        return 0;
    case TRK_EXEC_LITERAL:
        break;
    }
    *out = p->text;
    return 0;
}

int exec_word(struct buf *b, const struct trk_exec_word *word, const struct exec_values *v,
              bool may_have_nul)
{
    char number[NUMBER_MAX];
    for (size_t i = 0; i < word->count; i++) {
        const struct trk_exec_piece *p = &word->pieces[i];
        struct trk_exec_bytes value;
        int rc = find_value(p, v, number, &value);
        if (rc < 0) {
            return rc;
        }
        if (!may_have_nul && value.size > 0 && memchr(value.bytes, 0, value.size) != NULL) {
            return fail(TRK_EINVAL, "field %u of the element, counted from 0, has a NUL byte, "
                        "which no argument of a command can have", p->index);
        }
        value = transformed(value, p->transform);
        if (p->is_quoted) {
            put_quoted(b, value);
        } else if (value.size > 0) {
            buf_put(b, value.bytes, value.size);
        }
    }
    buf_put_u8(b, 0);
    return b->has_failed ? fail(TRK_ENOMEM, "out of memory") : 0;
}

/* --- for people -------------------------------------------------------------------------- */

/* Appends count words; ends[i] becomes the size of b behind the i-th. */
static int put_words(struct buf *b, const struct trk_exec_word *words, size_t count,
                     const struct exec_values *v, size_t *ends)
{
    for (size_t i = 0; i < count; i++) {
        int rc = exec_word(b, &words[i], v, false);
        if (rc < 0) {
            return rc;
        }
        ends[i] = buf_size(b);
    }
    return 0;
}

/* Words that lie in b one behind the other, each with its NUL. */
static void split_words(struct trk_exec_bytes *out, const void *bytes, const size_t *ends,
                        size_t count)
{
    size_t start = 0;
    for (size_t i = 0; i < count; i++) {
        out[i] = (struct trk_exec_bytes){(const char *)bytes + start, ends[i] - 1 - start};
        start = ends[i];
    }
}

static int give_words(const struct buf *b, const size_t *ends, size_t count,
                      struct trk_exec_bytes **words)
{
    struct trk_exec_bytes *out = mem_alloc(count * sizeof(*out) + buf_size(b));
    if (out == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    memcpy(out + count, b->blob->data, buf_size(b));
    split_words(out, out + count, ends, count);
    *words = out;
    return 0;
}

int trk_exec_argv(const struct trk_exec_spec *spec, const struct trk_exec_bytes *fields,
                  size_t fields_count, uint64_t index, struct trk_exec_bytes **words,
                  size_t *words_count)
{
    struct exec_values v = {.fields = fields, .fields_count = fields_count, .index = index};
    size_t outputs = spec->outputs_count, argc = spec->argc;
    int rc = exec_spec_check(spec);
    if (rc < 0) {
        return rc;
    }
    size_t *ends = mem_alloc((outputs + argc + 1) * sizeof(*ends));
    struct trk_exec_bytes *names = mem_alloc((outputs + 1) * sizeof(*names));
    struct buf made, given;
    buf_init(&made);
    buf_init(&given);
    rc = ends != NULL && names != NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
    rc = rc < 0 ? rc : put_words(&made, spec->outputs, outputs, &v, ends);
    if (rc == 0) {
        split_words(names, outputs > 0 ? made.blob->data : NULL, ends, outputs);
        v.outputs = names;
        rc = put_words(&given, spec->argv, argc, &v, ends);
    }
    rc = rc < 0 ? rc : give_words(&given, ends, argc, words);
    if (rc == 0) {
        *words_count = argc;
    }
    buf_fini(&made);
    buf_fini(&given);
    mem_free(names);
    mem_free(ends);
    return rc;
}
