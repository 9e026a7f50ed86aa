/* SPDX-License-Identifier: MIT */
/* disk.h - the calls that LMDB writes with, taken over by a test: the symbols of an executable come
 * before those of the C library. A test that is built with disk.c defines the three of disk_. */
#ifndef TESTS_CKPT_DISK_H
#define TESTS_CKPT_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/* In the place of fdatasync, pwrite and writev, for all of the process. */
int disk_sync(int fd);
ssize_t disk_pwrite(int fd, const void *bytes, size_t size, off_t offset);
ssize_t disk_writev(int fd, const struct iovec *pieces, int count);

bool disk_is_store(int fd); /* of a file data.mdb, but for those in a folder image */

#endif
