/* SPDX-License-Identifier: MIT */
/* exec_stage.h - a spec made ready: what is the same for all its elements. */
#ifndef RAI_EXEC_STAGE_H
#define RAI_EXEC_STAGE_H

#include "rai/exec_impl.h"

#define EXEC_NUMBER_MAX 48 /* bytes of NAME=number, terminated */

struct exec_stage {
    struct exec_stage *next;
    uint32_t number;
    struct trk_exec_spec *spec;  /* owned, as all that follows */
    char **env;                  /* of its commands; the last three are the next ones */
    char index_text[EXEC_NUMBER_MAX], attempt_text[EXEC_NUMBER_MAX], mark_text[EXEC_MARK_MAX];
    char mark[EXEC_MARK_MAX];    /* what mark_text begins with, in all runs */
    char *texts;                 /* the other variables, one terminated text after the other */
    char *program;               /* where the program of this name was found; NULL: not yet */
    char *program_name;
    uint32_t kill_after_ms;
    size_t stdout_keep, stderr_keep; /* bytes */
};

/* NULL with a sentence. */
struct exec_stage *exec_stage_new(uint32_t number, const void *spec, size_t size);
void exec_stage_free(struct exec_stage *s);
struct exec_stage *exec_stage_of(struct exec_stage *list, uint32_t number); /* or NULL */
/* Which element it is, in its environment. */
void exec_stage_number(struct exec_stage *s, uint64_t index, uint32_t attempt, uint64_t run);
/* Where the program is, in the PATH of its environment. 0, or errno. */
TRK_MUST_USE int exec_stage_find(struct exec_stage *s, const char *name, int cwd_fd, char *path,
                                 size_t path_size);
void exec_stage_forget(struct exec_stage *s); /* the program that was found */

#endif
