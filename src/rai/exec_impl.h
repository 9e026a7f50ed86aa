/* SPDX-License-Identifier: MIT */
/* exec_impl.h - the module "exec": what its files share. include/trickle/exec.h is what it does.
 *
 *   exec_spec.c    a spec to bytes and back
 *   exec_codec.c   elements and results to bytes and back
 *   exec_words.c   templates and fields -> words
 *   exec.c         the module: its stages, one element from its words to its result
 *   exec_stage.c   a spec made ready: environment, program
 *   exec_child.c   one command: started, read, waited for, stopped
 *   exec_tree.c    what a command has started, and the end of all of it
 *   exec_output.c  outputs under temporary names, and into place
 *   exec_keep.c    the first and the last bytes of a stream */
#ifndef RAI_EXEC_IMPL_H
#define RAI_EXEC_IMPL_H

#include <pthread.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/buf.h"
#include "trickle/exec.h"
#include "trickle/rai.h"

#define EXEC_HEAD_BYTES 4
#define EXEC_MARK_ENV "TRICKLE_EXEC_"     /* and the owner: all that its commands start has it */
#define EXEC_OWNER_ENV "TRICKLE_VM_OWNER" /* vm/host.h */
#define EXEC_LINGER_MS 1000u    /* what an ended command leaves may hold its stdout for so long */
#define EXEC_INTERRUPT_MS 200u  /* from SIGTERM to SIGKILL when it is cancelled */
#define EXEC_MARK_MAX 96        /* of TRICKLE_EXEC_..., terminated */

/* exec_codec.c: the parts of the encodings */
void exec_put_head(struct buf *b, char mark, uint8_t third);
/* 0, or TRK_E* with a sentence about what is called name. */
TRK_MUST_USE int exec_get_head(struct cursor *c, char mark, uint8_t *third, const char *name);
void exec_put_bytes(struct buf *b, const void *bytes, size_t size);
void exec_get_bytes(struct cursor *c, struct trk_exec_bytes *out); /* borrowed */
/* Gives what was written to the user of the API, and ends b. 0, or TRK_ENOMEM with a sentence. */
TRK_MUST_USE int exec_give(struct buf *b, void **out, size_t *size);
/* All of a result but the bytes of why, out and err, which follow it in that order. */
void exec_put_result_head(struct buf *b, const struct trk_exec_result *r);

/* Back to no bytes; its room stays. */
static inline void exec_buf_empty(struct buf *b)
{
    if (b->has_failed) {
        buf_fini(b);
    } else if (b->blob != NULL) {
        b->blob->size = 0;
    }
}

/* exec_spec.c: may a spec be as it is? 0, or TRK_EINVAL with a sentence. */
TRK_MUST_USE int exec_spec_check(const struct trk_exec_spec *spec);

/* --- words ------------------------------------------------------------------------------- */

/* What pieces are filled in from; borrowed. */
struct exec_values {
    const struct trk_exec_bytes *fields;
    size_t fields_count;
    uint64_t index; /* of the element */
    const struct trk_exec_bytes *outputs; /* names to give out; NULL where there can be none */
    const struct trk_exec_bytes *file;    /* under check; NULL where there can be none */
};

/* Appends a word, and a NUL byte. 0; TRK_EINVAL with a sentence (no such field, a NUL byte where
 * may_have_nul is false); TRK_ENOMEM with one. */
TRK_MUST_USE int exec_word(struct buf *b, const struct trk_exec_word *word,
                           const struct exec_values *values, bool may_have_nul);

/* --- streams ----------------------------------------------------------------------------- */

/* Of a stream the first keep / 2 bytes and the last ones, keep in all. Zeroed, but for keep, it is
 * empty. */
