/* SPDX-License-Identifier: MIT */
/* output.c - what VMs print: always drained, the last of it kept, passed on to the holder. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "vm/supervisor.h"

static void keep(struct vm_child *vm, const uint8_t *bytes, size_t size)
{
    if (size > OUTPUT_KEPT) {
        vm->printed += size - OUTPUT_KEPT;
        bytes += size - OUTPUT_KEPT;
        size = OUTPUT_KEPT;
    }
    size_t at = vm->printed % OUTPUT_KEPT;
    size_t head = size < OUTPUT_KEPT - at ? size : OUTPUT_KEPT - at;
    memcpy(vm->ring + at, bytes, head);
    memcpy(vm->ring, bytes + head, size - head);
    vm->printed += size;
}

void output_read(struct vm_child *vm, size_t limit)
{
    static uint8_t chunk[OUTPUT_KEPT]; /* one thread */
    size_t taken = 0;
    while (taken < limit && vm->output != NULL) {
        ssize_t n = read(watched_fd_get(vm->output), chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n <= 0) {
            /* All who could print have closed it: the VM's death, or user code that did. */
            watched_fd_close(vm->output);
            vm->output = NULL;
            return;
        }
        keep(vm, chunk, (size_t)n);
        watch_output(vm, chunk, (size_t)n);
        taken += (size_t)n;
    }
}

size_t output_last(const struct vm_child *vm, char *text, size_t size)
{
    size_t kept = vm->printed < OUTPUT_KEPT ? (size_t)vm->printed : OUTPUT_KEPT;
    size = size < kept ? size : kept;
    for (size_t i = 0; i < size; i++) {
        text[i] = (char)vm->ring[(vm->printed - size + i) % OUTPUT_KEPT];
    }
    return size;
}

void output_last_line(const struct vm_child *vm, char *text, size_t size)
{
    char tail[512];
    size_t n = output_last(vm, tail, sizeof(tail));
    while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == '\r' || tail[n - 1] == ' ')) {
        n--;
    }
    size_t start = n;
    while (start > 0 && tail[start - 1] != '\n') {
        start--;
    }
    size_t length = n - start < size - 1 ? n - start : size - 1;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)tail[start + i];
        text[i] = c < 32 || c == 127 ? ' ' : (char)c; /* it ends up on terminals */
    }
    text[length] = '\0';
}
