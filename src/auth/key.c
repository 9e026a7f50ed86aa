/* SPDX-License-Identifier: MIT */
/* key.c - see trickle/key.h: the key file for programs that are not part of Trickle. */
#include "trickle/key.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "auth/keyfile.h"
#include "base/fail.h"

static_assert(TRK_KEYS_MAX == AUTH_KEYS_MAX && TRK_KEY_TEXT_MAX >= AUTH_TEXT_MAX &&
              TRK_KEY_ID_MAX > AUTH_ID_DIGITS, "the public sizes hold what is inside");

/* *out from keys, which are cleared. */
static int show(struct trk_keys *out, struct auth_keys *keys, int rc)
{
    memset(out, 0, sizeof(*out));
    for (size_t i = 0; rc == 0 && i < keys->count; i++) {
        snprintf(out->id[i], sizeof(out->id[i]), "%s", keys->key[i].id);
        out->count++;
    }
    if (rc == 0) {
        auth_keys_format(keys, out->text);
    }
    auth_keys_clear(keys);
    return rc;
}

int trk_key_path(char *path, size_t size)
{
    return auth_keyfile_path(path, size);
}

int trk_key_load(struct trk_keys *out)
{
    struct auth_keys keys;
    int rc = auth_keyfile_load(&keys, NULL);
    return show(out, &keys, rc == AUTH_NO_KEY ? TRK_END : rc);
}

int trk_key_new(struct trk_keys *out)
{
    struct auth_keys keys;
    int rc = auth_keyfile_new(&keys, NULL);
    return show(out, &keys, rc);
}

int trk_key_rotate(struct trk_keys *out)
{
    struct auth_keys keys;
    int rc = auth_keyfile_rotate(&keys, NULL);
    return show(out, &keys, rc);
}

int trk_key_finish(struct trk_keys *out)
{
    struct auth_keys keys;
    int rc = auth_keyfile_finish(&keys, NULL);
    return show(out, &keys, rc);
}

/* Do the two have a key in common? Then one is a stage of the other's rotation. */
static bool is_related(const struct auth_keys *a, const struct auth_keys *b)
{
    for (size_t i = 0; i < a->count; i++) {
        if (auth_keys_find(b, a->key[i].id, AUTH_ID_DIGITS) != NULL) {
            return true;
        }
    }
    return false;
}

int trk_key_import(const char *text, size_t size, const char *name, bool may_replace,
                   struct trk_keys *out)
{
    struct auth_keys keys, old;
    bool is_new = false;
    int lock, rc = auth_keyfile_lock(&lock, NULL);
    rc = rc == 0 ? auth_keys_parse(&keys, text, size, name) : rc;
    if (rc == 0 && !may_replace) {
        rc = auth_keyfile_load(&old, NULL);
        is_new = rc == AUTH_NO_KEY;
        if (rc == 0 && !is_related(&old, &keys)) {
            rc = fail(TRK_EDENIED, "this machine has another key, %s, and %s is not one that "
                      "follows it; to give the other one up type\n"
                      "  trickle key import --replace", old.key[0].id, keys.key[0].id);
        }
        auth_keys_clear(&old);
    }
    rc = rc >= 0 ? auth_keyfile_save(&keys, NULL, !is_new) : rc;
    auth_keyfile_unlock(lock);
    return show(out, &keys, rc);
}

void trk_keys_clear(struct trk_keys *keys)
{
    explicit_bzero(keys, sizeof(*keys));
}
