/* SPDX-License-Identifier: MIT */
/* agent.h - the VM's half of the protocol as a pure state machine: lease, queue, attempts, held
 * results. No I/O, no clock, no threads: the host feeds it and holds a lock around it; the
 * simulator links the same object. Blobs in and out are reference counted.
 *
 *   FREE --lease--> LEASED --bye/lost--> ENDED (the host ends the process, unless nothing was
 *                     |                  ^  ever asked of it: agent_release then makes it FREE)
 *                     '--lost--> ORPHAN -'  what runs of a durable stage is finished, what is held
 *                                           of such stages goes to the host's spool
 *
 * Order of work: requests first (between elements), then elements in the order they came. */
#ifndef VM_AGENT_H
#define VM_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "wire/msg.h"

struct agent;

/* The last lease of a job: what a later one has to beat. */
#define AGENT_FENCES 8 /* jobs whose last epoch is remembered */
struct agent_fence {
    uint32_t stamp; /* when it was set, counted over the table; 0: not set */
    uint8_t job[16];
    uint64_t epoch;
    uint8_t incarnation[16];
};

struct agent *agent_new(void); /* NULL: out of memory */
void agent_free(struct agent *a);
/* Keeps the fences in the host's memory (borrowed for good), which holds those of agents before. */
void agent_use_fences(struct agent *a, struct agent_fence fences[AGENT_FENCES]);

/* --- lease --------------------------------------------------------------------------- */
/* 0: granted. TRK_EDENIED: leased by another (agent_owner), or an older epoch of the same job, or
 * an equal epoch of another incarnation. */
TRK_MUST_USE int agent_lease(struct agent *a, const struct wire_hello *hello);
bool agent_is_leased(const struct agent *a);
bool agent_is_used(const struct agent *a); /* something was asked of it under this lease */
const struct wire_hello *agent_holder(const struct agent *a); /* NULL when free */
/* The lease has ended: drops queues and held results. Returns true when the process may serve
 * the next lease as it is (nothing was ever asked). */
bool agent_release(struct agent *a);
/* The holder has vanished: drops what is queued and what is held of volatile stages. The lease
 * stays, so that nobody else gets in; agent_release ends it. */
void agent_orphan(struct agent *a);
bool agent_is_orphan(const struct agent *a);

/* --- in: messages of the holder -------------------------------------------------------- */
/* Takes msg->body in any case. REQUEST, STAGE, RUN, ACK, RECALL, CANCEL, STATE,
 * STATE_DONE. out gets a message to
 * send back when *has_out (RECALLED). Unknown or malformed: TRK_ECORRUPT, drop the connection. */
TRK_MUST_USE int agent_message(struct agent *a, struct wire_message *msg, bool *has_out,
                               struct wire_message *out);
/* The VM is to leave: takes the next queued elements out and gives the RECALLED that says so.
 * 1: out is to be sent, call again; 0: none are left; TRK_ENOMEM: as it was. */
TRK_MUST_USE int agent_give_back(struct agent *a, struct wire_message *out);

/* --- out: what the compute thread does next ---------------------------------------------- */
enum agent_job_kind { AGENT_NOTHING, AGENT_REQUEST, AGENT_STAGE, AGENT_STAGE_CLOSE, AGENT_ELEMENT };
struct agent_job {
    enum agent_job_kind kind;
    uint32_t stream;            /* REQUEST */
    struct wire_request request; /* REQUEST: borrowed from body */
    uint32_t stage, attempt;    /* STAGE*, ELEMENT */
    uint64_t index;             /* ELEMENT */
    const void *payload;        /* ELEMENT, STAGE: borrowed from body */
    size_t size;
    char module[TRK_MODULE_MAX]; /* STAGE: that runs it; "": the VM's own */
    uint32_t timeout_ms;        /* ELEMENT: 0: none */
    bool is_last;               /* ELEMENT: the last of its batch that is queued right now */
    bool is_durable;            /* ELEMENT: its stage's results outlive the initiator */
    uint8_t fingerprint[16];    /* ELEMENT, durable: of the code */
    const void *state_bytes;    /* ELEMENT: what it goes on from, borrowed from state */
    size_t state_size;
    struct blob *state;         /* ELEMENT: one reference, or NULL: it begins at its beginning */
    struct blob *body;          /* one reference for the caller (agent_job_done drops it) */
};
/* Takes the next job; what is taken can no longer be recalled. Elements whose STAGE has failed to
 * open are still given (the host answers them with the failure). */
void agent_next(struct agent *a, struct agent_job *job);
void agent_job_done(struct agent_job *job);
bool agent_has_request(const struct agent *a);        /* is one waiting? */
uint32_t agent_timeout_ms(const struct agent *a); /* the least of what is queued; 0: none */
/* While an element runs: has its stage been cancelled meanwhile? */
bool agent_is_cancelled(const struct agent *a, uint32_t stage);

/* --- results: numbered, held until acknowledged ------------------------------------------ */
uint64_t agent_next_seq(struct agent *a); /* for the next RESULT message: 1, 2, ... */
/* Holds the message (takes a reference of its own) until ACK. TRK_ENOMEM. */
TRK_MUST_USE int agent_hold(struct agent *a, uint64_t seq, struct blob *result);
size_t agent_held(const struct agent *a, size_t *bytes);
size_t agent_queued(const struct agent *a); /* elements not taken yet */

/* --- durable stages: what outlives the lease ---------------------------------------------- */
/* As agent_hold, for count results of a durable stage. digests: of their elements, copied. */
TRK_MUST_USE int agent_hold_durable(struct agent *a, uint64_t seq, struct blob *result,
                                    uint32_t count, const struct digest *digests,
                                    const uint8_t fingerprint[16]);
/* One RESULT message that is held and durable, or one STATE. */
struct agent_kept {
    const struct blob *body;
    uint32_t count;               /* RESULT: of its elements */
    const struct digest *digests; /* RESULT: of its elements; STATE: it says that itself */
    uint8_t fingerprint[16];
};
/* The next one of a higher number than *seq (0: the first), whose number goes there. Borrowed. */
bool agent_kept_next(const struct agent *a, uint64_t *seq, struct agent_kept *out);
size_t agent_kept(const struct agent *a); /* how many of those that are held are durable */
void agent_let_go(struct agent *a, uint64_t seq); /* of what is held, up to this number */

/* A checkpoint of the running element, one at a time: numbered, held until STATE_DONE or until
 * the host has it safe elsewhere (agent_state_done). The next one takes its place. */
uint64_t agent_next_state(struct agent *a); /* its number: 1, 2, ... */
void agent_hold_state(struct agent *a, struct blob *body, const uint8_t fingerprint[16]);
bool agent_kept_state(const struct agent *a, struct agent_kept *out); /* false: none is held */
void agent_state_done(struct agent *a, uint64_t seq);
bool agent_state_is_done(const struct agent *a, uint64_t seq);

void agent_check(const struct agent *a); /* aborts when an invariant is broken */

#endif
