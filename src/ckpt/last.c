/* SPDX-License-Identifier: MIT */
/* last.c - see last.h. */
#include "ckpt/last.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

#define NOTE_MAGIC "TRKlast1"
#define NOTE_BYTES 56 /* magic, uuid, u64 epoch, u64 version, digest */
#define NOTE_SIGNED 40
#define CLEAN_MAGIC "TRKcln1\n"
#define CLEAN_BYTES 64

static void path_of(char *path, size_t size, const char *dir, const char *name)
{
    snprintf(path, size, "%s/%s", dir, name);
}

int last_open(const char *dir)
{
    char path[4200];

    path_of(path, sizeof(path), dir, "last");
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

void last_write(int fd, const uint8_t uuid[RECORD_UUID], const struct last_note *note)
{
    uint8_t bytes[NOTE_BYTES];
    struct digest digest;

    memcpy(bytes, NOTE_MAGIC, 8);
    memcpy(bytes + 8, uuid, RECORD_UUID);
    le_store_u64(bytes + 24, note->epoch);
    le_store_u64(bytes + 32, note->version);
    digest = hash_digest(bytes, NOTE_SIGNED);
    memcpy(bytes + NOTE_SIGNED, digest.bytes, sizeof(digest.bytes));
    /* Without the note the store is as safe as with it: checks only notice less. */
    if (fd >= 0 && pwrite(fd, bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes) &&
        ftruncate(fd, 0) < 0) {
        return;
    }
}

int last_read(const char *dir, const uint8_t uuid[RECORD_UUID], struct last_note *note)
{
    uint8_t bytes[NOTE_BYTES];
    struct digest digest;
    char path[4200];
    ssize_t got;
    int fd;

    path_of(path, sizeof(path), dir, "last");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return TRK_END;
    }
    got = pread(fd, bytes, sizeof(bytes), 0);
    close(fd);
    if (got == 0) {
        return TRK_END;
    }
    if (got != (ssize_t)sizeof(bytes) || memcmp(bytes, NOTE_MAGIC, 8) != 0) {
        return TRK_ECORRUPT;
    }
    digest = hash_digest(bytes, NOTE_SIGNED);
    if (memcmp(bytes + NOTE_SIGNED, digest.bytes, sizeof(digest.bytes)) != 0) {
        return TRK_ECORRUPT;
    }
    if (memcmp(bytes + 8, uuid, RECORD_UUID) != 0) {
        return TRK_END;
    }
    note->epoch = (uint32_t)le_load_u64(bytes + 24);
    note->version = le_load_u64(bytes + 32);
    return 0;
}

bool last_exists(const char *dir)
{
    char path[4200];
    struct stat st;

    path_of(path, sizeof(path), dir, "last");
    return stat(path, &st) == 0 && st.st_size > 0;
}

/* --- clean ---------------- */

static bool fingerprint(const char *dir, uint8_t bytes[CLEAN_BYTES])
{
    char path[4200];
    struct stat st;
    struct digest digest;

    path_of(path, sizeof(path), dir, "data.mdb");
    if (stat(path, &st) < 0) {
        return false;
    }
    memcpy(bytes, CLEAN_MAGIC, 8);
    le_store_u64(bytes + 8, (uint64_t)st.st_size);
    le_store_u64(bytes + 16, (uint64_t)st.st_ino);
    le_store_u64(bytes + 24, (uint64_t)st.st_ctim.tv_sec);
    le_store_u64(bytes + 32, (uint64_t)st.st_ctim.tv_nsec);
    le_store_u64(bytes + 40, (uint64_t)st.st_mtim.tv_nsec);
    digest = hash_digest(bytes, 48);
    memcpy(bytes + 48, digest.bytes, 16);
    return true;
}

void clean_mark(const char *dir)
{
    uint8_t bytes[CLEAN_BYTES];
    char path[4200];
    int fd;

    if (!fingerprint(dir, bytes)) {
        return;
    }
    path_of(path, sizeof(path), dir, "clean");
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0) {
        if (write(fd, bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes)) {
            unlink(path);
        }
        close(fd);
    }
}

void clean_unmark(const char *dir)
{
    char path[4200];

    path_of(path, sizeof(path), dir, "clean");
    unlink(path);
}

bool clean_is(const char *dir)
{
    uint8_t wanted[CLEAN_BYTES], found[CLEAN_BYTES];
    char path[4200];
    ssize_t got;
    int fd;

    if (!fingerprint(dir, wanted)) {
        return false;
    }
    path_of(path, sizeof(path), dir, "clean");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    got = read(fd, found, sizeof(found));
    close(fd);
    return got == (ssize_t)sizeof(found) && memcmp(found, wanted, sizeof(found)) == 0;
}
