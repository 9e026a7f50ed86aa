/* SPDX-License-Identifier: MIT */
/* job.h - a durable job inside the farm: its stages, reading from its store, who is told.
 *
 * A job's memory is counted: works of a farm that has been closed may outlive it. Its store is
 * there between trk_job_open and trk_job_close, and used under the job's mutex by all but the farm
 * thread, which ends before. */
#ifndef FARM_JOB_H
#define FARM_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include "ckpt/read.h"
#include "ckpt/store.h"
#include "ckpt/value.h"
#include "trickle/job.h"

/* Numbers from here on are those of works that are not recorded. */
#define STAGE_VOLATILE 0x80000000u

/* [m]: under the job's mutex, [c]: constant once made. */
struct job_stage {
    uint32_t number;           /* [c] */
    struct digest fingerprint; /* [m] of its code */
    uint64_t total;            /* [m] elements, once is_closed */
    uint64_t closed_after;     /* [m] results the program had then been given */
    uint32_t previous;         /* [c] results of its equal elements count here; 0: none */
    uint32_t replaced_by;      /* [m] it does not count any more; 0: it does */
    bool is_closed;            /* [m] the end of its list is known */
    bool is_used;              /* [m] by a work of this run of the program */
    char *key, *name;          /* [c] */
};

struct trk_job {
    atomic_uint refs;            /* the program's, the farm's, works' */
    pthread_mutex_t mutex;
    struct ckpt_store *store;    /* [m] NULL: closed */
    struct ckpt_reader *reader;  /* [m] shared by all who read */
    uint8_t uuid[RECORD_UUID];   /* [c] */
    uint32_t epoch;              /* [c] */
    enum trk_on_change on_change; /* [c] */
    bool retry_failed;           /* [c] */
    char *name, *dir;            /* [c] */
    struct job_stage **stages;   /* [m] by number, ascending */
    size_t stages_count, stages_cap;
    pthread_mutex_t tell_mutex;
    struct trk_farm *farm;       /* [tell_mutex] told when something is durable; NULL: nobody */
    atomic_bool is_told;         /* and has not looked since */
};

struct trk_job *job_ref(struct trk_job *job);
void job_unref(struct trk_job *job);

/* From now on the farm's thread calls results_durable when there is something new. NULL: nobody
 * is told any more, when this returns. */
void job_tell(struct trk_job *job, struct trk_farm *farm);

/* The stage of this key, as it is to go on: found, or made. *is_new: it has no elements. Any
 * thread.
 * TRK_ECHANGED: other code; TRK_EINVAL: used twice; with sentences. */
TRK_MUST_USE int job_stage_open(struct trk_job *job, const char *key, const char *name,
                                const struct digest *fingerprint, struct job_stage **out,
                                bool *is_new);
/* Of the stage of this key that counts, as it is now. TRK_END: there is none. */
TRK_MUST_USE int job_stage_find(struct trk_job *job, const char *key, struct job_stage *out);
/* A new one in its place, which takes over the results of equal elements. */
TRK_MUST_USE int job_stage_edit(struct trk_job *job, struct job_stage *old, struct job_stage **out);
/* The end of its list is known. */
TRK_MUST_USE int job_stage_close(struct trk_job *job, uint32_t number, uint64_t total,
                                 uint64_t closed_after);
/* It has so many by now: where its list had ended before, the end is not known any more. */
TRK_MUST_USE int job_stage_grow(struct trk_job *job, uint32_t number, uint64_t elements);
/* The work that used it has ended; the program may open it once more. */
void job_stage_release(struct trk_job *job, struct job_stage *stage);
/* The stage that counts instead of number (itself, mostly); 0: unknown. */
uint32_t job_stage_now(struct trk_job *job, uint32_t number);
uint32_t job_stage_previous(struct trk_job *job, uint32_t number);

/* All stages of the store, when the job is opened. */
TRK_MUST_USE int job_stages_load(struct trk_job *job);

/* The store's readers, by whom it is still open for (TRK_ECLOSED). */
TRK_MUST_USE int job_read_version(struct trk_job *job, uint64_t *version);
TRK_MUST_USE int job_read_next(struct trk_job *job, enum ckpt_kind kind, struct ckpt_read_key *key,
                               struct blob **value);
TRK_MUST_USE int job_read_find(struct trk_job *job, uint32_t stage, uint64_t at,
                               struct ckpt_found *out);
TRK_MUST_USE int job_read_at(struct trk_job *job, uint32_t stage, uint64_t at,
                             struct ckpt_result *out);
TRK_MUST_USE int job_read_recorded(struct trk_job *job, uint32_t stage,
                                   struct ckpt_position *position, struct ckpt_result *out);
TRK_MUST_USE int job_read_get(struct trk_job *job, enum ckpt_kind kind, const void *key,
                              size_t key_size, struct blob **value);
TRK_MUST_USE int job_read_size(struct trk_job *job, enum ckpt_kind kind, const void *key,
                               size_t key_size, uint64_t *size);
/* As kept_read and kept_count. */
struct kept_page;
TRK_MUST_USE int job_read_kept(struct trk_job *job, struct kept_page *page, uint32_t stage,
                               uint64_t index);
TRK_MUST_USE int job_read_known(struct trk_job *job, uint32_t stage, uint64_t *count);
/* These results do not count any more, once the ticket is durable. */
TRK_MUST_USE int job_forget(struct trk_job *job, uint32_t stage, const struct record_run *run,
                            uint64_t *ticket);
TRK_MUST_USE int job_put_result(struct trk_job *job, uint32_t stage, const struct record_run *run,
                                const struct ckpt_value *value, uint64_t *ticket);
TRK_MUST_USE int job_put_record(struct trk_job *job, enum ckpt_kind kind, const void *key,
                                size_t key_size, const struct ckpt_value *value,
                                uint64_t *ticket);
/* A work record of elements first, first + 1, ... */
TRK_MUST_USE int job_put_work(struct trk_job *job, uint32_t stage, uint64_t first,
                              const struct value_work *work, uint64_t *ticket);
/* Waits until all that was put so far is durable, however long the disk is full. */
TRK_MUST_USE int job_sync(struct trk_job *job, uint64_t ticket);
bool job_is_behind(struct trk_job *job); /* the queue is full */
/* Waits only when it is behind: for whoever puts much. */
TRK_MUST_USE int job_keep_up(struct trk_job *job, uint64_t ticket);

#endif
