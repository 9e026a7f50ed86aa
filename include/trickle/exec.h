/* SPDX-License-Identifier: MIT */
/* exec.h - commands as elements of work: the module "exec".
 *
 * A *spec* says how a command is made of an element: it is the function of a work whose module is
 * "exec" (trk_work_options.module and .function). An *element* is a list of fields. A *result*
 * says how the command ended and what it printed. All three are bytes; these functions write and
 * read them, and need no farm. Any thread; nothing global.
 *
 * How a command runs on a VM
 *   - argv[0] without a slash is looked for in the PATH that the command gets.
 *   - Its environment is the VM's without `unset` and with `env`, and TRICKLE_ELEMENT (the number
 *     of its element, from 0), TRICKLE_ATTEMPT (from 1), and TRICKLE_EXEC_..., by which Trickle
 *     finds what it started.
 *   - It gets descriptors 0, 1, 2 and no others, no signal blocked, all at their defaults, the VM's
 *     umask, a process group of its own.
 *   - Of stdout and of stderr a first and a last part are kept, the bytes between are only counted;
 *     the command never waits for anybody to read.
 *   - An element is over when its command is: what the command leaves behind is given one second
 *     to close stdout and stderr if it still holds them, then it is killed, daemons with a
 *     session of their own too. The result counts them (left).
 *   - Timeout and cancel: SIGTERM to the whole tree, then SIGKILL. A VM that dies takes the
 *     tree with it. Only a process escapes that has both a session of its own and an environment
 *     without TRICKLE_EXEC_... when its VM is killed: until the VM's supervisor ends.
 *
 * Outputs. The command gets the name of a temporary file in place of each output's name: the same
 * name in a directory `.trickle-NAME-N` beside it, so that endings stay. When the command has
 * exited with 0 each must be there, a regular file, not empty, and pass the check; then it is
 * synced, renamed into place, and the directory synced; only then the element is done. Else the
 * temporary directory is removed, and what a killed VM has left is removed by the next run of that
 * element. Directories of outputs are made when they are missing. Two runs at the same time (a
 * straggler's second run, a VM believed lost) have a directory each; the last one to finish
 * replaces the other's file, whole by whole. */
#ifndef TRICKLE_EXEC_H
#define TRICKLE_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/job.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRK_EXEC_MODULE "exec"
#define TRK_EXEC_ABI 1                  /* of the three encodings; each begins with it */
#define TRK_EXEC_KEEP_DEFAULT 1048576u  /* bytes kept of each stream, half of them first */
#define TRK_EXEC_KEEP_MAX 268435456u
#define TRK_EXEC_KEEP_NONE UINT32_MAX   /* count them only */
#define TRK_EXEC_KILL_AFTER_MS 2000u    /* from SIGTERM to SIGKILL, at a timeout */
#define TRK_EXEC_FIELDS_MAX 65536u
#define TRK_EXEC_WORDS_MAX 65536u       /* also of pieces of a word, of outputs, of variables */

struct trk_exec_bytes {
    const void *bytes;
    size_t size;
};

/* --- the spec -------------------------------------------------------------------------- */

enum trk_exec_kind {
    TRK_EXEC_LITERAL = 0, /* bytes, as they are */
    TRK_EXEC_FIELD = 1,   /* field number `index` of the element */
    TRK_EXEC_NUMBER = 2,  /* of the element, from 1: {#} of GNU parallel */
    TRK_EXEC_OUTPUT = 3,  /* the temporary name of output `index`; in argv and input only */
    TRK_EXEC_FILE = 4,    /* the temporary name of the output under check; in check only */
};

/* As GNU parallel has them; of all kinds but LITERAL. */
enum trk_exec_transform {
    TRK_EXEC_WHOLE = 0,
    TRK_EXEC_NO_ENDING = 1,      /* {.}  without .ending */
    TRK_EXEC_BASE = 2,           /* {/}  what follows the last slash */
    TRK_EXEC_DIRECTORY = 3,      /* {//} what precedes it; "." */
    TRK_EXEC_BASE_NO_ENDING = 4, /* {/.} */
};

struct trk_exec_piece {
    enum trk_exec_kind kind;
    enum trk_exec_transform transform;
    bool is_quoted;             /* made one word of a POSIX shell; not of a LITERAL */
    uint32_t index;
    struct trk_exec_bytes text; /* of a LITERAL */
};

struct trk_exec_word { /* its pieces, one after the other */
    const struct trk_exec_piece *pieces;
    size_t count;
};

struct trk_exec_spec {
    size_t size; /* sizeof(struct trk_exec_spec): versions this struct */
    const struct trk_exec_word *argv;
    size_t argc;
    bool is_shell; /* argv is one word, for /bin/sh -c; reading an encoded spec gives three words */
    struct trk_exec_word cwd;   /* without pieces: the VM's */
    bool has_input;             /* stdin is input; else /dev/null */
    struct trk_exec_word input; /* may have NUL bytes */
    const struct trk_exec_bytes *env; /* "NAME=value" */
    size_t env_count;
    const struct trk_exec_bytes *unset; /* "NAME" */
    size_t unset_count;
    const struct trk_exec_word *outputs; /* names, relative to cwd */
    size_t outputs_count;
    const struct trk_exec_word *check; /* run for each output; its exit status 0: it is good */
    size_t check_count;                /* 0: no check */
    bool is_check_shell;               /* as is_shell */
    uint32_t timeout_ms;    /* of one run with its checks; 0: none. The VM lives on */
    uint32_t kill_after_ms; /* 0: TRK_EXEC_KILL_AFTER_MS */
    uint32_t stdout_keep, stderr_keep; /* bytes; 0: TRK_EXEC_KEEP_DEFAULT; TRK_EXEC_KEEP_NONE */
};

