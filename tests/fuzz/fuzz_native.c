/* SPDX-License-Identifier: MIT */
/* fuzz_native.c - the name of a function in a shared object, as a STAGE brings it: what is accepted
 * is written back byte for byte, its names lie within what came and hold no NUL. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "fuzz.h"
#include "rai/native_spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t live = mem_live();
    uint8_t *bytes = malloc(size > 0 ? size : 1); /* of its exact size, for the sanitizer */
    struct native_spec spec;
    struct blob *again;

    assert(bytes != NULL);
    memcpy(bytes, data, size);
    if (native_spec_decode(&spec, bytes, size) == 0) {
        assert((const uint8_t *)spec.library + spec.library_size == bytes + size);
        assert(memchr(spec.symbol, 0, spec.symbol_size) == NULL);
        assert(memchr(spec.library, 0, spec.library_size) == NULL);
        assert(spec.symbol_size <= TRK_NATIVE_SYMBOL_MAX);
        assert(spec.library_size <= TRK_NATIVE_SYMBOL_MAX);
        again = native_spec_encode(&spec);
        assert(again != NULL && again->size == size);
        assert(memcmp(again->data, bytes, size) == 0);
        blob_unref(again);
    }
    free(bytes);
    assert(mem_live() == live);
    return 0;
}
