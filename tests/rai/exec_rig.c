/* SPDX-License-Identifier: MIT */
#include "tests/rai/exec_rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h" /* before check.h, which has a macro of that name */
#include "base/mem.h"
#include <check.h>

#define PIECES_MAX 256
#define WORDS_MAX 64

struct trk_exec_spec rig_spec;
struct trk_exec_result rig_result;
uint32_t rig_attempt;

static struct trk_exec_piece pieces[PIECES_MAX];
static struct trk_exec_word words[WORDS_MAX];
static size_t pieces_used, words_used, fds_before;
static struct trk_rai_reply reply;
static char folder[64];

static size_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

void rig_setup(void)
{
    snprintf(folder, sizeof(folder), "/tmp/trickle-exec-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);
    memset(&rig_spec, 0, sizeof(rig_spec));
    rig_spec.size = sizeof(rig_spec);
    rig_attempt = 1;
    pieces_used = words_used = 0;
    rai_reply_init(&reply);
    fds_before = count_fds();
}

void rig_teardown(void)
{
    char command[256];
    rai_exec.stage_close(NULL, 7);
    rai_reply_fini(&reply);
    ck_assert_uint_eq(mem_live(), 0);
    ck_assert_uint_eq(count_fds(), fds_before);
    ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
    ck_assert_int_eq(errno, ECHILD);
    snprintf(command, sizeof(command), "chmod -R u+rwx %s; rm -rf %s", folder, folder);
    ck_assert_int_eq(system(command), 0);
}

/* "{...}" at text; returns what follows it. */
static const char *parse_piece(struct trk_exec_piece *p, const char *text)
{
    static const struct {
        const char *text;
        enum trk_exec_transform transform;
    } transforms[] = {{"/.", TRK_EXEC_BASE_NO_ENDING}, {"//", TRK_EXEC_DIRECTORY},
                      {"/", TRK_EXEC_BASE}, {".", TRK_EXEC_NO_ENDING}};
    const char *at = text + 1;
    p->kind = TRK_EXEC_FIELD;
    if (*at == 'q') {
        p->is_quoted = true;
        at++;
    }
    for (size_t i = 0; i < 4 && p->transform == TRK_EXEC_WHOLE; i++) {
        if (strncmp(at, transforms[i].text, strlen(transforms[i].text)) == 0) {
            p->transform = transforms[i].transform;
            at += strlen(transforms[i].text);
        }
    }
    if (*at == '#' || *at == 'f' || *at == 'o') {
        p->kind = *at == '#' ? TRK_EXEC_NUMBER : *at == 'f' ? TRK_EXEC_FILE : TRK_EXEC_OUTPUT;
        at++;
    }
    p->index = (uint32_t)strtoul(at, (char **)(uintptr_t)&at, 10);
    ck_assert_int_eq(*at, '}');
    return at + 1;
}

static bool is_piece(const char *at)
{
    return at[0] == '{' && at[1] != '\0' && strchr("0123456789q/.#of", at[1]) != NULL;
}

struct trk_exec_word rig_word(const char *text)
{
    struct trk_exec_word word = {&pieces[pieces_used], 0};
    while (*text != '\0') {
        struct trk_exec_piece *p = &pieces[pieces_used++];
        ck_assert_uint_lt(pieces_used, PIECES_MAX);
        memset(p, 0, sizeof(*p));
        word.count++;
        if (is_piece(text)) {
            text = parse_piece(p, text);
            continue;
        }
        const char *end = text + 1;
        while (*end != '\0' && !is_piece(end)) {
            end++;
        }
        p->text = (struct trk_exec_bytes){text, (size_t)(end - text)};
        text = end;
    }
    return word;
}

static const struct trk_exec_word *words_of(const char *first, va_list args, size_t *count)
{
    struct trk_exec_word *start = &words[words_used];
    for (const char *text = first; text != NULL; text = va_arg(args, const char *)) {
        ck_assert_uint_lt(words_used, WORDS_MAX);
        words[words_used++] = rig_word(text);
    }
    *count = (size_t)(&words[words_used] - start);
    return start;
}

const struct trk_exec_word *rig_words(size_t *count, ...)
{
    va_list args;
    va_start(args, count);
    const char *first = va_arg(args, const char *);
    const struct trk_exec_word *made = words_of(first, args, count);
    va_end(args);
    return made;
}

void rig_argv(const char *first, ...)
{
    va_list args;
    va_start(args, first);
    rig_spec.argv = words_of(first, args, &rig_spec.argc);
    va_end(args);
}

void rig_shell(const char *script)
{
    rig_spec.is_shell = true;
    rig_argv(script, NULL);
}

void rig_open(void)
{
    void *bytes;
    size_t size;
    ck_assert_msg(trk_exec_spec_encode(&rig_spec, &bytes, &size) == 0, "%s", fail_text());
    ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
    ck_assert_int_eq(rai_exec.stage_open(NULL, 7, bytes, size, &reply), TRK_STATUS_OK);
    mem_free(bytes);
}

static int run_fields(const struct trk_exec_bytes *fields, size_t count)
{
    struct trk_rai_element element = {.stage = 7, .attempt = rig_attempt, .index = 41};
    void *bytes;
    ck_assert_int_eq(trk_exec_element_encode(fields, count, &bytes, &element.size), 0);
    element.payload = bytes;
    ck_assert_int_eq(rai_reply_begin(&reply, 0), 0);
    int status = rai_reply_end(&reply, rai_exec.run(NULL, &element, &reply));
    mem_free(bytes);
    memset(&rig_result, 0, sizeof(rig_result));
    if (status != TRK_STATUS_ERROR) {
        ck_assert_msg(trk_exec_result_decode(rai_reply_bytes(&reply), rai_reply_size(&reply),
                                             &rig_result) == 0, "%s", fail_text());
        ck_assert_int_eq(status == TRK_STATUS_OK, rig_result.outcome == TRK_EXEC_OK);
    } else {
        rig_result.why = (struct trk_exec_bytes){rai_reply_bytes(&reply), rai_reply_size(&reply)};
    }
    return status;
}

int rig_run(const char *first, ...)
{
    struct trk_exec_bytes fields[16];
    size_t count = 0;
    va_list args;
    va_start(args, first);
    for (const char *text = first; text != NULL; text = va_arg(args, const char *)) {
        ck_assert_uint_lt(count, 16);
        fields[count++] = (struct trk_exec_bytes){text, strlen(text)};
    }
    va_end(args);
    return run_fields(fields, count);
}

int rig_run_field(const void *bytes, size_t size)
{
    struct trk_exec_bytes field = {bytes, size};
    return run_fields(&field, 1);
}

static const char *text_of(const void *bytes, size_t size)
{
    static char texts[4][65536];
    static unsigned next;
    char *text = texts[next++ % 4];
    size = size < sizeof(texts[0]) - 1 ? size : sizeof(texts[0]) - 1;
    memcpy(text, bytes, size);
    text[size] = '\0';
    return text;
}

const char *rig_out(void)
{
    return text_of(rig_result.out.bytes, rig_result.out.size);
}

const char *rig_why(void)
{
    return text_of(rig_result.why.bytes, rig_result.why.size);
}

size_t rig_list(char *text, size_t size)
{
    struct dirent **names;
    int count = scandir(".", &names, NULL, alphasort);
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0) {
            n += (size_t)snprintf(text + n, size - n, "%s ", names[i]->d_name);
        }
        free(names[i]);
    }
    free(names);
    return n;
}

void rig_write(const char *name, const char *text)
{
    FILE *file = fopen(name, "we");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

const char *rig_read(const char *name)
{
    char bytes[4096];
    FILE *file = fopen(name, "re");
    if (file == NULL) {
        return "?";
    }
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    return text_of(bytes, size);
}