/* The spec as bytes; *out is for trk_free. TRK_EINVAL with a sentence (trk_last_error) when it
 * cannot work: no argv, a piece that names an output that is not there, a NUL byte where there
 * must be none, over a limit. TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_exec_spec_encode(const struct trk_exec_spec *spec, void **out,
                                              size_t *size);
/* One struct with all that it points to; for trk_free. bytes are copied. TRK_ECORRUPT,
 * TRK_EVERSION (of a later Trickle) with a sentence; TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_exec_spec_decode(const void *bytes, size_t size,
                                              struct trk_exec_spec **out);

/* --- the element ----------------------------------------------------------------------- */

/* *out is for trk_free. TRK_EINVAL: too many; TRK_ETOOBIG: over 1 GiB; TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_exec_element_encode(const struct trk_exec_bytes *fields, size_t count,
                                                 void **out, size_t *size);
/* *fields is an array for trk_free that points into bytes. TRK_ECORRUPT, TRK_EVERSION with a
 * sentence; TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_exec_element_decode(const void *bytes, size_t size,
                                                 struct trk_exec_bytes **fields, size_t *count);

/* The command that a spec (a decoded one: is_shell has become words there) makes of an element,
 * with the outputs' own names: to show it, and to find out that it cannot be made. index: of the
 * element, from 0. *words is an array for
 * trk_free with all that it points to; each word is followed by a NUL byte. TRK_EINVAL with a
 * sentence: it cannot be made of this element. TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_exec_argv(const struct trk_exec_spec *spec,
                                       const struct trk_exec_bytes *fields, size_t count,
                                       uint64_t index, struct trk_exec_bytes **words,
                                       size_t *words_count);

/* --- the result ------------------------------------------------------------------------ */

enum trk_exec_outcome { /* append only: they are in stores */
    TRK_EXEC_OK = 0,
    TRK_EXEC_EXIT = 1,         /* exit_status is not 0 */
    TRK_EXEC_SIGNAL = 2,       /* signal ended it */
    TRK_EXEC_TIMEOUT = 3,      /* it used up its time, or its check did */
    TRK_EXEC_NOT_STARTED = 4,  /* no such program, directory, too long, ... */
    TRK_EXEC_BAD_OUTPUT = 5,   /* missing, empty, refused by the check, not to be put in place */
    TRK_EXEC_INTERRUPTED = 6,  /* its work was cancelled */
    TRK_EXEC_UNKNOWN = 7,      /* how it ended was not to be learned */
};

struct trk_exec_kept { /* of stdout or stderr */
    const void *bytes; /* the first head bytes, then the last ones */
    size_t size;       /* kept */
    size_t head;       /* of them, from the beginning; the rest is from the end */
    uint64_t total;    /* bytes the command has written; size when nothing was left out */
};

/* The payload of a result: of TRK_STATUS_OK when outcome is TRK_EXEC_OK, else of
 * TRK_STATUS_EXCEPTION. (TRK_STATUS_ERROR has a sentence, as in all modules.) */
struct trk_exec_result {
    enum trk_exec_outcome outcome;
    int32_t exit_status;  /* -1: it did not exit */
    int32_t signal;       /* 0: none */
    uint32_t left;        /* processes that it left behind, killed */
    uint64_t started_ms;  /* since 1970 by the clock of the VM's machine */
    uint64_t duration_ns;
    uint64_t cpu_ns;      /* user and system time of the command and the children it waited for */
    uint64_t rss_max_bytes;
    struct trk_exec_bytes why; /* a sentence for people, "" of TRK_EXEC_OK; UTF-8 but for names */
    struct trk_exec_kept out, err;
};

/* Reads a payload. The struct points into bytes. TRK_ECORRUPT, TRK_EVERSION with a sentence. */
TRK_API TRK_MUST_USE int trk_exec_result_decode(const void *bytes, size_t size,
                                                struct trk_exec_result *out);
/* For who makes results, as tests do; *out is for trk_free. TRK_EINVAL, TRK_ENOMEM. */
TRK_API TRK_MUST_USE int trk_exec_result_encode(const struct trk_exec_result *result, void **out,
                                                size_t *size);

/* --- the encodings ----------------------------------------------------------------------
 *
 * Little endian, nothing aligned. bytes: u32 size, then so many. count: u32.
 *
 * spec     u8 'S', u8 TRK_EXEC_ABI, u16 0
 *          u32 timeout_ms, u32 kill_after_ms, u32 stdout_keep, u32 stderr_keep
 *          count, words: argv     word: count, pieces
 *          count (0 or 1), word: cwd
 *          count (0 or 1), word: input
 *          count, bytes: env;  count, bytes: unset
 *          count, words: outputs;  count, words: check
 *    piece u8 kind, u8 transform, u8 1: quoted, u8 0, u32 index, bytes text
 * element  u8 'E', u8 TRK_EXEC_ABI, u16 0, count, bytes: fields
 * result   u8 'R', u8 TRK_EXEC_ABI, u8 outcome, u8 0, i32 exit_status, i32 signal, u32 left
 *          u64 started_ms, u64 duration_ns, u64 cpu_ns, u64 rss_max_bytes
 *          u32 why's size, u64 out.total, u32 out.head, u32 out.size, the same of err
 *          why, out, err
 */

#ifdef __cplusplus
}
#endif
#endif