struct exec_keep {
    uint8_t *bytes;  /* owned; NULL while empty */
    size_t keep;     /* bytes kept at most */
    size_t room;     /* of bytes, up to keep */
    uint64_t total;  /* bytes that were added */
};
bool exec_keep_add(struct exec_keep *k, const void *bytes, size_t size); /* false: no memory */
void exec_keep_get(const struct exec_keep *k, struct trk_exec_kept *out); /* but not the bytes */
TRK_MUST_USE int exec_keep_write(const struct exec_keep *k, struct trk_rai_reply *reply);
void exec_keep_fini(struct exec_keep *k);

/* --- what a command has started ---------------------------------------------------------- */

struct exec_tree {
    const char *mark;     /* "TRICKLE_EXEC_...", whole or its beginning: borrowed */
    pid_t pid;            /* the command, also its process group; 0: none yet */
    pid_t *foreign;       /* children that this process had before, owned */
    size_t foreign_count;
    bool was_reaper;      /* what exec_tree_begin found */
    uint32_t left;        /* processes that exec_tree_kill has ended */
};

/* From now on what loses its parent below this process becomes its child. 0, or TRK_ENOMEM. */
TRK_MUST_USE int exec_tree_begin(struct exec_tree *t, const char *mark);
void exec_tree_end(struct exec_tree *t);
/* Is there anything but the command itself? What has ended is reaped. */
bool exec_tree_has_left(struct exec_tree *t);
/* To all that was set free by the command, and while it is not reaped to its process group. */
void exec_tree_signal(const struct exec_tree *t, bool is_reaped, int number);
/* Ends all that is left, when the command itself has been reaped. */
void exec_tree_kill(struct exec_tree *t);

/* --- one command ------------------------------------------------------------------------- */

struct exec_command {
    const char *path;   /* of the program, relative to cwd_fd */
    char *const *argv, *const *env;
    int cwd_fd;         /* -1: this process's */
    int input_fd;       /* -1: /dev/null */
    uint64_t due_ns;    /* CLOCK_MONOTONIC; UINT64_MAX: no limit */
    uint32_t kill_after_ms;
};

struct exec_end {
    enum trk_exec_outcome outcome; /* not BAD_OUTPUT */
    int error;          /* errno, of NOT_STARTED */
    int32_t exit_status, signal;
    struct rusage usage;
};

/* How the net thread reaches a command that runs. */
struct exec_wake {
    pthread_mutex_t lock;
    int fd; /* eventfd of the running command; -1: none runs */
};
void exec_wake_interrupt(struct exec_wake *w);

/* Runs it to its end, of its whole tree. What it prints is added to out and err. 0, or TRK_ENOMEM,
 * TRK_EIO with a sentence: the VM's trouble, not the command's. */
TRK_MUST_USE int exec_child_run(const struct exec_command *c, struct exec_tree *tree,
                                struct exec_wake *wake, struct exec_keep *out,
                                struct exec_keep *err, struct exec_end *end);

/* --- outputs ----------------------------------------------------------------------------- */

struct exec_output {
    const char *target;  /* its name; borrowed */
    const char *base;    /* the last part of it, the file's name also in the temporary directory */
    char *dir;           /* name of that directory, in the target's; owned; NULL: not made */
    char *file;          /* temporary name, as the command gets it; owned */
    int parent_fd;       /* the target's directory; -1: not open */
    int dir_fd;          /* the temporary one, locked while this run lives */
};

/* Makes the temporary directory; cwd_fd: where names are relative to, or AT_FDCWD. 0, or TRK_E*
 * with a sentence; exec_output_end in either case. */
TRK_MUST_USE int exec_output_begin(struct exec_output *o, int cwd_fd, const char *target);
/* Has the command written it? 0, or TRK_EINVAL with a sentence. */
TRK_MUST_USE int exec_output_check(const struct exec_output *o);
/* Synced and renamed; durable when it returns. 0, or TRK_EIO with a sentence. */
TRK_MUST_USE int exec_output_place(const struct exec_output *o);
/* Removes what is temporary. */
void exec_output_end(struct exec_output *o);

#endif
