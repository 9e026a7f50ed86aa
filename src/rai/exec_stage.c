/* SPDX-License-Identifier: MIT */
/* exec_stage.c - a spec made ready: its environment, where its program is.
 *
 * The environment is this process's as it is when the stage is opened. What says which element
 * runs stands at its end, in room of its own, so that an element costs three numbers. */
#include "rai/exec_stage.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"

#define PATH_DEFAULT "/usr/local/bin:/usr/bin:/bin"

/* --- the environment --------------------------------------------------------------------- */

static bool has_name(const char *entry, const char *name, size_t size)
{
    return strncmp(entry, name, size) == 0 && entry[size] == '=';
}

/* Does the command get this variable of ours? Marks of others it does: when this VM is itself part
 * of a command, who has started that has to find this one's commands, too. */
static bool is_passed(const struct exec_stage *s, const char *entry)
{
    const struct trk_exec_spec *spec = s->spec;
    static const char *const own[] = {"TRICKLE_ELEMENT", "TRICKLE_ATTEMPT"};
    if (has_name(entry, s->mark, strcspn(s->mark, "="))) {
        return false;
    }
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        if (has_name(entry, own[i], strlen(own[i]))) {
            return false;
        }
    }
    for (size_t i = 0; i < spec->unset_count; i++) {
        if (has_name(entry, spec->unset[i].bytes, spec->unset[i].size)) {
            return false;
        }
    }
    for (size_t i = 0; i < spec->env_count; i++) {
        const char *text = spec->env[i].bytes;
        const char *equals = memchr(text, '=', spec->env[i].size);
        if (has_name(entry, text, (size_t)(equals - text))) {
            return false;
        }
    }
    return true;
}

static size_t count_bytes(const struct trk_exec_spec *spec, size_t *count)
{
    size_t size = 0;
    for (*count = 0; environ[*count] != NULL; (*count)++) {
        size += strlen(environ[*count]) + 1;
    }
    for (size_t i = 0; i < spec->env_count; i++) {
        size += spec->env[i].size + 1;
    }
    *count += spec->env_count;
    return size;
}

/* All texts are copied: user code in this process may change its environment meanwhile. */
static int make_env(struct exec_stage *s)
{
    const struct trk_exec_spec *spec = s->spec;
    size_t count, size = count_bytes(spec, &count), n = 0;
    char *at = s->texts = mem_alloc(size);
    s->env = mem_zalloc(count + 4, sizeof(*s->env));
    if (s->env == NULL || s->texts == NULL) {
        return TRK_ENOMEM;
    }
    for (char **entry = environ; *entry != NULL; entry++) {
        if (is_passed(s, *entry)) {
            size_t entry_size = strlen(*entry) + 1;
            s->env[n++] = memcpy(at, *entry, entry_size);
            at += entry_size;
        }
    }
    for (size_t i = 0; i < spec->env_count; i++) {
        s->env[n++] = memcpy(at, spec->env[i].bytes, spec->env[i].size);
        at += spec->env[i].size;
        *at++ = '\0';
    }
    s->env[n++] = s->index_text;
    s->env[n++] = s->attempt_text;
    s->env[n] = s->mark_text;
    return 0;
}

void exec_stage_number(struct exec_stage *s, uint64_t index, uint32_t attempt, uint64_t run)
{
    snprintf(s->index_text, sizeof(s->index_text), "TRICKLE_ELEMENT=%" PRIu64, index);
    snprintf(s->attempt_text, sizeof(s->attempt_text), "TRICKLE_ATTEMPT=%" PRIu32, attempt);
    snprintf(s->mark_text, sizeof(s->mark_text), "%.64s%" PRIu64, s->mark, run);
}

/* --- the program ------------------------------------------------------------------------- */

static const char *path_of(const struct exec_stage *s)
{
    for (size_t i = 0; s->env[i] != NULL; i++) {
        if (has_name(s->env[i], "PATH", 4)) {
            return s->env[i] + 5;
        }
    }
    return PATH_DEFAULT;
}

