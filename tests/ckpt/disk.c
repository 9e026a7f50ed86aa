/* SPDX-License-Identifier: MIT */
#include "disk.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define INSTEAD __attribute__((visibility("default")))

/* Under both names: which one a library calls depends on how it was built. */
ssize_t plain_pwrite(int fd, const void *bytes, size_t size, off_t offset) __asm__("pwrite");
ssize_t large_pwrite(int fd, const void *bytes, size_t size, off_t offset) __asm__("pwrite64");

INSTEAD ssize_t plain_pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    return disk_pwrite(fd, bytes, size, offset);
}

INSTEAD ssize_t large_pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    return disk_pwrite(fd, bytes, size, offset);
}

INSTEAD ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    return disk_writev(fd, pieces, count);
}

INSTEAD int fdatasync(int fd)
{
    return disk_sync(fd);
}

bool disk_is_store(int fd)
{
    char link[64], path[4200] = "";

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, "/data.mdb") != NULL &&
           strstr(path, "/image/") == NULL;
}
