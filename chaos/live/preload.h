/* SPDX-License-Identifier: MIT */
/* preload.h - what libraries to preload have in common: the next definition of a function, and the
 * path of an open file.
 *
 * To be included first. Functions with offsets have two names each: LMDB as Debian builds it calls
 * pwrite, what Meson builds calls pwrite64. Both are to be defined, so the headers must not rename
 * the one to the other here. */
#ifndef CHAOS_PRELOAD_H
#define CHAOS_PRELOAD_H

#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

/* Declares `next`, the definition of a function that would be called without us. */
#define NEXT(type, name, ...)                                          \
    static type (*next)(__VA_ARGS__);                                  \
    if (next == NULL) {                                                \
        *(void **)&next = dlsym(RTLD_NEXT, name);                      \
    }

/* Defines the function also with offsets of 64 bits, which all are on machines of today. */
#define ALSO_64(name) __typeof__(name) name##64 __attribute__((alias(#name)))
_Static_assert(sizeof(off_t) == 8, "offsets have 64 bits");

/* Writes what a descriptor refers to. Returns its length, without a final 0; 0: not known. */
static inline size_t preload_path(int fd, char *path, size_t size)
{
    char link[64];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, size);
    return n > 0 ? (size_t)n : 0;
}

#endif
