/* SPDX-License-Identifier: MIT */
/* view.h - looking at durable jobs from outside: what is there, who runs it, what is recorded.
 *
 * What is read is durable. Looking takes no lock that the job needs and changes nothing, so it is
 * possible while the job runs, and when nobody runs it. A store that nobody holds and that was not
 * closed in order is first walked by a process of its own (trickle-fsck), because a damaged one
 * can kill whoever maps it. What only the running program knows (what runs where since when) is
 * asked of it by trk_view_ask.
 *
 * One thread at a time per view. The process that has a job open looks at it by its own trk_job. */
#ifndef TRICKLE_VIEW_H
#define TRICKLE_VIEW_H

#include "trickle/job.h"

#ifdef __cplusplus
extern "C" {
#endif

struct trk_view;

/* Where jobs are kept: as trk_job_options.home. notice: a sentence when that is not the usual place
 * (which is on a network), else "". Made when missing. */
TRK_API TRK_MUST_USE int trk_job_home(char *path, size_t size, char *notice, size_t notice_size);
/* The names of all jobs, sorted; *names for trk_free, one terminated name after the other.
 * home NULL: the usual place. */
TRK_API TRK_MUST_USE int trk_job_names(const char *home, char **names, size_t *count);
/* Removes a job and all it recorded. TRK_END: there is none; TRK_EDENIED: somebody runs it,
 * trk_last_error() says who. */
TRK_API TRK_MUST_USE int trk_job_remove(const char *home, const char *name);
/* Walks the store of a job that nobody runs, page by page, in a process of its own. text: what was
 * found, a sentence. 0: it is whole; TRK_ECORRUPT; TRK_END: there is no such job or no store;
 * TRK_EDENIED: somebody runs it. */
TRK_API TRK_MUST_USE int trk_job_check(const char *home, const char *name, char *text, size_t size);

struct trk_view_info {
    char dir[4096];
    bool has_store;    /* false: nothing was recorded yet, what follows is 0 */
    bool is_damaged;   /* then nothing is read: text */
    char text[512];    /* "" when all is well */
    uint8_t uuid[16];
    uint32_t epoch;    /* how often it was opened */
    uint64_t version;  /* grows with each record */
    uint64_t records;
    uint64_t bytes;    /* of all its files */
    bool is_running;   /* somebody has it open: */
    int64_t pid;
    char host[256];
    char since[40];    /* date and time */
};

/* TRK_END: there is no such job; TRK_EINVAL: not a name; TRK_EDENIED: this process has it open.
 * A damaged one opens, see trk_view_info. */
TRK_API TRK_MUST_USE int trk_view_open(struct trk_view **out, const char *home, const char *name);
TRK_API void trk_view_close(struct trk_view *view); /* NULL is fine */
/* As it is now. */
TRK_API TRK_MUST_USE int trk_view_get_info(struct trk_view *view, struct trk_view_info *out);
/* As trk_job_get. */
TRK_API TRK_MUST_USE int trk_view_note(struct trk_view *view, enum trk_note kind, const char *name,
                                       void **bytes, size_t *size);

/* One forkwork or forkgen of the program. */
struct trk_view_stage {
    uint32_t number;
    const char *key, *name; /* name: for people */
    uint64_t added;         /* elements that are known; all of them when is_closed */
    bool is_closed;         /* the end of its list is known */
    uint64_t recorded;      /* results, failures among them */
    uint64_t failed;
    uint64_t bytes;         /* of results */
    uint32_t replaced_by;   /* that stage has taken its place: it does not count; 0: it does */
    uint32_t previous;      /* whose place it has taken; 0: none */
};
/* All stages, by number; *out for trk_view_stages_free. */
TRK_API TRK_MUST_USE int trk_view_stages(struct trk_view *view, struct trk_view_stage **out,
                                         size_t *count);
TRK_API void trk_view_stages_free(struct trk_view_stage *stages);

struct trk_view_result {
    uint64_t index;
    uint32_t status;     /* enum trk_status */
    uint32_t attempt;    /* the run that gave it */
    const void *payload; /* borrowed until the next call on the view */
    size_t size;
};
/* 0; TRK_END: that element has no result. */
TRK_API TRK_MUST_USE int trk_view_result(struct trk_view *view, uint32_t stage, uint64_t index,
                                         struct trk_view_result *out);

/* The element itself. 0: *element is borrowed until the next call on the view; TRK_END: it is not
 * known, or its bytes were not kept (trk_work_options.keep_elements). */
TRK_API TRK_MUST_USE int trk_view_element(struct trk_view *view, uint32_t stage, uint64_t index,
                                          const void **element, size_t *size);

/* A walk over the results of a stage. Zeros, but for stage and in_recorded_order, begin it. */
struct trk_view_walk {
    uint32_t stage;
    bool in_recorded_order; /* else by index */
    uint64_t next, seq;     /* the position */
};
/* 0; TRK_END: none left (of a running job more may come: call again). */
TRK_API TRK_MUST_USE int trk_view_next(struct trk_view *view, struct trk_view_walk *walk,
                                       struct trk_view_result *out);

struct trk_view_attempt {
    uint32_t epoch; /* of the job: how often it had been opened then */
    struct trk_attempt a;
};
/* What is recorded of an element's runs, the first first; *out for trk_view_attempts_free. A run
 * that gave a result at once leaves only its result. */
TRK_API TRK_MUST_USE int trk_view_attempts(struct trk_view *view, uint32_t stage, uint64_t index,
                                           struct trk_view_attempt **out, size_t *count);
TRK_API void trk_view_attempts_free(struct trk_view_attempt *attempts, size_t count);

/* Asks the program that runs the job; it answers also while it computes.
 *   "status"    JSON: what is under way, see control.c
 *   "attempts"  argument "STAGE INDEX": JSON, the runs of an element that it remembers
 *   "cancel"    ends the program as SIGTERM does: Python raises KeyboardInterrupt in it
 * *answer is for trk_free, terminated. TRK_END: nobody runs it, or not with a farm yet;
 * TRK_ETIMEDOUT; TRK_EDENIED: refused, with a sentence. */
TRK_API TRK_MUST_USE int trk_view_ask(struct trk_view *view, const char *verb,
                                      const char *argument, int timeout_ms, char **answer,
                                      size_t *size);

#ifdef __cplusplus
}
#endif
#endif
