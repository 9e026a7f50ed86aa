/* SPDX-License-Identifier: MIT */
/* work.h - dynamic scheduling: a stream of elements in, one result per element out.
 *
 * One struct trk_work is one forkwork/forkgen: a function, a list of VMs, elements numbered
 * from 0 in the order they were added. Elements and results are bytes; Trickle never looks
 * into them. Elements run on whichever VM is free; when a VM is lost its unfinished elements
 * run on another.
 *
 * Threads: one thread at a time may use a trk_work. */
#ifndef TRICKLE_WORK_H
#define TRICKLE_WORK_H

#include "trickle/farm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRK_ELEMENT_BYTES_MAX ((size_t)1 << 30) /* one element or one result */

struct trk_work;

struct trk_work_options {
    size_t size;          /* sizeof(struct trk_work_options): versions this struct */
    const char *name;     /* for people: the function's name; copied */
    const void *function; /* what to run, in the module's encoding; copied */
    size_t function_size;
    struct trk_vmlist *list;     /* elastic: the list's VMs as they come and go, or NULL */
    struct trk_vm *const *vms;   /* fixed: these VMs (their later incarnations too) */
    size_t vms_count;
    bool ordered;         /* results in index order; else as they are recorded */
    uint64_t ahead_elements; /* bound on elements added but not yet taken; 0: 100,000, with
                                a key 200,000 */
    uint64_t ahead_bytes;    /* the same in bytes of elements and results; 0: 256 MiB */
    uint32_t retries;        /* how often an element whose code failed is run again */
    uint32_t retry_after_ms; /* the first back-off, doubling; 0: 100 ms */
    uint32_t timeout_ms;     /* of one run of one element, then its VM is ended; 0: none */
    /* The program only wants all results: it is woken for the end, not for each of them, and takes
     * what has come every 10 ms. */
    bool lazy;
    bool speculate;          /* at the end idle VMs run the slowest elements a second time */
    /* Of a farm with a job: what tells this work from the program's others, the same in each run of
     * the program ("name", or "function#3"); copied. NULL: its results are not recorded. */
    const char *key;
    uint8_t fingerprint[16]; /* of the code that runs; the same as long as the code is */
    /* With a key: the elements themselves are recorded, not only their digests, so that the job can
     * go on without whoever made them (trk_job_elements). */
    bool keep_elements;
};

/* Declares the work. Nothing runs before elements are added. For trk_work_free. */
TRK_API TRK_MUST_USE int trk_work_new(struct trk_farm *farm, const struct trk_work_options *opt,
                                      struct trk_work **out);

/* Adds the next element. element is copied. TRK_FULL: the bounds are reached, take results and
 * offer the same element again (an empty window always takes one, whatever its size).
 * TRK_ECHANGED: the element is not the one that was recorded at this place.
 * Elements are handed on in blocks: trk_work_next, trk_work_flush and a full block send them. */
TRK_API TRK_MUST_USE int trk_work_add(struct trk_work *work, const void *element, size_t size);
/* In a resumed job the program is led through the same turns as the last time: results it had been
 * given before it made an element are given before. */
enum trk_turn {
    TRK_TURN_ANY = 0,  /* add or take, as you like */
    TRK_TURN_ADD = 1,  /* make the next element (or close) before you take more */
    TRK_TURN_TAKE = 2, /* take a result before you make the next element */
};
TRK_API enum trk_turn trk_work_turn(struct trk_work *work);
/* Sends what was added but not handed on yet. */
TRK_API TRK_MUST_USE int trk_work_flush(struct trk_work *work);
/* There will be no more elements. */
TRK_API TRK_MUST_USE int trk_work_close(struct trk_work *work);
/* The same, for this run of the program only: the list is not over, its rest is added by another.
 * What was known behind the elements that were added stays as it is, too. */
TRK_API TRK_MUST_USE int trk_work_leave_open(struct trk_work *work);

struct trk_result {
    uint64_t index;
    enum trk_status status; /* EXCEPTION: the module's; ERROR: a sentence (VM deaths, too big) */
    const void *payload;    /* borrowed until the next call on this work */
    size_t size;
    uint32_t attempts; /* runs that were started, this one included */
};

/* Takes the next result. 0; TRK_AGAIN; TRK_END after trk_work_close when all were taken. */
TRK_API TRK_MUST_USE int trk_work_next(struct trk_work *work, int timeout_ms,
                                       struct trk_result *out);

struct trk_progress {
    uint64_t added;    /* elements added so far */
    uint64_t done;     /* results recorded, failed ones included */
    uint64_t restored; /* of these, recorded before this process opened the job */
    uint64_t failed;   /* of these, not TRK_STATUS_OK */
    uint64_t reissued; /* runs that had to be started again */
    uint32_t vms;      /* VMs that serve this work now */
    bool is_closed;    /* added is final */
};
TRK_API void trk_work_progress(struct trk_work *work, struct trk_progress *out);

/* --- what happened to element 17? ---------------------------------------------------- */

enum trk_outcome {
    TRK_OUTCOME_DONE = 0,      /* it gave a result */
    TRK_OUTCOME_EXCEPTION = 1, /* user code failed; output: the exception, as the module has it */
    TRK_OUTCOME_DIED = 2,      /* it ended its VM: see signal, exit_status, output */
    TRK_OUTCOME_TIMEOUT = 3,   /* it used up its timeout; output: also the stuck code's stack */
    TRK_OUTCOME_MEMORY = 4,    /* it went over the VM's memory limit */
    TRK_OUTCOME_OOM = 5,       /* the kernel's OOM killer ended the VM */
    TRK_OUTCOME_LOST = 6,      /* its VM was lost: killed from outside, silent, machine gone */
};

/* One run of an element that has ended. */
struct trk_attempt {
    uint32_t attempt;         /* 1 for the first */
    uint32_t outcome;         /* enum trk_outcome */
    uint32_t vm_pid, vm_index;
    char vm_host[64];
    uint64_t started_ms;      /* since 1970 by the initiator's clock, about */
    uint64_t duration_ns;     /* of batches: the mean of its elements */
    int32_t signal;           /* DIED, LOST: what killed the VM, 0: it exited or is unknown */
    int32_t exit_status;      /* DIED without a signal */
    uint64_t rss_max_bytes;   /* of the VM, where it is known */
    char *output;             /* terminated; the last the VM printed (at most 4 KiB), or NULL */
    size_t output_size;
};

/* All ended runs of an element that are still known (of very long works the newest), the first
 * first. *out is an array for trk_attempts_free. Any thread. */
TRK_API TRK_MUST_USE int trk_work_attempts(struct trk_work *work, uint64_t index,
                                           struct trk_attempt **out, size_t *count);
TRK_API void trk_attempts_free(struct trk_attempt *attempts, size_t count);

/* Stops the work: nothing new starts; queued elements are dropped on the VMs.
 * With interrupt, code that is running is interrupted, and its VM restarted when it does not
 * stop. Results not taken yet are dropped. Then trk_work_next says TRK_END. */
TRK_API void trk_work_cancel(struct trk_work *work, bool interrupt);
/* Cancels what is unfinished (without interrupt) and frees. NULL is fine. */
TRK_API void trk_work_free(struct trk_work *work);

#ifdef __cplusplus
}
#endif
#endif