/* 0, or errno. */
static int is_program(int cwd_fd, const char *path)
{
    struct stat st;
    int at = cwd_fd >= 0 ? cwd_fd : AT_FDCWD;
    if (fstatat(at, path, &st, 0) < 0) {
        return errno;
    }
    return S_ISREG(st.st_mode) && faccessat(at, path, X_OK, 0) == 0 ? 0 : EACCES;
}

static int search(const struct exec_stage *s, const char *name, int cwd_fd, char *path,
                  size_t path_size)
{
    int error = ENOENT;
    const char *dir = path_of(s);
    for (;;) {
        size_t size = strcspn(dir, ":");
        int n = size > 0 ? snprintf(path, path_size, "%.*s/%s", (int)size, dir, name)
                         : snprintf(path, path_size, "./%s", name);
        int rc = n > 0 && (size_t)n < path_size ? is_program(cwd_fd, path) : ENOENT;
        if (rc == 0) {
            return 0;
        }
        error = rc == EACCES ? EACCES : error;
        if (dir[size] == '\0') {
            return error;
        }
        dir += size + 1;
    }
}

void exec_stage_forget(struct exec_stage *s)
{
    mem_free(s->program);
    mem_free(s->program_name);
    s->program = s->program_name = NULL;
}

int exec_stage_find(struct exec_stage *s, const char *name, int cwd_fd, char *path,
                    size_t path_size)
{
    if (strchr(name, '/') != NULL || name[0] == '\0') {
        int n = snprintf(path, path_size, "%s", name);
        return name[0] == '\0' ? ENOENT : n > 0 && (size_t)n < path_size ? 0 : ENAMETOOLONG;
    }
    if (s->program != NULL && strcmp(s->program_name, name) == 0) {
        snprintf(path, path_size, "%s", s->program);
        return 0;
    }
    int rc = search(s, name, cwd_fd, path, path_size);
    if (rc == 0 && path[0] == '/') { /* else it depends on the directory */
        exec_stage_forget(s);
        s->program = mem_strdup(path);
        s->program_name = mem_strdup(name);
        if (s->program == NULL || s->program_name == NULL) {
            exec_stage_forget(s);
        }
    }
    return rc;
}

/* --- its life ---------------------------------------------------------------------------- */

static size_t keep_of(uint32_t keep)
{
    return keep == 0 ? TRK_EXEC_KEEP_DEFAULT : keep == TRK_EXEC_KEEP_NONE ? 0 : keep;
}

struct exec_stage *exec_stage_new(uint32_t number, const void *spec, size_t size)
{
    struct exec_stage *s = mem_zalloc(1, sizeof(*s));
    if (s == NULL) {
        fail(TRK_ENOMEM, "out of memory");
        return NULL;
    }
    s->number = number;
    if (trk_exec_spec_decode(spec, size, &s->spec) < 0) {
        exec_stage_free(s);
        return NULL;
    }
    const char *owner = getenv(EXEC_OWNER_ENV);
    snprintf(s->mark, sizeof(s->mark), EXEC_MARK_ENV "%.32s=%d.", owner != NULL ? owner : "",
             (int)getpid());
    s->kill_after_ms = s->spec->kill_after_ms != 0 ? s->spec->kill_after_ms
                                                   : TRK_EXEC_KILL_AFTER_MS;
    s->stdout_keep = keep_of(s->spec->stdout_keep);
    s->stderr_keep = keep_of(s->spec->stderr_keep);
    if (make_env(s) < 0) {
        exec_stage_free(s);
        fail(TRK_ENOMEM, "out of memory");
        return NULL;
    }
    return s;
}

void exec_stage_free(struct exec_stage *s)
{
    exec_stage_forget(s);
    mem_free(s->env);
    mem_free(s->texts);
    mem_free(s->spec);
    mem_free(s);
}

struct exec_stage *exec_stage_of(struct exec_stage *list, uint32_t number)
{
    while (list != NULL && list->number != number) {
        list = list->next;
    }
    return list;
}
