/* SPDX-License-Identifier: MIT */
/* rss.c - how much memory a process has in RAM. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vm/host.h"

uint64_t vm_rss_bytes(pid_t pid)
{
    char name[32] = "/proc/self/statm", text[128], *resident;
    if (pid != 0) {
        snprintf(name, sizeof(name), "/proc/%d/statm", (int)pid);
    }
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    strtoull(text, &resident, 10); /* size, resident, ... in pages */
    return strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}
