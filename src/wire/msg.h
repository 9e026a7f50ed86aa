/* SPDX-License-Identifier: MIT */
/* msg.h - the bodies of messages. Control bodies are MessagePack maps with short string keys
 * (unknown keys are skipped: room for newer versions), work and results have a flat layout.
 *
 * _encode gives a new blob (one reference) or NULL when out of memory. _decode fills a plain
 * struct; pointers in it are borrowed from the body. Decoders return TRK_ECORRUPT for anything
 * that is not exactly the format, and never read past size.
 *
 * A session between initiator and VM:
 *   -> HELLO(lease)     <- WELCOME (accepted, info of the VM) | refused, then closed
 *   -> REQUEST, STAGE, RUN, ACK, RECALL, CANCEL, PING ...      <- REPLY, RESULT, RECALLED, PONG
 *   -> STATE before the RUN of an element that has one   <- STATE, and -> STATE_DONE when recorded
 *   <- WANT(digest) of what a stage names and this machine lacks   -> BLOB, or that none is known
 *   -> BYE and close: the lease ends. The VM restarts if anything was asked of it.
 *   <- BYE: the VM is about to leave: all it had not started has been handed back by RECALLED,
 *      what runs is finished first; it closes after the last result.
 * Between initiator (or `trickle vms`) and supervisor:
 *   -> HELLO(watch)     <- WELCOME, VMS (all), later VMS (changed ones); OUTPUT and DEATH for VMs
 *                          that this initiator incarnation holds.
 *   -> REQUEST(CALL, name "drain" or "stop", payload: decimal pid of a VM)
 *                       <- REPLY (a sentence)
 *   -> HELD_ASK(stage)  <- HELD for each result and state that this machine has of that stage of
 *                          the HELLO's job, then HELD_END(stage); later also HELD for what VMs
 *                          leave behind when they end
 *   -> HELD_DONE(token) for each HELD, when it is recorded or never will be (then the supervisor
 *                          deletes it), or when its stage is not open (it keeps it)
 * VMs that dial in: a supervisor, or a VM, connects to the initiator and says JOIN. From then on
 * the session is one of those above, HELLO first (or a WELCOME that refuses, and the end).
 *   -> DIAL(vm, token)    to a supervisor that has joined: let that VM dial in
 *                       <- on a new connection: JOIN(vm, token); a token counts once */
#ifndef WIRE_MSG_H
#define WIRE_MSG_H

#include "trickle/farm.h"
#include "wire/frame.h"

enum wire_purpose { WIRE_PURPOSE_LEASE = 1, WIRE_PURPOSE_WATCH = 2 };

struct wire_hello {
    uint32_t purpose;        /* enum wire_purpose */
    uint8_t job[16];         /* job UUID */
    uint64_t epoch;          /* of the job, from 1; 0: not one that could come again */
    uint8_t incarnation[16]; /* of the initiator, random */
    uint32_t pid;
    char host[64];
    char program[64]; /* for people */
};
struct blob *wire_hello_encode(const struct wire_hello *m);
TRK_MUST_USE int wire_hello_decode(struct wire_hello *m, const struct blob *body);

struct wire_welcome {
    bool is_accepted;
    char reason[TRK_VM_TEXT_MAX]; /* why not: "leased by wfreq.py (pid 7, host)" */
    uint8_t supervisor[16];
    struct trk_vm_info vm; /* purpose LEASE, accepted: who answers; else zero */
};
struct blob *wire_welcome_encode(const struct wire_welcome *m);
TRK_MUST_USE int wire_welcome_decode(struct wire_welcome *m, const struct blob *body);

/* JOIN, DIAL. */
struct wire_join {
    uint8_t id[16];    /* incarnation of the VM; JOIN of a supervisor: its own */
    uint8_t token[16]; /* random, of the DIAL; JOIN of a supervisor: zero */
};
struct blob *wire_join_encode(const struct wire_join *m);
TRK_MUST_USE int wire_join_decode(struct wire_join *m, const struct blob *body);

/* VMS. infos is an array made by decode, for mem_free. is_all: these are all there are. */
struct wire_vms {
    bool is_all;
    uint8_t supervisor[16];
    struct trk_vm_info *infos;
    size_t count;
};
struct blob *wire_vms_encode(const struct wire_vms *m);
TRK_MUST_USE int wire_vms_decode(struct wire_vms *m, const struct blob *body);

struct wire_output {
    uint8_t vm[16]; /* incarnation */
    uint32_t pid, index;
    const void *text;
    size_t size;
};
struct blob *wire_output_encode(const struct wire_output *m);
TRK_MUST_USE int wire_output_decode(struct wire_output *m, const struct blob *body);

