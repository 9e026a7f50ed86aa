/* SPDX-License-Identifier: MIT */
/* key.h - the key file of this user: $XDG_CONFIG_HOME/trickle/key, else ~/.config/trickle/key.
 *
 * The secret in it makes machines one farm: whoever holds it runs code as the user whose VMs have
 * it. Nothing here makes a key unless its name says so. Two keys are there while keys are
 * rotated: the first is offered, both are accepted. Negative answers come with a sentence
 * (trk_last_error) that says what to type.
 *
 * Threads: any thread. */
#ifndef TRICKLE_KEY_H
#define TRICKLE_KEY_H

#include <stdbool.h>
#include <stddef.h>

#include "trickle/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRK_KEYS_MAX 2
#define TRK_KEY_ID_MAX 16    /* an ID with its end */
#define TRK_KEY_TEXT_MAX 256 /* the text of two keys with its end */

/* What is in the file. */
struct trk_keys {
    size_t count;                          /* 1 or 2 */
    char id[TRK_KEYS_MAX][TRK_KEY_ID_MAX]; /* names for people; not secret */
    char text[TRK_KEY_TEXT_MAX];           /* the file's text: the SECRET; see trk_keys_clear */
};

TRK_API TRK_MUST_USE int trk_key_path(char *path, size_t size);
/* 0; TRK_END: there is no key file; TRK_EDENIED: others can read it, or it is not ours. */
TRK_API TRK_MUST_USE int trk_key_load(struct trk_keys *out);
TRK_API TRK_MUST_USE int trk_key_new(struct trk_keys *out);    /* TRK_EDENIED: there is one */
TRK_API TRK_MUST_USE int trk_key_rotate(struct trk_keys *out); /* a new one before the old one */
TRK_API TRK_MUST_USE int trk_key_finish(struct trk_keys *out); /* the old one goes */
/* Puts text (of a key file) in the place of the file. Where a key is that text knows nothing of,
 * only with may_replace (TRK_EDENIED): another farm's key is easily lost. name: of the text, for
 * sentences. */
TRK_API TRK_MUST_USE int trk_key_import(const char *text, size_t size, const char *name,
                                        bool may_replace, struct trk_keys *out);
TRK_API void trk_keys_clear(struct trk_keys *keys); /* overwrites the secrets */

#ifdef __cplusplus
}
#endif
#endif
