/* SPDX-License-Identifier: MIT */
/* last.h - two small files beside a store.
 *
 * "last": after each commit, which one it was. Written over in place and never synced, so after a
 * power failure it may be older than the store, but never newer: a store that is older than its
 * note has lost transactions that were durable.
 *
 * "clean": the store was closed in order, and the size, inode and time of its file then. While they
 * are the same, nothing has touched it. */
#ifndef CKPT_LAST_H
#define CKPT_LAST_H

#include <stdbool.h>
#include <stdint.h>

#include "ckpt/record.h"

struct last_note {
    uint32_t epoch;
    uint64_t version;
};

/* A descriptor for last_write, or -1: then there are no notes, which only makes checks weaker. */
int last_open(const char *dir);
void last_write(int fd, const uint8_t uuid[RECORD_UUID], const struct last_note *note);
/* 0; TRK_END: there is none of this store; TRK_ECORRUPT. */
TRK_MUST_USE int last_read(const char *dir, const uint8_t uuid[RECORD_UUID],
                           struct last_note *note);
bool last_exists(const char *dir);

void clean_mark(const char *dir);
void clean_unmark(const char *dir);
bool clean_is(const char *dir);

#endif
