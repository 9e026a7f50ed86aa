/* SPDX-License-Identifier: MIT */
/* job.h - durable jobs: a name, a store, an epoch.
 *
 * A job's directory holds its store (LMDB), its lock and the list of what was done. While a
 * process has the job open no other can open it; looking at it (trk_view) is always possible. A
 * farm that is given a job records each result of a work that has a key before anybody sees it, and
 * gives recorded results back instead of running their elements.
 *
 * Any thread, unless said otherwise. After fork() everything fails with TRK_EFORKED in the
 * child. */
#ifndef TRICKLE_JOB_H
#define TRICKLE_JOB_H

#include "trickle/work.h"

#ifdef __cplusplus
extern "C" {
#endif

struct trk_job;

/* What to do where the program's code or its lists are not what they were. */
enum trk_on_change {
    TRK_CHANGE_REFUSE = 0, /* TRK_ECHANGED says what differs; a list that only grew is no change */
    TRK_CHANGE_KEEP = 1,   /* equal elements keep their results, whatever code made them */
    TRK_CHANGE_REDO = 2,   /* a stage whose code has changed runs again; equal elements of one
                              whose list has changed keep their results */
};

struct trk_job_options {
    size_t size;          /* sizeof(struct trk_job_options): versions this struct */
    const char *name;     /* letters, digits, ".", "_", "-"; at most 100, not beginning with "." */
    const char *home;     /* NULL: $TRICKLE_HOME, else $XDG_STATE_HOME/trickle, else
                             ~/.local/state/trickle */
    bool must_be_new;     /* TRK_EINVAL when there is such a job */
    bool must_exist;      /* TRK_EINVAL when there is none */
    enum trk_on_change on_change;
    bool retry_failed;    /* recorded failures do not count: their elements run again */
};

/* What opening found. */
struct trk_job_opened {
    bool is_new;
    uint32_t epoch;      /* 1 for the first time it is open, one more each time */
    uint8_t uuid[16];
    char dir[4096];
    char text[2048];     /* sentences for a person (a notice about the place, a damaged store that
                            was repaired and what that cost); "" when all is well */
};

/* Opens the job, makes it when there is none. Takes the lock, checks the store where it was not
 * closed in order, raises the epoch and syncs that. TRK_EDENIED: another process has it,
 * trk_last_error() says which. */
TRK_API TRK_MUST_USE int trk_job_open(struct trk_job **out, const struct trk_job_options *opt,
                                      struct trk_job_opened *opened);
/* Makes all that was put durable and gives the lock back. Close the farm that uses it first.
 * TRK_EIO: the disk did not take all of it. NULL is fine. */
TRK_API int trk_job_close(struct trk_job *job);

/* Named values of a job. */
enum trk_note {
    TRK_NOTE_JOB = 1,       /* what was run, how it ended: the program's to define */
    TRK_NOTE_ONCE = 7,      /* values made once */
    TRK_NOTE_TELEMETRY = 9, /* of passing interest */
};
/* With wait, returns when it is durable (a full disk makes that long: TRK_AGAIN after timeout_ms,
 * -1: none; it is on its way all the same). name: 1 .. 480 bytes. */
TRK_API TRK_MUST_USE int trk_job_put(struct trk_job *job, enum trk_note kind, const char *name,
                                     const void *bytes, size_t size, bool wait, int timeout_ms);
/* What is durable. 0: *bytes for trk_free; TRK_END: none of that name. */
TRK_API TRK_MUST_USE int trk_job_get(struct trk_job *job, enum trk_note kind, const char *name,
                                     void **bytes, size_t *size);
TRK_API void trk_free(void *bytes);

/* What is recorded of a list, for whoever goes on with a job. Works have keys; where a changed list
 * or changed code has put a stage in the place of another, it is the one that counts. */
struct trk_job_stage {
    uint64_t elements; /* that are known: as many were added, and recorded in time */
    bool is_closed;    /* there are no more */
};
/* TRK_END: no work has had that key. */
TRK_API TRK_MUST_USE int trk_job_get_stage(struct trk_job *job, const char *key,
                                           struct trk_job_stage *out);

/* The elements themselves, of works with keep_elements, in their order from one on. They may be
 * added to a work of the same key at the same time. One thread at a time. TRK_END: as above. */
struct trk_elements;
TRK_API TRK_MUST_USE int trk_job_elements(struct trk_job *job, const char *key, uint64_t from,
                                          struct trk_elements **out);
/* 0: *element is borrowed until the next call; TRK_END: none left of those that were known when the
 * walk began; TRK_ENOTKEPT: this one's bytes were not kept, or a damaged store has lost them: who
 * adds the whole list again gives back what is lacking (the walk stays there). */
TRK_API TRK_MUST_USE int trk_elements_next(struct trk_elements *walk, const void **element,
                                           size_t *size);
TRK_API void trk_elements_free(struct trk_elements *walk); /* NULL is fine */

/* How the disk does. */
struct trk_job_state {
    uint64_t syncs, sync_ns;  /* so many syncs, and the time they took */
    uint64_t queued_bytes;    /* not durable yet */
    bool is_paused;           /* nothing becomes durable: see text */
    char text[512];
};
TRK_API void trk_job_get_state(struct trk_job *job, struct trk_job_state *out);

#ifdef __cplusplus
}
#endif
#endif
