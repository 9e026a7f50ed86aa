/* SPDX-License-Identifier: MIT */
/* replay.h - a resumed stage on the program's side: which elements are known, whose results are
 * recorded, and these results, in the order in which they were given the last time.
 *
 * Used by the one thread that uses the work; it reads the store and changes nothing in it but
 * results that cannot be of the element they stand for. */
#ifndef FARM_REPLAY_H
#define FARM_REPLAY_H

#include "ckpt/value.h"
#include "farm/job.h"

struct replay {
    struct trk_job *job;      /* one reference */
    uint32_t stage;           /* of the store, whose results are given */
    uint64_t version;         /* results up to this one were there when the stage was opened */
    uint64_t limit;           /* from here on the list is another one (edit.h); UINT64_MAX */

    struct ckpt_read_key key; /* of the work record below, or the last one read */
    struct blob *block;       /* that work record; NULL: none is held */
    struct value_work work;   /* the same */
    uint64_t block_first;     /* its first element */
    uint32_t span_at;         /* elements of it before the current span of delivered */
    const uint8_t *span;      /* that span */
    bool is_work_end;         /* no work record follows */

    struct ckpt_found found;  /* the next run with results, at or behind the last one asked for */
    bool has_found;
    bool is_found_end;        /* no result follows */

    struct ckpt_position position; /* of results in the order of recording */
    struct ckpt_result result;     /* being given: value is one reference */
    struct value_result value;     /* the same */
    uint64_t at, end;              /* elements of it that are still to be given */
    const uint8_t *payload;        /* of element at */
    bool is_given;                 /* all that was recorded has been */
};

/* What is known of an element. */
struct replay_look {
    bool is_known;          /* it was added the last time: digest, delivered */
    bool is_recorded;       /* its result counts */
    bool has_stray_result;  /* it has one, but it is not known what it was a result of */
    struct digest digest;
    uint64_t delivered;     /* results the program had been given when it made it */
};

TRK_MUST_USE int replay_new(struct replay **out, struct trk_job *job, uint32_t stage);
void replay_free(struct replay *r); /* NULL is fine */

/* About element index; ask in rising order. 0 or an error with a sentence. */
TRK_MUST_USE int replay_look(struct replay *r, uint64_t index, struct replay_look *out);
/* The block that element index, which was asked about last, is known from. false: it is not. */
bool replay_block(const struct replay *r, uint64_t index, uint64_t *first, uint32_t *count);
/* No element that is known follows index, no result either. */
bool replay_is_over(const struct replay *r, uint64_t index);
/* Some results do not count any more: looks again at what it holds. */
void replay_refresh(struct replay *r);
/* The index of the first known element from index on; TRK_END: none. */
TRK_MUST_USE int replay_next_known(struct replay *r, uint64_t index, uint64_t *known);

/* The next recorded result in the order of recording, of elements before added. 0; TRK_AGAIN: its
 * element has to be added first; TRK_END: none is left. */
TRK_MUST_USE int replay_take(struct replay *r, uint64_t added, bool is_closed,
                             struct trk_result *out);
/* The recorded result of element index. 0; TRK_END: it has none, it runs. */
TRK_MUST_USE int replay_take_at(struct replay *r, uint64_t index, struct trk_result *out);

/* Results that failed do not count any more: their elements run again. */
TRK_MUST_USE int replay_forget_failed(struct trk_job *job, uint32_t stage);

#endif
