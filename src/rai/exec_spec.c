/* SPDX-License-Identifier: MIT */
/* exec_spec.c - a spec of commands to bytes and back.
 *
 * What may stand in a spec is checked in one place, on the struct: before it is written, and after
 * it was read. A decoded spec is one block: the struct, a copy of the bytes, and what points into
 * it. That block's size follows from the size of the bytes: whatever is read into an array takes
 * at least a fourth of its room there. Damaged counts claim the same bytes for several arrays, so
 * the end of the room is looked at, too. */
#include <assert.h> /* static_assert */
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "rai/exec_impl.h"

#define GROWTH 4 /* see above */
#define PIECE_LEAST 12 /* bytes of an encoded piece */
#define COUNT_LEAST 4  /* of an encoded word, and of encoded bytes */
#define SPEC_MARK 'S'
#define TEXT_BYTES_MAX ((size_t)1 << 24) /* of a literal or a variable */
#define NO_WORD ((struct trk_exec_word){NULL, 0})

static_assert(sizeof(struct trk_exec_word) <= GROWTH * COUNT_LEAST, "see GROWTH");
static_assert(sizeof(struct trk_exec_bytes) <= GROWTH * COUNT_LEAST, "see GROWTH");
static_assert(sizeof(struct trk_exec_piece) <= GROWTH * PIECE_LEAST, "see GROWTH");

/* --- what may stand in it ---------------------------------------------------------------- */

#define MAY(kind) (1u << (kind))
#define MAY_ELEMENT (MAY(TRK_EXEC_LITERAL) | MAY(TRK_EXEC_FIELD) | MAY(TRK_EXEC_NUMBER))

struct place {
    const char *name;
    unsigned kinds;    /* MAY() of those that can stand here */
    bool may_have_nul;
};

static const struct place in_argv = {"the command", MAY_ELEMENT | MAY(TRK_EXEC_OUTPUT), false};
static const struct place in_input = {"stdin", MAY_ELEMENT | MAY(TRK_EXEC_OUTPUT), true};
static const struct place in_cwd = {"the working directory", MAY_ELEMENT, false};
static const struct place in_output = {"an output's name", MAY_ELEMENT, false};
static const struct place in_check = {"the check", MAY_ELEMENT | MAY(TRK_EXEC_FILE), false};

static bool has_nul(const struct trk_exec_bytes *b)
{
    return b->size > 0 && memchr(b->bytes, 0, b->size) != NULL;
}

static int check_piece(const struct trk_exec_spec *spec, const struct place *place,
                       const struct trk_exec_piece *p)
{
    if ((unsigned)p->kind > TRK_EXEC_FILE || (unsigned)p->transform > TRK_EXEC_BASE_NO_ENDING) {
        return fail(TRK_EINVAL, "%s has a piece of a kind that does not exist (%u, %u)",
                    place->name, (unsigned)p->kind, (unsigned)p->transform);
    }
    if ((place->kinds & MAY(p->kind)) == 0) {
        return fail(TRK_EINVAL, p->kind == TRK_EXEC_FILE
                                    ? "%s names the file under check; only a check can"
                                    : "%s names the temporary name of an output; only the command "
                                      "and its stdin can",
                    place->name);
    }
    if (p->kind == TRK_EXEC_LITERAL) {
        if (p->transform != TRK_EXEC_WHOLE || p->is_quoted) {
            return fail(TRK_EINVAL, "%s has text that is to be changed; only fields can be",
                        place->name);
        }
        if (p->text.size > TEXT_BYTES_MAX) {
            return fail(TRK_EINVAL, "%s has a text of over 16 MiB", place->name);
        }
        if (!place->may_have_nul && has_nul(&p->text)) {
            return fail(TRK_EINVAL, "%s has a NUL byte, which no command can be given",
                        place->name);
        }
    }
    if (p->kind == TRK_EXEC_OUTPUT && p->index >= spec->outputs_count) {
        return fail(TRK_EINVAL, "%s names output %u; there are %zu, counted from 0", place->name,
                    p->index, spec->outputs_count);
    }
    return 0;
}

