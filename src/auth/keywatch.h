/* SPDX-License-Identifier: MIT */
/* keywatch.h - the keys of a program that runs for long: read again when their file has changed,
 * so that keys are rotated without a restart.
 *
 * A file that has gone, or that is refused, takes no keys away: those in use stay until there is
 * a good one. Who wants nobody to come in any more ends the program. One thread. */
#ifndef AUTH_KEYWATCH_H
#define AUTH_KEYWATCH_H

#include <limits.h>
#include <sys/stat.h>

#include "auth/keyfile.h"

struct auth_watch {
    struct auth_keys keys; /* of the last look that went well; count 0: there were none so far */
    char path[PATH_MAX];   /* of the file; "": there is none to look at */
    struct stat seen;      /* the file at the last look; st_ino 0: there was none */
    bool is_owed;          /* what was seen could not be used, and was told */
};

/* Loads the keys. path: as auth_keyfile_load's, which also has the answers; after AUTH_NO_KEY it
 * can be looked at again, after an error it is empty. */
TRK_MUST_USE int auth_watch_open(struct auth_watch *w, const char *path);
/* Takes the text of keys from a descriptor, to its end, and never looks again. TRK_EIO or
 * TRK_ECORRUPT with a sentence. */
TRK_MUST_USE int auth_watch_read(struct auth_watch *w, int fd);
/* Has the file changed? 1: yes, w->keys are other ones; 0: no; TRK_E*, once per change: it has,
 * but cannot be used (a sentence says why). */
TRK_MUST_USE int auth_watch_look(struct auth_watch *w);
/* Overwrites the secrets. */
void auth_watch_clear(struct auth_watch *w);

#endif
