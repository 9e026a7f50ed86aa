/* SPDX-License-Identifier: MIT */
/* pages.h - are the pages of a data.mdb sound, so that LMDB may map it and write to it?
 *
 * LMDB checks nothing of its pages. A wrong page number kills the reader; a wrong one in the list
 * of free pages makes the writer overwrite records. So the whole structure is walked here with
 * pread: both meta pages, all trees with their pages' numbers, kinds, layout and order of keys,
 * overflow pages, and the free list: every page must belong to exactly one of them. The format is
 * that of LMDB 0.9 (data version 1) of this machine's byte order and word size. */
#ifndef CKPT_PAGES_H
#define CKPT_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

/* 0; TRK_ECORRUPT: why says what is wrong; TRK_EIO, TRK_ENOMEM: likewise. */
TRK_MUST_USE int pages_check(const char *path, char *why, size_t why_size);

#endif
