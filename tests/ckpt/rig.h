/* SPDX-License-Identifier: MIT */
/* rig.h - what tests of the store share: a private directory, stores in it, results whose values
 * can be told from their element. */
#ifndef TESTS_CKPT_RIG_H
#define TESTS_CKPT_RIG_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ckpt/read.h"
#include "ckpt/store.h"

void rig_setup(void);    /* a new directory */
void rig_setup_in_memory(void); /* where syncs cost nothing */
/* TRICKLE_FULL is set: every case is to be gone through; else some. */
bool rig_is_full(void);
/* The step with which tests go through many like cases: 1 with TRICKLE_FULL; usual; three times
 * that under a sanitizer, where each takes as much longer. */
size_t rig_stride(size_t usual);
void rig_teardown(void); /* which is removed; faults are off again; nothing is left allocated */
const char *rig_dir(void);              /* the private directory */
const char *rig_path(const char *name); /* in it; valid until the next but three */
const char *rig_job(void);              /* of the store */
void rig_remove(const char *path);      /* a file, or a directory with its files */
void rig_copy(const char *from, const char *to); /* a file */
uint8_t *rig_read(const char *path, size_t *size); /* free it */
void rig_write(const char *path, const void *bytes, size_t size);

struct ckpt_store *rig_open(struct ckpt_opened *opened); /* opened may be NULL */
/* The value of an element; tells of round, too. At most 64 bytes. */
size_t rig_value(char *out, uint32_t stage, uint64_t element, unsigned round);
/* One record with the values of count elements, a line each. Returns its ticket. */
uint64_t rig_put(struct ckpt_store *s, uint32_t stage, uint64_t first, uint64_t count,
                 unsigned round);
/* The elements of a block, whose bytes are rig_value of round 0, and then its work record, as the
 * farm puts them. At most 100. No asserts. */
int rig_put_block(struct ckpt_store *s, uint32_t stage, uint64_t first, uint32_t count,
                  uint64_t *ticket);
/* Reads all blocks of a stage; bytes that are there must be those of their elements. Returns how
 * many elements are; *lacking: known ones whose bytes are not. */
uint64_t rig_check_blocks(struct ckpt_reader *r, uint32_t stage, uint64_t *lacking);
void rig_wait(struct ckpt_store *s, uint64_t ticket);
/* Reads all results of the stage in both orders; each must be the one of its element, of a round
 * up to round_max. Returns how many there are. */
uint64_t rig_check(struct ckpt_reader *r, uint32_t stage, unsigned round_max);
/* Runs f in a child that ends without closing anything; returns its wait status. */
int rig_crash(void (*f)(void *ctx), void *ctx);

#endif