/* What a supervisor knows of why a VM ended, beyond signal and status. */
enum wire_end {
    WIRE_END_UNKNOWN = 0,
    WIRE_END_LEASE,     /* its lease ended: a clean interpreter for the next */
    WIRE_END_DRAINED,   /* asked to leave, or its supervisor stops */
    WIRE_END_RECYCLED,  /* had served --recycle-after elements, or grown near --memory-limit */
    WIRE_END_TIMEOUT,   /* the running element had used up its timeout */
    WIRE_END_MEMORY,    /* the running element went over --memory-limit */
    WIRE_END_OOM,       /* the kernel's OOM killer, with evidence */
    WIRE_END_DEAF,      /* did not heed an interrupt of its initiator */
    WIRE_END_COUNT
};

struct wire_death {
    uint8_t vm[16];      /* incarnation */
    uint32_t pid, index;
    uint8_t lease[16];   /* incarnation of the initiator it served; zero: none */
    int32_t signal;      /* 0: exited */
    int32_t exit_status; /* when signal is 0 */
    bool is_expected;    /* end of lease, drain, stop, recycling: nobody's fault */
    uint32_t end;        /* enum wire_end */
    uint64_t rss_max_bytes;
    bool has_element;    /* it was running stage, index, attempt since start_ns */
    uint32_t stage, attempt;
    uint64_t index_of_element;
    uint64_t ran_ns;     /* how long that element had been running */
    const void *output;  /* the last of what it printed, at most 4 KiB here */
    size_t output_size;
};
struct blob *wire_death_encode(const struct wire_death *m);
TRK_MUST_USE int wire_death_decode(struct wire_death *m, const struct blob *body);

/* REQUEST: u8 op, u8[3] 0, u32 name_size, u64 object, name, payload. Names are cut by no one:
 * at most 4 KiB, without NUL. name is NOT terminated. */
struct wire_request {
    uint8_t op;
    uint64_t object;
    const char *name;
    size_t name_size;
    const void *payload;
    size_t size;
};
struct blob *wire_request_encode(const struct wire_request *m);
TRK_MUST_USE int wire_request_decode(struct wire_request *m, const struct blob *body);

/* REPLY: u8 status, u8[3] 0, payload. */
#define WIRE_REPLY_HEAD 4
struct wire_reply {
    uint8_t status;
    const void *payload;
    size_t size;
};
/* For writers that append the payload themselves: the head into 4 bytes. */
void wire_reply_head(uint8_t out[WIRE_REPLY_HEAD], uint8_t status);
struct blob *wire_reply_encode(const struct wire_reply *m);
TRK_MUST_USE int wire_reply_decode(struct wire_reply *m, const struct blob *body);

/* STAGE: u32 stage, u32 timeout_ms, u32 flags, u32 module_size, u8[16] fingerprint, module,
 * function bytes. Answered only when it fails: each element of the stage then gets that failure as
 * its result. */
enum wire_stage_flag { WIRE_STAGE_DURABLE = 1 }; /* results outlive the initiator */
struct wire_stage {
    uint32_t stage;
    uint32_t timeout_ms; /* of one element; 0: none */
    uint32_t flags;      /* enum wire_stage_flag */
    uint8_t fingerprint[16]; /* of the code; DURABLE */
    char module[TRK_MODULE_MAX]; /* RAI module; "": the VM's own */
    const void *function;
    size_t size;
};
struct blob *wire_stage_encode(const struct wire_stage *m);
TRK_MUST_USE int wire_stage_decode(struct wire_stage *m, const struct blob *body);

/* RUN: u32 stage, u32 attempt, u64 first, u32 count, u32 0, u32 size[count], bytes.
 * count elements with indices first, first+1, ... */
#define WIRE_RUN_HEAD 24
struct wire_run {
    uint32_t stage, attempt, count;
    uint64_t first;
    const uint8_t *sizes;    /* count x u32, unaligned: le_load_u32 */
    const uint8_t *payloads; /* one after the other */
};
/* parts: count pointers/sizes. */
struct wire_part {
    const void *bytes;
    size_t size;
};
struct blob *wire_run_encode(uint32_t stage, uint32_t attempt, uint64_t first,
                             const struct wire_part *parts, uint32_t count);
/* Checks that the sizes add up to the body exactly. */
TRK_MUST_USE int wire_run_decode(struct wire_run *m, const struct blob *body);

/* RESULT: u32 stage, u32 attempt, u64 first, u32 count, u32 0, u64 seq, u64 busy_ns,
 *   u8 status[count], u32 size[count], bytes. seq counts the RESULT messages of a lease from 1;
 *   busy_ns: time the VM computed on these elements. */
