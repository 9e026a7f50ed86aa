/* SPDX-License-Identifier: MIT */
/* agent_impl.h - the tables of a VM's agent, for its two halves: agent.c (lease, messages in) and
 * agent_out.c (jobs and results out). The picture is in agent.c. */
#ifndef VM_AGENT_IMPL_H
#define VM_AGENT_IMPL_H

#include "base/blob.h"
#include "base/list.h"
#include "vm/agent.h"

enum item_kind { ITEM_OPEN, ITEM_BATCH, ITEM_CLOSE };

/* What stands in the work queue. */
struct item {
    struct list link; /* in agent.work, or alone */
    enum item_kind kind;
};

struct batch {
    struct item item;        /* ITEM_BATCH */
    struct blob *body;       /* the RUN message */
    uint32_t stage, attempt; /* from it */
    uint32_t timeout_ms;     /* of its stage */
    uint64_t first;          /* index of element 0 of the message */
    uint32_t at, end;        /* elements at..end-1 are still queued */
    const uint8_t *sizes;    /* borrowed from body: size of element i at 4 * i */
    const uint8_t *payload;  /* borrowed from body: bytes of element at */
};

struct stage {
    struct item item;  /* ITEM_OPEN until opened, ITEM_CLOSE when cancelled afterwards */
    struct list link;  /* in agent.stages */
    uint32_t id;
    uint32_t timeout_ms; /* of one element; 0: none */
    struct blob *body; /* the STAGE message until it is taken */
    const void *function;
    size_t size;
    char module[TRK_MODULE_MAX]; /* that runs it; "": the VM's own */
    bool is_cancelled;
    bool is_durable;
    uint8_t fingerprint[16]; /* durable: of the code */
    bool is_tombstone; /* cancelled before its STAGE arrived */
};

struct request {
    struct list link; /* in agent.requests */
    uint32_t stream;
    struct blob *body;
    struct wire_request request; /* borrowed from body */
};

struct held {
    struct list link; /* in agent.held */
    uint64_t seq;
    struct blob *body;
    struct digest *digests;  /* of its elements; NULL: volatile */
    uint32_t count;          /* durable: elements */
    uint8_t fingerprint[16]; /* durable: of the code */
};

/* What an element goes on from when it is taken. */
struct start {
    struct list link; /* in agent.starts */
    struct blob *body;
    struct wire_state state; /* borrowed from body */
};

struct agent {
    bool is_leased;
    bool is_used;  /* something was asked under this lease */
    bool is_orphan; /* the holder has vanished, and something durable runs or is held */
    bool is_ended; /* a used lease is over: no other may follow in this process */
    bool has_stage; /* stage_last means something */
    uint32_t stage_last; /* highest stage declared under this lease */
    struct wire_hello holder;
    struct agent_fence *fences;    /* AGENT_FENCES of them: its own, or the host's */
    struct agent_fence own_fences[AGENT_FENCES];
    struct list requests, work, stages, held, starts;
    size_t queued; /* elements in work */
    size_t held_count, held_bytes;
    size_t kept_count; /* of those held, durable ones */
    uint64_t seq_last; /* of the RESULT messages of this lease */
    uint64_t state_last, state_done; /* of its STATE messages: sent, and safe */
    struct blob *state;              /* the last one, not safe yet; or NULL */
    uint8_t state_fingerprint[16];
};

/* These take the object out of its lists and free it. */
void agent_batch_free(struct agent *a, struct batch *b);
void agent_stage_free(struct stage *s);
void agent_request_free(struct request *r);
void agent_start_free(struct start *s);
/* Elements [first, last) of a stage do not run here. */
void agent_forget_starts(struct agent *a, uint32_t stage, uint64_t first, uint64_t last);
/* The declared, not cancelled stage; or NULL. */
struct stage *agent_stage_find(const struct agent *a, uint32_t id);

#endif
