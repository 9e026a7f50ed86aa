/* SPDX-License-Identifier: MIT */
/* spool.h - what VMs keep on the disk of their machine for jobs whose initiator has gone.
 *
 *   HOME/held/JOB/NAME.held      JOB: the job's UUID in hex; 0700, 0600
 *
 * A VM writes a file at the end of a lease, the supervisors of this machine hand its records to
 * whoever comes with that job, and the file goes when all of them are done with. A file is whole
 * or not there: written under another name, synced, renamed, its directory synced. Little endian:
 *
 *   head    0  magic, u32 format, u32 0        record   0  digest of bytes 16 .. 112
 *          16  u8 job[16]                              16  u64 size
 *          32  u64 epoch, u64 0                        24  u8 kind, u8 status, u16 0, u32 stage
 *          48  digest of bytes 0 .. 48                 32  u32 attempt, u32 0, u64 index
 *                                                      48  u8 element[16], u8 fingerprint[16]
 *                                                      80  digest of the payload
 *                                                      96  u64 offset of this record, u64 0
 *                                                     112  payload
 * Digests are XXH3-128. Nothing that is read is believed: what is damaged is left out.
 *
 * Errors with sentences (fail_text). Any thread; one thread at a time per object. */
#ifndef VM_SPOOL_H
#define VM_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/blob.h"
#include "trickle/error.h"

#define SPOOL_DAYS 7u                    /* a file is kept for so long */
#define SPOOL_BYTES ((uint64_t)10 << 30) /* and all of them may be so large */
#define SPOOL_ENTRY 128u                 /* bytes of an entry besides its payload, at most */
#define SPOOL_NAME_MAX 80                /* of a file, without ".held" */

/* One result or state of an element, as in WIRE_HELD. */
struct spool_entry {
    uint8_t kind;            /* enum wire_held_kind */
    uint8_t status;          /* enum trk_status */
    uint32_t stage, attempt;
    uint64_t index;
    uint8_t element[16];     /* XXH3-128 of its bytes */
    uint8_t fingerprint[16]; /* of the code */
    const void *payload;     /* borrowed */
    uint64_t size;
};

/* --- writing --------------------------------------------------------------------------- */

struct spool_writer;
/* home: as ckpt_home gives it. name: of the file, one of the same name is replaced. TRK_EFULL: no
 * room on the disk; TRK_EIO. */
TRK_MUST_USE int spool_create(struct spool_writer **out, const char *home, const uint8_t job[16],
                              uint64_t epoch, const char *name);
/* After a failure only spool_abort is left. */
TRK_MUST_USE int spool_add(struct spool_writer *w, const struct spool_entry *entry);
TRK_MUST_USE int spool_commit(struct spool_writer *w); /* the file is there for good; frees w */
void spool_abort(struct spool_writer *w);              /* no trace is left; frees w */
/* No error when there is none. */
void spool_remove(const char *home, const uint8_t job[16], const char *name);

/* --- bounds ---------------------------------------------------------------------------- */

struct spool_limits {
    uint64_t seconds; /* older files are deleted */
    uint64_t bytes;   /* of all jobs together: the oldest go first */
};
/* Makes room for so many bytes more; says in the log what it deletes. TRK_EFULL: they are more
 * than the limit alone. */
TRK_MUST_USE int spool_trim(const char *home, const struct spool_limits *limits, uint64_t room);

/* --- reading --------------------------------------------------------------------------- */

/* Calls fn with the name of each file that this machine has for the job. */
void spool_list(const char *home, const uint8_t job[16],
                void (*fn)(void *ctx, const char *name), void *ctx);

struct spool_file;
/* Looks at all heads. TRK_ECORRUPT: it has no head of that job; TRK_END: there is no such file. */
TRK_MUST_USE int spool_open(struct spool_file **out, const char *home, const uint8_t job[16],
                            const char *name);
void spool_close(struct spool_file *f); /* NULL is fine */
const char *spool_name(const struct spool_file *f);
uint64_t spool_epoch(const struct spool_file *f);
uint32_t spool_count(const struct spool_file *f);  /* records with a good head */
uint32_t spool_stage(const struct spool_file *f, uint32_t i); /* of record i */
uint64_t spool_size(const struct spool_file *f, uint32_t i);  /* of its payload */
/* *payload: one reference, entry->payload is borrowed from it. TRK_ECORRUPT: damaged; TRK_END:
 * the file has gone; TRK_EIO, TRK_ENOMEM: try later. */
TRK_MUST_USE int spool_read(struct spool_file *f, uint32_t i, struct spool_entry *entry,
                            struct blob **payload);
void spool_delete(struct spool_file *f); /* from the disk; the object stays */

#endif
