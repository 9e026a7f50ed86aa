/* SPDX-License-Identifier: MIT */
/* fds.c - TRICKLE_VM_FDS as text and back; descriptors out of the way of user code. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trickle/error.h"
#include "vm/host.h"

int vm_fds_format(const struct vm_fds *fds, char *text, unsigned size)
{
    char hex[33];
    for (int i = 0; i < 16; i++) {
        snprintf(hex + 2 * i, 3, "%02x", fds->supervisor[i]);
    }
    int n = snprintf(text, size,
                     "listen=%d,tcp=%d,control=%d,page=%d,index=%u,cores=%u,tcpport=%u,"
                     "tls=%d,supervisor=%s",
                     fds->listen, fds->tcp, fds->control, fds->page, fds->index, fds->cores,
                     fds->tcp_port, fds->is_tls, hex);
    return n > 0 && (unsigned)n < size ? 0 : TRK_EINVAL;
}

bool vm_hex_parse(uint8_t out[16], const char *hex)
{
    if (strlen(hex) != 32 || strspn(hex, "0123456789abcdef") != 32) {
        return false;
    }
    for (int i = 0; i < 16; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        out[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return true;
}

int vm_fds_parse(struct vm_fds *out, const char *text)
{
    char hex[33];
    int end = 0;
    struct vm_fds fds;
    unsigned port, tls;
    int n = sscanf(text,
                   "listen=%9d,tcp=%9d,control=%9d,page=%9d,index=%9u,cores=%9u,tcpport=%9u,"
                   "tls=%1u,supervisor=%32[0-9a-f]%n",
                   &fds.listen, &fds.tcp, &fds.control, &fds.page, &fds.index, &fds.cores, &port,
                   &tls, hex, &end);
    if (n != 9 || text[end] != '\0' || port > 65535 || !vm_hex_parse(fds.supervisor, hex) ||
        fds.listen < 0 || fds.tcp < -1 || fds.control < 0 || fds.page < 0) {
        return TRK_EINVAL;
    }
    fds.tcp_port = (uint16_t)port;
    fds.is_tls = tls != 0;
    *out = fds;
    return 0;
}

int vm_fd_raise(int fd)
{
    if (fd < 0 || fd >= VM_FD_FLOOR) {
        return fd;
    }
    int raised = fcntl(fd, F_DUPFD_CLOEXEC, VM_FD_FLOOR);
    if (raised < 0) {
        return fd;
    }
    close(fd);
    return raised;
}

void vm_fd_fill(bool taken[VM_FD_FLOOR])
{
    int fd;
    memset(taken, 0, VM_FD_FLOOR * sizeof(taken[0]));
    while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0 && fd < VM_FD_FLOOR) {
        taken[fd] = true;
    }
    if (fd >= 0) {
        close(fd);
    }
}

void vm_fd_unfill(const bool taken[VM_FD_FLOOR])
{
    for (int fd = 0; fd < VM_FD_FLOOR; fd++) {
        if (taken[fd]) {
            close(fd);
        }
    }
}
