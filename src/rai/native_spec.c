/* SPDX-License-Identifier: MIT */
/* native_spec.c - see native_spec.h. It comes to a VM from a network, so each byte is checked. */
#include "rai/native_spec.h"

#include <string.h>

#include "base/buf.h"
#include "base/fail.h"

#define VERSION 1

struct blob *native_spec_encode(const struct native_spec *m)
{
    struct buf b;

    buf_init(&b);
    buf_put_u8(&b, VERSION);
    buf_put_u8(&b, (uint8_t)m->kind);
    buf_put_u16(&b, (uint16_t)m->symbol_size);
    buf_put_u32(&b, (uint32_t)m->library_size);
    buf_put(&b, m->digest.bytes, sizeof(m->digest.bytes));
    buf_put(&b, m->symbol, m->symbol_size);
    buf_put(&b, m->library, m->library_size);
    return buf_take(&b);
}

static bool is_name(const char *name, size_t size)
{
    return name != NULL && size > 0 && size <= TRK_NATIVE_SYMBOL_MAX &&
           memchr(name, '\0', size) == NULL;
}

int native_spec_decode(struct native_spec *m, const void *bytes, size_t size)
{
    static const struct digest none;
    struct cursor c;
    const uint8_t *digest;
    uint8_t kind;

    cursor_init(&c, bytes, size);
    if (cursor_get_u8(&c) != VERSION) {
        return TRK_EVERSION;
    }
    kind = cursor_get_u8(&c);
    m->symbol_size = cursor_get_u16(&c);
    m->library_size = cursor_get_u32(&c);
    digest = cursor_get(&c, sizeof(m->digest.bytes));
    m->symbol = (const char *)cursor_get(&c, m->symbol_size);
    m->library = (const char *)cursor_get(&c, m->library_size);
    if (c.has_failed || cursor_left(&c) > 0 || (kind != NATIVE_SENT && kind != NATIVE_FOUND) ||
        !is_name(m->symbol, m->symbol_size) || !is_name(m->library, m->library_size)) {
        return TRK_ECORRUPT;
    }
    m->kind = (enum native_kind)kind;
    memcpy(m->digest.bytes, digest, sizeof(m->digest.bytes));
    return kind == NATIVE_FOUND && memcmp(digest, &none, sizeof(none)) != 0 ? TRK_ECORRUPT : 0;
}

int native_spec_name(const char *name, const char *what)
{
    return is_name(name, strlen(name)) ? 0
        : fail(TRK_EINVAL, "'%.40s' cannot be a %s: it needs 1 to %d bytes", name, what,
               TRK_NATIVE_SYMBOL_MAX);
}

struct digest native_spec_fingerprint(const struct native_spec *m)
{
    struct native_spec code = *m;
    struct digest sum = {{0}};
    struct blob *bytes;

    code.library_size = m->kind == NATIVE_SENT ? 0 : m->library_size; /* its content counts */
    bytes = native_spec_encode(&code);
    if (bytes != NULL) {
        sum = hash_digest(bytes->data, bytes->size);
        blob_unref(bytes);
    }
    return sum;
}
