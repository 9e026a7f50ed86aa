/* SPDX-License-Identifier: MIT */
/* scan.c - see scan.h. A window is moved over the file that always holds the largest record. */
#include "ckpt/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define WINDOW_BYTES ((size_t)8 << 20)
#define BLOCK_BYTES 4096 /* around what cannot be read */

int scan_bytes(const uint8_t *bytes, size_t size, bool is_end, size_t *used,
               int (*found)(void *ctx, const struct record *r), void *ctx,
               struct scan_report *report)
{
    size_t at = 0;

    while (at < size) {
        const uint8_t *magic = memmem(bytes + at, size - at, RECORD_MAGIC, RECORD_MAGIC_BYTES);
        struct record r;
        size_t left;
        int rc;
        if (magic == NULL) {
            at = is_end || size - at < RECORD_MAGIC_BYTES ? at : size - RECORD_MAGIC_BYTES + 1;
            at = is_end ? size : at;
            break;
        }
        at = (size_t)(magic - bytes);
        left = size - at;
        if (left < RECORD_SIZE_MAX && !is_end) {
            break;
        }
        rc = record_head_get(&r, magic, left);
        report->newer += rc == TRK_EVERSION;
        if (rc == 0 && record_size(r.key_size, r.body_size) <= left &&
            record_get(&r, magic, record_size(r.key_size, r.body_size)) == 0) {
            rc = found(ctx, &r);
            if (rc != 0) {
                return rc;
            }
            at += record_size(r.key_size, r.body_size);
        } else {
            at++;
        }
    }
    *used = at;
    return 0;
}

/* Reads size bytes, or up to the end of the file; what the disk refuses is zeros. */
static size_t read_block(int fd, uint8_t *to, size_t size, off_t offset,
                         struct scan_report *report)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = pread(fd, to + done, size - done, offset + (off_t)done);
        if (got == 0) {
            break;
        }
        if (got > 0) {
            done += (size_t)got;
        } else if (errno != EINTR) {
            size_t n = BLOCK_BYTES - (size_t)(offset + (off_t)done) % BLOCK_BYTES;
            n = n < size - done ? n : size - done;
            got = pread(fd, to + done, n, offset + (off_t)done);
            if (got <= 0) {
                memset(to + done, 0, n);
                report->unreadable_bytes += n;
                got = (ssize_t)n;
            }
            done += (size_t)got;
        }
    }
    return done;
}

int scan_file(const char *path, int (*found)(void *ctx, const struct record *r), void *ctx,
              struct scan_report *report)
{
    uint8_t *window = mem_alloc(WINDOW_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t offset = 0, end = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    size_t have = 0;
    bool is_end = false;
    int rc = 0;

    memset(report, 0, sizeof(*report));
    if (window == NULL || fd < 0) {
        rc = window == NULL ? TRK_ENOMEM : TRK_EIO;
    }
    while (rc == 0 && !is_end) {
        size_t used = 0, want = WINDOW_BYTES - have, got;
        want = (off_t)want < end - offset ? want : (size_t)(end - offset);
        got = read_block(fd, window + have, want, offset, report);
        have += got;
        offset += (off_t)got;
        report->bytes += got;
        is_end = got < want || offset >= end;
        rc = scan_bytes(window, have, is_end, &used, found, ctx, report);
        memmove(window, window + used, have - used);
        have -= used;
    }
    if (fd >= 0) {
        close(fd);
    }
    mem_free(window);
    return rc;
}
