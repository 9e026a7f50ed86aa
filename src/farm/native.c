/* SPDX-License-Identifier: MIT */
/* native.c - a program names a function of a shared object (trickle/native.h). */
#include "trickle/native.h"

#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "farm/farm_impl.h"
#include "rai/native_spec.h"

static int name(struct native_spec *spec, const char *library, const char *symbol,
                struct trk_native *out)
{
    struct digest fingerprint;
    struct blob *bytes;

    spec->library = library;
    spec->library_size = strlen(library);
    spec->symbol = symbol;
    spec->symbol_size = strlen(symbol);
    bytes = native_spec_encode(spec);
    out->function = bytes != NULL ? mem_alloc(bytes->size) : NULL;
    if (out->function == NULL) {
        blob_unref(bytes);
        return fail(TRK_ENOMEM, "out of memory");
    }
    memcpy(out->function, bytes->data, bytes->size);
    out->function_size = bytes->size;
    fingerprint = native_spec_fingerprint(spec);
    memcpy(out->fingerprint, fingerprint.bytes, sizeof(out->fingerprint));
    blob_unref(bytes);
    return 0;
}

int trk_native_send(struct trk_farm *farm, const char *path, const char *symbol,
                    struct trk_native *out)
{
    struct native_spec spec = {.kind = NATIVE_SENT};
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    int rc = farm_usable(farm);

    *out = (struct trk_native){.function = NULL};
    if (rc < 0 || (rc = native_spec_name(symbol, "symbol")) < 0 ||
        (rc = native_spec_name(base, "library")) < 0 ||
        (rc = blobs_put_object(farm, path, spec.digest.bytes)) < 0) {
        return rc;
    }
    return name(&spec, base, symbol, out);
}

int trk_native_find(const char *library, const char *symbol, struct trk_native *out)
{
    struct native_spec spec = {.kind = NATIVE_FOUND};
    int rc = native_spec_name(symbol, "symbol");

    *out = (struct trk_native){.function = NULL};
    if (rc < 0 || (rc = native_spec_name(library, "library")) < 0) {
        return rc;
    }
    return name(&spec, library, symbol, out);
}

void trk_native_free(struct trk_native *native)
{
    mem_free(native->function);
    *native = (struct trk_native){.function = NULL};
}
