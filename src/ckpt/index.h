/* SPDX-License-Identifier: MIT */
/* index.h - which record holds an element's result. Entries of a stage never overlap: an element
 * that has a result keeps it, so the first one recorded is the one that every reader sees. */
#ifndef CKPT_INDEX_H
#define CKPT_INDEX_H

#include "ckpt/env.h"

/* The entry that covers at, or else the first one behind it: 0; TRK_END: none in this stage. */
TRK_MUST_USE int index_find(MDB_cursor *cursor, uint32_t stage, uint64_t at,
                            struct index_entry *e);
/* Enters what is still free of [first, first + count); *added: so many elements.
 *   last  the last entry of the table, kept by the caller for the transaction; count 0: unknown.
 *         With it, entering behind the end, as most results are, needs no search. */
TRK_MUST_USE int index_add(MDB_txn *txn, MDB_dbi dbi, MDB_cursor *cursor,
                           struct record_tail *tail, struct index_entry *last,
                           const struct index_entry *run, uint64_t *added);
/* Takes [first, first + count) out, wherever its entries lead; *removed: so many elements. */
TRK_MUST_USE int index_remove(MDB_txn *txn, MDB_dbi dbi, MDB_cursor *cursor,
                              struct record_tail *tail, const struct index_entry *run,
                              uint64_t *removed);

#endif
