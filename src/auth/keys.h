/* SPDX-License-Identifier: MIT */
/* keys.h - the secret that makes machines one farm: 32 random bytes, and its text form.
 *
 *   trickle-key-1 ID SECRET       ID: 8 hex digits, the first 4 bytes of SHA-256 over the secret;
 *                                 SECRET: 64 hex digits
 *
 * One line per key, newest first, at most two: while keys are rotated the first is the one that
 * is offered and both are accepted. The ID names a key on the wire and in messages without giving
 * it away, and tells a damaged line from a sound one. Whoever holds a key can run code as its
 * owner, so no sentence ever quotes a line. No I/O here: see keyfile.h. */
#ifndef AUTH_KEYS_H
#define AUTH_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#define AUTH_SECRET_BYTES 32
#define AUTH_ID_DIGITS 8
#define AUTH_KEYS_MAX 2
/* The text of two keys, with its terminator: "trickle-key-1 ", ID, space, secret, newline. */
#define AUTH_TEXT_MAX (AUTH_KEYS_MAX * (14 + AUTH_ID_DIGITS + 1 + 2 * AUTH_SECRET_BYTES + 1) + 1)

/* What a side of a session is, whoever of the two connected. */
enum auth_role { AUTH_INITIATOR, AUTH_VM /* a supervisor, too */ };

struct auth_key {
    uint8_t secret[AUTH_SECRET_BYTES];
    char id[AUTH_ID_DIGITS + 1]; /* lower case, terminated */
};

/* A value: copied freely, cleared with auth_keys_clear. */
struct auth_keys {
    struct auth_key key[AUTH_KEYS_MAX]; /* newest first: key[0] is offered, all are accepted */
    size_t count;                       /* at least 1, but for a cleared one */
};

/* A new random key. TRK_EIO with a sentence. */
TRK_MUST_USE int auth_key_make(struct auth_key *out);
/* Reads the text of one or two keys (a key file, or what came on a pipe). name: of the text, for
 * sentences. TRK_ECORRUPT with a sentence and *out cleared. */
TRK_MUST_USE int auth_keys_parse(struct auth_keys *out, const char *text, size_t size,
                                 const char *name);
/* The text of keys, terminated; returns its length. */
size_t auth_keys_format(const struct auth_keys *keys, char text[AUTH_TEXT_MAX]);
/* NULL: none of keys has this ID. */
const struct auth_key *auth_keys_find(const struct auth_keys *keys, const char *id, size_t size);
/* key becomes the first of keys, the first one the second, a second one is gone. */
void auth_keys_rotate(struct auth_keys *keys, const struct auth_key *key);
/* Overwrites the secrets. */
void auth_keys_clear(struct auth_keys *keys);

#endif