static int check_words(const struct trk_exec_spec *spec, const struct place *place,
                       const struct trk_exec_word *words, size_t count)
{
    if (count > TRK_EXEC_WORDS_MAX) {
        return fail(TRK_EINVAL, "%s has more than %u words", place->name, TRK_EXEC_WORDS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        if (words[i].count > TRK_EXEC_WORDS_MAX) {
            return fail(TRK_EINVAL, "%s has a word of more than %u pieces", place->name,
                        TRK_EXEC_WORDS_MAX);
        }
        for (size_t k = 0; k < words[i].count; k++) {
            int rc = check_piece(spec, place, &words[i].pieces[k]);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

/* Variables by which Trickle finds what it has started. */
static bool is_reserved(const char *name, size_t size)
{
    const size_t start = strlen(EXEC_MARK_ENV);
    return (size >= start && memcmp(name, EXEC_MARK_ENV, start) == 0) ||
           (size == strlen(EXEC_OWNER_ENV) && memcmp(name, EXEC_OWNER_ENV, size) == 0);
}

static int check_variables(const struct trk_exec_bytes *list, size_t count, bool has_value)
{
    if (count > TRK_EXEC_WORDS_MAX) {
        return fail(TRK_EINVAL, "more than %u variables", TRK_EXEC_WORDS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const char *text = list[i].bytes;
        const char *equals = list[i].size > 0 ? memchr(text, '=', list[i].size) : NULL;
        size_t name_size = equals != NULL ? (size_t)(equals - text) : list[i].size;
        if (name_size == 0 || has_nul(&list[i]) || list[i].size > TEXT_BYTES_MAX ||
            (equals != NULL) != has_value) {
            return fail(TRK_EINVAL, "the variable \"%.*s\" cannot be %s: give %s",
                        (int)(list[i].size < 80 ? list[i].size : 80), text != NULL ? text : "",
                        has_value ? "set" : "unset", has_value ? "NAME=value" : "a name");
        }
        if (is_reserved(text, name_size)) {
            return fail(TRK_EINVAL, "the variable %.*s is Trickle's own", (int)name_size, text);
        }
    }
    return 0;
}

static int check_keep(uint32_t keep, const char *name)
{
    if (keep > TRK_EXEC_KEEP_MAX && keep != TRK_EXEC_KEEP_NONE) {
        return fail(TRK_EINVAL, "of %s at most %u bytes can be kept", name, TRK_EXEC_KEEP_MAX);
    }
    return 0;
}

int exec_spec_check(const struct trk_exec_spec *s)
{
    if (s->argc == 0 || (s->is_shell && s->argc != 1)) {
        return fail(TRK_EINVAL, s->argc == 0 ? "there is no command"
                                             : "a command for the shell is one word");
    }
    if (s->check_count > 0 &&
        (s->outputs_count == 0 || (s->is_check_shell && s->check_count != 1))) {
        return fail(TRK_EINVAL, s->outputs_count == 0
                                    ? "there is a check, but no output to be checked"
                                    : "a check for the shell is one word");
    }
    int rc = check_words(s, &in_argv, s->argv, s->argc);
    rc = rc < 0 ? rc : check_words(s, &in_cwd, &s->cwd, 1);
    rc = rc < 0 || !s->has_input ? rc : check_words(s, &in_input, &s->input, 1);
    rc = rc < 0 ? rc : check_words(s, &in_output, s->outputs, s->outputs_count);
    rc = rc < 0 ? rc : check_words(s, &in_check, s->check, s->check_count);
    rc = rc < 0 ? rc : check_variables(s->env, s->env_count, true);
    rc = rc < 0 ? rc : check_variables(s->unset, s->unset_count, false);
    rc = rc < 0 ? rc : check_keep(s->stdout_keep, "stdout");
    return rc < 0 ? rc : check_keep(s->stderr_keep, "stderr");
}

/* --- to bytes ---------------------------------------------------------------------------- */

static void put_word(struct buf *b, const struct trk_exec_word *word)
{
    buf_put_u32(b, (uint32_t)word->count);
    for (size_t i = 0; i < word->count; i++) {
        const struct trk_exec_piece *p = &word->pieces[i];
        bool is_text = p->kind == TRK_EXEC_LITERAL;
        buf_put_u8(b, (uint8_t)p->kind);
        buf_put_u8(b, (uint8_t)p->transform);
        buf_put_u8(b, p->is_quoted);
        buf_put_u8(b, 0);
        buf_put_u32(b, p->index);
        exec_put_bytes(b, is_text ? p->text.bytes : "", is_text ? p->text.size : 0);
    }
}

static void put_words(struct buf *b, const struct trk_exec_word *words, size_t count,
                      bool is_shell)
{
    static const char *const shell[] = {"/bin/sh", "-c"};
    buf_put_u32(b, (uint32_t)(count + (is_shell ? 2 : 0)));
    for (size_t i = 0; is_shell && i < 2; i++) {
        struct trk_exec_piece piece = {.text = {shell[i], strlen(shell[i])}};
        put_word(b, &(struct trk_exec_word){&piece, 1});
    }
    for (size_t i = 0; i < count; i++) {
        put_word(b, &words[i]);
    }
}

static void put_list(struct buf *b, const struct trk_exec_bytes *list, size_t count)
{
    buf_put_u32(b, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        exec_put_bytes(b, list[i].bytes, list[i].size);
    }
}

int trk_exec_spec_encode(const struct trk_exec_spec *spec, void **out, size_t *size)
{
    struct trk_exec_spec s = {0};
    struct buf b;
    memcpy(&s, spec, spec->size < sizeof(s) ? spec->size : sizeof(s));
    int rc = exec_spec_check(&s);
    if (rc < 0) {
        return rc;
    }
    buf_init(&b);
    exec_put_head(&b, SPEC_MARK, 0);
    buf_put_u32(&b, s.timeout_ms);
    buf_put_u32(&b, s.kill_after_ms);
    buf_put_u32(&b, s.stdout_keep);
    buf_put_u32(&b, s.stderr_keep);
    put_words(&b, s.argv, s.argc, s.is_shell);
    put_words(&b, &s.cwd, s.cwd.count > 0, false);
    put_words(&b, &s.input, s.has_input, false);
    put_list(&b, s.env, s.env_count);
    put_list(&b, s.unset, s.unset_count);
    put_words(&b, s.outputs, s.outputs_count, false);
    put_words(&b, s.check, s.check_count, s.is_check_shell);
    return exec_give(&b, out, size);
}

/* --- and back ---------------------------------------------------------------------------- */

struct reader {
    struct cursor c;
    uint8_t *room; /* where the next array goes */
    uint8_t *end;  /* of the room */
};

/* Room for an array whose entries take at least `least` bytes each of those that are left. */
static void *get_array(struct reader *r, uint32_t *count, size_t least, size_t entry_size)
{
    void *at = r->room;
    *count = cursor_get_u32(&r->c);
    if (*count > cursor_left(&r->c) / least || *count > (size_t)(r->end - r->room) / entry_size) {
        r->c.has_failed = true;
    }
    if (r->c.has_failed) {
        *count = 0;
    }
    r->room += *count * entry_size;
    memset(at, 0, *count * entry_size);
    return at;
}

static void get_word(struct reader *r, struct trk_exec_word *word)
{
    uint32_t count;
    struct trk_exec_piece *pieces = get_array(r, &count, PIECE_LEAST, sizeof(*pieces));
    for (uint32_t i = 0; i < count; i++) {
        pieces[i].kind = cursor_get_u8(&r->c);
        pieces[i].transform = cursor_get_u8(&r->c);
        uint8_t quoted = cursor_get_u8(&r->c), zero = cursor_get_u8(&r->c);
        pieces[i].is_quoted = quoted != 0;
        pieces[i].index = cursor_get_u32(&r->c);
        exec_get_bytes(&r->c, &pieces[i].text);
        if (quoted > 1 || zero != 0 ||
            (pieces[i].kind != TRK_EXEC_LITERAL && pieces[i].text.size > 0)) {
            r->c.has_failed = true;
        }
    }
    word->pieces = pieces;
    word->count = count;
}

static const struct trk_exec_word *get_words(struct reader *r, size_t *words_count)
{
    uint32_t count;
    struct trk_exec_word *words = get_array(r, &count, COUNT_LEAST, sizeof(*words));
    for (uint32_t i = 0; i < count; i++) {
        get_word(r, &words[i]);
    }
    *words_count = count;
    return words;
}

static struct trk_exec_word get_one_word(struct reader *r, bool *is_there)
{
    size_t count;
    const struct trk_exec_word *words = get_words(r, &count);
    if (count > 1) {
        r->c.has_failed = true;
    }
    *is_there = count == 1;
    return count == 1 ? words[0] : NO_WORD;
}

static const struct trk_exec_bytes *get_list(struct reader *r, size_t *list_count)
{
    uint32_t count;
    struct trk_exec_bytes *list = get_array(r, &count, COUNT_LEAST, sizeof(*list));
    for (uint32_t i = 0; i < count; i++) {
        exec_get_bytes(&r->c, &list[i]);
    }
    *list_count = count;
    return list;
}

static void get_spec(struct reader *r, struct trk_exec_spec *s)
{
    bool has_cwd;
    s->size = sizeof(*s);
    s->timeout_ms = cursor_get_u32(&r->c);
    s->kill_after_ms = cursor_get_u32(&r->c);
    s->stdout_keep = cursor_get_u32(&r->c);
    s->stderr_keep = cursor_get_u32(&r->c);
    s->argv = get_words(r, &s->argc);
    s->cwd = get_one_word(r, &has_cwd);
    s->input = get_one_word(r, &s->has_input);
    s->env = get_list(r, &s->env_count);
    s->unset = get_list(r, &s->unset_count);
    s->outputs = get_words(r, &s->outputs_count);
    s->check = get_words(r, &s->check_count);
    if (has_cwd && s->cwd.count == 0) {
        r->c.has_failed = true; /* one way to write each spec */
    }
}

int trk_exec_spec_decode(const void *bytes, size_t size, struct trk_exec_spec **out)
{
    struct reader r;
    uint8_t zero;
    cursor_init(&r.c, bytes, size);
    int rc = exec_get_head(&r.c, SPEC_MARK, &zero, "command");
    if (rc < 0) {
        return rc;
    }
    struct trk_exec_spec *s = mem_zalloc(1, sizeof(*s) + (GROWTH + 1) * size);
    if (s == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    r.room = (uint8_t *)(s + 1);
    uint8_t *copy = r.end = r.room + GROWTH * size;
    memcpy(copy, bytes, size);
    cursor_init(&r.c, copy + EXEC_HEAD_BYTES, size - EXEC_HEAD_BYTES);
    get_spec(&r, s);
    if (r.c.has_failed || cursor_left(&r.c) > 0 || zero != 0) {
        rc = fail(TRK_ECORRUPT, "the description of the command is damaged");
    } else if (exec_spec_check(s) < 0) {
        rc = fail(TRK_ECORRUPT, "the description of the command cannot be right: %s", fail_text());
    }
    if (rc < 0) {
        mem_free(s);
        return rc;
    }
    *out = s;
    return 0;
}
