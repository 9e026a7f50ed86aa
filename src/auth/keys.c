/* SPDX-License-Identifier: MIT */
/* keys.c - see keys.h. */
#include "auth/keys.h"

#include <assert.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "auth/crypto.h"
#include "base/fail.h"
#include "base/sys.h"

#define WORD "trickle-key-"
#define VERSION "1"
#define HEAD WORD VERSION " "

static void to_hex(char *out, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * size] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool from_hex(uint8_t *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        int high = hex_value(text[2 * i]);
        int low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool set_id(struct auth_key *key)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    if (!auth_crypto_enter()) {
        return false;
    }
    bool is_done = SHA256(key->secret, sizeof(key->secret), digest) != NULL;
    auth_crypto_leave();
    if (is_done) {
        to_hex(key->id, digest, AUTH_ID_DIGITS / 2);
    }
    return is_done;
}

int auth_key_make(struct auth_key *out)
{
    if (sys_random(out->secret, sizeof(out->secret)) != 0) {
        return fail(TRK_EIO, "the system gives no random bytes for a key");
    }
    return set_id(out) ? 0 : fail(TRK_ENOMEM, "OpenSSL cannot make a key's ID (SHA-256)");
}

/* One line, without its newline. NULL: taken; else what is wrong with it. */
static const char *parse_line(struct auth_key *out, const char *line, size_t size)
{
    const size_t head = sizeof(HEAD) - 1, word = sizeof(WORD) - 1;
    if (size < word || memcmp(line, WORD, word) != 0) {
        return "is not a key";
    }
    if (size < head || memcmp(line, HEAD, head) != 0) {
        return "is a key of another version of Trickle";
    }
    const char *id = line + head, *secret = id + AUTH_ID_DIGITS + 1;
    if (size != head + AUTH_ID_DIGITS + 1 + 2 * AUTH_SECRET_BYTES || secret[-1] != ' ' ||
        !from_hex(out->secret, secret, AUTH_SECRET_BYTES)) {
        return "is damaged: it is not " HEAD "ID SECRET";
    }
    if (!set_id(out)) {
        return "cannot be checked (OpenSSL makes no SHA-256)";
    }
    return memcmp(out->id, id, AUTH_ID_DIGITS) == 0 ? NULL
                                                    : "is damaged: its ID and its secret differ";
}

static int parse_lines(struct auth_keys *out, const char *text, size_t size, const char *name)
{
    const char *at = text, *end = text + size;
    for (int line = 1; at < end; line++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        struct auth_key *key = &out->key[out->count];
        if (out->count == AUTH_KEYS_MAX) {
            return fail(TRK_ECORRUPT, "%s has more than %d keys: remove the oldest, line %d and on",
                        name, AUTH_KEYS_MAX, line);
        }
        const char *wrong = parse_line(key, at, (size_t)(stop - at));
        if (wrong == NULL && auth_keys_find(out, key->id, AUTH_ID_DIGITS) != NULL) {
            wrong = "repeats the key before it";
        }
        if (wrong != NULL) {
            return fail(TRK_ECORRUPT,
                        "%s: line %d %s; copy the key again from a machine that has it", name,
                        line, wrong);
        }
        out->count++;
        at = newline != NULL ? newline + 1 : end;
    }
    return out->count > 0 ? 0 : fail(TRK_ECORRUPT, "%s is empty: it should hold a key", name);
}

int auth_keys_parse(struct auth_keys *out, const char *text, size_t size, const char *name)
{
    memset(out, 0, sizeof(*out));
    int rc = parse_lines(out, text, size, name);
    if (rc != 0) {
        auth_keys_clear(out);
    }
    return rc;
}

size_t auth_keys_format(const struct auth_keys *keys, char text[AUTH_TEXT_MAX])
{
    size_t size = 0;
    text[0] = '\0';
    for (size_t i = 0; i < keys->count; i++) {
        char secret[2 * AUTH_SECRET_BYTES + 1];
        to_hex(secret, keys->key[i].secret, AUTH_SECRET_BYTES);
        size += (size_t)snprintf(text + size, AUTH_TEXT_MAX - size, HEAD "%s %s\n",
                                 keys->key[i].id, secret);
        explicit_bzero(secret, sizeof(secret));
    }
    assert(size < AUTH_TEXT_MAX);
    return size;
}

const struct auth_key *auth_keys_find(const struct auth_keys *keys, const char *id, size_t size)
{
    for (size_t i = 0; i < keys->count && size == AUTH_ID_DIGITS; i++) {
        if (memcmp(keys->key[i].id, id, size) == 0) {
            return &keys->key[i];
        }
    }
    return NULL;
}

void auth_keys_rotate(struct auth_keys *keys, const struct auth_key *key)
{
    keys->key[1] = keys->key[0];
    keys->key[0] = *key;
    keys->count = keys->count > 0 ? 2 : 1;
}

void auth_keys_clear(struct auth_keys *keys) { explicit_bzero(keys, sizeof(*keys)); }
