/* SPDX-License-Identifier: MIT */
/* native_spec.h - how a function of a shared object is named in a STAGE: the function bytes of the
 * module "native", made by the program (src/farm/native.c) and read by VMs (native.c).
 *
 *   u8 version, u8 kind, u16 symbol_size, u32 library_size, u8[16] digest, symbol, library
 *
 * Little endian; no NUL in the names, which are not terminated. */
#ifndef RAI_NATIVE_SPEC_H
#define RAI_NATIVE_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/blob.h"
#include "base/hash.h"
#include "trickle/native.h"

enum native_kind {
    NATIVE_SENT = 1,  /* a blob; library: what people call it */
    NATIVE_FOUND = 2, /* library: a path there, or a name for the dynamic linker; digest is 0 */
};

struct native_spec {
    enum native_kind kind;
    struct digest digest; /* SENT: of the shared object */
    const char *symbol, *library; /* decoded: borrowed from the bytes */
    size_t symbol_size, library_size; /* 1 to TRK_NATIVE_SYMBOL_MAX */
};

struct blob *native_spec_encode(const struct native_spec *m); /* NULL: out of memory */
/* TRK_ECORRUPT, TRK_EVERSION. */
TRK_MUST_USE int native_spec_decode(struct native_spec *m, const void *bytes, size_t size);
/* TRK_EINVAL, with a sentence: a name has no bytes or too many. what: "symbol", for people. */
TRK_MUST_USE int native_spec_name(const char *name, const char *what);
/* What tells this code from other code. */
struct digest native_spec_fingerprint(const struct native_spec *m);

#endif
