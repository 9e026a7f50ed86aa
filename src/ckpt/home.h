/* SPDX-License-Identifier: MIT */
/* home.h - where the stores of jobs are: HOME/jobs/NAME/, private. */
#ifndef CKPT_HOME_H
#define CKPT_HOME_H

#include <stddef.h>

#include "trickle/error.h"

#define HOME_PATH_MAX 4000
#define HOME_NAME_MAX 100

/* $TRICKLE_HOME, else $XDG_STATE_HOME/trickle, else ~/.local/state/trickle; where that is on a
 * network file system (no safe locks and maps there), /var/tmp/trickle-UID, and notice says so
 * ("" otherwise). Made, with 0700, when missing. 0; TRK_EDENIED: open to others or not ours;
 * TRK_EIO; fail_text. */
TRK_MUST_USE int ckpt_home(char *path, size_t size, char *notice, size_t notice_size);
/* $XDG_CACHE_HOME/trickle, else ~/.cache/trickle, made with 0700 when missing. TRK_EDENIED, TRK_EIO,
 * TRK_EFULL. */
TRK_MUST_USE int ckpt_cache(char *path, size_t size);
/* home/jobs/name, made when missing. TRK_EINVAL: not a name. */
TRK_MUST_USE int ckpt_job_dir(const char *home, const char *name, char *path, size_t size);
/* The directory itself: made with 0700, refused when it is a link or another user's. */
TRK_MUST_USE int ckpt_private_dir(const char *path);

#endif
