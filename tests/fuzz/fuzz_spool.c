/* SPDX-License-Identifier: MIT */
/* fuzz_spool.c - bytes from a disk as a file of held results: what is read lies within it and is
 * what its digests say. Byte 0: bit 0, make the digests and the offsets of records fit first, so
 * that what is behind them is reached, too. */
#include <assert.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "fuzz.h"
#include "vm/spool.h"
#include "wire/msg.h"

#define FILE_HEAD 64u
#define RECORD_HEAD 112u

static const uint8_t job[16] = "jjjjjjjjjjjjjjjj";
static char home[64], path[256];

static int remove_one(const char *name, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(name);
}

static void remove_home(void) { nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void make_home(void)
{
    struct spool_writer *w;
    int rc = log_set_level("error"); /* damage is warned of */

    snprintf(home, sizeof(home), "%s/trickle-fuzz-XXXXX" "X",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert(rc == 0 && mkdtemp(home) != NULL);
    atexit(remove_home);
    rc = spool_create(&w, home, job, 3, "it"); /* makes the directories */
    assert(rc == 0);
    rc = spool_commit(w);
    assert(rc == 0);
    snprintf(path, sizeof(path), "%s/held/6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a/it.held", home);
}

static void put_digest(uint8_t *to, const void *bytes, size_t size)
{
    struct digest digest = hash_digest(bytes, size);

    memcpy(to, digest.bytes, sizeof(digest.bytes));
}

static void reseal(uint8_t *bytes, size_t size)
{
    if (size < FILE_HEAD) {
        return;
    }
    put_digest(bytes + 48, bytes, 48);
    for (size_t at = FILE_HEAD; size - at >= RECORD_HEAD;) {
        uint8_t *head = bytes + at;
        uint64_t payload = le_load_u64(head + 16), left = size - at - RECORD_HEAD;
        le_store_u64(head + 96, at);
        if (payload <= left) {
            put_digest(head + 80, head + RECORD_HEAD, (size_t)payload);
        }
        put_digest(head, head + 16, RECORD_HEAD - 16);
        if (payload > left) {
            return;
        }
        at += RECORD_HEAD + (size_t)payload;
    }
}

static void read_all(struct spool_file *f, size_t size)
{
    struct blob *payload;
    struct spool_entry e;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < spool_count(f); i++) {
        sum += spool_size(f, i);
        if (spool_read(f, i, &e, &payload) == 0) {
            assert(e.stage == spool_stage(f, i) && e.size == spool_size(f, i));
            assert(e.kind == WIRE_HELD_RESULT || e.kind == WIRE_HELD_STATE);
            assert(payload->size == e.size && e.payload == payload->data);
            blob_unref(payload);
        }
    }
    assert(sum <= size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct spool_file *f;
    uint64_t live;

    if (size < 1) {
        return 0;
    }
    if (home[0] == '\0') {
        make_home();
    }
    live = mem_live();
    uint8_t *bytes = malloc(size);
    assert(bytes != NULL);
    memcpy(bytes, data + 1, size - 1);
    if (data[0] & 1) {
        reseal(bytes, size - 1);
    }
    FILE *file = fopen(path, "wb");
    assert(file != NULL);
    size_t written = fwrite(bytes, 1, size - 1, file);
    assert(written == size - 1 && fclose(file) == 0);
    free(bytes);
    if (spool_open(&f, home, job, "it") == 0) {
        read_all(f, size - 1);
        spool_close(f);
    }
    assert(mem_live() == live);
    return 0;
}
