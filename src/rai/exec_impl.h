/* SPDX-License-Identifier: MIT */
/* exec_impl.h - the module "exec": what its files share. include/trickle/exec.h is what it does.
 *
 *   exec_spec.c    a spec to bytes and back
 *   exec_codec.c   elements and results to bytes and back
 *   exec_words.c   templates and fields -> words
 *   exec.c         the module: its stages, one element from its words to its result
 *   exec_child.c   one command: started, read, waited for, stopped
 *   exec_tree.c    what a command has started, and the end of all of it
 *   exec_output.c  outputs under temporary names, and into place
 *   exec_keep.c    the first and the last bytes of a stream */
#ifndef RAI_EXEC_IMPL_H
#define RAI_EXEC_IMPL_H

#include "base/buf.h"
#include "trickle/exec.h"
#include "trickle/rai.h"

#define EXEC_HEAD_BYTES 4
#define EXEC_MARK_ENV "TRICKLE_EXEC"      /* in the environment of all that a command starts */
#define EXEC_OWNER_ENV "TRICKLE_VM_OWNER" /* vm/host.h */

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

#endif