#define WIRE_RESULT_HEAD 40
#define WIRE_RESULT_ATTEMPT 4 /* where the attempt stands in it */
struct wire_result {
    uint32_t stage, attempt, count;
    uint64_t first, seq, busy_ns;
    const uint8_t *statuses; /* count x u8 */
    const uint8_t *sizes;    /* count x u32, unaligned */
    const uint8_t *payloads;
};
struct blob *wire_result_encode(const struct wire_result *head, const uint8_t *statuses,
                                const uint32_t *sizes, const void *payloads, size_t payload_size);
TRK_MUST_USE int wire_result_decode(struct wire_result *m, const struct blob *body);
/* For writers of a single large result who append its bytes themselves: all that stands before
 * them. head->count is 1. */
#define WIRE_RESULT_ONE_HEAD (WIRE_RESULT_HEAD + 5)
void wire_result_one_head(uint8_t out[WIRE_RESULT_ONE_HEAD], const struct wire_result *head,
                          uint8_t status, uint32_t size);

/* HELD: u64 token, u32 stage, u32 attempt, u64 index, u64 epoch, u8 kind, u8 status, u16 0, u32 0,
 *   u8[16] element, u8[16] fingerprint, bytes. */
enum wire_held_kind { WIRE_HELD_RESULT = 1, WIRE_HELD_STATE = 2 };
#define WIRE_HELD_HEAD 72
struct wire_held {
    uint64_t token;         /* of the supervisor, for its session */
    uint32_t stage, attempt;
    uint64_t index;
    uint64_t epoch;         /* of the job when it ran */
    uint8_t kind;           /* enum wire_held_kind */
    uint8_t status;         /* RESULT: enum trk_status; STATE: 0 */
    uint8_t element[16];    /* XXH3-128 of the element's bytes */
    uint8_t fingerprint[16]; /* of the code */
    const void *payload;
    size_t size;
};
struct blob *wire_held_encode(const struct wire_held *m);
TRK_MUST_USE int wire_held_decode(struct wire_held *m, const struct blob *body);

/* STATE: u32 stage, u32 attempt, u64 index, u64 seq, u8[16] element, bytes. To a VM: the state
 * that the element goes on from when it runs; seq and element are 0. */
#define WIRE_STATE_HEAD 40
struct wire_state {
    uint32_t stage, attempt;
    uint64_t index;
    uint64_t seq;           /* counts the STATE messages of a lease from 1 */
    uint8_t element[16];    /* XXH3-128 of the element's bytes */
    const void *bytes;
    size_t size;
};
struct blob *wire_state_encode(const struct wire_state *m);
TRK_MUST_USE int wire_state_decode(struct wire_state *m, const struct blob *body);

/* WANT: u8[16] digest. */
struct blob *wire_want_encode(const uint8_t digest[16]);
TRK_MUST_USE int wire_want_decode(uint8_t digest[16], const struct blob *body);

/* BLOB: u8[16] digest, u8 is_known, u8[3] 0, bytes. Bytes that are not known are none. Whether they
 * are those of the digest is for whoever keeps them. */
#define WIRE_BLOB_HEAD 20
struct wire_blob {
    uint8_t digest[16]; /* XXH3-128 of the bytes */
    bool is_known;
    const void *bytes;
    size_t size;
};
/* For writers that have the bytes in place behind it: the head. */
void wire_blob_head(uint8_t out[WIRE_BLOB_HEAD], const uint8_t digest[16], bool is_known);
struct blob *wire_blob_encode(const struct wire_blob *m);
TRK_MUST_USE int wire_blob_decode(struct wire_blob *m, const struct blob *body);

/* ACK, RECALL, RECALLED, CANCEL, HELD_*, STATE_DONE: fixed layouts in one struct.
 *   ACK       seq: all RESULT messages up to seq are recorded
 *   RECALL    stage, first, count: give back those of this run that have not started
 *   RECALLED  stage, first, count: these were given back (count may be 0); the rest goes on
 *             flag 1: in the middle, from its last STATE it goes on elsewhere; answers no RECALL
 *   CANCEL    count 0: forget the stage; flag 1: interrupt what is running of it
 *             count > 0: drop these elements of the stage, interrupt the one that runs
 *   HELD_ASK   stage
 *   HELD_END   stage
 *   HELD_DONE  seq: the token; flag 1: delete it, 0: keep it until the next HELD_ASK
 *   STATE_DONE seq: all STATE messages up to seq are recorded, or wanted no more */
struct wire_note {
    uint32_t stage, count, flag;
    uint64_t first, seq;
};
struct blob *wire_note_encode(const struct wire_note *m);
TRK_MUST_USE int wire_note_decode(struct wire_note *m, const struct blob *body);

#endif
