/* SPDX-License-Identifier: MIT */
/* keyfile.h - the file the keys are in: $XDG_CONFIG_HOME/trickle/key, else ~/.config/trickle/key.
 *
 * It is 0600 in a directory of 0700, and refused when anybody else could read or change it.
 * Nothing here makes a key by itself: only auth_keyfile_new, _rotate and _save do, and only
 * commands that say so call them. Writing is atomic: a temporary file, synced, renamed. */
#ifndef AUTH_KEYFILE_H
#define AUTH_KEYFILE_H

#include "auth/keys.h"

#define AUTH_NO_KEY 1 /* an answer: there is no key file */

/* The name of the file. TRK_EINVAL with a sentence: no home, or a name that is too long. */
TRK_MUST_USE int auth_keyfile_path(char *path, size_t size);

/* path: NULL for the usual one, in all of these. Sentences say what to type. */

/* 0, AUTH_NO_KEY, TRK_EDENIED (open to others, not ours, a link), TRK_ECORRUPT, TRK_EIO. */
TRK_MUST_USE int auth_keyfile_load(struct auth_keys *out, const char *path);
/* Writes keys, in place of what was there or, !may_replace, only where nothing was (TRK_EDENIED).
 * Makes the directory (0700) where it is missing, its parents too. */
TRK_MUST_USE int auth_keyfile_save(const struct auth_keys *keys, const char *path,
                                   bool may_replace);
/* For who loads the keys and saves what comes out of them: others wait meanwhile, in _rotate and
 * _finish, too. *lock is for _unlock, also where there is no file, or none that can be locked. */
TRK_MUST_USE int auth_keyfile_lock(int *lock, const char *path);
void auth_keyfile_unlock(int lock);
/* The first key. TRK_EDENIED when there is a file already. */
TRK_MUST_USE int auth_keyfile_new(struct auth_keys *out, const char *path);
/* A new key first, the one that was first second. TRK_EDENIED: no key, or two already (finish). */
TRK_MUST_USE int auth_keyfile_rotate(struct auth_keys *out, const char *path);
/* The second key goes: who has no other is refused from now on. TRK_EDENIED: there is none. */
TRK_MUST_USE int auth_keyfile_finish(struct auth_keys *out, const char *path);

#endif
