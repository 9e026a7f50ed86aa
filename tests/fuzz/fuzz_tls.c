/* SPDX-License-Identifier: MIT */
/* fuzz_tls.c - what comes after the handshake: records of a peer that has the key, and what
 * somebody makes of them on their way. Byte 0: bit 0, the caller is looked at, else who answers.
 * Byte 1: seed of the pieces that come at a time. Then steps: u8 what, u16 size, bytes:
 *   0, 1  a record of data                        4  the same, and a byte of it is changed
 *   2     a record of another type: first byte    5  a record is left out
 *   3     these bytes as they are                 6  ours: new keys for what we write
 * What is read is exactly what was sent, up to the first thing that no good peer does. */
#include <assert.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "../wire/samples.h"
#include "base/buf.h"
#include "base/mem.h"
#include "fuzz.h"
#include "net/record.h"
#include "tls_rig.h"

static const uint8_t key_update[] = {24, 0, 0, 1, 0};

struct talk {
    struct net_tls *t;
    struct net_record peer;     /* what the other one writes with */
    struct tls_rig_flight sent; /* on the wire */
    uint8_t text[TLS_RIG_BYTES]; /* that is to be read */
    size_t text_size, read;
    bool is_over;               /* nothing of what is sent now may be read */
    bool is_ended;              /* because the peer said so, properly */
};

static void seal(struct talk *k, uint8_t type, const uint8_t *bytes, size_t size)
{
    const struct iovec iov = {(void *)bytes, size};
    int rc = net_record_seal(&k->peer, (enum net_record_type)type, &iov, 0, size,
                             k->sent.bytes + k->sent.size);

    assert(rc == 0);
    k->sent.size += size + RECORD_EXTRA;
}

static void say(struct talk *k, const uint8_t *bytes, size_t size)
{
    seal(k, RECORD_DATA, bytes, size);
    if (!k->is_over) {
        memcpy(k->text + k->text_size, bytes, size);
        k->text_size += size;
    }
}

/* Of all these only a KeyUpdate leaves anything to be read behind it. */
static void say_other(struct talk *k, const uint8_t *bytes, size_t size)
{
    if (size == 0 || bytes[0] == RECORD_DATA) {
        say(k, bytes, size);
        return;
    }
    seal(k, bytes[0], bytes + 1, size - 1);
    if (bytes[0] == RECORD_HANDSHAKE && size - 1 == sizeof(key_update) &&
        memcmp(bytes + 1, key_update, sizeof(key_update)) == 0) {
        int rc = net_record_rekey(&k->peer);
        assert(rc == 0);
        return;
    }
    k->is_ended = k->is_ended || (!k->is_over && bytes[0] == RECORD_ALERT && size == 3 &&
                                  bytes[2] == 0);
    k->is_over = true;
}

static void take_step(struct talk *k, unsigned what, const uint8_t *bytes, size_t size)
{
    size_t start = k->sent.size;

    if (what < 2) {
        say(k, bytes, size);
    } else if (what == 2) {
        say_other(k, bytes, size);
    } else if (what == 3) {
        memcpy(k->sent.bytes + start, bytes, size);
        k->sent.size += size;
        k->is_over = k->is_over || size > 0;
    } else if (what == 4 && size > 3 && bytes[2] != 0) {
        k->is_over = true;
        say(k, bytes + 3, size - 3);
        k->sent.bytes[start + le_load_u16(bytes) % (k->sent.size - start)] ^= bytes[2];
    } else if (what == 5) {
        seal(k, RECORD_DATA, bytes, size);
        k->sent.size = start;
        k->is_over = true;
    } else if (what == 6) {
        net_tls_rekey(k->t);
        tls_rig_output(k->t, NULL);
    }
}

static void take_steps(struct talk *k, const uint8_t *bytes, size_t size)
{
    while (size >= 3) {
        size_t n = le_load_u16(bytes + 1);
        n = n < size - 3 ? n : size - 3;
        n = n < RECORD_PLAIN ? n : RECORD_PLAIN;
        if (TLS_RIG_BYTES - k->sent.size < n + RECORD_EXTRA) {
            return;
        }
        take_step(k, bytes[0] % 7, bytes + 3, n);
        bytes += 3 + n;
        size -= 3 + n;
    }
}

/* In pieces, into rooms of any size. */
static int read_all(struct talk *k, uint64_t seed)
{
    uint8_t out[RECORD_PLAIN];
    int rc = 0;

    for (size_t at = 0; at < k->sent.size && rc == 0;) {
        size_t left = k->sent.size - at, got = 1, most = seed % 4 == 0 ? 9 : 40000;
        size_t n = 1 + sample_random(&seed) % (left < most ? left : most);
        uint8_t *piece = malloc(n); /* exact, for the sanitizer */
        assert(piece != NULL);
        memcpy(piece, k->sent.bytes + at, n);
        net_tls_feed(k->t, piece, n);
        while (rc == 0 && got > 0) {
            size_t room = 1 + sample_random(&seed) % (seed % 4 == 1 ? 8 : sizeof(out));
            rc = net_tls_read(k->t, out, room, &got);
            assert(got <= k->text_size - k->read);
            assert(memcmp(k->text + k->read, out, got) == 0);
            k->read += got;
        }
        free(piece);
        at += n;
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct talk k;
    uint64_t live = mem_live();

    if (size < 2) {
        return 0;
    }
    k.sent.size = k.text_size = k.read = 0;
    k.is_over = k.is_ended = false;
    k.t = tls_rig_shaken((data[0] & 1) != 0, &k.peer);
    take_steps(&k, data + 2, size - 2);
    int rc = read_all(&k, data[1] + UINT64_C(1));
    assert(k.read == k.text_size);
    assert(rc == 0 || rc == TRK_ECORRUPT || rc == TRK_END);
    assert(rc != TRK_END || k.is_ended);
    assert(rc != TRK_ECORRUPT || (k.is_over && net_tls_why(k.t)[0] != '\0'));
    net_tls_end(k.t);
    tls_rig_output(k.t, NULL);
    net_tls_free(k.t);
    net_record_fini(&k.peer);
    assert(ERR_peek_error() == 0);
    assert(mem_live() == live);
    return 0;
}
