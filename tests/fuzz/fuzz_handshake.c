/* SPDX-License-Identifier: MIT */
/* fuzz_handshake.c - what strangers can send: the handshake as a server and as a caller see it.
 * Byte 0: bit 0, the caller is looked at, else who answers; bit 1, edits, else bytes; bit 2, it has
 * another key. Byte 1: seed of the pieces that come at a time.
 *
 * Bytes: are what comes, and then also the first records. Random bytes are always the same, so a
 * recorded handshake passes, and the corpus has some. With another key nothing passes.
 * Edits: two good ends, and somebody between them who changes bytes: u8 what, u16 where, u8 how.
 * Where both believe that they are done, what one says the other one hears, unless bytes were put
 * in or left out: some of them may still be waiting for the rest of a record. */
#include <assert.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "../wire/samples.h"
#include "base/buf.h"
#include "base/mem.h"
#include "fuzz.h"
#include "tls_rig.h"

#define TEXT "what one says"

/* Reads all that was fed; returns how it ended. */
static int read_all(struct net_tls *t, uint8_t *text, size_t room, size_t *size)
{
    uint8_t out[1000];
    size_t got = 1;
    int rc = 0;

    while (rc == 0 && got > 0) {
        rc = net_tls_read(t, out, sizeof(out), &got);
        size_t take = got < room - *size ? got : room - *size;
        memcpy(text + *size, out, take);
        *size += take;
    }
    return rc;
}

static void try_bytes(bool is_caller, bool has_key, const uint8_t *bytes, size_t size,
                      uint64_t seed)
{
    struct net_tls *t = tls_rig_end(is_caller, has_key);
    int rc = is_caller ? tls_rig_step(t, is_caller, "", 0, NULL) : TRK_AGAIN;
    uint8_t text[100];
    size_t got = 0;

    while (size > 0 && rc == TRK_AGAIN) {
        size_t n = 1 + sample_random(&seed) % (size < 300 ? size : 300);
        rc = tls_rig_step(t, is_caller, bytes, n, NULL);
        bytes += n;
        size -= n;
    }
    assert(rc == 0 || rc == TRK_AGAIN || rc == TRK_EDENIED);
    assert((rc == TRK_EDENIED) == (net_tls_why(t)[0] != '\0'));
    assert(rc != 0 || has_key);
    if (rc == 0) {
        rc = read_all(t, text, sizeof(text), &got); /* of the same piece */
        net_tls_feed(t, bytes, size);
        rc = rc == 0 ? read_all(t, text, sizeof(text), &got) : rc;
        assert(rc == 0 || rc == TRK_ECORRUPT || rc == TRK_END);
    }
    net_tls_end(t);
    net_tls_free(t);
}

/* Changes a flight as the edits of its direction say; before: bytes of that direction until now.
 * Is it as long as it was? */
static bool edit(struct tls_rig_flight *f, uint64_t before, const uint8_t *edits, size_t count,
                 bool is_to_vm)
{
    size_t size = f->size;

    for (size_t i = 0; i < count; i++, edits += 4) {
        uint64_t at = le_load_u16(edits + 1);
        if ((edits[0] & 1) != is_to_vm || at < before || at - before >= f->size) {
            continue;
        }
        uint8_t *byte = f->bytes + (at - before);
        size_t left = f->size - (size_t)(at - before);
        if ((edits[0] & 6) == 2) { /* one is left out */
            memmove(byte, byte + 1, left - 1);
            f->size--;
        } else if ((edits[0] & 6) == 4 && f->size < TLS_RIG_BYTES) { /* one comes twice */
            memmove(byte + 1, byte, left);
            f->size++;
        } else if ((edits[0] & 6) == 6) { /* nothing comes any more */
            f->size -= left;
        } else {
            *byte ^= edits[3];
        }
    }
    return f->size == size;
}

static void check_talk(struct net_tls *from, struct net_tls *to)
{
    const struct iovec iov = {TEXT, sizeof(TEXT)};
    static struct tls_rig_flight f;
    uint8_t text[100];
    size_t got = 0;

    f.size = 0;
    ssize_t written = net_tls_write(from, &iov, 1);
    assert(written == sizeof(TEXT));
    tls_rig_output(from, &f);
    net_tls_feed(to, f.bytes, f.size);
    int rc = read_all(to, text, sizeof(text), &got);
    assert(rc == 0 && got == sizeof(TEXT) && memcmp(text, TEXT, got) == 0);
}

static void try_edits(const uint8_t *edits, size_t count)
{
    static struct tls_rig_flight to_vm, to_caller;
    struct net_tls *caller = tls_rig_end(true, true), *vm = tls_rig_end(false, true);
    uint64_t sent = 0, answered = 0;
    bool is_whole = true;
    int caller_rc, vm_rc = TRK_AGAIN;

    to_vm.size = 0;
    caller_rc = tls_rig_step(caller, true, "", 0, &to_vm);
    for (int turn = 0; turn < 3 && (vm_rc == TRK_AGAIN || caller_rc == TRK_AGAIN); turn++) {
        uint64_t size = to_vm.size;
        is_whole = edit(&to_vm, sent, edits, count, true) && is_whole;
        sent += size;
        to_caller.size = 0;
        if (vm_rc == TRK_AGAIN) {
            vm_rc = tls_rig_step(vm, false, to_vm.bytes, to_vm.size, &to_caller);
        }
        size = to_caller.size;
        is_whole = edit(&to_caller, answered, edits, count, false) && is_whole;
        answered += size;
        to_vm.size = 0;
        if (caller_rc == TRK_AGAIN) {
            caller_rc = tls_rig_step(caller, true, to_caller.bytes, to_caller.size, &to_vm);
        }
    }
    assert(count > 0 || (caller_rc == 0 && vm_rc == 0));
    if (caller_rc == 0 && vm_rc == 0 && is_whole) {
        check_talk(caller, vm);
        check_talk(vm, caller);
    }
    net_tls_free(caller);
    net_tls_free(vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t live = mem_live();

    if (size < 2) {
        return 0;
    }
    if (data[0] & 2) {
        try_edits(data + 2, (size - 2) / 4);
    } else {
        try_bytes((data[0] & 1) != 0, (data[0] & 4) == 0, data + 2, size - 2,
                  data[1] + UINT64_C(1));
    }
    assert(ERR_peek_error() == 0);
    assert(mem_live() == live);
    return 0;
}
