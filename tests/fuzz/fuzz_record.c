/* SPDX-License-Identifier: MIT */
/* fuzz_record.c - bytes from a disk into the record parser, its bodies, and the scan. Byte 0: bit
 * 0, seal what looks like a record first, so that what is behind the digests is reached, too; bit
 * 1, the bytes are in a file as well. */
#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "ckpt/scan.h"
#include "fuzz.h"

static void look_into(const struct record *r)
{
    struct record_parts parts;
    struct record_count count;
    struct record_tail tail;
    struct record_run run;

    if (record_parts_get(&parts, r) == 0) {
        assert((r->flags & RECORD_IN_PARTS) != 0);
    }
    if (record_run_get(&run, r) == 0) {
        assert(run.count > 0 && run.first + run.count > run.first);
    }
    if (record_count_get(&count, r) == 0) {
        assert(r->kind == CKPT_COUNT);
    }
    if (record_tail_get(&tail, r) == 0) {
        assert(r->kind == CKPT_TAIL);
    }
}

static int on_found(void *ctx, const struct record *r)
{
    const uint8_t *at = r->body - r->key_size - RECORD_HEAD;
    uintptr_t *end = ctx;
    size_t size = record_size(r->key_size, r->body_size);
    struct record again;

    assert(record_get(&again, at, size) == 0 && again.version == r->version);
    assert((uintptr_t)at >= *end); /* none inside of another */
    *end = (uintptr_t)(at + size);
    look_into(r);
    return 0;
}

/* Makes the digests fit the rest, as far as there is a rest. */
static void reseal(uint8_t *bytes, size_t size)
{
    struct digest body, head;
    size_t key_size;

    if (size < RECORD_HEAD) {
        return;
    }
    key_size = le_load_u16(bytes + 26);
    if (key_size > size - RECORD_HEAD) {
        return;
    }
    memcpy(bytes, RECORD_MAGIC, RECORD_MAGIC_BYTES);
    le_store_u64(bytes + 32, size - RECORD_HEAD - key_size);
    body = hash_digest(bytes + RECORD_HEAD + key_size, size - RECORD_HEAD - key_size);
    memcpy(bytes + 80, body.bytes, 16);
    head = hash_digest(bytes + 24, RECORD_HEAD - 24 + key_size);
    memcpy(bytes + 8, head.bytes, 16);
}

static int count(void *ctx, const struct record *r)
{
    ++*(uint64_t *)ctx;
    return 0;
}

/* In a file, behind other things, the same records are found. */
static void try_file(const uint8_t *bytes, size_t size)
{
    struct scan_report report = {0};
    uint64_t in_memory = 0, in_file = 0;
    size_t used;
    char path[64];
    int fd = memfd_create("records", MFD_CLOEXEC);

    assert(fd >= 0 && pwrite(fd, bytes, size, 5000) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    assert(scan_bytes(bytes, size, true, &used, count, &in_memory, &report) == 0);
    assert(scan_file(path, count, &in_file, &report) == 0);
    assert(in_file == in_memory);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct scan_report report = {0};
    struct index_entry entry;
    uintptr_t end = 0;
    size_t used = 0;
    struct record r;
    uint8_t *bytes;

    if (size < 1) {
        return 0;
    }
    bytes = malloc(size); /* exact, for the sanitizer */
    assert(bytes != NULL);
    memcpy(bytes, data + 1, size - 1);
    if (data[0] & 1) {
        reseal(bytes, size - 1);
    }
    if (record_get(&r, bytes, size - 1) == 0) {
        look_into(&r);
    }
    assert(scan_bytes(bytes, size - 1, true, &used, on_found, &end, &report) == 0);
    assert(used == size - 1);
    end = 0;
    assert(scan_bytes(bytes, size - 1, false, &used, on_found, &end, &report) == 0);
    assert(used <= size - 1);
    if (data[0] & 2) {
        try_file(bytes, size - 1);
    }
    if (size - 1 >= KEY_INDEX + INDEX_VALUE &&
        index_entry_get(&entry, bytes, KEY_INDEX, bytes + KEY_INDEX, INDEX_VALUE) == 0) {
        assert(entry.count > 0);
    }
    free(bytes);
    return 0;
}
